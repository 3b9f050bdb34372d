"""No finished row is lost: a run that ends before its manifest is stored, and the one after it."""

import uuid
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, failure_of, range_tags

from file_dataset_dagster import pipeline_asset
from file_dataset_dagster._checkpoints import Attempt
from file_dataset_dagster._partial_runs import Stored
from file_dataset_dagster._provenance import Origins
from file_dataset_dagster._rows import Rows

ROWS = list("abcd")
ONLY_MISSING = {"only_missing": True}


@pytest.fixture
def calls(tmp_path, counted):
    """Ids of the rows that fn was called for since this was called last."""

    def taken():
        found = sorted(path.name[0] for path in (tmp_path / "calls").iterdir())
        for path in (tmp_path / "calls").iterdir():
            path.unlink()
        return "".join(found)

    return taken


@pytest.fixture
def counted(tmp_path):
    """Fn: copy.txt of scan.txt, and one file for each call."""
    (tmp_path / "calls").mkdir()

    def copy(input_dir, output_dir):
        text = (input_dir / "scan.txt").read_text()
        (tmp_path / "calls" / f"{text.split()[-1]}-{uuid.uuid4().hex}").touch()
        (output_dir / "copy.txt").write_text(text)
        return {"copy.txt": output_dir / "copy.txt"}

    return copy


@pytest.fixture
def go(run, local, counted):
    """Run raw_scans -> copied, whose every dropped row is one too many."""

    def materialize(frame, config=None, resource=local, resources=None, **arguments):
        @dg.asset
        def raw_scans() -> pd.DataFrame:
            return frame

        arguments = {"max_dropped_fraction": 0.0, "prefetch": 0} | arguments
        copied = pipeline_asset(arguments.pop("fn", counted), name="copied", input=raw_scans, **arguments)
        run_config = {"ops": {"copied": {"config": config}}} if config else {}
        return run([raw_scans, copied], resource, run_config=run_config, resources=resources or {})

    return materialize


@pytest.fixture
def parts(local):
    """Names of the parts of the checkpoint of `copied` or of one of its partitions."""

    def found(name="manifest"):
        return [path.name for path in Path(local.base_path, "manifests", "copied", f"{name}.checkpoint").glob("part-*")]

    return found


def metadata_of(result):
    *_, event = result.asset_materializations_for_node("copied")
    return {name: value.value for name, value in event.metadata.items()}


def test_a_retry_of_the_step_runs_the_rest_alone(go, scans, counted, calls, stored, parts, instance):
    frame = scans(ROWS, missing=["c"])

    def mends(input_dir, output_dir):
        if (input_dir / "scan.txt").read_text() == "scan d":
            Path(frame["scan.txt"][2]).write_text("scan c")
        return counted(input_dir, output_dir)

    result = go(frame, fn=mends, retry_policy=dg.RetryPolicy(max_retries=1))
    assert result.success
    assert calls() == "abcd"
    (retry,) = result.filter_events(lambda event: event.is_step_up_for_retry)
    failure = retry.event_specific_data.error.cause or retry.event_specific_data.error
    assert (
        "3 rows are finished, and a retry, a re-execution of the run or only_missing: true goes on" in failure.message
    )
    assert metadata_of(result)["rows_run"] == 1
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "going on: 3 of 4 rows were done by an earlier attempt of this run" in logged
    assert stored()["id"].tolist() == ROWS
    assert stored("files")["id"].tolist() == ROWS
    assert parts() == []


@pytest.mark.parametrize("policy", [{}, {"max_failures": 0}], ids=str)
def test_only_missing_goes_on_from_a_run_that_was_refused_or_stopped(go, scans, calls, stored, parts, policy):
    result = go(scans(ROWS, missing=["c"]), **policy)
    done = 2 if policy else 3
    assert f"{done} rows are finished" in failure_of(result).description
    assert len(calls()) == done
    assert parts()
    result = go(scans(ROWS), ONLY_MISSING)
    assert result.success
    assert calls() == ("cd" if policy else "c")
    assert metadata_of(result)["rows_run"] == 4 - done
    assert stored()["id"].tolist() == ROWS
    assert parts() == []


def test_a_new_run_begins_anew(go, scans, calls, parts):
    go(scans(ROWS, missing=["c"]))
    calls()
    result = go(scans(ROWS))
    assert calls() == "abcd"
    assert "rows_run" not in metadata_of(result)
    assert parts() == []


