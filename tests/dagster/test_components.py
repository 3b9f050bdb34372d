"""Components: what YAML says is what Python says, and what `dg scaffold` writes runs."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.core.package_entry import discover_entry_point_package_objects
from dagster.components.core.snapshot import get_package_entry_snap
from dagster.components.testing import create_defs_folder_sandbox
from dagster_dg_core.component import get_used_env_vars
from dagster_runs import copy_scan
from dagster_shared.serdes.objects import EnvRegistryKey

import file_dataset
from file_dataset_dagster import (
    FileDatasetComponent,
    FileDatasetResource,
    FilesComponent,
    ManifestIOManager,
    PipelineComponent,
    build_files_sensor,
    build_manifest_checks,
    files_asset,
    pipeline_asset,
)
from file_dataset_dagster._asset_arguments import AssetArguments
from file_dataset_dagster._pipeline_asset import Arguments
from file_dataset_dagster.components import FilesSensor, ManifestChecks

SECRET = "s3cr3t-0f-the-components"
NESTED = {"FilesSensorModel", "ManifestChecksModel"}
COMPONENTS = {
    "FileDatasetComponent": FileDatasetComponent,
    "FilesComponent": FilesComponent,
    "PipelineComponent": PipelineComponent,
}


@pytest.fixture
def project():
    """A project's defs folder."""
    with create_defs_folder_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def load(project):
    """Return the component that YAML describes, in a folder `one` whose module `code` has a copying function."""

    def component(attributes, kind="PipelineComponent", code=None, **others):
        folder = project.defs_folder_path / "one"
        folder.mkdir(exist_ok=True)
        (folder / "code.py").write_text(code or f"{inspect.getsource(copy_scan)}\n")
        if kind == "PipelineComponent":
            attributes = {"fn": ".code.copy_scan", "input": "scans"} | attributes
        document = {"type": f"file_dataset_dagster.{kind}", "attributes": attributes} | others
        (folder / "defs.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        with project.build_component_tree() as tree:
            return tree.load_component(folder)

    return component


def why(error):
    """The messages of an error and of its causes, as Dagster prints them."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)


def asset_of(component):
    (asset,) = dg.build_defs_for_component(component).assets
    return asset


# what is there, and what it is called


def test_the_attributes_of_a_pipeline_are_the_arguments_of_pipeline_asset():
    ours = inspect.signature(pipeline_asset).parameters
    fields = PipelineComponent.model_fields
    assert set(fields) == {"fn", "manifest_checks"} | set(Arguments.__annotations__)
    known = {name: parameter.default for name, parameter in ours.items() if name not in {"fn", "input", "asset_args"}}
    known |= {
        name: parameter.default
        for name, parameter in inspect.signature(dg.asset).parameters.items()
        if name in fields and name not in known
    }
    # is_virtual came with Dagster 1.13; compute_kind goes
    assert set(fields) - set(known) <= {"fn", "input", "manifest_checks", "is_virtual", "compute_kind"}
    assert {name: fields[name].default for name in known} == known


def defaults_of(function, but):
    return {name: found.default for name, found in inspect.signature(function).parameters.items() if name not in but}


def test_the_attributes_of_files_are_the_arguments_of_files_asset():
    fields = FilesComponent.model_fields
    known = defaults_of(files_asset, {"patterns", "asset_args"})
    assert set(fields) == {"patterns", "sensor"} | set(known) | set(AssetArguments.__annotations__)
    assert {name: fields[name].default for name in known} == known


def test_the_attributes_of_a_sensor_are_the_arguments_of_build_files_sensor():
    fields = FilesSensor.model_fields
    known = defaults_of(build_files_sensor, {"asset"})
    assert known.pop("default_status") is dg.DefaultSensorStatus[fields["default_status"].default.upper()]
    assert set(fields) == {"default_status"} | set(known)
    assert {name: fields[name].default for name in known} == known


def test_the_attributes_of_the_resource_are_its_fields():
    fields = FileDatasetComponent.model_fields
    own = {"resource_key", "io_manager_key", "manifest_base_path"}
    assert {name: field.default for name, field in fields.items() if name not in own} == {
        name: field.default for name, field in FileDatasetResource.model_fields.items()
    }


def test_the_checks_of_a_pipeline_are_the_arguments_of_build_manifest_checks():
    # the asset, and so its partitions, are the component's own
    arguments = set(inspect.signature(build_manifest_checks).parameters) - {"asset", "partitions_def"}
    assert set(ManifestChecks.model_fields) == arguments


@pytest.mark.parametrize("name", COMPONENTS)
def test_dg_shows_what_each_attribute_is(name):
    schema = COMPONENTS[name].model().model_json_schema()
    ours = {"": schema} | {name: found for name, found in schema.get("$defs", {}).items() if name in NESTED}
    without = [
        (name, attribute)
        for name, found in ours.items()
        for attribute, shown in found["properties"].items()
        if not shown.get("description")
    ]
    assert without == []
    # a page of Markdown in the UI: an example in YAML, and none in Python
    shown = get_package_entry_snap(EnvRegistryKey("file_dataset_dagster", name), COMPONENTS[name])
    assert ">>>" not in shown.description
    sample = re.search(r"```yaml\n(.*?)```", shown.description, re.DOTALL)[1]
    assert yaml.safe_load(sample)["type"] == f"file_dataset_dagster.{name}"
    COMPONENTS[name].model().model_validate(yaml.safe_load(sample)["attributes"])


def test_the_docs_of_an_attribute_are_those_of_the_argument():
    properties = PipelineComponent.model().model_json_schema()["properties"]
    assert properties["num_gpus"]["description"] == "per task, on Ray."
    assert properties["pool"]["description"].startswith("A string that identifies the concurrency pool")
    # of several lines, which the docstring breaks
    assert "workers" in properties["worker_env"]["description"]
    # the words of file_dataset.Pipeline in the place of a reference to it; and a null of YAML's
    assert properties["temp_dir"]["description"].endswith("a directory of every node.")
    assert "takes it" not in properties["temp_dir"]["description"]
    assert "null: what suits the runner, 0 locally and 1 on Ray" in properties["workers"]["description"]
    assert "{site}-{patient}" in FilesComponent.model().model_json_schema()["properties"]["id"]["description"]


def test_dagster_finds_the_components_where_the_package_is_installed(entry_points, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(entry_points), *sys.path])
    found = {key.to_typename(): value for key, value in discover_entry_point_package_objects().items()}
    ours = {name: value for name, value in found.items() if name.startswith("file_dataset_dagster.")}
    assert ours == {f"file_dataset_dagster.{name}": value for name, value in COMPONENTS.items()}


def test_what_dg_lists_loads_no_pandas_and_a_code_location_without_components_not_ours():
    """Every command of `dg` loads what is listed: pandas and pyarrow took more of its time than all else of ours."""
    code = """
import sys
import file_dataset_dagster
names = ["pandas", "numpy", "pyarrow", "ray", "file_dataset_dagster.components"]
print([name for name in names if name in sys.modules])
from dagster.components.core.package_entry import discover_package_objects
from dagster.components.core.snapshot import get_package_entry_snap
found = discover_package_objects(["file_dataset_dagster"])
print([get_package_entry_snap(key, value).key.name for key, value in found.items()])
print([name for name in names if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", str(list(COMPONENTS)), "['file_dataset_dagster.components']"]


# from YAML to files


@pytest.mark.parametrize("scaffold_format", ["yaml", "python"])
def test_what_is_scaffolded_runs(project, instance, tmp_path, scaffold_format):
    for row_id in "12":
        (tmp_path / "raw" / row_id).mkdir(parents=True)
        (tmp_path / "raw" / row_id / "scan.txt").write_text(f"scan {row_id}")
    base = str(tmp_path / "base")
    for component, name, params in (
        (FileDatasetComponent, "store", {"base_path": base}),
        (FilesComponent, "scans", {"pattern": f"{tmp_path}/raw/{{id}}/scan.txt"}),
        (PipelineComponent, "sizes", {}),
    ):
        project.scaffold_component(component, name, params, scaffold_format)
    with project.build_all_defs() as defs:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        manifest = result.asset_value("sizes")
    assert manifest["sizes.json"].tolist() == [f"{base}/files/sizes/{row_id}/sizes.json" for row_id in "12"]
    assert Path(manifest["sizes.json"][0]).read_text() == '{"scan.txt": 6}'
    assert [check.asset_check_key.name for check in result.get_asset_check_evaluations()] == ["no_dropped_rows"]


def test_the_store_that_is_scaffolded_lies_in_the_project(project):
    folder = project.scaffold_component(FileDatasetComponent, "store")
    with project.load_component_and_build_defs(folder) as (component, _):
        assert component.base_path == f"{project.project_root.resolve()}/data"


def env_without_requirements(text):
    """What `dg check yaml --validate-requirements` refuses."""
    return [
        (one["type"], name)
        for one in yaml.safe_load_all(text)
        for name in get_used_env_vars(one["attributes"])
        if name not in one.get("requirements", {}).get("env", [])
    ]


def test_the_keys_that_a_scaffolded_store_has_in_comments_are_those_that_load(project):
    file = project.scaffold_component(FileDatasetComponent, "store") / "defs.yaml"
    text = re.sub(r"^( *)# (?=[a-z_]+: [\"s]|requirements: |  env: )", r"\1", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)
    assert env_without_requirements(text) == []
    with project.load_component_and_build_defs(file.parent) as (component, _):
        keys = component.aws_access_key_id, component.aws_secret_access_key, component.endpoint_url
    assert [key.env_var_name for key in keys] == yaml.safe_load(text)["requirements"]["env"]


def test_the_test_that_is_scaffolded_passes_and_can_fail(project, tmp_path):
    folder = project.scaffold_component(PipelineComponent, "deep/gray")
    assert sorted(file.name for file in folder.iterdir()) == ["defs.yaml", "gray.py", "test_gray.py"]
    with project.build_component_tree():
        test = importlib.import_module(f"{project.project_name}.defs.deep.gray.test_gray")
        test.test_gray_writes_its_outputs(tmp_path)
        test.gray = copy_scan
        with pytest.raises(KeyError, match=r"sizes\.json"):
            test.test_gray_writes_its_outputs(tmp_path)


def test_scaffolding_again_leaves_a_function_that_is_there(project):
    folder = project.scaffold_component(PipelineComponent, "gray")
    (folder / "gray.py").write_text("mine")
    with pytest.raises(FileExistsError):
        project.scaffold_component(PipelineComponent, "gray")
    assert (folder / "gray.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["2d", "gray-scans", "class"])
def test_a_folder_whose_name_no_function_can_have_is_refused(project, name):
    with pytest.raises(file_dataset.InvalidDatasetError, match=f"{name}.* cannot be the name of a Python function"):
        project.scaffold_component(PipelineComponent, name)
    assert list((project.defs_folder_path / name).iterdir()) == []
    folder = project.scaffold_component(PipelineComponent, f"{name} again", {"fn": "dagster_runs.copy_scan"})
    assert [file.name for file in folder.iterdir()] == ["defs.yaml"]


def test_a_function_that_is_there_needs_no_scaffold(project):
    folder = project.scaffold_component(PipelineComponent, "copied", {"fn": "dagster_runs.copy_scan", "input": "raw/a"})
    assert [file.name for file in folder.iterdir()] == ["defs.yaml"]
    with project.load_component_and_build_defs(folder) as (component, _):
        assert component.fn is copy_scan
        assert component.input == dg.AssetKey(["raw", "a"])


# what YAML says


def test_text_stays_text(load):
    """Dagster's own reading makes 1.1 of the text "1.10", 7 of "7" and None of "None"."""
    text = {"code_version": "1.10", "outputs": ["1e3", "None"], "worker_env": {"A": "1", "B": 2, "C": "{{ 1 + 2 }}"}}
    component = load({**text, "workers": 1, "tags": {"n": "1.10"}, "group_name": "7"})
    assert component.code_version == "1.10"
    assert component.outputs == ["1e3", "None"]
    assert component.worker_env == {"A": "1", "B": "2", "C": "3"}
    assert component.tags == {"n": "1.10"}
    assert component.group_name == "7"


def test_text_of_a_template_stays_text(load, monkeypatch):
    """A template gives 1.1 of the text "1.10", and 7 of "7", where a number is not asked for either."""
    for name, value in {"VERSION": "1.10", "SEVEN": "7", "DAY": "20260105"}.items():
        monkeypatch.setenv(f"COMPONENTS_{name}", value)
    version, seven = "{{ env.COMPONENTS_VERSION }}", "{{ env('COMPONENTS_SEVEN') }}"
    component = load(
        {
            "code_version": version,
            "group_name": seven,
            "outputs": [version, "a"],
            "tags": {"n": version},
            "key": seven,
            "input": {"key": version, "input_manager_key": seven},
            "deps": [version],
            "partitions_def": {
                "type": "multi",
                "dimensions": {
                    "version": {"type": "static", "partition_keys": [version, seven]},
                    "day": {"type": "daily", "start_date": "{{ env.COMPONENTS_DAY }}", "fmt": "%Y%m%d"},
                },
            },
        }
    )
    assert (component.code_version, component.group_name, component.outputs) == ("1.10", "7", ["1.10", "a"])
    assert (component.tags, component.key, component.deps) == ({"n": "1.10"}, dg.AssetKey("7"), [dg.AssetKey("1.10")])
    assert component.input == dg.AssetIn(key="1.10", input_manager_key="7")
    dimensions = {one.name: one.partitions_def for one in component.partitions_def.partitions_defs}
    assert dimensions["version"].get_partition_keys() == ["1.10", "7"]
    assert dimensions["day"].get_first_partition_key() == "20260105"


DAYS = dg.DailyPartitionsDefinition("2026-01-05", end_date="2026-01-11", hour_offset=2)
COLORS = dg.StaticPartitionsDefinition(["red", "1.10"])


@pytest.mark.parametrize(
    ("name", "in_yaml", "in_python"),
    [
        ("key", "scans/gray", dg.AssetKey(["scans", "gray"])),
        ("key_prefix", ["a", "b"], ["a", "b"]),
        ("key_prefix", "a", "a"),
        ("input", "raw/a", dg.AssetKey(["raw", "a"])),
        (
            "input",
            {"key": "raw/a", "partition_mapping": "{{ context_of_tests.last }}"},
            dg.AssetIn(key=dg.AssetKey(["raw", "a"]), partition_mapping=dg.LastPartitionMapping()),
        ),
        ("deps", ["raw/a", "b"], [dg.AssetKey(["raw", "a"]), dg.AssetKey("b")]),
        ("partitions_def", {"type": "static", "partition_keys": ["red", "1.10"]}, COLORS),
        (
            "partitions_def",
            {"type": "daily", "start_date": "2026-01-05", "end_date": "2026-01-11", "hour_offset": 2},
            DAYS,
        ),
        (
            "partitions_def",
            {"type": "hourly", "start_date": "2026-01-05-00:00", "timezone": "Europe/Berlin"},
            dg.HourlyPartitionsDefinition("2026-01-05-00:00", timezone="Europe/Berlin"),
        ),
        (
            "partitions_def",
            {"type": "weekly", "start_date": "2026-01-05", "day_offset": 1},
            dg.WeeklyPartitionsDefinition("2026-01-05", day_offset=1),
        ),
        (
            "partitions_def",
            {"type": "monthly", "start_date": "2026-01-01", "end_offset": 1},
            dg.MonthlyPartitionsDefinition("2026-01-01", end_offset=1),
        ),
        (
            "partitions_def",
            {"type": "time_window", "start_date": "2026-01-05", "fmt": "%Y-%m-%d", "cron_schedule": "0 5 * * *"},
            dg.TimeWindowPartitionsDefinition(start="2026-01-05", fmt="%Y-%m-%d", cron_schedule="0 5 * * *"),
        ),
        ("partitions_def", {"type": "dynamic", "name": "site"}, dg.DynamicPartitionsDefinition(name="site")),
        (
            "partitions_def",
            {
                "type": "multi",
                "dimensions": {
                    "color": {"type": "static", "partition_keys": ["red", "1.10"]},
                    "day": {
                        "type": "daily",
                        "start_date": "{{ '2026-01-05' }}",
                        "end_date": "2026-01-11",
                        "hour_offset": 2,
                    },
                },
            },
            dg.MultiPartitionsDefinition({"color": COLORS, "day": DAYS}),
        ),
        ("partitions_def", "{{ context_of_tests.days }}", DAYS),
        ("partitions_def", {"type": "static", "partition_keys": "{{ context_of_tests.colors }}"}, COLORS),
        ("partitions_def", {"type": "static", "partition_keys": ["{{ 'r' ~ 'ed' }}", "1.10"]}, COLORS),
        (
            "partitions_def",
            {
                "type": "daily",
                "start_date": "{{ '2026-01' ~ '-05' }}",
                "end_date": "2026-01-11",
                "hour_offset": "{{ 1 + 1 }}",
            },
            DAYS,
        ),
        ("backfill_policy", {"type": "single_run"}, dg.BackfillPolicy.single_run()),
        ("backfill_policy", {"type": "multi_run", "max_partitions_per_run": 3}, dg.BackfillPolicy.multi_run(3)),
        (
            "backfill_policy",
            {"type": "multi_run", "max_partitions_per_run": "{{ 2 + 1 }}"},
            dg.BackfillPolicy.multi_run(3),
        ),
        ("retry_policy", {"max_retries": "{{ 3 }}", "delay": "{{ 0.5 }}"}, dg.RetryPolicy(max_retries=3, delay=0.5)),
        (
            "retry_policy",
            {"max_retries": 3, "delay": 2, "backoff": "exponential", "jitter": "plus_minus"},
            dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS),
        ),
        ("automation_condition", "{{ dg.AutomationCondition.eager() }}", dg.AutomationCondition.eager()),
        ("preview", "dagster_runs.copy_scan", copy_scan),
        ("write_options", {"if_exists": "skip"}, {"if_exists": "skip"}),
        ("op_tags", {"dagster-k8s/config": {"a": [1, "2"]}}, {"dagster-k8s/config": {"a": [1, "2"]}}),
        ("max_dropped_fraction", 0.05, 0.05),
        ("batch_size", "{{ 2 + 2 }}", 4),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) and "type" in value else None,
)
def test_yaml_gives_what_python_gives(load, name, in_yaml, in_python):
    code = f"""
import dagster as dg

{inspect.getsource(copy_scan)}

class Given:
    last = dg.LastPartitionMapping()
    colors = ["red", "1.10"]
    days = dg.DailyPartitionsDefinition("2026-01-05", end_date="2026-01-11", hour_offset=2)

@dg.template_var
def context_of_tests():
    return Given
"""
    component = load({name: in_yaml}, code=code, template_vars_module=".code")
    assert getattr(component, name) == in_python


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ env.COMPONENTS_BUCKET }}", "raw"),
        ("s3://{{ env.COMPONENTS_BUCKET }}/scans", "s3://raw/scans"),
        ("s3://{{ env('COMPONENTS_BUCKET') }}/scans", "s3://raw/scans"),
    ],
)
def test_a_variable_of_the_environment_is_in_the_text_or_an_error(load, monkeypatch, template, text):
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load({"into_path": template})
    assert re.search(r"(environment variable|Environment variable) COMPONENTS_BUCKET is not set", why(raised.value))
    assert "attributes.into_path" in why(raised.value) or "env(" in template
    assert load({"into_path": "s3://{{ env.COMPONENTS_BUCKET or 'test' }}/a"}).into_path == "s3://test/a"
    monkeypatch.setenv("COMPONENTS_BUCKET", "raw")
    assert load({"into_path": template}).into_path == text


