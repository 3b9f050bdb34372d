"""The files of a bucket become an asset: `list_files` as its value, keys and ETags as its data version."""

# no `from __future__ import annotations` here: Dagster reads the annotations of an asset's function

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, cast

import dagster as dg

import file_dataset
from file_dataset_dagster._asset_arguments import AssetArguments
from file_dataset_dagster._event_log import NO_EVENT, provenance_tags, version_tags
from file_dataset_dagster._file_patterns import fields_of
from file_dataset_dagster._frame_metadata import stored_frame
from file_dataset_dagster._inputs import asset_key_of
from file_dataset_dagster._io_manager import ManifestIOManager
from file_dataset_dagster._listings import DETAILS, Listing
from file_dataset_dagster._resource import FileDatasetResource

if TYPE_CHECKING:
    import pandas as pd

# arguments of dg.asset that have no meaning here, and what to do instead
_REFUSED = {
    "ins": "it reads a bucket, and no asset; name assets that must come first as deps=",
    "check_specs": "the function has no way to answer them; write checks with @dg.asset_check(asset=...)",
    "dagster_type": "the value is always a manifest",
    "config_schema": "what it lists is fixed in code",
}
_OF_OBSERVED = {"partitions_def", "required_resource_keys", "resource_defs", "group_name"}
_OF_SPEC = {"deps", "description", "metadata", "tags", "owners", "kinds", "automation_condition", "code_version"} | {
    "freshness_policy", "skippable", "io_manager_key"
}  # fmt: skip


def files_asset(  # noqa: PLR0913 (each is a choice of the user's)
    name: str | None = None,
    patterns: Mapping[str, str | os.PathLike[str]] | None = None,
    *,
    id: str | None = None,  # noqa: A002 (as in list_files)
    details: Sequence[str] | bool = ("size_bytes", "etag"),
    allow_empty: bool = False,
    partition_by: str | None = None,
    observe: bool = False,
    resource_key: str = "file_dataset",
    show_ids: bool = True,
    **asset_args: Unpack[AssetArguments],
) -> dg.AssetsDefinition:
    """Return an asset whose value is the frame of the files in a bucket or below a directory.

    The value is what `file_dataset.list_files` returns, stored as a manifest; `pipeline_asset(input=...)` reads it. Its
    data version is a digest of ids, locations and ETags (of a directory: its size, and the time of its newest file): a
    listing that finds nothing new leaves what is downstream fresh. `build_files_sensor` lists at every tick, and
    requests a run when something is new.

    Costs a LIST per 1,000 keys that begin with the text before the first field, for each run. With `partition_by` a run
    over one partition lists only what begins with its value, where the field stands alone between slashes.

    Args:
        name: the asset's name; or give `key`.
        patterns: by file name, as `list_files` takes them: `{"scan.mha": "s3://bucket/raw/{site}/{id}.mha"}`.
        id: as `list_files` takes it. Of a partitioned asset ids differ within a partition, and may repeat in others.
        details: which of size_bytes, etag and last_modified the frame has of each file; True: all, False: none. With
            ETags `only_changed` of a pipeline sees which rows changed. A time changes with every upload, of equal bytes
            too, and so would the row.
        allow_empty: a listing, or a partition, without a file is no error.
        partition_by: a field of the patterns: each of its values is a partition, whose manifest has the rows of that
            value. `partitions_def` is `dg.DynamicPartitionsDefinition(name=<the field>)` unless it is given.
        observe: the asset is observed, not materialized: for files that something else than Dagster makes. The manifest
            is stored as well, by the ManifestIOManager of `io_manager_key`.
        resource_key: the FileDatasetResource by which files are listed.
        show_ids: False keeps ids and names of files out of what Dagster stores, the messages of its sensor among it.
        asset_args: any argument of `dg.asset`, but `ins`, `check_specs`, `dagster_type` and `config_schema`; of an
            observed one those of `dg.AssetSpec`.

    Raises:
        file_dataset.InvalidDatasetError: an argument is missing or has no meaning here; at import, not in the run.

    Example:
        >>> scans = files_asset("scans", {"scan.txt": "s3://my-bucket/{id}.txt"})
        >>> store = FileDatasetResource(base_path="s3://my-bucket/dagster")
        >>> resources = {"file_dataset": store, "io_manager": ManifestIOManager(resource=store)}
        >>> dg.materialize([scans], resources=resources).asset_value("scans")[["scan.txt", "id"]].to_dict("records")
        [{'scan.txt': 's3://my-bucket/scan.txt', 'id': 'scan'}]
    """
    for refused, remedy in _REFUSED.items():
        if refused in asset_args:
            raise file_dataset.InvalidDatasetError(f"files_asset takes no {refused}: {remedy}")
    if not isinstance(resource_key, str) or not resource_key:
        raise file_dataset.InvalidDatasetError(f"resource_key={resource_key!r}: give the key of a resource, as text")
    key = _asset_key(name, asset_args)
    if not isinstance(show_ids, bool):  # "no" would show them
        raise file_dataset.InvalidDatasetError(f"show_ids={show_ids!r}: give True or False")
    given = _texts(patterns)
    listing = Listing(given, id, _details(details), partition_by, bool(allow_empty), resource_key, show_ids)
    partitions_def = _partitions_def(listing, asset_args.get("partitions_def"))
    io_manager_key = asset_args.get("io_manager_key") or "io_manager"
    arguments = {
        **{name: value for name, value in asset_args.items() if name not in {"name", "key", "key_prefix"}},
        "key": key,
        "partitions_def": partitions_def,
        "metadata": {**listing.to_metadata(), **(asset_args.get("metadata") or {})},
        "kinds": asset_args.get("kinds") or ({"s3"} if _is_in_s3(listing) else None),
        # an io_manager_def has no key of its own that a resource could be asked for by
        "required_resource_keys": {resource_key, *(asset_args.get("required_resource_keys") or ())}
        | (set() if "io_manager_def" in asset_args else {io_manager_key}),
    }
    run = _Run(listing, key, None if "io_manager_def" in asset_args else io_manager_key)
    return _observed(run, arguments) if observe else _materialized(run, arguments)


