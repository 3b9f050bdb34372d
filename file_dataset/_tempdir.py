"""Temp dirs that go when they should: on exit, on error, with their last reference, in their own process only.

Those of a process that was killed go when another one of the same user makes temp dirs in the same place (`_residue`).
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import stat
import tempfile
import warnings
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from file_dataset import _residue, _urls
from file_dataset._errors import InvalidDatasetError, is_disk_full

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

logger = logging.getLogger(__name__)

_TMPDIR = "set TMPDIR to a directory that can be written"


class _Made:
    """A directory that this process made, and how it stands with it."""

    __slots__ = ("is_gone", "lock", "made_by", "path", "was_used")

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.made_by = path, _residue.Lock(), os.getpid()
        self.was_used = False  # a caller has the path
        self.is_gone = False

    def make(self, names: Iterator[str]) -> None:
        """Make the directory and lock it, so that others see that it is in use; take another name where that fails."""
        while True:
            self.path.mkdir(mode=stat.S_IRWXU)
            lock = _residue.hold(self.path)
            if lock is not None:
                self.lock = lock
                return
            with contextlib.suppress(OSError):
                self.path.rmdir()
            self.path = self.path.with_name(next(names))


class TempDir(os.PathLike[str]):
    """A directory with files in it, removed on exit from `with`, by `cleanup()`, or with its last reference.

    `with` yields the `Path`. `os.fspath`, `open` and `Path` take the object itself: keep it for as long as you use the
    path. Only the process that made it removes it: a forked child that exits does not (which
    `tempfile.TemporaryDirectory` does not promise). If that process is killed, the next one of the same user that makes
    a temp dir in the same place on the same machine removes it.

    Example:
        >>> with TempDir() as directory:
        ...     (directory / "a.txt").write_text("hello")
        5
        >>> directory.exists()
        False
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """Make an empty directory below `directory`, or where the system keeps temporary files.

        Raises:
            InvalidDatasetError: there is no such place, or it cannot be written.
            OSError: the disk is full.
        """
        if directory is not None:
            _urls.check_home(directory)
        _remove_left()
        place = self.parent() if directory is None else directory
        parent = Path(place).absolute()
        _residue.remove_residue(str(parent))
        names = _residue.names()
        # named before it is made, which `mkdtemp` does not do: Ctrl-C in between would leave it behind
        self._made = _Made(parent / next(names))
        self._finalizer = weakref.finalize(self, _remove_forgotten, self._made)
        try:
            self._made.make(names)
        except OSError as exc:
            self._finalizer.detach()
            if is_disk_full(exc):
                raise
            remedy = _TMPDIR if directory is None else "give a directory that exists and can be written"
            raise InvalidDatasetError(f"no temp dir in {place}: {exc}; {remedy}") from exc
        except BaseException:
            self.cleanup()
            raise

    @staticmethod
    def parent() -> str:
        """Return where the system keeps temporary files.

        Raises:
            InvalidDatasetError: there is no such place.
        """
        try:
            return tempfile.gettempdir()
        except OSError as exc:
            raise InvalidDatasetError(f"no temp dir in the usual places: {exc}; {_TMPDIR}") from exc

    @property
    def path(self) -> Path:
        """Where it is. It is there for as long as this object is kept."""
        self._made.was_used = True
        return self._made.path

    def cleanup(self) -> None:
        """Remove the directory and everything in it; nothing the second time, or in a forked child.

        What cannot be removed now, for want of descriptors, say, is tried again with the next temp dir and when the
        process ends.
        """
        if self._finalizer.alive and os.getpid() == self._made.made_by:
            _remove(self._made)
        self._finalizer.detach()  # not before: Ctrl-C can come while files are removed

    def __fspath__(self) -> str:
        """Return the path as text.

        Raises:
            FileNotFoundError: it was removed.
        """
        self._check()
        return str(self.path)

    def __enter__(self) -> Path:
        """Return the path.

        Raises:
            FileNotFoundError: it was removed.
        """
        self._check()
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the directory."""
        self.cleanup()

    def __repr__(self) -> str:
        """Show the path."""
        return f"TempDir({str(self._made.path)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path: a copy removes nothing."""
        return _copy, (self._made.path,)

    def _check(self) -> None:
        if self._made.is_gone:
            message = "this temp dir was removed, by `with` or cleanup(): read the files again into a new one"
            raise FileNotFoundError(errno.ENOENT, message, str(self._made.path))