@pytest.mark.parametrize(
    ("attributes", "kind", "message"),
    [
        (
            {"into_path": "s3://raw/{{ buckt }}"},
            "PipelineComponent",
            "'buckt' not found in scope, available .* project_root",
        ),
        ({"into_path": "s3://{{ buckt | upper }}/a"}, "PipelineComponent", "'buckt' not found in scope"),
        ({"into_path": "{{ context.roots }}/a"}, "PipelineComponent", "has no attribute 'roots'"),
        ({"write_options": {"a": "x-{{ buckt }}"}}, "PipelineComponent", r"write_options\.a\b"),
        ({"base_path": "s3://raw/{{ buckt }}"}, "FileDatasetComponent", "'buckt' not found in scope"),
        # a field of a pattern, in the braces of a template
        ({"name": "a", "patterns": {"a": "s3://raw/{site}/{{id}}"}}, "FilesComponent", "'id' not found in scope"),
    ],
)
def test_a_name_that_a_template_misspells_is_an_error_and_no_empty_text(load, attributes, kind, message):
    """Dagster alone makes `s3://raw/` of `s3://raw/{{ buckt }}`."""
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load(attributes, kind)
    assert re.search(message, why(raised.value))
    assert re.search(r"one/defs\.yaml:\d+ - attributes\.", why(raised.value))


