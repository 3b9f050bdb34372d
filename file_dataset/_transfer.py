"""Many transfers at once: submit, wait, commit, report every failure. `_stores` has the store of each location.

Everything that touches a byte goes through here. What is interrupted cancels what it started and leaves no file behind.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from file_dataset import _directories, _in_order
from file_dataset._errors import Failure, RowError
from file_dataset._sink import ObjectInfo, Sink

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from file_dataset._errors import RowId
    from file_dataset._plan import Transfer
    from file_dataset._progress import Count
    from file_dataset._stores import Stores
    from file_dataset._urls import Location


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to read: whose it is, for the failure's sake, where it lies, and the position of its row."""

    row_id: RowId
    file: str
    at: Location
    position: int


class RowsLeft:
    """The rows that have not ended: each is counted as its last file ends, and none before its files are known."""

    def __init__(self, count: Count, ids: Iterable[RowId], unlisted: Sequence[Failure]) -> None:
        """Count none yet.

        Args:
            count: counts a row that has ended, and why it failed.
            ids: those of all rows.
            unlisted: why there is no transfer of some files; it may grow until the transfers of the next row come.
        """
        self._count, self._ids, self._unlisted = count, ids, unlisted
        self._files: Counter[RowId] = Counter()
        self._failures: dict[RowId, list[Failure]] = {}
        self._looked = 0  # how many of `unlisted` are among the failures
        self._coming: object = self  # the row whose transfers are coming

    def taking(self, transfers: Iterable[Transfer[str]]) -> Iterator[Transfer[str]]:
        """Yield the transfers, which come row by row; then count the rows that have none."""
        for each in transfers:
            if each.row_id != self._coming:
                self._all_came(each.row_id)
            self._files[each.row_id] += 1
            yield each
        self._all_came(self)
        for row_id in self._ids:
            if row_id not in self._files:
                self._ends(row_id)

    def file_ends(self, row_id: RowId, *failures: Failure) -> None:
        """Take note that a file of a row is there, or why it is not."""
        if failures:
            self._failures.setdefault(row_id, []).extend(failures)
        self._files[row_id] -= 1
        if not self._files[row_id] and row_id != self._coming:
            self._ends(row_id)

    def _all_came(self, following: object) -> None:
        before, self._coming = self._coming, following
        if before is not self and not self._files[before]:  # type: ignore[index]  # the id of a row
            self._ends(before)  # type: ignore[arg-type]  # the same

    def _ends(self, row_id: RowId) -> None:
        for each in self._unlisted[self._looked :]:
            self._failures.setdefault(each.id, []).append(each)
        self._looked = len(self._unlisted)
        self._count(row_id, self._failures.pop(row_id, []))


def fill(transfers: Iterable[Transfer[str]], stores: Stores, unlisted: list[Failure], left: RowsLeft) -> None:
    """Copy every source into its local target, which has its name from the start.

    The targets are in a directory of the caller's own, which no other code looks into yet, and which goes when this
    fails.

    Args:
        transfers: what is copied.
        stores: the stores that have it.
        unlisted: why there is no transfer of some files, when all transfers were taken.
        left: takes note of each file that ends.

    Raises:
        RowError: files that failed, every one of them.
    """

    def lost(pair: tuple[Transfer[Any], Sink], error: OSError) -> Failure:
        failure = _not_filled(pair, error)
        left.file_ends(failure.id, failure)
        return failure

    with _Sinks(stores, threading.Event(), lost) as sinks:
        for transfer, sink in sinks.filled((each, sinks.of(each)) for each in left.taking(transfers)):
            sink.commit()
            sinks.forget(sink)
            left.file_ends(transfer.row_id)
        if unlisted or sinks.failed.all:
            error = sinks.failed.row_error()
            raise RowError([*unlisted, *error.failures]) from error.__cause__


def read_each(
    wanted: Iterable[Wanted], stores: Stores, *, limit_bytes: int | None
) -> Iterator[tuple[Wanted, bytearray | mmap.mmap]]:
    """Yield the bytes of every file, in order; one of them may have at most `limit_bytes`. Nothing is kept of them.

    Raises:
        RowError: files that failed, every one of them.
    """
    failed = _in_order.FailedFiles(unread_blob)
    yield from read_tried(wanted, stores, failed, lambda _file, _first: False, limit_bytes=limit_bytes)
    if failed.all:
        raise failed.row_error()


