"""`reader(...).iter_temp_dirs()`: a temp dir per row, in order, with at most two rows ahead on disk."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from file_dataset import _plan, _transfer
from file_dataset._tempdir import RowDir, TempDir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from file_dataset._plan import FileRow
    from file_dataset._stores import Stores

_AHEAD = 2


def row_dirs(
    rows: Iterator[FileRow], stores: Stores, place: str | os.PathLike[str] | None, *, named: bool
) -> Iterator[TempDir]:
    """Yield a temp dir with the files of each row; the one before is removed first.

    Args:
        rows: the rows, whose ids and file names are safe.
        stores: the stores of their files.
        place: where temp dirs are made.
        named: a row's directory has the name of its id, below the temp dir.

    Raises:
        RowError: files of the row whose turn it is that could not be read, every one of them.
    """
    made_by, cancelled = os.getpid(), threading.Event()
    begun: deque[tuple[TempDir, _transfer.Moving]] = deque()  # the first is the caller's, or the next to be
    try:
        while True:
            while len(begun) <= _AHEAD and (row := next(rows, None)) is not None:
                temp = RowDir(place, str(row.id)) if named else TempDir(place)
                # `path` would mark it as the caller's
                into = f"{temp._made.path}/{row.id}" if named else str(temp._made.path)  # noqa: SLF001
                moving = _transfer.Moving(_plan.downloads(row, into), stores, "download", cancelled)
                begun.append((temp, moving))
                moving.fill(_unnoted, _nothing)
            if not begun:
                return
            temp, moving = begun[0]
            moving.wait()
            moving.finish_in()
            moving.forget()
            yield temp
            temp.cleanup()
            begun.popleft()
            del temp, moving
    finally:
        if os.getpid() == made_by:  # a forked child that ends leaves its parent's files alone
            _transfer.abandon([moving for _, moving in begun], cancelled)
            for temp, _ in begun:
                temp.cleanup()


def _unnoted(_more_bytes: int, _is_first: bool) -> None:  # noqa: FBT001  # as `Moving.fill` calls it
    """Take no note of sizes."""


def _nothing() -> None:
    """Do nothing when a row has ended: it is waited for."""
