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
L_ONE = Workload("L.one", 1, 256 << 20)
L_ROWS = Workload("L.rows", 6, 256 << 20)
S_ROWS = Workload("S.rows", 400, 16 << 10)
S_MANY = Workload("S.many", 20_000, 16 << 10)  # 10 s where 2,000 requests a second are allowed
L_QUICK = Workload("L", 2, 64 << 20)

_BEST = (peers.Ours.name, peers.Awscrt.name, peers.Obstore.name)
_OTHERS = (
    peers.Boto3.name, peers.S3Transfer.name, peers.Awscrt.name, peers.Obstore.name, peers.S5cmd.name, peers.S3fs.name,
    peers.Pyarrow.name,
)  # fmt: skip
_A = (peers.Ours.name, peers.OursDigests.name, *_OTHERS, peers.Cp.name)
_B = (peers.Ours.name, peers.OursNoDigests.name, *_OTHERS)
_LATE = 128  # in flight where the first byte takes 30 ms


_SWEEP = tuple(kind.name for kind in peers.MAX_CONCURRENCY_SWEEP)
_ROWS_SWEEP = tuple(kind.name for kind in peers.PREFETCH_SWEEP)
_C = (
    peers.Ours.name, peers.Boto3Loop.name, peers.Boto3Files.name, peers.Boto3.name, peers.Awscrt.name,
    peers.Obstore.name, peers.Obstore64.name, peers.S5cmd.name, peers.S3fs.name, peers.Pyarrow.name,
)  # fmt: skip
_C_ROWS = (peers.Ours.name, peers.Boto3Loop.name, peers.Boto3Files.name)


def untuned(scheme: str, pairs: int = 5) -> list[Cell]:
    """Return column C: stores like the real ones, everybody with defaults; ours in sweeps beside."""
    cloud, late, refusing = (f"{store}-{scheme}" for store in ("cloud", "late", "refusing"))
    loop = (peers.Boto3Loop.name,)
    small = tuple(name for name in _C if name != peers.Boto3Loop.name) + _SWEEP  # a loop takes two minutes
    told = {"pairs": pairs, "in_flight": None}
    return [
        Cell("C", "download", L, cloud, _C, once=loop, **told),
        Cell("C", "upload", L, cloud, _C, once=loop, **told),
        Cell("C", "download", L_ONE, cloud, _C, once=loop, **told),
        Cell("C", "pipeline", L_ROWS, cloud, _C_ROWS + _ROWS_SWEEP[:4], once=loop, **told),
        Cell("C", "pipeline", S_ROWS, late, _C_ROWS + _ROWS_SWEEP[2:], once=loop, **told),
        Cell("C", "download", S, late, small, **told),
        Cell("C", "upload", S, late, small, **told),
        Cell("C", "sizes", S, late, small, **told),
        Cell("C", "download", S_MANY, refusing, (*_BEST, peers.S5cmd.name, peers.Boto3.name), pairs=2, in_flight=None),
        Cell("C", "download", L, cloud, _BEST, cold=True, **told),
        Cell("C", "download", S, late, _BEST, cold=True, **told),
    ]


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
        Cell("A", "download", S, "late-http", (*_BEST, peers.Boto3.name, peers.S5cmd.name), in_flight=_LATE),
        Cell("A", "sizes", S, "late-http", _BEST, in_flight=_LATE),
        Cell("A", "download", M, "late-http", _BEST, in_flight=_LATE),
        *(Cell("A", does, size, "http", _BEST, pinned=True) for size in (S, M, L) for does in ("download", "upload")),
        Cell("B", "download", S, "tls", _B),
        Cell("B", "upload", S, "tls", _B),
        Cell("B", "sizes", S, "tls", _B),
        Cell("B", "download", M, "tls", _B),
        Cell("B", "upload", M, "tls", _B),
        Cell("B", "blobs", M, "tls", _B),
        Cell("B", "download", L, "tls", _B),
        Cell("B", "upload", L, "tls", _B),
        *untuned("http", pairs=3),
        *untuned("tls"),
    ]


def quick() -> list[Cell]:
    """Return the cells of `make bench-quick`."""
    boto3 = (peers.Boto3.name,)
    cells = [
        Cell("A", "download", S, "http", _BEST + boto3),
        Cell("A", "upload", S, "http", _BEST),
        Cell("A", "sizes", S, "http", _BEST),
        *(Cell("A", does, size, "http", _BEST) for size in (M, L_QUICK) for does in ("download", "upload")),
        Cell("A", "download", S, "late-http", _BEST, in_flight=_LATE),
        Cell("B", "download", S, "tls", (*_BEST, peers.OursNoDigests.name, *boto3)),
        *(Cell("B", "download", size, "tls", (*_BEST, peers.OursNoDigests.name)) for size in (M, L_QUICK)),
    ]
    return [replace(cell, pairs=5) for cell in cells]


def chosen(
    cells: Sequence[Cell],
    *,
    only: Sequence[str] = (),
    contenders: Sequence[str] = (),
    pairs: int | None = None,
    has_base: bool = False,
) -> list[Cell]:
    """Return the cells with these names, with or without the column and with `*` for anything.

    Contenders are those of the cell that match, and any that is named in full behind a plus sign.
    """
    found = []
    for cell in cells:
        names = (cell.name, cell.name.partition("-")[2])
        if only and not any(fnmatch.fnmatch(name, pattern) for name in names for pattern in only):
            continue
        if contenders:
            there = [name for name in cell.contenders if any(fnmatch.fnmatch(name, pattern) for pattern in contenders)]
            there += [name[1:] for name in contenders if name.startswith("+")]
            cell = replace(cell, contenders=tuple(dict.fromkeys(there)))  # noqa: PLW2901  # the same cell, narrowed
        if has_base and peers.Ours.name in cell.contenders:
            cell = replace(cell, contenders=(peers.OursBase.name, *cell.contenders))  # noqa: PLW2901
        found.append(cell if pairs is None else replace(cell, pairs=pairs, peaks=min(cell.peaks, pairs)))
    return found
