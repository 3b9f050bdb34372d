"""How far a run is: told to a function, to a terminal, to the log, or to nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import termios

import pandas as pd
import pytest
from helpers import forward

from file_dataset import Pipeline, Progress, _progress
from file_dataset._progress import reporting

STEPS = [Progress(1, 3, 0), Progress(2, 3, 1), Progress(3, 3, 1)]


@pytest.fixture(autouse=True)
def _no_notebook(monkeypatch):
    """A test that imports ipykernel does not change these."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "file_dataset")
    return caplog


@pytest.fixture
def on_a_terminal(monkeypatch):
    """Return a function that does something with stderr on a terminal, and returns what the terminal was sent."""

    def shown(do):
        screen, keyboard = os.openpty()
        termios.tcsetwinsize(keyboard, (24, 80))
        with open(keyboard, "w", encoding="utf-8") as stderr:  # noqa: PTH123  # a descriptor has no path
            monkeypatch.setattr(sys, "stderr", stderr)
            do()
        # what was sent arrives in its own time; Linux tells its end by EIO, macOS by nothing
        with open(screen, "rb", buffering=0) as sent, contextlib.suppress(OSError):  # noqa: PTH123
            text = b""
            while piece := sent.read(1 << 16):
                text += piece
        return text.decode()

    return shown


def run(progress):
    with reporting(progress, 3) as report:
        for step in STEPS:
            report(step)


def test_progress_is_a_line():
    assert str(Progress(5, 12, 1)) == "5 of 12 rows done, 1 dropped"


def test_a_function_is_told_each_step():
    told = []
    run(told.append)
    assert told == STEPS


def test_what_a_function_raises_is_raised():
    def refuse(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(refuse)


def test_a_function_is_told_instead_of_the_log(log):
    run(lambda _: None)
    assert not log.records


def test_false_is_silence(log, capsys):
    run(False)  # noqa: FBT003  # the value under test
    assert not log.records
    assert capsys.readouterr() == ("", "")


def test_false_is_silence_on_a_terminal(on_a_terminal):
    assert on_a_terminal(lambda: run(False)) == ""  # noqa: FBT003  # the value under test


def test_without_a_terminal_the_end_is_logged(log):
    run(None)
    assert [(record.levelname, record.message) for record in log.records] == [("INFO", "3 of 3 rows done, 1 dropped")]


def test_without_a_terminal_nothing_is_printed(capsys):
    run(None)
    assert capsys.readouterr() == ("", "")


def test_steps_are_logged_as_time_passes(log, monkeypatch):
    monkeypatch.setattr(_progress, "_LOG_EVERY_S", 0)
    run(None)
    assert [record.message for record in log.records] == [str(step) for step in STEPS]


def test_a_run_of_no_rows_logs_nothing(log):
    with reporting(None, 0):
        pass
    assert not log.records


def test_a_terminal_shows_a_bar(on_a_terminal):
    assert "3/3" in on_a_terminal(lambda: run(None))


def test_a_bar_with_a_delay_appears_after_it(on_a_terminal):
    def run_for(delay_s):
        with reporting(None, 3, delay_s=delay_s) as report:
            for step in STEPS:
                report(step)

    assert on_a_terminal(lambda: run_for(60)) == ""
    assert "3/3" in on_a_terminal(lambda: run_for(1e-9))


def test_a_bar_shows_the_dropped_rows(on_a_terminal):
    assert "dropped=1" in on_a_terminal(lambda: run(None))


def test_a_bar_without_dropped_rows_does_not_speak_of_them(on_a_terminal):
    def run_one():
        with reporting(None, 1) as report:
            report(Progress(1, 1, 0))

    assert "dropped" not in on_a_terminal(run_one)


def test_a_terminal_shows_a_bar_instead_of_log_lines(on_a_terminal, log):
    on_a_terminal(lambda: run(None))
    assert not log.records


def test_a_bar_ends_where_the_run_was_interrupted(on_a_terminal):
    def interrupted():
        with pytest.raises(KeyboardInterrupt), reporting(None, 3) as report:
            report(STEPS[0])
            raise KeyboardInterrupt

    assert "1/3" in on_a_terminal(interrupted)


def test_without_a_stderr_the_end_is_logged(log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    run(None)
    assert len(log.records) == 1


def test_a_step_names_the_row_that_ended_and_why_it_failed(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    frame = pd.DataFrame({"id": ["007", "8"], "a.txt": [str(tmp_path / "good.txt"), str(tmp_path / "gone.txt")]})
    steps = []
    Pipeline(forward, into_path=tmp_path / "out", progress=steps.append).run(frame)
    assert [(step.id, [failure.type for failure in step.failures]) for step in steps] == [
        ("007", []),
        ("8", ["FileNotFoundError"]),
    ]


def test_a_pickle_that_knows_no_row_has_none():
    earlier = Progress(5, 12, 1)
    earlier.__setstate__([5, 12, 1, None])
    assert (earlier.done, earlier.id, earlier.failures) == (5, None, ())
    assert pickle.loads(pickle.dumps(Progress(5, 12, 1, id="007"))).id == "007"
