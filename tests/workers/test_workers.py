"""fn in worker processes: real ones, that crash, hang and are killed.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows
# ruff: noqa: PTH109, PTH208, S607, SLF001, T201

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import importlib.util
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
import warnings

import pytest
from helpers import until

import file_dataset
from file_dataset import _pickling
from file_dataset._workers import messages, process
from file_dataset._workers.pool import Workers
from file_dataset._workers.process import FnTimeoutError, WorkerDiedError, WorkerStartError

_SOON_S = 40  # for what takes well under a second on a machine that does nothing else
_FDS = 10_000  # above every descriptor of these tests: a worker has its line under the number of its parent


@pytest.fixture(autouse=True)
def buffered(monkeypatch):
    """Some machines set this for every program; then there is nothing to flush."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def start(tmp_path):
    """Make workers that end with the test."""
    with contextlib.ExitStack() as stack:

        def make(fn, *, count=1, by_keyword=False, takes_row=False, **kwargs):
            made = Workers(fn, count=count, by_keyword=by_keyword, takes_row=takes_row, **kwargs)
            return stack.enter_context(made)

        yield make


@pytest.fixture
def call(start, tmp_path):
    """Call fn once in a worker and return its result."""

    def one(fn, **kwargs):
        return start(fn, **kwargs).submit(tmp_path, tmp_path, None).result(_SOON_S)

    return one


def living(group):
    """The processes of a group that are more than an exit status."""
    listing = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in listing.splitlines()]
    return [line for line in lines if line[0] == str(group) and not line[1].startswith("Z")]


def texts(path, count=1):
    """What fn has told by writing lines into a file, once there are so many."""
    assert until(lambda: path.exists() and path.read_text().count("\n") >= count)
    return path.read_text().split()


