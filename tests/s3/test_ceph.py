"""The stores' tests once more, on Ceph's gateway: it checks signatures and has real multipart uploads and versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import radosgw

# Ceph 16.2 gives no checksums; the tests that compare them know (`tells_checksums`)
MODULES = (
    "directories/test_directories_on_stores.py",
    "s3/test_stores.py",
    "s3/test_pins.py",
    "rows/test_reader.py",
    "rows/test_versions.py",
    "rows/test_writer.py",
    "directories/test_output_stores.py",
    "s3/test_options.py",
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_holds_on_the_other_stores_holds_on_ceph(tmp_path):
    if why := radosgw.missing():
        pytest.skip(why)
    tests = Path(__file__).parents[1]
    with radosgw.running(tmp_path / "ceph") as url:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
            + [str(tests / name) for name in MODULES],
            env={
                **os.environ,
                "FILE_DATASET_TEST_ENDPOINT": url,
                "FILE_DATASET_TEST_KEYS": f"{radosgw.ACCESS_KEY}:{radosgw.SECRET_KEY}",
            },
            cwd=tests.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    print(done.stdout[-2000:])  # noqa: T201  # pytest shows it when this fails, and -s always
    assert done.returncode == 0, done.stdout[-8000:]
