"""Partitions: each has a run, a manifest, metadata and a check of its own, in single runs and in runs over a range."""

from typing import Any, Optional

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, causes_of, checks_of_range, copy_scan, failure_of, range_tags

from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset
from file_dataset_dagster._inputs import in_order

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-08")
KEYS = DAYS.get_partition_keys()
COPIED = dg.AssetKey("copied")


@pytest.fixture
def daily(scans):
    """A partitioned asset of two scans a day; what `frames` says of a day goes instead."""

    def asset(partitions_def=DAYS, **frames):
        @dg.asset(partitions_def=partitions_def, backfill_policy=ONE_RUN)
        def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
            return {
                key: frames[key] if key in frames else scans([f"{key}-1", f"{key}-2"]) for key in context.partition_keys
            }

        return raw_scans

    return asset


def pipeline(raw_scans, partitions_def=DAYS, name="copied", **arguments):
    partitions = {"partitions_def": partitions_def, "backfill_policy": ONE_RUN}
    return pipeline_asset(copy_scan, name=name, input=raw_scans, **partitions, **arguments)


def ids_of(resource, partition, asset="copied", of="manifest"):
    manifests = ManifestIOManager(resource=resource)
    return manifests.load(manifests.uri(dg.AssetKey(asset), partition, of=of))["id"].tolist()


def latest(instance, partition, key=COPIED):
    selected = dg.AssetRecordsFilter(key, asset_partitions=[partition])
    return instance.fetch_materializations(selected, limit=1).records[0].asset_materialization


def test_a_range_run_stores_a_manifest_for_each_partition(run, local, daily, instance):
    raw_scans = daily()
    assert run([raw_scans, pipeline(raw_scans)], local, tags=range_tags(KEYS)).success
    assert [ids_of(local, key) for key in KEYS] == [[f"{key}-1", f"{key}-2"] for key in KEYS]
    assert instance.get_materialized_partitions(COPIED) == set(KEYS)


def test_outputs_of_a_range_lie_below_their_partition(run, resource, daily, keys):
    raw_scans = daily()
    assert run([raw_scans, pipeline(raw_scans)], resource, tags=range_tags(KEYS[:2])).success
    assert [key for key in keys() if "/files/" in key] == [
        f"base/files/copied/{day}/{day}-{number}/copy.txt" for day in KEYS[:2] for number in (1, 2)
    ]


def test_a_range_run_tells_each_partition_its_own_metadata(run, local, daily, scans, instance):
    raw_scans = daily(**{KEYS[1]: scans(["x", "y", "z"], missing=["y"])})
    run([raw_scans, pipeline(raw_scans)], local, tags=range_tags(KEYS))
    told = {key: latest(instance, key).metadata for key in KEYS[:2]}
    assert [told[key]["dagster/partition_row_count"].value for key in KEYS[:2]] == [2, 2]
    assert [told[key]["input_rows"].value for key in KEYS[:2]] == [2, 3]
    assert [told[key]["into_path"].value.rsplit("/", 1)[1] for key in KEYS[:2]] == KEYS[:2]
    assert told[KEYS[1]]["dagster/uri"].value.endswith(f"partition={KEYS[1]}.parquet")


def test_a_range_run_tells_a_check_for_each_partition_and_one_for_all(run, local, daily, scans, instance):
    raw_scans = daily(**{KEYS[1]: scans(["x", "y", "z"], missing=["y"])})
    result = run([raw_scans, pipeline(raw_scans)], local, tags=range_tags(KEYS))
    each, of_all = checks_of_range(result, instance)
    assert [check.metadata["partition"].value for check in each] == KEYS
    assert [check.passed for check in each] == [key != KEYS[1] for key in KEYS]
    assert each[1].description == f"{KEYS[1]}: 1 of 3 rows dropped (33.3%): 1 at download"
    assert (each[1].passed, each[1].severity.value) == (False, "WARN")
    assert of_all == "1 of 15 rows dropped, in 1 of 7 partitions"