def script(tmp_path, text):
    """A script of its own, which is a `__main__` without a main guard."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return [sys.executable, str(path)]


def run(command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **kwargs)
    assert done.returncode == 0, done.stderr
    return done


# What comes back


def test_a_mapping_comes_back_as_a_dict_of_texts(call, tmp_path):
    result = call(lambda _in, out: types.MappingProxyType({"a.txt": out / "a.txt", "b.txt": None, "c": "c"}))
    assert result == {"a.txt": str(tmp_path / "a.txt"), "b.txt": None, "c": "c"}


@pytest.mark.parametrize("value", [None, [1], "text", {}, {"a": 7}], ids=repr)
def test_any_other_result_comes_back_as_it_is(call, value):
    assert call(lambda _in, _out: value) == value


def test_directories_come_by_keyword_and_the_row_read_only(start, tmp_path):
    def fn(*, output_dir, row, input_dir):
        with contextlib.suppress(TypeError):
            row["id"] = 0
        return [input_dir, output_dir, type(row).__name__, dict(row)]

    workers = start(fn, by_keyword=True, takes_row=True)
    row = types.MappingProxyType({"id": 7, "age": 3.5})
    assert workers.submit(tmp_path / "i", tmp_path / "o", row).result(_SOON_S) == [
        tmp_path / "i",
        tmp_path / "o",
        "mappingproxy",
        {"id": 7, "age": 3.5},
    ]


def test_the_row_comes_third_by_position(start, tmp_path):
    workers = start(lambda _in, _out, row: row["id"], takes_row=True)
    assert workers.submit(tmp_path, tmp_path, {"id": 7}).result(_SOON_S) == 7


def test_a_row_that_cannot_be_pickled_costs_that_row(start, tmp_path):
    workers = start(lambda _in, _out, row: row["id"], takes_row=True)
    with pytest.raises(TypeError, match="the row cannot be sent to fn"):
        workers.submit(tmp_path, tmp_path, {"id": threading.Lock()}).result(_SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"id": 7}).result(_SOON_S) == 7


def test_megabytes_go_there_and_back(start, tmp_path):
    workers = start(lambda _in, _out, row: row["blob"] * 2, takes_row=True)
    blob = os.urandom(4 << 20)
    assert workers.submit(tmp_path, tmp_path, {"blob": blob}).result(_SOON_S) == blob * 2


def test_a_result_that_cannot_be_pickled_is_named(call):
    with pytest.raises(TypeError, match=r"fn returned a dict that cannot be sent from its process.*return a mapping"):
        call(lambda _in, _out: {"a": threading.Lock()})


def test_a_result_that_only_the_worker_can_read_is_named(call):
    def fn(_in, _out):
        class Odd:
            def __reduce__(self):
                return int, ("seven",)

        return Odd()

    with pytest.raises(
        TypeError, match=r"what fn returned cannot be read here: ValueError: invalid literal .* 'seven'"
    ):
        call(fn)


def test_an_exception_comes_back_as_itself_with_the_traceback_of_the_worker(call, caplog):
    def segment(_in, _out):
        error = FileNotFoundError(2, "no such mask", "mask.mha")
        error.code = "NoSuchKey"
        raise error

    with pytest.raises(FileNotFoundError) as raised:
        call(segment)
    error = raised.value
    assert (error.errno, error.filename, error.code) == (2, "mask.mha", "NoSuchKey")
    logging.getLogger(__name__).warning("row failed", exc_info=error)
    # the file and line that raise, though fn travelled by value, and none of ours
    assert f'File "{__file__}", line ' in caplog.text
    assert "in segment\n    raise error" in caplog.text
    assert "file_dataset/_" not in caplog.text


def _unpicklable():
    class LockedError(Exception):
        pass

    error = LockedError("held")
    error.lock = threading.Lock()
    return error


def _of_two_arguments():
    class PairError(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    return PairError("one", "two")


def _without_text():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    return MuteError()


def _without_reduce():
    class StuckError(Exception):
        def __reduce__(self):
            raise ValueError("not me")

    return StuckError("stuck")


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (_unpicklable, "LockedError", "held"),
        (_of_two_arguments, "PairError", "one and two"),
        (_without_text, "MuteError", ""),
        (_without_reduce, "StuckError", "stuck"),
        (lambda: KeyboardInterrupt("mine"), "KeyboardInterrupt", "mine"),
        (lambda: SystemExit(3), "SystemExit", "3"),
    ],
    ids=["unpicklable", "two-arguments", "no-text", "no-reduce", "interrupt", "exit"],
)
def test_what_cannot_travel_or_would_stop_the_caller_is_told_by_name(start, tmp_path, error, name, text):
    # bodies, not names: a worker need not be able to import this module
    make = types.FunctionType(error.__code__, {"__builtins__": __builtins__, "threading": threading})

    def fn(_in, _out, row):
        if row["fails"]:
            raise make()
        return os.getpid()

    workers = start(fn, takes_row=True)
    before = workers.submit(tmp_path, tmp_path, {"fails": False}).result(_SOON_S)
    with pytest.raises(RuntimeError) as raised:
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(_SOON_S)
    told = raised.value
    assert (type(told).__name__, str(told)) == (name, text)
    assert name in str(told.__cause__)
    again = pickle.loads(pickle.dumps(told))
    assert (type(again).__name__, str(again)) == (name, text)
    # it cost the row and not the process
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(_SOON_S) == before


@pytest.mark.parametrize("kind", [WorkerDiedError, FnTimeoutError, WorkerStartError], ids=lambda kind: kind.__name__)
def test_our_errors_survive_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("why")))
    assert (type(again), str(again)) == (kind, "why")


def test_running_out_of_memory_under_a_limit_is_an_exception_of_fn(start, tmp_path):
    def fn(_in, _out, row):
        import resource

        if row["hog"]:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
            blocks = []
            while True:
                blocks.append(bytearray(256 << 20))
        return os.getpid()

    workers = start(fn, takes_row=True)
    before = workers.submit(tmp_path, tmp_path, {"hog": False}).result(_SOON_S)
    with pytest.raises(MemoryError):
        workers.submit(tmp_path, tmp_path, {"hog": True}).result(_SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"hog": False}).result(_SOON_S) == before


# Which processes there are


def test_no_process_starts_before_its_first_row_and_one_does_for_rows_in_turn(start, tmp_path):
    workers = start(lambda _in, _out: [os.getpid(), os.getpgid(0), os.getsid(0)], count=4)
    assert not workers._pool.workers
    pid, group, session = workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    assert pid == group == session != os.getpid()
    for _ in range(20):
        # a Future is done a moment before its worker is idle
        assert until(lambda: workers._pool.idle)
        assert workers.submit(tmp_path, tmp_path, None).result(_SOON_S)[0] == pid


def test_as_many_rows_run_at_a_time_as_there_are_workers(start, tmp_path):
    def meet(_in, out, row):
        (out / row["me"]).touch()
        while not (out / row["other"]).exists():
            time.sleep(0.001)
        return os.getpid()

    workers = start(meet, count=2, takes_row=True)
    futures = [workers.submit(tmp_path, tmp_path, {"me": me, "other": other}) for me, other in (("a", "b"), ("b", "a"))]
    assert len({future.result(_SOON_S) for future in futures}) == 2


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
    concurrent.futures.wait(futures, _SOON_S)
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(50)]


def test_rows_can_be_submitted_from_several_threads(start, tmp_path):
    workers = start(lambda _in, _out, row: row["id"], count=2, takes_row=True)

    def submit(number):
        return workers.submit(tmp_path, tmp_path, {"id": number}).result(_SOON_S)

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
    assert [first.result(_SOON_S), third.result(_SOON_S)] == [None, None]
    assert not (tmp_path / "b").exists()


def test_a_worker_loads_neither_boto3_nor_pandas_nor_pyarrow(call):
    loaded = call(lambda _in, _out: list(sys.modules))
    assert not {"boto3", "botocore", "pandas", "pyarrow", "numpy", "tqdm"}.intersection(loaded)


# Deaths, hangs and what they leave


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


def by_value(fn):
    return types.FunctionType(fn.__code__, {"os": os, "signal": signal, "__builtins__": __builtins__})


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
    before = workers.submit(tmp_path, tmp_path, {"fails": False}).result(_SOON_S)
    with pytest.raises(WorkerDiedError, match=f"(?s){why}"):
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(_SOON_S)
    # the pool heals
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(_SOON_S) != before
    assert not living(before)


def test_many_deaths_leave_neither_processes_nor_descriptors_nor_threads(start, tmp_path):
    gc.collect()  # what other tests have left
    before = len(os.listdir("/dev/fd")), threading.active_count()
    workers = start(by_value(_exit), count=2, takes_row=True)
    groups = set()
    for _ in range(4):
        futures = [workers.submit(tmp_path, tmp_path, {"fails": fails}) for fails in (True, True, False, False)]
        concurrent.futures.wait(futures, _SOON_S)
        assert [type(future.exception()) for future in futures[:2]] == [WorkerDiedError] * 2
        groups |= {future.result() for future in futures[2:]}
    workers.close()
    assert until(lambda: len(os.listdir("/dev/fd")) <= before[0])
    assert until(lambda: threading.active_count() <= before[1])
    assert not any(living(group) for group in groups)


def _hang(tmp_path, how):
    """A fn that says who it is and then hangs in this way when the row asks for it."""

    def fn(_in, out, row):
        with (out / "pids").open("a") as log:
            log.write(f"{os.getpid()}\n")
        if row["hangs"]:
            how()
        return os.getpid()

    return fn


def _in_python():
    while True:
        pass


def _in_a_child():
    import subprocess

    subprocess.run(["sleep", "1000"], check=False)


def _with_the_gil():
    import ctypes

    ctypes.PyDLL(None).sleep(1000)


@pytest.mark.parametrize("how", [_in_python, _in_a_child, _with_the_gil], ids=["python", "child", "gil"])
def test_fn_that_takes_too_long_is_killed_with_all_it_has_started(start, tmp_path, how):
    workers = start(_hang(tmp_path, by_value(how)), takes_row=True)
    before = workers.submit(tmp_path, tmp_path, {"hangs": False}).result(_SOON_S)
    workers._pool.timeout_s = 0.5  # for this row only: on a busy machine any other could take as long
    begun = time.monotonic()
    with pytest.raises(FnTimeoutError, match=r"fn took longer than 0\.5 s"):
        workers.submit(tmp_path, tmp_path, {"hangs": True}).result(_SOON_S)
    assert time.monotonic() - begun >= 0.5
    assert until(lambda: not living(before))
    workers._pool.timeout_s = None
    assert workers.submit(tmp_path, tmp_path, {"hangs": False}).result(_SOON_S) != before


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
        start(fn).submit(tmp_path, tmp_path, None).result(_SOON_S)
    assert until(lambda: not living((tmp_path / "pid").read_text()))


def test_what_fn_leaves_running_stays_until_the_workers_are_closed(start, tmp_path):
    def fn(_in, _out):
        return [os.getpid(), subprocess.Popen(["sleep", "1000"]).pid]

    workers = start(fn)
    group, _child = workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    assert len(living(group)) == 3
    workers.close()
    assert until(lambda: not living(group))


def test_a_worker_that_dies_between_two_rows_costs_none(start, tmp_path):
    workers = start(lambda _in, _out: os.getpid())
    before = workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    os.kill(before, signal.SIGKILL)
    assert until(lambda: not living(before))
    assert workers.submit(tmp_path, tmp_path, None).result(_SOON_S) != before


def test_a_worker_that_dies_at_the_moment_its_row_is_sent_costs_that_row(start, tmp_path, monkeypatch):
    workers = start(lambda _in, _out: os.getpid())
    before = workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    monkeypatch.setattr(process.WorkerProcess, "look", lambda _: None)  # it was alive then
    assert until(lambda: workers._pool.idle)
    (worker,) = workers._pool.workers
    monkeypatch.setattr(worker, "_rest", lambda: os.read(worker._woken, 1))  # and its end is not seen
    workers.submit(tmp_path, tmp_path, None).result(_SOON_S)  # from here on
    os.kill(before, signal.SIGKILL)
    assert until(lambda: not living(before))
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    assert workers.submit(tmp_path, tmp_path, None).result(_SOON_S) != before


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
            os.closerange(3, _FDS)
            time.sleep(1000)
        return os.getpid()

    workers = start(fn, takes_row=True)
    with pytest.raises(WorkerDiedError, match="closed its connection"):
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(_SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(_SOON_S)


def test_rubbish_on_the_line_costs_the_row(start, tmp_path):
    def fn(_in, _out, row):
        for fd in range(3, _FDS) if row["fails"] else ():
            with contextlib.suppress(OSError):
                os.write(fd, b"\0\0\0\0\0\0\0\4junk")
        return os.getpid()

    workers = start(fn, takes_row=True)
    with pytest.raises(WorkerDiedError):
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(_SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(_SOON_S)


# The end


def test_closing_kills_what_runs_and_cancels_what_waits(start, tmp_path):
    workers = start(_hang(tmp_path, by_value(_in_a_child)), takes_row=True)
    running, waiting = (workers.submit(tmp_path, tmp_path, {"hangs": True}) for _ in range(2))
    (group,) = texts(tmp_path / "pids")
    assert until(lambda: len(living(group)) == 2)
    workers.close()
    assert until(lambda: not living(group))
    with pytest.raises(InterruptedError, match="closed while fn ran"):
        running.result(_SOON_S)
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
    workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
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
    workers = Workers(_hang(tmp_path, by_value(_in_a_child)), count=1, by_keyword=False, takes_row=True)
    future = workers.submit(tmp_path, tmp_path, {"hangs": True})
    (group,) = texts(tmp_path / "pids")
    del workers
    gc.collect()
    with pytest.raises(InterruptedError):
        future.result(_SOON_S)
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


@pytest.mark.parametrize("how", [_in_a_child, _with_the_gil], ids=["child", "gil"])
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path, how):
    text = (
        _SCRIPT
        if how is _in_a_child
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
    assert parent.communicate(timeout=_SOON_S)[0] == "InterruptedError InterruptedError\n"
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
    assert worker.wait(_SOON_S) == -signal.SIGKILL
    assert until(lambda: not living(worker.pid))
    worker.stdout.close()


# Starting


def test_fn_of_a_module_that_a_worker_cannot_import_says_which(call, monkeypatch, tmp_path):
    (tmp_path / "only_for_the_parent.py").write_text("import sys\nsys.needed\ndef fn(input_dir, output_dir): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "needed", True, raising=False)
    import only_for_the_parent

    why = "fn could not be loaded in a worker process: AttributeError: module 'sys' has no attribute 'needed'"
    with pytest.raises(WorkerStartError, match=why) as raised:
        call(only_for_the_parent.fn)
    assert "AttributeError" in str(raised.value.__cause__)


def test_an_interpreter_that_is_not_there_is_a_start_error(call, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerStartError, match="no worker process can start: /nowhere/python: FileNotFoundError"):
        call(lambda _in, _out: None)


def test_an_interpreter_that_does_not_know_itself_is_a_start_error(call, monkeypatch):
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(WorkerStartError, match=r"does not know its sys\.executable"):
        call(lambda _in, _out: None)


def test_an_interpreter_that_ends_at_once_says_why_and_once(call, monkeypatch, tmp_path, capsys):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'no license for python' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(WorkerStartError, match=r"(?s)ended with exit code 3.*stderr ended with: no license for python"):
        call(lambda _in, _out: None)
    assert capsys.readouterr().err == ""


def test_an_interpreter_that_says_nothing_is_a_start_error(call, monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(process, "_HELLO_S", 0.5)
    with pytest.raises(WorkerStartError, match=r"no worker process can start: .*/python did not in 0\.5 s"):
        call(lambda _in, _out: None)


def test_without_descriptors_no_worker_starts_and_with_them_one_does(tmp_path):
    text = """
        import os, resource
        from pathlib import Path
        from file_dataset._workers.pool import Workers
        from file_dataset._workers.process import WorkerStartError

        def called():
            with Workers(lambda i, o: "ran", count=1, by_keyword=False, takes_row=False) as workers:
                try:
                    return workers.submit(Path(), Path(), None).result(60)
                except WorkerStartError as exc:
                    assert "Too many open files" in str(exc), exc
                    return "no worker"

        assert called() == "ran"  # everything is loaded
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare, before = 0, len(os.listdir("/dev/fd"))  # one of them lists
        while True:  # whatever it is that finds none left
            resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + spare, most))
            said = called()
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            assert len(os.listdir("/dev/fd")) == before, spare
            if said == "ran":
                break
            spare += 1
        print(spare > 4, called())
        """
    assert run(script(tmp_path, text)).stdout == "True ran\n"


def test_the_pool_starts_when_it_can_again(start, tmp_path, monkeypatch):
    workers = start(lambda _in, _out: "ran")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(WorkerStartError):
            workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    assert workers.submit(tmp_path, tmp_path, None).result(_SOON_S) == "ran"


def test_a_class_is_made_once_per_process(start, tmp_path):
    class Model:
        def __init__(self):
            with (tmp_path / "made").open("a") as log:
                log.write(f"{os.getpid()}\n")

        def __call__(self, _in, _out):
            return str(os.getpid())

    workers = start(Model, count=2)
    futures = [workers.submit(tmp_path, tmp_path, None) for _ in range(40)]
    pids = {future.result(_SOON_S) for future in futures}
    workers.close()
    made = (tmp_path / "made").read_text().split()
    assert len(made) == len(set(made)) <= 2
    assert pids <= set(made)


def test_a_class_that_cannot_be_made_says_why(call):
    class Model:
        def __init__(self):
            raise ValueError("no weights")

        def __call__(self, _in, _out):
            return None

    with pytest.raises(
        WorkerStartError, match=r"the instance of .*Model could not be made .*: ValueError: no weights"
    ) as e:
        call(Model)
    assert 'raise ValueError("no weights")' in str(e.value.__cause__)


def test_a_class_whose_making_kills_the_process_is_a_start_error(call):
    class Model:
        def __init__(self):
            os._exit(7)

        def __call__(self, _in, _out):
            return None

    with pytest.raises(WorkerStartError, match="its process ended with exit code 7"):
        call(Model)


_MAIN = """
    import sys
    from pathlib import Path
    from typing import TypedDict
    from file_dataset._workers.pool import Workers

    print("top level")
    here = Path(sys.argv[1])
    factor = 3
    Outputs = TypedDict("Outputs", {"output.mha": Path})

    class MyError(Exception):
        pass

    def helper(value):
        return value * factor

    def fn(input_dir, output_dir, row) -> Outputs:
        if row["fails"]:
            raise MyError("mine")
        Outputs({"output.mha": output_dir})
        return {"output.mha": output_dir / str(helper(row["id"]))}

    with Workers(fn, count=2, by_keyword=True, takes_row=True) as workers:
        futures = [workers.submit(here, here, {"id": number, "fails": False}) for number in range(3)]
        print([Path(future.result()["output.mha"]).name for future in futures])
        try:
            workers.submit(here, here, {"id": 0, "fails": True}).result()
        except MyError as exc:
            print("caught", exc)
    with Workers(lambda i, o: factor, count=1, by_keyword=False, takes_row=False) as workers:
        print(workers.submit(here, here, None).result())
