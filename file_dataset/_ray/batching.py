"""How many rows a Ray task takes where no `batch_size` is given. Pure."""

from __future__ import annotations

import math

_TASKS_PER_SLOT = 4  # slots that are done early take over tasks: at most about a quarter of the time they idle; a guess
# a task costs Ray 13 to 30 ms of CPU, a row that copies 16 KiB in and out 3 (measured: 1,000 of them in tasks of 8 took
# 6.9 s of CPU, in tasks of 125 3.3, on 2 cores): with fewer rows than this, Ray takes the greater part
_LEAST_ROWS = 8


def rows_per_task(count: int, slots: tuple[int, int], most: int) -> int:
    """Return how many of `count` rows each task takes: about four tasks per slot, 8 to `most` rows.

    Fewer than 8 where slots that are there now would get no task otherwise: fn may take an hour for a row.

    Args:
        count: rows in all.
        slots: how many tasks there is room for at a time, now and at most, as `compat.slots` returns it.
        most: the most rows of a task.
    """
    now, later = slots
    count = max(1, count)
    rows = min(max(math.ceil(count / (_TASKS_PER_SLOT * later)), _LEAST_ROWS), most)
    tasks = max(math.ceil(count / rows), min(now, count))
    return math.ceil(count / tasks)


def patience_factor(rows: int) -> float:
    """Return how much longer Ray must wait for a task of so many rows than for one of 8, at the same time per row."""
    return max(1.0, rows / _LEAST_ROWS)
