"""What `pipeline_asset` was given, checked, and the Pipeline that it means."""

# no `from __future__ import annotations` here: Dagster reads the annotations of an asset's function

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import file_dataset
from file_dataset_dagster import _on_ray
from file_dataset_dagster._dropped_rows import DropPolicy

PipelineFn: TypeAlias = Callable[..., Mapping[str, object]] | type


@dataclass(frozen=True, slots=True)
class Settings:
    """What `pipeline_asset` was given, checked. `pipeline_args` are those of `file_dataset.Pipeline`."""

    fn: PipelineFn
    is_partitioned: bool
    into_path: str | None
    write_options: Mapping[str, Any]  # without the place
    resource_key: str
    write_resource_key: str | None
    io_manager_key: str | None
    policy: DropPolicy
    goes_on: bool  # a run over a range, when some of its partitions failed
    preview: Callable[[Path], bytes] | None
    ray: _on_ray.RaySettings | None
    code_version: str | None
    pipeline_args: Mapping[str, Any] = field(default_factory=dict)

    def pipeline(
        self,
        into_path: str,
        *,
        options: file_dataset.Options | None = None,
        target_options: file_dataset.Options | None = None,
        progress: Callable[[file_dataset.Progress], object] | Literal[False] | None = None,
    ) -> file_dataset.Pipeline:
        """The Pipeline of a run that writes there."""
        write_options = cast("file_dataset.WriteOptions", {**self.write_options, "into_path": into_path})
        if target_options is not None:
            write_options["options"] = target_options
        return file_dataset.Pipeline(
            self.fn, write_options=write_options, options=options, progress=progress, **self.pipeline_args
        )
