"""`blob_reader`: the files of a frame as a Ray Dataset of blobs, one read task per batch of rows."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import pyarrow as pa

from file_dataset import _frame, _options
from file_dataset._errors import CREDENTIAL_CODES, InvalidDatasetError, RowError
from file_dataset._file_tables import check_files, id_type
from file_dataset._options import Options
from file_dataset._ray import batching, compat
from file_dataset._ray.compat import Batch, BatchDatasource
from file_dataset._ray.survey import Texts
from file_dataset._reader import reader_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd
    import ray.data

    from file_dataset._errors import Failure
    from file_dataset._frame import Rows

logger = logging.getLogger(__name__)

OnFailure: TypeAlias = Literal["raise", "drop", "record"]

# What a task holds beside what it has handed over: rows are read so many bytes at a time, one row at least. A guess.
_HELD_BYTES = 64 << 20
# A task reads so many rows first, and their sizes decide how many it reads next: its rows may be unlike the sample.
_FIRST_ROWS = 16
# Of a task, where no `batch_size` is given. Ray wants blocks of 1 to 128 MiB
# (https://docs.ray.io/en/latest/data/data-internals.html#blocks); tiny files would make one of 100,000 rows, which
# `take(1)` waits for.
_TASK_BYTES = 32 << 20
_TASK_ROWS = 1024
# Rows whose sizes are asked for, and files of them: one round trip with the 64 requests that are in flight at once.
_SAMPLED_ROWS, _SAMPLED_FILES = 16, 64
_BINARY_BYTES = 2**31 - 1


def blob_reader(  # noqa: PLR0913  # each is a choice of the user's
    frame: pd.DataFrame | ray.data.Dataset,
    batch_size: int | None = None,
    options: Options | None = None,
    *,
    file_columns: Sequence[str] | None = None,
    carry: bool = False,
    on_failure: OnFailure = "raise",
    large: bool = False,
    num_cpus: float | None = None,
    memory: float | None = None,
    concurrency: int | None = None,
    ray_remote_args: Mapping[str, Any] | None = None,
) -> ray.data.Dataset:
    """Return a Ray Dataset of the frame's files, read when it is consumed: `batch_size` rows per task.

    One HEAD per file of at most 16 rows, now; the rows are spread over the frame. There are fewer of them where they
    have over 64 files, or where `batch_size` is lower. Their mean size counts as that of every row, so that Ray knows
    how much memory a task takes. Later one GET per file, several side by side for a large file. Bytes arrive in
    Arrow buffers, which Ray copies into its object store once. A task reads 16 rows, then as many rows at a time as
    make 64 MiB by the mean of what it has read, at least one, and hands them over. Ray keeps them until the task hands
    over more. So a task has about twice that in memory, however large `batch_size` is. Where rows suddenly grow it has
    more: it takes at most four times as many rows as the time before.

    Args:
        frame: columns of `s3://` URLs (or paths that every node can read); `id`, where it has one, comes along. A
            column `<file>.version_id` has that version read, null the newest; it does not come along. A
            Dataset with such columns is executed now, and its rows come to this process: what was filtered out of it
            is never read. Columns that can name no file (numbers, bytes, arrays) stay there, unless `carry`.
        batch_size: rows per task. None: as many as make 32 MiB by the mean, at most 1,024. They are fewer, but not
            under 8, where slots (as in `run_pipeline`) would get fewer than four tasks each, and under 8 where a slot
            would get none. 1,000 objects of 16 KiB then take 0.4 s, and 4.5 s with `batch_size=4` (measured as
            `tests/benchmarks/bench_ray.py` does). A block has at most the rows of a task. Where those exceed 64 MiB, or
            Ray's `target_max_block_size` if that is less, the task makes several blocks. That limit holds for this
            Dataset and for those made from it.
        options: how S3 is reached; None: `Options.default()`, read now.
        file_columns: decides alone which columns name files; without it their names and values do.
        carry: have all other columns in the Dataset too.
        on_failure: a file that cannot be read (or a cell that is no location) raises, which ends the job; or its row is
            `"drop"`ped, with a warning in the task's log; or it is kept by `"record"`: null blobs, and why in the
            columns `error_stage`, `error_file`, `error_url`, `error_type`, `error_code`, `error_message` (text, null
            for good rows). Refused credentials raise always. Rows whose failure an earlier Pipeline has recorded are
            not read: they raise now, are dropped, or keep that failure.
        large: `large_binary` instead of `binary` columns: for blobs, and batches that are later concatenated, of 2 GiB
            and more.
        num_cpus: CPUs that a task takes; None: Ray's default, 1. Reading is mostly waiting: 0.25 is plenty for large
            files. With 0, and nothing else that bounds them, as many tasks run as the cluster has CPUs.
        memory: bytes of heap that a task takes.
        concurrency: the most tasks at a time; None: as many as there is room for.
        ray_remote_args: more of `ray.remote`'s arguments.

    Returns:
        A Dataset with the frame's `id` and file columns in the frame's order, then carried ones. Blobs are `binary`,
        null where a row has no such file. Blocks come in the frame's order only if
        `ray.data.DataContext`'s `execution_options.preserve_order` is set.

    Raises:
        InvalidDatasetError: the frame or an argument is refused, or a cell is a directory; or this is Ray Client, where
            Ray Data does not run.
        RowError: with `on_failure="raise"`, files that were looked at and could not be found, or recorded failures.

    Example:
        >>> frame = pd.DataFrame({"id": [1], "scan.txt": ["s3://my-bucket/scan.txt"]})
        >>> file_dataset.ray.blob_reader(frame, batch_size=8).take_all()
        [{'id': 1, 'scan.txt': b'hello'}]
    """
    _options.check(options)
    if on_failure not in get_args(OnFailure):
        raise InvalidDatasetError(f"on_failure={on_failure!r}: give 'raise', 'drop' or 'record'")
    if batch_size is not None:
        batch_size = compat.checked_count("batch_size", batch_size, 1)
    if concurrency is not None:
        compat.checked_count("concurrency", concurrency, 1)
    resources = compat.resources(ray_remote_args, num_cpus=num_cpus, memory=memory)
    table = _in_pandas(frame, file_columns, carry=carry)
    rows = _frame.rows_of_frame(table, file_columns, needs_id=False)
    check_files(rows)
    if on_failure == "raise" and rows.failed:
        raise _earlier(list(rows.failed.values()), len(rows))
    options = options or Options.default()
    schema = _schema(table, rows, carry=carry, large=large, on_failure=on_failure)
    _connect()
    bytes_per_row = _bytes_per_row(_sample(rows, batch_size or _SAMPLED_ROWS), options, on_failure)
    if batch_size is None:
        most = min(max(1, round(_TASK_BYTES / bytes_per_row)), _TASK_ROWS) if bytes_per_row else _TASK_ROWS
        batch_size = batching.rows_per_task(len(rows), compat.slots(concurrency, resources), most)
    parts = _parts(table, rows, schema, batch_size)
    if not large and bytes_per_row * batch_size > _BINARY_BYTES:
        logger.warning(
            "a batch of %d rows has some %.1f GiB: joining its blobs to one column fails over 2 GiB. Give large=True, "
            "or a smaller batch_size",
            batch_size,
            bytes_per_row * batch_size / 2**30,
        )
    rows_at_once = max(1, int(_HELD_BYTES // bytes_per_row)) if bytes_per_row else batch_size
    settings = _ReadSettings(options, on_failure, large, min(rows_at_once, batch_size), schema)
    batches = [
        Batch(_reading(part, settings), None if on_failure == "drop" else part.count, int(bytes_per_row * part.count))
        for part in parts
    ]
    source = BatchDatasource("Blobs", batches, schema)
    is_large = bytes_per_row * batch_size > _HELD_BYTES
    return compat.read(
        source,
        len(batches),
        takes=resources,
        concurrency=compat.bounded(concurrency, resources),
        block_bytes=_HELD_BYTES if is_large else None,
    )


def _earlier(failures: Sequence[Failure], total: int) -> RowError:
    named = "the first" if failures[0].id is None else f"the first: row {failures[0].id!r}"
    return RowError(
        failures,
        f"{len(failures)} of {total} rows failed in an earlier Pipeline and have no file to read: on_failure='drop' "
        f"leaves them out, on_failure='record' passes their failures on\n{named}: {failures[0]}",
    )


def _in_pandas(
    data: pd.DataFrame | ray.data.Dataset, file_columns: Sequence[str] | None, *, carry: bool
) -> pd.DataFrame:
    """Return a frame as it is, and a Dataset as a frame: its columns that name files, or all of them."""
    if not compat.is_dataset(data):
        return data
    _connect()
    if not carry:
        only_texts: Any = Texts(file_columns)
        takes: dict[str, Any] = {"num_cpus": 0}  # the caller may be a task that has the last CPU
        how = {**compat.pool(None, takes, of_actors=False), **takes}
        data = data.map_batches(only_texts, batch_format=None, batch_size=None, **how)
    with compat.settings(data, keeps_order=True):
        frame: pd.DataFrame = data.to_pandas()
    return frame


def _connect() -> None:
    compat.connect()
    if compat.is_client():
        raise InvalidDatasetError(
            "Ray Data does not run through Ray Client (ray://): call blob_reader in a task or job on the cluster "
            "(ray job submit), or connect by ray.init('auto') on one of its nodes"
        )


@dataclass(frozen=True)
class _Part:
    """The rows of one task: no frame, which costs milliseconds to look at."""

    cells: Mapping[str, list[Any]]
    versions: Mapping[str, list[Any]]
    plain: bytes  # a stream of Arrow's: `id` and carried columns
    count: int
    recorded: Mapping[int, Failure]  # by place: rows that failed in an earlier Pipeline


def _parts(frame: pd.DataFrame, rows: Rows, schema: pa.Schema, batch_size: int) -> list[_Part]:
    """Return the rows, `batch_size` at a time; one part without rows where there are none."""
    absolute = _frame.absolute_cells(rows)
    known = pa.schema([field for field in schema if field.name in frame and field.name not in rows.cells])
    plain = pa.Table.from_pandas(frame[known.names], known, preserve_index=False)
    recorded: dict[int, dict[int, Failure]] = {}
    for position, failure in rows.failed.items():
        recorded.setdefault(position // batch_size, {})[position % batch_size] = failure
    parts = []
    for start in range(0, max(1, len(rows)), batch_size):
        part = plain.slice(start, batch_size)
        with pa.BufferOutputStream() as stream:  # a pickle of a slice has the whole in it
            with pa.ipc.new_stream(stream, known) as writer:
                writer.write_table(part)
            cells, versions = _taken((absolute, rows.versions), slice(start, start + batch_size))
            count = max(0, min(batch_size, len(rows) - start))
            failed = recorded.get(start // batch_size, {})
            parts.append(_Part(cells, versions, stream.getvalue().to_pybytes(), count, failed))
    return parts


def _taken(groups: Sequence[Mapping[str, list[Any]]], which: slice) -> list[dict[str, list[Any]]]:
    return [{name: column[which] for name, column in columns.items()} for columns in groups]


def _schema(frame: pd.DataFrame, rows: Rows, *, carry: bool, large: bool, on_failure: OnFailure) -> pa.Schema:
    """Return the columns of every block, so that one with nulls alone is like the others."""
    kind = pa.large_binary() if large else pa.binary()
    plain = [name for name in frame.columns if name == _frame.ID or (carry and name in rows.carried)]
    try:
        known = pa.Schema.from_pandas(frame[plain], preserve_index=False)
    except (pa.ArrowException, OverflowError) as exc:
        raise InvalidDatasetError(
            f"a column has no Arrow type ({exc}): give it values of one type, such as frame[name].astype(str)"
        ) from exc
    named = {field.name: field for field in known} | {name: pa.field(name, kind) for name in rows.file_columns}
    if _frame.ID in named:
        named[_frame.ID] = named[_frame.ID].with_type(id_type(named[_frame.ID].type))
    first = [name for name in frame.columns if name == _frame.ID or name in rows.file_columns]
    carried = [name for name in rows.carried if carry]
    errors = [pa.field(name, pa.string()) for name in _frame.ERROR_COLUMNS] if on_failure == "record" else []
    return pa.schema([named[name] for name in (*first, *carried)] + errors)


def _sample(rows: Rows, most: int) -> Rows:
    """Return so many rows, at equal distances from the first to the last: a frame may be sorted by size, or joined."""
    count = min(most, _SAMPLED_ROWS, max(1, _SAMPLED_FILES // max(1, len(rows.cells))), len(rows))
    positions = [at * (len(rows) - 1) // max(1, count - 1) for at in range(count)]
    cells, versions = (
        {name: [column[at] for at in positions] for name, column in columns.items()}
        for columns in (rows.cells, rows.versions)
    )
    ids = None if rows.ids is None else [rows.ids[at] for at in positions]
    return dataclasses.replace(rows, frame=None, ids=ids, cells=cells, failed={}, count=count, versions=versions)


def _bytes_per_row(sample: Rows, options: Options, on_failure: OnFailure) -> float:
    """Return the mean bytes of these rows' files: one HEAD per file, side by side.

    Raises:
        RowError: files that could not be found, unless they cost their rows alone.
    """
    sample = dataclasses.replace(sample, local_paths=options.local_paths)
    sizes: list[int | None]
    failed: set[int] = set()
    if on_failure == "raise":
        columns = reader_of(sample, options).into_size_table().to_pydict()
        sizes = [size for column in columns.values() for size in column]
    else:
        numbered = dataclasses.replace(sample, ids=list(range(len(sample))))
        infos = reader_of(numbered, options).into_info_table().to_pylist()
        failed = {info["id"] for info in infos if info["size_bytes"] is None}
        sizes = [info["size_bytes"] for info in infos if info["id"] not in failed]
    return sum(size or 0 for size in sizes) / max(1, len(sample) - len(failed))


@dataclass(frozen=True)
class _ReadSettings:
    """What is the same for every batch."""

    options: Options
    on_failure: OnFailure
    large: bool
    rows_at_once: int
    schema: pa.Schema


def _reading(part: _Part, settings: _ReadSettings) -> Callable[[], Iterator[pa.Table]]:
    # a closure over the part alone: Ray pickles it for its task
    return lambda: read_blobs(part, settings)


def read_blobs(part: _Part, settings: _ReadSettings) -> Iterator[pa.Table]:
    """Yield the rows of a batch, some at a time."""
    with pa.ipc.open_stream(part.plain) as stream:
        plain = stream.read_all()
    if not part.count:
        yield settings.schema.empty_table()
    if part.recorded and settings.on_failure == "drop":
        logger.warning(
            "rows that failed in an earlier Pipeline are dropped: %s", RowError(list(part.recorded.values()))
        )
    end, read_bytes, count = 0, 0, min(settings.rows_at_once, _FIRST_ROWS)
    while end < part.count:
        start, end = end, min(end + count, part.count)
        cells, versions = _taken((part.cells, part.versions), slice(start, end))
        recorded = {at - start: failure for at, failure in part.recorded.items() if start <= at < end}
        tables = [_table(cells, versions, plain.slice(start, end - start), recorded, settings)]
        read_bytes += tables[0].nbytes
        # at most four times as many as before: rows that were small, or not there, say little of those to come
        more = max(1, int(_HELD_BYTES * end // read_bytes)) if read_bytes else part.count
        count = min(more, 4 * (end - start))
        yield tables.pop()  # what has been handed over has no name here


def _table(
    cells: dict[str, list[Any]],
    versions: dict[str, list[Any]],
    plain: pa.Table,
    recorded: Mapping[int, Failure],
    settings: _ReadSettings,
) -> pa.Table:
    """Read these rows; where files fail, their rows are dropped or recorded, and the others read again without them.

    Of rows that failed in an earlier Pipeline nothing is read.
    """
    count = len(next(iter(cells.values()), ()))
    ids = plain[_frame.ID].to_pylist() if _frame.ID in plain.column_names else [None] * count
    failed, drops = dict(recorded), settings.on_failure == "drop"
    remaining = list(range(count))
    blobs = None
    while blobs is None:
        if failed:
            cells, versions, remaining = _without(failed, cells, versions, remaining, drops=drops)
        # positions name the rows, which may have no ids
        rows = _frame.Rows(
            None, remaining, cells, (), {}, Path("/"), len(remaining), settings.options.local_paths, versions
        )
        failures: Sequence[Failure] = [] if settings.on_failure == "raise" else _failures_of_cells(rows)
        if not failures:
            try:
                blobs = reader_of(rows, settings.options).into_blob_table(large=settings.large)
            except RowError as exc:
                failures = exc.failures
                named = RowError([dataclasses.replace(one, id=ids[_position(one)]) for one in failures])
                if settings.on_failure == "raise" or any(one.code in CREDENTIAL_CODES for one in failures):
                    raise named from exc.__cause__
        if failures:
            logger.warning("%s", RowError([dataclasses.replace(one, id=ids[_position(one)]) for one in failures]))
        for one in failures:
            failed.setdefault(_position(one), one)
    columns = {name: blobs[name] for name in cells}
    taken = plain if len(remaining) == count else plain.take(pa.array(remaining, pa.int64()))
    columns |= zip(taken.column_names, taken.columns, strict=True)
    if settings.on_failure == "record":
        for name in _frame.ERROR_COLUMNS:
            field = name.removeprefix("error_")
            columns[name] = pa.array([getattr(failed.get(at), field, None) for at in range(count)], pa.string())
    return pa.Table.from_arrays([columns[name] for name in settings.schema.names], schema=settings.schema)


def _without(
    failed: Mapping[int, Failure],
    cells: dict[str, list[Any]],
    versions: dict[str, list[Any]],
    remaining: list[int],
    *,
    drops: bool,
) -> tuple[dict[str, list[Any]], dict[str, list[Any]], list[int]]:
    """Return cells, versions and positions without the rows that failed, or with no file of theirs."""
    keeps = [position not in failed for position in remaining]
    if not drops:
        nulled = {
            name: [cell if is_kept else None for cell, is_kept in zip(column, keeps, strict=True)]
            for name, column in cells.items()
        }
        return nulled, versions, remaining
    cells, versions = (
        {name: list(itertools.compress(column, keeps)) for name, column in columns.items()}
        for columns in (cells, versions)
    )
    return cells, versions, list(itertools.compress(remaining, keeps))


def _position(failure: Failure) -> int:
    assert isinstance(failure.id, int), "the id that `_table` gave it"  # noqa: S101
    return failure.id


def _failures_of_cells(rows: Rows) -> list[Failure]:
    """Return the first failure of each row that has cells which are no location."""
    failed = []
    for position in range(len(rows)):
        try:
            rows.row(position)
        except RowError as exc:
            failed.append(exc.failures[0])
    return failed
