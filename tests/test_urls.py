"""Locations, file names and ids: what is taken, what is refused and how, and that nothing leaves its place."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from file_dataset import InvalidDatasetError, TempDir
from file_dataset._urls import (
    Directory,
    ObjectUrl,
    check_file_name,
    check_id,
    collisions,
    folded,
    is_null,
    join,
    one_file,
    parse,
    parse_prefix,
)

BASE = Path("/base")
patient = settings(deadline=None)  # a busy machine is no failure
TOO_LONG_TO_PRINT = 10**5000  # Python refuses to turn more than 4,300 digits into text

# Text as a hostile frame may hold it: lone surrogates, and more than a fair share of what names are refused for.
any_text = st.text(st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from("./\\~:\0\n\x7f\x85")))
anything = st.one_of(
    any_text, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.complex_numbers(), st.decimals(),
    st.dates(), st.lists(any_text), st.dictionaries(any_text, st.integers()), st.sets(st.integers()),
    st.tuples(any_text), st.builds(object), st.builds(PurePosixPath, st.text(st.sampled_from("ab/.:s3"))),
    any_text.map(lambda rest: f"s3://{rest}"), st.sampled_from([pd.NA, pd.NaT, np.float32("nan"), np.int8(1), ...]),
)  # fmt: skip
bucket_names = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True)
keys = st.text(min_size=1).filter(lambda key: not key.endswith("/"))


def is_accepted(check, value):
    try:
        check(value)
    except InvalidDatasetError:
        return False
    return True


ids = st.one_of(any_text.filter(lambda text: is_accepted(check_id, text)), st.integers())
file_names = st.one_of(
    any_text, st.lists(st.text(st.sampled_from("ab.~ ")), min_size=1, max_size=4).map("/".join)
).filter(lambda text: is_accepted(check_file_name, text))


# --- locations


@patient
@given(bucket=bucket_names, key=keys)
def test_a_key_comes_back_identical(bucket, key):
    assert parse(f"s3://{bucket}/{key}", base=BASE) == ObjectUrl(bucket, key)


@patient
@given(bucket=bucket_names, key=keys)
def test_an_object_url_is_written_as_it_was_read(bucket, key):
    assert str(parse(f"s3://{bucket}/{key}", base=BASE)) == f"s3://{bucket}/{key}"


KEYS = {
    "two slashes": "a//b", "leading slash": "/a", "only dots": "../..", "plus": "a+b", "percent": "a%20b%2F",
    "fragment": "a#b", "query": "a?versionId=1", "unicode": "Äpfel/日本.mha", "space": " a b ", "control": "a\n\0b",
    "url inside": "s3://other/key", "backslash": "a\\b", "decomposed": "e\u0301",
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_is_opaque(key):
    assert parse(f"s3://bucket/{key}", base=BASE) == ObjectUrl("bucket", key)


ARNS = {
    "slash": "s3:us-west-2:123456789012:accesspoint/name",
    "colon": "s3:us-west-2:123456789012:accesspoint:name",
    "several regions": "s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap",
    "Object Lambda": "s3-object-lambda:us-west-2:123456789012:accesspoint/name",
    "Outposts": "s3-outposts:us-west-2:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/name",
    "Outposts with colons": "s3-outposts:us-west-2:123456789012:outpost:op-01ac5d28a6a232904:accesspoint:name",
}


@pytest.mark.parametrize("resource", ARNS.values(), ids=ARNS)
def test_the_arn_of_an_access_point_is_a_bucket(resource):
    arn = f"arn:aws:{resource}"
    assert parse(f"s3://{arn}/a/b.mha", base=BASE) == ObjectUrl(arn, "a/b.mha")


LOCAL = {
    "absolute": ("/data/a.mha", "/data/a.mha"),
    "relative": ("a.mha", "/base/a.mha"),
    "dot": ("./a.mha", "/base/a.mha"),
    "parent": ("../a.mha", "/base/../a.mha"),
    "Path": (Path("sub/a.mha"), "/base/sub/a.mha"),
    "PurePath": (PurePosixPath("a.mha"), "/base/a.mha"),
    "percent": ("a%20b", "/base/a%20b"),
    "a tilde and no user": ("~no such user/a", "/base/~no such user/a"),
    "colon": ("12:30.mha", "/base/12:30.mha"),
    "s3 without a colon": ("s3/bucket/key", "/base/s3/bucket/key"),
    "subclass of str": (np.str_("a.mha"), "/base/a.mha"),
}


@pytest.mark.parametrize(("value", "path"), LOCAL.values(), ids=LOCAL)
def test_other_text_and_paths_are_local(value, path):
    assert parse(value, base=BASE) == Path(path)


DIRECTORIES = {
    "prefix": ("s3://bucket/dicom/", ObjectUrl("bucket", "dicom/"), "s3://bucket/dicom/"),
    "two slashes": ("s3://bucket/dicom//", ObjectUrl("bucket", "dicom//"), "s3://bucket/dicom//"),
    "percent": ("s3://bucket/a%2Fb/", ObjectUrl("bucket", "a%2Fb/"), "s3://bucket/a%2Fb/"),
    "relative": ("series/", Path("/base/series"), "/base/series/"),
    "absolute": ("/data/series/", Path("/data/series"), "/data/series/"),
    "local, two slashes": ("series//", Path("/base/series"), "/base/series/"),
    "dot": ("./", Path("/base"), "/base/"),
}


@pytest.mark.parametrize(("value", "at", "text"), DIRECTORIES.values(), ids=DIRECTORIES)
def test_text_that_ends_in_a_slash_is_a_directory(value, at, text):
    found = parse(value, base=BASE)
    assert found == Directory(at)
    assert str(found) == text
    assert parse(text, base=BASE) == found


def test_a_directory_is_not_one_file():
    with pytest.raises(InvalidDatasetError, match=r"'s3://b/x/': a directory \(a DICOM series, a Zarr store\) is not"):
        one_file(parse("s3://b/x/", base=BASE))
    assert one_file(parse("s3://b/x", base=BASE)) == ObjectUrl("b", "x")


NO_LOCATION = {
    "https": ("https://bucket/key", "https:// is not read"),
    "gs": ("gs://bucket/key", "gs:// is not read"),
    "s3a": ("s3a://bucket/key", "s3a:// is not read"),
    "upper case": ("S3://bucket/key", "give s3://bucket/key"),
    "file": ("file:///data/a.mha", "file:// is not read"),
    "file, one slash": ("file:/data/a.mha", "file:// is not read"),
    "s3, one slash": ("s3:/bucket/key", "'s3:/bucket/key': .*give s3://bucket/key"),
    "s3 as a Path": (Path("s3://bucket/key"), "'s3:/bucket/key': .*give s3://bucket/key"),
    "scheme only": ("s3://", "no valid bucket name"),
    "no bucket": ("s3:///key", "no valid bucket name"),
    "bucket alone": ("s3://bucket", "names a bucket, not an object"),
    "bucket and slash": ("s3://bucket/", "names a bucket, not an object"),
    "space in bucket": ("s3://my bucket/key", "no valid bucket name"),
    "query in bucket": ("s3://bucket?x/key", "no valid bucket name"),
    "newline in bucket": ("s3://bucket\n/key", "no valid bucket name"),
    "unicode in bucket": ("s3://bücket/key", "no valid bucket name"),
    "dots as an access point": ("s3://arn:aws:s3:us-west-2:123456789012:accesspoint/../key", "no valid bucket name"),
    "backslash in an access point": ("s3://arn:aws:s3:us-west-2:123456789012:accesspoint/a\\b/key", "no valid bucket"),
    "root": ("/", "the root of the disk"),
    "dot as a bucket": ("s3://./key", "no valid bucket name"),
    "two dots as a bucket": ("s3://../key", "no valid bucket name"),
    "dots as a bucket": ("s3://.../key", "no valid bucket name"),
    "backslash in bucket": ("s3://a\\b/key", "no valid bucket name"),
    "control character in bucket": ("s3://a\x1fb/key", "no valid bucket name"),
    "newline after bucket": ("s3://bucket\n", "no valid bucket name"),
    "long bucket": (f"s3://{'a' * 256}/key", "no valid bucket name"),
    "home": ("~/a.mha", r"give Path\('~/a.mha'\).expanduser\(\)"),
    "home alone": ("~", r"give Path\('~'\).expanduser\(\)"),
    "home as a Path": (Path("~/a.mha"), r"give Path\('~/a.mha'\).expanduser\(\)"),
    "home of another": ("~root/a.mha", r"give Path\('~root/a.mha'\).expanduser\(\)"),
    "surrogate in key": ("s3://bucket/\ud800", "not valid Unicode"),
    "empty": ("", "'' is not a location"),
    "null byte": ("a\0b", "is not a location"),
    "null byte in a Path": (Path("a\0b"), "is not a location"),
    "int": (5, "int 5 is not a location"),
    "float": (5.5, "float 5.5 is not a location"),
    "bool": (True, "bool True is not a location"),
    "bytes": (b"s3://bucket/key", "bytes b's3://bucket/key' is not a location"),
    "None": (None, "NoneType None is not a location"),
    "list": (["s3://bucket/key"], "list .* is not a location"),
}


@pytest.mark.parametrize(("value", "said"), NO_LOCATION.values(), ids=NO_LOCATION)
def test_what_is_no_location_is_refused(value, said):
    with pytest.raises(InvalidDatasetError, match=said):
        parse(value, base=BASE)


@patient
@given(anything)
def test_a_value_of_any_kind_is_parsed_or_refused(value):
    """Any other exception fails the test."""
    if is_accepted(lambda it: parse(it, base=BASE), value):
        assert isinstance(value, str | PurePosixPath)


@pytest.mark.parametrize("value", ["s3:/bucket/key", Path("s3://bucket/key")], ids=["text", "Path"])
def test_the_refusal_of_a_lost_slash_does_not_blame_s3(value):
    with pytest.raises(InvalidDatasetError) as refused:
        parse(value, base=BASE)
    assert "s3:// is not read" not in str(refused.value)


def test_a_number_too_long_to_print_is_refused_as_a_location():
    assert not is_accepted(lambda it: parse(it, base=BASE), TOO_LONG_TO_PRINT)


def test_a_local_path_that_no_file_system_can_take_is_refused():
    # U+DC80..U+DCFF stand for bytes that are no UTF-8 (PEP 383); U+D800 stands for nothing
    with pytest.raises(InvalidDatasetError, match="not valid Unicode"):
        parse("/data/\ud800", base=BASE)


def test_text_between_an_arn_and_its_slash_is_refused():
    with pytest.raises(InvalidDatasetError):
        parse("s3://arn:aws:s3:us-west-2:123456789012:accesspoint:name:more/key", base=BASE)


# --- places for outputs

PREFIXES = {
    "prefix": ("s3://bucket/out", ObjectUrl("bucket", "out")),
    "trailing slash": ("s3://bucket/out/", ObjectUrl("bucket", "out")),
    "one of two slashes": ("s3://bucket/out//", ObjectUrl("bucket", "out/")),
    "bucket": ("s3://bucket", ObjectUrl("bucket", "")),
    "bucket and slash": ("s3://bucket/", ObjectUrl("bucket", "")),
    "opaque": ("s3://bucket/a%20b?c#d", ObjectUrl("bucket", "a%20b?c#d")),
    "local": ("/data/out", Path("/data/out")),
    "local, trailing slash": ("/data/out/", Path("/data/out")),
    "relative": ("./out", Path("out")),
    "Path": (Path("out"), Path("out")),
}


@pytest.mark.parametrize(("value", "prefix"), PREFIXES.values(), ids=PREFIXES)
def test_a_prefix_is_a_bucket_a_prefix_in_it_or_a_directory(value, prefix):
    assert parse_prefix(value) == prefix


NO_PREFIX = {
    "another scheme": "gs://bucket/out", "file": "file:///out", "s3, one slash": "s3:/bucket/out", "empty": "",
    "no bucket": "s3:///out", "scheme only": "s3://", "null byte": "out\0", "int": 5, "bytes": b"s3://bucket/out",
    "None": None, "surrogate in key": "s3://bucket/\ud800", "space in bucket": "s3://my bucket/out",
    "dots as a bucket": "s3://../out", "backslash in bucket": "s3://a\\b/out",
}  # fmt: skip


@pytest.mark.parametrize("value", NO_PREFIX.values(), ids=NO_PREFIX)
def test_what_is_no_place_for_outputs_is_refused(value):
    with pytest.raises(InvalidDatasetError, match=r"give s3://bucket/(prefix|key)|not valid Unicode"):
        parse_prefix(value)


@pytest.mark.parametrize("value", ["~/out", "~", "~root/out", Path("~/out")])
def test_a_home_is_no_place_for_outputs_before_it_is_expanded(value):
    with pytest.raises(InvalidDatasetError, match=r"~ is not expanded; give Path\('~.*'\)\.expanduser\(\)"):
        parse_prefix(value)
    assert isinstance(parse_prefix(Path(value).expanduser()), Path)


@patient
@given(anything)
def test_a_place_of_any_kind_is_parsed_or_refused(value):
    if is_accepted(parse_prefix, value):
        assert isinstance(value, str | PurePosixPath)


def test_a_url_that_went_through_path_is_refused_as_a_place_for_outputs():
    with pytest.raises(InvalidDatasetError, match="give s3://bucket/prefix"):
        parse_prefix(Path("s3://bucket/out"))


def test_any_os_pathlike_is_a_place_for_outputs():
    with TempDir() as at:
        directory = type("Directory", (), {"__fspath__": lambda _: str(at)})()
        assert parse_prefix(directory) == at


def test_a_place_whose_name_no_manifest_can_hold_is_refused():
    # a directory whose name is no UTF-8 (PEP 383): the run would end in UnicodeEncodeError when all is stored
    with pytest.raises(InvalidDatasetError, match="not valid Unicode"):
        parse_prefix(Path("/data/caf\udce9"))


# --- joining


@patient
@given(row_id=ids, name=file_names)
def test_what_is_accepted_stays_below_a_local_prefix(row_id, name):
    prefix = Path("/srv/out").resolve()
    row = join(prefix, check_id(row_id)).resolve()
    assert row.parent == prefix
    at = join(prefix, check_id(row_id), *name.split("/")).resolve()
    assert at != row
    assert at.is_relative_to(row)


@patient
@given(row_id=ids, name=file_names, prefix=st.sampled_from(["s3://bucket/out", "s3://bucket/a//b", "s3://bucket/ü"]))
def test_what_is_accepted_stays_below_an_s3_prefix(row_id, name, prefix):
    place = parse_prefix(prefix)
    try:
        at = join(place, check_id(row_id), *name.split("/"))
    except InvalidDatasetError as refused:
        assume("longer than S3's 1024 bytes" not in str(refused))
        raise
    assert at.bucket == "bucket"
    assert at.key == f"{place.key}/{row_id}/{name}"
    assert not {"", ".", ".."}.intersection(at.key.removeprefix(f"{place.key}/").split("/"))


def test_below_the_root_of_a_bucket_a_key_has_no_leading_slash():
    assert join(ObjectUrl("bucket", ""), "1", "a.mha") == ObjectUrl("bucket", "1/a.mha")


def test_a_key_of_1024_bytes_is_accepted():
    assert len(join(ObjectUrl("bucket", "out"), "é" * 510).key.encode()) == 1024


def test_a_key_of_1025_bytes_is_refused():
    with pytest.raises(InvalidDatasetError, match=r"longer than S3's 1024 bytes: shorten id or into_path"):
        join(ObjectUrl("bucket", "outs"), "é" * 510)


# --- file names

GOOD_NAMES = {
    "usual": "image.mha", "below": "sub/x.txt", "deep": "a/b/c/d", "hidden": ".x", "three dots": "...",
    "dots inside": "a..b", "unicode": "日本.mha", "space": " ", "tilde": "~", "255 bytes": "x" * 255,
    "long in all": "/".join(["x" * 255] * 3),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NAMES.values(), ids=GOOD_NAMES)
def test_a_safe_file_name_is_returned_as_it_is(name):
    assert check_file_name(name) == name


BAD_NAMES = {
    "absolute": ("/x.txt", "'/x.txt' is absolute"),
    "two leading slashes": ("//x.txt", "absolute"),
    "parent": ("../x.txt", r"has the segment '\.\.'"),
    "parent inside": ("a/../b", r"has the segment '\.\.'"),
    "parent at the end": ("a/..", r"has the segment '\.\.'"),
    "dot": ("./a", r"has the segment '\.'"),
    "empty": ("", "empty"),
    "empty segment": ("a//b", "empty segment"),
    "trailing slash": ("a/", "empty segment"),
    "backslash": ("a\\b", "a backslash"),
    "null byte": ("a\0b", "a control character"),
    "newline": ("a\n", "a control character"),
    "C1 control": ("a\x85b", "a control character"),
    "256 bytes": ("x" * 256, "256 bytes of UTF-8, over the 255"),
    "256 bytes of two each": ("sub/" + "é" * 128, "256 bytes of UTF-8, over the 255"),
    "surrogate": ("a\ud800", "not valid Unicode"),
    "int": (5, "file name 5 is a int: a file name is text"),
    "None": (None, "a NoneType"),
    "bytes": (b"x", "a bytes"),
    "Path": (Path("x"), "a file name is text"),
}


@pytest.mark.parametrize(("name", "said"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_an_unsafe_file_name_is_refused(name, said):
    with pytest.raises(InvalidDatasetError, match=said):
        check_file_name(name)


@patient
@given(anything)
def test_a_file_name_of_any_kind_is_returned_or_refused(value):
    if is_accepted(check_file_name, value):
        assert check_file_name(value) is value


# --- ids

GOOD_IDS = {
    "text": ("scan-1", "scan-1"), "digits": ("007", "007"), "int": (7, "7"), "zero": (0, "0"), "negative": (-1, "-1"),
    "int64": (np.int64(7), "7"), "uint8": (np.uint8(7), "7"), "str_": (np.str_("a"), "a"), "space": (" ", " "),
    "three dots": ("...", "..."), "percent": ("%2e%2e", "%2e%2e"), "unicode": ("Ärzte", "Ärzte"),
    "text nan": ("nan", "nan"), "255 bytes": ("x" * 255, "x" * 255), "tilde": ("~root", "~root"),
}  # fmt: skip


@pytest.mark.parametrize(("row_id", "text"), GOOD_IDS.values(), ids=GOOD_IDS)
def test_a_safe_id_gives_its_text(row_id, text):
    assert check_id(row_id) == text


BAD_IDS = {
    "None": (None, "id None is null"),
    "NaN": (float("nan"), "null"),
    "NA": (pd.NA, "null"),
    "NaT": (pd.NaT, "null"),
    "empty": ("", "id '' is empty"),
    "True": (True, "id True is a bool: an id is a str or an integer"),
    "numpy bool": (np.True_, "is a bool_?: an id is a str or an integer"),
    "float": (1.0, "id 1.0 is a float: an id is a str or an integer"),
    "numpy float": (np.float64(1), "an id is a str or an integer"),
    "numpy NaN": (np.float32("nan"), "float32|null"),
    "Decimal": (decimal.Decimal(1), "is a Decimal"),
    "date": (dt.date(2024, 1, 1), "is a date"),
    "bytes": (b"1", "is a bytes"),
    "Path": (Path("a"), "an id is a str or an integer"),
    "tuple": (("a", 1), "is a tuple"),
    "dot": (".", r"has the segment '\.'"),
    "two dots": ("..", r"has the segment '\.\.'"),
    "slash": ("a/b", "holds a slash"),
    "parent": ("../a", "holds a slash"),
    "backslash": ("a\\b", "holds a backslash"),
    "null byte": ("a\0", "holds a control character"),
    "newline": ("a\n", "holds a control character"),
    "delete": ("\x7f", "holds a control character"),
    "C1 control": ("\x9f", "holds a control character"),
    "256 bytes": ("x" * 256, "256 bytes of UTF-8, over the 255"),
    "256 bytes of two each": ("é" * 128, "256 bytes of UTF-8, over the 255"),
    "surrogate": ("\udce9", "not valid Unicode"),
}


@pytest.mark.parametrize(("row_id", "said"), BAD_IDS.values(), ids=BAD_IDS)
def test_an_unsafe_id_is_refused(row_id, said):
    with pytest.raises(InvalidDatasetError, match=said):
        check_id(row_id)


def test_a_refusal_shows_a_long_value_in_part():
    with pytest.raises(InvalidDatasetError) as refused:
        check_id("x" * 100_000)
    assert len(str(refused.value)) < 400


@patient
@given(anything)
def test_an_id_of_any_kind_is_text_of_a_str_or_integer_or_refused(value):
    if is_accepted(check_id, value):
        assert isinstance(value, str | int | np.integer)
        assert check_id(value) == str(value)


INDEX_LIKE = {"a class": int, "an array": np.array([1, 2])}


@pytest.mark.parametrize("row_id", INDEX_LIKE.values(), ids=INDEX_LIKE)
def test_what_merely_has_an_index_method_is_no_id(row_id):
    with pytest.raises(InvalidDatasetError, match="an id is a str or an integer"):
        check_id(row_id)


def test_a_number_too_long_to_print_is_refused_as_an_id():
    assert not is_accepted(check_id, TOO_LONG_TO_PRINT)


# --- nulls and names that some file systems take for one

NULLS = {"None": None, "NaN": float("nan"), "numpy NaN": np.float64("nan"), "NA": pd.NA, "NaT": pd.NaT}


@pytest.mark.parametrize("value", NULLS.values(), ids=NULLS)
def test_a_null_is_null(value):
    assert is_null(value)


NOT_NULL = {"empty": "", "zero": 0, "False": False, "text": "nan", "list": []}


@pytest.mark.parametrize("value", NOT_NULL.values(), ids=NOT_NULL)
def test_what_is_merely_false_or_empty_is_not_null(value):
    assert not is_null(value)


SAME = {"case": ("a", "A"), "accent": ("é", "e\u0301"), "both": ("É", "e\u0301"), "sharp s": ("straße", "STRASSE")}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_names_equal_but_for_case_or_accents_collide(one, other):
    assert collisions([one, "x", other]) == [other]


def test_distinct_names_do_not_collide():
    assert collisions(["a", "b", "ä", "a.mha", "a/mha"]) == []


@patient
@given(st.text())
def test_a_name_and_its_upper_case_of_ascii_fold_alike(text):
    assert folded(re.sub("[a-z]", lambda found: found[0].upper(), text)) == folded(text)
