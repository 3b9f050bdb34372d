"""Print the lowest versions that pyproject.toml allows of what users install, as requirements for pip."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Turn every `name>=version` of the dependencies and extras into `name==version`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [needed for needs in project["optional-dependencies"].values() for needed in needs]
    for needed in [*project["dependencies"], *extras]:
        if match := re.fullmatch(r"([\w.\[\],-]+)>=([\d.]+)", needed):
            print(f"{match[1]}=={match[2]}")  # noqa: T201  # its output is its purpose


if __name__ == "__main__":
    main()
