"""What a chain has lost: the check of an asset says what assets upstream dropped of the same partition."""

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, range_tags

from file_dataset_dagster import pipeline_asset

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
