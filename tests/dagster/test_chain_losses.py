"""What a chain has lost: the check of an asset says what assets upstream dropped of the same partition."""

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, copy_scan, range_tags

from file_dataset_dagster import ManifestIOManager, pipeline_asset
from file_dataset_dagster._event_log import last_records
from file_dataset_dagster._lost_upstream import Upstream

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")
KEYS = DAYS.get_partition_keys()


def again(input_dir, output_dir):
    """Fn: scan.txt once more; one that names this asset raises."""
    text = (input_dir / "scan.txt").read_text()
    name, _, rest = text.partition(" ")
    if name == "bad":
        message = "a bad scan"
        raise ValueError(message)
    (output_dir / "scan.txt").write_text(rest if name == "later" else text)
    return {"scan.txt": output_dir / "scan.txt"}


@pytest.fixture
def chain(tmp_path):
    """Assets raw -> gray -> small -> mean, on frames whose scans say at which of them they fail."""

    def assets(rows, partitions_def=None, mean_of=None, **arguments):
        def frame(key=None):
            ids = [f"{key or ''}{number}" for number in range(len(rows[key]))]
            for row_id, text in zip(ids, rows[key], strict=True):
                (tmp_path / row_id).write_text(text)
            paths = pd.Series([str(tmp_path / row_id) for row_id in ids], dtype="object")
            return pd.DataFrame({"id": ids, "scan.txt": paths})

        given = {} if partitions_def is None else {"partitions_def": partitions_def, "backfill_policy": ONE_RUN}

        @dg.asset(**given)
        def raw(context: dg.AssetExecutionContext):
            return {key: frame(key) for key in context.partition_keys} if given else frame()

        gray = pipeline_asset(again, name="gray", input=raw, **given, **arguments)
        small = pipeline_asset(again, name="small", input=gray, **given, **arguments)
        mean = pipeline_asset(again, name="mean", input=small, **(given if mean_of is None else mean_of))
        return [raw, gray, small, mean]

    return assets


def checks_of(result, name):
    found = [check for check in result.get_asset_check_evaluations() if check.asset_key == dg.AssetKey(name)]
    return [check for check in found if "partition" in check.metadata] or found


def said_of(result, day):
    (said,) = [check.description for check in checks_of(result, "mean") if check.description.startswith(day)]
    return said


LOST = ["good", "good", "bad", "later bad", "good"]  # one at gray, one at small


def test_the_check_says_what_was_dropped_upstream_and_does_not_count_it(run, local, chain):
    result = run(chain({None: LOST}), local)
    said = {name: checks_of(result, name)[0] for name in ("gray", "small", "mean")}
    assert {name: check.description for name, check in said.items()} == {
        "gray": "1 of 5 rows dropped (20.0%): 1 at fn",
        "small": "1 of 4 rows dropped (25.0%): 1 at fn; 1 of 5 dropped upstream in gray",
        "mean": "0 of 3 rows dropped; 1 of 5 dropped upstream in gray, 1 of 4 in small",
    }
    assert said["mean"].passed
    assert [said[name].metadata["dropped_upstream"].value for name in ("small", "mean")] == [1, 2]
    (event,) = result.asset_materializations_for_node("mean")
    assert event.metadata["dropped_upstream"].value == 2


def test_an_asset_that_reads_no_pipeline_says_nothing_of_upstream(run, local, chain):
    result = run(chain({None: LOST}), local)
    assert "dropped_upstream" not in checks_of(result, "gray")[0].metadata


def test_a_chain_without_losses_has_a_number_to_plot_and_no_words(run, local, chain):
    (check,) = checks_of(run(chain({None: ["good"]}), local), "mean")
    assert (check.description, check.metadata["dropped_upstream"].value) == ("0 of 1 rows dropped", 0)


