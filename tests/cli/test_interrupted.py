"""A run that a signal ends, and the same command again; the bar, on a terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import termios
import time

import pytest

ROWS = 25
SIGNALS = {"Ctrl-C": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143), "SIGKILL": (signal.SIGKILL, -9)}


@pytest.mark.parametrize("name", SIGNALS)
def test_the_same_command_goes_on_after(shell, read_lines, name):
    number, code = SIGNALS[name]
    place = shell.bucket.url("runs/half/")
    args = ["run", "shrink:slowly", shell.write(shell.put_scans(ROWS)), "--into", shell.bucket.url("half/")]
    args += ["--checkpoint", place, "-o", "manifest.csv"]
    with shell.begin(*args, stderr=subprocess.PIPE) as first:
        while len(shell.begun) < 10 and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(number)
        said = first.communicate(timeout=60)[1].decode()
    assert first.returncode == code, said
    assert "Traceback" not in said
    assert not (shell.directory / "manifest.csv").exists()
    if number != signal.SIGKILL:
        assert f"What is done is in the checkpoint {place}" in said
    done = set(shell.begun[:-1])
    assert 9 <= len(done) < ROWS

    again = shell.run(*args, "--json")
    assert again.returncode == 0, again.stderr.decode()
    *rows, summary = read_lines(again)
    if number != signal.SIGKILL:  # which leaves no time to write down what was done since the last part
        assert not done & {row["id"] for row in rows}
        assert len(rows) <= ROWS - len(done)
    assert (summary["rows"], summary["stored"]) == (ROWS, ROWS)
    assert len(shell.read("manifest.csv")) == ROWS


def test_a_terminal_shows_a_bar_and_ctrl_c_leaves_it(shell):
    """Ctrl-C as it comes from a keyboard: through the terminal, to all of its foreground."""
    keyboard, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    args = ["run", "shrink:slowly", shell.write(shell.put_scans(ROWS)), "--into", "half", "-o", "manifest.csv"]

    def take_the_terminal():
        os.setsid()
        os.open(os.ttyname(0), os.O_RDWR)  # the first that a session's leader opens is its own

    process = shell.begin(*args, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=take_the_terminal)
    os.close(terminal)
    screen = b""
    while b"%|" not in screen or len(shell.begun) < 5:
        screen += os.read(keyboard, 4096)
    os.write(keyboard, b"\x03")
    with contextlib.suppress(OSError):  # Linux says the end of a terminal by EIO
        while piece := os.read(keyboard, 4096):
            screen += piece
    os.close(keyboard)
    assert process.wait(timeout=60) == 130
    shown = screen.decode()
    assert f"/{ROWS} [" in shown
    assert "rows done" not in shown  # log lines are for where there is no bar
    assert "not processed" in shown
    assert "with --checkpoint the same command goes on" in shown
    assert "Traceback" not in shown