def test_a_template_may_ask_whether_a_name_is_there(load):
    text = "{{ buckt | default('a') }}/{{ buckt or 'b' }}/{{ 'no' if buckt is undefined else buckt }}"
    assert load({"into_path": f"s3://raw/{text}"}).into_path == "s3://raw/a/b/no"


def test_a_template_that_fails_is_shown_as_dagster_shows_it(load):
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load({"into_path": "s3://raw/{{ 1 / 0 }}"})
    assert re.search(r"one/defs\.yaml:5 - attributes\.into_path(?s:.*)ZeroDivisionError", why(raised.value))


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"automation_condition": "eager"}, "PipelineComponent"),
        ({"partitions_def": "eager"}, "PipelineComponent"),
        ({"backfill_policy": "eager"}, "PipelineComponent"),
        ({"retry_policy": "eager"}, "PipelineComponent"),
        ({"input": {"key": "a", "partition_mapping": "eager"}}, "PipelineComponent"),
        ({"resource_defs": {"a": "eager"}}, "PipelineComponent"),
        ({"name": "a", "patterns": {"a": "s3://raw/{id}"}, "sensor": {"job": "eager"}}, "FilesComponent"),
        ({"s3_resource": "eager"}, "FileDatasetComponent"),
    ],
)
def test_text_in_the_place_of_an_object_is_refused_where_it_is_written(load, attributes, kind):
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load(attributes, kind)
    assert re.search(r"'eager' is text, where an object .* write a template", why(raised.value))
    assert re.search(r"one/defs\.yaml:\d+ - attributes\.", why(raised.value))


