"""What a URL pins is read, or the read fails: one version of an object, or the content of one ETag."""

from __future__ import annotations

import os
import threading

import pytest
from helpers import options_for
from one_object import AT, get, into_file, store_at
from servers.faults import Replace, Truncate
from servers.scripted import Scripted, answer, error

from file_dataset._errors import code_of
from file_dataset._s3 import pins
from file_dataset._s3.store import S3Store
from file_dataset._sink import Sink
from file_dataset._urls import ObjectUrl, parse

SIZES = {"small": 9, "large": 3_000_001}  # 3 MB: some ten ranges where 128 KiB are one


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def bodies(request, monkeypatch):
    """Three states of one object."""
    monkeypatch.setattr("file_dataset._s3.ranges._LEAST_BYTES", 128 << 10)
    monkeypatch.setattr("file_dataset._s3.ranges._MOST_BYTES", 128 << 10)
    return [os.urandom(request.param) for _ in range(3)]


@pytest.fixture
def versions(bucket, bodies):
    """The states of the object `a.bin` in a bucket that keeps versions: of each its id and its bytes."""
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    stored = [bucket.client.put_object(Bucket=bucket.name, Key="a.bin", Body=body)["VersionId"] for body in bodies]
    return dict(zip(stored, bodies, strict=True))


def test_the_version_that_is_pinned_is_read(options, bucket, versions, tmp_path):
    store = S3Store(options)
    for version_id, body in versions.items():
        at = ObjectUrl(bucket.name, "a.bin", version_id=version_id)
        assert get(store, at) == into_file(store, tmp_path, at) == body
    assert get(store, ObjectUrl(bucket.name, "a.bin")) == body  # the newest


def test_a_version_comes_in_ranges(endpoint, bucket, versions, bodies, monkeypatch):
    asked, query_of = [], pins.query_of
    monkeypatch.setattr(pins, "query_of", lambda at: asked.append(at) or query_of(at))
    store = S3Store(options_for(endpoint, check_digests=False))  # an MD5 is of one body
    for version_id, body in versions.items():
        asked.clear()
        assert get(store, ObjectUrl(bucket.name, "a.bin", version_id=version_id)) == body
        assert len(asked) > 1 or len(body) == SIZES["small"]


def test_a_read_and_a_head_say_which_version_it_was(options, bucket, versions):
    store = S3Store(options)
    for version_id, body in versions.items():
        at = ObjectUrl(bucket.name, "a.bin", version_id=version_id)
        head, read = store.info(at).result(), store.download(at, Sink(None, threading.Event())).result()
        assert (head.version_id, head.size_bytes) == (read.version_id, read.size_bytes) == (version_id, len(body))
        assert head.etag == read.etag


def test_a_version_is_read_after_its_object_was_removed(options, bucket, versions):
    bucket.client.delete_object(Bucket=bucket.name, Key="a.bin")
    (version_id, body), *_ = versions.items()
    assert get(S3Store(options), ObjectUrl(bucket.name, "a.bin", version_id=version_id)) == body
    with pytest.raises(FileNotFoundError):
        get(S3Store(options), ObjectUrl(bucket.name, "a.bin"))


def test_the_null_version_is_read_where_no_versions_are_kept(options, bucket):
    bucket.put("a.bin", b"bytes")
    at = ObjectUrl(bucket.name, "a.bin", version_id="null")
    assert get(S3Store(options), at) == b"bytes"
    assert S3Store(options).info(at).result().size_bytes == len(b"bytes")


@pytest.mark.parametrize("verb", ["get", "info"])
def test_a_version_that_is_not_there_is_named(options, bucket, versions, verb):
    """In the code of S3, which Ceph lacks; the answer to a HEAD has no code."""
    version_id = next(iter(versions))
    bucket.client.delete_object(Bucket=bucket.name, Key="a.bin", VersionId=version_id)
    at = ObjectUrl(bucket.name, "a.bin", version_id=version_id)
    with pytest.raises(FileNotFoundError, match=f"version {version_id} was requested") as caught:
        get(S3Store(options), at) if verb == "get" else S3Store(options).info(at).result()
    expected = {"404"} if verb == "info" else {"NoSuchVersion", "NoSuchKey"}
    assert code_of(caught.value) in expected


def test_a_missing_version_has_the_code_of_s3(moto, engine):
    client = options_for(moto).s3_client
    client.create_bucket(Bucket="no-such-version")
    client.put_object(Bucket="no-such-version", Key="a.bin", Body=b"bytes")
    with pytest.raises(FileNotFoundError) as caught:
        get(S3Store(options_for(moto, engine=engine)), ObjectUrl("no-such-version", "a.bin", version_id="x"))
    assert code_of(caught.value) == "NoSuchVersion"


