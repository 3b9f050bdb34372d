"""What a run of a `pipeline_asset` yields: each partition run, stored and reported as it finishes.

`_partition_run` runs one; this module has the events of a run over one and over many.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster._checks_by_partition import HAS_PARTITIONS, evaluation, no_value
from file_dataset_dagster._dropped_rows import CHECK_NAME, check_of_failed_run, check_of_range
from file_dataset_dagster._event_log import NO_EVENT, provenance_tags, version_tags
from file_dataset_dagster._metrics import metrics_of
from file_dataset_dagster._partition_run import AssetRun, NotStoredError
from file_dataset_dagster._settings import Settings
from file_dataset_dagster._telemetry import reported, sending

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10  # partitions in a message; a guess


def materialize(context: dg.AssetExecutionContext, given: Any, settings: Settings) -> Iterator[Any]:  # noqa: ANN401
    """Yield Dagster's events, as they happen. `given` is what the IO manager loaded."""
    keys = list(context.partition_keys) if settings.is_partitioned else [None]
    with sending(context.log):
        if len(keys) == 1:
            yield from _alone(context, given, keys[0], settings)
        else:
            yield from _one_by_one(context, given, settings)


@contextlib.contextmanager
def _reported(
    context: dg.AssetExecutionContext, partition_key: str | None, settings: Settings
) -> Iterator[Callable[[file_dataset.PipelineResult], None]]:
    """Report a partition to OpenTelemetry, where that is wanted: how the block ended, and the result that it gives."""
    about = {
        "dagster.asset_key": context.asset_key.to_user_string(),
        "dagster.partition": None if partition_key is None else str(partition_key),
        "dagster.run_id": _run_id(context),
    }
    started = time.monotonic()
    with reported(about, shows_ids=settings.policy.show_ids) as ran:

        def has(result: file_dataset.PipelineResult) -> None:
            ran.metrics, ran.failures = metrics_of(result, time.monotonic() - started), result.failures

        try:
            yield has
        except NotStoredError as exc:
            ran.error = exc.description
            if exc.result is not None:
                has(exc.result)
            raise


def _run_id(context: dg.AssetExecutionContext) -> str | None:
    """Of the run; None where a test calls the asset directly."""
    try:
        context.get_step_execution_context()
    except dg.DagsterError:
        return None
    return context.run.run_id


def _begun(context: dg.AssetExecutionContext, settings: Settings) -> AssetRun:
    try:
        return AssetRun(context, settings)
    except file_dataset.InvalidDatasetError as exc:  # of resources and config alone: it names no id
        raise NotStoredError(str(exc), may_be_retried=False, stops=True, cause=exc) from exc


def _alone(
    context: dg.AssetExecutionContext,
    given: Any,  # noqa: ANN401
    partition_key: str | None,
    settings: Settings,
) -> Iterator[Any]:
    """Run a single partition, or an asset without partitions; the IO manager stores it."""
    try:
        with _reported(context, partition_key, settings) as has:
            run = _begun(context, settings)
            done = run.run(given, partition_key)
            has(done.result)
            if run.manifests is not None:
                run.manifests.expect(run.asset_key, done.result.manifest, done.result, done.origins)
            yield dg.MaterializeResult(
                asset_key=run.asset_key,
                value=done.result.manifest,
                metadata=done.metadata,
                data_version=done.version,
                tags=done.tags,
            )
    except NotStoredError as exc:
        # of a step that is retried, the evaluation of its last attempt takes the place of this one
        yield exc.check or check_of_failed_run(context.asset_key, partition_key, exc.description, exc.metadata)
        # Dagster stores the cause's text as well
        raise dg.Failure(exc.description, exc.metadata, allow_retries=exc.may_be_retried) from exc.cause
    yield done.check


