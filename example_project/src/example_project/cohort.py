"""A dozen scans made from real anatomy, one cut short, one not there; and two series of CT slices, one with a gap.

Three sources, all inside packages from PyPI, so nothing is downloaded:

- `nilearn` carries the MNI152 T1 template, 1 mm: the average of 152 people's
  brains, skull removed (Fonov 2009, doi:10.1016/S1053-8119(09)70884-5).
- `nibabel` carries one person's EPI scan, 24 tilted slices, for its own tests.
- `pydicom` carries DICOM slices of scanners, cropped to 16 x 16 pixels, for its own tests.

Only their data files are read. None of the packages is imported: nilearn's import brings
scikit-learn and takes seconds.

Every case is a pure function of these files: no random numbers.
"""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import radians
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813  # the name its documentation uses

TRUNCATED_ID = "case-07"
MISSING_ID = "case-10"
GAPPED_ID = "ct-02"
# In pydicom's wheel: five slices of a heart, 2.5 mm apart; and of a head's 182 slices the 18th and the last three.
_SERIES = {"ct-01": "98892001/CT5N", GAPPED_ID: "77654033/CT2"}

Triple = tuple[float, float, float]

# The field of view in the template's space, mm, as (left, posterior, superior): its
# brain spans -72..72, -73..107, -72..82. The corners lie half a millimetre off, so
# that 1 mm voxels have their centres on the template's own.
_LOW_MM: Triple = (-76.5, -77.5, -77.5)
_HIGH_MM: Triple = (75.5, 110.5, 86.5)

