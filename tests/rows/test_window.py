"""How many rows are ahead of fn by default: more while fn waits for files, within a share of the disk."""

from __future__ import annotations

import pickle
import threading
import time
import types

import pandas as pd
import pytest
from helpers import forward, impatient_options, until
from servers.faults import NO_SUCH_KEY, Busy
from servers.scripted import Scripted, answer

from file_dataset import Pipeline, PipelineResult, RunStoppedError, _window
from file_dataset._result import Prefetch
from file_dataset._run import Run
from file_dataset._window import ENOUGH_BYTES, MOST_ROWS, Kept, Sizes, Window, budget_bytes

GiB = 1 << 30


def window_of(prefetch=None, *, free_bytes=100 * GiB, workers=0, files=1, kept=None):
    settings = types.SimpleNamespace(prefetch=prefetch, slots=max(1, workers), worker_count=workers)
    return Window(settings, files, lambda: free_bytes, kept)


def arrived(window, size_bytes):
    row = window.begins()
    window.file_begins(row, size_bytes, is_first=True)
    window.arrives(row)
    return row


def waits(window, free_bytes=100 * GiB):
    """A row came, and fn waits for the next."""
    window.taken()
    return window.fn_waits(free_bytes)


def test_a_tenth_of_the_free_disk_is_the_budget_and_16_gib_at_most():
    assert [budget_bytes(free) for free in (0, 50, 160 * GiB, 1000 * GiB)] == [0, 5, 16 * GiB, 16 * GiB]


def test_it_begins_with_two_rows_and_doubles_each_time_fn_waits():
    window = window_of()
    seen = [window.prefetch]
    while waits(window):
        seen.append(window.prefetch)
    assert seen == [2, 4, 8, 16, 32, 64, 128, 256]
    assert window.chosen() == Prefetch(MOST_ROWS, "the most")


def test_one_wait_is_one_growth_and_that_for_the_first_row_is_none():
    window = window_of()
    assert not window.fn_waits(100 * GiB)
    assert waits(window)
    assert not window.fn_waits(100 * GiB)
    assert window.prefetch == 4


def test_a_number_stays_a_number():
    window = window_of(3)
    assert not waits(window)
    assert (window.rows, window.chosen()) == (5, Prefetch(3, "as given"))


@pytest.mark.parametrize(("prefetch", "workers", "rows"), [(0, 0, 1), (0, 1, 2), (2, 0, 4), (1, 2, 4), (None, 4, 7)])
def test_the_window_is_the_rows_in_fn_those_ahead_and_one_that_uploads(prefetch, workers, rows):
    window = window_of(prefetch, workers=workers)
    assert window.rows == rows
    for _ in range(rows):
        assert window.has_room(ahead=0, in_fn=0)
        window.begins()
    assert not window.has_room(ahead=0, in_fn=0)


def test_rows_whose_sizes_are_known_do_not_take_more_than_the_budget():
    window = window_of(free_bytes=100_000)  # 10,000 may be taken
    arrived(window, 6000)
    assert not window.has_room(0, 0)  # 6,000 and as many again
    assert not waits(window, 100_000)
    assert window.chosen() == Prefetch(2, "the disk budget is 10600 bytes")  # what is taken is not free


def test_a_row_that_uploads_counts_and_one_that_is_gone_gives_its_bytes_back():
    window = window_of(free_bytes=100_000)
    row = arrived(window, 6000)
    window.returns(row, 500)
    assert not window.has_room(0, 0)
    window.leaves(row)
    window.leaves(row)
    assert window.expected_bytes() == 0
    assert window.has_room(0, 0)


def test_outputs_count_like_inputs_and_rows_to_come_are_as_large_as_those_before():
    window = window_of(free_bytes=100_000, files=2)
    row = window.begins()
    for size_bytes in (100, 300):
        window.file_begins(row, size_bytes, is_first=True)
    window.arrives(row)
    window.returns(row, 1000)
    window.begins()  # nothing is known of it
    assert window.expected_bytes() == 2 * (400 + 1000)


def test_another_attempt_of_a_file_counts_once():
    window = window_of()
    row = window.begins()
    window.file_begins(row, 700, is_first=True)
    window.file_begins(row, 0, is_first=False)
    window.file_begins(row, 50, is_first=False)  # it was replaced
    assert window.expected_bytes() == 750
    window.leaves(row)
    assert window.expected_bytes() == 0


def test_as_many_rows_as_fn_runs_on_may_begin_however_large_they_are():
    window = window_of(free_bytes=0, workers=3)
    for _ in range(3):
        assert window.has_room(0, 0)
        arrived(window, GiB)
    assert not window.has_room(0, 0)


def test_more_rows_do_not_begin_beside_large_ones_that_are_on_their_way():
    window = window_of()
    row = window.begins()
    window.file_begins(row, ENOUGH_BYTES, is_first=True)
    assert not waits(window)
    assert "on their way are enough" in window.chosen().why
    window.arrives(row)
    assert waits(window)


def test_a_run_goes_on_from_what_the_one_before_it_kept():
    kept = Kept(64, Sizes(files=2, file_bytes=2 * GiB))
    window = window_of(kept=kept)
    assert window.prefetch == 64
    for _ in range(9):
        assert window.has_room(0, 0)
        window.begins()
    window.begins()
    assert not window.has_room(0, 0)  # ten of 1 GiB
    first = Kept()
    assert waits(window_of(kept=first))
    assert window_of(kept=first).prefetch == 4


# --- in runs


@pytest.fixture
def late(own_faults):
    """A server that answers 20 ms late, and options for it."""
    own_faults.fail("*", Busy(10_000, seconds=0.02), times=None)
    own_faults.put("s3://bucket/in", b"x")
    return own_faults


