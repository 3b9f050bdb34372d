"""Downloads ahead of fn, uploads behind it: how far, in which order, and what waits."""

from __future__ import annotations

import logging
import os
import threading
import time

import pandas as pd
import pytest
from helpers import forward, until
from servers.faults import INVALID_ACCESS_KEY_ID, SLOW_DOWN, Status
from servers.paced import number_of

from file_dataset import RunStoppedError


@pytest.mark.parametrize(
    ("prefetch", "workers", "window"), [(0, 0, 1), (1, 0, 3), (2, 0, 4), (5, 0, 7), (0, 1, 2), (1, 2, 4)]
)
def test_at_most_the_window_has_files_on_disk(paced, on, tmp_path, prefetch, workers, window):
    frame = pd.DataFrame({"id": range(12), "a.txt": "s3://bucket/in/1"})
    gate = paced.hold("PutObject")
    seen, is_over = [0], threading.Event()

    def watch():
        while not is_over.is_set():
            seen.append(len(os.listdir(tmp_path)))  # noqa: PTH208  # one call
            time.sleep(0.001)

    def let_go():
        until(lambda: paced.count("PutObject") and max(seen) >= window)  # uploads that do not end fill it
        time.sleep(0.2)  # for one more, which there must not be
        gate.set()

    threads = [threading.Thread(target=watch), threading.Thread(target=let_go)]
    for thread in threads:
        thread.start()
    try:
        manifest = on(temp_dir=tmp_path, prefetch=prefetch, workers=workers)(frame)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert len(manifest) == len(frame)
    assert max(seen) == window  # not more, and not less
    assert list(tmp_path.iterdir()) == []


def test_while_fn_works_the_next_rows_download_and_finished_ones_upload(paced, on, six):
    paced.hold("PutObject", "out/1/a.txt")
    seen = {}

    def look(input_dir, output_dir):
        if number_of(input_dir) == 2:
            seen["next two"] = until(lambda: paced.count("GetObject", "in/3") and paced.count("GetObject", "in/4"))
            seen["the one before"] = until(lambda: paced.count("PutObject", "out/1/a.txt"))
            time.sleep(0.2)
            seen["more"] = paced.count("GetObject", "in/5")
            paced.gates["PutObject", "out/1/a.txt"].set()
        return forward(input_dir, output_dir)

    assert len(on(look, prefetch=2)(six)) == 6
    assert seen == {"next two": True, "the one before": True, "more": 0}


def test_no_more_than_the_next_rows_download_while_fn_works(paced, on, six):
    """There would be room on disk for one more, which is kept for an upload."""
    seen = []

    def look(input_dir, output_dir):
        if number_of(input_dir) == 1:
            until(lambda: paced.count("GetObject", "in/3"))
            time.sleep(0.2)
            seen.append(paced.count("GetObject", "in/4"))
        return forward(input_dir, output_dir)

    assert len(on(look, prefetch=2)(six)) == 6
    assert seen == [0]


def test_a_row_that_is_stored_makes_room_while_fn_still_works(paced, on, six):
    gates = [paced.hold("PutObject", f"out/{number}/a.txt") for number in (1, 2)]
    seen = {}

    def look(input_dir, output_dir):
        if number_of(input_dir) == 3:  # 1 and 2 are uploading, 4 is ahead: that is the window of prefetch=2
            until(lambda: paced.count("GetObject", "in/4"))
            time.sleep(0.2)
            seen["before"] = paced.count("GetObject", "in/5")
            gates[0].set()
            seen["after"] = until(lambda: paced.count("GetObject", "in/5"))
            gates[1].set()
        return forward(input_dir, output_dir)

    assert len(on(look, prefetch=2)(six)) == 6
    assert seen == {"before": 0, "after": True}


def test_without_overlap_one_thing_is_done_after_the_other(paced, on, six):
    names = set()
    before = set(threading.enumerate())  # a run that another test interrupted may have left some

    def look(input_dir, output_dir):
        names.update(thread.name for thread in set(threading.enumerate()) - before)
        return forward(input_dir, output_dir)

    on(look, prefetch=0)(six)
    rows = range(1, 7)
    assert paced.order == [one for n in rows for one in (("GetObject", f"in/{n}"), ("PutObject", f"out/{n}/a.txt"))]
    assert not [name for name in names if name.startswith("file_dataset-run")]


def test_fn_is_called_in_the_calling_thread_and_in_input_order(paced, on, six):
    paced.fail("GetObject", SLOW_DOWN, key="in/1", times=2)  # the others are there before it
    called = []

    def look(input_dir, output_dir):
        called.append((number_of(input_dir), threading.get_ident()))
        return forward(input_dir, output_dir)

    on(look)(six)
    assert called == [(number, threading.get_ident()) for number in range(1, 7)]


def test_whatever_comes_first_is_told_in_input_order(paced, on, six, caplog):
    """Row 1 fails last, by far."""
    paced.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt", times=None)
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/2", times=None)
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/5", times=None)
    gate = paced.hold("PutObject", "out/1/a.txt")
    told = []

    def look(input_dir, output_dir):
        if number_of(input_dir) == 6:
            assert told == []  # a row that is not done holds the others back
            gate.set()
        return forward(input_dir, output_dir)

    def progress(now):
        assert threading.current_thread() is threading.main_thread()
        told.append((now.done, now.dropped))

    result = on(look, progress=progress).run(six)
    assert result.failures["id"].tolist() == [1, 2, 5]
    assert result.manifest["id"].tolist() == result.files["id"].tolist() == [3, 4, 6]
    assert told == [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3)]
    logged = [record.message.split(" failed")[0] for record in caplog.records if record.levelno == logging.WARNING]
    assert logged == ["row 1", "row 2", "row 5"]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_no_thread_outlives_its_run(paced, on, six, is_stopped):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("file_dataset-run")]

    if is_stopped:
        paced.fail("GetObject", INVALID_ACCESS_KEY_ID, key="in/3", times=None)
        with pytest.raises(RunStoppedError) as caught:  # its traceback refers to the run
            on().run(six)
        assert until(lambda: not threads())
        assert caught.value.result is not None
    else:
        places, seen, gate = [], [], paced.hold("PutObject", "out/1/a.txt")

        def look(input_dir, output_dir):
            places.append(input_dir)
            if number_of(input_dir) == 2:
                gate.set()
                assert until(lambda: not places[0].exists())  # which a thread of the run removes meanwhile
                seen.extend(threads())
            return forward(input_dir, output_dir)

        on(look)(six)
        assert seen
        assert until(lambda: not threads())
