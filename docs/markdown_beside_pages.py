"""For `make docs`: the Markdown of each page lies beside it, where the links of `llms.txt` lead."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def on_post_build(config: Mapping[str, Any]) -> None:
    """Copy the pages as they were written into the site; mkdocs calls this when the site stands."""
    for page in Path(config["docs_dir"]).glob("*.md"):
        shutil.copy(page, config["site_dir"])
