"""A row with files on disk: its temp dir, made before its download and removed after its upload, and both copies."""

from __future__ import annotations

import functools
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from file_dataset import _existing, _frame, _outputs, _overwrites, _plan, _storing, _urls, _verdict
from file_dataset._arrival import Arrival
from file_dataset._effort import Cancelled
from file_dataset._errors import Failure, InvalidDatasetError, RowError
from file_dataset._local_file import LocalFile
from file_dataset._tally import Failed, Stored, stored_file
from file_dataset._tempdir import TempDir
from file_dataset._turns import Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from file_dataset._arrival import Arrived, Began
    from file_dataset._effort import Effort
    from file_dataset._prepared import Prepared
    from file_dataset._silence import Silence
    from file_dataset._stores import Stores
    from file_dataset._urls import Location
    from file_dataset._window import OnDisk


@dataclass(frozen=True, slots=True)
class Fetched:
    """A row whose files are in its input directory."""

    row: _plan.FileRow
    without_digest: int
    inputs: tuple[_frame.InputFile, ...]


class Flight:
    """A row that has, or is about to have, files on disk; at most a window of them are there.

    Attributes:
        fetched: None until its files are here.
        outcome: None until it is stored or has failed.
        task: of the pool, which finishes it; None where the calling thread does, and before.
    """

    __slots__ = (
        "_arriving",
        "_beginning",
        "_ended",
        "_files",
        "_has_begun",
        "_looking",
        "_missing",
        "_new_in",
        "_storing",
        "_taking_back",
        "_uploads",
        "_work",
        "cancelled",
        "dirs",
        "effort",
        "fetched",
        "input_dir",
        "on_disk",
        "outcome",
        "output_dir",
        "position",
        "task",
    )  # fmt: skip

    input_dir: Path
    output_dir: Path
    dirs: _outputs.RowDirs

    def __init__(self, position: int, on_disk: OnDisk, effort: Effort) -> None:
        self.position, self.on_disk, self.effort = position, on_disk, effort
        self.cancelled = Cancelled(effort)
        self.fetched: Fetched | None = None
        self.outcome: Stored | Failed | Ended | None = None
        self.task: Future[None] | None = None
        self._work: TempDir | None = None
        self._arriving: Arrival | None = None
        self._beginning = threading.Lock()  # held while its downloads are begun after its outputs were looked for
        self._looking: _existing.Look | None = None
        self._has_begun = False
        self._new_in: Stores | None = None  # where what it stores replaces nothing, so that it can be taken back
        self._missing: tuple[str, ...] | None = None  # the outputs of which that holds; None: all of them
        self._ended: Callable[[], object] = _nothing
        self._taking_back: _existing.TakingBack | None = None
        self._storing: _storing.Storing | None = None
        self._files: Mapping[str, _outputs.Output] = {}
        self._uploads = _plan.Uploads(())

    def _make_dirs(self, row: _plan.FileRow, where: Path | None) -> None:
        if self.cancelled.is_set():
            raise InterruptedError("cancelled")
        try:
            self._work = TempDir(where)
            path = str(self._work.path)
            for name in ("input", "output"):
                os.mkdir(f"{path}/{name}")  # noqa: PTH102  # pathlib costs more than the call
            self.input_dir, self.output_dir = self._work.path / "input", self._work.path / "output"
            own = os.path.realpath(path)  # now: fn may put a link in its place
            self.dirs = _outputs.RowDirs(f"{own}/input", f"{own}/output")
        except OSError as exc:
            raise RowError([Failure.of(row.id, "download", exc)]) from exc

    def fetch(
        self,
        prepared: Prepared,
        began: Began,
        then: Callable[[], object],
        elsewhere: Callable[[Callable[[], object]], object],
    ) -> None:
        """Begin to download the row's files into a directory of its own; before that, to look for its outputs.

        Args:
            prepared: the run.
            began: hears of their sizes.
            then: called when the last of them has ended, by the thread that ends it; it takes them by `arrive`.
            elsewhere: has a thread do something that may take a while.

        Raises:
            RowError: the row has no file, or nothing can be written.
        """
        row = _row_with_files(prepared.rows, self.position)
        download = functools.partial(self._download, prepared, row, began, then)
        if not _existing.is_looked_for(prepared):
            download()
            return

        def looked() -> None:
            self._looked(prepared, look, then, lambda: elsewhere(go_on))

        go_on = functools.partial(self._go_on, download, then)
        look = self._looking = _existing.Look(prepared, row.id)
        look.begin(looked)

    def _looked(
        self,
        prepared: Prepared,
        look: _existing.Look,
        then: Callable[[], object],
        go_on: Callable[[], object],
    ) -> None:
        """Have the outcome of a row that need not run, or cannot; else go on with it. In the loop's thread maybe."""
        self._looking = None
        if self.cancelled.is_set():
            return
        outcome: Stored | Failed | Ended | None = None
        try:
            outcome = look.seen(self.position)
            self._missing = look.missing()
            look.forget()
            if outcome is None:
                go_on()
        except OSError as exc:  # no thread to go on in
            outcome = Failed(RowError([Failure.of(prepared.rows.id_at(self.position), "download", exc)]))
        except BaseException as exc:  # noqa: BLE001  # a fault of ours ends the run, and not the thread that it is met in
            outcome = Ended(exc)
        if outcome is not None:
            self.outcome = outcome
            then()

    def _go_on(self, download: Callable[[], object], then: Callable[[], object]) -> None:
        """Begin the downloads of a row whose outputs are not there."""
        outcome: Failed | Ended | None = None
        with self._beginning:
            if self.cancelled.is_set():
                return
            try:
                download()
            except RowError as exc:
                outcome = Failed(exc)
            except BaseException as exc:  # noqa: BLE001  # what no row can do with ends the run
                outcome = Ended(exc)
        if outcome is not None:
            self.outcome = outcome
            then()

    def _download(self, prepared: Prepared, row: _plan.FileRow, began: Began, then: Callable[[], object]) -> None:
        self._make_dirs(row, prepared.temp_dir)
        took = self.timing("download_s")

        def arrive() -> None:
            # in the loop's thread maybe
            took()
            self._arrive(prepared.rows, row)
            then()

        self._arriving = arriving = Arrival(row, str(self.input_dir), prepared.source, self.cancelled)
        arriving.begin(began, arrive)

    def _arrive(self, rows: _frame.Rows, row: _plan.FileRow) -> None:
        arriving, self._arriving = self._arriving, None
        assert arriving is not None  # noqa: S101  # for mypy
        try:
            arrived = arriving.finish()
        except RowError as exc:
            self.outcome = Failed(exc, is_all=not arriving.has_any)
        except BaseException as exc:  # noqa: BLE001  # a fault of ours ends the run, and not the thread that it is met in
            self.outcome = Ended(exc)
        else:
            without_digest = sum(
                each.info.digest is None and isinstance(each.transfer.source, _urls.ObjectUrl) for each in arrived
            )
            inputs = tuple(_input_file(rows, self.position, each) for each in arrived)
            self.fetched = Fetched(row, without_digest, inputs)

    def store(
        self,
        prepared: Prepared,
        files: Mapping[str, _outputs.Output],
        uploads: _plan.Uploads,
        then: Callable[[], object],
    ) -> None:
        """Begin to upload what fn returned; `finish` when `then` was called, which is as in `fetch`.

        Raises:
            RowError: a local target cannot be written.
        """
        self._files, self._uploads = files, uploads
        took = self.timing("upload_s")

        def stored() -> None:
            took()
            then()

        if only_new := prepared.settings.if_exists == "error":
            self._missing = None
        if only_new or (prepared.settings.if_exists == "skip" and uploads.directories):
            self._new_in, self._ended = prepared.target, then
        self._storing = storing = _storing.Storing(uploads, prepared.target, self.cancelled)
        storing.store(prepared.extra_args, stored, only_new=only_new)
        self._has_begun = True  # all of them, which an interrupt can prevent

    def finish(self) -> bool:
        """Have the outcome of a row whose uploads have ended: it is done when all of them are stored.

        Returns False where it has begun to take back what it stored: then `then` is called once more.
        """
        if self.outcome is None and self._taking_back is not None:
            self.outcome = self._taking_back.outcome()
        elif self.outcome is None and (storing := self._storing) is not None and self.fetched is not None:
            outcome, stored = self._stored_or_not(storing, self.fetched), self._new(storing)
            storing.forget()
            ended, self._ended = self._ended, _nothing  # which refers to this
            if isinstance(outcome, Failed) and stored and self._new_in is not None:
                note = f"; removed again: {', '.join(self._missing)}" if self._missing else ""
                self._taking_back = _existing.TakingBack(outcome, stored, self._new_in, note)
                self._taking_back.begin(ended)
                return False
            self.outcome = outcome
        return True

    def _stored_or_not(self, storing: _storing.Storing, fetched: Fetched) -> Stored | Failed | Ended:
        try:
            infos = storing.finish_out()
        except RowError as exc:
            is_refused = not storing.stored() and _verdict.is_refusal(exc, storing.begun)
            return Failed(exc, is_refused=is_refused, inputs=fetched.inputs)
        except Exception as exc:  # noqa: BLE001  # a fault of ours ends the run
            return Ended(exc)
        read = zip(self._uploads.files, infos, strict=True)
        return Stored(
            dict.fromkeys(self._files) | self._uploads.locations,
            tuple(stored_file(self.position, up.file, up.target, info) for up, info in read),
            fetched.without_digest,
            fetched.inputs,
        )

    def timing(self, what: str) -> Callable[..., None]:
        """Begin to measure a stage; return what ends it."""
        started = time.monotonic()
        return lambda *_: self.effort.add(what, time.monotonic() - started)

    def silent(self) -> Iterator[tuple[Silence, str]]:
        """Yield what it waits for, and who knows for how long no byte has moved."""
        waiting = self._taking_back or self._storing or self._arriving or self._looking
        return iter(()) if waiting is None else waiting.silent()

    @property
    def is_uploading(self) -> bool:
        """Whether fn is done with it, and its uploads are not."""
        is_storing = self._storing is not None and not self._storing.is_over
        return self._has_begun and (is_storing or any(self.silent()))

    def give_up(self) -> list[Future[Any]]:
        """Leave no file behind outside its directory; return what is to be waited for: it has been cancelled."""
        if self.task is not None and not self.task.cancel():
            return [self.task]  # which finishes it
        with self._beginning:  # its downloads may be about to begin
            arriving = self._arriving
        if arriving is not None:
            arriving.give_up()
        return [] if self._storing is None else self._storing.give_up()

    def stored_meanwhile(self) -> Stored | None:
        """Return the outcome of a row that was stored before it could be cancelled: then it counts."""
        storing = self._storing
        if storing is not None and storing.is_whole and (self.task is None or self.task.cancelled()):
            self.finish()
        return self.outcome if isinstance(self.outcome, Stored) else None

    def take_back(self) -> list[Future[Any]]:
        """Have what is removed that was stored of a row that was given up, where nothing was there before.

        Returns what is to be waited for.
        """
        stores, storing = self._new_in, self._storing
        if self._taking_back is None and self.outcome is None and stores is not None and storing is not None:
            self._taking_back = _existing.TakingBack(None, self._new(storing), stores)
            return [*self._taking_back.begin(_nothing)]
        return [] if self._taking_back is None else [*self._taking_back.running]

    def _new(self, storing: _storing.Storing) -> Mapping[str, Location]:
        """Return what is stored where nothing was."""
        stored, missing = storing.stored(), self._missing
        if missing is None:
            return stored
        below = tuple(f"{name}/" for name in missing)
        return {file: at for file, at in stored.items() if file in missing or file.startswith(below)}

    def clean_up(self) -> None:
        """Remove the row's files."""
        if self._work is not None:
            self._work.cleanup()


def _nothing() -> None:
    pass


def uploads_of(prepared: Prepared, row: _plan.FileRow, files: Mapping[str, _outputs.Output]) -> _plan.Uploads:
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


def _input_file(rows: _frame.Rows, position: int, arrived: Arrived) -> _frame.InputFile:
    download, info = arrived.transfer, arrived.info
    at, digest = download.source, info.digest
    assert not isinstance(at, LocalFile)  # noqa: S101  # the source of a download is a location
    etag = info.etag if info.modified_ns is None else str(info.modified_ns)
    # an MD5 is the ETag once more
    checksum = None if digest is None or digest.algorithm == "MD5" else str(digest)
    text = str(at) if arrived.is_member else rows.text_at(position, download.file, at)
    return _frame.InputFile(position, download.file, text, info.size_bytes, etag, info.version_id, checksum)
