"""Workers that die or take too long: each costs the row that it was working on, and leaves nothing.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows
# ruff: noqa: PTH208, S607, SLF001

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import os
import signal
import subprocess
import threading
import time

import pytest
from helpers import until
from one_worker import FDS, SOON_S, by_value, hang, in_a_child, in_python, living, run, script, with_the_gil

from file_dataset._workers import process
from file_dataset._workers.process import FnTimeoutError, WorkerDiedError


def _segfault(_in, _out, row):
    import ctypes

    if row["fails"]:
        ctypes.string_at(0)
    return os.getpid()


def _exit(_in, _out, row):
    if row["fails"]:
        os._exit(1)
    return os.getpid()


def _killed(_in, _out, row):
    if row["fails"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def _unnamed(_in, _out, row):
    if row["fails"]:
        os.kill(os.getpid(), signal.SIGRTMIN + 1)  # the first that has no name
    return os.getpid()


def _abort(_in, _out, row):
    if row["fails"]:
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    return os.getpid()


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (_segfault, r"killed by SIGSEGV \(native code crashed\) while fn ran; .*Segmentation fault.*in _segfault"),
        (_exit, r"ended with exit code 1 \(os\._exit"),
        (_killed, r"killed by SIGKILL \(as the kernel does when memory runs out\)"),
        (_abort, r"killed by SIGABRT .*std::bad_alloc"),
        (_unnamed, r"killed by signal \d+ while fn ran"),
    ],
    ids=["segfault", "exit", "sigkill", "abort", "unnamed"],
)
def test_a_death_costs_its_row_and_says_how(start, tmp_path, fn, why):
    workers = start(by_value(fn), takes_row=True)
    before = workers.submit(tmp_path, tmp_path, {"fails": False}).result(SOON_S)
    with pytest.raises(WorkerDiedError, match=f"(?s){why}"):
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(SOON_S)
    # the pool heals
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(SOON_S) != before
    assert not living(before)


def test_many_deaths_leave_neither_processes_nor_descriptors_nor_threads(start, tmp_path):
    gc.collect()  # what other tests have left
    before = len(os.listdir("/dev/fd")), threading.active_count()
    workers = start(by_value(_exit), count=2, takes_row=True)
    groups = set()
    for _ in range(4):
        futures = [workers.submit(tmp_path, tmp_path, {"fails": fails}) for fails in (True, True, False, False)]
        concurrent.futures.wait(futures, SOON_S)
        assert [type(future.exception()) for future in futures[:2]] == [WorkerDiedError] * 2
        groups |= {future.result() for future in futures[2:]}
    workers.close()
    assert until(lambda: len(os.listdir("/dev/fd")) <= before[0])
    assert until(lambda: threading.active_count() <= before[1])
    assert not any(living(group) for group in groups)


@pytest.mark.parametrize("how", [in_python, in_a_child, with_the_gil], ids=["python", "child", "gil"])
def test_fn_that_takes_too_long_is_killed_with_all_it_has_started(start, tmp_path, how):
    workers = start(hang(tmp_path, by_value(how)), takes_row=True)
    before = workers.submit(tmp_path, tmp_path, {"hangs": False}).result(SOON_S)
    workers._pool.timeout_s = 0.5  # for this row only: on a busy machine any other could take as long
    begun = time.monotonic()
    with pytest.raises(FnTimeoutError, match=r"fn took longer than 0\.5 s"):
        workers.submit(tmp_path, tmp_path, {"hangs": True}).result(SOON_S)
    assert time.monotonic() - begun >= 0.5
    assert until(lambda: not living(before))
    workers._pool.timeout_s = None
    assert workers.submit(tmp_path, tmp_path, {"hangs": False}).result(SOON_S) != before


def test_the_limit_counts_neither_the_start_nor_the_making_of_the_instance(call):
    class Slow:
        def __init__(self):
            time.sleep(2)

        def __call__(self, _in, _out):
            return "called"

    assert call(Slow, timeout_s=1.9) == "called"


def test_what_fn_had_started_dies_with_it(start, tmp_path):
    def fn(_in, out):
        subprocess.Popen(["sleep", "1000"])
        (out / "pid").write_text(str(os.getpid()))
        os._exit(1)

    with pytest.raises(WorkerDiedError):
        start(fn).submit(tmp_path, tmp_path, None).result(SOON_S)
    assert until(lambda: not living((tmp_path / "pid").read_text()))


def test_what_fn_leaves_running_stays_until_the_workers_are_closed(start, tmp_path):
    def fn(_in, _out):
        return [os.getpid(), subprocess.Popen(["sleep", "1000"]).pid]

    workers = start(fn)
    group, _child = workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    assert len(living(group)) == 3
    workers.close()
    assert until(lambda: not living(group))


def test_a_worker_that_dies_between_two_rows_costs_none(start, tmp_path):
    workers = start(lambda _in, _out: os.getpid())
    before = workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    os.kill(before, signal.SIGKILL)
    assert until(lambda: not living(before))
    assert workers.submit(tmp_path, tmp_path, None).result(SOON_S) != before


def test_a_worker_that_dies_at_the_moment_its_row_is_sent_costs_that_row(start, tmp_path, monkeypatch):
    workers = start(lambda _in, _out: os.getpid())
    before = workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    monkeypatch.setattr(process.WorkerProcess, "look", lambda _: None)  # it was alive then
    assert until(lambda: workers._pool.idle)
    (worker,) = workers._pool.workers
    monkeypatch.setattr(worker, "_rest", lambda: os.read(worker._woken, 1))  # and its end is not seen
    workers.submit(tmp_path, tmp_path, None).result(SOON_S)  # from here on
    os.kill(before, signal.SIGKILL)
    assert until(lambda: not living(before))
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    assert workers.submit(tmp_path, tmp_path, None).result(SOON_S) != before


def test_a_death_that_somebody_else_has_waited_for_costs_its_row(tmp_path):
    text = """
        import os, signal
        from pathlib import Path
        from file_dataset._workers.pool import Workers

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets how a child ended
        with Workers(lambda i, o: os._exit(1), count=1, by_keyword=False, takes_row=False) as workers:
            print(type(workers.submit(Path(), Path(), None).exception()).__name__)
        """
    assert run(script(tmp_path, text)).stdout == "WorkerDiedError\n"


def test_a_worker_that_closes_its_line_is_replaced(start, tmp_path):
    def fn(_in, _out, row):
        if row["fails"]:
            os.closerange(3, FDS)
            time.sleep(1000)
        return os.getpid()

    workers = start(fn, takes_row=True)
    with pytest.raises(WorkerDiedError, match="closed its connection"):
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(SOON_S)


def test_rubbish_on_the_line_costs_the_row(start, tmp_path):
    def fn(_in, _out, row):
        for fd in range(3, FDS) if row["fails"] else ():
            with contextlib.suppress(OSError):
                os.write(fd, b"\0\0\0\0\0\0\0\4junk")
        return os.getpid()

    workers = start(fn, takes_row=True)
    with pytest.raises(WorkerDiedError):
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(SOON_S)
