"""What a run logs of its failed rows: the first ones of each kind in full, the rest as a number."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import logging

    from file_dataset._errors import RowError

# Guesses: enough to see what they have in common, and a screen or two of tracebacks at most.
_ROWS_OF_KIND = 5
_ROWS = 20
_KINDS = 8
_CHARS = 300

_Kind: TypeAlias = "tuple[str, str, str | None, str]"


@dataclass(slots=True)
class _Count:
    """How often a kind came: logged in full, and not."""

    example: str
    logged: int = 0
    more: int = 0
    next_at: int = 1


class FailureLog:
    """Counts failed rows by stage, error type, S3's code and the line that raised; logs the first of each."""

    def __init__(self, logger: logging.Logger) -> None:
        """Start with none."""
        self._logger = logger
        self._counts: dict[_Kind, _Count] = {}
        self._logged = 0

    def add(self, error: RowError) -> None:
        """Log a row's failure, with the traceback of fn, unless enough like it were."""
        first = error.failures[0]
        cause = error.__cause__ if first.stage == "fn" else None
        kind = first.stage, first.type, first.code, _line_of(cause)
        count = self._counts.setdefault(kind, _Count(" ".join(str(error).split())[:_CHARS]))
        if count.logged >= _ROWS_OF_KIND or self._logged >= _ROWS:
            count.more += 1
            return
        count.logged += 1
        self._logged += 1
        # of a worker's error the traceback is text, and this process's own has no line of fn
        is_remote = cause is not None and _is_remote(cause.__cause__)
        self._logger.warning("%s", error, exc_info=(type(cause), cause, None) if cause and is_remote else cause)

    def close(self) -> None:
        """Log how many more failed, kind by kind; a log that goes on repeats it when they are ten times as many."""
        due = [count for count in self._counts.values() if count.more >= count.next_at]
        due.sort(key=lambda count: -count.more)
        for count in due:
            count.next_at = 10 * count.more
        for count in due[:_KINDS]:
            self._logger.warning(
                "%d more rows failed like this; result.failures has them: %s", count.more, count.example
            )
        if rest := sum(count.more for count in due[_KINDS:]):
            self._logger.warning(
                "%d more rows failed in %d other ways; result.failures has them", rest, len(due) - _KINDS
            )


def _is_remote(error: BaseException | None) -> bool:
    return type(error).__name__ == "RemoteTraceback"  # by name: `_workers.fn_errors` is loaded where there are workers


def _line_of(error: BaseException | None) -> str:
    """Return file and number of the line that raised, here or in a worker process; empty: not known."""
    if error is None:
        return ""
    trace = error.__traceback__
    remote = error.__cause__
    if _is_remote(remote):
        lines = re.findall(r'^  File "(.*)", line (\d+)', str(remote), re.MULTILINE)
        return ":".join(lines[-1]) if lines else ""
    frames = [f"{frame.f_code.co_filename}:{number}" for frame, number in traceback.walk_tb(trace)]
    return frames[-1] if frames else ""
