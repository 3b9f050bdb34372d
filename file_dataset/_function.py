"""The user's fn: what it may look like, what it promises to return, calling it, checking its result, pickling it."""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from file_dataset import _frame, _per_process, _plan, _urls
from file_dataset._errors import Failure, InvalidDatasetError, RowError, RowId
from file_dataset._local_file import LocalFile

logger = logging.getLogger(__name__)

_NAMES = ("input_dir", "output_dir")
_ROW = "row"


@dataclass(frozen=True, slots=True)
class Style:
    """How fn is called: its directories by keyword or by position, and whether it gets its row."""

    by_keyword: bool
    takes_row: bool


@dataclass(frozen=True, slots=True)
class Contract:
    """The output names that fn promises, in order; those not `required` may be missing from a result."""

    names: tuple[str, ...]
    required: frozenset[str]


@dataclass(frozen=True, slots=True)
class RowDirs:
    """The row's own directories, without links: where its outputs lie."""

    input: str
    output: str


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
        shown = inspect.signature(called)
        # a decorator's wrapper shows the parameters of what it wraps, and takes its own
        taken = inspect.signature(called, follow_wrapped=False)
    except ValueError:  # a built-in that has no signature to look at
        return Style(by_keyword=False, takes_row=False)
    is_open = any(kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for kind in _kinds(taken))
    asked = [taken, shown] if is_open else [taken]
    wants_row = _names_row(shown) and not _binds_row(fn)
    if wants_row and (style := _style_with_row(shown, asked)) is not None:
        return style
    by_name = _fault_of_call(asked, **dict.fromkeys(_NAMES))
    has_names = all(name in shown.parameters for name in _NAMES)
    if has_names and by_name is None:
        return Style(by_keyword=True, takes_row=False)
    if by_position := _fault_of_call(asked, None, None):
        if by_name is None:  # fn(**kwargs)
            return Style(by_keyword=True, takes_row=False)
        fault = by_name if has_names else by_position
        raise InvalidDatasetError(
            f"fn{shown} cannot be called as fn(input_dir, output_dir), nor with a keyword row: {fault}"
        )
    return Style(by_keyword=False, takes_row=False)


def _names_row(shown: inspect.Signature) -> bool:
    parameter = shown.parameters.get(_ROW)
    return parameter is not None and parameter.kind not in (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    )


def _binds_row(fn: object) -> bool:
    """Tell whether a partial has a `row` of the user's own, which is not ours to replace."""
    while isinstance(fn, functools.partial):
        if _ROW in fn.keywords:
            return True
        fn = fn.func
    return False


def _style_with_row(shown: inspect.Signature, asked: Sequence[inspect.Signature]) -> Style | None:
    """Return how fn, which names a `row`, is given one; None where it cannot be, by keyword."""
    has_names = all(name in shown.parameters for name in _NAMES)
    if has_names and not _fault_of_call(asked, **dict.fromkeys((*_NAMES, _ROW))):
        return Style(by_keyword=True, takes_row=True)
    if not _fault_of_call(asked, None, None, row=None):
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


def contract_of(fn: Callable[..., object], outputs: Sequence[str] | None) -> Contract | None:
    """Return the contract that `outputs` or fn's `TypedDict` annotation states, None where there is none.

    Raises:
        InvalidDatasetError: names that no output may have.
    """
    if outputs is not None:
        if isinstance(outputs, str):
            raise InvalidDatasetError(f"outputs={outputs!r} is one text: give a list, [{outputs!r}]")
        contract = Contract(tuple(outputs), frozenset(outputs))
    else:
        promise = _promise(fn)
        if promise is None:
            return None
        contract = promise
    if not contract.names:
        raise InvalidDatasetError("fn promises no output: name at least one")
    _plan.check_file_names(list(contract.names), local=True)
    if reserved := [name for name in contract.names if name in _frame.FAILURE_COLUMNS]:
        raise InvalidDatasetError(
            f"outputs {reserved} have the names of columns that every manifest may have: rename them"
        )
    return contract


def _promise(fn: Any) -> Contract | None:  # noqa: ANN401  # any callable
    """Return what a `TypedDict` return annotation promises; None for any other annotation, or none."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isclass(fn) or not inspect.isroutine(fn):
        fn = fn.__call__
    fn = inspect.unwrap(fn)
    names = getattr(fn, "__globals__", None)
    try:
        # the return annotation alone: the others may name what only a type checker knows
        alone = types.SimpleNamespace(__annotations__={"return": fn.__annotations__["return"]})
        kind = typing.get_type_hints(alone, names)["return"]
        fields = typing.get_type_hints(kind, names, include_extras=True) if typing.is_typeddict(kind) else None
    except (AttributeError, KeyError):
        return None
    except Exception as exc:  # noqa: BLE001  # evaluates the user's annotations, which may name anything
        logger.debug("the annotations of fn cannot be evaluated, so they promise no outputs: %s", exc)
        return None
    if fields is None:
        return None
    # Python itself overlooks NotRequired in annotations that are still text
    said = {name: typing.get_origin(field) for name, field in fields.items()}
    required = {name for name in kind.__required_keys__ if said[name] is not typing.NotRequired}
    return Contract(tuple(fields), frozenset(required | {name for name in said if said[name] is typing.Required}))


def ready(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return what to call: fn, or the one instance of a class that this process makes."""
    if inspect.isclass(fn):
        return cast("Callable[..., Any]", _per_process.shared(("instance", fn), fn))
    return fn


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


