"""rclone's S3 server on loopback: it checks signatures, and knows neither checksums nor conditions."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": "secrettest", "region_name": "us-east-1"}


@contextlib.contextmanager
def running(root: Path) -> Iterator[str]:
    """Yield the URL of a server of `bucket`, whose objects are files below a directory: those that are there by now."""
    (root / "bucket").mkdir(exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    command = [Path(sys.executable).with_name("rclone"), "serve", "s3", "--auth-key", "AKIDTEST,secrettest"]
    command += ["--addr", address, "--vfs-cache-mode", "off", "--config", "/dev/null", root]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if "Starting s3 server" in line:
                break
        # it logs more, and stops when nothing takes that: a pipe holds 64 KiB
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield f"http://{address}"
        server.terminate()
