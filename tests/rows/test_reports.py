"""What a run shows while it works: progress, log lines, and no secret."""

# what a Pipeline was given is shown nowhere else
# ruff: noqa: SLF001

from __future__ import annotations

import logging

import pytest
from helpers import forward, upper

from file_dataset import InvalidDatasetError, Pipeline, RunStoppedError


def test_progress_is_told_row_by_row(frame, fault_options):
    seen = []
    Pipeline(upper, write_options={"into_path": "s3://bucket/out"}, options=fault_options, progress=seen.append).run(
        frame
    )
    assert [str(now) for now in seen][-1] == "5 of 5 rows done, 2 dropped"
    assert len(seen) == 5


@pytest.mark.parametrize("workers", [0, 1])
def test_fns_traceback_is_logged_once_with_the_rows_id(frame, pipeline, caplog, workers):
    pipeline(workers=workers).run(frame)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.WARNING
    assert "row 2 failed at fn" in record.message
    assert "this text is bad" in caplog.text
    assert caplog.text.count('raise ValueError("this text is bad")') == 1


def test_no_secret_is_in_a_log_or_an_error(faults, frame, fresh_options, caplog):
    caplog.set_level(logging.DEBUG, logger="file_dataset")
    faults.expire("AKIDTEST", nth=2)
    pipeline = Pipeline(upper, write_options={"into_path": "s3://bucket/out"}, options=fresh_options, progress=False)
    with pytest.raises(RunStoppedError) as caught:
        pipeline.run(frame)
    result = caught.value.result
    shown = [caplog.text, str(caught.value), repr(caught.value), repr(pipeline), repr(fresh_options), repr(result)]
    shown += [result.failures.to_string(), result.manifest.to_string()]
    assert not [text for text in shown if "secrettest" in text]


def test_no_repr_shows_the_environment_of_workers():
    one = Pipeline(forward, write_options={"into_path": "out"}, workers=1, worker_env={"TOKEN": "secrettest"})
    assert "secrettest" not in repr(one) + repr(one._settings)
    with pytest.raises(InvalidDatasetError) as refused:
        Pipeline(forward, write_options={"into_path": "out"}, workers=1, worker_env={"TOKEN": b"secrettest"})
    assert "secrettest" not in str(refused.value)
