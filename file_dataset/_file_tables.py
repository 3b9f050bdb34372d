"""Tables of files: their bytes, their sizes, what the store has of them; a line per row, or per file."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from file_dataset import _directories, _frame, _in_order, _listings, _stores, _transfer, _urls
from file_dataset._errors import Failure, InvalidDatasetError, RowError, printable
from file_dataset._sink import ObjectInfo
from file_dataset._urls import Directory

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    import pyarrow as pa

    from file_dataset._frame import Rows
    from file_dataset._options import Options
    from file_dataset._urls import Source

    Blob: TypeAlias = bytearray | mmap.mmap

# pa.binary() has 32-bit offsets (https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-layout).
_BINARY_BYTES = 2**31 - 1
# Larger blobs become a chunk of their own without a copy; smaller ones are joined. Guesses.
_OWN_CHUNK_BYTES = 1 << 20
_CHUNK_BYTES = 16 << 20
_BATCHES_AHEAD = 2


def check_files(rows: Rows) -> None:
    """Refuse directories, before anything is read; a local path that does not end in a slash is found where it is read.

    Raises:
        InvalidDatasetError: naming one.
    """
    for name, cells in rows.cells.items():
        for cell in cells:
            if isinstance(cell, str) and cell.endswith("/"):
                raise InvalidDatasetError(f"{name}: {cell!r}: {_urls.ONE_FILE_REMEDY}")


def blobs(rows: Rows, options: Options | None, *, large: bool) -> pa.Table:
    """Return the bytes of every file, one row per row.

    Raises:
        RowError: files that could not be read, every one of them.
        InvalidDatasetError: a blob that `binary` cannot hold.
    """
    count = len(rows)
    columns = {name: _BlobColumn(large=large) for name in rows.file_columns}
    limit = None if large else _BINARY_BYTES
    for file, blob in _transfer.read_each(_wanted(rows, count), _stores.Stores(options), limit_bytes=limit):
        columns[file.file].put(file.position, blob)
    return _table(rows, {name: column.array(count) for name, column in columns.items()}, _id_array(rows))


def blob_batches(rows: Rows, options: Options | None, batch_size: int, *, large: bool) -> Iterator[pa.Table]:
    """Yield the bytes of the files of every `batch_size` rows; at most two batches ahead are read.

    Raises:
        RowError: files of the batch whose turn it is that could not be read, every one of them.
        InvalidDatasetError: ids, or a blob, that Arrow cannot hold.
    """
    wanted = list(_wanted(rows, len(rows)))  # refuses cells that are no location, before anything is read
    return _batches(rows, wanted, _id_array(rows), _stores.Stores(options), batch_size, large=large)


def _batches(  # noqa: PLR0913  # what is read, and how much of it at once
    rows: Rows,
    wanted: list[_transfer.Wanted],
    ids: Any | None,  # noqa: ANN401  # pyarrow has no types
    stores: _stores.Stores,
    batch_size: int,
    *,
    large: bool,
) -> Iterator[pa.Table]:
    def is_far(file: _transfer.Wanted, first: _transfer.Wanted) -> bool:
        return file.position // batch_size > first.position // batch_size + _BATCHES_AHEAD

    failed = _in_order.FailedFiles(_transfer.unread_blob)
    files_of = Counter(file.position // batch_size for file in wanted)
    found = _transfer.read_tried(wanted, stores, failed, is_far, limit_bytes=None if large else _BINARY_BYTES)
    for number, first in enumerate(range(0, len(rows), batch_size)):
        columns = _columns(rows, itertools.islice(found, files_of[number]), first, batch_size, large=large)
        if failed.all:
            raise failed.row_error()
        yield _table(rows, columns.pop(), None if ids is None else ids[first : first + batch_size])


def _columns(
    rows: Rows, found: Iterator[tuple[_transfer.Wanted, Blob]], first: int, count: int, *, large: bool
) -> list[dict[str, Any]]:
    """Return the columns of a batch, in a list: who takes them out keeps no blob alive."""
    columns = {name: _BlobColumn(large=large) for name in rows.file_columns}
    for file, blob in found:
        columns[file.file].put(file.position - first, blob)
    length = min(count, len(rows) - first)
    return [{name: column.array(length) for name, column in columns.items()}]


def sizes(rows: Rows, options: Options | None, limit: int | None) -> pa.Table:
    """Return the sizes in bytes of the files of the first rows, one row per row.

    Raises:
        RowError: files that could not be found, every one of them.
    """
    import pyarrow as pa

    count = len(rows) if limit is None else min(limit, len(rows))
    found: dict[str, list[int | None]] = {name: [None] * count for name in rows.file_columns}
    stores = _stores.Stores(options)
    files, directories = _apart(
        (row.id, name, at, position)
        for position, row in enumerate(_frame.parsed(rows, count))
        for name, at in row.files.items()
        if at is not None
    )
    unlisted: list[tuple[_listings.WantedDirectory, Failure]] = []
    for directory, contents in _listings.listings(directories, stores, unlisted):
        found[directory.file][directory.position] = contents.size_bytes
    failures = [failure for _, failure in unlisted]
    try:
        for file, size in _transfer.sizes(files, stores):
            found[file.file][file.position] = size
    except RowError as exc:
        raise RowError([*exc.failures, *failures]) from exc.__cause__
    if failures:
        raise RowError(failures)
    ids = _id_array(rows)
    columns = {name: pa.array(column, pa.int64()) for name, column in found.items()}
    return _table(rows, columns, None if ids is None else ids[:count])


@dataclass(frozen=True, slots=True)
class _Line:
    """A file of the row at `position`, and what its store has of it, or why that is unknown."""

    position: int
    file: str
    location: str
    found: ObjectInfo | Failure


def infos(rows: Rows, options: Options | None) -> pa.Table:
    """Return what the store has of every file, or why that is unknown; one line per file, those of directories too.

    Raises:
        RowError: no file can be looked at: there are no credentials, or they expired.
    """
    import pyarrow as pa

    lines = _lines(rows, _stores.Stores(options))
    infos = [line.found if isinstance(line.found, ObjectInfo) else None for line in lines]
    failures = [line.found if isinstance(line.found, Failure) else None for line in lines]
    ids = _id_array(rows)
    columns = {} if ids is None else {_frame.ID: ids.take(pa.array([line.position for line in lines], pa.int64()))}
    columns |= {
        "file": pa.array([line.file for line in lines], pa.string()),
        "location": pa.array([line.location for line in lines], pa.string()),
        "size_bytes": pa.array([info and info.size_bytes for info in infos], pa.int64()),
        "etag": pa.array([info and info.etag for info in infos], pa.string()),
        "checksum": pa.array([info and info.digest and str(info.digest) for info in infos], pa.string()),
    }
    for name in ("type", "code", "message"):
        texts = [failure and getattr(failure, name) for failure in failures]
        columns[f"error_{name}"] = pa.array(texts, pa.string())
    return pa.table(columns)


def _lines(rows: Rows, stores: _stores.Stores) -> list[_Line]:
    """Look at every file and directory; return the lines in the frame's order."""
    cells: list[list[_Line]] = []  # the lines of each cell that is not null
    wanted: list[tuple[Any, str, Source, int]] = []  # with the place of its cell
    places: list[tuple[int, str, str]] = []  # position of the row, file, location
    for position in range(len(rows)):
        for name in rows.file_columns:
            try:
                at = rows.source(position, name)
            except InvalidDatasetError as exc:
                failure = rows.refused(position, name, exc)
                cells.append([_Line(position, name, failure.url or "", failure)])
                places.append((position, name, ""))
                continue
            if at is not None:
                wanted.append((rows.id_at(position), name, at, len(cells)))
                cells.append([])
                places.append((position, name, printable(str(at))))
    files, directories = _apart(wanted)
    missing: list[tuple[_transfer.Wanted, Failure]] = []
    unlisted: list[tuple[_listings.WantedDirectory, Failure]] = []
    for file, info in _transfer.infos(files, stores, missing):
        cells[file.position] = [_Line(*places[file.position], info)]
    for directory, contents in _listings.listings(directories, stores, unlisted):
        position, name, _ = places[directory.position]
        cells[directory.position] = [
            _Line(position, f"{name}/{below}", printable(str(each.at)), ObjectInfo(each.size_bytes, each.etag))
            for below, each in contents.files.items()
        ]
    for one, failure in missing:
        cells[one.position] = [_Line(*places[one.position], failure)]
    for each, failure in unlisted:
        cells[each.position] = [_Line(*places[each.position], failure)]
    return [line for lines in cells for line in lines]


