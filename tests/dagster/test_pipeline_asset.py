"""pipeline_asset: a function of local files as an asset, from definition to stored manifest."""

import functools
import importlib.util
import inspect
import os
import pickle
import sys
import types
from typing import get_args, get_overloads

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import failure_of

import file_dataset
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset
from file_dataset_dagster._pipeline_asset import Arguments


def shout(input_dir, output_dir):
    """Make every scan loud."""
    text = (input_dir / "scan.txt").read_text()
    (output_dir / "loud.txt").write_text(text.upper())
    return {"loud.txt": output_dir / "loud.txt"}


@pytest.fixture
def raw_scans(scans):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["s1", "s2"])

    return raw_scans


def manifest_of(resource, *parts, partition=None, of="manifest"):
    io_manager = ManifestIOManager(resource=resource)
    return io_manager.load(io_manager.uri(dg.AssetKey(list(parts)), partition, of=of))


def test_a_decorated_function_becomes_an_asset(run, resource, raw_scans, s3, bucket):
    @pipeline_asset(input=raw_scans)
    def loud(input_dir, output_dir):
        return shout(input_dir, output_dir)

    assert run([raw_scans, loud], resource).success
    assert manifest_of(resource, "loud").to_dict("list") == {
        "loud.txt": [f"s3://{bucket}/base/files/loud/{row_id}/loud.txt" for row_id in ("s1", "s2")],
        "id": ["s1", "s2"],
    }
    assert s3.get_object(Bucket=bucket, Key="base/files/loud/s1/loud.txt")["Body"].read() == b"SCAN S1"


def test_the_factory_leaves_the_function_plain(run, local, raw_scans, tmp_path):
    loud = pipeline_asset(shout, input=raw_scans, name="loud")
    assert run([raw_scans, loud], local).success
    assert pickle.loads(pickle.dumps(shout)) is shout
    tmp_path.joinpath("scan.txt").write_text("x")
    assert shout(tmp_path, tmp_path)["loud.txt"].read_text() == "X"


def test_the_output_of_one_is_the_input_of_the_next(run, local, raw_scans):
    loud = pipeline_asset(shout, input=raw_scans, name="loud")

    @pipeline_asset(input=loud)
    def counted(input_dir, output_dir):
        path = output_dir / "count.txt"
        path.write_text(str(len((input_dir / "loud.txt").read_text())))
        return {"count.txt": path}

    seen = []

    @dg.asset
    def report(counted: pd.DataFrame) -> None:
        seen.append(counted)

    assert run([raw_scans, loud, counted, report], local).success
    assert list(seen[0].columns) == ["count.txt", "id"]


@pytest.mark.parametrize("kind", ["asset", "key", "name", "spec"])
def test_the_input_is_named_by_asset_key_or_name(raw_scans, kind):
    given = {"asset": raw_scans, "key": raw_scans.key, "name": "raw_scans", "spec": dg.AssetSpec("raw_scans")}[kind]
    assert pipeline_asset(shout, input=given).asset_deps == {dg.AssetKey("shout"): {dg.AssetKey("raw_scans")}}


def test_the_arguments_of_dg_asset_are_passed_on():
    loud = pipeline_asset(
        shout,
        input="raw_scans",
        key_prefix=["ct", "lung"],
        group_name="imaging",
        deps=["model"],
        metadata={"team": "imaging"},
        tags={"size": "large"},
        owners=["team:imaging"],
        kinds={"simpleitk"},
        code_version="7",
        retry_policy=dg.RetryPolicy(max_retries=2),
        automation_condition=dg.AutomationCondition.eager(),
        io_manager_key="manifests",
        pool="gpu",
        required_resource_keys={"model_store"},
    )
    spec = loud.get_asset_spec()
    assert spec.key == dg.AssetKey(["ct", "lung", "shout"])
    assert (spec.group_name, spec.metadata["team"], spec.tags["size"]) == ("imaging", "imaging", "large")
    assert {dep.asset_key for dep in spec.deps} == {dg.AssetKey("raw_scans"), dg.AssetKey("model")}
    assert (list(spec.owners), spec.kinds, spec.code_version) == (["team:imaging"], {"simpleitk"}, "7")
    assert spec.automation_condition is not None
    assert loud.op.retry_policy.max_retries == 2
    assert loud.op.pools == {"gpu"}
    assert loud.required_resource_keys >= {"file_dataset", "manifests", "model_store"}


