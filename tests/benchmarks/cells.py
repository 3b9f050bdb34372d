"""Which cells there are, who runs in which, and how often."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from typing import TYPE_CHECKING

import peers
from endpoint import Workload
from measure import ONE, Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

S = Workload("S", 2000, 16 << 10)
M = Workload("M", 300, 1 << 20)
L = Workload("L", 4, 256 << 20)
L_HALF = Workload("L.half", 2, 256 << 20)  # 512 MiB, for tables
L_ONE = Workload("L.one", 1, 256 << 20)
L_ROWS = Workload("L.rows", 6, 256 << 20)
S_ROWS = Workload("S.rows", 400, 16 << 10)
SERIES = Workload("series", 300, 512 << 10)  # of each of 20 rows: 3 GiB in files
S_MANY = Workload("S.many", 20_000, 16 << 10)  # 10 s where 2,000 requests a second are allowed
L_QUICK = Workload("L", 4, 64 << 20)
L_ONE_QUICK = replace(L_ONE, size_bytes=64 << 20)
L_ROWS_QUICK = replace(L_ROWS, size_bytes=64 << 20)
S_ROWS_QUICK = replace(S_ROWS, count=200)
S_MANY_QUICK = replace(S_MANY, count=4000)

_BEST = (peers.Ours.name, peers.Awscrt.name, peers.Obstore.name)
_OTHERS = (
    peers.Boto3.name, peers.S3Transfer.name, peers.Awscrt.name, peers.Obstore.name, peers.S5cmd.name, peers.S3fs.name,
    peers.Pyarrow.name,
)  # fmt: skip
_A = (peers.Ours.name, peers.OursDigests.name, *_OTHERS, peers.Cp.name)
_B = (peers.Ours.name, peers.OursNoDigests.name, *_OTHERS)


_SWEEP = tuple(kind.name for kind in peers.MAX_CONCURRENCY_SWEEP)
_ROWS_SWEEP = tuple(kind.name for kind in peers.PREFETCH_SWEEP)
_C = (
    peers.Ours.name, peers.Boto3Loop.name, peers.Boto3Files.name, peers.Boto3.name, peers.Awscrt.name,
    peers.Obstore.name, peers.Obstore64.name, peers.S5cmd.name, peers.S3fs.name, peers.Pyarrow.name, peers.S3dlio.name,
    peers.Pycurl.name,
)  # fmt: skip
_REFUSED = (*_BEST, peers.S5cmd.name, peers.Boto3.name)
_C_ROWS = (peers.Ours.name, peers.Boto3Loop.name, peers.Boto3Files.name)
_NEW = (
    *_BEST, peers.Boto3Loop.name, peers.S5cmd.name, peers.S3fs.name, peers.Pyarrow.name, peers.S3dlio.name,
    peers.Cp.name,
)  # fmt: skip
_ON_HTTP = (*_BEST, peers.Boto3Loop.name, peers.S5cmd.name, peers.Pycurl.name, *_SWEEP, *_ROWS_SWEEP)
_QUICK = (
    *_BEST, peers.Boto3Loop.name, peers.MAX_CONCURRENCY_SWEEP[-1].name, peers.PREFETCH_SWEEP[1].name,
    peers.PREFETCH_SWEEP[-2].name,
)  # fmt: skip
_PATIENT_QUICK = (peers.Boto3Loop.name, peers.Awscrt.name)


def untuned(scheme: str, pairs: int) -> list[Cell]:
    """Return column C: stores like the real ones, every contender with its defaults; ours in sweeps beside."""
    cloud, late, refusing = (f"{store}-{scheme}" for store in ("cloud", "late", "refusing"))
    loop = (peers.Boto3Loop.name,)
    small = tuple(name for name in _C if name != peers.Boto3Loop.name) + _SWEEP  # a loop takes two minutes
    patient = (*loop, peers.Boto3Files.name, peers.Pyarrow.name, peers.S3dlio.name)  # small files: 5 to 40 s
    defaults = {"pairs": pairs, "in_flight": None}
    return [
        Cell("C", "download", L, cloud, _C, once=loop, **defaults),
        Cell("C", "upload", L, cloud, _C, once=loop, **defaults),
        Cell("C", "download", L_ONE, cloud, _C, once=loop, **defaults),
        Cell("C", "series", SERIES, cloud, (*_BEST[:2], peers.S5cmd.name), **defaults),
        Cell("C", "pipeline", L_ROWS, cloud, _C_ROWS + _ROWS_SWEEP[:4], **defaults),
        Cell("C", "pipeline", S_ROWS, late, _C_ROWS + _ROWS_SWEEP[2:], once=loop, **defaults),
        Cell("C", "download", S, late, small, once=patient, **defaults),
        Cell("C", "upload", S, late, small, once=patient, **defaults),
        Cell("C", "sizes", S, late, small, once=patient, **defaults),
        Cell("C", "download", S_MANY, refusing, _REFUSED, pairs=2, in_flight=None),
        Cell("C", "download", L, cloud, _BEST, cold=True, **defaults),
        Cell("C", "download", S, late, _BEST, cold=True, **defaults),
        Cell("C", "new", ONE, scheme, _NEW, pairs=7, in_flight=None),
    ]


def full() -> list[Cell]:
    """Return the cells of `make bench`: 40 minutes.

    What takes ten times as long as the rest of a cell has one run in it. L is not asked for with 30 ms to the first
    byte, where it would show nothing. Column C is whole over TLS; on http it is ours, its sweeps and the fastest peers.
    """
    engine, files = (peers.OursBoto3.name,), (peers.Boto3Files.name,)
    slow = (*engine, *files)
    tuned = [
        Cell("A", "download", S, "http", _A + engine + files, once=slow),
        Cell("A", "upload", S, "http", _A),
        Cell("A", "sizes", S, "http", _A),
        Cell("A", "blobs", S, "http", _A),
        Cell("A", "download", M, "http", _A + engine, once=slow),
        Cell("A", "upload", M, "http", _A + engine, once=slow),
        Cell("A", "blobs", M, "http", _A),
        Cell("A", "download", L, "http", _A + engine, peaks=4, once=slow),
        Cell("A", "upload", L, "http", _A + engine, peaks=4, once=slow),
        Cell("A", "blobs", L_HALF, "http", _A, peaks=4),
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
    tuned = [replace(cell, pairs=5) for cell in tuned]
    return tuned + chosen(untuned("http", 4), contenders=_ON_HTTP) + untuned("tls", 4)


def quick() -> list[Cell]:
    """Return the cells of `make bench-quick`: three minutes, with L of 64 MiB."""
    tuned = [
        Cell("A", "download", S, "http", _BEST),
        Cell("A", "upload", S, "http", _BEST),
        Cell("A", "sizes", S, "http", _BEST),
        *(Cell("B", "download", size, "tls", (*_BEST, peers.Pyarrow.name)) for size in (S, M, L_QUICK)),
    ]
    smaller = {L: L_QUICK, L_ONE: L_ONE_QUICK, L_ROWS: L_ROWS_QUICK, S_ROWS: S_ROWS_QUICK, S_MANY: S_MANY_QUICK}
    real = [
        replace(cell, workload=smaller.get(cell.workload, cell.workload), once=(*cell.once, *_PATIENT_QUICK))
        for cell in untuned("tls", 3)
        if not cell.cold
    ]
    return [replace(cell, pairs=5) for cell in tuned] + chosen(real, contenders=_QUICK)


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
