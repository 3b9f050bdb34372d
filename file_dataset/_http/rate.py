"""How many requests a second a store takes, known after it has refused some. No sockets, no clock."""

from __future__ import annotations

import math
from collections import deque

_SPAN_S = 1.0  # stores count by the second
_STEP_S = 0.1
_SHARE = 0.95  # of what was accepted lately: what was refused shows that this is all; a guess
_STEADY = 0.7  # of the rate: where more was accepted, requests did go out at that rate; a guess
_LEAST_SHARE = 0.7  # of the rate at the refusal: CUBIC's
_UNTRIED = 2.0  # of what was accepted lately: a faster rate was never tried, so it is not known to work
_RECENT = 3  # tenths of a second that are counted for it
_PAUSE_S = 0.05  # a guess, as is the longest
_PAUSE_MAX_S = 1.6
_LATE_S = 0.005  # what a loop that wakes late may catch up with
_DOUBLED_S = 0.1  # while the rate is not known
_GROWTH = 0.05  # per cubic second: nearly nothing in the first, four times as many in three
_FREE = 20.0  # of the exponent: some 7 s after the last refusal


class Rate:
    """Requests a second; without bound until one is refused.

    After a refusal it is a little less than what the store accepted in the last second. It grows as CUBIC does, slowly
    near the last refusal and then faster (https://datatracker.ietf.org/doc/html/rfc9438), until there is no bound.
    If requests were accepted for less than a second before it, that count proves little: the rate then doubles every
    0.1 s until the next refusal. After a refusal nothing goes out for 0.05 s, and for twice as long each time that the
    next request is refused as well.
    """

    def __init__(self) -> None:
        """Start without a bound."""
        self._per_s = self._base = math.inf
        self._next_s = 0.0  # when the next request may go out
        self._accepted: deque[list[float]] = deque()  # time and count, for each tenth of the last second
        self._first_s = math.inf  # since when requests were accepted, without a break
        self._refused_s = -math.inf
        self._is_known = self._has_accepted = True
        self._pause_s = 0.0

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return self._per_s

    def accepted(self, now_s: float, sent_s: float) -> None:
        """Take note of a request that was not refused, and of when it was sent."""
        counts = self._accepted
        if not counts or now_s - counts[-1][0] >= _STEP_S:
            if not counts or now_s - counts[-1][0] >= 2 * _SPAN_S:
                self._first_s = now_s
            counts.append([now_s, 0])
            while now_s - counts[0][0] > _SPAN_S:
                counts.popleft()
        counts[-1][1] += 1
        if self._per_s < math.inf and sent_s > self._refused_s:
            self._has_accepted = True
            self._grow(now_s - self._refused_s - self._pause_s, _UNTRIED * max(self._base, self._recent(now_s)))

    def _grow(self, since_s: float, most: float) -> None:
        exponent = _GROWTH * since_s**3 if self._is_known else since_s / _DOUBLED_S * math.log(2)
        self._per_s = math.inf if exponent > _FREE else min(self._base * math.exp(exponent), most)

    def refused(self, now_s: float, sent_s: float) -> None:
        """Take note of a refusal, and have fewer requests a second from now on.

        What was in flight at the last refusal is refused too, and says nothing new.
        """
        if sent_s <= self._refused_s:
            return
        if self._has_accepted:
            self._pause_s = _PAUSE_S
            self._is_known = now_s - self._first_s >= _SPAN_S
            self._base = self._per_s = max(1.0, self._reduced(now_s))
        else:
            self._pause_s = min(_PAUSE_MAX_S, 2 * self._pause_s)
        self._has_accepted = False
        self._refused_s = now_s
        self._next_s = now_s + self._pause_s

    def _reduced(self, now_s: float) -> float:
        """Return what a refusal leaves of the rate."""
        if not self._is_known:
            return _SHARE * min(self._recent(now_s), self._per_s)
        accepted = sum(count for _, count in self._accepted) / _SPAN_S
        if self._per_s == math.inf:
            return _SHARE * accepted
        if accepted > _STEADY * self._per_s:
            return _SHARE * self._per_s
        # fewer were sent, or fewer accepted, than the rate says: the next refusals will show how many are
        return min(_LEAST_SHARE * self._per_s, _UNTRIED * accepted)

    def _recent(self, now_s: float) -> float:
        """Return how many a second were accepted lately."""
        counts = list(self._accepted)[-_RECENT:]
        return sum(count for _, count in counts) / max(_STEP_S, now_s - counts[0][0]) if counts else 0.0

    def wait_s(self, now_s: float) -> float:
        """Return how long the next request must wait."""
        return 0.0 if self._per_s == math.inf else max(0.0, self._next_s - now_s)

    def sent(self, now_s: float) -> None:
        """Take note of a request that goes out."""
        if self._per_s < math.inf:
            self._next_s = max(self._next_s, now_s - _LATE_S) + 1 / self._per_s
