"""How many requests are in flight and how many go out a second, by numbers alone: no clock, no socket."""

# ruff: noqa: SLF001  # how many places there may be shows in no public way
from __future__ import annotations

import math
import os
import resource
from collections import deque

import pytest

from file_dataset._http import descriptors
from file_dataset._http.rate import Rate
from file_dataset._http.window import FIRST, MOST, Window


class Store:
    """A store that answers as many a second as it can, to a loop that waits for the rest of the time."""

    def __init__(self, window, *, busy=0.1):
        self.window, self.busy = window, busy
        self.now_s = self.idle_s = 100.0
        window.begin(self.now_s, self.idle_s)

    def answers(self, count, per_s, *, is_full=True):
        for _ in range(count):
            self.now_s += 1 / per_s
            self.idle_s += (1 - self.busy) / per_s
            self.window.answered(self.now_s, self.idle_s, is_full=is_full)

    def round(self, per_place_s=30, **kwargs):
        """Answer once for every place: each brings as much as it can."""
        size = int(self.window.size)
        self.answers(size, size * per_place_s, **kwargs)


def test_more_are_in_flight_while_more_bring_more():
    window = Window(64, lambda: 512)
    store = Store(window)
    for _ in range(12):
        store.round()
    assert window.size == 512


@pytest.mark.parametrize(
    ("most", "busy", "is_full"),
    [(None, 0.1, True), (lambda: 512, 0.8, True), (lambda: 512, 0.1, False)],
    ids=["there is a bound", "the loop has enough to do", "there are few requests"],
)
def test_it_stays_as_it_is_where(most, busy, is_full):
    window = Window(64, most)
    store = Store(window, busy=busy)
    for _ in range(20):
        store.round(is_full=is_full)
    assert window.size == 64


def test_where_more_bring_no_more_there_are_as_many_as_before_and_it_is_tried_ever_less_often():
    window = Window(64, lambda: 512)
    store = Store(window)
    sizes = []
    for _ in range(200):
        store.answers(int(window.size), 5000)
        sizes.append(window.size)
    assert set(sizes) == {64, 128}
    tries = [at for at in range(1, 200) if sizes[at] > sizes[at - 1]]
    assert 2 <= len(tries) <= 4
    assert tries[1] - tries[0] < tries[2] - tries[1]


def test_where_few_more_bring_nothing_there_are_as_many_as_before():
    """Half of what is free may be less than twice as many."""
    window = Window(64, lambda: 100)
    store = Store(window)
    sizes = []
    for _ in range(6):
        store.answers(int(window.size), 5000)
        sizes.append(window.size)
    assert sizes == [100, 100, 64, 64, 64, 64]


def test_time_without_requests_is_not_counted():
    window = Window(64, lambda: 512)
    store = Store(window)
    store.now_s += 3600
    store.window.begin(store.now_s, store.idle_s)
    store.round()
    assert window.size == 128


def test_places_are_within_half_of_the_free_descriptors(monkeypatch):
    """On macOS a process may have 256 to begin with."""
    from file_dataset._s3 import store

    limit = len(os.listdir("/dev/fd")) + 200  # noqa: PTH208  # a count is all that is wanted
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, 4096))
    assert 150 < descriptors.free() <= 210  # threads of other tests open and close some meanwhile
    assert 75 < store._most() <= 105
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 4096))
    assert (descriptors.free(), store._most()) == (0, 1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert store._most() == MOST
    assert FIRST <= MOST


class Refusing:
    """A store that takes so many requests a second, and answers the rest with "slow down"; simulated by the ms."""

    LATENCY_MS = 20

    def __init__(self, rate, allowed_per_s, *, by_second):
        self.rate, self.allowed, self.by_second = rate, allowed_per_s, by_second
        self.now_s, self.taken, self.refused, self.second, self.in_second = 100.0, 0, 0, 0, 0
        self.tokens = 20.0
        self.answers = deque([[] for _ in range(self.LATENCY_MS)])

    def run(self, seconds, most_per_ms=8):
        for _ in range(int(seconds * 1000)):
            self.now_s += 0.001
            self.tokens = min(20.0, self.tokens + self.allowed / 1000)
            if int(self.now_s) != self.second:
                self.second, self.in_second = int(self.now_s), 0
            self.answers.append([])
            for answer, sent_s in self.answers.popleft():
                answer(self.now_s, sent_s)
            for _ in range(most_per_ms):
                if self.rate.wait_s(self.now_s):
                    break
                self.rate.sent(self.now_s)
                self.answers[-1].append((self._answer(), self.now_s))

    def _answer(self):
        is_taken = self.in_second < self.allowed if self.by_second else self.tokens >= 1
        if not is_taken:
            self.refused += 1
            return self.rate.refused
        self.in_second += 1
        self.tokens -= 1
        self.taken += 1
        return self.rate.accepted


@pytest.mark.parametrize("by_second", [False, True], ids=["bucket of tokens", "counted by the second"])
@pytest.mark.parametrize("allowed", [100, 500, 2000, 5000])
def test_a_store_that_refuses_gets_nearly_what_it_allows_and_little_more(allowed, by_second):
    store = Refusing(Rate(), allowed, by_second=by_second)
    store.run(15)
    assert store.taken >= 0.85 * allowed * 15
    first = 2 * 8 * store.LATENCY_MS  # what was in flight at the first refusals
    # by the second: all that come after the last that is allowed, until the rate is known
    assert store.refused < (0.15 if by_second else 0.01) * store.taken + first


def test_a_store_that_refuses_nothing_has_no_bound():
    rate = Rate()
    for number in range(1000):
        rate.accepted(100 + number / 1000, 100)
        assert rate.wait_s(100 + number / 1000) == 0
    assert rate.per_s == math.inf


def test_a_bound_goes_when_nothing_is_refused_for_some_seconds():
    store = Refusing(Rate(), 500, by_second=False)
    store.run(3)
    assert store.rate.per_s < 700
    store.allowed = 1e9
    store.run(10)
    assert store.rate.per_s == math.inf


def test_a_store_that_refuses_everything_is_asked_ever_less_often():
    store = Refusing(Rate(), 0, by_second=True)
    store.run(10)
    assert store.refused < 2 * 8 * store.LATENCY_MS + 20
