"""Ceph's S3 gateway on loopback: one monitor, one OSD in memory, no systemd. Debian has the programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "ceph-common")
ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE00000000", "made-up-secret-of-a-test-cluster-00000000"

_CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = {at}/run
admin socket = {at}/run/$cluster-$name.asok
pid file = {at}/run/$name.pid
log file = {at}/log/$name.log
keyring = {at}/keyring
mon data = {at}/mon/$id
osd data = {at}/osd/$id
mgr data = {at}/mgr/$id
rgw data = {at}/rgw
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
osd objectstore = memstore
memstore device bytes = 4294967296
memstore page set = false
osd max object size = 134217728
mon osd full ratio = .99
mon osd nearfull ratio = .98
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
rgw crypt require ssl = false
"""


def missing() -> str | None:
    """Return why it cannot be started here, None when it can; installs it where that is allowed."""
    if not shutil.which("radosgw") and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]
        subprocess.run(command, check=False, capture_output=True)
    if not all(map(shutil.which, ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph"))):
        return f"Ceph is not installed: Debian's packages are {' '.join(PACKAGES)}"
    return None


@contextlib.contextmanager
def running(at: Path) -> Iterator[str]:
    """Yield the URL of a gateway whose cluster lives in a directory; it takes some 20 s to start."""
    mon2, mon1, port = _free_ports(3)
    for name in ("mon", "osd/0", "mgr", "run", "log", "rgw"):
        (at / name).mkdir(parents=True)
    conf = at / "ceph.conf"
    conf.write_text(_CONF.format(fsid=uuid.uuid4(), at=at, mon1=mon1, mon2=mon2, port=port))

    def run(*command: str) -> None:
        subprocess.run(
            command, check=True, capture_output=True, timeout=120, env={**os.environ, "CEPH_CONF": str(conf)}
        )

    keyring, monmap = str(at / "keyring"), str(at / "monmap")
    every = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    osd = ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *", "--cap", "mgr", "allow profile osd")
    try:
        run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name, caps in (("client.admin", every), ("osd.0", osd), ("client.rgw", every)):
            run("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
        addresses = f"[v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]"
        fsid = conf.read_text().split("fsid = ")[1].split()[0]
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, monmap)
        run("ceph-mon", "-c", str(conf), "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        run("ceph-mon", "-c", str(conf), "-i", "a")
        osd_id = str(uuid.uuid4())
        run("ceph", "-c", str(conf), "osd", "new", osd_id)
        run("ceph", "-c", str(conf), "auth", "import", "-i", keyring)
        run("ceph-osd", "-c", str(conf), "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        run("ceph-osd", "-c", str(conf), "-i", "0")
        user = ("--uid=test", "--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        run("radosgw-admin", "-c", str(conf), "user", "create", *user)
        run("radosgw", "-c", str(conf), "-n", "client.rgw")
        url = f"http://127.0.0.1:{port}"
        _wait_for(url)
        yield url
    finally:
        for path in (at / "run").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  # our own, on loopback
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"radosgw did not answer at {url}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
