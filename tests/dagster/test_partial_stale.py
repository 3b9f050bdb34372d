"""Fresh and stale after a partial run: Dagster's own words for whether every row is of the input as it is now."""

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster_runs import ONE_RUN, copy_scan, failure_of, range_tags

from file_dataset_dagster import ManifestIOManager, pipeline_asset

ONLY_MISSING = {"only_missing": True}
DAYS = dg.StaticPartitionsDefinition(["mon", "tue"])


def copy_again(input_dir, output_dir):
    (output_dir / "again.txt").write_text((input_dir / "copy.txt").read_text())
    return {"again.txt": output_dir / "again.txt"}


class Chain:
    """raw_scans -> copied, whose frame and code are what a test sets; `run` runs some of it, `status` asks Dagster."""

    def __init__(self, run, resource, instance, frame, **arguments):
        self.materialize, self.resource, self.instance = run, resource, instance
        self.frame, self.arguments = frame, arguments

    def assets(self):
        partitions = self.arguments.get("partitions_def")

        @dg.asset(partitions_def=partitions, backfill_policy=self.arguments.get("backfill_policy"))
        def raw_scans(context: dg.AssetExecutionContext) -> object:
            return dict.fromkeys(context.partition_keys, self.frame) if partitions else self.frame

        return [raw_scans, pipeline_asset(copy_scan, name="copied", input=raw_scans, **self.arguments)]

    def run(self, *names, config=None, **how):
        run_config = {} if config is None else {"ops": {"copied": {"config": config}}}
        return self.materialize(self.assets(), self.resource, selection=list(names), run_config=run_config, **how)

    def status(self, name="copied", partition=None, assets=None):
        resources = {"file_dataset": self.resource, "io_manager": ManifestIOManager(resource=self.resource)}
        graph = dg.Definitions(assets=assets or self.assets(), resources=resources).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return resolver.get_status(dg.AssetKey(name), partition).value

    def ids_run(self, result):
        (event,) = result.asset_materializations_for_node("copied")
        return event.metadata["rows_run"].value


@pytest.fixture
def chain(run, local, instance, scans):
    """Three rows, run once; then the first has another label."""

    def begin(**arguments):
        made = Chain(run, local, instance, scans("abc").assign(label=list("xyz")), **arguments)
        how = {"partition_key": "mon"} if "partitions_def" in arguments else {}
        assert made.run("raw_scans", "copied", **how).success
        made.frame = made.frame.assign(label=list("Xyz"))
        assert made.run("raw_scans", **how).success
        return made

    return begin


def check_of(result):
    *_, check = result.get_asset_check_evaluations()
    return check


def test_only_missing_runs_a_row_with_another_carried_value_and_the_asset_is_fresh(chain, stored):
    after = chain()
    assert after.status() == "STALE"
    result = after.run("copied", config=ONLY_MISSING)
    assert (after.ids_run(result), after.status()) == (1, "FRESH")
    assert stored()["label"].tolist() == list("Xyz")
    assert check_of(result).passed


def test_only_missing_runs_a_row_with_another_location(chain, stored, tmp_path):
    after = chain()
    other = tmp_path / "other.txt"
    other.write_text("other")
    after.frame = after.frame.assign(**{"scan.txt": [*after.frame["scan.txt"][:2], str(other)]})
    after.run("raw_scans")
    result = after.run("copied", config=ONLY_MISSING)
    assert (after.ids_run(result), after.status()) == (2, "FRESH")


@pytest.mark.parametrize(
    ("config", "status"),
    [({"ids": ["b"]}, "STALE"), ({"ids": ["b", "a"]}, "FRESH"), ({"only_missing": True, "limit": 1}, "FRESH")],
    ids=str,
)
def test_a_changed_row_that_did_not_run_leaves_the_asset_stale_and_the_check_says_so(chain, config, status):
    after = chain()
    result = after.run("copied", config=config)
    assert result.success
    assert after.status() == status
    check = check_of(result)
    assert check.passed is (status == "FRESH")
    assert ("1 changed rows did not run, so the asset stays stale" in check.description) is (status == "STALE")
    if status == "STALE":
        assert (check.severity.value, check.metadata["changed_rows_not_run"].value) == ("WARN", 1)
        after.run("copied", config=ONLY_MISSING)
        assert after.status() == "FRESH"


@pytest.mark.parametrize("rows", ["limit of new ones", "limit of none before"])
def test_rows_that_have_never_run_leave_it_stale_until_they_have(run, local, instance, scans, rows):
    after = Chain(run, local, instance, scans("a"))
    if rows == "limit of new ones":
        after.run("raw_scans", "copied")
    after.frame = scans("abc")
    after.run("raw_scans", "copied", config={"only_missing": True, "limit": 1})
    assert after.status() == "STALE"
    result = after.run("copied", config=ONLY_MISSING)
    assert after.status() == "FRESH"
    assert check_of(result).description == "0 of 3 rows dropped"


def test_rows_that_left_the_input_leave_nothing_stale(chain):
    after = chain()
    after.frame = after.frame[1:]
    after.run("raw_scans")
    after.run("copied", config=ONLY_MISSING)
    assert after.status() == "FRESH"


