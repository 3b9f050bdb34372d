"""The demo as `make demo` runs it: a server of its own, Dagster, four assets, two dropped rows, a picture."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from example_project.cohort import MISSING_ID, TRUNCATED_ID
from example_project.definitions import defs


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if name != "FILE_DATASET_DEMO_S3"}
    command = [sys.executable, "-m", "example_project.demo"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, directory


def test_it_prints_the_manifest_the_dropped_rows_and_where_the_montage_lies(demo: tuple[str, Path]) -> None:
    printed, directory = demo
    manifest, _, rest = printed.partition("Dropped by `resampled`")
    assert "s3://demo/cohort/files/measured/case-01/slices.png" in manifest
    assert manifest.count("slices.png") == 11  # the column's name and ten rows
    assert "2 of 12 rows dropped (16.7%): 1 at download, 1 at fn" in rest
    assert f"{TRUNCATED_ID}          fn" in rest
    assert f"{MISSING_ID}    download" in rest
    assert "Check resampled:no_dropped_rows: WARN" in rest
    assert "Check measured:no_dropped_rows: passed" in rest
    assert str(directory / ".demo/montage.png") in rest


def test_the_montage_is_a_picture(demo: tuple[str, Path]) -> None:
    with Image.open(demo[1] / ".demo/montage.png") as picture:
        assert picture.size[0] > 1000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 200  # more than a frame and text


def test_dagster_keeps_the_run_for_the_ui(demo: tuple[str, Path]) -> None:
    home = str(demo[1] / ".demo/dagster")
    with dg.DagsterInstance.from_config(home) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        for name in ("raw_scans", "resampled", "measured", "report"):
            assert instance.get_latest_materialization_event(dg.AssetKey(name))


def test_the_definitions_load_without_a_store() -> None:
    keys = {key.to_user_string() for key in dg.Definitions.merge(defs()).resolve_all_asset_keys()}
    assert keys == {"raw_scans", "resampled", "measured", "report"}
