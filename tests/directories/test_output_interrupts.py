"""Ctrl-C while a directory is stored, and while what an earlier run left is removed."""

from __future__ import annotations

import signal
import threading

import pandas as pd
import pytest
from helpers import impatient_options, until
from servers.faults import Meanwhile

from file_dataset import Pipeline, _stopping

OUT = "s3://bucket/out"


@pytest.fixture
def frame(own_faults):
    own_faults.put("s3://bucket/in/1", b"row 1")
    own_faults.put(f"{OUT}/1/series/old", b"before")
    return pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]})


@pytest.fixture
def run(own_faults, frame):
    def of(fn):
        options = impatient_options(own_faults.endpoint_url)
        return Pipeline(fn, into_path=OUT, options=options, progress=False).run(frame)

    return of


def series(input_dir, output_dir):
    (output_dir / "series").mkdir()
    for name in ("a", "b"):
        (output_dir / "series" / name).write_text(name)
    return {"series": output_dir / "series"}


def interrupt_when(condition):
    main = threading.main_thread().ident

    def wait():
        until(condition)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


class Gate:
    """Work that a server does while a request is under way: it waits until it is let go."""

    def __init__(self):
        self.came, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.came.set()
        assert self.open.wait(60)


@pytest.fixture
def gate(own_faults):
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.mark.parametrize("operation", ["ListObjectsV2", "DeleteObject"])
def test_a_row_that_is_all_but_done_ends_and_is_listed(own_faults, run, gate, operation):
    own_faults.fail(operation, Meanwhile(gate))
    interrupt_when(gate.came.is_set)
    threading.Timer(0.5, gate.open.set).start()  # the interrupt is heard before, or the run ends without it
    with pytest.raises(KeyboardInterrupt) as caught:
        for _ in range(100):  # the interrupt may come after the run: the next one meets it
            run(series)
    assert caught.value.result.manifest["series"].tolist() in ([f"{OUT}/1/series/"], [])
    if len(caught.value.result.manifest):
        assert own_faults.keys("bucket") == ["in/1", "out/1/series/a", "out/1/series/b"]


def test_a_row_that_is_given_up_before_the_list_came_removes_nothing(own_faults, run, gate, monkeypatch):
    monkeypatch.setattr(_stopping, "UPLOADS_S", 0)
    monkeypatch.setattr(_stopping, "GRACE_S", 1)
    own_faults.fail("ListObjectsV2", Meanwhile(gate))
    interrupt_when(gate.came.is_set)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(series)
    gate.open.set()
    assert len(caught.value.result.manifest) == 0
    assert caught.value.result.unprocessed_rows["id"].tolist() == [1]
    assert own_faults.body(f"{OUT}/1/series/old") == b"before"
    assert own_faults.count("DeleteObject") == 0
