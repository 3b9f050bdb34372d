"""What a row's outputs depend on, as 16 bytes: a row of another fingerprint runs again. Pure.

That is its id, its input locations and the versions that they pin, `into_path`, the `code_version`, and the carried
values where fn takes `row`. Never fn's code, nor anything of how a run goes: workers, prefetch, batches, the machine.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from file_dataset import _frame, _pickling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

BYTES = 16  # two of 2**40 rows have the same by chance once in 2**49 runs
DTYPE = np.dtype(f"S{BYTES}")
_AT_ONCE = 1 << 14  # rows whose digests are Python objects at a time; a guess

_LISTED = 1024  # values of an array that are looked at one by one; a guess

# of these, repr gives the value and nothing but the value
_PLAIN = (str, int, float, complex, bool, bytes, type(None))


def fingerprints(
    rows: _frame.Rows, into_path: str, code_version: str | None, carried: Mapping[str, list[Any]]
) -> npt.NDArray[np.bytes_]:
    """Return the fingerprint of every row of a frame that has ids.

    Args:
        rows: the frame.
        into_path: where outputs go, absolute.
        code_version: the caller's word for what fn does.
        carried: the carried values that fn gets.
    """
    files = {
        name: _pinned(_texts(cells), rows.versions.get(name))
        for name, cells in sorted(_frame.absolute_cells(rows).items())
    }
    values = {name: list(map(_text, column)) for name, column in sorted(carried.items())}
    start = hashlib.blake2b(repr((into_path, code_version, list(values))).encode(), digest_size=BYTES)
    ids = map(str, rows.ids or ())
    content = zip(ids, _of_rows(files, len(rows)), *values.values(), strict=True)

    def digest(row: tuple[Any, ...]) -> bytes:
        one = start.copy()
        # a key may hold what is no UTF-8
        one.update(repr(row).encode("utf-8", "backslashreplace"))
        return one.digest()

    digests = bytearray()
    while some := list(itertools.islice(content, _AT_ONCE)):
        digests += b"".join(map(digest, some))
    return np.frombuffer(bytes(digests), DTYPE)


def _pinned(texts: list[Any], versions: Sequence[Any] | None) -> list[Any]:
    """Return the locations, each with its version where it has one: without any they are as they always were."""
    if versions is None:
        return texts
    both = zip(texts, versions, strict=True)
    return [text if text is None or version is None else (text, str(version)) for text, version in both]


def _of_rows(files: Mapping[str, list[Any]], count: int) -> Iterator[tuple[Any, ...]]:
    """Yield each row's names and locations, without the files that it does not have: those do not matter to fn."""
    if not files:
        return iter([()] * count)
    names = tuple(files)
    if any(None in column for column in files.values()):
        return (
            tuple((name, at) for name, at in zip(names, row, strict=True) if at is not None)
            for row in zip(*files.values(), strict=True)
        )
    return (tuple(zip(names, row, strict=True)) for row in zip(*files.values(), strict=True))


def _texts(cells: Iterable[Any]) -> list[str | None]:
    """Return the cells as text: a Path and its text are one location."""
    return [cell if cell is None or isinstance(cell, str) else str(cell) for cell in cells]


def _is_short(values: npt.NDArray[Any]) -> bool:
    """Whether this may have been a list: Parquet and Ray make arrays of those."""
    return values.ndim == 1 and values.size <= _LISTED and values.dtype.kind in "biuf"


def _text(value: Any) -> str:  # noqa: ANN401, PLR0911  # whatever a frame has; one line a kind
    """Return a text that two values share when they are the same, in this process or another."""
    if isinstance(value, np.generic):
        value = value.item() if value.dtype.kind in "biufcSU" else value
    if type(value) in _PLAIN:
        return repr(value)
    if isinstance(value, np.ndarray) and (value.dtype.kind == "O" or _is_short(value)):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(_text, value))})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{_text(key)}: {_text(one)}' for key, one in value.items())})"
    if isinstance(value, set | frozenset):
        return f"set({', '.join(sorted(map(_text, value)))})"
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array({value.dtype.str}, {value.shape}, {digest})"
    if type(value).__module__.partition(".")[0] in {"datetime", "decimal", "uuid", "pandas", "pathlib"}:
        return f"{type(value).__name__}({value!r})"
    # a repr may have an address in it, and may leave out what differs
    return f"{type(value).__qualname__}({hashlib.sha256(_pickling.dumps(value)).hexdigest()})"
