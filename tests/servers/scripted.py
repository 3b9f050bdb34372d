"""Servers on loopback that follow a script: what HTTP allows, and what it does not."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time


def answer(body=b"", status="200 OK", **headers):
    """An answer with its length; `a_b="c"` is the header `a-b: c`."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


def error(code):
    return f"<Error><Code>{code}</Code><Message>asked for by the test</Message></Error>".encode()


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock, heads):
        self.sock, self._heads, self._rest = sock, heads, b""
        sock.settimeout(20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def head(self):
        """Read the head of a request."""
        while b"\r\n\r\n" not in self._rest:
            received = self.sock.recv(1 << 16)
            if not received:
                raise EOFError
            self._rest += received
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        self._heads.append(head.decode("latin-1"))
        return self._heads[-1]

    def request(self):
        """Read a request with its body, and return the body."""
        head = self.head()
        length = int((re.search(r"(?mi)^content-length: (\d+)", head) or [0, 0])[1])
        while len(self._rest) < length:
            self._rest += self.sock.recv(1 << 16)
        body, self._rest = self._rest[:length], self._rest[length:]
        return body

    def send(self, *pieces, pause_s=0.0):
        for piece in pieces:
            self.sock.sendall(piece)
            time.sleep(pause_s)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_until_the_client_leaves(self):
        with contextlib.suppress(OSError):
            while self.sock.recv(1 << 16):
                pass


class Scripted:
    """A server that does on its n-th connection what the n-th function says, and then for ever what the last one does.

    Attributes:
        heads: of all requests, in order.
        accepted: how many connections were made.
    """

    def __init__(self, *scripts, tls=None):
        self._scripts, self._tls = scripts, tls
        self.heads, self.accepted, self._errors = [], 0, []
        self._peers, self._lock = [], threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
                self.accepted += 1
                threading.Thread(target=self._serve, args=(sock, script), daemon=True).start()

    def _serve(self, sock, script):
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with sock:
                peer = Peer(sock, self.heads)
                self._peers.append(peer)
                script(peer)
        except (OSError, EOFError):  # the client left
            pass
        except BaseException as exc:  # noqa: BLE001  # a mistake of the test
            self._errors.append(exc)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or accept() holds it open
        self._listener.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        assert not self._errors


def answering(*answers):
    """A script: these answers to the requests of one connection, then the end of it."""

    def script(peer):
        for each in answers:
            peer.request()
            peer.send(each)

    return script


def always(each):
    def script(peer):
        while True:
            peer.request()
            peer.send(each)

    return script


def swallowing(peer):
    """A script: a request is read, and the connection closed without an answer."""
    peer.head()
