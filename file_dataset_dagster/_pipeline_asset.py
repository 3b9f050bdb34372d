"""A function of local files becomes an asset: `Pipeline.run` on the manifest of another asset, reported to Dagster."""

# no `from __future__ import annotations` here: Dagster reads the annotations of an asset's function

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, cast, overload

import dagster as dg

import file_dataset
from file_dataset_dagster._asset_arguments import AssetArguments
from file_dataset_dagster._checks_by_partition import declared
from file_dataset_dagster._dropped_rows import DropPolicy, OnExceeded, check_spec
from file_dataset_dagster._inputs import INPUT, asset_key_of, input_of
from file_dataset_dagster._materialize import materialize
from file_dataset_dagster._on_ray import ray_settings
from file_dataset_dagster._partial_runs import PartialRun
from file_dataset_dagster._settings import PipelineFn, Settings

# arguments of dg.asset that have no meaning here, and what to do instead
_REFUSED = {
    "ins": "name the asset to read as input=, others as deps=",
    "check_specs": "the function has no way to answer them; write further checks with @dg.asset_check(asset=...)",
    "dagster_type": "the value is always a manifest",
    "config_schema": "its run config says which rows run: only_missing, only_changed, limit, ids",
}


class Arguments(AssetArguments, total=False):
    """The arguments of `pipeline_asset`, for editors and type checkers: its own, and those of `dg.asset`."""

    input: Any
    into_path: str | os.PathLike[str] | None
    write_options: Mapping[str, Any] | None
    runner: Literal["local", "ray"] | None
    resource_key: str
    write_resource_key: str | None
    ray_resource_key: str | None
    max_dropped_fraction: float | None
    on_exceeded: OnExceeded
    min_rows: int
    on_partition_failure: Literal["fail", "continue"]
    preview: Callable[[Path], bytes] | None
    show_ids: bool
    batch_size: int | None
    concurrency: int | None
    num_cpus: float | None
    num_gpus: float | None
    file_columns: Sequence[str] | None
    outputs: Sequence[str] | None
    prefetch: int | None
    workers: int | None
    fn_timeout_s: float | None
    max_failures: int | None
    max_failed_fraction: float | None
    worker_env: Mapping[str, str] | None
    temp_dir: str | os.PathLike[str] | None
    name: str | None


