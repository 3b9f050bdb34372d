"""The driver of a run on Ray: batches of a frame or a Dataset go to tasks, their outcomes come back and are judged.

    frame --checked here--> batches --Ray Data--> a run per batch (`batch`) --> outcomes --here--> result

The driver judges the outcomes as those of one run: ids and names are checked over the whole input before anything
starts, failures are counted over all batches, the result is in input order. A Dataset goes to the tasks without passing
through the driver, which asks it for its ids first.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from file_dataset import _frame, _pickling
from file_dataset._book import Book
from file_dataset._effort import Counts
from file_dataset._errors import InvalidDatasetError
from file_dataset._interrupts import Interrupts
from file_dataset._prepared import stores
from file_dataset._progress import Progress, reporting
from file_dataset._ray import compat, outcomes
from file_dataset._ray.batch import Job, RunBatch
from file_dataset._ray.compat import Batch, BatchDatasource
from file_dataset._ray.survey import Pending, ask, digests, rows_of
from file_dataset._result import RunStoppedError, attach
from file_dataset._tally import Tally
from file_dataset._verdict import DOWN_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa
    import ray.data

    from file_dataset._frame import Rows
    from file_dataset._prepared import Prepared
    from file_dataset._ray.options import BatchOptions
    from file_dataset._ray.survey import Surveyed
    from file_dataset._result import PipelineResult
    from file_dataset._settings import Wish

_DOWN_BATCHES = 3  # that get no answer stop a run of which no other has got one; a guess


def run_frame(options: BatchOptions, prepared: Prepared, wish: Wish) -> PipelineResult:
    """Run a frame that is checked, but for what a checkpoint has of it; Ray starts only where rows are left to run."""
    with Interrupts() as interrupts:
        book = _opened(options, prepared, wish)
        part = prepared if book is None else book.part
        ledger = _ledger_of(options, prepared, book)
        return _to_end(options, ledger, lambda: _of_frame(options, part), interrupts)


def run_dataset(options: BatchOptions, dataset: ray.data.Dataset, wish: Wish) -> PipelineResult:
    """Ask a Dataset for its ids, check them, and run it, but for what a checkpoint has of it."""
    asked = ask(options, dataset, wish)
    with Interrupts() as interrupts:
        if asked.prepared is None:
            book = None
            tally = Tally(options.settings, options.contract, len(asked.ids), stores(options.settings))
            ledger = _Ledger(asked.ids, tally, lambda given: rows_of(given, asked.ids, asked.columns, dataset))
        else:
            book = _opened(options, asked.prepared, wish, asked.fingerprints)
            ledger = _ledger_of(options, asked.prepared, book)
        ledger.has_input = False
        return _to_end(options, ledger, lambda: _of_dataset(options, dataset, asked, book), interrupts)


def _opened(
    options: BatchOptions, prepared: Prepared, wish: Wish, of_rows: npt.NDArray[np.bytes_] | None = None
) -> Book | None:
    """Return the checkpoint, read; None: there is none."""
    try:
        return None if wish.place is None else Book(prepared, wish, of_rows)
    except BaseException as exc:
        if isinstance(exc, RunStoppedError) or not isinstance(exc, Exception):  # the input may be good
            result = nothing_done(options, prepared)
            attach(exc, result if of_rows is None else _of_rows(result, len(prepared.rows)))
        raise


def _of_rows(result: PipelineResult, count: int) -> PipelineResult:
    """Return the result of a Dataset, of which only the number of rows is known."""
    return dataclasses.replace(result, input=None, input_count=count)


def nothing_done(options: BatchOptions, prepared: Prepared) -> PipelineResult:
    """Return the result of a run in which no row has begun."""
    return _ledger_of(options, prepared, None).result()


def _ledger_of(options: BatchOptions, prepared: Prepared, book: Book | None) -> _Ledger:
    part = prepared if book is None else book.part
    stores = prepared.source, prepared.target
    journal = None if book is None else book.journal
    tally = Tally(options.settings, prepared.contract, len(part.rows), stores, kept=part.kept, journal=journal)
    return _Ledger(part.rows.ids or [], tally, lambda _: part.rows, book)


def _to_end(
    options: BatchOptions,
    ledger: _Ledger,
    begun: Callable[[], tuple[ray.data.Dataset, Job]],
    interrupts: Interrupts,
) -> PipelineResult:
    """Run what is to run, write down what comes back, and return the result."""
    total = ledger.kept + len(ledger)
    try:
        with ledger.writing(interrupts), reporting(options.settings.progress, total, ledger.kept) as report:
            if len(ledger):
                compat.connect()
                dataset, job = begun()
                ledger.collect(dataset, report, job.patience_s)
        interrupts.is_held = True
        interrupts.result = result = ledger.whole()
    except BaseException as exc:
        interrupts.is_held = True
        attach(exc, ledger.result())
        raise
    return result


def _of_frame(options: BatchOptions, prepared: Prepared) -> tuple[ray.data.Dataset, Job]:
    """Return the Dataset of the outcomes of a frame, and what the tasks know."""
    rows = prepared.rows
    frame = _frame.with_absolute_paths(rows)
    count = options.rows_per_task(len(rows))
    parts = [frame.iloc[start : start + count] for start in range(0, len(frame), count)]
    batches = [Batch(_reading(part), len(part), int(part.memory_usage(deep=True).sum())) for part in parts]
    # beside actors, which may hold every CPU for as long as they live
    resources = {"num_cpus": 0} if options.uses_actors else options.remote_args
    source = BatchDatasource("Rows", batches)
    dataset = compat.read(source, len(batches), takes=resources, concurrency=options.readers())
    job = _job(options, dataset, rows.ids or [], rows.file_columns, prepared.inputs)
    # blocks are batches: Ray then reads and runs one in one task, which it does not when it is to cut batches, as it
    # insists on where there are GPUs
    return _mapped(options, dataset, job, is_cut=bool(options.remote_args.get("num_gpus"))), job


def _reading(part: pd.DataFrame) -> Callable[[], list[pd.DataFrame]]:
    # a closure over the part alone: Ray pickles it for its task
    return lambda: [part]


def _of_dataset(
    options: BatchOptions, dataset: ray.data.Dataset, asked: Surveyed, book: Book | None
) -> tuple[ray.data.Dataset, Job]:
    """Return the Dataset of the outcomes of a Dataset's rows that are not done, and what the tasks know."""
    to_run = np.arange(len(asked.ids)) if book is None else book.states.to_run
    ids = [asked.ids[position] for position in to_run.tolist()]
    job = _job(options, dataset, ids, asked.columns, asked.inputs)
    # of a checkpoint's rows the driver has ids and carried columns already
    job = dataclasses.replace(job, gives_rows=book is None)
    if book is not None and len(kept := book.states.kept):
        dataset = _pending(options, dataset, np.sort(digests(asked.ids[position] for position in kept.tolist())))
    in_blocks = np.diff(np.searchsorted(to_run, [*asked.starts, len(asked.ids)]))
    if in_blocks.max() > job.batch_size:
        dataset = compat.cut(dataset, len(ids), job.batch_size, at_once=options.uses_actors)
    return _mapped(options, dataset, job, is_cut=True), job


