"""Directories as inputs: what a listing makes of one, and which names in it can be files on this disk.

A listing says which objects there are, and under which ETag each is read: together they are one state of the directory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from file_dataset import _plan, _urls
from file_dataset._errors import Failure, InvalidDatasetError, store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from file_dataset._errors import RowId
    from file_dataset._sink import ObjectInfo
    from file_dataset._store import Listed
    from file_dataset._urls import Directory, Source

_SHOWN = 20  # failures of one directory; a guess: enough to see what they have in common


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a directory: its files by their names below it, and the sub-directories that are there without any."""

    files: Mapping[str, Listed]
    without_files: Sequence[str] = ()

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(each.size_bytes for each in self.files.values())


def source_of(at: Source) -> Source:
    """Return a local path as the directory that it leads to, if it does; anything else as it is. One stat."""
    return _urls.Directory(at) if isinstance(at, Path) and os.path.isdir(at) else at  # noqa: PTH112  # costs less


def contents(directory: Directory, listing: Sequence[Listed]) -> Contents:
    """Return what a listing says of a directory. Markers, empty objects whose key ends in a slash, are no files.

    Raises:
        OSError: there is no file in it.
    """
    start = str(directory)
    names = {str(each.at).removeprefix(start): each for each in listing}
    if odd := [str(each.at) for each in listing if not str(each.at).startswith(start)]:
        raise store_error(OSError, f"the store lists {odd[0]}, which does not begin with {start}")
    markers = [name for name, each in names.items() if not each.size_bytes and (not name or name.endswith("/"))]
    files = {name: each for name, each in names.items() if each.size_bytes or (name and not name.endswith("/"))}
    if not files:
        raise _no_files(directory, len(listing))
    return Contents(files, [name.removesuffix("/") for name in markers if name])


def _no_files(directory: Directory, markers: int) -> OSError:
    if isinstance(directory.at, Path):
        there = "there is no file in it" if os.path.isdir(directory.at) else "there is no such directory"  # noqa: PTH112
    elif markers:
        there = "it has markers of directories, and no file"
    else:
        there = "no object's key begins so"
    return store_error(FileNotFoundError, f"{directory}: {there}")


def refused(row_id: RowId, file: str, found: Contents, folds: Callable[[], bool]) -> list[Failure]:
    """Return a failure for each object that can be no file of its own below a directory on this disk.

    Args:
        row_id: the row.
        file: the name of the directory, a column's.
        found: what is in it.
        folds: whether this disk takes names for one that differ by case or accents alone; asked where some do.
    """
    faults: dict[str, str] = {}
    for name, each in found.files.items():
        if each.size_bytes and (not name or name.endswith("/")):
            faults[name] = f"a marker of a directory has no content, and this object has {each.size_bytes} bytes"
        elif (fault := _fault(name)) is not None:
            faults[name] = fault
    for name in found.without_files:
        if (fault := _fault(name)) is not None:
            faults[f"{name}/"] = fault
    if not faults:
        faults = _both(found) or _same(found, folds)
    failures = []
    for name, fault in list(faults.items())[:_SHOWN]:
        url = found.files[name].at if name in found.files else None
        message = f"{fault}: rename the object, or give a directory without it"
        failures.append(Failure(row_id, "download", f"{file}/{name}", str(url or ""), "ValueError", None, message))
    if (more := len(faults) - _SHOWN) > 0:
        failures[-1] = replace(failures[-1], message=f"{failures[-1].message} ({more:,} more are refused like these)")
    return failures


def _fault(name: str) -> str | None:
    try:
        _urls.check_file_name(name)
    except InvalidDatasetError as exc:
        return str(exc)
    return None


def _both(found: Contents) -> dict[str, str]:
    """Return the files whose names are also those of directories."""
    above = {*found.without_files, *(parent for name in found.files for parent in _plan.parents(name))}
    return {name: "other objects lie below this name, as in a directory" for name in found.files if name in above}


def _same(found: Contents, folds: Callable[[], bool]) -> dict[str, str]:
    """Return the files whose names, or those of their directories, this disk takes for others."""
    spelled: dict[str, str] = {}
    same: dict[str, str] = {}
    for name in found.files:
        for each in (*_plan.parents(name), name):
            if (first := spelled.setdefault(_urls.folded(each), each)) != each:
                same.setdefault(name, f"on this disk {each!r} and {first!r} are one name")
    return same if same and folds() else {}


def folds(place: str) -> bool:
    """Return whether a directory takes names for one that differ by case, or by how an accent is written."""
    token = secrets.token_hex(8)
    os.makedirs(place, exist_ok=True)  # noqa: PTH103  # the path is text
    made, others = f"{place}/.{token}-a\u00e9", (f"{place}/.{token}-A\u00c9", f"{place}/.{token}-ae\u0301")
    os.mkdir(made)  # noqa: PTH102  # the same
    try:
        return any(map(os.path.lexists, others))
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(made)  # noqa: PTH106  # the same


@dataclass(frozen=True, slots=True)
class Member(_plan.Transfer[str]):
    """A file of a directory to copy, the directory's own name, and what the listing said of the file."""

    column: str
    listed: Listed

    @property
    def root(self) -> str:
        """Where its directory goes."""
        return self.target[: len(self.target) - len(self.file) + len(self.column)]

    @property
    def source_root(self) -> str:
        """Where its directory is, with a slash at the end."""
        at = str(self.listed.at)
        return at[: len(at) - len(self.file) + len(self.column) + 1]


def members(row_id: RowId, file: str, found: Contents, into: str) -> Iterator[Member]:
    """Yield one transfer per file of a directory, into `<into>/<file>/...`; a read of another ETag fails."""
    for name, listed in found.files.items():
        at = listed.at
        source = at._replace(etag=listed.etag) if isinstance(at, _urls.ObjectUrl) else at
        yield Member(row_id, f"{file}/{name}", source, f"{into}/{file}/{name}", file, listed)


def make(found: Contents, into: str) -> None:
    """Make the sub-directories that are there without any file."""
    for name in found.without_files:
        os.makedirs(f"{into}/{name}", exist_ok=True)  # noqa: PTH103  # the path is text


def why_other(transfer: _plan.Transfer[str], info: ObjectInfo) -> OSError | None:
    """Return the error of a file that is no longer what the listing of its directory said; None: it is that."""
    if not isinstance(transfer, Member):
        return None
    listed = transfer.listed
    changed: list[str] = []
    if listed.size_bytes != info.size_bytes:
        changed.append(f"it had {listed.size_bytes} bytes then, and has {info.size_bytes}")
    if listed.etag is not None and info.etag is not None and listed.etag != info.etag:
        changed.append(f"its ETag was {listed.etag} then, and is {info.etag}")
    if info.modified_ns is not None and listed.modified != info.modified_ns:
        changed.append("it was written to")
    if not changed:
        return None
    message = f"changed after its directory was listed: {'; '.join(changed)}. A directory is read in one state or not"
    return store_error(OSError, message)
