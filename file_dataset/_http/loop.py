"""HTTP/1.1 requests over kept-alive connections, on a loop thread. Bytes in, bytes out; no S3, no frames.

Measured on two cores beside an nginx on loopback: 64 sockets on one loop move 2,000 objects of 16 KiB several times
faster than 64 threads, which take the GIL from each other at every call. For the same reason small bodies stay on one
loop. Large ones are copied, and under TLS decrypted, without the GIL: where there are cores, more loops share them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from file_dataset import _per_process
from file_dataset._http.buffers import BUFFERS, Buffers
from file_dataset._http.connection import Connection
from file_dataset._http.dial import Dial
from file_dataset._http.names import Names
from file_dataset._pool import Pool, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from file_dataset._http.dial import Watched
    from file_dataset._http.exchange import Exchange
    from file_dataset._http.lane import Lane, Supply
    from file_dataset._http.names import Address
    from file_dataset._http.tls import Stream

logger = logging.getLogger(__name__)

_POOL_THREADS = 4  # for as many cores, and never less than half as many: one may wait for a name server
# One loop for two cores, at most so many. A guess: on two cores, one of them the server's, a second loop gained nothing
# for large bodies (wall 0.9 to 1.1 x), and small ones took 1.9 x on two.
_LOOPS = 4
_ASLEEP_S = 5.0  # how late a loop without connections hears of a request whose caller met a Ctrl-C while it woke it
_TICK_S = 0.25  # how late a stalled or cancelled exchange is noticed
_LATE_S = (
    0.5  # a loop that is later than this was kept from running (a fn that holds the GIL), and no server is to blame
)


class Loop:
    """One loop thread and its sockets. Made anew in a forked child; a daemon, so that it never holds up an exit."""

    def __init__(self, pool: Pool | None = None, buffers: int = BUFFERS) -> None:
        """Start no thread yet; the first request does.

        Args:
            pool: what blocks is done there (names, digests, writes); None: by a pool of its own.
            buffers: how many large bodies may be on their way to disk.
        """
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)  # noqa: FBT003  # the standard library's
        self.selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._calls: deque[Callable[[], object]] = deque()
        self._lanes: deque[Lane] = deque()  # that may have something to send
        self._paced: dict[Lane, float] = {}  # when each may send again
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_asleep = False
        self.now_s = self._next_tick = 0.0
        self.idle_s = 0.0  # time in which it waited for sockets
        self.connections: set[Watched] = set()
        self.turns: deque[Connection] = deque()  # stopped in the middle, so that others have their turn
        self.pool = pool or Pool(max(_POOL_THREADS // 2, min(_POOL_THREADS, _cores())), "file_dataset-disk")
        self.buffers = Buffers(buffers, self.call)
        self.names = Names(self.pool, self.call)
        # time in which the loop itself was on time: what stands still here is a server, not a fn that holds the GIL
        self.clock = self.ticked = 0.0
        _living.add(self)

    # from any thread

    def submit(self, lane: Lane, exchange: Exchange | Future[None]) -> None:
        """Queue an exchange; or a Future, that is resolved when it is its turn and counts until `release`.

        Raises:
            OSError: the loop's thread could not be started; nothing is queued.
        """
        self._be_running()
        lane.queue.append(exchange)
        self._queue(lane)
        self._wake()

    def open(self, lane: Lane, supply: Supply) -> None:
        """Have free places of a lane taken by ranges of an object; from any thread."""
        lane.open(supply)
        self._queue(lane)
        self._wake()

    def release(self, lane: Lane) -> None:
        """End what a Future stood for."""
        self.call(lambda: self.ended(lane))

    def call(self, work: Callable[[], object]) -> None:
        """Have the loop thread do something short.

        Raises:
            OSError: the loop's thread could not be started.
        """
        self._be_running()
        self._calls.append(work)
        self._wake()

    def _queue(self, lane: Lane) -> None:
        if not lane.is_queued:
            lane.is_queued = True
            self._lanes.append(lane)

    def _be_running(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = start_thread("file_dataset-http", self._run)

    def _wake(self) -> None:
        if self._is_asleep:
            self._is_asleep = False  # before it is sent: the loop may be asleep again by the time that this is noted
            try:  # noqa: SIM105  # suppress() is Python code, in which a signal could come
                self._wake_out.send(b"\0")
            except BlockingIOError:
                pass

    # on the loop's thread

    def _run(self) -> None:
        with self._lock:  # a Ctrl-C between the start and its note must not give one loop two threads
            if self._thread is None:
                self._thread = threading.current_thread()
            elif self._thread is not threading.current_thread():
                return
        self.now_s = time.monotonic()
        self._next_tick = self.now_s + _TICK_S
        while True:
            try:
                self._turn()
            except Exception:
                # a bug: what it hit runs into its timeout, the others go on
                logger.exception("the loop of file_dataset's transfers met an error of its own")

    def _turn(self) -> None:
        self._is_asleep = True  # from here on a caller wakes the loop; what came before is looked at now
        if self._calls or self._lanes or self.turns:
            self._is_asleep = False
            wait_s = 0.0
        else:
            wait_s = self._wait_s()
        before = time.monotonic()
        events = self.selector.select(wait_s)
        self._is_asleep = False
        now = time.monotonic()
        self.idle_s += now - before
        self.clock += min(now - self.now_s, wait_s + _LATE_S)
        self.now_s = now
        for key, mask in events:
            connection: Watched | None = key.data
            if connection is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_in.recv(4096)
            else:
                connection.ready(mask)
        for _ in range(len(self.turns)):
            self.turns.popleft().go_on()
        while self._calls:
            self._calls.popleft()()
        self._start_all(now)
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            for connection in list(self.connections):
                connection.tick()
            self.ticked = self.clock

    def _wait_s(self) -> float:
        """Return how long to wait for sockets at most."""
        due_s = [*self._paced.values(), *([self._next_tick] if self.connections else [])]
        return max(0.0, min(due_s) - time.monotonic()) if due_s else _ASLEEP_S

    def _start_all(self, now: float) -> None:
        for lane in [lane for lane, at in self._paced.items() if at <= now]:
            del self._paced[lane]
            self._queue(lane)
        while self._lanes:
            lane = self._lanes.popleft()
            lane.is_queued = False
            if lane not in self._paced:
                self._start(lane)

    def _next(self, lane: Lane) -> Exchange | Future[None] | None:
        """Return what a lane may send now; None: nothing, or only later."""
        if lane.is_full:
            return None
        if lane.has_more and (wait_s := lane.wait_s(self.now_s)):
            self._paced[lane] = self.now_s + wait_s
            return None
        return lane.next(self)

    def _start(self, lane: Lane) -> None:
        while (exchange := self._next(lane)) is not None:
            if isinstance(exchange, Future):
                exchange.set_result(None)
                continue
            exchange.sent_s = self.now_s
            if exchange.is_large and (offloaded := next(lane.offloaded)) is not None:
                try:
                    offloaded.send(self, exchange)
                except OSError as exc:  # no thread for the other loop: this one sends it
                    logger.debug("%s", exc)
                else:
                    continue
            try:
                is_wanted = exchange.begin()
            except Exception as exc:  # noqa: BLE001  # handed over
                exchange.deliver(None, exc)
                is_wanted = False
            if is_wanted:
                self._send(lane, exchange)
            else:
                lane.ended()

    def _send(self, lane: Lane, exchange: Exchange) -> None:
        idle = lane.idle.get(exchange.endpoint)
        # a request that a stale connection swallowed goes over a new one
        if idle and not exchange.is_second_try:
            idle.pop().take(exchange)
        elif (addresses := self.names.addresses(exchange.endpoint)) is not None:
            self._connect(lane, exchange, addresses)
        else:
            self._look_up(lane, exchange)

    def _connect(self, lane: Lane, exchange: Exchange, addresses: list[Address]) -> None:
        def connected(sock: Stream) -> None:
            Connection(self, lane, exchange.endpoint, sock).take(exchange)

        Dial(self, lane, exchange, addresses, connected)

    def _look_up(self, lane: Lane, exchange: Exchange) -> None:
        def send(addresses: list[Address], error: OSError | None) -> None:
            if error is None:
                self._connect(lane, exchange, addresses)
            else:
                self.ended(lane)
                exchange.deliver(None, error)

        self.names.look_up(exchange.endpoint, send)

    def ended(self, lane: Lane) -> None:
        """Count one request less, and start the next."""
        lane.ended()
        if lane.has_more:
            self._queue(lane)

    def again(self, lane: Lane, exchange: Exchange) -> None:
        """Send an exchange once more, over a new connection; it has its place in flight still."""
        exchange.is_second_try = True
        self._send(lane, exchange)

    # in a forked child

    def abandon(self) -> None:
        """Close every descriptor and nothing else: the loop's thread is not there, and its state is torn."""
        for connection in list(self.connections):
            # not close(): TLS may have been in the middle of something
            with contextlib.suppress(OSError):
                os.close(connection.sock.detach())
        _abandoned.append(self)
        self.selector.close()
        self._wake_in.close()
        self._wake_out.close()


def loops() -> list[Loop]:
    """Return this process's loops; all but the first are for large bodies alone."""
    return _per_process.shared("loops", _new_loops)


def _new_loops() -> list[Loop]:
    count = max(1, min(_LOOPS, _cores() // 2))
    buffers = max(2, BUFFERS // count)
    first = Loop(buffers=buffers)
    return [first, *(Loop(first.pool, buffers) for _ in range(1, count))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_living: weakref.WeakSet[Loop] = weakref.WeakSet()
_abandoned: list[Loop] = []  # never freed: in what state the fork left their TLS is not known


def _abandon() -> None:
    for each in list(_living):
        each.abandon()
    _living.clear()


os.register_at_fork(after_in_child=_abandon)
