"""Many worker processes: rows go to them first come, first served; one that crashes or hangs costs its row alone.

Why not `concurrent.futures`, whose pool is lost when one process dies, nor pebble: both start processes by
`multiprocessing`, which forks (a child with its parent's locks and sockets, without its threads) or runs the caller's
`__main__` again (a script without a main guard then starts its run within its run); and pebble, after a timeout, leaves
the processes running that fn has started. What a process is here, `process` says.

One daemon thread per worker owns the process, hands it rows, and passes on what it prints, logs and warns of. A process
and its thread are made when there is work for them.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import selectors
import sys
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from file_dataset import _pickling
from file_dataset._pool import start_thread
from file_dataset._workers.fn_errors import raised
from file_dataset._workers.messages import Call, Setup
from file_dataset._workers.process import (
    END_S,
    JOIN_S,
    FnTimeoutError,
    WorkerDiedError,
    WorkerProcess,
    WorkerStartError,
    poll_selector,
)
from file_dataset._workers.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

logger = logging.getLogger(__name__)

_IDLE_S = 60.0  # a guess: how long processes that no run has stay for the next one
_OURS = (WorkerDiedError, FnTimeoutError, WorkerStartError)


class Workers:
    """Calls fn in up to `count` processes, first come, first served.

    A process works on one row at a time, and stays for the next. Close it, or use it in `with`: a process that has fn
    loaded holds its memory.
    """

    def __init__(  # noqa: PLR0913  # what fn is and how it is called
        self,
        fn: Callable[..., Any],
        *,
        count: int,
        by_keyword: bool,
        takes_row: bool,
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Pickle fn; start nothing yet.

        Args:
            fn: what to call; a class is constructed once per process, its instance called.
            count: the most processes at a time, at least 1.
            by_keyword: whether fn takes `input_dir` and `output_dir` by name.
            takes_row: whether fn also takes `row`.
            timeout_s: the most seconds of one call of fn; starting a process and making fn's instance do not count.
            env: variables to set before the interpreter starts, over those of this process. Directories of
                `PYTHONPATH` come before those of this process's `sys.path`; `PYTHONWARNINGS` replaces its filters.
        """
        env = dict(env or {})
        path = [os.path.abspath(part) for part in env.get("PYTHONPATH", "").split(os.pathsep) if part]  # noqa: PTH100  # text
        setup = Setup(_pickling.dumps_with_files(fn), by_keyword, list(sys.argv), path, "PYTHONWARNINGS" not in env)
        self._takes_row = takes_row
        self._pool = _Pool(setup, count, timeout_s, env)
        # at the end of the interpreter, `_end_all` does it in time
        weakref.finalize(self, self._pool.close).atexit = False

    def submit(self, input_dir: Path, output_dir: Path, row: Mapping[str, Any] | None) -> Future[object]:
        """Return the Future of fn's result; the caller does not wait.

        A mapping comes back as a dict, its paths as text; anything else as it is. What fn raises comes with the
        worker's traceback as its `__cause__`: the exception itself where it can be pickled, else, as for what is no
        `Exception` (`SystemExit`, `KeyboardInterrupt`), a `RuntimeError` with its type's name and message.

        The Future raises, besides: `WorkerDiedError`, `FnTimeoutError`, `WorkerStartError`; `InterruptedError` when
        the workers were closed while fn ran; `TypeError` for a row or a result that cannot be pickled.

        Raises:
            RuntimeError: the workers are closed.
        """
        future: Future[object] = Future()
        payload = None
        if row is not None and self._takes_row:
            try:
                payload = _pickling.dumps(dict(row))
            except Exception as exc:  # noqa: BLE001  # whatever a carried value's own pickling raises
                future.set_exception(TypeError(f"the row cannot be sent to fn: {type(exc).__name__}: {exc}"))
                return future
        self._pool.put(_Job(future, Call(str(input_dir), str(output_dir), payload, Surroundings.here())))
        return future

    def rest(self) -> None:
        """Keep idle processes for `_IDLE_S` only, until more is submitted: fn holds memory in them."""
        self._pool.rest()

    def close(self) -> None:
        """Kill what runs, with all it has started, and cancel what waits; an idle process may end by itself first."""
        self._pool.close()
        self._pool.join()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class _Job:
    __slots__ = ("call", "future")

    def __init__(self, future: Future[object], call: Call) -> None:
        self.future, self.call = future, call


