"""Dropped rows: what the check tells, what the policy does, and what stays out of Dagster."""

import io
import logging

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import check_of, failure_of

from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

MISSING = ("s3", "s4")
BROKEN = ("s5",)
ROWS = tuple(f"s{number}" for number in range(1, 13))


def copied(input_dir, output_dir):
    path = input_dir / "scan.txt"
    if path.read_text() == "bad":
        message = "a scan " + "that is bad " * 20
        raise ValueError(message)
    (output_dir / "copy.txt").write_text("copy")
    return {"copy.txt": output_dir / "copy.txt"}


@pytest.fixture
def run_frame(run, local):
    """Run frame -> copied -> report; `report` counts the rows it saw."""

    def materialize(frame, resource=local, **arguments):
        @dg.asset
        def raw_scans() -> pd.DataFrame:
            return frame

        @dg.asset
        def report(copied: pd.DataFrame) -> dg.MaterializeResult:
            return dg.MaterializeResult(metadata={"rows": len(copied)})

        return run([raw_scans, pipeline_asset(copied, input=raw_scans, **arguments), report], resource)

    return materialize


@pytest.fixture
def three_of_twelve(scans):
    return scans(ROWS, missing=MISSING, broken=BROKEN)


def ids_stored(resource, of="manifest"):
    io_manager = ManifestIOManager(resource=resource)
    return io_manager.load(io_manager.uri(dg.AssetKey("copied"), of=of))["id"].tolist()


def ran_downstream(result):
    return bool(result.asset_materializations_for_node("report"))


def test_a_run_without_a_dropped_row_passes(run_frame, scans):
    check = check_of(run_frame(scans(ROWS)))
    assert (check.check_name, check.passed, check.description) == ("no_dropped_rows", True, "0 of 12 rows dropped")
    assert "dropped" not in check.metadata


def test_an_empty_input_passes(run_frame, scans):
    result = run_frame(scans(ROWS).head(0), max_dropped_fraction=0)
    check = check_of(result)
    assert (check.passed, check.metadata["dropped_fraction"].value) == (True, 0.0)
    assert ran_downstream(result)


def test_the_description_is_one_line_with_counts_limit_and_stages(run_frame, three_of_twelve):
    check = check_of(run_frame(three_of_twelve, max_dropped_fraction=0.5))
    assert check.description == "3 of 12 rows dropped (25.0%; allowed 50.0%): 2 at download, 1 at fn"


def test_the_numbers_are_numbers_so_that_dagster_plots_them(run_frame, three_of_twelve):
    metadata = check_of(run_frame(three_of_twelve)).metadata
    numbers = ("input_rows", "dropped_rows", "dropped_fraction")
    assert {name: metadata[name] for name in numbers} == {
        "input_rows": dg.MetadataValue.int(12),
        "dropped_rows": dg.MetadataValue.int(3),
        "dropped_fraction": dg.MetadataValue.float(0.25),
    }


def test_the_table_tells_each_row_and_its_cause(run_frame, three_of_twelve):
    table = check_of(run_frame(three_of_twelve)).metadata["dropped"]
    assert [column.name for column in table.schema.columns] == [
        "id", "error_stage", "error_file", "error_url", "error_type", "error_code", "error_message",
    ]  # fmt: skip
    missing = table.records[0].data
    assert (missing["id"], missing["error_stage"], missing["error_file"]) == ("s3", "download", "scan.txt")
    assert missing["error_url"] == three_of_twelve["scan.txt"][2]
    assert (missing["error_type"], missing["error_code"]) == ("FileNotFoundError", "")


def test_the_table_has_twenty_rows_at_most(run_frame, scans):
    ids = [f"s{number}" for number in range(30)]
    check = check_of(run_frame(scans(ids, missing=ids[:25])))
    assert len(check.metadata["dropped"].records) == 20
    assert check.metadata["dropped_rows"].value == 25


def test_a_cell_has_120_characters_at_most(run_frame, three_of_twelve):
    message = check_of(run_frame(three_of_twelve)).metadata["dropped"].records[2].data["error_message"]
    assert (message[:15], message[-1], len(message)) == ("a scan that is ", "…", 120)


def test_the_check_names_the_file_with_all_failures(run_frame, three_of_twelve, local):
    uri = check_of(run_frame(three_of_twelve)).metadata["failures_uri"].value
    assert ManifestIOManager(resource=local).load(uri)["id"].tolist() == ["s3", "s4", "s5"]


@pytest.mark.parametrize(
    ("arguments", "severity"),
    [
        ({}, "WARN"),
        ({"max_dropped_fraction": 0.25}, "WARN"),
        ({"max_dropped_fraction": 0.24, "on_exceeded": "check"}, "ERROR"),
    ],
    ids=["no limit", "at the limit", "above"],
)
def test_dropped_rows_warn_up_to_the_limit(run_frame, three_of_twelve, arguments, severity):
    check = check_of(run_frame(three_of_twelve, **arguments))
    assert (check.passed, check.severity.value) == (False, severity)


