"""How the assets reach S3: the default chain of credentials and endpoint, and one place for everything."""

import dagster as dg

from file_dataset_dagster import FileDatasetResource, ManifestIOManager


@dg.definitions
def resources() -> dg.Definitions:
    """Return the S3 resource and the IO manager, both below `$FILE_DATASET_DEMO_S3`."""
    store = FileDatasetResource(base_path=dg.EnvVar("FILE_DATASET_DEMO_S3"))
    return dg.Definitions(resources={"store": store, "io_manager": ManifestIOManager(resource=store)})
