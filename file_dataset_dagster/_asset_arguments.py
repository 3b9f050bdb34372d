"""The arguments of `dg.asset`, for editors and type checkers."""

# no `from __future__ import annotations` here: tests compare them with those of `dg.asset`

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypedDict

import dagster as dg


class AssetArguments(TypedDict, total=False):
    """The arguments of `dg.asset` that are passed on; its name is each function's own."""

    key: dg.AssetKey | str | Sequence[str] | None
    key_prefix: str | Sequence[str] | None
    deps: Iterable[Any] | None
    metadata: Mapping[str, Any] | None
    tags: Mapping[str, str] | None
    description: str | None
    required_resource_keys: AbstractSet[str] | None
    resource_defs: Mapping[str, object] | None
    hooks: AbstractSet[dg.HookDefinition] | None
    io_manager_def: object
    io_manager_key: str | None
    partitions_def: dg.PartitionsDefinition[Any] | None
    op_tags: Mapping[str, Any] | None
    group_name: str | None
    output_required: bool
    automation_condition: dg.AutomationCondition[Any] | None
    freshness_policy: Any
    backfill_policy: dg.BackfillPolicy | None
    retry_policy: dg.RetryPolicy | None
    code_version: str | None
    owners: Sequence[str] | None
    kinds: AbstractSet[str] | None
    pool: str | None
    is_virtual: bool
    compute_kind: str | None
