"""`result.inputs`: what was read, as its store had it then, without a request more."""

from __future__ import annotations

import io
import os
import pickle

import pandas as pd
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from helpers import forward
from servers.faults import ACCESS_DENIED

from file_dataset import Pipeline, PipelineResult, RunStoppedError
from file_dataset._s3.store import S3Store
from file_dataset._urls import ObjectUrl

COLUMNS = ["id", "file", "location", "size_bytes", "etag", "version_id", "checksum"]


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


def records(frame):
    """The rows of a frame, with None for null."""
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


def run(frame, into, options=None, fn=forward, **kwargs):
    return Pipeline(fn, into_path=into, options=options, progress=False, **kwargs).run(frame)


# --- S3


def test_every_file_that_was_read_has_a_row_in_input_order(faults, pipeline):
    for key in ("b1", "a1", "a2"):
        faults.put(f"s3://bucket/in/{key}", key.encode(), etag="kms", checksum="CRC64NVME")
    frame = pd.DataFrame(
        {
            "id": pd.Series([7, 3], dtype="uint16"),
            "b.txt": ["s3://bucket/in/b1", None],
            "a.txt": ["s3://bucket/in/a1", "s3://bucket/in/a2"],
        }
    )
    inputs = pipeline(forward).run(frame).inputs
    assert inputs.columns.tolist() == COLUMNS
    assert inputs[["id", "file", "location"]].to_numpy().tolist() == [
        [7, "b.txt", "s3://bucket/in/b1"],
        [7, "a.txt", "s3://bucket/in/a1"],
        [3, "a.txt", "s3://bucket/in/a2"],
    ]
    assert inputs.dtypes.astype(str).tolist() == ["uint16", "string", "string", "int64", "string", "string", "string"]


def test_size_etag_and_checksum_are_those_of_the_object(faults, pipeline, fault_options):
    faults.put("s3://bucket/in/1", b"one", etag="kms", checksum="CRC64NVME")
    inputs = pipeline(forward).run(pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]})).inputs
    head = fault_options.s3_client.head_object(Bucket="bucket", Key="in/1", ChecksumMode="ENABLED")
    checksum = f"CRC64NVME:{head['ChecksumCRC64NVME']}"
    assert records(inputs.loc[:, "size_bytes":]) == [[3, head["ETag"].strip('"'), None, checksum]]


def test_an_etag_that_is_an_md5_is_no_checksum(faults, pipeline):
    faults.put("s3://bucket/in/1", b"one")
    inputs = pipeline(forward).run(pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]})).inputs
    assert records(inputs[["etag", "checksum"]]) == [["f97c5d29941bfb1b2fdab0874906ab82", None]]


def test_a_large_object_in_ranges_is_one_row_of_its_first_answer(faults, pipeline, engine):
    body = bytes(33 << 20)
    faults.put("s3://bucket/in/1", body, etag="kms", checksum="CRC64NVME")
    inputs = (
        pipeline(lambda input_dir, output_dir: {"none": None})
        .run(pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]}))
        .inputs
    )
    assert (faults.count("GetObject") > 1) == (engine == "auto")
    stored = faults.store.buckets["bucket"]["in/1"]
    checksum = f"CRC64NVME:{stored.checksums['CRC64NVME']}"
    assert records(inputs.loc[:, "size_bytes":]) == [[33 << 20, stored.etag, None, checksum]]


def test_the_inputs_cost_no_request(faults, frame, pipeline):
    result = pipeline().run(frame.iloc[[0, 2]])
    assert len(result.inputs) == 2
    assert {operation: faults.count(operation) for operation, _ in faults.requests} == {"GetObject": 2, "PutObject": 2}


def test_the_version_that_was_read_is_named(bucket, options):
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    client, name = bucket.client, bucket.name
    first = client.put_object(Bucket=name, Key="in/1", Body=b"first")
    read = run(pd.DataFrame({"id": [1], "a.txt": [bucket.url("in/1")]}), bucket.url("out"), options)
    second = client.put_object(Bucket=name, Key="in/1", Body=b"second")
    again = run(pd.DataFrame({"id": [1], "a.txt": [bucket.url("in/1")]}), bucket.url("out"), options)
    assert [*read.inputs["version_id"], *again.inputs["version_id"]] == [first["VersionId"], second["VersionId"]]


def test_a_bucket_without_versions_has_null_for_them(bucket, options):
    frame = pd.DataFrame({"id": [1], "a.txt": [bucket.put("in/1", b"one")]})
    assert run(frame, bucket.url("out"), options).inputs["version_id"].isna().tolist() == [True]


def test_a_head_names_the_version_too(bucket, options):
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    put = bucket.client.put_object(Bucket=bucket.name, Key="in/1", Body=b"one")
    assert S3Store(options).info(ObjectUrl(bucket.name, "in/1")).result().version_id == put["VersionId"]


def test_a_stubber_names_the_version_too(fresh_options, tmp_path):
    with Stubber(fresh_options.s3_client) as stubber:
        body = StreamingBody(io.BytesIO(b"one"), 3)
        stubber.add_response("get_object", {"Body": body, "ContentLength": 3, "ETag": '"x"', "VersionId": "null"})
        inputs = run(pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]}), tmp_path, fresh_options).inputs
    assert records(inputs.loc[:, "size_bytes":]) == [[3, "x", "null", None]]