"""


@pytest.mark.parametrize("kind", ["script", "notebook"])
def test_main_travels_by_value_and_is_not_run_again(tmp_path, kind):
    command = script(tmp_path, _MAIN)
    if kind == "notebook":  # a cell: there is no file of its name
        cell = "import sys; exec(compile(open(sys.argv[2]).read(), '<cell>', 'exec'), sys.modules['__main__'].__dict__)"
        command = [sys.executable, "-c", cell, str(tmp_path), command[1]]
    else:
        command.append(str(tmp_path))
    assert run(command).stdout.splitlines() == ["top level", "['0', '3', '6']", "caught mine", "3"]


def test_a_pipeline_with_workers_runs_in_a_script_without_a_main_guard(tmp_path):
    text = """
        import ctypes, os
        from pathlib import Path
        import pandas as pd
        import file_dataset

        print("top level", flush=True)
        here = Path(__file__).parent
        for name in "abc":
            (here / name).write_text(name)

        def fn(input_dir, output_dir, row):
            if row["age"] == 2:
                ctypes.string_at(0)
            text = (input_dir / "in.txt").read_text()
            (output_dir / "out.txt").write_text(f"{text} {row['age']}")
            return {"out.txt": output_dir / "out.txt"}

        frame = pd.DataFrame({"id": list("abc"), "in.txt": [str(here / name) for name in "abc"], "age": [1, 2, 3]})
        run = file_dataset.Pipeline(fn, write_options={"into_path": here / "out"}, workers=2, progress=False).run
        result = run(frame)
        print([Path(at).read_text() for at in result.manifest["out.txt"]])
        print(result.failures[["id", "error_stage", "error_type"]].to_numpy().tolist())
        """
    assert run(script(tmp_path, text)).stdout.splitlines() == [
        "top level",
        "['a 1', 'c 3']",
        "[['b', 'fn', 'WorkerDiedError']]",
    ]


_SPAWNED = """
    import enum, multiprocessing, sys, typing
    from pathlib import Path
    from file_dataset._workers.pool import Workers

    T = typing.TypeVar("T")

    class Outputs(typing.TypedDict):
        out: int

    class Kind(enum.Enum):
        A = 1

    class MyError(Exception):
        pass

    class Base(typing.Generic[T]):
        pass

    class Fn(Base[int]):
        def __call__(self, input_dir, output_dir, row) -> Outputs:
            if row["kind"] is Kind.A:
                raise MyError(f"of {helper(1)}")
            return {"out": helper(row["value"])}

    def helper(value):
        return value + 1

    def job():
        here = Path()
        with Workers(Fn, count=1, by_keyword=True, takes_row=True) as workers:
            print(__name__, workers.submit(here, here, {"kind": None, "value": 2}).result(60))
            try:
                workers.submit(here, here, {"kind": Kind.A}).result(60)
            except MyError as exc:
                print("caught", exc, flush=True)

    if __name__ == "__main__":
        child = multiprocessing.get_context(sys.argv[1]).Process(target=job)
        child.start()
        child.join(100)
        sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["script", "module"])
