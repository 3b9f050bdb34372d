"""A function of local files becomes an asset: `Pipeline.run` on the manifest of another asset, told to Dagster."""

# no `from __future__ import annotations` here: Dagster reads the annotations of an asset's function

import contextlib
import inspect
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, overload

import dagster as dg
import pandas as pd

import file_dataset
from file_dataset_dagster.checks import DroppedRows, DropPolicy, OnExceeded, check_spec
from file_dataset_dagster.io_manager import ManifestIOManager, check_storable, segment
from file_dataset_dagster.resource import FileDatasetResource

PipelineFn: TypeAlias = Callable[..., Mapping[str, object]] | type

_PROGRESS_S = 5.0
# arguments of dg.asset that have no meaning here, and what to do instead
_REFUSED = {
    "ins": "name the asset to read as input=, others as deps=",
    "check_specs": "the function has no way to answer them; write further checks with @dg.asset_check(asset=...)",
    "dagster_type": "the value is always a manifest",
}


@dataclass(frozen=True, slots=True)
class _Settings:
    fn: PipelineFn
    is_partitioned: bool
    into_path: str | None
    extra_args: Mapping[str, Any] | None
    resource_key: str
    write_resource_key: str | None
    io_manager_key: str | None
    policy: DropPolicy
    file_columns: Sequence[str] | None
    outputs: Sequence[str] | None

    def pipeline(
        self,
        into_path: str,
        *,
        options: file_dataset.Options | None = None,
        target_options: file_dataset.Options | None = None,
        progress: Callable[[file_dataset.Progress], object] | None = None,
    ) -> file_dataset.Pipeline:
        write_options: file_dataset.WriteOptions = {"into_path": into_path, "extra_args": self.extra_args}
        if target_options is not None:
            write_options["options"] = target_options
        return file_dataset.Pipeline(
            self.fn,
            write_options=write_options,
            options=options,
            file_columns=self.file_columns,
            outputs=self.outputs,
            progress=progress,
        )


