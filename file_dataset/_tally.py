"""What became of a run's rows so far: outcomes are put in, it stops the run where one must, and makes the result.

A run has one, and so has the driver of a run on Ray, whose tasks have one each.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from file_dataset import _frame, _urls, _verdict
from file_dataset._columns import Records
from file_dataset._errors import Failure, RowError, is_disk_full, is_unanswered
from file_dataset._result import Cause, PipelineResult, RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from file_dataset._columns import Positions
    from file_dataset._errors import Stage
    from file_dataset._failure_log import FailureLog
    from file_dataset._outputs import Contract
    from file_dataset._settings import Settings
    from file_dataset._sink import ObjectInfo
    from file_dataset._stores import Stores
    from file_dataset._urls import Location

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A row that is stored whole: what the manifest and the files record of it, and the files that were read for it.

    `was_there`: its outputs were, before the run, which has neither read nor stored anything for it.
    """

    outputs: Mapping[str, str | None]
    files: tuple[_frame.StoredFile, ...]
    without_digest: int
    inputs: tuple[_frame.InputFile, ...] = ()
    was_there: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that failed.

    `is_refused`: the target took none of its outputs, for a reason that no later row would escape. `is_all`:
    none of its inputs could be downloaded. `is_recorded`: the failure is an earlier Pipeline's. `inputs`: the files
    that were read for it; none where the download failed.
    """

    error: RowError
    is_refused: bool = False
    is_all: bool = False
    is_recorded: bool = False
    inputs: tuple[_frame.InputFile, ...] = ()


Outcome: TypeAlias = Stored | Failed
T = TypeVar("T")


def stored_file(position: int, file: str, at: Location, info: ObjectInfo) -> _frame.StoredFile:
    """Return the record of a stored output of the row at a position."""
    checksum = None if info.digest is None else str(info.digest)
    return _frame.StoredFile(position, file, str(at), info.size_bytes, info.etag, checksum)


class Journal(Protocol):
    """What writes rows down as they are done (`_checkpoint`)."""

    def put(self, position: int, outcome: Outcome) -> None:
        """Take a row."""

    def check(self) -> None:
        """Stop the run when rows cannot be written down."""


class _Rows(Mapping[int, T]):
    """Rows by position, whose values are made of the columns of their records when they are asked for."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def __contains__(self, position: object) -> bool:
        return position in self.records

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[int]:
        return iter(self.records)


class StoredRows(_Rows[Stored]):
    """The rows that are stored."""

    def __init__(self, total: int) -> None:
        super().__init__(Records(total, _frame.FILES_COLUMNS[1:], numbers=["size_bytes"], few=["file"]))
        self._without_digest = array("q", [0]) * total

    def put(self, position: int, row: Stored) -> bool:
        """Take a row; return False where it was put before, and stays as it is."""
        is_new = self.records.put(position, _records(row))
        if is_new:
            self._without_digest[position] = row.without_digest
        return is_new

    def __getitem__(self, position: int) -> Stored:
        outputs: dict[str, str | None] = {}
        files: list[_frame.StoredFile] = []
        directory = _InDirectory()
        for record in self.records.of(position):
            name, location = record[:2]
            if not directory.has(position, location):
                outputs[name] = location
            if location is not None and not _urls.is_directory(location):
                files.append(_frame.StoredFile(position, *record))
        return Stored(outputs, tuple(files), self._without_digest[position])

    @property
    def without_digest(self) -> int:
        """Downloads without a digest, of all rows."""
        return sum(self._without_digest)

    def columns(self, promised: Iterable[str], keep: Positions) -> dict[str, list[str | None]]:
        """Return where the outputs of these rows lie: first those that are promised, then others as rows have them."""
        total = len(self._without_digest)
        found: dict[str, list[str | None]] = {name: [None] * total for name in promised}
        positions, columns = self.records.in_order()
        directory = _InDirectory()
        for position, name, location in zip(positions, columns["file"], columns["location"], strict=True):
            if directory.has(position, location):
                continue
            if name not in found:
                found[name] = [None] * total
            found[name][position] = location
        return {name: [column[position] for position in keep] for name, column in found.items()}

    def files(self) -> tuple[Positions, dict[str, Iterable[Any]]]:
        """Return the row of each stored file, and the columns of the frame of files."""
        positions, columns = self.records.in_order()
        is_there = [not (at is None or _urls.is_directory(at)) for at in columns["location"]]
        if all(is_there):
            return positions, dict(columns)
        return positions[is_there], {name: list(compress(column, is_there)) for name, column in columns.items()}


