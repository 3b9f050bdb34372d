"""The wire against servers that do all that HTTP allows, and more: sockets on loopback that follow a script."""

# ruff: noqa: SLF001  # a loop shows little of itself: where that is the claim, what it holds is looked at

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import errno
import gc
import itertools
import logging
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from helpers import forward, impatient_options, options_for, until
from servers.authority import Authority
from servers.faults import SLOW_DOWN, Busy, FaultServer, FlipBit, IgnoreRange, Replace, Short, Stall, Truncate
from servers.scripted import Scripted, always, answer, answering, error, swallowing

import file_dataset
from file_dataset import InvalidDatasetError, RowError, _digest, _per_process, _retry
from file_dataset._errors import code_of
from file_dataset._http import connection, deadline, lane, names
from file_dataset._http.buffers import Buffers
from file_dataset._http.exchange import INLINE_BYTES, Endpoint, Exchange
from file_dataset._http.lane import Lane
from file_dataset._http.loop import Loop, loops
from file_dataset._local_file import LocalFile
from file_dataset._s3 import requests
from file_dataset._s3.store import S3Store
from file_dataset._sink import Part, Sink
from file_dataset._urls import ObjectUrl

BODY = bytes(range(256)) * (3 << 12)  # 3 MiB
URL = "s3://bucket/a.bin"
# one connection carries a large object where this awscrt cannot join the digests of its parts
in_parts = pytest.mark.skipif(not _digest.can_join("CRC64NVME"), reason="this awscrt joins no digests")
AT = ObjectUrl("bucket", "a.bin")
SMALL, LARGE = b"small", os.urandom(2 * INLINE_BYTES + 1)  # read, hashed and sent at once; or by the pool and sendfile


@pytest.fixture(autouse=True)
def retries_come_at_once(monkeypatch):
    monkeypatch.setattr(_retry, "BACKOFF_S", 0.001)


def store_at(url, **kwargs):
    return S3Store(impatient_options(url, **kwargs))


IMPATIENT = Config(read_timeout=1, connect_timeout=1)


def one_attempt(url, config=None, **kwargs):
    once = Config(read_timeout=20, connect_timeout=20, retries={"total_max_attempts": 1, "mode": "standard"})
    return S3Store(options_for(url, config=once.merge(config) if config else once, **kwargs))


def get(store, at=AT):
    sink = Sink(None, threading.Event())
    store.download(at, sink).result(60)
    return bytes(sink.data)


def put(store, path, body=SMALL, at=AT, **extra_args):
    path.write_bytes(body)
    return store.upload(LocalFile.at(path), at, extra_args=extra_args, cancelled=threading.Event()).result(60)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source.bin"


# --- answers

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


# --- connections


LAST = {
    "Connection: close": answer(b"body", connection="close"),
    "HTTP/1.0": answer(b"body").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "more bytes than announced": answer(b"body") + b"more",
}


@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
def test_nothing_is_sent_over_a_connection_that_was_answered_its_last(last):
    def script(peer):
        peer.request()
        peer.send(last)
        peer.request()  # which never comes

    with Scripted(script) as server:
        store = one_attempt(server.url)
        assert [get(store) for _ in range(3)] == [b"body"] * 3
        assert (server.accepted, len(server.heads)) == (3, 3)


def test_connections_are_used_again(faults):
    urls = [faults.put(f"s3://bucket/{number}", b"x") or f"s3://bucket/{number}" for number in range(200)]
    options = impatient_options(faults.endpoint_url, max_concurrency=4)
    table = file_dataset.reader(row=dict(zip(map(str, range(200)), urls, strict=True)), options=options)
    for _ in range(2):
        assert table.into_blob_table().num_rows == 1
    assert faults.accepted <= 4


STALE = {
    "closed": lambda peer: None,
    "closed with the request": swallowing,
    "reset with the request": lambda peer: (peer.head(), peer.reset()),
}


def calls(store, source):
    return {
        "GET": lambda: get(store),
        "HEAD": lambda: store.info(AT).result(10),
        "PUT": lambda: put(store, source, SMALL),
        "large PUT": lambda: put(store, source, LARGE),
    }


@pytest.mark.parametrize("name", ["GET", "HEAD", "PUT", "large PUT"])
@pytest.mark.parametrize("end", STALE.values(), ids=STALE)
def test_a_request_on_a_connection_that_has_ended_goes_over_a_new_one_uncounted(source, name, end):
    def script(peer):
        peer.request()
        peer.send(answer(b"body", etag='"x"'))
        end(peer)

    body = b"" if name.endswith("PUT") else b"body"  # what a PUT is answered with is an error's
    with Scripted(script, always(answer(body, etag='"x"'))) as server:
        store = one_attempt(server.url)
        get(store)
        assert calls(store, source)[name]()  # in its one attempt
        assert server.accepted == 2


@pytest.mark.parametrize("name", ["GET", "HEAD", "PUT", "large PUT"])
def test_a_request_that_new_connections_swallow_too_is_told_after_the_attempts(source, name):
    def first(peer):
        peer.request()
        peer.send(answer(b"body"))
        peer.head()

    with Scripted(first, swallowing) as server:
        store = store_at(server.url)
        get(store)
        with pytest.raises(ConnectionError, match="after 3 attempts"):
            calls(store, source)[name]()
        assert len(server.heads) == 1 + 1 + 3  # the one that was kept alive for, the uncounted one, three attempts


def test_a_second_try_goes_over_a_new_connection_and_not_over_another_stale_one():
    both = threading.Barrier(2)

    def script(peer):
        peer.request()
        both.wait(10)
        peer.send(answer(b"body"))
        peer.head()

    with Scripted(script, script, always(answer(b"body"))) as server:
        store = one_attempt(server.url)
        for future in [store.download(AT, Sink(None, threading.Event())) for _ in range(2)]:
            future.result(10)
        assert get(store) == b"body"
        assert server.accepted == 3


def test_one_stale_connection_ends_the_others_that_were_idle():
    """Or each attempt would meet another one, and a store that resets for ever would get twice the requests."""

    def script(peer):
        peer.request()
        gate.wait(20)
        peer.send(answer(b"body", etag='"1"'))
        peer.request()
        peer.reset()

    gate = threading.Barrier(4)
    with Scripted(script, script, script, script, swallowing) as server:
        store = store_at(server.url)
        futures = [store.download(AT, Sink(None, threading.Event())) for _ in range(4)]
        for future in futures:
            future.result(20)
        assert until(lambda: len(next(iter(store._lane.idle.values()))) == 4)
        with pytest.raises(ConnectionError):
            get(store)
        assert len(server.heads) == 4 + 1 + 3  # the stale one, and the three attempts of `impatient_options`


def test_a_connection_that_ends_after_its_first_byte_is_no_stale_one():
    """The server saw the request: this attempt counts."""

    def script(peer):
        peer.request()
        peer.send(answer(b"body"))
        peer.head()
        peer.send(b"HTTP/1.1 2")

    with Scripted(script, always(answer(b"body"))) as server:
        store = one_attempt(server.url)
        get(store)
        with pytest.raises(ConnectionError):
            get(store)


def test_a_reset_right_after_a_whole_record_is_told_and_no_stale_connection(monkeypatch):
    """What is small is looked for at once: when that meets the reset, the server has answered all the same."""

    class Breaking(socket.socket):
        is_reset = False

        def recv_into(self, buffer, *args):
            if self.is_reset:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            count = super().recv_into(buffer, *args)
            self.is_reset = count == connection._RECORD_BYTES
            return count

    whole = answer(BODY[:40_000], etag='"1"')

    def script(peer):
        peer.request()
        peer.send(answer(b"body"))
        peer.request()
        peer.send(whole[: connection._RECORD_BYTES])
        peer.wait_until_the_client_leaves()

    monkeypatch.setattr(socket, "socket", Breaking)
    with Scripted(script, always(whole)) as server:
        store = one_attempt(server.url)
        assert get(store) == b"body"
        with pytest.raises(ConnectionError):
            get(store)
        assert len(server.heads) == 2