@pytest.mark.parametrize("alone", [False, True], ids=["in one run", "a later run of the last asset"])
def test_losses_are_those_of_the_same_partition(run, local, chain, alone):
    days = {KEYS[0]: ["good"], KEYS[1]: LOST, KEYS[2]: ["good", "bad"]}
    assets = chain(days, DAYS)
    result = run(assets, local, tags=range_tags(KEYS))
    if alone:
        result = run(assets, local, tags=range_tags(KEYS), selection=["mean"])
    assert [check.description for check in checks_of(result, "mean")] == [
        f"{KEYS[0]}: 0 of 1 rows dropped",
        f"{KEYS[1]}: 0 of 3 rows dropped; 1 of 5 dropped upstream in gray, 1 of 4 in small",
        f"{KEYS[2]}: 0 of 1 rows dropped; 1 of 2 dropped upstream in gray",
    ]


def test_one_asset_of_all_days_sums_them(run, local, chain, instance):
    days = {KEYS[0]: ["good"], KEYS[1]: LOST, KEYS[2]: ["good", "bad"]}
    assets = chain(days, DAYS, mean_of={})
    run(assets, local, tags=range_tags(KEYS), selection=["raw", "gray", "small"])
    (check,) = checks_of(run(assets, local, selection=["mean"]), "mean")
    assert check.description == "0 of 5 rows dropped; 2 of 8 dropped upstream in gray, 1 of 6 in small"


