"""`if_exists`: what is there already of a row's outputs, looked at before its download, and what a row takes back.

One HEAD per declared output. A row that fails under `"error"` removes what it stored: nothing was there before, and the
row can run again.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from file_dataset import _in_order, _plan, _urls, _verdict
from file_dataset._errors import Failure, InvalidDatasetError, RowError, code_of, exists_already, store_error
from file_dataset._tally import Failed, Stored, stored_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from file_dataset._errors import RowId
    from file_dataset._prepared import Prepared
    from file_dataset._silence import Silence
    from file_dataset._sink import ObjectInfo
    from file_dataset._store import ObjectStore
    from file_dataset._stores import Stores
    from file_dataset._urls import Location

T = TypeVar("T")

# what a HEAD is answered that has no body with the reason
_DENIED_CODES = frozenset({"403", "AccessDenied"})
_MAY_NOT_BE_THERE = (
    "a HEAD says no more than that. Check the credentials; where they may not list the bucket, S3 answers 403 for an "
    "object that is not there: allow s3:GetObject and s3:ListBucket, or leave if_exists out"
)


class Asked(Generic[T]):
    """A question about each target of a row, all asked at once."""

    def __init__(self, targets: Mapping[str, Location], stores: Stores) -> None:
        """Ask nothing yet."""
        self.targets, self._stores = targets, stores
        self._running: dict[str, Future[T]] = {}
        self._failed: dict[str, OSError] = {}

    def ask(self, question: Callable[[ObjectStore[Any], Location], Future[T]], then: Callable[[], object]) -> None:
        """Ask; `then` is called when the last answer has come, by the thread that brings it: it must not wait."""
        for name, at in self.targets.items():
            try:
                self._running[name] = question(self._stores.of(at), at)
            except OSError as exc:  # the store could not be reached at all: no credentials, say
                self._failed[name] = exc
        _in_order.AllEnd(list(self._running.values()), then)

    def answers(self) -> dict[str, T | OSError]:
        """Return the answer about each, or why there is none."""
        found: dict[str, T | OSError] = {}
        for name in self.targets:
            try:
                found[name] = self._failed.get(name) or self._running[name].result()
            except OSError as exc:
                found[name] = exc
        return found

    def silent(self) -> Iterator[tuple[Silence, str]]:
        """Yield what is waited for, and who knows for how long no byte has moved."""
        for name, future in list(self._running.items()):
            if not future.done():
                at = self.targets[name]
                yield self._stores.of(at).silence, str(at)

    @property
    def running(self) -> list[Future[T]]:
        """What was asked and is not answered."""
        return [future for future in self._running.values() if not future.done()]

    def forget(self) -> None:
        """Let go of the answers: their callbacks refer to this, which would wait for the garbage collector."""
        self._running = {}


def is_looked_for(prepared: Prepared) -> bool:
    """Return whether a row's outputs are looked for before its download: where it is known which they are."""
    return prepared.settings.if_exists != "overwrite" and prepared.contract is not None


def looking(prepared: Prepared, row_id: RowId) -> Asked[ObjectInfo]:
    """Return what looks for the declared outputs of a row, and has not begun.

    Raises:
        RowError: a key would be too long.
    """
    assert prepared.contract is not None  # noqa: S101  # is_looked_for()
    try:
        targets = _plan.targets(row_id, prepared.contract.names, prepared.prefix)
    except InvalidDatasetError as exc:
        raise RowError([Failure.of(row_id, "upload", exc)]) from exc
    return Asked(targets, prepared.target)


def info(store: ObjectStore[Any], at: Location) -> Future[ObjectInfo]:
    """Ask a store for what it has at a location."""
    return store.info(at)


def seen(prepared: Prepared, position: int, asked: Asked[ObjectInfo]) -> Stored | Failed | None:
    """Return what the answers make of the row at a position; None: it is to be run."""
    row_id = prepared.rows.id_at(position)
    found: dict[str, ObjectInfo] = {}
    failed: _in_order.FailedFiles[str] = _in_order.FailedFiles(
        lambda name, error: Failure.of(row_id, "upload", error, file=name, url=asked.targets[name])
    )
    for name, answer in asked.answers().items():
        if isinstance(answer, FileNotFoundError):
            continue
        if isinstance(answer, OSError):
            failed.add(name, _explained(answer))
        elif prepared.settings.if_exists == "error":
            is_local = not isinstance(asked.targets[name], _urls.ObjectUrl)
            failed.add(name, exists_already(None if is_local else "PreconditionFailed"))
        else:
            found[name] = answer
    if failed.all:
        error = failed.row_error()
        return Failed(error, is_refused=_verdict.is_refusal(error, len(asked.targets)))
    if len(found) < len(asked.targets):
        return None
    files = tuple(stored_file(position, name, asked.targets[name], info) for name, info in found.items())
    return Stored({file.file: file.location for file in files}, files, 0, was_there=True)


def _explained(error: OSError) -> OSError:
    if code_of(error) not in _DENIED_CODES:
        return error
    return store_error(PermissionError, f"{error.strerror}; {_MAY_NOT_BE_THERE}", code="AccessDenied")


class TakingBack:
    """Removes what a row has stored that failed, or was given up."""

    def __init__(self, failed: Failed | None, stored: Mapping[str, Location], stores: Stores) -> None:
        """Remove nothing yet.

        Args:
            failed: the outcome of the row; None: it has none.
            stored: where the files lie that it has stored, by name.
            stores: the stores of these.
        """
        self._failed = failed
        self._asked: Asked[None] = Asked(stored, stores)

    def begin(self, then: Callable[[], object]) -> list[Future[None]]:
        """Begin; return what is to be waited for; `then` is as in `Asked.ask`."""
        self._asked.ask(lambda store, at: store.remove(at), then)
        return self.running

    @property
    def running(self) -> list[Future[None]]:
        """What is to be waited for."""
        return self._asked.running

    def silent(self) -> Iterator[tuple[Silence, str]]:
        """Yield what is waited for, and who knows for how long no byte has moved."""
        return self._asked.silent()

    def outcome(self) -> Failed | None:
        """Return the outcome of the row, which says what could not be removed; call it when all has ended."""
        failed, targets = self._failed, self._asked.targets
        if failed is None:
            return None
        left = [f"{targets[name]}: {why.strerror}" for name, why in self._asked.answers().items() if why is not None]
        self._asked.forget()
        if not left:
            return failed
        note = f" (stored before that; remove it before the row runs again, for that failed: {'; '.join(left)})"
        noted = [dataclasses.replace(each, message=each.message + note) for each in failed.error.failures]
        error = RowError(noted)
        error.__cause__ = failed.error.__cause__
        return dataclasses.replace(failed, error=error)
