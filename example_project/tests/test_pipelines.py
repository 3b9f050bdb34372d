"""`resample` and `measure` on images whose right answers are known by arithmetic."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from math import pi, radians, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813  # the name its documentation uses
from PIL import Image

from example_project.cohort import GAPPED_ID, ct_series
from example_project.pictures import PANEL_GAP_PIXELS, PIXELS_PER_MM, slices_png
from example_project.pipelines import assemble, measure, middle_slice, resample

Pipeline = Callable[[Path, Path], Mapping[str, object]]

TILTED = sitk.Euler3DTransform((0, 0, 0), *map(radians, (10, -20, 30))).GetMatrix()
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

# size in voxels, spacing in mm, direction
GEOMETRIES = {
    "1 mm": ((30, 40, 20), (1.0, 1.0, 1.0), UPRIGHT),
    "already 2 mm": ((9, 8, 7), (2.0, 2.0, 2.0), UPRIGHT),
    "thick slices": ((30, 41, 11), (1.0, 1.0, 3.0), UPRIGHT),
    "odd, tilted": ((31, 17, 13), (1.1, 1.7, 2.199999), TILTED),
    # 35, 31.5 and 27 mm: a remainder over half a voxel, too
    "coarse": ((7, 7, 3), (5.0, 4.5, 9.0), TILTED),
    # 3 mm are one and a half voxels of 2 mm
    "one slice": ((20, 20, 1), (1.0, 1.0, 3.0), UPRIGHT),
}


def image_of(
    values: npt.NDArray[Any],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    direction: Sequence[float] = UPRIGHT,
) -> sitk.Image:
    """Make an image of an array in numpy's order, [z, y, x]."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin((-12.5, 30.0, 7.25))
    return image


def outer_corner_mm(image: sitk.Image) -> tuple[float, ...]:
    return tuple(image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, -0.5)))


def extent_mm(image: sitk.Image) -> npt.NDArray[Any]:
    extent: npt.NDArray[Any] = np.array(image.GetSize()) * image.GetSpacing()
    return extent


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[Path, Path]:
    input_dir, output_dir = tmp_path / "in", tmp_path / "out"
    input_dir.mkdir()
    output_dir.mkdir()
    return input_dir, output_dir


def resampled(image: sitk.Image, dirs: tuple[Path, Path]) -> sitk.Image:
    sitk.WriteImage(image, dirs[0] / "image.mha")
    return sitk.ReadImage(resample(*dirs)["image.mha"])


def measured(image: sitk.Image, dirs: tuple[Path, Path]) -> dict[str, Any]:
    sitk.WriteImage(image, dirs[0] / "image.mha")
    measures: dict[str, Any] = json.loads(measure(*dirs)["measures.json"].read_text())
    return measures


