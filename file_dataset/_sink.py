"""Where the bytes of one object go (a file or memory), and the proof that they are all there: length and digest.

A sink that holds the first part of an object lets the next attempt continue from there.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import secrets
import shutil
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from file_dataset import _digest
from file_dataset._errors import (
    ChecksumMismatchError,
    IncompleteBodyError,
    InvalidDatasetError,
    exists_already,
    is_disk_full,
    store_error,
)
from file_dataset._local_file import CHUNK_BYTES

if TYPE_CHECKING:
    from file_dataset._digest import Digest, Hasher

# names of what is not whole yet; a forked child has its own number of process
_TOKEN = secrets.token_hex(8)
_numbers = itertools.count()


# file systems without hard links answer link(2) so (FAT, some network mounts)
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store has of one object.

    `etag` has no quotes, and is None where it pins no bytes; `sent_etag` is what the store sent. `digest` is that of
    the whole body, None where the store offers none. `version_id` is None in a bucket that never kept versions; "null"
    is the version of an object that was there before. `modified_ns` is a local file's own, as it was when it was
    opened.
    """

    size_bytes: int
    etag: str | None = None
    digest: Digest | None = None
    sent_etag: str | None = None
    version_id: str | None = None
    modified_ns: int | None = None
    md5: Digest | None = field(default=None, compare=False, repr=False)  # of a HEAD's ETag that is one

    @property
    def pin(self) -> str | None:
        """What `If-Match` sends: the ETag as it came, for some stores compare it with an ETag without quotes."""
        return self.etag and (self.sent_etag or f'"{self.etag}"')


def part_name() -> str:
    """Return a name that no reader takes for what is whole."""
    return f".{_TOKEN}-{os.getpid()}-{next(_numbers)}.part"