def test_an_idle_connection_is_closed_after_a_while(monkeypatch):
    monkeypatch.setattr(connection, "_IDLE_S", 0.1)
    left = threading.Event()

    def script(peer):
        peer.request()
        peer.send(answer(b"body"))
        peer.wait_until_the_client_leaves()
        left.set()

    with Scripted(script) as server:
        get(store_at(server.url))
        assert left.wait(5)


@pytest.mark.parametrize("closes", [True, False], ids=["closes at once", "reads on"])
@pytest.mark.parametrize(
    ("said", "code"),
    [("403 Forbidden", "AccessDenied"), ("413 Payload Too Large", "EntityTooLarge")],
    ids=["403", "413"],
)
def test_an_answer_before_the_end_of_the_body_is_told(source, said, code, closes):
    """A server that refuses an upload does not read all of it: what it said counts, not the reset that follows."""

    def script(peer):
        peer.head()
        peer.send(answer(error(code), said, connection="close"))
        if not closes:
            peer.wait_until_the_client_leaves()

    with Scripted(script) as server:
        with pytest.raises(OSError, match="asked for by the test") as caught:
            put(store_at(server.url), source, os.urandom(16 << 20))  # more than the buffers of both sockets hold
        assert code_of(caught.value) == code
        assert len(server.heads) == 1


def test_an_answer_that_came_before_the_request_could_be_sent_is_told():
    """The reset that comes after it makes sending fail before anything was received."""
    is_connected, has_reset = threading.Event(), threading.Event()

    class Late(Asked):
        def request(self):
            is_connected.set()
            assert has_reset.wait(10)
            return super().request()

    def script(peer):
        assert is_connected.wait(10)  # or the reset would be that of a connection never made
        peer.send(answer(error("SlowDown"), "503 Slow Down"))
        peer.reset()
        has_reset.set()

    with Scripted(script) as server:
        exchange = Late(Endpoint("127.0.0.1", server.port))
        loops()[0].submit(Lane(1), exchange)
        assert exchange.future.result(10).status == 503


# --- silence

SILENCES = {
    "no answer": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nconte",
    "no body": answer(b"body")[:-4],
    "half a body": answer(b"body")[:-2],
}


@pytest.mark.parametrize("said", SILENCES.values(), ids=SILENCES)
def test_silence_is_a_timeout(said):
    def script(peer):
        peer.request()
        peer.send(said)
        peer.wait_until_the_client_leaves()

    with Scripted(script) as server:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"nothing for 1\.0 s"):  # of ours: the server leaves after 20
            get(one_attempt(server.url, IMPATIENT))
        assert time.monotonic() - began > 0.9


def test_a_server_that_does_not_read_is_a_timeout(source):
    def script(peer):
        peer.head()
        threading.Event().wait(10)

    with Scripted(script) as server, pytest.raises(TimeoutError):
        put(one_attempt(server.url, IMPATIENT), source, os.urandom(16 << 20))


def drip(*pieces, every_s=0.003):
    """A script: the answer begins at once and goes on for ever, a bit at a time."""

    def script(peer):
        peer.request()
        first, *more = pieces
        peer.send(first)
        for piece in itertools.cycle(more):
            peer.send(piece, pause_s=every_s)

    return script


# of a response: what moves, and would for ever
DRIPS = {
    "interim answers": ([b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 9], "more than 100 interim"),
    "interim answers and half of another": ([b"HTT", b"P/1.1 100 Continue\r\n\r\nHTT" * 9], "more than 100 interim"),
    "a head": ([b"HTTP/1.1 200 OK\r\na: ", b"b"], "head of the answer was not whole"),
    "an interim head": ([b"HTTP/1.1 103 Early Hints\r\na: ", b"b"], "head of the answer was not whole"),
    "a small body": ([answer(bytes(100_000), etag='"x"')[:-100_000], b"b"], "is a stall"),
    "a large body": ([answer(bytes(1 << 20), etag='"x"')[: -(1 << 20)], b"b"], "is a stall"),
    "an error": ([answer(bytes(100_000), "403 Forbidden")[:-100_000], b"b"], "is a stall"),
    "an error without a length": ([b"HTTP/1.1 403 Forbidden\r\n\r\n", b"b"], "is a stall"),
    "a chunk's extension": ([b"HTTP/1.1 403 F\r\ntransfer-encoding: chunked\r\n\r\n4;a=", b"b"], "is a stall"),
    "trailers": ([b"HTTP/1.1 403 F\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"], "is a stall"),
}


