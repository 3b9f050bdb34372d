"""Checks that have a result for each partition, where Dagster has such (1.13): how they are declared and evaluated.

Before 1.13 a check has one result for its asset, that of the last run: a red day is gone after the next green one.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterator

HAS_PARTITIONS = tuple(int(part) for part in re.findall(r"\d+", dg.__version__)[:2]) >= (1, 13)
_PREVIEW = "Specifying a partitions_def on an AssetCheckSpec"


def by_partition(partitions_def: dg.PartitionsDefinition[Any] | None) -> dict[str, Any]:
    """Arguments of `dg.AssetCheckSpec` and `dg.asset_check`: none where Dagster, or the asset, has no partitions."""
    return {"partitions_def": partitions_def} if HAS_PARTITIONS and partitions_def is not None else {}


@contextlib.contextmanager
def declared() -> Iterator[None]:
    """Where a check is declared: Dagster's warning that such checks are a preview is of no use to who reads it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _PREVIEW)
        yield


def evaluation(
    check: dg.AssetCheckResult,
    name: str,
    partition_key: str,
    instance: dg.DagsterInstance,
    *,
    is_blocking: bool = False,
) -> dg.AssetCheckEvaluation:
    """The event that a step over many partitions yields of one of them, after the partition's materialization.

    Dagster takes a partition's check for outdated unless it names the partition's last materialization: one query.
    """
    assert check.asset_key is not None  # noqa: S101 (for mypy: each check here has its asset)
    of_partition: dict[str, Any] = {}
    if HAS_PARTITIONS:
        of_partition = {
            "partition": str(partition_key),
            "target_materialization_data": _last_materialization(instance, check.asset_key, partition_key),
        }
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=name,
        passed=check.passed,
        metadata=check.metadata,
        severity=check.severity,
        description=check.description,
        blocking=is_blocking,
        **of_partition,
    )


def no_value(assets_def: dg.AssetsDefinition, name: str) -> Iterator[dg.Output[None]]:
    """The output of a check whose evaluations are yielded: a step has to yield it, and not only evaluations."""
    for output_name, spec in assets_def.check_specs_by_output_name.items():
        if spec.name == name:
            yield dg.Output(None, output_name)


def _last_materialization(instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition_key: str) -> Any:  # noqa: ANN401
    wanted = dg.AssetRecordsFilter(asset_key, asset_partitions=[str(partition_key)])
    records = instance.fetch_materializations(wanted, limit=1).records
    if not records:
        return None
    from dagster._core.definitions.asset_checks.asset_check_evaluation import (
        AssetCheckEvaluationTargetMaterializationData,
    )

    (record,) = records
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )
