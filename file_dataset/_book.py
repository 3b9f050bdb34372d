"""A checkpoint as one run uses it: what it has of the frame's rows, which rows run, what is written, and the whole."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from file_dataset import _frame
from file_dataset._checkpoint import fingerprints, parts, states
from file_dataset._checkpoint.frames import frames_at
from file_dataset._checkpoint.inputs import changed
from file_dataset._checkpoint.place import check_apart, known_at, place_of
from file_dataset._errors import RowError
from file_dataset._journal import Journal, Line, why_not
from file_dataset._result import RunStoppedError, joined
from file_dataset._stores import Stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from file_dataset._checkpoint.place import Place
    from file_dataset._checkpoint.states import States
    from file_dataset._interrupts import Interrupts
    from file_dataset._prepared import Prepared
    from file_dataset._result import PipelineResult
    from file_dataset._settings import Wish

logger = logging.getLogger(__name__)


class Book:
    """A checkpoint in one run."""

    def __init__(self, prepared: Prepared, wish: Wish, of_rows: npt.NDArray[np.bytes_] | None = None) -> None:
        """Read the checkpoint and decide which rows run. Nothing is written yet.

        Args:
            prepared: the rows.
            wish: what the caller wants.
            of_rows: their fingerprints; None: those of the frame.

        Raises:
            InvalidDatasetError: the place makes no sense, or has a part that is damaged, foreign or of a later version.
            RunStoppedError: it cannot be read.
        """
        self.prepared, self.wish = prepared, wish
        options = wish.options or prepared.settings.write_options.get("options") or prepared.settings.options
        target = prepared.target
        stores = target if wish.options is None else Stores(wish.options)
        self.place: Place = place_of(wish.place, stores, options, prepared.temp_dir)
        texts = [str(row_id) for row_id in prepared.rows.ids or ()]
        is_one_store = lambda: stores is target or stores.endpoint == target.endpoint  # noqa: E731
        check_apart(self.place, prepared.prefix, texts, is_one_store)
        try:
            self.known, self._parts = known_at(self.place)
        except (OSError, RowError) as exc:
            message = f"the checkpoint {self.place} cannot be read, so no row has begun: {why_not(exc)}"
            raise RunStoppedError(message) from exc
        self._into_path = str(prepared.prefix)
        rows = prepared.rows
        if of_rows is None:
            of_rows = fingerprints.fingerprints(rows, self._into_path, wish.code_version, prepared.carried)
        self._fingerprints = of_rows
        found = states.decide(texts, self._fingerprints, self.known)
        if rows.failed:  # they are passed on as they came
            found.of_rows[list(rows.failed)] = states.FAILED
        if wish.check_inputs:
            found = found.changed(changed(rows, found, self.known, prepared.source))
        self.states: States = found
        self._to_run = found.to_run
        self.part = prepared.part(self._to_run)
        self.journal = self._journal()

    def _journal(self) -> Journal:
        frame = self.prepared.rows.frame
        assert frame is not None, "rows of a frame"  # noqa: S101
        line = Line(str(frame[_frame.ID].dtype), self._into_path, self.wish.code_version, self.known.generation + 1)
        ids = self.part.rows.ids or []
        return Journal(self.place, line, ids, self._fingerprints[self._to_run], self._parts)

    def begin(self) -> None:
        """Write the first part, and from now on each row that is done.

        Raises:
            RunStoppedError: it cannot be written.
        """
        counts = self.states.counts()
        logger.info(
            "checkpoint %s: %d of %d rows are done already; %d run: %d new, %d failed, %d changed",
            self.place, counts["same"], len(self.prepared.rows), len(self._to_run), counts["new"], counts["failed"],
            counts["changed"],
        )  # fmt: skip
        if len(self._to_run):
            places = self.states.places[self._to_run]
            was_stored = (places >= 0) & self.known.is_in(parts.STORED)[places] if len(self.known) else places >= 0
            begun = [at for at in was_stored.nonzero()[0].tolist() if at not in self.part.rows.failed]
            self.journal.begin(begun)

    @contextlib.contextmanager
    def writing(self, interrupts: Interrupts) -> Iterator[None]:
        """Have the rows that are done meanwhile written down, however this ends.

        From its end on interrupts are held; one that comes then gives up what takes longer than some seconds to write.
        Where something has stopped the run, a note says where what is done is, or which rows are not written down.

        Raises:
            RunStoppedError: they cannot be.
        """
        has_begun = False
        try:
            self.begin()
            has_begun = True
            yield
        except BaseException as exc:
            interrupts.is_held = True
            self.journal.close(lambda: interrupts.is_urgent)
            goes_on = f"What is done is in the checkpoint {self.place}: the same call goes on from there."
            if has_begun:
                exc.add_note(self.journal.unwritten() or goes_on)
            raise
        interrupts.is_held = True
        self.journal.close(lambda: interrupts.is_urgent)
        self.journal.check()

    def whole(self, ran: PipelineResult) -> PipelineResult:
        """Return the result of all rows of the frame, of those that ran and of those that were done before."""
        rows, kept = self.prepared.rows, self.states.kept
        if not len(kept):
            return replace(ran, input=rows.frame)
        contract = self.prepared.contract
        promised = contract.names if contract else ()
        frames, without_digest = frames_at(self.known, self.states.places[kept], rows, kept, promised)
        if self.prepared.settings.on_failure == "record":
            nothing = dict.fromkeys(_frame.ERROR_COLUMNS, [None] * len(kept))
            frames["manifest"] = _frame.with_failures(frames["manifest"], nothing)
        earlier = replace(
            ran,
            input=rows.frame,
            failures=ran.failures.head(0),
            manifest=frames["manifest"],
            files=frames["files"],
            inputs=frames["inputs"],
            files_without_digest=without_digest,
            hint=None,
            counts=None,
        )
        return joined(earlier, ran)


def why(book: Book) -> list[str]:
    """Return for every row of the frame why it runs; empty: it does not."""
    rows = book.prepared.rows
    now: dict[str, Any] = {"into_path": str(book.prepared.prefix), "code_version": book.wish.code_version}
    cells = _frame.absolute_cells(rows)
    files = {
        position: {name: str(column[position]) for name, column in cells.items() if column[position] is not None}
        for position in (book.states.of_rows == states.CHANGED).nonzero()[0].tolist()
    }
    return states.why(book.states, book.known, now, files)
