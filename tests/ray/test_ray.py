"""Ray Data: blobs of a frame, and Pipelines over a cluster, on a real Ray of this machine."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import until
from PIL import Image
from servers.faults import Slow, Status

import file_dataset
from file_dataset import _pipeline
from file_dataset._ray import compat
from file_dataset._ray.batch import Pace

SLOW = pytest.mark.slow  # Ray starts processes for it, of two seconds of CPU each
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


@contextlib.contextmanager
def ray_processes():
    """How many worker processes of this Ray there are, ten times a second."""
    counts, ended = [], threading.Event()

    def look():
        while not ended.wait(0.1):
            columns = ["ps", "-A", "-o", "pid=,ppid=,args="]
            listing = subprocess.run(columns, capture_output=True, text=True, check=True).stdout
            parents = {
                pid: (parent, args) for pid, parent, args in (line.split(None, 2) for line in listing.splitlines())
            }
            count = 0
            for parent, args in parents.values():
                while parent in parents and parent != str(os.getpid()):
                    parent, _ = parents[parent]  # noqa: PLW2901  # up to this process
                count += parent in parents and args.startswith("ray::")
            counts.append(count)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()


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

    @pytest.mark.parametrize("is_dataset", [False, True], ids=["frame", "dataset"])
    def test_failures_that_a_pipeline_has_recorded_are_passed_on(self, bucket, options, local_ray, is_dataset):
        """Their rows came as good ones without a file: nothing said that they had failed."""
        pipeline = pipeline_into(bucket.url("out"), options=options, on_failure="record", progress=False)
        manifest = pipeline(texts(bucket, 6, missing=[0, 4]))
        manifest.loc[4, "out.txt"] = bucket.url("not/asked/for")
        given = local_ray.data.from_pandas(manifest) if is_dataset else manifest

        def read(on_failure):
            blobs = file_dataset.ray.blob_reader(given, 4, options, on_failure=on_failure, carry=True)
            return {row["id"]: row for row in blobs.take_all()}

        recorded = read("record")
        assert [recorded[f"r{n}"]["error_code"] for n in range(6)] == ["NoSuchKey", None, None, None, "NoSuchKey", None]
        assert [recorded[f"r{n}"]["out.txt"] for n in range(6)] == [None, b"1", b"2", b"3", None, b"5"]
        assert recorded["r4"]["error_url"] == bucket.url("missing/4")
        assert recorded["r4"]["label"] == 40
        assert sorted(read("drop")) == ["r1", "r2", "r3", "r5"]
        with pytest.raises(
            file_dataset.RowError, match=r"(?s)2 of 6 rows failed in an earlier .*'drop' .*row 'r0': download"
        ):
            read("raise")

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
        from file_dataset._ray.compat import Batch, BatchDatasource

        batches = [Batch(list, 4, 100), Batch(list, 2, 50)]
        source = BatchDatasource("Blobs", batches, pa.schema({"a.txt": pa.binary()}))
        told = [(task.metadata.num_rows, task.metadata.size_bytes) for task in source.get_read_tasks(7)]
        assert told == [(4, 100), (2, 50)]
        assert source.estimate_inmemory_data_size() == 150

    def test_the_bar_says_what_is_read(self, bucket, options):
        assert "ReadBlobs: 2 tasks" in file_dataset.ray.blob_reader(texts(bucket, 8), 4, options).materialize().stats()

    @SLOW
    def test_a_task_takes_what_it_is_told_to_take(self, faults, fault_options, local_ray):
        for n in range(4):
            faults.put(f"s3://b/{n}", b"x" * 100)
        faults.fail("GetObject", Slow(25), times=None)
        frame = pd.DataFrame({"id": range(4), "x.bin": [f"s3://b/{n}" for n in range(4)]})
        dataset = file_dataset.ray.blob_reader(
            frame, 1, fault_options, num_cpus=0.25, memory=50 << 20, concurrency=2, ray_remote_args={"num_gpus": 0.125}
        )
        until_free(local_ray)

        def taken():
            free = local_ray.available_resources()
            return [local_ray.cluster_resources()[name] - free.get(name, 0) for name in ("CPU", "GPU", "memory")]

        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(dataset.materialize)
            assert until(lambda: taken() == [0.5, 0.25, 100 << 20])  # of four tasks two are there at a time
            assert reading.result(60).count() == 4

    def test_a_blob_is_in_memory_once(self, faults, fault_options, monkeypatch):
        size_bytes = 40 << 20
        faults.put("s3://b/0", bytes(size_bytes))
        frame = pd.DataFrame({"id": [0], "x.bin": ["s3://b/0"]})
        sources = []
        monkeypatch.setattr(compat, "read", lambda source, *_, **__: sources.append(source))
        file_dataset.ray.blob_reader(frame, 1, fault_options)
        (task,) = sources[0].get_read_tasks(1)
        of_arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            (block,) = task()
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert block["x.bin"].nbytes > size_bytes
        assert peak_bytes + pa.total_allocated_bytes() - of_arrow < 1.25 * size_bytes

    def test_no_block_has_more_rows_than_a_batch(self, bucket, options):
        dataset = file_dataset.ray.blob_reader(texts(bucket, 6), 3, options).materialize()
        assert sorted(rows for bundle in dataset.iter_internal_ref_bundles() for rows in counts(bundle)) == [3, 3]

    def test_refused_credentials_end_the_job_in_every_mode(self, faults, fault_options):
        for n in range(2):
            faults.put(f"s3://b/{n}", b"x")
        # the first batch is fine: its task's own HEADs are none
        faults.fail("GetObject", Status(403, "InvalidAccessKeyId"), times=None)
        frame = pd.DataFrame({"id": [0, 1], "x.bin": ["s3://b/0", "s3://b/1"]})
        dataset = file_dataset.ray.blob_reader(frame, 1, fault_options, on_failure="drop")
        with pytest.raises(Exception, match="InvalidAccessKeyId"):
            dataset.materialize()

    def test_large_blobs_have_large_offsets(self, bucket, options):
        dataset = file_dataset.ray.blob_reader(texts(bucket, 2), options=options, large=True)
        assert dataset.schema().types[1] == pa.large_binary()
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


def log_pid(input_dir, output_dir, row):
    (output_dir / "pid.txt").write_text(str(os.getpid()))
    return {"pid.txt": output_dir / "pid.txt"}


def tell_resources(input_dir, output_dir):
    import ray

    (output_dir / "taken.json").write_text(json.dumps(ray.get_runtime_context().get_assigned_resources()))
    return {"taken.json": output_dir / "taken.json"}


def tell_loops(input_dir, output_dir):
    loops = [thread for thread in threading.enumerate() if thread.name == "file_dataset-http"]
    (output_dir / "loops.json").write_text(json.dumps([os.getpid(), len(loops)]))
    return {"loops.json": output_dir / "loops.json"}


def until_free(ray):
    """Wait for what earlier tests have taken."""
    assert until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


def upper(input_dir, output_dir, row):
    """Fail in every way, by the row's label."""
    how = row["label"]
    if how == "raise":
        raise ValueError("no luck")
    if how == "abort":
        os.abort()
    (output_dir / "out.txt").write_text((input_dir / "a.txt").read_text() + how)
    return {"out.txt": output_dir / "out.txt"} | ({"more.txt": None} if how == "more" else {})


