"""TLS over a socket that does not block: what arrives is received many records at a time, and decrypted in place.

`ssl.SSLSocket` asks the system twice for each record of 16 KiB: for its header of five bytes, and for the rest. OpenSSL
can read ahead, but Python's `ssl` has no setting for that. Here records pass through memory (`ssl.MemoryBIO`), four a
call. They are copied twice more, in the processor's cache, which costs less than the calls: measured on OpenSSL 3.0,
48 MiB that had arrived, on a machine with other work, 0.67 s of CPU per GiB, and 0.83 s by `ssl.SSLSocket`. In whole
downloads of 300 x 1 MiB the gain was lost in the noise (0.95 and 1.02 x the CPU in two comparisons).

Left out: decryption by the kernel (`ssl.OP_ENABLE_KTLS`), which needs Python 3.12 and the kernel module `tls`; there
was no machine with both to test it on. Left out too: a second loop. With two cores, one of which the server used,
300 x 1 MiB took 1.07 x the wall and 1.18 x the CPU; 2 x 64 MiB 0.90 x the wall and 1.02 x the CPU.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from typing import TypeAlias

    Stream: TypeAlias = "socket.socket | TlsSocket"

# Bytes that are received at a time. OpenSSL's memory grows to 4/3 of that and stays with the connection.
# With four times as many a GiB took 0.04 s less (0.1 s on a quieter machine); 64 connections would keep 16 MiB more.
CHUNK_BYTES = 64 << 10
# What is encrypted at a time, noisily measured: twice to eight times as much took 0.77 to 0.86 s of CPU per GiB, this
# 0.69, `ssl.SSLSocket` 0.72.
_SEND_BYTES = 32 << 10


class TlsSocket:
    """A socket that speaks TLS. Where it would have to wait it raises what a socket of `ssl` does."""

    __slots__ = ("_error", "_incoming", "_is_at_end", "_object", "_outgoing", "_sent", "_sock", "_unsent")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Take over a connected socket; no byte is sent yet."""
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._unsent = memoryview(b"")  # encrypted already
        self._sent = 0  # bytes whose encrypted form is in `_unsent`
        self._error: OSError | None = None  # met after bytes that were handed out first
        self._is_at_end = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def detach(self) -> int:
        """Return the descriptor and let go of it."""
        return self._sock.detach()

    def close(self) -> None:
        """Close the socket without a goodbye, as `ssl.SSLSocket` does."""
        self._sock.close()

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises:
            ssl.SSLWantReadError: it goes on when the server has sent more.
            ssl.SSLWantWriteError: it goes on when the system takes more.
            ssl.SSLError: there will be no TLS with this server, which was sent the reason.
        """
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError:
                try:  # noqa: SIM105  # suppress() would hide which of the two errors is meant
                    self._flush()
                except OSError:
                    pass
                raise
            else:
                self._flush()
                return
            if not self._receive():
                self._incoming.write_eof()

    def recv_into(self, view: memoryview) -> int:
        """Fill the memory with what is there, all of it if it fits; return how many bytes, 0 at the end.

        What is left over when it is full wakes no selector: it is to be called until it raises.

        Raises:
            ssl.SSLWantReadError: nothing is there.
            OSError: the connection broke, or what came is no TLS.
        """
        filled = 0 if self._error is not None else self._decrypt(view)
        while filled < len(view) and self._error is None and not self._is_at_end:
            try:
                received = self._receive()
            except ssl.SSLWantReadError:
                break
            except OSError as exc:
                self._error = exc.with_traceback(None)
                break
            count = self._decrypt(view[filled:])
            filled += count
            if received < CHUNK_BYTES or not count:  # no more is there, or others have their turn
                break
        if filled or self._is_at_end:
            return filled
        raise self._error or ssl.SSLWantReadError

    def send(self, data: memoryview) -> int:
        """Send the first bytes; return how many. Where it raises it is to be called again with the same ones.

        Raises:
            ssl.SSLWantWriteError: the system takes no more now.
            OSError: the connection broke.
        """
        total = 0
        while total < len(data):
            if not self._sent:
                chunk = data[total : total + _SEND_BYTES]
                self._object.write(chunk)
                self._sent = len(chunk)
            try:
                self._flush()
            except ssl.SSLWantWriteError:
                if total:
                    break
                raise
            total += self._sent
            self._sent = 0
        return total

    def has_more(self) -> bool:
        """Return whether data was received that was not read; a session ticket is no data."""
        if self._error is not None or self._is_at_end:
            return True
        if not self._incoming.pending and not self._object.pending():
            return False
        try:
            self._object.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        return True

    def _decrypt(self, view: memoryview) -> int:
        read, size, filled = self._object.read, len(view), 0
        try:
            while filled < size:
                count: int = read(size - filled, view[filled:])  # type: ignore[assignment]  # typeshed forgot the buffer
                if not count:  # the server says goodbye
                    self._is_at_end = True
                    break
                filled += count
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                self._answer()
        except ssl.SSLError as exc:
            self._error = exc.with_traceback(None)
        return filled

    def _receive(self) -> int:
        try:
            data = self._sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None
        if data:
            self._incoming.write(data)
        else:
            self._is_at_end = True
        return len(data)

    def _flush(self) -> None:
        while True:
            while self._unsent:
                try:
                    count = self._sock.send(self._unsent)
                except BlockingIOError:
                    raise ssl.SSLWantWriteError from None
                self._unsent = self._unsent[count:]
            if not self._outgoing.pending:
                return
            self._unsent = memoryview(self._outgoing.read())

    def _answer(self) -> None:
        """Send what the protocol itself has to say, a new key, say; what does not go now goes with the next request."""
        try:  # noqa: SIM105  # suppress() costs more than what it would save a reader
            self._flush()
        except OSError:  # the next call meets it again
            pass
