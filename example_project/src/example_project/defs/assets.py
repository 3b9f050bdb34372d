"""listed_scans -> raw_scans -> resampled -> measured -> report: manifests of files in S3; at the end, a picture."""

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

import file_dataset
from example_project import cohort_store, pipelines
from example_project.environment import raw, storage
from example_project.pictures import Tile, montage
from file_dataset_dagster import (
    FileDatasetResource,
    ManifestIOManager,
    build_manifest_checks,
    files_asset,
    pipeline_asset,
)

listed_scans = files_asset(
    "listed_scans",
    {"image.mha": raw("{id}/image.mha")},
    details=["etag"],
    group_name="cohort",
    resource_key="store",
    description="The scans that the bucket holds.",
)


@dg.asset(group_name="cohort", kinds={"s3", "csv"})
def raw_scans(listed_scans: pd.DataFrame, store: dg.ResourceParam[FileDatasetResource]) -> pd.DataFrame:
    """Every scan that the study's table names, with its file in the bucket: null where there is none."""
    table = {"scans.csv": cohort_store.table_url(_base_path(store))}
    with file_dataset.reader(table, options=store.get_options()).into_temp_dir() as temp:
        study = pd.read_csv(temp / "scans.csv", dtype={"id": "string"})  # as in the listing
    # of the raw scan: the resampled one, which has the same file name, has another
    found = listed_scans.rename(columns={"image.mha.etag": "scan.etag"})
    return study.merge(found, how="left", on="id")


resampled = pipeline_asset(
    pipelines.resample,
    name="resampled",
    group_name="cohort",
    input=raw_scans,
    resource_key="store",
    metadata=storage("resampled"),
)
measured = pipeline_asset(
    pipelines.measure,
    name="measured",
    group_name="cohort",
    input=resampled,
    resource_key="store",
    preview=pipelines.thumbnail,
    metadata=storage("measured"),
)
measured_checks = build_manifest_checks(measured, resource_key="store", content_unchanged=True)
cohort = dg.define_asset_job("cohort", selection=dg.AssetSelection.groups("cohort"))


@dg.asset(group_name="cohort", kinds={"s3", "png"})
def report(
    raw_scans: pd.DataFrame,
    measured: pd.DataFrame,
    store: dg.ResourceParam[FileDatasetResource],
    io_manager: dg.ResourceParam[ManifestIOManager],
) -> dg.MaterializeResult[None]:
    """A montage of the middle slices of every scan, dropped ones with their cause, and a table of the measures."""
    options = store.get_options()
    blobs = file_dataset.reader(measured, options=options).into_blob_table()
    pictures = dict(zip(measured["id"], blobs["slices.png"].to_pylist(), strict=True))
    measures = {
        case: json.loads(blob) for case, blob in zip(measured["id"], blobs["measures.json"].to_pylist(), strict=True)
    }
    causes = _causes(io_manager)
    tiles = [_tile(scan, pictures, measures, causes) for scan in _records(raw_scans)]
    picture = montage(
        tiles,
        title=f"{len(measured)} of {len(raw_scans)} scans measured",
        footer="Axial, coronal, sagittal middle slices at 2 mm. Left of the picture = patient's right.",
    )
    table = pd.json_normalize([{"id": case, **found} for case, found in measures.items()])
    with tempfile.TemporaryDirectory() as scratch:
        files = {"montage.png": Path(scratch, "montage.png"), "measures.csv": Path(scratch, "measures.csv")}
        files["montage.png"].write_bytes(picture)
        table.to_csv(files["measures.csv"], index=False)
        stored = file_dataset.write_files(files, into_path=_base_path(store), id="report", options=options)
    columns = {"id": "id", "foreground_volume_ml": "volume_ml", "foreground_intensity_au.mean": "mean_intensity_au"}
    shown = table[list(columns)].rename(columns=columns).round(1)
    return dg.MaterializeResult(
        metadata={
            "montage": dg.MetadataValue.md(f"![montage](data:image/png;base64,{base64.b64encode(picture).decode()})"),
            "measures": dg.MetadataValue.table([dg.TableRecord(row) for row in _records(shown)]),
            "montage_url": str(stored["montage.png"]),
            "measures_url": str(stored["measures.csv"]),
        }
    )


def _base_path(store: FileDatasetResource) -> str:
    if not store.base_path:
        raise dg.Failure("the resource `store` has no base_path: set FILE_DATASET_DEMO_S3=s3://bucket/prefix")
    return store.base_path.rstrip("/")


def _causes(manifests: ManifestIOManager) -> dict[str, str]:
    """Return, per dropped scan, at which stage and why."""
    causes: dict[str, str] = {}
    for asset in ("resampled", "measured"):
        failures = manifests.load(manifests.uri(dg.AssetKey(asset), of="failures"))
        for failure in _records(failures):
            code = "" if pd.isna(failure["error_code"]) else f" ({failure['error_code']})"
            what = f"{failure['error_type']}{code}: {failure['error_message']}"
            causes[failure["id"]] = f"dropped at {failure['error_stage']}: {what}"
    return causes


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _tile(
    scan: dict[str, Any], pictures: dict[str, bytes], measures: dict[str, dict[str, float]], causes: dict[str, str]
) -> Tile:
    case = str(scan["id"])
    if case not in pictures:
        return Tile(case, causes.get(case, "not measured"), None)
    volume = f"{measures[case]['foreground_volume_ml']:,.0f} ml"
    return Tile(case, " · ".join([volume, str(scan["scan.contrast"]), str(scan["derived_by"])]), pictures[case])
