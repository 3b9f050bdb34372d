"""`plan(sizes=True)`: what a run would move, before it moves anything."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import forward

from file_dataset import Pipeline, _forecast
from file_dataset._window import MOST_ROWS

MIB = 1 << 20


@pytest.fixture
def frame(faults):
    for number, size in enumerate((10, 30, 20, 40)):
        faults.put(f"s3://bucket/{number}", bytes(size))
    return pd.DataFrame({"id": range(5), "a.txt": [f"s3://bucket/{number}" for number in range(5)]})


def planned(frame, options, **settings):
    pipeline = Pipeline(forward, into_path="s3://bucket/out", options=options, **settings)
    return pipeline.plan(frame, sizes=True)


def test_bytes_requests_and_missing_files_are_known_and_nothing_moves(frame, faults, fault_options):
    plan = planned(frame, fault_options, outputs=["a.txt", "b.txt"])
    assert plan.input_bytes == 100
    assert plan.largest_row == (3, 40)
    assert plan.requests == {"GET": 5, "PUT": 8, "HEAD": 0}
    assert plan.missing_files[["id", "error_code"]].to_numpy().tolist() == [[4, "404"]]
    assert faults.count("HeadObject") == 5
    assert faults.count("GetObject") == faults.count("PutObject") == 0


def test_a_run_sends_what_was_planned(frame, faults, fault_options):
    plan = planned(frame, fault_options)
    Pipeline(forward, into_path="s3://bucket/out", options=fault_options, progress=False).run(frame)
    assert (faults.count("GetObject"), faults.count("PutObject")) == (plan.requests["GET"], plan.requests["PUT"])


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"prefetch": 0}, 40),
        ({"prefetch": 1}, 90),  # one in fn, one ahead, one that uploads
        ({"prefetch": 0, "workers": 1}, 70),
        ({"prefetch": 2, "workers": 2}, 100),
    ],
    ids=str,
)
def test_peak_disk_is_that_of_the_largest_rows(frame, fault_options, settings, most):
    assert planned(frame, fault_options, **settings).peak_disk_bytes == most


def test_without_a_number_peak_disk_is_within_the_budget(frame, fault_options, monkeypatch):
    assert planned(frame, fault_options).peak_disk_bytes == 100
    assert MOST_ROWS > 5
    monkeypatch.setattr(_forecast, "budget_bytes", lambda _: 60)
    assert planned(frame, fault_options).peak_disk_bytes == 60
    monkeypatch.setattr(_forecast, "budget_bytes", lambda _: 5)
    assert planned(frame, fault_options).peak_disk_bytes == 40  # one row is always there


def test_rows_that_are_done_cost_nothing(frame, faults, fault_options, tmp_path):
    pipeline = Pipeline(forward, into_path="s3://bucket/out", options=fault_options, progress=False)
    pipeline.run(frame.head(3), checkpoint=tmp_path / "runs")
    plan = pipeline.plan(frame, checkpoint=tmp_path / "runs", sizes=True)
    assert (plan.input_bytes, plan.requests["GET"], len(plan.files)) == (40, 2, 2)
    assert faults.count("HeadObject") == 2


def test_local_files_send_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    pipeline = Pipeline(forward, into_path="out")
    plan = pipeline.plan(pd.DataFrame({"id": ["1"], "a.txt": ["./a.txt"]}), sizes=True)
    assert (plan.input_bytes, plan.requests) == (5, {"GET": 0, "PUT": 0, "HEAD": 0})


def test_skip_looks_for_each_declared_output(frame, fault_options):
    write_options = {"into_path": "s3://bucket/out", "if_exists": "skip"}
    pipeline = Pipeline(forward, write_options=write_options, outputs=["a.txt"], options=fault_options)
    assert pipeline.plan(frame, sizes=True).requests["HEAD"] == 4


def test_a_frame_of_no_rows_is_a_plan_of_nothing(frame, fault_options):
    plan = planned(frame.head(0), fault_options)
    assert (plan.input_bytes, plan.largest_row, plan.peak_disk_bytes) == (0, None, 0)
    assert plan.report().splitlines()[1] == "inputs: 0 files, 0 bytes"


def test_the_report_is_for_a_person(frame, fault_options):
    assert planned(frame, fault_options).report().splitlines() == [
        "5 of 5 rows to run: 5 new",
        "inputs: 5 files, 100 bytes; the largest row: 3, 40 bytes",
        "requests, where no row fails: at least 5 GET, 4 PUT",
        "peak disk: 100 bytes of inputs, and what fn writes beside them",
        "missing files: 1",
        "  row 4: a.txt: s3://bucket/4: FileNotFoundError (404)",
    ]


def test_a_row_without_any_file_is_counted_apart(frame, fault_options):
    frame.loc[4, "a.txt"] = None
    plan = planned(frame, fault_options)
    assert plan.requests == {"GET": 4, "PUT": 4, "HEAD": 0}
    assert plan.report().splitlines()[-2:] == ["missing files: 0", "rows without any file: 1"]


def test_without_sizes_a_plan_has_rows_alone(frame, faults, fault_options):
    plan = Pipeline(forward, into_path="s3://bucket/out", options=fault_options).plan(frame)
    assert (plan.files, plan.requests, plan.peak_disk_bytes, plan.input_bytes, plan.largest_row) == (None,) * 5
    assert len(plan.missing_files) == 0
    assert plan.report() == plan.summary()
    assert faults.count("HeadObject") == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5 * 10**12, "5.0 TB")],
    ids=str,
)
def test_bytes_are_shown_in_powers_of_ten(count, text):
    assert _forecast._shown_bytes(count) == text  # noqa: SLF001
