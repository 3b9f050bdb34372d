"""`run_pipeline`: a Pipeline over a cluster, one Ray task per batch of rows; what comes back is a run's result.

    frame --checked here--> batches --Ray Data--> a run per batch (`_ray_batch`) --> outcomes --here--> result

The driver judges the outcomes as those of one run: ids and names are checked over the whole input before anything
starts, failures are counted over all batches, the result is in input order. A Dataset goes to the tasks without passing
through the driver, which asks it for its ids first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import ray.data

from file_dataset import _frame, _plan, _ray_batch, _ray_data, _urls
from file_dataset._errors import InvalidDatasetError, RunStoppedError
from file_dataset._pipeline import Pipeline
from file_dataset._progress import Progress, reporting
from file_dataset._ray_batch import GIVEN, Job, RunBatch, Survey
from file_dataset._ray_data import Batch, BatchDatasource
from file_dataset._run import allowed_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from file_dataset._result import PipelineResult
    from file_dataset._run import Run

logger = logging.getLogger(__name__)


def run_pipeline(  # noqa: PLR0913  # each is a choice of the user's
    pipeline: Pipeline,
    data: pd.DataFrame | ray.data.Dataset,
    *,
    batch_size: int = 8,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    concurrency: int | tuple[int, int] | None = None,
    actors: bool | None = None,
    workers: int | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
) -> PipelineResult:
    """Run a Pipeline on a Ray cluster and return what `pipeline.run(frame)` returns here."""
    asked = _Asked(
        pipeline=pipeline,
        batch_size=batch_size,
        resources={"num_cpus": num_cpus, "num_gpus": num_gpus, "memory": memory},
        concurrency=concurrency,
        uses_actors=inspect.isclass(pipeline._settings.fn) if actors is None else actors,  # noqa: SLF001
        workers=workers,
        ray_remote_args=dict(ray_remote_args or {}),
    )
    if isinstance(data, ray.data.Dataset):
        return _run_dataset(asked, data)
    return _run_frame(asked, data)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The arguments of `run_pipeline`."""

    pipeline: Pipeline
    batch_size: int
    resources: Mapping[str, float | None]
    concurrency: int | tuple[int, int] | None
    uses_actors: bool
    workers: int | None
    ray_remote_args: Mapping[str, Any]

    @property
    def remote_args(self) -> dict[str, Any]:
        return {name: value for name, value in self.resources.items() if value is not None} | self.ray_remote_args

    def in_tasks(self, columns: Iterable[str]) -> Pipeline:
        """Return the pipeline as tasks run it: each a part of the whole, which the driver judges, in a place of its own."""
        settings = self.pipeline._settings  # noqa: SLF001  # one package
        workers = settings.workers or 1 if self.workers is None else self.workers
        into = _urls.parse_prefix(settings.write_options["into_path"])
        return self.pipeline._with(  # noqa: SLF001  # one package
            file_columns=list(columns),
            on_failure="drop",
            max_failures=None,
            progress=False,
            workers=workers,
            # relative to the driver's working directory
            write_options={**settings.write_options, "into_path": str(into.absolute() if isinstance(into, Path) else into)},
            temp_dir=None if settings.temp_dir is None else Path(settings.temp_dir).absolute(),
        )


def _run_frame(asked: _Asked, frame: pd.DataFrame) -> PipelineResult:
    run = asked.pipeline._run(frame)  # noqa: SLF001  # one package
    _ray_data.connect()
    ids = [str(row_id) for row_id in run.rows.ids or ()]

    def result(outcomes: Mapping[str, Mapping[str, Any]]) -> PipelineResult:
        for position, row_id in enumerate(ids):
            if row_id in outcomes:
                _ray_batch.put(run, position, outcomes[row_id])
        return run.result()

    ledger = _Ledger(ids, allowed_failures(run.settings, run.total), result)
    whole = _with_absolute_paths(run)
    slices = [whole.iloc[start : start + asked.batch_size] for start in range(0, len(whole), asked.batch_size)]
    batches = [Batch(_reading(part), len(part), int(part.memory_usage(deep=True).sum())) for part in slices]
    with reporting(run.settings.progress, run.total) as report:
        if batches:
            source = BatchDatasource("Rows", batches)
            dataset = _ray_data.read(source, len(batches), asked.remote_args)
            job = _job(asked, run.rows.file_columns, run.inputs, ids, gives_rows=False)
            _collect(_mapped(asked, dataset, job), ledger, report)
    return ledger.result()


