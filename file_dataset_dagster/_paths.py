"""Keys of assets and of partitions as parts of keys in S3 and of paths. Pure: no I/O, no context."""

from __future__ import annotations

import hashlib
import unicodedata
from urllib.parse import quote

import file_dataset

_ASCII = 128
# Linux and macOS allow 255 bytes for a name (NAME_MAX in limits.h), S3 1,024 for a key
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)
_NAME_BYTES = 255
_KEY_BYTES = 1024
_ENCODED_BYTES = _NAME_BYTES - len("partition=") - len(".rejected.parquet")
_LETTERS_BYTES = 765  # 255 characters of three bytes, as Chinese has them; leaves 259 for the rest of a key


def segment(text: str) -> str:
    """One part of a key or path for any text: no two texts share one, and none leaves its directory.

    Percent-encoded, while that fits a file's name. A longer text keeps its letters (27 characters of Chinese are 243
    bytes encoded, and 81 as they are), and one of more than 765 bytes ends in its sha256: so 255 characters of any
    script have room in a key of S3.

    Dots are encoded too: `..` stays below, and a partition `x.failures` is not the failures of `x`.
    """
    encoded = _encoded(text)
    if len(encoded) <= _ENCODED_BYTES:
        return encoded or "%"
    readable = _with_letters(text)
    if len(readable.encode()) <= _LETTERS_BYTES:
        return readable
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    # no other form has a % before a ~
    return readable.encode()[: _LETTERS_BYTES - len(digest) - 2].decode("utf-8", "ignore") + "%~" + digest


def bucket_and_key(place: str) -> tuple[str, str]:
    """Split `s3://bucket/key`. The name of an access point has a slash: arn:aws:s3:region:account:accesspoint/name."""
    *bucket, key = place.removeprefix("s3://").split("/", 2 if place.startswith("s3://arn:") else 1)
    return "/".join(bucket), key


def fitting(place: str, of: str) -> str:
    """Return a key or path when a store can hold it: all of it in S3, each name in a file system.

    Args:
        place: what `segment` made a part of.
        of: whose it is, for the message.

    Raises:
        file_dataset.InvalidDatasetError: it is too long, naming `of`.
    """
    if place.startswith("s3://"):
        _, key = bucket_and_key(place)
        size, limit, what = len(key.encode()), _KEY_BYTES, "key in S3"
    else:
        size, limit, what = max(len(name.encode()) for name in place.split("/")), _NAME_BYTES, "file name"
    if size > limit:
        raise file_dataset.InvalidDatasetError(
            f"{of} is too long: its {what} has {size} bytes, and {limit} are allowed; shorten it"
            f"{' or base_path' if limit == _KEY_BYTES else ', or use a base_path in S3'}"
        )
    return place


def _encoded(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass").replace(".", "%2E")


def _with_letters(text: str) -> str:
    """The text with only such letters as they are that a file system which normalizes names leaves apart (macOS)."""
    parts: list[str] = []
    last = ""  # the last letter that a mark could join
    for letter in text:
        is_kept = ord(letter) >= _ASCII and letter.isprintable() and unicodedata.is_normalized("NFC", last + letter)
        part = letter if is_kept else _encoded(letter)
        parts.append(part)
        last = last + part if unicodedata.combining(part[-1]) else part[-1]
    return "".join(parts)
