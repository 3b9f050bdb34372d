"""What Dagster's event log records of assets: data versions, tags, and the partitions that failed in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet


# metadata of an output for which Dagster stores no events: its own, of observations that are logged otherwise
NO_EVENT = "__source_asset_observation__"
# partitions in a query: databases limit its variables, and a materialization with pictures is large; a guess
_AT_ONCE = 100


def last_record(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition_key: str | None, *, before: int | None = None
) -> dg.EventLogRecord | None:
    """The last materialization as it is stored, or the last one before a storage id; None: none. One query."""
    partitions = None if partition_key is None else [partition_key]
    wanted = dg.AssetRecordsFilter(asset_key, asset_partitions=partitions, before_storage_id=before)
    records = instance.fetch_materializations(wanted, limit=1).records
    return records[0] if records else None


def last_records(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition_keys: Sequence[str]
) -> dict[str, dg.EventLogRecord]:
    """The last materialization of each partition, as it is stored, of those that have one. Two queries a hundred."""
    found: dict[str, dg.EventLogRecord] = {}
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    for start in range(0, len(partition_keys), _AT_ONCE):
        some = {str(key) for key in partition_keys[start : start + _AT_ONCE]}
        ids = instance.get_latest_storage_id_by_partition(asset_key, kind, some)
        records = records_of(instance, asset_key, set(ids.values()))
        found |= {str(record.partition_key): record for record in records}
    return {str(key): found[str(key)] for key in partition_keys if str(key) in found}


def records_of(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, storage_ids: AbstractSet[int]
) -> list[dg.EventLogRecord]:
    """The materializations of an asset that are stored under these ids. A query a hundred."""
    ids, found = sorted(storage_ids), list[dg.EventLogRecord]()
    for start in range(0, len(ids), _AT_ONCE):
        wanted = dg.AssetRecordsFilter(asset_key, storage_ids=ids[start : start + _AT_ONCE])
        found += instance.fetch_materializations(wanted, limit=_AT_ONCE).records
    return found


def last_tags(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition_key: str | None
) -> Mapping[str, str] | None:
    """The tags of the last materialization; None: there was none. One query."""
    record = last_record(instance, asset_key, partition_key)
    found = None if record is None else record.asset_materialization
    return None if found is None else found.tags or {}


def provenance_tags(context: dg.AssetExecutionContext) -> dict[str, str]:
    """The tags by which Dagster sees later whether code or inputs have changed since; one query per input."""
    asset_key = context.asset_key
    tags = {"dagster/code_version": context.assets_def.code_versions_by_key.get(asset_key) or context.run.run_id}
    for parent in context.assets_def.asset_deps[asset_key]:
        records = context.instance.fetch_materializations(parent, limit=1).records
        materialization = records[0].asset_materialization if records else None
        version = ((materialization and materialization.tags) or {}).get("dagster/data_version", "INITIAL")
        name = parent.to_user_string()
        tags[f"dagster/input_data_version/{name}"] = version
        tags[f"dagster/input_event_pointer/{name}"] = str(records[0].storage_id) if records else "NULL"
    return tags


def version_tags(partition_key: str, version: dg.DataVersion) -> dict[str, str]:
    """The tags by which Dagster knows the data version of one partition."""
    by_dimension = partition_key.keys_by_dimension if isinstance(partition_key, dg.MultiPartitionKey) else {}
    return {
        "dagster/data_version": version.value,
        "dagster/data_version_is_user_provided": "true",
        **{f"dagster/partition/{dimension}": key for dimension, key in by_dimension.items()},
    }


def failed_in_run(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    step_key: str,
    asset_key: dg.AssetKey,
    definition: dg.PartitionsDefinition[Any],
) -> set[str]:
    """Partitions of an asset that a run over a range was to materialize, in an earlier step, and did not.

    What is stored of them is of an earlier run. Empty where the run is over no range, or materializes the asset not at
    all or in this very step. Costs a query of the run's materializations.
    """
    start, end = (run.tags.get(f"dagster/asset_partition_range_{side}") for side in ("start", "end"))
    if start is None or end is None:
        return set()
    planned, done, cursor, has_more = False, set(), None, True
    wanted = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED}
    while has_more:
        page = instance.get_records_for_run(run.run_id, cursor, of_type=wanted)
        for event in (record.event_log_entry.dagster_event for record in page.records):
            if event is None or event.asset_key != asset_key:
                continue
            if event.is_asset_materialization_planned:
                planned = planned or event.step_key != step_key
            else:
                done.add(event.partition)
        cursor, has_more = page.cursor, page.has_more
    if not planned:
        return set()
    if isinstance(definition, dg.TimeWindowPartitionsDefinition | dg.MultiPartitionsDefinition):
        in_range = definition.get_partition_keys_in_range(dg.PartitionKeyRange(start, end))
    else:
        listed = list(definition.get_partition_keys(dynamic_partitions_store=instance))
        in_range = listed[listed.index(start) : listed.index(end) + 1]
    return {str(key) for key in in_range} - done
