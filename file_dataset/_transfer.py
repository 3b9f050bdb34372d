"""The shell: which store has a location, and many transfers at once: submit, wait, commit, tell every failure.

Everything that touches a byte goes through here. What is interrupted cancels what it started and leaves no file behind.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from file_dataset import _options, _process
from file_dataset._errors import Failure, RowError, is_fatal, store_error
from file_dataset._options import Options
from file_dataset._store import LocalStore, ObjectInfo, Sink
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from file_dataset._errors import RowId, Stage
    from file_dataset._plan import Transfer
    from file_dataset._s3 import S3Store
    from file_dataset._store import ObjectStore, RemoteStore
    from file_dataset._urls import Location

T = TypeVar("T")

# Submitted ahead of what is in flight, so that no connection waits for us; a guess that keeps 200,000 files in bounds.
_AHEAD = 1024
# How late a thread that waits for a transfer hears that another thread has cancelled it; a guess.
_POLL_S = 0.1
# For uploads that were interrupted to abort what they began; a guess.
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to read: whose it is, for the failure's sake, and where it lies."""

    row_id: RowId
    file: str
    at: Location


class Stores:
    """The stores of one call. S3 is resolved when the first S3 location comes, so local work needs no credentials."""

    def __init__(self, options: Options | None) -> None:
        """Take the user's options; None stands for `Options.default()`, read once, when it is needed."""
        self._options = options
        self._s3: tuple[int, S3Store] | None = None

    def of(self, at: Location) -> ObjectStore[Any]:
        """Return the store that has `at`."""
        if isinstance(at, Path):
            return _process.shared("local", LocalStore)
        return self.s3

    @property
    def endpoint(self) -> str | None:
        """Where S3 is reached; None: AWS."""
        self._options = self._options or Options.default()
        url: str | None = (self._options.s3_client_kwargs or {}).get("endpoint_url")
        return url

    @property
    def s3(self) -> S3Store:
        """The S3 store of these options."""
        if self._s3 is None or self._s3[0] != os.getpid():
            self._options = options = self._options or Options.default()
            # brings botocore along, which local work does without
            from file_dataset._s3 import S3Store

            store = _process.recent(("s3", _options.identity(options)), lambda: S3Store(options))
            self._s3 = os.getpid(), store
        return self._s3[1]


def copy_in(
    transfers: Sequence[Transfer],
    stores: Stores,
    *,
    stage: Stage = "download",
    cancelled: threading.Event | None = None,
) -> list[ObjectInfo]:
    """Copy every source into its local target; all of them get their names, or none.

    Raises:
        RowError: files that failed, every one of them.
        InterruptedError: another thread has set `cancelled`.
    """
    cancelled = cancelled or threading.Event()
    sinks = _sinks(transfers, cancelled, stage)
    try:
        submits = [_download(stores, transfer.source, sink) for transfer, sink in zip(transfers, sinks, strict=True)]
        wanted = [Wanted(transfer.row_id, transfer.file, transfer.source) for transfer in transfers]
        infos = _collect(stage, wanted, submits, cancelled)
        for transfer, sink in zip(transfers, sinks, strict=True):
            try:
                sink.commit()
            except OSError as exc:  # a directory lies there, say
                raise RowError(
                    [Failure.of(transfer.row_id, stage, exc, file=transfer.file, url=transfer.target)]
                ) from exc
    finally:
        for sink in sinks:
            sink.discard()
    return infos


