"""`Pipeline`: for every row download, call fn, upload; what comes back is again a frame of rows."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import operator
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack, cast, get_args, overload

from file_dataset import _function, _options, _outputs, _per_process, _pickling, _progress, _urls
from file_dataset._errors import InvalidDatasetError
from file_dataset._interrupts import Interrupts
from file_dataset._options import Options
from file_dataset._prepared import prepare
from file_dataset._result import RunStoppedError, attach
from file_dataset._run import Run
from file_dataset._settings import IfExists, Settings, checked_wish

if TYPE_CHECKING:
    import pandas as pd

    from file_dataset._book import Book
    from file_dataset._forecast import Plan
    from file_dataset._prepared import Prepared
    from file_dataset._progress import Report
    from file_dataset._result import PipelineResult
    from file_dataset._settings import OnFailure, Wish
    from file_dataset._workers.pool import Workers


logger = logging.getLogger(__name__)


class _RequiredWriteOptions(TypedDict):
    into_path: str | os.PathLike[str]


class WriteOptions(_RequiredWriteOptions, total=False):
    """Where outputs go: `into_path`, boto3's `extra_args`, and `options` of the target store when it is another one.

    `if_exists` says what becomes of outputs that are there already:

    - `"overwrite"`, the default: they are replaced. No request more.
    - `"error"`: they stay, and the row fails at stage `upload` with FileExistsError. S3 decides it when it stores
      (`If-None-Match`), so that two runs at the same time do not replace each other's outputs; a store that ignores the
      header replaces them. Where outputs are declared (by `outputs=[...]`, or a TypedDict that fn returns), they are
      looked for before the row's download too: one HEAD each, and one LIST for each that is no object and whose name
      is like a directory's (without an extension, or `.zarr`). What a row stored before it failed is removed again, so
      that it can run once more. It stays after a killed process, or a Ray task whose node was lost; and so do outputs
      of whole rows that the checkpoint did not have yet. Run these rows once with `"skip"` or `"overwrite"`.
    - `"skip"`: a row whose declared outputs are all there is listed in the manifest and in `result.files`; nothing is
      downloaded and fn is not called. Where one is missing, the row runs and replaces the others. One HEAD per
      declared output, and one LIST for the first that is no object; the bytes are not compared with anything.

    A directory is there when any object lies below it. `"error"` looks with one LIST before it stores one. A row that
    fails under `"skip"` removes what it stored of the output that was missing. A killed run, or a row that failed under
    `"overwrite"`, can leave a part of a directory, and `"skip"` does not see that it is a part: run such rows with
    `"overwrite"`.

    HEADs need the right to list the bucket (s3:ListBucket): without it S3 answers 403 for what is not there.

    Example:
        >>> pages: WriteOptions = {"into_path": "s3://my-bucket/pages/", "extra_args": {"ContentType": "text/html"}}
        >>> Pipeline(lambda input_dir, output_dir: {"page.html": input_dir / "page.html"}, write_options=pages)
        Pipeline(<lambda>, into_path='s3://my-bucket/pages/', on_failure='drop')
    """

    extra_args: Mapping[str, Any] | None
    options: Options | None
    if_exists: IfExists


class _Choices(TypedDict, total=False):
    """What a Pipeline takes beside fn and where its outputs go, for type checkers."""

    options: Options | None
    file_columns: Sequence[str] | None
    outputs: Sequence[str] | None
    on_failure: OnFailure
    max_failures: int | None
    max_failed_fraction: float | None
    prefetch: int | None
    workers: int
    fn_timeout_s: float | None
    worker_env: Mapping[str, str] | None
    temp_dir: str | os.PathLike[str] | None
    progress: Report


_Fn: TypeAlias = Callable[..., Mapping[str, object]] | type


class Pipeline:
    """Runs a function on local files for every row of a frame, and returns a frame of what it stored.

    For each row: its files are copied into a new directory, fn is called with it, and the files that fn returns are
    stored at `<into_path>/<id>/<file name>`. A directory that fn returns is stored below `<into_path>/<id>/<name>/`, in
    the place of what was there. A row is listed only when all its outputs are stored. A row that fails is dropped and
    reported. While fn works on a row, the next ones download and finished ones upload; a row's files are on disk only
    from its download to its upload.

    A pipeline holds no state of a run: it can be called again, from several threads, and pickled (for Ray's
    `map_batches`, say). A pickle holds the secrets of its options.

    Example:
        >>> def shout(input_dir, output_dir):
        ...     text = (input_dir / "scan.txt").read_text()
        ...     (output_dir / "loud.txt").write_text(text.upper())
        ...     return {"loud.txt": output_dir / "loud.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": ["s3://my-bucket/scan.txt", "s3://my-bucket/missing.txt"]})
        >>> result = Pipeline(shout, into_path="s3://my-bucket/loud/", max_failed_fraction=0.5).run(frame)
        >>> result.manifest["loud.txt"].tolist()
        ['s3://my-bucket/loud/1/loud.txt']
    """

    @overload
    def __init__(self, fn: _Fn, *, into_path: str | os.PathLike[str], **choices: Unpack[_Choices]) -> None: ...
    @overload
    def __init__(self, fn: _Fn, *, write_options: WriteOptions, **choices: Unpack[_Choices]) -> None: ...
    def __init__(  # noqa: PLR0913  # each is a choice of the user's
        self,
        fn: _Fn,
        *,
        write_options: WriteOptions | None = None,
        into_path: str | os.PathLike[str] | None = None,
        options: Options | None = None,
        file_columns: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        on_failure: OnFailure = "drop",
        max_failures: int | None = None,
        max_failed_fraction: float | None = None,
        prefetch: int | None = None,
        workers: int = 0,
        fn_timeout_s: float | None = None,
        worker_env: Mapping[str, str] | None = None,
        temp_dir: str | os.PathLike[str] | None = None,
        progress: Report = None,
    ) -> None:
        """Check everything that can be checked without a frame.

        Args:
            fn: `fn(input_dir, output_dir)`, by keyword when its parameters have these names; returns a mapping of name
                to file or directory (None: no such output this time). A directory holds files and directories, and no
                links. A class is made once per process and its instance called.
                With a third parameter named `row` it also gets its row: a read-only mapping of `id` and the carried
                columns' values (None: null). A file of the row is `input_dir / <column>`. For a cell that is a
                directory (text that ends in a slash, or a local one) this is a directory, too, with all files below it:
                one LIST per 1,000 objects, and one GET per object. One that changes after the LIST fails the row.
            write_options: `{"into_path": ..., "extra_args": ..., "options": ..., "if_exists": ...}`: where outputs go,
                and whether they replace what is there (`WriteOptions` has more). Give `options` there when outputs go
                to another store than inputs come from.
            into_path: where outputs go, in the place of `write_options={"into_path": ...}`.
            options: how S3 is reached; None: by boto3's default session, as it is at each call, or when pickled.
            file_columns: the columns that name files. None: they are found by their names and values. Give it where a
                frame can have no rows, or a column only nulls.
            outputs: the names that fn returns. None: those of its `TypedDict` annotation; without one, any names.
            on_failure: `"drop"` the row; `"raise"` at the first failure; or `"record"` it: the manifest keeps all rows,
                with the failure's columns, null for good rows.
            max_failures: more failed rows than this stop the run; None: any number. Failures that an earlier Pipeline
                recorded do not count.
            max_failed_fraction: a larger share of the input rows than this, 0.0 to 1.0, stops the run in the same way.
                With `max_failures` beside it, whichever allows fewer rows holds.
            prefetch: rows that download while fn works. None: 2 at first, and twice as many each time that fn has to
                wait for files, 256 at most. All rows with files on disk then take at most a tenth of what is free in
                `temp_dir`, and at most 16 GiB, as far as the sizes of the rows so far predict it; one row for each fn
                that runs is always there. The result's `prefetch` has the number. A number: that many. Then at most
                `max(1, workers) + prefetch + 1` rows have files on disk at once; `prefetch=0` without workers does one
                thing after the other, and holds one row.
            workers: processes that fn runs in, each on one row at a time, so that a crash fails its row alone;
                0: fn runs in the calling thread, on one row at a time, in input order.
            fn_timeout_s: seconds that one call of fn may take. After that its process is killed, and the row fails.
                Without `workers` it means `workers=1`, for fn needs a process then.
            worker_env: environment variables that the workers have beside this process's own, set before their
                interpreter starts. Directories of `PYTHONPATH` come before those of this process's `sys.path`.
            temp_dir: where rows' directories are made; None: where the system keeps temporary files.
            progress: None: a bar on a terminal or in a notebook, else log lines; False: nothing; or a function taking
                a `Progress`.

        Raises:
            InvalidDatasetError: fn cannot be called so, an argument makes no sense, or there is no Python interpreter
                for worker processes (a program frozen by PyInstaller, say).
        """
        self._style = _function.check_signature(fn)
        _options.check(options)
        write_options = _checked_write_options(write_options, into_path, options)
        for name, names in (("file_columns", file_columns), ("outputs", outputs)):
            if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
                raise InvalidDatasetError(f"{name}={names!r}: give a list of names")
        if temp_dir is not None and not isinstance(temp_dir, str | os.PathLike):
            raise InvalidDatasetError(f"temp_dir={temp_dir!r}: give the path of a directory")
        if temp_dir is not None:
            _urls.check_home(temp_dir)
        _progress.check(progress)
        self._contract = _outputs.contract_of(fn, outputs)
        _check_skip(write_options, self._contract)
        self._idle_workers: list[Workers] | None = None
        if on_failure not in ("drop", "raise", "record"):
            raise InvalidDatasetError(f"on_failure={on_failure!r}: give 'drop', 'raise' or 'record'")
        if on_failure == "raise" and not (max_failures is None and max_failed_fraction is None):
            unused = "max_failed_fraction" if max_failures is None else "max_failures"
            raise InvalidDatasetError(f"on_failure='raise' stops at the first failure: leave {unused} out")
        self._settings = Settings(
            fn=fn,
            write_options=write_options,
            options=options,
            file_columns=file_columns,
            outputs=outputs,
            on_failure=on_failure,
            max_failures=_checked_max_failures(max_failures),
            max_failed_fraction=_checked_max_failed_fraction(max_failed_fraction),
            prefetch=None if prefetch is None else _checked_count("prefetch", prefetch),
            workers=_checked_count("workers", workers),
            fn_timeout_s=_checked_timeout(fn_timeout_s),
            worker_env=_checked_env(worker_env),
            temp_dir=temp_dir,
            progress=progress,
        )
        if self._settings.worker_count:
            from file_dataset._workers.interpreter import check_interpreter

            check_interpreter()
        if worker_env is not None and not self._settings.worker_count:
            raise InvalidDatasetError(
                "worker_env is the environment of worker processes, and there are none: give workers=1, or set "
                "os.environ for fn in this process"
            )

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Run every row of the frame and return the manifest; see `run`."""
        return self.run(frame).manifest

    def run(
        self,
        frame: pd.DataFrame,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        code_version: str | None = None,
        check_inputs: bool = False,
        checkpoint_options: Options | None = None,
    ) -> PipelineResult:
        """Run every row of the frame and return the manifest, the failures and what was stored, in input order.

        One GET per input file (over 16 MiB: several) and one PUT per output (over 32 MiB: an upload in parts); no HEAD,
        no listing. With `if_exists` "error" or "skip" there is one HEAD more per declared output, and a LIST where
        there may be a directory. A directory costs a LIST per 1,000 files; one that fn returns also a DELETE for each
        object of an earlier run that is no part of it any more.

        With a checkpoint, finished rows are written down as the run goes on, and a later run with the same checkpoint
        does not do them again, however the first one ended (SIGKILL and a lost machine, too). Rows run that are new,
        that failed, or that have other input locations or versions, another `into_path`, another `code_version`, or,
        where fn takes `row`, other carried values. It makes no difference how many workers or which machine, script or
        notebook runs them. The result is that of all rows of the frame; carried columns are today's. A checkpoint does
        not know fn's code, nor what fn does beside its outputs, nor whether these are still there.

        Args:
            frame: a DataFrame with `id`, file columns and others, which are carried along. It is not changed. A column
                `<file>.version_id` beside a file column (text) has that version read, null the newest; it is not
                carried, for the manifest's files are others.
            checkpoint: a prefix (`s3://bucket/runs/x/`) or a directory, for the runs of one pipeline; None: no row is
                written down. Costs one PUT per 500 finished rows or 5 seconds and one before the first row; a LIST and
                a GET per part (65 at most, mostly) at the beginning. `remove_checkpoint` removes it.
            code_version: your name for what fn does now. A row that was done under another one runs again. A change in
                fn's code alone runs no row again, so that a bug can be mended and the run goes on.
            check_inputs: also run rows of which an input is another file now than was read: by its checksum where the
                store has one, else by its ETag; of a local file by size and time of change. One HEAD per file of a row
                that would not run otherwise; none where the frame has a column `<file>.etag`, and pins no version.
            checkpoint_options: how the checkpoint's store is reached; None: as the target is.

        Raises:
            InvalidDatasetError: the frame is refused (ids, names, columns) before the first request; or a part of the
                checkpoint is damaged, foreign, or of a later version: the message names it.
            RunStoppedError: every later row would fail alike (a full disk, refused credentials, a target that takes
                nothing, a class fn that cannot be made, a store that answers nothing to its first three rows); or more
                rows failed than `max_failures` or `max_failed_fraction` allows; or one did, with `on_failure="raise"`;
                or the checkpoint cannot be written. Rows before the one that stops the run are finished; later ones
                that were begun are given up. Its `result` has what was done, and in `unprocessed_rows` the rest.
            KeyboardInterrupt: Ctrl-C, with a `result` too. No row begins any more, and fn is ended. Rows whose fn is
                done finish their uploads, for 30 s at most (a warning is logged); another Ctrl-C gives them up. What
                any other signal's handler raises, SIGTERM's say, does the same in the main thread.

        Example:
            >>> def copy(input_dir, output_dir):
            ...     return {"copy.txt": input_dir / "scan.txt"}
            >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
            >>> pipeline = Pipeline(copy, into_path="s3://my-bucket/copies/", progress=False)
            >>> result = pipeline.run(frame.head(1), checkpoint="s3://my-bucket/runs/copies/")  # and it dies here
            >>> pipeline.plan(frame, checkpoint="s3://my-bucket/runs/copies/").summary()
            '1 of 2 rows to run: 1 new; 1 is done'
            >>> len(pipeline.run(frame, checkpoint="s3://my-bucket/runs/copies/").manifest)
            2
        """
        if self._idle_workers is not None and not self._settings.worker_count and _is_ray_task():
            _warn_of_crashes()
        wish = checked_wish(checkpoint, code_version, checkpoint_options, check_inputs=check_inputs)
        with Interrupts() as interrupts:
            run = book = None
            try:
                prepared = self._prepare(frame)
                book = _book(prepared, wish)
                run = Run(
                    prepared if book is None else book.part,
                    idle_workers=self._idle_workers,
                    journal=None if book is None else book.journal,
                )
                run.interrupts = interrupts
                return run.to_end() if book is None else _written_down(run, book)
            except BaseException as exc:
                interrupts.is_held = True
                if run is not None:
                    attach(exc, run.result() if book is None else book.whole(run.result()))
                elif isinstance(exc, RunStoppedError) or not isinstance(exc, Exception):  # the frame may be good
                    attach(exc, self._untouched(frame))
                raise

    def plan(  # noqa: PLR0913  # what `run` takes
        self,
        frame: pd.DataFrame,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        code_version: str | None = None,
        check_inputs: bool = False,
        checkpoint_options: Options | None = None,
        sizes: bool = False,
    ) -> Plan:
        """Return which rows `run` would run with these arguments, and why. Nothing is written, no input is read.

        It costs what `run` does before its first row: the checkpoint is listed and read, and `check_inputs` makes its
        HEADs. With `sizes` it also has bytes, requests, disk and missing files: one HEAD per file of a row that runs.

        Raises:
            InvalidDatasetError: as `run`.

        Example:
            >>> def copy(input_dir, output_dir):
            ...     return {"copy.txt": input_dir / "scan.txt"}
            >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
            >>> Pipeline(copy, into_path="s3://my-bucket/copies/").plan(frame)
            Plan(2 of 2 rows to run: 2 new)
        """
        from file_dataset._forecast import plan_of

        wish = checked_wish(checkpoint, code_version, checkpoint_options, check_inputs=check_inputs)
        prepared = self._prepare(frame)
        return plan_of(prepared, _book(prepared, wish), sizes=sizes)

    def _untouched(self, frame: pd.DataFrame) -> PipelineResult | None:
        """Return the result of a run that has processed no row; None: the input is no frame."""
        with contextlib.suppress(InvalidDatasetError, AttributeError):
            return replace(Run(self._prepare(frame.iloc[:0])).result(), input=frame)
        return None

    def _prepare(self, frame: pd.DataFrame, **changes: Any) -> Prepared:  # noqa: ANN401  # fields of Settings
        """Return the frame checked for a run, under settings that are changed for it."""
        return prepare(replace(self._settings, **changes), self._contract, self._style, frame)

    def _with(self, **changes: Any) -> Pipeline:  # noqa: ANN401  # fields of Settings
        """Return a pipeline that is this one but for these settings, which are not checked."""
        made = object.__new__(type(self))
        vars(made).update(vars(self), _settings=replace(self._settings, **changes))
        return made

    def __repr__(self) -> str:
        """Show what runs and where outputs go."""
        settings = self._settings
        name = getattr(settings.fn, "__qualname__", None) or repr(settings.fn)
        into = str(settings.write_options["into_path"])
        return f"Pipeline({name}, into_path={into!r}, on_failure={settings.on_failure!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle everything by cloudpickle; options that were not given are those of this process now.

        Raises:
            InvalidDatasetError: an argument cannot be pickled, fn mostly.
        """
        arguments = {field.name: getattr(self._settings, field.name) for field in fields(Settings)}
        arguments["options"] = self._settings.options or Options.default()
        return _from_pickle, (_dumped(arguments), self._contract)


def _dumped(arguments: Mapping[str, object]) -> bytes:
    try:
        return _pickling.dumps(arguments)
    except Exception as exc:  # the user's own __reduce__
        for name, value in arguments.items():
            try:
                _pickling.dumps(value)
            except Exception as cause:  # noqa: BLE001  # as above
                reason = f"{type(cause).__name__}: {cause}"
                raise InvalidDatasetError(
                    f"{name} cannot be pickled for other processes, such as Ray's tasks: {reason}; what does not "
                    "pickle (a lock, a client, an open file) is to be made inside fn, or by a class that is given as fn"
                ) from exc
        raise


def _from_pickle(payload: bytes, contract: _outputs.Contract | None) -> Pipeline:
    """Return this process's one pipeline of that pickle.

    Ray unpickles what it calls for every task: one pipeline has one fn, of which a process makes one instance, and
    worker processes that stay from batch to batch.
    """

    def make() -> Pipeline:
        arguments = pickle.loads(payload)  # noqa: S301  # made by __reduce__, in a pickle that is being read
        # what annotations name does not always come along with a function of __main__
        if contract is not None and arguments["outputs"] is None:
            arguments["outputs"] = contract.names
        pipeline = Pipeline(**arguments)
        pipeline._contract = contract  # noqa: SLF001
        pipeline._idle_workers = []  # noqa: SLF001
        return pipeline

    return _per_process.recent(("pipeline", hashlib.sha256(payload).digest(), contract), make)


def _book(prepared: Prepared, wish: Wish) -> Book | None:
    """Return the checkpoint, read; None: there is none."""
    if wish.place is None:
        return None
    from file_dataset._book import Book  # brings pyarrow along, which other runs do without

    return Book(prepared, wish)


def _written_down(run: Run, book: Book) -> PipelineResult:
    """Run the rows that are not done, and write down those that are."""
    with book.writing(run.interrupts):
        result = run.to_end()
    run.interrupts.result = result = book.whole(result)
    return result


def _is_ray_task() -> bool:
    ray: Any = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_task_id() is not None


@functools.cache
def _warn_of_crashes() -> None:
    """Say it once per process."""
    logger.warning(
        "fn runs in Ray's own process: a row that crashes it (a segfault, no memory) is run by Ray again and again. "
        "With Pipeline(..., workers=1) a crash fails its row alone"
    )


def _checked_write_options(write_options: object, into_path: object, options: Options | None) -> WriteOptions:
    if into_path is not None:
        if write_options is not None:
            raise InvalidDatasetError(
                "into_path and write_options both say where outputs go: give one of them; into_path beside extra_args "
                "is write_options={'into_path': ..., 'extra_args': ...}"
            )
        write_options = {"into_path": into_path}
    if write_options is None:
        raise InvalidDatasetError("where do outputs go? Give into_path='s3://bucket/prefix' or a directory")
    if not isinstance(write_options, Mapping) or "into_path" not in write_options:
        raise InvalidDatasetError("write_options: give a mapping with 'into_path'")
    if unknown := sorted(set(write_options) - {"into_path", "extra_args", "options", "if_exists"}):
        raise InvalidDatasetError(
            f"write_options {unknown} are unknown; into_path, extra_args, options and if_exists are known"
        )
    if (if_exists := write_options.get("if_exists", "overwrite")) not in get_args(IfExists):
        raise InvalidDatasetError(f"if_exists={if_exists!r}: give 'overwrite', 'error' or 'skip'")
    _options.check(write_options.get("options"))
    extra_args = write_options.get("extra_args")
    if extra_args is not None and not isinstance(extra_args, Mapping):
        raise InvalidDatasetError(f"extra_args is a {type(extra_args).__name__}: give a mapping, boto3's ExtraArgs")
    target = write_options.get("options") or options
    _urls.parse_prefix(write_options["into_path"], local_paths=_options.takes_local_paths(target))
    return cast("WriteOptions", dict(write_options))


def _check_skip(write_options: WriteOptions, contract: _outputs.Contract | None) -> None:
    if write_options.get("if_exists") == "skip" and contract is None:
        raise InvalidDatasetError(
            "if_exists='skip' needs declared outputs: annotate fn with a TypedDict or give outputs=[...]"
        )


def _checked_count(name: str, value: object) -> int:
    count = _integer(value)
    if count is None or count < 0:
        raise InvalidDatasetError(f"{name}={value!r}: give a number of {_COUNTED[name]}, 0 or more")
    return count


_COUNTED = {"prefetch": "rows", "workers": "processes"}


def _integer(value: object) -> int | None:
    """Return an integer, numpy's too; None for everything else, True among it."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)