def sphere(radius_mm: float, spacing: tuple[float, float, float]) -> sitk.Image:
    """Make a ball of 1000 in 10, in the middle of a box of 100 mm."""
    size = [round(100 / mm) for mm in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(size, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = (x**2 + y**2 + z**2 <= radius_mm**2).transpose(2, 1, 0)
    return image_of(np.where(inside, 1000, 10).astype(np.int16), spacing)


@pytest.mark.parametrize(("size", "spacing", "direction"), GEOMETRIES.values(), ids=GEOMETRIES)
class TestResample:
    def test_voxels_are_2_mm_in_the_same_box(
        self,
        size: tuple[int, int, int],
        spacing: tuple[float, float, float],
        direction: tuple[float, ...],
        dirs: tuple[Path, Path],
    ) -> None:
        before = image_of(np.zeros(size[::-1], np.int16), spacing, direction)
        after = resampled(before, dirs)
        assert after.GetSpacing() == (2.0, 2.0, 2.0)
        assert after.GetDirection() == pytest.approx(direction)
        assert outer_corner_mm(after) == pytest.approx(outer_corner_mm(before))
        # half a voxel of 2 mm
        assert np.abs(extent_mm(after) - extent_mm(before)).max() <= 1.0 + 1e-5

    def test_no_border_is_invented(
        self,
        size: tuple[int, int, int],
        spacing: tuple[float, float, float],
        direction: tuple[float, ...],
        dirs: tuple[Path, Path],
    ) -> None:
        """A voxel outside the box would be 0."""
        flat = np.full(size[::-1], 700, np.int16)
        after = resampled(image_of(flat, spacing, direction), dirs)
        assert np.unique(sitk.GetArrayFromImage(after)).tolist() == [700]

    def test_every_value_stays_where_it_was(
        self,
        size: tuple[int, int, int],
        spacing: tuple[float, float, float],
        direction: tuple[float, ...],
        dirs: tuple[Path, Path],
    ) -> None:
        """Linear interpolation reproduces a ramp through space exactly.

        But for the outermost voxels, where there is nothing to interpolate with.
        """
        before = ramp(image_of(np.zeros(size[::-1]), spacing, direction))
        after = resampled(before, dirs)
        inner = between_centres(after, before)
        differences = sitk.GetArrayFromImage(after) - sitk.GetArrayFromImage(ramp(after))
        assert inner.any() or 1 in size
        assert np.abs(differences[inner]).max(initial=0) < 1e-3


def points_mm(image: sitk.Image) -> npt.NDArray[Any]:
    """Centres of all voxels, of shape (z, y, x, 3)."""
    indices = np.stack(np.meshgrid(*map(range, image.GetSize()), indexing="ij"), -1)
    axes = np.reshape(image.GetDirection(), (3, 3))
    points: npt.NDArray[Any] = (indices * image.GetSpacing() @ axes.T + image.GetOrigin()).transpose(2, 1, 0, 3)
    return points


def ramp(image: sitk.Image) -> sitk.Image:
    filled = sitk.GetImageFromArray(points_mm(image) @ (3.0, -5.0, 7.0) + 2000)
    filled.CopyInformation(image)
    return filled


def between_centres(image: sitk.Image, of: sitk.Image) -> npt.NDArray[np.bool_]:
    axes = np.reshape(of.GetDirection(), (3, 3))
    indices = (points_mm(image) - of.GetOrigin()) @ axes / of.GetSpacing()
    last = np.array(of.GetSize()) - 1
    inside: npt.NDArray[np.bool_] = ((indices > -1e-6) & (indices < last + 1e-6)).all(axis=-1)
    return inside


def test_resampling_integers_does_not_cut_off_fractions(
    dirs: tuple[Path, Path],
) -> None:
    """ITK would make 3 of 3.5, were the image resampled as int16."""
    ones_and_zeros = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    after = resampled(image_of(ones_and_zeros), dirs)
    assert sitk.GetArrayFromImage(after).tolist() == [[[3.5]]]


def test_resample_writes_uncompressed_mha_and_leaves_its_input(
    dirs: tuple[Path, Path],
) -> None:
    input_dir, output_dir = dirs
    sitk.WriteImage(image_of(np.ones((4, 4, 4), np.int16)), input_dir / "image.mha")
    before = (input_dir / "image.mha").read_bytes()
    output = resample(input_dir, output_dir)
    assert output == {"image.mha": output_dir / "image.mha"}
    assert b"CompressedData = False" in output["image.mha"].read_bytes()
    assert (input_dir / "image.mha").read_bytes() == before


@pytest.mark.parametrize("pipeline", [resample, measure])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_raises(pipeline: Pipeline, kept: float, dirs: tuple[Path, Path]) -> None:
    path = dirs[0] / "image.mha"
    sitk.WriteImage(sphere(20, (4.0, 4.0, 4.0)), path)
    pipeline(*dirs)  # the whole file is fine
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r"image\.mha \([\d,]+ bytes\) is damaged"):
        pipeline(*dirs)


@pytest.mark.parametrize("pipeline", [resample, measure])
def test_a_missing_file_is_file_not_found(pipeline: Pipeline, dirs: tuple[Path, Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"image\.mha"):
        pipeline(*dirs)


@pytest.mark.parametrize("pipeline", [resample, measure])
def test_a_flat_image_is_refused(pipeline: Pipeline, dirs: tuple[Path, Path]) -> None:
    flat = sitk.GetImageFromArray(np.eye(5, dtype=np.int16))
    sitk.WriteImage(flat, dirs[0] / "image.mha")
    with pytest.raises(ValueError, match=r"image\.mha has 2 dimensions, not 3"):
        pipeline(*dirs)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.5), (2.0, 2.0, 2.0)], ids=str)
def test_the_volume_of_a_sphere_is_right(spacing: tuple[float, float, float], dirs: tuple[Path, Path]) -> None:
    volume_ml = 4 / 3 * pi * 30**3 / 1000
    measures = measured(sphere(30, spacing), dirs)
    assert measures["foreground_volume_ml"] == pytest.approx(volume_ml, rel=0.02)
    assert measures["foreground_intensity_au"]["mean"] == 1000


def test_resampling_keeps_the_volume_of_a_sphere(dirs: tuple[Path, Path]) -> None:
    volume_ml = 4 / 3 * pi * 30**3 / 1000
    after = resampled(sphere(30, (1.0, 1.0, 3.0)), dirs)
    measures = measured(after, dirs)
    assert measures["foreground_volume_ml"] == pytest.approx(volume_ml, rel=0.02)


