"""Ctrl-C while rows download, work or upload: uploads may end, what is stored is listed, and nothing stays on disk."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from helpers import forward, impatient_options, until
from servers.faults import Slow
from servers.paced import number_of

import file_dataset
from file_dataset import Pipeline, _call, _stopping

HERE = str(Path(file_dataset.__file__).parent)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_ctrl_c_leaves_no_temp_dir_and_carries_the_result(frame, pipeline, tmp_path, prefetch):
    def interrupted(input_dir, output_dir):
        if (input_dir / "a.txt").read_text() == "three":
            signal.raise_signal(signal.SIGINT)
        return {"a.txt": input_dir / "a.txt"}

    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline(interrupted, temp_dir=tmp_path, prefetch=prefetch).run(frame)
    result = caught.value.result
    assert result.manifest["id"].tolist() == [1, 2]
    assert result.unprocessed_rows["id"].tolist() == [3, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_an_upload_lists_no_half_row(own_faults, tmp_path):
    own_faults.put("s3://bucket/in/1", b"x" * 3_000_000)
    own_faults.fail("PutObject", Slow(bytes_per_second=10), times=None)
    frame = pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]})
    main = threading.main_thread().ident

    def interrupt():
        while not own_faults.count("PutObject"):
            pass
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    pipeline = Pipeline(
        forward,
        write_options={"into_path": "s3://bucket/out"},
        options=impatient_options(own_faults.endpoint_url),
        temp_dir=tmp_path,
        progress=False,
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        for _ in range(1000):  # the interrupt may come after a fast upload: the next run meets it
            pipeline.run(frame)
    if len(caught.value.result.manifest):  # it was stored when the interrupt came
        assert own_faults.body("s3://bucket/out/1/a.txt") == b"x" * 3_000_000
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_downloads_at_once(paced, on, six, tmp_path, monkeypatch):
    monkeypatch.setattr(_stopping, "GRACE_S", 600)  # what does not hear is waited for until its gate lets it go
    paced.hold("GetObject", "in/3")

    def interrupted(input_dir, output_dir):
        if number_of(input_dir) == 2:
            until(lambda: paced.count("GetObject", "in/3"))
            signal.raise_signal(signal.SIGINT)
        return forward(input_dir, output_dir)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted, temp_dir=tmp_path).run(six)
    assert not paced.overdue
    assert caught.value.result.manifest["id"].tolist() == [1]
    assert caught.value.result.unprocessed_rows["id"].tolist() == [2, 3, 4, 5, 6]
    assert len(caught.value.result.failures) == 0
    assert list(tmp_path.iterdir()) == []


# uploads that are under way


@pytest.fixture
def said():
    """What is to be done when the run says that it waits for uploads, and the messages in which it did."""

    class Said(logging.Handler):
        def __init__(self):
            super().__init__()
            self.messages, self.then = [], lambda: None

        def emit(self, record):
            self.messages.append((record.levelname, record.getMessage()))
            self.then()

    handler = Said()
    _stopping.logger.addHandler(handler)
    yield handler
    _stopping.logger.removeHandler(handler)


@pytest.fixture
def interrupted_at_2(paced):
    """Return fn that is interrupted at the second row while the first one's upload waits for its gate."""

    def interrupted(input_dir, output_dir):
        if number_of(input_dir) == 2:
            until(lambda: paced.count("PutObject", "out/1/a.txt"))
            signal.raise_signal(signal.SIGINT)
        return forward(input_dir, output_dir)

    return interrupted


def test_ctrl_c_lets_rows_whose_fn_is_done_finish_their_uploads(paced, on, six, tmp_path, said, interrupted_at_2):
    said.then = paced.hold("PutObject", "out/1/a.txt").set
    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted_at_2, temp_dir=tmp_path).run(six)
    result = caught.value.result
    assert result.manifest["id"].tolist() == result.files["id"].tolist() == [1]
    assert result.unprocessed_rows["id"].tolist() == [2, 3, 4, 5, 6]
    assert paced.body("s3://bucket/out/1/a.txt") == b"row 1"
    assert list(tmp_path.iterdir()) == []