def test_a_type_of_partitions_that_there_is_not_is_one_error_that_names_those_there_are(load):
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load({"partitions_def": {"type": "dayly", "start_date": "2026-01-05"}})
    assert re.search(r"'dayly' .* expected tags: 'hourly', 'daily', .* 'multi'", why(raised.value))
    assert "Field required" not in why(raised.value)


def test_a_pipeline_in_yaml_is_the_asset_of_python(load):
    shared = {
        "group_name": "cohort",
        "max_dropped_fraction": 0.1,
        "pool": "scanner",
        "owners": ["team:imaging"],
        "tags": {"tier": "1"},
        "metadata": {"rows": 3},
        "code_version": "2.0",
        "description": "Copies.",
        "io_manager_key": "manifests",
        "resource_key": "store",
    }
    in_yaml = load(
        {
            **shared,
            "key": "scans/copied",
            "input": "raw/scans",
            "deps": ["other"],
            "kinds": ["s3", "mha"],
            "required_resource_keys": ["extra"],
            "partitions_def": {"type": "static", "partition_keys": ["red", "1.10"]},
            "retry_policy": {"max_retries": 2},
            "manifest_checks": {"content_unchanged": True},
        }
    )
    in_python = pipeline_asset(
        copy_scan,
        **shared,
        key=["scans", "copied"],
        input=dg.AssetKey(["raw", "scans"]),
        deps=["other"],
        kinds={"s3", "mha"},
        required_resource_keys={"extra"},
        partitions_def=COLORS,
        retry_policy=dg.RetryPolicy(max_retries=2),
    )
    checks = build_manifest_checks(in_python, content_unchanged=True, resource_key="store", io_manager_key="manifests")
    defs = dg.build_defs_for_component(in_yaml)
    (asset,) = defs.assets
    assert list(asset.specs) == list(in_python.specs)
    assert asset.required_resource_keys == in_python.required_resource_keys
    assert asset.op.retry_policy == in_python.op.retry_policy
    assert list(asset.check_specs) == list(in_python.check_specs)
    found = [(check.check_key, check.required_resource_keys) for check in defs.asset_checks]
    assert found == [(check.check_key, check.required_resource_keys) for check in checks]


