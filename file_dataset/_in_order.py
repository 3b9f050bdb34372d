"""Many requests submitted at once and answered in order; every failure is kept, and what is interrupted cancels them.

`_transfer` says what is requested.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from file_dataset import _per_process
from file_dataset._errors import RowError, is_fatal, is_unanswered
from file_dataset._pool import Pool
from file_dataset._silence import awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from file_dataset._errors import Failure
    from file_dataset._local_file import LocalFile
    from file_dataset._silence import Silence
    from file_dataset._stores import Stores
    from file_dataset._urls import Location

F = TypeVar("F")
T = TypeVar("T")

# How late a thread that waits for a transfer hears that another thread has cancelled it; a guess.
_POLL_S = 0.1
# Files of a row that are begun at once, and others when half of them have ended: a directory of 10,000 files takes no
# 10,000 requests in memory. A guess.
_TOGETHER = 256
_THREADS = 2  # that begin what follows; a guess: each does so for half of what is under way


def elsewhere(work: Callable[[], object]) -> None:
    """Have a thread begin requests, which can wait for new credentials; this one, where there can be no other."""
    pool = _per_process.shared("beginners", lambda: Pool(_THREADS, "file_dataset-begin"))
    try:
        pool.submit(work)
    except OSError:  # what waits for the requests would wait for ever
        work()


class AllEnd:
    """Calls a function when the last of some requests has ended, in the thread that ends it: it must not wait."""

    __slots__ = ("_left", "_lock", "_then")

    def __init__(self, requests: Sequence[Future[Any]], then: Callable[[], object]) -> None:
        """Take the requests, all of them begun; the function is called at once where none is under way."""
        self._then = then
        self._lock = threading.Lock()
        self._left = len(requests) + 1  # this thread too, until all are watched
        for request in requests:
            request.add_done_callback(self._one_ended)
        self._one_ended()

    def _one_ended(self, _: object = None) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        then, self._then = self._then, lambda: None  # which may refer to what holds the requests
        then()


class Together(Generic[T]):
    """Requests that belong together: begun at once, and, where they are very many, others when half have ended.

    What ends is taken note of by the thread that ends it, which moves bytes: another one begins what follows. After a
    failure none is begun that was not begun with the first ones.

    Attributes:
        results: what requests gave, by number; of those that ended well.
    """

    __slots__ = (
        "_cancelled",
        "_count",
        "_failed",
        "_first",
        "_is_over",
        "_late",
        "_lock",
        "_next",
        "_running",
        "_start",
        "_stores",
        "_then",
        "_turns",
        "results",
    )  # fmt: skip

    def __init__(
        self, count: int, start: Callable[[int], Future[T]], stores: Stores, cancelled: threading.Event
    ) -> None:
        """Begin nothing yet.

        Args:
            count: how many requests there are.
            start: begins one, by its number.
            stores: where they go.
            cancelled: no other one begins when it is set.
        """
        self._count, self._start, self._stores, self._cancelled = count, start, stores, cancelled
        self.results: dict[int, T] = {}
        self._failed: dict[int, BaseException] = {}
        self._running: dict[int, Future[T] | None] = {}  # None: `start` has not returned
        self._late: Future[None] | None = None  # stands for that one, when it is cancelled
        self._lock = threading.Lock()
        self._next = self._first = self._turns = 0
        self._is_over = False
        self._then: Callable[[], object] = _nothing

    def begin(self, then: Callable[[], object]) -> None:
        """Begin; `then` is called when the last has ended, by the thread that ends it: it must not wait."""
        self._then = then
        self._first = min(self._count, self._most)
        self._go_on()

    @property
    def _most(self) -> int:
        return max(_TOGETHER, self._stores.ahead)

    @property
    def begun(self) -> int:
        """How many have begun."""
        return self._next

    @property
    def is_whole(self) -> bool:
        """Whether all have ended well."""
        return len(self.results) == self._count

    @property
    def running(self) -> list[int]:
        """Those that have begun and not ended."""
        with self._lock:
            return list(self._running)

    def errors(self) -> Iterator[tuple[int, OSError]]:
        """Yield why some have failed; call it when all have ended.

        Raises:
            BaseException: what is no `OSError`: a fault of ours, or that of one that was cancelled.
            InterruptedError: some have not begun, because they were cancelled.
        """
        for at, error in sorted(self._failed.items()):
            if not isinstance(error, OSError):
                raise error
            yield at, error
        if not (self._failed or self.is_whole):
            raise InterruptedError("cancelled")

    def cancel(self) -> list[Future[Any]]:
        """Cancel what runs; return what is to be waited for, as it cannot be. `cancelled` is set."""
        with self._lock:
            begun = [future for future in self._running.values() if future is not None]
            if len(begun) < len(self._running) and self._late is None:
                self._late = Future()
            late = self._late
        return [*(future for future in begun if not future.cancel()), *([] if late is None else [late])]

    def _go_on(self) -> None:
        with self._lock:
            self._turns += 1
            if self._turns > 1:  # the thread that begins some goes on: a request may end before `start` returns
                return
        while True:
            self._begin_some()
            with self._lock:
                if self._turns == 1:
                    self._turns = 0
                    is_last = not (self._running or self._is_over or self._may_begin())
                    self._is_over |= is_last
                    break
                self._turns = 1
        if is_last:
            then, self._then = self._then, _nothing  # which may refer to what holds this
            self._start = _never
            then()

    def _begin_some(self) -> None:
        most = self._most
        while self._may_begin() and len(self._running) < most:
            at, self._next = self._next, self._next + 1
            with self._lock:
                self._running[at] = None
            try:
                future = self._start(at)
            except BaseException as exc:
                self._has_begun(at, None)
                if not isinstance(exc, Exception):
                    raise
                self._failed[at] = exc  # no credentials, say; a fault of ours `errors` raises
            else:
                self._has_begun(at, future)

    def _has_begun(self, at: int, future: Future[T] | None) -> None:
        """Take note of what `start` has returned, None: nothing; cancel it where `cancel` was called before."""
        with self._lock:
            if future is None:
                del self._running[at]
            else:
                self._running[at] = future
            late, self._late = self._late, None
        if future is not None:
            future.add_done_callback(functools.partial(self._one_ended, at))
        if late is None:
            return
        if future is None or future.cancel():
            late.set_result(None)
        else:
            future.add_done_callback(lambda _: late.set_result(None))

    def _may_begin(self) -> bool:
        if self._cancelled.is_set():
            return False
        return self._next < self._first or (self._next < self._count and not self._failed)

    def _one_ended(self, at: int, future: Future[T]) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        with self._lock:
            if error is None:
                self.results[at] = future.result()
            else:
                self._failed[at] = error
            del self._running[at]  # when it is noted: another thread may be the one that ends the last
            if self._turns:
                self._turns += 1  # the thread that begins some looks once more
                return
            begins = self._may_begin()
            if begins and len(self._running) > self._most // 2:
                return
        if begins:
            elsewhere(self._go_on)
        else:
            self._go_on()


def _nothing() -> None:
    pass


def _never(_: int) -> Any:  # noqa: ANN401  # of no request
    raise AssertionError("all have ended")


class FailedFiles(Generic[F]):
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

    def row_error(self) -> RowError:
        """Return the error that has all of them."""
        error = RowError([one for _, one in self.all])
        error.__cause__ = self.worst
        return error


def each(  # noqa: PLR0913, PLR0917  # what to do, what to report, when to stop, how much at once
    files: Iterable[F],
    start: Callable[[F], Future[T]],
    place: Callable[[F], Location | LocalFile],
    failure: Callable[[F, OSError], Failure],
    stores: Stores,
    cancelled: threading.Event,
) -> Iterator[tuple[F, T]]:
    """Start every file's transfer and yield its result, in order and as soon as it is there.

    Args:
        files: what is to be moved; looked at when its turn comes.
        start: submits one of them.
        place: the location that is waited for.
        failure: makes the Failure of one that failed.
        stores: the stores of these locations, and how many are started before the first has ended.
        cancelled: set when this is interrupted; another thread may set it.

    Raises:
        RowError: files that failed, every one of them; raised at the end.
        InterruptedError: cancelled.
    """
    failed = FailedFiles(failure)
    yield from tried(files, start, place, failed, stores, cancelled)
    if failed.all:
        raise failed.row_error()


def tried(  # noqa: PLR0913, PLR0917  # the same, and where failures go
    files: Iterable[F],
    start: Callable[[F], Future[T]],
    place: Callable[[F], Location | LocalFile],
    failed: FailedFiles[F],
    stores: Stores,
    cancelled: threading.Event,
    is_far: Callable[[F, F], bool] = lambda _file, _first: False,
) -> Iterator[tuple[F, T]]:
    """Do what `each` does, with `failed` for the files that failed.

    A file does not begin while `is_far(file, first)`, `first` being the first of those that have begun and not been
    yielded.
    """
    running: deque[tuple[F, Future[T]]] = deque()

    def to_end(future: Future[T]) -> Iterable[None]:
        if future.done():
            return ()
        return _waiting(future, cancelled, lambda: stores.of(place(running[0][0])).silence, late)

    def late() -> str:
        return awaited([str(place(file)) for file, future in running if not future.done()])

    try:
        for file in files:
            if len(running) >= (ahead := stores.ahead):  # it grows with what is in flight
                yield from _ended(running, ahead // 2, failed, to_end)
            while running and is_far(file, running[0][0]):
                yield from _ended(running, len(running) - 1, failed, to_end)
            try:
                running.append((file, start(file)))
            except OSError as exc:  # the store could not be reached at all: no credentials, say
                failed.add(file, exc)
        yield from _ended(running, 0, failed, to_end)
        # a transfer's own InterruptedError is no failure of its row
        check(cancelled)
    except BaseException:
        cancelled.set()
        for _, future in running:
            future.cancel()
        raise


def _ended(
    running: deque[tuple[F, Future[T]]],
    left: int,
    failed: FailedFiles[F],
    to_end: Callable[[Future[T]], Iterable[None]],
) -> Iterator[tuple[F, T]]:
    """Take those from `running` that have ended, in order, until `left` are running; yield them, or note a failure."""
    while len(running) > left:
        # the last of them is waited for: this thread wakes seldom, and leaves the loop's thread alone until then
        for _ in to_end(running[-left - 1][1]):
            while len(running) > left and running[0][1].done():
                yield from _first(running, failed)
        while len(running) > left:
            for _ in to_end(running[0][1]):
                pass
            yield from _first(running, failed)


def _first(running: deque[tuple[F, Future[T]]], failed: FailedFiles[F]) -> Iterator[tuple[F, T]]:
    """Take the first, which has ended, from `running`; yield it, or note a failure."""
    file, future = running.popleft()
    try:
        found = file, future.result()
    except OSError as exc:
        failed.add(file, exc)
        return
    finally:
        del file, future  # what they hold can be large
    yield found


def wait_for(
    future: Future[Any], cancelled: threading.Event, silence: Callable[[], Silence], late: Callable[[], str]
) -> None:
    """Wait until a request has ended.

    Raises:
        InterruptedError: cancelled.
    """
    for _ in _waiting(future, cancelled, silence, late):
        pass


def _waiting(
    future: Future[Any], cancelled: threading.Event, silence: Callable[[], Silence], late: Callable[[], str]
) -> Iterator[None]:
    """Wait until a request has ended; yield ten times a second until then."""
    # not result(timeout=...): the transfer's own TimeoutError would look the same
    wait([future], timeout=_POLL_S)
    check(cancelled)
    if future.done():
        return
    watch = silence()
    with watch.waits():
        while not future.done():
            yield
            wait([future], timeout=_POLL_S)
            check(cancelled)
            watch.look(late)


def check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise InterruptedError("cancelled")
