"""One operation from its first attempt to its last: by our own HTTP, by boto3 where that does not know how, and again.

The first attempt runs on the loop's thread; what fails goes to a pool thread, which may wait, renew credentials, and
attempt it again (`_retry`, for both engines).
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from file_dataset._errors import EXPIRED_CODES, code_of
from file_dataset._retry import attempt
from file_dataset._s3.plain_router import PlainRouter
from file_dataset._s3.requests import ElsewhereError
from file_dataset._s3.route import UnknownError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from file_dataset._pool import Pool
    from file_dataset._s3.access import Access, CurrentAccess
    from file_dataset._s3.route import Route
    from file_dataset._urls import ObjectUrl

Rescue: TypeAlias = "Callable[[Exception], object] | None"

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Operation(Generic[T]):
    """What is to be done, in both ways: one attempt each."""

    at: ObjectUrl
    cancelled: threading.Event
    by_http: Callable[[Access, Route, Future[T], Rescue], None]
    by_boto3: Callable[[Access], T]
    # what an attempt that failed gives all the same; else it raises why
    settle: Callable[[Access, OSError], T] | None = None


def not_by_http(*_: object) -> None:
    """Leave an operation to boto3.

    Raises:
        UnknownError: always.
    """
    raise UnknownError("XML is botocore's")


class Operations:
    """Runs the operations of one store."""

    def __init__(self, current: CurrentAccess, pool: Pool, *, is_boto3: bool) -> None:
        """Take what all of them use; `is_boto3`: the user wants boto3 for each."""
        self._current, self._pool, self._is_boto3 = current, pool, is_boto3

    @property
    def attempts(self) -> int:
        """How often a request is made at most."""
        return self._current.get().attempts

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Begin an operation, by our own HTTP on this thread where the bucket has a route."""
        access = self._current.get(operation.at.bucket)
        route = self.route(access, operation.at.bucket)
        if route is None:
            return self._pool.submit(self.retried, operation)
        future: Future[T] = Future()

        def rescue(error: Exception) -> None:
            try:
                self._pool.submit(self._rescue, future, operation, (access, error))
            except OSError as exc:  # no thread to try again on
                if isinstance(error, OSError):
                    error.strerror = f"{error.strerror or error} (and not tried again: {exc.strerror})"
                future.set_exception(error if isinstance(error, OSError) else exc)

        try:
            operation.by_http(access, route, future, rescue)
        except UnknownError as exc:
            rescue(exc)
        return future

    def _rescue(self, future: Future[T], operation: Operation[T], failed: tuple[Access, Exception]) -> None:
        try:
            result = self.retried(operation, failed)
        except BaseException as exc:  # noqa: BLE001  # handed over
            future.set_exception(exc)
        else:
            future.set_result(result)

    def retried(self, operation: Operation[T], failed: tuple[Access, Exception] | None = None) -> T:
        """Return what the operation gives, after as many attempts as the options allow.

        Args:
            operation: what to do.
            failed: how the first attempt failed, which our own HTTP has made already.
        """
        first = [failed] if failed else []

        def once() -> T:
            access, error = first.pop() if first else (self._current.get(operation.at.bucket), None)
            try:
                return self._once(operation, access, error)
            except OSError as exc:
                if code_of(exc) not in EXPIRED_CODES:
                    if operation.settle is None:
                        raise
                    return operation.settle(access, exc)
                self._current.renew(access, exc)
            return once()

        return attempt(once, attempts=self.attempts, cancelled=operation.cancelled)

    def _once(self, operation: Operation[T], access: Access, error: Exception | None) -> T:
        bucket = operation.at.bucket
        try:
            if error is not None:
                raise error
            route = self.route(access, bucket)
            if route is not None:
                future: Future[T] = Future()
                operation.by_http(access, route, future, None)
                return future.result()
        except UnknownError as exc:
            logger.debug("%s is left to boto3: %s", operation.at, exc)
            access = self._current.connected(access)
            result = operation.by_boto3(access)
            if isinstance(exc, ElsewhereError) and not isinstance(access.router, PlainRouter):
                access.router.find_again(bucket)  # botocore knows by now where
            return result
        return operation.by_boto3(self._current.connected(access))

    def route(self, access: Access, bucket: str) -> Route | None:
        """Return how our own requests for the bucket are made; None: they are left to boto3.

        Raises:
            OSError: there are no credentials, say.
        """
        if self._is_boto3:
            return None
        if isinstance(access.router, PlainRouter):
            return access.router.route(bucket)
        from file_dataset._s3 import boto_errors as errors

        try:
            return access.router.route(bucket)
        except errors.RAISED as exc:
            raise errors.os_error(exc) from errors.cause_of(exc)
