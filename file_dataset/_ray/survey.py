"""What the driver asks a Dataset before anything runs: its ids and, for a checkpoint, what each row depends on.

`Survey` and `Pending` are what tasks do with a block; they know nothing of Ray.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from file_dataset import _frame, _ids, _urls
from file_dataset._checkpoint import fingerprints
from file_dataset._errors import InvalidDatasetError
from file_dataset._prepared import Prepared, stores
from file_dataset._ray import compat
from file_dataset._ray.outcomes import GIVEN, SURVEYED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt
    import ray.data

    from file_dataset._pipeline import Pipeline
    from file_dataset._ray.options import BatchOptions
    from file_dataset._settings import Wish

# before the names of file columns, where inputs are to be looked at
_CELL, _VERSION = "cell ", "version "


class Survey:
    """Returns what the driver must know of a block: ids, file columns, inputs at risk; more for a checkpoint."""

    def __init__(self, pipeline: Pipeline, wish: Wish) -> None:
        """Take the pipeline that is to run."""
        self._pipeline, self._wish = pipeline, wish

    def __call__(self, block: pd.DataFrame | pa.Table) -> pa.Table:
        """Return one row per row: its id as text; the first has what is recorded of the block."""
        try:
            prepared = self._pipeline._prepare(_in_pandas(block))  # noqa: SLF001  # one package
        except InvalidDatasetError as exc:
            return pa.Table.from_pylist([{"refused": str(exc)}], SURVEYED)
        rows = prepared.rows
        if not len(rows):
            return SURVEYED.empty_table()
        rest: list[None] = [None] * (len(rows) - 1)
        table = pa.table(
            {
                "id": list(map(str, rows.ids or ())),
                "file_columns": [list(rows.file_columns), *rest],
                "inputs": [sorted(prepared.inputs), *rest],
                "refused": [None, *rest],
                "fingerprint": pa.nulls(len(rows), SURVEYED.field("fingerprint").type),
            },
            SURVEYED,
        )
        return self._more(table, block, prepared) if self._wish.place is not None else table

    def _more(self, table: pa.Table, block: pd.DataFrame | pa.Table, prepared: Prepared) -> pa.Table:
        """Add what a checkpoint takes: fingerprints, and the columns that its result has."""
        rows = prepared.rows
        of_rows = fingerprints.fingerprints(rows, str(prepared.prefix), self._wish.code_version, prepared.carried)
        kind, at = SURVEYED.field("fingerprint").type, table.column_names.index("fingerprint")
        column = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(of_rows.tobytes())])
        table = table.set_column(at, "fingerprint", column)
        failures = [name for name in _frame.ERROR_COLUMNS if name in block]
        given = _select(block, [_frame.ID, *rows.carried, *failures])
        for name in given.column_names:
            table = table.append_column(GIVEN + name, given[name])
        if self._wish.check_inputs:
            for name, cells in _frame.absolute_cells(rows).items():
                texts = [None if cell is None else str(cell) for cell in cells]
                table = table.append_column(_CELL + name, pa.array(texts, pa.string()))
            for name, versions in rows.versions.items():
                texts = [None if version is None else str(version) for version in versions]
                table = table.append_column(_VERSION + name, pa.array(texts, pa.string()))
        return table


class Texts:
    """Drops the columns of a block that name no file, so that blobs and arrays do not travel."""

    def __init__(self, file_columns: Sequence[str] | None) -> None:
        """Take the names of the file columns; None: columns that may be some are kept."""
        self._file_columns = file_columns

    def __call__(self, block: pd.DataFrame | pa.Table) -> pd.DataFrame | pa.Table:
        """Return the block with its ids, its file columns and their versions."""
        names = block.column_names if isinstance(block, pa.Table) else list(block)
        kept = [name for name in names if self._is_kept(name, block)]
        if len(kept) == len(names) or not set(kept) - {_frame.ID}:  # what is refused, is refused by all its columns
            return block
        return block.select(kept) if isinstance(block, pa.Table) else block[kept]

    def _is_kept(self, name: Any, block: pd.DataFrame | pa.Table) -> bool:  # noqa: ANN401  # pandas has any names
        if not isinstance(name, str) or name in _frame.FAILURE_COLUMNS or name.endswith(f".{_frame.VERSION}"):
            return True
        if self._file_columns is not None:
            return name in self._file_columns
        column = block[name]
        if isinstance(column, pa.ChunkedArray):
            return _may_be_text(column.type) or column.null_count == len(column)
        if pd.api.types.is_numeric_dtype(column.dtype):
            return bool(column.isna().all())
        if pd.api.types.is_object_dtype(column.dtype):
            found = column.dropna()
            return not len(found) or any(isinstance(value, str | PurePath) for value in found)
        return _frame.may_hold_text(column)


def _may_be_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):  # an array of Ray's, or Python objects
        return not pa.types.is_nested(kind.storage_type)
    others = pa.types.is_primitive, pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary
    return not any(is_one(kind) for is_one in others)


class Pending:
    """Drops the rows of a block that are done."""

    def __init__(self, done: Callable[[], npt.NDArray[np.bytes_]]) -> None:
        """Take what gives the `digests` of the ids that are done, sorted: one array for all tasks of a node."""
        self._done = done

    def __call__(self, block: pd.DataFrame | pa.Table) -> pd.DataFrame | pa.Table:
        """Return the rows that are left."""
        done = self._done()
        ids = block[_frame.ID].to_pylist() if isinstance(block, pa.Table) else block[_frame.ID].astype(object).tolist()
        of_rows = digests(map(str, ids))
        places = np.minimum(np.searchsorted(done, of_rows), len(done) - 1)
        left = np.flatnonzero(done[places] != of_rows)
        if isinstance(block, pa.Table):
            return block.take(pa.array(left))
        return block.iloc[left].reset_index(drop=True)


def digests(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return 16 bytes for each id, the same in every process.

    A fingerprint would not do: where fn takes carried values it depends on the dtypes of the block that has the row.
    """
    size = fingerprints.BYTES
    found = [hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=size).digest() for text in texts]
    return np.frombuffer(b"".join(found), fingerprints.DTYPE)


