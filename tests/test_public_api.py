"""What `import file_dataset` gives, and what it does not load."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import file_dataset
import file_dataset_dagster

HEAVY = ["ray", "dagster", "boto3", "botocore", "pandas", "pyarrow", "tqdm"]


def test_importing_loads_nothing_heavy():
    code = f"import sys, file_dataset; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [file_dataset, file_dataset_dagster])
def test_all_is_sorted_and_is_what_is_there(package):
    assert package.__all__ == sorted(package.__all__)
    found = {name for name, value in vars(package).items() if not name.startswith("_") and not inspect.ismodule(value)}
    # what is heavy is loaded when it is first used
    heavy = {name for name in package.__all__ if getattr(package, name) is not None} - found
    assert heavy == set(getattr(package, "_HEAVY", ()))
    assert set(package.__all__) - heavy == found - {"annotations"}  # of `from __future__`


def test_dir_is_what_is_public():
    assert dir(file_dataset) == sorted([*file_dataset.__all__, "__version__", "parquet", "ray"])
    assert dir(file_dataset.parquet) == file_dataset.parquet.__all__ == sorted(file_dataset.parquet.__all__)
    assert dir(file_dataset.ray) == file_dataset.ray.__all__


@pytest.mark.parametrize("package", [file_dataset, file_dataset_dagster])
def test_every_public_name_has_help(package):
    undocumented = [
        f"{name}.{member}" if member else name
        for name in package.__all__
        for member, value in [("", getattr(package, name)), *vars(getattr(package, name)).items()]
        if (not member.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value) or not member))
        and not inspect.getdoc(value)
    ]
    assert undocumented == []


@pytest.mark.parametrize("package", [file_dataset, file_dataset_dagster])
def test_types_are_shipped(package):
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_the_version_is_that_of_the_distribution():
    assert file_dataset.__version__ == version("file-dataset")


def test_a_copy_that_is_not_installed_imports_and_has_no_version():
    code = (
        "import importlib.metadata as metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import file_dataset, file_dataset_dagster\n"
        "print(file_dataset.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "0+unknown\n"


def test_the_metadata_names_the_licence_and_the_extras():
    found = metadata("file-dataset")
    assert found["License-Expression"] == "Apache-2.0"
    assert set(found.get_all("Provides-Extra")) == {"ray", "dagster", "otel", "all"}


def test_a_local_round_loads_neither_boto3_nor_dagster_nor_ray(tmp_path):
    (tmp_path / "a.txt").write_text("hi")
    code = (
        "import sys, file_dataset, pathlib\n"
        f"row = {{'a.txt': {str(tmp_path / 'a.txt')!r}}}\n"
        "with file_dataset.reader(row).into_temp_dir() as temp:\n"
        f"    file_dataset.write_files({{'a.txt': temp / 'a.txt'}}, into_path={str(tmp_path / 'out')!r}, id=1)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
