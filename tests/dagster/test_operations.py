"""The recipes of docs/operations.md do what the page says: its blocks are run here, and then tried."""

import contextlib
import datetime as dt
import io
import json
import re
import socketserver
import threading
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, copy_scan

from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
SHOWN = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# what only defines: the blocks that run something are run by tests/test_pages.py
BLOCKS = [block for block in SHOWN.findall(PAGE) if "dg.materialize(" not in block]


@pytest.fixture(scope="module")
def page(moto):
    """What the blocks of the page define."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", moto)
        found = {"__name__": "page"}
        for block in BLOCKS:
            exec(compile(block, "docs/operations.md", "exec"), found)  # noqa: S102 (a page of ours)
        yield found


class Nights:
    """An asset that reads another one, on an instance of its own, and the daemon that looks at both."""

    def __init__(self, instance, condition, tmp_path, resources):
        @dg.asset
        def raw_scans() -> pd.DataFrame:
            scan = tmp_path / self.scan
            scan.write_text(self.scan)
            return pd.DataFrame({"id": ["a"], "scan.txt": [str(scan)]})

        self.scan = "first"
        given = {"name": "copied", "input": raw_scans, "automation_condition": condition}
        self.assets = [raw_scans, pipeline_asset(copy_scan, **given)]
        self.defs = dg.Definitions(assets=self.assets, resources=resources)
        self.instance, self.cursor = instance, None
        self.now = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)

    def tick(self, hours=0):
        """Return how many runs the daemon requests, which then run."""
        self.now += dt.timedelta(hours=hours, seconds=30)
        found = dg.evaluate_automation_conditions(
            defs=self.defs, instance=self.instance, cursor=self.cursor, evaluation_time=self.now
        )
        self.cursor = found.cursor
        return found.get_num_requested(dg.AssetKey("copied"))


@pytest.fixture
def nights(run, local, instance, tmp_path):
    def begin(condition):
        resources = {"file_dataset": local, "io_manager": ManifestIOManager(resource=local)}
        nights = Nights(instance, condition, tmp_path, resources)

        def tick(hours=0):
            requested = nights.tick(hours)
            if requested:
                assert run(nights.assets, local, selection=["copied"]).success
            return requested

        def materialize(scan):
            nights.scan = scan
            assert run(nights.assets, local, selection=["raw_scans"]).success

        return tick, materialize

    return begin


def test_a_change_runs_it_at_once_and_the_same_content_does_not(page, nights):
    tick, materialize = nights(page["on_change"])
    assert tick() == 0  # what it reads is not there
    materialize("first")
    assert [tick(), tick()] == [1, 0]
    materialize("first")
    assert [tick(), tick()] == [0, 0]
    materialize("second")
    assert [tick(), tick()] == [1, 0]


def test_eager_runs_on_the_same_content_as_the_page_says(nights):
    tick, materialize = nights(dg.AutomationCondition.eager())
    tick()
    materialize("first")
    assert [tick(), tick()] == [1, 0]
    materialize("first")
    assert tick() == 1


def test_at_two_it_runs_where_something_has_changed_since(page, nights):
    tick, materialize = nights(page["at_two"])
    tick()
    materialize("first")
    assert [tick(), tick(24), tick()] == [0, 1, 0]  # at noon; after two o'clock of the next day
    materialize("first")
    assert [tick(24), tick()] == [0, 0]
    materialize("second")
    assert [tick(), tick(24), tick(24)] == [0, 1, 0]


def test_an_asset_has_its_freshness_policy(page):
    (spec,) = page["fresh"].specs
    assert spec.freshness_policy.fail_window.to_timedelta() == dt.timedelta(hours=26)


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as smtplib asks for (RFC 5321)."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line.split()[0].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(b"".join(lines).decode())
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
            if verb == b"QUIT":
                return


@pytest.fixture
def mailbox():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as server:
        server.mails = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["success", "failure"])
def test_dropped_rows_are_mailed_by_the_sensor(page, chain, scans, instance, mailbox, monkeypatch, kind):
    bad = {"missing": ["a"]} if kind == "success" else {"broken": ["a", "b"]}
    result = chain(scans(["a", "b"], **bad))
    assert result.success is (kind == "success")
    monkeypatch.setitem(page, "mail", lambda context, mail=page["mail"]: mail(context, *mailbox.server_address))
    (event,) = result.filter_events(lambda event: event.event_type_value == f"PIPELINE_{kind.upper()}")
    context = dg.build_run_status_sensor_context("sensor", event, instance, instance.get_run_by_id(result.run_id))
    page[f"mail_after_{kind}"](context)
    (mail,) = mailbox.mails
    assert "Subject: 1 checks failed in __ephemeral_asset_job__" in mail
    dropped = "1 of 2 rows dropped (50.0%): 1 at download" if kind == "success" else "2 of 2 rows dropped"
    assert f"copied: {dropped}" in mail
    assert "scan.txt" not in mail


def test_a_run_without_dropped_rows_sends_no_mail(page, chain, scans, instance, mailbox):
    result = chain(scans(["a"]))
    assert page["bad_checks"](instance, result.run_id) == []
    (event,) = result.filter_events(lambda event: event.event_type_value == "PIPELINE_SUCCESS")
    context = dg.build_run_status_sensor_context("sensor", event, instance, instance.get_run_by_id(result.run_id))
    page["mail"](context, *mailbox.server_address)
    assert mailbox.mails == []


def test_the_policies_of_backfills_are_those_of_the_table(page):
    found = {name: page[name].backfill_policy.max_partitions_per_run for name in ("in_one_run", "in_runs_of_30")}
    assert found == {"in_one_run": None, "in_runs_of_30": 30}


def test_steps_of_a_pool_are_known_to_dagster(page):
    assert {page[name].op.pool for name in ("on_gpus", "alone")} == {"gpu", "alone"}


def test_a_pod_has_room_where_the_rows_files_lie(page):
    tags = json.loads(page["on_kubernetes"].op.tags["dagster-k8s/config"])
    (mount,) = tags["container_config"]["volume_mounts"]
    assert mount["mountPath"] == "/scratch"
    assert tags["pod_spec_config"]["termination_grace_period_seconds"] > 30  # what an interrupted run waits for uploads


DAYS = dg.StaticPartitionsDefinition(["mon", "tue"])


@pytest.fixture
def asset(scans, resource, s3, bucket):
    """A partitioned pipeline in S3, under a name; and one downstream that joins its days."""

    def assets(name="copied"):
        @dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
        def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
            return {day: scans([day]) for day in context.partition_keys}

        given = {"partitions_def": DAYS, "backfill_policy": ONE_RUN}
        copied = pipeline_asset(copy_scan, name=name, input=raw_scans, **given)
        joined = pipeline_asset(
            lambda input_dir, output_dir: {"copy.txt": input_dir / "copy.txt"}, name="joined", input=copied
        )
        return [raw_scans, copied, joined]

    return assets


def test_a_base_path_moves_with_all_that_refers_to_it(page, run, asset, resource, s3, bucket):
    week = {"dagster/asset_partition_range_start": "mon", "dagster/asset_partition_range_end": "tue"}
    raw_scans, copied, joined = asset()
    assert run([raw_scans, copied], resource, tags=week).success
    old, new = f"s3://{bucket}/base", f"s3://{bucket}/other/place"
    for item in s3.list_objects_v2(Bucket=bucket)["Contents"]:
        source = {"Bucket": bucket, "Key": item["Key"]}
        s3.copy_object(Bucket=bucket, Key=item["Key"].replace("base/", "other/place/", 1), CopySource=source)
        s3.delete_object(**source)
    assert page["rewrite"](old, new, s3) >= 4
    moved = FileDatasetResource(endpoint_url=resource.endpoint_url, base_path=new)
    manifests = ManifestIOManager(resource=moved)
    frame = manifests.load(manifests.uri(copied.key, "mon"))
    assert frame["copy.txt"].tolist() == [f"{new}/files/copied/mon/mon/copy.txt"]
    assert run([raw_scans, copied, joined], moved, selection=["joined"]).success


def test_a_renamed_asset_is_materialized_and_is_read_under_its_new_name(page, run, asset, resource, s3, instance):
    week = {"dagster/asset_partition_range_start": "mon", "dagster/asset_partition_range_end": "tue"}
    raw_scans, copied, _ = asset()
    assert run([raw_scans, copied], resource, tags=week).success
    before = instance.fetch_materializations(copied.key, limit=1).records[0].asset_materialization
    manifests = ManifestIOManager(resource=resource)
    assert page["rename"]("copied", "reworked", instance, manifests, s3) == 2
    raw_scans, reworked, joined = asset("reworked")
    assert instance.get_materialized_partitions(reworked.key) == {"mon", "tue"}
    after = instance.fetch_materializations(reworked.key, limit=1).records[0].asset_materialization
    assert after.tags["dagster/data_version"] == before.tags["dagster/data_version"]
    result = run([raw_scans, reworked, joined], resource, selection=["joined"])
    assert result.success
    assert result.asset_value("joined")["id"].tolist() == ["mon", "tue"]


def test_polars_reads_a_manifest_in_a_bucket_by_itself(run, asset, resource, s3_endpoint):
    import polars as pl

    raw_scans, copied, _ = asset()
    assert run([raw_scans, copied], resource, partition_key="mon").success
    uri = ManifestIOManager(resource=resource).uri(copied.key, "mon")
    where = {
        "aws_endpoint_url": s3_endpoint,
        "aws_access_key_id": "from-environment",
        "aws_secret_access_key": "none",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    with contextlib.redirect_stdout(io.StringIO()):
        frame = pl.scan_parquet(uri, storage_options=where, credential_provider=None).collect()
    assert frame["id"].to_list() == ["mon"]


def test_a_manifest_of_a_later_format_is_refused_with_what_to_upgrade(run, asset, resource, s3, bucket):
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw_scans, copied, joined = asset()
    week = {"dagster/asset_partition_range_start": "mon", "dagster/asset_partition_range_end": "tue"}
    assert run([raw_scans, copied], resource, tags=week).success
    key = ManifestIOManager(resource=resource).uri(copied.key, "mon").removeprefix(f"s3://{bucket}/")
    table = pq.read_table(pa.BufferReader(s3.get_object(Bucket=bucket, Key=key)["Body"].read()))
    later = table.replace_schema_metadata({**table.schema.metadata, b"file_dataset.format_version": b"99"})
    sink = pa.BufferOutputStream()
    pq.write_table(later, sink)
    s3.put_object(Bucket=bucket, Key=key, Body=sink.getvalue().to_pybytes())
    result = run([raw_scans, copied, joined], resource, selection=["joined"])
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert "upgrade file-dataset" in event.step_failure_data.error.to_string()
