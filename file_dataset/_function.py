"""The user's fn: which parameters it has, and how it is called; `_outputs` has what it returns.

Its two directories go by keyword where its parameters have their names, and it gets its `row` where it names one.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from file_dataset import _per_process
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_NAMES = ("input_dir", "output_dir")
_ROW = "row"


@dataclass(frozen=True, slots=True)
class Style:
    """How fn is called: its directories by keyword or by position, and whether it gets its row."""

    by_keyword: bool
    takes_row: bool


def check_signature(fn: object) -> Style:
    """Return how fn is called: `fn(input_dir, output_dir)`, with `row` where it names such a parameter.

    Raises:
        InvalidDatasetError: fn cannot be called so.
    """
    if not callable(fn):
        raise InvalidDatasetError(f"fn is a {type(fn).__name__}: give a function fn(input_dir, output_dir)")
    called: Callable[..., object] = fn
    if inspect.isclass(fn):
        _check_class(fn)
        called = functools.partial(fn.__call__, None)  # self
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
        raise InvalidDatasetError("fn is async: give a plain function fn(input_dir, output_dir)")
    try:
        signature = inspect.signature(called)
        # a decorator's wrapper shows the parameters of what it wraps, and takes its own
        taken = inspect.signature(called, follow_wrapped=False)
    except ValueError:  # a built-in that has no signature to look at
        return Style(by_keyword=False, takes_row=False)
    is_open = any(kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for kind in _kinds(taken))
    signatures = [taken, signature] if is_open else [taken]
    wants_row = _names_row(signature) and not _binds_row(fn)
    if wants_row and (style := _style_with_row(signature, signatures)) is not None:
        return style
    by_name = _fault_of_call(signatures, **dict.fromkeys(_NAMES))
    has_names = all(name in signature.parameters for name in _NAMES)
    if has_names and by_name is None:
        return Style(by_keyword=True, takes_row=False)
    if by_position := _fault_of_call(signatures, None, None):
        if by_name is None:  # fn(**kwargs)
            return Style(by_keyword=True, takes_row=False)
        fault = by_name if has_names else by_position
        raise InvalidDatasetError(
            f"fn{signature} cannot be called as fn(input_dir, output_dir), nor with a keyword row: {fault}"
        )
    return Style(by_keyword=False, takes_row=False)


def _names_row(signature: inspect.Signature) -> bool:
    parameter = signature.parameters.get(_ROW)
    return parameter is not None and parameter.kind not in (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    )


def _binds_row(fn: object) -> bool:
    """Return whether a partial has a `row` of the user's own, which is not ours to replace."""
    while isinstance(fn, functools.partial):
        if _ROW in fn.keywords:
            return True
        fn = fn.func
    return False


def _style_with_row(signature: inspect.Signature, signatures: Sequence[inspect.Signature]) -> Style | None:
    """Return how fn, which names a `row`, is given one; None where it cannot be, by keyword."""
    has_names = all(name in signature.parameters for name in _NAMES)
    if has_names and not _fault_of_call(signatures, **dict.fromkeys((*_NAMES, _ROW))):
        return Style(by_keyword=True, takes_row=True)
    if not _fault_of_call(signatures, None, None, row=None):
        return Style(by_keyword=False, takes_row=True)
    return None


def _kinds(signature: inspect.Signature) -> list[object]:
    return [parameter.kind for parameter in signature.parameters.values()]


def _fault_of_call(signatures: Sequence[inspect.Signature], *args: None, **kwargs: None) -> str | None:
    try:
        for signature in signatures:
            signature.bind(*args, **kwargs)
    except TypeError as exc:
        return str(exc)
    return None


def _check_class(kind: type) -> None:
    if not any("__call__" in vars(base) for base in kind.__mro__):
        raise InvalidDatasetError(
            f"instances of {kind.__name__} cannot be called: give it __call__(input_dir, output_dir)"
        )
    try:
        inspect.signature(kind).bind()
    except TypeError as exc:
        raise InvalidDatasetError(f"fn is a class that cannot be made without arguments: {exc}") from exc
    except ValueError:  # a built-in that has no signature to look at
        return


def ready(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return what to call: fn, or the one instance of a class that this process makes."""
    if inspect.isclass(fn):
        return cast("Callable[..., Any]", _per_process.shared(("instance", fn), fn))
    return fn


def plain(result: object) -> object:
    """Return what fn returned, paths in a mapping as text. Code of the user's may run, and raise: a path's own, say."""
    if not isinstance(result, Mapping):
        return result
    return {name: os.fspath(at) if isinstance(at, os.PathLike) else at for name, at in result.items()}


def is_of_fn(error: BaseException) -> bool:
    """Return whether an error that leaves fn is fn's own, and none that is to end the program, such as a Ctrl-C."""
    if isinstance(error, Exception | SystemExit | GeneratorExit):
        return True
    asyncio = sys.modules.get("asyncio")  # of a task of fn's own: nothing else is awaited here
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def call(
    fn: Callable[..., Any], input_dir: Path, output_dir: Path, *, by_keyword: bool, row: Mapping[str, Any] | None = None
) -> object:
    """Call fn, by keyword where its parameters have our names, with a read-only `row` unless that is None."""
    if row is None:
        return fn(input_dir=input_dir, output_dir=output_dir) if by_keyword else fn(input_dir, output_dir)
    given = types.MappingProxyType(row)
    if by_keyword:
        return fn(input_dir=input_dir, output_dir=output_dir, row=given)
    return fn(input_dir, output_dir, row=given)
