"""The server of the benchmarks: Debian's nginx with its lua module, its listeners, and its certificates.

What a listener does is done by nginx itself, per connection, so that clients are compared at a store that behaves like
the real ones: the wait for the first byte is a lua sleep, downloads are paced by `limit_rate`. That does not pace the
reading of request bodies: uploads are read in lua, 512 KiB and a pause at a time (those in HTTP's chunks, boto3's over
TLS, at once, and answered as late).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
_PACKAGES = ("nginx-extras", "libnginx-mod-http-lua")

LATE_S = 0.03
# what a client in the same region sees of S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-design-patterns.html
# says 85 to 90 MB/s a connection, 100 to 200 ms for small objects; measured elsewhere: 60 MB/s, 20 ms
CLOUD_S = 0.02
CLOUD_BYTES_PER_S = 60 << 20
# S3 has 3,500 writes and 5,500 reads a second for a prefix; 2,000 is what two cores can serve and still have time
ALLOWED_PER_S = 2000
_BURST = 100  # 50 ms of it: a client that is even within that is never refused


@dataclass(frozen=True, slots=True)
class Store:
    """What a store is like: seconds to the first byte, bytes per second and connection, whether it refuses."""

    first_byte_s: float = 0
    bytes_per_s: int | None = None
    refuses: bool = False


# each on http and over TLS
STORES = {
    "": Store(),
    "cloud": Store(CLOUD_S, CLOUD_BYTES_PER_S),
    "late": Store(LATE_S),
    "refusing": Store(CLOUD_S, refuses=True),
}


def name_of(store: str, scheme: str) -> str:
    """Return the listener's name: "http", "cloud-tls"."""
    return f"{store}-{scheme}" if store else scheme


def write_configuration(scratch: Path, modules: str) -> dict[str, int]:
    """Write nginx.conf and what it needs into `scratch`; return the ports by the names of the listeners."""
    schemes = ("http", "tls") if _make_certificates(scratch) else ("http",)
    names = [(store, scheme) for store in STORES for scheme in schemes]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    servers = "\n".join(_server(STORES[store], port, scheme) for (store, scheme), port in ports.items())
    values = {
        "SERVERS": servers, "SCRATCH": scratch, "MODULES": modules, "WORKERS": os.cpu_count() or 1,
        "ALLOWED_PER_S": ALLOWED_PER_S,
    }  # fmt: skip
    for name in ("nginx.conf", "s3.conf"):
        text = (HERE / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        if os.getuid():
            text = text.replace("user root;\n", "")
        if "tls" not in schemes:
            text = "".join(line for line in text.splitlines(keepends=True) if "ssl_" not in line)
        (scratch / name).write_text(text)
    return {name_of(*name): port for name, port in ports.items()}


def _server(store: Store, port: int, scheme: str) -> str:
    lines = [f"listen 127.0.0.1:{port}{' ssl' if scheme == 'tls' else ''} backlog=4096;"]
    if store.first_byte_s:
        lines.append(f"access_by_lua_block {{ ngx.sleep({store.first_byte_s}) }}")
    lines.append(f"set $bytes_per_s {store.bytes_per_s or 0};")
    if store.bytes_per_s:
        # chunks of 8 ms; over TLS nginx sends a buffer at a time, and 64 KiB would be less than its clock's tick
        lines += [f"limit_rate {store.bytes_per_s};", "sendfile_max_chunk 512k;", "output_buffers 2 256k;"]
    if store.refuses:
        lines += [
            f"limit_req zone=allowed burst={_BURST} nodelay;",
            "error_page 503 @slow_down;",
            "log_by_lua_block { ngx.shared.counts:incr(ngx.var.server_port .. ngx.var.limit_req_status, 1, 0) }",
        ]
    lines.append("include @SCRATCH@/s3.conf;")
    return "  server {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def installed() -> tuple[str, str] | None:
    """Return nginx's binary and the directory of its modules, installed if need be; None where that cannot be."""
    if _found() is None and os.getuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(_PACKAGES)}")
        # runlevel 1: Debian starts no service
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for command in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", "-y", *_PACKAGES]):
            subprocess.run(["apt-get", *command], env=env, check=False, stdout=subprocess.DEVNULL)
    found = _found()
    if found is None:
        print("no nginx with a lua module, and none can be installed here: the endpoint is moto's server, http alone")
    return found


def _found() -> tuple[str, str] | None:
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    modules = [path for path in _MODULES if Path(path, "ngx_http_lua_module.so").exists()]
    return (binary, modules[0]) if binary and modules else None


def _make_certificates(scratch: Path) -> bool:
    """Write ca.pem, server.pem and server.key; False, said, where there is no openssl command."""
    if shutil.which("openssl") is None:
        print("no openssl command: the TLS cells are skipped")
        return False
    (scratch / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new = "openssl req -newkey rsa:2048 -nodes"
    for command in (
        f"{new} -x509 -days 30 -keyout ca.key -out ca.pem -subj /CN=benchmark-ca",
        f"{new} -keyout server.key -out server.csr -subj /CN=localhost",
        "openssl x509 -req -days 30 -in server.csr -CA ca.pem -CAkey ca.key -set_serial 1 -out server.pem -extfile san",
    ):
        subprocess.run(command.split(), cwd=scratch, check=True, capture_output=True)
    return True


def free_ports(count: int) -> list[int]:
    """Return ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
