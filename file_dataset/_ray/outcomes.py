"""What runs in Ray's tasks: a run per batch, and its outcomes as Arrow columns of text. Knows nothing of Ray itself.

Outcomes have one schema, whatever fn returns: a batch in which every row fails looks like any other.
"""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from file_dataset import _frame
from file_dataset._errors import Failure, InvalidDatasetError
from file_dataset._result import RunStoppedError
from file_dataset._run import _Done

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from file_dataset._pipeline import Pipeline
    from file_dataset._progress import Progress
    from file_dataset._run import Run

logger = logging.getLogger(__name__)

_TEXT = pa.string()
# One row per row of the batch; where the batch stopped early, a last one that has no id and says why.
OUTCOMES = pa.schema(
    {
        "id": _TEXT,  # as text
        "outputs": pa.list_(pa.struct({"file": _TEXT, "location": _TEXT})),  # null: nothing is stored
        "files": pa.list_(
            pa.struct({"file": _TEXT, "location": _TEXT, "size_bytes": pa.int64(), "etag": _TEXT, "checksum": _TEXT})
        ),
        "without_digest": pa.int64(),
        "failures": pa.list_(
            pa.struct(dict.fromkeys(("stage", "file", "url", "type", "code", "message"), _TEXT)),
        ),
        "is_recorded": pa.bool_(),  # the failure is an earlier Pipeline's
        "refused": _TEXT,  # the message of an InvalidDatasetError
        "stopped": _TEXT,  # the message of a RunStoppedError
        "down": _TEXT,  # the store has answered no request of this process; the driver knows of the others
    }
)
# One row per row of a Dataset; the first one of a block has what is said of the block.
SURVEYED = pa.schema({"id": _TEXT, "file_columns": pa.list_(_TEXT), "inputs": pa.list_(_TEXT), "refused": _TEXT})
# before the names of a Dataset's own columns, which may be any
GIVEN = "given "
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
    gives_rows: bool  # whether ids and carried columns come back too, which the driver of a Dataset does not have
    patience_s: float | None  # how long Ray waits for a batch before it ends the job


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
            return _end("stopped", f"fn cannot be loaded in a Ray task: {type(exc).__name__}: {exc}; {_REMEDY}")
        stopped = None
        try:
            run = pipeline._run(batch, progress=pace)  # noqa: SLF001  # one package
            run.inputs |= job.inputs
            run.is_first_upload = job.first_id in {str(row_id) for row_id in run.rows.ids or ()}
            run.run_rows()
        except InvalidDatasetError as exc:
            return _end("refused", str(exc))
        except RunStoppedError as exc:
            stopped = str(exc)
        ends = []
        if run.is_down and stopped is not None:
            # one node's network may be down: the driver decides whether the whole run stops
            run.fail_rest(stopped)
            ends = [_end("down", stopped)]
        elif stopped is not None:
            ends = [_end("stopped", stopped)]
        elif (down := run.down()) is not None:
            ends = [_end("down", f"{down} {_first_failure(run)}")]
        return pa.concat_tables([outcomes(run, gives_rows=job.gives_rows), *ends], promote_options="default")

    def _pipeline(self) -> Pipeline:
        if self._loaded is None:
            self._loaded = pickle.loads(self._job.pipeline)  # noqa: S301  # made by the driver
        return self._loaded


def _first_failure(run: Run) -> str:
    failure = run.failed[min(run.failed)][0]
    return f"row {failure.id!r} failed at {failure}"


def _end(why: str, message: str) -> pa.Table:
    return pa.Table.from_pylist([{why: message}], OUTCOMES)


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
            "a row took %.0f s: a batch of %d as slow takes %.0f s, and Ray Data ends an execution in which no batch "
            "ends for %.0f s: give a smaller batch_size, or set ray.data.DataContext's execution_no_progress_timeout_s",
            row_s,
            self._batch_size,
            row_s * self._batch_size,
            self._patience_s,
        )


class Survey:
    """Tells what the driver must know of a Dataset before anything runs: ids, file columns, inputs at risk."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Take the pipeline that is to run."""
        self._pipeline = pipeline

    def __call__(self, batch: pd.DataFrame) -> pa.Table:
        """Return one row per row: its id as text; the first has what is said of the batch."""
        try:
            run = self._pipeline._run(batch)  # noqa: SLF001  # one package
            ids, columns, inputs, refused = run.rows.ids or [], run.rows.file_columns, sorted(run.inputs), None
        except InvalidDatasetError as exc:
            ids, columns, inputs, refused = [None], (), [], str(exc)
        if not ids:
            return SURVEYED.empty_table()
        rest: list[None] = [None] * (len(ids) - 1)
        return pa.table(
            [
                [None if at is None else str(at) for at in ids],
                [list(columns), *rest],
                [inputs, *rest],
                [refused, *rest],
            ],
            SURVEYED,
        )


def outcomes(run: Run, *, gives_rows: bool) -> pa.Table:
    """Return a row for every row that is done or has failed."""
    known = sorted({*run.stored, *run.failed})
    rows = []
    for position in known:
        done = run.stored.get(position)
        rows.append(
            {
                "id": str(run.rows.id_at(position)),
                "outputs": None
                if done is None
                else [{"file": name, "location": location} for name, location in done.outputs.items()],
                "files": []
                if done is None
                else [{name: getattr(file, name) for name in _frame.FILES_COLUMNS[1:]} for file in done.files],
                "without_digest": 0 if done is None else done.without_digest,
                "failures": [
                    {
                        name.removeprefix("error_"): getattr(one, name.removeprefix("error_"))
                        for name in _frame.ERROR_COLUMNS
                    }
                    for one in run.failed.get(position, ())
                ],
                "is_recorded": position in run.rows.failed,
            }
        )
    table = pa.Table.from_pylist(rows, OUTCOMES)
    if not gives_rows:
        return table
    given = _frame._taken(run.rows, known, [_frame.ID, *run.rows.carried])  # noqa: SLF001  # one package
    columns = pa.Table.from_pandas(given, preserve_index=False)
    for name in columns.column_names:
        table = table.append_column(GIVEN + name, columns[name])
    return table


def put(run: Run, position: int, outcome: Mapping[str, Any]) -> None:
    """Take what a task says of a row into the run of the whole."""
    if outcome["outputs"] is not None:
        run.stored[position] = _Done(
            {output["file"]: output["location"] for output in outcome["outputs"]},
            tuple(_frame.StoredFile(position, **file) for file in outcome["files"]),
            outcome["without_digest"],
        )
    if outcome["failures"]:
        row_id = run.rows.id_at(position)
        run.failed[position] = tuple(Failure(row_id, **failure) for failure in outcome["failures"])