def test_partitions_of_a_range_have_data_versions_of_their_own(run, local, daily, instance):
    raw_scans = daily()
    assets = [raw_scans, pipeline(raw_scans)]
    run(assets, local, tags=range_tags(KEYS))
    versions = {key: latest(instance, key).tags["dagster/data_version"] for key in KEYS}
    assert len(set(versions.values())) == len(KEYS)
    run(assets, local, partition_key=KEYS[2])
    assert latest(instance, KEYS[2]).tags["dagster/data_version"] == versions[KEYS[2]]


def test_a_bad_partition_keeps_its_manifest_and_undoes_no_other(run, local, daily, scans, instance):
    good = daily()
    run([good, pipeline(good)], local, partition_key=KEYS[3])
    broken = daily(**{KEYS[3]: scans(["b1", "b2"], broken=["b1", "b2"])})
    result = run([broken, pipeline(broken)], local, tags=range_tags(KEYS))
    assert not result.success
    assert [ids_of(local, key) for key in KEYS] == [[f"{key}-1", f"{key}-2"] for key in KEYS]
    assert ids_of(local, KEYS[3], of="rejected") == ["b1", "b2"]
    failure = failure_of(result)
    assert failure.description.startswith(
        f"1 of 7 partitions failed: {KEYS[3]}. The manifests of 6 are stored. {KEYS[3]}: 2 of 2 rows dropped"
    )
    assert failure.metadata["failed_partitions"].value == [KEYS[3]]
    in_this_run = [
        event.step_materialization_data.materialization.partition
        for event in result.filter_events(lambda event: event.is_step_materialization)
        if event.asset_key == COPIED
    ]
    assert in_this_run == [key for key in KEYS if key != KEYS[3]]


def test_a_partition_of_a_range_that_failed_can_be_told_stale_later(run, local, daily, scans, instance):
    """Dagster compares with what each partition was made from; events of our own must say it too."""
    broken = daily(**{KEYS[3]: scans(["b1"], broken=["b1"])})
    run([broken, pipeline(broken, code_version="7")], local, tags=range_tags(KEYS))
    tags = latest(instance, KEYS[0]).tags
    (record,) = instance.fetch_materializations(broken.key, limit=1).records
    assert tags["dagster/code_version"] == "7"
    assert tags["dagster/input_event_pointer/raw_scans"] == str(record.storage_id)
    assert tags["dagster/input_data_version/raw_scans"] == record.asset_materialization.tags["dagster/data_version"]


def test_downstream_of_a_range_runs_in_the_same_run(run, local, daily):
    raw_scans, seen = daily(), []

    @dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
    def report(copied: dict[str, pd.DataFrame]) -> None:
        seen.append(list(copied))

    assert run([raw_scans, pipeline(raw_scans), report], local, tags=range_tags(KEYS)).success
    assert seen == [KEYS]


def test_an_empty_partition_is_normal(run, local, daily, scans, instance):
    raw_scans = daily(**{KEYS[2]: scans(["x"]).head(0)})
    assert run([raw_scans, pipeline(raw_scans, max_dropped_fraction=0)], local, tags=range_tags(KEYS)).success
    assert ids_of(local, KEYS[2]) == []
    assert latest(instance, KEYS[2]).metadata["dagster/partition_row_count"].value == 0


def test_a_partition_whose_input_is_missing_fails_alone(run, local, daily, instance):
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(KEYS[:-1]))
    result = run([raw_scans, pipeline(raw_scans)], local, tags=range_tags(KEYS), selection=["copied"])
    assert f"no manifest of asset raw_scans, partition '{KEYS[-1]}'" in failure_of(result).description
    assert [ids_of(local, key) for key in KEYS[:-1]] == [[f"{key}-1", f"{key}-2"] for key in KEYS[:-1]]
    each, of_all = checks_of_range(result, instance)
    assert (each[-1].passed, each[-1].severity.value) == (False, "ERROR")
    assert of_all.endswith(f"; 1 partitions failed: {KEYS[-1]}")


