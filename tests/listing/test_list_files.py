"""`list_files`: frames of what is in a bucket or below a directory; what they cost, and what is refused."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import forward
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.faults import ACCESS_DENIED, SLOW_DOWN, Busy, Meanwhile

import file_dataset
from file_dataset import InvalidDatasetError, RowError, list_files
from file_dataset._file_rows import Matches
from file_dataset._listing import _divides, _Lister
from file_dataset._patterns import parsed
from file_dataset._stores import Stores
from file_dataset._urls import ObjectUrl


@pytest.fixture
def put(faults):
    """Store keys, of one byte each."""

    def put(*keys):
        for key in keys:
            faults.put(f"s3://b/{key}", b"x")

    return put


@pytest.fixture
def listed(fault_options):
    """Call `list_files` on the endpoint that counts, with patterns of keys by file name."""

    def listed(patterns, **kwargs):
        urls = {name: f"s3://b/{pattern}" for name, pattern in patterns.items()}
        return list_files(urls, options=fault_options, **kwargs)

    return listed


def rows(frame):
    """Return the frame's rows, keys without their bucket, None for null."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [
        tuple(value.removeprefix("s3://b/") if isinstance(value, str) else value for value in row)
        for row in plain.itertuples(index=False)
    ]


# what a frame has


def test_rows_are_the_values_of_the_fields(put, listed):
    put("raw/north/7/image.mha", "raw/south/8/image.mha", "raw/south/8/other.mha", "raw/x/image.mha")
    frame = listed({"image.mha": "raw/{site}/{id}/image.mha"})
    assert frame.columns.tolist() == ["image.mha", "id", "site"]
    assert rows(frame) == [("raw/north/7/image.mha", "7", "north"), ("raw/south/8/image.mha", "8", "south")]
    assert [str(dtype) for dtype in frame.dtypes] == ["string"] * 3


def test_patterns_are_joined_by_the_fields_they_share(put, listed):
    put("raw/north/p1/image.mha", "raw/south/p10/image.mha", "raw/south/p2/image.mha")
    put("masks/p10_seg.mha", "masks/p1.mha", "masks/p3.mha")
    frame = listed({"image.mha": "raw/{site}/{id}/image.mha", "mask.mha": "masks/{id}*.mha"})
    assert rows(frame) == [
        ("raw/north/p1/image.mha", "masks/p1.mha", "p1", "north"),
        ("raw/south/p10/image.mha", "masks/p10_seg.mha", "p10", "south"),
        ("raw/south/p2/image.mha", None, "p2", "south"),
        (None, "masks/p3.mha", "p3", None),
    ]


def test_a_number_that_goes_on_is_another_id(put, listed):
    """No image of p10 is there: its mask is not that of p1."""
    put("raw/p1.mha", "masks/p10.mha")
    frame = listed({"image.mha": "raw/{id}.mha", "mask.mha": "masks/{id}*.mha"})
    assert rows(frame) == [("raw/p1.mha", None, "p1"), (None, "masks/p10.mha", "p10")]


def test_fields_side_by_side_end_where_another_pattern_ends_them(put, listed):
    put("raw/a/bc", "mask/abc")
    frame = listed({"image": "raw/{site}/{n}", "mask": "mask/{site}{n}"}, id="{site}-{n}")
    assert rows(frame) == [("raw/a/bc", "mask/abc", "a-bc", "a", "bc")]


def test_fields_side_by_side_end_where_one_comes_again(put, listed):
    put("raw/abc/bc")
    assert rows(listed({"image": "raw/{site}{id}/{id}"})) == [("raw/abc/bc", "bc", "a")]


def test_a_file_of_a_wider_case_goes_to_each_of_its_rows(put, listed):
    put("raw/north/1", "raw/north/2", "raw/south/3", "sites/north.txt", "atlas.nii", "atlas.nii.gz")
    frame = listed({"a.nii": "atlas.nii", "site.txt": "sites/{site}.txt", "image": "raw/{site}/{id}"})
    assert rows(frame) == [
        ("atlas.nii", "sites/north.txt", "raw/north/1", "1", "north"),
        ("atlas.nii", "sites/north.txt", "raw/north/2", "2", "north"),
        ("atlas.nii", None, "raw/south/3", "3", "south"),
    ]


