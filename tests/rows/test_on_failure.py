"""`on_failure`: failed rows are dropped, stay in the manifest, or stop the run."""

from __future__ import annotations

import threading
import time

import pandas as pd
import pytest
from helpers import forward, until
from servers.faults import Status
from servers.paced import number_of

from file_dataset import PipelineResult, RunStoppedError, _stopping
from file_dataset._pool import Pool


def test_recorded_failures_stay_in_the_manifest(frame, pipeline):
    manifest = pipeline(on_failure="record")(frame)
    assert manifest["id"].tolist() == [1, 2, 3, 4, 5]
    assert manifest["error_stage"].isna().tolist() == [True, False, True, False, True]
    assert manifest["upper.txt"].isna().tolist() == [False, True, False, True, False]
    assert {str(manifest[name].dtype) for name in manifest if name.startswith("error_")} == {"string"}


def test_recorded_failures_are_passed_on_and_fn_is_not_called(frame, pipeline):
    called = []

    def count(input_dir, output_dir):
        called.append(input_dir)
        return {"last.txt": input_dir / "upper.txt"}

    recorded = pipeline(on_failure="record")(frame)
    again = pipeline(count, into_path="s3://bucket/last", on_failure="record")(recorded)
    assert len(called) == 3
    assert again["error_stage"].dropna().tolist() == ["fn", "download"]
    result = pipeline(count, into_path="s3://bucket/last").run(recorded)
    assert result.manifest["id"].tolist() == [1, 3, 5]
    assert result.failures["id"].tolist() == [2, 4]


def test_a_recorded_manifest_gives_its_result_back(frame, pipeline):
    dropped, recorded = pipeline().run(frame), pipeline(on_failure="record")(frame)
    result = PipelineResult.from_recorded(recorded, input=frame)
    pd.testing.assert_frame_equal(result.manifest, dropped.manifest)
    pd.testing.assert_frame_equal(result.failures, dropped.failures)
    pd.testing.assert_frame_equal(result.failed_rows, dropped.failed_rows)


def test_a_recorded_run_joins_one_that_dropped(frame, pipeline):
    dropped = pipeline().run(frame)
    merged = dropped.merge(pipeline(on_failure="record").run(dropped.failed_rows))
    pd.testing.assert_frame_equal(merged.manifest, dropped.manifest)
    pd.testing.assert_frame_equal(merged.failures, dropped.failures)


def test_a_recorded_failure_is_no_failure_of_this_run(frame, pipeline):
    recorded = pipeline(on_failure="record")(frame)
    run = pipeline(lambda i, o: {"b.txt": i / "upper.txt"}, into_path="s3://bucket/b", max_failures=0).run
    assert run(recorded).failures["id"].tolist() == [2, 4]


def test_raise_stops_at_the_first_failure_and_carries_the_result(frame, pipeline):
    with pytest.raises(RunStoppedError, match="this text is bad") as caught:
        pipeline(on_failure="raise").run(frame)
    result = caught.value.result
    assert result.manifest["id"].tolist() == [1]
    assert result.failures["id"].tolist() == [2]
    assert result.unprocessed_rows["id"].tolist() == [3, 4, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_raise_stops_at_the_first_failure_in_input_order(paced, on, six, workers):
    """Row 3 has failed long before row 1 does, and row 4 is not begun: the rows before a failure are finished."""
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/3", times=None)
    paced.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt", times=None)
    gate = paced.hold("PutObject", "out/1/a.txt")
    threading.Thread(target=lambda: (until(lambda: paced.count("PutObject", "out/2/a.txt")), gate.set())).start()
    with pytest.raises(RunStoppedError, match=r"stopped at the first failure.*row 1") as caught:
        on(forward, on_failure="raise", workers=workers).run(six)
    result = caught.value.result
    assert result.failures["id"].tolist() == [1]
    # a later row that was stored all the same is listed
    assert {*result.manifest["id"], *result.unprocessed_rows["id"]} == {2, 3, 4, 5, 6}
    if not workers:  # they may have taken row 4 before the failure of row 3 was known
        assert not paced.count("PutObject", "out/4/a.txt")


def test_fn_begins_no_row_after_one_whose_failure_is_known(paced, on, six, tmp_path, monkeypatch):
    gate = paced.hold("PutObject", "out/1/a.txt")
    paced.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt", times=None)
    submit, uploads, called = Pool.submit, [], []

    def submitted(self, work, *args):
        future = submit(self, work, *args)
        if work.__name__ == "_store":
            uploads.append(future)
        return future

    monkeypatch.setattr(Pool, "submit", submitted)

    def look(input_dir, output_dir):
        called.append(number_of(input_dir))
        if called[-1] == 2:  # the failure comes while fn works
            gate.set()
            assert until(uploads[0].done)
        return forward(input_dir, output_dir)

    with pytest.raises(RunStoppedError):
        on(look, on_failure="raise", temp_dir=tmp_path).run(six)
    assert called == [1, 2]


def test_nothing_begins_after_a_row_whose_failure_is_known_while_an_earlier_row_is_not_done(paced, on, six):
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/2", times=None)
    gate = paced.hold("PutObject", "out/1/a.txt")
    called = []

    def look(input_dir, output_dir):
        called.append(number_of(input_dir))
        until(lambda: paced.count("GetObject", "in/3"))
        return forward(input_dir, output_dir)

    # the half second is for what must not begin
    threading.Thread(
        target=lambda: (until(lambda: paced.count("PutObject", "out/1/a.txt")), time.sleep(0.5), gate.set())
    ).start()
    with pytest.raises(RunStoppedError) as caught:
        on(look, on_failure="raise", prefetch=2).run(six)
    assert caught.value.result.manifest["id"].tolist() == called == [1]
    assert paced.count("GetObject", "in/5") == 0


def test_a_run_that_is_stopped_gives_up_the_downloads_of_later_rows(paced, on, six, tmp_path, monkeypatch):
    monkeypatch.setattr(_stopping, "GRACE_S", 600)
    paced.hold("GetObject", "in/2")
    paced.hold("GetObject", "in/3")

    def fail(input_dir, output_dir):
        until(lambda: paced.count("GetObject", "in/3"))
        raise ValueError("no")

    with pytest.raises(RunStoppedError) as caught:
        on(fail, on_failure="raise", temp_dir=tmp_path).run(six)
    assert not paced.overdue
    assert caught.value.result.unprocessed_rows["id"].tolist() == [2, 3, 4, 5, 6]
    assert list(tmp_path.iterdir()) == []