def _records(row: Stored) -> Iterator[tuple[str, str | None, int, str | None, str | None]]:
    """Yield a record for each output and its file, null where there is none; one for a directory, then its files."""
    files = {file.file: file for file in row.files}
    below: dict[str, list[_frame.StoredFile]] = {}
    directories = tuple(at for at in row.outputs.values() if at is not None and _urls.is_directory(at))
    for file in row.files if directories else ():
        if at := next((at for at in directories if file.location.startswith(at)), None):
            below.setdefault(at, []).append(file)
    for name, location in row.outputs.items():
        if (single := files.get(name)) is not None:
            yield _record(single)
        else:
            yield name, location, 0, None, None
            yield from map(_record, below.get(location or "", ()))


def _record(file: _frame.StoredFile) -> tuple[str, str | None, int, str | None, str | None]:
    return file.file, file.location, file.size_bytes, file.etag, file.checksum


class _InDirectory:
    """Whether a record is of an object of a directory, whose own record comes before it."""

    __slots__ = ("_location", "_position")

    def __init__(self) -> None:
        self._location, self._position = "", -1

    def has(self, position: int, location: str | None) -> bool:
        """Take the next record."""
        if location is None:
            return False
        if self._location and position == self._position and location.startswith(self._location):
            return True
        self._location, self._position = (location if _urls.is_directory(location) else ""), position
        return False


class FailedRows(_Rows[tuple[Failure, ...]]):
    """The failures of the rows that failed."""

    def __init__(self, total: int) -> None:
        few = ["error_stage", "error_file", "error_type", "error_code"]
        super().__init__(Records(total, _frame.FAILURE_COLUMNS, few=few, shared=[_frame.ID]))

    def put(self, position: int, failures: Iterable[Failure]) -> bool:
        """Take a row; return False where it was put before, and stays as it is."""
        return self.records.put(position, map(_values, failures))

    def __getitem__(self, position: int) -> tuple[Failure, ...]:
        return tuple(Failure(*record) for record in self.records.of(position))


class InputRows(_Rows[tuple[_frame.InputFile, ...]]):
    """The files that were read for the rows that are stored or have failed; rows without any are not here."""

    def __init__(self, total: int) -> None:
        super().__init__(
            Records(total, _frame.INPUTS_COLUMNS[1:], numbers=["size_bytes"], few=["file"], shared=["location"])
        )

    def put(self, position: int, inputs: tuple[_frame.InputFile, ...]) -> None:
        """Take the files of a row; those of one that was put before stay as they are."""
        if inputs:
            self.records.put(position, map(_input_values, inputs))

    def __getitem__(self, position: int) -> tuple[_frame.InputFile, ...]:
        return tuple(_frame.InputFile(position, *record) for record in self.records.of(position))


# of a file that was read and of a failure, in the order of the columns
_input_values = attrgetter(*_frame.INPUTS_COLUMNS[1:])
_values = attrgetter(*(name.removeprefix("error_") for name in _frame.FAILURE_COLUMNS))


