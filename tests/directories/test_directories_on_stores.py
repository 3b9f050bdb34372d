"""Directories as inputs on moto, on rclone, and by `s3/test_ceph.py` on Ceph's gateway: by both engines."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from helpers import options_for
from servers import rclone

from file_dataset import Options, Pipeline, list_files, reader, verify

COUNT = 1200  # LISTs have 1,000 keys
MANY = 10_000


def body(number):
    return b"%d" % number * (number % 3)  # empty ones too


@pytest.fixture(params=["auto", pytest.param("boto3", marks=pytest.mark.slow)])
def engine(request):
    return request.param


@pytest.fixture
def on_moto(bucket, options):
    """1,200 objects below one prefix, and a neighbour whose name begins alike."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: bucket.put(f"in/1/{number // 100:02}/{number:04}", body(number)), range(COUNT)))
    bucket.put("in/10/x", b"x")
    return options, bucket.url("in/")


@pytest.fixture(scope="module")
def rclone_url(tmp_path_factory):
    root = tmp_path_factory.mktemp("rclone")
    for number in range(COUNT):
        path = root / "bucket" / "in" / "1" / f"{number // 100:02}" / f"{number:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body(number))
    (root / "bucket" / "in" / "10").mkdir()
    (root / "bucket" / "in" / "10" / "x").write_bytes(b"x")
    with rclone.running(root) as url:
        yield url


@pytest.fixture
def on_rclone(rclone_url, engine):
    return Options(rclone.KEYS, options_for(rclone_url).s3_client_kwargs, engine=engine), "s3://bucket/in/"


# moto takes 5 ms for each request
ON_MOTO = pytest.param("on_moto", marks=[] if "FILE_DATASET_TEST_ENDPOINT" in os.environ else pytest.mark.slow)


@pytest.mark.parametrize("place", [ON_MOTO, "on_rclone"])
def test_a_directory_of_1200_objects_lands_whole(request, engine, place, run, trees, tmp_path):
    options, at = request.getfixturevalue(place)
    frame = list_files({"series": f"{at}{{id}}/"}, options=options)
    assert frame["id"].tolist() == ["1", "10"]
    result = run(frame, options)
    assert trees["1"] == {f"series/{n // 100:02}/{n:04}": body(n) for n in range(COUNT)}
    assert trees["10"] == {"series/x": b"x"}
    assert len(result.inputs) == COUNT + 1
    sizes = reader(frame, options=options).into_size_table()
    assert sizes["series"].to_pylist() == [sum(len(body(n)) for n in range(COUNT)), 1]
    local = reader(frame, options=options).into_dir(tmp_path / "d")
    pd.testing.assert_frame_equal(reader(frame, options=options).into_dir(tmp_path / "d"), local)


@pytest.fixture
def out_on_moto(endpoint):
    options, name = options_for(endpoint), f"many-{uuid.uuid4().hex[:16]}"
    options.s3_client.create_bucket(Bucket=name)
    return options, f"s3://{name}/"


@pytest.fixture
def out_on_rclone(tmp_path):
    (tmp_path / "rclone").mkdir()
    with rclone.running(tmp_path / "rclone") as url:
        yield Options(rclone.KEYS, options_for(url).s3_client_kwargs), "s3://bucket/"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("out_on_moto", marks=[] if "FILE_DATASET_TEST_ENDPOINT" in os.environ else pytest.mark.slow),
        pytest.param("out_on_rclone", marks=pytest.mark.slow),
    ],
)
def test_a_directory_of_10000_files_is_stored_read_and_replaced(request, place, trees, run, tmp_path, capsys):
    """What each step took is in the output of `pytest -s`."""
    options, at = request.getfixturevalue(place)
    files = {f"{n // 100:02}/{n:05}": body(n) for n in range(MANY)}
    (tmp_path / "start.txt").write_text("start")
    start = pd.DataFrame({"id": ["1"], "start.txt": [str(tmp_path / "start.txt")]})
    seconds = {}

    @contextlib.contextmanager
    def timed(step):
        begin = time.perf_counter()
        yield
        seconds[step] = round(time.perf_counter() - begin, 1)

    def stored(files):
        def write(input_dir, output_dir):
            for name, content in files.items():
                path = output_dir / "series" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return {"series": output_dir / "series"}

        return Pipeline(write, into_path=f"{at}out", options=options, progress=False).run(start)

    with timed("store"):
        first = stored(files)
    assert first.manifest["series"].tolist() == [f"{at}out/1/series/"]
    assert sorted(first.files["file"]) == [f"series/{name}" for name in files]
    with timed("verify"):
        assert verify(first.files, options=options).empty
    with timed("list"):
        found = list_files({"series": f"{at}out/{{id}}/series/"}, details=True, options=options)
    assert found["series.size_bytes"].tolist() == [sum(map(len, files.values()))]
    with timed("read"):
        assert len(run(first.manifest, options).inputs) == MANY
    assert trees["1"] == {f"series/{name}": content for name, content in files.items()}
    with timed("into_dir"):
        local = reader(first.manifest, options=options).into_dir(tmp_path / "d")
    with timed("into_dir again"):
        pd.testing.assert_frame_equal(reader(first.manifest, options=options).into_dir(tmp_path / "d"), local)
    with timed("replace"):
        second = stored({"new": b"new"})
    assert second.files["file"].tolist() == ["series/new"]
    with timed("read again"):
        run(second.manifest, options)
    assert trees["1"] == {"series/new": b"new"}
    with capsys.disabled():
        print(f"\n{MANY:,} files, {place}, s: {seconds}")  # noqa: T201  # a slow test's figures
