"""Dropped rows as an asset check: what it reports, and when a manifest is refused. Pure: no I/O, no context."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import dagster as dg

import file_dataset
from file_dataset_dagster._checks_by_partition import by_partition, declared
from file_dataset_dagster._frame_metadata import table
from file_dataset_dagster._losses import Losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHECK_NAME = "no_dropped_rows"
SHOW_IDS = "file_dataset/show_ids"  # metadata of the check's definition, for other checks of the asset to read
OnExceeded: TypeAlias = Literal["fail", "block", "check"]

_SHOWN = 10  # partitions in a description; a guess
_COLUMNS = ("id", "error_stage", "error_file", "error_url", "error_type", "error_code", "error_message")
# the columns in which an id, or a URL made of it, can stand; error_message is free text
NAMING_COLUMNS = ("id", "error_url", "error_message")


@dataclass(frozen=True, slots=True)
class DropPolicy:
    """How many rows of a run may be dropped, how many it must have, and what happens otherwise."""

    max_dropped_fraction: float | None = None
    on_exceeded: OnExceeded = "fail"
    show_ids: bool = True
    min_rows: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        allowed = self.max_dropped_fraction
        is_number = isinstance(allowed, int | float) and not isinstance(allowed, bool)
        if allowed is not None and not (is_number and 0 <= allowed <= 1):
            raise file_dataset.InvalidDatasetError(
                f"max_dropped_fraction={allowed!r} is no fraction: give a number from 0 to 1"
            )
        if self.on_exceeded not in ("fail", "block", "check"):
            raise file_dataset.InvalidDatasetError(
                f"on_exceeded={self.on_exceeded!r} is unknown: give 'fail', 'block' or 'check'"
            )
        if not isinstance(self.show_ids, bool):  # "no" would show them
            raise file_dataset.InvalidDatasetError(f"show_ids={self.show_ids!r}: give True or False")
        least = self.min_rows
        if isinstance(least, bool) or not isinstance(least, int) or least < 0:
            raise file_dataset.InvalidDatasetError(f"min_rows={least!r}: give a number of input rows, 0 or more")
        if self.on_exceeded != "fail" and allowed is None and not least:
            raise file_dataset.InvalidDatasetError(
                f"on_exceeded={self.on_exceeded!r} needs max_dropped_fraction or min_rows: without them nothing is "
                "exceeded"
            )


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many rows of the input are new, failed last time, are changed, are gone, or are as they were."""

    new: int
    failed: int
    changed: int
    gone: int
    unchanged: int

    def __str__(self) -> str:
        """Return "12 new, 3 changed, 1 gone, 9,984 unchanged"."""
        failed = f"{self.failed:,} failed before, " if self.failed else ""
        return f"{self.new:,} new, {failed}{self.changed:,} changed, {self.gone:,} gone, {self.unchanged:,} unchanged"


@dataclass(frozen=True, slots=True, eq=False)
class DroppedRows:
    """The dropped rows of one result, judged by a policy."""

    result: file_dataset.PipelineResult
    policy: DropPolicy
    partition_key: str | None = None
    changed_rows: int = 0  # have other inputs now, and did not run
    is_unclear: bool = False  # which rows of the input changed
    compared: Comparison | None = None  # the input with what was there, where a run did that
    upstream: Losses | None = None  # rows that did not come this far; None: not known

    @property
    def not_run(self) -> int:
        """Rows of the input that no run has processed yet: those that partial runs left out."""
        return self.result.input_rows - self.result.dropped_rows - len(self.result.manifest)

    @property
    def fraction(self) -> float:
        """Dropped rows per input row; 0.0 of an empty input."""
        return self.result.dropped_rows / self.result.input_rows if self.result.input_rows else 0.0

    @property
    def is_every_row(self) -> bool:
        """A non-empty input of which nothing is left."""
        return self.result.dropped_rows > 0 and self.result.manifest.empty

    @property
    def is_too_few(self) -> bool:
        """Fewer rows of the input than the policy wants."""
        return self.result.input_rows < self.policy.min_rows

    @property
    def is_exceeded(self) -> bool:
        """More dropped rows than the policy allows, or all; or fewer rows of the input than it wants."""
        allowed = self.policy.max_dropped_fraction
        return self.is_every_row or self.is_too_few or (allowed is not None and self.fraction > allowed)

    @property
    def fails_the_run(self) -> bool:
        """The manifest is not stored and the run fails."""
        return self.is_every_row or (self.is_exceeded and self.policy.on_exceeded == "fail")

    @property
    def may_be_retried(self) -> bool:
        """Another attempt may help: not when fn itself raised for every dropped row, nor when none was dropped."""
        return not self.result.failures["error_stage"].eq("fn").all()

    def __str__(self) -> str:
        """Return one line: "3 of 12 rows dropped (25.0%; allowed 50.0%): 2 at download, 1 at fn"."""
        where = "" if self.partition_key is None else f"{self.partition_key}: "
        not_run = f"; {self.not_run} not run yet" if self.not_run else ""
        rows = self.result.input_rows
        few = f"; {rows} input rows are fewer than min_rows={self.policy.min_rows}" if self.is_too_few else ""
        dropped = self.result.summary(allowed_fraction=self.policy.max_dropped_fraction)
        compared = "" if self.compared is None else f"; {self.compared}"
        upstream = "" if self.upstream is None else self.upstream
        return f"{where}{dropped}{upstream}{compared}{not_run}{self._behind()}{few}"

    def _behind(self) -> str:
        if self.changed_rows:
            return f"; {self.changed_rows} changed rows did not run, so the asset stays stale"
        if self.is_unclear:
            return "; the input has a new data version, rows that did not run may be old, so the asset stays stale"
        return ""

    def check_result(self, asset_key: dg.AssetKey, failures_uri: str | None) -> dg.AssetCheckResult:
        """Return the result of `no_dropped_rows`: WARN when rows were dropped, ERROR when the policy is exceeded."""
        metadata: dict[str, Any] = {
            "input_rows": self.result.input_rows,
            "dropped_rows": self.result.dropped_rows,
            "dropped_fraction": round(self.fraction, 4),
        }
        if self.upstream is not None:
            metadata["dropped_upstream"] = self.upstream.dropped
        if self.partition_key is not None:
            metadata["partition"] = self.partition_key
        if self.not_run:
            metadata["rows_not_run"] = self.not_run
        if self.changed_rows:
            metadata["changed_rows_not_run"] = self.changed_rows
        if self.compared is not None:
            metadata |= {f"{name}_rows": count for name, count in asdict(self.compared).items()}
        if self.result.dropped_rows:
            metadata["dropped"] = self._table()
        if failures_uri is not None:
            metadata["failures_uri"] = failures_uri
        return dg.AssetCheckResult(
            check_name=CHECK_NAME,
            asset_key=asset_key,
            passed=not (self.result.dropped_rows or self.not_run or self.changed_rows or self.is_too_few),
            severity=dg.AssetCheckSeverity.ERROR if self.is_exceeded else dg.AssetCheckSeverity.WARN,
            description=str(self),
            metadata=metadata,
        )

    def _table(self) -> dg.TableMetadataValue:
        columns = [name for name in _COLUMNS if self.policy.show_ids or name not in NAMING_COLUMNS]
        return table(self.result.failures[columns])


