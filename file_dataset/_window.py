"""How many rows have files on disk: as given, or as many as keep fn from waiting, within a share of the disk.

Pure but for the free bytes that it asks for at the start. A run asks it before each row that it begins, and reports to
it what becomes of the rows, one thread at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from file_dataset._result import Prefetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from file_dataset._settings import Settings

# Where it begins, and ends. 400 rows of 16 KiB, 30 ms to the first byte: 256 are as fast as 128, and 64 nearly.
FIRST_ROWS, MOST_ROWS = 2, 256
# Guesses: others use the disk too.
_SHARE, _MOST_BYTES = 10, 16 << 30
# With so many bytes on their way a line of 10 Gbit/s is busy for 0.2 s, longer than any first byte takes: another row
# beside them would only share it, and the row that fn waits for would come later. A guess.
ENOUGH_BYTES = 256 << 20


def budget_bytes(free_bytes: int) -> int:
    """Return how many bytes of a disk the rows of a run may take that was given no `prefetch`."""
    return min(free_bytes // _SHARE, _MOST_BYTES)


@dataclass(slots=True)
class Sizes:
    """What files and outputs of rows took, as far as they were seen."""

    files: int = 0
    file_bytes: int = 0
    rows: int = 0
    output_bytes: int = 0

    @property
    def per_file(self) -> float:
        """Return the mean of a row's files, 0 before the first."""
        return self.file_bytes / self.files if self.files else 0.0

    @property
    def outputs_per_row(self) -> float:
        """Return the mean of what fn left in `output_dir`, 0 before the first."""
        return self.output_bytes / self.rows if self.rows else 0.0


@dataclass(slots=True)
class Kept:
    """What one run knows for the next of the same pipeline, in a process that runs batches."""

    prefetch: int = FIRST_ROWS
    sizes: Sizes = field(default_factory=Sizes)


class OnDisk:
    """What one row takes of the disk: `unseen` of its files have not begun to arrive."""

    __slots__ = ("input_bytes", "is_arriving", "output_bytes", "unseen")

    def __init__(self, files: int) -> None:
        """Start with nothing seen."""
        self.unseen, self.input_bytes, self.is_arriving = files, 0, True
        self.output_bytes: int | None = None  # fn has not returned

    @property
    def bytes(self) -> int:
        """What is known of it."""
        return self.input_bytes + (self.output_bytes or 0)


class Window:
    """Says whether another row may begin, and grows while fn waits where no number was given.

    Attributes:
        prefetch: how many rows may be ahead of fn now.
    """

    def __init__(self, settings: Settings, files: int, free_bytes: Callable[[], int], kept: Kept | None = None) -> None:
        """Start with no row.

        Args:
            settings: what the Pipeline was given.
            files: the most files of a row.
            free_bytes: asks the disk; called once, where no number was given.
            kept: what earlier runs of the same pipeline left; this one leaves there what it learns.
        """
        self.is_chosen = settings.prefetch is None
        self._kept = kept or Kept()
        self.prefetch = self._kept.prefetch if settings.prefetch is None else settings.prefetch
        self._slots, self._has_workers = settings.slots, bool(settings.worker_count)
        self._files = files
        self._sizes = self._kept.sizes
        self._rows: set[OnDisk] = set()
        self._bytes = self._arriving_bytes = self._unseen = self._unreturned = 0
        self._budget = budget_bytes(free_bytes()) if self.is_chosen else 0
        self._has_taken = False  # fn has had a row since this grew
        self._why = "fn did not wait for files"

    @property
    def rows(self) -> int:
        """How many rows may have files on disk at once; one where nothing overlaps."""
        return self._slots + self.prefetch + 1 if self._has_workers or self.prefetch else 1

    @property
    def most_rows(self) -> int:
        """How many may ever be."""
        return self._slots + MOST_ROWS + 1 if self.is_chosen else self.rows

    def chosen(self) -> Prefetch:
        """Return how many rows were ahead, and why not more."""
        return Prefetch(self.prefetch, self._why if self.is_chosen else "as given")

    def has_room(self, ahead: int, in_fn: int) -> bool:
        """Return whether another row may begin beside `ahead` that fn has not had, and `in_fn` that it has now."""
        if ahead >= self.prefetch + self._slots - in_fn or len(self._rows) >= self.rows:
            return False
        if not self.is_chosen or len(self._rows) < self._slots or self._fits():
            return True
        self._why = f"the disk budget is {self._budget} bytes"
        return False

    def _fits(self) -> bool:
        return self.expected_bytes() + self._row_bytes() <= self._budget

    def expected_bytes(self) -> float:
        """Return what the rows that have begun take: what is known of them, the usual for the rest."""
        unknown = self._unseen * self._sizes.per_file + self._unreturned * self._sizes.outputs_per_row
        return self._bytes + unknown

    def _row_bytes(self) -> float:
        return self._files * self._sizes.per_file + self._sizes.outputs_per_row

    @property
    def may_grow(self) -> bool:
        """Whether it is to be asked to, when fn waits.

        Not twice for one wait, and not before the first row has come: no row ahead can spare fn that wait.
        """
        return self.is_chosen and self._has_taken

    def fn_waits(self, free_bytes: int) -> bool:
        """Double, where fn waits again; return whether there is room for more rows now."""
        if not self.may_grow:
            return False
        if self.prefetch >= MOST_ROWS:
            self._why = "the most"
            return False
        if self._arriving_bytes >= ENOUGH_BYTES:
            self._why = f"{self._arriving_bytes} bytes of rows that were on their way are enough"
            return False
        self._budget = budget_bytes(free_bytes + self._bytes)
        if not self._fits():
            self._why = f"the disk budget is {self._budget} bytes"
            return False
        self.prefetch = self._kept.prefetch = min(2 * max(1, self.prefetch), MOST_ROWS)
        self._has_taken = False
        self._why = "grown while fn waited for files or places"
        return True

    # what becomes of a row

    def begins(self) -> OnDisk:
        """Count a row that begins."""
        row = OnDisk(self._files)
        self._rows.add(row)
        self._unseen += row.unseen
        self._unreturned += 1
        return row

    def file_begins(self, row: OnDisk, more_bytes: int, *, is_first: bool) -> None:
        """Count a file whose size is known: `more_bytes` than before where it is not the first attempt."""
        if row not in self._rows:  # cancelled
            return
        if is_first and row.unseen:
            row.unseen -= 1
            self._unseen -= 1
            self._sizes.files += 1
        self._sizes.file_bytes += more_bytes
        row.input_bytes += more_bytes
        self._bytes += more_bytes
        self._arriving_bytes += more_bytes

    def arrives(self, row: OnDisk) -> None:
        """Take note that all files of a row are there; those not seen are null."""
        if row.is_arriving:
            row.is_arriving = False
            self._arriving_bytes -= row.input_bytes
            self._unseen -= row.unseen
            row.unseen = 0

    def taken(self) -> None:
        """Take note that fn has a row."""
        self._has_taken = True

    def returns(self, row: OnDisk, output_bytes: int) -> None:
        """Take note of what fn left."""
        row.output_bytes = output_bytes
        self._unreturned -= 1
        self._bytes += output_bytes
        self._sizes.rows += 1
        self._sizes.output_bytes += output_bytes

    def leaves(self, row: OnDisk) -> None:
        """Take note that a row's files are gone; nothing the second time."""
        if row not in self._rows:
            return
        self._rows.discard(row)
        self.arrives(row)
        if row.output_bytes is None:
            self._unreturned -= 1
        self._bytes -= row.bytes