def test_a_run_that_stores_its_manifest_leaves_nothing_to_go_on_from(go, scans, calls, parts):
    go(scans(ROWS, missing=["c"]), max_dropped_fraction=0.5)
    assert calls() == "abd"
    assert parts() == []


def test_what_the_checkpoint_has_is_newer_than_the_manifest(go, scans, calls, stored, tmp_path):
    """A row that ran is as it ran; one that failed runs again, though the manifest has it."""
    go(scans(ROWS).assign(label="old"))
    frame = scans(ROWS, missing=["c"]).assign(label="new")
    go(frame.head(3))
    calls()
    Path(frame["scan.txt"][2]).write_text("scan c")
    go(frame, ONLY_MISSING)
    # what is stored of d was made with another label
    assert calls() == "cd"
    assert stored()["label"].tolist() == ["new"] * 4


def test_a_limit_counts_the_rows_that_run(go, scans, calls, stored):
    go(scans(ROWS, missing=["a", "c"]))
    assert calls() == "bd"
    result = go(scans(ROWS), {"only_missing": True, "limit": 1}, max_dropped_fraction=0.5)
    assert calls() == "a"
    assert stored()["id"].tolist() == ["a", "b", "d"]
    assert stored("failures")["id"].tolist() == ["c"]
    (check,) = result.get_asset_check_evaluations()
    assert check.description == "1 of 4 rows dropped (25.0%; allowed 50.0%): 1 at download"


def test_ids_run_whatever_the_checkpoint_has_of_them_and_no_other_row_is_lost(go, scans, calls, stored):
    go(scans(ROWS))
    go(scans([*ROWS, "e"], missing=["c"]))
    calls()
    assert not go(scans([*ROWS, "e"]), {"ids": ["a"]}).success  # c failed when it last ran
    assert calls() == "a"
    assert go(scans([*ROWS, "e"]), {"ids": ["c"]}).success
    assert calls() == "c"
    assert stored()["id"].tolist() == [*ROWS, "e"]


def test_another_code_version_runs_all(go, scans, calls):
    go(scans(ROWS, missing=["c"]), code_version="1")
    calls()
    go(scans(ROWS, missing=["c"]), ONLY_MISSING, code_version="1")
    assert calls() == ""
    go(scans(ROWS), ONLY_MISSING, code_version="2")
    assert calls() == "abcd"


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_file_that_changed_runs_again_where_the_input_has_another_data_version(go, scans, calls, is_seen):
    go(scans(ROWS, missing=["c"]))
    calls()
    frame = scans(["c"])
    other = scans(["a"])["scan.txt"][0]
    frame = pd.DataFrame({"id": ROWS, "scan.txt": [other, *[other.replace("/a/", f"/{row}/") for row in "bcd"]]})
    go(frame.assign(label="x") if is_seen else frame, ONLY_MISSING)
    assert calls() == ("ac" if is_seen else "c")


def test_each_partition_of_a_range_has_its_own(run, local, scans, counted, calls, stored, parts):
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    missing = ["b"]

    @dg.asset(partitions_def=days, backfill_policy=ONE_RUN)
    def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
        return {day: scans(rows, missing=missing) for day, rows in (("mon", "abc"), ("tue", "de"))}

    def go(config=None):
        copied = pipeline_asset(
            counted, name="copied", input=raw_scans, partitions_def=days, backfill_policy=ONE_RUN,
            max_dropped_fraction=0.0,
        )  # fmt: skip
        run_config = {"ops": {"copied": {"config": config}}} if config else {}
        return run([raw_scans, copied], local, tags=range_tags(["mon", "tue"]), run_config=run_config)

    assert "2 rows are finished" in failure_of(go()).description
    assert calls() == "acde"
    assert parts("partition=mon")
    assert not parts("partition=tue")
    assert stored(partition="tue")["id"].tolist() == ["d", "e"]
    missing = []
    assert go(ONLY_MISSING).success
    assert calls() == "b"
    assert stored(partition="mon")["id"].tolist() == list("abc")
    assert not parts("partition=mon")


