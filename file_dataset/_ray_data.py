"""What the library asks of Ray, whose arguments differ from version to version: the only module that looks at them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from file_dataset._errors import InvalidDatasetError, MissingExtraError

try:
    import ray
    import ray.data
    from ray.data import ActorPoolStrategy, Datasource, TaskPoolStrategy
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask
except ModuleNotFoundError as exc:
    raise MissingExtraError(f"Ray Data is not installed ({exc}): pip install 'file-dataset[ray]'") from exc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa


def connect() -> None:
    """Start a local Ray, or join the cluster of `RAY_ADDRESS`, unless that is done."""
    if not ray.is_initialized():
        ray.init()


def is_client() -> bool:
    """Tell whether this process talks to its cluster through Ray Client (`ray://`), where Ray Data cannot run."""
    return bool(ray.util.client.ray.is_connected())


@dataclass(frozen=True, slots=True)
class Batch:
    """What one task reads: how, and how much that is as far as is known."""

    read: Callable[[], Iterable[pa.Table | pd.DataFrame]]
    rows: int | None
    size_bytes: int | None


class BatchDatasource(Datasource):  # type: ignore[misc]  # Ray's classes have no types
    """One read task per batch."""

    def __init__(self, name: str, batches: Sequence[Batch], schema: pa.Schema | None = None) -> None:
        """Take everything that tasks need: they are made on the driver, several times."""
        super().__init__()
        self._name, self._batches, self._schema = name, batches, schema

    def get_name(self) -> str:
        """Return what the progress bar shows after "Read"."""
        return self._name

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the bytes of all batches, None where those of one are not known."""
        sizes = [batch.size_bytes for batch in self._batches]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  # as many as there are batches
        per_task_row_limit: int | None = None,
        data_context: object = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return one task per batch."""
        known = {"schema": self._schema, "per_task_row_limit": per_task_row_limit}
        return [
            ReadTask(batch.read, _metadata(batch, self._schema), **_taken_by(ReadTask, known))
            for batch in self._batches
        ]


def _metadata(batch: Batch, schema: pa.Schema | None) -> BlockMetadata:
    known = {"input_files": None, "exec_stats": None, "schema": schema}
    return BlockMetadata(num_rows=batch.rows, size_bytes=batch.size_bytes, **_taken_by(BlockMetadata, known))


def _taken_by(called: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(called).parameters
    return {name: value for name, value in known.items() if name in parameters}


def read(
    source: BatchDatasource, count: int, remote_args: Mapping[str, Any], concurrency: int | None = None
) -> ray.data.Dataset:
    """Return the Dataset of so many batches, which Ray neither joins nor splits by number."""
    return ray.data.read_datasource(
        source, override_num_blocks=count, concurrency=concurrency, ray_remote_args=dict(remote_args)
    )


def tasks(concurrency: int | tuple[int, int] | None) -> TaskPoolStrategy:
    """Return how tasks are scheduled: at most `concurrency` at a time."""
    if isinstance(concurrency, tuple):
        raise InvalidDatasetError(f"concurrency={concurrency!r} is of actors: give a number for tasks")
    return TaskPoolStrategy(size=concurrency)


def actors(concurrency: int | tuple[int, int] | None) -> ActorPoolStrategy:
    """Return how actors are scheduled: so many, between so many, or as many as there is room for."""
    if concurrency is None:
        return ActorPoolStrategy(min_size=1, max_size=None)
    if isinstance(concurrency, tuple):
        return ActorPoolStrategy(min_size=concurrency[0], max_size=concurrency[1])
    return ActorPoolStrategy(size=concurrency)
