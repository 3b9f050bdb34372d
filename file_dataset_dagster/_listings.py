"""What a `files_asset` lists: its files as frames, of all partitions or of one, and what their data version is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster._data_versions import version_of_frames
from file_dataset_dagster._file_patterns import fields_of, narrowed

if TYPE_CHECKING:
    import pandas as pd

# metadata of the asset's definition: the UI shows it, and a sensor reads it
METADATA = "file_dataset/listing"
DETAILS = ("size_bytes", "etag", "last_modified")  # as list_files names them
_NONE = "no file matches {patterns}{of}: correct the patterns, or pass allow_empty=True if that may be so"

_SHOWN = 5  # locations in a message; a guess
_NO_NAMES = (
    "list_files refuses names that match {patterns}, and show_ids=False keeps them from here: call "
    "file_dataset.list_files with these patterns to see them"
)


@dataclass(frozen=True, slots=True)
class Listing:
    """What to list, as it was given to `files_asset`.

    Attributes:
        patterns: by file name; see `file_dataset.list_files`.
        id: what ids are made of; None: the field `id`.
        details: which details of each file the frames have.
        partition_by: the field whose values are the partitions; None: there are none.
        allow_empty: no file is no error.
        resource_key: the FileDatasetResource that lists.
        show_ids: whether names of files may be in a message.
    """

    patterns: Mapping[str, str]
    id: str | None
    details: Sequence[str]
    partition_by: str | None
    allow_empty: bool
    resource_key: str
    show_ids: bool = True

    def to_metadata(self) -> dict[str, Any]:
        """Return it as metadata of a definition."""
        return {METADATA: dg.MetadataValue.json({name: getattr(self, name) for name in self.__slots__})}

    def found(self, options: file_dataset.Options | None) -> file_dataset.FoundFiles:
        """List everything, with all details; no file is no error here, nor is a name that is not safe.

        Args:
            options: by which S3 is reached.
        """
        return file_dataset.find_files(self.patterns, id=self.id, details=True, options=options)

    def by_partition(
        self, options: file_dataset.Options | None, keys: Sequence[str]
    ) -> dict[str, file_dataset.FoundFiles]:
        """List the files of partitions; of one alone only what begins with its name, where that is possible."""
        assert self.partition_by is not None  # noqa: S101  # who asks has partitions
        less = narrowed(self.patterns, self.id, self.partition_by, keys[0]) if len(keys) == 1 else None
        if less is not None:
            patterns, id_ = less
            return {keys[0]: file_dataset.find_files(patterns, id=id_, details=True, options=options)}
        whole = self.found(options)
        found = whole.by(self.partition_by)
        return {key: found.get(key, whole.none()) for key in keys}

    def frame(self, found: file_dataset.FoundFiles, key: str | None) -> pd.DataFrame:
        """Return the frame of what was found; of one partition, where there are some.

        Raises:
            file_dataset.InvalidDatasetError: two files are of one row and column, or two rows have one id.
        """
        try:
            frame = found.frame()
        except file_dataset.InvalidDatasetError:
            if self.show_ids:
                raise
        else:
            if self.partition_by is not None and self.partition_by not in frame and self.partition_by != "id":
                import pandas as pd

                frame[self.partition_by] = pd.Series([key] * len(frame), index=frame.index, dtype=frame["id"].dtype)
                return frame[self._columns()]
            return frame
        # not in the handler: what is raised there has the error with its names as its context
        raise file_dataset.InvalidDatasetError(_NO_NAMES.format(patterns=dict(self.patterns)))

    def left_out(self, left_out: Mapping[str, str]) -> str:
        """Return a message of files that are left out."""
        count = f"{len(left_out):,} files are left out: their names are not safe"
        if not self.show_ids:
            return f"{count}. {_NO_NAMES.format(patterns=dict(self.patterns))}"
        named = "; ".join(f"{at!r}: {why}" for at, why in sorted(left_out.items())[:_SHOWN])
        return f"{count}. {named}{'; ...' if len(left_out) > _SHOWN else ''}"

    def _columns(self) -> list[str]:
        """The columns in the order that `list_files` gives them."""
        files = list(self.patterns)
        fields = [name for name in fields_of(self.patterns.values()) if name != "id"]
        return [*files, "id", *fields, *(f"{file}.{detail}" for file in files for detail in DETAILS)]

    def shown(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with the details that were asked for."""
        left_out = [f"{file}.{detail}" for file in self.patterns for detail in DETAILS if detail not in self.details]
        return frame.drop(columns=left_out)

    def version(self, frame: pd.DataFrame) -> dg.DataVersion:
        """sha256 over ids, locations and ETags, sorted. Sizes and times are left out: equal bytes leave it as it is."""
        import pandas as pd

        parts = [frame[["id", *self.patterns]], *(tags_of(frame, file).to_frame() for file in self.patterns)]
        return version_of_frames({"": pd.concat(parts, axis="columns")})

    def is_in_values(self, frame: pd.DataFrame) -> bool:
        """Whether a frame with the details that were asked for has all that its version is of."""
        if set(self.details) == set(DETAILS):
            return True
        return "etag" in self.details and all(
            bool((frame[f"{file}.etag"].notna() | frame[file].isna()).all()) for file in self.patterns
        )

    def metadata(self, frame: pd.DataFrame, seconds: float, *, left_out: int) -> dict[str, Any]:
        """What Dagster shows of a listing: how many files and bytes, how long it took, and files that are left out."""
        found = [frame[f"{file}.size_bytes"] for file in self.patterns]
        return {
            "files": int(sum(int(sizes.notna().sum()) for sizes in found)),
            "bytes": int(sum(int(sizes.sum()) for sizes in found)),
            "listing_seconds": round(seconds, 3),
            **({"files_left_out": left_out} if left_out else {}),
        }

    def check_not_empty(self, frame: pd.DataFrame, of: str) -> None:
        """Refuse no file, where that is not allowed.

        Raises:
            file_dataset.InvalidDatasetError: naming the patterns.
        """
        if frame.empty and not self.allow_empty:
            raise file_dataset.InvalidDatasetError(_NONE.format(patterns=dict(self.patterns), of=of))


def tags_of(frame: pd.DataFrame, file: str) -> pd.Series:
    """The ETags of a column of files; null where a row has no file.

    What has no ETag (a directory, a file of a store without any) has its size and the time of its newest file.
    """
    tags = frame[f"{file}.etag"]
    lacks = tags.isna() & frame[file].notna()
    if not lacks.any():
        return tags
    sizes, times = frame[f"{file}.size_bytes"].astype(str), frame[f"{file}.last_modified"].astype(str)
    return tags.where(~lacks, sizes + " " + times)
