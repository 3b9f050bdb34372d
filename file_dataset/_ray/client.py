"""Runs through Ray Client (`ray://`), where Ray Data does not run: a task on the cluster is the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from concurrent.futures import wait
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import ray.data

from file_dataset import _frame, _urls
from file_dataset._errors import FileDatasetError, InvalidDatasetError
from file_dataset._pool import Pool
from file_dataset._progress import Progress, reporting
from file_dataset._ray.driver import nothing_done, run_dataset, run_frame
from file_dataset._result import RunStoppedError, attach

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from file_dataset._prepared import Prepared
    from file_dataset._progress import Report
    from file_dataset._ray.options import BatchOptions
    from file_dataset._result import PipelineResult
    from file_dataset._settings import Wish

_LOOK_S = 1.0  # how often a driver behind Ray Client asks how far its run is; a guess
_GRACE_S = 15.0  # for tasks that were cancelled through Ray Client to leave what was done; a guess


def run_on_cluster(
    options: BatchOptions, data: pd.DataFrame | ray.data.Dataset, wish: Wish, prepared: Prepared | None = None
) -> PipelineResult:
    """Run it from a task on the cluster: Ray Data does not run through Ray Client.

    Raises:
        InvalidDatasetError: the checkpoint is on this machine's disk, which that task does not have.
    """
    if wish.place is not None and isinstance(_urls.parse_prefix(wish.place, what="checkpoint"), Path):
        raise InvalidDatasetError(
            f"checkpoint={str(wish.place)!r} is a local path, and through Ray Client (ray://) a task on the cluster "
            "reads and writes it: give checkpoint='s3://bucket/runs/x/'"
        )
    away = dataclasses.replace(options, pipeline=options.elsewhere())
    feed: Any = ray.remote(num_cpus=0)(_Feed)
    feed = feed.remote()
    task: Any = ray.remote(num_cpus=0)(_in_task)
    task = task.remote(away, data if prepared is None else _frame.with_absolute_paths(prepared.rows), wish, feed)
    updates: SimpleQueue[Progress | None] = SimpleQueue()
    stopped = threading.Event()
    # Ray Client does not survive a KeyboardInterrupt in the middle of its calls: another thread makes them
    try:
        watched = Pool(1, "file_dataset-ray").submit(_watch, task, feed, updates.put, stopped)
    except OSError as exc:  # no thread can be started
        ray.cancel(task)
        ray.kill(feed)
        raise RunStoppedError(str(exc), None if prepared is None else nothing_done(options, prepared)) from exc
    watched.add_done_callback(lambda _: updates.put(None))
    result: PipelineResult | None
    try:
        _relay(updates, options.settings.progress)
        result, error = watched.result()
    except BaseException as exc:
        stopped.set()
        wait([watched], timeout=_LOOK_S + 2 * _GRACE_S)
        result = watched.result()[0] if watched.done() and watched.exception() is None else None
        if prepared is not None:
            result = dataclasses.replace(result or nothing_done(options, prepared), input=prepared.rows.frame)
        exc.result = None  # type: ignore[attr-defined]  # nothing may be known
        attach(exc, result)
        raise
    finally:
        ray.kill(feed)
    if result is not None and prepared is not None:  # the frame that went there has other paths
        result = dataclasses.replace(result, input=prepared.rows.frame)
    if error is not None:
        attach(error, result)
        raise error
    assert result is not None, "a result or an error"  # noqa: S101
    return result


def _relay(updates: SimpleQueue[Progress | None], progress: Report) -> None:
    """Report here how far the run is there, until it ends."""
    with contextlib.ExitStack() as stack:
        report: Callable[[Progress], object] | None = None
        while (now := updates.get()) is not None:
            # how many rows a Dataset has is known by then
            report = report or stack.enter_context(reporting(progress, now.total))
            report(now)


def _watch(
    task: Any,  # noqa: ANN401  # Ray's
    feed: Any,  # noqa: ANN401
    report: Callable[[Progress], object],
    stopped: threading.Event,
) -> tuple[PipelineResult | None, FileDatasetError | None]:
    """Wait for the task, report how far it is, and return what it returns; when stopped, what was done by then."""
    last: Progress | None = None
    is_done = False
    try:
        while not is_done and not stopped.is_set():
            is_done = bool(ray.wait([task], timeout=_LOOK_S)[0])
            now: Progress | None = ray.get(feed.latest.remote())
            if now is not None and now != last:
                last = now
                report(now)
    finally:
        if not is_done:  # also when it is lost sight of
            ray.cancel(task)
    if not is_done:
        ray.wait([task], timeout=_GRACE_S)
        return ray.get(feed.result.remote(), timeout=_GRACE_S), None
    returned: tuple[PipelineResult | None, FileDatasetError | None] = ray.get(task)
    return returned


def _in_task(
    options: BatchOptions,
    data: pd.DataFrame | ray.data.Dataset,
    wish: Wish,
    feed: Any,  # noqa: ANN401  # an actor
) -> tuple[PipelineResult | None, FileDatasetError | None]:
    """Be the driver, on the cluster; errors of ours are handed back whole, not as Ray's."""
    options = options.with_progress(feed.put.remote)
    try:
        if isinstance(data, ray.data.Dataset):
            return run_dataset(options, data, wish), None
        return run_frame(options, options.prepare(data), wish), None
    except FileDatasetError as exc:
        return getattr(exc, "result", None), exc
    except KeyboardInterrupt as exc:  # cancelled: what it returns would not arrive
        ray.get(feed.put_result.remote(getattr(exc, "result", None)))
        raise


class _Feed:
    """An actor between the task on the cluster and the driver behind Ray Client: how far the run is, or came."""

    def __init__(self) -> None:
        self._now: Progress | None = None
        self._result: PipelineResult | None = None

    def put(self, now: Progress) -> None:
        """Take the task's progress."""
        self._now = now

    def latest(self) -> Progress | None:
        """Return the latest."""
        return self._now

    def put_result(self, result: PipelineResult | None) -> None:
        """Take what was done when the task was cancelled."""
        self._result = result

    def result(self) -> PipelineResult | None:
        """Return it."""
        return self._result
