"""A digest in a Parquet file, over all of its other bytes. Pure.

It lies in a gap before the footer, where no reader looks: the file stays plain Parquet.
"""

from __future__ import annotations

import hashlib
from typing import Any

_GAP = b"file_dataset.sha256:"
_DIGEST_BYTES = hashlib.sha256().digest_size
_FOOTER_END = 8  # its length in 4 bytes, and "PAR1" (https://parquet.apache.org/docs/file-format/)


def sealed(content: Any) -> bytes:  # noqa: ANN401  # a buffer
    """Return the file with its digest."""
    view = memoryview(content).cast("B")
    footer = _footer_start(view)
    return b"".join([view[:footer], _GAP, hashlib.sha256(view).digest(), view[footer:]])


def is_whole(content: Any) -> bool | None:  # noqa: ANN401  # a buffer
    """Return whether the digest is that of the other bytes; None where there is none."""
    view = memoryview(content).cast("B")
    footer = _footer_start(view)
    gap = footer - len(_GAP) - _DIGEST_BYTES
    if gap < 0 or view[gap : gap + len(_GAP)] != _GAP:
        return None
    digest = hashlib.sha256(view[:gap])
    digest.update(view[footer:])
    return digest.digest() == view[footer - _DIGEST_BYTES : footer]


def _footer_start(content: memoryview) -> int:
    size = int.from_bytes(content[-_FOOTER_END:-4], "little")
    return max(len(content) - _FOOTER_END - size, 0)
