"""How many bytes of a large object one request asks for at least: so many that its first byte is worth waiting for."""

from __future__ import annotations

# A request waits for its first byte; that is to be a fifth of its time at most. A guess.
_WAITS = 4
# Guesses to begin with: what AWS has of one connection and of the first byte, 85 MB/s and 25 ms
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html): 8.5 MB.
_FIRST_S = 0.025
_FIRST_BYTES_S = 85e6
# A connection beside many others brings little, and a request has a cost of its own: a guess. From 16 MiB on, which the
# same page recommends, that cost does not show.
_LEAST_BYTES = 4 << 20
_ENOUGH_BYTES = 16 << 20
_MOST_BYTES = 64 << 20  # so that a place is free again soon; a guess
_USUAL_OF = 8  # requests from which the next is estimated; a guess


class Ranges:
    """What the connections of one store bring. Not locked: of two updates at the same moment one may be lost."""

    __slots__ = ("_bytes_s", "_first_s")

    def __init__(self) -> None:
        """Start with guesses."""
        self._first_s, self._bytes_s = _FIRST_S, _FIRST_BYTES_S

    @property
    def least_bytes(self) -> int:
        """The fewest bytes that are worth a request of their own."""
        return int(min(_ENOUGH_BYTES, _MOST_BYTES, max(_LEAST_BYTES, _WAITS * self._first_s * self._bytes_s)))

    def began(self, seconds: float) -> None:
        """Take note of how long a response's first byte took."""
        self._first_s += (seconds - self._first_s) / _USUAL_OF

    def ended(self, size_bytes: int, seconds: float) -> None:
        """Take note of how long a large body took, from its first byte on."""
        self._bytes_s += (size_bytes / max(seconds, 1e-6) - self._bytes_s) / _USUAL_OF

    def of(self, left: int, places: int) -> int:
        """Return how many bytes are taken off the end of `left` bytes; 0: all are left to the connection that has them.

        Less each time, so that all places end at about the same time.
        """
        least = self.least_bytes
        if left < 2 * least:
            return 0
        return min(max(least, left // (2 * places)), _MOST_BYTES)
