"""How far a run is: a bar in a terminal or notebook, log lines elsewhere, or the caller's own function."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from file_dataset._errors import Failure, RowId

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 5.0  # a guess: often enough to see life, seldom enough to read a night's log
DELAY_S = 1.0  # of what is quick more often than not, and shows nothing then; a guess


@dataclass(frozen=True, slots=True, match_args=False)
class Progress:
    """How far a run is, in rows; `done` counts dropped rows too. A function given as `progress=` gets one for each row.

    `into_dir`, `into_temp_dir` and `write_files` drop no row: there `dropped` counts rows of which a file has failed.

    `prefetch` is how many rows may be ahead of fn now, where the run chooses that; None where it was given. `id` is the
    row that ended last, and `failures` why it failed (empty: it is stored); on Ray, where many rows end at once, None.

    Example:
        >>> print(Progress(done=5, total=12, dropped=1, id="007"))
        5 of 12 rows done, 1 dropped
    """

    done: int
    total: int
    dropped: int
    prefetch: int | None = None
    id: RowId | None = None
    failures: tuple[Failure, ...] = ()

    def __setstate__(self, state: Sequence[object]) -> None:
        """Take what a pickle has; those made before there was `id` have none."""
        given = [*state, *(each.default for each in fields(self)[len(state) :])]
        for each, value in zip(fields(self), given, strict=True):
            object.__setattr__(self, each.name, value)

    def __str__(self) -> str:
        """Return `5 of 12 rows done, 1 dropped`."""
        return f"{self.done} of {self.total} rows done, {self.dropped} dropped"


# None: a bar on a terminal or in a notebook, log lines elsewhere; False: silence.
Report: TypeAlias = "Callable[[Progress], object] | bool | None"
# counts a row that has ended, and why it failed
Count: TypeAlias = "Callable[[RowId, Sequence[Failure]], None]"


def check(progress: object) -> None:
    """Check that this is a `Report`.

    Raises:
        InvalidDatasetError: it is not.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise InvalidDatasetError(f"progress={progress!r}: give None, False or a function that takes a Progress")


@contextlib.contextmanager
def reporting(
    progress: Report, total: int, done: int = 0, *, delay_s: float = 0.0
) -> Iterator[Callable[[Progress], object]]:
    """Yield the function that reports each step.

    Args:
        progress: to what.
        total: rows in all.
        done: rows that were done before the first step.
        delay_s: a bar appears then, and what has ended before has no line.
    """
    if callable(progress):
        yield progress
    elif progress is False:
        yield lambda _: None
    elif "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty()):
        from tqdm.auto import tqdm

        with tqdm(total=total, initial=done, unit="row", delay=delay_s) as bar:

            def advance(now: Progress) -> None:
                shown = {"dropped": now.dropped or None, "prefetch": now.prefetch}
                if seen := {name: count for name, count in shown.items() if count is not None}:
                    bar.set_postfix(seen, refresh=False)
                bar.update(now.done - bar.n)

            yield advance
    else:
        yield _log_lines(delay_s)


@contextlib.contextmanager
def counting(progress: Report, total: int, *, delay_s: float = 0.0) -> Iterator[Count]:
    """Yield the function that counts and reports a row that ended, of `total` rows, and why it failed.

    One row alone has no bar and no log line, and work that ends within `delay_s` has none either.
    """
    done = dropped = 0
    with reporting(False if progress is None and total <= 1 else progress, total, delay_s=delay_s) as report:

        def count(row_id: RowId, failures: Sequence[Failure]) -> None:
            nonlocal done, dropped
            done, dropped = done + 1, dropped + bool(failures)
            report(Progress(done, total, dropped, id=row_id, failures=tuple(failures)))

        yield count


def _log_lines(delay_s: float) -> Callable[[Progress], None]:
    last = begun = time.monotonic()

    def log(now: Progress) -> None:
        nonlocal last
        is_last = now.done == now.total and time.monotonic() - begun >= delay_s
        if is_last or time.monotonic() - last >= _LOG_EVERY_S:
            last = time.monotonic()
            ahead = "" if now.prefetch is None else f", prefetch {now.prefetch}"
            logger.info("%s%s", now, ahead)

    return log
