"""result.counts: requests made again, answers of a store that had too many, and seconds of each stage."""

import pickle
import time

import pytest
from servers.faults import SLOW_DOWN, Status

from file_dataset import Pipeline


def slow(input_dir, output_dir):
    """Fn: a.txt once more, after a while."""
    time.sleep(0.05)
    (output_dir / "a.txt").write_bytes((input_dir / "a.txt").read_bytes())
    return {"a.txt": output_dir / "a.txt"}


def test_a_run_counts_what_was_sent_again_and_what_the_store_refused(pipeline, frame, faults):
    faults.fail("GetObject", SLOW_DOWN, key="in/1", times=2)
    faults.fail("PutObject", Status(500, "InternalError"), key="out/3/a.txt")
    counts = pipeline(slow).run(frame[frame["id"] != 4]).counts
    assert (counts.retries, counts.throttles) == (3, 2)


def test_a_store_that_answers_at_once_is_asked_once(pipeline, frame):
    counts = pipeline(slow).run(frame).counts
    assert (counts.retries, counts.throttles) == (0, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_stage_has_the_sum_of_its_seconds(pipeline, frame, workers):
    counts = pipeline(slow, workers=workers).run(frame).counts
    assert counts.fn_s >= 4 * 0.05  # the fifth row's object is missing
    assert min(counts.download_s, counts.upload_s) > 0


def test_merged_results_have_the_sum(pipeline, frame, faults):
    faults.fail("GetObject", SLOW_DOWN, key="in/1")
    run = pipeline(slow)
    first = run.run(frame)
    second = run.run(first.failed_rows)
    merged = first.merge(second)
    assert merged.counts == first.counts + second.counts
    assert merged.counts.retries == 1


def test_rows_that_a_checkpoint_has_add_nothing(pipeline, frame, faults, tmp_path):
    faults.fail("GetObject", SLOW_DOWN, key="in/1")
    run, good = pipeline(slow), frame[frame["id"] != 4]
    assert run.run(good, checkpoint=tmp_path / "checkpoint").counts.throttles == 1
    again = run.run(good, checkpoint=tmp_path / "checkpoint").counts
    assert (again.retries, again.throttles, again.fn_s) == (0, 0, 0)


def test_counts_travel_with_a_pickle_and_are_not_known_of_an_older_one(pipeline, frame):
    result = pipeline(slow).run(frame)
    assert pickle.loads(pickle.dumps(result)).counts == result.counts
    older = vars(result).copy()
    del older["counts"]
    loaded = object.__new__(type(result))
    loaded.__setstate__(older)
    assert loaded.counts is None


def test_a_loaded_result_has_none(pipeline, frame, tmp_path):
    result = pipeline(slow).run(frame)
    result.save(tmp_path / "saved")
    assert type(result).load(tmp_path / "saved").counts is None


def test_boto3_s_engine_is_counted_too(frame, faults, fault_options):
    from dataclasses import replace

    faults.fail("GetObject", SLOW_DOWN, key="in/1", times=1)
    options = replace(fault_options, engine="boto3")
    counts = Pipeline(slow, into_path="s3://bucket/out/", options=options, progress=False).run(frame).counts
    assert (counts.retries, counts.throttles) == (1, 1)


def test_rows_that_run_beside_those_of_a_checkpoint_are_counted_once(pipeline, frame, faults, tmp_path):
    run, good = pipeline(slow), frame[frame["id"] != 4]
    run.run(good.head(2), checkpoint=tmp_path / "checkpoint")
    faults.fail("GetObject", SLOW_DOWN, key="in/3")
    counts = run.run(good, checkpoint=tmp_path / "checkpoint").counts
    assert (counts.retries, counts.throttles) == (1, 1)
