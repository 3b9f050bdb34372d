"""`reader(...).into_dir(path)`: files that stay, and that are not read again while they are whole.

Files arrive in a temp dir below `path`, on the same disk, and get their names when they are whole. If the process is
killed, the next call removes that temp dir.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from file_dataset import (
    _digest,
    _directories,
    _frame,
    _in_order,
    _listings,
    _local_file,
    _plan,
    _progress,
    _stores,
    _transfer,
    _urls,
)
from file_dataset._directories import Member
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._local_file import LocalFile
from file_dataset._pool import Pool
from file_dataset._sink import Sink
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    import pandas as pd

    from file_dataset._digest import Digest
    from file_dataset._errors import RowId
    from file_dataset._frame import Rows
    from file_dataset._options import Options
    from file_dataset._plan import FileRow, Transfer
    from file_dataset._progress import Report
    from file_dataset._sink import ObjectInfo
    from file_dataset._urls import Location

T = TypeVar("T")

_MD5 = re.compile(r"[0-9a-fA-F]{32}")  # the ETag of an object encrypted by KMS is no MD5, and differs
_REMEDY = "give another path"
_THREADS = 8  # that read what is there already; a guess, as for local copies


def into_dir(
    rows: Rows, path: object, options: Options | None, progress: Report
) -> pd.DataFrame | dict[str, Path | None]:
    """Have every file below a directory, and return where: the frame, or a row's files.

    Raises:
        RowError: files that could not be read, every one of them.
        InvalidDatasetError: ids, names or the directory do not allow it; nothing was read.
    """
    _progress.check(progress)
    if rows.frame is not None:
        _frame.check_directories(rows)
    _plan.check_file_names(list(rows.file_columns), local=True)
    into = _directory(path, rows.base)
    stores = _stores.Stores(options)
    unlisted: list[Failure] = []

    def place(row: FileRow) -> str:
        return into if rows.frame is None else f"{into}/{row.id}"

    transfers = list(_listings.transfers(_frame.parsed(rows, len(rows)), place, stores, unlisted))
    _make(into, transfers)
    unlisted += _strangers(transfers)
    pairs = [(str(each.source), each.target) for each in transfers if isinstance(each.source, Path)]
    if lost := _local_file.sources_replaced(pairs):
        raise InvalidDatasetError(f"files of this frame would be replaced before they are read: {lost[:5]}; {_REMEDY}")
    if within := [each for each in transfers if isinstance(each, Member) and f"{into}/".startswith(each.source_root)]:
        raise InvalidDatasetError(f"{into} lies in {within[0].source_root}, which is an input: {_REMEDY}")
    wanted = [each for each in transfers if not _is_itself(each)]
    with TempDir(into) as arriving, _progress.counting(progress, len(rows)) as count:
        left = _transfer.RowsLeft(count, rows.ids or [None], unlisted)
        _Filling(stores, str(arriving), left).fill(list(left.taking(wanted)), unlisted)
    directories = {(each.row_id, each.column) for each in transfers if isinstance(each, Member)}
    return _answer(rows, into, directories)


def _directory(path: object, base: Path) -> str:
    at = _urls.parse_prefix(path, what="path")
    if not isinstance(at, Path):
        raise InvalidDatasetError(f"path={str(at)!r}: files are read into a local directory; give its path")
    into = str(base / at)
    _make(into, [])
    return into


def _make(directory: str, transfers: Iterable[Transfer[str]]) -> None:
    """Make a directory, and those of the files in it; see that no directory lies where a file is to be."""
    try:
        for each in dict.fromkeys([directory, *(os.path.dirname(each.target) for each in transfers)]):  # noqa: PTH120
            os.makedirs(each, exist_ok=True)  # noqa: PTH103  # the paths are text
    except OSError as exc:
        raise InvalidDatasetError(f"{directory} cannot be made: {exc}; nothing was read") from exc
    for target in (each.target for each in transfers):
        if os.path.isdir(target) and not os.path.islink(target):  # noqa: PTH112, PTH114  # the same
            raise InvalidDatasetError(
                f"{target} is a directory, which no file can replace: remove it, or {_REMEDY}. Nothing was read"
            )


def _strangers(transfers: Iterable[Transfer[str]]) -> list[Failure]:
    """Return a failure for each file in a local directory that its source has not: they are no one's state together.

    Nothing is removed: it may be the caller's only copy.
    """
    inside: dict[str, set[str]] = {}
    of: dict[str, Member] = {}
    for each in transfers:
        if isinstance(each, Member):
            inside.setdefault(each.root, set()).add(each.target)
            of.setdefault(each.root, each)
    failures = []
    for root, targets in inside.items():
        for parent, _, names in os.walk(root):
            for path in (f"{parent}/{name}" for name in names):
                if path not in targets:
                    member = of[root]
                    message = f"{path} is there, and its source has no such file: remove it, or {_REMEDY}"
                    file = f"{member.column}{path.removeprefix(root)}"
                    failures.append(Failure(member.row_id, "download", file, path, "FileExistsError", None, message))
    return failures


def _answer(rows: Rows, into: str, directories: Collection[tuple[RowId, str]]) -> pd.DataFrame | dict[str, Path | None]:
    if rows.frame is None:
        return {name: None if cells[0] is None else Path(into, name) for name, cells in rows.cells.items()}
    import pandas as pd

    ids = rows.ids or []
    columns = {
        name: [
            None if cell is None else f"{into}/{row_id}/{name}{'/' if (row_id, name) in directories else ''}"
            for row_id, cell in zip(ids, cells, strict=True)
        ]
        for name, cells in rows.cells.items()
    }
    texts = {name: pd.Series(column, rows.frame.index, _frame.TEXT) for name, column in columns.items()}
    return rows.frame.assign(**texts).drop(columns=rows.version_columns)


@dataclass(frozen=True, slots=True)
class _Step:
    """What becomes of a file: it is compared with the digest that its source has, or read."""

    transfer: Transfer[str]
    expected: Digest | None


class _Filling:
    """Fills one directory. What is not whole when it ends leaves nothing behind."""

    def __init__(self, stores: _stores.Stores, arriving: str, left: _transfer.RowsLeft) -> None:
        """Take the stores of the sources, where files lie that are not whole, and what counts the rows."""
        self._stores, self._arriving, self._left = stores, arriving, left
        self._cancelled = threading.Event()
        self._failed: _in_order.FailedFiles[_Step] = _in_order.FailedFiles(self._lost)
        self._sinks: dict[_Step, Sink] = {}  # of files without their names
        self._unnamed: dict[_Step, OSError] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pool = Pool(_THREADS, "file_dataset-compare")

    def fill(self, transfers: Iterable[Transfer[str]], unlisted: Sequence[Failure]) -> None:
        """Look at what is there, then compare and read; `unlisted` says why there is no transfer of some files.

        Raises:
            RowError: files that failed, every one of them.
        """
        try:
            steps = self._steps(transfers)
            if not self._failed.fatal:
                differ = self._do(steps)
                self._do(_Step(step.transfer, None) for step in differ)
        finally:
            for sink in list(self._sinks.values()):
                sink.discard()
        if self._failed.all or unlisted:
            error = self._failed.row_error()
            raise RowError([*unlisted, *error.failures]) from error.__cause__

    def _steps(self, transfers: Iterable[Transfer[str]]) -> list[_Step]:
        """Return what is to be done, in order: one HEAD for each file that is there.

        Files of directories are first compared with the ETag that the listing has, where that is an MD5.
        """
        steps = [_Step(transfer, None) for transfer in transfers]
        listed = {step: _Step(step.transfer, digest) for step in steps if (digest := _listed_digest(step)) is not None}
        differ = {step.transfer for step in self._do(listed.values())}
        steps = [step for step in steps if step not in listed or step.transfer in differ]
        there = [step for step in steps if isinstance(step.transfer.source, _urls.ObjectUrl) and _size_of(step) >= 0]
        looked: dict[_Step, ObjectInfo] = dict(self._tried(there, self._info))
        unknown = set(there) - set(looked)
        return [
            _Step(step.transfer, _expected(step, looked[step]) if step in looked else None)
            for step in steps
            if step not in unknown
        ]

    def _info(self, step: _Step) -> Future[ObjectInfo]:
        return self._stores.of(step.transfer.source).info(step.transfer.source)

    def _do(self, steps: Iterable[_Step]) -> list[_Step]:
        """Compare files, or read them; return those that are not what the store has."""
        differ: list[_Step] = []
        for step, found in self._tried(steps, self._begin):
            if found is False:
                differ.append(step)
                continue
            is_whole = step.expected is not None
            error = None if is_whole else _directories.why_other(step.transfer, found) or self._named(step)
            if error is None:
                self._left.file_ends(step.transfer.row_id)
            else:
                self._failed.add(step, error)
        return differ

    def _lost(self, step: _Step, error: OSError) -> Failure:
        transfer = step.transfer
        failure = Failure.of(transfer.row_id, "download", error, file=transfer.file, url=transfer.source)
        self._left.file_ends(transfer.row_id, failure)
        return failure

    def _tried(self, steps: Iterable[_Step], start: Callable[[_Step], Future[T]]) -> Iterator[tuple[_Step, T]]:
        return _in_order.tried(steps, start, _place, self._failed, self._stores, self._cancelled)

    def _begin(self, step: _Step) -> Future[Any]:  # an ObjectInfo, or whether it is whole
        if step.expected is not None:
            return self._pool.submit(self._is_whole, step.transfer.target, step.expected)
        sink = Sink(f"{self._arriving}/{next(self._numbers)}", self._cancelled, is_alone=True)
        self._sinks[step] = sink
        future = self._stores.of(step.transfer.source).download(step.transfer.source, sink)
        # at once: a larger file may be waited for, and an interruption takes what has no name
        future.add_done_callback(functools.partial(self._arrived, step))
        return future

    def _arrived(self, step: _Step, done: Future[ObjectInfo]) -> None:
        if not (done.cancelled() or done.exception() or _directories.why_other(step.transfer, done.result())):
            self._named(step)

    def _named(self, step: _Step) -> OSError | None:
        """Give a file that is whole its name, once; return why that was not possible."""
        with self._lock:
            sink = self._sinks.pop(step, None)
            if sink is not None:
                try:
                    sink.commit_at(step.transfer.target)
                except OSError as exc:  # its directory is on another disk, say
                    self._unnamed[step] = exc
            return self._unnamed.get(step)

    def _is_whole(self, path: str, expected: Digest) -> bool:
        """Return whether a file has a digest; one that changes meanwhile, or cannot be read, has not."""
        hasher, silence = _digest.hasher(expected.algorithm), self._stores.of(Path(path)).silence
        try:
            file = LocalFile.at(path)
            for chunk in file.chunks(0, file.size_bytes):
                _in_order.check(self._cancelled)
                hasher.update(chunk)
                silence.moved()
        except OSError:
            return False
        return hasher.digest() == expected


def _is_itself(transfer: Transfer[str]) -> bool:
    """Return whether a local source lies where it is to be."""
    try:
        return isinstance(transfer.source, Path) and transfer.source.samefile(transfer.target)
    except OSError:
        return False


def _listed_digest(step: _Step) -> Digest | None:
    """Return the MD5 that a listing has of a file whose size is that of the file that is there; None: it is unknown."""
    member = step.transfer
    if not isinstance(member, Member) or _size_of(step) != member.listed.size_bytes:
        return None
    etag = member.listed.etag or ""
    return _digest.Digest("MD5", etag.lower()) if _MD5.fullmatch(etag) else None


def _size_of(step: _Step) -> int:
    """Return the size of the file that is there; -1: there is none, or no regular one."""
    try:
        found = os.stat(step.transfer.target)  # noqa: PTH116  # the path is text
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _expected(step: _Step, info: ObjectInfo) -> Digest | None:
    """Return the digest that shows whether the file is whole; None: it is read."""
    return (info.digest or info.md5) if _size_of(step) == info.size_bytes else None


def _place(step: _Step) -> Location:
    return step.transfer.source if step.expected is None else Path(step.transfer.target)  # type: ignore[return-value]
