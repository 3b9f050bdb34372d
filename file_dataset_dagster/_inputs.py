"""What a run of a `pipeline_asset` reads: of all that the IO manager loaded, the frame of each partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster._partitions import joined

if TYPE_CHECKING:
    import pandas as pd

INPUT = "frame"  # the name of the input, in code and in Dagster's UI
# metadata of an input: what cannot be read is given as its error, and other partitions are read
ERRORS_AS_VALUES = "file_dataset/errors_as_values"


def input_of(given: Any) -> dg.AssetIn:  # noqa: ANN401 (whatever names an asset)
    """The input as Dagster takes it: an asset, its key or name, or `dg.AssetIn` with a key for all the rest."""
    if isinstance(given, dg.AssetDep):
        given = dg.AssetIn(key=given.asset_key, partition_mapping=given.partition_mapping)
    if isinstance(given, dg.AssetIn):
        if given.key is None:
            raise file_dataset.InvalidDatasetError("input=dg.AssetIn(...) needs its key: the asset that is read")
    else:
        given = dg.AssetIn(key=given.key if hasattr(given, "key") else asset_key_of(given, "input"))
    # a partition that is not there fails alone, and is named
    allowed = {"allow_missing_partitions": True, ERRORS_AS_VALUES: True, **(given.metadata or {})}
    return dg.AssetIn(**{**given._asdict(), "metadata": allowed})


def asset_key_of(given: Any, argument: str) -> dg.AssetKey:  # noqa: ANN401 (whatever a user gives)
    """An asset's key as Dagster takes it: a key, its text, or its parts.

    Raises:
        file_dataset.InvalidDatasetError: it is something else.
    """
    if isinstance(given, dg.AssetKey):
        return given
    if not given or not isinstance(given, Sequence) or not all(isinstance(part, str) for part in given):
        raise file_dataset.InvalidDatasetError(
            f"{argument}={given!r} names no asset: give its key, as text, a list of text or dg.AssetKey"
        )
    return dg.AssetKey.from_coercible(given)


def keys_of_input(context: dg.AssetExecutionContext, partition_key: str | None) -> list[Any]:
    """The partitions of what is read that a partition of the run maps to, in order; [None]: what is read has none.

    Args:
        context: of the run.
        partition_key: one of the run's; None: the asset has no partitions, and reads all.
    """
    if not _is_partitioned(context):
        return [None]
    upstream_key = context.asset_key_for_input(INPUT)
    upstream = context.asset_partitions_def_for_input(INPUT)
    if partition_key is None:
        return list(in_order(context.asset_partition_keys_for_input(INPUT), upstream, context.instance))
    own = context.assets_def.partitions_def
    mapping = context.assets_def.infer_partition_mapping(context.asset_key, upstream_key, upstream)
    subset = None if own is None else own.subset_with_partition_keys([partition_key])
    mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(
        subset, own, upstream, dynamic_partitions_store=context.instance
    )
    return list(in_order(mapped.partitions_subset.get_partition_keys(), upstream, context.instance))


def frame_of(
    context: dg.AssetExecutionContext,
    given: Any,  # noqa: ANN401
    keys: list[Any],
    partition_key: str | None,
) -> pd.DataFrame:
    """The input of one partition of the run, or of an asset without any (None), which are all partitions, joined.

    Args:
        context: of the run.
        given: what the IO manager loaded.
        keys: as of `keys_of_input`.
        partition_key: one of the run's; None: the asset has no partitions.

    Raises:
        file_dataset.FileDatasetError: there is no manifest, or the partitions cannot be joined.
    """
    if keys == [None]:
        return _checked(given, context)
    if len(keys) == 1 and partition_key is not None:
        return _checked(_by_key(context, given, keys)[keys[0]], context)
    return _joined(context, given, keys)


def in_order(
    keys: Iterable[str], definition: dg.PartitionsDefinition[Any], instance: dg.DagsterInstance | None
) -> list[str]:
    """Partition keys in the order of their definition; of several dimensions by each in turn, their names sorted.

    Some partition mappings give them in the order of a set, which differs from process to process. Keys that are no
    longer in the definition come last, by their text. Costs a sort of the keys, and one listing of a definition whose
    partitions are not windows of time.
    """
    rank = _rank(definition, instance)
    return sorted(keys, key=lambda key: (rank(key), str(key)))


def _rank(definition: dg.PartitionsDefinition[Any], instance: dg.DagsterInstance | None) -> Callable[[str], Any]:
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return lambda key: definition.start_time_for_partition_key(key).timestamp()
    if isinstance(definition, dg.MultiPartitionsDefinition):
        ranks = {of.name: _rank(of.partitions_def, instance) for of in definition.partitions_defs}
        in_turn = sorted(ranks.items())

        def rank(key: str) -> Any:  # noqa: ANN401 (a tuple of what sorts)
            whole = key if isinstance(key, dg.MultiPartitionKey) else definition.get_partition_key_from_str(key)
            parts = whole.keys_by_dimension
            return tuple(rank_of(parts[name]) for name, rank_of in in_turn)

        return rank
    listed = definition.get_partition_keys(dynamic_partitions_store=instance)
    places = {key: place for place, key in enumerate(listed)}
    return lambda key: places.get(key, len(places))


def _joined(context: dg.AssetExecutionContext, given: Any, keys: list[str]) -> pd.DataFrame:  # noqa: ANN401
    of = f"asset {context.asset_key_for_input(INPUT).to_user_string()}"
    by_key = _by_key(context, given, keys)
    return joined({str(key): _checked(by_key[key], context) for key in keys}, of)


def _by_key(context: dg.AssetExecutionContext, given: Any, keys: list[str]) -> Mapping[str, Any]:  # noqa: ANN401
    """IO managers give a dict for many partitions, and the value itself for one."""
    loaded = context.asset_partition_keys_for_input(INPUT)
    by_key = dict(given) if isinstance(given, Mapping) else dict(zip(loaded, [given], strict=False))
    if missing := [key for key in keys if by_key.get(key) is None]:
        upstream = context.asset_key_for_input(INPUT).to_user_string()
        more = f" (and of {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise file_dataset.FileDatasetError(
            f"no manifest of asset {upstream}, partition {str(missing[0])!r}{more}: materialize it first, or correct "
            "base_path"
        )
    for key in keys:
        if isinstance(by_key[key], file_dataset.FileDatasetError):
            raise by_key[key]
    return by_key


def _checked(given: Any, context: dg.AssetExecutionContext) -> pd.DataFrame:  # noqa: ANN401
    import pandas as pd

    if isinstance(given, file_dataset.FileDatasetError):
        raise given
    if not isinstance(given, pd.DataFrame):
        raise file_dataset.InvalidDatasetError(
            f"the input of asset {context.asset_key.to_user_string()} is a {type(given).__name__}: a pipeline_asset "
            "reads an asset whose value is a pandas DataFrame"
        )
    return given


def _is_partitioned(context: dg.AssetExecutionContext) -> bool:
    """Whether what is read has partitions; not where a test calls the asset directly with its frame."""
    try:
        step = context.get_step_execution_context()
    except dg.DagsterError:
        return False
    return bool(step.has_asset_partitions_for_input(INPUT))
