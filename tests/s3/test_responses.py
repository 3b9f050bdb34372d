"""What the headers of a response hold, and whether it can be true: lengths, versions, digests, refusals."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path

import pandas as pd
import pytest
from botocore.config import Config
from helpers import forward, impatient_options, options_for
from servers.scripted import Scripted, always, answer, answering

import file_dataset
from file_dataset import RowError, _retry
from file_dataset._s3 import multipart, ranges
from file_dataset._sink import ObjectInfo, Sink

URL = "s3://bucket/a.bin"


@pytest.fixture(autouse=True)
def retries_come_at_once(monkeypatch):
    monkeypatch.setattr(_retry, "BACKOFF_S", 0.001)


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


def blob(options, **kwargs):
    return file_dataset.reader({"a.bin": URL}, options=options).into_blob_table(**kwargs)["a.bin"][0].as_py()


def file(options):
    with file_dataset.reader({"a.bin": URL}, options=options).into_temp_dir() as directory:
        return (directory / "a.bin").read_bytes()


def once(url, **kwargs):
    retries = Config(read_timeout=20, retries={"total_max_attempts": 1, "mode": "standard"})
    return options_for(url, config=retries, **kwargs)


# --- lengths


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells how much memory is in use")
def test_a_length_costs_no_memory_before_bytes_arrive():
    """A store that lies, or that breaks off, once took gigabytes that nothing had arrived for."""
    sink, before = Sink(None, threading.Event()), resident_bytes()
    part = sink.begin(ObjectInfo(1 << 30))
    part.write(b"x" * (1 << 20))
    assert len(sink.data) == 1 << 30
    assert resident_bytes() - before < 64 << 20
    sink.restart()
    sink.begin(ObjectInfo(4)).write(b"abcd")
    assert bytes(sink.data) == b"abcd"


@pytest.mark.parametrize("length", [1 << 50, (1 << 59) - 1], ids=["1 PiB", "half an exbibyte"])
def test_a_blob_that_no_memory_holds_is_an_error_that_says_its_size(engine, length):
    head = f'HTTP/1.1 200 OK\r\ncontent-length: {length}\r\netag: "x"\r\n\r\nabcd'.encode()
    with Scripted(answering(head)) as server, pytest.raises(RowError, match=rf"{length} bytes.*into_temp_dir"):
        blob(once(server.url, engine=engine), large=True)


def test_a_blob_over_2_gib_is_refused_whatever_it_claims(engine):
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {1 << 50}\r\n\r\n".encode()
    with Scripted(answering(head)) as server, pytest.raises(file_dataset.InvalidDatasetError, match="large=True"):
        blob(once(server.url, engine=engine))


NO_LENGTHS = ["9300000000000000000", "99999999999999999999999", "+5", "-5", "1_0", "5.0", "0x5", "5, 5", "five", "\xb2"]


@pytest.mark.parametrize("length", NO_LENGTHS)
@pytest.mark.parametrize("read", ["size", "blob", "file"])
def test_a_length_that_is_none_is_an_error_of_the_store(engine, length, read):
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n".encode("latin-1")
    with Scripted(answering(head)) as server, pytest.raises(RowError):
        options = once(server.url, engine=engine)
        if read == "size":
            file_dataset.reader({"a.bin": URL}, options=options).into_size_table()
        else:
            {"blob": blob, "file": file}[read](options)


# --- versions


def store_of(body, etag, matches):
    """A script: a store whose object has this ETag; `matches` tells what it makes of an `If-Match`."""

    def script(peer):
        while True:
            head = peer.head()
            said = re.search(r"(?mi)^if-match: ([^\r]*)", head)
            if said and not matches(said[1]):
                peer.send(answer(b"<Error><Code>PreconditionFailed</Code></Error>", "412 Precondition Failed"))
                continue
            span = re.search(r"(?mi)^range: bytes=(\d+)-(\d+)", head)
            first, last = (int(span[1]), int(span[2])) if span else (0, len(body) - 1)
            headers = {"content_range": f"bytes {first}-{last}/{len(body)}"} if span else {}
            found = answer(body[first : last + 1], "206 Partial Content" if span else "200 OK", etag=etag, **headers)
            if not span and not script.is_whole:
                script.is_whole = True
                peer.send(found[: len(found) // 2])  # and the connection ends
                return
            peer.send(found)

    script.is_whole = False
    return script


@pytest.mark.parametrize("etag", ["abc-3", '"abc-3"'], ids=["unquoted", "quoted"])
def test_the_rest_of_an_object_is_asked_for_under_the_etag_as_it_came(engine, etag):
    body = os.urandom(3 << 20)
    with Scripted(store_of(body, etag, lambda said: said == etag)) as server:
        assert blob(impatient_options(server.url, engine=engine)) == body
        assert any("if-match" in head.lower() for head in server.heads)


@pytest.mark.parametrize("etag", ["abc-3", '"abc-3"', 'W/"abc"', 'W/"'], ids=["unquoted", "quoted", "weak", "damaged"])
def test_a_store_that_knows_no_etag_of_its_own_gives_the_object_all_the_same(engine, etag, monkeypatch):
    monkeypatch.setattr(ranges, "_MOST_BYTES", 512 << 10)
    body = os.urandom(3 << 20)
    with Scripted(store_of(body, etag, lambda _: False)) as server:
        assert blob(impatient_options(server.url, engine=engine)) == body
        assert sum("if-match" not in head.lower() for head in server.heads) == 2  # what broke off, and the whole


def test_a_version_that_is_refused_is_not_said_to_have_been_replaced(monkeypatch):
    monkeypatch.setattr(ranges, "_MOST_BYTES", 512 << 10)
    script = store_of(bytes(3 << 20), '"abc-3"', lambda _: False)
    script.is_whole = True
    with Scripted(script) as server, pytest.raises(RowError, match="may have been replaced"):
        blob(once(server.url))


# --- digests


@pytest.mark.parametrize("spelled", [str, str.upper], ids=["lower case", "upper case"])
def test_an_md5_in_an_etag_proves_the_bytes_in_either_case(engine, spelled):
    etag = f'"{spelled(hashlib.md5(b"hello", usedforsecurity=False).hexdigest())}"'
    with Scripted(always(answer(b"hellp", etag=etag))) as server, pytest.raises(RowError, match="ChecksumMismatch"):
        blob(once(server.url, engine=engine))
    with Scripted(always(answer(b"hello", etag=etag))) as server:
        assert blob(once(server.url, engine=engine)) == b"hello"


# --- refusals


def refusal(status, code):
    return answer(f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), f"{status} X")


CHECKSUM_REFUSALS = [
    (501, "NotImplemented"), (400, "InvalidArgument"), (400, "InvalidRequest"), (400, "UnsupportedArgument"),
    (400, "XAmzContentSHA256Mismatch"), (411, "MissingContentLength"), (400, "MalformedTrailerError"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code"), CHECKSUM_REFUSALS, ids=[code for _, code in CHECKSUM_REFUSALS])
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["whole", "in parts"])
def test_a_refused_checksum_is_told_with_the_remedy_after_one_attempt(
    engine, status, code, size, tmp_path, monkeypatch
):
    monkeypatch.setattr(multipart, "_MULTIPART_BYTES", 1 << 10)
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(size))
    with Scripted(always(refusal(status, code))) as server:
        with pytest.raises(RowError, match="request_checksum_calculation='when_required'") as caught:
            file_dataset.write_files(
                {"a": path}, into_path="s3://b", id="1", options=impatient_options(server.url, engine=engine)
            )
        assert "attempts" not in str(caught.value)
        assert len(server.heads) == 1


@pytest.mark.parametrize("code", ["EntityTooLarge", "InvalidStorageClass", "InvalidArgument"])
def test_other_refusals_advise_nothing_about_checksums(engine, code, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"x")
    config = Config(request_checksum_calculation="when_required") if code == "InvalidArgument" else None
    with Scripted(always(refusal(400, code))) as server, pytest.raises(RowError, match=code) as caught:
        options = options_for(server.url, config=config, engine=engine)
        file_dataset.write_files({"a": path}, into_path="s3://b", id="1", options=options)
    assert "when_required" not in str(caught.value)


def test_a_read_that_is_refused_for_its_checksum_header_says_so(engine):
    said = refusal(400, "InvalidArgument")
    with Scripted(always(said)) as server, pytest.raises(RowError, match="response_checksum_validation"):
        blob(impatient_options(server.url, engine=engine))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_may_do_better_is_asked_again(engine, status):
    with Scripted(answering(answer(status=f"{status} X")), always(answer(b"body"))) as server:
        assert blob(impatient_options(server.url, engine=engine)) == b"body"
        assert len(server.heads) == 2


def test_a_redirect_that_leads_nowhere_is_an_error(engine):
    """Found by the fuzz test: botocore asks for the bucket's region, and is redirected again, until the stack ends."""
    moved = always(answer(status="301 Moved Permanently"))
    with Scripted(moved) as server, pytest.raises(RowError, match="PermanentRedirect"):
        blob(impatient_options(server.url, engine=engine))