def test_what_every_partition_would_meet_ends_a_range(run, local, daily, s3_endpoint):
    raw_scans = daily()
    nowhere = pipeline(raw_scans, into_path="s3://no-such-bucket-here")
    remote = FileDatasetResource(endpoint_url=s3_endpoint)
    result = run(
        [raw_scans, nowhere], remote, tags=range_tags(KEYS), resources={"io_manager": ManifestIOManager(resource=local)}
    )
    assert failure_of(result).description.startswith(f"1 of 7 partitions failed: {KEYS[0]}. The manifests of 0")
    assert "6 were not run because they would meet the same" in failure_of(result).description


@pytest.mark.parametrize(("kind", "retried"), [("broken", False), ("missing", True)])
def test_a_range_is_retried_unless_fn_itself_failed(run, local, daily, scans, kind, retried):
    raw_scans = daily(**{KEYS[3]: scans(["b1"], **{kind: ["b1"]})})
    result = run(
        [raw_scans, pipeline(raw_scans, retry_policy=dg.RetryPolicy(max_retries=1))], local, tags=range_tags(KEYS)
    )
    assert bool(result.filter_events(lambda event: event.is_step_up_for_retry)) is retried


def test_block_in_a_range_stores_every_manifest_and_holds_downstream_back(run, local, daily, scans):
    raw_scans, seen = daily(**{KEYS[1]: scans(["x", "y", "z"], missing=["y"])}), []

    @dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
    def report(copied: dict[str, pd.DataFrame]) -> None:
        seen.append(copied)

    policy = {"max_dropped_fraction": 0.1, "on_exceeded": "block"}
    result = run([raw_scans, pipeline(raw_scans, **policy), report], local, tags=range_tags(KEYS))
    assert (result.success, seen) == (False, [])
    assert ids_of(local, KEYS[1]) == ["x", "z"]


def test_another_io_manager_gets_a_range_as_a_dict(run, local, daily):
    raw_scans, memory = daily(), dg.InMemoryIOManager()
    manifests = ManifestIOManager(resource=local)
    run([raw_scans], local, tags=range_tags(KEYS))
    result = run(
        [raw_scans, pipeline(raw_scans, io_manager_key="memory")],
        local,
        tags=range_tags(KEYS),
        selection=["copied"],
        resources={"memory": memory, "io_manager": manifests},
    )
    assert result.success
    assert list(result.output_for_node("copied")) == KEYS


# --- what is read ---


def test_one_for_one_reads_its_own_partition(run, local, daily):
    raw_scans, seen = daily(), []

    @dg.asset(partitions_def=DAYS)
    def report(raw_scans: pd.DataFrame) -> None:
        seen.append(raw_scans)

    run([raw_scans, report], local, partition_key=KEYS[1])
    assert seen[0].columns.tolist() == ["id", "scan.txt"]
    assert seen[0]["id"].tolist() == [f"{KEYS[1]}-1", f"{KEYS[1]}-2"]


def read_by(run, local, assets, annotation, **arguments):
    """What an asset without partitions, annotated so, is given of the asset `raw_scans`."""
    seen = []

    def report(raw_scans):
        seen.append(raw_scans)

    report.__annotations__ = {"raw_scans": annotation, "return": None}
    result = run([*assets, dg.asset(**arguments)(report)], local, selection=["report"])
    return seen[0] if result.success else causes_of(result)


@pytest.mark.parametrize("days", [KEYS, KEYS[:1]], ids=["many", "one"])
def test_a_frame_of_many_partitions_tells_the_partition_of_each_row(run, local, daily, days):
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(days))
    allowed = {"raw_scans": dg.AssetIn(metadata={"allow_missing_partitions": True})}
    frame = read_by(run, local, [raw_scans], pd.DataFrame, ins=allowed)
    assert frame.columns.tolist() == ["id", "scan.txt", "partition"]
    assert frame["partition"].tolist() == [key for key in days for _ in range(2)]


@pytest.mark.parametrize("days", [KEYS, KEYS[:1]], ids=["many", "one"])
def test_a_dict_is_always_a_dict(run, local, daily, days):
    """UPathIOManager gives the bare value for one partition (dagster#28942)."""
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(days))
    allowed = {"raw_scans": dg.AssetIn(metadata={"allow_missing_partitions": True})}
    frames = read_by(run, local, [raw_scans], dict[str, pd.DataFrame], ins=allowed)
    assert list(frames) == days
    assert frames[days[0]]["id"].tolist() == [f"{days[0]}-1", f"{days[0]}-2"]


