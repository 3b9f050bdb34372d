"""Run config that runs a part of the rows: what runs, what stays, and that no red check turns green by it."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import check_of, checks_of_range, metadata_of

import file_dataset
from file_dataset_dagster import ManifestIOManager, pipeline_asset
from file_dataset_dagster._partial_runs import PartialRun, Stored, rows_to_run

ROWS = ["a", "b", "c", "d"]


def told_by(result):
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    return failure.description if failure else event.step_failure_data.error.cause.message


def test_only_missing_runs_failed_and_new_rows(chain, scans, stored):
    chain(scans(ROWS[:3], missing=["b"]))
    result = chain(scans(ROWS), config={"only_missing": True})
    assert metadata_of(result)["rows_run"] == 2
    assert stored()["id"].tolist() == ROWS
    assert check_of(result).passed


def test_rows_that_are_there_are_not_run_again(chain, scans, stored, tmp_path):
    chain(scans(ROWS, missing=["b"]))
    at = {row.id: row.location for row in stored("files").itertuples()}
    frame = scans(ROWS)
    (tmp_path / "input" / "a" / "scan.txt").write_text("changed since")
    chain(frame, config={"only_missing": True})
    assert Path(at["a"]).read_text() == "scan a"


def test_a_limit_runs_so_many_rows_and_says_how_many_are_left(chain, scans, stored):
    result = chain(scans(ROWS), config={"only_missing": True, "limit": 1})
    assert stored()["id"].tolist() == ["a"]
    check = check_of(result)
    assert (check.passed, check.severity.value) == (False, "WARN")
    assert check.description == "0 of 4 rows dropped; 3 not run yet"
    assert check.metadata["rows_not_run"].value == 3
    assert check_of(chain(scans(ROWS), config={"only_missing": True, "limit": 10})).passed
    assert stored()["id"].tolist() == ROWS


def test_ids_run_again_and_take_their_place(chain, scans, stored):
    chain(scans(ROWS, missing=["c", "b"]))
    result = chain(scans(ROWS), config={"ids": ["c"]})
    assert stored()["id"].tolist() == ["a", "c", "d"]
    assert stored("failures")["id"].tolist() == ["b"]
    assert check_of(result).description == "1 of 4 rows dropped (25.0%): 1 at download"


def test_integer_ids_are_named_by_their_text(chain, scans, stored):
    chain(scans([7, 8], missing=[8]))
    chain(scans([7, 8]), config={"ids": ["8"]})
    assert stored()["id"].tolist() == [7, 8]


def test_check_and_metadata_count_the_whole_input(chain, scans):
    chain(scans(ROWS, missing=["b"], broken=["c"]))
    result = chain(scans(ROWS, broken=["c"]), config={"ids": ["b"]})
    assert check_of(result).description == "1 of 4 rows dropped (25.0%): 1 at fn"
    told = metadata_of(result)
    assert (told["input_rows"], told["dropped_rows"], told["rows_run"]) == (4, 1, 1)
    assert (told["dagster/row_count"], told["stored_bytes"]) == (3, 3 * len("scan a"))


def test_a_failure_of_a_row_that_runs_again_removes_its_old_row(chain, scans, stored):
    chain(scans(ROWS))
    chain(scans(ROWS, missing=["b"]), config={"ids": ["b"]})
    assert stored()["id"].tolist() == ["a", "c", "d"]
    assert stored("failures")["id"].tolist() == ["b"]
    assert stored("files")["id"].tolist() == ["a", "c", "d"]


def test_ids_that_left_the_input_leave(chain, scans, stored):
    chain(scans(ROWS, missing=["b"]))
    result = chain(scans(["a", "d", "e"]), config={"only_missing": True})
    assert stored()["id"].tolist() == ["a", "d", "e"]
    assert len(stored("failures")) == 0
    assert check_of(result).passed


def test_a_failing_partial_run_keeps_the_old_manifest(chain, scans, stored):
    chain(scans(ROWS))
    result = chain(scans(ROWS, missing=["b", "c"]), config={"ids": ["b", "c"]}, max_dropped_fraction=0.25)
    assert not result.success
    assert stored()["id"].tolist() == ROWS


@pytest.mark.parametrize("config", [{"only_missing": True}, {"ids": ["a"]}], ids=str)
def test_a_part_never_turns_the_red_check_of_a_failed_run_green(chain, scans, stored, config):
    """The run's failures are newer than the manifest, which has those rows still."""
    chain(scans(ROWS))
    policy = {"max_dropped_fraction": 0.25}
    assert not chain(scans(ROWS, missing=["b", "c"]), **policy).success
    result = chain(scans(ROWS, missing=["b", "c"]), config=config, **policy)
    assert not result.success
    assert not check_of(result).passed
    assert stored()["id"].tolist() == ROWS


def test_only_missing_runs_what_a_failed_run_dropped(chain, scans, stored):
    chain(scans(ROWS))
    policy = {"max_dropped_fraction": 0.25}
    chain(scans(ROWS, missing=["b", "c"]), **policy)
    result = chain(scans(ROWS), config={"only_missing": True}, **policy)
    assert metadata_of(result)["rows_run"] == 2
    assert check_of(result).passed
    assert stored()["id"].tolist() == ROWS


