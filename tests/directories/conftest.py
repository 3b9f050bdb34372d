"""Directories as inputs and as outputs."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import tree
from servers.paced import PacedServer

from file_dataset import Pipeline


@pytest.fixture
def paced():
    """A server that waits, with nothing in it."""
    with PacedServer() as server:
        yield server
        for gate in server.gates.values():
            gate.set()


@pytest.fixture
def trees():
    """What fn finds in its `input_dir`, by id."""
    return {}


@pytest.fixture
def run(trees, tmp_path):
    """Run a Pipeline whose fn notes what it finds."""

    def run(frame, options=None, into_path=tmp_path / "out", **given):
        def note(input_dir, output_dir, row):
            trees[row["id"]] = tree(input_dir)
            (output_dir / "n.txt").write_text(str(len(trees[row["id"]])))
            return {"n.txt": output_dir / "n.txt"}

        return Pipeline(note, into_path=into_path, options=options, progress=False).run(frame, **given)

    return run


@pytest.fixture
def one(faults):
    """One good row."""
    faults.put("s3://bucket/in/1", b"row 1")
    return pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]})