def test_type_checkers_know_every_argument_and_those_of_dg_asset():
    own = {name for name, one in inspect.signature(pipeline_asset).parameters.items() if one.kind is one.KEYWORD_ONLY}
    given = {"compute_fn", "kwargs", "ins", "check_specs", "dagster_type", "config_schema"}  # by pipeline_asset itself
    theirs = set(inspect.signature(dg.asset).parameters) - given
    known = set(Arguments.__annotations__)
    assert own | theirs <= known
    assert all(Arguments in get_args(one.__annotations__["arguments"]) for one in get_overloads(pipeline_asset))
    assert len(get_overloads(pipeline_asset)) == 2


def test_the_docstring_describes_the_asset():
    spec = pipeline_asset(shout, input="raw_scans").get_asset_spec()
    assert spec.description == "Make every scan loud."


@pytest.mark.parametrize(("into_path", "kinds"), [(None, {"s3"}), ("s3://b/x", {"s3"}), ("/data", set())])
def test_an_asset_is_of_kind_s3_where_its_files_are(into_path, kinds):
    assert pipeline_asset(shout, input="raw_scans", into_path=into_path).get_asset_spec().kinds == kinds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs input="),
        ({"input": "a", "ins": {}}, "name the asset to read as input="),
        ({"input": "a", "check_specs": []}, "@dg.asset_check"),
        ({"input": "a", "write_options": {"options": file_dataset.Options()}}, "write_resource_key"),
        ({"input": "a", "write_options": {"into_path": "x"}}, "into_path is an argument"),
        ({"input": "a", "max_dropped_fraction": 50}, "from 0 to 1"),
        ({"input": "a", "max_dropped_fraction": 0.5, "on_exceeded": "warn"}, "'fail', 'block' or 'check'"),
        ({"input": "a", "on_exceeded": "block"}, "needs max_dropped_fraction or min_rows"),
        ({"input": "a", "min_rows": -1}, "min_rows=-1"),
        ({"input": "a", "min_rows": 0.5}, "min_rows=0.5"),
        ({"input": "a", "max_failures": -1}, "max_failures=-1"),
        ({"input": "a", "max_failed_fraction": 5}, "max_failed_fraction=5"),
        ({"input": "a", "worker_env": {"A": "b"}}, "give workers=1"),
        ({"input": "a", "temp_dir": 7}, "temp_dir=7"),
        ({"input": "a", "key": "x", "name": "y"}, "not both"),
        ({"input": "a", "into_path": "gs://bucket"}, "s3://"),
        ({"input": "a", "config_schema": {}}, "only_missing, only_changed, limit, ids"),
        ({"input": "a", "runner": "dask"}, "'local' or 'ray'"),
        ({"input": "a", "num_gpus": 1, "concurrency": 2}, "concurrency, num_gpus: for runner='ray' only"),
        ({"input": "a", "runner": "local", "ray_resource_key": "ray"}, "ray_resource_key: for runner='ray' only"),
        ({"input": "a", "workers": -1}, "workers=-1"),
        ({"input": "a", "prefetch": -1}, "prefetch=-1"),
        ({"input": "a", "fn_timeout_s": 0}, "fn_timeout_s=0"),
        ({"input": dg.AssetIn()}, "needs its key"),
        ({"input": 3}, "input=3 names no asset"),
        ({"input": "a", "key": 3}, "key=3 names no asset"),
        ({"input": "a", "name": 3}, "give name= or key="),
        ({"input": "a", "show_ids": "no"}, "show_ids='no': give True or False"),
        ({"input": "a", "on_exceeded": ["fail"]}, "on_exceeded="),
        ({"input": "a", "runner": ["ray"]}, "runner="),
        ({"input": "a", "runner": "ray", "batch_size": 0}, "batch_size=0"),
        ({"input": "a", "runner": "ray", "concurrency": "2"}, "concurrency='2'"),
        ({"input": "a", "runner": "ray", "num_cpus": -1}, "num_cpus=-1"),
        ({"input": "a", "runner": "ray", "num_gpus": float("nan")}, "num_gpus=nan"),
        ({"input": "a", "into_path": ""}, "into_path=''"),
        ({"input": "a", "into_path": "/"}, "into_path='/'"),
        ({"input": "a", "into_path": "s3://"}, "into_path='s3://'"),
        ({"input": "a", "into_path": 5}, "into_path=5"),
        ({"input": "a", "into_path": b"x"}, "into_path=b'x'"),
        ({"input": "a", "write_options": 3}, "write_options=3"),
        ({"input": "a", "write_options": {"if_exists": "keep"}}, "'overwrite', 'error' or 'skip'"),
        ({"input": "a", "write_options": {"if_exists": "skip"}}, "needs declared outputs"),
        ({"input": "a", "resource_key": None}, "resource_key=None"),
        ({"input": "a", "write_resource_key": 3}, "write_resource_key=3"),
        ({"input": "a", "ray_resource_key": ""}, "ray_resource_key=''"),
        ({"input": "a", "workers": 1, "worker_env": {"A=": "b"}}, "no system has such a variable"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_has_no_meaning_is_refused_at_definition(arguments, said):
    with pytest.raises(file_dataset.InvalidDatasetError, match=said):
        pipeline_asset(shout, **arguments)


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (lambda input_dir, output_dir: dict(shout(input_dir, output_dir)), "give name= or key="),
        (functools.partial(shout), "give name= or key="),
        (list.clear, "input_dir"),
    ],
    ids=["lambda", "partial", "wrong signature"],
)
def test_a_function_that_cannot_be_an_asset_is_refused_at_definition(fn, said):
    with pytest.raises(file_dataset.InvalidDatasetError, match=said):
        pipeline_asset(fn, input="raw_scans", name="named" if said == "input_dir" else None)


