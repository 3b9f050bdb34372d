"""Where the project runs: `EXAMPLE_PROJECT_ENV` is `demo` unless set."""

import os

import dagster as dg

from file_dataset_dagster import FileDatasetResource

STORES = {
    # the demo's own server, or the bucket of FILE_DATASET_DEMO_S3; the default chain of credentials and endpoint
    "demo": FileDatasetResource(base_path=dg.EnvVar("FILE_DATASET_DEMO_S3")),
    # your bucket: SCANS_BASE_PATH=s3://your-bucket/prefix; each process, Ray workers too, finds its own credentials
    "s3": FileDatasetResource(base_path=dg.EnvVar("SCANS_BASE_PATH"), credentials="worker"),
    # MinIO, Ceph, R2: keys come from the environment and are in no run, log or UI
    "s3_compatible": FileDatasetResource(
        base_path=dg.EnvVar("SCANS_BASE_PATH"),
        endpoint_url=dg.EnvVar("SCANS_ENDPOINT_URL"),
        aws_access_key_id=dg.EnvVar("SCANS_ACCESS_KEY_ID"),
        aws_secret_access_key=dg.EnvVar("SCANS_SECRET_ACCESS_KEY"),
        addressing_style="path",
    ),
}
_BASE_PATHS = {"demo": "FILE_DATASET_DEMO_S3"}


def store() -> FileDatasetResource:
    """Return how S3 is reached here."""
    return STORES[_name()]


def storage(asset: str) -> dict[str, str]:
    """Return the metadata by which Dagster's overview of an asset shows where its manifest lies."""
    base_path = _base_path()
    return {"dagster/uri": f"{base_path}/manifests/{asset}/manifest.parquet"} if base_path else {}


def raw(pattern: str) -> str:
    """Return a pattern of files below `raw/`; where no base path is set, of a bucket whose name says so."""
    return f"{_base_path() or 's3://set-' + _variable().lower().replace('_', '-')}/raw/{pattern}"


def _base_path() -> str:
    return os.environ.get(_variable(), "").rstrip("/")


def _variable() -> str:
    return _BASE_PATHS.get(_name(), "SCANS_BASE_PATH")


def _name() -> str:
    return os.environ.get("EXAMPLE_PROJECT_ENV", "demo")
