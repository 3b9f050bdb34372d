"""fn by its name: `package.module:fn`, where a module beside the caller is found."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import file_dataset

_SHOWN = 10  # functions of a module that a person reads; a guess


def load_fn(name: str) -> Any:  # noqa: ANN401  # a function or a class, which Pipeline checks
    """Import what `package.module:fn` names.

    Raises:
        InvalidDatasetError: there is no such module or function, or the module raises when it is imported.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise file_dataset.InvalidDatasetError(f"{name!r}: give a module and a function of it, as package.module:fn")
    if module_name.endswith(".py") or os.sep in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise file_dataset.InvalidDatasetError(f"{name!r} is a path: give the module's name, {dotted}:{path}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    found: Any = _module(module_name)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise file_dataset.InvalidDatasetError(
                f"module {module_name!r} has no {path!r}: {_known(found)} ({_place(found)})"
            )
        found = getattr(found, attribute)
    return found


def _module(name: str) -> Any:  # noqa: ANN401  # a module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise file_dataset.InvalidDatasetError(
                f"there is no module {name!r}: it is looked for in {Path.cwd()} and where Python is installed"
            ) from exc
        raise file_dataset.InvalidDatasetError(f"module {name!r} {_why(exc)}") from exc
    except (Exception, SystemExit) as exc:
        raise file_dataset.InvalidDatasetError(f"module {name!r} {_why(exc)}") from exc


def _why(error: BaseException) -> str:
    """Return what it raised, and in which line."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"cannot be imported: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if Path(frame.filename).is_relative_to(Path.cwd())] or frames)[-1]
    return f"cannot be imported: {text} ({last.filename}, line {last.lineno})"


def _known(found: Any) -> str:  # noqa: ANN401  # a module, or a class or function in one
    own = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None)
    named = [(name, getattr(found, name, None)) for name in vars(found)] if hasattr(found, "__dict__") else []
    names = [
        name
        for name, value in named
        if callable(value) and getattr(value, "__module__", None) == own and not name.startswith("_")
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"its functions are {', '.join(names[:_SHOWN])}{more}" if names else "it has no function"


def _place(found: Any) -> str:  # noqa: ANN401  # the same
    module = found if inspect.ismodule(found) else sys.modules.get(getattr(found, "__module__", None) or "")
    return str(getattr(module, "__file__", None) or "built in")
