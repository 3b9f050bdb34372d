"""One run of a Pipeline: rows download ahead of fn and upload behind it, and are judged in the order of the input.

The calling thread drives: it makes rows' directories, submits their transfers, calls fn, logs and reports progress.
Nobody waits for a transfer: the thread that ends a row's last one says so. While fn works in the calling thread, a few
threads of the run's own remove the files of finished rows and begin the next ones. A row moves through these states,
and has files on disk in all but the first and the last:

    waiting -> ahead (downloading, then ready) -> in fn -> uploading -> done

A row that is done has an outcome. Outcomes are judged in input order, whatever order they come in: that makes logs,
counts and the row that stops a run those of a run without overlap. Where an outcome may stop the run, no later row is
begun until the rows before it are done and it is judged.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import sys
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from file_dataset import (
    _call,
    _listings,
    _outputs,
    _per_process,
    _progress,
    _stopping,
    _transfer,
    _verdict,
)
from file_dataset._call import Calls
from file_dataset._effort import Effort
from file_dataset._errors import InvalidDatasetError, RowError
from file_dataset._failure_log import FailureLog
from file_dataset._flight import Flight, uploads_of
from file_dataset._interrupts import Interrupts
from file_dataset._news import News
from file_dataset._pool import Pool
from file_dataset._result import RunStoppedError
from file_dataset._tally import Failed, Stored, Tally
from file_dataset._tempdir import TempDir
from file_dataset._turns import Ended, Turns
from file_dataset._urls import Directory
from file_dataset._window import Kept, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from file_dataset._plan import FileRow
    from file_dataset._prepared import Prepared
    from file_dataset._result import PipelineResult
    from file_dataset._tally import Journal
    from file_dataset._workers.pool import Workers

logger = logging.getLogger(__name__)

# Threads that finish rows while fn works in the calling one: what they do is to remove files. A guess.
_HELPERS = 4
_SMALL_BYTES = 4 << 20  # what is larger takes a while to remove; a guess


class Run:
    """One run over one frame: downloads ahead, fn, uploads behind."""

    def __init__(
        self,
        prepared: Prepared,
        *,
        idle_workers: list[Workers] | None = None,
        has_first_row: bool = True,
        journal: Journal | None = None,
    ) -> None:
        """Take what is to do; no request, no file yet.

        Args:
            prepared: the checked frame, and where it goes.
            idle_workers: workers that earlier runs have left for this one, which leaves its own for the next: this is
                one of many, as for Ray.
            has_first_row: whether the first row of the whole input is in the frame.
            journal: writes down which rows are done; None: nothing does.
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
            why_full=lambda position, error: _why_full(self.prepared, self.window, position, error),
            is_part=is_part,
            has_first_row=has_first_row,
            kept=prepared.kept,
            journal=journal,
        )
        recorded = {at: Failed(RowError([failure]), is_recorded=True) for at, failure in self.rows.failed.items()}
        self.turns = Turns(recorded, self.total, _verdict.allowed_failures(self.settings, prepared.whole))
        self.running: dict[int, tuple[Flight, Future[object]]] = {}
        self.in_fn = 0
        self.calls = Calls(prepared, idle_workers)
        self.interrupts = Interrupts()  # those of a caller that has begun to hold them, where there is one
        # shared, under the lock: which row is next, which rows have files on disk, and what became of them. A thread
        # that holds the lock must not wait for anything, because the thread that moves all bytes takes it too
        self.lock = threading.RLock()
        self.next = 0
        self.is_stopped = False
        self.flights: dict[int, Flight] = {}
        self.ahead: deque[Flight] = deque()
        self.todo: deque[Flight] = deque()  # rows that are stored or have failed: the calling thread finishes them
        kept, files = _kept(prepared) if is_part else None, len(self.rows.file_columns)
        self.window = Window(self.settings, files, functools.partial(_free_bytes, prepared), kept)
        self.helpers: Pool | None = Pool(_HELPERS, "file_dataset-run")
        self.pool = self.helpers if self.window.most_rows > 1 else None
        self.effort = Effort()
        self.is_calling = False  # whether the calling thread is in fn
        self.news = News(self.lock)

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
            with _progress.reporting(self.settings.progress, self.prepared.whole, self.prepared.kept) as report:
                self._drive(report)
        finally:
            self.interrupts.is_held = True
            self._stop()
            self.log.close()
            _report_rest(self)

    def result(self) -> PipelineResult:
        """Return what is done so far: every stored row, and the failures of the rows that were judged."""
        return replace(self.tally.result(self.rows), prefetch=self.window.chosen(), counts=self.effort.counts())

    # the calling thread

    def _drive(self, report: Callable[[_progress.Progress], object]) -> None:
        if self.total:
            self.calls.make_ready()
        while True:
            self.news.forget()
            is_busy = self._harvest()
            self._judge(report)
            if self.turns.taken == self.total:
                return
            self._fill()
            if not self._begin_fn() and not is_busy:
                self._look_ahead()
                self.news.wait(lambda: (each for flight in list(self.flights.values()) for each in flight.silent()))

    def _harvest(self) -> bool:
        """Finish rows whose transfers have ended, take what workers return; return whether there was anything."""
        is_busy = bool(self.todo)
        while self.todo:
            self._finish(self.todo.popleft())
        for position, (flight, called) in list(self.running.items()):
            if called.done():
                is_busy = True
                del self.running[position]
                self.in_fn -= 1
                self._after_fn(flight, functools.partial(_call.of_worker, called=called))
        return is_busy

    def _look_ahead(self) -> None:
        """Have more rows ahead, where it is files that fn waits for."""
        if self.in_fn >= self.settings.slots or not self.window.may_grow:
            return
        free_bytes = _free_bytes(self.prepared)  # not under the lock: a disk that hangs must not stop all transfers
        with self.lock:
            grows = self._has_more() and self.window.fn_waits(free_bytes)
        if grows:
            self._fill()

    def _judge(self, report: Callable[[_progress.Progress], object]) -> None:
        """Log, count and report the rows that are done, as far as those before them are.

        Raises:
            RunStoppedError: at a row that stops the run.
        """
        while True:
            with self.lock:
                if (turn := self.turns.take()) is None:
                    return
                position, outcome = turn
                if isinstance(outcome, Failed):
                    self.tally.put(position, outcome)
            if isinstance(outcome, Ended):
                raise outcome.error
            _judge_row(self, position, outcome, report)

    def _begin_fn(self) -> bool:
        """Call fn for a row whose files are here, or hand it to a worker; return whether there was one."""
        if self.in_fn >= self.settings.slots:
            return False
        with self.lock:
            flight = _take_ready(self.ahead, self.turns.limit, in_order=not self.calls.uses_workers)
        if flight is None:
            return False
        self.in_fn += 1
        self.window.taken()
        self._fill()
        if self.calls.uses_workers:
            called = self.calls.submit(flight)
            self.running[flight.position] = flight, called
            called.add_done_callback(self.news.came)
            return True
        self._after_fn(flight, lambda row: self._call_here(row, flight))
        self.in_fn -= 1
        return True

    def _call_here(self, row: FileRow, flight: Flight) -> object:
        with self.lock:
            self.is_calling = True
            todo = [self.todo.popleft() for _ in range(len(self.todo))]
        for each in todo:  # they came since this thread looked
            self._hand_over(each)
        try:
            return self.calls.here(row, flight)
        finally:
            self.is_calling = False

    def _after_fn(self, flight: Flight, result: Callable[[FileRow], object]) -> None:
        """Check what fn returned and have it stored, or have the row fail."""
        assert flight.fetched is not None  # noqa: S101  # fn had it
        row = flight.fetched.row
        try:
            files = _outputs.checked_outputs(
                result(row), row_id=row.id, contract=self.prepared.contract, carried=self.rows.carried, dirs=flight.dirs
            )
            uploads = uploads_of(self.prepared, row, files)
            with self.lock:
                self.window.returns(flight.on_disk, _output_bytes(files, flight))
            flight.store(self.prepared, files, uploads, functools.partial(self._has_ended, flight))
        except (RowError, RunStoppedError) as exc:
            flight.outcome = Failed(exc, inputs=flight.fetched.inputs) if isinstance(exc, RowError) else Ended(exc)
            self._has_ended(flight)

    def _stop(self) -> None:
        """Give up what is in flight, which after a whole run is nothing; leave no file, thread or process behind."""
        is_interrupted = self.interrupts.may_come and not isinstance(sys.exception(), Exception | None)
        with self.lock:
            self.is_stopped = True
            flights = list(self.flights.values())
        try:
            if is_interrupted:
                self._harvest()  # rows that workers are done with begin their uploads
            leave_fn = functools.partial(self.calls.leave, is_whole=self.turns.taken == self.total)
            _stopping.leave(flights, self.interrupts, self.tally, is_interrupted=is_interrupted, leave_fn=leave_fn)
        finally:
            for flight in flights:
                flight.cancelled.set()
                flight.clean_up()
            # an error's traceback refers to this run for as long as it is kept; the threads are not to wait
            self.pool = self.helpers = None

    # the calling thread and those of the pool

    def _fill(self) -> None:
        """Begin the download of as many rows as may be ahead of fn, and as there is room for on disk."""
        while True:
            with self.lock:
                if not (self._has_more() and self.window.has_room(len(self.ahead), self.in_fn)):
                    return
                position, self.next = self.next, self.next + 1
                if position in self.rows.failed:  # its failure was recorded by an earlier Pipeline
                    continue
                flight = self.flights[position] = Flight(position, self.window.begins(), self.effort)
                self.ahead.append(flight)
            try:
                began = functools.partial(self._begins_file, flight)
                flight.fetch(self.prepared, began, functools.partial(self._has_arrived, flight), self._elsewhere)
            except Exception as exc:  # noqa: BLE001  # what no row can do with ends the run: no such temp_dir, say
                flight.outcome = Failed(exc) if isinstance(exc, RowError) else Ended(exc)
                self._has_ended(flight)

    def _has_more(self) -> bool:
        return not self.is_stopped and self.next < self.total and self.next <= self.turns.limit

    def _finish(self, flight: Flight) -> None:
        """Have the outcome of a row whose transfers have ended, and remove its files: that makes room for another."""
        is_over = flight.finish()
        flight.clean_up()
        if not is_over:
            return
        with self.lock:
            if self.is_stopped or flight.outcome is None:
                return
            if isinstance(flight.outcome, Stored):  # now: an interrupt in the lines below would lose the row
                self.tally.put(flight.position, flight.outcome)
                if flight.outcome.was_there:  # fn waits for one that was not
                    self.window.taken()
            outcome, flight.outcome = flight.outcome, None  # fn's error has frames that hold the flight
            del self.flights[flight.position]
            self.window.leaves(flight.on_disk)
            if flight.fetched is None:
                self.ahead.remove(flight)
            # before another row begins, which this one may forbid
            is_doomed = isinstance(outcome, Failed) and self.tally.may_stop(flight.position, outcome)
            self.turns.put(flight.position, outcome, may_stop=is_doomed or isinstance(outcome, Ended))
            self.news.came()
        if self.is_calling:
            self._fill()

    def _hand_over(self, flight: Flight) -> None:
        """Have a thread of the pool finish a row; where there is none the calling thread does, later."""
        try:
            if self.pool is not None:
                flight.task = self.pool.submit(self._finish, flight)
                return
        except OSError:
            pass
        self.todo.append(flight)
        self.news.came()

    # called by the threads that move bytes, which must not wait

    def _elsewhere(self, work: Callable[[], object]) -> None:
        if (helpers := self.helpers) is not None:
            helpers.submit(work)

    def _begins_file(self, flight: Flight, more_bytes: int, is_first: bool) -> None:  # noqa: FBT001  # as called
        with self.lock:
            self.window.file_begins(flight.on_disk, more_bytes, is_first=is_first)

    def _has_arrived(self, flight: Flight) -> None:
        """Take note that a row's downloads have ended."""
        if flight.outcome is not None:
            self._has_ended(flight)
            return
        with self.lock:
            self.window.arrives(flight.on_disk)
            # fn in this thread takes rows in order: another one is no news
            if self.calls.uses_workers or (self.ahead and self.ahead[0] is flight):
                self.news.came()

    def _has_ended(self, flight: Flight) -> None:
        """Have a row finished, by the calling thread where it would only wait: a change of threads costs more."""
        with self.lock:
            if self.is_stopped:
                return
            is_small = flight.on_disk.bytes <= _SMALL_BYTES
            if self.pool is None or (is_small and not self.is_calling):
                self.todo.append(flight)
                self.news.came()
                return
        self._hand_over(flight)


