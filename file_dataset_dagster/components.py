"""Components of Dagster: the resource, files as a source and a pipeline, written in YAML.

`dg list components` shows them, `dg scaffold defs file_dataset_dagster.PipelineComponent NAME` writes YAML, a function
and its test, and each attribute is an argument of the Python API under its own name.
"""

# no `from __future__ import annotations` here: Dagster reads the annotations of a component as types

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

import file_dataset
from file_dataset_dagster import _yaml
from file_dataset_dagster._argument_docs import argument_docs
from file_dataset_dagster._files_asset import files_asset
from file_dataset_dagster._files_sensor import build_files_sensor
from file_dataset_dagster._io_manager import ManifestIOManager
from file_dataset_dagster._manifest_checks import build_manifest_checks
from file_dataset_dagster._pipeline_asset import pipeline_asset
from file_dataset_dagster._resource import FileDatasetResource
from file_dataset_dagster._scaffolds import FilesScaffolder, PipelineScaffolder, ResourceScaffolder

__all__ = ["FileDatasetComponent", "FilesComponent", "PipelineComponent"]


class _Documented(dg.Resolvable, dg.Model):
    """Attributes that have the docs of the arguments that they are."""

    # an attribute that was not resolved as it should be is no input to show: it may be a secret
    model_config = ConfigDict(hide_input_in_errors=True)

    _docs: ClassVar[Callable[[], Mapping[str, str]]]

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The model of the YAML; Dagster drops the descriptions of fields that have a default."""
        model = super().model()
        if all(field.description for field in model.model_fields.values()):
            return model
        docs = cls._docs()
        for name, field in model.model_fields.items():
            field.description = re.sub(r"\bNone\b", "null", docs.get(name, "")) or None
        model.model_rebuild(force=True)
        return model

    def given(self, *but: str) -> dict[str, Any]:
        """The attributes that are not at their defaults: those of Python are the same, those of Dagster come and go."""
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in fields if name not in but}
        return {name: value for name, value in values.items() if value is not None and value != fields[name].default}


def _docs_of_resource() -> dict[str, str]:
    fields = FileDatasetResource.model_fields
    secret = [
        name
        for name, field in fields.items()
        if "dagster__is_secret" in cast("dict[str, Any]", field.json_schema_extra or {})
    ]
    return {name: field.description for name, field in fields.items() if field.description} | {
        **{name: f'{name}: write "{{{{ env.NAME }}}}", which is read when a run begins.' for name in secret},
        "s3_resource": "A template that gives a dagster-aws S3Resource, in the place of the S3 fields.",
        "resource_key": "The key of the resource.",
        "io_manager_key": "The key of the ManifestIOManager; null: make no IO manager.",
        "manifest_base_path": "Where manifests lie, where that is not base_path.",
    }


@dg.scaffold_with(ResourceScaffolder)
class FileDatasetComponent(dg.Component, _Documented):
    """How S3 is reached, and where manifests lie: a FileDatasetResource and its ManifestIOManager.

    Attributes are the fields of FileDatasetResource. Write keys as `{{ env.NAME }}`: such a text becomes an EnvVar,
    which is read when a run begins, and whose value is in no file, UI or run. A secret in the file itself is refused.

    Example:
    ```yaml
    type: file_dataset_dagster.FileDatasetComponent
    attributes:
      base_path: s3://my-bucket/dagster
      endpoint_url: https://minio.example.com
      aws_access_key_id: "{{ env.SCANS_ACCESS_KEY_ID }}"
      aws_secret_access_key: "{{ env.SCANS_SECRET_ACCESS_KEY }}"
    ```
    """

    _docs = staticmethod(_docs_of_resource)

    base_path: _yaml.TextOrEnv = None
    use_unsigned_session: bool = False
    region_name: _yaml.TextOrEnv = None
    endpoint_url: _yaml.TextOrEnv = None
    max_attempts: int = 5
    profile_name: _yaml.TextOrEnv = None
    use_ssl: bool = True
    verify: bool | None = None
    aws_access_key_id: _yaml.TextOrEnv = Field(default=None, repr=False)
    aws_secret_access_key: _yaml.Secret = Field(default=None, repr=False)
    aws_session_token: _yaml.Secret = Field(default=None, repr=False)
    s3_resource: _yaml.Template = Field(default=None, repr=False)
    credentials: Literal["frozen", "worker"] = "frozen"
    ca_bundle: _yaml.TextOrEnv = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    checksums_when_required: bool = False
    check_digests: bool = True
    max_concurrency: int | None = None

    resource_key: str = "file_dataset"
    io_manager_key: str | None = "io_manager"
    manifest_base_path: _yaml.TextOrEnv = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 (Dagster's signature)
        """A resource, and its IO manager unless `io_manager_key` is null.

        Raises:
            file_dataset.InvalidDatasetError: a secret is written out in the YAML.

        Example:
            >>> component = FileDatasetComponent(base_path="s3://my-bucket/dagster", max_concurrency=16)
            >>> sorted(dg.build_defs_for_component(component).resources)
            ['file_dataset', 'io_manager']
        """
        given = self.given("resource_key", "io_manager_key", "manifest_base_path")
        for name, value in given.items():
            if isinstance(value, _yaml.Written):
                raise file_dataset.InvalidDatasetError(
                    f"{name} is written out in {value.place}, where Dagster shows it with any error of that file: put "
                    f'it into an environment variable, and write {name}: "{{{{ env.NAME }}}}"'
                )
        store = FileDatasetResource(**given)
        resources: dict[str, object] = {self.resource_key: store}
        if self.io_manager_key is not None:
            resources[self.io_manager_key] = ManifestIOManager(resource=store, base_path=self.manifest_base_path)
        return dg.Definitions(resources=resources)


_DOCS_OF_ASSETS = {
    "description": "Human-readable description of the asset.",
    # dg.asset's docstring has no words for these
    "freshness_policy": "The freshness policy of the asset: a template.",
    "is_virtual": "Whether the asset is a view, which Dagster never runs (Dagster 1.13).",
    "compute_kind": "A kind of the asset, in Dagster's older word; give kinds.",
    # in YAML they are written otherwise
    "key": "The key of the asset, as text such as `scans/resampled`; then without name and key_prefix.",
    "deps": "Keys of further assets that are upstream and not read, as text such as `raw/scans`.",
    "partitions_def": "Partitions: a mapping with `type` hourly, daily, weekly, monthly, time_window, static, dynamic "
    "or multi and the arguments of Dagster's class (start_date, partition_keys, name, dimensions, ...); or a template.",
    "backfill_policy": "`type: single_run`, or `type: multi_run` with max_partitions_per_run.",
    "retry_policy": "max_retries, delay (seconds), backoff (linear, exponential), jitter (full, plus_minus).",
    "automation_condition": 'When it runs by itself: a template such as "{{ dg.AutomationCondition.eager() }}".',
}


class _AssetAttributes(_Documented):
    """The arguments of `dg.asset` that are passed on."""

    name: _yaml.Text = None
    key: _yaml.Key = None
    key_prefix: _yaml.TextOrTexts = None
    deps: _yaml.Keys = None
    metadata: _yaml.ValuesByName = None
    tags: _yaml.TextsByName = None
    description: _yaml.Text = None
    required_resource_keys: _yaml.Texts = None
    resource_defs: _yaml.Templates = None
    hooks: _yaml.Template = None
    io_manager_def: _yaml.Template = None
    io_manager_key: str | None = None
    partitions_def: _yaml.PartitionsDef = None
    op_tags: _yaml.ValuesByName = None
    group_name: _yaml.Text = None
    output_required: bool = True
    automation_condition: _yaml.Template = None
    freshness_policy: _yaml.Template = None
    backfill_policy: _yaml.BackfillPolicy = None
    retry_policy: _yaml.RetryPolicy = None
    code_version: _yaml.Text = None
    owners: _yaml.Texts = None
    kinds: _yaml.Texts = None
    pool: _yaml.Text = None
    is_virtual: bool = False
    compute_kind: _yaml.Text = None

    def asset_arguments(self, *but: str) -> dict[str, Any]:
        """What is given, as `dg.asset` takes it."""
        arguments = self.given(*but)
        return arguments | {
            name: set(arguments[name]) for name in ("kinds", "required_resource_keys") if name in arguments
        }


class ManifestChecks(_Documented):
    """The arguments of `build_manifest_checks`."""

    _docs = staticmethod(lambda: argument_docs(build_manifest_checks))

    files_exist: bool = True
    content_unchanged: bool = False
    resource_key: str | None = None
    io_manager_key: str | None = None
    show_ids: bool | None = None


def _docs_of_pipeline() -> dict[str, str]:
    return {
        **argument_docs(dg.asset),
        **_DOCS_OF_ASSETS,
        **argument_docs(pipeline_asset, file_dataset.Pipeline.__init__),
        "description": "Human-readable description of the asset; fn's docstring unless given.",
        "fn": "The function: package.module.function, or .module.function for a module beside this YAML file.",
        "input": "The asset whose manifest is read: its key, as text such as `raw/scans`; or a mapping of key, "
        "partition_mapping, metadata and input_manager_key, as dg.AssetIn takes them.",
        "preview": "A function, named as `fn` is: preview(output_dir) returns the bytes of a PNG, 1 MiB at most; shown "
        "with the materialization for the first three rows, whose outputs are downloaded for it.",
        "manifest_checks": "Adds the checks of build_manifest_checks, whose arguments they are: files_exist and "
        "content_unchanged, true or false; {} for its defaults.",
    }


class _PipelineAttributes(_Documented):
    fn: _yaml.Function
    input: _yaml.Input
    into_path: _yaml.Text = None
    write_options: _yaml.ValuesByName = None
    runner: Literal["local", "ray"] | None = None
    resource_key: str = "file_dataset"
    write_resource_key: str | None = None
    ray_resource_key: str | None = None
    max_dropped_fraction: float | None = None
    on_exceeded: Literal["fail", "block", "check"] = "fail"
    min_rows: int = 0
    on_partition_failure: Literal["fail", "continue"] = "fail"
    preview: _yaml.OptionalFunction = None
    show_ids: bool = True
    batch_size: int | None = None
    concurrency: int | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    file_columns: _yaml.Texts = None
    outputs: _yaml.Texts = None
    prefetch: int | None = None
    workers: int | None = None
    fn_timeout_s: float | None = None
    max_failures: int | None = None
    max_failed_fraction: float | None = None
    worker_env: _yaml.TextsByName = None
    temp_dir: _yaml.Text = None


@dg.scaffold_with(PipelineScaffolder)
class PipelineComponent(dg.Component, _AssetAttributes, _PipelineAttributes):  # the last one's are shown first
    """A function of local files becomes an asset: it runs on each row of another asset's manifest.

    Attributes are the arguments of `pipeline_asset`, those of `dg.asset` among them, and `manifest_checks`. What YAML
    cannot say is a template: `"{{ dg.AutomationCondition.eager() }}"`, or a variable of your `template_vars_module`.

    Example:
    ```yaml
    type: file_dataset_dagster.PipelineComponent
    attributes:
      fn: .gray.gray  # the function `gray` of gray.py beside this file
      input: scans
      workers: 2
      max_dropped_fraction: 0.05
      manifest_checks: {}
    ```
    """

    _docs = staticmethod(_docs_of_pipeline)

    manifest_checks: ManifestChecks | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 (Dagster's signature)
        """The asset, and the checks of its manifest where `manifest_checks` asks for them.

        Example:
            >>> def shout(input_dir, output_dir):
            ...     text = (input_dir / "scan.txt").read_text()
            ...     (output_dir / "loud.txt").write_text(text.upper())
            ...     return {"loud.txt": output_dir / "loud.txt"}
            >>> component = PipelineComponent(fn=shout, input="raw_scans", group_name="speech", manifest_checks={})
            >>> [asset.key.to_user_string() for asset in dg.build_defs_for_component(component).assets]
            ['shout']
        """
        asset = pipeline_asset(self.fn, **self.asset_arguments("fn", "manifest_checks"))
        checks: list[dg.AssetChecksDefinition] = []
        if self.manifest_checks is not None:
            keys = {
                "resource_key": self.write_resource_key or self.resource_key,
                "io_manager_key": self.io_manager_key or "io_manager",
            }
            checks = build_manifest_checks(asset, **keys | self.manifest_checks.given())
        return dg.Definitions(assets=[asset], asset_checks=checks)


class FilesSensor(_Documented):
    """The arguments of `build_files_sensor`."""

    _docs = staticmethod(
        lambda: {
            **argument_docs(build_files_sensor),
            "target": "What to run: assets, in Dagster's selection syntax: `key:scans+`; this asset unless given.",
            "job": "A job to run, instead of target: a template.",
            "default_status": "running: the sensor runs without being switched on.",
        }
    )

    target: _yaml.Selection = None
    job: _yaml.Template = None
    partition_by: _yaml.Text = None
    name: _yaml.Text = None
    minimum_interval_seconds: int | None = 60
    max_run_requests: int = 500
    run_config: _yaml.ValuesByName = None
    tags: _yaml.TextsByName = None
    base_path: _yaml.Text = None
    description: _yaml.Text = None
    default_status: Literal["running", "stopped"] = "stopped"


class _FilesAttributes(_Documented):
    patterns: _yaml.TextsByName
    id: _yaml.Text = None
    details: _yaml.BoolOrTexts = ("size_bytes", "etag")
    allow_empty: bool = False
    partition_by: _yaml.Text = None
    observe: bool = False
    resource_key: str = "file_dataset"
    show_ids: bool = True


@dg.scaffold_with(FilesScaffolder)
class FilesComponent(dg.Component, _AssetAttributes, _FilesAttributes):
    """The files of a bucket become an asset, and a sensor that requests runs when files are new.

    Attributes are the arguments of `files_asset`, those of `dg.asset` among them, and `sensor`: the arguments of
    `build_files_sensor`, {} for its defaults.

    Example:
    ```yaml
    type: file_dataset_dagster.FilesComponent
    attributes:
      name: scans
      patterns:
        scan.mha: s3://my-bucket/raw/{site}/{id}.mha
      partition_by: site
      sensor:
        default_status: running
    ```
    """

    _docs = staticmethod(
        lambda: {
            **argument_docs(dg.asset),
            **_DOCS_OF_ASSETS,
            **argument_docs(files_asset, file_dataset.list_files),
            "sensor": "Adds the sensor of build_files_sensor, whose arguments they are; {} for its defaults.",
        }
    )

    sensor: FilesSensor | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 (Dagster's signature)
        """The asset, and its sensor where `sensor` asks for one.

        Example:
            >>> component = FilesComponent(name="scans", patterns={"scan.txt": "s3://my-bucket/{id}.txt"}, sensor={})
            >>> [sensor.name for sensor in dg.build_defs_for_component(component).sensors]
            ['scans_files']
        """
        asset = files_asset(**self.asset_arguments("sensor"))
        if self.sensor is None:
            return dg.Definitions(assets=[asset])
        arguments = self.sensor.given("default_status")
        status = dg.DefaultSensorStatus[self.sensor.default_status.upper()]
        return dg.Definitions(assets=[asset], sensors=[build_files_sensor(asset, **arguments, default_status=status)])