def test_without_kinds_the_asset_has_those_of_python(load):
    (spec,) = asset_of(load({})).specs
    assert spec.kinds == {"s3"}


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        ("copy_scan", r"'copy_scan' names no function: give package.module.function, or .module.function"),
        (".copy_scan", "names no function"),
        (
            ".code.missing",
            r"the module \S+\.defs\.one\.code has no missing, which '.code.missing' names: it has copy_scan",
        ),
        (".nowhere.copy_scan", r"there is no module \S+\.defs\.one\.nowhere, which '.nowhere.copy_scan' names"),
        ("no_such_package.fn", "there is no module no_such_package"),
    ],
)
def test_a_function_that_is_not_there_is_named_where_it_is_written(load, fn, message):
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load({"fn": fn})
    assert re.search(message, why(raised.value))
    assert re.search(r"one/defs\.yaml:\d+ - attributes\.fn", why(raised.value))


def test_an_import_that_fails_in_the_module_of_a_function_is_shown_as_it_is(load):
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load({}, code="import no_such_package_in_it\n")
    assert "No module named 'no_such_package_in_it'" in why(raised.value)
    assert "there is no module" not in why(raised.value)


def test_a_misspelt_attribute_is_refused_where_it_is_written(load):
    with pytest.raises(Exception, match=r"one|max_droped") as raised:
        load({"max_droped_fraction": 0.1})
    assert "max_droped_fraction" in why(raised.value)


