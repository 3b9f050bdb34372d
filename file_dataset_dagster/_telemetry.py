"""Runs as OpenTelemetry has them: a span for each partition, and counters. The only module that knows OpenTelemetry.

Nothing is imported, and nothing happens, unless a variable says where an OTLP collector listens. What cannot be sent is
lost: a collector that is down must not fail a run, nor hold it up for longer than a few seconds at its end.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from file_dataset_dagster._dropped_rows import NAMING_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)

# https://opentelemetry.io/docs/specs/otel/protocol/exporter/
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_ENDPOINTS = (_ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT")
_TIMEOUT_S = 3  # for what is sent at the end of a step, of spans and of metrics; a guess
_SHOWN = 20  # dropped rows of a span: one more event each; a guess
_COUNTERS = ("input_rows", "dropped_rows", "read_bytes", "stored_bytes", "retries", "throttles")
_STAGES = ("download", "fn", "upload")


@dataclass(frozen=True, slots=True)
class Sender:
    """The providers of this process."""

    tracers: Any
    meters: Any
    tracer: Any
    counters: Mapping[str, Any]

    def send(self) -> None:
        """Send what has not been sent."""
        for provider in (self.tracers, self.meters):
            with contextlib.suppress(Exception):  # whatever an exporter raises is not worth the run
                provider.force_flush()


@contextlib.contextmanager
def sending() -> Iterator[None]:
    """Send, at the end of a step, what was reported in it."""
    try:
        yield
    finally:
        if (sender := sender_of_process()) is not None:
            sender.send()


@dataclass(frozen=True, slots=True)
class Reported:
    """The run of a partition, or of an asset without any.

    Attributes:
        attributes: which asset, partition and run.
        started_ns: when it began, since 1970.
        shows_ids: whether ids, and the URLs and messages that may hold them, may leave this process.
    """

    attributes: Mapping[str, str]
    started_ns: int
    shows_ids: bool

    @classmethod
    def begin(cls, attributes: Mapping[str, str | None], *, shows_ids: bool) -> Reported:
        """Begin it now; costs a look at the clock."""
        known = {name: value for name, value in attributes.items() if value is not None}
        return cls(known, time.time_ns(), shows_ids)

    def stored(self, metrics: Mapping[str, Any], failures: pd.DataFrame) -> None:
        """Report that its manifest may be stored, and which rows were dropped."""
        self._report(metrics, failures, error=None)

    def failed(self, metrics: Mapping[str, Any], error: str) -> None:
        """Report that its manifest is not stored, and why; the text has no ids where they are not to be shown."""
        self._report(metrics, None, error=error)

    def _report(self, metrics: Mapping[str, Any], failures: pd.DataFrame | None, error: str | None) -> None:
        sender = sender_of_process()
        if sender is None:
            return
        from opentelemetry.trace import Status, StatusCode

        numbers = {f"file_dataset.{name}": value for name, value in metrics.items()}
        span = sender.tracer.start_span(
            "file_dataset.pipeline_asset", attributes={**self.attributes, **numbers}, start_time=self.started_ns
        )
        dropped = [] if failures is None else failures.head(_SHOWN).astype(object).to_dict("records")
        for failure in dropped:
            span.add_event("dropped row", self._attributes_of(failure))
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end()
        of_asset = {"dagster.asset_key": self.attributes["dagster.asset_key"]}  # a partition would be a series each
        for name in _COUNTERS:
            if name in metrics:
                sender.counters[name].add(metrics[name], of_asset)
        for stage in _STAGES:
            if f"{stage}_s" in metrics:
                sender.counters["seconds"].add(metrics[f"{stage}_s"], {**of_asset, "stage": stage})

    def _attributes_of(self, failure: Mapping[Any, Any]) -> dict[str, str]:
        hidden = () if self.shows_ids else NAMING_COLUMNS
        return {str(name): str(value) for name, value in failure.items() if name not in hidden and pd.notna(value)}


def sender_of_process() -> Sender | None:
    """Where to send to, one per process; None: no variable says so."""
    return made_for(os.getpid()) if any(os.environ.get(name) for name in _ENDPOINTS) else None


@functools.cache
def made_for(_: int) -> Sender | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("%s is set and OpenTelemetry is not installed: pip install 'file-dataset[otel]'", _ENDPOINT)
        return None
    is_named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if is_named else {"service.name": "file_dataset"})
    timeout: dict[str, Any] = {} if any(os.environ.get(name) for name in _TIMEOUTS) else {"timeout": _TIMEOUT_S}
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**timeout)))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(**timeout))
    meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    meter = meters.get_meter("file_dataset")
    counters = {name: meter.create_counter(f"file_dataset.{name}") for name in _COUNTERS}
    counters["seconds"] = meter.create_counter("file_dataset.stage.seconds", unit="s")
    return Sender(tracers, meters, tracers.get_tracer("file_dataset"), counters)
