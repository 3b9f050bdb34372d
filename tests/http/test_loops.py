"""More loops than one: where there are cores, large bodies are shared out; all of them keep to the store's one lane."""

# ruff: noqa: SLF001  # a loop shows little of itself: where that is the claim, what it holds is looked at

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import OrderedDict

import pytest
from helpers import impatient_options, options_for, until
from one_object import AT, URL, in_parts
from servers.faults import SLOW_DOWN, Busy, FlipBit, IgnoreRange, Replace, Reset, Slow, Truncate

from file_dataset import _per_process
from file_dataset._errors import code_of
from file_dataset._http import loop
from file_dataset._http.buffers import BUFFERS
from file_dataset._http.rate import Rate
from file_dataset._local_file import LocalFile
from file_dataset._s3 import ranges
from file_dataset._s3.store import S3Store
from file_dataset._sink import Part, Sink
from file_dataset._urls import ObjectUrl

BODY = os.urandom(6 << 20)


@pytest.fixture(autouse=True)
def loops(monkeypatch):
    """Three loops of the test's own, of a machine with six cores; objects over 1 MiB come in parts."""
    monkeypatch.setattr(_per_process, "_shared", OrderedDict())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(ranges, "_LEAST_BYTES", 512 << 10)
    monkeypatch.setattr(ranges, "_MOST_BYTES", 512 << 10)
    made = loop.loops()
    yield made
    for each in made:
        if each._thread is None:  # nothing else closes it
            each.abandon()


@pytest.fixture
def store(faults):
    return S3Store(impatient_options(faults.endpoint_url, max_concurrency=12))


def busy(loops):
    """Which of the loops ever had something to do."""
    return [loop._thread is not None for loop in loops]


def download(store, at, path=None):
    sink = Sink(path, threading.Event())
    store.download(at, sink).result(60)
    sink.commit()
    return bytes(sink.data) if path is None else path.read_bytes()


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (64, 4)])
def test_there_is_a_loop_for_every_two_cores_and_never_more_than_four(monkeypatch, cores, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    made = loop._new_loops()
    assert len(made) == expected
    assert len({each.pool for each in made}) == 1
    assert sum(each.buffers._unmade for each in made) <= BUFFERS  # memory does not grow with the cores
    for each in made:
        each.abandon()


@pytest.mark.parametrize("is_file", [False, True], ids=["memory", "file"])
@in_parts
def test_the_parts_of_a_large_object_are_shared_out(faults, store, loops, tmp_path, monkeypatch, is_file):
    faults.put(URL, BODY, checksum="CRC64NVME")
    faults.fail("GetObject", Slow(4 << 20), times=None)  # none is done before the last has begun
    carried = set()
    original = Part.room

    def room(part):
        carried.add(threading.get_ident())
        return original(part)

    monkeypatch.setattr(Part, "room", room)
    assert download(store, AT, tmp_path / "a.bin" if is_file else None) == BODY
    assert carried == {loop._thread.ident for loop in loops}


def test_small_objects_stay_on_one_loop(faults, store, loops):
    for number in range(50):
        faults.put(f"s3://bucket/{number}", b"x" * 10_000)
    assert all(download(store, ObjectUrl("bucket", str(number))) == b"x" * 10_000 for number in range(50))
    assert busy(loops) == [True, False, False]


def test_objects_like_those_that_were_large_lately_are_shared_out(faults, store, loops):
    body = os.urandom(600_000)  # one request each
    faults.put(URL, body)
    for _ in range(12):
        assert download(store, AT) == body
    assert busy(loops) == [True, True, True]


def test_large_uploads_are_shared_out(faults, store, loops, tmp_path):
    source = tmp_path / "a.bin"
    source.write_bytes(BODY)
    faults.put(URL, b"")
    for number in range(6):
        at = ObjectUrl("bucket", str(number))
        store.upload(LocalFile.at(source), at, extra_args={}, cancelled=threading.Event()).result(60)
        assert faults.body(str(at)) == BODY
    assert busy(loops) == [True, True, True]


def test_all_loops_together_keep_to_max_concurrency(faults, loops):
    width = 5
    store = S3Store(options_for(faults.endpoint_url, max_concurrency=width))
    for number in range(4):
        faults.put(f"s3://bucket/{number}", BODY)
    faults.fail("*", Busy(1000, seconds=0.02), times=None)
    sinks = [Sink(None, threading.Event()) for _ in range(40)]
    for future in [store.download(ObjectUrl("bucket", str(n % 4)), sink) for n, sink in enumerate(sinks)]:
        future.result(60)
    assert all(bytes(sink.data) == BODY for sink in sinks)
    assert busy(loops) == [True, True, True]
    assert 1 < faults.max_in_flight <= width
    assert until(lambda: store._lane.in_flight == 0)


def test_a_store_that_says_slow_down_to_any_loop_gets_fewer_requests(faults, store, loops):
    faults.put(URL, os.urandom(600_000))
    for _ in range(12):  # now they are shared out
        download(store, AT)
    for _ in loops:  # one attempt and the next take turns among them
        store._lane._rate = Rate()
        faults.fail("GetObject", SLOW_DOWN)
        download(store, AT)
        assert until(lambda: store._lane._rate.per_s < math.inf)


@pytest.mark.parametrize(
    "fault",
    [Truncate(after_bytes=100_000), Reset(after_bytes=100_000), FlipBit(5), SLOW_DOWN, IgnoreRange()],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_what_breaks_on_one_loop_is_mended_and_no_byte_is_wrong(faults, store, fault, nth):
    faults.put(URL, BODY, checksum="CRC64NVME")
    faults.fail("GetObject", fault, nth=nth)
    assert download(store, AT) == BODY
    assert until(lambda: store._lane.in_flight == 0)


def test_an_object_that_is_replaced_meanwhile_is_read_anew_and_whole(faults, store):
    faults.put(URL, BODY, checksum="CRC64NVME")
    newer = os.urandom(len(BODY))
    faults.fail("GetObject", Replace(newer), nth=3)
    assert download(store, AT) in (BODY, newer)


def test_a_missing_object_is_told(faults, store):
    faults.put("s3://bucket/there", b"")
    with pytest.raises(FileNotFoundError) as caught:
        download(store, AT)
    assert code_of(caught.value) == "NoSuchKey"


def test_what_is_cancelled_gives_its_place_back(faults, store):
    faults.put(URL, BODY)
    faults.fail("GetObject", Slow(100_000), times=None)
    cancelled = threading.Event()
    futures = [store.download(AT, Sink(None, cancelled)) for _ in range(30)]
    cancelled.set()
    for future in futures:
        assert isinstance(future.exception(60), InterruptedError)
    faults.reset()
    assert download(store, AT) == BODY
    assert until(lambda: store._lane.in_flight == 0)


def test_a_forked_child_has_loops_of_its_own(faults, store, loops):
    faults.put(URL, BODY)
    assert download(store, AT) == BODY
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            mine = loop.loops()
            fresh = S3Store(impatient_options(faults.endpoint_url))
            status = 0 if download(fresh, AT) == BODY and not set(mine) & set(loops) else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert download(store, AT) == BODY
