"""What pipeline assets upstream dropped of the rows that an asset reads, as their materializations have it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# metadata of a materialization: numbers, which Dagster plots, and for the next asset of the chain each of them
_ROWS, _DROPPED, _UPSTREAM, _BY_ASSET = "input_rows", "dropped_rows", "dropped_upstream", "dropped_upstream_by_asset"


@dataclass(frozen=True, slots=True)
class Losses:
    """Rows that were dropped before they reached an asset; no row of its input, so its check does not count them.

    Attributes:
        by_asset: of each pipeline asset upstream, the first of the chain first: dropped rows, and rows of its input.
    """

    by_asset: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Dropped rows of all of them."""
        return sum(dropped for dropped, _ in self.by_asset.values())

    def __str__(self) -> str:
        """Return "; 1 of 4 dropped upstream in gray, 2 of 3 in small", or nothing where none was dropped."""
        lost = [(asset, counts) for asset, counts in self.by_asset.items() if counts[0]]
        if not lost:
            return ""
        (first, (dropped, rows)), *others = lost
        more = "".join(f", {dropped} of {rows} in {asset}" for asset, (dropped, rows) in others)
        return f"; {dropped} of {rows} dropped upstream in {first}{more}"

    def metadata(self) -> dict[str, Any]:
        """Return it as metadata of a materialization, for Dagster to plot and for the next asset to read."""
        counts = {asset: list(count) for asset, count in self.by_asset.items()}
        return {_UPSTREAM: self.dropped, _BY_ASSET: dg.MetadataValue.json(counts)}


def losses_of(asset: str, events: Iterable[dg.AssetMaterialization]) -> Losses | None:
    """Return what was dropped before a manifest came to be, of one partition or of several; None: no pipeline's.

    Args:
        asset: what is read.
        events: the last materialization of each of its partitions that are read.
    """
    by_asset: dict[str, tuple[int, int]] = {}
    own: tuple[int, int] | None = None
    for event in events:
        numbers = [_value(event.metadata, name) for name in (_DROPPED, _ROWS)]
        if not _is_pair(numbers):
            continue
        earlier = _value(event.metadata, _BY_ASSET)
        for name, counts in (earlier if isinstance(earlier, dict) else {}).items():
            if _is_pair(counts):
                by_asset[name] = _sum(by_asset.get(name), counts)
        own = _sum(own, numbers)
    return None if own is None else Losses({**by_asset, asset: own})


def _value(metadata: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (whatever a materialization has)
    return metadata[name].value if name in metadata else None


def _is_pair(counts: object) -> bool:
    """Whether it is what this module writes: metadata of these names can be of an asset that is no pipeline's."""
    return isinstance(counts, list) and [type(count) for count in counts] == [int, int]


def _sum(one: tuple[int, int] | None, other: Any) -> tuple[int, int]:  # noqa: ANN401 (a pair, as JSON has it)
    dropped, rows = other
    return (dropped, rows) if one is None else (one[0] + dropped, one[1] + rows)
