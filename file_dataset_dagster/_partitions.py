"""Names of partitions in paths; frames of many partitions into one, and back. Pure: no I/O, no context."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd

import file_dataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTITION = "partition"
_SHOWN = 5  # ids in a message; a guess
_ASCII = 128
# Linux and macOS allow 255 bytes for a name (NAME_MAX in limits.h), S3 1,024 for a key
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)
_NAME_BYTES = 255
_KEY_BYTES = 1024
_ENCODED_BYTES = _NAME_BYTES - len("partition=") - len(".rejected.parquet")
_LETTERS_BYTES = 765  # 255 characters of three bytes, as Chinese has them; leaves 259 for the rest of a key
# what holds nulls beside the values of a numpy column that cannot
_NULLABLE = {"b": "boolean", "i": "Int64", "u": "UInt64"}


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
    kept = _with_letters(text)
    if len(kept.encode()) <= _LETTERS_BYTES:
        return kept
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    # no other form has a % before a ~
    return kept.encode()[: _LETTERS_BYTES - len(digest) - 2].decode("utf-8", "ignore") + "%~" + digest


def fitting(place: str, of: str) -> str:
    """Return a key or path when a store can hold it: all of it in S3, each name in a file system.

    Args:
        place: what `segment` made a part of.
        of: whose it is, for the message.

    Raises:
        file_dataset.InvalidDatasetError: it is too long, naming `of`.
    """
    if place.startswith("s3://"):
        # an access point has its name behind a slash: arn:aws:s3:region:account:accesspoint/name/key
        key = place.removeprefix("s3://").split("/", 2 if place.startswith("s3://arn:") else 1)[-1]
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


def joined(frames: Mapping[str, pd.DataFrame], of: str) -> pd.DataFrame:
    """All rows, with a column `partition` at the end; columns that some frames lack are null there.

    Args:
        frames: one frame per partition; their order is kept.
        of: what they are, for the messages.

    Raises:
        file_dataset.InvalidDatasetError: an id is in two partitions, or a frame has a column `partition` of its own.
    """
    if taken := [key for key, frame in frames.items() if PARTITION in frame]:
        raise file_dataset.InvalidDatasetError(
            f"{of}, partition {taken[0]!r}, has a column {PARTITION!r} of its own, which joining partitions would "
            "replace: rename it, or annotate the input as dict[str, pd.DataFrame]"
        )
    names = list(dict.fromkeys(name for frame in frames.values() for name in frame.columns))
    dtypes = {name: _dtype(name, list(frames.values())) for name in names}
    parts = [_widened(frame, dtypes).assign(**{PARTITION: key}) for key, frame in frames.items()]
    # a part without rows would widen the dtypes of the others
    filled = [part for part in parts if len(part)] or parts[:1]
    if not filled:
        return pd.DataFrame({"id": pd.Series(dtype="str"), PARTITION: pd.Series(dtype="str")})
    whole = pd.concat(filled, ignore_index=True)[[*names, PARTITION]]
    if "id" in whole:
        pairs = whole[["id", PARTITION]].astype(str).drop_duplicates()
        if repeated := pairs.loc[pairs["id"].duplicated(), "id"].unique().tolist():
            raise file_dataset.InvalidDatasetError(
                f"ids {repeated[:_SHOWN]} ({len(repeated)} in all) are in several partitions of {of}: annotate the "
                "input as dict[str, pd.DataFrame] and handle each partition by itself, or give the rows ids that name "
                "their partition too"
            )
    return whole


def split(whole: pd.DataFrame, keys: Sequence[str], of: str) -> dict[str, pd.DataFrame]:
    """The rows of each partition by the column `partition`, which is left out; no rows: an empty frame.

    Raises:
        file_dataset.InvalidDatasetError: there is no such column, or it names other partitions.
    """
    if PARTITION not in whole:
        raise file_dataset.InvalidDatasetError(
            f"{of} returned one frame for {len(keys)} partitions: return a dict of frames by partition key, or a frame "
            f"with a column {PARTITION!r}"
        )
    texts = whole[PARTITION].astype(str)
    check_keys(set(texts), keys, of, may_lack=True)
    return {key: whole[texts == str(key)].drop(columns=PARTITION).reset_index(drop=True) for key in keys}


def check_keys(given: set[str], keys: Sequence[str], of: str, *, may_lack: bool = False) -> None:
    """Refuse partitions that the run is not for, and the lack of those that it is for.

    Raises:
        file_dataset.InvalidDatasetError: naming them.
    """
    other = sorted(given - set(keys))
    lacking = [] if may_lack else sorted(set(keys) - given)
    if other or lacking:
        what = f"partitions {other[:_SHOWN]}, which this run is not for" if other else "fewer partitions than its run"
        raise file_dataset.InvalidDatasetError(
            f"{of} returned {what}{f', without {lacking[:_SHOWN]}' if lacking else ''}: nothing was stored. A "
            "partition without rows is an empty frame"
        )


def _dtype(name: str, frames: Sequence[pd.DataFrame]) -> object:
    """The dtype of a column that some frames lack: one that holds nulls; None where no frame lacks it."""
    having = [frame[name].dtype for frame in frames if name in frame]
    return None if len(having) == len(frames) else _NULLABLE.get(getattr(having[0], "kind", ""), having[0])


def _widened(frame: pd.DataFrame, dtypes: Mapping[str, object]) -> pd.DataFrame:
    columns = {
        name: frame[name].astype(dtype) if name in frame else pd.Series(None, index=frame.index, dtype=dtype)  # type: ignore[call-overload]
        for name, dtype in dtypes.items()
        if dtype is not None and (name not in frame or isinstance(dtype, str))
    }
    return frame.assign(**columns)
