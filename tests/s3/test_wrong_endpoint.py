"""A store that has nothing of what any row asks for is likely another one than was meant: the endpoint is named."""

from __future__ import annotations

import pickle

import pandas as pd
import pytest

import file_dataset
from file_dataset import Pipeline, RunStoppedError


def forward(input_dir, output_dir):
    return {"out.txt": next(input_dir.iterdir())}


def frame_of(count, where="s3://bucket/in/{}", **more):
    columns = {name: [url.format(n) for n in range(count)] for name, url in {"a.txt": where, **more}.items()}
    return pd.DataFrame({"id": [f"r{n}" for n in range(count)], **columns})


@pytest.fixture
def pipeline(fault_options, tmp_path):
    def make(into_path=tmp_path / "out", **kwargs):
        kwargs.setdefault("options", fault_options)
        return Pipeline(forward, write_options={"into_path": into_path}, progress=False, **kwargs)

    return make


def question(faults):
    return f"The endpoint that was asked was {faults.endpoint_url}: is it the right one?"


@pytest.mark.parametrize("where", ["s3://bucket/in/{}", "s3://no-such-bucket/{}"], ids=["NoSuchKey", "NoSuchBucket"])
def test_the_log_and_the_summary_name_the_endpoint_that_has_nothing(faults, pipeline, where, caplog):
    faults.put("s3://bucket/other", b"x")
    result = pipeline().run(frame_of(2, where))
    assert result.hint == question(faults)
    assert result.summary().endswith(f"2 at download. {question(faults)}")
    assert repr(result).count(question(faults)) == 1
    assert question(faults) in result._repr_html_()
    assert caplog.messages[-1].endswith(question(faults))
    assert pickle.loads(pickle.dumps(result)).hint == result.hint
    with pytest.raises(file_dataset.RowError, match="is it the right one"):
        result.raise_if_dropped()


@pytest.mark.parametrize("limit", [{"max_failures": 1}, {"max_failed_fraction": 0.1}], ids=str)
def test_so_does_the_error_of_a_run_that_too_many_failures_stop(faults, pipeline, limit):
    faults.put("s3://bucket/other", b"x")
    with pytest.raises(RunStoppedError) as caught:
        pipeline(**limit).run(frame_of(10))
    assert str(caught.value).endswith(question(faults))


def test_so_does_the_error_of_a_target_without_the_bucket(faults, pipeline):
    faults.put("s3://bucket/in/0", b"x")
    with pytest.raises(RunStoppedError, match="refused every output") as caught:
        pipeline("s3://no-such-bucket/out").run(frame_of(1))
    assert str(caught.value).endswith(question(faults))


def test_a_bucket_that_is_not_there_takes_one_row(faults, pipeline):
    faults.put("s3://bucket/other", b"x")
    with pytest.raises(RunStoppedError, match="first failure") as caught:
        pipeline(on_failure="raise").run(frame_of(3, "s3://no-such-bucket/{}"))
    assert str(caught.value).endswith(question(faults))


def one_row(faults):
    return frame_of(1)


def one_that_is_there(faults):
    faults.put("s3://bucket/in/7", b"x")
    return frame_of(8)


def one_file_of_each_row(faults):
    for number in range(3):
        faults.put(f"s3://bucket/in/{number}", b"x")
    return frame_of(3, **{"mask.txt": "s3://bucket/masks/{}"})


def another_error_among_them(faults):
    frame = frame_of(3)
    frame["a.txt"] = [*frame["a.txt"][:2], "s3://bucket"]  # no key
    return frame


def local_files(faults):
    return frame_of(3, "/not/there/{}")


@pytest.mark.parametrize(
    "rows", [one_row, one_that_is_there, one_file_of_each_row, another_error_among_them, local_files]
)
def test_it_is_not_asked_where_something_else_is_missing(faults, pipeline, rows):
    faults.put("s3://bucket/other", b"x")
    result = pipeline().run(rows(faults))
    assert result.hint is None
    assert "endpoint" not in result.summary()
    assert result.dropped_rows


def test_options_none_name_the_endpoint_of_the_environment(faults, pipeline, monkeypatch):
    faults.put("s3://bucket/other", b"x")
    for name, value in {
        "AWS_ENDPOINT_URL": faults.endpoint_url, "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    explicit = file_dataset.Options()  # says no endpoint: its client has it from the environment
    for options in (None, explicit):
        assert pipeline(options=options).run(frame_of(2)).hint == question(faults)


@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("local_ray")
def test_a_run_on_ray_names_it_too(faults, pipeline, caplog):
    faults.put("s3://bucket/other", b"x")
    result = file_dataset.ray.run_pipeline(pipeline(), frame_of(3), batch_size=2)
    assert result.hint == question(faults)
    assert caplog.messages[-1].endswith(question(faults))
