"""What will be copied where. Pure: no request, no file is touched here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from file_dataset import _urls
from file_dataset._errors import InvalidDatasetError
from file_dataset._local_directory import LocalDirectory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from file_dataset._errors import RowId
    from file_dataset._local_file import LocalFile
    from file_dataset._urls import Location, Source

Target = TypeVar("Target", bound="Location | str")


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row: an id (None where the frame has none) and where each of its files is; None: it has no such file.

    What is given as one file may be a directory too.
    """

    id: RowId
    files: Mapping[str, Source | None]


@dataclass(frozen=True, slots=True)
class Transfer(Generic[Target]):
    """One file of one row to copy. Either end may be local; a download's target is text, which costs less.

    The source of an upload is a `LocalFile`, which is the same file to its last byte, or fails.
    """

    row_id: RowId
    file: str
    source: Location | LocalFile
    target: Target


def downloads(row: FileRow, into: str) -> list[Transfer[str]]:
    """Return one transfer per file that the row has, into `into/<file name>`; none of them is a directory."""
    there = {name: _urls.one_file(at) for name, at in row.files.items() if at is not None}
    return [Transfer(row.id, name, at, f"{into}/{name}") for name, at in there.items()]


@dataclass(frozen=True, slots=True)
class DirectoryUpload:
    """An output that is a directory: whose it is, what is stored, and below which location."""

    row_id: RowId
    name: str
    source: LocalDirectory
    target: Location

    @property
    def url(self) -> str:
        """Where it lies, as a manifest has it."""
        return str(_urls.directory_at(self.target))


@dataclass(frozen=True, slots=True)
class Uploads:
    """What is to be stored of a row: its files, and those of its directories; and which directories they are."""

    files: Sequence[Transfer[Location]]
    directories: Sequence[DirectoryUpload] = ()

    @property
    def singles(self) -> Sequence[Transfer[Location]]:
        """The files that are outputs of their own."""
        below = tuple(f"{each.name}/" for each in self.directories)
        return [up for up in self.files if not up.file.startswith(below)] if below else self.files

    @property
    def locations(self) -> dict[str, str]:
        """Where each output lies, as a manifest has it."""
        return {up.file: str(up.target) for up in self.singles} | {each.name: each.url for each in self.directories}


def uploads(row_id: RowId, files: Mapping[str, LocalFile | LocalDirectory | None], into: Location) -> Uploads:
    """Return one transfer per file that is there, into `<into>/<id>/<file name>`; those of a directory below that.

    Raises:
        InvalidDatasetError: an id or name is not safe, or a key is too long.
    """
    there = {name: source for name, source in files.items() if source is not None}
    places = targets(row_id, there, into)
    transfers: list[Transfer[Location]] = []
    directories: list[DirectoryUpload] = []
    for name, source in there.items():
        if not isinstance(source, LocalDirectory):
            transfers.append(Transfer(row_id, name, source, places[name]))
            continue
        directories.append(DirectoryUpload(row_id, name, source, places[name]))
        transfers += (
            Transfer(row_id, f"{name}/{below}", file, _urls.join(places[name], *below.split("/")))
            for below, file in source.files.items()
        )
    return Uploads(transfers, directories)


def targets(row_id: RowId, names: Iterable[str], into: Location) -> dict[str, Location]:
    """Return where files of a row are stored, by name: at `<into>/<id>/<file name>`.

    Raises:
        InvalidDatasetError: an id or name is not safe, or a key is too long.
    """
    text = _urls.check_id(row_id)
    most = _urls.KEY_BYTES if isinstance(into, _urls.ObjectUrl) else _urls.SEGMENT_BYTES
    return {name: _urls.join(into, text, *_urls.check_file_name(name, segment_bytes=most).split("/")) for name in names}


def check_file_names(names: list[object], *, local: bool, segment_bytes: int = _urls.SEGMENT_BYTES) -> list[str]:
    """Return the names when all of them can lie in one directory side by side.

    Args:
        names: column names or output names.
        local: they become files on disk, where names that differ by case or accents alone may be one file.
        segment_bytes: as `_urls.check_file_name` takes it.

    Raises:
        InvalidDatasetError: a name is unsafe, appears twice, or is the directory of another.
    """
    checked = [_urls.check_file_name(name, segment_bytes=segment_bytes) for name in names]
    if twice := sorted(name for name, count in Counter(checked).items() if count > 1):
        raise InvalidDatasetError(f"file names {twice} appear more than once: rename them")
    look_up = _urls.folded if local else str
    above = {look_up(parent) for name in checked for parent in parents(name)}
    if both := [name for name in checked if look_up(name) in above]:
        raise InvalidDatasetError(f"file names {both} are also directories of other file names: rename them")
    if local and (same := _urls.collisions(checked)):
        raise InvalidDatasetError(
            f"file names {same} differ from others by case or accents alone: rename them, for some disks make them one"
        )
    return checked


def column_of(file: str, columns: Collection[str]) -> str | None:
    """Return the column that has a file that was read: by its own name, or by that of its directory; None: none has."""
    if file in columns:
        return file
    return next((parent for parent in parents(file) if parent in columns), None)


def parents(name: str) -> list[str]:
    """Return the directories that a file's name goes through, from the first to the last."""
    segments = name.split("/")[:-1]
    return ["/".join(segments[: depth + 1]) for depth in range(len(segments))]
