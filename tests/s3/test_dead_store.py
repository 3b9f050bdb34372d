"""A store that answers nothing stops the run after its first rows; one that has answered once does not."""

from __future__ import annotations

import pickle
import socket

import pandas as pd
import pytest
from helpers import forward, impatient_options
from servers.faults import SLOW_DOWN, FaultServer, NoAnswer, Reset

import file_dataset
from file_dataset import Pipeline, RunStoppedError, _retry


@pytest.fixture(autouse=True)
def retries_come_at_once(monkeypatch):
    monkeypatch.setattr(_retry, "BACKOFF_S", 0.001)


@pytest.fixture
def closed():
    """URL of a port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"  # not listening


@pytest.fixture
def full():
    """URL of a port that takes no connection: its queue is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)  # noqa: FBT003
            other.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for other in others:
            other.close()


@pytest.fixture
def silent(own_faults):
    own_faults.fail("GetObject", NoAnswer(), times=None)
    own_faults.fail("PutObject", NoAnswer(), times=None)
    return own_faults.endpoint_url


def store(url, engine, **kwargs):
    return impatient_options(url, engine=engine, **{"patience_s": 1} | kwargs)


def frame_of(count, where="s3://bucket/in/{}"):
    return pd.DataFrame({"id": [f"r{n}" for n in range(count)], "a.txt": [where.format(n) for n in range(count)]})


def stopped(pipeline, frame):
    with pytest.raises(RunStoppedError) as caught:
        pipeline.run(frame)
    return caught.value


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize("fault", ["closed", "full", "silent", "no-name", "no-tls"])
def test_a_source_that_answers_nothing_stops_the_run(request, tmp_path, engine, fault):
    if fault == "no-name":
        url = "http://nothing.invalid:9000"
    elif fault == "no-tls":
        url = request.getfixturevalue("own_faults").endpoint_url.replace("http:", "https:")
    else:
        url = request.getfixturevalue(fault)
    pipeline = Pipeline(forward, write_options={"into_path": tmp_path}, options=store(url, engine), progress=False)
    error = stopped(pipeline, frame_of(40))
    assert f"the source store at {url} has answered nothing; 3 rows failed" in str(error)
    assert "Check endpoint_url" in str(error)
    assert error.result.failures["id"].tolist() == ["r0", "r1", "r2"]
    assert len(error.result.unprocessed_rows) == 37


@pytest.mark.parametrize("kwargs", [{"prefetch": 0}, {"workers": 2}, {"on_failure": "record"}], ids=str)
def test_it_does_so_however_the_run_works(closed, tmp_path, kwargs):
    options = store(closed, "auto")
    pipeline = Pipeline(forward, write_options={"into_path": tmp_path}, options=options, progress=False, **kwargs)
    assert len(stopped(pipeline, frame_of(40)).result.failures) == 3


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize("fault", ["closed", "silent"])
def test_a_target_that_answers_nothing_stops_the_run(request, tmp_path, engine, fault):
    url = request.getfixturevalue(fault)
    (tmp_path / "a.txt").write_text("a")
    write_options = {"into_path": "s3://bucket/out", "options": store(url, engine)}
    error = stopped(
        Pipeline(forward, write_options=write_options, progress=False), frame_of(40, str(tmp_path / "a.txt"))
    )
    assert f"the target store at {url} has answered nothing" in str(error)
    assert error.result.failures["error_stage"].tolist() == ["upload"] * 3


