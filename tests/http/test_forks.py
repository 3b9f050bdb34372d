"""Forks in the middle of transfers: the child starts with nothing, and the parent loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from helpers import impatient_options
from servers.faults import FaultServer, Slow

import file_dataset
from file_dataset._http import loop

SMALL = os.urandom(10_000)
LARGE = os.urandom(3 << 20)
TABLE = {"small.bin": "s3://bucket/small", "large.bin": "s3://bucket/large"}


@pytest.fixture
def server():
    with FaultServer() as server:
        server.put("s3://bucket/small", SMALL)
        server.put("s3://bucket/large", LARGE, checksum="CRC64NVME", etag="kms")
        yield server


@pytest.fixture
def split(monkeypatch):
    monkeypatch.setattr("file_dataset._s3.ranges._LEAST_BYTES", 512 << 10)
    monkeypatch.setattr("file_dataset._s3.ranges._MOST_BYTES", 512 << 10)


def options_of(server, **kwargs):
    return impatient_options(server.endpoint_url, **kwargs)


def read_small(options):
    table = file_dataset.reader({"a.bin": "s3://bucket/small"}, options=options).into_blob_table()
    return table["a.bin"][0].as_py() == SMALL


def forked(work):
    """Fork a child that does `work` and leaves with 0 where that is true; the child's pid."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(100)  # a child that hangs dies of it
        status = 0 if work() else 2
    finally:
        os._exit(status)  # pytest's own end is not the child's business


def left(child):
    """Wait for a child; its status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Transfers(threading.Thread):
    """Reads and writes over and over until it is told to stop; what went wrong, and how often all went well."""

    def __init__(self, options, work):
        super().__init__(daemon=True)
        self.options, self.work = options, work
        self.rounds, self.errors, self.is_over = 0, [], threading.Event()

    def run(self):
        while not self.is_over.is_set():
            try:
                assert self.work(self.options, self.rounds)
            except BaseException as exc:  # noqa: BLE001  # told by the test
                self.errors.append(exc)
                return
            self.rounds += 1


def read_table(options, _):
    table = file_dataset.reader(TABLE, options=options).into_blob_table()
    return [table[name][0].as_py() for name in TABLE] == [SMALL, LARGE]


def read_files(options, _):
    with file_dataset.reader(TABLE, options=options).into_temp_dir() as path:
        return [(path / name).read_bytes() for name in TABLE] == [SMALL, LARGE]


@pytest.fixture
def write_files(tmp_path, server):
    for name, body in (("small.bin", SMALL), ("large.bin", LARGE)):
        (tmp_path / name).write_bytes(body)

    def write(options, number):
        files = {name: tmp_path / name for name in ("small.bin", "large.bin")}
        file_dataset.write_files(files, into_path="s3://bucket/out", id=number, options=options)
        stored = [server.body(f"s3://bucket/out/{number}/{name}") for name in files]
        return stored == [SMALL, LARGE]

    return write


@pytest.fixture
def transfers(server, split, write_files):
    """Three threads in the middle of their transfers, whose bytes are checked."""
    options = options_of(server, max_concurrency=16)
    threads = [Transfers(options, work) for work in (read_table, read_files, write_files)]
    for thread in threads:
        thread.start()
    while not all(thread.rounds or thread.errors for thread in threads):
        time.sleep(0.01)
    yield options
    for thread in threads:
        thread.is_over.set()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
        assert not thread.errors
        assert thread.rounds > 1


# a child makes a client of its own, which takes it a while
@pytest.mark.parametrize("count", [25, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_children_read_while_the_parent_goes_on(transfers, count):
    children, statuses = [], []
    for _ in range(count):
        children.append(forked(lambda: read_small(transfers)))
        if len(children) == 4:
            statuses.append(left(children.pop(0)))
    statuses += map(left, children)
    assert statuses == [0] * count


def test_children_that_do_nothing_disturb_nothing(transfers):
    assert [left(forked(lambda: True)) for _ in range(20)] == [0] * 20


def test_children_of_multiprocessing_read(transfers):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_exit_by, args=(read_small, transfers)) for _ in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
    assert [child.exitcode for child in children] == [0] * 8


def test_a_child_forks_children_of_its_own(transfers):
    assert left(forked(lambda: read_small(transfers) and left(forked(lambda: read_small(transfers))) == 0)) == 0


def test_a_child_writes_what_its_parent_can_read(transfers, server, tmp_path):
    source = tmp_path / "child.bin"
    source.write_bytes(LARGE)

    def write():
        file_dataset.write_files({"a.bin": source}, into_path="s3://bucket/child", id="1", options=transfers)
        return True

    assert left(forked(write)) == 0
    assert server.body("s3://bucket/child/1/a.bin") == LARGE


def test_the_childs_loop_is_its_own(transfers):
    parents = loop.loops()[0]
    assert left(forked(lambda: read_small(transfers) and loop.loops()[0] is not parents)) == 0


def _exit_by(read, options):
    signal.alarm(100)
    sys.exit(0 if read(options) else 1)


# --- a child that leaves by sys.exit() or an exception runs what the interpreter runs at its end

LEAVES = {
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "an exception": "raise ZeroDivisionError",
    "the end of the script": "pass",
}
SCRIPT = """
    import os, signal, sys, threading
    import file_dataset
    from pathlib import Path

    url, directory = sys.argv[1:]
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    options = file_dataset.Options(keys, {"endpoint_url": url})
    row = {"small.bin": "s3://bucket/small", "large.bin": "s3://bucket/large"}
    kept = file_dataset.reader(row, options=options).into_temp_dir(dir=directory)
    found = []
    slow = threading.Thread(
        target=lambda: found.append(file_dataset.reader(row, options=options).into_temp_dir(dir=directory))
    )
    slow.start()
    while len(os.listdir(directory)) < 2:  # the second one is there: its files are on their way
        pass
    child = os.fork()
    if child == 0:
        signal.alarm(150)
        table = file_dataset.reader({"a.bin": "s3://bucket/small"}, options=options).into_blob_table()
        assert table.num_rows == 1
        LEAVE
    else:
        os.waitpid(child, 0)
        slow.join(150)
        for each in (kept, *found):
            sizes = [(Path(each) / name).stat().st_size for name in row]
            assert sizes == [10_000, 3 << 20], sizes
        assert len(found) == 1
        kept.cleanup()
        found[0].cleanup()
        print("all right")
