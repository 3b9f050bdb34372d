"""The notebook runs from top to bottom, as in Jupyter, and shows what its text says."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOTEBOOK = Path(__file__).parents[1] / "notebooks/first_hour.ipynb"


def shown(cell: Any) -> str:
    """Return what a cell shows, as text and as HTML."""
    data = [output.get("data", {}) for output in cell.outputs]
    texts = [output.get("text", "") for output in cell.outputs]
    return "\n".join([*texts, *(each.get(kind, "") for each in data for kind in ("text/plain", "text/html"))])


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each cell shows, by its first words."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    directory = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_EC2_METADATA_DISABLED"]:
            patch.delenv(name)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(directory)}}).execute()
    if kept := os.environ.get("FILE_DATASET_NOTEBOOK"):
        nbformat.write(notebook, kept)
    yield {cell.source: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert not list(directory.iterdir())  # what it made is gone


def of(cells: dict[str, str], words: str) -> str:
    (found,) = (text for source, text in cells.items() if words in source)
    return found


def test_the_repository_has_no_outputs_of_it() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)


def test_scans_are_listed_and_one_is_shown(cells: dict[str, str]) -> None:
    assert "s3://scans/raw/case-12/image.mha" in of(cells, "list_files(")
    assert "<NA>" in of(cells, "table.merge(")
    assert "Image object" in of(cells, "slices_png(")


def test_the_run_shows_a_bar_and_three_failures(cells: dict[str, str]) -> None:
    ran = of(cells, "result = pipeline.run(scans")
    assert "0/12" in ran  # the bar as text; a browser shows a widget
    assert "<b>PipelineResult</b>: 3 of 12 rows dropped (25.0%)" in ran
    why = of(cells, "result.failures[")
    assert [word for word in why.split() if word.startswith("case-")][:3] == ["case-03", "case-07", "case-10"]


def test_the_mended_scan_joins_the_others(cells: dict[str, str]) -> None:
    assert "2 of 12 rows dropped (16.7%)" in of(cells, "result.merge(")
    assert of(cells, "result.manifest[[").count("s3://scans/resampled/case-03/image.mha") == 2  # as text and as HTML


def test_the_volume_of_the_brain_changes_little(cells: dict[str, str]) -> None:
    table = of(cells, "change_percent").splitlines()
    changes = [float(line.split()[-1]) for line in table if line.startswith("case-")]
    assert len(changes) == 10
    assert all(-2 < change < 2 for change in changes)


def test_all_files_are_as_they_were_stored(cells: dict[str, str]) -> None:
    assert "Empty DataFrame" in of(cells, "file_dataset.verify(")
