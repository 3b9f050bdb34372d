"""Every python block of the README runs, in order, as one script, on a loopback S3; what it prints is what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

# notes what each `print` of the script prints, for this test to read
PRELUDE = """
import json as _json
_printed = []


def print(*values):
    _printed.append(" ".join(map(str, values)))
"""
EPILOGUE = """
assert dg.materialize(defs.assets, resources=defs.resources).success
with open("printed.json", "w") as _file:
    _json.dump(_printed, _file)
"""


def promised():
    """Return what the README says that each `print` prints: the comment behind it, or the comment lines below it."""
    lines = "\n".join(BLOCKS).splitlines()
    said = []
    for number, line in enumerate(lines):
        if not line.strip().startswith("print("):
            continue
        behind = re.search(r"\)  # (.*)$", line)
        below = []
        for following in lines[number + 1 :]:
            if not following.startswith("# "):
                break
            below.append(following.removeprefix("# "))
        said.append(behind[1] if behind else "\n".join(below))
    return said


def words(text):
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def my_bucket(default_options, options):
    client = options.s3_client
    client.create_bucket(Bucket="my-bucket")
    yield client
    for item in client.list_objects_v2(Bucket="my-bucket").get("Contents", []):
        client.delete_object(Bucket="my-bucket", Key=item["Key"])
    client.delete_bucket(Bucket="my-bucket")


def test_every_print_says_what_it_prints():
    assert len(promised()) >= 10
    assert all(promised())


@pytest.mark.xdist_group("ray")  # it starts a Ray: not beside another
@pytest.mark.timeout(300)
def test_the_samples_run_and_print_what_they_say(my_bucket, tmp_path):
    image = tmp_path / "image.mha"
    SimpleITK.WriteImage(SimpleITK.Image([8, 8, 8], SimpleITK.sitkInt16), image)
    for name in ("image", "image1", "image2", "image3", "image_mask"):
        my_bucket.put_object(Bucket="my-bucket", Key=f"{name}.mha", Body=image.read_bytes())
    (tmp_path / "resampled_image.mha").write_bytes(image.read_bytes())
    rows = "".join(f"s3://my-bucket/image{n}.mha,{n}\n" for n in (1, 2, 3))
    (tmp_path / "inputs_in_s3.csv").write_text("image.mha,id\n" + rows)
    (tmp_path / "script.py").write_text("\n".join([PRELUDE, *BLOCKS, EPILOGUE]))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads((tmp_path / "printed.json").read_text())
    assert [words(text) for text in printed] == [words(text) for text in promised()]
