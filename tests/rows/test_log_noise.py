"""What failed rows leave in the log: the first of each kind in full, the rest as a number."""

from __future__ import annotations

import logging
import pickle

import pandas as pd
import pytest

from file_dataset import Pipeline


@pytest.fixture
def frame(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    return pd.DataFrame({"id": range(400), "a.txt": [str(tmp_path / "a.txt")] * 400})


@pytest.fixture
def run(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="file_dataset")

    def make(fn, frame, **kwargs):
        Pipeline(fn, write_options={"into_path": tmp_path / "out"}, progress=False, **kwargs).run(frame)
        return [record for record in caplog.records if record.levelno == logging.WARNING]

    return make


def fails(input_dir, output_dir, row):
    if row["id"] % 2:
        raise ValueError("odd")
    raise ValueError("even")  # the same type, another line


@pytest.mark.parametrize("workers", [0, 2])
def test_five_rows_of_a_kind_are_logged_and_the_rest_is_counted(frame, run, caplog, workers):
    records = run(fails, frame, workers=workers)
    assert sum(record.exc_info is not None for record in records) == 10  # two lines that raise
    closing = [record.message for record in records if record.exc_info is None]
    assert [message.split(":")[0] for message in closing] == [
        "195 more rows failed like this; result.failures has them"
    ] * 2
    assert sorted(message.rsplit(" ", 1)[1] for message in closing) == ["even", "odd"]
    assert len(caplog.text.splitlines()) < 180


def test_files_that_are_not_there_are_counted_too(tmp_path, run):
    frame = pd.DataFrame({"id": range(100), "a.txt": [str(tmp_path / "none")] * 100})
    records = run(fails, frame)
    assert len(records) == 6
    assert records[-1].message.startswith("95 more rows failed like this")


def test_twenty_rows_are_logged_in_full_however_many_kinds_there_are(frame, run):
    def differs(input_dir, output_dir, row):
        raise type(f"Error{row['id'] % 50}", (Exception,), {})("no")

    records = run(differs, frame)
    assert sum(record.exc_info is not None for record in records) == 20
    assert len(records) == 20 + 8 + 1
    counts = [int(record.message.split(" ")[0]) for record in records if record.exc_info is None]
    assert sum(counts) == 380
    assert "in 42 other ways" in records[-1].message


def test_a_run_with_few_failures_counts_nothing(frame, run):
    assert len(run(fails, frame.iloc[:6])) == 6


def test_the_batches_of_a_process_are_one_run(frame, tmp_path, caplog):
    """Each batch of Ray's is a run of a pipeline that came by pickle; 50 of them must not log 50 times as much."""
    made = Pipeline(fails, write_options={"into_path": tmp_path / "out"}, progress=False)
    pipeline = pickle.loads(pickle.dumps(made))
    for start in range(0, 400, 8):
        pipeline.run(frame.iloc[start : start + 8])
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(record.exc_info is not None for record in records) <= 10
    assert sum("more rows failed" in record.message for record in records) <= 8  # at ten times as many, line by line
