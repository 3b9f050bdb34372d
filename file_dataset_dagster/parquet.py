"""Frames as Parquet and back: every dtype comes back, columns can be chosen, nothing is unpickled. Pure: no I/O."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import file_dataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_VERSION_KEY = b"file_dataset.format_version"
_DTYPES_KEY = b"file_dataset.dtypes"
_NOTES_KEY = b"file_dataset.notes"
_VERSION = 1
_JSON_TYPES = {"string", "integer", "floating", "boolean", "empty"}  # as pandas infers them


def to_parquet(frame: pd.DataFrame, notes: Mapping[str, Any] | None = None) -> pa.Buffer:
    """The frame with all its dtypes, also those that pyarrow's own pandas metadata loses or cannot parse.

    Args:
        frame: any frame with columns of one type each.
        notes: what else is known of the frame, as JSON; `notes_of` reads it.

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
    } | ({_NOTES_KEY: json.dumps(notes).encode()} if notes else {})
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


def from_parquet(content: pa.Buffer, uri: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The frame that `to_parquet` was given, by this version or an earlier one, or some columns of it.

    Args:
        content: the file.
        uri: where it lies, for the messages.
        columns: these, in this order; None: all, and the index.

    Raises:
        file_dataset.InvalidDatasetError: `to_parquet` did not write this, or a later version of it did; or it has no
            such column.
    """
    file = _opened(content, uri)
    notes = json.loads(file.schema_arrow.metadata.get(_DTYPES_KEY, b"[]"))
    if columns is not None:
        of_name = dict(zip(file.schema_arrow.names, notes, strict=False))  # index levels come after the columns
        if unknown := [name for name in columns if name not in of_name]:
            raise file_dataset.InvalidDatasetError(f"{uri} has no columns {unknown}: it has {list(of_name)}")
        notes = [of_name[name] for name in columns]
        table = file.read(columns=list(columns)).select(list(columns))
    else:
        table = file.read()
    frame: pd.DataFrame = table.to_pandas()
    for index, note in enumerate(notes):
        if note is not None:
            frame.isetitem(index, _series(table.column(index), note, frame.index))
    return frame


def notes_of(content: pa.Buffer, uri: str) -> dict[str, Any]:
    """The notes that `to_parquet` was given, empty when there were none.

    Raises:
        file_dataset.InvalidDatasetError: as `from_parquet`.
    """
    notes: dict[str, Any] = json.loads(_opened(content, uri).schema_arrow.metadata.get(_NOTES_KEY, b"{}"))
    return notes


def _opened(content: pa.Buffer, uri: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
    except pa.ArrowInvalid as exc:
        raise file_dataset.InvalidDatasetError(
            f"{uri} is no Parquet file ({exc}); materialize the asset again"
        ) from exc
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"").decode()
    if not version.isdigit():
        raise file_dataset.InvalidDatasetError(
            f"{uri} was not written by ManifestIOManager (no {_VERSION_KEY.decode()} in its metadata); it is left as "
            "it is. Read it with pandas.read_parquet in an asset that returns the frame"
        )
    if int(version) > _VERSION:
        raise file_dataset.InvalidDatasetError(
            f"{uri} has format version {version}, this file_dataset reads up to {_VERSION}: upgrade file-dataset"
        )
    return file


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
