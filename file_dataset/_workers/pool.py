"""fn in worker processes that may crash, hang or run out of memory: each costs the row that it was working on.

    Exception
    +-- WorkerDiedError       the process ended while fn ran: a segfault, `os._exit`, the kernel's out-of-memory killer
    +-- WorkerStartError      no process could be started, or it could not load fn or make its instance
    +-- TimeoutError
        +-- FnTimeoutError    one call of fn took longer than it may

Why not `concurrent.futures`, whose pool is lost when one process dies, nor pebble: both start processes by
`multiprocessing`, which forks (a child with its parent's locks and sockets, without its threads) or runs the caller's
`__main__` again (a script without a main guard then starts its run within its run); and pebble, after a timeout, leaves
the processes running that fn has started. Here a worker is a fresh interpreter that leads a process group of its own
and knows nothing of `__main__`: fn travels by value. It is killed with its whole group, by us or, when this process
dies in whatever way, by the end of a pipe that it holds. A process that leaves the group (`setsid`)
is its own master.

One daemon thread per worker owns the process, hands it rows, and passes on what it prints, logs and warns of. A process
and its thread are made when there is work for them.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import logging
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from concurrent.futures import Future
from typing import IO, TYPE_CHECKING, Any, Self, cast

from file_dataset import _pickling
from file_dataset._errors import InvalidDatasetError
from file_dataset._pool import start_thread
from file_dataset._workers import child
from file_dataset._workers.child import Call, Setup, Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

logger = logging.getLogger(__name__)

# sys.path comes first: with `-m`, a file of the working directory could stand in for the standard library's
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from file_dataset._workers import child; child.main(int(sys.argv[1]), int(sys.argv[2]))"
)
_STARTED = child.STARTED
_HELLO_S = 120  # a guess: the interpreter and our package from a cold network disk
_LOOK_S = 1.0  # how often to look for a death that no closed socket shows: a process forked by native code holds it
_END_S = 1.0  # a guess: what an idle process may take for its `atexit`, a dying one for its death
_IDLE_S = 60.0  # a guess: how long processes that no run has stay for the next one
_JOIN_S = 5.0  # a guess: a killed process that waits for a disk is not waited for any longer
_GROUP_S = 0.2  # a guess: the dead wait for their parent, and init can take longer
_STEP_S = 0.005
_TAIL_CHARS = 1500  # a guess: the last lines
_PIPE_BYTES = 1 << 16  # what a pipe holds on Linux (pipe(7)): one read empties it


class WorkerDiedError(Exception):
    """The worker process ended while fn ran; says by what signal or exit code, and what often causes that."""


class FnTimeoutError(TimeoutError):
    """One call of fn took longer than it may; its process, and what it had started, were killed."""


class WorkerStartError(Exception):
    """No worker process can start, load fn or make its instance; says why. No row was lost by it."""


class RemoteTraceback(Exception):  # noqa: N818  # shown as the cause of what fn raised, never raised
    """The traceback of the worker process, as text."""

    def __str__(self) -> str:
        """Return it so that it stands out below the name of this class."""
        return f'\n"""\n{self.args[0]}"""'


class _StandInError(RuntimeError):
    """What fn raised, by name and message, where the exception itself cannot travel or must not stop the caller."""

    def __reduce__(self) -> tuple[object, ...]:
        kind = type(self)
        return _stand_in, (kind.__module__, kind.__qualname__, *self.args)


def _stand_in(module: str, name: str, message: str) -> _StandInError:
    kind = type(name.rpartition(".")[2], (_StandInError,), {"__module__": module, "__qualname__": name})
    return cast("_StandInError", kind(message))


def check_interpreter() -> None:
    """Refuse worker processes where `sys.executable` would run this program again and again, or a wait would hang.

    Raises:
        InvalidDatasetError: this program is frozen, or runs in place of a worker, or eventlet has patched `os`.
    """
    if getattr(sys, "frozen", False):
        raise InvalidDatasetError(
            "workers and fn_timeout_s need a Python interpreter, and this program is frozen (sys.frozen: PyInstaller, "
            "cx_Freeze, ...): use workers=0 and no fn_timeout_s, which run fn in this process"
        )
    if _STARTED in os.environ:
        raise InvalidDatasetError(
            f"a worker process ran this program instead of fn: {sys.executable} (sys.executable) is no plain Python "
            "interpreter: use workers=0 and no fn_timeout_s, which run fn in the process itself"
        )
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("os"):  # its `os.read` waits where ours must not
        raise InvalidDatasetError(
            "workers and fn_timeout_s do not work under eventlet.monkey_patch(): use workers=0 and no fn_timeout_s, or "
            "run the Pipeline in a process without it (gevent works)"
        )


class Workers:
    """Calls fn in up to `count` processes, first come, first served.

    A process works on one row at a time, and stays for the next. Close it, or use it in `with`: a process that has fn
    loaded holds its memory.
    """

    def __init__(  # noqa: PLR0913  # what fn is and how it is called
        self,
        fn: Callable[..., Any],
        *,
        count: int,
        by_keyword: bool,
        takes_row: bool,
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Pickle fn; start nothing yet.

        Args:
            fn: what to call; a class is constructed once per process, its instance called.
            count: the most processes at a time, at least 1.
            by_keyword: whether fn takes `input_dir` and `output_dir` by name.
            takes_row: whether fn also takes `row`.
            timeout_s: the most seconds of one call of fn; starting a process and making fn's instance do not count.
            env: variables to set before the interpreter starts, over those of this process. Directories of
                `PYTHONPATH` come before those of this process's `sys.path`; `PYTHONWARNINGS` replaces its filters.
        """
        env = dict(env or {})
        path = [os.path.abspath(part) for part in env.get("PYTHONPATH", "").split(os.pathsep) if part]  # noqa: PTH100  # text
        setup = Setup(_pickling.dumps_with_files(fn), by_keyword, list(sys.argv), path, "PYTHONWARNINGS" not in env)
        self._takes_row = takes_row
        self._pool = _Pool(setup, count, timeout_s, env)
        # at the end of the interpreter, `_end_all` does it in time
        weakref.finalize(self, self._pool.close).atexit = False

    def submit(self, input_dir: Path, output_dir: Path, row: Mapping[str, Any] | None) -> Future[object]:
        """Return the Future of fn's result; the caller does not wait.

        A mapping comes back as a dict, its paths as text; anything else as it is. What fn raises comes with the
        worker's traceback as its `__cause__`: the exception itself where it can be pickled, else, as for what is no
        `Exception` (`SystemExit`, `KeyboardInterrupt`), a `RuntimeError` with its type's name and message.

        The Future raises, besides: `WorkerDiedError`, `FnTimeoutError`, `WorkerStartError`; `InterruptedError` when
        the workers were closed while fn ran; `TypeError` for a row or a result that cannot be pickled.

        Raises:
            RuntimeError: the workers are closed.
        """
        future: Future[object] = Future()
        payload = None
        if row is not None and self._takes_row:
            try:
                payload = _pickling.dumps(dict(row))
            except Exception as exc:  # noqa: BLE001  # whatever a carried value's own pickling raises
                future.set_exception(TypeError(f"the row cannot be sent to fn: {type(exc).__name__}: {exc}"))
                return future
        self._pool.put(_Job(future, Call(str(input_dir), str(output_dir), payload, Surroundings.here())))
        return future

    def rest(self) -> None:
        """Keep idle processes for `_IDLE_S` only, until more is submitted: fn holds memory in them."""
        self._pool.rest()

    def close(self) -> None:
        """Kill what runs, with all it has started, and cancel what waits; an idle process may end by itself first."""
        self._pool.close()
        self._pool.join()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class _Job:
    __slots__ = ("call", "future")

    def __init__(self, future: Future[object], call: Call) -> None:
        self.future, self.call = future, call