class Model:
    """Tells each time that it is made."""

    def __init__(self):
        Path(os.environ["MADE_IN"], f"{os.getpid()}").touch(exist_ok=False)

    def __call__(self, input_dir, output_dir):
        return {"out.txt": input_dir / "a.txt"}


def assert_same(result, here):
    """Compare with the result of a local run, but for the bytes of messages that name processes."""
    for name in ("manifest", "files", "inputs"):
        pd.testing.assert_frame_equal(getattr(result, name), getattr(here, name))
    columns = [name for name in here.failures if name != "error_message"]
    pd.testing.assert_frame_equal(result.failures[columns], here.failures[columns])
    assert result.summary() == here.summary()
    assert result.files_without_digest == here.files_without_digest


class TestRunPipeline:
    @pytest.mark.parametrize(
        ("batch_size", "backed"), [pytest.param(1, "numpy", marks=SLOW), (3, "pyarrow"), (100, "numpy")]
    )
    def test_a_run_on_ray_gives_what_a_run_here_gives(self, bucket, options, batch_size, backed):
        labels = ["ok", "raise", "ok", "abort", "more", "ok", "ok", "ok"]
        frame = texts(bucket, 8, missing=[2, 6]).assign(label=labels, when=pd.Timestamp("2024-02-03"))
        if backed == "pyarrow":
            frame = frame.convert_dtypes(dtype_backend="pyarrow")
        pipeline = pipeline_into(bucket.url("out"), upper, options=options, workers=1, progress=False)
        result = file_dataset.ray.run_pipeline(pipeline, frame, batch_size=batch_size)
        assert_same(result, pipeline.run(frame))
        assert result.failures["id"].tolist() == ["r1", "r2", "r3", "r6"]
        assert result.input is frame
        assert result.failed_rows["id"].tolist() == ["r1", "r2", "r3", "r6"]

    def test_the_frame_is_not_changed_and_paths_are_those_of_the_driver(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "x").write_text("hi")
        frame = pd.DataFrame({"id": [1, 2], "a.txt": ["x", Path("x")]}, index=[7, 7])
        before = frame.copy()
        result = file_dataset.ray.run_pipeline(pipeline_into("out", progress=False), frame, batch_size=1)
        assert result.manifest["out.txt"].tolist() == [str(tmp_path / "out" / str(n) / "out.txt") for n in (1, 2)]
        assert (tmp_path / "out" / "2" / "out.txt").read_text() == "hi"
        pd.testing.assert_frame_equal(frame, before)

    def test_a_crashing_row_costs_one_row_though_the_pipeline_has_no_workers(self, bucket, options):
        frame = texts(bucket, 4).assign(label=["ok", "abort", "ok", "ok"])
        pipeline = pipeline_into(bucket.url("out"), upper, options=options)
        result = file_dataset.ray.run_pipeline(pipeline, frame, batch_size=2)
        assert result.failures[["id", "error_stage", "error_type"]].to_numpy().tolist() == [
            ["r1", "fn", "WorkerDiedError"]
        ]
        assert result.manifest["id"].tolist() == ["r0", "r2", "r3"]

    def test_worker_processes_stay_from_batch_to_batch(self, bucket, options):
        pipeline = pipeline_into(bucket.url("out"), log_pid, options=options)
        result = file_dataset.ray.run_pipeline(pipeline, texts(bucket, 12), batch_size=1)
        pids = {bucket.get(url.removeprefix(f"s3://{bucket.name}/")) for url in result.manifest["pid.txt"]}
        assert len(pids) <= 2  # as many as Ray has CPUs

    def test_a_class_is_made_once_per_actor(self, bucket, options, tmp_path):
        pipeline = pipeline_into(
            bucket.url("out"), Model, options=options, worker_env={"MADE_IN": str(tmp_path)}, workers=1
        )
        result = file_dataset.ray.run_pipeline(pipeline, texts(bucket, 10), batch_size=1, concurrency=2)
        assert len(result.manifest) == 10
        assert 1 <= len(list(tmp_path.iterdir())) <= 2

    def test_actors_may_hold_every_cpu(self, bucket, options):
        result = file_dataset.ray.run_pipeline(
            pipeline_into(bucket.url("out"), options=options),
            texts(bucket, 4),
            actors=True,
            num_cpus=1,
            concurrency=(1, 2),
        )
        assert len(result.manifest) == 4

    def test_no_rows_are_no_error(self, bucket, options):
        result = file_dataset.ray.run_pipeline(
            pipeline_into(bucket.url("out"), options=options, outputs=["out.txt"]), texts(bucket, 1).iloc[:0]
        )
        assert result.manifest.columns.tolist() == ["out.txt", "id", "label"]
        assert (len(result.manifest), result.dropped_rows) == (0, 0)

    @pytest.mark.parametrize("is_dataset", [False, True])
    def test_when_every_row_fails_the_frames_are_empty_and_typed(self, bucket, options, is_dataset, local_ray, caplog):
        frame = texts(bucket, 3, missing=[0, 1, 2])
        pipeline = pipeline_into(bucket.url("out"), options=options, outputs=["out.txt"])
        data = local_ray.data.from_pandas(frame) if is_dataset else frame
        result = file_dataset.ray.run_pipeline(pipeline, data, batch_size=1)
        assert result.manifest.columns.tolist() == ["out.txt", "id", "label"]
        assert len(result.manifest) == len(result.files) == 0
        assert result.failures["error_code"].tolist() == ["NoSuchKey"] * 3
        assert pd.api.types.is_integer_dtype(result.manifest["label"].dtype)
        assert any("all 3 rows failed" in record.message for record in caplog.records)

    def test_the_rows_of_a_dataset_have_their_inputs(self, bucket, options, local_ray):
        frame = texts(bucket, 4, missing=[1])
        pipeline = pipeline_into(bucket.url("out"), options=options, progress=False)
        inputs = file_dataset.ray.run_pipeline(pipeline, local_ray.data.from_pandas(frame), batch_size=2).inputs
        pd.testing.assert_frame_equal(inputs, pipeline.run(frame).inputs, check_dtype=False)

    def test_record_keeps_every_row_and_feeds_the_next(self, bucket, options):
        frame = texts(bucket, 4, missing=[1])
        pipeline = pipeline_into(bucket.url("out"), options=options, on_failure="record")
        result = file_dataset.ray.run_pipeline(pipeline, frame, batch_size=2)
        assert result.manifest["error_code"].tolist() == [None, "NoSuchKey", None, None] or result.manifest[
            "error_code"
        ].isna().tolist() == [True, False, True, True]
        again = pipeline_into(
            bucket.url("next"), lambda input_dir, output_dir: {"b.txt": input_dir / "out.txt"}, options=options
        )
        following = file_dataset.ray.run_pipeline(again, result.manifest, batch_size=1)
        assert following.manifest["id"].tolist() == ["r0", "r2", "r3"]
        assert following.failures["error_code"].tolist() == ["NoSuchKey"]

    def test_the_first_failure_stops_the_run_and_tells_what_was_done(self, bucket, options):
        frame = texts(bucket, 30, missing=[4])
        pipeline = pipeline_into(bucket.url("out"), options=options, on_failure="raise")
        with pytest.raises(file_dataset.RunStoppedError, match=r"first failure.*'r4'.*NoSuchKey") as stopped:
            file_dataset.ray.run_pipeline(pipeline, frame, batch_size=1, concurrency=1)
        result = stopped.value.result
        assert result.failures["id"].tolist() == ["r4"]
        assert len(result.unprocessed_rows) == 29 - len(result.manifest)

    @pytest.mark.parametrize("is_dataset", [False, True])
    def test_the_first_failure_leaves_the_later_rows_of_its_batch(
        self, bucket, options, tmp_path, is_dataset, local_ray
    ):
        def fn(input_dir, output_dir, row):
            (tmp_path / f"ran {row['id']}").touch()
            if row["id"] == "r2":
                raise ValueError("odd")
            return {"out.txt": input_dir / "a.txt"}

        frame = texts(bucket, 8)
        pipeline = pipeline_into(bucket.url("out"), fn, options=options, on_failure="raise", prefetch=0)
        data = local_ray.data.from_pandas(frame) if is_dataset else frame
        with pytest.raises(file_dataset.RunStoppedError, match=r"first failure.*'r2'.*odd") as stopped:
            file_dataset.ray.run_pipeline(pipeline, data, batch_size=8)
        result = stopped.value.result
        assert result.manifest["id"].tolist() == ["r0", "r1"]
        assert result.failures["id"].tolist() == ["r2"]
        assert sorted(at.name for at in tmp_path.iterdir()) == ["ran r0", "ran r1", "ran r2"]
        assert result.summary() == "1 of 8 rows dropped (12.5%): 1 at fn"
        assert "5 not processed" in repr(result)
        if not is_dataset:
            assert result.unprocessed_rows["id"].tolist() == ["r3", "r4", "r5", "r6", "r7"]

    def test_a_failure_too_many_names_the_rows_that_no_task_has_run(self, bucket, options):
        pipeline = pipeline_into(bucket.url("out"), options=options, max_failures=1)
        frame = texts(bucket, 40, missing=[1, 3])
        with pytest.raises(file_dataset.RunStoppedError, match="allows 1") as stopped:
            file_dataset.ray.run_pipeline(pipeline, frame, batch_size=4, concurrency=1)
        result = stopped.value.result
        known = {*result.manifest["id"], *result.failures["id"]}
        assert {"r0", "r1", "r2", "r3"} <= known
        assert result.unprocessed_rows["id"].tolist() == [row_id for row_id in frame["id"] if row_id not in known]

    def test_actors_come_with_few_processes_that_read(self, bucket, options, tmp_path):
        """Reading tasks without a bound were a process for each batch that waits: 27 for 20 batches."""
        made_in = {"MADE_IN": str(tmp_path)}
        pipeline = pipeline_into(bucket.url("out"), Model, options=options, worker_env=made_in, workers=1)
        with ray_processes() as counts:
            result = file_dataset.ray.run_pipeline(pipeline, texts(bucket, 20), batch_size=1, concurrency=1)
        assert len(result.manifest) == 20
        # an actor and a reader, Ray Data's own, and those that idle, which are as many as CPUs
        assert 2 <= max(counts) <= 10

    def test_tasks_that_take_nothing_are_bounded_too(self, bucket, options):
        pipeline = pipeline_into(bucket.url("out"), options=options)
        with ray_processes() as counts:
            result = file_dataset.ray.run_pipeline(pipeline, texts(bucket, 16), batch_size=1, num_cpus=0)
            blobs = file_dataset.ray.blob_reader(texts(bucket, 16), 1, options, num_cpus=0).take_all()
        assert (len(result.manifest), len(blobs)) == (16, 16)
        assert 2 <= max(counts) <= 10

    def test_failures_are_counted_over_all_batches(self, bucket, options):
        frame = texts(bucket, 12, missing=[0, 3, 6, 9])
        allowed = pipeline_into(bucket.url("out"), options=options, max_failures=4)
        assert file_dataset.ray.run_pipeline(allowed, frame, batch_size=3).dropped_rows == 4
        refused = pipeline_into(bucket.url("out"), options=options, max_failures=3)
        with pytest.raises(file_dataset.RunStoppedError, match="4 of 12 rows failed, max_failures=3 allows 3"):
            file_dataset.ray.run_pipeline(refused, frame, batch_size=3)
        share = pipeline_into(bucket.url("out"), options=options, max_failures=4, max_failed_fraction=0.25)
        with pytest.raises(file_dataset.RunStoppedError, match=r"4 of 12 rows failed, max_failed_fraction=0\.25 "):
            file_dataset.ray.run_pipeline(share, frame, batch_size=3)

    def test_what_stops_a_batch_stops_the_run(self, faults, fault_options):
        for n in range(4):
            faults.put(f"s3://b/{n}", b"x")
        faults.fail("GetObject", Status(403, "InvalidAccessKeyId"), times=None)
        frame = pd.DataFrame({"id": range(4), "a.txt": [f"s3://b/{n}" for n in range(4)]})
        with pytest.raises(file_dataset.RunStoppedError, match="InvalidAccessKeyId") as stopped:
            file_dataset.ray.run_pipeline(pipeline_into("s3://b/out", options=fault_options), frame, batch_size=2)
        assert len(stopped.value.result.manifest) == 0

    def test_a_class_that_cannot_be_made_stops_the_run(self, bucket, options):
        class Broken:
            def __init__(self):
                raise RuntimeError("no weights")

            def __call__(self, input_dir, output_dir):
                return {}

        with pytest.raises(file_dataset.RunStoppedError, match="no weights"):
            file_dataset.ray.run_pipeline(
                pipeline_into(bucket.url("out"), Broken, options=options), texts(bucket, 2), concurrency=1
            )

    def test_no_output_replaces_the_input_of_another_batch(self, bucket, options):
        frame = texts(bucket, 2)
        victim = bucket.put("out/r0/out.txt", b"precious")
        frame.loc[1, "a.txt"] = victim
        result = file_dataset.ray.run_pipeline(
            pipeline_into(bucket.url("out"), options=options), frame, batch_size=1, concurrency=1
        )
        assert result.failures[["id", "error_stage"]].to_numpy().tolist() == [["r0", "upload"]]
        assert bucket.get("out/r0/out.txt") == b"precious"

    def test_only_the_first_row_can_say_that_the_target_takes_nothing(self, faults, fault_options):
        for n in range(3):
            faults.put(f"s3://b/{n}", b"x")
        frame = pd.DataFrame({"id": range(3), "a.txt": [f"s3://b/{n}" for n in range(3)]})
        faults.fail("PutObject", Status(403, "AccessDenied"), key="out/2/out.txt", times=None)
        pipeline = pipeline_into("s3://b/out", options=fault_options)
        assert file_dataset.ray.run_pipeline(pipeline, frame, batch_size=1).failures["id"].tolist() == [2]
        faults.fail("PutObject", Status(403, "AccessDenied"), key="out/0/out.txt", times=None)
        with pytest.raises(file_dataset.RunStoppedError, match="refused every output"):
            file_dataset.ray.run_pipeline(pipeline, frame, batch_size=1)

    def test_progress_is_told_on_the_driver(self, bucket, options):
        told = []
        pipeline = pipeline_into(bucket.url("out"), options=options, progress=told.append)
        file_dataset.ray.run_pipeline(pipeline, texts(bucket, 6, missing=[2]), batch_size=2)
        assert [now.done for now in told] == [2, 4, 6]
        assert told[-1] == file_dataset.Progress(6, 6, 1)

    def test_a_dataset_goes_in_and_the_order_of_its_rows_comes_out(self, bucket, options, local_ray):
        frame = texts(bucket, 9, missing=[5])
        dataset = local_ray.data.from_pandas(frame).repartition(4)
        result = file_dataset.ray.run_pipeline(pipeline_into(bucket.url("out"), options=options), dataset, batch_size=2)
        assert result.manifest["id"].tolist() == [f"r{n}" for n in range(9) if n != 5]
        assert result.manifest["label"].tolist() == [n * 10 for n in range(9) if n != 5]
        assert result.failures["id"].tolist() == ["r5"]
        assert result.summary() == "1 of 9 rows dropped (11.1%): 1 at download"
        assert result.input is None

    def test_arrays_that_a_dataset_carries_come_back(self, bucket, options, local_ray):
        """Arrow has no type for two dimensions, and tensors of other shapes are of another type to it."""
        thumbnails = [np.full((2, 2 + n // 2), n) for n in range(6)]
        frame = texts(bucket, 6, missing=[5]).assign(thumbnail=thumbnails)
        pipeline = pipeline_into(bucket.url("out"), options=options, progress=False)
        result = file_dataset.ray.run_pipeline(pipeline, local_ray.data.from_pandas(frame), batch_size=2)
        assert result.failures["id"].tolist() == ["r5"]
        carried = result.manifest["thumbnail"].tolist()
        assert [np.asarray(one).tolist() for one in carried] == [one.tolist() for one in thumbnails[:5]]

    def test_ids_are_compared_over_all_blocks_of_a_dataset(self, bucket, options, local_ray):
        frame = texts(bucket, 4).assign(id=["a", "b", "c", "a"])
        dataset = local_ray.data.from_pandas(frame).repartition(4)
        with pytest.raises(file_dataset.InvalidDatasetError, match="duplicate ids"):
            file_dataset.ray.run_pipeline(pipeline_into(bucket.url("out"), options=options), dataset, batch_size=1)
        assert not any(key.startswith("out/") for key in list(bucket.keys()))

    def test_a_dataset_that_is_no_input_is_refused(self, bucket, options, local_ray):
        dataset = local_ray.data.from_pandas(texts(bucket, 4).drop(columns="id"))
        with pytest.raises(file_dataset.InvalidDatasetError, match="no column 'id'"):
            file_dataset.ray.run_pipeline(pipeline_into(bucket.url("out"), options=options), dataset)

    def test_rays_error_before_any_row_of_a_dataset_comes_back_is_rays(self, bucket, options, local_ray):
        """Ray has no Arrow type for a column of lists in a block of pandas."""

        def dies(input_dir, output_dir):
            os._exit(1)

        dataset = local_ray.data.from_pandas(texts(bucket, 1).assign(box=[[1, 2]]))
        once = {"workers": 0, "ray_remote_args": {"max_retries": 0}}
        with pytest.raises(local_ray.exceptions.RayError) as stopped:
            file_dataset.ray.run_pipeline(pipeline_into(bucket.url("out"), dies, options=options), dataset, **once)
        assert stopped.value.result.manifest.empty
        assert stopped.value.result.input is None

    def test_an_empty_dataset_is_no_error(self, bucket, options, local_ray):
        dataset = local_ray.data.from_pandas(texts(bucket, 2)).filter(lambda row: False)
        result = file_dataset.ray.run_pipeline(pipeline_into(bucket.url("out"), options=options), dataset)
        assert len(result.manifest) == 0
        assert "id" in result.manifest

    def test_an_option_that_was_not_given_is_the_drivers(self, bucket, default_options):
        result = file_dataset.ray.run_pipeline(pipeline_into(bucket.url("out")), texts(bucket, 2))
        assert len(result.manifest) == 2

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"batch_size": 0}, "batch_size=0"),
            ({"batch_size": True}, "batch_size=True"),
            ({"num_gpus": -1}, "num_gpus=-1"),
            ({"concurrency": (1, 2)}, "is for actors"),
            ({"concurrency": (3, 2), "actors": True}, "least, most"),
            ({"workers": -1}, "workers=-1"),
        ],
        ids=lambda value: repr(value) if isinstance(value, dict) else "",
    )
    def test_arguments_without_a_meaning_are_refused(self, bucket, options, arguments, said):
        with pytest.raises(file_dataset.InvalidDatasetError, match=said):
            file_dataset.ray.run_pipeline(
                pipeline_into(bucket.url("out"), options=options), texts(bucket, 1), **arguments
            )

    @pytest.mark.parametrize(
        ("is_dataset", "actors"),
        [(False, False), (True, True), pytest.param(False, True, marks=SLOW), pytest.param(True, False, marks=SLOW)],
    )
    def test_tasks_take_what_they_are_told_to_take(self, bucket, options, local_ray, is_dataset, actors):
        frame = texts(bucket, 4)
        result = file_dataset.ray.run_pipeline(
            pipeline_into(bucket.url("out"), tell_resources, options=options),
            local_ray.data.from_pandas(frame) if is_dataset else frame,
            batch_size=2,
            num_cpus=0.5,
            num_gpus=0.5,
            memory=50 << 20,
            workers=0,
            actors=actors,
        )
        told = [json.loads(bucket.get(f"out/r{n}/taken.json")) for n in range(4)]
        assert told == [{"CPU": 0.5, "GPU": 0.5, "memory": 50 << 20}] * 4
        assert result.manifest["id"].tolist() == ["r0", "r1", "r2", "r3"]

    def test_a_process_has_one_loop_and_its_connections_however_many_batches(self, faults, fault_options):
        for n in range(40):
            faults.put(f"s3://b/{n}", b"%d" % n)
        frame = pd.DataFrame({"id": range(40), "a.txt": [f"s3://b/{n}" for n in range(40)]})
        before = faults.accepted
        result = file_dataset.ray.run_pipeline(
            pipeline_into("s3://b/out", tell_loops, options=fault_options), frame, batch_size=1, workers=0
        )
        assert len(result.manifest) == 40
        loops = dict(json.loads(faults.body(url)) for url in result.manifest["loops.json"])
        assert set(loops.values()) == {1}
        # at most: boto3's first request, and a read and a write at a time, in each of two processes and this one
        assert faults.accepted - before <= 3 * len({*loops, os.getpid()})


