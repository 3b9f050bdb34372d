"""Servers that say nothing, or a bit at a time for ever: all of it ends."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import time

import pytest
from botocore.config import Config
from one_object import AT, IMPATIENT, get, one_attempt, put
from servers.scripted import Scripted, answer

from file_dataset._http import deadline
from file_dataset._sink import Sink

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
