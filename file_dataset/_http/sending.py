"""What a connection sends: the head of a request, and the file that follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from file_dataset._http.exchange import Exchange, FileBody
    from file_dataset._http.tls import Stream

TURN_BYTES = 2 << 20  # what one connection may send or receive before the others have their turn


class Sending:
    """What is still to be sent of one request."""

    __slots__ = ("_exchange", "_head", "file", "left")

    def __init__(self, exchange: Exchange) -> None:
        """Ask the exchange for its request."""
        self._exchange = exchange
        self._head: memoryview | None = memoryview(exchange.request())
        self.file: FileBody | None = exchange.upload()
        self.left = len(self._head) + (0 if self.file is None else self.file.left)  # bytes

    def send(self, sock: Stream, scratch: memoryview, *, is_plain: bool) -> bool:
        """Send what the socket takes; return whether that is all, and not only its turn.

        Args:
            sock: raises where it would have to wait.
            scratch: memory that a file may pass through.
            is_plain: the socket speaks no TLS, so that the kernel can send files by itself.
        """
        while self._head is not None:
            count = sock.send(self._head)
            self.left -= count
            self._head = self._head[count:] if count < len(self._head) else None
        file = self.file
        if file is None:
            return True
        turn = TURN_BYTES
        while file.left:
            if turn <= 0:
                return False
            if self._exchange.cancelled.is_set():
                raise InterruptedError("cancelled")
            count = min(file.left, TURN_BYTES)
            if file.left == count:
                file.check(file.fd)
            if file.by_kernel and is_plain:
                count = file.send_by_kernel(sock, count, scratch)
            else:
                count = file.send_copied(sock, count, scratch)
            file.position += count
            file.left -= count
            self.left -= count
            turn -= count
        self.stop()
        return True

    def stop(self) -> None:
        """Send no more of it, and close the file."""
        self.left, self._head = 0, None
        if self.file is not None:
            self.file.close()
            self.file = None
