"""Files as Dagster assets: pipelines over manifests, dropped rows as asset checks."""

from __future__ import annotations

import file_dataset

try:
    import dagster as _dagster  # noqa: F401 (is it there?)
    import dagster_aws as _dagster_aws  # noqa: F401
except ImportError as exc:
    if exc.name not in {"dagster", "dagster_aws"}:
        raise
    raise file_dataset.MissingExtraError(f"{exc.name} is not installed: pip install 'file-dataset[dagster]'") from exc

from file_dataset_dagster._io_manager import ManifestIOManager
from file_dataset_dagster._manifest_checks import build_manifest_checks
from file_dataset_dagster._pipeline_asset import pipeline_asset
from file_dataset_dagster._resource import FileDatasetResource

__all__ = ["FileDatasetResource", "ManifestIOManager", "build_manifest_checks", "pipeline_asset"]


def __dir__() -> list[str]:
    return __all__
