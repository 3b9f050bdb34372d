"""What a Pipeline was given, checked, by the names of its arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from file_dataset import _options
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from file_dataset._options import Options
    from file_dataset._progress import Report

OnFailure: TypeAlias = Literal["drop", "raise", "record"]
IfExists: TypeAlias = Literal["overwrite", "error", "skip"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a Pipeline was given, checked, by the names of its arguments."""

    fn: Callable[..., Any]
    write_options: Mapping[str, Any]
    options: Options | None
    file_columns: Sequence[str] | None
    outputs: Sequence[str] | None
    on_failure: OnFailure
    max_failures: int | None
    max_failed_fraction: float | None
    prefetch: int | None
    workers: int
    fn_timeout_s: float | None
    worker_env: Mapping[str, str] | None = field(repr=False)
    temp_dir: str | os.PathLike[str] | None
    progress: Report

    @property
    def if_exists(self) -> IfExists:
        """What becomes of a row whose outputs are there already."""
        found: IfExists = self.write_options.get("if_exists", "overwrite")
        return found

    @property
    def worker_count(self) -> int:
        """Processes that fn runs in; 0: the calling thread."""
        return self.workers or (1 if self.fn_timeout_s is not None else 0)

    @property
    def slots(self) -> int:
        """Rows that are in fn at once."""
        return max(1, self.worker_count)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants of a checkpoint: where it is, the word for what fn does, whether inputs are looked at.

    `options`: how its store is reached; None: as the target is.
    """

    place: object
    code_version: str | None
    check_inputs: bool
    options: Options | None = None


def checked_wish(checkpoint: object, code_version: object, options: Options | None, *, check_inputs: bool) -> Wish:
    """Return what was asked for, by the names of the arguments.

    Raises:
        InvalidDatasetError: it makes no sense.
    """
    if code_version is not None and not isinstance(code_version, str):
        raise InvalidDatasetError(f"code_version={code_version!r}: give a text, such as '2'")
    _options.check(options)
    asked = {"code_version": code_version is not None, "check_inputs": check_inputs, "checkpoint_options": options}
    if checkpoint is None and (given := [name for name, is_given in asked.items() if is_given]):
        raise InvalidDatasetError(f"{given[0]} is for runs with a checkpoint: give checkpoint='s3://bucket/runs/x/'")
    return Wish(checkpoint, code_version, check_inputs, options)
