"""What patterns found, as a value: its frame, or the ETags of its files; of all, or of one value of a field. No I/O."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from file_dataset import _file_rows, _frame, _ids, _patterns, _urls
from file_dataset._errors import InvalidDatasetError
from file_dataset._file_rows import FoundDirectory
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from file_dataset._file_rows import Found, FoundRow, Matches, Values
    from file_dataset._patterns import Pattern

_SHOWN = 5
_RENAME = "rename the object, or make ids of other fields by id="


class _Twice(NamedTuple):
    """Files of one pattern that have the same values: the first one is in the rows, `others` are not."""

    name: str
    fields: Sequence[str]
    texts: Values
    first: Found
    others: Sequence[Found]


class _LeftOut(NamedTuple):
    """A file whose name is not safe, the reason, and what its fields would have."""

    at: str
    why: str
    of: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Content:
    """Rows of files; what is in none of them: files that are left out, and more files of one name."""

    left_out: Sequence[_LeftOut]
    rows: list[FoundRow]
    twice: Sequence[_Twice]
    files: Sequence[str]
    fields: Sequence[str]
    template: Pattern
    has_details: bool

    @classmethod
    def of(cls, matches: Sequence[Matches], fields: Sequence[str], template: Pattern, *, details: bool) -> Content:
        """Join what patterns matched; the matches are used up."""
        left_out = [
            _LeftOut(at, why, dict(zip(match.pattern.fields, texts, strict=True)))
            for match in matches
            for at, (why, texts) in match.left_out.items()
        ]
        twice = [
            _Twice(match.name, match.pattern.fields, values, match.cells[values], list(others.values()))
            for match in matches
            for values, others in match.twice.items()
        ]
        rows = _file_rows.joined(matches, fields)
        return cls(left_out, rows, twice, [match.name for match in matches], fields, template, details)

    def having(self, rows: list[FoundRow], left_out: Sequence[_LeftOut]) -> Content:
        """Return some of the rows, with what goes with them."""
        places, twice = self.places(), self.twice
        if twice:
            kinds = {tuple(each.fields) for each in twice}
            there = {(names, tuple(row.texts[places[name]] for name in names)) for names in kinds for row in rows}
            twice = [each for each in twice if (tuple(each.fields), each.texts) in there]
        of_all = (self.files, self.fields, self.template, self.has_details)
        return Content(left_out, rows, twice, *of_all)

    def values_by(self, field: str | None) -> dict[tuple[str, ...], dict[Values, set[str | None]]]:
        """Which values of a field rows have, by the fields of patterns with two files of a name, and their values."""
        places = self.places()
        found: dict[tuple[str, ...], dict[Values, set[str | None]]] = {}
        for names in {tuple(twice.fields) for twice in self.twice}:
            by = found[names] = {}
            for row in self.rows:
                value = None if field is None else row.texts[places[field]]
                if field is None or value is not None:
                    by.setdefault(tuple(row.texts[places[name]] for name in names), set()).add(value)
        return found

    def frame(self, rows: list[FoundRow]) -> pd.DataFrame:
        """Return the frame of the rows, which are used up.

        Raises:
            InvalidDatasetError: as `FoundFiles.frame` does.
        """
        self.check_twice()
        return _frame_of(rows, self.ids(), self.files, self.fields, details=self.has_details)

    def check_twice(self) -> None:
        """Refuse two files for one cell.

        Raises:
            InvalidDatasetError: showing both.
        """
        if not self.twice:
            return

        def places(twice: _Twice) -> list[str]:
            return sorted(str(each.at) for each in (twice.first, *twice.others))

        first = min(self.twice, key=places)
        row = ", ".join(f"{name} {value!r}" for name, value in zip(first.fields, first.texts, strict=True))
        both = " and ".join(map(repr, places(first)[:2]))
        like = sum(each.name == first.name for each in self.twice)
        raise InvalidDatasetError(
            f"{first.name!r} has two files for {row or 'every row'}: {both} (rows like this: {like}); write a field "
            "such as {part} where they differ, or a narrower pattern"
        )

    def places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.fields)}

    def id_texts(self) -> Iterator[str | None]:
        """Yield the id of each row; None where it lacks a field that ids are made of."""
        places = self.places()
        if len(self.template.tokens) == 1:  # a field alone, as most are
            place = places[self.template.fields[0]]
            yield from (row.texts[place] for row in self.rows)
            return
        own = [(name, places[name]) for name in self.template.fields]
        for row in self.rows:
            values = {name: row.texts[place] for name, place in own}
            is_whole = None not in values.values()
            yield _patterns.filled(self.template, {n: str(v) for n, v in values.items()}) if is_whole else None

    def ids(self) -> list[str]:
        """Return the id of each row.

        Raises:
            InvalidDatasetError: one has none, one that cannot be an id, or that of another.
        """
        ids: list[str] = []
        for row, text in zip(self.rows, self.id_texts(), strict=True):
            if text is None:
                raise InvalidDatasetError(self.why_no_id(row))
            ids.append(text)
        if len(set(ids)) < len(ids):
            self.refuse_same(ids)
        try:
            _ids.texts_of(ids)
        except InvalidDatasetError:
            for row, text in zip(self.rows, ids, strict=True):
                if fault := _id_fault(text):
                    raise InvalidDatasetError(f"{_example(row)}: {fault}") from None
            raise
        return ids

    def why_no_id(self, row: FoundRow) -> str:
        places = self.places()
        name = next(name for name in self.template.fields if row.texts[places[name]] is None)
        file, at = next((file, each.at) for file, each in zip(self.files, row.files, strict=True) if each)
        return (
            f"{str(at)!r} has no row: no file of the other patterns goes with it, and its own pattern has no "
            f"{{{name}}}, which ids are made of. Write {{{name}}} in the pattern of {file!r}, or list it by itself"
        )

    def refuse_same(self, ids: Sequence[str]) -> None:
        met: dict[str, FoundRow] = {}
        named = "-".join(f"{{{name}}}" for name in self.fields)
        for row, text in zip(self.rows, ids, strict=True):
            if text in met:
                raise InvalidDatasetError(
                    f"the id {text!r} is of two rows, {_example(met[text])} and {_example(row)}: "
                    f"make ids of more fields, such as id={named!r}"
                )
            met[text] = row


class FoundFiles:
    """What the patterns of `find_files` match; `len` is how many rows there are.

    Example:
        >>> found = find_files({"scan.txt": "s3://my-bucket/{id}.txt"})
        >>> len(found), found.left_out
        (1, {})
        >>> found.with_legal_ids().frame()["id"].tolist()
        ['scan']
    """

    def __init__(self, content: Content) -> None:
        self._content = content

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._content.rows)

    def __repr__(self) -> str:
        """Return how many rows there are, and how many files are left out."""
        return f"<FoundFiles of {len(self):,} rows, {len(self._content.left_out):,} files left out>"

    @property
    def left_out(self) -> dict[str, str]:
        """Files whose names are not safe: locations and reasons."""
        return {each.at: each.why for each in self._content.left_out}

    def etags(self, field: str | None = None) -> dict[str | None, dict[str, str]]:
        """Return the ETags of all files by location, by the value of a field; without one all of them by None.

        What has no ETag has its size, and when it was modified, in ns; of a directory that of its newest file. A file
        whose row has no value of the field is not among them, and one that many rows have can have many values.
        """
        found: dict[str | None, dict[str, str]] = {}
        place = None if field is None else self._content.fields.index(field)
        for row in self._content.rows:
            value = None if place is None else row.texts[place]
            if place is None or value is not None:
                of_value = found.setdefault(value, {})
                for each in row.files:
                    if each is not None:
                        of_value[str(each.at)] = _tag(each)
        in_row = self._content.values_by(field) if self._content.twice else {}
        for twice in self._content.twice:
            for value in in_row[tuple(twice.fields)].get(twice.texts, ()):
                found.setdefault(value, {}).update((str(each.at), _tag(each)) for each in twice.others)
        return found

    def by(self, field: str) -> dict[str, FoundFiles]:
        """Return the rows of each value of a field; rows without one are not among them.

        What is left out goes where its value is, and to all of them where its pattern lacks the field.
        """
        place = self._content.fields.index(field)
        left_out = self._content.left_out
        rows: dict[str, list[FoundRow]] = {value: [] for each in left_out if (value := each.of.get(field)) is not None}
        for row in self._content.rows:
            if (value := row.texts[place]) is not None:
                rows.setdefault(value, []).append(row)
        found = {}
        for value, its in rows.items():
            its_left_out = [each for each in left_out if each.of.get(field, value) == value]
            found[value] = FoundFiles(self._content.having(its, its_left_out))
        return found

    def none(self) -> FoundFiles:
        """Return what has no row, and the same columns."""
        return FoundFiles(self._content.having([], []))

    def with_legal_ids(self) -> FoundFiles:
        """Return what is left without the rows whose id is not safe; `left_out` has their files."""
        texts = list(self._content.id_texts())
        with contextlib.suppress(InvalidDatasetError):
            _ids.texts_of([text for text in texts if text is not None])
            return self
        rows, left_out = [], list(self._content.left_out)
        for row, text in zip(self._content.rows, texts, strict=True):
            if text is None or not (fault := _id_fault(text)):
                rows.append(row)
                continue
            of = dict(zip(self._content.fields, row.texts, strict=True))
            left_out += [_LeftOut(str(each.at), f"{fault}; {_RENAME}", of) for each in row.files if each is not None]
        return FoundFiles(self._content.having(rows, left_out))

    def frame(self) -> pd.DataFrame:
        """Return the frame, as `list_files` does; what is in `left_out` is not in it.

        Raises:
            InvalidDatasetError: a row has two files of one name, two rows have one id, or a value cannot be an id.
        """
        return self._content.frame(list(self._content.rows))

    def raise_if_left_out(self) -> None:
        """Refuse names that are not safe.

        Raises:
            InvalidDatasetError: naming them.
        """
        if not self._content.left_out:
            return
        named = "; ".join(f"{at!r}: {why}" for at, why in sorted(self.left_out.items())[:_SHOWN])
        more = f" ({len(self._content.left_out):,} files are refused in all)" if len(self._content.left_out) > 1 else ""
        raise InvalidDatasetError(named + more)


def _example(row: FoundRow) -> str:
    return next(repr(str(each.at)) for each in row.files if each is not None)


def _id_fault(text: str) -> str | None:
    try:
        _urls.check_id(text)
    except InvalidDatasetError as exc:
        return str(exc)
    return None


def _frame_of(
    rows: list[FoundRow], ids: Sequence[str], names: Sequence[str], fields: Sequence[str], *, details: bool
) -> pd.DataFrame:
    """Return the frame; the rows are used up: those of 100,000 files take 35 MB, in which the columns are made."""
    import pandas as pd

    files = {name: [row.files[at] for row in rows] for at, name in enumerate(names)}
    texts: dict[str, Sequence[Any]] = {
        name: [None if each is None else str(each.at) for each in found] for name, found in files.items()
    }
    texts[_frame.ID] = ids
    for place, name in enumerate(fields):
        if name != _frame.ID:
            texts[name] = [row.texts[place] for row in rows]
    more = {
        f"{name}.{detail}": column
        for name, found in files.items()
        for detail, column in (zip(_frame.DETAILS, _details(found), strict=True) if details else ())
    }
    rows.clear()
    files.clear()
    return pd.DataFrame({name: pd.Series(values, dtype=_frame.TEXT) for name, values in texts.items()} | more)


def _details(found: Sequence[Found | None]) -> tuple[pd.Series[Any], pd.Series[Any], pd.Series[Any]]:
    import pandas as pd

    sizes = pd.Series([None if each is None else each.size_bytes for each in found], dtype="Int64")
    etags = pd.Series([None if each is None else _etag(each) for each in found], dtype=_frame.TEXT)
    times = pd.Series([None if each is None else each.modified for each in found], dtype="Int64")
    return sizes, etags, pd.to_datetime(times, unit="ns", utc=True)


def _etag(found: Found) -> str | None:
    """Return the ETag that `PipelineResult.inputs` has of a file: of a local one, when it was modified."""
    if isinstance(found, FoundDirectory):
        return None
    return found.etag if isinstance(found.at, ObjectUrl) else str(found.modified)


def _tag(found: Found) -> str:
    etag = _etag(found)
    return f"{found.size_bytes} {found.modified}" if etag is None else etag
