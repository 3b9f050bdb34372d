"""`Pipeline`: for every row download, call fn, upload; what comes back is again a frame of rows."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from file_dataset import _frame, _function, _options, _plan, _progress, _transfer, _urls
from file_dataset._errors import (
    Failure,
    InvalidDatasetError,
    RowError,
    RunStoppedError,
    is_disk_full,
    is_fatal,
)
from file_dataset._options import Options
from file_dataset._result import PipelineResult
from file_dataset._tempdir import TempDir

if TYPE_CHECKING:
    import pandas as pd

    from file_dataset._progress import Report
    from file_dataset._store import ObjectInfo
    from file_dataset._urls import Location

logger = logging.getLogger(__name__)

OnFailure: TypeAlias = Literal["drop", "raise", "record"]

# Codes under which a target refuses every row, when it refuses the first one whole.
_REFUSED_TARGET = frozenset({"NoSuchBucket", "AccessDenied"})


class _RequiredWriteOptions(TypedDict):
    into_path: str | os.PathLike[str]


class WriteOptions(_RequiredWriteOptions, total=False):
    """Where outputs go: `into_path`, boto3's `extra_args`, and `options` of the target store when it is another one."""

    extra_args: Mapping[str, Any] | None
    options: Options | None


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a Pipeline was told, checked, by the names of its arguments."""

    fn: Callable[..., Any]
    write_options: Mapping[str, Any]
    options: Options | None
    file_columns: Sequence[str] | None
    outputs: Sequence[str] | None
    on_failure: OnFailure
    temp_dir: str | os.PathLike[str] | None
    progress: Report


class Pipeline:
    """Runs a function on local files for every row of a frame, and returns a frame of what it stored.

    For each row: its files are copied into a new directory, fn is called with it, and the files that fn returns are
    stored at `<into_path>/<id>/<file name>`. A row is listed only when all its outputs are stored. A row that fails is
    dropped, and told. Rows run one after the other; a row's files are on disk only while it runs.

    A pipeline holds no state of a run: it can be called again, from several threads, and pickled (for Ray's
    `map_batches`, say). A pickle holds the secrets of its options.
    """

    def __init__(  # noqa: PLR0913  # each is a choice of the user's
        self,
        fn: Callable[..., Mapping[str, object]] | type,
        *,
        write_options: WriteOptions,
        options: Options | None = None,
        file_columns: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        on_failure: OnFailure = "drop",
        temp_dir: str | os.PathLike[str] | None = None,
        progress: Report = None,
    ) -> None:
        """Check everything that can be checked without a frame.

        Args:
            fn: `fn(input_dir, output_dir)`, by keyword when its parameters have these names; returns a mapping of file
                name to path (None: no such file this time). A class is made once per process and its instance called.
            write_options: `{"into_path": ..., "extra_args": ..., "options": ...}`: where outputs go. `options` there is
                for a target store that is not the source's.
            options: how S3 is reached; None: `Options.default()` at each call, and when pickled.
            file_columns: decides alone which columns name files; without it their names and values do, which say
                little when a frame has no rows or a column only nulls.
            outputs: the file names that fn returns; None: those of its `TypedDict` annotation, or whatever it returns.
            on_failure: `"drop"` the row; `"raise"` at the first failure; or `"record"` it: the manifest keeps all rows,
                with the failure's columns, null for good rows.
            temp_dir: where rows' directories are made; None: where the system keeps temporary files.
            progress: None: a bar on a terminal or in a notebook, else log lines; False: nothing; or a function taking
                a `Progress`.

        Raises:
            InvalidDatasetError: fn cannot be called so, or an argument makes no sense.
        """
        self._by_keyword = _function.check_signature(fn)
        _check_write_options(write_options)
        _options.check(options)
        for name, names in (("file_columns", file_columns), ("outputs", outputs)):
            if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
                raise InvalidDatasetError(f"{name}={names!r}: give a list of names")
        if temp_dir is not None and not isinstance(temp_dir, str | os.PathLike):
            raise InvalidDatasetError(f"temp_dir={temp_dir!r}: give the path of a directory")
        if progress is not None and not isinstance(progress, bool) and not callable(progress):
            raise InvalidDatasetError(f"progress={progress!r}: give None, False or a function that takes a Progress")
        self._contract = _function.contract_of(fn, outputs)
        if on_failure not in ("drop", "raise", "record"):
            raise InvalidDatasetError(f"on_failure={on_failure!r}: give 'drop', 'raise' or 'record'")
        self._settings = _Settings(
            fn, dict(write_options), options, file_columns, outputs, on_failure, temp_dir, progress
        )

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Run every row of the frame and return the manifest; see `run`."""
        return self.run(frame).manifest

    def run(self, frame: pd.DataFrame) -> PipelineResult:
        """Run every row of the frame, in order, and return the manifest, the failures and what was stored.

        One GET per input file and one PUT per output (over 64 MiB: an upload in parts); no HEAD, no listing.

        Raises:
            InvalidDatasetError: the frame is refused (ids, names, columns) before the first request.
            RunStoppedError: what every later row would meet too (a full disk, refused credentials, a target that takes
                nothing), or the first failure with `on_failure="raise"`. Its `result` has what was done. So has the
                KeyboardInterrupt of a run that was interrupted.
        """
        return _Run(self._settings, self._contract, frame, by_keyword=self._by_keyword).to_end()

    def __repr__(self) -> str:
        """Show what runs and where outputs go."""
        settings = self._settings
        name = getattr(settings.fn, "__qualname__", None) or repr(settings.fn)
        into = str(settings.write_options["into_path"])
        return f"Pipeline({name}, into_path={into!r}, on_failure={settings.on_failure!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle everything by cloudpickle; options that were not given are those of this process now."""
        arguments = {field.name: getattr(self._settings, field.name) for field in fields(_Settings)}
        arguments["options"] = self._settings.options or Options.default()
        return _from_pickle, (_function.dumps(arguments), self._contract)


