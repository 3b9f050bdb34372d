"""A directory that fn returns: what of it is stored, what is removed of an earlier run, and what is refused."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import replace

import pandas as pd
import pytest
from helpers import failure_of
from servers.faults import ACCESS_DENIED, Meanwhile, Status
from servers.s3 import Store

from file_dataset import Pipeline, PipelineResult

OUT = "s3://bucket/out"


@pytest.fixture
def run(fault_options, one):
    """Run the row."""

    def of(fn, *, into_path=OUT, frame=one, write=None, **kwargs):
        write_options = {"into_path": into_path, **(write or {})}
        return Pipeline(fn, write_options=write_options, options=fault_options, progress=False, **kwargs).run(frame)

    return of


def series(names, *, name="series"):
    """Return an fn that returns a directory with these files; each has its name as content."""

    def fn(input_dir, output_dir):
        write_files_into(output_dir / name, names)
        return {name: output_dir / name}

    return fn


def write_files_into(directory, names):
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def below(faults, prefix="out/"):
    return [key for key in faults.keys("bucket") if key.startswith(prefix)]


def test_a_directory_is_stored_as_its_files_and_listed_as_one(faults, run):
    result = run(series(["0002.dcm", "0001.dcm", "more/deep/x", "empty"]))
    assert result.manifest.to_numpy().tolist() == [[f"{OUT}/1/series/", 1]]
    names = ["series/0001.dcm", "series/0002.dcm", "series/empty", "series/more/deep/x"]
    assert result.files["file"].tolist() == names
    assert result.files["location"].tolist() == [f"{OUT}/1/{name}" for name in names]
    assert result.files["size_bytes"].tolist() == [8, 8, 5, 11]
    assert result.files[["etag", "checksum"]].notna().all(axis=None)
    assert below(faults) == [f"out/1/{name}" for name in names]
    assert faults.body(f"{OUT}/1/series/more/deep/x") == b"more/deep/x"


def test_a_directory_costs_a_put_for_each_file_and_a_list(faults, run):
    run(series(["a", "b", "c"]))
    assert [faults.count(each) for each in ("PutObject", "ListObjectsV2", "DeleteObject", "HeadObject")] == [3, 1, 0, 0]


def test_files_and_none_stand_beside_a_directory(run):
    def fn(input_dir, output_dir):
        write_files_into(output_dir, ["series/1", "mask.mha"])
        return {"mask.mha": output_dir / "mask.mha", "series": "series", "log.txt": None}

    result = run(fn, outputs=["series", "log.txt", "mask.mha"])
    assert result.manifest.iloc[0].to_dict() == {
        "series": f"{OUT}/1/series/", "log.txt": None, "mask.mha": f"{OUT}/1/mask.mha", "id": 1,
    }  # fmt: skip
    assert result.files["file"].tolist() == ["series/1", "mask.mha"]


def test_what_an_earlier_run_left_below_the_directory_is_removed_and_nothing_else(faults, run):
    neighbours = ["out/1/series", "out/1/series-1/a", "out/1/series.txt", "out/10/series/a", "out/1/serie/a"]
    for key in (*neighbours, "out/1/series/old", "out/1/series/sub/", "out/1/series/a/b", "out/1/series/"):
        faults.put(f"s3://bucket/{key}", b"before")
    run(series(["a", "b"]))
    assert below(faults) == sorted([*neighbours, "out/1/series/a", "out/1/series/b"])
    assert faults.count("DeleteObject") == 4


def test_nothing_is_removed_before_all_outputs_of_the_row_are_stored(faults, run):
    faults.put(f"{OUT}/1/series/old", b"before")
    faults.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/z.txt")

    def fn(input_dir, output_dir):
        write_files_into(output_dir, ["series/a", "z.txt"])
        return {"series": output_dir / "series", "z.txt": output_dir / "z.txt"}

    result = run(fn)
    assert failure_of(result).error_file == "z.txt"
    assert f"listed nowhere: 1 of 1 objects below {OUT}/1/series/)" in failure_of(result).error_message
    assert len(result.manifest) == len(result.files) == 0
    assert faults.body(f"{OUT}/1/series/old") == b"before"
    assert faults.count("DeleteObject") == faults.count("ListObjectsV2") == 0


def test_an_object_that_cannot_be_removed_costs_the_row_and_is_named(faults, run):
    faults.put(f"{OUT}/1/series/old", b"before")
    faults.fail("DeleteObject", ACCESS_DENIED)
    result = run(series(["a"]))
    failed = failure_of(result)
    assert (failed.error_stage, failed.error_file, failed.error_code) == ("upload", "series/old", "AccessDenied")
    assert failed.error_url == f"{OUT}/1/series/old"
    assert "could not be removed: allow s3:DeleteObject, or remove it" in failed.error_message
    assert len(result.manifest) == 0


def test_a_store_that_may_not_be_listed_takes_no_directory(faults, run):
    faults.fail("ListObjectsV2", ACCESS_DENIED)
    failed = failure_of(run(series(["a"])))
    assert (failed.error_stage, failed.error_file, failed.error_url) == ("upload", "series", f"{OUT}/1/series/")
    assert "could not be listed: a directory is stored with s3:ListBucket, allow it" in failed.error_message


def test_a_directory_that_changes_while_it_is_stored_costs_the_row_and_removes_nothing(faults, run):
    faults.put(f"{OUT}/1/series/old", b"before")
    seen = []

    def fn(input_dir, output_dir):
        write_files_into(output_dir / "series", ["a", "b"])
        seen.append(output_dir / "series")
        return {"series": output_dir / "series"}

    faults.fail("PutObject", Meanwhile(lambda: (seen[0] / "late").write_text("late")), key="out/1/series/a")
    failed = failure_of(run(fn))
    assert (failed.error_type, failed.error_file) == ("FileChangedError", "series")
    assert "a file was added, removed or renamed" in failed.error_message
    assert "out/1/series/old" in below(faults)


def link(directory):
    (directory / "link").symlink_to(directory / "a")


def link_to_directory(directory):
    (directory / "sub").symlink_to(directory)


def pipe(directory):
    os.mkfifo(directory / "pipe")


def plug(directory):
    # a Unix socket's path is short (108 bytes, unix(7))
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(directory):
        listener.bind("plug")


def control(directory):
    (directory / "a\nb").write_text("x")


def no_utf8(directory):
    (directory / os.fsdecode(b"\xff.dcm")).touch()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (link, "link is a link"),
        (link_to_directory, "sub is a link"),
        (pipe, "pipe is a pipe"),
        (plug, "plug is a socket"),
        (control, "'a\\nb' holds a control character"),
        (no_utf8, "is not valid Unicode"),
    ],
    ids=["link", "link to a directory", "pipe", "socket", "control character", "no UTF-8"],
)
def test_what_is_no_file_costs_the_row_before_anything_is_stored(faults, run, spoil, message):
    def fn(input_dir, output_dir):
        write_files_into(output_dir / "series", ["a"])
        spoil(output_dir / "series")
        return {"series": output_dir / "series"}

    failed = failure_of(run(fn))
    assert (failed.error_stage, failed.error_file, failed.error_type) == ("fn", "series", "ValueError")
    assert message in failed.error_message
    assert faults.count("PutObject") == 0


def test_a_directory_without_a_file_is_refused(run):
    def fn(input_dir, output_dir):
        (output_dir / "series" / "sub").mkdir(parents=True)
        return {"series": output_dir / "series"}

    failed = failure_of(run(fn))
    assert (failed.error_stage, failed.error_type) == ("fn", "ValueError")
    assert "the directory holds no file" in failed.error_message


def test_a_directory_of_elsewhere_is_refused_and_the_remedy_copies_all_of_it(run, tmp_path):
    write_files_into(tmp_path / "elsewhere", ["a"])
    failed = failure_of(run(lambda input_dir, output_dir: {"series": tmp_path / "elsewhere"}))
    assert failed.error_stage == "fn"
    assert "is in neither output_dir nor input_dir of this row" in failed.error_message
    assert f"shutil.copytree('{tmp_path}/elsewhere'" in failed.error_message


def test_a_hard_link_to_a_file_of_elsewhere_is_refused_and_one_of_the_row_is_stored(run, tmp_path):
    (tmp_path / "elsewhere").write_text("x")

    def linked(input_dir, output_dir, *, to=None):
        (output_dir / "series").mkdir()
        (output_dir / "series" / "a").hardlink_to(to or input_dir / "a.txt")
        return {"series": output_dir / "series"}

    assert run(linked).files["size_bytes"].tolist() == [5]
    failed = failure_of(run(lambda i, o: linked(i, o, to=tmp_path / "elsewhere")))
    assert "series/a is a hard link to a file that has a name outside" in failed.error_message


def test_output_dir_itself_is_a_directory_and_no_text_is_none(faults, run):
    def fn(input_dir, output_dir):
        write_files_into(output_dir, ["a", "b/c"])
        return {"all": output_dir}

    assert run(fn).files["file"].tolist() == ["all/a", "all/b/c"]
    assert "'' is output_dir itself" in failure_of(run(lambda i, o: {"all": ""})).error_message


def test_a_directory_and_a_file_below_it_are_refused(run):
    def fn(input_dir, output_dir):
        write_files_into(output_dir / "series", ["x"])
        return {"series": output_dir / "series", "series/x": input_dir / "a.txt"}

    assert "['series'] are also directories of other file names" in failure_of(run(fn)).error_message


def test_a_saved_result_and_a_merged_one_have_directories_as_they_were(run, tmp_path):
    result = run(series(["a", "b"]))
    result.save(tmp_path / "saved")
    loaded = PipelineResult.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(loaded.manifest, result.manifest)
    pd.testing.assert_frame_equal(loaded.files, result.files)
    merged = result.merge(run(series(["c"])))
    assert merged.files["file"].tolist() == ["series/c"]
    assert merged.manifest["series"].tolist() == [f"{OUT}/1/series/"]


# what no output may replace


def test_a_directory_that_would_take_the_place_of_an_input_costs_the_row_and_nothing_is_stored(faults, run):
    faults.put(f"{OUT}/1/series/sub/scan.txt", b"an input")
    faults.put(f"{OUT}/1/series", b"not below it")
    frame = pd.DataFrame({"id": [1, 2], "a.txt": [f"{OUT}/1/series/sub/scan.txt", f"{OUT}/1/series"]})
    result = run(series(["a"]), frame=frame)
    assert result.manifest["id"].tolist() == [2]
    failed = failure_of(result)
    assert (failed.id, failed.error_stage, failed.error_url) == (1, "upload", f"{OUT}/1/series/")
    assert f"would take the place of {OUT}/1/series/sub/scan.txt, an input of this frame" in failed.error_message
    assert faults.body(f"{OUT}/1/series/sub/scan.txt") == b"an input"


@pytest.mark.parametrize("at", ["1/", "1/series/", "1/series/sub/", ""], ids=["around", "itself", "inside", "of all"])
def test_a_directory_in_around_or_over_an_input_directory_costs_the_row(faults, run, at):
    faults.put(f"{OUT}/1/series/sub/scan.txt", b"an input")
    result = run(series(["a"]), frame=pd.DataFrame({"id": [1], "scans": [f"{OUT}/{at}"]}))
    assert failure_of(result).error_file == "series"
    assert below(faults) == ["out/1/series/sub/scan.txt"]


def test_a_neighbour_of_an_input_directory_is_no_input(faults, run):
    faults.put(f"{OUT}/1/series-1/scan.txt", b"an input")
    result = run(series(["a"], name="series-10"), frame=pd.DataFrame({"id": [1], "scans": [f"{OUT}/1/series-1/"]}))
    assert result.manifest["series-10"].tolist() == [f"{OUT}/1/series-10/"]
    assert below(faults) == ["out/1/series-1/scan.txt", "out/1/series-10/a"]


def test_a_local_directory_that_would_take_the_place_of_an_input_costs_the_row(run, tmp_path):
    write_files_into(tmp_path / "out" / "1" / "series", ["scan.txt"])
    frame = pd.DataFrame({"id": [1], "a.txt": [str(tmp_path / "out" / "1" / "series" / "scan.txt")]})
    result = run(series(["a"]), frame=frame, into_path=tmp_path / "out")
    assert "would take the place of" in failure_of(result).error_message
    assert (tmp_path / "out" / "1" / "series" / "scan.txt").exists()


def test_a_store_that_lists_more_than_it_was_asked_for_loses_nothing(faults, run, monkeypatch):
    """Some stores have overlooked a prefix; what is removed is below it all the same."""
    faults.put("s3://bucket/other/precious", b"theirs")
    faults.put(f"{OUT}/1/series/old", b"before")
    listed = Store.list_objects_v2
    overlooks = {"prefix": ""}
    monkeypatch.setattr(
        Store, "list_objects_v2", lambda self, one: listed(self, replace(one, query={**one.query, **overlooks}))
    )
    run(series(["a"]))
    assert faults.keys("bucket") == ["in/1", "other/precious", "out/1/series/a"]
