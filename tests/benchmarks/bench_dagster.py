"""What Dagster adds to `Pipeline.run`: `python tests/benchmarks/bench_dagster.py`. Wall and CPU, medians, alternating.

The same 1,000 rows of 1 KiB, on local disk and on a loopback S3 server in a process of its own: run by a Pipeline, by a
`pipeline_asset` in a step of Dagster (in process, on an instance on disk), and the fixed cost of such a run: the same
asset over no row. `adds` is (asset - fixed - Pipeline) / Pipeline; at most 10 % is the goal.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import dagster as dg
import pandas as pd

import file_dataset
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

if TYPE_CHECKING:
    from collections.abc import Callable

_BYTES = 1 << 10
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def forward(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    """Return the input."""
    return {"a.bin": input_dir / "a.bin"}


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def frame_on_disk(at: Path, rows: int) -> pd.DataFrame:
    """Return a frame of small files on disk."""
    (at / "in").mkdir(parents=True)
    for number in range(rows):
        (at / "in" / str(number)).write_bytes(os.urandom(_BYTES))
    return pd.DataFrame({"id": range(rows), "a.bin": [str(at / "in" / str(number)) for number in range(rows)]})


def frame_in_s3(rows: int) -> pd.DataFrame:
    """Return a frame of small objects."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="bench")
    for number in range(rows):
        client.put_object(Bucket="bench", Key=f"in/{number}", Body=os.urandom(_BYTES))
    return pd.DataFrame({"id": range(rows), "a.bin": [f"s3://bench/in/{number}" for number in range(rows)]})


def compare(name: str, frame: pd.DataFrame, base: str, instance: dg.DagsterInstance, runs: int) -> str:
    """Return the rows of the table for one place of the files."""
    store = FileDatasetResource(base_path=base)
    memory = dg.InMemoryIOManager()

    def materialize(rows: pd.DataFrame) -> None:
        @dg.asset(io_manager_key="memory")
        def given() -> pd.DataFrame:
            return rows

        asset = pipeline_asset(forward, name="bench", input=given)
        resources = {"file_dataset": store, "io_manager": ManifestIOManager(resource=store), "memory": memory}
        result = dg.materialize([given, asset], instance=instance, resources=resources, run_config=_QUIET)
        if not result.success:
            sys.exit("the run failed")

    def run() -> None:
        options = store.get_options()
        file_dataset.Pipeline(
            forward, write_options={"into_path": f"{base}/plain"}, options=options, progress=lambda _: None
        ).run(frame)

    works = {"Pipeline.run": run, "asset": lambda: materialize(frame), "asset, no row": lambda: materialize(frame[:0])}
    for work in works.values():
        work()
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in works}
    for _ in range(runs):
        for kind, work in works.items():
            found[kind].append(seconds(work))
    lines = []
    for kind, times in found.items():
        wall, cpu = (statistics.median(one[index] for one in times) for index in (0, 1))
        lines.append(f"| {name}: {kind} | {wall:.3f} s | {cpu:.3f} s |")
    adds = [
        statistics.median(
            (asset[index] - fixed[index] - plain[index]) / plain[index]
            for plain, asset, fixed in zip(*found.values(), strict=True)
        )
        for index in (0, 1)
    ]
    return "\n".join([*lines, f"| {name}: adds | {adds[0]:+.1%} | {adds[1]:+.1%} |"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    logging.getLogger("file_dataset").setLevel(logging.ERROR)
    server_code = (
        "import sys; from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', 0, verbose=False); s.start();"
        "print('http://%s:%s' % s.get_host_and_port(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", server_code]
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        os.environ |= {
            "AWS_ENDPOINT_URL_S3": server.stdout.readline().strip(),
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "DAGSTER_HOME": scratch,
        }
        Path(scratch, "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
        at = Path(scratch, "files")
        with dg.DagsterInstance.get() as instance:
            print(
                f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
                f"load {os.getloadavg()}; {asked.rows} rows of 1 KiB, medians of {asked.runs}"
            )
            print("| | wall | CPU |\n|---|---|---|")
            print(compare("local disk", frame_on_disk(at, asked.rows), str(at), instance, asked.runs))
            print(compare("loopback S3", frame_in_s3(asked.rows), "s3://bench/out", instance, asked.runs))
        server.stdin.close()


if __name__ == "__main__":
    main()
