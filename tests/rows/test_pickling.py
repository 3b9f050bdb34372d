"""A `Pipeline` in other processes and threads: pickled, forked, shared."""

# what a Pipeline was given is shown nowhere else
# ruff: noqa: SLF001

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import pandas as pd
import pytest
from helpers import forward

import file_dataset
from file_dataset import Pipeline


def test_a_pipeline_pickles_before_and_after_use(frame, pipeline):
    one = pipeline()
    before = pickle.loads(pickle.dumps(one))
    expected = one(frame)
    after = pickle.loads(pickle.dumps(one))
    pd.testing.assert_frame_equal(before(frame), expected)
    pd.testing.assert_frame_equal(after(frame), expected)


@pytest.mark.usefixtures("default_options")
def test_default_options_are_resolved_when_a_pipeline_is_pickled_and_not_before(monkeypatch, bucket):
    one = Pipeline(forward, write_options={"into_path": bucket.url("out")}, progress=False)
    payload = pickle.dumps(one)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)  # a worker that has no access of its own
    frame = pd.DataFrame({"id": [1], "a.txt": [bucket.put("in", b"hi")]})
    assert pickle.loads(payload)(frame)["a.txt"].tolist() == [bucket.url("out/1/a.txt")]


def test_a_pickle_carries_every_setting():
    given = {
        "on_failure": "record", "max_failures": 9, "max_failed_fraction": 0.25, "prefetch": 5, "workers": 3,
        "fn_timeout_s": 1.5, "worker_env": {"A": "b"}, "file_columns": ["a.txt"], "outputs": ["b.txt"], "temp_dir": "t",
        "progress": False,
    }  # fmt: skip
    options = file_dataset.Options()
    one = Pipeline(forward, write_options={"into_path": "out"}, options=options, **given)
    settings = pickle.loads(pickle.dumps(one))._settings
    assert {name: getattr(settings, name) for name in given} == given
    assert {field.name for field in dataclasses.fields(settings)} == {*given, "fn", "write_options", "options"}


def test_sixteen_threads_share_a_pipeline(frame, pipeline):
    one = pipeline(forward)
    results = []
    threads = [threading.Thread(target=lambda: results.append(one(frame))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 16
    assert all(result.equals(results[0]) for result in results)


def test_a_forked_child_runs_a_pipeline_after_its_parent_did(faults, frame, pipeline):
    one = pipeline(forward)
    one(frame)
    child = os.fork()
    if child == 0:
        try:
            faults.let_go()
            os._exit(0 if len(one(frame)) == 4 else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(one(frame)) == 4


def test_a_script_can_pickle_a_function_of_its_main_with_the_seeds_typed_dict(faults, tmp_path):
    faults.put("s3://bucket/in/1", b"hello")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import pickle, subprocess, sys
        from pathlib import Path
        from typing import TypedDict
        import pandas as pd
        import file_dataset

        ResampledOutput = TypedDict("ResampledOutput", {{"output.mha": Path}})

        def resample(input_dir: Path, output_dir: Path) -> ResampledOutput:
            (output_dir / "output.mha").write_bytes((input_dir / "image.mha").read_bytes())
            return ResampledOutput({{"output.mha": output_dir / "output.mha"}})

        options = file_dataset.Options(
            {{"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}},
            {{"endpoint_url": {faults.endpoint_url!r}}},
        )
        pipeline = file_dataset.Pipeline(
            fn=resample, write_options={{"into_path": "s3://bucket/out"}}, options=options, progress=False
        )
        frame = pd.DataFrame({{"id": ["1"], "image.mha": ["s3://bucket/in/1"]}})
        Path(sys.argv[1]).write_bytes(pickle.dumps((pipeline, frame)))
        """)
    )
    payload = tmp_path / "payload"
    subprocess.run([sys.executable, script, payload], check=True)
    other = "import pickle, sys; p, f = pickle.load(open(sys.argv[1], 'rb')); print(p(f)['output.mha'][0])"
    done = subprocess.run([sys.executable, "-c", other, payload], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "s3://bucket/out/1/output.mha"
    assert faults.body("s3://bucket/out/1/output.mha") == b"hello"
