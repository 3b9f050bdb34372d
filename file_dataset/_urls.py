"""Locations, file names and ids: the only place where a URL is split or a name is judged safe.

Names out of the data become directories on disk and prefixes in a bucket. What is not safe there is refused here, with
a sentence that gives the reason; nothing is ever cleaned up, unquoted or shortened behind the user's back.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import NamedTuple, TypeAlias

from file_dataset._errors import InvalidDatasetError

# Linux and macOS allow 255 bytes for one segment of a path (NAME_MAX in limits.h).
SEGMENT_BYTES = 255
# "The object key name can be up to 1,024 bytes long"
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html).
KEY_BYTES = 1024

ONE_FILE_REMEDY = (
    "a directory (a DICOM series, a Zarr store) is not one file: a Pipeline, into_temp_dir() and into_dir() take it"
)

_SHOWN_CHARS = 200  # a guess: fits three lines

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
# botocore's own rule, and no dots alone: a server would take them for steps in the path
_BUCKET_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,255}")
# The bucket part of a URL may be the ARN of an access point (of several regions, of Object Lambda, or on an Outpost),
# which holds slashes of its own (https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-access-points.html).
_BUCKET_ARN = re.compile(
    r"arn:aws[a-z-]*:(?:s3|s3-object-lambda|s3-outposts):[a-z0-9-]*:[0-9]*:(?:outpost[:/][A-Za-z0-9-]{1,63}[:/])?"
    r"accesspoint[:/](?!\.)[A-Za-z0-9.-]{1,63}(?=/|$)"
)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")


class ObjectUrl(NamedTuple):
    """One object in a bucket. The key is opaque: never unquoted, never normalised.

    A tuple of texts: of 100,000 in a listing the garbage collector looks at none twice.

    Attributes:
        bucket: its name, or an ARN.
        key: of the object.
        etag: a read of another content fails; without quotes. None: any.
        version_id: a read is of this version; None: of the newest. A write never looks at either.
    """

    bucket: str
    key: str
    etag: str | None = None
    version_id: str | None = None

    def __str__(self) -> str:
        """Return `s3://bucket/key`: what is pinned is not part of it."""
        return f"s3://{self.bucket}/{self.key}"


Location: TypeAlias = "ObjectUrl | Path"


@dataclass(frozen=True, slots=True)
class Directory:
    """All files below a place: the key of its URL ends in a slash, so that `series-1/` has nothing of `series-10/`."""

    at: Location

    def __str__(self) -> str:
        """Return the location, which ends in a slash."""
        return f"{str(self.at).removesuffix('/')}/" if isinstance(self.at, Path) else str(self.at)


def directory_at(at: Location) -> Directory:
    """Return the directory at a location without a slash at its end."""
    return Directory(at if isinstance(at, Path) else ObjectUrl(at.bucket, f"{at.key}/"))


Source: TypeAlias = "Location | Directory"  # what a cell of a frame can be


def is_null(value: object) -> bool:
    """Return whether a cell stands for "no such file": None, NaN, `pandas.NA`, `pandas.NaT`."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(value, float) and value != value  # noqa: PLR0124  # NaN is the one number unequal to itself


def is_directory(location: str) -> bool:
    """Return whether the text of a location is that of a directory."""
    return location.endswith("/")


def parse(value: object, *, base: Path, local_paths: bool = True) -> Source:
    """Return where one file is, or a directory: text that ends in a slash.

    A local path without a slash may lead to a directory too, which is seen when it is read; a `Path` never has one.

    Args:
        value: `s3://bucket/key`, `s3://bucket/prefix/`, or a local path as text or `Path`.
        base: the directory that a relative path is relative to.
        local_paths: False refuses local paths.

    Raises:
        InvalidDatasetError: anything else (another scheme, no key, a number, bytes).
    """
    value = _text(value)
    if not isinstance(value, str):
        shown = f"{type(value).__name__} {_short(value)}"
        raise InvalidDatasetError(f"{shown} is not a location: give s3://bucket/key or a local path as text")
    if value.startswith("s3://"):
        return _object_url(value)
    _check_local(value, "s3://bucket/key")
    if not local_paths:
        raise InvalidDatasetError(
            f"{_short(value)} is a local path, which Options(local_paths=False) refuses: give s3://bucket/key"
        )
    if not value.strip("/"):
        raise InvalidDatasetError(f"{_short(value)} is the root of the disk: give a directory on it")
    return Directory(base / value) if value.endswith("/") else base / value


