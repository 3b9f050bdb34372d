"""The pool beside the loop: its buffers, full disks, files that change, and exchanges that raise."""

# ruff: noqa: SLF001  # a loop shows little of itself: where that is the claim, what it holds is looked at

from __future__ import annotations

import os
import threading
from collections import OrderedDict

import pytest
from helpers import until
from one_object import AT, BODY, LARGE, URL, Asked, into_file, put, store_at
from servers.faults import Truncate
from servers.scripted import Scripted, always, answer

from file_dataset import _per_process
from file_dataset._http.buffers import Buffers
from file_dataset._http.connection import Connection
from file_dataset._http.exchange import INLINE_BYTES, Endpoint
from file_dataset._http.lane import Lane
from file_dataset._http.loop import Loop, loops
from file_dataset._http.window import Window
from file_dataset._s3 import requests
from file_dataset._sink import Sink


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
        self.size, self.received, self.claimed, self.gate = size, 0, 0, gate

    def wants(self):
        return self.size - self.received

    def room(self):
        return None

    def arrived(self, chunk):
        raise NotImplementedError

    def claim(self, most):
        count = min(most, self.size - self.claimed)
        self.claimed += count
        return count

    def settle(self, unused):
        self.claimed -= unused
        return self.size - self.claimed

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


def connection_of(loop, exchange):
    """Return the connection of an exchange, once it is more than a dial."""
    found = (each for each in list(loop.connections) if isinstance(each, Connection) and each.exchange is exchange)
    return next(found, None)


def test_an_exchange_that_is_cancelled_while_its_last_bytes_are_written_ends_once():
    """Or its lane counts one request less than there are, and lets more of them out than it may."""
    body = os.urandom(INLINE_BYTES + 1)
    with Scripted(always(answer(body))) as server:
        gate, cancelled = threading.Event(), threading.Event()
        target, lane = Gated(len(body), gate), Lane(Window(4))
        exchange = Fetched(Endpoint("127.0.0.1", server.port), target, cancelled)
        loop = loops()[0]
        loop.submit(lane, exchange)
        connection = until(lambda: connection_of(loop, exchange))
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
        endpoint, lane = Endpoint("127.0.0.1", server.port), Lane(Window(1))
        for kind in (Broken, Asked):
            exchange = kind(endpoint)
            loops()[0].submit(lane, exchange)
            exchange.future.result(10)
        assert exchange.future.result().body == b"body"
    assert "could not be ended" in caplog.text
