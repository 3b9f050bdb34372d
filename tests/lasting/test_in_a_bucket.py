"""A checkpoint in a bucket: what it costs in requests, what it survives, and what `check_inputs` looks at."""

from __future__ import annotations

import tempfile

import pandas as pd
import pytest
from helpers import forward
from servers.faults import Reset, Status

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline, PipelineResult, RowError, RunStoppedError
from file_dataset._checkpoint.place import place_of
from file_dataset._stores import Stores

RUNS = "s3://bucket/runs/x/"


@pytest.fixture
def pipeline(fault_options):
    def make(fn=forward, **kwargs):
        kwargs.setdefault("options", fault_options)
        return Pipeline(fn, into_path="s3://bucket/out/", progress=False, **kwargs)

    return make


def reads(faults):
    """GETs of inputs."""
    return sum(faults.count("GetObject", f"in/{number}") for number in range(1, 6))


def test_rows_that_are_done_cost_no_request_of_their_own(faults, frame, pipeline):
    first = pipeline().run(frame, checkpoint=RUNS)
    faults.reset()
    second = pipeline().run(frame, checkpoint=RUNS)
    assert (reads(faults), faults.count("PutObject"), faults.count("HeadObject")) == (0, 0, 0)
    assert (faults.count("ListObjectsV2"), faults.count("GetObject")) == (1, 1)
    pd.testing.assert_frame_equal(first.manifest, second.manifest)
    pd.testing.assert_frame_equal(first.files, second.files)
    pd.testing.assert_frame_equal(first.inputs, second.inputs)


def test_a_run_writes_one_part_before_its_first_row_and_one_after(faults, frame, pipeline):
    pipeline().run(frame, checkpoint=RUNS)
    parts = [key for key in faults.keys("bucket") if key.startswith("runs/x/part-")]
    assert len(parts) == 1  # the first one was a test of the place
    assert faults.count("PutObject") == 5 + 2


