"""What the YAML calls."""

from collections.abc import Callable

import dagster as dg

from example_project import environment


@dg.template_var
def storage() -> Callable[[str], dict[str, str]]:
    """Return what gives an asset's metadata: where its manifest lies."""
    return environment.storage


@dg.template_var
def raw() -> Callable[[str], str]:
    """Return what gives the pattern of files below `raw/`."""
    return environment.raw
