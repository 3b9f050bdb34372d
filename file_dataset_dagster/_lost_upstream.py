"""What was dropped before the rows that an asset reads, as Dagster's event log has it; also through plain assets.

A `pipeline_asset` says itself what was dropped before it (`_losses`). Of any other asset Dagster notes which
materialization of each of its inputs was the last one when it ran; the definitions say which partitions it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
from dagster._check import CheckError

from file_dataset_dagster._event_log import last_record, last_records, records_of
from file_dataset_dagster._losses import Losses, joined_losses, losses_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

_POINTER = "dagster/input_event_pointer/"  # a tag of a materialization: the storage id of what was there of an input
_MOST_ASSETS = 50  # that are looked at, some queries each; a guess


@dataclass(frozen=True, slots=True)
class Upstream:
    """What is upstream of an asset.

    Attributes:
        instance: has the materializations.
        graph: returns the definitions of assets, but for those of other code locations. Dagster makes it from all of
            them, and it is rarely needed.
    """

    instance: dg.DagsterInstance
    graph: Callable[[], AssetGraph]

    @classmethod
    def of_run(cls, context: dg.AssetExecutionContext) -> Upstream:
        """That of a run's code location; of a job that runs without one, of the job: its graph lacks partitions."""

        def graph() -> AssetGraph:
            try:
                return context.repository_def.asset_graph
            except CheckError:
                return context.job_def.asset_layer.asset_graph

        return cls(context.instance, graph)

    def losses(self, asset_key: dg.AssetKey, read: Sequence[dg.EventLogRecord]) -> Losses | None:
        """Return what was dropped before these materializations of an asset; None: no pipeline is upstream.

        An asset that was materialized without a step, or is of no materializations, ends the way. Costs no query
        where the asset is a pipeline's, or is made from no other.
        """
        return self._losses(asset_key, read, {asset_key})

    def _losses(
        self, asset_key: dg.AssetKey, read: Sequence[dg.EventLogRecord], seen: set[dg.AssetKey]
    ) -> Losses | None:
        events = [event for record in read if (event := record.asset_materialization) is not None]
        own = losses_of(asset_key.to_user_string(), events)
        if own is not None:
            return own
        ways = []
        for parent, pointers in _pointers(read).items():
            if parent in seen or len(seen) >= _MOST_ASSETS:
                continue
            seen.add(parent)
            last = records_of(self.instance, parent, pointers)
            exact = self._read_of(asset_key, parent, read, last)
            lost = self._losses(parent, last if exact is None else exact, seen)
            if lost is not None:
                ways.append(lost if exact is not None else Losses(unknown=lost.unknown | lost.by_asset.keys()))
        return joined_losses(ways)

    def _read_of(
        self,
        asset_key: dg.AssetKey,
        parent: dg.AssetKey,
        read: Sequence[dg.EventLogRecord],
        last: Sequence[dg.EventLogRecord],
    ) -> Sequence[dg.EventLogRecord] | None:
        """The materializations of `parent` that these of an asset were made from; None: not known."""
        if all(record.partition_key is None for record in last):
            return last
        keys = self._partitions_of(asset_key, parent, read)
        if keys is None:
            return None
        newest = last_records(self.instance, parent, sorted({key for some in keys.values() for key in some}))
        records: dict[int, dg.EventLogRecord] = {}
        for made, some in keys.items():
            for key in some:
                one = newest.get(key)
                if one is not None and one.storage_id > made:  # it was materialized again since
                    one = last_record(self.instance, parent, key, before=made)
                if one is not None:
                    records[one.storage_id] = one
        return list(records.values())

    def _partitions_of(
        self, asset_key: dg.AssetKey, parent: dg.AssetKey, read: Sequence[dg.EventLogRecord]
    ) -> dict[int, list[str]] | None:
        """By the storage id of each materialization, the partitions of `parent` that it read; None: not known."""
        graph = self.graph()
        if not graph.has(asset_key) or not graph.has(parent):
            return None
        definition, of_parent = (graph.get(key).partitions_def for key in (asset_key, parent))
        if of_parent is None or any((definition is None) != (record.partition_key is None) for record in read):
            return None  # they had other partitions then
        mapping = graph.get_partition_mapping(asset_key, parent)
        found: dict[int, list[str]] = {}
        for record in read:
            own = record.partition_key
            subset = None if definition is None or own is None else definition.subset_with_partition_keys([own])
            of_record = mapping.get_upstream_mapped_partitions_result_for_partitions(
                subset, definition, of_parent, dynamic_partitions_store=self.instance
            )
            found[record.storage_id] = list(of_record.partitions_subset.get_partition_keys())
        return found


def _pointers(read: Sequence[dg.EventLogRecord]) -> dict[dg.AssetKey, set[int]]:
    """Of each asset that these were made from, the storage ids of its last materializations then."""
    found: dict[dg.AssetKey, set[int]] = {}
    for record in read:
        event = record.asset_materialization
        for tag, pointer in (event.tags or {} if event is not None else {}).items():
            if tag.startswith(_POINTER) and pointer.isdecimal():
                found.setdefault(dg.AssetKey.from_user_string(tag.removeprefix(_POINTER)), set()).add(int(pointer))
    return found
