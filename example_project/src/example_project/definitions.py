"""Where Dagster enters: everything found in `defs/`. Laid out by create-dagster."""

from pathlib import Path

from dagster import Definitions, definitions, load_from_defs_folder


@definitions
def defs() -> Definitions:
    """Load every definition of the modules in `defs/`."""
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