@dataclass(frozen=True)
class Surveyed:
    """What a Dataset has, in its order.

    Attributes:
        ids: of all rows, as text.
        columns: the file columns.
        inputs: what no output may replace.
        starts: the first row of each block.
        prepared: for a checkpoint the rows, as far as it takes them: ids and carried columns; else None.
        fingerprints: of the rows, for a checkpoint.
    """

    ids: list[str]
    columns: list[str]
    inputs: frozenset[str]
    starts: list[int]
    prepared: Prepared | None = None
    fingerprints: npt.NDArray[np.bytes_] | None = None


def ask(options: BatchOptions, dataset: ray.data.Dataset, wish: Wish) -> Surveyed:
    """Execute a Dataset for its ids, and check them.

    Raises:
        InvalidDatasetError: a block is refused, or ids are twice there.
    """
    table = _answers(dataset, Survey(options.elsewhere(), wish))
    in_blocks = table["file_columns"].drop_null().to_pylist()
    columns = list(dict.fromkeys(name for names in in_blocks for name in names))
    if wish.place is not None and any(names != columns for names in in_blocks):
        # where a block has only nulls in a column of URLs, it took that for a carried one
        table = _answers(dataset, Survey(options.elsewhere(file_columns=columns), wish))
    ids: list[str] = table["id"].to_pylist()
    into = _urls.parse_prefix(options.settings.write_options["into_path"])
    _ids.checked(pd.DataFrame({_frame.ID: ids}, dtype=object), local=isinstance(into, Path))
    inputs = frozenset(url for urls in table["inputs"].drop_null().to_pylist() for url in urls)
    starts = np.flatnonzero(table["file_columns"].is_valid().to_numpy()).tolist()
    surveyed = Surveyed(ids, columns, inputs, starts)
    if wish.place is None:
        return surveyed
    of_rows = np.frombuffer(b"".join(table["fingerprint"].to_pylist()), fingerprints.DTYPE)
    prepared = _prepared(options, dataset, surveyed, table)
    return replace(surveyed, prepared=prepared, fingerprints=of_rows)


