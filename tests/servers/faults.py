"""A real HTTP S3 server on loopback, in memory, that breaks on request. It knows nothing of the code under test.

    with FaultServer() as server:
        server.put("s3://bucket/a.bin", b"bytes", checksum="CRC64NVME")
        server.fail("GetObject", SLOW_DOWN, key="a.bin", times=2)
        ...  # a client at server.endpoint_url
        assert server.count("GetObject", "a.bin") == 3

What it answers when nothing is to break is that of the small S3 beside this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import socket
import socketserver
import struct
import sys
import threading
import time
import uuid
import weakref
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from servers.s3 import OPERATIONS, Reply, Request, S3Error, Store, StoredObject, read_chunks

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Status:
    """An error answer with S3's XML (a HEAD has no body), `after_s` seconds later; the request takes no effect."""

    status: int
    code: str
    message: str = "asked for by the test"
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The request is read and never answered; the connection stays open until the client leaves."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP reset before any answer, or once `after_bytes` of the body are sent: the client sees at most these."""

    after_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """The headers promise the whole body, which ends after `after_bytes`; the connection is closed cleanly."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """The body stops after `after_bytes`; the connection stays open until the client leaves."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Slow:
    """The whole body, at `bytes_per_second`."""

    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class FlipBit:
    """The lowest bit of the body's byte at `position` is flipped on the wire; the headers are the good object's."""

    position: int = 0