class TestMapBatches:
    @pytest.mark.parametrize("resources", [{}, {"num_gpus": 1}], ids=["cpu", "gpu"])
    @pytest.mark.parametrize("blocks", ["pandas", "arrow"])
    def test_the_seeds_call(self, bucket, options, local_ray, blocks, resources):
        frame = texts(bucket, 10, missing=[3])
        table = pa.Table.from_pandas(frame, preserve_index=False)
        dataset = local_ray.data.from_pandas(frame) if blocks == "pandas" else local_ray.data.from_arrow(table)
        resampled = dataset.map_batches(
            file_dataset.Pipeline(tell_resources, write_options={"into_path": bucket.url("out")}, options=options),
            batch_format="pandas",
            batch_size=8,
            concurrency=32,
            **resources,
        ).materialize()
        assert resampled.count() == 9
        row = next(row for row in resampled.take_all() if row["id"] == "r7")
        assert row == {"taken.json": bucket.url("out/r7/taken.json"), "id": "r7", "label": 70}
        assert json.loads(bucket.get("out/r7/taken.json")).get("GPU") == resources.get("num_gpus")

    def test_bad_rows_in_small_batches_cost_themselves_alone(self, bucket, options, local_ray):
        pipeline = pipeline_into(bucket.url("out"), options=options)
        dataset = local_ray.data.from_pandas(texts(bucket, 24, missing=[0, 8, 17])).repartition(3)
        assert dataset.map_batches(pipeline, batch_format="pandas", batch_size=1).count() == 21

    def test_failures_travel_as_columns(self, bucket, options, local_ray):
        pipeline = pipeline_into(bucket.url("out"), options=options, on_failure="record")
        dataset = local_ray.data.from_pandas(texts(bucket, 6, missing=[0, 4])).repartition(3)
        mapped = dataset.map_batches(pipeline, batch_format="pandas", batch_size=2).materialize()
        result = file_dataset.PipelineResult.from_recorded(mapped.to_pandas())
        assert sorted(result.failures["id"]) == ["r0", "r4"]
        assert len(result.manifest) == 4

    def test_worker_processes_stay_from_batch_to_batch(self, bucket, options, local_ray):
        pipeline = pipeline_into(bucket.url("out"), log_pid, options=options, workers=1)
        dataset = local_ray.data.from_pandas(texts(bucket, 8))
        mapped = dataset.map_batches(pipeline, batch_format="pandas", batch_size=1).to_pandas()
        assert len({bucket.get(url.removeprefix(f"s3://{bucket.name}/")) for url in mapped["pid.txt"]}) <= 2

    def test_without_workers_it_warns_once_that_ray_runs_a_crashing_row_again(self, bucket, options, local_ray):
        @local_ray.remote
        def told(payload, frame):
            lines = []
            handler = logging.Handler()
            handler.emit = lambda record: lines.append(record.getMessage())
            logging.getLogger("file_dataset").addHandler(handler)
            _pipeline._warn_of_crashes.cache_clear()  # noqa: SLF001  # another test's task has been here
            for _ in range(2):
                pickle.loads(payload)(frame)
            return [line for line in lines if "again and again" in line]

        frame = texts(bucket, 1)
        risky = pickle.dumps(pipeline_into(bucket.url("out"), options=options))
        assert len(local_ray.get(told.remote(risky, frame))) == 1
        safe = pickle.dumps(pipeline_into(bucket.url("out"), options=options, workers=1))
        assert local_ray.get(told.remote(safe, frame)) == []


