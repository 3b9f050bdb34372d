"""What a run hands back, or carries when it stops: manifest, failures, stored files; and how to join the rest."""

from __future__ import annotations

import html
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from file_dataset import _frame, _urls
from file_dataset._effort import Counts, sum_of
from file_dataset._errors import Failure, FileDatasetError, InvalidDatasetError, RowError
from file_dataset._secrets import masked

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pandas as pd

    from file_dataset._errors import Stage
    from file_dataset._options import Options

_STAGES = ("download", "fn", "upload")
# What a person reads before scrolling; guesses.
_SHOWN_CAUSES, _SHOWN_FAILURES, _SHOWN_CHARS = 8, 5, 200


@dataclass(frozen=True, slots=True, match_args=False)
class Prefetch:
    """How many rows were ahead of fn when a run ended, and why not more, as in "256 rows ahead (the most)"."""

    rows: int
    why: str

    def __str__(self) -> str:
        """Return it as text."""
        return f"{self.rows} rows ahead ({self.why})"


@dataclass(frozen=True, eq=False, repr=False, match_args=False)
class PipelineResult:
    """What a run did, as frames. It pickles.

    Attributes:
        input: the frame that was given, unchanged; None when the result was loaded, or made of a recorded frame alone.
        manifest: one row per row that succeeded (with `on_failure="record"`: every row), in input order: a text column
            per output (`s3://` URL or absolute path, of a directory with a slash at its end; null: fn gave None for
            it), `id`, then the carried columns. `id` and carried columns have the dtypes of the input.
        failures: one row per failure, in input order: `id`, then `error_stage` (`download`, `fn` or `upload`),
            `error_file`, `error_url`, `error_type`, `error_code`, `error_message`: text, null where not applicable.
            A row can have several: one per file that failed.
        files: one row per stored file (of a directory `series/0001.dcm`): `id`, `file`, `location`, `size_bytes`
            (int64), `etag`, `checksum` (`CRC64NVME:<base64>`; null where the store gives none).
        inputs: one row per file that was read, of rows that are stored or failed after their download, in input order:
            `id`, `file`, `location`, `size_bytes` (int64), `etag` (of a local file: its modification time, ns),
            `version_id` (null where the bucket keeps none), `checksum` (as in `files`). It costs no request.
        files_without_digest: downloads without a digest of the store's: length and version alone were compared.
        hint: what to check when the store had none of the objects (or buckets) that the rows asked for; else None.
        prefetch: how many `rows` were ahead of fn at the end, and `why` not more. None on Ray, or when it was loaded.
        counts: `retries`, `throttles`, and `download_s`, `fn_s`, `upload_s`, summed over the rows that ran, which
            overlap, and on Ray over all tasks; rows of a checkpoint add nothing. None where it was loaded.
        input_count: how many rows the input of a loaded result had, or a Dataset of Ray; else None.

    Example:
        >>> def copy(input_dir, output_dir):
        ...     return {"copy.txt": input_dir / "scan.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": ["s3://my-bucket/scan.txt", "s3://my-bucket/missing.txt"]})
        >>> pipeline = Pipeline(copy, into_path="s3://my-bucket/copies/", progress=False)
        >>> result = pipeline.run(frame)
        >>> result.failures[["id", "error_stage", "error_code"]].values.tolist()
        [[2, 'download', 'NoSuchKey']]
        >>> result = result.merge(pipeline.run(result.failed_rows))  # once more
        >>> result.summary()
        '1 of 2 rows dropped (50.0%): 1 at download'
    """

    input: pd.DataFrame | None
    manifest: pd.DataFrame
    failures: pd.DataFrame
    files: pd.DataFrame
    files_without_digest: int = 0
    hint: str | None = None
    prefetch: Prefetch | None = None
    inputs: pd.DataFrame = field(default_factory=_frame.no_inputs)
    input_count: int | None = field(default=None, kw_only=True)
    counts: Counts | None = field(default=None, kw_only=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a pickle has; those made before there was `inputs` have none."""
        vars(self).update({"inputs": _frame.no_inputs(state["files"]), "counts": None} | state)

    @staticmethod
    def last_stopped() -> PipelineResult | None:
        """Return the result of the last run in this process that was stopped (by Ctrl-C, say); None: no run was.

        The same as the exception's `.result`, for a notebook, where the next error takes the exception away. It is kept
        in memory until another run is stopped.
        """
        return _last_stopped[0] if _last_stopped else None

    @classmethod
    def from_recorded(cls, frame: pd.DataFrame, *, input: pd.DataFrame | None = None) -> PipelineResult:  # noqa: A002
        """Return the result of a run from its manifest with recorded failures (`on_failure="record"`).

        Args:
            frame: a recorded manifest, such as Ray Data hands back.
            input: the frame that was given to the Pipeline; without it `failed_rows` is not known.

        Raises:
            InvalidDatasetError: the frame has no columns of recorded failures.
        """
        if missing := [name for name in _frame.FAILURE_COLUMNS if name not in frame.columns]:
            raise InvalidDatasetError(
                f"no recorded manifest: columns {missing} are missing; run with on_failure='record'"
            )
        failed = frame["error_stage"].notna()
        failures = frame.loc[failed, list(_frame.FAILURE_COLUMNS)].reset_index(drop=True)
        manifest = frame.loc[~failed].drop(columns=list(_frame.ERROR_COLUMNS)).reset_index(drop=True)
        text = dict.fromkeys(_frame.ERROR_COLUMNS, _frame.TEXT)
        files, inputs = _frame.no_files(frame), _frame.no_inputs(frame)
        return cls(input, manifest, failures.astype(text), files, 0, inputs=inputs)

    @classmethod
    def load(cls, place: str | os.PathLike[str], *, options: Options | None = None) -> PipelineResult:
        """Return the result that `save` has stored, or what the checkpoint of a run knows, without running anything.

        Of a saved result every value and dtype is as it was (one GET per frame). A checkpoint has the rows that are
        done and those that failed, as they were when they last ran, in the order in which they ended: ids with their
        dtype, outputs, failures, files and inputs, and no carried columns (one LIST and a GET per part).

        `input` and `prefetch` are None; where the input is at hand, `dataclasses.replace(result, input=frame)` adds it.

        Args:
            place: as `save` was given it, or as `checkpoint` of a run.
            options: how S3 is reached; None: by boto3's default session.

        Raises:
            InvalidDatasetError: neither lies there; or a file of it is missing, damaged, foreign, of a later version,
                or of another save than the manifest. Names the file and the remedy.
            RowError: a file could not be read.
        """
        from file_dataset import _saved

        saved = _saved.load(place, options)
        frames: dict[str, Any] = {name: saved.frames[name] for name in _saved.FRAMES}
        count, hint = saved.files_without_digest, saved.hint
        return cls(None, **frames, files_without_digest=count, hint=hint, input_count=saved.input_rows)

    def save(self, place: str | os.PathLike[str], *, options: Options | None = None) -> None:
        """Store manifest, failures, files, inputs and counts, over the result that is there; the input is not saved.

        Each frame is one Parquet file, which anything reads. Local ones are replaced all together, or not at all. In S3
        the manifest is the last (one PUT per frame): where a save is interrupted, `load` refuses what it left.

        Args:
            place: `s3://bucket/prefix` or a local directory, for this result alone.
            options: how S3 is reached; None: by boto3's default session.

        Raises:
            InvalidDatasetError: Parquet would change a carried value or an id; names the column. Nothing was stored.
            RowError: a file could not be stored.

        Example:
            >>> def copy(input_dir, output_dir):
            ...     return {"copy.txt": input_dir / "scan.txt"}
            >>> frame = pd.DataFrame({"id": [1], "scan.txt": "s3://my-bucket/scan.txt"})
            >>> Pipeline(copy, into_path="s3://my-bucket/copies/").run(frame).save("s3://my-bucket/results/today/")
            >>> PipelineResult.load("s3://my-bucket/results/today/").manifest["copy.txt"].tolist()
            ['s3://my-bucket/copies/1/copy.txt']
        """
        from file_dataset import _saved

        frames = {name: getattr(self, name) for name in _saved.FRAMES}
        saved = _saved.Saved(frames, self.input_rows, self.files_without_digest, self.hint)
        _saved.save(saved, place, options)

    @property
    def input_rows(self) -> int:
        """How many rows the input had; where it is not known, the recorded frame, or the input when saved or run."""
        if self.input is not None:
            return len(self.input)
        return max(self.dropped_rows + len(self._good), self.input_count or 0)

    @property
    def dropped_rows(self) -> int:
        """How many rows failed."""
        return int(self.failures[_frame.ID].nunique())

    @property
    def failed_rows(self) -> pd.DataFrame:
        """The input rows that failed, as they were given: hand them to `run` again, then `merge`."""
        return self._input_rows(self.failures)

    @property
    def unprocessed_rows(self) -> pd.DataFrame:
        """The input rows that a stopped run has not processed: neither stored nor failed."""
        frame = self._known_input()
        done = {*_texts(self.manifest), *_texts(self.failures)}
        return _rows(frame, without=done)

    def pinned(self) -> pd.DataFrame:
        """Return the input with the versions that were read: a later run reads the same bytes, or fails by name.

        A column `<file>.version_id` (text) is behind each file column of which something was read. It is as in the
        input (mostly null, the newest) for buckets without versions, directories, and rows not read. No request.

        Example:
            >>> def copy(input_dir, output_dir):
            ...     return {"copy.txt": input_dir / "scan.txt"}
            >>> frame = pd.DataFrame({"id": [1], "scan.txt": "s3://my-bucket/scan.txt"})
            >>> list(Pipeline(copy, into_path="s3://my-bucket/copies/").run(frame).pinned())
            ['id', 'scan.txt', 'scan.txt.version_id']
        """
        return _pinned(self._known_input(), self.inputs)

    def merge(self, later: PipelineResult) -> PipelineResult:
        """Return this result with the rows of a later run in the place of those with the same id, in input order.

        A row that failed this time loses its place in the manifest; rows that `later` has not processed keep theirs.
        The hint stays as long as no row has succeeded and it is that of every failure. `prefetch` is the later run's.
        """
        import pandas as pd

        manifest = later.manifest
        if _frame.ERROR_COLUMNS[0] in manifest and _frame.ERROR_COLUMNS[0] not in self.manifest:
            # a recorded run joins one that dropped its failed rows
            manifest = later._good.drop(columns=list(_frame.ERROR_COLUMNS))
        touched = {*_texts(later.manifest), *_texts(later.failures)}
        source = self.input
        if source is not None and later.input is not None:
            known = set(_texts(source))
            new = _rows(later.input, without=known)
            source = pd.concat([source, new]) if len(new) else source
        given = [] if source is None else [source]
        order = [text for frame in (*given, *self._frames, *later._frames) for text in _texts(frame)]

        def joined(earlier: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
            return _in_order(_concat(_rows(earlier, without=touched), new), order)

        hints = {self.hint} if len(_rows(self.failures, without=touched)) else set()
        hints |= {later.hint} if len(later.failures) else set()
        merged = PipelineResult(
            source,
            joined(self.manifest, manifest),
            joined(self.failures, later.failures),
            joined(self.files, later.files),
            self.files_without_digest + later.files_without_digest,
            prefetch=later.prefetch,
            inputs=joined(self.inputs, later.inputs),
            input_count=self.input_count,
            counts=sum_of(self.counts, later.counts),
        )
        holds = len(hints) == 1 and not len(merged._good)
        return replace(merged, hint=hints.pop()) if holds else merged

    def summary(self, *, allowed_fraction: float | None = None) -> str:
        """Return one line: "3 of 12 rows dropped (25.0%; allowed 50.0%): 2 at download, 1 at fn"; `hint`, if any."""
        total, dropped = self.input_rows, self.dropped_rows
        allowed = "" if allowed_fraction is None else f"; allowed {allowed_fraction:.1%}"
        if not dropped:
            return f"0 of {total} rows dropped"
        first = self._first_failures["error_stage"].value_counts()
        stages = ", ".join(f"{first[stage]} at {stage}" for stage in _STAGES if stage in first)
        hint = f". {self.hint}" if self.hint else ""
        return f"{dropped} of {total} rows dropped ({dropped / total:.1%}{allowed}): {stages}{hint}"

    def raise_if_dropped(self, fraction: float = 0.0) -> None:
        """Raise when more than `fraction` (0 to 1) of the input rows failed.

        Raises:
            RowError: with every failure.
            InvalidDatasetError: `fraction` is not between 0 and 1: write 5 % as 0.05.
        """
        if not 0 <= fraction <= 1:
            raise InvalidDatasetError(f"fraction={fraction!r} is not between 0 and 1: write 5 % as 0.05")
        if self.dropped_rows and self.dropped_rows / self.input_rows > fraction:
            failures = _frame.failures_of(self.failures)
            summary = self.summary(allowed_fraction=fraction)
            raise RowError(failures, f"{summary}\nthe first: row {failures[0].id!r}: {failures[0]}")

    @property
    def _frames(self) -> tuple[pd.DataFrame, ...]:
        return self.manifest, self.failures, self.inputs

    @property
    def _good(self) -> pd.DataFrame:
        failed = set(_texts(self.failures))
        return _rows(self.manifest, without=failed)

    def _known_input(self) -> pd.DataFrame:
        if self.input is None:
            raise InvalidDatasetError(
                "the input is not known: give it as PipelineResult.from_recorded(frame, input=...), or, to a result "
                "that was loaded, as dataclasses.replace(result, input=...)"
            )
        return self.input

    def _input_rows(self, named: pd.DataFrame) -> pd.DataFrame:
        frame = self._known_input()
        return _rows(frame, without=set(_texts(frame)) - set(_texts(named)))

    @property
    def _first_failures(self) -> pd.DataFrame:
        return self.failures.drop_duplicates(_frame.ID)

    @property
    def _causes(self) -> dict[Cause, int]:
        names = ["error_stage", "error_type", "error_code"]
        counts = self._first_failures[names].value_counts(dropna=False, sort=False).reset_index()
        return {
            Cause(stage, kind, None if _urls.is_null(code) else code): count
            for stage, kind, code, count in counts.itertuples(index=False, name=None)
        }

    @property
    def _unprocessed_count(self) -> int:
        is_recorded = _frame.ERROR_COLUMNS[0] in self.manifest
        return max(0, self.input_rows - len(self.manifest) - (0 if is_recorded else self.dropped_rows))

    def _headline(self) -> str:
        count = self._unprocessed_count
        rest = f", {count} not processed" if count else ""
        return f"{replace(self, hint=None).summary()}{rest}, {len(self.files)} files stored"

    def __repr__(self) -> str:
        """Show the counts, by stage and cause, and the first failures; at most some 20 lines, however many failed."""
        causes = [f"  {cause}" for cause in causes_of(self._causes)]
        failures, more = _shown_failures(self)
        lines = [f"  row {_cut(repr(one.id))}: {_cut(_one_line(str(one)))}" for one in failures]
        rest = [f"  ... and {more} more"] if more else []
        first = ["first failures:", *lines, *rest] if failures else []
        return "\n".join([f"PipelineResult({self._headline()})", *causes, *filter(None, [self.hint]), *first])

    def _repr_html_(self) -> str:
        """Show the same in a notebook, as a table; everything that came from outside is escaped."""
        return _html_of(self._headline(), self._causes, self.hint, *_shown_failures(self))


class RunStoppedError(FileDatasetError):
    """A run stopped before its last row; `result` has the rows done, the failures and the rows not processed.

    Example:
        >>> def fail(input_dir, output_dir):
        ...     raise ValueError("bad scan")
        >>> frame = pd.DataFrame({"id": [1, 2, 3], "scan.txt": "s3://my-bucket/scan.txt"})
        >>> try:
        ...     Pipeline(fail, into_path="s3://my-bucket/copies/", on_failure="raise").run(frame)
        ... except RunStoppedError as error:
        ...     print(error.result.unprocessed_rows["id"].tolist())
        [2, 3]
    """

    def __init__(self, message: str, result: PipelineResult | None = None) -> None:
        """Take the message, which names the cause and the remedy, and what was done until then."""
        super().__init__(masked(message))
        self.message = str(self)
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the result with the message."""
        return type(self), (self.message, self.result)


_last_stopped: list[PipelineResult] = []  # at most one
_NOTE = (
    "The rows done so far are in .result: `except {name} as exc: result = exc.result`. In a notebook: `import sys; "
    "result = sys.last_value.result`, or, after another error, `file_dataset.PipelineResult.last_stopped()`."
)


def attach(error: BaseException, result: PipelineResult | None) -> None:
    """Have what stopped a run carry the run's result, with a note that names where it is."""
    if result is None:
        return
    error.result = result  # type: ignore[attr-defined]  # an attribute of ours on any exception
    _last_stopped[:] = [result]
    note = _NOTE.format(name=type(error).__name__)
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


class Cause(NamedTuple):
    """What failures have in common."""

    stage: Stage
    type: str
    code: str | None

    def __str__(self) -> str:
        """Return `FileNotFoundError (NoSuchKey)`."""
        return f"{self.type} ({self.code})" if self.code else self.type


def _shown_failures(result: PipelineResult) -> tuple[list[Failure], int]:
    """Return the first failure of each of the first failed rows, and how many more rows failed."""
    failures = _frame.failures_of(result._first_failures.iloc[:_SHOWN_FAILURES])  # noqa: SLF001
    return failures, result.dropped_rows - len(failures)


def causes_of(counts: Mapping[Cause, int]) -> list[str]:
    """Return "2 at download: FileNotFoundError (NoSuchKey)" per stage and cause, the stages in order, the most first.

    Args:
        counts: how many rows failed by each cause. At most eight causes are named, the rest is counted.
    """
    places = dict(zip(_STAGES, range(len(_STAGES)), strict=True))
    order = sorted(counts.items(), key=lambda one: (places.get(one[0].stage, len(places)), -one[1], str(one[0])))
    lines = [f"{count} at {cause.stage}: {_cut(_one_line(str(cause)))}" for cause, count in order[:_SHOWN_CAUSES]]
    rest = sum(count for _, count in order[_SHOWN_CAUSES:])
    return [*lines, f"{rest} more of {len(order) - _SHOWN_CAUSES} other causes"] if rest else lines


def _html_of(headline: str, causes: Mapping[Cause, int], hint: str | None, failures: list[Failure], more: int) -> str:
    listed = "".join(f"<li>{_escaped(cause)}</li>" for cause in causes_of(causes))
    parts = [f"<p><b>PipelineResult</b>: {_escaped(headline)}</p>", f"<ul>{listed}</ul>" if listed else ""]
    if hint:
        parts.append(f"<p>{_escaped(hint)}</p>")
    if failures:
        head = "".join(f"<th>{name}</th>" for name in ("id", "stage", "file", "URL", "cause", "message"))
        body = "".join(
            "<tr>"
            + "".join(
                f"<td>{_escaped('' if value is None else value)}</td>"
                for value in (
                    one.id,
                    one.stage,
                    one.file,
                    one.url,
                    Cause(one.stage, one.type, one.code),
                    one.message,
                )
            )
            + "</tr>"
            for one in failures
        )
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    if more:
        parts.append(f"<p>... and {more} more in <code>failures</code></p>")
    return f"<div>{''.join(parts)}</div>"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}..."