def _from_pickle(payload: bytes, contract: _function.Contract | None) -> Pipeline:
    pipeline = Pipeline(**pickle.loads(payload))  # noqa: S301  # made by __reduce__, inside a pickle already being read
    # what annotations name does not always come along with a function of __main__
    pipeline._contract = contract  # noqa: SLF001
    return pipeline


def _check_write_options(write_options: object) -> None:
    if not isinstance(write_options, Mapping) or "into_path" not in write_options:
        raise InvalidDatasetError("write_options: give a mapping with 'into_path'")
    if unknown := sorted(set(write_options) - {"into_path", "extra_args", "options"}):
        raise InvalidDatasetError(f"write_options {unknown} are unknown; into_path, extra_args and options are known")
    _options.check(write_options.get("options"))
    extra_args = write_options.get("extra_args")
    if extra_args is not None and not isinstance(extra_args, Mapping):
        raise InvalidDatasetError(f"extra_args is a {type(extra_args).__name__}: give a mapping, boto3's ExtraArgs")
    _urls.parse_prefix(write_options["into_path"])


class _Run:
    """One run over one frame, and what it has done so far."""

    def __init__(
        self, settings: _Settings, contract: _function.Contract | None, frame: pd.DataFrame, *, by_keyword: bool
    ) -> None:
        self.settings, self.contract, self.by_keyword = settings, contract, by_keyword
        prefix = _urls.parse_prefix(settings.write_options["into_path"])
        is_local = isinstance(prefix, Path)
        self.prefix = prefix.absolute() if isinstance(prefix, Path) else prefix
        self.rows = _frame.rows_of_frame(frame, settings.file_columns, needs_id=True, local=is_local)
        _plan.check_file_names(list(self.rows.file_columns), local=True)
        self.source = _transfer.Stores(settings.options)
        own = settings.write_options.get("options")
        self.target = self.source if own is None else _transfer.Stores(own)
        self.extra_args = settings.write_options.get("extra_args") or {}
        if self.extra_args and len(self.rows) and not is_local:
            self.target.s3.check_extra_args(self.extra_args)
        self.inputs = self._inputs_at_risk()
        self._check_contract()
        self.stored: dict[int, dict[str, str | None]] = {}
        self.failed: dict[int, tuple[Failure, ...]] = {}
        self.files: list[_frame.StoredFile] = []
        self.files_without_digest = 0
        self.is_first_upload, self.upload_count = True, 0

    def to_end(self) -> PipelineResult:
        """Run the rows and return the result; whatever stops it carries what was done until then."""
        total = len(self.rows)
        try:
            with _progress.reporting(self.settings.progress, total) as report:
                fn = self._made_fn() if total else self.settings.fn
                for position in range(total):
                    self._run_row(position, fn)
                    report(_progress.Progress(position + 1, total, len(self.failed)))
        except BaseException as exc:
            exc.result = self.result()  # type: ignore[attr-defined]  # KeyboardInterrupt carries it too
            raise
        if total and len(self.failed) == total:
            first = self.failed[0][0]
            logger.error("all %d rows failed; the first: row %r: %s", total, first.id, first)
        return self.result()

    def result(self) -> PipelineResult:
        """Return what is done so far."""
        done = sorted({*self.stored, *self.failed})
        is_record = self.settings.on_failure == "record"
        keep = done if is_record else sorted(self.stored)
        manifest = _frame.manifest(self.rows, self.stored, self._output_columns(), keep=keep)
        if is_record:
            first = {place: self.failed[position][0] for place, position in enumerate(done) if position in self.failed}
            manifest = _frame.with_failures(manifest, first)
        failures = [(position, failure) for position in sorted(self.failed) for failure in self.failed[position]]
        return PipelineResult(
            self.rows.frame,
            manifest,
            _frame.failures_frame(self.rows, failures),
            _frame.files_frame(self.rows, [stored for stored in self.files if stored.position in self.stored]),
            self.files_without_digest,
        )

    def _made_fn(self) -> Callable[..., Any]:
        try:
            return _function.ready(self.settings.fn)
        except Exception as exc:  # the user's own constructor
            raise RunStoppedError(f"{self.settings.fn!r} could not be made: {type(exc).__name__}: {exc}") from exc

    def _run_row(self, position: int, fn: Callable[..., Any]) -> None:
        if (recorded := self.rows.failed.get(position)) is not None:
            self.failed[position] = (recorded,)
            return
        try:
            self._store_row(position, fn)
        except RowError as exc:
            self.failed[position] = exc.failures
            self._tell(position, exc)

    def _tell(self, position: int, error: RowError) -> None:
        first = error.failures[0]
        is_fn = first.stage == "fn" and error.__cause__ is not None
        logger.warning("%s", error, exc_info=error.__cause__ if is_fn else None)
        is_refused = (
            first.stage == "upload"
            and self.is_first_upload
            and len(error.failures) == self.upload_count
            and all(failure.code in _REFUSED_TARGET for failure in error.failures)
        )
        if first.stage == "upload":
            self.is_first_upload = False
        if is_refused:
            raise RunStoppedError(f"the target takes nothing; no row can be stored. {error}") from error
        if error.__cause__ is not None and is_fatal(error.__cause__):
            raise RunStoppedError(self._why_fatal(position, error, error.__cause__)) from error
        if self.settings.on_failure == "raise":
            raise RunStoppedError(f"stopped at the first failure (on_failure='raise'): {error}") from error

    def _why_fatal(self, position: int, error: RowError, cause: BaseException) -> str:
        if not is_disk_full(cause):
            return f"no later row can do better: {error}"
        place = self.settings.temp_dir or TempDir.parent()
        free = shutil.disk_usage(place).free
        return (
            f"no space left on device: one row's inputs{self._input_bytes(position)} and its outputs must fit together "
            f"in {place}, where {free} bytes are free; temp_dir= puts them elsewhere. {error}"
        )

    def _input_bytes(self, position: int) -> str:
        row = self.rows.row(position)
        wanted = [_transfer.Wanted(row.id, name, at) for name, at in row.files.items() if at is not None]
        try:
            return f" ({sum(_transfer.sizes(wanted, self.source))} bytes here)"
        except RowError:
            return ""

    def _store_row(self, position: int, fn: Callable[..., Any]) -> None:
        """Download, call fn, upload; the row is listed at the end or not at all.

        Raises:
            RowError: it failed, at any stage.
        """
        row = self.rows.row(position)
        if all(at is None for at in row.files.values()):
            message = "the row has no file: every file column is null"
            raise RowError([Failure(row.id, "download", None, None, "ValueError", None, message)])
        with self._work_dir(row) as work:
            input_dir, output_dir = work / "input", work / "output"
            downloads = _plan.downloads(row, input_dir)
            arrived = _transfer.copy_in(downloads, self.source)
            result = self._called(row, fn, input_dir, output_dir)
            files = _function.checked_outputs(result, row_id=row.id, contract=self.contract, carried=self.rows.carried)
            uploads = self._uploads(row, files)
            self.upload_count = len(uploads)
            infos = _transfer.copy_out(uploads, self.target, self.extra_args)
        self.is_first_upload = False
        self.files += [_stored_file(position, up, info) for up, info in zip(uploads, infos, strict=True)]
        self.files_without_digest += sum(
            info.digest is None and isinstance(down.source, _urls.ObjectUrl)
            for down, info in zip(downloads, arrived, strict=True)
        )
        # last: a row that is interrupted before this comes again when the rest is run
        self.stored[position] = dict.fromkeys(files) | {up.file: str(up.target) for up in uploads}

    def _work_dir(self, row: _plan.FileRow) -> TempDir:
        try:
            work = TempDir(self.settings.temp_dir)
            for name in ("input", "output"):
                (work.path / name).mkdir()
        except OSError as exc:
            raise RowError([Failure.of(row.id, "download", exc)]) from exc
        return work

    def _called(self, row: _plan.FileRow, fn: Callable[..., Any], input_dir: Path, output_dir: Path) -> object:
        cwd = _working_dir()
        try:
            return _function.call(fn, input_dir, output_dir, by_keyword=self.by_keyword)
        except (Exception, SystemExit) as exc:  # the user's fn: the one broad except
            raise RowError([Failure.of(row.id, "fn", exc)]) from exc
        finally:
            # only where fn went elsewhere: the working directory is the whole process's, other threads' too
            if cwd is not None and _working_dir() != cwd:
                with contextlib.suppress(OSError):
                    os.chdir(cwd)

    def _uploads(self, row: _plan.FileRow, files: Mapping[str, Path | None]) -> list[_plan.Transfer]:
        try:
            uploads = _plan.uploads(row.id, files, self.prefix)
        except InvalidDatasetError as exc:  # a key that is too long
            raise RowError([Failure.of(row.id, "upload", exc)]) from exc
        if on_top := [up for up in uploads if self.inputs.intersection(_places(up.target))]:
            message = "the output would replace an input of this frame: choose another into_path"
            raise RowError(
                [Failure(up.row_id, "upload", up.file, str(up.target), "ValueError", None, message) for up in on_top]
            )
        return uploads

    def _inputs_at_risk(self) -> set[str]:
        """Return the inputs that outputs could replace, as `_places` names them."""
        cells = [cell for column in self.rows.cells.values() for cell in column if cell is not None]
        if isinstance(self.prefix, _urls.ObjectUrl):
            start = str(self.prefix).removesuffix("/") + "/"
            below = {cell for cell in cells if isinstance(cell, str) and cell.startswith(start)}
            # the same URL in another store is another object
            is_one_store = not below or self.target is self.source or self.target.endpoint == self.source.endpoint
            return below if is_one_store else set()
        places: set[str] = set()
        for cell in cells:
            with contextlib.suppress(InvalidDatasetError):  # costs its row when its turn comes
                at = _urls.parse(cell, base=self.rows.base)
                places.update(_places(at) if isinstance(at, Path) else ())
        return places

    def _check_contract(self) -> None:
        """Refuse, before the first request, promised outputs that could be stored in no row.

        Raises:
            InvalidDatasetError: they have the name of a carried column, or lie on top of inputs.
        """
        names = self.contract.names if self.contract else ()
        if taken := [name for name in names if name in self.rows.carried]:
            raise InvalidDatasetError(f"outputs {taken} have the names of carried columns: rename one of them")
        if not self.inputs:
            return
        targets = (
            _urls.join(self.prefix, str(row_id), *name.split("/")) for row_id in self.rows.ids or () for name in names
        )
        if on_top := [str(at) for at in targets if self.inputs.intersection(_places(at))]:
            raise InvalidDatasetError(
                f"outputs would replace inputs of this frame: {on_top[:5]}; choose another into_path"
            )

    def _output_columns(self) -> list[str]:
        seen = [name for position in sorted(self.stored) for name in self.stored[position]]
        return list(dict.fromkeys([*(self.contract.names if self.contract else ()), *seen]))


def _stored_file(position: int, upload: _plan.Transfer, info: ObjectInfo) -> _frame.StoredFile:
    checksum = None if info.digest is None else str(info.digest)
    return _frame.StoredFile(position, upload.file, str(upload.target), info.size_bytes, info.etag, checksum)


def _working_dir() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # text that chdir takes
    except OSError:  # somebody removed it
        return None


def _places(at: Location) -> set[str]:
    """Return what a write to `at` replaces: the object, or the file and what a link of that name leads to."""
    if isinstance(at, _urls.ObjectUrl):
        return {str(at)}
    return {os.path.realpath(at), os.path.join(os.path.realpath(at.parent), at.name)}  # noqa: PTH118
