"""result.counts of a run on Ray: what all of its tasks took, each batch once."""

from __future__ import annotations

import os
import signal
import time

import pandas as pd
import pytest
from servers.faults import SLOW_DOWN, Status

import file_dataset
from file_dataset import Pipeline, RunStoppedError
from file_dataset._effort import Counts

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]

on_ray = file_dataset.ray.run_pipeline
RUNS = "s3://bucket/runs/x/"


@pytest.fixture
def frame(faults):
    """Six rows of which the first needs a second request, and the last, in another batch, a third one."""
    for number in range(6):
        faults.put(f"s3://bucket/in/{number}", b"%d" % number)
    faults.fail("GetObject", SLOW_DOWN, key="in/0")
    faults.fail("GetObject", SLOW_DOWN, key="in/5")
    faults.fail("PutObject", Status(500, "InternalError"), key="out/5/a.txt")
    return pd.DataFrame({"id": range(6), "a.txt": [f"s3://bucket/in/{number}" for number in range(6)]})


def slow(input_dir, output_dir):
    """Fn: a.txt once more, after a while."""
    time.sleep(0.02)
    (output_dir / "a.txt").write_bytes((input_dir / "a.txt").read_bytes())
    return {"a.txt": output_dir / "a.txt"}


class Slow:
    """The same as a class, which runs in actors."""

    def __call__(self, input_dir, output_dir):
        return slow(input_dir, output_dir)


@pytest.fixture
def make(fault_options):
    def pipeline(fn=slow, **kwargs):
        return Pipeline(fn, into_path="s3://bucket/out/", options=fault_options, progress=False, **kwargs)

    return pipeline


@pytest.mark.parametrize(
    ("is_dataset", "fn", "how"),
    [(False, slow, {}), (False, Slow, {"concurrency": 2}), (True, slow, {"workers": 0})],
    ids=["frame", "actors", "dataset"],
)
def test_it_is_the_sum_of_all_batches(frame, make, local_ray, is_dataset, fn, how):
    # of two blocks Ray makes one task here, with batches of three rows and of one, and one block of their outcomes
    data = local_ray.data.from_pandas([frame[:2], frame[2:4], frame[4:]]) if is_dataset else frame
    counts = on_ray(make(fn), data, batch_size=3, **how).counts
    assert (counts.retries, counts.throttles) == (3, 2)
    assert counts.fn_s >= 6 * 0.02
    assert min(counts.download_s, counts.upload_s) > 0


def test_no_rows_took_nothing(frame, make):
    assert on_ray(make(outputs=["a.txt"]), frame.head(0)).counts == Counts()


@pytest.mark.slow  # Ray starts processes for it, of two seconds of CPU each
@pytest.mark.parametrize("is_dataset", [False, True], ids=["frame", "dataset"])
def test_rows_that_a_checkpoint_has_add_nothing(frame, make, local_ray, is_dataset):
    def given(rows):
        return local_ray.data.from_pandas(rows) if is_dataset else rows

    first = on_ray(make(), given(frame.head(3)), checkpoint=RUNS, batch_size=2).counts
    assert (first.retries, first.throttles) == (1, 1)
    second = on_ray(make(), given(frame), checkpoint=RUNS, batch_size=2).counts
    assert (second.retries, second.throttles) == (2, 1)
    third = on_ray(make(), given(frame), checkpoint=RUNS, batch_size=2).counts
    assert third == Counts()


def test_a_run_that_is_stopped_has_what_its_batches_took(frame, make):
    frame.loc[1, "a.txt"] = "s3://bucket/missing"
    with pytest.raises(RunStoppedError) as stopped:
        on_ray(make(on_failure="raise"), frame, batch_size=6)
    counts = stopped.value.result.counts
    assert counts.throttles >= 1
    assert counts.download_s > 0


@pytest.mark.slow
def test_a_task_that_ray_runs_again_is_counted_once(frame, make, faults, tmp_path):
    """What the attempt took that died with its process is not known."""
    faults.fail("GetObject", SLOW_DOWN, key="in/0", nth=3)
    flag = tmp_path / "killed"

    def dies_once(input_dir, output_dir):
        if (input_dir / "a.txt").read_text() == "1" and not flag.exists():
            flag.touch()
            os.kill(os.getppid(), signal.SIGKILL)  # the parent of fn's process is Ray's
            time.sleep(60)
        return slow(input_dir, output_dir)

    counts = on_ray(make(dies_once, prefetch=0), frame, batch_size=3).counts
    assert flag.exists()
    assert faults.count("GetObject", "in/0") == 4  # two attempts, each with a request that was refused
    assert (counts.retries, counts.throttles) == (3, 2)