# --- local files


def test_a_local_file_has_its_modification_time_for_an_etag(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"123456789")
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    inputs = run(pd.DataFrame({"id": ["x"], "a.txt": [file]}), tmp_path / "out").inputs
    # the check value of CRC-64/NVME (https://reveng.sourceforge.io/crc-catalogue/17plus.htm)
    assert records(inputs) == [["x", "a.txt", str(file), 9, "1700000000123456789", None, "CRC64NVME:rosUhgp5mIg="]]


def test_a_relative_path_is_absolute_in_the_inputs(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"one")
    monkeypatch.chdir(tmp_path)
    inputs = run(pd.DataFrame({"id": [1], "a.txt": ["./a.txt"]}), tmp_path / "out").inputs
    assert inputs["location"].tolist() == [str(tmp_path / "a.txt")]


# --- rows that fail


def test_a_row_that_failed_in_fn_has_its_inputs_and_one_that_failed_before_has_none(frame, pipeline):
    result = pipeline().run(frame)
    assert result.failures[["id", "error_stage"]].to_numpy().tolist() == [[2, "fn"], [4, "download"]]
    assert result.inputs["id"].tolist() == [1, 2, 3, 5]


def test_a_row_that_failed_in_a_worker_has_its_inputs(frame, pipeline):
    assert pipeline(workers=1).run(frame).inputs["id"].tolist() == [1, 2, 3, 5]


def test_a_row_that_failed_at_upload_has_its_inputs(faults, frame, pipeline):
    faults.fail("PutObject", ACCESS_DENIED, key="out/3/upper.txt", times=None)
    result = pipeline().run(frame)
    assert result.failures["error_stage"].tolist() == ["fn", "upload", "download"]
    assert result.inputs["id"].tolist() == [1, 2, 3, 5]


def test_a_row_with_one_file_of_two_has_none(faults, frame, pipeline):
    two = frame.iloc[[0]].assign(**{"b.txt": "s3://bucket/in/missing"})
    assert len(pipeline(forward).run(two).inputs) == 0


def test_a_recorded_run_has_the_inputs_of_every_row_that_was_read(frame, pipeline):
    assert pipeline(on_failure="record").run(frame).inputs["id"].tolist() == [1, 2, 3, 5]


def test_a_row_that_an_earlier_pipeline_recorded_has_none(frame, pipeline):
    recorded = pipeline(on_failure="record").run(frame).manifest
    again = pipeline(forward, into_path="s3://bucket/again", on_failure="record").run(recorded)
    assert again.inputs["location"].tolist() == [f"s3://bucket/out/{n}/upper.txt" for n in (1, 3, 5)]


def test_a_stopped_run_has_the_inputs_of_the_rows_that_are_done(frame, pipeline):
    with pytest.raises(RunStoppedError) as caught:
        pipeline(on_failure="raise", prefetch=0).run(frame)
    assert caught.value.result.inputs["id"].tolist() == [1, 2]


# --- two results made one


def test_merged_results_have_the_inputs_of_the_later_run_for_its_rows(faults, frame, pipeline):
    first = pipeline().run(frame)
    faults.put("s3://bucket/in/2", b"mended")
    faults.put("s3://bucket/in/4", b"four")
    merged = first.merge(pipeline().run(first.failed_rows))
    assert merged.inputs[["id", "size_bytes"]].to_numpy().tolist() == [[1, 3], [2, 6], [3, 5], [4, 4], [5, 4]]


def test_a_row_that_can_not_be_read_any_more_loses_its_inputs_in_a_merge(faults, frame, pipeline):
    first = pipeline().run(frame)
    faults.store.replace("bucket", "in/3", None)
    merged = first.merge(pipeline().run(frame.iloc[[2]]))
    assert merged.inputs["id"].tolist() == [1, 2, 5]


# --- results without any


def test_a_run_that_reads_nothing_has_an_empty_frame(pipeline):
    frame = pd.DataFrame({"id": pd.Series([1], dtype="uint16"), "a.txt": ["s3://bucket/in/missing"]})
    inputs = pipeline().run(frame).inputs
    assert (inputs.columns.tolist(), len(inputs), str(inputs["id"].dtype)) == (COLUMNS, 0, "uint16")


def test_the_result_of_a_recorded_manifest_has_an_empty_frame(frame, pipeline):
    inputs = PipelineResult.from_recorded(pipeline(on_failure="record").run(frame).manifest).inputs
    assert (inputs.columns.tolist(), len(inputs), inputs["id"].dtype) == (COLUMNS, 0, frame["id"].dtype)


def test_a_result_comes_back_from_a_pickle_with_its_inputs(frame, pipeline):
    result = pipeline().run(frame)
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(result)).inputs, result.inputs)


def test_a_pickle_made_before_there_were_inputs_has_an_empty_frame(frame, pipeline):
    result = pipeline().run(frame)
    vars(result).pop("inputs")
    inputs = pickle.loads(pickle.dumps(result)).inputs
    assert (inputs.columns.tolist(), len(inputs), inputs["id"].dtype) == (COLUMNS, 0, frame["id"].dtype)
