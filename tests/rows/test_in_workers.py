"""fn in worker processes, seen from a run."""

from __future__ import annotations

import os
import threading
import time

import pytest
from helpers import until

from file_dataset import InvalidDatasetError, RunStoppedError


def process_of(input_dir, output_dir):
    (output_dir / "pid.txt").write_text(f"{os.getpid()} {os.environ.get('FOR_WORKERS', '')}")
    return {"pid.txt": output_dir / "pid.txt"}


@pytest.mark.parametrize(
    "arguments", [{"workers": 1}, {"fn_timeout_s": 60}, {"workers": 2, "prefetch": 0}], ids="+".join
)
def test_fn_runs_in_other_processes(paced, on, six, arguments):
    on(process_of, worker_env={"FOR_WORKERS": "set"}, **arguments)(six)
    said = [paced.body(f"s3://bucket/out/{number}/pid.txt").decode().split() for number in range(1, 7)]
    pids = {pid for pid, _ in said}
    assert str(os.getpid()) not in pids
    assert 1 <= len(pids) <= arguments.get("workers", 1)  # a process stays for the next row
    assert {env for _, env in said} == {"set"}


def test_as_many_rows_as_workers_are_in_fn_at_once(on, six, tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()

    def meet(input_dir, output_dir):
        import os

        (meeting / str(os.getpid())).touch()
        end = time.monotonic() + 20
        while len(list(meeting.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(list(meeting.iterdir())) == 2
        return {"a.txt": input_dir / "a.txt"}

    assert len(on(meet, workers=2)(six)) == 6


def test_workers_take_whichever_row_is_here(paced, on, six):
    """A stalled download holds back its own row only."""
    gate = paced.hold("GetObject", "in/1")
    threading.Thread(target=lambda: (until(lambda: paced.count("PutObject", "out/3/a.txt")), gate.set())).start()
    manifest = on(workers=1)(six)
    assert manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert paced.order.index(("PutObject", "out/3/a.txt")) < paced.order.index(("PutObject", "out/1/a.txt"))


def test_a_class_that_cannot_be_made_in_a_worker_stops_the_run(on, six, tmp_path):
    class Broken:
        def __init__(self):
            raise RuntimeError("no weights")

        def __call__(self, input_dir, output_dir):
            return {}

    with pytest.raises(RunStoppedError, match="no weights") as caught:
        on(Broken, workers=2, temp_dir=tmp_path).run(six)
    assert len(caught.value.result.unprocessed_rows) == 6
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_no_worker_can_be_sent_is_refused_before_the_first_request(paced, on, six):
    lock = threading.Lock()

    def locked(input_dir, output_dir):
        with lock:
            return {"a.txt": input_dir / "a.txt"}

    with pytest.raises(InvalidDatasetError, match=r"cannot be pickled for worker processes: TypeError: .*lock"):
        on(locked, workers=1).run(six)
    assert not paced.requests
