"""The seam: a store answers `size`, `download` and `upload`, each *submitted* and answered by a Future.

Bytes arrive in a sink, which proves them: length always, digest where there is one. A sink that holds the first part of
an object lets the next attempt go on from there. `attempt` is the only place that retries.
"""

from __future__ import annotations

import random
import secrets
import shutil
import stat
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from file_dataset import _digest, _urls
from file_dataset._errors import (
    ChecksumMismatchError,
    IncompleteBodyError,
    InvalidDatasetError,
    is_disk_full,
    is_transient,
    store_error,
)
from file_dataset._pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from file_dataset._digest import Digest, Hasher

T = TypeVar("T")
At_contra = TypeVar("At_contra", contravariant=True)

CHUNK_BYTES = 1 << 20  # a guess: large enough that Python's share of a copy does not show
_LOCAL_THREADS = 8  # a guess: disks gain little from more
# Full jitter, as botocore's standard mode: a random share of BACKOFF_S, doubled per attempt, at most 20 s
# (https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html). 0.5 s is a guess.
BACKOFF_S = 0.5
_BACKOFF_MAX_S = 20.0


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of one object. `digest` is that of the whole body, None where the store offers none."""

    size_bytes: int
    etag: str | None = None
    digest: Digest | None = None


class ObjectStore(Protocol[At_contra]):
    """What the shell reads from. Errors are `OSError`s, transient ones by their type."""

    def size(self, at: At_contra) -> Future[int]:
        """Answer the size in bytes."""

    def download(self, source: At_contra, sink: Sink) -> Future[ObjectInfo]:
        """Fill the sink and have it prove the bytes; the caller commits or discards it."""


class RemoteStore(ObjectStore[At_contra], Protocol[At_contra]):
    """What the shell writes to as well. Local disk is none: a local target is a sink, which `download` fills."""

    def upload(
        self, source: Path, target: At_contra, *, extra_args: Mapping[str, Any], cancelled: threading.Event
    ) -> Future[ObjectInfo]:
        """Store a local file under `target`, whole or not at all."""


def attempt(request: Callable[[], T], *, attempts: int, cancelled: threading.Event) -> T:
    """Return what the request returns, after at most `attempts` attempts.

    Raises:
        OSError: the last attempt's error, or the first that another attempt cannot help.
        InterruptedError: cancelled while waiting for the next attempt.
    """
    for number in range(1, attempts + 1):
        try:
            return request()
        except OSError as exc:
            if cancelled.is_set() or not is_transient(exc):
                raise
            if number == attempts:
                exc.strerror = f"{exc.strerror or exc} (after {number} attempts)"
                raise
        # not for cryptography: jitter keeps clients from coming back all at once
        delay = random.random() * min(_BACKOFF_MAX_S, BACKOFF_S * 2**number)  # noqa: S311
        if cancelled.wait(delay):
            break
    raise InterruptedError("cancelled")


class Sink:
    """Where the bytes of one object go: a file that gets its name when it is whole, or memory.

    A sink belongs to one transfer; attempts on it follow each other. `received` and the ETag in `info` tell the next
    attempt where the last one broke off.
    """

    def __init__(self, target: Path | None, cancelled: threading.Event, *, limit_bytes: int | None = None) -> None:
        """Take the file's final name, or None for memory, where a body may have at most `limit_bytes`."""
        self.info: ObjectInfo | None = None
        self.received = 0
        self.data = bytearray()
        self.cancelled = cancelled
        self._target, self._limit_bytes = target, limit_bytes
        self._part: Path | None = None
        self._file: BinaryIO | None = None
        self._hasher: Hasher | None = None
        self._lock = threading.Lock()

    def restart(self) -> int:
        """Have the next attempt start at the first byte; return how many bytes are given up."""
        given_up, self.received = self.received, 0
        return given_up

    def begin(self, info: ObjectInfo) -> None:
        """Start at the first byte of a body.

        Raises:
            InvalidDatasetError: the body is larger than `limit_bytes`.
            OSError: the file cannot be made.
            InterruptedError: cancelled.
        """
        self.info, self.received = info, 0
        self._hasher = _digest.hasher(info.digest.algorithm) if info.digest else None
        if self._limit_bytes is not None and info.size_bytes > self._limit_bytes:
            raise InvalidDatasetError(
                f"a blob of {info.size_bytes} bytes does not fit pa.binary(), which ends at {self._limit_bytes} bytes: "
                "ask for into_blob_table(large=True)"
            )
        if self._target is None:
            self.data = bytearray(info.size_bytes)
            return
        with self._lock:  # discard() may come from another thread
            if self.cancelled.is_set():
                raise InterruptedError("cancelled")
            if self._file is None:
                # a name that no reader takes for a whole file, in the same directory, so that replace() is atomic
                self._part = self._target.with_name(f".{secrets.token_hex(8)}.part")
                self._file = self._part.open("xb", buffering=0)
            self._file.seek(0)
            self._file.truncate()

    def write(self, chunk: bytes) -> None:
        """Add the next bytes.

        Raises:
            OSError: the disk is full.
            InterruptedError: cancelled.
        """
        if self.cancelled.is_set():
            raise InterruptedError("cancelled")
        view = memoryview(chunk)
        if self._hasher is not None:
            self._hasher.update(view)
        end = self.received + len(view)
        if self._target is None:
            self.data[self.received : end] = view
        elif self._file is not None:
            try:
                while view:
                    view = view[self._file.write(view) :]
            except OSError as exc:
                raise self._explained(exc) from exc
        self.received = end

    def finish(self) -> ObjectInfo:
        """Prove the body: its length, and its digest where the store offered one.

        Raises:
            IncompleteBodyError: bytes are missing; the next attempt may go on from here.
            ChecksumMismatchError: bytes are wrong; the next attempt starts again.
        """
        info = self.info
        assert info is not None, "begin() comes first"  # noqa: S101
        if self.received < info.size_bytes:
            raise IncompleteBodyError(None, f"{self.received} of {info.size_bytes} bytes arrived")
        found = self._hasher.digest() if self._hasher else None
        if self.received > info.size_bytes or (found is not None and found != info.digest):
            arrived = self.restart()
            raise ChecksumMismatchError(
                None,
                f"{arrived} bytes arrived with digest {found}, the store has {info.size_bytes} with {info.digest}; "
                "check_digests=False turns digests off for a store whose ETags look like MD5 and are none",
            )
        if self._file is not None:
            self._file.close()
        return info

    def commit(self) -> None:
        """Put the file under its final name, replacing what was there."""
        if self._part is not None and self._target is not None:
            self._part.replace(self._target)
            self._part = None

    def discard(self) -> None:
        """Leave no file behind; nothing after `commit`."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            if self._part is not None:
                self._part.unlink(missing_ok=True)
                self._part = None

    def _explained(self, error: OSError) -> OSError:
        if not is_disk_full(error) or self._target is None or self.info is None:
            return error
        free = shutil.disk_usage(self._target.parent).free
        need = f"{self._target.name} is {self.info.size_bytes} bytes, {free} are free in {self._target.parent}"
        return OSError(error.errno, f"no space left on device: {need}")


class LocalStore:
    """Local files behind the seam, on a small thread pool; a copy tells the CRC64NVME of what it copied."""

    def __init__(self) -> None:
        """Start no thread yet; the pool does when it is used."""
        self._pool = Pool(_LOCAL_THREADS, "file_dataset-local")

    def size(self, at: Path) -> Future[int]:
        """Answer the size in bytes."""
        return self._pool.submit(_size, at)

    def download(self, source: Path, sink: Sink) -> Future[ObjectInfo]:
        """Copy the file into the sink."""
        return self._pool.submit(_copy, source, sink)


def _size(path: Path) -> int:
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise store_error(IsADirectoryError, f"{path}: {_urls.DIRECTORY_REMEDY}")
    if not stat.S_ISREG(found.st_mode):
        raise store_error(OSError, f"{path} is no regular file")
    return found.st_size


def _copy(source: Path, sink: Sink) -> ObjectInfo:
    sink.begin(ObjectInfo(_size(source)))
    hasher = _digest.hasher(_digest.ALGORITHMS[0])
    with source.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            sink.write(chunk)
            hasher.update(memoryview(chunk))
    return replace(sink.finish(), digest=hasher.digest())
