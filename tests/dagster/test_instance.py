"""On instances that last: steps in processes of their own, ranges of ninety days, ticks, runs that are killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from file_dataset_dagster import FileDatasetResource, ManifestIOManager

# ninety days are some ten seconds of work, and a busy machine takes its time
pytestmark = pytest.mark.timeout(600)

LOCATION = Path(__file__).with_name("location.py")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A DAGSTER_HOME, the environment of the location, and a directory for temporary files that must end empty."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    environment = {
        "DAGSTER_HOME": str(tmp_path / "home"),
        "DATASET_TEST_DIR": str(tmp_path),
        "TEST_KEY_ID": "AKIDENV",
        "TEST_SECRET": "EnvS3cret",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def location(home):
    """The module of the code location, loaded for this test."""
    spec = importlib.util.spec_from_file_location("location_under_test", LOCATION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lasting(home):
    with dg.DagsterInstance.get() as instance:
        yield instance


def ids_of(home, asset, partition):
    manifests = ManifestIOManager(resource=FileDatasetResource(base_path=str(home / "base")))
    return manifests.load(manifests.uri(dg.AssetKey(asset), partition))["id"].tolist()


def materialized(instance, asset):
    return instance.get_materialized_partitions(dg.AssetKey(asset))


def a_range(keys):
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}


@pytest.mark.slow  # 15 s of CPU: Dagster writes some 20 events a day
def test_of_ninety_days_with_one_broken_there_are_eighty_nine(location, lasting, home):
    keys = location.DAYS.get_partition_keys()
    assert len(keys) == 90
    job = location.defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=lasting,
        asset_selection=[dg.AssetKey("raw_scans"), dg.AssetKey("copied")],
        tags=a_range(keys),
        raise_on_error=False,
    )
    assert not result.success
    assert materialized(lasting, "copied") == set(keys) - {location.BROKEN}
    assert ids_of(home, "copied", keys[89]) == [f"{keys[89]}-1", f"{keys[89]}-2"]
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    told = failure.step_failure_data.user_failure_data.description
    assert told.startswith(f"1 of 90 partitions failed: {location.BROKEN}. The manifests of 89 are stored.")


def test_a_tick_at_two_runs_the_day_before(location, lasting, home):
    now = location.DAYS.time_window_for_partition_key("2024-02-03").end.replace(hour=2)
    context = dg.build_schedule_context(instance=lasting, scheduled_execution_time=now)
    schedule = location.defs.resolve_schedule_def("nightly")
    assert schedule.cron_schedule == "0 2 * * *"
    (request,) = schedule.evaluate_tick(context).run_requests
    assert request.partition_key == "2024-02-03"
    job = location.defs.resolve_job_def("daily")
    assert job.execute_in_process(instance=lasting, partition_key=request.partition_key, tags=request.tags).success
    assert ids_of(home, "copied", "2024-02-03") == ["2024-02-03-1", "2024-02-03-2"]


@pytest.mark.slow  # each process imports Dagster, for 4 s
def test_steps_run_in_processes_of_their_own(location, lasting, home):
    """Dagster's default executor: each step imports the code again, and finds what the one before it stored."""
    repository = dg.reconstructable(daily_job)
    result = dg.execute_job(repository, lasting, tags={"dagster/partition": "2024-01-02"})
    assert result.success
    starts = result.filter_events(lambda event: event.event_type_value == "STEP_WORKER_STARTED")
    assert len(starts) == 3
    assert ids_of(home, "copied", "2024-01-02") == ["2024-01-02-1", "2024-01-02-2"]