@pytest.mark.parametrize(
    "fn",
    [functools.partial(shout), lambda one, other: dict(shout(one, other))],
    ids=["partial", "lambda"],
)
def test_a_function_without_a_name_runs_under_a_given_one(run, local, raw_scans, fn):
    assert run([raw_scans, pipeline_asset(fn, input=raw_scans, name="loud")], local).success
    assert len(manifest_of(local, "loud")) == 2


def test_an_asset_loaded_under_a_prefix_has_files_and_manifest_there(run, local, scans, tmp_path):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["s1", "s2"], missing=["s2"])

    module = types.ModuleType("module_of_assets")
    module.raw_scans, module.loud = raw_scans, pipeline_asset(shout, input=raw_scans, name="loud")
    result = run(dg.load_assets_from_modules([module], key_prefix="ct"), local)
    assert result.success
    assert (tmp_path / "base" / "files" / "ct" / "loud" / "s1" / "loud.txt").exists()
    assert len(manifest_of(local, "ct", "loud")) == len(manifest_of(local, "ct", "loud", of="failures")) == 1
    (check,) = result.get_asset_check_evaluations()
    assert check.asset_key == dg.AssetKey(["ct", "loud"])


def test_outputs_go_where_into_path_says(run, local, raw_scans, tmp_path):
    loud = pipeline_asset(shout, input=raw_scans, name="loud", into_path=tmp_path / "elsewhere")
    assert run([raw_scans, loud], local).success
    assert (tmp_path / "elsewhere" / "s1" / "loud.txt").exists()


@pytest.mark.parametrize(
    ("base_path", "said"),
    [(None, "give pipeline_asset an into_path"), ("", "give pipeline_asset an into_path"), ("s3://", "s3://bucket")],
    ids=["none", "empty", "no bucket"],
)
def test_nowhere_to_write_is_told_with_the_remedy(run, tmp_path, raw_scans, base_path, said):
    """An environment variable that is set but empty must not mean the root of the disk."""
    resource = FileDatasetResource(base_path=base_path)
    io_manager = ManifestIOManager(resource=resource, base_path=str(tmp_path))
    result = run([raw_scans, pipeline_asset(shout, input=raw_scans)], resource, resources={"io_manager": io_manager})
    assert said in failure_of(result).description


def test_outputs_can_go_to_another_store(run, local, resource, raw_scans, s3, bucket):
    loud = pipeline_asset(shout, input=raw_scans, name="loud", write_resource_key="target",
                          write_options={"extra_args": {"ContentType": "text/loud"}})  # fmt: skip
    assert run([raw_scans, loud], local, resources={"target": resource}).success
    assert s3.head_object(Bucket=bucket, Key="base/files/loud/s1/loud.txt")["ContentType"] == "text/loud"


