"""What is new in a listing, against the one before. Pure: no I/O, no context.

A listing is a frame of `location`, `etag` and `partition` (null where there are none), a row for each file and
partition. One file can be in many partitions: a pattern that lacks the field goes with every row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from file_dataset_dagster._listings import tags_of

if TYPE_CHECKING:
    import pandas as pd

File: TypeAlias = "tuple[str, str]"  # location and ETag
Files: TypeAlias = "dict[str | None, dict[str, str]]"  # ETags by location, by partition


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


def files_of(frame: pd.DataFrame, columns: Sequence[str], partition_by: str | None) -> Files:
    """The files of a listing with all details, by partition; rows without a value of the field are in none."""
    found: Files = {}
    partitions = [None] * len(frame) if partition_by is None else frame[partition_by].astype(object).tolist()
    for column in columns:
        locations, tags = frame[column].astype(object).tolist(), tags_of(frame, column).astype(object).tolist()
        for partition, location, tag in zip(partitions, locations, tags, strict=True):
            if isinstance(location, str) and (partition_by is None or isinstance(partition, str)):
                found.setdefault(partition, {})[location] = tag
    return found


def to_frame(files: Files) -> pd.DataFrame:
    """Return the files as they are stored: sorted by partition and location."""
    import pandas as pd

    rows = [
        (location, tag, partition)
        for partition, found in sorted(files.items(), key=lambda item: item[0] or "")
        for location, tag in sorted(found.items())
    ]
    frame = pd.DataFrame(rows, columns=["location", "etag", "partition"])
    return frame.astype({"location": "str", "etag": "str"}).astype({"partition": object})


def from_frame(frame: pd.DataFrame) -> Files:
    """Return what `to_frame` was given; partitions that had no file are not among it."""
    found: Files = {}
    for location, tag, partition in frame[["location", "etag", "partition"]].astype(object).to_numpy().tolist():
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


def cursor_after(before: str, frame: pd.DataFrame) -> str:
    """Return the digest of a listing and of the cursor before it: content that goes A, B, A has three cursors."""
    return _digest([before, *frame.astype(object).to_numpy().tolist()])


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
