"""`iter_temp_dirs` and `iter_blob_tables`: in the frame's order, two ahead, and nothing left behind."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from helpers import impatient_options, until
from servers.faults import ACCESS_DENIED

from file_dataset import InvalidDatasetError, RowError, TempDir, reader


@pytest.fixture
def eight(faults):
    """Eight rows; every third has no second file."""
    for number in range(1, 9):
        faults.put(f"s3://bucket/in/{number}", f"row {number}".encode())
    urls = [f"s3://bucket/in/{number}" for number in range(1, 9)]
    second = [None if number % 3 == 0 else f"s3://bucket/in/{number}" for number in range(1, 9)]
    return pd.DataFrame({"a.txt": urls, "id": [80, 70, 60, 50, 40, 30, 20, 10], "sub/b.txt": second})


def read_keys(server):
    return {key for operation, key in server.requests if operation == "GetObject"}


def test_each_row_has_a_temp_dir_in_the_frames_order(eight, fault_options, tmp_path):
    seen = []
    for temp in reader(eight, options=fault_options).iter_temp_dirs(dir=tmp_path):
        assert isinstance(temp, TempDir)
        files = sorted(str(path.relative_to(temp)) for path in temp.path.rglob("*") if path.is_file())
        seen.append((temp.path.name, Path(temp, "a.txt").read_text(), files))
    assert [(name, text) for name, text, _ in seen] == [(f"{90 - 10 * n}", f"row {n}") for n in range(1, 9)]
    assert [len(files) for *_, files in seen] == [2, 2, 1, 2, 2, 1, 2, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_temp_dir_is_removed_when_the_next_is_asked_for(eight, fault_options):
    rows = reader(eight, options=fault_options).iter_temp_dirs()
    first = next(rows)
    path = first.path
    assert path.exists()
    next(rows)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="was removed"):
        os.fspath(first)
    rows.close()


def test_a_temp_dir_can_be_left_before(eight, fault_options, tmp_path):
    count = 0
    for temp in reader(eight, options=fault_options).iter_temp_dirs(dir=tmp_path):
        with temp as directory:
            count += (directory / "a.txt").exists()
        assert not directory.exists()
    assert count == 8


def test_two_rows_are_ahead_and_no_more(eight, faults, fault_options, tmp_path):
    rows = reader(eight, options=fault_options).iter_temp_dirs(dir=tmp_path)
    assert read_keys(faults) == set()  # before the first is asked for
    for number in range(1, 9):
        next(rows)
        last = min(8, number + 2)
        assert until(lambda last=last: read_keys(faults) == {f"in/{each}" for each in range(1, last + 1)})
        assert len(list(tmp_path.iterdir())) == last - number + 1
    assert next(rows, None) is None


def test_a_row_that_fails_raises_when_its_turn_comes(eight, faults, fault_options, tmp_path):
    faults.fail("GetObject", ACCESS_DENIED, key="in/3", times=None)
    rows = reader(eight, options=fault_options).iter_temp_dirs(dir=tmp_path)
    assert [Path(next(rows), "a.txt").read_text() for _ in range(2)] == ["row 1", "row 2"]
    with pytest.raises(RowError) as caught:
        next(rows)
    assert [(failure.id, failure.file, failure.code) for failure in caught.value.failures] == [
        (60, "a.txt", "AccessDenied")
    ]
    assert list(tmp_path.iterdir()) == []
    assert next(rows, None) is None


def test_to_leave_the_loop_cancels_what_is_under_way_and_removes_everything(six, paced, tmp_path):
    gate = paced.hold("GetObject", "in/3")
    options = impatient_options(paced.endpoint_url, patience_s=90)
    for temp in reader(six, options=options).iter_temp_dirs(dir=tmp_path):
        assert until(lambda: paced.count("GetObject", "in/3") == 1)
        left = temp
        break
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        os.fspath(left)
    gate.set()
    assert paced.count("GetObject", "in/4") == 0


def test_an_interrupted_wait_removes_everything(six, paced, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    gate = paced.hold("GetObject")
    monkeypatch.setattr("file_dataset._row_dirs._wait", interrupt)
    rows = reader(six, options=impatient_options(paced.endpoint_url, patience_s=90)).iter_temp_dirs(dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        next(rows)
    gate.set()
    assert list(tmp_path.iterdir()) == []


def test_rows_without_ids_have_temp_dirs_too(eight, bucket, options, fault_options):
    texts = [
        Path(t, "a.txt").read_text() for t in reader(eight.drop(columns="id"), options=fault_options).iter_temp_dirs()
    ]
    assert texts == [f"row {number}" for number in range(1, 9)]
    row = {"a.txt": bucket.put("a", b"hi"), "id": 7}
    assert [Path(t, "a.txt").read_text() for t in reader(row, options=options).iter_temp_dirs()] == ["hi"]


def test_a_row_without_any_file_has_an_empty_directory(bucket, options):
    frame = pd.DataFrame({"id": ["x", "y"], "a.txt": [None, bucket.put("a", b"hi")]})
    found = [[path.name for path in temp.path.iterdir()] for temp in reader(frame, options=options).iter_temp_dirs()]
    assert found == [[], ["a.txt"]]


def test_a_pickled_temp_dir_is_the_same_place_and_removes_nothing(eight, fault_options):
    rows = reader(eight, options=fault_options).iter_temp_dirs()
    temp = next(rows)
    copy = pickle.loads(pickle.dumps(temp))
    assert (copy.path, repr(copy)) == (temp.path, repr(temp))
    copy.cleanup()
    assert temp.path.exists()
    rows.close()


def test_what_is_wrong_is_said_at_the_call(eight, faults, fault_options):
    bad = eight.assign(**{"a.txt": ["gs://x/y", *eight["a.txt"][1:]]})
    with pytest.raises(InvalidDatasetError, match="gs://"):
        reader(bad, options=fault_options).iter_temp_dirs()
    with pytest.raises(InvalidDatasetError, match="gs://"):
        reader(bad, options=fault_options).iter_blob_tables(2)
    with pytest.raises(InvalidDatasetError, match="dir=5"):
        reader(eight, options=fault_options).iter_temp_dirs(dir=5)
    for size in (0, -1, True, 1.5, None):
        with pytest.raises(InvalidDatasetError, match="batch_size="):
            reader(eight, options=fault_options).iter_blob_tables(size)
    assert not faults.requests


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("large", [False, True])
def test_the_tables_make_the_table_of_all(eight, fault_options, batch_size, large):
    scans = reader(eight, options=fault_options)
    tables = list(scans.iter_blob_tables(batch_size, large=large))
    whole = scans.into_blob_table(large=large)
    assert [len(table) for table in tables] == [min(batch_size, 8 - first) for first in range(0, 8, batch_size)]
    assert {table.schema for table in tables} == {whole.schema}
    assert pa.concat_tables(tables).to_pylist() == whole.to_pylist()


def test_a_row_is_one_table_and_no_rows_are_none(eight, fault_options):
    tables = reader({"a.txt": "s3://bucket/in/1"}, options=fault_options).iter_blob_tables(4)
    assert [table.to_pylist() for table in tables] == [[{"a.txt": b"row 1"}]]
    assert list(reader(eight.iloc[:0], options=fault_options).iter_blob_tables(4)) == []


def test_a_batch_without_files_is_a_table_of_nulls(eight, fault_options):
    frame = eight.assign(**{"a.txt": [None] * 6 + list(eight["a.txt"][6:]), "sub/b.txt": None})
    tables = reader(frame, options=fault_options, file_columns=["a.txt", "sub/b.txt"]).iter_blob_tables(3)
    assert [table["a.txt"].to_pylist() for table in tables] == [[None] * 3, [None] * 3, [b"row 7", b"row 8"]]


def test_two_batches_are_ahead_and_no_more(eight, faults, fault_options):
    tables = reader(eight, options=fault_options).iter_blob_tables(2)
    assert read_keys(faults) == set()
    for number in range(1, 5):
        next(tables)
        last = min(8, 2 * (number + 2))
        assert until(lambda last=last: read_keys(faults) == {f"in/{each}" for each in range(1, last + 1)})
    assert next(tables, None) is None
    assert sum(faults.requests.values()) == 8 + 6


def test_a_batch_that_fails_raises_when_its_turn_comes(eight, faults, fault_options):
    faults.fail("GetObject", ACCESS_DENIED, key="in/3", times=None)
    tables = reader(eight[["a.txt", "id"]], options=fault_options).iter_blob_tables(2)
    assert next(tables)["a.txt"].to_pylist() == [b"row 1", b"row 2"]
    with pytest.raises(RowError) as caught:
        next(tables)
    assert [(failure.id, failure.file, failure.code) for failure in caught.value.failures] == [
        (60, "a.txt", "AccessDenied")
    ]
    assert next(tables, None) is None
