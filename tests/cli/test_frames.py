"""Frames in files: what is read is what was written."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pandas as pd
import pytest

from file_dataset import InvalidDatasetError
from file_dataset.cli import _frames

AWKWARD = ["007", "NA", "1e5", "True", "2020-01-01", "null", 'ä, "b"\n']
SUFFIXES = [".csv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ids_and_other_text_stay_as_they_are(tmp_path, suffix):
    frame = pd.DataFrame({"id": AWKWARD, "scanner": AWKWARD[::-1], "a.txt": ["a", None, "c", "d", "e", "f", "g"]})
    path = str(tmp_path / f"frame{suffix}")
    _frames.write_frame(frame, path)
    read = _frames.read_frame(path)
    assert read["id"].tolist() == AWKWARD
    assert read["scanner"].tolist() == AWKWARD[::-1]
    assert read["a.txt"].isna().tolist() == [False, True, *[False] * 5]


def test_a_csv_of_numbers_is_text(tmp_path):
    (tmp_path / "a.csv").write_text("id,dose,a.txt\n007,1.10,\n")
    read = _frames.read_frame(str(tmp_path / "a.csv"))
    assert read.to_dict("records") == [{"id": "007", "dose": "1.10", "a.txt": pytest.approx(np.nan, nan_ok=True)}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,site,a.txt\n7,Ulm,raw/7.txt,x\n8,Bonn,raw/8.txt,y\n", "more values than there are column names"),
        ("id,site,a.txt\n7,Ulm,raw/7.txt\n8,Bonn,raw/8.txt,x\n", "line 3, saw 4"),
        ("id,a.txt,a.txt\n7,raw/7.txt,raw/8.txt\n", "columns ['a.txt'] are there twice"),
    ],
    ids=["a value too many in each line", "one value too many", "a column twice"],
)
def test_a_csv_whose_values_are_under_no_name_of_their_own_is_refused(tmp_path, text, words):
    """By default pandas takes the first column for an index, or gives a column another name."""
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InvalidDatasetError, match=re.escape(words)):
        _frames.read_frame(str(tmp_path / "a.csv"))


def test_commas_at_the_ends_of_lines_move_no_value(tmp_path):
    (tmp_path / "a.csv").write_text("id,site,a.txt\n7,Ulm,raw/7.txt,\n8,Bonn,raw/8.txt,\n")
    read = _frames.read_frame(str(tmp_path / "a.csv"))
    assert read.to_dict("list") == {"id": ["7", "8"], "site": ["Ulm", "Bonn"], "a.txt": ["raw/7.txt", "raw/8.txt"]}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_frame_without_rows_is_one(tmp_path, suffix):
    path = str(tmp_path / f"none{suffix}")
    _frames.write_frame(pd.DataFrame({"id": [], "a.txt": []}), path)
    read = _frames.read_frame(path)
    assert (len(read), read.columns[0]) == (0, "id")


def test_json_keeps_types_where_values_are_null(tmp_path):
    lines = ['{"id": 1, "n": 7, "ok": true, "x": 0.1}', "", '{"id": 2, "n": null, "big": 99999999999999999999}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    read = _frames.read_frame(str(tmp_path / "a.jsonl"))
    assert list(_frames.records(read)) == [
        {"id": 1, "n": 7, "ok": True, "x": 0.1, "big": None},
        {"id": 2, "n": None, "ok": None, "x": None, "big": 99999999999999999999},
    ]
    assert read["id"].dtype == "int64"


def test_json_has_no_types_of_pandas():
    frame = pd.DataFrame(
        {"n": np.array([1, 2], "uint8"), "at": pd.to_datetime(["2026-01-02", None], utc=True)}
        | {"tags": [["a"], None], "size": pd.array([1, None], "Int64")}
    )
    assert [_frames.json_line(record) for record in _frames.records(frame)] == [
        '{"n": 1, "at": "2026-01-02T00:00:00+00:00", "tags": ["a"], "size": 1}',
        '{"n": 2, "at": null, "tags": null, "size": null}',
    ]


def test_parquet_keeps_dtypes_and_takes_files_of_others(tmp_path):
    frame = pd.DataFrame({"id": ["007", "8"], "site": pd.Categorical(["Ulm", "Bonn"])})
    _frames.write_frame(frame, str(tmp_path / "ours.parquet"))
    assert _frames.read_frame(str(tmp_path / "ours.parquet"))["site"].dtype == "category"
    frame.to_parquet(tmp_path / "theirs.parquet")
    assert _frames.read_frame(str(tmp_path / "theirs.parquet"))["id"].tolist() == ["007", "8"]


def test_a_damaged_file_of_ours_is_refused(tmp_path):
    path = tmp_path / "ours.parquet"
    _frames.write_frame(pd.DataFrame({"id": ["007", "8"]}), str(path))
    content = bytearray(path.read_bytes())
    content[content.index(b"007")] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidDatasetError, match="damaged"):
        _frames.read_frame(str(path))


def test_a_frame_appears_whole_and_as_other_files_do(tmp_path):
    (tmp_path / "new.csv").touch()
    mode = (tmp_path / "new.csv").stat().st_mode
    path = tmp_path / "frame.csv"
    _frames.write_frame(pd.DataFrame({"id": ["1"]}), str(path))
    assert path.stat().st_mode == mode
    with pytest.raises(InvalidDatasetError):
        _frames.write_frame(pd.DataFrame({"id": [{1}]}), str(tmp_path / "frame.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frame.csv", "new.csv"]


def test_stdin_is_csv(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"id\n007\n")))
    assert _frames.read_frame("-")["id"].tolist() == ["007"]