def test_without_an_annotation_many_are_a_dict(run, local, daily):
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(KEYS))
    assert list(read_by(run, local, [raw_scans], object)) == KEYS


def test_a_missing_partition_is_named_with_both_remedies(run, local, daily):
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(KEYS[:-2]))
    told = read_by(run, local, [raw_scans], pd.DataFrame)
    assert f"no manifest of asset raw_scans, partition '{KEYS[-2]}', at " in told
    assert "(and of 1 more partitions): materialize it first" in told
    assert '"allow_missing_partitions": True' in told


def test_no_partition_at_all_is_an_empty_frame_when_that_is_allowed(run, local, daily):
    allowed = {"raw_scans": dg.AssetIn(metadata={"allow_missing_partitions": True})}
    frame = read_by(run, local, [daily()], pd.DataFrame, ins=allowed)
    assert (len(frame), frame.columns.tolist()) == (0, ["id", "partition"])


def test_some_columns_can_be_read(run, local, daily, scans):
    labelled = scans(["a", "b"]).assign(label=pd.Series(["x", "y"], dtype="category"), size=[1, 2])
    raw_scans = daily(**dict.fromkeys(KEYS[:1], labelled))
    run([raw_scans], local, partition_key=KEYS[0])
    chosen = {"raw_scans": dg.AssetIn(metadata={"columns": ["label", "id"], "allow_missing_partitions": True})}
    frames = read_by(run, local, [raw_scans], dict[str, pd.DataFrame], ins=chosen)
    pd.testing.assert_frame_equal(frames[KEYS[0]], labelled[["label", "id"]])


def test_a_column_that_is_not_there_is_named(run, local, daily):
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(KEYS))
    chosen = {"raw_scans": dg.AssetIn(metadata={"columns": ["id", "lable"]})}
    told = read_by(run, local, [raw_scans], pd.DataFrame, ins=chosen)
    assert f"partition={KEYS[0]}.parquet has no columns ['lable']: it has ['id', 'scan.txt']" in told


def test_columns_that_drifted_are_null_where_they_lack(run, local, daily, scans):
    raw_scans = daily(**{KEYS[1]: scans(["n1"]).assign(size=7, flag=True, label="x")})
    run([raw_scans], local, tags=range_tags(KEYS))
    frame = read_by(run, local, [raw_scans], pd.DataFrame)
    assert frame.columns.tolist() == ["id", "scan.txt", "size", "flag", "label", "partition"]
    assert frame["size"].dropna().tolist() == [7]
    assert frame[["size", "flag"]].dtypes.astype(str).tolist() == ["Int64", "boolean"]
    assert frame["label"].isna().sum() == len(frame) - 1


def test_ids_repeated_across_partitions_are_refused_with_the_remedy(run, local, daily, scans):
    raw_scans = daily(**{KEYS[1]: scans([f"{KEYS[0]}-1"])})
    run([raw_scans], local, tags=range_tags(KEYS))
    told = read_by(run, local, [raw_scans], pd.DataFrame)
    assert f"ids ['{KEYS[0]}-1'] (1 in all) are in several partitions of asset raw_scans" in told
    assert "annotate the input as dict[str, pd.DataFrame]" in told
    assert isinstance(read_by(run, local, [raw_scans], dict[str, pd.DataFrame]), dict)


@pytest.mark.parametrize("show_ids", [True, False])
def test_repeated_ids_are_named_only_where_ids_may_be(run, local, daily, scans, instance, show_ids):
    raw_scans = daily(**{KEYS[0]: scans(["patient-x"]), KEYS[1]: scans(["patient-x"])})
    run([raw_scans], local, tags=range_tags(KEYS))
    result = run(
        [raw_scans, pipeline_asset(copy_scan, input=raw_scans, name="copied", show_ids=show_ids)],
        local,
        selection=["copied"],
    )
    told = "\n".join(entry.to_json() for entry in instance.all_logs(result.run_id))
    assert ("patient-x" in told) is show_ids
    assert "InvalidDatasetError" in told


