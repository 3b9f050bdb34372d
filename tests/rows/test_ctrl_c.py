"""One Ctrl-C while rows download, work or upload: what is stored is listed, and nothing stays on disk."""

from __future__ import annotations

import contextlib
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
from file_dataset import Pipeline, _run

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
    stored = result.manifest["id"].tolist()
    # what was still uploading is given up, and comes again
    assert stored == [1, 2] if prefetch == 0 else stored in ([], [1], [2], [1, 2])
    assert result.unprocessed_rows["id"].tolist() == [number for number in range(1, 6) if number not in stored]
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


@pytest.mark.parametrize("held", [("GetObject", "in/3"), ("PutObject", "out/1/a.txt")], ids=["download", "upload"])
def test_ctrl_c_stops_what_is_under_way_at_once(paced, on, six, tmp_path, held, monkeypatch):
    monkeypatch.setattr(_run, "_GRACE_S", 600)  # what does not hear is waited for until its gate lets it go
    paced.hold(*held)
    main = threading.main_thread().ident

    def interrupted(input_dir, output_dir):
        if number_of(input_dir) == 2:
            until(lambda: paced.count(*held))
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(1000)
        return forward(input_dir, output_dir)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted, temp_dir=tmp_path).run(six)
    assert not paced.overdue
    result = caught.value.result
    assert list(tmp_path.iterdir()) == []
    listed = result.manifest["id"].tolist()
    assert result.unprocessed_rows["id"].tolist() == [number for number in range(1, 7) if number not in listed]
    assert 2 not in listed
    assert len(result.failures) == 0
    if held[0] == "PutObject":
        assert listed == []


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
        import time

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
