"""Where rows run: on Ray, by whichever connection there is. The only module that knows of Ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import file_dataset

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RaySettings:
    """The resource that connects Ray, and the arguments of `file_dataset.ray.run_pipeline`."""

    resource_key: str | None
    arguments: Mapping[str, Any]


def run_on_ray(
    pipeline: file_dataset.Pipeline,
    frame: pd.DataFrame,
    settings: RaySettings,
    context: dg.AssetExecutionContext,
) -> file_dataset.PipelineResult:
    """Run the pipeline's rows on Ray.

    Raises:
        file_dataset.MissingExtraError: Ray is not installed.
        file_dataset.FileDatasetError: as `Pipeline.run`.
    """
    if settings.resource_key is not None:
        getattr(context.resources, settings.resource_key)  # Dagster has set it up: Ray is connected
    with _connected(context):
        result: file_dataset.PipelineResult = file_dataset.ray.run_pipeline(pipeline, frame, **settings.arguments)  # type: ignore[attr-defined]  # to come
        return result


@contextlib.contextmanager
def _connected(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Ray as it is; where it is not, a connection for the run, to `RAY_ADDRESS` or to a cluster of this machine."""
    try:
        import ray
    except ImportError as exc:
        raise file_dataset.MissingExtraError("Ray is not installed: pip install 'file-dataset[ray]'") from exc
    if ray.is_initialized():
        yield
        return
    context.log.info("connecting to Ray: %s", os.environ.get("RAY_ADDRESS") or "a cluster of this machine's own")
    ray.init(log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
