"""What reads directories elsewhere reads what lands here: pydicom and SimpleITK a series, zarr a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pydicom.data
import pytest
import SimpleITK
import zarr

from file_dataset import Pipeline

# five slices of a head by CT, 16 x 16 pixels each, which pydicom's wheel carries
SERIES = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests" / "98892001" / "CT5N"


def volume(input_dir, output_dir):
    """Read a DICOM series by both, and store it as one file."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(input_dir / "series"))
    image = SimpleITK.ReadImage(names)
    slices = sorted(
        map(pydicom.dcmread, (input_dir / "series").iterdir()), key=lambda each: each.ImagePositionPatient[2]
    )
    stacked = np.stack([each.pixel_array * each.RescaleSlope + each.RescaleIntercept for each in slices])
    assert (np.sort(stacked.ravel()) == np.sort(SimpleITK.GetArrayFromImage(image).ravel())).all()
    SimpleITK.WriteImage(image, output_dir / "volume.mha")
    return {"volume.mha": output_dir / "volume.mha"}


def mean(input_dir, output_dir):
    array = zarr.open_group(input_dir / "cells.zarr", mode="r")["counts"]
    (output_dir / "mean.txt").write_text(f"{array.shape} {np.mean(array[:])}")
    return {"mean.txt": output_dir / "mean.txt"}


def test_a_dicom_series_from_a_bucket_becomes_a_volume(bucket, options, tmp_path):
    for path in SERIES.iterdir():
        bucket.put(f"series-1/{path.name}", path.read_bytes())
    frame = pd.DataFrame({"id": ["1"], "series": [bucket.url("series-1/")]})
    manifest = Pipeline(volume, into_path=tmp_path, options=options, progress=False)(frame)
    assert SimpleITK.ReadImage(manifest["volume.mha"][0]).GetSize() == (16, 16, 5)


@pytest.mark.parametrize("where", ["bucket", "disk"])
def test_a_zarr_store_is_opened_where_it_lands(bucket, options, tmp_path, where):
    group = zarr.create_group(tmp_path / "cells.zarr")
    array = group.create_array("counts", shape=(64, 64), chunks=(8, 8), dtype="int32")
    array[:] = np.arange(64 * 64).reshape(64, 64)
    at = f"{tmp_path}/cells.zarr/"
    if where == "bucket":
        for path in (tmp_path / "cells.zarr").rglob("*"):
            if path.is_file():
                bucket.put(f"in/cells.zarr/{path.relative_to(tmp_path / 'cells.zarr').as_posix()}", path.read_bytes())
        at = bucket.url("in/cells.zarr/")
    frame = pd.DataFrame({"id": ["1"], "cells.zarr": [at]})
    manifest = Pipeline(mean, into_path=tmp_path / "out", options=options, progress=False)(frame)
    assert Path(manifest["mean.txt"][0]).read_text() == "(64, 64) 2047.5"
