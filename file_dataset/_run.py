"""One run of a Pipeline: rows download ahead of fn and upload behind it, and are judged in the order of the input.

The calling thread drives, calls fn, logs and reports progress; threads of the run's own pool do the transfers. A row
moves through these states, and has files on disk in all but the first and the last:

    waiting -> ahead (downloading, then ready) -> in fn -> uploading -> done

A row that is done has an outcome. Outcomes are judged in input order, whatever order they come in: that makes logs,
counts and the row that stops a run those of a run without overlap. Where an outcome may stop the run, no later row is
begun until the rows before it are done and it is judged.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import threading
import time
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from file_dataset import (
    _frame,
    _function,
    _outputs,
    _overwrites,
    _per_process,
    _plan,
    _progress,
    _transfer,
    _urls,
    _verdict,
)
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._failure_log import FailureLog
from file_dataset._interrupts import Interrupts
from file_dataset._pool import Pool
from file_dataset._result import RunStoppedError
from file_dataset._tally import Failed, Stored, Tally
from file_dataset._tempdir import TempDir
from file_dataset._turns import Ended, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from file_dataset._local_file import LocalFile
    from file_dataset._prepared import Prepared
    from file_dataset._result import PipelineResult
    from file_dataset._sink import ObjectInfo
    from file_dataset._workers.pool import Workers

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long a run that is stopped waits for its transfers to give up: they hear of it within 0.1 s, and an upload in
# parts has 5 s to abort what it began (`_transfer`).
_GRACE_S = 6.0
_LOOK_S = 0.1  # how late it notices another interrupt meanwhile; a guess


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A row whose files are in its input directory."""

    row: _plan.FileRow
    without_digest: int


class _Flight:
    """A row that has, or is about to have, files on disk; at most `window` of them are there."""

    __slots__ = ("cancelled", "dirs", "input_dir", "output_dir", "position", "work")

    input_dir: Path
    output_dir: Path
    dirs: _outputs.RowDirs

    def __init__(self, position: int) -> None:
        self.position = position
        self.cancelled = threading.Event()
        self.work: TempDir | None = None

    def make_dirs(self, where: Path | None) -> None:
        self.work = TempDir(where)
        self.input_dir, self.output_dir = self.work.path / "input", self.work.path / "output"
        self.input_dir.mkdir()
        self.output_dir.mkdir()
        own = os.path.realpath(self.work.path)  # now: fn may put a link in its place
        self.dirs = _outputs.RowDirs(f"{own}/input", f"{own}/output")


