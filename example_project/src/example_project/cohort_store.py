"""The cohort in S3: scans at `raw/<id>/image.mha`, DICOM slices below `raw/<id>/series/`, and a table of the study."""

import tempfile
from pathlib import Path

import pandas as pd

import file_dataset
from example_project.cohort import build_cohort, ct_series

# When each scan came in. Nothing came on the 7th, and nothing that can be read on the 8th.
ARRIVALS = {
    "2026-01-05": ("case-01", "case-02", "case-03"),
    "2026-01-06": ("case-04", "case-05", "case-06"),
    "2026-01-08": ("case-07", "case-10"),
    "2026-01-09": ("case-08", "case-09"),
    "2026-01-10": ("case-11", "case-12"),
}
ARRIVED = {case: day for day, cases in ARRIVALS.items() for case in cases}


def table_url(base_path: str) -> str:
    """Return where the study's table lies: id, the day of arrival, and what is known of each scan; no URLs."""
    return f"{base_path.rstrip('/')}/raw/cohort/scans.csv"


def upload(base_path: str) -> tuple[int, int]:
    """Build the cohort and upload it; return the number of scans and their bytes, DICOM series left out.

    The table names one scan that is not there, and one file is cut short: what a cohort of some size always has.
    """
    into_path = f"{base_path}/raw"
    rows = []
    count = size_bytes = 0
    with tempfile.TemporaryDirectory() as scratch:
        for case in build_cohort(Path(scratch)):
            rows.append({"id": case.id, "arrived": ARRIVED[case.id], **case.labels})
            if case.path is not None:
                file_dataset.write_files({"image.mha": case.path}, into_path=into_path, id=case.id)
                count, size_bytes = count + 1, size_bytes + case.path.stat().st_size
        table = Path(scratch, "scans.csv")
        pd.DataFrame(rows).to_csv(table, index=False)
        file_dataset.write_files({"scans.csv": table}, into_path=into_path, id="cohort")
    for case_id, directory in ct_series().items():
        file_dataset.write_files({"series": directory}, into_path=into_path, id=case_id)
    return count, size_bytes
