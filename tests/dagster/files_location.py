"""A code location with files on disk as a source, for a daemon: a partition for each site, a sensor that is on.

`DATASET_TEST_DIR` is where everything lies.
"""

import os
from pathlib import Path

import dagster as dg

from file_dataset_dagster import FileDatasetResource, ManifestIOManager, build_files_sensor, files_asset, pipeline_asset

HERE = Path(os.environ["DATASET_TEST_DIR"])
store = FileDatasetResource(base_path=str(HERE / "base"))


def copy(input_dir, output_dir):
    (output_dir / "copy.txt").write_text((input_dir / "scan.txt").read_text())
    return {"copy.txt": output_dir / "copy.txt"}


scans = files_asset("scans", {"scan.txt": HERE / "raw/{site}/{id}.txt"}, partition_by="site")
copied = pipeline_asset(copy, name="copied", input=scans, partitions_def=scans.partitions_def)
new_scans = build_files_sensor(
    scans,
    [scans, copied],
    name="new_scans",
    run_config={"ops": {"copied": {"config": {"only_changed": True}}}},
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
defs = dg.Definitions(
    [scans, copied],
    sensors=[new_scans],
    resources={"file_dataset": store, "io_manager": ManifestIOManager(resource=store)},
)