def _one_by_one(context: dg.AssetExecutionContext, given: Any, settings: Settings) -> Iterator[Any]:  # noqa: ANN401, C901 (one event after the other)
    """Run each partition of a range; store and report each as it finishes, and at the end which failed.

    Dagster has one event for an output, for all partitions and with one data version, and none when the step
    fails: so each has an event of its own, and the output has none.
    """
    asset_key, keys = context.asset_key, [str(key) for key in context.partition_keys]
    provenance = provenance_tags(context)
    run: AssetRun | None = None
    events: dict[str, dg.AssetMaterialization] = {}
    manifests: dict[str, pd.DataFrame] = {}
    checks: dict[str, dg.AssetCheckResult] = {}
    failed: dict[str, NotStoredError] = {}
    for number, key in enumerate(context.partition_keys):
        context.log.info("partition %s, %d of %d", key, number + 1, len(keys))
        try:
            with _reported(context, key, settings) as has:
                run = run or _begun(context, settings)
                done = run.run(given, key)
                has(done.result)
                stored = run.store(done, str(key))
        except NotStoredError as exc:
            failed[key] = exc
            context.log.error("partition %s: %s", key, exc.description)  # noqa: TRY400 (no bug: a sentence)
            checks[key] = exc.check or check_of_failed_run(asset_key, str(key), exc.description, exc.metadata)
            yield _evaluation(context, settings, key, checks[key])
            if exc.stops:
                break
            continue
        checks[key] = done.check
        manifests[key] = done.result.manifest
        events[key] = dg.AssetMaterialization(
            asset_key,
            partition=key,
            metadata={**done.metadata, **stored},
            tags={**provenance, **version_tags(key, done.version), **done.tags},
        )
        if run.manifests is not None:
            yield events[key]
            yield _evaluation(context, settings, key, done.check)
    is_stopped = any(one.stops for one in failed.values())
    ends_well = bool(events) and not is_stopped and (settings.goes_on or not failed)
    is_stored = run is not None and run.manifests is not None
    if not is_stored and not ends_well:  # nothing is stored; what was found is reported all the same
        yield from (_evaluation(context, settings, key, checks[key]) for key in events)
    yield from _check_of_run(context, check_of_range(checks, asset_key, len(keys), list(failed)))
    if not ends_well:
        raise _failure(failed, keys, done=len(events))
    if failed:
        context.log.error("%s", _failure(failed, keys, done=len(events)).description)
    if run is not None and run.manifests is not None:
        run.manifests.expect(asset_key, manifests, None)
    # with this Dagster makes no materialization by itself: one of the same data version for each partition, of those
    # that failed as well
    yield dg.MaterializeResult(asset_key=asset_key, value=manifests, metadata={NO_EVENT: True})
    if not is_stored:
        for key, event in events.items():
            yield event
            yield _evaluation(context, settings, key, checks[key])


def _evaluation(
    context: dg.AssetExecutionContext, settings: Settings, partition_key: str, check: dg.AssetCheckResult
) -> dg.AssetCheckEvaluation:
    is_blocking = settings.policy.on_exceeded == "block"
    return evaluation(check, CHECK_NAME, partition_key, context.instance, is_blocking=is_blocking)


def _check_of_run(context: dg.AssetExecutionContext, check: dg.AssetCheckResult) -> Iterator[Any]:
    """The check of a run over many partitions: where each has its own, that is all, and this is a line of the log."""
    if not HAS_PARTITIONS:
        yield check
        return
    context.log.info("%s", check.description)
    yield from no_value(context.assets_def, CHECK_NAME)


def _failure(failed: Mapping[str, NotStoredError], keys: Sequence[str], *, done: int) -> dg.Failure:
    named = ", ".join(list(failed)[:_SHOWN]) + (", ..." if len(failed) > _SHOWN else "")
    (first, cause), *_ = failed.items()
    rest = len(keys) - len(failed) - done
    not_run = f", {rest} were not run because they would meet the same" if rest else ""
    why = cause.description if cause.description.startswith(f"{first}: ") else f"{first}: {cause.description}"
    return dg.Failure(
        f"{len(failed)} of {len(keys)} partitions failed: {named}. The manifests of {done} are stored{not_run}. {why}",
        {"failed_partitions": list(failed)},
        allow_retries=any(one.may_be_retried for one in failed.values()),
    )