def test_ids_are_made_of_fields(put, listed):
    put("raw/north/7", "raw/south/7")
    frame = listed({"image": "raw/{site}/{patient}"}, id="{site}-{patient}")
    assert rows(frame) == [("raw/north/7", "north-7", "north", "7"), ("raw/south/7", "south-7", "south", "7")]
    frame = listed({"image": "raw/{site}/{id}"}, id="{site}{{}}{id}")
    assert frame.columns.tolist() == ["image", "id", "site"]
    assert frame["id"].tolist() == ["north{}7", "south{}7"]


def test_details_are_what_the_listing_says(faults, listed):
    faults.put("s3://b/raw/7", b"12345")
    faults.put("s3://b/masks/8", b"123")
    frame = listed({"image": "raw/{id}", "mask": "masks/{id}"}, details=True)
    details = [f"{name}.{detail}" for name in ("image", "mask") for detail in ("size_bytes", "etag", "last_modified")]
    assert frame.columns.tolist() == ["image", "mask", "id", *details]
    assert frame["image.size_bytes"].tolist() == [5, pd.NA]
    assert frame["mask.size_bytes"].dtype == "Int64"
    assert frame["image.etag"].tolist() == ["827ccb0eea8a706c4c34a16891f84e7b", pd.NA]
    assert isinstance(frame["image.last_modified"].dtype, pd.DatetimeTZDtype)
    assert str(frame["image.last_modified"].dt.tz) == "UTC"
    assert abs(frame["image.last_modified"][0] - pd.Timestamp.now("UTC")) < pd.Timedelta("1h")
    assert frame["image.last_modified"].isna().tolist() == [False, True]


def test_the_order_is_that_of_the_first_patterns_keys(put, listed):
    put("raw/ü/1", "raw/z/2", "raw/a/x/3", "raw/a-/4", "masks/0", "masks/5")
    frame = listed({"image": "raw/**/{id}", "mask": "masks/{id}"})
    assert frame["id"].tolist() == ["4", "3", "2", "1", "0", "5"]


def test_keys_are_opaque(put, listed):
    keys = ["raw/a b+c", "raw/100%25", "raw/#?&", "raw/.hidden", "raw/~x", "raw/{7}", "raw/*"]
    put(*keys)
    assert sorted(listed({"image": "raw/{id}"})["image"]) == sorted(f"s3://b/{key}" for key in keys)
    assert rows(listed({"image": "raw/{{{id}}}"})) == [("raw/{7}", "7")]


def test_a_marker_of_a_directory_is_no_file(put, listed):
    put("raw/", "raw/7/", "raw/8")
    for pattern in ("raw/{id}", "raw/{id}*", "raw/**/{id}"):
        assert rows(listed({"image": pattern})) == [("raw/8", "8")]
    put("raw/7/x")
    assert rows(listed({"image": "raw/{id}/*"})) == [("raw/7/x", "7")]


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_a_bucket_of_a_real_server_is_a_frame_that_a_pipeline_takes(bucket, options, engine, tmp_path):
    for number in range(3):
        bucket.put(f"raw/{number % 2}/.p {number}+/a.txt", b"hello")
    frame = list_files({"a.txt": bucket.url("raw/{site}/{id}/a.txt")}, details=True, options=options)
    assert frame["id"].tolist() == [".p 0+", ".p 2+", ".p 1+"]
    result = file_dataset.Pipeline(forward, into_path=tmp_path, options=options, progress=False).run(frame)
    assert result.failures.empty
    assert result.manifest["site"].tolist() == ["0", "0", "1"]
    assert result.inputs["etag"].tolist() == frame["a.txt.etag"].tolist()


def test_what_is_said_of_an_input_is_not_said_of_an_output_of_its_name(put, listed, fault_options, tmp_path):
    """A next stage that compares ETags would else compare those of other objects, and run its rows each time."""
    put("raw/1/a.txt")
    frame = listed({"a.txt": "raw/{id}/a.txt"}, details=True).assign(label="x")
    said = ["a.txt.size_bytes", "a.txt.etag", "a.txt.last_modified"]
    same = file_dataset.Pipeline(forward, into_path=tmp_path / "same", options=fault_options)(frame)
    assert list(same.columns) == ["a.txt", "id", "label"]

    def other(input_dir, output_dir):
        return {"b.txt": input_dir / "a.txt"}

    manifest = file_dataset.Pipeline(other, into_path=tmp_path / "other", options=fault_options)(frame)
    assert list(manifest.columns) == ["b.txt", "id", *said, "label"]