def _answers(dataset: ray.data.Dataset, survey: Survey) -> pa.Table:
    ask_each: Any = survey
    # blocks as they are: an older Ray makes floats of integers beside nulls
    asked = dataset.map_batches(ask_each, batch_format=None, batch_size=None)
    with compat.settings(asked, keeps_order=True):
        tables = [SURVEYED.empty_table(), *asked.iter_batches(batch_size=None, batch_format="pyarrow")]
    table = compat.joined(tables)
    if refused := table["refused"].drop_null().to_pylist():
        raise InvalidDatasetError(refused[0])
    return table


def _prepared(options: BatchOptions, dataset: ray.data.Dataset, surveyed: Surveyed, table: pa.Table) -> Prepared:
    """Return the rows of a Dataset as far as the driver knows them: ids, carried columns, recorded failures."""
    settings, ids = options.settings, surveyed.ids
    given = {name.removeprefix(GIVEN): table[name] for name in table.column_names if name.startswith(GIVEN)}
    rows = rows_of([pa.table(given)] if given else [], ids, surveyed.columns, dataset)
    cells, versions = (
        {name: table[kind + name].to_pylist() for name in surveyed.columns if kind + name in table.column_names}
        for kind in (_CELL, _VERSION)
    )
    rows = replace(rows, ids=ids, cells=cells, versions=versions)
    into = _urls.parse_prefix(settings.write_options["into_path"])
    into = into.absolute() if isinstance(into, Path) else into
    style = options.pipeline._style  # noqa: SLF001  # one package
    return Prepared(settings, options.contract, style, rows, into, None, *stores(settings), surveyed.inputs, {})


def rows_of(
    given: Sequence[pa.Table], ids: Sequence[str], columns: Iterable[str], dataset: ray.data.Dataset
) -> _frame.Rows:
    """Return the rows of a Dataset in the order of its ids, as far as they came back: ids and carried columns."""
    frame = _given_frame(given, dataset)
    if not len(frame):
        return _frame.rows_of_frame(frame, list(columns) if set(columns) <= set(frame) else None, needs_id=True)
    places = {str(row_id): place for place, row_id in enumerate(frame[_frame.ID].tolist())}
    # those that did not come back are listed nowhere: any row does for them
    frame = frame.iloc[[places.get(row_id, 0) for row_id in ids]].reset_index(drop=True)
    carried = tuple(name for name in frame.columns if name not in _frame.FAILURE_COLUMNS)
    failed = _frame._recorded_failures(frame)  # noqa: SLF001  # one package
    return _frame.Rows(frame, None, {}, carried, failed, Path(), len(frame))


def _given_frame(given: Sequence[pa.Table], dataset: ray.data.Dataset) -> pd.DataFrame:
    """Return ids and carried columns of the rows that came back, with the Arrow types that they have in the Dataset."""
    if given:
        return _in_pandas(compat.joined(given))
    schema = dataset.schema()
    names, types = (schema.names, schema.types) if schema is not None else ([_frame.ID], [pa.string()])
    # of pandas' blocks Ray does not know every type
    kinds = [kind if isinstance(kind, pa.DataType) else pa.null() for kind in types]
    return _in_pandas(pa.table({name: pa.array([], kind) for name, kind in zip(names, kinds, strict=True)}))


def _in_pandas(block: pd.DataFrame | pa.Table) -> pd.DataFrame:
    if isinstance(block, pd.DataFrame):
        return block
    frame: pd.DataFrame = block.to_pandas(
        types_mapper=lambda kind: None if isinstance(kind, pa.BaseExtensionType) else pd.ArrowDtype(kind)
    )
    return frame


def _select(block: pd.DataFrame | pa.Table, names: list[str]) -> pa.Table:
    return block.select(names) if isinstance(block, pa.Table) else compat.arrow_of(block[names])
