"""What runs in a worker process: fn is loaded and called, what it returns, raises, logs and warns of is sent.

Nothing is imported that `import file_dataset` does not import: a process is ready to load fn after about 0.1 s.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import fcntl
import io
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
import typing
import warnings
from pathlib import Path
from typing import Any

from file_dataset import _function
from file_dataset._workers.messages import STARTED, found, packed, unpacked
from file_dataset._workers.surroundings import Adopting

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from file_dataset._workers.messages import Call, Setup


class _Pickler(pickle.Pickler):
    """Names a class that this process cannot import, such as one of the caller's `__main__`: the parent may know it."""

    def reducer_override(self, value: Any) -> Any:  # noqa: ANN401  # pickle's protocol
        if isinstance(value, type):
            try:
                is_here = found(value.__module__, value.__qualname__) is value
            except LookupError:
                is_here = False
            if not is_here:
                return found, (value.__module__, value.__qualname__)
        return NotImplemented


def _dumps(value: object) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()


class _Link:
    """The parent's end of the line, from here."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(None)  # blocks, also where gevent has made it for the parent
        self._arrived = bytearray()
        self._lock = threading.Lock()

    def send(self, *message: object) -> None:
        data = packed(*message)
        with self._lock:  # threads of fn's log too
            self.sock.sendall(data)

    def receive(self) -> tuple[Any, ...] | None:
        """Return the next message, None at the end."""
        while not (messages := unpacked(self._arrived)):
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self._arrived += data
        return messages[0]  # the parent sends the next one after the answer


def main(link_fd: int, life_fd: int) -> None:
    """Load fn and call it for every row that the parent sends, until the parent says or is no more."""
    os.environ.pop(STARTED, None)
    for fd in (link_fd, life_fd):
        os.set_inheritable(fd, False)  # noqa: FBT003  # what fn starts must not hold the line open
    _end_with_parent(life_fd)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    flush = _flusher()  # before fn's modules, which may print
    link = _Link(socket.socket(fileno=link_fd))
    _forward(link, life_fd)
    link.send("hello")
    if (first := link.receive()) is None:
        return
    setup: Setup
    setup, surroundings = first
    sys.argv[:] = setup.argv
    adopt = Adopting(setup.path, adopts_filters=setup.adopts_filters)
    adopt(surroundings)
    try:
        doing = "fn could not be loaded"
        fn = pickle.loads(setup.fn)  # noqa: S301  # made by our parent
        if isinstance(fn, type):
            doing = f"the instance of {fn.__qualname__} could not be made"
            fn = fn()
    except BaseException as exc:  # noqa: BLE001  # whatever the user's module or constructor raises
        link.send("unmade", doing, f"{type(exc).__name__}: {_text_of(exc)}", _traceback_of(exc))
        return
    link.send("ready")
    while (message := link.receive()) is not None:
        call: Call = message[0]
        if call.surroundings is not None:
            adopt(call.surroundings)
        adopt.go_home()
        answer = _answer(fn, call, setup)
        flush()
        adopt.go_home()  # not to hold a directory that is to be removed
        link.send(*answer)
        del message, call, answer  # can be large


def _answer(fn: Callable[..., Any], call: Call, setup: Setup) -> tuple[object, ...]:
    pid = os.getpid()
    try:
        result = _called(fn, call, setup)
        if os.getpid() == pid:
            return "returned", _result(result)
    except BaseException as exc:  # noqa: BLE001  # the user's fn: whatever it raises costs the row
        if os.getpid() == pid:
            return _raised(exc)
        _end_fork(exc)
    return _end_fork(None)


def _end_fork(error: BaseException | None) -> typing.NoReturn:
    """End a process that fn forked and that came back from fn: there is one worker, and it has one line."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def _called(fn: Callable[..., Any], call: Call, setup: Setup) -> object:
    row = None if call.row is None else pickle.loads(call.row)  # noqa: S301  # made by our parent
    return _function.call(fn, Path(call.input_dir), Path(call.output_dir), by_keyword=setup.by_keyword, row=row)


def _result(result: object) -> bytes:
    plain = _function.plain(result)
    try:
        return _dumps(plain)
    except Exception as exc:
        raise TypeError(
            f"fn returned a {type(result).__name__} that cannot be sent from its process "
            f"({type(exc).__name__}: {exc}): return a mapping of file name to path"
        ) from exc


