"""A result at rest: its frames as Parquet below one place, in S3 or a local directory. Nothing is ever unpickled.

    <place>/failures.parquet
    <place>/files.parquet
    <place>/inputs.parquet
    <place>/manifest.parquet    has the counts in its notes, and is the last to be stored in S3

All have the stamp of their save in their notes: frames of two saves are seen, and never taken for one result.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _options, _plan, _stores, _storing, _transfer, _urls, parquet
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._local_file import LocalFile
from file_dataset._secrets import masked, without_userinfo
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    import mmap
    import os
    from collections.abc import Mapping

    import pandas as pd

    from file_dataset._options import Options
    from file_dataset._urls import Location

_MANIFEST = "manifest"
# attributes of a result, in the order in which S3 gets them
FRAMES = ("failures", "files", "inputs", _MANIFEST)

# notes of a file
_STAMP = "stamp"
_FRAME = "saved_frame"  # which of a result's frames it is
_VERSION_KEY, _VERSION = "saved_version", 1  # of the manifest: what lies beside it, and what its notes have

_REMEDY = "save the result again"
_ABSENT = {"FileNotFoundError", "NotADirectoryError"}


@dataclass(frozen=True, slots=True)
class Saved:
    """What lies at a place: the frames of a result by name, how many rows its input had, and its other attributes."""

    frames: Mapping[str, pd.DataFrame]
    input_rows: int
    files_without_digest: int
    hint: str | None

    @property
    def notes(self) -> dict[str, Any]:
        """What the manifest's notes have of it."""
        return {
            "input_rows": self.input_rows,
            "files_without_digest": self.files_without_digest,
            "hint": self.hint and masked(self.hint),
        }


def save(result: Saved, place: str | os.PathLike[str], options: Options | None) -> None:
    """Store the frames of a result, local ones all together, those in S3 with the manifest last.

    Raises:
        InvalidDatasetError: `place` is no prefix or directory, or Parquet would change a value; nothing was stored.
        RowError: a file could not be stored.
    """
    at = _parsed(place, options)
    stores = _stores.Stores(options)
    notes = {_STAMP: uuid.uuid4().hex}
    with TempDir() as directory:
        transfers = []
        for name in FRAMES:
            more = result.notes | {_VERSION_KEY: _VERSION} if name == _MANIFEST else {}
            path = directory / _file(name)
            path.write_bytes(_content(name, result.frames[name], notes | {_FRAME: name} | more))
            transfers.append(_plan.Transfer(None, path.name, LocalFile.at(path), _urls.join(at, path.name)))
        # a manifest in S3 is of a result that is whole
        groups = [transfers] if isinstance(at, Path) else [transfers[:-1], transfers[-1:]]
        try:
            for group in groups:
                _storing.copy_out(_plan.Uploads(group), stores, {})
        except RowError as exc:
            raise RowError(exc.failures, f"the result could not be saved at {at}: {exc.message}") from exc


def load(place: str | os.PathLike[str], options: Options | None) -> Saved:
    """Read what `save` has stored, one GET per frame, all at once.

    Raises:
        InvalidDatasetError: nothing is saved there, or no whole result; names the file and the remedy.
        RowError: a file could not be read.
    """
    return _load(_parsed(place, options), _stores.Stores(options))


