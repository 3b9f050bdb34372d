"""Runs as OpenTelemetry has them: a span for each partition, and counters. The only module that knows OpenTelemetry.

Nothing is imported, and nothing happens, unless a variable says where an OTLP collector listens. What cannot be sent is
lost: whatever is wrong with the collector, or with a setting, is a line of the log, and fails no run. A process waits
for a collector that does not answer once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from file_dataset_dagster._dropped_rows import NAMING_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

logger = logging.getLogger(__name__)

# https://opentelemetry.io/docs/specs/otel/protocol/exporter/
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_ENDPOINTS = (_ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT")
_TIMEOUT_S = 3  # of a request, and for all that is sent at the end of a step; a guess
_EXPORTERS = tuple(f"opentelemetry.exporter.otlp.proto.http.{name}_exporter" for name in ("trace", "metric"))
_NOT_SENT = "OpenTelemetry's spans and counters were not sent: {why}. The run goes on, and this is said once"
_CHARS = 300  # of an exporter's message, which has its URL first; a guess
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
    refused: list[str]  # why what could not be sent; filled by exporters
    said: list[str] = field(default_factory=list)  # that it was not sent: once in a process

    def send(self, log: logging.Logger) -> None:
        """Send what has not been sent; wait for it no longer than `_TIMEOUT_S`, and not at all where that failed."""
        providers = (self.tracers, self.meters)
        threads = [threading.Thread(target=_flush, args=(one,), daemon=True) for one in providers]
        for thread in threads:
            thread.start()
        until = time.monotonic() + (0 if self.said else _TIMEOUT_S)
        for thread in threads:
            thread.join(max(0, until - time.monotonic()))
        if not self.said and (self.refused or any(thread.is_alive() for thread in threads)):
            self.said.append(self.refused[0] if self.refused else f"no answer within {_TIMEOUT_S} s")
            log.warning("%s", _NOT_SENT.format(why=self.said[0]))


@contextlib.contextmanager
def sending(log: logging.Logger) -> Iterator[None]:
    """Send, at the end of a step, what was reported in it; say in its log that it could not be sent."""
    try:
        yield
    finally:
        if (sender := sender_of_process()) is not None:
            sender.send(log)


def _flush(provider: Any) -> None:  # noqa: ANN401 (of spans, or of metrics)
    with contextlib.suppress(Exception):  # whatever an exporter raises is not worth the run
        provider.force_flush()


def _watched(exporter: Any, refused: list[str]) -> Any:  # noqa: ANN401 (of spans, or of metrics)
    """Note in `refused` what this exporter could not send. It logs a line for each try: they go no further."""
    of_thread = threading.local()  # other exporters of the process log by the same logger

    def goes_on(record: logging.LogRecord) -> bool:
        lines = getattr(of_thread, "lines", None)
        if lines is not None:
            lines.append(record.getMessage())
        return lines is None

    logging.getLogger(type(exporter).__module__).addFilter(goes_on)
    export = exporter.export

    def watched(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (what an exporter takes)
        lines: list[str] = []
        of_thread.lines = lines
        try:
            result = export(*arguments, **options)
        finally:
            of_thread.lines = None
        if result.name != "SUCCESS":
            refused.append((lines or ["the exporter does not say why"])[0][:_CHARS])
        return result

    exporter.export = watched
    return exporter


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
        import pandas as pd

        hidden = () if self.shows_ids else NAMING_COLUMNS
        return {str(name): str(value) for name, value in failure.items() if name not in hidden and pd.notna(value)}


def sender_of_process() -> Sender | None:
    """Where to send to, one per process; None: no variable says so."""
    return made_for(os.getpid()) if any(os.environ.get(name) for name in _ENDPOINTS) else None


@functools.cache
def made_for(_: int) -> Sender | None:
    """The sender of a process; None: it cannot be made, and a line of the log says why."""
    try:
        return _made()
    except ImportError:
        logger.warning("%s is set and OpenTelemetry is not installed: pip install 'file-dataset[otel]'", _ENDPOINT)
    except Exception as exc:  # noqa: BLE001 (a variable of OpenTelemetry's is wrong: that is not worth the run)
        logger.warning("%s", _NOT_SENT.format(why=f"{str(exc).rstrip('.')}; look at the variables OTEL_*"))
    return None


def _made() -> Sender:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    is_named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if is_named else {"service.name": "file_dataset"})
    timeout: dict[str, Any] = {} if any(os.environ.get(name) for name in _TIMEOUTS) else {"timeout": _TIMEOUT_S}
    refused: list[str] = []
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(_watched(OTLPSpanExporter(**timeout), refused)))
    reader = PeriodicExportingMetricReader(_watched(OTLPMetricExporter(**timeout), refused))
    meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    meter = meters.get_meter("file_dataset")
    counters = {name: meter.create_counter(f"file_dataset.{name}") for name in _COUNTERS}
    counters["seconds"] = meter.create_counter("file_dataset.stage.seconds", unit="s")
    return Sender(tracers, meters, tracers.get_tracer("file_dataset"), counters, refused)
