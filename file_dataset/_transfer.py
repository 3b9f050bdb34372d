"""Many transfers at once: submit, wait, commit, report every failure. `_stores` has the store of each location.

Everything that touches a byte goes through here. What is interrupted cancels what it started and leaves no file behind.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from file_dataset import _directories, _in_order
from file_dataset._errors import Failure, RowError, exists_already, store_error
from file_dataset._local_file import LocalFile
from file_dataset._silence import Silence, awaited
from file_dataset._sink import ObjectInfo, Sink

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from file_dataset._directories import Contents
    from file_dataset._errors import RowId, Stage
    from file_dataset._plan import Transfer
    from file_dataset._store import Listing, RemoteStore
    from file_dataset._stores import Stores
    from file_dataset._urls import Directory, Location, ObjectUrl

# For uploads that were interrupted to abort what they began; a guess.
_GRACE_S = 5.0


_LISTINGS_AHEAD = 16  # each has thousands of names; a guess


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to read: whose it is, for the failure's sake, where it lies, and the position of its row."""

    row_id: RowId
    file: str
    at: Location
    position: int


@dataclass(frozen=True, slots=True)
class WantedDirectory:
    """A directory of which it is wanted what is in it."""

    row_id: RowId
    file: str
    at: Directory
    position: int


def fill(transfers: Iterable[Transfer[str]], stores: Stores) -> None:
    """Copy every source into its local target, which has its name from the start.

    The targets are in a directory of the caller's own, which no other code looks into yet, and which goes when this
    fails.

    Raises:
        RowError: files that failed, every one of them.
    """
    with _Sinks(stores, threading.Event()) as sinks:
        for sink in sinks.filled((transfer, sinks.of(transfer)) for transfer in transfers):
            sink.commit()
            sinks.forget(sink)


def copy_out(transfers: Sequence[Transfer[Location]], stores: Stores, extra_args: Mapping[str, Any]) -> None:
    """Store every local source at its target; local targets are replaced all together or not at all.

    Raises:
        RowError: files that failed, every one of them, with the URL that was to be written, and what was replaced.
    """
    moving = Moving(transfers, stores, "upload", threading.Event())
    try:
        moving.store(extra_args, lambda: None)
        moving.wait()
        moving.finish_out()
    except BaseException:
        moving.abandon()
        raise


def abandon(rows: Sequence[Moving], cancelled: threading.Event) -> None:
    """Cancel what has begun of many rows, and leave no file behind but those that have their names."""
    cancelled.set()
    wait([begun for moving in rows for begun in moving.give_up()], timeout=_GRACE_S)
    for moving in rows:
        moving.discard()