@dataclass(frozen=True, slots=True)
class Short:
    """The body lacks its last `by` bytes and Content-Length agrees (HEAD's too); nothing else in the headers does."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class Replace:
    """The object becomes `body` (None: it is deleted) before the request is answered."""

    body: bytes | None


@dataclass(frozen=True, slots=True)
class ReplaceAfter:
    """The object becomes `body` (None: it is deleted) after the request; its answer is still about the old object."""

    body: bytes | None


@dataclass(frozen=True, slots=True)
class Redirect:
    """301 PermanentRedirect to `region`; a request signed for that region is served."""

    region: str


@dataclass(frozen=True, slots=True)
class ErrorIn200:
    """Status 200 with an `<Error>` body, as CompleteMultipartUpload may answer; the request takes no effect."""

    code: str = "InternalError"


@dataclass(frozen=True, slots=True)
class Bare200:
    """Status 200 with neither ETag nor body; the request takes no effect."""


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """`work` is called while the request is under way: before its body is read, or once all of it is stored."""

    work: Callable[[], object]
    is_early: bool = False


@dataclass(frozen=True, slots=True)
class LostReply:
    """The request takes effect, then the connection is reset before any answer."""


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """A `Range` is overlooked: 200 with the whole body, as a server that knows no ranges answers."""


@dataclass(frozen=True, slots=True)
class Busy:
    """503 SlowDown while more than `at_most` requests are in flight; the others are served after `seconds`."""

    at_most: int
    seconds: float = 0.0


BodyFault: TypeAlias = Truncate | Stall | Slow | FlipBit | Short
Fault: TypeAlias = (
    Status
    | NoAnswer
    | Reset
    | BodyFault
    | Replace
    | ReplaceAfter
    | Redirect
    | ErrorIn200
    | Bare200
    | Meanwhile
    | LostReply
    | IgnoreRange
    | Busy
)

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
INTERNAL_ERROR = Status(500, "InternalError")
SERVICE_UNAVAILABLE = Status(503, "ServiceUnavailable")
SLOW_DOWN = Status(503, "SlowDown")
# what any request survives, by name
SURVIVED = {
    "500": INTERNAL_ERROR,
    "503": SERVICE_UNAVAILABLE,
    "SlowDown": SLOW_DOWN,
    "no answer": NoAnswer(),
    "reset": Reset(),
    "lost reply": LostReply(),
}
TOO_MANY_REQUESTS = Status(429, "TooManyRequests")
ACCESS_DENIED = Status(403, "AccessDenied")
INVALID_ACCESS_KEY_ID = Status(403, "InvalidAccessKeyId")
SIGNATURE_DOES_NOT_MATCH = Status(403, "SignatureDoesNotMatch")
EXPIRED_TOKEN = Status(400, "ExpiredToken")
REQUEST_TIME_TOO_SKEWED = Status(403, "RequestTimeTooSkewed")
INVALID_OBJECT_STATE = Status(403, "InvalidObjectState")
NO_SUCH_KEY = Status(404, "NoSuchKey")

Checksum: TypeAlias = Literal["CRC64NVME", "CRC32C", "CRC32"]

_PIECE_BYTES = 256 << 10  # one write to the socket; a guess


def _up_to(body: memoryview, count: int) -> memoryview:
    """Cut to the first `count` bytes, fewer than all: a fault that changes nothing is a mistake of the test."""
    if not 0 <= count < len(body):
        raise IndexError(f"a fault at byte {count} of a body of {len(body)} bytes")
    return body[:count]


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, asks the store, and does to the answer what the fault says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request.parse(self.command, self.path, headers)
        fault = self.server.owner.arrived(request)
        self.is_in_flight = True
        try:
            self.answer(request, fault)
        except EOFError:  # the client left in the middle of its body: nothing takes effect
            self.close_connection = True
        finally:
            self.leave()

    def leave(self) -> None:
        """Count the request as answered: before its last byte is sent, for the client may ask again at once."""
        if self.is_in_flight:
            self.is_in_flight = False
            self.server.owner.left()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815  (the names that http.server looks for)

    def answer(self, request: Request, fault: Fault | None) -> None:  # noqa: C901, PLR0912  # one case a fault
        if isinstance(fault, Meanwhile) and fault.is_early:
            fault.work()
        request, misread = self.read_body(request)
        store = self.server.owner.store
        match fault:
            case NoAnswer():
                return self.wait_until_the_client_leaves()
            case Reset(after_bytes=None):
                return self.reset()
            case Status(status, code, message, after_s):
                self.server.closing.wait(after_s)
                reply = S3Error(status, code, message).reply(request)
            case ErrorIn200(code):
                reply = S3Error(200, code).reply(request)
            case Bare200():
                reply = Reply(200)
            case Redirect(region):
                headers = {"x-amz-bucket-region": region}
                endpoint = self.headers.get("host", "")
                error = S3Error(301, "PermanentRedirect", "it is elsewhere", headers, Endpoint=endpoint)
                reply = error.reply(request)
            case IgnoreRange():
                headers = {name: value for name, value in request.headers.items() if name != "range"}
                reply = store.answer(dataclasses.replace(request, headers=headers))
            case Busy(at_most, seconds):
                is_busy = self.server.owner.in_flight > at_most
                self.server.closing.wait(seconds)
                slow_down = S3Error(SLOW_DOWN.status, SLOW_DOWN.code)
                reply = slow_down.reply(request) if is_busy else store.answer(request)
            case _:
                if isinstance(fault, Replace):
                    store.replace(request.bucket, request.key, fault.body)
                reply = misread.reply(request) if misread else store.answer(request)
                if isinstance(fault, ReplaceAfter):
                    store.replace(request.bucket, request.key, fault.body)
                if isinstance(fault, Meanwhile) and not fault.is_early:
                    fault.work()
        return self.reset() if isinstance(fault, LostReply) else self.send(reply, fault)

    def read_body(self, request: Request) -> tuple[Request, S3Error | None]:
        """Read the body; the error is what S3 answers to a body that is framed otherwise than it wants.

        Raises:
            EOFError: the client left before the end of the body.
        """
        trailers: dict[str, str] = {}
        misread = None
        is_streaming = request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
        if "chunked" in request.headers.get("transfer-encoding", ""):
            body, _ = read_chunks(self.rfile)
            if not is_streaming:
                misread = S3Error(501, "NotImplemented", "S3 does not implement Transfer-Encoding")
        else:
            length = int(request.headers.get("content-length", "0"))
            body = self.rfile.read(length)
            if len(body) < length:
                raise EOFError
            if self.command == "PUT" and "content-length" not in request.headers:
                misread = S3Error(411, "MissingContentLength")
        if is_streaming:
            try:
                body, trailers = read_chunks(io.BytesIO(body))
            except (EOFError, ValueError):
                misread = S3Error(400, "IncompleteBody", "not framed as aws-chunked")
            if request.headers.get("x-amz-decoded-content-length") != str(len(body)):
                misread = S3Error(400, "IncompleteBody", "x-amz-decoded-content-length differs")
        return dataclasses.replace(request, body=body, headers={**request.headers, **trailers}), misread

    def send(self, reply: Reply, fault: Fault | None) -> None:  # noqa: C901  # one case a fault
        body = memoryview(reply.body)
        if isinstance(fault, Short):
            body = _up_to(body, len(body) - fault.by)
        self.send_response_only(reply.status)
        request_id = uuid.uuid4().hex[:16].upper()
        headers = {"date": formatdate(usegmt=True), "x-amz-request-id": request_id, **reply.headers}
        if reply.status not in {204, 304}:
            headers["content-length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command == "HEAD":
            body = body[:0]
        if not body:
            self.leave()
        self.end_headers()
        match fault:
            case FlipBit(position):
                flipped = bytearray(body)
                flipped[position] ^= 1
                self.write(memoryview(flipped))
            case Slow(bytes_per_second):
                self.write(body, bytes_per_second)
            case Reset(after_bytes=int(count)):
                self.write(_up_to(body, count), is_all=False)
                self.reset()
            case Truncate(count):
                self.write(_up_to(body, count), is_all=False)
                self.close_connection = True
            case Stall(count):
                self.write(_up_to(body, count), is_all=False)
                self.wait_until_the_client_leaves()
            case _:
                self.write(body)

    def write(self, body: memoryview, bytes_per_second: int | None = None, *, is_all: bool = True) -> None:
        piece_bytes = max(bytes_per_second // 20, 1) if bytes_per_second else _PIECE_BYTES
        for start in range(0, len(body), piece_bytes):
            piece = body[start : start + piece_bytes]
            if bytes_per_second:
                self.server.closing.wait(len(piece) / bytes_per_second)
            self.server.owner.sending(len(piece))
            if is_all and start + len(piece) == len(body):
                self.leave()
            self.wfile.write(piece)

    def wait_until_the_client_leaves(self) -> None:
        self.connection.recv(1)  # _Listener.stop() shuts the connection down, which ends this too
        self.close_connection = True

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # the socket closes with its last file
        self.connection.close()
        self.close_connection = True


class _Listener(ThreadingHTTPServer):
    """The listening socket, its connections and a thread for each."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, owner: FaultServer) -> None:
        self.owner = owner
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self.errors: list[Exception] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        # stop() waits for this thread as long as its poll interval
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="fault-server", daemon=True)
        self.thread.start()

    def server_bind(self) -> None:
        # HTTPServer's own also asks the resolver for a name, which may take seconds
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self.owner.accepted += 1
        if self.owner.tls is not None:
            # shakes hands when its own thread first reads
            connection = self.owner.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):  # an OSError: the client left
            self.errors.append(error)

    def stop(self) -> None:
        """Stop listening and end every connection, also those that wait for ever."""
        self.closing.set()
        self.shutdown()
        self.thread.join()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline_s = time.monotonic() + 1
        while self.connections and time.monotonic() < deadline_s:
            time.sleep(0.002)


