"""Directories out and in again on real stores: moto's, rclone's, and, by `s3/test_ceph.py`, Ceph's."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import zarr
from helpers import failure_of, options_for
from servers import rclone
from servers.faults import Status

from file_dataset import Options, Pipeline, write_files

# two pages of a LIST; rclone looks through a directory for each object that it takes
MANY = {"moto": 1_200, "rclone": 200}


@pytest.fixture(params=["moto", "rclone"])
def store(request, tmp_path_factory):
    """URL of a prefix, and the options of its store."""
    if request.param == "moto":
        bucket = request.getfixturevalue("bucket")
        yield bucket.url("out"), request.getfixturevalue("options")
        return
    root = tmp_path_factory.mktemp("rclone")
    (root / "bucket").mkdir()
    with rclone.running(root) as url:
        yield "s3://bucket/out", Options(rclone.KEYS, options_for(url).s3_client_kwargs)


@pytest.fixture
def frame(tmp_path):
    (tmp_path / "a.txt").write_text("row")
    return pd.DataFrame({"id": [1, 10], "a.txt": str(tmp_path / "a.txt")})


def slices(count):
    def fn(input_dir, output_dir):
        (output_dir / "series").mkdir()
        for number in range(count):
            (output_dir / "series" / f"{number:04}.dcm").write_bytes(b"%d" % number)
        return {"series": output_dir / "series"}

    return fn


def counted(input_dir, output_dir):
    found = sorted((input_dir / "series").iterdir())
    assert [int(path.read_bytes()) for path in found] == list(range(len(found)))
    (output_dir / "count.txt").write_text(str(len(found)))
    return {"count.txt": output_dir / "count.txt"}


@pytest.mark.slow
def test_many_files_are_stored_read_back_and_replaced_by_fewer(store, request, frame, tmp_path):
    into_path, options = store
    for count in (MANY[request.node.callspec.params["store"]], 3):
        first = Pipeline(slices(count), into_path=into_path, options=options, progress=False).run(frame)
        assert first.failures.empty, first.failures["error_message"].tolist()
        assert first.files["id"].value_counts().to_dict() == {1: count, 10: count}
        then = Pipeline(counted, into_path=tmp_path / "counts", options=options, progress=False).run(first.manifest)
        assert [(tmp_path / "counts" / f"{row}" / "count.txt").read_text() for row in (1, 10)] == [str(count)] * 2
        assert len(then.manifest) == 2


def test_a_zarr_store_is_an_output_and_the_next_pipeline_opens_it(store, frame, tmp_path):
    into_path, options = store
    values = np.arange(60 * 40).reshape(60, 40)

    def tiled(input_dir, output_dir):
        at = output_dir / "image.zarr"
        zarr.create_array(store=str(at), data=values, chunks=(16, 16)).attrs["spacing"] = [0.5, 0.5]
        return {"image.zarr": at}

    def summed(input_dir, output_dir):
        image = zarr.open_array(str(input_dir / "image.zarr"), mode="r")
        assert image.attrs["spacing"] == [0.5, 0.5]
        (output_dir / "sum.txt").write_text(str(int(image[:].sum())))
        return {"sum.txt": output_dir / "sum.txt"}

    first = Pipeline(tiled, into_path=into_path, options=options, progress=False).run(frame)
    assert first.manifest["image.zarr"].tolist() == [f"{into_path}/1/image.zarr/", f"{into_path}/10/image.zarr/"]
    then = Pipeline(summed, into_path=tmp_path / "sums", options=options, progress=False).run(first.manifest)
    assert then.failures.empty, then.failures["error_message"].tolist()
    assert (tmp_path / "sums" / "1" / "sum.txt").read_text() == str(int(values.sum()))


def test_odd_names_and_empty_files_come_back(store, tmp_path):
    names = ["a b+c", "100%25", "ünï", "what?", "a#b", "a&b=c", "a:b", "~tilde", "deep/er/x", ".hidden", "empty"]
    for name in names:
        path = tmp_path / "odd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty" else name)
    into_path, options = store
    frame = pd.DataFrame({"id": [1], "odd": [tmp_path / "odd"]})
    manifest = write_files(frame, into_path=into_path, options=options)
    assert manifest["odd"].tolist() == [f"{into_path}/1/odd/"]

    def look(input_dir, output_dir):
        found = {str(path.relative_to(input_dir / "odd")) for path in (input_dir / "odd").rglob("*") if path.is_file()}
        assert found == set(names)
        return {"one": input_dir / "odd" / "ünï"}

    result = Pipeline(look, into_path=tmp_path / "out", options=options, progress=False).run(manifest)
    assert result.failures.empty, result.failures["error_message"].tolist()


def test_in_a_bucket_that_keeps_versions_what_is_removed_is_hidden_and_not_lost(bucket, options, frame):
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    for count in (5, 2):
        Pipeline(slices(count), into_path=bucket.url("out"), options=options, progress=False).run(frame.iloc[:1])
    assert bucket.keys() == ["out/1/series/0000.dcm", "out/1/series/0001.dcm"]
    versions = bucket.client.list_object_versions(Bucket=bucket.name, Prefix="out/1/series/")
    assert [each["Key"][-8:] for each in versions["DeleteMarkers"]] == ["0002.dcm", "0003.dcm", "0004.dcm"]
    assert len(versions["Versions"]) == 7


def test_a_directory_that_breaks_half_way_is_listed_nowhere_and_removes_nothing(faults, fault_options, frame):
    """Files before the one that fails have replaced theirs: S3 has no transaction. The others are as they were."""
    for number in range(400):
        faults.put(f"s3://bucket/out/1/series/{number:04}.dcm", b"before")
    faults.put("s3://bucket/out/1/series/old", b"before")
    faults.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/series/0005.dcm", times=None)
    pipeline = Pipeline(slices(400), into_path="s3://bucket/out", options=fault_options, progress=False)
    result = pipeline.run(frame.iloc[:1])
    failed = failure_of(result)
    assert (failed.error_stage, failed.error_file) == ("upload", "series/0005.dcm")
    stored = faults.count("PutObject") - 1
    assert f"listed nowhere: {stored} of 400 objects below s3://bucket/out/1/series/)" in failed.error_message
    assert len(result.files) == len(result.manifest) == 0
    assert faults.count("DeleteObject") == 0
    bodies = [faults.body(f"s3://bucket/{key}") for key in faults.keys("bucket")]
    assert bodies.count(b"before") == 401 - stored
    assert stored < 399  # after the failure no other one begins


@pytest.mark.slow
def test_ten_thousand_files_take_no_more_requests_in_memory_than_a_few_hundred(faults, tmp_path):
    """The most of memory in a process of its own: of 10,000 files there are names, sizes, ETags, and no requests."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""\
        import resource, sys
        from pathlib import Path
        import file_dataset
        at, count, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        options = file_dataset.Options(keys, {"endpoint_url": url})
        file_dataset.write_files({"d": at}, into_path="s3://bucket/out", id=count, options=options)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """)
    )
    faults.put("s3://bucket/x", b"")
    most_kib = {}
    for count in (300, 10_000):
        at = tmp_path / f"{count}"
        at.mkdir()
        for number in range(count):
            (at / f"{number:05}").write_bytes(b"x")
        done = subprocess.run(
            [sys.executable, program, at, f"{count}", faults.endpoint_url], capture_output=True, text=True, check=True
        )
        most_kib[count] = int(done.stdout)
    print(most_kib)  # noqa: T201  # pytest shows it when this fails, and -s always
    assert len(faults.keys("bucket")) == 10_301
    assert most_kib[10_000] - most_kib[300] < 40 << 10  # 4 KiB for each file that is more; a request takes as much
