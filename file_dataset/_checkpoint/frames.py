"""Rows of a checkpoint as the frames of a result, column by column: no object per row. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from file_dataset import _frame
from file_dataset._checkpoint.parts import COLUMNS, FAILED, STORED, column, field_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from file_dataset._checkpoint.parts import Known
    from file_dataset._columns import Positions

_FILE_TEXTS = ("file", "etag", "checksum")
_INPUT_TEXTS = ("file", "location", "etag", "version_id", "checksum")


def frames_at(
    known: Known, places: Positions, rows: _frame.Rows, positions: Positions, promised: Iterable[str] = ()
) -> tuple[dict[str, pd.DataFrame], int]:
    """Return manifest, files and inputs of rows that are stored, and how many of their downloads had no digest.

    Args:
        known: the checkpoint.
        places: of the rows, in it.
        rows: the frame that they are rows of.
        positions: of the rows, in that frame.
        promised: output columns that the manifest has in any case, the first ones.
    """
    at = np.asarray(positions, np.int64)
    outputs = _Lists(known, places, "outputs")
    locations = _locations(known, places)
    files = {name: _text(outputs.values(name)) for name in _FILE_TEXTS}
    files["location"] = _text(outputs.of_files(locations))
    manifest = _manifest(outputs, locations, files["location"], promised, at[outputs.order])
    stored_at, sizes = outputs.sizes()
    frames = {
        "files": _frame.files_frame(rows, at[outputs.order][stored_at], {**files, "size_bytes": sizes}),
        "manifest": _frame.manifest(rows, manifest, keep=at[outputs.order]),
        "inputs": _inputs(known, places, rows, at),
    }
    without_digest = sum(pc.sum(lines["without_digest"]).as_py() for _, lines in known.read(places, ["without_digest"]))
    return frames, without_digest


def frames_of(known: Known) -> tuple[dict[str, pd.DataFrame], int]:
    """Return manifest, failures, files and inputs of all rows, in the order in which they were written down.

    There are no carried columns. Returns also how many downloads had no digest.
    """
    stored, failed = (np.flatnonzero(known.is_in(state)) for state in (STORED, FAILED))
    ids = _ids(known)
    rows = _frame.Rows(ids, None, {}, (), {}, Path(), len(ids))
    frames, without_digest = frames_at(known, stored, rows, stored)
    failures = _Lists(known, failed, "failures")
    texts = {f"error_{name}": _text(failures.values(name, is_file=False)) for name in failures.names}
    frames["failures"] = _frame.failures_frame(rows, failed[failures.order][failures.lines], texts)
    if len(more := _inputs(known, failed, rows, failed)):
        frames["inputs"] = pd.concat([frames["inputs"], more], ignore_index=True)
    return frames, without_digest


class _Lists:
    """The values of a column of lists, field by field: one of a million values is in memory twice, and not all."""

    def __init__(self, known: Known, places: Positions, of: str) -> None:
        self._known, self._places, self._of = known, places, of
        self.names = [field.name for field in COLUMNS.field(of).type.value_type]
        whole = "size_bytes" if "size_bytes" in self.names else self.names[0]
        pieces = [(which, *self._flat(lines)) for which, lines in known.read(places, [field_of(of, whole)])]
        starts = np.cumsum([0, *(len(which) for which, _, _ in pieces)])
        # of each line, which of the places it is; of each value, its line
        self.order = np.concatenate([np.empty(0, np.int64), *(which for which, _, _ in pieces)])
        parents = [at + start for (_, at, _), start in zip(pieces, starts, strict=False)]
        self.lines = np.concatenate([np.empty(0, np.int64), *parents])
        self._sizes = pa.chunked_array(
            [values for _, _, values in pieces], COLUMNS.field(of).type.value_type.field(whole).type
        )

    def sizes(self) -> tuple[Any, Any]:
        """Return the line of each value that is a file, and its size."""
        is_file = pc.is_valid(self._sizes).to_numpy(zero_copy_only=False)
        return self.lines[is_file], pc.drop_null(self._sizes).to_numpy()

    def values(self, name: str, *, is_file: bool = True) -> Any:  # noqa: ANN401  # of pyarrow
        """Return a field of all values, or of those that are files."""
        reads = self._known.read(self._places, [field_of(self._of, name)])
        values = pa.chunked_array([self._flat(lines)[1] for _, lines in reads], pa.string())
        return self.of_files(values) if is_file else values

    def of_files(self, values: Any) -> Any:  # noqa: ANN401  # of pyarrow
        """Return those that are of files, of one for each value."""
        return values.filter(pc.is_valid(self._sizes)) if self._sizes.null_count else values

    def _flat(self, lines: pa.Table) -> tuple[Any, Any]:
        lists = column(lines, self._of)
        at = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
        return at, pc.struct_field(pc.list_flatten(lists), 0)


def _locations(known: Known, places: Positions) -> Any:  # noqa: ANN401  # of pyarrow
    """Return where each output lies, and each object of a directory; null: fn gave None for it."""
    pieces = []
    for _, lines in known.read(
        places, ["id", "into_path", field_of("outputs", "file"), field_of("outputs", "size_bytes")]
    ):
        lists = column(lines, "outputs")
        at, values = pc.list_parent_indices(lists), pc.list_flatten(lists)
        into = pc.utf8_rtrim(column(lines, "into_path"), "/").take(at)  # a bucket's root is s3://bucket/
        names = pc.struct_field(values, "file")
        is_there = pc.or_(pc.is_valid(pc.struct_field(values, "size_bytes")), pc.ends_with(names, "/"))
        files = pc.if_else(is_there, names, pa.scalar(None, pa.string()))
        pieces.append(pc.binary_join_element_wise(into, column(lines, "id").take(at), files, "/"))
    return pa.chunked_array(pieces, pa.string())


def _manifest(
    outputs: _Lists,
    locations: Any,  # noqa: ANN401  # of pyarrow
    located: Any,  # noqa: ANN401  # of pandas
    promised: Iterable[str],
    positions: Any,  # noqa: ANN401  # of numpy
) -> dict[str, Any]:
    """Return where the outputs lie, a column for each: those that are promised, then others as rows have them.

    Args:
        outputs: of the rows.
        locations: of each; null: fn gave None for it.
        located: the same as pandas keeps it, without nulls.
        promised: output columns that there are in any case.
        positions: of each line in the frame, whose order is that of the columns: rows are written down as they end.
    """
    files = outputs.values("file", is_file=False).combine_chunks()
    own, files = _own(outputs, files)
    lines = outputs.lines if own is None else outputs.lines[own]
    found = files.unique()
    if len(found) > 1 and (positions[1:] < positions[:-1]).any():
        found = files.take(pa.array(np.argsort(positions[lines], kind="stable"))).unique()
    names = list(dict.fromkeys([*promised, *found.to_pylist()]))
    count, whole = len(outputs.order), locations.combine_chunks()
    if own is None and len(names) == 1 and len(outputs.lines) == count and not locations.null_count:
        return {names[0]: located}
    if own is not None:
        whole = whole.take(pa.array(own))
    columns = {}
    for name in names:
        is_it = np.flatnonzero(pc.equal(files, name).to_numpy(zero_copy_only=False))
        at = np.full(count, -1, np.int64)
        at[lines[is_it]] = is_it
        columns[name] = _text(pa.chunked_array([whole.take(pa.array(at, mask=at < 0))]))
    return columns


def _own(outputs: _Lists, files: Any) -> tuple[Any, Any]:  # noqa: ANN401  # of numpy, pyarrow
    """Return which of the values are outputs, and no objects of directories, and their names; None: all of them.

    Args:
        outputs: the values.
        files: the names that they have.
    """
    directories = [name for name in files.unique().to_pylist() if name.endswith("/")]
    if not directories:
        return None, files
    is_object = np.zeros(len(files), bool)
    for name in directories:
        # another row may have a file where this one has a directory
        has_it = np.zeros(len(outputs.order), bool)
        has_it[outputs.lines[pc.equal(files, name).to_numpy(zero_copy_only=False)]] = True
        begins = pc.starts_with(files, name).to_numpy(zero_copy_only=False)
        is_object |= begins & has_it[outputs.lines] & pc.not_equal(files, name).to_numpy(zero_copy_only=False)
    own = np.flatnonzero(~is_object)
    return own, pc.utf8_rtrim(files.take(pa.array(own)), "/")


def _inputs(known: Known, places: Positions, rows: _frame.Rows, at: Any) -> pd.DataFrame:  # noqa: ANN401  # of numpy
    inputs = _Lists(known, places, "inputs")
    read_at, sizes = inputs.sizes()
    texts = {name: _text(inputs.values(name)) for name in _INPUT_TEXTS}
    return _frame.inputs_frame(rows, at[inputs.order][read_at], {**texts, "size_bytes": sizes})


def _text(values: Any) -> Any:  # noqa: ANN401  # of pyarrow; an array of pandas
    """Return a column of text as pandas keeps it."""
    dtype: Any = pd.api.types.pandas_dtype(_frame.TEXT)
    return dtype.__from_arrow__(values)


def _ids(known: Known) -> pd.DataFrame:
    """Return the ids as a frame of one column, with the dtype that they had."""
    kinds: set[str | None] = set()
    for _, lines in known.read(np.arange(len(known)), ["id_dtype"]):
        kinds.update(lines["id_dtype"].unique().to_pylist())
    texts = column(known.lines, "id")
    make = _maker(kinds.pop()) if len(kinds) == 1 else None
    return pd.DataFrame({_frame.ID: make(texts) if make else _each_as_it_was(known, texts)})


def _maker(dtype: str | None) -> Callable[[Any], Any] | None:
    try:
        found = pd.api.types.pandas_dtype(dtype)
    except TypeError:  # of another version, or of an extension that is not loaded
        return None
    if pd.api.types.is_integer_dtype(found):
        return lambda texts: pd.array(pc.cast(texts, pa.int64()).to_numpy(), dtype=found)
    if found == np.dtype(object):
        return None
    return lambda texts: pd.array(texts.to_numpy(zero_copy_only=False), dtype=found)


def _each_as_it_was(known: Known, texts: Any) -> pd.Series:  # noqa: ANN401  # of pyarrow
    """Return ids of several dtypes as objects."""
    records = known.records(np.arange(len(known)), ["id_dtype"])
    pairs = zip(texts.to_pylist(), records, strict=True)
    ids = [int(text) if "int" in (record["id_dtype"] or "").lower() else text for text, record in pairs]
    return pd.Series(ids, dtype=object)