def _take_ready(ahead: deque[Flight], limit: int, *, in_order: bool) -> Flight | None:
    """Return the next row for fn: in the calling thread they come in input order, workers take whichever is here."""
    for place, flight in enumerate(ahead):
        if flight.position > limit:
            return None
        if flight.fetched is not None:
            del ahead[place]
            return flight
        if in_order:
            return None
    return None


def _kept(prepared: Prepared) -> Kept | None:
    """Return what the batches that this process has run of a pipeline know for the next."""
    fn = prepared.settings.fn
    try:
        return _per_process.recent(("window", fn), Kept)
    except TypeError:  # a callable object that has no hash
        return None


def _free_bytes(prepared: Prepared) -> int:
    try:
        return shutil.disk_usage(prepared.temp_dir or TempDir.parent()).free
    except (OSError, InvalidDatasetError):  # no such place, which the first row finds too
        return 0


def _why_full(prepared: Prepared, window: Window, position: int, error: RowError) -> str:
    prefix = prepared.prefix
    if error.failures[0].stage == "upload" and isinstance(prefix, Path):
        return f"no space left on device in {prefix}: {error}"
    place = Path(prepared.temp_dir or TempDir.parent())
    free_bytes, here = shutil.disk_usage(place).free, _input_bytes(prepared, position)
    return _verdict.no_space(prepared.settings, window.rows, window.prefetch, place, free_bytes, here, error)


