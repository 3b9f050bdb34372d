"""What fn meets in a worker: directory, path, variables, descriptors, forks.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows
# ruff: noqa: PTH109, PTH208, S607

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
from helpers import until
from one_worker import SOON_S, living, run, script

from file_dataset._workers import process
from file_dataset._workers.process import WorkerDiedError


def test_the_working_directory_is_the_parents_again_for_every_row(start, tmp_path, monkeypatch):
    def fn(_in, out):
        before = os.getcwd()
        (out / "elsewhere").mkdir(exist_ok=True)
        os.chdir(out / "elsewhere")
        return before

    workers = start(fn)
    assert [workers.submit(tmp_path, tmp_path, None).result(SOON_S) for _ in range(2)] == [os.getcwd()] * 2
    # the parent may move on, and an idle worker sits in no directory of a row
    monkeypatch.chdir(tmp_path)
    assert workers.submit(tmp_path, tmp_path, None).result(SOON_S) == str(tmp_path)


def test_an_idle_worker_is_not_where_fn_went(start, tmp_path):
    def fn(_in, out):
        os.chdir(out)
        return os.getpid()

    pid = start(fn).submit(tmp_path, tmp_path, None).result(SOON_S)
    shown = subprocess.run(["readlink", f"/proc/{pid}/cwd"], capture_output=True, text=True, check=False).stdout.strip()
    assert shown in ("", os.getcwd())


def test_fn_finds_the_parents_path_and_arguments_and_nothing_on_stdin(call, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "beside_the_script.py").write_text("VALUE = 5\n")

    def fn(_in, _out):
        import beside_the_script

        return [beside_the_script.VALUE, sys.argv, sys.path, sys.stdin.read()]

    assert call(fn) == [5, sys.argv, sys.path, ""]


def test_a_file_in_the_working_directory_hides_no_module(call, monkeypatch, tmp_path):
    (tmp_path / "socket.py").write_text("raise SystemExit('a script of the user')\n")
    monkeypatch.chdir(tmp_path)
    assert call(lambda _in, _out: "ran") == "ran"


def test_variables_are_set_before_the_interpreter_starts(call, monkeypatch):
    monkeypatch.setenv("OF_THE_PARENT", "here")

    def fn(_in, _out):
        return [sys.flags.optimize, os.environ["OMP_NUM_THREADS"], os.environ["OF_THE_PARENT"]]

    assert call(fn, env={"PYTHONOPTIMIZE": "1", "OMP_NUM_THREADS": "1"}) == [1, "1", "here"]


def test_directories_of_pythonpath_come_first(call, monkeypatch, tmp_path):
    for part in ("of_the_parent", "of_the_worker"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "whose.py").write_text(f"NAME = {part!r}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "of_the_parent"))
    monkeypatch.chdir(tmp_path)

    def fn(_in, _out):
        import whose

        return [whose.NAME, sys.path]

    env = {"PYTHONPATH": os.pathsep.join(["", "of_the_worker", ""])}
    assert call(fn, env=env) == ["of_the_worker", [str(tmp_path / "of_the_worker"), *sys.path]]


def test_variables_that_the_interpreter_and_its_loader_read_have_effect(call):
    def fn(_in, _out):
        from pathlib import Path

        try:
            warnings.warn("an error there", DeprecationWarning, stacklevel=1)
        except DeprecationWarning:
            # as the process was started; macOS has no such file
            at_start = Path("/proc/self/environ")
            return hash("text"), not at_start.exists() or b"LD_LIBRARY_PATH=/lib-of-the-worker" in at_start.read_bytes()

    env = {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "error", "LD_LIBRARY_PATH": "/lib-of-the-worker"}
    hashed = run([sys.executable, "-c", "print(hash('text'))"], env=os.environ | {"PYTHONHASHSEED": "0"}).stdout
    assert call(fn, env=env) == (int(hashed), True)


def test_a_worker_holds_no_descriptor_of_another_and_passes_on_none(start, tmp_path):
    def fn(_in, out, row):
        (out / row["me"]).touch()
        while not (out / row["other"]).exists():
            time.sleep(0.001)
        count = "import os; print(len(os.listdir('/dev/fd')))"
        child = subprocess.run(
            [sys.executable, "-c", count], close_fds=False, capture_output=True, text=True, check=True
        )
        return [len(os.listdir("/dev/fd")), int(child.stdout)]

    workers = start(fn, count=2, takes_row=True)
    futures = [workers.submit(tmp_path, tmp_path, {"me": me, "other": other}) for me, other in (("a", "b"), ("b", "a"))]
    # three standard ones, the line, the pipe of the parent's life; and the one that lists
    assert [future.result(SOON_S) for future in futures] == [[6, 4], [6, 4]]


def test_a_process_that_fn_forks_and_forgets_says_nothing(start, tmp_path):
    def fn(_in, _out, row):
        if pid := os.fork():
            return [os.getpid(), os.waitpid(pid, 0)[1] >> 8]
        logging.getLogger("forked").error("from the fork")
        if row["how"] == "exit":
            sys.exit(3)
        if row["how"] == "raise":
            raise ValueError("in the fork")
        return "the fork's"

    workers = start(fn, takes_row=True)
    answers = [
        workers.submit(tmp_path, tmp_path, {"how": how}).result(SOON_S) for how in ("return", "exit", "raise", "return")
    ]
    assert [code for _, code in answers] == [0, 3, 1, 0]
    assert len({pid for pid, _ in answers}) == 1


def test_a_fork_of_the_worker_does_not_hold_the_line(start, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_LOOK_S", 1000.0)  # so that the line alone can tell

    def fn(_in, _out):
        if os.fork() == 0:
            time.sleep(1000)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        start(fn).submit(tmp_path, tmp_path, None).result(SOON_S)


@pytest.mark.parametrize("dies", ["at work", "idle"])
def test_a_death_is_seen_though_a_fork_by_native_code_holds_the_line(start, tmp_path, dies):
    def fn(_in, out, row):
        import ctypes

        if row["first"] and ctypes.CDLL(None).fork() == 0:
            time.sleep(1000)
        (out / "pid").write_text(str(os.getpid()))
        if row["dies"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    workers = start(fn, takes_row=True)
    first = workers.submit(tmp_path, tmp_path, {"first": True, "dies": dies == "at work"})
    if dies == "at work":
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            first.result(SOON_S)
    else:
        os.kill(first.result(SOON_S), signal.SIGKILL)
        assert until(lambda: len(living(first.result())) == 1)  # the fork
    before = int((tmp_path / "pid").read_text())
    assert workers.submit(tmp_path, tmp_path, {"first": False, "dies": False}).result(SOON_S) != before
    assert not living(before)


def test_fn_can_use_multiprocessing(call):
    def fn(_in, _out):
        import multiprocessing

        # a fork: nothing of this module would be found in a process that starts afresh
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    assert call(fn) == [1, 2, 3]


def test_a_forked_child_of_the_parent_leaves_its_workers_alone_and_can_have_its_own(tmp_path):
    text = """
        import os
        from pathlib import Path
        from file_dataset._workers.pool import Workers

        here = Path(__file__).parent
        workers = Workers(lambda i, o: os.getpid(), count=1, by_keyword=False, takes_row=False)
        mine = workers.submit(here, here, None).result()
        child = os.fork()
        if child == 0:
            theirs = workers.submit(here, here, None).result(20)
            workers.close()
            os._exit(0 if theirs != mine else 1)
        print(os.waitpid(child, 0)[1], workers.submit(here, here, None).result() == mine, flush=True)
        child = os.fork()
        if child == 0:
            raise SystemExit
        print(os.waitpid(child, 0)[1], workers.submit(here, here, None).result() == mine)
        """
    assert run(script(tmp_path, text)).stdout == "0 True\n0 True\n"