def test_losses_go_through_an_asset_that_is_no_pipeline(run, local, chain):
    """Of both assets that it joins: what each says of itself, and of those before it."""
    raw, gray, small, _ = chain({None: LOST})

    @dg.asset
    def joined(gray: pd.DataFrame, small: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([gray.assign(id="g" + gray["id"]), small])

    @dg.asset
    def sorted_rows(joined: pd.DataFrame) -> pd.DataFrame:
        return joined.sort_values("id")

    result = run([raw, gray, small, joined, sorted_rows, pipeline_asset(again, name="mean", input=sorted_rows)], local)
    (check,) = checks_of(result, "mean")
    assert check.description == (
        "1 of 7 rows dropped (14.3%): 1 at fn; 1 of 5 dropped upstream in gray, 1 of 4 in small"
    )  # "later bad" of gray itself fails here


@pytest.mark.parametrize("offset", [0, -1])
def test_losses_go_through_it_by_the_partitions_that_it_reads(run, local, chain, instance, offset):
    days = {KEYS[0]: ["good"], KEYS[1]: LOST, KEYS[2]: ["good", "bad"]}
    raw, gray, *_ = chain(days, DAYS)
    mapping = dg.TimeWindowPartitionMapping(
        start_offset=offset, end_offset=offset, allow_nonexistent_upstream_partitions=True
    )
    given = {"partitions_def": DAYS, "backfill_policy": ONE_RUN}

    @dg.asset(ins={"gray": dg.AssetIn(partition_mapping=mapping)}, **given)
    def plain(context: dg.AssetExecutionContext, gray: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {key: gray[KEYS[max(0, KEYS.index(key) + offset)]] for key in context.partition_keys}

    mean = pipeline_asset(again, name="mean", input=plain, **given)
    result = run([raw, gray, plain, mean], local, tags=range_tags(KEYS))
    assert said_of(result, KEYS[1 - offset]).endswith("1 of 5 dropped upstream in gray")
    days[KEYS[1]] = ["good"] * 5
    assert run([raw, gray], local, tags=range_tags(KEYS)).success  # `plain` was made from what was there before
    resources = {"file_dataset": local, "io_manager": ManifestIOManager(resource=local)}
    defs = dg.Definitions([raw, gray, plain, mean], resources=resources)
    read = last_records(instance, plain.key, [KEYS[1 - offset]])
    lost = Upstream(instance, defs.resolve_asset_graph).losses(plain.key, list(read.values()))
    assert str(lost) == "; 1 of 5 dropped upstream in gray"


def test_an_asset_of_all_days_reads_the_losses_of_all(run, local, chain):
    raw, gray, *_ = chain({KEYS[0]: ["good"], KEYS[1]: LOST, KEYS[2]: ["good", "bad"]}, DAYS)

    @dg.asset
    def plain(gray: pd.DataFrame) -> pd.DataFrame:
        return gray

    run([raw, gray], local, tags=range_tags(KEYS))
    result = run(
        [raw, gray, plain, pipeline_asset(again, name="mean", input=plain)], local, selection=["plain", "mean"]
    )
    assert checks_of(result, "mean")[0].description.endswith("; 2 of 8 dropped upstream in gray")


def test_what_is_not_known_is_said_so(run, local, chain, scans):
    """The asset between is of another code location: which days of gray it read is not known here."""
    raw, gray, *_ = chain({KEYS[0]: ["good"], KEYS[1]: LOST, KEYS[2]: ["good", "bad"]}, DAYS)

    @dg.asset
    def plain(gray: pd.DataFrame) -> pd.DataFrame:
        return gray

    run([raw, gray], local, tags=range_tags(KEYS))
    run([raw, gray, plain], local, selection=["plain"])
    first = pipeline_asset(again, name="first", input=dg.AssetSpec("plain"))
    second = pipeline_asset(again, name="second", input=first)
    result = run([dg.AssetSpec("plain"), first, second], local)
    assert [checks_of(result, name)[0].description for name in ("first", "second")] == [
        "1 of 6 rows dropped (16.7%): 1 at fn; what gray dropped upstream is not known",
        "0 of 5 rows dropped; at least 1 of 6 dropped upstream in first; what gray dropped is not known",
    ]


def test_losses_of_very_many_partitions_take_few_queries(run, local, chain, scans, instance, monkeypatch):
    sites = [f"site{number}" for number in range(130)]
    events = [
        dg.AssetMaterialization("gray", partition=site, metadata={"input_rows": 4, "dropped_rows": 1}) for site in sites
    ]
    for event in [*events, *events[:1]]:  # the first one twice: its last one counts
        instance.report_runless_asset_event(event)
    manifests = ManifestIOManager(resource=local)
    for site in sites:
        manifests.store_frame(scans([site]), dg.AssetKey("gray"), site, None)
    asked, fetch = [], type(instance).fetch_materializations

    def counted(self, *given, **more):
        asked.append(given)
        return fetch(self, *given, **more)

    monkeypatch.setattr(type(instance), "fetch_materializations", counted)
    gray = dg.AssetSpec("gray", partitions_def=dg.StaticPartitionsDefinition(sites))
    result = run([gray, pipeline_asset(copy_scan, name="all_sites", input=gray)], local)
    assert checks_of(result, "all_sites")[0].description == "0 of 130 rows dropped; 130 of 520 dropped upstream in gray"
    assert len(asked) < 10  # Dagster's own, too


def test_what_was_mended_upstream_is_said_no_more(run, local, chain):
    run(chain({None: LOST}), local)
    result = run(chain({None: ["good"] * 5}), local)
    assert checks_of(result, "mean")[0].description == "0 of 5 rows dropped"


def test_the_losses_are_those_of_the_manifest_that_was_read(run, local, chain):
    """A run of gray that drops too much keeps its manifest; what small reads lost what it had lost before."""
    run(chain({None: LOST}), local)
    result = run(chain({None: ["bad"] * 5}), local, selection=["raw", "gray"])
    assert not result.success
    (check,) = checks_of(run(chain({None: LOST}), local, selection=["small"]), "small")
    assert check.description.endswith("; 1 of 5 dropped upstream in gray")


@pytest.mark.parametrize("earlier", [{"other": 5}, {"other": ["a", "b"]}, [1], "none"])
def test_metadata_of_an_asset_that_is_no_pipeline_s_fails_no_run(run, local, scans, earlier):
    @dg.asset
    def raw() -> dg.MaterializeResult:
        numbers = {"input_rows": 3, "dropped_rows": 1, "dropped_upstream_by_asset": dg.MetadataValue.json(earlier)}
        return dg.MaterializeResult(value=scans(["a"]), metadata=numbers)

    result = run([raw, pipeline_asset(again, name="gray", input=raw)], local)
    assert result.success
    (check,) = checks_of(result, "gray")
    assert check.description == "0 of 1 rows dropped; 1 of 3 dropped upstream in raw"
