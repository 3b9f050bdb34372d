"""Frame <-> rows: the only module that knows column names.

Everything here looks at whole columns. A frame of 200,000 rows is checked without one Python call per row; a row's
locations are parsed when its turn comes, so that a bad cell costs its row and not the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import methodcaller
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from file_dataset import _ids, _plan, _urls
from file_dataset._errors import Failure, InvalidDatasetError, RowError

if TYPE_CHECKING:
    import pandas as pd

    from file_dataset._columns import Positions

ID = _ids.ID
ERROR_COLUMNS = ("error_stage", "error_file", "error_url", "error_type", "error_code", "error_message")
FAILURE_COLUMNS = (ID, *ERROR_COLUMNS)
FILES_COLUMNS = (ID, "file", "location", "size_bytes", "etag", "checksum")
VERSION = "version_id"  # of a file that is read, as `<file>.version_id`
DETAILS = ("size_bytes", "etag", "last_modified")  # of a file, as `<file>.<detail>`
INPUTS_COLUMNS = (ID, "file", "location", "size_bytes", "etag", "version_id", "checksum")

# pandas' nullable text type has one spelling in pandas 2 and 3, and stays Arrow's string when every value is null;
# an object column of nulls and text would become pickles in Ray.
TEXT = "string"

_SHOWN = 5


@dataclass(frozen=True)
class Rows:
    """A checked frame, or one checked row: rows are made from it one at a time.

    `cells` has one list per file column, None where the cell is null; `versions` has the same for those with a column
    `<file>.version_id` beside them, None where the newest is meant. `failed` has, per position, the failure that an
    earlier Pipeline recorded for the row.
    """

    frame: pd.DataFrame | None
    ids: list[Any] | None
    cells: Mapping[str, list[Any]]
    carried: tuple[str, ...]
    failed: Mapping[int, Failure]
    base: Path
    count: int
    local_paths: bool = True  # False: a local location costs its row
    versions: Mapping[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.count

    @property
    def file_columns(self) -> tuple[str, ...]:
        """The file names, in the frame's order."""
        return tuple(self.cells)

    def id_at(self, position: int) -> Any:  # noqa: ANN401  # str, int or None, as the frame has it
        """Return the id of a row, None in a frame without ids."""
        return None if self.ids is None else self.ids[position]

    def source(self, position: int, name: str) -> _urls.Source | None:
        """Return where a file or a directory of a row is, None for a null cell.

        Raises:
            InvalidDatasetError: the cell is neither; or its version is not text.
        """
        cell = self.cells[name][position]
        if cell is None:
            return None
        at = _urls.parse(cell, base=self.base, local_paths=self.local_paths)
        return _urls.pinned(at, self.version_at(position, name))

    def location(self, position: int, name: str) -> _urls.Location | None:
        """Return where a file of a row is, None for a null cell.

        Raises:
            InvalidDatasetError: the cell is no location, or a directory; or its version is not text.
        """
        at = self.source(position, name)
        return None if at is None else _urls.one_file(at)

    def version_at(self, position: int, name: str) -> Any:  # noqa: ANN401  # as the frame has it
        """Return the version of a file that is read, None for the newest."""
        return self.versions[name][position] if name in self.versions else None

    @property
    def version_columns(self) -> list[str]:
        """The columns that pin versions."""
        return list(map(version_column, self.versions))

    def text_at(self, position: int, name: str, at: _urls.Location) -> str:
        """Return a file's location as manifests have it; where the cell is that text, the cell: it takes no memory."""
        text, cell = str(at), self.cells[name][position]
        return cell if isinstance(cell, str) and cell == text else text

    def refused(self, position: int, name: str, error: InvalidDatasetError) -> Failure:
        """Return the failure of a cell that is no location."""
        cell = _urls.shown(self.cells[name][position])
        return Failure.of(self.id_at(position), "download", error, file=name, url=cell)

    def part(self, positions: Positions) -> Rows:
        """Return some of the rows of a frame, in this order."""
        assert self.frame is not None, "rows of a frame"  # noqa: S101
        places = [int(position) for position in positions]
        failed = {at: self.failed[place] for at, place in enumerate(places) if place in self.failed}
        ids = None if self.ids is None else [self.ids[place] for place in places]
        cells, versions = (
            {name: [column[place] for place in places] for name, column in columns.items()}
            for columns in (self.cells, self.versions)
        )
        frame, count = self.frame.iloc[places], len(places)
        return replace(self, frame=frame, ids=ids, cells=cells, failed=failed, count=count, versions=versions)

    def row(self, position: int) -> _plan.FileRow:
        """Return the row with its sources parsed.

        Raises:
            RowError: cells that are none, every one of them.
        """
        files: dict[str, _urls.Source | None] = {}
        failures = []
        for name in self.cells:
            try:
                files[name] = self.source(position, name)
            except InvalidDatasetError as exc:
                failures.append(self.refused(position, name, exc))
        if failures:
            raise RowError(failures)
        return _plan.FileRow(self.id_at(position), files)


