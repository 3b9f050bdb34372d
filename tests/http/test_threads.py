"""A system that starts no more threads: every call ends, in its result or in an error, and the next one works."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict

import pandas as pd
import pytest
from helpers import impatient_options
from servers.faults import SLOW_DOWN

import file_dataset
from file_dataset import FileDatasetError, _per_process
from file_dataset._pool import Pool
from file_dataset._s3 import multipart
from file_dataset._workers.pool import Workers
from file_dataset._workers.process import WorkerProcess, WorkerStartError

SMALL, LARGE = b"small", bytes(range(256)) * (24 << 10)  # 6 MiB: two parts
# of each pool and loop of the library
THREADS = ["wire", "disk", "s3", "local", "run"]


@pytest.fixture(autouse=True)
def own_threads(monkeypatch):
    """The test's own pools and loops, and a large file that goes up in parts."""
    monkeypatch.setattr(_per_process, "_shared", OrderedDict())
    monkeypatch.setattr(_per_process, "_recent", OrderedDict())
    monkeypatch.setattr(multipart, "_MULTIPART_BYTES", 5 << 20)
    monkeypatch.setattr(multipart, "_PART_BYTES", 5 << 20)


class Limit:
    """Threads of these names do not start while `is_on`."""

    def __init__(self, monkeypatch, names, after=0):
        self.is_on, self.refused = True, 0
        names = tuple(f"file_dataset-{name}" for name in names)
        start = threading.Thread.start

        def limited(thread):
            nonlocal after
            if self.is_on and thread.name.startswith(names):
                after -= 1
                if after < 0:
                    self.refused += 1
                    raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)


def forward(input_dir, output_dir):
    return {"b.bin": input_dir / "a.bin"}


def calls(options, tmp_path):
    """Every verb, over S3 and local files, small and large."""
    into = {"into_path": "s3://bucket/out", "options": options}
    for name, body in (("small", SMALL), ("large", LARGE)):
        path = tmp_path / f"{name}.bin"
        path.write_bytes(body)
        for at in (f"s3://bucket/{name}", str(path)):
            reader = file_dataset.reader({"a.bin": at}, options=options)
            yield f"blob {name} {at}", lambda reader=reader: reader.into_blob_table()["a.bin"][0].as_py()
            yield f"size {name} {at}", lambda reader=reader: reader.into_size_table()["a.bin"][0].as_py()
            yield f"file {name} {at}", lambda reader=reader: files_of(reader)
            frame = pd.DataFrame({"id": range(3), "a.bin": [at] * 3})
            for prefetch in (0, 2):
                pipeline = file_dataset.Pipeline(
                    forward, write_options=into, options=options, prefetch=prefetch, progress=False
                )
                yield f"run {name} {at} {prefetch}", lambda run=pipeline, frame=frame: run.run(frame).files.size_bytes
        for target in ("s3://bucket/out", tmp_path / "out"):
            yield (
                f"write {name} {target}",
                lambda path=path, target=target: file_dataset.write_files(
                    {"a.bin": path}, into_path=target, id="1", options=options
                ),
            )


def files_of(reader):
    with reader.into_temp_dir() as directory:
        return (directory / "a.bin").read_bytes()