class _Run:
    """What a run of the asset does; the listing, and where it is stored."""

    def __init__(self, listing: Listing, key: dg.AssetKey, io_manager_key: str | None) -> None:
        self.listing, self.key, self._io_manager_key = listing, key, io_manager_key

    def manifests(self, context: dg.AssetExecutionContext) -> ManifestIOManager | None:
        """The IO manager, where it is one that this package knows."""
        found = None if self._io_manager_key is None else getattr(context.resources, self._io_manager_key)
        return found if isinstance(found, ManifestIOManager) else None

    def frames(
        self, context: dg.AssetExecutionContext
    ) -> "tuple[dict[str | None, pd.DataFrame], dict[str | None, dict[str, Any]]]":
        """The frame of each partition of the run, with all details, and what Dagster shows of it; one listing."""
        resource = getattr(context.resources, self.listing.resource_key)
        if not isinstance(resource, FileDatasetResource):
            raise dg.Failure(
                f"resource {self.listing.resource_key!r} is a {type(resource).__name__}: give a FileDatasetResource",
                allow_retries=False,
            )
        began = time.monotonic()
        try:
            found = self._found(context, resource.get_options())
            seconds = time.monotonic() - began
            left_out = {at: why for each in found.values() for at, why in each.left_out.items()}
            if left_out:
                context.log.error("%s", self.listing.left_out(left_out))
            frames = {key: self.listing.frame(each, key) for key, each in found.items()}
            for key, frame in frames.items():
                of = f"asset {self.key.to_user_string()}" + ("" if key is None else f", partition {key!r}")
                self.listing.check_not_empty(frame, of)
        except file_dataset.InvalidDatasetError as exc:
            raise dg.Failure(str(exc), allow_retries=False) from exc
        metadata = {
            key: self.listing.metadata(frame, seconds, left_out=len(found[key].left_out))
            for key, frame in frames.items()
        }
        return frames, metadata

    def _found(
        self, context: dg.AssetExecutionContext, options: file_dataset.Options
    ) -> "dict[str | None, file_dataset.FoundFiles]":
        if self.listing.partition_by is None:
            return {None: self.listing.found(options).with_legal_ids()}
        found = self.listing.by_partition(options, [str(key) for key in context.partition_keys])
        return {key: each.with_legal_ids() for key, each in found.items()}


def _materialized(run: _Run, arguments: Mapping[str, Any]) -> dg.AssetsDefinition:
    def compute(context: dg.AssetExecutionContext) -> Any:  # noqa: ANN401 (of partitions, a dict)
        yield from _materialize(run, context)

    return cast("dg.AssetsDefinition", dg.asset(**arguments)(compute))


def _materialize(run: _Run, context: dg.AssetExecutionContext) -> Iterator[Any]:
    listing = run.listing
    frames, metadata = run.frames(context)
    versions = {key: listing.version(frame) for key, frame in frames.items()}
    shown = {key: listing.shown(frame) for key, frame in frames.items()}
    manifests = run.manifests(context)
    if manifests is not None and all(map(listing.is_in_values, frames.values())):
        # the values say what the version says, so that a partial run knows rows that are as they were
        manifests.expect_versions(run.key, {key: version.value for key, version in versions.items()})
    if len(frames) == 1:
        ((key, frame),) = shown.items()
        own = {} if manifests is not None else stored_frame(frame, "", key)
        own.pop("dagster/uri", None)
        yield dg.MaterializeResult(
            asset_key=run.key, value=frame, data_version=versions[key], metadata={**metadata[key], **own}
        )
        return
    # Dagster would make one event for each, all with one data version: these have those of each
    provenance = provenance_tags(context)
    yield dg.MaterializeResult(asset_key=run.key, value=shown, metadata={NO_EVENT: True})
    for key, frame in shown.items():
        uri = manifests.uri(run.key, key) if manifests is not None else ""
        stored = stored_frame(frame, uri, key)
        yield dg.AssetMaterialization(
            run.key,
            partition=key,
            metadata={**metadata[key], **{name: value for name, value in stored.items() if value != ""}},
            tags={**provenance, **version_tags(str(key), versions[key])},
        )