@overload
def pipeline_asset(fn: PipelineFn, **arguments: Any) -> dg.AssetsDefinition: ...  # noqa: ANN401 (as below)
@overload
def pipeline_asset(fn: None = None, **arguments: Any) -> Callable[[PipelineFn], dg.AssetsDefinition]: ...  # noqa: ANN401
def pipeline_asset(  # noqa: PLR0913 (each is a choice of the user's)
    fn: PipelineFn | None = None,
    *,
    input: Any = None,  # noqa: A002 (the word a user would look for)
    into_path: str | os.PathLike[str] | None = None,
    write_options: Mapping[str, Any] | None = None,
    resource_key: str = "file_dataset",
    write_resource_key: str | None = None,
    max_dropped_fraction: float | None = None,
    on_exceeded: OnExceeded = "fail",
    show_ids: bool = True,
    file_columns: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    **asset_args: Any,
) -> Any:
    """Return an asset that runs `fn(input_dir, output_dir)` on each row of another asset's manifest.

    A decorator, or a factory: `resampled = pipeline_asset(resample, name="resampled", input=raw_scans)`, which leaves
    `resample` a plain function. The asset's value is its manifest; its check `no_dropped_rows` tells which rows are
    missing from it and why.

    Args:
        fn: as `file_dataset.Pipeline` takes it.
        input: the asset whose manifest is read: the asset itself, its key, or its name. One of another code location is
            declared in this one with `dg.AssetSpec`.
        into_path: outputs go to `<into_path>/[<partition>/]<id>/<file name>`; None: `<base_path>/files/<key parts>`.
        write_options: `{"extra_args": ...}`, boto3's ExtraArgs for each output.
        resource_key: the FileDatasetResource that reads, and writes unless `write_resource_key` is given.
        write_resource_key: the FileDatasetResource of the store that outputs go to, when it is another one.
        max_dropped_fraction: acceptable dropped rows per input row, 0.0 to 1.0. None: any number, but never all.
        on_exceeded: "fail": the run fails and the previous manifest stays; "block": the manifest is stored, downstream
            does not run; "check": the check tells it, nothing more. Whatever it is, a run that drops every row of a
            non-empty input fails.
        show_ids: False keeps ids, and the URLs and messages that may hold them, out of everything Dagster stores; the
            failures' Parquet file has them.
        file_columns: as `file_dataset.Pipeline` takes it.
        outputs: as `file_dataset.Pipeline` takes it.
        asset_args: any argument of `dg.asset`, but `ins`, `check_specs` and `dagster_type`.

    Raises:
        file_dataset.InvalidDatasetError: an argument is missing or has no meaning here; at import, not in the run.
    """
    for name, remedy in _REFUSED.items():
        if name in asset_args:
            raise file_dataset.InvalidDatasetError(f"pipeline_asset takes no {name}: {remedy}")
    if input is None:
        raise file_dataset.InvalidDatasetError(
            "pipeline_asset needs input=: the asset (or its key) whose manifest names the files to run on"
        )
    if unknown := set(write_options or {}) - {"extra_args"}:
        raise file_dataset.InvalidDatasetError(
            f"write_options has {', '.join(sorted(unknown))}: it takes extra_args only. into_path is an argument of "
            "pipeline_asset, and write_resource_key names the resource of another store"
        )
    policy = DropPolicy(max_dropped_fraction, on_exceeded, show_ids)
    input_key = input.key if hasattr(input, "key") else dg.AssetKey.from_coercible(input)

    def define(fn: PipelineFn) -> dg.AssetsDefinition:
        asset_key = _asset_key(fn, asset_args)
        # an io_manager_def has no key of its own that a resource could be asked for by
        io_manager_key = None if "io_manager_def" in asset_args else asset_args.get("io_manager_key") or "io_manager"
        settings = _Settings(
            fn=fn,
            is_partitioned=asset_args.get("partitions_def") is not None,
            into_path=None if into_path is None else os.fspath(into_path).rstrip("/"),
            extra_args=(write_options or {}).get("extra_args"),
            resource_key=resource_key,
            write_resource_key=write_resource_key,
            io_manager_key=io_manager_key,
            policy=policy,
            file_columns=file_columns,
            outputs=outputs,
        )
        # a wrong fn or into_path fails the import, not the nightly run
        settings.pipeline(settings.into_path or "s3://known-when-it-runs")

        def compute(context: dg.AssetExecutionContext, frame: pd.DataFrame) -> Iterator[Any]:
            yield from _materialize(context, frame, settings)

        keys = {resource_key, write_resource_key, io_manager_key} - {None}
        arguments = {
            "kinds": {"s3"} if settings.into_path is None or settings.into_path.startswith("s3://") else None,
            "description": inspect.getdoc(fn) if inspect.isroutine(fn) or inspect.isclass(fn) else None,
            **{name: value for name, value in asset_args.items() if name not in {"name", "key", "key_prefix"}},
            "key": asset_key,
            "ins": {"frame": dg.AssetIn(key=input_key)},
            "check_specs": [check_spec(asset_key, policy)],
            "required_resource_keys": keys | set(asset_args.get("required_resource_keys") or ()),
        }
        return cast("dg.AssetsDefinition", dg.asset(**arguments)(compute))

    return define if fn is None else define(fn)


def _asset_key(fn: PipelineFn, asset_args: Mapping[str, Any]) -> dg.AssetKey:
    if asset_args.get("key") is not None:
        if asset_args.get("name") is not None or asset_args.get("key_prefix") is not None:
            raise file_dataset.InvalidDatasetError("give key, or name and key_prefix, not both")
        return dg.AssetKey.from_coercible(asset_args["key"])
    name: str = asset_args.get("name") or str(getattr(fn, "__name__", ""))
    if not re.fullmatch(r"\w+", name):
        raise file_dataset.InvalidDatasetError(f"{fn!r} has no name that an asset could take: give name= or key=")
    prefix: str | Sequence[str] = asset_args.get("key_prefix") or []
    return dg.AssetKey([*([prefix] if isinstance(prefix, str) else prefix), name])


