"""`into_dir`, `into_temp_dir` and `write_files` report each row as it ends, as a Pipeline does."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import impatient_options
from servers.faults import ACCESS_DENIED

from file_dataset import (
    InvalidDatasetError,
    Progress,
    RowError,
    _frame,
    _listings,
    _progress,
    _stores,
    reader,
    write_files,
)
from file_dataset._errors import Failure
from file_dataset._plan import Transfer
from file_dataset._transfer import RowsLeft


@pytest.fixture(autouse=True)
def _no_notebook(monkeypatch):
    """A test that imports ipykernel does not change these."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


@pytest.fixture
def frame(faults):
    """Three rows of two files, and one without any."""
    cells = {}
    for name in ("a.txt", "b.txt"):
        for number in (1, 2, 3):
            faults.put(f"s3://bucket/in/{number}/{name}", f"{number} {name}".encode())
        cells[name] = [f"s3://bucket/in/{number}/{name}" for number in (1, 2, 3)] + [None]
    return pd.DataFrame({"id": ["1", "2", "3", "none"], **cells})


@pytest.fixture
def local(tmp_path):
    """Three rows of one local file."""
    files = [tmp_path / f"{number}.txt" for number in (1, 2, 3)]
    for file in files:
        file.write_text(file.name)
    return pd.DataFrame({"id": [1, 2, 3], "a.txt": files})


def reported(steps):
    """Return what each step says of a row, after seeing that they count."""
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    return [(step.id, [failure.file for failure in step.failures], step.dropped) for step in steps]


def test_reading_reports_a_row_when_its_last_file_is_there(frame, fault_options, tmp_path):
    steps, there = [], []

    def report(now):
        steps.append(now)
        there.append({path.name for path in (tmp_path / now.id).glob("*")})

    reader(frame, options=fault_options).into_dir(tmp_path, progress=report)
    assert reported(steps) == [("none", [], 0), ("1", [], 0), ("2", [], 0), ("3", [], 0)]
    assert {step.total for step in steps} == {4}
    assert there == [set(), {"a.txt", "b.txt"}, {"a.txt", "b.txt"}, {"a.txt", "b.txt"}]


def test_a_temp_dir_reports_a_row_when_its_last_file_is_there(frame, faults, fault_options, tmp_path):
    faults.put("s3://bucket/series/1.dcm", b"a slice")
    frame["series"] = ["s3://bucket/series/", None, "s3://bucket/series/", None]
    steps, there = [], []

    def report(now):
        steps.append(now)
        there.append({path.name for path in tmp_path.glob(f"*/{now.id}/**/*") if path.is_file()})

    with reader(frame, options=fault_options).into_temp_dir(dir=tmp_path, progress=report) as temp:
        assert (temp / "3/series/1.dcm").read_bytes() == b"a slice"
    assert sorted(reported(steps)) == [("1", [], 0), ("2", [], 0), ("3", [], 0), ("none", [], 0)]
    assert {step.total for step in steps} == {4}
    files = {step.id: names for step, names in zip(steps, there, strict=True)}
    both = {"a.txt", "b.txt"}
    assert files == {"1": {*both, "1.dcm"}, "2": both, "3": {*both, "1.dcm"}, "none": set()}


def test_a_row_does_not_end_before_all_of_its_files_are_known():
    ended, unlisted = [], []
    left = RowsLeft(lambda row_id, failures: ended.append((row_id, [each.file for each in failures])), "abc", unlisted)
    coming = left.taking(Transfer(row_id, name, Path(name), name) for row_id, name in ["a1", "a2", "b1"])
    next(coming)
    left.file_ends("a")
    next(coming)
    left.file_ends("a")
    assert not ended  # more of a may come
    unlisted.append(Failure("a", "download", "3", None, "FileNotFoundError", None, "no such directory"))
    next(coming)
    assert ended == [("a", ["3"])]
    assert next(coming, None) is None
    assert ended[1:] == [("c", [])]
    left.file_ends("b")
    assert ended[2:] == [("b", [])]