def test_parts_on_their_way_lie_in_the_temp_dir_of_the_pipeline(frame, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such place"))
    pipeline(temp_dir=tmp_path).run(frame, checkpoint=RUNS)
    assert pipeline().plan(frame, checkpoint=RUNS).counts["same"] == 5
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_has_not_that_temp_dir_writes_parts_too(faults, fault_options, tmp_path):
    """That which drives a cluster, say."""
    place = place_of(RUNS, Stores(fault_options), fault_options, tmp_path / "of others")
    faults.put("s3://bucket/in/1", b"")
    assert place.write(b"a part") in place.names()


def test_an_overwritten_input_runs_again_when_inputs_are_looked_at(faults, frame, pipeline):
    pipeline().run(frame, checkpoint=RUNS)
    faults.put("s3://bucket/in/3", b"ROW 3")
    faults.reset()
    pipeline().run(frame, checkpoint=RUNS)
    assert reads(faults) == faults.count("HeadObject") == 0
    plan = pipeline().plan(frame, checkpoint=RUNS, check_inputs=True)
    assert plan.rows["state"].tolist() == ["same", "same", "changed", "same", "same"]
    assert plan.rows["why"][2].startswith("a.txt: its ")
    faults.reset()
    result = pipeline().run(frame, checkpoint=RUNS, check_inputs=True)
    assert (faults.count("HeadObject"), reads(faults)) == (5, 1)
    assert faults.body("s3://bucket/out/3/a.txt") == b"ROW 3"
    assert len(result.manifest) == 5


def test_etags_in_the_frame_save_the_heads(faults, frame, pipeline):
    client = pipeline()._settings.options.s3_client  # noqa: SLF001

    def etags():
        return [client.head_object(Bucket="bucket", Key=f"in/{number}")["ETag"].strip('"') for number in range(1, 6)]

    pipeline().run(frame, checkpoint=RUNS)
    faults.put("s3://bucket/in/3", b"ROW 3")
    listed = frame.assign(**{"a.txt.etag": etags()})
    faults.reset()
    plan = pipeline().plan(listed, checkpoint=RUNS, check_inputs=True)
    assert plan.rows["state"].tolist() == ["same", "same", "changed", "same", "same"]
    assert faults.count("HeadObject") == 0


def test_an_input_that_is_gone_is_said_and_its_row_fails(faults, frame, pipeline):
    pipeline().run(frame, checkpoint=RUNS)
    pipeline()._settings.options.s3_client.delete_object(Bucket="bucket", Key="in/3")  # noqa: SLF001
    plan = pipeline().plan(frame, checkpoint=RUNS, check_inputs=True)
    assert "FileNotFoundError" in plan.rows["why"][2]
    result = pipeline().run(frame, checkpoint=RUNS, check_inputs=True)
    assert result.failures["id"].tolist() == [3]
    assert result.manifest["id"].tolist() == [1, 2, 4, 5]


def test_a_multipart_upload_of_equal_bytes_is_no_change(bucket, options):
    body = b"x" * (6 << 20)
    frame = pd.DataFrame({"id": [1], "a.bin": [bucket.put("in", body, ChecksumAlgorithm="CRC64NVME")]})
    pipeline = Pipeline(forward, into_path=bucket.url("out"), options=options, progress=False)
    before = pipeline.run(frame, checkpoint=bucket.url("runs")).inputs
    if before["checksum"].isna().any():
        pytest.skip("this store has no checksum of the whole object")
    key = {"Bucket": bucket.name, "Key": "in"}
    client = bucket.client
    upload = client.create_multipart_upload(**key, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")
    of = {**key, "UploadId": upload["UploadId"], "ChecksumAlgorithm": "CRC64NVME"}
    pieces = (body[: 5 << 20], body[5 << 20 :])
    parts = [client.upload_part(**of, PartNumber=number, Body=piece) for number, piece in enumerate(pieces, 1)]
    listed = [{"ETag": part["ETag"], "PartNumber": number} for number, part in enumerate(parts, 1)]
    client.complete_multipart_upload(**key, UploadId=upload["UploadId"], MultipartUpload={"Parts": listed})
    assert client.head_object(**key)["ETag"].strip('"') != before["etag"][0]
    assert pipeline.plan(frame, checkpoint=bucket.url("runs"), check_inputs=True).counts["same"] == 1


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchBucket"])
def test_a_place_that_takes_nothing_stops_the_run_before_the_first_row(code, faults, frame, pipeline):
    called = []
    faults.fail("PutObject", Status(403 if code == "AccessDenied" else 404, code), times=100)
    with pytest.raises(RunStoppedError, match=f"cannot be written.*{code}") as caught:
        pipeline(lambda input_dir, output_dir: called.append(1)).run(frame, checkpoint=RUNS)
    assert not called
    assert len(caught.value.result.unprocessed_rows) == 5
    assert not [note for note in caught.value.__notes__ if "in the checkpoint" in note]


def test_a_place_that_cannot_be_listed_stops_the_run_before_the_first_row(faults, frame, pipeline):
    faults.fail("ListObjectsV2", Status(403, "AccessDenied"), times=100)
    with pytest.raises(RunStoppedError, match=r"cannot be read.*AccessDenied.*rights to list"):
        pipeline().run(frame, checkpoint=RUNS)
    assert reads(faults) == 0


def test_a_part_that_breaks_off_is_read_again(faults, frame, pipeline):
    pipeline().run(frame, checkpoint=RUNS)
    (part,) = [key for key in faults.keys("bucket") if key.startswith("runs/")]
    faults.fail("GetObject", Reset(after_bytes=10), key=part)
    assert pipeline().plan(frame, checkpoint=RUNS).counts["same"] == 5


def test_a_neighbour_of_the_checkpoint_is_no_part_of_it(faults, frame, pipeline):
    pipeline().run(frame, checkpoint="s3://bucket/runs/x1")
    faults.put("s3://bucket/runs/x/part-7/a.parquet", b"an output of a row named part-7")
    faults.put("s3://bucket/runs/x/notes.txt", b"of a colleague")
    assert pipeline().plan(frame, checkpoint="s3://bucket/runs/x").counts["new"] == 5


def test_what_a_checkpoint_has_is_loaded_without_a_run(faults, frame, pipeline, fault_options):
    faults.put("s3://bucket/in/2", b"")
    frame.loc[3, "a.txt"] = "s3://bucket/in/missing"
    ran = pipeline().run(frame.assign(label="x").astype({"id": "Int32"}), checkpoint=RUNS)
    loaded = PipelineResult.load(RUNS, options=fault_options)
    assert sorted(loaded.manifest["id"]) == [1, 2, 3, 5]
    assert str(loaded.manifest["id"].dtype) == "Int32"
    assert loaded.manifest.columns.tolist() == ["a.txt", "id"]

    def sorted_by_id(table):
        return table.sort_values("id").reset_index(drop=True)

    pd.testing.assert_frame_equal(sorted_by_id(loaded.files), ran.files)
    pd.testing.assert_frame_equal(sorted_by_id(loaded.inputs), ran.inputs)
    pd.testing.assert_frame_equal(loaded.failures, ran.failures)
    assert loaded.input is None
    assert loaded.summary() == "1 of 5 rows dropped (20.0%): 1 at download"


def test_no_secret_is_in_a_part(faults, frame, pipeline, fault_options):
    def leaks(input_dir, output_dir):
        raise ValueError(f"aws_secret_access_key={fault_options.session_kwargs['aws_secret_access_key']}")

    pipeline(leaks).run(frame, checkpoint=RUNS)
    for key in faults.keys("bucket"):
        if key.startswith("runs/"):
            assert b"secrettest" not in faults.body(f"s3://bucket/{key}")


def test_a_checkpoint_among_the_outputs_is_fine(faults, frame, pipeline):
    pipeline().run(frame, checkpoint="s3://bucket/out/")
    assert pipeline().plan(frame, checkpoint="s3://bucket/out/").counts["same"] == 5


def test_frames_that_strangers_write_may_not_name_local_checkpoints(frame, pipeline, fault_options, tmp_path):
    options = file_dataset.Options(fault_options.session_kwargs, fault_options.s3_client_kwargs, local_paths=False)
    with pytest.raises(InvalidDatasetError, match=r"checkpoint=.*local_paths=False"):
        pipeline(options=options).run(frame, checkpoint=tmp_path)


def test_a_checkpoint_is_removed_and_nothing_beside_it(faults, frame, pipeline, fault_options):
    pipeline().run(frame, checkpoint=RUNS)
    others = {"runs/x/notes.txt", "runs/x/part-7/a.parquet", "runs/x1/part-7.parquet"}
    for key in others:
        faults.put(f"s3://bucket/{key}", b"of a colleague")
    faults.reset()
    file_dataset.remove_checkpoint(RUNS, options=fault_options)
    assert (faults.count("ListObjectsV2"), faults.count("DeleteObject")) == (1, 1)
    assert {key for key in faults.keys("bucket") if key.startswith("runs/")} == others
    assert pipeline().plan(frame, checkpoint=RUNS).counts["new"] == 5
    file_dataset.remove_checkpoint(RUNS, options=fault_options)


def test_a_checkpoint_that_cannot_be_removed_is_named(faults, frame, pipeline, fault_options):
    pipeline().run(frame, checkpoint=RUNS)
    faults.fail("DeleteObject", Status(403, "AccessDenied"), times=100)
    with pytest.raises(RowError, match=f"{RUNS} could not be removed.*AccessDenied"):
        file_dataset.remove_checkpoint(RUNS, options=fault_options)
    assert pipeline().plan(frame, checkpoint=RUNS).counts["same"] == 5


def test_a_checkpoint_has_a_store_of_its_own(bucket, options, faults, frame, fault_options):
    """Its options are neither those of the inputs nor those of the target."""
    pipeline = Pipeline(forward, write_options={"into_path": "s3://bucket/out/"}, options=fault_options, progress=False)
    where = {"checkpoint": bucket.url("runs"), "checkpoint_options": options}
    pipeline.run(frame, **where)
    assert not [key for key in faults.keys("bucket") if key.startswith("runs/")]
    assert pipeline.plan(frame, **where).counts["same"] == 5
    with pytest.raises(InvalidDatasetError, match="checkpoint_options is for runs with a checkpoint"):
        pipeline.run(frame, checkpoint_options=options)
