"""A large object is a queue of ranges: places that are free take the next of the object that has fewest in flight."""

from __future__ import annotations

import os
import re
import threading
from itertools import pairwise

import pytest
from helpers import impatient_options, until
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faults import Slow
from servers.paced import PacedServer

from file_dataset._local_file import LocalFile
from file_dataset._s3 import multipart, ranges
from file_dataset._s3.store import S3Store
from file_dataset._sink import ObjectInfo, Sink
from file_dataset._urls import ObjectUrl

BODY = os.urandom(3 << 20)
SLOW = Slow(400_000)  # bytes per second: a range of 256 KiB takes 0.7 s


@pytest.fixture
def server():
    with PacedServer() as server:
        yield server


@pytest.fixture(params=["disk", "memory"])
def sink_of(request, tmp_path):
    return lambda name: Sink(tmp_path / name if request.param == "disk" else None, threading.Event())


def store_of(server, width):
    return S3Store(impatient_options(server.endpoint_url, max_concurrency=width))


def body_of(sink):
    if sink.is_memory:
        return bytes(sink.data)
    sink.commit()
    with open(sink._target, "rb") as file:  # noqa: PTH123, SLF001  # its path
        return file.read()


def keys(server):
    return [key for operation, key in server.order if operation in {"GetObject", "UploadPart"}]


@pytest.mark.usefixtures("split")
def test_an_object_that_comes_later_gets_its_share_at_once(server, sink_of):
    store, sinks = store_of(server, 4), [sink_of("first"), sink_of("later")]
    for key in ("first", "later"):
        server.put(f"s3://bucket/{key}", BODY, checksum="CRC64NVME")
    server.fail("GetObject", SLOW, times=None)
    first = store.download(ObjectUrl("bucket", "first"), sinks[0])
    assert until(lambda: server.in_flight == 4)  # it has all places
    later = store.download(ObjectUrl("bucket", "later"), sinks[1])
    assert until(lambda: keys(server).count("later") >= 2)
    assert later.result(60).size_bytes == first.result(60).size_bytes == len(BODY)
    assert [body_of(sink) for sink in sinks] == [BODY, BODY]
    order = keys(server)
    second = order.index("later", order.index("later") + 1)
    assert "first" in order[second:]  # which had not all: one of four places was no fair share
    assert server.max_in_flight <= 4 + 2  # it notices late that the first request of each was ended


@pytest.mark.usefixtures("split")
def test_places_that_become_free_go_to_an_object_that_has_begun(server, sink_of):
    store, small = store_of(server, 4), [Sink(None, threading.Event()) for _ in range(3)]
    server.put("s3://bucket/large", BODY, checksum="CRC64NVME")
    server.fail("GetObject", SLOW, times=None)
    gates = [server.hold("GetObject", str(number)) for number in range(3)]
    for number in range(3):
        server.put(f"s3://bucket/{number}", b"small")
        store.download(ObjectUrl("bucket", str(number)), small[number])
    assert until(lambda: server.in_flight == 3)
    sink = sink_of("large")
    large = store.download(ObjectUrl("bucket", "large"), sink)
    assert until(lambda: server.bytes_sent > 0)
    assert keys(server).count("large") == 1
    for gate in gates:
        gate.set()
    large.result(60)
    assert body_of(sink) == BODY
    assert keys(server).count("large") > 3


def test_a_range_that_is_slow_is_halved_and_not_waited_for(server, sink_of, monkeypatch):
    monkeypatch.setattr(ranges, "_LEAST_BYTES", 256 << 10)
    monkeypatch.setattr(ranges, "_WAITS", 0)
    body = BODY * 2
    server.put("s3://bucket/large", body, checksum="CRC64NVME")
    server.fail("GetObject", Slow(300_000), nth=2)
    sink = sink_of("large")
    store_of(server, 2).download(ObjectUrl("bucket", "large"), sink).result(60)
    assert body_of(sink) == body
    spans = [headers["range"] for headers in server.headers if "range" in headers]
    (start, stop), *others = [tuple(map(int, re.findall(r"\d+", span))) for span in spans]
    inside = [span for span in others if start < span[0] <= span[1] <= stop]
    assert inside, spans
    assert sum(last - first + 1 for first, last in inside) > (stop - start) // 4


