"""A row with files on disk: its temp dir, made before its download and removed after its upload, and both copies."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from file_dataset import _frame, _outputs, _overwrites, _plan, _transfer, _urls, _verdict
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._tally import Failed, Stored
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from file_dataset._local_file import LocalFile
    from file_dataset._prepared import Prepared
    from file_dataset._sink import ObjectInfo
    from file_dataset._window import OnDisk


@dataclass(frozen=True, slots=True)
class Fetched:
    """A row whose files are in its input directory."""

    row: _plan.FileRow
    without_digest: int


class Flight:
    """A row that has, or is about to have, files on disk; at most `window` of them are there."""

    __slots__ = ("cancelled", "dirs", "input_dir", "on_disk", "output_dir", "position", "work")

    input_dir: Path
    output_dir: Path
    dirs: _outputs.RowDirs

    def __init__(self, position: int, on_disk: OnDisk) -> None:
        self.position, self.on_disk = position, on_disk
        self.cancelled = threading.Event()
        self.work: TempDir | None = None

    def _make_dirs(self, row: _plan.FileRow, where: Path | None) -> None:
        if self.cancelled.is_set():
            raise InterruptedError("cancelled")
        try:
            self.work = TempDir(where)
            self.input_dir, self.output_dir = self.work.path / "input", self.work.path / "output"
            self.input_dir.mkdir()
            self.output_dir.mkdir()
            own = os.path.realpath(self.work.path)  # now: fn may put a link in its place
            self.dirs = _outputs.RowDirs(f"{own}/input", f"{own}/output")
        except OSError as exc:
            raise RowError([Failure.of(row.id, "download", exc)]) from exc

    def fetch(self, prepared: Prepared, began: _transfer.Began | None) -> Fetched | Failed:
        """Download the row's files into a directory of its own; `began` hears of their sizes."""
        downloads: list[_plan.Transfer[str]] = []
        try:
            row = _row_with_files(prepared.rows, self.position)
            self._make_dirs(row, prepared.temp_dir)
            downloads = _plan.downloads(row, str(self.input_dir))
            infos = _transfer.copy_in(downloads, prepared.source, cancelled=self.cancelled, began=began)
        except RowError as exc:
            return Failed(exc, is_all=len(exc.failures) == len(downloads))
        without_digest = sum(
            info.digest is None and isinstance(down.source, _urls.ObjectUrl)
            for down, info in zip(downloads, infos, strict=True)
        )
        return Fetched(row, without_digest)

    def store(
        self,
        prepared: Prepared,
        fetched: Fetched,
        files: Mapping[str, LocalFile | None],
        uploads: Sequence[_plan.Transfer[_urls.Location]],
    ) -> Stored | Failed:
        """Upload what fn returned; the row is done when all of it is stored."""
        try:
            infos = _transfer.copy_out(uploads, prepared.target, prepared.extra_args, cancelled=self.cancelled)
        except RowError as exc:
            return Failed(exc, is_refused=_verdict.is_refusal(exc, len(uploads)))
        return Stored(
            dict.fromkeys(files) | {up.file: str(up.target) for up in uploads},
            tuple(_stored_file(self.position, up, info) for up, info in zip(uploads, infos, strict=True)),
            fetched.without_digest,
        )

    def clean_up(self) -> None:
        """Remove the row's files."""
        if self.work is not None:
            self.work.cleanup()


def uploads_of(
    prepared: Prepared, row: _plan.FileRow, files: Mapping[str, LocalFile | None]
) -> list[_plan.Transfer[_urls.Location]]:
    """Return what is to be uploaded of a row.

    Raises:
        RowError: a key would be too long, or an upload would replace an input.
    """
    try:
        uploads = _plan.uploads(row.id, files, prepared.prefix)
    except InvalidDatasetError as exc:  # a key that is too long
        raise RowError([Failure.of(row.id, "upload", exc)]) from exc
    if on_top := _overwrites.failures(uploads, prepared.inputs):
        raise RowError(on_top)
    return uploads


def _row_with_files(rows: _frame.Rows, position: int) -> _plan.FileRow:
    row = rows.row(position)
    if all(at is None for at in row.files.values()):
        message = "the row has no file: every file column is null"
        raise RowError([Failure(row.id, "download", None, None, "ValueError", None, message)])
    return row


def _stored_file(position: int, upload: _plan.Transfer[_urls.Location], info: ObjectInfo) -> _frame.StoredFile:
    checksum = None if info.digest is None else str(info.digest)
    return _frame.StoredFile(position, upload.file, str(upload.target), info.size_bytes, info.etag, checksum)