"""


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
def test_a_child_that_leaves_takes_nothing_of_its_parents_along(server, tmp_path, leave):
    server.fail("GetObject", Slow(bytes_per_second=4 << 20), key="large", nth=2, times=None)
    script = textwrap.dedent(SCRIPT).replace("LEAVE", leave)
    command = [sys.executable, "-c", script, server.endpoint_url, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stdout) == (0, "all right\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_is_killed_disturbs_nothing(transfers, server):
    server.fail("GetObject", Slow(bytes_per_second=1000), key="slow", times=None)
    server.put("s3://bucket/slow", SMALL)
    url = {"a.bin": "s3://bucket/slow"}
    child = forked(lambda: file_dataset.reader(url, options=transfers).into_blob_table().num_rows)
    while not server.count("GetObject", "slow"):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert left(child) == -signal.SIGKILL


def test_a_spawned_child_reads_while_the_parent_goes_on(transfers):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        reader = file_dataset.reader({"a.bin": "s3://bucket/small"}, options=transfers)
        tables = [pool.apply_async(reader.into_blob_table) for _ in range(4)]
        assert [table.get(100).to_pydict() for table in tables] == [{"a.bin": [SMALL]}] * 4


def test_a_child_closes_the_connections_that_it_inherits(server):
    """While it holds them, the server would not see the parent close its ends."""
    options = options_of(server)
    assert read_small(options)
    parents = [connection.sock.fileno() for connection in loop.loops()[0].connections]
    assert parents

    def closed():
        for fd in parents:
            try:
                os.fstat(fd)
            except OSError:
                continue
            return False
        return True

    assert left(forked(closed)) == 0
    assert read_small(options)  # and the parent's are open still
