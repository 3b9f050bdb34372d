"""Temp dirs that go when they should: on exit, on error, with their last reference, in their own process only."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from file_dataset import _urls
from file_dataset._errors import InvalidDatasetError, is_disk_full

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

_TMPDIR = "set TMPDIR to a directory that can be written"


class TempDir(os.PathLike[str]):
    """A directory with files in it, removed on exit from `with`, by `cleanup()`, or with its last reference.

    `with` yields the `Path`. `os.fspath`, `open` and `Path` take the object itself. Only the process that made it
    removes it: a forked child that exits does not (which `tempfile.TemporaryDirectory` does not promise).
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """Make an empty directory below `directory`, or where the system keeps temporary files.

        Raises:
            InvalidDatasetError: there is no such place, or it cannot be written.
            OSError: the disk is full.
        """
        if directory is not None:
            _urls.check_home(directory)
        place = self.parent() if directory is None else directory
        # named before it is made, which `mkdtemp` does not do: Ctrl-C in between would leave it behind
        self.path = Path(place, f"file_dataset-{secrets.token_hex(8)}").absolute()
        self._made_by = os.getpid()
        self._finalizer = weakref.finalize(self, _remove_forgotten, self.path, self._made_by)
        try:
            self.path.mkdir(mode=stat.S_IRWXU)
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

    def cleanup(self) -> None:
        """Remove the directory and everything in it; nothing the second time, or in a forked child."""
        if self._finalizer.alive and os.getpid() == self._made_by:
            remove_tree(self.path)
        self._finalizer.detach()  # not before: Ctrl-C can come while files are removed

    def __fspath__(self) -> str:
        """Return the path as text."""
        return str(self.path)

    def __enter__(self) -> Path:
        """Return the path."""
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the directory."""
        self.cleanup()

    def __repr__(self) -> str:
        """Show the path."""
        return f"TempDir({str(self.path)!r})"


def remove_tree(path: Path) -> None:
    """Remove a directory, also when what filled it left read-only directories; what resists is logged."""
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        return
    _make_writable(path)
    for root, directories, _ in os.walk(path):  # goes into them after this
        for name in directories:
            at = Path(root, name)
            if not at.is_symlink():
                _make_writable(at)
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        logger.warning("temp dir %s could not be removed", path)


def _make_writable(path: Path) -> None:
    with contextlib.suppress(OSError):  # it may belong to somebody else
        path.chmod(stat.S_IRWXU)


def _remove_forgotten(path: Path, made_by: int) -> None:
    # a forked child that exits must not take its parent's files away
    if os.getpid() == made_by:
        warnings.warn(f"temp dir {path} was never closed: use `with` or call cleanup()", ResourceWarning, stacklevel=2)
        remove_tree(path)
