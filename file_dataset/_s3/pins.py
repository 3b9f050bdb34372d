"""What a URL pins beside its key, an ETag or a version: how it is requested, and that the answer is of it.

A store that does not know `If-Match` or `versionId` answers with the newest object: such an answer is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from file_dataset._errors import code_of, store_error
from file_dataset._s3 import etags, responses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from file_dataset._sink import ObjectInfo
    from file_dataset._urls import ObjectUrl

_CHANGED = "the object changed between its listing and its read"
_REFUSED_CODES = frozenset({"PreconditionFailed", "412"})
# of an object in a bucket that never kept versions, and of one that was stored while it kept none
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/versioning-workflows.html)
_NULL_VERSION = "null"


def query_of(at: ObjectUrl) -> str:
    """Return the query of a GET and a HEAD, escaped; empty: of the newest version."""
    return "" if at.version_id is None else f"versionId={quote(at.version_id, safe='~')}"


def headers_of(at: ObjectUrl) -> Mapping[str, str]:
    """Return what a GET of the whole object sends more, so that it reads what is pinned or nothing."""
    return {} if at.etag is None else {"if-match": _quoted(at.etag)}


def version_kwargs(at: ObjectUrl) -> dict[str, str]:
    """Return the version as botocore has it."""
    return {} if at.version_id is None else {"VersionId": at.version_id}


def get_kwargs(at: ObjectUrl) -> dict[str, str]:
    """Return what `headers_of` has, as botocore has it."""
    return {} if at.etag is None else {"IfMatch": _quoted(at.etag)}


def check(at: ObjectUrl, headers: Mapping[str, str], *, is_whole: bool = True) -> None:
    """See that an answer is of what is pinned; `is_whole`: it is that of a GET of the whole object.

    Raises:
        OSError: it is of another object.
    """
    if at.version_id is not None and (found := responses.version_of(headers) or _NULL_VERSION) != at.version_id:
        raise store_error(
            OSError,
            f"version {at.version_id} was requested, and the store sent version {found}: does it keep versions?",
        )
    if is_whole and at.etag is not None and (etag := etags.etag_of(headers)) is not None and etag != at.etag:
        raise store_error(OSError, f"{_CHANGED}: its ETag was {at.etag} and is {etag}")


def settle(at: ObjectUrl) -> Callable[[object, OSError], ObjectInfo] | None:
    """Return what raises the error of an attempt in words of what is pinned; None: nothing is."""
    if at.etag is None and at.version_id is None:
        return None

    def explain(access: object, error: OSError) -> ObjectInfo:
        del access
        raise _explained(at, error) from error

    return explain


def _explained(at: ObjectUrl, error: OSError) -> OSError:
    code = code_of(error)
    if at.etag is not None and code in _REFUSED_CODES:
        return store_error(OSError, _CHANGED, code=code)
    if at.version_id is None:
        return error
    # Ceph has no code of its own for a version, and the answer to a HEAD has none at all
    if code in {"NoSuchVersion", "NoSuchKey", "404"}:
        message = f"{error.strerror}; version {at.version_id} was requested: it was removed, or is another object's"
        return store_error(FileNotFoundError, message, code=code)
    if code in {"MethodNotAllowed", "405"}:
        message = f"version {at.version_id} is a delete marker, which has no content: choose an earlier version"
        return store_error(OSError, message, code="MethodNotAllowed")
    return error


def _quoted(etag: str) -> str:
    """Return an ETag as a header has it.

    Raises:
        OSError: no header can hold it.
    """
    if not etag.isascii() or not etag.isprintable() or '"' in etag:
        raise store_error(OSError, f"the ETag {etag!r} can be sent in no header")
    return f'"{etag}"'
