"""The rows of one input: which run, which a checkpoint has, and the result of all, merged with what is stored."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster import _on_ray
from file_dataset_dagster._checkpoints import Attempt, Checkpoint, Recorded
from file_dataset_dagster._dropped_rows import Comparison
from file_dataset_dagster._logs import lines_in
from file_dataset_dagster._partial_runs import PartialRun, Stored, check_outputs, ids_of, rows_to_run, rows_with
from file_dataset_dagster._provenance import AfterPart, Origins, after_part, looked_at, other_rows
from file_dataset_dagster._settings import Settings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RowsDone:
    """What became of the rows of an input.

    Attributes:
        result: of all of them.
        rows_run: how many ran.
        after: of what the stored rows are then.
        compared: the input with what was there, where the run was to find that out.
        finished: how many of those that ran now, or in the run that this one goes on from, the checkpoint has.
    """

    result: file_dataset.PipelineResult
    rows_run: int
    after: AfterPart
    finished: int = 0
    compared: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one input, before they run.

    Attributes:
        context: of the run.
        settings: of the asset.
        wanted: which rows are to run.
        pipeline: what runs them.
        options: how the input's files are reached.
        attempt: which attempt this is; None: there is no run.
        checkpoint: where rows are written down; None: nowhere.
    """

    context: dg.AssetExecutionContext
    settings: Settings
    wanted: PartialRun
    pipeline: file_dataset.Pipeline
    options: file_dataset.Options
    attempt: Attempt | None
    checkpoint: Checkpoint | None

    def run(self, frame: pd.DataFrame, now: Origins, stored: Stored | None) -> RowsDone:
        """Run the rows that are wanted.

        Args:
            frame: the input.
            now: what its rows are.
            stored: what is stored of the last run, for a part of the rows to be merged into.
        """
        known = None if stored is None else stored.of_input(frame)
        before = Origins() if stored is None else stored.origins
        changed = set() if known is None else other_rows(now, before)
        same: AbstractSet[str] = frozenset()
        with lines_in(self.context.log, hides_ids=not self.settings.policy.show_ids):
            recorded = self._recorded(frame, now)
            if self.wanted.only_changed and stored is not None and known is not None:
                older = ids_of(known.manifest) - recorded.all - changed
                changed |= older if stored.inputs is None else self._with_other_files(frame, older, known)
                same = older - changed
            to_run = rows_to_run(frame, self.wanted, known, changed, recorded)
            done = recorded.done - ids_of(to_run)
            ran = self._run(frame, to_run, done, looks=recorded.looked and bool(recorded.changed))
        if known is not None and len(ran.manifest):
            check_outputs(known.manifest, ran.manifest, "the rows of this run have the outputs")
        result = ran
        if self.wanted.is_partial:
            base = _without_rows(ran, frame) if known is None else known
            if self.checkpoint is not None and (failed := recorded.failed - ids_of(to_run)):
                base = base.merge(replace(_without_rows(base, frame), failures=self.checkpoint.failures(failed)))
            result = base.merge(ran)
        finished = 0 if self.checkpoint is None else len(ran.manifest)
        before = looked_at(before, now, same, is_all=same >= ids_of(frame) - ids_of(to_run) - done)
        ran_on_this = ids_of(to_run) | done | (frozenset() if recorded.looked else recorded.failed)
        after = after_part(now, before, ran_on_this)
        # rows that did not run keep what is known of them, which may be no inputs
        has_inputs = stored is None or stored.inputs is not None or not after.left
        after = replace(after, origins=replace(after.origins, has_inputs=has_inputs, **self._stored_by))
        compared = _compared(frame, stored, known, recorded, changed) if self.wanted.only_changed else None
        return RowsDone(result, len(to_run), after, finished, compared)

    @property
    def _stored_by(self) -> dict[str, Any]:
        return {"began": self.attempt and self.attempt.began, "code_version": self.settings.code_version}

    def of_this_run(self, stored: Stored | None) -> bool:
        """Whether an attempt before this one has stored that, with the same code_version, and this one goes on."""
        if stored is None or self.attempt is None or not self.attempt.goes_on_after_failure:
            return False
        return (stored.origins.began, stored.origins.code_version) == tuple(self._stored_by.values())

    def _with_other_files(
        self, frame: pd.DataFrame, ids: AbstractSet[str], known: file_dataset.PipelineResult
    ) -> frozenset[str]:
        """Which of these rows have a file that is no longer what was read."""
        return ids_of(file_dataset.changed_rows(rows_with(frame, ids), known.inputs, options=self.options))

    def _recorded(self, frame: pd.DataFrame, now: Origins) -> Recorded:
        """What the checkpoint has, where this run goes on from it; else it begins anew."""
        if self.checkpoint is None or self.attempt is None:
            return Recorded()
        if self.attempt.is_first and not self.wanted.is_partial:
            self.checkpoint.begin(now.versions)
            return Recorded()
        recorded = self.checkpoint.go_on(self.pipeline, frame, now.versions, looks=self.wanted.only_changed)
        if recorded.done:
            count, whose = len(recorded.done), self.attempt.of_before
            self.context.log.info("going on: %d of %d rows were done by %s", count, len(frame), whose)
        return recorded

    def _run(
        self, frame: pd.DataFrame, to_run: pd.DataFrame, done: AbstractSet[str], *, looks: bool
    ) -> file_dataset.PipelineResult:
        """Return the result of rows that run and of those that are done."""
        if self.checkpoint is None or self.attempt is None:
            return self._run_rows(to_run)
        if self.wanted.ids is None:
            rows = rows_with(frame, ids_of(to_run) | done) if self.wanted.is_partial else frame
            return self._run_rows(rows, **self.checkpoint.arguments(), check_inputs=looks)
        # whatever the checkpoint has of them, but for what an attempt at this very run has done
        ran = self._run_rows(to_run, **self.checkpoint.arguments(only_for=f"ids of run {self.attempt.root}"))
        return self.pipeline.run(rows_with(frame, done), **self.checkpoint.arguments()).merge(ran) if done else ran

    def _run_rows(self, rows: pd.DataFrame, **checkpoint: Any) -> file_dataset.PipelineResult:  # noqa: ANN401
        if self.settings.ray is None:
            return self.pipeline.run(rows, **checkpoint)
        return _on_ray.run_on_ray(self.pipeline, rows, self.settings.ray, self.context, **checkpoint)


def _compared(
    frame: pd.DataFrame,
    stored: Stored | None,
    known: file_dataset.PipelineResult | None,
    recorded: Recorded,
    changed: AbstractSet[str],
) -> Comparison:
    now = ids_of(frame)
    good = frozenset() if known is None else ids_of(known.manifest)
    bad = frozenset() if known is None else ids_of(known.failures)
    failed = ((bad - good) | recorded.failed) - recorded.done
    other = ((changed | recorded.changed) - recorded.done - failed) & (good | recorded.all)
    new = now - good - bad - recorded.all
    gone = frozenset() if stored is None else ids_of(stored.manifest) - now
    unchanged = len(now) - len(new) - len(failed) - len(other)
    return Comparison(len(new), len(failed), len(other), len(gone), unchanged)


def _without_rows(result: file_dataset.PipelineResult, frame: pd.DataFrame) -> file_dataset.PipelineResult:
    """Return the result of a run over the frame that has processed no row."""
    empty: dict[str, Any] = {of: getattr(result, of).head(0) for of in ("manifest", "failures", "files", "inputs")}
    return replace(result, input=frame, files_without_digest=0, hint=None, counts=None, **empty)
