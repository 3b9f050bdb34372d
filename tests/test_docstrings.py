"""Every public name has an example, which runs here on a loopback S3 and prints what it says."""

from __future__ import annotations

import doctest
import inspect
import pydoc
import sys
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

import file_dataset
import file_dataset.parquet
import file_dataset.ray
import file_dataset_dagster

PACKAGES = (file_dataset, file_dataset.parquet, file_dataset.ray, file_dataset_dagster)
PUBLIC = {f"{package.__name__}.{name}": getattr(package, name) for package in PACKAGES for name in package.__all__}
# whatever an example uses without an import; functions that it defines are those of a script
GIVEN = {
    "__name__": "__main__",
    "Path": Path,
    "dg": dg,
    "file_dataset": file_dataset,
    "pd": pd,
    **{name: getattr(package, name) for package in (file_dataset, file_dataset_dagster) for name in package.__all__},
}
# lines of a docstring, which `help()` shows first: a screen or two
DOCSTRING_LINES = dict.fromkeys(PUBLIC, 60) | {"file_dataset_dagster.pipeline_asset": 75}
# lines of `help()` that are ours; Python adds its own to every class, some more in later versions
HELP_LINES = {
    name: 170 if name.startswith("file_dataset_dagster") else 130 if inspect.isclass(value) else 60
    for name, value in PUBLIC.items()
} | {
    "file_dataset.Pipeline": 170,
    "file_dataset.PipelineResult": 190,
    "file_dataset.Reader": 180,
    "file_dataset_dagster.pipeline_asset": 90,
}


def examples(name):
    """Return the examples of a name and of its members, those that it inherits from others left out."""
    value = PUBLIC[name]
    found = doctest.DocTestFinder(exclude_empty=True).find(
        value, name, module=sys.modules[value.__module__], globs=dict(GIVEN)
    )
    return [test for test in found if test.examples]


def own_help(value):
    """Return the lines of `help()` but those of classes that Python, pydantic or Dagster wrote."""
    if "__slotnames__" in vars(value):
        del value.__slotnames__  # a cache, which pickle leaves on classes that another test has pickled
    lines = pydoc.plain(pydoc.render_doc(value)).splitlines()
    ends = [
        number
        for number, line in enumerate(lines)
        if " inherited from " in line and not line.removesuffix(":").split(" inherited from ")[1].startswith("File")
    ]
    return lines[: ends[0]] if ends else lines


@pytest.fixture
def scan(default_options, options, tmp_path, monkeypatch):
    """`s3://my-bucket/scan.txt` says hello; examples run in an empty directory."""
    client = options.s3_client
    client.create_bucket(Bucket="my-bucket")
    client.put_object(Bucket="my-bucket", Key="scan.txt", Body=b"hello")
    monkeypatch.chdir(tmp_path)
    yield
    for item in client.list_objects_v2(Bucket="my-bucket").get("Contents", []):
        client.delete_object(Bucket="my-bucket", Key=item["Key"])
    client.delete_bucket(Bucket="my-bucket")


def run(name):
    results = [doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test) for test in examples(name)]
    assert results
    assert sum(result.failed for result in results) == 0


@pytest.mark.usefixtures("scan")
@pytest.mark.xdist_group("my-bucket")
@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.startswith("file_dataset.ray.")])
def test_the_example_runs(name):
    run(name)


@pytest.mark.usefixtures("local_ray", "scan")
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("name", [name for name in PUBLIC if name.startswith("file_dataset.ray.")])
def test_the_example_for_ray_runs(name):
    run(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_begins_with_what_it_is_and_an_example(name):
    lines = inspect.getdoc(PUBLIC[name]).splitlines()
    assert "Example:" in lines
    # Dagster shows a component's help as Markdown: its example is YAML, which tests/dagster/test_components.py loads
    is_component = inspect.isclass(PUBLIC[name]) and issubclass(PUBLIC[name], dg.Component)
    assert lines[lines.index("Example:") + 1].startswith("```yaml" if is_component else "    >>> ")
    assert len(lines) <= DOCSTRING_LINES[name]


@pytest.mark.parametrize("name", PUBLIC)
def test_help_is_short(name):
    """What a class inherits comes last, and no class can leave it out (pydoc asks its metaclass what there is)."""
    lines = own_help(PUBLIC[name])
    assert len(lines) <= HELP_LINES[name]
    assert "__match_args__" not in "\n".join(lines)