class RowDir(TempDir):
    """A temp dir whose files lie one directory further down, which has a row's name."""

    def __init__(self, directory: str | os.PathLike[str] | None, name: str) -> None:
        """Make it, as `TempDir`; `name` is safe as a segment of a path."""
        super().__init__(directory)
        self._name = name
        try:
            os.mkdir(self._made.path / name)  # noqa: PTH102  # as all that is made here
        except BaseException:
            self.cleanup()
            raise

    @property
    def path(self) -> Path:
        """Where its files are. They are there for as long as this object is kept."""
        return super().path / self._name

    def __repr__(self) -> str:
        """Show the path."""
        return f"TempDir({str(self._made.path / self._name)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path: a copy removes nothing."""
        return _copy, (self._made.path / self._name,)


def _copy(path: Path) -> TempDir:
    copy = TempDir.__new__(TempDir)
    copy._made = _Made(path)  # noqa: SLF001  # one of its own kind
    copy._finalizer = weakref.finalize(copy, _remove_forgotten, copy._made)  # noqa: SLF001
    copy._finalizer.detach()  # noqa: SLF001
    return copy


# Directories that resisted when they were to be removed, the oldest first.
_left: deque[_Made] = deque()
_is_ending = False


def _remove(made: _Made) -> None:
    error = _residue.remove_tree(made.path, made.lock)
    made.is_gone = True
    if isinstance(error, PermissionError):  # another user's files: no later attempt can help
        logger.warning("temp dir %s could not be removed: %s", made.path, error)
    elif error is not None:
        logger.debug("temp dir %s is removed later: %s", made.path, error)
        _left.append(made)
        return
    made.lock.let_go()
    _remove_left()


def _remove_left() -> None:
    """Try again to remove what resisted, until the first that resists still."""
    while _left:
        try:
            made = _left.popleft()
        except IndexError:  # another thread was first
            return
        if _residue.remove_tree(made.path, made.lock) is not None:
            _left.appendleft(made)
            return
        made.lock.let_go()


def _remove_forgotten(made: _Made) -> None:
    # a forked child that exits must not take its parent's files away
    if os.getpid() != made.made_by:
        return
    try:
        if made.was_used and not _is_ending:
            # shown by default, in notebooks too, unlike a ResourceWarning
            warnings.warn(
                f"{made.path} is removed: its path was kept, but not the TempDir, and the files go with that. Write "
                "`with reader(...).into_temp_dir() as directory:`, or keep what into_temp_dir() returns in a variable",
                UserWarning,
                stacklevel=3,
            )
        warnings.warn(
            f"temp dir {made.path} was never closed: use `with` or call cleanup()", ResourceWarning, stacklevel=2
        )
    finally:  # also where warnings are errors
        try:
            _remove(made)
        except BaseException:  # Ctrl-C, which Python ignores in a finalizer: a later temp dir or the end removes it
            _left.append(made)
            raise


def _begin_end() -> None:
    global _is_ending  # noqa: PLW0603  # there is nothing to hold it but the module
    _is_ending = True


def _end() -> None:
    _remove_left()
    for made in _left:
        logger.warning("temp dir %s could not be removed", made.path)


def _forget() -> None:
    _left.clear()  # the parent's


# finalizers run at exit in the opposite order, this one last; and before all of them what is registered after the first
weakref.finalize(TempDir, _end)
atexit.register(_begin_end)
os.register_at_fork(after_in_child=_forget)
