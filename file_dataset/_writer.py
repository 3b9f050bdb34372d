"""`write_files(...)`: local files under an id, in S3 or on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import _options, _plan, _stores, _transfer, _urls
from file_dataset._errors import InvalidDatasetError
from file_dataset._local_file import LocalFile

if TYPE_CHECKING:
    import os

    from file_dataset._options import Options


def write_files(
    files: Mapping[str, str | os.PathLike[str] | None],
    *,
    into_path: str | os.PathLike[str],
    id: str | int,  # noqa: A002  # the frame's word
    options: Options | None = None,
    extra_args: Mapping[str, Any] | None = None,
) -> dict[str, str | Path | None]:
    """Store local files at `<into_path>/<id>/<file name>`, now, replacing what is there.

    One PUT per file up to 32 MiB, above it a multipart upload that is aborted when it fails. A local file appears under
    its name when it is whole.

    Args:
        files: file name -> local path; None: no such file, nothing is written. Each segment of a name has at most 255
            bytes on disk; in S3 the whole key 1,024.
        into_path: `s3://bucket/prefix` or a local directory; a trailing slash makes no difference.
        id: names the outputs; its text is one segment of the path.
        options: how S3 is reached; None: by boto3's default session.
        extra_args: boto3's `ExtraArgs` of uploads, such as `{"ContentType": "image/png"}`; local targets ignore them.

    Returns:
        file name -> where it is now: an `s3://` URL as text, or, for a local `into_path`, a `Path` below it as given;
        None stays None.

    Raises:
        InvalidDatasetError: a name or id is unsafe, or a source is missing or no file: nothing was written.
        RowError: files that could not be stored, every one of them.

    Example:
        >>> size = Path("note.txt").write_text("hello")
        >>> write_files({"note.txt": "note.txt"}, into_path="s3://my-bucket/notes/", id=1)
        {'note.txt': 's3://my-bucket/notes/1/note.txt'}
    """
    if not isinstance(files, Mapping):
        raise InvalidDatasetError(f"files is a {type(files).__name__}: give a mapping of file name to local path")
    _options.check(options)
    if extra_args is not None and not isinstance(extra_args, Mapping):
        raise InvalidDatasetError(f"extra_args is a {type(extra_args).__name__}: give a mapping, boto3's ExtraArgs")
    prefix = _urls.parse_prefix(into_path, local_paths=_options.takes_local_paths(options))
    is_local = isinstance(prefix, Path)
    most = _urls.SEGMENT_BYTES if is_local else _urls.KEY_BYTES  # no file system sees a key
    _plan.check_file_names(list(files), local=is_local, segment_bytes=most)
    sources = {name: None if _urls.is_null(path) else _source(name, path) for name, path in files.items()}
    transfers = _plan.uploads(id, sources, prefix)
    stores = _stores.Stores(options)
    if extra_args and not isinstance(prefix, Path):
        # brings botocore along, which local work does without
        from file_dataset._s3.extra_args import check_extra_args

        check_extra_args(extra_args)
    _transfer.copy_out(transfers, stores, extra_args or {})
    stored = {transfer.file: transfer.target for transfer in transfers}
    return {name: _shown(stored.get(name)) for name in files}


def _source(name: str, path: Any) -> LocalFile:  # noqa: ANN401  # whatever the caller gave
    try:
        source = Path(path)
    except TypeError:
        raise InvalidDatasetError(f"{name!r} is a {type(path).__name__}: give a local path") from None
    try:
        return LocalFile.at(source)
    except IsADirectoryError:
        why = f"{source} is a directory; {_urls.DIRECTORY_REMEDY}"
    except FileNotFoundError:
        why = _urls.why_no_file(path)
    except OSError as exc:
        why = exc.strerror or str(exc)
    raise InvalidDatasetError(f"{name!r}: {why}; nothing was written")


def _shown(at: _urls.Location | None) -> str | Path | None:
    return at if at is None or isinstance(at, Path) else str(at)
