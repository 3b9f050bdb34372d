"""Patterns of keys and paths, such as `raw/{site}/{id}/*.mha`: how they are read, and what they read out of a key.

Nothing is listed here. A key is text: never unquoted, never normalised, and no name is hidden by a dot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_PIECE = re.compile(
    r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<deep>(?<![^/])\*\*(?:/|\Z))|(?P<stars>\*+)|(?P<odd>[{}])|[^{}*]+"
)
_SYNTAX = (
    "a field is a name in braces, such as {id}; * stands for anything within a segment and ** for none or more "
    "segments; braces in a key are written {{ and }}, and a star in a key has no other spelling than *"
)


@dataclass(frozen=True, slots=True)
class Field:
    """One segment or a part of one, never empty; the same text wherever the pattern names it."""

    name: str


@dataclass(frozen=True, slots=True)
class Wild:
    """`*` (`expression` has no slash), `**/`, or `**` at the end."""

    expression: str


STAR = Wild("[^/]*?")
DEEP = Wild("(?:[^/]*/)*?")
TAIL = Wild("(?:[^/]*/)*?[^/]+")  # the last segment is a file's name: no marker of a directory, `dir/`

Symbol: TypeAlias = "str | Field | Wild"


@dataclass(frozen=True)
class Pattern:
    """A pattern of the keys of one bucket, or of absolute paths."""

    tokens: tuple[Symbol, ...]

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, in their order."""
        return tuple(dict.fromkeys(token.name for token in self.tokens if isinstance(token, Field)))

    @cached_property
    def prefix(self) -> str:
        """What every key begins with that it can match: its text up to the first field or star."""
        first = self.tokens[0] if self.tokens else ""
        return first if isinstance(first, str) else ""

    @cached_property
    def is_literal(self) -> bool:
        """Whether it is one key."""
        return all(isinstance(token, str) for token in self.tokens)

    @cached_property
    def is_of_directories(self) -> bool:
        """Whether it matches directories: what keys begin with, up to and with a slash."""
        last = self.tokens[-1] if self.tokens else ""
        return last == DEEP or (isinstance(last, str) and last.endswith("/"))

    def directories_of(self, key: str) -> Iterator[str]:
        """Yield what a key begins with that may match, from the shortest on."""
        slashes = 0
        end = key.find("/") + 1
        while end:
            slashes += 1
            if self.is_deep or slashes == self._slashes:
                yield key[:end]
            if slashes == self._slashes and not self.is_deep:
                return
            end = key.find("/", end) + 1

    @cached_property
    def is_deep(self) -> bool:
        """Whether any number of directories may lie in between."""
        return any(token in (DEEP, TAIL) for token in self.tokens)

    @cached_property
    def is_firm(self) -> bool:
        """Whether no key can be read in two ways. `{id}*` can: where does the id end?"""
        if sum(token in (DEEP, TAIL) for token in self.tokens) > 1:
            return not self.fields
        seen: set[str] = set()
        for segment in _segments(self.tokens):
            names = {token.name for token in segment if isinstance(token, Field)} - seen
            if names and len(names) + segment.count(STAR) > 1:
                return False
            seen |= names
        return True

    @cached_property
    def side_by_side(self) -> list[tuple[str, str]]:
        """The fields with nothing between them, of which the pattern alone does not say where the first one ends."""
        names = [token.name for token in self.tokens if isinstance(token, Field)]
        return [
            (one.name, other.name)
            for one, other in pairwise(self.tokens)
            if isinstance(one, Field)
            and isinstance(other, Field)
            and names.count(one.name) == names.count(other.name) == 1
        ]

    def read(self, key: str) -> tuple[str, ...] | None:
        """Return the values of the fields in a key, None where it does not match.

        A field takes as much as it can, the first one first; stars take what is left.
        """
        found = self._expression.fullmatch(key)
        return None if found is None else found.groups()

    def readings(self, key: str) -> Iterator[tuple[str, ...]]:
        """Yield every way to read a key, that of `read` first, the same one perhaps more than once.

        In the others no field ends within a number where a star or another field goes on: `p10` is not `p1` and `0`.
        """
        first = self.read(key)
        if first is not None:
            yield first
            yield from _readings(self.tokens, key, 0, {})

    def may_lie_below(self, directory: str, *, is_link: bool) -> bool:
        """Return whether a directory can hold what matches; a link is not followed where `**` could go round."""
        inside = f"{directory.rstrip('/')}/"
        if self.prefix.startswith(inside):
            return True
        if not inside.startswith(self.prefix) or (is_link and self.is_deep):
            return False
        return self.is_deep or inside.count("/") <= self._slashes

    @cached_property
    def _slashes(self) -> int:
        return sum(token.count("/") for token in self.tokens if isinstance(token, str))

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts, seen = [], set()
        for token in self.tokens:
            if isinstance(token, str):
                parts.append(re.escape(token))
            elif isinstance(token, Wild):
                parts.append(token.expression)
            else:
                parts.append(f"(?P={token.name})" if token.name in seen else f"(?P<{token.name}>[^/]+)")
                seen.add(token.name)
        return re.compile("".join(parts))


