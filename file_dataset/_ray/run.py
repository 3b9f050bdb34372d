"""`run_pipeline`: a Pipeline over a cluster, one Ray task per batch of rows; what comes back is a run's result.

    frame --checked here--> batches --Ray Data--> a run per batch (`outcomes`) --> outcomes --here--> result

The driver judges the outcomes as those of one run: ids and names are checked over the whole input before anything
starts, failures are counted over all batches, the result is in input order. A Dataset goes to the tasks without passing
through the driver, which asks it for its ids first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import threading
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pyarrow as pa
import ray.data

from file_dataset import _frame, _function, _urls
from file_dataset._errors import Failure, FileDatasetError, InvalidDatasetError
from file_dataset._pipeline import Pipeline
from file_dataset._pool import Pool
from file_dataset._progress import Progress, reporting
from file_dataset._ray import compat, outcomes
from file_dataset._ray.compat import Batch, BatchDatasource
from file_dataset._ray.outcomes import GIVEN, Job, RunBatch, Survey
from file_dataset._result import RunStoppedError, attach
from file_dataset._run import DOWN_ROWS, allowed_failures, limit_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from file_dataset._progress import Report
    from file_dataset._result import PipelineResult
    from file_dataset._run import Run

logger = logging.getLogger(__name__)

_LOOK_S = 1.0  # how often a driver behind Ray Client asks how far its run is; a guess
_READERS = 4  # at some 13 ms of CPU a batch they feed hundreds of actors; a guess
_DOWN_BATCHES = 3  # that get no answer stop a run of which no other has got one; a guess
_GRACE_S = 15.0  # for tasks that were cancelled through Ray Client to leave what was done; a guess

_Outcomes: TypeAlias = "dict[str, dict[str, Any]]"


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
    """Run a Pipeline on a Ray cluster and return what `pipeline.run(frame)` returns here.

    Rows go to Ray tasks, a batch each; a frame's order, ids and dtypes are those of the result. The Pipeline's
    settings (`on_failure`, `max_failures`, `max_failed_fraction`, `progress`, ...) hold for the whole: the first
    failure, or one too many, stops all tasks. A task that dies with its node is run again by Ray, on the same rows
    into the same places.

    Ray is the one that `ray.init()` has reached, else that of `RAY_ADDRESS`, else a new one on this machine. Through
    Ray Client (`ray://`), where Ray Data does not run, one task on the cluster, which takes no CPU, runs all of it.
    file_dataset and what fn imports must be installed on the nodes (or be in the `runtime_env`), in the same versions.

    Args:
        pipeline: what to run. Options that were not given are those of this process, frozen.
        data: a frame as `run` takes it, or a Dataset with such columns. A Dataset does not pass through this process,
            but for its ids and carried columns; it is executed twice, first for its ids: `materialize()` one that is
            costly or differs from time to time.
        batch_size: rows per task. A batch must end within Ray Data's `execution_no_progress_timeout_s` (30 minutes);
            a warning says when rows are too slow for that.
        num_cpus: CPUs that each task or actor takes; None: Ray's default, 1. With 0, and nothing else that bounds
            them, there are as many at a time as the cluster has CPUs.
        num_gpus: GPUs that each task or actor takes.
        memory: bytes of heap that each task or actor takes.
        concurrency: the most tasks at a time; of actors: how many, or `(least, most)`. None: as many as there is room
            for.
        actors: True: in actors, each of which loads fn once; None: when fn is a class.
        workers: processes that fn runs in, inside each task. None: the Pipeline's own `workers`, at least one, so that
            an fn that crashes costs its row; 0: fn runs in the task's own process, and Ray runs a batch that crashes
            it again and again.
        ray_remote_args: more of `ray.remote`'s arguments, such as `{"resources": {"disk": 1}}` or `runtime_env`.

    Returns:
        The result of all rows. Of a Dataset `input` is not known, nor `failed_rows`; `failures` names them.

    Raises:
        InvalidDatasetError: an argument, or the input, is refused before any row is run.
        RunStoppedError: as of `run`; its `result` has what was done. So has the KeyboardInterrupt of a run that was
            interrupted, whose tasks are cancelled, and the error of Ray that ended it.

    Example:
        >>> def shout(input_dir, output_dir):
        ...     text = (input_dir / "scan.txt").read_text()
        ...     (output_dir / "loud.txt").write_text(text.upper())
        ...     return {"loud.txt": output_dir / "loud.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": ["s3://my-bucket/scan.txt", "s3://my-bucket/missing.txt"]})
        >>> pipeline = Pipeline(shout, into_path="s3://my-bucket/loud/", progress=False)
        >>> file_dataset.ray.run_pipeline(pipeline, frame, batch_size=8).summary()
        '1 of 2 rows dropped (50.0%): 1 at download'
    """
    asked = _Asked(
        pipeline=_checked_pipeline(pipeline),
        batch_size=compat.checked_count("batch_size", batch_size, 1),
        remote_args=compat.resources(ray_remote_args, num_cpus=num_cpus, num_gpus=num_gpus, memory=memory),
        uses_actors=inspect.isclass(pipeline._settings.fn) if actors is None else bool(actors),  # noqa: SLF001
        concurrency=concurrency,
        workers=None if workers is None else compat.checked_count("workers", workers, 0),
    )
    asked.check()
    if isinstance(data, ray.data.Dataset):
        compat.connect()
        return _on_cluster(asked, data) if compat.is_client() else _run_dataset(asked, data)
    # refuses the frame before Ray starts anything
    run = pipeline._run(data)  # noqa: SLF001  # one package
    compat.connect()
    if compat.is_client():
        return _on_cluster(asked, data, run)
    return _run_frame(asked, run)


def _checked_pipeline(pipeline: object) -> Pipeline:
    if not isinstance(pipeline, Pipeline):
        raise InvalidDatasetError(f"pipeline is a {type(pipeline).__name__}: give a file_dataset.Pipeline")
    return pipeline


@dataclass(frozen=True)
class _Asked:
    """The arguments of `run_pipeline`."""

    pipeline: Pipeline
    batch_size: int
    remote_args: Mapping[str, Any]
    uses_actors: bool
    concurrency: int | tuple[int, int] | None
    workers: int | None

    def check(self) -> None:
        """Refuse numbers that Ray would refuse later, or never."""
        if isinstance(self.concurrency, tuple):
            if not self.uses_actors:
                raise InvalidDatasetError(f"concurrency={self.concurrency!r} is for actors: give a number for tasks")
            least, most = self.concurrency if len(self.concurrency) == 2 else (0, 0)  # noqa: PLR2004  # a pair
            if compat.checked_count("concurrency", least, 1) > compat.checked_count("concurrency", most, 1):
                raise InvalidDatasetError(f"concurrency={self.concurrency!r}: give (least, most)")
        elif self.concurrency is not None:
            compat.checked_count("concurrency", self.concurrency, 1)
        if self.workers == 0 and self.pipeline._settings.fn_timeout_s is not None:  # noqa: SLF001  # one package
            raise InvalidDatasetError("fn_timeout_s takes worker processes: leave workers=0 out")

    def readers(self) -> int | None:
        """Return how many tasks read batches: for actors a few, because Ray starts a process for each that it begins.

        Without actors, as many as run them: then Ray reads and runs a batch in one task.
        """
        most = self.concurrency[1] if isinstance(self.concurrency, tuple) else self.concurrency
        if self.uses_actors:
            return _READERS if most is None else min(most, _READERS)
        return compat.bounded(most, self.remote_args)

    def elsewhere(self, **changes: Any) -> Pipeline:  # noqa: ANN401  # settings
        """Return the pipeline for another process, whose working directory is another."""
        settings = self.pipeline._settings  # noqa: SLF001  # one package
        into = _urls.parse_prefix(settings.write_options["into_path"])
        places = {
            "write_options": {
                **settings.write_options,
                "into_path": str(into.absolute() if isinstance(into, Path) else into),
            },
            "temp_dir": None if settings.temp_dir is None else Path(settings.temp_dir).absolute(),
        }
        return self.pipeline._with(**places, progress=False, **changes)  # noqa: SLF001  # one package

    def in_tasks(self, columns: Iterable[str]) -> Pipeline:
        """Return the pipeline as tasks run it, each a part of the whole, which the driver judges."""
        settings = self.pipeline._settings  # noqa: SLF001  # one package
        workers = settings.workers or 1 if self.workers is None else self.workers
        # the first failure stops its batch too; how many there are, only the driver knows
        on_failure = "raise" if settings.on_failure == "raise" else "drop"
        return self.elsewhere(
            file_columns=list(columns),
            on_failure=on_failure,
            max_failures=None,
            max_failed_fraction=None,
            workers=workers,
        )


def _run_frame(asked: _Asked, run: Run) -> PipelineResult:
    """Run a frame that is checked."""
    ids = [str(row_id) for row_id in run.rows.ids or ()]

    def result(came: _Outcomes, _: list[pa.Table]) -> PipelineResult:
        return _filled(run, came)

    ledger = _Ledger(ids, asked.pipeline, result)
    frame = _frame.with_absolute_paths(run.rows)
    parts = [frame.iloc[start : start + asked.batch_size] for start in range(0, len(frame), asked.batch_size)]
    with reporting(run.settings.progress, run.total) as report:
        if parts:
            batches = [Batch(_reading(part), len(part), int(part.memory_usage(deep=True).sum())) for part in parts]
            # beside actors, which may hold every CPU for as long as they live
            resources = {"num_cpus": 0} if asked.uses_actors else asked.remote_args
            source = BatchDatasource("Rows", batches)
            dataset = compat.read(source, len(batches), takes=resources, concurrency=asked.readers())
            ledger.collect(_mapped(asked, dataset, ids, run.rows.file_columns, run.inputs, gives_rows=False), report)
    return ledger.whole()


def _reading(part: pd.DataFrame) -> Callable[[], list[pd.DataFrame]]:
    # a closure over the part alone: Ray pickles it for its task
    return lambda: [part]


def _run_dataset(asked: _Asked, dataset: ray.data.Dataset) -> PipelineResult:
    """Ask a Dataset for its ids, check them, and run it."""
    ask: Any = Survey(asked.elsewhere())
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
    is_local = isinstance(_urls.parse_prefix(asked.pipeline._settings.write_options["into_path"]), Path)  # noqa: SLF001
    _frame.check_ids(pd.DataFrame({_frame.ID: ids}, dtype=object), local=is_local)
    places = dict(zip(ids, range(len(ids)), strict=True))

    def result(came: _Outcomes, given: list[pa.Table]) -> PipelineResult:
        frame = _given_frame(given, dataset)
        # as Ray's tasks end, not as the rows came
        order = sorted(range(len(frame)), key=[places[str(row_id)] for row_id in frame[_frame.ID].tolist()].__getitem__)
        frame = frame.iloc[order].reset_index(drop=True)
        stand_in = frame.assign(**{name: pd.Series([None] * len(frame), dtype=object) for name in columns})
        run = asked.pipeline._run(stand_in, file_columns=list(columns) or None)  # noqa: SLF001  # one package
        return dataclasses.replace(_filled(run, came), input=None)

    ledger = _Ledger(ids, asked.pipeline, result)
    with reporting(asked.pipeline._settings.progress, len(ids)) as report:  # noqa: SLF001  # one package
        if ids:
            ledger.collect(_mapped(asked, dataset, ids, columns, inputs, gives_rows=True), report)
    return ledger.whole()


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


def _filled(run: Run, dataset: _Outcomes) -> PipelineResult:
    for position, row_id in enumerate(run.rows.ids or ()):
        if (outcome := dataset.get(str(row_id))) is not None:
            outcomes.put(run, position, outcome)
    return run.result()


def _mapped(  # noqa: PLR0913  # what a task needs
    asked: _Asked,
    dataset: ray.data.Dataset,
    ids: Sequence[str],
    columns: Iterable[str],
    inputs: Iterable[str],
    *,
    gives_rows: bool,
) -> ray.data.Dataset:
    """Return the Dataset of outcomes."""
    pipeline = _function.dumps(asked.in_tasks(columns))
    job = Job(pipeline, asked.batch_size, frozenset(inputs), ids[0], gives_rows, compat.patience_s())
    # a frame's blocks are its batches: Ray then reads and runs one in one task, which it does not when it is to cut
    # batches, as it insists on where there are GPUs
    is_cut = gives_rows or bool(asked.remote_args.get("num_gpus"))
    how: dict[str, Any] = {
        "batch_size": asked.batch_size if is_cut else None,
        "batch_format": "pandas",
        **compat.pool(asked.concurrency, asked.remote_args, of_actors=asked.uses_actors),
        **asked.remote_args,
    }
    if asked.uses_actors:
        return dataset.map_batches(RunBatch, fn_constructor_args=(job,), **how)
    run_batch: Any = RunBatch(job)
    return dataset.map_batches(run_batch, **how)


class _Ledger:
    """The outcomes that have come, by the text of the id, judged as those of one run."""

    def __init__(
        self, ids: Sequence[str], pipeline: Pipeline, result: Callable[[_Outcomes, list[pa.Table]], PipelineResult]
    ) -> None:
        """Expect the outcome of every id.

        Args:
            ids: texts of the ids, in input order.
            pipeline: how many failures it allows.
            result: makes the result of outcomes, and of the rows themselves where they came along.
        """
        self._ids, self._result = ids, result
        self._settings = pipeline._settings  # noqa: SLF001  # one package
        self._allowed = allowed_failures(self._settings, len(ids))
        self._outcomes: _Outcomes = {}
        self._given: list[pa.Table] = []
        self._failed: set[str] = set()
        self._failing: list[str] = []  # those that no earlier Pipeline recorded, as they came
        self._down: list[str] = []  # why the store counts as down, of every batch that got no answer
        self._is_up = False  # another batch got one

    def collect(self, dataset: ray.data.Dataset, report: Callable[[Progress], object]) -> None:
        """Take outcomes as they come.

        Raises:
            RunStoppedError: at what stops a run. No task of Ray's goes on then, as after any other error.
        """
        try:
            # progress is in rows, not in tasks
            with compat.settings(dataset), contextlib.closing(compat.tables(dataset)) as tables:
                for table in tables:
                    self._take(table, report)
            self._check_down(least=1)
        except BaseException as exc:
            attach(exc, self.result())
            raise

    def _take(self, table: pa.Table, report: Callable[[Progress], object]) -> None:
        end: Mapping[str, str | None] = {}
        for outcome in table.select(outcomes.OUTCOMES.names).to_pylist():
            row_id = outcome["id"]
            if row_id is None:
                end = outcome
                continue
            self._outcomes[row_id] = outcome
            if outcome["failures"]:
                self._failed.add(row_id)
                if not outcome["is_recorded"]:
                    self._failing.append(row_id)
        given = [name for name in table.column_names if name.startswith(GIVEN)]
        if given:
            rows = table.filter(table["id"].is_valid()).select(given)
            self._given.append(rows.rename_columns([name.removeprefix(GIVEN) for name in given]))
        report(Progress(len(self._outcomes), len(self._ids), len(self._failed)))
        self._mind(end, has_run=any(self._has_run(row_id) for row_id in table["id"].to_pylist()))

    def _mind(self, end: Mapping[str, str | None], *, has_run: bool) -> None:
        """Stop where a batch says so, and where too many rows have failed."""
        if (message := end.get("refused")) is not None:
            raise InvalidDatasetError(message)
        if (message := end.get("stopped")) is not None:
            raise RunStoppedError(message)
        if (message := end.get("down")) is not None:
            self._down.append(message)
            self._check_down(least=_DOWN_BATCHES)
        self._is_up = self._is_up or (has_run and message is None)
        if self._allowed is not None and len(self._failing) > self._allowed:
            raise RunStoppedError(self._why_stopped())

    def _has_run(self, row_id: str | None) -> bool:
        return row_id is not None and not self._outcomes[row_id]["is_recorded"]

    def _check_down(self, *, least: int) -> None:
        """Stop when so many batches got no answer of the store, and no other got one.

        Raises:
            RunStoppedError: the store is down.
        """
        if not self._is_up and len(self._down) >= least and len(self._failing) >= DOWN_ROWS:
            raise RunStoppedError(self._down[0])

    def _why_stopped(self) -> str:
        if self._settings.on_failure == "raise":
            return f"stopped at the first failure (on_failure='raise'): {_told(self._outcomes[self._failing[0]])}"
        return (
            f"{len(self._failing)} of {len(self._ids)} rows failed, {limit_text(self._settings, len(self._ids))} "
            f"allows {self._allowed}; the last: {_told(self._outcomes[self._failing[-1]])}"
        )

    def result(self) -> PipelineResult:
        """Return the result of what has come."""
        return self._result(self._outcomes, self._given)

    def whole(self) -> PipelineResult:
        """Return the result.

        Raises:
            RunStoppedError: rows are missing: Ray drops blocks that fail (`max_errored_blocks`), or a
                Dataset has other rows than it had when it was asked for its ids.
        """
        result = self.result()
        missing = [row_id for row_id in self._ids if row_id not in self._outcomes]
        if missing or len(self._outcomes) > len(self._ids):
            error = RunStoppedError(
                f"{len(missing)} of {len(self._ids)} rows came back from no task, such as {missing[:5]}: Ray's "
                "max_errored_blocks drops batches, and a Dataset that differs from time to time needs materialize()"
            )
            attach(error, result)
            raise error
        if self._ids and len(self._failed) == len(self._ids):
            first, hint = _told(self._outcomes[self._ids[0]]), f". {result.hint}" if result.hint else ""
            logger.error("all %d rows failed; the first: %s%s", len(self._ids), first, hint)
        return result


def _told(outcome: Mapping[str, Any]) -> str:
    return f"row {outcome['id']!r}: {Failure(outcome['id'], **outcome['failures'][0])}"


def _on_cluster(asked: _Asked, data: pd.DataFrame | ray.data.Dataset, run: Run | None = None) -> PipelineResult:
    """Run it from a task on the cluster: Ray Data does not run through Ray Client."""
    away = dataclasses.replace(asked, pipeline=asked.elsewhere())
    line: Any = ray.remote(num_cpus=0)(_Line)
    line = line.remote()
    task: Any = ray.remote(num_cpus=0)(_in_task)
    task = task.remote(away, data if run is None else _frame.with_absolute_paths(run.rows), line)
    updates: SimpleQueue[Progress | None] = SimpleQueue()
    stopped = threading.Event()
    # Ray Client does not survive a KeyboardInterrupt in the middle of its calls: another thread makes them
    try:
        watched = Pool(1, "file_dataset-ray").submit(_watch, task, line, updates.put, stopped)
    except OSError as exc:  # no thread can be started
        ray.cancel(task)
        ray.kill(line)
        raise RunStoppedError(str(exc), None if run is None else run.result()) from exc
    watched.add_done_callback(lambda _: updates.put(None))
    result: PipelineResult | None
    try:
        _relay(updates, asked.pipeline._settings.progress)  # noqa: SLF001  # one package
        result, error = watched.result()
    except BaseException as exc:
        stopped.set()
        wait([watched], timeout=_LOOK_S + 2 * _GRACE_S)
        result = watched.result()[0] if watched.done() and watched.exception() is None else None
        if run is not None:
            result = run.result() if result is None else dataclasses.replace(result, input=run.rows.frame)
        exc.result = None  # type: ignore[attr-defined]  # nothing may be known
        attach(exc, result)
        raise
    finally:
        ray.kill(line)
    if result is not None and run is not None:  # the frame that went there has other paths
        result = dataclasses.replace(result, input=run.rows.frame)
    if error is not None:
        attach(error, result)
        raise error
    assert result is not None, "a result or an error"  # noqa: S101
    return result


def _relay(updates: SimpleQueue[Progress | None], progress: Report) -> None:
    """Tell here how far the run is there, until there is no more to tell."""
    with contextlib.ExitStack() as stack:
        report: Callable[[Progress], object] | None = None
        while (now := updates.get()) is not None:
            # how many rows a Dataset has is known by then
            report = report or stack.enter_context(reporting(progress, now.total))
            report(now)


def _watch(
    task: Any,  # noqa: ANN401  # Ray's
    line: Any,  # noqa: ANN401
    tell: Callable[[Progress], object],
    stopped: threading.Event,
) -> tuple[PipelineResult | None, FileDatasetError | None]:
    """Wait for the task, tell how far it is, and return what it returns; when stopped, what was done by then."""
    last: Progress | None = None
    is_done = False
    try:
        while not is_done and not stopped.is_set():
            is_done = bool(ray.wait([task], timeout=_LOOK_S)[0])
            now: Progress | None = ray.get(line.heard.remote())
            if now is not None and now != last:
                last = now
                tell(now)
    finally:
        if not is_done:  # also when it is lost sight of
            ray.cancel(task)
    if not is_done:
        ray.wait([task], timeout=_GRACE_S)
        return ray.get(line.left.remote(), timeout=_GRACE_S), None
    returned: tuple[PipelineResult | None, FileDatasetError | None] = ray.get(task)
    return returned


def _in_task(
    asked: _Asked,
    data: pd.DataFrame | ray.data.Dataset,
    line: Any,  # noqa: ANN401  # an actor
) -> tuple[PipelineResult | None, FileDatasetError | None]:
    """Be the driver, on the cluster; errors of ours are handed back whole, not as Ray's."""
    asked = dataclasses.replace(asked, pipeline=asked.pipeline._with(progress=line.tell.remote))  # noqa: SLF001
    try:
        if isinstance(data, ray.data.Dataset):
            return _run_dataset(asked, data), None
        return _run_frame(asked, asked.pipeline._run(data)), None  # noqa: SLF001  # one package
    except FileDatasetError as exc:
        return getattr(exc, "result", None), exc
    except KeyboardInterrupt as exc:  # cancelled: what it returns would not arrive
        ray.get(line.leave.remote(getattr(exc, "result", None)))
        raise


class _Line:
    """An actor between the task on the cluster and the driver behind Ray Client: how far the run is, or came."""

    def __init__(self) -> None:
        self._now: Progress | None = None
        self._left: PipelineResult | None = None

    def tell(self, now: Progress) -> None:
        """Take the task's progress."""
        self._now = now

    def heard(self) -> Progress | None:
        """Return the latest."""
        return self._now

    def leave(self, result: PipelineResult | None) -> None:
        """Take what was done when the task was cancelled."""
        self._left = result

    def left(self) -> PipelineResult | None:
        """Return it."""
        return self._left
