"""The command line as users have it: a process of its own, in a directory with a module of theirs, on a loopback S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

SHRINK = '''
"""What a user has in the current directory."""

import os
import time


def halve(input_dir, output_dir):
    text = (input_dir / "scan.txt").read_text()
    if text.startswith("bad"):
        raise ValueError("this scan is bad")
    (output_dir / "half.txt").write_text(text[: len(text) // 2])
    return {"half.txt": output_dir / "half.txt"}


def slowly(input_dir, output_dir, row):
    with open("begun.txt", "a") as log:
        log.write(row["id"] + "\\n")
    time.sleep(0.05)
    return halve(input_dir, output_dir)


def chatty(input_dir, output_dir):
    print("from Python")
    os.system("echo from a tool")
    return halve(input_dir, output_dir)


no_function = 7
'''


class CommandLine:
    """Runs `file-dataset` in a directory."""

    def __init__(self, directory, bucket):
        self.directory, self.bucket = directory, bucket
        self.argv = [sys.executable, "-m", "file_dataset.cli"]

    def run(self, *args, stdin=b"", **env):
        return subprocess.run(
            [*self.argv, *args],
            cwd=self.directory,
            env={**os.environ, **env},
            input=stdin,
            capture_output=True,
            check=False,
            timeout=120,
        )

    def begin(self, *args, **kwargs):
        return subprocess.Popen([*self.argv, *args], cwd=self.directory, **kwargs)

    def put_scans(self, count, bad=()):
        for number in range(count):
            text = "bad" if number in bad else f"scan {number}"
            self.bucket.put(f"raw/{number:03d}/scan.txt", text.encode())
        return pd.DataFrame(
            {"id": [f"{n:03d}" for n in range(count)]}
            | {"scan.txt": [self.bucket.url(f"raw/{n:03d}/scan.txt") for n in range(count)]}
        )

    def write(self, frame, name="scans.csv"):
        frame.to_csv(self.directory / name, index=False)
        return name

    def read(self, name):
        return pd.read_csv(self.directory / name, dtype=str, keep_default_na=False)

    @property
    def begun(self):
        """Ids of the rows of which `slowly` has begun."""
        log = self.directory / "begun.txt"
        return log.read_text().split() if log.exists() else []


def lines(done):
    """Return the JSON lines of stdout."""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(autouse=True)
def _own_temp_dirs(tmp_path_factory, monkeypatch):
    """A command says that it removes what a dead process left in the machine's temp dir: no test is to meet that."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temp")))


@pytest.fixture
def shell(tmp_path, bucket, default_options):
    (tmp_path / "shrink.py").write_text(SHRINK)
    return CommandLine(tmp_path, bucket)


@pytest.fixture
def read_lines():
    return lines
