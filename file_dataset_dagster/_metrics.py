"""Numbers of a run, which Dagster plots over the materializations of an asset. Pure: no I/O, no context."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import file_dataset


def metrics_of(result: file_dataset.PipelineResult, seconds: float) -> dict[str, int | float]:
    """Return rows, bytes and seconds of a result, and what `result.counts` has, on Ray those of all tasks together.

    `read_bytes` and `stored_bytes` are those of every row of the result. `retries`, `throttles` and the seconds of each
    stage are of the rows that ran now; these overlap, so that their seconds can be more than `seconds`.
    """
    counted = {} if result.counts is None else asdict(result.counts)
    return {
        "input_rows": result.input_rows,
        "dropped_rows": result.dropped_rows,
        "read_bytes": int(result.inputs["size_bytes"].sum()),
        "stored_bytes": int(result.files["size_bytes"].sum()),
        "files_without_digest": result.files_without_digest,
        "seconds": round(seconds, 1),
        **{name: round(value, 6) for name, value in counted.items()},
    }
