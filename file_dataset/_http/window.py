"""How many requests of a store are in flight: more while more of them bring more. No sockets, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Requests in flight to begin with, and at most. Guesses: at 30 ms to the first byte 64 bring 2,000 objects a second,
# and 512 what two cores can take.
FIRST = 64
MOST = 512
# A loop that waits for sockets less than this share of the time has enough to do: more requests would queue up in it.
# Measured, 2,000 objects of 16 KiB, 30 ms to the first byte: 64 in flight wait 0.9 of the time, 512 wait 0.1.
_IDLE_SHARE = 0.3
_GAIN = 1.2  # what twice as many must bring to be kept; a guess between nothing (1.0) and all (2.0)
_ROUND = 16  # answers that are compared at least; a guess
_PAUSE_ROUNDS = 16  # before what brought nothing is tried again, twice as many each time; a guess


class Window:
    """The most requests in flight at a time.

    A round is as many answers as there are places. Where all places were taken for a whole round while the loop waited,
    there are twice as many. The next round makes the connections; they are kept if the round after it brings 1.2 times
    as many answers a second.
    """

    def __init__(self, first: int, most: Callable[[], int] | None = None) -> None:
        """Take the places to begin with; `most`: how many there may be at the time of the call. None: no more."""
        self.size = first
        self._most = most
        self._before: tuple[float, int] | None = None  # answers a second, with fewer places: so many
        self._skip, self._pause = 0, _PAUSE_ROUNDS
        self.begin(0.0, 0.0)

    def begin(self, now_s: float, idle_s: float) -> None:
        """Start a round, with nothing in flight."""
        self._began_s, self._idle_s, self._answers, self._full = now_s, idle_s, 0, 0

    def answered(self, now_s: float, idle_s: float, *, is_full: bool) -> None:
        """Take note of an answer.

        Args:
            now_s: the time.
            idle_s: how much of it the loop has waited for sockets.
            is_full: whether all places were taken.
        """
        if self._most is None:
            return
        self._answers += 1
        self._full += is_full
        if self._answers >= max(_ROUND, self.size):
            self._end_round(self._most, now_s, idle_s)

    def _end_round(self, most: Callable[[], int], now_s: float, idle_s: float) -> None:
        elapsed_s = max(now_s - self._began_s, 1e-6)
        rate = self._answers / elapsed_s
        # all but those that end when there is nothing left to request
        is_full = self._full >= 0.9 * self._answers
        is_idle = idle_s - self._idle_s >= _IDLE_SHARE * elapsed_s
        self.begin(now_s, idle_s)
        if not is_full:
            return
        if self._skip:
            self._skip -= 1
        elif self._before is not None and rate < _GAIN * self._before[0]:
            self.size, self._before, self._skip = self._before[1], None, self._pause
            self._pause *= 2
        elif is_idle and (size := min(2 * self.size, most())) > self.size:
            self.size, self._before, self._skip = size, (rate, self.size), 1
        else:
            self._before = None
