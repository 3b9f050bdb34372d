"""One object that goes to and from one store: what it holds, the stores that move it, and a plain GET of no store."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future

import pytest
from botocore.config import Config
from helpers import impatient_options, options_for

import file_dataset
from file_dataset import _digest
from file_dataset._http.exchange import INLINE_BYTES, Exchange
from file_dataset._local_file import LocalFile
from file_dataset._s3.store import S3Store
from file_dataset._sink import Sink
from file_dataset._urls import ObjectUrl

BODY = bytes(range(256)) * (3 << 12)  # 3 MiB
URL, AT = "s3://bucket/a.bin", ObjectUrl("bucket", "a.bin")
SMALL, LARGE = b"small", os.urandom(2 * INLINE_BYTES + 1)  # read, hashed and sent at once; or by the pool and sendfile
IMPATIENT = Config(read_timeout=1, connect_timeout=1)
# one connection carries a large object where this awscrt cannot join the digests of its parts
in_parts = pytest.mark.skipif(not _digest.can_join("CRC64NVME"), reason="this awscrt joins no digests")


def store_at(url, **kwargs):
    return S3Store(impatient_options(url, **kwargs))


def one_attempt(url, config=None, **kwargs):
    """Return a store that tries nothing again."""
    once = Config(read_timeout=20, connect_timeout=20, retries={"total_max_attempts": 1, "mode": "standard"})
    return S3Store(options_for(url, config=once.merge(config) if config else once, **kwargs))


def trusting(url, verify, **kwargs):
    """Options whose client verifies certificates so; None is its own default."""
    options = impatient_options(url, **kwargs)
    client = {**options.s3_client_kwargs} | ({} if verify is None else {"verify": verify})
    return file_dataset.Options(options.session_kwargs, client, max_concurrency=8, engine=options.engine)


def get(store, at=AT):
    sink = Sink(None, threading.Event())
    store.download(at, sink).result(60)
    return bytes(sink.data)


def into_file(store, path, at=AT):
    sink = Sink(path / "a.bin", threading.Event())
    try:
        store.download(at, sink).result(60)
        sink.commit()
    finally:
        sink.discard()
    return (path / "a.bin").read_bytes()


def put(store, path, body=SMALL, at=AT, **extra_args):
    path.write_bytes(body)
    return store.upload(LocalFile.at(path), at, extra_args=extra_args, cancelled=threading.Event()).result(60)


class Asked(Exchange):
    """A plain GET of one host, and the Future of its answer."""

    def __init__(self, endpoint, cancelled=None):
        super().__init__(endpoint, cancelled or threading.Event())
        self.future = Future()

    def request(self):
        return f"GET / HTTP/1.1\r\nhost: {self.endpoint.host}\r\n\r\n".encode()

    def accept(self, answer):
        return None

    def done(self, answer, error):
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(answer)
