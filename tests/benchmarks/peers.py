"""The contenders by name.

Each gets the endpoint, the keys, a region, path-style addresses and the CA. Column A: checksums and payload signatures
off where that can be set, and `in_flight` requests at a time (64; 128 where the first byte takes 30 ms). Column B:
checksums and signatures as each has them, and `in_flight` requests. Column C: its own defaults, nothing set. Imports
are inside: a process holds one contender.
"""

from __future__ import annotations

from contender import Contender, Place
from peer_awscrt import Awscrt
from peer_boto3 import Boto3, Boto3Files, Boto3Loop, S3Transfer
from peer_others import Cp, Obstore, Obstore64, Pyarrow, S3fs, S5cmd
from peer_ours import Ours, OursBase, OursBoto3, OursDigests, OursNoDigests, with_max_concurrency, with_prefetch
from peer_pycurl import Pycurl
from peer_s3dlio import S3dlio

__all__ = [
    "CONTENDERS", "MAX_CONCURRENCY_SWEEP", "PREFETCH_SWEEP", "Awscrt", "Boto3", "Boto3Files", "Boto3Loop", "Contender",
    "Cp", "Obstore", "Obstore64", "Ours", "OursBase", "OursBoto3", "OursDigests", "OursNoDigests", "Place", "Pyarrow",
    "Pycurl", "S3Transfer", "S3dlio", "S3fs", "S5cmd",
]  # fmt: skip

MAX_CONCURRENCY_SWEEP = tuple(map(with_max_concurrency, (64, 128, 256, 512)))
PREFETCH_SWEEP = tuple(map(with_prefetch, (0, 1, 2, 8, 32, 64, 128)))

CONTENDERS: dict[str, type[Contender]] = {
    kind.name: kind
    for kind in (
        Ours, OursBase, *MAX_CONCURRENCY_SWEEP, *PREFETCH_SWEEP, OursDigests, OursNoDigests, OursBoto3, Boto3Loop,
        Boto3, Boto3Files, S3Transfer, Awscrt, Obstore, Obstore64, S5cmd, S3fs, Pyarrow, S3dlio, Pycurl, Cp,
    )
}  # fmt: skip