# files


def test_files_in_yaml_are_the_asset_and_the_sensor_of_python(load, monkeypatch):
    monkeypatch.setenv("COMPONENTS_BUCKET", "raw")
    component = load(
        {
            "name": "scans",
            "patterns": {"scan.mha": "s3://{{ env.COMPONENTS_BUCKET }}/{site}/{id}.mha"},
            "partition_by": "site",
            "details": ["etag"],
            "allow_empty": True,
            "group_name": "cohort",
            "sensor": {
                "target": "key:scans or group:cohort",
                "default_status": "running",
                "minimum_interval_seconds": 300,
                "run_config": {"ops": {"gray": {"config": {"only_changed": True}}}},
                "tags": {"n": 1},
            },
        },
        "FilesComponent",
    )
    in_python = files_asset(
        "scans",
        {"scan.mha": "s3://raw/{site}/{id}.mha"},
        partition_by="site",
        details=["etag"],
        allow_empty=True,
        group_name="cohort",
    )
    defs = dg.build_defs_for_component(component)
    (asset,) = defs.assets
    assert list(asset.specs) == list(in_python.specs)
    assert asset.partitions_def == dg.DynamicPartitionsDefinition(name="site")
    (sensor,) = defs.sensors
    assert (sensor.name, sensor.minimum_interval_seconds) == ("scans_files", 300)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    (job,) = sensor.jobs
    assert job.selection == dg.AssetSelection.from_string("key:scans or group:cohort")
    alone = load({"name": "scans", "patterns": {"a": "s3://raw/{id}"}}, "FilesComponent")
    assert not dg.build_defs_for_component(alone).sensors


