"""The command line `file-dataset`: a command is a few lines over the library's public names.

Nothing heavy is imported before a command needs it: `--help`, `--version` and shell completion load click alone.
"""

from file_dataset.cli._commands import main

__all__ = ["main"]
