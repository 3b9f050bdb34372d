"""The shell's own rules: how far ahead it goes, and what is left when it is interrupted."""

# what is begun ahead shows nowhere else

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from pathlib import Path

import pandas as pd
import pytest
from helpers import options_for

import file_dataset
from file_dataset import Options, RowError, _in_order, _stores, _storing
from file_dataset._errors import Failure
from file_dataset._local_file import LocalFile
from file_dataset._plan import Transfer, Uploads
from file_dataset._s3.store import S3Store
from file_dataset._urls import ObjectUrl


def answered(result):
    future = Future()
    future.set_result(result)
    return future


def failure(file, error):
    return Failure.of(file, "download", error)


def place(file):
    return Path(str(file))


def ahead(count):
    """Stores that begin so many files before the first has ended."""
    stores = _stores.Stores(Options(max_concurrency=1))
    return type("Narrow", (), {"ahead": count, "of": stores.of})()


def test_few_files_are_begun_before_the_first_is_taken():
    """Or Python's garbage collector would look at 200,000 of them again and again."""
    begun = []

    def start(file):
        begun.append(file)
        return answered(-file)

    files = iter(range(100))
    for taken, (file, result) in enumerate(_in_order.each(files, start, place, failure, ahead(8), threading.Event())):
        assert (file, result) == (taken, -taken)
        assert len(begun) - taken <= 8
    assert len(begun) == 100


def test_as_many_files_are_begun_as_keep_every_connection_busy():
    assert _stores.Stores(Options(max_concurrency=10)).ahead == 40
    assert _stores.Stores(None).ahead == 4 * 64


def test_a_caller_that_stops_in_the_middle_cancels_what_it_began():
    cancelled = threading.Event()
    pending = []

    def start(file):
        pending.append(answered(0) if file == 0 else Future())
        return pending[-1]

    files = _in_order.each(range(4), start, place, failure, ahead(2), cancelled)
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
        found.extend(
            result for _, result in _in_order.each(range(5), start, place, failure, ahead(2), threading.Event())
        )
    assert found == [0, 2, 4]
    assert [each.id for each in caught.value.failures] == [1, 3]


def test_a_read_makes_its_files_under_their_names_in_the_threads_that_fill_them(tmp_path, monkeypatch):
    """In the caller's, each call would be a fight for the GIL with the thread that moves the bytes."""
    callers = []

    def watched(name):
        call = getattr(os, name)

        def call_and_tell(path, *args, **kwargs):
            callers.append((name, os.path.relpath(path, tmp_path), threading.get_ident()))
            return call(path, *args, **kwargs)

        monkeypatch.setattr(os, name, call_and_tell)

    source = tmp_path / "source.bin"
    source.write_bytes(b"x")
    frame = pd.DataFrame({"id": ["1", "2"], "a.bin": [str(source)] * 2, "b.bin": [str(source)] * 2})
    for name in ("mkdir", "makedirs", "rename", "replace", "open"):
        watched(name)
    with file_dataset.reader(frame).into_temp_dir(dir=tmp_path) as directory:
        own = directory.relative_to(tmp_path)
        mine = [each for each in callers if each[1].startswith(f"{own}/")]
        assert sorted(path.relative_to(directory).as_posix() for path in directory.glob("*/*")) == [
            "1/a.bin", "1/b.bin", "2/a.bin", "2/b.bin",
        ]  # fmt: skip
    assert threading.get_ident() not in [thread for _, _, thread in mine]
    opened = [path for name, path, _ in mine if name == "open"]
    assert set(opened) == {f"{own}/{row}/{name}" for row in (1, 2) for name in ("a.bin", "b.bin")}
    assert not [path for name, path, _ in mine if name in ("rename", "replace")]
    assert {path for name, path, _ in mine if name == "mkdir"} == {f"{own}/1", f"{own}/2"}


def test_files_are_looked_at_before_the_first_upload_and_after_the_last(tmp_path, monkeypatch, faults):
    """Between two requests each would be a fight for the GIL with the thread that moves the bytes."""
    order = []
    files = {f"{number}.bin": tmp_path / f"{number}.bin" for number in range(20)}
    for path in files.values():
        path.write_bytes(b"x")
    faults.put("s3://bucket/there", b"")
    look, upload = os.lstat, S3Store.upload
    texts = {str(path) for path in files.values()}

    def told(path, **how):
        if str(path) in texts:
            order.append("look")
        return look(path, **how)

    monkeypatch.setattr(os, "lstat", told)
    monkeypatch.setattr(S3Store, "upload", lambda *args, **how: order.append("upload") or upload(*args, **how))
    options = options_for(faults.endpoint_url)
    file_dataset.write_files(files, into_path="s3://bucket/out", id="1", options=options)
    assert order == ["look"] * 20 + ["upload"] * 20 + ["look"] * 20


def test_an_output_that_is_gone_by_then_is_told_beside_those_that_are_stored(tmp_path, faults):
    sources = {}
    for name in ("gone.bin", "a.bin"):
        (tmp_path / name).write_bytes(b"x")
        sources[name] = LocalFile.at(tmp_path / name)
    (tmp_path / "gone.bin").unlink()
    faults.put("s3://bucket/there", b"")
    transfers = [Transfer("1", name, source, ObjectUrl("bucket", name)) for name, source in sources.items()]
    with pytest.raises(RowError, match="it was removed") as caught:
        _storing.copy_out(Uploads(transfers), _stores.Stores(options_for(faults.endpoint_url)), {})
    assert [failure.file for failure in caught.value.failures] == ["gone.bin"]
    assert faults.body("s3://bucket/a.bin") == b"x"


def test_ctrl_c_while_uploads_are_begun_cancels_those_that_are(tmp_path, monkeypatch, faults):
    begun = []

    def upload(self, source, target, **kwargs):
        if begun:
            raise KeyboardInterrupt
        begun.append((Future(), kwargs["cancelled"]))
        return begun[0][0]

    monkeypatch.setattr(S3Store, "upload", upload)
    files = {name: tmp_path / name for name in ("a.txt", "b.txt")}
    for path in files.values():
        path.write_text("x")
    with pytest.raises(KeyboardInterrupt):
        file_dataset.write_files(files, into_path="s3://bucket/out", id=1, options=options_for(faults.endpoint_url))
    ((future, cancelled),) = begun
    assert cancelled.is_set()
    assert future.cancelled()