class TestWithoutRay:
    """What happens before Ray starts, or where it is not installed: in processes of their own."""

    def test_importing_the_package_does_not_load_ray_and_its_name_does(self):
        code = (
            "import sys, file_dataset; print('ray' in sys.modules, 'ray' in dir(file_dataset)); "
            "print(file_dataset.ray.__name__, 'ray' in sys.modules, sys.modules['ray'].__name__)"
        )
        assert run_script(code).split() == ["False", "True", "file_dataset.ray", "True", "ray"]

    def test_its_public_names_have_help(self):
        assert file_dataset.ray.__all__ == ["blob_reader", "run_pipeline"]
        assert all(
            "Args:" in (inspect.getdoc(getattr(file_dataset.ray, name)) or "") for name in file_dataset.ray.__all__
        )

    def test_without_ray_the_error_names_the_extra(self):
        code = """
        import sys
        sys.modules["ray"] = None  # as where it is not installed
        import file_dataset
        try:
            file_dataset.ray
        except file_dataset.MissingExtraError as exc:
            print(exc)
        """
        assert "pip install 'file-dataset[ray]'" in run_script(code)

    def test_a_bad_frame_is_refused_before_ray_starts(self):
        code = """
        import pandas as pd, ray, file_dataset
        frame = pd.DataFrame({"id": [1, 1], "a.txt": ["s3://b/1", "s3://b/2"]})
        pipeline = file_dataset.Pipeline(lambda i, o: {}, write_options={"into_path": "s3://b/out"})
        run, read = file_dataset.ray.run_pipeline, file_dataset.ray.blob_reader
        for call in (lambda: run(pipeline, frame), lambda: read(frame)):
            try:
                call()
            except file_dataset.InvalidDatasetError as exc:
                print(exc, ray.is_initialized())
        """
        refused = run_script(code).splitlines()
        assert [line.startswith("duplicate ids: [1] (2 rows in all)") for line in refused] == [True, True]
        assert [line.endswith(" False") for line in refused] == [True, True]


