"""Mixed work beside a store that keeps breaking, for minutes: `make soak`.

Reads into temp dirs and memory, sizes, writes, Pipelines with and without workers, on both engines, in turns, while a
server in a process of its own breaks one request in ten. Beside it, Pipelines in processes that are killed (SIGKILL) at
any moment. Every byte that arrives is compared. It prints what this process holds at the start and after each minute,
and exits with 1 when a byte was wrong, a partial file had its final name, or something grew.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
from botocore.config import Config
from servers.faults import (
    INTERNAL_ERROR,
    SLOW_DOWN,
    TOO_MANY_REQUESTS,
    ErrorIn200,
    FaultServer,
    FlipBit,
    LostReply,
    Reset,
    Short,
    Truncate,
)

import file_dataset
from file_dataset import RowError

_OBJECTS = 200
_LARGE_BYTES = 70 << 20  # an upload in parts begins over 32 MiB
_SOCKETS = 2 * 64 + 8  # idle connections of two options, and the loop's own
_GROWTH_MB = 48  # from the second minute on; a guess above what an allocator keeps
_BREAKS = (INTERNAL_ERROR, SLOW_DOWN, TOO_MANY_REQUESTS, Reset(), Reset(10), Truncate(10), LostReply())


def body_of(name: str) -> bytes:
    """The bytes of a name: its hash, again and again, 64 bytes to 3 MiB."""
    digest = hashlib.sha256(name.encode()).digest()
    size = 64 + int.from_bytes(digest[:2], "big") * 48
    return (digest * (size // len(digest) + 1))[:size]


def serve(line):
    """Be the store, in a process of its own, and break about one request in ten."""
    logging.disable()
    asked = fired = 0
    with FaultServer() as server:
        for number in range(_OBJECTS):
            kind = random.choice([None, "CRC64NVME", "CRC32C"])
            server.put(f"s3://in/{number}", body_of(str(number)), checksum=kind)
        server.put("s3://out/first", b"")
        line.send(server.endpoint_url)
        while True:
            if sum(server.requests.values()) >= 300 or not asked:  # its records grow with each request
                asked, fired = asked + sum(server.requests.values()), fired + len(server.fired)
                server.reset()
                for nth in range(1, 400, 12):
                    server.fail("*", random.choice(_BREAKS), nth=nth + random.randrange(12))
                    server.fail("GetObject", random.choice([FlipBit(), Short()]), nth=nth)
                server.fail("CompleteMultipartUpload", ErrorIn200())
                server.fail("UploadPart", Reset(), nth=3)
            if not line.poll(0.1):
                continue
            match line.recv():
                case ("take", key):  # returned once, so that the server holds little
                    with server.store.lock:
                        found = server.store.buckets["out"].pop(key, None)
                    line.send(None if found is None else found.body)
                case ("counts", _):
                    line.send((asked, fired, len(server.open_uploads)))


class Store:
    """The other end of `serve`."""

    def __init__(self):
        self._lock = threading.Lock()
        self._line, other = multiprocessing.get_context("spawn").Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        self.url = self._line.recv()

    def ask(self, what, key=None):
        """Return what the server says."""
        with self._lock:
            self._line.send((what, key))
            return self._line.recv()

    def options(self, engine):
        """Five attempts, and no minutes of patience."""
        config = Config(s3={"addressing_style": "path"}, read_timeout=20, connect_timeout=20)
        keys = {"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": "secrettest", "region_name": "us-east-1"}
        return file_dataset.Options(keys, {"endpoint_url": self.url, "config": config}, engine=engine)


def reverse(input_dir, output_dir, row):
    """Write the input backwards; one row in twenty raises."""
    if row["roll"] < 0.05:
        raise ValueError("as asked")
    (output_dir / "r.bin").write_bytes((input_dir / "a.bin").read_bytes()[::-1])
    return {"r.bin": "r.bin", "same.bin": input_dir / "a.bin"}


class Work:
    """One kind of work after the other, and what it found."""

    def __init__(self, store, where):
        self.store, self.where = store, where
        self.counts = Counter()
        self.options = [store.options("auto"), store.options("boto3")]
        self._ids = iter(range(1 << 60))

    def check(self, is_right, what):
        """Count it; a wrong byte is printed."""
        self.counts["compared" if is_right else "WRONG"] += 1
        if not is_right:
            print("WRONG", what, flush=True)

    def frame(self, count):
        """Some rows of the store's objects, each with an id that no row before had."""
        numbers = [random.randrange(_OBJECTS) for _ in range(count)]
        return pd.DataFrame(
            {
                "id": [str(next(self._ids)) for _ in numbers],
                "a.bin": [f"s3://in/{number}" for number in numbers],
                "number": numbers,
                "roll": [random.random() for _ in numbers],
            }
        )

    def one(self):
        """Do one piece of work."""
        kind = random.choice([self.dirs, self.blobs, self.sizes, self.write, self.run, self.run, self.run])
        try:
            kind(random.choice(self.options))
        except RowError as exc:
            self.counts["reads or writes refused after five attempts"] += len(exc.failures)

    def dirs(self, options):
        """Read a frame into a temp dir."""
        frame = self.frame(12)
        with file_dataset.reader(frame, options=options).into_temp_dir() as temp:
            for row in frame.itertuples():
                self.check((temp / row.id / "a.bin").read_bytes() == body_of(str(row.number)), row)

    def blobs(self, options):
        """Read a frame into memory."""
        frame = self.frame(12)
        table = file_dataset.reader(frame, options=options).into_blob_table()
        for number, blob in zip(frame["number"], table["a.bin"], strict=True):
            self.check(blob.as_py() == body_of(str(number)), number)

    def sizes(self, options):
        """Ask for sizes."""
        frame = self.frame(20)
        table = file_dataset.reader(frame, options=options).into_size_table()
        self.check(table["a.bin"].to_pylist() == [len(body_of(str(n))) for n in frame["number"]], "sizes")

    def write(self, options):
        """Store a file; one in ten in parts."""
        name = str(next(self._ids))
        body = body_of(name)
        if random.random() < 0.1:
            body = (body * (_LARGE_BYTES // len(body) + 1))[:_LARGE_BYTES]
        path = self.where / "w.bin"
        path.write_bytes(body)
        file_dataset.write_files({"w.bin": path}, into_path="s3://out/w", id=name, options=options)
        self.check(self.store.ask("take", f"w/{name}/w.bin") == body, f"write {name}")

    def run(self, options):
        """Run a Pipeline; what its manifest lists must be stored, and right."""
        frame = self.frame(random.choice([1, 10, 30]))
        pipeline = file_dataset.Pipeline(
            reverse,
            write_options={"into_path": "s3://out/p"},
            options=options,
            workers=random.choice([0, 0, 2]),
            prefetch=random.choice([0, 2, 8]),
            temp_dir=self.where,
            progress=False,
        )
        result = pipeline.run(frame)
        listed = set(result.manifest["id"])
        self.counts["rows stored"] += len(listed)
        self.counts["rows dropped"] += len(frame) - len(listed)
        self.check(len(listed) + result.failures["id"].nunique() == len(frame), "rows add up")
        for row in frame.itertuples():
            stored = {name: self.store.ask("take", f"p/{row.id}/{name}") for name in ("r.bin", "same.bin")}
            if row.id in listed:
                body = body_of(str(row.number))
                self.check(stored == {"r.bin": body[::-1], "same.bin": body}, row)


_KILLED = """
import sys, time, pathlib, pandas as pd, file_dataset
source, out, temp = map(pathlib.Path, sys.argv[1:])
def copy(input_dir, output_dir):
    (output_dir / "o.bin").write_bytes((input_dir / "a.bin").read_bytes()); time.sleep(0.01)
    return {"o.bin": output_dir / "o.bin"}
while True:
    frame = pd.DataFrame({"id": [f"{i:03d}" for i in range(100)], "a.bin": [str(source)] * 100})
    pipeline = file_dataset.Pipeline(copy, write_options={"into_path": out}, temp_dir=temp, progress=False, workers=1)
    pipeline.run(frame)
"""


def killed(where, until, counts):
    """Start runs and kill them; no file under its final name may be a part of one."""
    source, out, temp = where / "killed.bin", where / "killed", where / "killed-temp"
    body = random.randbytes(2 << 20)
    source.write_bytes(body)
    temp.mkdir()
    while time.monotonic() < until:
        command = [sys.executable, "-c", _KILLED, str(source), str(out), str(temp)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1.5 + random.random() * 3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        counts["kills"] += 1
        counts["partial files"] += sum(path.read_bytes() != body for path in out.glob("*/o.bin"))
        shutil.rmtree(out, ignore_errors=True)
    # the next run in that temp dir, which ends
    last = _KILLED.replace("while True:", "for _ in (1,):")
    subprocess.run([sys.executable, "-c", last, str(source), str(out), str(temp)], check=True)
    counts["temp entries of killed runs"] = len(list(temp.iterdir()))


def held(where):
    """What this process holds: resident MB, descriptors, threads, children, entries of its temp dir (Linux)."""
    me = Path("/proc/self")
    pages = int((me / "statm").read_text(encoding="utf-8").split()[1])
    children = [(task / "children").read_text(encoding="utf-8") for task in (me / "task").iterdir()]
    ends = []
    for descriptor in (me / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            ends.append(str(descriptor.readlink()))
    names = [path.name for path in where.iterdir() if not path.name.startswith(("killed", "w.bin"))]
    return {
        "MB": pages * os.sysconf("SC_PAGE_SIZE") >> 20,
        "files": sum(not end.startswith("socket:") for end in ends),
        "sockets": sum(end.startswith("socket:") for end in ends),
        "threads": len(children),
        "children": sum(len(line.split()) for line in children),
        "temp": len(names),
    }


def main():
    """Work, look each minute, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    minutes = parser.parse_args().minutes
    logging.disable()
    store = Store()
    begun = time.monotonic()
    until = begun + minutes * 60
    seen = []
    with tempfile.TemporaryDirectory() as place:
        where = Path(place)
        work = Work(store, where)
        killer = threading.Thread(target=killed, args=(where, until, work.counts), daemon=True)
        killer.start()
        while time.monotonic() < until:
            if not seen or time.monotonic() - begun >= len(seen) * 60:
                seen.append(held(where))
                print(f"{len(seen) - 1:3d} min {seen[-1]} {dict(work.counts)}", flush=True)
            work.one()
        killer.join()
        seen.append(held(where))
    asked, fired, open_uploads = store.ask("counts")
    print(f"    end {seen[-1]} {dict(work.counts)}; {asked} requests, {fired} broken, {open_uploads} uploads left open")
    warm = seen[min(2, len(seen) - 1)]
    grown = [name for name in ("files", "threads", "children", "temp") if seen[-1][name] > warm[name]]
    if seen[-1]["sockets"] > _SOCKETS:
        grown.append("sockets")
    if seen[-1]["MB"] > warm["MB"] + _GROWTH_MB:
        grown.append("MB")
    wrong = [name for name in ("WRONG", "partial files", "temp entries of killed runs") if work.counts[name]]
    if grown or wrong:
        sys.exit(f"grew: {grown}; wrong: {wrong}")


if __name__ == "__main__":
    main()
