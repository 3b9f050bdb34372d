"""The outputs of one row on their way to where they are stored: files, and directories as they are seen whole.

In S3 the files of a directory are objects of their own. What is there of an earlier run is removed when all outputs of
the row are stored (`_stale`). On disk a directory takes the place of another as one (`_swap`).
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import Counter
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _in_order
from file_dataset._errors import Failure, RowError, exists_already, is_fatal, is_unanswered, store_error
from file_dataset._local_file import LocalFile
from file_dataset._plan import Transfer
from file_dataset._silence import Silence, awaited
from file_dataset._sink import ObjectInfo, Sink
from file_dataset._stale import Occupied, Stale
from file_dataset._swap import Swap
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from file_dataset._plan import DirectoryUpload, Uploads
    from file_dataset._store import RemoteStore
    from file_dataset._stores import Stores
    from file_dataset._urls import Location

# For uploads that were interrupted to abort what they began; a guess.
_GRACE_S = 5.0
_SHOWN = 20  # URLs in a message; a guess


def copy_out(uploads: Uploads, stores: Stores, extra_args: Mapping[str, Any]) -> None:
    """Store every local source at its target; local targets are replaced all together or not at all.

    Raises:
        RowError: files that failed, every one of them, with the URL that was to be written, and what was replaced.
    """
    storing = Storing(uploads, stores, threading.Event())
    try:
        storing.store(extra_args, lambda: None)
        storing.wait()
        storing.finish_out()
    except BaseException:
        storing.abandon()
        raise


def abandon(rows: Sequence[Storing], cancelled: threading.Event) -> None:
    """Cancel what has begun of many rows, and leave no file behind but those that have their names."""
    cancelled.set()
    wait([begun for storing in rows for begun in storing.give_up()], timeout=_GRACE_S)
    for storing in rows:
        storing.discard()


class Storing:
    """The outputs of one row on their way.

    All files are begun at once, or, where they are very many, others when half have ended.
    """

    def __init__(self, uploads: Uploads, stores: Stores, cancelled: threading.Event) -> None:
        """Begin nothing yet."""
        self._uploads, self._transfers = uploads, uploads.files
        self._stores, self._cancelled = stores, cancelled
        self._is_local = any(isinstance(each.target, Path) for each in uploads.files)
        self._is_given_up = self._only_new = False
        self._sinks: list[Sink] = []  # of local targets
        self._swaps: dict[str, Swap] = {}  # the same, by the name of the directory
        self._moves: _in_order.Together[ObjectInfo] | None = None
        self._occupied: Occupied | None = None
        self._stale: Stale | None = None
        self._changes: list[tuple[Failure, OSError]] | None = None
        self._end: Future[None] = Future()

    def store(self, extra_args: Mapping[str, Any], then: Callable[[], object], *, only_new: bool = False) -> None:
        """Begin to store every local source at its target; `only_new`: where nothing is there.

        Args:
            extra_args: boto3's, of uploads.
            then: called when all has ended, by the thread that ends it: it must not wait for anything.
            only_new: nothing is replaced.

        Raises:
            RowError: a local target cannot be written.
        """
        self._only_new = only_new

        def upload(at: int) -> Future[ObjectInfo]:
            transfer = self._transfers[at]
            assert isinstance(transfer.source, LocalFile)  # noqa: S101  # the plan of an upload
            assert isinstance(transfer.target, ObjectUrl)  # noqa: S101
            # there may be no store: no such profile
            store: RemoteStore[ObjectUrl] = self._stores.s3
            return store.upload(
                transfer.source, transfer.target, extra_args=extra_args, cancelled=self._cancelled, only_new=only_new
            )

        def end() -> None:
            self._end.set_result(None)
            then()

        if self._is_local:
            self._make_sinks()
            self._begin(self._download, end)
        elif only_new and self._uploads.directories:
            self._occupied = occupied = Occupied(self._uploads.directories, self._stores, self._cancelled)
            occupied.begin(lambda: self._begin(upload, end) if occupied.is_over else end())
        else:
            self._begin(upload, lambda: self._clear(end))

    def _download(self, at: int) -> Future[ObjectInfo]:
        source = self._transfers[at].source
        return self._stores.of(source).download(source, self._sinks[at])

    def _begin(self, start: Callable[[int], Future[ObjectInfo]], then: Callable[[], object]) -> None:
        self._moves = _in_order.Together(len(self._transfers), start, self._stores, self._cancelled)
        self._moves.begin(then)

    def _clear(self, end: Callable[[], object]) -> None:
        """Remove what is no part of directories, where all is stored."""
        if not (self._clears and self._are_stored):
            end()
            return
        is_right = lambda: not self._changed_sources()  # noqa: E731
        self._stale = Stale(self._uploads, self._stores, self._cancelled, is_right=is_right)
        self._stale.begin(end)

    @property
    def _clears(self) -> bool:
        return bool(self._uploads.directories) and not (self._is_local or self._only_new)

    def _make_sinks(self) -> None:
        if self._only_new:
            _check_new([each for each in self._transfers if self._directory_of(each) is None])
        for directory in self._uploads.directories:
            try:
                self._swaps[directory.name] = Swap(str(directory.target), only_new=self._only_new)
            except OSError as exc:
                self.discard()
                raise RowError([_of(directory, exc)]) from exc
        is_new: dict[str, bool] = {}
        try:
            self._sinks = [self._sink_of(transfer, is_new) for transfer in self._transfers]
        except BaseException:
            self.discard()
            raise

    def _sink_of(self, transfer: Transfer[Any], is_new: dict[str, bool]) -> Sink:
        if (name := self._directory_of(transfer)) is None:
            return _sink_of(transfer, self._cancelled, is_new)
        below = transfer.file.removeprefix(f"{name}/")
        return Sink(f"{self._swaps[name].path}/{below}", self._cancelled, is_alone=True)

    def _directory_of(self, transfer: Transfer[Any]) -> str | None:
        """Return the name of the directory that a file is of; None: it is an output of its own."""
        names = (each.name for each in self._uploads.directories)
        return next((name for name in names if transfer.file.startswith(f"{name}/")), None)

    @property
    def _are_stored(self) -> bool:
        return self._moves is not None and self._moves.is_whole and not self._is_given_up

    @property
    def is_whole(self) -> bool:
        """Whether all has ended well."""
        return self._are_stored and (not self._clears or (self._stale is not None and self._stale.is_over))

    @property
    def is_over(self) -> bool:
        """Whether all has ended, well or not."""
        return self._end.done()

    @property
    def begun(self) -> int:
        """How many files have begun: after a failure none of the later ones does."""
        return 0 if self._moves is None else self._moves.begun

    def silent(self) -> Iterator[tuple[Silence, str]]:
        """Yield what is waited for, and who knows for how long no byte has moved."""
        for at in [] if self._moves is None else self._moves.running:
            transfer = self._transfers[at]
            place = transfer.source if self._is_local else transfer.target
            shown = place.path if isinstance(place, LocalFile) else place
            yield self._stores.of(place).silence, str(shown)
        for step in (self._occupied, self._stale):
            if step is not None:
                yield from ((self._stores.s3.silence, str(at)) for at in step.running())

    def wait(self) -> None:
        """Wait until all has ended; who is interrupted is to `abandon` it."""

        def silence() -> Silence:
            return next((one for one, _ in self.silent()), Silence())

        def late() -> str:
            return awaited([place for _, place in self.silent()])

        if not self._end.done():
            _in_order.wait_for(self._end, self._cancelled, silence, late)

    def abandon(self) -> None:
        """Cancel what has begun, and leave no file behind but those that have their names."""
        abandon([self], self._cancelled)

    def discard(self) -> None:
        """Leave no file behind, where all had ended."""
        for sink in self._sinks:
            sink.discard()
        for swap in self._swaps.values():
            swap.discard()

    def give_up(self) -> list[Future[Any]]:
        """Leave no file behind; return the requests that have begun, and abort what they began. `cancelled` is set."""
        begun: list[Future[Any]] = [] if self._moves is None else [*self._moves.cancel()]
        if self._occupied is not None:
            self._occupied.cancel()
        if self._stale is not None:
            begun += self._stale.cancel()
        if not self._is_local:
            return begun
        if not self.is_whole:
            self._is_given_up = True  # what ends well from now on has no file
            self.discard()
        return []

    def forget(self) -> None:
        """Let go of what has ended: its callbacks refer to this, which would wait for the garbage collector."""
        self._moves, self._stale, self._sinks = None, None, []

    def finish_out(self) -> list[ObjectInfo]:
        """Give local targets their names, and return what was stored.

        Raises:
            RowError: files that failed, every one of them, with the URL that was to be written, and what was replaced.
        """
        try:
            if self._occupied is not None and not self._occupied.is_over:
                raise _row_error(self._occupied.failures())
            infos = self._infos()
            if changed := self._changed_sources():
                raise _row_error(changed)
            self._commit()
            if self._stale is not None and (left := self._stale.failures()):
                raise _row_error(left)
        except RowError as exc:
            if self._is_local:
                for sink in self._sinks:
                    sink.take_back()
                self.discard()
                raise
            if self._only_new:  # the caller takes back what is stored
                raise
            raise self._noted(exc) from exc.__cause__
        for swap in self._swaps.values():
            swap.end()
        return infos

    def _commit(self) -> None:
        for directory in self._uploads.directories if self._is_local else ():
            try:
                self._swaps[directory.name].commit()
            except OSError as exc:
                raise RowError([_of(directory, exc)]) from exc
        for transfer, sink in zip(self._transfers, self._sinks, strict=bool(self._sinks)):
            try:
                if self._only_new and self._directory_of(transfer) is None:
                    sink.commit_new()
                else:
                    sink.commit()
            except OSError as exc:  # a directory lies there, say
                raise RowError([_failure(transfer, exc)]) from exc

    def _noted(self, error: RowError) -> RowError:
        """Return the error with what was stored: S3 has no transaction over objects, so that nothing is as before."""
        failed = {failure.file for failure in error.failures}
        stored = [self._transfers[at] for at in sorted(self._moves.results if self._moves else ())]
        of = [(each, self._directory_of(each)) for each in stored if each.file not in failed]
        counts = Counter(name for _, name in of if name is not None)
        shown = [str(each.target) for each, name in of if name is None]
        shown += [
            f"{counts[each.name]} of {len(each.source.files)} objects below {each.url}"
            for each in self._uploads.directories
            if counts[each.name]
        ]
        if not shown:
            return error
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        note = f" (stored before that, and listed nowhere: {', '.join(shown[:_SHOWN])}{more})"
        return RowError([dataclasses.replace(each, message=each.message + note) for each in error.failures])

    def stored(self) -> dict[str, Location]:
        """Return where the files lie that are stored in S3, by name, also where others failed."""
        ended = [] if self._moves is None or self._is_local else self._moves.results
        return {self._transfers[at].file: self._transfers[at].target for at in ended}

    def _infos(self) -> list[ObjectInfo]:
        assert self._moves is not None  # noqa: S101  # it has begun
        failed = _in_order.FailedFiles(_failure)
        for at, error in self._moves.errors():
            failed.add(self._transfers[at], error)
        if failed.all:
            raise failed.row_error()
        return [self._moves.results[at] for at in range(len(self._transfers))]

    def _changed_sources(self) -> list[tuple[Failure, OSError]]:
        """Return the sources that are not what they were: what is written on after its copy would be stored cut off."""
        if self._changes is None:
            self._changes = []
            sources: list[Transfer[Any] | DirectoryUpload] = [*self._transfers, *self._uploads.directories]
            for each in sources:
                assert not isinstance(each.source, Path | ObjectUrl)  # noqa: S101  # the plan of an upload
                try:
                    each.source.check()
                except OSError as exc:
                    self._changes.append((self._changed(each, exc), exc))
        return self._changes

    def _changed(self, each: Transfer[Any] | DirectoryUpload, error: OSError) -> Failure:
        failure = _failure(each, error) if isinstance(each, Transfer) else _of(each, error)
        if self._is_local or self._only_new:
            return failure
        what = "the file" if isinstance(each, Transfer) else "the directory"
        note = f" ({failure.url} was stored before that was seen: it may hold a part of {what}, or two states of it)"
        return dataclasses.replace(failure, message=failure.message + note)


def _failure(transfer: Transfer[Any], error: OSError) -> Failure:
    return Failure.of(transfer.row_id, "upload", error, file=transfer.file, url=transfer.target)


def _of(directory: DirectoryUpload, error: OSError) -> Failure:
    return Failure.of(directory.row_id, "upload", error, file=directory.name, url=directory.url)


def _row_error(failed: Sequence[tuple[Failure, OSError]]) -> RowError:
    error = RowError([failure for failure, _ in failed])
    errors = [one for _, one in failed]
    error.__cause__ = next((one for one in errors if is_fatal(one) or is_unanswered(one)), errors[0])
    return error


def _sink_of(transfer: Transfer[Any], cancelled: threading.Event, is_new: dict[str, bool]) -> Sink:
    """Return where a file goes that is to be stored on disk; its directory is made, and noted in `is_new`."""
    target = os.fspath(transfer.target)
    directory = target.rpartition("/")[0]
    try:
        if directory not in is_new:
            is_new[directory] = _make_directory(directory)
        # found now, no other file of the row has been replaced yet
        if not is_new[directory] and os.path.isdir(target):  # noqa: PTH112
            raise store_error(IsADirectoryError, f"{target} is a directory, which no file can replace: remove it")
    except OSError as exc:
        raise RowError([Failure.of(transfer.row_id, "upload", exc, file=transfer.file, url=target)]) from exc
    return Sink(target, cancelled)


def _check_new(transfers: Sequence[Transfer[Any]]) -> None:
    """See that nothing lies at local targets, before anything is copied; naming them sees it again.

    Raises:
        RowError: targets that are there, every one of them.
    """
    there = [transfer for transfer in transfers if os.path.lexists(transfer.target)]  # pathlib costs more
    if there:
        exists = exists_already()
        raise RowError(
            [Failure.of(each.row_id, "upload", exists, file=each.file, url=each.target) for each in there]
        ) from exists


def _make_directory(path: str) -> bool:
    """Make a directory and those above it; return whether it is new, so that nothing can lie in it."""
    try:
        os.mkdir(path)  # noqa: PTH102
    except FileExistsError:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103  # raises when it is a file
        return False
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        return False
    return True
