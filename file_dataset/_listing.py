"""`list_files`: what lies in a bucket or below a directory, as a frame.

Only what begins with the literal text of a pattern is listed, and once for all patterns that begin with it. Where
slashes divide a long listing, parts of it are listed side by side.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from operator import le
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from file_dataset import _frame, _options, _patterns, _plan, _urls
from file_dataset._errors import Failure, InvalidDatasetError, RowError, store_error
from file_dataset._file_rows import Matches
from file_dataset._found_files import Content, FoundFiles
from file_dataset._silence import awaited
from file_dataset._store import ALL, FLAT, Span
from file_dataset._stores import Stores
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    import pandas as pd

    from file_dataset._options import Options
    from file_dataset._patterns import Pattern
    from file_dataset._store import Listed, Page

_POLL_S = 0.1  # how late Ctrl-C is heard where it does not interrupt a wait; a guess
_PAGE_KEYS = 1000
# One flat page is worth its request when it divides at least ten pages of keys, and sixteen listings side by side end
# in a sixteenth of the time. Guesses.
_LEAST_PER_DIRECTORY = 10
_MOST_PIECES = 16
_DIRECTORY_BUCKET = (
    "--x-s3"  # lists in no order (https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-differences.html)
)

_EXAMPLE = "{'image.mha': 's3://bucket/raw/{id}/image.mha'}"


@dataclass(eq=False, slots=True)
class _Place:
    """What one listing begins with: a prefix of a bucket, or a directory; and the patterns that it is listed for."""

    at: ObjectUrl | Path
    matches: list[Matches]
    count: int = 0  # what has been listed
    example: str | None = None

    def take(self, found: Iterable[Listed]) -> None:
        for each in found:
            key = each.at.key if isinstance(each.at, ObjectUrl) else str(each.at)
            self.count += 1
            if self.example is None or key < self.example:
                self.example = key
            for match in self.matches:
                match.take(key, each)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Keys of one prefix that are listed page after page: those after `after` and before `until`."""

    place: _Place
    prefix: ObjectUrl
    after: str = ""
    until: str | None = None
    may_divide: bool = True


Then: TypeAlias = "Callable[[Page], object]"


