"""What the docstring of a function says of each argument: the docs of a component's attributes, written once."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_AS_THERE = re.compile(r"^as `[\w.]+` takes it")
# `name (type): text`, in the indent of the section's first argument
_ARGUMENT = re.compile(r"(\w+)(?: \([^:]*\))?: *(.*)")


def argument_docs(function: Callable[..., object], there: Callable[..., object] | None = None) -> dict[str, str]:
    """The text of each argument, in one line each; none where docstrings are stripped (`python -OO`).

    Args:
        function: whose arguments.
        there: the function whose own words take the place of "as `...` takes it".
    """
    lines = (inspect.getdoc(function) or "").splitlines()
    if "Args:" not in lines:
        return {}
    docs: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if (found := _ARGUMENT.fullmatch(line.strip())) and line.startswith("    ") and line[4:5].strip():
            name, docs[found[1]] = found[1], found[2]
        elif name and line.strip():
            docs[name] = f"{docs[name]} {line.strip()}".strip()
    if there is None:
        return docs
    whole = argument_docs(there)
    for name, text in docs.items():
        if name in whole and (found := _AS_THERE.match(text)):
            docs[name] = f"{whole[name].rstrip('.')}{text[found.end() :]}"
    return docs
