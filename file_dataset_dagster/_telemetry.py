"""Runs as OpenTelemetry has them: a span for each partition, and counters. The only module that knows OpenTelemetry.

Nothing is imported, and nothing happens, unless a variable says where an OTLP collector listens. What cannot be sent is
lost. A collector or a setting that is wrong is a line of the run's log, and fails no run. A process waits once for a
collector that does not answer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
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
            self.said.append(self.refused[0].rstrip(".") if self.refused else f"no answer within {_TIMEOUT_S} s")
            log.warning("%s", _NOT_SENT.format(why=_masked(self.said[0])))


@dataclass(frozen=True, slots=True)
class Made:
    """What was made for a process: its sender, if any, and what is wrong with its settings."""

    sender: Sender | None
    wrong: list[str]

    def say(self, log: logging.Logger) -> None:
        """Say what is wrong: once in a process."""
        while self.wrong:
            log.warning("%s", self.wrong.pop(0))


@contextlib.contextmanager
def sending(log: logging.Logger) -> Iterator[None]:
    """Send, at the end of a step, what was reported in it; say in its log what is wrong, and what was not sent."""
    if not _is_wanted():
        yield
        return
    made = made_for(os.getpid())
    made.say(log)
    try:
        yield
    finally:
        if made.sender is not None:
            made.sender.send(log)


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


@dataclass(slots=True)
class Ran:
    """What is known of the run of a partition, or of an asset without any, when it ends.

    Attributes:
        metrics: its numbers.
        failures: its dropped rows.
        error: why its manifest is not stored, without ids where they may not be shown; None: what was raised says it.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    failures: pd.DataFrame | None = None
    error: str | None = None


@contextlib.contextmanager
def reported(attributes: Mapping[str, str | None], *, shows_ids: bool) -> Iterator[Ran]:
    """Report the block as a span when it ends: as an error where it raises anything.

    Args:
        attributes: which asset, partition and run.
        shows_ids: whether ids, and the URLs and messages that may hold them, may leave this process.
    """
    ran, started_ns = Ran(), time.time_ns()
    try:
        yield ran
    except BaseException as exc:
        _report(attributes, started_ns, ran, ran.error or _text_of(exc, shows=shows_ids), shows=shows_ids)
        raise
    _report(attributes, started_ns, ran, None, shows=shows_ids)


def _text_of(error: BaseException, *, shows: bool) -> str:
    if isinstance(error, GeneratorExit):  # Dagster reads no further: its IO manager has raised
        return "the manifest could not be stored; the failure of the step says why"
    kind = type(error).__name__
    if not isinstance(error, Exception):
        return f"the run was cancelled ({kind})"
    return f"{kind}: {error}"[:_CHARS] if shows else f"{kind} (show_ids=False: no details here)"


def _report(attributes: Mapping[str, str | None], started_ns: int, ran: Ran, error: str | None, *, shows: bool) -> None:
    sender = sender_of_process()
    if sender is None:
        return
    from opentelemetry.trace import Status, StatusCode

    known = {name: value for name, value in attributes.items() if value is not None}
    numbers = {f"file_dataset.{name}": value for name, value in ran.metrics.items()}
    span = sender.tracer.start_span(
        "file_dataset.pipeline_asset", attributes={**known, **numbers}, start_time=started_ns
    )
    dropped = [] if ran.failures is None else ran.failures.head(_SHOWN).astype(object).to_dict("records")
    for failure in dropped:
        span.add_event("dropped row", _attributes_of(failure, shows=shows))
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end()
    of_asset = {"dagster.asset_key": known["dagster.asset_key"]}  # a partition would be a series each
    for name in _COUNTERS:
        if name in ran.metrics:
            sender.counters[name].add(ran.metrics[name], of_asset)
    for stage in _STAGES:
        if f"{stage}_s" in ran.metrics:
            sender.counters["seconds"].add(ran.metrics[f"{stage}_s"], {**of_asset, "stage": stage})


def _attributes_of(failure: Mapping[Any, Any], *, shows: bool) -> dict[str, str]:
    import pandas as pd

    hidden = () if shows else NAMING_COLUMNS
    return {str(name): str(value) for name, value in failure.items() if name not in hidden and pd.notna(value)}


def _is_wanted() -> bool:
    """Whether a variable says where a collector listens."""
    return any(os.environ.get(name) for name in _ENDPOINTS)


def sender_of_process() -> Sender | None:
    """Where to send to, one per process; None: no variable says so."""
    return made_for(os.getpid()).sender if _is_wanted() else None


@functools.cache
def made_for(_: int) -> Made:
    """What a process sends with, and what is wrong with its settings; both are a line of the process's log too."""
    sender: Sender | None = None
    wrong: list[str] = []
    try:
        with _complaints(wrong):
            sender = _made()
    except ImportError:
        wrong.append(f"{_ENDPOINT} is set and OpenTelemetry is not installed: pip install 'file-dataset[otel]'")
        logger.warning("%s", wrong[-1])
    except Exception as exc:  # noqa: BLE001 (a variable of OpenTelemetry's is wrong: that is not worth the run)
        wrong.append(_NOT_SENT.format(why=f"{_masked(str(exc)).rstrip('.')}; look at the variables OTEL_*"))
        logger.warning("%s", wrong[-1])
    return Made(sender, wrong)


@contextlib.contextmanager
def _complaints(wrong: list[str]) -> Iterator[None]:
    """Note what OpenTelemetry logs in this thread meanwhile: settings that it does not understand, and so ignores."""

    class Notes(logging.Handler):
        thread = threading.get_ident()

        def emit(self, record: logging.LogRecord) -> None:
            line = f"OpenTelemetry: {_masked(record.getMessage())[:_CHARS].rstrip('.')}; look at the variables OTEL_*"
            if record.thread == self.thread and line not in wrong:
                wrong.append(line)

    notes = Notes(logging.WARNING)
    logging.getLogger("opentelemetry").addHandler(notes)
    try:
        yield
    finally:
        logging.getLogger("opentelemetry").removeHandler(notes)


def _masked(text: str) -> str:
    """Hide what can be secret in OpenTelemetry's messages: headers, whole or each, and a password in the endpoint."""
    names = [name for name in os.environ if name.startswith("OTEL_") and name.endswith("HEADERS")]
    headers = {part.strip() for name in names for part in (os.environ[name], *os.environ[name].split(","))}
    for header in sorted(headers - {""}, key=len, reverse=True):
        text = text.replace(header, "***")
    return re.sub(r"[^\s/'\"@]+:[^\s/'\"@]+@", "***@", text)


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
