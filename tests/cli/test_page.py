"""The screens of docs/command-line.md are those of a real terminal: its commands run here, in order, in one bash."""

from __future__ import annotations

import contextlib
import doctest
import gzip
import os
import pty
import re
import sys
import termios
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/command-line.md").read_text()
BLOCK = re.compile(
    r"^```console\n(.*?)^```$|^<!--setup\n(.*?)^-->$|^```python\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
COMMAND = re.compile(r"^\$ ((?:.*[\\|]\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
SCANS = 20
CUT_SHORT = 7

SETTINGS = """\
#!{python}
import sys
from file_dataset.cli import main
main()
"""


@pytest.fixture
def home(bucket, default_options, tmp_path, monkeypatch):
    """A directory with the command on the PATH, and packed scans in a bucket."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "file-dataset").write_text(SETTINGS.format(python=sys.executable))
    (tools / "file-dataset").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    scan = gzip.compress(bytes(range(256)) * 500, mtime=0)
    for number in range(1, SCANS + 1):
        bucket.put(f"raw/{number:03d}/scan.nii.gz", scan[:400] if number == CUT_SHORT else scan)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def on_a_terminal(script, directory):
    """Return what a terminal of 100 columns was sent by a script; of a line that was written over, the last."""
    process, screen = pty.fork()
    if process == 0:
        os.chdir(directory)
        os.execvp("bash", ["bash", "-c", script])  # noqa: S606, S607  # that of the PATH
    termios.tcsetwinsize(screen, (50, 100))
    sent = b""
    with contextlib.suppress(OSError):  # Linux says the end of a terminal by EIO
        while piece := os.read(screen, 1 << 16):
            sent += piece
    os.close(screen)
    os.waitpid(process, 0)
    lines = sent.decode().replace("\r\n", "\n").split("\n")
    return "\n".join(line.rpartition("\r")[2] for line in lines)


def without_times(text):
    """Return a screen without what a bar says of the machine: how fast it was, and how far ahead."""
    text = re.sub(r"\|█+\| (\S+) \[\S+<\S+ +\S+row/s", r"| \1 [", text)
    return re.sub(r", prefetch=\d+", "", text)


@pytest.mark.slow  # a terminal and some thirty processes
def test_every_screen_is_what_a_terminal_shows(home, bucket):
    script, screens = [], []
    for console, setup, module, code in BLOCK.findall(PAGE):
        if module:
            (home / module).write_text(code)
        for line in setup.splitlines():
            url = line.removeprefix("aws s3 rm ")
            script.append(f"{sys.executable} -c 'import boto3; boto3.client(\"s3\").delete_object(**{key_of(url)})'")
        for command, shown in COMMAND.findall(console):
            screens.append((command, shown))
            script.append(f"{command}\nlast=$?; printf '=== %s\\n' end; (exit $last)")
    assert len(screens) >= 12
    sent = on_a_terminal("\n".join(script).replace("my-bucket", bucket.name), home)
    found = sent.replace(bucket.name, "my-bucket").split("=== end\n")
    assert len(found) == len(screens) + 1, sent
    checker = doctest.OutputChecker()
    for (command, shown), real in zip(screens, found, strict=False):
        assert checker.check_output(without_times(shown), without_times(real), doctest.ELLIPSIS), f"$ {command}\n{real}"


def key_of(url):
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return f'{{"Bucket": "{bucket}", "Key": "{key}"}}'
