"""Which `OSError` an error of botocore is, and its remedy."""

from __future__ import annotations

import urllib3
from botocore import exceptions as boto
from urllib3.connection import CertificateError  # type: ignore[attr-defined]  # where each version has it

from file_dataset import _defaults, _secrets
from file_dataset._errors import NO_CREDENTIALS, IncompleteBodyError, is_unanswered, mark_unanswered, store_error
from file_dataset._s3.errors import error_of_response, tls_remedy
from file_dataset._secrets import without_userinfo

# what boto3 raises; a body that breaks off can raise urllib3's own
RAISED = (boto.BotoCoreError, boto.ClientError, urllib3.exceptions.HTTPError)
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
    boto.SSLError, urllib3.exceptions.HTTPError,
)  # fmt: skip
# where botocore reads answers: modules, and functions of others
_READERS = ("botocore.errorfactory", "botocore.parsers")
_READING = ("_add_modeled_error_fields", "_decode_list_object", "redirect_from_error")


def os_error(error: Exception, *, checksums: str | None = None) -> OSError:
    """Return the `OSError` that one of `RAISED` is; secrets are masked in both. `checksums` as in `errors.error_of`."""
    found = _defaults.lost(error) if isinstance(error, boto.ProfileNotFound) else _os_error(error, checksums)
    if isinstance(error, _UNANSWERED) or is_unanswered(error):
        mark_unanswered(found)
    return found


def _os_error(error: Exception, checksums: str | None) -> OSError:
    _secrets.scrub(error)  # a store may repeat what it was sent, and a traceback shows it
    if isinstance(error, boto.ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return error_of_response(error.response, status, checksums)
    text = without_userinfo(str(error))
    if isinstance(error, LOST):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role; for a public bucket give"
        unsigned = "Options(s3_client_kwargs={'config': Config(signature_version=botocore.UNSIGNED)})"
        return store_error(PermissionError, f"{text}: {remedy} {unsigned}", code=NO_CREDENTIALS)
    if isinstance(error, boto.IncompleteReadError):
        return IncompleteBodyError(None, text)
    # urllib3 compares names itself
    if isinstance(error, boto.SSLError) and (advice := tls_remedy(error, CertificateError)):
        return store_error(OSError, f"{text}; {advice}")
    kind = TimeoutError if isinstance(error, _LATE) else ConnectionError if isinstance(error, _BROKEN) else OSError
    return store_error(kind, text)


def is_of_answer(error: Exception) -> bool:
    """Return whether botocore met the error while it read an answer, and not before it sent the request.

    Its parsers know S3's answers. Of another XML they raise what Python raises: a TypeError, an AttributeError.
    """
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if trace.tb_frame.f_globals.get("__name__") in _READERS or code.co_name in _READING:
            return True
        trace = trace.tb_next
    return False


def cause_of(error: Exception) -> Exception | None:
    """Return what a traceback may show of the cause."""
    # other errors than the store's own can hold a header or an endpoint's password, and a traceback shows them
    return error if isinstance(error, boto.ClientError) else None
