"""What comes back from a worker: fn's result, or what it raised.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import types

import pytest
from one_worker import SOON_S

from file_dataset._workers.process import FnTimeoutError, WorkerDiedError, WorkerStartError


def test_a_mapping_comes_back_as_a_dict_of_texts(call, tmp_path):
    result = call(lambda _in, out: types.MappingProxyType({"a.txt": out / "a.txt", "b.txt": None, "c": "c"}))
    assert result == {"a.txt": str(tmp_path / "a.txt"), "b.txt": None, "c": "c"}


@pytest.mark.parametrize("value", [None, [1], "text", {}, {"a": 7}], ids=repr)
def test_any_other_result_comes_back_as_it_is(call, value):
    assert call(lambda _in, _out: value) == value


def test_directories_come_by_keyword_and_the_row_read_only(start, tmp_path):
    def fn(*, output_dir, row, input_dir):
        with contextlib.suppress(TypeError):
            row["id"] = 0
        return [input_dir, output_dir, type(row).__name__, dict(row)]

    workers = start(fn, by_keyword=True, takes_row=True)
    row = types.MappingProxyType({"id": 7, "age": 3.5})
    assert workers.submit(tmp_path / "i", tmp_path / "o", row).result(SOON_S) == [
        tmp_path / "i",
        tmp_path / "o",
        "mappingproxy",
        {"id": 7, "age": 3.5},
    ]


def test_the_row_comes_third_by_position(start, tmp_path):
    workers = start(lambda _in, _out, row: row["id"], takes_row=True)
    assert workers.submit(tmp_path, tmp_path, {"id": 7}).result(SOON_S) == 7


def test_a_row_that_cannot_be_pickled_costs_that_row(start, tmp_path):
    workers = start(lambda _in, _out, row: row["id"], takes_row=True)
    with pytest.raises(TypeError, match="the row cannot be sent to fn"):
        workers.submit(tmp_path, tmp_path, {"id": threading.Lock()}).result(SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"id": 7}).result(SOON_S) == 7


def test_megabytes_go_there_and_back(start, tmp_path):
    workers = start(lambda _in, _out, row: row["blob"] * 2, takes_row=True)
    blob = os.urandom(4 << 20)
    assert workers.submit(tmp_path, tmp_path, {"blob": blob}).result(SOON_S) == blob * 2


def test_a_result_that_cannot_be_pickled_is_named(call):
    with pytest.raises(TypeError, match=r"fn returned a dict that cannot be sent from its process.*return a mapping"):
        call(lambda _in, _out: {"a": threading.Lock()})


def test_a_result_that_only_the_worker_can_read_is_named(call):
    def fn(_in, _out):
        class Odd:
            def __reduce__(self):
                return int, ("seven",)

        return Odd()

    with pytest.raises(
        TypeError, match=r"what fn returned cannot be read here: ValueError: invalid literal .* 'seven'"
    ):
        call(fn)


def test_an_exception_comes_back_as_itself_with_the_traceback_of_the_worker(call, caplog):
    def segment(_in, _out):
        error = FileNotFoundError(2, "no such mask", "mask.mha")
        error.code = "NoSuchKey"
        raise error

    with pytest.raises(FileNotFoundError) as raised:
        call(segment)
    error = raised.value
    assert (error.errno, error.filename, error.code) == (2, "mask.mha", "NoSuchKey")
    logging.getLogger(__name__).warning("row failed", exc_info=error)
    # the file and line that raise, though fn travelled by value, and none of ours
    assert f'File "{__file__}", line ' in caplog.text
    assert "in segment\n    raise error" in caplog.text
    assert "file_dataset/_" not in caplog.text


def _unpicklable():
    class LockedError(Exception):
        pass

    error = LockedError("held")
    error.lock = threading.Lock()
    return error


def _of_two_arguments():
    class PairError(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    return PairError("one", "two")


def _without_text():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    return MuteError()


def _without_reduce():
    class StuckError(Exception):
        def __reduce__(self):
            raise ValueError("not me")

    return StuckError("stuck")


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (_unpicklable, "LockedError", "held"),
        (_of_two_arguments, "PairError", "one and two"),
        (_without_text, "MuteError", ""),
        (_without_reduce, "StuckError", "stuck"),
        (lambda: KeyboardInterrupt("mine"), "KeyboardInterrupt", "mine"),
        (lambda: SystemExit(3), "SystemExit", "3"),
    ],
    ids=["unpicklable", "two-arguments", "no-text", "no-reduce", "interrupt", "exit"],
)
def test_what_cannot_travel_or_would_stop_the_caller_is_told_by_name(start, tmp_path, error, name, text):
    # bodies, not names: a worker need not be able to import this module
    make = types.FunctionType(error.__code__, {"__builtins__": __builtins__, "threading": threading})

    def fn(_in, _out, row):
        if row["fails"]:
            raise make()
        return os.getpid()

    workers = start(fn, takes_row=True)
    before = workers.submit(tmp_path, tmp_path, {"fails": False}).result(SOON_S)
    with pytest.raises(RuntimeError) as raised:
        workers.submit(tmp_path, tmp_path, {"fails": True}).result(SOON_S)
    told = raised.value
    assert (type(told).__name__, str(told)) == (name, text)
    assert name in str(told.__cause__)
    again = pickle.loads(pickle.dumps(told))
    assert (type(again).__name__, str(again)) == (name, text)
    # it cost the row and not the process
    assert workers.submit(tmp_path, tmp_path, {"fails": False}).result(SOON_S) == before


@pytest.mark.parametrize("kind", [WorkerDiedError, FnTimeoutError, WorkerStartError], ids=lambda kind: kind.__name__)
def test_our_errors_survive_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("why")))
    assert (type(again), str(again)) == (kind, "why")


def test_running_out_of_memory_under_a_limit_is_an_exception_of_fn(start, tmp_path):
    def fn(_in, _out, row):
        import resource

        if row["hog"]:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
            blocks = []
            while True:
                blocks.append(bytearray(256 << 20))
        return os.getpid()

    workers = start(fn, takes_row=True)
    before = workers.submit(tmp_path, tmp_path, {"hog": False}).result(SOON_S)
    with pytest.raises(MemoryError):
        workers.submit(tmp_path, tmp_path, {"hog": True}).result(SOON_S)
    assert workers.submit(tmp_path, tmp_path, {"hog": False}).result(SOON_S) == before
