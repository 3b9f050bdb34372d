"""Frames as Parquet and back: what comes back is what went in, or the frame is refused. No I/O, no unpickling.

A file is plain Parquet, which anything reads. Beside the columns it has: what pyarrow does not restore by itself (our
metadata), and in a gap before the footer, where no reader looks, a digest of all other bytes.

`import file_dataset` does not load this module, which needs pandas and pyarrow: `file_dataset.parquet` does.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import zlib
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from file_dataset import _seal
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["check_storable", "from_parquet", "notes_of", "to_parquet"]

_VERSION_KEY = b"file_dataset.format_version"
_DTYPES_KEY = b"file_dataset.dtypes"
_NOTES_KEY = b"file_dataset.notes"
_VERSION = 2  # 1 had no digest, and kept one kind of null in a column of objects
_JSON_TYPES = {"string", "integer", "floating", "boolean", "empty"}  # as pandas infers them
# of these, == on lists of one type each finds whether they are the same; NaN aside, which only looks different
_PLAIN_TYPES = {str, int, float, bool, bytes, type(None), dt.date, dt.timedelta}
_NULLS: dict[str, Any] = {"nan": float("nan"), "NA": pd.NA, "NaT": pd.NaT}
_AGAIN = "store it again"
_REMEDY = (
    "carry text instead: json.dumps for lists and dicts, str for paths, ids, enums, decimals and times, and one type a "
    "column"
)


def __dir__() -> list[str]:
    return __all__


def to_parquet(frame: pd.DataFrame, notes: Mapping[str, Any] | None = None) -> pa.Buffer:
    """Return the frame as a Parquet file, with all its dtypes, values and index, or refuse it as a whole.

    The file is read back and compared before it is returned. Values are compared with their types: True is no 1, a
    tuple no list, and a dict that gained a key is no longer the same. It takes some 0.3 s for 100,000 rows of ten
    columns of text, on one core of 2020; the file and a second frame are in memory meanwhile.

    Args:
        frame: any frame whose columns have text for names. Its `attrs` are kept where JSON and pyarrow hold them.
        notes: what else is known of the frame, as JSON; `notes_of` reads it.

    Returns:
        The bytes of the file; `open(path, "wb").write(...)` takes them, and `pandas.read_parquet` reads them.

    Raises:
        InvalidDatasetError: Parquet cannot hold a column, or would change a value of it; names the columns and the
            first row, by number, and shows no value.

    Example:
        >>> from file_dataset.parquet import from_parquet, to_parquet
        >>> frame = pd.DataFrame({"id": [1, 2], "site": pd.Categorical(["Ulm", "Bonn"])})
        >>> size = Path("frame.parquet").write_bytes(to_parquet(frame))
        >>> from_parquet(Path("frame.parquet").read_bytes(), "frame.parquet")["site"].dtype.name
        'category'
    """
    try:
        content = _written(frame, notes)
        back = _read(content, None)
    except Exception as exc:  # noqa: BLE001  # pyarrow and pandas raise a dozen types, OverflowError among them
        # pyarrow's own message has values in it, ids perhaps
        raise InvalidDatasetError(_refusal(frame, exc)) from None
    if _has_changed(frame, back):
        raise InvalidDatasetError(_refusal(frame, None))
    return content


def check_storable(frame: pd.DataFrame) -> None:
    """Refuse a frame whose ids or carried columns `to_parquet` refuses, before hours of rows rather than after them.

    Columns of Paths are files of the rows, which a manifest does not carry: they are not looked at, nor is the index.
    It costs what `to_parquet` costs.

    Raises:
        InvalidDatasetError: as `to_parquet`, naming the columns.

    Example:
        >>> frame = pd.DataFrame({"id": [1, 2], "spacing": [(1.0, 1.0), (0.5, 0.5)]})
        >>> try:
        ...     file_dataset.parquet.check_storable(frame)
        ... except InvalidDatasetError as error:
        ...     print(str(error).split(":")[0])
        the frame cannot be stored as Parquet because of columns ['spacing']
    """
    columns = [place for place in range(frame.shape[1]) if not _has_paths(frame.iloc[:, place])]
    to_parquet(frame.iloc[:, columns].reset_index(drop=True))  # manifests have an index of their own


def from_parquet(
    content: bytes | pa.Buffer, uri: str, columns: Sequence[str] | None = None, *, remedy: str = _AGAIN
) -> pd.DataFrame:
    """Return the frame that `to_parquet` was given, by this version or an earlier one, or some columns of it.

    Args:
        content: the file, or a view of it (`memoryview`, `mmap`), which is not copied.
        uri: where it lies, for the messages.
        columns: these, in this order; None: all, and the index.
        remedy: what to do about a damaged file, for the messages.

    Raises:
        InvalidDatasetError: the file is damaged, `to_parquet` did not write it, or a later version of it did; or it has
            no such column.

    Example:
        >>> content = file_dataset.parquet.to_parquet(pd.DataFrame({"id": ["a", "b"], "age": [61, 47]}))
        >>> file_dataset.parquet.from_parquet(content, "people.parquet", ["age"])["age"].tolist()
        [61, 47]
    """
    content = pa.py_buffer(content)
    names = _opened(content, uri, remedy).schema_arrow.names
    if columns is not None and (unknown := [name for name in columns if name not in names]):
        raise InvalidDatasetError(f"{uri} has no columns {unknown}: it has {names}")
    try:
        return _read(content, columns)
    except Exception as exc:
        raise _damaged(uri, exc, remedy) from exc


def notes_of(content: bytes | pa.Buffer, uri: str, *, remedy: str = _AGAIN) -> dict[str, Any]:
    """Return the notes that `to_parquet` was given, empty when there were none.

    Args:
        content: as `from_parquet` takes it.
        uri: where it lies, for the messages.
        remedy: what to do about a damaged file, for the messages.

    Raises:
        InvalidDatasetError: as `from_parquet`.

    Example:
        >>> content = file_dataset.parquet.to_parquet(pd.DataFrame({"id": [1]}), {"model": "unet-3"})
        >>> file_dataset.parquet.notes_of(content, "frame.parquet")
        {'model': 'unet-3'}
    """
    file = _opened(pa.py_buffer(content), uri, remedy)
    try:
        notes = json.loads(file.schema_arrow.metadata.get(_NOTES_KEY, b"{}"))
        return dict(notes)
    except (ValueError, TypeError) as exc:
        raise _damaged(uri, exc, remedy) from exc


# --- the file ---


def _written(frame: pd.DataFrame, notes: Mapping[str, Any] | None) -> pa.Buffer:
    frame = frame.copy(deep=False)
    if not _is_json(frame.attrs):
        frame.attrs = {}  # pyarrow would warn, or change them
    table = pa.Table.from_pandas(frame)
    dtypes = [_note(frame.iloc[:, place]) for place in range(frame.shape[1])]
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
    return pa.py_buffer(_seal.sealed(sink.getvalue()))


def _is_json(attrs: Mapping[Any, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(attrs)) == attrs)
    except (TypeError, ValueError):
        return False


def _opened(content: pa.Buffer, uri: str, remedy: str) -> pq.ParquetFile:
    is_whole = _seal.is_whole(content)
    if is_whole is False:
        raise _damaged(uri, "its bytes are not those that were stored", remedy)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"").decode("ascii", "replace")
    except Exception as exc:
        why = "it is empty" if not content.size else _line(exc)
        raise InvalidDatasetError(f"{uri} is no Parquet file ({why}); {remedy}") from exc
    if not version.isdigit():
        raise InvalidDatasetError(
            f"{uri} was not written by file_dataset (no {_VERSION_KEY.decode()} in its metadata); it is left as it is. "
            "Read it with pandas.read_parquet"
        )
    if int(version) > _VERSION:
        raise InvalidDatasetError(
            f"{uri} has format version {version}, this file_dataset reads up to {_VERSION}: upgrade file-dataset"
        )
    if int(version) > 1 and is_whole is None:
        raise _damaged(uri, "it has lost its digest", remedy)
    return file


def _damaged(uri: str, why: object, remedy: str) -> InvalidDatasetError:
    reason = _line(why) if isinstance(why, BaseException) else why
    return InvalidDatasetError(f"{uri} is damaged ({reason}); {remedy}")


def _line(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}".split("\n", 1)[0][:200]


def _read(content: pa.Buffer, columns: Sequence[str] | None) -> pd.DataFrame:
    file = pq.ParquetFile(pa.BufferReader(content))
    schema = file.schema_arrow
    notes = json.loads(schema.metadata.get(_DTYPES_KEY, b"[]"))
    if columns is not None:
        of_name = dict(zip(schema.names, notes, strict=False))  # index levels come after the columns
        notes = [of_name.get(name) for name in columns]
        table = file.read(columns=list(columns)).select(list(columns))
    else:
        table = file.read()
    frame: pd.DataFrame = table.to_pandas()
    for place, note in enumerate(notes):
        if note is not None:
            frame.isetitem(place, _restored(table.column(place), note, frame.iloc[:, place]))
    return frame


# --- dtypes ---


def _note(series: pd.Series) -> Any:  # noqa: ANN401  # JSON
    """What pyarrow's pandas metadata does not restore of a column; None where it restores all."""
    dtype: Any = series.dtype
    if isinstance(dtype, pd.ArrowDtype):
        return "arrow"
    if isinstance(dtype, pd.CategoricalDtype) and dtype.categories.inferred_type in _JSON_TYPES:
        # Parquet has dictionaries of strings only, and none in an empty column
        return {"categories": dtype.categories.tolist(), "of": str(dtype.categories.dtype), "ordered": dtype.ordered}
    if isinstance(dtype, pd.StringDtype):
        if dtype.na_value is pd.NA:
            return f"string[{dtype.storage}]"
        return {"str": dtype.storage} if dtype.storage == "python" else None
    if pd.api.types.is_object_dtype(dtype):
        nulls = _nulls(series)
        return {"objects": nulls} if nulls else "object"
    # Parquet has no seconds: they come back as milliseconds
    return str(dtype) if str(dtype).startswith("datetime64[s") else None


