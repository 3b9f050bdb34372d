"""Frames to rows and back: which columns name files, which ids are taken, which dtypes come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import python_calls
from hypothesis import given, settings
from hypothesis import strategies as st

from file_dataset import InvalidDatasetError, RowError, _ids
from file_dataset import _frame as frames
from file_dataset._errors import Failure
from file_dataset._plan import FileRow
from file_dataset._urls import Directory, ObjectUrl, check_id

patient = settings(deadline=None)  # a busy machine is no failure

A, B = "s3://bucket/1.mha", "s3://bucket/2.mha"
ARROW_TEXT = pd.ArrowDtype(pa.string())
ARROW_INT = pd.ArrowDtype(pa.int64())


def rows_of(columns, file_columns=None, *, needs_id=True, local=False):
    frame = columns if isinstance(columns, pd.DataFrame) else pd.DataFrame(columns)
    return frames.rows_of_frame(frame, file_columns, needs_id=needs_id, local=local)


def objects(*values):
    return pd.Series(values, dtype=object)


def refusal(columns, **kwargs):
    with pytest.raises(InvalidDatasetError) as refused:
        rows_of(columns, **kwargs)
    return str(refused.value)


# --- which columns name files

FILE_COLUMNS = {
    "a URL": ("scan", [None, A]),
    "a URL under any name": ("patient.sex", ["M", A]),
    "a Path": ("scan", [None, Path("a")]),
    "extension and slash": ("scan.mha", ["data/a", "b"]),
    "extension and ending": ("scan.mha", ["a.mha", "b"]),
    "extension, only nulls": ("scan.mha", objects(None, None)),
    "extension, NaN among objects": ("scan.mha", objects(None, float("nan"))),
    "extension, null among texts": ("scan.mha", pd.Series([None, None], dtype="string")),
    "extension, Arrow's nulls": ("scan.mha", pd.Series([None, None], dtype=pd.ArrowDtype(pa.null()))),
    "URL among other things": ("scan", objects(5, A)),
    "below a directory": ("sub/scan.mha", [A, B]),
    "pandas' text": ("scan", pd.Series([A, None], dtype="string")),
    "Python's text": ("scan", pd.Series([A, None], dtype="string[python]")),
    "Arrow text": ("scan", pd.Series([A, None], dtype=ARROW_TEXT)),
    "Arrow large text": ("scan", pd.Series([A, None], dtype=pd.ArrowDtype(pa.large_string()))),
    "categorical": ("scan", pd.Categorical([A, None])),
    "subclass of str": ("scan", objects(np.str_(A), None)),
}


@pytest.mark.parametrize(("name", "values"), FILE_COLUMNS.values(), ids=FILE_COLUMNS)
def test_a_column_of_locations_is_a_file_column(name, values):
    rows = rows_of({"id": ["1", "2"], "image.mha": [A, B], name: values})
    assert rows.file_columns == ("image.mha", name)


OTHER_COLUMNS = {
    "label": ("label", ["cat", "dog"]),
    "words with a slash": ("note", ["m/f", "a/b"]),
    "name with a dot": ("patient.sex", ["M", "F"]),
    "version": ("v1.5", ["old", "new"]),
    "numbers named like a version": ("v1.5", [0.1, 0.2]),
    "numbers named like a file": ("scan.mha", [1, 2]),
    "NaN of a number column": ("scan.mha", [float("nan"), float("nan")]),
    "only nulls without an extension": ("note", objects(None, None)),
    "bytes": ("scan.mha", [b"s3://bucket/a", b"a.mha"]),
    "bytes of Arrow": ("scan.mha", pd.Series([b"a/b", b"c"], dtype=pd.ArrowDtype(pa.binary()))),
    "bools": ("is.good", [True, False]),
    "dates": ("day.mha", pd.to_datetime(["2024-01-01", "2024-01-02"])),
    "lists": ("tags.mha", [["a/b"], ["c"]]),
    "another extension": ("scan.mha", ["a.png", "b.png"]),
    "hidden file": (".mha", ["a/b", "c.mha"]),
    "categorical of numbers": ("fold.mha", pd.Categorical([1, 2])),
    "categorical of words": ("split", pd.Categorical(["train", "test"])),
}


@pytest.mark.parametrize(("name", "values"), OTHER_COLUMNS.values(), ids=OTHER_COLUMNS)
def test_any_other_column_is_carried(name, values):
    rows = rows_of({"id": ["1", "2"], "image.mha": [A, B], name: values})
    assert (rows.file_columns, rows.carried) == (("image.mha",), (name,))


def test_dictionary_encoded_arrow_text_is_a_file_column():
    text = pd.Series([A, B]).astype(pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())))
    assert rows_of({"id": ["1", "2"], "image.mha": [A, B], "mask.mha": text}).file_columns == ("image.mha", "mask.mha")


def test_file_columns_keep_the_order_of_the_frame():
    assert rows_of({"b.mha": [A], "id": ["1"], "a.mha": [B]}).file_columns == ("b.mha", "a.mha")


def test_the_id_is_neither_file_nor_carried():
    rows = rows_of({"id": ["1.mha"], "image.mha": [A], "label": ["cat"]})
    assert (rows.file_columns, rows.carried) == (("image.mha",), ("label",))


def test_file_columns_given_decide_alone():
    rows = rows_of({"id": ["1"], "image.mha": [A], "scan": ["a"]}, ["scan"])
    assert (rows.file_columns, rows.carried) == (("scan",), ("image.mha",))


def test_a_column_of_numbers_can_be_named_as_a_file_column():
    rows = rows_of({"id": ["1"], "image.mha": [float("nan")], "x": [A]}, ["image.mha", "x"])
    assert rows.cells == {"image.mha": [None], "x": [A]}


def test_file_columns_given_are_read_in_the_order_of_the_frame():
    assert rows_of({"id": ["1"], "a": ["x"], "b": ["y"]}, ["b", "a", "b"]).file_columns == ("a", "b")


BAD_FILE_COLUMNS = {
    "unknown": (["image.mha", "nope"], r"file_columns \['nope'\] are not among the columns \['image.mha'\]"),
    "the id": (["id"], r"\['id'\] are not among"),
    "one text": ("image.mha", r"is one text: give a list, \['image.mha'\]"),
    "none": ([], "no file column"),
}


@pytest.mark.parametrize(("file_columns", "said"), BAD_FILE_COLUMNS.values(), ids=BAD_FILE_COLUMNS)
def test_file_columns_that_make_no_sense_are_refused(file_columns, said):
    with pytest.raises(InvalidDatasetError, match=said):
        rows_of({"id": ["1"], "image.mha": [A]}, file_columns)


def test_a_frame_without_a_file_column_is_told_how_to_name_one():
    said = refusal({"id": ["1"], "label": ["cat"]})
    assert "no file column among ['label']" in said
    assert "file_columns=[...]" in said


# --- names of columns

UNSAFE_NAMES = {"absolute": ("/x.mha", "absolute"), "parent": ("../x.mha", "segment"), "double": ("a//b.mha", "empty")}


@pytest.mark.parametrize(("name", "said"), UNSAFE_NAMES.values(), ids=UNSAFE_NAMES)
def test_an_unsafe_name_of_a_file_column_is_refused(name, said):
    assert said in refusal({"id": ["1"], name: [A]})


def test_a_column_that_is_carried_may_have_any_name():
    assert rows_of({"id": ["1"], "image.mha": [A], "/../": [1], "": [2]}).carried == ("/../", "")


def test_file_columns_equal_but_for_case_are_two():
    """Only what puts them on a disk side by side refuses them; a table of blobs does not."""
    assert rows_of({"id": ["1"], "a.mha": [A], "A.mha": [B]}).file_columns == ("a.mha", "A.mha")


def test_file_columns_below_each_other_are_refused():
    assert "also directories" in refusal({"id": ["1"], "a.mha": [A], "a.mha/b.mha": [B]})


ODD_COLUMNS = {
    "numbers": ([0, 1], r"column names \[0, 1\] are not text"),
    "levels": (pd.MultiIndex.from_tuples([("id", "a"), ("x.mha", "b")]), "are not text"),
    "null": (["id", None], "are not text"),
    "twice": (["id", "id"], r"columns \['id'\] appear more than once"),
}


@pytest.mark.parametrize(("names", "said"), ODD_COLUMNS.values(), ids=ODD_COLUMNS)
def test_columns_without_a_text_of_their_own_are_refused(names, said):
    with pytest.raises(InvalidDatasetError, match=said):
        rows_of(pd.DataFrame([["1", A]], columns=names))


def test_the_columns_of_failures_are_reserved():
    said = refusal({"id": ["1"], "image.mha": [A], "error_stage": ["fn"]})
    assert "columns ['error_stage'] are reserved for recorded failures: rename them" in said
    assert "'error_message'" in said


NO_FRAMES = {
    "another library's": (pa.table({"id": ["1"]}), "the frame is a Table: convert it with .to_pandas()"),
    "Series": (pd.Series({"id": "1"}), "the frame is a Series: give a pandas DataFrame"),
    "list": ([{"id": "1"}], "the frame is a list: give a pandas DataFrame"),
    "path": ("frame.csv", "the frame is a str: give a pandas DataFrame"),
    "None": (None, "the frame is a NoneType: give a pandas DataFrame"),
}


@pytest.mark.parametrize(("frame", "said"), NO_FRAMES.values(), ids=NO_FRAMES)
def test_what_is_no_pandas_frame_is_refused_with_the_remedy(frame, said):
    with pytest.raises(InvalidDatasetError) as refused:
        frames.rows_of_frame(frame, None, needs_id=True)
    assert str(refused.value) == said


# --- ids

IDS = {
    "int64": pd.Series([3, 1], dtype="int64"),
    "uint8": pd.Series([3, 1], dtype="uint8"),
    "Int64": pd.Series([3, 1], dtype="Int64"),
    "text as pandas infers it": pd.Series(["b", "a"]),
    "object": objects("b", "a"),
    "object of text and integers": objects("b", 1),
    "object of numpy integers": objects(np.int64(3), np.uint8(1)),
    "string": pd.Series(["b", "a"], dtype="string"),
    "string of Python": pd.Series(["b", "a"], dtype="string[python]"),
    "Arrow text": pd.Series(["b", "a"], dtype=ARROW_TEXT),
    "Arrow integers": pd.Series([3, 1], dtype=ARROW_INT),
    "categorical": pd.Series(["b", "a"], dtype="category"),
    "categorical of integers": pd.Series([3, 1], dtype="category"),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_an_id_of_a_row_has_the_text_it_had(ids):
    rows = rows_of({"id": ids, "image.mha": [A, B]})
    assert [str(rows.row(position).id) for position in (0, 1)] == [str(ids[0]), str(ids[1])]


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_come_back_in_the_manifest_as_they_went_in(ids):
    rows = rows_of({"id": ids, "image.mha": [A, B]})
    manifest = frames.manifest(rows, {"out": [A, B]}, keep=[0, 1])
    pd.testing.assert_series_equal(manifest["id"], ids.rename("id"))


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_come_back_among_the_failures_as_they_went_in(ids):
    rows = rows_of({"id": ids, "image.mha": [A, B]})
    failures = frames.failures_frame(rows, [0, 1], errors(*map(failure, ids)))
    pd.testing.assert_series_equal(failures["id"], ids.rename("id"))


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_come_back_among_the_files_as_they_went_in(ids):
    rows = rows_of({"id": ids, "image.mha": [A, B]})
    files = files_of(
        rows, *[frames.StoredFile(0, "out", A, 1, None, None), frames.StoredFile(1, "out", B, 2, None, None)]
    )
    pd.testing.assert_series_equal(files["id"], ids.rename("id"))


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_a_frame_of_no_rows_keeps_the_dtype_of_its_ids(ids):
    rows = rows_of({"id": ids, "image.mha": [A, B]})
    assert frames.manifest(rows, {}, keep=[])["id"].dtype == ids.dtype


def failure(row_id, message="bad", file=None):
    return Failure(row_id, "fn", file, None, "ValueError", None, message)


def errors(*failures):
    """The error columns of these failures; None stands for a good row."""
    return {
        name: [getattr(one, name.removeprefix("error_"), None) for one in failures] for name in frames.ERROR_COLUMNS
    }


def files_of(rows, *files):
    columns = {name: [getattr(file, name) for file in files] for name in frames.FILES_COLUMNS[1:]}
    return frames.files_frame(rows, [file.position for file in files], columns)


REFUSED_IDS = {
    "None": (objects("a", None), "ids are null at index [1] (1 in all)"),
    "NaN": (objects("a", float("nan")), "ids are null at index [1] (1 in all)"),
    "NA of integers": (pd.Series([1, None], dtype="Int64"), "ids are null at index [1] (1 in all)"),
    "NA of text": (pd.Series([None, None], dtype="string"), "ids are null at index [0, 1] (2 in all)"),
    "NaN of floats": (pd.Series([1.0, None]), "ids are null at index [1] (1 in all)"),
    "empty": (["a", ""], "id '' is empty"),
    "bools": ([True, False], "ids are bool, such as"),
    "nullable bools": (pd.Series([True, False], dtype="boolean"), "ids are boolean, such as"),
    "Arrow bools": (pd.Series([True, False], dtype=pd.ArrowDtype(pa.bool_())), "ids are bool[pyarrow], such as"),
    "a bool among objects": (pd.Series(["a", True], dtype=object), "id True is a bool: an id is a str or an integer"),
    "floats": ([1.0, 2.0], "ids are float64, such as"),
    "nullable floats": (pd.Series([1.0, 2.0], dtype="Float64"), "ids are Float64, such as"),
    "Arrow floats": (pd.Series([1.0, 2.0], dtype=pd.ArrowDtype(pa.float64())), "ids are double[pyarrow], such as"),
    "a float among objects": (objects("a", 1.5), "id 1.5 is a float: an id is a str or an integer"),
    "categorical of floats": (pd.Categorical([1.5, 2.5]), "id 1.5 is a float"),
    "dates": (pd.to_datetime(["2024-01-01", "2024-01-02"]), "is a Timestamp: an id is a str or an integer"),
    "bytes": (objects("a", b"b"), "id b'b' is a bytes"),
    "dot": (["a", "."], "id '.' has the segment '.'"),
    "two dots": (["a", ".."], "id '..' has the segment '..'"),
    "slash": (["a", "b/c"], "id 'b/c' holds a slash"),
    "backslash": (["a", "b\\c"], "holds a backslash"),
    "control": (["a", "b\x00c"], "holds a control character"),
    "newline": (["a", "b\nc"], "holds a control character"),
    "256 bytes": (["a", "é" * 128], "is 256 bytes of UTF-8, over the 255"),
    "surrogate": (objects("a", "b\udce9"), "is not valid Unicode"),
    "twice": (["a", "a"], "duplicate ids: ['a'] (2 rows in all)"),
    "twice by text": (objects(1, "1"), "duplicate ids: [1, '1'] (2 rows in all)"),
    "integer twice": ([7, 7], "duplicate ids: [7] (2 rows in all)"),
}


@pytest.mark.parametrize(("ids", "said"), REFUSED_IDS.values(), ids=REFUSED_IDS)
def test_an_id_that_could_name_no_directory_of_its_own_is_refused_by_name(ids, said):
    assert said in refusal({"id": ids, "image.mha": [A, B]})


def test_a_number_too_long_to_print_is_refused_as_an_id():
    with pytest.raises(InvalidDatasetError):
        rows_of({"id": objects("a", 10**5000), "image.mha": [A, B]})


def test_nulls_are_named_by_the_labels_of_the_index():
    frame = pd.DataFrame({"id": ["a", None], "image.mha": [A, B]}, index=["first", "second"])
    assert "ids are null at index ['second']" in refusal(frame)


def test_floats_as_ids_are_told_the_dtype_that_keeps_integers():
    assert "frame.astype({'id': 'Int64'})" in refusal({"id": [1.0, 2.0], "image.mha": [A, B]})


def test_every_refused_id_is_named():
    said = refusal({"id": ["a/b", "ok", ".."], "image.mha": [A, B, A]})
    assert "'a/b'" in said
    assert "'..'" in said
    assert "2 ids are refused in all" in said


def test_of_many_refused_ids_five_are_named_and_all_are_counted():
    said = refusal({"id": [f"a/{number}" for number in range(100)], "image.mha": [A] * 100})
    assert said.count("holds a slash") == 5
    assert "100 ids are refused in all" in said


def test_a_frame_without_ids_is_refused():
    assert refusal({"image.mha": [A]}) == "the frame has no column 'id', which names each row's outputs."


def test_a_frame_with_the_ids_in_its_index_is_told_how_to_make_them_a_column():
    frame = pd.DataFrame({"image.mha": [A]}, index=pd.Index(["1"], name="id"))
    assert "frame.reset_index()" in refusal(frame)


def test_a_frame_without_ids_can_be_read_where_none_are_needed():
    rows = rows_of({"image.mha": [A]}, needs_id=False)
    assert rows.row(0) == FileRow(None, {"image.mha": ObjectUrl("bucket", "1.mha")})


def test_ids_are_checked_where_none_are_needed_too():
    assert "duplicate ids" in refusal({"id": ["a", "a"], "image.mha": [A, B]}, needs_id=False)


FOLDED = {"case": ["Scan", "scan"], "accents": ["é", "e\u0301"], "sharp s": ["STRASSE", "straße"]}


@pytest.mark.parametrize("ids", FOLDED.values(), ids=FOLDED)
def test_ids_that_some_disks_take_for_one_are_refused_for_a_local_target(ids):
    said = refusal({"id": ids, "image.mha": [A, B]}, local=True)
    assert said.startswith(f"ids {ids[1:]} differ from others by case or accents alone: rename them")


@pytest.mark.parametrize("ids", FOLDED.values(), ids=FOLDED)
def test_ids_that_some_disks_take_for_one_are_two_prefixes_in_s3(ids):
    assert rows_of({"id": ids, "image.mha": [A, B]}).ids == ids


plain_ids = st.one_of(st.text(st.sampled_from("a.\n\x85/\\é ")), st.text(), st.integers())
some_ids = st.lists(
    st.one_of(
        plain_ids, st.text(st.characters(categories=["Cs"])), st.booleans(), st.none(), st.floats(), st.binary(),
        st.integers(0, 9).map(np.int16), st.text("x", min_size=254, max_size=257), st.just(pd.NA),
    )
)  # fmt: skip


def texts_one_by_one(ids):
    try:
        return [check_id(row_id) for row_id in ids]
    except InvalidDatasetError:
        return None


@patient
@given(st.one_of(st.lists(plain_ids), st.lists(st.text(), max_size=3), st.lists(st.integers()), some_ids))
def test_ids_are_accepted_together_when_each_of_them_is(ids):
    """The one pass over the joined texts and the look at each id agree."""
    try:
        texts = _ids.texts_of(ids)
    except InvalidDatasetError:
        texts = None
    assert texts == texts_one_by_one(ids)


# --- cells

NULLS = {"None": None, "NaN": float("nan"), "NA": pd.NA, "NaT": pd.NaT, "numpy NaN": np.float64("nan")}


@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
def test_a_null_cell_is_a_file_that_the_row_has_not(null):
    rows = rows_of({"id": ["1", "2"], "image.mha": objects(A, null), "mask.mha": [A, B]})
    assert rows.row(1).files == {"image.mha": None, "mask.mha": ObjectUrl("bucket", "2.mha")}


TEXT_DTYPES = {"inferred": None, "object": object, "string": "string", "Arrow": ARROW_TEXT, "category": "category"}


@pytest.mark.parametrize("dtype", TEXT_DTYPES.values(), ids=TEXT_DTYPES)
def test_a_cell_is_read_alike_from_every_kind_of_column(dtype):
    rows = rows_of({"id": ["1", "2"], "image.mha": pd.Series([A, None], dtype=dtype)})
    assert rows.cells == {"image.mha": [A, None]}


BAD_CELLS = {
    "scheme": ("gs://bucket/a", "gs:// is not read"),
    "file URL": ("file:///a", "file:// is not read"),
    "bucket": ("s3://bucket", "names a bucket, not an object"),
    "root": ("/", "the root of the disk"),
    "number": (5, "int 5 is not a location"),
    "bytes": (b"s3://b/k", "bytes b's3://b/k' is not a location"),
    "list": ([A], "list ['s3://bucket/1.mha'] is not a location"),
    "empty": ("", "'' is not a location"),
}


@pytest.mark.parametrize(("cell", "said"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_bad_cell_fails_its_row(cell, said):
    rows = rows_of({"id": [1, 2], "image.mha": objects(A, cell)})
    with pytest.raises(RowError) as failed:
        rows.row(1)
    (found,) = failed.value.failures
    assert (found.id, found.stage, found.file, found.url) == (2, "download", "image.mha", str(cell))
    assert said in found.message


def test_a_directory_is_a_source_of_its_row_and_not_one_file():
    rows = rows_of({"id": [1], "series": ["s3://bucket/a/"]})
    assert rows.row(0).files == {"series": Directory(ObjectUrl("bucket", "a/"))}
    with pytest.raises(InvalidDatasetError, match="is not one file"):
        rows.location(0, "series")


def test_a_bad_cell_leaves_the_other_rows_alone():
    rows = rows_of({"id": [1, 2], "image.mha": objects(5, A)})
    assert rows.row(1) == FileRow(2, {"image.mha": ObjectUrl("bucket", "1.mha")})


def test_every_bad_cell_of_a_row_is_told():
    rows = rows_of({"id": [1], "a.mha": ["s3://bucket"], "b.mha": [A], "c.mha": ["gs://bucket/c.mha"]})
    with pytest.raises(RowError) as failed:
        rows.row(0)
    assert [found.file for found in failed.value.failures] == ["a.mha", "c.mha"]


def test_a_number_too_long_to_print_fails_its_row():
    rows = rows_of({"id": [1, 2], "image.mha": objects(A, 10**5000)})
    with pytest.raises(RowError, match=r"int .* is not a location"):
        rows.row(1)


def test_a_long_bad_cell_is_told_in_part():
    rows = rows_of({"id": [1], "a.mha": ["gs://" + "x" * 9000], "b.mha": [A]}, ["a.mha"])
    with pytest.raises(RowError) as failed:
        rows.row(0)
    assert len(failed.value.failures[0].url) == 200


def test_a_relative_path_is_below_the_directory_where_the_frame_was_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = rows_of({"id": [1], "image.mha": ["sub/a.mha"]})
    monkeypatch.chdir("/")
    assert rows.row(0).files == {"image.mha": tmp_path / "sub/a.mha"}


# --- the caller's frame


def hostile_frame():
    frame = pd.DataFrame(
        {
            "image.mha": objects(A, None, "gs://x/y"),
            "id": pd.Series([3, 1, 2], dtype="Int64"),
            "mask": pd.Series([None, B, B], dtype="category"),
            "tags": objects(["a"], [], ["b", "c"]),
            "when": pd.to_datetime(["2024-01-01", None, "2024-01-03"], utc=True),
        }
    ).set_axis(["x", "x", "z"])
    frame.attrs["source"] = {"study": "A"}
    return frame


def test_the_frame_of_the_caller_is_never_changed():
    frame, before = hostile_frame(), hostile_frame()
    rows = rows_of(frame)
    with pytest.raises(RowError):
        rows.row(2)
    manifest = frames.manifest(rows, {"out": [A, None]}, keep=[0, 1])
    manifest["when"] = None
    recorded = frames.with_failures(manifest, errors(None, failure(1)))
    recorded["id"] = 5
    failures = frames.failures_frame(rows, [1], errors(failure(1)))
    failures["id"] = 5
    files = files_of(rows, *[frames.StoredFile(0, "out", A, 1, None, None)])
    files["id"] = 5
    pd.testing.assert_frame_equal(frame, before)
    assert frame.attrs == before.attrs


# --- no rows

EMPTY = {
    "as pandas infers": pd.DataFrame({"id": [], "image.mha": []}),
    "objects": pd.DataFrame({"id": objects(), "image.mha": objects()}),
    "integers": pd.DataFrame({"id": pd.Series(dtype="int64"), "image.mha": pd.Series(dtype="string")}),
    "bools": pd.DataFrame({"id": pd.Series(dtype=bool), "image.mha": pd.Series(dtype="string")}),
    "no file column": pd.DataFrame({"id": pd.Series(dtype="int64")}),
    "cut off": pd.DataFrame({"id": ["1"], "image.mha": [A], "label": ["cat"]}).iloc[:0],
    "Arrow": pd.DataFrame({"id": pd.Series(dtype=ARROW_TEXT), "image.mha": pd.Series(dtype=ARROW_TEXT)}),
}


@pytest.mark.parametrize("frame", EMPTY.values(), ids=EMPTY)
def test_a_frame_of_no_rows_is_never_an_error(frame):
    assert len(rows_of(frame)) == 0


@pytest.mark.parametrize("frame", EMPTY.values(), ids=EMPTY)
def test_the_manifest_of_no_rows_has_its_outputs_and_ids(frame):
    manifest = frames.manifest(rows_of(frame), {"out.mha": []}, keep=[])
    assert list(manifest.columns)[:2] == ["out.mha", "id"]
    assert (len(manifest), manifest["id"].dtype) == (0, frame["id"].dtype)


# --- one row as a mapping


def test_a_mapping_is_one_row():
    rows = frames.rows_of_mapping({"image.mha": A, "mask.mha": None}, None)
    assert [rows.row(position) for position in range(len(rows))] == [
        FileRow(None, {"image.mha": ObjectUrl("bucket", "1.mha"), "mask.mha": None})
    ]


def test_the_id_of_a_mapping_names_the_row():
    assert frames.rows_of_mapping({"id": 7, "image.mha": A}, None).row(0).id == 7


def test_file_columns_decide_alone_in_a_mapping_too():
    rows = frames.rows_of_mapping({"image.mha": A, "scan": "a"}, ["scan"])
    assert rows.file_columns == ("scan",)


MAPPINGS = {
    "no file": ({"label": "cat"}, "the row has no file column among ['label']"),
    "empty": ({}, "the row has no file column"),
    "a list": ([A], "row is a list: give a mapping of file name to location"),
    "a number as a name": ({5: A}, "column names [5] are not text"),
    "unsafe name": ({"../image.mha": A}, "segment '..'"),
    "unsafe id": ({"id": "../1", "image.mha": A}, "id '../1' holds a slash"),
    "bool id": ({"id": True, "image.mha": A}, "id True is a bool"),
    "NaN id": ({"id": float("nan"), "image.mha": A}, "is null"),
}


@pytest.mark.parametrize(("row", "said"), MAPPINGS.values(), ids=MAPPINGS)
def test_a_mapping_that_is_no_row_is_refused(row, said):
    with pytest.raises(InvalidDatasetError) as refused:
        frames.rows_of_mapping(row, None)
    assert said in str(refused.value)


# --- manifests


def test_a_manifest_has_outputs_then_id_then_carried_columns():
    rows = rows_of({"label": ["cat"], "image.mha": [A], "id": ["1"], "age": [5]})
    manifest = frames.manifest(rows, {"b": ["s3://o/b"], "a": ["s3://o/a"]}, keep=[0])
    assert list(manifest.columns) == ["b", "a", "id", "label", "age"]
    assert manifest.iloc[0].tolist() == ["s3://o/b", "s3://o/a", "1", "cat", 5]


def test_a_manifest_lists_the_rows_to_keep_under_a_new_index():
    rows = rows_of(pd.DataFrame({"id": [1, 2, 3], "image.mha": [A] * 3}, index=[9, 9, 9]))
    manifest = frames.manifest(rows, {"out": ["x", "z"]}, keep=[0, 2])
    assert manifest.to_dict("list") == {"out": ["x", "z"], "id": [1, 3]}
    assert manifest.index.tolist() == [0, 1]


def test_outputs_of_a_row_that_stored_none_are_null():
    rows = rows_of({"id": [1, 2], "image.mha": [A, B]})
    manifest = frames.manifest(rows, {"out": [None, None], "more": ["x", None]}, keep=[0, 1])
    assert manifest[["out", "more"]].isna().to_numpy().tolist() == [[True, False], [True, True]]


CARRIED = {
    "int8": pd.Series([1, 2], dtype="int8"),
    "Int64 with a null": pd.Series([1, None], dtype="Int64"),
    "bool": pd.Series([True, False]),
    "boolean with a null": pd.Series([True, None], dtype="boolean"),
    "float32": pd.Series([1.5, None], dtype="float32"),
    "text": pd.Series(["a", None]),
    "object": objects("a", 1),
    "category": pd.Series(["a", "b"], dtype="category"),
    "date with zone": pd.Series(pd.to_datetime(["2024-01-01", None], utc=True)),
    "duration": pd.Series(pd.to_timedelta([1, 2], unit="s")),
    "Arrow list": pd.Series([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
}


@pytest.mark.parametrize("values", CARRIED.values(), ids=CARRIED)
def test_a_carried_column_keeps_values_and_dtype(values):
    rows = rows_of({"id": [1, 2], "image.mha": [A, B], "extra": values})
    manifest = frames.manifest(rows, {"out": [A, B]}, keep=[0, 1])
    pd.testing.assert_series_equal(manifest["extra"], values.rename("extra"))


@pytest.mark.parametrize("values", CARRIED.values(), ids=CARRIED)
def test_a_carried_column_keeps_its_dtype_without_a_row(values):
    rows = rows_of({"id": [1, 2], "image.mha": [A, B], "extra": values})
    assert frames.manifest(rows, {}, keep=[])["extra"].dtype == values.dtype


def test_a_manifest_is_a_frame_of_rows_again():
    rows = rows_of({"id": [1, 2], "image.mha": [A, None], "mask.mha": [A, B], "label": ["x", "y"]})
    again = rows_of(frames.manifest(rows, {"out.mha": ["s3://o/1/out.mha", None]}, keep=[0, 1]))
    assert (again.ids, again.cells, again.carried) == ([1, 2], {"out.mha": ["s3://o/1/out.mha", None]}, ("label",))


def arrow_kinds(frame, columns):
    schema = pa.Table.from_pandas(frame).schema
    return {str(schema.field(name).type).removeprefix("large_") for name in columns}


def test_an_output_column_of_nulls_is_text_to_arrow():
    rows = rows_of({"id": [1], "image.mha": [A]})
    assert arrow_kinds(frames.manifest(rows, {"out": [None]}, keep=[0]), ["out"]) == {"string"}


# --- recorded failures


def recorded(failures):
    rows = rows_of({"id": [1, 2], "image.mha": [A, B], "label": ["x", "y"]})
    manifest = frames.manifest(rows, {"out.mha": [A, None]}, keep=[0, 1])
    return frames.with_failures(manifest, errors(*map(failures.get, (0, 1))))


def test_a_recorded_failure_is_told_in_columns_of_its_row():
    told = Failure(2, "download", "image.mha", B, "FileNotFoundError", "NoSuchKey", "no such key")
    frame = recorded({1: told})
    assert list(frame.columns)[-6:] == list(frames.ERROR_COLUMNS)
    assert frame.iloc[1][list(frames.ERROR_COLUMNS)].tolist() == [
        "download", "image.mha", B, "FileNotFoundError", "NoSuchKey", "no such key"
    ]  # fmt: skip


def test_the_failure_columns_of_a_good_row_are_null():
    assert recorded({1: failure(2)}).iloc[0][list(frames.ERROR_COLUMNS)].isna().all()


def test_failure_columns_are_text_to_arrow_when_no_row_failed():
    assert arrow_kinds(recorded({}), frames.ERROR_COLUMNS) == {"string"}


def test_a_recorded_failure_is_recognised():
    rows = rows_of(recorded({1: failure(2, "first")}))
    assert rows.failed == {1: failure(2, "first")}


def test_a_recorded_failure_is_recognised_after_arrow():
    back = pa.Table.from_pandas(recorded({1: failure(2, "first")})).to_pandas(types_mapper=pd.ArrowDtype)
    assert rows_of(back).failed == {1: failure(2, "first")}


def test_recorded_failures_are_not_carried():
    assert rows_of(recorded({1: failure(2)})).carried == ("label",)


def test_a_frame_without_failure_columns_has_no_recorded_failures():
    assert rows_of({"id": [1], "image.mha": [A]}).failed == {}


def test_a_failure_whose_text_is_no_unicode_is_told():
    """An exception that names a file whose name is no UTF-8 holds surrogates (PEP 383)."""
    told = recorded({1: failure(2, "cannot read caf\udce9.mha")})
    assert arrow_kinds(told, frames.ERROR_COLUMNS) == {"string"}


# --- frames of failures and files


def test_failures_of_one_row_keep_their_order():
    rows = rows_of({"id": [1], "image.mha": [A]})
    listed = frames.failures_frame(rows, [0, 0], errors(failure(1, "first"), failure(1, "second")))
    assert listed["error_message"].tolist() == ["first", "second"]


def test_a_frame_of_failures_has_the_failure_columns():
    rows = rows_of({"id": [1], "image.mha": [A], "label": ["x"]})
    assert tuple(frames.failures_frame(rows, [], errors()).columns) == frames.FAILURE_COLUMNS


def test_failures_come_back_from_their_frame():
    told = [
        Failure(1, "download", "image.mha", A, "FileNotFoundError", "NoSuchKey", "no such key"),
        Failure(2, "fn", None, None, "ValueError", None, "bad\nworse"),
    ]
    rows = rows_of({"id": [1, 2], "image.mha": [A, B]})
    assert frames.failures_of(frames.failures_frame(rows, [0, 1], errors(*told))) == told


def test_a_frame_of_files_tells_where_they_are_and_what_they_hold():
    rows = rows_of({"id": ["x", "y"], "image.mha": [A, B]})
    first, second = (1, "out", "s3://o/y/out", 5, '"e"', "CRC32:AA=="), (0, "out", "/o/x/out", 3, None, None)
    files = files_of(rows, *[frames.StoredFile(*first), frames.StoredFile(*second)])
    assert tuple(files.columns) == frames.FILES_COLUMNS
    assert files["id"].tolist() == ["y", "x"]
    assert files.iloc[0].tolist() == ["y", "out", "s3://o/y/out", 5, '"e"', "CRC32:AA=="]
    assert files.iloc[1][["etag", "checksum"]].isna().all()


@pytest.mark.parametrize("count", [0, 1], ids=["none", "one"])
def test_sizes_are_int64_bytes(count):
    rows = rows_of({"id": ["x"], "image.mha": [A]})
    files = files_of(rows, *[frames.StoredFile(0, "out", "/o", 5 << 40, None, None)] * count)
    assert str(files["size_bytes"].dtype) == "int64"


def test_no_files_have_the_columns_of_files():
    none = frames.no_files(pd.DataFrame({"id": pd.Series([1], dtype="uint8")}))
    assert (tuple(none.columns), len(none), str(none["id"].dtype)) == (frames.FILES_COLUMNS, 0, "uint8")


# --- 200,000 rows

COUNT = 200_000
MANY = {
    "object ids": (str, object, object),
    "text ids": (str, None, object),
    "string ids": (str, "string", object),
    "int64 ids": (int, "int64", object),
    "Int64 ids": (int, "Int64", object),
    "text cells": (str, object, None),
    "string cells": (str, object, "string"),
    "Arrow cells": (str, object, ARROW_TEXT),
}


def calls_for_many_rows(kind, id_dtype, cell_dtype):
    cells = pd.Series([f"s3://bucket/{number}.mha" for number in range(COUNT)], dtype=cell_dtype)
    ids = pd.Series(list(map(kind, range(COUNT))), dtype=id_dtype)
    frame = pd.DataFrame({"id": ids, "image.mha": cells, "mask.mha": cells, "fold": range(COUNT)})
    return python_calls(lambda: rows_of(frame, local=True))


@pytest.mark.parametrize(("kind", "id_dtype", "cell_dtype"), MANY.values(), ids=MANY)
def test_200_000_rows_are_checked_without_a_python_call_per_row(kind, id_dtype, cell_dtype):
    assert calls_for_many_rows(kind, id_dtype, cell_dtype) < 20_000


ARROW_IDS = {"text": (str, ARROW_TEXT), "integers": (int, ARROW_INT)}


@pytest.mark.parametrize(("kind", "dtype"), ARROW_IDS.values(), ids=ARROW_IDS)
def test_200_000_arrow_ids_are_checked_without_a_python_call_per_row(kind, dtype):
    assert calls_for_many_rows(kind, dtype, object) < 20_000


def test_the_count_of_python_calls_sees_one_call_per_row():
    """The opposite of the tests above: a check of each id alone would be noticed."""
    assert python_calls(lambda: [check_id(number) for number in range(1000)]) >= 1000