def test_etags_with_a_slash_or_none_are_carried_and_no_locations(put, listed):
    put("raw/7")
    frame = listed({"image.mha": "raw/{id}"}, details=True)
    for etag in ("ab/c=", None):
        frame["image.mha.etag"] = pd.Series([etag], dtype="string")
        assert file_dataset.reader(frame).__repr__() == "Reader(1 rows, files ['image.mha'])"


# what it costs


def test_a_prefix_of_several_patterns_is_listed_once(put, faults, listed):
    put("raw/7/image.mha", "raw/7/mask.mha", "raw/atlas/7.mha")
    frame = listed({"image.mha": "raw/{id}/image.mha", "mask.mha": "raw/{id}/mask.mha", "atlas": "raw/atlas/{id}.mha"})
    assert rows(frame) == [("raw/7/image.mha", "raw/7/mask.mha", "raw/atlas/7.mha", "7")]
    assert faults.count("ListObjectsV2") == sum(faults.requests.values()) == 1


def test_a_neighbour_of_the_prefix_is_not_listed(put, faults, listed):
    put(*(f"raw-2/{number:04}" for number in range(1500)), *(f"ra/{number:04}" for number in range(1500)))
    put("raw/pre-1", "raw/pre-2", *(f"raw/other{number:04}" for number in range(1500)))
    assert len(listed({"image": "raw/pre-{id}"})) == 2
    assert faults.count("ListObjectsV2") == 1


def test_one_key_costs_one_request_however_many_go_on_from_it(put, faults, listed):
    put("atlas", "raw/7", *(f"atlas-{number:04}" for number in range(2500)))
    assert rows(listed({"atlas": "atlas", "image": "raw/{id}"})) == [("atlas", "raw/7", "7")]
    assert faults.count("ListObjectsV2") == 2


@pytest.mark.parametrize(("count", "requests"), [(1, 1), (1000, 1), (1001, 2), (3500, 4)], ids=str)
def test_keys_that_no_slash_divides_cost_a_request_per_thousand(put, faults, listed, count, requests):
    put(*(f"raw/{number:04}" for number in range(count)))
    assert len(listed({"image": "raw/{id}"})) == count
    assert faults.count("ListObjectsV2") == requests


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_directories_are_listed_side_by_side(put, faults, listed, engine):
    """One page, then which directories there are, and then a: one page; b and c: two each."""
    put(*(f"raw/{site}/{number:04}" for site in "abc" for number in range(1500)))
    faults.fail("*", Busy(1000, seconds=0.05), times=None)  # long enough to be seen together
    assert len(listed({"image": "raw/{site}/{n}"}, id="{site}-{n}")) == 4500
    assert faults.count("ListObjectsV2") == 7
    assert faults.max_in_flight >= 2


def test_a_directory_deep_down_is_divided_too(put, faults, listed):
    put(*(f"raw/one/{site}/{number:04}" for site in "ab" for number in range(1500)))
    assert len(listed({"image": "raw/{x}/{site}/{n}"}, id="{site}-{n}")) == 3000
    assert faults.count("ListObjectsV2") <= 3 + 4


def test_small_directories_are_not_worth_a_request_each(put, faults, listed):
    put(*(f"raw/{number:04}/{scan}" for number in range(1000) for scan in range(4)))
    assert len(listed({"image": "raw/{site}/{n}"}, id="{site}-{n}")) == 4000
    assert faults.count("ListObjectsV2") == 4


def test_many_directories_are_at_most_sixteen_pieces(put, faults, listed):
    put(*(f"raw/{number:04}/{scan}" for number in range(400) for scan in range(30)))
    assert len(listed({"image": "raw/{site}/{n}"}, id="{site}-{n}")) == 12_000
    assert faults.count("ListObjectsV2") <= 12 + 1 + 17