def _nulls(series: pd.Series) -> dict[str, str]:
    """Where a column of objects has nulls other than None, which is what pyarrow gives for all of them."""
    places = np.flatnonzero(series.isna().to_numpy())
    values = series.to_numpy()[places].tolist()
    found: dict[str, str] = {}
    for name, null in _NULLS.items():
        if hit := [place for place, value in zip(places, values, strict=True) if _is_same(value, null)]:
            mask = np.zeros(len(series), dtype=bool)
            mask[hit] = True
            found[name] = base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode()
    return found


def _restored(column: pa.ChunkedArray, note: Any, plain: Any) -> Any:  # noqa: ANN401  # JSON; a Series
    index = plain.index
    if note == "arrow":
        return pd.Series(pd.arrays.ArrowExtensionArray(column), index=index)
    if isinstance(note, str) and note.startswith("datetime64"):
        return plain.astype(note)
    if isinstance(note, dict) and "categories" in note:
        values: Any = (
            plain if isinstance(plain.dtype, pd.CategoricalDtype) else pd.Series(column.to_pylist(), dtype=object)
        )
        categories = pd.Index(note["categories"], dtype=note["of"])
        return values.astype(pd.CategoricalDtype(categories, ordered=note["ordered"])).set_axis(index)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    objects = column.to_numpy() if is_text else column.to_pylist()
    values = pd.Series(objects, dtype=object, index=index)
    if isinstance(note, str):
        return values if note == "object" else values.astype(note)
    if "str" in note:
        return values.astype(pd.StringDtype(note["str"], na_value=np.nan))
    array = values.to_numpy(copy=True)
    for name, packed in note["objects"].items():
        bits = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=np.uint8)
        array[np.unpackbits(bits, count=len(array)).astype(bool)] = _NULLS[name]
    return pd.Series(array, dtype=object, index=index)


