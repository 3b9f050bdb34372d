"""Directories of many rows: listed in order, some ahead, and what is to be read of them."""

from __future__ import annotations

import functools
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from file_dataset import _directories, _in_order
from file_dataset._errors import Failure, RowError
from file_dataset._plan import Transfer
from file_dataset._urls import Directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from file_dataset._directories import Contents
    from file_dataset._errors import RowId
    from file_dataset._plan import FileRow
    from file_dataset._store import Listing
    from file_dataset._stores import Stores

_LISTINGS_AHEAD = 16  # each has thousands of names; a guess


@dataclass(frozen=True, slots=True)
class WantedDirectory:
    """A directory of which it is wanted what is in it."""

    row_id: RowId
    file: str
    at: Directory
    position: int


def listings(
    wanted: Iterable[WantedDirectory], stores: Stores, failed: list[tuple[WantedDirectory, Failure]]
) -> Iterator[tuple[WantedDirectory, Contents]]:
    """Yield what is in every directory, in order; one LIST per 1,000 objects.

    Args:
        wanted: the directories.
        stores: the stores that have them.
        failed: takes those without a file, and those that cannot be listed, with the reason, before later ones come.

    Raises:
        RowError: the store refuses these credentials, or there are none: nothing is known of any directory.
    """
    cancelled = threading.Event()

    def unread(each: tuple[int, WantedDirectory], error: OSError) -> Failure:
        failure = Failure.of(each[1].row_id, "download", error, file=each[1].file, url=each[1].at)
        failed.append((each[1], failure))
        return failure

    unlisted = _in_order.FailedFiles[tuple[int, WantedDirectory]](unread)

    def listing(each: tuple[int, WantedDirectory]) -> Future[Listing]:
        at = each[1].at.at
        return stores.of(at).list(at, cancelled=cancelled)

    found = _in_order.tried(
        enumerate(wanted),
        listing,
        lambda each: each[1].at.at,
        unlisted,
        stores,
        cancelled,
        lambda each, first: each[0] > first[0] + _LISTINGS_AHEAD,
    )
    for each, objects in found:
        try:
            contents = _directories.contents(each[1].at, objects)
        except OSError as exc:
            unlisted.add(each, exc)
        else:
            yield each[1], contents
    if unlisted.fatal:
        raise RowError(unlisted.fatal) from unlisted.worst


def transfers(
    rows: Iterable[FileRow], into: Callable[[FileRow], str], stores: Stores, unlisted: list[Failure]
) -> Iterator[Transfer[str]]:
    """Yield one transfer per file of the rows, into `<into(row)>/<file name>`; make those directories without files.

    Args:
        rows: the rows.
        into: where a row's files go.
        stores: the stores of the directories.
        unlisted: takes why there is no transfer of some, before those of the next row come: a directory without a file,
            a name that can be none here.

    Raises:
        RowError: the store refuses these credentials, or there are none.
    """
    found = [(row, {name: _directories.source_of(at) for name, at in row.files.items() if at}) for row in rows]
    directories = [
        WantedDirectory(row.id, name, at, position)
        for position, (row, sources) in enumerate(found)
        for name, at in sources.items()
        if isinstance(at, Directory)
    ]
    failed: list[tuple[WantedDirectory, Failure]] = []
    listed = listings(directories, stores, failed)
    following = next(listed, None)
    for position, (row, sources) in enumerate(found):
        place = into(row)
        is_empty = True
        for name, at in sources.items():
            is_empty = False
            if not isinstance(at, Directory):
                yield Transfer(row.id, name, at, f"{place}/{name}")
            elif following is not None and (following[0].position, following[0].file) == (position, name):
                contents, following = following[1], next(listed, None)
                yield from _members(row, name, contents, place, unlisted)
            else:  # it failed, and so may have some that follow it
                unlisted += [failure for _, failure in failed]
                failed.clear()
        if is_empty:  # a directory all the same
            os.makedirs(place, exist_ok=True)  # noqa: PTH103  # the path is text


def _members(
    row: FileRow, name: str, contents: Contents, place: str, unlisted: list[Failure]
) -> Iterator[Transfer[str]]:
    refused = _directories.refused(row.id, name, contents, functools.partial(_directories.folds, place))
    if refused:
        unlisted += refused
        return
    _directories.make(contents, f"{place}/{name}")
    yield from _directories.members(row.id, name, contents, place)
