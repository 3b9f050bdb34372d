"""s3dlio as a contender: an AI/ML storage library in Rust, on the AWS SDK."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from contender import Contender, Place, keys, table
from endpoint import ACCESS_KEY, BUCKET, REGION, SECRET_KEY

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from endpoint import Workload


class S3dlio(Contender):
    """Its functions; settings are the process's environment."""

    name = "s3dlio"
    does = "download of the prefix (a LIST included), upload of a list, get_many, stat_many_async"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
        import s3dlio

        s3dlio.configure_s3(endpoint_url=place.listener.url, region=REGION, ca_bundle=place.listener.ca)
        self._library = s3dlio
        self._told = {"max_in_flight": place.in_flight} if place.in_flight else {}

    def _urls(self, workload: Workload) -> list[str]:
        return [f"s3://{BUCKET}/{key}" for key in keys(workload)]

    def download(self, workload: Workload, into: Path) -> object:
        self._library.download(f"s3://{BUCKET}/{workload.name}/", str(into), **self._told)
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        self._library.upload([str(source / name) for name in workload.files], f"s3://{BUCKET}/{prefix}/", **self._told)

    def blobs(self, workload: Workload) -> pa.Table:
        found = dict(self._library.get_many(self._urls(workload), **self._told))
        return table(workload, [memoryview(found[url]) for url in self._urls(workload)])

    def sizes(self, workload: Workload) -> pa.Table:
        async def stat() -> list[dict[str, int]]:
            return await self._library.stat_many_async(self._urls(workload))

        return table(workload, [each["size"] for each in asyncio.run(stat())])