def check_spec(
    asset_key: dg.AssetKey, policy: DropPolicy, partitions_def: dg.PartitionsDefinition[Any] | None
) -> dg.AssetCheckSpec:
    """Return the declaration of `no_dropped_rows`; with `on_exceeded="block"` its ERROR stops what is downstream."""
    with declared():
        return dg.AssetCheckSpec(
            CHECK_NAME,
            asset=asset_key,
            blocking=policy.on_exceeded == "block",
            description="Every row of the input is in the manifest.",
            metadata=None if policy.show_ids else {SHOW_IDS: False},
            **by_partition(partitions_def),
        )


def check_of_failed_run(
    asset_key: dg.AssetKey, partition_key: str | None, why: str, metadata: Mapping[str, Any] | None = None
) -> dg.AssetCheckResult:
    """Return `no_dropped_rows` of a run, or of its partition, that failed before its rows could be counted."""
    where = "" if partition_key is None or why.startswith(f"{partition_key}: ") else f"{partition_key}: "
    return dg.AssetCheckResult(
        check_name=CHECK_NAME,
        asset_key=asset_key,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{where}{why}",
        metadata={**(metadata or {}), **({} if partition_key is None else {"partition": partition_key})},
    )


def check_of_range(
    checks: Mapping[str, dg.AssetCheckResult], asset_key: dg.AssetKey, expected: int, failed: Sequence[str]
) -> dg.AssetCheckResult:
    """Return `no_dropped_rows` of a run over many partitions: as bad as the worst of them.

    Args:
        checks: of each partition that ran.
        asset_key: whose they are.
        expected: how many partitions the run is for.
        failed: those whose manifest is not stored.
    """
    import pandas as pd

    bad = {key: check for key, check in checks.items() if not check.passed}
    total, dropped = (
        sum(cast("int", check.metadata[name].value) for check in checks.values() if name in check.metadata)
        for name in ("input_rows", "dropped_rows")
    )
    errors = [check for check in bad.values() if check.severity is dg.AssetCheckSeverity.ERROR]
    metadata: dict[str, Any] = {
        "input_rows": total,
        "dropped_rows": dropped,
        "dropped_fraction": round(dropped / total, 4) if total else 0.0,
        "partitions": len(checks),
    }
    if bad:
        dropped_in = [{"partition": key, "check": check.description} for key, check in bad.items()]
        metadata["partitions_with_dropped_rows"] = table(pd.DataFrame(dropped_in))
    unknown = ""
    if failed:
        metadata["failed_partitions"] = dg.MetadataValue.json(list(failed))
        unknown = f"; {len(failed)} partitions failed: {', '.join(failed[:_SHOWN])}" + (
            ", ..." * (len(failed) > _SHOWN)
        )
    if expected > len(checks):
        unknown += f"; {expected - len(checks)} partitions did not run"
    return dg.AssetCheckResult(
        check_name=CHECK_NAME,
        asset_key=asset_key,
        passed=not bad and not unknown,
        severity=dg.AssetCheckSeverity.ERROR if errors or unknown else dg.AssetCheckSeverity.WARN,
        description=f"{dropped} of {total} rows dropped, in {len(bad)} of {expected} partitions{unknown}",
        metadata=metadata,
    )