class Sink:
    """Where the bytes of one object go: a file that gets its name when it is whole, or memory.

    A sink belongs to one transfer. It is filled by one part from the first byte to the last; other connections take
    parts off its end (`cut`). What a part has, and the ETag in `info`, show the next attempt where the last one broke
    off.
    """

    __slots__ = (
        "_fd",
        "_is_alone",
        "_is_closing",
        "_is_first",
        "_limit_bytes",
        "_named",
        "_path",
        "_target",
        "_unpinned",
        "_writers",
        "cancelled",
        "comes_in_parts",
        "data",
        "info",
        "lock",
        "parts",
    )  # fmt: skip

    def __init__(
        self,
        target: str | os.PathLike[str] | None,
        cancelled: threading.Event,
        *,
        limit_bytes: int | None = None,
        is_alone: bool = False,
        is_first: bool = False,
    ) -> None:
        """Take where the bytes go.

        Args:
            target: the file's final name; None: memory.
            cancelled: ends what fills it.
            limit_bytes: the most bytes that may go to memory.
            is_alone: no other code looks at the file, or at another of that name, before all are there: it has its
                name from the start, and makes its directory in the thread that fills it. A caller that did so between
                two requests would fight that thread for the GIL.
            is_first: of those that are alone in its directory, which is not there yet, as far as one can tell.
        """
        self.info: ObjectInfo | None = None
        self.parts: list[Part] = []
        self.comes_in_parts = True  # False: the store answers ranges with something else, or not at all
        self._unpinned: str | None = None  # an ETag that the store has refused to go on with
        self.data: bytearray | mmap.mmap = bytearray()
        self.cancelled = cancelled
        self._target, self._limit_bytes = None if target is None else os.fspath(target), limit_bytes
        self._path: str | None = None  # what there is to remove
        self._named: tuple[int, int] | None = None  # device and inode of the file that has its name by `commit_new`
        self._fd, self._writers, self._is_closing = -1, 0, False
        self._is_alone, self._is_first = is_alone, is_first
        self.lock = threading.Lock()  # of the file, and of the ends of parts

    @property
    def received(self) -> int:
        """Bytes that are here."""
        parts = self.parts
        return parts[0].received if len(parts) == 1 else sum(part.received for part in parts)

    @property
    def is_memory(self) -> bool:
        """Whether bytes go to memory."""
        return self._target is None

    def restart(self) -> int:
        """Have the next attempt start at the first byte; return how many bytes are given up."""
        given_up, self.parts, self.info = self.received, [], None
        return given_up

    def lose_version(self) -> bool:
        """Start again: the store refuses the version begun with. Return whether it was replaced, as far as is known.

        Where the next attempt meets the very same ETag, the store does not know it in `If-Match`: no parts then.
        """
        before, self._unpinned = self._unpinned, self.info.etag if self.info else None
        self.restart()
        return before is not None and before != self._unpinned

    def missing(self) -> list[Part]:
        """Return the parts that can be gone on with; none: the object is read from its first byte, all of it."""
        if self.info is None:  # nothing was begun
            return []
        if self.info.etag is None or not self.received or not self.comes_in_parts:
            self.restart()
            return []
        missing = [part for part in self.parts if part.wants() > 0]
        for part in missing:
            part.claimed = part.received  # what was claimed and lost comes again
        return sorted(missing, key=Part.first)

    def begin(self, info: ObjectInfo) -> Part:
        """Start at the first byte of a body; return the part that is the whole of it.

        Raises:
            InvalidDatasetError: the body is larger than `limit_bytes`.
            OSError: the file cannot be made, or the body is larger than any memory.
            InterruptedError: cancelled.
        """
        if self.cancelled.is_set():
            raise InterruptedError("cancelled")
        if self._limit_bytes is not None and info.size_bytes > self._limit_bytes:
            raise InvalidDatasetError(
                f"a blob of {info.size_bytes} bytes does not fit pa.binary(), which ends at {self._limit_bytes} bytes: "
                "ask for into_blob_table(large=True)"
            )
        self.info = info
        if info.etag is not None and info.etag == self._unpinned:
            self.comes_in_parts = False
        if self._target is None:
            self.data = bytearray()  # what an earlier attempt has brought goes first
            self.data = _memory(info.size_bytes)
        else:
            self._make_file()
        part = Part(self, 0, info.size_bytes)
        self.parts = [part]
        return part

    def _make_file(self) -> None:
        target = self._target
        assert target is not None  # noqa: S101  # memory makes no file
        with self.lock:  # discard() may come from another thread
            if self.cancelled.is_set():
                raise InterruptedError("cancelled")
            if self._fd >= 0:
                os.ftruncate(self._fd, 0)
                return
            directory, slash, _ = target.rpartition("/")
            if self._is_alone:
                self._path = target
                self._fd = _new_file_below(directory, target, is_first=self._is_first)
                return
            self._path = f"{directory}{slash}{part_name()}"  # in the same directory, so that replace() is atomic
            self._fd = _new_file(self._path)

    def cut(self, part: Part, count: int) -> Part:
        """End a part `count` bytes earlier and return the part that has these bytes, for another connection.

        The lock is held: `part.left()` was at least so many.
        """
        stop, part.stop = part.stop, part.stop - count
        more = Part(self, part.stop, stop)
        self.parts.append(more)
        return more

    def put(self, position: int, chunk: memoryview) -> None:
        """Store bytes of the object from `position` on.

        Raises:
            OSError: the disk is full.
        """
        if self._target is None:
            self.data[position : position + len(chunk)] = chunk
            return
        with self.lock:
            if self._fd < 0 or self._is_closing:  # discarded meanwhile: the number may be another file's by now
                raise InterruptedError("cancelled")
            self._writers += 1
        try:
            while chunk:
                count = os.pwrite(self._fd, chunk, position)
                position += count
                chunk = chunk[count:]
        except OSError as exc:
            raise self._explained(exc) from exc
        finally:
            with self.lock:
                self._writers -= 1
                is_last = self._is_closing and not self._writers
            if is_last:
                self._close()

    def finish(self) -> ObjectInfo:
        """Prove the body: its length, and its digest where the store offered one.

        Raises:
            IncompleteBodyError: bytes are missing; the next attempt may go on from here.
            ChecksumMismatchError: bytes are wrong; the next attempt starts again.
        """
        info = self.info
        assert info is not None, "begin() comes first"  # noqa: S101
        received = self.received
        if received < info.size_bytes:
            raise IncompleteBodyError(None, f"{received} of {info.size_bytes} bytes arrived")
        parts = sorted(self.parts, key=Part.first)
        found = _digest.joined([(part.hasher, part.stop - part.start) for part in parts if part.hasher])
        if received > info.size_bytes or (found is not None and found != info.digest):
            self.restart()
            raise ChecksumMismatchError(
                None,
                f"{received} bytes arrived with digest {found}, the store has {info.size_bytes} with {info.digest}; "
                "check_digests=False turns digests off for a store whose ETags look like MD5s and are not",
            )
        self._close()
        self.parts = []  # they refer to this sink, and would leave its bytes to the garbage collector
        return info

    def commit(self) -> None:
        """Put the file under its final name, replacing what was there."""
        if self._path is not None and self._target is not None:
            if not self._is_alone:
                os.replace(self._path, self._target)  # noqa: PTH105  # pathlib costs more than the call
            self._path = None

    def commit_at(self, target: str) -> None:
        """Put the file under a name of another directory of the same disk, replacing what was there."""
        assert self._path is not None, "finish() comes first"  # noqa: S101
        os.replace(self._path, target)  # noqa: PTH105  # the same
        self._path = None

    def commit_new(self) -> None:
        """Put the file under its final name, where nothing has that name.

        Raises:
            FileExistsError: something has.
        """
        path, target = self._path, self._target
        assert path is not None and target is not None, "finish() comes first"  # noqa: PT018, S101
        found = os.lstat(path)
        _name_new(path, target)
        self._path, self._named = None, (found.st_dev, found.st_ino)

    def take_back(self) -> None:
        """Remove the file that `commit_new` has named; nothing where there is another by now."""
        if self._named is None or self._target is None:
            return
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self._target)
            if (found.st_dev, found.st_ino) == self._named:
                os.unlink(self._target)  # noqa: PTH108  # the path is text

    def discard(self) -> None:
        """Leave no file behind; nothing after `commit`."""
        self._close()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108  # the same
            self._path = None

    def _close(self) -> None:
        with self.lock:
            self._is_closing = True
            if self._fd >= 0 and not self._writers:
                os.close(self._fd)
                self._fd = -1

    def _explained(self, error: OSError) -> OSError:
        if not is_disk_full(error) or self._target is None or self.info is None:
            return error
        directory = os.path.dirname(self._target) or "."  # noqa: PTH120  # the target is text
        free = shutil.disk_usage(directory).free
        name = os.path.basename(self._target)  # noqa: PTH119
        need = f"{name} is {self.info.size_bytes} bytes, {free} are free in {directory}"
        return OSError(error.errno, f"no space left on device: {need}")


