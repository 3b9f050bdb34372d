"""The driver of a run on Ray: batches of a frame or a Dataset go to tasks, their outcomes come back and are judged.

    frame --checked here--> batches --Ray Data--> a run per batch (`batch`) --> outcomes --here--> result

The driver judges the outcomes as those of one run: ids and names are checked over the whole input before anything
starts, failures are counted over all batches, the result is in input order. A Dataset goes to the tasks without passing
through the driver, which asks it for its ids first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from file_dataset import _frame, _pickling, _urls
from file_dataset._book import Book
from file_dataset._errors import InvalidDatasetError
from file_dataset._interrupts import Interrupts
from file_dataset._prepared import stores
from file_dataset._progress import Progress, reporting
from file_dataset._ray import compat, outcomes
from file_dataset._ray.batch import Job, RunBatch, Survey
from file_dataset._ray.compat import Batch, BatchDatasource
from file_dataset._result import RunStoppedError, attach
from file_dataset._tally import Tally
from file_dataset._verdict import DOWN_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import ray.data

    from file_dataset._frame import Rows
    from file_dataset._prepared import Prepared
    from file_dataset._ray.options import BatchOptions
    from file_dataset._result import PipelineResult
    from file_dataset._settings import Wish

_DOWN_BATCHES = 3  # that get no answer stop a run of which no other has got one; a guess


def run_frame(options: BatchOptions, prepared: Prepared, wish: Wish) -> PipelineResult:
    """Run a frame that is checked, but for what a checkpoint has of it; Ray starts only where rows are left to run."""
    with Interrupts() as interrupts:
        ledger = None
        try:
            book = None if wish.place is None else Book(prepared, wish)
            ledger = _ledger_of(options, prepared, book)
            with ledger.writing(interrupts), _reporting(options, ledger) as report:
                if len(ledger):
                    compat.connect()
                    dataset, job = _of_frame(options, prepared if book is None else book.part)
                    ledger.collect(_mapped(options, dataset, job), report, job.patience_s)
            interrupts.is_held = True
            interrupts.result = result = ledger.whole()
        except BaseException as exc:
            interrupts.is_held = True
            if ledger is not None:
                attach(exc, ledger.result())
            elif isinstance(exc, RunStoppedError) or not isinstance(exc, Exception):  # the frame may be good
                attach(exc, nothing_done(options, prepared))
            raise
    return result


def _ledger_of(options: BatchOptions, prepared: Prepared, book: Book | None) -> _Ledger:
    part = prepared if book is None else book.part
    stores = prepared.source, prepared.target
    journal = None if book is None else book.journal
    tally = Tally(options.settings, prepared.contract, len(part.rows), stores, kept=part.kept, journal=journal)
    return _Ledger(part.rows.ids or [], tally, lambda _: part.rows, book)


def _reporting(
    options: BatchOptions, ledger: _Ledger
) -> contextlib.AbstractContextManager[Callable[[Progress], object]]:
    return reporting(options.settings.progress, len(ledger) + ledger.kept, ledger.kept)


def nothing_done(options: BatchOptions, prepared: Prepared) -> PipelineResult:
    """Return the result of a run in which no row has begun."""
    return _ledger_of(options, prepared, None).result()


def _of_frame(options: BatchOptions, prepared: Prepared) -> tuple[ray.data.Dataset, Job]:
    """Return a frame in batches, and what the tasks know."""
    rows = prepared.rows
    frame = _frame.with_absolute_paths(rows)
    count = options.rows_per_task(len(rows))
    parts = [frame.iloc[start : start + count] for start in range(0, len(frame), count)]
    batches = [Batch(_reading(part), len(part), int(part.memory_usage(deep=True).sum())) for part in parts]
    # beside actors, which may hold every CPU for as long as they live
    resources = {"num_cpus": 0} if options.uses_actors else options.remote_args
    source = BatchDatasource("Rows", batches)
    dataset = compat.read(source, len(batches), takes=resources, concurrency=options.readers())
    return dataset, _job(options, dataset, rows.ids or [], rows.file_columns, prepared.inputs)


def _reading(part: pd.DataFrame) -> Callable[[], list[pd.DataFrame]]:
    # a closure over the part alone: Ray pickles it for its task
    return lambda: [part]


def run_dataset(options: BatchOptions, dataset: ray.data.Dataset, wish: Wish) -> PipelineResult:
    """Ask a Dataset for its ids, check them, and run it."""
    settings = options.settings
    if wish.place is not None:
        raise InvalidDatasetError("a Dataset with a checkpoint: give a frame, dataset.to_pandas()")
    ask: Any = Survey(options.elsewhere())
    survey = dataset.map_batches(ask, batch_format="pandas", batch_size=None)
    with compat.settings(survey, keeps_order=True):
        tables = [outcomes.SURVEYED.empty_table()]
        tables += survey.iter_batches(batch_size=None, batch_format="pyarrow")
    surveyed = pa.concat_tables(tables)
    if refused := surveyed["refused"].drop_null().to_pylist():
        raise InvalidDatasetError(refused[0])
    ids: list[str] = surveyed["id"].to_pylist()
    columns = dict.fromkeys(name for names in surveyed["file_columns"].drop_null().to_pylist() for name in names)
    inputs = {url for urls in surveyed["inputs"].drop_null().to_pylist() for url in urls}
    is_local = isinstance(_urls.parse_prefix(settings.write_options["into_path"]), Path)
    _frame.check_ids(pd.DataFrame({_frame.ID: ids}, dtype=object), local=is_local)
    tally = Tally(settings, options.contract, len(ids), stores(settings))
    ledger = _Ledger(ids, tally, lambda given: _rows_of(given, ids, columns, dataset))
    with Interrupts() as interrupts:
        try:
            with _reporting(options, ledger) as report:
                if ids:
                    job = dataclasses.replace(_job(options, dataset, ids, columns, inputs), gives_rows=True)
                    starts = [
                        at for at, is_first in enumerate(surveyed["file_columns"].is_valid().to_pylist()) if is_first
                    ]
                    if any(end - start > job.batch_size for start, end in itertools.pairwise([*starts, len(ids)])):
                        dataset = compat.cut(dataset, len(ids), job.batch_size, at_once=options.uses_actors)
                    ledger.collect(_mapped(options, dataset, job), report, job.patience_s)
            interrupts.is_held = True
            interrupts.result = result = dataclasses.replace(ledger.whole(), input=None)
        except BaseException as exc:
            interrupts.is_held = True
            attach(exc, ledger.result())
            raise
    return result


def _rows_of(given: list[pa.Table], ids: list[str], columns: Iterable[str], dataset: ray.data.Dataset) -> Rows:
    """Return the rows of a Dataset in the order of its ids, as far as they came back: ids and carried columns."""
    frame = _given_frame(given, dataset)
    if not len(frame):
        return _frame.rows_of_frame(frame, list(columns) if set(columns) <= set(frame) else None, needs_id=True)
    places = {str(row_id): place for place, row_id in enumerate(frame[_frame.ID].tolist())}
    # those that did not come back are listed nowhere: any row does for them
    frame = frame.iloc[[places.get(row_id, 0) for row_id in ids]].reset_index(drop=True)
    carried = tuple(name for name in frame.columns if name not in _frame.FAILURE_COLUMNS)
    return _frame.Rows(frame, None, {}, carried, {}, Path(), len(frame))


def _given_frame(given: list[pa.Table], dataset: ray.data.Dataset) -> pd.DataFrame:
    """Return ids and carried columns of the rows that came back, with the Arrow types that they have in the Dataset."""
    if given:
        table = pa.concat_tables(given, promote_options="permissive")
    else:
        schema = dataset.schema()
        names, types = (schema.names, schema.types) if schema is not None else ([_frame.ID], [pa.string()])
        table = pa.table({name: pa.array([], kind) for name, kind in zip(names, types, strict=True)})
    frame: pd.DataFrame = table.to_pandas(
        types_mapper=lambda kind: None if isinstance(kind, pa.BaseExtensionType) else pd.ArrowDtype(kind)
    )
    return frame


def _job(
    options: BatchOptions,
    dataset: ray.data.Dataset,
    ids: Sequence[str | int],
    columns: Iterable[str],
    inputs: Iterable[str],
) -> Job:
    """Return what the tasks know."""
    batch_size = options.rows_per_task(len(ids))
    patience_s = options.patience_s(compat.patience_s(dataset), batch_size)
    pipeline = _pickling.dumps(options.in_tasks(columns))
    return Job(pipeline, batch_size, frozenset(inputs), str(ids[0]), patience_s)


def _mapped(options: BatchOptions, dataset: ray.data.Dataset, job: Job) -> ray.data.Dataset:
    """Return the Dataset of outcomes."""
    # a frame's blocks are its batches: Ray then reads and runs one in one task, which it does not when it is to cut
    # batches, as it insists on where there are GPUs
    is_cut = job.gives_rows or bool(options.remote_args.get("num_gpus"))
    how: dict[str, Any] = {
        "batch_size": job.batch_size if is_cut else None,
        "batch_format": "pandas",
        **compat.pool(options.concurrency, options.remote_args, of_actors=options.uses_actors),
        **options.remote_args,
    }
    if options.uses_actors:
        return dataset.map_batches(RunBatch, fn_constructor_args=(job,), **how)
    run_batch: Any = RunBatch(job)
    return dataset.map_batches(run_batch, **how)


class _Ledger:
    """The outcomes that have come, judged as those of one run."""

    def __init__(
        self,
        ids: Sequence[str | int],
        tally: Tally,
        rows_of: Callable[[list[pa.Table]], Rows],
        book: Book | None = None,
    ) -> None:
        """Expect the outcome of every id.

        Args:
            ids: of the rows that run, in input order.
            tally: takes the outcomes.
            rows_of: makes the input of the rows themselves, where they come along.
            book: the checkpoint, which has the rows that do not run.
        """
        self._ids, self._tally, self._rows_of, self._book = ids, tally, rows_of, book
        self.kept = 0 if book is None else book.part.kept
        self._places = {str(row_id): place for place, row_id in enumerate(ids)}
        self._missing = set(self._places)
        self._has_strangers = False  # rows came that are not among the ids
        self._given: list[pa.Table] = []
        self._down: list[str] = []  # why the store counts as down, of every batch that got no answer
        self._is_up = False  # another batch got one

    def __len__(self) -> int:
        """Return how many rows run."""
        return len(self._ids)

    def writing(self, interrupts: Interrupts) -> contextlib.AbstractContextManager[None]:
        """Have the rows that come back meanwhile written into the checkpoint, where there is one."""
        return contextlib.nullcontext() if self._book is None else self._book.writing(interrupts)

    def collect(
        self, dataset: ray.data.Dataset, report: Callable[[Progress], object], patience_s: float | None
    ) -> None:
        """Take outcomes as they come; Ray waits `patience_s` for each next one.

        Raises:
            RunStoppedError: at what stops a run. No task of Ray's goes on then, as after any other error.
        """
        # progress is in rows, not in tasks
        running = compat.settings(dataset, patience_s=patience_s)
        with running, contextlib.closing(compat.tables(dataset)) as tables:
            for table in tables:
                self._take(table, report)
        self._check_down(least=1)

    def _take(self, table: pa.Table, report: Callable[[Progress], object]) -> None:
        end: Mapping[str, str | None] = {}
        has_run = False
        for record in table.select(outcomes.OUTCOMES.names).to_pylist():
            if record["id"] is None:
                end = record
                continue
            has_run = has_run or not record["is_recorded"]
            place = self._places.get(record["id"])
            if place is None:
                self._has_strangers = True
                continue
            self._missing.discard(record["id"])
            self._tally.put(place, outcomes.outcome_of(record, place, self._ids[place]))
        given = [name for name in table.column_names if name.startswith(outcomes.GIVEN)]
        if given:
            rows = table.filter(table["id"].is_valid()).select(given)
            self._given.append(rows.rename_columns([name.removeprefix(outcomes.GIVEN) for name in given]))
        done, total = self.kept + len(self._ids) - len(self._missing), self.kept + len(self._ids)
        report(Progress(done, total, len(self._tally.failed)))
        self._judge(end, has_run=has_run)
        self._tally.check_journal()

    def _judge(self, end: Mapping[str, str | None], *, has_run: bool) -> None:
        """Stop where a batch requires it, and where too many rows have failed."""
        if (message := end.get("refused")) is not None:
            raise InvalidDatasetError(message)
        if (message := end.get("stopped")) is not None:
            raise RunStoppedError(message)
        if (message := end.get("down")) is not None:
            self._down.append(message)
            self._check_down(least=_DOWN_BATCHES)
        self._is_up = self._is_up or (has_run and message is None)
        self._tally.check_count()

    def _check_down(self, *, least: int) -> None:
        """Stop when so many batches got no answer of the store, and no other got one.

        Raises:
            RunStoppedError: the store is down.
        """
        if not self._is_up and len(self._down) >= least and self._tally.own_failures >= DOWN_ROWS:
            raise RunStoppedError(self._down[0])

    def result(self) -> PipelineResult:
        """Return the result so far, of all rows of the input."""
        ran = self._tally.result(self._rows_of(self._given))
        return ran if self._book is None else self._book.whole(ran)

    def whole(self) -> PipelineResult:
        """Return the result of a run that has ended.

        Raises:
            RunStoppedError: rows are missing: Ray drops blocks that fail (`max_errored_blocks`), or a
                Dataset has other rows than it had when it was asked for its ids.
        """
        missing = [row_id for row_id in self._places if row_id in self._missing]
        if missing or self._has_strangers:
            raise RunStoppedError(
                f"{len(missing)} of {len(self._ids)} rows came back from no task, such as {missing[:5]}: Ray's "
                "max_errored_blocks drops batches, and a Dataset that differs from time to time needs materialize()"
            )
        self._tally.log_if_all_failed()
        return self.result()
