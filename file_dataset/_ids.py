"""Ids: which column has them, and whether each is safe as a name. Looks at whole columns, as `_frame` does."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from file_dataset import _urls
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    import pandas as pd

ID = "id"

_UNSAFE_ID = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f/\\]|^\.{0,2}$", re.MULTILINE)
_SHOWN = 5


def checked(frame: pd.DataFrame, *, needs_id: bool = True, local: bool) -> list[Any] | None:
    """Return the ids of a frame, None where it has none.

    Raises:
        InvalidDatasetError: ids that are missing, null, unsafe, twice there, or no str or integer.
    """
    import pandas as pd
    from pandas.api import types

    if ID not in frame.columns:
        if not needs_id:
            return None
        raise no_ids(frame)
    column = frame[ID]
    if column.isna().any():
        where = column.index[column.isna()][:_SHOWN].tolist()
        raise InvalidDatasetError(
            f"ids are null at index {where} ({int(column.isna().sum())} in all): fill them in, or drop these rows, "
            "frame.dropna(subset=['id'])"
        )
    if len(column) and (types.is_bool_dtype(column.dtype) or types.is_float_dtype(column.dtype)):
        raise InvalidDatasetError(
            f"ids are {column.dtype}, such as {column.iloc[0]!r}: an id is a str or an integer; "
            "frame.astype({'id': 'Int64'}) keeps integers whole beside nulls"
        )
    # through object: the tolist() of an Arrow column is a Python loop
    ids: list[Any] = column.astype(object).tolist()
    texts = texts_of(ids)
    duplicates = column[pd.Series(texts, index=column.index, dtype=object).duplicated(keep=False)]
    if len(duplicates):
        some = list(dict.fromkeys(duplicates.tolist()))[:_SHOWN]
        raise InvalidDatasetError(
            f"duplicate ids: {some} ({len(duplicates)} rows in all); every id names one output directory. Make ids of "
            "several columns, such as frame['site'] + '-' + frame['patient']"
        )
    if local:
        check_collisions(texts)
    return ids


def no_ids(frame: pd.DataFrame) -> InvalidDatasetError:
    """Return the error of a frame without ids, with the remedy where one can be seen."""
    index = " It is the index: frame.reset_index() makes it a column." if ID in frame.index.names else ""
    other = [name for name in frame.columns if name.casefold() == ID]
    index = f" There is {other[0]!r}: frame.rename(columns={{{other[0]!r}: 'id'}})." if other else index
    return InvalidDatasetError(f"the frame has no column 'id', which names each row's outputs.{index}")


def check_collisions(texts: list[str]) -> None:
    """Check that ids are directories of their own on every local disk.

    Raises:
        InvalidDatasetError: some differ by case or accents alone.
    """
    joined = "\n".join(texts)
    if len(set(_urls.folded(joined).split("\n"))) != len(texts) and (same := _urls.collisions(texts)):
        raise InvalidDatasetError(
            f"ids {same[:_SHOWN]} differ from others by case or accents alone: rename them, for some local disks make "
            "them one directory"
        )


def texts_of(ids: list[Any]) -> list[str]:
    """Return the text of each id.

    One pass over the joined texts proves the usual case; only a refusal looks at the ids one by one.

    Raises:
        InvalidDatasetError: ids that are no str or integer, or are unsafe as a segment of a path.
    """
    kinds = set(map(type, ids))
    plain = all(issubclass(kind, str | int) and kind is not bool for kind in kinds)
    if plain:
        with contextlib.suppress(ValueError):  # an integer of thousands of digits
            texts: list[str] = ids if kinds <= {str} else list(map(str, ids))
            if _are_safe(texts):
                return texts
    texts, refused = [], []
    for row_id in ids:
        try:
            texts.append(_urls.check_id(row_id))
        except InvalidDatasetError as exc:
            refused.append(str(exc))
    if refused:
        more = f" ({len(refused)} ids are refused in all)" if len(refused) > 1 else ""
        raise InvalidDatasetError("; ".join(refused[:_SHOWN]) + more)
    return texts


def _are_safe(texts: list[str]) -> bool:
    if not texts:
        return True
    joined = "\n".join(texts)
    if joined.count("\n") != len(texts) - 1 or _UNSAFE_ID.search(joined):
        return False
    try:
        return max(map(len, map(str.encode, texts))) <= _urls.SEGMENT_BYTES
    except UnicodeEncodeError:
        return False
