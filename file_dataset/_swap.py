"""A local directory that takes the place of another as one: written beside it, then renamed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil

from file_dataset._errors import exists_already, store_error
from file_dataset._sink import part_name

logger = logging.getLogger(__name__)

_IS_THERE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


class Swap:
    """A directory that is not whole yet, and the name that it will have.

    What has that name then is moved aside, by a rename, and removed at the `end`: for a moment nothing has the name.

    Attributes:
        path: where files are written meanwhile.
    """

    def __init__(self, target: str, *, only_new: bool) -> None:
        """Make a directory beside the target, under a name that no reader takes for a whole one.

        Raises:
            NotADirectoryError: a file has the name.
            FileExistsError: `only_new`, and something has the name, but for an empty directory.
            OSError: nothing can be written there.
        """
        self._target, self._only_new = target, only_new
        parent = os.path.dirname(target)  # noqa: PTH120  # the target is text
        os.makedirs(parent, exist_ok=True)  # noqa: PTH103
        self._check()
        self.path = f"{parent}/{part_name()}"
        self._old: str | None = None  # what was there, under its name meanwhile
        self._was_empty = self._is_named = False
        os.mkdir(self.path)  # noqa: PTH102

    def _check(self) -> None:
        if not os.path.lexists(self._target):
            return
        is_directory = os.path.isdir(self._target)  # noqa: PTH112  # a link to one too
        if self._only_new and not (is_directory and _is_empty(self._target)):
            raise exists_already()
        if not is_directory:
            raise store_error(
                NotADirectoryError, f"{self._target} is a file, which no directory can replace: remove it"
            )

    def commit(self) -> None:
        """Give it its name; what has it is moved aside.

        Raises:
            FileExistsError: `only_new`, and something has the name.
            OSError: it cannot be renamed; then what was there has its name.
        """
        self._was_empty = os.path.lexists(self._target)
        try:
            os.rename(self.path, self._target)  # noqa: PTH104  # where nothing is, or an empty directory
        except OSError as exc:
            if exc.errno not in _IS_THERE:
                raise
            self._was_empty = False
            if self._only_new:
                raise exists_already() from None
            self._check()
            self._move_aside()
        self._is_named = True

    def _move_aside(self) -> None:
        self._old = f"{os.path.dirname(self._target)}/{part_name()}"  # noqa: PTH120
        os.rename(self._target, self._old)  # noqa: PTH104
        os.rename(self.path, self._target)  # noqa: PTH104

    def discard(self) -> None:
        """Have what was there before again, whatever was done; nothing after `end`."""
        with contextlib.suppress(FileNotFoundError):
            if self._is_named:
                os.rename(self._target, self.path)  # noqa: PTH104
                self._is_named = False
                if self._was_empty:
                    os.mkdir(self._target)  # noqa: PTH102
        old, self._old = self._old, None
        if old is not None and os.path.lexists(old):
            try:
                os.rename(old, self._target)  # noqa: PTH104
            except OSError as exc:  # another process has put something there
                logger.warning("what was at %s before lies in %s: %s", self._target, old, exc)
        shutil.rmtree(self.path, ignore_errors=True)

    def end(self) -> None:
        """Remove what was there before. Where it cannot be removed it stays under its hidden name."""
        old, self._old, self._is_named = self._old, None, False
        if old is None:
            return
        try:
            if os.path.islink(old):  # noqa: PTH114
                os.unlink(old)  # noqa: PTH108
            else:
                shutil.rmtree(old)
        except OSError as exc:
            logger.warning("what was at %s before lies in %s and cannot be removed: %s", self._target, old, exc)


def _is_empty(directory: str) -> bool:
    with os.scandir(directory) as entries:
        return next(entries, None) is None
