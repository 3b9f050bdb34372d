"""Threads for blocking work that never hold up the end of the program.

`concurrent.futures.ThreadPoolExecutor` joins its threads when the interpreter exits: after Ctrl-C one that waits for a
stalled server would hold the program for the whole read timeout, a minute by default.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from file_dataset._errors import store_error

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def start_thread(name: str, target: Callable[..., object], *args: object) -> threading.Thread:
    """Start a daemon thread.

    Raises:
        OSError: the system allows no more threads.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as exc:
        message = (
            f"the thread {name} could not be started ({exc}): the limit on threads or processes is reached "
            "(ulimit -u, or the pids limit of the container), or memory is short"
        )
        raise store_error(OSError, message) from exc
    return thread


class Pool:
    """At most `width` daemon threads, started when there is work for them, ended with the pool's last reference."""

    def __init__(self, width: int, name: str) -> None:
        """Start no thread yet."""
        self._width, self._name = width, name
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = _Count()
        # each thread hands it to the next
        weakref.finalize(self, self._queue.put, None).atexit = False

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:  # noqa: ANN401  # whatever `work` takes
        """Return the Future of `work(*args)`; where another thread cannot be started, it waits for those that live.

        Raises:
            OSError: there is no thread and none could be started. Nothing is queued; a later call tries again.
        """
        future: Future[T] = Future()
        count = self._count
        # held while a thread starts: what is queued then has a thread that lives, whatever another caller meets
        with count.lock:
            if count.threads < min(self._width, count.unfinished + 1):
                try:
                    # the thread holds the queue and not the pool, which could then never go
                    start_thread(f"{self._name}-{count.threads + 1}", _work, self._queue, count)
                except OSError:
                    if not count.threads:
                        raise
                else:
                    count.threads += 1
            count.unfinished += 1
            self._queue.put(lambda: _run(future, work, *args))
        return future


class _Count:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads = self.unfinished = 0


def _run(future: Future[T], work: Callable[..., T], *args: object) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work(*args)
    except BaseException as exc:  # noqa: BLE001  # a Future hands over whatever was raised
        future.set_exception(exc)
    else:
        future.set_result(result)


def _work(queue: SimpleQueue[Callable[[], None] | None], count: _Count) -> None:
    while (run := queue.get()) is not None:
        run()
        del run  # its Future and arguments can be large
        with count.lock:
            count.unfinished -= 1
    queue.put(None)
