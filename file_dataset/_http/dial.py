"""From addresses to a connected socket: TCP, then TLS, without blocking."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
from typing import TYPE_CHECKING, Protocol

from file_dataset._errors import mark_unanswered, store_error
from file_dataset._http.exchange import WOULD_BLOCK
from file_dataset._http.tls import TlsSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from file_dataset._http.exchange import Exchange
    from file_dataset._http.lane import Lane
    from file_dataset._http.names import Address
    from file_dataset._http.tls import Stream

# what OpenSSL calls an answer to a handshake that is no TLS at all
NOT_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
NO_TLS_REMEDY = "the server speaks no TLS on this port: write http:// in endpoint_url, or the port that speaks https"

_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE
_CLOSED = socket.socket()  # the socket of what has none yet
_CLOSED.close()


class Watched(Protocol):
    """What a loop watches: a socket, and what is done when it is ready or when time has passed."""

    exchange: Exchange
    sock: Stream

    def ready(self, mask: int) -> None:
        """Do what the socket is ready for."""

    def tick(self) -> None:
        """Give up what stands still or is not wanted any more."""


class DialLoop(Protocol):
    """What a dial needs of its loop."""

    selector: selectors.BaseSelector
    connections: set[Watched]
    clock: float

    def ended(self, lane: Lane) -> None:
        """Count one request less."""


class Dial:
    """The way to a connection: each address in turn, in one connect timeout."""

    __slots__ = ("_addresses", "_connected", "_endpoint", "_lane", "_loop", "_since", "exchange", "sock")

    def __init__(
        self,
        loop: DialLoop,
        lane: Lane,
        exchange: Exchange,
        addresses: list[Address],
        connected: Callable[[Stream], object],
    ) -> None:
        """Begin to connect.

        Args:
            loop: watches the socket.
            lane: in which the exchange has its place in flight.
            exchange: what needs the connection, and ends when there is none.
            addresses: where the server is.
            connected: takes the socket that the loop watches, and watches it from then on.
        """
        self._loop, self._lane, self.exchange, self._endpoint = loop, lane, exchange, exchange.endpoint
        self._addresses, self._connected, self._since = addresses, connected, loop.clock
        self.sock: Stream = _CLOSED
        loop.connections.add(self)
        self._connect(errno.EIO)

    def _connect(self, code: int) -> None:
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                self.sock = socket.socket(family, socket.SOCK_STREAM)
                self.sock.setblocking(False)  # noqa: FBT003  # the standard library's
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._endpoint.keepalive:
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                code = self.sock.connect_ex(address)
            except OSError as exc:
                code = exc.errno or errno.EIO
            if code in (0, errno.EINPROGRESS):
                self._loop.selector.register(self.sock, _BOTH, self)
                return
            self._forget_socket()
        self._fail(store_error(ConnectionError, f"could not connect to {self._endpoint}: {os.strerror(code)}"))

    def ready(self, mask: int) -> None:
        """Take the next step: the socket is connected or refused, or the handshake goes on."""
        del mask
        try:
            sock = self.sock
            if (tls := sock if isinstance(sock, TlsSocket) else self._reached(sock)) is not None:
                self._shake_hands(tls)
        except WOULD_BLOCK:
            pass
        except Exception as exc:  # noqa: BLE001  # handed over
            self._fail(exc)

    def _reached(self, sock: socket.socket) -> TlsSocket | None:
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._forget_socket()
            self._connect(code)
            return None
        if self._endpoint.tls is None:
            self._hand_over()
            return None
        self.sock = tls = TlsSocket(sock, self._endpoint.tls, self._endpoint.host)
        return tls

    def _shake_hands(self, tls: TlsSocket) -> None:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.selector.modify(self.sock, selectors.EVENT_READ, self)
        except ssl.SSLWantWriteError:
            self._loop.selector.modify(self.sock, _BOTH, self)
        except ssl.SSLError as exc:
            if exc.reason not in NOT_TLS:
                raise
            raise store_error(OSError, f"no TLS with {self._endpoint}: {exc}; {NO_TLS_REMEDY}") from None
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        self._connected(self.sock)
        self._loop.connections.discard(self)

    def _fail(self, error: BaseException) -> None:
        mark_unanswered(error)
        self._forget_socket()
        self._loop.connections.discard(self)
        self._loop.ended(self._lane)
        self.exchange.deliver(None, error)

    def tick(self) -> None:
        """Give up what takes too long or is not wanted any more."""
        if self.exchange.cancelled.is_set():
            self._fail(InterruptedError("cancelled"))
        elif self._loop.clock - self._since > (limit := self._endpoint.connect_timeout_s):
            self._fail(store_error(TimeoutError, f"no connection to {self._endpoint} in {limit} s"))

    def _forget_socket(self) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._loop.selector.unregister(self.sock)
        self.sock.close()
