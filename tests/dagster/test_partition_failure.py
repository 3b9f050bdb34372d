"""on_partition_failure="continue": in a run over a range the others go through a chain, failed ones are named."""

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, checks_of_range, copy_scan, range_tags

import file_dataset
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-05")
KEYS = DAYS.get_partition_keys()
BROKEN = KEYS[1]
RANGE = range_tags(KEYS)
PARTITIONED = {"partitions_def": DAYS, "backfill_policy": ONE_RUN}


def scan_again(input_dir, output_dir):
    """The copy under the name of what it was made from, so that another asset can read it."""
    return {"scan.txt": copy_scan(input_dir, output_dir)["copy.txt"]}


@pytest.fixture
def chain(scans):
    """raw_scans -> first -> second -> third, of two rows a day; of `broken` days no row can be read by fn."""

    def assets(*broken, second="continue", **arguments):
        @dg.asset(**PARTITIONED)
        def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
            ids = {day: [f"{day}-1", f"{day}-2"] for day in context.partition_keys}
            return {day: scans(ids[day], broken=ids[day] if day in broken else ()) for day in ids}

        given = {**PARTITIONED, "on_partition_failure": "continue", **arguments}
        first = pipeline_asset(scan_again, name="first", input=raw_scans, **given)
        two = pipeline_asset(scan_again, name="second", input=first, **{**given, "on_partition_failure": second})
        return [raw_scans, first, two, pipeline_asset(scan_again, name="third", input=two, **given)]

    return assets


def materialized(instance, result, name):
    """Partitions of an asset that a run has materialized."""
    events = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    found = [event for event in events if event.is_step_materialization and event.asset_key == dg.AssetKey(name)]
    return [event.step_materialization_data.materialization.partition for event in found]


def uri(resource, name, partition):
    return ManifestIOManager(resource=resource).uri(dg.AssetKey(name), partition)


@pytest.mark.parametrize("before", [False, True], ids=["never stored", "with an old manifest"])
def test_the_other_days_go_through_the_whole_chain(run, local, chain, instance, before):
    if before:
        assert run(chain(), local, tags=RANGE).success
        old = {name: ManifestIOManager(resource=local).load(uri(local, name, BROKEN)) for name in ("first", "third")}
    result = run(chain(BROKEN), local, tags=RANGE)
    assert result.success
    others = [key for key in KEYS if key != BROKEN]
    for name in ("first", "second", "third"):
        assert materialized(instance, result, name) == others
        each, of_all = checks_of_range(result, instance, name)
        bad = [check for check in each if not check.passed]
        assert [check.metadata["partition"].value for check in bad] == [BROKEN]
        assert bad[0].severity is dg.AssetCheckSeverity.ERROR
        assert BROKEN in bad[0].description
        assert of_all.endswith(f"1 partitions failed: {BROKEN}")
        assert list(result.asset_value(name)) == others
    assert f"partition '{BROKEN}' of asset first, which it reads, failed in this run" in (
        next(check.description for check in checks_of_range(result, instance, "second")[0] if not check.passed)
    )
    if before:
        for name, frame in old.items():
            pd.testing.assert_frame_equal(ManifestIOManager(resource=local).load(uri(local, name, BROKEN)), frame)
    else:
        assert instance.get_materialized_partitions(dg.AssetKey("third")) == set(others)


def test_each_partition_has_its_own_metadata_and_version(run, local, chain, instance):
    run(chain(BROKEN), local, tags=RANGE)
    wanted = dg.AssetRecordsFilter(dg.AssetKey("first"), asset_partitions=[KEYS[2]])
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    told = record.asset_materialization
    assert told.metadata["dagster/partition_row_count"].value == 2
    assert told.tags["dagster/data_version"]
    assert "dagster/input_event_pointer/raw_scans" in told.tags


def test_one_that_does_not_go_on_fails_at_its_end_and_what_is_below_it_does_not_run(run, local, chain, instance):
    result = run(chain(BROKEN, second="fail"), local, tags=RANGE)
    assert not result.success
    assert materialized(instance, result, "second") == [key for key in KEYS if key != BROKEN]
    assert materialized(instance, result, "third") == []


@pytest.mark.parametrize("way", ["every day is broken", "the store takes nothing", "one day alone"])
def test_a_run_in_which_nothing_can_go_on_fails(run, local, chain, s3_endpoint, way):
    if way == "the store takes nothing":
        remote = FileDatasetResource(endpoint_url=s3_endpoint)
        resources = {"io_manager": ManifestIOManager(resource=local)}
        result = run(chain(into_path="s3://no-such-bucket-here"), remote, tags=RANGE, resources=resources)
    elif way == "one day alone":
        result = run(chain(BROKEN), local, partition_key=BROKEN)
    else:
        result = run(chain(*KEYS), local, tags=RANGE)
    assert not result.success
    assert [event.step_key for event in result.filter_events(lambda event: event.is_step_failure)] == ["first"]


