"""Checks of what a manifest names, to run at any time: are the files still there, are they still the same."""

# no `from __future__ import annotations` here: Dagster reads the annotations of a check's function

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster._checks_by_partition import by_partition, declared, evaluation
from file_dataset_dagster._dropped_rows import CHECK_NAME, SHOW_IDS
from file_dataset_dagster._frame_metadata import table
from file_dataset_dagster._io_manager import ManifestIOManager
from file_dataset_dagster._resource import FileDatasetResource

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = ("partition", "id", "file", "location", "kind", "finding")
_NAMING = ("id", "location", "finding")  # the columns in which an id can stand


def build_manifest_checks(  # noqa: PLR0913 (each is a choice of the user's)
    asset: Any,  # noqa: ANN401 (whatever names an asset)
    *,
    files_exist: bool = True,
    content_unchanged: bool = False,
    resource_key: str = "file_dataset",
    io_manager_key: str = "io_manager",
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    show_ids: bool | None = None,
) -> list[dg.AssetChecksDefinition]:
    """Return checks of the files that a pipeline's manifest names, which run by themselves or with the asset.

    They read the asset's `.files.parquet`, of the run's partitions or else of every one that is materialized, and send
    one HEAD per file, as `file_dataset.reader(...).into_info_table()` does.

    From Dagster 1.13 on they have a result for each partition of an asset that has some; a partition whose list of
    files cannot be read is an error of its own. Before, one result is that of all partitions of the run.

    A file that is missing or changed fails the check as ERROR. One that cannot be looked at (access denied, throttled,
    no answer) is not known to be wrong: where there are only such files, the check fails as WARN. Both have a table of
    at most 20 files, `wrong` and `not_readable`; its column `finding` is what the store has.
    S3 answers 403 for a missing file too where the credentials lack `s3:ListBucket`.

    Args:
        asset: a `pipeline_asset`, or its key.
        partitions_def: of an asset that is named by its key: without it the checks have one result for all partitions.
        files_exist: a check `files_exist`: every file is there, with the size it was stored with.
        content_unchanged: a check `content_unchanged`: every file has the checksum, or else the ETag, that it was
            stored with. Files on local disk have neither, and are compared by size.
        resource_key: the FileDatasetResource of the store that the outputs are in: the asset's `write_resource_key`
            where it has one.
        io_manager_key: the asset's ManifestIOManager.
        show_ids: False keeps ids, locations and what the store says of them out of the results. None: as the
            `pipeline_asset` says; True where it is named by its key.

    Example:
        >>> checks = build_manifest_checks(dg.AssetKey("loud"), content_unchanged=True)
        >>> sorted(check.name for one in checks for check in one.check_specs)
        ['content_unchanged', 'files_exist']
    """
    wanted: dict[str, tuple[str, bool]] = {}
    if files_exist:
        wanted["files_exist"] = ("Every file of the manifest is there, with the size it was stored with.", False)
    if content_unchanged:
        wanted["content_unchanged"] = ("Every file of the manifest has the content it was stored with.", True)
    asset_key = asset.key if hasattr(asset, "key") else dg.AssetKey.from_coercible(asset)
    partitions = by_partition(partitions_def or getattr(asset, "partitions_def", None))
    resources = {resource_key: FileDatasetResource, io_manager_key: ManifestIOManager}
    shows = _shows_ids(asset) if show_ids is None else show_ids
    if not isinstance(shows, bool):  # "no" would show them
        raise file_dataset.InvalidDatasetError(f"show_ids={show_ids!r}: give True, False or None")
    return [
        _check(
            asset_key, name, description=text, content=content, resources=resources, partitions=partitions, shows=shows
        )
        for name, (text, content) in wanted.items()
    ]


