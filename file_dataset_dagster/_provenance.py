"""What the rows of a manifest were made from, so that a partial run neither hides nor invents a change. Pure: no I/O.

Dagster calls an asset fresh when the tags of its last materialization name the input as it is now. After a partial run
that is true only where every row that did not run is known to be as it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from file_dataset_dagster._data_versions import rows_as_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    import pandas as pd

_VERSIONS, _BEGAN, _CODE_VERSION = "input_versions", "began", "code_version"
_TAGS = ("dagster/input_data_version/", "dagster/input_event_pointer/")
_CODE = "dagster/code_version"


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """What each row of an input is.

    Attributes:
        rows: by id, digests of (its locations and carried values, the content of its files).
        versions: the data version of each partition that was read; None: not known.
        is_content_known: whether the second digest covers all that a new version can mean.
        began: the run that stored them, as `Attempt.began` has it.
        code_version: of the asset then.
        has_inputs: whether the result that these are of has the files that were read of all of its rows.
    """

    rows: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    versions: Mapping[str, str] | None = None
    is_content_known: bool = False
    began: str | None = None
    code_version: str | None = None
    has_inputs: bool = True

    def to_frame(self) -> pd.DataFrame:
        """Return it as a frame to store, beside `notes`."""
        import pandas as pd

        given, content = zip(*self.rows.values(), strict=True) if self.rows else ((), ())
        columns = {"id": list(self.rows), "given": list(given), "content": list(content)}
        return pd.DataFrame(columns, dtype="str")

    @property
    def notes(self) -> dict[str, Any]:
        """What `to_frame` has no column for, as JSON."""
        versions = None if self.versions is None else dict(self.versions)
        return {_VERSIONS: versions, _BEGAN: self.began, _CODE_VERSION: self.code_version}


def from_frame(frame: pd.DataFrame, notes: Mapping[str, Any]) -> Origins:
    """Return what `to_frame` and `notes` were made of."""
    rows = {str(row.id): (str(row.given), str(row.content)) for row in frame.itertuples(index=False)}
    return Origins(rows, notes.get(_VERSIONS), began=notes.get(_BEGAN), code_version=notes.get(_CODE_VERSION))


def origins_of(
    frame: pd.DataFrame, contents: Mapping[str, str], versions: Mapping[str, str] | None, *, is_content_known: bool
) -> Origins:
    """Return the origins of an input's rows. Some 15 us a row of four columns.

    Args:
        frame: the input.
        contents: by location, what identifies the content of a file, as far as that is known.
        versions: the data version of each partition that was read.
        is_content_known: of every file; or else a new data version means other values, and nothing else.
    """
    ids = [str(row_id) for row_id in frame["id"].tolist()]
    given = [_digest(text) for text in rows_as_json(frame)]
    content = [""] * len(ids)
    if contents:
        cells = frame.astype(object).to_numpy().tolist()
        content = [
            _digest("\n".join(contents[cell] for cell in row if isinstance(cell, str) and cell in contents))
            for row in cells
        ]
    return Origins(dict(zip(ids, zip(given, content, strict=True), strict=True)), versions, is_content_known)


def other_rows(now: Origins, before: Origins) -> set[str]:
    """Return the ids of rows that have other locations or carried values than before, or were not there."""
    return {row_id for row_id, (given, _) in now.rows.items() if before.rows.get(row_id, ("", ""))[0] != given}


@dataclass(frozen=True, slots=True, eq=False)
class AfterPart:
    """What the stored rows are of, after a run over some of them.

    Attributes:
        origins: of all rows; rows that did not run keep theirs.
        left: ids of rows that did not run.
        changed: those of them that are known not to be as they were, or that have never run.
        is_unclear: the input has a new data version, and nothing records which rows it is about.
    """

    origins: Origins
    left: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    is_unclear: bool = False

    @property
    def is_behind(self) -> bool:
        """Whether the stored rows are not, or perhaps not, those of the input as it is."""
        return bool(self.changed) or self.is_unclear

    def tags(self, previous: Mapping[str, str] | None, input_name: str) -> dict[str, str]:
        """Return the tags of Dagster that the materialization keeps from the one before.

        Args:
            previous: tags of the last materialization; None: there was none.
            input_name: the asset that is read, as Dagster's tags name it.
        """
        if not self.left:
            return {}
        own = [f"{tag}{input_name}" for tag in _TAGS]
        if previous is None:
            return dict(zip(own, ("not all rows", "NULL"), strict=True)) if self.is_behind else {}
        # rows that did not run were also made with the code and the other inputs of then
        carried = {name: value for name, value in previous.items() if name == _CODE or name.startswith(_TAGS)}
        return {name: value for name, value in carried.items() if self.is_behind or name not in own}


def looked_at(before: Origins, now: Origins, same: AbstractSet[str], *, is_all: bool) -> Origins:
    """Return what stored rows are of, once it is known that the files of some are as they were.

    Args:
        before: what the stored rows are of.
        now: the input.
        same: ids of the rows whose files are as they were read.
        is_all: they are all the rows that do not run.
    """
    rows = {**before.rows, **{row_id: now.rows[row_id] for row_id in same if row_id in now.rows}}
    return replace(before, rows=rows, versions=now.versions if is_all else before.versions)


def after_part(now: Origins, before: Origins, ran: AbstractSet[str]) -> AfterPart:
    """Return what the stored rows are of when `ran` ran on the input `now`, and the others are of `before`."""
    left = frozenset(now.rows) - ran
    if not left:
        return AfterPart(now)
    changed = left & other_rows(now, before)
    is_unclear = False
    if before.versions is None or before.versions != now.versions:
        is_unclear = not now.is_content_known and not left.isdisjoint(before.rows)
        changed |= {row_id for row_id in left if before.rows.get(row_id) != now.rows[row_id]}
    rows = {row_id: now.rows[row_id] if row_id in ran else before.rows.get(row_id, ("", "")) for row_id in now.rows}
    versions = before.versions if changed or is_unclear else now.versions
    return AfterPart(Origins(rows, versions), left, frozenset(changed), is_unclear)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
