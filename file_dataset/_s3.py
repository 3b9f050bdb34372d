"""S3 behind the seam. The only module that names botocore's errors.

One GET per object, no HEAD before it: its headers give length, ETag and checksum. botocore makes one attempt per call
(and keeps its adaptive rate); `attempt` retries. A body that breaks off is continued under `If-Match`.
"""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import urllib3
from boto3.s3.transfer import S3Transfer
from botocore import exceptions as boto
from s3transfer.utils import ReadFileChunk

from file_dataset import _digest, _options
from file_dataset._errors import (
    EXPIRED_CODES,
    NO_CREDENTIALS,
    IncompleteBodyError,
    InvalidDatasetError,
    code_of,
    store_error,
)
from file_dataset._pool import Pool
from file_dataset._store import CHUNK_BYTES, ObjectInfo, Part, Sink, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from file_dataset._digest import Digest
    from file_dataset._options import Options
    from file_dataset._urls import ObjectUrl

# what boto3 raises; a body that breaks off can raise urllib3's own
_RAISED = (boto.BotoCoreError, boto.ClientError, urllib3.exceptions.HTTPError)

logger = logging.getLogger(__name__)
T = TypeVar("T")

# S3 parts are 5 MiB to 5 GiB, at most 10,000 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
_MAX_PARTS = 10_000
_PART_BYTES = 16 << 20  # a guess: large enough that a request's own cost does not show
_MULTIPART_BYTES = 4 * _PART_BYTES  # a guess: below it, one request is as fast and three fewer

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and botocore's own list of throttling codes
_TRANSIENT_CODES = frozenset({
    "BadDigest", "BandwidthLimitExceeded", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
    "OperationAborted", "RequestLimitExceeded",
    "RequestThrottled", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException",
    "TooManyRequestsException",
})  # fmt: skip
_REMEDIES = {
    "AccessDenied": "check the bucket policy and the permissions of these credentials",
    "AuthorizationHeaderMalformed": "set the bucket's region: Options(session_kwargs={'region_name': ...})",
    "ExpiredToken": "renew the credentials",
    "InvalidAccessKeyId": "these credentials are not of this store: check the keys and the endpoint_url",
    "InvalidObjectState": "the object is archived: restore it first",
    "NoSuchBucket": "check the bucket's name and the endpoint_url",
    "PermanentRedirect": "set the bucket's region: Options(session_kwargs={'region_name': ...})",
    "RequestTimeTooSkewed": "this machine's clock is off: set it",
    "SignatureDoesNotMatch": "check the secret key, and that no proxy rewrites the request",
    "NotImplemented": (
        "a store that knows no default checksums needs Config(request_checksum_calculation='when_required')"
    ),
}