def test_failures_of_a_run_before_the_last_whole_one_count_no_more(chain, scans):
    chain(scans(ROWS))
    policy = {"max_dropped_fraction": 0.25}
    chain(scans(ROWS, missing=["b", "c"]), **policy)
    chain(scans(ROWS), **policy)
    result = chain(scans(ROWS), config={"only_missing": True}, **policy)
    assert metadata_of(result)["rows_run"] == 0
    assert check_of(result).passed


def test_only_missing_without_a_manifest_runs_all(chain, scans, stored):
    assert metadata_of(chain(scans(ROWS), config={"only_missing": True}))["rows_run"] == 4
    assert stored()["id"].tolist() == ROWS


def test_ids_without_a_manifest_are_refused(chain, scans):
    assert "no manifest to merge their rows into" in told_by(chain(scans(ROWS), config={"ids": ["a"]}))


def test_ids_that_are_not_in_the_input_are_refused(chain, scans, stored):
    chain(scans(ROWS))
    told = told_by(chain(scans(ROWS), config={"ids": ["a", "zz"]}))
    assert "ids that are not in the input: ['zz'] (1 in all)" in told
    assert stored()["id"].tolist() == ROWS


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"ids": ["a"], "only_missing": True}, "give ids alone, or only_missing"),
        ({"ids": ["a"], "limit": 1}, "give ids alone, or only_missing"),
        ({"limit": 1}, "give only_missing: true beside it"),
        ({"only_missing": True, "limit": 0}, "limit=0"),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_refused_at_launch_before_there_is_a_run(chain, scans, instance, config, said):
    with pytest.raises(file_dataset.InvalidDatasetError, match=said):
        chain(scans(ROWS), config=config)
    assert not instance.get_runs()


def test_duplicate_ids_of_the_whole_input_are_refused_in_a_part_of_it(chain, scans):
    chain(scans(ROWS))
    result = chain(pd.concat([scans(ROWS), scans(["a"])]), config={"ids": ["b"]})
    assert "duplicate ids: ['a']" in told_by(result)


def test_another_io_manager_cannot_merge(chain, scans, local):
    chain(scans(ROWS))
    memory = {"io_manager_key": "memory", "resource_defs": {"memory": dg.mem_io_manager}}
    result = chain(scans(ROWS), config={"only_missing": True}, **memory)
    assert "is no ManifestIOManager" in told_by(result)


def test_a_manifest_that_a_run_left_half_stored_is_not_merged_into(chain, scans, stored, local):
    """Its failures are those of another run: all rows run."""
    chain(scans(ROWS, missing=["b"]))
    manifests = ManifestIOManager(resource=local)
    manifests.store(stored("failures").head(0), manifests.uri(dg.AssetKey("copied"), of="failures"))
    result = chain(scans(ROWS, missing=["b"]), config={"only_missing": True})
    assert metadata_of(result)["rows_run"] == 4
    assert not check_of(result).passed


def test_each_partition_has_parts_of_its_own(run, local, scans, copy, instance):
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    missing = [["mon-2", "tue-2"]]

    @dg.asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
        return {day: scans([f"{day}-1", f"{day}-2"], missing=missing[0]) for day in context.partition_keys}

    copied = pipeline_asset(
        copy, name="copied", input=raw_scans, partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run()
    )
    tags = {"dagster/asset_partition_range_start": "mon", "dagster/asset_partition_range_end": "tue"}
    run([raw_scans, copied], local, tags=tags)
    missing[0] = []
    config = {"ops": {"copied": {"config": {"only_missing": True}}}}
    result = run([raw_scans, copied], local, tags=tags, run_config=config)
    *_, last = result.asset_materializations_for_node("copied")
    assert last.metadata["rows_run"].value == 1
    checks, said_of_all = checks_of_range(result, instance)
    assert [check.passed for check in checks] == [True, True]
    assert said_of_all == "0 of 4 rows dropped, in 0 of 2 partitions"


# --- pure ---


def frame(ids):
    return pd.DataFrame({"id": list(ids)})


def test_rows_keep_the_order_of_the_input():
    known = file_dataset.PipelineResult(frame("abcd"), frame("b"), frame(""), frame(""))
    assert rows_to_run(frame("dcba"), PartialRun(only_missing=True), known)["id"].tolist() == ["d", "c", "a"]
    assert rows_to_run(frame("dcba"), PartialRun(ids=["a", "c"]), known)["id"].tolist() == ["c", "a"]
    assert rows_to_run(frame("dcba"), PartialRun(), known)["id"].tolist() == list("dcba")


def test_a_rejected_failure_takes_the_row_out_of_what_is_known():
    files = frame("ab")
    known = Stored(frame("ab"), frame("c"), files, 3, frame("bz")).of_input(frame("abcd"))
    assert known.manifest["id"].tolist() == ["a"]
    assert known.files["id"].tolist() == ["a"]
    assert sorted(known.failures["id"]) == ["b", "c"]  # z has left the input
    assert (known.input_rows, known.files_without_digest) == (4, 3)
