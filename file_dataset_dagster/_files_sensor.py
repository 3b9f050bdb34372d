"""A sensor that requests a run when a bucket has files that it did not have: each tick is a listing, and a comparison.

What is durable before what: the listing is stored under its digest, then Dagster stores the cursor, which is that
digest, together with the run requests. A tick that ends before that leaves the cursor, and so the listing, as they
were: the next one finds the same files new. A listing that no cursor names does no harm.
"""

# no `from __future__ import annotations` here: Dagster reads the annotations of a sensor's function

import contextlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

import file_dataset
from file_dataset_dagster import _file_changes
from file_dataset_dagster._file_changes import Files, Step
from file_dataset_dagster._file_patterns import fields_of
from file_dataset_dagster._listings import METADATA, Listing
from file_dataset_dagster._manifest_store import ManifestStore
from file_dataset_dagster._paths import bucket_and_key
from file_dataset_dagster._resource import FileDatasetResource

_INTERVAL_S = 60  # 100,000 keys are 100 LISTs: at AWS's prices of 2026 0.7 $ a day; a guess at what is wanted
_MOST_REQUESTS = 500  # a run request takes Dagster's daemon some 20 ms and more; a guess
_SHOWN = 3  # locations in a message; a guess


def build_files_sensor(  # noqa: PLR0913 (each is a choice of the user's)
    asset: dg.AssetsDefinition,
    target: Any = None,  # noqa: ANN401 (what names assets, as Dagster takes it)
    *,
    job: Any = None,  # noqa: ANN401 (any kind of job)
    partition_by: str | None = None,
    name: str | None = None,
    minimum_interval_seconds: int | None = _INTERVAL_S,
    max_run_requests: int = _MOST_REQUESTS,
    run_config: Mapping[str, Any] | dg.RunConfig | None = None,
    tags: Mapping[str, str] | None = None,
    base_path: str | None = None,
    description: str | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Return a sensor that requests a run when the files of a `files_asset` are others than at its last tick.

    Each tick lists the files once, and compares locations and ETags with the listing that the last tick stored. Every
    (location, ETag) that is there at a tick is requested once: new files, and overwritten ones, also within one second.
    Equal bytes uploaded again have the same ETag, and request nothing. A deleted file requests nothing: the message of
    the skipped tick says it, or the tag `file_dataset/deleted` of the run that is requested for others.

    The cursor is a digest of the stored listing and of the cursor before it. A tick that fails or is killed leaves it
    as it was, and the next one delivers. The first tick requests what is there; its log says first how much that is.
    Reset the cursor to have all of it requested again.

    Costs one listing a tick, and when something has changed a GET, a PUT and a DELETE beside the manifests. A tick has
    60 s (`DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS`).

    Args:
        asset: what `files_asset` returned.
        target: what to run, as `dg.sensor` takes it: assets, or a job; None: the asset itself.
        job: a job to run, instead of `target`.
        partition_by: a field of the patterns: one run request for each of its values that has new files, with that
            partition. Values are added to `dg.DynamicPartitionsDefinition(name=<the field>)`. None: as the asset's.
            Where the asset has another `partitions_def`, values that are no partition yet wait until they are one.
        name: of the sensor; None: `<asset>_files`.
        minimum_interval_seconds: between two ticks.
        max_run_requests: partitions a tick at most; the others follow at the next ticks.
        run_config: of every run, such as `{"ops": {"resampled": {"config": {"only_changed": True}}}}`.
        tags: of every run, beside `file_dataset/new`, `file_dataset/overwritten` and `file_dataset/deleted`, which say
            how many files are.
        base_path: the listing is stored below `<base_path>/manifests/<asset>/sensor=<name>/`; None: that of the
            FileDatasetResource.
        description: shown in Dagster's UI.
        default_status: whether the sensor runs without being switched on.

    Raises:
        file_dataset.InvalidDatasetError: an argument has no meaning here; at import.

    Example:
        >>> scans = files_asset("scans", {"scan.txt": "s3://my-bucket/{id}.txt"})
        >>> sensor = build_files_sensor(scans)
        >>> store = FileDatasetResource(base_path="s3://my-bucket/dagster")
        >>> resources = {"file_dataset": store, "io_manager": ManifestIOManager(resource=store)}
        >>> defs = dg.Definitions([scans], sensors=[sensor], resources=resources)
        >>> with dg.build_sensor_context(definitions=defs, resources={"file_dataset": store}) as tick:
        ...     [request.tags["file_dataset/new"] for request in sensor.evaluate_tick(tick).run_requests]
        ['1']
    """
    listing, partitions_def = _listing_of(asset)
    if target is not None and job is not None:
        raise file_dataset.InvalidDatasetError("give target, or job, not both")
    if isinstance(max_run_requests, bool) or not isinstance(max_run_requests, int) or max_run_requests < 1:
        raise file_dataset.InvalidDatasetError(f"max_run_requests={max_run_requests!r}: give a number of 1 or more")
    fields = fields_of(listing.patterns.values())
    field = listing.partition_by if partition_by is None else partition_by
    if listing.partition_by not in (None, field):
        raise file_dataset.InvalidDatasetError(
            f"partition_by={partition_by!r}, and the asset has partitions by {listing.partition_by!r}: leave it out"
        )
    if field is not None and field not in fields:
        raise file_dataset.InvalidDatasetError(
            f"partition_by={field!r} is no field of the patterns, which have {', '.join(fields) or 'none'}"
        )
    if field is not None and job is None and not _has_partitions([asset] if target is None else target):
        raise file_dataset.InvalidDatasetError(
            f"partition_by={field!r} requests a run for each partition, and what is to run has none: write "
            f"files_asset(..., partition_by={field!r}), or give target= assets with "
            f"partitions_def=dg.DynamicPartitionsDefinition(name={field!r})"
        )
    if partitions_def is None and field is not None:
        partitions_def = dg.DynamicPartitionsDefinition(name=field)
    key = asset.key
    sensor = _Sensor(
        name=name or f"{re.sub(r'[^A-Za-z0-9_]+', '_', '_'.join(key.path))}_files",
        key=key,
        listing=listing,
        field=field,
        partitions_def=partitions_def,
        most=max_run_requests,
        run_config=run_config,
        tags=dict(tags or {}),
        base_path=base_path,
    )

    # a test that calls a sensor gets its resources passed; they are in the context too
    def evaluate(context: dg.SensorEvaluationContext, **_: object) -> dg.SensorResult:
        return sensor.tick(context)

    return dg.SensorDefinition(
        name=sensor.name,
        evaluation_fn=evaluate,
        required_resource_keys={listing.resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        description=description or f"Requests a run when files of {key.to_user_string()} are new or overwritten.",
        default_status=default_status,
        **({"job": job} if job is not None else {"target": [asset] if target is None else target}),
    )


@dataclass(frozen=True, slots=True)
class _Sensor:
    """What a sensor was given; a tick is a call."""

    name: str
    key: dg.AssetKey
    listing: Listing
    field: str | None
    partitions_def: dg.PartitionsDefinition[Any] | None
    most: int
    run_config: Mapping[str, Any] | dg.RunConfig | None
    tags: Mapping[str, str]
    base_path: str | None

    def tick(self, context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """List, compare, say what is to be done, store; then return it."""
        resource = getattr(context.resources, self.listing.resource_key)
        if not isinstance(resource, FileDatasetResource):
            raise file_dataset.InvalidDatasetError(
                f"resource {self.listing.resource_key!r} is a {type(resource).__name__}: give a FileDatasetResource"
            )
        options = resource.get_options()
        store = ManifestStore(self.base_path or resource.base_path, lambda: options)
        before, previous = self._stored(store, context.cursor)
        found = self.listing.found(options)
        now, left_out, rows = found.etags(self.field), found.left_out, len(found)
        del found  # a million rows take 0.5 GB
        if left_out:
            context.log.error("%s", self.listing.left_out(left_out))
        allowed = self._allowed(context)
        step = _file_changes.step(before, now, allowed=allowed, most=self.most)
        said = self._said(step, now, allowed, rows=rows, is_first=not context.cursor)
        said += f"; {len(left_out):,} files left out, see the tick's log" if left_out else ""
        context.log.info(said)
        if not step.changes:
            return dg.SensorResult(skip_reason=said)
        added = self._added(context, step)
        if added is not None:
            context.log.info("%s new partitions of %r", f"{len(added.partition_keys):,}", self.field)
        # a cursor that was reset begins another chain, in which no run key of the one before comes again
        begins = context.cursor or f"begun {uuid.uuid4().hex}"
        cursor = _file_changes.cursor_after(begins, step.files)
        store.store(_file_changes.to_frame(step.files), self._uri(store, cursor), {"previous": context.cursor})
        if previous is not None:
            _remove(self._uri(store, previous), options)
        requests = [self._request(begins, key, step) for key in step.requested]
        return dg.SensorResult(
            run_requests=requests or None,
            skip_reason=None if requests else said,
            cursor=cursor,
            dynamic_partitions_requests=None if added is None else [added],
        )

    def _uri(self, store: ManifestStore, cursor: str) -> str:
        return store.listing_uri(self.key, self.name, cursor)

    def _stored(self, store: ManifestStore, cursor: str | None) -> tuple[Files, str | None]:
        """The files that the last tick delivered, and the cursor before it, whose listing is of no use any more."""
        if not cursor:
            return {}, None
        if not re.fullmatch("[0-9a-f]{64}", cursor):
            raise file_dataset.InvalidDatasetError(
                f"the cursor of sensor {self.name} is {cursor[:80]!r}, which is no digest of a listing: reset it, or "
                "give the sensor another name; all files are then requested again"
            )
        uri = self._uri(store, cursor)
        blobs = store.blobs({"listing": uri})
        if not blobs:
            raise file_dataset.FileDatasetError(
                f"the listing that the cursor of sensor {self.name} names is not at {uri}: correct base_path, or bring "
                "the file back (where the asset was renamed, from below its old name). Or reset the cursor: all "
                "files are then requested again"
            )
        frame, notes = store.with_notes(blobs["listing"], uri)
        return _file_changes.from_frame(frame), notes.get("previous")

    def _allowed(self, context: dg.SensorEvaluationContext) -> Sequence[str] | None:
        """The partitions that there are, where this sensor adds none."""
        if self.partitions_def is None or isinstance(self.partitions_def, dg.DynamicPartitionsDefinition):
            return None
        return self.partitions_def.get_partition_keys(dynamic_partitions_store=context.instance)

    def _added(self, context: dg.SensorEvaluationContext, step: Step) -> "dg.AddDynamicPartitionsRequest | None":
        if not isinstance(self.partitions_def, dg.DynamicPartitionsDefinition):
            return None
        definition = self.partitions_def
        there = set(context.instance.get_dynamic_partitions(str(definition.name)))
        new = [key for key in step.requested if key is not None and key not in there]
        return definition.build_add_request(new) if new else None

    def _request(self, begins: str, key: str | None, step: Step) -> dg.RunRequest:
        change = step.changes[key]
        elsewhere = sum(len(one.deleted) for one in step.changes.values() if not one.is_to_request)
        counts = {"new": change.new, "overwritten": change.overwritten, "deleted": change.deleted}
        return dg.RunRequest(
            run_key=_file_changes.run_key(begins, key, change),
            partition_key=key,
            run_config=self.run_config,
            tags={
                **self.tags,
                **{f"file_dataset/{name}": str(len(files)) for name, files in counts.items() if files},
                **({"file_dataset/deleted_in_other_partitions": str(elsewhere)} if elsewhere else {}),
            },
        )

    def _waiting(self, step: Step, allowed: Sequence[str] | None) -> str:
        """Which partitions wait, and for what."""
        none_yet = [] if allowed is None else sorted(set(step.later) - set(allowed))
        others = len(step.later) - len(none_yet)
        wait = f"; {others} partitions wait for a later tick" if others else ""
        if not none_yet:
            return wait
        named = f"{', '.join(map(repr, none_yet[:_SHOWN]))}{', ...' if len(none_yet) > _SHOWN else ''}"
        return f"{wait}; files wait whose {self.field!r} is no partition yet: {named}"

    def _said(self, step: Step, now: Files, allowed: Sequence[str] | None, *, rows: int, is_first: bool) -> str:
        """What the tick does, in a sentence: the skip message, or a line of its log."""
        files = len({location for found in now.values() for location in found})
        new, overwritten, deleted = step.counts()
        requests = len(step.requested)
        of = "" if self.field is None else f", one a partition of {self.field!r}"
        wait = self._waiting(step, allowed)
        if is_first and requests:
            return f"first listing: {files:,} files in {rows:,} rows -> {requests:,} run requests{of}{wait}"
        if not step.changes:
            nothing = f"nothing has changed: {files:,} files" if files else f"no file matches {self.listing.patterns}"
            return f"{nothing}{wait}"
        gone = [location for change in step.changes.values() for location, _ in change.deleted]
        is_shown = gone and self.listing.show_ids
        shown = f" ({', '.join(gone[:_SHOWN])}{', ...' if len(gone) > _SHOWN else ''})" if is_shown else ""
        changed = f"{new:,} files new, {overwritten:,} overwritten, {deleted:,} deleted{shown} of {files:,}"
        return f"{changed} -> {f'{requests:,} run requests{of}' if requests else 'no run request'}{wait}"


def _has_partitions(target: object) -> bool:
    """Whether a target can run for a partition; True where only Dagster can say it: a job, a selection, a key."""
    several = target if isinstance(target, list) else [target]
    return any(not isinstance(one, dg.AssetsDefinition) or one.partitions_def is not None for one in several)


def _listing_of(asset: Any) -> tuple[Listing, dg.PartitionsDefinition[Any] | None]:  # noqa: ANN401 (what a user gives)
    """What a `files_asset` lists.

    Raises:
        file_dataset.InvalidDatasetError: it is not a `files_asset`.
    """
    metadata: Mapping[str, Any] = {}
    with contextlib.suppress(AttributeError, KeyError, dg.DagsterError):
        metadata = asset.metadata_by_key[asset.key]
    found = metadata.get(METADATA)
    if not isinstance(found, dg.JsonMetadataValue):
        raise file_dataset.InvalidDatasetError(
            f"build_files_sensor({asset!r}): give what files_asset returned, which knows what is to be listed"
        )
    given: Any = found.value
    return Listing(**given), asset.partitions_def


def _remove(uri: str, options: file_dataset.Options) -> None:
    """Remove a listing that no tick reads again; where that is not allowed it stays, and does no harm."""
    with contextlib.suppress(OSError, BotoCoreError, ClientError):
        if uri.startswith("s3://"):
            bucket, key = bucket_and_key(uri)
            options.s3_client.delete_object(Bucket=bucket, Key=key)
        else:
            Path(uri).unlink(missing_ok=True)
