"""What the library asks of Ray, whose arguments differ from version to version: the only module that looks at them."""

from __future__ import annotations

import contextlib
import inspect
import operator
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from file_dataset._errors import InvalidDatasetError, MissingExtraError

try:
    import ray
    import ray.data
    from ray.data import ActorPoolStrategy, Datasource
    from ray.data.block import BlockAccessor, BlockMetadata
    from ray.data.datasource import ReadTask
except ModuleNotFoundError as exc:
    raise MissingExtraError(f"Ray Data is not installed ({exc}): pip install 'file-dataset[ray]'") from exc

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    from typing_extensions import TypeIs


T = TypeVar("T")

_BOUNDING = ("num_gpus", "memory", "resources")
_PATIENCE = "execution_no_progress_timeout_s"


def connect() -> None:
    """Start a local Ray, or join the cluster of `RAY_ADDRESS`, unless that is done."""
    if not ray.is_initialized():
        ray.init()


def is_client() -> bool:
    """Return whether this process talks to its cluster through Ray Client (`ray://`), where Ray Data cannot run.

    It is connected first where `RAY_ADDRESS` may be one of those.
    """
    if "://" in os.environ.get("RAY_ADDRESS", ""):
        connect()
    client: Any = ray.util.client.ray
    return bool(client.is_connected())


def is_dataset(data: object) -> TypeIs[ray.data.Dataset]:
    """Return whether this is a Dataset of Ray."""
    return isinstance(data, ray.data.Dataset)


def checked_count(name: str, value: object, least: int) -> int:
    """Return a whole number.

    Raises:
        InvalidDatasetError: it is no whole number, or too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
        raise InvalidDatasetError(f"{name}={value!r}: give a whole number, {least} or more")
    return operator.index(value)


def resources(more: Mapping[str, Any] | None, **named: float | None) -> dict[str, Any]:
    """Return what a task takes, as `ray.remote` names it.

    Raises:
        InvalidDatasetError: what Ray would refuse later.
    """
    for name, value in named.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise InvalidDatasetError(f"{name}={value!r}: give a number, 0 or more")
    return {**{name: value for name, value in named.items() if value is not None}, **(more or {})}


@dataclass(frozen=True, slots=True)
class Batch:
    """What one task reads: how, and how much that is as far as is known."""

    read: Callable[[], Iterable[pa.Table | pd.DataFrame]]
    rows: int | None
    size_bytes: int | None


class BatchDatasource(Datasource):
    """One read task per batch."""

    def __init__(self, name: str, batches: Sequence[Batch], schema: pa.Schema | None = None) -> None:
        """Take everything that tasks need: they are made on the driver, several times."""
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
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
    source: BatchDatasource,
    count: int,
    *,
    takes: Mapping[str, Any],
    concurrency: int | None = None,
    block_bytes: int | None = None,
) -> ray.data.Dataset:
    """Return the Dataset of so many batches, a block each where Ray's `target_max_block_size` allows it.

    Args:
        source: the batches.
        count: how many they are; without it Ray would split their blocks again.
        takes: what each task takes, as `resources` returns it.
        concurrency: the most tasks at a time.
        block_bytes: what ends a block, where Ray's own target is higher: tasks hold as much before they hand it over.
    """
    named = _taken_by(ray.data.read_datasource, takes)
    if rest := {name: value for name, value in takes.items() if name not in named}:
        named["ray_remote_args"] = rest
    dataset: ray.data.Dataset = ray.data.read_datasource(
        source, override_num_blocks=count, concurrency=concurrency, **named
    )
    if block_bytes is not None:
        target = dataset.context.target_max_block_size
        dataset.context.target_max_block_size = block_bytes if target is None else min(target, block_bytes)
    return dataset


def bounded(concurrency: int | None, takes: Mapping[str, Any]) -> int | None:
    """Return the most tasks at a time: for tasks that take no resource of a node, as many as the cluster has CPUs.

    Ray starts a process for each task of a Dataset that fits, and any number fits of those that take nothing.
    """
    if concurrency is not None or takes.get("num_cpus", 1) or any(takes.get(name) for name in _BOUNDING):
        return concurrency
    there: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
    return max(1, int(there.get("CPU", 1)))


def slots(concurrency: int | tuple[int, int] | None, takes: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many tasks there is room for at a time: on the nodes that are there, and when the cluster has grown.

    The second counts the nodes that Ray's autoscaler reports it may start. It is `sys.maxsize` where no node, there or
    reported, has room for a task.

    Args:
        concurrency: the number that was given; of actors also `(least, most)`; None: as many as there is room for.
        takes: what each takes, as `resources` returns it.
    """
    if concurrency is not None:
        most = concurrency[1] if isinstance(concurrency, tuple) else concurrency
        return most, most
    each = {"CPU": takes.get("num_cpus", 1), "GPU": takes.get("num_gpus"), "memory": takes.get("memory")}
    each = {name: amount for name, amount in {**each, **(takes.get("resources") or {})}.items() if amount}
    # tasks that take nothing: as `bounded` has it

    def room(there: Mapping[str, float]) -> int:
        # 0.6 / 0.2 is a little less than 3
        return min(int(there.get(name, 0) / amount + 1e-6) for name, amount in (each or {"CPU": 1}).items())

    now = room(ray.cluster_resources())  # type: ignore[no-untyped-call]  # Ray's
    later = max(now, room(_grown())) or sys.maxsize
    return max(1, now), later


