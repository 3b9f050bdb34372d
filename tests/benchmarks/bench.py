"""What file_dataset costs, as a table: `make bench`. Medians of alternating runs on one loopback endpoint, one machine.

The peers are what a user would write instead with boto3 alone. The endpoint is the tests' own server, in a process of
its own; it is written in Python and slow, so a ratio says who costs the client less, not how fast S3 is.
"""

import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
from botocore.config import Config

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own server

from fault_server import FaultServer

import file_dataset
from file_dataset import _frame

_PAIRS = 7
_OBJECTS = 300
_OBJECT_BYTES = 16 << 10
_ROWS = 200_000


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def line(name: str, runs: list[tuple[float, float]], per: float = 1.0, unit: str = "ms") -> str:
    """Return a row of the table: medians of wall and CPU, in milliseconds or microseconds, `per` many."""
    scale = {"ms": 1e3, "us": 1e6}[unit] / per
    wall, cpu = (statistics.median(run[index] for run in runs) * scale for index in (0, 1))
    return f"| {name} | {wall:.1f} {unit} | {cpu:.1f} {unit} |"


def frames() -> None:
    """Print what checking a frame of 200,000 rows costs, before any request."""
    urls = [f"s3://bucket/in/{number}.mha" for number in range(_ROWS)]
    kinds = {
        "object": pd.Series(urls, dtype=object),
        "string": pd.Series(urls, dtype="string"),
        "Arrow": pd.Series(urls, dtype=pd.ArrowDtype(pa.string())),
    }
    print(f"\n| checking {_ROWS:,} rows | wall | CPU |\n|---|---|---|")
    for name, column in kinds.items():
        for id_name, ids in (("int64", range(_ROWS)), ("text", map(str, range(_ROWS)))):
            frame = pd.DataFrame({"id": list(ids), "image.mha": column, "label": 1.0})
            runs = [
                seconds(lambda frame=frame: _frame.rows_of_frame(frame, None, needs_id=True)) for _ in range(_PAIRS)
            ]
            print(line(f"{name} URLs, {id_name} ids", runs))


def forward(input_dir: Path, output_dir: Path) -> dict[str, Path]:  # fn takes two
    """Return the input."""
    return {"a.bin": input_dir / "a.bin"}


def rows() -> None:
    """Print what a row costs beside its copies."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "a.bin")
        source.write_bytes(b"x" * 1024)
        frame = pd.DataFrame({"id": range(500), "a.bin": str(source)})
        pipeline = file_dataset.Pipeline(forward, write_options={"into_path": Path(scratch, "out")}, progress=False)
        runs = [seconds(lambda: pipeline.run(frame)) for _ in range(_PAIRS)]
    print("\n| one row of a Pipeline, 1 KiB, local disk | wall | CPU |\n|---|---|---|")
    print(line("file_dataset.Pipeline", runs, per=500, unit="us"))


def serve(url: "multiprocessing.connection.Connection") -> None:  # type: ignore[name-defined]
    """Serve the objects until the other end closes."""
    with FaultServer() as server:
        for number in range(_OBJECTS):
            server.put(f"s3://bucket/{number}", os.urandom(_OBJECT_BYTES), checksum="CRC64NVME")
        url.send(server.endpoint_url)
        url.recv()


def reads() -> None:
    """Print what reading small objects costs, beside boto3 in 32 threads."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=64)
    options = file_dataset.Options(keys, {"endpoint_url": ours.recv(), "config": config})
    names = [f"{number}" for number in range(_OBJECTS)]
    frame = pd.DataFrame({"id": names, "a.bin": [f"s3://bucket/{name}" for name in names]})
    client = options.s3_client
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(32) as pool:

        def get_object(name: str) -> bytes:
            body: bytes = client.get_object(Bucket="bucket", Key=name)["Body"].read()
            return body

        def download_file(name: str) -> None:
            client.download_file("bucket", name, f"{scratch}/{name}")

        def temp_dir() -> None:
            file_dataset.reader(frame, options=options).into_temp_dir(dir=scratch).cleanup()

        work: dict[str, Callable[[], object]] = {
            "reader.into_blob_table": lambda: file_dataset.reader(frame, options=options).into_blob_table(),
            "boto3 get_object, 32 threads": lambda: list(pool.map(get_object, names)),
            "reader.into_temp_dir": temp_dir,
            "boto3 download_file, 32 threads": lambda: list(pool.map(download_file, names)),
        }
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
        for number in range(_PAIRS + 1):
            for name, run in work.items():
                measured = seconds(run)
                if number:  # the first one opens connections
                    runs[name].append(measured)
    ours.send("done")
    server.join()
    print(f"\n| {_OBJECTS} x {_OBJECT_BYTES >> 10} KiB | wall | CPU |\n|---|---|---|")
    for name, measured_runs in runs.items():
        print(line(name, measured_runs))


def main() -> None:
    """Print every table."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("file-dataset", "boto3", "pandas", "pyarrow"))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}; {packages}")
    frames()
    rows()
    reads()


if __name__ == "__main__":
    main()
