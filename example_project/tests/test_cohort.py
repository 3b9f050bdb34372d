"""The cohort is what its labels say, the same each time, and broken where it says."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  # the name its documentation uses

from example_project.cohort import GAPPED_ID, MISSING_ID, TRUNCATED_ID, Case, build_cohort, ct_series
from example_project.pipelines import measure, resample


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def cohort(directory: Path) -> dict[str, Case]:
    return {case.id: case for case in build_cohort(directory)}


@pytest.fixture(scope="module")
def images(cohort: dict[str, Case]) -> dict[str, sitk.Image]:
    """Every image that can be read."""
    return {case.id: sitk.ReadImage(case.path) for case in cohort.values() if case.path and case.id != TRUNCATED_ID}


@pytest.fixture(scope="module")
def volumes_ml(
    cohort: dict[str, Case],
    images: dict[str, sitk.Image],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, float]:
    """Foreground of each case after both pipelines, as the demo runs them."""

    def volume(case: Case) -> float:
        dirs = [tmp_path_factory.mktemp(case.id) for _ in range(3)]
        shutil.copy(str(case.path), dirs[0] / "image.mha")
        resample(dirs[0], dirs[1])
        output = measure(dirs[1], dirs[2])
        measures: dict[str, Any] = json.loads(output["measures.json"].read_text())
        return float(measures["foreground_volume_ml"])

    return {case_id: volume(cohort[case_id]) for case_id in images}


def test_there_are_twelve_cases_in_order(cohort: dict[str, Case]) -> None:
    assert list(cohort) == [f"case-{number:02}" for number in range(1, 13)]
    assert all(case.file == f"{case.id}.mha" for case in cohort.values())


def test_only_the_missing_case_has_no_file(cohort: dict[str, Case], directory: Path) -> None:
    assert [case.id for case in cohort.values() if case.path is None] == [MISSING_ID]
    present = [case.file for case in cohort.values() if case.path]
    assert sorted(path.name for path in directory.iterdir()) == present


def test_the_truncated_case_ends_among_its_pixels(cohort: dict[str, Case]) -> None:
    path = cohort[TRUNCATED_ID].path
    assert path is not None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()  # the header is whole
    assert path.stat().st_size > 1_000_000
    with pytest.raises(RuntimeError):
        reader.Execute()


def test_the_truncated_case_is_told_by_the_pipeline(cohort: dict[str, Case], tmp_path: Path) -> None:
    shutil.copy(str(cohort[TRUNCATED_ID].path), tmp_path / "image.mha")
    with pytest.raises(ValueError, match="damaged or cut short"):
        resample(tmp_path, tmp_path)


def test_a_second_cohort_has_the_same_bytes(cohort: dict[str, Case], directory: Path, tmp_path: Path) -> None:
    again = build_cohort(tmp_path / "again")
    assert [case.labels for case in again] == [case.labels for case in cohort.values()]
    for case in again:
        if case.path:
            assert case.path.read_bytes() == (directory / case.file).read_bytes()


def test_building_over_an_old_cohort_removes_the_missing_case(tmp_path: Path) -> None:
    (tmp_path / f"{MISSING_ID}.mha").write_bytes(b"left from something else")
    build_cohort(tmp_path)
    assert not (tmp_path / f"{MISSING_ID}.mha").exists()


def test_no_two_cases_are_alike(images: dict[str, sitk.Image]) -> None:
    pixels = {case_id: sitk.GetArrayFromImage(image).tobytes() for case_id, image in images.items()}
    assert len(set(pixels.values())) == len(pixels) == 10


def test_the_cohort_is_small(cohort: dict[str, Case]) -> None:
    total = sum(case.path.stat().st_size for case in cohort.values() if case.path)
    assert 20e6 < total < 40e6


def test_images_are_uncompressed_int16(cohort: dict[str, Case], images: dict[str, sitk.Image]) -> None:
    for case_id, image in images.items():
        assert image.GetPixelID() == sitk.sitkInt16
        path = cohort[case_id].path
        assert path is not None
        pixel_bytes = 2 * image.GetNumberOfPixels()
        assert 0 < path.stat().st_size - pixel_bytes < 1000, "more than a header"


def test_the_slice_spacing_is_the_file_s(cohort: dict[str, Case], images: dict[str, sitk.Image]) -> None:
    for case_id, image in images.items():
        labelled = cohort[case_id].labels["spacing_z_mm"]
        assert labelled == pytest.approx(image.GetSpacing()[2], abs=0.001)


def test_the_first_case_is_the_template_itself(images: dict[str, sitk.Image]) -> None:
    """Its voxels lie on the template's: nothing was interpolated, only times 4."""
    values = sitk.GetArrayFromImage(images["case-01"])
    assert (values % 4 == 0).all()
    assert values.max() == 4 * 255


def test_turning_keeps_the_volume(volumes_ml: dict[str, float]) -> None:
    for case_id in ("case-02", "case-03", "case-08"):
        assert volumes_ml[case_id] == pytest.approx(volumes_ml["case-01"], rel=0.01)


def test_scaling_scales_the_volume(volumes_ml: dict[str, float]) -> None:
    ratio = volumes_ml["case-09"] / volumes_ml["case-01"]
    assert ratio == pytest.approx(0.93**3, rel=0.01)


def test_brains_have_the_volume_of_brains(volumes_ml: dict[str, float]) -> None:
    """1.0 to 2.0 l; the EPI scan has 24 slices, 53 mm, of its head."""
    *t1_ml, epi_ml = volumes_ml.values()
    assert all(1000 < volume_ml < 2000 for volume_ml in t1_ml)
    assert 500 < epi_ml < 1000


def test_the_bias_field_is_on_the_side_it_says(images: dict[str, sitk.Image]) -> None:
    """The template is symmetric, so its own halves are equally bright."""

    def right_over_left(case_id: str) -> float:
        values = sitk.GetArrayFromImage(images[case_id]).astype(float)
        middle = values.shape[2] // 2
        # in LPS x grows to the left
        right, left = values[:, :, :middle], values[:, :, middle:]
        return float(np.mean(right[right > 400]) / np.mean(left[left > 400]))

    assert right_over_left("case-02") == pytest.approx(1.0, abs=0.02)
    assert right_over_left("case-04") > 1.2


def test_the_epi_scan_keeps_its_tilt(images: dict[str, sitk.Image]) -> None:
    direction = np.reshape(images["case-12"].GetDirection(), (3, 3))
    tilt_deg = np.degrees(np.arccos(direction[2, 2]))
    assert tilt_deg == pytest.approx(9.3, abs=0.1)


def test_a_ct_series_is_a_directory_of_slices_of_one_series() -> None:
    for case_id, count in (("ct-01", 5), (GAPPED_ID, 4)):
        directory = ct_series()[case_id]
        (found,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(directory))
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(directory), found)
        assert len(names) == len(list(directory.iterdir())) == count


def test_no_package_whose_data_is_read_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from example_project.cohort import build_cohort, ct_series\n"
        "build_cohort(pathlib.Path(sys.argv[1])), ct_series()\n"
        "print([m for m in ('nilearn', 'nibabel', 'pydicom', 'sklearn') if m in sys.modules])\n"
    )
    run = subprocess.run(  # our own interpreter and code
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert run.stdout.strip() == "[]"


def test_an_absent_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="nilearn does not carry"):
        build_cohort(tmp_path)
