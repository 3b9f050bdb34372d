"""Frames of many partitions into one, and back. Pure: no I/O, no context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import file_dataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

PARTITION = "partition"
_SHOWN = 5  # ids in a message; a guess
# what holds nulls beside the values of a numpy column that cannot
_NULLABLE = {"b": "boolean", "i": "Int64", "u": "UInt64"}


def joined(frames: Mapping[str, pd.DataFrame], of: str) -> pd.DataFrame:
    """All rows, with a column `partition` at the end; columns that some frames lack are null there.

    Args:
        frames: one frame per partition; their order is kept.
        of: what they are, for the messages.

    Raises:
        file_dataset.InvalidDatasetError: an id is in two partitions, or a frame has a column `partition` of its own.
    """
    import pandas as pd

    if taken := [key for key, frame in frames.items() if PARTITION in frame]:
        raise file_dataset.InvalidDatasetError(
            f"{of}, partition {taken[0]!r}, has a column {PARTITION!r} of its own, which joining partitions would "
            "replace: rename it, or annotate the input as dict[str, pd.DataFrame]"
        )
    names = list(dict.fromkeys(name for frame in frames.values() for name in frame.columns))
    dtypes = {name: _dtype(name, list(frames.values())) for name in names}
    parts = [_widened(frame, dtypes).assign(**{PARTITION: key}) for key, frame in frames.items()]
    # a part without rows would widen the dtypes of the others
    filled = [part for part in parts if len(part)] or parts[:1]
    if not filled:
        return pd.DataFrame({"id": pd.Series(dtype="str"), PARTITION: pd.Series(dtype="str")})
    whole = pd.concat(filled, ignore_index=True)[[*names, PARTITION]]
    if "id" in whole:
        pairs = whole[["id", PARTITION]].astype(str).drop_duplicates()
        if repeated := pairs.loc[pairs["id"].duplicated(), "id"].unique().tolist():
            raise file_dataset.InvalidDatasetError(
                f"ids {repeated[:_SHOWN]} ({len(repeated)} in all) are in several partitions of {of}: annotate the "
                "input as dict[str, pd.DataFrame] and handle each partition by itself, or give the rows ids that name "
                "their partition too"
            )
    return whole


def split(whole: pd.DataFrame, keys: Sequence[str], of: str) -> dict[str, pd.DataFrame]:
    """The rows of each partition by the column `partition`, which is left out; no rows: an empty frame.

    Raises:
        file_dataset.InvalidDatasetError: there is no such column, or it names other partitions.
    """
    if PARTITION not in whole:
        raise file_dataset.InvalidDatasetError(
            f"{of} returned one frame for {len(keys)} partitions: return a dict of frames by partition key, or a frame "
            f"with a column {PARTITION!r}"
        )
    texts = whole[PARTITION].astype(str)
    check_keys(set(texts), keys, of, may_lack=True)
    return {key: whole[texts == str(key)].drop(columns=PARTITION).reset_index(drop=True) for key in keys}


def check_keys(given: set[str], keys: Sequence[str], of: str, *, may_lack: bool = False) -> None:
    """Refuse partitions that the run is not for, and the lack of those that it is for.

    Raises:
        file_dataset.InvalidDatasetError: naming them.
    """
    other = sorted(given - set(keys))
    lacking = [] if may_lack else sorted(set(keys) - given)
    if other or lacking:
        what = f"partitions {other[:_SHOWN]}, which this run is not for" if other else "fewer partitions than its run"
        raise file_dataset.InvalidDatasetError(
            f"{of} returned {what}{f', without {lacking[:_SHOWN]}' if lacking else ''}: nothing was stored. A "
            "partition without rows is an empty frame"
        )


def _dtype(name: str, frames: Sequence[pd.DataFrame]) -> object:
    """The dtype of a column that some frames lack: one that holds nulls; None where no frame lacks it."""
    having = [frame[name].dtype for frame in frames if name in frame]
    return None if len(having) == len(frames) else _NULLABLE.get(getattr(having[0], "kind", ""), having[0])


def _widened(frame: pd.DataFrame, dtypes: Mapping[str, object]) -> pd.DataFrame:
    import pandas as pd

    columns = {
        name: frame[name].astype(dtype) if name in frame else pd.Series(None, index=frame.index, dtype=dtype)  # type: ignore[call-overload]
        for name, dtype in dtypes.items()
        if dtype is not None and (name not in frame or isinstance(dtype, str))
    }
    return frame.assign(**columns)