def test_the_sensor_in_yaml_requests_a_run(load, tmp_path, instance):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "1.txt").write_text("scan 1")
    component = load(
        {"name": "scans", "patterns": {"scan.txt": f"{tmp_path}/raw/{{id}}.txt"}, "sensor": {"tags": {"n": 1}}},
        "FilesComponent",
    )
    store = FileDatasetResource(base_path=str(tmp_path / "base"))
    resources = {"file_dataset": store, "io_manager": ManifestIOManager(resource=store)}
    defs = dg.Definitions.merge(dg.build_defs_for_component(component), dg.Definitions(resources=resources))
    with dg.build_sensor_context(instance, definitions=defs, resources={"file_dataset": store}) as tick:
        (request,) = defs.resolve_sensor_def("scans_files").evaluate_tick(tick).run_requests
    assert (request.tags["n"], request.tags["file_dataset/new"]) == ("1", "1")


# secrets


def test_a_secret_of_the_environment_is_read_when_a_run_begins(load, monkeypatch):
    component = load(
        {
            "base_path": "{{ env('COMPONENTS_BASE') }}",
            "aws_access_key_id": "{{ env.COMPONENTS_KEY }}",
            "aws_secret_access_key": "{{ env.COMPONENTS_SECRET }}",
        },
        "FileDatasetComponent",
    )
    resources = dg.build_defs_for_component(component).resources
    with pytest.raises(Exception, match=r"COMPONENTS_(KEY|SECRET|BASE)"), dg.build_resources(resources):
        pass
    for name, value in {"KEY": "AKID", "SECRET": SECRET, "BASE": "s3://my-bucket/base"}.items():
        monkeypatch.setenv(f"COMPONENTS_{name}", value)
    with dg.build_resources(resources) as ready:
        store = ready.file_dataset
        assert (store.base_path, store.aws_access_key_id) == ("s3://my-bucket/base", "AKID")
        assert store.aws_secret_access_key == SECRET


def test_a_secret_is_in_no_repr_and_no_schema(load, monkeypatch):
    monkeypatch.setenv("COMPONENTS_SECRET", SECRET)
    code = f"import dagster as dg\n\n@dg.template_var\ndef ours():\n    return {SECRET!r}\n"
    for secret in ("{{ env.COMPONENTS_SECRET }}", "{{ ours }}"):
        attributes = {"aws_secret_access_key": secret, "aws_access_key_id": "AKID"}
        component = load(attributes, "FileDatasetComponent", code, template_vars_module=".code")
        store = dg.build_defs_for_component(component).resources["file_dataset"]
        schema = store.get_resource_definition().config_schema.as_field()
        for text in (repr(component), repr(store), repr(schema.default_value), repr(component.model_json_schema())):
            assert SECRET not in text
    assert store.aws_secret_access_key == SECRET


