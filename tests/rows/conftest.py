"""Frames and Pipelines of the tests of rows: five rows of which two fail, and six on a server that waits."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import forward, impatient_options, upper
from servers.paced import PacedServer

from file_dataset import Pipeline


@pytest.fixture
def frame(faults):
    """Three good rows, one whose fn fails and one whose object is missing."""
    for key, body in {"1": b"one", "2": b"bad", "3": b"three", "5": b"five"}.items():
        faults.put(f"s3://bucket/in/{key}", body)
    return pd.DataFrame(
        {
            "id": [1, 2, 3, 4, 5],
            "a.txt": [f"s3://bucket/in/{number}" for number in range(1, 6)],
            "patient.sex": ["F", "M", None, "F", "M"],
            "v1.5": [0.1, 0.2, 0.3, 0.4, 0.5],
        }
    )


@pytest.fixture
def pipeline(fault_options):
    def make(fn=upper, *, into_path="s3://bucket/out/", **kwargs):
        write_options = {"into_path": into_path, **kwargs.pop("write", {})}
        return Pipeline(fn, write_options=write_options, options=fault_options, progress=False, **kwargs)

    return make


@pytest.fixture
def paced():
    """A server that waits, with six good rows."""
    with PacedServer() as server:
        for number in range(1, 7):
            server.put(f"s3://bucket/in/{number}", f"row {number}".encode())
        yield server
        for gate in server.gates.values():
            gate.set()


@pytest.fixture
def six():
    return pd.DataFrame({"id": range(1, 7), "a.txt": [f"s3://bucket/in/{number}" for number in range(1, 7)]})


@pytest.fixture
def on(paced):
    def make(fn=forward, **kwargs):
        options = impatient_options(paced.endpoint_url, patience_s=90)  # more than any gate holds
        write = {"into_path": "s3://bucket/out", **kwargs.pop("write", {})}
        return Pipeline(fn, write_options=write, options=options, **{"progress": False, **kwargs})

    return make
