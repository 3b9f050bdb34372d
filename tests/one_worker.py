"""What tests of worker processes share: how long they wait, and what they look at."""

# fn starts `sleep`, and `ps` is that of the PATH
# ruff: noqa: S607

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import types

from helpers import until

SOON_S = 40  # for what takes well under a second on a machine that does nothing else
FDS = 10_000  # above every descriptor of these tests: a worker has its line under the number of its parent


def living(group):
    """The processes of a group that are more than an exit status."""
    listing = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in listing.splitlines()]
    return [line for line in lines if line[0] == str(group) and not line[1].startswith("Z")]


def texts(path, count=1):
    """What fn has written into a file, line by line, once there are so many lines."""
    assert until(lambda: path.exists() and path.read_text().count("\n") >= count)
    return path.read_text().split()


def script(tmp_path, text):
    """A script of its own, which is a `__main__` without a main guard."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return [sys.executable, str(path)]


def run(command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **kwargs)
    assert done.returncode == 0, done.stderr
    return done


def by_value(fn):
    return types.FunctionType(fn.__code__, {"os": os, "signal": signal, "__builtins__": __builtins__})


def hang(tmp_path, how):
    """A fn that says who it is and then hangs in this way when the row asks for it."""

    def fn(_in, out, row):
        with (out / "pids").open("a") as log:
            log.write(f"{os.getpid()}\n")
        if row["hangs"]:
            how()
        return os.getpid()

    return fn


def in_python():
    while True:
        pass


def in_a_child():
    import subprocess

    subprocess.run(["sleep", "1000"], check=False)


def with_the_gil():
    import ctypes

    ctypes.PyDLL(None).sleep(1000)
