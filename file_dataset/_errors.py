"""Every exception of the library, and the record of why a row was dropped.

    Exception
    +-- FileDatasetError
        +-- InvalidDatasetError (ValueError)   refused before any byte moved
        +-- RowError                           `.failures`: what failed, file by file
        +-- RunStoppedError                    `.result`: what was done until then; lives beside it, in `_result`
        +-- MissingExtraError (ImportError)    an extra of the package is not installed

Stores raise the built-in `OSError` family (`FileNotFoundError`, `PermissionError`, `TimeoutError`,
`ConnectionError`, ...), so that local disk and S3 fail alike; S3's own code is the attribute `code`.

    OSError
    +-- FileChangedError                       a local file changed while it was copied

    ConnectionError
    +-- IncompleteBodyError                    fewer bytes arrived than promised
    +-- ChecksumMismatchError                  the bytes that arrived are not the bytes stored
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from file_dataset._secrets import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

RowId: TypeAlias = "str | int | None"
Stage: TypeAlias = Literal["download", "fn", "upload"]

# Codes that no later row can escape: every further request would be refused alike
# (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
NO_CREDENTIALS = "NoCredentials"  # ours, where the store was never asked
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
# the store has too many requests; a HEAD's response has no code but its status
SLOW_DOWN_CODES = frozenset({
    "429", "503", "BandwidthLimitExceeded", "RequestLimitExceeded", "RequestThrottled", "ServiceUnavailable",
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
CREDENTIAL_CODES = EXPIRED_CODES | {"InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", NO_CREDENTIALS}


class FileDatasetError(Exception):
    """Base of every error that this library raises by name.

    Example:
        >>> try:
        ...     reader({"scan.txt": "s3://my-bucket/missing.txt"}).into_blob_table()
        ... except FileDatasetError as error:
        ...     print(type(error).__name__)
        RowError
    """


class InvalidDatasetError(FileDatasetError, ValueError):
    """Refused before the first request: a frame, an id, a file name, a location or an argument.

    Example:
        >>> try:
        ...     write_files({"a.txt": "a.txt"}, into_path="gs://my-bucket/notes", id=1)
        ... except InvalidDatasetError as error:
        ...     print("refused:", error)  # doctest: +ELLIPSIS
        refused: ...gs://my-bucket/notes...
    """


class MissingExtraError(FileDatasetError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it.

    Example:
        >>> try:
        ...     import file_dataset_dagster
        ... except MissingExtraError as error:  # without Dagster
        ...     print(error)
    """


# control characters (C0, DEL, C1) and the separators that end a line
_ESCAPES = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_MESSAGE_CHARS = 2000  # a guess: the sentence and what it quotes, not a whole file


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one file, or the function, cost a row.

    `id` has the value (and type) it had in the frame, None where the frame has no ids. `file`, `url` and `code` are
    None where the failure concerns no file or no store. `type` is the name of the exception's class, `code` S3's own.
    """

    id: RowId
    stage: Stage
    file: str | None
    url: str | None
    type: str
    code: str | None
    message: str

    def __post_init__(self) -> None:
        """Make the texts safe for logs and Arrow: no secrets, no surrogates (of names that are no UTF-8, PEP 383)."""
        object.__setattr__(self, "message", masked(self.message))
        for name in ("file", "url", "message"):
            text = getattr(self, name)
            if isinstance(text, str):
                object.__setattr__(self, name, printable(text))

    @classmethod
    def of(
        cls, row_id: RowId, stage: Stage, error: BaseException, *, file: str | None = None, url: object = None
    ) -> Failure:
        """Return the failure that `error` is, for one row and one file."""
        try:
            text = str(error)
            if isinstance(error, OSError) and error.strerror:  # without the errno
                text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            text = text[:_MESSAGE_CHARS]
        except Exception:  # noqa: BLE001  # the user's own exception, whose __str__ may fail too
            text = ""
        return cls(
            row_id,
            stage,
            file,
            None if url is None else str(url),
            type(error).__name__,
            code_of(error),
            text or type(error).__name__,
        )

    def __str__(self) -> str:
        """Return stage, file, URL and cause; a cause of several lines keeps them, and a key does not make any."""
        where = on_one_line(" ".join(part for part in (self.file, f"({self.url})" if self.url else None) if part))
        kind = f"{self.type} ({self.code})" if self.code else self.type
        return " ".join(part for part in (self.stage, where) if part) + f": {kind}: {self.message}"


class RowError(FileDatasetError):
    """Files of one row, or of a read, could not be read, made or stored: `failures` lists every one.

    Example:
        >>> try:
        ...     reader({"scan.txt": "s3://my-bucket/missing.txt"}).into_blob_table()
        ... except RowError as error:
        ...     print([(failure.file, failure.code) for failure in error.failures])
        [('scan.txt', 'NoSuchKey')]
    """

    def __init__(self, failures: Sequence[Failure], message: str | None = None) -> None:
        """Take the failures, at least one; the message is made from them unless given."""
        self.failures = tuple(failures)
        super().__init__(masked(message or _listing(self.failures)))
        self.message = str(self)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the failures with the message."""
        return type(self), (self.failures, self.message)


