"""`Pipeline`: rows in, rows out; a row that fails is dropped and reported."""

# what a Pipeline was given is shown nowhere else
# ruff: noqa: SLF001

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pandas as pd
import pytest
from helpers import forward, impatient_options, upper

from file_dataset import Pipeline


def test_the_manifest_lists_what_is_stored(faults, frame, pipeline):
    manifest = pipeline()(frame)
    assert manifest.columns.tolist() == ["upper.txt", "id", "patient.sex", "v1.5"]
    assert manifest["id"].tolist() == [1, 3, 5]
    assert manifest["upper.txt"].tolist() == [f"s3://bucket/out/{n}/upper.txt" for n in (1, 3, 5)]
    assert manifest["v1.5"].tolist() == [0.1, 0.3, 0.5]
    assert manifest.dtypes[["id", "patient.sex", "v1.5"]].equals(frame.dtypes[["id", "patient.sex", "v1.5"]])
    assert faults.body("s3://bucket/out/5/upper.txt") == b"FIVE"


def test_a_failed_row_is_dropped_and_reported(frame, pipeline):
    failures = pipeline().run(frame).failures
    assert failures.columns.tolist() == [
        "id", "error_stage", "error_file", "error_url", "error_type", "error_code", "error_message",
    ]  # fmt: skip
    known = failures.drop(columns="error_message").astype(object).where(failures.notna(), None)
    assert known.to_numpy().tolist() == [
        [2, "fn", None, None, "ValueError", None],
        [4, "download", "a.txt", "s3://bucket/in/4", "FileNotFoundError", "NoSuchKey"],
    ]
    assert failures["error_message"][0] == "this text is bad"


def test_the_files_tell_size_etag_and_checksum(faults, frame, pipeline, fault_options):
    files = pipeline().run(frame).files
    assert files.columns.tolist() == ["id", "file", "location", "size_bytes", "etag", "checksum"]
    assert files["size_bytes"].tolist() == [3, 5, 4]
    head = fault_options.s3_client.head_object(Bucket="bucket", Key="out/5/upper.txt", ChecksumMode="ENABLED")
    assert files["etag"][2] == head["ETag"].strip('"')
    assert files["checksum"][2] == f"CRC64NVME:{head['ChecksumCRC64NVME']}"


def test_a_manifest_feeds_the_next_pipeline(frame, pipeline):
    def shout(input_dir, output_dir):
        (output_dir / "shout.txt").write_text((input_dir / "upper.txt").read_text() + "!")
        return {"shout.txt": output_dir / "shout.txt"}

    second = pipeline(shout, into_path="s3://bucket/second")(pipeline()(frame))
    assert second["shout.txt"].tolist() == [f"s3://bucket/second/{n}/shout.txt" for n in (1, 3, 5)]
    assert second.columns.tolist() == ["shout.txt", "id", "patient.sex", "v1.5"]


def test_failed_rows_can_be_run_again_and_joined(faults, frame, pipeline):
    first = pipeline().run(frame)
    faults.put("s3://bucket/in/4", b"four")
    second = pipeline().run(first.failed_rows)
    assert second.manifest["id"].tolist() == [4]
    merged = first.merge(second)
    assert merged.manifest["id"].tolist() == [1, 3, 4, 5]
    assert merged.failures["id"].tolist() == [2]
    assert merged.files["id"].tolist() == [1, 3, 4, 5]


