"""One worker process as its parent sees it: its start, its death, and the end of a worker past its timeout.

    Exception
    +-- WorkerDiedError       the process ended while fn ran: a segfault, `os._exit`, the kernel's out-of-memory killer
    +-- WorkerStartError      no process could be started, or it could not load fn or make its instance
    +-- TimeoutError
        +-- FnTimeoutError    one call of fn took longer than it may

It is a fresh interpreter that leads a process group of its own and knows nothing of `__main__`: fn travels by value. It
is killed with its whole group, by us or, when this process dies in whatever way, by the end of a pipe that it holds. A
process that leaves the group (`setsid`) is its own master.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from file_dataset._workers import output
from file_dataset._workers.fn_errors import RemoteTraceback
from file_dataset._workers.messages import STARTED, packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._workers.messages import Call, Setup
    from file_dataset._workers.surroundings import Surroundings

# sys.path comes first: with `-m`, a file of the working directory could stand in for the standard library's
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from file_dataset._workers import child; child.main(int(sys.argv[1]), int(sys.argv[2]))"
)
_HELLO_S = 120  # a guess: the interpreter and our package from a cold network disk
_LOOK_S = 1.0  # how often to look for a death that no closed socket shows: a process forked by native code holds it
END_S = 1.0  # a guess: what an idle process may take for its `atexit`, a dying one for its death
JOIN_S = 5.0  # a guess: a killed process that waits for a disk is not waited for any longer
_GROUP_S = 0.2  # a guess: the dead wait for their parent, and init can take longer
_STEP_S = 0.005


class WorkerDiedError(Exception):
    """The worker process ended while fn ran; says by what signal or exit code, and what often causes that."""


class FnTimeoutError(TimeoutError):
    """One call of fn took longer than it may; its process, and what it had started, were killed."""


class WorkerStartError(Exception):
    """No worker process can start, load fn or make its instance; says why. No row was lost by it."""


def poll_selector() -> selectors.BaseSelector:
    """Return one that has no descriptor of its own, which a fork would share; eventlet takes `poll` away."""
    kind: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
    return kind()


class WorkerProcess:
    """One worker process: started, asked, looked at, killed, ended. For one thread, but `kill` is for any."""

    def __init__(self, env: Mapping[str, str], path: list[str], woken: int) -> None:
        """Start it.

        Raises:
            WorkerStartError: the system does not.
        """
        self._lock = threading.RLock()  # reentrant for the same reason as the pool's
        self.is_ending = False  # from then on it is of no use for another row
        self._is_ended = False
        self._how = ""
        self._arrived = bytearray()
        self._answers: deque[tuple[Any, ...]] = deque()
        self._surroundings: Surroundings | None = None
        if not sys.executable:
            raise WorkerStartError("no worker process can start: this interpreter does not know its sys.executable")
        try:
            self._link, theirs = socket.socketpair()
            try:
                ends, self._life = os.pipe()
            except OSError:
                self._link.close()
                theirs.close()
                raise
        except OSError as exc:
            raise WorkerStartError(f"no worker can start: {exc}") from None
        path = [*path, *(part for part in sys.path if isinstance(part, str))]
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001  # as multiprocessing does
        try:
            # not `with`: it outlives this call by far
            self._popen = subprocess.Popen(  # noqa: S603  # our own interpreter
                [sys.executable, *flags, "-c", _COMMAND, str(theirs.fileno()), str(ends), *path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=os.environ | env | {STARTED: str(os.getpid())},
                pass_fds=(theirs.fileno(), ends),
                start_new_session=True,
            )
        except (OSError, ValueError, TypeError) as exc:  # the latter two: of `env`
            self._link.close()
            os.close(self._life)
            raise WorkerStartError(
                f"no worker process can start: {sys.executable}: {type(exc).__name__}: {exc}"
            ) from None
        finally:
            theirs.close()
            os.close(ends)
        self._stdout = output.Output(self._popen.stdout, "stdout")
        self._stderr = output.Output(self._popen.stderr, "stderr")
        self._selector = poll_selector()
        self._selector.register(self._link, selectors.EVENT_READ, self._read)
        self._selector.register(woken, selectors.EVENT_READ, None)
        for stream in (self._stdout, self._stderr):
            self._selector.register(stream.fd, selectors.EVENT_READ, stream.read)
        self._woken = woken

    def begin(self, setup: Setup, surroundings: Surroundings | None) -> None:
        """Have it load fn, and make its instance if it is a class.

        Raises:
            WorkerStartError: it cannot.
        """
        self._stderr.is_held = True  # until it has started: else this says why it has not
        try:
            self._answer(_HELLO_S)
            self._stderr.is_held = False
            kind, *answer = self._ask(packed(setup, surroundings), None)
        except TimeoutError:
            raise WorkerStartError(f"no worker process can start: {sys.executable} did not in {_HELLO_S} s") from None
        except EOFError:
            how = self.end(grace_s=END_S)
            raise WorkerStartError(f"no worker can start: its process {how}{self._last_words()}") from None
        self._surroundings = surroundings
        if kind == "unmade":
            what, why, trace = answer
            raise WorkerStartError(f"{what} in a worker process: {why}") from RemoteTraceback(trace)

    def call(self, call: Call, limit_s: float | None) -> tuple[Any, ...]:
        """Have it call fn for a row, and return its answer.

        Raises:
            FnTimeoutError: fn took longer; the process was ended.
            WorkerDiedError: it ended while fn ran.
        """
        if call.surroundings == self._surroundings:
            call = call._replace(surroundings=None)
        else:
            self._surroundings = call.surroundings
        self._stderr.tail = ""
        try:
            return self._ask(packed(call), limit_s)
        except TimeoutError:
            self.end(grace_s=0)
            raise FnTimeoutError(
                f"fn took longer than {limit_s:g} s (fn_timeout_s): its process and what it had started were killed"
            ) from None
        except EOFError:
            how = self.end(grace_s=END_S)
            raise WorkerDiedError(f"the worker process {how} while fn ran{self._last_words()}") from None

    def look(self) -> None:
        """Pass on what has come since.

        Raises:
            EOFError: it is no more.
        """
        self.pump(0)
        if self._has_ended():
            raise EOFError

    def pump(self, timeout_s: float | None) -> list[int]:
        """Wait for something to come, pass on what it prints, logs and warns of, and return what has had something.

        Raises:
            EOFError: it is no more.
        """
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            if key.data is not None and not key.data():
                self._selector.unregister(key.fileobj)
        return [key.fd for key, _ in ready]

    def _ask(self, data: bytes, limit_s: float | None) -> tuple[Any, ...]:
        self._answers.clear()
        end = None if limit_s is None else time.monotonic() + limit_s
        try:
            self._link.sendall(data)
        except OSError:
            raise EOFError from None
        return self._answer(None if end is None else end - time.monotonic())

    def _answer(self, limit_s: float | None) -> tuple[Any, ...]:
        end = float("inf") if limit_s is None else time.monotonic() + limit_s
        while not self._answers:
            ready = self.pump(max(0.0, min(_LOOK_S, end - time.monotonic())))
            if self._answers:
                break
            if time.monotonic() >= end:
                raise TimeoutError
            if not ready and self._has_ended():
                raise EOFError
        return self._answers.popleft()

    def _read(self) -> bool:
        try:
            data = self._link.recv(1 << 16)
            self._arrived += data
            messages = unpacked(self._arrived)
        except Exception as exc:  # reset, or fn has written into a descriptor that is not its own
            raise EOFError from exc
        if not data:
            raise EOFError
        for kind, *what in messages:
            if kind in ("log", "warning"):
                # the user's own handlers and filters; a warning that is an error by now has no one to raise it to
                with contextlib.suppress(Exception):
                    output.log(*what) if kind == "log" else output.warn(*what)
            else:
                for stream in (self._stdout, self._stderr):  # what fn printed comes before what it returned
                    stream.read()
                    stream.flush()
                self._answers.append((kind, *what))
        return True

    def _has_ended(self) -> bool:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._popen.poll() is not None
        try:
            # not reaped: its number stays its own, and its group's
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._popen.pid, flags) is not None
        except ChildProcessError:  # other code has waited for it
            return True

    def kill(self) -> None:
        """Kill its group; after the end, whose number may be another's by then, do nothing."""
        with self._lock:
            if not self._is_ended:
                with contextlib.suppress(OSError):
                    os.killpg(self._popen.pid, signal.SIGKILL)

    def end(self, grace_s: float) -> str:
        """Let it end by itself for so long, kill its group, and return how it ended, as in "the process ...".

        An idle process takes the end of its line for the end of its work. Nothing happens the second time.
        """
        if self._how:
            return self._how
        self.is_ending = True
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
        self._selector.unregister(self._link)
        self._selector.unregister(self._woken)
        limit = time.monotonic() + grace_s
        while not (is_gone := self._has_ended()) and time.monotonic() < limit:
            self.pump(_STEP_S)
        with self._lock:
            self.kill()
            self._is_ended = True
        try:
            code = self._popen.wait(JOIN_S)
        except subprocess.TimeoutExpired:  # in the kernel, on a disk that does not answer
            is_gone, code = False, 0
        self._wait_for_group()
        for stream in (self._stdout, self._stderr):
            stream.read()
            stream.flush()
        self._close()
        self._how = _ending(code) if is_gone else "closed its connection"
        return self._how

    def _last_words(self) -> str:
        """Return the end of what it wrote to stderr during the last call, to append to a message."""
        tail = self._stderr.tail.strip()
        return f"; its stderr ended with: {tail}" if tail else ""

    def _wait_for_group(self) -> None:
        """Wait until what fn had started has died too: the caller, who waits for the row, removes its directory."""
        limit = time.monotonic() + _GROUP_S
        with contextlib.suppress(OSError):  # there is no such group, any more
            while time.monotonic() < limit:
                os.killpg(self._popen.pid, 0)
                time.sleep(_STEP_S)

    def forget(self) -> None:
        """Close what a forked child has of it: else it would not learn of its own parent's death."""
        self._popen.returncode = 0  # not this process's to wait for
        self._close()

    def _close(self) -> None:
        self._selector.close()
        self._link.close()
        life, self._life = self._life, -1  # first: a fork at this moment must not close another's descriptor
        if life >= 0:
            os.close(life)
        for stream in (self._stdout, self._stderr):
            stream.file.close()


_HINTS: dict[int, str] = {
    signal.SIGKILL: "as the kernel does when memory runs out",
    signal.SIGXCPU: "it reached its limit of CPU time",
    **dict.fromkeys(
        (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT), "native code crashed"
    ),
}


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} (os._exit, or native code that exits)"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = _HINTS.get(-code)
    return f"was killed by {name} ({hint})" if hint else f"was killed by {name}"