def job_of_location(name):
    spec = importlib.util.spec_from_file_location("location_under_test", LOCATION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.defs.resolve_job_def(name)


def daily_job():
    return job_of_location("daily")


def ending_job():
    return job_of_location("ending_job")


def range_job():
    return job_of_location("daily_range")


@pytest.mark.slow  # each process imports Dagster, for 4 s
def test_a_range_that_failed_is_executed_again_without_the_days_that_are_stored(location, lasting, home):
    keys = location.DAYS.get_partition_keys()
    days = keys[keys.index(location.BROKEN) - 1 :][:3]
    job = dg.reconstructable(range_job)
    first = dg.execute_job(job, lasting, tags=a_range(days))
    assert not first.success
    again = dg.ReexecutionOptions.from_failure(first.run_id, lasting)
    # as the UI and the daemon do it, which is not in reach of a test without them
    tags = {**a_range(days), "dagster/is_resume_retry": "true"}
    second = dg.execute_job(job, lasting, reexecution_options=again, tags=tags)
    assert not second.success  # that day is broken for good
    for day in (days[0], days[2]):
        wanted = dg.AssetRecordsFilter(dg.AssetKey("copied"), asset_partitions=[day])
        (last,) = lasting.fetch_materializations(wanted, limit=1).records
        assert last.run_id == second.run_id
        assert last.asset_materialization.metadata["rows_run"].value == 0
        assert ids_of(home, "copied", day) == [f"{day}-1", f"{day}-2"]


def calls_taken(home):
    """Numbers of the rows that fn was called for since the last time."""
    found = sorted(path.name[0] for path in (home / "calls").iterdir())
    for path in (home / "calls").iterdir():
        path.unlink()
    return "".join(found)


@pytest.mark.slow  # rows are written down 5 s after the first of them
@pytest.mark.parametrize(
    ("signal_number", "how"),
    [
        pytest.param(signal.SIGKILL, "re-executed", id="killed, re-executed"),
        pytest.param(signal.SIGKILL, "only_missing", id="killed, only_missing"),
        pytest.param(signal.SIGKILL, "anew", id="killed, anew"),
        pytest.param(signal.SIGINT, "re-executed", id="interrupted, re-executed"),
    ],
)
def test_a_step_whose_process_ends_goes_on_when_it_is_wanted_again(lasting, home, signal_number, how):
    (home / "signal").write_text(str(int(signal_number)))
    job = dg.reconstructable(ending_job)
    first = dg.execute_job(job, lasting)
    assert not first.success
    assert calls_taken(home) == "12345"
    (home / "signal").unlink()
    arguments = {}
    if how == "re-executed":
        arguments["reexecution_options"] = dg.ReexecutionOptions.from_failure(first.run_id, lasting)
    elif how == "only_missing":
        arguments["run_config"] = {"ops": {"ending": {"config": {"only_missing": True}}}}
    assert dg.execute_job(job, lasting, **arguments).success
    called = calls_taken(home)
    assert called == ("123456" if how == "anew" else "56")
    assert len(ids_of(home, "ending", None)) == 6
    assert not list((home / "base").rglob("part-*"))


SCRIPT = """
import importlib.util, sys
import dagster as dg
spec = importlib.util.spec_from_file_location("location_under_test", {location!r})
location = importlib.util.module_from_spec(spec)
spec.loader.exec_module(location)
job = location.defs.resolve_job_def({job!r})
with dg.DagsterInstance.get() as instance:
    result = job.execute_in_process(instance=instance, raise_on_error=False, tags={tags!r})
sys.exit(0 if result.success else 3)
"""


def started(job, tags=None):
    script = SCRIPT.format(location=str(LOCATION), job=job, tags=tags or {})
    return subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL)


def wait_for(claim, *, patience_s=300):
    deadline = time.monotonic() + patience_s
    while not claim():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_a_run_that_ends_in_the_middle_leaves_no_manifest_and_no_process(home, how):
    run = started("slow_job")
    try:
        wait_for(lambda: any((home / "slow").glob("*")))
        os.kill(run.pid, signal.SIGINT if how == "interrupted" else signal.SIGKILL)
        run.wait(timeout=60)
        wait_for(lambda: not is_alive(run.pid))
    finally:
        if is_alive(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
    left = [path.name for path in (home / "base" / "manifests" / "slow").rglob("*") if path.is_file()]
    # rows that were done are written down: a run that is executed again goes on from them
    assert {name.partition("-")[0] for name in left} <= {"part", "manifest.begun.parquet"}
    if how == "interrupted":  # nobody can clean up after SIGKILL
        assert not [path for path in (home / "tmp").rglob("*") if path.is_file()]


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow  # each process imports Dagster, for 4 s
def test_a_range_that_is_killed_keeps_the_days_it_finished_and_goes_on_when_launched_again(home, lasting):
    keys = [f"2024-01-{day:02}" for day in range(1, 31)]
    run = started("daily_range", a_range(keys))
    stored = home / "base" / "manifests" / "copied"
    try:
        wait_for(lambda: len(list(stored.glob("partition=*[0-9].parquet"))) >= 3)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait(timeout=60)
    done = materialized(lasting, "copied")
    assert 2 <= len(done) < 30
    assert all(ids_of(home, "copied", day) == [f"{day}-1", f"{day}-2"] for day in done)
    again = started("daily_range", a_range(keys))
    assert again.wait(timeout=300) == 0
    assert materialized(lasting, "copied") == set(keys)
