"""Where rows run: on Ray, by whichever connection there is. The only module that knows of Ray."""

from __future__ import annotations

import contextlib
import importlib.machinery
import numbers
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle

import file_dataset

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RaySettings:
    """The resource that connects Ray, and the arguments of `file_dataset.ray.run_pipeline`."""

    resource_key: str | None
    arguments: Mapping[str, Any]


def ray_settings(
    runner: str | None, resource_key: str | None, arguments: Mapping[str, Any], workers: int | None
) -> RaySettings | None:
    """What the arguments of `pipeline_asset` mean: None is a run here.

    Args:
        runner: "local", "ray", or None: whatever the others mean.
        resource_key: the resource that connects Ray, where there is one.
        arguments: Ray's own; None: not given.
        workers: processes that fn runs in; on Ray None means one, and 0 none.

    Raises:
        file_dataset.InvalidDatasetError: the arguments contradict each other.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    _check_numbers(given)
    runner = runner or ("local" if resource_key is None else "ray")
    if runner not in ("local", "ray"):
        raise file_dataset.InvalidDatasetError(f"runner={runner!r} is unknown: give 'local' or 'ray'")
    if runner == "ray":
        return RaySettings(resource_key, given | ({} if workers is None else {"workers": workers}))
    if given or resource_key is not None:
        names = ", ".join([*given, *(["ray_resource_key"] if resource_key else [])])
        raise file_dataset.InvalidDatasetError(f"{names}: for runner='ray' only")
    return None


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Refuse at import what `run_pipeline` would refuse in the run."""
    for name in ("batch_size", "concurrency"):
        value = given.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise file_dataset.InvalidDatasetError(f"{name}={value!r}: give a whole number, 1 or more")
    for name in ("num_cpus", "num_gpus"):
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise file_dataset.InvalidDatasetError(f"{name}={value!r}: give a number, 0 or more")


def make_portable(fn: object) -> None:
    """Have fn go to other processes whole when they would not find its module.

    Dagster loads a code location by its file as well (`dagster dev -f defs.py`), under a name that no other process
    can import.
    """
    name = getattr(fn, "__module__", None)
    module = None if name in {None, "__main__"} else sys.modules.get(str(name))
    if module is None or getattr(module, "__file__", None) is None:
        return
    if importlib.machinery.PathFinder.find_spec(module.__name__.partition(".")[0]) is None:
        cloudpickle.register_pickle_by_value(module)


def run_on_ray(
    pipeline: file_dataset.Pipeline,
    frame: pd.DataFrame,
    settings: RaySettings,
    context: dg.AssetExecutionContext,
    **checkpoint: Any,  # noqa: ANN401 (each argument has a type of its own)
) -> file_dataset.PipelineResult:
    """Run the pipeline's rows on Ray; `checkpoint`: arguments of `run_pipeline` for one.

    Raises:
        file_dataset.MissingExtraError: Ray is not installed.
        file_dataset.FileDatasetError: as `Pipeline.run`.
    """
    if settings.resource_key is not None:
        getattr(context.resources, settings.resource_key)  # Dagster has set it up: Ray is connected
    with _connected(context):
        result: file_dataset.PipelineResult = file_dataset.ray.run_pipeline(
            pipeline, frame, **settings.arguments, **checkpoint
        )
        return result


def is_elsewhere(settings: RaySettings, context: dg.AssetExecutionContext) -> bool:
    """Whether a process of the cluster runs it all (Ray Client), for which a local path may be another directory."""
    if settings.resource_key is not None:
        getattr(context.resources, settings.resource_key)
    client = sys.modules.get("ray.util.client")
    return (client is not None and client.ray.is_connected()) or "://" in os.environ.get("RAY_ADDRESS", "")


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
