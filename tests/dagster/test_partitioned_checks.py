"""Checks by partition, where Dagster has them: a red day stays red, whatever runs after it."""

import errno
import warnings
from collections import Counter
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, copy_scan, range_tags

from file_dataset_dagster import ManifestIOManager, build_manifest_checks, pipeline_asset
from file_dataset_dagster._checks_by_partition import HAS_PARTITIONS

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-06")  # 5
KEYS = DAYS.get_partition_keys()
COLOURS = dg.StaticPartitionsDefinition(["red", "grün", "blue"])
needs_partitions = pytest.mark.skipif(not HAS_PARTITIONS, reason="Dagster has no checks by partition before 1.13")


@pytest.fixture
def instance():
    """One whose event log is a database, as a server's is."""
    with dg.DagsterInstance.local_temp() as lasting:
        yield lasting


@pytest.fixture
def assets(scans):
    """Two scans a partition -> copied; one scan is missing in partitions of `missing`, none is good in `bad`."""

    def chain(partitions_def=DAYS, *, missing=(), bad=(), **arguments):
        @dg.asset(partitions_def=partitions_def, backfill_policy=ONE_RUN)
        def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
            def rows(key):
                ids = [f"{key}-1", f"{key}-2"]
                return scans(ids, missing=ids[:1] if key in missing else [], broken=ids if key in bad else [])

            return {str(key): rows(key) for key in context.partition_keys}

        given = {"partitions_def": partitions_def, "backfill_policy": ONE_RUN, **arguments}
        copied = pipeline_asset(copy_scan, name="copied", input=raw_scans, **given)
        return [raw_scans, copied]

    return chain


def state_of(instance, partitions_def=DAYS, name="no_dropped_rows"):
    """Partitions of a check by what Dagster has of them."""
    key = dg.AssetCheckKey(dg.AssetKey("copied"), name)
    state = instance.event_log_storage.get_asset_check_state([(key, partitions_def)])[key]
    with_some = {status.value: found.subset_value for status, found in state.subsets.items() if found.size}
    return {status: sorted(subset.get_partition_keys()) for status, subset in with_some.items()}


@needs_partitions
def test_a_red_day_stays_red_after_the_next_green_one(run, local, assets, instance):
    assert run(assets(missing=KEYS[:1]), local, partition_key=KEYS[0]).success
    assert run(assets(), local, partition_key=KEYS[1]).success
    assert state_of(instance) == {"FAILED": [KEYS[0]], "SUCCEEDED": [KEYS[1]]}
    assert run(assets(), local, partition_key=KEYS[0]).success
    assert state_of(instance) == {"SUCCEEDED": KEYS[:2]}


@needs_partitions
def test_a_range_evaluates_each_day_and_leaves_the_others_as_they_were(run, local, assets, instance):
    run(assets(missing=KEYS[:1]), local, partition_key=KEYS[0])
    assert run(assets(missing=KEYS[3:4]), local, tags=range_tags(KEYS[1:5])).success
    assert state_of(instance) == {"FAILED": [KEYS[0], KEYS[3]], "SUCCEEDED": [KEYS[1], KEYS[2], KEYS[4]]}


@needs_partitions
@pytest.mark.parametrize("goes_on", ["fail", "continue"])
def test_a_day_whose_manifest_is_not_stored_is_red(run, local, assets, instance, goes_on):
    run(assets(), local, tags=range_tags(KEYS))
    run(assets(bad=KEYS[2:3], on_partition_failure=goes_on), local, tags=range_tags(KEYS))
    assert state_of(instance) == {"FAILED": [KEYS[2]], "SUCCEEDED": [key for key in KEYS if key != KEYS[2]]}


@needs_partitions
@pytest.mark.parametrize("policy", [{}, {"max_dropped_fraction": 0.5, "on_exceeded": "block"}], ids=["", "blocking"])
def test_a_day_alone_that_fails_before_its_rows_are_counted_is_red_and_says_why(
    run, local, resource, assets, instance, policy
):
    """It was green: without a result of its own the page shows that one, or only that the run failed."""
    assert run(assets(**policy), local, partition_key=KEYS[0]).success
    stopped = assets(into_path="s3://no-such-bucket-here", **policy)
    result = run(stopped, resource, partition_key=KEYS[0])
    assert not result.success
    assert state_of(instance) == {"FAILED": [KEYS[0]]}
    (check,) = result.get_asset_check_evaluations()
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert check.description.startswith(f"{KEYS[0]}: the pipeline stopped: ")
    assert "NoSuchBucket" in check.description
    assert "failures_uri" in check.metadata
    assert run(assets(**policy), local, partition_key=KEYS[0]).success
    assert state_of(instance) == {"SUCCEEDED": [KEYS[0]]}


def test_an_asset_without_partitions_that_fails_before_its_rows_are_counted_is_red(run, local, scans, instance):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return pd.concat([scans(["a"])] * 2)

    result = run([raw_scans, pipeline_asset(copy_scan, name="copied", input=raw_scans)], local)
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity, check.partition) == (False, dg.AssetCheckSeverity.ERROR, None)
    assert "duplicate ids" in check.description


