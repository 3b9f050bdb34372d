"""Which cells there are, who runs in which, and how often."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from typing import TYPE_CHECKING

import peers
from endpoint import Workload
from measure import Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

S = Workload("S", 2000, 16 << 10)
M = Workload("M", 300, 1 << 20)
L = Workload("L", 4, 256 << 20)
L_HALF = Workload("L.half", 2, 256 << 20)  # 512 MiB, for tables
L_QUICK = Workload("L", 2, 64 << 20)

_BEST = (peers.Ours.name, peers.Awscrt.name, peers.Obstore.name)
_OTHERS = (
    peers.Boto3.name, peers.S3Transfer.name, peers.Awscrt.name, peers.Obstore.name, peers.S5cmd.name, peers.S3fs.name,
    peers.Pyarrow.name,
)  # fmt: skip
_A = (peers.Ours.name, peers.OursDigests.name, *_OTHERS, peers.Cp.name)
_B = (peers.Ours.name, peers.OursNoDigests.name, *_OTHERS)
_LATE = 128  # in flight where the first byte takes 30 ms


def full() -> list[Cell]:
    """Return the cells of `make bench`: half an hour.

    boto3's download_file takes 15 s for S: it has its runs in one cell, and so has the engine that goes through boto3
    for S. L is not asked for with 30 ms to the first byte, where it would show nothing.
    """
    engine, files = (peers.OursBoto3.name,), (peers.Boto3Files.name,)
    return [
        Cell("A", "download", S, "http", _A + engine + files),
        Cell("A", "upload", S, "http", _A),
        Cell("A", "sizes", S, "http", _A),
        Cell("A", "blobs", S, "http", _A),
        Cell("A", "download", M, "http", _A + engine),
        Cell("A", "upload", M, "http", _A + engine),
        Cell("A", "blobs", M, "http", _A),
        Cell("A", "download", L, "http", _A + engine, peaks=4),
        Cell("A", "upload", L, "http", _A + engine, peaks=4),
        Cell("A", "blobs", L_HALF, "http", _A, peaks=4),
        *(Cell("A", does, size, "tls", _BEST) for size in (S, M, L) for does in ("download", "upload")),
        Cell("A", "download", S, "30ms", (*_BEST, peers.Boto3.name, peers.S5cmd.name), in_flight=_LATE),
        Cell("A", "sizes", S, "30ms", _BEST, in_flight=_LATE),
        Cell("A", "download", M, "30ms", _BEST, in_flight=_LATE),
        *(Cell("A", does, size, "http", _BEST, pinned=True) for size in (S, M, L) for does in ("download", "upload")),
        Cell("B", "download", S, "tls", _B),
        Cell("B", "upload", S, "tls", _B),
        Cell("B", "sizes", S, "tls", _B),
        Cell("B", "download", M, "tls", _B),
        Cell("B", "upload", M, "tls", _B),
        Cell("B", "blobs", M, "tls", _B),
        Cell("B", "download", L, "tls", _B),
        Cell("B", "upload", L, "tls", _B),
    ]


def quick() -> list[Cell]:
    """Return the cells of `make bench-quick`."""
    boto3 = (peers.Boto3.name,)
    cells = [
        Cell("A", "download", S, "http", _BEST + boto3),
        Cell("A", "upload", S, "http", _BEST),
        Cell("A", "sizes", S, "http", _BEST),
        *(Cell("A", does, size, "http", _BEST) for size in (M, L_QUICK) for does in ("download", "upload")),
        Cell("A", "download", S, "30ms", _BEST, in_flight=_LATE),
        Cell("B", "download", S, "tls", (*_BEST, peers.OursNoDigests.name, *boto3)),
        *(Cell("B", "download", size, "tls", (*_BEST, peers.OursNoDigests.name)) for size in (M, L_QUICK)),
    ]
    return [replace(cell, pairs=5) for cell in cells]


def chosen(
    cells: Sequence[Cell], *, only: Sequence[str] = (), contenders: Sequence[str] = (), pairs: int | None = None
) -> list[Cell]:
    """Return the cells with these names, with or without the column and with `*` for anything."""
    found = []
    for cell in cells:
        names = (cell.name, cell.name.partition("-")[2])
        if only and not any(fnmatch.fnmatch(name, pattern) for name in names for pattern in only):
            continue
        if contenders:
            who = tuple(n for n in peers.CONTENDERS if any(fnmatch.fnmatch(n, pattern) for pattern in contenders))
            cell = replace(cell, contenders=who)  # noqa: PLW2901  # the same cell, narrowed
        found.append(cell if pairs is None else replace(cell, pairs=pairs, peaks=min(cell.peaks, pairs)))
    return found
