"""What a run of a `pipeline_asset` does: one Pipeline run per partition, each stored and reported as it finishes.

    input -> rows to run -> Pipeline (here, or on Ray) -> merged with what is stored -> judged -> stored, reported

`partial`, `checks`, `versions` and `partitions` decide; this module does.
"""

# no `from __future__ import annotations` here: Dagster reads the annotations of an asset's function

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import dagster as dg
import pandas as pd

import file_dataset
from file_dataset_dagster import _on_ray
from file_dataset_dagster._data_versions import contents_of, version_of_result
from file_dataset_dagster._dropped_rows import (
    CHECK_NAME,
    DroppedRows,
    DropPolicy,
    check_of_failed_partition,
    check_of_range,
)
from file_dataset_dagster._event_log import data_version, failed_in_run, last_tags, provenance_tags, version_tags
from file_dataset_dagster._inputs import INPUT, frame_of, keys_of_input
from file_dataset_dagster._io_manager import ManifestIOManager
from file_dataset_dagster._logs import lines_in
from file_dataset_dagster._parquet import check_storable
from file_dataset_dagster._partial_runs import PartialRun, check_outputs, rows_to_run
from file_dataset_dagster._paths import fitting, segment
from file_dataset_dagster._previews import previews
from file_dataset_dagster._provenance import AfterPart, Origins, after_part, origins_of, other_rows
from file_dataset_dagster._resource import FileDatasetResource

PipelineFn: TypeAlias = Callable[..., Mapping[str, object]] | type

_PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What `pipeline_asset` was given, checked. `pipeline_args` are those of `file_dataset.Pipeline`."""

    fn: PipelineFn
    is_partitioned: bool
    into_path: str | None
    extra_args: Mapping[str, Any] | None
    resource_key: str
    write_resource_key: str | None
    io_manager_key: str | None
    policy: DropPolicy
    goes_on: bool  # a run over a range, when some of its partitions failed
    preview: Callable[[Path], bytes] | None
    ray: _on_ray.RaySettings | None
    pipeline_args: Mapping[str, Any] = field(default_factory=dict)

    def pipeline(
        self,
        into_path: str,
        *,
        options: file_dataset.Options | None = None,
        target_options: file_dataset.Options | None = None,
        progress: Callable[[file_dataset.Progress], object] | Literal[False] | None = None,
    ) -> file_dataset.Pipeline:
        """The Pipeline of a run that writes there."""
        write_options: file_dataset.WriteOptions = {"into_path": into_path, "extra_args": self.extra_args}
        if target_options is not None:
            write_options["options"] = target_options
        return file_dataset.Pipeline(
            self.fn, write_options=write_options, options=options, progress=progress, **self.pipeline_args
        )


@dataclass(frozen=True, slots=True)
class _Finished:
    """One partition, or an asset without any, whose manifest may be stored."""

    result: file_dataset.PipelineResult
    check: dg.AssetCheckResult
    metadata: Mapping[str, Any]
    version: dg.DataVersion
    origins: Origins
    tags: Mapping[str, str]  # of Dagster's provenance, where they are not those of this run


class _NotStoredError(Exception):
    """One partition, or an asset without any, whose previous manifest stays. `cause` is what Dagster may see.

    `stops`: the partitions after it would meet the same.
    """

    def __init__(  # noqa: PLR0913 (what dg.Failure takes, and what a range needs)
        self,
        description: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        check: dg.AssetCheckResult | None = None,
        may_be_retried: bool = True,
        stops: bool = False,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(description)
        self.description = f"{description.rstrip('.')}. The previous manifest, if any, stays"
        self.metadata = metadata or {}
        self.check = check
        self.may_be_retried = may_be_retried
        self.stops = stops
        self.cause = cause


def materialize(context: dg.AssetExecutionContext, given: Any, settings: Settings) -> Iterator[Any]:  # noqa: ANN401
    """Yield Dagster's events, as they happen. `given` is what the IO manager loaded."""
    try:
        run = _Run(context, settings)
    except file_dataset.InvalidDatasetError as exc:  # of resources and config alone: it names no id
        raise dg.Failure(str(exc), allow_retries=False) from exc
    keys = list(context.partition_keys) if settings.is_partitioned else [None]
    if len(keys) == 1:
        yield from run.alone(given, keys[0])
    else:
        yield from run.one_by_one(given)


