"""Which inputs are no longer what was read: one HEAD per file, none where the frame has its ETag."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _frame, _transfer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from file_dataset._checkpoint.parts import Known
    from file_dataset._checkpoint.states import States
    from file_dataset._errors import Failure
    from file_dataset._sink import ObjectInfo
    from file_dataset._stores import Stores


def changed(rows: _frame.Rows, states: States, known: Known, stores: Stores) -> dict[int, str]:
    """Return the rows that need not run by their fingerprint, and of which an input is another now, and why.

    An object is another when its checksum is, where the store has one of both; else when its ETag is. A local file is
    when its size or the time of its last change is. One that cannot be looked at counts as changed: its row runs, and
    its failure says why.

    Raises:
        RowError: the store refuses these credentials, or there are none.
    """
    found: dict[int, str] = {}
    kept, etags = states.kept, _etags(rows)
    for which, lines in known.read(states.places[kept], ["inputs"]):
        positions = kept[which].tolist()
        before = {
            (position, one["file"]): one
            for position, record in zip(positions, lines.to_pylist(), strict=True)
            for one in record["inputs"] or ()
        }
        asked: list[_transfer.Wanted] = []
        missing: list[tuple[_transfer.Wanted, Failure]] = []
        for one in _wanted(rows, positions):
            read = before.get((one.position, one.file), {})
            if isinstance(one.at, Path):
                _note(found, one, _of_local(one.at, read))
            elif one.file in etags:
                _note(found, one, _of_etag(etags[one.file][one.position], read))
            else:
                asked.append(one)
        for one, info in _transfer.infos(asked, stores, missing):
            _note(found, one, _of_object(info, before.get((one.position, one.file), {})))
        for one, failure in missing:
            _note(found, one, f"{failure.type}: {failure.message}")
    return found


def _note(found: dict[int, str], one: _transfer.Wanted, why: str) -> None:
    if why:
        found.setdefault(one.position, f"{one.file}: {why}")


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


def _of_object(now: ObjectInfo, read: Mapping[str, Any]) -> str:
    checksum = None if now.digest is None else str(now.digest)
    before = read.get("checksum")
    if checksum and before and checksum.partition(":")[0] == before.partition(":")[0]:
        return "" if checksum == before else f"its checksum was {before}, and is {checksum}"
    if now.etag is None and read.get("etag") is None and now.size_bytes == read.get("size_bytes"):
        return ""
    return _of_etag(now.etag, read)


def _of_etag(now: str | None, read: Mapping[str, Any]) -> str:
    return "" if now == read.get("etag") else f"its ETag was {read.get('etag')}, and is {now}"


def _of_local(path: Path, read: Mapping[str, Any]) -> str:
    try:
        now = os.stat(path)  # noqa: PTH116  # as the row's download does
    except OSError as exc:
        return f"{type(exc).__name__}: {exc.strerror}"
    if now.st_size != read.get("size_bytes"):
        return f"it had {read.get('size_bytes')} bytes, and has {now.st_size}"
    return "" if str(now.st_mtime_ns) == read.get("etag") else "it was changed after it was read"
