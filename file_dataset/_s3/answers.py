"""How S3's answers are read: how an ETag is compared, lengths, checksums, and which `OSError` an error is.

Both engines, our own HTTP and boto3, read their answers by these functions.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import re
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import urllib3
from botocore import exceptions as boto
from botocore import parsers
from urllib3.connection import CertificateError  # type: ignore[attr-defined]  # where each version has it

from file_dataset import _defaults, _digest, _secrets
from file_dataset._errors import (
    CREDENTIAL_CODES,
    EXPIRED_CODES,
    NO_CREDENTIALS,
    IncompleteBodyError,
    code_of,
    is_unanswered,
    mark_unanswered,
    store_error,
)
from file_dataset._http.dial import NO_TLS_REMEDY, NOT_TLS
from file_dataset._secrets import without_userinfo
from file_dataset._sink import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from file_dataset._digest import Digest
    from file_dataset._sink import Part, Sink

# what boto3 raises; a body that breaks off can raise urllib3's own
RAISED = (boto.BotoCoreError, boto.ClientError, urllib3.exceptions.HTTPError)

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
}
# A store that does not know S3's checksum headers refuses them in its own way: NotImplemented, InvalidArgument,
# InvalidRequest, XAmzContentSHA256Mismatch, MissingContentLength, others. These say something else.
_REFUSING = (400, 411, 501)
_OTHER_REASONS = CREDENTIAL_CODES | _TRANSIENT_CODES | {
    "EntityTooLarge", "EntityTooSmall", "InvalidBucketName", "InvalidPart", "InvalidPartOrder", "InvalidStorageClass",
    "InvalidTag", "KeyTooLongError", "MetadataTooLarge",
}  # fmt: skip
# of verify_code (https://docs.openssl.org/master/man1/openssl-verification-options/)
_CERTIFICATE_REMEDIES = {
    9: "the certificate is not valid yet: check this machine's clock",
    10: "the certificate has expired: renew it on the server, or check this machine's clock",
    62: "the certificate is another host's: check endpoint_url",
    64: "the certificate is another host's: check endpoint_url",
}
_UNKNOWN_CA = (2, 18, 19, 20, 21)


def info_of(headers: Mapping[str, str], *, check_digests: bool) -> ObjectInfo:
    """Return what the headers of a whole object say of it.

    Raises:
        OSError: they have no length.
    """
    digest = digest_of(headers) if check_digests else None
    return ObjectInfo(length_of(headers), etag_of(headers), digest, headers.get("etag"))


def head_of(headers: Mapping[str, str]) -> ObjectInfo:
    """Return what a HEAD says of an object; its digest is the CRC of the whole, where the store keeps one.

    Raises:
        OSError: they have no length.
    """
    return ObjectInfo(length_of(headers), etag_of(headers), crc_of(headers))


def length_of(headers: Mapping[str, str]) -> int:
    """Return `Content-Length`.

    Raises:
        OSError: there is none, or it is no length.
    """
    length = headers.get("content-length")
    if length is None:
        raise store_error(
            OSError, "the store sent no Content-Length: nothing could tell a whole body from a broken one"
        )
    return _count(length, "Content-Length")


def total_of(headers: Mapping[str, str]) -> int:
    """Return the size of the whole object of which a range was asked for.

    Raises:
        OSError: the headers do not say it.
    """
    if (span := headers.get("content-range")) is None:  # the range was ignored
        return length_of(headers)
    return _count(span.rpartition("/")[2], "Content-Range")


def _count(text: str, name: str) -> int:
    # int() would take "+5", "1_0" and other digits than these; 18 of them fit 64 bits
    if not _COUNT.fullmatch(text):
        raise store_error(ConnectionError, f"the store sent a {name} that is no number of bytes: {text[:60]!r}")
    return int(text)


def etag_of(headers: Mapping[str, str]) -> str | None:
    """Return the ETag without its quotes; None for one that pins no bytes."""
    return plain_etag(headers.get("etag"))


def plain_etag(etag: str | None) -> str | None:
    """Return an ETag without its quotes; a weak one does not pin bytes, and If-Match refuses it."""
    return None if not etag or etag.startswith("W/") else etag.strip('"')


def etag_of_parts(parts: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the ETag that S3 gives an object of these parts: the MD5 of their MD5s."""
    etags = [part["ETag"].strip('"') for part in parts]
    if not all(map(_MD5.fullmatch, etags)):
        return None
    joined = hashlib.md5(bytes.fromhex("".join(etags)), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(parts)}"