def test_why_a_directory_is_not_read_is_known_before_the_next_row_comes(frame, fault_options):
    frame["series"] = ["s3://bucket/nothing/", "s3://bucket/neither/", None, None]
    rows, unlisted = _frame.rows_of_frame(frame, None, needs_id=True), []
    stores = _stores.Stores(fault_options)
    known = {}
    for each in _listings.transfers(_frame.parsed(rows, 3), lambda row: f"/{row.id}", stores, unlisted):
        known.setdefault(each.row_id, [failure.id for failure in unlisted])
    assert "1" in known["2"]
    assert known["3"] == ["1", "2"]


def test_a_temp_dir_reports_why_a_row_failed(frame, fault_options, tmp_path):
    frame.loc[0, "b.txt"] = "s3://bucket/gone"
    frame["series"] = [None, "s3://bucket/nothing/", None, "s3://bucket/nothing/"]
    steps = []
    with pytest.raises(RowError) as caught:
        reader(frame, options=fault_options).into_temp_dir(dir=tmp_path, progress=steps.append)
    assert {step.id: [each.file for each in step.failures] for step in steps} == {
        "1": ["b.txt"],
        "2": ["series"],
        "3": [],
        "none": ["series"],
    }
    assert (steps[-1].done, steps[-1].dropped) == (4, 3)
    assert sorted((each.id, each.file) for each in caught.value.failures) == [
        ("1", "b.txt"),
        ("2", "series"),
        ("none", "series"),
    ]
    assert not list(tmp_path.iterdir())