class Moving:
    """The files of one row on their way to where they are stored.

    All are begun at once, or, where they are very many, another as one ends.
    """

    def __init__(
        self, transfers: Sequence[Transfer[Any]], stores: Stores, stage: Stage, cancelled: threading.Event
    ) -> None:
        """Begin nothing yet."""
        self._transfers, self._stores, self._stage, self._cancelled = transfers, stores, stage, cancelled
        self._sinks: list[Sink] = []  # where they are files that this process writes
        self._moves: _in_order.Together[ObjectInfo] | None = None
        self._is_given_up = self._only_new = False

    def store(self, extra_args: Mapping[str, Any], then: Callable[[], object], *, only_new: bool = False) -> None:
        """Begin to store every local source at its target; `only_new`: where nothing is there.

        Raises:
            RowError: a local target cannot be written.
        """
        self._only_new = only_new
        if any(isinstance(transfer.target, Path) for transfer in self._transfers):
            if only_new:
                _check_new(self._transfers)
            is_new: dict[str, bool] = {}
            self._sinks = [_sink_of(transfer, self._cancelled, is_new) for transfer in self._transfers]
            self._begin(self._download, then)
            return

        def upload(at: int) -> Future[ObjectInfo]:
            transfer = self._transfers[at]
            assert isinstance(transfer.source, LocalFile)  # noqa: S101  # the plan of an upload
            # there may be no store: no such profile
            store: RemoteStore[ObjectUrl] = self._stores.s3
            return store.upload(
                transfer.source, transfer.target, extra_args=extra_args, cancelled=self._cancelled, only_new=only_new
            )

        self._begin(upload, then)

    def _download(self, at: int) -> Future[ObjectInfo]:
        source = self._transfers[at].source
        return self._stores.of(source).download(source, self._sinks[at])

    def _begin(self, start: Callable[[int], Future[ObjectInfo]], then: Callable[[], object]) -> None:
        self._moves = _in_order.Together(len(self._transfers), start, self._stores, self._cancelled)
        self._moves.begin(then)

    @property
    def is_whole(self) -> bool:
        """Whether all have ended well."""
        return self._moves is not None and self._moves.is_whole and not self._is_given_up

    def silent(self) -> Iterator[tuple[Silence, str]]:
        """Yield what is waited for, and who knows for how long no byte has moved."""
        for at in [] if self._moves is None else self._moves.running:
            transfer = self._transfers[at]
            is_upload = self._stage == "upload" and not self._sinks
            place = transfer.target if is_upload else transfer.source
            shown = place.path if isinstance(place, LocalFile) else place
            yield self._stores.of(place).silence, str(shown)

    def wait(self) -> None:
        """Wait until all have ended; who is interrupted is to `abandon` them."""

        def silence() -> Silence:
            return next((one for one, _ in self.silent()), Silence())

        def late() -> str:
            return awaited([place for _, place in self.silent()])

        if self._moves is not None:
            self._moves.wait(silence, late)

    def abandon(self) -> None:
        """Cancel what has begun, and leave no file behind but those that have their names."""
        abandon([self], self._cancelled)

    def discard(self) -> None:
        """Leave no file behind, where all had ended."""
        for sink in self._sinks:
            sink.discard()

    def give_up(self) -> list[Future[ObjectInfo]]:
        """Leave no file behind; return the uploads that have begun, and abort what they began.

        `cancelled` is set. A download that is stalled is not waited for: it can write nothing any more.
        """
        begun = [] if self._moves is None else self._moves.cancel()
        if not self._sinks:
            return begun
        if not self.is_whole:
            self._is_given_up = True  # what ends well from now on has no file
            for sink in self._sinks:
                sink.discard()
        return []

    def forget(self) -> None:
        """Let go of what has ended: its callbacks refer to this, which would wait for the garbage collector."""
        self._moves, self._sinks = None, []

    def finish_out(self) -> list[ObjectInfo]:
        """Give local targets their names, and return what was stored.

        Raises:
            RowError: files that failed, every one of them, with the URL that was to be written, and what was replaced.
        """
        try:
            infos = self._infos()
            _check_unchanged(self._transfers, only_new=self._only_new)
            for transfer, sink in zip(self._transfers, self._sinks, strict=bool(self._sinks)):
                self._commit(transfer, sink)
        except RowError as exc:
            if self._sinks:
                for sink in self._sinks:
                    sink.take_back()
                    sink.discard()
                raise
            if self._only_new:  # the caller takes back what is stored
                raise
            failed = {failure.file for failure in exc.failures}
            replaced = [str(transfer.target) for transfer in self._transfers if transfer.file not in failed]
            if not replaced:
                raise
            # S3 has no transaction over objects: what is there now is not what was there before
            note = f" (stored before that, and listed nowhere: {', '.join(replaced)})"
            noted = [dataclasses.replace(failure, message=failure.message + note) for failure in exc.failures]
            raise RowError(noted) from exc.__cause__
        return infos

    def _commit(self, transfer: Transfer[Any], sink: Sink) -> None:
        try:
            if self._only_new:
                sink.commit_new()
            else:
                sink.commit()
        except OSError as exc:  # a directory lies there, say
            raise RowError([self._failure(transfer, exc)]) from exc

    def stored(self) -> dict[str, Location]:
        """Return where the files lie that are stored in S3, by name, also where others failed."""
        if self._sinks:
            return {}
        ended = [] if self._moves is None else self._moves.results
        return {self._transfers[at].file: self._transfers[at].target for at in ended}

    def _infos(self) -> list[ObjectInfo]:
        assert self._moves is not None  # noqa: S101  # it has begun
        failed = _in_order.FailedFiles(self._failure)
        for at, error in self._moves.errors():
            failed.add(self._transfers[at], error)
        if failed.all:
            raise failed.row_error()
        return [self._moves.results[at] for at in range(len(self._transfers))]

    def _failure(self, transfer: Transfer[Any], error: OSError) -> Failure:
        url = transfer.target if isinstance(transfer.source, LocalFile) else transfer.source
        return Failure.of(transfer.row_id, self._stage, error, file=transfer.file, url=url)


def _sink_of(transfer: Transfer[Any], cancelled: threading.Event, is_new: dict[str, bool]) -> Sink:
    """Return where a file goes that is to be stored on disk; its directory is made, and noted in `is_new`."""
    target = os.fspath(transfer.target)
    directory = target.rpartition("/")[0]
    try:
        if directory not in is_new:
            is_new[directory] = _make_directory(directory)
        # found now, no other file of the row has been replaced yet
        if not is_new[directory] and os.path.isdir(target):  # noqa: PTH112
            raise store_error(IsADirectoryError, f"{target} is a directory, which no file can replace")
    except OSError as exc:
        raise RowError([Failure.of(transfer.row_id, "upload", exc, file=transfer.file, url=target)]) from exc
    return Sink(target, cancelled)