class _Pool:
    """What the threads share. They hold no `Workers`, so that one without references is closed."""

    def __init__(self, setup: Setup, count: int, timeout_s: float | None, env: dict[str, str]) -> None:
        self.setup, self.count, self.timeout_s, self.env = setup, count, timeout_s, env
        self.is_closed = False
        self.idle_s: float | None = None
        self._clear()
        _pools.add(self)

    def _clear(self) -> None:
        # reentrant: the garbage collector closes a pool from wherever it happens to run
        self.lock = threading.RLock()
        self.jobs: deque[_Job] = deque()
        self.idle: list[_Worker] = []
        self.workers: set[_Worker] = set()

    def put(self, job: _Job) -> None:
        with self.lock:
            if self.is_closed:
                raise RuntimeError("these workers are closed")
            self.idle_s = None
            if not self.idle and len(self.workers) < self.count:
                try:
                    _Worker(self).start()
                except OSError as exc:  # no more descriptors, or threads
                    if not self.workers:
                        job.future.set_exception(WorkerStartError(f"no worker can start: {exc}"))
                        return
            self.jobs.append(job)
            if self.idle:
                self.idle.pop().wake()

    def next_job(self, worker: _Worker) -> _Job | None:
        """Return a job, or None after putting the worker among the idle."""
        with self.lock:
            if self.jobs:
                return self.jobs.popleft()
            if not self.is_closed:
                self.idle.append(worker)
            return None

    def rest(self) -> None:
        with self.lock:
            self.idle_s = _IDLE_S
            idle, self.idle = self.idle, []
            for worker in idle:
                worker.wake()

    def close(self) -> None:
        with self.lock:
            self.is_closed = True
            waiting, idle, workers = list(self.jobs), list(self.idle), set(self.workers)
            self.jobs.clear()
            self.idle.clear()
            for worker in idle:
                worker.wake()
        for worker in workers.difference(idle):
            worker.kill()
        for job in waiting:
            if job.future.cancel():
                job.future.set_running_or_notify_cancel()

    def join(self) -> None:
        end = time.monotonic() + _JOIN_S
        for worker in list(self.workers):
            if worker.thread is not threading.current_thread():
                worker.thread.join(max(0.0, end - time.monotonic()))

    def forget(self) -> None:
        """Let go of everything in a forked child: the processes are its parent's."""
        for worker in self.workers:
            worker.forget()
        self._clear()


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _end_all() -> None:
    pools = list(_pools)
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.join()  # a thread that prints while the interpreter ends would abort it


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)


