"""How the assets reach S3, by environment: `EXAMPLE_PROJECT_ENV` is `demo` unless set."""

import os

import dagster as dg

from file_dataset_dagster import FileDatasetResource, ManifestIOManager

_STORES = {
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


@dg.definitions
def resources() -> dg.Definitions:
    """Return the S3 resource and the IO manager of this environment."""
    store = _STORES[os.environ.get("EXAMPLE_PROJECT_ENV", "demo")]
    return dg.Definitions(resources={"store": store, "io_manager": ManifestIOManager(resource=store)})
