"""Parts of a checkpoint: finished rows as Parquet, and back. Pure: bytes in, bytes out; nothing is unpickled.

A part is a table with one line per row, in the columns of `COLUMNS`. What a location follows from is kept, and not the
location of an output itself: an output lies at `<into_path>/<id>/<file>`, so no part can point elsewhere. An output
that is a directory has a record `series/` without a size, and after it one for each of its objects, `series/0001.dcm`.

A million rows are 70 MB in parts, and 280 MB as tables. So a part stays as it is; the columns that decide are read of
all its lines, the others only of those that are asked for, 65,536 lines at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from file_dataset import _frame, _ids, _plan, _seal, _urls
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from file_dataset._columns import Positions

STORED, FAILED, BEGUN = "stored", "failed", "begun"

_VERSION_KEY = b"file_dataset.checkpoint"
_VERSION = b"1"
_TEXT = pa.string()
_WORD = pa.dictionary(pa.int32(), _TEXT)  # few different ones
_FILE: list[tuple[str, pa.DataType]] = [("file", _TEXT), ("size_bytes", pa.int64()), ("etag", _TEXT)]
COLUMNS = pa.schema(
    {
        "id": _TEXT,  # as text
        "id_dtype": _WORD,  # of the frame's ids, as pandas names it
        "into_path": _WORD,
        "code_version": _WORD,
        "fingerprint": pa.binary(16),
        # a row that is begun has an earlier state that no longer holds: its outputs are being replaced
        "state": _WORD,
        "generation": pa.int32(),  # of two lines of a row the later generation counts, then the later time
        "finished_at": pa.timestamp("us", "UTC"),
        "without_digest": pa.int32(),
        # no size: fn gave None for this output, or it is a directory
        "outputs": pa.list_(pa.struct([*_FILE, ("checksum", _TEXT)])),
        "inputs": pa.list_(
            pa.struct([*_FILE, ("location", _TEXT), ("version_id", _TEXT), ("checksum", _TEXT)]),
        ),
        "failures": pa.list_(
            pa.struct(dict.fromkeys(("stage", "file", "url", "type", "code", "message"), _TEXT)),
        ),
    }
)
_DECIDE = ["id", "fingerprint", "state", "generation", "finished_at"]
_WORDS = ["into_path", "state", "id_dtype"]
# the columns in which the same texts come again and again
_FEW = ["id_dtype", "into_path", "code_version", "state", "outputs.list.element.file", "inputs.list.element.file"]
_AT_ONCE = 1 << 16  # lines whose other columns are in memory at a time; a guess
_REMEDY = "remove it and its rows run again, or give another place"
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Part:
    """A part: of every line what decides; the rest is read when it is asked for."""

    name: str
    file: pq.ParquetFile
    lines: pa.Table  # of the columns that decide

    def read(self, lines: npt.NDArray[np.int64], columns: Sequence[str]) -> Iterator[tuple[slice, pa.Table]]:
        """Yield some lines, some at a time, and which of `lines` they are.

        Args:
            lines: their numbers, ascending.
            columns: of `COLUMNS`, or fields of those of lists (`field_of`).

        Raises:
            InvalidDatasetError: the part is damaged.
        """
        start = 0
        for group in range(self.file.num_row_groups):
            stop = start + self.file.metadata.row_group(group).num_rows
            some = slice(*np.searchsorted(lines, [start, stop]).tolist())
            if some.stop > some.start:
                try:
                    table = self.file.read_row_group(group, columns=list(columns), use_threads=False)
                except _DAMAGE as exc:
                    raise _damaged(self.name, exc) from exc
                yield some, table if len(table) == some.stop - some.start else table.take(lines[some] - start)
            start = stop


@dataclass(frozen=True, slots=True)
class Known:
    """What the parts hold: one line per row, the latest.

    Attributes:
        lines: id, fingerprint and state of each.
        generation: the latest.
        parts: where the lines are from.
        numbers: of each line its number, counted through all parts; ascending.
    """

    lines: pa.Table
    generation: int
    parts: Sequence[Part]
    numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many rows there are."""
        return int(self.lines.num_rows)

    def is_in(self, state: str) -> npt.NDArray[np.bool_]:
        """Return for each row whether it is in this state."""
        found: npt.NDArray[np.bool_] = pc.equal(column(self.lines, "state"), state).to_numpy(zero_copy_only=False)
        return found

    @property
    def fingerprints(self) -> npt.NDArray[np.bytes_]:
        """The fingerprint of each."""
        values = column(self.lines, "fingerprint")
        width = values.type.byte_width
        start, stop = values.offset * width, (values.offset + len(values)) * width
        return np.frombuffer(memoryview(values.buffers()[1])[start:stop], f"S{width}")

    def read(self, places: Positions, columns: Sequence[str]) -> Iterator[tuple[npt.NDArray[np.int64], pa.Table]]:
        """Yield whole lines, some at a time and in the order of the parts, and which of `places` they are.

        Args:
            places: of these rows.
            columns: as of `Part.read`.
        """
        numbers = self.numbers[places]
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        start = 0
        for part in self.parts:
            stop = start + part.lines.num_rows
            first, last = np.searchsorted(numbers, [start, stop]).tolist()
            for some, table in part.read(numbers[first:last] - start, columns):
                yield order[first:last][some], table
            start = stop

    def records(self, places: Positions, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return some columns of these rows, a dict each: for few of them."""
        found: list[dict[str, Any]] = [{}] * len(places)
        for which, table in self.read(places, columns):
            for place, record in zip(which.tolist(), table.to_pylist(), strict=True):
                found[place] = record
        return found

    def whole(self) -> pa.Table:
        """Return all lines, whole."""
        tables = [table for _, table in self.read(np.arange(len(self)), COLUMNS.names)]
        return pa.concat_tables([COLUMNS.empty_table(), *tables])


def outputs_of(outputs: Mapping[str, str | None], files: Sequence[_frame.StoredFile]) -> list[dict[str, Any]]:
    """Return the records of a row's outputs.

    Args:
        outputs: where each lies; None: fn gave None for it.
        files: what is stored, those of a directory one after the other.
    """
    single = {one.file: one for one in files}
    found: list[dict[str, Any]] = []
    for name, location in outputs.items():
        if location is None or not _urls.is_directory(location):
            found.append(_record(single[name]) if name in single else {"file": name})
            continue
        below = f"{name}/"
        found.append({"file": below})
        found += [_record(one) for one in files if one.file.startswith(below)]
    return found


def _record(file: _frame.StoredFile) -> dict[str, Any]:
    return {name: getattr(file, name) for name in ("file", "size_bytes", "etag", "checksum")}


def column(table: pa.Table, name: str) -> Any:  # noqa: ANN401  # pyarrow has no types
    """Return a column in one piece, words as text."""
    found = table[name]
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    return found.combine_chunks() if found.num_chunks != 1 else found.chunk(0)


def field_of(column: str, name: str) -> str:
    """Return how Parquet names a field of the lists of a column."""
    return f"{column}.list.element.{name}"


def encode(lines: pa.Table) -> bytes:
    """Return a part with these lines, and a digest of it."""
    sink = pa.BufferOutputStream()
    table = lines.cast(COLUMNS).replace_schema_metadata({_VERSION_KEY: _VERSION})
    pq.write_table(table, sink, compression="zstd", row_group_size=_AT_ONCE, use_dictionary=_FEW)
    return _seal.sealed(sink.getvalue())


def opened(content: Any, name: str) -> Part:  # noqa: ANN401  # a buffer
    """Return a part that is whole, and what decides of its lines.

    Args:
        content: the file.
        name: where it lies, for the message.

    Raises:
        InvalidDatasetError: it is damaged, no part, or of a later version; or its names are no file's.
    """
    is_whole = _seal.is_whole(content)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
    except _DAMAGE as exc:
        raise _damaged(name, exc) from exc
    if version is None:
        raise InvalidDatasetError(f"{name} is Parquet, and no part of a checkpoint: {_REMEDY}")
    if version != _VERSION:
        raise InvalidDatasetError(
            f"{name} is a part of format {version.decode(errors='replace')[:20]!r}, and this version of file_dataset "
            f"reads {_VERSION.decode()!r}: install a later one, or give another place"
        )
    try:
        if not is_whole:
            raise ValueError("its bytes are not those that were written")  # one place has the sentence
        if not file.schema_arrow.equals(COLUMNS):
            raise ValueError(f"its columns are {file.schema_arrow.names[:20]}")
        lines = file.read(columns=_DECIDE).select(_DECIDE)
        _check(file, lines)
    except _DAMAGE as exc:
        raise _damaged(name, exc) from exc
    return Part(name, file, lines.replace_schema_metadata(None))


def _damaged(name: str, error: BaseException) -> InvalidDatasetError:
    reason = str(error).partition("\n")[0][:200]
    return InvalidDatasetError(f"{name} is damaged, or no part of a checkpoint ({reason}): {_REMEDY}")


def _check(file: pq.ParquetFile, lines: pa.Table) -> None:
    """Refuse what no run writes: names that lead elsewhere, lines without a state.

    Raises:
        ValueError: saying what.
    """
    few = file.read(columns=[*_WORDS, field_of("outputs", "file")])
    if any(table[name].null_count for table, name in [*((lines, one) for one in _DECIDE), (few, "into_path")]):
        raise ValueError("a line lacks its id, its state or its fingerprint")
    words = {name: set(few[name].unique().to_pylist()) for name in _WORDS}
    if unknown := words["state"] - {STORED, FAILED, BEGUN}:
        raise ValueError(f"unknown states {sorted(unknown)[:3]}")
    for place in words["into_path"]:
        _urls.parse_prefix(place)
    if lines.num_rows:
        _ids.texts_of(lines["id"].to_pylist())
    names = pc.struct_field(pc.list_flatten(few["outputs"].combine_chunks()), "file") if len(few) else pa.array([])
    for name in names.unique().to_pylist():
        _plan.check_file_names([name.removesuffix("/")], local=False, segment_bytes=_urls.KEY_BYTES)


def known_of(parts: Sequence[Part]) -> Known:
    """Return what these parts hold together: of each row its latest line."""
    empty = pa.schema([COLUMNS.field(name) for name in _DECIDE]).empty_table()
    lines = pa.concat_tables([empty, *(part.lines for part in parts)])
    if not lines.num_rows:
        return Known(lines, 0, parts, np.empty(0, np.int64))
    generations = lines["generation"].to_numpy()
    numbers = np.arange(len(lines))
    codes = column(lines, "id").dictionary_encode()
    if len(codes.dictionary) < len(lines):
        order = np.lexsort((lines["finished_at"].cast(pa.int64()).to_numpy(), generations))
        last = np.empty(len(codes.dictionary), np.int64)
        last[codes.indices.to_numpy()[order]] = order  # the last assignment counts
        numbers = np.sort(last)
    light = lines.select(["id", "fingerprint", "state"])
    light = light if len(numbers) == len(lines) else light.take(numbers)
    return Known(light, int(generations.max()), parts, numbers)


def where(known: Known, ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return for each id the place of its line; -1: there is none."""
    found = pc.index_in(pa.array(ids, _TEXT), value_set=column(known.lines, "id"))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