def _selector() -> selectors.BaseSelector:
    """Return one that has no descriptor of its own, which a fork would share; eventlet takes `poll` away."""
    kind: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
    return kind()


class _Worker:
    """A thread, and the process it has at the moment, if any."""

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.thread: threading.Thread
        self.process: _Process | None = None
        self._woken, self._waker = os.pipe()

    def start(self) -> None:
        try:
            self.thread = start_thread("file_dataset-worker", self._run)
        except OSError:
            self._close_pipe()
            raise
        self.pool.workers.add(self)

    def wake(self) -> None:
        os.write(self._waker, b"!")

    def kill(self) -> None:
        if (process := self.process) is not None:
            process.kill()

    def forget(self) -> None:
        self._close_pipe()
        if self.process is not None:
            self.process.forget()

    def _close_pipe(self) -> None:
        for fd in (self._woken, self._waker):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _run(self) -> None:
        try:
            while not self.pool.is_closed:
                job = self.pool.next_job(self)
                if job is not None:
                    self._do(job)
                    del job  # its row can be large
                elif not self.pool.is_closed:
                    self._rest()
        finally:
            try:
                if self.process is not None:
                    self.process.end(grace_s=_END_S)
            finally:
                self._leave()

    def _leave(self) -> None:
        pool = self.pool
        with pool.lock:
            pool.workers.discard(self)
            if self in pool.idle:
                pool.idle.remove(self)
            self._close_pipe()
            # only after a fault of ours: else a worker ends when no row waits
            left = [] if pool.workers else list(pool.jobs)
            if left:
                pool.jobs.clear()
            elif pool.jobs and pool.idle:
                pool.idle.pop().wake()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(WorkerStartError("the thread of the last worker ended"))

    def _rest(self) -> None:
        """Wait to be woken; pass on what the process prints meanwhile, and see it go."""
        while self.process is not None:
            idle_s = self.pool.idle_s
            try:
                ready = self.process.pump(idle_s)
                if self._woken in ready:
                    break
                is_over = not ready and idle_s is not None and self.pool.idle_s is not None
            except EOFError:
                is_over = True
            if is_over:
                logger.debug("an idle worker process ended: %s", self.process.end(grace_s=_END_S))
                self.process = None
        with _selector() as selector:  # under gevent a read would hold all greenlets
            selector.register(self._woken, selectors.EVENT_READ)
            selector.select()
        os.read(self._woken, 1)

    def _do(self, job: _Job) -> None:
        future = job.future
        answer: tuple[object] | BaseException
        try:
            if future.cancelled():
                future.set_running_or_notify_cancel()
                return
            process = self._ready_process(job.call.surroundings)
            if not future.set_running_or_notify_cancel():
                return
            answer = self._answer(process, job.call)
        except BaseException as exc:  # noqa: BLE001  # a fault of ours too must reach the caller who waits for the Future
            answer = exc.with_traceback(None) if isinstance(exc, _OURS) else exc  # it would hold the row
            if self.pool.is_closed and not future.running():
                future.cancel()
            if not future.running() and not future.set_running_or_notify_cancel():
                return
            if self.pool.is_closed:
                answer = InterruptedError("the workers were closed while fn ran")
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer[0])

    def _ready_process(self, surroundings: Surroundings | None) -> _Process:
        """Return the process, or a new one where there is none.

        Raises:
            WorkerStartError: there can be none.
        """
        if self.process is not None:
            try:
                self.process.look()
            except EOFError:  # between two rows: costs none
                process, self.process = self.process, None
                logger.debug("an idle worker process ended: %s", process.end(grace_s=_END_S))
        if self.process is None:
            self.process = process = _Process(self.pool.env, self.pool.setup.path, self._woken)
            if self.pool.is_closed:  # meanwhile, when there was nothing to kill
                process.kill()
            try:
                process.begin(self.pool.setup, surroundings)
            except BaseException:
                self.process = None
                process.end(grace_s=0)
                raise
        return self.process

    def _answer(self, process: _Process, call: Call) -> tuple[object] | BaseException:
        limit_s = self.pool.timeout_s
        try:
            kind, *answer = process.call(call, limit_s)
        except TimeoutError:
            self.process = None
            process.end(grace_s=0)
            raise FnTimeoutError(
                f"fn took longer than {limit_s:g} s (fn_timeout_s): its process and what it had started were killed"
            ) from None
        except EOFError:
            self.process = None
            how = process.end(grace_s=_END_S)
            raise WorkerDiedError(f"the worker process {how} while fn ran{process.last_words()}") from None
        if kind == "returned":
            try:
                return (pickle.loads(answer[0]),)  # noqa: S301  # made by our child
            except Exception as exc:  # noqa: BLE001  # the user's own __reduce__
                return TypeError(f"what fn returned cannot be read here: {type(exc).__name__}: {exc}")
        return _raised(*answer)


