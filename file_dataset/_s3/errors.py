"""Which `OSError` an error of S3 is, and its remedy: of a response and of TLS.

Both engines, our own HTTP and boto3, raise what these functions return; `boto_errors` has what boto3 alone raises.
"""

from __future__ import annotations

import errno
import functools
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from file_dataset import _secrets
from file_dataset._errors import (
    CREDENTIAL_CODES,
    EXPIRED_CODES,
    SLOW_DOWN_CODES,
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

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and botocore's own list of throttling codes
_TRANSIENT_CODES = SLOW_DOWN_CODES | {
    "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout",
}  # fmt: skip
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
    try:
        parsed = _parser().parse({"status_code": status, "headers": dict(headers), "body": body}, None)
    except Exception:  # noqa: BLE001  # it may be XML of a proxy, and not of S3: the status says enough
        parsed = {}
    return error_of_response(parsed, status, checksums)


def tls_error(error: ssl.SSLError) -> OSError:
    """Return the error that one of TLS is; secrets are masked in both."""
    _secrets.scrub(error)
    text = without_userinfo(str(error))
    advice = tls_remedy(error)
    found = store_error(OSError, f"{text}; {advice}") if advice else store_error(ConnectionError, text)
    if is_unanswered(error):
        mark_unanswered(found)
    return found


def error_of_response(response: Mapping[str, Any], status: int, checksums: str | None) -> OSError:
    """Return the error that a response is, as botocore's parser reads it; `checksums` as in `error_of`."""
    said = response.get("Error")
    fields = said if isinstance(said, dict) else {}  # of XML that is not S3's it can be text, or a list
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


def tls_remedy(
    error: BaseException | None, other_hosts: type[BaseException] | tuple[type[BaseException], ...] = ()
) -> str | None:
    """Return what to do about an error that no other attempt helps; None: the connection broke.

    Args:
        error: of TLS, or what has one as its cause.
        other_hosts: what says that a certificate is another host's, beside OpenSSL.
    """
    seen: list[BaseException] = []
    while isinstance(error, BaseException) and error not in seen:
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in _UNKNOWN_CA:
                return "give the CA of this certificate as Options(s3_client_kwargs={'verify': 'ca.pem'})"
            return _CERTIFICATE_REMEDIES.get(error.verify_code, "check the server's certificate")
        if isinstance(error, other_hosts):
            return _CERTIFICATE_REMEDIES[62]
        if isinstance(error, ssl.SSLError) and error.reason in NOT_TLS:
            return NO_TLS_REMEDY
        seen.append(error)
        inner = getattr(error, "kwargs", {}).get("error") or getattr(error, "reason", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None


@functools.cache
def _parser() -> Any:  # noqa: ANN401  # botocore has no types
    from botocore import parsers  # with it comes urllib3: for those who meet an error

    return parsers.create_parser("rest-xml")
