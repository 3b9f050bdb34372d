"""What a run took beside its rows: requests that were made again, and seconds by stage."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, match_args=False)
class Counts:
    """What the rows that a run has run took: numbers for a chart, none of them exact to the millisecond.

    On Ray they are the sum of all batches that came back. What a task took that Ray ran again is not in them.

    Attributes:
        retries: requests that were made again; not those that went out over a connection which turned out closed.
        throttles: answers of a store that had too many requests ("503 SlowDown", say).
        download_s: seconds from a row's first request to its last file, summed over the rows, which overlap.
        fn_s: the same for fn; in a worker, the start of its process is part of the first.
        upload_s: the same from what fn returned to the last file stored.
    """

    retries: int = 0
    throttles: int = 0
    download_s: float = 0.0
    fn_s: float = 0.0
    upload_s: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        """Return those of both."""
        return Counts(
            self.retries + other.retries,
            self.throttles + other.throttles,
            self.download_s + other.download_s,
            self.fn_s + other.fn_s,
            self.upload_s + other.upload_s,
        )

    def __str__(self) -> str:
        """Return it as text."""
        seconds = f"{self.download_s:.1f} s download, {self.fn_s:.1f} s fn, {self.upload_s:.1f} s upload"
        return f"{self.retries} retries, {self.throttles} throttles, {seconds}"


def sum_of(one: Counts | None, other: Counts | None) -> Counts | None:
    """Return the sum of what is known; None: of neither."""
    return other if one is None else one if other is None else one + other


class Effort:
    """Counts what one run takes; any thread adds to it."""

    __slots__ = ("_found", "_lock")

    def __init__(self) -> None:
        """Start with nothing."""
        self._lock = threading.Lock()
        self._found: Counter[str] = Counter()

    def add(self, what: str, count: float = 1) -> None:
        """Add to what `Counts` has under that name."""
        with self._lock:
            self._found[what] += count  # type: ignore[assignment]  # seconds are no whole number

    def counts(self) -> Counts:
        """Return what there is until now."""
        with self._lock:
            return Counts(**self._found)


class Cancelled(threading.Event):
    """What a row's transfers look at, and the effort that they are a part of."""

    def __init__(self, effort: Effort | None = None) -> None:
        """Take the run whose effort it is; None: it is not counted."""
        super().__init__()
        self.effort = effort
