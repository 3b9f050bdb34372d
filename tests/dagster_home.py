"""Reads everything that Dagster has stored, to look for what must not be there."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path


def stored_text(home: Path) -> str:
    """Everything below a DAGSTER_HOME, snapshots inflated."""
    texts = []
    for path in filter(Path.is_file, home.rglob("*")):
        texts.append(path.read_bytes())
        if path.suffix != ".db":
            continue
        with sqlite3.connect(path) as database:
            for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                rows = database.execute(f'select * from "{table}"')  # noqa: S608 (a name out of the schema)
                for row in rows:
                    for cell in row:
                        blob = str(cell).encode() if not isinstance(cell, bytes) else cell
                        texts.append(zlib.decompress(blob) if blob.startswith(b"x\x9c") else blob)
    return b"\n".join(texts).decode(errors="replace")
