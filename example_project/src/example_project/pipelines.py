"""Image processing on local files. Nothing here knows of S3, data frames or Dagster."""

# No `from __future__ import annotations` here: a pipeline's return type is read at run
# time, for the names of its outputs.

import json
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813  # the name its documentation uses

from example_project.pictures import enlarged_png, slice_pngs, slices_png

SPACING_MM = 2.0

# functional syntax: a file name is no Python identifier
Resampled = TypedDict("Resampled", {"image.mha": Path})
Measured = TypedDict("Measured", {"measures.json": Path, "slices.png": Path})
Pictured = TypedDict("Pictured", {"slices.png": Path})
Assembled = TypedDict("Assembled", {"image.mha": Path, "slices": Path})


def resample(input_dir: Path, output_dir: Path) -> Resampled:
    """Resample `image.mha` to 2 mm isotropic voxels, linearly, as float32.

    The box in space stays: the same directions, the same outer corner, the same extent
    up to half a voxel (1 mm) at the far end of an axis. ITK's origin is the *centre* of
    the first voxel, so it moves by half the change in spacing.

    Raises:
        ValueError: the file is damaged, cut short or not 3-D.
    """
    image = _read(input_dir / "image.mha")
    spacing = np.array(image.GetSpacing())
    extent_mm = spacing * image.GetSize()
    # a half rounds down: a voxel whose centre lies on the box's face, or beyond it by a
    # float's error, would get ITK's 0
    size = np.maximum(np.ceil(extent_mm / SPACING_MM - 0.5 - 1e-6), 1).astype(int)
    axes = np.reshape(image.GetDirection(), (3, 3))
    origin = image.GetOrigin() + axes @ (SPACING_MM - spacing) / 2
    resampled = sitk.Resample(
        image,
        size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        [SPACING_MM] * 3,
        image.GetDirection(),
    )
    output = output_dir / "image.mha"
    sitk.WriteImage(resampled, output, useCompression=False)
    return {"image.mha": output}


def measure(input_dir: Path, output_dir: Path) -> Measured:
    """Measure the foreground of `image.mha` and picture its three middle slices.

    The foreground is the largest face-connected component above Otsu's threshold: the
    brain's tissue in a scan without skull, the head's in one with it, cavities darker
    than the threshold left out. `measures.json` holds:

    - `size_voxels`, `spacing_mm`, `extent_mm`: along the file's axes x, y, z;
    - `threshold_au`: Otsu's (au: arbitrary units, those of the image);
    - `foreground_voxels`, `foreground_volume_ml`: their count, and their volume;
    - `foreground_intensity_au`, `image_intensity_au`: mean, sd (of the population),
      p5, p50, p95 (linear between neighbours), min and max over the foreground's
      voxels and over all.

    `slices.png` is the picture of `pictures.slices_png`.

    Raises:
        ValueError: the file is damaged, cut short or not 3-D, or all voxels are equal.
    """
    image = _read(input_dir / "image.mha")
    values = sitk.GetArrayFromImage(image).astype(np.float64)
    if values.min() == values.max():
        message = f"image.mha holds nothing but {values.min():g}: no foreground"
        raise ValueError(message)

    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetInsideValue(0)
    otsu.SetOutsideValue(1)
    components = sitk.ConnectedComponent(otsu.Execute(image))
    foreground = sitk.GetArrayFromImage(sitk.RelabelComponent(components)) == 1

    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    voxels = int(foreground.sum())
    measures = {
        "size_voxels": size.tolist(),
        "spacing_mm": spacing.tolist(),
        "extent_mm": (size * spacing).tolist(),
        "threshold_au": otsu.GetThreshold(),
        "foreground_voxels": voxels,
        "foreground_volume_ml": voxels * float(spacing.prod()) / 1000,
        "foreground_intensity_au": _statistics(values[foreground]),
        "image_intensity_au": _statistics(values),
    }
    numbers, picture = output_dir / "measures.json", output_dir / "slices.png"
    numbers.write_text(json.dumps(measures, indent=2) + "\n", encoding="utf-8")
    picture.write_bytes(slices_png(image))
    return {"measures.json": numbers, "slices.png": picture}


