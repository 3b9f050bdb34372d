"""What rows cost beside their copies: checking a frame, `Pipeline`'s own share, stages that overlap, two processes."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import peers
import pyarrow as pa
from endpoint import BUCKET, Workload
from measure import Estimate
from nginx import LATE_S

import file_dataset
from file_dataset import _frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from endpoint import Endpoint

_RUNS = 7
_FRAME_ROWS = 200_000
_LOCAL_ROWS = 500
ROWS = Workload("rows", 100, 16 << 10)
_SPIN_ROWS = 40
TINY = Workload("tiny", 100, 1 << 10)
_TINY_TIMES = 100  # rows of each of its objects
_TINY_RUNS = 5


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


def frames() -> str:
    """Return what checking a frame of 200,000 rows costs, before any request."""
    urls = [f"s3://bucket/in/{number}.mha" for number in range(_FRAME_ROWS)]
    kinds = {
        "object": pd.Series(urls, dtype=object),
        "string": pd.Series(urls, dtype="string"),
        "Arrow": pd.Series(urls, dtype=pd.ArrowDtype(pa.string())),
    }
    lines = [f"\n| checking {_FRAME_ROWS:,} rows | wall | CPU |\n|---|---|---|"]
    for name, column in kinds.items():
        for id_name, ids in (("int64", range(_FRAME_ROWS)), ("text", map(str, range(_FRAME_ROWS)))):
            frame = pd.DataFrame({"id": list(ids), "image.mha": column, "label": 1.0})
            runs = [seconds(lambda frame=frame: _frame.rows_of_frame(frame, None, needs_id=True)) for _ in range(_RUNS)]
            lines.append(line(f"{name} URLs, {id_name} ids", runs))
    return "\n".join(lines)


def forward(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    """Return the input."""
    return {"a.bin": input_dir / "a.bin"}


def wait(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    """Return the input after 30 ms."""
    time.sleep(LATE_S)
    return {"a.bin": input_dir / "a.bin"}


def spin(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    """Return the input after a tenth of a second of Python on one core."""
    total = 0
    for number in range(2_000_000):
        total += number
    return {"a.bin": input_dir / "a.bin"}


def local_rows() -> str:
    """Return what a row costs on local disk."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "a.bin")
        source.write_bytes(b"x" * 1024)
        frame = pd.DataFrame({"id": range(_LOCAL_ROWS), "a.bin": str(source)})
        pipeline = file_dataset.Pipeline(forward, write_options={"into_path": Path(scratch, "out")}, progress=False)
        runs = [seconds(lambda: pipeline.run(frame)) for _ in range(_RUNS)]
    title = "\n| one row of a Pipeline, 1 KiB, local disk | wall | CPU |\n|---|---|---|\n"
    return title + line("file_dataset.Pipeline", runs, per=_LOCAL_ROWS, unit="us")


def overlap(endpoint: Endpoint) -> Estimate | None:
    """Return the wall of 100 rows, prefetch=2, over that of the slowest stage alone; 30 ms per request and in fn."""
    if "late-http" not in endpoint.listeners:
        return None
    ours = peers.Ours(peers.Place(endpoint.listeners["late-http"], endpoint.scratch, "A", 64))
    frame = ours.frame(ROWS)
    source = endpoint.source(ROWS)
    run = _pipeline(wait, ours, prefetch=2)
    values = []
    for number in range(_RUNS + 1):
        whole = seconds(lambda: run(frame))[0]
        with tempfile.TemporaryDirectory(dir=endpoint.scratch) as scratch:
            stages = (
                lambda: [wait(Path(scratch), Path(scratch)) for _ in ROWS.files],
                lambda: [
                    file_dataset.reader(row={"a.bin": url}, options=ours.options).into_temp_dir(dir=scratch).cleanup()
                    for url in frame["a.bin"]
                ],
                lambda: [
                    file_dataset.write_files(
                        {"a.bin": source / name}, into_path=f"s3://{BUCKET}/alone", id=name, options=ours.options
                    )
                    for name in ROWS.files
                ],
            )
            slowest = max(seconds(stage)[0] for stage in stages)
        if number:  # the first one opens connections
            values.append(whole / slowest)
    return Estimate.of(values)


def overhead(endpoint: Endpoint) -> Estimate:
    """Return CPU seconds per row beyond those of the same copies made by one call each; fn does nothing."""
    ours = peers.Ours(peers.Place(endpoint.listeners["http"], endpoint.scratch, "A", 64))
    frame = ours.frame(ROWS)
    run = _pipeline(forward, ours)
    values = []
    for number in range(_RUNS + 1):
        whole = seconds(lambda: run(frame))[1]
        with tempfile.TemporaryDirectory(dir=endpoint.scratch) as scratch:
            copies = seconds(lambda: ours.download(ROWS, Path(scratch)).cleanup())[1]
        copies += seconds(lambda: ours.upload(ROWS, endpoint.source(ROWS), "alone"))[1]
        if number:
            values.append((whole - copies) / ROWS.count)
    return Estimate.of(values)


def checkpointed(endpoint: Endpoint) -> Estimate:
    """Return how much longer a run of 10,000 rows of 1 KiB takes when it writes its rows down, into a directory."""
    ours = peers.Ours(peers.Place(endpoint.listeners["http"], endpoint.scratch, "A", 64))
    some = ours.frame(TINY)
    frame = pd.concat([some] * _TINY_TIMES, ignore_index=True).assign(id=range(TINY.count * _TINY_TIMES))
    run: Any = _pipeline(forward, ours)
    values = []
    for number in range(_TINY_RUNS + 1):
        with tempfile.TemporaryDirectory() as place:
            both = [lambda: run(frame), lambda place=place: run(frame, checkpoint=place)]
            order = (0, 1) if number % 2 else (1, 0)
            taken = {which: seconds(both[which])[0] for which in order}
        if number:
            values.append(taken[1] / taken[0])
    return Estimate.of(values)


def two_workers(endpoint: Endpoint) -> Estimate:
    """Return the wall of a CPU-bound fn with workers=1 over that with workers=2."""
    ours = peers.Ours(peers.Place(endpoint.listeners["http"], endpoint.scratch, "A", 64))
    frame = ours.frame(ROWS).head(_SPIN_ROWS)
    one, two = (_pipeline(spin, ours, workers=count) for count in (1, 2))
    for run in (one, two):
        run(frame.head(2))
    return Estimate.of([seconds(lambda: one(frame))[0] / seconds(lambda: two(frame))[0] for _ in range(_RUNS)])


def _pipeline(fn: Callable[..., Any], ours: peers.Ours, **arguments: int) -> Callable[[pd.DataFrame], object]:
    pipeline = file_dataset.Pipeline(
        fn,
        write_options={"into_path": f"s3://{BUCKET}/piped"},
        options=ours.options,
        on_failure="raise",
        progress=False,
        **arguments,
    )
    return pipeline.run
