"""What no output may replace: the inputs of the frame. Links are followed; nothing is requested."""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from file_dataset import _urls
from file_dataset._errors import Failure, InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from file_dataset._frame import Rows
    from file_dataset._plan import Uploads
    from file_dataset._urls import Location


def inputs_at_risk(rows: Rows, prefix: Location, is_one_store: Callable[[], bool]) -> frozenset[str]:
    """Return the inputs that outputs below `prefix` could replace, as `_places` names them.

    Args:
        rows: the frame.
        prefix: where outputs go.
        is_one_store: whether the inputs' store is that of the outputs: the same URL in another is another object.
    """
    cells = [cell for column in rows.cells.values() for cell in column if cell is not None]
    if isinstance(prefix, _urls.ObjectUrl):
        start = str(prefix).removesuffix("/") + "/"
        texts = (cell for cell in cells if isinstance(cell, str))
        below = {cell for cell in texts if cell.startswith(start) or (cell.endswith("/") and start.startswith(cell))}
        return frozenset(below if below and is_one_store() else ())
    places: set[str] = set()
    real_parents: dict[str, str] = {}  # of a directory with many inputs the links are followed once
    for cell in cells:
        with contextlib.suppress(InvalidDatasetError):  # costs its row when its turn comes
            at = _urls.parse(cell, base=rows.base)
            at = at.at if isinstance(at, _urls.Directory) else at
            if isinstance(at, Path):
                places.update(f"{place}{end}" for place in _places(at, real_parents) for end in ("", "/"))
    return frozenset(places)


def check_promised(names: Iterable[str], rows: Rows, prefix: Location, inputs: AbstractSet[str]) -> None:
    """Refuse outputs that fn promises and that would lie on top of inputs, or in them, before the first request.

    Raises:
        InvalidDatasetError: naming some of them.
    """
    if not inputs:
        return
    targets = (_urls.join(prefix, str(row_id), *name.split("/")) for row_id in rows.ids or () for name in names)
    if on_top := [str(at) for at in targets if not inputs.isdisjoint(_targets(at))]:
        raise InvalidDatasetError(
            f"outputs would replace inputs of this frame, or lie in a directory among them: {on_top[:5]}; choose "
            "another into_path"
        )


def failures(uploads: Uploads, inputs: frozenset[str]) -> list[Failure]:
    """Return a failure for every output that would replace an input, or change a directory among the inputs."""
    if not inputs:
        return []
    message = (
        "the output would replace an input of this frame, or lie in a directory among them: choose another into_path"
    )
    found = [
        Failure(up.row_id, "upload", up.file, str(up.target), "ValueError", None, message)
        for up in uploads.singles
        if not inputs.isdisjoint(_targets(up.target))
    ]
    for each in uploads.directories:
        places = {f"{place}/" for place in _places(each.target)}
        above = {one for place in places for one in _above(place)}
        if not inputs.isdisjoint(above):
            found.append(Failure(each.row_id, "upload", each.name, each.url, "ValueError", None, message))
        elif (inside := next(filter(None, (_first_within(place, inputs) for place in places)), None)) is not None:
            holds = f"the output would take the place of {inside}, an input of this frame: choose another into_path"
            found.append(Failure(each.row_id, "upload", each.name, each.url, "ValueError", None, holds))
    return found


def _first_within(directory: str, inputs: frozenset[str]) -> str | None:
    """Return an input that lies in a directory, which ends in a slash; None: none does."""
    in_order = _in_order_of(inputs)
    place = bisect.bisect_left(in_order, directory)
    return in_order[place] if place < len(in_order) and in_order[place].startswith(directory) else None


@functools.lru_cache(maxsize=1)  # for all rows of a frame
def _in_order_of(inputs: frozenset[str]) -> list[str]:
    return sorted(inputs)


def _targets(at: Location) -> set[str]:
    """Return what a write to `at` changes: what it replaces, and the directories above it."""
    return {each for place in _places(at) for each in (place, *_above(place))}


def _above(place: str) -> Iterator[str]:
    end = place.find("/", len("s3://")) if place.startswith("s3://") else place.find("/", 1)
    while end >= 0:
        yield place[: end + 1]
        end = place.find("/", end + 1)


def _places(at: Location, real_parents: dict[str, str] | None = None) -> set[str]:
    """Return what a write to `at` replaces: the object, or the file and what a link of that name leads to.

    Args:
        at: a target or an input.
        real_parents: of directories that were looked at, their paths without links; gains that of `at`.
    """
    if isinstance(at, _urls.ObjectUrl):
        return {str(at)}
    real_parents = {} if real_parents is None else real_parents
    parent, name = os.path.split(at)
    if (real_parent := real_parents.get(parent)) is None:
        real_parent = real_parents[parent] = os.path.realpath(parent)
    place = os.path.join(real_parent, name)  # noqa: PTH118
    is_elsewhere = name == ".." or os.path.islink(place)  # noqa: PTH114
    return {place, os.path.realpath(at)} if is_elsewhere else {place}
