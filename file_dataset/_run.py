"""One run of a Pipeline: rows download ahead of fn and upload behind it, and are judged in the order of the input.

The calling thread drives, calls fn, logs and reports progress; threads of the run's own pool do the transfers. A row
moves through these states, and has files on disk in all but the first and the last:

    waiting -> ahead (downloading, then ready) -> in fn -> uploading -> done

A row that is done has an outcome. Outcomes are judged in input order, whatever order they come in: that makes logs,
counts and the row that stops a run those of a run without overlap. Where an outcome may stop the run, no later row is
begun until the rows before it are done and it is judged.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import logging
import os
import shutil
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from file_dataset import _frame, _function, _options, _per_process, _plan, _progress, _stores, _transfer, _urls
from file_dataset._errors import (
    Failure,
    InvalidDatasetError,
    RowError,
    is_disk_full,
    is_fatal,
    is_unanswered,
)
from file_dataset._failure_log import FailureLog
from file_dataset._interrupts import Interrupts
from file_dataset._pool import Pool
from file_dataset._result import PipelineResult, RunStoppedError, causes_of
from file_dataset._secrets import without_userinfo
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from file_dataset._local_file import LocalFile
    from file_dataset._options import Options
    from file_dataset._progress import Report
    from file_dataset._sink import ObjectInfo
    from file_dataset._urls import Location
    from file_dataset._workers.pool import Workers

logger = logging.getLogger(__name__)

T = TypeVar("T")

OnFailure: TypeAlias = Literal["drop", "raise", "record"]

# Codes under which a target refuses every row, when it refuses the first one whole.
_REFUSED_TARGET = frozenset({"NoSuchBucket", "AccessDenied"})
# Codes with which a store answers where it is another one than was meant; "404" is of what is no S3 store.
_NOT_THERE = frozenset({"NoSuchBucket", "NoSuchKey", "404"})
# Rows that got no answer from a store before it counts as down; a guess: few, and more than one bad object.
DOWN_ROWS = 3
# How long a run that is stopped waits for its transfers to give up: they hear of it within 0.1 s, and an upload in
# parts has 5 s to abort what it began (`_transfer`).
_GRACE_S = 6.0
_LOOK_S = 0.1  # how late it notices another interrupt meanwhile; a guess


@dataclass(frozen=True, slots=True)
class Settings:
    """What a Pipeline was given, checked, by the names of its arguments."""

    fn: Callable[..., Any]
    write_options: Mapping[str, Any]
    options: Options | None
    file_columns: Sequence[str] | None
    outputs: Sequence[str] | None
    on_failure: OnFailure
    max_failures: int | None
    max_failed_fraction: float | None
    prefetch: int
    workers: int
    fn_timeout_s: float | None
    worker_env: Mapping[str, str] | None = field(repr=False)
    temp_dir: str | os.PathLike[str] | None
    progress: Report

    @property
    def worker_count(self) -> int:
        """Processes that fn runs in; 0: the calling thread."""
        return self.workers or (1 if self.fn_timeout_s is not None else 0)

    @property
    def slots(self) -> int:
        """Rows that are in fn at once."""
        return max(1, self.worker_count)

    @property
    def window(self) -> int:
        """Rows that have files on disk at once; one where nothing overlaps."""
        return self.slots + self.prefetch + 1 if self.worker_count or self.prefetch else 1


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A row whose files are in its input directory."""

    row: _plan.FileRow
    without_digest: int


@dataclass(frozen=True, slots=True)
class _Done:
    """A row that is stored whole: what the manifest and the files say of it."""

    outputs: Mapping[str, str | None]
    files: tuple[_frame.StoredFile, ...]
    without_digest: int


@dataclass(frozen=True, slots=True)
class _Failed:
    """A row that failed with a RowError, or met what ends the run.

    `is_refused`: the target took none of its outputs, and said why in a way that no later row would escape.
    """

    error: BaseException
    is_refused: bool = False


class _Flight:
    """A row that has, or is about to have, files on disk; at most `window` of them are there."""

    __slots__ = ("cancelled", "dirs", "input_dir", "output_dir", "position", "work")

    input_dir: Path
    output_dir: Path
    dirs: _function.RowDirs

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
        self.dirs = _function.RowDirs(f"{own}/input", f"{own}/output")


