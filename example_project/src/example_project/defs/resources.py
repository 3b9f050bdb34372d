"""How the assets reach S3."""

import dagster as dg

from example_project import environment
from file_dataset_dagster import ManifestIOManager


@dg.definitions
def resources() -> dg.Definitions:
    """Return the S3 resource and the IO manager of this environment."""
    store = environment.store()
    return dg.Definitions(resources={"store": store, "io_manager": ManifestIOManager(resource=store)})
