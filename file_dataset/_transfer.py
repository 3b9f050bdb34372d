"""Many transfers at once: submit, wait, commit, report every failure. `_stores` has the store of each location.

Everything that touches a byte goes through here. What is interrupted cancels what it started and leaves no file behind.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from file_dataset import _directories, _in_order
from file_dataset._errors import Failure, RowError
from file_dataset._sink import ObjectInfo, Sink

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from file_dataset._errors import RowId
    from file_dataset._plan import Transfer
    from file_dataset._stores import Stores
    from file_dataset._urls import Location


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to read: whose it is, for the failure's sake, where it lies, and the position of its row."""

    row_id: RowId
    file: str
    at: Location
    position: int


def fill(transfers: Iterable[Transfer[str]], stores: Stores, unlisted: list[Failure]) -> None:
    """Copy every source into its local target, which has its name from the start.

    The targets are in a directory of the caller's own, which no other code looks into yet, and which goes when this
    fails.

    Args:
        transfers: what is copied.
        stores: the stores that have it.
        unlisted: why there is no transfer of some files, when all transfers were taken.

    Raises:
        RowError: files that failed, every one of them.
    """
    with _Sinks(stores, threading.Event()) as sinks:
        for sink in sinks.filled((transfer, sinks.of(transfer)) for transfer in transfers):
            sink.commit()
            sinks.forget(sink)
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

    def __init__(self, stores: Stores, cancelled: threading.Event) -> None:
        self._stores, self._cancelled = stores, cancelled
        self._open: set[Sink] = set()
        self.failed: _in_order.FailedFiles[tuple[Transfer[Any], Sink]] = _in_order.FailedFiles(_not_filled)
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

    def filled(self, pairs: Iterable[tuple[Transfer[Any], Sink]]) -> Iterator[Sink]:
        """Fill each; yield them in order, as soon as they are there; `failed` has the others when this ends."""

        def download(pair: tuple[Transfer[Any], Sink]) -> Future[ObjectInfo]:
            transfer, sink = pair
            return self._stores.of(transfer.source).download(transfer.source, sink)

        for pair, info in _in_order.tried(
            pairs, download, lambda pair: pair[0].source, self.failed, self._stores, self._cancelled
        ):
            if (error := _directories.why_other(pair[0], info)) is None:
                yield pair[1]
            else:
                self.failed.add(pair, error)

    def forget(self, sink: Sink) -> None:
        """Take note that a file is whole."""
        self._open.discard(sink)


def _not_filled(pair: tuple[Transfer[Any], Sink], error: OSError) -> Failure:
    transfer, _ = pair
    return Failure.of(transfer.row_id, "download", error, file=transfer.file, url=transfer.source)
