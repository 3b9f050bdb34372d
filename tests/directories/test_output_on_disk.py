"""Directories that are stored on a local disk: each takes the place of another as one, or not at all."""

from __future__ import annotations

import os

import pandas as pd
import pytest
from helpers import failure_of, until

from file_dataset import InvalidDatasetError, Pipeline, RowError, _sink, _swap, write_files


@pytest.fixture
def frame(tmp_path):
    """One row of a local file."""
    (tmp_path / "a.txt").write_text("row 1")
    return pd.DataFrame({"id": [1], "a.txt": [str(tmp_path / "a.txt")]})


@pytest.fixture
def run(tmp_path, frame):
    def of(fn, **write):
        write_options = {"into_path": tmp_path / "out", **write}
        return Pipeline(fn, write_options=write_options, progress=False).run(frame)

    return of


@pytest.fixture
def at(tmp_path):
    """Where the output goes."""
    return tmp_path / "out" / "1" / "series"


def fill(directory, names):
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return directory


def series(*names, more=()):
    def fn(input_dir, output_dir):
        fill(output_dir, more)
        return {"series": fill(output_dir / "series", names)} | {name: output_dir / name for name in more}

    return fn


def tree(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_directory_lands_below_into_path_and_the_manifest_ends_in_a_slash(run, at):
    result = run(series("0002", "sub/0001"))
    assert result.manifest["series"].tolist() == [f"{at}/"]
    assert result.files["location"].tolist() == [f"{at}/0002", f"{at}/sub/0001"]
    assert result.files["checksum"].str.startswith("CRC64NVME:").all()
    assert tree(at.parent) == ["series/0002", "series/sub/0001"]


def test_what_was_there_is_replaced_as_one(run, at):
    fill(at, ["old", "sub/old"])
    (at / "empty").mkdir()
    run(series("new"))
    assert tree(at.parent) == ["series/new"]
    assert names(at.parent) == ["series"]


def test_a_link_to_a_directory_is_replaced_and_where_it_leads_stays(run, at, tmp_path):
    fill(tmp_path / "elsewhere", ["theirs"])
    at.parent.mkdir(parents=True)
    at.symlink_to(tmp_path / "elsewhere")
    run(series("new"))
    assert (at.is_symlink(), tree(at), tree(tmp_path / "elsewhere")) == (False, ["new"], ["theirs"])


def test_a_file_that_is_there_costs_the_row_before_anything_is_copied(run, at):
    at.parent.mkdir(parents=True)
    at.write_text("theirs")
    failed = failure_of(run(series("new", more=["b.txt"])))
    assert (failed.error_stage, failed.error_file, failed.error_type) == ("upload", "series", "NotADirectoryError")
    assert "is a file, which no directory can replace: remove it" in failed.error_message
    assert (names(at.parent), at.read_text()) == (["series"], "theirs")


def test_a_file_does_not_replace_a_directory(run, at):
    fill(at, ["theirs"])
    failed = failure_of(run(lambda input_dir, output_dir: {"series": input_dir / "a.txt"}))
    assert "is a directory, which no file can replace" in failed.error_message
    assert tree(at) == ["theirs"]


def test_where_another_output_fails_what_was_there_stays(run, at):
    fill(at, ["old"])
    (at.parent / "b.txt").mkdir()
    failed = failure_of(run(series("new", more=["b.txt"])))
    assert failed.error_file == "b.txt"
    assert (names(at.parent), tree(at)) == (["b.txt", "series"], ["old"])


def test_where_the_last_rename_fails_what_was_there_has_its_name_again(run, at, monkeypatch):
    fill(at, ["old"])
    commit = _sink.Sink.commit

    def fails(self):
        if str(self._target).endswith("/b.txt"):
            assert tree(at) == ["new"]  # it has been replaced by now
            raise PermissionError(13, "refused")
        commit(self)

    monkeypatch.setattr(_sink.Sink, "commit", fails)
    failed = failure_of(run(series("new", more=["b.txt"])))
    assert (failed.error_file, failed.error_type) == ("b.txt", "PermissionError")
    assert (names(at.parent), tree(at)) == (["series"], ["old"])


def test_a_directory_that_changes_while_it_is_copied_replaces_nothing(run, at, monkeypatch):
    fill(at, ["old"])
    seen = []

    def fn(input_dir, output_dir):
        seen.append(fill(output_dir / "series", ["new"]))
        return {"series": seen[0]}

    finish = _sink.Sink.finish

    def later(self):
        if str(self._target).endswith("/new"):
            (seen[0] / "late").write_text("late")
        return finish(self)

    monkeypatch.setattr(_sink.Sink, "finish", later)
    assert failure_of(run(fn)).error_type == "FileChangedError"
    assert (names(at.parent), tree(at)) == (["series"], ["old"])


def test_an_old_directory_that_cannot_be_removed_is_named_and_the_row_is_stored(run, at, monkeypatch, caplog):
    fill(at, ["old"])
    monkeypatch.setattr(_swap.shutil, "rmtree", refuse)
    assert run(series("new")).manifest["series"].tolist() == [f"{at}/"]
    assert f"what was at {at} before lies in {at.parent}/." in caplog.text


def refuse(*_, **__):
    raise PermissionError(13, "refused")


# if_exists


def test_error_leaves_a_directory_that_is_there_and_takes_an_empty_one(run, at):
    fill(at, ["theirs"])
    failed = failure_of(run(series("new"), if_exists="error"))
    assert (failed.error_stage, failed.error_file, failed.error_type) == ("upload", "series", "FileExistsError")
    assert (names(at.parent), tree(at)) == (["series"], ["theirs"])
    (at / "theirs").unlink()
    assert len(run(series("new"), if_exists="error").manifest) == 1
    assert tree(at) == ["new"]


def test_error_takes_back_a_directory_where_another_output_is_there_by_then(run, at):
    def fn(input_dir, output_dir):
        fill(output_dir / "series", ["new"])
        (output_dir / "b.txt").write_text("b")
        return {"series": output_dir / "series", "b.txt": output_dir / "b.txt"}

    link, named = os.link, []

    def late(source, target):
        if target.endswith("/b.txt"):
            named.append(tree(at))
            at.with_name("b.txt").write_text("theirs")
        link(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", late)
        failed = failure_of(run(fn, if_exists="error"))
    assert (failed.error_file, failed.error_type, named) == ("b.txt", "FileExistsError", [["new"]])
    assert names(at.parent) == ["b.txt"]


# write_files


def test_write_files_stores_a_directory_and_returns_its_path(tmp_path):
    fill(tmp_path / "here", ["a", "sub/b"])
    into = tmp_path / "out"
    stored = write_files({"series": tmp_path / "here", "none": None}, into_path=into, id=1)
    assert stored == {"series": into / "1" / "series", "none": None}
    assert tree(into) == ["1/series/a", "1/series/sub/b"]


def test_write_files_of_a_frame_has_directories_and_files_side_by_side(tmp_path):
    fill(tmp_path, ["1/a", "2/b", "x.txt"])
    frame = pd.DataFrame(
        {"id": [1, 2], "series": [tmp_path / "1", tmp_path / "2"], "x.txt": [tmp_path / "x.txt", None]}
    )
    stored = write_files(frame, into_path=tmp_path / "out", file_columns=["series", "x.txt"])
    assert stored["series"].tolist() == [f"{tmp_path}/out/1/series/", f"{tmp_path}/out/2/series/"]
    assert (stored.loc[0, "x.txt"], stored["x.txt"].isna().tolist()) == (f"{tmp_path}/out/1/x.txt", [False, True])
    assert tree(tmp_path / "out") == ["1/series/a", "1/x.txt", "2/series/b"]


@pytest.mark.parametrize(
    ("source", "into"),
    [("out/1/series/sub", "out"), ("out/1", "out"), (".", "new")],
    ids=["a part of what it replaces", "what it would lie in", "all around it"],
)
def test_write_files_refuses_a_directory_over_its_source_and_in_it(tmp_path, source, into):
    fill(tmp_path / "out" / "1" / "series", ["sub/a", "b"])
    with pytest.raises(InvalidDatasetError, match="would be stored in, or over, what is copied"):
        write_files({"series": tmp_path / source}, into_path=tmp_path / into, id=1)
    assert tree(tmp_path) == ["out/1/series/b", "out/1/series/sub/a"]


def test_write_files_stores_a_directory_over_itself(tmp_path):
    at = fill(tmp_path / "out" / "1" / "series", ["a", "sub/b"])
    write_files({"series": at}, into_path=tmp_path / "out", id=1)
    assert tree(tmp_path) == ["out/1/series/a", "out/1/series/sub/b"]


def test_write_files_refuses_a_link_in_a_directory_before_the_first_byte(tmp_path):
    (fill(tmp_path / "here", ["a"]) / "link").symlink_to("a")
    with pytest.raises(InvalidDatasetError, match=r"'series': .*link is a link"):
        write_files({"series": tmp_path / "here"}, into_path=tmp_path / "out", id=1)
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_nothing_of_a_directory_and_what_was_there(tmp_path, monkeypatch):
    fill(tmp_path / "here", [f"{number}" for number in range(50)])
    at = fill(tmp_path / "out" / "1" / "series", ["old"])

    def interrupt(self):
        until(lambda: len(names(at.parent)) == 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("file_dataset._storing.Storing.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_files({"series": tmp_path / "here"}, into_path=tmp_path / "out", id=1)
    assert (names(at.parent), tree(at)) == (["series"], ["old"])


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    fill(tmp_path / "here", ["a"])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RowError, match=r"NotADirectoryError|FileExistsError") as caught:
        write_files({"series": tmp_path / "here"}, into_path=tmp_path / "out", id=1)
    assert caught.value.failures[0].file == "series"
