"""Which inputs are no longer what was read: a HEAD per file, unless the frame has its ETag; a LIST per directory."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from file_dataset import _directories, _frame, _listings, _options, _plan, _transfer
from file_dataset._errors import InvalidDatasetError
from file_dataset._stores import Stores
from file_dataset._urls import Directory, ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd

    from file_dataset._checkpoint.parts import Known
    from file_dataset._checkpoint.states import States
    from file_dataset._errors import Failure, RowId
    from file_dataset._options import Options
    from file_dataset._sink import ObjectInfo
    from file_dataset._store import Listed
    from file_dataset._urls import Source

    _Wanted: TypeAlias = _transfer.Wanted | _listings.WantedDirectory


def changed(rows: _frame.Rows, states: States, known: Known, stores: Stores) -> dict[int, str]:
    """Return the rows that need not run by their fingerprint, and of which an input is another now, and why.

    An object is another when its checksum is, where the store has one of both; else when its ETag is. A local file is
    when its size or the time of its last change is. A directory is another when a file was added or removed, or is
    another by its ETag. What cannot be looked at counts as changed: its row runs, and its failure says why.

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
        _compare(found, _wanted(rows, positions), before, etags, stores)
    return found


def changed_rows(frame: pd.DataFrame, inputs: pd.DataFrame, *, options: Options | None = None) -> pd.DataFrame:
    """Return the rows of a frame of which a file is no longer what was read, and why: `id` and `why`, a text.

    A file has changed when its location is another; when its checksum is another (its ETag, where the store has no
    checksum of both); or, on a local disk, when its size or the time of its last change is another. A directory has
    changed when a file was added or removed, or has another ETag. What cannot be looked at counts as changed. One HEAD
    per file, none where the frame has a column `<file>.etag` and pins no version; one LIST per directory (and 1,000
    objects). Nothing is read or run.

    Args:
        frame: as it would be given to a Pipeline.
        inputs: what was read: `result.inputs`, of this run or a loaded result. Rows that it does not have are left out.
        options: how S3 is reached; None: by boto3's default session.

    Raises:
        InvalidDatasetError: the frame is refused, or `inputs` is not that of a result.
        RowError: the store refuses these credentials, or there are none.

    Example:
        >>> def copy(input_dir, output_dir):
        ...     return {"copy.txt": input_dir / "scan.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
        >>> result = Pipeline(copy, into_path="s3://my-bucket/copies/", progress=False).run(frame)
        >>> frame.loc[1, "scan.txt"] = "s3://my-bucket/missing.txt"
        >>> changed_rows(frame, result.inputs)["why"].tolist()
        ['scan.txt: it was read from s3://my-bucket/scan.txt']
    """
    import pandas as pd

    _options.check(options)
    if not isinstance(inputs, pd.DataFrame) or set(_RECORD) - set(inputs.columns):
        raise InvalidDatasetError("inputs: give result.inputs, the frame of the files that a run has read")
    found: dict[int, str] = {}
    read = (_plan.column_of(file, frame.columns) for file in inputs["file"].unique().tolist())
    if names := list(dict.fromkeys(name for name in read if name is not None)):
        rows = _frame.rows_of_frame(frame, names, needs_id=True)
        rows = replace(rows, local_paths=_options.takes_local_paths(options))
        stores, etags = Stores(options), _etags(rows)
        for before in _records(rows, inputs):
            _compare(found, _elsewhere(found, rows, before), before, etags, stores)
    places = sorted(found)
    why = pd.Series([found[place] for place in places], dtype=_frame.TEXT)
    return frame[[_frame.ID]].iloc[places].reset_index(drop=True).assign(why=why)


_RECORD = (_frame.ID, "file", "location", "size_bytes", "etag", "checksum")
_LINES_AT_ONCE = 50_000  # whose records are Python objects at a time; a guess


def _records(rows: _frame.Rows, inputs: pd.DataFrame) -> Iterator[dict[tuple[int, str], dict[str, Any]]]:
    """Yield what was read of some rows, by position in the frame and by file; all of a row comes at once."""
    place = {str(row_id): position for position, row_id in enumerate(rows.ids or ())}
    positions = np.array([place.get(str(row_id), -1) for row_id in inputs[_frame.ID].tolist()], np.int64)
    order = np.argsort(positions, kind="stable")[np.count_nonzero(positions < 0) :]
    bounds = list(range(0, len(order), _LINES_AT_ONCE))
    starts = [int(np.searchsorted(positions[order], positions[order[bound]])) for bound in bounds]
    for start, end in itertools.pairwise([*dict.fromkeys(starts), len(order)]):
        lines = order[start:end]
        columns = {name: _frame._values(inputs[name].iloc[lines]) for name in _RECORD[1:]}  # noqa: SLF001
        records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        keys = zip(positions[lines].tolist(), columns["file"], strict=True)
        yield dict(zip(keys, records, strict=True))