def _input_bytes(prepared: Prepared, position: int) -> str:
    row = prepared.rows.row(position)
    sources = {name: at for name, at in row.files.items() if at is not None}
    directories = [
        _listings.WantedDirectory(row.id, name, at, position)
        for name, at in sources.items()
        if isinstance(at, Directory)
    ]
    files = [
        _transfer.Wanted(row.id, name, at, position) for name, at in sources.items() if not isinstance(at, Directory)
    ]
    try:
        size = sum(size for _, size in _transfer.sizes(files, prepared.source))
        size += sum(found.size_bytes for _, found in _listings.listings(directories, prepared.source, []))
    except RowError:
        return ""
    return f" ({size} bytes here)"


def _output_bytes(files: Mapping[str, _outputs.Output], flight: Flight) -> int:
    """Return how many bytes fn returned that are not of its inputs."""
    inputs = f"{flight.dirs.input}/"
    return sum(file.size_bytes for file in files.values() if file is not None and not file.path.startswith(inputs))


def _judge_row(
    run: Run, position: int, outcome: Stored | Failed, report: Callable[[_progress.Progress], object]
) -> None:
    """Log a row that failed, and report the row, also one that stops the run."""
    failures = tuple(outcome.error.failures) if isinstance(outcome, Failed) else ()
    prefetch, dropped = run.window.prefetch if run.window.is_chosen else None, len(run.tally.failed)
    done, row_id = run.prepared.kept + run.turns.taken, run.rows.id_at(position)
    now = _progress.Progress(done, run.prepared.whole, dropped, prefetch, row_id, failures)
    try:
        if isinstance(outcome, Failed):
            run.tally.judge(position, outcome)
        run.tally.check_journal()
    except RunStoppedError:
        report(now)
        raise
    report(now)


def _report_rest(run: Run) -> None:
    """Report the rows that were stored while the run stopped, and those before whose turn had not come.

    To the caller's function alone, which is to hear of every row; what it raises now is no news, and is dropped.
    """
    done, progress = run.turns.taken, run.settings.progress
    if done == run.total or not callable(progress):
        return
    with contextlib.suppress(BaseException):
        for position in sorted(each for each in run.tally.stored if each >= run.turns.taken):
            done += 1
            counts = run.prepared.kept + done, run.prepared.whole, len(run.tally.failed)
            progress(_progress.Progress(*counts, id=run.rows.id_at(position)))


def _failure_log() -> FailureLog:
    return FailureLog(logger)
