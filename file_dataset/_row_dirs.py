"""`reader(...).iter_temp_dirs()`: a temp dir per row, in order, with at most two rows ahead on disk."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from file_dataset import _in_order
from file_dataset._arrival import Arrival
from file_dataset._silence import Silence, awaited
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
    begun: deque[tuple[TempDir, Arrival, Future[None]]] = deque()  # the first is the caller's, or the next to be
    try:
        while True:
            while len(begun) <= _AHEAD and (row := next(rows, None)) is not None:
                temp = RowDir(place, str(row.id)) if named else TempDir(place)
                # `path` would mark it as the caller's
                into = f"{temp._made.path}/{row.id}" if named else str(temp._made.path)  # noqa: SLF001
                arrival, ended = Arrival(row, into, stores, cancelled), Future[None]()
                begun.append((temp, arrival, ended))
                arrival.begin(_unnoted, functools.partial(ended.set_result, None))
            if not begun:
                return
            temp, arrival, ended = begun[0]
            _wait(arrival, ended, cancelled)
            arrival.finish()
            yield temp
            temp.cleanup()
            begun.popleft()
            del temp, arrival, ended
    finally:
        if os.getpid() == made_by:  # a forked child that ends leaves its parent's files alone
            cancelled.set()
            for temp, arrival, _ in begun:
                arrival.give_up()
                temp.cleanup()


def _wait(arrival: Arrival, ended: Future[None], cancelled: threading.Event) -> None:
    def silence() -> Silence:
        return next((one for one, _ in arrival.silent()), Silence())

    def late() -> str:
        return awaited([place for _, place in arrival.silent()])

    if not ended.done():
        _in_order.wait_for(ended, cancelled, silence, late)


def _unnoted(_more_bytes: int, _is_first: bool) -> None:  # noqa: FBT001  # as `Began` has it
    """Take no note of sizes."""
