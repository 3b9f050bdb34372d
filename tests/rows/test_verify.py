"""`verify`: which files of a result are not as they were stored."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers import forward
from servers.faults import Status

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline


def run(bucket, options, into, texts=("one", "two", "three")):
    urls = [bucket.put(f"in/{number}.txt", text.encode()) for number, text in enumerate(texts)]
    frame = pd.DataFrame({"id": range(len(texts)), "a.txt": urls})
    return Pipeline(forward, into_path=into, options=options, progress=False).run(frame).files


def kinds(wrong):
    return dict(zip(wrong["id"].tolist(), wrong["kind"].tolist(), strict=True))


def test_what_is_there_and_the_same_passes(bucket, options):
    wrong = file_dataset.verify(run(bucket, options, bucket.url("out")), options=options)
    assert len(wrong) == 0
    assert wrong.columns.tolist() == ["id", "file", "location", "kind", "finding"]


def test_missing_and_changed_files_are_named(bucket, options):
    files = run(bucket, options, bucket.url("out"))
    bucket.client.delete_object(Bucket=bucket.name, Key="out/0/a.txt")
    bucket.put("out/2/a.txt", b"THREE")
    wrong = file_dataset.verify(files, options=options)
    assert kinds(wrong) == {0: "missing", 2: "changed"}
    assert wrong["location"].tolist() == [bucket.url("out/0/a.txt"), bucket.url("out/2/a.txt")]
    assert "was stored" in wrong["finding"].tolist()[1]


def test_sizes_alone_do_not_see_other_bytes_of_one_length(bucket, options):
    files = run(bucket, options, bucket.url("out"))
    bucket.put("out/0/a.txt", b"ONE")
    bucket.put("out/1/a.txt", b"longer")
    assert kinds(file_dataset.verify(files, content=False, options=options)) == {1: "changed"}


def test_the_same_bytes_stored_again_are_no_change(bucket, options):
    files = run(bucket, options, bucket.url("out"))
    bucket.put("out/0/a.txt", b"one")
    assert len(file_dataset.verify(files, options=options)) == 0


def test_local_files_are_compared_by_size(bucket, options, tmp_path):
    files = run(bucket, options, tmp_path / "out")
    (tmp_path / "out/0/a.txt").unlink()
    (tmp_path / "out/1/a.txt").write_text("longer")
    assert kinds(file_dataset.verify(files)) == {0: "missing", 1: "changed"}


def test_what_the_store_refuses_is_not_known(faults, fault_options):
    files = pd.DataFrame(
        {"id": ["x"], "file": ["a.txt"], "location": ["s3://bucket/a"], "size_bytes": [3], "etag": [None]}
        | {"checksum": [None]}
    )
    faults.put("s3://bucket/a", b"one")
    assert len(file_dataset.verify(files, options=fault_options)) == 0
    faults.fail("HeadObject", Status(403, "AccessDenied"))
    assert kinds(file_dataset.verify(files, options=fault_options)) == {"x": "not readable"}


@pytest.mark.parametrize("given", [None, pd.DataFrame({"id": [1]}), Path("result")])
def test_what_is_no_frame_of_files_is_refused(given):
    with pytest.raises(InvalidDatasetError, match=r"give result\.files"):
        file_dataset.verify(given)


def test_a_result_without_files_costs_no_request(bucket, options):
    files = run(bucket, options, bucket.url("out")).head(0)
    assert len(file_dataset.verify(files)) == 0