def copy_out(
    transfers: Sequence[Transfer],
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

    def upload(transfer: Transfer) -> Callable[[], Future[ObjectInfo]]:
        source, target = transfer.source, transfer.target
        assert isinstance(source, Path)  # noqa: S101  # the plan of an upload
        assert isinstance(target, ObjectUrl)  # noqa: S101
        store: RemoteStore[ObjectUrl] = stores.s3
        return lambda: store.upload(source, target, extra_args=extra_args, cancelled=cancelled)

    wanted = [Wanted(transfer.row_id, transfer.file, transfer.target) for transfer in transfers]
    try:
        return _collect("upload", wanted, [upload(transfer) for transfer in transfers], cancelled)
    except RowError as exc:
        failed = {failure.file for failure in exc.failures}
        replaced = [str(transfer.target) for transfer in transfers if transfer.file not in failed]
        if not replaced:
            raise
        # S3 has no transaction over objects: what is there now is not what was there before
        note = f" (stored before that, and listed nowhere: {', '.join(replaced)})"
        told = [dataclasses.replace(failure, message=failure.message + note) for failure in exc.failures]
        raise RowError(told) from exc.__cause__


def read_each(wanted: Sequence[Wanted], stores: Stores, *, limit_bytes: int | None) -> Iterator[bytearray]:
    """Yield the bytes of every file, in order; one of them may have at most `limit_bytes`. Nothing is kept of them.

    Raises:
        RowError: files that failed, every one of them.
    """
    cancelled = threading.Event()

    def submit(at: Location) -> Callable[[], Future[bytearray]]:
        return lambda: _filled(stores.of(at), at, Sink(None, cancelled, limit_bytes=limit_bytes))

    return _each("download", wanted, (submit(each.at) for each in wanted), cancelled)


def _filled(store: ObjectStore[Any], at: Location, sink: Sink) -> Future[bytearray]:
    """Download into memory; the Future gives the bytes and keeps nothing else."""
    filled: Future[bytearray] = Future()

    def end(download: Future[ObjectInfo]) -> None:
        if (error := download.exception()) is not None:
            filled.set_exception(error)
        else:
            filled.set_result(sink.data)

    store.download(at, sink).add_done_callback(end)
    return filled


def sizes(wanted: Sequence[Wanted], stores: Stores) -> list[int]:
    """Return the size of every file in bytes, in order; one HEAD each.

    Raises:
        RowError: files that failed, every one of them.
    """

    def size(at: Location) -> Callable[[], Future[int]]:
        return lambda: stores.of(at).size(at)

    return _collect("download", wanted, [size(w.at) for w in wanted], threading.Event())


def _sinks(transfers: Sequence[Transfer], cancelled: threading.Event, stage: Stage) -> list[Sink]:
    """Return where the files go; their directories are made."""
    is_new: dict[str, bool] = {}
    sinks = []
    for transfer in transfers:
        target = os.fspath(transfer.target)  # type: ignore[arg-type]  # the plan of a download
        directory = os.path.dirname(target)  # noqa: PTH120  # a path object costs more than what is asked of it
        try:
            if directory not in is_new:
                is_new[directory] = _make_directory(directory)
            # found now, no other file of the row has been replaced yet
            if not is_new[directory] and os.path.isdir(target):  # noqa: PTH112
                raise store_error(IsADirectoryError, f"{target} is a directory, which no file can replace")
        except OSError as exc:
            raise RowError([Failure.of(transfer.row_id, stage, exc, file=transfer.file, url=target)]) from exc
        sinks.append(Sink(target, cancelled))
    return sinks


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


def _download(stores: Stores, source: Location, sink: Sink) -> Callable[[], Future[ObjectInfo]]:
    return lambda: stores.of(source).download(source, sink)


def _collect(
    stage: Stage, wanted: Sequence[Wanted], submits: Iterable[Callable[[], Future[T]]], cancelled: threading.Event
) -> list[T]:
    """Return every result, in order.

    Raises:
        RowError: files that failed, every one of them.
    """
    return list(_each(stage, wanted, submits, cancelled))


def _each(
    stage: Stage, wanted: Sequence[Wanted], submits: Iterable[Callable[[], Future[T]]], cancelled: threading.Event
) -> Iterator[T]:
    """Yield every result, in order and as soon as it is there; failures are told at the end, all of them."""
    running = _Running[T](cancelled)
    try:
        for file, submit in zip(wanted, submits, strict=True):
            if len(running.futures) >= _AHEAD:
                yield from running.ended(_AHEAD // 2)
            running.start(file, submit)
        yield from running.ended(0)
        running.check_cancelled()
    except BaseException:
        cancelled.set()
        # an upload that has noticed aborts what it began; a stalled one is not waited for
        started = [future for _, future in running.futures if not future.cancel()]
        if stage == "upload":
            wait(started, timeout=_GRACE_S)
        raise
    if running.failed:
        failures = [Failure.of(file.row_id, stage, exc, file=file.file, url=file.at) for file, exc in running.failed]
        errors = [exc for _, exc in running.failed]
        raise RowError(failures) from next(filter(is_fatal, errors), errors[0])


class _Running(Generic[T]):
    """Transfers that were started, in order, and how those that ended have failed."""

    def __init__(self, cancelled: threading.Event) -> None:
        self.futures: deque[tuple[Wanted, Future[T]]] = deque()
        self.failed: list[tuple[Wanted, OSError]] = []
        self._cancelled = cancelled

    def start(self, file: Wanted, submit: Callable[[], Future[T]]) -> None:
        try:
            self.futures.append((file, submit()))
        except OSError as exc:  # the store could not be reached at all: no credentials, say
            self.failed.append((file, exc))

    def ended(self, left: int) -> Iterator[T]:
        """Yield what has ended, in order, until `left` are running."""
        while len(self.futures) > left:
            # the last of them is waited for: this thread wakes once, and leaves the loop's thread alone until then
            self._wait(self.futures[-left - 1][1])
            while len(self.futures) > left:
                file, future = self.futures[0]
                self._wait(future)
                try:
                    result = future.result()
                except OSError as exc:
                    self.failed.append((file, exc))
                    self.futures.popleft()
                else:
                    del future
                    self.futures.popleft()
                    yield result
                    del result  # it can be large

    def check_cancelled(self) -> None:
        """Raise when it is: a transfer's own InterruptedError is no failure of its row."""
        if self._cancelled.is_set():
            raise InterruptedError("cancelled")

    def _wait(self, future: Future[T]) -> None:
        while not future.done():
            # not result(timeout=...): the transfer's own TimeoutError would look the same
            wait([future], timeout=_POLL_S)
            self.check_cancelled()
