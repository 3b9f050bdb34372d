"""The same function on Ray: a cluster that RAY_ADDRESS names, else one of this machine."""

import dagster as dg

from example_project import pipelines
from example_project.defs.assets import resampled
from file_dataset_dagster import pipeline_asset

measured_on_ray = pipeline_asset(
    pipelines.measure,
    name="measured_on_ray",
    group_name="on_ray",
    kinds={"s3", "ray"},
    input=resampled,
    resource_key="store",
    runner="ray",
    batch_size=4,
    preview=pipelines.thumbnail,
)

on_ray = dg.define_asset_job("on_ray", selection=dg.AssetSelection.assets("measured_on_ray").upstream())