def test_the_callers_frame_is_not_changed(frame, pipeline):
    before = frame.copy(deep=True)
    pipeline().run(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_a_row_costs_its_gets_and_puts_and_nothing_else(faults, frame, pipeline):
    pipeline().run(frame.iloc[[0, 2]])
    assert sum(faults.requests.values()) == 4
    assert (faults.count("GetObject"), faults.count("PutObject")) == (2, 2)


def test_an_input_can_be_forwarded_as_an_output(faults, frame, pipeline):
    manifest = pipeline(forward)(frame)
    assert manifest["a.txt"].tolist() == [f"s3://bucket/out/{n}/a.txt" for n in (1, 2, 3, 5)]
    assert faults.body("s3://bucket/out/3/a.txt") == b"three"


def test_an_output_of_none_is_null_and_stores_nothing(faults, frame, pipeline):
    def sometimes(input_dir, output_dir):
        text = (input_dir / "a.txt").read_text()
        return {"a.txt": input_dir / "a.txt", "extra.txt": input_dir / "a.txt" if text == "one" else None}

    manifest = pipeline(sometimes)(frame)
    assert manifest["extra.txt"].isna().tolist() == [False, True, True, True]
    assert [key for key in faults.keys("bucket") if key.endswith("extra.txt")] == ["out/1/extra.txt"]


def test_null_cells_are_files_that_are_not_there(faults, frame, pipeline):
    seen = []

    def look(input_dir, output_dir):
        seen.append(sorted(path.name for path in input_dir.iterdir()))
        return {"a.txt": input_dir / "a.txt"}

    pipeline(look)(frame.iloc[[0, 2]].assign(**{"mask.txt": [None, "s3://bucket/in/1"]}))
    assert seen == [["a.txt"], ["a.txt", "mask.txt"]]


def test_a_row_without_any_file_is_a_failure(frame, pipeline):
    result = pipeline().run(frame.iloc[[0, 2]].assign(**{"a.txt": ["s3://bucket/in/1", None]}))
    assert result.failures[["id", "error_stage"]].to_numpy().tolist() == [[3, "download"]]


@pytest.mark.parametrize("cell", ["ftp://x/y", "s3:/x", "s3://bucket", "s3://bucket/dir/", 5, b"s3://bucket/in/1"])
def test_a_cell_that_is_no_location_costs_its_row(frame, pipeline, cell):
    broken = frame.astype({"a.txt": object})
    broken.loc[2, "a.txt"] = cell
    result = pipeline().run(broken)
    assert result.manifest["id"].tolist() == [1, 5]
    (failure,) = result.failures[result.failures["id"] == 3].itertuples()
    assert (failure.error_stage, failure.error_file) == ("download", "a.txt")
    assert str(cell) in failure.error_url


@pytest.mark.parametrize(
    "ids",
    [
        pd.Series([10, 20], dtype="int64"), pd.Series([10, 20], dtype="uint8"), pd.Series([10, 20], dtype="Int64"),
        pd.Series(["x", "y"], dtype=object), pd.Series(["x", "y"], dtype="string"), pd.Series(["x", "y"]),
        pd.Series([1, "y"], dtype=object), pd.Series(["x", "y"], dtype="string[pyarrow]"),
    ],
    ids=lambda ids: str(ids.dtype),
)  # fmt: skip
def test_ids_come_back_as_they_went_in(frame, pipeline, ids):
    given = frame.iloc[[0, 3]].reset_index(drop=True).assign(id=ids)
    result = pipeline().run(given)
    assert result.manifest["id"].dtype == result.failures["id"].dtype == result.files["id"].dtype == ids.dtype
    assert result.manifest["id"].tolist() == ids.tolist()[:1]


def test_local_files_make_the_round_without_credentials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one")
    frame = pd.DataFrame({"id": ["x"], "a.txt": ["./a.txt"]})
    manifest = Pipeline(upper, write_options={"into_path": "out"}, progress=False)(frame)
    assert manifest["upper.txt"].tolist() == [str(tmp_path / "out/x/upper.txt")]
    assert (tmp_path / "out/x/upper.txt").read_text() == "ONE"


def test_two_stores_are_reached_by_their_own_options(own_faults, frame, pipeline):
    own_faults.put("s3://target/other", b"")
    elsewhere = impatient_options(own_faults.endpoint_url)
    manifest = pipeline(into_path="s3://target/out", write={"options": elsewhere})(frame)
    assert manifest["upper.txt"][0] == "s3://target/out/1/upper.txt"
    assert own_faults.body("s3://target/out/1/upper.txt") == b"ONE"


@pytest.mark.parametrize("on_failure", ["drop", "raise", "record"])
def test_an_empty_frame_gives_an_empty_typed_manifest(frame, pipeline, on_failure):
    # without rows nothing tells that patient.sex holds no files
    manifest = pipeline(on_failure=on_failure, file_columns=["a.txt"])(frame.iloc[:0])
    assert manifest.columns.tolist()[:4] == ["upper.txt", "id", "patient.sex", "v1.5"]
    assert len(manifest) == 0
    assert str(manifest["upper.txt"].dtype) == "string"


def test_an_all_failed_batch_keeps_its_columns_and_says_why(frame, pipeline, caplog):
    manifest = pipeline()(frame.iloc[[1, 3]])
    assert manifest.dtypes.to_dict() == {
        "upper.txt": pd.StringDtype(), "id": frame["id"].dtype,
        "patient.sex": frame["patient.sex"].dtype, "v1.5": frame["v1.5"].dtype,
    }  # fmt: skip
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "all 2 rows failed" in record.message
    assert "this text is bad" in record.message


def test_into_path_is_short_for_write_options(frame, fault_options):
    where = "s3://bucket/short"
    one = Pipeline(upper, into_path=where, options=fault_options)
    assert one._settings == Pipeline(upper, write_options={"into_path": where}, options=fault_options)._settings
    manifest = pickle.loads(pickle.dumps(one))(frame)
    assert manifest["id"].tolist() == [1, 3, 5]
    assert manifest["upper.txt"][0] == f"{where}/1/upper.txt"


def test_extra_args_reach_the_outputs(frame, pipeline, fault_options):
    pipeline(write={"extra_args": {"ContentType": "text/x-test"}})(frame)
    head = fault_options.s3_client.head_object(Bucket="bucket", Key="out/1/upper.txt")
    assert head["ContentType"] == "text/x-test"


def test_local_inputs_are_not_counted_as_without_digest(faults, frame, pipeline, tmp_path):
    (tmp_path / "b.txt").write_text("x")
    faults.put("s3://bucket/in/1", b"one", etag="multipart")
    assert pipeline().run(frame.assign(**{"b.txt": tmp_path / "b.txt"})).files_without_digest == 1


@pytest.mark.parametrize("cell", ["x\0y", "/data/\ud800"], ids=["NUL", "surrogate"])
def test_a_cell_that_no_disk_can_take_costs_its_row(tmp_path, cell):
    (tmp_path / "a.txt").write_text("hi")
    frame = pd.DataFrame({"id": [1, 2], "a.txt": pd.Series([str(tmp_path / "a.txt"), cell], dtype=object)})
    result = Pipeline(forward, write_options={"into_path": tmp_path / "out"}, progress=False).run(frame)
    assert result.manifest["id"].tolist() == [1]
    assert result.failures["id"].tolist() == [2]
