"""How slow a server may be: what drips has an end too, though it is never silent for a whole read timeout.

The head of an answer is bounded by ten read timeouts, a body by the least speed that is no stall.
"""

from __future__ import annotations

# Guesses: links to satellites and ships bring more. With a read timeout above botocore's own, the patient have it here.
SLOW_S = 30.0
SLOW_BYTES_S = 1 << 10
_HEAD_TIMEOUTS = 10
_PATIENT_S = 60.0

HEAD = "answers"  # what a server is doing that has received the request


def stall_s(read_timeout_s: float) -> float:
    """Return for how many seconds a body may be slower than SLOW_BYTES_S."""
    return SLOW_S if read_timeout_s <= _PATIENT_S else read_timeout_s


class Pace:
    """How far an exchange was when it was last looked at."""

    __slots__ = ("_mark",)

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._mark: tuple[str, int, float] | None = None

    def restart(self) -> None:
        """Forget what was seen."""
        self._mark = None

    def too_slow(self, doing: str, count: int, clock: float, read_timeout_s: float) -> str | None:
        """Return what is wrong with an exchange that moves, and would take for ever.

        Args:
            doing: what the server does with the bytes that are counted, as a verb.
            count: how many bytes went, or are still to go.
            clock: the loop's time.
            read_timeout_s: how long the server may be silent.
        """
        if self._mark is None or self._mark[0] != doing:
            self._mark = doing, count, clock
            return None
        _, before, since = self._mark
        spent_s, moved = clock - since, abs(count - before)
        if doing == HEAD:
            if spent_s <= max(SLOW_S, _HEAD_TIMEOUTS * read_timeout_s):
                return None
            return f"the head of the answer was not whole after {spent_s:.0f} s"
        if spent_s <= stall_s(read_timeout_s):
            return None
        if moved < SLOW_BYTES_S * spent_s:
            return f"the store {doing} {moved} bytes in {spent_s:.0f} s: less than {SLOW_BYTES_S} a second is a stall"
        self._mark = doing, count, clock
        return None
