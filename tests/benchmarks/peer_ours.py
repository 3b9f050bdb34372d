"""file_dataset as a contender: its public API, as in the README; and variants of it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from contender import KEYS, SERIES_ROWS, Contender, Place, head, keys
from endpoint import BUCKET, REGION
from peer_boto3 import boto3_config

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from endpoint import Workload


class Ours(Contender):
    """The public API, as in the README."""

    name = "file_dataset"
    does = "reader(frame).into_temp_dir / into_blob_table / into_size_table, write_files; digests off in column A"
    cannot: ClassVar = {}
    arguments: ClassVar[dict[str, Any]] = {}  # of Pipeline

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import file_dataset

        self._library = file_dataset
        client = {"endpoint_url": place.listener.url, "config": boto3_config(place)}
        if place.listener.ca:
            client["verify"] = place.listener.ca
        self.options = file_dataset.Options({**KEYS, "region_name": REGION}, client, **self.choices())

    def choices(self) -> dict[str, Any]:
        """Return what this contender chooses beside the defaults."""
        chosen: dict[str, Any] = {"max_concurrency": self.place.in_flight} if self.place.in_flight else {}
        return {**chosen, "check_digests": False} if self.place.is_bare else chosen

    @functools.cache  # noqa: B019  # one contender per process; a user has the frame already
    def frame(self, workload: Workload) -> Any:
        import pandas as pd

        urls = [f"s3://{BUCKET}/{key}" for key in keys(workload)]
        return pd.DataFrame({"id": list(workload.files), "a.bin": urls})

    def _reader(self, workload: Workload) -> Any:
        return self._library.reader(dataframe=self.frame(workload), options=self.options)

    def download(self, workload: Workload, into: Path) -> object:
        return self._reader(workload).into_temp_dir(dir=into)

    def series(self, workload: Workload, into: Path) -> object:
        import pandas as pd

        frame = pd.DataFrame({"id": range(SERIES_ROWS), "series": f"s3://{BUCKET}/{workload.name}/"})
        return self._library.reader(dataframe=frame, options=self.options).into_temp_dir(dir=into)

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        files = {name: source / name for name in workload.files}
        self._library.write_files(files, into_path=f"s3://{BUCKET}/{prefix}", id="x", options=self.options)

    def blobs(self, workload: Workload) -> pa.Table:
        return self._reader(workload).into_blob_table()

    def sizes(self, workload: Workload) -> pa.Table:
        return self._reader(workload).into_size_table()

    def pipeline(self, workload: Workload, prefix: str) -> None:
        pipeline = self._library.Pipeline(
            head,
            write_options={"into_path": f"s3://{BUCKET}/{prefix}"},
            options=self.options,
            on_failure="raise",
            progress=False,
            **self.arguments,
        )
        pipeline.run(self.frame(workload))


class OursDigests(Ours):
    """Digests checked in column A too: they are asked for and the store sends CRC64NVME."""

    name = "file_dataset, digests on"
    does = "the same with check_digests=True and botocore's default checksums"

    def __init__(self, place: Place) -> None:
        super().__init__(replace(place, column="B"))


class OursNoDigests(Ours):
    """Digests not checked in column B."""

    name = "file_dataset, digests off"
    does = "the same with check_digests=False"

    def choices(self) -> dict[str, Any]:
        return {**super().choices(), "check_digests": False}


class OursBoto3(Ours):
    """The engine that goes through boto3."""

    name = "file_dataset, engine=boto3"
    does = 'the same with Options(engine="boto3")'

    def choices(self) -> dict[str, Any]:
        return {**super().choices(), "engine": "boto3"}


class OursBase(Ours):
    """Another revision of file_dataset."""

    name = "file_dataset, base"
    does = "the same by the revision or checkout that --base names"


def with_max_concurrency(count: int) -> type[Ours]:
    """Return ours with so many requests in flight, for a sweep."""

    class Swept(Ours):
        name = f"file_dataset, max_concurrency={count}"
        does = f"the same with Options(max_concurrency={count})"

        def choices(self) -> dict[str, Any]:
            return {**super().choices(), "max_concurrency": count}

    return Swept


def with_prefetch(count: int) -> type[Ours]:
    """Return ours with so many rows ahead, for a sweep."""

    class Swept(Ours):
        name = f"file_dataset, prefetch={count}"
        does = f"the same with Pipeline(prefetch={count})"
        cannot: ClassVar = dict.fromkeys(("download", "upload", "blobs", "sizes"), "has no rows")
        arguments: ClassVar = {"prefetch": count}

    return Swept
