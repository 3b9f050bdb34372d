"""ETags and checksums of a response: how an ETag is compared, and which of them proves the bytes of an object."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from file_dataset import _digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from file_dataset._digest import Digest

_MD5 = re.compile("[0-9a-fA-F]{32}")
_CHECKSUM_HEADERS = tuple((algorithm, f"x-amz-checksum-{algorithm.lower()}") for algorithm in _digest.ALGORITHMS)


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
    # the ETag of an SSE-KMS or SSE-C object looks like an MD5 and is not one
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


def crc_of_fields(response: Mapping[str, Any]) -> Digest | None:
    """Return the CRC of the whole object in a response whose fields botocore has read from XML."""
    fields = {name: response.get(f"Checksum{algorithm}") or "" for algorithm, name in _CHECKSUM_HEADERS}
    return crc_of({"x-amz-checksum-type": response.get("ChecksumType", "")} | fields)


def checksum_fields(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums in the headers under the names that botocore gives them."""
    return {f"Checksum{algorithm}": headers[name] for algorithm, name in _CHECKSUM_HEADERS if name in headers}