@pytest.mark.usefixtures("split")
def test_an_object_that_broke_off_gives_no_more_ranges_and_goes_on_with_what_it_lacks(server, sink_of):
    from servers.faults import Truncate

    store, sink = store_of(server, 2), sink_of("large")
    server.put("s3://bucket/large", BODY, checksum="CRC64NVME")
    server.fail("GetObject", Truncate(after_bytes=100_000), nth=3)
    store.download(ObjectUrl("bucket", "large"), sink).result(60)
    assert body_of(sink) == BODY
    spans = [re.findall(r"\d+", headers["range"]) for headers in server.headers if "range" in headers]
    assert sum(int(last) - int(first) + 1 for first, last in spans) < len(BODY) + (512 << 10)


def test_uploads_in_parts_that_come_later_get_their_share(server, tmp_path, monkeypatch):
    monkeypatch.setattr(multipart, "_PART_BYTES", 5 << 20)
    monkeypatch.setattr(multipart, "_MULTIPART_BYTES", 5 << 20)
    store = store_of(server, 2)
    server.put("s3://bucket/x", b"")
    sizes = {"first": 40 << 20, "later": 10 << 20}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    gate = server.hold("UploadPart")

    def upload(name):
        source = LocalFile.at(tmp_path / name)
        return store.upload(source, ObjectUrl("bucket", name), extra_args={}, cancelled=threading.Event())

    first = upload("first")
    assert until(lambda: keys(server).count("first") == 2)  # it has both places
    later = upload("later")
    gate.set()
    assert first.result(60).size_bytes == sizes["first"]
    assert later.result(60).size_bytes == sizes["later"]
    for name in sizes:
        assert server.body(f"s3://bucket/{name}") == (tmp_path / name).read_bytes()
    order = keys(server)
    assert order.index("later") < len(order) - 1 - order[::-1].index("first")
    assert server.max_in_flight <= 2


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 64), st.integers(0, 300), st.integers(0, 300))), st.data())
@settings(max_examples=200, deadline=None)
def test_parts_cover_the_object_and_never_overlap(steps, data):
    """Whatever is cut, claimed and given back: no byte has two connections, and none has none."""
    size = data.draw(st.integers(1, 2000))
    sink = Sink(None, threading.Event())
    sink.begin(ObjectInfo(size, etag="x"))
    for which, count, most, unused in steps:
        part = sink.parts[which % len(sink.parts)]
        if part.left() > count:
            with sink.lock:
                sink.cut(part, count)
        claimed = part.claim(most)
        part.settle(min(claimed, unused))
        assert 0 <= part.claimed <= part.stop - part.start
    spans = sorted((part.start, part.stop) for part in sink.parts)
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(before[1] == after[0] for before, after in pairwise(spans))


class TestSizesOfRanges:
    def test_a_first_byte_that_is_far_makes_ranges_large(self):
        near, far = ranges.Ranges(), ranges.Ranges()
        for _ in range(40):
            near.began(0.001)
            far.began(0.05)
            near.ended(64 << 20, 1.0)
            far.ended(64 << 20, 1.0)
        assert near.least_bytes == 4 << 20
        assert (10 << 20) < far.least_bytes < (16 << 20)

    def test_a_connection_that_brings_much_keeps_what_another_would_wait_for(self):
        fast = ranges.Ranges()
        for _ in range(40):
            fast.began(0.03)
            fast.ended(1 << 30, 1.0)
        assert fast.of(31 << 20, 64) == 0
        assert fast.of(32 << 20, 64) == 16 << 20

    def test_ranges_become_smaller_towards_the_end_and_leave_as_much(self):
        sizes, left = [], 10 << 30
        of = ranges.Ranges()
        while count := of.of(left, 8):
            sizes.append(count)
            left -= count
            assert left >= of.least_bytes
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == 64 << 20
        assert sizes[-1] == of.least_bytes
