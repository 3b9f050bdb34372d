"""A Ray batch's options: how many rows it has, what its task or actor takes, and the pipeline as it runs there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _urls
from file_dataset._errors import InvalidDatasetError
from file_dataset._ray import batching, compat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from file_dataset._outputs import Contract
    from file_dataset._pipeline import Pipeline
    from file_dataset._prepared import Prepared
    from file_dataset._settings import Settings

_MOST_ROWS = 256  # Ray's 13 ms of a task are then 0.05 ms a row, and a failure is known soon
_READERS = 4  # at some 13 ms of CPU a batch they feed hundreds of actors; a guess


@dataclass(frozen=True)
class BatchOptions:
    """The pipeline, and how its batches run."""

    pipeline: Pipeline
    batch_size: int | None  # None: by `rows_per_task`
    remote_args: Mapping[str, Any]
    uses_actors: bool
    concurrency: int | tuple[int, int] | None
    workers: int | None

    @property
    def settings(self) -> Settings:
        """What the pipeline was given."""
        return self.pipeline._settings  # noqa: SLF001  # one package

    @property
    def contract(self) -> Contract | None:
        """What fn promises to return."""
        return self.pipeline._contract  # noqa: SLF001  # one package

    def check(self) -> None:
        """Refuse numbers that Ray would refuse later, or never."""
        if isinstance(self.concurrency, tuple):
            if not self.uses_actors:
                raise InvalidDatasetError(f"concurrency={self.concurrency!r} is for actors: give a number for tasks")
            least, most = self.concurrency if len(self.concurrency) == 2 else (0, 0)  # noqa: PLR2004  # a pair
            if compat.checked_count("concurrency", least, 1) > compat.checked_count("concurrency", most, 1):
                raise InvalidDatasetError(f"concurrency={self.concurrency!r}: give (least, most)")
        elif self.concurrency is not None:
            compat.checked_count("concurrency", self.concurrency, 1)
        if self.workers == 0 and self.settings.fn_timeout_s is not None:
            raise InvalidDatasetError("fn_timeout_s takes worker processes: leave workers=0 out")

    def rows_per_task(self, count: int) -> int:
        """Return how many rows each task takes of `count`."""
        if self.batch_size is not None:
            return self.batch_size
        return batching.rows_per_task(count, compat.slots(self.concurrency, self.remote_args), _MOST_ROWS)

    def patience_s(self, limit: float | None, rows: int) -> float | None:
        """Return how long Ray is to wait for a task of `rows` rows; None: for ever.

        That is `limit`, Ray's own, where `batch_size` was given; else `limit` for every 8 rows.
        """
        return limit if limit is None or self.batch_size is not None else limit * batching.patience_factor(rows)

    def readers(self) -> int | None:
        """Return how many tasks read batches: for actors a few, because Ray starts a process for each that it begins.

        Without actors, as many as run them: then Ray reads and runs a batch in one task.
        """
        most = self.concurrency[1] if isinstance(self.concurrency, tuple) else self.concurrency
        if self.uses_actors:
            return _READERS if most is None else min(most, _READERS)
        return compat.bounded(most, self.remote_args)

    def elsewhere(self, **changes: Any) -> Pipeline:  # noqa: ANN401  # settings
        """Return the pipeline for another process, whose working directory is another."""
        settings = self.settings
        into = _urls.parse_prefix(settings.write_options["into_path"])
        places = {
            "write_options": {
                **settings.write_options,
                "into_path": str(into.absolute() if isinstance(into, Path) else into),
            },
            "temp_dir": None if settings.temp_dir is None else Path(settings.temp_dir).absolute(),
        }
        return self.pipeline._with(**places, progress=False, **changes)  # noqa: SLF001  # one package

    def in_tasks(self, columns: Iterable[str]) -> Pipeline:
        """Return the pipeline as tasks run it, each a part of the whole, which the driver judges."""
        settings = self.settings
        workers = settings.workers or 1 if self.workers is None else self.workers
        # the first failure stops its batch too; how many there are, only the driver knows
        on_failure = "raise" if settings.on_failure == "raise" else "drop"
        return self.elsewhere(
            file_columns=list(columns),
            on_failure=on_failure,
            max_failures=None,
            max_failed_fraction=None,
            workers=workers,
        )

    def prepare(self, frame: pd.DataFrame) -> Prepared:
        """Return the frame checked, as `pipeline.run` checks it.

        Raises:
            InvalidDatasetError: it is refused.
        """
        return self.pipeline._prepare(frame)  # noqa: SLF001  # one package

    def with_progress(self, report: Any) -> BatchOptions:  # noqa: ANN401  # a method of a Ray actor
        """Return these options with another function that progress is reported to."""
        return replace(self, pipeline=self.pipeline._with(progress=report))  # noqa: SLF001  # one package
