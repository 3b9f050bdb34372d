"""What transfers leave behind: no descriptor, and little memory."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import until
from one_object import AT, BODY, LARGE, one_attempt
from servers.scripted import Scripted, answer, error

from file_dataset._local_file import LocalFile
from file_dataset._sink import Sink

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")


def descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count is all that is wanted


@needs_proc
def test_transfers_that_fail_leave_no_descriptor_open(tmp_path, source):
    source.write_bytes(LARGE)
    endings = itertools.cycle([
        lambda peer: peer.send(answer(error("AccessDenied"), "403 Forbidden", connection="close")),
        lambda peer: peer.reset(),
        lambda peer: peer.send(answer(BODY)[:600_000]),
        lambda peer: peer.send(b"nonsense\r\n\r\n"),
    ])  # fmt: skip

    def script(peer):
        peer.head()
        next(endings)(peer)

    with Scripted(script) as server:
        store = one_attempt(server.url, max_concurrency=8)

        def fail(number):
            sink = Sink(tmp_path / f"{number}.bin", threading.Event())
            with contextlib.suppress(OSError):
                store.download(AT, sink).result(30)
            sink.discard()
            with contextlib.suppress(OSError):
                store.upload(LocalFile.at(source), AT, extra_args={}, cancelled=threading.Event()).result(30)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fail, range(16)))
            before = descriptors()
            list(pool.map(fail, range(200)))
        assert until(lambda: descriptors() <= before + 8), f"{before} before, {descriptors()} after"
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]


MEASURED = """
    import re, sys
    from pathlib import Path
    import file_dataset

    url, verb, directory = sys.argv[1:]
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    options = file_dataset.Options(keys, {"endpoint_url": url})

    def high_water():
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

    if verb == "disk":
        def read(name):
            reader = file_dataset.reader({"a.bin": f"s3://bucket/{name}"}, options=options)
            reader.into_temp_dir(dir=directory).cleanup()
        read("small")
        before = high_water()
        read("large")
    else:
        def read(prefix, count):
            row = {f"{number}.bin": f"s3://bucket/{prefix}{number}" for number in range(count)}
            return file_dataset.reader(row, options=options).into_blob_table()
        read("warm", 2)
        before = high_water()
        table = read("blob", 96)
        assert table.num_rows == 1
    print(high_water() - before)
"""


def memory_of(verb, faults, tmp_path):
    script = textwrap.dedent(MEASURED)
    command = [sys.executable, "-c", script, faults.endpoint_url, verb, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@needs_proc
def test_a_download_to_disk_takes_little_memory(own_faults, tmp_path):
    own_faults.put("s3://bucket/small", b"x")
    own_faults.put("s3://bucket/large", bytes(256 << 20), checksum="CRC64NVME", etag="kms")
    assert memory_of("disk", own_faults, tmp_path) < 40 << 20


@needs_proc
def test_a_table_of_blobs_takes_the_memory_of_its_blobs(own_faults, tmp_path):
    for number in range(2):
        own_faults.put(f"s3://bucket/warm{number}", b"x" * 2_000_000)
    blob = bytes(1_400_000)
    for number in range(96):
        own_faults.put(f"s3://bucket/blob{number}", blob)
    assert memory_of("table", own_faults, tmp_path) < 96 * len(blob) + (64 << 20)