class Taken:
    """What is listed of a whole bucket."""

    def __init__(self):
        self.at, self.matches, self.keys = ObjectUrl("b", ""), [Matches("file", parsed("**", ""))], []

    def take(self, found):
        self.keys += [each.at.key for each in found]


@pytest.mark.parametrize("page", [1, 2, 3])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(keys=st.sets(st.text("ab/-", min_size=1, max_size=6), min_size=1, max_size=25))
def test_a_divided_listing_has_all_keys(faults, fault_options, page, keys):
    """Pages of few keys, and every one of them worth dividing: all ways to divide are met."""
    faults.clear()
    for key in keys:
        faults.put(f"s3://b/{key}", b"")
    taken = Taken()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("servers.s3._PAGE_KEYS", page)
        patch.setattr("file_dataset._listing._PAGE_KEYS", page)
        patch.setattr("file_dataset._listing._LEAST_PER_DIRECTORY", 1)
        patch.setattr("file_dataset._listing._MOST_PIECES", 3)
        _Lister(Stores(fault_options), details=False).run([taken])
    assert {key for key in taken.keys if not key.endswith("/")} == {key for key in keys if not key.endswith("/")}


def test_a_store_that_lists_in_another_order_is_listed_page_after_page(fault_options):
    """As directory buckets do; their names end in `--x-s3`, and others may do the same."""
    assert not _divides(ObjectUrl("b", ""), ["b/1", "a/1"] * 500)
    assert not _divides(ObjectUrl("b--x-s3", ""), ["a/1"] * 1000)
    assert _divides(ObjectUrl("b", ""), ["a/1"] * 1000)


# rows beside a plain reference


NAMES = st.sampled_from(["a", "b", "ab", ".a", "a-b", "c", "d", "ü"])
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
SEGMENTS = st.sampled_from(["a", "*", "{id}", "{site}", "a{id}", "{site}*b", "{id}"])
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join).filter(lambda text: parsed(text, "").is_firm)


@st.composite
def buckets(draw):
    """Patterns, keys that some of the values below give, and others."""
    patterns = draw(st.lists(PATTERNS, min_size=1, max_size=2, unique=True).filter(lambda all_: "{id}" in str(all_)))
    keys = {draw(KEYS), *draw(st.lists(KEYS, max_size=2))}
    for id_, site in draw(st.dictionaries(NAMES, NAMES, max_size=4)).items():
        for text in draw(st.lists(st.sampled_from(patterns), max_size=2)):
            keys.add(text.replace("{id}", id_).replace("{site}", site).replace("*", "x"))
    return patterns, sorted(keys)


def expected(patterns, keys):
    """Return the rows as (files, values) by a search of everything, or None where there are errors."""
    tables = []
    fields = [name for name in ("id", "site") if any(f"{{{name}}}" in text for text in patterns)]
    parts = {key[i:j] for key in keys for i in range(len(key)) for j in range(i + 1, len(key) + 1)}
    parts = sorted(each for each in parts if "/" not in each)
    for text in patterns:
        own = [name for name in fields if f"{{{name}}}" in text]
        table = {}
        for values in itertools.product(parts, repeat=len(own)):
            tried = text
            for name, value in zip(own, values, strict=True):
                tried = tried.replace(f"{{{name}}}", value)
            expression = "[^/]*".join(map(re.escape, tried.split("*")))
            table[values] = [key for key in keys if re.fullmatch(expression, key)]
        found = {values: there for values, there in table.items() if there}
        if any(len(there) > 1 for there in found.values()) or not found:
            return None
        tables.append([({**dict(zip(own, values, strict=True))}, there[0]) for values, there in found.items()])
    if "id" not in fields:
        return None
    if len(tables) == 1:
        made = [((key,), values) for values, key in tables[0]]
    else:
        (left, right), made, met = tables, [], set()
        both = set(left[0][0]) & set(right[0][0])
        if not both and left[0][0] and right[0][0]:
            return None
        for at, (values, key) in enumerate(left):
            fit = [n for n, (others, _) in enumerate(right) if all(values[name] == others[name] for name in both)]
            met |= {("right", n) for n in fit} | ({("left", at)} if fit else set())
            made += [((key, right[n][1]), {**values, **right[n][0]}) for n in fit]
        made += [((key, None), values) for n, (values, key) in enumerate(left) if ("left", n) not in met]
        made += [((None, key), values) for n, (values, key) in enumerate(right) if ("right", n) not in met]
    ids = [values.get("id") for _, values in made]
    if None in ids or len(set(ids)) < len(ids):
        return None
    made.sort(key=lambda row: [(key is None, key or "") for key in row[0]])
    return [(*files, values["id"], *(values.get(name) for name in fields if name != "id")) for files, values in made]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)
