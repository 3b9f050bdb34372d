"""`run_pipeline`: a Pipeline over a cluster, one Ray task per batch of rows; what comes back is a run's result."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import ray.data

from file_dataset._errors import InvalidDatasetError
from file_dataset._pipeline import Pipeline
from file_dataset._ray import compat
from file_dataset._ray.client import run_on_cluster
from file_dataset._ray.driver import run_dataset, run_frame
from file_dataset._ray.options import BatchOptions
from file_dataset._settings import checked_wish

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pandas as pd

    from file_dataset._options import Options
    from file_dataset._result import PipelineResult


def run_pipeline(  # noqa: PLR0913  # each is a choice of the user's
    pipeline: Pipeline,
    data: pd.DataFrame | ray.data.Dataset,
    *,
    batch_size: int | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    concurrency: int | tuple[int, int] | None = None,
    actors: bool | None = None,
    workers: int | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    code_version: str | None = None,
    check_inputs: bool = False,
    checkpoint_options: Options | None = None,
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
            costly or differs from time to time. A block with more rows than a task takes is cut.
        batch_size: rows per task. A task costs 30 ms of CPU (measured: 1,000 rows of 16 KiB took 6.9 s in tasks of 8
            rows, 3.3 s in tasks of 125). None: about four tasks per slot, of 8 to 256 rows, and of fewer where a slot
            would get no task. There are `concurrency` slots, or as many as tasks fit on the cluster, including nodes
            that its autoscaler reports it may add. Ray joins the blocks of a Dataset: its tasks may have twice as many
            rows. With `batch_size` a batch must end within Ray Data's `execution_no_progress_timeout_s` (30 minutes; a
            warning is logged when rows are too slow for that); without, it has that time for every 8 rows.
        num_cpus: CPUs that each task or actor takes; None: Ray's default, 1. With 0, and nothing else that bounds
            them, there are as many at a time as the cluster has CPUs.
        num_gpus: GPUs that each task or actor takes.
        memory: bytes of heap that each task or actor takes.
        concurrency: the most tasks at a time; of actors: how many, or `(least, most)`. None: as many as fit.
        actors: True: in actors, each of which loads fn once; None: when fn is a class.
        workers: processes that fn runs in, inside each task. None: the Pipeline's own `workers`, at least one, so that
            an fn that crashes costs its row; 0: fn runs in the task's own process, and Ray runs a batch that crashes
            it again and again.
        ray_remote_args: more of `ray.remote`'s arguments, such as `{"resources": {"disk": 1}}` or `runtime_env`.
        checkpoint: as of `run`, and the same one will do for runs here and there. This process alone reads and writes
            it (through Ray Client the task on the cluster, so give `s3://...` there), each time a batch ends:
            where rows take long, a small `batch_size` loses less. Rows of a frame that are done go to no task; if all
            are, Ray is not started. A Dataset's are dropped from its blocks before tasks take them.
        code_version: as of `run`.
        check_inputs: as of `run`. This process sends the HEADs; a Dataset's locations come here for that.
        checkpoint_options: as of `run`.

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
    pipeline = _checked_pipeline(pipeline)
    wish = checked_wish(checkpoint, code_version, checkpoint_options, check_inputs=check_inputs)
    options = BatchOptions(
        pipeline=pipeline,
        batch_size=None if batch_size is None else compat.checked_count("batch_size", batch_size, 1),
        remote_args=compat.resources(ray_remote_args, num_cpus=num_cpus, num_gpus=num_gpus, memory=memory),
        uses_actors=inspect.isclass(pipeline._settings.fn) if actors is None else bool(actors),  # noqa: SLF001
        concurrency=concurrency,
        workers=None if workers is None else compat.checked_count("workers", workers, 0),
    )
    options.check()
    if isinstance(data, ray.data.Dataset):
        compat.connect()
        return run_on_cluster(options, data, wish) if compat.is_client() else run_dataset(options, data, wish)
    # refuses the frame before Ray starts anything
    prepared = options.prepare(data)
    return run_on_cluster(options, data, wish, prepared) if compat.is_client() else run_frame(options, prepared, wish)


def _checked_pipeline(pipeline: object) -> Pipeline:
    if not isinstance(pipeline, Pipeline):
        raise InvalidDatasetError(f"pipeline is a {type(pipeline).__name__}: give a file_dataset.Pipeline")
    return pipeline
