"""Frames at rest: manifests as Parquet, in S3 or a local directory. Nothing is ever unpickled.

    <base_path>/manifests/<key parts>/manifest.parquet            an asset without partitions
    <base_path>/manifests/<key parts>/partition=<key>.parquet     one partition
    <base_path>/manifests/<key parts>/sensor=<name>/<digest>.parquet   what a sensor has listed
    <base_path>/runs/<run>/<step>/<output>.parquet                what one op of a graph hands to the next

Beside each manifest of a pipeline lie its `.failures.parquet`, `.files.parquet`, `.inputs.parquet` (the files that were
read) and `.origins.parquet` (digests of what each row was made from; partial runs compare them), and
`.rejected.parquet`: the failures of a later run whose manifest was not stored, without rows once a later run's is. In
`<name>.checkpoint/` lie the finished rows of a run that has not stored its manifest, and in `.begun.parquet` of which
input they are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

import file_dataset
from file_dataset_dagster._checkpoints import Checkpoint
from file_dataset_dagster._frame_metadata import stored_frame
from file_dataset_dagster._partial_runs import Stored
from file_dataset_dagster._paths import fitting, segment
from file_dataset_dagster._provenance import Origins, from_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# which run a frame belongs to: a manifest, its files and its failures have the same stamp
_STAMP = "stamp"
_AGAINST = "against"  # the stamp of the manifest that a rejected run left in place
_WITHOUT_DIGEST = "files_without_digest"
_REMEDY = "materialize the asset again"  # where a file is damaged
_INPUT_VERSIONS = "input_versions"  # which the rows of a checkpoint are of
_PART = "_" * 64  # as long as the name of a part of a checkpoint may be
_VERSION = "data_version"  # of the frames that a plain asset returned


@dataclass(frozen=True, slots=True)
class ManifestStore:
    """The manifests below one base path, and what lies beside them.

    Attributes:
        base_path: s3://bucket/prefix or a local directory; checked when a location is requested.
        get_options: by which S3 is reached; called when something is stored or loaded.
    """

    base_path: str | None
    get_options: Callable[[], file_dataset.Options]

    def uri(self, asset_key: dg.AssetKey, partition_key: str | None = None, *, of: str = "manifest") -> str:
        """Where a frame of an asset or of one partition lies."""
        return self._below(asset_key, partition_key, ".parquet" if of == "manifest" else f".{of}.parquet")

    def checkpoint(self, asset_key: dg.AssetKey, partition_key: str | None, code_version: str | None) -> Checkpoint:
        """Where the rows of an asset or of one partition are written down until its manifest is stored."""
        place = self._below(asset_key, partition_key, f".checkpoint/{_PART}").removesuffix(_PART)
        uri = self.uri(asset_key, partition_key, of="begun")
        note, noted = functools.partial(self._note_begun, uri), functools.partial(self._begun, uri)
        return Checkpoint(place, self.get_options(), code_version, note, noted)

    def _note_begun(self, uri: str, versions: Mapping[str, str] | None) -> None:
        import pandas as pd

        self.store(pd.DataFrame({"id": []}, dtype="str"), uri, {_INPUT_VERSIONS: versions and dict(versions)})

    def _begun(self, uri: str) -> Mapping[str, str] | None:
        with contextlib.suppress(file_dataset.FileDatasetError):  # what cannot be read is not known
            if (found := self.blobs({"begun": uri})) and (
                versions := _notes_in(found["begun"], uri).get(_INPUT_VERSIONS)
            ):
                return dict(versions)
        return None

    def _below(self, asset_key: dg.AssetKey, partition_key: str | None, suffix: str) -> str:
        name = "manifest" if partition_key is None else f"partition={segment(partition_key)}"
        place = "/".join([self._base(), "manifests", *map(segment, asset_key.path), f"{name}{suffix}"])
        asset = f"asset {asset_key.to_user_string()}"
        return fitting(place, asset if partition_key is None else f"partition {partition_key!r} of {asset}")

    def op_uri(self, identifier: Sequence[str], of: str) -> str:
        """Where the output of an op lies, by its run, step and name; `of` names it in messages."""
        return fitting("/".join([self._base(), "runs", *map(segment, identifier)]) + ".parquet", of)

    def listing_uri(self, asset_key: dg.AssetKey, sensor: str, digest: str) -> str:
        """Where the listing of a sensor lies, by its digest."""
        place = [self._base(), "manifests", *map(segment, asset_key.path), f"sensor={segment(sensor)}"]
        return fitting("/".join([*place, f"{digest}.parquet"]), f"the name of sensor {sensor}")

    def _base(self) -> str:
        base = self.base_path
        if not base:
            raise file_dataset.InvalidDatasetError(
                "neither the ManifestIOManager nor its resource has a base_path: give s3://bucket/prefix or a directory"
            )
        if "://" not in base:
            if base.startswith("~") and os.path.expanduser(base) != base:  # noqa: PTH111  # it would be a directory named ~
                raise file_dataset.InvalidDatasetError(
                    f"base_path {base!r}: ~ is not expanded; give str(Path({base!r}).expanduser())"
                )
            base = str(Path(base).absolute())
        elif not base.removeprefix("s3://").strip("/") or not base.startswith("s3://"):
            raise file_dataset.InvalidDatasetError(
                f"base_path {base!r} is neither s3://bucket/prefix nor a local directory"
            )
        return base.rstrip("/")

    def store(self, frame: pd.DataFrame, uri: str, notes: Mapping[str, Any] | None = None) -> None:
        """Write the frame as a whole or not at all, over what is there."""
        into_path, directory, name = uri.rsplit("/", 2)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "frame.parquet")
            path.write_bytes(file_dataset.parquet.to_parquet(frame, notes))
            try:
                file_dataset.write_files({name: path}, into_path=into_path, id=directory, options=self.get_options())
            except file_dataset.RowError as exc:
                first = exc.failures[0]
                code = "" if first.code is None else f" ({first.code})"
                endpoint = self.endpoint_note(uri) if first.type == "FileNotFoundError" else ""
                raise file_dataset.RowError(
                    exc.failures,
                    f"the manifest at {uri} could not be stored: {first.type}{code}: {first.message}{endpoint}",
                ) from exc

    def load(self, uri: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The frame at `uri`, or some of its columns."""
        return frame_in(self.blobs({"0": uri}, may_lack=False)["0"], uri, columns)

    def store_frame(
        self, frame: pd.DataFrame, asset_key: dg.AssetKey, partition_key: str | None, version: str | None
    ) -> dict[str, Any]:
        """Store a frame that a plain asset returned, with its data version; return its metadata."""
        uri = self.uri(asset_key, partition_key)
        self.store(frame, uri, {_STAMP: uuid.uuid4().hex, _VERSION: version})
        return stored_frame(frame, uri, partition_key)

    def store_result(
        self,
        result: file_dataset.PipelineResult,
        asset_key: dg.AssetKey,
        partition_key: str | None,
        origins: Origins | None = None,
    ) -> dict[str, Any]:
        """Store files, failures and inputs, then the manifest, so that it always has them; return its metadata.

        The checkpoint goes: the manifest has all of its rows.
        """
        stamp = {_STAMP: uuid.uuid4().hex}
        if origins is not None:
            at = self.uri(asset_key, partition_key, of="origins")
            self.store(origins.to_frame(), at, stamp | origins.notes)
        frames = {"files": result.files, "failures": result.failures}
        if origins is None or origins.has_inputs:
            frames["inputs"] = result.inputs
        for of, frame in frames.items():
            self.store(frame, self.uri(asset_key, partition_key, of=of), stamp)
        uri = self.uri(asset_key, partition_key)
        self.store(result.manifest, uri, stamp | {_WITHOUT_DIGEST: result.files_without_digest})
        rejected = self.uri(asset_key, partition_key, of="rejected")
        # what it follows is gone, so it counts no more: this is for people who look there
        with contextlib.suppress(file_dataset.FileDatasetError):
            if self.blobs({"rejected": rejected}):
                self.store(result.failures.head(0), rejected, {_AGAINST: None})
        # where it stays it has no row that the manifest lacks, and the next run removes it
        with contextlib.suppress(file_dataset.FileDatasetError):
            self.checkpoint(asset_key, partition_key, None).remove()
        return stored_frame(result.manifest, uri, partition_key)

    def store_rejected(self, failures: pd.DataFrame, asset_key: dg.AssetKey, partition_key: str | None) -> str:
        """Store the failures of a run whose manifest is not stored; return where. One GET to see what they follow."""
        at = self.uri(asset_key, partition_key)
        found = self.blobs({"manifest": at})
        against = _notes_in(found["manifest"], at).get(_STAMP) if found else None
        uri = self.uri(asset_key, partition_key, of="rejected")
        self.store(failures, uri, {_AGAINST: against})
        return uri

    def stored(self, asset_key: dg.AssetKey, partition_key: str | None) -> Stored | None:
        """What is stored of the last run, in six GETs at once; None when that is no whole manifest of a pipeline."""
        names = ("manifest", "failures", "files", "inputs", "rejected", "origins")
        uris = {of: self.uri(asset_key, partition_key, of=of) for of in names}
        found = self.blobs(uris)
        if {"manifest", "failures", "files"} - set(found):
            return None
        notes = {of: _notes_in(blob, uris[of]) for of, blob in found.items()}
        frames = {of: frame_in(blob, uris[of]) for of, blob in found.items()}
        stamp = notes["manifest"].get(_STAMP)
        if any(notes[of].get(_STAMP) != stamp for of in ("failures", "files")):
            return None  # a run ended between its frames
        rejected = frames.get("rejected", frames["failures"])
        is_later = "rejected" in notes and notes["rejected"].get(_AGAINST) == stamp
        return Stored(
            frames["manifest"],
            frames["failures"],
            frames["files"],
            notes["manifest"].get(_WITHOUT_DIGEST, 0),
            rejected if is_later else rejected.head(0),
            from_frame(frames["origins"], notes["origins"])
            if notes.get("origins", {}).get(_STAMP) == stamp
            else Origins(),
            frames["inputs"] if notes.get("inputs", {}).get(_STAMP) == stamp else None,
        )

    def files_of(self, asset_key: dg.AssetKey, keys: Sequence[str | None]) -> dict[str | None, pd.DataFrame]:
        """The `files` frames of these partitions, of those that a pipeline has stored: a GET each, all at once."""
        uris = {str(number): self.uri(asset_key, key, of="files") for number, key in enumerate(keys)}
        found = self.blobs(uris)
        return {keys[int(number)]: frame_in(blob, uris[number]) for number, blob in found.items()}

    def versions_noted(self, asset_key: dg.AssetKey, keys: Sequence[str | None]) -> dict[str | None, str | None]:
        """The data version that each frame was stored under, where it is that of its values: a GET each."""
        uris = {str(number): self.uri(asset_key, key) for number, key in enumerate(keys)}
        found = self.blobs(uris)
        return {keys[int(number)]: _notes_in(blob, uris[number]).get(_VERSION) for number, blob in found.items()}

    def with_notes(self, blob: pa.Buffer, uri: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The frame in a file, and what was noted with it."""
        return frame_in(blob, uri), _notes_in(blob, uri)

    def blobs(
        self,
        uris: Mapping[str, str],
        errors: dict[str, file_dataset.FileDatasetError] | None = None,
        *,
        may_lack: bool = True,
    ) -> dict[str, pa.Buffer]:
        """What lies at these places, all at once; those where nothing is are left out when they `may_lack`.

        Args:
            uris: by any name.
            errors: takes the error of each that cannot be read, which is then left out too.
            may_lack: False: what is not there is an error too.

        Raises:
            file_dataset.InvalidDatasetError: a directory lies there.
            file_dataset.RowError: one cannot be read, or one that must be there is missing.
        """
        import pandas as pd

        frame = pd.DataFrame({"id": list(uris), "frame.parquet": list(uris.values())})
        try:
            return _read(frame, self.get_options())
        except file_dataset.RowError as exc:
            bad = [
                failure
                for failure in exc.failures
                if not may_lack or failure.type != "FileNotFoundError" or failure.code == "NoSuchBucket"
            ]
            if bad and errors is None:
                raise self._unreadable(bad, exc.failures) from exc
            for failure in bad:
                if errors is not None:
                    errors[str(failure.id)] = self._unreadable([failure], [failure])
            there = frame[~frame["id"].isin([failure.id for failure in exc.failures])]
        return _read(there, self.get_options()) if len(there) else {}

    def _unreadable(self, bad: Sequence[Any], failures: Sequence[Any]) -> file_dataset.FileDatasetError:
        first = bad[0]
        if first.type == "IsADirectoryError":
            return file_dataset.InvalidDatasetError(f"{first.url} is a directory, and no manifest")
        code = "" if first.code is None else f" ({first.code})"
        endpoint = self.endpoint_note(str(first.url)) if first.type == "FileNotFoundError" else ""
        more = f"; {len(bad) - 1} more could not be read" if len(bad) > 1 else ""
        return file_dataset.RowError(
            failures,
            f"the manifest at {first.url} could not be read: {first.type}{code}: {first.message}{endpoint}{more}",
        )

    def endpoint_note(self, uri: str) -> str:
        """The endpoint, for what S3 does not have: a wrong one shows by nothing else."""
        if not uri.startswith("s3://"):
            return ""
        return f"; {self.get_options().s3_client.meta.endpoint_url} was asked"


def frame_in(blob: pa.Buffer, uri: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The frame in a file, or some of its columns."""
    return file_dataset.parquet.from_parquet(blob, uri, columns, remedy=_REMEDY)


def _notes_in(blob: pa.Buffer, uri: str) -> dict[str, Any]:
    return file_dataset.parquet.notes_of(blob, uri, remedy=_REMEDY)


def _read(frame: pd.DataFrame, options: file_dataset.Options) -> dict[str, pa.Buffer]:
    table = file_dataset.reader(frame, options=options, file_columns=["frame.parquet"]).into_blob_table(large=True)
    return {key: blob.as_buffer() for key, blob in zip(table["id"].to_pylist(), table["frame.parquet"], strict=True)}
