"""Directories as inputs, on a real Ray of this machine."""

from __future__ import annotations

import pandas as pd
import pytest

import file_dataset
from file_dataset import InvalidDatasetError

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]


def count(input_dir, output_dir):
    names = sorted(path.relative_to(input_dir).as_posix() for path in input_dir.rglob("*") if path.is_file())
    (output_dir / "n.txt").write_text(" ".join(names))
    return {"n.txt": output_dir / "n.txt"}


@pytest.fixture
def frame(bucket):
    for key in ("in/1/a.dcm", "in/1/b/c.dcm", "in/10/x.dcm"):
        bucket.put(key, b"x")
    return pd.DataFrame({"id": ["1", "10", "2"], "series": [bucket.url(f"in/{n}/") for n in (1, 10, 2)]})


def test_run_pipeline_reads_directories_and_knows_each_object(frame, bucket, options, local_ray, tmp_path):
    pipeline = file_dataset.Pipeline(count, into_path=bucket.url("out"), options=options, progress=False)
    result = file_dataset.ray.run_pipeline(pipeline, frame, batch_size=1, checkpoint=str(tmp_path / "done"))
    assert bucket.get("out/1/n.txt") == b"series/a.dcm series/b/c.dcm"
    assert bucket.get("out/10/n.txt") == b"series/x.dcm"
    assert result.failures["error_file"].tolist() == ["series"]
    assert sorted(result.inputs["file"]) == ["series/a.dcm", "series/b/c.dcm", "series/x.dcm"]
    bucket.put("in/10/y.dcm", b"y")
    plan = pipeline.plan(frame, checkpoint=tmp_path / "done", check_inputs=True)
    assert plan.rows["why"].tolist()[1:2] == ["series: y.dcm was not there"]
    assert plan.rows["state"].tolist() == ["same", "changed", "failed"]


def test_a_pipeline_in_map_batches_reads_local_directories(local_ray, tmp_path):
    (tmp_path / "in" / "b").mkdir(parents=True)
    (tmp_path / "in" / "b" / "1").write_text("1")
    pipeline = file_dataset.Pipeline(count, into_path=tmp_path / "out", progress=False)
    dataset = local_ray.data.from_pandas(pd.DataFrame({"id": ["1"], "series": [f"{tmp_path}/in/"]}))
    assert dataset.map_batches(pipeline, batch_format="pandas").count() == 1
    assert (tmp_path / "out/1/n.txt").read_text() == "series/b/1"


def test_blob_reader_refuses_directories_by_name_at_the_call(frame, options):
    with pytest.raises(InvalidDatasetError, match=r"series: .s3://.*/in/1/.: a directory .* is not one file"):
        file_dataset.ray.blob_reader(frame, 2, options, on_failure="drop")