def test_a_column_partition_of_its_own_is_not_replaced(run, local, daily, scans):
    raw_scans = daily(**{KEYS[1]: scans(["x"]).assign(partition="mine")})
    run([raw_scans], local, tags=range_tags(KEYS))
    assert "has a column 'partition' of its own" in read_by(run, local, [raw_scans], pd.DataFrame)


FORTNIGHT = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-15")
WEEKS = dg.WeeklyPartitionsDefinition("2024-01-01", day_offset=1, end_date="2024-01-15")


@pytest.mark.parametrize("way", ["single", "range"])
def test_a_pipeline_of_weeks_reads_the_days_of_each(run, local, daily, way):
    raw_scans, (week, next_week) = daily(FORTNIGHT), WEEKS.get_partition_keys()
    run([raw_scans], local, tags=range_tags(["2024-01-01", "2024-01-14"]))
    how = {"partition_key": week} if way == "single" else {"tags": range_tags([week, next_week])}
    assert run([raw_scans, pipeline(raw_scans, WEEKS)], local, selection=["copied"], **how).success
    manifests = ManifestIOManager(resource=local)
    frame = manifests.load(manifests.uri(COPIED, week))
    assert frame.columns.tolist() == ["copy.txt", "id", "partition"]
    assert frame["partition"].unique().tolist() == KEYS


def test_a_pipeline_without_partitions_reads_all(run, local, daily):
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(KEYS))
    assert run(
        [raw_scans, pipeline_asset(copy_scan, input=raw_scans, name="copied")], local, selection=["copied"]
    ).success
    assert len(ids_of(local, None)) == 2 * len(KEYS)


@pytest.mark.parametrize("way", ["single", "range"])
def test_an_input_without_partitions_is_that_of_each(run, local, scans, way):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["x"])

    how = {"partition_key": KEYS[0]} if way == "single" else {"tags": range_tags(KEYS[:2])}
    run([raw_scans], local)
    assert run([raw_scans, pipeline(raw_scans)], local, selection=["copied"], **how).success
    assert ids_of(local, KEYS[0]) == ["x"]


def test_the_input_can_say_how_partitions_map(run, local, daily):
    raw_scans = daily()
    run([raw_scans], local, partition_key=KEYS[0])
    shifted = dg.AssetIn(
        key=raw_scans.key, partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
    )
    assert run([raw_scans, pipeline(shifted)], local, selection=["copied"], partition_key=KEYS[1]).success
    assert ids_of(local, KEYS[1]) == [f"{KEYS[0]}-1", f"{KEYS[0]}-2"]


PREVIOUS = dg.AssetIn(partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1))


def cumulative(annotation, seen):
    """An asset that depends on its own previous day."""

    def cum(context, cum):
        seen.append(cum)
        return pd.DataFrame({"id": [context.partition_key]})

    cum.__annotations__ = {"context": dg.AssetExecutionContext, "cum": annotation, "return": pd.DataFrame}
    return dg.asset(partitions_def=DAYS, ins={"cum": PREVIOUS})(cum)


@pytest.mark.parametrize(
    "annotation",
    [Optional[pd.DataFrame], pd.DataFrame | None, Any, Optional[dict[str, pd.DataFrame]]],  # noqa: UP045 (as typed)
    ids=["Optional", "or None", "Any", "Optional dict"],
)
def test_the_first_partition_has_no_previous_one(run, local, annotation):
    seen = []
    assert run([cumulative(annotation, seen)], local, partition_key=KEYS[0]).success
    assert seen == [None]


def test_the_second_partition_has_the_first_as_it_was_stored(run, local):
    seen = []
    asset = cumulative(Optional[pd.DataFrame], seen)  # noqa: UP045 (as typed)
    assert all(run([asset], local, partition_key=key).success for key in KEYS[:2])
    pd.testing.assert_frame_equal(seen[1], pd.DataFrame({"id": [KEYS[0]]}))


