"""`reader(...)` and its verbs. Each reads when it is called, and raises for every file that it could not read.

`into_info_table` alone does not raise: there a file that is missing is an answer.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from file_dataset import (
    _file_tables,
    _frame,
    _into_dir,
    _listings,
    _options,
    _plan,
    _progress,
    _row_dirs,
    _stores,
    _transfer,
)
from file_dataset._errors import InvalidDatasetError
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

    from file_dataset._errors import Failure
    from file_dataset._frame import Rows
    from file_dataset._options import Options
    from file_dataset._plan import FileRow
    from file_dataset._progress import Report


def reader(
    data: Mapping[str, object] | pd.DataFrame | None = None,
    *,
    row: Mapping[str, object] | None = None,
    dataframe: pd.DataFrame | None = None,
    file_columns: Sequence[str] | None = None,
    options: Options | None = None,
) -> Reader:
    """Return a reader of one row, or of every row of a frame. Nothing is read until one of its methods is called.

    Rows whose failure a Pipeline recorded have no files: all methods but `into_info_table` refuse them.

    Args:
        data: a row or a frame, by position.
        row: file name -> location (`s3://bucket/key`, or a local path as text or `Path`); None: no such file. Text that
            ends in a slash, and a local directory, stands for all files below it.
            `<file name>.version_id` -> the version of that file that is read (text); None, or none given: the newest.
        dataframe: a pandas DataFrame with such columns; `id`, where it has one, names its rows.
        file_columns: decides alone which columns name files. Without it: columns of text whose values are `s3://` URLs
            or `Path`s, that are named like files and hold paths, or whose paths end in a slash.
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

    def _with_files(self) -> Rows:
        _frame.check_not_failed(self._rows, "read")
        return self._rows

    def into_temp_dir(self, *, dir: str | os.PathLike[str] | None = None, progress: Report = None) -> TempDir:  # noqa: A002  # tempfile's name
        """Copy every file into a new temp dir, now, and return it.

        A row's files lie at `<temp dir>/<file name>`, a frame's at `<temp dir>/<id>/<file name>`, those of a directory
        below that. One GET per file, and one LIST per directory (and 1,000 objects); a null cell gives no file.

        Args:
            dir: where to make the temp dir; None: where the system keeps temporary files.
            progress: as in `Pipeline`. A row ends with its last file. One row alone, and what ends within a second, has
                no bar and no log line.

        Returns:
            A context manager that yields the `Path`, an `os.PathLike`, with `cleanup()`. Its files are removed on exit,
            on error, and (with a ResourceWarning) when its last reference goes.

        Raises:
            RowError: files that could not be read, every one of them; nothing is left behind.
            InvalidDatasetError: a frame without ids, or with ids that would share a directory.
        """
        _progress.check(progress)
        rows = self._with_files()
        if rows.frame is not None:
            _frame.check_directories(rows)
        _plan.check_file_names(list(rows.file_columns), local=True)
        _check_place(dir)
        temp = TempDir(dir)
        try:
            into = str(temp._made.path)  # noqa: SLF001  # `path` would mark it as the caller's
            stores = _stores.Stores(self._options)
            unlisted: list[Failure] = []

            def place(row: FileRow) -> str:
                return into if rows.frame is None else f"{into}/{row.id}"

            found = _listings.transfers(_frame.parsed(rows, len(rows)), place, stores, unlisted)
            with _progress.counting(progress, len(rows), delay_s=_progress.DELAY_S) as count:
                left = _transfer.RowsLeft(count, rows.ids or [None], unlisted)
                _transfer.fill(found, stores, unlisted, left)
        except BaseException:
            temp.cleanup()
            raise
        return temp

    def into_dir(self, path: str | os.PathLike[str], *, progress: Report = None) -> Any:  # noqa: ANN401  # a frame or a dict, as what is read
        """Read every file into a directory that stays, and return where they are.

        A row's files lie at `<path>/<file name>`, a frame's at `<path>/<id>/<file name>`. One GET per file that is not
        there. Of one that is there: one HEAD, and no GET when size and digest agree (the checksum of the whole object
        that the store keeps, else its MD5 where the ETag is one; without either the file is read again). One that
        differs is replaced when the new one is whole; other files are left. Local files are copied anew each time.

        Of a directory: one LIST per 1,000 objects, and no HEAD for those whose MD5 the list has. A file in the local
        directory that is not in its source is a failure. It is not removed: it may be the only copy.

        After an interruption whole files are there and no partial ones; call it again to go on.

        Args:
            path: the directory; it is made if needed.
            progress: as in `Pipeline`. A row ends with its last file. One row alone has no bar and no log line.

        Returns:
            Of a frame: the frame with absolute paths as text in its file columns, those of directories with a slash at
            the end, which feeds a Pipeline. Of a row: file name -> absolute `Path`. Null cells stay null.

        Raises:
            RowError: files that could not be read, every one of them; those that could are there.
            InvalidDatasetError: a frame without ids, or with ids that would share a directory; `path` is no local
                directory; or a file would replace a directory or another source.

        Example:
            >>> scans = pd.DataFrame({"id": [7], "scan.txt": ["s3://my-bucket/scan.txt"]})
            >>> local = reader(scans).into_dir("scans")
            >>> Path(local["scan.txt"][0]).relative_to(Path.cwd())
            PosixPath('scans/7/scan.txt')
        """
        return _into_dir.into_dir(self._with_files(), path, self._options, progress)

    def iter_temp_dirs(self, *, dir: str | os.PathLike[str] | None = None) -> Iterator[TempDir]:  # noqa: A002
        """Return an iterator over a temp dir for each row, in the frame's order.

        A row's files lie at `<path>/<file name>`; where the frame has ids, the name of each `path` is the row's. The
        temp dir before is removed when the next is asked for, and at most two rows ahead are on disk. One GET per file
        and one LIST per directory (and 1,000 objects), from the first `next()` on. To leave the loop, or to close the
        iterator, cancels what is under way and removes everything.

        Args:
            dir: where to make temp dirs; None: where the system keeps temporary files.

        Raises:
            RowError: files of a row that could not be read, every one of them, when its turn comes; that ends it.
            InvalidDatasetError: cells that are no location, or file names that no directory can hold; at the call.

        Example:
            >>> scans = pd.DataFrame({"id": [7], "scan.txt": ["s3://my-bucket/scan.txt"]})
            >>> for temp in reader(scans).iter_temp_dirs():
            ...     print(temp.path.name, (temp.path / "scan.txt").read_text())
            7 hello
        """
        rows = self._with_files()
        _plan.check_file_names(list(rows.file_columns), local=True)
        _check_place(dir)
        parsed, stores = _frame.parsed(rows, len(rows)), _stores.Stores(self._options)
        return _row_dirs.row_dirs(parsed, stores, dir, named=rows.frame is not None and rows.ids is not None)

    def iter_blob_tables(self, batch_size: int, *, large: bool = False) -> Iterator[pa.Table]:
        """Return an iterator over Arrow tables of `batch_size` rows each, in the frame's order.

        Each is as `into_blob_table` returns it; the last may be shorter, and 0 rows give none. One GET per file, from
        the first `next()` on. Memory: the batch that you have, and at most two ahead.

        Raises:
            RowError: files of a batch that could not be read, every one of them, when its turn comes; that ends it.
            InvalidDatasetError: `batch_size` is not 1 or more, or cells are no location, at the call; a blob that
                `binary` cannot hold.

        Example:
            >>> scans = pd.DataFrame({"id": [7, 8], "scan.txt": ["s3://my-bucket/scan.txt"] * 2})
            >>> [table.to_pylist() for table in reader(scans).iter_blob_tables(batch_size=1)]
            [[{'id': 7, 'scan.txt': b'hello'}], [{'id': 8, 'scan.txt': b'hello'}]]
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidDatasetError(f"batch_size={batch_size!r}: give the number of rows of a table, 1 or more")
        return _file_tables.blob_batches(self._with_files(), self._options, batch_size, large=large)

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
            InvalidDatasetError: a blob that `binary` cannot hold, or a directory.
        """
        return _file_tables.blobs(self._with_files(), self._options, large=large)

    def into_size_table(self, *, limit: int | None = None) -> pa.Table:
        """Return the size of every file in bytes, without downloading any: one HEAD per file.

        Sizes in a directory add up: one LIST per directory (and 1,000 objects).

        Args:
            limit: look at the first `limit` rows only.

        Returns:
            Like the blob table, with `int64` columns: bytes; null where the row has no such file.

        Raises:
            RowError: files that could not be found, every one of them.
            InvalidDatasetError: a negative limit.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidDatasetError(f"limit={limit!r}: give the number of rows to look at")
        return _file_tables.sizes(self._with_files(), self._options, limit)

    def into_info_table(self) -> pa.Table:
        """Return what the store has of every file, or why that is unknown: one HEAD per file, no download.

        Of a directory: one LIST per 1,000 objects, and a line for each, whose `file` is `<name>/<name below it>`; their
        checksums are null, for no LIST has them. One without files is one line with an error.

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
        return _file_tables.infos(self._rows, self._options)

    def __repr__(self) -> str:
        """Show what would be read."""
        return f"Reader({len(self._rows)} rows, files {list(self._rows.file_columns)})"


def _check_place(place: object) -> None:
    if place is not None and not isinstance(place, str | os.PathLike):
        raise InvalidDatasetError(f"dir={place!r}: give the path of a directory")
