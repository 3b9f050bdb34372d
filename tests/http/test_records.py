"""TLS records, however the network and the server cut them, and what TLS says besides the bytes of a body."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
import time

import pytest
from helpers import until
from one_object import IMPATIENT, LARGE, Asked, get, into_file, one_attempt, put, trusting
from servers.scripted import Scripted, always, answer

from file_dataset._http.exchange import Endpoint
from file_dataset._http.lane import Lane
from file_dataset._http.loop import loops
from file_dataset._http.window import Window
from file_dataset._s3.store import S3Store

SMALL = b"0123456789"


class Cut:
    """The server's end of a connection over TLS; `cut` makes the segments that go out of what is sent."""

    def __init__(self, peer, context, cut=None):
        self._sock, self._cut = peer.sock, cut or at_once
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.patiently(self.tls.do_handshake)
        peer.sock = self

    def shutdown(self, how):
        self._sock.shutdown(how)

    def wait_for_bytes(self):
        self.incoming.write(self._sock.recv(1 << 16))

    def patiently(self, step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.flush()
                received = self._sock.recv(1 << 16)
                if not received:
                    raise EOFError from None
                self.incoming.write(received)

    def records(self, *pieces):
        for piece in pieces:
            self.tls.write(piece)
        return self.outgoing.read()

    def flush(self, more=b""):
        self._sock.sendall(self.outgoing.read() + more)

    def recv(self, count):
        return self.patiently(lambda: self.tls.read(count))

    def sendall(self, data):
        self.flush()
        for segment in self._cut(self, data):
            self._sock.sendall(segment)
            time.sleep(0.001)


def at_once(cut, data):
    return [cut.records(data)]


def bytewise(cut, data):
    return [bytes([byte]) for byte in cut.records(data)]


def records_of_one_byte(cut, data):
    return [cut.records(*[bytes([byte]) for byte in data])]


def after(*counts):
    def cut(cut, data):
        whole, segments = cut.records(data), []
        for count in counts:
            segments.append(whole[:count])
            whole = whole[count:]
        return [*segments, whole]

    return cut


def odd_records(cut, data):
    """Records of 1, 5,000, 1 ... bytes, in segments that end anywhere."""
    pieces = [
        data[at : at + size] for start in range(0, len(data), 5001) for at, size in ((start, 1), (start + 1, 5000))
    ]
    whole = cut.records(*[piece for piece in pieces if piece])
    return [whole[at : at + 9973] for at in range(0, len(whole), 9973)]


CUTS = {
    "at once": (at_once, SMALL),
    "byte by byte": (bytewise, SMALL),
    "records of one byte": (records_of_one_byte, SMALL),
    "in a header": (after(3), SMALL),
    "behind a header": (after(5), SMALL),
    "large, at once": (at_once, LARGE),
    "large, behind headers": (after(5, (16 << 10) + 17, 5), LARGE),
    "large, in the second header": (after((16 << 10) + 24), LARGE),
    "large, odd": (odd_records, LARGE),
}


def store_of(server, authority):
    return S3Store(trusting(server.url.replace("http:", "https:"), str(authority.path)))


@pytest.fixture
def context(authority):
    return authority.server("127.0.0.1")


@pytest.mark.parametrize(("cut", "body"), CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_a_body_is_read_however_its_records_come(context, authority, tmp_path, cut, body, in_memory):
    def script(peer):
        Cut(peer, context, cut)
        always(answer(body))(peer)

    with Scripted(script) as server:
        store = store_of(server, authority)
        for _ in range(2):
            assert (get(store) if in_memory else into_file(store, tmp_path)) == body
        assert server.accepted == 1


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("size", [0, 10, (16 << 10) - 1, 300_001, 8 << 20])
def test_an_upload_arrives_whole_at_a_server_that_reads_slowly(context, authority, source, version, size):
    context.maximum_version = ssl.TLSVersion[version]
    body, stored = os.urandom(size), []

    def script(peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        Cut(peer, context)
        time.sleep(0.05)  # the system's memory fills meanwhile, and sending stops in the middle of a record
        stored.append(peer.request())
        peer.send(answer(etag='"x"'))

    with Scripted(script) as server:
        put(store_of(server, authority), source, body)
    assert stored == [body]


def test_an_answer_that_comes_with_the_handshake_is_read(context, authority, monkeypatch):
    """It is in memory before the request goes out: no socket becomes ready for it."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # the server ends the handshake

    def script(peer):
        cut = Cut(peer, context)
        cut.flush(cut.records(answer(SMALL)))
        peer.wait_until_the_client_leaves()

    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.path))
    with Scripted(script) as server:
        assert get(one_attempt(server.url.replace("http:", "https:"), IMPATIENT)) == SMALL


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_what_follows_a_goodbye_belongs_to_no_body(context, authority, body):
    def script(peer):
        cut = Cut(peer, context)
        peer.request()
        first = cut.records(answer(body)[:-4])
        with contextlib.suppress(ssl.SSLWantReadError):
            cut.tls.unwrap()
        goodbye = cut.outgoing.read()
        cut.flush(first + goodbye + os.urandom(100))
        peer.wait_until_the_client_leaves()

    with Scripted(script) as server, pytest.raises(ConnectionError):
        get(store_of(server, authority))


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_a_record_that_was_changed_on_its_way_ends_the_body(context, authority, body):
    """What came before it was handed out already, and no socket becomes ready for the error."""

    def script(peer):
        cut = Cut(peer, context)
        peer.request()
        good, bad = cut.records(answer(body)[:-4]), bytearray(cut.records(body[-4:]))
        bad[-1] ^= 1
        cut.flush(good + bad)
        peer.wait_until_the_client_leaves()

    with Scripted(script) as server, pytest.raises(OSError, match=r"(?i)bad.record.mac"):
        get(store_of(server, authority))


@pytest.mark.parametrize("is_one_record", [True, False], ids=["in its record", "in the next"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_what_a_server_says_behind_a_body_is_no_answer_to_the_next_request(context, authority, body, is_one_record):
    evil = answer(b"evil")

    def script(peer):
        cut = Cut(peer, context)
        peer.request()
        whole = answer(body)
        cut.flush(cut.records(whole + evil) if is_one_record else cut.records(whole, evil))
        peer.wait_until_the_client_leaves()

    with Scripted(script) as server:
        store = store_of(server, authority)
        for number in (1, 2):
            assert get(store) == body
            assert server.accepted == number


def test_what_tls_itself_asks_of_an_idle_connection_is_answered_and_ends_nothing(context, authority):
    """A server may send new keys and session tickets whenever it likes; here it asks for a certificate."""
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(authority.path)
    trusting_context = ssl.create_default_context(cafile=str(authority.path))
    trusting_context.post_handshake_auth = True
    asks, is_answered = threading.Event(), threading.Event()

    def script(peer):
        cut = Cut(peer, context)
        peer.request()
        peer.send(answer(SMALL))
        asks.wait(10)
        cut.tls.verify_client_post_handshake()
        cut.tls.do_handshake()
        cut.flush()
        cut.wait_for_bytes()
        is_answered.set()
        always(answer(SMALL))(peer)

    lane = Lane(Window(8))
    with Scripted(script) as server:
        endpoint = Endpoint("127.0.0.1", server.port, tls=trusting_context)
        for number in (1, 2):
            asked = Asked(endpoint)
            loops()[0].submit(lane, asked)
            assert asked.future.result(10).body == SMALL
            if number == 1:
                assert until(lambda: lane.idle)
                asks.set()
                assert is_answered.wait(10)
        assert server.accepted == 1


def test_a_reset_right_after_a_record_is_told_and_no_stale_connection(context, authority, monkeypatch):
    """The server has answered all the same."""

    class Breaking(socket.socket):
        is_reset = False

        def recv(self, *args):
            if self.is_reset:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            data = super().recv(*args)
            self.is_reset = len(data) > 16 << 10
            return data

    whole = answer(LARGE, etag='"1"')

    def script(peer):
        peer.request()
        peer.send(answer(b"body"))
        peer.request()
        peer.send(whole[: 16 << 10])
        peer.wait_until_the_client_leaves()

    monkeypatch.setattr(socket, "socket", Breaking)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.path))
    with Scripted(script, always(whole), tls=context) as server:
        store = one_attempt(server.url)
        assert get(store) == b"body"
        with pytest.raises(ConnectionError):
            get(store)
        assert len(server.heads) == 2
