"""Every python block of the README runs, in order, as one script, on a loopback S3; what it prints is what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def my_bucket(default_options, options):
    client = options.s3_client
    client.create_bucket(Bucket="my-bucket")
    yield client
    for item in client.list_objects_v2(Bucket="my-bucket").get("Contents", []):
        client.delete_object(Bucket="my-bucket", Key=item["Key"])
    client.delete_bucket(Bucket="my-bucket")


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def promised():
    """What the comments behind single-line prints say is printed."""
    return [match[1] for match in re.finditer(r"^ *print\(.*\)  # (.*)$", "\n".join(blocks()), re.MULTILINE)]


@pytest.mark.timeout(300)
def test_the_readmes_samples_run_and_print_what_they_say(my_bucket, tmp_path):
    image = tmp_path / "image.mha"
    SimpleITK.WriteImage(SimpleITK.Image([8, 8, 8], SimpleITK.sitkInt16), image)
    for name in ("image", "image1", "image2", "image3", "image_mask"):
        my_bucket.put_object(Bucket="my-bucket", Key=f"{name}.mha", Body=image.read_bytes())
    (tmp_path / "resampled_image.mha").write_bytes(image.read_bytes())
    rows = "".join(f"s3://my-bucket/image{n}.mha,{n}\n" for n in (1, 2, 3))
    (tmp_path / "inputs_in_s3.csv").write_text("image.mha,id\n" + rows)

    then = "\nassert dg.materialize(defs.assets, resources=defs.resources).success\n"
    (tmp_path / "script.py").write_text("\n".join(blocks()) + then)
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    literal = [
        text for text in promised() if text[0] in "[{" or text[0].isdigit() or text.startswith("image.mha: binary")
    ]
    assert len(literal) >= 6
    for text in literal:
        assert text in lines, f"{text!r} is not among\n{done.stdout}"


def test_the_tables_in_the_readme_are_printed_so(my_bucket):
    """The frames shown as comments: their cells are those that the samples give (see the test above)."""
    shown = re.findall(r"^# (\d+ .*)$", "\n".join(blocks()), re.MULTILINE)
    assert [line.split() for line in shown[:3]] == [
        [str(n), f"s3://my-bucket/resampled/{n + 1}/output.mha", str(n + 1), label]
        for n, label in enumerate(["healthy", "healthy", "ill"])
    ]