def test_main_travels_by_value_from_children_of_multiprocessing(tmp_path, how, kind):
    command = script(tmp_path, _SPAWNED)
    if kind == "module":
        command = [sys.executable, "-m", "script"]
    name = "__main__" if how == "fork" else "__mp_main__"
    assert run([*command, how], cwd=tmp_path).stdout.splitlines() == [f"{name} {{'out': 3}}", "caught of 2"]


def test_fn_of_a_module_that_was_loaded_from_a_path_travels_by_value(call, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("import loaded_by_path\n\ndef double(value): return 2 * value\n")
    text = "def fn(input_dir, output_dir): return beside.double(4), beside.__name__, beside.loaded_by_path is beside\n"
    (tmp_path / "job.py").write_text(text)
    for name, file in [("loaded_by_path", "elsewhere.py"), ("loaded_job", "job.py")]:
        spec = importlib.util.spec_from_file_location(name, tmp_path / file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    module.beside = sys.modules["loaded_by_path"]
    assert call(module.fn) == (8, "loaded_by_path", True)


def test_fn_that_a_worker_can_import_travels_by_name():
    assert len(_pickling.dumps_with_files(textwrap.dedent)) < 100


# Programs that are no plain Python


@pytest.fixture
def pipeline(tmp_path):
    def make(**kwargs):
        write_options = {"into_path": tmp_path / "out"}
        return file_dataset.Pipeline(lambda _in, _out: None, write_options=write_options, **kwargs)

    return make


@pytest.mark.parametrize("asked", [{"workers": 1}, {"fn_timeout_s": 5}], ids=str)
def test_a_frozen_program_is_refused_workers(pipeline, monkeypatch, asked):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    pipeline()
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"frozen.*workers=0"):
        pipeline(**asked)


def test_a_program_that_is_started_in_place_of_a_worker_starts_none(tmp_path):
    """An embedded interpreter, or Nuitka's, whose sys.executable is the program."""
    text = """
        import os, sys
        from pathlib import Path
        import pandas as pd
        import file_dataset

        here = Path(__file__).parent
        with (here / "mains").open("a") as file:
            print(os.getpid(), file=file)
        assert len((here / "mains").read_text().split()) < 4
        sys.executable = str(here / "program")

        def fn(input_dir, output_dir):
            return {}

        frame = pd.DataFrame({"id": ["1"], "a.py": [__file__]})
        file_dataset.Pipeline(fn, write_options={"into_path": here / "out"}, workers=1).run(frame)
        """
    command = script(tmp_path, text)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nexec {' '.join(command)}\n")
    program.chmod(0o755)
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "ran this program instead of fn" in done.stderr
    assert "RunStoppedError: no worker can start" in done.stderr
    assert len((tmp_path / "mains").read_text().split()) == 2


def test_fn_can_have_workers_of_its_own(call):
    def fn(input_dir, output_dir):
        from file_dataset._workers.interpreter import check_interpreter
        from file_dataset._workers.pool import Workers

        check_interpreter()
        with Workers(lambda _in, _out: "inner", count=1, by_keyword=False, takes_row=False) as workers:
            return workers.submit(input_dir, output_dir, None).result(60)

    assert call(fn, by_keyword=True) == "inner"


def test_workers_are_refused_where_eventlet_has_patched_os(pipeline, monkeypatch):
    patcher = types.SimpleNamespace(is_monkey_patched={"os": True}.get)
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"eventlet.*workers=0"):
        pipeline(workers=1)