@pytest.mark.parametrize(("pieces", "reason"), DRIPS.values(), ids=DRIPS)
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_what_drips_for_ever_ends(pieces, reason, in_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(deadline, "SLOW_S", 0.6)
    monkeypatch.setattr(deadline, "_HEAD_TIMEOUTS", 0.05)  # of the 20 s of patience
    with Scripted(drip(*pieces)) as server, pytest.raises((TimeoutError, ConnectionError), match=reason):
        one_attempt(server.url).download(AT, Sink(None if in_memory else tmp_path / "a.bin", threading.Event())).result(
            15
        )


def test_a_size_that_drips_ends(monkeypatch):
    monkeypatch.setattr(deadline, "SLOW_S", 0.6)
    monkeypatch.setattr(deadline, "_HEAD_TIMEOUTS", 0.05)
    with Scripted(drip(b"HTTP/1.1 200 OK\r\na: ", b"b")) as server, pytest.raises(TimeoutError, match="head"):
        one_attempt(server.url).info(AT).result(15)


def test_a_server_that_reads_byte_by_byte_ends(source, monkeypatch):
    monkeypatch.setattr(deadline, "SLOW_S", 0.6)

    def script(peer):
        while peer.sock.recv(1):
            time.sleep(0.02)

    with Scripted(script) as server, pytest.raises(TimeoutError, match=r"took \d+ bytes.*is a stall"):
        put(one_attempt(server.url), source, bytes(32 << 20))


def test_a_flood_of_trailers_ends():
    def script(peer):
        peer.request()
        peer.send(b"HTTP/1.1 403 F\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        while True:
            peer.send(b"a: b\r\n" * 10_000)

    with Scripted(script) as server, pytest.raises(ConnectionError, match="with more than 1048576 bytes"):
        get(one_attempt(server.url))


def test_a_body_faster_than_the_least_speed_arrives(monkeypatch):
    monkeypatch.setattr(deadline, "SLOW_S", 0.3)
    body = bytes(8000)
    framed = answer(body)

    def script(peer):
        peer.request()
        for first in range(0, len(framed), 800):
            peer.send(framed[first : first + 800], pause_s=0.15)  # some 5 KB/s

    with Scripted(script) as server:
        assert get(one_attempt(server.url)) == body


def test_a_read_timeout_of_none_bounds_nothing(monkeypatch):
    monkeypatch.setattr(deadline, "SLOW_S", 0.2)

    def script(peer):
        peer.request()
        peer.send(answer(b"body")[:-4], b"b", b"o", b"d", b"y", pause_s=0.3)

    with Scripted(script) as server:
        assert get(one_attempt(server.url, Config(read_timeout=None))) == b"body"


def test_boto3s_body_that_drips_ends(monkeypatch):
    monkeypatch.setattr(deadline, "SLOW_S", 0.6)
    pieces = [answer(bytes(100_000), etag='"x"')[:-100_000], b"b"]
    with Scripted(drip(*pieces)) as server, pytest.raises(TimeoutError, match="is a stall"):
        get(one_attempt(server.url, engine="boto3"))


def test_a_server_that_shakes_no_hands_is_a_timeout():
    with Scripted(lambda peer: peer.wait_until_the_client_leaves()) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(TimeoutError, match=r"no connection to 127.0.0.1:\d+ in 1.0 s"):
            get(one_attempt(url, IMPATIENT))


def test_a_function_that_holds_the_gil_is_not_taken_for_a_stalled_server():
    asked = threading.Event()

    def script(peer):
        peer.request()
        asked.set()
        peer.send(answer(b"body"), pause_s=0.2)

    with Scripted(script) as server:
        sink = Sink(None, threading.Event())
        future = one_attempt(server.url, IMPATIENT).download(AT, sink)
        asked.wait(10)
        ctypes.PyDLL(None).usleep(2_500_000)  # PyDLL keeps the GIL; twice the read timeout of 1 s, and more
        future.result(10)
        assert sink.data == b"body"


# --- addresses


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_refused_connection_says_where():
    port = free_port()
    with pytest.raises(ConnectionError, match=rf"127\.0\.0\.1:{port}.*after 3 attempts"):
        get(store_at(f"http://127.0.0.1:{port}"))


def test_an_unknown_host_is_named():
    with pytest.raises(ConnectionError, match=r"nobody\.invalid.*after 3 attempts"):
        get(store_at("http://nobody.invalid:9"))


class Asked(Exchange):
    """A plain GET of one host, and the Future of its answer."""

    def __init__(self, endpoint, cancelled=None):
        super().__init__(endpoint, cancelled or threading.Event())
        self.future = Future()

    def request(self):
        return f"GET / HTTP/1.1\r\nhost: {self.endpoint.host}\r\n\r\n".encode()

    def accept(self, answer):
        return None

    def done(self, answer, error):
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(answer)


def test_a_host_that_is_no_name_at_all_is_an_error():
    """IDNA's codec raises UnicodeError for an empty label, which is no OSError."""
    exchange = Asked(Endpoint("a..b", 9))
    loops()[0].submit(Lane(1), exchange)
    with pytest.raises(OSError, match=r"a\.\.b"):
        exchange.future.result(10)


@pytest.fixture
def resolved(monkeypatch):
    """Have every name resolve to addresses of the test's: what the machine's own names resolve to is not ours."""

    def resolve(*addresses):
        asked = []

        def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002  # socket's name
            asked.append(host)
            families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
            return [
                (of, socket.SOCK_STREAM, 6, "", (address, port, 0, 0) if ":" in address else (address, port))
                for of, address in zip(families, addresses, strict=True)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    loops()[0].names._known.clear()
    yield resolve
    loops()[0].names._known.clear()


@pytest.mark.parametrize("addresses", [("::1", "127.0.0.1"), ("127.0.0.1", "::1")], ids=["::1 first", "::1 last"])
def test_an_address_that_refuses_gives_way_to_the_next(resolved, addresses):
    resolved(*addresses)
    with Scripted(answering(answer(b"body", connection="close"))) as server:
        store = one_attempt(f"http://localhost:{server.port}")
        assert [get(store) for _ in range(3)] == [b"body"] * 3


def test_connections_take_turns_among_the_addresses_of_a_name(resolved):
    """S3 answers with several, and each is a machine that can do more."""
    endpoint, loop = Endpoint("store.example", 9), loops()[0]
    first, second = (socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_INET, ("127.0.0.2", 9))
    loop.names._known["store.example", 9] = time.monotonic() + 60, [first, second]
    assert sorted(loop.names.addresses(endpoint)[0] for _ in range(4)) == [first, first, second, second]


def test_a_name_is_looked_up_once(resolved):
    asked = resolved("127.0.0.1")
    with Scripted(answering(answer(b"body", connection="close"))) as server:
        store = one_attempt(f"http://localhost:{server.port}", max_concurrency=16)
        sinks = [Sink(None, threading.Event()) for _ in range(32)]
        for future in [store.download(AT, sink) for sink in sinks]:
            future.result(10)
    assert asked == ["localhost"]


def test_a_name_is_looked_up_again_after_a_while(resolved, monkeypatch):
    monkeypatch.setattr(names, "_NAMES_S", 0.0)
    asked = resolved("127.0.0.1")
    with Scripted(answering(answer(b"body", connection="close"))) as server:
        store = one_attempt(f"http://localhost:{server.port}")
        for _ in range(3):
            get(store)
    assert asked == ["localhost"] * 3


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture
def tls_faults(authority):
    with FaultServer(tls=authority.server("127.0.0.1")) as server:
        server.put("s3://bucket/other", b"")
        yield server


def trusting(url, verify, **kwargs):
    options = impatient_options(url, **kwargs)
    client = {**options.s3_client_kwargs} | ({} if verify is None else {"verify": verify})
    return file_dataset.Options(options.session_kwargs, client, max_concurrency=8, engine=options.engine)


TRUSTS = {
    "verify=path": lambda patch, path: str(path),
    "AWS_CA_BUNDLE": lambda patch, path: patch.setenv("AWS_CA_BUNDLE", str(path)),
    "verify=False": lambda patch, path: False,
}


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("trust", TRUSTS.values(), ids=TRUSTS)
def test_objects_go_both_ways_over_tls(tls_faults, authority, monkeypatch, source, trust, engine):
    store = S3Store(trusting(tls_faults.endpoint_url, trust(monkeypatch, authority.path), engine=engine))
    for body in (b"", SMALL, LARGE, BODY):
        put(store, source, body)
        assert get(store) == body


@in_parts
def test_a_large_object_comes_over_tls_in_parts(tls_faults, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "_SPLIT_BYTES", 1 << 20)
    body = os.urandom(9 << 20)
    tls_faults.put(URL, body, checksum="CRC64NVME")
    sink = Sink(tmp_path / "a.bin", threading.Event())
    S3Store(trusting(tls_faults.endpoint_url, str(authority.path))).download(AT, sink).result(30)
    sink.commit()
    assert (tmp_path / "a.bin").read_bytes() == body
    assert tls_faults.count("GetObject") > 2


def test_a_small_object_over_tls_is_written_at_once(authority, tmp_path, monkeypatch):
    """Its head and the first of it fill one record, the rest another."""
    body, writes = os.urandom(16 << 10), []
    write = Part.write
    monkeypatch.setattr(Part, "write", lambda part, chunk: writes.append(len(chunk)) or write(part, chunk))
    with Scripted(always(answer(body, etag='"1"')), tls=authority.server("127.0.0.1")) as server:
        store = S3Store(trusting(server.url, str(authority.path)))

        def comes_whole():  # unless the second record is late, now and then
            writes.clear()
            assert into_file(store, tmp_path) == body
            return writes == [len(body)]

        assert any(comes_whole() for _ in range(50))


def test_a_connection_over_tls_is_used_again(tls_faults, authority):
    tls_faults.put(URL, BODY)
    store = S3Store(trusting(tls_faults.endpoint_url, str(authority.path)))
    count = len(loops())  # each has a connection of its own; large bodies go round them
    for _ in range(count + 2):
        assert get(store) == BODY
    assert tls_faults.accepted <= count


@pytest.mark.parametrize("verify", ["another CA", None], ids=["another CA", "the usual CAs"])
def test_a_certificate_that_is_not_trusted_is_told_with_the_remedy_after_one_attempt(
    tls_faults, other_authority, verify, engine
):
    tls_faults.put(URL, BODY)
    trusted = str(other_authority.path) if verify else None
    with pytest.raises(OSError, match=r"certificate verify failed.*verify") as caught:
        get(S3Store(trusting(tls_faults.endpoint_url, trusted, engine=engine)))
    assert "attempts" not in str(caught.value)
    assert tls_faults.accepted == 1


WRONG_CERTIFICATES = {
    "another host": ("another.example", -1, 1, "another host's: check endpoint_url"),
    "another address": ("127.0.0.2", -1, 1, "another host's: check endpoint_url"),
    "expired": ("127.0.0.1", -2, -1, "expired: renew it"),
    "not valid yet": ("127.0.0.1", 1, 2, "not valid yet: check this machine's clock"),
}


@pytest.mark.parametrize("wrong", WRONG_CERTIFICATES.values(), ids=WRONG_CERTIFICATES)
def test_a_certificate_that_no_ca_helps_is_refused_with_what_does(authority, engine, wrong):
    name, first, last, remedy = wrong
    with Scripted(always(answer(b"body")), tls=authority.server(name, days=(first, last))) as server:
        with pytest.raises(OSError, match=remedy) as caught:
            get(S3Store(trusting(server.url, str(authority.path), engine=engine)))
        assert "verify'" not in str(caught.value)
        assert "attempts" not in str(caught.value)
        assert server.accepted == 1
        assert not server.heads


def test_a_handshake_that_breaks_off_is_tried_again(authority, engine):
    context = authority.server("127.0.0.1")

    def served(peer):
        with context.wrap_socket(peer.sock, server_side=True) as peer.sock:
            always(answer(b"body"))(peer)

    with Scripted(lambda peer: peer.sock.recv(10), served) as server:
        url = server.url.replace("http:", "https:")
        assert get(S3Store(trusting(url, str(authority.path), engine=engine))) == b"body"


def test_a_server_that_speaks_no_tls_is_told(engine):
    said = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with Scripted(lambda peer: peer.send(said)) as server:
        with pytest.raises(OSError, match=r"(?i)ssl.*http://"):
            get(store_at(server.url.replace("http:", "https:"), engine=engine))
        assert server.accepted == 1  # another attempt cannot help


def test_a_server_that_speaks_tls_to_a_client_that_does_not_is_told():
    alert = b"\x15\x03\x01\x00\x02\x02\x46"  # TLS 1.0: fatal, protocol_version
    with Scripted(answering(alert)) as server:
        with pytest.raises(OSError, match="https://"):
            get(store_at(server.url))
        assert server.accepted == 1


@pytest.mark.parametrize("end", ["closes", "resets"])
def test_a_body_that_breaks_off_over_tls_is_continued(authority, end):
    def broken(peer):
        peer.request()
        peer.send(answer(b"body", etag='"x"')[:-2])
        if end == "resets":
            time.sleep(0.05)
            peer.reset()

    rest = answer(b"dy", "206 Partial Content", etag='"x"', content_range="bytes 2-3/4")
    with Scripted(broken, always(rest), tls=authority.server("127.0.0.1")) as server:
        assert get(S3Store(trusting(server.url, str(authority.path)))) == b"body"
        assert "range: bytes=2-3" in server.heads[1].lower()


# --- how many at a time


def wire_threads():
    return [thread for thread in threading.enumerate() if thread.name == "file_dataset-http"]


def test_max_concurrency_counts_what_boto3_sends_too(faults, tmp_path):
    faults.fail("*", Busy(1000, seconds=0.02), times=None)
    for number in range(30):
        faults.put(f"s3://bucket/{number}", b"x" * 100)
    store = S3Store(impatient_options(faults.endpoint_url, max_concurrency=4))
    source = tmp_path / "a.bin"
    source.write_bytes(b"x")
    futures = []
    for number in range(30):
        at = ObjectUrl("bucket", str(number))
        futures.append(store.download(at, Sink(None, threading.Event())))
        extra = {"ChecksumAlgorithm": "SHA256"}  # which the wire leaves to boto3
        futures.append(store.upload(LocalFile.at(source), at, extra_args=extra, cancelled=threading.Event()))
    for future in futures:
        future.result(30)
    assert 1 < faults.max_in_flight <= 4


def test_a_process_has_one_loop(faults):
    faults.put(URL, BODY)
    both = [impatient_options(faults.endpoint_url, max_concurrency=width) for width in (3, 5)]

    def read(number):
        return file_dataset.reader(row={"a.bin": URL}, options=both[number % 2]).into_blob_table().num_rows

    read(0)
    before = wire_threads()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(32))) == [1] * 32
    assert wire_threads() == before


def test_whatever_reads_shares_one_loop_and_its_bound(faults):
    faults.fail("*", Busy(10_000, seconds=0.02), times=None)
    for number in range(12):
        faults.put(f"s3://bucket/{number}", b"x" * 100)
    frame = pd.DataFrame({"id": range(12), "a.bin": [f"s3://bucket/{number}" for number in range(12)]})
    options = impatient_options(faults.endpoint_url, max_concurrency=4)
    reader = file_dataset.reader(frame, options=options)
    reader.into_size_table(limit=1)
    before = wire_threads()
    into = {"into_path": "s3://bucket/out"}
    pipeline = file_dataset.Pipeline(forward, write_options=into, options=options, prefetch=4, progress=False)
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(read) for read in (reader.into_blob_table, reader.into_size_table, reader.into_temp_dir)]
        manifest = pool.submit(pipeline, frame).result(60)
        blobs, sizes, files = [each.result(60) for each in reads]
    with files as directory:
        assert len(list(directory.iterdir())) == 12
    assert [blobs.num_rows, sizes.num_rows, len(manifest)] == [12, 12, 12]
    assert 1 < faults.max_in_flight <= 4
    assert wire_threads() == before


