"""`reader(...)` and its verbs. Each reads when it is called, and raises for every file that it could not read.

`into_info_table` alone does not raise: there a file that is missing is an answer.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from file_dataset import _frame, _options, _plan, _stores, _transfer
from file_dataset._errors import Failure, InvalidDatasetError, RowError, printable
from file_dataset._sink import ObjectInfo
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

    from file_dataset import _urls
    from file_dataset._frame import Rows
    from file_dataset._options import Options

# pa.binary() has 32-bit offsets (https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-layout).
_BINARY_BYTES = 2**31 - 1
# Larger blobs become a chunk of their own without a copy; smaller ones are joined. Guesses.
_OWN_CHUNK_BYTES = 1 << 20
_CHUNK_BYTES = 16 << 20


def reader(
    data: Mapping[str, object] | pd.DataFrame | None = None,
    *,
    row: Mapping[str, object] | None = None,
    dataframe: pd.DataFrame | None = None,
    file_columns: Sequence[str] | None = None,
    options: Options | None = None,
) -> Reader:
    """Return a reader of one row, or of every row of a frame. Nothing is read until one of its methods is called.

    Args:
        data: a row or a frame, by position.
        row: file name -> location (`s3://bucket/key`, or a local path as text or `Path`); None: no such file.
        dataframe: a pandas DataFrame with such columns; `id`, where it has one, names its rows.
        file_columns: decides alone which columns name files. Without it: columns of text whose values are `s3://` URLs
            or `Path`s, or that are named like files and hold paths.
        options: how S3 is reached; None: by boto3's default session, as it is when S3 is needed.

    Raises:
        InvalidDatasetError: not exactly one of row and frame, no file column, unsafe names or ids.

    Example:
        >>> with reader({"scan.txt": "s3://my-bucket/scan.txt"}).into_temp_dir() as directory:
        ...     print((directory / "scan.txt").read_text())
        hello
    """
    _options.check(options)
    given = [value for value in (data, row, dataframe) if value is not None]
    if len(given) != 1:
        raise InvalidDatasetError(f"give one row or one frame, not {len(given)} of them")
    source = given[0]
    if row is not None or (hasattr(source, "keys") and not hasattr(source, "columns")):
        rows = _frame.rows_of_mapping(_mapping(source), file_columns)
    else:
        rows = _frame.rows_of_frame(source, file_columns, needs_id=False)
    return reader_of(replace(rows, local_paths=_options.takes_local_paths(options)), options)


def reader_of(rows: Rows, options: Options | None) -> Reader:
    """Return a reader of rows that were checked."""
    return object.__new__(Reader)._of(rows, options)  # noqa: SLF001  # the class has no constructor to call


def _mapping(source: Any) -> Mapping[str, object]:  # noqa: ANN401  # a mapping, or a row of a frame as pandas gives it
    return dict(source.items()) if hasattr(source, "items") else source


class Reader:
    """What `reader(...)` returns: a checked row or frame that can be read more than once.

    Example:
        >>> scan = reader({"scan.txt": "s3://my-bucket/scan.txt"})
        >>> scan.into_size_table()["scan.txt"].to_pylist()  # one HEAD, no download
        [5]
        >>> scan.into_blob_table()["scan.txt"].to_pylist()
        [b'hello']
    """

    __slots__ = ("__weakref__", "_options", "_rows")

    def __init__(self) -> None:
        """Refuse: `reader(...)` makes readers."""
        raise TypeError("a Reader is not made by its class: call file_dataset.reader(...)")

    def __reduce__(self) -> tuple[object, ...]:
        return reader_of, (self._rows, self._options)

    def _of(self, rows: Rows, options: Options | None) -> Reader:
        self._rows = rows
        self._options = options
        return self

    def into_temp_dir(self, *, dir: str | os.PathLike[str] | None = None) -> TempDir:  # noqa: A002  # tempfile's name
        """Copy every file into a new temp dir, now, and return it.

        A row's files lie at `<temp dir>/<file name>`, a frame's at `<temp dir>/<id>/<file name>`. One GET per file; a
        null cell gives no file.

        Args:
            dir: where to make the temp dir; None: where the system keeps temporary files.

        Returns:
            A context manager that yields the `Path`, an `os.PathLike`, with `cleanup()`. Its files are removed on exit,
            on error, and (with a ResourceWarning) when its last reference goes.

        Raises:
            RowError: files that could not be read, every one of them; nothing is left behind.
            InvalidDatasetError: a frame without ids, or with ids that would share a directory.
        """
        is_frame = self._rows.frame is not None
        if is_frame:
            _frame.check_directories(self._rows)
        _plan.check_file_names(list(self._rows.file_columns), local=True)
        if dir is not None and not isinstance(dir, str | os.PathLike):
            raise InvalidDatasetError(f"dir={dir!r}: give the path of a directory")
        temp = TempDir(dir)
        try:
            into = str(temp._made.path)  # noqa: SLF001  # `path` would mark it as the caller's
            _transfer.fill(self._transfers(into, is_frame=is_frame), _stores.Stores(self._options))
        except BaseException:
            temp.cleanup()
            raise
        return temp

    def into_blob_table(self, *, large: bool = False) -> pa.Table:
        """Read every file into memory and return an Arrow table.

        One GET per file, more side by side for one over 16 MiB. Memory: the data once; blobs under 1 MiB are joined,
        16 MiB at a time.

        Args:
            large: `large_binary` instead of `binary` columns, for blobs of 2 GiB and more.

        Returns:
            One row per row; the frame's `id` (where it has one) and file columns, in the frame's order; blobs `binary`,
            in chunks under 2 GiB; null where the row has no such file.

        Raises:
            RowError: files that could not be read, every one of them.
            InvalidDatasetError: a blob that `binary` cannot hold.
        """
        import pyarrow as pa

        kind = pa.large_binary() if large else pa.binary()
        limit = None if large else _BINARY_BYTES
        columns = {name: _BlobColumn(kind) for name in self._rows.file_columns}
        count = len(self._rows)
        stores = _stores.Stores(self._options)
        for file, blob in _transfer.read_each(self._wanted(count), stores, limit_bytes=limit):
            columns[file.file].put(file.position, blob)
        return self._table({name: column.array(count) for name, column in columns.items()}, count)

    def into_size_table(self, *, limit: int | None = None) -> pa.Table:
        """Return the size of every file in bytes, without downloading any: one HEAD per file.

        Args:
            limit: look at the first `limit` rows only.

        Returns:
            Like the blob table, with `int64` columns: bytes; null where the row has no such file.

        Raises:
            RowError: files that could not be found, every one of them.
            InvalidDatasetError: a negative limit.
        """
        import pyarrow as pa

        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidDatasetError(f"limit={limit!r}: give the number of rows to look at")
        count = len(self._rows) if limit is None else min(limit, len(self._rows))
        sizes: dict[str, list[int | None]] = {name: [None] * count for name in self._rows.file_columns}
        for file, size in _transfer.sizes(self._wanted(count), _stores.Stores(self._options)):
            sizes[file.file][file.position] = size
        return self._table({name: pa.array(column, pa.int64()) for name, column in sizes.items()}, count)

    def into_info_table(self) -> pa.Table:
        """Return what the store has of every file, or why that is unknown: one HEAD per file, no download.

        A file that is missing, refused or no location is a line with an error, and never an exception.

        Returns:
            One line per file that the rows have, in the frame's order; null cells have none. Columns:

            - `id`, where the frame or row has ids: integers as they are, text as `string`
            - `file`, the name of its column; `location`, as text
            - `size_bytes`: `int64`
            - `etag`, `checksum` (`CRC64NVME:<base64>`, of the whole object; null where the store keeps none): as in
              `PipelineResult.files`; null for local files, which are not read
            - `error_type`, `error_code` (S3's; a HEAD's is often a bare status such as "404"), `error_message`: null
              for files that are there; where they are not, the size is null

        Raises:
            RowError: no file can be looked at: there are no credentials, or they expired.

        Example:
            >>> Path("a.txt").write_text("hello")
            5
            >>> infos = reader({"a.txt": "a.txt", "b.txt": "none.txt"}).into_info_table()
            >>> infos.select(["file", "size_bytes", "error_type"]).to_pylist()  # doctest: +NORMALIZE_WHITESPACE
            [{'file': 'a.txt', 'size_bytes': 5, 'error_type': None},
             {'file': 'b.txt', 'size_bytes': None, 'error_type': 'FileNotFoundError'}]
        """
        import pyarrow as pa

        lines: list[tuple[int, str, str]] = []  # position of the row, file, location
        found: dict[int, ObjectInfo | Failure] = {}  # by line
        missing: list[tuple[_transfer.Wanted, Failure]] = []
        wanted = self._wanted_lines(lines, found)
        for file, info in _transfer.infos(wanted, _stores.Stores(self._options), missing):
            found[file.position] = info
        found.update((file.position, failure) for file, failure in missing)
        answers = [found[line] for line in range(len(lines))]
        infos = [answer if isinstance(answer, ObjectInfo) else None for answer in answers]
        failures = [answer if isinstance(answer, Failure) else None for answer in answers]
        ids = _id_array(self._rows)
        columns = {} if ids is None else {_frame.ID: ids.take(pa.array([line[0] for line in lines], pa.int64()))}
        columns |= {
            "file": pa.array([line[1] for line in lines], pa.string()),
            "location": pa.array([line[2] for line in lines], pa.string()),
            "size_bytes": pa.array([info and info.size_bytes for info in infos], pa.int64()),
            "etag": pa.array([info and info.etag for info in infos], pa.string()),
            "checksum": pa.array([info and info.digest and str(info.digest) for info in infos], pa.string()),
        }
        for name in ("type", "code", "message"):
            texts = [failure and getattr(failure, name) for failure in failures]
            columns[f"error_{name}"] = pa.array(texts, pa.string())
        return pa.table(columns)

    def _wanted_lines(
        self, lines: list[tuple[int, str, str]], found: dict[int, ObjectInfo | Failure]
    ) -> Iterator[_transfer.Wanted]:
        """Yield each file, with its line as position; note the lines, and the cells that are no location."""
        rows = self._rows
        for position in range(len(rows)):
            for name in rows.file_columns:
                try:
                    at = rows.location(position, name)
                except InvalidDatasetError as exc:
                    failure = rows.refused(position, name, exc)
                    found[len(lines)] = failure
                    lines.append((position, name, failure.url or ""))
                    continue
                if at is not None:
                    lines.append((position, name, printable(str(at))))
                    yield _transfer.Wanted(rows.id_at(position), name, at, len(lines) - 1)

    def _transfers(self, into: str, *, is_frame: bool) -> Iterator[_plan.Transfer[str]]:
        for row in self._parsed(len(self._rows)):
            directory = f"{into}/{row.id}" if is_frame else into
            found = _plan.downloads(row, directory)
            if not found:  # a directory all the same
                os.makedirs(directory, exist_ok=True)  # noqa: PTH103  # the path is text
            yield from found

    def _parsed(self, count: int) -> Iterator[_plan.FileRow]:
        """Return the first rows; cells that are no location are refused all at once, before the first request.

        Until the last row is read, the locations of all are kept: some 200 bytes each, in one list per column, which
        takes half the time of parsing each cell again.
        """
        rows = self._rows
        failures: list[Failure] = []
        columns: dict[str, list[_urls.Location | None]] = {name: [] for name in rows.cells}
        for position in range(count):
            for name, column in columns.items():
                try:
                    column.append(rows.location(position, name))
                except InvalidDatasetError as exc:
                    failures.append(rows.refused(position, name, exc))
        if failures:
            raise InvalidDatasetError(str(RowError(failures)))
        return (
            _plan.FileRow(rows.id_at(at), {name: column[at] for name, column in columns.items()}) for at in range(count)
        )

    def _wanted(self, count: int) -> Iterator[_transfer.Wanted]:
        return (
            _transfer.Wanted(row.id, name, at, position)
            for position, row in enumerate(self._parsed(count))
            for name, at in row.files.items()
            if at is not None
        )

    def _table(self, columns: dict[str, Any], count: int) -> pa.Table:
        import pyarrow as pa

        frame = self._rows.frame
        if frame is None:
            return pa.table(columns)
        ids = _id_array(self._rows)
        named = columns if ids is None else {_frame.ID: ids[:count], **columns}
        return pa.table({name: named[name] for name in frame.columns if name in named})

    def __repr__(self) -> str:
        """Show what would be read."""
        return f"Reader({len(self._rows)} rows, files {list(self._rows.file_columns)})"


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

    def __init__(self, kind: Any) -> None:  # noqa: ANN401  # pyarrow has no types
        self._kind = kind
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
