"""Records of rows, kept as columns: a run of a million rows has no object per row.

An object, its tuple and its place in a dict take about 400 bytes per row. Columns take 8 bytes per value and the bytes
of its text.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    Positions: TypeAlias = "npt.NDArray[np.int64] | list[int]"


class Texts:
    """A column of texts, None where null, kept as UTF-8 end to end: each takes 49 bytes more as an object."""

    __slots__ = ("_bytes", "_ends")

    def __init__(self) -> None:
        """Start with none."""
        self._bytes = bytearray()
        self._ends = array("q")  # of each text; of a null, which has no bytes, the complement

    def append(self, text: str | None) -> None:
        """Add a text."""
        if text is None:
            self._ends.append(~len(self._bytes))
            return
        self._bytes += text.encode("utf-8", "surrogatepass")  # a path may have any
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ends)

    def __getitem__(self, place: int) -> str | None:
        """Return a text."""
        if (end := self._ends[place]) < 0:
            return None
        return self._bytes[self._start(place) : end].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str | None]:
        """Yield all of them."""
        return map(self.__getitem__, range(len(self)))

    def cut(self, count: int) -> None:
        """Drop those behind the first `count`, and what an interrupted `append` has left."""
        del self._bytes[self._start(count) :]
        del self._ends[count:]

    def taken(self, places: Iterable[int]) -> Texts:
        """Return these texts, in this order."""
        found = Texts()
        for place in places:
            found.append(self[place])
        return found

    def _start(self, place: int) -> int:
        end = self._ends[place - 1] if place else 0
        return end if end >= 0 else ~end


class Records:
    """Any number of records per row, in columns. A row is put once, with all of its records; rows come in any order."""

    def __init__(
        self,
        total: int,
        columns: Iterable[str],
        *,
        numbers: Iterable[str] = (),
        few: Iterable[str] = (),
        shared: Iterable[str] = (),
    ) -> None:
        """Start with none.

        Args:
            total: how many rows there may be.
            columns: their names.
            numbers: the columns of integers.
            few: the columns in which the same texts come again and again: each text is kept once.
            shared: the columns of texts that others keep anyway.
        """
        few, objects = set(few), {*few, *shared}
        self._first = array("q", [-1]) * total  # by row: the place of its first record; -1: the row was not put
        self._rows = array("q")  # by record
        self._columns: dict[str, Any] = {
            name: array("q") if name in set(numbers) else [] if name in objects else Texts() for name in columns
        }
        self._few = [name in few for name in self._columns]
        self._same: dict[Any, Any] = {}
        self._count = 0

    def put(self, position: int, records: Iterable[tuple[Any, ...]]) -> bool:
        """Take the records of a row, values in the order of the columns; return False where they were put before."""
        if self._first[position] >= 0:
            return False
        self._drop_unfinished()
        first = len(self._rows)
        count = 0
        for count, record in enumerate(records, 1):  # noqa: B007  # how many there were
            for column, value, is_few in zip(self._columns.values(), record, self._few, strict=True):
                column.append(self._same.setdefault(value, value) if is_few else value)
        # Ctrl-C before this leaves the row out, and after it the row is there: Python looks for signals after a call
        places = [position] * count
        self._count += 1
        self._first[position] = first
        self._rows.extend(places)
        return True

    def _drop_unfinished(self) -> None:
        """Drop what a `put` that was interrupted has left."""
        for column in self._columns.values():
            if isinstance(column, Texts):
                column.cut(len(self._rows))
            else:
                del column[len(self._rows) :]

    def __contains__(self, position: object) -> bool:
        """Whether a row was put."""
        return isinstance(position, int) and 0 <= position < len(self._first) and self._first[position] >= 0

    def __len__(self) -> int:
        """Return how many rows were put."""
        return self._count

    def __iter__(self) -> Iterator[int]:
        """Yield the rows that were put, in input order."""
        return (position for position, first in enumerate(self._first) if first >= 0)

    def of(self, position: int) -> list[tuple[Any, ...]]:
        """Return the records of a row.

        Raises:
            KeyError: it was not put.
        """
        if position not in self:
            raise KeyError(position)
        start = stop = self._first[position]
        while stop < len(self._rows) and self._rows[stop] == position:
            stop += 1
        return [tuple(column[place] for column in self._columns.values()) for place in range(start, stop)]

    def _has_any(self, position: int) -> bool:
        first = self._first[position]
        return 0 <= first < len(self._rows) and self._rows[first] == position

    def known(self) -> npt.NDArray[np.bool_]:
        """Return for every row whether it was put."""
        import numpy as np

        return np.asarray(self._first) >= 0

    def in_order(self) -> tuple[npt.NDArray[np.int64], Mapping[str, Iterable[Any]]]:
        """Return the row of every record, and the columns, in input order."""
        import numpy as np

        self._drop_unfinished()
        rows = np.asarray(self._rows)
        if not len(rows) or (rows[1:] >= rows[:-1]).all():
            return rows.copy(), self._columns
        order = np.argsort(rows, kind="stable")
        columns: dict[str, Iterable[Any]] = {}
        for name, column in self._columns.items():
            columns[name] = column.taken(order) if isinstance(column, Texts) else [column[place] for place in order]
        return rows[order], columns

    def firsts(self, positions: Positions) -> dict[str, list[Any]]:
        """Return the columns with the first record of each of these rows; None where there is none."""
        places = [self._first[position] if self._has_any(position) else -1 for position in positions]
        return {
            name: [None if place < 0 else column[place] for place in places] for name, column in self._columns.items()
        }
