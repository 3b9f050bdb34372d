"""What a Ray task does with a batch of rows: a run of its own (`Job`, `RunBatch`).

Knows nothing of Ray itself.
"""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from file_dataset._errors import InvalidDatasetError
from file_dataset._ray.outcomes import end, table_of, with_counts
from file_dataset._result import RunStoppedError
from file_dataset._run import Run

if TYPE_CHECKING:
    import pandas as pd

    from file_dataset._pipeline import Pipeline
    from file_dataset._progress import Progress

logger = logging.getLogger(__name__)

_REMEDY = (
    "install what it imports on every node, in the versions of this process, or send it along: "
    "ray.init(runtime_env={'working_dir': '.'})"
)
# A warning while there is time to act; a guess.
_NEAR = 0.5


@dataclass(frozen=True)
class Job:
    """What every task knows of the whole run."""

    pipeline: bytes  # pickled: what cannot be loaded stops the run
    batch_size: int
    inputs: frozenset[str]  # of all batches: what no output may replace
    first_id: str | None  # whose refused upload stops the run
    patience_s: float | None  # how long Ray waits for a batch before it ends the job
    gives_rows: bool = False  # whether ids and carried columns come back too, which a Dataset's driver does not have


class RunBatch:
    """Runs the pipeline over one batch after the other, as an instance in tasks or as a class in actors."""

    def __init__(self, job: Job) -> None:
        """Take what is the same for every batch."""
        self._job = job
        self._loaded: Pipeline | None = None

    def __call__(self, batch: pd.DataFrame) -> pa.Table:
        """Return the outcome of every row."""
        job = self._job
        pace = Pace(job.batch_size, job.patience_s)
        try:
            pipeline = self._pipeline()
        except Exception as exc:  # noqa: BLE001  # the user's modules, and their own __reduce__
            return end("stopped", f"fn cannot be loaded in a Ray task: {type(exc).__name__}: {exc}; {_REMEDY}")
        stopped = None
        try:
            prepared = pipeline._prepare(batch, progress=pace)  # noqa: SLF001  # one package
            prepared = replace(prepared, inputs=prepared.inputs | job.inputs)
            has_first_row = job.first_id in {str(row_id) for row_id in prepared.rows.ids or ()}
            idle_workers = pipeline._idle_workers  # noqa: SLF001
            run = Run(prepared, idle_workers=idle_workers, has_first_row=has_first_row)
            run.run_rows()
        except InvalidDatasetError as exc:
            return end("refused", str(exc))
        except RunStoppedError as exc:
            stopped = str(exc)
        tally, rows = run.tally, prepared.rows
        ends = []
        if stopped is not None:
            if tally.is_down:
                # one node's network may be down: the driver decides whether the whole run stops
                tally.fail_rest(rows, stopped)
                ends = [end("down", stopped)]
            elif not tally.is_over_limit:  # how many may fail of the whole input is for the driver to decide
                ends = [end("stopped", stopped)]
        elif (down := tally.down()) is not None:
            failure = tally.failed[min(tally.failed)][0]
            ends = [end("down", f"{down} row {failure.id!r} failed at {failure}")]
        tables = [table_of(tally, rows, gives_rows=job.gives_rows), *ends]
        return with_counts(pa.concat_tables(tables, promote_options="default"), run.effort.counts())

    def _pipeline(self) -> Pipeline:
        if self._loaded is None:
            self._loaded = pickle.loads(self._job.pipeline)  # noqa: S301  # made by the driver
        return self._loaded


class Pace:
    """Warns once, while a batch runs, when a batch of rows as slow as the slowest would outlast Ray's patience."""

    def __init__(self, batch_size: int, patience_s: float | None) -> None:
        self._batch_size, self._patience_s = batch_size, patience_s
        self._last, self._has_warned = time.monotonic(), False

    def __call__(self, _: Progress) -> None:
        """Look at the time since the row before."""
        row_s, self._last = time.monotonic() - self._last, time.monotonic()
        if self._patience_s is None or self._has_warned or row_s * self._batch_size < _NEAR * self._patience_s:
            return
        self._has_warned = True
        logger.warning(
            "a row took %.0f s, so a batch of %d rows may take %.0f s. Ray Data stops a run when no batch ends for "
            "%.0f s: give a smaller batch_size, or set ray.data.DataContext's execution_no_progress_timeout_s",
            row_s,
            self._batch_size,
            row_s * self._batch_size,
            self._patience_s,
        )
