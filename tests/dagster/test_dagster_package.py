"""What `import file_dataset_dagster` offers, and what it says when it cannot."""

import importlib
import sys

import pytest

import file_dataset
import file_dataset_dagster


def test_every_public_name_is_there_and_sorted():
    names = file_dataset_dagster.__all__
    assert names == sorted(names)
    assert all(hasattr(file_dataset_dagster, name) for name in names)


def test_dir_shows_public_names_only():
    assert dir(file_dataset_dagster) == file_dataset_dagster.__all__


@pytest.mark.parametrize("package", ["dagster", "dagster_aws"])
def test_a_missing_extra_is_named_with_the_remedy(monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == "file_dataset_dagster"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    dagster_package = importlib.import_module("file_dataset_dagster")
    for name in file_dataset_dagster.__all__:
        with pytest.raises(file_dataset.MissingExtraError, match=rf"{package} is not .*'file-dataset\[dagster\]'"):
            getattr(dagster_package, name)
    # Dagster asks each installed package for its components, and would not load a project where one raises
    assert dir(dagster_package) == []
