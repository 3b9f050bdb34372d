"""Directories that fn returns where it runs elsewhere: in worker processes, and on Ray."""

from __future__ import annotations

import pandas as pd
import pytest

import file_dataset
from file_dataset import Pipeline


@pytest.fixture
def frame(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.txt").write_text(f"row {number}")
    return pd.DataFrame({"id": [1, 2], "a.txt": [str(tmp_path / f"{number}.txt") for number in (1, 2)]})


def split(input_dir, output_dir):
    for name in ("0001", "sub/0002"):
        path = output_dir / "series" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((input_dir / "a.txt").read_text())
    return {"series": output_dir / "series", "log.txt": None}


@pytest.fixture
def here(frame, bucket, options):
    """What a run in this process gives."""
    return Pipeline(split, into_path=bucket.url("out"), options=options, progress=False).run(frame)


def test_workers_return_directories(frame, bucket, options, here):
    pipeline = Pipeline(split, into_path=bucket.url("out"), options=options, progress=False, workers=2)
    result = pipeline.run(frame)
    pd.testing.assert_frame_equal(result.manifest, here.manifest)
    pd.testing.assert_frame_equal(result.files, here.files)


@pytest.mark.xdist_group("ray")
def test_run_pipeline_gives_directories_and_their_objects(frame, bucket, options, here, local_ray):
    pipeline = Pipeline(split, into_path=bucket.url("out"), options=options, progress=False)
    result = file_dataset.ray.run_pipeline(pipeline, frame)
    pd.testing.assert_frame_equal(result.manifest, here.manifest)
    pd.testing.assert_frame_equal(result.files, here.files)
    assert bucket.keys() == sorted(result.files["location"].str.removeprefix(bucket.url("")))