def read_tried(
    wanted: Iterable[Wanted],
    stores: Stores,
    failed: _in_order.FailedFiles[tuple[Wanted, Sink]],
    is_far: Callable[[Wanted, Wanted], bool],
    *,
    limit_bytes: int | None,
) -> Iterator[tuple[Wanted, bytearray | mmap.mmap]]:
    """Do what `read_each` does, with `failed` for the files that failed.

    A file does not begin while `is_far(file, first)`, `first` being the first of those that have begun and not been
    yielded.
    """
    cancelled = threading.Event()

    def read(pair: tuple[Wanted, Sink]) -> Future[ObjectInfo]:
        file, sink = pair
        return stores.of(file.at).download(file.at, sink)

    pairs = ((file, Sink(None, cancelled, limit_bytes=limit_bytes)) for file in wanted)
    found = _in_order.tried(
        pairs, read, lambda pair: pair[0].at, failed, stores, cancelled, lambda one, other: is_far(one[0], other[0])
    )
    # a comprehension leaves no name bound to a blob while the next is waited for
    return ((pair[0], pair[1].data) for pair, _ in found)


def unread_blob(pair: tuple[Wanted, Sink], error: OSError) -> Failure:
    """Return the failure of a file that could not be read into memory."""
    return _unread(pair[0], error)


def sizes(wanted: Iterable[Wanted], stores: Stores) -> Iterator[tuple[Wanted, int]]:
    """Yield the size of every file in bytes, in order; one HEAD each.

    Raises:
        RowError: files that failed, every one of them.
    """
    infos = _in_order.each(wanted, _info_from(stores), _place, _unread, stores, threading.Event())
    return ((file, info.size_bytes) for file, info in infos)


def infos(
    wanted: Iterable[Wanted], stores: Stores, missing: list[tuple[Wanted, Failure]]
) -> Iterator[tuple[Wanted, ObjectInfo]]:
    """Yield what the stores have of every file, in order; one HEAD each.

    Args:
        wanted: the files.
        stores: the stores that have them.
        missing: takes the others, with the reason, when all have been requested.

    Raises:
        RowError: the store refuses these credentials, or there are none: nothing is known of any file.
    """
    failed = _in_order.FailedFiles(_unread)
    yield from _in_order.tried(wanted, _info_from(stores), _place, failed, stores, threading.Event())
    if failed.fatal:
        raise RowError(failed.fatal) from failed.worst
    missing += failed.all


def _info_from(stores: Stores) -> Callable[[Wanted], Future[ObjectInfo]]:
    return lambda file: stores.of(file.at).info(file.at)


def _place(file: Wanted) -> Location:
    return file.at


def _unread(file: Wanted, error: OSError) -> Failure:
    return Failure.of(file.row_id, "download", error, file=file.file, url=file.at)


class _Sinks:
    """The files that `fill` makes. What is not whole when it ends leaves nothing behind."""

    def __init__(
        self,
        stores: Stores,
        cancelled: threading.Event,
        failure: Callable[[tuple[Transfer[Any], Sink], OSError], Failure],
    ) -> None:
        self._stores, self._cancelled = stores, cancelled
        self._open: set[Sink] = set()
        self.failed = _in_order.FailedFiles(failure)
        self._last = ""  # directory of a file: a row's come one after the other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._open:
            sink.discard()

    def of(self, transfer: Transfer[str]) -> Sink:
        """Return where a file goes that no other code looks at yet, and that makes its directory by itself."""
        directory = transfer.target.rpartition("/")[0]
        sink = Sink(transfer.target, self._cancelled, is_alone=True, is_first=directory != self._last)
        self._last = directory
        self._open.add(sink)
        return sink

    def filled(self, pairs: Iterable[tuple[Transfer[Any], Sink]]) -> Iterator[tuple[Transfer[Any], Sink]]:
        """Fill each; yield them in order, as soon as they are there; `failed` has the others when this ends."""

        def download(pair: tuple[Transfer[Any], Sink]) -> Future[ObjectInfo]:
            transfer, sink = pair
            return self._stores.of(transfer.source).download(transfer.source, sink)

        for pair, info in _in_order.tried(
            pairs, download, lambda pair: pair[0].source, self.failed, self._stores, self._cancelled
        ):
            if (error := _directories.why_other(pair[0], info)) is None:
                yield pair
            else:
                self.failed.add(pair, error)

    def forget(self, sink: Sink) -> None:
        """Take note that a file is whole."""
        self._open.discard(sink)


def _not_filled(pair: tuple[Transfer[Any], Sink], error: OSError) -> Failure:
    transfer, _ = pair
    return Failure.of(transfer.row_id, "download", error, file=transfer.file, url=transfer.source)