@pytest.mark.parametrize("is_damaged", [False, True], ids=["missing", "damaged"])
@pytest.mark.parametrize("partitions_def", [None, DAYS], ids=["without partitions", "a day"])
def test_an_asset_whose_input_cannot_be_read_is_red(run, local, scans, instance, tmp_path, partitions_def, is_damaged):
    given = {} if partitions_def is None else {"partitions_def": partitions_def}
    key = None if partitions_def is None else KEYS[0]

    @dg.asset(**given)
    def raw_scans() -> pd.DataFrame:
        return scans(["a"])

    if is_damaged:
        run([raw_scans], local, partition_key=key)
        (manifest,) = (tmp_path / "base" / "manifests" / "raw_scans").glob("*.parquet")
        manifest.write_bytes(b"no Parquet")
    copied = pipeline_asset(copy_scan, name="copied", input=raw_scans, **given)
    result = run([raw_scans, copied], local, partition_key=key, selection=["copied"])
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert ("is no Parquet file" if is_damaged else "no manifest of asset raw_scans") in check.description


@pytest.mark.parametrize("partitions_def", [None, DAYS], ids=["without partitions", "a day"])
def test_a_step_that_is_retried_leaves_the_check_of_its_last_attempt(
    run, local, scans, instance, tmp_path, partitions_def
):
    """The run's first attempt stops before its rows are counted, the second is green: the check has one result."""
    given = {} if partitions_def is None else {"partitions_def": partitions_def}

    @dg.asset(**given)
    def raw_scans() -> pd.DataFrame:
        return scans(["a", "b"])

    def mends(input_dir, output_dir):
        if not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            raise OSError(errno.ENOSPC, "no space left")
        return copy_scan(input_dir, output_dir)

    copied = pipeline_asset(mends, name="copied", input=raw_scans, retry_policy=dg.RetryPolicy(max_retries=1), **given)
    key = None if partitions_def is None else KEYS[0]
    assert run([raw_scans, copied], local, partition_key=key).success
    assert (tmp_path / "seen").exists()
    check = dg.AssetCheckKey(dg.AssetKey("copied"), "no_dropped_rows")
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=9)
    assert [(record.status.value, record.partition) for record in history] == [("SUCCEEDED", key)]


@needs_partitions
def test_a_day_that_a_stopped_range_did_not_come_to_is_no_green_one(run, resource, assets, instance):
    assert not run(assets(into_path="s3://no-such-bucket-here"), resource, tags=range_tags(KEYS)).success
    found = state_of(instance)
    assert found["FAILED"] == KEYS[:1]
    assert found["EXECUTION_FAILED"] == KEYS[1:]


@needs_partitions
def test_other_kinds_of_partitions_have_checks_of_their_own(run, local, assets, instance):
    several = dg.MultiPartitionsDefinition({"colour": COLOURS, "day": DAYS})
    key = dg.MultiPartitionKey({"colour": "grün", "day": KEYS[0]})
    assert run(assets(several, missing=[key]), local, partition_key=key).success
    assert state_of(instance, several) == {"FAILED": [str(key)]}
    assert run(assets(several), local, partition_key=dg.MultiPartitionKey({"colour": "red", "day": KEYS[0]})).success
    assert state_of(instance, several)["FAILED"] == [str(key)]


@needs_partitions
def test_static_partitions_in_a_range(run, local, assets, instance):
    keys = COLOURS.get_partition_keys()
    assert run(assets(COLOURS, missing=["grün"]), local, tags=range_tags(keys)).success
    assert state_of(instance, COLOURS) == {"FAILED": ["grün"], "SUCCEEDED": ["blue", "red"]}


@needs_partitions
def test_dynamic_partitions_have_results_of_their_own(run, local, assets, instance):
    sites = dg.DynamicPartitionsDefinition(name="site")
    instance.add_dynamic_partitions("site", ["ulm", "köln"])
    run(assets(sites, missing=["ulm"]), local, partition_key="ulm")
    run(assets(sites), local, partition_key="köln")
    key = dg.AssetCheckKey(dg.AssetKey("copied"), "no_dropped_rows")
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
    assert {
        (record.partition, record.event.dagster_event.asset_check_evaluation_data.passed) for record in records
    } == {
        ("ulm", False),
        ("köln", True),
    }


@needs_partitions
def test_a_range_has_two_events_a_day_of_its_own(run, local, assets, instance):
    """Beside them Dagster announces each materialization; SQLite has one such event a day too."""
    result = run(assets(), local, tags=range_tags(KEYS))
    found = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    counts = Counter(event.event_type_value for event in found if event.step_key == "copied")
    assert counts["ASSET_MATERIALIZATION"] == counts["ASSET_CHECK_EVALUATION"] == len(KEYS)
    assert counts["ASSET_CHECK_EVALUATION_PLANNED"] == 1


def test_each_day_of_a_range_has_one_materialization(run, local, assets, instance):
    result = run(assets(), local, tags=range_tags(KEYS))
    partitions = [event.partition for event in result.asset_materializations_for_node("copied")]
    assert partitions == KEYS


