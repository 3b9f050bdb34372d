"""What a run is to do: a frame checked against what the Pipeline was given. No request, no file yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _frame, _options, _overwrites, _plan, _stores, _urls
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from file_dataset._columns import Positions
    from file_dataset._function import Style
    from file_dataset._outputs import Contract
    from file_dataset._settings import Settings
    from file_dataset._urls import Location


@dataclass(frozen=True)
class Prepared:
    """A checked frame, where its outputs go, and the stores of both.

    Attributes:
        settings: what the Pipeline was given.
        contract: what fn promises to return.
        style: how fn is called.
        rows: the frame.
        prefix: where outputs go.
        temp_dir: where rows' directories are made, absolute: fn may change the working directory.
        source: the stores of the inputs.
        target: the stores of the outputs.
        inputs: what no output may replace, as `_overwrites` names it.
        carried: values of the carried columns that fn gets.
        kept: rows of the whole input that are not among these, because they were done before.
    """

    settings: Settings
    contract: Contract | None
    style: Style
    rows: _frame.Rows
    prefix: Location
    temp_dir: Path | None
    source: _stores.Stores
    target: _stores.Stores
    inputs: frozenset[str]
    carried: Mapping[str, list[Any]]
    kept: int = 0

    @property
    def extra_args(self) -> Mapping[str, Any]:
        """What boto3 is given for uploads."""
        return self.settings.write_options.get("extra_args") or {}

    @property
    def whole(self) -> int:
        """How many rows the whole input has."""
        return len(self.rows) + self.kept

    def part(self, positions: Positions) -> Prepared:
        """Return what is to do for some of the rows; the others are done."""
        if len(positions) == len(self.rows):
            return self
        carried = {name: [values[position] for position in positions] for name, values in self.carried.items()}
        kept = self.kept + len(self.rows) - len(positions)
        return replace(self, rows=self.rows.part(positions), carried=carried, kept=kept)


def prepare(settings: Settings, contract: Contract | None, style: Style, frame: pd.DataFrame) -> Prepared:
    """Check a frame against the settings.

    Raises:
        InvalidDatasetError: the frame is refused; or promised outputs could be stored in no row.
    """
    prefix = _urls.parse_prefix(settings.write_options["into_path"])
    is_local = isinstance(prefix, Path)
    prefix = prefix.absolute() if isinstance(prefix, Path) else prefix
    temp_dir = None if settings.temp_dir is None else Path(settings.temp_dir).absolute()
    rows = _frame.rows_of_frame(frame, settings.file_columns, needs_id=True, local=is_local)
    rows = replace(rows, local_paths=_options.takes_local_paths(settings.options))
    _plan.check_file_names(list(rows.file_columns), local=True)
    source, target = stores(settings)
    if (extra_args := settings.write_options.get("extra_args")) and len(rows) and not is_local:
        # brings botocore along, which local work does without
        from file_dataset._s3.extra_args import check_extra_args

        check_extra_args(extra_args)
    inputs = _overwrites.inputs_at_risk(rows, prefix, lambda: target is source or target.endpoint == source.endpoint)
    promised = contract.names if contract else ()
    if taken := [name for name in promised if name in rows.carried]:
        raise InvalidDatasetError(f"outputs {taken} have the names of carried columns: rename one of them")
    _overwrites.check_promised(promised, rows, prefix, inputs)
    names = rows.carried if style.takes_row else ()
    carried = {name: _frame._values(frame[name]) for name in names}  # noqa: SLF001  # knows every kind of null
    return Prepared(settings, contract, style, rows, prefix, temp_dir, source, target, inputs, carried)


def stores(settings: Settings) -> tuple[_stores.Stores, _stores.Stores]:
    """Return the stores of inputs and outputs: one and the same unless the target has options of its own."""
    source = _stores.Stores(settings.options)
    own = settings.write_options.get("options")
    return source, source if own is None else _stores.Stores(own)