@pytest.mark.parametrize("name", ["aws_secret_access_key", "aws_session_token"])
def test_a_secret_that_stands_in_the_yaml_is_refused_and_not_shown(load, name):
    """Dagster prints the lines around an error of a YAML file, in logs and in its UI."""
    component = load({"aws_access_key_id": "AKID", name: SECRET}, "FileDatasetComponent")
    with pytest.raises(file_dataset.InvalidDatasetError) as raised:
        dg.build_defs_for_component(component)
    assert re.search(
        rf"{name} is written out in \S+one/defs\.yaml:4, .* write {name}: \"{{{{ env.NAME", why(raised.value)
    )
    assert SECRET not in why(raised.value)
    # Python code, which Dagster does not print, may say it
    store = dg.build_defs_for_component(FileDatasetComponent(**{name: SECRET})).resources["file_dataset"]
    assert getattr(store, name) == SECRET


def test_a_wrong_attribute_of_the_resource_shows_no_secret(load):
    with pytest.raises(Exception, match="Error while loading component one") as raised:
        load({"aws_secret_access_key": SECRET, "max_concurrency": "many"}, "FileDatasetComponent")
    assert "max_concurrency" in why(raised.value)
    assert SECRET not in why(raised.value)


def test_an_s3_resource_that_is_there_is_a_template(load):
    code = """
import dagster as dg
from dagster_aws.s3 import S3Resource

@dg.template_var
def ours():
    return S3Resource(endpoint_url="http://127.0.0.1:9000", aws_secret_access_key=dg.EnvVar("COMPONENTS_SECRET"))
"""
    component = load({"s3_resource": "{{ ours }}"}, "FileDatasetComponent", code, template_vars_module=".code")
    store = dg.build_defs_for_component(component).resources["file_dataset"]
    assert store.s3_resource.endpoint_url == "http://127.0.0.1:9000"
    assert "COMPONENTS_SECRET" not in repr(component)


def test_the_resource_comes_with_its_io_manager_unless_it_shall_not(load):
    attributes = {"base_path": "/base", "manifest_base_path": "/manifests", "resource_key": "store"}
    resources = dg.build_defs_for_component(load(attributes, "FileDatasetComponent")).resources
    assert set(resources) == {"store", "io_manager"}
    assert resources["io_manager"].uri(dg.AssetKey("a")) == "/manifests/manifests/a/manifest.parquet"
    assert isinstance(resources["io_manager"], ManifestIOManager)
    assert resources["io_manager"].resource == resources["store"]
    alone = load({"base_path": "/base", "io_manager_key": None}, "FileDatasetComponent")
    assert set(dg.build_defs_for_component(alone).resources) == {"file_dataset"}


# the page


def test_the_yaml_of_the_page_loads(project, monkeypatch, tmp_path):
    page = (Path(__file__).parents[2] / "docs/dagster.md").read_text()
    samples = re.findall(r"^```yaml\n# defs/(\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert [path for path, _ in samples] == ["store/defs.yaml", "scans/defs.yaml", "gray/defs.yaml"]
    for path, text in samples:
        assert env_without_requirements(text) == []
        folder = project.defs_folder_path / Path(path).parent
        folder.mkdir()
        (folder / "defs.yaml").write_text(text)
    (project.defs_folder_path / "gray" / "gray.py").write_text(
        inspect.getsource(copy_scan).replace("copy_scan", "gray")
    )
    # the package that the page's project has
    (tmp_path / "my_project").mkdir()
    nightly = inspect.getsource(copy_scan).replace("copy_scan", "nightly")
    (tmp_path / "my_project" / "pipelines.py").write_text(nightly)
    monkeypatch.syspath_prepend(tmp_path)
    with project.build_all_defs() as defs:
        assets = {asset.key.to_user_string(): asset for asset in defs.assets}
        assert set(assets) == {"scans", "gray", "scans/nightly"}
        assert [sensor.name for sensor in defs.sensors] == ["scans_files"]
        (spec,) = assets["gray"].specs
        assert (spec.group_name, spec.code_version, spec.kinds) == ("imaging", "1.10", {"s3", "mha"})
        assert isinstance(assets["scans/nightly"].partitions_def, dg.DailyPartitionsDefinition)
        store = defs.resources["file_dataset"]
    assert store.addressing_style == "path"
    assert isinstance(store.aws_secret_access_key, dg.EnvVar)  # which equals the text of its name
    assert store.aws_secret_access_key.env_var_name == "SCANS_SECRET_ACCESS_KEY"
