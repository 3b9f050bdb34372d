"""S3 behind the seam: boto3 resolves and recovers, the wire moves.

One GET per object, no HEAD before it: its headers give length, ETag and checksum. The wire's first attempt runs on its
loop; what fails goes to a pool thread here, which may wait, renew credentials, and try again. `attempt` retries, for
both engines; botocore makes one attempt per call. A body that breaks off is continued under `If-Match`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from boto3.s3.transfer import S3Transfer
from botocore import exceptions as boto
from s3transfer.utils import ReadFileChunk

from file_dataset import _defaults, _options, _secrets
from file_dataset._errors import EXPIRED_CODES, InvalidDatasetError, code_of, store_error
from file_dataset._http.loop import SLOW_BYTES_S, Lane, stall_s, wires
from file_dataset._local_file import CHUNK_BYTES
from file_dataset._pool import Pool
from file_dataset._retry import attempt
from file_dataset._s3 import answers
from file_dataset._s3.answers import RAISED, REPLACED_CODES, WrongSpanError, replaced
from file_dataset._s3.requests import Body, ElsewhereError, Fork, Get, Head, Put
from file_dataset._s3.route import Router, UnknownError
from file_dataset._silence import Silence
from file_dataset._sink import ObjectInfo
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from file_dataset._defaults import Source
    from file_dataset._local_file import LocalFile
    from file_dataset._options import Options
    from file_dataset._s3.route import Route
    from file_dataset._sink import Part, Sink

_Rescue: TypeAlias = "Callable[[Exception], object] | None"

logger = logging.getLogger(__name__)
T = TypeVar("T")

# S3 parts are 5 MiB to 5 GiB, at most 10,000 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
_MAX_PARTS = 10_000
_PART_BYTES = 16 << 20  # a guess: large enough that a request's own cost does not show
_ALGORITHM = "CRC64NVME"
_LATE_S = 5.0  # what a wait for one piece counts at most: longer ones may be a fn's that holds the GIL; a guess
_READS = ("get_object", "head_object")
_MULTIPART_BYTES = 4 * _PART_BYTES  # a guess: below it, one request is as fast and three fewer


# https://datatracker.ietf.org/doc/html/rfc9110#section-5.1 and 5.5; a tab is allowed
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_TEXTS = ("Expires", "Metadata", "MpuObjectSize", "ObjectLockRetainUntilDate", "SSECustomerKey")
_NO_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def part_bytes(size_bytes: int) -> int:
    """Return the size of the parts of an upload: whole MiB, large enough that S3's 10,000 parts hold the file."""
    least = -(-size_bytes // _MAX_PARTS)
    return max(_PART_BYTES, -(-least // (1 << 20)) << 20)


@dataclass(frozen=True, slots=True, eq=False)
class _Access:
    """One set of credentials in use: the session that has them, its client, the routes that it gave, and attempts."""

    session: Any
    client: Any
    router: Router
    attempts: int


@dataclass(slots=True, eq=False)
class _Operation(Generic[T]):
    """What is to be done, in both ways: one attempt each."""

    at: ObjectUrl
    cancelled: threading.Event
    on_wire: Callable[[_Access, Route, Future[T], _Rescue], None]
    by_boto3: Callable[[_Access], T]


class S3Store:
    """Objects in S3, `max_concurrency` requests at a time.

    When credentials that came with the options expire, the process's own chain takes over and stays.
    """

    def __init__(self, options: Options, source: Source | None = None) -> None:
        """Make neither client nor thread yet; the first request does.

        Args:
            options: how S3 is reached.
            source: the session of `options=None`; None: that of the options.
        """
        self._options, self._source = options, source
        self._width = options.max_concurrency
        self._pool = Pool(options.max_concurrency, "file_dataset-s3")
        self._lock = threading.Lock()
        self._held: _Access | None = None
        self._has_fallen_back = False
        self._wire, *others = wires()
        self._lane = lane = Lane(options.max_concurrency, others)
        self.silence = Silence(lambda: lane.moves)
        self._fork = Fork(self._wire, self._lane, check_digests=options.check_digests)

    @property
    def answers(self) -> int:
        """How many answers of the store have begun to arrive in this process, errors among them."""
        return self._lane.answers

    @property
    def endpoint(self) -> str | None:
        """Where requests of this process went; None: there was none."""
        held = self._held
        return None if held is None else str(held.client.meta.endpoint_url)

    def info(self, at: ObjectUrl) -> Future[ObjectInfo]:
        """Answer size, ETag and checksum: one HEAD."""
        cancelled = threading.Event()

        def on_wire(access: _Access, route: Route, future: Future[ObjectInfo], rescue: _Rescue) -> None:
            head = Head(route, at, access.router.signer(route), cancelled, future=future, rescue=rescue)
            self._fork.send(head)

        return self._submit(_Operation(at, cancelled, on_wire, lambda access: self._head(access, at)))

    def download(self, source: ObjectUrl, sink: Sink) -> Future[ObjectInfo]:
        """Fill the sink: one GET, or several side by side for a large object; one more per attempt."""

        def on_wire(access: _Access, route: Route, future: Future[ObjectInfo], rescue: _Rescue) -> None:
            self._fill(access, route, source, sink, future, rescue)

        return self._submit(_Operation(source, sink.cancelled, on_wire, lambda access: self._get(access, source, sink)))

    def upload(
        self,
        source: LocalFile,
        target: ObjectUrl,
        *,
        extra_args: Mapping[str, Any],
        cancelled: threading.Event,
    ) -> Future[ObjectInfo]:
        """Store the file: one PUT up to 64 MiB, else a multipart upload that is aborted when it fails."""
        extra, size = dict(extra_args), source.size_bytes
        if size > _MULTIPART_BYTES:
            return self._pool.submit(self._put_parts, source, target, extra, cancelled)

        def on_wire(access: _Access, route: Route, future: Future[ObjectInfo], rescue: _Rescue) -> None:
            headers = access.router.upload_headers(target.bucket, extra)
            if headers is None or any("Checksum" in name for name in extra):
                raise UnknownError(f"an upload with {sorted(extra)}")
            body = Body(source, 0, size, headers, algorithm=self._algorithm(access, extra))
            self._store(access, route, target, body, cancelled, future, rescue, _stored)

        def by_boto3(access: _Access) -> ObjectInfo:
            at = {"Bucket": target.bucket, "Key": target.key}
            answer = self._send(access, "put_object", source, 0, size, cancelled, **at, **self._checked(access, extra))
            headers = _headers_of(answer)
            answers.check_put(headers)
            return ObjectInfo(size, answers.etag_of(headers), answers.crc_of(headers))

        return self._submit(_Operation(target, cancelled, on_wire, by_boto3))

    def begin_call(self) -> None:
        """Take note that a call of the user's begins: a mock may have come or gone since the last."""
        if self._held is not None:
            self._held.router.look()

    def connect(self) -> None:
        """Make session and client, without a request to the store; credentials may be fetched.

        Raises:
            InvalidDatasetError: no request of these options can work: a CA file is not there, say.
            PermissionError: the credentials cannot be had, or cannot be sent.
        """
        self._access()

    # one operation: on the wire first, by boto3 where the wire does not know how, and again when that may help

    def _submit(self, operation: _Operation[T]) -> Future[T]:
        access = self._access()
        route = self._route(access, operation.at.bucket)
        if route is None:
            return self._pool.submit(self._retried, operation)
        future: Future[T] = Future()

        def rescue(error: Exception) -> None:
            try:
                self._pool.submit(self._rescue, future, operation, (access, error))
            except OSError as exc:  # no thread to try again on
                if isinstance(error, OSError):
                    error.strerror = f"{error.strerror or error} (and not tried again: {exc.strerror})"
                future.set_exception(error if isinstance(error, OSError) else exc)

        try:
            operation.on_wire(access, route, future, rescue)
        except UnknownError as exc:
            rescue(exc)
        return future

    def _rescue(self, future: Future[T], operation: _Operation[T], failed: tuple[_Access, Exception]) -> None:
        try:
            result = self._retried(operation, failed)
        except BaseException as exc:  # noqa: BLE001  # handed over
            future.set_exception(exc)
        else:
            future.set_result(result)

    def _retried(self, operation: _Operation[T], failed: tuple[_Access, Exception] | None = None) -> T:
        """Return what the operation gives, after as many attempts as the options allow.

        Args:
            operation: what to do.
            failed: how the first attempt failed, which the wire has made already.
        """
        first = [failed] if failed else []

        def once() -> T:
            access, error = first.pop() if first else (self._access(), None)
            try:
                return self._once(operation, access, error)
            except OSError as exc:
                if code_of(exc) not in EXPIRED_CODES:
                    raise
                self._renew(access, exc)
            return once()

        return attempt(once, attempts=self._access().attempts, cancelled=operation.cancelled)

    def _once(self, operation: _Operation[T], access: _Access, error: Exception | None) -> T:
        bucket = operation.at.bucket
        try:
            if error is not None:
                raise error
            route = self._route(access, bucket)
            if route is not None:
                future: Future[T] = Future()
                operation.on_wire(access, route, future, None)
                return future.result()
        except UnknownError as exc:
            logger.debug("%s is left to boto3: %s", operation.at, exc)
            result = operation.by_boto3(access)
            if isinstance(exc, ElsewhereError):  # botocore knows by now where
                access.router.find_again(bucket)
            return result
        return operation.by_boto3(access)

    def _route(self, access: _Access, bucket: str) -> Route | None:
        if self._options.engine == "boto3":
            return None
        try:
            return access.router.route(bucket)
        except RAISED as exc:
            raise self._os_error(exc) from answers.cause_of(exc)

    # downloads

    def _fill(  # noqa: PLR0913, PLR0917  # what a GET is made of
        self,
        access: _Access,
        route: Route,
        source: ObjectUrl,
        sink: Sink,
        future: Future[ObjectInfo],
        rescue: _Rescue,
    ) -> None:
        """Ask for what the sink lacks: the whole, or the rest of its parts."""
        missing = sink.missing()
        lead, *others = missing or (None,)
        get = Get(
            route, source, access.router.signer(route), sink, future=future, rescue=rescue, fork=self._fork, part=lead
        )
        for part in others:
            get.also(part)
        self._fork.send(get)

    def _get(self, access: _Access, source: ObjectUrl, sink: Sink) -> ObjectInfo:
        for part in sink.missing() or (None,):
            self._get_part(access, source, sink, part)
        return sink.finish()

    def _get_part(self, access: _Access, source: ObjectUrl, sink: Sink, part: Part | None) -> None:
        resume: dict[str, str] = {}
        if part is not None and sink.info is not None:
            span = f"bytes={part.start + part.received}-{part.stop - 1}"
            resume = {"Range": span, "IfMatch": sink.info.pin or ""}
        try:
            answer = self._call(access, "get_object", Bucket=source.bucket, Key=source.key, **resume)
        except OSError as exc:
            if resume and code_of(exc) in REPLACED_CODES:
                raise replaced(exc, sink) from exc
            raise
        headers = _headers_of(answer)
        body = answer["Body"]
        try:
            if (span_sent := answer.get("ContentRange")) is None:
                info = answers.info_of(headers, check_digests=self._options.check_digests)
                part = sink.begin(info)
            elif part is None or sink.info is None or span_sent != answers.span_of(part, sink.info.size_bytes):
                sink.restart()
                sink.comes_in_parts = False
                raise WrongSpanError(span_sent)
            for chunk in _pieces(body, access.client.meta.config.read_timeout):
                part.write(chunk)
                self.silence.moved()
        except RAISED as exc:
            raise self._os_error(exc) from answers.cause_of(exc)
        finally:
            body.close()

    def _head(self, access: _Access, at: ObjectUrl) -> ObjectInfo:
        try:
            answer = self._call(access, "head_object", Bucket=at.bucket, Key=at.key)
            return answers.head_of(_headers_of(answer))
        except OSError as exc:
            if code_of(exc) != "400":
                raise
        # a HEAD's answer has no body to say why it is refused; one byte's GET says it, or has the size
        answer = self._call(access, "get_object", Bucket=at.bucket, Key=at.key, Range="bytes=0-0")
        answer["Body"].close()
        headers = _headers_of(answer)
        # no checksum: that of a range need not be the whole object's
        return ObjectInfo(answers.total_of(headers), answers.etag_of(headers))

    # uploads

    def _store(  # noqa: PLR0913, PLR0917  # what a PUT is made of
        self,
        access: _Access,
        route: Route,
        target: ObjectUrl,
        body: Body,
        cancelled: threading.Event,
        future: Future[T],
        rescue: _Rescue,
        read: Callable[[Mapping[str, str], Body], T],
    ) -> None:
        """Send a body; a large one is hashed before, off the loop, where something must be said of its bytes."""
        signer = access.router.signer(route)
        put = Put(route, target, signer, cancelled, body, read, future=future, rescue=rescue)
        if body.is_small or not put.must_hash:
            self._fork.send(put)
        else:
            self._wire.pool.submit(self._hash_and_send, put)

    def _hash_and_send(self, put: Put[Any]) -> None:
        put.hash()
        try:
            self._fork.send(put)
        except OSError as exc:
            put.done(None, exc)

    def _put_parts(
        self, source: LocalFile, target: ObjectUrl, extra: dict[str, Any], cancelled: threading.Event
    ) -> ObjectInfo:
        size = source.size_bytes
        # a part's digest, or the whole file's, is no digest of what these calls send
        extra = {name: value for name, value in extra.items() if not re.match("Checksum(CRC|SHA|MD5|XX)", name)}
        at = {"Bucket": target.bucket, "Key": target.key}

        def retried(by_boto3: Callable[[_Access], T], cancelled: threading.Event = cancelled) -> T:
            return self._retried(_Operation(target, cancelled, _never, by_boto3))

        def create(access: _Access) -> str:
            answer = self._call(access, "create_multipart_upload", **at, **self._checked(access, extra))
            if not (upload_id := answer.get("UploadId")):
                raise answers.no_success("CreateMultipartUpload", "UploadId")
            return str(upload_id)

        upload = at | {"UploadId": retried(create)}
        step = part_bytes(size)

        def send(number: int) -> dict[str, Any]:
            first = (number - 1) * step
            return self._put_part(source, first, min(step, size - first), target, upload, number, extra, cancelled)

        try:
            parts = self._side_by_side(send, range(1, -(-size // step) + 1))
            source.check()  # what it replaces is there still
            return retried(lambda access: self._complete(access, upload, extra, parts, size))
        except BaseException:
            self._abort(upload, extra)
            raise

    def _put_part(  # noqa: PLR0913, PLR0917  # what a part is made of
        self,
        source: LocalFile,
        first: int,
        length: int,
        target: ObjectUrl,
        upload: Mapping[str, str],
        number: int,
        extra: Mapping[str, Any],
        cancelled: threading.Event,
    ) -> dict[str, Any]:
        def on_wire(access: _Access, route: Route, future: Future[dict[str, Any]], rescue: _Rescue) -> None:
            known = self._accepted(access, "UploadPart", extra)
            if known or access.router.is_changed:
                raise UnknownError(f"parts with {sorted(known)}, or handlers")
            query = f"partNumber={number}&uploadId={quote(upload['UploadId'], safe='-_.~')}"
            body = Body(source, first, length, {}, query=query, algorithm=self._algorithm(access, extra))
            self._store(access, route, target, body, cancelled, future, rescue, _part_stored)

        def by_boto3(access: _Access) -> dict[str, Any]:
            known = self._accepted(access, "UploadPart", self._checked(access, extra))
            part = dict(upload) | {"PartNumber": number} | known
            answer = self._send(access, "upload_part", source, first, length, cancelled, **part)
            return _part(answer.get("ETag"), {name: answer[name] for name in answer if name.startswith("Checksum")})

        return {"PartNumber": number} | self._retried(_Operation(target, cancelled, on_wire, by_boto3))

    def _complete(
        self,
        access: _Access,
        upload: Mapping[str, str],
        extra: Mapping[str, Any],
        parts: Sequence[dict[str, Any]],
        size: int,
    ) -> ObjectInfo:
        known = self._accepted(access, "CompleteMultipartUpload", extra)
        try:
            answer = self._call(
                access, "complete_multipart_upload", **upload, **known, MultipartUpload={"Parts": parts}
            )
        except FileNotFoundError as exc:
            # the reply to an earlier attempt may have been lost: the upload is gone because it was completed
            if code_of(exc) != "NoSuchUpload" or (answer := self._joined(access, upload, parts, size)) is None:
                raise
        else:
            # some versions of Ceph answer a completion without the ETag; so does what is no S3
            if not answer.get("ETag") and (answer := self._joined(access, upload, parts, size)) is None:
                raise answers.no_success("CompleteMultipartUpload", "ETag")
        return ObjectInfo(size, answers.plain_etag(answer.get("ETag")), answers.crc_of_answer(answer))

    def _joined(
        self, access: _Access, upload: Mapping[str, str], parts: Sequence[dict[str, Any]], size: int
    ) -> Mapping[str, Any] | None:
        """Return what a HEAD says of the object that these parts are; None: another one is there, or none."""
        try:
            answer: Mapping[str, Any] = self._call(access, "head_object", Bucket=upload["Bucket"], Key=upload["Key"])
        except FileNotFoundError:
            return None
        is_same = (answers.plain_etag(answer.get("ETag")) or "").lower() == answers.etag_of_parts(parts)
        return answer if is_same and answer["ContentLength"] == size else None

    def _abort(self, upload: Mapping[str, str], extra: Mapping[str, Any]) -> None:
        def abort(access: _Access) -> object:
            known = self._accepted(access, "AbortMultipartUpload", extra)
            return self._call(access, "abort_multipart_upload", **upload, **known)

        target = ObjectUrl(upload["Bucket"], upload["Key"])
        try:
            self._retried(_Operation(target, threading.Event(), _never, abort))
        except OSError as exc:
            logger.warning(
                "upload %s of %s was not aborted and keeps its parts: %s", upload["UploadId"], target, exc.strerror
            )

    def _side_by_side(self, work: Callable[[int], T], numbers: Sequence[int]) -> list[T]:
        """Return `work` of every number. This pool thread works too, so a full pool is slow and never stuck."""
        results: dict[int, T] = {}
        todo = iter(numbers)
        lock = threading.Lock()
        failed = threading.Event()

        def drain() -> None:
            while not failed.is_set():
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                try:
                    results[number] = work(number)
                except BaseException:
                    failed.set()
                    raise

        helpers = [self._pool.submit(drain) for _ in range(min(self._width, len(numbers)) - 1)]
        try:
            drain()
        finally:
            started = [helper for helper in helpers if not helper.cancel()]
            errors = [helper.exception() for helper in started]
        for error in errors:
            if error is not None:
                raise error
        return [results[number] for number in numbers]

    # boto3

    def _send(  # noqa: PLR0913, PLR0917  # what a body is made of
        self,
        access: _Access,
        operation: str,
        source: LocalFile,
        first: int,
        length: int,
        cancelled: threading.Event,
        **kwargs: Any,  # noqa: ANN401  # boto3 has no types
    ) -> Any:  # noqa: ANN401
        def before_it_is_sent(bytes_transferred: int) -> None:
            del bytes_transferred  # s3transfer passes it by name
            self.silence.moved()
            if cancelled.is_set():
                raise InterruptedError("cancelled")
            source.check(file.fileno())  # a server keeps nothing of a body that breaks off

        with open(source.open(), "rb") as file:  # noqa: PTH123  # a descriptor
            if length and not os.pread(file.fileno(), 1, first + length - 1):
                raise source.is_short()  # the server would wait for what is missing, at every attempt
            file.seek(first)
            with ReadFileChunk(file, length, source.size_bytes, callbacks=[before_it_is_sent]) as body:
                try:
                    return self._call(access, operation, Body=body, ContentLength=length, **kwargs)
                except OSError:
                    source.check(file.fileno())  # then that broke it off, and botocore says it otherwise
                    raise

    def _call(self, access: _Access, operation: str, **kwargs: Any) -> Any:  # noqa: ANN401  # boto3 has no types
        with self._place():
            try:
                answer = getattr(access.client, operation)(**kwargs)
            except RAISED as exc:
                if isinstance(exc, boto.ClientError):
                    self._lane.heard()
                if isinstance(getattr(exc, "kwargs", {}).get("error"), RecursionError):
                    raise _redirected() from None
                found = self._os_error(exc, checksums=self._checksums(access, operation, kwargs))
                raise found from answers.cause_of(exc)
            except RecursionError:
                raise _redirected() from None
            except InvalidDatasetError:  # a ValueError too
                raise
            except (ValueError, OverflowError) as exc:  # botocore's parser, of a header that is no number or no date
                raise store_error(ConnectionError, f"the answer cannot be read: {exc}") from None
            finally:
                self.silence.moved()
            self._lane.heard()
            return answer

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Count boto3's request among those in flight on the wire."""
        if self._options.engine == "boto3":
            yield  # the pool is as wide as they may be many
            return
        place: Future[None] = Future()
        self._wire.submit(self._lane, place)
        place.result()
        try:
            yield
        finally:
            self._wire.release(self._lane)

    def _checksums(self, access: _Access, operation: str, kwargs: Mapping[str, Any]) -> str | None:
        """Return what in a `Config` has a request carry, or ask for, a checksum that the user did not ask for."""
        if operation in _READS:
            asks = self._options.check_digests and _asks_for_digests(self._options, access.session)
            return "response_checksum_validation" if asks else None
        return "request_checksum_calculation" if kwargs.get("ChecksumAlgorithm") == _ALGORITHM else None

    def _os_error(self, error: Exception, *, checksums: str | None = None) -> OSError:
        """Return the `OSError` that one of `RAISED` is; `checksums` as in `answers.error_of`."""
        if isinstance(error, boto.ProfileNotFound):
            return _defaults.lost(error)
        return answers.os_error(error, checksums=checksums)

    # credentials

    def _access(self) -> _Access:
        if (held := self._held) is not None:
            return held
        with self._lock:
            if self._held is None:
                self._held = self._connected(self._options, self._source)
            return self._held

    def _connected(self, options: Options, source: Source | None = None, *, anew: bool = False) -> _Access:
        try:
            if source is not None:
                session = _defaults.again(source.session) if anew else source.session
            else:
                session = _options.new_session(options) if anew else options.session
            client = _options.new_client(options, session, one_attempt=True)
            _options.check_client(options, session, client)
            count = _options.attempts(options, session)
        except answers.LOST as exc:
            raise self._os_error(exc) from None
        except (boto.BotoCoreError, ValueError) as exc:  # no request can ever be made: a region with a space in it, say
            if isinstance(exc, InvalidDatasetError):
                raise
            message = _secrets.without_userinfo(_secrets.masked(str(exc)))
            raise InvalidDatasetError(f"these Options make no S3 client: {message}") from None
        if options.check_digests and _asks_for_digests(options, session):
            for operation in ("GetObject", "HeadObject"):
                client.meta.events.register(f"before-call.s3.{operation}", _ask_for_digest)
        client.meta.events.register("before-sign.s3", _check_credentials)
        # what the user registers on the `s3_client` of the options given here, whatever credentials are in use by now
        own = _options.identity(self._options) if source is None else None
        return _Access(session, client, Router(options, session, client, own), count)

    def _renew(self, expired: _Access, error: OSError) -> None:
        """Go on with newer credentials: those of this process's own chain, read afresh.

        Raises:
            PermissionError: it has none, or the very ones that expired.
        """
        with self._lock:
            if self._held is not expired:
                return  # another thread was first
            if self._source is not None:
                _defaults.forget(self._source)
            access = self._connected(_options.without_credentials(self._options), self._source, anew=True)
            keys = _options.keys_of(access.session)
            if keys is None or keys == _options.keys_of(expired.session):
                reason = "this process has none of its own" if keys is None else "this process's own are the same"
                remedy = "renew them, or give workers a role, a profile or the AWS_* variables"
                message = f"{error.strerror} (the credentials in use expired, and {reason}: {remedy})"
                raise store_error(PermissionError, message, code=code_of(error)) from error
            if not self._has_fallen_back and _options.has_credentials(self._options):
                logger.warning(
                    "the credentials frozen into the Options expired (%s); going on with this process's own (%s)",
                    code_of(error),
                    access.session.get_credentials().method,
                )
            self._held, self._has_fallen_back = access, True

    # digests of uploads

    def _accepted(self, access: _Access, operation: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that the operation knows; botocore's model of S3 is the list."""
        known = access.client.meta.service_model.operation_model(operation).input_shape.members
        return {name: value for name, value in kwargs.items() if name in known}

    def _algorithm(self, access: _Access, extra: Mapping[str, Any]) -> str | None:
        """Return the one checksum that S3 keeps for the whole object in a multipart upload by default."""
        config = access.client.meta.config
        if config.request_checksum_calculation != "when_supported" or any("Checksum" in name for name in extra):
            return None
        return _ALGORITHM

    def _checked(self, access: _Access, extra: Mapping[str, Any]) -> dict[str, Any]:
        algorithm = self._algorithm(access, extra)
        return dict(extra) | ({"ChecksumAlgorithm": algorithm} if algorithm else {})


def _headers_of(answer: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the headers of an answer; a Stubber's has none, but the fields that botocore makes of them."""
    found: Mapping[str, str] | None = answer.get("ResponseMetadata", {}).get("HTTPHeaders")
    if found:
        return found
    length = answer.get("ContentLength", getattr(answer.get("Body"), "_content_length", None))
    fields = {"content-length": length, "etag": answer.get("ETag")}
    return {name: str(value) for name, value in fields.items() if value is not None}


def _pieces(body: Any, read_timeout_s: float | None) -> Iterator[bytes]:  # noqa: ANN401  # boto3 has no types
    """Yield what arrives of a body, as it arrives: read() would wait for a whole chunk, however slowly it comes.

    Raises:
        TimeoutError: it is so slow that it is a stall.
    """
    # urllib3's, which boto3 does not hand on; a Stubber's body can be anything
    read = getattr(getattr(body, "_raw_stream", None), "read1", body.read)
    limit_s = math.inf if read_timeout_s is None else stall_s(read_timeout_s)
    spent_s, moved, last = 0.0, 0, time.monotonic()
    while chunk := read(CHUNK_BYTES):
        now = time.monotonic()
        spent_s += min(now - last, _LATE_S)
        moved += len(chunk)
        last = now
        if spent_s > limit_s:
            if moved < SLOW_BYTES_S * spent_s:
                message = (
                    f"the store sent {moved} bytes in {spent_s:.0f} s: less than {SLOW_BYTES_S} a second is a stall"
                )
                raise store_error(TimeoutError, message)
            spent_s, moved = 0.0, 0
        yield chunk
        last = time.monotonic()


def check_extra_args(extra_args: Mapping[str, Any]) -> None:
    """Refuse what boto3's `ExtraArgs` would refuse, before the first byte.

    Raises:
        InvalidDatasetError: names that are not among `S3Transfer.ALLOWED_UPLOAD_ARGS`; what no header can hold.
    """
    _secrets.remember(value for name, value in extra_args.items() if name.endswith("SSECustomerKey"))
    if unknown := sorted(set(extra_args) - set(S3Transfer.ALLOWED_UPLOAD_ARGS)):
        raise InvalidDatasetError(f"extra_args {unknown} are none of boto3's ExtraArgs for uploads")
    for name, value in extra_args.items():
        if name not in _NO_TEXTS and not isinstance(value, str):
            message = f"extra_args: {name} is a {type(value).__name__}: give text, or leave it out"
            raise InvalidDatasetError(message)
    metadata = extra_args.get("Metadata", {})
    if not isinstance(metadata, Mapping):
        raise InvalidDatasetError(f"extra_args: Metadata is a {type(metadata).__name__}: give a dict of text")
    for name, value in metadata.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            message = f"extra_args: Metadata: {name!r} cannot name a header: give ASCII letters, digits, - or _"
            raise InvalidDatasetError(message)
        if not isinstance(value, str) or not value.isascii():
            message = f"extra_args: Metadata: the value of {name!r} is not ASCII text: use urllib.parse.quote"
            raise InvalidDatasetError(message)
    # but for the key of SSE-C, which goes as base64
    texts = {name: value for name, value in extra_args.items() if name != "SSECustomerKey"}
    texts |= {f"Metadata: {name}": value for name, value in metadata.items()}
    if odd := [name for name, text in texts.items() if isinstance(text, str) and _NO_HEADER.search(text)]:
        raise InvalidDatasetError(f"extra_args {odd}: remove line breaks and control characters: no header has them")


def _redirected() -> OSError:
    # botocore asks where the bucket is, is redirected, and asks again, until the stack ends
    message = "the store redirects and does not say where to: check endpoint_url and the bucket's region"
    return store_error(OSError, message, code="PermanentRedirect")


def _never(*_: object) -> None:
    raise UnknownError("XML is botocore's")


def _stored(headers: Mapping[str, str], body: Body) -> ObjectInfo:
    answers.check_put(headers)
    return ObjectInfo(body.length, answers.etag_of(headers), answers.crc_of(headers))


def _part_stored(headers: Mapping[str, str], body: Body) -> dict[str, Any]:
    del body
    return _part(headers.get("etag"), answers.checksum_fields(headers))


def _part(etag: str | None, checksums: Mapping[str, str]) -> dict[str, Any]:
    if not etag:
        raise answers.no_success("UploadPart", "ETag")
    return {"ETag": etag, **checksums}


def _asks_for_digests(options: Options, session: Any) -> bool:  # noqa: ANN401  # boto3 has no types
    given = _options.config_of(options, session).response_checksum_validation
    if given is None:
        given = session._session.get_config_variable("response_checksum_validation")  # noqa: SLF001
    return bool(given != "when_required")


def _check_credentials(request_signer: Any, **_: object) -> None:  # noqa: ANN401  # boto3 has no types
    # what botocore has just refreshed was seen by nothing of ours yet
    credentials = request_signer._credentials  # noqa: SLF001  # boto3 has no name for it
    if credentials is not None:
        _defaults.checked(credentials)


def _ask_for_digest(params: dict[str, Any], **_: object) -> None:
    # as a header of our own: as boto3's argument it would make botocore compute the same digest a second time
    params["headers"]["x-amz-checksum-mode"] = "ENABLED"
