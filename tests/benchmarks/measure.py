"""Runs: processes that hold contenders, alternation, medians with an 80 % interval.

A timed contender lives in a process that made its client and opened its connections before the clock. Contenders take
turns, one run each per round, and every round begins with another one: a pair is two runs of one round. Peak memory is
that of fresh processes, each after one 16 KiB object and again after its run: the difference is reported. In a cold
cell every run has a process of its own, which moved one 16 KiB object before.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import select
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import fresh
import peers
from contender import SERIES_ROWS
from endpoint import Workload, Wrong
from nginx import ALLOWED_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from endpoint import Endpoint

ROOT = Path(__file__).parents[2]  # where the file_dataset is that this measures
WARM_OBJECTS = 128
ONE = Workload("one", 1, 16 << 10)
_CONFIDENCE = 0.8
_PATIENCE_S = 120  # for one run


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table."""

    column: str
    does: str
    workload: Workload
    listener: str
    contenders: tuple[str, ...]
    pairs: int = 7
    peaks: int = 0
    in_flight: int | None = 64  # None: its own default
    pinned: bool = False
    cold: bool = False
    once: tuple[str, ...] = ()  # contenders that take so long that one run must do

    @property
    def name(self) -> str:
        how = "-pinned" if self.pinned else "-cold" if self.cold else ""
        return f"{self.column}-{self.workload.name}-{self.does}-{self.listener}{how}"