def test_what_the_function_raises_leaves_no_temp_dir(local, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    (tmp_path / "temp").mkdir()
    with pytest.raises(KeyboardInterrupt):
        reader(local).into_temp_dir(dir=tmp_path / "temp", progress=stop)
    assert not list((tmp_path / "temp").iterdir())


def test_a_temp_dir_that_is_there_at_once_has_no_line(local, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "file_dataset")
    reader(local).into_temp_dir().cleanup()
    assert not caplog.messages
    monkeypatch.setattr(_progress, "DELAY_S", 0.0)
    reader(local).into_temp_dir().cleanup()
    reader(local[:1]).into_temp_dir().cleanup()
    reader(local).into_temp_dir(progress=False).cleanup()
    assert caplog.messages == ["3 of 3 rows done, 0 dropped"]


READS = {
    "into_dir": lambda reader, path, report: reader.into_dir(path, progress=report),
    "into_temp_dir": lambda reader, path, report: reader.into_temp_dir(dir=path, progress=report).cleanup(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_row_is_reported_while_a_later_one_is_on_its_way(paced, six, tmp_path, read):
    gate = paced.hold("GetObject", "in/6")
    ids = []

    def report(now):
        ids.append(now.id)
        if now.id == 5:
            gate.set()

    options = impatient_options(paced.endpoint_url, patience_s=90)
    read(reader(six, options=options), tmp_path, report)
    assert (ids, paced.overdue) == ([1, 2, 3, 4, 5, 6], [])


def test_reading_reports_rows_that_are_there_and_those_that_fail(frame, faults, fault_options, tmp_path):
    reader(frame[:2], options=fault_options).into_dir(tmp_path)
    (tmp_path / "2/a.txt").write_text("other")  # of the right size it has other bytes, and is read again
    frame.loc[2, "b.txt"] = "s3://bucket/gone"
    steps = []
    with pytest.raises(RowError, match="gone"):
        reader(frame, options=fault_options).into_dir(tmp_path, progress=steps.append)
    assert sorted(reported(steps)) == sorted([("none", [], 0), ("1", [], 0), ("2", [], 0), ("3", ["b.txt"], 1)])


def test_reading_reports_a_directory_that_has_no_file(frame, fault_options, tmp_path):
    frame.loc[3, "a.txt"] = "s3://bucket/nothing/"
    steps = []
    with pytest.raises(RowError, match="nothing"):
        reader(frame, options=fault_options).into_dir(tmp_path, progress=steps.append)
    assert reported(steps)[0] == ("none", ["a.txt"], 1)
    assert len(steps) == 4


def test_reading_reports_rows_whose_files_lie_where_they_are_to_be(local, tmp_path):
    in_place = reader(local).into_dir(tmp_path / "out", progress=False)
    steps = []
    reader(in_place).into_dir(tmp_path / "out", progress=steps.append)
    assert reported(steps) == [(1, [], 0), (2, [], 0), (3, [], 0)]


def test_what_the_function_raises_ends_reading_and_leaves_whole_files_alone(frame, fault_options, tmp_path):
    def stop(now):
        if now.id == "2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reader(frame, options=fault_options).into_dir(tmp_path, progress=stop)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.read_text() == f"{path.parent.name} {path.name}" for path in found)
    assert {path.parent.name for path in found} >= {"1", "2"}


def test_storing_reports_each_row_and_why_it_failed(local, faults, fault_options):
    faults.put("s3://bucket/other", b"")
    faults.fail("PutObject", ACCESS_DENIED, key="out/2/a.txt")
    steps = []
    with pytest.raises(RowError, match="2 of 3 rows are stored"):
        write_files(local, into_path="s3://bucket/out", options=fault_options, progress=steps.append)
    assert reported(steps) == [(1, [], 0), (2, ["a.txt"], 1), (3, [], 1)]


def test_storing_reports_a_row_whose_directory_cannot_be_made(local, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/2").write_text("in the way")
    steps = []
    with pytest.raises(RowError, match="2 of 3 rows are stored"):
        write_files(local, into_path=tmp_path / "out", progress=steps.append)
    assert reported(steps) == [(1, [], 0), (2, ["a.txt"], 1), (3, [], 1)]


def test_what_the_function_raises_ends_storing(local, faults, fault_options):
    def stop(_):
        raise KeyboardInterrupt

    faults.put("s3://bucket/other", b"")
    with pytest.raises(KeyboardInterrupt):
        write_files(local, into_path="s3://bucket/out", options=fault_options, progress=stop)


def test_without_a_terminal_the_end_is_logged(local, tmp_path, caplog):
    caplog.set_level(logging.INFO, "file_dataset")
    write_files(local, into_path=tmp_path / "out")
    reader(local).into_dir(tmp_path / "in")
    assert caplog.messages == ["3 of 3 rows done, 0 dropped"] * 2


def test_false_is_silence(local, tmp_path, caplog):
    caplog.set_level(logging.INFO, "file_dataset")
    write_files(local, into_path=tmp_path / "out", progress=False)
    reader(local).into_dir(tmp_path / "in", progress=False)
    assert not caplog.messages


def test_one_row_has_no_line_but_a_function_has_it(local, tmp_path, caplog):
    caplog.set_level(logging.INFO, "file_dataset")
    steps = []
    for progress in (None, steps.append):
        write_files(local[:1], into_path=tmp_path / "out", progress=progress)
        write_files({"a.txt": local["a.txt"][0]}, into_path=tmp_path / "out", id=7, progress=progress)
        reader(local[:1]).into_dir(tmp_path / "in", progress=progress)
        reader({"a.txt": local["a.txt"][0]}).into_dir(tmp_path / "in", progress=progress)
    assert not caplog.messages
    assert steps == [Progress(1, 1, 0, id=row_id) for row_id in (1, 7, 1, None)]


def test_one_row_that_fails_says_why(local, faults, fault_options):
    faults.put("s3://bucket/other", b"")
    faults.fail("PutObject", ACCESS_DENIED, key="out/7/a.txt")
    steps = []
    with pytest.raises(RowError):
        write_files(
            {"a.txt": local["a.txt"][0]}, into_path="s3://bucket/out", id=7, options=fault_options,
            progress=steps.append,
        )  # fmt: skip
    assert reported(steps) == [(7, ["a.txt"], 1)]


@pytest.mark.parametrize("rows", ["a frame", "a row"])
def test_what_is_no_progress_is_refused_before_anything_moves(local, tmp_path, rows):
    row = {"a.txt": local["a.txt"][0]}
    with pytest.raises(InvalidDatasetError, match="a function that takes a Progress"):
        reader(local if rows == "a frame" else row).into_dir(tmp_path / "out", progress="bar")
    with pytest.raises(InvalidDatasetError, match="a function that takes a Progress"):
        reader(local if rows == "a frame" else row).into_temp_dir(progress="bar")
    with pytest.raises(InvalidDatasetError, match="a function that takes a Progress"):
        if rows == "a frame":
            write_files(local, into_path=tmp_path / "out", progress="bar")
        else:
            write_files(row, into_path=tmp_path / "out", id=1, progress="bar")
    assert not (tmp_path / "out").exists()
