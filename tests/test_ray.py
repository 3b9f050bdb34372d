"""Ray Data: blobs of a frame, and Pipelines over a cluster, on a real Ray of this machine."""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import impatient_options
from PIL import Image

import file_dataset
from file_dataset import _ray_batch

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]


def texts(bucket, count, *, name="a.txt", missing=()):
    """A frame of small objects; those at `missing` are not there."""
    urls = [bucket.url(f"missing/{n}") if n in missing else bucket.put(f"in/{n}.txt", b"%d" % n) for n in range(count)]
    return pd.DataFrame({"id": [f"r{n}" for n in range(count)], name: urls, "label": [n * 10 for n in range(count)]})


def rows_of(dataset):
    return sorted(dataset.take_all(), key=lambda row: str(row.get("id")))


def forward(input_dir, output_dir):
    return {"out.txt": input_dir / "a.txt"}


def pipeline_into(place, fn=forward, **kwargs):
    return file_dataset.Pipeline(fn, write_options={"into_path": str(place)}, **kwargs)


class TestBlobReader:
    def test_the_seeds_call_gives_blobs_by_id(self, bucket, default_options):
        frame = texts(bucket, 10)
        dataset = file_dataset.ray.blob_reader(frame, batch_size=4, options=file_dataset.Options.default())
        assert rows_of(dataset) == [{"id": f"r{n}", "a.txt": b"%d" % n} for n in range(10)]

    def test_several_file_columns_nulls_and_integer_ids(self, bucket, options):
        frame = texts(bucket, 5).assign(**{"id": range(5), "b.bin": [bucket.put("b", b"bb"), None, None, None, None]})
        dataset = file_dataset.ray.blob_reader(frame, 2, options)
        assert dataset.schema().names == ["id", "a.txt", "b.bin"]
        assert dataset.schema().types == [pa.int64(), pa.binary(), pa.binary()]
        assert [row["b.bin"] for row in rows_of(dataset)] == [b"bb", None, None, None, None]

    def test_a_frame_without_ids_will_do(self, bucket, options):
        dataset = file_dataset.ray.blob_reader(texts(bucket, 3).drop(columns="id"), options=options)
        assert sorted(row["a.txt"] for row in dataset.take_all()) == [b"0", b"1", b"2"]
        assert dataset.columns() == ["a.txt"]

    def test_carried_columns_come_along_when_asked(self, bucket, options):
        frame = texts(bucket, 6).assign(weight=[None, None, None, 1.5, None, None])
        rows = rows_of(file_dataset.ray.blob_reader(frame, 2, options, carry=True))
        assert [row["label"] for row in rows] == [0, 10, 20, 30, 40, 50]
        assert [row["weight"] for row in rows][3] == 1.5

    def test_an_empty_frame_gives_its_columns(self, bucket, options):
        dataset = file_dataset.ray.blob_reader(texts(bucket, 2).iloc[:0], options=options, carry=True)
        assert dataset.count() == 0
        assert dataset.schema().names == ["id", "a.txt", "label"]

    def test_relative_paths_are_those_of_the_driver(self, tmp_path, monkeypatch):
        (tmp_path / "x.txt").write_bytes(b"here")
        monkeypatch.chdir(tmp_path)
        dataset = file_dataset.ray.blob_reader(pd.DataFrame({"x.txt": [Path("x.txt"), "x.txt"]}))
        assert [row["x.txt"] for row in dataset.take_all()] == [b"here", b"here"]

    def test_a_missing_file_raises_and_names_its_row(self, bucket, options):
        dataset = file_dataset.ray.blob_reader(texts(bucket, 12, missing=[9]), 4, options)
        with pytest.raises(Exception, match=r"row 'r9' failed at download a.txt .*NoSuchKey"):
            dataset.materialize()

    def test_a_missing_file_of_the_first_batch_raises_at_once(self, bucket, options):
        with pytest.raises(file_dataset.RowError, match="row 'r1'"):
            file_dataset.ray.blob_reader(texts(bucket, 4, missing=[1]), 4, options)

    @pytest.mark.parametrize("batch_size", [1, 8])
    def test_bad_rows_in_every_batch_are_dropped_alone(self, bucket, options, batch_size):
        frame = texts(bucket, 24, missing=[0, 8, 17])
        frame.loc[3, "a.txt"] = "gs://bucket/other"
        dataset = file_dataset.ray.blob_reader(frame, batch_size, options, on_failure="drop")
        assert dataset.count() == 20
        assert {row["id"] for row in dataset.take_all()} == {f"r{n}" for n in range(24)} - {"r0", "r3", "r8", "r17"}

    @pytest.mark.parametrize("batch_size", [1, 8])
    def test_bad_rows_are_recorded_beside_the_good(self, bucket, options, batch_size):
        frame = texts(bucket, 24, missing=[0, 8, 17])
        frame.loc[3, "a.txt"] = "gs://bucket/other"
        dataset = file_dataset.ray.blob_reader(frame, batch_size, options, on_failure="record")
        assert dataset.count() == 24
        kinds = dict(zip(dataset.schema().names, dataset.schema().types, strict=True))
        assert {kinds[name] for name in kinds if name.startswith("error_")} == {pa.string()}
        bad = {row["id"]: row for row in dataset.take_all() if row["error_stage"]}
        assert {row_id: row["error_code"] for row_id, row in bad.items()} == {
            "r0": "NoSuchKey", "r3": None, "r8": "NoSuchKey", "r17": "NoSuchKey",
        }  # fmt: skip
        assert all(row["a.txt"] is None for row in bad.values())

    def test_the_estimate_is_right_for_equal_sizes_and_costs_one_head_per_row_of_a_batch(self, faults, fault_options):
        for n in range(12):
            faults.put(f"s3://b/{n}", b"x" * 5000)
        frame = pd.DataFrame({"id": range(12), "x.bin": [f"s3://b/{n}" for n in range(12)]})
        dataset = file_dataset.ray.blob_reader(frame, 4, fault_options)
        assert 0.9 * 60000 <= dataset.size_bytes() <= 1.1 * 60000
        dataset.schema()
        assert (faults.count("HeadObject"), faults.count("GetObject")) == (4, 0)
        assert dataset.materialize().count() == 12
        assert (faults.count("HeadObject"), faults.count("GetObject")) == (4, 12)

    def test_every_task_tells_its_rows_and_bytes(self, bucket, options):
        from file_dataset._ray_data import Batch, BatchDatasource

        batches = [Batch(list, 4, 100), Batch(list, 2, 50)]
        source = BatchDatasource("Blobs", batches, pa.schema({"a.txt": pa.binary()}))
        told = [(task.metadata.num_rows, task.metadata.size_bytes) for task in source.get_read_tasks(7)]
        assert told == [(4, 100), (2, 50)]
        assert source.estimate_inmemory_data_size() == 150
        assert source.get_name() == "Blobs"

    def test_no_block_has_more_rows_than_a_batch(self, bucket, options):
        dataset = file_dataset.ray.blob_reader(texts(bucket, 10), 3, options).materialize()
        assert sorted(rows for bundle in dataset.iter_internal_ref_bundles() for rows in counts(bundle)) == [1, 3, 3, 3]

    def test_refused_credentials_end_the_job_in_every_mode(self, faults, fault_options):
        faults.put("b/0", b"x")
        faults.fail("GET", "b/0", status=403, code="InvalidAccessKeyId")
        faults.fail("HEAD", "b/0", status=403, code="InvalidAccessKeyId")
        frame = pd.DataFrame({"id": [1], "x.bin": ["s3://b/0"]})
        with pytest.raises(Exception, match="InvalidAccessKeyId|403"):
            file_dataset.ray.blob_reader(frame, 4, fault_options, on_failure="drop").materialize()

    def test_large_blobs_have_large_offsets(self, bucket, options):
        dataset = file_dataset.ray.blob_reader(texts(bucket, 2), options=options, large=True)
        assert dataset.schema().types == [pa.string(), pa.large_binary()]
        assert dataset.count() == 2

    def test_pngs_become_arrays_that_torch_takes(self, bucket, options):
        pictures = [np.full((8, 6, 3), 10 * n, np.uint8) for n in range(6)]
        urls = [bucket.put(f"{n}.png", png(picture)) for n, picture in enumerate(pictures)]
        frame = pd.DataFrame({"id": range(6), "scan.png": urls})

        def decode(table):
            images = [Image.open(io.BytesIO(memoryview(blob.as_buffer()))) for blob in table["scan.png"]]
            return {"id": table["id"].to_numpy(), "image": np.stack([np.asarray(image) for image in images])}

        dataset = file_dataset.ray.blob_reader(frame, 2, options)
        decoded = dataset.map_batches(decode, batch_format="pyarrow", zero_copy_batch=True)
        seen = {}
        for batch in decoded.iter_batches(batch_size=3, batch_format="numpy"):
            assert batch["image"].dtype == np.uint8
            assert batch["image"].shape[1:] == (8, 6, 3)
            seen |= dict(zip(batch["id"].tolist(), batch["image"], strict=True))
        assert all((seen[n] == pictures[n]).all() for n in range(6))

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"batch_size": 0}, "batch_size=0"),
            ({"on_failure": "skip"}, "on_failure='skip'"),
            ({"concurrency": 0}, "concurrency=0"),
            ({"num_cpus": -1}, "num_cpus=-1"),
            ({"options": {}}, "options is a dict"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_arguments_without_a_meaning_are_refused(self, bucket, arguments, said):
        with pytest.raises(file_dataset.InvalidDatasetError, match=said):
            file_dataset.ray.blob_reader(texts(bucket, 1), **arguments)


def counts(bundle):
    return [entry[1].num_rows if isinstance(entry, tuple) else entry.metadata.num_rows for entry in bundle.blocks]


def png(picture):
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "PNG")
        return file.getvalue()
