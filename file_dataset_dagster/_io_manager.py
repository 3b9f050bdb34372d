"""What Dagster calls to store the frames of assets and ops, and to load them as their inputs ask."""

# no `from __future__ import annotations` here: Dagster reads an IO manager's annotations as types

import contextlib
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import dagster as dg
from pydantic import Field, PrivateAttr

import file_dataset
from file_dataset_dagster._checkpoints import Checkpoint
from file_dataset_dagster._data_versions import version_of_frames
from file_dataset_dagster._event_log import failed_in_run
from file_dataset_dagster._frame_metadata import stored_frame
from file_dataset_dagster._inputs import ERRORS_AS_VALUES, in_order
from file_dataset_dagster._manifest_store import ManifestStore, frame_in
from file_dataset_dagster._partial_runs import Stored
from file_dataset_dagster._partitions import check_keys, joined, split
from file_dataset_dagster._provenance import Origins
from file_dataset_dagster._resource import FileDatasetResource

if TYPE_CHECKING:
    import pandas as pd


class ManifestIOManager(dg.ConfigurableIOManager):
    """Stores and loads the frames of assets: those of `pipeline_asset` and any other pandas DataFrame.

    Fields:
        resource: the `FileDatasetResource` by which S3 is reached.
        base_path: s3://bucket/prefix or a local directory; the resource's unless given.

    Example:
        >>> manifests = ManifestIOManager(resource=FileDatasetResource(base_path="s3://my-bucket/dagster"))
        >>> manifests.uri(dg.AssetKey("loud"))
        's3://my-bucket/dagster/manifests/loud/manifest.parquet'
        >>> manifests.uri(dg.AssetKey("loud"), "2026-01-31", of="failures")
        's3://my-bucket/dagster/manifests/loud/partition=2026-01-31.failures.parquet'
    """

    resource: FileDatasetResource = Field(description="How S3 is reached.")
    base_path: str | None = Field(
        default=None, description="s3://bucket/prefix or a local directory; the resource's base_path unless given."
    )
    _options: file_dataset.Options | None = PrivateAttr(default=None)
    _expected: dict[dg.AssetKey, tuple[object, file_dataset.PipelineResult | None, Origins | None]] = PrivateAttr(
        default_factory=dict
    )
    _versions: dict[dg.AssetKey, Mapping[str | None, str]] = PrivateAttr(default_factory=dict)

    def uri(self, asset_key: dg.AssetKey, partition_key: str | None = None, *, of: str = "manifest") -> str:
        """Where the `manifest`, `failures`, `files`, `inputs` or `rejected` frame of an asset or of one partition lies.

        Raises:
            file_dataset.InvalidDatasetError: there is no base_path, or the partition key is too long for it.
        """
        return self._store.uri(asset_key, partition_key, of=of)

    def store(self, frame: "pd.DataFrame", uri: str, notes: Mapping[str, Any] | None = None) -> None:
        """Write the frame as a whole or not at all, over what is there.

        Args:
            frame: what to store.
            uri: where; as `uri` returns it.
            notes: what else is known of it, as JSON.

        Raises:
            file_dataset.InvalidDatasetError: the frame cannot be stored as Parquet.
            file_dataset.RowError: the store refuses; the message has its code.
        """
        self._store.store(frame, uri, notes)

    def load(self, uri: str, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """The frame at `uri`, or some of its columns.

        Raises:
            file_dataset.InvalidDatasetError: what is there is damaged, a directory, was not written by `store`, or by a
                later version of it; or it has no such column.
            file_dataset.RowError: it is not there, or cannot be read; the message says where and why.
        """
        return self._store.load(uri, columns)

    def store_result(
        self,
        result: file_dataset.PipelineResult,
        asset_key: dg.AssetKey,
        partition_key: str | None,
        origins: Origins | None = None,
    ) -> dict[str, Any]:
        """Store files, failures and inputs, then the manifest, so that it always has them; return its metadata."""
        return self._store.store_result(result, asset_key, partition_key, origins)

    def expect(
        self,
        asset_key: dg.AssetKey,
        value: object,
        result: file_dataset.PipelineResult | None,
        origins: Origins | None = None,
    ) -> None:
        """Take `value`, the asset's next output, for this result: others see a frame, and all of it is stored.

        Args:
            asset_key: whose output it is.
            value: the manifest, or a dict of manifests by partition.
            result: what is stored for it; None: it is stored already.
            origins: of the result's rows.
        """
        self._expected[asset_key] = value, result, origins

    def expect_versions(self, asset_key: dg.AssetKey, versions: Mapping[str | None, str]) -> None:
        """Note these data versions, by partition, with the asset's next frames, instead of those of their values."""
        self._versions[asset_key] = versions

    def store_frame(
        self, frame: "pd.DataFrame", asset_key: dg.AssetKey, partition_key: str | None, version: str | None
    ) -> dict[str, Any]:
        """Store the frame of an asset that is no pipeline's, with its data version; return its metadata."""
        return self._store.store_frame(frame, asset_key, partition_key, version)

    def store_rejected(self, failures: "pd.DataFrame", asset_key: dg.AssetKey, partition_key: str | None) -> str:
        """Store the failures of a run whose manifest is not stored; return where. One GET to see what they follow."""
        return self._store.store_rejected(failures, asset_key, partition_key)

    def checkpoint(self, asset_key: dg.AssetKey, partition_key: str | None, code_version: str | None) -> Checkpoint:
        """Where the rows of an asset or of one partition are written down until its manifest is stored."""
        return self._store.checkpoint(asset_key, partition_key, code_version)

    def stored(self, asset_key: dg.AssetKey, partition_key: str | None) -> Stored | None:
        """What is stored of the last run, in six GETs at once; None when that is no whole manifest of a pipeline."""
        return self._store.stored(asset_key, partition_key)

    def files_of(self, asset_key: dg.AssetKey, keys: Sequence[str | None]) -> "dict[str | None, pd.DataFrame]":
        """The `files` frames of these partitions, of those that a pipeline has stored: a GET each, all at once."""
        return self._store.files_of(asset_key, keys)

    def versions_noted(self, asset_key: dg.AssetKey, keys: Sequence[str | None]) -> dict[str | None, str | None]:
        """The data version that each frame was stored under, where it is that of its values: a GET each."""
        return self._store.versions_noted(asset_key, keys)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Store a frame, a PipelineResult, or in a run over many partitions a dict of frames by partition key.

        A frame for many partitions is split by its column `partition`. The frame of an op that is no asset (in a graph
        asset, in a job of ops, one of many dynamic outputs) is stored under its run and step.
        """
        if not context.has_asset_key:
            self._handle_op_output(context, obj)
        elif not self._handle_result(context, obj):
            self._handle_frames(context, obj)

    def _handle_result(self, context: dg.OutputContext, obj: object) -> bool:
        """Store a result; return whether there is one: what `expect` announced, or the output itself."""
        expected, result, origins = self._expected.pop(context.asset_key, (None, None, None))
        is_expected = expected is not None and expected is obj
        if not is_expected:
            result, origins = obj if isinstance(obj, file_dataset.PipelineResult) else None, None
        if result is not None:
            keys = list(context.asset_partition_keys) if context.has_asset_partitions else []
            own_key = str(keys[0]) if keys else None  # of several, each is stored as it finishes
            context.add_output_metadata(self.store_result(result, context.asset_key, own_key, origins))
        return is_expected or result is not None

    def _handle_frames(self, context: dg.OutputContext, obj: object) -> None:
        import pandas as pd

        of = f"asset {context.asset_key.to_user_string()}"
        keys = [str(key) for key in context.asset_partition_keys] if context.has_asset_partitions else []
        frames: dict[str, Any]
        if isinstance(obj, Mapping) and keys:
            frames = {str(key): frame for key, frame in obj.items()}
            check_keys(set(frames), keys, of)
        elif len(keys) > 1 and isinstance(obj, pd.DataFrame):
            frames = dict(split(obj, keys, of))
        else:
            frames = dict.fromkeys(keys or [""], obj)
        for frame in frames.values():
            _check_is_frame(frame, of, "give the asset another io_manager_key, or annotate it `-> None`")
        if len(frames) > 1:
            for frame in frames.values():
                file_dataset.parquet.to_parquet(frame)  # refused before the first is stored
        version = version_of_frames(frames)
        stated = self._versions.pop(context.asset_key, {})
        for key, frame in frames.items():
            partition_key = key if keys else None
            noted = stated.get(partition_key, version.value)
            metadata = self.store_frame(frame, context.asset_key, partition_key, noted)
            if len(frames) > 1:
                context.step_context.add_asset_metadata(metadata, context.asset_key, partition_key)
            else:
                context.add_output_metadata(metadata)
        # there is no step where a test calls this; an asset that states its own data version keeps it
        with contextlib.suppress(dg.DagsterInvariantViolationError):
            context.step_context.set_data_version(context.asset_key, version)

    def _handle_op_output(self, context: dg.OutputContext, obj: object) -> None:
        frame = _check_is_frame(
            obj,
            f"output {context.name!r} of step {context.step_key}",
            "give the output another IO manager (dg.Out(io_manager_key=...)), or annotate the op `-> None`",
        )
        uri = self._op_uri(context)
        self.store(frame, uri)
        context.add_output_metadata(stored_frame(frame, uri, None))

    def _op_uri(self, context: dg.OutputContext) -> str:
        return self._store.op_uri(context.get_identifier(), f"output {context.name!r} of step {context.step_key}")

    def load_input(self, context: dg.InputContext) -> Any:  # noqa: ANN401 (what the annotation asks for)
        """The manifest, or the frame that the upstream asset returned; of many partitions as the annotation says.

        `dict[str, pd.DataFrame]`: always a dict by partition key. `pd.DataFrame`: the frame of the partition that has
        the key of the run's own, else all rows with a column `partition`. Anything else: a dict for many partitions,
        the frame for one, None for an input of no partition at all (the day before the first one). `| None` beside
        any of these: the same, and None for no partition at all. Partitions come in the order of their definition.

        Metadata of the input: `columns` reads only these, `allow_missing_partitions` leaves out partitions that have no
        manifest.
        """
        import pandas as pd

        metadata = context.definition_metadata or {}
        columns = metadata.get("columns")
        if not context.has_asset_key:
            if context.upstream_output is None:
                raise file_dataset.InvalidDatasetError("ManifestIOManager loads outputs of assets and ops")
            return self.load(self._op_uri(context.upstream_output), columns)
        of = f"asset {context.asset_key.to_user_string()}"
        keys: list[Any] = [None]
        if context.has_asset_partitions:
            keys = in_order(context.asset_partition_keys, context.asset_partitions_def, _instance(context))
        wanted, or_none = _wanted(context.dagster_type.typing_type)
        if not keys and or_none:
            return None
        frames = self._frames(context, keys, of)
        if keys == [None]:
            return frames[None]
        if isinstance(wanted, type) and issubclass(wanted, Mapping):
            return frames
        own_key = context.partition_key if context.has_partition_key else None
        if wanted is pd.DataFrame and keys != [own_key] and not (or_none and own_key and len(keys) == 1):
            return joined({str(key): frame for key, frame in frames.items()}, of)
        return frames if len(keys) != 1 else frames.get(keys[0])

    def _frames(self, context: dg.InputContext, keys: Sequence[Any], of: str) -> dict[Any, Any]:
        """The frames of these partitions, without those that may be left out; or errors, as the input asks."""
        metadata = context.definition_metadata or {}
        may_lack = bool(metadata.get("allow_missing_partitions")) and keys != [None]
        gives_errors = bool(metadata.get(ERRORS_AS_VALUES))
        failed = _failed(context) if len(keys) > 1 else set()
        if (lost := [key for key in keys if str(key) in failed]) and not may_lack:
            raise file_dataset.FileDatasetError(
                f"partition {str(lost[0])!r} of {of} failed in this run ({len(lost)} partitions in all), and what is "
                "stored of it is of an earlier run: mend it first, or have it left out: "
                'dg.AssetIn(metadata={"allow_missing_partitions": True})'
            )
        uris = {key: self.uri(context.asset_key, None if key is None else str(key)) for key in keys if key not in lost}
        errors: dict[str, file_dataset.FileDatasetError] = {}
        places = {str(number): uri for number, uri in enumerate(uris.values())}
        found: dict[str, Any] = {**self._store.blobs(places, errors if gives_errors else None), **errors}
        missing = [key for number, key in enumerate(uris) if str(number) not in found]
        if missing and not may_lack:
            error = file_dataset.FileDatasetError(
                _missing_manifest(of, missing, uris) + self._store.endpoint_note(uris[missing[0]])
            )
            if not gives_errors:
                raise error
            found |= {str(number): error for number, key in enumerate(uris) if key in missing}
        elif missing or lost:
            context.log.warning(
                "%d of %d partitions of %s have no manifest, or failed in this run, and are left out, the first: %r",
                len(missing) + len(lost),
                len(keys),
                of,
                str([*missing, *lost][0]),
            )
        frames = {}
        for number, key in enumerate(uris):
            if (blob := found.get(str(number))) is not None:
                frames[key] = _frame_or_error(blob, uris[key], metadata.get("columns"), gives_errors=gives_errors)
        return frames

    @property
    def _store(self) -> ManifestStore:
        return ManifestStore(self.base_path or self.resource.base_path, self._get_options)

    def _get_options(self) -> file_dataset.Options:
        if self._options is None:
            self._options = self.resource.get_options()
        return self._options


def _frame_or_error(blob: Any, uri: str, columns: Sequence[str] | None, *, gives_errors: bool) -> Any:  # noqa: ANN401
    if isinstance(blob, file_dataset.FileDatasetError):
        return blob
    try:
        return frame_in(blob, uri, columns)
    except file_dataset.InvalidDatasetError as exc:
        if gives_errors:
            return exc
        raise


def _failed(context: dg.InputContext) -> set[str]:
    """The partitions that the run was to materialize before this step, and did not."""
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:  # a context that a test made
        return set()
    definition = context.asset_partitions_def
    return failed_in_run(context.instance, step.dagster_run, step.step.key, context.asset_key, definition)


def _wanted(annotation: Any) -> tuple[Any, bool]:  # noqa: ANN401 (a type, as typing has them)
    """The type that an input is annotated as, without its parameters, and whether it may be None."""
    import pandas as pd

    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        others = [member for member in get_args(annotation) if member is not NoneType]
        return _wanted(others[0])[0] if len(others) == 1 else object, NoneType in get_args(annotation)
    wanted = origin or annotation
    return wanted, not (isinstance(wanted, type) and issubclass(wanted, Mapping | pd.DataFrame))


def _instance(context: dg.InputContext) -> dg.DagsterInstance | None:
    try:
        return context.instance
    except dg.DagsterInvariantViolationError:  # a context that a test made
        return None


def _check_is_frame(obj: object, of: str, remedy: str) -> "pd.DataFrame":
    import pandas as pd

    if not isinstance(obj, pd.DataFrame):
        raise file_dataset.InvalidDatasetError(
            f"{of} returned a {type(obj).__name__}, and ManifestIOManager stores pandas DataFrames: return one, "
            f"{remedy}"
        )
    return obj


def _missing_manifest(of: str, missing: Sequence[str | None], uris: Mapping[str | None, str]) -> str:
    first = missing[0]
    partition = "" if first is None else f", partition {str(first)!r},"
    more = f" (and of {len(missing) - 1} more partitions)" if len(missing) > 1 else ""
    allowed = "" if first is None else '; or allow it: dg.AssetIn(metadata={"allow_missing_partitions": True})'
    return f"no manifest of {of}{partition} at {uris[first]}{more}: materialize it first, or correct base_path{allowed}"
