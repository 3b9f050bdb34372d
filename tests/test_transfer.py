"""The shell's own rules: how far ahead it goes, and what is left when it is interrupted."""

# ruff: noqa: SLF001  # what is begun ahead shows nowhere else

from __future__ import annotations

import os
import threading
from concurrent.futures import Future

import pandas as pd
import pytest

import file_dataset
from file_dataset import Options, RowError, _transfer
from file_dataset._errors import Failure


def answered(result):
    future = Future()
    future.set_result(result)
    return future


def failure(file, error):
    return Failure.of(file, "download", error)


def test_few_files_are_begun_before_the_first_is_taken():
    """Or Python's garbage collector would look at 200,000 of them again and again."""
    begun = []

    def start(file):
        begun.append(file)
        return answered(-file)

    files = iter(range(100))
    for taken, (file, result) in enumerate(_transfer._each(files, start, failure, threading.Event(), ahead=8)):
        assert (file, result) == (taken, -taken)
        assert len(begun) - taken <= 8
    assert len(begun) == 100


def test_as_many_files_are_begun_as_keep_every_connection_busy():
    assert _transfer.Stores(Options(max_concurrency=10)).ahead == 40
    assert _transfer.Stores(None).ahead == 4 * Options().max_concurrency


def test_a_caller_that_stops_in_the_middle_cancels_what_it_began():
    cancelled = threading.Event()
    pending = []

    def start(file):
        pending.append(answered(0) if file == 0 else Future())
        return pending[-1]

    files = _transfer._each(range(4), start, failure, cancelled, ahead=2)
    assert next(files) == (0, 0)
    files.close()
    assert cancelled.is_set()
    assert all(future.cancelled() for future in pending[1:])


def test_failures_are_told_at_the_end_all_of_them_and_in_order():
    def start(file):
        if file == 1:
            raise ConnectionError("at once")
        future = Future()
        future.set_exception(FileNotFoundError("later")) if file == 3 else future.set_result(file)
        return future

    found = []
    with pytest.raises(RowError) as caught:
        found.extend(result for _, result in _transfer._each(range(5), start, failure, threading.Event(), ahead=2))
    assert found == [0, 2, 4]
    assert [each.id for each in caught.value.failures] == [1, 3]


def test_a_read_makes_and_names_its_files_in_the_threads_that_fill_them(tmp_path, monkeypatch):
    """In the caller's, each mkdir and rename would be a fight for the GIL with the thread that moves the bytes."""
    callers = []

    def watched(name):
        call = getattr(os, name)

        def call_and_tell(*args, **kwargs):
            callers.append((name, threading.get_ident()))
            return call(*args, **kwargs)

        monkeypatch.setattr(os, name, call_and_tell)

    source = tmp_path / "a.bin"
    source.write_bytes(b"x")
    frame = pd.DataFrame({"id": ["1", "2"], "a.bin": [str(source)] * 2})
    watched("makedirs")
    watched("replace")
    with file_dataset.reader(frame).into_temp_dir() as directory:
        assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]
    assert sorted(name for name, _ in callers) == ["makedirs", "makedirs", "replace", "replace"]
    assert threading.get_ident() not in [thread for _, thread in callers]
