"""fn's return value: the output files that fn promises, and the check of those that it returned.

fn promises them by `outputs=[...]` or by a `TypedDict` as its return annotation. What it returns is a mapping of file
names to files or directories in the row's own directories, or to None where there is no such file.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import logging
import os
import types
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from file_dataset import _frame, _plan, _urls
from file_dataset._errors import Failure, InvalidDatasetError, RowError, RowId
from file_dataset._local_directory import LocalDirectory
from file_dataset._local_file import LocalFile

logger = logging.getLogger(__name__)

Output: TypeAlias = LocalFile | LocalDirectory | None


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
        annotated = _annotated(fn)
        if annotated is None:
            return None
        contract = annotated
    if not contract.names:
        raise InvalidDatasetError("fn promises no output: name at least one")
    _plan.check_file_names(list(contract.names), local=True)
    if reserved := [name for name in contract.names if name in _frame.FAILURE_COLUMNS]:
        raise InvalidDatasetError(
            f"outputs {reserved} have the names of columns that every manifest may have: rename them"
        )
    return contract


def _annotated(fn: Any) -> Contract | None:  # noqa: ANN401  # any callable
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
    markers = {name: typing.get_origin(field) for name, field in fields.items()}
    required = {name for name in kind.__required_keys__ if markers[name] is not typing.NotRequired}
    return Contract(tuple(fields), frozenset(required | {name for name in markers if markers[name] is typing.Required}))


def checked_outputs(
    result: object, *, row_id: RowId, contract: Contract | None, carried: Sequence[str], dirs: RowDirs
) -> dict[str, Output]:
    """Return fn's result when it maps legal names to what lies in the row's directories or None, contract names first.

    Raises:
        RowError: every output that is not as it should be.
    """
    if not isinstance(result, Mapping) or not result:
        got = "an empty mapping" if isinstance(result, Mapping) else _kind_of(result)
        message = f"fn returned {got}: return a mapping of file name to path, such as {{'output.mha': path}}"
        raise RowError([_failure(row_id, None, "TypeError", message)])
    failures: list[Failure] = []
    files: dict[str, Output] = {}
    names_of = _Names(dirs)
    for name, path in result.items():
        try:
            files[_urls.check_file_name(name)] = _output(name, path, dirs, names_of)
        except (InvalidDatasetError, OSError, TypeError) as exc:
            kind = "ValueError" if isinstance(exc, InvalidDatasetError) else type(exc).__name__
            failures.append(_failure(row_id, str(name), kind, f"output {name!r}: {exc.args[-1]}"))
    names = [str(name) for name in result]
    if taken := [name for name in names if name in _frame.FAILURE_COLUMNS or name in carried]:
        failures += [
            _failure(row_id, name, "ValueError", f"output {name!r} has the name of another column") for name in taken
        ]
    if contract is not None:
        missing = [name for name in contract.names if name in contract.required and name not in names]
        extra = [name for name in names if name not in contract.names]
        failures += [
            _failure(row_id, name, "KeyError", f"output {name!r} was promised and is missing") for name in missing
        ]
        failures += [_failure(row_id, name, "KeyError", f"output {name!r} was not promised") for name in extra]
    if not failures:
        try:
            _plan.check_file_names(list(files), local=True)
        except InvalidDatasetError as exc:
            failures.append(_failure(row_id, None, "ValueError", str(exc)))
    if failures:
        raise RowError(failures)
    return {name: files[name] for name in (contract.names if contract else ()) if name in files} | files


def _output(name: str, path: Any, dirs: RowDirs, names_of: _Names) -> Output:  # noqa: ANN401  # whatever fn returned
    if path is None:
        return None
    try:
        given = Path(path)
    except TypeError:
        raise TypeError(
            f"{_kind_of(path)} is no path: give that of a file or directory in output_dir, or None"
        ) from None
    at = os.path.join(dirs.output, given)  # noqa: PTH118  # an absolute path stays what it is
    real = _real(path, given, at)
    # before the file is looked at: what lies elsewhere may be changing
    if not f"{real}/".startswith((f"{dirs.output}/", f"{dirs.input}/")):
        where = f"{given} is" if real == at else f"{given} leads to {real}, which is"
        why = _why_own(name, real, is_directory=os.path.isdir(real))  # noqa: PTH112  # the path is text
        raise InvalidDatasetError(f"{where} in neither output_dir nor input_dir of this row: {why}")
    try:
        source = LocalFile.at(real)
    except IsADirectoryError:
        if not os.fspath(path):
            raise IsADirectoryError("'' is output_dir itself: give the path of a file or directory in it") from None
        source = None
    if source is not None:
        _check_own(name, source, given, names_of)
        return source
    directory = LocalDirectory.at(real)
    for below, file in directory.files.items():
        _check_own(f"{name}/{below}", file, given / below, names_of)
    return directory


def _real(path: Any, given: Path, at: str) -> str:  # noqa: ANN401  # the same
    """Return where a path leads to.

    Raises:
        OSError: nothing is there.
    """
    try:
        real = os.path.realpath(at)
        os.lstat(real)
    except (FileNotFoundError, ValueError):
        if os.path.islink(at):  # noqa: PTH114  # the path is text
            raise FileNotFoundError(f"{given} is no file: it is a link to nothing") from None
        why = _urls.why_no_file(path)
        if not given.is_absolute() and why.endswith(" is no file"):
            why += " in output_dir, which relative paths are relative to"
        raise FileNotFoundError(why) from None
    return real


def _check_own(name: str, source: LocalFile, given: Path, names_of: _Names) -> None:
    """Refuse a file that has a name elsewhere too.

    Raises:
        InvalidDatasetError: it has.
    """
    if source.links > 1 and names_of.count(source) < source.links:
        why = _why_own(name, source.path)
        raise InvalidDatasetError(
            f"{given} is a hard link to a file that has a name outside this row's directories: {why}"
        )


def _why_own(name: str, path: str, *, is_directory: bool = False) -> str:
    copy = "copytree" if is_directory else "copy"
    return (
        "another row's fn may be writing there at the same time, and it may not be yours to upload. "
        f"Write to output_dir / {name!r}, or copy it there: shutil.{copy}({path!r}, output_dir / {name!r})"
    )


class _Names:
    """How many names files have in a row's directories, which are looked through once."""

    def __init__(self, dirs: RowDirs) -> None:
        self._tops = dirs.output, dirs.input
        self._counts: Counter[tuple[int, int]] | None = None

    def count(self, source: LocalFile) -> int:
        """Return how many of a file's names lie there."""
        if self._counts is None:
            self._counts = Counter()
            for directory, _, names in itertools.chain.from_iterable(map(os.walk, self._tops)):
                for name in names:
                    with contextlib.suppress(OSError):  # it is gone since
                        found = os.lstat(f"{directory}/{name}")
                        self._counts[found.st_dev, found.st_ino] += 1
        return self._counts[source.identity[:2]]


def _failure(row_id: RowId, file: str | None, kind: str, message: str) -> Failure:
    return Failure(row_id, "fn", file, None, kind, None, message)


def _kind_of(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