def test_workers_run_under_gevent_while_other_greenlets_do(tmp_path):
    pytest.importorskip("gevent")
    text = """
        from gevent import monkey
        monkey.patch_all()
        import os, sys, time
        from pathlib import Path
        import gevent
        from file_dataset._workers.pool import Workers
        from file_dataset._workers.process import FnTimeoutError, WorkerDiedError, WorkerStartError

        ticks = []

        def tick():
            while True:
                gevent.sleep(0.01)
                ticks.append(1)

        gevent.spawn(tick)

        def fn(input_dir, output_dir, row):
            if row["does"] == "die":
                os._exit(3)
            time.sleep(1000 if row["does"] == "hang" else 0.3)
            return row["does"]

        def called(does):
            try:
                return workers.submit(Path(), Path(), {"does": does}).result(60)
            except (FnTimeoutError, WorkerDiedError, WorkerStartError) as exc:
                return type(exc).__name__

        with Workers(fn, count=1, by_keyword=True, takes_row=True, timeout_s=3) as workers:
            print(called("a"), called("b"), called("die"))
            before = len(ticks)
            print(called("hang"), len(ticks) > before + 20)
            python, sys.executable = sys.executable, "/nowhere"
            print(called("no process"))
            gevent.sleep(0.1)
            sys.executable = python
            print(called("c"))  # its thread had none to wait for
        """
    said = run(script(tmp_path, text)).stdout.splitlines()
    assert said == ["a b WorkerDiedError", "FnTimeoutError True", "WorkerStartError", "c"]


