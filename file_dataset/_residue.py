"""Temp dirs of processes that are gone: whose they are, and how they go.

A temp dir is locked, `flock(2)` on the directory itself, by the process that made it; the kernel gives the lock up when
that process ends, however it ends. Whoever can take the lock then may remove the directory. Its name says that there is
such a lock, and where it is seen:

    file_dataset-<boot><host>-<number>    locked on this boot, or on this host if that was started again
    file_dataset-<number>                 not locked: no lock could be had; it stays if its process is killed

On a shared file system another machine's lock may not be seen, and its directories are left alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import re
import resource
import secrets
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

_PREFIX = "file_dataset-"
_LOCKED = re.compile(rf"{_PREFIX}([0-9a-f]{{6}})([0-9a-f]{{6}})-[0-9a-f]{{12}}")
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Each lock holds a descriptor. Guesses: at most this share of them are locks; another name is tried so often.
_SHARE = 4
_TRIES = 3
# Guesses: a place is looked at again after a second, and later where looks take more than this share of the time.
_AGAIN_S = 1.0
_LOOKING = 0.01


def _digest_of(*paths: str, name: bytes = b"") -> str:
    for path in paths:
        with contextlib.suppress(OSError):
            name += Path(path).read_bytes()
    return hashlib.sha256(name).hexdigest()[:6]


# of this boot, which containers of one machine share, and of the host; at import, when descriptors are to be had
HOST = _digest_of("/etc/machine-id", name=os.fsencode(socket.gethostname()))
BOOT = _digest_of("/proc/sys/kernel/random/boot_id") if Path("/proc/sys/kernel/random/boot_id").exists() else HOST

_held: set[Lock] = set()
_next_look: dict[str, float] = {}  # time.monotonic(), by place


def names() -> Iterator[str]:
    """Yield names for a temp dir, to be tried in turn: some with a lock to be had, then one without."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or len(_held) < most // _SHARE:
        for _ in range(_TRIES):
            yield f"{_PREFIX}{BOOT}{HOST}-{secrets.token_hex(6)}"
    yield f"{_PREFIX}{secrets.token_hex(6)}"


class Lock:
    """The lock of one temp dir, or none for a name that has none."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int = -1) -> None:
        """Take the descriptor that has the lock."""
        self._fd = fd
        if fd >= 0:
            _held.add(self)

    def let_go(self) -> None:
        """Give it up."""
        fd, self._fd = self._fd, -1
        _held.discard(self)
        if fd >= 0:
            os.close(fd)


def hold(path: Path) -> Lock | None:
    """Return the lock of a directory that was just made under one of `names`; None: another name is to be tried."""
    if "-" not in path.name[len(_PREFIX) :]:
        return Lock()
    try:
        fd = os.open(path, os.O_RDONLY | _DIRECTORY)
    except OSError:  # no descriptor is left, or another process took it for residue
        return None
    if not _take(fd, path):
        os.close(fd)
        return None
    return Lock(fd)


def _take(fd: int, path: str | Path) -> bool:
    """Take the lock of a directory; return whether it was free, and the directory is there still."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def _forget() -> None:
    # a child's copy would keep the lock when its parent is gone
    for lock in list(_held):
        lock.let_go()


os.register_at_fork(after_in_child=_forget)


def remove_residue(place: str) -> None:
    """Remove temp dirs that processes of this user have made in a place, on this machine, and that are dead.

    What cannot be looked at or removed stays. A place is looked at when this process first uses it, and when it is used
    again, at most every second.
    """
    start = time.monotonic()
    if start < _next_look.get(place, 0.0):
        return
    _next_look[place] = start + _AGAIN_S  # for other threads
    try:
        with os.scandir(place) as entries:
            found = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    except OSError:
        found = []  # there is no such place, or it may be written and not read
    for name in found:
        match = _LOCKED.fullmatch(name)
        if match is not None and (match[1] == BOOT or match[2] == HOST):
            with contextlib.suppress(OSError):
                _remove_if_dead(os.path.join(place, name))  # noqa: PTH118  # text
    took = time.monotonic() - start
    _next_look[place] = start + max(_AGAIN_S, took / _LOOKING)


def _remove_if_dead(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | _DIRECTORY)
    try:
        if os.fstat(fd).st_uid != os.geteuid() or not _take(fd, path):
            return
        error = remove_tree(path)
        logger.info("temp dir %s of a process that has ended: %s", path, error or "removed")
    finally:
        os.close(fd)


