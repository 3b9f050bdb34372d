"""The store that the benchmarks talk to, and the objects in it.

Debian's nginx with its lua module, in memory, on loopback, as several stores, each on http and over TLS with a CA of
its own: at wire speed, "cloud" (20 ms to the first byte, 60 MiB/s a connection, down and up), "late" (30 ms to the
first byte), "refusing" (20 ms, and 503 SlowDown beyond 2,000 requests a second). Where there is no such nginx and none
can be installed: moto's server, http alone.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import nginx
from awscrt.checksums import crc64nvme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BUCKET = "bench"
HEAD_BYTES = 16 << 10  # of an output of a row, see contender.head
ACCESS_KEY, SECRET_KEY, REGION = "AKIDBENCHMARK", "secret-of-the-benchmark", "us-east-1"

_PIECE_BYTES = 16 << 20
_PART_BYTES = 8 << 20  # as boto3 and the AWS CLI cut


@dataclass(frozen=True)
class Workload:
    """Objects of one size under `s3://bench/<name>/`, and the same files under `<scratch>/sources/<name>/`.

    `M.warm` is objects of `M` by names of its own: the first few, or all of them again and again.
    """

    name: str
    count: int
    size_bytes: int

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        return tuple(f"f{number:05d}.bin" for number in range(self.count))

    @property
    def bytes(self) -> int:
        return self.count * self.size_bytes


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a client finds the store; `ca` is the certificate to trust."""

    url: str
    ca: str | None = None


class Wrong(Exception):  # noqa: N818  # read as "Wrong: ..."
    """What a contender delivered is not what was there."""


