"""What is cancelled ends at once: its connections are closed, and no file is left."""

from __future__ import annotations

import os
import threading
import time

import pytest
from helpers import options_for, until
from one_object import AT, BODY, URL, in_parts, one_attempt
from servers.faults import Stall
from servers.scripted import Scripted, answer

from file_dataset._local_file import LocalFile
from file_dataset._s3.store import S3Store
from file_dataset._sink import Sink


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


@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_a_download_that_is_cancelled_before_its_response_comes_ends_as_cancelled(tmp_path, in_memory):
    cancelled = threading.Event()

    def script(peer):
        peer.request()
        cancelled.set()
        peer.send(answer(BODY))

    with Scripted(script) as server:
        sink = Sink(None if in_memory else tmp_path / "a.bin", cancelled)
        with pytest.raises(InterruptedError, match="cancelled"):
            one_attempt(server.url).download(AT, sink).result(10)
        sink.discard()
        assert server.accepted == 1


@pytest.mark.usefixtures("split")
@in_parts
def test_a_cancelled_download_in_parts_closes_all_its_connections(own_faults, tmp_path):
    own_faults.put(URL, BODY, checksum="CRC64NVME")
    own_faults.fail("GetObject", Stall(after_bytes=1000), times=None)
    store = S3Store(options_for(own_faults.endpoint_url))
    cancelled = threading.Event()
    sink = Sink(tmp_path / "a.bin", cancelled)
    future = store.download(AT, sink)
    assert until(lambda: own_faults.in_flight >= 11)  # of 12: a part whose first bytes came is cut no more
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
