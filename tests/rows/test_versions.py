"""A column `<file>.version_id` beside a file column: that version is read, by whatever reads; null is the newest."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import failure_of, forward

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline, PipelineResult, RowError, changed_rows, reader

COLUMN = "a.txt.version_id"


@pytest.fixture
def versions(bucket):
    """Three states of `a.txt` in a bucket that keeps versions: the ids of "v0", "v1" and "v2"."""
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    return [stored(bucket, f"v{number}") for number in range(3)]


def stored(bucket, text, key="a.txt"):
    return bucket.client.put_object(Bucket=bucket.name, Key=key, Body=text.encode())["VersionId"]


@pytest.fixture
def frame(bucket, versions):
    """One object in three rows: its first version, its second, and its newest."""
    return pd.DataFrame({"id": [1, 2, 3], "a.txt": bucket.url("a.txt"), COLUMN: [*versions[:2], None], "label": "x"})


@pytest.fixture
def pipeline(tmp_path, options):
    return Pipeline(forward, into_path=tmp_path / "out", options=options, progress=False)


TEXTS = [b"v0", b"v1", b"v2"]


def test_every_way_of_reading_reads_the_version_of_the_column(frame, options, tmp_path):
    reading = reader(frame, options=options)
    assert reading.into_blob_table()["a.txt"].to_pylist() == TEXTS
    assert reading.into_blob_table().column_names == ["id", "a.txt"]
    assert [table["a.txt"][0].as_py() for table in reading.iter_blob_tables(1)] == TEXTS
    with reading.into_temp_dir() as temp:
        assert [(temp / f"{row}/a.txt").read_bytes() for row in (1, 2, 3)] == TEXTS
    assert [(temp.path / "a.txt").read_bytes() for temp in reading.iter_temp_dirs()] == TEXTS
    reading.into_dir(tmp_path / "stays")
    reading.into_dir(tmp_path / "stays")  # whole files are compared with their versions
    assert [(tmp_path / f"stays/{row}/a.txt").read_bytes() for row in (1, 2, 3)] == TEXTS


def test_sizes_are_those_of_the_version(bucket, options):
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    ids = [stored(bucket, "x" * size) for size in (1, 10, 100)]
    frame = pd.DataFrame({"id": [1, 2], "a.txt": bucket.url("a.txt"), COLUMN: ids[:2]})
    assert reader(frame, options=options).into_size_table()["a.txt"].to_pylist() == [1, 10]
    assert reader(frame, options=options).into_info_table()["size_bytes"].to_pylist() == [1, 10]


def test_a_row_can_pin_versions_too(bucket, versions, options):
    row = {"a.txt": bucket.url("a.txt"), COLUMN: versions[0]}
    assert reader(row, options=options).into_blob_table()["a.txt"].to_pylist() == [b"v0"]


def test_a_local_copy_is_of_no_version(frame, options, pipeline, tmp_path):
    local = reader(frame, options=options).into_dir(tmp_path / "stays")
    assert list(local) == ["id", "a.txt", "label"]
    assert pipeline(local)["id"].tolist() == [1, 2, 3]


def test_a_pipeline_reads_the_version_and_says_which_it_read(frame, pipeline, versions, tmp_path):
    result = pipeline.run(frame)
    assert [(tmp_path / f"out/{row}/a.txt").read_bytes() for row in (1, 2, 3)] == TEXTS
    assert result.inputs["version_id"].tolist() == versions


def test_the_manifest_has_no_versions_of_inputs(frame, pipeline):
    """Beside an output of the same name such a column would pin another object."""
    manifest = pipeline(frame)
    assert list(manifest) == ["a.txt", "id", "label"]
    assert len(pipeline(manifest.assign(id=[4, 5, 6]))) == 3


def test_fn_does_not_get_versions_in_its_row(frame, tmp_path, options):
    def keep(input_dir, output_dir, row):
        assert list(row) == ["id", "label"]
        return forward(input_dir, output_dir)

    assert len(Pipeline(keep, into_path=tmp_path / "out", options=options, progress=False)(frame)) == 3


@pytest.mark.parametrize(
    ("version_id", "message"),
    [(7, "7 is no version: give text"), ("", "'' is no version: give text"), ("\ud800", "is not valid Unicode")],
    ids=["a number", "empty", "a surrogate"],
)
def test_what_is_no_version_costs_its_row(frame, pipeline, options, version_id, message):
    frame = frame.astype({COLUMN: object})
    frame.loc[1, COLUMN] = version_id
    failure = failure_of(pipeline.run(frame))
    assert (failure.id, failure.error_stage, failure.error_file) == (2, "download", "a.txt")
    assert message in failure.error_message
    with pytest.raises(InvalidDatasetError, match=message):
        reader(frame, options=options).into_blob_table()


def test_a_local_file_has_no_versions(tmp_path, pipeline):
    (tmp_path / "a.txt").write_text("a")
    frame = pd.DataFrame({"id": [1, 2], "a.txt": [tmp_path / "a.txt"] * 2, COLUMN: [None, "x"]})
    assert "is no object in S3, and has no versions" in failure_of(pipeline.run(frame)).error_message


def test_a_missing_version_is_a_failure_of_its_row(frame, pipeline, bucket, versions):
    bucket.client.delete_object(Bucket=bucket.name, Key="a.txt", VersionId=versions[0])
    failure = failure_of(pipeline.run(frame))
    assert (failure.id, failure.error_type) == (1, "FileNotFoundError")
    assert f"version {versions[0]} was requested" in failure.error_message


def test_a_version_of_no_file_is_none(bucket, versions, pipeline):
    frame = pd.DataFrame({"id": [1], "a.txt": [None], COLUMN: versions[:1], "b.txt": bucket.url("a.txt")})
    assert pipeline.run(frame).inputs["version_id"].tolist() == versions[2:]


def test_a_column_of_versions_alone_is_no_file_column(frame, options):
    """Nor is one that is all null, or has slashes: its name ends like a file's."""
    for versions in ([None] * 3, ["null", None, "null"]):
        assert "files ['a.txt']" in repr(reader(frame.assign(**{COLUMN: versions}), options=options))
    renamed = frame.rename(columns={"label": "b.version_id"}).assign(b="x")
    assert "files ['a.txt']" in repr(reader(renamed.assign(**{"b.version_id": "x/y"}), options=options))
    assert COLUMN in repr(reader(frame.assign(**{COLUMN: "s3://b/k"}), file_columns=["a.txt", COLUMN]))


