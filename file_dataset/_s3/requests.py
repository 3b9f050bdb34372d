"""GET, HEAD, PUT and DELETE of S3 objects by our own HTTP: what is sent, where the body goes, and who retries.

A request that fails hands its error to `rescue`, which may block and try again; what succeeds is never off the loop.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from file_dataset import _digest
from file_dataset._errors import code_of
from file_dataset._http.exchange import INLINE_BYTES, Exchange, FileBody
from file_dataset._s3 import errors, pins, responses
from file_dataset._s3.ranges import Ranges
from file_dataset._s3.route import UnknownError
from file_dataset._s3.sigv4 import UNSIGNED_PAYLOAD
from file_dataset._sink import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from file_dataset._http.exchange import Answer
    from file_dataset._http.lane import Lane, Supply
    from file_dataset._http.loop import Loop
    from file_dataset._local_file import LocalFile
    from file_dataset._s3.route import Route
    from file_dataset._s3.sigv4 import Signer
    from file_dataset._sink import Part, Sink
    from file_dataset._urls import ObjectUrl

T = TypeVar("T")

_USUAL_OF = 8  # objects from which the size of the next is estimated; a guess

# S3 answers so when another endpoint or region has the bucket; botocore knows how to find it
_ELSEWHERE_CODES = frozenset({
    "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect",
})  # fmt: skip


class ElsewhereError(UnknownError):
    """Another endpoint or region has the bucket."""


class Request(Exchange, Generic[T]):
    """A request for one object, and the Future of what it gives."""

    __slots__ = ("at", "future", "path", "rescue", "route", "signer")

    successes: tuple[int, ...] = (200, 206)

    def __init__(  # noqa: PLR0913  # what a request is made of
        self,
        route: Route,
        at: ObjectUrl,
        signer: Signer | None,
        cancelled: threading.Event,
        *,
        future: Future[T],
        rescue: Callable[[Exception], object] | None = None,
        is_head: bool = False,
    ) -> None:
        """Take where it goes, who signs it, and who tries again."""
        super().__init__(route.endpoint, cancelled, is_head=is_head)
        self.route, self.at, self.signer, self.future, self.rescue = route, at, signer, future, rescue
        self.path = route.path_of(at.key)

    def begin(self) -> bool:
        """Return whether a caller waits for it still."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if self.cancelled.is_set():
            raise InterruptedError("cancelled")
        return True

    def head(self, method: str, headers: Mapping[str, str], *, query: str = "", payload: str | None = None) -> bytes:
        """Return the head of the request, signed now."""
        if self.signer is not None:
            return self.signer.head(method, self.path, query, headers, payload or self.route.no_payload).encode(
                "latin-1"
            )
        target = f"{self.path}?{query}" if query else self.path
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    @property
    def checksums(self) -> str | None:
        """What in a `Config` has it ask for a checksum; None: it does not."""
        return "response_checksum_validation" if "x-amz-checksum-mode" in self.route.read_headers else None

    def result(self, answer: Answer) -> T:
        """Return what an answer of one of `successes` gives."""
        raise NotImplementedError

    def accept(self, answer: Answer) -> Part | None:
        """Return what takes the body; None: the answer has it."""
        del answer
        return None  # an answer like any other

    def done(self, answer: Answer | None, error: BaseException | None) -> None:
        """Set the Future, or hand the request over for another attempt."""
        self.end(answer, error)

    def end(self, answer: Answer | None, error: BaseException | None) -> None:
        """Answer the Future with the result, or with what is wrong."""
        try:
            if isinstance(error, ssl.SSLError):
                error = errors.tls_error(error)
            if error is not None:
                raise error  # noqa: TRY301  # one place maps every error
            assert answer is not None  # noqa: S101  # one of the two
            if answer.status not in self.successes:
                raise _refused(answer, self.checksums)  # noqa: TRY301
            found = self.result(answer)
        except (OSError, UnknownError) as exc:
            if self.rescue is None or isinstance(exc, InterruptedError):
                self.future.set_exception(exc)
            else:
                self.rescue(exc)
        except BaseException as exc:  # noqa: BLE001  # handed over
            self.future.set_exception(exc)
        else:
            self.future.set_result(found)


def _refused(answer: Answer, checksums: str | None) -> OSError | UnknownError:
    if 300 <= answer.status < 400:  # noqa: PLR2004
        return ElsewhereError(f"status {answer.status}")
    if answer.status < 300:  # noqa: PLR2004
        return UnknownError(f"status {answer.status}")
    error = errors.error_of(answer.status, answer.headers, answer.body, checksums=checksums)
    if code_of(error) == "400":  # a HEAD's response has no body with the reason; boto3's way is to ask by a GET
        return UnknownError("status 400 without a reason")
    if code_of(error) in _ELSEWHERE_CODES:
        return ElsewhereError(str(error.strerror))
    return error