# What fn meets


def test_the_working_directory_is_the_parents_again_for_every_row(start, tmp_path, monkeypatch):
    def fn(_in, out):
        before = os.getcwd()
        (out / "elsewhere").mkdir(exist_ok=True)
        os.chdir(out / "elsewhere")
        return before

    workers = start(fn)
    assert [workers.submit(tmp_path, tmp_path, None).result(_SOON_S) for _ in range(2)] == [os.getcwd()] * 2
    # the parent may move on, and an idle worker sits in no directory of a row
    monkeypatch.chdir(tmp_path)
    assert workers.submit(tmp_path, tmp_path, None).result(_SOON_S) == str(tmp_path)


def test_an_idle_worker_is_not_where_fn_went(start, tmp_path):
    def fn(_in, out):
        os.chdir(out)
        return os.getpid()

    pid = start(fn).submit(tmp_path, tmp_path, None).result(_SOON_S)
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
        import warnings
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
    assert [future.result(_SOON_S) for future in futures] == [[6, 4], [6, 4]]


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
        workers.submit(tmp_path, tmp_path, {"how": how}).result(_SOON_S)
        for how in ("return", "exit", "raise", "return")
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
        start(fn).submit(tmp_path, tmp_path, None).result(_SOON_S)


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
            first.result(_SOON_S)
    else:
        os.kill(first.result(_SOON_S), signal.SIGKILL)
        assert until(lambda: len(living(first.result())) == 1)  # the fork
    before = int((tmp_path / "pid").read_text())
    assert workers.submit(tmp_path, tmp_path, {"first": False, "dies": False}).result(_SOON_S) != before
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


