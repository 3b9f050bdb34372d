"""What a run of a `pipeline_asset` yields: each partition run, stored and reported as it finishes.

`_partition_run` runs one; this module has the events of a run over one and over many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster._checks_by_partition import HAS_PARTITIONS, evaluation, no_value
from file_dataset_dagster._dropped_rows import (
    CHECK_NAME,
    check_of_failed_partition,
    check_of_range,
)
from file_dataset_dagster._event_log import NO_EVENT, provenance_tags, version_tags
from file_dataset_dagster._metrics import metrics_of
from file_dataset_dagster._partition_run import AssetRun, Finished, NotStoredError
from file_dataset_dagster._settings import Settings
from file_dataset_dagster._telemetry import Reported, sending

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10  # partitions in a message; a guess


def materialize(context: dg.AssetExecutionContext, given: Any, settings: Settings) -> Iterator[Any]:  # noqa: ANN401
    """Yield Dagster's events, as they happen. `given` is what the IO manager loaded."""
    try:
        run = AssetRun(context, settings)
    except file_dataset.InvalidDatasetError as exc:  # of resources and config alone: it names no id
        raise dg.Failure(str(exc), allow_retries=False) from exc
    keys = list(context.partition_keys) if settings.is_partitioned else [None]
    with sending(context.log):
        if len(keys) == 1:
            yield from _alone(run, given, keys[0])
        else:
            yield from _one_by_one(run, given)


def _ran(run: AssetRun, given: Any, partition_key: str | None) -> Finished:  # noqa: ANN401
    """Run a partition, and report it to OpenTelemetry where that is wanted.

    Raises:
        NotStoredError: its manifest is not to be stored.
    """
    about = {
        "dagster.asset_key": run.asset_key.to_user_string(),
        "dagster.partition": None if partition_key is None else str(partition_key),
        "dagster.run_id": None if run.attempt is None else run.attempt.run_id,
    }
    reported = Reported.begin(about, shows_ids=run.settings.policy.show_ids)
    started = time.monotonic()
    try:
        done = run.run(given, partition_key)
    except NotStoredError as exc:
        counted = {} if exc.check is None else exc.check.metadata
        numbers = {name: counted[name].value for name in ("input_rows", "dropped_rows") if name in counted}
        reported.failed(numbers, exc.description)
        raise
    reported.stored(metrics_of(done.result, time.monotonic() - started), done.result.failures)
    return done


def _alone(run: AssetRun, given: Any, partition_key: str | None) -> Iterator[Any]:  # noqa: ANN401
    """Run a single partition, or an asset without partitions; the IO manager stores it."""
    try:
        done = _ran(run, given, partition_key)
    except NotStoredError as exc:
        if exc.check is not None:
            yield exc.check
        # Dagster stores the cause's text as well
        raise dg.Failure(exc.description, exc.metadata, allow_retries=exc.may_be_retried) from exc.cause
    if run.manifests is not None:
        run.manifests.expect(run.asset_key, done.result.manifest, done.result, done.origins)
    yield dg.MaterializeResult(
        asset_key=run.asset_key,
        value=done.result.manifest,
        metadata=done.metadata,
        data_version=done.version,
        tags=done.tags,
    )
    yield done.check


def _one_by_one(run: AssetRun, given: Any) -> Iterator[Any]:  # noqa: ANN401, C901 (one event after the other)
    """Run each partition of a range; store and report each as it finishes, and at the end which failed.

    Dagster has one event for an output, for all partitions and with one data version, and none when the step
    fails: so each has an event of its own, and the output has none.
    """
    keys = [str(key) for key in run.context.partition_keys]
    provenance = provenance_tags(run.context)
    events: dict[str, dg.AssetMaterialization] = {}
    manifests: dict[str, pd.DataFrame] = {}
    checks: dict[str, dg.AssetCheckResult] = {}
    failed: dict[str, NotStoredError] = {}
    for number, key in enumerate(run.context.partition_keys):
        run.context.log.info("partition %s, %d of %d", key, number + 1, len(keys))
        try:
            done = _ran(run, given, key)
            stored = run.store(done, str(key))
        except NotStoredError as exc:
            failed[key] = exc
            run.context.log.error("partition %s: %s", key, exc.description)  # noqa: TRY400 (no bug: a sentence)
            checks[key] = exc.check or check_of_failed_partition(run.asset_key, str(key), exc.description)
            yield _evaluation(run, key, checks[key])
            if exc.stops:
                break
            continue
        checks[key] = done.check
        manifests[key] = done.result.manifest
        events[key] = dg.AssetMaterialization(
            run.asset_key,
            partition=key,
            metadata={**done.metadata, **stored},
            tags={**provenance, **version_tags(key, done.version), **done.tags},
        )
        if run.manifests is not None:
            yield events[key]
            yield _evaluation(run, key, done.check)
    is_stopped = any(one.stops for one in failed.values())
    ends_well = bool(events) and not is_stopped and (run.settings.goes_on or not failed)
    if run.manifests is None and not ends_well:  # nothing is stored; what was found is reported all the same
        yield from (_evaluation(run, key, checks[key]) for key in events)
    yield from _check_of_run(run, check_of_range(checks, run.asset_key, len(keys), list(failed)))
    if not ends_well:
        raise _failure(failed, keys, done=len(events))
    if failed:
        run.context.log.error("%s", _failure(failed, keys, done=len(events)).description)
    if run.manifests is not None:
        run.manifests.expect(run.asset_key, manifests, None)
    # with this Dagster makes no materialization by itself: one of the same data version for each partition, of those
    # that failed as well
    yield dg.MaterializeResult(asset_key=run.asset_key, value=manifests, metadata={NO_EVENT: True})
    if run.manifests is None:
        for key, event in events.items():
            yield event
            yield _evaluation(run, key, checks[key])


def _evaluation(run: AssetRun, partition_key: str, check: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    is_blocking = run.settings.policy.on_exceeded == "block"
    return evaluation(check, CHECK_NAME, partition_key, run.context.instance, is_blocking=is_blocking)


def _check_of_run(run: AssetRun, check: dg.AssetCheckResult) -> Iterator[Any]:
    """The check of a run over many partitions: where each has its own, that is all, and this is a line of the log."""
    if not HAS_PARTITIONS:
        yield check
        return
    run.context.log.info("%s", check.description)
    yield from no_value(run.context.assets_def, CHECK_NAME)


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