class Head(Request[ObjectInfo]):
    """Size, ETag and checksum of an object."""

    __slots__ = ()

    def __init__(  # noqa: PLR0913  # what a request is made of
        self,
        route: Route,
        at: ObjectUrl,
        signer: Signer | None,
        cancelled: threading.Event,
        *,
        future: Future[ObjectInfo],
        rescue: Callable[[Exception], object] | None = None,
    ) -> None:
        """Expect no body."""
        super().__init__(route, at, signer, cancelled, future=future, rescue=rescue, is_head=True)

    def request(self) -> bytes:
        """Return the head of a HEAD."""
        return self.head("HEAD", self.route.read_headers, query=pins.query_of(self.at))

    def result(self, answer: Answer) -> ObjectInfo:
        """Return what the headers hold."""
        pins.check(self.at, answer.headers, is_whole=False)
        return responses.head_of(answer.headers)


class Remove(Request[None]):
    """An object that is to be there no more."""

    __slots__ = ()

    successes = (200, 204, 404)

    @property
    def checksums(self) -> str | None:
        """None: it asks for no checksum."""
        return None

    def request(self) -> bytes:
        """Return the head of a DELETE."""
        return self.head("DELETE", self.route.headers)

    def result(self, answer: Answer) -> None:
        """See that it is not there: S3 answers 204 also where it was not, other stores 404."""
        if answer.status == 404:  # noqa: PLR2004
            error = _refused(answer, None)
            if not isinstance(error, OSError) or code_of(error) != "NoSuchKey":
                raise error
        else:
            responses.check_stored(answer.headers, answer.body)
            responses.check_removed(answer.headers)