# the template is 8 bits deep: room for a bias field without visible steps in int16
_INTENSITY_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class Case:
    """One scan of the cohort.

    `file` is the name it has, or should have had, in its directory; `path` is None
    for the missing one. `labels` are columns to carry along: `derived_by` and
    `scan.contrast` are text, `spacing_z_mm` is the distance between slices.
    """

    id: str
    file: str
    path: Path | None
    labels: Mapping[str, str | float]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a case is made from the template. Axes: left, posterior, superior."""

    derived_by: str
    spacing_mm: Triple = (1.5, 1.5, 1.5)
    rotation_deg: Triple = (0.0, 0.0, 0.0)
    scale: float = 1.0
    # gain at the high end of an axis over the gain at its low end
    gain_ratio: Triple = (1.0, 1.0, 1.0)
    low_mm: Triple = field(default=_LOW_MM)
    high_mm: Triple = field(default=_HIGH_MM)
    # order and direction of the file's axes, as three letters of what they increase to
    stored_as: str = "LPS"


_T1_RECIPES = {
    "case-01": _Recipe("cropped to the brain", spacing_mm=(1.0, 1.0, 1.0)),
    "case-02": _Recipe("pitched 10 degrees", rotation_deg=(10.0, 0.0, 0.0)),
    "case-03": _Recipe("axial slices, 3 mm", spacing_mm=(1.0, 1.0, 3.0)),
    "case-04": _Recipe("bias field, right twice the left", gain_ratio=(0.5, 1, 1)),
    "case-05": _Recipe("turned 14 degrees, bias field", rotation_deg=(0, 0, 14), gain_ratio=(1, 1.6, 1)),
    "case-06": _Recipe("lower 50 mm not covered", low_mm=(-76.5, -77.5, -27.5)),
    "case-07": _Recipe("tilted 8 degrees", rotation_deg=(0.0, 8.0, 0.0)),
    "case-08": _Recipe("sagittal slices, 3 mm", spacing_mm=(3.0, 1.0, 1.0), stored_as="PIR"),
    "case-09": _Recipe("scaled to 93 %, pitched 6 degrees", scale=0.93, rotation_deg=(-6, 0, 0)),
    "case-10": _Recipe("scaled to 104 %", scale=1.04),
    "case-11": _Recipe(
        "coronal slices, 2.5 mm, tilted, bias field",
        spacing_mm=(1.2, 2.5, 1.2),
        rotation_deg=(0.0, -12.0, 5.0),
        gain_ratio=(1.0, 1.0, 1.8),
        stored_as="RSA",
    ),
}
_EPI_ID = "case-12"
_EPI_COLUMNS = slice(24, 104)


def build_cohort(directory: Path) -> list[Case]:
    """Write the cohort into `directory`, 33 MB in 11 files, in 1 to 2 s.

    The files are uncompressed int16 `.mha`, named `<case id>.mha`, the same bytes
    each time. `TRUNCATED_ID`'s file ends in the middle of its pixels, and
    `MISSING_ID`'s is not written.

    Returns:
        12 cases, in the order of their ids.

    Raises:
        FileNotFoundError: an installed nilearn or nibabel does not carry its image.
    """
    directory.mkdir(parents=True, exist_ok=True)
    template = _read_template()
    cases = [
        _write(directory, case_id, recipe.derived_by, "T1w", _scan(template, recipe))
        for case_id, recipe in _T1_RECIPES.items()
    ]
    cases.append(_write(directory, _EPI_ID, "one volume, sides cropped", "EPI", _epi()))
    return cases


def ct_series() -> dict[str, Path]:
    """Return a directory of DICOM slices per id: `GAPPED_ID`'s lacks most of its slices.

    Raises:
        FileNotFoundError: the installed pydicom does not carry them.
    """
    return {case: _packaged("pydicom", f"data/test_files/dicomdirtests/{name}") for case, name in _SERIES.items()}


def _write(directory: Path, case_id: str, derived_by: str, contrast: str, image: sitk.Image) -> Case:
    path = directory / f"{case_id}.mha"
    if case_id == MISSING_ID:
        path.unlink(missing_ok=True)
    else:
        sitk.WriteImage(image, path, useCompression=False)
    if case_id == TRUNCATED_ID:
        # the header is some 300 bytes, so half of the file ends among the pixels
        os.truncate(path, path.stat().st_size // 2)
    return Case(
        id=case_id,
        file=path.name,
        path=None if case_id == MISSING_ID else path,
        labels={
            "derived_by": derived_by,
            "scan.contrast": contrast,
            "spacing_z_mm": round(float(image.GetSpacing()[2]), 3),
        },
    )


def _scan(template: sitk.Image, recipe: _Recipe) -> sitk.Image:
    """Resample the template as a scanner would have seen it lying so."""
    low, high = np.array(recipe.low_mm), np.array(recipe.high_mm)
    spacing = np.array(recipe.spacing_mm)
    size = np.round((high - low) / spacing).astype(int).tolist()
    seen = sitk.Resample(
        template,
        size,
        _scanner_to_template(recipe),
        sitk.sitkLinear,
        (low + spacing / 2).tolist(),
        spacing.tolist(),
        np.eye(3).ravel().tolist(),
        0.0,
        sitk.sitkFloat32,
    )
    pixels = sitk.GetArrayFromImage(seen) * _INTENSITY_SCALE
    image = sitk.GetImageFromArray(np.rint(pixels * _gain(pixels.shape, recipe.gain_ratio)).astype(np.int16))
    image.CopyInformation(seen)
    return sitk.DICOMOrient(image, recipe.stored_as)


def _scanner_to_template(recipe: _Recipe) -> sitk.Transform:
    centre = ((np.array(_LOW_MM) + np.array(_HIGH_MM)) / 2).tolist()
    turned = sitk.Euler3DTransform(centre, *map(radians, recipe.rotation_deg))
    # ITK pulls: it asks where in the template a scanner's voxel comes from
    pull = np.linalg.inv(np.reshape(turned.GetMatrix(), (3, 3)) * recipe.scale)
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre)
    transform.SetMatrix(pull.ravel().tolist())
    return transform


def _gain(shape: tuple[int, ...], ratio: Triple) -> npt.NDArray[np.float32]:
    """Multiplicative bias field, 1 in the middle; `shape` is numpy's (z, y, x)."""
    gain: npt.NDArray[Any] = np.ones(shape, np.float32)
    for axis, axis_ratio in zip((2, 1, 0), ratio, strict=True):
        along = [1, 1, 1]
        along[axis] = shape[axis]
        exponent = np.linspace(-0.5, 0.5, shape[axis]).reshape(along)
        gain = gain * axis_ratio**exponent
    return gain.astype(np.float32)


def _read_template() -> sitk.Image:
    path = _packaged("nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    return sitk.ReadImage(path, sitk.sitkFloat32)


def _epi() -> sitk.Image:
    """Read the first of two volumes: int16, 2 x 2 x 2.2 mm, slices tilted 9 degrees."""
    series = sitk.ReadImage(_packaged("nibabel", "tests/data/example4d.nii.gz"))
    # 256 mm wide, of which the head takes the middle
    return series[_EPI_COLUMNS, :, :, 0]


def _packaged(package: str, name: str) -> Path:
    """Path of a data file, or of a directory of them, in an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        path = Path(folder) / name
        if path.exists():
            return path
    message = f"{package} does not carry {name}: install the versions of pyproject.toml"
    raise FileNotFoundError(message)
