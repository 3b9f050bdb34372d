"""A code server, a daemon and GraphQL, as Dagster's UI uses them: launches, backfills, cancellation; and no secret."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import dagster as dg
import pytest
from helpers import free_port, stored_text
from servers.otlp import Collector, values_of

from file_dataset_dagster import FileDatasetResource, ManifestIOManager

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOCATION = Path(__file__).with_name("location.py")
SECRETS = ("L1teralS3cret", "EnvS3cret", "AKIDENV")
KEYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-31").get_partition_keys()
BROKEN = KEYS[56]
SELECTOR = {"repositoryLocationName": "location.py", "repositoryName": "__repository__"}


class Server:
    """`dagster dev` on the code location; what it answered and printed is kept."""

    def __init__(self, home, port, collector):
        self.home, self.url, self.answers, self.collector = home, f"http://127.0.0.1:{port}", [], collector

    def ask(self, query, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (loopback)
                text = answer.read().decode()
        except urllib.error.HTTPError as exc:  # Dagster's status for an error in a mutation; the UI shows its message
            text = exc.read().decode()
        self.answers.append(text)
        found = json.loads(text)
        return found["data"] if "errors" not in found else found

    def launch(self, job, tags=None, run_config=None):
        answer = self.ask(
            """mutation ($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
                 ... on RunConfigValidationInvalid { errors { message } } } }""",
            p={
                "selector": SELECTOR | {"pipelineName": job},
                "runConfigData": run_config or {},
                "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]},
            },
        )
        launched = answer.get("launchPipelineExecution", {})
        return launched["run"]["runId"] if "run" in launched else answer

    def status(self, run_id):
        query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return self.ask(query, id=run_id)["runOrError"]["status"]

    def wait(self, run_id, *, patience_s=200):
        return self.until(lambda: self.status(run_id), {"SUCCESS", "FAILURE", "CANCELED"}, patience_s=patience_s)

    def until(self, ask, wanted, *, patience_s=300):
        deadline = time.monotonic() + patience_s
        while (found := ask()) not in wanted:
            assert time.monotonic() < deadline, f"still {found}"
            time.sleep(1)
        return found

    def ids(self, asset, partition):
        manifests = ManifestIOManager(resource=FileDatasetResource(base_path=str(self.home / "base")))
        return manifests.load(manifests.uri(dg.AssetKey(asset), partition))["id"].tolist()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("server")
    for name in ("home", "tmp"):
        (home / name).mkdir()
    (home / "home" / "dagster.yaml").write_text(
        "telemetry:\n  enabled: false\nnux:\n  enabled: false\nconcurrency:\n  runs:\n    max_concurrent_runs: 2\n"
    )
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home / "home"),
        "DATASET_TEST_DIR": str(home),
        "TEST_KEY_ID": "AKIDENV",
        "TEST_SECRET": "EnvS3cret",
        "TMPDIR": str(home / "tmp"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": (collector := Collector()).url,
    }
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-f", str(LOCATION), "-p", str(port)]
    with (home / "printed").open("wb") as printed:
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=printed, start_new_session=True)
        one = Server(home, port, collector)
        try:
            deadline = time.monotonic() + 200
            while True:
                try:
                    urllib.request.urlopen(f"{one.url}/server_info", timeout=5).close()  # noqa: S310 (loopback)
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(1)
            yield one
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                collector.close()


def test_a_partition_is_launched(server):
    run_id = server.launch("daily", {"dagster/partition": KEYS[3]})
    assert server.wait(run_id) == "SUCCESS"
    assert server.ids("copied", KEYS[3]) == [f"{KEYS[3]}-1", f"{KEYS[3]}-2"]


def backfill(server, assets, keys):
    answer = server.ask(
        """mutation ($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
             __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        p={"assetSelection": [{"path": [name]} for name in assets], "partitionNames": keys},
    )["launchPartitionBackfill"]
    query = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
    ended = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
    return server.until(lambda: server.ask(query, id=answer["backfillId"])["partitionBackfillOrError"]["status"], ended)


def materialized(server, asset):
    with dg.DagsterInstance.from_config(str(server.home / "home")) as instance:
        return instance.get_materialized_partitions(dg.AssetKey(asset))


def test_a_backfill_of_ninety_days_leaves_eighty_nine(server):
    """Both assets have the policy of single runs: one run, in which day 57 fails alone."""
    assert backfill(server, ["raw_scans", "copied"], KEYS) == "COMPLETED_FAILED"
    assert materialized(server, "copied") == set(KEYS) - {BROKEN}
    assert server.ids("copied", KEYS[-1]) == [f"{KEYS[-1]}-1", f"{KEYS[-1]}-2"]


def test_a_backfill_of_single_partitions_leaves_all_but_the_broken_one(server):
    """A run for each, around the broken day."""
    keys = KEYS[55:58]
    with_input = server.launch("daily_range", {"dagster/asset_partition_range_start": keys[0],
                                               "dagster/asset_partition_range_end": keys[-1]})  # fmt: skip
    server.wait(with_input)
    assert backfill(server, ["copied_each"], keys) == "COMPLETED_FAILED"
    assert materialized(server, "copied_each") == set(keys) - {BROKEN}


