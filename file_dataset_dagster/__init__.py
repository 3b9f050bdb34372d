"""Files as Dagster assets: pipelines over manifests, dropped rows as asset checks."""

from __future__ import annotations

import importlib as _importlib
import typing as _typing

import file_dataset

try:
    import dagster as _dagster  # noqa: F401 (is it there?)
    import dagster_aws as _dagster_aws  # noqa: F401
except ImportError as exc:
    if exc.name not in {"dagster", "dagster_aws"}:
        raise
    # Raised with the first name that is asked for. Dagster imports this package in every project that has it installed,
    # to see its components: one that has Dagster, uses file_dataset alone and has no dagster-aws must still load.
    _missing = f"{exc.name} is not installed: pip install 'file-dataset[dagster]'"
else:
    _missing = ""
    from file_dataset_dagster._files_asset import files_asset
    from file_dataset_dagster._files_sensor import build_files_sensor
    from file_dataset_dagster._io_manager import ManifestIOManager
    from file_dataset_dagster._manifest_checks import build_manifest_checks
    from file_dataset_dagster._pipeline_asset import pipeline_asset
    from file_dataset_dagster._resource import FileDatasetResource

if _typing.TYPE_CHECKING:
    from file_dataset_dagster.components import FileDatasetComponent, FilesComponent, PipelineComponent

__all__ = [
    "FileDatasetComponent",
    "FileDatasetResource",
    "FilesComponent",
    "ManifestIOManager",
    "PipelineComponent",
    "build_files_sensor",
    "build_manifest_checks",
    "files_asset",
    "pipeline_asset",
]
# what is loaded when it is asked for: a code location in Python has no use for components
_HEAVY = {"FileDatasetComponent", "FilesComponent", "PipelineComponent"}


def __getattr__(name: str) -> object:
    """What is not loaded yet, or cannot be."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _missing:
        raise file_dataset.MissingExtraError(_missing)
    return getattr(_importlib.import_module("file_dataset_dagster.components"), name)


def __dir__() -> list[str]:
    return [] if _missing else __all__