# --- removal


def remove_tree(path: str | os.PathLike[str], lock: Lock | None = None) -> OSError | None:
    """Remove a directory and all in it; return why something is left, None when nothing is.

    Its lock is given up when it is empty, before it goes: ext4 takes ten times as long to remove an open directory.

    What has become read-only is made writable first. No link is followed, not even one that is put in a directory's
    place meanwhile: all is reached through descriptors, four at most. Other file systems mounted in it stay.
    """
    try:
        top = _opened(os.fspath(path), None, None)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            return exc
        return _failure_of(os.unlink, path)  # a file or a link in its place, which goes alone
    try:
        error = _Content(top).remove()
    finally:
        os.close(top)
    if error is None:
        if lock is not None:
            lock.let_go()
        error = _failure_of(os.rmdir, path)
    return error


def _failure_of(remove: Callable[[str | os.PathLike[str]], None], path: str | os.PathLike[str]) -> OSError | None:
    try:
        remove(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return exc
    return None


class _Content:
    """What is in a directory, on its way out. Directories below others are first moved up, so that none is deep."""

    def __init__(self, top: int) -> None:
        self._top, self._device = top, os.fstat(top).st_dev
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count()
        self._todo: list[tuple[str, bool]] = []  # names in it, and whether they are directories
        self._error: OSError | None = None

    def remove(self) -> OSError | None:
        """Remove what can be removed; return the first error."""
        try:
            self._todo = _entries(self._top)
            while self._todo:
                self._remove(*self._todo.pop())
        except OSError as exc:
            return self._error or exc
        return self._error

    def _remove(self, name: str, is_directory: bool) -> None:  # noqa: FBT001  # as it stands in the list
        try:
            if is_directory:
                self._unpack(name)
                os.rmdir(name, dir_fd=self._top)
            else:
                os.unlink(name, dir_fd=self._top)
        except OSError as exc:
            self._note(exc)

    def _unpack(self, name: str) -> None:
        directory = _opened(name, self._top, self._device)
        try:
            for inner, is_directory in _entries(directory):
                try:
                    if is_directory:
                        self._move_up(inner, directory)
                    else:
                        os.unlink(inner, dir_fd=directory)
                except OSError as exc:
                    self._note(exc)
        finally:
            os.close(directory)

    def _move_up(self, name: str, directory: int) -> None:
        to = f"{self._prefix}-{next(self._numbers)}"
        try:
            os.rename(name, to, src_dir_fd=directory, dst_dir_fd=self._top)
        except OSError:
            try:
                os.rmdir(name, dir_fd=directory)  # one that is empty may belong to another user
            except OSError:
                os.close(_opened(name, directory, self._device))  # makes it writable, which a move needs
                os.rename(name, to, src_dir_fd=directory, dst_dir_fd=self._top)
            else:
                return
        self._todo.append((to, True))

    def _note(self, error: OSError) -> None:
        if self._error is None and not isinstance(error, FileNotFoundError):
            self._error = error


def _entries(directory: int) -> list[tuple[str, bool]]:
    with os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _opened(name: str, directory: int | None, device: int | None) -> int:
    """Open a directory, which its owner may read, write and enter from now on.

    Raises:
        OSError: it is no directory, or a link, or of another file system than `device`.
    """
    try:
        fd = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=directory)
    except PermissionError:
        _let_in(name, directory, device)
        fd = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=directory)
    try:
        found = os.fstat(fd)
        _check_device(found, device, name)
        if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(PermissionError):  # another user's
                os.fchmod(fd, stat.S_IRWXU)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _let_in(name: str, directory: int | None, device: int | None) -> None:
    if not hasattr(os, "O_PATH"):  # macOS
        os.chmod(name, stat.S_IRWXU, dir_fd=directory, follow_symlinks=False)  # by descriptor
        return
    # Linux changes no mode without following links, but opens what may not be read
    fd = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=directory)
    try:
        _check_device(os.fstat(fd), device, name)
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IRWXU)  # noqa: PTH101  # of what was opened
    finally:
        os.close(fd)


def _check_device(found: os.stat_result, device: int | None, name: str) -> None:
    if device is not None and found.st_dev != device:
        raise OSError(errno.EBUSY, f"another file system is mounted at {name}")
