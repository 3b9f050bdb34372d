"""The demo: scans in S3, Dagster assets over them, two dropped rows, a montage; then DICOM series, and six days.

`make demo` runs on an S3 server of its own on loopback; with `FILE_DATASET_DEMO_S3=s3://bucket/prefix` it runs on that
bucket, with the credentials and the endpoint of the environment. `make demo-ray` measures the scans on Ray instead.
`make ui` is the demo, and goes on with Dagster's web UI.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import dagster as dg
import pandas as pd

import file_dataset
from example_project import cohort_store
from example_project.cohort import GAPPED_ID, MISSING_ID, TRUNCATED_ID
from example_project.definitions import defs
from example_project.defs.daily import DAYS

_BUCKET = "demo"
# Everything that the demo leaves on this machine.
_HERE = Path(".demo").absolute()


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """Yield where the demo keeps its files: `$FILE_DATASET_DEMO_S3`, else a server of its own until the end."""
    if base_path := os.environ.get("FILE_DATASET_DEMO_S3"):
        yield base_path.rstrip("/")
        return
    command = [sys.executable, "-m", "example_project.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stdin is not None  # noqa: S101  # asked for by PIPE
        assert server.stdout is not None  # noqa: S101
        url = server.stdout.readline().strip()
        if not url:
            sys.exit("the S3 server did not start")
        os.environ |= {
            "AWS_ENDPOINT_URL_S3": url,
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_DEFAULT_REGION": "us-east-1",
            "FILE_DATASET_DEMO_S3": f"s3://{_BUCKET}/cohort",
        }
        os.environ.pop("AWS_SESSION_TOKEN", None)
        os.environ.pop("AWS_PROFILE", None)
        boto3.client("s3").create_bucket(Bucket=_BUCKET)
        print(f"S3 server:  {url} (moto, for this demo alone)")
        try:
            yield os.environ["FILE_DATASET_DEMO_S3"]
        finally:
            server.stdin.close()
            server.wait(timeout=10)


@contextlib.contextmanager
def log_instead_of_stderr() -> Iterator[None]:
    """Send to .demo/demo.log what ITK and logs write to stderr meanwhile: scans are broken on purpose."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with (_HERE / "demo.log").open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def materialize(job: str, tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
    """Run one job of the project in this process, on the instance that the UI shows."""
    with log_instead_of_stderr(), dg.DagsterInstance.get() as instance:
        return (
            dg.Definitions.merge(defs())
            .resolve_job_def(job)
            .execute_in_process(
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                raise_on_error=False,
                tags=tags,
            )
        )


def materialize_and_time(job: str, what: str) -> dg.ExecuteInProcessResult:
    """Run a job whose success the demo needs, and print how long it took."""
    began = time.monotonic()
    result = materialize(job)
    if not result.success:
        failed = [str(event.message) for event in result.filter_events(lambda event: event.is_failure)]
        sys.exit("\n".join(["the demo failed; its run is in .demo/dagster:", *failed]))
    print(f"Dagster:    {what} materialized in {time.monotonic() - began:.1f} s")
    return result


def show_ray(result: dg.ExecuteInProcessResult) -> None:
    """Print the manifest that came back from Ray."""
    measured = result.output_for_node("measured_on_ray")
    print(f"\nManifest of `measured_on_ray`:\n\n{measured[['id', 'measures.json']].to_string(index=False)}")
    print(f"\n{_check_of(result, 'measured_on_ray').description}")


def show(result: dg.ExecuteInProcessResult, base_path: str) -> set[str]:
    """Print the manifest, the dropped rows, and where the montage lies; return the ids of the dropped rows."""
    pd.set_option("display.width", 200, "display.max_colwidth", 70, "display.max_columns", 12)
    print("\nManifest of `measured`:\n")
    print(result.output_for_node("measured")[["id", "measures.json", "slices.png"]].to_string(index=False))
    dropped = _show_dropped(result, "resampled")
    for check in result.get_asset_check_evaluations():
        state = "passed" if check.passed else check.severity.value
        print(f"\nCheck {check.asset_key.to_user_string()}:{check.check_name}: {state}. {check.description}")
    _copy_montage(base_path)
    return dropped


def show_series(result: dg.ExecuteInProcessResult) -> set[str]:
    """Print which directories went in and out, and the series that was dropped; return its id."""
    print("\nManifest of `volumes`, made from directories of DICOM slices:\n")
    print(result.output_for_node("volumes")[["id", "image.mha", "slices"]].to_string(index=False))
    return _show_dropped(result, "volumes")


def show_days(result: dg.ExecuteInProcessResult) -> set[str]:
    """Print what the check says of each day, and why the run failed; return the days that have no manifest."""
    print("\nPictures of six days, one run:\n")
    for check in result.get_asset_check_evaluations():
        if check.check_name == "no_dropped_rows":
            print(f"  {check.description}{'' if check.passed else '  (' + check.severity.value + ')'}")
    print()
    for event in result.filter_events(lambda event: event.is_step_failure):
        failure = event.step_failure_data.user_failure_data
        print(textwrap.fill(failure.description if failure and failure.description else str(event.message), 100))
    with dg.DagsterInstance.get() as instance:
        return set(DAYS.get_partition_keys()) - instance.get_materialized_partitions(dg.AssetKey("pictures"))


