"""Hosts and their addresses: those that refuse, several of one name, how often a name is looked up."""

# ruff: noqa: SLF001  # a loop shows little of itself: where that is the claim, what it holds is looked at

from __future__ import annotations

import socket
import threading
import time

import pytest
from helpers import free_port
from one_object import AT, Asked, get, one_attempt, store_at
from servers.scripted import Scripted, answer, answering

from file_dataset._http import names
from file_dataset._http.exchange import Endpoint
from file_dataset._http.lane import Lane
from file_dataset._http.loop import loops
from file_dataset._http.window import Window
from file_dataset._sink import Sink


def test_a_refused_connection_says_where():
    port = free_port()
    with pytest.raises(ConnectionError, match=rf"127\.0\.0\.1:{port}.*after 3 attempts"):
        get(store_at(f"http://127.0.0.1:{port}"))


def test_an_unknown_host_is_named():
    with pytest.raises(ConnectionError, match=r"nobody\.invalid.*after 3 attempts"):
        get(store_at("http://nobody.invalid:9"))


def test_a_host_that_is_no_name_at_all_is_an_error():
    """IDNA's codec raises UnicodeError for an empty label, which is no OSError."""
    exchange = Asked(Endpoint("a..b", 9))
    loops()[0].submit(Lane(Window(1)), exchange)
    with pytest.raises(OSError, match=r"a\.\.b"):
        exchange.future.result(10)


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
