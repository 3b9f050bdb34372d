"""Workers that end with the test."""

from __future__ import annotations

import contextlib

import pytest
from one_worker import SOON_S

from file_dataset._workers.pool import Workers


@pytest.fixture(autouse=True)
def buffered(monkeypatch):
    """Some machines set this for every program; then there is nothing to flush."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def start(tmp_path):
    """Make workers that end with the test."""
    with contextlib.ExitStack() as stack:

        def make(fn, *, count=1, by_keyword=False, takes_row=False, **kwargs):
            made = Workers(fn, count=count, by_keyword=by_keyword, takes_row=takes_row, **kwargs)
            return stack.enter_context(made)

        yield make


@pytest.fixture
def call(start, tmp_path):
    """Call fn once in a worker and return its result."""

    def one(fn, **kwargs):
        return start(fn, **kwargs).submit(tmp_path, tmp_path, None).result(SOON_S)

    return one