def _checked_max_failures(value: object) -> int | None:
    if value is None:
        return None
    count = _integer(value)
    if count is not None and count >= 0:
        return count
    share = value if isinstance(value, float) and 0 <= value <= 1 else 0.1
    raise InvalidDatasetError(
        f"max_failures={value!r}: give a number of rows (an int, 0 or more); for a share of the rows give "
        f"max_failed_fraction={share}"
    )


def _checked_max_failed_fraction(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidDatasetError(
            f"max_failed_fraction={value!r}: give a share of the rows, from 0.0 to 1.0 (write 5 % as 0.05); for a "
            "number of rows give max_failures=10"
        )
    return float(value)


def _checked_timeout(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidDatasetError(f"fn_timeout_s={value!r}: give seconds, more than 0; None: as long as it takes")
    return value


def _checked_env(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidDatasetError(f"worker_env is a {type(value).__name__}: give a mapping of names to text")
    # the names alone: a value may be a secret
    if odd := [name for name, text in value.items() if not isinstance(name, str) or not isinstance(text, str)]:
        raise InvalidDatasetError(f"worker_env {odd}: names and values are text, such as {{'OMP_NUM_THREADS': '1'}}")
    if odd := [name for name, text in value.items() if not name or "=" in name or "\0" in name + text]:
        raise InvalidDatasetError(
            f"worker_env {odd}: no system has such a variable: a name is not empty and has no '=', and neither it nor "
            "its value has a NUL"
        )
    return dict(value)
