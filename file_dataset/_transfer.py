"""The shell: which store has a location, and many transfers at once: submit, wait, commit, tell every failure.

Everything that touches a byte goes through here. What is interrupted cancels what it started and leaves no file behind.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from file_dataset import _options, _process
from file_dataset._errors import Failure, RowError, is_fatal, store_error
from file_dataset._options import Options
from file_dataset._store import LocalStore, ObjectInfo, Sink
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from file_dataset._errors import RowId, Stage
    from file_dataset._plan import Transfer
    from file_dataset._s3 import S3Store
    from file_dataset._store import ObjectStore, RemoteStore
    from file_dataset._urls import Location

T = TypeVar("T")

# Submitted ahead of what the pool works on, so that it never waits for us; a guess that keeps 200,000 files in bounds.
_AHEAD = 256
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
        if self._options is None:
            self._options = Options.default()
        options = self._options
        # brings botocore along, which local work does without
        from file_dataset._s3 import S3Store

        return _process.recent(("s3", _options.identity(options)), lambda: S3Store(options))


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
    sinks = [_sink(transfer, cancelled, stage) for transfer in transfers]
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


def read_all(wanted: Sequence[Wanted], stores: Stores, *, limit_bytes: int | None) -> list[bytearray]:
    """Return the bytes of every file, in order; one of them may have at most `limit_bytes`.

    Raises:
        RowError: files that failed, every one of them.
    """
    cancelled = threading.Event()
    sinks = [Sink(None, cancelled, limit_bytes=limit_bytes) for _ in wanted]
    _collect("download", wanted, [_download(stores, w.at, s) for w, s in zip(wanted, sinks, strict=True)], cancelled)
    return [sink.data for sink in sinks]


def sizes(wanted: Sequence[Wanted], stores: Stores) -> list[int]:
    """Return the size of every file in bytes, in order; one HEAD each.

    Raises:
        RowError: files that failed, every one of them.
    """

    def size(at: Location) -> Callable[[], Future[int]]:
        return lambda: stores.of(at).size(at)

    return _collect("download", wanted, [size(w.at) for w in wanted], threading.Event())


def _sink(transfer: Transfer, cancelled: threading.Event, stage: Stage) -> Sink:
    target = transfer.target
    assert isinstance(target, Path)  # noqa: S101  # the plan of a download
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():  # found now, no other file of the row has been replaced yet
            raise store_error(IsADirectoryError, f"{target} is a directory, which no file can replace")
    except OSError as exc:
        raise RowError([Failure.of(transfer.row_id, stage, exc, file=transfer.file, url=target)]) from exc
    return Sink(target, cancelled)


def _download(stores: Stores, source: Location, sink: Sink) -> Callable[[], Future[ObjectInfo]]:
    return lambda: stores.of(source).download(source, sink)


def _result(future: Future[T], cancelled: threading.Event) -> T:
    while not wait([future], timeout=_POLL_S).done:
        if cancelled.is_set():
            raise InterruptedError("cancelled")
    if cancelled.is_set():  # the transfer's own InterruptedError is no failure of its row
        raise InterruptedError("cancelled")
    return future.result()


def _collect(
    stage: Stage, wanted: Sequence[Wanted], submits: Iterable[Callable[[], Future[T]]], cancelled: threading.Event
) -> list[T]:
    results: list[T] = []
    failed: list[tuple[Wanted, OSError]] = []
    running: deque[tuple[Wanted, Future[T]]] = deque()

    def take() -> None:
        file, future = running[0]
        try:
            results.append(_result(future, cancelled))
        except OSError as exc:
            failed.append((file, exc))
        running.popleft()

    try:
        for file, submit in zip(wanted, submits, strict=True):
            if len(running) >= _AHEAD:
                take()
            try:
                running.append((file, submit()))
            except OSError as exc:  # the store could not be reached at all: no credentials, say
                failed.append((file, exc))
        while running:
            take()
    except BaseException:
        cancelled.set()
        # an upload that has noticed aborts what it began; a stalled one is not waited for
        started = [future for _, future in running if not future.cancel()]
        if stage == "upload":
            wait(started, timeout=_GRACE_S)
        raise
    if failed:
        failures = [Failure.of(file.row_id, stage, exc, file=file.file, url=file.at) for file, exc in failed]
        errors = [exc for _, exc in failed]
        raise RowError(failures) from next(filter(is_fatal, errors), errors[0])
    return results
