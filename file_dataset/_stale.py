"""Directories in S3 whose files are stored: what is there of an earlier run, and what of it is removed.

One LIST per directory and 1,000 keys of it, and one DELETE per object that is no part of the output. Nothing outside a
directory's own prefix, `<into_path>/<id>/<name>/`, is looked at or removed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from file_dataset import _in_order, _urls
from file_dataset._errors import Failure, code_of, exists_already

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from file_dataset._plan import DirectoryUpload, Uploads
    from file_dataset._store import Listing, Page
    from file_dataset._stores import Stores

_DENIED = "AccessDenied"


def prefix_of(directory: DirectoryUpload) -> _urls.ObjectUrl:
    """Return what the keys of a directory's objects begin with, as a location."""
    at = _urls.directory_at(directory.target).at
    assert isinstance(at, _urls.ObjectUrl), "a directory in S3"  # noqa: S101
    return at


class Occupied:
    """Looks whether anything lies below directories that are to be new: one LIST for each."""

    def __init__(self, directories: Sequence[DirectoryUpload], stores: Stores, cancelled: threading.Event) -> None:
        """Ask nothing yet."""
        self._directories = directories

        def look(at: int) -> Future[Page]:
            return stores.s3.page(prefix_of(directories[at]), cancelled=cancelled)

        self._looks: _in_order.Together[Page] = _in_order.Together(len(directories), look, stores, cancelled)
        self.begin = self._looks.begin
        self.cancel = self._looks.cancel

    @property
    def is_over(self) -> bool:
        """Whether all was answered, and nothing is there."""
        return self._looks.is_whole and not any(page.found for page in self._looks.results.values())

    def running(self) -> Iterator[_urls.ObjectUrl]:
        """Yield what is waited for."""
        return (prefix_of(self._directories[at]) for at in self._looks.running)

    def failures(self) -> list[tuple[Failure, OSError]]:
        """Return the directories of which something is there, and those that could not be looked at."""
        failed = [(_unlisted(self._directories[at], error), error) for at, error in self._looks.errors()]
        there = [at for at, page in sorted(self._looks.results.items()) if page.found]
        return failed + [(_of(self._directories[at], error), error) for at in there for error in [exists_already()]]


class Stale:
    """Removes the objects below directories that are no part of what was stored there."""

    def __init__(
        self, uploads: Uploads, stores: Stores, cancelled: threading.Event, *, is_right: Callable[[], bool]
    ) -> None:
        """Ask nothing yet.

        Args:
            uploads: what is stored.
            stores: where.
            cancelled: nothing more is removed when it is set.
            is_right: whether what is stored is what was to be; else nothing is removed. It may take a while.
        """
        self._uploads, self._stores, self._cancelled, self._is_right = uploads, stores, cancelled, is_right
        directories = self._directories = uploads.directories

        def look(at: int) -> Future[Listing]:
            return stores.s3.list(prefix_of(directories[at]), cancelled=cancelled)

        self._lists: _in_order.Together[Listing] = _in_order.Together(len(directories), look, stores, cancelled)
        self._removals: _in_order.Together[None] | None = None
        self._stale: list[tuple[DirectoryUpload, _urls.ObjectUrl]] = []
        self._fault: Exception | None = None  # of ours

    def begin(self, then: Callable[[], object]) -> None:
        """Begin; `then` is called when all has ended, by the thread that ends it: it must not wait."""
        self._lists.begin(lambda: self._listed(then))

    def _listed(self, then: Callable[[], object]) -> None:
        """Begin to remove what is not stored. In a thread of a store, which drops what is raised in it."""
        try:
            if not self._lists.is_whole or self._cancelled.is_set() or not self._is_right():
                then()
                return
            self._stale = list(self._left_over())
            self._removals = _in_order.Together(len(self._stale), self._remove, self._stores, self._cancelled)
        except Exception as exc:  # noqa: BLE001  # handed over
            self._fault = exc
            then()
            return
        self._removals.begin(then)

    def _left_over(self) -> Iterator[tuple[DirectoryUpload, _urls.ObjectUrl]]:
        stored = {up.target.key for up in self._uploads.files if isinstance(up.target, _urls.ObjectUrl)}
        for at in range(len(self._directories)):
            prefix = prefix_of(self._directories[at])
            for each in self._lists.results.pop(at):
                assert isinstance(each.at, _urls.ObjectUrl)  # noqa: S101  # of S3's store
                # a store that lists what was not asked for loses nothing
                if each.at.key not in stored and each.at.key.startswith(prefix.key):
                    yield self._directories[at], each.at

    def _remove(self, at: int) -> Future[None]:
        return self._stores.s3.remove(self._stale[at][1], cancelled=self._cancelled)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self._removals is not None and self._removals.is_whole

    def running(self) -> Iterator[_urls.ObjectUrl]:
        """Yield what is waited for."""
        yield from (prefix_of(self._directories[at]) for at in self._lists.running)
        if self._removals is not None:
            yield from (self._stale[at][1] for at in self._removals.running)

    def cancel(self) -> list[Future[None]]:
        """Cancel what runs; return the removals that cannot be. `cancelled` is set."""
        self._lists.cancel()
        return [] if self._removals is None else self._removals.cancel()

    def failures(self) -> list[tuple[Failure, OSError]]:
        """Return what could not be listed, or removed; call it when all has ended and `is_right` holds."""
        if self._fault is not None:
            raise self._fault
        if self._removals is None:
            return [(_unlisted(self._directories[at], error), error) for at, error in self._lists.errors()]
        return [(self._left(*self._stale[at], error), error) for at, error in self._removals.errors()]

    def _left(self, directory: DirectoryUpload, url: _urls.ObjectUrl, error: OSError) -> Failure:
        file = f"{directory.name}/{url.key.removeprefix(prefix_of(directory).key)}"
        remedy = "allow s3:DeleteObject, or remove it" if code_of(error) == _DENIED else "remove it"
        why = f"an object of an earlier run, no part of {directory.url} any more, could not be removed: {remedy}"
        return _with(Failure.of(directory.row_id, "upload", error, file=file, url=url), why)


def _unlisted(directory: DirectoryUpload, error: OSError) -> Failure:
    remedy = ": a directory is stored with s3:ListBucket, allow it" if code_of(error) == _DENIED else ""
    return _with(_of(directory, error), f"what lies there could not be listed{remedy}")


def _of(directory: DirectoryUpload, error: OSError) -> Failure:
    return Failure.of(directory.row_id, "upload", error, file=directory.name, url=directory.url)


def _with(failure: Failure, why: str) -> Failure:
    return replace(failure, message=f"{failure.message} ({why})")