def digest_of(headers: Mapping[str, str]) -> Digest | None:
    """Return the digest that proves the whole object: a CRC, or an ETag that is an MD5."""
    if (crc := crc_of(headers)) is not None:
        return crc
    etag = etag_of(headers) or ""
    # the ETag of an SSE-KMS or SSE-C object looks like an MD5 and is none
    # (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html)
    is_md5 = (
        len(etag) == 32  # noqa: PLR2004  # hex digits of an MD5
        and _MD5.fullmatch(etag)
        and headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
        and "x-amz-server-side-encryption-customer-algorithm" not in headers
    )
    return _digest.Digest("MD5", etag.lower()) if is_md5 else None  # Alibaba's OSS sends it in upper case


def crc_of(headers: Mapping[str, str]) -> Digest | None:
    """Return the CRC of the whole object that the headers give."""
    if headers.get("x-amz-checksum-type") == "COMPOSITE":
        return None
    for algorithm, name in _CHECKSUM_HEADERS:
        value = headers.get(name)
        if value and "-" not in value:  # `<checksum>-<parts>` is a composite by another sign
            return _digest.Digest(algorithm, value)
    return None


def crc_of_answer(answer: Mapping[str, Any]) -> Digest | None:
    """Return the CRC of the whole object in an answer whose fields botocore has read from XML."""
    fields = {name: answer.get(f"Checksum{algorithm}") or "" for algorithm, name in _CHECKSUM_HEADERS}
    return crc_of({"x-amz-checksum-type": answer.get("ChecksumType", "")} | fields)


class WrongSpanError(ConnectionError):
    """Other bytes were answered than asked for: the object is read again from its first byte."""

    def __init__(self, span: str | None) -> None:
        """Take the `Content-Range` of the answer."""
        super().__init__(
            errno.ECONNABORTED, f"the store answered with other bytes than asked for: {span or 'all of them'}"
        )


# the version that was begun with is not there any more
REPLACED_CODES = frozenset({"PreconditionFailed", "412", "InvalidRange", "416"})


def replaced(error: OSError, sink: Sink) -> OSError:
    """Return what such an answer to a request for the rest of a sink means; the next attempt reads the whole."""
    message = "the object was replaced while it was read"
    if not sink.lose_version():
        message = "the store refuses the rest of the version that this read began with: it may have been replaced"
    return store_error(ConnectionError, message, code=code_of(error))