def _memory(size_bytes: int) -> bytearray | mmap.mmap:
    """Return room for a body. What is large costs no memory before its bytes arrive: the store may lie about it."""
    if size_bytes < CHUNK_BYTES:
        return bytearray(size_bytes)
    try:
        return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as exc:
        message = f"no memory for a blob of {size_bytes} bytes: read it into a file, by into_temp_dir()"
        raise store_error(OSError, message) from exc


def _name_new(path: str, target: str) -> None:
    # a rename would replace what another process puts there meanwhile
    try:
        os.link(path, target)
    except FileExistsError:
        raise exists_already() from None
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):  # the path is text
            raise exists_already() from None
        os.rename(path, target)  # noqa: PTH104
    else:
        os.unlink(path)  # noqa: PTH108


def _new_file(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _new_file_below(directory: str, path: str, *, is_first: bool) -> int:
    if is_first:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.mkdir(directory)  # noqa: PTH102  # the path is text
    try:
        return _new_file(path)
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103  # the same
        return _new_file(path)


class Part:
    """A run of bytes of one object, `start` to `stop`, that arrives in order over one connection at a time.

    While it arrives, bytes that its connection has not claimed may be cut off its end. `received` counts what was
    written.
    """

    __slots__ = ("claimed", "hasher", "received", "sink", "start", "stop")

    def __init__(self, sink: Sink, start: int, stop: int) -> None:
        """Start with nothing."""
        digest = sink.info.digest if sink.info else None
        self.sink, self.start, self.stop, self.received, self.claimed = sink, start, stop, 0, 0
        self.hasher: Hasher | None = _digest.hasher(digest.algorithm) if digest else None

    def write(self, chunk: bytes | memoryview) -> None:
        """Add the next bytes.

        Raises:
            OSError: the disk is full.
            InterruptedError: cancelled.
        """
        if self.sink.cancelled.is_set():
            raise InterruptedError("cancelled")
        view = memoryview(chunk)
        if self.hasher is not None:
            self.hasher.update(view)
        self.sink.put(self.start + self.received, view)
        self.received += len(view)

    def first(self) -> int:
        """Return the position of its first byte, by which parts are sorted."""
        return self.start

    def wants(self) -> int:
        """Return how many bytes are missing."""
        return self.stop - self.start - self.received

    def left(self) -> int:
        """Return how many bytes its connection has not claimed."""
        return self.stop - self.start - max(self.claimed, self.received)

    def claim(self, most: int) -> int:
        """Return how many of the next bytes, `most` at most, the connection may take: they are not cut off any more."""
        with self.sink.lock:
            count = min(most, self.stop - self.start - self.claimed)
            self.claimed += count
        return count

    def settle(self, unused: int) -> int:
        """Give back what was claimed and did not come; return how many bytes are unclaimed."""
        with self.sink.lock:
            self.claimed -= unused
            return self.stop - self.start - self.claimed

    def room(self) -> memoryview | None:
        """Return where in memory the bytes to come go, and `arrived` reports that they are there; None: to a file."""
        if not self.sink.is_memory:
            return None
        return memoryview(self.sink.data)[self.start + self.received : self.stop]

    def arrived(self, chunk: memoryview) -> None:
        """Count bytes that lie in their place already."""
        if self.hasher is not None:
            self.hasher.update(chunk)
        self.received += len(chunk)
