"""What a process has once: sessions, clients, pools, the instance of a class fn. A forked child starts with none."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

_instances: dict[Hashable, Any] = {}
_recent: OrderedDict[Hashable, Any] = OrderedDict()
_KEPT = 24  # a guess: sessions, clients and stores of eight options
_lock = threading.RLock()  # making one instance may need another


def shared(key: Hashable, make: Callable[[], T]) -> T:
    """Return this process's one instance for `key`, made on first use; safe between threads."""
    with _lock:
        if key not in _instances:
            _instances[key] = make()
        instance: T = _instances[key]
        return instance


def recent(key: Hashable, make: Callable[[], T]) -> T:
    """Return this process's instance for `key` like `shared`, and keep those that were asked for last.

    Credentials that rotate make new keys for as long as a process lives.
    """
    with _lock:
        if key in _recent:
            _recent.move_to_end(key)
        else:
            _recent[key] = make()
        if len(_recent) > _KEPT:
            _recent.popitem(last=False)
        instance: T = _recent[key]
        return instance


def _forget() -> None:
    # the child has none of its parent's threads, must not use its sockets, and may find the lock held for ever
    global _lock  # noqa: PLW0603  # there is nothing to hold it but the module
    _instances.clear()
    _recent.clear()
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget)
