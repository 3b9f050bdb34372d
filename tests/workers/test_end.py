"""How workers end: closed, idle, forgotten, with their parent or before it.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows
# ruff: noqa: SLF001

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import subprocess
import threading
import time

import pytest
from helpers import until
from one_worker import SOON_S, by_value, hang, in_a_child, living, run, script, texts, with_the_gil

from file_dataset._workers.pool import Workers


def test_closing_kills_what_runs_and_cancels_what_waits(start, tmp_path):
    workers = start(hang(tmp_path, by_value(in_a_child)), takes_row=True)
    running, waiting = (workers.submit(tmp_path, tmp_path, {"hangs": True}) for _ in range(2))
    (group,) = texts(tmp_path / "pids")
    assert until(lambda: len(living(group)) == 2)
    workers.close()
    assert until(lambda: not living(group))
    with pytest.raises(InterruptedError, match="closed while fn ran"):
        running.result(SOON_S)
    assert waiting.cancelled()
    assert concurrent.futures.wait([waiting], 0).done
    workers.close()
    with pytest.raises(RuntimeError, match="these workers are closed"):
        workers.submit(tmp_path, tmp_path, {"hangs": False})


def test_closing_while_a_process_starts_leaves_none(start, tmp_path):
    class Slow:
        def __init__(self):
            with (tmp_path / "pids").open("a") as log:
                log.write(f"{os.getpid()}\n")
            time.sleep(1000)

        def __call__(self, _in, _out):
            return None

    workers = start(Slow)
    future = workers.submit(tmp_path, tmp_path, None)
    (group,) = texts(tmp_path / "pids")
    workers.close()
    assert not living(group)
    assert future.cancelled()


def test_closing_at_the_moment_a_process_starts_runs_nothing(start, tmp_path, monkeypatch):
    workers = start(lambda _in, out: (out / "ran").touch())
    popen = subprocess.Popen

    def closed_meanwhile(*args, **kwargs):
        started = popen(*args, **kwargs)
        closer = threading.Thread(target=workers._pool.close)
        closer.start()
        closer.join()
        return started

    monkeypatch.setattr(subprocess, "Popen", closed_meanwhile)
    future = workers.submit(tmp_path, tmp_path, None)
    assert until(future.done)
    assert future.cancelled()
    assert not (tmp_path / "ran").exists()


def test_an_idle_worker_ends_by_itself_so_that_its_exit_handlers_run(start, tmp_path):
    def fn(_in, out):
        import atexit

        atexit.register((out / "ended").touch)

    workers = start(fn)
    workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    assert until(lambda: workers._pool.idle)
    workers.close()
    assert (tmp_path / "ended").exists()


def test_a_script_that_ends_without_closing_closes(tmp_path):
    text = """
        import atexit
        from pathlib import Path
        from file_dataset._workers.pool import Workers

        here = Path(__file__).parent
        fn = lambda _in, out: atexit.register((out / "ended").touch) and None
        workers = Workers(fn, count=1, by_keyword=False, takes_row=False)
        workers.submit(here, here, None).result()
        while not workers._pool.idle:
            pass
        """
    run(script(tmp_path, text))
    assert (tmp_path / "ended").exists()


def test_workers_that_nobody_holds_are_closed(tmp_path):
    workers = Workers(hang(tmp_path, by_value(in_a_child)), count=1, by_keyword=False, takes_row=True)
    future = workers.submit(tmp_path, tmp_path, {"hangs": True})
    (group,) = texts(tmp_path / "pids")
    del workers
    gc.collect()
    with pytest.raises(InterruptedError):
        future.result(SOON_S)
    assert until(lambda: not living(group))


_SCRIPT = """
    import os, sys, subprocess, time
    from pathlib import Path
    from file_dataset._workers.pool import Workers

    here = Path(__file__).parent
    with (here / "runs").open("a") as runs:
        runs.write("run\\n")

    def fn(input_dir, output_dir, row):
        if row["hangs"]:
            child = subprocess.Popen(["sleep", "1000"])
            with (here / "pids").open("a") as log:
                log.write(f"{os.getpid()}\\n")
            child.wait()
        return os.getpid()

    workers = Workers(fn, count=2, by_keyword=True, takes_row=True)
    idle = workers.submit(here, here, {"hangs": False}).result()
    with (here / "pids").open("a") as log:
        log.write(f"{idle}\\n")
    busy = workers.submit(here, here, {"hangs": True}), workers.submit(here, here, {"hangs": True})
    while (here / "pids").read_text().count("\\n") < 3:
        time.sleep(0.01)
"""


def test_no_worker_outlives_a_script_that_ends_without_closing(tmp_path):
    run(script(tmp_path, _SCRIPT))
    groups = (tmp_path / "pids").read_text().split()
    assert len(set(groups)) == 2
    assert until(lambda: not any(living(group) for group in groups))
    assert (tmp_path / "runs").read_text() == "run\n"


@pytest.mark.parametrize("how", [in_a_child, with_the_gil], ids=["child", "gil"])
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path, how):
    text = (
        _SCRIPT
        if how is in_a_child
        else _SCRIPT.replace("child.wait()", "import ctypes; ctypes.PyDLL(None).sleep(1000)")
    )
    parent = subprocess.Popen(script(tmp_path, text + "\n    time.sleep(1000)"))
    groups = texts(tmp_path / "pids", 3)
    assert all(living(group) for group in groups)
    parent.kill()
    parent.wait()
    assert until(lambda: not any(living(group) for group in groups))


def test_a_keyboard_interrupt_reaches_the_parent_alone_which_kills_the_workers(tmp_path):
    text = (
        _SCRIPT
        + """
    try:
        with workers:
            print("waiting", flush=True)
            busy[0].result()
    except KeyboardInterrupt:
        print(type(busy[0].exception()).__name__, type(busy[1].exception()).__name__)
    """
    )
    parent = subprocess.Popen(script(tmp_path, text), stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout.readline() == "waiting\n"
    groups = texts(tmp_path / "pids", 3)
    os.killpg(parent.pid, signal.SIGINT)  # what a terminal does
    assert parent.communicate(timeout=SOON_S)[0] == "InterruptedError InterruptedError\n"
    assert parent.returncode == 0
    assert until(lambda: not any(living(group) for group in groups))


def test_a_watching_thread_kills_the_group_where_the_kernel_does_not(tmp_path):
    """As on macOS, where a pipe sends no signal of one's choice."""
    ends, life = os.pipe()
    command = script(
        tmp_path,
        f"""
        import fcntl, subprocess, time
        from file_dataset._workers import child
        del fcntl.F_SETSIG
        child._end_with_parent({ends})
        subprocess.Popen(["sleep", "1000"])
        print("ready", flush=True)
        time.sleep(1000)
        """,
    )
    worker = subprocess.Popen(command, pass_fds=[ends], start_new_session=True, stdout=subprocess.PIPE)
    os.close(ends)
    assert worker.stdout.readline() == b"ready\n"
    assert len(living(worker.pid)) == 2
    os.close(life)
    assert worker.wait(SOON_S) == -signal.SIGKILL
    assert until(lambda: not living(worker.pid))
    worker.stdout.close()
