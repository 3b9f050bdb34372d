"""Numbers of a run: as metadata of its materialization, to be plotted, and over OTLP where a collector listens."""

import gzip
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, copy_scan, metadata_of, range_tags
from servers.faults import SLOW_DOWN

from file_dataset_dagster import FileDatasetResource, _telemetry, pipeline_asset

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")
KEYS = DAYS.get_partition_keys()


@pytest.fixture
def store(faults):
    faults.put("s3://bucket/in/a", b"a scan")
    faults.put("s3://bucket/in/b", b"another")
    return FileDatasetResource(endpoint_url=faults.endpoint_url, base_path="s3://bucket/base")


def remote(*names):
    return pd.DataFrame({"id": list(names), "scan.txt": [f"s3://bucket/in/{name}" for name in names]})


def test_the_materialization_has_numbers_to_plot(chain, store, faults):
    faults.fail("GetObject", SLOW_DOWN, key="in/a")
    found = metadata_of(chain(remote("a", "b", "missing"), store))
    assert (found["input_rows"], found["dropped_rows"], found["dagster/row_count"]) == (3, 1, 2)
    assert (found["read_bytes"], found["stored_bytes"]) == (13, 13)
    assert (found["retries"], found["throttles"]) == (1, 1)
    assert all(found[name] >= 0 for name in ("seconds", "download_s", "fn_s", "upload_s"))
    assert found["download_s"] > 0


def test_a_part_of_the_rows_counts_its_own_requests_once(chain, store, faults):
    chain(remote("a", "missing"), store)
    faults.put("s3://bucket/in/missing", b"here it is")
    faults.fail("GetObject", SLOW_DOWN, key="in/missing")
    found = metadata_of(chain(remote("a", "missing"), store, config={"only_missing": True}))
    assert (found["retries"], found["throttles"], found["read_bytes"]) == (1, 1, 16)


class Collector:
    """What an OTLP collector has received over HTTP."""

    def __init__(self):
        received = self.received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def text(self):
        return b"".join(body for _, body in self.received)

    def spans(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        requests = [ExportTraceServiceRequest.FromString(body) for path, body in self.received if path == "/v1/traces"]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def sums(self):
        """The last value of each counter, by name and stage."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        found = {}
        for path, body in self.received:
            if path != "/v1/metrics":
                continue
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric in (one for scope in resource.scope_metrics for one in scope.metrics):
                    for point in metric.sum.data_points:
                        stage = values_of(point.attributes).get("stage", "")
                        found[f"{metric.name}{stage and '.'}{stage}"] = point.as_int or point.as_double
        return found


def values_of(attributes):
    kinds = [(one.key, one.value, one.value.WhichOneof("value")) for one in attributes]
    return {key: getattr(value, kind) for key, value, kind in kinds}


@pytest.fixture
def collector(monkeypatch):
    one = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.url)
    _telemetry.made_for.cache_clear()
    yield one
    if (sender := _telemetry.sender_of_process()) is not None:
        sender.tracers.shutdown()
        sender.meters.shutdown()
    _telemetry.made_for.cache_clear()
    one.close()


def test_a_run_is_a_span_with_its_dropped_rows_and_counters(chain, scans, collector):
    result = chain(scans(["a", "b", "c"], missing=["b"]))
    (span,) = collector.spans()
    found = values_of(span.attributes)
    assert span.name == "file_dataset.pipeline_asset"
    assert found["dagster.asset_key"] == "copied"
    assert found["dagster.run_id"] == result.run_id
    assert (found["file_dataset.input_rows"], found["file_dataset.dropped_rows"]) == (3, 1)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    (event,) = span.events
    row = values_of(event.attributes)
    assert (event.name, row["id"], row["error_stage"], row["error_type"]) == (
        "dropped row",
        "b",
        "download",
        "FileNotFoundError",
    )
    sums = collector.sums()
    assert (sums["file_dataset.input_rows"], sums["file_dataset.dropped_rows"]) == (3, 1)
    assert sums["file_dataset.stage.seconds.fn"] > 0


def test_each_partition_of_a_range_is_a_span(run, local, scans, collector):
    @dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
    def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
        return {key: scans([key], broken=[KEYS[1]]) for key in context.partition_keys}

    copied = pipeline_asset(copy_scan, name="copied", input=raw_scans, partitions_def=DAYS, backfill_policy=ONE_RUN)
    assert not run([raw_scans, copied], local, tags=range_tags(KEYS)).success
    spans = {values_of(span.attributes)["dagster.partition"]: span for span in collector.spans()}
    assert list(spans) == KEYS
    assert [spans[key].status.code for key in KEYS] == [0, 2, 0]  # unset, error, unset
    assert spans[KEYS[1]].status.message.startswith(f"{KEYS[1]}: 1 of 1 rows dropped")
    assert collector.sums()["file_dataset.dropped_rows"] == 1


@pytest.mark.parametrize("shows", [True, False])
def test_ids_are_sent_only_where_they_may_be_shown(chain, scans, collector, shows):
    chain(scans(["patient-7", "b"], missing=["patient-7"]), show_ids=shows)
    assert len(collector.spans()[0].events) == 1
    assert (b"patient-7" in collector.text) is shows


def test_a_collector_that_is_down_fails_nothing_and_is_said_once(
    chain, scans, collector, instance, monkeypatch, caplog
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    results = [chain(scans(["a"])) for _ in range(2)]
    assert all(result.success for result in results)
    assert collector.received == []
    lines = [entry.user_message for result in results for entry in instance.all_logs(result.run_id)]
    (line,) = [line for line in lines if "OpenTelemetry" in line]
    assert "were not sent: " in line
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry.exporter")]


def test_a_wrong_setting_of_opentelemetry_s_fails_nothing(chain, scans, collector, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    assert chain(scans(["a"])).success
    assert "max_queue_size must be a positive integer; look at the variables OTEL_*" in caplog.text


def test_without_an_endpoint_nothing_is_imported(tmp_path):
    code = """
import sys
import dagster as dg, pandas as pd
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

@dg.asset
def raw() -> pd.DataFrame:
    return pd.DataFrame({"id": ["a"], "scan.txt": [__file__]})

def fn(input_dir, output_dir):
    return {"copy.txt": input_dir / "scan.txt"}

store = FileDatasetResource(base_path=sys.argv[1])
assets = [raw, pipeline_asset(fn, name="copied", input=raw)]
resources = {"file_dataset": store, "io_manager": ManifestIOManager(resource=store)}
assert dg.materialize(assets, resources=resources).success
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script, tmp_path / "base"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_endpoint_without_the_extra_says_what_to_install(chain, scans, collector, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert chain(scans(["a"])).success
    assert "pip install 'file-dataset[otel]'" in caplog.text
