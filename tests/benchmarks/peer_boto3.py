"""boto3 as a contender, in the ways that people use it."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from contender import KEYS, PIECE_BYTES, Contender, Place, head, keys, table
from endpoint import BUCKET, REGION

if TYPE_CHECKING:
    import pyarrow as pa
    from endpoint import Workload

_THREADS = 32


def boto3_config(place: Place) -> Any:
    """Return a `Config` of the column; it is ours too."""
    from botocore.config import Config

    s3: dict[str, Any] = {"addressing_style": "path"}
    given: dict[str, Any] = {"max_pool_connections": place.in_flight} if place.in_flight else {}
    if place.is_bare:
        s3["payload_signing_enabled"] = False
        given |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    return Config(s3=s3, **given)


class Boto3(Contender):
    """What most people write."""

    name = "boto3, 32 threads"
    does = "get_object, put_object, head_object in a ThreadPoolExecutor(32); 128 threads for 128 in flight"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import boto3

        verify = {"verify": place.listener.ca} if place.listener.ca else {}
        session = boto3.Session(**KEYS, region_name=REGION)
        self.client = session.client("s3", endpoint_url=place.listener.url, config=boto3_config(place), **verify)
        self.pool = ThreadPoolExecutor(place.in_flight if (place.in_flight or 0) > 64 else _THREADS)

    def download(self, workload: Workload, into: Path) -> object:
        def get(key: str) -> None:
            body = self.client.get_object(Bucket=BUCKET, Key=key)["Body"]
            with (into / Path(key).name).open("wb") as file:
                if workload.size_bytes <= PIECE_BYTES:
                    file.write(body.read())
                else:
                    shutil.copyfileobj(body, file, PIECE_BYTES)

        list(self.pool.map(get, keys(workload)))
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        def put(name: str) -> None:
            with (source / name).open("rb") as body:
                self.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=body)

        list(self.pool.map(put, workload.files))

    def blobs(self, workload: Workload) -> pa.Table:
        def get(key: str) -> bytes:
            return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

        return table(workload, self.pool.map(get, keys(workload)))

    def sizes(self, workload: Workload) -> pa.Table:
        def head(key: str) -> int:
            return self.client.head_object(Bucket=BUCKET, Key=key)["ContentLength"]

        return table(workload, self.pool.map(head, keys(workload)))


class Boto3Files(Boto3):
    """boto3's own way to files."""

    name = "boto3 download_file, 32 threads"
    does = "client.download_file and upload_file in a ThreadPoolExecutor(32), TransferConfig as it comes but classic"
    cannot: ClassVar = {"blobs": "moves files", "sizes": "moves files"}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from boto3.s3.transfer import TransferConfig

        self._config = TransferConfig(preferred_transfer_client="classic")

    def download(self, workload: Workload, into: Path) -> object:
        def get(key: str) -> None:
            self.client.download_file(BUCKET, key, str(into / Path(key).name), Config=self._config)

        list(self.pool.map(get, keys(workload)))
        return None

    def pipeline(self, workload: Workload, prefix: str) -> None:
        list(self.pool.map(lambda key: self.row(key, prefix), keys(workload)))

    def row(self, key: str, prefix: str) -> None:
        """Copy, run, store."""
        with tempfile.TemporaryDirectory() as scratch:
            at = Path(scratch)
            self.client.download_file(BUCKET, key, str(at / "a.bin"), Config=self._config)
            for name, path in head(at, at).items():
                self.client.upload_file(str(path), BUCKET, f"{prefix}/{Path(key).name}/{name}", Config=self._config)

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        def put(name: str) -> None:
            self.client.upload_file(str(source / name), BUCKET, f"{prefix}/{name}", Config=self._config)

        list(self.pool.map(put, workload.files))


class Boto3Loop(Boto3Files):
    """The loop that users write first."""

    name = "boto3 loop"
    does = "client.download_file, upload_file, head_object, one after the other; rows: one after the other, too"
    cannot: ClassVar = {"blobs": "moves files"}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.pool = ThreadPoolExecutor(1)

    def sizes(self, workload: Workload) -> pa.Table:
        return Boto3.sizes(self, workload)


class S3Transfer(Boto3):
    """What boto3's transfers are made of, with one manager for all files."""

    name = "s3transfer"
    does = "one TransferManager(max_request_concurrency=64), all files submitted"
    cannot: ClassVar = {"blobs": "moves files", "sizes": "moves files"}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from s3transfer.manager import TransferConfig, TransferManager

        config = TransferConfig(
            max_request_concurrency=place.in_flight or 10,
            max_submission_concurrency=5,
            # boto3.s3.transfer's sizes, not s3transfer's own
            multipart_threshold=8 << 20,
            multipart_chunksize=8 << 20,
        )
        self._manager = TransferManager(self.client, config)

    def download(self, workload: Workload, into: Path) -> object:
        futures = [self._manager.download(BUCKET, key, str(into / Path(key).name)) for key in keys(workload)]
        for future in futures:
            future.result()
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        futures = [self._manager.upload(str(source / name), BUCKET, f"{prefix}/{name}") for name in workload.files]
        for future in futures:
            future.result()

    def close(self) -> None:
        self._manager.shutdown()
