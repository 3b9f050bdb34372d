"""Uploads that replace nothing: what is there stays, and what an attempt of our own has stored is ours."""

from __future__ import annotations

import threading

import pytest
from servers.faults import SLOW_DOWN, LostReply, Reset, Status

from file_dataset._local_file import LocalFile
from file_dataset._s3 import multipart
from file_dataset._s3.store import S3Store
from file_dataset._urls import ObjectUrl

AT = ObjectUrl("bucket", "key")
BODY = b"what is sent"


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


@pytest.fixture(params=["one request", "parts"])
def way(request, monkeypatch):
    """Whether a file is large enough for parts."""
    if request.param == "parts":
        monkeypatch.setattr(multipart, "_MULTIPART_BYTES", 4)
    return request.param


@pytest.fixture
def upload(faults, fault_options, source):
    faults.put("s3://bucket/other", b"")

    def begin(**kwargs):
        source.write_bytes(BODY)
        store = S3Store(fault_options)
        arguments = {"extra_args": {}, "only_new": True, **kwargs}
        return store.upload(LocalFile.at(source), AT, cancelled=threading.Event(), **arguments).result()

    return begin


def last_of(way):
    """The operation that names the object."""
    return "PutObject" if way == "one request" else "CompleteMultipartUpload"


def test_what_is_not_there_is_stored_without_a_request_more(faults, upload, way):
    assert upload().size_bytes == len(BODY)
    assert faults.body("s3://bucket/key") == BODY
    expected = {"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"} if way == "parts" else {"PutObject"}
    assert {operation for operation, _ in faults.requests} == expected
    assert faults.requests.total() == len(expected)


def test_what_is_there_stays(faults, upload, way):
    faults.put("s3://bucket/key", b"before")
    with pytest.raises(FileExistsError, match="give another into_path, remove it, or choose") as caught:
        upload()
    assert caught.value.code == "PreconditionFailed"
    assert faults.body("s3://bucket/key") == b"before"
    assert (faults.count("HeadObject"), faults.count(last_of(way)), faults.open_uploads) == (0, 1, set())


def test_the_same_bytes_that_were_there_before_are_not_ours(faults, upload):
    faults.put("s3://bucket/key", BODY)
    faults.fail("PutObject", SLOW_DOWN)  # which stores nothing
    with pytest.raises(FileExistsError):
        upload()
    assert (faults.count("HeadObject"), faults.count("PutObject")) == (0, 2)


def test_what_an_attempt_stored_whose_answer_was_lost_is_ours(faults, upload, way):
    faults.fail(last_of(way), LostReply())
    if way == "parts":  # a store that keeps the upload's id for a while answers the second one as a write
        faults.fail(last_of(way), Status(412, "PreconditionFailed"), nth=2)
    info = upload()
    assert info.size_bytes == len(BODY)
    assert faults.body("s3://bucket/key") == BODY
    assert (faults.count("HeadObject"), faults.count(last_of(way))) == (1, 2)


def test_what_a_connection_brought_that_broke_before_its_answer_is_ours(faults, fault_options, source):
    """Such a request is sent once more by the connection itself, which counts as no attempt."""
    faults.put("s3://bucket/other", b"")
    store = S3Store(fault_options)
    store.info(ObjectUrl("bucket", "other")).result()
    source.write_bytes(BODY)
    faults.fail("PutObject", LostReply())
    cancelled = threading.Event()
    store.upload(LocalFile.at(source), AT, extra_args={}, cancelled=cancelled, only_new=True).result()
    assert faults.body("s3://bucket/key") == BODY
    assert (faults.count("PutObject", "key"), faults.count("HeadObject", "key")) == (2, 1)


@pytest.mark.parametrize("theirs", [b"what is seNt", b"other"], ids=["of the same size", "of another size"])
def test_what_another_stored_after_our_attempt_was_lost_is_not_ours(faults, upload, theirs, way):
    faults.put("s3://bucket/key", theirs)
    faults.fail(last_of(way), Reset())
    with pytest.raises(FileExistsError, match="the answer to an earlier attempt"):
        upload()
    assert faults.body("s3://bucket/key") == theirs
    assert faults.count("HeadObject") == 1


def test_what_nothing_proves_is_not_ours(faults, upload):
    faults.put("s3://bucket/key", BODY, etag="kms")
    faults.fail("PutObject", Reset())
    with pytest.raises(FileExistsError, match="it may be what that one stored"):
        upload()


def test_what_may_not_be_looked_at_is_not_ours(faults, upload):
    faults.fail("PutObject", LostReply())
    faults.fail("HeadObject", Status(403, "AccessDenied"))
    with pytest.raises(FileExistsError, match="it may be what that one stored"):
        upload()


def test_a_conflict_is_tried_again(faults, upload, way):
    """An upload in parts is begun anew, as S3 asks: the one that met the conflict cannot be completed any more."""
    faults.fail(last_of(way), Status(409, "ConditionalRequestConflict"))
    assert upload().size_bytes == len(BODY)
    assert faults.count(last_of(way)) == 2
    assert faults.count("CreateMultipartUpload") == (2 if way == "parts" else 0)
    assert not faults.open_uploads


def test_a_conflict_is_not_tried_for_ever(faults, upload, way):
    faults.fail(last_of(way), Status(409, "ConditionalRequestConflict"), times=None)
    with pytest.raises(OSError, match="after 3 attempts") as caught:
        upload()
    assert (caught.value.code, faults.count(last_of(way))) == ("ConditionalRequestConflict", 3)


@pytest.mark.parametrize("status", [400, 501])
def test_a_store_that_does_not_know_the_condition_is_named(faults, upload, status, way):
    faults.fail(last_of(way), Status(status, "NotImplemented"), times=None)
    with pytest.raises(OSError, match="sends If-None-Match, which this store may not know: use 'skip' or 'overwrite'"):
        upload()
    assert faults.count(last_of(way)) == 1


def test_a_condition_that_extra_args_have_is_the_same_one(faults, upload, way):
    faults.put("s3://bucket/key", b"before")
    for only_new in (False, True):
        with pytest.raises(FileExistsError):
            upload(extra_args={"IfNoneMatch": "*"}, only_new=only_new)
    sent = [headers.get("if-none-match") for headers in faults.headers if headers[""] == last_of(way)]
    assert sent == ["*", "*"]


def test_without_the_condition_what_is_there_is_replaced(faults, upload, way):
    faults.put("s3://bucket/key", b"before")
    upload(only_new=False)
    assert faults.body("s3://bucket/key") == BODY
    assert not any("if-none-match" in headers for headers in faults.headers)


def test_other_extra_args_go_along(faults, upload, way):
    upload(extra_args={"ContentType": "text/html"})
    (stored,) = (found for key, found in faults.store.buckets["bucket"].items() if key == "key")
    assert stored.headers["content-type"] == "text/html"
