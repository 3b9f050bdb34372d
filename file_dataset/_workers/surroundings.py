"""What fn would meet in its parent (directory, `sys.path`, log levels, warning filters): taken there, adopted here."""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import sys
import warnings
from typing import Any, NamedTuple, cast


class Surroundings(NamedTuple):
    """What fn would meet in its parent, as it is when a row is submitted."""

    cwd: str | None
    path: list[str]
    levels: dict[str | None, int]  # of loggers that have their own; None: the root
    disabled: int
    filters: list[tuple[str, Any, tuple[str, str], Any, int]]  # warnings', the category as module and name

    @classmethod
    def here(cls) -> Surroundings:
        """Return those of this process."""
        cwd = None
        with contextlib.suppress(OSError):  # it was removed
            cwd = os.getcwd()  # noqa: PTH109  # text, as chdir takes it
        root = logging.getLogger()
        own = [(name, logger) for name, logger in list(root.manager.loggerDict.items()) if getattr(logger, "level", 0)]
        return cls(
            cwd,
            [part for part in sys.path if isinstance(part, str)],
            {None: root.level} | {name: logger.level for name, logger in own if isinstance(logger, logging.Logger)},
            root.manager.disable,
            [
                (action, message, (category.__module__, category.__qualname__), module, line)
                # several categories in one filter are not what any function of `warnings` makes
                for action, message, category, module, line in list(warnings.filters)
                if isinstance(category, type)
            ],
        )


class Adopting:
    """Makes this process like the parent, as far as fn can tell."""

    def __init__(self, path: list[str], *, adopts_filters: bool) -> None:
        """Adopt nothing yet; `path` goes before the parent's `sys.path`."""
        self._path = path
        self._adopts_filters = adopts_filters
        self._home: str | None = None
        self._named: set[str | None] = set()

    def go_home(self) -> None:
        """Go back to the parent's working directory."""
        if self._home is not None:
            with contextlib.suppress(OSError):  # gone meanwhile, as it is for the parent
                os.chdir(self._home)

    def __call__(self, new: Surroundings) -> None:
        """Adopt them, all but the working directory: see `go_home`."""
        self._home = new.cwd
        sys.path[:] = self._path + new.path
        for name in self._named - set(new.levels):
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in new.levels.items():
            logging.getLogger(name).setLevel(level)
        self._named = set(new.levels)
        logging.disable(new.disabled)
        if not self._adopts_filters:
            return
        warnings.resetwarnings()
        warnings.filters[:] = [  # type: ignore[index]  # typed as a sequence; its documented use is this list
            (action, message, _category(*names), module, line) for action, message, names, module, line in new.filters
        ]


class _ByName(type):
    """The type of a warning category that need not be loaded: importing it can take seconds."""

    names: tuple[str, str]

    def __subclasscheck__(cls, kind: type) -> bool:
        return cls.names in [(base.__module__, base.__qualname__) for base in kind.__mro__]


def _category(module: str, name: str) -> type[Warning]:
    if module == "builtins":
        return cast("type[Warning]", getattr(builtins, name))
    made = _ByName(name, (Warning,), {"__module__": module})
    made.names = (module, name)
    return cast("type[Warning]", made)
