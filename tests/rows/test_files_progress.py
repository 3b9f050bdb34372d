"""`into_dir` and `write_files` report each row as it ends, as a Pipeline does."""

from __future__ import annotations

import logging
import sys

import pandas as pd
import pytest
from helpers import impatient_options
from servers.faults import ACCESS_DENIED

from file_dataset import InvalidDatasetError, Progress, RowError, reader, write_files


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


def told(steps):
    """Return what each step says of a row, after seeing that they count."""
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    return [(step.id, [failure.file for failure in step.failures], step.dropped) for step in steps]


def test_reading_reports_a_row_when_its_last_file_is_there(frame, fault_options, tmp_path):
    steps, there = [], []

    def report(now):
        steps.append(now)
        there.append({path.name for path in (tmp_path / now.id).glob("*")})

    reader(frame, options=fault_options).into_dir(tmp_path, progress=report)
    assert told(steps) == [("none", [], 0), ("1", [], 0), ("2", [], 0), ("3", [], 0)]
    assert {step.total for step in steps} == {4}
    assert there == [set(), {"a.txt", "b.txt"}, {"a.txt", "b.txt"}, {"a.txt", "b.txt"}]


def test_a_row_is_reported_while_a_later_one_is_on_its_way(paced, six, tmp_path):
    gate = paced.hold("GetObject", "in/6")
    ids = []

    def report(now):
        ids.append(now.id)
        if now.id == 5:
            gate.set()

    options = impatient_options(paced.endpoint_url, patience_s=90)
    reader(six, options=options).into_dir(tmp_path, progress=report)
    assert (ids, paced.overdue) == ([1, 2, 3, 4, 5, 6], [])


def test_reading_reports_rows_that_are_there_and_those_that_fail(frame, faults, fault_options, tmp_path):
    reader(frame[:2], options=fault_options).into_dir(tmp_path)
    (tmp_path / "2/a.txt").write_text("other")  # of the right size it has other bytes, and is read again
    frame.loc[2, "b.txt"] = "s3://bucket/gone"
    steps = []
    with pytest.raises(RowError, match="gone"):
        reader(frame, options=fault_options).into_dir(tmp_path, progress=steps.append)
    assert sorted(told(steps)) == sorted([("none", [], 0), ("1", [], 0), ("2", [], 0), ("3", ["b.txt"], 1)])


def test_reading_reports_a_directory_that_has_no_file(frame, fault_options, tmp_path):
    frame.loc[3, "a.txt"] = "s3://bucket/nothing/"
    steps = []
    with pytest.raises(RowError, match="nothing"):
        reader(frame, options=fault_options).into_dir(tmp_path, progress=steps.append)
    assert told(steps)[0] == ("none", ["a.txt"], 1)
    assert len(steps) == 4


def test_reading_reports_rows_whose_files_lie_where_they_are_to_be(local, tmp_path):
    in_place = reader(local).into_dir(tmp_path / "out", progress=False)
    steps = []
    reader(in_place).into_dir(tmp_path / "out", progress=steps.append)
    assert told(steps) == [(1, [], 0), (2, [], 0), (3, [], 0)]


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
    assert told(steps) == [(1, [], 0), (2, ["a.txt"], 1), (3, [], 1)]


def test_storing_reports_a_row_whose_directory_cannot_be_made(local, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/2").write_text("in the way")
    steps = []
    with pytest.raises(RowError, match="2 of 3 rows are stored"):
        write_files(local, into_path=tmp_path / "out", progress=steps.append)
    assert told(steps) == [(1, [], 0), (2, ["a.txt"], 1), (3, [], 1)]


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
    assert told(steps) == [(7, ["a.txt"], 1)]


@pytest.mark.parametrize("rows", ["a frame", "a row"])
def test_what_is_no_progress_is_refused_before_anything_moves(local, tmp_path, rows):
    row = {"a.txt": local["a.txt"][0]}
    with pytest.raises(InvalidDatasetError, match="a function that takes a Progress"):
        reader(local if rows == "a frame" else row).into_dir(tmp_path / "out", progress="bar")
    with pytest.raises(InvalidDatasetError, match="a function that takes a Progress"):
        if rows == "a frame":
            write_files(local, into_path=tmp_path / "out", progress="bar")
        else:
            write_files(row, into_path=tmp_path / "out", id=1, progress="bar")
    assert not (tmp_path / "out").exists()
