"""What fn prints, logs and warns of, as it arrives here.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows
# ruff: noqa: S607, T201

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import time
import warnings

import pytest
from helpers import until
from one_worker import SOON_S, run, script

from file_dataset._workers import messages


def test_what_fn_prints_is_printed_here_before_its_result_is(start, tmp_path, capsys):
    def fn(_in, _out):
        print("from", "fn")
        print("no end of line", end="", file=sys.stderr)
        sys.stderr.write(" \N{MICRO SIGN}\udc80")

    workers = start(fn)
    for _ in range(3):
        workers.submit(tmp_path, tmp_path, None).result(SOON_S)
        shown = capsys.readouterr()
        assert (shown.out, shown.err) == ("from fn\n", "no end of line \N{MICRO SIGN}\\udc80")


def test_what_native_code_and_children_write_is_printed_here_too(call, capsys):
    def fn(_in, _out):
        import ctypes

        os.write(1, b"raw\n")
        libc = ctypes.CDLL(None)
        libc.printf(b"by C, ")  # which keeps it until a line, or the program, ends
        subprocess.run(["sh", "-c", "echo by a child >&2"], check=True)

    call(fn)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("raw\nby C, ", "by a child\n")


def test_what_fn_prints_is_seen_while_it_runs(start, tmp_path, capsys):
    def fn(_in, out):
        print("begun")
        while not (out / "go").exists():
            time.sleep(0.001)

    future = start(fn).submit(tmp_path, tmp_path, None)
    shown = []
    assert until(lambda: shown.append(capsys.readouterr().out) or "".join(shown) == "begun\n")
    assert not future.done()
    (tmp_path / "go").touch()
    future.result(SOON_S)


def test_more_than_a_pipe_holds_is_printed_whole(call, capsys):
    call(lambda _in, _out: print("x" * 300_000))
    assert len(capsys.readouterr().out) == 300_001


def test_closed_streams_cost_nothing(start, tmp_path, monkeypatch):
    def fn(_in, _out):
        print("hidden")
        sys.stdout.close()
        return "ran"

    monkeypatch.setattr(sys, "stdout", None)
    assert start(fn).submit(tmp_path, tmp_path, None).result(SOON_S) == "ran"


def test_what_a_stream_here_cannot_show_is_escaped_and_what_it_raises_costs_nothing(start, tmp_path, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise RuntimeError("the user's own")

    workers = start(lambda _in, _out: print("\N{MICRO SIGN}m"))
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    monkeypatch.setattr(sys, "stdout", Broken())
    workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    assert shown.buffer.getvalue() == b"\\xb5m\n"


def test_log_records_are_handled_here_at_the_levels_set_here(start, tmp_path, caplog):
    def fn(_in, _out):
        log = logging.getLogger("of.fn")
        log.debug("too low")
        log.info("volume %d", 7, extra={"lock": threading.Lock(), "patient": "p1"})
        logging.getLogger("of.other").info("other")
        try:
            raise ValueError("inner")  # noqa: TRY301  # logged here
        except ValueError:
            log.exception("failed")

    workers = start(fn)
    with caplog.at_level(logging.INFO, "of.fn"):
        workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    first, second = caplog.records
    assert (first.name, first.levelname, first.getMessage(), first.patient) == ("of.fn", "INFO", "volume 7", "p1")
    assert first.process != os.getpid()
    assert "lock" in first.lock
    assert "ValueError: inner" in caplog.text
    assert second.funcName == "fn"
    caplog.clear()
    # levels that change later count too, both ways
    with caplog.at_level(logging.INFO):
        workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    assert [record.getMessage() for record in caplog.records] == ["volume 7", "other", "failed"]


def test_warnings_are_issued_here_under_the_filters_set_here(start, tmp_path):
    class OurWarning(UserWarning):
        pass

    def fn(_in, _out, row):
        class OurWarning(UserWarning):  # stands for one of a module that only the worker has loaded
            pass

        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("odd", OurWarning, stacklevel=1)
        return "ran"

    workers = start(fn, takes_row=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        workers.submit(tmp_path, tmp_path, {}).result(SOON_S)
    line = fn.__code__.co_firstlineno + 4
    assert [(at.category, str(at.message), at.filename, at.lineno) for at in caught] == [
        (DeprecationWarning, "old", __file__, line),
        (UserWarning, "odd", __file__, line + 1),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        workers.submit(tmp_path, tmp_path, {}).result(SOON_S)
    assert [str(at.message) for at in caught] == ["odd"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning, match="old"):
            workers.submit(tmp_path, tmp_path, {}).result(SOON_S)


def test_a_filter_of_a_category_that_a_worker_has_not_loaded_holds_and_loads_nothing(start, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "odd_library.py").write_text(
        "import warnings\n"
        "class OddWarning(Warning): pass\n"
        "class OdderWarning(OddWarning): pass\n"
        "def work(): warnings.warn('odd', OdderWarning)\n"
    )
    import odd_library

    def fn(_in, _out, row):
        if not row["works"]:
            return "odd_library" in sys.modules
        import odd_library

        odd_library.work()
        return "ran"

    workers = start(fn, takes_row=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", odd_library.OddWarning)
        assert workers.submit(tmp_path, tmp_path, {"works": False}).result(SOON_S) is False
        with pytest.raises(odd_library.OdderWarning):
            workers.submit(tmp_path, tmp_path, {"works": True}).result(SOON_S)
    monkeypatch.delitem(sys.modules, "odd_library")


def test_a_filter_by_module_sees_the_module_that_warned(tmp_path):
    text = """
        import warnings
        from pathlib import Path
        from file_dataset._workers.pool import Workers

        def fn(input_dir, output_dir):
            warnings.warn("old", DeprecationWarning)

        with Workers(fn, count=1, by_keyword=True, takes_row=False) as workers:
            workers.submit(Path(), Path(), None).result()
        """
    # Python shows this category for code of `__main__` alone
    assert "script.py:7: DeprecationWarning: old" in run(script(tmp_path, text)).stderr


def test_whole_messages_are_taken_and_parts_left():
    data = messages.packed("a", 1) + messages.packed("b")
    arrived = bytearray()
    seen = []
    for byte in data:
        arrived.append(byte)
        seen += messages.unpacked(arrived)
    assert seen == [("a", 1), ("b",)]
    assert not arrived
