"""The library's log lines in Dagster's log of the run that they belong to, or kept out of it: `show_ids=False`.

The loggers `file_dataset.*` are the process's: other runs, and programs that use the library beside Dagster, log
through them too. So no level is changed and nothing is silenced for all: a filter on each of them looks which run a
line is of, by the thread that writes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pkgutil
import queue
import threading
import traceback
from contextvars import ContextVar
from typing import TYPE_CHECKING

import file_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROOT = file_dataset.__name__
_TRACEBACK_CHARS = 4000  # Dagster stores each line with the run; a guess
# threads of the library's own (transfers, a run's pool) serve every run of the process
_THREADS = _ROOT


class _RunLog:
    """Where the lines of one run go. `hides_ids`: their text stays out of Dagster, since it can name ids."""

    def __init__(self, log: logging.Logger, *, hides_ids: bool) -> None:
        self.log, self.hides_ids = log, hides_ids
        self.lines: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self.writer: threading.Thread | None = None
        self.lock = threading.Lock()

    def take(self, record: logging.LogRecord) -> None:
        """Write a line of the thread that runs the asset."""
        if not self.hides_ids and not self._has(record):
            self.log.log(record.levelno, "%s", _text(record))

    def take_from_afar(self, record: logging.LogRecord) -> None:
        """Write a line of a thread that serves transfers: it must not wait for Dagster's database."""
        if self._has(record):
            return
        text = _text(record)
        if self.hides_ids:
            text = f"{record.name} logged a {record.levelname}, which can name ids: show_ids=False"
        with self.lock:
            if self.writer is None:
                self.writer = threading.Thread(target=self._write, name="dagster-log-of-file-dataset", daemon=True)
                self.writer.start()
            self.lines.put((record.levelno, text))

    def end(self) -> None:
        """Return when every line is written."""
        with self.lock:
            writer, self.writer = self.writer, None
        if writer is not None:
            self.lines.put(None)
            writer.join()

    def _write(self) -> None:
        while (line := self.lines.get()) is not None:
            level, text = line
            with contextlib.suppress(Exception):  # a line that cannot be stored is not worth the run
                self.log.log(level, "%s", text)

    def _has(self, record: logging.LogRecord) -> bool:
        """Whether Dagster captures this logger itself (`managed_python_loggers` in dagster.yaml)."""
        kinds = tuple(type(handler) for handler in self.log.handlers)
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and kinds:
            if any(isinstance(handler, kinds) for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


_CURRENT: ContextVar[_RunLog | None] = ContextVar("file_dataset_dagster_run_log", default=None)
_ACTIVE: list[_RunLog] = []
_ACTIVE_LOCK = threading.Lock()


class _Router(logging.Filter):
    """Hands lines to the runs that they are of; decides whether the process's own handlers may see them."""

    def filter(self, record: logging.LogRecord) -> bool:
        run = _CURRENT.get()
        if run is not None:
            if record.levelno >= logging.WARNING:
                run.take(record)
            return not run.hides_ids and _has_handler(record)
        if not _ACTIVE or not threading.current_thread().name.startswith(_THREADS):
            return True
        with _ACTIVE_LOCK:
            runs = list(_ACTIVE)
        if record.levelno >= logging.WARNING:
            for one in runs:
                one.take_from_afar(record)
        return not any(one.hides_ids for one in runs) and _has_handler(record)


def _has_handler(record: logging.LogRecord) -> bool:
    """Whether a handler is to see a line that Dagster has; without any, Python would print it once more to stderr."""
    return logging.getLogger(record.name).hasHandlers()


_ROUTER = _Router()


@contextlib.contextmanager
def lines_in(log: logging.Logger, *, hides_ids: bool) -> Iterator[None]:
    """Have what the library logs in this thread, and for its transfers, in `log` too: warnings and errors.

    Args:
        log: `context.log` of the run.
        hides_ids: nothing of this thread is logged anywhere meanwhile, and of transfers only that there was something:
            Dagster also stores what a step prints.
    """
    _watch()
    run = _RunLog(log, hides_ids=hides_ids)
    with _ACTIVE_LOCK:
        _ACTIVE.append(run)
    token = _CURRENT.set(run)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        with _ACTIVE_LOCK:
            _ACTIVE.remove(run)
        run.end()


def _watch() -> None:
    """Put the filter on every logger of the library: a logger's filter does not see what its children log."""
    modules = _modules_in(file_dataset.__path__, f"{_ROOT}.")
    known = {name for name in list(logging.root.manager.loggerDict) if name.startswith(f"{_ROOT}.")}
    for name in {_ROOT, *modules, *known}:
        logging.getLogger(name).addFilter(_ROUTER)  # once, however often it is added


def _modules_in(folders: Iterable[str], prefix: str) -> Iterator[str]:
    """Names of all modules in these folders and below, without loading one: those of Ray would load Ray."""
    for folder in folders:
        for module in pkgutil.iter_modules([folder]):
            yield f"{prefix}{module.name}"
            if module.ispkg:
                yield from _modules_in([os.path.join(folder, module.name)], f"{prefix}{module.name}.")  # noqa: PTH118


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        shown = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        text = f"{text}\n{shown[-_TRACEBACK_CHARS:]}"
    return text
