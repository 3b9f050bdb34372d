"""`if_exists`: what is there already of a row's outputs, looked at before its download, and what a row takes back.

One HEAD per declared output, and a LIST where there is no such object: to skip a row for any name, to fail it for a
name that is like a directory's. A row that fails under `"error"` removes what it stored: nothing
was there before, and the row can run again. Under `"skip"` a row with directories removes what it stored of the output
that was missing: a part would be taken for the whole.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from file_dataset import _directories, _in_order, _plan, _urls, _verdict
from file_dataset._errors import Failure, InvalidDatasetError, RowError, code_of, exists_already, store_error
from file_dataset._sink import ObjectInfo
from file_dataset._store import Page
from file_dataset._tally import Failed, Stored, stored_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from file_dataset import _frame
    from file_dataset._errors import RowId
    from file_dataset._prepared import Prepared
    from file_dataset._silence import Silence
    from file_dataset._store import Listing, ObjectStore
    from file_dataset._stores import Stores
    from file_dataset._urls import Location

T = TypeVar("T")

# Extensions of outputs that are directories, of most of them: a guess. Others are found when they are to be stored.
_OF_DIRECTORIES = frozenset({"", ".zarr"})
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


class Look:
    """Looks for the declared outputs of a row: for an object of each name, and for a directory where there is none.

    The latter is a LIST, one after the other. To skip a row any name is listed, until one has nothing below it: the row
    is to run. To fail it, those are listed whose name is like a directory's, where no object has failed it yet. On disk
    it is known at once what is a directory.
    """

    def __init__(self, prepared: Prepared, row_id: RowId) -> None:
        """Ask nothing yet.

        Raises:
            RowError: a key would be too long.
        """
        assert prepared.contract is not None  # noqa: S101  # is_looked_for()
        try:
            self._targets = _plan.targets(row_id, prepared.contract.names, prepared.prefix)
        except InvalidDatasetError as exc:
            raise RowError([Failure.of(row_id, "upload", exc)]) from exc
        self._prepared, self._row_id = prepared, row_id
        self._heads: Asked[ObjectInfo] = Asked(self._targets, prepared.target)
        self._is_error = prepared.settings.if_exists == "error"
        self._lists: dict[str, Asked[Listing] | Asked[Page]] = {}

    def begin(self, then: Callable[[], object]) -> None:
        """Begin; `then` is called when all is known, by the thread that brings it: it must not wait."""
        self._heads.ask(lambda store, at: store.info(at), lambda: self._list_next(then))

    def _list_next(self, then: Callable[[], object]) -> None:
        is_lost = not self._is_error and any(not self._listed(name) for name in self._lists)
        name = None if is_lost else next((name for name in self._unknown() if name not in self._lists), None)
        if name is None:
            then()
            return
        place = _urls.directory_at(self._targets[name])
        if self._is_error and isinstance(place.at, _urls.ObjectUrl):
            found: Asked[Page] = Asked({name: place.at}, self._prepared.target)
            self._lists[name] = found
            found.ask(lambda store, at: store.page(at), lambda: self._list_next(then))
            return
        asked: Asked[Listing] = Asked({name: place.at}, self._prepared.target)
        self._lists[name] = asked
        asked.ask(lambda store, at: store.list(at), lambda: self._list_next(then))

    def _unknown(self) -> list[str]:
        """Return the names under which there may be a directory."""
        answers = self._heads.answers()
        nothing = FileNotFoundError, IsADirectoryError
        if any(isinstance(answer, OSError) and not isinstance(answer, nothing) for answer in answers.values()):
            return []
        if not self._is_error:
            return [name for name, answer in answers.items() if isinstance(answer, nothing)]
        has_failed = any(isinstance(answer, ObjectInfo) for answer in answers.values())
        return [
            name
            for name, answer in answers.items()
            if isinstance(answer, IsADirectoryError)
            or (isinstance(answer, FileNotFoundError) and not has_failed and _is_like_a_directory(name))
        ]

    def _listed(self, name: str) -> Listing | OSError:
        answer = self._lists[name].answers()[name]
        return answer.found if isinstance(answer, Page) else answer

    def seen(self, position: int) -> Stored | Failed | None:
        """Return what the answers make of the row at a position; None: it is to be run."""
        failed: _in_order.FailedFiles[str] = _in_order.FailedFiles(
            lambda name, error: Failure.of(self._row_id, "upload", error, file=name, url=self._url(name))
        )
        found: dict[str, list[_frame.StoredFile]] = {}
        for name, head in self._heads.answers().items():
            answer = self._listed(name) if name in self._lists else head
            if not answer or isinstance(answer, FileNotFoundError):
                continue
            if isinstance(answer, OSError):
                if name in self._lists and isinstance(head, FileNotFoundError) and self._is_error:
                    continue  # an output that is a file takes no right to list; one that is a directory meets it later
                failed.add(name, _explained(answer))
            elif self._is_error:
                has_code = isinstance(self._targets[name], _urls.ObjectUrl) and name not in self._lists
                failed.add(name, exists_already("PreconditionFailed" if has_code else None))
            elif isinstance(answer, ObjectInfo):
                found[name] = [stored_file(position, name, self._targets[name], answer)]
            elif files := self._files(position, name, answer):
                found[name] = files
        if failed.all:
            error = failed.row_error()
            return Failed(error, is_refused=_verdict.is_refusal(error, len(self._targets)))
        if len(found) < len(self._targets):
            return None
        outputs = {name: self._url(name) for name in self._targets}
        return Stored(outputs, tuple(file for files in found.values() for file in files), 0, was_there=True)

    def _url(self, name: str) -> str:
        return f"{self._targets[name]}/" if name in self._lists else str(self._targets[name])

    def missing(self) -> tuple[str, ...]:
        """Return the outputs of which there was neither an object nor a directory; call it before `forget`."""
        listed = {name: self._listed(name) for name in self._lists}
        return tuple(
            name for name, found in listed.items() if not (isinstance(found, OSError) or self._files(0, name, found))
        )

    def _files(self, position: int, name: str, listing: Listing) -> list[_frame.StoredFile]:
        try:
            found = _directories.contents(_urls.directory_at(self._targets[name]), listing)
        except OSError:  # there are markers alone
            return []
        return [
            stored_file(position, f"{name}/{below}", each.at, ObjectInfo(each.size_bytes, each.etag))
            for below, each in found.files.items()
        ]

    def silent(self) -> Iterator[tuple[Silence, str]]:
        """Yield what is waited for, and who knows for how long no byte has moved."""
        for asked in self._all():
            yield from asked.silent()

    def forget(self) -> None:
        """Let go of the answers: their callbacks refer to this, which would wait for the garbage collector."""
        for asked in self._all():
            asked.forget()

    def _all(self) -> list[Asked[Any]]:
        return [self._heads, *self._lists.values()]


def _is_like_a_directory(name: str) -> bool:
    return PurePosixPath(name).suffix in _OF_DIRECTORIES


def _explained(error: OSError) -> OSError:
    if code_of(error) not in _DENIED_CODES:
        return error
    return store_error(PermissionError, f"{error.strerror}; {_MAY_NOT_BE_THERE}", code="AccessDenied")


class TakingBack:
    """Removes what a row has stored that failed, or was given up."""

    def __init__(self, failed: Failed | None, stored: Mapping[str, Location], stores: Stores, note: str = "") -> None:
        """Remove nothing yet.

        Args:
            failed: the outcome of the row; None: it has none.
            stored: where the files lie that it has stored, by name.
            stores: the stores of these.
            note: follows the messages of the failures when they are removed.
        """
        self._failed, self._note = failed, note
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
        note = self._note
        if left:
            note = f" (stored before that; remove it before the row runs again, for that failed: {'; '.join(left)})"
        if not note:
            return failed
        noted = [dataclasses.replace(each, message=each.message + note) for each in failed.error.failures]
        error = RowError(noted)
        error.__cause__ = failed.error.__cause__
        return dataclasses.replace(failed, error=error)
