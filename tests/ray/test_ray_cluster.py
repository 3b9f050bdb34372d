"""What a cluster does to a run: processes and nodes that go, Ray Client, an address, Ctrl-C; each in its own Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest
from helpers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]

# 40 rows on local disk; fn sleeps, and tells who runs what
PRELUDE = """
import os, pathlib, signal, sys, threading, time
import pandas as pd
import ray
import file_dataset

here = pathlib.Path(sys.argv[1])
frame = pd.DataFrame({"id": range(40), "a.txt": [str(here / f"{n}.txt") for n in range(40)]})
for n in range(40):
    (here / f"{n}.txt").write_text(str(n))


def fn(input_dir, output_dir, row):
    time.sleep(0.2)
    (output_dir / "b.txt").write_text((input_dir / "a.txt").read_text())
    return {"b.txt": output_dir / "b.txt"}


def pipeline(fn=fn, **kwargs):
    return file_dataset.Pipeline(fn, write_options={"into_path": str(here / "out")}, **kwargs)


def check(result):
    assert result.dropped_rows == 0, result
    assert result.manifest["id"].tolist() == list(range(40))
    assert [pathlib.Path(at).read_text() for at in result.manifest["b.txt"]] == [str(n) for n in range(40)]
    assert len(result.files) == len(result.inputs) == 40
    print("whole")
"""


@pytest.fixture
def environment():
    """Short paths for Ray's sockets, no token, no statistics."""
    with tempfile.TemporaryDirectory(prefix="ray") as short:
        yield {
            **os.environ,
            "RAY_TMPDIR": short,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        }


def script(code):
    return PRELUDE + textwrap.dedent(code)