def test_only_the_largest_component_counts(dirs: tuple[Path, Path]) -> None:
    values = np.zeros((20, 20, 20), np.int16)
    values[2:8, 2:8, 2:8] = 500
    values[12:15, 12:15, 12:15] = 900
    # touches the large one by an edge only, not by a face
    values[8, 8, 2:8] = 500
    assert measured(image_of(values), dirs)["foreground_voxels"] == 6**3


def test_the_numbers_are_exact(dirs: tuple[Path, Path]) -> None:
    """A block of 100 voxels, 101 to 200, in 1000 voxels that are else 0."""
    values = np.zeros((10, 10, 10), np.int16)
    values[3:7, 2:7, 4:9] = np.arange(101, 201).reshape(4, 5, 5)
    measures = measured(image_of(values, (0.5, 1.0, 3.0)), dirs)
    assert measures["size_voxels"] == [10, 10, 10]
    assert measures["spacing_mm"] == [0.5, 1.0, 3.0]
    assert measures["extent_mm"] == [5.0, 10.0, 30.0]
    assert 0 <= measures["threshold_au"] < 101
    assert measures["foreground_voxels"] == 100
    # 100 voxels of 0.5 x 1 x 3 mm
    assert measures["foreground_volume_ml"] == pytest.approx(0.15)
    assert measures["foreground_intensity_au"] == pytest.approx(
        {
            "mean": 150.5,
            # of n consecutive integers: sqrt((n^2 - 1) / 12)
            "sd": sqrt((100**2 - 1) / 12),
            # 99 steps of 1 from 101 up: 5 % of them are 4.95
            "p5": 105.95,
            "p50": 150.5,
            "p95": 195.05,
            "min": 101,
            "max": 200,
        }
    )
    mean_square = (np.arange(101.0, 201.0) ** 2).sum() / 1000
    assert measures["image_intensity_au"] == pytest.approx(
        {
            "mean": 15.05,
            "sd": sqrt(mean_square - 15.05**2),
            "p5": 0,
            "p50": 0,
            # 0-based rank 0.95 x 999 = 949.05; rank 900 holds the first of the block
            "p95": 150.05,
            "min": 0,
            "max": 200,
        }
    )


def test_an_image_of_one_value_has_no_foreground(dirs: tuple[Path, Path]) -> None:
    sitk.WriteImage(image_of(np.full((4, 4, 4), 7, np.int16)), dirs[0] / "image.mha")
    with pytest.raises(ValueError, match="nothing but 7"):
        measure(*dirs)


def panels(image: sitk.Image) -> dict[str, npt.NDArray[Any]]:
    """Cut the picture of an image as large as wide as high into its three panels."""
    picture = np.asarray(Image.open(BytesIO(slices_png(image))))
    side = picture.shape[0]
    names = ("axial", "coronal", "sagittal")
    step = side + PANEL_GAP_PIXELS
    return {name: picture[:, i * step : i * step + side] for i, name in enumerate(names)}


def test_the_picture_has_one_scale_for_all_axes() -> None:
    """20 x 60 x 120 mm: axial 20 x 60, coronal 20 x 120, sagittal 60 x 120."""
    image = image_of(np.ones((40, 30, 20), np.int16), (1.0, 2.0, 3.0))
    picture = Image.open(BytesIO(slices_png(image)))
    assert picture.size == (
        (20 + 20 + 60) * PIXELS_PER_MM + 2 * PANEL_GAP_PIXELS,
        120 * PIXELS_PER_MM,
    )
    assert (picture.format, picture.mode) == ("PNG", "L")


# Bright bars in an image of 40 mm, [z, y, x] in LPS: z grows to superior, y to
# posterior, x to the patient's left. Each runs through the middle slice of one panel.
LOW, HIGH, ALL = slice(2, 8), slice(32, 38), slice(None)
BARS = {
    "superior left is at the top right": ("coronal", (HIGH, ALL, HIGH), "top right"),
    "inferior right is at the bottom left": ("coronal", (LOW, ALL, LOW), "bottom left"),
    "superior anterior is at the top left": ("sagittal", (HIGH, LOW, ALL), "top left"),
    "inferior posterior is at the bottom right": (
        "sagittal",
        (LOW, HIGH, ALL),
        "bottom right",
    ),
    "anterior left is at the top right": ("axial", (ALL, LOW, HIGH), "top right"),
    "posterior right is at the bottom left": ("axial", (ALL, HIGH, LOW), "bottom left"),
}