def test_a_frame_of_no_partition_is_empty_and_a_dict_has_no_keys(run, local):
    frames, dicts = [], []
    assert run([cumulative(pd.DataFrame, frames)], local, partition_key=KEYS[0]).success
    assert run([cumulative(dict[str, pd.DataFrame], dicts)], local, partition_key=KEYS[0]).success
    assert (len(frames[0]), frames[0].columns.tolist()) == (0, ["id", "partition"])
    assert dicts == [{}]


def test_an_optional_frame_of_many_partitions_is_joined(run, local, daily):
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(KEYS))
    frame = read_by(run, local, [raw_scans], pd.DataFrame | None)
    assert frame["partition"].unique().tolist() == KEYS


def test_a_pipeline_of_no_partition_runs_on_no_rows(run, local, daily):
    raw_scans = daily()
    shifted = dg.AssetIn(key=raw_scans.key, partition_mapping=PREVIOUS.partition_mapping)
    assert run([raw_scans, pipeline(shifted)], local, selection=["copied"], partition_key=KEYS[0]).success
    assert ids_of(local, KEYS[0]) == []


LETTERS = ["f", "b", "a", "d", "c", "e"]  # not sorted: the order is the definition's
SOME = ["c", "b", "a", "f"]
IN_ORDER = ["f", "b", "a", "c"]


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("annotation", [pd.DataFrame, dict[str, pd.DataFrame]], ids=["frame", "dict"])
def test_partitions_come_in_the_order_of_their_definition(run, local, daily, instance, kind, annotation):
    """SpecificPartitionsPartitionMapping has them in the order of a set of str, which no two processes share."""
    definition = dg.StaticPartitionsDefinition(LETTERS)
    if kind == "dynamic":
        definition = dg.DynamicPartitionsDefinition(name="letters")
        instance.add_dynamic_partitions("letters", LETTERS)
    raw_scans = daily(definition)
    run([raw_scans], local, tags=range_tags(["f", "e"]))
    mapped = {"raw_scans": dg.AssetIn(partition_mapping=dg.SpecificPartitionsPartitionMapping(SOME))}
    found = read_by(run, local, [raw_scans], annotation, ins=mapped)
    assert (list(found) if isinstance(found, dict) else found["partition"].unique().tolist()) == IN_ORDER


def test_a_pipeline_reads_partitions_in_the_order_of_their_definition(run, local, daily):
    raw_scans = daily(dg.StaticPartitionsDefinition(LETTERS))
    run([raw_scans], local, tags=range_tags(["f", "e"]))
    mapped = dg.AssetIn(key=raw_scans.key, partition_mapping=dg.SpecificPartitionsPartitionMapping(SOME))
    for arguments, key in (({}, None), ({"partitions_def": DAYS}, KEYS[0])):
        asset = pipeline_asset(copy_scan, input=mapped, name="copied", **arguments)
        assert run([raw_scans, asset], local, selection=["copied"], partition_key=key).success
        assert ids_of(local, key) == [f"{letter}-{number}" for letter in IN_ORDER for number in (1, 2)]


def test_partitions_of_two_dimensions_come_by_each_in_turn():
    days = dg.DailyPartitionsDefinition("30.01.2024", end_date="04.02.2024", fmt="%d.%m.%Y")
    both = dg.MultiPartitionsDefinition({"site": dg.StaticPartitionsDefinition(["z", "a"]), "day": days})
    keys = [str(key) for key in both.get_partition_keys()]
    assert in_order(set(keys), both, None) == keys
    assert in_order(set(both.get_partition_keys()), both, None) == keys
    assert keys[:3] == ["30.01.2024|z", "30.01.2024|a", "31.01.2024|z"]


def test_a_partition_that_left_its_definition_comes_last():
    assert in_order(["gone", "x", "y"], dg.StaticPartitionsDefinition(["y", "x"]), None) == ["y", "x", "gone"]


# --- kinds of partitions ---

ODD = ["a/b", "..", "a|b", "%2F", "/", "é", "e\u0301", "日本", "a=b", "%", "a.failures", " ", "A", "a"]
SITES = dg.MultiPartitionsDefinition({"site": dg.StaticPartitionsDefinition(["a", "b"]), "day": DAYS})


