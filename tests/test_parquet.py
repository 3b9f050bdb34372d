"""What a manifest may carry: each value comes back as it was, or the frame is refused and the column named."""

import datetime as dt
import decimal
import enum
import json
import pathlib
import random
import re
import uuid
import zoneinfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import file_dataset
from file_dataset.parquet import check_storable, from_parquet, notes_of, to_parquet

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Colour(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    BIG = 1


def objects(*values):
    return pd.Series(values, dtype=object)


def framed(column):
    return pd.DataFrame({"id": ["1", "2"], "value": column})


def round_trip(frame):
    return from_parquet(to_parquet(frame), "somewhere")


def kept(value):
    """A value with all that == does not see: its type, and the types in it."""
    if isinstance(value, list):
        return [kept(item) for item in value]
    if isinstance(value, dict):
        return {name: kept(item) for name, item in value.items()}
    return type(value).__name__, str(value)


CHANGED = {
    "bytes and text": objects(b"x", "x"),
    "sets": objects({1}, {2}),
    "frozen sets": objects(frozenset([1]), None),
    "tuples": objects((1, 2), (3,)),
    "arrays": objects(np.array([1, 2]), np.array([3])),
    "ranges": objects(range(2), range(3)),
    "Timestamps with nanoseconds": objects(pd.Timestamp("2020-01-01 00:00:00.000000001"), pd.Timestamp("2020")),
    "Timedeltas as objects": objects(pd.Timedelta(1), None),
    "numpy integers as objects": objects(np.int64(1), np.int64(2)),
    "numpy text": objects(np.str_("a"), "b"),
    "True and 1": objects(*[True, 1]),
    "1 and 2.5": objects(1, 2.5),
    "a list of 1 and 2.5": objects([1, 2.5], [1]),
    "a list with NaN": objects([1.0, float("nan")], [2.0]),
    "text and a number": objects("a", 1),
    "dicts of other keys": objects({"a": 1}, {"b": "x"}),
    "dicts in lists": objects([{"a": 1}], [{"b": 2}]),
    "dicts of numbers": objects({1: 2}, {3: 4}),
    "empty dicts": objects({}, {}),
    "integers beyond 64 bits": objects(2**70, 1),
    "the second hour when clocks go back": objects(dt.datetime.fromisoformat("2020-10-25T02:30").replace(fold=1), None),
    "times with a zone": objects(dt.time(1, tzinfo=dt.UTC), None),
    "datetimes of two zones": objects(dt.datetime(2020, 1, 1, tzinfo=BERLIN), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
    "decimals of other digits": objects(decimal.Decimal("1.5"), decimal.Decimal("2.25")),
    "a decimal NaN": objects(decimal.Decimal("NaN"), decimal.Decimal(1)),
    "enums": objects(Colour.RED, Colour.RED),
    "integer enums": objects(Size.BIG, Size.BIG),
    "paths": objects(pathlib.Path("a"), None),
    "complex numbers": pd.Series([1j, 2]),
    "sparse": pd.Series(pd.arrays.SparseArray([0, 1])),
    "text that is no Unicode": objects("\udc80", "a"),
    "a bytearray": objects(bytearray(b"a"), None),
    "anything": objects(object(), None),
    "frames": objects(pd.DataFrame({"a": [1]}), None),
    "categories of dates": pd.Series(pd.Categorical(pd.to_datetime(["2020", "2021"]))),
    "categories of periods": pd.Series(pd.Categorical(pd.period_range("2020", periods=2, freq="D"))),
    "categories of intervals": pd.Series(pd.Categorical(pd.interval_range(0, 2))),
    "categories of two types": pd.Series(pd.Categorical([1, "a"])),
    "Arrow timestamps in seconds": pd.Series([pd.Timestamp("2020"), None], dtype=pd.ArrowDtype(pa.timestamp("s"))),
}


@pytest.mark.parametrize("column", CHANGED.values(), ids=CHANGED)
def test_a_value_that_parquet_would_change_is_refused_and_its_column_named(column):
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"because of columns \['value'\].*json\.dumps"):
        to_parquet(framed(column))


KEPT = {
    "NaN among text": objects("a", float("nan")),
    "NaN and None": objects(float("nan"), None),
    "NA among text": objects("a", pd.NA),
    "NaT among text": objects("a", pd.NaT),
    "NA and None": objects(pd.NA, None),
    "True and None": objects(*[True, None]),
    "floats and None": objects(1.5, None),
    "dates": objects(dt.date(2020, 1, 1), None),
    "times": objects(dt.time(1, 2, 3, 4), None),
    "durations": objects(dt.timedelta(1), None),
    "datetimes": objects(dt.datetime(1, 1, 1), dt.datetime(9999, 1, 1)),  # noqa: DTZ001 (without a zone)
    "datetimes with a zone": objects(dt.datetime(2020, 1, 1, tzinfo=BERLIN), None),
    "decimals": objects(decimal.Decimal("1.50"), decimal.Decimal("2.25")),
    "lists of lists": objects([[1], []], [[2, None]]),
    "dicts of the same keys": objects({"a": [1], "b": None}, {"a": [], "b": "x"}),
    "bytes": objects(b"\0", b""),
    "float32": pd.Series([1.5, np.nan], dtype="float32"),
    "Float64": pd.Series([1.5, None], dtype="Float64"),
    "timedelta64[s]": pd.Series(pd.to_timedelta([1, 2], unit="s")).astype("timedelta64[s]"),
    "datetime64[s, UTC]": pd.Series(pd.to_datetime(["2020", None], utc=True)).astype("datetime64[s, UTC]"),
    "datetime64[s] far away": pd.Series(np.array([10**15, -(10**15)], dtype="datetime64[s]")),
    "datetimes in Berlin": pd.Series(pd.to_datetime(["2020", None])).dt.tz_localize("Europe/Berlin"),
    "categories of booleans": pd.Series(pd.Categorical([True, False])),
    "categories of large integers": pd.Series(pd.Categorical([2**62 + 1, None])),
    "unused categories": pd.Series(pd.Categorical([None, None], categories=["b", "a"])),
    "periods": pd.Series(pd.period_range("2020", periods=2, freq="D")),
    "intervals": pd.Series(pd.interval_range(0, 2)),
}


@pytest.mark.parametrize("column", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("rows", [2, 0], ids=["two rows", "no row"])
def test_a_value_comes_back_as_it_was(column, rows):
    before = framed(column).head(rows)
    after = round_trip(before)
    pd.testing.assert_frame_equal(after, before)
    assert list(map(kept, after["value"].astype(object))) == list(map(kept, before["value"].astype(object)))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.binary(max_size=5),
    st.dates(),
    st.times(timezones=st.sampled_from([None, dt.UTC])),
    st.datetimes(),
    # an old pyarrow gives zones of pytz, which has other offsets before 1902
    st.datetimes(dt.datetime(1970, 1, 1), timezones=st.sampled_from([BERLIN, dt.UTC])),  # noqa: DTZ001 (a bound)
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.sampled_from(
        [pd.NA, pd.NaT, pd.Timestamp(1), pd.Timedelta(1), pd.Period("2020"), Colour.RED, pathlib.Path("a"), np.int8(1)]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.tuples(inner),
        st.frozensets(st.integers(), max_size=2),
    ),
    max_leaves=4,
)
# columns of one kind are what people have; of many kinds, what must be refused
COLUMNS = st.one_of(
    *(st.lists(kind, min_size=1, max_size=4) for kind in (VALUES, *SCALARS.original_strategies)),
    st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(COLUMNS, st.sampled_from(["object", "category", "inferred"]))
def test_any_column_comes_back_as_it_was_or_is_named(values, kind):
    try:
        column = objects(*values) if kind == "object" else pd.Series(values, dtype=None if kind == "inferred" else kind)
    except Exception:  # noqa: BLE001 (pandas has no such column)
        return
    before = pd.DataFrame({"a column": column})
    try:
        content = to_parquet(before)
    except file_dataset.InvalidDatasetError as exc:
        assert "['a column']" in str(exc)  # noqa: PT017 (it may be storable, too)
        return
    after = from_parquet(content, "somewhere")["a column"]
    assert after.dtype == column.dtype
    assert list(map(kept, after.astype(object))) == list(map(kept, column.astype(object)))


def test_the_first_row_and_its_type_are_named_and_no_value():
    frame = pd.DataFrame({"id": ["p1", "p2", "p3"], "tag": objects("secret", "other", 7)})
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"first in 'tag': row 2, of type int") as raised:
        to_parquet(frame)
    assert not {"secret", "p3"} & set(str(raised.value).split("'"))


@pytest.mark.parametrize(
    "index", [[pathlib.Path("a"), 1], [1, "x"], [(1, 2), (3,)]], ids=["paths", "two types", "tuples"]
)
def test_an_index_that_would_change_is_refused_with_the_remedy(index):
    frame = pd.DataFrame({"id": ["1", "2"]}, index=pd.Index(index, dtype=object, tupleize_cols=False))
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"its index.*reset_index\(drop=True\)"):
        to_parquet(frame)
    check_storable(frame)  # a pipeline's manifest has an index of its own


