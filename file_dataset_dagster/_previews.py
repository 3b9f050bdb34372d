"""Pictures of the first rows of a manifest, for Dagster to show."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, TypeAlias

import dagster as dg

import file_dataset

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

    Preview: TypeAlias = Callable[[Path], bytes]

ROWS = 3
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 1 << 20  # every picture is a row of Dagster's event log; a guess


def previews(
    result: file_dataset.PipelineResult,
    preview: Callable[[Path], bytes],
    options: file_dataset.Options,
    log: logging.Logger,
    *,
    show_ids: bool,
) -> dict[str, Any]:
    """`preview` as inline markdown: pictures of the first rows, at most three.

    Their outputs are downloaded once more: where they were made they are gone, and that may be another machine. A
    picture that cannot be made is reported in the log, and costs nothing else.

    Args:
        result: whose manifest has the outputs.
        preview: `preview(output_dir)` returns a PNG of at most 1 MiB.
        options: how the outputs' store is reached.
        log: where a failure is reported.
        show_ids: whether ids, and the messages of failures, may be shown.
    """
    outputs = list(result.manifest.columns[: result.manifest.columns.get_loc("id")])
    head = result.manifest[["id", *outputs]].head(ROWS)
    if not len(head) or not outputs:
        return {}
    try:
        with file_dataset.reader(head, file_columns=outputs, options=options).into_temp_dir() as directory:
            pictures = [(str(row_id), _png(preview, directory / str(row_id))) for row_id in head["id"].tolist()]
    except Exception as exc:  # noqa: BLE001 (the user's function, or the store: a picture is not worth the run)
        log.warning("no preview: %s%s", type(exc).__name__, f": {exc}" if show_ids else "")
        return {}
    lines = [
        f"`{row_id.replace('`', ' ') if show_ids else number}`\n\n![preview](data:image/png;base64,{picture})"
        for number, (row_id, picture) in enumerate(pictures, 1)
    ]
    return {"preview": dg.MetadataValue.md("\n\n".join(lines))}


def _png(preview: Callable[[Path], bytes], output_dir: Path) -> str:
    picture = preview(output_dir)
    if not isinstance(picture, bytes) or not picture.startswith(_PNG):
        raise file_dataset.InvalidDatasetError(
            "preview returned no PNG: return its bytes, such as Path('preview.png').read_bytes()"
        )
    if len(picture) > _LARGEST:
        raise file_dataset.InvalidDatasetError(
            f"preview returned {len(picture):,} bytes, and Dagster stores each with its event: return a smaller PNG, "
            f"of at most {_LARGEST:,} bytes"
        )
    return base64.b64encode(picture).decode()