class _Lister:
    """Requests under way; what is done with their answers is done in the calling thread."""

    def __init__(self, stores: Stores, *, details: bool) -> None:
        self._stores, self._cancelled, self._details = stores, threading.Event(), details
        self._running: dict[Future[Page], tuple[_Place, ObjectUrl | Path, Then]] = {}
        self._ended: SimpleQueue[Future[Page]] = SimpleQueue()

    def run(self, places: Sequence[_Place]) -> None:
        """List them all.

        Raises:
            RowError: one cannot be listed.
        """
        try:
            for place in places:
                if isinstance(place.at, Path):
                    self._walk(place, place.at)
                else:
                    is_one = all(
                        match.pattern.is_literal and not match.pattern.is_of_directories for match in place.matches
                    )
                    until = f"{place.at.key}\0" if is_one else None  # that key, which comes before all that go on
                    self._list(_Piece(place, place.at, until=until, may_divide=not is_one and not self._counts(place)))
            while self._running:
                self._next()
        except BaseException:
            self._cancelled.set()
            for future in self._running:
                future.cancel()
            raise

    def _counts(self, place: _Place) -> bool:
        """Return whether each key is to come once: sizes of directories add up, and pieces may have a key in common."""
        return self._details and any(match.pattern.is_of_directories for match in place.matches)

    def _ask(self, place: _Place, at: ObjectUrl | Path, then: Then, span: Span, token: str | None = None) -> None:
        try:
            future = self._stores.of(at).page(at, span, token=token, cancelled=self._cancelled)
        except OSError as exc:  # the store could not be reached at all: no credentials, say
            raise _unlisted(place, at, exc) from exc
        self._running[future] = place, at, then
        future.add_done_callback(self._ended.put)

    def _next(self) -> None:
        future = self._wait()
        place, at, then = self._running.pop(future)
        try:
            page = future.result()
            then(page)
        except OSError as exc:
            raise _unlisted(place, at, exc) from exc

    def _wait(self) -> Future[Page]:
        if not self._ended.empty():
            return self._ended.get()
        _, first, _ = next(iter(self._running.values()))
        watch = self._stores.of(first).silence
        with watch.waits():
            while True:
                try:
                    return self._ended.get(timeout=_POLL_S)
                except Empty:
                    watch.look(lambda: awaited([str(at) for _, at, _ in self._running.values()]))

    def _walk(self, place: _Place, directory: Path) -> None:
        def then(page: Page) -> None:
            place.take(page.found)
            for path in page.below:
                is_link = os.path.islink(path)  # noqa: PTH114  # text costs less than a Path
                if any(match.may_lie_below(path, is_link=is_link) for match in place.matches):
                    self._walk(place, Path(path))

        self._ask(place, directory, then, FLAT)

    def _list(self, piece: _Piece, token: str | None = None, before: frozenset[str] = frozenset()) -> None:
        def then(page: Page) -> None:
            found = [each for each in page.found if piece.until is None or _key(each) < piece.until]
            piece.place.take(found)
            if page.token is None or len(found) < len(page.found):
                return
            if page.token in before:
                raise store_error(OSError, f"the store's list of {piece.prefix} has no end: it begins a page again")
            if token is None and piece.may_divide and _divides(piece.prefix, keys := [_key(each) for each in found]):
                self._ask(
                    piece.place,
                    piece.prefix,
                    lambda flat: self._divide(piece, keys, str(page.token), flat),
                    Span(keys[-1], is_flat=True),
                )
            else:
                self._list(piece, page.token, before | {page.token})

        span = Span(piece.after) if token is None else ALL  # a token says where it goes on
        self._ask(piece.place, piece.prefix, then, span, token)

    def _divide(self, piece: _Piece, keys: Sequence[str], token: str, flat: Page) -> None:
        """List what comes after these keys in pieces, side by side, if there is much; `flat` begins after them."""
        pieces = _pieces(piece, keys, flat)
        if not pieces:
            self._list(piece, token, frozenset({token}))
            return
        piece.place.take(flat.found)
        for each in pieces:
            self._list(each)


def _key(found: Listed) -> str:
    assert isinstance(found.at, ObjectUrl)  # noqa: S101  # of a bucket
    return found.at.key


def _unlisted(place: _Place, at: ObjectUrl | Path, error: OSError) -> RowError:
    name = ", ".join(match.name for match in place.matches)
    failure = Failure.of(None, "download", error, file=name, url=at)
    return RowError([failure], f"{str(at)!r} could not be listed: {failure}")


def _heads(prefix: str, keys: Sequence[str]) -> int:
    """Return how many keys and directories there are right below the prefix."""
    return len({key[: key.find("/", len(prefix)) + 1] or key for key in keys})


def _divides(prefix: ObjectUrl, keys: Sequence[str]) -> bool:
    """Return whether it pays to ask for the directories below a prefix, judged by the first page of its keys."""
    is_ordered = not prefix.bucket.endswith(_DIRECTORY_BUCKET) and all(map(le, keys, keys[1:]))
    return bool(keys) and is_ordered and _heads(prefix.key, keys) * _LEAST_PER_DIRECTORY <= len(keys)


