"""The wire: HTTP/1.1 requests over kept-alive connections, on a loop thread. Bytes in, bytes out; no S3, no frames.

    Lane     requests to one store: a queue, and at most so many in flight
    Branch   those of a lane that another loop carries
    Exchange one request and what becomes of its answer; subclasses say what to send and where the body goes
    Wire     the loop: sockets, TLS, time; name look-ups, digests and writes of large bodies are done by a small pool

Measured on two cores beside an nginx on loopback: 64 sockets on one loop move 2,000 objects of 16 KiB several times
faster than 64 threads, which take the GIL from each other at every call. For the same reason small bodies stay on one
loop. Large ones are copied, and under TLS decrypted, without the GIL: where there are cores, more loops share them.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import selectors
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import httptools

from file_dataset import _per_process
from file_dataset._errors import mark_unanswered, store_error
from file_dataset._pool import Pool, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

# Sizes are guesses that measured well: larger ones gained nothing.
_SCRATCH_BYTES = 256 << 10
INLINE_BYTES = 256 << 10  # bodies up to this are hashed and written on the loop: a hop to the pool costs more
_RECORD_BYTES = 16 << 10  # of TLS, at most (https://datatracker.ietf.org/doc/html/rfc8446#section-5.1)
# 16 MiB for all large bodies that go to disk, of all loops. Each hop to the pool is a fight for the GIL: with a quarter
# of it a time, 1 GiB took 1.1 x the wall and CPU; with twice as much, or half as many, 300 x 1 MiB did.
_BUFFER_BYTES = 2 << 20
_BUFFERS = 8
_TURN_BYTES = 2 << 20  # what one connection may receive or send before the others have their turn
_HEAD_BYTES = 64 << 10  # of an answer; S3's are about 500 bytes
_INFORMATIONAL = 100  # answers of status 1xx before the one that counts; a guess far above any
_TOLD_BYTES = 1 << 20  # of a body that is not wanted, an error's XML say
_POOL_THREADS = 4  # for as many cores, and never less than half as many: one may wait for a name server
# One loop for two cores, at most so many. A guess: on two cores, one of them the server's, a second loop gained nothing
# for large bodies (wall 0.9 to 1.1 x), and small ones took 1.9 x on two.
_LOOPS = 4

_TICK_S = 0.25  # how late a stalled or cancelled exchange is noticed
_LATE_S = (
    0.5  # a loop that is later than this was kept from running (a fn that holds the GIL), and no server is to blame
)
# What drips is bounded too: the head of an answer by ten read timeouts, a body by the least speed that is no stall.
# Guesses: links to satellites and ships bring more. With a read timeout above botocore's own, the patient have it here.
_HEAD_TIMEOUTS = 10
SLOW_S = 30.0
SLOW_BYTES_S = 1 << 10
_PATIENT_S = 60.0
_IDLE_S = 15.0  # servers close idle connections sooner or later (AWS: about 20 s); a guess below
_NAMES_S = 30.0  # a name is looked up again after this: S3 moves its addresses
_THROTTLE_S = 1.0  # the requests that were in flight when the store first said "slow down" say the same

_STALE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
# what OpenSSL calls an answer to a handshake that is no TLS at all
NOT_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
NO_TLS_REMEDY = "the server speaks no TLS on this port: write http:// in endpoint_url, or the port that speaks https"
_ALERT = b"\x15\x03"  # how a TLS record begins that says what is wrong
# without an answer, the store's or the network's fault; a file that cannot be read is another `OSError`
_UNANSWERED = (ConnectionError, TimeoutError, ssl.SSLError)
_SLOW_DOWN = (429, 503)

_AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def stall_s(read_timeout_s: float) -> float:
    """Return for how many seconds a body may be slower than SLOW_BYTES_S."""
    return SLOW_S if read_timeout_s <= _PATIENT_S else read_timeout_s


@dataclass(frozen=True, eq=False)
class Endpoint:
    """Where a server is and how long it may keep silent. Connections belong to the one they were made for."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    connect_timeout_s: float = 60.0
    read_timeout_s: float = 60.0
    keepalive: bool = False


_Address: TypeAlias = "tuple[int, Any]"  # family, and what `connect` takes
_CLOSED = socket.socket()  # the socket of a connection that has none yet
_CLOSED.close()


class Target(Protocol):
    """Where a body goes, in order. Called by one thread at a time."""

    def wants(self) -> int:
        """Return how many bytes it takes; the connection is closed when more come."""

    def room(self) -> memoryview | None:
        """Return where in memory the bytes to come go; None: they are handed to `write`."""

    def arrived(self, chunk: memoryview) -> None:
        """Take note of bytes that lie in their place."""

    def write(self, chunk: memoryview) -> None:
        """Take the next bytes."""


