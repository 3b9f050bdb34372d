"""Where the body of an answer goes: into the answer itself, into a target's memory, or to what a target writes.

Small bodies are taken on the loop's thread. Large ones are hashed and written by the pool, in order.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from file_dataset._errors import store_error
from file_dataset._http.buffers import BUFFER_BYTES, SCRATCH_BYTES
from file_dataset._http.exchange import INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from file_dataset._http.buffers import Buffers
    from file_dataset._http.exchange import Answer, Target
    from file_dataset._http.parser import ResponseParser
    from file_dataset._http.tls import Stream
    from file_dataset._pool import Pool

logger = logging.getLogger(__name__)


class BodyLoop(Protocol):
    """What a body needs of its loop."""

    buffers: Buffers
    pool: Pool

    def call(self, work: Callable[[], object]) -> None:
        """Have the loop thread do something short; from any thread."""


class NoBufferError(Exception):
    """All buffers are on their way to disk: receive again when `Buffers.wait` calls."""


class BodyWriter:
    """Digest and writes of one large body, in order, on the pool."""

    __slots__ = ("_is_running", "_lock", "_loop", "_target", "_then", "_todo", "error")

    def __init__(self, loop: BodyLoop, target: Target) -> None:
        """Take where the bytes go."""
        self._loop, self._target = loop, target
        self._todo: deque[tuple[memoryview, bytearray | None]] = deque()
        self._lock = threading.Lock()
        self._is_running = False
        self.error: BaseException | None = None  # what went wrong, as soon as it did
        self._then: Callable[[BaseException | None], object] | None = None

    def feed(self, chunk: memoryview, buffer: bytearray | None) -> None:
        """Take the next bytes: those in a buffer are written, others lie in their place."""
        with self._lock:
            self._todo.append((chunk, buffer))
            if self._is_running:
                return
            self._is_running = True
        try:
            self._loop.pool.submit(self._drain)
        except OSError as exc:  # no thread: the loop does it, though others wait for it meanwhile
            logger.debug("%s", exc)
            self._drain()

    def finish(self, then: Callable[[BaseException | None], object]) -> None:
        """Call `then` on the loop when all bytes are taken."""
        with self._lock:
            self._then = then
            if self._is_running:
                return
        then(self.error)

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    self._is_running = False
                    if (then := self._then) is not None:
                        self._loop.call(lambda: then(self.error))
                    return
                chunk, buffer = self._todo.popleft()
            try:
                if self.error is None and buffer is None:
                    self._target.arrived(chunk)
                elif self.error is None:
                    self._target.write(chunk)
            except Exception as exc:  # noqa: BLE001  # handed over
                self.error = exc
            del chunk
            if buffer is not None:
                self._loop.buffers.give_back(buffer)


class Body:
    """What is still to come of one body."""

    __slots__ = ("is_excess", "left", "writer")

    left: int  # bytes to come; 0 as soon as it is whole, below 0 while its length is not known
    is_excess: bool  # more came, or will come, than belongs to it: the connection is of no use after it
    writer: BodyWriter | None  # that must finish before the exchange ends

    def receive(self, sock: Stream) -> tuple[int, int]:
        """Receive once; return how many bytes came, and how many could have."""
        raise NotImplementedError

    def count(self) -> int:
        """Return a number that changes by as many bytes as move."""
        return self.left

    def finish(self) -> None:
        """Take note that it is whole; called where there is no writer."""

    def stop(self) -> None:
        """Take note that no more of it comes."""

    def _broke_off(self) -> ConnectionResetError:
        return ConnectionResetError(errno.ECONNRESET, f"the connection broke off {self.left} bytes before the end")


class IntoAnswer(Body):
    """A body that no target takes."""

    __slots__ = ("_answer", "_framed", "_most", "_parser", "_view")

    def __init__(  # noqa: PLR0913, PLR0917  # what a body is made of
        self, loop: BodyLoop, answer: Answer, left: int, parser: ResponseParser | None, rest: memoryview, most: int
    ) -> None:
        """Take what came with the head.

        Args:
            loop: whose scratch it passes through.
            answer: gets the body.
            left: its length; below 0: see `parser`.
            parser: finds its end, and which of the bytes belong to it; None where the length is known.
            rest: what came with the head.
            most: how many bytes it may have.
        """
        self._answer, self.left, self._parser, self._view = answer, left, parser, loop.buffers.view
        self._framed, self._most = 0, most
        self.is_excess, self.writer = False, None
        self._take(rest)

    def receive(self, sock: Stream) -> tuple[int, int]:
        """Receive into the answer."""
        count = sock.recv_into(self._view)
        if count == 0:
            if self.left < 0 and "transfer-encoding" not in self._answer.headers:
                self.left = 0  # without a length the end of the connection ends the body
                return 0, 0
            raise ConnectionResetError(errno.ECONNRESET, "the answer broke off")
        self._take(self._view[:count])
        return count, SCRATCH_BYTES

    def count(self) -> int:
        """Return what is left, or what came where that is not known."""
        return self.left if self._parser is None else len(self._answer.body)

    def _take(self, chunk: memoryview) -> None:
        answer = self._answer
        self._framed += len(chunk)  # with what frames it: extensions and trailers have no end of their own
        if self._parser is not None:
            self._parser.feed(chunk)
            answer.body = b"".join(self._parser.body)
            if self._parser.is_complete:
                self.left = 0
        else:
            self.is_excess |= len(chunk) > self.left
            answer.body += bytes(chunk[: self.left])
            self.left -= min(len(chunk), self.left)
        if self._framed > self._most:
            message = f"the store answered {answer.status} with more than {self._most} bytes"
            raise store_error(ConnectionError, message)


def into_target(loop: BodyLoop, target: Target, length: int, rest: memoryview) -> Body:
    """Return a body of `length` bytes that goes into a target, which has taken the rest of what came with the head."""
    room, wanted = target.room(), target.wants()
    left = min(length, wanted)
    is_excess = wanted < length or len(rest) > left
    if len(rest) > left:
        rest = rest[:left]
    body: Body
    if room is None:
        if len(rest):
            target.write(rest)
        if left <= INLINE_BYTES:
            body = IntoTarget(loop, target, left - len(rest))
        else:
            body = LargeIntoTarget(loop, target, left - len(rest), len(rest))
    else:
        room = room[:left]
        room[: len(rest)] = rest
        if left <= INLINE_BYTES:
            body = IntoMemory(target, room, left - len(rest))
        else:
            body = LargeIntoMemory(loop, target, room, left - len(rest))
    body.is_excess = is_excess
    return body


class IntoMemory(Body):
    """A small body in memory.

    It arrives in one piece for the digest's sake: calls for segments would cost more than the bytes.
    """

    __slots__ = ("_room", "_target")

    def __init__(self, target: Target, room: memoryview, left: int) -> None:
        """Take the memory of the whole body, of which `left` bytes are to come."""
        self._target, self._room, self.left, self.writer = target, room, left, None

    def receive(self, sock: Stream) -> tuple[int, int]:
        """Receive into its place."""
        requested = self.left
        count = sock.recv_into(self._room[len(self._room) - requested :])
        if count == 0:
            raise self._broke_off()
        self.left = requested - count
        return count, requested

    def finish(self) -> None:
        """Hand the whole over."""
        self._target.arrived(self._room)

    def stop(self) -> None:
        """Keep what arrived for the next attempt."""
        if self.left > 0:
            self._target.arrived(self._room[: len(self._room) - self.left])


class LargeBody(Body):
    """A body whose end may be cut off while it arrives: another connection receives that."""

    __slots__ = ("_target", "_to_come")

    writer: BodyWriter

    def __init__(self, loop: BodyLoop, target: Target, left: int, arrived: int) -> None:
        """Take where `left` bytes go that are to come, and how many came with the head."""
        self.writer, self._target, self._to_come = BodyWriter(loop, target), target, left
        target.claim(arrived)
        self.left = min(left, target.settle(0))

    def count(self) -> int:
        """Return how many bytes the server has to send."""
        return self._to_come

    def claim(self) -> int:
        """Return how many bytes may be received."""
        return self._target.claim(min(self._to_come, BUFFER_BYTES))

    def settle(self, claimed: int, count: int) -> None:
        """Take note of what came of what was claimed."""
        self._to_come -= count
        self.left = min(self._to_come, self._target.settle(claimed - count))
        if not self.left and self._to_come:
            self.is_excess = True


class LargeIntoMemory(LargeBody):
    """A large body in memory: it is hashed by the pool while the rest arrives."""

    __slots__ = ("_room",)

    def __init__(self, loop: BodyLoop, target: Target, room: memoryview, left: int) -> None:
        """Take the memory of the whole body, of which `left` bytes are to come."""
        arrived = len(room) - left
        super().__init__(loop, target, left, arrived)
        if arrived:
            self.writer.feed(room[:arrived], None)
        self._room = room[arrived:]

    def receive(self, sock: Stream) -> tuple[int, int]:
        """Receive into its place."""
        room, requested, count = self._room, self.claim(), 0
        try:
            count = sock.recv_into(room[:requested])
            if count == 0:
                raise self._broke_off()
        finally:
            self.settle(requested, count)
        self.writer.feed(room[:count], None)
        self._room = room[count:]
        return count, requested


class IntoTarget(Body):
    """A small body that its target writes."""

    __slots__ = ("_target", "_view")

    def __init__(self, loop: BodyLoop, target: Target, left: int) -> None:
        """Take where the bytes to come go."""
        self._target, self._view, self.left, self.writer = target, loop.buffers.view, left, None

    def receive(self, sock: Stream) -> tuple[int, int]:
        """Receive into the scratch, and write."""
        requested = min(self.left, SCRATCH_BYTES)
        view = self._view[:requested]
        count = sock.recv_into(view)
        if count == 0:
            raise self._broke_off()
        self._target.write(view[:count])
        self.left -= count
        return count, requested


class LargeIntoTarget(LargeBody):
    """A large body that its target writes, on the pool, out of buffers that all such bodies share."""

    __slots__ = ("_buffers",)

    def __init__(self, loop: BodyLoop, target: Target, left: int, arrived: int) -> None:
        """Take where the bytes to come go."""
        super().__init__(loop, target, left, arrived)
        self._buffers = loop.buffers

    def receive(self, sock: Stream) -> tuple[int, int]:
        """Receive into a buffer.

        Raises:
            NoBufferError: there is none.
        """
        if self.writer.error is not None:
            raise self.writer.error
        buffer = self._buffers.take()
        if buffer is None:
            raise NoBufferError
        requested, count = self.claim(), 0
        try:
            count = self._fill(sock, memoryview(buffer)[:requested])
        finally:
            self.settle(requested, count)
            if not count:
                self._buffers.give_back(buffer)
        self.writer.feed(memoryview(buffer)[:count], buffer)
        return count, requested

    def _fill(self, sock: Stream, view: memoryview) -> int:
        """Receive as much as is there, so that the pool is called for many bytes at a time."""
        filled = 0
        while filled < len(view):
            try:
                count = sock.recv_into(view[filled:])
                if count == 0:
                    raise self._broke_off()
            except OSError:
                if filled:  # the next call meets it again
                    return filled
                raise
            filled += count
        return filled