def _pending(options: BatchOptions, dataset: ray.data.Dataset, done: npt.NDArray[np.bytes_]) -> ray.data.Dataset:
    """Return the Dataset without the rows that are done."""
    drop: Any = Pending(compat.shared(done))
    # beside actors, which may hold every CPU for as long as they live; and a GPU is not for this
    is_beside = options.uses_actors or options.remote_args.get("num_gpus")
    takes = {"num_cpus": 0} if is_beside else options.remote_args
    how = {**compat.pool(options.readers(), takes, of_actors=False), **takes}
    return dataset.map_batches(drop, batch_format=None, batch_size=None, **how)


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


def _mapped(options: BatchOptions, dataset: ray.data.Dataset, job: Job, *, is_cut: bool) -> ray.data.Dataset:
    """Return the Dataset of outcomes; where blocks are not cut, each is a batch."""
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
        self.has_input = True  # of a Dataset it is not known
        self._places = {str(row_id): place for place, row_id in enumerate(ids)}
        self._missing = set(self._places)
        self._has_strangers = False  # rows came that are not among the ids
        self._given: list[pa.Table] = []
        self._down: list[str] = []  # why the store counts as down, of every batch that got no answer
        self._is_up = False  # another batch got one
        self._counts = Counts()  # of the batches that came

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
                if len(table):  # a task of rows that are all done has no columns either
                    self._take(table, report)
        self._check_down(least=1)

    def _take(self, table: pa.Table, report: Callable[[Progress], object]) -> None:
        ends: list[Mapping[str, Any]] = []
        has_run = False
        for record in table.select(outcomes.OUTCOMES.names).to_pylist():
            if record["id"] is None:
                ends.append(record)
                continue
            has_run = has_run or not record["is_recorded"]
            place = self._places.get(record["id"])
            if place is None:
                self._has_strangers = True
                continue
            self._missing.discard(record["id"])
            self._tally.put(place, outcomes.outcome_of(record, place, self._ids[place]))
        self._counts += outcomes.counts_of(table)
        given = [name for name in table.column_names if name.startswith(outcomes.GIVEN)]
        if given:
            rows = table.filter(table["id"].is_valid()).select(given)
            self._given.append(rows.rename_columns([name.removeprefix(outcomes.GIVEN) for name in given]))
        done, total = self.kept + len(self._ids) - len(self._missing), self.kept + len(self._ids)
        report(Progress(done, total, len(self._tally.failed)))
        self._judge(ends, has_run=has_run)
        self._tally.check_journal()

    def _judge(self, ends: Sequence[Mapping[str, Any]], *, has_run: bool) -> None:
        """Stop where a batch requires it, and where too many rows have failed; a block may be of several batches."""
        for end in ends:
            if (message := end["refused"]) is not None:
                raise InvalidDatasetError(message)
            if (message := end["stopped"]) is not None:
                raise RunStoppedError(message)
            self._down.append(end["down"])
        self._is_up = self._is_up or (has_run and not ends)
        self._check_down(least=_DOWN_BATCHES)
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
        ran = dataclasses.replace(self._tally.result(self._rows_of(self._given)), counts=self._counts)
        whole = ran if self._book is None else self._book.whole(ran)
        return whole if self.has_input else _of_rows(whole, self.kept + len(self))

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
