"""A store that lets no byte move is said in the log while it does, whatever waits for it."""

# ruff: noqa: SLF001  # a disk that hangs is made by replacing what asks it

from __future__ import annotations

import logging
import os
import re
import threading
import time

import pandas as pd
import pytest
from botocore.config import Config
from helpers import options_for
from servers.scripted import Scripted, answer

import file_dataset
from file_dataset import _silence, _store


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(_silence, "SILENCE_S", 0.3)


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


def silent(peer):
    peer.request()
    peer.wait_until_the_client_leaves()


def options_at(url, engine, read_timeout_s=2.0):
    config = Config(read_timeout=read_timeout_s, retries={"total_max_attempts": 1})
    return options_for(url, config=config, engine=engine)


def forward(input_dir, output_dir):
    return {"b.bin": input_dir / "a.bin"}


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if "no byte has moved" in each.getMessage()]


def calls(options, tmp_path):
    frame = pd.DataFrame({"id": range(20), "a.bin": [f"s3://bucket/{number}" for number in range(20)]})
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 1000)
    reader = file_dataset.reader(frame, options=options)
    into = {"into_path": "s3://bucket/out", "options": options}
    yield "blobs", reader.into_blob_table
    yield "files", reader.into_temp_dir
    yield "sizes", reader.into_size_table
    yield "write", lambda: file_dataset.write_files({"a.bin": path}, into_path="s3://bucket", id="1", options=options)
    pipeline = file_dataset.Pipeline(forward, write_options=into, options=options, prefetch=3, progress=False)
    yield "run", lambda: pipeline.run(frame[:4])


@pytest.mark.parametrize("what", ["blobs", "files", "sizes", "write", "run"])
def test_a_silent_store_is_one_warning_and_then_more_at_growing_intervals(what, engine, tmp_path, caplog):
    with Scripted(silent) as server, caplog.at_level(logging.WARNING):
        call = dict(calls(options_at(server.url, engine), tmp_path))[what]
        # the third row of a run that the store leaves without an answer is its last
        with pytest.raises(file_dataset.RunStoppedError if what == "run" else file_dataset.RowError):
            call()
    found = warnings(caplog)
    # 0.3, 0.6 and 1.2 of 2 s; boto3's 20 requests or the rows of a run are silent twice at most
    assert 2 <= len(found) <= 7, found
    assert found[0].startswith("waiting for s3://bucket/")
    assert " since " in found[0]
    if what in ("blobs", "files", "sizes"):
        # of 20; a busy machine may have given some up before the first look
        assert re.search(r" and \d+ more: ", found[0]), found


def test_a_slow_body_is_no_silence(engine, caplog, monkeypatch):
    monkeypatch.setattr(_silence, "SILENCE_S", 1.0)  # four of the loop's ticks
    body = os.urandom(5000)

    def script(peer):
        peer.request()
        framed = answer(body)
        for first in range(0, len(framed), 300):
            peer.send(framed[first : first + 300], pause_s=0.1)

    with Scripted(script) as server, caplog.at_level(logging.WARNING):
        reader = file_dataset.reader({"a": "s3://bucket/a"}, options=options_at(server.url, engine))
        assert reader.into_blob_table()["a"][0].as_py() == body
    assert warnings(caplog) == []


def test_a_slow_upload_is_no_silence(engine, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(_silence, "SILENCE_S", 1.0)
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(30 << 20))

    def script(peer):
        head = peer.head()
        if "100-continue" in head.lower():
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = 30 << 20
        while left > 1 << 20:  # some of it came with the head
            received = len(peer.sock.recv(1 << 20))
            left -= received
            time.sleep(received / 20e6)  # what is in the system's buffers, some 10 MB, is half a second
        peer.send(answer(etag='"x"'))

    with Scripted(script) as server, caplog.at_level(logging.WARNING):
        file_dataset.write_files(
            {"a": path}, into_path="s3://bucket", id="1", options=options_at(server.url, engine, 20)
        )
    assert warnings(caplog) == []


def test_a_disk_that_hangs_is_said_too(tmp_path, caplog, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"x")
    hangs = threading.Event()
    threading.Timer(1.0, hangs.set).start()
    stat = _store._info
    monkeypatch.setattr(_store, "_info", lambda path: hangs.wait(20) and stat(path))
    with caplog.at_level(logging.WARNING):
        file_dataset.reader({"a": tmp_path / "a.bin"}).into_size_table()
    assert [str(tmp_path / "a.bin") in each for each in warnings(caplog)][:1] == [True]


def test_a_slow_function_is_no_silence_of_a_store(faults, tmp_path, caplog):
    faults.put("s3://bucket/a", b"x")
    options = options_at(faults.endpoint_url, "auto")

    def slow(input_dir, output_dir):
        time.sleep(0.7)
        return forward_all(input_dir)

    frame = pd.DataFrame({"id": range(2), "a": ["s3://bucket/a"] * 2})
    pipeline = file_dataset.Pipeline(
        slow, write_options={"into_path": tmp_path / "out"}, options=options, progress=False, file_columns=["a"]
    )
    with caplog.at_level(logging.WARNING):
        assert len(pipeline(frame)) == 2
    assert warnings(caplog) == []


def forward_all(input_dir):
    return {"b": input_dir / "a"}