def _load(place: Location, stores: _stores.Stores) -> Saved:
    """Find out what lies at the place, and read it."""
    uris = {name: _urls.join(place, _file(name)) for name in FRAMES}
    blobs = _blobs(uris, stores)
    if not blobs:
        if (written_down := _written_down(place, stores)) is not None:
            return written_down
        raise InvalidDatasetError(
            f"no result is saved at {place}, and no checkpoint: there is no {uris[_MANIFEST]}{_asked(place, stores)}. "
            "Give the place that PipelineResult.save was given, or the checkpoint of a run"
        )
    # the manifest first: whether it is a result at all
    notes = {name: _notes(name, blobs[name], str(uris[name])) for name in reversed(FRAMES) if name in blobs}
    if lacking := [str(uris[name]) for name in FRAMES if name not in blobs]:
        raise InvalidDatasetError(
            f"the result at {place} is not whole: there is no {' and no '.join(lacking)}; {_REMEDY}"
        )
    about = notes[_MANIFEST]
    if others := [str(uris[name]) for name in FRAMES if notes[name][_STAMP] != about[_STAMP]]:
        raise InvalidDatasetError(
            f"the result at {place} is overwritten by half: {', '.join(others)} and {uris[_MANIFEST]} are of two "
            f"saves. A save was interrupted, or is under way: {_REMEDY}"
        )
    frames = {name: parquet.from_parquet(blob, str(uris[name]), remedy=_REMEDY) for name, blob in blobs.items()}
    return Saved(frames, about.get("input_rows", 0), about.get("files_without_digest", 0), about.get("hint"))


def _written_down(place: Location, stores: _stores.Stores) -> Saved | None:
    """Return what a checkpoint has of the rows of its runs; None: there is none."""
    from file_dataset._checkpoint.frames import frames_of
    from file_dataset._checkpoint.place import Place, known_at

    try:
        known, parts = known_at(Place(place.absolute() if isinstance(place, Path) else place, stores))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise RowError([Failure.of(None, "download", exc, url=place)]) from exc
    if not parts:
        return None
    frames, without_digest = frames_of(known)
    return Saved(frames, len(frames["manifest"]) + frames["failures"]["id"].nunique(), without_digest, None)


def _parsed(place: object, options: Options | None) -> Location:
    _options.check(options)
    return _urls.parse_prefix(place, local_paths=_options.takes_local_paths(options), what="place")


def _file(name: str) -> str:
    return f"{name}.parquet"


def _content(name: str, frame: pd.DataFrame, notes: Mapping[str, Any]) -> Any:  # noqa: ANN401  # pyarrow has no types
    try:
        return parquet.to_parquet(frame, notes)
    except InvalidDatasetError as exc:
        raise InvalidDatasetError(f"the result's {name} is not saved: {exc}") from None


def _blobs(uris: Mapping[str, Location], stores: _stores.Stores) -> dict[str, bytearray | mmap.mmap]:
    """Return what lies at these places, all read at once, without those where nothing is.

    Raises:
        InvalidDatasetError: a directory lies there.
        RowError: a file could not be read.
    """
    wanted = [_transfer.Wanted(None, name, at, 0) for name, at in uris.items()]
    found: dict[str, bytearray | mmap.mmap] = {}
    try:
        for file, blob in _transfer.read_each(wanted, stores, limit_bytes=None):
            found[file.file] = blob
    except RowError as exc:
        bad = [failure for failure in exc.failures if failure.type not in _ABSENT]
        if bad and bad[0].type == "IsADirectoryError":
            raise InvalidDatasetError(
                f"{bad[0].url} is a directory, and no file of a saved result: give the place that PipelineResult.save "
                "was given"
            ) from exc
        if bad:
            raise RowError(bad, f"the saved result could not be read: {RowError(bad).message}") from exc
    return found


def _notes(name: str, blob: bytearray | mmap.mmap, uri: str) -> dict[str, Any]:
    notes = parquet.notes_of(blob, uri, remedy=_REMEDY)
    if notes.get(_FRAME) != name or _STAMP not in notes:
        raise InvalidDatasetError(
            f"{uri} is not the {name} of a saved result: PipelineResult.save did not write it. Read it with "
            "file_dataset.parquet.from_parquet"
        )
    if (version := notes.get(_VERSION_KEY, _VERSION)) != _VERSION:
        raise InvalidDatasetError(
            f"{uri} is of a result that was saved as version {version}, this file_dataset reads {_VERSION}: upgrade "
            "file-dataset"
        )
    return notes


def _asked(place: Location, stores: _stores.Stores) -> str:
    """Return which endpoint was asked: a wrong one shows by nothing else."""
    if isinstance(place, Path) or not (endpoint := stores.request_endpoint):
        return ""
    return f" ({without_userinfo(endpoint)} was asked)"
