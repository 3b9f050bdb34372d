"""`Plan`: what a run would do with every row, before it does anything."""

from __future__ import annotations

import html
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from file_dataset import _file_tables, _frame, _plan
from file_dataset._book import why
from file_dataset._checkpoint import states
from file_dataset._errors import InvalidDatasetError, on_one_line
from file_dataset._tempdir import TempDir
from file_dataset._window import MOST_ROWS, budget_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._book import Book
    from file_dataset._prepared import Prepared

_PAGE_KEYS = 1000  # of a LIST (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html)
_SHOWN = 5  # rows of each state that a person reads; a guess
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, eq=False, repr=False, match_args=False)
class Plan:
    """Which rows a run would run, and why.

    Attributes:
        rows: one row per row of the frame, in its order: `id` with the frame's dtype; `state`, text: `new` (never
            done), `failed` (it failed last time), `changed` (it was done from other inputs or with other settings) or
            `same` (it is done, and does not run); and `why`, text, null where the state is `same`.
        files: with `sizes=True` one row per input file of the rows that would run, as `into_info_table` has it: `id`,
            `file`, `location`, `size_bytes`, `etag`, `checksum`, and, where it cannot be read, `error_type`,
            `error_code`, `error_message`. None without `sizes`.
        requests: with `sizes=True` how many requests the run would send at least, by kind: `GET`, `PUT` and `HEAD`,
            and `LIST` where there are directories.
            Files over 16 MiB, and outputs over 32 MiB, take several requests each; a checkpoint adds a PUT for every
            500 rows. None without `sizes`.
        peak_disk_bytes: with `sizes=True` how many bytes of inputs lie in `temp_dir` at once, at most; what fn writes
            is not known before. None without `sizes`.

    Example:
        >>> def copy(input_dir, output_dir):
        ...     return {"copy.txt": input_dir / "scan.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
        >>> plan = Pipeline(copy, into_path="s3://my-bucket/copies/").plan(frame)
        >>> plan.rows["state"].tolist()
        ['new', 'new']
    """

    rows: pd.DataFrame
    files: pd.DataFrame | None = None
    requests: Mapping[str, int] | None = None
    peak_disk_bytes: int | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are in each of the four states."""
        found = self.rows["state"].value_counts()
        return {name: int(found.get(name, 0)) for name in states.NAMES}

    def summary(self) -> str:
        """Return one line: "120 of 40,000 rows to run: 100 new, 20 failed; 39,880 are done"."""
        counts = self.counts
        done = counts.pop("same")
        run = sum(counts.values())
        kinds = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        rest = f"; {done:,} {'is' if done == 1 else 'are'} done" if done else ""
        return f"{run:,} of {len(self.rows):,} rows to run{f': {kinds}' if kinds else ''}{rest}"

    @property
    def missing_files(self) -> pd.DataFrame:
        """The lines of `files` that cannot be read: each drops its row. Empty without `sizes=True`."""
        if self.files is None:
            return pd.DataFrame({"id": [], "file": [], "location": []})
        return self.files[self.files["error_type"].notna()].reset_index(drop=True)

    @property
    def rows_without_files(self) -> int:
        """How many of the rows that would run have no file at all: each is dropped. 0 without `sizes=True`."""
        if self.files is None:
            return 0
        return len(self.rows) - self.counts["same"] - self.files[_frame.ID].nunique()

    @property
    def input_bytes(self) -> int | None:
        """Bytes of all files that can be read, without those of directories that were not looked into."""
        return None if self.files is None else int(self.files["size_bytes"].sum())

    @property
    def largest_row(self) -> tuple[str | int, int] | None:
        """Id and bytes of the largest row; None without `sizes=True`, or when no row would run."""
        if self.files is None or not len(of_rows := _bytes_of_rows(self.files)):
            return None
        return of_rows.index.tolist()[0], int(of_rows.iloc[0])

    def report(self) -> str:
        """Return the summary, and with `sizes=True` bytes, requests, disk and the first missing files, as lines."""
        lines = [self.summary()]
        if self.files is None or self.requests is None:
            return "\n".join(lines)
        largest = (
            ""
            if self.largest_row is None
            else f"; the largest row: {self.largest_row[0]!r}, {_shown_bytes(self.largest_row[1])}"
        )
        lines.append(f"inputs: {len(self.files):,} files, {_shown_bytes(self.input_bytes or 0)}{largest}")
        requests = ", ".join(f"{count:,} {kind}" for kind, count in self.requests.items() if count)
        lines.append(f"requests, where no row fails: {f'at least {requests}' if requests else 'none'}")
        lines.append(f"peak disk: {_shown_bytes(self.peak_disk_bytes or 0)} of inputs, and what fn writes beside them")
        missing = self.missing_files
        lines.append(f"missing files: {len(missing):,}")
        for row in missing.head(_SHOWN).to_dict("records"):
            code = "" if pd.isna(row["error_code"]) else f" ({row['error_code']})"
            where = on_one_line(f"{row['file']}: {row['location']}")
            lines.append(f"  row {row['id']!r}: {where}: {row['error_type']}{code}")
        if len(missing) > _SHOWN:
            lines.append(f"  ... and {len(missing) - _SHOWN:,} more")
        if self.rows_without_files:
            lines.append(f"rows without any file: {self.rows_without_files:,}")
        return "\n".join(lines)

    def _shown(self) -> pd.DataFrame:
        """Return the first rows of each state that runs."""
        to_run = self.rows[self.rows["state"] != "same"]
        return to_run.groupby("state", sort=False).head(_SHOWN)

    def __repr__(self) -> str:
        """Show the counts, and some of the rows that run for a reason of their own."""
        shown = self._shown()
        lines = [f"  {row_id!r}: {state}: {why}" for row_id, state, why in _records(shown) if state != "new"]
        return "\n".join([f"Plan({self.summary()})", *lines])

    def _repr_html_(self) -> str:
        """Show the same in a notebook."""
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>"
            for row in _records(self._shown())
        )
        head = "<thead><tr><th>id</th><th>state</th><th>why</th></tr></thead>"
        table = f"<table>{head}<tbody>{body}</tbody></table>" if body else ""
        return f"<div><p><b>Plan</b>: {html.escape(self.summary())}</p>{table}</div>"


def _records(rows: pd.DataFrame) -> list[tuple[object, str, str]]:
    return list(zip(rows[_frame.ID].tolist(), rows["state"].tolist(), rows["why"].tolist(), strict=True))


def _bytes_of_rows(files: pd.DataFrame) -> pd.Series[Any]:
    """Return the bytes of each row by its id, the most first."""
    return files.groupby(_frame.ID, sort=False)["size_bytes"].sum().sort_values(ascending=False, kind="stable")


def _shown_bytes(count: float) -> str:
    """Return "1.2 GB", in powers of ten."""
    power = min(len(_UNITS) - 1, max(0, len(str(int(count))) - 1) // 3)
    return f"{count:,} bytes" if power == 0 else f"{count / 1000**power:,.1f} {_UNITS[power]}"


def plan_of(prepared: Prepared, book: Book | None, *, sizes: bool = False) -> Plan:
    """Return what a run would do; without a checkpoint all rows are new.

    Args:
        prepared: the frame.
        book: the checkpoint.
        sizes: asks the store for every file of the rows that run: one HEAD each.

    Raises:
        RowError: no file can be looked at: there are no credentials, or they expired.
    """
    rows = prepared.rows
    assert rows.frame is not None, "rows of a frame"  # noqa: S101
    names = [states.NAMES[states.NEW]] * len(rows)
    reasons: list[str | None] = ["there is no checkpoint"] * len(rows)
    if book is not None:
        names = [states.NAMES[state] for state in book.states.of_rows.tolist()]
        reasons = [reason or None for reason in why(book)]
    text = {"state": names, "why": reasons}
    columns = {name: pd.Series(values, dtype=_frame.TEXT) for name, values in text.items()}
    whole = rows.frame[[_frame.ID]].reset_index(drop=True).assign(**columns)
    if not sizes:
        return Plan(whole)
    part = prepared if book is None else book.part
    files = _file_tables.infos(part.rows, prepared.settings.options).to_pandas()
    return Plan(whole, files, _requests(part, files), _peak_disk_bytes(part, files))


def _requests(part: Prepared, files: pd.DataFrame) -> dict[str, int]:
    """Return how many requests the rows send at least; those whose files are missing end at their download."""
    is_bad = files["error_type"].notna()
    # a row without any file is in no line
    good = files[_frame.ID].nunique() - files.loc[is_bad, _frame.ID].nunique()
    outputs = good * max(1, len(part.contract.names) if part.contract else 1)
    is_remote = files["location"].str.startswith("s3://")
    looks = part.contract is not None and part.settings.if_exists != "overwrite"
    puts = 0 if isinstance(part.prefix, Path) else outputs
    lists = _lists(part, files[is_remote & ~is_bad])
    return {"GET": int(is_remote.sum()), "PUT": puts, "HEAD": puts if looks else 0} | ({"LIST": lists} if lists else {})


def _lists(part: Prepared, files: pd.DataFrame) -> int:
    """Return how many requests list the directories that have these files: one for 1,000 of them."""
    names = part.rows.cells
    column = {file: _plan.column_of(file, names) for file in files["file"].unique().tolist()}
    cells = zip(files[_frame.ID].tolist(), files["file"].tolist(), strict=True) if column else ()
    counts = Counter((row_id, column[file]) for row_id, file in cells if column[file] != file)
    return sum(-(-count // _PAGE_KEYS) for count in counts.values())


def _peak_disk_bytes(part: Prepared, files: pd.DataFrame) -> int:
    """Return what the rows that may have files on disk at once take at most: the largest ones."""
    settings, largest = part.settings, _bytes_of_rows(files)
    if settings.prefetch is None:
        try:
            free_bytes = shutil.disk_usage(part.temp_dir or TempDir.parent()).free
        except (OSError, InvalidDatasetError):  # no such place, which the first row finds too
            free_bytes = 0
        most = int(largest.head(settings.slots + MOST_ROWS + 1).sum())
        return min(most, max(budget_bytes(free_bytes), int(largest.head(settings.slots).sum())))
    overlaps = settings.worker_count or settings.prefetch
    return int(largest.head(settings.slots + settings.prefetch + 1 if overlaps else 1).sum())
