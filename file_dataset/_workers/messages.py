"""The messages between a worker process and its parent: what both sides send, and how it travels.

A message is 8 bytes that hold its length, and the pickle of a tuple of built-in values and of the tuples below; what fn
was given, returned or raised is a pickle inside it, because it can be one that the other side cannot load.
"""

from __future__ import annotations

import operator
import pickle
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from file_dataset._workers.surroundings import Surroundings

# set until a worker process runs: a program that finds it was started in place of one
STARTED = "FILE_DATASET_WORKER_OF"
_HEADER = struct.Struct("!Q")


class Setup(NamedTuple):
    """What a worker gets once: fn, pickled, how it is called, the parent's `sys.argv`, and what `env` says of it."""

    fn: bytes
    by_keyword: bool
    argv: list[str]
    path: list[str]  # before the parent's
    adopts_filters: bool


class Call(NamedTuple):
    """One row for fn; `row` is pickled, None where fn takes none; `surroundings` None where they are as they were."""

    input_dir: str
    output_dir: str
    row: bytes | None
    surroundings: Surroundings | None


def packed(*message: object) -> bytes:
    """Return a message as it travels."""
    payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(payload)) + payload


def unpacked(arrived: bytearray) -> list[tuple[Any, ...]]:
    """Take the whole messages off the front of what has arrived."""
    messages = []
    while len(arrived) >= _HEADER.size:
        end = _HEADER.size + _HEADER.unpack_from(arrived)[0]
        if len(arrived) < end:
            break
        messages.append(pickle.loads(arrived[_HEADER.size : end]))  # noqa: S301  # parent and child, of one user
        del arrived[:end]
    return messages


def found(module: str, name: str) -> Any:  # noqa: ANN401  # any class
    """Return the class of that name in a module that is loaded.

    Raises:
        LookupError: there is none.
    """
    try:
        return operator.attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        raise LookupError(f"{module}.{name} is not loaded") from None
