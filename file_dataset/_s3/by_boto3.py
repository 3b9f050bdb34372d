"""Requests made by boto3's client, one attempt each, of any kind. `route` sets what is left to it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import TYPE_CHECKING, Any

from file_dataset import _digest
from file_dataset._errors import InvalidDatasetError, code_of, store_error
from file_dataset._http.deadline import SLOW_BYTES_S, stall_s
from file_dataset._local_file import CHUNK_BYTES
from file_dataset._s3 import etags, extra_args, pins, responses
from file_dataset._s3.errors import REPLACED_CODES, WrongSpanError, replaced
from file_dataset._sink import ObjectInfo

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping

    from file_dataset._local_file import LocalFile
    from file_dataset._s3.access import Access
    from file_dataset._s3.requests import Sender
    from file_dataset._silence import Silence
    from file_dataset._sink import Part, Sink
    from file_dataset._urls import ObjectUrl

_READS = ("get_object", "head_object")
_LATE_S = 5.0  # what a wait for one piece counts at most: longer ones may be a fn's that holds the GIL; a guess


class Boto3:
    """The engine boto3 of one store. Its requests count among those in flight."""

    def __init__(self, sender: Sender, silence: Silence, *, is_alone: bool) -> None:
        """Take what it shares with our own requests; `is_alone`: there are none of them."""
        self._sender, self._silence, self._is_alone = sender, silence, is_alone

    def get(self, access: Access, source: ObjectUrl, sink: Sink) -> ObjectInfo:
        """Fill the sink: what it lacks, one request after the other."""
        for part in sink.missing() or (None,):
            self._get_part(access, source, sink, part)
        return sink.finish()

    def _get_part(self, access: Access, source: ObjectUrl, sink: Sink, part: Part | None) -> None:
        from file_dataset._s3 import boto_errors as errors

        kwargs, is_rest = pins.get_kwargs(source), False
        if part is not None and sink.info is not None:
            span = f"bytes={part.start + part.received}-{part.stop - 1}"
            kwargs, is_rest = {"Range": span, "IfMatch": sink.info.pin or ""}, True
        kwargs |= pins.version_kwargs(source)
        try:
            answer = self.call(access, "get_object", Bucket=source.bucket, Key=source.key, **kwargs)
        except OSError as exc:
            if is_rest and code_of(exc) in REPLACED_CODES:
                raise replaced(exc, sink) from exc
            raise
        headers = _headers_of(answer)
        body = answer["Body"]
        try:
            if (span_sent := answer.get("ContentRange")) is None:
                pins.check(source, headers)
                info = responses.info_of(headers, check_digests=self._sender.check_digests)
                part = sink.begin(info)
            elif (
                part is None
                or sink.info is None
                or span_sent != responses.span_of(part, part.stop, sink.info.size_bytes)
            ):
                sink.restart()
                sink.comes_in_parts = False
                raise WrongSpanError(span_sent)
            for chunk in _pieces(body, access.client.meta.config.read_timeout):
                part.write(chunk)
                self._silence.moved()
        except errors.RAISED as exc:
            raise errors.os_error(exc) from errors.cause_of(exc)
        finally:
            body.close()

    def head(self, access: Access, at: ObjectUrl) -> ObjectInfo:
        """Return size, ETag and checksum of an object."""
        kwargs = {"Bucket": at.bucket, "Key": at.key, **pins.version_kwargs(at)}
        try:
            headers = _headers_of(self.call(access, "head_object", **kwargs))
            pins.check(at, headers, is_whole=False)
            return responses.head_of(headers)
        except OSError as exc:
            if code_of(exc) != "400":
                raise
        # a HEAD's response has no body with the reason; that of a GET of one byte has it, or the size
        answer = self.call(access, "get_object", **kwargs, Range="bytes=0-0")
        answer["Body"].close()
        headers = _headers_of(answer)
        pins.check(at, headers, is_whole=False)
        # no checksum: that of a range need not be the whole object's
        version_id = responses.version_of(headers)
        return ObjectInfo(responses.total_of(headers), etags.etag_of(headers), version_id=version_id)

    def remove(self, access: Access, at: ObjectUrl) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            answer = self.call(access, "delete_object", Bucket=at.bucket, Key=at.key)
        except FileNotFoundError as exc:
            if code_of(exc) != "NoSuchKey":
                raise
        else:
            responses.check_removed(_headers_of(answer))

    def put(
        self,
        access: Access,
        source: LocalFile,
        target: ObjectUrl,
        extra: Mapping[str, Any],
        cancelled: threading.Event,
    ) -> ObjectInfo:
        """Store a file as one object."""
        size = source.size_bytes
        kwargs = {"Bucket": target.bucket, "Key": target.key, **extra_args.with_checksum(access.client, extra)}
        headers = _headers_of(self.send(access, "put_object", source, 0, size, cancelled, **kwargs))
        responses.check_put(headers)
        return ObjectInfo(size, etags.etag_of(headers), etags.crc_of(headers))

    def find(self, access: Access, source: LocalFile, target: ObjectUrl, extra: Mapping[str, Any]) -> ObjectInfo | None:
        """Return what a HEAD has of an object that is this very file; None: it is another, or nothing proves it."""
        known = extra_args.known_to(access.client, "HeadObject", extra)  # keys of SSE-C
        try:
            answer = self.call(access, "head_object", Bucket=target.bucket, Key=target.key, **known)
        except (FileNotFoundError, PermissionError):
            return None
        headers = _headers_of(answer)
        found, digest = responses.head_of(headers), etags.digest_of(headers)
        if digest is None or found.size_bytes != source.size_bytes:
            return None
        hasher = _digest.hasher(digest.algorithm)
        for chunk in source.chunks(0, source.size_bytes):
            hasher.update(memoryview(chunk))
        return found if hasher.digest() == digest else None

    def send(  # noqa: PLR0913, PLR0917  # what a body is made of
        self,
        access: Access,
        operation: str,
        source: LocalFile,
        first: int,
        length: int,
        cancelled: threading.Event,
        **kwargs: Any,  # noqa: ANN401  # boto3 has no types
    ) -> Any:  # noqa: ANN401
        """Return the answer to a request whose body is a piece of a local file, `length` bytes from `first` on."""
        from s3transfer.utils import ReadFileChunk

        ended: list[OSError] = []  # by us, while botocore reads, signs or sends the body

        def before_it_is_sent(bytes_transferred: int) -> None:
            del bytes_transferred  # s3transfer passes it by name
            self._silence.moved()
            try:
                if cancelled.is_set():
                    raise InterruptedError("cancelled")
                source.check(file.fileno())  # a server keeps nothing of a body that breaks off
            except OSError as exc:
                ended.append(exc)
                raise

        with open(source.open(), "rb") as file:  # noqa: PTH123  # a descriptor
            if length and not os.pread(file.fileno(), 1, first + length - 1):
                raise source.is_short()  # the server would wait for what is missing, at every attempt
            file.seek(first)
            with ReadFileChunk(file, length, source.size_bytes, callbacks=[before_it_is_sent]) as body:
                try:
                    return self.call(access, operation, Body=body, ContentLength=length, **kwargs)
                except Exception as exc:
                    # awscrt, where it signs, raises an AwsCrtError instead, and botocore an HTTPClientError
                    if ended:
                        raise ended[0] from None
                    if isinstance(exc, OSError):
                        source.check(file.fileno())  # then that broke it off
                    raise

    def call(self, access: Access, operation: str, **kwargs: Any) -> Any:  # noqa: ANN401  # boto3 has no types
        """Return the answer to any request.

        Raises:
            OSError: what botocore's error is.
        """
        from botocore.exceptions import ClientError

        from file_dataset._s3 import boto_errors as errors

        # alone, there are never more requests than threads in the pool
        with contextlib.nullcontext() if self._is_alone else self._sender.place():
            try:
                answer = getattr(access.client, operation)(**kwargs)
            except errors.RAISED as exc:
                if isinstance(exc, ClientError):
                    self._sender.lane.response_began()
                if isinstance(getattr(exc, "kwargs", {}).get("error"), RecursionError):
                    raise _redirected() from None
                found = errors.os_error(exc, checksums=self._checksums(access, operation, kwargs))
                raise found from errors.cause_of(exc)
            except RecursionError:
                raise _redirected() from None
            except InvalidDatasetError:  # a ValueError too
                raise
            except Exception as exc:
                # of a header that is no number or no date, of XML that is not S3's
                if not (isinstance(exc, ValueError | OverflowError) or errors.is_of_answer(exc)):
                    raise
                raise store_error(ConnectionError, f"the answer cannot be read: {exc}") from None
            finally:
                self._silence.moved()
            self._sender.lane.response_began()
            return answer

    def _checksums(self, access: Access, operation: str, kwargs: Mapping[str, Any]) -> str | None:
        """Return what in a `Config` has a request carry, or ask for, a checksum that the user did not ask for."""
        if operation in _READS:
            return "response_checksum_validation" if access.asks_for_digests else None
        return "request_checksum_calculation" if kwargs.get("ChecksumAlgorithm") == extra_args.ALGORITHM else None


def _headers_of(answer: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the headers of an answer; a Stubber's has none, but the fields that botocore makes of them."""
    found: Mapping[str, str] | None = answer.get("ResponseMetadata", {}).get("HTTPHeaders")
    if found:
        return found
    length = answer.get("ContentLength", getattr(answer.get("Body"), "_content_length", None))
    fields = {"content-length": length, "etag": answer.get("ETag"), "x-amz-version-id": answer.get("VersionId")}
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


def _redirected() -> OSError:
    # botocore asks where the bucket is, is redirected, and asks again, until the stack ends
    message = "the store redirects and does not say where to: check endpoint_url and the bucket's region"
    return store_error(OSError, message, code="PermanentRedirect")
