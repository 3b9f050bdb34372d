"""Places in flight: a lane holds the requests to one store, so many at a time, and its idle connections."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from file_dataset._http.exchange import Endpoint, Exchange

_THROTTLE_S = 1.0  # the requests that were in flight at the store's first "slow down" are answered so too


class LaneLoop(Protocol):
    """What a lane needs of a loop."""

    def submit(self, lane: Lane, exchange: Exchange | Future[None]) -> None:
        """Queue an exchange."""

    def call(self, work: Callable[[], object]) -> None:
        """Have the loop thread do something short."""

    def release(self, lane: Lane) -> None:
        """Free a place in flight."""


class IdleConnection(Protocol):
    """A connection that waits for its next request."""

    endpoint: Endpoint
    moved_at: float

    def take(self, exchange: Exchange) -> None:
        """Send the next request."""

    def close(self) -> None:
        """Close the socket, and leave the lane."""


class Lane:
    """Requests to one store: at most `limit` in flight; fewer after the store answered that they are too many."""

    def __init__(self, limit: int, others: Sequence[LaneLoop] = ()) -> None:
        """Start with all of them allowed.

        Args:
            limit: the most that are in flight.
            others: loops that carry some of what is large; the one that it is submitted to carries the rest.
        """
        self.limit = limit
        self.offloaded = itertools.cycle([None, *(OffloadedLane(self, loop) for loop in others)])
        self.window = float(limit)
        self.in_flight = 0
        self.queue: deque[Exchange | Future[None]] = deque()
        self.is_queued = False
        self.idle: dict[Endpoint, list[IdleConnection]] = {}
        self.moves = 0  # grows while bytes move; counted in answers, and in connections that a tick saw moving
        self._throttled_at = -_THROTTLE_S
        self.answers = 0  # that began to arrive; of threads that count at once one may be lost

    def response_began(self) -> None:
        """Count a response that began to arrive, an error too."""
        self.answers += 1

    def free(self) -> int:
        """Return how many more requests would be sent at once."""
        return max(0, int(self.window) - self.in_flight - len(self.queue))

    def throttled(self) -> None:
        """Halve what may be in flight; it grows again by one for every window of answers."""
        now = time.monotonic()
        if now - self._throttled_at >= _THROTTLE_S:
            self._throttled_at = now
            self.window = max(1.0, min(self.window, self.in_flight) / 2)

    def answered(self) -> None:
        """Let the window grow."""
        self.moves += 1
        if self.window < self.limit:
            self.window = min(float(self.limit), self.window + 1 / self.window)

    def moved(self) -> None:
        """Take note that bytes move."""
        self.moves += 1

    def ended(self) -> None:
        """Count one request less."""
        self.in_flight -= 1

    def keep(self, connection: IdleConnection) -> None:
        """Keep an idle connection for the next request; the longest idle is closed when there are too many."""
        self.idle.setdefault(connection.endpoint, []).append(connection)
        if sum(map(len, self.idle.values())) > self.limit:
            min((found[0] for found in self.idle.values() if found), key=lambda each: each.moved_at).close()

    def forget(self, connection: IdleConnection) -> None:
        """Keep a connection no more, if it was idle."""
        idle = self.idle.get(connection.endpoint)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self.idle[connection.endpoint]


class OffloadedLane(Lane):
    """Requests of a lane that another loop sends: each keeps its place in flight in the lane that it came from."""

    def __init__(self, lane: Lane, loop: LaneLoop) -> None:
        """Take the lane, and the loop that sends."""
        super().__init__(lane.limit)
        self._lane, self._loop = lane, loop
        self._home = loop  # until the first comes

    def send(self, home: LaneLoop, exchange: Exchange) -> None:
        """Have the other loop send it; `home` is the loop of the lane."""
        self._home = home
        self._loop.submit(self, exchange)

    def response_began(self) -> None:
        """Count a response of the lane's."""
        self._lane.response_began()

    def throttled(self) -> None:
        """Halve the lane's window."""
        self._home.call(self._lane.throttled)

    def answered(self) -> None:
        """Let the lane's window grow."""
        self._home.call(self._lane.answered)

    def moved(self) -> None:
        """Take note of it in the lane; that one is counted for another is no matter."""
        self._lane.moves += 1

    def ended(self) -> None:
        """Give the place in flight back."""
        super().ended()
        self._home.release(self._lane)
