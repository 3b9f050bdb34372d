"""Numbers of a run: as metadata of its materialization, to be plotted, and over OTLP where a collector listens."""

import contextlib
import subprocess
import sys

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, copy_scan, failure_of, metadata_of, range_tags
from servers.faults import SLOW_DOWN
from servers.otlp import Collector, values_of

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


REFUSED = pd.DataFrame({"id": ["zq-1", "zq-1"], "scan.txt": ["/in/a", "/in/b"]})


def span_of(collector):
    """The one span, which must be an error: its message and attributes, and its dropped rows."""
    (span,) = collector.spans()
    assert span.status.code == 2
    return span.status.message, values_of(span.attributes), [values_of(event.attributes) for event in span.events]


@pytest.mark.parametrize("shows", [True, False])
def test_a_run_whose_frame_is_refused_is_a_span_with_an_error(chain, collector, shows):
    assert not chain(REFUSED, show_ids=shows).success
    message, found, _ = span_of(collector)
    assert message.startswith("the pipeline stopped: ")
    assert found["dagster.asset_key"] == "copied"
    assert ("zq-1" in message) is shows


def test_a_run_that_stops_is_a_span_with_what_it_has_done(chain, scans, collector):
    assert not chain(scans(["a", "b", "c"], broken=["a", "b"]), max_failures=1).success
    message, found, rows = span_of(collector)
    assert message.startswith("the pipeline stopped: ")
    assert (found["file_dataset.input_rows"], found["file_dataset.dropped_rows"]) == (3, 2)
    assert [row["id"] for row in rows] == ["a", "b"]
    assert collector.sums()["file_dataset.dropped_rows"] == 2


def test_a_run_that_drops_too_many_rows_is_a_span_with_them(chain, scans, collector):
    assert not chain(scans(["a", "b"], missing=["b"]), max_dropped_fraction=0.1).success
    message, found, rows = span_of(collector)
    assert message.startswith("1 of 2 rows dropped (50.0%; allowed 10.0%)")
    assert (found["file_dataset.stored_bytes"], [row["id"] for row in rows]) == (6, ["b"])  # "scan a"


@pytest.mark.parametrize("in_range", [False, True], ids=["alone", "in a range"])
def test_a_run_that_has_nowhere_to_write_to_is_a_span_with_an_error(run, local, scans, collector, in_range):
    given = {"partitions_def": DAYS, "backfill_policy": ONE_RUN} if in_range else {}

    @dg.asset(**given)
    def raw_scans(context: dg.AssetExecutionContext):
        return {key: scans([key]) for key in context.partition_keys} if in_range else scans(["a"])

    copied = pipeline_asset(copy_scan, name="copied", input=raw_scans, resource_key="nowhere", **given)
    tags = range_tags(KEYS) if in_range else {}
    result = run([raw_scans, copied], local, resources={"nowhere": FileDatasetResource()}, tags=tags)
    assert not result.success
    message, *_ = span_of(collector)
    assert message.startswith("nowhere to write to")
    (check,) = result.get_asset_check_evaluations()
    assert "nowhere to write to" in check.description
    assert failure_of(result).description.count("nowhere to write to") == 1


def test_a_manifest_that_cannot_be_stored_is_a_span_with_an_error(chain, scans, collector, tmp_path):
    chain(scans(["a"]))
    collector.received.clear()
    manifest = tmp_path / "base" / "manifests" / "copied" / "manifest.parquet"
    manifest.unlink()
    manifest.mkdir()
    assert not chain(scans(["a"])).success
    message, *_ = span_of(collector)
    assert message == "the manifest could not be stored; the failure of the step says why"


def test_a_run_that_is_cancelled_is_a_span_with_an_error(run, local, scans, collector):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["a", "b"])

    def interrupted(input_dir, output_dir):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run([raw_scans, pipeline_asset(interrupted, name="copied", input=raw_scans)], local)
    message, *_ = span_of(collector)
    assert message == "the run was cancelled (KeyboardInterrupt)"


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


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "were not sent: max_queue_size must be a positive integer"),
        ("OTEL_TRACES_SAMPLER", "zq-sampler", "OpenTelemetry: Couldn't recognize sampler zq-sampler"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x=y,zq-secret", "OpenTelemetry: Header format invalid"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "me:zq-secret@127.0.0.1:9", "No connection adapters were found for '***@127"),
    ],
)
def test_a_wrong_setting_is_a_line_of_the_run_s_log(chain, scans, collector, instance, monkeypatch, name, value, line):
    """Once in a process. What can be secret is not in it: Dagster stores the line."""
    monkeypatch.setenv(name, value)
    results = [chain(scans(["a"])) for _ in range(2)]
    lines = [entry.user_message for result in results for entry in instance.all_logs(result.run_id)]
    (found,) = [one for one in lines if "OpenTelemetry" in one]
    assert line in found
    assert "zq-secret" not in found


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


def test_the_run_s_log_says_what_to_install(chain, scans, collector, instance, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    lines = [entry.user_message for entry in instance.all_logs(chain(scans(["a"])).run_id)]
    assert [line for line in lines if "pip install 'file-dataset[otel]'" in line]