def test_dropped_rows_below_the_limit_leave_the_run_green(run_frame, three_of_twelve, local):
    result = run_frame(three_of_twelve, max_dropped_fraction=0.5)
    assert result.success
    assert ran_downstream(result)
    assert len(ids_stored(local)) == 9


def test_fail_tells_the_check_and_keeps_the_previous_manifest(run_frame, scans, three_of_twelve, local):
    run_frame(scans(["old"]))
    result = run_frame(three_of_twelve, max_dropped_fraction=0.1)
    assert not result.success
    assert not check_of(result).passed
    assert check_of(result).severity is dg.AssetCheckSeverity.ERROR
    assert failure_of(result).description.startswith("3 of 12 rows dropped (25.0%; allowed 10.0%)")
    assert not ran_downstream(result)
    assert not result.asset_materializations_for_node("copied")
    assert ids_stored(local) == ["old"]


def test_the_failures_of_a_failed_run_are_kept_beside_the_previous_ones(run_frame, scans, three_of_twelve, local):
    run_frame(scans(["old", "lost"], missing=["lost"]))
    result = run_frame(three_of_twelve, max_dropped_fraction=0.1)
    uri = check_of(result).metadata["failures_uri"].value
    assert ManifestIOManager(resource=local).load(uri)["id"].tolist() == ["s3", "s4", "s5"]
    assert ids_stored(local, of="failures") == ["lost"]


def test_a_later_good_run_leaves_no_failures_of_a_rejected_one(run_frame, scans, three_of_twelve, local):
    run_frame(three_of_twelve, max_dropped_fraction=0.1)
    assert ids_stored(local, of="rejected") == ["s3", "s4", "s5"]
    assert run_frame(scans(ROWS), max_dropped_fraction=0.1).success
    assert ids_stored(local, of="rejected") == []


def test_block_stores_the_manifest_and_keeps_downstream_from_running(run_frame, three_of_twelve, local):
    result = run_frame(three_of_twelve, max_dropped_fraction=0.1, on_exceeded="block")
    assert not result.success
    assert not ran_downstream(result)
    assert len(ids_stored(local)) == 9


def test_block_below_the_limit_blocks_nothing(run_frame, three_of_twelve):
    result = run_frame(three_of_twelve, max_dropped_fraction=0.5, on_exceeded="block")
    assert result.success
    assert ran_downstream(result)


def test_check_only_tells(run_frame, three_of_twelve, local):
    result = run_frame(three_of_twelve, max_dropped_fraction=0.1, on_exceeded="check")
    assert result.success
    assert ran_downstream(result)
    assert len(ids_stored(local)) == 9


MIN_ROWS = [
    # on_exceeded, the run, whether the manifest is stored, whether downstream runs
    ("fail", False, False, False),
    ("block", False, True, False),
    ("check", True, True, True),
]


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize(("on_exceeded", "success", "is_stored", "is_read"), MIN_ROWS)
def test_fewer_rows_than_min_rows_are_an_error_of_the_check(
    run_frame, scans, local, rows, on_exceeded, success, is_stored, is_read
):
    run_frame(scans(["old"]))
    result = run_frame(scans(ROWS[:rows]), min_rows=3, on_exceeded=on_exceeded)
    check = check_of(result)
    assert (check.passed, check.severity, check.blocking) == (
        False,
        dg.AssetCheckSeverity.ERROR,
        on_exceeded == "block",
    )
    assert f"{rows} input rows are fewer than min_rows=3" in check.description
    assert (result.success, ran_downstream(result)) == (success, is_read)
    assert ids_stored(local) == (list(ROWS[:rows]) if is_stored else ["old"])


def test_min_rows_are_enough(run_frame, scans):
    result = run_frame(scans(ROWS[:3]), min_rows=3)
    assert result.success
    assert check_of(result).passed


def test_too_few_rows_do_not_run_in_vain_and_are_not_tried_again(run_frame, scans, tmp_path):
    result = run_frame(scans(ROWS[:2]), min_rows=3, retry_policy=dg.RetryPolicy(max_retries=1))
    assert not (tmp_path / "base" / "files").exists()
    assert not result.filter_events(lambda event: event.is_step_up_for_retry)


def test_min_rows_count_the_input_and_not_what_is_left_of_it(run_frame, scans):
    result = run_frame(scans(ROWS[:3], missing=ROWS[:2]), min_rows=3)
    assert result.success
    assert check_of(result).severity is dg.AssetCheckSeverity.WARN


