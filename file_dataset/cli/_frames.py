"""Frames in files: CSV, Parquet and JSON lines by suffix, `-` for stdin and stdout (CSV).

Ids stay the text that they are: `007` is no 7, and `NA` no null. So does every value of a CSV file, which knows no
types; an empty cell is null. Parquet and JSON lines have types of their own, which are kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import file_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd

_STDIO = "-"
_SUFFIXES = ".csv, .parquet or .jsonl"
_NEW = ".file-dataset-"  # begins the name of a file that is not whole yet
_OURS = b"file_dataset."  # keys of the metadata of Parquet files that `to_parquet` wrote begin so


def check_name(path: str) -> None:
    """Refuse what no frame can be written to, before anything moves.

    Raises:
        InvalidDatasetError: another suffix, a place in a bucket, no such directory, or one that takes no file.
    """
    if path == _STDIO:
        return
    _suffix(path)
    if not (directory := Path(path).parent).is_dir():
        raise file_dataset.InvalidDatasetError(f"{path}: there is no directory {str(directory)!r}: make it first")
    try:
        with contextlib.suppress(FileNotFoundError):
            Path(path).lstat()  # finds a name that is too long
        with tempfile.NamedTemporaryFile(prefix=_NEW, dir=directory):
            pass
    except OSError as exc:
        raise file_dataset.InvalidDatasetError(f"{path} cannot be written: {exc.strerror}") from exc


def check_storable(frame: pd.DataFrame, *places: str | None) -> None:
    """Refuse a frame whose carried values no Parquet file can hold, before hours of rows rather than after them.

    Args:
        frame: the input.
        places: where frames of it go.

    Raises:
        InvalidDatasetError: naming the columns.
    """
    if any(place is not None and _suffix(place) == ".parquet" for place in places):
        file_dataset.parquet.check_storable(frame)


def read_frame(path: str) -> pd.DataFrame:
    """Return the frame in a file, or in what comes from stdin.

    Raises:
        InvalidDatasetError: the file cannot be read, or not understood.
    """
    try:
        content = sys.stdin.buffer.read() if path == _STDIO else Path(path).read_bytes()
    except OSError as exc:
        raise file_dataset.InvalidDatasetError(f"{path}: {exc.strerror or exc}") from exc
    return _READERS[_suffix(path)](content, "stdin" if path == _STDIO else path)


def write_frame(frame: pd.DataFrame, path: str) -> None:
    """Write a frame to a file, which appears when it is whole, or to stdout.

    Raises:
        InvalidDatasetError: the file cannot hold a value of it.
    """
    content = _WRITERS[_suffix(path)](frame)
    if path == _STDIO:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    descriptor, name = tempfile.mkstemp(prefix=_NEW, dir=Path(path).parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor has no path
            file.write(content)
        os.chmod(name, 0o666 & ~_umask())  # noqa: PTH101  # the name is text; mkstemp leaves it to its owner alone
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _umask() -> int:
    """Return what new files are not allowed to be; there is no call that only asks."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the rows as what JSON has: null for every kind of null, numbers as numbers, and text."""
    columns = [_plain_values(frame[name]) for name in frame.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(frame.columns, values, strict=True))


def json_line(record: dict[str, Any]) -> str:
    """Return an object as one line."""
    return json.dumps(record, ensure_ascii=False, default=str)


def _suffix(path: str) -> str:
    suffix = ".csv" if path == _STDIO else Path(path).suffix.lower()
    if path.startswith("s3://"):
        raise file_dataset.InvalidDatasetError(
            f"{path}: frames are local files: give a name that ends in {_SUFFIXES}, or - for a pipe, as in "
            f"aws s3 cp {path} - | file-dataset ... -"
        )
    if suffix not in _READERS:
        raise file_dataset.InvalidDatasetError(
            f"{path}: give a name that ends in {_SUFFIXES}, or - for stdin and stdout"
        )
    return suffix


def _of_csv(content: bytes, path: str) -> pd.DataFrame:
    import pandas as pd

    try:
        names = pd.read_csv(io.BytesIO(content), header=None, nrows=1, dtype=str, keep_default_na=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, na_values=[""], index_col=False)
    except pd.errors.ParserWarning:
        raise file_dataset.InvalidDatasetError(f"{path}: lines have more values than there are column names") from None
    except pd.errors.EmptyDataError:
        raise file_dataset.InvalidDatasetError(
            f"{path} is empty: a frame has a line of column names at least"
        ) from None
    except (ValueError, UnicodeDecodeError) as exc:
        raise file_dataset.InvalidDatasetError(f"{path} is no CSV file in UTF-8: {exc}") from exc
    if twice := [name for name, count in names.iloc[0].value_counts().items() if count > 1]:
        raise file_dataset.InvalidDatasetError(f"{path}: columns {twice} are there twice: name them otherwise")
    return frame


def _of_parquet(content: bytes, path: str) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content))
        metadata = file.schema_arrow.metadata or {}
        if any(key.startswith(_OURS) for key in metadata):
            return file_dataset.parquet.from_parquet(content, path)
        frame: pd.DataFrame = file.read().to_pandas()
    except (pa.ArrowException, OSError) as exc:
        raise file_dataset.InvalidDatasetError(f"{path} is no Parquet file, or a damaged one: {exc}") from exc
    return frame


def _of_json_lines(content: bytes, path: str) -> pd.DataFrame:
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as exc:
            raise file_dataset.InvalidDatasetError(f"{path}, line {number} is no JSON: {exc}") from exc
        if not isinstance(found, dict):
            raise file_dataset.InvalidDatasetError(f'{path}, line {number}: give an object, such as {{"id": "007"}}')
        lines.append(found)
    names = dict.fromkeys(name for line in lines for name in line) or ["id"]  # a frame without rows is no error
    return pd.DataFrame({name: _series([line.get(name) for line in lines]) for name in names})


def _series(values: Sequence[Any]) -> pd.Series[Any]:
    """Return a column; whole numbers stay whole where some are null."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    names = {frozenset({int}): "Int64", frozenset({bool}): "boolean"}
    dtype = names.get(frozenset(kinds)) if None in values else None
    try:
        return pd.Series(values, dtype=dtype or (object if len(kinds) > 1 and kinds != {int, float} else None))
    except OverflowError:  # more than 64 bits
        return pd.Series(values, dtype=object)


def _plain_values(column: pd.Series[Any]) -> list[Any]:
    is_null = column.isna().tolist()
    return [None if null else _plain(value) for null, value in zip(is_null, column.tolist(), strict=True)]


def _plain(value: Any) -> Any:  # noqa: ANN401  # a cell
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.tolist() if hasattr(value, "tolist") else value


def _to_csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def _to_parquet(frame: pd.DataFrame) -> bytes:
    return bytes(file_dataset.parquet.to_parquet(frame))


def _to_json_lines(frame: pd.DataFrame) -> bytes:
    return "".join(f"{json_line(record)}\n" for record in records(frame)).encode()


_READERS: dict[str, Callable[[bytes, str], pd.DataFrame]] = {
    ".csv": _of_csv,
    ".parquet": _of_parquet,
    ".jsonl": _of_json_lines,
}
_WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    ".csv": _to_csv,
    ".parquet": _to_parquet,
    ".jsonl": _to_json_lines,
}
