"""What worker processes cost and bring, a part of `make bench` and `make bench-rows`. Medians, on one machine.

The speed-up is that of as many workers as there are processors (two at most) over one, on an fn that only computes: on
an idle machine of two or more processors it should be 1.8 at least.
"""

import logging
import os
import statistics
import time
from pathlib import Path

from file_dataset._workers.pool import Workers

_ROWS = 40
_CALLS = 2000
_STARTS = 7
_RUNS = 5
_AT = Path()


def compute(_input_dir: Path, _output_dir: Path) -> int:
    """Hold the GIL for some 50 ms."""
    return sum(number * number for number in range(600_000))


def nothing(_input_dir: Path, _output_dir: Path) -> None:
    """Cost nothing itself."""


def seconds_of(workers: Workers, rows: int) -> float:
    """Return the wall seconds of so many rows, submitted at once."""
    begun = time.perf_counter()
    for future in [workers.submit(_AT, _AT, None) for _ in range(rows)]:
        future.result()
    return time.perf_counter() - begun


def speed_up() -> tuple[int, float]:
    """Return the workers and how many times faster than one they were; the runs alternate."""
    count = min(2, os.cpu_count() or 1)
    with (
        Workers(compute, count=1, by_keyword=False, takes_row=False) as one,
        Workers(compute, count=count, by_keyword=False, takes_row=False) as many,
    ):
        for workers in (one, many):
            seconds_of(workers, 2 * count)
        ratios = [seconds_of(one, _ROWS) / seconds_of(many, _ROWS) for _ in range(_RUNS)]
    return count, statistics.median(ratios)


def per_call() -> tuple[float, float]:
    """Return wall and CPU microseconds that one call costs this process, one after the other."""
    with Workers(nothing, count=1, by_keyword=False, takes_row=False) as workers:
        workers.submit(_AT, _AT, None).result()
        runs = []
        for _ in range(_RUNS):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(_CALLS):
                workers.submit(_AT, _AT, None).result()
            runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall_us, cpu_us = (statistics.median(run[index] for run in runs) / _CALLS * 1e6 for index in (0, 1))
    return wall_us, cpu_us


def start_ms() -> float:
    """Return the milliseconds from the first submit of a pool to its result."""
    runs = []
    for _ in range(_STARTS):
        with Workers(nothing, count=1, by_keyword=False, takes_row=False) as workers:
            runs.append(seconds_of(workers, 1))
    return statistics.median(runs) * 1e3


def table() -> str:
    """Return what was measured."""
    for number in range(300):  # as many as boto3, pandas and Dagster make: their levels are looked at for every row
        logging.getLogger(f"library.{number}")
    count, ratio = speed_up()
    wall_us, cpu_us = per_call()
    return "\n".join(
        (
            f"\n| worker processes (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors) | |\n|---|---|",
            f"| start to first result | {start_ms():.0f} ms |",
            f"| one call, wall | {wall_us:.0f} us |",
            f"| one call, CPU of the parent | {cpu_us:.0f} us |",
            f"| {count} over 1, fn that computes | {ratio:.2f} x |",
        )
    )
