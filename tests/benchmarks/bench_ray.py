"""What reading blobs into Ray costs beside Ray's own readers and Daft, and a Pipeline beside a task with boto3.

`make bench-ray`: every contender in a process and a Ray of its own, in turns; medians. CPU and memory are those of the
whole tree of processes (raylet, workers, worker processes), less what they were before the clock started; memory is
anonymous memory, and what of the object store was touched once.

    .venv-bench/bin/python tests/benchmarks/bench_ray.py --only L --runs 1
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from awscrt.checksums import crc64nvme
from endpoint import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, Endpoint, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

WORKLOADS = {
    each.name: each
    for each in (Workload("S", 2000, 16 << 10), Workload("M", 200, 1 << 20), Workload("L", 10, 100 << 20))
}
ROWS = Workload("rows", 500, 16 << 10)
WARM = Workload("warm", 400, 16 << 10)  # enough for every worker, 100 at a time
_STORE_BYTES = 2 << 30
_LOOK_S = 0.05
_PATIENCE_S = 300
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each contender")
    parser.add_argument("--only", action="append", help="S, M, L or rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(**json.loads(given.one))
        return
    cells = [(name, contender) for name, contender in CELLS if not given.only or name in given.only]
    with Endpoint([*WORKLOADS.values(), ROWS, WARM]) as endpoint:
        found: dict[tuple[str, str], list[dict[str, float]]] = {cell: [] for cell in cells}
        for number in range(given.runs):
            for cell in cells[number % len(cells) :] + cells[: number % len(cells)]:
                if (answer := measured(cell, endpoint)) is not None:
                    found[cell].append(answer)
        print(table(found, endpoint.server))


@dataclass(frozen=True)
class Place:
    """Where the objects are."""

    url: str
    workload: Workload

    @property
    def urls(self) -> list[str]:
        return [f"s3://{BUCKET}/{self.workload.name}/{name}" for name in self.workload.files]

    @property
    def options(self) -> Any:
        from botocore.config import Config

        import file_dataset

        return file_dataset.Options(
            {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": REGION},
            {"endpoint_url": self.url, "config": Config(s3={"addressing_style": "path"})},
        )

    @property
    def filesystem(self) -> Any:
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region=REGION,
            endpoint_override=self.url.removeprefix("http://"),
            scheme="http",
        )


def ours(place: Place, batch_size: int | None = None) -> Iterator[Any]:
    import pandas as pd

    import file_dataset

    frame = pd.DataFrame({"id": place.workload.files, "a.bin": place.urls})
    dataset = file_dataset.ray.blob_reader(frame, batch_size, place.options)
    return blobs(dataset, "a.bin")


def read_binary_files(place: Place) -> Iterator[Any]:
    import ray

    paths = [url.removeprefix("s3://") for url in place.urls]
    return blobs(ray.data.read_binary_files(paths, filesystem=place.filesystem), "bytes")


def download_expression(place: Place) -> Iterator[Any]:
    import ray
    from ray.data.expressions import download

    dataset = ray.data.from_items([{"uri": url.removeprefix("s3://")} for url in place.urls])
    return blobs(dataset.with_column("bytes", download("uri", filesystem=place.filesystem)), "bytes")


def daft(place: Place) -> Iterator[Any]:
    import daft
    from daft.io import IOConfig, S3Config

    s3 = S3Config(endpoint_url=place.url, key_id=ACCESS_KEY, access_key=SECRET_KEY, region_name=REGION, use_ssl=False)
    frame = daft.from_pydict({"url": place.urls})
    frame = frame.with_column("bytes", daft.col("url").download(io_config=IOConfig(s3=s3)))
    for batch in frame.select("bytes").to_arrow_iter():
        for blob in batch.column("bytes"):
            yield blob.as_buffer()


def blobs(dataset: Any, column: str) -> Iterator[Any]:
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for blob in table[column]:
            yield blob.as_buffer()


def copied(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    (output_dir / "b.bin").write_bytes((input_dir / "a.bin").read_bytes())
    return {"b.bin": output_dir / "b.bin"}


def run_pipeline(place: Place, workers: int | None) -> None:
    import pandas as pd

    import file_dataset

    frame = pd.DataFrame({"id": place.workload.files, "a.bin": place.urls})
    pipeline = file_dataset.Pipeline(
        copied, write_options={"into_path": f"s3://{BUCKET}/ours"}, options=place.options, progress=False
    )
    result = file_dataset.ray.run_pipeline(pipeline, frame, workers=workers)
    assert len(result.manifest) == place.workload.count, result


@functools.cache
def s3_client(url: str) -> Any:
    import boto3
    from botocore.config import Config

    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": REGION}
    return boto3.client("s3", endpoint_url=url, config=Config(s3={"addressing_style": "path"}), **keys)


def by_hand(place: Place) -> None:
    import ray

    endpoint_url = place.url

    @ray.remote
    def process(url: str, name: str) -> str:
        import bench_ray  # not `__main__`, whose cache is no task's

        client = bench_ray.s3_client(endpoint_url)
        bucket, _, key = url.removeprefix("s3://").partition("/")
        with tempfile.TemporaryDirectory() as work:
            here, there = Path(work, "input"), Path(work, "output")
            here.mkdir()
            there.mkdir()
            client.download_file(bucket, key, str(here / "a.bin"))
            made = bench_ray.copied(here, there)
            client.upload_file(str(made["b.bin"]), BUCKET, f"by-hand/{name}/b.bin")
        return name

    tasks = [process.remote(url, name) for url, name in zip(place.urls, place.workload.files, strict=True)]
    assert len(ray.get(tasks)) == place.workload.count


READERS: dict[str, Callable[[Place], Iterable[Any]]] = {
    "blob_reader": ours,
    "blob_reader, batch 4": lambda place: ours(place, 4),
    "blob_reader, batch 100": lambda place: ours(place, 100),
    "ray read_binary_files": read_binary_files,
    "ray download expression": download_expression,
    "Daft": daft,
}
RUNNERS: dict[str, Callable[[Place], None]] = {
    "run_pipeline": lambda place: run_pipeline(place, None),
    "run_pipeline, workers=0": lambda place: run_pipeline(place, 0),
    "ray.remote and boto3": by_hand,
}
CELLS = [(name, reader) for name in WORKLOADS for reader in READERS] + [(ROWS.name, runner) for runner in RUNNERS]


def measured(cell: tuple[str, str], endpoint: Endpoint) -> dict[str, float] | None:
    """Return what one run in a process of its own took; None where it failed, which is printed."""
    name, contender = cell
    workload = WORKLOADS.get(name, ROWS)
    command = {"name": name, "contender": contender, "url": endpoint.listeners["http"].url}
    with tempfile.TemporaryDirectory(prefix="ray") as short:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "RAY_TMPDIR": short,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
            "RAY_AUTH_MODE": "disabled",
            "DO_NOT_TRACK": "true",
        }
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--one", json.dumps(command)],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE_S,
            )
        except subprocess.TimeoutExpired:
            print(f"{name}, {contender}: nothing in {_PATIENCE_S} s", flush=True)
            return None
    if done.returncode:
        print(f"{name}, {contender}: {done.stderr[-1500:]}", flush=True)
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if (crcs := answer.pop("crcs")) and sorted(crcs) != sorted(endpoint.crcs[workload.name].values()):
        print(f"{name}, {contender}: wrong bytes", flush=True)
        return None
    print(f"{name}, {contender}: {answer}", flush=True)
    return answer


def one(name: str, contender: str, url: str) -> None:
    """Run one contender, and print what it took as a line of JSON."""
    if contender != "Daft":
        import ray

        ray.init(
            num_cpus=os.cpu_count(), include_dashboard=False, object_store_memory=_STORE_BYTES, log_to_driver=False
        )
    crcs: list[int] = []
    if contender in READERS:
        for blob in READERS[contender](Place(url, WARM)):
            crc64nvme(blob)
    else:
        RUNNERS[contender](Place(url, WARM))
    place = Place(url, WORKLOADS.get(name, ROWS))
    time.sleep(1)
    with Watch() as watch:
        if contender in READERS:
            # one blob at a time: a user's own memory is not ours to measure
            crcs.extend(crc64nvme(blob) for blob in READERS[contender](place))
        else:
            RUNNERS[contender](place)
    print(json.dumps({**watch.took, "crcs": crcs}))
    sys.stdout.flush()
    if contender != "Daft":
        ray.shutdown()


class Watch:
    """Looks at this process and all below it, every 50 ms."""

    def __enter__(self) -> Self:
        self._before_cpu = cpu_by_pid()
        self._cpu = dict(self._before_cpu)
        self._before_bytes = self._peak_bytes = memory_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        wall_s = time.perf_counter() - self._started
        self._is_over.set()
        self._thread.join()
        self._cpu |= cpu_by_pid()
        cpu_s = sum(seconds - self._before_cpu.get(pid, 0.0) for pid, seconds in self._cpu.items())
        self.took = {
            "wall_s": round(wall_s, 2),
            "cpu_s": round(cpu_s, 2),
            "peak_mb": round((self._peak_bytes - self._before_bytes) / 1e6),
        }

    def _look(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            self._cpu |= cpu_by_pid()
            self._peak_bytes = max(self._peak_bytes, memory_bytes())


def tree() -> set[int]:
    """Return this process and all below it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, size = {os.getpid()}, 0
    while size != len(found):
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def cpu_by_pid() -> dict[int, float]:
    """Return the CPU seconds of every process of the tree."""
    found = {}
    for pid in tree():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) * _TICK_S
    return found


