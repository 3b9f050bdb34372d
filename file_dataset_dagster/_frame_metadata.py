"""Frames as metadata of Dagster: the first rows as a table; rows, columns and place of a stored one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import pandas as pd

_TABLE_ROWS = 20  # Dagster's UI shows every row of a table
_CELL_CHARS = 120  # a longer word runs over the edge of Dagster's tables


def table(frame: pd.DataFrame) -> dg.TableMetadataValue:
    """Return the head of a frame as a table that Dagster's UI can show: at most 20 rows, 120 characters a cell."""
    head = frame.head(_TABLE_ROWS).astype(object)
    rows = head.where(head.notna(), "").to_dict("records")
    records = [dg.TableRecord({str(name): _cell(value) for name, value in row.items()}) for row in rows]
    columns = [dg.TableColumn(str(name), "string") for name in frame.columns]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns))


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 1] + "…"


def stored_frame(frame: pd.DataFrame, uri: str, partition_key: str | None) -> dict[str, Any]:
    """Return what Dagster's UI shows of a stored frame: number of rows, columns, and where it lies."""
    columns = [dg.TableColumn(str(name), str(dtype)) for name, dtype in frame.dtypes.items()]
    return {
        "dagster/row_count" if partition_key is None else "dagster/partition_row_count": len(frame),
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/uri": uri,
    }