def test_the_checkpoint_lies_beside_the_manifest_also_where_outputs_go_to_another_store(
    go, scans, calls, resource, keys, local
):
    elsewhere = {"write_resource_key": "elsewhere", "resources": {"elsewhere": local}}
    go(scans(ROWS, missing=["c"]), resource=resource, **elsewhere)
    calls()
    assert [key for key in keys() if key.startswith("base/manifests/copied/manifest.checkpoint/part-")]
    assert not list(Path(local.base_path).rglob("part-*"))
    assert go(scans(ROWS), ONLY_MISSING, resource=resource, **elsewhere).success
    assert calls() == "c"
    assert not [key for key in keys() if ".checkpoint/" in key]


def test_without_a_manifest_io_manager_there_is_none(go, scans, tmp_path):
    memory = {"io_manager_key": "memory", "resource_defs": {"memory": dg.mem_io_manager}}
    result = go(scans(ROWS, missing=["c"]), **memory)
    assert "finished" not in failure_of(result).description
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_a_checkpoint_that_is_damaged_is_named_and_a_new_run_does_without(go, scans, local, parts):
    go(scans(ROWS, missing=["c"]))
    directory = Path(local.base_path, "manifests", "copied", "manifest.checkpoint")
    (directory / parts()[0]).write_bytes(b"not Parquet")
    assert parts()[0] in failure_of(go(scans(ROWS), ONLY_MISSING)).description
    assert go(scans(ROWS)).success


def test_a_retry_of_a_range_keeps_the_partitions_that_are_stored(run, local, scans, counted, calls, stored):
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    frames = {"mon": scans("ab"), "tue": scans("cd", missing="c")}

    @dg.asset(partitions_def=days, backfill_policy=ONE_RUN)
    def raw_scans() -> dict[str, pd.DataFrame]:
        return frames

    def mends(input_dir, output_dir):
        if (input_dir / "scan.txt").read_text() == "scan d":
            Path(frames["tue"]["scan.txt"][0]).write_text("scan c")
        return counted(input_dir, output_dir)

    copied = pipeline_asset(
        mends, name="copied", input=raw_scans, partitions_def=days, backfill_policy=ONE_RUN, prefetch=0,
        max_dropped_fraction=0.0, retry_policy=dg.RetryPolicy(max_retries=1), code_version="1",
    )  # fmt: skip
    result = run([raw_scans, copied], local, tags=range_tags(["mon", "tue"]))
    assert result.success
    assert calls() == "abcd"
    assert [stored(partition=day)["id"].tolist() for day in ("mon", "tue")] == [["a", "b"], ["c", "d"]]
    # what is of a run before does not count
    assert run([raw_scans, copied], local, tags=range_tags(["mon", "tue"])).success
    assert calls() == "abcd"


@pytest.mark.parametrize(
    ("attempt", "began", "code_version", "is_kept"),
    [
        pytest.param(Attempt("r", "r", None, 1, "r"), "r", "1", True, id="a retry"),
        pytest.param(Attempt("s", "r", "r", 0, "r"), "r", "1", True, id="a re-execution from failure"),
        pytest.param(Attempt("s", "r", "r", 0, "s"), "r", "1", False, id="a re-execution of all steps"),
        pytest.param(Attempt("r", "r", None, 0, "r"), "q", "1", False, id="a new run"),
        pytest.param(Attempt("r", "r", None, 1, "r"), "q", "1", False, id="stored by another run"),
        pytest.param(Attempt("r", "r", None, 1, "r"), "r", "2", False, id="stored by other code"),
    ],
)
def test_what_an_earlier_attempt_has_stored_is_kept(attempt, began, code_version, is_kept):
    rows = Rows(None, SimpleNamespace(code_version="1"), None, None, None, attempt, None)
    frame = pd.DataFrame({"id": []})
    stored = Stored(frame, frame, frame, 0, frame, Origins(began=began, code_version=code_version))
    assert rows.of_this_run(stored) is is_kept


def test_a_retry_of_ids_runs_the_rest_of_them_alone(go, scans, counted, calls, stored):
    go(scans(ROWS))
    frame = scans(ROWS, missing=["c"])
    calls()

    def mends(input_dir, output_dir):
        if (input_dir / "scan.txt").read_text() == "scan d":
            Path(frame["scan.txt"][2]).write_text("scan c")
        return counted(input_dir, output_dir)

    assert go(frame, {"ids": ["c", "d"]}, fn=mends, retry_policy=dg.RetryPolicy(max_retries=1)).success
    assert calls() == "cd"
    assert stored()["id"].tolist() == ROWS
