"""arrivals -> pictures, a partition a day: what came in, and what it looks like; every night at two."""

import warnings

import dagster as dg
import pandas as pd

from example_project import pipelines
from file_dataset_dagster import pipeline_asset

warnings.filterwarnings("ignore", message="Parameter `backfill_policy`")  # beta since 2023

# a table that grows has no end_date
DAYS = dg.DailyPartitionsDefinition("2026-01-05", end_date="2026-01-11")
# many days are one run, in which each day has a manifest and a check of its own
ONE_RUN = dg.BackfillPolicy.single_run()


@dg.asset(group_name="daily", kinds={"s3"}, partitions_def=DAYS, backfill_policy=ONE_RUN)
def arrivals(context: dg.AssetExecutionContext, raw_scans: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The scans that came in on each day; a day without any has an empty manifest."""
    return {day: raw_scans[raw_scans["arrived"] == day] for day in context.partition_keys}


pictures = pipeline_asset(
    pipelines.picture,
    name="pictures",
    group_name="daily",
    input=arrivals,
    partitions_def=DAYS,
    backfill_policy=ONE_RUN,
    resource_key="store",
    preview=pipelines.thumbnail,
)

daily = dg.define_asset_job("daily", selection=dg.AssetSelection.groups("daily"))
nightly = dg.build_schedule_from_partitioned_job(
    daily, name="nightly", description="The day before, at 02:00.", hour_of_day=2
)