def picture(input_dir: Path, output_dir: Path) -> Pictured:
    """Picture the three middle slices of `image.mha`, as `pictures.slices_png` does.

    Raises:
        ValueError: the file is damaged, cut short or not 3-D.
    """
    path = output_dir / "slices.png"
    path.write_bytes(slices_png(_read(input_dir / "image.mha")))
    return {"slices.png": path}


def assemble(input_dir: Path, output_dir: Path) -> Assembled:
    """Read the DICOM slices of the directory `series/` as one volume, `image.mha`, and picture each slice.

    Values are those of the scanner (of CT: Hounsfield units). The directory `slices/` holds a grey PNG for each slice,
    `001.png` first, in the order of the volume's z axis.

    Raises:
        ValueError: the directory holds no DICOM series or several, or slices are missing: their distances differ by
            more than 1 % (ITK would spread the slices evenly over the gap).
    """
    directory = str(input_dir / "series")
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(directory)
    if len(found) != 1:
        message = f"series/ holds {len(found)} DICOM series, not 1"
        raise ValueError(message)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(directory, found[0])
    gaps_mm = np.linalg.norm(np.diff([_position_mm(name) for name in names], axis=0), axis=1)
    if gaps_mm.size and np.ptp(gaps_mm) > 0.01 * gaps_mm.min():
        message = f"slices are missing: {len(names)} slices lie {gaps_mm.min():.3g} to {gaps_mm.max():.3g} mm apart"
        raise ValueError(message)
    image = sitk.ReadImage(names)
    volume, slices = output_dir / "image.mha", output_dir / "slices"
    sitk.WriteImage(image, volume, useCompression=False)
    slices.mkdir()
    for number, png in enumerate(slice_pngs(image), 1):
        (slices / f"{number:03}.png").write_bytes(png)
    return {"image.mha": volume, "slices": slices}


def middle_slice(output_dir: Path) -> bytes:
    """Return the middle one of the slices that `assemble` pictured, enlarged, for Dagster to show."""
    slices = sorted((output_dir / "slices").iterdir())
    return enlarged_png(slices[len(slices) // 2].read_bytes())


def thumbnail(output_dir: Path) -> bytes:
    """Return the picture that `measure` or `picture` made, for Dagster to show."""
    return (output_dir / "slices.png").read_bytes()


def _statistics(values: npt.NDArray[Any]) -> dict[str, float]:
    p5, p50, p95 = np.percentile(values, [5, 50, 95])
    statistics = {
        "mean": values.mean(),
        "sd": values.std(),
        "p5": p5,
        "p50": p50,
        "p95": p95,
        "min": values.min(),
        "max": values.max(),
    }
    return {name: float(value) for name, value in statistics.items()}


def _position_mm(name: str) -> tuple[float, ...]:
    """Where the first voxel of a slice lies; of the file its header alone is read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    position: tuple[float, ...] = reader.GetOrigin()
    return position


def _read(path: Path) -> sitk.Image:
    """Read a 3-D image as float32.

    Float, because ITK cuts interpolated values off to the pixel type: in an integer
    image 3.9 becomes 3.
    """
    size_bytes = path.stat().st_size
    try:
        image = sitk.ReadImage(path, sitk.sitkFloat32)
    except RuntimeError as exc:
        # ITK's own words for a file cut short end in "No such file or directory"
        message = f"{path.name} ({size_bytes:,} bytes) is damaged or cut short"
        raise ValueError(message) from exc
    if image.GetDimension() != 3:  # noqa: PLR2004
        message = f"{path.name} has {image.GetDimension()} dimensions, not 3"
        raise ValueError(message)
    return image
