"""What the wire does not know is left to boto3, and a debug line says why; nothing is sent to find that out."""

# who sends a request only the store knows
# ruff: noqa: SLF001

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import itertools
import logging
import subprocess
import sys
from uuid import uuid4

import boto3
import pytest
import urllib3
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.response import StreamingBody
from botocore.stub import Stubber
from helpers import options_for

import file_dataset
from file_dataset._s3.requests import Request
from file_dataset._s3.store import S3Store
from file_dataset._store import Listed
from file_dataset._urls import ObjectUrl

UNUSUAL = {
    "a directory bucket": ("https://s3.example", Config(), "zone--usw2-az1--x-s3", "sessions of their own"),
    "its access point": ("https://s3.example", Config(), "point--usw2-az1--xa-s3", "sessions of their own"),
    "Object Lambda": (
        None, Config(), "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/name", "the service s3-object",
    ),
    "Outposts": (
        None, Config(), "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/name",
        "other than SigV4",
    ),
    "several regions": (
        None, Config(), "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "other than SigV4",
    ),
    "an accelerated endpoint": (None, Config(s3={"use_accelerate_endpoint": True}), "bucket", "accelerated endpoints"),
    "a client certificate": ("https://s3.example", Config(client_cert=__file__), "bucket", "certificates"),
    "an old signature": ("https://s3.example", Config(signature_version="s3"), "bucket", "other than SigV4"),
    "a signature in the URL": (
        "https://s3.example", Config(signature_version="s3v4-query"), "bucket", "a URL such as /bucket/",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("endpoint", "config", "bucket", "why"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_boto3(caplog, endpoint, config, bucket, why):
    caplog.set_level(logging.DEBUG, "file_dataset")
    virtual = Config(s3={"addressing_style": "virtual", "use_arn_region": True})
    store = S3Store(options_for(endpoint, config=virtual.merge(config) if endpoint is None else config))
    assert store._operations.route(store._current.get(), bucket) is None
    (line,) = [record.getMessage() for record in caplog.records if "left to boto3" in record.getMessage()]
    assert line.startswith(f"bucket {bucket} is left to boto3: ")
    assert why in line


# --- handlers that may answer, or change, botocore's requests


@pytest.fixture
def own():
    """Options that no other test has used, for an endpoint where nothing listens."""
    return options_for("http://127.0.0.1:9", max_concurrency=next(_widths), config=Config(retries={"max_attempts": 0}))


_widths = itertools.count(2000)
ROW = {"a.txt": "s3://bucket/a.txt"}


def answered(body=b"hello", status=200):
    """What a `before-send` handler answers with."""

    def answer(request, **_):
        raw = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
        headers = HTTPHeaders.from_pairs([("Content-Length", str(len(body))), ("ETag", '"x"')])
        return AWSResponse(request.url, status, headers, raw)

    return answer


EVENTS = ["before-send", "before-send.s3", "before-send.s3.GetObject", "before-send.*.*"]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_a_before_send_handler_on_the_client_answers_reads(own, event, engine):
    own = dataclasses.replace(own, engine=engine)
    own.s3_client.meta.events.register(event, answered())
    assert file_dataset.reader(ROW, options=own).into_blob_table().to_pydict() == {"a.txt": [b"hello"]}


def test_it_answers_whatever_is_asked(own):
    seen = []

    def answer(request, **_):
        seen.append(request.method)
        return answered(b"")(request)

    own.s3_client.meta.events.register("before-send.s3", answer)
    assert file_dataset.reader(ROW, options=own).into_size_table().to_pydict() == {"a.txt": [0]}
    file_dataset.write_files({"a.txt": __file__}, into_path="s3://bucket/o", id=1, options=own)
    assert seen == ["HEAD", "PUT"]


def test_a_handler_that_is_gone_answers_nothing_more(faults, fault_options):
    faults.put("s3://bucket/a.txt", b"of the store")
    options = dataclasses.replace(fault_options, max_concurrency=next(_widths))
    events, answer, found = options.s3_client.meta.events, answered(), []
    for change in (lambda *_: None, events.register, events.unregister):
        change("before-send.s3", answer)
        found += file_dataset.reader(ROW, options=options).into_blob_table()["a.txt"].to_pylist()
    assert found == [b"of the store", b"hello", b"of the store"]


def test_a_handler_of_the_session_answers_too(own):
    own.session.events.register("before-send.s3", answered())
    assert file_dataset.reader(ROW, options=own).into_blob_table().to_pydict() == {"a.txt": [b"hello"]}


def test_a_handler_of_the_default_session_answers_too(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "x-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    boto3.setup_default_session()
    boto3.DEFAULT_SESSION.events.register("before-send.s3", answered())
    assert file_dataset.reader(ROW).into_blob_table().to_pydict() == {"a.txt": [b"hello"]}


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_a_stubber_answers_reads_and_writes(own, engine):
    own = dataclasses.replace(own, engine=engine)
    with Stubber(own.s3_client) as stubber:
        body = StreamingBody(io.BytesIO(b"stubbed"), 7)
        asked = {"Bucket": "bucket", "Key": "a.txt"}
        stubber.add_response("get_object", {"Body": body, "ContentLength": 7, "ETag": '"x"'}, asked)
        assert file_dataset.reader(ROW, options=own).into_blob_table().to_pydict() == {"a.txt": [b"stubbed"]}
        stubber.add_response("head_object", {"ContentLength": 9}, asked)
        assert file_dataset.reader(ROW, options=own).into_size_table().to_pydict() == {"a.txt": [9]}
        stubber.add_response("put_object", {"ETag": '"y"'})
        file_dataset.write_files({"a.txt": __file__}, into_path="s3://bucket/o", id=1, options=own)
        stubber.add_client_error("get_object", "AccessDenied", "no", 403)
        with pytest.raises(file_dataset.RowError, match="AccessDenied"):
            file_dataset.reader(ROW, options=own).into_blob_table()
        stubber.assert_no_pending_responses()


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_a_stubber_answers_listings_and_removals(own, engine):
    own = dataclasses.replace(own, engine=engine)
    store = S3Store(own)
    with Stubber(own.s3_client) as stubber:
        found = {
            "Key": "a+b",
            "Size": 5,
            "ETag": '"x"',
            "LastModified": dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC),
        }
        stubber.add_response("list_objects_v2", {"Contents": [found]})
        at = ObjectUrl("bucket", "a+b")
        assert store.list(ObjectUrl("bucket", "a")).result(20) == [Listed(at, 5, "x", 1_000_000_000)]
        stubber.add_response("delete_object", {}, {"Bucket": "bucket", "Key": "a+b"})
        assert store.remove(at).result(20) is None
        stubber.assert_no_pending_responses()


@pytest.mark.parametrize("event", ["before-send.s3", "before-send.s3.ListObjectsV2"])
def test_a_before_send_handler_answers_listings(own, event):
    page = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    own.s3_client.meta.events.register(event, answered(page))
    assert S3Store(own).list(ObjectUrl("bucket", "a")).result(20) == []


@pytest.mark.parametrize("event", ["before-send.s3", "before-send.s3.DeleteObject"])
def test_a_before_send_handler_answers_removals(own, event):
    own.s3_client.meta.events.register(event, answered(b"", 204))
    assert S3Store(own).remove(ObjectUrl("bucket", "a")).result(20) is None


def test_a_mock_in_the_place_of_botocores_own_method_answers(own, monkeypatch):
    def answer(self, name, kwargs):
        body = StreamingBody(io.BytesIO(b"mocked"), 6)
        return {"Body": body, "ContentLength": 6, "ETag": '"x"'}

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    assert file_dataset.reader(ROW, options=own).into_blob_table().to_pydict() == {"a.txt": [b"mocked"]}


MOTO = """
import os, sys, socket
os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="us-east-1")
os.environ["AWS_MAX_ATTEMPTS"] = "1"
import file_dataset, boto3
from botocore.config import Config
looked = []
def no_network(host, *args, **kwargs):
    looked.append(host)
    raise socket.gaierror(-2, "a mock was left")
socket.getaddrinfo = no_network
keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": "us-east-1"}
each = [file_dataset.Options(keys, {"config": Config(retries={"max_attempts": 0})}), None]
def read(options):
    try:
        return file_dataset.reader({"a": "s3://bkt/k"}, options=options).into_blob_table().to_pydict()
    except file_dataset.RowError:
        return "left"
if sys.argv[1] == "clients first":
    print([read(options) for options in each])
from moto import mock_aws
for _ in range(2):
    looked.clear()
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="bkt")
        s3.put_object(Bucket="bkt", Key="k", Body=b"hello")
        print([read(options) for options in each], looked)
        if sys.argv[1] != "clients first":
            for number, options in enumerate(each):
                files = {"o": file_dataset.__file__}
                file_dataset.write_files(files, into_path="s3://bkt/o", id=number, options=options)
            print(s3.list_objects_v2(Bucket="bkt", Prefix="o/")["KeyCount"], looked)
    print([read(options) for options in each], bool(looked))
"""


@pytest.mark.parametrize("order", ["clients first", "moto first"])
def test_nothing_leaves_a_mock_and_the_wire_is_back_after_it(order):
    """In a process of its own: the handlers that moto registers when it is imported stay for ever."""
    program = [sys.executable, "-W", "ignore", "-c", MOTO, order]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    hello = "{'a': [b'hello']}"
    inside = [f"[{hello}, {hello}] []"] + (["2 []"] if order == "moto first" else [])
    before = ["['left', 'left']"] if order == "clients first" else []
    expected = [*before, *[*inside, "['left', 'left'] True"] * 2]
    assert ran.stdout.splitlines() == expected, ran.stderr


def test_a_constant_header_of_a_handler_is_on_the_wire(faults, fault_options, monkeypatch, tmp_path):
    faults.put("s3://bucket/a.txt", b"hello")
    options = dataclasses.replace(fault_options, max_concurrency=next(_widths))
    sent = []
    for event in ("before-sign.s3", "request-created.s3"):
        name = f"x-of-{event.partition('.')[0]}"
        options.s3_client.meta.events.register(
            event, lambda request, name=name, **_: request.headers.add_header(name, "1")
        )
    head = Request.head

    def recorded(self, *args, **kwargs):
        made = head(self, *args, **kwargs)
        sent.append(made.decode("latin-1").lower())
        return made

    monkeypatch.setattr(Request, "head", recorded)
    file_dataset.reader(ROW, options=options).into_blob_table()
    file_dataset.write_files({"a.txt": __file__}, into_path="s3://bucket/o", id=1, options=options)
    assert [head.split()[0] for head in sent] == ["get", "put"]
    assert all("x-of-before-sign: 1" in head and "x-of-request-created: 1" in head for head in sent)


def test_a_header_that_a_handler_gives_uploads_alone_is_there(faults, fault_options, monkeypatch):
    faults.put("s3://bucket/other", b"")
    options = dataclasses.replace(fault_options, max_concurrency=next(_widths))
    sent = []

    def change(request, **_):
        if request.method == "PUT":
            request.headers.add_header("x-of-uploads", "1")

    options.s3_client.meta.events.register("before-sign.s3", change)
    head = Request.head
    monkeypatch.setattr(Request, "head", lambda *args, **kwargs: sent.append(head(*args, **kwargs)) or sent[-1])
    file_dataset.write_files({"a.txt": __file__}, into_path="s3://bucket/o", id=1, options=options)
    assert [b"x-of-uploads: 1" in head for head in sent] == [True]


CHANGING = {
    "each request another value": (
        "before-sign.s3",
        lambda request, **_: request.headers.add_header("x", str(uuid4())),
    ),
    "uploads alone": ("before-sign.s3.PutObject", lambda request, **_: request.headers.add_header("x", "1")),
}


@pytest.mark.parametrize(("event", "handler"), CHANGING.values(), ids=CHANGING)
def test_other_changes_of_handlers_are_left_to_boto3(own, event, handler):
    own.s3_client.meta.events.register(event, handler)
    store = S3Store(own)
    assert store._operations.route(store._current.get(), "bucket") is None


def test_what_only_watches_keeps_the_wire(own):
    own.s3_client.meta.events.register("request-created.s3", lambda **_: None)
    own.s3_client.meta.events.register("after-call.s3", lambda **_: None)
    store = S3Store(own)
    assert store._operations.route(store._current.get(), "bucket") is not None