@overload
def pipeline_asset(fn: PipelineFn, **arguments: Unpack[Arguments]) -> dg.AssetsDefinition: ...
@overload
def pipeline_asset(fn: None = None, **arguments: Unpack[Arguments]) -> Callable[[PipelineFn], dg.AssetsDefinition]: ...
def pipeline_asset(  # noqa: PLR0913 (each is a choice of the user's)
    fn: PipelineFn | None = None,
    *,
    input: Any = None,  # noqa: A002 (the word a user would look for)
    into_path: str | os.PathLike[str] | None = None,
    write_options: Mapping[str, Any] | None = None,
    runner: Literal["local", "ray"] | None = None,
    resource_key: str = "file_dataset",
    write_resource_key: str | None = None,
    ray_resource_key: str | None = None,
    max_dropped_fraction: float | None = None,
    on_exceeded: OnExceeded = "fail",
    min_rows: int = 0,
    on_partition_failure: Literal["fail", "continue"] = "fail",
    preview: Callable[[Path], bytes] | None = None,
    show_ids: bool = True,
    batch_size: int | None = None,
    concurrency: int | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    file_columns: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    prefetch: int | None = None,
    workers: int | None = None,
    fn_timeout_s: float | None = None,
    max_failures: int | None = None,
    max_failed_fraction: float | None = None,
    worker_env: Mapping[str, str] | None = None,
    temp_dir: str | os.PathLike[str] | None = None,
    **asset_args: Any,
) -> Any:
    """Return an asset that runs `fn(input_dir, output_dir)` on each row of another asset's manifest.

    A decorator, or a factory: `resampled = pipeline_asset(resample, name="resampled", input=raw_scans)`, which leaves
    `resample` a plain function. The asset's value is its manifest; its check `no_dropped_rows` lists which rows are
    missing from it and why; from Dagster 1.13 on by partition.

    Args:
        fn: as `file_dataset.Pipeline` takes it.
        input: the asset whose manifest is read: the asset itself, its key, or its name; or `dg.AssetIn` with a key and
            more, such as a partition_mapping. Declare one of another code location in this one, with `dg.AssetSpec`. A
            partition that maps to several of its partitions gets them joined, with a column `partition`.
        into_path: outputs go to `<into_path>/[<partition>/]<id>/<file name>`; None: `<base_path>/files/<key parts>`.
        write_options: `{"extra_args": ..., "if_exists": ...}`: boto3's ExtraArgs for each output, and what becomes of
            rows whose outputs are there already, also of an earlier run of this asset (`file_dataset.WriteOptions`).
        runner: "local": in the process of the step; "ray": `file_dataset.ray.run_pipeline` on the cluster of
            `ray_resource_key`; without that key on the Ray that this process is connected to, else that of
            `RAY_ADDRESS`, else a new one on this machine. None: "ray" with a `ray_resource_key`, else "local".
        resource_key: the FileDatasetResource that reads, and writes unless `write_resource_key` is given.
        write_resource_key: the FileDatasetResource of the store that outputs go to, when it is another one.
        ray_resource_key: a resource that connects Ray: any `RayResource` of dagster-ray.
        max_dropped_fraction: acceptable dropped rows per input row, 0.0 to 1.0. None: any number, but never all.
        on_exceeded: "fail": the run fails and the previous manifest stays; "block": the manifest is stored, downstream
            does not run; "check": the check reports it, nothing more. A run that drops every row of a non-empty input
            always fails.
        min_rows: fewer rows of the input are an error of the check, and `on_exceeded` sets what it does: an empty
            listing is then no success. 0: an empty input is normal.
        on_partition_failure: what a run over a range does when partitions failed. "fail": it fails at its end, and
            what is downstream does not run. "continue": it ends well, and what is downstream in the same run goes on
            with the others; there the same partitions fail. Either way the checks of failed partitions are errors,
            their previous manifests stay, and they are not materialized. A run fails all the same when no partition
            is left, or when the store stops it. Not with `on_exceeded="block"`, which holds downstream back.
        preview: `preview(output_dir)` returns the bytes of a PNG, 1 MiB at most; shown with the materialization for the
            first three rows, whose outputs are downloaded for it.
        show_ids: False keeps ids, and the URLs and messages that may hold them, out of everything Dagster stores; the
            failures' Parquet file has them.
        batch_size: rows per task, on Ray; None: as `file_dataset.ray.run_pipeline` chooses.
        concurrency: tasks at once, on Ray.
        num_cpus: per task, on Ray.
        num_gpus: per task, on Ray.
        file_columns: as `file_dataset.Pipeline` takes it.
        outputs: as `file_dataset.Pipeline` takes it.
        prefetch: as `file_dataset.Pipeline` takes it.
        workers: as `file_dataset.Pipeline` takes it; None: what suits the runner, 0 locally and 1 on Ray.
        fn_timeout_s: as `file_dataset.Pipeline` takes it.
        max_failures: as `file_dataset.Pipeline` takes it: more failed rows stop the run of the partition, and the
            previous manifest stays.
        max_failed_fraction: as `file_dataset.Pipeline` takes it: a larger share of the rows that run does the same.
        worker_env: as `file_dataset.Pipeline` takes it; with workers, or on Ray.
        temp_dir: as `file_dataset.Pipeline` takes it; on Ray a directory of every node.
        asset_args: any argument of `dg.asset`, but `ins`, `check_specs`, `dagster_type` and `config_schema`.

    Run config of the asset (`only_missing`, `only_changed`, `limit`, `ids`) runs a part of the rows and merges them
    into the manifest. Until it is stored, finished rows are written down beside it: a retry of the step, a re-execution
    of the run and `only_missing` go on from those of the same `code_version`; any other run begins anew.
    With a `backfill_policy` of single runs each partition of a range is a Pipeline run of its own, stored and reported
    as it finishes. One that fails keeps its previous manifest, and the others go on.

    Raises:
        file_dataset.InvalidDatasetError: an argument is missing or has no meaning here; at import, not in the run.

    Example:
        >>> @dg.asset
        ... def raw_scans() -> pd.DataFrame:
        ...     return pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
        >>> def shout(input_dir, output_dir):
        ...     text = (input_dir / "scan.txt").read_text()
        ...     (output_dir / "loud.txt").write_text(text.upper())
        ...     return {"loud.txt": output_dir / "loud.txt"}
        >>> loud = pipeline_asset(shout, name="loud", input=raw_scans, max_dropped_fraction=0.05)
        >>> store = FileDatasetResource(base_path="s3://my-bucket/dagster")
        >>> resources = {"file_dataset": store, "io_manager": ManifestIOManager(resource=store)}
        >>> dg.materialize([raw_scans, loud], resources=resources).asset_value("loud")["loud.txt"].tolist()
        ['s3://my-bucket/dagster/files/loud/1/loud.txt', 's3://my-bucket/dagster/files/loud/2/loud.txt']
    """
    for name, remedy in _REFUSED.items():
        if name in asset_args:
            raise file_dataset.InvalidDatasetError(f"pipeline_asset takes no {name}: {remedy}")
    if input is None:
        raise file_dataset.InvalidDatasetError(
            "pipeline_asset needs input=: the asset (or its key) whose manifest names the files to run on"
        )
    how_to_write = _how_to_write(write_options)
    policy = DropPolicy(max_dropped_fraction, on_exceeded, show_ids, min_rows)
    if on_partition_failure not in ("fail", "continue"):
        raise file_dataset.InvalidDatasetError(
            f"on_partition_failure={on_partition_failure!r} is unknown: give 'fail' or 'continue'"
        )
    if on_partition_failure == "continue" and on_exceeded == "block":
        raise file_dataset.InvalidDatasetError(
            "on_partition_failure='continue' lets what is downstream go on, and on_exceeded='block' holds it back: "
            "give on_exceeded='fail' (a partition above the limit fails, the others go on) or 'check'"
        )
    on_ray = ray_settings(
        runner,
        ray_resource_key,
        {"batch_size": batch_size, "concurrency": concurrency, "num_cpus": num_cpus, "num_gpus": num_gpus},
        workers,
    )
    if preview is not None and not callable(preview):
        raise file_dataset.InvalidDatasetError("preview: give a function that takes a directory and returns a PNG")
    _check_resource_keys(
        resource_key=resource_key,
        write_resource_key=resource_key if write_resource_key is None else write_resource_key,
        ray_resource_key=resource_key if ray_resource_key is None else ray_resource_key,
    )
    root = None if into_path is None else _root(into_path)
    asset_input = input_of(input)

    def define(fn: PipelineFn) -> dg.AssetsDefinition:
        asset_key = _asset_key(fn, asset_args)
        # an io_manager_def has no key of its own that a resource could be asked for by
        io_manager_key = None if "io_manager_def" in asset_args else asset_args.get("io_manager_key") or "io_manager"
        settings = Settings(
            fn=fn,
            is_partitioned=asset_args.get("partitions_def") is not None,
            into_path=root,
            write_options=how_to_write,
            resource_key=resource_key,
            write_resource_key=write_resource_key,
            io_manager_key=io_manager_key,
            policy=policy,
            goes_on=on_partition_failure == "continue",
            preview=preview,
            ray=on_ray,
            code_version=asset_args.get("code_version"),
            pipeline_args={
                "file_columns": file_columns,
                "outputs": outputs,
                "prefetch": prefetch,
                # on Ray None is one process in each task, as run_pipeline has it
                "workers": (0 if on_ray is None else 1) if workers is None else workers,
                "fn_timeout_s": fn_timeout_s,
                "max_failures": max_failures,
                "max_failed_fraction": max_failed_fraction,
                "worker_env": worker_env,
                "temp_dir": temp_dir,
            },
        )
        # a wrong fn or into_path fails the import, not the nightly run
        settings.pipeline(settings.into_path or "s3://known-when-it-runs")

        def compute(context: dg.AssetExecutionContext, frame: Any) -> Any:  # noqa: ANN401 (of partitions, a dict)
            yield from materialize(context, frame, settings)

        keys = {resource_key, write_resource_key, ray_resource_key, io_manager_key} - {None}
        arguments = {
            "kinds": {"s3"} if settings.into_path is None or settings.into_path.startswith("s3://") else None,
            "description": inspect.getdoc(fn) if inspect.isroutine(fn) or inspect.isclass(fn) else None,
            **{name: value for name, value in asset_args.items() if name not in {"name", "key", "key_prefix"}},
            "key": asset_key,
            "ins": {INPUT: asset_input},
            "config_schema": PartialRun.config_field(),
            "check_specs": [check_spec(asset_key, policy, asset_args.get("partitions_def"))],
            "required_resource_keys": keys | set(asset_args.get("required_resource_keys") or ()),
        }
        with declared():
            return cast("dg.AssetsDefinition", dg.asset(**arguments)(compute))

    return define if fn is None else define(fn)


