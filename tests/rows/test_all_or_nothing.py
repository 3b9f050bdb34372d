"""The outputs of a row are stored all or none, and never on top of an input."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import forward, impatient_options

from file_dataset import InvalidDatasetError, Pipeline


def test_nothing_is_uploaded_when_one_output_is_missing(faults, frame, pipeline):
    def half(input_dir, output_dir):
        return {"a.txt": input_dir / "a.txt", "b.txt": output_dir / "none"}

    assert len(pipeline(half)(frame)) == 0
    assert faults.count("PutObject") == 0


def test_an_output_on_top_of_an_input_is_refused(faults, frame, pipeline):
    on_top = frame.assign(**{"a.txt": [f"s3://bucket/out/{n}/upper.txt" for n in range(1, 6)]})
    with pytest.raises(InvalidDatasetError, match="would replace inputs"):
        pipeline().run(on_top)
    assert not faults.requests


def test_an_output_that_nobody_promised_on_top_of_an_input_costs_its_row(faults, frame, pipeline):
    faults.put("s3://bucket/out/1/a.txt", b"precious")
    on_top = frame.assign(**{"a.txt": ["s3://bucket/out/1/a.txt", *frame["a.txt"][1:]]})
    result = pipeline(forward).run(on_top)
    assert result.failures["id"].tolist() == [1, 4]
    assert faults.body("s3://bucket/out/1/a.txt") == b"precious"


def test_local_outputs_on_top_of_local_inputs_are_refused_through_links_too(tmp_path):
    (tmp_path / "real/1").mkdir(parents=True)
    (tmp_path / "real/1/a.txt").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    frame = pd.DataFrame({"id": [1], "a.txt": [tmp_path / "real/1/a.txt"]})
    result = Pipeline(forward, write_options={"into_path": tmp_path / "link"}, progress=False).run(frame)
    assert result.failures["error_stage"].tolist() == ["upload"]


def test_an_input_behind_a_linked_directory_is_not_overwritten(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1").symlink_to(tmp_path / "data")
    frame = pd.DataFrame({"id": [1], "a.txt": [tmp_path / "data/a.txt"]})

    def change(input_dir, output_dir):
        (output_dir / "a.txt").write_text("changed")
        return {"a.txt": output_dir / "a.txt"}

    result = Pipeline(change, write_options={"into_path": tmp_path / "out"}, progress=False).run(frame)
    assert result.failures["error_stage"].tolist() == ["upload"]
    assert (tmp_path / "data/a.txt").read_text() == "precious"


def test_the_same_url_in_another_store_is_another_object(own_faults, faults, pipeline):
    faults.put("s3://bucket/out/1/a.txt", b"here")
    own_faults.put("s3://bucket/other", b"")
    frame = pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/out/1/a.txt"]})
    elsewhere = impatient_options(own_faults.endpoint_url)
    manifest = pipeline(forward, write={"options": elsewhere})(frame)
    assert manifest["a.txt"].tolist() == ["s3://bucket/out/1/a.txt"]
    assert own_faults.body("s3://bucket/out/1/a.txt") == b"here"


def test_an_output_whose_key_is_too_long_costs_its_row(frame, pipeline):
    def long_names(input_dir, output_dir):
        is_one = (input_dir / "a.txt").read_text() == "one"
        return {"/".join(["x" * 250] * 5) if is_one else "a.txt": input_dir / "a.txt"}

    result = pipeline(long_names).run(frame)
    assert result.failures[["id", "error_stage"]].to_numpy().tolist() == [[1, "upload"], [4, "download"]]
