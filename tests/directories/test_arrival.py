"""The files of a row on their way in: what begins, and by which thread, while a request waits for new credentials."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest
from helpers import until

from file_dataset import _urls
from file_dataset._arrival import Arrival
from file_dataset._plan import FileRow
from file_dataset._sink import ObjectInfo
from file_dataset._store import Listed

COUNT, AHEAD = 10, 4


class Waiting:
    """A store, and all of them, whose requests a test ends; those after the first ones wait to begin."""

    ahead = AHEAD

    def __init__(self):
        self.begun: list[Future] = []
        self.waits, self.may_go_on = threading.Event(), threading.Event()
        self.silence = None

    def of(self, at):
        return self

    def list(self, at, *, cancelled=None):
        found = Future()
        found.set_result([Listed(_urls.ObjectUrl("b", f"d/{n}"), 0, "e", None) for n in range(COUNT)])
        return found

    def download(self, source, sink):
        if len(self.begun) == AHEAD:
            self.waits.set()
            assert self.may_go_on.wait(20)
        if not sink.cancelled.is_set():
            sink.begin(ObjectInfo(0, "e"))
        self.begun.append(Future())
        return self.begun[-1]


@pytest.fixture
def store():
    store = Waiting()
    yield store
    store.may_go_on.set()


def end(store, *numbers):
    for number in numbers:
        store.begun[number].set_result(ObjectInfo(0, "e"))


def test_a_thread_that_ends_a_file_does_not_wait_for_one_that_is_about_to_begin(store, tmp_path):
    over = threading.Event()
    arrival = Arrival(
        FileRow(1, {"d": _urls.parse("s3://b/d/", base=tmp_path)}), str(tmp_path), store, threading.Event()
    )
    arrival.begin(lambda *_: None, over.set)
    end(store, 0, 1)
    assert store.waits.wait(20)
    ends = threading.Thread(target=end, args=(store, 2, 3), daemon=True)
    ends.start()
    ends.join(20)
    assert not ends.is_alive()
    store.may_go_on.set()
    ended = AHEAD
    while not over.wait(0.01):
        end(store, *range(ended, begun := len(store.begun)))
        ended = begun
    assert [each.transfer.file for each in arrival.finish()] == [f"d/{n}" for n in range(COUNT)]


def test_a_file_that_was_about_to_begin_when_the_row_was_given_up_is_cancelled(store, tmp_path):
    cancelled = threading.Event()
    arrival = Arrival(FileRow(1, {"d": _urls.parse("s3://b/d/", base=tmp_path)}), str(tmp_path), store, cancelled)
    arrival.begin(lambda *_: None, lambda: None)
    end(store, 0, 1)
    assert store.waits.wait(20)
    cancelled.set()
    gives_up = threading.Thread(target=arrival.give_up, daemon=True)
    gives_up.start()
    gives_up.join(20)
    assert not gives_up.is_alive()
    store.may_go_on.set()
    assert until(lambda: len(store.begun) > AHEAD and store.begun[AHEAD].cancelled())