def ended(call):
    """Return what the call returned or raised; it must end."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except BaseException as exc:  # noqa: BLE001  # looked at
            outcome.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert outcome, "the call hangs"
    return outcome[0]


@pytest.mark.parametrize(
    ("engine", "names"),
    [*(("auto", [name]) for name in THREADS), ("auto", THREADS), ("boto3", ["s3"]), ("boto3", THREADS)],
)
def test_where_no_thread_starts_every_call_ends_and_the_next_works(faults, tmp_path, monkeypatch, engine, names):
    faults.put("s3://bucket/small", SMALL)
    faults.put("s3://bucket/large", LARGE)
    options = impatient_options(faults.endpoint_url, engine=engine)
    limit = Limit(monkeypatch, names)
    failed = 0
    for name, call in calls(options, tmp_path):
        found = ended(call)
        if isinstance(found, BaseException):
            failed += 1
            assert isinstance(found, FileDatasetError), name
            assert "could not be started" in str(found), name
    # a run does without threads of its own
    assert failed or not limit.refused or names in (["disk"], ["run"])
    limit.is_on = False
    for name, call in calls(options, tmp_path):
        found = ended(call)
        assert not isinstance(found, BaseException), name
        if name.startswith("run"):
            assert len(found) == 3, name


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_where_few_threads_start_the_work_waits_for_those(faults, tmp_path, monkeypatch, engine, after):
    """The second and third start fail, say: `write_files` once hung for ever."""
    path = tmp_path / "a.bin"
    path.write_bytes(LARGE)
    faults.put("s3://bucket/small", SMALL)  # makes the bucket
    options = impatient_options(faults.endpoint_url, engine=engine)
    limit = Limit(monkeypatch, THREADS, after)

    def write():
        return file_dataset.write_files({"a": path}, into_path="s3://bucket/o", id="1", options=options)

    for _ in range(3):
        assert isinstance(ended(write), (FileDatasetError, dict))
    limit.is_on = False
    assert ended(write) == {"a": "s3://bucket/o/1/a"}
    assert faults.body("s3://bucket/o/1/a") == LARGE


def test_a_pool_does_with_the_threads_it_has(monkeypatch):
    limit = Limit(monkeypatch, ["few"], after=2)
    pool = Pool(8, "file_dataset-few")
    assert [future.result(30) for future in [pool.submit(int, number) for number in range(20)]] == list(range(20))
    assert limit.refused


def test_a_failed_attempt_that_cannot_be_repeated_for_want_of_a_thread_is_told(faults, monkeypatch):
    """What failed on the loop goes to a pool to be tried again."""
    faults.put("s3://bucket/small", SMALL)
    faults.fail("GetObject", SLOW_DOWN, times=1)
    Limit(monkeypatch, ["s3"])
    reader = file_dataset.reader({"a.bin": "s3://bucket/small"}, options=impatient_options(faults.endpoint_url))
    found = ended(reader.into_blob_table)
    assert isinstance(found, FileDatasetError)
    assert "SlowDown" in str(found)
    assert "not tried again: the thread file_dataset-s3-1 could not be started" in str(found)


def test_a_name_that_no_thread_can_look_up_is_an_error(faults, monkeypatch):
    faults.put("s3://bucket/small", SMALL)
    limit = Limit(monkeypatch, ["disk"])
    options = impatient_options(faults.endpoint_url.replace("127.0.0.1", "localhost"))
    reader = file_dataset.reader({"a.bin": "s3://bucket/small"}, options=options)
    assert "the thread file_dataset-disk-1 could not be started" in str(ended(reader.into_blob_table))
    limit.is_on = False
    assert ended(reader.into_blob_table)["a.bin"][0].as_py() == SMALL


@pytest.mark.parametrize("after", [0, 1], ids=lambda after: f"{after} of 2 start")
def test_workers_whose_threads_do_not_start_end_in_an_error_or_are_fewer(tmp_path, monkeypatch, after):
    (tmp_path / "a").write_bytes(SMALL)
    frame = pd.DataFrame({"id": range(4), "a.bin": [str(tmp_path / "a")] * 4})
    into = {"into_path": tmp_path / "out"}
    pipeline = file_dataset.Pipeline(
        lambda input_dir, output_dir: {"b.bin": input_dir / "a.bin"}, write_options=into, workers=2, progress=False
    )
    limit = Limit(monkeypatch, ["worker"], after)
    found = ended(lambda: pipeline.run(frame))
    if after:
        assert len(found.manifest) == 4
    else:
        assert isinstance(found, file_dataset.RunStoppedError)
        assert "could not be started" in str(found)
        assert len(found.result.unprocessed_rows) == 4
    assert limit.refused
    limit.is_on = False
    assert len(ended(lambda: pipeline.run(frame)).manifest) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_rows_that_wait_for_a_worker_whose_thread_fails_have_an_error(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("a fault of ours")

    with Workers(lambda _in, _out: "ran", count=1, by_keyword=False, takes_row=False) as workers:
        submit = functools.partial(workers.submit, tmp_path, tmp_path, None)
        assert ended(lambda: submit().result()) == "ran"
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "pump", broken)  # in the thread that rests
            workers.rest()
            for _ in range(2):
                assert isinstance(ended(lambda: submit().result()), WorkerStartError | OSError)
        assert ended(lambda: submit().result()) == "ran"