@given(bucket=buckets())
def test_rows_are_those_that_a_search_of_everything_finds(faults, listed, bucket):
    patterns, keys = bucket
    faults.clear()
    for key in keys:
        faults.put(f"s3://b/{key}", b"")
    wanted = expected(patterns, keys)
    named = {f"{number}.bin": text for number, text in enumerate(patterns)}
    if wanted is None:
        with pytest.raises(InvalidDatasetError):
            listed(named)
    else:
        assert rows(listed(named)) == wanted


# what is refused


@pytest.mark.parametrize(
    ("patterns", "id_", "reason"),
    [
        ("s3://b/{id}", None, "give a mapping of file name to pattern"),
        ({}, None, "give a mapping"),
        ({"a": 7}, None, "a local path"),
        ({"../a": "s3://b/{id}"}, None, "'..'"),
        ({"a": "s3://b"}, None, "names a bucket"),
        ({"a": "s3://{id}/x"}, None, "no valid bucket name"),
        ({"a": "gs://b/{id}"}, None, "gs:// is not read"),
        ({"a": "~/{id}"}, None, "~ is not expanded"),
        ({"a": "s3://b/"}, None, "names a bucket"),
        ({"a": "s3://b/{site"}, None, "'s3://b/{site'"),
        ({"a": "s3://b/x"}, None, "no pattern has a field"),
        ({"a": "s3://b/{site}/{n}"}, None, "id='{site}-{n}'"),
        ({"a": "s3://b/{id}"}, "{n}", "fields of the patterns, which are {id}"),
        ({"a": "s3://b/{id}"}, "x", "fields of the patterns"),
        ({"a": "s3://b/{id}"}, "{id}*", "a star has no value"),
        ({"a": "s3://b/{id}"}, 7, "give a text"),
        ({"a": "s3://b/{year}{month}/{id}"}, None, "nothing says where {year} ends in {year}{month}"),
        ({"a": "s3://b/{id}{n}", "b": "s3://b/x/{id}*"}, None, "nothing says where {id} ends in {id}{n}"),
        ({"a": "s3://b/{id}", "b": "s3://b/{ID}"}, None, "['b'] share no field with that of 'a'"),
        ({"a": "s3://b/{id}/{a}"}, None, "['a'] would be there twice"),
        ({"id": "s3://b/{id}"}, None, "['id'] would be there twice"),
        ({"a": "s3://b/{id}/{error_code}"}, None, "['error_code']"),
        ({"a": "s3://b/{id}", "a.etag": "s3://b/{id}"}, None, "['a.etag'] would be there twice"),
    ],
)
def test_what_cannot_be_listed_is_refused_before_a_request(faults, fault_options, patterns, id_, reason):
    with pytest.raises(InvalidDatasetError, match=re.escape(reason)):
        list_files(patterns, id=id_, details=True, options=fault_options)
    assert not faults.requests


def test_local_patterns_are_refused_where_options_refuse_paths():
    with pytest.raises(InvalidDatasetError, match="local_paths=False"):
        list_files({"a": "/data/{id}"}, options=file_dataset.Options(local_paths=False))


def test_two_files_for_one_cell_are_refused_and_shown(put, listed):
    put("raw/7/b.mha", "raw/7/a.mha", "raw/8/a.mha")
    with pytest.raises(
        InvalidDatasetError, match=r"two files for id '7': 's3://b/raw/7/a.mha' and 's3://b/raw/7/b.mha'"
    ):
        listed({"image": "raw/{id}/*.mha"})


def test_two_rows_of_one_id_are_refused_by_what_to_write(put, listed):
    put("raw/a/7", "raw/b/7")
    with pytest.raises(InvalidDatasetError, match=r"'s3://b/raw/a/7' and 's3://b/raw/b/7': .* id='\{site\}-\{id\}'"):
        listed({"image": "raw/{site}/{id}"})