def _raised(error: BaseException) -> tuple[object, ...]:
    text = _traceback_of(error)
    # the frames hold what fn had in memory, which the pickle may want
    traceback.clear_frames(error.__traceback__)
    payload = None
    with contextlib.suppress(Exception):  # of the user's own __reduce__
        payload = _dumps(error)
    return "raised", payload, type(error).__module__, type(error).__qualname__, _text_of(error), text


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # the user's own __str__
        return ""


def _traceback_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame):  # the user's frames alone
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001  # memory, or the user's own exception
        return f"{type(error).__name__}\n"


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("file_dataset.")


def _end_with_parent(fd: int) -> None:
    """Have the whole process group killed when the parent's end of this pipe closes, whatever the parent died of."""
    try:
        # by the kernel: no thread of ours could while native code holds the GIL
        fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):  # not Linux
        threading.Thread(target=_kill_at_end, args=(fd,), name="file_dataset-parent", daemon=True).start()
        return
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 1)
        os.killpg(0, signal.SIGKILL)  # the parent went before we asked


def _kill_at_end(fd: int) -> None:
    os.read(fd, 1)
    os.killpg(0, signal.SIGKILL)


def _forward(link: _Link, life_fd: int) -> None:
    """Send log records and warnings to the parent; in a process that fn forks, write them to stderr."""
    handler = _Handler(link)
    root = logging.getLogger()
    root.addHandler(handler)
    show = warnings.showwarning
    warnings.showwarning = _Warning(link)

    def in_fork() -> None:
        root.removeHandler(handler)
        root.addHandler(logging.StreamHandler())
        warnings.showwarning = show
        link.sock.close()
        with contextlib.suppress(OSError):
            os.close(life_fd)

    os.register_at_fork(after_in_child=in_fork)


class _Handler(logging.Handler):
    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link
        self._text = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            plain = copy.copy(record)
            plain.msg, plain.args = record.getMessage(), None
            if record.exc_info and not record.exc_text:
                plain.exc_text = self._text.formatException(record.exc_info)
            plain.exc_info = None
            values = plain.__dict__
            try:
                payload = _dumps(values)
            except Exception:  # noqa: BLE001  # what the user gave as `extra`
                kinds = (str, int, float, type(None))
                payload = _dumps({name: at if isinstance(at, kinds) else repr(at) for name, at in values.items()})
            self._link.send("log", payload)
        except Exception:  # noqa: BLE001  # logging's own way
            self.handleError(record)


class _Warning:
    def __init__(self, link: _Link) -> None:
        self._link = link

    def __call__(  # noqa: PLR0913, PLR0917  # the signature of warnings.showwarning
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,
        line: str | None = None,
    ) -> None:
        del file, line
        kinds = [(kind.__module__, kind.__qualname__) for kind in category.__mro__ if issubclass(kind, Warning)]
        with contextlib.suppress(OSError):
            self._link.send("warning", str(message), kinds, filename, lineno, _module_at(filename, lineno))


def _module_at(filename: str, line: int) -> str | None:
    """Return the name of the module that warns, which filters can ask for."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # the documented way to the caller
    while frame is not None and (frame.f_code.co_filename, frame.f_lineno) != (filename, line):
        frame = frame.f_back
    name = None if frame is None else frame.f_globals.get("__name__")
    return name if isinstance(name, str) else None


def _flusher() -> Callable[[], None]:
    """Return what writes out what Python and C have buffered for stdout and stderr; C's lines go out as they end."""
    try:
        import ctypes

        c_library = ctypes.CDLL(None)
        name = "__stdoutp" if sys.platform == "darwin" else "stdout"
        c_stdout = ctypes.c_void_p.in_dll(c_library, name)
        c_library.setvbuf(c_stdout, None, 1, 0)  # _IOLBF is 1 in glibc, musl and on macOS
    except (ImportError, OSError, ValueError, AttributeError):
        c_library = None

    def flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # fn closed it, or put something else there
                stream.flush()
        if c_library is not None:
            c_library.fflush(c_stdout)  # not all files: one that another thread reads would hold us

    return flush
