"""Checks of what a manifest names, to run at any time: are the files still there, are they still the same."""

# no `from __future__ import annotations` here: Dagster reads the annotations of a check's function

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import dagster as dg
import pandas as pd

import file_dataset
from file_dataset_dagster._checks_by_partition import by_partition, declared, evaluation
from file_dataset_dagster._frame_metadata import table
from file_dataset_dagster._io_manager import ManifestIOManager
from file_dataset_dagster._resource import FileDatasetResource

_Kind: TypeAlias = Literal["missing", "changed", "not readable"]
_NO_FILE = {"FileNotFoundError", "IsADirectoryError", "NotADirectoryError"}


class _Fault(NamedTuple):
    """Why a file does not pass: `missing` and `changed` are wrong, of one that is `not readable` nothing is known."""

    kind: _Kind
    finding: str


# a row of into_info_table: size_bytes, etag, checksum; or error_type, error_code, error_message
_Found: TypeAlias = Mapping[str, Any]
_Judge: TypeAlias = Callable[[Mapping[str, Any], _Found], _Fault | None]


def build_manifest_checks(  # noqa: PLR0913 (each is a choice of the user's)
    asset: Any,  # noqa: ANN401 (whatever names an asset)
    *,
    files_exist: bool = True,
    content_unchanged: bool = False,
    resource_key: str = "file_dataset",
    io_manager_key: str = "io_manager",
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
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

    Example:
        >>> checks = build_manifest_checks(dg.AssetKey("loud"), content_unchanged=True)
        >>> sorted(check.name for one in checks for check in one.check_specs)
        ['content_unchanged', 'files_exist']
    """
    wanted: dict[str, tuple[str, _Judge]] = {}
    if files_exist:
        wanted["files_exist"] = ("Every file of the manifest is there, with the size it was stored with.", _missing)
    if content_unchanged:
        wanted["content_unchanged"] = ("Every file of the manifest has the content it was stored with.", _changed)
    asset_key = asset.key if hasattr(asset, "key") else dg.AssetKey.from_coercible(asset)
    partitions = by_partition(partitions_def or getattr(asset, "partitions_def", None))
    resources = {resource_key: FileDatasetResource, io_manager_key: ManifestIOManager}
    return [
        _check(asset_key, name, description=text, judge=judge, resources=resources, partitions=partitions)
        for name, (text, judge) in wanted.items()
    ]


def _check(  # noqa: PLR0913 (what the decorator takes, and what the function needs)
    asset_key: dg.AssetKey,
    name: str,
    *,
    description: str,
    judge: _Judge,
    resources: Mapping[str, type],
    partitions: Mapping[str, Any],
) -> dg.AssetChecksDefinition:
    resource_key, io_manager_key = resources

    def check(context: dg.AssetCheckExecutionContext) -> Iterator[Any]:
        store, manifests = (getattr(context.resources, key) for key in (resource_key, io_manager_key))
        for key, kind in resources.items():
            if not isinstance(getattr(context.resources, key), kind):
                raise file_dataset.InvalidDatasetError(f"resource {key!r} is no {kind.__name__}, which {name} needs")

        def result(keys: Sequence[str | None]) -> dg.AssetCheckResult:
            frames = [
                manifests.load(manifests.uri(asset_key, key, of="files")).assign(partition=key or "") for key in keys
            ]
            files = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"location": []})
            faults = [
                (file, fault)
                for file, found in zip(files.to_dict("records"), _look(files, store.get_options()), strict=True)
                if (fault := judge(file, found)) is not None
            ]
            return _result(asset_key, files, faults, None if list(keys) == [None] else len(keys))

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


def _result(
    asset_key: dg.AssetKey, files: pd.DataFrame, faults: list[tuple[dict[Any, Any], _Fault]], partitions: int | None
) -> dg.AssetCheckResult:
    counts = Counter(fault.kind for _, fault in faults)
    unknown = counts["not readable"]
    wrong = len(faults) - unknown
    metadata: dict[str, Any] = {"files": len(files), "files_wrong": wrong, "files_not_readable": unknown}
    if partitions is not None:
        metadata["partitions"] = partitions
    for name, is_of in (("wrong", lambda kind: kind != "not readable"), ("not_readable", "not readable".__eq__)):
        rows = [
            {**({"partition": file["partition"]} if file["partition"] else {}), "id": file["id"], "file": file["file"],
             "location": file["location"], "kind": fault.kind, "finding": fault.finding}
            for file, fault in faults if is_of(fault.kind)
        ]  # fmt: skip
        if rows:
            metadata[name] = table(pd.DataFrame(rows))
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("missing", "changed") if counts[kind])
    description = f"{wrong} of {len(files)} files {f'are not as they were stored ({kinds})' if wrong else 'are wrong'}"
    if unknown:
        first = next(fault.finding for _, fault in faults if fault.kind == "not readable")
        description += f"; {unknown} could not be checked, the first: {first}"
    return dg.AssetCheckResult(
        passed=not faults,
        asset_key=asset_key,
        severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )


def _missing(stored: Mapping[str, Any], found: _Found) -> _Fault | None:
    kind, code = found["error_type"], found["error_code"]
    if kind is not None:
        finding = found["error_message"] if code is None else f"S3 says {code}"
        if kind in _NO_FILE:
            return _Fault("missing", finding)
        return _Fault(
            "not readable", f"{finding} ({kind})" if code is None else f"{finding} ({found['error_message']})"
        )
    if found["size_bytes"] != stored["size_bytes"]:
        return _Fault("changed", f"{found['size_bytes']} bytes, {stored['size_bytes']} were stored")
    return None


def _changed(stored: Mapping[str, Any], found: _Found) -> _Fault | None:
    for name in ("checksum", "etag"):
        before, now = stored[name], found.get(name)
        if isinstance(before, str) and isinstance(now, str) and _algorithm(before) == _algorithm(now):
            return None if before == now else _Fault("changed", f"{name} {now}, {before} was stored")
    return _missing(stored, found)


def _algorithm(digest: str) -> str:
    """The name before the colon of a checksum, nothing of an ETag: two algorithms cannot be compared."""
    return digest.partition(":")[0] if ":" in digest else ""


def _look(files: pd.DataFrame, options: file_dataset.Options) -> list[dict[str, Any]]:
    """What the store has of each file, in the order of `files`."""
    if files.empty:
        return []
    named = pd.DataFrame({"id": range(len(files)), "location": files["location"].tolist()})
    try:
        infos = file_dataset.reader(named, file_columns=["location"], options=options).into_info_table()
    except file_dataset.FileDatasetError as exc:  # no credentials: no file can be looked at
        return [{"error_type": type(exc).__name__, "error_code": None, "error_message": str(exc)}] * len(files)
    found: list[dict[str, Any]] = infos.to_pylist()
    return found