class Answer:
    """Status and headers (names in lower case), and the body where no target took it."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        """Start with an empty body."""
        self.status, self.headers, self.body = status, headers, b""


class Exchange:
    """One request and what becomes of its answer. All methods are called on the loop's thread: they must not block."""

    __slots__ = ("cancelled", "endpoint", "is_head", "is_second_try")

    def __init__(self, endpoint: Endpoint, cancelled: threading.Event, *, is_head: bool = False) -> None:
        """Take where to send it, and what cancels it."""
        self.endpoint, self.cancelled, self.is_head, self.is_second_try = endpoint, cancelled, is_head, False

    @property
    def is_large(self) -> bool:
        """Whether its body is worth another loop's time, as far as one can tell when its turn comes."""
        return False

    def begin(self) -> bool:
        """Tell whether it is still wanted; called once, when its turn comes."""
        return not self.cancelled.is_set()

    def request(self) -> bytes:
        """Return the head of the request, with the body where that is small; called once per connection tried."""
        raise NotImplementedError

    def upload(self) -> FileBody | None:
        """Return the body that follows `request`, if it comes from a file."""
        return None

    def accept(self, answer: Answer) -> Target | None:
        """Return where the body goes; None: into `answer.body`. What it raises ends the exchange."""
        raise NotImplementedError

    def done(self, answer: Answer | None, error: BaseException | None) -> None:
        """Take the answer, whole, or what went wrong."""
        raise NotImplementedError


_NO_EXCHANGE = Exchange(Endpoint("", 0), threading.Event())


class FileBody:
    """Bytes of an open file, to be sent; closed by `close`."""

    __slots__ = ("by_kernel", "check", "fd", "left", "position")

    def __init__(self, fd: int, position: int, length: int, check: Callable[[int], object]) -> None:
        """Take the descriptor, and what raises when the file is not any more what it was.

        It is called before the last bytes go out: a server keeps nothing of a body that breaks off.
        """
        self.fd, self.position, self.left, self.check = fd, position, length, check
        self.by_kernel = hasattr(os, "sendfile")  # until it is refused

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Lane:
    """Requests to one store: at most `limit` in flight; fewer after the store said that they are too many."""

    def __init__(self, limit: int, others: Sequence[Wire] = ()) -> None:
        """Start with all of them allowed.

        Args:
            limit: the most that are in flight.
            others: loops that carry some of what is large; the one that it is submitted to carries the rest.
        """
        self.limit = limit
        self.branches = itertools.cycle([None, *(Branch(self, loop) for loop in others)])
        self.window = float(limit)
        self.in_flight = 0
        self.queue: deque[Exchange | Future[None]] = deque()
        self.is_queued = False
        self.idle: dict[Endpoint, list[_Connection]] = {}
        self.moves = 0  # grows while bytes move; counted in answers, and in connections that a tick saw moving
        self._throttled_at = -_THROTTLE_S
        self.answers = 0  # that began to arrive; of threads that count at once one may be lost

    def heard(self) -> None:
        """Count an answer, whatever it says."""
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


class Branch(Lane):
    """Requests of a lane that another loop carries: each has its place in flight at home, where it is judged."""

    def __init__(self, lane: Lane, loop: Wire) -> None:
        """Take the lane, and the loop that carries."""
        super().__init__(lane.limit)
        self._lane, self._loop = lane, loop
        self._home = loop  # until the first comes

    def carry(self, home: Wire, exchange: Exchange) -> None:
        """Have the other loop send it."""
        self._home = home
        self._loop.submit(self, exchange)

    def heard(self) -> None:
        """Count an answer of the lane's."""
        self._lane.heard()

    def throttled(self) -> None:
        """Tell the lane."""
        self._home.call(self._lane.throttled)

    def answered(self) -> None:
        """Tell the lane."""
        self._home.call(self._lane.answered)

    def moved(self) -> None:
        """Tell the lane; that one is counted for another is no matter."""
        self._lane.moves += 1

    def ended(self) -> None:
        """Give the place in flight back."""
        super().ended()
        self._home.release(self._lane)