def _observed(run: _Run, arguments: Mapping[str, Any]) -> dg.AssetsDefinition:
    if unknown := set(arguments) - _OF_SPEC - _OF_OBSERVED - {"key"}:
        raise file_dataset.InvalidDatasetError(
            f"an observed files_asset takes no {', '.join(sorted(unknown))}: it has the arguments of dg.AssetSpec"
        )
    of_spec = {name: arguments[name] for name in _OF_SPEC - {"io_manager_key"} if arguments.get(name) is not None}
    spec = dg.AssetSpec(run.key, **of_spec).with_io_manager_key(arguments.get("io_manager_key") or "io_manager")
    of_op = {name: arguments[name] for name in _OF_OBSERVED if arguments.get(name) is not None}

    def compute(context: dg.AssetExecutionContext) -> Any:  # noqa: ANN401 (events, one after the other)
        yield from _observe(run, context)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # it has been that since 2023
        define = dg.multi_observable_source_asset(specs=[spec], name=run.key.to_python_identifier(), **of_op)
    return cast("dg.AssetsDefinition", define(compute))


def _observe(run: _Run, context: dg.AssetExecutionContext) -> Iterator[Any]:
    frames, shown_of = run.frames(context)
    manifests = run.manifests(context)
    for key, frame in frames.items():
        version = run.listing.version(frame)
        shown = run.listing.shown(frame)
        metadata = shown_of[key]
        if manifests is None:
            metadata["rows"] = len(shown)
        else:
            noted = version.value if run.listing.is_in_values(frame) else None
            metadata |= manifests.store_frame(shown, run.key, key, noted)
        if key is None:
            yield dg.ObserveResult(asset_key=run.key, data_version=version, metadata=metadata)
        else:
            context.log_event(
                dg.AssetObservation(run.key, partition=key, metadata=metadata, tags=version_tags(key, version))
            )
    if None not in frames:
        yield dg.Output(None, run.key.to_python_identifier(), metadata={NO_EVENT: True})


def _asset_key(name: object, asset_args: Mapping[str, Any]) -> dg.AssetKey:
    if asset_args.get("key") is not None:
        if name is not None or asset_args.get("key_prefix") is not None:
            raise file_dataset.InvalidDatasetError("give key, or name and key_prefix, not both")
        return asset_key_of(asset_args["key"], "key")
    if not isinstance(name, str) or not name:
        raise file_dataset.InvalidDatasetError(
            f"files_asset({name!r}, ...): the asset's name comes first, or give key=: "
            "files_asset('scans', {'scan.mha': 's3://bucket/raw/{id}.mha'})"
        )
    prefix: str | Sequence[str] = asset_args.get("key_prefix") or []
    return dg.AssetKey([*([prefix] if isinstance(prefix, str) else prefix), name])


def _texts(patterns: object) -> dict[str, str]:
    if not isinstance(patterns, Mapping) or not patterns:
        raise file_dataset.InvalidDatasetError(
            f"patterns={patterns!r}: give a mapping of file name to pattern, such as "
            "{'scan.mha': 's3://bucket/raw/{id}.mha'}"
        )
    texts = {str(name): os.fspath(text) for name, text in patterns.items() if isinstance(text, str | os.PathLike)}
    if len(texts) < len(patterns) or not all(isinstance(text, str) for text in texts.values()):
        raise file_dataset.InvalidDatasetError(f"patterns={patterns!r}: a pattern is a text, or a path")
    return texts


def _details(details: object) -> tuple[str, ...]:
    if isinstance(details, bool):
        return DETAILS if details else ()
    if isinstance(details, str) or not isinstance(details, Sequence) or not set(details) <= set(DETAILS):
        raise file_dataset.InvalidDatasetError(f"details={details!r}: give True, False, or some of {list(DETAILS)}")
    return tuple(name for name in DETAILS if name in details)


def _partitions_def(listing: Listing, given: Any) -> dg.PartitionsDefinition[Any] | None:  # noqa: ANN401
    field = listing.partition_by
    fields = fields_of(listing.patterns.values())
    if field is None:
        if given is not None:
            raise file_dataset.InvalidDatasetError(
                f"partitions_def needs partition_by: the field of the patterns ({', '.join(fields) or 'none'}) whose "
                "values are the partitions"
            )
        return None
    if field not in fields:
        raise file_dataset.InvalidDatasetError(
            f"partition_by={field!r} is no field of the patterns, which have {', '.join(fields) or 'none'}: write "
            f"{{{field}}} where partitions differ"
        )
    if isinstance(given, dg.MultiPartitionsDefinition):
        raise file_dataset.InvalidDatasetError(
            "partitions_def has several dimensions, and partition_by is one field: give one of one dimension"
        )
    return dg.DynamicPartitionsDefinition(name=field) if given is None else given


def _is_in_s3(listing: Listing) -> bool:
    return all(text.startswith("s3://") for text in listing.patterns.values())