def test_an_idle_connection_keeps_nothing_of_what_it_brought(faults):
    """64 idle connections would hold 64 blobs, whoever else had let them go."""
    faults.put(URL, BODY)
    reader = file_dataset.reader(row={"a.bin": URL}, options=impatient_options(faults.endpoint_url))
    before = {id(each) for each in gc.get_objects() if type(each) is Sink}

    def kept():
        return [each for each in gc.get_objects() if type(each) is Sink and id(each) not in before]

    table = reader.into_blob_table()
    assert table["a.bin"][0].as_buffer().size == len(BODY)
    assert until(lambda: not kept())


def test_a_store_that_is_throttling_gets_fewer_requests_and_later_as_many_again(faults, monkeypatch):
    monkeypatch.setattr(lane, "_THROTTLE_S", 0.02)
    width, at_most = 32, 8
    store = S3Store(options_for(faults.endpoint_url, max_concurrency=width))
    for number in range(20):
        faults.put(f"s3://bucket/{number}", b"x")

    def read(count):
        sinks = [Sink(None, threading.Event()) for _ in range(count)]
        futures = [store.download(ObjectUrl("bucket", str(number % 20)), sink) for number, sink in enumerate(sinks)]
        return sum(not isinstance(future.exception(60), OSError) for future in futures)

    faults.fail("GetObject", Busy(at_most, seconds=0.01), times=None)
    assert read(300) > 290  # the first of them have five attempts like all others
    refused = faults.count("GetObject") - 300
    faults.reset()
    faults.fail("GetObject", Busy(at_most, seconds=0.01), times=None)
    read(300)
    assert faults.count("GetObject") - 300 < max(refused, 60)
    assert store._lane.window < width / 2
    faults.reset()
    faults.fail("GetObject", Busy(1000, seconds=0.005), times=None)
    assert read(1500) == 1500
    assert faults.max_in_flight > width / 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_lane_halves_what_is_in_flight_when_the_store_says_slow_down(status):
    with Scripted(always(answer(error("SlowDown"), f"{status} Slow Down"))) as server:
        store = one_attempt(server.url, max_concurrency=8)
        store._lane.window = 8.0
        with pytest.raises(ConnectionError):
            get(store)
        assert store._lane.window == 1.0  # one was in flight; never less than one


def test_requests_that_were_in_flight_together_count_as_one_sign_of_throttling():
    lane = Lane(64)
    lane.in_flight = 64
    for _ in range(64):
        lane.throttled()
    assert lane.window == 32


def test_a_lane_recovers_by_one_request_for_every_window_of_answers():
    lane = Lane(64)
    lane.window = 8.0
    for _ in range(8):
        lane.answered()
    assert 8.9 < lane.window < 9.1
    for _ in range(64 * 64):
        lane.answered()
    assert lane.window == 64


# --- what is left to boto3


def lines_about_boto3(caplog):
    return [record.getMessage() for record in caplog.records if "left to boto3" in record.getMessage()]


@pytest.mark.parametrize("how", ["environment", "Config"])
def test_proxies_are_left_to_boto3_with_one_line_that_says_why(monkeypatch, caplog, how):
    caplog.set_level(logging.DEBUG, "file_dataset")
    with Scripted(always(answer(b"body"))) as proxy:
        config = None
        monkeypatch.delenv("NO_PROXY")
        if how == "environment":
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
        else:
            config = Config(proxies={"http": proxy.url})
        store = one_attempt("http://store.invalid", config)
        assert [get(store) for _ in range(3)] == [b"body"] * 3
        assert proxy.heads[0].startswith("GET http://store.invalid/bucket/a.bin ")
    assert lines_about_boto3(caplog) == ["bucket bucket is left to boto3: proxies"]