def checked_outputs(
    result: object, *, row_id: RowId, contract: Contract | None, carried: Sequence[str], dirs: RowDirs
) -> dict[str, LocalFile | None]:
    """Return fn's result when it maps legal names to files in the row's directories or None, contract names first.

    Raises:
        RowError: every output that is not as it should be.
    """
    if not isinstance(result, Mapping) or not result:
        got = "an empty mapping" if isinstance(result, Mapping) else _shown(result)
        message = f"fn returned {got}: return a mapping of file name to path, such as {{'output.mha': path}}"
        raise RowError([_fault(row_id, None, "TypeError", message)])
    faults: list[Failure] = []
    files: dict[str, LocalFile | None] = {}
    for name, path in result.items():
        try:
            files[_urls.check_file_name(name)] = _output(name, path, dirs)
        except (InvalidDatasetError, OSError, TypeError) as exc:
            kind = "ValueError" if isinstance(exc, InvalidDatasetError) else type(exc).__name__
            faults.append(_fault(row_id, str(name), kind, f"output {name!r}: {exc.args[-1]}"))
    names = [str(name) for name in result]
    if taken := [name for name in names if name in _frame.FAILURE_COLUMNS or name in carried]:
        faults += [
            _fault(row_id, name, "ValueError", f"output {name!r} has the name of another column") for name in taken
        ]
    if contract is not None:
        missing = [name for name in contract.names if name in contract.required and name not in names]
        extra = [name for name in names if name not in contract.names]
        faults += [_fault(row_id, name, "KeyError", f"output {name!r} was promised and is missing") for name in missing]
        faults += [_fault(row_id, name, "KeyError", f"output {name!r} was not promised") for name in extra]
    if not faults:
        try:
            _plan.check_file_names(list(files), local=True)
        except InvalidDatasetError as exc:
            faults.append(_fault(row_id, None, "ValueError", str(exc)))
    if faults:
        raise RowError(faults)
    return {name: files[name] for name in (contract.names if contract else ()) if name in files} | files


def _output(name: str, path: Any, dirs: RowDirs) -> LocalFile | None:  # noqa: ANN401  # whatever fn returned
    if path is None:
        return None
    try:
        given = Path(path)
    except TypeError:
        raise TypeError(f"{_shown(path)} is no path") from None
    at = os.path.join(dirs.output, given)  # noqa: PTH118  # an absolute path stays what it is
    try:
        real = os.path.realpath(at)
        source = LocalFile.at(real)
    except (FileNotFoundError, ValueError):
        if os.path.islink(at):  # noqa: PTH114  # the path is text
            raise FileNotFoundError(f"{given} is no file (a link to nothing)") from None
        why = _urls.why_no_file(path)
        if not given.is_absolute() and why.endswith(" is no file"):
            why += " in output_dir, which relative paths are relative to"
        raise FileNotFoundError(why) from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{given} is a directory; {_urls.DIRECTORY_REMEDY}") from None
    if not real.startswith((f"{dirs.output}/", f"{dirs.input}/")):
        where = f"{given} is" if real == at else f"{given} leads to {real}, which is"
        raise InvalidDatasetError(f"{where} in neither output_dir nor input_dir of this row: {_why_own(name, real)}")
    if source.links > 1 and not _has_all_names(source, dirs):
        raise InvalidDatasetError(
            f"{given} is a hard link to a file that has a name outside this row's directories: {_why_own(name, real)}"
        )
    return source


def _why_own(name: str, path: str) -> str:
    return (
        "another row's fn may be writing there at the same time, and it may not be yours to upload. "
        f"Write to output_dir / {name!r}, or copy it there: shutil.copy({path!r}, output_dir / {name!r})"
    )


def _has_all_names(source: LocalFile, dirs: RowDirs) -> bool:
    """Tell whether all hard links to a file lie in the row's directories."""
    found = 0
    for top in (dirs.output, dirs.input):
        for directory, _, names in os.walk(top):
            found += sum(source.is_at(os.path.join(directory, name)) for name in names)  # noqa: PTH118  # text
    return found >= source.links


def _fault(row_id: RowId, file: str | None, kind: str, message: str) -> Failure:
    return Failure(row_id, "fn", file, None, kind, None, message)


def _shown(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def dumps(value: object) -> bytes:
    """Pickle by cloudpickle: lambdas, closures, functions of `__main__` and of a notebook."""
    with io.BytesIO() as file:
        _pickler()(file).dump(value)
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
