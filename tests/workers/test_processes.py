"""Which worker processes there are: as many as asked for, started when a row needs them.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows
# ruff: noqa: SLF001

from __future__ import annotations

import concurrent.futures
import os
import sys
import time

from helpers import until
from one_worker import SOON_S


def test_no_process_starts_before_its_first_row_and_one_does_for_rows_in_turn(start, tmp_path):
    workers = start(lambda _in, _out: [os.getpid(), os.getpgid(0), os.getsid(0)], count=4)
    assert not workers._pool.workers
    pid, group, session = workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    assert pid == group == session != os.getpid()
    for _ in range(20):
        # a Future is done a moment before its worker is idle
        assert until(lambda: workers._pool.idle)
        assert workers.submit(tmp_path, tmp_path, None).result(SOON_S)[0] == pid


def test_as_many_rows_run_at_a_time_as_there_are_workers(start, tmp_path):
    def meet(_in, out, row):
        (out / row["me"]).touch()
        while not (out / row["other"]).exists():
            time.sleep(0.001)
        return os.getpid()

    workers = start(meet, count=2, takes_row=True)
    futures = [workers.submit(tmp_path, tmp_path, {"me": me, "other": other}) for me, other in (("a", "b"), ("b", "a"))]
    assert len({future.result(SOON_S) for future in futures}) == 2


def test_rows_start_in_the_order_of_their_submission_and_submitting_does_not_wait(start, tmp_path):
    def fn(_in, out, row):
        while not (out / "go").exists():
            time.sleep(0.001)
        with (out / "log").open("a") as log:
            log.write(f"{row['id']}\n")

    workers = start(fn, takes_row=True)
    futures = [workers.submit(tmp_path, tmp_path, {"id": number}) for number in range(50)]
    assert not any(future.done() for future in futures)
    (tmp_path / "go").touch()
    concurrent.futures.wait(futures, SOON_S)
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(50)]


def test_rows_can_be_submitted_from_several_threads(start, tmp_path):
    workers = start(lambda _in, _out, row: row["id"], count=2, takes_row=True)

    def submit(number):
        return workers.submit(tmp_path, tmp_path, {"id": number}).result(SOON_S)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(submit, range(200))) == list(range(200))


def test_a_row_that_is_cancelled_before_it_starts_never_runs(start, tmp_path):
    def fn(_in, out, row):
        (out / row["id"]).touch()
        while not (out / "go").exists():
            time.sleep(0.001)

    workers = start(fn, takes_row=True)
    first, second, third = (workers.submit(tmp_path, tmp_path, {"id": name}) for name in "abc")
    assert until((tmp_path / "a").exists)
    assert second.cancel()
    assert not first.cancel()
    (tmp_path / "go").touch()
    assert [first.result(SOON_S), third.result(SOON_S)] == [None, None]
    assert not (tmp_path / "b").exists()


def test_a_worker_loads_neither_boto3_nor_pandas_nor_pyarrow(call):
    loaded = call(lambda _in, _out: list(sys.modules))
    assert not {"boto3", "botocore", "pandas", "pyarrow", "numpy", "tqdm"}.intersection(loaded)