def test_a_file_without_an_id_is_refused_by_name(put, listed):
    put("raw/a/7", "sites/a", "sites/b")
    with pytest.raises(
        InvalidDatasetError, match=r"'s3://b/sites/b' has no row: .* Write \{id\} in the pattern of 'site.txt'"
    ):
        listed({"image": "raw/{site}/{id}", "site.txt": "sites/{site}"})


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("raw/../x", "'..'"),
        ("raw/./x", "'.'"),
        ("raw/a\nb/x", "'a\\nb'"),
        ("raw/a\\b/x", "a backslash"),
        (f"raw/{'a' * 256}/x", "256"),
    ],
    ids=["..", ".", "line break", "backslash", "long"],
)
def test_a_key_that_gives_no_id_is_refused_by_name(put, listed, key, reason):
    put("raw/good/x", key)
    with pytest.raises(InvalidDatasetError, match=re.escape(reason)) as caught:
        listed({"image": "raw/{id}/x"})
    assert repr(f"s3://b/{key}") in str(caught.value)


def test_a_value_that_steps_up_is_refused_where_it_is_no_id_too(put, listed):
    put("raw/../7")
    with pytest.raises(InvalidDatasetError, match=r"write \* where patterns\['image'\] has \{site\}"):
        listed({"image": "raw/{site}/{id}"})
    assert rows(listed({"image": "raw/*/{id}"})) == [("raw/../7", "7")]


def test_patterns_that_match_nothing_are_refused_with_what_is_there(put, listed):
    put("raw/7.mha", "raw/8.mha", "masks/7.nii")
    with pytest.raises(InvalidDatasetError, match="allow_empty=True") as caught:
        listed({"image": "raw/{id}.mha", "mask": "masks/{id}.mha", "scan": "scans/{id}"})
    assert "patterns['mask']='s3://b/masks/{id}.mha' matches no file: there are 1 files, such as 'masks/7.nii'" in str(
        caught.value
    )
    assert "patterns['scan']='s3://b/scans/{id}' matches no file: there is nothing below 's3://b/scans/'" in str(
        caught.value
    )
    assert "patterns['image']" not in str(caught.value)


def test_empty_frames_have_their_columns_where_they_are_allowed(put, listed):
    put("raw/7.mha")
    frame = listed({"image": "raw/{id}.mha", "mask": "masks/{site}-{id}"}, allow_empty=True)
    assert rows(frame) == [("raw/7.mha", None, "7", None)]
    frame = listed({"image": "x/{id}", "mask": "x/{site}/{id}"}, allow_empty=True, details=True)
    assert len(frame) == 0
    full = listed({"image": "{site}/{id}.mha", "mask": "{site}/{id}.mha"}, details=True)
    assert frame.dtypes.to_dict() == full[frame.columns].dtypes.to_dict()
    assert len(listed({"image": "x/{id}", "atlas": "raw/7.mha"}, allow_empty=True)) == 0


def test_what_a_store_refuses_is_an_error_with_the_pattern(put, faults, listed):
    put("raw/7")
    faults.fail("ListObjectsV2", ACCESS_DENIED, times=None)
    with pytest.raises(RowError, match="'s3://b/raw/' could not be listed") as caught:
        listed({"image": "raw/{id}"})
    assert [(failure.file, failure.code) for failure in caught.value.failures] == [("image", "AccessDenied")]


def test_a_fault_of_one_page_costs_that_page_once_more(put, faults, listed):
    put(*(f"raw/{number:04}" for number in range(1500)))
    faults.fail("ListObjectsV2", SLOW_DOWN, nth=2)
    assert len(listed({"image": "raw/{id}"})) == 1500
    assert faults.count("ListObjectsV2") == 3


def test_ctrl_c_ends_a_listing(put, faults, listed):
    put(*(f"raw/{number:04}" for number in range(8000)))
    faults.fail("ListObjectsV2", Meanwhile(lambda: os.kill(os.getpid(), signal.SIGINT)), nth=2)
    with pytest.raises(KeyboardInterrupt):
        listed({"image": "raw/{id}"})
    assert faults.count("ListObjectsV2") < 8