def kind_of_partitions(kind, instance):
    if kind == "dynamic":
        instance.add_dynamic_partitions("cases", ["c1", "c2"])
        return dg.DynamicPartitionsDefinition(name="cases"), ["c1", "c2"]
    if kind == "multi":
        keys = [dg.MultiPartitionKey({"site": site, "day": KEYS[0]}) for site in ("a", "b")]
        return SITES, keys
    return (dg.StaticPartitionsDefinition(["x", "y"]), ["x", "y"]) if kind == "static" else (DAYS, KEYS[:2])


@pytest.mark.parametrize("kind", ["time", "static", "dynamic", "multi"])
def test_each_kind_of_partition_runs_alone(run, local, daily, instance, kind):
    partitions_def, keys = kind_of_partitions(kind, instance)
    raw_scans = daily(partitions_def)
    for key in keys:
        assert run([raw_scans, pipeline(raw_scans, partitions_def)], local, partition_key=key).success
        assert ids_of(local, str(key)) == [f"{key}-1", f"{key}-2"]
        assert latest(instance, key).partition == key


@pytest.mark.parametrize("kind", ["time", "static", "dynamic"])
def test_each_kind_of_partition_runs_in_a_range(run, local, daily, instance, kind):
    partitions_def, keys = kind_of_partitions(kind, instance)
    raw_scans = daily(partitions_def)
    assert run([raw_scans, pipeline(raw_scans, partitions_def)], local, tags=range_tags(keys)).success
    assert [ids_of(local, key) for key in keys] == [[f"{key}-1", f"{key}-2"] for key in keys]


def test_multi_partitions_run_in_a_range_of_one_dimension(run, local, daily, instance):
    raw_scans = daily(SITES)
    keys = [dg.MultiPartitionKey({"site": "a", "day": day}) for day in KEYS[:2]]
    assert run([raw_scans, pipeline(raw_scans, SITES)], local, tags=range_tags(keys)).success
    assert [ids_of(local, str(key)) for key in keys] == [[f"{key}-1", f"{key}-2"] for key in keys]
    assert latest(instance, keys[1]).partition.keys_by_dimension == {"day": KEYS[1], "site": "a"}


@pytest.mark.parametrize("text", ODD[:4], ids=ascii)
def test_an_odd_partition_key_runs(run, local, scans, text):
    partitions_def = dg.StaticPartitionsDefinition([text])

    @dg.asset(partitions_def=partitions_def)
    def raw_scans() -> pd.DataFrame:
        return scans(["s1"])

    loud = pipeline_asset(copy_scan, input=raw_scans, name="copied", partitions_def=partitions_def)
    assert run([raw_scans, loud], local, partition_key=text).success
    assert ids_of(local, text) == ["s1"]


@pytest.mark.parametrize("text", ["数" * 27, "数" * 255, "😀" * 255], ids=["27", "255", "emoji"])
def test_a_pipeline_runs_on_a_long_partition_key_in_s3(run, resource, scans, text):
    partitions_def = dg.StaticPartitionsDefinition([text])

    @dg.asset(partitions_def=partitions_def)
    def raw_scans() -> pd.DataFrame:
        return scans(["s1"])

    long = pipeline_asset(copy_scan, input=raw_scans, name="copied", partitions_def=partitions_def)
    assert run([raw_scans, long], resource, partition_key=text).success
    assert ids_of(resource, text) == ["s1"]


@pytest.mark.parametrize("io_manager_key", ["io_manager", "memory"])
def test_a_pipeline_refuses_a_key_too_long_for_a_disk_before_its_first_row(run, local, scans, tmp_path, io_manager_key):
    text, ran = "数" * 255, []
    partitions_def = dg.StaticPartitionsDefinition([text])

    @dg.asset(partitions_def=partitions_def, io_manager_key="memory")
    def raw_scans() -> pd.DataFrame:
        return scans(["s1"])

    def fn(input_dir, output_dir):
        ran.append(1)
        return {}

    long = pipeline_asset(
        fn, input=raw_scans, partitions_def=partitions_def, name="long", io_manager_key=io_manager_key
    )
    result = run([raw_scans, long], local, partition_key=text, resources={"memory": dg.InMemoryIOManager()})
    assert f"partition '{text}'" in failure_of(result).description
    assert "too long: its file name has" in failure_of(result).description
    assert ran == []
    assert not (tmp_path / "base").exists()