def memory_bytes() -> int:
    """Return the anonymous memory of the tree, and the shared memory of the process that has most of it."""
    anonymous, shared = 0, 0
    for pid in tree():
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "RssShmem"))}
            anonymous += int(values.get("RssAnon", 0)) << 10
            shared = max(shared, int(values.get("RssShmem", 0)) << 10)
    return anonymous + shared


def table(found: dict[tuple[str, str], list[dict[str, float]]], server: str) -> str:
    """Return the medians as a table."""
    here = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, {server}"
    lines = [
        f"{here}, load {os.getloadavg()[0]:.1f}; medians of {max(map(len, found.values()), default=0)}",
        "",
        "| what | by | wall s | CPU s | peak MB | peak / data |",
        "|---|---|---|---|---|---|",
    ]
    for (name, contender), answers in found.items():
        workload = WORKLOADS.get(name, ROWS)
        what = f"{workload.count} x {workload.size_bytes >> 10} KiB" + (", rows" if name == ROWS.name else "")
        if not answers:
            lines.append(f"| {what} | {contender} | failed | | | |")
            continue
        wall, cpu, peak = (statistics.median(each[key] for each in answers) for key in ("wall_s", "cpu_s", "peak_mb"))
        lines.append(
            f"| {what} | {contender} | {wall:.2f} | {cpu:.2f} | {peak:.0f} | {peak * 1e6 / workload.bytes:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
