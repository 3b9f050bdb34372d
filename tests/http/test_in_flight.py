"""How many requests are in flight: `max_concurrency`, and fewer for a store that is throttling."""

# ruff: noqa: SLF001  # a loop shows little of itself: where that is the claim, what it holds is looked at

from __future__ import annotations

import gc
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from helpers import forward, impatient_options, options_for, until
from one_object import BODY, URL, get, one_attempt
from servers.faults import Busy
from servers.scripted import Scripted, always, answer, error

import file_dataset
from file_dataset._http.rate import Rate
from file_dataset._local_file import LocalFile
from file_dataset._s3.store import S3Store
from file_dataset._sink import Sink
from file_dataset._urls import ObjectUrl


def loop_threads():
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
        extra = {"ChecksumAlgorithm": "SHA256"}  # which the loop leaves to boto3
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
    before = loop_threads()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(32))) == [1] * 32
    assert loop_threads() == before


def test_whatever_reads_shares_one_loop_and_its_bound(faults):
    faults.fail("*", Busy(10_000, seconds=0.02), times=None)
    for number in range(12):
        faults.put(f"s3://bucket/{number}", b"x" * 100)
    frame = pd.DataFrame({"id": range(12), "a.bin": [f"s3://bucket/{number}" for number in range(12)]})
    options = impatient_options(faults.endpoint_url, max_concurrency=4)
    reader = file_dataset.reader(frame, options=options)
    reader.into_size_table(limit=1)
    before = loop_threads()
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
    assert loop_threads() == before


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


def test_a_store_that_is_throttling_gets_fewer_requests_and_later_as_many_again(faults):
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
    faults.reset()
    faults.fail("GetObject", Busy(1000, seconds=0.005), times=None)
    assert until(lambda: read(300) == 300 and faults.max_in_flight > width / 2)


@pytest.mark.parametrize("status", [429, 503])
def test_a_store_that_says_slow_down_gets_fewer_requests_a_second(status):
    with Scripted(always(answer(error("SlowDown"), f"{status} Slow Down"))) as server:
        store = one_attempt(server.url, max_concurrency=8)
        assert store._lane._rate.per_s == math.inf
        with pytest.raises(ConnectionError):
            get(store)
        assert store._lane._rate.per_s == 1.0  # none was accepted; never less than one


def test_requests_that_were_in_flight_together_count_as_one_sign_of_throttling():
    rate = Rate()
    for number in range(1000):
        rate.accepted(100 + number / 1000, 100)
    for _ in range(64):
        rate.refused(101, 100.9)
    assert 900 < rate.per_s < 1000
