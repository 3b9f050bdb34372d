"""Parts of a checkpoint: finished rows as Parquet, and back. Pure: bytes in, bytes out; nothing is unpickled.

A part is a table with one line per row, in the columns of `COLUMNS`. What a location follows from is kept, and not the
location of an output itself: an output lies at `<into_path>/<id>/<file>`, so no part can point elsewhere.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from file_dataset import _frame, _plan, _urls
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

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
        # no size: fn gave None for this output
        "outputs": pa.list_(pa.struct([*_FILE, ("checksum", _TEXT)])),
        "inputs": pa.list_(
            pa.struct([*_FILE, ("location", _TEXT), ("version_id", _TEXT), ("checksum", _TEXT)]),
        ),
        "failures": pa.list_(
            pa.struct(dict.fromkeys(("stage", "file", "url", "type", "code", "message"), _TEXT)),
        ),
    }
)
_REMEDY = "remove it and its rows run again, or give another place"


@dataclass(frozen=True, slots=True)
class Known:
    """What the parts hold: one line per row, the latest."""

    lines: pa.Table
    generation: int  # the latest

    def __len__(self) -> int:
        """Return how many rows there are."""
        return int(self.lines.num_rows)

    @property
    def states(self) -> npt.NDArray[np.str_]:
        """The state of each."""
        found: npt.NDArray[np.str_] = column(self.lines, "state").to_numpy(zero_copy_only=False).astype(str)
        return found

    @property
    def fingerprints(self) -> npt.NDArray[np.bytes_]:
        """The fingerprint of each."""
        values = column(self.lines, "fingerprint")
        width = values.type.byte_width
        start, stop = values.offset * width, (values.offset + len(values)) * width
        return np.frombuffer(memoryview(values.buffers()[1])[start:stop], f"S{width}")


def column(table: pa.Table, name: str) -> Any:  # noqa: ANN401  # pyarrow has no types
    """Return a column in one piece, words as text."""
    found = table[name]
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    return found.combine_chunks() if found.num_chunks != 1 else found.chunk(0)


def empty() -> pa.Table:
    """Return a table of no rows."""
    return COLUMNS.empty_table()


def encode(lines: pa.Table) -> bytes:
    """Return a part with these lines. Pages have checksums, so damage shows."""
    sink = io.BytesIO()
    table = lines.cast(COLUMNS).replace_schema_metadata({_VERSION_KEY: _VERSION})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode(content: Any, name: str) -> pa.Table:  # noqa: ANN401  # a buffer
    """Return the lines of a part.

    Args:
        content: the file.
        name: where it lies, for the message.

    Raises:
        InvalidDatasetError: it is damaged, no part, or of a later version; or its names are no file's.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
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
        lines = file.read().cast(COLUMNS)
        _check(lines)
    except _DAMAGE as exc:
        raise _damaged(name, exc) from exc
    return lines.replace_schema_metadata(None)


_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)


def _damaged(name: str, error: BaseException) -> InvalidDatasetError:
    reason = str(error).partition("\n")[0][:200]
    return InvalidDatasetError(f"{name} is damaged, or no part of a checkpoint ({reason}): {_REMEDY}")


def _check(lines: pa.Table) -> None:
    """Refuse what no run writes: names that lead elsewhere, lines without a state.

    Raises:
        ValueError: saying what.
    """
    if any(lines[name].null_count for name in ("id", "into_path", "fingerprint", "state", "generation")):
        raise ValueError("a line lacks its id, its state or its fingerprint")
    words = {name: set(pc.unique(column(lines, name)).to_pylist()) for name in ("state", "into_path", "id_dtype")}
    if unknown := words["state"] - {STORED, FAILED, BEGUN}:
        raise ValueError(f"unknown states {sorted(unknown)[:3]}")
    for place in words["into_path"]:
        _urls.parse_prefix(place)
    if lines.num_rows:
        _frame.id_texts(column(lines, "id").to_pylist())
    for name in pc.unique(_fields(lines, "outputs", "file")).to_pylist():
        _plan.check_file_names([name], local=False, segment_bytes=_urls.KEY_BYTES)


def _fields(lines: pa.Table, of: str, name: str) -> Any:  # noqa: ANN401  # pyarrow has no types
    """Return one field of a column of lists, over all lists."""
    return pc.struct_field(pc.list_flatten(column(lines, of)), name)


def known_of(tables: Sequence[pa.Table]) -> Known:
    """Return what these parts hold together: of each row its latest line."""
    lines = pa.concat_tables([empty(), *tables])
    if not lines.num_rows:
        return Known(lines, 0)
    generations = lines["generation"].to_numpy()
    order = np.lexsort((lines["finished_at"].cast(pa.int64()).to_numpy(), generations))
    codes = column(lines, "id").dictionary_encode()
    last = np.empty(len(codes.dictionary), np.int64)
    last[codes.indices.to_numpy()[order]] = order  # the last assignment counts
    latest = int(generations.max())
    return Known(lines if len(last) == lines.num_rows else lines.take(np.sort(last)), latest)


def where(known: Known, ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return for each id the place of its line; -1: there is none."""
    found = pc.index_in(pa.array(ids, _TEXT), value_set=column(known.lines, "id"))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