def part_bytes(size_bytes: int) -> int:
    """Return the size of the parts of an upload: whole MiB, large enough that S3's 10,000 parts hold the file."""
    least = -(-size_bytes // _MAX_PARTS)
    return max(_PART_BYTES, -(-least // (1 << 20)) << 20)


class S3Store:
    """Objects through boto3, `max_concurrency` requests at a time.

    When credentials that came with the options expire, the process's own chain takes over and stays.
    """

    def __init__(self, options: Options) -> None:
        """Make neither client nor thread yet; the first request does."""
        self._options = options
        self._attempts = _options.attempts(options)
        self._width = options.max_concurrency
        self._pool = Pool(options.max_concurrency, "file_dataset-s3")
        self._lock = threading.Lock()
        self._client: Any = None
        self._session: Any = None
        self._has_fallen_back = False

    def size(self, at: ObjectUrl) -> Future[int]:
        """Answer the size in bytes: one HEAD."""
        return self._pool.submit(self._retried, lambda: self._head(at), threading.Event())

    def download(self, source: ObjectUrl, sink: Sink) -> Future[ObjectInfo]:
        """Fill the sink: one GET, and one more per attempt."""
        return self._pool.submit(self._retried, lambda: self._get(source, sink), sink.cancelled)

    def upload(
        self, source: Path, target: ObjectUrl, *, extra_args: Mapping[str, Any], cancelled: threading.Event
    ) -> Future[ObjectInfo]:
        """Store the file: one PUT up to 64 MiB, else a multipart upload that is aborted when it fails."""
        return self._pool.submit(self._put, source, target, dict(extra_args), cancelled)

    def check_extra_args(self, extra_args: Mapping[str, Any]) -> None:
        """Refuse what boto3's `ExtraArgs` would refuse, before the first byte.

        Raises:
            InvalidDatasetError: names that are not among `S3Transfer.ALLOWED_UPLOAD_ARGS`.
        """
        if unknown := sorted(set(extra_args) - set(S3Transfer.ALLOWED_UPLOAD_ARGS)):
            raise InvalidDatasetError(f"extra_args {unknown} are none of boto3's ExtraArgs for uploads")

    def _retried(self, request: Callable[[], T], cancelled: threading.Event) -> T:
        return attempt(request, attempts=self._attempts, cancelled=cancelled)

    def _head(self, at: ObjectUrl) -> int:
        try:
            return int(self._call("head_object", Bucket=at.bucket, Key=at.key)["ContentLength"])
        except OSError as exc:
            if code_of(exc) != "400":
                raise
        # a HEAD's answer has no body to say why it is refused; one byte's GET says it, or tells the size
        answer = self._call("get_object", Bucket=at.bucket, Key=at.key, Range="bytes=0-0")
        answer["Body"].close()
        return int(answer["ContentRange"].rpartition("/")[2])

    def _get(self, source: ObjectUrl, sink: Sink) -> ObjectInfo:
        held = sink.info.etag if sink.info and sink.received else None
        part = sink.parts[0] if held else None
        resume = {"Range": f"bytes={part.received}-", "IfMatch": f'"{held}"'} if part else {}
        try:
            answer = self._call("get_object", Bucket=source.bucket, Key=source.key, **resume)
        except OSError as exc:
            if resume and code_of(exc) in {"PreconditionFailed", "412", "InvalidRange"}:
                sink.restart()
                raise store_error(
                    ConnectionError, "the object was replaced while it was read", code=code_of(exc)
                ) from exc
            raise
        body = answer["Body"]
        try:
            if (span := answer.get("ContentRange")) is None:
                part = sink.begin(ObjectInfo(_length(answer), _etag(answer), self._digest(answer)))
            elif not part or not sink.info or span != _span(part, sink.info.size_bytes):
                asked = sink.restart()
                raise store_error(ConnectionError, f"the store answered {span} to a request from byte {asked} on")
            while chunk := body.read(CHUNK_BYTES):
                part.write(chunk)
        except _RAISED as exc:
            raise self._os_error(exc) from _cause(exc)
        finally:
            body.close()
        return sink.finish()

    def _put(
        self, source: Path, target: ObjectUrl, extra_args: dict[str, Any], cancelled: threading.Event
    ) -> ObjectInfo:
        size = source.stat().st_size
        at = {"Bucket": target.bucket, "Key": target.key}
        extra = extra_args | self._checksum_args(extra_args)
        if size > _MULTIPART_BYTES:
            return self._put_parts(source, size, at, extra, cancelled)
        answer = self._retried(lambda: self._send("put_object", source, 0, size, cancelled, **at, **extra), cancelled)
        return ObjectInfo(size, _etag(answer), _full_object_crc(answer))

    def _put_parts(
        self, source: Path, size: int, at: dict[str, str], extra: dict[str, Any], cancelled: threading.Event
    ) -> ObjectInfo:
        # a part's digest, or the whole file's, is no digest of what these calls send
        extra = {name: value for name, value in extra.items() if not re.match("Checksum(CRC|SHA|MD5|XX)", name)}
        created = self._retried(lambda: self._call("create_multipart_upload", **at, **extra), cancelled)
        upload = at | {"UploadId": created["UploadId"]}
        step = part_bytes(size)

        def send(number: int) -> dict[str, Any]:
            first = (number - 1) * step
            length = min(step, size - first)
            part = upload | {"PartNumber": number} | self._accepted("UploadPart", extra)
            answer = self._retried(
                lambda: self._send("upload_part", source, first, length, cancelled, **part), cancelled
            )
            digests = {name: answer[name] for name in answer if name.startswith("Checksum")}
            return {"PartNumber": number, "ETag": answer["ETag"]} | digests

        try:
            parts = self._side_by_side(send, range(1, -(-size // step) + 1))
            known = self._accepted("CompleteMultipartUpload", extra)
            return self._retried(lambda: self._complete(upload | known, parts, size), cancelled)
        except BaseException:
            self._abort(upload | self._accepted("AbortMultipartUpload", extra))
            raise

    def _complete(self, upload: dict[str, Any], parts: Sequence[dict[str, Any]], size: int) -> ObjectInfo:
        try:
            answer = self._call("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except FileNotFoundError as exc:
            # the reply to an earlier attempt may have been lost: the upload is gone because it was completed
            at = {"Bucket": upload["Bucket"], "Key": upload["Key"]}
            if code_of(exc) != "NoSuchUpload":
                raise
            answer = self._call("head_object", **at)
            if _etag(answer) != _etag_of_parts(parts) or answer["ContentLength"] != size:
                raise
        # some versions of Ceph answer a completion without the ETag
        return ObjectInfo(size, _etag(answer) or _etag_of_parts(parts), _full_object_crc(answer))

    def _abort(self, upload: dict[str, Any]) -> None:
        try:
            self._retried(lambda: self._call("abort_multipart_upload", **upload), threading.Event())
        except OSError as exc:
            url = f"s3://{upload['Bucket']}/{upload['Key']}"
            logger.warning(
                "upload %s of %s was not aborted and keeps its parts: %s", upload["UploadId"], url, exc.strerror
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

    def _send(
        self,
        operation: str,
        source: Path,
        first: int,
        length: int,
        cancelled: threading.Event,
        **kwargs: Any,  # noqa: ANN401  # boto3 has no types
    ) -> Any:  # noqa: ANN401
        def stop_if_cancelled(bytes_transferred: int) -> None:
            del bytes_transferred  # s3transfer passes it by name
            if cancelled.is_set():
                raise InterruptedError("cancelled")

        if source.stat().st_size < first + length:
            # the server would wait for the missing bytes until it gives up, at every attempt
            raise store_error(OSError, f"{source} became shorter while it was uploaded")
        with ReadFileChunk.from_filename(str(source), first, length, callbacks=[stop_if_cancelled]) as body:
            return self._call(operation, Body=body, ContentLength=length, **kwargs)

    def _call(self, operation: str, **kwargs: Any) -> Any:  # noqa: ANN401  # boto3 has no types
        client = self._current()
        try:
            return getattr(client, operation)(**kwargs)
        except _RAISED as exc:
            error = self._os_error(exc)
            if code_of(error) not in EXPIRED_CODES:
                raise error from _cause(exc)
            self._renew(client, error)
        if (body := kwargs.get("Body")) is not None:
            body.seek(0)
        return self._call(operation, **kwargs)

    def _os_error(self, error: Exception) -> OSError:
        """Return the `OSError` that one of `_RAISED` is, without the secrets of these options."""
        found = _os_error(error)
        found.strerror = _options.without_secrets(found.strerror or "", self._options)
        return found

    def _current(self) -> Any:  # noqa: ANN401  # boto3 has no types
        with self._lock:
            if self._client is None:
                self._session, self._client = self._connected(self._options)
            return self._client

    def _connected(self, options: Options) -> tuple[Any, Any]:
        try:
            session = _options.new_session(options)
            client = _options.new_client(options, session, one_attempt=True)
        except _LOST as exc:
            raise self._os_error(exc) from None
        except boto.BotoCoreError as exc:  # no request can ever be made: a region with a space in it, say
            message = _options.without_secrets(str(exc), self._options)
            raise InvalidDatasetError(f"these Options make no S3 client: {message}") from None
        if options.check_digests and _asks_for_digests(options):
            client.meta.events.register("before-call.s3.GetObject", _ask_for_digest)
        return session, client

    def _renew(self, expired: Any, error: OSError) -> None:  # noqa: ANN401  # boto3 has no types
        """Go on with newer credentials: those of this process's own chain, read afresh.

        Raises:
            PermissionError: it has none, or the very ones that expired.
        """
        with self._lock:
            if self._client is not expired:
                return  # another thread was first
            own = _options.without_credentials(self._options)
            session, client = self._connected(own)
            keys = _options.keys_of(session)
            if keys is None or keys == _options.keys_of(self._session):
                reason = "this process has none of its own" if keys is None else "this process's own are the same"
                remedy = "renew them, or give workers a role, a profile or the AWS_* variables"
                message = f"{error.strerror} (the credentials in use expired, and {reason}: {remedy})"
                raise store_error(PermissionError, message, code=code_of(error)) from error
            if not self._has_fallen_back and _options.has_credentials(self._options):
                logger.warning(
                    "the credentials frozen into the Options expired (%s); going on with this process's own (%s)",
                    code_of(error),
                    session.get_credentials().method,
                )
            self._session, self._client, self._has_fallen_back = session, client, True

    def _accepted(self, operation: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that the operation knows; botocore's model of S3 is the list."""
        known = self._current().meta.service_model.operation_model(operation).input_shape.members
        return {name: value for name, value in kwargs.items() if name in known}

    def _checksum_args(self, extra_args: Mapping[str, Any]) -> dict[str, str]:
        """Ask for CRC64NVME: the one checksum that S3 keeps for the whole object in a multipart upload by default."""
        config = self._current().meta.config
        if config.request_checksum_calculation != "when_supported" or any("Checksum" in name for name in extra_args):
            return {}
        return {"ChecksumAlgorithm": "CRC64NVME"}

    def _digest(self, answer: Mapping[str, Any]) -> Digest | None:
        if not self._options.check_digests:
            return None
        etag = _etag(answer) or ""
        # the ETag of an SSE-KMS or SSE-C object looks like an MD5 and is none
        # (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html)
        is_md5 = (
            re.fullmatch("[0-9a-f]{32}", etag)
            and answer.get("ServerSideEncryption", "AES256") == "AES256"
            and "SSECustomerAlgorithm" not in answer
        )
        return _full_object_crc(answer) or (_digest.Digest("MD5", etag) if is_md5 else None)


def _asks_for_digests(options: Options) -> bool:
    config = (options.s3_client_kwargs or {}).get("config")
    return getattr(config, "response_checksum_validation", None) != "when_required"


def _ask_for_digest(params: dict[str, Any], **_: object) -> None:
    # as a header of our own: as boto3's argument it would make botocore compute the same digest a second time
    params["headers"]["x-amz-checksum-mode"] = "ENABLED"


def _length(answer: Mapping[str, Any]) -> int:
    length = answer.get("ContentLength")
    if length is None:
        raise store_error(
            OSError, "the store sent no Content-Length: nothing could tell a whole body from a broken one"
        )
    return int(length)


def _span(part: Part, size_bytes: int) -> str:
    """Return the `Content-Range` of what is missing."""
    return f"bytes {part.start + part.received}-{part.stop - 1}/{size_bytes}"


def _etag(answer: Mapping[str, Any]) -> str | None:
    etag = answer.get("ETag") or ""
    # a weak ETag does not pin bytes, and If-Match refuses it
    return None if not etag or etag.startswith("W/") else etag.strip('"')


def _etag_of_parts(parts: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the ETag that S3 gives an object of these parts: the MD5 of their MD5s."""
    etags = [part["ETag"].strip('"') for part in parts]
    if not all(re.fullmatch("[0-9a-f]{32}", etag) for etag in etags):
        return None
    joined = hashlib.md5(bytes.fromhex("".join(etags)), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(parts)}"


def _full_object_crc(answer: Mapping[str, Any]) -> Digest | None:
    if answer.get("ChecksumType") == "COMPOSITE":
        return None
    for algorithm in _digest.ALGORITHMS:
        value = answer.get(f"Checksum{algorithm}")
        if value and "-" not in value:  # `<checksum>-<parts>` is a composite by another sign
            return _digest.Digest(algorithm, value)
    return None


_LOST = (
    boto.CredentialRetrievalError, boto.MetadataRetrievalError, boto.NoAuthTokenError, boto.NoCredentialsError,
    boto.PartialCredentialsError, boto.ProfileNotFound, boto.SSOError, boto.TokenRetrievalError,
)  # fmt: skip
_LATE = (boto.ConnectTimeoutError, boto.ReadTimeoutError)
_BROKEN = (
    boto.EndpointConnectionError, boto.HTTPClientError, boto.ResponseStreamingError, urllib3.exceptions.HTTPError,
)  # fmt: skip


def _os_error(error: Exception) -> OSError:
    """Return the `OSError` that one of `_RAISED` is."""
    if isinstance(error, boto.ClientError):
        return _answered(error)
    text = _options.without_userinfo(str(error))
    if isinstance(error, _LOST):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role; for a public bucket give"
        unsigned = "Options(s3_client_kwargs={'config': Config(signature_version=botocore.UNSIGNED)})"
        return store_error(PermissionError, f"{text}: {remedy} {unsigned}", code=NO_CREDENTIALS)
    if isinstance(error, boto.IncompleteReadError):
        return IncompleteBodyError(None, text)
    if isinstance(error, boto.SSLError) and _is_certificate(error):
        return store_error(OSError, f"{text}; give the CA as Options(s3_client_kwargs={{'verify': 'ca.pem'}})")
    kind = TimeoutError if isinstance(error, _LATE) else ConnectionError if isinstance(error, _BROKEN) else OSError
    return store_error(kind, text)


def _cause(error: Exception) -> Exception | None:
    # other errors than the store's own answers can hold a header or an endpoint's password, and a traceback shows them
    return error if isinstance(error, boto.ClientError) else None


def _answered(error: Any) -> OSError:  # noqa: ANN401  # botocore has no types
    answer = error.response.get("Error", {})
    code = str(answer.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = _options.without_userinfo(str(answer.get("Message") or code))
    if remedy := _REMEDIES.get("ExpiredToken" if code in EXPIRED_CODES else code):
        text = f"{text}; {remedy}"
    kind: type[OSError] = OSError
    if status >= 500 or status == 429 or code in _TRANSIENT_CODES:  # noqa: PLR2004
        kind = ConnectionError
    elif status == 404:  # noqa: PLR2004
        kind = FileNotFoundError
    elif status in (401, 403) or code in EXPIRED_CODES:
        kind = PermissionError
    return store_error(kind, text, code=code or str(status))


def _is_certificate(error: BaseException | None) -> bool:
    seen: list[BaseException] = []
    while isinstance(error, BaseException) and error not in seen:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        seen.append(error)
        inner = getattr(error, "kwargs", {}).get("error") or getattr(error, "reason", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return False