@needs_partitions
def test_a_blocking_check_of_one_day_holds_the_range_back(run, local, assets, instance):
    policy = {"max_dropped_fraction": 0.1, "on_exceeded": "block"}
    assert not run(assets(missing=KEYS[:1], **policy), local, tags=range_tags(KEYS)).success
    assert state_of(instance) == {"FAILED": KEYS[:1], "SUCCEEDED": KEYS[1:]}


@needs_partitions
@pytest.mark.parametrize("bad", [[], KEYS[:1]], ids=["all days are good", "one fails"])
def test_another_io_manager_has_results_by_partition_too(run, local, assets, instance, bad):
    resources = {"memory": dg.InMemoryIOManager()}
    run(assets()[:1], local, tags=range_tags(KEYS))
    result = run(
        assets(bad=bad, missing=KEYS[1:2], io_manager_key="memory", on_partition_failure="continue"),
        local,
        tags=range_tags(KEYS),
        resources=resources,
    )
    assert result.success
    assert state_of(instance)["FAILED"] == sorted([*bad, KEYS[1]])


@needs_partitions
@pytest.mark.parametrize("way", ["in a range", "day by day", "alone, of all days"])
def test_files_are_looked_at_by_partition(run, local, assets, instance, tmp_path, way):
    run(assets(), local, tags=range_tags(KEYS[:3]))
    Path(tmp_path, "base", "files", "copied", KEYS[1], f"{KEYS[1]}-1", "copy.txt").unlink()
    raw_scans, copied = assets()
    checks = build_manifest_checks(copied, content_unchanged=True)
    if way == "alone, of all days":
        run([raw_scans, copied, *checks], local, selection=dg.AssetSelection.checks(*checks))
    for key in KEYS[:3] if way == "day by day" else []:
        run(
            [raw_scans, copied, *checks],
            local,
            selection=dg.AssetSelection.checks(*checks),
            tags={"dagster/partition": key},
        )
    if way == "in a range":
        given = {"selection": dg.AssetSelection.checks(*checks), "tags": range_tags(KEYS[:3])}
        assert run([raw_scans, copied, *checks], local, **given).success
    for name in ("files_exist", "content_unchanged"):
        assert state_of(instance, name=name) == {"FAILED": [KEYS[1]], "SUCCEEDED": [KEYS[0], KEYS[2]]}


@needs_partitions
def test_a_day_without_a_list_of_files_is_an_error_of_its_own(run, local, assets, instance):
    run(assets(), local, tags=range_tags(KEYS[:2]))
    raw_scans, copied = assets()
    checks = build_manifest_checks(copied.key, partitions_def=DAYS)
    given = {"selection": dg.AssetSelection.checks(*checks), "tags": range_tags(KEYS[:3])}
    result = run([raw_scans, copied, *checks], local, **given)
    assert state_of(instance, name="files_exist") == {"FAILED": [KEYS[2]], "SUCCEEDED": KEYS[:2]}
    *_, last = result.get_asset_check_evaluations()
    assert f"partition={KEYS[2]}" in last.description


@needs_partitions
def test_they_run_with_the_range_that_stores_the_files(run, local, assets, instance):
    raw_scans, copied = assets(bad=KEYS[:1], on_partition_failure="continue")
    assert run([raw_scans, copied, *build_manifest_checks(copied)], local, tags=range_tags(KEYS)).success
    assert state_of(instance, name="files_exist") == {"FAILED": KEYS[:1], "SUCCEEDED": KEYS[1:]}


def test_dagster_s_warning_of_a_preview_is_not_shown(assets, local):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _, copied = assets()
        checks = build_manifest_checks(copied)
        resources = {"file_dataset": local, "io_manager": ManifestIOManager(resource=local)}
        defs = dg.Definitions(assets=[*assets(), *checks], resources=resources)
        defs.get_repository_def()
        with_prefix = copied.with_attributes(asset_key_replacements={copied.key: dg.AssetKey(["a", "copied"])})
    assert with_prefix.key == dg.AssetKey(["a", "copied"])
    assert [str(one.message) for one in seen if "AssetCheckSpec" in str(one.message)] == []


def test_an_asset_without_partitions_has_one_result(run, local, scans, instance):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["a"])

    copied = pipeline_asset(copy_scan, name="copied", input=raw_scans)
    for _ in range(2):
        result = run([raw_scans, copied, *build_manifest_checks(copied)], local)
        assert [check.passed for check in result.get_asset_check_evaluations()] == [True, True]


def test_the_manifest_is_what_the_range_returns(run, local, assets, instance):
    result = run(assets(), local, tags=range_tags(KEYS[:2]))
    assert list(result.asset_value("copied")) == KEYS[:2]
    manifests = ManifestIOManager(resource=local)
    at = manifests.uri(dg.AssetKey("copied"), KEYS[0])
    assert manifests.load(at)["id"].tolist() == [f"{KEYS[0]}-1", f"{KEYS[0]}-2"]
