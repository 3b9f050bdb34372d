"""Rows, pipelines and checkpoints of the tests of runs that last."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import forward

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
