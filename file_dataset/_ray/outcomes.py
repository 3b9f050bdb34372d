"""Outcomes of rows as Arrow columns of text, which is how they come back from Ray's tasks, and as a tally takes them.

They have one schema, whatever fn returns: a batch in which every row fails looks like any other.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from file_dataset import _frame
from file_dataset._checkpoint.fingerprints import BYTES
from file_dataset._effort import Counts
from file_dataset._errors import Failure, RowError
from file_dataset._ray import compat
from file_dataset._tally import Failed, Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._errors import RowId
    from file_dataset._tally import Outcome, Tally

_TEXT = pa.string()
_COUNTS = pa.struct({one.name: pa.int64() if isinstance(one.default, int) else pa.float64() for one in fields(Counts)})
# One row per row of the batch; where the batch stopped early, a last one that has no id and the reason.
OUTCOMES = pa.schema(
    {
        "id": _TEXT,  # as text
        "outputs": pa.list_(pa.struct({"file": _TEXT, "location": _TEXT})),  # null: nothing is stored
        "files": pa.list_(
            pa.struct({"file": _TEXT, "location": _TEXT, "size_bytes": pa.int64(), "etag": _TEXT, "checksum": _TEXT})
        ),
        "inputs": pa.list_(
            pa.struct({name: pa.int64() if name == "size_bytes" else _TEXT for name in _frame.INPUTS_COLUMNS[1:]})
        ),
        "without_digest": pa.int64(),
        "failures": pa.list_(
            pa.struct(dict.fromkeys(("stage", "file", "url", "type", "code", "message"), _TEXT)),
        ),
        "is_all": pa.bool_(),  # none of the row's inputs could be downloaded
        "is_recorded": pa.bool_(),  # the failure is an earlier Pipeline's
        "refused": _TEXT,  # the message of an InvalidDatasetError
        "stopped": _TEXT,  # the message of a RunStoppedError
        "down": _TEXT,  # the store has answered no request of this process; the driver knows of the others
        "counts": _COUNTS,  # of the whole batch, on its first record
    }
)
# One row per row of a Dataset; the first one of a block has what is recorded of the block. With a checkpoint there are
# also fingerprints, and the Dataset's own columns.
SURVEYED = pa.schema(
    {
        "id": _TEXT,
        "file_columns": pa.list_(_TEXT),
        "inputs": pa.list_(_TEXT),
        "refused": _TEXT,
        "fingerprint": pa.binary(BYTES),
    }
)
# before the names of a Dataset's own columns, which may be any
GIVEN = "given "


def end(why: str, message: str) -> pa.Table:
    """Return the last record of a batch that stopped early."""
    return pa.Table.from_pylist([{why: message}], OUTCOMES)


def table_of(tally: Tally, rows: _frame.Rows, *, gives_rows: bool) -> pa.Table:
    """Return a row for every row that is done or has failed."""
    known = sorted({*tally.stored, *tally.failed})
    records = []
    for position in known:
        done = tally.stored.get(position)
        records.append(
            {
                "id": str(rows.id_at(position)),
                "outputs": None
                if done is None
                else [{"file": name, "location": location} for name, location in done.outputs.items()],
                "files": []
                if done is None
                else [{name: getattr(file, name) for name in _frame.FILES_COLUMNS[1:]} for file in done.files],
                "inputs": [
                    {name: getattr(file, name) for name in _frame.INPUTS_COLUMNS[1:]}
                    for file in tally.inputs.get(position, ())
                ],
                "without_digest": 0 if done is None else done.without_digest,
                "failures": [
                    {
                        name.removeprefix("error_"): getattr(one, name.removeprefix("error_"))
                        for name in _frame.ERROR_COLUMNS
                    }
                    for one in tally.failed.get(position, ())
                ],
                "is_all": tally.misses_all(position),
                "is_recorded": position in rows.failed,
            }
        )
    table = pa.Table.from_pylist(records, OUTCOMES)
    if not gives_rows:
        return table
    given = _frame._taken(rows, known, [_frame.ID, *rows.carried])  # noqa: SLF001  # one package
    columns = compat.arrow_of(given)
    for name in columns.column_names:
        table = table.append_column(GIVEN + name, columns[name])
    return table


def with_counts(batch: pa.Table, counts: Counts) -> pa.Table:
    """Return the records of a batch with what it took: several batches may come back as one block."""
    if not len(batch):
        return batch
    column = pa.array([asdict(counts)], _COUNTS, size=1)
    rest = pa.nulls(len(batch) - 1, _COUNTS)
    return batch.set_column(batch.column_names.index("counts"), "counts", pa.chunked_array([column, rest]))


def counts_of(table: pa.Table) -> Counts:
    """Return what the batches took whose records these are."""
    return sum((Counts(**batch) for batch in table["counts"].drop_null().to_pylist()), Counts())


def outcome_of(record: Mapping[str, Any], position: int, row_id: RowId) -> Outcome:
    """Return what a record has of the row at a position."""
    inputs = tuple(_frame.InputFile(position, **file) for file in record["inputs"])
    if record["failures"]:
        error = RowError([Failure(row_id, **failure) for failure in record["failures"]])
        return Failed(error, is_all=record["is_all"], is_recorded=record["is_recorded"], inputs=inputs)
    return Stored(
        {output["file"]: output["location"] for output in record["outputs"]},
        tuple(_frame.StoredFile(position, **file) for file in record["files"]),
        record["without_digest"],
        inputs,
    )
