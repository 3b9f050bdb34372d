"""Arguments of `Pipeline` that make no sense are refused: at construction, or before the first request."""

from __future__ import annotations

import pytest
from helpers import forward, upper

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": 5}, "give a function"),
        ({"fn": lambda a: {}}, "cannot be called"),
        ({"fn": lambda a, b, c: {}}, "cannot be called"),
        ({"write_options": {}}, "into_path"),
        ({"write_options": {"into_path": "s3://b/x", "if_exists": 1}}, "if_exists"),
        ({"write_options": {"into_path": "gs://b/x"}}, "gs://"),
        ({"write_options": None}, "where do outputs go\\?"),
        ({"into_path": "s3://bucket/out"}, "give one of them"),
        ({"write_options": None, "into_path": "gs://b/x"}, "gs://"),
        ({"write_options": None, "into_path": 7}, "into_path"),
        ({"on_failure": "ignore"}, "on_failure="),
        ({"outputs": "a.txt"}, "give a list"),
        ({"outputs": ["id"]}, "rename them"),
        ({"outputs": []}, "at least one"),
        ({"options": {"region": "x"}}, "file_dataset.Options"),
        ({"prefetch": -1}, "prefetch=-1: give a number of rows"),
        ({"prefetch": 1.5}, "number of rows"),
        ({"prefetch": True}, "number of rows"),
        ({"workers": -1}, "workers=-1: give a number of processes"),
        ({"workers": "2"}, "number of processes"),
        ({"fn_timeout_s": 0}, "more than 0"),
        ({"fn_timeout_s": True}, "more than 0"),
        ({"fn_timeout_s": float("inf")}, "None: as long as it takes"),
        ({"fn_timeout_s": float("nan")}, "more than 0"),
        ({"fn_timeout_s": "5"}, "more than 0"),
        ({"worker_env": {"A": "b"}}, "give workers=1"),
        ({"worker_env": {"A": 1}, "workers": 1}, r"worker_env \['A'\]: names and values are text"),
        ({"worker_env": ["A=b"], "workers": 1}, "give a mapping"),
        ({"worker_env": {"A=": "b"}, "workers": 1}, r"worker_env \['A='\]: no system has such a variable"),
        ({"worker_env": {"A": "b\0"}, "workers": 1}, r"worker_env \['A'\]: no system has such a variable"),
        ({"worker_env": {"": "b"}, "workers": 1}, r"worker_env \[''\]: no system has such a variable"),
        ({"max_failures": -1}, "max_failures=-1"),
        ({"max_failures": True}, "give a number of rows"),
        ({"max_failures": 0.25}, "give max_failed_fraction=0.25"),
        ({"max_failures": 1.0}, "give max_failed_fraction=1.0"),
        ({"max_failures": 1.5}, "give max_failed_fraction=0.1"),
        ({"max_failures": float("nan")}, "give a number of rows"),
        ({"max_failures": "5%"}, "give a number of rows"),
        ({"max_failures": 1, "on_failure": "raise"}, "leave max_failures out"),
        ({"file_columns": "a.txt"}, "give a list"),
        ({"file_columns": 5}, "give a list"),
        ({"outputs": 5}, "give a list"),
        ({"temp_dir": 5}, "path of a directory"),
        ({"progress": "bar"}, "a function that takes a Progress"),
        ({"write_options": {"into_path": "out", "extra_args": "image/png"}}, "give a mapping"),
        ({"max_failed_fraction": 5}, "write 5 % as 0.05"),
        ({"max_failed_fraction": -0.1}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": True}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": float("nan")}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": "0.1"}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": 10}, "for a number of rows give max_failures=10"),
        ({"max_failed_fraction": 0.1, "on_failure": "raise"}, "leave max_failed_fraction out"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(arguments, message):
    given = {"fn": upper, "write_options": {"into_path": "s3://bucket/out"}, **arguments}
    with pytest.raises(InvalidDatasetError, match=message):
        Pipeline(given.pop("fn"), **given)


def test_an_endpoint_without_its_scheme_is_refused_at_construction():
    with pytest.raises(InvalidDatasetError, match="give it whole"):
        file_dataset.Options(None, {"endpoint_url": "localhost:9000"})


def test_unknown_extra_args_are_refused_before_the_first_request(faults, frame, pipeline):
    with pytest.raises(InvalidDatasetError, match="Contenttype"):
        pipeline(write={"extra_args": {"Contenttype": "x"}}).run(frame)
    assert not faults.requests


@pytest.mark.parametrize(
    ("session", "client", "message"),
    [
        ({"aws_secret_key": "x"}, {}, "session_kwargs.*aws_secret_key"),
        ({}, {"endpoint": "http://x"}, "s3_client_kwargs.*endpoint"),
        ({"region_name": "us east 1"}, {}, "make no S3 client"),
    ],
    ids=["session", "client", "region"],
)
def test_options_that_make_no_client_stop_the_run(frame, session, client, message):
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    options = file_dataset.Options({**keys, **session}, client)
    with pytest.raises(InvalidDatasetError, match=message) as caught:
        Pipeline(forward, write_options={"into_path": "s3://bucket/out"}, options=options, progress=False).run(frame)
    assert len(caught.value.result.unprocessed_rows) == len(frame)


def test_bad_ids_are_refused_before_the_first_request(faults, frame, pipeline):
    with pytest.raises(InvalidDatasetError, match="duplicate ids"):
        pipeline().run(frame.assign(id=[1, "1", 2, 3, 4]))
    assert not faults.requests
