"""`list_files` with patterns that end in a slash: directories."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from file_dataset import InvalidDatasetError, list_files, reader


@pytest.fixture
def put(faults):
    def put(*keys, body=b"x"):
        for key in keys:
            faults.put(f"s3://b/{key}", body)

    return put


def test_a_pattern_that_ends_in_a_slash_matches_directories(put, faults, fault_options):
    put("raw/north/1/1.dcm", "raw/north/1/b/2.dcm", "raw/north/10/1.dcm", "raw/south/2/x", "raw/file", "other/3/x")
    put("raw/south/3/", body=b"")
    frame = list_files({"series": "s3://b/raw/{site}/{id}/"}, options=fault_options)
    assert frame.to_dict("list") == {
        "series": ["s3://b/raw/north/1/", "s3://b/raw/north/10/", "s3://b/raw/south/2/"],
        "id": ["1", "10", "2"],
        "site": ["north", "north", "south"],
    }
    assert dict(faults.requests) == {("ListObjectsV2", ""): 1}
    with reader(frame, options=fault_options).into_temp_dir() as temp:
        assert (temp / "1/series/b/2.dcm").read_bytes() == b"x"


def test_sizes_of_listed_directories_add_up(put, fault_options):
    put("raw/1/1.dcm", "raw/1/b/2.dcm")
    put("raw/2/1.dcm", body=b"xyz")
    frame = list_files({"series": "s3://b/raw/{id}/"}, details=True, options=fault_options)
    assert frame["series.size_bytes"].tolist() == [2, 3]
    assert frame["series.etag"].isna().all()
    assert frame["series.last_modified"].notna().all()


def test_sizes_add_up_over_pages_that_could_be_divided(put, faults, fault_options):
    put(*(f"raw/{number % 4}/{number:05}" for number in range(5000)), "raw/0/b/c")
    frame = list_files({"series": "s3://b/raw/{id}/"}, details=True, options=fault_options)
    assert frame["series.size_bytes"].tolist() == [1251, 1250, 1250, 1250]
    assert faults.count("ListObjectsV2") == 6
    faults.requests.clear()
    assert len(list_files({"series": "s3://b/raw/{id}/"}, options=fault_options)) == 4
    assert faults.count("ListObjectsV2") <= 12


def test_directories_and_files_are_joined(put, fault_options):
    put("raw/1/1.dcm", "raw/2/1.dcm", "masks/2.mha", "masks/3.mha", "atlas/a/x")
    patterns = {"series": "s3://b/raw/{id}/", "mask.mha": "s3://b/masks/{id}.mha", "atlas": "s3://b/atlas/a/"}
    frame = list_files(patterns, options=fault_options)
    assert frame["id"].tolist() == ["1", "2", "3"]
    assert frame["series"].isna().tolist() == [False, False, True]
    assert frame["atlas"].tolist() == ["s3://b/atlas/a/"] * 3


def test_local_directories_are_matched_and_links_in_them_not_followed(tmp_path):
    (tmp_path / "raw" / "1" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "raw" / "1" / "deep" / "er" / "x").write_text("xyz")
    (tmp_path / "raw" / "empty").mkdir()
    (tmp_path / "raw" / "2").symlink_to(tmp_path / "raw" / "1")
    (tmp_path / "raw" / "1" / "loop").symlink_to(tmp_path)
    frame = list_files({"series": f"{tmp_path}/raw/{{id}}/"}, details=True)
    assert frame["series"].tolist() == [f"{tmp_path}/raw/1/", f"{tmp_path}/raw/2/"]
    assert frame["series.size_bytes"].tolist() == [3, 3]
    with reader(frame).into_temp_dir() as temp:
        assert (temp / "2/series/deep/er/x").read_text() == "xyz"


def test_two_directories_for_one_row_are_an_error_that_shows_both(put, fault_options):
    put("a/1/x", "b/1/x")
    with pytest.raises(InvalidDatasetError, match=r"'s3://b/a/1/' and 's3://b/b/1/'"):
        list_files({"series": "s3://b/*/{id}/"}, options=fault_options)


SEGMENTS = ["a", "b", "1", "2", "a1"]
KEYS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map("/".join)
PATTERNS = ["{id}/", "a/{id}/", "{x}/{id}/", "*/{id}/", "a{id}/", "**/{id}/", "{id}/b/", "a/**/{id}/b/"]


def as_expression(pattern):
    text = re.escape(pattern).replace(r"\*\*/", "(?:[^/]+/)*").replace(r"\*", "[^/]*")
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=100)
@given(keys=st.sets(KEYS, max_size=8), pattern=st.sampled_from(PATTERNS))
def test_directories_are_those_that_a_search_of_everything_finds(put, faults, fault_options, keys, pattern):
    """The reference: every beginning of every key that ends in a slash, against an expression."""
    faults.clear()
    put("z", *keys)  # or there is no bucket
    starts = {key[: at + 1] for key in keys for at, char in enumerate(key) if char == "/"}
    found = {start: match for start in starts if (match := re.fullmatch(as_expression(pattern), start))}
    ids = [match["id"] for match in found.values()]

    def listed():
        frame = list_files({"d": f"s3://b/{pattern}"}, details=True, allow_empty=True, options=fault_options)
        return dict(zip(frame["d"], zip(frame["id"], frame["d.size_bytes"], strict=True), strict=True))

    if len(set(ids)) < len(ids):
        with pytest.raises(InvalidDatasetError):
            listed()
        return
    assert listed() == {
        f"s3://b/{start}": (match["id"], sum(key.startswith(start) for key in keys)) for start, match in found.items()
    }