class Run:
    """One run over one frame: downloads ahead, fn, uploads behind."""

    def __init__(
        self,
        prepared: Prepared,
        *,
        idle_workers: list[Workers] | None = None,
        has_first_row: bool = True,
    ) -> None:
        """Take what is to do; no request, no file yet.

        Args:
            prepared: the checked frame, and where it goes.
            idle_workers: workers that earlier runs have left for this one, which leaves its own for the next: this is
                one of many, as for Ray.
            has_first_row: whether the first row of the whole input is in the frame.
        """
        self.prepared, self.settings, self.rows = prepared, prepared.settings, prepared.rows
        self.total = len(prepared.rows)
        # the batches that a process runs for Ray are one run
        is_part = idle_workers is not None
        self.log = _per_process.shared("failure log", _failure_log) if is_part else _failure_log()
        # of the calling thread alone
        self.tally = Tally(
            self.settings,
            prepared.contract,
            self.total,
            (prepared.source, prepared.target),
            log=self.log,
            why_full=self._why_full,
            is_part=is_part,
            has_first_row=has_first_row,
        )
        recorded = {at: Failed(RowError([failure]), is_recorded=True) for at, failure in self.rows.failed.items()}
        self.turns = Turns(recorded, self.total, _verdict.allowed_failures(self.settings, self.total))
        self.running: dict[int, tuple[_Flight, _Fetched, Future[object]]] = {}
        self.uploads: dict[int, Future[Stored | Failed]] = {}
        self.in_fn = 0
        self.workers: Workers | None = None
        self.idle_workers = idle_workers
        self.interrupts = Interrupts()  # those of a caller that has begun to hold them, where there is one
        # shared with the pool's threads, under the lock: which row is next, and who has files on disk
        self.lock = threading.RLock()
        self.next = 0
        self.is_stopped = False
        self.flights: dict[int, _Flight] = {}
        self.ahead: deque[tuple[_Flight, Future[_Fetched | Failed]]] = deque()
        window = self.settings.window
        self.pool = Pool(window, "file_dataset-run") if window > 1 else None
        self.events: SimpleQueue[None] = SimpleQueue()

    def to_end(self) -> PipelineResult:
        """Run the rows and return the result."""
        self.run_rows()
        self.tally.log_if_all_failed()
        self.interrupts.result = result = self.result()
        return result

    def run_rows(self) -> None:
        """Run the rows: the tally has what became of them, also when something stops it."""
        try:
            if self.total and not isinstance(self.prepared.prefix, Path):
                self.prepared.target.check()  # before fn runs, for nothing
            with _progress.reporting(self.settings.progress, self.total) as report:
                self._drive(report)
        finally:
            self.interrupts.is_held = True
            self._stop()
            self.log.close()

    def result(self) -> PipelineResult:
        """Return what is done so far: every stored row, and the failures of the rows that were judged."""
        return self.tally.result(self.rows)

    # the calling thread

    def _drive(self, report: Callable[[_progress.Progress], object]) -> None:
        fn = self._made_fn()
        while True:
            has_news = self._harvest()
            self._judge(report)
            if self.turns.taken == self.total:
                return
            self._fill()
            # without threads there is nothing to wait for: what was submitted is done
            if not self._begin_fn(fn) and not has_news and self.pool is not None:
                self.events.get()

    def _made_fn(self) -> Callable[..., Any]:
        settings = self.settings
        if not self.total:
            return settings.fn
        if settings.worker_count:
            from file_dataset._workers.pool import Workers

            if self.idle_workers:
                with contextlib.suppress(IndexError):  # another thread took the last
                    self.workers = self.idle_workers.pop()
                    return settings.fn
            try:
                self.workers = Workers(
                    settings.fn,
                    count=settings.worker_count,
                    by_keyword=self.prepared.style.by_keyword,
                    takes_row=self.prepared.style.takes_row,
                    timeout_s=settings.fn_timeout_s,
                    env=settings.worker_env,
                )
            except Exception as exc:  # whatever the pickling of the user's fn raises
                reason = f"{type(exc).__name__}: {exc}"
                raise InvalidDatasetError(f"fn cannot be pickled for worker processes: {reason}") from exc
            return settings.fn
        try:
            return _function.ready(settings.fn)
        except Exception as exc:  # the user's own constructor
            raise RunStoppedError(f"{settings.fn!r} could not be made: {type(exc).__name__}: {exc}") from exc

    def _harvest(self) -> bool:
        """Take what threads and workers have finished; return whether there was anything."""
        has_news = False
        with self.lock:
            failed = [
                (flight, one) for flight, future in self.ahead if isinstance(one := _outcome(future), Failed | Ended)
            ]
            for flight, failure in failed:
                has_news = True
                self._settle(flight.position, failure)
            if failed:
                places = {flight.position for flight, _ in failed}
                self.ahead = deque(pair for pair in self.ahead if pair[0].position not in places)
        for position, (flight, fetched, called) in list(self.running.items()):
            if called.done():
                has_news = True
                del self.running[position]
                self.in_fn -= 1
                self._after_fn(flight, fetched, functools.partial(_worked, fetched.row, called))
        for position, upload in list(self.uploads.items()):
            if (outcome := _outcome(upload)) is not None:
                has_news = True
                self._settle(position, outcome)
                del self.uploads[position]
        return has_news

    def _settle(self, position: int, outcome: Stored | Failed | Ended) -> None:
        """Take a row's outcome, which waits for its turn."""
        if isinstance(outcome, Stored):  # whatever stops the run now, it is stored
            self.tally.put(position, outcome)
        may_stop = isinstance(outcome, Ended) or (
            isinstance(outcome, Failed) and self.tally.may_stop(position, outcome)
        )
        self.turns.put(position, outcome, may_stop=may_stop)

    def _judge(self, report: Callable[[_progress.Progress], object]) -> None:
        """Log, count and report the rows that are done, as far as those before them are.

        Raises:
            RunStoppedError: at a row that stops the run.
        """
        while (turn := self.turns.take()) is not None:
            position, outcome = turn
            if isinstance(outcome, Ended):
                raise outcome.error
            if isinstance(outcome, Failed):
                self.tally.put(position, outcome)
                self.tally.judge(position, outcome)
            report(_progress.Progress(self.turns.taken, self.total, len(self.tally.failed)))

    def _why_full(self, position: int, error: RowError) -> str:
        prefix = self.prepared.prefix
        if error.failures[0].stage == "upload" and isinstance(prefix, Path):
            return f"no space left on device in {prefix}: {error}"
        place = self.prepared.temp_dir or TempDir.parent()
        free_bytes = shutil.disk_usage(place).free
        return _verdict.no_space(self.settings, Path(place), free_bytes, self._input_bytes(position), error)

    def _input_bytes(self, position: int) -> str:
        row = self.rows.row(position)
        wanted = [_transfer.Wanted(row.id, name, at, position) for name, at in row.files.items() if at is not None]
        try:
            return f" ({sum(size for _, size in _transfer.sizes(wanted, self.prepared.source))} bytes here)"
        except RowError:
            return ""

    def _begin_fn(self, fn: Callable[..., Any]) -> bool:
        """Call fn for a row whose files are here, or hand it to a worker; return whether there was one."""
        if self.in_fn >= self.settings.slots or (found := self._take_ready()) is None:
            return False
        flight, fetched = found
        self.in_fn += 1
        self._fill()
        row = self._row_of_fn(flight.position)
        if self.workers is not None:
            called = self.workers.submit(flight.input_dir, flight.output_dir, row)
            self.running[flight.position] = flight, fetched, called
            called.add_done_callback(lambda _: self.events.put(None))
            return True
        self._after_fn(flight, fetched, functools.partial(self._called, fetched.row, fn, flight, row))
        self.in_fn -= 1
        return True

    def _take_ready(self) -> tuple[_Flight, _Fetched] | None:
        """Return the next row for fn: in this thread rows come in input order, workers take whichever is here."""
        with self.lock:
            for place, (flight, future) in enumerate(self.ahead):
                if flight.position > self.turns.limit:
                    return None
                fetched = _outcome(future)
                if isinstance(fetched, _Fetched):
                    del self.ahead[place]
                    return flight, fetched
                if self.workers is None:
                    return None
        return None

    def _row_of_fn(self, position: int) -> dict[str, Any] | None:
        """Return what fn gets of its row, as plain Python values; None: it takes no row."""
        if not self.prepared.style.takes_row:
            return None
        values = {name: column[position] for name, column in self.prepared.carried.items()}
        return {_frame.ID: self.rows.id_at(position)} | values

    def _called(
        self, row: _plan.FileRow, fn: Callable[..., Any], flight: _Flight, given: dict[str, Any] | None
    ) -> object:
        cwd = _working_dir()
        try:
            return _function.call(
                fn, flight.input_dir, flight.output_dir, by_keyword=self.prepared.style.by_keyword, row=given
            )
        except (Exception, SystemExit) as exc:  # the user's fn: the one broad except
            raise RowError([Failure.of(row.id, "fn", exc)]) from exc
        finally:
            # only where fn went elsewhere: the working directory is the whole process's, other threads' too
            if cwd is not None and _working_dir() != cwd:
                with contextlib.suppress(OSError):
                    os.chdir(cwd)

    def _after_fn(self, flight: _Flight, fetched: _Fetched, result: Callable[[], object]) -> None:
        """Check what fn returned and have it stored, or settle the row's failure."""
        row = fetched.row
        try:
            files = _outputs.checked_outputs(
                result(), row_id=row.id, contract=self.prepared.contract, carried=self.rows.carried, dirs=flight.dirs
            )
            uploads = self._uploads(row, files)
        except (RowError, RunStoppedError) as exc:
            self._settle(flight.position, Failed(exc) if isinstance(exc, RowError) else Ended(exc))
            self._leave(flight)
            return
        self.uploads[flight.position] = self._submit(self._store, flight, fetched, files, uploads)

    def _uploads(
        self, row: _plan.FileRow, files: Mapping[str, LocalFile | None]
    ) -> list[_plan.Transfer[_urls.Location]]:
        try:
            uploads = _plan.uploads(row.id, files, self.prepared.prefix)
        except InvalidDatasetError as exc:  # a key that is too long
            raise RowError([Failure.of(row.id, "upload", exc)]) from exc
        if on_top := _overwrites.failures(uploads, self.prepared.inputs):
            raise RowError(on_top)
        return uploads

    def _stop(self) -> None:
        """Give up what is in flight, which after a whole run is nothing; leave no file, thread or process behind."""
        with self.lock:
            self.is_stopped = True
        for flight in list(self.flights.values()):
            flight.cancelled.set()
        try:
            if self.workers is not None:
                self._leave_workers(self.workers)
            begun: list[Future[Any]] = [*(future for _, future in self.ahead), *self.uploads.values()]
            self._wait(begun)
            for position, upload in self.uploads.items():
                # stored before it heard: then it is
                if isinstance(outcome := _outcome(upload), Stored):
                    self.tally.put(position, outcome)
        finally:
            for flight in list(self.flights.values()):
                if flight.work is not None:
                    flight.work.cleanup()
            # an error's traceback refers to this run for as long as it is kept; the threads are not to wait
            self.pool = None

    def _wait(self, begun: Sequence[Future[Any]]) -> None:
        """Wait for transfers to give up; another interrupt says that there is no time for that."""
        end = time.monotonic() + _GRACE_S
        while begun and not self.interrupts.is_urgent and (left_s := end - time.monotonic()) > 0:
            begun = list(wait(begun, timeout=min(left_s, _LOOK_S)).not_done)

    def _leave_workers(self, workers: Workers) -> None:
        if self.idle_workers is None or self.turns.taken < self.total:
            workers.close()
        else:
            workers.rest()
            self.idle_workers.append(workers)

    # the threads of the pool, and the calling thread

    def _submit(self, work: Callable[..., T], *args: Any) -> Future[T]:  # noqa: ANN401  # whatever `work` takes
        if self.pool is None:
            return _now(work, *args)
        try:
            future = self.pool.submit(work, *args)
        except OSError as exc:
            raise RunStoppedError(f"stopped: {exc.strerror}") from exc
        future.add_done_callback(lambda _: self.events.put(None))
        return future

    def _fill(self) -> None:
        """Begin the download of as many rows as may be ahead of fn, and as there is room for on disk."""
        with self.lock:
            while self._has_room():
                position, self.next = self.next, self.next + 1
                if position in self.rows.failed:  # its failure was recorded by an earlier Pipeline
                    continue
                flight = self.flights[position] = _Flight(position)
                self.ahead.append((flight, self._submit(self._fetch, flight)))

    def _has_room(self) -> bool:
        settings = self.settings
        return (
            not self.is_stopped
            and self.next < self.total
            and self.next <= self.turns.limit
            and len(self.ahead) < settings.prefetch + settings.slots - self.in_fn
            and len(self.flights) < settings.window
        )

    def _fetch(self, flight: _Flight) -> _Fetched | Failed:
        """Download the row's files into a directory of its own."""
        is_here = False
        downloads: list[_plan.Transfer[str]] = []
        try:
            row = self._row_with_files(flight.position)
            self._make_dirs(flight, row)
            downloads = _plan.downloads(row, str(flight.input_dir))
            infos = _transfer.copy_in(downloads, self.prepared.source, cancelled=flight.cancelled)
            is_here = True
        except RowError as exc:
            return Failed(exc, is_all=len(exc.failures) == len(downloads))
        finally:
            if not is_here:
                self._leave(flight)
        without_digest = sum(
            info.digest is None and isinstance(down.source, _urls.ObjectUrl)
            for down, info in zip(downloads, infos, strict=True)
        )
        return _Fetched(row, without_digest)

    def _row_with_files(self, position: int) -> _plan.FileRow:
        row = self.rows.row(position)
        if all(at is None for at in row.files.values()):
            message = "the row has no file: every file column is null"
            raise RowError([Failure(row.id, "download", None, None, "ValueError", None, message)])
        return row

    def _make_dirs(self, flight: _Flight, row: _plan.FileRow) -> None:
        if flight.cancelled.is_set():
            raise InterruptedError("cancelled")
        try:
            flight.make_dirs(self.prepared.temp_dir)
        except OSError as exc:
            raise RowError([Failure.of(row.id, "download", exc)]) from exc

    def _store(
        self,
        flight: _Flight,
        fetched: _Fetched,
        files: Mapping[str, LocalFile | None],
        uploads: Sequence[_plan.Transfer[_urls.Location]],
    ) -> Stored | Failed:
        """Upload what fn returned; the row is done when all of it is stored."""
        try:
            infos = _transfer.copy_out(
                uploads, self.prepared.target, self.prepared.extra_args, cancelled=flight.cancelled
            )
        except RowError as exc:
            return Failed(exc, is_refused=_verdict.is_refusal(exc, len(uploads)))
        finally:
            self._leave(flight)
        return Stored(
            dict.fromkeys(files) | {up.file: str(up.target) for up in uploads},
            tuple(_stored_file(flight.position, up, info) for up, info in zip(uploads, infos, strict=True)),
            fetched.without_digest,
        )

    def _leave(self, flight: _Flight) -> None:
        """Remove the row's files, which makes room for another row."""
        if flight.work is not None:
            flight.work.cleanup()
        with self.lock:
            self.flights.pop(flight.position, None)
            if self.pool is not None:  # without one the calling thread does one thing after the other
                self._fill()