def _grown() -> Mapping[str, float]:
    """Return the resources that the autoscaler may bring the cluster to; nothing where it does not say."""
    state: Any = ray._private.state.state  # noqa: SLF001  # as Ray's own libraries do
    ask = getattr(state, "get_max_resources_from_cluster_config", dict)
    return ask() or {}


def pool(concurrency: int | tuple[int, int] | None, takes: Mapping[str, Any], *, of_actors: bool) -> dict[str, Any]:
    """Return the arguments of `map_batches` that set how many tasks or actors there are at a time.

    Args:
        concurrency: so many; of actors also `(least, most)`; None: as many as there is room for.
        takes: what each takes, as `resources` returns it.
        of_actors: whether they are actors.
    """
    if concurrency is None and of_actors:
        return {"compute": ActorPoolStrategy(min_size=1, max_size=bounded(None, takes))}
    if not isinstance(concurrency, tuple):
        concurrency = bounded(concurrency, takes)
    if concurrency is None:
        return {}
    task_pool = getattr(ray.data, "TaskPoolStrategy", None)
    if task_pool is None:  # Ray deprecates `compute` before 2.51, and `concurrency` from then on
        return {"concurrency": concurrency}
    if not of_actors:
        return {"compute": task_pool(size=concurrency)}
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    return {"compute": ActorPoolStrategy(min_size=least, max_size=most)}


def cut(dataset: ray.data.Dataset, count: int, rows: int, *, at_once: bool) -> ray.data.Dataset:
    """Return the Dataset in blocks of about `rows` rows.

    Args:
        dataset: Ray makes one task of each of its blocks, however many rows that has.
        count: its rows.
        rows: those of a block.
        at_once: cut now: later there may be no CPU for it beside actors, which may hold all of them.
    """
    as_they_come = _taken_by(ray.data.Dataset.repartition, {"target_num_rows_per_block": rows})
    blocks: ray.data.Dataset = dataset.repartition(**(as_they_come or {"num_blocks": -(-count // rows)}))
    if at_once:
        with settings(blocks):
            blocks = blocks.materialize()
    return blocks


@contextlib.contextmanager
def settings(
    dataset: ray.data.Dataset, *, keeps_order: bool = False, patience_s: float | None = None
) -> Iterator[None]:
    """Have the Dataset run without a progress bar of Ray's, with its blocks in order if asked, and with such patience.

    A Dataset can share its settings with the one that it was made from, which is the user's: they are put back.
    """
    context = dataset.context
    order = context.execution_options
    before = context.enable_progress_bars, order.preserve_order, getattr(context, _PATIENCE, None)
    context.enable_progress_bars, order.preserve_order = False, keeps_order
    if patience_s is not None:
        setattr(context, _PATIENCE, patience_s)
    try:
        yield
    finally:
        context.enable_progress_bars, order.preserve_order, limit = before
        if patience_s is not None:
            setattr(context, _PATIENCE, limit)


def tables(dataset: ray.data.Dataset) -> Generator[pa.Table, None, None]:
    """Yield the blocks of a Dataset as its tasks end. When this is closed the tasks are interrupted, as by Ctrl-C.

    `Dataset.iter_batches` would have their processes killed, which then leave their temp dirs behind.
    """
    # in no variable: the last reference, gone with this frame, ends the execution
    for bundle in dataset.iter_internal_ref_bundles():
        for ref in bundle.block_refs:
            yield BlockAccessor.for_block(ray.get(ref)).to_arrow()


def arrow_of(frame: pd.DataFrame) -> pa.Table:
    """Return a frame as Arrow has it; arrays of several dimensions, which it does not take, as Ray's tensors."""
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except pa.ArrowException:
        return BlockAccessor.for_block(frame).to_arrow()


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of tables, at least one, whose columns may differ, and so may the shapes of their tensors."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        builder = BlockAccessor.for_block(tables[0]).builder()
        for table in tables:
            builder.add_block(table)
        return builder.build()


def shared(value: T) -> Callable[[], T]:
    """Put a value into Ray's object store once, and return what gives it in any task."""
    ref = ray.put(value)
    return lambda: ray.get(ref)


def patience_s(dataset: ray.data.Dataset) -> float | None:
    """Return how long Ray Data waits for any block before it ends the Dataset's execution, None: for ever."""
    limit: float = getattr(dataset.context, _PATIENCE, -1)
    return limit if limit > 0 else None
