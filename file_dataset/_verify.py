"""`verify(...)`: are the files of a result still there, and still what was stored? One HEAD per file, or a LIST.

A LIST of a directory proves files of it, by ETag or size. What it does not prove gets a HEAD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from file_dataset import _file_tables, _frame, _options
from file_dataset._errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from file_dataset._options import Options

_KINDS = ("missing", "changed", "not readable")
_NO_FILE = {"FileNotFoundError", "IsADirectoryError", "NotADirectoryError"}
_COLUMNS = (_frame.ID, "file", "location")
_STORED = ("size_bytes", "etag", "checksum")
_LISTED = 13  # files of a directory from which on it is listed: a LIST costs as much as 12.5 HEADs on AWS


def verify(files: pd.DataFrame, *, content: bool = True, options: Options | None = None) -> pd.DataFrame:
    """Return the files of a result that are not as they were stored: one HEAD per file, no download.

    Of a directory in S3 with 13 files or more: one LIST per 1,000 objects, and a HEAD for those that it does not prove.

    Args:
        files: `result.files`, of this run or of `PipelineResult.load`.
        content: compare checksums, else ETags; files that have neither, such as local ones, by their size. False:
            sizes alone.
        options: how S3 is reached; None: by boto3's default session.

    Returns:
        One row per file that does not pass, in their order and with their index; no row: all pass. `id`, `file` and
        `location` as in `files`; `kind`: `missing`, `changed`, or `not readable` (access denied, throttled, no answer:
        nothing is known of it); and `finding`, a text: what is there.

    Raises:
        InvalidDatasetError: `files` is not that of a result.
        RowError: no file can be looked at: there are no credentials, or they expired.

    Example:
        >>> def copy(input_dir, output_dir):
        ...     return {"copy.txt": input_dir / "scan.txt"}
        >>> frame = pd.DataFrame({"id": [1, 2], "scan.txt": "s3://my-bucket/scan.txt"})
        >>> result = Pipeline(copy, into_path="copies", progress=False).run(frame)
        >>> Path("copies/2/copy.txt").unlink()
        >>> verify(result.files)[["id", "kind"]].values.tolist()
        [[2, 'missing']]
    """
    _options.check(options)
    if not isinstance(files, pd.DataFrame) or {*_COLUMNS, *_STORED} - set(files.columns):
        raise InvalidDatasetError("files: give result.files, the frame of the files that a run has stored")
    faults: dict[int, tuple[str, str]] = {}  # by place
    if len(files):
        columns = [_frame._values(files[name]) for name in (*_STORED, "file", "location")]  # noqa: SLF001  # knows nulls
        stored = [
            dict(zip((*_STORED, "file", "location"), values, strict=True)) for values in zip(*columns, strict=True)
        ]
        proven = _proven_by_lists(stored, options, content=content)
        left = [place for place in range(len(stored)) if place not in proven]
        infos = _infos([stored[place]["location"] for place in left], options) if left else []
        for place, found in zip(left, infos, strict=True):
            if fault := _fault(found, stored[place], content=content):
                faults[place] = fault
    texts = zip(*faults.values(), strict=True) if faults else ((), ())
    kind, finding = (pd.Series(list(each), dtype=_frame.TEXT).array for each in texts)
    return files[list(_COLUMNS)].iloc[list(faults)].assign(kind=kind, finding=finding)


def _proven_by_lists(stored: Sequence[Mapping[str, Any]], options: Options | None, *, content: bool) -> set[int]:
    """Return the places of files that are as they were, as the LIST of their directory has it."""
    directories: dict[str, list[int]] = {}
    for place, one in enumerate(stored):
        file, location = str(one["file"]), str(one["location"])
        if "/" in file and location.startswith("s3://") and location.endswith(f"/{file}"):
            at = f"{location.removesuffix(file)}{file.partition('/')[0]}/"
            directories.setdefault(at, []).append(place)
    many = {at: places for at, places in directories.items() if len(places) >= _LISTED}
    if not many:
        return set()
    found = {info["location"]: info for info in _infos(list(many), options) if info["error_type"] is None}
    return {
        place
        for places in many.values()
        for place in places
        if (info := found.get(stored[place]["location"])) is not None
        and _fault(info, stored[place], content=content) is None
        and (not content or (info["etag"] and stored[place]["etag"]))
    }


def _infos(locations: list[str], options: Options | None) -> list[dict[str, Any]]:
    frame = pd.DataFrame({"location": locations}, dtype=object)
    rows = _frame.rows_of_frame(frame, ["location"], needs_id=False)
    found: list[dict[str, Any]] = _file_tables.infos(rows, options).to_pylist()
    return found


def _fault(found: Mapping[str, Any], stored: Mapping[str, Any], *, content: bool) -> tuple[str, str] | None:
    """Return the kind and the finding of a file that does not pass."""
    kind, code = found["error_type"], found["error_code"]
    if kind is not None:
        message = found["error_message"]
        if kind in _NO_FILE:
            return _KINDS[0], message if code is None else f"S3 says {code}"
        return _KINDS[2], f"{message} ({kind})" if code is None else f"S3 says {code} ({message})"
    for name in ("checksum", "etag") if content else ():
        before, now = stored[name], found[name]
        if before and now and _algorithm(before) == _algorithm(now):
            return None if before == now else (_KINDS[1], f"{name} {now}, {before} was stored")
    if found["size_bytes"] != stored["size_bytes"]:
        return _KINDS[1], f"{found['size_bytes']} bytes, {stored['size_bytes']} were stored"
    return None


def _algorithm(digest: str) -> str:
    """Return the name before the colon of a checksum, nothing of an ETag: two algorithms cannot be compared."""
    return digest.partition(":")[0] if ":" in digest else ""
