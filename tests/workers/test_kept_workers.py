"""Worker processes that stay from run to run: those of a Pipeline that was pickled, as Ray calls it batch by batch."""

# the flag that a run is under is not public
# ruff: noqa: SLF001

from __future__ import annotations

import os
import pickle
import signal

import pandas as pd
import pytest
from helpers import until

import file_dataset
from file_dataset._workers import pool


@pytest.fixture
def frame(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    return pd.DataFrame({"id": [1, 2], "a.txt": [str(tmp_path / "a.txt")] * 2})


@pytest.fixture
def pids(tmp_path, frame):
    """Run a pipeline over the frame and return the processes that fn ran in."""

    def run(pipeline):
        manifest = pipeline.run(frame).manifest
        return {int(open(at).read()) for at in manifest["pid.txt"]}  # noqa: PTH123  # short files

    return run


@pytest.fixture
def pipeline(tmp_path):
    def tell(input_dir, output_dir):
        (output_dir / "pid.txt").write_text(str(os.getpid()))
        return {"pid.txt": output_dir / "pid.txt"}

    return file_dataset.Pipeline(tell, write_options={"into_path": str(tmp_path / "out")}, workers=1, progress=False)


def again(pipeline):
    return pickle.loads(pickle.dumps(pipeline))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until_gone(pid):
    assert until(lambda: not is_alive(pid), 60)


def test_a_pipeline_of_this_process_leaves_no_process_behind(pipeline, pids):
    (first,) = pids(pipeline)
    assert not is_alive(first)
    assert pids(pipeline) != {first}


def test_a_pickled_pipeline_keeps_its_process_for_the_next_run(pipeline, pids):
    (first,) = pids(again(pipeline))
    assert pids(again(pipeline)) == {first}


def test_one_pickle_is_one_pipeline_per_process(pipeline):
    payload = pickle.dumps(pipeline)
    assert pickle.loads(payload) is pickle.loads(payload)


def test_another_pipeline_has_a_process_of_its_own(pipeline, pids, tmp_path):
    other = pipeline._with(write_options={"into_path": str(tmp_path / "elsewhere")})
    assert pids(again(pipeline)) != pids(again(other))


def test_a_kept_process_that_idles_ends_and_the_next_run_starts_another(pipeline, pids, monkeypatch):
    monkeypatch.setattr(pool, "_IDLE_S", 0.05)
    kept = again(pipeline)
    (first,) = pids(kept)
    until_gone(first)
    (second,) = pids(kept)
    assert second != first


def test_a_kept_process_that_is_killed_costs_no_row(pipeline, pids):
    kept = again(pipeline)
    (first,) = pids(kept)
    os.kill(first, signal.SIGKILL)
    assert pids(kept) != {first}


def test_a_run_that_stops_keeps_no_process(pipeline, frame, pids):
    kept = again(pipeline)
    (first,) = pids(kept)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept._with(progress=interrupt).run(frame)
    assert not is_alive(first)


def test_a_forked_child_starts_a_process_of_its_own(pipeline, pids):
    kept = again(pipeline)
    (first,) = pids(kept)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, str(pids(kept).pop()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert int(os.read(read, 20)) != first
    os.close(read)
    assert pids(kept) == {first}
