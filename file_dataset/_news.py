"""The one thread of a run that waits: others wake it, and it warns meanwhile of a store that lets no byte move."""

from __future__ import annotations

import contextlib
import functools
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from file_dataset import _silence

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from file_dataset._silence import Silence

_LOOK_S = 0.1  # how soon it asks whether a store is silent; a guess


class News:
    """What a thread waits for. Others tell it by `came`, which costs nothing where it does not wait."""

    def __init__(self, lock: threading.RLock) -> None:
        """Take the lock of what is looked at."""
        self._lock = lock
        self._is_there = self._is_waited_for = False
        self._queue: SimpleQueue[None] = SimpleQueue()

    def forget(self) -> None:
        """Take note that the thread is about to look at all there is."""
        self._is_there = False

    def came(self, _: object = None) -> None:
        """Have the thread look again; for any thread."""
        with self._lock:
            self._is_there = True
            if self._is_waited_for:
                self._is_waited_for = False
                self._queue.put(None)

    def wait(self, silent: Callable[[], Iterable[tuple[Silence, str]]]) -> None:
        """Wait until there is something to look at.

        Args:
            silent: yields which transfers are waited for, and who knows for how long no byte has moved.
        """
        if self._has_come():
            return
        with contextlib.ExitStack() as waits:
            entered: set[Silence] = set()
            while not self._has_come():
                late: dict[Silence, list[str]] = {}
                for silence, place in silent():
                    late.setdefault(silence, []).append(place)
                for silence, places in late.items():
                    if silence not in entered:
                        entered.add(silence)
                        waits.enter_context(silence.waits())
                    silence.look(functools.partial(_silence.awaited, places))

    def _has_come(self) -> bool:
        with self._lock:
            if self._is_there:
                return True
            self._is_waited_for = True
        with contextlib.suppress(Empty):
            self._queue.get(timeout=_LOOK_S)
            return True
        with self._lock:
            if self._is_waited_for:
                self._is_waited_for = False
                return False
        self._queue.get()  # it came meanwhile
        return True