# --- what would change ---


def _refusal(frame: pd.DataFrame, exc: BaseException | None) -> str:
    """Say which columns are at fault; each is tried by itself."""
    if twice := sorted({str(name) for name in frame.columns[frame.columns.duplicated()]}):
        return f"the frame cannot be stored as Parquet because of columns {twice}: there are two of each"
    if odd := [name for name in frame.columns if type(name) is not str]:
        return f"the frame cannot be stored as Parquet because of columns {odd[:5]}: give columns names of type str"
    faults = {}
    for place, name in enumerate(frame.columns):
        alone = frame.iloc[:, [place]].reset_index(drop=True)
        try:
            back = _read(_written(alone, None), None)
        except Exception:  # noqa: BLE001  # as above
            faults[name] = _first_odd(alone.iloc[:, 0])
        else:
            row = _first_change(alone.iloc[:, 0], back.iloc[:, 0])
            if row is not None:
                faults[name] = f"dtype {alone.dtypes.iloc[0]}" if row < 0 else _shown(row, alone.iloc[row, 0])
    if faults:
        name, first = next(iter(faults.items()))
        return (
            f"the frame cannot be stored as Parquet because of columns {list(faults)}: they would not come back as "
            f"they are (first in {name!r}: {first}); {_REMEDY}"
        )
    why = f" ({type(exc).__name__})" if exc else ""
    return f"the frame cannot be stored as Parquet because of its index{why}: store frame.reset_index(drop=True)"


