"""A column `<file>.version_id` on Ray: tasks read that version, and a checkpoint knows it."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import forward

import file_dataset
from file_dataset import Pipeline

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]

COLUMN = "a.txt.version_id"
on_ray = file_dataset.ray.run_pipeline


@pytest.fixture
def store(bucket):
    """Store a text as the newest version of `a.txt`, and return its id."""
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    return lambda text: bucket.client.put_object(Bucket=bucket.name, Key="a.txt", Body=text)["VersionId"]


@pytest.fixture
def frame(bucket, store):
    versions = [store(f"v{number}") for number in range(5)]
    return pd.DataFrame(
        {"id": range(6), "a.txt": bucket.url("a.txt"), COLUMN: [*versions, None], "label": list("abcdef")}
    )


TEXTS = {number: f"v{min(number, 4)}".encode() for number in range(6)}


@pytest.fixture(params=["frame", "Dataset"])
def given(request, local_ray):
    """A frame as it is, or as a Dataset of two blocks."""
    return lambda frame: frame if request.param == "frame" else local_ray.data.from_pandas([frame[:3], frame[3:]])


@pytest.mark.parametrize("on_failure", ["raise", "drop", "record"])
def test_blobs_are_of_the_version_of_the_column(frame, given, options, on_failure):
    if on_failure != "raise":
        frame.loc[2, COLUMN] = "none-such"
    blobs = file_dataset.ray.blob_reader(given(frame), 3, options, carry=True, on_failure=on_failure)
    rows = {row["id"]: row for row in blobs.take_all()}
    gone = {2} if on_failure != "raise" else set()
    assert {at: row["a.txt"] for at, row in rows.items() if at not in gone} == {
        at: text for at, text in TEXTS.items() if at not in gone
    }
    assert list(rows[0])[:3] == ["id", "a.txt", "label"]
    if on_failure == "record":
        assert "version none-such was requested" in rows[2]["error_message"]


def test_a_pipeline_reads_them_and_a_checkpoint_counts_them(frame, given, options, store, tmp_path):
    pipeline = Pipeline(forward, into_path=tmp_path / "out", options=options, progress=False)
    book = {"checkpoint": tmp_path / "book", "batch_size": 3}
    result = on_ray(pipeline, given(frame), **book)
    assert list(result.manifest) == ["a.txt", "id", "label"]
    assert {at: (tmp_path / f"out/{at}/a.txt").read_bytes() for at in range(6)} == TEXTS
    assert pipeline.plan(frame, checkpoint=tmp_path / "book").counts["same"] == 6
    store("v5")
    frame.loc[1, COLUMN] = frame.loc[0, COLUMN]
    result = on_ray(pipeline, given(frame), **book, check_inputs=True)
    # the row of another version ran, and the row of the newest; the others' have not changed
    assert {at: (tmp_path / f"out/{at}/a.txt").read_bytes() for at in range(6)} == TEXTS | {1: b"v0", 5: b"v5"}
    assert result.failures.empty