def parsed(rows: Rows, count: int, *, directories: bool = True) -> Iterator[_plan.FileRow]:
    """Return the first rows; cells that are no source are refused all at once, before the first request.

    Until the last row is read, the locations of all are kept: some 200 bytes each, in one list per column, which takes
    half the time of parsing each cell again.

    Args:
        rows: the rows.
        count: how many of them.
        directories: False refuses those too.

    Raises:
        InvalidDatasetError: cells that are no source.
    """
    failures: list[Failure] = []
    read = rows.source if directories else rows.location
    columns: dict[str, list[_urls.Source | None]] = {name: [] for name in rows.cells}
    for position in range(count):
        for name, column in columns.items():
            try:
                column.append(read(position, name))
            except InvalidDatasetError as exc:
                failures.append(rows.refused(position, name, exc))
    if failures:
        raise InvalidDatasetError(str(RowError(failures)))
    return (
        _plan.FileRow(rows.id_at(at), {name: column[at] for name, column in columns.items()}) for at in range(count)
    )


def rows_of_mapping(row: Mapping[str, object], file_columns: Sequence[str] | None) -> Rows:
    """Check one row given as a mapping of file name to location.

    Raises:
        InvalidDatasetError: no file name in it, or a name that is unsafe.
    """
    if not isinstance(row, Mapping):
        raise InvalidDatasetError(f"row is a {type(row).__name__}: give a mapping of file name to location")
    row_id = row.get(ID)
    columns = {str(name): [None if _urls.is_null(value) else value] for name, value in row.items() if name != ID}
    _check_column_names(list(row))
    names = _file_columns(columns, file_columns, count=1, what="row")
    if row_id is not None:
        _urls.check_id(row_id)
    cells = {name: columns[name] for name in names}
    versions = _versions(columns, names)
    return Rows(None, [row_id], cells, (), {}, _working_dir(), 1, versions=versions)


