"""`Plan`: what a run would do with every row, before it does anything."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from file_dataset import _frame
from file_dataset._book import why
from file_dataset._checkpoint import states

if TYPE_CHECKING:
    from file_dataset._book import Book
    from file_dataset._prepared import Prepared

_SHOWN = 5  # rows of each state that a person reads; a guess


@dataclass(frozen=True, eq=False, repr=False, match_args=False)
class Plan:
    """Which rows a run would run, and why.

    Attributes:
        rows: one row per row of the frame, in its order: `id` with the frame's dtype; `state`, text: `new` (never
            done), `failed` (it failed last time), `changed` (it was done from other inputs or with other settings) or
            `same` (it is done, and does not run); and `why`, text, null where the state is `same`.

    Example:
        >>> def copy(input_dir, output_dir):
        ...     return {"copy.txt": input_dir / "scan.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
        >>> plan = Pipeline(copy, into_path="s3://my-bucket/copies/").plan(frame)
        >>> plan.rows["state"].tolist()
        ['new', 'new']
    """

    rows: pd.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """Rows by state, all four of them."""
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


def plan_of(prepared: Prepared, book: Book | None) -> Plan:
    """Return what a run would do; without a checkpoint all rows are new."""
    rows = prepared.rows
    assert rows.frame is not None, "rows of a frame"  # noqa: S101
    names = [states.NAMES[states.NEW]] * len(rows)
    reasons: list[str | None] = ["there is no checkpoint"] * len(rows)
    if book is not None:
        names = [states.NAMES[state] for state in book.states.of_rows.tolist()]
        reasons = [reason or None for reason in why(book)]
    text = {"state": names, "why": reasons}
    columns = {name: pd.Series(values, dtype=_frame.TEXT) for name, values in text.items()}
    return Plan(rows.frame[[_frame.ID]].reset_index(drop=True).assign(**columns))
