"""What will be copied where, decided without touching a file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_dataset import InvalidDatasetError
from file_dataset._plan import FileRow, Transfer, check_file_names, downloads, uploads
from file_dataset._urls import ObjectUrl

patient = settings(deadline=None)  # a busy machine is no failure

IMAGE = ObjectUrl("bucket", "scans/1.mha")
MASK = Path("/data/1.mask.mha")


# --- downloads


def test_a_file_is_downloaded_under_its_file_name():
    assert downloads(FileRow("1", {"image.mha": IMAGE}), "/rows") == [
        Transfer("1", "image.mha", IMAGE, "/rows/image.mha")
    ]


def test_a_file_name_with_a_slash_lies_in_a_directory():
    (transfer,) = downloads(FileRow("1", {"sub/image.mha": IMAGE}), "/rows")
    assert transfer.target == "/rows/sub/image.mha"


def test_local_files_are_planned_like_objects():
    (transfer,) = downloads(FileRow("1", {"mask.mha": MASK}), "/rows")
    assert transfer.source == MASK


def test_a_file_that_the_row_has_not_is_not_downloaded():
    row = FileRow(1, {"image.mha": IMAGE, "mask.mha": None})
    assert [transfer.file for transfer in downloads(row, "/rows")] == ["image.mha"]


def test_downloads_keep_the_order_of_the_row():
    row = FileRow(1, {"b": IMAGE, "a": MASK, "c": IMAGE})
    assert [transfer.file for transfer in downloads(row, "/rows")] == ["b", "a", "c"]


def test_a_row_without_an_id_can_be_downloaded():
    (transfer,) = downloads(FileRow(None, {"image.mha": IMAGE}), "/rows")
    assert transfer.row_id is None


# --- uploads


def test_an_output_is_stored_below_the_prefix_and_the_id():
    assert uploads("1", {"out.mha": MASK}, ObjectUrl("bucket", "out")).files == [
        Transfer("1", "out.mha", MASK, ObjectUrl("bucket", "out/1/out.mha"))
    ]


def test_an_output_can_go_to_a_local_directory():
    (transfer,) = uploads("1", {"sub/out.mha": MASK}, Path("/out")).files
    assert transfer.target == Path("/out/1/sub/out.mha")


def test_an_integer_id_names_the_directory_and_stays_an_integer():
    (transfer,) = uploads(7, {"out.mha": MASK}, ObjectUrl("bucket", "out")).files
    assert (transfer.row_id, str(transfer.target)) == (7, "s3://bucket/out/7/out.mha")


def test_an_output_that_is_none_is_not_stored():
    assert uploads("1", {"a": None, "b": MASK}, Path("/out")).files == [Transfer("1", "b", MASK, Path("/out/1/b"))]


UNSAFE = {
    "id with a slash": ("../1", "out.mha", "holds a slash"),
    "id null": (None, "out.mha", "is null"),
    "id bool": (True, "out.mha", "is a bool"),
    "name leaves": ("1", "../out.mha", r"segment '\.\.'"),
    "name absolute": ("1", "/out.mha", "is absolute"),
}


@pytest.mark.parametrize("into", [ObjectUrl("bucket", "out"), Path("/out")], ids=["s3", "local"])
@pytest.mark.parametrize(("row_id", "name", "said"), UNSAFE.values(), ids=UNSAFE)
def test_an_upload_that_would_leave_its_place_is_refused(row_id, name, said, into):
    with pytest.raises(InvalidDatasetError, match=said):
        uploads(row_id, {name: MASK}, into)


def test_an_upload_under_a_key_that_s3_refuses_is_refused():
    with pytest.raises(InvalidDatasetError, match="longer than S3's 1024 bytes"):
        uploads("1", {"out.mha": MASK}, ObjectUrl("bucket", "x" * 1020))


# --- names side by side


def test_file_names_that_fit_in_one_directory_are_returned():
    names = ["image.mha", "sub/image.mha", "sub/mask.mha", "sub.txt"]
    assert check_file_names(names, local=True) == names


def test_no_file_names_fit_too():
    assert check_file_names([], local=True) == []


CLASHES = {
    "unsafe": (["a", "../b"], r"'\.\./b' has the segment"),
    "no text": (["a", 5], "a file name is text"),
    "twice": (["a", "b", "a"], r"\['a'\] appear more than once"),
    "file and directory": (["a", "a/b"], r"\['a'\] are also directories"),
    "directory first": (["a/b/c", "a/b"], r"\['a/b'\] are also directories"),
    "far below": (["a/b/c/d", "a"], r"\['a'\] are also directories"),
}


@pytest.mark.parametrize("local", [True, False], ids=["local", "s3"])
@pytest.mark.parametrize(("names", "said"), CLASHES.values(), ids=CLASHES)
def test_file_names_that_cannot_lie_side_by_side_are_refused(names, said, local):
    with pytest.raises(InvalidDatasetError, match=said):
        check_file_names(names, local=local)


FOLDED = {"case": ["A.mha", "a.mha"], "accents": ["é", "e\u0301"], "directory": ["A/x", "a/X"]}


@pytest.mark.parametrize("names", FOLDED.values(), ids=FOLDED)
def test_names_that_some_disks_take_for_one_are_refused_on_disk(names):
    with pytest.raises(InvalidDatasetError, match="differ from others by case or accents alone"):
        check_file_names(names, local=True)


@pytest.mark.parametrize("names", FOLDED.values(), ids=FOLDED)
def test_names_that_some_disks_take_for_one_are_two_keys_in_s3(names):
    assert check_file_names(names, local=False) == names


def test_a_file_that_some_disks_take_for_a_directory_is_refused_on_disk():
    with pytest.raises(InvalidDatasetError):
        check_file_names(["a", "A/x"], local=True)


@patient
@given(st.lists(st.text(st.sampled_from("aA./"), min_size=1, max_size=4), max_size=5))
def test_accepted_names_are_files_of_their_own(names):
    try:
        check_file_names(names, local=False)
    except InvalidDatasetError:
        return
    paths = [PurePosixPath(name) for name in names]
    assert len(set(paths)) == len(paths)
    assert not {parent for path in paths for parent in path.parents}.intersection(paths)