def test_a_row_whose_upload_ends_after_ctrl_c_is_reported_too(paced, on, six, said, interrupted_at_2):
    said.then = paced.hold("PutObject", "out/1/a.txt").set
    steps = []
    with pytest.raises(KeyboardInterrupt):
        on(interrupted_at_2, progress=steps.append).run(six)
    assert [(step.id, step.done, step.total, step.failures) for step in steps] == [(1, 1, 6, ())]


def test_what_the_function_raises_then_takes_no_result_away(paced, on, six, said, interrupted_at_2):
    said.then = paced.hold("PutObject", "out/1/a.txt").set

    def refuse(_):
        raise BrokenPipeError

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted_at_2, progress=refuse).run(six)
    assert caught.value.result.manifest["id"].tolist() == [1]


def test_who_interrupts_reads_how_many_rows_are_waited_for_and_how_to_give_them_up(
    paced, on, six, said, interrupted_at_2
):
    said.then = paced.hold("PutObject", "out/1/a.txt").set
    with pytest.raises(KeyboardInterrupt):
        on(interrupted_at_2).run(six)
    ((level, message),) = said.messages
    assert level == "WARNING"
    assert "still uploading: 1; waiting for them for 30 s at most, another Ctrl-C gives them up" in message


def test_where_nothing_is_uploading_nothing_is_said(on, six, said):
    with pytest.raises(KeyboardInterrupt):
        on(lambda i, o: signal.raise_signal(signal.SIGINT)).run(six)
    assert said.messages == []


def test_nothing_begins_after_ctrl_c(paced, on, six, said):
    """Rows 3 and 4 are ahead by then, and there is room for row 5 when the first one's upload has ended."""
    said.then = paced.hold("PutObject", "out/1/a.txt").set
    called = []

    def interrupted(input_dir, output_dir):
        called.append(number_of(input_dir))
        if called == [1, 2]:
            until(lambda: paced.count("PutObject", "out/1/a.txt") and paced.count("GetObject") == 4)
            signal.raise_signal(signal.SIGINT)
        return forward(input_dir, output_dir)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted, prefetch=2).run(six)
    assert caught.value.result.manifest["id"].tolist() == [1]
    assert called == [1, 2]
    assert paced.count("GetObject") == 4
    assert paced.count("PutObject") == 1


def test_a_second_ctrl_c_gives_uploads_up(paced, on, six, tmp_path, said, interrupted_at_2, monkeypatch):
    monkeypatch.setattr(_stopping, "UPLOADS_S", 600)
    paced.hold("PutObject", "out/1/a.txt")
    said.then = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted_at_2, temp_dir=tmp_path).run(six)
    assert not paced.overdue
    assert caught.value.result.manifest["id"].tolist() == []
    assert caught.value.result.unprocessed_rows["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_aborts_uploads_in_parts(paced, on, six, said, monkeypatch):
    monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
    monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 5 << 20)
    monkeypatch.setattr(_stopping, "UPLOADS_S", 600)
    paced.hold("UploadPart")
    said.then = lambda: signal.raise_signal(signal.SIGINT)

    def interrupted(input_dir, output_dir):
        if number_of(input_dir) == 2:
            until(lambda: paced.count("UploadPart"))
            signal.raise_signal(signal.SIGINT)
        (output_dir / "large.bin").write_bytes(b"x" * (6 << 20))
        return {"large.bin": output_dir / "large.bin"}

    with pytest.raises(KeyboardInterrupt):
        on(interrupted).run(six)
    assert not paced.overdue
    assert paced.count("CreateMultipartUpload") == paced.count("AbortMultipartUpload") == 1
    assert not paced.open_uploads