def run(code, tmp_path, environment):
    done = subprocess.run(
        [sys.executable, "-c", script(code), str(tmp_path)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_a_task_whose_process_is_killed_runs_again(tmp_path, environment):
    code = """
    def once(input_dir, output_dir, row):
        flag = here / f"killed-{row['id']}"
        if row["id"] in (5, 21) and not flag.exists():
            flag.touch()
            os.kill(os.getppid(), signal.SIGKILL)  # the parent of fn's process is Ray's
            time.sleep(60)
        return fn(input_dir, output_dir, row)

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20)
    check(file_dataset.ray.run_pipeline(pipeline(once), frame, batch_size=4))
    assert (here / "killed-5").exists() and (here / "killed-21").exists()
    """
    assert "whole" in run(code, tmp_path, environment)


LOSES_A_NODE = """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "object_store_memory": 100 << 20}})
    lost = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address)
    told = threading.Event()

    def remove():
        told.wait()
        cluster.remove_node(lost, allow_graceful=False)
        print("removed")

    remover = threading.Thread(target=remove)
    remover.start()
    seen = pipeline(progress=lambda now: now.done >= 6 and told.set())
    check(file_dataset.ray.run_pipeline(seen, frame, batch_size=2, {how}))
    remover.join()
    print("to run:", pipeline().plan(frame, checkpoint=here / "runs").summary())
    sys.stdout.flush()
    ray.shutdown()
    cluster.shutdown()
    os._exit(0)  # Ray's own end of a driver that has seen a node go is an error
    """


@pytest.mark.parametrize("how", ["actors=False", "actors=True, concurrency=2"])
def test_a_node_that_is_removed_takes_no_row_along(tmp_path, environment, how):
    printed = run(LOSES_A_NODE.format(how=how), tmp_path, environment)
    assert "removed" in printed
    assert "whole" in printed


def test_rows_that_a_removed_node_had_are_written_down_too(tmp_path, environment):
    printed = run(LOSES_A_NODE.format(how='checkpoint=here / "runs"'), tmp_path, environment)
    assert "removed" in printed
    assert "whole" in printed
    assert "to run: 0 of 40 rows to run; 40 are done" in printed


@pytest.fixture
def head(environment, tmp_path):
    """The ports (of the cluster, of Ray Client) of a head node."""
    ports = [free_port() for _ in range(2)]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={ports[0]}"]
    command += [f"--ray-client-server-port={ports[1]}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    command += [
        "--object-store-memory=200000000",
        "--node-ip-address=127.0.0.1",
        f"--temp-dir={environment['RAY_TMPDIR']}",
    ]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            limit = time.monotonic() + 120
            while "Ray runtime started" not in (tmp_path / "head.log").read_text():
                assert process.poll() is None, (tmp_path / "head.log").read_text()
                assert time.monotonic() < limit
                time.sleep(0.2)
            yield ports
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def test_through_ray_client_it_runs_on_the_cluster(tmp_path, environment, head):
    code = """
    told = []
    result = file_dataset.ray.run_pipeline(pipeline(progress=told.append), frame, batch_size=4)
    assert ray.util.client.ray.is_connected()
    check(result)
    assert result.counts.fn_s >= 40 * 0.2
    assert result.input is frame
    assert told[-1] == file_dataset.Progress(40, 40, 0), told

    frame.to_csv(here / "in.csv", index=False)
    check(file_dataset.ray.run_pipeline(pipeline(), ray.data.read_csv(str(here / "in.csv")), batch_size=4))

    bad = frame.assign(**{"a.txt": [str(here / "none")] + frame["a.txt"].tolist()[1:]})
    try:
        file_dataset.ray.run_pipeline(pipeline(on_failure="raise"), bad, batch_size=4)
    except file_dataset.RunStoppedError as exc:
        assert exc.result.failures["id"].tolist() == [0], exc.result
        assert exc.result.input is bad
        print("stopped")
    try:
        file_dataset.ray.blob_reader(frame)
    except file_dataset.InvalidDatasetError as exc:
        print("refused", exc)
    """
    printed = run(code, tmp_path, {**environment, "RAY_ADDRESS": f"ray://127.0.0.1:{head[1]}"})
    assert printed.count("whole") == 2
    assert "stopped" in printed
    assert "refused Ray Data does not run through Ray Client (ray://)" in printed


def test_a_checkpoint_through_ray_client_is_the_tasks_and_lies_in_a_bucket(tmp_path, environment, head, faults):
    faults.put("s3://b/other", b"")  # makes the bucket
    code = f"""
    options = file_dataset.Options(
        {{"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": "secrettest", "region_name": "us-east-1"}},
        {{"endpoint_url": {faults.endpoint_url!r}}},
    )

    def pipeline():
        return file_dataset.Pipeline(fn, into_path=here / "out", options=options, progress=False)

    try:
        file_dataset.ray.run_pipeline(pipeline(), frame, checkpoint=here / "runs")
    except file_dataset.InvalidDatasetError as exc:
        print("refused", exc)

    pipeline().run(frame.head(30), checkpoint="s3://b/runs")
    now = time.time_ns()
    result = file_dataset.ray.run_pipeline(pipeline(), frame, checkpoint="s3://b/runs")
    assert ray.util.client.ray.is_connected()
    check(result)
    assert result.input is frame
    print("ran", sum(at.stat().st_mtime_ns > now for at in here.glob("out/*/b.txt")))
    print("to run", pipeline().plan(frame, checkpoint="s3://b/runs").summary())
    """
    printed = run(code, tmp_path, {**environment, "RAY_ADDRESS": f"ray://127.0.0.1:{head[1]}"})
    assert "through Ray Client (ray://) a task on the cluster reads and writes it: give checkpoint='s3://" in printed
    assert "whole" in printed
    assert "ran 10" in printed
    assert "to run 0 of 40 rows to run; 40 are done" in printed


def test_it_joins_the_cluster_of_the_address(tmp_path, environment, head):
    code = """
    check(file_dataset.ray.run_pipeline(pipeline(), frame, batch_size=10))
    assert len(ray.nodes()) == 1
    print(ray.get_runtime_context().gcs_address)
    """
    printed = run(code, tmp_path, {**environment, "RAY_ADDRESS": f"127.0.0.1:{head[0]}"})
    assert f":{head[0]}" in printed


@pytest.mark.parametrize("place", ["local", "client"])
def test_ctrl_c_ends_the_tasks_and_tells_what_was_done(tmp_path, environment, place, request):
    code = """
    def slow(input_dir, output_dir, row):
        (here / f"began-{row['id']}").touch()
        time.sleep(1)
        return fn(input_dir, output_dir, row)

    if "RAY_ADDRESS" not in os.environ:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20)
    try:
        told = pipeline(slow, progress=lambda now: print("done", now.done, flush=True), temp_dir=here / "temp")
        file_dataset.ray.run_pipeline(told, frame, batch_size=1)
    except KeyboardInterrupt as exc:
        began = len(list(here.glob("began-*")))
        print("result", len(exc.result.manifest) + len(exc.result.unprocessed_rows), flush=True)
        print("kept" if len(exc.result.manifest) else "lost", exc.result.input is frame, flush=True)
        limit = time.monotonic() + 60
        while list((here / "temp").iterdir()) and time.monotonic() < limit:
            time.sleep(0.2)
        time.sleep(3)
        print("began after", len(list(here.glob("began-*"))) - began, "left", len(list((here / "temp").iterdir())))
    """
    (tmp_path / "temp").mkdir()
    if place == "client":
        environment = {**environment, "RAY_ADDRESS": f"ray://127.0.0.1:{request.getfixturevalue('head')[1]}"}
    process = subprocess.Popen(
        [sys.executable, "-c", script(code), str(tmp_path)],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        first = process.stdout.readline()
        assert first.startswith("done"), process.stderr.read() if first == "" else first
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    finally:
        process.kill()
    assert "result 40\nkept True" in out, (out, err[-3000:])
    assert "left 0" in out, (out, err[-3000:])
    began_after = int(out.split("began after ")[1].split()[0])
    assert began_after <= 4, out  # those that Ray had handed to its two processes by then
