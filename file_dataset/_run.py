"""One run of a Pipeline: rows download ahead of fn and upload behind it, and are judged in the order of the input.

The calling thread drives, calls fn, logs and reports progress; threads of the run's own pool do the transfers. A row
moves through these states, and has files on disk in all but the first and the last:

    waiting -> ahead (downloading, then ready) -> in fn -> uploading -> done

A row that is done has an outcome. Outcomes are judged in input order, whatever order they come in: that makes logs,
counts and the row that stops a run those of a run without overlap. Where an outcome may stop the run, no later row is
begun until the rows before it are done and it is judged.
"""

from __future__ import annotations

import functools
import logging
import shutil
import threading
import time
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from file_dataset import (
    _call,
    _outputs,
    _per_process,
    _plan,
    _progress,
    _transfer,
    _urls,
    _verdict,
)
from file_dataset._call import Calls
from file_dataset._errors import InvalidDatasetError, RowError
from file_dataset._failure_log import FailureLog
from file_dataset._flight import Fetched, Flight, uploads_of
from file_dataset._interrupts import Interrupts
from file_dataset._pool import Pool
from file_dataset._result import RunStoppedError
from file_dataset._tally import Failed, Stored, Tally
from file_dataset._tempdir import TempDir
from file_dataset._turns import Ended, Turns
from file_dataset._window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from file_dataset._local_file import LocalFile
    from file_dataset._prepared import Prepared
    from file_dataset._result import PipelineResult
    from file_dataset._workers.pool import Workers

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long a run that is stopped waits for its transfers to give up: they hear of it within 0.1 s, and an upload in
# parts has 5 s to abort what it began (`_transfer`).
_GRACE_S = 6.0
_LOOK_S = 0.1  # how late it notices another interrupt meanwhile; a guess


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
        self.running: dict[int, tuple[Flight, Fetched, Future[object]]] = {}
        self.uploads: dict[int, Future[Stored | Failed]] = {}
        self.in_fn = 0
        self.calls = Calls(prepared, idle_workers)
        self.interrupts = Interrupts()  # those of a caller that has begun to hold them, where there is one
        # shared with the pool's threads, under the lock: which row is next, and who has files on disk
        self.lock = threading.RLock()
        self.next = 0
        self.is_stopped = False
        self.flights: dict[int, Flight] = {}
        self.ahead: deque[tuple[Flight, Future[Fetched | Failed]]] = deque()
        self.window = Window(self.settings, len(self.rows.file_columns), functools.partial(_free_bytes, prepared))
        most = self.window.most_rows
        self.pool = Pool(most, "file_dataset-run") if most > 1 else None
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
        return replace(self.tally.result(self.rows), prefetch=self.window.chosen())

    # the calling thread

    def _drive(self, report: Callable[[_progress.Progress], object]) -> None:
        if self.total:
            self.calls.make_ready()
        while True:
            has_news = self._harvest()
            self._judge(report)
            if self.turns.taken == self.total:
                return
            self._fill()
            # without threads there is nothing to wait for: what was submitted is done
            if not self._begin_fn() and not has_news and self.pool is not None:
                self._look_ahead()
                self.events.get()

    def _look_ahead(self) -> None:
        """Have more rows ahead, where it is files that fn waits for."""
        with self.lock:
            if self.in_fn < self.settings.slots and self._has_more() and self.window.fn_waits():
                self._fill()

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
                self._after_fn(flight, fetched, functools.partial(_call.of_worker, fetched.row, called))
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
            prefetch = self.window.prefetch if self.window.is_chosen else None
            report(_progress.Progress(self.turns.taken, self.total, len(self.tally.failed), prefetch))

    def _why_full(self, position: int, error: RowError) -> str:
        prefix = self.prepared.prefix
        if error.failures[0].stage == "upload" and isinstance(prefix, Path):
            return f"no space left on device in {prefix}: {error}"
        place = Path(self.prepared.temp_dir or TempDir.parent())
        rows, prefetch = self.window.rows, self.window.prefetch
        here = _input_bytes(self.prepared, position)
        return _verdict.no_space(self.settings, rows, prefetch, place, shutil.disk_usage(place).free, here, error)

    def _begin_fn(self) -> bool:
        """Call fn for a row whose files are here, or hand it to a worker; return whether there was one."""
        if self.in_fn >= self.settings.slots or (found := self._take_ready()) is None:
            return False
        flight, fetched = found
        self.in_fn += 1
        self.window.taken()
        self._fill()
        if self.calls.uses_workers:
            called = self.calls.submit(flight)
            self.running[flight.position] = flight, fetched, called
            called.add_done_callback(lambda _: self.events.put(None))
            return True
        self._after_fn(flight, fetched, functools.partial(self.calls.here, fetched.row, flight))
        self.in_fn -= 1
        return True

    def _take_ready(self) -> tuple[Flight, Fetched] | None:
        """Return the next row for fn: in this thread rows come in input order, workers take whichever is here."""
        with self.lock:
            for place, (flight, future) in enumerate(self.ahead):
                if flight.position > self.turns.limit:
                    return None
                fetched = _outcome(future)
                if isinstance(fetched, Fetched):
                    del self.ahead[place]
                    return flight, fetched
                if not self.calls.uses_workers:
                    return None
        return None

    def _after_fn(self, flight: Flight, fetched: Fetched, result: Callable[[], object]) -> None:
        """Check what fn returned and have it stored, or settle the row's failure."""
        row = fetched.row
        try:
            files = _outputs.checked_outputs(
                result(), row_id=row.id, contract=self.prepared.contract, carried=self.rows.carried, dirs=flight.dirs
            )
            uploads = uploads_of(self.prepared, row, files)
            with self.lock:
                self.window.returns(flight.on_disk, _output_bytes(files, flight))
        except (RowError, RunStoppedError) as exc:
            self._settle(flight.position, Failed(exc) if isinstance(exc, RowError) else Ended(exc))
            self._leave(flight)
            return
        self.uploads[flight.position] = self._submit(self._store, flight, fetched, files, uploads)

    def _stop(self) -> None:
        """Give up what is in flight, which after a whole run is nothing; leave no file, thread or process behind."""
        with self.lock:
            self.is_stopped = True
        for flight in list(self.flights.values()):
            flight.cancelled.set()
        try:
            self.calls.leave(is_whole=self.turns.taken == self.total)
            begun: list[Future[Any]] = [*(future for _, future in self.ahead), *self.uploads.values()]
            self._wait(begun)
            for position, upload in self.uploads.items():
                # stored before it could be cancelled: then it counts
                if isinstance(outcome := _outcome(upload), Stored):
                    self.tally.put(position, outcome)
        finally:
            for flight in list(self.flights.values()):
                flight.clean_up()
            # an error's traceback refers to this run for as long as it is kept; the threads are not to wait
            self.pool = None

    def _wait(self, begun: Sequence[Future[Any]]) -> None:
        """Wait for transfers to give up; another interrupt means that there is no time for that."""
        end = time.monotonic() + _GRACE_S
        while begun and not self.interrupts.is_urgent and (left_s := end - time.monotonic()) > 0:
            begun = list(wait(begun, timeout=min(left_s, _LOOK_S)).not_done)

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
                flight = self.flights[position] = Flight(position, self.window.begins())
                self.ahead.append((flight, self._submit(self._fetch, flight)))

    def _has_room(self) -> bool:
        return self._has_more() and self.window.has_room(len(self.ahead), self.in_fn)

    def _has_more(self) -> bool:
        return not self.is_stopped and self.next < self.total and self.next <= self.turns.limit

    def _fetch(self, flight: Flight) -> Fetched | Failed:
        """Download the row's files into a directory of its own."""
        outcome: Fetched | Failed | None = None

        def began(more_bytes: int, is_first: bool) -> None:  # noqa: FBT001  # as `_transfer` calls it
            with self.lock:
                self.window.file_begins(flight.on_disk, more_bytes, is_first=is_first)

        try:
            # a number needs no sizes; and without threads the lock is held here
            outcome = flight.fetch(self.prepared, began if self.window.is_chosen else None)
        finally:
            if isinstance(outcome, Fetched):
                with self.lock:
                    self.window.arrives(flight.on_disk)
            else:
                self._leave(flight)
        return outcome

    def _store(
        self,
        flight: Flight,
        fetched: Fetched,
        files: Mapping[str, LocalFile | None],
        uploads: Sequence[_plan.Transfer[_urls.Location]],
    ) -> Stored | Failed:
        """Upload what fn returned; the row is done when all of it is stored."""
        try:
            return flight.store(self.prepared, fetched, files, uploads)
        finally:
            self._leave(flight)

    def _leave(self, flight: Flight) -> None:
        """Remove the row's files, which makes room for another row."""
        flight.clean_up()
        with self.lock:
            self.flights.pop(flight.position, None)
            self.window.leaves(flight.on_disk)
            if self.pool is not None:  # without one the calling thread does one thing after the other
                self._fill()


def _free_bytes(prepared: Prepared) -> int:
    try:
        return shutil.disk_usage(prepared.temp_dir or TempDir.parent()).free
    except (OSError, InvalidDatasetError):  # no such place, which the first row finds too
        return 0


def _input_bytes(prepared: Prepared, position: int) -> str:
    row = prepared.rows.row(position)
    wanted = [_transfer.Wanted(row.id, name, at, position) for name, at in row.files.items() if at is not None]
    try:
        return f" ({sum(size for _, size in _transfer.sizes(wanted, prepared.source))} bytes here)"
    except RowError:
        return ""


def _output_bytes(files: Mapping[str, LocalFile | None], flight: Flight) -> int:
    """Return how many bytes fn returned that are not of its inputs."""
    inputs = f"{flight.dirs.input}/"
    return sum(file.size_bytes for file in files.values() if file is not None and not file.path.startswith(inputs))


def _failure_log() -> FailureLog:
    return FailureLog(logger)


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