# --- XML that is not S3's

GB2312 = b'<?xml version="1.0" encoding="GB2312"?><html>no</html>'  # expat: "multi-byte encodings are not supported"
NO_ENCODING = b'<?xml version="1.0" encoding="x-mine"?><html>no</html>'  # expat raises a LookupError
STRANGE = [
    ("200 OK", GB2312),
    ("200 OK", NO_ENCODING),
    ("404 Not Found", GB2312),
    ("403 Forbidden", b"<response><Error>Access denied</Error></response>"),
    ("403 Forbidden", b"<response><ResponseMetadata>x</ResponseMetadata></response>"),
    ("403 Forbidden", b"<Error><Code><Code>x</Code></Code></Error>"),
    ("403 Forbidden", b"<a>" * 3000 + b"</a>" * 3000),
]


@pytest.mark.parametrize("operation", ["get", "list", "put", "put in parts"])
def test_xml_of_a_proxy_costs_its_row(engine, operation, tmp_path, monkeypatch):
    """What expat, or botocore's parser, raises of it (LookupError, TypeError, RecursionError) once stopped the run."""

    def proxy(peer):
        while True:
            status, body = STRANGE[int(re.search(r"row-(\d)", peer.head())[1])]
            peer.send(answer(body, status))

    monkeypatch.setattr(multipart, "_MULTIPART_BYTES", 8 if operation == "put in parts" else 32)
    path = tmp_path / "a.bin"
    path.write_bytes(b"some bytes")
    cell = {"get": "s3://bucket/row-{}", "list": "s3://bucket/row-{}/"}.get(operation, str(path))
    # of a GET the body of 200 would be the object's
    numbers = [number for number, (status, _) in enumerate(STRANGE) if operation != "get" or status != "200 OK"]
    frame = pd.DataFrame({"id": [f"row-{n}" for n in numbers], "a.bin": [cell.format(n) for n in numbers]})
    with Scripted(proxy) as server:
        options = once(server.url, engine=engine)
        pipeline = file_dataset.Pipeline(forward, into_path="s3://bucket/out", options=options, progress=False)
        result = pipeline.run(frame)
    assert result.failures["id"].tolist() == frame["id"].tolist()
    assert set(result.failures["error_stage"]) == {"upload" if "put" in operation else "download"}


def test_a_bucket_is_not_listed_by_xml_of_a_proxy(engine):
    two_keys = b"<Contents><Key>in/1</Key><Key>in/2</Key><Size>3</Size></Contents>"
    late = b"<Contents><Key>in/1</Key><Size>3</Size><LastModified>99999999999999999999</LastModified></Contents>"
    for contents in (two_keys, late):
        page = b"<ListBucketResult><IsTruncated>false</IsTruncated>" + contents + b"</ListBucketResult>"
        with Scripted(always(answer(page))) as server:
            try:
                found = file_dataset.list_files({"a": "s3://b/in/{id}"}, options=once(server.url, engine=engine))
            except file_dataset.FileDatasetError:
                continue
            assert found["id"].tolist() == ["1"]
