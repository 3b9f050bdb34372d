"""`write_files(...)`: local files and directories under an id, in S3 or on disk; of one row, or of a frame's rows."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from file_dataset import (
    _errors,
    _frame,
    _local_directory,
    _local_file,
    _options,
    _plan,
    _progress,
    _stores,
    _storing,
    _urls,
)
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._local_directory import LocalDirectory
from file_dataset._local_file import LocalFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from file_dataset._errors import RowId
    from file_dataset._options import Options
    from file_dataset._progress import Count, Report
    from file_dataset._urls import Location

_Source: TypeAlias = LocalFile | LocalDirectory


@overload
def write_files(
    files: Mapping[str, str | os.PathLike[str] | None],
    *,
    into_path: str | os.PathLike[str],
    id: str | int,
    options: Options | None = None,
    extra_args: Mapping[str, Any] | None = None,
    progress: Report = None,
) -> dict[str, str | Path | None]: ...


@overload
def write_files(
    files: pd.DataFrame,
    *,
    into_path: str | os.PathLike[str],
    file_columns: Sequence[str] | None = None,
    options: Options | None = None,
    extra_args: Mapping[str, Any] | None = None,
    progress: Report = None,
) -> pd.DataFrame: ...


def write_files(  # noqa: PLR0913  # two ways to say what is stored, and where and how
    files: Mapping[str, str | os.PathLike[str] | None] | pd.DataFrame,
    *,
    into_path: str | os.PathLike[str],
    id: str | int | None = None,  # noqa: A002  # the frame's word
    file_columns: Sequence[str] | None = None,
    options: Options | None = None,
    extra_args: Mapping[str, Any] | None = None,
    progress: Report = None,
) -> dict[str, str | Path | None] | pd.DataFrame:
    """Store local files and directories at `<into_path>/<id>/<name>`, now, replacing what is there.

    One PUT per file up to 32 MiB, above it a multipart upload that is aborted when it fails. A local file appears under
    its name when it is whole, those of a row all together or not at all. Many rows of a frame are on their way at once.

    A directory is stored as its files, below `<into_path>/<id>/<name>/`; sub-directories are kept, empty ones are not.
    When all of the row is stored, what lies there of an earlier time is removed: one LIST per 1,000 objects, one DELETE
    for each. On disk the directory takes the place of the one that is there as one, by a rename.

    Args:
        files: name -> local file or directory; None: no such file, nothing is written. Or a frame with such columns
            and `id`. Each segment of a name has at most 255 bytes on disk; in S3 the whole key 1,024.
        into_path: `s3://bucket/prefix` or a local directory; a trailing slash makes no difference.
        id: names the outputs of one row; its text is one segment of the path. A frame has its own.
        file_columns: decides alone which columns of a frame name files, as in `reader`.
        options: how S3 is reached; None: by boto3's default session.
        extra_args: boto3's `ExtraArgs` of uploads, such as `{"ContentType": "image/png"}`; local targets ignore them.
        progress: as in `Pipeline`. Rows end in the frame's order. One row alone has no bar and no log line.

    Returns:
        Of a row: name -> where it is now, an `s3://` URL as text (of a directory, with a slash at its end), or, for a
        local `into_path`, a `Path` below it as given; None stays None. Of a frame: its manifest, in the frame's order,
        which feeds a Pipeline: file columns (URLs or absolute paths as text, those of directories with a slash at their
        end; null stays null), `id` and carried columns, with their dtypes.

    Raises:
        InvalidDatasetError: a name or id is unsafe, or sources are missing, or neither files nor directories of files
            alone: nothing was written. Of a frame every such source is among the `failures` of its cause.
        RowError: files that could not be stored, every one of them. All other rows of a frame are stored; only when
            later rows would fail alike (expired credentials, a full disk) no more are begun.

    Example:
        >>> size = Path("note.txt").write_text("hello")
        >>> write_files({"note.txt": "note.txt"}, into_path="s3://my-bucket/notes/", id=1)
        {'note.txt': 's3://my-bucket/notes/1/note.txt'}
        >>> frame = pd.DataFrame({"id": [2], "note.txt": ["note.txt"]})
        >>> write_files(frame, into_path="s3://my-bucket/notes/")["note.txt"].tolist()
        ['s3://my-bucket/notes/2/note.txt']
    """
    _options.check(options)
    _progress.check(progress)
    if extra_args is not None and not isinstance(extra_args, Mapping):
        raise InvalidDatasetError(f"extra_args is a {type(extra_args).__name__}: give a mapping, boto3's ExtraArgs")
    prefix = _urls.parse_prefix(into_path, local_paths=_options.takes_local_paths(options))
    if isinstance(files, Mapping):
        if file_columns is not None:
            raise InvalidDatasetError("file_columns are of a frame: every name of a mapping is a file's")
        with _progress.counting(progress, 1) as count:
            return _write_row(files, id, prefix, options, extra_args or {}, count)
    if not hasattr(files, "columns"):
        kind = type(files).__name__
        raise InvalidDatasetError(f"files is a {kind}: give a mapping of file name to local path, or a frame of them")
    if id is not None:
        raise InvalidDatasetError(f"id={id!r} is of one row: a frame has its ids in the column 'id'")
    return _write_frame(_rows(files, file_columns, prefix), prefix, options, extra_args or {}, progress)


def _write_row(  # noqa: PLR0913, PLR0917  # what is stored, where and how, and what counts it
    files: Mapping[str, Any],
    row_id: RowId,
    prefix: Location,
    options: Options | None,
    extra_args: Mapping[str, Any],
    count: Count,
) -> dict[str, str | Path | None]:
    _check_names(list(files), prefix)
    sources = {name: None if _urls.is_null(path) else _source(name, path) for name, path in files.items()}
    uploads = _plan.uploads(row_id, sources, prefix)
    _check_apart([uploads], prefix)
    _check_extra_args(extra_args, prefix)
    try:
        _storing.copy_out(uploads, _stores.Stores(options), extra_args)
    except RowError as exc:
        count(row_id, exc.failures)
        raise
    count(row_id, ())
    stored = uploads.locations
    if isinstance(prefix, Path):
        return {name: Path(stored[name]) if name in stored else None for name in files}
    return {name: stored.get(name) for name in files}


def _check_names(names: list[Any], prefix: Location) -> None:
    is_local = isinstance(prefix, Path)
    most = _urls.SEGMENT_BYTES if is_local else _urls.KEY_BYTES  # no file system sees a key
    _plan.check_file_names(names, local=is_local, segment_bytes=most)


def _check_extra_args(extra_args: Mapping[str, Any], prefix: Location) -> None:
    if extra_args and not isinstance(prefix, Path):
        # brings botocore along, which local work does without
        from file_dataset._s3.extra_args import check_extra_args

        check_extra_args(extra_args)


def _rows(frame: object, file_columns: Sequence[str] | None, prefix: Location) -> _frame.Rows:
    rows = _frame.rows_of_frame(frame, file_columns, needs_id=True, local=isinstance(prefix, Path))
    _check_names(list(rows.file_columns), prefix)
    _frame.check_not_failed(rows, "store")
    return rows


def _write_frame(
    rows: _frame.Rows, prefix: Location, options: Options | None, extra_args: Mapping[str, Any], progress: Report
) -> pd.DataFrame:
    into = rows.base / prefix if isinstance(prefix, Path) else prefix
    sources = _sources(rows)
    planned = [_plan.targets(row_id, files, into) for row_id, files in zip(rows.ids or (), sources, strict=True)]
    if isinstance(into, Path):
        pairs = [
            (files[name].path, str(at)) for files, row in zip(sources, planned, strict=True) for name, at in row.items()
        ]
        if lost := _local_file.sources_replaced(pairs):
            raise InvalidDatasetError(
                f"files of this frame would be replaced before they are read: {lost[:5]}; choose another into_path"
            )
        if any(isinstance(source, LocalDirectory) for files in sources for source in files.values()):
            _check_apart((_plan.uploads(rows.id_at(at), files, into) for at, files in enumerate(sources)), into)
    _check_extra_args(extra_args, into)
    uploads = (_plan.uploads(rows.id_at(at), files, into) for at, files in enumerate(sources))
    shown = f"{len(rows)} rows are stored, below {into}"
    with _progress.counting(progress, len(rows)) as count:
        _store_rows(uploads, _stores.Stores(options), extra_args, _Ended(rows.ids or (), count), shown)
    outputs = {
        name: [_located(files.get(name), row.get(name)) for files, row in zip(sources, planned, strict=True)]
        for name in rows.cells
    }
    return _frame.manifest(rows, outputs, keep=list(range(len(rows))))


def _located(source: _Source | None, at: Location | None) -> str | None:
    return None if at is None else f"{at}/" if isinstance(source, LocalDirectory) else str(at)


def _check_apart(rows: Iterable[_plan.Uploads], into: Location) -> None:
    """Refuse a local directory that would lie in its source, or replace one.

    Raises:
        InvalidDatasetError: naming some of the targets.
    """
    if not isinstance(into, Path):
        return
    copies: list[tuple[str, str, bool]] = []
    for uploads in rows:
        copies += ((each.source.path, str(each.target), True) for each in uploads.directories)
        for each in uploads.singles:
            if isinstance(each.source, LocalFile):
                copies.append((each.source.path, str(each.target), False))
    if lost := _local_directory.nested(copies):
        raise InvalidDatasetError(
            f"directories would be stored in, or over, what is copied: {lost[:5]}; choose another into_path"
        )


def _sources(rows: _frame.Rows) -> list[dict[str, _Source]]:
    """Look at every source of a frame.

    Raises:
        InvalidDatasetError: some are no files, or not there; its cause has them all.
    """
    found: list[dict[str, _Source]] = [{} for _ in range(len(rows))]
    failures: list[Failure] = []
    for position, files in enumerate(found):
        for name, cells in rows.cells.items():
            if (cell := cells[position]) is None:
                continue
            try:
                files[name] = _looked_at(cell, rows.base)
            except InvalidDatasetError as exc:
                failures.append(Failure.of(rows.id_at(position), "upload", exc, file=name, url=_urls.shown(cell)))
    if failures:
        error = RowError(failures)
        raise InvalidDatasetError(f"{error}\nNothing was written.") from error
    return found


def _store_rows(
    rows: Iterable[_plan.Uploads],
    stores: _stores.Stores,
    extra_args: Mapping[str, Any],
    ended: _Ended,
    shown: str,
) -> None:
    """Store the files of many rows, as many at once as keep the store busy.

    Raises:
        RowError: files that failed, every one of them, and how many rows of all, as `shown` has it, are stored.
    """
    cancelled = threading.Event()
    running: deque[tuple[int, _storing.Storing]] = deque()  # with the number of its files
    count = 0
    try:
        for uploads in rows:
            files = len(uploads.files)
            while running and count + files > stores.ahead:
                count -= ended.end_first(running)
            if ended.is_fatal:
                break
            storing = _storing.Storing(uploads, stores, cancelled)
            running.append((files, storing))
            count += files
            ended.begin(storing, extra_args)
        while running:
            ended.end_first(running)
    except BaseException:
        _storing.abandon([storing for _, storing in running], cancelled)
        raise
    if ended.failures:
        message = f"{RowError(ended.failures)}\n{ended.stored} of {shown}."
        raise RowError(ended.failures, message) from ended.cause


@dataclass(slots=True)
class _Ended:
    """What became of the rows that have ended; of their errors the first one is kept, or the first that is fatal."""

    ids: Sequence[RowId]
    count: Count
    ended: int = 0
    stored: int = 0
    failures: list[Failure] = field(default_factory=list)
    cause: BaseException | None = None
    is_fatal: bool = False
    _unbegun: dict[int, Sequence[Failure]] = field(default_factory=dict)

    def begin(self, storing: _storing.Storing, extra_args: Mapping[str, Any]) -> None:
        """Begin to store a row; one whose directory cannot be made has failed."""
        try:
            storing.store(extra_args, lambda: None)
        except RowError as exc:
            self._unbegun[id(storing)] = exc.failures
            self._fail(exc)

    def end_first(self, running: deque[tuple[int, _storing.Storing]]) -> int:
        """Wait for the first row, and take it out; return how many files it has."""
        files, storing = running[0]
        failures = self._unbegun.pop(id(storing), None)
        if failures is None:
            failures = ()
            try:
                storing.wait()
                storing.finish_out()
                self.stored += 1
            except RowError as exc:
                self._fail(exc)
                failures = exc.failures
            storing.forget()
        running.popleft()  # not before: what is interrupted abandons it
        row_id, self.ended = self.ids[self.ended], self.ended + 1
        self.count(row_id, failures)
        return files

    def _fail(self, error: RowError) -> None:
        cause, self.failures = error.__cause__, [*self.failures, *error.failures]
        is_fatal = cause is not None and _errors.is_fatal(cause)
        if self.cause is None or (is_fatal and not self.is_fatal):
            self.cause = cause
        self.is_fatal |= is_fatal


def _source(name: str, path: Any) -> _Source:  # noqa: ANN401  # whatever the caller gave
    try:
        return _looked_at(path, Path())
    except InvalidDatasetError as exc:
        raise InvalidDatasetError(f"{name!r}: {exc}; nothing was written") from None


def _looked_at(path: Any, base: Path) -> _Source:  # noqa: ANN401  # the same
    try:
        source = base / path
    except TypeError:
        raise InvalidDatasetError(f"it is a {type(path).__name__}: give a local path") from None
    try:
        return LocalFile.at(source)
    except IsADirectoryError:
        try:
            return LocalDirectory.at(os.path.realpath(source))
        except (InvalidDatasetError, OSError) as exc:
            why = f"{source}: {exc}"
    except FileNotFoundError:
        why = _urls.why_no_file(path)
    except OSError as exc:
        why = exc.strerror or str(exc)
    raise InvalidDatasetError(why)