def test_nothing_is_cached(put, listed):
    for number in range(1, 3):
        put(f"raw/{number}")
        assert len(listed({"image": "raw/{id}"})) == number


# local directories


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Make files, of one byte each, below the working directory."""
    monkeypatch.chdir(tmp_path)

    def local(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")

    return local


def test_local_files_are_listed_with_absolute_paths(local, tmp_path):
    local("raw/north/7.txt", "raw/south/.8.txt", "raw/9.txt")
    for pattern in ("raw/{site}/{id}.txt", "./raw//{site}/{id}.txt", tmp_path / "raw/{site}/{id}.txt"):
        frame = list_files({"note.txt": pattern})
        assert frame["note.txt"].tolist() == [f"{tmp_path}/raw/north/7.txt", f"{tmp_path}/raw/south/.8.txt"]
        assert frame["id"].tolist() == ["7", ".8"]


def test_braces_and_stars_of_the_working_directory_are_themselves(tmp_path, monkeypatch):
    place = tmp_path / "{x}*"
    (place / "raw").mkdir(parents=True)
    (place / "raw" / "7").write_text("x")
    monkeypatch.chdir(place)
    assert list_files({"note": "raw/{id}"})["note"].tolist() == [f"{place}/raw/7"]


@pytest.mark.parametrize(
    ("directory", "is_looked_into"),
    [("/", True), ("/d", True), ("/d/pre-1", True), ("/d/pre-1/deep", False), ("/d/other", False), ("/beside", False)],
)
def test_only_directories_that_can_hold_matches_are_looked_into(directory, is_looked_into):
    assert parsed("/d/pre-{site}/{id}", "").may_lie_below(directory, is_link=False) == is_looked_into


def test_links_to_directories_are_followed_where_they_cannot_go_round(local, tmp_path):
    local("store/7.txt")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "north").symlink_to("../store")
    (tmp_path / "raw" / "round").symlink_to(".")
    assert list_files({"note": "raw/{site}/{id}.txt"})["id"].tolist() == ["7"]
    with pytest.raises(InvalidDatasetError, match="matches no file"):
        list_files({"note": "raw/**/{id}.txt"})


def test_details_of_local_files_are_those_that_a_run_reads(local, tmp_path):
    local("raw/7.txt")
    frame = list_files({"note.txt": "raw/{id}.txt"}, details=True)
    result = file_dataset.Pipeline(forward, into_path=tmp_path / "out", progress=False).run(frame)
    assert result.inputs["etag"].tolist() == frame["note.txt.etag"].tolist()
    assert result.inputs["size_bytes"].tolist() == frame["note.txt.size_bytes"].tolist()
    modified = (tmp_path / "raw/7.txt").stat().st_mtime_ns
    assert frame["note.txt.last_modified"][0] == pd.Timestamp(modified, tz="UTC")


def test_a_local_name_that_is_no_unicode_is_refused_by_name(local, tmp_path):
    local("raw/7")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/raw/\xff")).write_text("x")
    with pytest.raises(InvalidDatasetError, match="not valid Unicode"):
        list_files({"note": "raw/{id}"})


def test_a_missing_directory_matches_nothing(local):
    with pytest.raises(InvalidDatasetError, match=r"there is nothing below '.*/none/'"):
        list_files({"note": "none/{id}"})


def test_a_file_where_a_directory_is_meant_is_an_error(local):
    local("raw")
    with pytest.raises(RowError, match="NotADirectoryError"):
        list_files({"note": "raw/{id}"})


def test_s3_and_local_patterns_are_joined(local, put, fault_options):
    local("masks/7.txt")
    put("raw/7")
    frame = list_files({"image": "s3://b/raw/{id}", "mask.txt": "masks/{id}.txt"}, options=fault_options)
    assert frame.notna().all(axis=None)
    assert len(frame) == 1


def test_local_listings_need_no_boto3(local):
    local("raw/7.txt")
    code = (
        "import sys, file_dataset\n"
        "assert 'pandas' not in sys.modules\n"
        "assert len(file_dataset.list_files({'note.txt': 'raw/{id}.txt'})) == 1\n"
        "print([name for name in ('boto3', 'botocore', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
