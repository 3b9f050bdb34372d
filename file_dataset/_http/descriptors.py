"""How many more files and sockets this process may open."""

from __future__ import annotations

import os
import resource


def free() -> int | None:
    """Return how many descriptors are free; None: there is no bound.

    Where the system does not show which are open, that is the limit itself.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return None
    try:
        return max(0, most - len(os.listdir("/dev/fd")))  # noqa: PTH208  # a count is all that is wanted
    except OSError:
        return most