def _reading(part: pd.DataFrame) -> Callable[[], list[pd.DataFrame]]:
    # a closure over the part alone: Ray pickles it for its task
    return lambda: [part]


def _job(asked: _Asked, columns: Iterable[str], inputs: Iterable[str], ids: list[str], *, gives_rows: bool) -> Job:
    patience_s = getattr(ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", -1)
    return Job(
        asked.in_tasks(columns),
        asked.batch_size,
        frozenset(inputs),
        ids[0] if ids else None,
        gives_rows,
        patience_s if patience_s > 0 else None,
    )


def _mapped(asked: _Asked, dataset: ray.data.Dataset, job: Job) -> ray.data.Dataset:
    how: dict[str, Any] = {"batch_size": asked.batch_size, "batch_format": "pandas", **asked.remote_args}
    if asked.uses_actors:
        return dataset.map_batches(
            RunBatch, fn_constructor_args=(job,), compute=_ray_data.actors(asked.concurrency), **how
        )
    return dataset.map_batches(RunBatch(job), compute=_ray_data.tasks(asked.concurrency), **how)


def _collect(dataset: ray.data.Dataset, ledger: _Ledger, report: Callable[[Progress], object]) -> None:
    """Take the outcomes as they come, and stop Ray's tasks at what stops a run."""
    dataset.context.enable_progress_bars = False  # rows are told, not tasks
    try:
        batches = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
        with contextlib.closing(batches):
            for table in batches:
                ledger.add(table)
                report(ledger.progress)
                ledger.check()
        ledger.check_whole()
    except BaseException as exc:
        exc.result = ledger.result()  # type: ignore[attr-defined]  # as that of a run here
        raise


class _Ledger:
    """The outcomes that have come, by id."""

    def __init__(
        self,
        ids: list[str],
        allowed: int | None,
        result: Callable[[Mapping[str, Mapping[str, Any]]], PipelineResult],
    ) -> None:
        self._ids, self._allowed, self._result = set(ids), allowed, result
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._failed: set[str] = set()
        self._failed_here: set[str] = set()
        self._end: dict[str, Any] | None = None
        self.given: list[pa.Table] = []

    @property
    def progress(self) -> Progress:
        return Progress(len(self._outcomes), len(self._ids), len(self._failed))

    def add(self, table: pa.Table) -> None:
        for outcome in table.select(_ray_batch.OUTCOMES.names).to_pylist():
            row_id = outcome["id"]
            if row_id is None:
                self._end = outcome
                continue
            self._outcomes[row_id] = outcome
            if outcome["failures"]:
                self._failed.add(row_id)
                if not outcome["is_recorded"]:
                    self._failed_here.add(row_id)
        names = [name for name in table.column_names if name.startswith(GIVEN)]
        if names:
            known = table.filter(table["id"].is_valid()).select(names)
            self.given.append(known.rename_columns([name.removeprefix(GIVEN) for name in names]))

    def check(self) -> None:
        """Raise what stops the run."""
        if self._end is not None:
            if self._end["refused"] is not None:
                raise InvalidDatasetError(self._end["refused"])
            raise RunStoppedError(self._end["stopped"])
        if self._allowed is not None and len(self._failed_here) > self._allowed:
            raise RunStoppedError("more failures")

    def check_whole(self) -> None:
        if missing := self._ids - self._outcomes.keys():
            raise RunStoppedError(f"{len(missing)} rows came back from no task")

    def result(self) -> PipelineResult:
        return self._result(self._outcomes)


def _with_absolute_paths(run: Run) -> pd.DataFrame:
    """Return the frame as tasks in other directories can read it; the caller's own stays as it is."""
    rows = run.rows
    frame = rows.frame
    assert frame is not None, "a run has one"  # noqa: S101
    absolute: dict[str, pd.Series] = {}
    for name, cells in rows.cells.items():
        if all(cell is None or (isinstance(cell, str) and cell.startswith("s3://")) for cell in cells):
            continue
        absolute[name] = pd.Series([_absolute(cell, rows.base) for cell in cells], index=frame.index, dtype=object)
    return frame.assign(**absolute).reset_index(drop=True)


def _absolute(cell: object, base: Path) -> object:
    try:
        at = None if cell is None else _urls.parse(cell, base=base)
    except InvalidDatasetError:
        return cell  # costs its row where it is read
    return cell if at is None or isinstance(at, _urls.ObjectUrl) else at