class _Run:
    """One run of the asset: its resources, and each of its partitions in turn."""

    def __init__(self, context: dg.AssetExecutionContext, settings: Settings) -> None:
        self.context = context
        self.settings = settings
        self.source = _resource(context, settings.resource_key)
        key = settings.write_resource_key
        self.target = self.source if key is None else _resource(context, key)
        # not the key of the definition: loading assets under a key_prefix changes it
        self.asset_key = context.asset_key
        found = None if settings.io_manager_key is None else getattr(context.resources, settings.io_manager_key)
        self.manifests = found if isinstance(found, ManifestIOManager) else None
        self.root = self._root()
        self.failed_upstream = self._failed_upstream()
        self.wanted = PartialRun(**(context.op_execution_context.op_config or {}))
        self.wanted.check()
        if self.wanted.is_partial and self.manifests is None:
            raise file_dataset.InvalidDatasetError(
                f"run config asks for a part of the rows, and the IO manager of {self.asset_key.to_user_string()} is "
                "no ManifestIOManager, whose stored manifest their rows could be merged into: run all rows"
            )

    def alone(self, given: Any, partition_key: str | None) -> Iterator[Any]:  # noqa: ANN401
        """Run a single partition, or an asset without partitions; the IO manager stores it."""
        try:
            done = self._run(given, partition_key)
        except _NotStoredError as exc:
            if exc.check is not None:
                yield exc.check
            # Dagster stores the cause's text as well
            raise dg.Failure(exc.description, exc.metadata, allow_retries=exc.may_be_retried) from exc.cause
        if self.manifests is not None:
            self.manifests.expect(self.asset_key, done.result.manifest, done.result, done.origins)
        yield dg.MaterializeResult(
            asset_key=self.asset_key,
            value=done.result.manifest,
            metadata=done.metadata,
            data_version=done.version,
            tags=done.tags,
        )
        yield done.check

    def one_by_one(self, given: Any) -> Iterator[Any]:  # noqa: ANN401, C901 (one event after the other)
        """Run each partition of a range; store and report each as it finishes, and at the end which failed.

        Dagster has one event for an output, for all partitions and with one data version, and none when the step
        fails: so each has an event of its own, and after the output once more, because the last one counts.
        """
        keys = [str(key) for key in self.context.partition_keys]
        provenance = provenance_tags(self.context)
        events: dict[str, dg.AssetMaterialization] = {}
        manifests: dict[str, pd.DataFrame] = {}
        checks: dict[str, dg.AssetCheckResult] = {}
        failed: dict[str, _NotStoredError] = {}
        for number, key in enumerate(self.context.partition_keys):
            self.context.log.info("partition %s, %d of %d", key, number + 1, len(keys))
            try:
                done = self._run(given, key)
                stored = self._store(done, str(key))
            except _NotStoredError as exc:
                failed[key] = exc
                self.context.log.error("partition %s: %s", key, exc.description)  # noqa: TRY400 (no bug: a sentence)
                checks[key] = exc.check or check_of_failed_partition(self.asset_key, str(key), exc.description)
                yield self._evaluation(checks[key])
                if exc.stops:
                    break
                continue
            checks[key] = done.check
            manifests[key] = done.result.manifest
            events[key] = dg.AssetMaterialization(
                self.asset_key,
                partition=key,
                metadata={**done.metadata, **stored},
                tags={**provenance, **version_tags(key, done.version), **done.tags},
            )
            yield self._evaluation(done.check)
            if self.manifests is not None:
                yield events[key]
        yield check_of_range(checks, self.asset_key, len(keys), list(failed))
        is_stopped = any(one.stops for one in failed.values())
        if failed and (not self.settings.goes_on or is_stopped or not events):
            raise self._failure(failed, keys, done=len(events))
        if failed:
            self.context.log.error("%s", self._failure(failed, keys, done=len(events)).description)
            if self.manifests is not None:
                self.manifests.expect(self.asset_key, manifests, None)
            # with this Dagster makes no materialization by itself, which would be of failed partitions too
            yield dg.MaterializeResult(asset_key=self.asset_key, value=manifests, metadata={_SAYS_NOTHING: True})
            if self.manifests is None:
                yield from events.values()
            return
        for key, event in events.items():
            self.context.add_asset_metadata(event.metadata, self.asset_key, key)
        if self.manifests is not None:
            self.manifests.expect(self.asset_key, manifests, None)
        yield dg.MaterializeResult(asset_key=self.asset_key, value=manifests)
        yield from events.values()

    def _run(self, given: Any, partition_key: str | None) -> _Finished:  # noqa: ANN401
        keys = keys_of_input(self.context, partition_key)
        if lost := [key for key in keys if str(key) in self.failed_upstream]:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            upstream = self.context.asset_key_for_input(INPUT).to_user_string()
            raise _NotStoredError(
                f"partition {str(lost[0])!r}{more} of asset {upstream}, which it reads, failed in this run: what is "
                "stored of that is of an earlier run",
                check=None
                if partition_key is not None
                else check_of_failed_partition(self.asset_key, str(lost[0]), _FAILED_UPSTREAM),
                may_be_retried=False,
            )
        frame = self._input(given, keys, partition_key)
        return self._run_frame(frame, keys, None if partition_key is None else str(partition_key))

    def _input(self, given: Any, keys: list[Any], partition_key: str | None) -> pd.DataFrame:  # noqa: ANN401
        try:
            return frame_of(self.context, given, keys, partition_key)
        except file_dataset.InvalidDatasetError as exc:
            said, cause = self._said(exc)
            raise _NotStoredError(said, may_be_retried=False, cause=cause) from exc
        except file_dataset.FileDatasetError as exc:
            raise _NotStoredError(str(exc), cause=exc) from exc  # what is missing is a partition, no id

    def _said(self, exc: file_dataset.FileDatasetError) -> tuple[str, BaseException | None]:
        """What Dagster may see of an error, and whether it may see the error itself: both may name ids."""
        if self.settings.policy.show_ids:
            return str(exc), exc
        return f"{type(exc).__name__} (show_ids=False: no details here)", None

    def _run_frame(self, frame: pd.DataFrame, keys: list[Any], partition_key: str | None) -> _Finished:
        """Run the rows that are wanted, merge and judge them."""
        started = time.monotonic()
        policy = self.settings.policy
        into_path = self.root
        try:
            if partition_key is not None:
                into_path = fitting(f"{self.root}/{segment(partition_key)}", f"partition {partition_key!r}")
            if self.manifests is not None:  # not after hours of rows
                self.manifests.uri(self.asset_key, partition_key, of="rejected")
                check_storable(frame)
            if len(frame) < policy.min_rows and policy.on_exceeded == "fail":  # no row runs in vain
                result, rows_run, after = self._nothing(frame, into_path), 0, AfterPart(Origins())
            else:
                result, rows_run, after = self._rows(frame, keys, partition_key, into_path)
        except file_dataset.FileDatasetError as exc:
            stopped = exc.result if isinstance(exc, file_dataset.RunStoppedError) else None
            said, cause = self._said(exc)
            raise _NotStoredError(
                f"the pipeline stopped: {said}",
                metadata={} if stopped is None else self._keep(stopped.failures, partition_key),
                # the same frame and arguments are refused again, and fn raises again
                may_be_retried=not isinstance(exc, file_dataset.InvalidDatasetError)
                and not (stopped is not None and self._is_over_max_failures(stopped) and _is_all_at_fn(stopped)),
                stops=stopped is not None and not self._is_over_max_failures(stopped),
                cause=cause,
            ) from exc
        dropped = DroppedRows(result, policy, partition_key, is_unclear=after.is_unclear)
        dropped = replace(dropped, changed_rows=max(0, len(after.changed) - dropped.not_run))
        self.context.log.info("%s; %.1f s", dropped, time.monotonic() - started)
        if dropped.fails_the_run:
            kept = self._keep(result.failures, partition_key)
            raise _NotStoredError(
                str(dropped),
                metadata=kept,
                check=dropped.check_result(self.asset_key, kept.get("failures_uri")),
                may_be_retried=dropped.may_be_retried,
            )
        pictures: dict[str, Any] = {}
        if self.settings.preview is not None:
            pictures = previews(
                result,
                self.settings.preview,
                self.target.get_options(),
                self.context.log,
                show_ids=policy.show_ids,
            )
        failures_uri = None
        if self.manifests is not None:
            failures_uri = self.manifests.uri(self.asset_key, partition_key, of="failures")
        metadata = {
            "input_rows": result.input_rows,
            "dropped_rows": result.dropped_rows,
            "stored_bytes": int(result.files["size_bytes"].sum()),
            "files_without_digest": result.files_without_digest,
            "seconds": round(time.monotonic() - started, 1),
            "into_path": into_path,
            **({"rows_run": rows_run} if self.wanted.is_partial else {}),
            **pictures,
        }
        check = dropped.check_result(self.asset_key, failures_uri)
        tags = self._kept_tags(after, partition_key)
        return _Finished(result, check, metadata, version_of_result(result), after.origins, tags)

    def _nothing(self, frame: pd.DataFrame, into_path: str) -> file_dataset.PipelineResult:
        """The result of a run over the frame that has not begun: its manifest has the columns that fn promises."""
        pipeline = self.settings.pipeline(into_path, options=self.source.get_options(), progress=False)
        return replace(pipeline.run(frame.head(0)), input=frame)

    def _is_over_max_failures(self, stopped: file_dataset.PipelineResult) -> bool:
        """Whether the run stopped for its own failed rows: the next partition may do better."""
        most = self.settings.pipeline_args.get("max_failures")
        share = self.settings.pipeline_args.get("max_failed_fraction")
        dropped = stopped.dropped_rows
        return bool(
            (most is not None and dropped > most) or (share is not None and dropped > share * stopped.input_rows)
        )

    def _rows(
        self, frame: pd.DataFrame, keys: list[Any], partition_key: str | None, into_path: str
    ) -> tuple[file_dataset.PipelineResult, int, AfterPart]:
        """Run the rows that are wanted; return the result of the whole input, how many ran, and of what it is."""
        known, before, now = None, Origins(), self._origins(frame, keys)
        if self.wanted.is_partial and self.manifests is not None and "id" in frame:
            stored = self.manifests.stored(self.asset_key, partition_key)
            if stored is not None:
                known, before = stored.of_input(frame), stored.origins
                check_outputs(stored.manifest, self._nothing(frame, into_path).manifest, "fn promises the outputs")
        rows = rows_to_run(frame, self.wanted, known, set() if known is None else other_rows(now, before))
        with lines_in(self.context.log, hides_ids=not self.settings.policy.show_ids):
            result = self._pipeline_run(rows, partition_key, into_path)
        if known is not None:
            if len(result.manifest):
                check_outputs(known.manifest, result.manifest, "the rows of this run have the outputs")
            result = known.merge(result)
        elif self.wanted.is_partial:
            nothing = file_dataset.PipelineResult(
                frame, result.manifest.head(0), result.failures.head(0), result.files.head(0)
            )
            result = nothing.merge(result)
        ran = {str(row_id) for row_id in rows["id"].tolist()} if "id" in rows else set()
        return result, len(rows), after_part(now, before, ran)

    def _origins(self, frame: pd.DataFrame, keys: list[Any]) -> Origins:
        """What the rows of the input are: their values, and the content of files that a pipeline upstream stored."""
        if self.manifests is None or "id" not in frame:
            return Origins()
        upstream = self._upstream()
        if upstream is None or len(keys) > _MOST_KEYS:
            return origins_of(frame, {}, None, is_content_known=False)
        versions = {
            str(key or ""): version
            for key in keys
            if (version := data_version(self.context.instance, upstream, key)) is not None
        }
        contents: dict[str, str] = {}
        is_known = False
        try:
            files = self.manifests.files_of(upstream, [None if key is None else str(key) for key in keys])
            for one in files.values():
                contents |= contents_of(one)
            is_known = len(files) == len(keys) and len(contents) == sum(map(len, files.values()))
            if self.wanted.is_partial and not files:
                noted = self.manifests.versions_noted(upstream, [None if key is None else str(key) for key in keys])
                is_known = {str(key or ""): version for key, version in noted.items()} == versions
        except file_dataset.FileDatasetError as exc:
            self.context.log.warning("what the files of %s are could not be read: %s", upstream, type(exc).__name__)
        return origins_of(frame, contents, versions, is_content_known=is_known)

    def _failed_upstream(self) -> set[str]:
        """Partitions of what is read that failed in this run, in which others may have gone on."""
        upstream = self._upstream()
        if upstream is None or not self.context.get_step_execution_context().has_asset_partitions_for_input(INPUT):
            return set()
        definition = self.context.asset_partitions_def_for_input(INPUT)
        step_key = self.context.get_step_execution_context().step.key
        return failed_in_run(self.context.instance, self.context.run, step_key, upstream, definition)

    def _upstream(self) -> dg.AssetKey | None:
        """The asset that is read; None where a test calls this one directly."""
        try:
            self.context.get_step_execution_context()
        except dg.DagsterError:
            return None
        upstream: dg.AssetKey = self.context.asset_key_for_input(INPUT)
        return upstream

    def _kept_tags(self, after: AfterPart, partition_key: str | None) -> dict[str, str]:
        upstream = self._upstream() if after.left else None
        if upstream is None:
            return {}
        previous = last_tags(self.context.instance, self.asset_key, partition_key)
        return after.tags(previous, upstream.to_user_string())

    def _pipeline_run(
        self, rows: pd.DataFrame, partition_key: str | None, into_path: str
    ) -> file_dataset.PipelineResult:
        options = self.source.get_options()
        target_options = None if self.target is self.source else self.target.get_options()
        progress = _log_progress(self.context, partition_key)
        _on_ray.make_portable(self.settings.fn)
        pipeline = self.settings.pipeline(into_path, options=options, target_options=target_options, progress=progress)
        if self.settings.ray is None:
            return pipeline.run(rows)
        return _on_ray.run_on_ray(pipeline, rows, self.settings.ray, self.context)

    def _store(self, done: _Finished, partition_key: str) -> dict[str, Any]:
        if self.manifests is None:
            return {}
        try:
            return self.manifests.store_result(done.result, self.asset_key, partition_key, done.origins)
        except file_dataset.FileDatasetError as exc:
            said, cause = self._said(exc)
            raise _NotStoredError(f"the manifest could not be stored: {said}", cause=cause) from exc

    def _keep(self, failures: pd.DataFrame, partition_key: str | None) -> dict[str, str]:
        """Store the failures of a run whose manifest is not stored; return where, as metadata."""
        if self.manifests is None:
            return {}
        try:
            return {"failures_uri": self.manifests.store_rejected(failures, self.asset_key, partition_key)}
        except file_dataset.FileDatasetError as exc:
            # what failed the run must be seen, not what then failed to be written down
            self.context.log.warning("the failures could not be stored: %s", type(exc).__name__)
            return {}

    def _root(self) -> str:
        """Where outputs go, below it those of each partition."""
        if self.settings.into_path is not None:
            return self.settings.into_path
        if not self.target.base_path:
            raise file_dataset.InvalidDatasetError(
                "nowhere to write to: give pipeline_asset an into_path, or the FileDatasetResource a base_path"
            )
        return "/".join([self.target.base_path.rstrip("/"), "files", *map(segment, self.asset_key.path)])

    def _evaluation(self, check: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
        """The check of one partition; `check_of_range` is that of the run."""
        return dg.AssetCheckEvaluation(
            asset_key=self.asset_key,
            check_name=CHECK_NAME,
            passed=check.passed,
            metadata=check.metadata,
            severity=check.severity,
            description=check.description,
            blocking=self.settings.policy.on_exceeded == "block",
        )

    def _failure(self, failed: Mapping[str, _NotStoredError], keys: Sequence[str], *, done: int) -> dg.Failure:
        named = ", ".join(list(failed)[:_SHOWN]) + (", ..." if len(failed) > _SHOWN else "")
        (first, cause), *_ = failed.items()
        rest = len(keys) - len(failed) - done
        not_run = f", {rest} were not run because they would meet the same" if rest else ""
        why = cause.description if cause.description.startswith(f"{first}: ") else f"{first}: {cause.description}"
        return dg.Failure(
            f"{len(failed)} of {len(keys)} partitions failed: {named}. The manifests of {done} are stored{not_run}. "
            f"{why}",
            {"failed_partitions": list(failed)},
            allow_retries=any(one.may_be_retried for one in failed.values()),
        )


_SHOWN = 10  # partitions in a message; a guess
_FAILED_UPSTREAM = "this partition of the input failed in this run"
# metadata of an output for which Dagster stores no events: its own, of observations that are logged otherwise
_SAYS_NOTHING = "__source_asset_observation__"
_MOST_KEYS = 100  # partitions of one input whose data versions are looked up, one query each; a guess


def _is_all_at_fn(result: file_dataset.PipelineResult) -> bool:
    return bool(result.failures["error_stage"].eq("fn").all())


def _resource(context: dg.AssetExecutionContext, key: str) -> FileDatasetResource:
    resource = getattr(context.resources, key)
    if not isinstance(resource, FileDatasetResource):
        raise file_dataset.InvalidDatasetError(
            f"resource {key!r} is a {type(resource).__name__}: give a FileDatasetResource (s3_resource=... takes an "
            "S3Resource)"
        )
    return resource


def _log_progress(
    context: dg.AssetExecutionContext, partition_key: str | None
) -> Callable[[file_dataset.Progress], None]:
    last = time.monotonic()
    where = "" if partition_key is None else f"partition {partition_key}: "

    def log(progress: file_dataset.Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_S:
            last = time.monotonic()
            context.log.info("%s%s", where, progress)

    return log
