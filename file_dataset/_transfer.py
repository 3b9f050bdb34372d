"""Many transfers at once: submit, wait, commit, report every failure. `_stores` has the store of each location.

Everything that touches a byte goes through here. What is interrupted cancels what it started and leaves no file behind.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

from file_dataset._errors import Failure, RowError, is_fatal, is_unanswered, store_error
from file_dataset._local_file import LocalFile
from file_dataset._sink import ObjectInfo, Sink
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from file_dataset._errors import RowId, Stage
    from file_dataset._plan import Transfer
    from file_dataset._silence import Silence
    from file_dataset._sink import Part
    from file_dataset._store import RemoteStore
    from file_dataset._stores import Stores
    from file_dataset._urls import Location

F = TypeVar("F")
T = TypeVar("T")

# How late a thread that waits for a transfer hears that another thread has cancelled it; a guess.
_POLL_S = 0.1
# For uploads that were interrupted to abort what they began; a guess.
_GRACE_S = 5.0


# Hears, in whatever thread, by how many bytes more than it has heard a file is to take, and whether that is the first
# it hears of it.
Began: TypeAlias = Callable[[int, bool], object]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to read: whose it is, for the failure's sake, where it lies, and the position of its row."""

    row_id: RowId
    file: str
    at: Location
    position: int


def copy_in(
    transfers: Sequence[Transfer[Any]],
    stores: Stores,
    *,
    stage: Stage = "download",
    cancelled: threading.Event | None = None,
    began: Began | None = None,
) -> list[ObjectInfo]:
    """Copy every source into its local target; all of them get their names, or none.

    Args:
        transfers: the files.
        stores: the stores that have them.
        stage: at which what fails fails.
        cancelled: another thread may set it.
        began: hears of each file's size as soon as the store has said it.

    Raises:
        RowError: files that failed, every one of them.
        InterruptedError: another thread has set `cancelled`.
    """
    with _Sinks(stores, stage, cancelled or threading.Event(), began) as sinks:
        infos = []
        filled = []
        for transfer, sink, info in sinks.filled([(transfer, sinks.of(transfer)) for transfer in transfers]):
            filled.append((transfer, sink))
            infos.append(info)
        _check_unchanged(transfers)
        for transfer, sink in filled:
            sinks.commit(transfer, sink)
    return infos


def fill(transfers: Iterable[Transfer[str]], stores: Stores) -> None:
    """Copy every source into its local target, which has its name from the start.

    The targets are in a directory of the caller's own, which no other code looks into yet, and which goes when this
    fails.

    Raises:
        RowError: files that failed, every one of them.
    """
    with _Sinks(stores, "download", threading.Event()) as sinks:
        for _, sink, _ in sinks.filled((transfer, sinks.alone(transfer)) for transfer in transfers):
            sink.commit()
            sinks.forget(sink)


def copy_out(
    transfers: Sequence[Transfer[Location]],
    stores: Stores,
    extra_args: Mapping[str, Any],
    *,
    cancelled: threading.Event | None = None,
) -> list[ObjectInfo]:
    """Store every local source at its target; local targets are replaced all together or not at all.

    Raises:
        RowError: files that failed, every one of them, with the URL that was to be written, and what was replaced.
        InterruptedError: another thread has set `cancelled`.
    """
    if any(isinstance(transfer.target, Path) for transfer in transfers):
        return copy_in(transfers, stores, stage="upload", cancelled=cancelled)
    cancelled = cancelled or threading.Event()

    def upload(transfer: Transfer[Location]) -> Future[ObjectInfo]:
        source, target = transfer.source, transfer.target
        assert isinstance(source, LocalFile)  # noqa: S101  # the plan of an upload
        assert isinstance(target, ObjectUrl)  # noqa: S101
        store: RemoteStore[ObjectUrl] = stores.s3  # which there may be none of: no such profile
        return store.upload(source, target, extra_args=extra_args, cancelled=cancelled)

    def failure(transfer: Transfer[Location], error: OSError) -> Failure:
        return Failure.of(transfer.row_id, "upload", error, file=transfer.file, url=transfer.target)

    try:
        each = _each(transfers, upload, lambda each: each.target, failure, stores, cancelled, grace_s=_GRACE_S)
        infos = [info for _, info in each]
        _check_unchanged(transfers)
    except RowError as exc:
        failed = {failure.file for failure in exc.failures}
        replaced = [str(transfer.target) for transfer in transfers if transfer.file not in failed]
        if not replaced:
            raise
        # S3 has no transaction over objects: what is there now is not what was there before
        note = f" (stored before that, and listed nowhere: {', '.join(replaced)})"
        noted = [dataclasses.replace(failure, message=failure.message + note) for failure in exc.failures]
        raise RowError(noted) from exc.__cause__
    return infos


def _check_unchanged(transfers: Sequence[Transfer[Any]]) -> None:
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
        raise RowError([_changed(transfer, error) for transfer, error in failed]) from failed[0][1]


