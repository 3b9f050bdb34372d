"""Where Dagster enters the YAML twin: `dagster dev -m example_project.definitions_in_yaml`."""

from pathlib import Path

from dagster import Definitions, definitions, load_from_defs_folder


@definitions
def defs() -> Definitions:
    """Load every definition of `in_yaml/`."""
    return load_from_defs_folder(path_within_project=Path(__file__).parent / "in_yaml")
