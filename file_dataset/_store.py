"""What a store is (`info`, `list`, `download`, `upload`, `remove`), as a GCS or Azure store would be; and `LocalStore`.

A request is submitted and answered by a Future. S3's store is in `_s3.store`; one of another kind would go beside it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from file_dataset import _digest, _urls
from file_dataset._errors import store_error
from file_dataset._local_file import LocalFile
from file_dataset._pool import Pool
from file_dataset._silence import Silence
from file_dataset._sink import ObjectInfo

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

    from file_dataset._sink import Sink
    from file_dataset._urls import Location

At_contra = TypeVar("At_contra", contravariant=True)

_LOCAL_THREADS = 8  # a guess: disks gain little from more


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing.

    `etag` is as in `ObjectInfo`, `modified` in ns since 1970; each is None where the store does not say it.
    """

    at: Location
    size_bytes: int
    etag: str | None = None
    modified: int | None = None


Listing: TypeAlias = "list[Listed]"  # stores have a method of the name `list`


class ObjectStore(Protocol[At_contra]):
    """What the shell reads from. Errors are `OSError`s, transient ones by their type."""

    silence: Silence

    def info(self, at: At_contra) -> Future[ObjectInfo]:
        """Answer what is known of the object without its bytes; its `digest` is a CRC, not the MD5 of an ETag."""

    def list(self, prefix: At_contra, *, cancelled: threading.Event | None = None) -> Future[Listing]:
        """Answer all objects below a directory, or whose key begins with that of a URL; none is no error."""

    def remove(self, at: At_contra, *, cancelled: threading.Event | None = None) -> Future[None]:
        """Remove one object; one that is not there is no error."""

    def download(self, source: At_contra, sink: Sink) -> Future[ObjectInfo]:
        """Fill the sink and have it prove the bytes; the caller commits or discards it."""


class RemoteStore(ObjectStore[At_contra], Protocol[At_contra]):
    """What the shell writes to as well. Not local disk: a local target is a sink, which `download` fills."""

    def upload(
        self,
        source: LocalFile,
        target: At_contra,
        *,
        extra_args: Mapping[str, Any],
        cancelled: threading.Event,
        only_new: bool = False,
    ) -> Future[ObjectInfo]:
        """Store a local file under `target`, whole or not at all; `only_new`: FileExistsError if anything is there."""


class LocalStore:
    """Local files behind the seam, on a small thread pool; a copy returns the CRC64NVME of what it copied."""

    def __init__(self) -> None:
        """Start no thread yet; the pool does when it is used."""
        self._pool = Pool(_LOCAL_THREADS, "file_dataset-local")
        self.silence = Silence()

    def info(self, at: Path) -> Future[ObjectInfo]:
        """Answer the size in bytes and when it was modified; nothing is read."""
        return self._pool.submit(self._info, at)

    def list(self, prefix: Path, *, cancelled: threading.Event | None = None) -> Future[Listing]:
        """Answer all files below a directory, in the order of their paths' bytes; none where it is not there.

        Links to directories are not followed; what is no file (a pipe, a link to nothing) is not listed.
        """
        return self._pool.submit(self._list, prefix, cancelled)

    def remove(self, at: Path, *, cancelled: threading.Event | None = None) -> Future[None]:
        """Remove the file; one that is not there is no error."""
        return self._pool.submit(self._remove, at, cancelled)

    def download(self, source: Path | LocalFile, sink: Sink) -> Future[ObjectInfo]:
        """Copy the file into the sink."""
        return self._pool.submit(_copy, source, sink, self.silence)

    def _info(self, at: Path) -> ObjectInfo:
        try:
            return _info(at)
        finally:
            self.silence.moved()

    def _list(self, prefix: Path, cancelled: threading.Event | None) -> Listing:
        _stop_if(cancelled)
        found: list[Listed] = []
        for each in _below(prefix):
            _stop_if(cancelled)
            self.silence.moved()
            found.append(each)
        return sorted(found, key=lambda each: os.fsencode(str(each.at)))

    def _remove(self, at: Path, cancelled: threading.Event | None) -> None:
        _stop_if(cancelled)
        try:
            at.unlink(missing_ok=True)
        finally:
            self.silence.moved()


def _stop_if(cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise InterruptedError("cancelled")


def _below(directory: Path) -> Iterator[Listed]:
    try:
        with os.scandir(directory) as entries:
            inside = list(entries)
    except FileNotFoundError:
        return
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))
            continue
        try:
            found = entry.stat()
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ELOOP):  # gone since, or a link to nothing
                raise
            continue
        if stat.S_ISREG(found.st_mode):
            yield Listed(Path(entry.path), found.st_size, modified=found.st_mtime_ns)


def _info(path: Path) -> ObjectInfo:
    return _info_of(_source_at(path))


def _info_of(source: LocalFile) -> ObjectInfo:
    return ObjectInfo(source.size_bytes, modified_ns=source.modified_ns)


def _source_at(path: Path) -> LocalFile:
    try:
        return LocalFile.at(path)
    except IsADirectoryError:
        raise store_error(IsADirectoryError, f"{path}: {_urls.DIRECTORY_REMEDY}") from None


def _copy(file: Path | LocalFile, sink: Sink, silence: Silence) -> ObjectInfo:
    source = file if isinstance(file, LocalFile) else _source_at(file)
    part = sink.begin(_info_of(source))
    hasher = _digest.hasher(_digest.ALGORITHMS[0])
    for chunk in source.chunks(0, source.size_bytes):
        part.write(chunk)
        hasher.update(chunk)
        silence.moved()
    return replace(sink.finish(), digest=hasher.digest())