def _has_changed(before: pd.DataFrame, after: pd.DataFrame) -> bool:
    is_same_shape = before.shape == after.shape and before.columns.equals(after.columns)
    if not is_same_shape or list(map(type, before.columns)) != list(map(type, after.columns)):
        return True
    if not _is_same_index(before.index, after.index):
        return True
    return any(
        _first_change(before.iloc[:, place], after.iloc[:, place]) is not None for place in range(before.shape[1])
    )


def _is_same_index(before: pd.Index, after: pd.Index) -> bool:
    if before.names != after.names or before.nlevels != after.nlevels:
        return False
    if isinstance(before, pd.RangeIndex):
        return before.equals(after)
    return all(
        _first_change(_series(before.get_level_values(level)), _series(after.get_level_values(level))) is None
        for level in range(before.nlevels)
    )


def _series(values: pd.Index) -> pd.Series:
    return values.to_series(index=pd.RangeIndex(len(values)))


def _first_change(before: pd.Series, after: pd.Series) -> int | None:
    """The first row whose value is another one, -1 where the dtype is; None where both are the same."""
    if not _is_same_dtype(before.dtype, after.dtype):
        return -1
    if before.dtype != object and before.array.equals(after.array):
        return None
    mine, others = before.astype(object).tolist(), after.astype(object).tolist()
    types = list(map(type, mine))
    if types == list(map(type, others)) and set(types) <= _PLAIN_TYPES and mine == others:
        return None
    changed = (row for row, pair in enumerate(zip(mine, others, strict=True)) if not _is_same(*pair))
    return next(changed, None)


def _is_same_dtype(before: Any, after: Any) -> bool:  # noqa: ANN401  # dtypes of numpy, pandas and others
    if isinstance(before, pd.CategoricalDtype) and isinstance(after, pd.CategoricalDtype):
        # == takes unordered categories for a set
        is_same_order = before.ordered == after.ordered and len(before.categories) == len(after.categories)
        return is_same_order and _first_change(_series(before.categories), _series(after.categories)) is None
    return bool(before == after)


def _is_same(before: Any, after: Any) -> bool:  # noqa: ANN401, PLR0911  # a cell; a case after another
    kind = type(before)
    if kind is not type(after):
        return False
    if before is after:
        return True
    if kind in _PLAIN_TYPES:
        return bool(before == after or (before != before and after != after))  # noqa: PLR0124  # NaN
    if kind is list:
        return len(before) == len(after) and all(map(_is_same, before, after))
    if kind is dict:
        return len(before) == len(after) and all(
            key in after and _is_same(value, after[key]) for key, value in before.items()
        )
    try:
        # the text too: 1.0 is not 1.00 as a Decimal; and the name of the zone, of which +01:00 in a summer is only an
        # offset; and which of the two hours it is when clocks go back
        zones = [(str(getattr(value, "tzinfo", None)), getattr(value, "fold", 0)) for value in (before, after)]
        return bool(before == after) and str(before) == str(after) and zones[0] == zones[1]
    except Exception:  # noqa: BLE001  # whatever a stranger's == raises
        return False


def _first_odd(series: pd.Series) -> str:
    """A guess at the value that pyarrow refuses: the first of another type than the first, else the first."""
    values = series.astype(object).tolist()
    filled = [row for row, value in enumerate(values) if value is not None]
    others = [row for row in filled if type(values[row]) is not type(values[filled[0]])]
    rows = others or filled
    return _shown(rows[0], values[rows[0]]) if rows else f"dtype {series.dtype}"


def _shown(row: int, value: object) -> str:
    return f"row {row}, of type {type(value).__name__}"


def _has_paths(series: pd.Series) -> bool:
    return series.dtype == object and any(isinstance(value, PurePath) for value in series)