def run(server, rows=80, *, fn=forward, **kwargs):
    frame = pd.DataFrame({"id": range(rows), "a.txt": "s3://bucket/in"})
    options = impatient_options(server.endpoint_url)
    return Pipeline(fn, into_path="s3://bucket/out", options=options, **{"progress": False, **kwargs}).run(frame)


def test_more_rows_are_in_flight_while_fn_waits_for_a_late_store(late):
    result = run(late)
    assert len(result.manifest) == 80
    assert late.max_in_flight > 8  # 4 have files on disk with the two rows ahead that it begins with
    assert result.prefetch.rows > 8
    assert result.prefetch.why in ("grown while fn waited for files or places", "the most")


def test_with_a_number_there_are_never_more_in_flight(late):
    result = run(late, prefetch=2)
    assert late.max_in_flight <= 4
    assert str(result.prefetch) == "2 rows ahead (as given)"


def test_fn_that_does_not_wait_has_two_rows_ahead(late):
    def slow(input_dir, output_dir):
        time.sleep(0.2)
        return forward(input_dir, output_dir)

    assert run(late, 6, fn=slow).prefetch == Prefetch(2, "fn did not wait for files")


def test_workers_that_wait_have_more_rows_ahead(late):
    assert run(late, 120, workers=2).prefetch.rows > 4


def test_batches_of_one_process_go_on_from_each_other(late):
    frame = pd.DataFrame({"id": range(40), "a.txt": "s3://bucket/in"})
    options = impatient_options(late.endpoint_url)
    pipeline = Pipeline(forward, into_path="s3://bucket/out", options=options, progress=False)
    batches = pickle.loads(pickle.dumps(pipeline))  # as Ray does
    rows = [batches.run(frame).prefetch.rows for _ in range(2)]
    begun = Run(batches._prepare(frame), idle_workers=[]).window.prefetch  # noqa: SLF001
    assert begun == rows[-1] > 2
    assert Run(pipeline._prepare(frame)).window.prefetch == 2  # noqa: SLF001


def test_progress_says_how_many_rows_are_ahead(late):
    reports = []
    result = run(late, progress=reports.append)
    assert 2 <= reports[0].prefetch <= reports[-1].prefetch
    assert reports[-1].prefetch == result.prefetch.rows
    run(late, 3, progress=reports.append, prefetch=5)
    assert reports[-1].prefetch is None


def test_the_log_line_of_progress_says_how_many_rows_are_ahead(late, caplog):
    caplog.set_level("INFO", "file_dataset")
    result = run(late, progress=None)
    assert f"80 of 80 rows done, 0 dropped, prefetch {result.prefetch.rows}" in caplog.messages


def test_rows_ahead_take_no_threads(late):
    before = set(threading.enumerate())
    names = []

    def look(input_dir, output_dir):
        names.append([thread.name for thread in set(threading.enumerate()) - before])
        return forward(input_dir, output_dir)

    result = run(late, fn=look)
    assert result.prefetch.rows > 16
    ours = [[name for name in each if name.startswith("file_dataset-")] for each in names]
    assert max(map(len, ours)) < 12  # loops of the wire among them


def test_no_row_begins_behind_one_that_may_stop_the_run_however_many_are_ahead(paced, on):
    """Row 1 waits in its upload; row 2 has failed."""
    frame = pd.DataFrame({"id": range(1, 61), "a.txt": ["s3://bucket/in/1", *["s3://bucket/none"] * 59]})
    paced.fail("GetObject", NO_SUCH_KEY, key="none", times=None)
    gate = paced.hold("PutObject")

    def let_go():
        until(lambda: paced.count("PutObject"))
        time.sleep(0.3)
        gate.set()

    thread = threading.Thread(target=let_go)
    thread.start()
    with pytest.raises(RunStoppedError):
        on(on_failure="raise").run(frame)
    thread.join()
    assert paced.count("GetObject", "none") <= 8


def test_rows_that_are_announced_as_large_hold_back_those_behind_them(monkeypatch, tmp_path):
    monkeypatch.setattr(_window, "ENOUGH_BYTES", 1 << 60)  # the disk alone is to hold them back
    begun, is_over = [], threading.Event()

    def script(peer):
        while True:
            path = peer.head().split()[1]
            begun.append(path)
            if path.endswith("/0"):
                until(lambda: len(set(begun)) >= 3)
                time.sleep(0.3)  # for what is sent of the others to arrive
                peer.send(answer(b"x", etag='"1"'))
                continue
            peer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\netag: "2-2"\r\n\r\n')
            is_over.wait(30)
            return

    def end():
        until((tmp_path / "out/0/a.txt").exists)
        time.sleep(0.3)  # for one more, which there must not be
        is_over.set()

    frame = pd.DataFrame({"id": range(20), "a.txt": [f"s3://bucket/{number}" for number in range(20)]})
    thread = threading.Thread(target=end)
    with Scripted(script) as server:
        thread.start()
        options = impatient_options(server.url, max_concurrency=1000)
        pipeline = Pipeline(
            forward, into_path=tmp_path / "out", options=options, progress=False, on_failure="raise", outputs=["a.txt"]
        )
        with pytest.raises(RunStoppedError) as caught:
            pipeline.run(frame)
        thread.join()
        seen = {path for path in begun if not path.endswith("/0")}
    assert len(seen) <= 2  # fewer only where the machine was too slow to send them
    assert "the disk budget is" in caught.value.result.prefetch.why


def test_a_merged_result_has_the_later_runs_prefetch(late):
    first, later = run(late, 1, prefetch=1), run(late, 2, prefetch=3)
    assert PipelineResult.merge(first, later).prefetch == Prefetch(3, "as given")
