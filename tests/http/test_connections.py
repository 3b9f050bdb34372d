"""Connections that are kept, go stale, are closed or reset, and what a server said before that."""

# ruff: noqa: SLF001  # a loop shows little of itself: where that is the claim, what it holds is looked at

from __future__ import annotations

import os
import threading

import pytest
from helpers import impatient_options, until
from one_object import AT, LARGE, SMALL, Asked, get, one_attempt, put, store_at
from servers.scripted import Scripted, always, answer, error, swallowing

import file_dataset
from file_dataset._errors import code_of
from file_dataset._http import connection
from file_dataset._http.exchange import Endpoint
from file_dataset._http.lane import Lane
from file_dataset._http.loop import loops
from file_dataset._http.window import Window
from file_dataset._sink import Sink

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
        loops()[0].submit(Lane(Window(1)), exchange)
        assert exchange.future.result(10).status == 503