def _escaped(value: object) -> str:
    return html.escape(_cut(_one_line(str(value))))


def _texts(frame: pd.DataFrame) -> list[str]:
    return [str(row_id) for row_id in frame[_frame.ID].tolist()]


def joined(earlier: PipelineResult, later: PipelineResult) -> PipelineResult:
    """Return one result of two that have no row in common, in the order of the input, which both know.

    The hint and `prefetch` are the later one's, unless the earlier one has a row that succeeded.
    """
    import pandas as pd

    source = earlier.input
    assert source is not None, "an input whose order counts"  # noqa: S101
    order = pd.Index(source[_frame.ID].astype(object))

    def both(name: str) -> pd.DataFrame:
        frame = _concat(getattr(earlier, name), getattr(later, name))
        places = order.get_indexer(frame[_frame.ID].astype(object))
        if (places[1:] >= places[:-1]).all():
            return frame
        ordered: pd.DataFrame = frame.iloc[places.argsort(kind="stable")].reset_index(drop=True)
        return ordered

    return replace(
        later,
        input=source,
        manifest=both("manifest"),
        failures=both("failures"),
        files=both("files"),
        inputs=both("inputs"),
        files_without_digest=earlier.files_without_digest + later.files_without_digest,
        hint=None if len(earlier.manifest) else later.hint,
        counts=sum_of(earlier.counts, later.counts),
    )