def test_another_version_is_a_changed_row(frame, pipeline, versions, tmp_path):
    pipeline.run(frame, checkpoint=tmp_path / "book")
    assert pipeline.plan(frame, checkpoint=tmp_path / "book").counts["same"] == 3
    frame.loc[1, COLUMN] = versions[0]
    assert pipeline.plan(frame, checkpoint=tmp_path / "book").counts["changed"] == 1
    assert pipeline.run(frame, checkpoint=tmp_path / "book").inputs["version_id"].tolist() == [
        versions[0],
        versions[0],
        versions[2],
    ]


def test_a_frame_without_versions_is_done_as_before_there_were_any(frame, pipeline, tmp_path):
    newest = frame.drop(columns=COLUMN)
    pipeline.run(newest, checkpoint=tmp_path / "book")
    assert pipeline.plan(newest.assign(**{COLUMN: None}), checkpoint=tmp_path / "book").counts["same"] == 3


def test_a_pinned_input_has_not_changed_when_a_newer_version_is_stored(frame, pipeline, bucket, options, tmp_path):
    result = pipeline.run(frame, checkpoint=tmp_path / "book")
    stored(bucket, "v3")
    plan = pipeline.plan(frame, checkpoint=tmp_path / "book", check_inputs=True)
    assert plan.rows["state"].tolist() == ["same", "same", "changed"]
    assert changed_rows(frame, result.inputs, options=options)["id"].tolist() == [3]
    # an ETag that the frame has may be that of the newest
    etags = frame.assign(**{"a.txt.etag": "of another"})
    assert changed_rows(etags, result.inputs, options=options)["id"].tolist() == [3]


def test_a_pinned_result_is_read_again_as_it_was(frame, pipeline, bucket, versions, tmp_path):
    result = pipeline.run(frame.drop(columns=COLUMN))
    pinned = result.pinned()
    assert list(pinned) == ["id", "a.txt", COLUMN, "label"]
    assert pinned[COLUMN].tolist() == [versions[2]] * 3
    assert list(result.input) == ["id", "a.txt", "label"]  # unchanged
    stored(bucket, "v3")
    again = pipeline.run(pinned)
    assert again.inputs["version_id"].tolist() == [versions[2]] * 3
    assert (tmp_path / "out/1/a.txt").read_bytes() == b"v2"


def test_rows_that_were_not_read_keep_their_versions(frame, pipeline, bucket, versions):
    frame.loc[2, COLUMN] = "none-such"
    frame.loc[len(frame)] = [4, bucket.url("none.txt"), None, "x"]
    pinned = pipeline.run(frame).pinned()
    assert pinned["id"].tolist() == [1, 2, 3, 4]
    assert pinned[COLUMN].astype(object).where(pinned[COLUMN].notna(), None).tolist() == [
        *versions[:2],
        "none-such",
        None,
    ]


def test_a_bucket_without_versions_pins_nothing(bucket, pipeline, tmp_path):
    (tmp_path / "b.txt").write_text("local")
    frame = pd.DataFrame({"id": [1], "a.txt": bucket.put("a.txt", b"x"), "b.txt": tmp_path / "b.txt"})
    pinned = pipeline.run(frame).pinned()
    assert list(pinned) == ["id", "a.txt", COLUMN, "b.txt", "b.txt.version_id"]
    assert pinned[[COLUMN, "b.txt.version_id"]].isna().all(axis=None)
    assert pipeline.run(pinned).failures.empty


def test_a_result_that_was_loaded_has_no_input_to_pin(frame, pipeline, tmp_path):
    result = pipeline.run(frame)
    result.save(tmp_path / "saved")
    loaded = PipelineResult.load(tmp_path / "saved")
    with pytest.raises(InvalidDatasetError, match="the input is not known"):
        loaded.pinned()


def test_files_to_store_have_no_versions(tmp_path, options):
    (tmp_path / "a.txt").write_text("a")
    frame = pd.DataFrame({"id": [1], "a.txt": [str(tmp_path / "a.txt")], COLUMN: [None]})
    manifest = file_dataset.write_files(frame, into_path=tmp_path / "out", options=options)
    assert list(manifest) == ["a.txt", "id"]


def test_a_missing_version_is_named_by_a_reader(frame, options):
    frame.loc[0, COLUMN] = "none-such"
    with pytest.raises(RowError, match="version none-such was requested"):
        reader(frame, options=options).into_blob_table()
