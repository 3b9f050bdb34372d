"""How a response of S3 is read: lengths, ranges, what it has of an object, and whether it is a success."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from file_dataset._errors import store_error
from file_dataset._s3.errors import error_of
from file_dataset._s3.etags import crc_of, digest_of, etag_of
from file_dataset._sink import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._sink import Part

_COUNT = re.compile("[0-9]{1,18}")


def info_of(headers: Mapping[str, str], *, check_digests: bool) -> ObjectInfo:
    """Return what the headers of a whole object hold of it.

    Raises:
        OSError: they have no length.
    """
    digest = digest_of(headers) if check_digests else None
    return ObjectInfo(length_of(headers), etag_of(headers), digest, headers.get("etag"), version_of(headers))


def head_of(headers: Mapping[str, str]) -> ObjectInfo:
    """Return what a HEAD has of an object; its digest is the CRC of the whole, where the store keeps one.

    Raises:
        OSError: they have no length.
    """
    crc = crc_of(headers)
    md5 = None if crc else digest_of(headers)
    return ObjectInfo(length_of(headers), etag_of(headers), crc, version_id=version_of(headers), md5=md5)


def version_of(headers: Mapping[str, str]) -> str | None:
    """Return the id of the object's version, None where the bucket has no versions."""
    return headers.get("x-amz-version-id") or None


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
    return bytes_of(length, "Content-Length")


def total_of(headers: Mapping[str, str]) -> int:
    """Return the size of the whole object of which a range was requested.

    Raises:
        OSError: the headers do not have it.
    """
    if (span := headers.get("content-range")) is None:  # the range was ignored
        return length_of(headers)
    return bytes_of(span.rpartition("/")[2], "Content-Range")


def bytes_of(text: str, name: str) -> int:
    """Return the number of bytes that a text is.

    Raises:
        ConnectionError: it is not a number; `name` is the header it came from.
    """
    # int() would take "+5", "1_0" and other digits than these; 18 of them fit 64 bits
    if not _COUNT.fullmatch(text):
        raise store_error(ConnectionError, f"the store sent a {name} that is no number of bytes: {text[:60]!r}")
    return int(text)


def span_of(part: Part, stop: int, size_bytes: int) -> str:
    """Return the `Content-Range` of what a part still lacks, up to `stop`."""
    return f"bytes {part.start + part.received}-{stop - 1}/{size_bytes}"


def check_stored(headers: Mapping[str, str], body: bytes) -> None:
    """See that a response of status 200 to a write is no error; as botocore does, whatever the code.

    Raises:
        ConnectionError: its body is an error's, or no XML.
    """
    if not body:
        return
    body = body.strip()  # white space goes out while a store works, also before the declaration
    try:
        # At most 1 MiB. Read as UTF-8, as botocore does, and not as it declares: of an encoding that expat does not
        # know, such as GB2312 in a proxy's page, expat raises a LookupError or a ValueError.
        name = ET.fromstring(body, ET.XMLParser(encoding="utf-8")).tag  # noqa: S314
        is_error = name.rpartition("}")[2] == "Error"  # in any namespace
    except ET.ParseError:
        is_error = True
    if is_error:
        # a status that means "try again"
        raise error_of(HTTPStatus.INTERNAL_SERVER_ERROR, headers, body)


def check_put(headers: Mapping[str, str]) -> None:
    """See that a response to PutObject is a store's, which has no body: a proxy's page of 200 stored nothing.

    Raises:
        ConnectionError: there is a body and no ETag.
    """
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if has_body and "etag" not in headers:
        raise no_success("PutObject", "ETag")


def check_removed(headers: Mapping[str, str]) -> None:
    """See that a response to DeleteObject is a store's, which has no body.

    Raises:
        ConnectionError: there is one.
    """
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise store_error(ConnectionError, "the store answered DeleteObject with 200 and a body: nothing was removed")


def no_success(operation: str, lack: str) -> OSError:
    """Return the error of a response of status 200 that lacks what every such response has."""
    return store_error(ConnectionError, f"the store answered {operation} with 200 and no {lack}: nothing was stored")
