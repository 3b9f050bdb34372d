"""Warnings while a store is silent: what is waited for, and for how long no byte has moved."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from file_dataset._errors import on_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = logging.getLogger(__name__)

# After so long without a byte a warning names what is waited for; then after twice as long, and so on. Guesses.
SILENCE_S = 10.0
_LOOK_S = 0.5


class Silence:
    """How long a store lets no byte move while threads wait for it: one warning, and more at growing intervals."""

    def __init__(self, moves: Callable[[], int] = lambda: 0) -> None:
        """Take what grows while bytes move; `moved` is for the rest."""
        self._moves, self._own = moves, 0
        self._lock = threading.Lock()
        self._waiting = 0
        self._seen, self._last, self._quiet_s, self._due_s = -1, 0.0, 0.0, SILENCE_S

    def moved(self) -> None:
        """Take note that bytes move."""
        self._own += 1

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Count a thread that waits: silence begins when the first does."""
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                self._seen, self._last = -1, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def look(self, awaited: Callable[[], str]) -> None:
        """Warn when it is time; called a few times a second by each thread that waits."""
        with self._lock:
            now = time.monotonic()
            seen = self._moves() + self._own
            if seen != self._seen:
                self._seen, self._quiet_s, self._due_s = seen, 0.0, SILENCE_S
            else:
                # while fn holds the GIL no thread can look, and that is no silence of a store
                self._quiet_s += min(now - self._last, _LOOK_S)
            self._last = now
            if self._quiet_s < self._due_s:
                return
            self._due_s *= 2
            quiet_s = self._quiet_s
        since = datetime.now().astimezone() - timedelta(seconds=quiet_s)
        logger.warning(
            "waiting for %s: no byte has moved for %.0f s, since %s", awaited(), quiet_s, since.strftime("%H:%M:%S %Z")
        )


def awaited(places: Sequence[str]) -> str:
    """Return the first of what is waited for, and how many more there are."""
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{on_one_line(places[0]) if places else 'the last of them'}{more}"
