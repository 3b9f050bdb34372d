"""`reader(...)`: rows and frames into temp dirs, blob tables and size tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import file_dataset
from file_dataset import InvalidDatasetError, RowError


@pytest.fixture
def frame(bucket):
    return pd.DataFrame(
        {
            "a.txt": [bucket.put("in/1", b"one"), bucket.put("in/2", b"two"), bucket.put("in/3", b"three")],
            "label": ["x", "y", "z"],
            "id": [3, 1, 2],
            "sub/b.txt": [bucket.put("in/b", b"bb"), None, None],
        }
    )


def test_a_row_lies_at_its_file_names(bucket, options):
    row = {"a.txt": bucket.put("a", b"hi"), "sub/b.txt": bucket.put("b", b"there")}
    with file_dataset.reader(row, options=options).into_temp_dir() as temp:
        assert isinstance(temp, Path)
        assert (temp / "a.txt").read_bytes() == b"hi"
        assert (temp / "sub/b.txt").read_bytes() == b"there"
    assert not temp.exists()


def test_a_frame_lies_at_id_and_file_name(frame, options):
    with file_dataset.reader(frame, options=options).into_temp_dir() as temp:
        found = {str(path.relative_to(temp)): path.read_bytes() for path in temp.rglob("*") if path.is_file()}
    assert found == {"3/a.txt": b"one", "3/sub/b.txt": b"bb", "1/a.txt": b"two", "2/a.txt": b"three"}


def test_a_row_without_any_file_still_has_its_directory(bucket, options):
    frame = pd.DataFrame({"id": ["x", "y"], "a.txt": [None, bucket.put("a", b"hi")]})
    with file_dataset.reader(frame, options=options).into_temp_dir() as temp:
        assert list((temp / "x").iterdir()) == []


def test_local_files_are_copied_not_moved(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("hi")
    with file_dataset.reader(row={"a.txt": source}).into_temp_dir() as temp:
        (temp / "a.txt").write_text("changed")
    assert source.read_text() == "hi"


def test_the_temp_dir_is_made_where_it_is_wanted(tmp_path, bucket, options):
    with file_dataset.reader({"a.txt": bucket.put("a", b"hi")}, options=options).into_temp_dir(dir=tmp_path) as temp:
        assert temp.parent == tmp_path


def test_a_failed_read_leaves_no_temp_dir(tmp_path, bucket, options):
    with pytest.raises(RowError):
        file_dataset.reader({"a.txt": bucket.url("none")}, options=options).into_temp_dir(dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_into_a_temp_dir_needs_ids(frame, options):
    with pytest.raises(InvalidDatasetError, match="no column 'id'"):
        file_dataset.reader(frame.drop(columns="id"), options=options).into_temp_dir()


def test_ids_that_share_a_directory_on_some_disks_are_refused(frame, options):
    folded = frame.assign(id=["A", "a", "b"])
    with pytest.raises(InvalidDatasetError, match="case or accents"):
        file_dataset.reader(folded, options=options).into_temp_dir()
    assert file_dataset.reader(folded, options=options).into_blob_table().num_rows == 3


def test_blobs_come_as_binary_with_the_ids_in_the_frames_order(frame, options):
    table = file_dataset.reader(frame, options=options).into_blob_table()
    assert table.schema == pa.schema({"a.txt": pa.binary(), "id": pa.int64(), "sub/b.txt": pa.binary()})
    assert table.to_pydict() == {
        "a.txt": [b"one", b"two", b"three"], "id": [3, 1, 2], "sub/b.txt": [b"bb", None, None],
    }  # fmt: skip


def test_a_frame_without_ids_is_read_too(frame, options):
    table = file_dataset.reader(frame.drop(columns="id"), options=options).into_blob_table()
    assert table.column_names == ["a.txt", "sub/b.txt"]


def test_large_blobs_are_one_chunk_each_and_small_ones_are_joined(bucket, options):
    bodies = [b"a", b"", b"x" * (1 << 20), b"b", b"y" * (2 << 20)]
    frame = pd.DataFrame({"a.bin": [bucket.put(f"{number}", body) for number, body in enumerate(bodies)]})
    table = file_dataset.reader(frame, options=options).into_blob_table()
    assert table["a.bin"].to_pylist() == bodies
    assert [len(chunk) for chunk in table["a.bin"].chunks] == [2, 1, 1, 1]
    table.validate(full=True)


def test_large_asks_for_large_binary(frame, options):
    table = file_dataset.reader(frame, options=options).into_blob_table(large=True)
    assert table.schema.field("a.txt").type == pa.large_binary()
    table.validate(full=True)


def test_a_blob_that_binary_cannot_hold_is_an_error_that_says_so(monkeypatch, frame, options):
    monkeypatch.setattr("file_dataset._reader._BINARY_BYTES", 4)  # for 2 GiB - 1
    with pytest.raises(InvalidDatasetError, match="large=True"):
        file_dataset.reader(frame, options=options).into_blob_table()
    assert file_dataset.reader(frame, options=options).into_blob_table(large=True).num_rows == 3


def test_sizes_are_int64_bytes(frame, options):
    table = file_dataset.reader(frame, options=options).into_size_table()
    assert table.schema == pa.schema({"a.txt": pa.int64(), "id": pa.int64(), "sub/b.txt": pa.int64()})
    assert table.to_pydict() == {"a.txt": [3, 3, 5], "id": [3, 1, 2], "sub/b.txt": [2, None, None]}


def test_sizes_of_the_first_rows_ask_for_these_alone(faults, fault_options):
    for number in range(5):
        faults.put(f"s3://bucket/{number}", b"x" * number)
    frame = pd.DataFrame({"a.bin": [f"s3://bucket/{number}" for number in range(5)]})
    table = file_dataset.reader(frame, options=fault_options).into_size_table(limit=2)
    assert table["a.bin"].to_pylist() == [0, 1]
    assert faults.count("HeadObject") == 2


@pytest.mark.parametrize("limit", [-1, 1.5, True, "3"])
def test_a_limit_that_is_no_count_is_refused(frame, options, limit):
    with pytest.raises(InvalidDatasetError, match="limit="):
        file_dataset.reader(frame, options=options).into_size_table(limit=limit)


def test_empty_frames_give_empty_tables(options):
    frame = pd.DataFrame({"id": pd.Series(dtype="int64"), "a.txt": pd.Series(dtype=object)})
    reader = file_dataset.reader(frame, options=options)
    assert reader.into_blob_table().schema == pa.schema({"id": pa.int64(), "a.txt": pa.binary()})
    assert reader.into_size_table().schema == pa.schema({"id": pa.int64(), "a.txt": pa.int64()})
    with reader.into_temp_dir() as temp:
        assert list(temp.iterdir()) == []


def test_bad_cells_are_all_told_before_the_first_request(faults, fault_options):
    frame = pd.DataFrame({"id": [1, 2, 3], "a.txt": ["s3://bucket/a", "ftp://x/y", 5]})
    with pytest.raises(InvalidDatasetError) as caught:
        file_dataset.reader(frame, options=fault_options).into_blob_table()
    assert "row 2" in str(caught.value)
    assert "row 3" in str(caught.value)
    assert not faults.requests


@pytest.mark.parametrize(
    "arguments",
    [{}, {"data": {"a.txt": "/x"}, "row": {"a.txt": "/x"}}, {"row": {"a.txt": "/x"}, "dataframe": pd.DataFrame()}],
    ids=["none", "two", "row and frame"],
)
def test_exactly_one_row_or_frame_is_read(arguments):
    with pytest.raises(InvalidDatasetError, match="one row or one frame"):
        file_dataset.reader(**arguments)


def test_a_series_is_a_row(bucket, options):
    series = pd.Series({"id": 1, "a.txt": bucket.put("a", b"hi")})
    with file_dataset.reader(row=series, options=options).into_temp_dir() as temp:
        assert (temp / "a.txt").read_bytes() == b"hi"


def test_a_local_directory_is_refused_by_name(tmp_path):
    with pytest.raises(RowError, match="DICOM"):
        file_dataset.reader({"scan.dcm": tmp_path}).into_temp_dir()


def test_local_files_need_no_credentials(tmp_path):
    (tmp_path / "a.txt").write_text("hi")
    table = file_dataset.reader({"a.txt": str(tmp_path / "a.txt")}).into_blob_table()
    assert table["a.txt"].to_pylist() == [b"hi"]


def test_relative_paths_are_those_of_the_call(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("hi")
    monkeypatch.chdir(tmp_path)
    reader = file_dataset.reader({"a.txt": "a.txt"}, file_columns=["a.txt"])
    monkeypatch.chdir("/")
    assert reader.into_size_table()["a.txt"].to_pylist() == [2]