def _apart(
    wanted: Iterable[tuple[Any, str, Source, int]],
) -> tuple[list[_transfer.Wanted], list[_listings.WantedDirectory]]:
    """Return the files, and the directories; of each its row's id, its name, where it is, and its position."""
    files: list[_transfer.Wanted] = []
    directories: list[_listings.WantedDirectory] = []
    for row_id, name, at, position in wanted:
        source = _directories.source_of(at)
        if isinstance(source, Directory):
            directories.append(_listings.WantedDirectory(row_id, name, source, position))
        else:
            files.append(_transfer.Wanted(row_id, name, source, position))
    return files, directories


def _wanted(rows: Rows, count: int) -> Iterator[_transfer.Wanted]:
    return (
        _transfer.Wanted(row.id, name, _urls.one_file(at), position)
        for position, row in enumerate(_frame.parsed(rows, count, directories=False))
        for name, at in row.files.items()
        if at is not None
    )


def _table(rows: Rows, columns: dict[str, Any], ids: Any | None) -> pa.Table:  # noqa: ANN401  # pyarrow has no types
    """Return a table of columns, with the ids of its rows where they have some, in the frame's order."""
    import pyarrow as pa

    if rows.frame is None:
        return pa.table(columns)
    named = columns if ids is None else {_frame.ID: ids, **columns}
    return pa.table({name: named[name] for name in rows.frame.columns if name in named})


