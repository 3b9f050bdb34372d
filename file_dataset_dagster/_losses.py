"""What pipeline assets upstream dropped of the rows that an asset reads, as their materializations have it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# metadata of a materialization: numbers, which Dagster plots, and for the next asset of the chain each of them
_ROWS, _DROPPED, _UPSTREAM, _BY_ASSET = "input_rows", "dropped_rows", "dropped_upstream", "dropped_upstream_by_asset"
_UNKNOWN = "dropped_upstream_not_known"  # of which assets


@dataclass(frozen=True, slots=True)
class Losses:
    """Rows that were dropped before they reached an asset; no row of its input, so its check does not count them.

    Attributes:
        by_asset: of each pipeline asset upstream, the first of the chain first: dropped rows, and rows of its input.
        unknown: pipeline assets upstream of which it is not known what they dropped of these rows.
    """

    by_asset: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    @property
    def dropped(self) -> int:
        """Dropped rows of all of them."""
        return sum(dropped for dropped, _ in self.by_asset.values())

    def __str__(self) -> str:
        """Return "; 1 of 4 dropped upstream in gray, 2 of 3 in small", or nothing where none was dropped."""
        lost = [f"{dropped} of {rows}{{}} in {asset}" for asset, (dropped, rows) in self.by_asset.items() if dropped]
        names = ", ".join(sorted(self.unknown))
        if not lost:
            return f"; what {names} dropped upstream is not known" if names else ""
        first, *others = lost
        more = "".join(f", {one.format('')}" for one in others)
        least, rest = ("at least ", f"; what {names} dropped is not known") if names else ("", "")
        return f"; {least}{first.format(' dropped upstream')}{more}{rest}"

    def metadata(self) -> dict[str, Any]:
        """Return it as metadata of a materialization, for Dagster to plot and for the next asset to read."""
        counts = {asset: list(count) for asset, count in self.by_asset.items()}
        unknown = {_UNKNOWN: dg.MetadataValue.json(sorted(self.unknown))} if self.unknown else {}
        return {_UPSTREAM: self.dropped, _BY_ASSET: dg.MetadataValue.json(counts), **unknown}


def losses_of(asset: str, events: Iterable[dg.AssetMaterialization]) -> Losses | None:
    """Return what was dropped before a manifest came to be, of one partition or of several; None: no pipeline's.

    Args:
        asset: what is read.
        events: the last materialization of each of its partitions that are read.
    """
    by_asset: dict[str, tuple[int, int]] = {}
    own: tuple[int, int] | None = None
    unknown: set[str] = set()
    for event in events:
        numbers = [_value(event.metadata, name) for name in (_DROPPED, _ROWS)]
        if not _is_pair(numbers):
            continue
        earlier = _value(event.metadata, _BY_ASSET)
        for name, counts in (earlier if isinstance(earlier, dict) else {}).items():
            if _is_pair(counts):
                by_asset[name] = _sum(by_asset.get(name), counts)
        others = _value(event.metadata, _UNKNOWN)
        unknown |= {name for name in (others if isinstance(others, list) else []) if isinstance(name, str)}
        own = _sum(own, numbers)
    return None if own is None else Losses({**by_asset, asset: own}, frozenset(unknown))


def joined_losses(of_each: Iterable[Losses]) -> Losses | None:
    """Return what was dropped on several ways to the same rows; None: there is no way. An asset on two counts once."""
    ways = list(of_each)
    by_asset: dict[str, tuple[int, int]] = {}
    for way in ways:
        for name, counts in way.by_asset.items():
            by_asset[name] = max(by_asset.get(name, counts), counts)
    return Losses(by_asset, frozenset().union(*(way.unknown for way in ways))) if ways else None


def _value(metadata: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (whatever a materialization has)
    return metadata[name].value if name in metadata else None


def _is_pair(counts: object) -> bool:
    """Whether it is what this module writes: metadata of these names can be of an asset that is no pipeline's."""
    return isinstance(counts, list) and [type(count) for count in counts] == [int, int]


def _sum(one: tuple[int, int] | None, other: Any) -> tuple[int, int]:  # noqa: ANN401 (a pair, as JSON has it)
    dropped, rows = other
    return (dropped, rows) if one is None else (one[0] + dropped, one[1] + rows)
