"""A step whose process is killed at any moment, again and again, loses no row that was written down."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from file_dataset import PipelineResult
from file_dataset import _journal as journals
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS, KILLS = 30, 5


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATASET_TEST_DIR", str(tmp_path))
    return tmp_path


def mortal_job():
    """Return a job of two steps; the process of the second kills itself as the file `kill` says."""
    here = Path(os.environ["DATASET_TEST_DIR"])
    store = FileDatasetResource(base_path=str(here / "base"))
    calls = []

    def copy(input_dir, output_dir):
        if not calls:  # in the process of the step
            vars(journals).update(_ROWS=3, _S=0.05, _MOST_PARTS=3, _LARGEST=1)
        text = (input_dir / "scan.txt").read_text()
        calls.append(text)
        with (here / "log").open("a") as log:
            log.write(f"{text}\n")
        if (here / "kill").exists():
            nth, after_s = (here / "kill").read_text().split()
            if len(calls) == int(nth):
                threading.Timer(float(after_s), os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(0.01)
        (output_dir / "copy.txt").write_text(text)
        return {"copy.txt": output_dir / "copy.txt"}

    @dg.asset
    def scans() -> pd.DataFrame:
        paths = [here / f"{number}.txt" for number in range(ROWS)]
        for number, path in enumerate(paths):
            path.write_text(str(number))
        return pd.DataFrame({"id": range(ROWS), "scan.txt": [str(path) for path in paths]})

    assets = [scans, pipeline_asset(copy, name="copied", input=scans)]
    resources = {"file_dataset": store, "io_manager": ManifestIOManager(resource=store)}
    job = dg.define_asset_job("mortal", selection=assets)
    return dg.Definitions(assets=assets, jobs=[job], resources=resources).resolve_job_def("mortal")


def written(home, since_s):
    """Return the rows that the checkpoint has as done, or the manifest where it was stored just before a kill."""
    places = {part.parent for part in (home / "base").rglob("*.checkpoint/part-*")}
    rows = {row for place in places for row in PipelineResult.load(place).manifest["id"]}
    for path in (home / "base").rglob("copied/manifest.parquet"):
        if path.stat().st_mtime > since_s:
            rows |= set(pd.read_parquet(path)["id"])
    return rows


def calls(home):
    return [int(line) for line in (home / "log").read_text().split()] if (home / "log").exists() else []


def execute_often(home, instance, chance, most):
    """Execute the job, and execute it again as long as its step is killed; return how often it was, `most` at most."""
    job, kills, run, before = dg.reconstructable(mortal_job), 0, None, set()
    since_s = time.time()
    while run is None or not run.success:
        (home / "kill").unlink(missing_ok=True)
        if kills < most:
            (home / "kill").write_text(f"{chance.randint(1, 12)} {chance.uniform(0, 0.1)}")
        old = len(calls(home))
        again = None if run is None else dg.ReexecutionOptions.from_failure(run.run_id, instance)
        run = dg.execute_job(job, instance, reexecution_options=again)
        rows = calls(home)[old:]
        assert len(set(rows)) == len(rows)
        assert not before & set(rows)
        if not run.success:
            kills += 1
            assert before <= written(home, since_s)
            before = written(home, since_s)
    assert set(rows) == set(range(ROWS)) - before
    return kills


@pytest.mark.parametrize("seed", range(10))
def test_a_step_that_is_killed_again_and_again_loses_no_row_that_was_written_down(seed, home):
    chance = random.Random(seed)  # noqa: S311  # dice, not keys
    kills = 0
    with dg.DagsterInstance.get() as instance:
        while kills < KILLS:
            kills += execute_often(home, instance, chance, KILLS - kills)
            manifests = ManifestIOManager(resource=FileDatasetResource(base_path=str(home / "base")))
            manifest = manifests.load(manifests.uri(dg.AssetKey("copied"), None))
            assert manifest["id"].tolist() == list(range(ROWS))
            assert [Path(at).read_text() for at in manifest["copy.txt"]] == [str(number) for number in range(ROWS)]
            assert not list((home / "base").rglob("part-*"))