@pytest.mark.parametrize("what", ["code", "another input"])
def test_rows_of_older_code_or_of_another_input_as_it_was_leave_it_stale(run, local, instance, scans, what):
    after = Chain(run, local, instance, scans("ab"), code_version="1", deps=["model"])
    report = lambda version: instance.report_runless_asset_event(  # noqa: E731
        dg.AssetMaterialization("model", tags={"dagster/data_version": version})
    )
    report("1")
    after.run("raw_scans", "copied")
    assert after.status() == "FRESH"
    if what == "code":
        after.arguments["code_version"] = "2"
    else:
        report("2")
    assert after.status() == "STALE"
    after.run("copied", config={"ids": ["a"]})
    assert after.status() == "STALE"
    after.run("copied", config={"ids": ["a", "b"]})
    assert after.status() == "FRESH"


@pytest.mark.parametrize("mended_by", [{"ids": ["b"]}, {"only_changed": True}], ids=str)
@pytest.mark.parametrize("where", ["s3", "local"])
def test_content_that_changed_under_the_same_url_leaves_downstream_stale(
    run, instance, scans, request, where, tmp_path, mended_by
):
    resource = request.getfixturevalue("resource" if where == "s3" else "local")
    after = Chain(run, resource, instance, scans("ab"))

    def assets():
        raw_scans, copied = Chain.assets(after)
        return [raw_scans, copied, pipeline_asset(copy_again, name="again", input=copied)]

    def go(*names, config=None):
        run_config = {} if config is None else {"ops": {"again": {"config": config}}}
        return run(assets(), resource, selection=list(names), run_config=run_config)

    go("raw_scans", "copied", "again")
    (tmp_path / "input" / "b" / "scan.txt").write_text("changed")
    go("copied")
    result = go("again", config=ONLY_MISSING)
    assert after.status("again", assets=assets()) == "STALE"
    assert "1 changed rows did not run, so the asset stays stale" in check_of(result).description
    go("again", config=mended_by)
    assert after.status("again", assets=assets()) == "FRESH"


def test_a_version_that_the_upstream_asset_states_itself_leaves_it_stale_where_no_row_shows_why(
    run, local, instance, scans
):
    version = ["1"]
    frame = scans("ab")

    @dg.asset
    def raw_scans() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=frame, data_version=dg.DataVersion(version[0]))

    assets = [raw_scans, pipeline_asset(copy_scan, name="copied", input=raw_scans)]
    after = Chain(run, local, instance, None)
    run(assets, local)
    config = {"ops": {"copied": {"config": ONLY_MISSING}}}
    run(assets, local, selection=["copied"], run_config=config)
    assert after.status(assets=assets) == "FRESH"
    version[0] = "2"
    run(assets, local, selection=["raw_scans"])
    result = run(assets, local, selection=["copied"], run_config=config)
    assert after.status(assets=assets) == "STALE"
    assert "rows that did not run may be old, so the asset stays stale" in check_of(result).description
    config = {"ops": {"copied": {"config": {"only_changed": True}}}}
    result = run(assets, local, selection=["copied"], run_config=config)  # every file is looked at
    assert check_of(result).description == "0 of 2 rows dropped; 0 new, 0 changed, 0 gone, 2 unchanged"
    assert after.status(assets=assets) == "FRESH"


def test_a_partial_run_of_one_partition_is_told_as_one_of_an_asset_without_any(chain):
    after = chain(partitions_def=DAYS)
    after.run("copied", config={"ids": ["b"]}, partition_key="mon")
    assert after.status(partition="mon") == "STALE"
    after.run("copied", config=ONLY_MISSING, partition_key="mon")
    assert after.status(partition="mon") == "FRESH"


def test_a_partial_run_of_a_range_too(run, local, instance, scans):
    tags = range_tags(["mon", "tue"])
    frame = scans("ab").assign(label=list("xy"))
    after = Chain(run, local, instance, frame, partitions_def=DAYS, backfill_policy=ONE_RUN)
    after.run("raw_scans", "copied", tags=tags)
    after.frame = frame.assign(label=list("Xy"))
    after.run("raw_scans", tags=tags)
    after.run("copied", config={"ids": ["b"]}, tags=tags)
    assert [after.status(partition=day) for day in ("mon", "tue")] == ["STALE", "STALE"]
    after.run("copied", config=ONLY_MISSING, tags=tags)
    assert [after.status(partition=day) for day in ("mon", "tue")] == ["FRESH", "FRESH"]


def renamed(input_dir, output_dir):
    (output_dir / "other.txt").write_text("x")
    return {"other.txt": output_dir / "other.txt"}


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("config", [ONLY_MISSING, {"ids": ["b"]}], ids=str)
def test_a_part_with_other_outputs_than_the_manifest_is_refused(run, local, scans, stored, declared, config, tmp_path):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans("ab", missing=missing)

    missing = ["b"]
    run([raw_scans, pipeline_asset(copy_scan, name="copied", input=raw_scans)], local)
    missing = []
    outputs = {"outputs": ["other.txt"]} if declared else {}
    other = pipeline_asset(
        renamed, name="copied", input=raw_scans, retry_policy=dg.RetryPolicy(max_retries=1), **outputs
    )
    result = run([raw_scans, other], local, run_config={"ops": {"copied": {"config": config}}})
    told = failure_of(result).description
    assert "['other.txt'], and the stored manifest has ['copy.txt']: run all rows" in told
    assert not result.filter_events(lambda event: event.is_step_up_for_retry)
    assert stored()["id"].tolist() == ["a"]
    # what fn promises is known before any row runs
    assert (tmp_path / "base" / "files" / "copied" / "b").exists() is not declared
    assert run([raw_scans, other], local).success
