"""A new project of `create-dagster`: what `dg` lists, scaffolds, checks and launches."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def scripts():
    """Where create-dagster and dg are."""
    return Path(sys.executable).parent


@pytest.fixture(scope="module")
def project(tmp_path_factory, entry_points, scripts):
    """A new project, whose package and entry points of ours are on the path, as if both were installed."""
    place = tmp_path_factory.mktemp("created")
    path = os.pathsep.join(
        [str(entry_points), str(place / "scans_project/src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    )
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
        "PYTHONPATH": path,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_DG_UPDATE_CHECK_ENABLED": "0",  # it asks PyPI
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "COLUMNS": "200",
    }

    def run(command, *arguments, cwd=place / "scans_project"):
        done = subprocess.run(
            [scripts / command, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command} {arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    run("create-dagster", "project", "scans_project", "--no-uv-sync", cwd=place)
    run.path = place / "scans_project"
    return run


def test_the_line_that_the_page_changes_is_the_one_that_is_written(project):
    """`requires-python` of a new project admits Python 3.10, which this library does not."""
    written = re.search(r"^requires-python = .*$", (project.path / "pyproject.toml").read_text(), re.MULTILINE)[0]
    assert f"`{written}`" in (ROOT / "docs/dagster.md").read_text()
    ours = re.search(r'^requires-python = ">=(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"`{written.replace('3.10', ours)}`" in (ROOT / "docs/dagster.md").read_text()


def test_dg_lists_scaffolds_checks_and_launches(project):
    listed = project("dg", "list", "components")
    for name in ("FileDatasetComponent", "FilesComponent", "PipelineComponent"):
        assert f"file_dataset_dagster.{name}" in listed
    shown = project("dg", "utils", "inspect-component", "file_dataset_dagster.PipelineComponent")
    assert "acceptable dropped rows per input row, 0.0 to 1.0" in shown

    defs = project.path / "src/scans_project/defs"
    project("dg", "scaffold", "defs", "file_dataset_dagster.FileDatasetComponent", "store")
    project("dg", "scaffold", "defs", "file_dataset_dagster.PipelineComponent", "gray")
    raw = project.path / "raw"
    for row_id in "12":
        (raw / row_id).mkdir(parents=True)
        (raw / row_id / "scan.txt").write_text("12345")
    pattern = f"{raw}/{{id}}/scan.txt"
    project("dg", "scaffold", "defs", "file_dataset_dagster.FilesComponent", "scans", "--pattern", pattern)
    project("dg", "check", "yaml")
    project("dg", "check", "defs")
    assert "1 passed" in project("python", "-m", "pytest", "-p", "no:cacheprovider")
    assert "gray:no_dropped_rows" in project("dg", "list", "defs")
    log = project("dg", "launch", "--assets", "*")
    assert "0 of 2 rows dropped" in log
    assert json.loads((project.path / "data/files/gray/2/sizes.json").read_text()) == {"scan.txt": 5}

    # a misspelt attribute is found before anything runs, and where it is written
    yaml = defs / "gray/defs.yaml"
    yaml.write_text(yaml.read_text().replace("input:", "inputs:"))
    with pytest.raises(AssertionError, match=r"(?s)defs\.yaml:5.*inputs"):
        project("dg", "check", "yaml")