def rows_of_frame(frame: object, file_columns: Sequence[str] | None, *, needs_id: bool, local: bool = False) -> Rows:
    """Check a frame: its column names, its ids and which of its columns name files.

    Args:
        frame: a pandas DataFrame; it is never changed.
        file_columns: decides alone which columns name files; None: found by their names and values.
        needs_id: a frame without `id` is refused.
        local: ids become directories of a local disk, where ids that differ by case or accents alone may be one.

    Raises:
        InvalidDatasetError: whatever no later step could make good, naming the offenders.
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        remedy = "convert it with .to_pandas()" if hasattr(frame, "to_pandas") else "give a pandas DataFrame"
        raise InvalidDatasetError(f"the frame is a {type(frame).__name__}: {remedy}")
    names = list(frame.columns)
    _check_column_names(names)
    recorded = [name for name in ERROR_COLUMNS if name in names]
    if recorded and len(recorded) < len(ERROR_COLUMNS):
        missing = sorted(set(ERROR_COLUMNS) - set(recorded))
        raise InvalidDatasetError(
            f"columns {recorded} are reserved for recorded failures: rename them. (A frame of recorded failures also "
            f"has {missing}.)"
        )
    ids = _ids.checked(frame, needs_id=needs_id, local=local)
    texts = {
        name: _values(frame[name])
        for name in names
        if name != ID and name not in ERROR_COLUMNS and (file_columns is not None or may_hold_text(frame[name]))
    }
    chosen = _file_columns(texts, file_columns, count=len(frame), what="frame")
    pinned = {column: _values(frame[column]) for column in map(version_column, chosen) if column in names}
    versions = _versions(pinned, chosen)
    # a version is that of an input: beside an output of the same name it would pin another object
    others = {*chosen, *map(version_column, versions), *FAILURE_COLUMNS}
    carried = tuple(name for name in names if name not in others)
    cells, failed = {name: texts[name] for name in chosen}, _recorded_failures(frame)
    return Rows(frame, ids, cells, carried, failed, _working_dir(), len(frame), versions=versions)


def version_column(file: str) -> str:
    """Return the name of the column that pins the versions of a file."""
    return f"{file}.{VERSION}"


def _versions(columns: Mapping[str, list[Any]], files: Sequence[str]) -> dict[str, list[Any]]:
    """Return the versions of each file that has a column of them, unless that is a file column itself."""
    names = {file: version_column(file) for file in files}
    return {file: columns[name] for file, name in names.items() if name in columns and name not in files}


def with_absolute_paths(rows: Rows) -> pd.DataFrame:
    """Return the frame for a process in another directory; the caller's own stays as it is.

    A cell that is no location stays too: it costs its row where it is read.
    """
    import pandas as pd

    frame = rows.frame
    assert frame is not None, "a row has no frame"  # noqa: S101
    changed = {name: cells for name, cells in absolute_cells(rows).items() if cells is not rows.cells[name]}
    columns = {name: pd.Series(cells, index=frame.index, dtype=object) for name, cells in changed.items()}
    return frame.assign(**columns).reset_index(drop=True)


def absolute_cells(rows: Rows) -> dict[str, list[Any]]:
    """Return the cells with absolute paths, columns of URLs alone as they are."""
    return {
        name: cells
        if all(cell is None or (isinstance(cell, str) and cell.startswith("s3://")) for cell in cells)
        else [_absolute(cell, rows.base) for cell in cells]
        for name, cells in rows.cells.items()
    }


def _absolute(cell: Any, base: Path) -> Any:  # noqa: ANN401  # whatever the frame has
    try:
        at = None if cell is None else _urls.parse(cell, base=base)
    except InvalidDatasetError:
        return cell
    if isinstance(at, _urls.Directory) and isinstance(at.at, Path):
        return str(at)  # a Path would lose the slash
    return at if isinstance(at, Path) else cell


def _working_dir() -> Path:
    """Return what relative paths are relative to, also when fn goes elsewhere later."""
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed; absolute paths and URLs do without
        return Path()


def _check_column_names(names: list[Any]) -> None:
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InvalidDatasetError(f"column names {odd[:_SHOWN]} are not text: rename them, or select columns")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidDatasetError(
            f"columns {twice[:_SHOWN]} appear more than once: rename them, or drop the later ones, "
            "frame.loc[:, ~frame.columns.duplicated()]"
        )


def may_hold_text(column: pd.Series) -> bool:
    """Return whether a column is of texts or objects: others name no files."""
    import pandas as pd
    from pandas.api import types

    dtype = column.dtype
    return bool(
        types.is_object_dtype(dtype)
        or types.is_string_dtype(dtype)
        or (isinstance(dtype, pd.CategoricalDtype) and types.is_object_dtype(column.astype(object)))
        or str(dtype) in {"large_string[pyarrow]", "null[pyarrow]", "string[pyarrow]"}
        or str(dtype).startswith(("dictionary<values=string", "dictionary<values=large_string"))
    )


def _values(column: pd.Series) -> list[Any]:
    """Return the values as Python objects, None where null."""
    plain = column.astype(object)
    missing = column.isna()
    if missing.any():
        plain = plain.mask(missing, None)
    values: list[Any] = plain.tolist()
    return values


def _file_columns(
    columns: Mapping[str, list[Any]], chosen: Sequence[str] | None, *, count: int, what: str
) -> list[str]:
    if chosen is not None:
        if isinstance(chosen, str):
            raise InvalidDatasetError(f"file_columns={chosen!r} is one text: give a list, [{chosen!r}]")
        if missing := [name for name in chosen if name not in columns]:
            raise InvalidDatasetError(f"file_columns {missing} are not among the columns {sorted(columns)}")
        names = [name for name in columns if name in set(chosen)]
    else:
        names = [
            name for name, values in columns.items() if _names_files(name, values) and not _is_detail(name, columns)
        ]
    if not names and count:
        raise InvalidDatasetError(
            f"the {what} has no file column among {list(columns)[:20]}: a file column is named like a file, such as "
            "'image.mha', and holds s3://bucket/key or paths; name yours with file_columns=[...]"
        )
    return _plan.check_file_names(list(names), local=False)


def _is_detail(name: str, columns: Mapping[str, list[Any]]) -> bool:
    """Return whether a column says something of another one's files: `a.mha.etag`, which may hold slashes, or nulls."""
    file, _, detail = name.rpartition(".")
    return detail in (*DETAILS, VERSION) and file in columns


