"""How fn is pickled: by name where any process can import it, else by value, by cloudpickle.

By value go lambdas, closures, what `__main__` or a notebook defines, and what is in modules that only this process has.

The one module that uses what cloudpickle does not document: `Pickler._dynamic_function_reduce`,
`_dynamic_class_reduce`, `_make_typevar` and `_decompose_typevar`, which pickle by value what is not of `__main__`
without registering its module for the whole process, and the entry of its `dispatch_table` for code objects, which is
asked for file names. cloudpickle 3.0 and 3.1 have them all.
"""

from __future__ import annotations

import functools
import importlib
import io
import sys
import types
import typing
from typing import Any

if typing.TYPE_CHECKING:
    from collections.abc import Callable


def dumps(value: object) -> bytes:
    """Pickle by cloudpickle: lambdas, closures, functions of `__main__` and of a notebook."""
    return _dumped(value, _pickler())


def dumps_with_files(fn: Callable[..., Any]) -> bytes:
    """Pickle as `dumps` does, with the names of the files that functions were written in, for tracebacks."""
    return _dumped(fn, _pickler_with_file_names())


def _dumped(value: object, pickler: Any) -> bytes:  # noqa: ANN401  # cloudpickle has no types
    with io.BytesIO() as file:
        pickler(file).dump(value)
        return file.getvalue()


@functools.cache
def _pickler() -> Any:  # noqa: ANN401  # cloudpickle has no types
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        """cloudpickle, which takes a module that is loaded here for one that every process can import."""

        def reducer_override(self, value: Any) -> Any:  # noqa: ANN401  # pickle's protocol
            reduced = NotImplemented
            if isinstance(value, types.FunctionType | type | typing.TypeVar | types.ModuleType):
                reduced = _reduced(self, value)
            return super().reducer_override(value) if reduced is NotImplemented else reduced

    return Pickler


@functools.cache
def _pickler_with_file_names() -> Any:  # noqa: ANN401  # cloudpickle has no types
    class Pickler(_pickler()):  # type: ignore[misc]  # cloudpickle has no types
        """cloudpickle makes one file name, "<dynamic-code>", of all: no traceback would say where."""

        def reducer_override(self, value: Any) -> Any:  # noqa: ANN401  # pickle's protocol
            if isinstance(value, types.CodeType):
                make, arguments = self.dispatch_table[types.CodeType](value)
                return _code, (make, arguments, value.co_filename)
            return super().reducer_override(value)

    return Pickler


def _code(make: Callable[..., types.CodeType], arguments: tuple[Any, ...], filename: str) -> types.CodeType:
    return make(*arguments).replace(co_filename=filename)


def _reduced(pickler: Any, value: Any) -> Any:  # noqa: ANN401  # cloudpickle has no types
    """Return how a definition travels by value, NotImplemented where cloudpickle knows."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    known = vars(pickler).setdefault("_only_here", {})
    if name not in known:
        known[name] = _is_only_here(name)
    # cloudpickle rebuilds one with its metaclass, which Python 3.11 refuses
    if typing.is_typeddict(value) and (
        known[name] or getattr(sys.modules.get(name), value.__qualname__, None) is not value
    ):
        return _typed_dict, (value.__name__, dict(value.__annotations__), value.__total__, value.__required_keys__)
    if not known[name] or name == "__main__":
        return NotImplemented
    if value is sys.modules.get("__main__"):
        return importlib.import_module, ("__main__",)
    return _by_value(pickler, value)


def _by_value(pickler: Any, value: Any) -> Any:  # noqa: ANN401  # cloudpickle has no types
    if isinstance(value, types.ModuleType):
        return (
            types.ModuleType,
            (value.__name__,),
            {key: at for key, at in vars(value).items() if key != "__builtins__"},
        )
    if isinstance(value, types.FunctionType):
        return pickler._dynamic_function_reduce(value)  # noqa: SLF001  # no public name
    from cloudpickle import cloudpickle

    if isinstance(value, typing.TypeVar):
        return cloudpickle._make_typevar, cloudpickle._decompose_typevar(value)  # noqa: SLF001  # no public names
    return cloudpickle._dynamic_class_reduce(value)  # noqa: SLF001  # no public name


def _is_only_here(name: object) -> bool:
    """Return whether a new interpreter with this one's `sys.path` cannot import a loaded module of that name.

    So are the module of a script, which is `__mp_main__` in a process that multiprocessing has spawned, and those that
    were loaded from a path (`importlib.util.spec_from_file_location`) or made by hand.
    """
    if name == "__main__":
        return True
    if not isinstance(name, str) or name not in sys.modules:
        return False  # cloudpickle's own case
    top = name.partition(".")[0]
    for finder in sys.meta_path:
        try:
            if finder.find_spec(top, None) is not None:
                return False
        except Exception:  # noqa: BLE001  # an import hook of another package
            return False
    return True


def _typed_dict(name: str, fields: dict[str, Any], total: bool, required: frozenset[str]) -> Any:  # noqa: ANN401, FBT001
    made = typing.TypedDict(name, fields, total=total)  # type: ignore[misc]  # made from data
    made.__required_keys__ = required
    made.__optional_keys__ = frozenset(fields) - required
    return made
