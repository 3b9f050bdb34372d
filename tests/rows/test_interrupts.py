"""Ctrl-C, once or often, at any moment of a run: the result is there, and nothing stays on disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import termios
import textwrap
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pandas as pd
import pytest
from helpers import forward, impatient_options, until

import file_dataset
from file_dataset import Pipeline, PipelineResult, _overwrites, _run, _stopping, _window
from file_dataset._interrupts import Interrupts
from file_dataset._s3.store import S3Store


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    return pd.DataFrame({"id": range(20), "a.txt": [str(tmp_path / "a.txt")] * 20, "label": "x"})


@pytest.fixture
def on(tmp_path):
    (tmp_path / "work").mkdir()

    def make(fn, *, report=False, **kwargs):
        write_options = {"into_path": tmp_path / "out"}
        return Pipeline(fn, write_options=write_options, temp_dir=tmp_path / "work", progress=report, **kwargs)

    return make


@pytest.fixture
def handled():
    """Interrupts that count from the moment at which a run begins to mind them to that at which it does not."""

    def raises(number, frame):
        del number
        if frame is None or signal.getsignal(signal.SIGINT) is not raises:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, raises)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def swallowed(monkeypatch):
    """What finalizers and callbacks raise: Python ignores it, an interrupt too, and pytest makes an error of it.

    An interrupted TempDir goes with a ResourceWarning, which is an error here.
    """
    kinds = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: kinds.append(unraisable.exc_type))
    yield
    assert set(kinds) <= {KeyboardInterrupt, ResourceWarning}


@pytest.mark.usefixtures("handled", "swallowed")
@pytest.mark.parametrize(("prefetch", "workers"), [(0, 0), (2, 0), (2, 2)])
def test_however_many_interrupts_come_the_result_is_there_and_no_temp_dir_stays(rows, on, tmp_path, prefetch, workers):
    pipeline = on(forward, prefetch=prefetch, workers=workers)
    began = time.monotonic()
    pipeline.run(rows)
    took_s = time.monotonic() - began
    chance = random.Random(7)  # noqa: S311
    interrupted = 0
    for _ in range(6 if workers else 25):
        main = threading.main_thread().ident
        gaps_s = [chance.uniform(0, took_s), *(chance.choice([0, 0.0005, 0.005]) for _ in range(4))]

        def storm(gaps_s=gaps_s, main=main):
            for gap_s in gaps_s:
                time.sleep(gap_s)
                signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            result = pipeline.run(rows)
        except KeyboardInterrupt as exc:
            interrupted += 1
            result, notes = exc.result, exc.__notes__
            assert len(notes) == 1
        thread.join()
        assert len(result.manifest) + len(result.unprocessed_rows) == len(rows)
        assert len(result.files) == len(result.manifest)
        assert PipelineResult.last_stopped() is result or not len(result.unprocessed_rows)
        # a download that did not hear of it removes what it has made
        assert until(lambda: not list((tmp_path / "work").iterdir()))
    assert interrupted > 2


def test_the_note_says_where_the_result_is(rows, on):
    def interrupted(input_dir, output_dir):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted).run(rows)
    (note,) = caught.value.__notes__
    assert "except KeyboardInterrupt as exc: result = exc.result" in note
    assert "sys.last_value.result" in note
    assert "PipelineResult.last_stopped()" in note


def test_an_error_after_it_does_not_take_the_result_away(rows, on):
    """In a notebook a look at the variable that was not set is the next error, and `sys.last_value` is that."""

    def interrupted(input_dir, output_dir):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted).run(rows)
    on(forward).run(rows.iloc[:1])  # nor does a run that nothing stops
    assert PipelineResult.last_stopped() is caught.value.result
    assert len(PipelineResult.last_stopped().unprocessed_rows) == len(rows)


def test_an_interrupt_while_a_run_is_set_up_carries_a_result(rows, on, monkeypatch):
    def interrupted(*_):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)

    pipeline = on(forward, outputs=["a.txt"])
    monkeypatch.setattr(_overwrites, "inputs_at_risk", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline.run(rows)
    result = caught.value.result
    assert result.unprocessed_rows.equals(rows)
    assert result.manifest.columns.tolist() == ["a.txt", "id", "label"]
    assert result.merge(pipeline.run(result.unprocessed_rows)).manifest["id"].tolist() == list(range(20))


def test_an_interrupt_that_comes_when_all_rows_are_done_carries_the_whole_result(rows, on, monkeypatch):
    ended = _run.Run._stop  # noqa: SLF001

    def interrupted(self):
        ended(self)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_run.Run, "_stop", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        on(forward).run(rows)
    assert len(caught.value.result.manifest) == len(rows)


def test_an_interrupt_while_a_stored_row_is_taken_note_of_does_not_lose_it(rows, on, monkeypatch):
    leaves = _window.Window.leaves

    def interrupted(self, row):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        leaves(self, row)

    monkeypatch.setattr(_window.Window, "leaves", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        on(forward, prefetch=0).run(rows)
    result = caught.value.result
    assert result.files["id"].tolist() == result.manifest["id"].tolist() == [0]
    assert result.unprocessed_rows["id"].tolist() == list(range(1, 20))


@pytest.fixture
def deaf(monkeypatch):
    """An event that is set when the first row's upload has begun, which hears of nothing until the test ends."""
    release, stuck = threading.Event(), threading.Event()
    upload = S3Store.upload

    def stays(self, source, target, **kwargs):
        if target.key != "out/1/a.txt":
            return upload(self, source, target, **kwargs)
        stuck.set()
        future = Future()
        future.set_running_or_notify_cancel()
        threading.Thread(target=lambda: release.wait(30) and future.set_exception(InterruptedError("late"))).start()
        return future

    monkeypatch.setattr(S3Store, "upload", stays)
    yield stuck
    release.set()