def _names_files(name: str, values: list[Any]) -> bool:
    """Return whether a column names files, by its name and any of its values: a guess that `file_columns` overrides."""
    kinds = set(map(type, values)) - {type(None)}
    if any(issubclass(kind, PurePath) for kind in kinds):
        return True
    # one C loop per question: no Python call per row
    texts = (
        values
        if kinds == {str} and len(kinds) == len(set(map(type, values)))
        else [value for value in values if isinstance(value, str)]
    )
    if any(map(methodcaller("startswith", "s3://"), texts)):
        return True
    if any(map(methodcaller("endswith", "/"), texts)) and not any(map(methodcaller("__contains__", "://"), texts)):
        return True  # local directories
    extension = PurePosixPath(name).suffix
    if not extension:
        return False
    if not kinds:
        return True
    return any(map(methodcaller("__contains__", "/"), texts)) or any(map(methodcaller("endswith", extension), texts))


def check_directories(rows: Rows) -> None:
    """Check that every row of a frame can have a directory of a local disk, named by its id.

    Raises:
        InvalidDatasetError: there are no ids, or they differ by case or accents alone.
    """
    assert rows.frame is not None, "a row has no directory of its own"  # noqa: S101
    if rows.ids is None:
        raise _ids.no_ids(rows.frame)
    _ids.check_collisions(list(map(str, rows.ids)))


def check_not_failed(rows: Rows, verb: str) -> None:
    """Refuse rows whose failure an earlier Pipeline recorded: they have no files, and null would hide that.

    Args:
        rows: of a frame.
        verb: what was to be done with files, for the message.

    Raises:
        InvalidDatasetError: there are such rows.
    """
    if rows.failed:
        named = [position if rows.ids is None else rows.ids[position] for position in rows.failed]
        raise InvalidDatasetError(
            f"rows {named[:5]} ({len(named)} in all) have a recorded failure and no files to {verb}: leave them out, "
            "frame[frame['error_stage'].isna()]"
        )


def _recorded_failures(frame: pd.DataFrame) -> dict[int, Failure]:
    if ERROR_COLUMNS[0] not in frame.columns:
        return {}
    failed = frame["error_stage"].notna().to_numpy().nonzero()[0].tolist()
    return dict(zip(failed, failures_of(frame.iloc[failed]), strict=True))


def failures_of(frame: pd.DataFrame) -> list[Failure]:
    """Return one failure per row of a frame with the failure columns."""
    ids = _values(frame[ID]) if ID in frame.columns else [None] * len(frame)
    columns = [_values(frame[name]) for name in ERROR_COLUMNS]
    return [Failure(*values) for values in zip(ids, *columns, strict=True)]