def _root(into_path: Any) -> str:  # noqa: ANN401 (whatever a user gives)
    """The text of the path, without a slash at its end; it would be none for `/`, and a directory `s3:` for `s3://`."""
    text = into_path.__fspath__() if isinstance(into_path, os.PathLike) else into_path
    root = text.rstrip("/") if isinstance(text, str) else ""
    if root in ("", "s3:"):
        raise file_dataset.InvalidDatasetError(f"into_path={into_path!r}: give s3://bucket/prefix or a directory")
    return root


def _how_to_write(write_options: Any) -> dict[str, Any]:  # noqa: ANN401 (whatever a user gives)
    if write_options is None:
        return {}
    if not isinstance(write_options, Mapping):
        raise file_dataset.InvalidDatasetError(
            f'write_options={write_options!r}: give {{"extra_args": ...}} or {{"if_exists": "skip"}}'
        )
    if unknown := set(write_options) - {"extra_args", "if_exists"}:
        raise file_dataset.InvalidDatasetError(
            f"write_options has {', '.join(sorted(map(str, unknown)))}: it takes extra_args and if_exists. into_path "
            "is an argument of pipeline_asset, and write_resource_key names the resource of another store"
        )
    return dict(write_options)


def _check_resource_keys(**keys: object) -> None:
    for name, key in keys.items():
        if not isinstance(key, str) or not key:
            raise file_dataset.InvalidDatasetError(f"{name}={key!r}: give the key of a resource, as text")


def _asset_key(fn: PipelineFn, asset_args: Mapping[str, Any]) -> dg.AssetKey:
    if asset_args.get("key") is not None:
        if asset_args.get("name") is not None or asset_args.get("key_prefix") is not None:
            raise file_dataset.InvalidDatasetError("give key, or name and key_prefix, not both")
        return asset_key_of(asset_args["key"], "key")
    name = asset_args.get("name") or str(getattr(fn, "__name__", ""))
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise file_dataset.InvalidDatasetError(f"{fn!r} has no name that an asset could take: give name= or key=")
    prefix: str | Sequence[str] = asset_args.get("key_prefix") or []
    return dg.AssetKey([*([prefix] if isinstance(prefix, str) else prefix), name])
