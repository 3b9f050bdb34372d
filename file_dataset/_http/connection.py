"""One socket to a server, over which one exchange goes after another."""

from __future__ import annotations

import contextlib
import errno
import selectors
import ssl
import threading
from typing import TYPE_CHECKING, Protocol

from file_dataset._errors import mark_unanswered, store_error
from file_dataset._http.bodies import Body, BodyLoop, IntoAnswer, NoBufferError, into_target
from file_dataset._http.buffers import SCRATCH_BYTES
from file_dataset._http.deadline import HEAD, Pace
from file_dataset._http.dial import DialLoop
from file_dataset._http.exchange import WOULD_BLOCK, Answer, Endpoint, Exchange
from file_dataset._http.parser import HeadReader, ResponseParser
from file_dataset._http.sending import TURN_BYTES, Sending
from file_dataset._http.tls import TlsSocket

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from concurrent.futures import Future

    from file_dataset._http.lane import Lane
    from file_dataset._http.tls import Stream

_IDLE_S = 15.0  # servers close idle connections sooner or later (AWS: about 20 s); a guess below
_SLOW_DOWN = (429, 503)
_STALE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
# without an answer, the store's or the network's fault; a file that cannot be read is another `OSError`
_UNANSWERED = (ConnectionError, TimeoutError, ssl.SSLError)


class ConnectionLoop(BodyLoop, DialLoop, Protocol):
    """What a connection needs of its loop."""

    turns: deque[Connection]  # stopped in the middle, so that others have their turn
    ticked: float
    now_s: float
    idle_s: float

    def submit(self, lane: Lane, exchange: Exchange | Future[None]) -> None:
        """Queue an exchange."""

    def release(self, lane: Lane) -> None:
        """Free a place in flight."""

    def again(self, lane: Lane, exchange: Exchange) -> None:
        """Send an exchange once more, over a new connection."""


_NO_EXCHANGE = Exchange(Endpoint("", 0), threading.Event())