def _pieces(piece: _Piece, keys: Sequence[str], flat: Page) -> list[_Piece]:
    """Return the pieces in which to list what comes after `keys`; none: it is not worth it.

    A key right below the prefix is in no piece when `flat` has it.
    """
    prefix, last = piece.prefix, keys[-1]
    bounds = [each for each in flat.below if each > last and not last.startswith(each)]
    heads = _heads(prefix.key, keys)
    current = last[: last.find("/", len(prefix.key)) + 1]  # the directory that the page ends in
    pages = len(bounds) * len(keys) / heads / _PAGE_KEYS
    if heads == 1 and current:  # which is larger than a page, and so may others be
        pages = math.inf
    is_whole = flat.token is None
    if (not bounds and not is_whole) or (pages < 2 and is_whole):  # noqa: PLR2004  # side by side
        return []
    count = max(1, min(_MOST_PIECES, len(bounds), math.ceil(min(pages, _MOST_PIECES))))
    groups = [bounds[number * len(bounds) // count : (number + 1) * len(bounds) // count] for number in range(count)]
    groups = [group for group in groups if group]
    pieces = [_Piece(piece.place, ObjectUrl(prefix.bucket, current), after=last)] if current else []
    for group, following in zip_longest(groups, groups[1:]):
        if len(group) == 1 and (following or is_whole):
            pieces.append(_Piece(piece.place, ObjectUrl(prefix.bucket, group[0])))
        else:
            until = following[0] if following else None
            pieces.append(_Piece(piece.place, prefix, after=group[0], until=until, may_divide=False))
    return pieces


def list_files(
    patterns: Mapping[str, str | os.PathLike[str]],
    *,
    id: str | None = None,  # noqa: A002  # the column's name
    details: bool = False,
    allow_empty: bool = False,
    options: Options | None = None,
) -> pd.DataFrame:
    """Return a frame of the files that are in a bucket or below a directory, a row for each case.

    A pattern is an `s3://` URL or a path in which `{name}` stands for a segment or a part of one, `*` for anything
    within a segment and `**` for any number of segments; braces are written `{{` and `}}`. The values of the fields are
    the rows; patterns are joined by the fields they share. Where a key can be read in several ways, as by
    `{id}*.mha`, a field ends where the other patterns have its value, and never within a number; else it takes as much
    as it can.

    Costs a LIST per 1,000 keys that begin with the text before the first field or star, and a few more where long
    listings are divided at slashes to go side by side. Nothing is cached.

    Args:
        patterns: by file name. A name that begins with a dot is like any other. A pattern that ends in `/` matches
            directories, those with at least one file at any depth; a key that ends in `/` is a marker, and no file.
        id: what the ids are made of, such as "{site}-{patient}"; None: the field `id`.
        details: adds `<file>.size_bytes`, `<file>.etag` and `<file>.last_modified`.
        allow_empty: a pattern that matches nothing is no error.
        options: how S3 is reached; None: by boto3's default session.

    Returns:
        Text columns: one per file with its location (local ones absolute), null where a row has no such file; `id`; the
        other fields. With `details` sizes (`Int64`, bytes), ETags (text; of a local file its modification time in ns)
        and times (UTC); of a directory the sum, null, and the time of the newest file. Then such a listing is not
        divided. Rows are in the order of the first pattern's keys, by their bytes.

    Raises:
        InvalidDatasetError: a pattern is not understood or matches nothing, nothing says where a field ends, a row has
            two files of one name, two rows have one id, or a field's value cannot be an id.
        RowError: something could not be listed.

    Example:
        >>> for name in ("north/1.txt", "south/2.txt"):
        ...     Path("notes", name).parent.mkdir(parents=True)
        ...     Path("notes", name).write_text("hello")
        5
        5
        >>> frame = list_files({"note.txt": "notes/{site}/{id}.txt"})
        >>> frame[["id", "site"]].to_dict("list")
        {'id': ['1', '2'], 'site': ['north', 'south']}
        >>> list_files({"scan.txt": "s3://my-bucket/{id}.txt"}, details=True)["scan.txt.size_bytes"].tolist()
        [5]
    """
    content, nothing = _found(patterns, id, options, details=details)
    FoundFiles(content).raise_if_left_out()
    if nothing and not allow_empty:
        raise InvalidDatasetError(f"{nothing}. If that may be so, pass allow_empty=True")
    return content.frame(content.rows)


def find_files(
    patterns: Mapping[str, str | os.PathLike[str]],
    *,
    id: str | None = None,  # noqa: A002  # the column's name
    details: bool = False,
    options: Options | None = None,
) -> FoundFiles:
    """Return what `list_files` makes a frame of, where files whose names are not safe are left out and named.

    For programs that go on where a person would rename an object: one upload of an odd name then costs that file.

    Args:
        patterns: as `list_files` takes them; here none needs to match.
        id: as `list_files` takes it.
        details: as `list_files` takes it.
        options: how S3 is reached; None: by boto3's default session.

    Raises:
        InvalidDatasetError: a pattern is not understood.
        RowError: something could not be listed.

    Example:
        >>> found = find_files({"scan.txt": "s3://my-bucket/{id}.txt"}, details=True)
        >>> found.left_out
        {}
        >>> found.frame()["scan.txt.size_bytes"].tolist()
        [5]
    """
    return FoundFiles(_found(patterns, id, options, details=details)[0])


def _found(
    patterns: Mapping[str, str | os.PathLike[str]], id_: object, options: Options | None, *, details: bool
) -> tuple[Content, str]:
    """Return what there is, and which patterns match nothing, in a sentence."""
    _options.check(options)
    matches, places = _parsed(patterns, local_paths=_options.takes_local_paths(options))
    fields = tuple(dict.fromkeys(name for match in matches for name in match.pattern.fields))
    _check_fields(matches, fields)
    _check_ends(matches)
    template = _template(id_, fields)
    _check_columns(matches, fields, details=details)
    _Lister(Stores(options), details=details).run(places)
    for match in matches:
        if match.open_files:
            match.settle([other for other in matches if other.pattern.is_firm])
    nothing = _without_a_match(matches, places, patterns)
    return Content.of(matches, fields, template, details=details), nothing


def _parsed(patterns: object, *, local_paths: bool) -> tuple[list[Matches], list[_Place]]:
    """Return the patterns, and what is to be listed for them.

    Raises:
        InvalidDatasetError: there is none, or one is not understood.
    """
    if not isinstance(patterns, Mapping) or not patterns:
        raise InvalidDatasetError(f"patterns={patterns!r}: give a mapping of file name to pattern, such as {_EXAMPLE}")
    _plan.check_file_names(list(patterns), local=False)
    matches: list[Matches] = []
    begins: list[tuple[Matches, ObjectUrl | Path]] = []
    for name, value in patterns.items():
        what = f"patterns[{name!r}]"
        end = "/" if isinstance(value, str) and value.endswith("/") else ""
        at = _urls.parse_prefix(value, local_paths=local_paths, what=what)
        if isinstance(at, ObjectUrl):
            if not at.key:
                raise InvalidDatasetError(f"{what}={value!r} names a bucket: give s3://bucket/ and a pattern of keys")
            match = Matches(name, _patterns.parsed(at.key + end, f"{what}={str(value)!r}"))
            begins.append((match, ObjectUrl(at.bucket, match.pattern.prefix)))
        else:
            within = "" if at.is_absolute() else f"{str(Path.cwd()).rstrip('/')}/"
            match = Matches(name, _patterns.parsed(str(at) + end, f"{what}={str(value)!r}", within=within))
            begins.append((match, Path(match.pattern.prefix.rpartition("/")[0] or "/")))
        matches.append(match)
    return matches, _places(begins)


def _places(begins: Iterable[tuple[Matches, ObjectUrl | Path]]) -> list[_Place]:
    """Return what is to be listed: what begins with another one's text is in that one's listing."""
    places: list[_Place] = []
    for match, at in sorted(begins, key=lambda begin: str(begin[1])):
        for place in places:
            if _covers(place.at, at):
                place.matches.append(match)
                break
        else:
            places.append(_Place(at, [match]))
    return places


def _covers(place: ObjectUrl | Path, at: ObjectUrl | Path) -> bool:
    if isinstance(place, ObjectUrl) and isinstance(at, ObjectUrl):
        return place.bucket == at.bucket and at.key.startswith(place.key)
    return isinstance(place, Path) and isinstance(at, Path) and at.is_relative_to(place)


def _check_fields(matches: Sequence[Matches], fields: Sequence[str]) -> None:
    """Refuse patterns that have fields, and none in common with the others: every row would go with every other.

    Raises:
        InvalidDatasetError: naming two of them.
    """
    with_fields = [match for match in matches if match.pattern.fields]
    met = set(with_fields[0].pattern.fields) if with_fields else set()
    for _ in with_fields:
        for match in with_fields:
            if met & set(match.pattern.fields):
                met |= set(match.pattern.fields)
    apart = [match.name for match in with_fields if not met & set(match.pattern.fields)]
    if apart:
        raise InvalidDatasetError(
            f"the patterns of {apart} share no field with that of {with_fields[0].name!r} (fields {list(fields)}): "
            "write the same {name} in both, by which rows are joined"
        )


def _check_ends(matches: Sequence[Matches]) -> None:
    """Refuse `{year}{month}`, where nothing says how much of `202401` is the year.

    Raises:
        InvalidDatasetError: naming the fields.
    """
    for match in matches:
        known = {name for each in matches if each is not match and each.pattern.is_firm for name in each.pattern.fields}
        for one, other in match.pattern.side_by_side:
            if not {one, other} & known:
                raise InvalidDatasetError(
                    f"patterns[{match.name!r}]: nothing says where {{{one}}} ends in {{{one}}}{{{other}}}: write one "
                    f"field there and take it apart in the frame, or add a pattern that has {{{one}}} by itself"
                )


def _template(id_: object, fields: Sequence[str]) -> Pattern:
    """Return what ids are made of.

    Raises:
        InvalidDatasetError: it is no text of fields that there are.
    """
    shown = [f"{{{name}}}" for name in fields]
    if id_ is None:
        if _frame.ID in fields:
            return _patterns.Pattern((_patterns.Field(_frame.ID),))
        if not fields:
            raise InvalidDatasetError(f"no pattern has a field: write {{id}} where rows differ, as in {_EXAMPLE}")
        raise InvalidDatasetError(
            f"no field is named id: rename one, or say what ids are made of, id={'-'.join(shown)!r}"
        )
    if not isinstance(id_, str):
        raise InvalidDatasetError(f"id={id_!r}: give a text such as '{{site}}-{{patient}}'")
    template = _patterns.parsed(id_, f"id={id_!r}")
    if any(isinstance(token, _patterns.Wild) for token in template.tokens):
        raise InvalidDatasetError(f"id={id_!r}: a star has no value: give fields of the patterns, {', '.join(shown)}")
    missing = [name for name in template.fields if name not in fields]
    if missing or not template.fields:
        raise InvalidDatasetError(
            f"id={id_!r}: give fields of the patterns, which are {', '.join(shown) or 'without any'}"
        )
    return template


def _check_columns(matches: Sequence[Matches], fields: Sequence[str], *, details: bool) -> None:
    """Refuse columns of one name.

    Raises:
        InvalidDatasetError: naming them.
    """
    files = [match.name for match in matches]
    names = [*files, _frame.ID, *(name for name in fields if name != _frame.ID)]
    names += [f"{file}.{detail}" for file in files for detail in _frame.DETAILS] if details else []
    twice = sorted({name for name in names if names.count(name) > 1} | set(_frame.ERROR_COLUMNS).intersection(names))
    if twice:
        raise InvalidDatasetError(
            f"columns {twice} would be there twice, or have reserved names: give these files or fields other names"
        )


def _without_a_match(matches: Sequence[Matches], places: Sequence[_Place], patterns: Mapping[str, object]) -> str:
    """Return which patterns match nothing, and what is there instead; else no text."""
    reasons = []
    for match in matches:
        if len(match):
            continue
        (place,) = (place for place in places if match in place.matches)
        there = (
            "there is nothing" if place.example is None else f"there are {place.count} files, such as {place.example!r}"
        )
        what = "no directory with a file" if match.pattern.is_of_directories else "no file"
        begins = f"{place.at}" if isinstance(place.at, ObjectUrl) else f"{place.at}/"
        reasons.append(
            f"patterns[{match.name!r}]={str(patterns[match.name])!r} matches {what}: {there} below {begins!r}"
        )
    return "; ".join(reasons)
