"""Rows, pipelines and checkpoints of the tests of runs that last."""

from __future__ import annotations

import itertools
import tempfile

import pandas as pd
import pytest
from helpers import forward
from mortal import Scene

from file_dataset import Pipeline


@pytest.fixture
def sources(tmp_path):
    """Six local files, of which the frame below has the paths."""
    directory = tmp_path / "sources"
    directory.mkdir()
    for number in range(1, 7):
        (directory / f"{number}.txt").write_text(f"row {number}")
    return directory


@pytest.fixture
def six(sources):
    paths = [str(sources / f"{number}.txt") for number in range(1, 7)]
    return pd.DataFrame({"id": range(1, 7), "a.txt": paths, "label": list("abcdef")})


@pytest.fixture
def frame(faults):
    """Five rows in the bucket of the fault server."""
    urls = [f"s3://bucket/in/{number}" for number in range(1, 6)]
    for number, url in enumerate(urls, 1):
        faults.put(url, f"row {number}".encode())
    return pd.DataFrame({"id": range(1, 6), "a.txt": urls})


class Calls:
    """Fn that keeps the names of the rows that it was called for, and fails for some of them."""

    def __init__(self):
        self.rows = []
        self.failing = set()

    def __call__(self, input_dir, output_dir):
        text = (input_dir / "a.txt").read_text()
        self.rows.append(text)
        if text in self.failing:
            raise ValueError("this text is bad")
        (output_dir / "out.txt").write_text(text.upper())
        return {"out.txt": output_dir / "out.txt"}

    def taken(self):
        """Return the rows since the last time."""
        rows, self.rows = self.rows, []
        return rows


@pytest.fixture
def calls():
    return Calls()


@pytest.fixture
def make(tmp_path):
    """Make a pipeline over local disk."""

    def pipeline(fn=forward, **kwargs):
        kwargs.setdefault("into_path", tmp_path / "out")
        return Pipeline(fn, progress=False, **kwargs)

    return pipeline


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where this process and those it starts keep temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.fixture
def scenes(faults, tmp_path, temporary):
    """Scenes in a bucket, each with nothing stored and nothing written down."""
    numbers = itertools.count()

    def make(**kwargs):
        number = next(numbers)
        faults.clear()
        scene = Scene(
            log=str(tmp_path / f"log-{number}"),
            inputs="s3://bucket/in",
            into="s3://bucket/out",
            checkpoint=f"s3://bucket/runs/{number}",
            url=faults.endpoint_url,
            save=str(tmp_path / f"save-{number}"),
            **kwargs,
        )
        for row, text in scene.texts().items():
            faults.put(f"s3://bucket/in/{row}", text.encode())
        return scene

    return make


@pytest.fixture
def local_scene(tmp_path, temporary):
    """Make a scene on local disk."""
    (tmp_path / "in").mkdir()

    def make(**kwargs):
        kwargs.setdefault("checkpoint", str(tmp_path / "runs"))
        scene = Scene(log=str(tmp_path / "log"), inputs=str(tmp_path / "in"), into=str(tmp_path / "out"), **kwargs)
        for row, text in scene.texts().items():
            (tmp_path / "in" / str(row)).write_text(text)
        return scene

    return make
