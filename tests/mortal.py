"""A run that is there to be killed: what it does, in this process or in one of its own (`python -m mortal`)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from helpers import impatient_options

from file_dataset import Pipeline, PipelineResult
from file_dataset import _journal as journals
from file_dataset._checkpoint.place import Place

MISSING = 33  # a row without an input
BAD = 7, 22, 37, 52  # rows that fn refuses, always
PREFETCH = 2
BATCH = 3  # on Ray


def shout(input_dir, output_dir, *, log, takes_s):
    """Write the input in capitals, and into the log which row it was and which process."""
    text = (input_dir / "a.txt").read_text()
    say(log, f"{os.getpid()} {text.split()[1]}")
    time.sleep(takes_s)
    if text.startswith("bad"):
        raise ValueError("this text is bad")
    (output_dir / "out.txt").write_text(text.upper())
    return {"out.txt": output_dir / "out.txt", "same.txt": input_dir / "a.txt"}


def say(log, line):
    """Add a line to a log that many processes write."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@dataclass(frozen=True)
class Scene:
    """A Pipeline over some rows, its checkpoint, and how often that is written."""

    log: str
    inputs: str  # a prefix or a directory
    into: str
    checkpoint: str
    url: str = ""
    rows: int = 60
    workers: int = 0
    takes_s: float = 0.002
    # those of the journal
    rows_per_part: int = 5
    seconds_per_part: float = 0.05
    most_parts: int = 4
    # in a process of its own
    on_ray: bool = False
    save: str = ""  # where its result goes, also that of a run that is interrupted
    write_takes_s: float = 0
    # stop (SIGSTOP) at this part, the first is 1: on local disk in the middle of it, in a bucket before it is sent
    halts_at: int = 0

    def pipeline(self):
        fn = functools.partial(shout, log=self.log, takes_s=self.takes_s)
        options = impatient_options(self.url) if self.url else None
        kwargs = {"workers": self.workers, "prefetch": PREFETCH, "options": options, "progress": False}
        return Pipeline(fn, into_path=self.into, **kwargs)

    def frame(self):
        numbers = range(self.rows)
        return pd.DataFrame(
            {
                "id": numbers,
                "a.txt": [f"{self.inputs}/{number}" for number in numbers],
                "label": [f"<{n}>" for n in numbers],
            }
        )

    def texts(self):
        """Return the inputs by row."""
        return {n: f"{'bad' if n in BAD else 'row'} {n}" for n in range(self.rows) if n != MISSING}

    def plan(self):
        return self.pipeline().plan(self.frame(), checkpoint=self.checkpoint)

    def run(self):
        """Run it here to its end, with the journal's numbers of the scene."""
        names = {
            "_ROWS": self.rows_per_part,
            "_S": self.seconds_per_part,
            "_MOST_PARTS": self.most_parts,
            "_LARGEST": 1,
        }
        before = {name: getattr(journals, name) for name in names}
        vars(journals).update(names)
        try:
            return self.pipeline().run(self.frame(), checkpoint=self.checkpoint)
        finally:
            vars(journals).update(before)

    def start(self):
        """Start it in a process of its own."""
        command = [sys.executable, "-m", "mortal", json.dumps(dataclasses.asdict(self))]
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    def written(self):
        """Return the rows that the checkpoint has as done."""
        options = impatient_options(self.url) if self.url else None
        if not self.plan().counts["same"]:
            return set()
        return set(PipelineResult.load(self.checkpoint, options=options).manifest["id"])

    def lines(self):
        """Return the lines of the log."""
        return Path(self.log).read_text().splitlines() if Path(self.log).exists() else []


def called(lines):
    """Return the rows that fn was called for, in order."""
    return [int(line.split()[1]) for line in lines if line[0].isdigit()]


def processes(lines):
    """Return the processes that fn was called in."""
    return {int(line.split()[0]) for line in lines if line[0].isdigit()}


def processes_below(pid):
    """Return the processes that a process has started, and those that these have."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *processes_below(child)]
    return found


def same(left, right):
    """See that two results are the same."""
    for name in ("manifest", "failures", "files", "inputs"):
        pd.testing.assert_frame_equal(getattr(left, name), getattr(right, name))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _halt():
    """Stop the process here: a signal that another thread takes stops this one a moment later."""
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.5)


class _Halting(io.FileIO):
    """A file whose writer is stopped in the middle of it."""

    def write(self, content):
        half = len(content) // 2
        written = super().write(content[:half])
        _halt()
        return written + super().write(content[half:])


def _watch_writes(scene):
    """Have the log say when a part is written, and have that go as the scene wants it."""
    write, opened = Place.write, Path.open
    numbers = itertools.count(1)

    def written(self, content):
        say(scene.log, "begins")
        time.sleep(scene.write_takes_s)
        if scene.url and next(numbers) == scene.halts_at:
            _halt()
        name = write(self, content)
        say(scene.log, "ends")
        return name

    def opens(self, *args, **kwargs):
        is_part = self.suffix == ".parquet" and args == ("xb",)
        return _Halting(self, *args) if is_part and next(numbers) == scene.halts_at else opened(self, *args, **kwargs)

    Place.write, Path.open = written, opens


def _main(scene):
    _watch_writes(scene)
    if scene.on_ray:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    # as a program does that has it end like Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = scene.run()
    except KeyboardInterrupt as exc:
        result = exc.result
        say(scene.log, "interrupted")
    if scene.save:
        result.save(Path(scene.save))


if __name__ == "__main__":
    _main(Scene(**json.loads(sys.argv[1])))
