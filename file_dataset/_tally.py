"""What became of a run's rows so far: outcomes are put in, it stops the run where one must, and makes the result.

A run has one, and so has the driver of a run on Ray, whose tasks have one each.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from file_dataset import _frame, _verdict
from file_dataset._errors import Failure, RowError, is_disk_full, is_unanswered
from file_dataset._result import PipelineResult, RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from file_dataset._errors import Stage
    from file_dataset._failure_log import FailureLog
    from file_dataset._outputs import Contract
    from file_dataset._settings import Settings
    from file_dataset._stores import Stores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A row that is stored whole: what the manifest and the files record of it."""

    outputs: Mapping[str, str | None]
    files: tuple[_frame.StoredFile, ...]
    without_digest: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that failed.

    `is_refused`: the target took none of its outputs, for a reason that no later row would escape. `is_all`:
    none of its inputs could be downloaded. `is_recorded`: the failure is an earlier Pipeline's.
    """

    error: RowError
    is_refused: bool = False
    is_all: bool = False
    is_recorded: bool = False


Outcome: TypeAlias = Stored | Failed


class Tally:
    """The outcomes of rows, by position, in whatever order they are put."""

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
    ) -> None:
        """Start with none.

        Args:
            settings: what stops the run.
            contract: output columns that the manifest has in any case.
            total: rows of the input.
            stores: those of the inputs and of the outputs.
            log: where failed rows are logged; None: nowhere, others have done it.
            why_full: explains what a full disk means for the row at a position.
            is_part: this is one of many runs of this process, as for Ray: a store that answered another one is up.
            has_first_row: whether the input's first row is among these, whose refused upload stops the run.
        """
        self._settings, self._contract, self._total = settings, contract, total
        self._source, self._target = stores
        self._log, self._why_full, self._is_part = log, why_full, is_part
        self._allowed = _verdict.allowed_failures(settings, total)
        self._first_upload = total if has_first_row else -1  # the first position whose upload was tried
        self._own: dict[int, bool] = {}  # failed in this run, in the order they came: whether all files of the row did
        self._unanswered: Counter[Stage] = Counter()  # rows whose store sent nothing at all
        self.stored: dict[int, Stored] = {}
        self.failed: dict[int, tuple[Failure, ...]] = {}
        self.is_down = False  # what stopped the run is a store that answers nothing
        self.is_over_limit = False  # what stopped the run is one failed row more than are allowed

    @property
    def own_failures(self) -> int:
        """Rows that failed in this run, and not in an earlier Pipeline."""
        return len(self._own)

    def put(self, position: int, outcome: Outcome) -> None:
        """Take a row's outcome."""
        if isinstance(outcome, Stored):
            self.stored[position] = outcome
            if outcome.files:
                self._first_upload = min(self._first_upload, position)
            return
        self.failed[position] = outcome.error.failures
        if not outcome.is_recorded:
            self._own[position] = outcome.is_all
            if outcome.error.failures[0].stage == "upload":
                self._first_upload = min(self._first_upload, position)

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
        if self._allowed is None or len(self._own) <= self._allowed:
            return
        self.is_over_limit = True
        firsts = [self.failed[position][0] for position in self._own]
        chosen = list(self._own)[0 if self._settings.on_failure == "raise" else -1]
        message = _verdict.too_many(self._settings, self._total, firsts, error or RowError(self.failed[chosen]))
        raise RunStoppedError(_verdict.with_hint(message, self.hint())) from error

    def hint(self) -> str | None:
        """Return a question about the endpoint where the store has nothing that any row reads; None elsewhere."""
        if self.stored:
            return None
        stage = _verdict.stage_with_nothing((self.failed[at][0], is_all) for at, is_all in self._own.items())
        if stage is None:
            return None
        endpoint = (self._source if stage == "download" else self._target).request_endpoint
        return _verdict.endpoint_question(endpoint) if endpoint else None

    def misses_all(self, position: int) -> bool:
        """Return whether none of a row's inputs could be downloaded."""
        return self._own.get(position, False)

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
        if self._total and len(self.failed) == self._total:
            first = self.failed[0][0]
            shown = _verdict.with_hint(f"row {first.id!r}: {first}", self.hint())
            logger.error("all %d rows failed; the first: %s", self._total, shown)

    def result(self, rows: _frame.Rows) -> PipelineResult:
        """Return the result so far, in input order: every stored row, every failure.

        Args:
            rows: the input, as far as it is known; positions are those of its frame.
        """
        stored = {position: self.stored[position].outputs for position in sorted(self.stored)}
        is_record = self._settings.on_failure == "record"
        keep = sorted({*stored, *self.failed}) if is_record else list(stored)
        seen = [name for outputs in stored.values() for name in outputs]
        columns = list(dict.fromkeys([*(self._contract.names if self._contract else ()), *seen]))
        manifest = _frame.manifest(rows, stored, columns, keep=keep)
        if is_record:
            first = {place: self.failed[position][0] for place, position in enumerate(keep) if position in self.failed}
            manifest = _frame.with_failures(manifest, first)
        failures = [(position, failure) for position in sorted(self.failed) for failure in self.failed[position]]
        done = [self.stored[position] for position in stored]
        return PipelineResult(
            rows.frame,
            manifest,
            _frame.failures_frame(rows, failures),
            _frame.files_frame(rows, [file for row in done for file in row.files]),
            sum(row.without_digest for row in done),
            self.hint(),
        )