def test_a_source_that_answers_does_not_hide_a_target_that_does_not(own_faults, closed):
    for number in range(40):
        own_faults.put(f"s3://bucket/in/{number}", b"x")
    write_options = {"into_path": "s3://bucket/out", "options": store(closed, "auto")}
    options = store(own_faults.endpoint_url, "auto", patience_s=20)
    pipeline = Pipeline(forward, write_options=write_options, options=options, progress=False)
    assert "the target store" in str(stopped(pipeline, frame_of(40)))


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_a_store_that_answered_once_costs_rows_and_not_the_run(own_faults, tmp_path, engine):
    own_faults.put("s3://bucket/in/0", b"x")
    for number in range(1, 8):
        own_faults.fail("GetObject", Reset(), key=f"in/{number}", times=None)
    options = store(own_faults.endpoint_url, engine, patience_s=20)
    pipeline = Pipeline(forward, write_options={"into_path": tmp_path}, options=options, progress=False, prefetch=0)
    result = pipeline.run(frame_of(8))
    assert result.manifest["id"].tolist() == ["r0"]
    assert len(result.failures) == 7
    # an answer to an earlier run says nothing of this one
    assert len(stopped(pipeline, frame_of(8).iloc[1:]).result.failures) == 3


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.usefixtures("retries_come_at_once")
def test_an_answer_that_says_no_is_one(own_faults, tmp_path, engine):
    own_faults.fail("GetObject", SLOW_DOWN, key="in/0", nth=1)
    own_faults.fail("GetObject", Reset(), times=None)
    options = store(own_faults.endpoint_url, engine, patience_s=20)
    pipeline = Pipeline(forward, write_options={"into_path": tmp_path}, options=options, progress=False, prefetch=0)
    assert len(pipeline.run(frame_of(8)).failures) == 8


def test_two_rows_are_too_few_to_say_it(closed, tmp_path):
    options = store(closed, "auto")
    pipeline = Pipeline(forward, write_options={"into_path": tmp_path}, options=options, progress=False)
    assert len(pipeline.run(frame_of(2)).failures) == 2


def test_files_that_are_not_there_are_no_dead_store(tmp_path):
    pipeline = Pipeline(forward, write_options={"into_path": tmp_path / "out"}, progress=False)
    assert len(pipeline.run(frame_of(8, str(tmp_path / "none-{}"))).failures) == 8


def test_batches_of_one_process_are_one_run(closed, tmp_path):
    """A batch of Ray's is a run of a Pipeline that came by pickle: what an earlier batch was answered counts."""
    with FaultServer() as server:
        server.put("s3://bucket/in/0", b"x")
        options = store(server.endpoint_url, "auto")
        pipeline = pickle.loads(pickle.dumps(Pipeline(forward, write_options={"into_path": tmp_path}, options=options)))
        assert len(pipeline.run(frame_of(1)).manifest) == 1
    assert len(pipeline.run(frame_of(8)).failures) == 8
    options = store(closed, "auto")
    pipeline = pickle.loads(pickle.dumps(Pipeline(forward, write_options={"into_path": tmp_path}, options=options)))
    assert len(stopped(pipeline, frame_of(8)).result.failures) == 3


@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("local_ray")
class TestOnRay:
    """The driver sees the batches of all nodes, and decides."""

    @pytest.mark.parametrize("batch_size", [1, 8])
    def test_the_driver_stops_the_run(self, closed, tmp_path, batch_size):
        pipeline = Pipeline(
            forward, write_options={"into_path": tmp_path}, options=store(closed, "auto"), progress=False
        )
        with pytest.raises(RunStoppedError, match=f"the source store at {closed} has answered nothing") as caught:
            file_dataset.ray.run_pipeline(pipeline, frame_of(16), batch_size=batch_size)
        assert len(caught.value.result.manifest) == 0

    def test_a_batch_that_gets_no_answer_costs_its_rows_where_others_get_one(self, own_faults, tmp_path):
        for number in range(8, 16):
            own_faults.put(f"s3://bucket/in/{number}", b"x")
        for number in range(8):
            own_faults.fail("GetObject", Reset(), key=f"in/{number}", times=None)
        # options that no other test has used: their store has seen nothing in any process
        options = store(own_faults.endpoint_url, "auto", patience_s=20)
        pipeline = Pipeline(forward, write_options={"into_path": tmp_path}, options=options, progress=False)
        result = file_dataset.ray.run_pipeline(pipeline, frame_of(16), batch_size=8)
        assert result.failures["id"].tolist() == [f"r{number}" for number in range(8)]
        assert len(result.manifest) == 8