def _failure_log() -> FailureLog:
    return FailureLog(logger)


def _worked(row: _plan.FileRow, called: Future[object]) -> object:
    from file_dataset._workers.pool import FnTimeoutError, WorkerDiedError, WorkerStartError

    try:
        return called.result()
    except WorkerStartError as exc:
        raise RunStoppedError(str(exc)) from exc
    except (WorkerDiedError, FnTimeoutError) as exc:
        # the message says it all: the traceback would be of this thread
        raise RowError([Failure.of(row.id, "fn", exc)]) from None
    except (Exception, SystemExit) as exc:  # the user's fn, in its process
        raise RowError([Failure.of(row.id, "fn", exc)]) from exc


def _outcome(future: Future[T]) -> T | Ended | None:
    """Return what a finished future has, None where it is not finished."""
    if not future.done():
        return None
    error = future.exception()
    return future.result() if error is None else Ended(error)


def _now(work: Callable[..., T], *args: object) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(work(*args))
    except Exception as exc:  # noqa: BLE001  # as a thread would: taking the result raises it
        future.set_exception(exc)
    return future


def _stored_file(position: int, upload: _plan.Transfer[_urls.Location], info: ObjectInfo) -> _frame.StoredFile:
    checksum = None if info.digest is None else str(info.digest)
    return _frame.StoredFile(position, upload.file, str(upload.target), info.size_bytes, info.etag, checksum)


def _working_dir() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # text that chdir takes
    except OSError:  # it was removed
        return None