def test_uploads_that_take_too_long_are_given_up_without_a_second_ctrl_c(
    paced, on, six, tmp_path, said, interrupted_at_2, monkeypatch
):
    assert _stopping.UPLOADS_S == 30
    monkeypatch.setattr(_stopping, "UPLOADS_S", 0.2)
    paced.hold("PutObject", "out/1/a.txt")
    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted_at_2, temp_dir=tmp_path).run(six)
    assert len(said.messages) == 1
    assert not paced.overdue
    assert len(caught.value.result.unprocessed_rows) == 6
    assert list(tmp_path.iterdir()) == []


def test_uploads_are_given_up_at_once_when_it_is_an_error_that_stops_the_run(paced, on, six, said):
    first = paced.hold("PutObject", "out/1/a.txt")
    paced.hold("PutObject", "out/2/a.txt")
    threading.Thread(target=lambda: until(lambda: paced.count("PutObject", "out/2/a.txt")) and first.set()).start()

    def broken(_):
        raise RuntimeError("no bar")

    with pytest.raises(RuntimeError, match="no bar") as caught:
        on(progress=broken, prefetch=2).run(six)
    assert not paced.overdue
    assert said.messages == []
    assert 2 not in caught.value.result.manifest["id"].tolist()


def test_a_run_that_no_signal_reaches_gives_uploads_up_at_once(paced, on, six, said):
    """In another thread than the main one no second Ctrl-C could give them up."""
    paced.hold("PutObject", "out/1/a.txt")
    caught = []

    def interrupted(input_dir, output_dir):
        if number_of(input_dir) == 2:
            until(lambda: paced.count("PutObject", "out/1/a.txt"))
            raise KeyboardInterrupt
        return forward(input_dir, output_dir)

    def run():
        try:
            on(interrupted).run(six)
        except KeyboardInterrupt as exc:
            caught.append(exc.result)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not paced.overdue
    assert said.messages == []
    assert len(caught[0].unprocessed_rows) == 6


def test_ctrl_c_kills_what_works_before_it_waits_for_uploads(paced, on, six, tmp_path, said):
    gate = paced.hold("PutObject", "out/1/a.txt")
    pid = tmp_path / "pid"
    alive = []

    def hang(input_dir, output_dir):
        import os

        if (input_dir / "a.txt").read_text() == "row 2":
            pid.with_suffix(".part").write_text(str(os.getpid()))
            pid.with_suffix(".part").rename(pid)
            time.sleep(1000)
        return {"a.txt": input_dir / "a.txt"}

    def look():
        try:
            os.kill(int(pid.read_text()), 0)
            alive.append(True)
        except ProcessLookupError:
            alive.append(False)
        gate.set()

    said.then = look
    main = threading.main_thread().ident
    threading.Thread(
        target=lambda: (
            until(lambda: pid.exists() and paced.count("PutObject", "out/1/a.txt")),
            signal.pthread_kill(main, signal.SIGINT),
        )
    ).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        on(hang, workers=2, prefetch=0).run(six.iloc[:2])
    assert alive == [False]
    assert caught.value.result.manifest["id"].tolist() == [1]


def test_a_row_that_a_worker_is_done_with_when_ctrl_c_comes_is_uploaded(on, six, tmp_path, monkeypatch):
    """The calling thread has not looked yet: it reports another row."""
    called = []
    submit = _call.Calls.submit

    def noted(self, flight):
        called.append(submit(self, flight))
        return called[-1]

    monkeypatch.setattr(_call.Calls, "submit", noted)

    def second_waits(input_dir, output_dir):
        import time

        is_second = (input_dir / "a.txt").read_text() == "row 2"
        if is_second:
            (tmp_path / "begun").touch()
        while not (tmp_path / ("reported" if is_second else "begun")).exists():
            time.sleep(0.005)
        return {"a.txt": input_dir / "a.txt"}

    def report(_):
        (tmp_path / "reported").touch()
        until(lambda: all(each.done() for each in called))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(second_waits, workers=2, progress=report).run(six.iloc[:2])
    assert caught.value.result.manifest["id"].tolist() == [1, 2]