def test_rows_whose_outputs_an_earlier_run_has_stored_are_skipped(run, local, raw_scans):
    called = []

    def seen(input_dir, output_dir):
        called.append(input_dir)
        return shout(input_dir, output_dir)

    loud = pipeline_asset(seen, input=raw_scans, name="loud", outputs=["loud.txt"], write_options={"if_exists": "skip"})
    assert run([raw_scans, loud], local).success
    assert run([raw_scans, loud], local).success
    assert len(called) == 2
    assert manifest_of(local, "loud")["id"].tolist() == ["s1", "s2"]


DAYS = dg.StaticPartitionsDefinition(["2024-01-01", "a/.."])


def test_each_partition_has_files_and_a_manifest_of_its_own(run, resource, scans, keys):
    @dg.asset(partitions_def=DAYS)
    def raw_scans() -> pd.DataFrame:
        return scans(["s1"])

    loud = pipeline_asset(shout, input=raw_scans, name="loud", partitions_def=DAYS)
    for day in DAYS.get_partition_keys():
        assert run([raw_scans, loud], resource, partition_key=day).success
    assert [key for key in keys() if "/files/" in key] == [
        "base/files/loud/2024-01-01/s1/loud.txt",
        "base/files/loud/a%2F%2E%2E/s1/loud.txt",
    ]
    assert len(manifest_of(resource, "loud", partition="a/..")) == 1


def test_beside_the_manifest_lie_its_files_and_failures(run, local, raw_scans):
    run([raw_scans, pipeline_asset(shout, input=raw_scans, name="loud")], local)
    files = manifest_of(local, "loud", of="files")
    assert files[["id", "file", "size_bytes"]].to_dict("split")["data"] == [
        ["s1", "loud.txt", 7],
        ["s2", "loud.txt", 7],
    ]
    assert manifest_of(local, "loud", of="failures").empty


@pytest.mark.parametrize("beside", ["failures", "files"])
def test_a_manifest_is_stored_last(run, local, scans, tmp_path, beside):
    """What cannot be stored beside it leaves the old manifest: a directory has the name."""
    frames = iter([scans(["old"]), scans(["new"])])

    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return next(frames)

    loud = pipeline_asset(shout, input=raw_scans, name="loud")
    assert run([raw_scans, loud], local).success
    at = tmp_path / "base" / "manifests" / "loud" / f"manifest.{beside}.parquet"
    at.unlink()
    (at / "full").mkdir(parents=True)
    assert not run([raw_scans, loud], local).success
    assert manifest_of(local, "loud")["id"].tolist() == ["old"]


def test_ids_and_carried_columns_keep_their_dtypes(run, local, scans):
    frame = scans([1, 2]).astype({"id": "Int64"}).assign(label=pd.Series(["a", "b"], dtype="category"))

    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return frame

    run([raw_scans, pipeline_asset(shout, input=raw_scans, name="loud")], local)
    assert manifest_of(local, "loud")[["id", "label"]].dtypes.astype(str).tolist() == ["Int64", "category"]


def test_the_materialization_tells_rows_bytes_seconds_and_place(run, local, raw_scans):
    result = run([raw_scans, pipeline_asset(shout, input=raw_scans, name="loud")], local)
    (event,) = result.asset_materializations_for_node("loud")
    told = {name: value.value for name, value in event.metadata.items()}
    assert all(told.pop(name) >= 0 for name in ("seconds", "download_s", "fn_s", "upload_s"))
    assert [column.name for column in told.pop("dagster/column_schema").columns] == ["loud.txt", "id"]
    assert told == {
        "input_rows": 2,
        "dropped_rows": 0,
        "read_bytes": 14,
        "retries": 0,
        "throttles": 0,
        "stored_bytes": 14,
        "files_without_digest": 0,
        "into_path": f"{local.base_path}/files/loud",
        "dagster/row_count": 2,
        "dagster/uri": f"{local.base_path}/manifests/loud/manifest.parquet",
    }


def test_another_io_manager_gets_the_frame(run, local, raw_scans):
    memory = dg.InMemoryIOManager()
    loud = pipeline_asset(shout, input=raw_scans, name="loud")
    result = run([raw_scans, loud], local, resources={"io_manager": memory})
    assert isinstance(result.output_for_node("loud"), pd.DataFrame)


