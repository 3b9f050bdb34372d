"""What a contender is: one way to move the bytes, and how it is set up."""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from endpoint import ACCESS_KEY, HEAD_BYTES, SECRET_KEY, Listener

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from endpoint import Workload

PIECE_BYTES = 1 << 20
SERIES_ROWS = 20  # rows that each have a directory of all objects
KEYS = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}


@dataclass(frozen=True, slots=True)
class Place:
    """How a contender is set up."""

    listener: Listener
    scratch: Path
    column: str
    in_flight: int | None  # None: its own default

    @property
    def is_bare(self) -> bool:
        """Tell whether checksums and payload signatures are to be off."""
        return self.column == "A"


class Contender:
    """One way to move the bytes. A method that is missing is in `cannot`, with the reason."""

    name: ClassVar[str]
    does: ClassVar[str]  # in one line, for the report
    cannot: ClassVar[dict[str, str]] = {}

    def __init__(self, place: Place) -> None:
        """Make the client."""
        self.place = place
        self.child_peak_bytes = 0

    def run_child(self, command: list[str | Path], text: str = "", env: dict[str, str] | None = None) -> None:
        """Run a command to its end, and keep the most memory it held, looked at every 10 ms.

        What the kernel counts for a child that ended includes the process that forked it.
        """
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env) as child:
            assert child.stdin is not None
            child.stdin.write(text.encode())
            child.stdin.close()
            while child.poll() is None:
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
                self.child_peak_bytes = max(self.child_peak_bytes, int(found[1]) << 10 if found else 0)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.01)
        if child.returncode:
            raise RuntimeError(f"{command[0]} ended with {child.returncode}")

    def download(self, workload: Workload, into: Path) -> object:
        """Put every object into a file below `into`. What is returned lives until the bytes are checked."""
        raise NotImplementedError

    def series(self, workload: Workload, into: Path) -> object:
        """Put all objects, which are to be found by their prefix, into a directory for each of `SERIES_ROWS`."""
        raise NotImplementedError

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        """Store every file of `source` under `s3://bench/<prefix>/`."""
        raise NotImplementedError

    def blobs(self, workload: Workload) -> pa.Table:
        """Return columns `id` and `a.bin`, which holds the bytes."""
        raise NotImplementedError

    def sizes(self, workload: Workload) -> pa.Table:
        """Return columns `id` and `a.bin`, which holds the sizes, by a HEAD per object."""
        raise NotImplementedError

    def pipeline(self, workload: Workload, prefix: str) -> None:
        """Run `head` on a local copy of every object, and store its output at `s3://bench/<prefix>/<name>/a.bin`."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop threads and children."""


def table(workload: Workload, values: Iterable[Any]) -> pa.Table:
    """Return the table that a user would make of a list; without the type pyarrow takes three times as long."""
    import pyarrow as pa

    found = list(values)
    kind = pa.int64() if isinstance(found[0], int) else pa.binary()
    return pa.table({"id": list(workload.files), "a.bin": pa.array(found, kind)})


def keys(workload: Workload) -> list[str]:
    """Return the objects' keys."""
    return [f"{workload.name}/{name}" for name in workload.files]


def head(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    """Return the first 16 KiB of the input: what fn does where the copies are what is measured."""
    with (input_dir / "a.bin").open("rb") as file:
        start = file.read(HEAD_BYTES)
    output = output_dir / "head.bin"
    output.write_bytes(start)
    return {"a.bin": output}