def last_words(dropped: set[str], failed_days: set[str]) -> str:
    """Return what went wrong on purpose, and what to do next.

    Raises:
        SystemExit: something else went wrong.
    """
    days = {cohort_store.ARRIVED[case] for case in (TRUNCATED_ID, MISSING_ID)}
    expected = {TRUNCATED_ID, MISSING_ID, GAPPED_ID}
    if (dropped, failed_days) != (expected, days):
        sys.exit(
            f"the demo failed: it should drop {sorted(expected)} and the days {sorted(days)}, and dropped "
            f"{sorted(dropped)} and {sorted(failed_days)}; see {_HERE / 'demo.log'}"
        )
    return f"""
What went wrong, on purpose:
  - Scan {TRUNCATED_ID} is cut short, and {MISSING_ID} is in the study's table, but not in the bucket.
    `resampled` dropped these two rows and reported them. The other ten went through all assets.
  - Of the DICOM series {GAPPED_ID} most slices are missing. `volumes` dropped it.
  - On {days.pop()} only these two came in. So that day failed, and with it its run. The manifests of the other
    five days are stored.

All went as it should.

Next:
  make ui                                              assets, checks and days in Dagster's web UI
  FILE_DATASET_DEMO_S3=s3://bucket/prefix make demo    the same on a bucket of yours
  example_project/notebooks/first_hour.ipynb           the same scans in a notebook, without Dagster"""


def _show_dropped(result: dg.ExecuteInProcessResult, name: str) -> set[str]:
    """Print the rows that an asset dropped, as its check reports them; return their ids."""
    dropped_rows = _check_of(result, name)
    with file_dataset.reader({"failures.parquet": dropped_rows.metadata["failures_uri"].value}).into_temp_dir() as temp:
        dropped = pd.read_parquet(temp / "failures.parquet")
    print(f"\nDropped by `{name}`: {dropped_rows.description}\n")
    print(dropped[["id", "error_stage", "error_type", "error_message"]].to_string(index=False))
    return set(dropped["id"])


def _check_of(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    """Return the check `no_dropped_rows` of an asset, which names the file with its failures."""
    checks = {check.asset_key: check for check in result.get_asset_check_evaluations()}
    return checks[dg.AssetKey(name)]


def _copy_montage(base_path: str) -> None:
    montage = f"{base_path}/report/montage.png"
    with file_dataset.reader({"montage.png": montage}).into_temp_dir() as temp:
        shutil.copy(temp / "montage.png", _HERE / "montage.png")
    print(f"\nMontage: {montage}\n   copy: {_HERE / 'montage.png'}")


def serve(port: int) -> None:
    """Serve Dagster's web UI until Ctrl-C."""
    print(f"\nDagster: http://127.0.0.1:{port} (Ctrl-C ends it, and the S3 server)", flush=True)
    workspace = _HERE / "workspace.yaml"
    location = {"module_name": "example_project.definitions", "location_name": "example_project"}
    workspace.write_text(json.dumps({"load_from": [{"python_module": location}]}))  # JSON is YAML
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-p", str(port), "--log-level", "warning"]
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(command, check=False)  # noqa: S603


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="serve Dagster's web UI afterwards")
    parser.add_argument("--ray", action="store_true", help="measure the scans on Ray instead")
    parser.add_argument("--port", type=int, default=3000, help="port of the web UI")
    arguments = parser.parse_args()
    if arguments.ui:
        _check_port(arguments.port)
    try:
        run(ui_port=arguments.port if arguments.ui else None, on_ray=arguments.ray)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports it: 128 + SIGINT


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            sys.exit(f"port {port} is taken ({exc.strerror}): make ui PORT={port + 1}")


def run(*, ui_port: int | None, on_ray: bool) -> None:
    """Upload, materialize, show; then serve the UI, where a port is given."""
    logging.getLogger("file_dataset").setLevel(logging.ERROR)
    home = _HERE / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    (_HERE / "demo.log").unlink(missing_ok=True)
    # no usage statistics, no welcome dialog
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\nnux:\n  enabled: false\n")
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with s3() as base_path:
        count, size_bytes = cohort_store.upload(base_path)
        print(f"Cohort:     {count} scans, {size_bytes / 1e6:.1f} MB, and DICOM series, at {base_path}/raw")
        if on_ray:
            show_ray(materialize_and_time("on_ray", "scans listed, resampled and, on Ray, measured: all"))
            return
        dropped = show(
            materialize_and_time("cohort", "listed_scans, raw_scans, resampled, measured and report"), base_path
        )
        dropped |= show_series(materialize_and_time("series", "listed_series and volumes"))
        first, *_, last = DAYS.get_partition_keys()
        days = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        failed_days = show_days(materialize("daily", tags=days))
        print(last_words(dropped, failed_days))
        if ui_port is not None:
            serve(ui_port)


if __name__ == "__main__":
    main()
