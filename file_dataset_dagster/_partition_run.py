"""One partition of a run, or an asset without any: what it reads, the rows that run, and what may be stored.

input -> rows to run -> Pipeline (here, or on Ray) -> merged with what is stored -> judged
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster import _on_ray
from file_dataset_dagster._checkpoints import attempt_of
from file_dataset_dagster._data_versions import contents_of, version_of_result
from file_dataset_dagster._dropped_rows import DroppedRows, check_of_failed_run
from file_dataset_dagster._event_log import failed_in_run, last_record, last_records, last_tags
from file_dataset_dagster._inputs import INPUT, frame_of, keys_of_input
from file_dataset_dagster._io_manager import ManifestIOManager
from file_dataset_dagster._losses import Losses
from file_dataset_dagster._lost_upstream import Upstream
from file_dataset_dagster._metrics import metrics_of
from file_dataset_dagster._partial_runs import PartialRun, Stored, check_outputs
from file_dataset_dagster._paths import fitting, segment
from file_dataset_dagster._previews import previews
from file_dataset_dagster._provenance import AfterPart, Origins, origins_of
from file_dataset_dagster._resource import FileDatasetResource
from file_dataset_dagster._rows import Rows, RowsDone
from file_dataset_dagster._settings import Settings

if TYPE_CHECKING:
    import pandas as pd

_PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True)
class Finished:
    """One partition, or an asset without any, whose manifest may be stored."""

    result: file_dataset.PipelineResult
    check: dg.AssetCheckResult
    metadata: Mapping[str, Any]
    version: dg.DataVersion
    origins: Origins
    tags: Mapping[str, str]  # of Dagster's provenance, where they are not those of this run


class NotStoredError(Exception):
    """One partition, or an asset without any, whose previous manifest stays. `cause` is what Dagster may see.

    `stops`: the partitions after it would meet the same. `finished_rows`: those that a checkpoint has. `result`: of the
    rows that ran, where some did.
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
        finished_rows: int = 0,
        result: file_dataset.PipelineResult | None = None,
    ) -> None:
        super().__init__(description)
        goes_on = (
            f". {finished_rows} rows are finished, and a retry, a re-execution of the run or only_missing: true goes "
            "on from them"
        )
        stays = "The previous manifest, if any, stays"
        self.description = f"{description.rstrip('.')}. {stays}{goes_on if finished_rows else ''}"
        self.metadata = metadata or {}
        self.check = check
        self.may_be_retried = may_be_retried
        self.stops = stops
        self.cause = cause
        self.result = result


