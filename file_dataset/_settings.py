"""What a Pipeline was given, checked, by the names of its arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

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