def manifest(rows: Rows, outputs: Mapping[str, Sequence[Any]], *, keep: Positions) -> pd.DataFrame:
    """Return output columns, `id`, then the carried columns, for the positions `keep`, with the dtypes of the input.

    What `details` say of an input is not carried where an output has its name: it is another file.

    Args:
        rows: what the run was given.
        outputs: per output column, where the output of each of these rows lies; they come first.
        keep: positions to list.
    """
    import pandas as pd

    columns = {name: pd.Series(values, dtype=TEXT) for name, values in outputs.items()}
    of_inputs = {f"{name}.{detail}" for name in outputs if name in rows.cells for detail in DETAILS}
    carried = [name for name in rows.carried if name not in of_inputs]
    return pd.concat([pd.DataFrame(columns, index=range(len(keep))), _taken(rows, keep, [ID, *carried])], axis=1)


def with_failures(frame: pd.DataFrame, errors: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Return the frame with the error columns added, as text; `errors` has them by name, null for good rows."""
    return frame.assign(**_texts_of(ERROR_COLUMNS, errors))


def failures_frame(rows: Rows, positions: Positions, errors: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Return one row per failure: `id` with the dtype of the input, then the error columns, as text.

    Args:
        rows: what the run was given.
        positions: per failure, its row.
        errors: per error column, its texts.
    """
    return _taken(rows, positions, [ID]).assign(**_texts_of(ERROR_COLUMNS, errors))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One stored output of the row at `position`."""

    position: int
    file: str
    location: str
    size_bytes: int
    etag: str | None
    checksum: str | None


def files_frame(rows: Rows, positions: Positions, columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Return one row per stored output: id, file, location, size_bytes (int64), etag, checksum (null if unknown).

    Args:
        rows: what the run was given.
        positions: per stored output, its row.
        columns: the other columns.
    """
    return _with_sizes(rows, positions, columns, FILES_COLUMNS)


def no_files(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame of stored outputs that has none, with the ids' dtype of `frame`."""
    return files_frame(_no_rows(frame), [], dict.fromkeys(FILES_COLUMNS, ()))


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file that was read for the row at `position`, and what its store had of it then.

    `etag` of a local file is when it was modified, in nanoseconds since 1970, as text: with the size it shows whether
    the file has changed since. `version_id` is null where the store keeps no versions.
    """

    position: int
    file: str
    location: str
    size_bytes: int
    etag: str | None
    version_id: str | None
    checksum: str | None


def inputs_frame(rows: Rows, positions: Positions, columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Return one row per file that was read, with `INPUTS_COLUMNS`: `size_bytes` is int64, the others text.

    Args:
        rows: what the run was given.
        positions: per file, its row.
        columns: the other columns.
    """
    return _with_sizes(rows, positions, columns, INPUTS_COLUMNS)


def no_inputs(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the frame of files read that has none, with the ids' dtype of `frame`."""
    import pandas as pd

    known = pd.DataFrame({ID: []}, dtype=object) if frame is None or ID not in frame else frame
    return inputs_frame(_no_rows(known), [], dict.fromkeys(INPUTS_COLUMNS, ()))


def _no_rows(frame: pd.DataFrame) -> Rows:
    return Rows(frame, None, {}, (), {}, Path(), 0)


def _with_sizes(
    rows: Rows, positions: Positions, columns: Mapping[str, Iterable[Any]], names: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd

    texts = _texts_of([name for name in names if name not in {ID, "size_bytes"}], columns)
    sizes = {"size_bytes": pd.Series(columns["size_bytes"], dtype="int64")}
    return _taken(rows, positions, [ID]).assign(**texts, **sizes)[list(names)]


def _texts_of(names: Sequence[str], columns: Mapping[str, Iterable[Any]]) -> dict[str, pd.Series]:
    import pandas as pd

    return {name: pd.Series(columns[name], dtype=TEXT) for name in names}


def _taken(rows: Rows, positions: Positions, columns: list[str]) -> pd.DataFrame:
    frame = rows.frame
    assert frame is not None, "only a frame has manifests"  # noqa: S101
    return frame[columns].iloc[positions].reset_index(drop=True)