def _changed(transfer: Transfer[Any], error: OSError) -> Failure:
    failure = Failure.of(transfer.row_id, "upload", error, file=transfer.file, url=transfer.target)
    if isinstance(transfer.target, Path):
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
    cancelled = threading.Event()

    def read(pair: tuple[Wanted, Sink]) -> Future[ObjectInfo]:
        file, sink = pair
        return stores.of(file.at).download(file.at, sink)

    def failure(pair: tuple[Wanted, Sink], error: OSError) -> Failure:
        return _unread(pair[0], error)

    pairs = ((file, Sink(None, cancelled, limit_bytes=limit_bytes)) for file in wanted)
    return (
        (pair[0], pair[1].data) for pair, _ in _each(pairs, read, lambda pair: pair[0].at, failure, stores, cancelled)
    )


def sizes(wanted: Iterable[Wanted], stores: Stores) -> Iterator[tuple[Wanted, int]]:
    """Yield the size of every file in bytes, in order; one HEAD each.

    Raises:
        RowError: files that failed, every one of them.
    """
    infos = _each(wanted, _info_from(stores), _place, _unread, stores, threading.Event())
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
    failed = _Failed(_unread)
    yield from _tried(wanted, _info_from(stores), _place, failed, stores, threading.Event())
    if failed.fatal:
        raise RowError(failed.fatal) from failed.worst
    missing += failed.all


def _info_from(stores: Stores) -> Callable[[Wanted], Future[ObjectInfo]]:
    return lambda file: stores.of(file.at).info(file.at)


def _place(file: Wanted) -> Location:
    return file.at


def _unread(file: Wanted, error: OSError) -> Failure:
    return Failure.of(file.row_id, "download", error, file=file.file, url=file.at)


class _Told(Sink):
    """A sink that says how many bytes are to come before they come."""

    __slots__ = ("_began", "_told_bytes")

    def __init__(self, target: str, cancelled: threading.Event, began: Began) -> None:
        super().__init__(target, cancelled)
        self._began = began
        self._told_bytes: int | None = None

    def begin(self, info: ObjectInfo) -> Part:
        """Start at the first byte, and say how many there are."""
        part = super().begin(info)
        told, self._told_bytes = self._told_bytes, info.size_bytes
        self._began(info.size_bytes - (told or 0), told is None)
        return part


class _Sinks:
    """The files that one call makes. What it leaves without a name when it ends leaves nothing behind."""

    def __init__(self, stores: Stores, stage: Stage, cancelled: threading.Event, began: Began | None = None) -> None:
        self._stores, self._stage, self._cancelled, self._began = stores, stage, cancelled, began
        self._is_new: dict[str, bool] = {}  # directories that were made, and whether something may lie in them
        self._open: set[Sink] = set()
        self._last = ""  # directory of a file that is alone: a row's come one after the other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._open:
            sink.discard()

    def of(self, transfer: Transfer[Any]) -> Sink:
        """Return where a file goes; its directory is made."""
        target = os.fspath(transfer.target)
        directory = target.rpartition("/")[0]
        try:
            if directory not in self._is_new:
                self._is_new[directory] = _make_directory(directory)
            # found now, no other file of the row has been replaced yet
            if not self._is_new[directory] and os.path.isdir(target):  # noqa: PTH112
                raise store_error(IsADirectoryError, f"{target} is a directory, which no file can replace")
        except OSError as exc:
            failure = Failure.of(transfer.row_id, self._stage, exc, file=transfer.file, url=target)
            raise RowError([failure]) from exc
        sink = Sink(target, self._cancelled) if self._began is None else _Told(target, self._cancelled, self._began)
        self._open.add(sink)
        return sink

    def alone(self, transfer: Transfer[str]) -> Sink:
        """Return where a file goes that no other code looks at yet, and that makes its directory by itself."""
        directory = transfer.target.rpartition("/")[0]
        sink = Sink(transfer.target, self._cancelled, is_alone=True, is_first=directory != self._last)
        self._last = directory
        self._open.add(sink)
        return sink

    def filled(self, pairs: Iterable[tuple[Transfer[Any], Sink]]) -> Iterator[tuple[Transfer[Any], Sink, ObjectInfo]]:
        """Fill each; yield them in order, as soon as they are there.

        Raises:
            RowError: files that failed, every one of them.
        """

        def download(pair: tuple[Transfer[Any], Sink]) -> Future[ObjectInfo]:
            transfer, sink = pair
            return self._stores.of(transfer.source).download(transfer.source, sink)

        def failure(pair: tuple[Transfer[Any], Sink], error: OSError) -> Failure:
            transfer, _ = pair
            url = transfer.target if isinstance(transfer.source, LocalFile) else transfer.source
            return Failure.of(transfer.row_id, self._stage, error, file=transfer.file, url=url)

        for (transfer, sink), info in _each(
            pairs, download, lambda pair: pair[0].source, failure, self._stores, self._cancelled
        ):
            yield transfer, sink, info

    def commit(self, transfer: Transfer[Any], sink: Sink) -> None:
        """Give a file its name.

        Raises:
            RowError: a directory lies there, say.
        """
        try:
            sink.commit()
        except OSError as exc:
            failure = Failure.of(transfer.row_id, self._stage, exc, file=transfer.file, url=transfer.target)
            raise RowError([failure]) from exc
        self.forget(sink)

    def forget(self, sink: Sink) -> None:
        """Take note that a file has its name."""
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


