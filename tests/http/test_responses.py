"""What servers may answer, however it is cut, and what is no answer at all."""

# ruff: noqa: SLF001  # a loop shows little of itself: where that is the claim, what it holds is looked at

from __future__ import annotations

import contextlib
import threading

import pytest
from helpers import until
from one_object import AT, get, one_attempt, put, store_at
from servers.scripted import Scripted, always, answer, answering, error

from file_dataset._errors import code_of
from file_dataset._sink import Sink

FRAMINGS = {
    "at once": lambda body: [answer(body)],
    "byte by byte": lambda body: [bytes([byte]) for byte in answer(body)],
    "head in two": lambda body: [answer(body)[:20], answer(body)[20:]],
    "end of the head in two": lambda body: [answer(body)[: -len(body) - 2], answer(body)[-len(body) - 2 :]],
    "body by itself": lambda body: [answer(body)[: -len(body)], body],
    "body in three": lambda body: [answer(body)[:-3], body[-3:-1], body[-1:]],
    "100 before it": lambda body: [b"HTTP/1.1 100 Continue\r\n\r\n", answer(body)],
    "100 and 103 with it": lambda body: [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + answer(body)
    ],
    "an upgrade is offered": lambda body: [answer(body, upgrade="h2c", connection="Upgrade")],
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_an_answer_is_read_however_it_is_cut(tmp_path, framing, in_memory):
    def script(peer):
        peer.request()
        peer.send(*framing(b"0123456789"), pause_s=0.001)

    with Scripted(script) as server:
        sink = Sink(None if in_memory else tmp_path / "a.bin", threading.Event())
        one_attempt(server.url).download(AT, sink).result(10)
        sink.commit()
    assert (bytes(sink.data) if in_memory else (tmp_path / "a.bin").read_bytes()) == b"0123456789"


def chunked(body, status):
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("cut", [0, 60, -5], ids=["at once", "in the head", "in the last chunk"])
def test_a_chunked_error_is_told(cut):
    whole = chunked(error("AccessDenied"), "403 Forbidden")

    def script(peer):
        peer.request()
        peer.send(*[piece for piece in (whole[:cut], whole[cut:]) if piece], pause_s=0.01)

    with Scripted(script) as server, pytest.raises(PermissionError) as caught:
        get(store_at(server.url))
    assert code_of(caught.value) == "AccessDenied"
    assert len(server.heads) == 1


def test_a_connection_is_kept_after_a_chunked_error():
    with Scripted(answering(chunked(error("NoSuchKey"), "404 Not Found"), answer(b"body"))) as server:
        store = store_at(server.url)
        with pytest.raises(FileNotFoundError):
            get(store)
        assert get(store) == b"body"
        assert server.accepted == 1


def test_an_error_of_a_gateway_is_told_by_its_status():
    with Scripted(always(answer(b"<html>no upstream</html>", "502 Bad Gateway", content_type="text/html"))) as server:
        with pytest.raises(ConnectionError, match="after 3 attempts") as caught:
            get(store_at(server.url))
        assert code_of(caught.value) == "502"


def test_an_error_that_ends_with_the_connection_is_told():
    with Scripted(answering(b"HTTP/1.1 403 Forbidden\r\n\r\n" + error("AccessDenied"))) as server:
        with pytest.raises(PermissionError) as caught:
            get(store_at(server.url))
        assert code_of(caught.value) == "AccessDenied"


def test_a_body_without_a_length_is_refused_after_one_attempt():
    """Nothing could tell a whole body from a broken one."""
    with Scripted(answering(b"HTTP/1.1 200 OK\r\n\r\nbody")) as server:
        with pytest.raises(OSError, match="Content-Length"):
            get(store_at(server.url))
        assert len(server.heads) == 1


def test_a_chunked_body_is_refused_after_one_attempt():
    with Scripted(answering(chunked(b"body", "200 OK"))) as server, pytest.raises(OSError, match="Content-Length"):
        get(store_at(server.url))


def test_an_upload_may_be_answered_without_a_body(source):
    with Scripted(answering(b'HTTP/1.1 204 No Content\r\netag: "x"\r\n\r\n', answer(etag='"y"'))) as server:
        store = one_attempt(server.url)
        with contextlib.suppress(OSError):  # 204 is no answer of S3's; what matters is that it ends
            put(store, source)
        assert put(store, source).etag in ("x", "y")


def test_the_length_in_a_heads_answer_announces_no_body():
    with Scripted(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n", answer(b"body"))) as server:
        store = store_at(server.url)
        assert store.info(AT).result(10).size_bytes == 12345
        assert get(store) == b"body"
        assert server.accepted == 1


NO_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a status that is none": b"HTTP/1.1 abc\r\n\r\n",
    "no protocol": b"\0\1\2\3\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody",
    "a length that is none": b"HTTP/1.1 200 OK\r\ncontent-length: four\r\n\r\nbody",
    "another protocol from now on": (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    ),
    "a broken chunk": b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "no end of the head": b"x" * (70 << 10),
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (12 << 10),
    "a flood of informational answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "an error without end": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 9000000\r\n\r\n" + b"x" * 2_000_000,
}


@pytest.mark.parametrize("said", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_answer_is_a_broken_connection(said):
    def script(peer):
        peer.request()
        peer.send(said)
        peer.wait_until_the_client_leaves()

    with Scripted(script) as server:
        with pytest.raises(ConnectionError, match="after 3 attempts"):  # and no TimeoutError
            get(store_at(server.url))
        assert len(server.heads) == 3


def test_an_answer_that_ends_in_its_head_is_a_broken_connection():
    with Scripted(answering(b"HTTP/1.1 200 OK\r\ncontent-le")) as server, pytest.raises(ConnectionError):
        get(store_at(server.url))


def test_a_range_that_nobody_asked_for_is_an_error_of_the_store():
    said = answer(b"body", "206 Partial Content", content_range="bytes 0-3/9", etag='"x"')
    with Scripted(always(said)) as server, pytest.raises(ConnectionError):
        get(store_at(server.url))


def test_what_a_server_says_unasked_ends_an_idle_connection():
    def script(peer):
        peer.request()
        peer.send(answer(b"body"), pause_s=0.05)
        peer.send(answer(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"))
        peer.wait_until_the_client_leaves()

    with Scripted(script, always(answer(b"body"))) as server:
        store = store_at(server.url)
        assert get(store) == b"body"
        assert until(lambda: not store._lane.idle)
        assert get(store) == b"body"
        assert server.accepted == 2
