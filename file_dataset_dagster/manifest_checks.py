"""Checks of what a manifest names, to run whenever one likes: are the files still there, are they still the same."""

# no `from __future__ import annotations` here: Dagster reads the annotations of a check's function

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions
import dagster as dg
import pandas as pd

import file_dataset
from file_dataset_dagster.checks import table
from file_dataset_dagster.io_manager import ManifestIOManager
from file_dataset_dagster.resource import FileDatasetResource

_AT_ONCE = 32  # HEAD requests; a guess


def build_manifest_checks(
    asset: Any,  # noqa: ANN401 (whatever names an asset)
    *,
    files_exist: bool = True,
    content_unchanged: bool = False,
    resource_key: str = "file_dataset",
    io_manager_key: str = "io_manager",
) -> list[dg.AssetChecksDefinition]:
    """Return checks of the files that a pipeline's manifest names, which run by themselves or with the asset.

    They read the asset's `.files.parquet`, of the run's partition or else of every one that is materialized, and send
    one HEAD per file.

    Args:
        asset: a `pipeline_asset`, or its key.
        files_exist: a check `files_exist`: every file is there, with the size it was stored with.
        content_unchanged: a check `content_unchanged`: every file has the checksum, or else the ETag, that it was
            stored with. Files on local disk have neither, and are compared by size.
        resource_key: the FileDatasetResource of the store that the outputs are in: the asset's `write_resource_key`
            where it has one.
        io_manager_key: the asset's ManifestIOManager.
    """
    wanted: dict[str, tuple[str, Callable[[Mapping[str, Any], _Found], str | None]]] = {}
    if files_exist:
        wanted["files_exist"] = ("Every file of the manifest is there, with the size it was stored with.", _missing)
    if content_unchanged:
        wanted["content_unchanged"] = ("Every file of the manifest has the content it was stored with.", _changed)
    asset_key = asset.key if hasattr(asset, "key") else dg.AssetKey.from_coercible(asset)
    return [
        _check(
            asset_key, name, description, judge, {resource_key: FileDatasetResource, io_manager_key: ManifestIOManager}
        )
        for name, (description, judge) in wanted.items()
    ]


# what a HEAD tells of a file: size_bytes, etag, checksum; or why there is nothing
_Found = Mapping[str, Any]


def _check(
    asset_key: dg.AssetKey,
    name: str,
    description: str,
    judge: Callable[[Mapping[str, Any], _Found], str | None],
    resources: Mapping[str, type],
) -> dg.AssetChecksDefinition:
    resource_key, io_manager_key = resources

    @dg.asset_check(asset=asset_key, name=name, description=description, required_resource_keys=set(resources))
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        store, manifests = (getattr(context.resources, key) for key in (resource_key, io_manager_key))
        for key, kind in resources.items():
            if not isinstance(getattr(context.resources, key), kind):
                raise file_dataset.InvalidDatasetError(f"resource {key!r} is no {kind.__name__}, which {name} needs")
        partitions = _partitions(context, asset_key)
        frames = [
            manifests.load(manifests.uri(asset_key, partition, of="files")).assign(partition=partition or "")
            for partition in partitions
        ]
        files = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"location": []})
        options = store.get_options()
        told = list(zip(files.to_dict("records"), _look(files["location"].tolist(), options), strict=True))
        wrong = [(file, why) for file, found in told if (why := judge(file, found)) is not None]
        metadata: dict[str, Any] = {"files": len(files), "files_wrong": len(wrong)}
        if partitions != [None]:
            metadata["partitions"] = len(partitions)
        if wrong:
            rows = [
                {**({"partition": file["partition"]} if file["partition"] else {}), "id": file["id"],
                 "file": file["file"], "location": file["location"], "told": why}
                for file, why in wrong
            ]  # fmt: skip
            metadata["wrong"] = table(pd.DataFrame(rows))
        return dg.AssetCheckResult(
            passed=not wrong,
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"{len(wrong)} of {len(files)} files {'are not as they were stored' if wrong else 'are wrong'}",
            metadata=metadata,
        )

    return check


def _partitions(context: dg.AssetCheckExecutionContext, asset_key: dg.AssetKey) -> list[str | None]:
    """The partition of the run; else all that are materialized; [None] of an asset without partitions."""
    step = context.op_execution_context  # Dagster 1.12 tells a check's own context of no partition
    if step.has_partition_key or step.has_partition_key_range:
        return [str(key) for key in step.partition_keys]
    materialized = sorted(context.instance.get_materialized_partitions(asset_key))
    return list(materialized) or [None]


def _missing(stored: Mapping[str, Any], found: _Found) -> str | None:
    if "error" in found:
        return str(found["error"])
    if found["size_bytes"] != stored["size_bytes"]:
        return f"{found['size_bytes']} bytes, {stored['size_bytes']} were stored"
    return None


def _changed(stored: Mapping[str, Any], found: _Found) -> str | None:
    for name in ("checksum", "etag"):
        before, now = stored[name], found.get(name)
        if isinstance(before, str) and isinstance(now, str):
            return None if before == now else f"{name} {now}, {before} was stored"
    return _missing(stored, found)


def _look(locations: list[str], options: file_dataset.Options) -> Iterator[_Found]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda location: _head(location, options), locations)


def _head(location: str, options: file_dataset.Options) -> _Found:
    if not location.startswith("s3://"):
        try:
            return {"size_bytes": Path(location).stat().st_size}
        except OSError as exc:
            return {"error": exc.strerror or type(exc).__name__}
    bucket, _, key = location.removeprefix("s3://").partition("/")
    try:
        head = options.s3_client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except botocore.exceptions.ClientError as exc:
        return {"error": f"S3 says {exc.response['Error']['Code']}"}
    except botocore.exceptions.BotoCoreError as exc:
        return {"error": type(exc).__name__}
    checksum = head.get("ChecksumCRC64NVME")
    return {
        "size_bytes": head["ContentLength"],
        "etag": head["ETag"].strip('"'),
        "checksum": None if checksum is None else f"CRC64NVME:{checksum}",
    }
