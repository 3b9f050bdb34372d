"""What `find_files` finds: as `list_files`, but that a name that is not safe costs its file."""

from __future__ import annotations

import pandas as pd
import pytest

import file_dataset


@pytest.fixture
def put(tmp_path):
    def store(name, text="scan"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return store


def test_what_has_legal_names_is_what_list_files_has(put, tmp_path):
    for name in ("a/1.txt", "b/2.txt"):
        put(name)
    patterns = {"scan.txt": tmp_path / "{site}/{id}.txt"}
    found = file_dataset.find_files(patterns, details=True)
    for _ in range(2):  # it is not used up
        pd.testing.assert_frame_equal(found.frame(), file_dataset.list_files(patterns, details=True))
    assert (len(found), found.left_out, repr(found)) == (2, {}, "<FoundFiles of 2 rows, 0 files left out>")
    assert found.none().frame().columns.tolist() == found.frame().columns.tolist()


def test_a_name_that_is_not_safe_is_left_out_and_named(put, tmp_path):
    bad = [put("a/1\n2.txt"), put("a/...txt"), put("b/\x85.txt")]
    put("a/1.txt")
    found = file_dataset.find_files({"scan.txt": tmp_path / "{site}/{id}.txt"})
    assert found.frame()["id"].tolist() == ["1"]
    assert sorted(found.left_out) == sorted(bad)
    assert "{id} would be '1\\n2', which is not a safe name: rename the object" in found.left_out[bad[0]]
    assert {value: len(each.left_out) for value, each in found.by("site").items()} == {"a": 2, "b": 1}


def test_list_files_names_all_of_them_and_the_remedy(put, tmp_path):
    bad = [put(f"a/{number}\n.txt") for number in range(7)]
    with pytest.raises(
        file_dataset.InvalidDatasetError, match=r"rename the object.*\(7 files are refused in all\)"
    ) as caught:
        file_dataset.list_files({"scan.txt": tmp_path / "{site}/{id}.txt"})
    assert all(repr(each) in str(caught.value) for each in bad[:5])


def test_a_row_whose_id_can_name_no_directory_is_left_out_where_that_is_asked(put, tmp_path):
    long, slash = put(f"{'a' * 200}/{'b' * 200}.txt"), put("a/b\\c.txt")
    put("a/1.txt")
    found = file_dataset.find_files({"scan.txt": tmp_path / "{site}/{x}.txt"}, id="{site}-{x}")
    with pytest.raises(file_dataset.InvalidDatasetError, match="holds a backslash: it names one directory"):
        found.frame()
    legal = found.with_legal_ids()
    assert legal.frame()["id"].tolist() == ["a-1"]
    assert "401 bytes of UTF-8, over the 255" in legal.left_out[long]
    assert "holds a backslash" in legal.left_out[slash]
    assert {value: len(each.left_out) for value, each in legal.by("site").items()} == {"a": 1, "a" * 200: 1}
    assert legal.with_legal_ids() is legal


def test_two_files_of_one_row_are_an_error_of_their_value_alone(put, tmp_path):
    put("a/1/x.txt")
    put("b/1/x.txt")
    put("b/1/y.txt")
    found = file_dataset.find_files({"scan.txt": tmp_path / "{site}/{id}/*.txt"})
    by_site = found.by("site")
    assert by_site["a"].frame()["id"].tolist() == ["1"]
    for each in (found, by_site["b"]):
        with pytest.raises(
            file_dataset.InvalidDatasetError, match=r"two files for site 'b', id '1': .*x.txt' and .*y.txt'"
        ):
            each.frame()
    assert {value: len(etags) for value, etags in found.etags("site").items()} == {"a": 1, "b": 2}
    assert len(found.etags()[None]) == 3


def test_ids_may_repeat_in_others_values(put, tmp_path):
    put("a/1.txt")
    put("b/1.txt")
    found = file_dataset.find_files({"scan.txt": tmp_path / "{site}/{id}.txt"})
    assert [each.frame()["id"].tolist() for each in found.by("site").values()] == [["1"], ["1"]]
    with pytest.raises(file_dataset.InvalidDatasetError, match="the id '1' is of two rows"):
        found.frame()


def test_the_etag_of_a_directory_does_not_depend_on_others(put, tmp_path):
    put("1/0001.dcm", "12")
    (etag,) = file_dataset.find_files({"series": f"{tmp_path}/{{id}}/"}).etags()[None].values()
    modified = (tmp_path / "1/0001.dcm").stat().st_mtime_ns
    assert etag == f"2 {modified}"
