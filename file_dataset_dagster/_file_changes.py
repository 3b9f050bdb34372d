"""What is new in a listing, against the one before. Pure: no I/O, no context.

A listing is a frame of `location`, `etag` and `partition` (null where there are none), a row for each file and
partition. One file can be in many partitions: a pattern that lacks the field goes with every row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

File: TypeAlias = "tuple[str, str]"  # location and ETag
Files: TypeAlias = "dict[str | None, dict[str, str]]"  # ETags by location, by partition

_ROWS_A_CALL = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """What is other than before in one partition, or where there are none in all."""

    new: Sequence[File] = ()
    overwritten: Sequence[File] = ()
    deleted: Sequence[File] = ()

    @property
    def is_to_request(self) -> bool:
        """Whether a run is wanted: a file that is gone needs none."""
        return bool(self.new or self.overwritten)


@dataclass(frozen=True, slots=True)
class Step:
    """What a tick does.

    Attributes:
        changes: by partition, those that are delivered now.
        later: partitions with changes that are left to a later tick.
        files: what counts as delivered after it: of partitions in `later` as before.
    """

    changes: Mapping[str | None, Change]
    later: Sequence[str]
    files: Files = field(repr=False)

    @property
    def requested(self) -> list[str | None]:
        """Partitions with a run request, in order."""
        return [key for key, change in self.changes.items() if change.is_to_request]

    def counts(self) -> tuple[int, int, int]:
        """How many files are new, overwritten and deleted: each counts once, in however many partitions it is."""
        return (
            len({file for change in self.changes.values() for file in change.new}),
            len({file for change in self.changes.values() for file in change.overwritten}),
            len({file for change in self.changes.values() for file in change.deleted}),
        )


def to_frame(files: Files) -> pd.DataFrame:
    """Return the files as they are stored: sorted by partition and location."""
    import pandas as pd

    columns = [list(column) for column in zip(*_rows(files), strict=True)] or [[], [], []]
    dtypes: list[Any] = ["str", "str", object]
    return pd.DataFrame(
        {
            name: pd.Series(column, dtype=dtype)
            for name, column, dtype in zip(("location", "etag", "partition"), columns, dtypes, strict=True)
        }
    )


def _rows(files: Files) -> Iterator[tuple[str, str, str | None]]:
    for partition, found in sorted(files.items(), key=lambda item: item[0] or ""):
        for location, tag in sorted(found.items()):
            yield location, tag, partition


def from_frame(frame: pd.DataFrame) -> Files:
    """Return what `to_frame` was given; partitions that had no file are not among it."""
    found: Files = {}
    columns = (frame[name].astype(object).tolist() for name in ("partition", "location", "etag"))
    for partition, location, tag in zip(*columns, strict=True):
        found.setdefault(partition, {})[location] = tag
    return found


def step(before: Files, now: Files, *, allowed: Iterable[str] | None, most: int) -> Step:
    """Compare two listings.

    Args:
        before: what was delivered.
        now: what is there.
        allowed: the only partitions that may have a request; None: all.
        most: run requests at most.
    """
    may = None if allowed is None else set(allowed)
    changes: dict[str | None, Change] = {}
    later: list[str] = []
    files: Files = {}
    requests = 0
    for key in sorted({*before, *now}, key=lambda key: key or ""):
        change = _change(before.get(key, {}), now.get(key, {}))
        if change.is_to_request and key is not None and ((may is not None and key not in may) or requests >= most):
            later.append(key)
            kept = before.get(key, {})
        else:
            kept = now.get(key, {})
            requests += change.is_to_request
            if change != Change():
                changes[key] = change
        if kept:
            files[key] = kept
    return Step(changes, later, files)


def cursor_after(before: str, files: Files) -> str:
    """Return the digest of a listing and of the cursor before it: content that goes A, B, A has three cursors."""
    rows = _rows(files)
    # a call for each row would take longer than the listing
    return _digest(chain([before], iter(lambda: list(islice(rows, _ROWS_A_CALL)), [])))


def run_key(before: str, partition: str | None, change: Change) -> str:
    """Return the key of a run: another one for each cursor that was before, and the same when that tick is repeated."""
    return _digest([before, partition, list(change.new), list(change.overwritten)])


def _change(before: Mapping[str, str], now: Mapping[str, str]) -> Change:
    if before == now:
        return Change()
    return Change(
        new=tuple(sorted((at, tag) for at, tag in now.items() if at not in before)),
        overwritten=tuple(sorted((at, tag) for at, tag in now.items() if at in before and before[at] != tag)),
        deleted=tuple(sorted((at, tag) for at, tag in before.items() if at not in now)),
    )


def _digest(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
