"""Frames at rest: manifests as Parquet, in S3 or a local directory. Nothing is ever unpickled.

    <base_path>/manifests/<key parts>/manifest.parquet            an asset without partitions
    <base_path>/manifests/<key parts>/partition=<key>.parquet     one partition

Beside each manifest of a pipeline lie its `.failures.parquet` and `.files.parquet`, and `.rejected.parquet`: the
failures of a later run whose manifest was not stored.
"""

# no `from __future__ import annotations` here: Dagster reads an IO manager's annotations as types

import json
import tempfile
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PrivateAttr

import file_dataset
from file_dataset_dagster.resource import FileDatasetResource

_VERSION_KEY = b"file_dataset.format_version"
_DTYPES_KEY = b"file_dataset.dtypes"
_VERSION = 1
_JSON_TYPES = {"string", "integer", "floating", "boolean", "empty"}  # as pandas infers them


def segment(text: str) -> str:
    """One part of a key or path for any text: no two texts share one, and none leaves its directory.

    Dots are encoded too: `..` stays below, and a partition `x.failures` is not the failures of `x`.
    """
    return quote(text, safe="", errors="surrogatepass").replace(".", "%2E") or "%"


def to_parquet(frame: pd.DataFrame) -> pa.Buffer:
    """The frame with all its dtypes, also those that pyarrow's own pandas metadata loses or cannot parse.

    Raises:
        file_dataset.InvalidDatasetError: a column holds what Parquet cannot, such as a Path or several types.
    """
    try:
        table = pa.Table.from_pandas(frame)
    except (pa.ArrowException, TypeError, ValueError):
        # pyarrow's own message has values in it, ids perhaps
        columns = [str(name) for name in frame.columns if not _is_storable(frame[[name]])]
        raise file_dataset.InvalidDatasetError(
            f"the frame cannot be stored as Parquet because of columns {columns}: one type a column, paths as str"
        ) from None
    dtypes = [_dtype_note(dtype) for dtype in frame.dtypes]
    metadata = dict(table.schema.metadata)
    about = json.loads(metadata[b"pandas"])
    for column, note in zip(about["columns"], dtypes, strict=False):  # index levels come after the columns
        if note == "arrow":
            column["numpy_type"] = "object"  # pandas cannot parse "list<item: int64>[pyarrow]"
    metadata |= {
        b"pandas": json.dumps(about).encode(),
        _DTYPES_KEY: json.dumps(dtypes).encode(),
        _VERSION_KEY: str(_VERSION).encode(),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def check_storable(frame: pd.DataFrame) -> None:
    """Refuse a frame whose ids or carried columns no manifest can hold; columns of Paths are files, and not carried.

    Raises:
        file_dataset.InvalidDatasetError: naming the columns.
    """
    kept = [name for name in frame.columns if not any(isinstance(value, PurePath) for value in frame[name])]
    to_parquet(frame[kept])


def _is_storable(frame: pd.DataFrame) -> bool:
    try:
        pa.Table.from_pandas(frame)
    except (pa.ArrowException, TypeError, ValueError):
        return False
    return True


def from_parquet(content: pa.Buffer, uri: str) -> pd.DataFrame:
    """The frame that `to_parquet` was given. `uri` is for the messages.

    Raises:
        file_dataset.InvalidDatasetError: `to_parquet` did not write this, or a later version of it did.
    """
    try:
        table = pq.read_table(pa.BufferReader(content))
    except pa.ArrowInvalid as exc:
        raise file_dataset.InvalidDatasetError(
            f"{uri} is no Parquet file ({exc}); materialize the asset again"
        ) from exc
    metadata = table.schema.metadata or {}
    version = metadata.get(_VERSION_KEY, b"").decode()
    if not version.isdigit():
        raise file_dataset.InvalidDatasetError(
            f"{uri} was not written by ManifestIOManager (no {_VERSION_KEY.decode()} in its metadata); it is left as "
            "it is. Read it with pandas.read_parquet in an asset that returns the frame"
        )
    if int(version) > _VERSION:
        raise file_dataset.InvalidDatasetError(
            f"{uri} has format version {version}, this file_dataset reads up to {_VERSION}: upgrade file-dataset"
        )
    frame: pd.DataFrame = table.to_pandas()
    for index, note in enumerate(json.loads(metadata[_DTYPES_KEY])):
        if note is not None:
            frame.isetitem(index, _series(table.column(index), note, frame.index))
    return frame


def _dtype_note(dtype: Any) -> Any:  # noqa: ANN401 (JSON)
    """What pyarrow's pandas metadata does not restore about a column's dtype; None where it restores all."""
    if isinstance(dtype, pd.ArrowDtype):
        return "arrow"
    if isinstance(dtype, pd.CategoricalDtype) and dtype.categories.inferred_type in _JSON_TYPES:
        # Parquet has dictionaries of strings only, and none in an empty column
        return {"categories": dtype.categories.tolist(), "of": str(dtype.categories.dtype), "ordered": dtype.ordered}
    if isinstance(dtype, pd.StringDtype):
        return f"string[{dtype.storage}]" if dtype.na_value is pd.NA else None
    return str(dtype) if str(dtype) in {"object", "datetime64[s]"} else None


def _series(column: pa.ChunkedArray, note: Any, index: pd.Index) -> Any:  # noqa: ANN401 (JSON; a Series)
    if note == "arrow":
        return pd.Series(pd.arrays.ArrowExtensionArray(column), index=index)
    values: Any = pd.Series(column.to_pylist(), dtype=object, index=index)
    if note == "object":
        return values
    if isinstance(note, str):
        return values.astype(note)
    categories = pd.Index(note["categories"], dtype=note["of"])
    return values.astype(pd.CategoricalDtype(categories, ordered=note["ordered"]))


class ManifestIOManager(dg.ConfigurableIOManager):
    """Stores and loads the frames of assets: those of `pipeline_asset` and any other pandas DataFrame."""

    resource: FileDatasetResource = Field(description="How S3 is reached.")
    base_path: str | None = Field(
        default=None, description="s3://bucket/prefix or a local directory; the resource's base_path unless given."
    )
    _options: file_dataset.Options | None = PrivateAttr(default=None)

    def uri(self, asset_key: dg.AssetKey, partition_key: str | None = None, *, of: str = "manifest") -> str:
        """Where the `manifest`, `failures`, `files` or `rejected` frame of an asset or of one partition lies."""
        base = self.base_path or self.resource.base_path
        if not base:
            raise file_dataset.InvalidDatasetError(
                "neither the ManifestIOManager nor its resource has a base_path: give s3://bucket/prefix or a directory"
            )
        if "://" not in base:
            base = str(Path(base).absolute())
        elif not base.removeprefix("s3://").strip("/") or not base.startswith("s3://"):
            raise file_dataset.InvalidDatasetError(
                f"base_path {base!r} is neither s3://bucket/prefix nor a local directory"
            )
        name = "manifest" if partition_key is None else f"partition={segment(partition_key)}"
        suffix = "" if of == "manifest" else f".{of}"
        parts = [base.rstrip("/"), "manifests", *map(segment, asset_key.path), f"{name}{suffix}.parquet"]
        return "/".join(parts)

    def store(self, frame: pd.DataFrame, uri: str) -> None:
        """Write the frame as a whole or not at all, over what is there.

        Raises:
            file_dataset.InvalidDatasetError: the frame cannot be stored as Parquet.
            file_dataset.RowError: the store refuses; the message has its code.
        """
        into_path, directory, name = uri.rsplit("/", 2)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "frame.parquet")
            path.write_bytes(to_parquet(frame))
            file_dataset.write_files({name: path}, into_path=into_path, id=directory, options=self._get_options())

    def load(self, uri: str) -> pd.DataFrame:
        """The frame at `uri`.

        Raises:
            file_dataset.InvalidDatasetError: what is there was not written by `store`, or by a later version of it.
            file_dataset.RowError: it cannot be read.
        """
        blobs = file_dataset.reader({"frame.parquet": uri}, options=self._get_options()).into_blob_table(large=True)
        return from_parquet(blobs["frame.parquet"][0].as_buffer(), uri)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Store the frame; for a PipelineResult its files and failures first, so that a manifest always has both."""
        partition_key = _partition_key(context)
        frame = obj
        if isinstance(obj, file_dataset.PipelineResult):
            self.store(obj.files, self.uri(context.asset_key, partition_key, of="files"))
            self.store(obj.failures, self.uri(context.asset_key, partition_key, of="failures"))
            frame = obj.manifest
        if not isinstance(frame, pd.DataFrame):
            raise file_dataset.InvalidDatasetError(
                f"asset {context.asset_key.to_user_string()} returned a {type(obj).__name__}, and ManifestIOManager "
                "stores pandas DataFrames: return one, give the asset another io_manager_key, or annotate it `-> None`"
            )
        uri = self.uri(context.asset_key, partition_key)
        self.store(frame, uri)
        columns = [dg.TableColumn(str(name), str(dtype)) for name, dtype in frame.dtypes.items()]
        context.add_output_metadata(
            {
                "dagster/row_count" if partition_key is None else "dagster/partition_row_count": len(frame),
                "dagster/column_schema": dg.TableSchema(columns),
                "dagster/uri": uri,
            }
        )

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """The manifest, or whatever frame the upstream asset returned."""
        partition_key = _partition_key(context)
        uri = self.uri(context.asset_key, partition_key)
        try:
            return self.load(uri)
        except file_dataset.RowError as exc:
            if exc.failures[0].type != "FileNotFoundError":
                raise
            partition = "" if partition_key is None else f", partition {partition_key!r},"
            raise file_dataset.FileDatasetError(
                f"no manifest of asset {context.asset_key.to_user_string()}{partition} at {uri}: "
                "materialize it first, or correct base_path"
            ) from exc

    def _get_options(self) -> file_dataset.Options:
        if self._options is None:
            self._options = self.resource.get_options()
        return self._options


def _partition_key(context: dg.InputContext | dg.OutputContext) -> str | None:
    if not context.has_asset_partitions:
        return None
    keys = list(context.asset_partition_keys)
    if len(keys) != 1:
        remedy = "launch one run per partition (BackfillPolicy.multi_run())"
        if isinstance(context, dg.InputContext):
            remedy = (
                "map each partition to one of them (AssetIn(partition_mapping=...)), or launch one run per partition"
            )
        raise file_dataset.InvalidDatasetError(
            f"{len(keys)} partitions of asset {context.asset_key.to_user_string()} at once are not supported yet: "
            f"{remedy}"
        )
    return str(keys[0])