def parsed(text: str, what: str, *, within: str = "") -> Pattern:
    """Return the pattern that a text is.

    Args:
        text: as the user wrote it, without the bucket.
        what: shows it in messages.
        within: text to put before it, in which braces and stars are themselves.

    Raises:
        InvalidDatasetError: braces that hold no name or do not match, or `**` beside other text.
    """
    tokens: list[Symbol] = [within] if within else []
    for piece in _PIECE.finditer(text):
        if piece["field"] is not None:
            tokens.append(_field(piece["field"], what))
        elif piece["deep"]:
            tokens.append(DEEP if piece["deep"].endswith("/") else TAIL)
        elif piece["stars"]:
            if len(piece["stars"]) > 1:
                raise InvalidDatasetError(f"{what}: ** stands for whole segments, as in a/**/b; {_SYNTAX}")
            tokens.append(STAR)
        elif piece["odd"]:
            where = f"before {after!r}" if (after := text[piece.end() :]) else "at the end"
            raise InvalidDatasetError(f"{what}: the brace {where} has no other; {_SYNTAX}")
        else:
            tokens.append(piece[0][0] if piece["brace"] else piece[0])
    return Pattern(tuple(_joined(tokens)))


def filled(template: Pattern, values: Mapping[str, str]) -> str:
    """Return the text of a pattern without stars, with values for its fields."""
    return "".join(values[token.name] if isinstance(token, Field) else str(token) for token in template.tokens)


def _field(name: str, what: str) -> Field:
    if not name.isidentifier():
        raise InvalidDatasetError(f"{what}: {{{name}}} is no name; {_SYNTAX}")
    return Field(name)


def _joined(tokens: Sequence[Symbol]) -> Iterator[Symbol]:
    """Yield the tokens, texts that follow each other as one."""
    text = ""
    for token in tokens:
        if isinstance(token, str):
            text += token
            continue
        if text:
            yield text
            text = ""
        yield token
    if text:
        yield text


def _segments(tokens: Sequence[Symbol]) -> Iterator[list[Symbol]]:
    """Yield the tokens of each segment, in order."""
    segment: list[Symbol] = []
    for token in tokens:
        if isinstance(token, str):
            for _ in range(token.count("/")):
                yield segment
                segment = []
        elif token in (DEEP, TAIL):
            yield segment
            segment = []
        else:
            segment.append(token)
    yield segment


def _readings(
    tokens: Sequence[Symbol], key: str, at: int, bound: Mapping[str, str], *, is_open: bool = False
) -> Iterator[tuple[str, ...]]:
    """Yield the ways to read `key[at:]`; `is_open`: the symbol before could have ended elsewhere."""
    if not tokens:
        if at == len(key):
            yield tuple(bound.values())
        return
    token, rest = tokens[0], tokens[1:]
    if isinstance(token, Field):
        token = bound.get(token.name, token)
    goes_on = bool(rest) and not isinstance(rest[0], str)
    for stop in _stops(token, key, at):
        if isinstance(token, Field):
            if (is_open and _cuts_a_number(key, at)) or (goes_on and _cuts_a_number(key, stop)):
                continue
            yield from _readings(rest, key, stop, {**bound, token.name: key[at:stop]}, is_open=True)
        else:
            yield from _readings(rest, key, stop, bound, is_open=token == STAR)


def _stops(token: Symbol, key: str, at: int) -> Iterable[int]:
    """Return where a symbol that begins at `at` can end, what `Pattern.read` would take first."""
    if isinstance(token, str):
        return [at + len(token)] if key.startswith(token, at) else []
    if token == TAIL:
        return [len(key)] if at < len(key) and not key.endswith("/") else []
    if token == DEEP:
        return [at, *(place + 1 for place in range(at, len(key)) if key[place] == "/")]
    end = slash if (slash := key.find("/", at)) >= 0 else len(key)
    return range(end, at, -1) if isinstance(token, Field) else range(at, end + 1)


def _cuts_a_number(key: str, at: int) -> bool:
    return 0 < at < len(key) and key[at - 1].isdigit() and key[at].isdigit()
