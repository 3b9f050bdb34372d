"""Files as a source of Dagster, as a user writes it, for `mypy --strict` in `make lint`."""

from typing import assert_type

import dagster as dg

from file_dataset_dagster import build_files_sensor, files_asset

scans = files_asset(
    "scans",
    {"scan.mha": "s3://my-bucket/raw/{site}/{id}.mha"},
    partition_by="site",
    group_name="input",
    retry_policy=dg.RetryPolicy(max_retries=3),
    automation_condition=dg.AutomationCondition.on_cron("@hourly"),
)
assert_type(scans, dg.AssetsDefinition)
assert_type(build_files_sensor(scans, run_config={"ops": {}}, minimum_interval_seconds=30), dg.SensorDefinition)