class Get(Request[ObjectInfo]):
    """An object, or a part of one, into a sink. The first of a sink's requests leads: it ends when all have ended.

    A lead of a large object supplies the lane with ranges: a place that is free takes the end of the part that has most
    left, also of one that is arriving.
    """

    __slots__ = (
        "_began_s", "_error", "_lead", "_lock", "_part", "_parts", "_sender", "_sent_s", "_sink", "_skipped", "_stop",
        "in_flight",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913  # what a request is made of
        self,
        route: Route,
        at: ObjectUrl,
        signer: Signer | None,
        sink: Sink,
        *,
        future: Future[ObjectInfo],
        rescue: Callable[[Exception], object] | None = None,
        sender: Sender,
        part: Part | None = None,
        lead: Get | None = None,
    ) -> None:
        """Take the part that is wanted, None for the whole object; `sender` sends more requests."""
        super().__init__(route, at, signer, sink.cancelled, future=future, rescue=rescue)
        self._sink, self._part, self._sender = sink, part, sender
        self._lead = lead  # None, not itself, for a lead: what refers to itself waits for the garbage collector
        self._sent_s = self._began_s = 0.0
        self._stop = self._skipped = 0  # where the part ended when it was requested, and what was there of it before
        # of a lead
        self._lock = threading.Lock()  # its parts may be on other loops
        self._parts: list[Part] = [] if part is None else [part]  # on their way
        self.in_flight = 1
        self._error: BaseException | None = None

    @property
    def is_large(self) -> bool:
        """Whether much is missing of its part, or, where nothing is known yet, objects were large lately."""
        expected = self._sender.usual_bytes if self._part is None else self._part.wants()
        return expected > INLINE_BYTES

    def begin(self) -> bool:
        """Return whether a caller waits for it still."""
        if self._lead is None:
            if not (is_wanted := super().begin()):
                self._sender.lane.shut(self)
            return is_wanted
        if self.cancelled.is_set():
            raise InterruptedError("cancelled")
        return True

    def request(self) -> bytes:
        """Return the head of a GET."""
        headers = self.route.read_headers
        if self._part is not None and self._sink.info is not None:
            part = self._part
            self._stop, self._skipped = part.stop, part.received
            span = f"bytes={part.start + part.received}-{self._stop - 1}"
            headers = {**headers, "if-match": self._sink.info.pin or "", "range": span}
        elif pinned := pins.headers_of(self.at):
            headers = {**headers, **pinned}
        self._sent_s = time.monotonic()
        return self.head("GET", headers, query=pins.query_of(self.at))

    def accept(self, answer: Answer) -> Part | None:
        """Return the part that the body fills."""
        sink, part, sender = self._sink, self._part, self._sender
        self._began_s = time.monotonic()
        sender.ranges.began(self._began_s - self._sent_s)
        if answer.status == 200 and part is None:  # noqa: PLR2004
            pins.check(self.at, answer.headers)
            info = responses.info_of(answer.headers, check_digests=sender.check_digests)
            self._part = part = sink.begin(info)
            self._parts.append(part)
            sender.saw(info.size_bytes)
            if info.size_bytes > INLINE_BYTES:
                self.supply()
            return part
        if answer.status not in (200, 206):
            return None
        span = answer.headers.get("content-range")
        if part is None or sink.info is None or span != responses.span_of(part, self._stop, sink.info.size_bytes):
            raise errors.WrongSpanError(span)
        return part

    def supply(self) -> None:
        """Have free places take ranges of the object, if it is large and its parts can be proven."""
        sink, ranges = self._sink, self._sender.ranges
        info = sink.info
        if info is None or not info.etag or not sink.comes_in_parts:
            return
        is_provable = info.digest is None or _digest.can_join(info.digest.algorithm)
        if is_provable and any(ranges.of(part.left(), 1) for part in self._parts):
            self._sender.open(self)

    def more(self, places: int) -> Get | None:
        """Return a request for a range that another connection has, or was to have."""
        sink, ranges = self._sink, self._sender.ranges
        with self._lock:
            if self._error is not None or not self._parts or self.cancelled.is_set():
                return None
            longest = max(self._parts, key=_left)
            with sink.lock:
                if not (count := ranges.of(longest.left(), places)):
                    return None
                part = sink.cut(longest, count)
            return self._also(part)

    def also(self, part: Part) -> Get:
        """Return a request for another part of the object."""
        with self._lock:
            return self._also(part)

    def _also(self, part: Part) -> Get:
        self.in_flight += 1
        self._parts.append(part)
        sender, sink = self._sender, self._sink
        return Get(self.route, self.at, self.signer, sink, future=self.future, sender=sender, part=part, lead=self)

    def result(self, answer: Answer) -> ObjectInfo:
        """Prove the whole."""
        del answer
        return self._sink.finish()

    def done(self, answer: Answer | None, error: BaseException | None) -> None:
        """Note how it went; the last of them ends all."""
        lead = self._lead or self
        if error is None and answer is not None and answer.status not in (200, 206):
            try:
                error = _refused(answer, self.checksums)
            except Exception as exc:  # noqa: BLE001  # handed over
                error = exc
        part = self._part
        if part is not None and (count := part.received - self._skipped) > INLINE_BYTES:
            self._sender.ranges.ended(count, time.monotonic() - self._began_s)
        if lead._is_last(part, error):  # noqa: SLF001
            self._sender.lane.shut(lead)
            lead.end(answer, lead._whole_error())  # noqa: SLF001

    def _is_last(self, part: Part | None, error: BaseException | None) -> bool:
        with self._lock:
            if self._error is None:
                self._error = error
            if part in self._parts:
                self._parts.remove(part)
            self.in_flight -= 1
            return not self.in_flight

    def _whole_error(self) -> BaseException | None:
        error = self._error
        if isinstance(error, OSError) and self._sink.parts and code_of(error) in errors.REPLACED_CODES:
            return errors.replaced(error, self._sink)
        if isinstance(error, errors.WrongSpanError):
            self._sink.restart()
            self._sink.comes_in_parts = False  # this store knows no ranges
        return error


def _left(part: Part) -> int:
    return part.left()


class Sender:
    """Sends the requests of one store, and knows what they have in common."""

    __slots__ = ("_loop", "check_digests", "lane", "ranges", "usual_bytes")

    def __init__(self, loop: Loop, lane: Lane, *, check_digests: bool) -> None:
        """Take the lane: the places in flight of this store."""
        self._loop, self.lane, self.check_digests = loop, lane, check_digests
        self.usual_bytes = 0.0  # of the last objects that were read
        self.ranges = Ranges()

    def send(self, request: Exchange) -> None:
        """Queue a request."""
        self._loop.submit(self.lane, request)

    def open(self, supply: Supply) -> None:
        """Have free places taken by ranges of an object."""
        self._loop.open(self.lane, supply)

    def get(  # noqa: PLR0913  # what a GET is made of
        self,
        route: Route,
        source: ObjectUrl,
        signer: Signer | None,
        sink: Sink,
        *,
        future: Future[ObjectInfo],
        rescue: Callable[[Exception], object] | None,
    ) -> None:
        """Ask for what a sink lacks: the whole object, or the rest of its parts side by side."""
        lead, *others = sink.missing() or (None,)
        get = Get(route, source, signer, sink, future=future, rescue=rescue, sender=self, part=lead)
        gets = [get, *(get.also(part) for part in others if part is not None)]
        get.supply()
        for each in gets:
            self.send(each)

    def put(self, put: Put[Any]) -> None:
        """Send a PUT. A large one is hashed first, off the loop, where its head depends on the bytes."""
        if put.is_large and put.must_hash:
            self._loop.pool.submit(self._hash_and_send, put)
        else:
            self.send(put)

    def _hash_and_send(self, put: Put[Any]) -> None:
        put.hash()
        try:
            self.send(put)
        except OSError as exc:
            put.done(None, exc)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Count a request of boto3's among those in flight."""
        place: Future[None] = Future()
        self._loop.submit(self.lane, place)
        place.result()
        try:
            yield
        finally:
            self._loop.release(self.lane)

    def saw(self, size_bytes: int) -> None:
        """Take note of the size of an object that is read: the next may be alike. A loop's may be lost to another's."""
        self.usual_bytes += (size_bytes - self.usual_bytes) / _USUAL_OF


