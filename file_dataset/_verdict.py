"""Which failure stops a run, and with what words. Pure: it looks at failures, counts and facts that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from file_dataset._errors import is_fatal
from file_dataset._result import causes_of
from file_dataset._secrets import without_userinfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from file_dataset._errors import RowError, Stage
    from file_dataset._result import Cause
    from file_dataset._settings import Settings

# Codes under which a target refuses every row, when it refuses the first one whole.
_REFUSED_TARGET = frozenset({"NoSuchBucket", "AccessDenied"})
# Codes with which a store answers where it is another one than was meant; "404" is of what is no S3 store.
_NOT_THERE = frozenset({"NoSuchBucket", "NoSuchKey", "404"})
# Rows that got no answer from a store before it counts as down; a guess: few, and more than one bad object.
DOWN_ROWS = 3


def allowed_failures(settings: Settings, total: int) -> int | None:
    """Return how many rows may fail before the run stops; None: all of them."""
    if settings.on_failure == "raise":
        return 0
    return min(_limits(settings, total).values(), default=None)


def limit_text(settings: Settings, total: int) -> str:
    """Return the argument that allows fewest failed rows, and its value."""
    limits = _limits(settings, total)
    argument = min(limits, key=limits.__getitem__)
    return f"{argument}={getattr(settings, argument)!r}"


def _limits(settings: Settings, total: int) -> dict[str, int]:
    """Return how many failed rows each argument allows that was given."""
    limits = {}
    if settings.max_failures is not None:
        limits["max_failures"] = settings.max_failures
    if (share := settings.max_failed_fraction) is not None:
        # by the comparison that `raise_if_dropped` makes: 0.29 of 100 rows are 29, though 0.29 * 100 is less
        near = int(share * total)
        limits["max_failed_fraction"] = max(
            count for count in (0, near - 1, near, near + 1) if count <= share * total or count / total <= share
        )
    return limits


def too_many(settings: Settings, total: int, causes: Mapping[Cause, int], error: RowError) -> str:
    """Return why one failed row more than are allowed stops the run.

    Args:
        settings: what is allowed.
        total: rows of the input.
        causes: how many rows have failed by each cause.
        error: why the last of them failed.
    """
    if settings.on_failure == "raise":
        return f"stopped at the first failure (on_failure='raise'): {error}"
    return (
        f"{sum(causes.values())} of {total} rows failed, {limit_text(settings, total)} allows "
        f"{allowed_failures(settings, total)}: {', '.join(causes_of(causes))}; the last: {error}"
    )


def is_doomed(error: BaseException) -> bool:
    """Return whether every later row would fail alike."""
    return error.__cause__ is not None and is_fatal(error.__cause__)


def doomed(error: RowError) -> str:
    """Return why a run stops whose every later row would fail alike."""
    return f"Stopped: every later row would fail in the same way. {error}"


def is_refusal(error: RowError, uploads: int) -> bool:
    """Return whether the target took none of a row's outputs, for a reason that no later row would escape."""
    return len(error.failures) == uploads and all(failure.code in _REFUSED_TARGET for failure in error.failures)


def refused_target(error: RowError) -> str:
    """Return why a run stops whose target takes nothing."""
    return f"Stopped: the target store refused every output of the first row, so no row can be stored. {error}"


def store_down(what: str, endpoint: str | None, rows: int) -> str:
    """Return why a run stops of whose requests a store, the source or the target, has answered none."""
    where = f" at {without_userinfo(endpoint)}" if endpoint else ""
    return (
        f"Stopped: the {what} store{where} has answered nothing; {rows} rows failed, each after all its "
        "attempts. Check endpoint_url, the network and the proxy settings."
    )


def no_space(  # noqa: PLR0913, PLR0917  # facts, each of its own
    settings: Settings, window_rows: int, prefetch: int, place: Path, free_bytes: int, input_bytes: str, error: RowError
) -> str:
    """Return why a full disk stops the run: what lies there at once, and how to need less."""
    rows, less = "one row is on disk at a time", ""
    if window_rows > 1:
        how = f"prefetch={prefetch}" if settings.prefetch is not None else f"prefetch={prefetch}, chosen by the run"
        rows = f"up to {window_rows} rows are on disk at once ({how}, workers={settings.worker_count})"
        less = "; prefetch=0 needs less" if prefetch else ""
    return (
        f"no space left on device: {rows}, each with its inputs{input_bytes} and its outputs, "
        f"in {place}, where {free_bytes} bytes are free; temp_dir= puts them elsewhere{less}. {error}"
    )


def stage_with_nothing(causes: Mapping[Cause, int], whole: int) -> Stage | None:
    """Return the stage at which a store had nothing of what any row reads; None: there was something else.

    One missing key is a missing key: it takes two rows, or a bucket that is not there.

    Args:
        causes: how many rows have failed by each cause.
        whole: how many rows failed with all their files.
    """
    stages = {cause.stage for cause in causes}
    codes = {cause.code for cause in causes}
    if len(stages) != 1 or "fn" in stages or not codes <= _NOT_THERE:
        return None
    count = sum(causes.values())
    if count == 1 and codes != {"NoSuchBucket"}:
        return None
    (stage,) = stages
    return None if stage == "download" and whole < count else stage


def endpoint_question(endpoint: str) -> str:
    """Return what to check where a store has nothing of what any row reads."""
    return f"The endpoint that was asked was {without_userinfo(endpoint)}: is it the right one?"


def with_hint(message: str, hint: str | None) -> str:
    """Return the message, with what to check if anything."""
    return f"{message}. {hint}" if hint else message
