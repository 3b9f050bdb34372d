"""The files of one row on their way into its directory: directories are listed, then all files come, some at a time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from file_dataset import _directories, _in_order
from file_dataset._errors import Failure, RowError
from file_dataset._plan import Transfer
from file_dataset._sink import ObjectInfo, Sink
from file_dataset._urls import Directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from file_dataset._plan import FileRow
    from file_dataset._silence import Silence
    from file_dataset._sink import Part
    from file_dataset._store import Listing
    from file_dataset._stores import Stores

# Is called in any thread when the size of a file is known, or changes: with how many bytes more it takes than at the
# call before, and whether this is the first call for the file. A directory counts as one file.
Began: TypeAlias = Callable[[int, bool], object]


@dataclass(slots=True, eq=False)
class _Coming:
    """A file that is to come, or is coming."""

    transfer: Transfer[str]
    sink: Sink | None = None
    future: Future[ObjectInfo] | None = None


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file that is here; `is_member`: of a directory."""

    transfer: Transfer[str]
    info: ObjectInfo
    is_member: bool


class Arrival:
    """The files of one row.

    Of a row with thousands of files some are under way at a time, so that other rows have their share of connections.
    Where one of them has failed, no other begins: the row is lost.
    """

    __slots__ = (
        "__weakref__",
        "_arrived",
        "_asked",
        "_began",
        "_cancelled",
        "_failed",
        "_fault",
        "_files",
        "_has_ended",
        "_into",
        "_is_filling",
        "_is_given_up",
        "_lock",
        "_next",
        "_refused",
        "_row",
        "_running",
        "_stores",
        "_then",
    )  # fmt: skip

    def __init__(self, row: FileRow, into: str, stores: Stores, cancelled: threading.Event) -> None:
        """Begin nothing yet."""
        self._row, self._into, self._stores, self._cancelled = row, into, stores, cancelled
        self._lock = threading.Lock()  # of what follows
        self._asked: dict[str, tuple[Directory, Future[Listing]]] = {}  # directories, by their names
        self._files: list[_Coming] = []
        self._next = 0
        self._running: dict[int, _Coming] = {}
        self._arrived: dict[int, Arrived] = {}
        self._failed: _in_order.FailedFiles[tuple[str, object]] = _in_order.FailedFiles(self._failure)
        self._refused: list[Failure] = []
        self._fault: BaseException | None = None  # of ours
        self._is_given_up = self._is_filling = self._has_ended = False

    def begin(self, began: Began, then: Callable[[], object]) -> None:
        """Begin to list the directories, or to copy every source into its target, which has its name from the start.

        Args:
            began: hears of each file's size as soon as it is known.
            then: called when the last of them has ended, by the thread that ends it: it must not wait for anything.
        """
        self._began, self._then = began, then
        for name, at in self._row.files.items():
            if at is None:
                continue
            source = _directories.source_of(at)
            if isinstance(source, Directory):
                try:
                    future = self._stores.of(source.at).list(source.at, cancelled=self._cancelled)
                except OSError as exc:  # the store could not be reached at all: no credentials, say
                    self._failed.add((name, source), exc)
                else:
                    self._asked[name] = source, future
            else:
                self._files.append(_Coming(Transfer(self._row.id, name, source, f"{self._into}/{name}")))
        if self._asked:
            _in_order.AllEnd([future for _, future in self._asked.values()], self._listed)
        else:
            self._fill()

    def _listed(self) -> None:
        """Have what the listings say come. In a thread of a store, which drops what is raised in it."""
        try:
            for name, (directory, future) in self._asked.items():
                try:
                    found = _directories.contents(directory, future.result())
                except OSError as exc:
                    self._failed.add((name, directory), exc)
                except CancelledError:  # given up
                    return
                else:
                    self._take(name, found)
        except BaseException as exc:  # noqa: BLE001  # handed over
            self._fault = exc
        self._asked = {}
        self._fill()

    def _take(self, name: str, found: _directories.Contents) -> None:
        with self._lock:  # who gives up removes what is there
            if self._is_given_up:
                return
            refused = _directories.refused(self._row.id, name, found, functools.partial(_directories.folds, self._into))
            if refused:
                self._refused += refused
                return
            _directories.make(found, f"{self._into}/{name}")
        self._began(found.size_bytes, True)  # noqa: FBT003  # as `Began` has it
        self._files += map(_Coming, _directories.members(self._row.id, name, found, self._into))

    def _fill(self) -> None:
        """Begin what is next, as much as may be under way, and say so when all has ended. One thread at a time."""
        goes_on = True
        while goes_on:
            with self._lock:
                if self._is_filling:
                    return
                self._is_filling = True
            try:
                while self._begin_next():
                    pass
            except BaseException as exc:  # noqa: BLE001  # handed over
                self._fault = exc
            with self._lock:
                self._is_filling = False
                goes_on = self._may_begin() and self._has_room()  # what has ended meanwhile found this filling
                is_end = self._is_end()
            if is_end:
                self._then()

    def _begin_next(self) -> bool:
        with self._lock:
            if not (self._may_begin() and len(self._running) < self._stores.ahead):
                return False
            at, coming = self._next, self._files[self._next]
            self._next += 1
            is_announced = isinstance(coming.transfer, _directories.Member)  # with its directory
            target = coming.transfer.target
            coming.sink = (
                Sink(target, self._cancelled, is_alone=True)
                if is_announced
                else _Announced(target, self._cancelled, self._began)
            )
            sink = coming.sink
            self._running[at] = coming
        # the lock is not held: this can wait for new credentials, and what ends meanwhile for nothing
        try:
            future = self._stores.of(coming.transfer.source).download(coming.transfer.source, sink)
        except BaseException as exc:
            with self._lock:
                self._running.pop(at, None)
                if isinstance(exc, OSError):
                    self._failed.add((coming.transfer.file, coming.transfer.source), exc)
                    return True
            raise
        with self._lock:
            coming.future = future
            is_given_up = self._is_given_up
        if is_given_up:  # by a thread that did not find it
            future.cancel()
            sink.discard()
        future.add_done_callback(functools.partial(self._ended, at))
        return True

    def _may_begin(self) -> bool:
        if self._next == len(self._files) or self._fault is not None or self._is_given_up:
            return False
        is_lost = self._failed.all or self._refused
        # the few that columns name are tried all the same, so that each has its failure
        return not (is_lost and isinstance(self._files[self._next].transfer, _directories.Member))

    def _has_room(self) -> bool:
        return len(self._running) <= self._stores.ahead // 2

    def _is_end(self) -> bool:
        """Return whether all has ended, once."""
        if self._has_ended or self._is_given_up or self._is_filling or self._running or self._may_begin():
            return False
        self._has_ended = True
        return True

    def _ended(self, at: int, future: Future[ObjectInfo]) -> None:
        with self._lock:
            coming = self._running.pop(at, None)
            if coming is None:  # given up
                return
            try:
                self._note(at, coming, future)
            except BaseException as exc:  # noqa: BLE001  # handed over
                self._fault = exc
            goes_on = not self._is_filling and self._may_begin() and self._has_room()
            is_end = self._is_end()
        if is_end:
            self._then()
        elif goes_on:  # not here: to begin can take a while, and this thread moves bytes
            _in_order.elsewhere(self._fill)

    def _note(self, at: int, coming: _Coming, future: Future[ObjectInfo]) -> None:
        transfer, sink = coming.transfer, coming.sink
        assert sink is not None  # noqa: S101  # it has begun
        coming.sink = coming.future = None  # of thousands of files nothing is kept but what they are
        try:
            info = future.result()
            if (error := _directories.why_other(transfer, info)) is not None:
                raise error
        except OSError as exc:
            sink.discard()
            self._failed.add((transfer.file, transfer.source), exc)
        else:
            sink.commit()
            self._arrived[at] = Arrived(transfer, info, isinstance(transfer, _directories.Member))

    @property
    def has_any(self) -> bool:
        """Whether any file has come."""
        return bool(self._arrived)

    def finish(self) -> list[Arrived]:
        """Return what has come, in order, when all has ended.

        Raises:
            RowError: files that failed, every one of them that was tried.
        """
        if self._fault is not None:
            raise self._fault
        if self._failed.all or self._refused:
            error = self._failed.row_error() if self._failed.all else None
            raise RowError([*(error.failures if error else ()), *self._refused]) from error and error.__cause__
        return [self._arrived[at] for at in range(len(self._files))]

    def _failure(self, file: tuple[str, object], error: OSError) -> Failure:
        name, url = file
        return Failure.of(self._row.id, "download", error, file=name, url=url)

    def silent(self) -> Iterator[tuple[Silence, str]]:
        """Yield what is waited for, and who knows for how long no byte has moved."""
        for directory, listing in list(self._asked.values()):
            if not listing.done():
                yield self._stores.of(directory.at).silence, str(directory)
        for coming in list(self._running.values()):
            if coming.future is not None and not coming.future.done():
                source = coming.transfer.source
                yield self._stores.of(source).silence, str(source)

    def give_up(self) -> list[Future[ObjectInfo]]:
        """Leave no file behind that is not whole; return what is to be waited for: nothing. `cancelled` is set.

        What is stalled is not waited for: it can write nothing any more.
        """
        with self._lock:
            self._is_given_up = True
            running, self._running = list(self._running.values()), {}
        for _, listing in list(self._asked.values()):
            listing.cancel()
        for coming in running:
            if coming.future is not None:
                coming.future.cancel()
            if coming.sink is not None:
                coming.sink.discard()
        return []


class _Announced(Sink):
    """A sink that announces how many bytes are to come before they come."""

    __slots__ = ("_announced_bytes", "_began")

    def __init__(self, target: str, cancelled: threading.Event, began: Began) -> None:
        super().__init__(target, cancelled, is_alone=True)
        self._began = began
        self._announced_bytes: int | None = None

    def begin(self, info: ObjectInfo) -> Part:
        """Start at the first byte, and announce how many there are."""
        part = super().begin(info)
        before, self._announced_bytes = self._announced_bytes, info.size_bytes
        self._began(info.size_bytes - (before or 0), before is None)
        return part