@pytest.mark.parametrize("goes_on", ["continue", "fail"])
def test_a_manifest_that_is_damaged_fails_its_partition_alone(run, local, chain, instance, goes_on):
    run(chain(), local, tags=RANGE)
    at = uri(local, "first", BROKEN)
    with open(at, "wb") as file:  # noqa: PTH123
        file.write(b"not parquet")
    result = run(chain(second=goes_on), local, tags=RANGE, selection=["second"])
    assert result.success is (goes_on == "continue")
    assert materialized(instance, result, "second") == [key for key in KEYS if key != BROKEN]
    each, of_all = checks_of_range(result, instance, "second")
    assert of_all.endswith(f"1 partitions failed: {BROKEN}")
    assert at in next(check.description for check in each if not check.passed)


def test_a_store_that_is_down_in_the_middle_stops_the_run_all_the_same(run, tmp_path, scans, instance):
    resource = FileDatasetResource(base_path=str(tmp_path / "base"), endpoint_url="http://127.0.0.1:9", max_attempts=1)

    @dg.asset(**PARTITIONED)
    def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
        days = {day: scans([f"{day}-{row}" for row in range(20)]) for day in context.partition_keys}
        return days | {BROKEN: days[BROKEN].assign(**{"scan.txt": "s3://bucket/scan.txt"})}

    first = pipeline_asset(scan_again, name="first", input=raw_scans, on_partition_failure="continue", **PARTITIONED)
    result = run([raw_scans, first], resource, tags=RANGE)
    assert not result.success
    assert materialized(instance, result, "first") == KEYS[:1]


@pytest.mark.parametrize(
    "limit", [{"max_failures": 0}, {"max_failures": np.int64(1)}, {"max_failed_fraction": 0.4}], ids=repr
)
def test_more_failed_rows_than_allowed_cost_the_partition_alone(run, local, chain, instance, limit):
    result = run(chain(BROKEN, **limit), local, tags=RANGE)
    assert result.success
    assert materialized(instance, result, "third") == [key for key in KEYS if key != BROKEN]


def test_too_few_rows_cost_the_partition_alone(run, local, scans, instance):
    @dg.asset(**PARTITIONED)
    def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
        return {day: scans(["a"]).head(int(day != BROKEN)) for day in context.partition_keys}

    first = pipeline_asset(
        scan_again, name="first", input=raw_scans, min_rows=1, on_partition_failure="continue", **PARTITIONED
    )
    result = run([raw_scans, first], local, tags=RANGE)
    assert result.success
    assert materialized(instance, result, "first") == [key for key in KEYS if key != BROKEN]
    (failed,) = [check for check in checks_of_range(result, instance, "first")[0] if not check.passed]
    assert (failed.metadata["partition"].value, failed.severity) == (BROKEN, dg.AssetCheckSeverity.ERROR)


@pytest.mark.parametrize("allowed", [True, False])
def test_another_asset_downstream_never_takes_the_old_manifest_for_new(run, local, chain, allowed):
    run(chain(), local, tags=RANGE)
    raw_scans, first, *_ = chain(BROKEN)
    seen = []
    metadata = {"allow_missing_partitions": True} if allowed else {}

    @dg.asset(ins={"first": dg.AssetIn(metadata=metadata)}, **PARTITIONED)
    def report(first: dict[str, pd.DataFrame]) -> None:
        seen.extend(first)

    result = run([raw_scans, first, report], local, tags=RANGE)
    assert result.success is allowed
    assert seen == ([key for key in KEYS if key != BROKEN] if allowed else [])


def test_of_two_days_with_one_lost_the_other_reads_its_own_rows(run, local, chain, stored, instance):
    run(chain(), local, tags=RANGE)
    two = range_tags(KEYS[:2])
    assert run(chain(KEYS[0]), local, tags=two).success
    frame = ManifestIOManager(resource=local).load(uri(local, "third", KEYS[1]))
    assert frame["id"].tolist() == [f"{KEYS[1]}-1", f"{KEYS[1]}-2"]


def test_a_later_run_of_downstream_alone_reads_what_is_stored(run, local, chain, instance):
    run(chain(), local, tags=RANGE)
    run(chain(BROKEN), local, tags=RANGE)
    result = run(chain(BROKEN), local, tags=RANGE, selection=["second"])
    assert materialized(instance, result, "second")[: len(KEYS)] == KEYS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"on_partition_failure": "stop"}, "give 'fail' or 'continue'"),
        ({"on_partition_failure": "continue", "on_exceeded": "block", "min_rows": 1}, "holds it back"),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_refused_at_definition(arguments, said):
    with pytest.raises(file_dataset.InvalidDatasetError, match=said):
        pipeline_asset(scan_again, input="raw_scans", **arguments)