def _materialize(
    context: dg.AssetExecutionContext, frame: pd.DataFrame, settings: _Settings
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
    started = time.monotonic()
    source = _resource(context, settings.resource_key)
    target = source if settings.write_resource_key is None else _resource(context, settings.write_resource_key)
    partition_key = _partition_key(context) if settings.is_partitioned else None
    # not the key of the definition: loading assets under a key_prefix changes it
    asset_key = context.asset_key
    into_path = _into_path(settings.into_path, target, asset_key, partition_key)
    io_manager = None if settings.io_manager_key is None else getattr(context.resources, settings.io_manager_key)
    manifests = io_manager if isinstance(io_manager, ManifestIOManager) else None
    failures_uri = None if manifests is None else manifests.uri(asset_key, partition_key, of="failures")

    def keep_failures(failures: pd.DataFrame) -> dict[str, str]:
        if manifests is None:
            return {}
        at = manifests.uri(asset_key, partition_key, of="rejected")
        try:
            manifests.store(failures, at)
        except file_dataset.FileDatasetError as exc:
            # what failed the run must be told, not what then failed to be written down
            context.log.warning("the failures could not be stored: %s", type(exc).__name__)
            return {}
        return {"failures_uri": at}

    if manifests is not None:
        # not after hours of rows
        check_storable(frame)
    pipeline = settings.pipeline(
        into_path,
        options=source.get_options(),
        target_options=None if target is source else target.get_options(),
        progress=_log_progress(context),
    )
    try:
        with contextlib.nullcontext() if settings.policy.show_ids else _quiet():
            result = pipeline.run(frame)
    except file_dataset.FileDatasetError as exc:
        stopped = exc.result if isinstance(exc, file_dataset.RunStoppedError) else None
        told = str(exc) if settings.policy.show_ids else f"{type(exc).__name__} (show_ids=False: no details here)"
        failure = dg.Failure(
            description=f"the pipeline stopped: {told.rstrip('.')}. The previous manifest, if any, stays",
            metadata={} if stopped is None else keep_failures(stopped.failures),
            # the same frame and arguments are refused again
            allow_retries=not isinstance(exc, file_dataset.InvalidDatasetError),
        )
        # Dagster stores the cause's text as well
        raise failure from (exc if settings.policy.show_ids else None)

    dropped = DroppedRows(result, settings.policy)
    context.log.info("%s; %.1f s", dropped, time.monotonic() - started)
    if dropped.fails_the_run:
        kept = keep_failures(result.failures)
        yield dropped.check_result(asset_key, kept.get("failures_uri"))
        raise dg.Failure(
            description=f"{dropped}. The previous manifest, if any, stays",
            metadata=kept,
            allow_retries=dropped.may_be_retried,
        )
    yield dg.MaterializeResult(
        asset_key=asset_key,
        # other IO managers know frames, not PipelineResult
        value=result.manifest if manifests is None else result,
        metadata={
            "input_rows": result.input_rows,
            "dropped_rows": result.dropped_rows,
            "stored_bytes": int(result.files["size_bytes"].sum()),
            "files_without_digest": result.files_without_digest,
            "seconds": round(time.monotonic() - started, 1),
            "into_path": into_path,
        },
    )
    yield dropped.check_result(asset_key, failures_uri)


def _resource(context: dg.AssetExecutionContext, key: str) -> FileDatasetResource:
    resource = getattr(context.resources, key)
    if not isinstance(resource, FileDatasetResource):
        raise file_dataset.InvalidDatasetError(
            f"resource {key!r} is a {type(resource).__name__}: give a FileDatasetResource (s3_resource=... takes an "
            "S3Resource)"
        )
    return resource


def _partition_key(context: dg.AssetExecutionContext) -> str:
    keys = context.partition_keys
    if len(keys) != 1:
        raise file_dataset.InvalidDatasetError(
            f"{len(keys)} partitions in one run are not supported yet: launch one run per partition "
            "(backfill_policy=dg.BackfillPolicy.multi_run())"
        )
    return str(keys[0])


def _into_path(
    into_path: str | None, target: FileDatasetResource, asset_key: dg.AssetKey, partition_key: str | None
) -> str:
    if into_path is None:
        if not target.base_path:
            raise file_dataset.InvalidDatasetError(
                "nowhere to write to: give pipeline_asset an into_path, or the FileDatasetResource a base_path"
            )
        into_path = "/".join([target.base_path.rstrip("/"), "files", *map(segment, asset_key.path)])
    return into_path if partition_key is None else f"{into_path}/{segment(partition_key)}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of the library meanwhile: they name ids, and Dagster stores what a step logs and prints."""
    logger = logging.getLogger(file_dataset.__name__)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _log_progress(context: dg.AssetExecutionContext) -> Callable[[file_dataset.Progress], None]:
    told = time.monotonic()

    def log(progress: file_dataset.Progress) -> None:
        nonlocal told
        if time.monotonic() - told >= _PROGRESS_S:
            told = time.monotonic()
            context.log.info(str(progress))

    return log