def _raised(payload: bytes | None, module: str, name: str, text: str, trace: str) -> BaseException:
    error: object = None
    if payload is not None:
        with contextlib.suppress(Exception):  # the user's own __reduce__ or __init__
            error = pickle.loads(payload)  # noqa: S301  # made by our child
    if not isinstance(error, Exception):  # a KeyboardInterrupt would stop the caller, not cost the row
        error = _stand_in(module, name, text)
    object.__setattr__(error, "__cause__", RemoteTraceback(trace))  # also where the user's class is frozen
    return error


_OURS = (WorkerDiedError, FnTimeoutError, WorkerStartError)


class _Process:
    """One process: what it is sent, says and prints, and its end. For one thread, but `kill` is for any."""

    def __init__(self, env: Mapping[str, str], path: list[str], woken: int) -> None:
        """Start it.

        Raises:
            WorkerStartError: the system does not.
        """
        self._lock = threading.RLock()  # reentrant for the same reason as the pool's
        self._is_ended = False
        self._how = ""
        self._arrived = bytearray()
        self._answers: deque[tuple[Any, ...]] = deque()
        self._told: Surroundings | None = None
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
                env=os.environ | env | {_STARTED: str(os.getpid())},
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
        self._stdout, self._stderr = _Output(self._popen.stdout, "stdout"), _Output(self._popen.stderr, "stderr")
        self._selector = _selector()
        self._selector.register(self._link, selectors.EVENT_READ, self._read)
        self._selector.register(woken, selectors.EVENT_READ, None)
        for output in (self._stdout, self._stderr):
            self._selector.register(output.fd, selectors.EVENT_READ, output.read)
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
            kind, *answer = self._ask(child.packed(setup, surroundings), None)
        except TimeoutError:
            raise WorkerStartError(f"no worker process can start: {sys.executable} did not in {_HELLO_S} s") from None
        except EOFError:
            how = self.end(grace_s=_END_S)
            raise WorkerStartError(f"no worker can start: its process {how}{self.last_words()}") from None
        self._told = surroundings
        if kind == "unmade":
            what, why, trace = answer
            raise WorkerStartError(f"{what} in a worker process: {why}") from RemoteTraceback(trace)

    def call(self, call: Call, limit_s: float | None) -> tuple[Any, ...]:
        """Have it call fn for a row, and return what it says.

        Raises:
            TimeoutError: fn takes longer.
            EOFError: it is no more.
        """
        if call.surroundings == self._told:
            call = call._replace(surroundings=None)
        else:
            self._told = call.surroundings
        self._stderr.tail = ""
        return self._ask(child.packed(call), limit_s)

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
            messages = child.unpacked(self._arrived)
        except Exception as exc:  # reset, or fn has written into a descriptor that is not its own
            raise EOFError from exc
        if not data:
            raise EOFError
        for kind, *what in messages:
            if kind in ("log", "warning"):
                # the user's own handlers and filters; a warning that is an error by now has no one to raise it to
                with contextlib.suppress(Exception):
                    _log(*what) if kind == "log" else _warn(*what)
            else:
                for output in (self._stdout, self._stderr):  # what fn printed comes before what it returned
                    output.read()
                    output.flush()
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
            code = self._popen.wait(_JOIN_S)
        except subprocess.TimeoutExpired:  # in the kernel, on a disk that does not answer
            is_gone, code = False, 0
        self._wait_for_group()
        for output in (self._stdout, self._stderr):
            output.read()
            output.flush()
        self._close()
        self._how = _how(code) if is_gone else "closed its connection"
        return self._how

    def last_words(self) -> str:
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
        for output in (self._stdout, self._stderr):
            output.file.close()


