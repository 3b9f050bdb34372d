"""`extra_args` of an upload, which are boto3's `ExtraArgs`: which are refused, and what each request takes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from file_dataset import _secrets
from file_dataset._errors import InvalidDatasetError

# https://datatracker.ietf.org/doc/html/rfc9110#section-5.1 and 5.5; a tab is allowed
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_TEXTS = ("Expires", "Metadata", "MpuObjectSize", "ObjectLockRetainUntilDate", "SSECustomerKey")
_NO_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# the one checksum that S3 keeps for the whole object in a multipart upload by default
ALGORITHM = "CRC64NVME"


def check_extra_args(extra_args: Mapping[str, Any]) -> None:
    """Refuse what boto3's `ExtraArgs` would refuse, before the first byte.

    Raises:
        InvalidDatasetError: names that are not among `S3Transfer.ALLOWED_UPLOAD_ARGS`; what no header can hold.
    """
    from boto3.s3.transfer import S3Transfer

    _secrets.remember(value for name, value in extra_args.items() if name.endswith("SSECustomerKey"))
    if unknown := sorted(set(extra_args) - set(S3Transfer.ALLOWED_UPLOAD_ARGS)):
        raise InvalidDatasetError(
            f"extra_args {unknown} are not among boto3's ExtraArgs for uploads: "
            "boto3.s3.transfer.S3Transfer.ALLOWED_UPLOAD_ARGS lists them"
        )
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


def has_checksum(extra_args: Mapping[str, Any]) -> bool:
    """Return whether the user gave a checksum, or chose its algorithm."""
    return any("Checksum" in name for name in extra_args)


def algorithm(client: Any, extra_args: Mapping[str, Any]) -> str | None:  # noqa: ANN401  # boto3 has no types
    """Return the checksum that goes along with an upload; None: none of ours."""
    if client.meta.config.request_checksum_calculation != "when_supported" or has_checksum(extra_args):
        return None
    return ALGORITHM


def with_checksum(client: Any, extra_args: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401  # boto3 has no types
    """Return the arguments of an upload by boto3, which computes the checksum."""
    found = algorithm(client, extra_args)
    return dict(extra_args) | ({"ChecksumAlgorithm": found} if found else {})


def for_parts(extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an upload in parts: no digests, for that of the file is not that of a part."""
    return {name: value for name, value in extra_args.items() if not re.match("Checksum(CRC|SHA|MD5|XX)", name)}


def known_to(client: Any, operation: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401  # the same
    """Return the arguments that the operation knows; botocore's model of S3 is the list."""
    known = client.meta.service_model.operation_model(operation).input_shape.members
    return {name: value for name, value in kwargs.items() if name in known}
