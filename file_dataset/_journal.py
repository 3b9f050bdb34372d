"""Writes finished rows down while a run goes on: a part for every 500 rows or 5 s, by a thread of its own.

What finishes a row never waits for a write. What cannot be written stops the run at its next step.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from file_dataset._checkpoint import fingerprints, parts
from file_dataset._errors import FileDatasetError, RowError, code_of, is_disk_full
from file_dataset._pool import start_thread
from file_dataset._result import RunStoppedError
from file_dataset._tally import Stored

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from file_dataset._checkpoint.place import Place
    from file_dataset._errors import RowId
    from file_dataset._tally import Outcome

logger = logging.getLogger(__name__)

# What is lost at most when a process dies, beside the rows in flight: a PUT costs as much as 1 to 10 reads of it.
_ROWS, _S = 500, 5.0
_MOST_ROWS = 5_000  # of one part, whose lines are Python objects at a time; a guess
# More parts than this are joined, but for the largest: rows are then written again a few times and not at each joining.
_MOST_PARTS, _LARGEST = 64, 8
_LOOK_S = 0.1
_LEAST_S = 5.0  # for the last part, whatever interrupt has come; a guess
_SHOWN = 20  # ids in a message; a guess


@dataclass(frozen=True, slots=True)
class Line:
    """What is the same in all lines that a run writes."""

    id_dtype: str
    into_path: str
    code_version: str | None
    generation: int


class Journal:
    """Writes the outcomes of rows into the parts of a checkpoint."""

    def __init__(
        self,
        place: Place,
        line: Line,
        ids: Sequence[RowId],
        of_rows: npt.NDArray[Any],
        known: dict[str, int],
    ) -> None:
        """Start no thread yet.

        Args:
            place: where parts are written.
            line: what all lines have.
            ids: of the rows, by position.
            of_rows: their fingerprints, by position.
            known: the parts that are there, and how many rows each has.
        """
        self._place, self._line, self._ids, self._fingerprints = place, line, ids, of_rows
        self._parts = dict(known)
        self._queue: SimpleQueue[tuple[int, Outcome, float] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._unwritten: list[int] = []
        self._is_joining = True

    def begin(self, begun: Sequence[int]) -> None:
        """Write a first part: what was known of these rows holds no more, since they begin anew.

        Args:
            begun: positions of the rows that a checkpoint has in another state.

        Raises:
            RunStoppedError: it cannot be written.
        """
        try:
            name = self._store(self._begun(begun))
            if not len(begun):  # it was a test
                self._place.remove(name)
                del self._parts[name]
            self._thread = start_thread("file_dataset-checkpoint", self._write_down)
        except (OSError, FileDatasetError) as exc:
            message = f"the checkpoint {self._place} cannot be written, so no row has begun: {why_not(exc)}"
            raise RunStoppedError(message) from exc

    def put(self, position: int, outcome: Outcome) -> None:
        """Take a row that is stored or has failed. Any thread may call this; it waits for nothing."""
        self._queue.put((position, outcome, time.time()))

    def check(self) -> None:
        """Stop a run whose rows cannot be written down.

        Raises:
            RunStoppedError: they cannot.
        """
        if self._error is not None:
            error = RunStoppedError(f"Stopped: the checkpoint {self._place} cannot be written. {self.unwritten()}")
            error.__cause__ = self._error
            raise error

    def unwritten(self) -> str | None:
        """Return which rows that are done are not written down, and why; None: all are."""
        if self._error is None:
            return None
        ids = [self._ids[position] for position in self._unwritten[:_SHOWN]]
        more = f" and {len(self._unwritten) - _SHOWN} more" if len(self._unwritten) > _SHOWN else ""
        return (
            "Of the rows that are done, these are not written down and run again next time: "
            f"{ids}{more}. {why_not(self._error)}"
        )

    def close(self, is_urgent: Callable[[], bool]) -> None:
        """Write what is not written yet. An interrupt gives up what takes longer than some seconds."""
        if (thread := self._thread) is None:
            return
        self._queue.put(None)
        least_s = time.monotonic() + _LEAST_S
        while thread.is_alive() and not (is_urgent() and time.monotonic() > least_s):
            thread.join(_LOOK_S)
        if thread.is_alive():
            logger.error("the checkpoint %s takes too long to write: some rows that are done run again", self._place)

    # the thread

    def _write_down(self) -> None:
        is_open = True
        while is_open:
            waiting, is_open = self._gathered()
            if waiting:
                self._write_lines(waiting)

    def _gathered(self) -> tuple[list[tuple[int, Outcome, float]], bool]:
        """Wait for the rows of the next part; return them, and whether more may come.

        Where rows end faster than parts are written, a part has all that ended meanwhile.
        """
        waiting: list[tuple[int, Outcome, float]] = []
        item = self._queue.get()
        due_s = time.monotonic() + _S
        while item is not None:
            waiting.append(item)
            if len(waiting) >= _MOST_ROWS:
                return waiting, True
            left_s = 0.0 if len(waiting) >= _ROWS else due_s - time.monotonic()
            try:
                item = self._queue.get(timeout=max(0.0, left_s))
            except Empty:
                return waiting, True
        return waiting, False

    def _write_lines(self, waiting: Sequence[tuple[int, Outcome, float]]) -> None:
        try:
            if self._error is None:
                self._store(pa.Table.from_pylist([self._line_of(*item) for item in waiting], parts.COLUMNS))
                self._join()
                return
        except BaseException as exc:  # noqa: BLE001  # handed to the run
            self._error = exc
        self._unwritten += [position for position, _, _ in waiting]

    def _store(self, lines: pa.Table) -> str:
        name = self._place.write(parts.encode(lines))
        self._parts[name] = lines.num_rows
        return name

    def _join(self) -> None:
        """Write the rows of many parts as one, then remove those; another run may do so with the same ones."""
        if len(self._parts) <= _MOST_PARTS or not self._is_joining:
            return
        by_size = sorted(self._parts, key=self._parts.__getitem__)
        names = by_size[: len(by_size) - _LARGEST]
        try:
            found = [parts.opened(content, self._place.path_of(name)) for name, content in self._place.read(names)]
            lines = parts.known_of(found).whole()
            joined = self._place.write(parts.encode(lines))
            for name in names:
                del self._parts[name]
            self._parts[joined] = lines.num_rows
            for name in names:
                self._place.remove(name)
        except (OSError, FileDatasetError) as exc:
            # a reader that meets both counts a row once; there are only more parts to read
            self._is_joining = False
            logger.warning("the checkpoint %s keeps many small parts, which could not be joined: %s", self._place, exc)

    def _line_of(self, position: int, outcome: Outcome, at: float) -> dict[str, Any]:
        line = self._common(position, at)
        line["inputs"] = [
            {
                "file": one.file,
                "size_bytes": one.size_bytes,
                "etag": one.etag,
                "location": one.location,
                "version_id": one.version_id,
                "checksum": one.checksum,
            }
            for one in outcome.inputs
        ]
        if isinstance(outcome, Stored):
            line["state"], line["without_digest"] = parts.STORED, outcome.without_digest
            line["outputs"] = parts.outputs_of(outcome.outputs, outcome.files)
        else:
            line["state"] = parts.FAILED
            line["failures"] = [
                {name: getattr(one, name) for name in ("stage", "file", "url", "type", "code", "message")}
                for one in outcome.error.failures
            ]
        return line

    def _begun(self, positions: Sequence[int]) -> pa.Table:
        """Return lines that say no more than that these rows are begun."""
        count = len(positions)
        same = self._common(0, time.time()) | {"state": parts.BEGUN} if count else {}
        columns = {
            name: pa.repeat(pa.scalar(same[name], kind.value_type if pa.types.is_dictionary(kind) else kind), count)
            for name, kind in zip(parts.COLUMNS.names, parts.COLUMNS.types, strict=True)
            if count and name not in {"id", "fingerprint"}
        }
        columns["id"] = pa.array([str(self._ids[position]) for position in positions], pa.string())
        columns["fingerprint"] = pa.array([self._fingerprint(position) for position in positions], pa.binary(16))
        return pa.table({name: columns[name] for name in parts.COLUMNS.names}) if count else parts.COLUMNS.empty_table()

    def _fingerprint(self, position: int) -> bytes:
        return bytes(self._fingerprints[position]).ljust(fingerprints.BYTES, b"\0")  # numpy drops null bytes at the end

    def _common(self, position: int, at: float) -> dict[str, Any]:
        line = self._line
        return {
            "id": str(self._ids[position]),
            "id_dtype": line.id_dtype,
            "into_path": line.into_path,
            "code_version": line.code_version,
            "fingerprint": self._fingerprint(position),
            "generation": line.generation,
            "finished_at": int(at * 1e6),
            "without_digest": 0,
            "outputs": [],
            "inputs": [],
            "failures": [],
        }


def why_not(error: BaseException | None) -> str:
    """Return why a checkpoint cannot be read or written, and what may help."""
    if isinstance(error, RowError):
        return str(error.failures[0])
    if not isinstance(error, OSError):
        return str(error)
    code = code_of(error)
    kind = f"{type(error).__name__} ({code})" if code else type(error).__name__
    text = error.strerror or str(error)
    remedy = ""
    if code == "AccessDenied":
        remedy = "; a checkpoint takes the rights to list, read, write and delete below it"
    elif is_disk_full(error):
        remedy = "; make room, or give a checkpoint elsewhere"
    return f"{kind}: {text}{f': {error.filename}' if error.filename else ''}{remedy}"
