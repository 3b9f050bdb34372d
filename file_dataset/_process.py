"""What a process has once: sessions, clients, pools, the instance of a class fn. A forked child starts with none."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

_instances: dict[Hashable, Any] = {}
_lock = threading.RLock()  # making one instance may need another


def shared(key: Hashable, make: Callable[[], T]) -> T:
    """Return this process's one instance for `key`, made on first use; safe between threads."""
    with _lock:
        if key not in _instances:
            _instances[key] = make()
        instance: T = _instances[key]
        return instance


def _forget() -> None:
    # the child has none of its parent's threads, must not use its sockets, and may find the lock held for ever
    global _lock  # noqa: PLW0603  # there is nothing to hold it but the module
    _instances.clear()
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget)
