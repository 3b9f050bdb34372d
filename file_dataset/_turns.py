"""Outcomes come in any order and are judged in that of the input; after one that may stop the run no row begins."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from file_dataset._tally import Failed, Outcome, Stored

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Ended:
    """A row that met what ends the run, and is no failure of the row."""

    error: BaseException


class Turns:
    """Which outcome is next, and after which row none may begin."""

    def __init__(self, recorded: Mapping[int, Failed], total: int, allowed: int | None) -> None:
        """Start with the rows that failed in an earlier Pipeline.

        Args:
            recorded: those, by position.
            total: rows of the input.
            allowed: how many rows may fail; None: all of them.
        """
        self._waiting: dict[int, Outcome | Ended] = {**recorded}
        self._total, self._allowed = total, allowed
        self._failing: list[int] = []  # in this run, waiting or not; sorted
        self._suspects: set[int] = set()  # those that may stop the run
        self.taken = 0
        self.limit = total  # the last row that may begin

    def put(self, position: int, outcome: Outcome | Ended, *, may_stop: bool) -> None:
        """Have a row's outcome wait for its turn."""
        self._waiting[position] = outcome
        if isinstance(outcome, Stored):
            return
        bisect.insort(self._failing, position)
        if may_stop:
            self._suspects.add(position)
        if self._allowed is not None and len(self._failing) > self._allowed:
            self._suspects.add(self._failing[self._allowed])
        self.limit = min(self._suspects, default=self._total)

    def take(self) -> tuple[int, Outcome | Ended] | None:
        """Return the next row and its outcome, which is kept no longer; None: it is not there yet."""
        # taken out: fn's error holds what fn had in memory, its traceback's frames
        if (outcome := self._waiting.pop(self.taken, None)) is None:
            return None
        position, self.taken = self.taken, self.taken + 1
        if position in self._suspects:
            self._suspects.discard(position)
            self.limit = min(self._suspects, default=self._total)
        return position, outcome
