"""The data version of a manifest: equal for equal content, wherever it lies: Dagster leaves downstream fresh."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    import file_dataset


def version_of_result(result: file_dataset.PipelineResult) -> dg.DataVersion:
    """sha256 over id, file name and content of every output, sorted, and over the carried values.

    Content is the checksum that the store holds (a copied bucket keeps it), else its ETag. Outputs on local disk have
    neither: they are read, once, at some 1 GB/s.
    """
    outputs = result.manifest.columns[: result.manifest.columns.get_loc("id")]
    files = sorted(
        (str(row.id), str(row.file), _content(str(row.location), row.etag, row.checksum))
        for row in result.files.astype(object).itertuples(index=False)
    )
    return _version([*files, *sorted(rows_as_json(result.manifest.drop(columns=list(outputs))))])


def version_of_frames(frames: Mapping[str, pd.DataFrame]) -> dg.DataVersion:
    """sha256 over the values of frames, their rows sorted: of a frame of URLs the URLs, not what lies there.

    Some 10 us a row of four columns.
    """
    return _version([key, *sorted(rows_as_json(frame))] for key, frame in sorted(frames.items()))


def contents_of(files: pd.DataFrame) -> dict[str, str]:
    """By location, what identifies a stored file's content: checksum, ETag, or of a local file its size and time."""
    found: dict[str, str] = {}
    for location, etag, checksum in files[["location", "etag", "checksum"]].astype(object).to_numpy().tolist():
        known = [text for text in (checksum, etag) if isinstance(text, str)]
        if known:
            found[location] = known[0]
        elif not location.startswith("s3://") and (path := Path(location)).exists():
            stat = path.stat()
            found[location] = f"{stat.st_size} {stat.st_mtime_ns}"
    return found


def _content(location: str, etag: Any, checksum: Any) -> str:  # noqa: ANN401 (null, as pandas has it)
    for known in (checksum, etag):
        if isinstance(known, str):
            return known
    with Path(location).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows_as_json(frame: pd.DataFrame) -> list[str]:
    """Each row as JSON; null is null, whatever the dtype."""
    columns = [str(name) for name in frame.columns]
    values = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    return [json.dumps(dict(zip(columns, row, strict=True)), sort_keys=True, default=str) for row in values]


def _version(parts: Iterable[object]) -> dg.DataVersion:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode("utf-8", "surrogatepass") + b"\n")
    return dg.DataVersion(digest.hexdigest())
