"""What stops a run whatever `on_failure` is: keys, a target or a disk that no row can use, and `max_failures`."""

# what a Pipeline was given is shown nowhere else
# ruff: noqa: SLF001

from __future__ import annotations

import dataclasses
import errno
import threading
import time

import pytest
from helpers import forward, until
from servers.faults import ACCESS_DENIED, INVALID_ACCESS_KEY_ID, SLOW_DOWN

from file_dataset import InvalidDatasetError, Pipeline, RunStoppedError
from file_dataset._verdict import allowed_failures


def test_refused_credentials_stop_the_run_beside_another_failure_of_the_row(faults, frame, pipeline):
    faults.fail("GetObject", INVALID_ACCESS_KEY_ID, key="in/1", times=None)
    both = frame.assign(**{"0.txt": "s3://bucket/none"})[["id", "0.txt", "a.txt"]]
    with pytest.raises(RunStoppedError, match="every later row would fail in the same way"):
        pipeline().run(both)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    "into_path", ["s3://no-such-bucket/out", "s3://bucket/out"], ids=["NoSuchBucket", "AccessDenied"]
)
def test_a_target_that_takes_nothing_of_the_first_row_stops_the_run(faults, frame, pipeline, into_path, prefetch):
    faults.fail("PutObject", ACCESS_DENIED, key="out/1/upper.txt", times=None)
    with pytest.raises(RunStoppedError, match="the target store refused every output") as caught:
        pipeline(into_path=into_path, prefetch=prefetch).run(frame)
    assert caught.value.result.failures["id"].tolist() == [1]
    if not prefetch:
        assert faults.count("PutObject") == 1


def test_a_first_row_of_which_one_output_is_refused_costs_that_row(faults, frame, pipeline):
    def two(input_dir, output_dir):
        return {"a.txt": input_dir / "a.txt", "b.txt": input_dir / "a.txt"}

    faults.fail("PutObject", ACCESS_DENIED, key="out/1/b.txt", times=None)
    assert pipeline(two)(frame)["id"].tolist() == [2, 3, 5]


def test_only_the_first_row_that_uploads_can_tell_that_the_target_takes_nothing(faults, frame, pipeline):
    faults.fail("PutObject", SLOW_DOWN, key="out/1/upper.txt", times=None)
    faults.fail("PutObject", ACCESS_DENIED, key="out/3/upper.txt", times=None)
    assert pipeline()(frame)["id"].tolist() == [5]


def test_a_first_upload_that_is_refused_holds_the_others_back_and_lets_them_go(paced, on, six):
    """Row 2 is refused before row 1 is stored, which tells that the target takes something."""
    gate = paced.hold("PutObject", "out/1/a.txt")
    paced.fail("PutObject", ACCESS_DENIED, key="out/2/a.txt", times=None)
    threading.Thread(
        target=lambda: (until(lambda: paced.count("PutObject", "out/2/a.txt")), time.sleep(0.3), gate.set())
    ).start()
    assert on()(six)["id"].tolist() == [1, 3, 4, 5, 6]


def test_a_full_disk_stops_the_run_and_says_how_much_is_needed(frame, pipeline):
    def fill(input_dir, output_dir):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunStoppedError, match=r"\(3 bytes here\).* \d+ bytes are free; temp_dir="):
        pipeline(fill).run(frame)


def test_a_missing_temp_dir_is_a_clear_stop(frame, pipeline, tmp_path):
    with pytest.raises(InvalidDatasetError, match="exists and can be written") as caught:
        pipeline(temp_dir=tmp_path / "none").run(frame)
    assert len(caught.value.result.unprocessed_rows) == len(frame)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        ({"max_failures": 1}, "max_failures=1"),
        ({"max_failed_fraction": 0.2}, "max_failed_fraction=0.2"),
        ({"max_failed_fraction": 0.39}, "max_failed_fraction=0.39"),
        ({"max_failures": 1, "max_failed_fraction": 0.4}, "max_failures=1"),
        ({"max_failures": 2, "max_failed_fraction": 0.2}, "max_failed_fraction=0.2"),
    ],
    ids=str,
)
def test_more_failures_than_allowed_stop_the_run(frame, pipeline, limits, exceeded, prefetch):
    with pytest.raises(RunStoppedError) as caught:
        pipeline(prefetch=prefetch, **limits).run(frame)
    text = str(caught.value)
    assert f"2 of 5 rows failed, {exceeded} allows 1: " in text
    assert "1 at download: FileNotFoundError (NoSuchKey), 1 at fn: ValueError" in text
    result = caught.value.result
    assert (result.failures["id"].tolist(), result.manifest["id"].tolist()) == ([2, 4], [1, 3])
    assert result.unprocessed_rows["id"].tolist() == [5]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_failures": 2},
        {"max_failures": 7},
        {"max_failed_fraction": 0.4},
        {"max_failed_fraction": 1},
        {"max_failures": 2, "max_failed_fraction": 0.4},
    ],
    ids=str,
)
def test_as_many_failures_as_allowed_do_not(frame, pipeline, limits):
    assert len(pipeline(**limits)(frame)) == 3


def test_a_share_allows_what_raise_if_dropped_allows():
    """0.29 * 100 is 28.999999999999996, and 0.07 * 100 is 7.000000000000001."""
    base = Pipeline(forward, write_options={"into_path": "out"})._settings
    for total in (1, 3, 10, 97, 100, 1000):
        for count in range(total + 1):
            settings = dataclasses.replace(base, max_failed_fraction=count / total)
            assert allowed_failures(settings, total) == count
    for hundredth in range(101):
        settings = dataclasses.replace(base, max_failed_fraction=hundredth / 100)
        assert allowed_failures(settings, 100) == hundredth