INDEXES = {
    "names": pd.Index(["x", "y"], name="case"),
    "two levels": pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["k", None]),
    "days": pd.date_range("2020", periods=2),
    "numbers with gaps": pd.Index([4, 9]),
    "the name of a column": pd.Index([1, 2], name="id"),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_an_index_comes_back(index):
    frame = pd.DataFrame({"id": ["1", "2"]}, index=index)
    pd.testing.assert_frame_equal(round_trip(frame), frame, check_freq=False)


@pytest.mark.parametrize("name", [1, True, pd.Timestamp("2020"), ("a", "b")], ids=repr)
def test_names_that_are_no_text_are_refused(name):
    said = re.escape(f"columns [{name!r}]: give columns names of type str")
    with pytest.raises(file_dataset.InvalidDatasetError, match=said):
        to_parquet(pd.DataFrame([["1", 1]], columns=pd.Index([name, "b"], dtype=object)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("attrs", [{"x": object()}, {"x": (1,)}], ids=["no JSON", "a tuple"])
def test_attrs_that_json_changes_are_left_out(attrs):
    frame = pd.DataFrame({"id": ["1"]})
    frame.attrs = attrs
    assert round_trip(frame).attrs == {}
    assert frame.attrs == attrs


# --- files that are damaged, foreign, or no files ---

FRAME = pd.DataFrame(
    {
        "id": [f"case-{number}" for number in range(50)],
        "size": range(50),
        "label": pd.Categorical(["a", "b"] * 25),
        "lists": [[1, 2], None] * 25,
        "text": objects(*["a", float("nan")] * 25),
    }
)


def flipped(content, places, rng):
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_named_whatever_byte_it_is(seed):
    rng = random.Random(seed)  # noqa: S311 (no secret)
    content = to_parquet(FRAME, {"stamp": "s"}).to_pybytes()
    for _ in range(150):
        size = rng.choice([len(content), len(content), rng.randrange(len(content))])
        places = [rng.randrange(size) for _ in range(rng.randrange(1, 4))] if size else []
        damaged = pa.py_buffer(flipped(bytearray(content[:size]), places, rng))
        if damaged.to_pybytes() == content:
            continue
        for read in (from_parquet, notes_of):
            with pytest.raises(file_dataset.InvalidDatasetError, match=r"^s3://b/manifest\.parquet "):
                read(damaged, "s3://b/manifest.parquet")


def without_digest(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_a_damaged_file_of_the_first_version_is_read_or_named():
    """It had no digest: pyarrow meets the damage."""
    rng = random.Random(1)  # noqa: S311 (no secret)
    table = pq.read_table(pa.BufferReader(to_parquet(FRAME)))
    metadata = table.schema.metadata | {b"file_dataset.format_version": b"1"}
    content = without_digest(table.replace_schema_metadata(metadata)).to_pybytes()
    refused = 0
    for _ in range(300):
        damaged = flipped(bytearray(content), [rng.randrange(len(content)) for _ in range(3)], rng)
        try:
            from_parquet(pa.py_buffer(damaged), "there")
        except file_dataset.InvalidDatasetError as exc:
            assert str(exc).startswith("there ")  # noqa: PT017 (it may be right, too)
            refused += 1
    assert refused > 100


def test_a_file_of_this_version_that_lost_its_digest_is_damaged():
    table = pq.read_table(pa.BufferReader(to_parquet(FRAME)))
    with pytest.raises(file_dataset.InvalidDatasetError, match="there is damaged"):
        from_parquet(without_digest(table), "there")


def test_a_manifest_is_plain_parquet_with_its_digest(tmp_path):
    path = tmp_path / "manifest.parquet"
    path.write_bytes(to_parquet(FRAME))
    assert pq.read_table(path).num_rows == 50
    assert pd.read_parquet(path)["id"].tolist() == FRAME["id"].tolist()


ODD_FILES = {
    "empty": b"",
    "random": random.Random(0).randbytes(500),  # noqa: S311 (no secret)
    "magic alone": b"PAR1",
    "magic twice": b"PAR1PAR1",
    "a huge footer": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
    "a pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("content", ODD_FILES.values(), ids=ODD_FILES)
def test_what_is_no_parquet_is_named(content):
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"^there is no Parquet file \("):
        from_parquet(pa.py_buffer(content), "there")


@pytest.mark.parametrize(
    "about",
    [b"no JSON", b"[]", b"7", json.dumps({"columns": [{"name": "id"}]}).encode(), b"\x80\x04K\x01."],
    ids=["text", "a list", "a number", "half", "a pickle"],
)
@pytest.mark.parametrize("name", [b"pandas", b"file_dataset.dtypes", b"file_dataset.notes"])
def test_metadata_that_makes_no_sense_is_no_other_error(name, about):
    metadata = {b"file_dataset.format_version": b"1", name: about}
    content = without_digest(pa.table({"id": ["1"]}).replace_schema_metadata(metadata))
    for read in (from_parquet, notes_of):
        try:
            read(content, "there")
        except file_dataset.InvalidDatasetError as exc:
            assert str(exc).startswith("there is damaged")  # noqa: PT017 (it may be read, too)


def test_a_pickle_in_an_extension_type_is_not_loaded():
    """As pyarrow did up to 14.0.0 (CVE-2023-47248)."""
    field = pa.field(
        "id",
        pa.binary(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": b"cbuiltins\nexec\n(S'raise SystemExit(3)'\ntR.",
        },
    )
    schema = pa.schema([field], metadata={b"file_dataset.format_version": b"1"})
    content = without_digest(pa.table([pa.array([b"1"])], schema=schema))
    assert from_parquet(content, "there")["id"].tolist() == [b"1"]


def test_uuids_come_back_or_are_refused():
    """A type of pyarrow's since 21."""
    frame = framed(objects(uuid.UUID(int=1), uuid.UUID(int=2)))
    try:
        assert round_trip(frame)["value"].tolist() == frame["value"].tolist()
    except file_dataset.InvalidDatasetError as exc:
        assert "['value']" in str(exc)  # noqa: PT017 (either is right)