class Body:
    """A piece of a local file to be stored: a whole object, or a part of one."""

    __slots__ = ("algorithm", "first", "headers", "length", "query", "source")

    def __init__(  # noqa: PLR0913  # what a PUT declares of it
        self,
        source: LocalFile,
        first: int,
        length: int,
        headers: Mapping[str, str],
        *,
        query: str = "",
        algorithm: str | None = None,
    ) -> None:
        """Take the bytes and what to declare of them; `algorithm`: the digest that goes along."""
        self.source, self.first, self.length, self.headers = source, first, length, headers
        self.query, self.algorithm = query, algorithm

    @property
    def is_small(self) -> bool:
        """Whether it is read, hashed and sent at once."""
        return self.length <= INLINE_BYTES


class Put(Request[T]):
    """Bytes of a local file, stored as an object or as a part of one."""

    __slots__ = ("_body", "_checksum", "_error", "_payload", "_read")

    def __init__(  # noqa: PLR0913, PLR0917  # what a request is made of
        self,
        route: Route,
        at: ObjectUrl,
        signer: Signer | None,
        cancelled: threading.Event,
        body: Body,
        read: Callable[[Mapping[str, str], Body], T],
        *,
        future: Future[T],
        rescue: Callable[[Exception], object] | None = None,
    ) -> None:
        """Take the bytes, and what reads the answer's headers."""
        super().__init__(route, at, signer, cancelled, future=future, rescue=rescue)
        self._body, self._read = body, read
        self._checksum: dict[str, str] = {}
        self._payload = UNSIGNED_PAYLOAD
        self._error: Exception | None = None

    @property
    def is_large(self) -> bool:
        """Whether the body is sent piece by piece."""
        return not self._body.is_small

    @property
    def checksums(self) -> str | None:
        """What in a `Config` has it carry a checksum."""
        return "request_checksum_calculation" if self._body.algorithm else None

    @property
    def _signs(self) -> bool:
        return self.route.signs_payload and self.signer is not None

    @property
    def must_hash(self) -> bool:
        """Whether the head of the request depends on the bytes."""
        return self._signs or self._body.algorithm is not None

    def hash(self) -> None:
        """Read the bytes and compute what the head declares of them. An error is raised when its turn comes."""
        try:
            self._hash(self._body.source.chunks(self._body.first, self._body.length))
        except Exception as exc:  # noqa: BLE001  # handed over
            self._error = exc

    def _hash(self, chunks: Iterable[bytes | memoryview]) -> None:
        hasher = _digest.hasher(self._body.algorithm) if self._body.algorithm else None
        sha = hashlib.sha256() if self._signs else None
        for chunk in chunks:
            if hasher is not None:
                hasher.update(memoryview(chunk))
            if sha is not None:
                sha.update(chunk)
        if hasher is not None:
            name = f"x-amz-checksum-{hasher.algorithm.lower()}"
            self._checksum = {name: hasher.digest().value, "x-amz-sdk-checksum-algorithm": hasher.algorithm}
        if sha is not None:
            self._payload = sha.hexdigest()

    def request(self) -> bytes:
        """Return the head of a PUT, and a small body with it."""
        if self._error is not None:
            raise self._error
        body = self._body
        small = b""
        if body.is_small:
            small = body.source.read(body.first, body.length)
            if self.must_hash:
                self._hash([small])
        headers = self.route.headers  # the same mapping each time: the signer keeps its part of the signature
        if body.headers or self._checksum:
            headers = {**headers, **body.headers, **self._checksum}
        head = self.head("PUT", headers, query=body.query, payload=self._payload)
        # the length is not signed, as botocore does not sign it
        return b"%scontent-length: %d\r\n\r\n%s" % (head[:-2], body.length, small)

    def upload(self) -> FileBody | None:
        """Return what comes from the file."""
        body = self._body
        if body.is_small:
            return None
        return FileBody(body.source.open(), body.first, body.length, body.source.check)

    def result(self, answer: Answer) -> T:
        """Return what the headers of the response hold."""
        responses.check_stored(answer.headers, answer.body)
        return self._read(answer.headers, self._body)
