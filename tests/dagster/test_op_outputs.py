"""ManifestIOManager under ops: what they hand to each other lies under the run and the step."""

import dagster as dg
import pandas as pd
import pytest

from file_dataset_dagster import ManifestIOManager


@dg.op
def fetch() -> pd.DataFrame:
    return pd.DataFrame({"id": ["1", "2"], "label": pd.Categorical(["a", "b"])})


@dg.op
def clean(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(size=[1, 2])


@dg.op(out=dg.DynamicOut(pd.DataFrame))
def pieces(frame: pd.DataFrame):
    for row_id in frame["id"]:
        yield dg.DynamicOutput(frame[frame["id"] == row_id].reset_index(drop=True), mapping_key=f"case_{row_id}")


@dg.op
def doubled(piece: pd.DataFrame) -> pd.DataFrame:
    return piece.assign(id=piece["id"] * 2)


@dg.op
def gathered(pieces: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(pieces, ignore_index=True)


@dg.graph_asset
def cleaned():
    return clean(fetch())


@dg.graph_asset
def mapped():
    return gathered(pieces(fetch()).map(doubled).collect())


def places(base):
    return sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())


@pytest.mark.parametrize("where", ["s3", "local"])
def test_ops_of_a_graph_asset_read_what_the_ones_before_them_made(run, where, request):
    resource = request.getfixturevalue("resource" if where == "s3" else "local")
    result = run([cleaned], resource)
    assert result.success
    manifests = ManifestIOManager(resource=resource)
    expected = pd.DataFrame({"id": ["1", "2"], "label": pd.Categorical(["a", "b"]), "size": [1, 2]})
    pd.testing.assert_frame_equal(manifests.load(manifests.uri(dg.AssetKey("cleaned"))), expected)


def test_what_an_op_hands_on_lies_under_run_and_step(run, local, tmp_path):
    result = run([cleaned], local)
    assert places(tmp_path / "base") == [
        "manifests/cleaned/manifest.parquet",
        f"runs/{result.run_id}/cleaned%2Efetch/result.parquet",
    ]


def test_two_runs_share_no_op_output(run, local, tmp_path):
    runs = [run([cleaned], local).run_id for _ in range(2)]
    assert sorted(path.name for path in (tmp_path / "base" / "runs").iterdir()) == sorted(runs)


def test_each_of_many_dynamic_outputs_has_a_place_of_its_own(run, local, tmp_path):
    result = run([mapped], local)
    assert result.success
    manifests = ManifestIOManager(resource=local)
    assert manifests.load(manifests.uri(dg.AssetKey("mapped")))["id"].tolist() == ["11", "22"]
    assert {f"runs/{result.run_id}/mapped%2Epieces/result/case_{n}.parquet" for n in (1, 2)} < set(
        places(tmp_path / "base")
    )


@dg.job
def plain_job():
    clean(fetch())


@dg.job
def dynamic_job():
    gathered(pieces(fetch()).map(doubled).collect())


@pytest.mark.parametrize("job", [plain_job, dynamic_job], ids=lambda job: job.name)
def test_a_job_of_ops_runs(local, instance, job):
    result = job.execute_in_process(instance=instance, resources={"io_manager": ManifestIOManager(resource=local)})
    assert result.success


def test_a_graph_asset_with_partitions_stores_each(run, local):
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    daily = dg.graph_asset(partitions_def=days, name="daily")(lambda: clean(fetch()))
    assert run([daily], local, partition_key="mon").success
    manifests = ManifestIOManager(resource=local)
    assert manifests.load(manifests.uri(dg.AssetKey("daily"), "mon"))["id"].tolist() == ["1", "2"]


def test_an_op_reads_an_asset_and_an_asset_reads_a_graph(run, local):
    @dg.asset
    def raw() -> pd.DataFrame:
        return pd.DataFrame({"id": ["1", "2"]})

    @dg.graph_asset
    def sized(raw):
        return clean(clean(raw))

    @dg.asset
    def count(sized: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"id": [len(sized)]})

    result = run([raw, sized, count], local)
    assert result.output_for_node("count")["id"].tolist() == [2]


@pytest.mark.parametrize("value", [None, 7, [1]], ids=["None", "int", "list"])
def test_an_op_output_that_is_not_a_frame_is_refused_with_the_remedy(local, instance, value):
    @dg.op
    def other():
        return value

    @dg.job
    def job():
        other()

    resources = {"io_manager": ManifestIOManager(resource=local)}
    result = job.execute_in_process(instance=instance, resources=resources, raise_on_error=False)
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    cause = event.step_failure_data.error.cause
    assert f"output 'result' of step other returned a {type(value).__name__}" in cause.message
    assert "dg.Out(io_manager_key=...)" in cause.message
