"""Which inputs are no longer what was read: one HEAD per file, none where the frame has its ETag."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _frame, _transfer
from file_dataset._checkpoint.frames import taken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from file_dataset._checkpoint.parts import Known
    from file_dataset._checkpoint.states import States
    from file_dataset._errors import Failure
    from file_dataset._sink import ObjectInfo
    from file_dataset._stores import Stores

_AT_ONCE = 10_000  # rows whose records are Python objects at a time; a guess


def changed(rows: _frame.Rows, states: States, known: Known, stores: Stores) -> dict[int, str]:
    """Return the rows that need not run by their fingerprint, and of which an input is another now, and why.

    An object is another when its checksum is, where the store has one of both; else when its ETag is. A local file is
    when its size or the time of its last change is. One that cannot be looked at counts as changed: its row runs, and
    its failure says why.

    Raises:
        RowError: the store refuses these credentials, or there are none.
    """
    found: dict[int, str] = {}
    kept = states.kept.tolist()
    etags = _etags(rows)
    for start in range(0, len(kept), _AT_ONCE):
        some = kept[start : start + _AT_ONCE]
        lines = taken(known, states.places[some]).select(["inputs"])["inputs"].to_pylist()
        before = {
            (position, one["file"]): one for position, inputs in zip(some, lines, strict=True) for one in inputs or ()
        }
        missing: list[tuple[_transfer.Wanted, Failure]] = []
        wanted = list(_wanted(rows, some))
        asked = [one for one in wanted if one.file not in etags and not isinstance(one.at, Path)]
        for one in wanted:
            if one.file in etags and not isinstance(one.at, Path):
                read, now = before.get((one.position, one.file), {}), etags[one.file][one.position]
                if read.get("etag") != now:
                    found.setdefault(one.position, f"{one.file}: its ETag was {read.get('etag')}, and is {now}")
            elif isinstance(one.at, Path) and (why := _of_local(one.at, before.get((one.position, one.file), {}))):
                found.setdefault(one.position, f"{one.file}: {why}")
        for one, info in _transfer.infos(asked, stores, missing):
            if why := _of_object(before.get((one.position, one.file), {}), info):
                found.setdefault(one.position, f"{one.file}: {why}")
        for one, failure in missing:
            found.setdefault(one.position, f"{one.file}: {failure.type}: {failure.message}")
    return found


def _wanted(rows: _frame.Rows, positions: Iterable[int]) -> Iterator[_transfer.Wanted]:
    for position in positions:
        row = rows.row(position)  # it was read before: its locations are some
        for name, at in row.files.items():
            if at is not None:
                yield _transfer.Wanted(row.id, name, at, position)


def _etags(rows: _frame.Rows) -> dict[str, list[Any]]:
    """Return the ETags that the frame has of its files, by file name."""
    assert rows.frame is not None, "rows of a frame"  # noqa: S101
    names = {name: f"{name}.etag" for name in rows.file_columns}
    return {
        name: _frame._values(rows.frame[column])  # noqa: SLF001  # knows every kind of null
        for name, column in names.items()
        if column in rows.carried
    }


def _of_object(read: Mapping[str, Any], now: ObjectInfo) -> str:
    checksum = None if now.digest is None else str(now.digest)
    before = read.get("checksum")
    if checksum and before and checksum.partition(":")[0] == before.partition(":")[0]:
        return "" if checksum == before else f"its checksum was {before}, and is {checksum}"
    if now.etag is None and read.get("etag") is None and now.size_bytes == read.get("size_bytes"):
        return ""
    return "" if now.etag == read.get("etag") else f"its ETag was {read.get('etag')}, and is {now.etag}"


def _of_local(path: Path, read: Mapping[str, Any]) -> str:
    try:
        now = os.stat(path)  # noqa: PTH116  # as the row's download does
    except OSError as exc:
        return f"{type(exc).__name__}: {exc.strerror}"
    if now.st_size != read.get("size_bytes"):
        return f"it had {read.get('size_bytes')} bytes, and has {now.st_size}"
    return "" if str(now.st_mtime_ns) == read.get("etag") else "it was changed after it was read"
