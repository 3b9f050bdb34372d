"""What a pattern matches, and what it reads out of a key, beside a plain search of all values that would fit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_dataset import InvalidDatasetError
from file_dataset._patterns import parsed


def pattern(text):
    return parsed(text, f"pattern={text!r}")


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("raw/{site}/{id}/image.mha", "raw/north/7/image.mha", ("north", "7")),
        ("raw/{site}/{id}/image.mha", "raw/north/7/8/image.mha", None),
        ("raw/{site}/{id}/image.mha", "raw//7/image.mha", None),
        ("{id}.mha", ".hidden.mha", (".hidden",)),
        ("{id}.mha", "7amha", None),
        ("{id}/scan-{id}.mha", "7/scan-7.mha", ("7",)),
        ("{id}/scan-{id}.mha", "7/scan-8.mha", None),
        ("{id}*.mha", "7_mask.mha", ("7_mask",)),
        ("*{id}.mha", "mask_7.mha", ("mask_7",)),
        ("*_{id}.mha", "a_mask_7.mha", ("mask_7",)),
        ("{site}-{id}", "a-b-c", ("a-b", "c")),
        ("a/*/x", "a/.b/x", ()),
        ("a/*/x", "a//x", ()),
        ("a/*/x", "a/b/c/x", None),
        ("a/**/x", "a/x", ()),
        ("a/**/x", "a/b/c/x", ()),
        ("a/**/x", "a/bx", None),
        ("a/**", "a/b/.c", ()),
        ("a/**", "a/", None),
        ("a/**", "a/b/", None),
        ("**/{id}.dcm", "a/b/7.dcm", ("7",)),
        ("{{{id}}}", "{7}", ("7",)),
        ("{{id}}", "{id}", ()),
        ("a[1]?", "a[1]?", ()),
        ("{id}", "line\nbreak", ("line\nbreak",)),
        ("{größe}.bin", "7.bin", ("7",)),
    ],
)
def test_a_pattern_reads_its_fields(text, key, values):
    assert pattern(text).read(key) == values


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("raw/{id}/x", "raw/"),
        ("raw/pre{id}", "raw/pre"),
        ("a*b", "a"),
        ("a/**", "a/"),
        ("{{a}}/{id}", "{a}/"),
        ("a", "a"),
    ],
)
def test_the_prefix_is_all_text_before_the_first_field_or_star(text, prefix):
    assert pattern(text).prefix == prefix


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "{} is no name"),
        ("{0}", "{0} is no name"),
        ("{id:03}", "{id:03} is no name"),
        ("{a.b}", "{a.b} is no name"),
        ("{id", "brace before 'id' has no other"),
        ("id}", "brace at the end has no other"),
        ("a}b", "brace before 'b' has no other"),
        ("a**", "stands for whole segments"),
        ("**a/b", "stands for whole segments"),
        ("a/***/b", "stands for whole segments"),
    ],
)
def test_what_is_no_pattern_is_refused_by_what_to_write(text, reason):
    with pytest.raises(InvalidDatasetError, match=r"such as \{id\}") as caught:
        pattern(text)
    assert reason in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["{id}", "{a}/{b}-x", "**/{id}/x", "*a*/{id}", "{id}/{id}*", "**/a/**"])
def test_a_pattern_without_two_ways_to_read_a_key_is_firm(text):
    assert pattern(text).is_firm


@pytest.mark.parametrize("text", ["{id}*", "{a}{b}", "{a}-{b}", "*{id}", "**/{id}/**"])
def test_a_pattern_with_two_ways_to_read_a_key_is_not(text):
    assert not pattern(text).is_firm


def test_other_readings_cut_no_number():
    """`p1` is a beginning of `p10`, and another case."""
    assert list(dict.fromkeys(pattern("{id}*.mha").readings("p10.mha"))) == [("p10",), ("p",)]


PIECES = st.sampled_from(["a", "b", "-", "/", "{id}", "{site}", "*", "a/**/b", "b/**/"])
TEXTS = st.lists(PIECES, min_size=1, max_size=5).map("".join).filter(lambda text: "**" not in text.replace("/**/", ""))
KEYS = st.text("ab-/", min_size=1, max_size=7)


def fits(text, key):
    """Return whether a key matches a pattern without fields, one character after the other."""
    if not text:
        return not key
    if text.startswith("**/"):
        ends = [0, *(place + 1 for place, character in enumerate(key) if character == "/")]
        return any(fits(text[3:], key[end:]) for end in ends)
    if text == "**":
        return bool(key) and not key.endswith("/")
    if text[0] == "*":
        return fits(text[1:], key) or (key[:1] not in {"", "/"} and fits(text, key[1:]))
    return key[:1] == text[0] and fits(text[1:], key[1:])


def readings(text, key):
    """Return all values of the fields with which the pattern fits the key: every text in the key is tried."""
    names = [
        name for _, name in sorted((text.find(f"{{{name}}}"), name) for name in ("id", "site") if f"{{{name}}}" in text)
    ]
    texts = {key[start:end] for start in range(len(key)) for end in range(start + 1, len(key) + 1)}
    texts = [each for each in texts if "/" not in each]
    found = set()
    for values in itertools.product(texts, repeat=len(names)):
        tried = text
        for name, value in zip(names, values, strict=True):
            tried = tried.replace(f"{{{name}}}", value)
        if fits(tried, key):
            found.add(values)
    return found


@given(TEXTS, KEYS)
def test_a_key_is_read_in_all_ways_that_fit_and_in_no_other(text, key):
    found, made = readings(text, key), pattern(text)
    assert set(made.readings(key)) == found
    assert (made.read(key) is not None) == bool(found)
    assert made.read(key) in found or not found
    if made.is_firm:
        assert len(found) <= 1
