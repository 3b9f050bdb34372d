"""Workers of programs that are frozen, patched, or started in place of a worker.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows

from __future__ import annotations

import subprocess
import sys
import types

import pytest
from one_worker import run, script

import file_dataset
from file_dataset._workers.pool import Workers


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