# What fn prints, logs and warns of


def test_what_fn_prints_is_printed_here_before_its_result_is(start, tmp_path, capsys):
    def fn(_in, _out):
        print("from", "fn")
        print("no end of line", end="", file=sys.stderr)
        sys.stderr.write(" \N{MICRO SIGN}\udc80")

    workers = start(fn)
    for _ in range(3):
        workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
        shown = capsys.readouterr()
        assert (shown.out, shown.err) == ("from fn\n", "no end of line \N{MICRO SIGN}\\udc80")


def test_what_native_code_and_children_write_is_printed_here_too(call, capsys):
    def fn(_in, _out):
        import ctypes

        os.write(1, b"raw\n")
        libc = ctypes.CDLL(None)
        libc.printf(b"by C, ")  # which keeps it until a line, or the program, ends
        subprocess.run(["sh", "-c", "echo by a child >&2"], check=True)

    call(fn)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("raw\nby C, ", "by a child\n")


def test_what_fn_prints_is_seen_while_it_runs(start, tmp_path, capsys):
    def fn(_in, out):
        print("begun")
        while not (out / "go").exists():
            time.sleep(0.001)

    future = start(fn).submit(tmp_path, tmp_path, None)
    shown = []
    assert until(lambda: shown.append(capsys.readouterr().out) or "".join(shown) == "begun\n")
    assert not future.done()
    (tmp_path / "go").touch()
    future.result(_SOON_S)