def _rows(frame: pd.DataFrame, *, without: set[str]) -> pd.DataFrame:
    """Return the rows whose ids are not among these texts."""
    return frame.iloc[[position for position, text in enumerate(_texts(frame)) if text not in without]]


def _pinned(frame: pd.DataFrame, inputs: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with the versions that were read of its files; the caller's own stays as it is."""
    import pandas as pd

    frame, ids = frame.copy(deep=False), _texts(frame)
    for name in [name for name in inputs["file"].unique().tolist() if name in frame]:
        read = inputs[inputs["file"] == name]
        found = dict(zip(_texts(read), _frame._values(read["version_id"]), strict=True))  # noqa: SLF001
        column = _frame.version_column(name)
        before = _frame._values(frame.pop(column)) if column in frame else [None] * len(frame)  # noqa: SLF001
        versions = [found.get(text) or old for text, old in zip(ids, before, strict=True)]
        frame.insert(list(frame).index(name) + 1, column, pd.Series(versions, frame.index, _frame.TEXT))
    return frame


def _concat(earlier: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    # outputs come before the id, also those that only one of them has
    outputs = [name for frame in (earlier, new) for name in frame.columns[: frame.columns.get_loc(_frame.ID)]]
    columns = list(dict.fromkeys([*outputs, *earlier.columns, *new.columns]))
    # a part without rows would widen the dtypes of the other
    parts = [frame for frame in (earlier, new) if len(frame)] or [earlier]
    # one alone is not copied
    joined = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0].reset_index(drop=True)
    for name in columns:
        if name not in joined:
            joined[name] = pd.Series([None] * len(joined), dtype=_frame.TEXT)
    return joined[columns]


def _in_order(frame: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    place: dict[str, int] = {}
    for text in order:
        place.setdefault(text, len(place))
    places = [place[text] for text in _texts(frame)]
    positions = sorted(range(len(frame)), key=places.__getitem__)
    return frame.iloc[positions].reset_index(drop=True)