def checksum_fields(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums in the headers under the names that botocore gives them."""
    return {f"Checksum{algorithm}": headers[name] for algorithm, name in _CHECKSUM_HEADERS if name in headers}


def span_of(part: Part, size_bytes: int) -> str:
    """Return the `Content-Range` of what a part still lacks."""
    return f"bytes {part.start + part.received}-{part.stop - 1}/{size_bytes}"


def error_of(status: int, headers: Mapping[str, str], body: bytes, *, checksums: str | None = None) -> OSError:
    """Return the error that an answer of the wire is, as botocore reads it.

    Args:
        status: of the answer.
        headers: of the answer.
        body: of the answer.
        checksums: what in botocore's `Config` had the request carry a header of S3's checksums; None: it has none.
    """
    parsed = _parser().parse({"status_code": status, "headers": dict(headers), "body": body}, None)
    return _answered(parsed, status, checksums)


def check_stored(headers: Mapping[str, str], body: bytes) -> None:
    """See that an answer of status 200 to a write says nothing else; as botocore does, whatever the code.

    Raises:
        ConnectionError: its body is an error's, or no XML.
    """
    if not body:
        return
    body = body.strip()  # white space goes out while a store works, also before the declaration
    try:
        name = ET.fromstring(body).tag  # noqa: S314  # at most 1 MiB, by what botocore reads it with
        is_error = name.rpartition("}")[2] == "Error"  # in whatever namespace
    except ET.ParseError:
        is_error = True
    if is_error:
        # a status that means "try again"
        raise error_of(HTTPStatus.INTERNAL_SERVER_ERROR, headers, body)


def check_put(headers: Mapping[str, str]) -> None:
    """See that an answer to PutObject is a store's, which has no body: a proxy's page of 200 stored nothing.

    Raises:
        ConnectionError: there is a body and no ETag.
    """
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if has_body and "etag" not in headers:
        raise no_success("PutObject", "ETag")


def no_success(operation: str, lack: str) -> OSError:
    """Return the error of an answer of status 200 that lacks what every such answer has."""
    return store_error(ConnectionError, f"the store answered {operation} with 200 and no {lack}: nothing was stored")


@functools.cache
def _parser() -> Any:  # noqa: ANN401  # botocore has no types
    return parsers.create_parser("rest-xml")


_MD5 = re.compile("[0-9a-fA-F]{32}")
_COUNT = re.compile("[0-9]{1,18}")
_CHECKSUM_HEADERS = tuple((algorithm, f"x-amz-checksum-{algorithm.lower()}") for algorithm in _digest.ALGORITHMS)


LOST = (
    boto.CredentialRetrievalError, boto.MetadataRetrievalError, boto.NoAuthTokenError, boto.NoCredentialsError,
    boto.PartialCredentialsError, boto.ProfileNotFound, boto.SSOError, boto.TokenRetrievalError,
)  # fmt: skip
_LATE = (boto.ConnectTimeoutError, boto.ReadTimeoutError, urllib3.exceptions.ReadTimeoutError)
_UNANSWERED = (
    boto.ConnectionClosedError, boto.ConnectTimeoutError, boto.EndpointConnectionError, boto.ProxyConnectionError,
    boto.ReadTimeoutError, boto.SSLError,
)  # fmt: skip
_BROKEN = (
    boto.ConnectionError, boto.EndpointConnectionError, boto.HTTPClientError, boto.ResponseStreamingError,
    boto.SSLError, urllib3.exceptions.HTTPError, ssl.SSLError,
)  # fmt: skip


def os_error(error: Exception, *, checksums: str | None = None) -> OSError:
    """Return the `OSError` that one of `RAISED`, or an error of a socket, is; secrets are masked in both.

    `checksums` as in `error_of`.
    """
    found = _defaults.lost(error) if isinstance(error, boto.ProfileNotFound) else _os_error(error, checksums)
    if isinstance(error, _UNANSWERED) or is_unanswered(error):
        mark_unanswered(found)
    return found


def _os_error(error: Exception, checksums: str | None) -> OSError:
    _secrets.scrub(error)  # a store may say what it was sent, and a traceback shows it
    if isinstance(error, boto.ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return _answered(error.response, status, checksums)
    if isinstance(error, OSError) and not isinstance(error, (*RAISED, ssl.SSLError)):
        return error
    text = without_userinfo(str(error))
    if isinstance(error, LOST):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role; for a public bucket give"
        unsigned = "Options(s3_client_kwargs={'config': Config(signature_version=botocore.UNSIGNED)})"
        return store_error(PermissionError, f"{text}: {remedy} {unsigned}", code=NO_CREDENTIALS)
    if isinstance(error, boto.IncompleteReadError):
        return IncompleteBodyError(None, text)
    if isinstance(error, boto.SSLError | ssl.SSLError) and (advice := _tls_remedy(error)):
        return store_error(OSError, f"{text}; {advice}")
    kind = TimeoutError if isinstance(error, _LATE) else ConnectionError if isinstance(error, _BROKEN) else OSError
    return store_error(kind, text)


def cause_of(error: Exception) -> Exception | None:
    """Return what a traceback may show of the cause."""
    # other errors than the store's own answers can hold a header or an endpoint's password, and a traceback shows them
    return error if isinstance(error, boto.ClientError) else None


def _answered(response: Mapping[str, Any], status: int, checksums: str | None) -> OSError:
    answer = response.get("Error", {})
    code = str(answer.get("Code", ""))
    text = without_userinfo(str(answer.get("Message") or code or _phrase(status)))
    if remedy := _REMEDIES.get("ExpiredToken" if code in EXPIRED_CODES else code):
        text = f"{text}; {remedy}"
    elif checksums and status in _REFUSING and code not in _OTHER_REASONS:
        text = f"{text}; a store that does not know S3's checksum headers needs Config({checksums}='when_required')"
    kind: type[OSError] = OSError
    if (status >= 500 and status != 501) or status in (408, 429) or code in _TRANSIENT_CODES:  # noqa: PLR2004
        kind = ConnectionError
    elif status == 404:  # noqa: PLR2004
        kind = FileNotFoundError
    elif status in (401, 403) or code in EXPIRED_CODES:
        kind = PermissionError
    return store_error(kind, text, code=code or str(status))


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else str(status)


def _tls_remedy(error: BaseException | None) -> str | None:
    """Return what to do about an error that no other attempt helps; None: the connection broke."""
    seen: list[BaseException] = []
    while isinstance(error, BaseException) and error not in seen:
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in _UNKNOWN_CA:
                return "give the CA of this certificate as Options(s3_client_kwargs={'verify': 'ca.pem'})"
            return _CERTIFICATE_REMEDIES.get(error.verify_code, "check the server's certificate")
        if isinstance(error, CertificateError):  # urllib3 compares names itself
            return _CERTIFICATE_REMEDIES[62]
        if isinstance(error, ssl.SSLError) and error.reason in NOT_TLS:
            return NO_TLS_REMEDY
        seen.append(error)
        inner = getattr(error, "kwargs", {}).get("error") or getattr(error, "reason", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None