def test_another_interrupt_ends_the_wait_for_uploads_that_were_given_up(paced, six, deaf, tmp_path, monkeypatch):
    """They have time to abort what they began, and this one hears of nothing."""
    monkeypatch.setattr(_stopping, "GRACE_S", 600)
    monkeypatch.setattr(_stopping, "UPLOADS_S", 0.1)
    wait = _stopping.wait
    asked = []

    def waits(futures, timeout):
        asked.append(1)
        signal.raise_signal(signal.SIGINT)
        return wait(futures, timeout)

    monkeypatch.setattr(_stopping, "wait", waits)

    def interrupted(input_dir, output_dir):
        if deaf.is_set():
            signal.raise_signal(signal.SIGINT)
        return forward(input_dir, output_dir)

    options = impatient_options(paced.endpoint_url)
    pipeline = Pipeline(
        interrupted, into_path="s3://bucket/out", options=options, temp_dir=tmp_path, progress=False, prefetch=2
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline.run(six)
    assert asked == [1]
    assert len(caught.value.result.unprocessed_rows) == 6


PROGRAM = """
    import signal, sys
    import pandas as pd
    from helpers import impatient_options
    import file_dataset
    from file_dataset import _stopping

    _stopping.UPLOADS_S = 600

    class Stopped(BaseException):
        pass

    def stop(*_):
        raise {error}

    def slow(input_dir, output_dir):
        text = (input_dir / "a.txt").read_text()
        if text == "row 2":
            print("in fn", flush=True)
        while text == "row 2":  # the signal comes
            signal.pause()
        return {{"a.txt": input_dir / "a.txt"}}

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    frame = pd.DataFrame({{"id": range(1, 7), "a.txt": [f"s3://bucket/in/{{number}}" for number in range(1, 7)]}})
    options = impatient_options("{url}", patience_s=90)
    try:
        file_dataset.Pipeline(slow, into_path="s3://bucket/out", options=options).run(frame)
    except BaseException as exc:
        print(type(exc).__name__, exc.result.manifest["id"].tolist(), exc.result.files["id"].tolist())
"""


@pytest.fixture
def program(paced, tmp_path):
    """Return a function that starts a program whose first row is uploading and whose second row is in fn."""
    (tmp_path / "t").mkdir()
    started = []

    def start(error="KeyboardInterrupt", stderr=subprocess.PIPE):
        path = os.pathsep.join([str(Path(_run.__file__).parent.parent), *sys.path])
        gate = paced.hold("PutObject", "out/1/a.txt")
        program = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM.format(error=error, url=paced.endpoint_url))],
            env={**os.environ, "TMPDIR": str(tmp_path / "t"), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        started.append(program)
        assert program.stdout.readline() == "in fn\n"
        assert until(lambda: paced.count("PutObject", "out/1/a.txt"))
        return program, gate

    yield start
    for program in started:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "Stopped"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_raises_lets_uploads_end(program, tmp_path, number, error):
    """`Stopped` is what Dagster makes of both."""
    running, gate = program(error)
    running.send_signal(number)
    assert "another Ctrl-C gives them up" in running.stderr.readline()
    gate.set()
    assert running.communicate(timeout=60)[0] == f"{error} [1] [1]\n"
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_gives_uploads_up(program, paced, tmp_path, number):
    running, _ = program()
    running.send_signal(number)
    assert "another Ctrl-C gives them up" in running.stderr.readline()
    running.send_signal(number)
    assert running.communicate(timeout=60)[0] == "KeyboardInterrupt [] []\n"
    assert not paced.overdue
    assert list((tmp_path / "t").iterdir()) == []


def test_the_warning_has_a_line_of_its_own_below_the_bar(program):
    screen, keyboard = os.openpty()
    termios.tcsetwinsize(keyboard, (24, 200))
    running, gate = program(stderr=keyboard)
    os.close(keyboard)
    running.send_signal(signal.SIGINT)
    text = ""
    while "gives them up" not in text:
        text += os.read(screen, 1 << 16).decode()
    gate.set()
    assert running.communicate(timeout=60)[0] == "KeyboardInterrupt [1] [1]\n"
    os.close(screen)
    lines = text.replace("\r\n", "\n").split("\n")
    assert "0/6" in text
    assert any(line.startswith("interrupted; rows that are still uploading: 1") for line in lines)


def test_an_interrupt_that_fn_swallows_does_not_make_the_run_deaf(rows, on):
    calls = []

    def swallows_once(input_dir, output_dir):
        calls.append(1)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if len(calls) > 1:
                raise
        return forward(input_dir, output_dir)

    with pytest.raises(KeyboardInterrupt):
        on(swallows_once).run(rows)
    assert len(calls) == 2


def test_the_programs_own_handlers_are_back_after_a_run(rows, on):
    class Stopped(BaseException):
        pass

    def stop(*_):
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        on(forward).run(rows)
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is stop
        # what Dagster does: an error of its own, for SIGTERM too
        with pytest.raises(Stopped) as caught:
            on(lambda i, o: signal.raise_signal(signal.SIGTERM)).run(rows)
        assert len(caught.value.result.unprocessed_rows) == len(rows)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_handler_that_fn_puts_in_place_stays(rows, on):
    def mine(*_):
        """Do nothing."""

    def changes(input_dir, output_dir):
        signal.signal(signal.SIGINT, mine)
        return forward(input_dir, output_dir)

    before = signal.getsignal(signal.SIGINT)
    try:
        on(changes).run(rows)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_ends_the_process_or_is_ignored_is_left_alone():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_in_another_thread_touches_no_handler(rows, on):
    seen = []
    before = signal.getsignal(signal.SIGINT)
    work = on(lambda i, o: (seen.append(signal.getsignal(signal.SIGINT)), forward(i, o))[1])
    thread = threading.Thread(target=lambda: work.run(rows.iloc[:1]))
    thread.start()
    thread.join()
    assert seen == [before]


def test_two_interrupts_from_outside_leave_the_result_and_no_temp_dir(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "a.txt").write_text("a")
    script = """
        import signal, time
        import pandas as pd
        import file_dataset

        def busy(input_dir, output_dir):
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                pass
            print("working", flush=True)
            return {"a.txt": input_dir / "a.txt"}

        signal.signal(signal.SIGINT, signal.default_int_handler)
        frame = pd.DataFrame({"id": range(400), "a.txt": ["a.txt"] * 400})
        try:
            file_dataset.Pipeline(busy, write_options={"into_path": "out"}, progress=False).run(frame)
        except KeyboardInterrupt as exc:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            print("listed", len(exc.result.manifest) + len(exc.result.unprocessed_rows))
    """
    path = os.pathsep.join([str(Path(_run.__file__).parent.parent), *sys.path])
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "t"), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout.readline() == "working\n"
    program.send_signal(signal.SIGINT)
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=60)[0].splitlines()[-1] == "listed 400"
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("local_ray")
def test_an_interrupt_of_a_run_on_ray_says_where_the_result_is(rows, on):
    def interrupts(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        file_dataset.ray.run_pipeline(on(forward, report=interrupts), rows, batch_size=5)
    (note,) = caught.value.__notes__
    assert "except KeyboardInterrupt as exc: result = exc.result" in note
    assert PipelineResult.last_stopped() is caught.value.result
