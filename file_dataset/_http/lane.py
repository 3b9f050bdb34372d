"""Places in flight: a lane holds the requests to one store, so many at a time, and its idle connections."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Protocol

from file_dataset._http.rate import Rate
from file_dataset._http.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from file_dataset._http.exchange import Endpoint, Exchange

_ANY = 1 << 20  # requests in flight: no bound


class Supply(Protocol):
    """An object of which more can be requested than is requested: it gives ranges to places that are free."""

    in_flight: int

    def more(self, places: int) -> Exchange | None:
        """Return another request; None: there is nothing to request, and there will not be.

        Args:
            places: how many requests in flight are this object's share.
        """


class LaneLoop(Protocol):
    """What a lane needs of a loop."""

    now_s: float
    idle_s: float

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
    """Requests to one store: as many in flight as bring most, and as many a second as the store accepts.

    What was submitted comes first, in its order; then ranges of large objects, of the one with fewest in flight.
    """

    def __init__(self, window: Window, others: Sequence[LaneLoop] = ()) -> None:
        """Start with nothing in flight.

        Args:
            window: how many may be.
            others: loops that carry some of what is large; the one that it is submitted to carries the rest.
        """
        self.offloaded = itertools.cycle([None, *(OffloadedLane(self, loop) for loop in others)])
        self._window, self._rate = window, Rate()
        self.in_flight = 0
        self._is_short = True
        self.queue: deque[Exchange | Future[None]] = deque()
        self._supplies: list[Supply] = []
        self.is_queued = False
        self.idle: dict[Endpoint, list[IdleConnection]] = {}
        self.moves = 0  # grows while bytes move; counted in answers, and in connections that a tick saw moving
        self.answers = 0  # that began to arrive; of threads that count at once one may be lost

    def response_began(self) -> None:
        """Count a response that began to arrive, an error too."""
        self.answers += 1

    @property
    def width(self) -> int:
        """How many requests may be in flight now."""
        return self._window.size

    @property
    def is_full(self) -> bool:
        """Whether no further request may be in flight."""
        return self.in_flight >= self._window.size

    @property
    def has_more(self) -> bool:
        """Whether something may wait for a place."""
        return bool(self.queue or self._supplies)

    def wait_s(self, now_s: float) -> float:
        """Return how long the next request must wait, because the store refused some."""
        return self._rate.wait_s(now_s)

    def next(self, loop: LaneLoop) -> Exchange | Future[None] | None:
        """Return what is next, which is in flight from now on; None: nothing."""
        found = self._next()
        self._is_short = found is None  # of requests: places stay free
        if found is not None:
            if not self.in_flight:
                self._window.begin(loop.now_s, loop.idle_s)
            self.in_flight += 1
            self._rate.sent(loop.now_s)
        return found

    def _next(self) -> Exchange | Future[None] | None:
        if self.queue:
            return self.queue.popleft()
        supplies = sorted(self._supplies, key=_in_flight)  # a copy: other threads add and remove
        for supply in supplies:
            if (exchange := supply.more(max(1, self.width // len(supplies)))) is not None:
                return exchange
            # parts only become smaller; that slower connections would make its last ranges worth it is rare
            self.shut(supply)
        return None

    def open(self, supply: Supply) -> None:
        """Give an object its share of the places."""
        self._supplies.append(supply)

    def shut(self, supply: Supply) -> None:
        """Ask an object for ranges no more."""
        with contextlib.suppress(ValueError):  # another thread did
            self._supplies.remove(supply)

    def throttled(self, exchange: Exchange, loop: LaneLoop) -> None:
        """Have fewer requests a second: the store answered that they are too many."""
        self._rate.refused(loop.now_s, exchange.sent_s)

    def answered(self, exchange: Exchange, loop: LaneLoop) -> None:
        """Count an answer, by which window and rate grow: where the rate is bounded, more places would stay free."""
        self.moves += 1
        self._rate.accepted(loop.now_s, exchange.sent_s)
        self._window.answered(loop.now_s, loop.idle_s, is_full=not self._is_short and self._rate.per_s == math.inf)

    def moved(self) -> None:
        """Take note that bytes move."""
        self.moves += 1

    def ended(self) -> None:
        """Count one request less."""
        self.in_flight -= 1

    def keep(self, connection: IdleConnection) -> None:
        """Keep an idle connection for the next request; the longest idle is closed when there are too many."""
        self.idle.setdefault(connection.endpoint, []).append(connection)
        if sum(map(len, self.idle.values())) > self.width:
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
        super().__init__(Window(_ANY))  # the lane that it came from bounds them
        self._lane, self._loop = lane, loop
        self._home = loop  # until the first comes

    def send(self, home: LaneLoop, exchange: Exchange) -> None:
        """Have the other loop send it; `home` is the loop of the lane."""
        self._home = home
        self._loop.submit(self, exchange)

    def response_began(self) -> None:
        """Count a response of the lane's."""
        self._lane.response_began()

    def throttled(self, exchange: Exchange, loop: LaneLoop) -> None:
        """Have the lane take note of it."""
        del loop
        self._home.call(lambda: self._lane.throttled(exchange, self._home))

    def answered(self, exchange: Exchange, loop: LaneLoop) -> None:
        """Have the lane count it."""
        del loop
        self._home.call(lambda: self._lane.answered(exchange, self._home))

    def moved(self) -> None:
        """Take note of it in the lane; two threads that count at once may count one, which does no harm."""
        self._lane.moves += 1

    def ended(self) -> None:
        """Give the place in flight back."""
        super().ended()
        self._home.release(self._lane)


def _in_flight(supply: Supply) -> int:
    return supply.in_flight
