"""The S3 store, with the operations of `_store`. boto3 resolves and recovers, our own HTTP moves bytes.

One GET per object, no HEAD before it: its headers give length, ETag and checksum. A body that breaks off is continued
under `If-Match`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from file_dataset._http import descriptors
from file_dataset._http.lane import Lane
from file_dataset._http.loop import loops
from file_dataset._http.window import FIRST, MOST, Window
from file_dataset._pool import Pool
from file_dataset._s3 import etags, pins, responses
from file_dataset._s3.access import CurrentAccess
from file_dataset._s3.by_boto3 import Boto3
from file_dataset._s3.extra_args import has_checksum
from file_dataset._s3.listing import Pages
from file_dataset._s3.multipart import Multipart, needs_parts
from file_dataset._s3.only_new import CONDITION, HEADERS, NewPut, OnlyNew
from file_dataset._s3.operation import Operation, Operations
from file_dataset._s3.requests import Body, Head, Put, Remove, Sender
from file_dataset._s3.route import UnknownError
from file_dataset._silence import Silence
from file_dataset._sink import ObjectInfo
from file_dataset._store import ALL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from file_dataset._defaults import Source
    from file_dataset._local_file import LocalFile
    from file_dataset._options import Options
    from file_dataset._s3.access import Access
    from file_dataset._s3.operation import Rescue
    from file_dataset._s3.route import Route
    from file_dataset._sink import Sink
    from file_dataset._store import Listing, Page, Span
    from file_dataset._urls import ObjectUrl


class S3Store:
    """Objects in S3, at most `max_concurrency` requests at a time; None: as many as bring most."""

    def __init__(self, options: Options, source: Source | None = None) -> None:
        """Make neither client nor thread yet; the first request does.

        Args:
            options: how S3 is reached.
            source: the session of `options=None`; None: that of the options.
        """
        width, is_boto3 = options.max_concurrency or FIRST, options.engine == "boto3"
        self._current = CurrentAccess(options, source)
        pool = Pool(width, "file_dataset-s3")
        loop, *others = loops()
        window = Window(width) if options.max_concurrency else Window(min(width, _most()), _most)
        self._lane = lane = Lane(window, others)
        self.silence = Silence(lambda: lane.moves)
        self._sender = Sender(loop, lane, check_digests=options.check_digests)
        self._boto3 = Boto3(self._sender, self.silence, is_alone=is_boto3)
        self._operations = Operations(self._current, pool, is_boto3=is_boto3)
        self._multipart = Multipart(self._operations, self._boto3, self._sender, pool, width)
        self._pages = Pages(self._operations, self._boto3, self._sender)
        self._pool = pool

    @property
    def width(self) -> int:
        """How many requests may be in flight now."""
        return self._lane.width

    @property
    def answers(self) -> int:
        """How many answers of the store have begun to arrive in this process, errors among them."""
        return self._lane.answers

    @property
    def endpoint(self) -> str | None:
        """Where requests of this process went; None: there was none."""
        held = self._current.held
        return None if held is None else held.endpoint_url

    def info(self, at: ObjectUrl) -> Future[ObjectInfo]:
        """Answer size, ETag and checksum, of the version that `at` pins: one HEAD."""
        cancelled = threading.Event()

        def by_http(access: Access, route: Route, future: Future[ObjectInfo], rescue: Rescue) -> None:
            self._sender.send(Head(route, at, access.router.signer(route), cancelled, future=future, rescue=rescue))

        def by_boto3(access: Access) -> ObjectInfo:
            return self._boto3.head(access, at)

        return self._operations.submit(Operation(at, cancelled, by_http, by_boto3, pins.settle(at)))

    def list(self, prefix: ObjectUrl, *, cancelled: threading.Event | None = None) -> Future[Listing]:
        """Answer all objects whose key begins with the prefix's, in the store's order: a request per 1,000 of them."""
        return self._pool.submit(self._pages.listing, prefix, cancelled or threading.Event())

    def page(
        self,
        prefix: ObjectUrl,
        span: Span = ALL,
        *,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> Future[Page]:
        """Answer up to 1,000 of these keys, in the store's order, and the token of the next page: one request."""
        return self._pool.submit(self._pages.page, prefix, span, token, cancelled or threading.Event())

    def remove(self, at: ObjectUrl, *, cancelled: threading.Event | None = None) -> Future[None]:
        """Remove an object: one DELETE. One that is not there is no error."""
        stop = cancelled or threading.Event()

        def by_http(access: Access, route: Route, future: Future[None], rescue: Rescue) -> None:
            self._sender.send(Remove(route, at, access.router.signer(route), stop, future=future, rescue=rescue))

        def by_boto3(access: Access) -> None:
            if stop.is_set():
                raise InterruptedError("cancelled")
            self._boto3.remove(access, at)

        return self._operations.submit(Operation(at, stop, by_http, by_boto3))

    def download(self, source: ObjectUrl, sink: Sink) -> Future[ObjectInfo]:
        """Fill the sink: one GET, or several side by side for a large object, as places are free.

        What `source` pins is read or nothing: its ETag, its version.
        """

        def by_http(access: Access, route: Route, future: Future[ObjectInfo], rescue: Rescue) -> None:
            self._sender.get(route, source, access.router.signer(route), sink, future=future, rescue=rescue)

        def by_boto3(access: Access) -> ObjectInfo:
            return self._boto3.get(access, source, sink)

        return self._operations.submit(Operation(source, sink.cancelled, by_http, by_boto3, pins.settle(source)))

    def upload(
        self,
        source: LocalFile,
        target: ObjectUrl,
        *,
        extra_args: Mapping[str, Any],
        cancelled: threading.Event,
        only_new: bool = False,
    ) -> Future[ObjectInfo]:
        """Store the file: one PUT up to 32 MiB, else a multipart upload that is aborted when it fails."""
        extra, size = dict(extra_args), source.size_bytes
        if extra:  # which headers they are is botocore's
            self._current.connected(self._current.get())
        if only_new:
            extra |= CONDITION
        if needs_parts(size):
            return self._pool.submit(self._multipart.upload, source, target, extra, cancelled)
        if extra.items() >= CONDITION.items():
            return self._operations.submit(self._put_new(source, target, extra, cancelled))

        def by_http(access: Access, route: Route, future: Future[ObjectInfo], rescue: Rescue) -> None:
            body = _body(access, source, target, extra)
            signer = access.router.signer(route)
            self._sender.put(Put(route, target, signer, cancelled, body, _stored, future=future, rescue=rescue))

        def by_boto3(access: Access) -> ObjectInfo:
            return self._boto3.put(access, source, target, extra, cancelled)

        return self._operations.submit(Operation(target, cancelled, by_http, by_boto3))

    def _put_new(
        self, source: LocalFile, target: ObjectUrl, extra: Mapping[str, Any], cancelled: threading.Event
    ) -> Operation[ObjectInfo]:
        """Return the PUT of a file that replaces nothing."""
        rest = {name: value for name, value in extra.items() if name not in CONDITION}

        def find(access: Access) -> ObjectInfo | None:
            return self._boto3.find(self._current.connected(access), source, target, rest)

        def by_http(access: Access, route: Route, future: Future[ObjectInfo], rescue: Rescue) -> None:
            body = _body(access, source, target, rest)
            body.headers = {**body.headers, **HEADERS}
            signer = access.router.signer(route)
            self._sender.put(
                NewPut(only_new, route, target, signer, cancelled, body, _stored, future=future, rescue=rescue)
            )

        def by_boto3(access: Access) -> ObjectInfo:
            return self._boto3.put(access, source, target, extra, cancelled)

        only_new = OnlyNew(find)
        return Operation(target, cancelled, by_http, by_boto3, only_new.settle)

    def begin_call(self) -> None:
        """Take note that a call of the user's begins: a mock may have come or gone since the last."""
        self._current.look()

    def connect(self) -> None:
        """Make session and client, without a request to the store; credentials may be fetched.

        Raises:
            InvalidDatasetError: no request of these options can work: a CA file is not there, say.
            PermissionError: the credentials cannot be had, or cannot be sent.
        """
        self._current.get()


def _most() -> int:
    """Return how many requests may be in flight: within half of the free descriptors, for files need some too."""
    free = descriptors.free()
    return MOST if free is None else max(1, min(MOST, free // 2))


def _body(access: Access, source: LocalFile, target: ObjectUrl, extra: Mapping[str, Any]) -> Body:
    """Return a whole file as the body of our own PUT.

    Raises:
        UnknownError: boto3 does the upload.
    """
    headers = access.router.upload_headers(target.bucket, extra)
    if headers is None or has_checksum(extra):
        raise UnknownError(f"an upload with {sorted(extra)}")
    return Body(source, 0, source.size_bytes, headers, algorithm=access.algorithm(extra))


def _stored(headers: Mapping[str, str], body: Body) -> ObjectInfo:
    responses.check_put(headers)
    return ObjectInfo(body.length, etags.etag_of(headers), etags.crc_of(headers))