class Wire:
    """One loop thread and its sockets. Made anew in a forked child; a daemon, so that it never holds up an exit."""

    def __init__(self, pool: Pool | None = None, buffers: int = _BUFFERS) -> None:
        """Start no thread yet; the first request does.

        Args:
            pool: what blocks is done there; None: by a pool of its own.
            buffers: how many large bodies may be on their way to disk.
        """
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)  # noqa: FBT003  # the standard library's
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._calls: deque[Callable[[], object]] = deque()
        self._lanes: deque[Lane] = deque()  # with something in their queue
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_asleep = False
        self._last = self._next_tick = 0.0
        self.connections: set[_Connection] = set()
        self.turns: deque[_Connection] = deque()  # stopped in the middle, so that others have their turn
        self.pool = pool or Pool(max(_POOL_THREADS // 2, min(_POOL_THREADS, _cores())), "file_dataset-disk")
        self.scratch = bytearray(_SCRATCH_BYTES)
        self.view = memoryview(self.scratch)
        self._buffers: list[bytearray] = []
        self._unmade = buffers
        self.starved: deque[_Connection] = deque()  # waiting for a buffer
        self._names: dict[tuple[str, int], tuple[float, list[_Address]]] = {}
        self._asked: dict[tuple[str, int], list[tuple[Lane, Exchange]]] = {}
        # time in which the loop itself was on time: what stands still here is a server, not a fn that holds the GIL
        self.clock = self.ticked = 0.0
        _living.add(self)

    # from any thread

    def submit(self, lane: Lane, exchange: Exchange | Future[None]) -> None:
        """Queue an exchange; or a Future, that is answered when it is its turn and counts until `release`.

        Raises:
            OSError: the loop's thread could not be started; nothing is queued.
        """
        self._be_running()
        lane.queue.append(exchange)
        self._queue(lane)
        self._wake()

    def _queue(self, lane: Lane) -> None:
        if not lane.is_queued:
            lane.is_queued = True
            self._lanes.append(lane)

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

    def _be_running(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = start_thread("file_dataset-wire", self._loop)

    def _wake(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            with contextlib.suppress(BlockingIOError):
                self._wake_out.send(b"\0")

    # on the loop's thread

    def _loop(self) -> None:
        with self._lock:  # a Ctrl-C between the start and its note must not give one loop two threads
            if self._thread is None:
                self._thread = threading.current_thread()
            elif self._thread is not threading.current_thread():
                return
        self._last = time.monotonic()
        self._next_tick = self._last + _TICK_S
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
            wait_s: float | None = 0.0
        else:
            wait_s = max(0.0, self._next_tick - time.monotonic()) if self.connections else None
        events = self._selector.select(wait_s)
        self._is_asleep = False
        now = time.monotonic()
        if wait_s is not None:
            self.clock += min(now - self._last, wait_s + _LATE_S)
        self._last = now
        for key, mask in events:
            connection: _Connection | None = key.data
            if connection is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_in.recv(4096)
            else:
                connection.ready(mask)
        for _ in range(len(self.turns)):
            self.turns.popleft().ready(selectors.EVENT_READ | selectors.EVENT_WRITE)
        while self._calls:
            self._calls.popleft()()
        while self._lanes:
            lane = self._lanes.popleft()
            lane.is_queued = False
            self._start(lane)
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            for connection in list(self.connections):
                connection.tick()
            self.ticked = self.clock

    def _start(self, lane: Lane) -> None:
        while lane.queue and lane.in_flight < lane.window:
            exchange = lane.queue.popleft()
            lane.in_flight += 1
            if isinstance(exchange, Future):
                exchange.set_result(None)
                continue
            if exchange.is_large and (branch := next(lane.branches)) is not None:
                try:
                    branch.carry(self, exchange)
                except OSError as exc:  # no thread for the other loop: this one carries it
                    logger.debug("%s", exc)
                else:
                    continue
            try:
                is_wanted = exchange.begin()
            except Exception as exc:  # noqa: BLE001  # handed over
                _tell(exchange, None, exc)
                is_wanted = False
            if is_wanted:
                self._connected(lane, exchange)
            else:
                lane.ended()

    def _connected(self, lane: Lane, exchange: Exchange) -> None:
        idle = lane.idle.get(exchange.endpoint)
        # a request that a stale connection swallowed goes over a new one
        if idle and not exchange.is_second_try:
            idle.pop().take(exchange)
        else:
            addresses = self._addresses(exchange.endpoint)
            if addresses is None:
                self._look_up(lane, exchange)
            else:
                _Connection(self, lane, exchange, addresses)

    def ended(self, lane: Lane) -> None:
        """Count one request less, and start the next."""
        lane.ended()
        if lane.queue:
            self._queue(lane)

    def again(self, lane: Lane, exchange: Exchange) -> None:
        """Send an exchange once more, over a new connection; it has its place in flight still."""
        exchange.is_second_try = True
        self._connected(lane, exchange)

    def kept(self, connection: _Connection) -> None:
        """Keep an idle connection for the next request; the longest idle goes when there are too many."""
        lane = connection.lane
        idle = lane.idle.setdefault(connection.endpoint, [])
        idle.append(connection)
        if sum(map(len, lane.idle.values())) > lane.limit:
            oldest = min((found[0] for found in lane.idle.values() if found), key=lambda each: each.moved_at)
            oldest.close()

    def _addresses(self, endpoint: Endpoint) -> list[_Address] | None:
        """Return where a server is, the address to try first in front; None: not known yet."""
        at = endpoint.host, endpoint.port
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                socket.inet_pton(family, endpoint.host)
                return [(family, at)]
        until, found = self._names.get(at, (0.0, []))
        if time.monotonic() > until:
            return None
        found.append(found.pop(0))  # S3 answers with several: each connection tries another first
        return list(found)

    def _look_up(self, lane: Lane, exchange: Exchange) -> None:
        at = exchange.endpoint.host, exchange.endpoint.port
        self._asked.setdefault(at, []).append((lane, exchange))
        if len(self._asked[at]) > 1:
            return

        def work() -> None:
            error: OSError | None = None
            try:
                infos = socket.getaddrinfo(*at, type=socket.SOCK_STREAM)
                found: list[_Address] = [(info[0], info[4]) for info in infos]
                self._names[at] = time.monotonic() + _NAMES_S, found
            except (OSError, UnicodeError) as exc:
                error = store_error(ConnectionError, f"the name {at[0]!r} could not be looked up: {exc}")
                mark_unanswered(error)
            self.call(lambda: self._looked_up(at, error))

        try:
            self.pool.submit(work)
        except OSError as exc:
            self._looked_up(at, exc)

    def _looked_up(self, at: tuple[str, int], error: OSError | None) -> None:
        for lane, exchange in self._asked.pop(at):
            if error is None:
                _Connection(self, lane, exchange, list(self._names[at][1]))
            else:
                self.ended(lane)
                _tell(exchange, None, error)

    def buffer(self) -> bytearray | None:
        """Return a buffer; None: all are on their way to disk."""
        if self._buffers:
            return self._buffers.pop()
        if self._unmade:
            self._unmade -= 1
            return bytearray(_BUFFER_BYTES)
        return None

    def give_back(self, buffer: bytearray) -> None:
        """Take a buffer back, and let a connection go on that waited for one; from any thread."""
        self._buffers.append(buffer)
        if self.starved:
            self.call(self.feed)

    def has_buffer(self) -> bool:
        """Tell whether one is there."""
        return bool(self._buffers)

    def feed(self) -> None:
        """Let connections go on for which there is a buffer."""
        while self.starved and self._buffers:
            self.starved.popleft().go_on()

    def abandon(self) -> None:
        """Close every descriptor and nothing else: in a forked child, where the loop is not and its state is torn."""
        for connection in list(self.connections):
            # not close(): TLS may have been in the middle of something
            with contextlib.suppress(OSError):
                os.close(connection.sock.detach())
        _abandoned.append(self)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()


class _Strand:
    """Digest and writes of one large body, in order, on the pool."""

    __slots__ = ("_error", "_is_running", "_lock", "_target", "_then", "_todo", "_wire")

    def __init__(self, wire: Wire, target: Target) -> None:
        self._wire, self._target = wire, target
        self._todo: deque[tuple[memoryview, bytearray | None]] = deque()
        self._lock = threading.Lock()
        self._is_running = False
        self._error: BaseException | None = None
        self._then: Callable[[BaseException | None], object] | None = None

    def feed(self, chunk: memoryview, buffer: bytearray | None) -> None:
        """Take the next bytes: those in a buffer are written, others lie in their place."""
        with self._lock:
            self._todo.append((chunk, buffer))
            if self._is_running:
                return
            self._is_running = True
        try:
            self._wire.pool.submit(self._drain)
        except OSError as exc:  # no thread: the loop does it, though others wait for it meanwhile
            logger.debug("%s", exc)
            self._drain()

    def finish(self, then: Callable[[BaseException | None], object]) -> None:
        """Call `then` on the loop when all bytes are taken."""
        with self._lock:
            self._then = then
            if self._is_running:
                return
        then(self._error)

    @property
    def error(self) -> BaseException | None:
        """What went wrong, as soon as it did."""
        return self._error

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    self._is_running = False
                    if (then := self._then) is not None:
                        self._wire.call(lambda: then(self._error))
                    return
                chunk, buffer = self._todo.popleft()
            try:
                if self._error is None and buffer is None:
                    self._target.arrived(chunk)
                elif self._error is None:
                    self._target.write(chunk)
            except Exception as exc:  # noqa: BLE001  # handed over
                self._error = exc
            del chunk
            if buffer is not None:
                self._wire.give_back(buffer)


class _Connection:
    """One socket, and the exchange that it is busy with."""

    __slots__ = (
        "_addresses", "_answer", "_file", "_head", "_interim", "_is_answered", "_is_over", "_is_reusable", "_is_used",
        "_left", "_mark", "_out", "_parser", "_phase", "_room", "_strand", "_target", "_told", "_wants_write",
        "endpoint", "exchange", "lane", "moved_at", "sock", "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, lane: Lane, exchange: Exchange, addresses: list[_Address]) -> None:
        self.wire, self.lane, self.exchange, self.endpoint = wire, lane, exchange, exchange.endpoint
        self._phase: Callable[[int], None] = self._connecting
        self._is_used = self._is_over = self._wants_write = False
        self._clear()
        self.moved_at = wire.clock
        self.sock = _CLOSED
        self._addresses = addresses
        wire.connections.add(self)
        self._connect()

    def _clear(self) -> None:
        self._out: memoryview | None = None
        self._file: FileBody | None = None
        self._head = b""
        self._parser: _Parser | None = None
        self._answer: Answer | None = None
        self._target: Target | None = None
        self._room: memoryview | None = None
        self._strand: _Strand | None = None
        self._left = self._interim = self._told = 0
        self._mark: tuple[str, int, float] | None = None
        self._is_answered = False
        self._is_reusable = True

    # connecting

    def _connect(self) -> None:
        family, address = self._addresses.pop(0)
        try:
            self.sock = socket.socket(family, socket.SOCK_STREAM)
            self.sock.setblocking(False)  # noqa: FBT003
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.endpoint.keepalive:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            code = self.sock.connect_ex(address)
        except OSError as exc:
            code = exc.errno or errno.EIO
        if code not in (0, errno.EINPROGRESS):
            self._refused(code)
            return
        self._wants_write = True
        self.wire._selector.register(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)  # noqa: SLF001

    def _refused(self, code: int) -> None:
        self._forget_socket()
        if self._addresses:
            self._connect()
            return
        where = f"{self.endpoint.host}:{self.endpoint.port}"
        self._fail(store_error(ConnectionError, f"could not connect to {where}: {os.strerror(code)}"))

    def _connecting(self, _: int) -> None:
        if code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._refused(code)
            return
        if self.endpoint.tls is not None:
            self.wire._selector.unregister(self.sock)  # noqa: SLF001
            self.sock = self.endpoint.tls.wrap_socket(
                self.sock, server_hostname=self.endpoint.host, do_handshake_on_connect=False
            )
            self.wire._selector.register(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)  # noqa: SLF001
            self._phase = self._shaking_hands
            self._shaking_hands(0)
        else:
            self._send_request()

    def _shaking_hands(self, _: int) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)  # noqa: S101  # made in _connecting
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._want_write(wanted=False)
        except ssl.SSLWantWriteError:
            self._want_write(wanted=True)
        except ssl.SSLError as exc:
            if exc.reason not in NOT_TLS:
                raise
            where = f"{self.endpoint.host}:{self.endpoint.port}"
            raise store_error(OSError, f"no TLS with {where}: {exc}; {NO_TLS_REMEDY}") from None
        else:
            self._send_request()

    # an exchange

    def take(self, exchange: Exchange) -> None:
        """Send the next request over a kept-alive connection."""
        self.exchange, self._is_used, self.moved_at = exchange, True, self.wire.clock
        try:
            self._send_request()
        except Exception as exc:  # noqa: BLE001  # handed over
            self._broken(exc)

    def _send_request(self) -> None:
        self._phase = self._talking
        self._out = memoryview(self.exchange.request())
        self._file = self.exchange.upload()
        self._send()

    def ready(self, mask: int) -> None:
        """Do what the socket is ready for."""
        try:
            self._phase(mask)
        except _AGAIN:
            pass
        except Exception as exc:  # noqa: BLE001  # a target's own error, or the server's; handed over
            self._broken(exc)

    def _talking(self, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            try:  # noqa: SIM105  # suppress() costs more than what it would save a reader
                self._receive()
            except _AGAIN:
                pass
        if mask & selectors.EVENT_WRITE and self._phase == self._talking and (self._out is not None or self._file):
            self._send()

    def _idling(self, _: int) -> None:
        self.close()  # the server closed it, or says what was not asked for

    def _send(self) -> None:
        try:
            while self._out is not None:
                count = self.sock.send(self._out)
                self.moved_at = self.wire.clock
                self._out = self._out[count:] if count < len(self._out) else None
            if self._file is not None:
                self._send_file(self._file)
        except _AGAIN:
            self._want_write(wanted=True)
        except (BrokenPipeError, ConnectionResetError):
            # the server takes no more: its answer, if there is one, says why
            self._is_reusable = False
            self._out = None
            self._close_file()
            self._want_write(wanted=False)
            self._receive()
        else:
            if self._file is None:
                self._want_write(wanted=False)

    def _send_file(self, file: FileBody) -> None:
        turn = _TURN_BYTES
        is_plain = self.endpoint.tls is None
        while file.left:
            if turn <= 0:
                self._want_write(wanted=True)  # comes again at once: the socket takes more
                return
            if self.exchange.cancelled.is_set():
                raise InterruptedError("cancelled")
            count = min(file.left, _TURN_BYTES)
            if file.left == count:
                file.check(file.fd)
            count = self._send_by_kernel(file, count) if file.by_kernel and is_plain else self._send_copied(file, count)
            self.moved_at = self.wire.clock
            file.position += count
            file.left -= count
            turn -= count
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _send_by_kernel(self, file: FileBody, most: int) -> int:
        try:
            count = os.sendfile(self.sock.fileno(), file.fd, file.position, most)
        except (*_AGAIN, ConnectionError):
            raise
        except OSError:  # file systems, and sandboxes, refuse it in many ways; what else is wrong shows again
            file.by_kernel = False
            return self._send_copied(file, most)
        if count == 0:
            raise _became_shorter(file)
        return count

    def _send_copied(self, file: FileBody, most: int) -> int:
        # read again after SSLWantWrite: the bytes are the same, and they may come from another place
        got = os.preadv(file.fd, [self.wire.view[: min(most, _SCRATCH_BYTES // 2)]], file.position)
        if got == 0:
            raise _became_shorter(file)
        return self.sock.send(self.wire.view[:got])

    def _receive(self) -> None:
        turn = _TURN_BYTES
        is_tls = self.endpoint.tls is not None
        while turn > 0:
            if self._answer is None:
                count, asked = self._receive_head()
            elif self._target is None:
                count, asked = self._receive_told()
            elif self._room is not None:
                count, asked = self._receive_in_place(self._room)
            else:
                count, asked = self._receive_for_disk()
            self.moved_at = self.wire.clock
            if self._phase != self._talking or (count < asked and not is_tls):
                return
            turn -= count
        if is_tls:  # what is decrypted already would wake no selector
            self.wire.turns.append(self)

    def _receive_head(self) -> tuple[int, int]:
        view = self.wire.view
        count = self.sock.recv_into(view)
        if count == 0:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection without an answer")
        if not self._is_answered:
            self._is_answered = True
            self.lane.heard()
        if count == _RECORD_BYTES:  # more is on its way: what is small comes whole
            try:  # noqa: SIM105  # suppress() costs more than what it would save a reader
                count += self.sock.recv_into(view[count:])
            except OSError:  # the next call meets it again
                pass
        self._take_head(self._head + bytes(view[:count]) if self._head else view[:count])
        return count, _SCRATCH_BYTES

    def _take_head(self, data: bytes | memoryview) -> None:
        parser, rest = self._parsed(data)
        while parser is not None and 100 <= parser.status < 200:  # noqa: PLR2004  # the answer comes after it
            self._interim += 1
            if self._interim > _INFORMATIONAL:
                message = f"the server sent more than {_INFORMATIONAL} interim (1xx) answers and no final one"
                raise store_error(ConnectionError, message)
            parser, rest = self._parsed(bytes(rest))
        if parser is not None:
            self._head = b""
            self._begin_body(parser, memoryview(rest))

    def _parsed(self, data: bytes | memoryview) -> tuple[_Parser | None, bytes | memoryview]:
        """Return what the first head in the data says, None while it is not whole, and what follows it."""
        raw = data if isinstance(data, bytes) else self.wire.scratch
        end = raw.find(b"\r\n\r\n", 0, len(data))
        if end < 0:
            if raw.startswith(_ALERT):
                where = f"{self.endpoint.host}:{self.endpoint.port}"
                raise store_error(OSError, f"{where} speaks TLS on this port: write https:// in endpoint_url")
            if len(data) > _HEAD_BYTES:
                raise store_error(ConnectionError, "the answer begins with no HTTP headers")
            self._head = bytes(data)
            return None, b""
        parser = _Parser()
        try:
            parser.feed(data[: end + 4])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise store_error(ConnectionError, f"the answer is no HTTP: {exc}") from None
        return parser, data[end + 4 :]

    def _begin_body(self, parser: _Parser, rest: memoryview) -> None:
        answer = Answer(parser.status, parser.headers)
        self._answer = answer
        self._is_reusable &= parser.keeps_alive and self._out is None and self._file is None
        length = answer.headers.get("content-length")
        is_chunked = "transfer-encoding" in answer.headers
        if self.exchange.is_head or parser.status in (204, 304):
            self._left = 0
        elif is_chunked or length is None:
            self._left = -1  # until the last chunk, or the end of the connection
            self._parser = parser
            self._is_reusable &= is_chunked
        else:
            self._left = int(length)
        if self._parser is None:
            parser.forget()
        target = self.exchange.accept(answer)
        if target is None:
            self._tell(rest)
        elif self._left < 0:
            raise store_error(OSError, "the answer has no Content-Length")
        else:
            self._fill_target(target, rest)

    def _fill_target(self, target: Target, rest: memoryview) -> None:
        self._target, self._room = target, target.room()
        if (wanted := target.wants()) < self._left:
            self._left = wanted
            self._is_reusable = False  # more comes than was asked for
        if len(rest) > self._left:
            self._is_reusable = False
            rest = rest[: self._left]
        if self._room is not None:
            self._room = self._room[: self._left]
        if self._left > INLINE_BYTES:
            self._strand = _Strand(self.wire, target)
        if self._room is not None:
            self._room[: len(rest)] = rest
            if self._strand is not None:
                self._strand.feed(self._room[: len(rest)], None)
                self._room = self._room[len(rest) :]
            # a small one arrives in one piece for the digest's sake: calls for segments would cost more than the bytes
        elif len(rest):
            target.write(rest)
        self._left -= len(rest)
        if self._left == 0:
            self._end_body()

    def _receive_told(self) -> tuple[int, int]:
        view = self.wire.view
        count = self.sock.recv_into(view)
        if count == 0:
            if self._left < 0 and self._answer is not None and "transfer-encoding" not in self._answer.headers:
                self._complete()  # without a length the end of the connection ends the body
                return 0, 0
            raise ConnectionResetError(errno.ECONNRESET, "the answer broke off")
        self._tell(view[:count])
        return count, _SCRATCH_BYTES

    def _tell(self, chunk: memoryview) -> None:
        answer = self._answer
        assert answer is not None  # noqa: S101
        self._told += len(chunk)  # with what frames it: extensions and trailers have no end of their own
        if self._parser is not None:
            try:
                self._parser.feed(chunk)
            except httptools.HttpParserError as exc:
                raise store_error(ConnectionError, f"the answer is no HTTP: {exc}") from None
            answer.body = b"".join(self._parser.body)
            is_whole = self._parser.is_complete
        else:
            self._is_reusable &= len(chunk) <= self._left
            answer.body += bytes(chunk[: self._left])
            self._left -= min(len(chunk), self._left)
            is_whole = self._left == 0
        if self._told > _TOLD_BYTES:
            raise store_error(ConnectionError, f"the store answered {answer.status} with more than {_TOLD_BYTES} bytes")
        if is_whole:
            self._complete()

    def _receive_in_place(self, room: memoryview) -> tuple[int, int]:
        position = len(room) - self._left if self._strand is None else 0
        asked = self._left if self._strand is None else min(self._left, _BUFFER_BYTES)
        count = self.sock.recv_into(room[position : position + asked])
        if count == 0:
            self._broke_off()
        self._left -= count
        if self._strand is not None:
            self._strand.feed(room[:count], None)
            self._room = room[count:]
        if self._left == 0:
            self._end_body()
        return count, asked

    def _receive_for_disk(self) -> tuple[int, int]:
        if self._strand is None:
            assert self._target is not None  # noqa: S101  # else the answer has the body
            asked = min(self._left, _SCRATCH_BYTES)
            view = self.wire.view[:asked]
            count = self.sock.recv_into(view)
            if count == 0:
                self._broke_off()
            self._target.write(view[:count])
        else:
            if self._strand.error is not None:
                raise self._strand.error
            buffer = self.wire.buffer()
            if buffer is None:
                self._pause()
                return 0, 1
            asked = min(self._left, _BUFFER_BYTES)
            count = 0
            try:
                count = self._fill(memoryview(buffer)[:asked])
            finally:
                if not count:
                    self.wire.give_back(buffer)
            self._strand.feed(memoryview(buffer)[:count], buffer)
        self._left -= count
        if self._left == 0:
            self._end_body()
        return count, asked

    def _fill(self, view: memoryview) -> int:
        """Receive as much as is there, so that the pool is called for many bytes at a time."""
        filled = 0
        while filled < len(view):
            try:
                count = self.sock.recv_into(view[filled:])
                if count == 0:
                    self._broke_off()
            except OSError:
                if filled:  # the next call meets it again
                    return filled
                raise
            filled += count
        return filled

    def _pause(self) -> None:
        self.wire._selector.unregister(self.sock)  # noqa: SLF001
        self._phase = self._paused
        self.wire.starved.append(self)
        if self.wire.has_buffer():  # one came back before this could be seen
            self.wire.call(self.wire.feed)

    def _paused(self, _: int) -> None:
        """Wait for a buffer; the time does not count."""

    def go_on(self) -> None:
        """Receive again: there is a buffer."""
        if self._phase == self._paused:
            self._phase = self._talking
            self.wire._selector.register(self.sock, selectors.EVENT_READ, self)  # noqa: SLF001
            self._wants_write = False
            self.moved_at = self.wire.clock
            self._mark = None
            self.wire.turns.append(self)

    def _broke_off(self) -> None:
        raise ConnectionResetError(errno.ECONNRESET, f"the connection broke off {self._left} bytes before the end")

    def _end_body(self) -> None:
        if self._strand is not None:
            self._phase = self._waiting
            self._strand.finish(self._body_taken)
            return
        if self._room is not None and self._target is not None:
            self._target.arrived(self._room)
        self._complete()

    def _waiting(self, mask: int) -> None:
        # for the pool; the server has no more to say, and what it says all the same makes the connection useless
        del mask
        self._is_reusable = False
        self.wire._selector.unregister(self.sock)  # noqa: SLF001
        self._phase = _nothing

    def _body_taken(self, error: BaseException | None) -> None:
        if self._is_over:  # given up meanwhile
            return
        if error is not None:
            self._broken(error)
        else:
            self._complete()

    def _complete(self) -> None:
        exchange, answer = self.exchange, self._answer
        self._close_file()
        is_reusable = self._is_reusable
        self._clear()
        self.exchange = _NO_EXCHANGE  # an idle connection must not keep what it has brought
        if answer is not None and answer.status in _SLOW_DOWN:
            self.lane.throttled()
        else:
            self.lane.answered()
        if is_reusable:
            self._phase, self.moved_at = self._idling, self.wire.clock
            self.wire.kept(self)
        else:
            self.close()
        self.wire.ended(self.lane)
        _tell(exchange, answer, None)

    # ends

    def _broken(self, error: BaseException) -> None:
        is_stale = self._is_used and not self._is_answered and isinstance(error, _STALE)
        exchange = self.exchange
        if is_stale and not exchange.is_second_try and not exchange.cancelled.is_set():
            # the server had closed the connection before it saw the request: no attempt of the store's; and it has
            # closed those, too, that were idle for longer
            self.close()
            for idle in list(self.lane.idle.get(self.endpoint, ())):
                idle.close()
            self.wire.again(self.lane, exchange)
            return
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        has_connection = self._phase not in (self._connecting, self._shaking_hands)
        if not self._is_answered and (isinstance(error, _UNANSWERED) or not has_connection):
            mark_unanswered(error)
        exchange, strand = self.exchange, self._strand
        if self._room is not None and strand is None and self._target is not None and self._left > 0:
            # what arrived is kept for the next attempt
            self._target.arrived(self._room[: len(self._room) - self._left])
        self.close()
        self.wire.ended(self.lane)
        if strand is not None:
            strand.finish(lambda failed: _tell(exchange, None, failed or error))
        else:
            _tell(exchange, None, error)

    def tick(self) -> None:
        """Give up what stands still or is not wanted any more."""
        still_s = self.wire.clock - self.moved_at
        # a request that was sent is no sign of life: the system takes what the server does not
        if self.moved_at >= self.wire.ticked and (self._is_answered or self._file or self._phase == self._idling):
            self.lane.moved()
        if self._phase == self._idling:
            if still_s > _IDLE_S:
                self.close()
        elif self.exchange.cancelled.is_set():
            self._fail(InterruptedError("cancelled"))
        elif self._phase in (self._connecting, self._shaking_hands):
            if still_s > self.endpoint.connect_timeout_s:
                where = f"{self.endpoint.host}:{self.endpoint.port}"
                self._fail(
                    store_error(TimeoutError, f"no connection to {where} in {self.endpoint.connect_timeout_s} s")
                )
        elif self._phase == self._talking and still_s > self.endpoint.read_timeout_s:
            self._fail(store_error(TimeoutError, f"the store sent nothing for {self.endpoint.read_timeout_s} s"))
        elif self._phase == self._talking and (reason := self._too_slow()) is not None:
            self._fail(store_error(TimeoutError, reason))

    def _too_slow(self) -> str | None:
        """Return what is wrong with an exchange that moves, and would take for ever."""
        clock, limit = self.wire.clock, self.endpoint.read_timeout_s
        if self._out is not None or self._file is not None:
            doing, count = "took", len(self._out or b"") + (self._file.left if self._file is not None else 0)
        elif self._answer is None:
            doing, count = "answers", 0
        else:
            doing, count = "sent", self._left if self._parser is None else len(self._answer.body)
        if self._mark is None or self._mark[0] != doing:
            self._mark = doing, count, clock
            return None
        _, before, since = self._mark
        spent_s, moved = clock - since, abs(count - before)
        if doing == "answers":
            if spent_s <= max(SLOW_S, _HEAD_TIMEOUTS * limit):
                return None
            return f"the head of the answer was not whole after {spent_s:.0f} s"
        if spent_s <= stall_s(limit):
            return None
        if moved < SLOW_BYTES_S * spent_s:
            return f"the store {doing} {moved} bytes in {spent_s:.0f} s: less than {SLOW_BYTES_S} a second is a stall"
        self._mark = doing, count, clock
        return None

    def close(self) -> None:
        """Close the socket; the connection is of no use any more."""
        self._is_over = True
        self._close_file()
        self._forget_socket()
        self._phase = _nothing
        self.wire.connections.discard(self)
        idle = self.lane.idle.get(self.endpoint)
        if idle is not None and self in idle:
            idle.remove(self)
            if not idle:
                del self.lane.idle[self.endpoint]

    def _forget_socket(self) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.wire._selector.unregister(self.sock)  # noqa: SLF001
        self.sock.close()

    def _want_write(self, *, wanted: bool) -> None:
        if wanted != self._wants_write:
            self._wants_write = wanted
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self.wire._selector.modify(self.sock, events, self)  # noqa: SLF001


class _Parser:
    """One answer's head, and its body where that is chunked or ends with the connection, by httptools' C parser."""

    __slots__ = ("_parser", "body", "headers", "is_complete", "keeps_alive", "status")

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.is_complete = self.keeps_alive = False
        self.status = 0
        self._parser: Any = httptools.HttpResponseParser(self)

    def forget(self) -> None:
        """Let go of the parser, which refers back to this: the two would wait for the garbage collector."""
        self._parser = None

    def feed(self, data: bytes | memoryview) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.keeps_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


def _tell(exchange: Exchange, answer: Answer | None, error: BaseException | None) -> None:
    try:
        exchange.done(answer, error)
    except Exception:  # a bug: the connection is not to blame
        logger.exception("an exchange of file_dataset's transfers could not be ended")


def _nothing(_: int) -> None:
    """Do what a connection does that has ended."""


def _became_shorter(file: FileBody) -> OSError:
    file.check(file.fd)
    return store_error(OSError, "the file holds fewer bytes than it says it has")


def wires() -> list[Wire]:
    """Return this process's loops; all but the first are for large bodies alone."""
    return _per_process.shared("wires", _new_wires)


def _new_wires() -> list[Wire]:
    count = max(1, min(_LOOPS, _cores() // 2))
    buffers = max(2, _BUFFERS // count)
    first = Wire(buffers=buffers)
    return [first, *(Wire(first.pool, buffers) for _ in range(1, count))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_living: weakref.WeakSet[Wire] = weakref.WeakSet()
_abandoned: list[Wire] = []  # never freed: in what state the fork left their TLS is not known


def _abandon() -> None:
    for each in list(_living):
        each.abandon()
    _living.clear()


os.register_at_fork(after_in_child=_abandon)