class _Pool:
    """What the threads share. They hold no `Workers`, so that one without references is closed."""

    def __init__(self, setup: Setup, count: int, timeout_s: float | None, env: dict[str, str]) -> None:
        self.setup, self.count, self.timeout_s, self.env = setup, count, timeout_s, env
        self.is_closed = False
        self.idle_s: float | None = None
        self._clear()
        _pools.add(self)

    def _clear(self) -> None:
        # reentrant: the garbage collector closes a pool from wherever it happens to run
        self.lock = threading.RLock()
        self.jobs: deque[_Job] = deque()
        self.idle: list[_Worker] = []
        self.workers: set[_Worker] = set()

    def put(self, job: _Job) -> None:
        with self.lock:
            if self.is_closed:
                raise RuntimeError("these workers are closed")
            self.idle_s = None
            if not self.idle and len(self.workers) < self.count:
                try:
                    _Worker(self).start()
                except OSError as exc:  # no more descriptors, or threads
                    if not self.workers:
                        job.future.set_exception(WorkerStartError(f"no worker can start: {exc}"))
                        return
            self.jobs.append(job)
            if self.idle:
                self.idle.pop().wake()

    def next_job(self, worker: _Worker) -> _Job | None:
        """Return a job, or None after putting the worker among the idle."""
        with self.lock:
            if self.jobs:
                return self.jobs.popleft()
            if not self.is_closed:
                self.idle.append(worker)
            return None

    def rest(self) -> None:
        with self.lock:
            self.idle_s = _IDLE_S
            idle, self.idle = self.idle, []
            for worker in idle:
                worker.wake()

    def close(self) -> None:
        with self.lock:
            self.is_closed = True
            waiting, idle, workers = list(self.jobs), list(self.idle), set(self.workers)
            self.jobs.clear()
            self.idle.clear()
            for worker in idle:
                worker.wake()
        for worker in workers.difference(idle):
            worker.kill()
        for job in waiting:
            if job.future.cancel():
                job.future.set_running_or_notify_cancel()

    def join(self) -> None:
        end = time.monotonic() + JOIN_S
        for worker in list(self.workers):
            if worker.thread is not threading.current_thread():
                worker.thread.join(max(0.0, end - time.monotonic()))

    def forget(self) -> None:
        """Let go of everything in a forked child: the processes are its parent's."""
        for worker in self.workers:
            worker.forget()
        self._clear()


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _end_all() -> None:
    pools = list(_pools)
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.join()  # a thread that prints while the interpreter ends would abort it


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)


class _Worker:
    """A thread, and the process it has at the moment, if any."""

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.thread: threading.Thread
        self.process: WorkerProcess | None = None
        self._woken, self._waker = os.pipe()

    def start(self) -> None:
        try:
            self.thread = start_thread("file_dataset-worker", self._run)
        except OSError:
            self._close_pipe()
            raise
        self.pool.workers.add(self)

    def wake(self) -> None:
        os.write(self._waker, b"!")

    def kill(self) -> None:
        if (process := self.process) is not None:
            process.kill()

    def forget(self) -> None:
        self._close_pipe()
        if self.process is not None:
            self.process.forget()

    def _close_pipe(self) -> None:
        for fd in (self._woken, self._waker):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _run(self) -> None:
        try:
            while not self.pool.is_closed:
                job = self.pool.next_job(self)
                if job is not None:
                    self._do(job)
                    del job  # its row can be large
                elif not self.pool.is_closed:
                    self._rest()
        finally:
            try:
                if self.process is not None:
                    self.process.end(grace_s=END_S)
            finally:
                self._leave()

    def _leave(self) -> None:
        pool = self.pool
        with pool.lock:
            pool.workers.discard(self)
            if self in pool.idle:
                pool.idle.remove(self)
            self._close_pipe()
            # only after a fault of ours: else a worker ends when no row waits
            left = [] if pool.workers else list(pool.jobs)
            if left:
                pool.jobs.clear()
            elif pool.jobs and pool.idle:
                pool.idle.pop().wake()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(WorkerStartError("the thread of the last worker ended"))

    def _rest(self) -> None:
        """Wait to be woken; pass on what the process prints meanwhile, and see it go."""
        while self.process is not None:
            idle_s = self.pool.idle_s
            try:
                ready = self.process.pump(idle_s)
                if self._woken in ready:
                    break
                is_over = not ready and idle_s is not None and self.pool.idle_s is not None
            except EOFError:
                is_over = True
            if is_over:
                logger.debug("an idle worker process ended: %s", self.process.end(grace_s=END_S))
                self.process = None
        with poll_selector() as selector:  # under gevent a read would hold all greenlets
            selector.register(self._woken, selectors.EVENT_READ)
            selector.select()
        os.read(self._woken, 1)

    def _do(self, job: _Job) -> None:
        future = job.future
        answer: tuple[object] | BaseException
        try:
            if future.cancelled():
                future.set_running_or_notify_cancel()
                return
            process = self._ready_process(job.call.surroundings)
            if not future.set_running_or_notify_cancel():
                return
            answer = self._answer(process, job.call)
        except BaseException as exc:  # noqa: BLE001  # a fault of ours too must reach the caller who waits for the Future
            answer = exc.with_traceback(None) if isinstance(exc, _OURS) else exc  # it would hold the row
            if self.pool.is_closed and not future.running():
                future.cancel()
            if not future.running() and not future.set_running_or_notify_cancel():
                return
            if self.pool.is_closed:
                answer = InterruptedError("the workers were closed while fn ran")
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer[0])

    def _ready_process(self, surroundings: Surroundings | None) -> WorkerProcess:
        """Return the process, or a new one where there is none.

        Raises:
            WorkerStartError: there can be none.
        """
        if self.process is not None:
            try:
                self.process.look()
            except EOFError:  # between two rows: costs none
                process, self.process = self.process, None
                logger.debug("an idle worker process ended: %s", process.end(grace_s=END_S))
        if self.process is None:
            self.process = process = WorkerProcess(self.pool.env, self.pool.setup.path, self._woken)
            if self.pool.is_closed:  # meanwhile, when there was nothing to kill
                process.kill()
            try:
                process.begin(self.pool.setup, surroundings)
            except BaseException:
                self.process = None
                process.end(grace_s=0)
                raise
        return self.process

    def _answer(self, process: WorkerProcess, call: Call) -> tuple[object] | BaseException:
        try:
            kind, *answer = process.call(call, self.pool.timeout_s)
        finally:
            if process.is_ending:
                self.process = None
        if kind == "returned":
            try:
                return (pickle.loads(answer[0]),)  # noqa: S301  # made by our child
            except Exception as exc:  # noqa: BLE001  # the user's own __reduce__
                return TypeError(f"what fn returned cannot be read here: {type(exc).__name__}: {exc}")
        return raised(*answer)