def _check_new(transfers: Sequence[Transfer[Any]]) -> None:
    """See that nothing lies at local targets, before anything is copied; naming them sees it again.

    Raises:
        RowError: targets that are there, every one of them.
    """
    there = [transfer for transfer in transfers if os.path.lexists(transfer.target)]  # pathlib costs more
    if there:
        exists = exists_already()
        raise RowError(
            [Failure.of(each.row_id, "upload", exists, file=each.file, url=each.target) for each in there]
        ) from exists


def _check_unchanged(transfers: Sequence[Transfer[Any]], *, only_new: bool) -> None:
    """See that what was copied is still what it was: what is written on after its copy would be stored cut off.

    Raises:
        RowError: sources that are not, every one of them.
    """
    failed: list[tuple[Transfer[Any], OSError]] = []
    for transfer in transfers:
        if isinstance(transfer.source, LocalFile):
            try:
                transfer.source.check()
            except OSError as exc:
                failed.append((transfer, exc))
    if failed:
        changed = [_changed(transfer, error, only_new=only_new) for transfer, error in failed]
        raise RowError(changed) from failed[0][1]


def _changed(transfer: Transfer[Any], error: OSError, *, only_new: bool) -> Failure:
    failure = Failure.of(transfer.row_id, "upload", error, file=transfer.file, url=transfer.target)
    if isinstance(transfer.target, Path) or only_new:
        return failure
    note = f" ({transfer.target} was stored before that was seen: it may hold a part of the file, or two states of it)"
    return dataclasses.replace(failure, message=failure.message + note)


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
    failed = _in_order.FailedFiles[Wanted](_unread)
    yield from _in_order.tried(wanted, _info_from(stores), _place, failed, stores, threading.Event())
    if failed.fatal:
        raise RowError(failed.fatal) from failed.worst
    missing += failed.all


def listings(
    wanted: Iterable[WantedDirectory], stores: Stores, failed: list[tuple[WantedDirectory, Failure]]
) -> Iterator[tuple[WantedDirectory, Contents]]:
    """Yield what is in every directory, in order; one LIST per 1,000 objects.

    Args:
        wanted: the directories.
        stores: the stores that have them.
        failed: takes those without a file, and those that cannot be listed, with the reason, when all are requested.

    Raises:
        RowError: the store refuses these credentials, or there are none: nothing is known of any directory.
    """
    cancelled = threading.Event()
    unlisted = _in_order.FailedFiles[tuple[int, WantedDirectory]](lambda each, error: _unread(each[1], error))

    def listing(each: tuple[int, WantedDirectory]) -> Future[Listing]:
        at = each[1].at.at
        return stores.of(at).list(at, cancelled=cancelled)

    found = _in_order.tried(
        enumerate(wanted),
        listing,
        lambda each: each[1].at.at,
        unlisted,
        stores,
        cancelled,
        lambda each, first: each[0] > first[0] + _LISTINGS_AHEAD,
    )
    for each, objects in found:
        try:
            contents = _directories.contents(each[1].at, objects)
        except OSError as exc:
            unlisted.add(each, exc)
        else:
            yield each[1], contents
    if unlisted.fatal:
        raise RowError(unlisted.fatal) from unlisted.worst
    failed += [(each, failure) for (_, each), failure in unlisted.all]


def _info_from(stores: Stores) -> Callable[[Wanted], Future[ObjectInfo]]:
    return lambda file: stores.of(file.at).info(file.at)


def _place(file: Wanted) -> Location:
    return file.at


def _unread(file: Wanted | WantedDirectory, error: OSError) -> Failure:
    return Failure.of(file.row_id, "download", error, file=file.file, url=file.at)


class _Sinks:
    """The files that `fill` makes. What is not whole when it ends leaves nothing behind."""

    def __init__(self, stores: Stores, cancelled: threading.Event) -> None:
        self._stores, self._cancelled = stores, cancelled
        self._open: set[Sink] = set()
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
        """Fill each; yield them in order, as soon as they are there.

        Raises:
            RowError: files that failed, every one of them.
        """

        def download(pair: tuple[Transfer[Any], Sink]) -> Future[ObjectInfo]:
            transfer, sink = pair
            return self._stores.of(transfer.source).download(transfer.source, sink)

        def failure(pair: tuple[Transfer[Any], Sink], error: OSError) -> Failure:
            transfer, _ = pair
            return Failure.of(transfer.row_id, "download", error, file=transfer.file, url=transfer.source)

        for (_, sink), _ in _in_order.each(
            pairs, download, lambda pair: pair[0].source, failure, self._stores, self._cancelled
        ):
            yield sink

    def forget(self, sink: Sink) -> None:
        """Take note that a file is whole."""
        self._open.discard(sink)


def _make_directory(path: str) -> bool:
    """Make a directory and those above it; return whether it is new, so that nothing can lie in it."""
    try:
        os.mkdir(path)  # noqa: PTH102
    except FileExistsError:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103  # raises when it is a file
        return False
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        return False
    return True