@dataclass(slots=True)
class Runs:
    """What one contender took in one cell, a number per run."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: list[float] = field(default_factory=list)
    # at a store that refuses: requests that it let pass over what it allows in that time, and refused ones over all
    reached: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """A cell with its runs by contender, and the contenders that could not."""

    cell: Cell
    runs: dict[str, Runs]
    cannot: dict[str, str]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and an interval that holds the true one with a probability of 80 % or more, both from order alone."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Estimate from independent runs; fewer than 4 cannot reach 80 %: all of them are the interval."""
        ordered = sorted(values)
        count = len(ordered)
        cut = 0  # P(the median lies outside the values left) = 2 P(Binomial(n, 1/2) <= cut)
        while 2 * sum(math.comb(count, k) for k in range(cut + 2)) / 2**count <= 1 - _CONFIDENCE:
            cut += 1
        return cls(statistics.median(ordered), ordered[cut], ordered[-1 - cut])


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Estimate the ratio from pairs, run by run."""
    return Estimate.of([mine / other for mine, other in zip(ours, theirs, strict=False)])


class Process:
    """A contender in a process of its own."""

    def __init__(self, name: str, endpoint: Endpoint, cell: Cell, library: Path) -> None:
        """Start it and wait for its client. `library` is the directory with the file_dataset to use."""
        self._endpoint = endpoint
        self._target = endpoint.scratch / "target"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(library), "TMPDIR": str(endpoint.scratch / "tmp")},
        )
        setup = {
            "contender": name,
            "listener": dataclasses.asdict(endpoint.listeners[cell.listener]),
            "scratch": str(endpoint.scratch),
            "column": cell.column,
            "in_flight": cell.in_flight,
            "cores": [0] if cell.pinned else None,
        }
        self._ask(setup)

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def run(self, does: str, workload: Workload) -> dict[str, Any]:
        """Run once, check every byte, remove what it left."""
        command: dict[str, Any] = {"does": does, "workload": dataclasses.asdict(workload)}
        if does in ("download", "series"):
            self._target.mkdir()
            command["into"] = str(self._target)
        elif does == "upload":
            command |= {"source": str(self._endpoint.source(workload)), "into": "uploaded"}
        elif does == "pipeline":
            command["into"] = "piped"
        try:
            answer = self._ask(command)
            if does == "download":
                self._endpoint.check_files(workload, self._target)
            elif does == "series":
                self._endpoint.check_directories(workload, self._target, SERIES_ROWS)
            elif does == "upload":
                self._endpoint.check_stored(workload, "uploaded")
            elif does == "blobs":
                self._endpoint.check_crcs(workload, answer["crcs"])
            elif does == "pipeline":
                self._endpoint.check_heads(workload, "piped")
            elif answer["sizes"] != dict.fromkeys(workload.files, workload.size_bytes):
                raise Wrong("sizes")
        finally:
            shutil.rmtree(self._target, ignore_errors=True)
        return answer

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE_S)
        if not ready:
            self._process.kill()
            raise RuntimeError(f"no answer in {_PATIENCE_S} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def warm_up(workload: Workload) -> Workload:
    """Return the objects that open the connections: 128 small ones, or one large one."""
    if workload == ONE:
        return ONE
    count = min(WARM_OBJECTS if workload.size_bytes <= 1 << 20 else 1, workload.count)
    return Workload(f"{workload.name}.warm", count, workload.size_bytes)


class Measurement:
    """Measures cells at one endpoint. Processes are kept for the cells that follow, in the same setting."""

    def __init__(self, endpoint: Endpoint, base: Path | None = None) -> None:
        """Start with no process. `base` is the directory of another file_dataset."""
        self._endpoint = endpoint
        self._base = base
        self._processes: dict[tuple[object, ...], Process] = {}
        self._setting: tuple[object, ...] = ()

    def measure(self, cell: Cell) -> Result:
        """Measure one cell."""
        self._set(cell)
        cannot = {name: reason for name in cell.contenders if (reason := self._reason(name, cell))}
        result = Result(cell, {name: Runs() for name in cell.contenders if name not in cannot}, cannot)
        for name in list(result.runs) if not cell.cold else ():
            self._timed(result, name, warm_up(cell.workload))
        for number in range(cell.pairs):
            names = [name for name in result.runs if not number or name not in cell.once]
            turn = number % len(names) if names else 0
            for name in names[turn:] + names[:turn]:
                if (answer := self._timed(result, name, cell.workload)) is not None:
                    self._keep(result.runs[name], answer)
        for _ in range(cell.peaks):
            for name in list(result.runs):
                peak = self._try(result, name, lambda name=name: self._peak(name, cell))
                if peak is not None:
                    result.runs[name].peak_bytes.append(peak)
        return result

    def _keep(self, runs: Runs, answer: dict[str, Any]) -> None:
        runs.wall_s.append(answer["wall_s"])
        runs.cpu_s.append(answer["cpu_s"])
        if "passed" in answer:
            passed, refused = answer["passed"], answer["refused"]
            runs.reached.append(passed / (ALLOWED_PER_S * answer["wall_s"]))
            runs.refused.append(refused / (passed + refused))

    def _reason(self, name: str, cell: Cell) -> str | None:
        if name == peers.Cp.name and cell.does == "upload" and not self._endpoint.is_nginx:
            return "this server keeps its objects in memory"
        if cell.does == "new":
            return fresh.cannot(name)
        if cell.does == "pipeline" and peers.CONTENDERS[name].pipeline is peers.Contender.pipeline:
            return "has no rows"
        if cell.does == "series" and peers.CONTENDERS[name].series is peers.Contender.series:
            return "has no directories here"
        return peers.CONTENDERS[name].cannot.get(cell.does)

    def _set(self, cell: Cell) -> None:
        setting = (cell.column, cell.listener, cell.in_flight, cell.pinned, cell.cold)
        if setting == self._setting:
            return
        self.close()
        self._setting = setting
        cores = os.sched_getaffinity(0)
        self._endpoint.pin((cores - {0} or cores) if cell.pinned else cores)

    def _timed(self, result: Result, name: str, workload: Workload) -> dict[str, Any] | None:
        cell = result.cell
        answer: dict[str, Any] | None = self._try(result, name, lambda: self._run(name, cell, workload))
        return answer

    def _run(self, name: str, cell: Cell, workload: Workload) -> dict[str, Any]:
        if cell.does == "new":
            return fresh.run(name, self._endpoint, cell.listener, workload, self._library(name))
        if cell.cold:
            process = self._new(name, cell)
            try:
                process.run(cell.does, ONE)
                return process.run(cell.does, workload)
            finally:
                process.close()
        process = self._process(name, cell)
        if not cell.listener.startswith("refusing"):
            return process.run(cell.does, workload)
        before = self._endpoint.counts(cell.listener)
        answer = process.run(cell.does, workload)
        passed, refused = self._endpoint.counts(cell.listener)
        return answer | {"passed": passed - before[0], "refused": refused - before[1]}

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    def _process(self, name: str, cell: Cell) -> Process:
        if name not in self._processes:
            self._processes[name] = self._new(name, cell)
        return self._processes[name]

    def _new(self, name: str, cell: Cell) -> Process:
        return Process(name, self._endpoint, cell, self._library(name))

    def _library(self, name: str) -> Path:
        return self._base if self._base and name == peers.OursBase.name else ROOT

    def _peak(self, name: str, cell: Cell) -> float:
        process = self._new(name, cell)
        try:
            before = process.run(cell.does, ONE)["peak_bytes"]
            return process.run(cell.does, cell.workload)["peak_bytes"] - before
        finally:
            process.close()

    def _try(self, result: Result, name: str, run: Any) -> Any:
        """Return what the run returns; a contender that fails is out of the cell, by name and with the reason."""
        try:
            return run()
        except (RuntimeError, Wrong) as exc:
            result.cannot[name] = f"{type(exc).__name__}: {exc}"
            del result.runs[name]
            if name in self._processes:
                self._processes.pop(name).close()
            print(f"  {name}: {result.cannot[name]}")
            return None