def _id_array(rows: Rows) -> Any | None:  # noqa: ANN401  # pyarrow has no types
    """Return the ids as Arrow has them, one per row; None for rows without ids.

    Raises:
        InvalidDatasetError: they have no type in common: 1 and "2".
    """
    import pyarrow as pa

    if rows.ids is None or None in rows.ids[:1]:  # one row may have none
        return None
    try:
        ids = pa.array(rows.ids) if rows.frame is None else pa.Array.from_pandas(rows.frame[_frame.ID])
    except (pa.ArrowException, OverflowError) as exc:
        raise InvalidDatasetError(f"ids have no Arrow type in common ({exc}): make them all text") from exc
    return ids.cast(id_type(ids.type))


def id_type(found: Any) -> Any:  # noqa: ANN401  # pyarrow has no types
    """Return the Arrow type of an id column that pandas gives as `found`: integers as they are, else `string`.

    pandas 2 and 3, categories and Arrow-backed columns give text in many types, and a frame without rows often none.
    """
    import pyarrow as pa

    values = found.value_type if pa.types.is_dictionary(found) else found
    return values if pa.types.is_integer(values) else pa.string()


class _BlobColumn:
    """A chunked array in the making: large blobs stay in place, one chunk each; runs of small ones are joined."""

    def __init__(self, *, large: bool) -> None:
        import pyarrow as pa

        self._kind = pa.large_binary() if large else pa.binary()
        self._chunks: list[Any] = []
        self._run: list[bytearray | mmap.mmap | None] = []
        self._run_bytes = 0
        self._length = 0

    def put(self, position: int, blob: bytearray | mmap.mmap) -> None:
        """Take the blob of a row; rows come in order, and those left out are null."""
        self._pad(position)
        self._length += 1
        if len(blob) >= _OWN_CHUNK_BYTES:
            self._join()
            self._chunks.append(self._in_place(blob))
            return
        if self._run_bytes + len(blob) > _CHUNK_BYTES:
            self._join()
        self._run.append(blob)
        self._run_bytes += len(blob)

    def array(self, length: int) -> Any:  # noqa: ANN401
        """Return the column of so many rows."""
        import pyarrow as pa

        self._pad(length)
        self._join()
        return pa.chunked_array(self._chunks, self._kind)

    def _pad(self, length: int) -> None:
        self._run += [None] * (length - self._length)
        self._length = length

    def _join(self) -> None:
        import pyarrow as pa

        if self._run:
            self._chunks.append(pa.array(self._run, self._kind))
            self._run, self._run_bytes = [], 0

    def _in_place(self, blob: bytearray | mmap.mmap) -> Any:  # noqa: ANN401
        import pyarrow as pa

        width = "int64" if self._kind == pa.large_binary() else "int32"
        offsets = pa.array([0, len(blob)], width).buffers()[1]
        return pa.Array.from_buffers(self._kind, 1, [None, offsets, pa.py_buffer(blob)])
