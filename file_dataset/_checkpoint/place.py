"""Where a checkpoint lies, and what is done there: list its parts, read, write and remove them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from file_dataset import _options, _transfer, _urls
from file_dataset._checkpoint import parts
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._local_file import LocalFile
from file_dataset._stores import Stores
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from file_dataset._options import Options
    from file_dataset._urls import Location

_PREFIX, _SUFFIX = "part-", ".parquet"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory or a prefix, and how it is reached."""

    at: Location
    stores: Stores
    temp_dir: Path | None = None  # where a part lies while it is uploaded; None: where the system keeps such files

    def __str__(self) -> str:
        """Return it as the user writes it."""
        return f"{self.at}/" if isinstance(self.at, _urls.ObjectUrl) else str(self.at)

    def path_of(self, name: str) -> str:
        """Return the location of a part, for messages."""
        return str(_urls.join(self.at, name))

    def names(self) -> list[str]:
        """List the parts.

        Raises:
            OSError: they cannot be listed.
        """
        if isinstance(self.at, Path):
            try:
                found = os.listdir(self.at)  # noqa: PTH208  # names
            except FileNotFoundError:
                return []
            return sorted(name for name in found if _is_part(name))
        start = _urls.join(self.at, _PREFIX)
        assert isinstance(start, _urls.ObjectUrl)  # noqa: S101  # below one
        base = len(str(start)) - len(_PREFIX)
        found = [str(one.at)[base:] for one in self.stores.s3.list(start).result()]
        return sorted(name for name in found if _is_part(name))

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Yield the content of these parts, in order; those that are gone are left out.

        Raises:
            RowError: one cannot be read.
        """
        wanted = [_transfer.Wanted(None, name, _urls.join(self.at, name), 0) for name in names]
        try:
            for one, content in _transfer.read_each(wanted, self.stores, limit_bytes=None):
                yield one.file, pa.py_buffer(content)
        except RowError as exc:
            if any(one.type != "FileNotFoundError" or one.code == "NoSuchBucket" for one in exc.failures):
                raise

    def write(self, content: bytes) -> str:
        """Store a part under a name of its own, whole or not at all; return the name.

        Raises:
            OSError: it cannot be stored.
        """
        name = f"{_PREFIX}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex}{_SUFFIX}"
        if isinstance(self.at, Path):
            _write_file(self.at, name, content)
            return name
        target = _urls.join(self.at, name)
        assert isinstance(target, _urls.ObjectUrl)  # noqa: S101
        # a machine that drives a cluster may not have it
        there = self.temp_dir if self.temp_dir is not None and self.temp_dir.is_dir() else None
        with _temp_dir(there) as directory:
            (directory / name).write_bytes(content)
            source = LocalFile.at(directory / name)
            self.stores.s3.upload(source, target, extra_args={}, cancelled=threading.Event()).result()
        return name

    def remove(self, name: str) -> None:
        """Remove a part; one that is gone is no error.

        Raises:
            OSError: it cannot be removed.
        """
        self.remove_all([name])

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove parts, all at once; those that are gone are no error.

        Raises:
            OSError: one cannot be removed; the others are.
        """
        places = [_urls.join(self.at, name) for name in names]
        removals = [self.stores.of(at).remove(at) for at in places]
        wait(removals)
        for removal in removals:
            removal.result()


def _is_part(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX) and "/" not in name


def _temp_dir(parent: Path | None) -> TempDir:
    """Return a directory that another process removes when this one is killed.

    Raises:
        OSError: there can be none.
    """
    try:
        return TempDir(parent)
    except InvalidDatasetError as exc:
        if isinstance(exc.__cause__, OSError):
            raise exc.__cause__ from None
        raise


