"""`reader(...).into_dir(path)`: files that stay, and that are not read again while they are whole.

Files arrive in a temp dir below `path`, on the same disk, and get their names when they are whole. If the process is
killed, the next call removes that temp dir.
"""

from __future__ import annotations

import itertools
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from file_dataset import _digest, _frame, _in_order, _local_file, _plan, _stores, _urls
from file_dataset._errors import Failure, InvalidDatasetError
from file_dataset._local_file import LocalFile
from file_dataset._pool import Pool
from file_dataset._sink import Sink
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    import pandas as pd

    from file_dataset._digest import Digest
    from file_dataset._frame import Rows
    from file_dataset._options import Options
    from file_dataset._plan import Transfer
    from file_dataset._sink import ObjectInfo
    from file_dataset._urls import Location

T = TypeVar("T")

_THREADS = 8  # that read what is there already; a guess, as for local copies


def into_dir(rows: Rows, path: object, options: Options | None) -> pd.DataFrame | dict[str, Path | None]:
    """Have every file below a directory, and return where: the frame, or a row's files.

    Raises:
        RowError: files that could not be read, every one of them.
        InvalidDatasetError: ids, names or the directory do not allow it; nothing was read.
    """
    if rows.frame is not None:
        _frame.check_directories(rows)
    _plan.check_file_names(list(rows.file_columns), local=True)
    into = _directory(path, rows.base)
    transfers: list[Transfer[str]] = []
    for row in _frame.parsed(rows, len(rows), directories=False):
        directory = into if rows.frame is None else f"{into}/{row.id}"
        found = _plan.downloads(row, directory)
        _make(directory, found)
        transfers += found
    pairs = [(str(each.source), each.target) for each in transfers if isinstance(each.source, Path)]
    if lost := _local_file.sources_replaced(pairs):
        raise InvalidDatasetError(f"files that are to be read would be replaced before that: {lost[:5]}")
    with TempDir(into) as arriving:
        _Filling(_stores.Stores(options), str(arriving)).fill(transfers)
    return _answer(rows, into)


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
            raise InvalidDatasetError(f"{target} is a directory, which no file can replace; nothing was read")


def _answer(rows: Rows, into: str) -> pd.DataFrame | dict[str, Path | None]:
    if rows.frame is None:
        return {name: None if cells[0] is None else Path(into, name) for name, cells in rows.cells.items()}
    import pandas as pd

    ids = rows.ids or []
    columns = {
        name: [None if cell is None else f"{into}/{row_id}/{name}" for row_id, cell in zip(ids, cells, strict=True)]
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

    def __init__(self, stores: _stores.Stores, arriving: str) -> None:
        """Take the stores of the sources, and where files lie that are not whole."""
        self._stores, self._arriving = stores, arriving
        self._cancelled = threading.Event()
        self._failed: _in_order.FailedFiles[_Step] = _in_order.FailedFiles(_unread)
        self._sinks: dict[_Step, Sink] = {}  # of files without their names
        self._unnamed: dict[_Step, OSError] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pool = Pool(_THREADS, "file_dataset-compare")

    def fill(self, transfers: Iterable[Transfer[str]]) -> None:
        """Look at what is there, then compare and read.

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
        if self._failed.all:
            raise self._failed.row_error()

    def _steps(self, transfers: Iterable[Transfer[str]]) -> list[_Step]:
        """Return what is to be done, in order: one HEAD for each file that is there."""
        steps = [_Step(transfer, None) for transfer in transfers if not _is_itself(transfer)]
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
            elif step.expected is None and (error := self._named(step)) is not None:
                self._failed.add(step, error)
        return differ

    def _tried(self, steps: Iterable[_Step], start: Callable[[_Step], Future[T]]) -> Iterator[tuple[_Step, T]]:
        return _in_order.tried(steps, start, _place, self._failed, self._stores, self._cancelled)

    def _begin(self, step: _Step) -> Future[Any]:  # an ObjectInfo, or whether it is whole
        if step.expected is not None:
            return self._pool.submit(self._is_whole, step.transfer.target, step.expected)
        sink = Sink(f"{self._arriving}/{next(self._numbers)}", self._cancelled, is_alone=True)
        self._sinks[step] = sink
        future = self._stores.of(step.transfer.source).download(step.transfer.source, sink)
        # at once: a larger file may be waited for, and an interruption takes what has no name
        future.add_done_callback(lambda done: self._named(step) if not (done.cancelled() or done.exception()) else None)
        return future

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


def _unread(step: _Step, error: OSError) -> Failure:
    transfer = step.transfer
    return Failure.of(transfer.row_id, "download", error, file=transfer.file, url=transfer.source)