class _Failed(Generic[F]):
    """The files that failed, as failures. Of their errors one is kept: each holds the frames of its traceback, 5 KB.

    Attributes:
        all: every file that failed, and why.
        fatal: the failures that every later row would meet too.
        worst: the first error of those that predict most of the rows to come.
    """

    def __init__(self, failure: Callable[[F, OSError], Failure]) -> None:
        self._failure = failure
        self.all: list[tuple[F, Failure]] = []
        self.fatal: list[Failure] = []
        self.worst: OSError | None = None
        self._rank: tuple[bool, bool] = False, False

    def add(self, file: F, error: OSError) -> None:
        """Take a file."""
        failure = self._failure(file, error)
        self.all.append((file, failure))
        rank = is_fatal(error), is_unanswered(error)
        if rank[0]:
            self.fatal.append(failure)
        if self.worst is None or rank > self._rank:
            self.worst, self._rank = error, rank


def _each(  # noqa: PLR0913, PLR0917  # what to do, what to report, when to stop, how much at once
    files: Iterable[F],
    start: Callable[[F], Future[T]],
    place: Callable[[F], Location | LocalFile],
    failure: Callable[[F, OSError], Failure],
    stores: Stores,
    cancelled: threading.Event,
    *,
    grace_s: float = 0.0,
) -> Iterator[tuple[F, T]]:
    """Start every file's transfer and yield its result, in order and as soon as it is there.

    Args:
        files: what is to be moved; looked at when its turn comes.
        start: submits one of them.
        place: the location that is waited for.
        failure: makes the Failure of one that failed.
        stores: the stores of these locations, and how many are started before the first has ended.
        cancelled: set when this is interrupted; another thread may set it.
        grace_s: how long those that are interrupted are waited for.

    Raises:
        RowError: files that failed, every one of them; raised at the end.
        InterruptedError: cancelled.
    """
    failed = _Failed(failure)
    yield from _tried(files, start, place, failed, stores, cancelled, grace_s=grace_s)
    if failed.all:
        raise RowError([one for _, one in failed.all]) from failed.worst


def _tried(  # noqa: PLR0913, PLR0917  # the same, and where failures go
    files: Iterable[F],
    start: Callable[[F], Future[T]],
    place: Callable[[F], Location | LocalFile],
    failed: _Failed[F],
    stores: Stores,
    cancelled: threading.Event,
    *,
    grace_s: float = 0.0,
) -> Iterator[tuple[F, T]]:
    """Do what `_each` does, with `failed` for the files that failed."""
    running: deque[tuple[F, Future[T]]] = deque()

    def to_end(future: Future[T]) -> None:
        if not future.done():
            _wait(future, cancelled, lambda: stores.of(place(running[0][0])).silence, awaited)

    def awaited() -> str:
        late = [file for file, future in running if not future.done()]
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        first = place(late[0]) if late else "the last of them"
        return f"{first.path if isinstance(first, LocalFile) else first}{more}"

    try:
        for file in files:
            if len(running) >= (ahead := stores.ahead):  # it grows with what is in flight
                yield from _ended(running, ahead // 2, failed, to_end)
            try:
                running.append((file, start(file)))
            except OSError as exc:  # the store could not be reached at all: no credentials, say
                failed.add(file, exc)
        yield from _ended(running, 0, failed, to_end)
        # a transfer's own InterruptedError is no failure of its row
        _check(cancelled)
    except BaseException:
        cancelled.set()
        # an upload that has noticed aborts what it began; a stalled one is not waited for
        begun = [future for _, future in running if not future.cancel()]
        wait(begun, timeout=grace_s)
        raise


def _ended(
    running: deque[tuple[F, Future[T]]],
    left: int,
    failed: _Failed[F],
    to_end: Callable[[Future[T]], None],
) -> Iterator[tuple[F, T]]:
    """Take those from `running` that have ended, in order, until `left` are running; yield them, or note a failure."""
    while len(running) > left:
        # the last of them is waited for: this thread wakes once, and leaves the loop's thread alone until then
        to_end(running[-left - 1][1])
        while len(running) > left:
            to_end(running[0][1])
            file, future = running.popleft()
            try:
                found = file, future.result()
            except OSError as exc:
                failed.add(file, exc)
                continue
            finally:
                del file, future  # what they hold can be large
            yield found
            del found


def _wait(
    future: Future[Any], cancelled: threading.Event, silence: Callable[[], Silence], awaited: Callable[[], str]
) -> None:
    # not result(timeout=...): the transfer's own TimeoutError would look the same
    wait([future], timeout=_POLL_S)
    _check(cancelled)
    if future.done():
        return
    watch = silence()
    with watch.waits():
        while not future.done():
            wait([future], timeout=_POLL_S)
            _check(cancelled)
            watch.look(awaited)


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise InterruptedError("cancelled")