class AssetRun:
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
        self.attempt = attempt_of(context)
        self.wanted = PartialRun(**(context.op_execution_context.op_config or {}))
        self.wanted.check()
        if self.wanted.is_partial and self.manifests is None:
            raise file_dataset.InvalidDatasetError(
                f"run config asks for a part of the rows, and the IO manager of {self.asset_key.to_user_string()} is "
                "no ManifestIOManager, whose stored manifest their rows could be merged into: run all rows"
            )

    def run(self, given: Any, partition_key: str | None) -> Finished:  # noqa: ANN401
        keys = keys_of_input(self.context, partition_key)
        if lost := [key for key in keys if str(key) in self.failed_upstream]:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            upstream = self.context.asset_key_for_input(INPUT).to_user_string()
            raise NotStoredError(
                f"partition {str(lost[0])!r}{more} of asset {upstream}, which it reads, failed in this run: what is "
                "stored of that is of an earlier run",
                check=None
                if partition_key is not None
                else check_of_failed_run(self.asset_key, str(lost[0]), _FAILED_UPSTREAM),
                may_be_retried=False,
            )
        frame = self._input(given, keys, partition_key)
        return self._run_frame(frame, keys, None if partition_key is None else str(partition_key))

    def _input(self, given: Any, keys: list[Any], partition_key: str | None) -> pd.DataFrame:  # noqa: ANN401
        try:
            return frame_of(self.context, given, keys, partition_key)
        except file_dataset.InvalidDatasetError as exc:
            message, cause = self._visible(exc)
            raise NotStoredError(message, may_be_retried=False, cause=cause) from exc
        except file_dataset.FileDatasetError as exc:
            raise NotStoredError(str(exc), cause=exc) from exc  # what is missing is a partition, no id

    def _visible(self, exc: file_dataset.FileDatasetError) -> tuple[str, BaseException | None]:
        """What Dagster may see of an error, and whether it may see the error itself: both may name ids."""
        if self.settings.policy.show_ids:
            return str(exc), exc
        return f"{type(exc).__name__} (show_ids=False: no details here)", None

    def _run_frame(self, frame: pd.DataFrame, keys: list[Any], partition_key: str | None) -> Finished:
        """Run the rows that are wanted, merge and judge them."""
        started = time.monotonic()
        policy = self.settings.policy
        into_path, writes_down = self.root, False
        read = self._read(keys)
        upstream = self._lost(read)
        try:
            if partition_key is not None:
                into_path = fitting(f"{self.root}/{segment(partition_key)}", f"partition {partition_key!r}")
            if self.manifests is not None:  # not after hours of rows
                self.manifests.uri(self.asset_key, partition_key, of="rejected")
                file_dataset.parquet.check_storable(frame)
            if len(frame) < policy.min_rows and policy.on_exceeded == "fail":  # no row runs in vain
                done = RowsDone(self._nothing(frame, into_path), 0, AfterPart(Origins()))
            else:
                rows = self._rows(partition_key, into_path)
                writes_down = rows.checkpoint is not None
                stored = self._stored(frame, partition_key, into_path, rows)
                if stored is not None and not self.wanted.is_partial:
                    rows = replace(rows, wanted=PartialRun(only_changed=True))
                done = rows.run(frame, self._origins(frame, keys, read), stored)
        except file_dataset.FileDatasetError as exc:
            stopped = exc.result if isinstance(exc, file_dataset.RunStoppedError) else None
            message, cause = self._visible(exc)
            raise NotStoredError(
                f"the pipeline stopped: {message}",
                metadata={} if stopped is None else self._keep(stopped.failures, partition_key),
                # the same frame and arguments are refused again, and fn raises again
                may_be_retried=not isinstance(exc, file_dataset.InvalidDatasetError)
                and not (stopped is not None and self._exceeds_max_failures(stopped) and _is_all_at_fn(stopped)),
                stops=stopped is not None and not self._exceeds_max_failures(stopped),
                cause=cause,
                finished_rows=len(stopped.manifest) if stopped is not None and writes_down else 0,
                result=stopped,
            ) from exc
        result, after = done.result, done.after
        compared = done.compared if self.wanted.only_changed else None
        dropped = DroppedRows(
            result, policy, partition_key, is_unclear=after.is_unclear, compared=compared, upstream=upstream
        )
        dropped = replace(dropped, changed_rows=max(0, len(after.changed) - dropped.not_run))
        self.context.log.info("%s; %.1f s", dropped, time.monotonic() - started)
        if dropped.fails_the_run:
            failures_metadata = self._keep(result.failures, partition_key)
            raise NotStoredError(
                str(dropped),
                metadata=failures_metadata,
                check=dropped.check_result(self.asset_key, failures_metadata.get("failures_uri")),
                may_be_retried=dropped.may_be_retried,
                finished_rows=done.finished,
                result=result,
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
            **metrics_of(result, time.monotonic() - started),
            **({} if upstream is None else upstream.metadata()),
            "into_path": into_path,
            **({"rows_run": done.rows_run} if self.wanted.is_partial or done.rows_run < len(frame) else {}),
            **pictures,
        }
        check = dropped.check_result(self.asset_key, failures_uri)
        tags = self._carried_tags(after, partition_key)
        return Finished(result, check, metadata, version_of_result(result), after.origins, tags)

    def _nothing(self, frame: pd.DataFrame, into_path: str) -> file_dataset.PipelineResult:
        """The result of a run over the frame that has not begun: its manifest has the columns that fn promises."""
        pipeline = self.settings.pipeline(into_path, options=self.source.get_options(), progress=False)
        return replace(pipeline.run(frame.head(0)), input=frame)

    def _exceeds_max_failures(self, stopped: file_dataset.PipelineResult) -> bool:
        """Whether the run stopped for its own failed rows: the next partition may do better."""
        most = self.settings.pipeline_args.get("max_failures")
        share = self.settings.pipeline_args.get("max_failed_fraction")
        dropped = stopped.dropped_rows
        return bool(
            (most is not None and dropped > most) or (share is not None and dropped > share * stopped.input_rows)
        )

    def _rows(self, partition_key: str | None, into_path: str) -> Rows:
        options = self.source.get_options()
        target_options = None if self.target is self.source else self.target.get_options()
        progress = _log_progress(self.context, partition_key)
        _on_ray.make_portable(self.settings.fn)
        pipeline = self.settings.pipeline(into_path, options=options, target_options=target_options, progress=progress)
        checkpoint = None
        if self.manifests is not None and self.attempt is not None:  # without a run the manifest is not stored
            checkpoint = self.manifests.checkpoint(self.asset_key, partition_key, self.settings.code_version)
            ray = self.settings.ray
            if ray is not None and checkpoint.is_local and _on_ray.is_elsewhere(ray, self.context):
                checkpoint = None
        return Rows(self.context, self.settings, self.wanted, pipeline, options, self.attempt, checkpoint)

    def _stored(self, frame: pd.DataFrame, partition_key: str | None, into_path: str, rows: Rows) -> Stored | None:
        """What is stored of the last run, where a part of the rows is to be merged into it; or of this very run."""
        may_be = self.wanted.is_partial or (self.attempt is not None and self.attempt.goes_on_after_failure)
        if not may_be or self.manifests is None or "id" not in frame:
            return None
        stored = self.manifests.stored(self.asset_key, partition_key)
        if not self.wanted.is_partial and not rows.of_this_run(stored):
            return None
        if stored is not None:
            check_outputs(stored.manifest, self._nothing(frame, into_path).manifest, "fn promises the outputs")
        return stored

    def _read(self, keys: list[Any]) -> dict[str, dg.EventLogRecord] | None:
        """The last materialization of each partition that is read; None where that is not known."""
        upstream = self._upstream()
        if upstream is None:
            return None
        if len(keys) > 1:
            return last_records(self.context.instance, upstream, [str(key) for key in keys])
        found = {str(key or ""): last_record(self.context.instance, upstream, key) for key in keys}
        return {key: record for key, record in found.items() if record is not None}

    def _lost(self, read: Mapping[str, dg.EventLogRecord] | None) -> Losses | None:
        """What was dropped before the rows came here; None: no pipeline is upstream, or that is not known."""
        upstream = self._upstream()
        if upstream is None or read is None:
            return None
        return Upstream.of_run(self.context).losses(upstream, list(read.values()))

    def _origins(self, frame: pd.DataFrame, keys: list[Any], read: Mapping[str, dg.EventLogRecord] | None) -> Origins:
        """What the rows of the input are: their values, and the content of files that a pipeline upstream stored."""
        if self.manifests is None or "id" not in frame:
            return Origins()
        upstream = self._upstream()
        if upstream is None or read is None:
            return origins_of(frame, {}, None, is_content_known=False)
        events = {key: record.asset_materialization for key, record in read.items()}
        tags = {key: (event.tags or {}).get("dagster/data_version") for key, event in events.items() if event}
        versions = {key: version for key, version in tags.items() if version is not None}
        if len(keys) > _MOST_KEYS:
            return origins_of(frame, {}, versions, is_content_known=False)
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
            self.context.log.warning("the list of the files of %s could not be read: %s", upstream, type(exc).__name__)
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

    def _carried_tags(self, after: AfterPart, partition_key: str | None) -> dict[str, str]:
        upstream = self._upstream() if after.left else None
        if upstream is None:
            return {}
        previous = last_tags(self.context.instance, self.asset_key, partition_key)
        return after.tags(previous, upstream.to_user_string())

    def store(self, done: Finished, partition_key: str) -> dict[str, Any]:
        if self.manifests is None:
            return {}
        try:
            return self.manifests.store_result(done.result, self.asset_key, partition_key, done.origins)
        except file_dataset.FileDatasetError as exc:
            message, cause = self._visible(exc)
            raise NotStoredError(f"the manifest could not be stored: {message}", cause=cause) from exc

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


_FAILED_UPSTREAM = "this partition of the input failed in this run"
_MOST_KEYS = 100  # partitions of one input of which is read what their files are, one GET each; a guess


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
