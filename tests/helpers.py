"""What tests of every room use: options for an endpoint, fn that forwards its inputs, and waiting for what comes."""

from __future__ import annotations

import collections
import os
import socket
import sqlite3
import sys
import time
import zlib
from pathlib import Path
from typing import TypedDict

from botocore.config import Config

import file_dataset


def options_for(url, *, config=None, **kwargs):
    """Options for an endpoint, with the keys of `$FILE_DATASET_TEST_KEYS` ("id:secret") or made-up ones."""
    access, _, secret = os.environ.get("FILE_DATASET_TEST_KEYS", "AKIDTEST:secrettest").partition(":")
    path_style = Config(s3={"addressing_style": "path"})
    return file_dataset.Options(
        {"aws_access_key_id": access, "aws_secret_access_key": secret, "region_name": "us-east-1"},
        {"endpoint_url": url, "config": path_style.merge(config) if config else path_style},
        **kwargs,
    )


def impatient_options(url, *, patience_s=20, **kwargs):
    """Three attempts, and not the minute of patience that botocore has."""
    retries = {"total_max_attempts": 3, "mode": "standard"}
    config = Config(read_timeout=patience_s, connect_timeout=patience_s, retries=retries)
    return options_for(url, config=config, **kwargs)


def forward(input_dir, output_dir):
    """Fn that returns its inputs under their names; a worker process imports it from here."""
    return {path.name: path for path in sorted(input_dir.iterdir())}


Upper = TypedDict("Upper", {"upper.txt": Path})


def upper(input_dir: Path, output_dir: Path) -> Upper:
    text = (input_dir / "a.txt").read_text()
    if text == "bad":
        raise ValueError("this text is bad")
    (output_dir / "upper.txt").write_text(text.upper())
    return {"upper.txt": output_dir / "upper.txt"}


def failure_of(result):
    """Return the one failure of a result, with None for null."""
    (failure,) = result.failures.astype(object).where(result.failures.notna(), None).itertuples()
    return failure


def free_port():
    """A port of loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(condition, seconds=40.0):
    """Wait until the condition holds; whether it ever does."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds


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


def python_calls(work):
    """Count the Python functions that this thread enters, generators that are resumed among them."""
    seen = collections.Counter()
    before = sys.getprofile()
    sys.setprofile(lambda _frame, event, _value: seen.update([event]))
    try:
        work()
    finally:
        sys.setprofile(before)
    return seen["call"]


def tree(directory):
    """Return what lies below a directory: the bytes of its files by name, None for a directory that is empty."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[name] = None
    return found