def test_a_resource_of_another_type_is_told(run, local, raw_scans):
    result = run([raw_scans, pipeline_asset(shout, input=raw_scans)], local, resources={"file_dataset": object()})
    assert "give a FileDatasetResource" in failure_of(result).description


def test_what_another_attempt_cannot_mend_is_not_retried(run, local, raw_scans):
    retried = pipeline_asset(shout, input=raw_scans, retry_policy=dg.RetryPolicy(max_retries=3))
    result = run([raw_scans, retried], local, resources={"file_dataset": object()})
    assert not result.success
    assert not result.filter_events(lambda event: event.is_step_up_for_retry)


def test_rows_have_their_files_in_temp_dir(run, local, raw_scans, tmp_path):
    seen = []

    def look(input_dir, output_dir):
        seen.append(input_dir)
        return shout(input_dir, output_dir)

    (tmp_path / "fast").mkdir()
    loud = pipeline_asset(look, name="loud", input=raw_scans, temp_dir=tmp_path / "fast")
    assert run([raw_scans, loud], local).success
    assert [tmp_path / "fast" in path.parents for path in seen] == [True, True]


def tell_variable(input_dir, output_dir):
    (output_dir / "loud.txt").write_text(os.environ["OF_THE_WORKER"])
    return {"loud.txt": output_dir / "loud.txt"}


def test_workers_have_variables_of_their_own(run, local, raw_scans):
    env = {"OF_THE_WORKER": "told"}
    loud = pipeline_asset(tell_variable, name="loud", input=raw_scans, workers=1, worker_env=env)
    assert run([raw_scans, loud], local).success
    assert "OF_THE_WORKER" not in os.environ


def test_on_ray_there_are_workers_for_variables():
    pipeline_asset(shout, input="raw_scans", runner="ray", worker_env={"A": "b"})
    with pytest.raises(file_dataset.InvalidDatasetError, match="give workers=1"):
        pipeline_asset(shout, input="raw_scans", runner="ray", worker_env={"A": "b"}, workers=0)


@pytest.mark.parametrize(
    ("argument", "most", "ran"), [("max_failures", 1, 2), ("max_failed_fraction", 0.2, 2), ("max_failures", 3, 6)]
)
def test_more_failed_rows_than_allowed_stop_the_run(run, local, scans, argument, most, ran):
    """Of six rows the first three fail at fn: the first over the limit stops the run, which is not tried again."""
    ids, called = [f"s{number}" for number in range(6)], []

    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(ids)

    def fail(input_dir, output_dir):
        called.append(input_dir)
        if len(called) in (1, 2, 3):
            message = "bad"
            raise ValueError(message)
        return shout(input_dir, output_dir)

    policy = dg.RetryPolicy(max_retries=1)
    loud = pipeline_asset(
        fail,
        name="loud",
        input=raw_scans,
        prefetch=0,
        max_dropped_fraction=0.6,
        retry_policy=policy,
        **{argument: most},
    )
    result = run([raw_scans, loud], local)
    assert (result.success, len(called)) == (ran == len(ids), ran)
    assert not result.filter_events(lambda event: event.is_step_up_for_retry)
    if not result.success:
        failure = failure_of(result)
        assert f"{argument}={most}" in failure.description
        assert len(ManifestIOManager(resource=local).load(failure.metadata["failures_uri"].value)) == len(called)


def test_an_input_that_is_no_frame_is_told(run, local):
    @dg.asset(io_manager_key="memory")
    def raw_scans():
        return ["s1"]

    result = run(
        [raw_scans, pipeline_asset(shout, input=raw_scans)], local, resources={"memory": dg.InMemoryIOManager()}
    )
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert "DataFrame" in str(event)


def test_a_frame_that_is_refused_fails_the_run_without_a_retry(run, local, scans):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return pd.concat([scans(["s1"])] * 2)

    result = run([raw_scans, pipeline_asset(shout, input=raw_scans, retry_policy=dg.RetryPolicy(max_retries=3))], local)
    assert "duplicate" in failure_of(result).description
    assert not result.filter_events(lambda event: event.is_step_up_for_retry)


