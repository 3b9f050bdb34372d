"""fn where it runs: called in the run's own thread, or handed to worker processes."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from file_dataset import _frame, _function
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._result import RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from file_dataset._flight import Flight
    from file_dataset._plan import FileRow
    from file_dataset._prepared import Prepared
    from file_dataset._workers.pool import Workers


class Calls:
    """The calls of fn in one run.

    Attributes:
        uses_workers: whether fn runs in worker processes; known once it is ready.
    """

    def __init__(self, prepared: Prepared, idle_workers: list[Workers] | None) -> None:
        self._prepared, self._settings = prepared, prepared.settings
        self._idle_workers = idle_workers
        self._workers: Workers | None = None
        self._fn: Callable[..., Any] = prepared.settings.fn

    @property
    def uses_workers(self) -> bool:
        return self._workers is not None

    def make_ready(self) -> None:
        """Make the instance of a class, or start workers, where there are none that idle.

        Raises:
            InvalidDatasetError: fn cannot be pickled for workers.
            RunStoppedError: the class cannot be made.
        """
        settings, style = self._settings, self._prepared.style
        if settings.worker_count:
            from file_dataset._workers.pool import Workers

            if self._idle_workers:
                with contextlib.suppress(IndexError):  # another thread took the last
                    self._workers = self._idle_workers.pop()
                    return
            try:
                self._workers = Workers(
                    settings.fn,
                    count=settings.worker_count,
                    by_keyword=style.by_keyword,
                    takes_row=style.takes_row,
                    timeout_s=settings.fn_timeout_s,
                    env=settings.worker_env,
                )
            except Exception as exc:  # whatever the pickling of the user's fn raises
                reason = f"{type(exc).__name__}: {exc}"
                raise InvalidDatasetError(f"fn cannot be pickled for worker processes: {reason}") from exc
            return
        try:
            self._fn = _function.ready(settings.fn)
        except Exception as exc:  # the user's own constructor
            raise RunStoppedError(f"{settings.fn!r} could not be made: {type(exc).__name__}: {exc}") from exc

    def submit(self, flight: Flight) -> Future[object]:
        """Hand a row to a worker."""
        assert self._workers is not None  # noqa: S101  # for mypy
        took = flight.timing("fn_s")
        called = self._workers.submit(flight.input_dir, flight.output_dir, self._row(flight.position))
        called.add_done_callback(took)
        return called

    def here(self, row: FileRow, flight: Flight) -> object:
        """Call fn in this thread and return what it returns.

        Raises:
            RowError: fn raised.
        """
        cwd = _working_dir()
        by_keyword, given = self._prepared.style.by_keyword, self._row(flight.position)
        took = flight.timing("fn_s")
        try:
            return _function.plain(
                _function.call(self._fn, flight.input_dir, flight.output_dir, by_keyword=by_keyword, row=given)
            )
        except BaseException as exc:  # the user's fn: the one broad except
            if not _function.is_of_fn(exc):
                raise
            raise RowError([Failure.of(row.id, "fn", exc)]) from exc
        finally:
            took()
            # only where fn went elsewhere: the working directory is the whole process's, other threads' too
            if cwd is not None and _working_dir() != cwd:
                with contextlib.suppress(OSError):
                    os.chdir(cwd)

    def leave(self, *, is_whole: bool) -> None:
        """End the workers, or after a whole run leave them to the next, where there is one."""
        if self._workers is None:
            return
        if self._idle_workers is None or not is_whole:
            self._workers.close()
        else:
            self._workers.rest()
            self._idle_workers.append(self._workers)

    def _row(self, position: int) -> dict[str, Any] | None:
        """Return what fn gets of its row, as plain Python values; None: it takes no row."""
        if not self._prepared.style.takes_row:
            return None
        values = {name: column[position] for name, column in self._prepared.carried.items()}
        return {_frame.ID: self._prepared.rows.id_at(position)} | values


def of_worker(row: FileRow, called: Future[object]) -> object:
    """Return what fn returned in a worker.

    Raises:
        RowError: fn raised; or its worker died, or was ended for its timeout.
        RunStoppedError: no worker can start.
    """
    from file_dataset._workers.process import FnTimeoutError, WorkerDiedError, WorkerStartError

    try:
        return called.result()
    except WorkerStartError as exc:
        raise RunStoppedError(str(exc)) from exc
    except (WorkerDiedError, FnTimeoutError) as exc:
        # the message says it all: the traceback would be of this thread
        raise RowError([Failure.of(row.id, "fn", exc)]) from None
    except (Exception, SystemExit) as exc:  # the user's fn, in its process
        raise RowError([Failure.of(row.id, "fn", exc)]) from exc


def _working_dir() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # text that chdir takes
    except OSError:  # it was removed
        return None