def _write_file(directory: Path, name: str, content: bytes) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with _temp_dir(directory) as temporary:
        with (temporary / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a machine that loses power keeps it whole
        (temporary / name).replace(directory / name)
    _sync(directory)  # its name too: what was joined into it is removed next


def _sync(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def place_of(value: object, stores: Stores, options: Options | None, temp_dir: Path | None = None) -> Place:
    """Return the place that the user names.

    Raises:
        InvalidDatasetError: it is neither `s3://bucket[/prefix]` nor a local path, or a file.
    """
    at = _urls.parse_prefix(value, local_paths=_options.takes_local_paths(options), what="checkpoint")
    if isinstance(at, Path):
        at = at.absolute()
        if at.exists() and not at.is_dir():
            raise InvalidDatasetError(f"checkpoint={str(at)!r} is a file: give a directory")
    return Place(at, stores, temp_dir)


def check_apart(place: Place, prefix: Location, ids: Iterable[str], is_one_store: Callable[[], bool]) -> None:
    """Refuse a checkpoint where a row's outputs go: a directory that is stored there would remove what it holds.

    Args:
        place: the checkpoint.
        prefix: where outputs go.
        ids: of the rows, as text.
        is_one_store: whether the checkpoint's store is that of the outputs.

    Raises:
        InvalidDatasetError: it lies below `<prefix>/<id>/`.
    """
    at, start = (
        f"{os.path.realpath(each) if isinstance(each, Path) else each}".removesuffix("/") + "/"
        for each in (place.at, prefix)
    )
    row_id, slash, below = at.removeprefix(start).partition("/")
    if at.startswith(start) and slash and below and row_id in set(ids) and is_one_store():
        raise InvalidDatasetError(
            f"checkpoint={str(place)!r} lies among the outputs of row {row_id!r}, below {start}{row_id}/: a directory "
            "that is stored there would take its place. Give the checkpoint a place of its own"
        )


def remove_checkpoint(place: str | os.PathLike[str], *, options: Options | None = None) -> None:
    """Remove the checkpoint that lies at a place, so that the next run with it does all rows.

    Its parts are listed and removed; nothing else there is touched. Where there is none, nothing happens. Costs one
    LIST and one DELETE per part. A run that is under way with it goes on, and writes down rows that end from now on.

    Args:
        place: as a run was given it as `checkpoint`.
        options: how S3 is reached; None: by boto3's default session.

    Raises:
        InvalidDatasetError: `place` is neither `s3://bucket[/prefix]` nor a directory.
        RowError: a part could not be listed or removed.

    Example:
        >>> def copy(input_dir, output_dir):
        ...     return {"copy.txt": input_dir / "scan.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
        >>> pipeline = Pipeline(copy, into_path="s3://my-bucket/copies/", progress=False)
        >>> result = pipeline.run(frame, checkpoint="s3://my-bucket/runs/copies/")
        >>> remove_checkpoint("s3://my-bucket/runs/copies/")
        >>> pipeline.plan(frame, checkpoint="s3://my-bucket/runs/copies/")
        Plan(2 of 2 rows to run: 2 new)
    """
    _options.check(options)
    found = place_of(place, Stores(options), options)
    try:
        found.remove_all(found.names())
    except OSError as exc:
        failure = Failure.of(None, "upload", exc, url=found)
        raise RowError([failure], f"the checkpoint {found} could not be removed: {failure}") from exc


def known_at(place: Place) -> tuple[parts.Known, dict[str, int]]:
    """Return what a checkpoint holds, and how many lines each of its parts has.

    A part that another run joins with others meanwhile is gone when it is read: then all are listed once more.

    Raises:
        InvalidDatasetError: a part is damaged, foreign, or of a later version.
        RowError: the store does not hand one over.
        OSError: they cannot be listed.
    """
    found: dict[str, parts.Part] = {}
    while True:
        names = place.names()
        for gone in set(found) - set(names):
            del found[gone]  # what it had is in another one
        missing = [name for name in names if name not in found]
        for name, content in place.read(missing):
            found[name] = parts.opened(content, place.path_of(name))
        if found.keys() >= set(names):
            counts = {name: part.lines.num_rows for name, part in found.items()}
            return parts.known_of(list(found.values())), counts
