"""One contender in a process of its own: reads commands, a JSON line each, answers with what they took.

The clock runs around the contender's call alone. CPU is that of the process and of the children it waited for.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import peers
from awscrt.checksums import crc64nvme
from endpoint import Listener, Workload


def cpu_s() -> float:
    """Return CPU seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_bytes() -> int:
    """Return the most memory that this process ever held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def main() -> None:
    """Answer commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a contender prints is no answer
    setup = json.loads(sys.stdin.readline())
    if setup["cores"]:
        os.sched_setaffinity(0, setup["cores"])
    place = peers.Place(Listener(**setup["listener"]), Path(setup["scratch"]), setup["column"], setup["in_flight"])
    contender = peers.CONTENDERS[setup["contender"]](place)
    print("{}", file=answers)
    for line in sys.stdin:
        try:
            answer = run(contender, json.loads(line))
        except Exception as exc:  # noqa: BLE001  # reported to the harness
            answer = {"error": f"{type(exc).__name__}: {exc}"[:500]}
        print(json.dumps(answer), file=answers)
    contender.close()


def run(contender: peers.Contender, command: dict[str, Any]) -> dict[str, Any]:
    """Run one command."""
    workload = Workload(**command["workload"])
    does = getattr(contender, command["does"])
    arguments: tuple[Any, ...] = (workload,)
    if command["does"] in ("download", "series"):
        arguments = (workload, Path(command["into"]))
    elif command["does"] == "upload":
        arguments = (workload, Path(command["source"]), command["into"])
    elif command["does"] == "pipeline":
        arguments = (workload, command["into"])
    if isinstance(contender, peers.Ours):
        contender.frame(workload)
    gc.collect()
    wall, cpu = time.perf_counter(), cpu_s()
    result = does(*arguments)
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    answer: dict[str, Any] = {"wall_s": wall, "cpu_s": cpu, "peak_bytes": peak_bytes() + contender.child_peak_bytes}
    if command["does"] in ("blobs", "sizes"):
        values = zip(result["id"].to_pylist(), result["a.bin"], strict=True)
        if command["does"] == "blobs":
            answer["crcs"] = {name: crc64nvme(memoryview(value.as_buffer())) for name, value in values}
        else:
            answer["sizes"] = {name: value.as_py() for name, value in values}
    else:
        contender.kept = result  # type: ignore[attr-defined]  # until the next run
    return answer


if __name__ == "__main__":
    main()
