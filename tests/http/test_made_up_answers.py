"""Answers that no server should give, made up by hypothesis: right bytes or an error of ours, and soon."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import zlib
from base64 import b64encode
from concurrent.futures import Future
from pathlib import Path

import pytest
from botocore.config import Config
from helpers import options_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.scripted import Scripted

import file_dataset
from file_dataset import FileDatasetError
from file_dataset._http import deadline

BODY = bytes(range(256)) * 8
CRC = b64encode(zlib.crc32(BODY).to_bytes(4, "big")).decode()
BOUND_S = 20


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(deadline, "SLOW_S", 0.5)
    monkeypatch.setattr(deadline, "_HEAD_TIMEOUTS", 1)


# --- answers

lengths = st.sampled_from([
    str(len(BODY)), str(len(BODY)), str(len(BODY) - 1), str(len(BODY) + 1), "0", "-1", "+5", "1_0", " 2048 ",
    "2048, 2048", "2048,2049", "0x10", "\u0662", "1e3", "", "99999999999999999999999", "9300000000000000000",
    str(1 << 50), "2147483648",
])  # fmt: skip
statuses = st.sampled_from(
    [200, 200, 200, 200, 206, 204, 304, 301, 100, 199, 403, 404, 408, 412, 416, 500, 503, 600, 99]
)
headers = st.lists(
    st.one_of(
        st.tuples(st.just("Content-Length"), lengths),
        st.tuples(
            st.just("Transfer-Encoding"), st.sampled_from(["chunked", "identity", "gzip, chunked", "chunked, x"])
        ),
        st.tuples(st.just("ETag"), st.sampled_from(['"v1"', "v1", 'W/"v1"', '"', "", '"v\xe9"', "a" * 5000])),
        st.tuples(st.just("x-amz-checksum-crc32"), st.sampled_from([CRC, "AAAAAA==", "", "not base64", CRC + "-2"])),
        st.tuples(st.just("x-amz-checksum-type"), st.sampled_from(["FULL_OBJECT", "COMPOSITE", "?"])),
        st.tuples(st.just("Content-Range"), st.sampled_from(["bytes 0-2047/2048", "bytes 1-2/*", "pages 1", ""])),
        st.tuples(st.just("Connection"), st.sampled_from(["close", "keep-alive", "upgrade"])),
        st.tuples(st.text("aZ0- \t:_\xe9", max_size=6), st.text("a :\t\xe9\x00", max_size=6)),
        st.tuples(st.just("x"), st.just("y" * 70_000)),
    ),
    max_size=4,
)
bodies = st.sampled_from([
    BODY, BODY, BODY, BODY[:-1], BODY + b"more", b"", BODY[:100], b"<Error><Code>SlowDown</Code></Error>",
    b"800;ext=1\r\n" + BODY + b"\r\n0\r\ntrailer: x\r\n\r\n", b"zz\r\n", b"FFFFFFFFFFFFFFFFFF\r\n", b"5\r\nabc",
])  # fmt: skip


@st.composite
def answers(draw):
    """A head, a body, and how they are sent."""
    interim = draw(st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 H\r\na: b\r\n\r\n"]))
    version = draw(st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", "http/1.1", ""]))
    eol = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    named = draw(headers)
    if draw(st.booleans()):  # more often than not there is one length
        named = [pair for pair in named if pair[0] != "Content-Length"] + [("Content-Length", draw(lengths))]
    lines = [f"{version} {draw(statuses)} X", *(f"{name}: {value}" for name, value in named), "", ""]
    head = eol.join(lines).encode("utf-8")
    said = interim * draw(st.sampled_from([1, 1, 1, 200])) + head + draw(bodies)
    how = draw(st.sampled_from(["whole", "whole", "cut", "pieces", "drip"]))
    return said, how, draw(st.integers(0, len(said))), draw(st.sampled_from(["close", "reset", "hold"]))


def script(said, how, cut, end):
    def serve(peer):
        while True:
            head = peer.head()
            left = int((re.search(r"(?mi)^content-length: (\d+)", head) or [0, 0])[1])
            while left > 0 and (received := peer.sock.recv(min(left, 1 << 16))):
                left -= len(received)
            if how == "whole":
                peer.send(said)
            elif how == "cut":
                peer.send(said[:cut])
            elif how == "pieces":
                peer.send(said[:cut], said[cut:], pause_s=0.001)
            else:
                peer.send(said[:cut])
                for byte in said[cut : cut + 300]:
                    peer.send(bytes([byte]), pause_s=0.003)
            if end == "reset":
                peer.reset()
            if end != "hold":
                return

    return serve


def outcome(call):
    """Return what the call returned or raised, within the bound."""
    ended: Future[object] = Future()

    def run():
        try:
            ended.set_result(call())
        except BaseException as exc:  # noqa: BLE001  # looked at
            ended.set_result(exc)

    threading.Thread(target=run, daemon=True).start()
    return ended.result(BOUND_S)


def is_ours(found):
    return isinstance(found, FileDatasetError)


def read_file(reader):
    with reader.into_temp_dir() as directory:
        return (directory / "a.bin").read_bytes()


CALLS = {
    "blob": lambda reader, *_: reader.into_blob_table()["a.bin"][0].as_py(),
    "large blob": lambda reader, *_: reader.into_blob_table(large=True)["a.bin"][0].as_py(),
    "file": lambda reader, *_: read_file(reader),
    "size": lambda reader, *_: reader.into_size_table()["a.bin"][0].as_py(),
    "write": lambda _, path, options: file_dataset.write_files(
        {"a.bin": path}, into_path="s3://b", id="1", options=options
    ),
}


@pytest.mark.parametrize(("engine", "examples"), [("auto", 40), ("boto3", 10)])
def test_whatever_a_server_answers_is_right_bytes_or_an_error_soon(engine, examples, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(BODY)

    @settings(
        max_examples=examples,
        derandomize=True,  # the same answers in every run
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(answers(), st.sampled_from(list(CALLS)))
    def check(told, verb):
        said, how, cut, end = told
        config = Config(read_timeout=0.3, connect_timeout=5, retries={"total_max_attempts": 2})
        with Scripted(script(said, how, cut, end)) as server:
            options = options_for(server.url, config=config, engine=engine, max_concurrency=4)
            reader = file_dataset.reader({"a.bin": "s3://b/k"}, options=options)
            found = outcome(lambda: CALLS[verb](reader, path, options))
        if verb == "size":
            assert is_ours(found) or found >= 0, found
        elif verb == "write":
            assert is_ours(found) or found == {"a.bin": "s3://b/1/a.bin"}, found
        elif not is_ours(found):
            assert isinstance(found, bytes), found
            # as long as was promised, and the promised digest's
            lengths_said = {int(each) for each in re.findall(rb"(?i)content-length: *([0-9]+)", said)}
            assert len(found) in lengths_said
            assert found in said
            if CRC.encode() in said and b"COMPOSITE" not in said and said.count(b"crc32:") == 1 and b"-2\r" not in said:
                assert found == BODY

    before = resident_bytes()
    check()
    assert resident_bytes() - before < 200 << 20  # some answers claim 2 GiB and more


def resident_bytes():
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
