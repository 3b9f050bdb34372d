"""A local file that is to be stored: looked at once, and the same file until its last byte has gone out."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from file_dataset._errors import FileChangedError, store_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# a link or a pipe that took the file's place is neither followed nor waited for
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
CHUNK_BYTES = 1 << 20  # a guess: large enough that Python's share of a copy does not show
_REMEDY = "what writes to it must end before: close the file, join the thread, wait for the process"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A regular file as it was when it was looked at: `identity` is device, inode, bytes, and the times of changes.

    A change is seen where the file system shows one. Most keep times to a few ms at best: bytes rewritten in place
    within that time of the look are not seen.
    """

    path: str
    identity: tuple[int, int, int, int, int]
    links: int  # names that it has

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> LocalFile:
        """Look at a file; links are followed, now and not again.

        Raises:
            FileNotFoundError: there is none.
            IsADirectoryError: a directory.
            OSError: no regular file, or one that cannot be looked at.
        """
        text = os.fspath(path)
        try:
            found = os.lstat(text)
            if stat.S_ISLNK(found.st_mode):
                text = os.path.realpath(text)
                found = os.lstat(text)
        except ValueError:  # a null byte, or what no file system's encoding holds
            raise store_error(FileNotFoundError, f"{text!r} is no path") from None
        if stat.S_ISDIR(found.st_mode):
            raise store_error(IsADirectoryError, f"{text} is a directory")
        if not stat.S_ISREG(found.st_mode) or (not found.st_size and _has_bytes(text)):
            raise store_error(
                OSError, f"{text} is no regular file (a pipe, a device, a socket, a file of the kernel's)"
            )
        return cls(text, _identity(found), found.st_nlink)

    @property
    def size_bytes(self) -> int:
        """Return how many bytes it has."""
        return self.identity[2]

    @property
    def modified_ns(self) -> int:
        """When its bytes were last changed, in nanoseconds since 1970."""
        return self.identity[3]

    def open(self) -> int:
        """Return a descriptor of the file.

        Raises:
            FileChangedError: another file is there now, or it has changed.
            OSError: it cannot be opened.
        """
        fd = self._opened()
        try:
            self.check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self, fd: int | None = None) -> None:
        """See that the file, or what was opened, is still what was looked at.

        Raises:
            FileChangedError: it is not.
        """
        try:
            found = os.lstat(self.path) if fd is None else os.fstat(fd)
        except (FileNotFoundError, NotADirectoryError):
            raise self._changed("it was removed") from None
        if (now := _identity(found)) != self.identity:
            raise self._changed(_difference(self.identity, now))

    def read(self, first: int, length: int) -> bytes:
        """Return bytes of the file, which has not changed until they are here.

        Raises:
            FileChangedError: it has.
            OSError: it cannot be read.
        """
        fd = self._opened()
        try:
            try:
                found = os.pread(fd, length, first)
            finally:
                self.check(fd)
        finally:
            os.close(fd)
        if len(found) < length:
            raise self.is_short()
        return found

    def chunks(self, first: int, length: int) -> Iterator[memoryview]:
        """Yield bytes of the file, in one buffer; it has not changed until the last are here.

        Raises:
            FileChangedError: it has.
            OSError: it cannot be read.
        """
        buffer = memoryview(bytearray(min(length, CHUNK_BYTES)))
        fd = self.open()
        try:
            done = 0
            while done < length:
                count = os.preadv(fd, [buffer[: length - done]], first + done)
                if count == 0:
                    self.check(fd)
                    raise self.is_short()
                done += count
                yield buffer[:count]
            self.check(fd)
        finally:
            os.close(fd)

    def is_short(self) -> OSError:
        """Return the error of a file that says it has more bytes than can be read, as those of /sys do."""
        return store_error(OSError, f"{self.path} holds fewer bytes than the {self.size_bytes} that it says it has")

    def _opened(self) -> int:
        try:
            return os.open(self.path, _FLAGS)
        except OSError as exc:
            self.check()  # nothing is there any more, or a link, or a socket
            if isinstance(exc, BlockingIOError):  # which a loop takes for "not now"
                raise store_error(OSError, f"{self.path} cannot be opened: {exc.strerror}") from exc
            raise

    def _changed(self, how: str) -> OSError:
        return store_error(FileChangedError, f"{self.path} changed while it was copied: {how}; {_REMEDY}")


def sources_replaced(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the targets that are, by whatever name, the source of another copy, which may come later.

    Args:
        pairs: source and target of every copy; a source that is not there is left out.
    """
    copies = list(pairs)
    sources: dict[tuple[int, int], set[str]] = {}
    for source, target in copies:
        for found in _names_of(source):
            sources.setdefault(found, set()).add(target)
    return [target for _, target in copies for found in _names_of(target)[:1] if sources.get(found, set()) - {target}]


def _names_of(path: str) -> list[tuple[int, int]]:
    """Return device and inode of what has this name, and, where that is a link, of what it leads to."""
    try:
        named = os.lstat(path)
        found = os.stat(path) if stat.S_ISLNK(named.st_mode) else named  # noqa: PTH116  # the path is text
    except (OSError, ValueError):
        return []
    return list(dict.fromkeys((each.st_dev, each.st_ino) for each in (named, found)))


def _identity(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _difference(was: tuple[int, ...], now: tuple[int, ...]) -> str:
    if was[:2] != now[:2]:
        return "another file, or a link, took its place"
    if was[2] != now[2]:
        return f"it became {'longer' if was[2] < now[2] else 'shorter'}, {was[2]} bytes then and {now[2]} now"
    return "it was written to, renamed or given other permissions"


def _has_bytes(path: str) -> bool:
    """Return whether a file whose size is given as 0 has bytes, as those of /proc have."""
    fd = os.open(path, _FLAGS)
    try:
        return bool(os.read(fd, 1))
    except OSError:  # nothing to read now, or ever: no file to store
        return True
    finally:
        os.close(fd)
