"""Which rows run and why, and which do not: a frame's rows beside what a checkpoint has of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from file_dataset import _plan
from file_dataset._checkpoint import parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from file_dataset._checkpoint.parts import Known

NEW, FAILED, CHANGED, SAME = range(4)
NAMES = ("new", "failed", "changed", "same")
_AT_ONCE = 1 << 14  # rows whose lines are Python objects at a time; a guess


@dataclass(frozen=True, slots=True)
class States:
    """The state of every row of a frame.

    Attributes:
        of_rows: by position, one of NEW, FAILED, CHANGED and SAME.
        places: by position, the line of the checkpoint that has the row; -1: none.
        why: reasons that were found by looking further than at fingerprints, by position.
    """

    of_rows: npt.NDArray[np.int8]
    places: npt.NDArray[np.int64]
    why: Mapping[int, str]

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """Positions of the rows that need not run."""
        return np.flatnonzero(self.of_rows == SAME)

    @property
    def to_run(self) -> npt.NDArray[np.int64]:
        """Positions of the rows that run."""
        return np.flatnonzero(self.of_rows != SAME)

    def changed(self, why: Mapping[int, str]) -> States:
        """Return the states with these rows changed."""
        if not why:
            return self
        of_rows = self.of_rows.copy()
        of_rows[list(why)] = CHANGED
        return replace(self, of_rows=of_rows, why={**self.why, **why})

    def counts(self) -> dict[str, int]:
        """Return how many rows there are of each state."""
        found = np.bincount(self.of_rows, minlength=len(NAMES)).tolist()
        return dict(zip(NAMES, found, strict=True))


def decide(ids: Sequence[str], fingerprints: npt.NDArray[np.bytes_], known: Known) -> States:
    """Compare the rows of a frame with what is known of them.

    Args:
        ids: of the frame, as text.
        fingerprints: of the frame's rows.
        known: the checkpoint.
    """
    places = parts.where(known, ids)
    of_rows = np.full(len(ids), NEW, np.int8)
    there = places >= 0
    lines = places[there]
    is_failed = known.is_in(parts.FAILED)[lines]
    is_same = known.is_in(parts.STORED)[lines] & (known.fingerprints[lines] == fingerprints[there])
    of_rows[there] = np.where(is_same, SAME, np.where(is_failed, FAILED, CHANGED))
    return States(of_rows, places, {})


def why(states: States, known: Known, now: Mapping[str, Any], files: Mapping[int, Mapping[str, str]]) -> list[str]:
    """Return for every row why it runs; empty: it does not.

    Args:
        states: of the rows.
        known: the checkpoint.
        now: `into_path` and `code_version` of this run.
        files: the input locations of the rows that changed, by position and file.
    """
    reasons = [""] * len(states.of_rows)
    for position in np.flatnonzero(states.of_rows == NEW).tolist():
        reasons[position] = "the checkpoint has no such row"
    known_before = np.flatnonzero((states.of_rows == FAILED) | (states.of_rows == CHANGED))
    columns = [*now, "state", "inputs", "failures"]
    for start in range(0, len(known_before), _AT_ONCE):
        some = known_before[start : start + _AT_ONCE]
        lines = known.records(states.places[some], columns) if len(known) else [{}] * len(some)
        for position, line in zip(some.tolist(), lines, strict=True):
            if position in states.why:
                reasons[position] = states.why[position]
            elif states.of_rows[position] == FAILED:
                reasons[position] = _failure(line)
            else:
                reasons[position] = _change(line, now, files.get(position, {}))
    return reasons


def _failure(line: Mapping[str, Any]) -> str:
    first = (line["failures"] or [{}])[0]
    kind = f"{first.get('type')} ({first['code']})" if first.get("code") else str(first.get("type"))
    return f"failed at {first.get('stage')}: {kind}"


def _change(line: Mapping[str, Any], now: Mapping[str, Any], files: Mapping[str, str]) -> str:
    if line["state"] == parts.BEGUN:
        return "another run has begun it, and did not finish it"
    for name, value in now.items():
        if line[name] != value:
            return f"{name} was {line[name]!r}"
    before: dict[str, str] = {}
    for one in line["inputs"] or ():
        name = _plan.column_of(one["file"], files) or one["file"]
        # of a file in a directory that of the directory
        before[name] = one["location"].removesuffix(one["file"].removeprefix(name)[1:])
    for name in {**before, **files}:
        # a local directory may be written without its slash
        if before.get(name, "").removesuffix("/") != files.get(name, "").removesuffix("/"):
            return f"{name} was {before.get(name) or 'not there'}"
    return "a value that fn takes by `row` was another"