def _elsewhere(
    found: dict[int, str], rows: _frame.Rows, before: Mapping[tuple[int, str], Mapping[str, Any]]
) -> Iterator[_Wanted]:
    """Note the rows that have another file than was read, and yield the files of the others."""
    read_of: dict[int, dict[str, str]] = {}
    for (position, file), record in before.items():
        name = _plan.column_of(file, rows.cells) or file
        read_of.setdefault(position, {})[name] = record["location"].removesuffix(file.removeprefix(name)[1:])
    for position, read in read_of.items():
        wanted = []
        for name in rows.file_columns:
            try:
                at = rows.source(position, name)
                at = None if at is None else _directories.source_of(at)
            except InvalidDatasetError as exc:
                found.setdefault(position, f"{name}: {exc}")
                continue
            if read.get(name) != (None if at is None else str(at)):
                was = f"read from {read[name]}" if name in read else "not there"
                found.setdefault(position, f"{name}: it was {was}")
            elif at is not None:
                wanted.append(_wanted_at(rows.id_at(position), name, at, position))
        if position not in found:
            yield from wanted


def _compare(
    found: dict[int, str],
    wanted: Iterable[_Wanted],
    before: Mapping[tuple[int, str], Mapping[str, Any]],
    etags: Mapping[str, list[Any]],
    stores: Stores,
) -> None:
    """Note the rows of which a file is another, and why.

    Args:
        found: takes them, by position.
        wanted: the files.
        before: what was read, by position and file.
        etags: those of the frame, by file.
        stores: which have the files.
    """
    asked: list[_transfer.Wanted] = []
    directories: list[_listings.WantedDirectory] = []
    missing: list[tuple[_transfer.Wanted, Failure]] = []
    unlisted: list[tuple[_listings.WantedDirectory, Failure]] = []
    for one in wanted:
        if isinstance(one, _listings.WantedDirectory):
            directories.append(one)
            continue
        read = before.get((one.position, one.file), {})
        if isinstance(one.at, Path):
            _note(found, one, _of_local(one.at, read))
        elif one.file in etags and one.at.version_id is None:  # the frame's ETag may be of another version
            _note(found, one, _of_etag(etags[one.file][one.position], read))
        else:
            asked.append(one)
    for one, info in _transfer.infos(asked, stores, missing):
        _note(found, one, _of_object(info, before.get((one.position, one.file), {})))
    of_rows = _by_row(before) if directories else {}
    for directory, contents in _listings.listings(directories, stores, unlisted):
        start = f"{directory.file}/"
        read_of = {
            file.removeprefix(start): record
            for file, record in of_rows.get(directory.position, {}).items()
            if file.startswith(start)
        }
        _note(found, directory, _of_directory(contents.files, read_of))
    reasons: list[tuple[_Wanted, Failure]] = [*missing, *unlisted]
    for each, failure in reasons:
        _note(found, each, f"{failure.type}: {failure.message}")


def _by_row(before: Mapping[tuple[int, str], Mapping[str, Any]]) -> dict[int, dict[str, Mapping[str, Any]]]:
    found: dict[int, dict[str, Mapping[str, Any]]] = {}
    for (position, file), record in before.items():
        found.setdefault(position, {})[file] = record
    return found


def _note(found: dict[int, str], one: _Wanted, why: str) -> None:
    if why:
        found.setdefault(one.position, f"{one.file}: {why}")


def _wanted(rows: _frame.Rows, positions: Iterable[int]) -> Iterator[_Wanted]:
    for position in positions:
        row = rows.row(position)  # it was read before: its locations are some
        for name, at in row.files.items():
            if at is not None:
                yield _wanted_at(row.id, name, _directories.source_of(at), position)


def _wanted_at(row_id: RowId, name: str, at: Source, position: int) -> _Wanted:
    if isinstance(at, Directory):
        return _listings.WantedDirectory(row_id, name, at, position)
    return _transfer.Wanted(row_id, name, at, position)


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


def _of_directory(now: Mapping[str, Listed], read: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which file of a directory is another, and how many more are."""
    reasons = [f"{name} was not there" for name in now if name not in read]
    reasons += [f"{name} is there no more" for name in read if name not in now]
    for name in now.keys() & read.keys():
        listed, record = now[name], read[name]
        etag = listed.etag if isinstance(listed.at, ObjectUrl) else str(listed.modified)
        if etag != record.get("etag") or listed.size_bytes != record.get("size_bytes"):
            reasons.append(f"{name} has changed")
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"{min(reasons)}{more}" if reasons else ""


def _of_local(path: Path, read: Mapping[str, Any]) -> str:
    try:
        now = os.stat(path)  # noqa: PTH116  # as the row's download does
    except OSError as exc:
        return f"{type(exc).__name__}: {exc.strerror}"
    if now.st_size != read.get("size_bytes"):
        return f"it had {read.get('size_bytes')} bytes, and has {now.st_size}"
    return "" if str(now.st_mtime_ns) == read.get("etag") else "it was changed after it was read"
