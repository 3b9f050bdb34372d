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

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Pool:
    """At most `width` daemon threads, started when there is work for them, ended with the pool's last reference."""

    def __init__(self, width: int, name: str) -> None:
        """Start no thread yet."""
        self._width, self._name = width, name
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = _Count()
        weakref.finalize(self, _end, self._queue, self._count).atexit = False

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:  # noqa: ANN401  # whatever `work` takes
        """Return the Future of `work(*args)`."""
        future: Future[T] = Future()
        self._queue.put(lambda: _run(future, work, *args))
        with self._count.lock:
            self._count.unfinished += 1
            wanted = self._count.threads < min(self._width, self._count.unfinished)
            self._count.threads += wanted
        if wanted:
            # the thread holds the queue and not the pool, which could then never go
            name = f"{self._name}-{self._count.threads}"
            threading.Thread(target=_work, args=(self._queue, self._count), name=name, daemon=True).start()
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


def _end(queue: SimpleQueue[Callable[[], None] | None], count: _Count) -> None:
    for _ in range(count.threads):
        queue.put(None)
