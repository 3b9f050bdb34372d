"""Uploads that replace nothing: `If-None-Match: *`, and whose object it is that they meet.

S3 answers 412 where an object is there already. So it does to our own second attempt, when the first was stored and its
answer was lost: then a HEAD compares, and the object counts as stored when it is the file that was sent
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from file_dataset._errors import SLOW_DOWN_CODES, code_of, exists_already, is_transient, store_error
from file_dataset._s3.requests import Put

if TYPE_CHECKING:
    from collections.abc import Callable

    from file_dataset._http.exchange import Answer
    from file_dataset._s3.access import Access
    from file_dataset._sink import ObjectInfo

T = TypeVar("T")

CONDITION = {"IfNoneMatch": "*"}  # as boto3 has it
HEADERS = {"if-none-match": "*"}
EXISTS_CODES = frozenset({"PreconditionFailed", "412"})
# another write of the same key was under way; the object was not stored
CONFLICT_CODE = "ConditionalRequestConflict"
# with these a store has stored nothing, though another attempt may help
_NOT_STORED_CODES = SLOW_DOWN_CODES | {
    CONFLICT_CODE, "BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout",
}  # fmt: skip
_UNKNOWN_CODES = frozenset({"NotImplemented", "501"})


class OnlyNew:
    """One upload that replaces nothing.

    Attributes:
        may_be_stored: an attempt of it may have been stored, for its answer is not known.
    """

    def __init__(self, find: Callable[[Access], ObjectInfo | None], *, is_one_request: bool = True) -> None:
        """Take what looks at the object that is there.

        Args:
            find: returns what a HEAD has of it where it is what was sent; None: it is another, or nothing proves it.
            is_one_request: its object comes with the request; False: in parts that came before.
        """
        self._find, self._is_one_request = find, is_one_request
        self.may_be_stored = False

    def settle(self, access: Access, error: OSError) -> ObjectInfo:
        """Return what is stored, where an attempt failed because an earlier one did not.

        Raises:
            FileExistsError: an object is there that is not ours.
            OSError: the attempt's error.
        """
        code = code_of(error)
        if code in EXISTS_CODES:
            if self.may_be_stored and (found := self._find(access)) is not None:
                return found
            raise exists_already("PreconditionFailed", may_be_own=self.may_be_stored) from error
        if code in _UNKNOWN_CODES:
            remedy = "if_exists='error' sends If-None-Match, which this store may not know: use 'skip' or 'overwrite'"
            raise store_error(OSError, f"{error.strerror}; {remedy}", code=code) from error
        if code == CONFLICT_CODE and not self._is_one_request:
            # the parts are gone: it is to be begun anew
            # (https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html)
            raise store_error(OSError, str(error.strerror), code=code) from error
        if is_transient(error) and code not in _NOT_STORED_CODES:
            self.may_be_stored = True
        raise error


class NewPut(Put[T]):
    """A PUT that replaces nothing."""

    __slots__ = ("_only_new",)

    def __init__(self, only_new: OnlyNew, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # as Put takes them
        """Take the upload that it is an attempt of."""
        super().__init__(*args, **kwargs)
        self._only_new = only_new

    def end(self, answer: Answer | None, error: BaseException | None) -> None:
        """Note whether the connection that broke first may have brought it."""
        if self.is_second_try:
            self._only_new.may_be_stored = True
        super().end(answer, error)
