"""What a store is: `info`, `list`, `page`, `download`, `upload`, `remove`. And `LocalStore`.

A request is submitted and answered by a Future. S3's store is in `_s3.store`; one of another kind would go beside it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from file_dataset import _digest, _urls
from file_dataset._errors import FileChangedError, store_error
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
_REPLACEMENTS = 4  # of a file by another one while it is read, that are read in its place; a guess


class Listed(NamedTuple):
    """One object of a listing.

    `etag` is as in `ObjectInfo`, `modified` in ns since 1970; each is None where the store does not say it.
    """

    at: Location
    size_bytes: int
    etag: str | None = None
    modified: int | None = None


Listing: TypeAlias = "list[Listed]"  # stores have a method of the name `list`


@dataclass(frozen=True, slots=True)
class Span:
    """Which of a prefix's objects a listing has.

    Attributes:
        after: only keys that come after this one, in the order of their bytes.
        is_flat: only keys without a slash after the prefix; for the others `Page.below` has what they begin with.
    """

    after: str = ""
    is_flat: bool = False


ALL, FLAT = Span(), Span(is_flat=True)


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a listing.

    Attributes:
        found: the objects, in order.
        below: of a flat listing, what the other keys begin with, up to and with their next slash, in order; of a local
            directory, the paths of directories in it, those that links lead to among them.
        token: with which the next piece is requested; None: it is the last.
    """

    found: Listing
    below: list[str]
    token: str | None = None


class ObjectStore(Protocol[At_contra]):
    """What the shell reads from. Errors are `OSError`s, transient ones by their type."""

    silence: Silence

    def info(self, at: At_contra) -> Future[ObjectInfo]:
        """Answer what is known of the object without its bytes; its `digest` is a CRC, not the MD5 of an ETag."""

    def list(self, prefix: At_contra, *, cancelled: threading.Event | None = None) -> Future[Listing]:
        """Answer all objects below a directory, or whose key begins with that of a URL; none is no error."""

    def page(
        self,
        prefix: At_contra,
        span: Span = ALL,
        *,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> Future[Page]:
        """Answer the first piece of a listing, or that of a token; none is no error. Local disk has flat ones alone."""

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

    def page(
        self, prefix: Path, span: Span = FLAT, *, token: str | None = None, cancelled: threading.Event | None = None
    ) -> Future[Page]:
        """Answer what is in a directory, in the order of names' bytes: the whole of it; nothing where it is not there.

        What is no file and no directory (a pipe, a link to nothing) is left out.
        """
        assert span == FLAT, "of a local directory there is no other piece"  # noqa: S101
        assert token is None, "there is one page of it"  # noqa: S101
        return self._pool.submit(self._page, prefix, cancelled)

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

    def _page(self, directory: Path, cancelled: threading.Event | None) -> Page:
        _stop_if(cancelled)
        found: list[Listed] = []
        below: list[str] = []
        for entry in sorted(_inside(directory), key=lambda entry: os.fsencode(entry.name)):
            if (at := _stat(entry)) is None:
                continue
            if stat.S_ISDIR(at.st_mode):
                below.append(entry.path)
            elif (listed := _listed(entry, at)) is not None:
                found.append(listed)
        self.silence.moved()
        return Page(found, below)

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
    for entry in _inside(directory):
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))
        elif (found := _stat(entry)) is not None and (listed := _listed(entry, found)) is not None:
            yield listed


def _inside(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what an entry is, or leads to; None: it is gone since, or a link to nothing."""
    try:
        return entry.stat()
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return None


def _listed(entry: os.DirEntry[str], found: os.stat_result) -> Listed | None:
    """Return what there is to say of a file; None: it is no file."""
    return Listed(Path(entry.path), found.st_size, modified=found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _info(path: Path) -> ObjectInfo:
    return _info_of(_source_at(path))


def _info_of(source: LocalFile) -> ObjectInfo:
    return ObjectInfo(source.size_bytes, modified_ns=source.modified_ns)


def _source_at(path: Path) -> LocalFile:
    try:
        return LocalFile.at(path)
    except IsADirectoryError:
        raise store_error(IsADirectoryError, f"{path}: {_urls.ONE_FILE_REMEDY}") from None


def _copy(file: Path | LocalFile, sink: Sink, silence: Silence) -> ObjectInfo:
    if isinstance(file, LocalFile):
        return _copied(file, sink, silence)
    for _ in range(_REPLACEMENTS):
        source = _source_at(file)
        try:
            return _copied(source, sink, silence)
        except FileChangedError:
            # what took its name as a whole is read instead, as from S3; what is gone is FileNotFoundError
            if _source_at(file).identity[:2] == source.identity[:2]:
                raise  # the same file: something writes to it
    return _copied(_source_at(file), sink, silence)


def _copied(source: LocalFile, sink: Sink, silence: Silence) -> ObjectInfo:
    part = sink.begin(_info_of(source))
    hasher = _digest.hasher(_digest.ALGORITHMS[0])
    for chunk in source.chunks(0, source.size_bytes):
        part.write(chunk)
        hasher.update(chunk)
        silence.moved()
    return replace(sink.finish(), digest=hasher.digest())
