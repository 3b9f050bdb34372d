"""Directories as inputs on moto, on rclone, and by `s3/test_ceph.py` on Ceph's gateway: by both engines."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from helpers import options_for
from servers import rclone

from file_dataset import Options, list_files, reader

COUNT = 1200  # LISTs have 1,000 keys


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