def test_odd_partition_keys_share_no_file(run, local, scans, tmp_path):
    partitions_def = dg.StaticPartitionsDefinition(ODD)

    @dg.asset(partitions_def=partitions_def, backfill_policy=ONE_RUN)
    def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
        return {key: scans([f"s{number}"]) for number, key in enumerate(context.partition_keys)}

    loud = pipeline_asset(
        copy_scan, input=raw_scans, name="copied", partitions_def=partitions_def, backfill_policy=ONE_RUN
    )
    assert run([raw_scans, loud], local, tags=range_tags(ODD)).success
    assert [ids_of(local, key) for key in ODD] == [[f"s{number}"] for number in range(len(ODD))]
    base = tmp_path / "base"
    assert len(list((base / "files" / "copied").glob("*/s*/copy.txt"))) == len(ODD)
    assert {path.name for path in base.iterdir()} == {"files", "manifests"}


# --- what is written ---


def plain(value, **arguments):
    @dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN, **arguments)
    def table():
        return value

    return table


def test_a_dict_of_frames_is_stored_partition_by_partition(run, local, instance):
    frames = {key: pd.DataFrame({"id": range(number)}) for number, key in enumerate(KEYS)}
    assert run([plain(frames)], local, tags=range_tags(KEYS)).success
    assert [len(ids_of(local, key, "table")) for key in KEYS] == list(range(len(KEYS)))
    counts = [latest(instance, key, dg.AssetKey("table")).metadata["dagster/partition_row_count"].value for key in KEYS]
    assert counts == list(range(len(KEYS)))


def test_a_frame_with_a_column_partition_is_stored_partition_by_partition(run, local):
    frame = pd.DataFrame({"id": [1, 2, 3], "partition": [KEYS[0], KEYS[2], KEYS[0]]})
    assert run([plain(frame)], local, tags=range_tags(KEYS)).success
    assert [ids_of(local, key, "table") for key in KEYS[:3]] == [[1, 3], [], [2]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (pd.DataFrame({"id": [1]}), "returned one frame for 7 partitions: return a dict"),
        (
            pd.DataFrame({"id": [1], "partition": ["2030-01-01"]}),
            "partitions ['2030-01-01'], which this run is not for",
        ),
        ({KEYS[0]: pd.DataFrame({"id": [1]})}, f"fewer partitions than its run, without ['{KEYS[1]}'"),
        (dict.fromkeys(KEYS, 7), "returned a int"),
        ({**dict.fromkeys(KEYS, pd.DataFrame({"id": [1]})), KEYS[6]: pd.DataFrame({"x": [1, "a"]})}, "columns ['x']"),
    ],
    ids=["no column", "another partition", "lacking", "no frame", "not storable"],
)
def test_a_range_that_cannot_be_stored_whole_is_refused_before_the_first(run, local, tmp_path, value, said):
    assert said in causes_of(run([plain(value)], local, tags=range_tags(KEYS)))
    assert not (tmp_path / "base").exists()


def test_a_dict_for_one_partition_is_unwrapped(run, local):
    assert run([plain({KEYS[0]: pd.DataFrame({"id": [1]})})], local, partition_key=KEYS[0]).success
    assert ids_of(local, KEYS[0], "table") == [1]


def test_nothing_is_half_read(run, local, daily, tmp_path):
    """A file that is no manifest, among many, is named."""
    raw_scans = daily()
    run([raw_scans], local, tags=range_tags(KEYS))
    at = tmp_path / "base" / "manifests" / "raw_scans" / f"partition={KEYS[2]}.parquet"
    at.write_bytes(b"not parquet")
    assert f"{at} is no Parquet file" in read_by(run, local, [raw_scans], pd.DataFrame)