def test_a_run_that_cannot_go_on_says_so_and_keeps_the_old_manifest(run, local, raw_scans, s3_endpoint):
    loud = pipeline_asset(shout, input=raw_scans, name="loud")
    run([raw_scans, loud], local)
    nowhere = pipeline_asset(shout, input=raw_scans, name="loud", into_path="s3://no-such-bucket-here")
    remote = FileDatasetResource(endpoint_url=s3_endpoint)
    io_manager = ManifestIOManager(resource=local)
    result = run([raw_scans, nowhere], remote, resources={"io_manager": io_manager})
    failure = failure_of(result)
    assert "the pipeline stopped" in failure.description
    assert "NoSuchBucket" in failure.description
    assert len(io_manager.load(failure.metadata["failures_uri"].value)) == 1
    assert len(manifest_of(local, "loud")) == 2


def dies_on_one_row(input_dir, output_dir):
    if "s1" in (input_dir / "scan.txt").read_text():
        os._exit(7)
    return shout(input_dir, output_dir)


def test_a_process_of_fn_that_dies_costs_its_row(run, local, raw_scans):
    assert run([raw_scans, pipeline_asset(dies_on_one_row, input=raw_scans, name="loud", workers=1)], local).success
    assert manifest_of(local, "loud")["id"].tolist() == ["s2"]
    assert manifest_of(local, "loud", of="failures")["error_type"].tolist() == ["WorkerDiedError"]


def test_a_function_of_a_file_that_dagster_loaded_goes_to_a_worker(run, local, raw_scans, tmp_path, monkeypatch):
    """`dagster dev -f defs.py` loads a module that no other process can import by its name."""
    path = tmp_path / "defs_of_a_user.py"
    path.write_text(
        "def same(input_dir, output_dir):\n    return helper(input_dir)\n\n\n"
        "def helper(input_dir):\n    return {'scan.txt': input_dir / 'scan.txt'}\n"
    )
    spec = importlib.util.spec_from_file_location("defs_of_a_user", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "defs_of_a_user", module)
    spec.loader.exec_module(module)
    asset = pipeline_asset(module.same, input=raw_scans, workers=1)
    assert run([raw_scans, asset], local).success
    assert manifest_of(local, "same")["id"].tolist() == ["s1", "s2"]


def test_progress_is_logged(run, local, raw_scans, monkeypatch, instance):
    monkeypatch.setattr("file_dataset_dagster._partition_run._PROGRESS_S", 0)
    result = run([raw_scans, pipeline_asset(shout, input=raw_scans, name="loud")], local)
    assert "1 of 2 rows done, 0 dropped" in [entry.user_message for entry in instance.all_logs(result.run_id)]


def test_an_asset_is_called_directly_in_a_test(scans, local):
    loud = pipeline_asset(shout, input="raw_scans", name="loud")
    resources = {"file_dataset": local, "io_manager": ManifestIOManager(resource=local)}
    with dg.build_asset_context(resources=resources) as context:
        materialized, checked = list(loud(context, scans(["s1"])))
    assert type(materialized.value) is pd.DataFrame
    assert materialized.value["id"].tolist() == ["s1"]
    assert checked.passed


def test_the_value_that_others_see_is_the_manifest(run, local, raw_scans, instance):
    loud = pipeline_asset(shout, input=raw_scans, name="loud")
    resources = {"file_dataset": local, "io_manager": ManifestIOManager(resource=local)}
    result = run([raw_scans, loud], local)
    loaded = dg.Definitions([raw_scans, loud], resources=resources).load_asset_value("loud", instance=instance)
    for value in (result.asset_value("loud"), result.output_for_node("loud"), loaded):
        pd.testing.assert_frame_equal(value, manifest_of(local, "loud"))
    assert len(manifest_of(local, "loud", of="files")) == 2


def test_a_code_location_loads():
    loud = pipeline_asset(shout, input="raw_scans", name="loud")
    resource = FileDatasetResource(base_path="s3://bucket/base")
    definitions = dg.Definitions(
        assets=[dg.AssetSpec("raw_scans"), loud],
        resources={"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)},
    )
    dg.Definitions.validate_loadable(definitions)
    (spec,) = loud.check_specs
    assert (spec.name, spec.asset_key) == ("no_dropped_rows", loud.key)


def test_a_decorated_function_of_a_module_goes_to_another_process(scans, tmp_path):
    """Its name is the asset, so it pickles by value; `Pipeline` does so."""
    pipeline = file_dataset.Pipeline(shout, write_options={"into_path": tmp_path / "out"})
    again = pickle.loads(pickle.dumps(pipeline))
    assert len(again(scans(["s1"]))) == 1