class Endpoint:
    """A running store, its scratch directory and the digests of its objects."""

    def __init__(self, workloads: Sequence[Workload]) -> None:
        """Make the objects and start the server."""
        self.scratch = Path(tempfile.mkdtemp(prefix="file_dataset-bench-", dir=_memory(workloads)))
        (self.scratch / "tmp").mkdir()  # the temp directory of all contenders
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.crcs: dict[str, dict[str, int]] = {}
            for workload in workloads:
                self.crcs[workload.name] = self._make(workload)
            found = nginx.installed()
            self.is_nginx = found is not None
            if found is not None:
                self.listeners = self._start_nginx(*found)
                self.server = subprocess.run(
                    [found[0], "-v"], capture_output=True, text=True, check=True
                ).stderr.strip()
            else:
                self.listeners = self._start_moto(workloads)
                self.server = "moto's server (slow: a ratio says who costs the client less, not how fast S3 is)"
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and remove every file."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def source(self, workload: Workload) -> Path:
        """Return the directory of the local copies."""
        return self.scratch / "sources" / workload.name

    def pin(self, cores: set[int]) -> None:
        """Have the server run on these cores alone."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.sched_setaffinity(pid, cores)

    def check_files(self, workload: Workload, root: Path) -> None:
        """Compare every file below `root`, named after its object or in a directory named so, with the objects."""
        found = {}
        for path in root.rglob("*"):
            if path.is_file():
                name = path.name if path.name in self.crcs[workload.name] else path.parent.name
                found[name] = _crc([path])
        self.check_crcs(workload, found)

    def check_directories(self, workload: Workload, root: Path, count: int) -> None:
        """Compare the files of each directory below `root`, of which there are so many, with the objects."""
        found = {path.parent for path in root.rglob("*") if path.is_file()}
        if len(found) != count:
            raise Wrong(f"{len(found)} directories instead of {count}")
        for directory in found:
            self.check_files(workload, directory)

    def check_crcs(self, workload: Workload, found: Mapping[str, int]) -> None:
        """Compare digests by name with those of the objects."""
        wanted = self.crcs[workload.name]
        if wrong := [name for name in wanted if found.get(name) != wanted[name]]:
            raise Wrong(f"{len(wrong)} of {len(wanted)} objects, {wrong[0]} first")
        if len(found) != len(wanted):
            raise Wrong(f"{len(found)} objects instead of {len(wanted)}")

    def check_stored(self, workload: Workload, prefix: str) -> None:
        """Compare what was uploaded below `s3://bench/<prefix>/` with the local files, then remove it."""
        self.check_crcs(workload, self._stored_in_nginx(prefix) if self.is_nginx else self._stored_in_moto(prefix))

    def check_heads(self, workload: Workload, prefix: str) -> None:
        """Compare what a Pipeline stored, `<prefix>/<name>/a.bin`, with the files' heads; then remove it."""
        served = self.scratch / "srv"
        found = {}
        for root, framed in ((served, False), (served / ".chunked", True)):
            for path in (root / BUCKET / prefix).glob("*/a.bin"):
                found[path.parent.name] = _crc([path], framed=framed)
            shutil.rmtree(root / BUCKET / prefix, ignore_errors=True)
        for name in workload.files:
            with (self.source(workload) / name).open("rb") as file:
                if found.pop(name, None) != crc64nvme(file.read(HEAD_BYTES)):
                    raise Wrong(f"the output of row {name}")
        if found:
            raise Wrong(f"{len(found)} outputs too many")

    def counts(self, listener: str) -> tuple[int, int]:
        """Return how many requests a listener that refuses let pass so far, and how many it refused."""
        port = self.listeners[listener].url.rpartition(":")[2]
        with urllib.request.urlopen(f"{self.listeners['http'].url}/.counts?{port}") as answer:  # noqa: S310  # http
            passed, refused = map(int, answer.read().split())
        return passed, refused

    def _make(self, workload: Workload) -> dict[str, int]:
        source, served = self.source(workload), self.scratch / "srv" / BUCKET / workload.name
        for directory in (source, served):
            directory.mkdir(parents=True)
        whole, _, part = workload.name.partition(".")
        objects = sorted((self.scratch / "sources" / whole).iterdir()) if part else []
        for number, name in enumerate(workload.files):
            if part:
                (source / name).hardlink_to(objects[number % len(objects)])
                (served / name).hardlink_to(source / name)
                continue
            with (source / name).open("wb") as file:
                for start in range(0, workload.size_bytes, _PIECE_BYTES):
                    file.write(os.urandom(min(_PIECE_BYTES, workload.size_bytes - start)))
            (served / name).hardlink_to(source / name)
        if not part:
            return {name: _crc([source / name]) for name in workload.files}
        known = list(self.crcs[whole].values())
        return {name: known[number % len(known)] for number, name in enumerate(workload.files)}

    def _start_nginx(self, binary: str, modules: str) -> dict[str, Listener]:
        for name in ("body", "completed"):
            (self.scratch / name).mkdir()
        lines = []
        for workload, crcs in self.crcs.items():
            for name, crc in crcs.items():
                etag = _etag(self.scratch / "sources" / workload / name)
                digest = base64.b64encode(crc.to_bytes(8, "big")).decode()
                lines.append(f"""["/{BUCKET}/{workload}/{name}"]={{'"{etag}"', "{digest}"}},""")
        (self.scratch / "objects.lua").write_text("return {\n" + "\n".join(lines) + "\n}\n")
        ports = nginx.write_configuration(self.scratch, modules)
        self._process = subprocess.Popen([binary, "-c", str(self.scratch / "nginx.conf"), "-e", "stderr"])
        self._wait_for(ports["http"])
        ca = str(self.scratch / "ca.pem")
        return {
            name: Listener(f"https://localhost:{port}", ca)
            if name.endswith("tls")
            else Listener(f"http://127.0.0.1:{port}")
            for name, port in ports.items()
        }

    def _start_moto(self, workloads: Sequence[Workload]) -> dict[str, Listener]:
        (port,) = nginx.free_ports(1)
        server = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait_for(port)
        listener = Listener(f"http://127.0.0.1:{port}")
        client = _boto3_client(listener)
        client.create_bucket(Bucket=BUCKET)
        for workload in workloads:
            for name in workload.files:
                with (self.source(workload) / name).open("rb") as body:
                    client.put_object(
                        Bucket=BUCKET, Key=f"{workload.name}/{name}", Body=body, ChecksumAlgorithm="CRC64NVME"
                    )
        return {"http": listener}

    def _wait_for(self, port: int) -> None:
        assert self._process is not None
        for _ in range(300):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.1)
        raise RuntimeError("the server did not start")

    def _stored_in_nginx(self, prefix: str) -> dict[str, int]:
        served = self.scratch / "srv"
        found = {}
        for framed in (False, True):
            root = served / ".chunked" if framed else served
            for path in sorted((root / BUCKET / prefix).rglob("*")):
                if path.is_file():
                    found[path.name] = _crc([path], framed=framed)
            parts: dict[str, list[tuple[int, Path]]] = {}
            for path in (root / ".parts" / BUCKET / prefix).rglob("*.*"):
                if path.is_file():
                    name, _, number = path.name.rpartition(".")
                    parts.setdefault(name, []).append((int(number), path))
            for name, numbered in parts.items():
                found[name] = _crc([path for _, path in sorted(numbered)], framed=framed)
                key = str(numbered[0][1].relative_to(root / ".parts").with_name(name))
                marker = self.scratch / "completed" / key.replace("/", "%2F")
                if not marker.exists():
                    raise Wrong(f"the multipart upload of {key} was never completed")
                marker.unlink()
            for directory in (root / BUCKET / prefix, root / ".parts" / BUCKET / prefix):
                shutil.rmtree(directory, ignore_errors=True)
        return found

    def _stored_in_moto(self, prefix: str) -> dict[str, int]:
        client = _boto3_client(self.listeners["http"])
        found = {}
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        for key in [item["Key"] for page in pages for item in page.get("Contents", [])]:
            found[key.rpartition("/")[2]] = crc64nvme(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
            client.delete_object(Bucket=BUCKET, Key=key)
        return found


def _boto3_client(listener: Listener):
    import boto3
    from botocore.config import Config

    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": REGION}
    config = Config(s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=listener.url, config=config, **keys)


def _memory(workloads: Sequence[Workload]) -> str | None:
    """Return a directory in memory with room for sources and two sets of results; None: the usual temp directory."""
    largest = max(workload.bytes for workload in workloads)
    needed = sum(workload.bytes for workload in workloads if "." not in workload.name) + 2 * largest + (64 << 20)
    with contextlib.suppress(OSError):
        if shutil.disk_usage("/dev/shm").free > needed:  # noqa: S108
            return "/dev/shm"  # noqa: S108
    print("no room in /dev/shm: files are in the usual temp directory, a disk perhaps")
    return None


def _crc(paths: Sequence[Path], *, framed: bool = False) -> int:
    """Return the CRC64NVME of the files' bytes, in order; `framed`: each is in aws-chunked framing."""
    crc = 0
    for path in paths:
        for piece in _unframed(path) if framed else _pieces(path):
            crc = crc64nvme(piece, crc)
    return crc


def _etag(path: Path) -> str:
    """Return the ETag of S3: an MD5, or `<32 hex digits>-<parts>` for what is uploaded in parts of 8 MiB.

    Not nginx's own: awscrt takes what stands behind its dash for a number of parts, and never answers above 10,000.
    """
    size = path.stat().st_size
    if size > _PART_BYTES:
        return f"{size:032x}-{-(-size // _PART_BYTES)}"
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _unframed(path: Path) -> Iterator[bytes]:
    """Yield the chunks: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html."""
    with path.open("rb") as file:
        while size := _size_of(file.readline()):
            yield file.read(size)
            file.readline()


def _size_of(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise Wrong(f"a chunk that begins with {line[:40]!r}") from None
