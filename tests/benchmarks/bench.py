"""What file_dataset costs beside its peers: `make bench`, `make bench-quick`; and its rows alone: `make bench-rows`.

One cell, while working on it: `.venv-bench/bin/python tests/benchmarks/bench.py --only S-download-http`, and
`--contenders 'file_dataset;obstore' --pairs 5` to have it sooner. `--base main` runs the file_dataset of that revision
(or of that directory) beside, in pairs. `--list` names the cells.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import bench_workers
import cells
import pipelines
import report
from endpoint import Endpoint
from measure import ONE, ROOT, Measurement, warm_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from endpoint import Workload
    from measure import Cell, Estimate, Result

_RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Measure what is asked for and print it; everything together also goes to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three minutes: smaller L, fewer contenders and runs")
    parser.add_argument("--only", action="append", metavar="CELL", help="a cell such as S-download-http; * matches")
    parser.add_argument("--contenders", metavar="A;B", help="these of the cell alone; * matches; +A: and this one")
    parser.add_argument("--pairs", type=int, help="runs of each contender")
    parser.add_argument(
        "--base", metavar="REVISION", help="file_dataset as of that revision, or in that directory, too"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cells")
    parser.add_argument("--rows", action="store_true", help="the rows of Pipelines: with --only too, else alone")
    given = parser.parse_args()
    contenders = given.contenders.split(";") if given.contenders else ()
    every = cells.quick() if given.quick else cells.full()
    chosen = cells.chosen(
        every, only=given.only or (), contenders=contenders, pairs=given.pairs, has_base=bool(given.base)
    )
    if given.rows and not given.only:
        chosen = []
    if given.list or not (chosen or given.rows):
        print(*(cell.name for cell in chosen or every), sep="\n")
        return
    signal.signal(signal.SIGTERM, end)
    started = time.monotonic()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    has_rows = given.rows or not (given.only or given.quick)
    workloads: dict[str, Workload] = {
        ONE.name: ONE,
        pipelines.ROWS.name: pipelines.ROWS,
        pipelines.TINY.name: pipelines.TINY,
    }
    for cell in chosen:
        for workload in (cell.workload, warm_up(cell.workload)):
            workloads[workload.name] = workload
    # what is whole before what is a part of it: L.half links to L
    known = {workload.name: workload for workload in (cells.S, cells.M, cells.L, *(cell.workload for cell in every))}
    for whole in {name.partition(".")[0] for name in workloads}:
        workloads.setdefault(whole, known.get(whole, ONE))
    with Endpoint(sorted(workloads.values(), key=lambda workload: "." in workload.name)) as endpoint:
        base = revision(given.base, endpoint.scratch / "base") if given.base else None
        results = measured(endpoint, chosen, base)
        rows, extra = rows_measured(endpoint) if has_rows else ({}, "")
        server = endpoint.server
    print(f"{report.summaries(results)}\n\n{report.goals_table(results, rows)}\n\n{time.monotonic() - started:.0f} s")
    if not (given.only or given.contenders or given.pairs or given.rows or given.base):
        report.write(_RESULTS, "quick" if given.quick else "latest", results, rows, extra, server)
        print(f"tables and plot are in {_RESULTS}")


def end(*_: object) -> None:
    """Have the server and its files go, too; `timeout` sends the signal twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("terminated")


def revision(name: str, at: Path) -> Path:
    """Return the directory of another file_dataset: the one named, or that revision's files below `at`."""
    if Path(name, "file_dataset").is_dir():
        return Path(name).resolve()
    at.mkdir()
    files = subprocess.run(["git", "-C", ROOT, "archive", name, "file_dataset"], check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", at], check=True, input=files.stdout)
    return at


def measured(endpoint: Endpoint, chosen: Sequence[Cell], base: Path | None = None) -> list[Result]:
    """Return the results of the cells."""
    results = []
    measurement = Measurement(endpoint, base)
    try:
        for cell in chosen:
            if cell.listener not in endpoint.listeners:
                print(f"\n{cell.name}: skipped, this endpoint has no such listener")
                continue
            results.append(measurement.measure(cell))
            print(report.cell_table(results[-1]), flush=True)
    finally:
        measurement.close()
    return results


def rows_measured(endpoint: Endpoint) -> tuple[dict[str, Estimate | None], str]:
    """Return what rows cost: estimates by name, and tables."""
    extra = f"{pipelines.frames()}\n{pipelines.local_rows()}\n{bench_workers.table()}"
    print(extra, flush=True)
    rows = {
        "overlap": pipelines.overlap(endpoint),
        "overhead": pipelines.overhead(endpoint),
        "workers": pipelines.two_workers(endpoint),
        "checkpoint": pipelines.checkpointed(endpoint),
    }
    return rows, extra


if __name__ == "__main__":
    main()
