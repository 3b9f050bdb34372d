"""Finished rows of an asset or partition, written down until its manifest is stored: where, and who goes on from them.

A run begins anew. It goes on when it is a retry of the step, a re-execution of a run, or a partial run: then rows that
the checkpoint has are not run again, whatever ended the run that wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    import pandas as pd


# Dagster's tags of a re-execution from failure
_FROM_FAILURE = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which attempt at a run this is.

    Attributes:
        run_id: of this run.
        root: the first of the runs that this one is a re-execution of; itself where there is none.
        parent: the run that this one is a re-execution of.
        number: how often the step has been retried in this run.
        began: the run in which this began anew: of retries and of re-executions from failure the first one.
    """

    run_id: str
    root: str
    parent: str | None
    number: int
    began: str

    @property
    def goes_on_after_failure(self) -> bool:
        """Whether what an earlier attempt has stored is to be kept: a retry, or a re-execution from failure."""
        return bool(self.number) or self.began != self.run_id

    @property
    def is_first(self) -> bool:
        """Whether nothing of the same run went before."""
        return self.parent is None and not self.number

    @property
    def of_before(self) -> str:
        """Which run has written the checkpoint that this one finds, in words."""
        if self.number:
            return "an earlier attempt of this run"
        return "an earlier run" if self.parent is None else f"run {self.parent}, or one before it"


def attempt_of(context: dg.AssetExecutionContext) -> Attempt | None:
    """Which attempt this is; None where a test calls the asset directly."""
    try:
        context.get_step_execution_context()
    except dg.DagsterError:
        return None
    run = first = context.run
    while first.parent_run_id and any(first.tags.get(tag) == "true" for tag in _FROM_FAILURE):
        parent = context.instance.get_run_by_id(first.parent_run_id)
        if parent is None:
            break
        first = parent
    number = context.op_execution_context.retry_number
    return Attempt(run.run_id, run.root_run_id or run.run_id, run.parent_run_id, number, first.run_id)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Ids of the rows of an input that a checkpoint has, as text.

    Attributes:
        done: they need not run.
        failed: they failed when they last ran.
        changed: they are done from other inputs, with another code_version, or were begun and not finished.
        looked: whether inputs were looked at, as they are now.
    """

    done: AbstractSet[str] = field(default_factory=frozenset)
    failed: AbstractSet[str] = field(default_factory=frozenset)
    changed: AbstractSet[str] = field(default_factory=frozenset)
    looked: bool = False

    @property
    def all(self) -> AbstractSet[str]:
        """Every row that it has."""
        return self.done | self.failed | self.changed


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where finished rows are written down.

    Attributes:
        place: a prefix or a directory.
        options: how its store is reached.
        code_version: of the asset.
        note: writes beside it which data versions of the input its rows are of, by partition; None: not known.
        noted: reads that.
    """

    place: str
    options: file_dataset.Options
    code_version: str | None
    note: Callable[[Mapping[str, str] | None], None]
    noted: Callable[[], Mapping[str, str] | None]

    @property
    def is_local(self) -> bool:
        """Whether it is a directory, and no prefix in S3."""
        return not self.place.startswith("s3://")

    def begin(self, versions: Mapping[str, str] | None) -> None:
        """Forget all rows, before some of these data versions of the input run.

        Raises:
            file_dataset.FileDatasetError: the store refuses.
        """
        self.remove()
        self.note(versions)

    def go_on(
        self,
        pipeline: file_dataset.Pipeline,
        frame: pd.DataFrame,
        versions: Mapping[str, str] | None,
        *,
        looks: bool,
    ) -> Recorded:
        """What it has of these rows.

        Inputs are looked at (one HEAD per file of a row that is done) where they may be others than those that were
        read: where the input has another data version.

        Args:
            pipeline: what runs them.
            frame: the input.
            versions: the data versions of the input; None: not known.
            looks: look at inputs in any case.

        Raises:
            file_dataset.FileDatasetError: it cannot be read; or the frame is refused.
        """
        looks = looks or versions is None or self.noted() != versions
        rows = pipeline.plan(frame, check_inputs=looks, **self.arguments()).rows
        ids = rows["id"].astype(object).map(str)
        done, failed, changed = (frozenset(ids[rows["state"] == state]) for state in ("same", "failed", "changed"))
        recorded = Recorded(done, failed, changed, looks)
        if looks:  # until all rows that changed have run, some are of the one and some of the other
            self.note(versions if not recorded.all else None)
        return recorded

    def arguments(self, *, only_for: str = "") -> dict[str, Any]:
        """The arguments of a run that uses it. `only_for`: rows are done for runs alone that say the same."""
        version = f"{self.code_version or ''} {only_for}" if only_for else self.code_version
        return {"checkpoint": self.place, "checkpoint_options": self.options, "code_version": version}

    def failures(self, ids: AbstractSet[str]) -> pd.DataFrame:
        """The failures of these rows."""
        failures = file_dataset.PipelineResult.load(self.place, options=self.options).failures
        return failures[failures["id"].astype(object).map(str).isin(ids)].reset_index(drop=True)

    def remove(self) -> None:
        """Have the next run begin anew.

        Raises:
            file_dataset.RowError: the store refuses.
        """
        file_dataset.remove_checkpoint(self.place, options=self.options)
