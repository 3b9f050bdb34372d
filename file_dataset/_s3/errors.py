"""Which `OSError` an error of S3 is, and its remedy: of a response, of botocore, of a socket and of TLS.

Both engines, our own HTTP and boto3, raise what these functions return.
"""

from __future__ import annotations

import errno
import functools
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import urllib3
from botocore import exceptions as boto
from botocore import parsers
from urllib3.connection import CertificateError  # type: ignore[attr-defined]  # where each version has it

from file_dataset import _defaults, _secrets
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._sink import Sink

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
# InvalidRequest, XAmzContentSHA256Mismatch, MissingContentLength, others. These are of other causes.
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
# the version that was begun with is not there any more
REPLACED_CODES = frozenset({"PreconditionFailed", "412", "InvalidRange", "416"})


class WrongSpanError(ConnectionError):
    """The response has other bytes than were requested: the object is read again from its first byte."""

    def __init__(self, span: str | None) -> None:
        """Take the `Content-Range` of the response."""
        super().__init__(
            errno.ECONNABORTED, f"the store answered with other bytes than asked for: {span or 'all of them'}"
        )


def replaced(error: OSError, sink: Sink) -> OSError:
    """Return the error that one of `REPLACED_CODES` is of the rest of a sink; the next attempt reads the whole."""
    message = "the object was replaced while it was read"
    if not sink.lose_version():
        message = "the store refuses the rest of the version that this read began with: it may have been replaced"
    return store_error(ConnectionError, message, code=code_of(error))


def error_of(status: int, headers: Mapping[str, str], body: bytes, *, checksums: str | None = None) -> OSError:
    """Return the error that a response of our own HTTP is, as botocore reads it.

    Args:
        status: of the response.
        headers: of the response.
        body: of the response.
        checksums: what in botocore's `Config` had the request carry a header of S3's checksums; None: it has none.
    """
    parsed = _parser().parse({"status_code": status, "headers": dict(headers), "body": body}, None)
    return _error_of_response(parsed, status, checksums)


def os_error(error: Exception, *, checksums: str | None = None) -> OSError:
    """Return the `OSError` that one of `RAISED`, or an error of a socket, is; secrets are masked in both.

    `checksums` as in `error_of`.
    """
    found = _defaults.lost(error) if isinstance(error, boto.ProfileNotFound) else _os_error(error, checksums)
    if isinstance(error, _UNANSWERED) or is_unanswered(error):
        mark_unanswered(found)
    return found


def _os_error(error: Exception, checksums: str | None) -> OSError:
    _secrets.scrub(error)  # a store may repeat what it was sent, and a traceback shows it
    if isinstance(error, boto.ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return _error_of_response(error.response, status, checksums)
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
    # other errors than the store's own can hold a header or an endpoint's password, and a traceback shows them
    return error if isinstance(error, boto.ClientError) else None


def _error_of_response(response: Mapping[str, Any], status: int, checksums: str | None) -> OSError:
    fields = response.get("Error", {})
    code = str(fields.get("Code", ""))
    text = without_userinfo(str(fields.get("Message") or code or _phrase(status)))
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


@functools.cache
def _parser() -> Any:  # noqa: ANN401  # botocore has no types
    return parsers.create_parser("rest-xml")