class FileChangedError(OSError):
    """A local file changed while it was copied: what was read of it may be of two states, or a part."""


class IncompleteBodyError(ConnectionError):
    """Fewer bytes arrived than the store promised."""


class ChecksumMismatchError(ConnectionError):
    """The bytes that arrived are not the bytes that the store holds."""


def printable(text: str) -> str:
    """Return text for logs and Arrow: what is no UTF-8 in a file's name (a surrogate, PEP 383) becomes an escape."""
    # the same object, not a copy: a run keeps the text of every failure
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def on_one_line(text: str) -> str:
    """Return a name or a key for a log or a terminal: a control character in it becomes an escape."""
    return text if text.isprintable() else text.translate(_ESCAPES)


def store_error(kind: type[OSError], message: str, *, code: str | None = None) -> OSError:
    """Return an error of the built-in family that carries the store's own code."""
    error = kind(_ERRNO.get(kind, errno.EIO), masked(message))
    error.code = code  # type: ignore[attr-defined]  # an attribute of ours on the built-in types
    return error


def exists_already(code: str | None = None, *, may_be_own: bool = False) -> OSError:
    """Return the error of an output that is there already, and is not replaced.

    Args:
        code: the store's own.
        may_be_own: an earlier attempt may have stored it, whose answer was lost.
    """
    message = (
        "it exists already, and if_exists='error' replaces nothing: give another into_path, remove it, or choose "
        "if_exists='skip' or 'overwrite'"
    )
    if may_be_own:
        message += " (the answer to an earlier attempt of this upload was lost: it may be what that one stored)"
    return store_error(FileExistsError, message, code=code)


def code_of(error: BaseException) -> str | None:
    """Return the store's own code, such as `NoSuchKey`, or None."""
    code = getattr(error, "code", None) if isinstance(error, OSError) else None
    return code if isinstance(code, str) else None


def mark_unanswered(error: BaseException) -> None:
    """Note that the store sent nothing: no connection, no TLS, or silence until a timeout."""
    error.is_unanswered = True  # type: ignore[attr-defined]  # an attribute of ours on the built-in types


def is_unanswered(error: BaseException | None) -> bool:
    """Return whether a request failed before the store sent anything."""
    return getattr(error, "is_unanswered", False)


def is_transient(error: BaseException) -> bool:
    """Return whether another attempt may help: broken, slow, throttled or damaged, never a refusal."""
    return isinstance(error, ConnectionError | TimeoutError)


def is_disk_full(error: BaseException) -> bool:
    """Return whether the local disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_fatal(error: BaseException) -> bool:
    """Return whether every later row would fail alike: the disk is full, or the store refuses these credentials."""
    return is_disk_full(error) or code_of(error) in CREDENTIAL_CODES


_ERRNO: dict[type[OSError], int] = {
    FileExistsError: errno.EEXIST,
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    TimeoutError: errno.ETIMEDOUT,
    IsADirectoryError: errno.EISDIR,
    ConnectionError: errno.ECONNABORTED,
}

_SHOWN = 20  # a guess: what still fits a terminal


def _listing(failures: Sequence[Failure]) -> str:
    lines = [
        f"failed at {failure}" if failure.id is None else f"row {failure.id!r} failed at {failure}"
        for failure in failures[:_SHOWN]
    ]
    if len(failures) == 1:
        return lines[0]
    more = [f"... and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []
    return "\n  ".join([f"{len(failures)} failures:", *lines, *more])
