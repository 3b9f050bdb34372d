"""A cell that ends in a slash: a directory that lands in `input_dir`, in one state or not at all."""

from __future__ import annotations

import os
import threading
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from helpers import impatient_options, tree, until
from hypothesis import given
from hypothesis import strategies as st
from servers.faults import ACCESS_DENIED, Replace, Status

from file_dataset import InvalidDatasetError, Pipeline, RowError, changed_rows, reader
from file_dataset._arrival import Arrival
from file_dataset._directories import contents, folds, refused
from file_dataset._plan import FileRow
from file_dataset._store import Listed
from file_dataset._stores import Stores
from file_dataset._urls import Directory, ObjectUrl, parse


def series(faults, *names, prefix="s3://bucket/in/series-1/"):
    for number, name in enumerate(names):
        faults.put(prefix + name, b"%d" % number)
    return prefix


def frame_of(*cells):
    return pd.DataFrame({"id": range(1, len(cells) + 1), "series": list(cells)})


def test_a_directory_lands_below_the_name_of_its_column(faults, fault_options, run, trees):
    at = series(faults, "1.dcm", "b/2.dcm", "b/c/3.dcm", ".hidden", "empty")
    faults.put(f"{at}empty", b"")
    result = run(frame_of(at), fault_options)
    assert trees[1] == {
        "series/1.dcm": b"0",
        "series/b/2.dcm": b"1",
        "series/b/c/3.dcm": b"2",
        "series/.hidden": b"3",
        "series/empty": b"",
    }
    assert len(result.manifest) == 1
    assert (faults.count("ListObjectsV2"), faults.count("GetObject"), faults.count("HeadObject")) == (1, 5, 0)
    sent = [headers for headers in faults.headers if headers[""] == "GetObject"]
    etags = {faults.store.buckets["bucket"][f"in/series-1/{name.removeprefix('series/')}"].etag for name in trees[1]}
    assert {headers["if-match"].strip('"') for headers in sent} == {etag.strip('"') for etag in etags}


def test_a_neighbour_whose_name_begins_alike_is_not_touched(faults, fault_options, run, trees):
    at = series(faults, "1.dcm")
    series(faults, "1.dcm", "2.dcm", prefix="s3://bucket/in/series-10/")
    faults.put("s3://bucket/in/series-1", b"a file of that name")
    run(frame_of(at), fault_options)
    assert trees[1] == {"series/1.dcm": b"0"}


def test_files_and_directories_of_a_row_come_together(faults, fault_options, run, trees):
    faults.put("s3://bucket/x.json", b"{}")
    frame = frame_of(series(faults, "1.dcm")).assign(**{"x.json": "s3://bucket/x.json", "none.txt": None})
    result = run(frame, fault_options)
    assert trees[1] == {"series/1.dcm": b"0", "x.json": b"{}"}
    assert sorted(result.inputs["file"]) == ["series/1.dcm", "x.json"]


def test_result_inputs_has_a_line_per_object(faults, fault_options, run):
    at = series(faults, "b/2.dcm", "1.dcm")
    inputs = run(frame_of(at), fault_options).inputs
    assert inputs["file"].tolist() == ["series/1.dcm", "series/b/2.dcm"]
    assert inputs["location"].tolist() == [f"{at}1.dcm", f"{at}b/2.dcm"]
    assert inputs["size_bytes"].tolist() == [1, 1]
    assert inputs["etag"].notna().all()