def run_script(code, **kwargs):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, **kwargs
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def existing(bucket):
    """Six rows, of which the first has an output already, in S3."""
    bucket.put("out/r0/out.txt", b"before")
    return texts(bucket, 6)


@pytest.mark.parametrize("if_exists", ["error", "skip"])
def test_outputs_that_are_there_stay_as_they_do_in_this_process(bucket, options, existing, if_exists):
    write = {"into_path": bucket.url("out"), "if_exists": if_exists}
    pipeline = file_dataset.Pipeline(forward, write_options=write, outputs=["out.txt"], options=options, progress=False)
    result = file_dataset.ray.run_pipeline(pipeline, existing, batch_size=2)
    assert bucket.get("out/r0/out.txt") == b"before"
    assert bucket.get("out/r5/out.txt") == b"5"
    assert result.failures["error_type"].tolist() == (["FileExistsError"] if if_exists == "error" else [])
    assert len(result.manifest) == (5 if if_exists == "error" else 6)
    assert result.files["size_bytes"].tolist()[:1] == [1 if if_exists == "error" else 6]


def test_map_batches_skips_rows_whose_outputs_are_there(local_ray, bucket, options, existing):
    write = {"into_path": bucket.url("out"), "if_exists": "skip"}
    pipeline = file_dataset.Pipeline(forward, write_options=write, outputs=["out.txt"], options=options, progress=False)
    dataset = local_ray.data.from_pandas(existing).map_batches(pipeline, batch_format="pandas", batch_size=3)
    assert [row["id"] for row in rows_of(dataset)] == [f"r{n}" for n in range(6)]
    assert bucket.get("out/r0/out.txt") == b"before"


def test_a_pace_that_outlasts_rays_patience_is_told_once(caplog):
    pace = Pace(batch_size=1000, patience_s=0.000_001)
    for _ in range(3):
        pace(file_dataset.Progress(1, 3, 0))
    (record,) = [record for record in caplog.records if "smaller batch_size" in record.message]
    assert record.levelno == logging.WARNING


def test_a_pace_that_ends_in_time_is_not(caplog):
    Pace(batch_size=8, patience_s=1800)(file_dataset.Progress(1, 3, 0))
    Pace(batch_size=10**9, patience_s=None)(file_dataset.Progress(1, 3, 0))
    assert caplog.records == []


def test_a_function_that_tasks_cannot_load_stops_the_run_with_the_remedy(bucket, options, monkeypatch, tmp_path):
    (tmp_path / "only_here.py").write_text("def fn(input_dir, output_dir):\n    return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(file_dataset.RunStoppedError, match=r"No module named 'only_here'; install .*runtime_env"):
        file_dataset.ray.run_pipeline(pipeline_into(bucket.url("out"), only_here.fn, options=options), texts(bucket, 1))
