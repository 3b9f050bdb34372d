"""What every store must do, once for local disk and once for S3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import options_for

from file_dataset import Options, _store
from file_dataset._pool import Pool
from file_dataset._s3 import S3Store, part_bytes
from file_dataset._store import LocalStore, ObjectInfo, Sink
from file_dataset._urls import ObjectUrl

NEVER = threading.Event()


class StoreContract:
    """Subclasses give `store` and `place(name)`: where an object of that name would lie."""

    def upload(self, store, tmp_path, at, body):
        source = tmp_path / "source.bin"
        source.write_bytes(body)
        return store.upload(source, at, extra_args={}, cancelled=NEVER).result()

    def download(self, store, at, target):
        sink = Sink(target, threading.Event())
        try:
            info = store.download(at, sink).result()
            sink.commit()
        finally:
            sink.discard()
        return info

    @pytest.mark.parametrize("body", [b"", b"a", b"bytes" * 300_000], ids=["empty", "one byte", "more than a chunk"])
    def test_what_is_uploaded_comes_back(self, store, place, tmp_path, body):
        info = self.upload(store, tmp_path, place("a.bin"), body)
        assert info.size_bytes == len(body)
        assert store.size(place("a.bin")).result() == len(body)
        assert self.download(store, place("a.bin"), tmp_path / "back.bin").size_bytes == len(body)
        assert (tmp_path / "back.bin").read_bytes() == body

    tells_checksums = True

    def test_an_upload_tells_the_same_checksum_for_the_same_bytes(self, store, place, tmp_path):
        # the published check value of CRC64NVME, ae8b14860a799888, in base64
        expected = "CRC64NVME:rosUhgp5mIg=" if self.tells_checksums else "None"
        for name in ("a.bin", "b.bin"):
            assert str(self.upload(store, tmp_path, place(name), b"123456789").digest) == expected

    def test_bytes_arrive_in_memory(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"in memory")
        sink = Sink(None, threading.Event())
        store.download(place("a.bin"), sink).result()
        assert sink.data == b"in memory"

    def test_an_upload_replaces_what_was_there(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"old and longer")
        self.upload(store, tmp_path, place("a.bin"), b"new")
        self.download(store, place("a.bin"), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == b"new"

    @pytest.mark.parametrize("verb", ["size", "download"])
    def test_a_missing_object_is_file_not_found(self, store, place, tmp_path, verb):
        with pytest.raises(FileNotFoundError):
            if verb == "size":
                store.size(place("none.bin")).result()
            else:
                self.download(store, place("none.bin"), tmp_path / "back.bin")
        assert not list(tmp_path.glob("*.part"))
        assert not (tmp_path / "back.bin").exists()

    def test_a_failed_download_leaves_the_earlier_file(self, store, place, tmp_path):
        (tmp_path / "back.bin").write_bytes(b"earlier")
        with pytest.raises(FileNotFoundError):
            self.download(store, place("none.bin"), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == b"earlier"

    @pytest.mark.parametrize(
        "name",
        ["a b+c.bin", "100%25.bin", "ünï.bin", "what?.bin", "a#b.bin", "a&b=c.bin", "a:b.bin", "~tilde.bin"],
    )
    def test_odd_names_are_kept(self, store, place, tmp_path, name):
        self.upload(store, tmp_path, place(name), name.encode())
        self.download(store, place(name), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == name.encode()

    def test_a_cancelled_download_stops(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"bytes")
        cancelled = threading.Event()
        cancelled.set()
        sink = Sink(tmp_path / "back.bin", cancelled)
        with pytest.raises(InterruptedError):
            store.download(place("a.bin"), sink).result()
        sink.discard()
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


class TestLocalStore(StoreContract):
    def upload(self, store, tmp_path, at, body):
        """Local disk needs no upload: what is written there is a download into a local target."""
        source = tmp_path / "source.bin"
        source.write_bytes(body)
        at.parent.mkdir(exist_ok=True)
        return self.download(store, source, at)

    @pytest.fixture
    def store(self):
        return LocalStore()

    @pytest.fixture
    def place(self, tmp_path):
        return lambda name: tmp_path / "store" / name

    def test_a_directory_is_refused_by_name(self, store, tmp_path):
        with pytest.raises(IsADirectoryError, match="DICOM"):
            store.size(tmp_path).result()

    def test_a_pipe_is_refused_and_not_waited_for(self, store, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="no regular file"):
            self.download(store, tmp_path / "pipe", tmp_path / "back.bin")

    def test_a_copy_has_the_permissions_of_a_new_file(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"bytes")
        (tmp_path / "new").touch()
        assert place("a.bin").stat().st_mode == (tmp_path / "new").stat().st_mode


class TestS3Store(StoreContract):
    # Ceph 16.2 gives none, say
    tells_checksums = "FILE_DATASET_TEST_ENDPOINT" not in os.environ

    @pytest.fixture
    def store(self, options):
        return S3Store(options)

    @pytest.fixture
    def place(self, bucket):
        return lambda name: ObjectUrl(bucket.name, f"below/{name}")

    @pytest.mark.parametrize("key", ["//double", "a//b", "dots/./x", "+", "a/b ", "%2F"])
    def test_keys_are_opaque(self, store, bucket, tmp_path, key):
        at = ObjectUrl(bucket.name, key)
        self.upload(store, tmp_path, at, b"bytes")
        assert bucket.keys() == [key]
        assert store.size(at).result() == len(b"bytes")

    def test_a_large_file_goes_up_in_parts_and_comes_back(self, store, bucket, tmp_path, monkeypatch):
        # S3 takes parts of 5 MiB and more
        monkeypatch.setattr("file_dataset._s3._PART_BYTES", 5 << 20)
        monkeypatch.setattr("file_dataset._s3._MULTIPART_BYTES", 6 << 20)
        body = bytes(range(256)) * (12 << 12)  # 12 MiB: two whole parts and a rest
        info = self.upload(store, tmp_path, ObjectUrl(bucket.name, "large.bin"), body)
        assert info.etag is not None
        assert info.etag.endswith("-3")
        self.download(store, ObjectUrl(bucket.name, "large.bin"), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == body

    def test_extra_args_reach_the_object(self, store, bucket, tmp_path):
        source = tmp_path / "a.png"
        source.write_bytes(b"png")
        extra = {"ContentType": "image/png", "Metadata": {"made-by": "test"}}
        store.upload(source, ObjectUrl(bucket.name, "a.png"), extra_args=extra, cancelled=NEVER).result()
        head = bucket.client.head_object(Bucket=bucket.name, Key="a.png")
        assert (head["ContentType"], head["Metadata"]) == ("image/png", {"made-by": "test"})


RCLONE_KEYS = {"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": "secrettest", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = tmp_path_factory.mktemp("rclone")
    (root / "bucket").mkdir()
    command = [Path(sys.executable).with_name("rclone"), "serve", "s3", "--auth-key", "AKIDTEST,secrettest"]
    command += ["--addr", address, "--vfs-cache-mode", "off", "--config", "/dev/null", root]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        for line in server.stderr:
            if "Starting s3 server" in line:
                break
        yield f"http://{address}"
        server.terminate()


class TestAStoreThatChecksSignatures(StoreContract):
    """A second server: rclone's, which refuses a request whose signature is wrong, and gives no checksums."""

    tells_checksums = False

    @pytest.fixture
    def store(self, rclone):
        return S3Store(Options(RCLONE_KEYS, options_for(rclone).s3_client_kwargs))

    @pytest.fixture
    def place(self, tmp_path):
        return lambda name: ObjectUrl("bucket", f"{tmp_path.name}/{name}")

    def test_a_wrong_secret_is_refused_and_named(self, rclone, place):
        store = S3Store(
            Options({**RCLONE_KEYS, "aws_secret_access_key": "wrong"}, options_for(rclone).s3_client_kwargs)
        )
        with pytest.raises(PermissionError, match="check the secret key"):
            store.download(place("a.bin"), Sink(None, threading.Event())).result()


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 16 << 20), (160_000 << 20, 16 << 20), ((160_000 << 20) + 1, 17 << 20), (5 << 40, 525 << 20)],
    ids=["small", "10,000 parts of 16 MiB", "one byte more", "5 TiB"],
)
def test_parts_grow_so_that_ten_thousand_hold_the_file(size, expected):
    assert part_bytes(size) == expected
    assert -(-size // expected) <= 10_000
    assert expected % (1 << 20) == 0


def test_attempts_stop_at_the_first_error_that_no_attempt_can_help():
    calls = []

    def refused():
        calls.append(1)
        raise PermissionError(13, "no")

    with pytest.raises(PermissionError):
        _store.attempt(refused, attempts=5, cancelled=NEVER)
    assert len(calls) == 1


def test_the_last_attempt_says_how_many_there_were(monkeypatch):
    monkeypatch.setattr(_store, "BACKOFF_S", 0.001)

    def broken():
        raise ConnectionError(104, "reset")

    with pytest.raises(ConnectionError, match="after 3 attempts"):
        _store.attempt(broken, attempts=3, cancelled=NEVER)


@pytest.mark.parametrize(
    ("promised", "arrived", "error"),
    [(5, b"1234", "IncompleteBodyError"), (3, b"1234", "ChecksumMismatchError"), (4, b"1234", None)],
    ids=["short", "long", "whole"],
)
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_a_sink_compares_the_length_without_any_digest(tmp_path, promised, arrived, error, in_memory):
    sink = Sink(None if in_memory else tmp_path / "a.bin", threading.Event())
    sink.begin(ObjectInfo(promised)).write(arrived)
    if error is None:
        assert sink.finish().size_bytes == promised
    else:
        with pytest.raises(ConnectionError) as caught:
            sink.finish()
        assert type(caught.value).__name__ == error
    sink.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_pool_runs_at_most_its_width_and_ends_with_its_last_reference():
    pool = Pool(2, "test-pool")
    running, most, lock = [], [], threading.Lock()

    def work(number):
        with lock:
            running.append(number)
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.remove(number)
        return number

    futures = [pool.submit(work, number) for number in range(20)]
    assert [future.result() for future in futures] == list(range(20))
    assert max(most) == 2
    names = [thread for thread in threading.enumerate() if thread.name.startswith("test-pool")]
    assert len(names) == 2
    del pool, futures
    for thread in names:
        thread.join(5)
        assert not thread.is_alive()


def test_a_pool_hands_over_what_was_raised():
    with pytest.raises(ZeroDivisionError):
        Pool(1, "test-pool").submit(lambda: 1 / 0).result()