class Interrupted:
    """Ctrl-C at the n-th moment at which Python looks for signals in code of ours: functions begin, calls of C end."""

    def __init__(self, number=None):
        self.number, self.seen = number, 0

    def __call__(self, frame, event, _):
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(HERE):
            self.seen += 1
            if self.seen == self.number:
                signal.raise_signal(signal.SIGINT)

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a generator that is closed
@pytest.mark.parametrize("prefetch", [0, 2])
def test_ctrl_c_at_any_moment_leaves_nothing_and_lists_what_is_there(tmp_path, prefetch):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(str(number))
    frame = pd.DataFrame({"id": range(4), "a.txt": [str(tmp_path / f"{number}.txt") for number in range(4)]})
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    pipeline = Pipeline(
        forward, write_options={"into_path": out}, temp_dir=work, prefetch=prefetch, progress=False, on_failure="record"
    )
    with Interrupted() as moments:
        pipeline.run(frame)
    interrupted = 0
    for number in range(1, moments.seen, 1 + moments.seen // 150):
        shutil.rmtree(out)
        out.mkdir()
        with contextlib.suppress(KeyboardInterrupt):
            try:
                with Interrupted(number):
                    pipeline.run(frame)
            except KeyboardInterrupt as exc:
                interrupted += 1
                result = getattr(exc, "result", None)  # None: nothing had begun
                assert result is not None or not list(out.iterdir())
                if result is not None:
                    assert len(result.manifest) + len(result.unprocessed_rows) == 4
                    assert all(Path(at).exists() for at in result.files["location"])
                # a download that did not hear of it removes what it has made
                assert until(lambda: not list(work.iterdir())), f"moment {number} of {moments.seen}"
                raise
    assert interrupted > 50


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a generator that is closed
def test_ctrl_c_at_any_moment_of_write_files_leaves_no_part_of_a_file(tmp_path):
    files = {}
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        files[name] = tmp_path / name.replace("/", "-")
        files[name].write_text(name)
    out = tmp_path / "out"
    out.mkdir()
    with Interrupted() as moments:
        file_dataset.write_files(files, into_path=out, id=1)
    interrupted = 0
    for number in range(1, moments.seen + 1):
        shutil.rmtree(out)
        out.mkdir()
        try:
            with Interrupted(number):
                file_dataset.write_files(files, into_path=out, id=1)
        except KeyboardInterrupt:
            interrupted += 1
        there = {str(path.relative_to(out / "1")) for path in out.rglob("*") if path.is_file()}
        assert there <= set(files), f"moment {number} of {moments.seen}"
    assert interrupted > 50


def test_a_row_that_was_stored_when_ctrl_c_came_is_listed(paced, on, six):
    places = []

    def interrupted(input_dir, output_dir):
        places.append(input_dir)
        if number_of(input_dir) == 2:
            until(lambda: not places[0].exists())  # row 1 is gone from here once it is there
            signal.raise_signal(signal.SIGINT)
        return forward(input_dir, output_dir)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted).run(six)
    assert caught.value.result.manifest["id"].tolist() == caught.value.result.files["id"].tolist() == [1]


def test_ctrl_c_kills_what_works(on, six, tmp_path):
    (tmp_path / "work").mkdir()
    pid = tmp_path / "pid"

    def hang(input_dir, output_dir):
        import os

        pid.with_suffix(".part").write_text(str(os.getpid()))
        pid.with_suffix(".part").rename(pid)
        time.sleep(1000)

    threading.Thread(
        target=lambda: until(pid.exists) and signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    ).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        on(hang, workers=1, temp_dir=tmp_path / "work").run(six)
    assert len(caught.value.result.unprocessed_rows) == 6
    assert list((tmp_path / "work").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
