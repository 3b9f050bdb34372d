"""listed_series -> volumes: directories of DICOM slices become volumes; a sensor looks for new ones."""

import dagster as dg

from example_project import pipelines
from example_project.environment import raw, storage
from file_dataset_dagster import build_files_sensor, files_asset, pipeline_asset

listed_series = files_asset(
    "listed_series",
    {"series": raw("{id}/series/")},  # the slash at the end: a directory is one value
    group_name="series",
    resource_key="store",
    description="The DICOM series that the bucket holds, each a directory.",
)
volumes = pipeline_asset(
    pipelines.assemble,
    name="volumes",
    group_name="series",
    input=listed_series,
    resource_key="store",
    preview=pipelines.middle_slice,
    metadata=storage("volumes"),
)
new_series = build_files_sensor(
    listed_series,
    name="new_series",
    target=dg.AssetSelection.groups("series"),
    run_config={"ops": {"volumes": {"config": {"only_changed": True}}}},
    description="Runs what is new or changed when slices are stored below raw/<id>/series/.",
)
series = dg.define_asset_job("series", selection=dg.AssetSelection.groups("series"))
