"""A local directory that is to be stored: looked at once, with all its files, which must not change meanwhile."""

from __future__ import annotations

import bisect
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from file_dataset import _urls
from file_dataset._errors import FileChangedError, InvalidDatasetError, store_error
from file_dataset._local_file import LocalFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SHOWN = 5  # names in a message; a guess
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A directory as it was when it was looked at.

    Attributes:
        path: without links.
        files: by the path below it, `sub/0001.dcm`, in the order of S3's listings. There is at least one.
        inside: itself and those below it, with device, inode, and the times of their last changes.
    """

    path: str
    files: Mapping[str, LocalFile]
    inside: Mapping[str, tuple[int, int, int, int]]

    @classmethod
    def at(cls, path: str) -> LocalDirectory:
        """Look at a directory and all that is in it.

        Raises:
            InvalidDatasetError: it holds no file, what is no file, or a name that no key may have; names them.
            OSError: a part of it cannot be looked at.
        """
        files: dict[str, LocalFile] = {}
        inside: dict[str, tuple[int, int, int, int]] = {}
        refused: list[str] = []
        for name, entry in _walked(path, inside):
            try:
                _urls.check_file_name(name)
            except InvalidDatasetError as exc:
                refused.append(str(exc))
                continue
            found = entry.stat(follow_symlinks=False)
            if kind := next((kind for is_one, kind in _KINDS if is_one(found.st_mode)), None):
                refused.append(f"{name} is {kind}")
            else:
                files[name] = LocalFile.at(entry.path)
        if refused:
            more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
            raise InvalidDatasetError(
                f"the directory holds what cannot be stored as a file: {'; '.join(refused[:_SHOWN])}{more}. "
                "Copy what a link leads to (shutil.copy), remove or rename the others"
            )
        if not files:
            raise InvalidDatasetError(
                "the directory holds no file, and S3 has no empty directories: return None where there is no output"
            )
        return cls(path, {name: files[name] for name in sorted(files)}, inside)

    @property
    def size_bytes(self) -> int:
        """Return how many bytes its files have."""
        return sum(file.size_bytes for file in self.files.values())

    def check(self) -> None:
        """See that it has the files that it had; whether they are the same each of them knows.

        Raises:
            FileChangedError: one was added, removed or renamed.
        """
        for path, was in self.inside.items():
            try:
                is_same = _identity(os.lstat(path)) == was
            except (FileNotFoundError, NotADirectoryError):
                is_same = False
            if not is_same:
                raise store_error(
                    FileChangedError,
                    f"{path} changed while it was stored: a file was added, removed or renamed; what writes to it must "
                    "end before: join the thread, wait for the process",
                )


def nested(copies: Iterable[tuple[str, str, bool]]) -> list[str]:
    """Return the targets that lie in a directory that is copied, and those of directories that something copied is in.

    Args:
        copies: source and target of each, and whether it is a directory. One onto itself is left out.
    """
    copies = list(copies)
    if not any(is_directory for _, _, is_directory in copies):
        return []
    real = [(os.path.realpath(source), os.path.realpath(target), target, is_one) for source, target, is_one in copies]
    sources = sorted(source for source, _, _, _ in real)
    directories = {source for source, _, _, is_directory in real if is_directory}

    def is_within(target: str) -> bool:
        return any(target[:end] in directories for end, letter in enumerate(target) if letter == "/" and end)

    def is_around(target: str) -> bool:
        place = bisect.bisect_left(sources, f"{target}/")
        return place < len(sources) and sources[place].startswith(f"{target}/")

    return [shown for _, target, shown, is_one in real if is_within(target) or (is_one and is_around(target))]


def _walked(path: str, inside: dict[str, tuple[int, int, int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what is no directory, with its path below the first one; `inside` gains the directories."""
    waiting = [(path, "")]
    while waiting:
        directory, before = waiting.pop()
        inside[directory] = _identity(os.lstat(directory))
        with os.scandir(directory) as entries:
            found = list(entries)
        for entry in found:
            name = f"{before}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, f"{name}/"))
            else:
                yield name, entry


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
