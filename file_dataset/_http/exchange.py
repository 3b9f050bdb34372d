"""One request over HTTP and what becomes of its answer, as the loop sees it; subclasses set what is sent and taken."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from file_dataset._errors import store_error

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from file_dataset._http.tls import Stream

logger = logging.getLogger(__name__)

INLINE_BYTES = 256 << 10  # bodies up to this are hashed and written on the loop: a hop to the pool costs more
# what a socket that does not block raises where it would have to wait; a signal interrupts none (PEP 475), and our own
# InterruptedError says that an exchange is cancelled
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True, eq=False)
class Endpoint:
    """Where a server is and how long it may keep silent. Connections belong to the one they were made for."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    connect_timeout_s: float = 60.0
    read_timeout_s: float = 60.0
    keepalive: bool = False

    def __str__(self) -> str:
        """Return host and port, for messages."""
        return f"{self.host}:{self.port}"


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

    def claim(self, most: int) -> int:
        """Return how many of the next bytes, `most` at most, may be received: its end may have been cut off."""

    def settle(self, unused: int) -> int:
        """Take back what was claimed and did not come; return how many bytes are unclaimed."""


class Answer:
    """Status and headers (names in lower case), and the body where no target took it."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        """Start with an empty body."""
        self.status, self.headers, self.body = status, headers, b""


class Exchange:
    """One request and what becomes of its answer. All methods are called on the loop's thread: they must not block."""

    __slots__ = ("cancelled", "endpoint", "is_head", "is_second_try", "sent_s")

    answer_bytes = 1 << 20  # the most of a body that no target takes, such as an error's XML

    def __init__(self, endpoint: Endpoint, cancelled: threading.Event, *, is_head: bool = False) -> None:
        """Take where to send it, and what cancels it."""
        self.endpoint, self.cancelled, self.is_head, self.is_second_try = endpoint, cancelled, is_head, False
        self.sent_s = 0.0  # when its turn came

    @property
    def is_large(self) -> bool:
        """Whether its body is worth another loop's time, as far as one can tell when its turn comes."""
        return False

    def begin(self) -> bool:
        """Return whether it is still wanted; called once, when its turn comes."""
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

    def deliver(self, answer: Answer | None, error: BaseException | None) -> None:
        """Hand it to `done`, and log what that raises: a bug, for which the connection is not to blame."""
        try:
            self.done(answer, error)
        except Exception:
            logger.exception("an exchange of file_dataset's transfers could not be ended")


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

    def send_by_kernel(self, sock: Stream, most: int, scratch: memoryview) -> int:
        """Send the next bytes without reading them, where the file system lets the kernel; return how many."""
        try:
            count = os.sendfile(sock.fileno(), self.fd, self.position, most)
        except (*WOULD_BLOCK, ConnectionError):
            raise
        except OSError:  # file systems, and sandboxes, refuse it in many ways; what else is wrong shows again
            self.by_kernel = False
            return self.send_copied(sock, most, scratch)
        if count == 0:
            raise self._became_shorter()
        return count

    def send_copied(self, sock: Stream, most: int, scratch: memoryview) -> int:
        """Send the next bytes by way of half the scratch memory at most; return how many."""
        # read again after SSLWantWrite: the bytes are the same, and they may come from another place
        count = os.preadv(self.fd, [scratch[: min(most, len(scratch) // 2)]], self.position)
        if count == 0:
            raise self._became_shorter()
        return sock.send(scratch[:count])

    def _became_shorter(self) -> OSError:
        self.check(self.fd)
        return store_error(OSError, "the file holds fewer bytes than it says it has")
