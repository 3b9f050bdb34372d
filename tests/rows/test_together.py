"""Requests that belong together: how many are begun at once, and when no more are."""

from __future__ import annotations

import threading
import types
from concurrent.futures import Future

import pytest
from helpers import until

from file_dataset._in_order import _TOGETHER, Together


class Requests:
    """Requests that a test ends."""

    def __init__(self, count, *, ahead=4):
        self.begun: dict[int, Future] = {}
        self.ended = 0
        self.cancelled = threading.Event()
        self.all = Together(count, self._start, types.SimpleNamespace(ahead=ahead), self.cancelled)

    def _start(self, at):
        self.begun[at] = Future()
        return self.begun[at]

    def begin(self):
        self.all.begin(self._then)
        return self

    def _then(self):
        self.ended += 1


def test_no_more_than_so_many_are_begun_and_others_when_half_have_ended():
    requests = Requests(1_000).begin()
    half = _TOGETHER // 2
    assert list(requests.begun) == list(range(_TOGETHER))
    for at in range(half - 1):
        requests.begun[at].set_result(at)
    assert list(requests.begun) == list(range(_TOGETHER))
    requests.begun[half].set_result(half)
    assert until(lambda: len(requests.begun) == _TOGETHER + half)
    assert requests.all.results == {at: at for at in (*range(half - 1), half)}
    assert requests.ended == 0


def test_the_thread_that_ends_one_begins_no_other():
    threads = []

    def start(at):
        threads.append(threading.get_ident())
        futures.append(Future())
        return futures[-1]

    futures: list[Future] = []
    requests = Together(_TOGETHER + 10, start, types.SimpleNamespace(ahead=4), threading.Event())
    requests.begin(lambda: None)
    ends = threading.Thread(target=lambda: [futures[at].set_result(at) for at in range(_TOGETHER)])
    ends.start()
    ends.join()
    assert until(lambda: len(threads) == _TOGETHER + 10)
    assert ends.ident not in threads


def test_one_that_is_not_taken_note_of_yet_has_not_ended():
    over = threading.Event()

    class Slow(Future):
        """Its result is looked at while the other one ends, in another thread."""

        def exception(self, timeout=None):
            other = threading.Thread(target=last.set_result, args=("last",))
            other.start()
            other.join(20)
            assert not over.is_set()
            return super().exception(timeout)

    first, last = Slow(), Future()
    requests = Together(2, [first, last].__getitem__, types.SimpleNamespace(ahead=4), threading.Event())
    ends = []
    requests.begin(lambda: (ends.append(dict(requests.results)), over.set()))
    first.set_result("first")
    assert over.wait(20)
    assert ends == [{0: "first", 1: "last"}]


def test_the_last_one_that_ends_says_so_once():
    requests = Requests(1_000).begin()
    for at in range(1_000):
        assert requests.ended == 0
        assert until(lambda at=at: at in requests.begun)
        requests.begun[at].set_result(at)
    assert (requests.ended, requests.all.is_whole) == (1, True)
    assert list(requests.all.errors()) == []


def test_where_more_keep_the_store_busy_more_are_begun():
    assert len(Requests(5_000, ahead=2_000).begin().begun) == 2_000


def test_after_a_failure_none_begins_and_those_that_run_end():
    requests = Requests(1_000).begin()
    requests.begun[3].set_exception(OSError("refused"))
    for at in (0, 1, 2, *range(4, _TOGETHER)):
        assert requests.ended == 0
        requests.begun[at].set_result(at)
    assert requests.ended == 1
    assert (requests.all.begun, len(requests.all.results)) == (_TOGETHER, _TOGETHER - 1)
    assert [at for at, _ in requests.all.errors()] == [3]


def test_few_are_begun_all_whatever_fails():
    def refused(at):
        raise PermissionError(f"{at}")

    requests = Together(5, refused, types.SimpleNamespace(ahead=4), threading.Event())
    requests.begin(lambda: None)
    assert [(at, str(error)) for at, error in requests.errors()] == [(at, str(at)) for at in range(5)]


def test_requests_that_end_before_they_are_known_take_no_stack():
    def ended(at):
        future = Future()
        future.set_result(at)
        return future

    requests = Together(50_000, ended, types.SimpleNamespace(ahead=4), threading.Event())
    ends = []
    requests.begin(lambda: ends.append(len(requests.results)))
    assert ends == [50_000]


def test_what_is_cancelled_begins_no_more():
    requests = Requests(1_000).begin()
    requests.cancelled.set()
    assert requests.all.cancel() == []
    assert (requests.ended, len(requests.begun)) == (1, _TOGETHER)


class Begins:
    """One request that another thread begins, which takes a while."""

    def __init__(self, outcome):
        self.outcome, self.ended = outcome, threading.Event()
        self._is_asked, self._goes_on, self._is_cancelled = threading.Event(), threading.Event(), threading.Event()
        self.all = Together(2, self._start, types.SimpleNamespace(ahead=4), self._is_cancelled)
        self._thread = threading.Thread(target=self.all.begin, args=(self.ended.set,))

    def _start(self, at):
        self._is_asked.set()
        assert self._goes_on.wait(20)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancelled(self):
        """Cancel it while it is being begun; return what is to be waited for."""
        self._thread.start()
        assert self._is_asked.wait(20)
        self._is_cancelled.set()
        waited_for = self.all.cancel()
        self._goes_on.set()
        self._thread.join(20)
        return waited_for


def test_one_that_is_cancelled_while_it_is_begun_is_cancelled():
    begins = Begins(Future())
    (late,) = begins.cancelled()
    assert begins.outcome.cancelled()
    assert (late.done(), begins.ended.is_set(), begins.all.begun) == (True, True, 1)


def test_one_that_is_begun_meanwhile_and_cannot_be_cancelled_is_waited_for():
    begins = Begins(Future())
    begins.outcome.set_running_or_notify_cancel()
    (late,) = begins.cancelled()
    assert not late.done()
    begins.outcome.set_result("stored")
    assert (late.done(), begins.ended.is_set()) == (True, True)
    assert begins.all.results == {0: "stored"}


def test_one_that_could_not_be_begun_is_not_waited_for():
    begins = Begins(PermissionError("refused"))
    (late,) = begins.cancelled()
    assert (late.done(), begins.ended.is_set()) == (True, True)
    assert [at for at, _ in begins.all.errors()] == [0]


def test_one_that_is_cancelled_after_the_others_have_ended_is_no_whole():
    requests = Requests(1_000).begin()
    requests.cancelled.set()
    for at in range(_TOGETHER):
        requests.begun[at].set_result(at)
    assert (requests.ended, requests.all.is_whole) == (1, False)
    with pytest.raises(InterruptedError):
        list(requests.all.errors())


def test_a_fault_of_ours_is_raised_whoever_meets_it():
    requests = Requests(2).begin()
    requests.begun[0].set_exception(TypeError("a bug"))
    requests.begun[1].set_result(1)
    with pytest.raises(TypeError, match="a bug"):
        list(requests.all.errors())


def test_threads_that_end_them_at_once_begin_each_once():
    def in_a_thread(at):
        future = Future()
        threading.Thread(target=future.set_result, args=(at,)).start()
        return future

    over = threading.Event()
    requests = Together(2_000, in_a_thread, types.SimpleNamespace(ahead=4), threading.Event())
    requests.begin(over.set)
    assert over.wait(60)
    assert requests.results == {at: at for at in range(2_000)}
