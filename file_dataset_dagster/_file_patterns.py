"""Patterns of `list_files` as text: which fields they have, and what they are for one partition. Pure: no I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# as `list_files` reads them: {{ and }} are braces, {name} is a field
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def fields_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the fields, in their order."""
    return tuple(dict.fromkeys(found[1] for text in texts for found in _PIECE.finditer(text) if found[1] is not None))


def narrowed(
    patterns: Mapping[str, str], id_: str | None, field: str, value: str
) -> tuple[dict[str, str], str | None] | None:
    """Return patterns and `id` that match what has this value of a field and nothing else, so that less is listed.

    None: there are none, or not surely: then list all, and take the rows of the value.
    """
    if not value or value in {".", ".."} or "/" in value or "*" in value:
        return None  # a star and a slash would mean something else in a pattern
    if not all(_stands_alone(text, field) for text in patterns.values()):
        return None
    template = id_ if id_ is None else _filled(id_, field, value)
    texts = {name: _filled(text, field, value) for name, text in patterns.items()}
    left = fields_of(texts.values())
    needed = ("id",) if template is None else fields_of([template])
    return (texts, template) if left and needed and set(needed) <= set(left) else None


def _stands_alone(text: str, field: str) -> bool:
    """Whether the pattern has the field, and no key can be read with another value of it."""
    if "**" in text or field not in fields_of([text]):
        return False
    return all(
        "*" not in segment and set(fields_of([segment])) == {field}
        for segment in text.split("/")
        if field in fields_of([segment])
    )


def _filled(text: str, field: str, value: str) -> str:
    braced = value.replace("{", "{{").replace("}", "}}")
    return _PIECE.sub(lambda found: braced if found[1] == field else found[0], text)