def test_a_host_without_proxy_is_not_left_to_boto3(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "file_dataset")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # NO_PROXY has 127.0.0.1
    with Scripted(always(answer(b"body"))) as server:
        assert get(one_attempt(server.url)) == b"body"
    assert not lines_about_boto3(caplog)


NO_PROXIES = {
    "NO_PROXY alone": {"NO_PROXY": "elsewhere.example"},
    "a proxy for another scheme": {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""},
}


@pytest.mark.parametrize("environment", NO_PROXIES.values(), ids=NO_PROXIES)
def test_what_is_no_proxy_for_this_endpoint_leaves_nothing_to_boto3(monkeypatch, caplog, environment):
    caplog.set_level(logging.DEBUG, "file_dataset")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Scripted(always(answer(b"body"))) as server:
        assert get(one_attempt(server.url)) == b"body"
    assert not lines_about_boto3(caplog)


def test_a_config_without_proxies_wins_over_the_environment(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "file_dataset")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Scripted(always(answer(b"body"))) as server:
        assert get(one_attempt(server.url, Config(proxies={}))) == b"body"
    assert not lines_about_boto3(caplog)


def test_the_engine_boto3_sends_nothing_over_the_wire(faults, source, monkeypatch):
    used = []
    for name in ("submit", "call"):
        monkeypatch.setattr(Loop, name, lambda *_, name=name: used.append(name))
    monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
    monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 5 << 20)
    faults.put("s3://bucket/other", b"")
    store = store_at(faults.endpoint_url, engine="boto3")
    for body in (SMALL, os.urandom(6 << 20)):
        put(store, source, body)
        assert store.info(AT).result(10).size_bytes == len(body)
        assert get(store) == body
    assert not used


def test_the_wire_moves_what_it_can(faults, source, monkeypatch, caplog):
    """The opposite of the one above: or both could pass with boto3 alone."""
    caplog.set_level(logging.DEBUG, "file_dataset")
    sent = []
    original = Loop.submit
    monkeypatch.setattr(Loop, "submit", lambda self, lane, each: (sent.append(type(each)), original(self, lane, each)))
    faults.put("s3://bucket/other", b"")
    store = store_at(faults.endpoint_url)
    put(store, source)
    store.info(AT).result(10)
    get(store)
    assert [kind.__name__ for kind in sent] == ["Put", "Head", "Get"]
    assert not lines_about_boto3(caplog)


# --- what is sent

