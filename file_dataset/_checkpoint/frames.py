"""Rows of a checkpoint as the frames of a result, column by column: no object per row. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from file_dataset import _frame
from file_dataset._checkpoint.parts import STORED, Known, column

if TYPE_CHECKING:
    from collections.abc import Iterable

    from file_dataset._columns import Positions


class KeptRows:
    """Lines of a checkpoint, in the order of a result. What it gives are columns, and of each value its line."""

    def __init__(self, lines: pa.Table) -> None:
        """Take the lines."""
        self._lines = lines
        self._ids = column(lines, "id")
        self._into = column(lines, "into_path")

    @property
    def without_digest(self) -> int:
        """Downloads without a digest, of all rows."""
        return int(pc.sum(self._lines["without_digest"]).as_py() or 0)

    def outputs(self, promised: Iterable[str]) -> dict[str, Any]:
        """Return where the outputs lie, a column for each: those that are promised, then others as rows have them.

        Where a row lacks one there is null.
        """
        names = dict.fromkeys(promised)
        lines, fields = self._flat("outputs")
        files = fields["file"]
        names |= dict.fromkeys(pc.unique(files).to_pylist())
        columns = {}
        for name in names:
            is_it = pc.equal(files, name)
            places = lines[is_it.to_numpy(zero_copy_only=False)]
            has_file = pc.is_valid(fields["size_bytes"].filter(is_it))
            at = np.full(len(self._lines), -1, np.int64)
            at[places] = places
            at[places[~has_file.to_numpy(zero_copy_only=False)]] = -1
            there = pa.array(at, mask=at < 0)
            columns[name] = _text(self._locations(there, pa.scalar(name)))
        return columns

    def files(self) -> tuple[Positions, dict[str, Any]]:
        """Return the row of each stored file, and the columns of the frame of files."""
        lines, fields = self._flat("outputs")
        has_file = pc.is_valid(fields["size_bytes"])
        there = {name: column.filter(has_file) for name, column in fields.items()}
        lines = lines[has_file.to_numpy(zero_copy_only=False)]
        location = self._locations(pa.array(lines), there["file"])
        texts = {name: _text(there[name]) for name in ("file", "etag", "checksum")}
        return lines, {**texts, "location": _text(location), "size_bytes": there["size_bytes"].to_numpy()}

    def inputs(self) -> tuple[Positions, dict[str, Any]]:
        """Return the row of each input that was read, and the columns of the frame of inputs."""
        lines, fields = self._flat("inputs")
        sizes = fields.pop("size_bytes").to_numpy()
        return lines, {**{name: _text(column) for name, column in fields.items()}, "size_bytes": sizes}

    def failures(self) -> tuple[Positions, dict[str, Any]]:
        """Return the row of each failure, and the columns of the frame of failures."""
        lines, fields = self._flat("failures")
        return lines, {f"error_{name}": _text(column) for name, column in fields.items()}

    def _flat(self, of: str) -> tuple[Any, dict[str, Any]]:
        """Return the line of each value of a column of lists, and the values by field."""
        lists = column(self._lines, of)
        values = pc.list_flatten(lists)
        names = [field.name for field in values.type]
        lines = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
        return lines, {name: pc.struct_field(values, name) for name in names}

    def _locations(self, lines: Any, files: Any) -> Any:  # noqa: ANN401  # of pyarrow
        # a bucket's root is s3://bucket/
        into = pc.utf8_rtrim(self._into.take(lines), "/")
        return pc.binary_join_element_wise(into, self._ids.take(lines), files, "/")


def ids_of(lines: pa.Table) -> pd.DataFrame:
    """Return the ids as a frame of one column, with the dtype that they had."""
    dtypes = pc.unique(column(lines, "id_dtype")).to_pylist()
    texts = column(lines, "id")
    if len(dtypes) == 1 and (dtype := dtypes[0]) is not None:
        try:
            found = pd.api.types.pandas_dtype(dtype)
        except TypeError:
            found = np.dtype(object)
        if pd.api.types.is_integer_dtype(found):
            return pd.DataFrame({_frame.ID: pd.array(pc.cast(texts, pa.int64()).to_numpy(), dtype=found)})
        if found != np.dtype(object):
            return pd.DataFrame({_frame.ID: pd.array(texts.to_numpy(zero_copy_only=False), dtype=found)})
        return pd.DataFrame({_frame.ID: texts.to_numpy(zero_copy_only=False)}, dtype=object)
    were_numbers = ["int" in (kind or "").lower() for kind in column(lines, "id_dtype").to_pylist()]
    pairs = zip(texts.to_pylist(), were_numbers, strict=True)
    ids = [int(text) if was_number else text for text, was_number in pairs]
    return pd.DataFrame({_frame.ID: pd.Series(ids, dtype=object)})


def _text(column: Any) -> Any:  # noqa: ANN401  # of pyarrow
    """Return a column of text as pandas keeps it, null where it is null."""
    chunks = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    dtype: Any = pd.api.types.pandas_dtype(_frame.TEXT)
    return dtype.__from_arrow__(chunks)


def frames_of(known: Known) -> tuple[dict[str, pd.DataFrame], int]:
    """Return manifest, failures, files and inputs of all rows, in the order in which they were written down.

    There are no carried columns. Returns also how many downloads had no digest.
    """
    lines = known.lines
    ids = ids_of(lines)
    rows = _frame.Rows(ids, None, {}, (), {}, Path(), len(ids))
    found = KeptRows(lines)
    stored = np.flatnonzero(known.states == STORED)
    outputs = {name: values.take(stored) for name, values in found.outputs(()).items()}
    frames = {
        "manifest": _frame.manifest(rows, outputs, keep=stored),
        "failures": _frame.failures_frame(rows, *found.failures()),
        "files": _frame.files_frame(rows, *found.files()),
        "inputs": _frame.inputs_frame(rows, *found.inputs()),
    }
    return frames, found.without_digest


def taken(known: Known, places: Positions) -> pa.Table:
    """Return these lines."""
    return known.lines.take(pa.array(places))