@pytest.mark.parametrize("verb", ["get", "info"])
def test_a_delete_marker_is_no_version_to_read(engine, verb):
    """The answer of AWS (https://docs.aws.amazon.com/AmazonS3/latest/userguide/DeleteMarker.html)."""

    def script(peer):
        is_get = peer.head().startswith("GET")
        whole = answer(error("MethodNotAllowed"), "405 Method Not Allowed", x_amz_delete_marker="true")
        peer.send(whole if is_get else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

    with Scripted(script) as server:
        store, at = store_at(server.url, engine=engine), ObjectUrl("bucket", "a.bin", version_id="m")
        with pytest.raises(OSError, match="version m is a delete marker") as caught:
            get(store, at) if verb == "get" else store.info(at).result()
        assert code_of(caught.value) == "MethodNotAllowed"
        assert len(server.heads) == 1


@pytest.mark.parametrize("verb", ["get", "info"])
@pytest.mark.parametrize("sent", [{}, {"x_amz_version_id": "2"}], ids=["none", "another"])
def test_a_store_that_sends_another_version_is_not_believed(engine, verb, sent):
    """Such as one that keeps no versions, and does not look at what is asked for."""

    def script(peer):
        is_get = peer.head().startswith("GET")
        whole = answer(b"newest", etag='"x"', **sent)
        peer.send(whole if is_get else whole.removesuffix(b"newest"))

    with Scripted(script) as server:
        store, at = store_at(server.url, engine=engine), ObjectUrl("bucket", "a.bin", version_id="1")
        with pytest.raises(OSError, match="version 1 was requested"):
            get(store, at) if verb == "get" else store.info(at).result()
        assert len(server.heads) == 1


def pinned(faults):
    """Where an object is, held to the ETag that it has now."""
    return ObjectUrl("bucket", "a.bin", etag=faults.store.buckets["bucket"]["a.bin"].etag)


def test_the_etag_that_is_pinned_is_asked_for_from_the_first_request_on(faults, bodies, engine):
    faults.put("s3://bucket/a.bin", bodies[0], checksum="CRC64NVME")  # an MD5 is of one body
    at = pinned(faults)
    assert get(store_at(faults.endpoint_url, engine=engine), at) == bodies[0]
    assert {headers["if-match"] for headers in faults.headers} == {f'"{at.etag}"'}
    assert len(faults.headers) > 1 or len(bodies[0]) == SIZES["small"] or engine == "boto3"


def test_an_object_that_was_replaced_since_is_a_failure_at_the_first_request(faults, bodies, engine):
    faults.put("s3://bucket/a.bin", bodies[0])
    at = pinned(faults)
    faults.put("s3://bucket/a.bin", bodies[1])
    with pytest.raises(OSError, match="changed between its listing and its read") as caught:
        get(store_at(faults.endpoint_url, engine=engine), at)
    assert code_of(caught.value) == "PreconditionFailed"
    assert faults.count("GetObject") == 1
    assert not isinstance(caught.value, ConnectionError)


def test_an_object_that_is_replaced_while_it_is_read_is_a_failure(faults, engine):
    """Without a pin it would be read again from its first byte."""
    faults.put("s3://bucket/a.bin", b"first" * 1000)
    at = pinned(faults)
    faults.fail("GetObject", Truncate(100))
    faults.fail("GetObject", Replace(b"other" * 1000), nth=2)
    with pytest.raises(OSError, match="changed between its listing and its read"):
        get(store_at(faults.endpoint_url, engine=engine), at)
    assert faults.count("GetObject") == 2  # the first, and the one for the rest


def test_a_store_that_does_not_look_at_the_etag_is_not_believed(engine):
    def script(peer):
        peer.head()
        peer.send(answer(b"other", etag='"2"'))

    with Scripted(script) as server:
        with pytest.raises(OSError, match="its ETag was 1 and is 2"):
            get(store_at(server.url, engine=engine), ObjectUrl("bucket", "a.bin", etag="1"))
        assert len(server.heads) == 1


@pytest.mark.parametrize("etag", ['a"b', "a\r\nx-amz-acl: public-read", "ü", ""], ids=repr)
def test_an_etag_that_no_header_can_hold_is_never_sent(faults, engine, etag):
    faults.put("s3://bucket/a.bin", b"bytes")
    with pytest.raises(OSError, match=r"ETag|changed between"):
        get(store_at(faults.endpoint_url, engine=engine), ObjectUrl("bucket", "a.bin", etag=etag))
    assert not [headers for headers in faults.headers if "x-amz-acl" in headers]


def test_what_is_pinned_is_not_part_of_the_text():
    at = ObjectUrl("bucket", "a.bin", etag="x", version_id="1")
    assert str(at) == str(AT) == "s3://bucket/a.bin"
    assert parse(str(at), base=None) == AT != at