class Tally:
    """The outcomes of rows, by position; they may be put in any order."""

    def __init__(  # noqa: PLR0913  # what a verdict takes
        self,
        settings: Settings,
        contract: Contract | None,
        total: int,
        stores: tuple[Stores, Stores],
        *,
        log: FailureLog | None = None,
        why_full: Callable[[int, RowError], str] | None = None,
        is_part: bool = False,
        has_first_row: bool = True,
        kept: int = 0,
        journal: Journal | None = None,
    ) -> None:
        """Start with none.

        Args:
            settings: what stops the run.
            contract: output columns that the manifest has in any case.
            total: rows that are run.
            stores: those of the inputs and of the outputs.
            log: where failed rows are logged; None: nowhere, others have done it.
            why_full: explains what a full disk means for the row at a position.
            is_part: this is one of many runs of this process, as for Ray: a store that answered another one is up.
            has_first_row: whether the input's first row is among these, whose refused upload stops the run.
            kept: rows of the input beside these, which were done before.
            journal: writes down what is put; None: nothing does.
        """
        self._settings, self._contract, self._total = settings, contract, total
        self._whole, self._journal = total + kept, journal
        self._source, self._target = stores
        self._log, self._why_full, self._is_part = log, why_full, is_part
        self._allowed = _verdict.allowed_failures(settings, self._whole)
        self._first_upload = total if has_first_row else -1  # the first position whose upload was tried
        # of the rows that failed in this run, and not in an earlier Pipeline
        self._causes: Counter[Cause] = Counter()
        self._misses = bytearray(total)  # by row: 1 where all of its files failed
        self._first_own = self._last_own = -1  # in the order they came
        self._unanswered: Counter[Stage] = Counter()  # rows whose store sent nothing at all
        self.stored = StoredRows(total)
        self.failed = FailedRows(total)
        self.inputs = InputRows(total)
        self.is_down = False  # what stopped the run is a store that answers nothing
        self.is_over_limit = False  # what stopped the run is one failed row more than are allowed

    @property
    def own_failures(self) -> int:
        """Rows that failed in this run, and not in an earlier Pipeline."""
        return self._causes.total()

    def put(self, position: int, outcome: Outcome) -> None:
        """Take a row's outcome; the first one of a row counts."""
        # before the row itself: Ctrl-C between the two has it put again
        self.inputs.put(position, outcome.inputs)
        if isinstance(outcome, Stored):
            if self.stored.put(position, outcome):
                self._write_down(position, outcome)
            if outcome.files and not outcome.was_there:
                self._first_upload = min(self._first_upload, position)
            return
        if self.failed.put(position, outcome.error.failures) and not outcome.is_recorded:
            first = outcome.error.failures[0]
            self._causes[Cause(first.stage, first.type, first.code)] += 1
            if outcome.is_all:
                self._misses[position] = 1
            self._first_own = position if self._first_own < 0 else self._first_own
            self._last_own = position
            if first.stage == "upload":
                self._first_upload = min(self._first_upload, position)
            self._write_down(position, outcome)

    def _write_down(self, position: int, outcome: Outcome) -> None:
        if self._journal is not None:
            self._journal.put(position, outcome)

    def check_journal(self) -> None:
        """Stop the run when what is done cannot be written down.

        Raises:
            RunStoppedError: it cannot.
        """
        if self._journal is not None:
            self._journal.check()

    def may_stop(self, position: int, failed: Failed) -> bool:
        """Whether the outcome of this row, which may not be put yet, can stop the run whatever the others are."""
        return _verdict.is_doomed(failed.error) or (failed.is_refused and position <= self._first_upload)

    def judge(self, position: int, failed: Failed) -> None:
        """Log the failure of a row that was put, after those before it.

        Raises:
            RunStoppedError: it stops the run.
        """
        if failed.is_recorded:
            return
        error = failed.error
        if self._log is not None:
            self._log.add(error)
        if failed.is_refused and position <= self._first_upload:
            raise RunStoppedError(_verdict.with_hint(_verdict.refused_target(error), self.hint())) from error
        if _verdict.is_doomed(error):
            assert error.__cause__ is not None, "is_doomed"  # noqa: S101
            is_full = is_disk_full(error.__cause__) and self._why_full is not None
            message = self._why_full(position, error) if is_full and self._why_full else _verdict.doomed(error)
            raise RunStoppedError(message) from error
        if is_unanswered(error.__cause__):
            stage = error.failures[0].stage
            self._unanswered[stage] += 1
            if self._unanswered[stage] >= _verdict.DOWN_ROWS and (down := self.down()) is not None:
                self.is_down = True
                raise RunStoppedError(f"{down} {error}") from error
        self.check_count(error)

    def check_count(self, error: RowError | None = None) -> None:
        """Stop the run when more rows have failed than may.

        Args:
            error: why the last of them failed; None: as its failures have it.

        Raises:
            RunStoppedError: they are too many.
        """
        if self._allowed is None or self.own_failures <= self._allowed:
            return
        self.is_over_limit = True
        chosen = self._first_own if self._settings.on_failure == "raise" else self._last_own
        message = _verdict.too_many(self._settings, self._whole, self._causes, error or RowError(self.failed[chosen]))
        raise RunStoppedError(_verdict.with_hint(message, self.hint())) from error

    def hint(self) -> str | None:
        """Return a question about the endpoint where the store has nothing that any row reads; None elsewhere."""
        if self.stored:
            return None
        stage = _verdict.stage_with_nothing(self._causes, sum(self._misses))
        if stage is None:
            return None
        endpoint = (self._source if stage == "download" else self._target).request_endpoint
        return _verdict.endpoint_question(endpoint) if endpoint else None

    def misses_all(self, position: int) -> bool:
        """Return whether none of a row's inputs could be downloaded."""
        return bool(self._misses[position])

    def fail_rest(self, rows: _frame.Rows, message: str) -> None:
        """Let the rows fail without a request that a store which is down has stopped."""
        for position in range(self._total):
            if position not in self.stored and position not in self.failed:
                failure = Failure(rows.id_at(position), "download", None, None, "ConnectionError", None, message)
                self.put(position, Failed(RowError([failure])))

    def down(self) -> str | None:
        """Return which store has answered no request, though rows asked it, and what to do; None: none."""
        stages: tuple[tuple[Stage, Stores, str], ...] = (
            ("download", self._source, "source"),
            ("upload", self._target, "target"),
        )
        for stage, store, what in stages:
            has_answered = store.has_ever_answered if self._is_part else store.has_answered
            if (count := self._unanswered[stage]) and not has_answered:
                return _verdict.store_down(what, store.endpoint, count)
        return None

    def log_if_all_failed(self) -> None:
        """Log the first failure where every row failed: the result is empty, and no error is raised."""
        if self._whole and len(self.failed) == self._whole:
            first = self.failed[0][0]
            shown = _verdict.with_hint(f"row {first.id!r}: {first}", self.hint())
            logger.error("all %d rows failed; the first: %s", self._whole, shown)

    def result(self, rows: _frame.Rows) -> PipelineResult:
        """Return the result so far, in input order: every stored row, every failure.

        Args:
            rows: the input, as far as it is known; positions are those of its frame.
        """
        is_stored, has_failed = self.stored.records.known(), self.failed.records.known()
        is_record = self._settings.on_failure == "record"
        keep = (is_stored | has_failed if is_record else is_stored).nonzero()[0]
        promised = self._contract.names if self._contract else ()
        manifest = _frame.manifest(rows, self.stored.columns(promised, keep), keep=keep)
        if is_record:
            manifest = _frame.with_failures(manifest, self.failed.records.firsts(keep))
        return PipelineResult(
            rows.frame,
            manifest,
            _frame.failures_frame(rows, *self.failed.records.in_order()),
            _frame.files_frame(rows, *self.stored.files()),
            self.stored.without_digest,
            self.hint(),
            inputs=_frame.inputs_frame(rows, *self.inputs.records.in_order()),
        )