def test_more_than_a_pipe_holds_is_printed_whole(call, capsys):
    call(lambda _in, _out: print("x" * 300_000))
    assert len(capsys.readouterr().out) == 300_001


def test_closed_streams_cost_nothing(start, tmp_path, monkeypatch):
    def fn(_in, _out):
        print("hidden")
        sys.stdout.close()
        return "ran"

    monkeypatch.setattr(sys, "stdout", None)
    assert start(fn).submit(tmp_path, tmp_path, None).result(_SOON_S) == "ran"


def test_what_a_stream_here_cannot_show_is_escaped_and_what_it_raises_costs_nothing(start, tmp_path, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise RuntimeError("the user's own")

    workers = start(lambda _in, _out: print("\N{MICRO SIGN}m"))
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    monkeypatch.setattr(sys, "stdout", Broken())
    workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    assert shown.buffer.getvalue() == b"\\xb5m\n"


def test_log_records_are_handled_here_at_the_levels_set_here(start, tmp_path, caplog):
    def fn(_in, _out):
        log = logging.getLogger("of.fn")
        log.debug("too low")
        log.info("volume %d", 7, extra={"lock": threading.Lock(), "patient": "p1"})
        logging.getLogger("of.other").info("other")
        try:
            raise ValueError("inner")  # noqa: TRY301  # logged here
        except ValueError:
            log.exception("failed")

    workers = start(fn)
    with caplog.at_level(logging.INFO, "of.fn"):
        workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    first, second = caplog.records
    assert (first.name, first.levelname, first.getMessage(), first.patient) == ("of.fn", "INFO", "volume 7", "p1")
    assert first.process != os.getpid()
    assert "lock" in first.lock
    assert "ValueError: inner" in caplog.text
    assert second.funcName == "fn"
    caplog.clear()
    # levels that change later count too, both ways
    with caplog.at_level(logging.INFO):
        workers.submit(tmp_path, tmp_path, None).result(_SOON_S)
    assert [record.getMessage() for record in caplog.records] == ["volume 7", "other", "failed"]


def test_warnings_are_issued_here_under_the_filters_set_here(start, tmp_path):
    class OurWarning(UserWarning):
        pass

    def fn(_in, _out, row):
        class OurWarning(UserWarning):  # stands for one of a module that only the worker has loaded
            pass

        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("odd", OurWarning, stacklevel=1)
        return "ran"

    workers = start(fn, takes_row=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        workers.submit(tmp_path, tmp_path, {}).result(_SOON_S)
    line = fn.__code__.co_firstlineno + 4
    assert [(at.category, str(at.message), at.filename, at.lineno) for at in caught] == [
        (DeprecationWarning, "old", __file__, line),
        (UserWarning, "odd", __file__, line + 1),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        workers.submit(tmp_path, tmp_path, {}).result(_SOON_S)
    assert [str(at.message) for at in caught] == ["odd"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning, match="old"):
            workers.submit(tmp_path, tmp_path, {}).result(_SOON_S)


def test_a_filter_of_a_category_that_a_worker_has_not_loaded_holds_and_loads_nothing(start, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "odd_library.py").write_text(
        "import warnings\n"
        "class OddWarning(Warning): pass\n"
        "class OdderWarning(OddWarning): pass\n"
        "def work(): warnings.warn('odd', OdderWarning)\n"
    )
    import odd_library

    def fn(_in, _out, row):
        if not row["works"]:
            return "odd_library" in sys.modules
        import odd_library

        odd_library.work()
        return "ran"

    workers = start(fn, takes_row=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", odd_library.OddWarning)
        assert workers.submit(tmp_path, tmp_path, {"works": False}).result(_SOON_S) is False
        with pytest.raises(odd_library.OdderWarning):
            workers.submit(tmp_path, tmp_path, {"works": True}).result(_SOON_S)
    monkeypatch.delitem(sys.modules, "odd_library")


def test_a_filter_by_module_sees_the_module_that_warned(tmp_path):
    text = """
        import warnings
        from pathlib import Path
        from file_dataset._workers.pool import Workers

        def fn(input_dir, output_dir):
            warnings.warn("old", DeprecationWarning)

        with Workers(fn, count=1, by_keyword=True, takes_row=False) as workers:
            workers.submit(Path(), Path(), None).result()
        """
    # Python shows this category for code of `__main__` alone
    assert "script.py:7: DeprecationWarning: old" in run(script(tmp_path, text)).stderr


def test_whole_messages_are_taken_and_parts_left():
    data = messages.packed("a", 1) + messages.packed("b")
    arrived = bytearray()
    seen = []
    for byte in data:
        arrived.append(byte)
        seen += messages.unpacked(arrived)
    assert seen == [("a", 1), ("b",)]
    assert not arrived
