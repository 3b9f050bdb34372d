"""Explicit, eager reads and writes between frames of S3 URLs, local files and Python functions.

`reader(...)` copies a row's files into a temp dir or into memory, `write_files(...)` stores files under an id, and
`Pipeline(fn)` does both for every row of a frame. Loaded when they are first used: `file_dataset.ray` for Ray Data, and
`file_dataset.parquet`, frames as Parquet files that lose nothing.
"""

import importlib as _importlib
import typing as _typing

from file_dataset._errors import FileDatasetError, InvalidDatasetError, MissingExtraError, RowError
from file_dataset._options import Options
from file_dataset._pipeline import Pipeline, WriteOptions
from file_dataset._progress import Progress
from file_dataset._reader import Reader, reader
from file_dataset._result import PipelineResult, RunStoppedError
from file_dataset._tempdir import TempDir
from file_dataset._writer import write_files

if _typing.TYPE_CHECKING:
    from file_dataset import parquet as parquet
    from file_dataset import ray as ray
    from file_dataset._checkpoint.inputs import changed_rows as changed_rows
    from file_dataset._checkpoint.place import remove_checkpoint as remove_checkpoint
    from file_dataset._forecast import Plan as Plan
    from file_dataset._found_files import FoundFiles as FoundFiles
    from file_dataset._listing import find_files as find_files
    from file_dataset._listing import list_files as list_files
    from file_dataset._verify import verify as verify

    __version__: str

__all__ = [
    "FileDatasetError",
    "FoundFiles",
    "InvalidDatasetError",
    "MissingExtraError",
    "Options",
    "Pipeline",
    "PipelineResult",
    "Plan",
    "Progress",
    "Reader",
    "RowError",
    "RunStoppedError",
    "TempDir",
    "WriteOptions",
    "changed_rows",
    "find_files",
    "list_files",
    "reader",
    "remove_checkpoint",
    "verify",
    "write_files",
]


# these bring pandas and pyarrow along, or are not used by most
_HEAVY = {
    "FoundFiles": "_found_files",
    "Plan": "_forecast",
    "changed_rows": "_checkpoint.inputs",
    "find_files": "_listing",
    "list_files": "_listing",
    "remove_checkpoint": "_checkpoint.place",
    "verify": "_verify",
}


def __getattr__(name: str) -> object:
    if name == "__version__":  # a frozen program and a clone have no metadata of an installation
        metadata = _importlib.import_module("importlib.metadata")
        try:
            return metadata.version("file-dataset")
        except metadata.PackageNotFoundError:
            return "0+unknown"
    if name in _HEAVY:
        return getattr(_importlib.import_module(f"file_dataset.{_HEAVY[name]}"), name)
    if name in {"parquet", "ray"}:  # pandas and Ray take seconds to load, and Ray need not be there
        return _importlib.import_module(f"file_dataset.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "parquet", "ray"])
