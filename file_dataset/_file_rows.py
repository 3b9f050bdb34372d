"""Files that patterns matched -> rows: joined by the fields that the patterns share. Pure.

A file whose name is not safe is left out here, and named; `_found_files` decides whether that is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from file_dataset._urls import Directory, ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from file_dataset._patterns import Pattern
    from file_dataset._store import Listed

Values: TypeAlias = "tuple[str | None, ...]"

_STEPS = frozenset({".", ".."})
# what would break a line in a log, a CSV or a terminal
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# a key of 1,024 bytes and four stars in one segment has millions; a guess
_MOST_READINGS = 10_000


@dataclass(slots=True)
class FoundDirectory:
    """A directory that a pattern matched: the bytes of the files in it that were found, and when the newest changed."""

    at: Directory
    size_bytes: int = 0
    modified: int | None = None  # ns since 1970

    def take(self, found: Listed) -> None:
        """Count a file."""
        self.size_bytes += found.size_bytes
        if found.modified is not None:
            self.modified = max(found.modified, self.modified or found.modified)


Found: TypeAlias = "Listed | FoundDirectory"


@dataclass(slots=True)
class Matches:
    """The files or directories that one pattern matched, by the values of its fields.

    `open_files` are those of a pattern that can read a key in several ways, until it is settled which. `twice` has, for
    values that several files have, all but the first one, by their locations. `left_out` has locations of files whose
    name is not safe, why, and those values.
    """

    name: str
    pattern: Pattern
    cells: dict[tuple[str, ...], Found] = field(default_factory=dict)
    open_files: dict[str, Found] = field(default_factory=dict)
    twice: dict[tuple[str, ...], dict[str, Found]] = field(default_factory=dict)
    left_out: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    _directories: dict[str, FoundDirectory] = field(default_factory=dict)  # by what their keys begin with

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self.cells) + len(self.open_files)

    def take(self, key: str, found: Listed) -> None:
        """Take a file whose key matches; the same one may come again."""
        if key.endswith("/"):  # a marker
            return
        if not self.pattern.is_of_directories:
            self._take(key, found)
            return
        for start in self.pattern.directories_of(key):
            directory = self._directories.get(start)
            if directory is None:
                at = ObjectUrl(found.at.bucket, start) if isinstance(found.at, ObjectUrl) else Path(start)
                directory = FoundDirectory(Directory(at))
                if not self._take(start, directory):
                    continue
                self._directories[start] = directory
            directory.take(found)

    def _take(self, key: str, found: Found) -> bool:
        values = self.pattern.read(key)
        if values is None:
            return False
        if self.pattern.is_firm:
            self._put(values, found)
        else:
            self.open_files[key] = found
        return True

    def may_lie_below(self, path: str, *, is_link: bool) -> bool:
        """Return whether a local directory can hold what matches, or what is in a directory that does."""
        if self.pattern.may_lie_below(path, is_link=is_link):
            return True
        if is_link or not self.pattern.is_of_directories:  # as `LocalStore.list` has it, that reads them
            return False
        return any(self.pattern.read(start) is not None for start in self.pattern.directories_of(f"{path}/"))

    def settle(self, others: Sequence[Matches]) -> None:
        """Decide how keys are read: so that most of the others have these values, and else as `Pattern.read` does."""
        mine, known = self.pattern.fields, []  # per other: places of the fields in common, and the values it has
        for other in others:
            if both := [name for name in mine if name in other.pattern.fields]:
                theirs = [other.pattern.fields.index(name) for name in both]
                there = {tuple(values[at] for at in theirs) for values in other.cells}
                known.append(([mine.index(name) for name in both], there))
        for key, found in self.open_files.items():
            best: tuple[str, ...] = ()
            most = -1
            for values in islice(self.pattern.readings(key), _MOST_READINGS):
                count = sum(tuple(values[at] for at in places) in there for places, there in known)
                if count > most:
                    best, most = values, count
                if most == len(known):
                    break
            self._put(best, found)
        self.open_files = {}

    def _put(self, values: tuple[str, ...], found: Found) -> None:
        for value in values:  # most texts are printable, which costs less to see
            if (value in _STEPS or not value.isprintable()) and (why := self._fault(values)):
                self.left_out[str(found.at)] = why, values
                return
        if not isinstance(found.at, ObjectUrl) and not _is_unicode(str(found.at)):
            why = "it is not valid Unicode, which no frame can hold: rename the file"
            self.left_out[str(found.at)] = why, values
            return
        before = self.cells.setdefault(values, found)
        if before is not found and before.at != found.at:
            self.twice.setdefault(values, {})[str(found.at)] = found

    def _fault(self, values: tuple[str, ...]) -> str | None:
        """Why these can be no values: one is a step in a path, or would break a line."""
        for name, value in zip(self.pattern.fields, values, strict=True):
            if value in _STEPS or _UNSAFE.search(value):
                return (
                    f"{{{name}}} would be {value!r}, which is not a safe name: rename the object, or write * "
                    f"where patterns[{self.name!r}] has {{{name}}}"
                )
        return None


def _is_unicode(text: str) -> bool:
    """Return whether a path can stand in a frame: names that are no UTF-8 have surrogates (PEP 383)."""
    return text.isascii() or text == text.encode("utf-8", "replace").decode()


class FoundRow(NamedTuple):
    """A row: the values of the fields, as texts, and per pattern its file; None: there is none."""

    texts: tuple[str | None, ...]
    files: tuple[Found | None, ...]


def joined(tables: Sequence[Matches], fields: Sequence[str]) -> list[FoundRow]:
    """Return the rows, in the order of the first pattern's keys; rows without such a file by that of the second, ...

    Patterns with most fields come first. A file joins every row that has its values, and is a row of its own where
    there is none. One of a pattern without fields joins all rows. The tables are empty then.
    """
    join = _Join(fields, len(tables))
    left = sorted(range(len(tables)), key=lambda at: -len(tables[at].pattern.fields))
    while left:
        # patterns are connected by their fields, so that one of them shares some
        at = next((at for at in left if join.known & set(tables[at].pattern.fields)), left[0])
        left.remove(at)
        join.add(at, tables[at])
        tables[at].cells = {}  # 100,000 files take 15 MB there
    if len(tables) == 1:
        join.rows.sort(key=lambda row: _place_of(row.files[0]))
    else:
        join.rows.sort(key=lambda row: [(each is None, _place_of(each)) for each in row.files])
    return join.rows


def _place_of(found: Found | None) -> str:
    """Return by what the files of one pattern are sorted, all of one bucket; a key takes no memory, unlike its URL."""
    if found is None:
        return ""
    return found.at.key if isinstance(found.at, ObjectUrl) else str(found.at)


class _Join:
    """Rows that are joined with one pattern after the other; `known` are the fields of those before."""

    def __init__(self, fields: Sequence[str], count: int) -> None:
        self._fields = fields
        self._nothing = FoundRow((None,) * len(fields), (None,) * count)
        self.rows: list[FoundRow] = []
        self.known: set[str] = set()

    def add(self, at: int, table: Matches) -> None:
        """Join the files of the pattern at this position."""
        own = table.pattern.fields
        places = [self._fields.index(name) for name in own]
        if not self.rows:
            # as below, where there is nothing to join with, in half the memory
            if own and len(self._nothing.files) == 1:
                self.rows = [FoundRow(values, (found,)) for values, found in table.cells.items()]
            elif own:
                self.rows = [_put(self._nothing, places, at, *each) for each in table.cells.items()]
            self.known |= set(own)
            return
        shared = [number for number, name in enumerate(own) if name in self.known]
        by_shared: dict[Values, list[tuple[tuple[str, ...], Found]]] = {}
        for values, found in table.cells.items():
            by_shared.setdefault(tuple(values[number] for number in shared), []).append((values, found))
        in_row = [places[number] for number in shared]
        rows: list[FoundRow] = []
        met: set[Values] = set()
        for row in self.rows:
            key = tuple(row.texts[place] for place in in_row)
            met.add(key)
            matches = by_shared.get(key)
            rows += [row] if matches is None else [_put(row, places, at, *each) for each in matches]
        if own:
            alone = [each for key, matches in by_shared.items() if key not in met for each in matches]
            rows += [_put(self._nothing, places, at, *each) for each in alone]
        self.rows = rows
        self.known |= set(own)


def _put(row: FoundRow, places: Sequence[int], at: int, values: tuple[str, ...], found: Found) -> FoundRow:
    of_row, files = list(row.texts), list(row.files)
    for place, value in zip(places, values, strict=True):
        of_row[place] = value
    files[at] = found
    return FoundRow(tuple(of_row), tuple(files))