OWN = {  # of one engine: its own tries, its own way to name a digest, or a list that depends on what was imported
    "accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "connection", "content-type",
    "content-encoding", "expect", "user-agent", "x-amz-checksum-crc64nvme", "x-amz-content-sha256", "x-amz-date",
    "x-amz-decoded-content-length", "x-amz-sdk-checksum-algorithm", "x-amz-trailer", "content-length",
    "transfer-encoding",
}  # fmt: skip
STYLES = {
    "path": ("{url}", {"s3": {"addressing_style": "path"}}),
    "virtual": ("{url}", {"s3": {"addressing_style": "virtual"}}),
    "path with a prefix": ("{url}/below/this", {"s3": {"addressing_style": "path"}}),
    "virtual with a prefix": ("{url}/below/this", {"s3": {"addressing_style": "virtual"}}),
    "unsigned": ("{url}", {"signature_version": UNSIGNED}),
    "unsigned payload": ("{url}", {"s3": {"addressing_style": "path", "payload_signing_enabled": False}}),
    "no checksums": (
        "{url}",
        {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"},
    ),
    "user agent": ("{url}", {"user_agent_extra": "our-team/1.0"}),
}
KEYS_WITH_TOKEN = {
    "aws_access_key_id": "AKID", "aws_secret_access_key": "secret", "aws_session_token": "to+ken/=",
    "region_name": "eu-central-1",
}  # fmt: skip


def parsed(head):
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, headers


def sent_by(engine, url, config, verb, source):
    """The one request that an engine sends, to a server of the name `store.example`: first line and headers."""

    def script(peer):
        peer.request()
        peer.send(answer(b"", etag='"x"'))

    with Scripted(script) as server:
        endpoint = url.format(url=f"http://store.example:{server.port}")
        one = Config(retries={"total_max_attempts": 1}, read_timeout=5)
        options = file_dataset.Options(
            KEYS_WITH_TOKEN, {"endpoint_url": endpoint, "config": one.merge(Config(**config))}, engine=engine
        )
        store = S3Store(options)
        at = ObjectUrl("bucket", "a b+c/ünï~$&'.bin")
        if verb == "get":
            get(store, at)
        elif verb == "info":
            store.info(at).result(10)
        else:
            put(store, source, SMALL, at)
        is_ours = store._operations.route(store._current.get(), at.bucket) is not None
        assert is_ours == (engine == "auto")  # or one engine would be compared with itself
        (head,) = server.heads
        return parsed(head.replace(str(server.port), "PORT"))


@pytest.mark.parametrize("verb", ["get", "info", "put"])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_both_engines_ask_alike(resolved, source, style, verb):
    resolved("127.0.0.1")
    url, config = style
    (line, ours), (boto_line, theirs) = (sent_by(engine, url, config, verb, source) for engine in ("auto", "boto3"))
    assert line == boto_line
    assert {name: ours[name] for name in ours.keys() - OWN} == {name: theirs[name] for name in theirs.keys() - OWN}
    for headers in (ours, theirs):
        headers["scope"] = re.sub(r"/\d{8}/", "/", headers.get("authorization", "").partition(",")[0])
        headers["agent"] = re.findall("Boto3/|our-team", headers["user-agent"])
    assert (ours["scope"], ours["agent"]) == (theirs["scope"], theirs["agent"])


def test_a_bucket_in_the_name_of_the_host_is_not_in_the_path(resolved, source):
    """The opposite of the one above: that its styles differ."""
    resolved("127.0.0.1")
    line, headers = sent_by("auto", *STYLES["virtual"], "get", source)
    assert (line.split()[1].startswith("/a%20b"), headers["host"]) == (True, "bucket.store.example:PORT")
    line, headers = sent_by("auto", *STYLES["path with a prefix"], "get", source)
    assert (line.split()[1].startswith("/below/this/bucket/a%20b"), headers["host"]) == (True, "store.example:PORT")


def test_a_session_token_is_sent_and_signed(resolved, source):
    resolved("127.0.0.1")
    _, headers = sent_by("auto", *STYLES["path"], "get", source)
    assert headers["x-amz-security-token"] == "to+ken/="
    assert "x-amz-security-token" in headers["authorization"]


def test_an_unsigned_request_has_no_trace_of_credentials(resolved, source):
    resolved("127.0.0.1")
    _, headers = sent_by("auto", *STYLES["unsigned"], "get", source)
    assert not {"authorization", "x-amz-security-token", "x-amz-date"} & headers.keys()


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
class TestDigestsOfUploads:
    def sent(self, faults, source, body, **config):
        faults.put("s3://bucket/other", b"")
        put(S3Store(options_for(faults.endpoint_url, config=Config(**config))), source, body)
        assert faults.body(URL) == body  # the server compares every digest that it gets
        return faults.headers[-1]

    def test_the_payload_is_signed_on_plain_http(self, faults, source, body):
        assert re.fullmatch("[0-9a-f]{64}", self.sent(faults, source, body)["x-amz-content-sha256"])

    def test_the_payload_is_not_signed_when_the_config_says_so(self, faults, source, body):
        s3 = {"addressing_style": "path", "payload_signing_enabled": False}
        assert self.sent(faults, source, body, s3=s3)["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"

    def test_the_payload_is_not_signed_over_tls(self, tls_faults, authority, source, body):
        put(S3Store(trusting(tls_faults.endpoint_url, str(authority.path))), source, body)
        assert tls_faults.headers[-1]["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"

    def test_the_payload_is_signed_over_tls_when_the_config_says_so(self, tls_faults, authority, source, body):
        options = trusting(tls_faults.endpoint_url, str(authority.path))
        signed = Config(s3={"addressing_style": "path", "payload_signing_enabled": True})
        kwargs = {**options.s3_client_kwargs, "config": signed}
        put(S3Store(file_dataset.Options(options.session_kwargs, kwargs)), source, body)
        assert re.fullmatch("[0-9a-f]{64}", tls_faults.headers[-1]["x-amz-content-sha256"])

    def test_a_crc64nvme_goes_along(self, faults, source, body):
        hasher = _digest.hasher("CRC64NVME")
        hasher.update(memoryview(body))
        assert self.sent(faults, source, body)["x-amz-checksum-crc64nvme"] == hasher.digest().value

    def test_no_checksum_goes_along_when_none_is_required(self, faults, source, body):
        sent = self.sent(faults, source, body, request_checksum_calculation="when_required")
        assert not [name for name in sent if "checksum" in name]

    def test_a_body_that_is_damaged_on_its_way_is_refused(self, faults, source, body, monkeypatch):
        """That the digest is one of the file, and not of what happens to be sent."""
        faults.put("s3://bucket/other", b"")
        hashed = requests.Put._hash
        monkeypatch.setattr(requests.Put, "_hash", lambda self, chunks: hashed(self, [*chunks, b"!"]))
        with pytest.raises(OSError, match=r"Sha256|SHA256|BadDigest|did not match|Mismatch"):
            put(S3Store(impatient_options(faults.endpoint_url)), source, body)


EXTRA_ARGS = {
    "ContentType": {"ContentType": "image/png; charset=x"},
    "Metadata": {"Metadata": {"a": "b  c", "Odd-Name": "=?;,\"'%20+&", "empty": ""}},
    "CacheControl": {"CacheControl": "max-age=60, public"},
    "ContentDisposition": {"ContentDisposition": 'attachment; filename="a b.png"'},
    "ContentEncoding": {"ContentEncoding": "gzip"},
    "ContentLanguage": {"ContentLanguage": "de, en"},
    "Expires": {"Expires": dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)},
    "StorageClass": {"StorageClass": "STANDARD_IA"},
    "ServerSideEncryption": {"ServerSideEncryption": "AES256"},
    "KMS": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn:aws:kms:us-east-1:1:key/k"},
    "Tagging": {"Tagging": "a=b%20c&d=%C3%BC"},
    "ACL": {"ACL": "public-read"},
    "ChecksumAlgorithm": {"ChecksumAlgorithm": "SHA256"},
    "several": {"ContentType": "a/b", "Metadata": {"x": "y"}, "Tagging": "t=u", "StorageClass": "GLACIER_IR"},
}


@pytest.mark.parametrize("extra_args", EXTRA_ARGS.values(), ids=EXTRA_ARGS)
def test_extra_args_reach_the_object_identically_by_both_engines(moto, extra_args, source):
    client = options_for(moto).s3_client
    bucket = "extra-args"
    client.create_bucket(Bucket=bucket)
    found = []
    for engine in ("auto", "boto3"):
        at = ObjectUrl(bucket, engine)
        put(S3Store(options_for(moto, engine=engine)), source, b"body", at, **extra_args)
        head = client.head_object(Bucket=bucket, Key=engine)
        tags = client.get_object_tagging(Bucket=bucket, Key=engine)["TagSet"]
        acl = client.get_object_acl(Bucket=bucket, Key=engine)["Grants"]
        told = {name: value for name, value in head.items() if name not in ("ResponseMetadata", "LastModified")}
        found.append((told, tags, acl))
    assert found[0] == found[1]


def test_extra_args_reach_a_large_object_too(moto, source):
    client = options_for(moto).s3_client
    client.create_bucket(Bucket="extra-args")
    put(S3Store(options_for(moto)), source, LARGE, ObjectUrl("extra-args", "large"), ContentType="image/png")
    assert client.head_object(Bucket="extra-args", Key="large")["ContentType"] == "image/png"


CUSTOMERS = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}


@pytest.mark.parametrize("extra_args", [CUSTOMERS, {"RequestPayer": "requester"}], ids=["SSE-C", "RequestPayer"])
def test_strange_extra_args_are_left_to_boto3(faults, source, extra_args, caplog):
    caplog.set_level(logging.DEBUG, "file_dataset")
    faults.put("s3://bucket/other", b"")
    put(store_at(faults.endpoint_url), source, SMALL, **extra_args)
    assert faults.body(URL) == SMALL
    assert lines_about_boto3(caplog)


UNSENDABLE = {
    "a value beyond ASCII": {"Metadata": {"who": "Jürgen"}},
    "a line break": {"ContentType": "text/plain\r\nx-amz-acl: public-read"},
    "a request in a header": {"CacheControl": "x\r\n\r\nDELETE /bucket/other HTTP/1.1\r\n\r\n"},
    "a snowman": {"ContentDisposition": "attachment; filename=\N{SNOWMAN}.png"},
    "a date that is none": {"Expires": object()},
}


@pytest.mark.parametrize("extra_args", UNSENDABLE.values(), ids=UNSENDABLE)
def test_extra_args_that_no_header_can_hold_cost_the_row_and_nothing_else(faults, source, extra_args, engine):
    faults.put("s3://bucket/other", b"")
    source.write_bytes(b"body")
    options = impatient_options(faults.endpoint_url, engine=engine)
    with contextlib.suppress(RowError, InvalidDatasetError):  # or it is sent escaped, as botocore knows how
        file_dataset.write_files(
            {"a.bin": source}, into_path="s3://bucket/out", id="1", options=options, extra_args=extra_args
        )
    assert not [headers for headers in faults.headers if "x-amz-acl" in headers]
    assert not faults.count("DeleteObject")


# --- large objects


@pytest.fixture
def split(monkeypatch):
    """Bodies above 512 KiB come in parts of at least 256 KiB."""
    monkeypatch.setattr(requests, "_SPLIT_BYTES", 512 << 10)


def into_file(store, path, at=AT):
    sink = Sink(path / "a.bin", threading.Event())
    try:
        store.download(at, sink).result(60)
        sink.commit()
    finally:
        sink.discard()
    return (path / "a.bin").read_bytes()


@pytest.fixture(params=["memory", "file"])
def read(request, tmp_path):
    return get if request.param == "memory" else lambda store: into_file(store, tmp_path)


def ranges(faults):
    return [headers.get("range") for headers in faults.headers if headers[""] == "GetObject"]


@pytest.mark.usefixtures("split")
class TestInParts:
    PARTS = 12  # 3 MiB in parts of 256 KiB

    def store(self, faults, **kwargs):
        return store_at(faults.endpoint_url, max_concurrency=16, **kwargs)

    @pytest.mark.parametrize("checksum", ["CRC64NVME", "CRC32C", "CRC32", None])
    def test_a_large_object_comes_over_several_connections(self, faults, read, checksum):
        faults.put(URL, BODY, checksum=checksum, etag="kms")
        assert read(self.store(faults)) == BODY
        is_joined = checksum is None or _digest.can_join(checksum)
        assert faults.count("GetObject") == (self.PARTS if is_joined else 1)
        assert all(headers["if-match"] for headers in faults.headers if "range" in headers)

    def test_a_body_that_only_its_md5_proves_comes_in_one(self, faults, read):
        """The MD5 of the whole cannot be made of those of the parts."""
        faults.put(URL, BODY)
        assert read(self.store(faults)) == BODY
        assert faults.count("GetObject") == 1

    def test_a_body_at_the_limit_comes_in_one(self, faults, read):
        faults.put(URL, BODY[: 512 << 10], checksum="CRC64NVME")
        assert len(read(self.store(faults))) == 512 << 10
        assert faults.count("GetObject") == 1

    @in_parts
    def test_a_narrow_lane_gets_no_more_parts_than_places(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME")
        assert read(store_at(faults.endpoint_url, max_concurrency=2)) == BODY
        assert faults.count("GetObject") == 2
        assert faults.max_in_flight <= 2

    @pytest.mark.parametrize("checksum", ["CRC64NVME", "CRC32C", "CRC32"])
    @pytest.mark.parametrize("nth", [1, 2, 7, 12])
    def test_a_flipped_bit_in_any_part_is_found_and_costs_nothing(self, faults, read, checksum, nth):
        faults.put(URL, BODY, checksum=checksum, etag="kms")
        if not _digest.can_join(checksum):
            nth = 1
        faults.fail("GetObject", FlipBit(position=200_000), nth=nth)
        assert read(self.store(faults)) == BODY
        assert len(faults.fired) == 1

    @pytest.mark.parametrize("nth", [1, 12])
    @in_parts
    def test_a_bit_that_always_flips_is_told(self, faults, read, nth):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", FlipBit(position=200_000), nth=nth, times=None)
        with pytest.raises(ConnectionError, match=r"digest.*after 3 attempts"):
            read(self.store(faults))

    @pytest.mark.parametrize("nth", [2, 5])
    @pytest.mark.parametrize("checksum", ["CRC64NVME", None])
    @in_parts
    def test_an_object_that_is_replaced_between_its_parts_is_read_again_whole(self, faults, read, nth, checksum):
        other = BODY[::-1]
        faults.put(URL, BODY, checksum=checksum, etag="kms")
        faults.fail("GetObject", Replace(other), nth=nth)
        assert read(self.store(faults)) == other

    @in_parts
    def test_a_part_that_breaks_off_is_continued_and_only_it(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", Truncate(after_bytes=100_000), nth=4)
        assert read(self.store(faults)) == BODY
        assert faults.count("GetObject") == self.PARTS + 1
        broken = re.fullmatch(r"bytes=(\d+)-(\d+)", ranges(faults)[3]).groups()
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", ranges(faults)[-1]).groups()
        assert (int(first), last) == (int(broken[0]) + 100_000, broken[1])

    @in_parts
    def test_a_first_part_that_breaks_off_is_continued_and_only_it(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", Truncate(after_bytes=100_000))
        assert read(self.store(faults)) == BODY
        assert ranges(faults)[-1] == "bytes=100000-262143"

    @in_parts
    def test_parts_that_fail_for_ever_are_told_after_the_attempts(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", SLOW_DOWN, nth=2, times=None)
        with pytest.raises(ConnectionError, match="after 3 attempts") as caught:
            read(self.store(faults))
        assert code_of(caught.value) == "SlowDown"

    @pytest.mark.parametrize("size", [600_000, len(BODY)], ids=["parts of 300 kB", "3 MiB"])
    def test_a_server_that_knows_no_ranges_gives_the_whole(self, faults, read, size):
        faults.put(URL, BODY[:size], checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", IgnoreRange(), times=None)
        assert read(self.store(faults)) == BODY[:size]

    def test_a_range_under_the_status_200_is_a_range(self, read, tmp_path):
        """Servers made with gofakes3 (rclone's, say) answer so."""
        body = os.urandom(600_000)

        def script(peer):
            while True:
                head = peer.head()
                span = re.search(r"range: bytes=(\d+)-(\d+)", head)
                first, last = map(int, span.groups()) if span else (0, len(body) - 1)
                headers = {"content_range": f"bytes {first}-{last}/{len(body)}"} if span else {}
                peer.send(answer(body[first : last + 1], etag='"x"', **headers))

        with Scripted(script) as server:
            assert read(store_at(server.url)) == body
            assert len(server.heads) == 2

    @pytest.mark.parametrize("span", ["bytes 0-9/600000", "bytes 300000-599999/600001", "nonsense"])
    def test_another_range_than_asked_for_is_never_put_in_its_place(self, read, span):
        body = os.urandom(600_000)

        def script(peer):
            while True:
                if "range:" in peer.head():
                    peer.send(answer(body[:300_000], "206 Partial Content", etag='"x"', content_range=span))
                else:
                    peer.send(answer(body, etag='"x"'))

        with Scripted(script) as server, contextlib.suppress(ConnectionError):
            assert read(store_at(server.url)) == body

    def test_a_part_that_is_shorter_than_announced_is_gone_on_with(self, faults, read):
        """No digest would tell, and the length of the parts must add up."""
        faults.put(URL, BODY, etag="multipart")
        faults.fail("GetObject", Short(by=1000), nth=3)
        assert read(self.store(faults)) == BODY

    def test_a_body_that_no_etag_pins_comes_in_one(self, read):
        """Nothing would tell the parts of two versions from each other."""
        body = os.urandom(600_000)
        with Scripted(always(answer(body))) as server:
            assert read(store_at(server.url)) == body
            assert len(server.heads) == 1

    def test_a_large_object_in_a_narrow_lane_does_not_wait_for_itself(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME")
        assert read(store_at(faults.endpoint_url, max_concurrency=1)) == BODY


@pytest.mark.parametrize("body", [BODY[:100_000], BODY[:200_000]], ids=["100 kB", "200 kB"])
def test_the_rest_of_a_small_body_that_is_shorter_than_announced_is_not_made_up(faults, read, body):
    """Without a digest nothing else would tell the bytes that never came from those that did."""
    faults.put(URL, body, etag="multipart")
    faults.fail("GetObject", Truncate(after_bytes=50_000))
    faults.fail("GetObject", Short(by=1000), nth=2)
    assert read(store_at(faults.endpoint_url)) == body


# --- the pool beside the loop


@pytest.fixture
def own_loop(monkeypatch):
    """A loop of the test's own, with two buffers for bodies that go to disk."""
    loop = Loop(buffers=2)
    monkeypatch.setattr(_per_process, "_shared", OrderedDict(loops=[loop]))
    return loop


@pytest.mark.parametrize("broken", [0, 16], ids=["whole", "broken off once"])
def test_many_large_bodies_share_few_buffers(own_loop, faults, tmp_path, broken):
    faults.put(URL, BODY, checksum="CRC64NVME")
    faults.fail("GetObject", Truncate(after_bytes=1 << 20), times=broken)
    store = store_at(faults.endpoint_url)
    sinks = [Sink(tmp_path / f"{number}.bin", threading.Event()) for number in range(16)]
    for future in [store.download(AT, sink) for sink in sinks]:
        future.result(60)
    for sink in sinks:
        sink.commit()
    assert all(path.read_bytes() == BODY for path in tmp_path.iterdir())
    assert len(own_loop.buffers._free) == 2
    assert not own_loop.buffers._unmade


def test_a_body_that_found_no_buffer_is_not_forgotten_when_all_come_back_at_that_moment(
    own_loop, faults, tmp_path, monkeypatch
):
    """Between "there is none" and "tell me when there is one" the pool can give back the last of them."""
    faults.put(URL, BODY)
    original = Buffers.take

    def take(self):
        found = original(self)
        if found is None:
            assert until(lambda: len(self._free) == 2)
        return found

    monkeypatch.setattr(Buffers, "take", take)
    assert into_file(store_at(faults.endpoint_url), tmp_path) == BODY


class Gated:
    """A target whose last bytes are not taken before the gate opens."""

    def __init__(self, size, gate):
        self.size, self.received, self.gate = size, 0, gate

    def wants(self):
        return self.size - self.received

    def room(self):
        return None

    def arrived(self, chunk):
        raise NotImplementedError

    def write(self, chunk):
        self.received += len(chunk)
        if self.received == self.size:
            self.gate.wait(10)


class Fetched(Asked):
    """A GET into a target; how often it was ended."""

    def __init__(self, endpoint, target, cancelled):
        super().__init__(endpoint, cancelled)
        self.target, self.ends = target, 0

    def accept(self, answer):
        return self.target

    def done(self, answer, error):
        self.ends += 1
        if self.ends == 1:
            super().done(answer, error)


def test_an_exchange_that_is_cancelled_while_its_last_bytes_are_written_ends_once():
    """Or its lane counts one request less than there are, and lets more of them out than it may."""
    body = os.urandom(INLINE_BYTES + 1)
    with Scripted(always(answer(body))) as server:
        gate, cancelled = threading.Event(), threading.Event()
        target, lane = Gated(len(body), gate), Lane(4)
        exchange = Fetched(Endpoint("127.0.0.1", server.port), target, cancelled)
        loop = loops()[0]
        loop.submit(lane, exchange)
        connection = until(lambda: next((c for c in loop.connections if c.exchange is exchange), None))
        assert until(lambda: target.received == len(body) and connection._phase == connection._waiting)

        def all_at_once():
            gate.set()
            until(lambda: loop._calls)  # that the pool is done waits for its turn
            cancelled.set()
            connection.tick()

        loop.call(all_at_once)
        exchange.future.exception(10)
        rounds = threading.Event()
        loop.call(lambda: loop.call(rounds.set))
        assert rounds.wait(10)
        assert (exchange.ends, lane.in_flight) == (1, 0)


@pytest.mark.parametrize("free", [0, 2 << 20], ids=["from the first byte", "later"])
def test_a_full_disk_is_told_and_the_connection_given_up(own_loop, faults, tmp_path, monkeypatch, free):
    faults.put(URL, BODY)
    pwrite = os.pwrite

    def full(fd, chunk, position):
        if position >= free:
            raise OSError(28, "No space left on device")
        return pwrite(fd, chunk[: free - position], position)

    monkeypatch.setattr("file_dataset._sink.os.pwrite", full)
    with pytest.raises(OSError, match=r"no space left on device: a\.bin is 3145728 bytes"):
        into_file(store_at(faults.endpoint_url), tmp_path)
    assert until(lambda: not own_loop.connections)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_becomes_shorter_while_it_is_sent_is_told(faults, source, monkeypatch):
    faults.put("s3://bucket/other", b"")
    original = requests.Put.request

    def request(self):
        source.write_bytes(b"short")
        return original(self)

    monkeypatch.setattr(requests.Put, "request", request)
    with pytest.raises(OSError, match="became shorter"):
        put(store_at(faults.endpoint_url), source, LARGE)


def test_an_error_of_an_exchanges_own_does_not_end_the_loop(caplog):
    class Broken(Asked):
        def done(self, answer, error):
            self.future.set_result(None)
            raise ZeroDivisionError

    with Scripted(always(answer(b"body"))) as server:
        endpoint, lane = Endpoint("127.0.0.1", server.port), Lane(1)
        for kind in (Broken, Asked):
            exchange = kind(endpoint)
            loops()[0].submit(lane, exchange)
            exchange.future.result(10)
        assert exchange.future.result().body == b"body"
    assert "could not be ended" in caplog.text


# --- cancelling


def test_a_cancelled_download_closes_its_connection_at_once_and_leaves_no_file(own_faults, tmp_path):
    own_faults.put(URL, BODY)
    own_faults.fail("GetObject", Stall(after_bytes=1 << 20), times=None)
    store = S3Store(options_for(own_faults.endpoint_url))  # a minute of patience
    cancelled = threading.Event()
    sink = Sink(tmp_path / "a.bin", cancelled)
    future = store.download(AT, sink)
    assert until(lambda: own_faults.bytes_sent)
    cancelled.set()
    with pytest.raises(InterruptedError):
        future.result(30)
    sink.discard()
    assert until(lambda: not own_faults.in_flight)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("split")
@in_parts
def test_a_cancelled_download_in_parts_closes_all_its_connections(own_faults, tmp_path):
    own_faults.put(URL, BODY, checksum="CRC64NVME")
    own_faults.fail("GetObject", Stall(after_bytes=1000), times=None)
    store = S3Store(options_for(own_faults.endpoint_url))
    cancelled = threading.Event()
    sink = Sink(tmp_path / "a.bin", cancelled)
    future = store.download(AT, sink)
    assert until(lambda: own_faults.in_flight == 12)
    cancelled.set()
    with pytest.raises(InterruptedError):
        future.result(10)
    sink.discard()
    assert until(lambda: not own_faults.in_flight)
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_upload_closes_its_connection_at_once(source):
    left = threading.Event()

    def script(peer):
        peer.head()
        peer.sock.recv(1000)
        time.sleep(0.3)  # the client fills the buffers and waits
        peer.wait_until_the_client_leaves()
        left.set()

    source.write_bytes(os.urandom(16 << 20))
    with Scripted(script) as server:
        store = S3Store(options_for(server.url))
        cancelled = threading.Event()
        future = store.upload(LocalFile.at(source), AT, extra_args={}, cancelled=cancelled)
        assert until(lambda: server.heads)
        cancelled.set()
        with pytest.raises(InterruptedError):
            future.result(10)
        assert left.wait(10)  # and not the 20 s after which the server gives up


def test_requests_that_wait_for_their_turn_are_cancelled_too(own_faults):
    own_faults.put(URL, BODY)
    own_faults.fail("GetObject", Stall(after_bytes=1000), times=None)
    store = S3Store(options_for(own_faults.endpoint_url, max_concurrency=2))
    cancelled = threading.Event()
    futures = [store.download(AT, Sink(None, cancelled)) for _ in range(20)]
    assert until(lambda: own_faults.in_flight == 2)
    cancelled.set()
    for future in futures:
        with pytest.raises(InterruptedError):
            future.result(5)
    assert own_faults.count("GetObject") == 2


# --- what is left behind

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")


def descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count is all that is wanted


@needs_proc
def test_transfers_that_fail_leave_no_descriptor_open(tmp_path, source):
    source.write_bytes(LARGE)
    endings = itertools.cycle([
        lambda peer: peer.send(answer(error("AccessDenied"), "403 Forbidden", connection="close")),
        lambda peer: peer.reset(),
        lambda peer: peer.send(answer(BODY)[:600_000]),
        lambda peer: peer.send(b"nonsense\r\n\r\n"),
    ])  # fmt: skip

    def script(peer):
        peer.head()
        next(endings)(peer)

    with Scripted(script) as server:
        store = one_attempt(server.url, max_concurrency=8)

        def fail(number):
            sink = Sink(tmp_path / f"{number}.bin", threading.Event())
            with contextlib.suppress(OSError):
                store.download(AT, sink).result(30)
            sink.discard()
            with contextlib.suppress(OSError):
                store.upload(LocalFile.at(source), AT, extra_args={}, cancelled=threading.Event()).result(30)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fail, range(16)))
            before = descriptors()
            list(pool.map(fail, range(200)))
        assert until(lambda: descriptors() <= before + 8), f"{before} before, {descriptors()} after"
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]


MEASURED = """
    import re, sys
    from pathlib import Path
    import file_dataset

    url, verb, directory = sys.argv[1:]
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    options = file_dataset.Options(keys, {"endpoint_url": url})

    def high_water():
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

    if verb == "disk":
        def read(name):
            reader = file_dataset.reader({"a.bin": f"s3://bucket/{name}"}, options=options)
            reader.into_temp_dir(dir=directory).cleanup()
        read("small")
        before = high_water()
        read("large")
    else:
        def read(prefix, count):
            row = {f"{number}.bin": f"s3://bucket/{prefix}{number}" for number in range(count)}
            return file_dataset.reader(row, options=options).into_blob_table()
        read("warm", 2)
        before = high_water()
        table = read("blob", 96)
        assert table.num_rows == 1
    print(high_water() - before)
"""


def memory_of(verb, faults, tmp_path):
    script = textwrap.dedent(MEASURED)
    command = [sys.executable, "-c", script, faults.endpoint_url, verb, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@needs_proc
def test_a_download_to_disk_takes_little_memory(own_faults, tmp_path):
    own_faults.put("s3://bucket/small", b"x")
    own_faults.put("s3://bucket/large", bytes(256 << 20), checksum="CRC64NVME", etag="kms")
    assert memory_of("disk", own_faults, tmp_path) < 40 << 20


@needs_proc
def test_a_table_of_blobs_takes_the_memory_of_its_blobs(own_faults, tmp_path):
    for number in range(2):
        own_faults.put(f"s3://bucket/warm{number}", b"x" * 2_000_000)
    blob = bytes(1_400_000)
    for number in range(96):
        own_faults.put(f"s3://bucket/blob{number}", blob)
    assert memory_of("table", own_faults, tmp_path) < 96 * len(blob) + (64 << 20)