def test_a_run_that_is_cancelled_leaves_nothing_behind(server):
    run_id = server.launch("slow_job")
    server.until(lambda: any((server.home / "slow").glob("*")), {True})
    server.ask("mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id)
    assert server.wait(run_id) == "CANCELED"
    written = [path.name for path in (server.home / "base" / "manifests" / "slow").rglob("*") if path.is_file()]
    # rows that were done are written down: a run that is executed again goes on from them
    assert {name.partition("-")[0] for name in written} <= {"part", "manifest.begun.parquet"}
    left = [path for path in (server.home / "tmp").rglob("*") if path.name in ("scan.txt", "copy.txt")]
    assert left == []


def site_checks(server, name):
    """What the page of a check shows of the partition `ulm`, the last run first: status, and whether it passed."""
    executions = server.ask(
        """query ($key: AssetKeyInput!, $name: String!) {
             assetCheckExecutions(assetKey: $key, checkName: $name, limit: 9) {
               status partition evaluation { success } } }""",
        key={"path": ["site_copied"]},
        name=name,
    )["assetCheckExecutions"]
    assert {one["partition"] for one in executions} <= {"ulm"}
    return [(one["status"], one["evaluation"] and one["evaluation"]["success"]) for one in executions]


def test_a_partition_that_is_cancelled_goes_on_where_it_was(server):
    """Files as a source, a pipeline with checks by partition and OpenTelemetry: cancelled as the UI does it."""
    (server.home / "sites" / "ulm").mkdir(parents=True)
    for number in range(1, 7):
        (server.home / "sites" / "ulm" / f"{number}.txt").write_text(str(number))
    with dg.DagsterInstance.from_config(str(server.home / "home")) as instance:
        instance.add_dynamic_partitions("site", ["ulm"])
    (server.home / "hold").touch()
    run_id = server.launch("sites_job", {"dagster/partition": "ulm"})
    server.until((server.home / "holding").exists, {True})
    server.ask("mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id)
    assert server.wait(run_id) == "CANCELED"
    assert [path.name for path in (server.home / "tmp").rglob("*") if path.name in ("scan.txt", "copy.txt")] == []
    assert list((server.home / "base" / "manifests" / "site_copied").glob("partition=ulm.checkpoint/part-*"))
    assert site_checks(server, "no_dropped_rows") == site_checks(server, "files_exist") == [("SKIPPED", None)]
    spans = [span for span in server.collector.spans() if values_of(span.attributes)["dagster.run_id"] == run_id]
    assert [(span.status.code, values_of(span.attributes)["dagster.partition"]) for span in spans] == [(2, "ulm")]
    assert spans[0].status.message.startswith("the run was cancelled")

    (server.home / "hold").unlink()
    config = {"ops": {"site_copied": {"config": {"only_missing": True}}}}
    assert server.wait(server.launch("sites_job", {"dagster/partition": "ulm"}, config)) == "SUCCESS"
    assert server.ids("site_copied", "ulm") == ["1", "2", "3", "4", "5", "6"]
    calls = collections.Counter(path.name.partition("-")[0] for path in (server.home / "site_calls").iterdir())
    assert {calls[number] for number in "1234"} == {1}
    for name in ("no_dropped_rows", "files_exist"):
        assert site_checks(server, name) == [("SUCCEEDED", True), ("SKIPPED", None)]
    assert not list((server.home / "base" / "manifests" / "site_copied").glob("*.checkpoint/part-*"))


def test_a_literal_secret_at_launch_is_refused(server):
    secret = {"resources": {"file_dataset": {"config": {"aws_secret_access_key": "typ3dS3cret"}}}}
    answer = server.launch("daily", {"dagster/partition": KEYS[0]}, secret)
    assert "name its variable" in json.dumps(answer)
    assert "typ3dS3cret" not in json.dumps(answer)
    assert "typ3dS3cret" not in stored_text(server.home / "home")


def test_a_part_of_the_rows_is_launched(server):
    config = {"ops": {"copied": {"config": {"only_missing": True}}}}
    run_id = server.launch("daily", {"dagster/partition": KEYS[3]}, config)
    assert server.wait(run_id) == "SUCCESS"
    with dg.DagsterInstance.from_config(str(server.home / "home")) as instance:
        (record,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("copied"), asset_partitions=[KEYS[3]]), limit=1
        ).records
        assert record.asset_materialization.metadata["rows_run"].value == 0


def test_no_secret_is_stored_answered_or_printed(server):
    """Last in the file: after every run of the tests above."""
    for name in ("file_dataset", "literal", "nested", "io_manager"):
        server.ask(
            """query ($r: ResourceSelector!) { topLevelResourceDetailsOrError(resourceSelector: $r) { __typename
                 ... on ResourceDetails { name configuredValues { key value type } configFields { name description }
                 nestedResources { name } } } }""",
            r=SELECTOR | {"resourceName": name},
        )
    server.ask(
        """{ runsOrError { ... on Runs { results { runId runConfigYaml tags { key value }
             eventConnection { events { ... on MessageEvent { message } } } } } } }"""
    )
    told = {
        "stored": stored_text(server.home / "home"),
        "answered": "\n".join(server.answers),
        "printed": (server.home / "printed").read_text(errors="replace"),
    }
    assert "copied" in told["stored"]  # the search finds what is there
    assert "endpoint_url" in told["answered"]
    assert told["printed"]
    assert [(where, secret) for where, text in told.items() for secret in SECRETS if secret in text] == []
