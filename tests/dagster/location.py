"""A code location, as a server of Dagster's loads it: daily scans, one day of ninety broken, downstream, a slow one.

There are listed scans of sites, too, whose fifth row waits as long as a file says so.
`DATASET_TEST_DIR` is where everything lies; secrets come as literals and from the environment.
"""

import os
import time
import uuid
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_aws.s3 import S3Resource

from file_dataset_dagster import (
    FileDatasetResource,
    ManifestIOManager,
    build_manifest_checks,
    files_asset,
    pipeline_asset,
)

HERE = Path(os.environ["DATASET_TEST_DIR"])
DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-31")  # 90: 31 + 29 + 30
BROKEN = DAYS.get_partition_keys()[56]
LITERAL = "L1teralS3cret"
store = FileDatasetResource(
    base_path=str(HERE / "base"),
    endpoint_url="http://127.0.0.1:9",  # nobody is there: everything lies on disk
    aws_access_key_id=dg.EnvVar("TEST_KEY_ID"),
    aws_secret_access_key=dg.EnvVar("TEST_SECRET"),
)
literal = FileDatasetResource(base_path=str(HERE / "base"), aws_access_key_id="AKID", aws_secret_access_key=LITERAL)
nested = FileDatasetResource(s3_resource=S3Resource(aws_access_key_id="AKID", aws_secret_access_key=LITERAL))


def scans(day, count=2):
    """Two rows a day; on the broken one neither can be read."""
    rows = []
    for number in range(1, count + 1):
        path = HERE / "input" / day / str(number) / "scan.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("bad" if day == BROKEN else f"scan {number} of {day}")
        rows.append({"id": f"{day}-{number}", "scan.txt": str(path)})
    return pd.DataFrame(rows)


def copy(input_dir, output_dir):
    text = (input_dir / "scan.txt").read_text()
    if text == "bad":
        message = "a bad scan"
        raise ValueError(message)
    (output_dir / "copy.txt").write_text(text)
    return {"copy.txt": output_dir / "copy.txt"}


def slowly(input_dir, output_dir):
    (HERE / "slow" / (input_dir / "scan.txt").read_text().replace(" ", "-")).touch()
    time.sleep(600)
    return copy(input_dir, output_dir)


def ends(input_dir, output_dir):
    """Leave a file for each call; at row 5 end the process by a signal, where a file names one, with rows on disk."""
    number = (input_dir / "scan.txt").read_text().split()[1]
    (HERE / "calls").mkdir(exist_ok=True)
    (HERE / "calls" / f"{number}-{uuid.uuid4().hex}").touch()
    if number == "5" and (HERE / "signal").exists():
        while not list((HERE / "base" / "manifests" / "ending").glob("*.checkpoint/part-*")):
            time.sleep(0.05)
        os.kill(os.getpid(), int((HERE / "signal").read_text()))
        time.sleep(600)
    return copy(input_dir, output_dir)


def holds(input_dir, output_dir):
    """Leave a file for each call; at row 5 wait to be cancelled, where a file says so, once rows are written down."""
    text = (input_dir / "scan.txt").read_text()
    (HERE / "site_calls").mkdir(exist_ok=True)
    (HERE / "site_calls" / f"{text}-{uuid.uuid4().hex}").touch()
    if text == "5" and (HERE / "hold").exists():
        while not list((HERE / "base" / "manifests" / "site_copied").glob("*.checkpoint/part-*")):
            time.sleep(0.05)
        (HERE / "holding").touch()
        time.sleep(600)
    return copy(input_dir, output_dir)


ONE_RUN = dg.BackfillPolicy.single_run()


@dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
def raw_scans(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
    return {day: scans(day) for day in context.partition_keys}


copied = pipeline_asset(copy, name="copied", input=raw_scans, partitions_def=DAYS, backfill_policy=ONE_RUN)
copied_each = pipeline_asset(copy, name="copied_each", input=raw_scans, partitions_def=DAYS, resource_key="literal")


@dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
def counted(copied: pd.DataFrame, nested: FileDatasetResource) -> dg.MaterializeResult:
    assert nested.get_options().session_kwargs["aws_access_key_id"] == "AKID"
    return dg.MaterializeResult(metadata={"rows": len(copied)})


@dg.asset
def few_scans() -> pd.DataFrame:
    (HERE / "slow").mkdir(exist_ok=True)
    return scans("2024-01-01")


@dg.asset
def six_scans() -> pd.DataFrame:
    return scans("2024-01-01", 6)


ending = pipeline_asset(ends, name="ending", input=six_scans, prefetch=0)
slow = pipeline_asset(slowly, name="slow", input=few_scans, workers=1)

site_scans = files_asset("site_scans", {"scan.txt": HERE / "sites/{site}/{id}.txt"}, partition_by="site")
site_copied = pipeline_asset(
    holds, name="site_copied", input=site_scans, partitions_def=site_scans.partitions_def, workers=1
)
site_checks = build_manifest_checks(site_copied)

daily = dg.define_asset_job("daily", selection=["raw_scans", "copied", "counted"])
nightly = dg.build_schedule_from_partitioned_job(daily, name="nightly", hour_of_day=2)
defs = dg.Definitions(
    assets=[raw_scans, copied, copied_each, counted, few_scans, slow, six_scans, ending, site_scans, site_copied],
    asset_checks=site_checks,
    jobs=[
        daily,
        dg.define_asset_job("daily_range", selection=["raw_scans", "copied"]),
        dg.define_asset_job("ending_job", selection=["six_scans", "ending"]),
        dg.define_asset_job("slow_job", selection=["few_scans", "slow"]),
        dg.define_asset_job("sites_job", selection=["site_scans", "site_copied"]),
    ],
    schedules=[nightly],
    resources={
        "file_dataset": store,
        "literal": literal,
        "nested": nested,
        "io_manager": ManifestIOManager(resource=store),
    },
)