@pytest.mark.parametrize("count", [1200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_directory_of_many_objects_costs_a_list_per_1000_and_a_get_each(faults, fault_options, run, trees, count):
    at = series(faults, *(f"{number:05}" for number in range(count)))
    result = run(frame_of(at), fault_options)
    assert trees[1] == {f"series/{number:05}": b"%d" % number for number in range(count)}
    assert len(result.inputs) == count
    assert (faults.count("ListObjectsV2"), faults.count("GetObject")) == (-(-count // 1000), count)


def test_an_object_that_is_replaced_after_the_list_fails_its_row(faults, fault_options, run):
    at = series(faults, "1.dcm", "2.dcm")
    faults.fail("GetObject", Replace(b"x"), key="in/series-1/2.dcm")
    (failure,) = run(frame_of(at), fault_options).failures.to_dict("records")
    assert (failure["error_stage"], failure["error_file"]) == ("download", "series/2.dcm")
    assert failure["error_url"] == f"{at}2.dcm"
    assert failure["error_type"] != "FileNotFoundError"


def test_an_object_that_is_gone_after_the_list_fails_its_row(faults, fault_options, run):
    at = series(faults, "1.dcm", "2.dcm")
    faults.fail("GetObject", Replace(None), key="in/series-1/2.dcm")
    (failure,) = run(frame_of(at), fault_options).failures.to_dict("records")
    assert (failure["error_file"], failure["error_code"]) == ("series/2.dcm", "NoSuchKey")


def test_a_local_file_that_changes_after_the_list_fails_its_row(tmp_path, run, monkeypatch):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1").write_text("one")
    was = (tmp_path / "series" / "1").stat().st_mtime_ns

    def written_to(directory, listing):
        os.utime(tmp_path / "series" / "1", ns=(was + 10**9, was + 10**9))
        return contents(directory, listing)

    monkeypatch.setattr("file_dataset._directories.contents", written_to)
    (failure,) = run(frame_of(f"{tmp_path}/series/")).failures.to_dict("records")
    assert failure["error_file"] == "series/1"
    assert "it was written to" in failure["error_message"]


def test_a_directory_without_any_object_fails_its_row(faults, fault_options, run):
    faults.put("s3://bucket/marker/", b"")
    faults.put("s3://bucket/markers/", b"")
    faults.put("s3://bucket/markers/sub/", b"")
    result = run(frame_of("s3://bucket/none/", "s3://bucket/marker/", "s3://bucket/markers/"), fault_options)
    assert result.failures["error_type"].tolist() == ["FileNotFoundError"] * 3
    assert result.failures["error_file"].tolist() == ["series"] * 3
    assert result.failures["error_url"].tolist() == [f"s3://bucket/{n}/" for n in ("none", "marker", "markers")]
    assert faults.count("GetObject") == 0


def test_markers_make_directories_and_are_no_files(faults, fault_options, run, trees):
    at = series(faults, "1.dcm", "b/2.dcm")
    for marker in ("", "b/", "c/", "d/e/"):
        faults.put(at + marker, b"")
    result = run(frame_of(at), fault_options)
    assert trees[1] == {"series/1.dcm": b"0", "series/b/2.dcm": b"1", "series/c": None, "series/d/e": None}
    assert len(result.inputs) == 2


ODD = {
    "a marker with content": ("c/", b"x", "a marker of a directory has no content"),
    "its own marker with content": ("", b"x", "a marker of a directory has no content"),
    "a step up": ("../x", b"x", "has the segment '..'"),
    "a dot": ("./x", b"x", "has the segment '.'"),
    "two slashes": ("a//x", b"x", "has an empty segment"),
    "a slash first": ("/x", b"x", "is absolute"),
    "a control character": ("a\x07", b"x", "holds a control character"),
    "a backslash": ("a\\b", b"x", "holds a backslash"),
    "a long name": ("a" * 256, b"x", "over the 255 of a file system"),
    "a marker that steps up": ("../", b"", "has the segment '..'"),
    "a file that is a directory too": ("b", b"x", "other objects lie below this name"),
}


@pytest.mark.parametrize(("name", "body", "why"), ODD.values(), ids=ODD)
def test_an_object_that_can_be_no_file_fails_its_row_by_name(faults, fault_options, run, tmp_path, name, body, why):
    at = series(faults, "1.dcm", "b/2.dcm")
    faults.put(at + name, body)
    (failure,) = run(frame_of(at), fault_options).failures.to_dict("records")
    assert why in failure["error_message"]
    assert failure["error_file"] == f"series/{name}"
    assert failure["error_type"] == "ValueError"
    assert faults.count("GetObject") == 0


def listed(*names):
    at = Directory(ObjectUrl("b", "d/"))
    return contents(at, [Listed(ObjectUrl("b", f"d/{name}"), 1) for name in names])


COLLISIONS = {
    "case": ("a", "A"),
    "accents": ("caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")),
    "case of directories": ("t/1", "T/2"),
}


@pytest.mark.parametrize("names", COLLISIONS.values(), ids=COLLISIONS)
def test_names_that_are_one_on_this_disk_are_refused_and_elsewhere_kept(names):
    (failure,) = refused(7, "series", listed(*names), lambda: True)
    assert failure.file == f"series/{names[1]}"
    assert "are one name" in failure.message
    assert refused(7, "series", listed(*names), lambda: False) == []


def test_of_very_many_names_that_are_refused_some_are_shown_and_the_others_counted():
    failures = refused(7, "series", listed(*(f"../{number:04d}" for number in range(1_234))), lambda: False)
    assert len(failures) == 20
    assert [failure.message.endswith(" (1,214 more are refused like these)") for failure in failures[-2:]] == [
        False,
        True,
    ]
    of_twenty = refused(7, "series", listed(*(f"../{number}" for number in range(20))), lambda: False)
    assert not any("more are refused" in failure.message for failure in of_twenty)


def test_the_disk_is_asked_whether_it_folds_names(tmp_path):
    (tmp_path / "a").touch()
    assert folds(str(tmp_path)) == (tmp_path / "A").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


SEGMENTS = st.sampled_from(["a", "b", "A", "x.dcm", "..", ".", "", "caf\u00e9", ".z"])
NAMES = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(NAMES, st.integers(0, 1), max_size=12))
def test_what_lands_is_what_a_plain_reading_of_the_keys_says(sizes):
    """The reference: a dict of a tree, filled key after key."""
    listing = [Listed(ObjectUrl("b", f"d/{name}"), size) for name, size in sizes.items()]
    directory = Directory(ObjectUrl("b", "d/"))
    files = {name for name, size in sizes.items() if size or not (name == "" or name.endswith("/"))}
    if not files:
        with pytest.raises(FileNotFoundError):
            contents(directory, listing)
        return
    is_odd = any(
        (name in files and (name == "" or name.endswith("/")))
        or (name and {"", ".", ".."} & set(name.removesuffix("/").split("/")))
        for name in sizes
    )
    tree = {}
    is_both = False
    for name in sorted(sizes):
        *parents, last = name.removesuffix("/").split("/") if name else [""]
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
            if at is None:
                is_both, at = True, {}
        if name in files:
            is_both |= last in at
            at[last] = None
        elif name:
            is_both |= at.setdefault(last, {}) is None
    found = contents(directory, listing)
    assert set(found.files) == files
    assert bool(refused(1, "series", found, lambda: False)) == (is_odd or is_both)


def test_a_list_that_is_refused_fails_the_row_and_names_the_directory(faults, fault_options, run):
    at = series(faults, "1.dcm")
    faults.fail("ListObjectsV2", ACCESS_DENIED, times=None)
    (failure,) = run(frame_of(at), fault_options).failures.to_dict("records")
    assert (failure["error_stage"], failure["error_file"], failure["error_url"]) == ("download", "series", at)
    assert failure["error_code"] == "AccessDenied"


def test_after_an_object_has_failed_no_more_of_a_directory_is_begun(faults, fault_options, run):
    at = series(faults, *(f"{number:05}" for number in range(3000)))
    faults.fail("GetObject", Status(404, "NoSuchKey"), key="in/series-1/00000", times=None)
    assert run(frame_of(at), fault_options).failures["error_file"].tolist() == ["series/00000"]
    assert faults.count("GetObject") < 3000


def test_a_local_directory_is_read_likewise_with_and_without_its_slash(tmp_path, run, trees):
    source = tmp_path / "series"
    (source / "b").mkdir(parents=True)
    (source / "1").write_bytes(b"one")
    (source / "b" / "2").write_bytes(b"")
    (source / "link").symlink_to(source / "1")
    (source / "elsewhere").symlink_to(tmp_path)
    result = run(frame_of(f"{source}/", str(source), source, f"{tmp_path}/none/"))
    assert trees[1] == {"series/1": b"one", "series/b/2": b"", "series/link": b"one"}
    assert trees == dict.fromkeys((1, 2, 3), trees[1])
    assert result.failures["id"].tolist() == [4]
    assert "there is no such directory" in result.failures["error_message"][0]


def test_a_relative_local_directory_needs_no_extension_in_its_name(tmp_path, run, trees, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    Path("d/1").write_text("1")
    run(pd.DataFrame({"id": [1], "series": ["d/"], "portal": ["https://example.com/"]}))
    assert trees[1] == {"series/1": b"1"}


def test_outputs_never_lie_in_a_directory_among_the_inputs(faults, fault_options, run, tmp_path):
    at = series(faults, "1.dcm", prefix="s3://bucket/in/1/")
    result = run(frame_of(at), fault_options, into_path="s3://bucket/in")
    assert "lie in a directory among them" in result.failures["error_message"][0]
    assert faults.count("PutObject") == 0
    result = run(frame_of("s3://bucket/in/"), fault_options, into_path="s3://bucket/in/out")
    assert "lie in a directory among them" in result.failures["error_message"][0]
    (tmp_path / "in" / "1").mkdir(parents=True)
    (tmp_path / "in" / "1" / "x").touch()
    for cell in (f"{tmp_path}/in/1/", tmp_path / "in" / "1"):
        result = run(frame_of(cell), into_path=tmp_path / "in")
        assert "lie in a directory among them" in result.failures["error_message"][0]
    run(frame_of(at), fault_options, into_path="s3://bucket/in-2")
    assert faults.count("PutObject") == 1


@pytest.mark.parametrize(
    "read",
    [
        lambda it: it.into_blob_table(),
        lambda it: it.iter_blob_tables(1),
    ],
    ids=["into_blob_table", "iter_blob_tables"],
)
def test_blobs_refuse_directories_by_name_before_a_byte_moves(faults, fault_options, read):
    at = series(faults, "1.dcm")
    with pytest.raises(InvalidDatasetError, match=f"series .{at}.*a directory .* is not one file: a Pipeline"):
        read(reader(frame_of(at), options=fault_options))
    assert sum(faults.requests.values()) == 0


def test_rows_of_directories_are_iterated(faults, fault_options):
    at = series(faults, "1.dcm", "b/2.dcm")
    found = [
        sorted(path.name for path in temp.path.rglob("*.dcm"))
        for temp in reader(frame_of(at, at), options=fault_options).iter_temp_dirs()
    ]
    assert found == [["1.dcm", "2.dcm"]] * 2


CHANGES = {
    "nothing": (lambda faults, at: None, None),
    "added": (lambda faults, at: faults.put(f"{at}0.dcm", b"x"), "series: 0.dcm was not there"),
    "removed": (
        lambda faults, at: faults.store.buckets["bucket"].pop("in/series-1/2.dcm"),
        "series: 2.dcm is there no more",
    ),
    "changed": (lambda faults, at: faults.put(f"{at}2.dcm", b"x"), "series: 2.dcm has changed"),
    "many": (
        lambda faults, at: series(faults, "3.dcm", "4.dcm", "5.dcm"),
        "series: 3.dcm was not there, and 2 more",
    ),
    "gone": (
        lambda faults, at: faults.store.buckets["bucket"].clear(),
        "series: FileNotFoundError: s3://bucket/in/series-1/: no object's key begins so",
    ),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_a_directory_that_is_another_runs_again(faults, fault_options, run, tmp_path, change, why):
    at = series(faults, "1.dcm", "2.dcm")
    frame = frame_of(at)
    result = run(frame, fault_options, checkpoint=tmp_path / "done")
    change(faults, at)
    faults.requests.clear()
    changes = changed_rows(frame, result.inputs, options=fault_options)
    assert changes["why"].tolist() == ([] if why is None else [why])
    assert dict(faults.requests) == {("ListObjectsV2", ""): 1}
    again = run(frame, fault_options, checkpoint=tmp_path / "done")
    assert len(again.manifest) == 1  # it was not looked at
    assert faults.count("GetObject") == 0
    run(frame, fault_options, checkpoint=tmp_path / "done", check_inputs=True)
    assert (faults.count("GetObject") > 0) == (why not in {None, CHANGES["gone"][1]})


def test_a_frame_of_directories_lies_in_one_temp_dir(faults, fault_options):
    at = series(faults, "1.dcm", "b/2.dcm")
    faults.put(f"{at}c/", b"")
    other = series(faults, "1.dcm", prefix="s3://bucket/other/")
    faults.put("s3://bucket/x", b"x")
    frame = pd.DataFrame({"id": [1, 2, 3], "series": [at, None, other], "x.txt": ["s3://bucket/x", None, None]})
    with reader(frame, options=fault_options).into_temp_dir() as temp:
        assert tree(temp) == {
            "1/series/1.dcm": b"0",
            "1/series/b/2.dcm": b"1",
            "1/series/c": None,
            "1/x.txt": b"x",
            "2": None,
            "3/series/1.dcm": b"0",
        }
    assert (faults.count("ListObjectsV2"), faults.count("GetObject")) == (2, 4)
    with reader({"series": at}, options=fault_options).into_temp_dir() as temp:
        assert set(tree(temp)) == {"series/1.dcm", "series/b/2.dcm", "series/c"}


def test_a_temp_dir_names_every_directory_and_object_that_cannot_be_read(faults, fault_options, tmp_path):
    at = series(faults, "1.dcm", "2.dcm")
    odd = series(faults, "..", prefix="s3://bucket/odd/")
    faults.fail("GetObject", Replace(b"x"), key="in/series-1/2.dcm")
    frame = frame_of("s3://bucket/none/", at, odd)
    with pytest.raises(RowError) as failed:
        reader(frame, options=fault_options).into_temp_dir(dir=tmp_path)
    assert sorted((each.id, each.file) for each in failed.value.failures) == [
        (1, "series"),
        (2, "series/2.dcm"),
        (3, "series/.."),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_whole_already_costs_a_list_and_no_other_request(faults, fault_options, tmp_path):
    at = series(faults, "1.dcm", "b/2.dcm")
    local = reader(frame_of(at), options=fault_options).into_dir(tmp_path / "d")
    assert local["series"].tolist() == [f"{tmp_path}/d/1/series/"]
    assert tree(tmp_path / "d") == {"1/series/1.dcm": b"0", "1/series/b/2.dcm": b"1"}
    faults.requests.clear()
    reader(frame_of(at), options=fault_options).into_dir(tmp_path / "d")
    assert dict(faults.requests) == {("ListObjectsV2", ""): 1}
    faults.put(f"{at}1.dcm", b"9")
    reader(frame_of(at), options=fault_options).into_dir(tmp_path / "d")
    assert (tmp_path / "d/1/series/1.dcm").read_bytes() == b"9"
    assert faults.count("GetObject") == 1


def test_a_frame_of_local_directories_feeds_a_pipeline(faults, fault_options, tmp_path, run, trees):
    at = series(faults, "1.dcm")
    local = reader(frame_of(at), options=fault_options).into_dir(tmp_path / "d")
    run(local)
    assert trees[1] == {"series/1.dcm": b"0"}
    assert reader({"series": at}, options=fault_options).into_dir(tmp_path / "e") == {"series": tmp_path / "e/series"}


def test_a_file_that_the_store_has_no_more_is_not_removed_and_not_passed_over(faults, fault_options, tmp_path):
    at = series(faults, "1.dcm", "2.dcm")
    local = reader(frame_of(at), options=fault_options)
    local.into_dir(tmp_path)
    del faults.store.buckets["bucket"]["in/series-1/2.dcm"]
    faults.put(f"{at}3.dcm", b"3")
    with pytest.raises(RowError, match=r"series/2.dcm .*its source has no such file: remove it"):
        local.into_dir(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.dcm")) == ["1.dcm", "2.dcm", "3.dcm"]
    (tmp_path / "1/series/2.dcm").unlink()
    local.into_dir(tmp_path)


def test_a_directory_is_not_read_into_itself(tmp_path):
    (tmp_path / "1").write_text("1")
    with pytest.raises(InvalidDatasetError, match="which is an input: give another path"):
        reader(frame_of(tmp_path)).into_dir(tmp_path / "sub")


def test_sizes_of_a_directory_add_up_for_one_list(faults, fault_options):
    at = series(faults, "1.dcm", "2.dcm")
    faults.put("s3://bucket/x", b"xyz")
    frame = frame_of(at, None).assign(**{"x.txt": ["s3://bucket/x", None]})
    table = reader(frame, options=fault_options).into_size_table()
    assert table.to_pydict() == {"id": [1, 2], "series": [2, None], "x.txt": [3, None]}
    assert dict(faults.requests) == {("ListObjectsV2", ""): 1, ("HeadObject", "x"): 1}
    with pytest.raises(RowError) as failed:
        reader(frame_of("s3://bucket/none/", at, "s3://bucket/no-file"), options=fault_options).into_size_table()
    assert sorted(each.id for each in failed.value.failures) == [1, 3]


def test_the_info_table_has_a_line_per_object_and_one_for_a_directory_that_is_none(faults, fault_options):
    at = series(faults, "1.dcm", "2.dcm")
    frame = frame_of("s3://bucket/none/", at)
    lines = reader(frame, options=fault_options).into_info_table().to_pylist()
    assert [(line["id"], line["file"], line["location"], line["size_bytes"], line["error_type"]) for line in lines] == [
        (1, "series", "s3://bucket/none/", None, "FileNotFoundError"),
        (2, "series/1.dcm", f"{at}1.dcm", 1, None),
        (2, "series/2.dcm", f"{at}2.dcm", 1, None),
    ]
    assert lines[1]["etag"] is not None
    assert dict(faults.requests) == {("ListObjectsV2", ""): 2}


def test_a_plan_knows_a_directory_by_lists_alone(faults, fault_options, tmp_path):
    at = series(faults, *(f"{number:04}" for number in range(1200)))
    plan = Pipeline(lambda input_dir, output_dir: {}, into_path=tmp_path, options=fault_options).plan(
        frame_of(at, at), sizes=True
    )
    assert plan.requests == {"GET": 2400, "PUT": 0, "HEAD": 0, "LIST": 4}
    assert plan.files["size_bytes"].sum() == 2 * sum(len(str(number)) for number in range(1200))
    assert dict(faults.requests) == {("ListObjectsV2", ""): 4}


def test_names_that_a_url_would_escape_land_as_they_are(faults, fault_options, run, trees):
    names = [
        "a b+c.dcm",
        "100%25.dcm",
        "#1?x=2&y.dcm",
        "caf\u00e9.dcm",
        ".zattrs",
        "c/0.0.0",
        "~",
        "'\"",
        "-",
        "\U0001f9e0",
    ]
    at = series(faults, *names)
    assert run(frame_of(at), fault_options).failures.empty
    assert trees[1] == {f"series/{name}": b"%d" % number for number, name in enumerate(names)}


def arrival(at, into, options, cancelled):
    return Arrival(FileRow(1, {"series": parse(at, base=into)}), str(into), Stores(options), cancelled)


def test_a_directory_is_announced_once_with_the_bytes_of_all_its_files(faults, fault_options, tmp_path):
    at = series(faults, *map(str, range(100)))
    announced, ended = [], threading.Event()
    files = arrival(at, tmp_path, fault_options, threading.Event())
    files.begin(lambda more_bytes, is_first: announced.append((more_bytes, is_first)), ended.set)
    assert ended.wait(30)
    assert announced == [(190, True)]  # 10 of one digit, 90 of two
    assert len(files.finish()) == 100


def test_of_a_large_directory_some_objects_are_under_way_at_a_time(paced, tmp_path):
    """Others have their share of connections, and nothing is held of files that have not begun."""
    at = series(paced, *(f"{number:05}" for number in range(1500)))
    options = impatient_options(paced.endpoint_url, patience_s=90, max_concurrency=4)
    gate, ended, cancelled = paced.hold("GetObject"), threading.Event(), threading.Event()
    files = arrival(at, tmp_path, options, cancelled)
    files.begin(lambda *_: None, ended.set)
    assert until(lambda: paced.count("GetObject") == 4)
    assert len(list(files.silent())) == 16
    gate.set()
    assert ended.wait(60)
    assert len(files.finish()) == 1500


def test_what_is_given_up_begins_no_more(paced, tmp_path):
    at = series(paced, *map(str, range(100)))
    options = impatient_options(paced.endpoint_url, patience_s=90, max_concurrency=2)
    gate, ended, cancelled = paced.hold("GetObject"), threading.Event(), threading.Event()
    files = arrival(at, tmp_path, options, cancelled)
    files.begin(lambda *_: None, ended.set)
    assert until(lambda: paced.count("GetObject") == 2)
    cancelled.set()
    assert files.give_up() == []
    gate.set()
    assert until(lambda: paced.in_flight == 0)
    assert not ended.is_set()
    assert paced.count("GetObject") == 2
    assert tree(tmp_path) == {}


def test_a_store_that_lists_what_was_not_asked_for_is_not_believed():
    with pytest.raises(OSError, match="does not begin with s3://b/d/"):
        contents(Directory(ObjectUrl("b", "d/")), [Listed(ObjectUrl("b", "e/x"), 1)])
