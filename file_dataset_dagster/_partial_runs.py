"""Runs over a part of the input: which rows run, and what of the last run stays. Pure: no I/O, no context."""

# no `from __future__ import annotations` here: Dagster reads a config's annotations as types

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
from pydantic import Field

import file_dataset
from file_dataset_dagster._checkpoints import Recorded
from file_dataset_dagster._provenance import Origins

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5  # ids in a message; a guess
_NOTHING = Recorded()


class PartialRun(dg.Config):
    """Run config of every `pipeline_asset`: without it all rows of the input run."""

    only_missing: bool = Field(
        default=False,
        description="Run only the rows of the input that the manifest does not have (failed ones and new ones), or has "
        "from other input locations or carried values. Rows that a run finished which did not store its manifest (it "
        "was killed, say) do not run again.",
    )
    only_changed: bool = Field(
        default=False,
        description="Run what only_missing runs, and the rows of which a file is no longer what was read: one HEAD per "
        "file, none where the input has a column <file>.etag.",
    )
    limit: int | None = Field(
        default=None, description="With only_missing: true or only_changed: true, run at most so many rows."
    )
    ids: list[str] | None = Field(
        default=None,
        description="Run only these rows of the input, also those that a run finished which did not store its "
        "manifest; its other rows are kept.",
    )

    def check(self) -> None:
        """Refuse what has no meaning together.

        Raises:
            file_dataset.InvalidDatasetError: with the remedy.
        """
        if self.ids is not None and (self.only_missing or self.only_changed or self.limit is not None):
            raise file_dataset.InvalidDatasetError(
                "run config has ids and only_missing, only_changed or limit: give ids alone, or only_missing or "
                "only_changed"
            )
        if self.limit is not None and not (self.only_missing or self.only_changed):
            raise file_dataset.InvalidDatasetError("run config has limit alone: give only_missing: true beside it")
        if self.limit is not None and self.limit < 1:
            raise file_dataset.InvalidDatasetError(f"limit={self.limit}: give the number of rows to run, 1 or more")

    @classmethod
    def config_field(cls) -> dg.Field:
        """Return the run config's schema. What `check` refuses is refused at launch, before there is a run."""
        fields: Any = vars(cls.to_config_schema().as_field().config_type)["fields"]
        return dg.Field(_CheckedShape(fields, "Which rows run; without it all of the input."), is_required=False)

    @property
    def is_partial(self) -> bool:
        """Whether some rows are left out."""
        return self.only_missing or self.only_changed or self.ids is not None


class _CheckedShape(dg.Shape):
    """The fields of PartialRun, checked together."""

    def __new__(cls, *_: Any) -> Self:  # noqa: ANN401 (what __init__ takes)
        made = object.__new__(cls)  # dg.Shape makes plain shapes, and keeps them by their fields
        made._initialized = False
        return made

    def post_process(self, value: Any) -> Any:  # noqa: ANN401 (a mapping of the fields)
        PartialRun(**value).check()
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What is stored of the last run.

    `rejected`: failures of a later run, whose manifest was not stored. `inputs`: the files that were read; None: they
    are not stored.
    """

    manifest: "pd.DataFrame"
    failures: "pd.DataFrame"
    files: "pd.DataFrame"
    files_without_digest: int
    rejected: "pd.DataFrame"
    origins: Origins = field(default_factory=Origins)
    inputs: "pd.DataFrame | None" = None

    def of_input(self, frame: "pd.DataFrame") -> file_dataset.PipelineResult:
        """What is known of the rows of this input: ids that left it leave, and rows that failed later are failed.

        A rejected run proves that its failed rows do not succeed any more: kept, their old rows would turn the check
        green.
        """
        import pandas as pd

        known = set(_texts(frame))
        failed = set(_texts(self.rejected)) & known
        failures = [rows_with(self.failures, known - failed), rows_with(self.rejected, failed)]
        filled = [part for part in failures if len(part)] or failures[:1]
        result = file_dataset.PipelineResult(
            frame,
            rows_with(self.manifest, known - failed),
            pd.concat(filled, ignore_index=True),
            rows_with(self.files, known - failed),
            self.files_without_digest,
        )
        return result if self.inputs is None else replace(result, inputs=rows_with(self.inputs, known - failed))


def rows_to_run(
    frame: "pd.DataFrame",
    wanted: PartialRun,
    known: file_dataset.PipelineResult | None,
    changed: AbstractSet[str] = frozenset(),
    recorded: Recorded = _NOTHING,
) -> "pd.DataFrame":
    """The rows of the input that run, in its order. `known` is what the last run left of them.

    Args:
        frame: the input.
        wanted: which rows.
        known: what is stored of them; None: nothing.
        changed: ids of rows that have other locations or carried values than what is stored was made from.
        recorded: what the checkpoint of a later run has, which did not store its manifest.

    Raises:
        file_dataset.InvalidDatasetError: ids are not in the input, or there is no manifest to merge them into.
    """
    import pandas as pd

    if "id" not in frame:  # it is refused by the Pipeline
        return frame
    texts = pd.Series(_texts(frame), dtype=object)
    if not wanted.is_partial:
        return rows_with(frame, set(texts) - recorded.done) if recorded.done else frame
    if same := texts[texts.duplicated()].unique().tolist():
        raise file_dataset.InvalidDatasetError(f"duplicate ids: {same[:_SHOWN]} ({len(same)} in all)")
    if wanted.ids is not None:
        if known is None:
            raise file_dataset.InvalidDatasetError(
                "run config has ids, and there is no manifest to merge their rows into: run all rows first, or "
                "only_missing with a limit"
            )
        if unknown := sorted(set(wanted.ids) - set(texts)):
            raise file_dataset.InvalidDatasetError(
                f"run config has ids that are not in the input: {unknown[:_SHOWN]} ({len(unknown)} in all)"
            )
        return rows_with(frame, set(wanted.ids))
    done = set() if known is None else set(_texts(known.manifest))
    again = changed | recorded.failed | recorded.changed
    missing = rows_with(frame, ((set(texts) - done) | again) - recorded.done)
    return missing if wanted.limit is None else missing.head(wanted.limit)


def check_outputs(stored: "pd.DataFrame", outputs: "pd.DataFrame", what: str) -> None:
    """Refuse to merge rows with other outputs into a manifest: its other rows would have nulls there.

    Args:
        stored: the manifest.
        outputs: a manifest of the rows that run, or an empty one with the columns that fn promises.
        what: how the outputs are known.

    Raises:
        file_dataset.InvalidDatasetError: naming the outputs that only one of them has.
    """
    before, now = (list(frame.columns[: frame.columns.get_loc("id")]) for frame in (stored, outputs))
    if len(stored) and now and set(before) != set(now):
        raise file_dataset.InvalidDatasetError(
            f"{what} {sorted(map(str, now))}, and the stored manifest has {sorted(map(str, before))}: run all rows, "
            "without only_missing, limit and ids. Where outputs differ from row to row, declare them all "
            "(outputs=[...]) and have fn return None for what a row lacks"
        )


def _texts(frame: "pd.DataFrame") -> list[str]:
    return [str(row_id) for row_id in frame["id"].tolist()] if "id" in frame else []


def ids_of(frame: "pd.DataFrame") -> frozenset[str]:
    """Ids of the rows of a frame, as text."""
    return frozenset(_texts(frame))


def rows_with(frame: "pd.DataFrame", ids: AbstractSet[str]) -> "pd.DataFrame":
    """The rows of a frame that have these ids, in its order."""
    is_wanted: Any = [text in ids for text in _texts(frame)]
    return frame[is_wanted] if len(frame) else frame
