"""What `make lint` says of a class or a module that is too long to be one idea."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CLASS_LINES = 300
MODULE_LINES = 600


def too_long(path: Path) -> Iterator[str]:
    """Yield a line for the module, and for each class in it, that is longer than allowed."""
    source = path.read_text()
    if (count := source.count("\n")) > MODULE_LINES:
        yield f"{path}:1: the module has {count} lines, {MODULE_LINES} are allowed: carve it by idea"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > CLASS_LINES:
                yield f"{path}:{node.lineno}: class {node.name} has {count} lines, {CLASS_LINES} are allowed"


def main(folders: list[str]) -> None:
    """Print what is too long below the folders, and end with an error if anything is."""
    found = [line for folder in folders for path in sorted(Path(folder).rglob("*.py")) for line in too_long(path)]
    print("\n".join(found) or "no class is too long, and no module")  # noqa: T201  # its output is its purpose
    sys.exit(bool(found))


if __name__ == "__main__":
    main(sys.argv[1:])
