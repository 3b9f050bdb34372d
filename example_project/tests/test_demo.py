"""The demo as `make demo` runs it: a server of its own, Dagster, two dropped rows, a picture, a DICOM series."""

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from example_project.cohort import GAPPED_ID, MISSING_ID, TRUNCATED_ID
from example_project.definitions import defs
from example_project.demo import last_words
from example_project.environment import STORES, raw, storage, store

IN_ONE_PROCESS = pytest.mark.xdist_group("demo")  # it takes 15 s of CPU


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if name != "FILE_DATASET_DEMO_S3"}
    command = [sys.executable, "-m", "example_project.demo"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""  # no noise of ITK or of logs between
    return done.stdout, directory


@IN_ONE_PROCESS
def test_it_prints_the_manifest_the_dropped_rows_and_where_the_montage_lies(demo: tuple[str, Path]) -> None:
    printed, directory = demo
    manifest, _, rest = printed.partition("Dropped by `resampled`")
    assert "s3://demo/cohort/files/measured/case-01/slices.png" in manifest
    assert manifest.count("slices.png") == 11  # the column's name and ten rows
    assert "2 of 12 rows dropped (16.7%): 1 at download, 1 at fn" in rest
    assert f"{TRUNCATED_ID}          fn" in rest
    assert f"{MISSING_ID}    download" in rest
    assert "Check resampled:no_dropped_rows: WARN" in rest
    assert "the row has no file" in rest  # the study's table names it, and the bucket has none
    assert "Check measured:no_dropped_rows: passed" in rest
    assert str(directory / ".demo/montage.png") in rest


@IN_ONE_PROCESS
def test_a_directory_of_slices_becomes_a_volume_and_a_series_with_a_gap_is_dropped(demo: tuple[str, Path]) -> None:
    series = demo[0].partition("Manifest of `volumes`")[2].partition("Pictures of six days")[0]
    manifest, _, rest = series.partition("Dropped by `volumes`: 1 of 2 rows dropped (50.0%): 1 at fn")
    assert manifest.split()[-3:] == [
        "ct-01",
        "s3://demo/cohort/files/volumes/ct-01/image.mha",
        "s3://demo/cohort/files/volumes/ct-01/slices/",  # a directory, by its slash
    ]
    assert f"{GAPPED_ID}          fn ValueError slices are missing: 4 slices lie 1.25 to 202 mm apart" in rest


@IN_ONE_PROCESS
def test_the_montage_is_a_picture(demo: tuple[str, Path]) -> None:
    with Image.open(demo[1] / ".demo/montage.png") as picture:
        assert picture.size[0] > 1000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 200  # more than a frame and text


@IN_ONE_PROCESS
def test_dagster_keeps_the_run_for_the_ui(demo: tuple[str, Path]) -> None:
    home = str(demo[1] / ".demo/dagster")
    with dg.DagsterInstance.from_config(home) as instance:
        statuses = {run.job_name: run.status for run in instance.get_runs()}
        succeeded = dg.DagsterRunStatus.SUCCESS
        assert statuses == {"cohort": succeeded, "series": succeeded, "daily": dg.DagsterRunStatus.FAILURE}
        for name in ("listed_scans", "raw_scans", "resampled", "measured", "report", "listed_series", "volumes"):
            assert instance.get_latest_materialization_event(dg.AssetKey(name))


def test_the_definitions_load_without_a_store() -> None:
    keys = {key.to_user_string() for key in dg.Definitions.merge(defs()).resolve_all_asset_keys()}
    assert {"listed_scans", "listed_series", "resampled"} <= keys


def test_without_a_base_path_the_bucket_that_is_listed_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FILE_DATASET_DEMO_S3", raising=False)
    assert raw("{id}/series/") == "s3://set-file-dataset-demo-s3/raw/{id}/series/"
    monkeypatch.setenv("FILE_DATASET_DEMO_S3", "s3://bucket/prefix/")
    assert raw("{id}/series/") == "s3://bucket/prefix/raw/{id}/series/"


@IN_ONE_PROCESS
def test_of_six_days_one_is_empty_and_one_all_bad(demo: tuple[str, Path]) -> None:
    printed, directory = demo
    days = printed.partition("Pictures of six days, one run:")[2]
    assert "2026-01-07: 0 of 0 rows dropped\n" in days
    assert "2026-01-08: 2 of 2 rows dropped (100.0%): 1 at download, 1 at fn  (ERROR)" in days
    assert "1 of 6 partitions failed: 2026-01-08. The manifests of 5 are stored." in days
    assert "The run failed" not in days
    with dg.DagsterInstance.from_config(str(directory / ".demo/dagster")) as instance:
        stored = instance.get_materialized_partitions(dg.AssetKey("pictures"))
    assert sorted(stored) == [f"2026-01-{day:02}" for day in (5, 6, 7, 9, 10)]


@IN_ONE_PROCESS
def test_its_last_words_are_that_all_went_as_it_should(demo: tuple[str, Path]) -> None:
    printed, directory = demo
    words = printed.partition("What went wrong, on purpose:")[2]
    assert (
        f"Scan {TRUNCATED_ID} is cut short, and {MISSING_ID} is in the study's table, but not in the bucket." in words
    )
    assert f"Of the DICOM series {GAPPED_ID} most slices are missing." in words
    assert "On 2026-01-08 only these two came in." in words
    assert "All went as it should." in words
    assert words.rstrip().splitlines()[-3].split()[:2] == ["make", "ui"]
    assert "data not read completely" in (directory / ".demo/demo.log").read_text()  # ITK's own words


def test_what_else_goes_wrong_is_an_error() -> None:
    day = "2026-01-08"
    expected = {TRUNCATED_ID, MISSING_ID, GAPPED_ID}
    assert "All went as it should." in last_words(expected, {day})
    for dropped, days in ((expected - {GAPPED_ID}, {day}), (expected | {"case-01"}, {day}), (expected, set())):
        with pytest.raises(SystemExit, match="the demo failed"):
            last_words(dropped, days)


def test_the_schedule_runs_the_day_before_at_two() -> None:
    schedule = dg.Definitions.merge(defs()).resolve_schedule_def("nightly")
    at = datetime(2026, 1, 10, 2, tzinfo=UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        tick = schedule.evaluate_tick(dg.build_schedule_context(instance=instance, scheduled_execution_time=at))
    assert tick.run_requests is not None
    assert [request.partition_key for request in tick.run_requests] == ["2026-01-09"]
    assert schedule.cron_schedule == "0 2 * * *"


@pytest.mark.parametrize(
    ("environment", "variable"),
    [("demo", "FILE_DATASET_DEMO_S3"), ("s3", "SCANS_BASE_PATH"), ("s3_compatible", "SCANS_BASE_PATH")],
)
def test_the_environment_says_where_manifests_lie(
    monkeypatch: pytest.MonkeyPatch, environment: str, variable: str
) -> None:
    monkeypatch.setenv("EXAMPLE_PROJECT_ENV", environment)
    monkeypatch.setenv(variable, "s3://bucket/prefix/")
    assert storage("measured") == {"dagster/uri": "s3://bucket/prefix/manifests/measured/manifest.parquet"}
    assert store() is STORES[environment]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_on_ray_measures_the_same_scans(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "FILE_DATASET_DEMO_S3"}
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # the paths of Ray's sockets are short
        done = subprocess.run(
            [sys.executable, "-m", "example_project.demo", "--ray"],
            cwd=tmp_path,
            env=environment | {"RAY_TMPDIR": short},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "0 of 10 rows dropped" in done.stdout
    assert "s3://demo/cohort/files/measured_on_ray/case-12/measures.json" in done.stdout