class Run:
    """One run over one frame, and what it has done so far."""

    def __init__(
        self,
        settings: Settings,
        contract: _function.Contract | None,
        style: _function.Style,
        frame: pd.DataFrame,
        *,
        kept: list[Workers] | None = None,
    ) -> None:
        """Check the frame against the settings; no request, no file yet.

        Args:
            settings: what the Pipeline was given.
            contract: what fn promises to return.
            style: how fn is called.
            frame: what to run.
            kept: workers that earlier runs have left for this one, which leaves its own for the next.

        Raises:
            InvalidDatasetError: the frame is refused.
        """
        self.settings, self.contract, self.style = settings, contract, style
        prefix = _urls.parse_prefix(settings.write_options["into_path"])
        is_local = isinstance(prefix, Path)
        self.prefix = prefix.absolute() if isinstance(prefix, Path) else prefix
        # fn may change the working directory while later rows download
        self.temp_dir = None if settings.temp_dir is None else Path(settings.temp_dir).absolute()
        rows = _frame.rows_of_frame(frame, settings.file_columns, needs_id=True, local=is_local)
        self.rows = replace(rows, local_paths=_options.takes_local_paths(settings.options))
        _plan.check_file_names(list(self.rows.file_columns), local=True)
        self.total = len(self.rows)
        self.source = _stores.Stores(settings.options)
        own = settings.write_options.get("options")
        self.target = self.source if own is None else _stores.Stores(own)
        self.extra_args = settings.write_options.get("extra_args") or {}
        if self.extra_args and self.total and not is_local:
            # brings botocore along, which local work does without
            from file_dataset._s3.extra_args import check_extra_args

            check_extra_args(self.extra_args)
        self.inputs = self._inputs_at_risk()
        self._check_contract()
        names = self.rows.carried if style.takes_row else ()
        self.carried = {name: _frame._values(frame[name]) for name in names}  # noqa: SLF001  # knows every kind of null
        self.allowed = allowed_failures(settings, self.total)

        # of the calling thread alone, by position: what is done, what failed, and outcomes that wait to be judged
        self.stored: dict[int, _Done] = {}
        self.failed: dict[int, tuple[Failure, ...]] = {}
        self.outcomes: dict[int, _Done | _Failed] = {
            position: _Failed(RowError([failure])) for position, failure in self.rows.failed.items()
        }
        self.judged = 0
        self.failing: list[int] = []  # in this run, judged or not; sorted
        self.suspects: set[int] = set()  # those that may stop the run
        self.is_first_upload = True
        self.unanswered: Counter[str] = Counter()  # rows whose store sent nothing at all
        self.is_down = False
        # the batches that a process runs for Ray are one run
        self.log = (
            FailureLog(logger) if kept is None else _per_process.shared("failure log", lambda: FailureLog(logger))
        )
        self.running: dict[int, tuple[_Flight, _Fetched, Future[object]]] = {}
        self.uploads: dict[int, Future[_Done | _Failed]] = {}
        self.in_fn = 0
        self.workers: Workers | None = None
        self.kept = kept
        self.interrupts = Interrupts()  # those of a caller that has begun to hold them, where there is one
        # shared with the pool's threads, under the lock: which row is next, and who has files on disk
        self.lock = threading.RLock()
        self.limit = self.total
        self.next = 0
        self.is_stopped = False
        self.flights: dict[int, _Flight] = {}
        self.ahead: deque[tuple[_Flight, Future[_Fetched | _Failed]]] = deque()
        self.pool = Pool(settings.window, "file_dataset-run") if settings.window > 1 else None
        self.events: SimpleQueue[None] = SimpleQueue()

    def to_end(self) -> PipelineResult:
        """Run the rows and return the result."""
        self.run_rows()
        if self.total and len(self.failed) == self.total:
            first = self.failed[0][0]
            hint = self.hint()
            logger.error(
                "all %d rows failed; the first: row %r: %s%s", self.total, first.id, first, f". {hint}" if hint else ""
            )
        self.interrupts.result = result = self.result()
        return result

    def run_rows(self) -> None:
        """Run the rows: `stored` and `failed` have what became of them, also when something stops it."""
        try:
            if self.total and not isinstance(self.prefix, Path):
                self.target.check()  # before fn runs, for nothing
            with _progress.reporting(self.settings.progress, self.total) as report:
                self._drive(report)
        finally:
            self.interrupts.is_held = True
            self._stop()
            self.log.close()

    def result(self) -> PipelineResult:
        """Return what is done so far: every stored row, and the failures of the rows that were judged."""
        done = [self.stored[position] for position in sorted(self.stored)]
        stored = {position: self.stored[position].outputs for position in sorted(self.stored)}
        is_record = self.settings.on_failure == "record"
        keep = sorted({*stored, *self.failed}) if is_record else list(stored)
        manifest = _frame.manifest(self.rows, stored, self._output_columns(stored), keep=keep)
        if is_record:
            first = {place: self.failed[position][0] for place, position in enumerate(keep) if position in self.failed}
            manifest = _frame.with_failures(manifest, first)
        failures = [(position, failure) for position in sorted(self.failed) for failure in self.failed[position]]
        return PipelineResult(
            self.rows.frame,
            manifest,
            _frame.failures_frame(self.rows, failures),
            _frame.files_frame(self.rows, [file for row in done for file in row.files]),
            sum(row.without_digest for row in done),
            self.hint(),
        )

    # the calling thread

    def _drive(self, report: Callable[[_progress.Progress], object]) -> None:
        fn = self._made_fn()
        while True:
            has_news = self._harvest()
            self._judge(report)
            if self.judged == self.total:
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

            if self.kept:
                with contextlib.suppress(IndexError):  # another thread took the last
                    self.workers = self.kept.pop()
                    return settings.fn
            try:
                self.workers = Workers(
                    settings.fn,
                    count=settings.worker_count,
                    by_keyword=self.style.by_keyword,
                    takes_row=self.style.takes_row,
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
        """Take what threads and workers have finished; tell whether there was anything."""
        has_news = False
        with self.lock:
            failed = [(flight, one) for flight, future in self.ahead if isinstance(one := _outcome(future), _Failed)]
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

    def _settle(self, position: int, outcome: _Done | _Failed) -> None:
        if isinstance(outcome, _Done):
            self.stored[position] = outcome
        self.outcomes[position] = outcome
        if isinstance(outcome, _Done):
            return
        bisect.insort(self.failing, position)
        error = outcome.error
        is_row = isinstance(error, RowError)
        if not is_row or _is_fatal(error) or (outcome.is_refused and self.is_first_upload):
            self.suspects.add(position)
        if self.allowed is not None and len(self.failing) > self.allowed:
            self.suspects.add(self.failing[self.allowed])
        self.limit = min(self.suspects, default=self.total)

    def _judge(self, report: Callable[[_progress.Progress], object]) -> None:
        """Log, count and report the rows that are done, as far as those before them are.

        Raises:
            RunStoppedError: at a row that stops the run.
        """
        # taken out: fn's error holds what fn had in memory, its traceback's frames
        while (outcome := self.outcomes.pop(self.judged, None)) is not None:
            position, self.judged = self.judged, self.judged + 1
            if position in self.suspects:
                self.suspects.discard(position)
                self.limit = min(self.suspects, default=self.total)
            if isinstance(outcome, _Failed):
                if not isinstance(outcome.error, RowError):
                    raise outcome.error
                self.failed[position] = outcome.error.failures
                if position not in self.rows.failed:
                    self._tell(position, outcome.error, is_refused=outcome.is_refused)
            elif outcome.files:
                self.is_first_upload = False
            report(_progress.Progress(self.judged, self.total, len(self.failed)))

    def _tell(self, position: int, error: RowError, *, is_refused: bool) -> None:
        stage = error.failures[0].stage
        self.log.add(error)
        is_first, self.is_first_upload = self.is_first_upload, self.is_first_upload and stage != "upload"
        if is_refused and is_first:
            message = "Stopped: the target store refused every output of the first row, so no row can be stored."
            raise RunStoppedError(self._with_hint(f"{message} {error}")) from error
        if error.__cause__ is not None and is_fatal(error.__cause__):
            raise RunStoppedError(self._why_fatal(position, error, error.__cause__)) from error
        if is_unanswered(error.__cause__):
            self.unanswered[stage] += 1
            if self.unanswered[stage] >= DOWN_ROWS and (down := self.down()) is not None:
                self.is_down = True
                raise RunStoppedError(f"{down} {error}") from error
        count = bisect.bisect(self.failing, position)
        if self.allowed is None or count <= self.allowed:
            return
        if self.settings.on_failure == "raise":
            message = f"stopped at the first failure (on_failure='raise'): {error}"
            raise RunStoppedError(self._with_hint(message)) from error
        causes = ", ".join(causes_of(self.failed[place][0] for place in self.failing[:count]))
        message = (
            f"{count} of {self.total} rows failed, {limit_text(self.settings, self.total)} allows {self.allowed}: "
            f"{causes}; the last: {error}"
        )
        raise RunStoppedError(self._with_hint(message)) from error

    def hint(self) -> str | None:
        """Return a question about the endpoint where the store has nothing of what any row asked for; None elsewhere.

        One missing key is a missing key: it takes two rows, or a bucket that is not there.
        """
        failed = {position: failures for position, failures in self.failed.items() if position not in self.rows.failed}
        firsts = [failures[0] for failures in failed.values()]
        stages = {one.stage for one in firsts}
        if self.stored or len(stages) != 1 or "fn" in stages or not all(one.code in _NOT_THERE for one in firsts):
            return None
        if len(firsts) == 1 and firsts[0].code != "NoSuchBucket":
            return None
        if "download" in stages and not all(self._is_all(position, row) for position, row in failed.items()):
            return None
        endpoint = (self.source if "download" in stages else self.target).asked_endpoint
        return endpoint and f"The endpoint that was asked was {without_userinfo(endpoint)}: is it the right one?"

    def _is_all(self, position: int, failures: Sequence[Failure]) -> bool:
        files = sum(at is not None for at in self.rows.row(position).files.values())
        return files in (0, len(failures))  # 0: the driver of a Ray Dataset has no cells

    def _with_hint(self, message: str) -> str:
        hint = self.hint()
        return f"{message}. {hint}" if hint else message

    def down(self) -> str | None:
        """Return which store has answered no request of this run, though rows asked it, and what to do; None: none.

        The run of a Pipeline that came by pickle, as in Ray's tasks, is one of many: there it is since the process
        began.
        """
        for stage, store, what in (("download", self.source, "source"), ("upload", self.target, "target")):
            has_answered = store.has_answered if self.kept is None else store.has_ever_answered
            if (count := self.unanswered[stage]) and not has_answered:
                where = f" at {without_userinfo(store.endpoint)}" if store.endpoint else ""
                return (
                    f"Stopped: the {what} store{where} has answered nothing; {count} rows failed, each after all its "
                    "attempts. Check endpoint_url, the network and the proxy settings."
                )
        return None

    def fail_rest(self, message: str) -> None:
        """Let the rows that a store which is down has stopped fail without a request."""
        for position in range(self.total):
            if position not in self.stored and position not in self.failed:
                row_id = self.rows.id_at(position)
                self.failed[position] = (Failure(row_id, "download", None, None, "ConnectionError", None, message),)

    def _why_fatal(self, position: int, error: RowError, cause: BaseException) -> str:
        if not is_disk_full(cause):
            return f"Stopped: every later row would fail in the same way. {error}"
        if error.failures[0].stage == "upload" and isinstance(self.prefix, Path):
            return f"no space left on device in {self.prefix}: {error}"
        place = self.temp_dir or TempDir.parent()
        free = shutil.disk_usage(place).free
        settings = self.settings
        rows, less = "one row is on disk at a time", ""
        if settings.window > 1:
            shown = f"prefetch={settings.prefetch}, workers={settings.worker_count}"
            rows = f"up to {settings.window} rows are on disk at once ({shown})"
            less = "; prefetch=0 needs less" if settings.prefetch else ""
        return (
            f"no space left on device: {rows}, each with its inputs{self._input_bytes(position)} and its outputs, "
            f"in {place}, where {free} bytes are free; temp_dir= puts them elsewhere{less}. {error}"
        )

    def _input_bytes(self, position: int) -> str:
        row = self.rows.row(position)
        wanted = [_transfer.Wanted(row.id, name, at, position) for name, at in row.files.items() if at is not None]
        try:
            return f" ({sum(size for _, size in _transfer.sizes(wanted, self.source))} bytes here)"
        except RowError:
            return ""

    def _begin_fn(self, fn: Callable[..., Any]) -> bool:
        """Call fn for a row whose files are here, or hand it to a worker; tell whether there was one."""
        if self.in_fn >= self.settings.slots or (found := self._take_ready()) is None:
            return False
        flight, fetched = found
        self.in_fn += 1
        self._fill()
        row = self._told(flight.position)
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
                if flight.position > self.limit:
                    return None
                fetched = _outcome(future)
                if isinstance(fetched, _Fetched):
                    del self.ahead[place]
                    return flight, fetched
                if self.workers is None:
                    return None
        return None

    def _told(self, position: int) -> dict[str, Any] | None:
        """Return what fn gets of its row, as plain Python values; None: it does not ask."""
        if not self.style.takes_row:
            return None
        values = {name: column[position] for name, column in self.carried.items()}
        return {_frame.ID: self.rows.id_at(position)} | values

    def _called(
        self, row: _plan.FileRow, fn: Callable[..., Any], flight: _Flight, given: dict[str, Any] | None
    ) -> object:
        cwd = _working_dir()
        try:
            return _function.call(fn, flight.input_dir, flight.output_dir, by_keyword=self.style.by_keyword, row=given)
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
            files = _function.checked_outputs(
                result(), row_id=row.id, contract=self.contract, carried=self.rows.carried, dirs=flight.dirs
            )
            uploads = self._uploads(row, files)
        except (RowError, RunStoppedError) as exc:
            self._settle(flight.position, _Failed(exc))
            self._leave(flight)
            return
        self.uploads[flight.position] = self._submit(self._store, flight, fetched, files, uploads)

    def _uploads(
        self, row: _plan.FileRow, files: Mapping[str, LocalFile | None]
    ) -> list[_plan.Transfer[_urls.Location]]:
        try:
            uploads = _plan.uploads(row.id, files, self.prefix)
        except InvalidDatasetError as exc:  # a key that is too long
            raise RowError([Failure.of(row.id, "upload", exc)]) from exc
        if on_top := [up for up in uploads if self.inputs.intersection(_places(up.target))]:
            message = "the output would replace an input of this frame: choose another into_path"
            raise RowError(
                [Failure(up.row_id, "upload", up.file, str(up.target), "ValueError", None, message) for up in on_top]
            )
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
                if isinstance(outcome := _outcome(upload), _Done):
                    self.stored[position] = outcome
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
        if self.kept is None or self.judged < self.total:
            workers.close()
        else:
            workers.rest()
            self.kept.append(workers)

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
            and self.next <= self.limit
            and len(self.ahead) < settings.prefetch + settings.slots - self.in_fn
            and len(self.flights) < settings.window
        )

    def _fetch(self, flight: _Flight) -> _Fetched | _Failed:
        """Download the row's files into a directory of its own."""
        is_here = False
        try:
            row = self._row_with_files(flight.position)
            self._make_dirs(flight, row)
            downloads = _plan.downloads(row, str(flight.input_dir))
            infos = _transfer.copy_in(downloads, self.source, cancelled=flight.cancelled)
            is_here = True
        except RowError as exc:
            return _Failed(exc)
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
            flight.make_dirs(self.temp_dir)
        except OSError as exc:
            raise RowError([Failure.of(row.id, "download", exc)]) from exc

    def _store(
        self,
        flight: _Flight,
        fetched: _Fetched,
        files: Mapping[str, LocalFile | None],
        uploads: Sequence[_plan.Transfer[_urls.Location]],
    ) -> _Done | _Failed:
        """Upload what fn returned; the row is done when all of it is stored."""
        try:
            infos = _transfer.copy_out(uploads, self.target, self.extra_args, cancelled=flight.cancelled)
        except RowError as exc:
            is_refused = all(failure.code in _REFUSED_TARGET for failure in exc.failures)
            return _Failed(exc, is_refused=is_refused and len(exc.failures) == len(uploads))
        finally:
            self._leave(flight)
        return _Done(
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

    # before the first row

    def _inputs_at_risk(self) -> set[str]:
        """Return the inputs that outputs could replace, as `_places` names them."""
        cells = [cell for column in self.rows.cells.values() for cell in column if cell is not None]
        if isinstance(self.prefix, _urls.ObjectUrl):
            start = str(self.prefix).removesuffix("/") + "/"
            below = {cell for cell in cells if isinstance(cell, str) and cell.startswith(start)}
            # the same URL in another store is another object
            is_one_store = not below or self.target is self.source or self.target.endpoint == self.source.endpoint
            return below if is_one_store else set()
        places: set[str] = set()
        for cell in cells:
            with contextlib.suppress(InvalidDatasetError):  # costs its row when its turn comes
                at = _urls.parse(cell, base=self.rows.base)
                places.update(_places(at) if isinstance(at, Path) else ())
        return places

    def _check_contract(self) -> None:
        """Refuse, before the first request, promised outputs that could be stored in no row.

        Raises:
            InvalidDatasetError: they have the name of a carried column, or lie on top of inputs.
        """
        names = self.contract.names if self.contract else ()
        if taken := [name for name in names if name in self.rows.carried]:
            raise InvalidDatasetError(f"outputs {taken} have the names of carried columns: rename one of them")
        if not self.inputs:
            return
        targets = (
            _urls.join(self.prefix, str(row_id), *name.split("/")) for row_id in self.rows.ids or () for name in names
        )
        if on_top := [str(at) for at in targets if self.inputs.intersection(_places(at))]:
            raise InvalidDatasetError(
                f"outputs would replace inputs of this frame: {on_top[:5]}; choose another into_path"
            )

    def _output_columns(self, stored: Mapping[int, Mapping[str, str | None]]) -> list[str]:
        seen = [name for outputs in stored.values() for name in outputs]
        return list(dict.fromkeys([*(self.contract.names if self.contract else ()), *seen]))


def allowed_failures(settings: Settings, total: int) -> int | None:
    """Return how many rows may fail before the run stops; None: all of them."""
    if settings.on_failure == "raise":
        return 0
    return min(_limits(settings, total).values(), default=None)


def limit_text(settings: Settings, total: int) -> str:
    """Return the argument that allows fewest failed rows, and its value."""
    limits = _limits(settings, total)
    argument = min(limits, key=limits.__getitem__)
    return f"{argument}={getattr(settings, argument)!r}"


def _limits(settings: Settings, total: int) -> dict[str, int]:
    """Return how many failed rows each argument allows that was given."""
    limits = {}
    if settings.max_failures is not None:
        limits["max_failures"] = settings.max_failures
    if (share := settings.max_failed_fraction) is not None:
        # by the comparison that `raise_if_dropped` makes: 0.29 of 100 rows are 29, though 0.29 * 100 is less
        near = int(share * total)
        limits["max_failed_fraction"] = max(
            count for count in (0, near - 1, near, near + 1) if count <= share * total or count / total <= share
        )
    return limits


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


def _outcome(future: Future[T]) -> T | _Failed | None:
    """Return what a finished future has, None where it is not finished."""
    if not future.done():
        return None
    error = future.exception()
    return future.result() if error is None else _Failed(error)


def _is_fatal(error: BaseException) -> bool:
    return error.__cause__ is not None and is_fatal(error.__cause__)


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


def _places(at: Location) -> set[str]:
    """Return what a write to `at` replaces: the object, or the file and what a link of that name leads to."""
    if isinstance(at, _urls.ObjectUrl):
        return {str(at)}
    return {os.path.realpath(at), os.path.join(os.path.realpath(at.parent), at.name)}  # noqa: PTH118