class Connection:
    """One socket, and the exchange that it is busy with."""

    __slots__ = (
        "_answer", "_body", "_heads", "_is_answered", "_is_over", "_is_reusable", "_is_used", "_out", "_pace",
        "_phase", "_tls", "_wants_write", "endpoint", "exchange", "lane", "loop", "moved_at", "sock",
    )  # fmt: skip

    def __init__(self, loop: ConnectionLoop, lane: Lane, endpoint: Endpoint, sock: Stream) -> None:
        """Take over a connected socket, which the loop still watches for the dial."""
        self.loop, self.lane, self.endpoint, self.sock = loop, lane, endpoint, sock
        self._phase: Callable[[int], None] = self._idling
        self._is_used = self._is_over = self._wants_write = False
        self._tls = sock if isinstance(sock, TlsSocket) else None
        self._heads, self._pace = HeadReader(), Pace()
        self._clear()
        self.moved_at = loop.clock
        loop.connections.add(self)
        loop.selector.modify(sock, selectors.EVENT_READ, self)

    def _clear(self) -> None:
        self.exchange = _NO_EXCHANGE  # an idle connection must not keep what it has brought
        self._out: Sending | None = None
        self._answer: Answer | None = None
        self._body: Body | None = None
        self._pace.restart()
        self._is_answered = False
        self._is_reusable = True

    # an exchange

    def take(self, exchange: Exchange) -> None:
        """Send a request, the first or the next."""
        self.exchange, self._phase, self.moved_at = exchange, self._talking, self.loop.clock
        try:
            self._out = Sending(exchange)
            self._send(self._out)
            if self._tls is not None and not self._is_used:  # what came with the handshake wakes no selector
                self.loop.turns.append(self)
        except Exception as exc:  # noqa: BLE001  # handed over
            self._broken(exc)

    def ready(self, mask: int) -> None:
        """Do what the socket is ready for."""
        try:
            self._phase(mask)
        except WOULD_BLOCK:
            pass
        except Exception as exc:  # noqa: BLE001  # a target's own error, or the server's; handed over
            self._broken(exc)

    def go_on(self) -> None:
        """Go on receiving after the others had their turn, unless this one has ended or waits for something else."""
        if self._phase == self._talking:
            self.ready(selectors.EVENT_READ)

    def _talking(self, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            try:  # noqa: SIM105  # suppress() costs more than what it would save a reader
                self._receive()
            except WOULD_BLOCK:
                pass
        if mask & selectors.EVENT_WRITE and self._phase == self._talking and self._out is not None and self._out.left:
            self._send(self._out)

    def _idling(self, _: int) -> None:
        if self._tls is not None:
            try:
                self._tls.recv_into(self.loop.buffers.view[:1])
            except WOULD_BLOCK:
                return  # a session ticket, say
            except OSError:
                pass
        self.close()  # the server closed it, or sends what was not requested

    def _send(self, out: Sending) -> None:
        before = out.left
        try:
            is_all = out.send(self.sock, self.loop.buffers.view, is_plain=self._tls is None)
            self._want_write(wanted=not is_all)
        except WOULD_BLOCK:
            self._want_write(wanted=True)
        except (BrokenPipeError, ConnectionResetError):
            # the server takes no more: its answer, if there is one, says why
            self._is_reusable = False
            out.stop()
            self._want_write(wanted=False)
            self._receive()
        if out.left < before:
            self.moved_at = self.loop.clock

    def _receive(self) -> None:
        turn = TURN_BYTES
        is_plain = self._tls is None
        while turn > 0:
            if self._body is None:
                count, requested = self._receive_head(), SCRATCH_BYTES
            else:
                try:
                    count, requested = self._body.receive(self.sock)
                except NoBufferError:
                    self._pause()
                    return
            self.moved_at = self.loop.clock
            if self._body is not None and self._body.left == 0:
                self._end_body(self._body)
                return
            if count < requested and is_plain:
                return
            turn -= count
        if not is_plain:  # what was received already would wake no selector
            self.loop.turns.append(self)

    def _receive_head(self) -> int:
        buffers = self.loop.buffers
        count = self.sock.recv_into(buffers.view)
        if count == 0:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection without an answer")
        if not self._is_answered:
            self._is_answered = True
            self.lane.response_began()
        found = self._heads.read(self.endpoint, buffers, count)
        if found is not None:
            self._begin_body(*found)
        return count

    def _begin_body(self, parser: ResponseParser, rest: memoryview) -> None:
        answer = self._answer = Answer(parser.status, parser.headers)
        self._is_reusable &= parser.keeps_alive and (self._out is None or not self._out.left)
        length = answer.headers.get("content-length")
        is_chunked = "transfer-encoding" in answer.headers
        if self.exchange.is_head or parser.status in (204, 304):
            left = 0
        elif is_chunked or length is None:
            left = -1  # until the last chunk, or the end of the connection
            self._is_reusable &= is_chunked
        else:
            left = int(length)
        if left >= 0:
            parser.forget()
        target = self.exchange.accept(answer)
        if target is None:
            most = self.exchange.answer_bytes
            self._body = IntoAnswer(self.loop, answer, left, parser if left < 0 else None, rest, most)
        elif left < 0:
            raise store_error(OSError, "the answer has no Content-Length")
        else:
            self._body = into_target(self.loop, target, left, rest)

    def _pause(self) -> None:
        self.moved_at = self.loop.clock
        self.loop.selector.unregister(self.sock)
        self._phase = self._paused
        self.loop.buffers.wait(self._resume)

    def _paused(self, _: int) -> None:
        """Wait for a buffer; the time does not count."""

    def _resume(self) -> None:
        """Receive again: there is a buffer."""
        if self._phase == self._paused:
            self._phase = self._talking
            self._wants_write = False
            self.loop.selector.register(self.sock, selectors.EVENT_READ, self)
            self.moved_at = self.loop.clock
            self._pace.restart()
            self.loop.turns.append(self)

    def _end_body(self, body: Body) -> None:
        if body.writer is not None:
            self._phase = self._waiting
            body.writer.finish(self._body_taken)
            return
        body.finish()
        self._complete()

    def _waiting(self, mask: int) -> None:
        # for the pool; the server has no more to say, and what it says all the same makes the connection useless
        del mask
        self._is_reusable = False
        self.loop.selector.unregister(self.sock)
        self._phase = _over

    def _body_taken(self, error: BaseException | None) -> None:
        if self._is_over:  # given up meanwhile
            return
        if error is not None:
            self._broken(error)
        else:
            self._complete()

    # ends

    def _complete(self) -> None:
        exchange, answer, body = self.exchange, self._answer, self._body
        is_reusable = self._is_reusable and body is not None and not body.is_excess
        if is_reusable and self._tls is not None:
            is_reusable = not self._tls.has_more()
        if self._out is not None and self._out.left:
            self._out.stop()
        self._clear()
        if answer is not None and answer.status in _SLOW_DOWN:
            self.lane.throttled(exchange, self.loop)
        else:
            self.lane.answered(exchange, self.loop)
        if is_reusable:
            self._phase, self.moved_at, self._is_used = self._idling, self.loop.clock, True
            self.lane.keep(self)
        else:
            self.close()
        self.loop.ended(self.lane)
        exchange.deliver(answer, None)

    def _broken(self, error: BaseException) -> None:
        is_stale = self._is_used and not self._is_answered and isinstance(error, _STALE)
        exchange = self.exchange
        if is_stale and not exchange.is_second_try and not exchange.cancelled.is_set():
            # the server had closed the connection before it saw the request: no attempt of the store's; and it has
            # closed those, too, that were idle for longer
            self.close()
            for idle in list(self.lane.idle.get(self.endpoint, ())):
                idle.close()
            self.loop.again(self.lane, exchange)
            return
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._is_answered and isinstance(error, _UNANSWERED):
            mark_unanswered(error)
        exchange, writer = self.exchange, None
        if self._body is not None:
            self._body.stop()
            writer = self._body.writer
        self.close()
        self.loop.ended(self.lane)
        if writer is not None:
            writer.finish(lambda failed: exchange.deliver(None, failed or error))
        else:
            exchange.deliver(None, error)

    def tick(self) -> None:
        """Give up what stands still or is not wanted any more."""
        still_s = self.loop.clock - self.moved_at
        # a request that was sent is no sign of life: the system takes what the server does not
        if self.moved_at >= self.loop.ticked and (
            self._is_answered or self._is_sending_file() or self._phase == self._idling
        ):
            self.lane.moved()
        if self._phase == self._idling:
            if still_s > _IDLE_S:
                self.close()
        elif self.exchange.cancelled.is_set():
            self._fail(InterruptedError("cancelled"))
        elif self._phase == self._talking and still_s > self.endpoint.read_timeout_s:
            self._fail(store_error(TimeoutError, f"the store sent nothing for {self.endpoint.read_timeout_s} s"))
        elif self._phase == self._talking and (reason := self._too_slow()) is not None:
            self._fail(store_error(TimeoutError, reason))

    def _is_sending_file(self) -> bool:
        return self._out is not None and self._out.file is not None

    def _too_slow(self) -> str | None:
        if self._out is not None and self._out.left:
            doing, count = "took", self._out.left
        elif self._body is None:
            doing, count = HEAD, 0
        else:
            doing, count = "sent", self._body.count()
        return self._pace.too_slow(doing, count, self.loop.clock, self.endpoint.read_timeout_s)

    def close(self) -> None:
        """Close the socket; the connection is of no use any more."""
        self._is_over = True
        if self._out is not None:
            self._out.stop()
        with contextlib.suppress(KeyError, ValueError):
            self.loop.selector.unregister(self.sock)
        self.sock.close()
        self._phase = _over
        self.loop.connections.discard(self)
        self.lane.forget(self)

    def _want_write(self, *, wanted: bool) -> None:
        if wanted != self._wants_write:
            self._wants_write = wanted
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self.loop.selector.modify(self.sock, events, self)


def _over(_: int) -> None:
    """Do what a connection does that has ended."""
