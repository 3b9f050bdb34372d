"""Ray Data: blobs of a frame as a Dataset, and a Pipeline over a cluster. Needs the extra `ray`."""

from __future__ import annotations

from file_dataset._ray.blobs import blob_reader
from file_dataset._ray.run import run_pipeline

__all__ = ["blob_reader", "run_pipeline"]


def __dir__() -> list[str]:
    return __all__