@dataclass(slots=True)
class _Rule:
    """A fault for requests of one operation ("*": any) and key (None: any), from `first` to `last` (None: no end)."""

    operation: str
    key: str | None
    fault: Fault
    first: int
    last: int | None
    seen: int = 0

    def applies_to(self, request: Request) -> bool:
        """Count the request if it is one of the rule's; whether the fault is its answer."""
        if self.operation not in {request.operation, "*"} or self.key not in {request.key, None}:
            return False
        self.seen += 1
        if isinstance(self.fault, Redirect) and request.region == self.fault.region:
            return False
        return self.first <= self.seen and (self.last is None or self.seen <= self.last)


class FaultServer:
    """The server, listening from its making until `close()`, and what a test says to it.

    Clients may live in any process; a process forked from the server's own can be a client, but not use this object.

    Attributes:
        endpoint_url: where a client finds it.
        requests: how many requests of each (operation, key), broken ones too; the key is "" for operations on a bucket.
        access_keys: how many requests each access key id signed; "" for none.
        fired: the faults that were an answer, in order.
        bytes_sent: bytes of bodies sent.
        in_flight: the number of requests at this time, each from its headers to the last byte of its answer.
        max_in_flight: the highest number of these at one time.
        accepted: how many connections were made.
        headers: the headers of each request, in order, names in lower case; each with its operation as `""`.
    """

    def __init__(self, region: str = "us-east-1", *, tls: ssl.SSLContext | None = None) -> None:
        self.store = Store(region)
        self.tls = tls
        self._lock = threading.Lock()
        self.in_flight = 0
        self._is_closed = False
        self.reset()
        self._listener = _Listener(self)
        self.endpoint_url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.server_address[1]}"
        _running.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, within about a second whatever the connections wait for.

        Raises:
            ExceptionGroup: a handler crashed: a bug here, or a fault beyond the end of the body that it was to break.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._listener.stop()
        if self._listener.errors:
            message = "handlers of the fault server crashed"
            raise ExceptionGroup(message, self._listener.errors)

    def reset(self) -> None:
        """Forget the faults and start every counter again; objects and open uploads stay."""
        with self._lock:
            self._rules: list[_Rule] = []
            self._requests_until_expiry: dict[str, int] = {}
            self._expired = EXPIRED_TOKEN
            self.requests: Counter[tuple[str, str]] = Counter()
            self.access_keys: Counter[str] = Counter()
            self.fired: list[Fault] = []
            self.bytes_sent = 0
            self.max_in_flight = self.in_flight
            self.accepted = 0
            self.headers: list[Mapping[str, str]] = []

    def clear(self) -> None:
        """Forget everything: objects, buckets and open uploads too."""
        with self.store.lock:
            self.store.buckets.clear()
            self.store.uploads.clear()
        self.reset()

    def fail(
        self, operation: str, fault: Fault, *, key: str | None = None, nth: int = 1, times: int | None = 1
    ) -> None:
        """Break the n-th to (n + times - 1)-th matching request from now on; `times=None` breaks all from the n-th.

        `operation` is S3's name, such as "GetObject", or "*" for any; `key=None` is any key. Of several faults for one
        request the first declared is its answer, and each has counted it.
        """
        if operation not in {*OPERATIONS.values(), "*"}:
            raise ValueError(f"no operation {operation!r}; there are {sorted(OPERATIONS.values())} and '*'")
        with self._lock:
            self._rules.append(_Rule(operation, key, fault, nth, None if times is None else nth + times - 1))

    def expire(self, access_key_id: str, *, nth: int = 1, after_s: float = 0.0) -> None:
        """Answer ExpiredToken to the n-th request signed with this id from now on, and to all after it.

        Each such answer takes `after_s` seconds, so that a client can have many requests in flight that meet it.
        """
        with self._lock:
            self._expired = dataclasses.replace(EXPIRED_TOKEN, after_s=after_s)
            self._requests_until_expiry[access_key_id] = nth

    def count(self, operation: str, key: str | None = None) -> int:
        """How many requests there were of this operation, for one key or for all."""
        with self._lock:
            return sum(n for (name, of), n in self.requests.items() if name == operation and key in {of, None})

    def put(
        self,
        url: str,
        body: bytes,
        *,
        etag: Literal["md5", "multipart", "kms"] = "md5",
        checksum: Checksum | None = None,
        storage_class: str = "STANDARD",
    ) -> None:
        """Store an object without a request, and its bucket if there is none; nothing in `s3://bucket/key` is decoded.

        The ETag is that of a PUT, of an upload of two parts, or of a PUT encrypted by KMS (32 hex digits, not the MD5).
        For an upload of parts CRC64NVME is that of the whole body, the others are composite, as in S3. GetObject of the
        classes GLACIER and DEEP_ARCHIVE is answered InvalidObjectState.
        """
        bucket, key = _bucket_and_key(url)
        headers = {"x-amz-server-side-encryption": "aws:kms"} if etag == "kms" else {}
        if storage_class != "STANDARD":
            headers["x-amz-storage-class"] = storage_class
        half = (len(body) + 1) // 2
        if etag == "multipart":
            made = StoredObject.multipart([body[:half], body[half:]], headers, checksum)
        else:
            made = StoredObject.single(bytes(body), headers, [checksum] if checksum else [])
        with self.store.lock:
            self.store.buckets.setdefault(bucket, {})[key] = made

    def body(self, url: str) -> bytes:
        """Get what is stored; KeyError when nothing is."""
        bucket, key = _bucket_and_key(url)
        with self.store.lock:
            return self.store.buckets[bucket][key].body

    def keys(self, bucket: str) -> list[str]:
        """Keys in the bucket, sorted; none when there is no such bucket."""
        with self.store.lock:
            return sorted(self.store.buckets.get(bucket, {}))

    @property
    def open_uploads(self) -> set[str]:
        """Ids of the multipart uploads neither completed nor aborted."""
        with self.store.lock:
            return set(self.store.uploads)

    def arrived(self, request: Request) -> Fault | None:
        """For the handler: count a request, and get the fault that is its answer."""
        with self._lock:
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            self.requests[request.operation, request.key] += 1
            self.access_keys[request.access_key] += 1
            self.headers.append({**request.headers, "": request.operation})
            faults = [rule.fault for rule in self._rules if rule.applies_to(request)]
            if request.access_key in self._requests_until_expiry:
                self._requests_until_expiry[request.access_key] -= 1
                if self._requests_until_expiry[request.access_key] <= 0:
                    faults = [self._expired]
            self.fired += faults[:1]
            return faults[0] if faults else None

    def left(self) -> None:
        """For the handler: the request is answered, or given up."""
        with self._lock:
            self.in_flight -= 1

    def sending(self, size_bytes: int) -> None:
        """For the handler: count bytes of a body."""
        with self._lock:
            self.bytes_sent += size_bytes

    def let_go(self) -> None:
        """For a forked child: close what it inherited; while it holds a connection, the parent's reset is not sent."""
        self._is_closed = True
        for inherited in [self._listener.socket, *self._listener.connections]:
            with contextlib.suppress(OSError):
                os.close(inherited.detach())


def _bucket_and_key(url: str) -> tuple[str, str]:
    match = re.fullmatch(r"s3://([^/]+)/(.+)", url, re.DOTALL)
    if match is None:
        raise ValueError(f"not s3://bucket/key: {url!r}")
    return match[1], match[2]


_running: weakref.WeakSet[FaultServer] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for server in list(_running):
        server.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)
