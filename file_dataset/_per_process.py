"""What a process has once: sessions, clients, pools, the instance of a class fn. A forked child starts with none."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

_CAPACITY = 24  # a guess: sessions, clients and stores of eight options

_shared: OrderedDict[Hashable, Any] = OrderedDict()
_recent: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()
_making: dict[Hashable, threading.RLock] = {}
_lock = threading.Lock()

number = os.getpid()  # of this process, without asking the system each time


def shared(key: Hashable, make: Callable[[], T]) -> T:
    """Return this process's one instance for `key`, made on first use; safe between threads."""
    return _made(_shared, key, make)


def recent(key: tuple[Hashable, ...], make: Callable[[], T], *, capacity: int = _CAPACITY) -> T:
    """Return this process's instance for `key` like `shared`, and keep only those that were asked for last.

    Credentials that rotate make new keys for as long as a process lives.

    Args:
        key: a kind, and which one of it.
        make: makes it.
        capacity: so many of this kind.
    """
    made = _made(_recent, key, make)
    with _lock:
        _recent[key] = made
        _recent.move_to_end(key)
        alike = [other for other in _recent if other[0] == key[0]]
        for other in alike[:-capacity]:
            del _recent[other]
        while len(_recent) > _CAPACITY:
            _recent.popitem(last=False)
    return made


def forget(key: tuple[Hashable, ...]) -> None:
    """Have `recent` make a new instance for `key`."""
    with _lock:
        _recent.pop(key, None)


def _made(instances: OrderedDict[Any, Any], key: Hashable, make: Callable[[], T]) -> T:
    with _lock:
        if key in instances:
            return cast("T", instances[key])
        making = _making.setdefault(key, threading.RLock())
    # not under the one lock of all: a constructor may take minutes, and use this library in threads of its own
    with making:
        with _lock:
            if key in instances:
                return cast("T", instances[key])
        made = make()
        with _lock:
            instances[key] = made
            _making.pop(key, None)
        return made


def _forget() -> None:
    # the child has none of its parent's threads, must not use its sockets, and may find a lock held for ever
    global _lock, number  # noqa: PLW0603  # there is nothing to hold them but the module
    number = os.getpid()
    _shared.clear()
    _recent.clear()
    _making.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