POLICIES = [
    {},
    {"max_dropped_fraction": 1.0},
    {"max_dropped_fraction": 0.5, "on_exceeded": "block"},
    {"max_dropped_fraction": 0.5, "on_exceeded": "check"},
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_run_that_drops_every_row_fails_and_keeps_the_previous_manifest(run_frame, scans, local, policy):
    run_frame(scans(["old"]))
    result = run_frame(scans(ROWS, missing=ROWS), **policy)
    assert not result.success
    assert check_of(result).severity is dg.AssetCheckSeverity.ERROR
    assert not ran_downstream(result)
    assert ids_stored(local) == ["old"]


@pytest.mark.parametrize(("stage", "retried"), [("download", True), ("fn", False)])
def test_a_run_whose_rows_all_failed_at_fn_is_not_retried(run_frame, scans, stage, retried):
    frame = scans(ROWS, missing=ROWS) if stage == "download" else scans(ROWS, broken=ROWS)
    result = run_frame(frame, retry_policy=dg.RetryPolicy(max_retries=1))
    assert bool(result.filter_events(lambda event: event.is_step_up_for_retry)) is retried


def test_ids_that_are_integers_are_told(run_frame, scans):
    check = check_of(run_frame(scans([7, 8], missing=[8])))
    assert check.metadata["dropped"].records[0].data["id"] == "8"


IDS = [f"patient-{number}-zq" for number in range(4)]


@pytest.fixture
def told_by(instance, capfd):
    """Return everything that Dagster stores of a run: events, logs, and what its steps log and print."""
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    logging.getLogger().addHandler(handler)  # as a Dagster step has one, whose output is captured

    def told(result):
        entries = [entry.to_json() for entry in instance.all_logs(result.run_id)]
        printed = capfd.readouterr()
        return "\n".join([*entries, *map(repr, result.all_events), printed.out, printed.err, logged.getvalue()])

    yield told
    logging.getLogger().removeHandler(handler)


def patients(scans, kind):
    """A frame that drops some rows, or all, or that is refused, each with ids in the story."""
    if kind == "some":
        return scans(IDS, missing=IDS[:1], broken=IDS[1:2])
    return scans(IDS, missing=IDS) if kind == "all" else pd.concat([scans(IDS)] * 2)


@pytest.mark.parametrize("kind", ["some", "all", "refused"])
def test_show_ids_false_keeps_ids_out_of_dagster(run_frame, scans, told_by, kind, local):
    result = run_frame(patients(scans, kind), show_ids=False)
    told = told_by(result)
    assert "no_dropped_rows" in told
    assert not [row_id for row_id in IDS if row_id in told]
    if kind != "refused":
        assert IDS[0] in ids_stored(local, of="failures" if kind == "some" else "rejected")


@pytest.mark.parametrize("kind", ["some", "all", "refused"])
def test_show_ids_true_tells_them(run_frame, scans, told_by, kind):
    """The opposite: the search finds an id where there is one."""
    assert IDS[0] in told_by(run_frame(patients(scans, kind)))


def test_show_ids_true_logs_them(run_frame, scans, told_by):
    """The library's own log line, which Dagster captures with what a step prints."""
    assert f"row '{IDS[0]}' failed at download" in told_by(run_frame(patients(scans, "some")))


def test_show_ids_false_still_tells_stage_file_and_type(run_frame, scans):
    check = check_of(run_frame(patients(scans, "some"), show_ids=False))
    assert [record.data for record in check.metadata["dropped"].records] == [
        {"error_stage": "download", "error_file": "scan.txt", "error_type": "FileNotFoundError", "error_code": ""},
        {"error_stage": "fn", "error_file": "", "error_type": "ValueError", "error_code": ""},
    ]


def test_show_ids_false_leaves_the_log_level_as_it_was(run_frame, scans):
    logger = logging.getLogger("file_dataset")
    before = logger.level
    run_frame(scans(["s1"]), show_ids=False)
    assert logger.level == before


def test_a_run_stopped_by_the_store_keeps_ids_out_of_dagster(scans, run, local, s3_endpoint, told_by):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(IDS)

    stopped = pipeline_asset(copied, input=raw_scans, into_path="s3://no-such-bucket-here", show_ids=False)
    resources = {"io_manager": ManifestIOManager(resource=local)}
    result = run([raw_scans, stopped], FileDatasetResource(endpoint_url=s3_endpoint), resources=resources)
    told = told_by(result)
    assert "RunStoppedError (show_ids=False" in told
    assert not [row_id for row_id in IDS if row_id in told]


@pytest.mark.parametrize("show_ids", [True, False])
def test_a_frame_that_no_manifest_can_hold_is_refused_before_any_row_runs(
    scans, run, local, told_by, show_ids, tmp_path
):
    """Its own text would name the values, ids perhaps; and rows that ran for hours would be listed nowhere."""

    @dg.asset(io_manager_key="memory")
    def raw_scans() -> pd.DataFrame:
        return scans(["s1", "s2"]).assign(note=pd.Series([1, "patient-x"], dtype=object))

    ran = tmp_path / "ran"

    def note_that_it_ran(input_dir, output_dir):
        ran.touch()
        return {"scan.txt": input_dir / "scan.txt"}

    asset = pipeline_asset(note_that_it_ran, input=raw_scans, show_ids=show_ids)
    told = told_by(run([raw_scans, asset], local, resources={"memory": dg.mem_io_manager}))
    assert "patient-x" not in told
    assert "['note']" in told or not show_ids
    assert not ran.exists()
