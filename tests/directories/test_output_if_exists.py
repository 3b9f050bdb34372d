"""`if_exists` where an output is a directory: what counts as there, what it costs to look, and what is taken back."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import failure_of
from servers.faults import ACCESS_DENIED, Status

from file_dataset import Pipeline

OUT = "s3://bucket/out"
KINDS = ("HeadObject", "ListObjectsV2", "GetObject", "PutObject", "DeleteObject")


@pytest.fixture
def run(fault_options, one):
    def of(if_exists, fn, *, into_path=OUT, **kwargs):
        write = {"into_path": into_path, "if_exists": if_exists}
        return Pipeline(fn, write_options=write, options=fault_options, progress=False, **kwargs).run(one)

    return of


def both(input_dir, output_dir):
    (output_dir / "series" / "sub").mkdir(parents=True)
    for name in ("1", "sub/2"):
        (output_dir / "series" / name).write_text(name)
    return {"series": output_dir / "series", "a.txt": input_dir / "a.txt"}


def never(input_dir, output_dir):
    raise AssertionError("fn was called")


def counts(faults):
    return [faults.count(kind) for kind in KINDS]


# "error"


def test_error_finds_objects_below_the_directory_and_stores_nothing(faults, run):
    faults.put(f"{OUT}/1/series/other", b"theirs")
    failed = failure_of(run("error", both))
    assert (failed.error_stage, failed.error_file, failed.error_type) == ("upload", "series", "FileExistsError")
    assert failed.error_url == f"{OUT}/1/series/"
    assert counts(faults) == [0, 1, 1, 0, 0]
    assert faults.keys("bucket") == ["in/1", "out/1/series/other"]


@pytest.mark.parametrize("name", ["series", "cells.zarr", "sub/series"])
def test_error_finds_a_declared_directory_before_the_download(faults, run, name):
    for number in range(1001):
        faults.put(f"{OUT}/1/{name}/{number}", b"theirs")
    failed = failure_of(run("error", never, outputs=["a.txt", name]))
    assert (failed.error_stage, failed.error_file, failed.error_type) == ("upload", name, "FileExistsError")
    assert failed.error_url == f"{OUT}/1/{name}/"
    assert counts(faults) == [2, 1, 0, 0, 0]


def test_error_names_every_declared_directory_that_is_there(faults, run):
    for name in ("mask", "series"):
        faults.put(f"{OUT}/1/{name}/other", b"theirs")
    result = run("error", never, outputs=["none", "series", "mask"])
    assert sorted(result.failures["error_file"]) == ["mask", "series"]
    assert counts(faults) == [3, 3, 0, 0, 0]


def test_error_lists_nothing_where_an_object_has_failed_the_row(faults, run):
    faults.put(f"{OUT}/1/a.txt", b"theirs")
    assert failure_of(run("error", never, outputs=["a.txt", "series"])).error_file == "a.txt"
    assert counts(faults) == [2, 0, 0, 0, 0]


def test_error_finds_a_declared_directory_with_the_name_of_a_file_when_it_is_to_be_stored(faults, run):
    def fn(input_dir, output_dir):
        (output_dir / "a.txt").mkdir()
        (output_dir / "a.txt" / "1").write_text("1")
        return {"a.txt": output_dir / "a.txt"}

    faults.put(f"{OUT}/1/a.txt/other", b"theirs")
    assert failure_of(run("error", fn, outputs=["a.txt"])).error_url == f"{OUT}/1/a.txt/"
    assert counts(faults) == [1, 1, 1, 0, 0]


def test_error_takes_no_right_to_list_where_a_declared_output_is_a_file(faults, run):
    """A name without an extension can be that of either."""
    faults.fail("ListObjectsV2", ACCESS_DENIED, times=None)
    assert len(run("error", lambda input_dir, output_dir: {"mask": input_dir / "a.txt"}, outputs=["mask"]).files) == 1


def test_error_costs_one_list_for_a_directory_that_is_new(faults, run):
    assert len(run("error", both).manifest) == 1
    assert counts(faults) == [0, 1, 1, 3, 0]


def test_error_takes_back_the_objects_of_a_directory_where_another_output_fails(faults, run):
    faults.put(f"{OUT}/1/series-1/theirs", b"theirs")
    faults.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt")
    assert failure_of(run("error", both)).error_file == "a.txt"
    assert faults.keys("bucket") == ["in/1", "out/1/series-1/theirs"]
    assert len(run("overwrite", both).manifest) == 1


@pytest.mark.parametrize("declared", [None, ["a.txt", "series"]], ids=["undeclared", "declared"])
def test_error_says_that_a_directory_takes_the_right_to_list(faults, run, declared):
    faults.fail("ListObjectsV2", ACCESS_DENIED, times=None)
    failed = failure_of(run("error", both, outputs=declared))
    assert (failed.error_file, failed.error_code) == ("series", "AccessDenied")
    assert "a directory is stored with s3:ListBucket" in failed.error_message
    assert counts(faults) == ([2, 2, 1, 0, 0] if declared else [0, 1, 1, 0, 0])


def test_error_finds_a_local_directory_before_the_download(faults, run, tmp_path):
    (tmp_path / "out" / "1" / "series").mkdir(parents=True)
    (tmp_path / "out" / "1" / "series" / "theirs").write_text("theirs")
    failed = failure_of(run("error", both, into_path=tmp_path / "out", outputs=["a.txt", "series"]))
    assert (failed.error_file, failed.error_type) == ("series", "FileExistsError")
    assert faults.count("GetObject") == 0


# "skip"


def test_skip_lists_what_an_earlier_run_stored_and_runs_nothing(faults, run):
    first = run("overwrite", both)
    faults.requests.clear()
    again = run("skip", never, outputs=["series", "a.txt"])
    assert (
        again.manifest[["a.txt", "series"]].to_numpy().tolist()
        == first.manifest[["a.txt", "series"]].to_numpy().tolist()
    )
    columns = ["file", "location", "size_bytes", "etag"]
    by = {"by": "file", "ignore_index": True}
    pd.testing.assert_frame_equal(again.files[columns].sort_values(**by), first.files[columns].sort_values(**by))
    assert counts(faults) == [2, 1, 0, 0, 0]


def test_skip_runs_a_row_whose_directory_is_not_there_after_one_list(faults, run):
    result = run("skip", both, outputs=["series", "a.txt"])
    assert len(result.manifest) == 1
    assert counts(faults) == [2, 2, 1, 3, 0]  # the second LIST finds what is no part of it any more


@pytest.mark.parametrize("marker", [False, True], ids=["nothing", "a marker"])
def test_skip_takes_no_part_of_a_directory_that_a_failed_row_stored_for_the_whole(faults, run, marker):
    if marker:
        faults.put(f"{OUT}/1/series/", b"")
    faults.put(f"{OUT}/1/series-1/theirs", b"theirs")
    faults.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/series/sub/2")
    failed = failure_of(run("skip", both, outputs=["series", "a.txt"]))
    assert "; removed again: series" in failed.error_message
    assert not [key for key in faults.keys("bucket") if key.startswith("out/1/series/") and not key.endswith("/")]
    faults.reset()
    assert len(run("skip", both, outputs=["series", "a.txt"]).files) == 3
    assert "out/1/series-1/theirs" in faults.keys("bucket")


def test_skip_leaves_what_was_there_of_a_row_that_fails(faults, run):
    for name in ("1", "sub/2"):
        faults.put(f"{OUT}/1/series/{name}", b"before")
    faults.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/series/sub/2")
    failure_of(run("skip", both, outputs=["series", "a.txt"]))  # a.txt is missing
    assert [key for key in faults.keys("bucket") if key.startswith("out/")] == ["out/1/series/1", "out/1/series/sub/2"]
    faults.reset()
    assert faults.body(f"{OUT}/1/series/sub/2") == b"before"
    assert len(run("skip", both, outputs=["series", "a.txt"]).files) == 3
    assert faults.body(f"{OUT}/1/series/sub/2") == b"sub/2"


def test_skip_takes_markers_for_nothing(faults, run):
    faults.put(f"{OUT}/1/series/", b"")
    faults.put(f"{OUT}/1/a.txt", b"before")
    assert len(run("skip", both, outputs=["series", "a.txt"]).files) == 3
    assert faults.body(f"{OUT}/1/a.txt") == b"row 1"


def test_skip_of_a_store_that_may_not_be_listed_costs_the_row(faults, run):
    faults.fail("ListObjectsV2", ACCESS_DENIED)
    failed = failure_of(run("skip", never, outputs=["series", "a.txt"]))
    assert (failed.error_stage, failed.error_code) == ("upload", "AccessDenied")


def test_skip_finds_local_directories(run, tmp_path):
    first = run("overwrite", both, into_path=tmp_path / "out")
    again = run("skip", never, into_path=tmp_path / "out", outputs=["series", "a.txt"])
    assert again.manifest["series"].tolist() == first.manifest["series"].tolist() == [f"{tmp_path}/out/1/series/"]
    assert sorted(again.files["location"]) == sorted(first.files["location"])