def one_file(at: Source) -> Location:
    """Return where one file is.

    Raises:
        InvalidDatasetError: it is a directory.
    """
    if isinstance(at, Directory):
        raise InvalidDatasetError(f"{_short(str(at))}: {ONE_FILE_REMEDY}")
    return at


def pinned(at: Source, version_id: object) -> Source:
    """Return a location held to one version of its object; `version_id` None: as it is, the newest.

    Raises:
        InvalidDatasetError: it is no version, or not of an object.
    """
    if version_id is None:
        return at
    if not isinstance(version_id, str) or not version_id:
        raise InvalidDatasetError(f"version_id {_short(version_id)} is no version: give text, or null for the newest")
    if not isinstance(at, ObjectUrl):
        raise InvalidDatasetError(f"{at} is no object in S3, and has no versions: leave its version_id null")
    try:
        version_id.encode()
    except UnicodeEncodeError:
        raise InvalidDatasetError(f"version_id {_short(version_id)} is not valid Unicode") from None
    return at._replace(version_id=version_id)


def parse_prefix(value: object, *, local_paths: bool = True, what: str = "into_path") -> Location:
    """Return the place below which something is stored; one trailing slash makes no difference.

    The key of the result may be empty: the root of a bucket. A local path stays as it was given. `what` names the
    argument in messages.

    Raises:
        InvalidDatasetError: neither `s3://bucket[/prefix]` nor a local path, or a local path with `local_paths=False`.
    """
    value = _text(value)
    if not isinstance(value, str):
        raise InvalidDatasetError(f"{what}={_short(value)}: give s3://bucket/prefix or a local path")
    if value.startswith("s3://"):
        bucket, key = _split(value)
        _check_url(bucket, value)
        return ObjectUrl(bucket, key.removesuffix("/"))
    _check_local(value, "s3://bucket/prefix")
    if not local_paths:
        raise InvalidDatasetError(
            f"{what}={_short(value)} is a local path, which Options(local_paths=False) refuses: give s3://bucket/prefix"
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # a name that is no UTF-8 (PEP 383), which no manifest can hold
        raise InvalidDatasetError(f"{what}={_short(value)} is not valid Unicode: rename the directory") from None
    return Path(value)


def why_no_file(path: str | os.PathLike[str]) -> str:
    """Return why a path that leads to no local file may be meant otherwise: as a URL."""
    text = os.fspath(path)
    match = _SCHEME.match(text.strip())
    if match is None:
        return f"{text} is no file" if (home := _home(text)) is None else home
    if match[0].lower() != "s3:/":
        return f"{_short(text)} is a URL, and what is stored is a local file: give its path"
    remedy = "download it first, by reader(row={...}).into_temp_dir()"
    return f"{_short(text)} is an S3 URL, and what is stored is a local file: {remedy}"


def join(prefix: Location, *names: str) -> Location:
    """Return the location `names` below `prefix`.

    Raises:
        InvalidDatasetError: the key would be longer than S3 allows.
    """
    if isinstance(prefix, Path):
        return prefix.joinpath(*names)
    key = "/".join([prefix.key, *names] if prefix.key else names)
    if len(key.encode()) > KEY_BYTES:
        raise InvalidDatasetError(
            f"the key {_short(key)} is longer than S3's {KEY_BYTES} bytes: shorten id or into_path"
        )
    return ObjectUrl(prefix.bucket, key)


def check_file_name(name: object, *, segment_bytes: int = SEGMENT_BYTES) -> str:
    """Return `name` when it is a safe relative path of a file, such as `image.mha` or `sub/x.txt`.

    Args:
        name: whatever names a file.
        segment_bytes: the limit of each segment; `KEY_BYTES` where it only becomes a key of S3.

    Raises:
        InvalidDatasetError: it is not text, is absolute, or would leave its directory.
    """
    if not isinstance(name, str):
        raise InvalidDatasetError(f"file name {_short(name)} is a {type(name).__name__}: a file name is text")
    if name.startswith("/"):
        raise InvalidDatasetError(f"file name {_short(name)} is absolute: give it relative, such as 'image.mha'")
    for segment in name.split("/"):
        if reason := _segment_fault(segment, segment_bytes):
            raise InvalidDatasetError(f"file name {_short(name)} {reason}")
    return name


def check_id(row_id: object) -> str:
    """Return the text of an id when it is safe as one segment of a path.

    Raises:
        InvalidDatasetError: it is no str or integer, or its text is no safe segment.
    """
    if is_null(row_id):
        raise InvalidDatasetError(f"id {_short(row_id)} is null: every row needs an id of its own")
    # bool is an int to Python; numpy's integers are none, but count as Integral
    if isinstance(row_id, bool) or not isinstance(row_id, str | Integral):
        raise InvalidDatasetError(f"id {_short(row_id)} is a {type(row_id).__name__}: an id is a str or an integer")
    try:
        text = str(row_id)
    except ValueError as exc:  # an integer of thousands of digits
        raise InvalidDatasetError(f"id: {exc}") from exc
    if reason := _segment_fault(text):
        raise InvalidDatasetError(f"id {_short(row_id)} {reason}: it names one directory")
    return text


def collisions(names: list[str]) -> list[str]:
    """Return the names that a file system which folds case and accents would take for another one of them.

    macOS does so by default; a manifest written on Linux is read there too.
    """
    seen: dict[str, str] = {}
    return [name for name in names if seen.setdefault(folded(name), name) != name]


def folded(name: str) -> str:
    """Return the form under which a case-insensitive file system would look `name` up: NFC, then casefold."""
    return unicodedata.normalize("NFC", name).casefold()


def _segment_fault(segment: str, most_bytes: int = SEGMENT_BYTES) -> str | None:
    if segment in {"", ".", ".."}:
        return f"has the segment {segment!r}" if segment else "is empty or has an empty segment"
    if found := _UNSAFE.search(segment):
        kind = "a slash" if found[0] == "/" else "a backslash" if found[0] == "\\" else "a control character"
        return f"holds {kind}"
    try:
        size = len(segment.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    place = "S3" if most_bytes == KEY_BYTES else "a file system"
    return f"is {size} bytes of UTF-8, over the {most_bytes} of {place}" if size > most_bytes else None


def _split(url: str) -> tuple[str, str]:
    rest = url.removeprefix("s3://")
    if arn := _BUCKET_ARN.match(rest):
        return arn[0], rest[arn.end() :].removeprefix("/")
    bucket, _, key = rest.partition("/")
    return bucket, key


def _object_url(url: str) -> ObjectUrl | Directory:
    bucket, key = _split(url)
    _check_url(bucket, url)
    if not key:
        raise InvalidDatasetError(
            f"{_short(url)} names a bucket, not an object: give s3://bucket/key, or s3://bucket/prefix/ for a directory"
        )
    return Directory(ObjectUrl(bucket, key)) if key.endswith("/") else ObjectUrl(bucket, key)


def _check_url(bucket: str, url: str) -> None:
    try:
        url.encode()
    except UnicodeEncodeError:
        raise InvalidDatasetError(f"{_short(url)} is not valid Unicode") from None
    if not _BUCKET_NAME.fullmatch(bucket) and not _BUCKET_ARN.fullmatch(bucket):
        raise InvalidDatasetError(f"{_short(url)} has no valid bucket name: give s3://bucket/key")


def shown(value: object) -> str:
    """Return a bad location as a failure shows it: its text, or the beginning of it."""
    try:
        return str(value)[:_SHOWN_CHARS]
    except ValueError:  # an integer of thousands of digits
        return f"<{type(value).__name__}>"


def _text(value: object) -> object:
    """Return the text of a `Path` or whatever else stands for one; anything else is what it is."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    return text if isinstance(text, str) else value


def _check_local(path: str, wanted: str) -> None:
    if match := _SCHEME.match(path):
        scheme = match[0].rstrip("/")
        reason = "a slash is missing" if scheme == "s3:" else f"{scheme}// is not read"
        raise InvalidDatasetError(f"{_short(path)}: {reason}; give {wanted} or a local path")
    if path.strip().startswith("s3://"):
        raise InvalidDatasetError(f"{_short(path)} begins with a space: give {wanted} or a local path")
    try:
        is_path = bool(os.fsencode(path)) and "\0" not in path
    except UnicodeEncodeError:
        raise InvalidDatasetError(f"{_short(path)} is not valid Unicode: give {wanted} or a local path") from None
    if not is_path:
        raise InvalidDatasetError(f"{_short(path)} is not a location: give {wanted} or a local path")
    check_home(path)


def check_home(path: str | os.PathLike[str]) -> None:
    """Refuse `~/x`, and `~name/x` where there is such a user: as it stands it would be a directory named `~`.

    Raises:
        InvalidDatasetError: a shell would write another path there.
    """
    if (home := _home(os.fspath(path))) is not None:
        raise InvalidDatasetError(home)


def _home(text: str) -> str | None:
    if text.startswith("~") and os.path.expanduser(text) != text:  # noqa: PTH111  # as text
        return f"{_short(text)}: ~ is not expanded; give Path({_short(text)}).expanduser()"
    return None


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
