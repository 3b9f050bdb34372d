"""Which store has a location: S3's or local disk, made once per process and options."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from file_dataset import _defaults, _options, _per_process
from file_dataset._options import Options
from file_dataset._store import LocalStore
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    from file_dataset._local_file import LocalFile
    from file_dataset._s3.store import S3Store
    from file_dataset._store import ObjectStore
    from file_dataset._urls import Location

# Files begun and not ended for each request in flight, so that no connection waits for this thread. More cost more than
# they bring, for Python's garbage collector looks at all that is alive: of 2,000 files of 16 KiB, 1,024 ahead of 64
# requests, it took a third of the time.
_AHEAD = 4
_USUAL = 64  # requests in flight where none are yet, and of local files


class Stores:
    """The stores of one call. S3 is resolved when the first S3 location comes, so local work needs no credentials."""

    def __init__(self, options: Options | None) -> None:
        """Take the user's options; None stands for boto3's default session, as it is when it is first needed."""
        self._options = options
        self._s3: tuple[int, S3Store] | None = None
        self._answers_before = 0

    def of(self, at: Location | LocalFile) -> ObjectStore[Any]:
        """Return the store that has `at`."""
        if not isinstance(at, ObjectUrl):
            return _per_process.shared("local", LocalStore)
        return self.s3

    @property
    def ahead(self) -> int:
        """How many files to begin before the first has ended."""
        if self._s3 is not None:
            return _AHEAD * self._s3[1].width
        return _AHEAD * ((self._options and self._options.max_concurrency) or _USUAL)

    @property
    def has_answered(self) -> bool:
        """Whether S3 has answered anything since this first used it, also other callers in this process."""
        return self._s3 is not None and self._s3[1].answers > self._answers_before

    @property
    def has_ever_answered(self) -> bool:
        """Whether S3 has answered anything in this process."""
        return self._s3 is not None and self._s3[1].answers > 0

    @property
    def endpoint(self) -> str | None:
        """Where S3 is reached; None: AWS."""
        if self._options is None:
            return _defaults.endpoint(_defaults.source({}).session)
        url: str | None = (self._options.s3_client_kwargs or {}).get("endpoint_url")
        return url

    @property
    def request_endpoint(self) -> str | None:
        """Where requests of this process went, AWS too; else where they would go, as far as options have it."""
        return (None if self._s3 is None else self._s3[1].endpoint) or self.endpoint

    def check(self) -> None:
        """Refuse options that no request can work with: a CA file that is not there, say. No request is made.

        Credentials may be fetched; the first request raises for what cannot be had.

        Raises:
            InvalidDatasetError: naming what, and where it was given.
        """
        with contextlib.suppress(OSError):
            self.s3.connect()

    @property
    def s3(self) -> S3Store:
        """The S3 store of these options, of which a process has one."""
        if self._s3 is None or self._s3[0] != _per_process.number:
            # brings botocore along, which local work does without
            from file_dataset._s3.store import S3Store

            options = self._options
            if options is None:
                source = _defaults.source({})
                key = "s3 of None", source.key
                store = _per_process.recent(key, lambda: S3Store(Options(), source), capacity=_defaults.CAPACITY)
            else:
                store = _per_process.recent(("s3", _options.identity(options)), lambda: S3Store(options))
            store.begin_call()
            self._answers_before = store.answers
            self._s3 = _per_process.number, store
        return self._s3[1]
