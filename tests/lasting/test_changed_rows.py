"""Which rows of a frame have files that are no longer what a result's run has read."""

from __future__ import annotations

import os

import pandas as pd
import pytest
from helpers import forward

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline, changed_rows
from file_dataset._checkpoint import inputs as module


@pytest.fixture
def inputs(frame, fault_options):
    pipeline = Pipeline(forward, into_path="s3://bucket/out/", options=fault_options, progress=False)
    return pipeline.run(frame).inputs


def test_one_head_a_file_finds_those_that_were_overwritten_or_are_gone(faults, frame, inputs, fault_options):
    faults.put("s3://bucket/in/3", b"ROW 3")
    fault_options.s3_client.delete_object(Bucket="bucket", Key="in/5")
    faults.reset()
    found = changed_rows(frame, inputs, options=fault_options)
    assert (faults.count("HeadObject"), faults.count("GetObject")) == (5, 0)
    assert found["id"].tolist() == [3, 5]
    assert found["id"].dtype == frame["id"].dtype
    assert found["why"][0].startswith("a.txt: its ")
    assert "FileNotFoundError" in found["why"][1]


def test_etags_in_the_frame_save_the_heads(faults, frame, inputs, fault_options):
    etags = inputs["etag"].tolist()
    faults.reset()
    found = changed_rows(frame.assign(**{"a.txt.etag": [*etags[:4], "another"]}), inputs, options=fault_options)
    assert found["id"].tolist() == [5]
    assert faults.count("HeadObject") == 0


def test_another_location_needs_no_head(faults, frame, inputs, fault_options):
    frame.loc[[1, 2], "a.txt"] = ["s3://bucket/in/1", None]
    faults.reset()
    found = changed_rows(frame, inputs, options=fault_options)
    assert found["id"].tolist() == [2, 3]
    assert found["why"].tolist()[0] == "a.txt: it was read from s3://bucket/in/2"
    assert faults.count("HeadObject") == 3


def test_rows_that_came_and_rows_that_left_are_no_changed_ones(frame, inputs, fault_options):
    came = pd.DataFrame({"id": [9], "a.txt": ["s3://bucket/in/none"]})
    assert changed_rows(pd.concat([frame.tail(2), came]), inputs, options=fault_options).empty
    assert changed_rows(frame.head(0), inputs, options=fault_options).empty
    assert changed_rows(frame, inputs.head(0), options=fault_options).empty


def test_local_files_are_compared_by_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LINES_AT_ONCE", 3)  # rows of two files are never torn
    frame = pd.DataFrame({"id": list("abcd"), "a.txt": None, "b.txt": None})
    for row in range(4):
        for name in ("a.txt", "b.txt"):
            frame.loc[row, name] = str(tmp_path / f"{row}-{name}")
            (tmp_path / f"{row}-{name}").write_text("text")
    frame.loc[0, "b.txt"] = None
    inputs = Pipeline(lambda input_dir, output_dir: {"a.txt": input_dir / "a.txt"}, into_path=tmp_path / "out",
                      progress=False).run(frame).inputs  # fmt: skip
    assert changed_rows(frame, inputs).empty
    (tmp_path / "1-b.txt").write_text("longer text")
    os.utime(tmp_path / "2-a.txt", ns=(1, 1))
    frame.loc[0, "b.txt"] = str(tmp_path / "3-b.txt")
    found = changed_rows(frame, inputs)
    assert found["id"].tolist() == list("abc")
    assert found["why"][0] == "b.txt: it was not there"


def test_what_is_no_frame_of_inputs_is_refused(frame):
    with pytest.raises(InvalidDatasetError, match=r"give result\.inputs"):
        changed_rows(frame, frame)


def test_a_saved_result_knows_it_too(frame, inputs, fault_options, faults, tmp_path):
    pipeline = Pipeline(forward, into_path="s3://bucket/out/", options=fault_options, progress=False)
    pipeline.run(frame).save(tmp_path / "saved")
    faults.put("s3://bucket/in/4", b"ROW 4")
    loaded = file_dataset.PipelineResult.load(tmp_path / "saved")
    assert changed_rows(frame, loaded.inputs, options=fault_options)["id"].tolist() == [4]