def _check(  # noqa: PLR0913 (what the decorator takes, and what the function needs)
    asset_key: dg.AssetKey,
    name: str,
    *,
    description: str,
    content: bool,
    resources: Mapping[str, type],
    partitions: Mapping[str, Any],
    shows: bool,
) -> dg.AssetChecksDefinition:
    resource_key, io_manager_key = resources

    def check(context: dg.AssetCheckExecutionContext) -> Iterator[Any]:
        store, manifests = (getattr(context.resources, key) for key in (resource_key, io_manager_key))
        for key, kind in resources.items():
            if not isinstance(getattr(context.resources, key), kind):
                raise file_dataset.InvalidDatasetError(
                    f"resource {key!r} is a {type(getattr(context.resources, key)).__name__}: {name} needs a "
                    f"{kind.__name__} there"
                )

        def result(keys: Sequence[str | None]) -> dg.AssetCheckResult:
            import pandas as pd

            frames = [
                manifests.load(manifests.uri(asset_key, key, of="files")).assign(partition=key or "") for key in keys
            ]
            if not frames:
                return _result(asset_key, 0, pd.DataFrame(columns=["kind"]), len(keys), shows=shows)
            files = pd.concat(frames, ignore_index=True)
            faults = _verified(files, store.get_options(), content=content)
            faults["partition"] = files["partition"].loc[faults.index]
            count = None if list(keys) == [None] else len(keys)
            return _result(asset_key, len(files), faults, count, shows=shows)

        keys = _partitions(context, asset_key)
        if not partitions or context.op_execution_context.has_partition_key:
            yield result(keys)
            return
        for key in filter(None, keys):
            try:
                of_one = result([key])
            except file_dataset.FileDatasetError as exc:  # it failed in this very run, say; the others are looked at
                of_one = dg.AssetCheckResult(passed=False, asset_key=asset_key, description=str(exc))
            yield evaluation(of_one, name, key, context.instance)
        yield dg.Output(None)

    evaluates: Any = check  # Dagster takes generators, its types do not say so
    with declared():
        return dg.asset_check(
            asset=asset_key, name=name, description=description, required_resource_keys=set(resources), **partitions
        )(evaluates)


def _partitions(context: dg.AssetCheckExecutionContext, asset_key: dg.AssetKey) -> list[str | None]:
    """The partition of the run; else all that are materialized; [None] of an asset without partitions."""
    step = context.op_execution_context  # in Dagster 1.12 a check's own context knows no partition
    if step.has_partition_key or step.has_partition_key_range:
        return [str(key) for key in step.partition_keys]
    materialized = sorted(context.instance.get_materialized_partitions(asset_key))
    return list(materialized) or [None]


def _shows_ids(asset: Any) -> bool:  # noqa: ANN401 (whatever names an asset)
    """Whether a `pipeline_asset` shows ids. Another asset, or a key alone, does."""
    specs = getattr(asset, "check_specs", ())
    return not any(spec.name == CHECK_NAME and (spec.metadata or {}).get(SHOW_IDS) is False for spec in specs)


def _result(
    asset_key: dg.AssetKey, count: int, faults: "pd.DataFrame", partitions: int | None, *, shows: bool
) -> dg.AssetCheckResult:
    counts = Counter(faults["kind"])
    unknown = counts["not readable"]
    wrong = len(faults) - unknown
    metadata: dict[str, Any] = {"files": count, "files_wrong": wrong, "files_not_readable": unknown}
    if partitions is None:
        faults = faults.drop(columns="partition")
    else:
        metadata["partitions"] = partitions
    is_unknown = faults["kind"] == "not readable"
    for name, rows in (("wrong", faults[~is_unknown]), ("not_readable", faults[is_unknown])):
        if len(rows):
            columns = [column for column in _SHOWN if column in rows and (shows or column not in _NAMING)]
            metadata[name] = table(rows[columns])
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("missing", "changed") if counts[kind])
    description = f"{wrong} of {count} files {f'are not as they were stored ({kinds})' if wrong else 'are wrong'}"
    if unknown:
        first = f", the first: {faults.loc[is_unknown, 'finding'].tolist()[0]}" if shows else ""
        description += f"; {unknown} could not be checked{first}"
    return dg.AssetCheckResult(
        passed=not len(faults),
        asset_key=asset_key,
        severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )


def _verified(files: "pd.DataFrame", options: file_dataset.Options, *, content: bool) -> "pd.DataFrame":
    """The files that do not pass, as `file_dataset.verify` has them; all, where no file can be looked at."""
    try:
        return file_dataset.verify(files, content=content, options=options)
    except file_dataset.RowError as exc:
        return files.assign(kind="not readable", finding=f"{exc} ({type(exc).__name__})")