@pytest.mark.parametrize("stored_as", ["LPS", "RAI", "RAS", "PIR", "ASL", "SLP"])
@pytest.mark.parametrize(("panel", "bar", "corner"), BARS.values(), ids=BARS)
def test_the_picture_is_upright_whatever_the_file_s_axes(
    stored_as: str, panel: str, bar: tuple[slice, ...], corner: str
) -> None:
    values = np.zeros((40, 40, 40), np.int16)
    values[bar] = 1000
    seen = panels(sitk.DICOMOrient(image_of(values), stored_as))
    half = 20 * PIXELS_PER_MM
    quarters = {
        "top left": seen[panel][:half, :half],
        "top right": seen[panel][:half, half:],
        "bottom left": seen[panel][half:, :half],
        "bottom right": seen[panel][half:, half:],
    }
    assert [name for name, pixels in quarters.items() if pixels.max() > 200] == [corner]
    # the two other panels cut the bar nowhere, or lengthwise outside their middle
    others = [pixels for name, pixels in seen.items() if name != panel]
    assert all(pixels.max() == 0 for pixels in others)


def test_grey_runs_from_the_1st_to_the_99th_percentile() -> None:
    """Half of the voxels 0, half 100, and one in 200 each far below and far above."""
    values = np.zeros((20, 20, 20), np.int16)
    values[:, :, 10:] = 100
    values[0, 0, :] = -30000
    values[0, 1, :] = 30000
    # the top plane is not in the axial picture
    axial = panels(image_of(values))["axial"]
    assert axial[:, :15].max() == 0
    assert axial[:, -15:].min() == 255


class TestAssemble:
    def test_the_volume_has_the_values_and_places_that_pydicom_reads(self, dirs: tuple[Path, Path]) -> None:
        shutil.copytree(ct_series()["ct-01"], dirs[0] / "series")
        volume = sitk.ReadImage(assemble(*dirs)["image.mha"])
        slices = sorted(
            (pydicom.dcmread(path) for path in (dirs[0] / "series").iterdir()),
            key=lambda one: float(one.ImagePositionPatient[2]),
        )
        hounsfield = [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]
        assert (sitk.GetArrayFromImage(volume) == np.stack(hounsfield)).all()
        assert volume.GetOrigin() == pytest.approx([float(mm) for mm in slices[0].ImagePositionPatient])
        assert volume.GetSpacing() == pytest.approx((0.488281, 0.488281, 2.5))

    def test_each_slice_is_pictured_by_one_grey_for_all(self, dirs: tuple[Path, Path]) -> None:
        shutil.copytree(ct_series()["ct-01"], dirs[0] / "series")
        pictured = sorted(assemble(*dirs)["slices"].iterdir())
        assert [path.name for path in pictured] == ["001.png", "002.png", "003.png", "004.png", "005.png"]
        stack = np.stack([np.asarray(Image.open(path)) for path in pictured])
        values = sitk.GetArrayFromImage(sitk.ReadImage(dirs[1] / "image.mha"))
        darkest, brightest = np.percentile(values, [1, 99])
        assert (stack[values <= darkest] == 0).all()
        assert (stack[values >= brightest] == 255).all()
        assert 0 < stack[(values > darkest + 20) & (values < brightest - 20)].mean() < 255

    def test_the_preview_is_the_middle_slice_enlarged(self, dirs: tuple[Path, Path]) -> None:
        shutil.copytree(ct_series()["ct-01"], dirs[0] / "series")
        middle = assemble(*dirs)["slices"] / "003.png"
        with Image.open(BytesIO(middle_slice(dirs[1]))) as picture, Image.open(middle) as small:
            assert picture.size == (256, 256)
            assert (np.asarray(picture)[::16, ::16] == np.asarray(small)).all()

    def test_a_series_with_a_gap_is_refused(self, dirs: tuple[Path, Path]) -> None:
        """ITK reads it, and says that its slices are 68 mm apart."""
        shutil.copytree(ct_series()[GAPPED_ID], dirs[0] / "series")
        with pytest.raises(ValueError, match=r"slices are missing: 4 slices lie 1\.25 to 202 mm apart"):
            assemble(*dirs)

    def test_one_slice_alone_is_a_volume(self, dirs: tuple[Path, Path]) -> None:
        (dirs[0] / "series").mkdir()
        shutil.copy(ct_series()["ct-01"] / "2062", dirs[0] / "series")
        assert sitk.ReadImage(assemble(*dirs)["image.mha"]).GetSize() == (16, 16, 1)

    def test_several_series_and_none_are_refused(self, dirs: tuple[Path, Path]) -> None:
        for case_id, directory in ct_series().items():
            shutil.copytree(directory, dirs[0] / "series" / case_id)
        with pytest.raises(ValueError, match="0 DICOM series, not 1"):  # sub-directories are not searched
            assemble(*dirs)
        for directory in ct_series().values():
            shutil.copytree(directory, dirs[0] / "series", dirs_exist_ok=True)
        with pytest.raises(ValueError, match="2 DICOM series, not 1"):
            assemble(*dirs)