_HINTS: dict[int, str] = {
    signal.SIGKILL: "as the kernel does when memory runs out",
    signal.SIGXCPU: "it reached its limit of CPU time",
    **dict.fromkeys(
        (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT), "native code crashed"
    ),
}


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} (os._exit, or native code that exits)"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = _HINTS.get(-code)
    return f"was killed by {name} ({hint})" if hint else f"was killed by {name}"


class _Output:
    """What a process, and what it has started, writes to stdout or stderr, passed on to this process's line by line."""

    def __init__(self, file: IO[bytes] | None, name: str) -> None:
        self.file = cast("IO[bytes]", file)
        self.fd = self.file.fileno()
        self.is_held = False
        self.tail = ""
        self._name = name
        self._pending = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        os.set_blocking(self.fd, False)

    def read(self) -> bool:
        """Pass on what is there; return whether more can come."""
        try:
            data = os.read(self.fd, _PIPE_BYTES)
        except BlockingIOError:
            return True
        text = self._decoder.decode(data)
        self.tail = (self.tail + text)[-_TAIL_CHARS:]
        self._pending += text
        if not self.is_held:
            end = max(self._pending.rfind("\n"), self._pending.rfind("\r")) + 1
            self._print(len(self._pending) if len(self._pending) > _PIPE_BYTES else end)
        return bool(data)

    def flush(self) -> None:
        if not self.is_held:
            self._print(len(self._pending))

    def _print(self, end: int) -> None:
        text, self._pending = self._pending[:end], self._pending[end:]
        stream = getattr(sys, self._name)
        if not text or stream is None:
            return
        with contextlib.suppress(Exception):  # closed, or what the user has put there: no row is lost for what it says
            try:
                stream.write(text)
            except UnicodeEncodeError:
                stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
            stream.flush()


def _log(payload: bytes) -> None:
    record = logging.makeLogRecord(pickle.loads(payload))  # noqa: S301  # made by our child
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)


_registries: dict[str, dict[str | tuple[str, type[Warning], int], int]] = {}  # what "once" and "default" have shown


def _warn(text: str, kinds: list[tuple[str, str]], filename: str, line: int, module: str | None) -> None:
    category: type[Warning] = UserWarning
    for names in kinds:
        with contextlib.suppress(LookupError):  # not loaded here: then what it derives from
            category = child.found(*names)
            break
    registry = _registries.setdefault(filename, {})
    warnings.warn_explicit(text, category, filename, line, module, registry)
