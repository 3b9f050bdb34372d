"""The server that breaks on request: its faults, what it counts, and what of S3 moto's server does otherwise."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import multiprocessing
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from servers import faults
from servers.calls import MIB, code, complete, crc64nvme, upload_of
from servers.faults import (
    INTERNAL_ERROR,
    SLOW_DOWN,
    ErrorIn200,
    FaultServer,
    FlipBit,
    LostReply,
    NoAnswer,
    Redirect,
    Replace,
    ReplaceAfter,
    Reset,
    Short,
    Slow,
    Stall,
    Status,
    Truncate,
)

BODY = bytes(range(256)) * 4
KEYS = ["plain", "a b+c%25/ü//?x#y", "/lead", "//", "trail/", "a&b=c", "%2F", "..", "日本/✓", "a<b>'\"", "a\\b"]
PARTS = bytes(5 * MIB), b"end"
OTHER_CRC = base64.b64encode(bytes(4)).decode()
STATUSES = [status for status in vars(faults).values() if isinstance(status, Status)]
# parts of 5 MiB, the smallest that S3 takes: 20 MiB are 4 parts, and 4 ranges
IN_PARTS = TransferConfig(
    multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4, preferred_transfer_client="classic"
)


@pytest.fixture(scope="module")
def session():
    return boto3.Session()


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


@pytest.fixture
def connect(server, session):
    """Make a client of one attempt that waits `read_timeout` seconds for each byte."""
    clients = []

    def connect(access_key="AKIDTEST", read_timeout=20):
        client = session.client(
            "s3",
            endpoint_url=server.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key="secret",
            config=Config(
                retries={"total_max_attempts": 1}, read_timeout=read_timeout, s3={"addressing_style": "path"}
            ),
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture
def wire(server):
    """One connection, for what boto3 hides."""
    connection = http.client.HTTPConnection(server.endpoint_url.removeprefix("http://"), timeout=5)
    yield connection
    connection.close()


def dial(server):
    return socket.create_connection(("127.0.0.1", int(server.endpoint_url.rpartition(":")[2])), timeout=5)


# What of S3 no other server of the tests does


def test_a_key_is_opaque(server, client):
    for key in KEYS:
        server.put(f"s3://bucket/{key}", key.encode())
    assert server.keys("bucket") == sorted(KEYS)
    for key in KEYS:
        assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == key.encode()
        client.put_object(Bucket="bucket", Key=key, Body=b"new")
        assert server.body(f"s3://bucket/{key}") == b"new"
        assert server.count("GetObject", key) == 1


def test_what_is_not_there_is_no_body(server):
    server.put("s3://bucket/key", BODY)
    assert server.keys("missing") == []
    with pytest.raises(KeyError):
        server.body("s3://bucket/missing")


def test_an_error_of_a_head_has_no_body(server, wire):
    server.put("s3://bucket/key", BODY)
    for _ in range(2):  # a body would be in the way of the second answer on the connection
        wire.request("HEAD", "/bucket/missing")
        answer = wire.getresponse()
        assert (answer.status, answer.read()) == (404, b"")
    assert server.bytes_sent == 0


def test_a_file_of_20_mib_is_four_parts_and_four_ranges(server, client):
    client.create_bucket(Bucket="bucket")
    body = BODY * (20 * MIB // len(BODY))
    client.upload_fileobj(io.BytesIO(body), "bucket", "key", Config=IN_PARTS)
    assert server.body("s3://bucket/key") == body
    once = {("CreateBucket", ""): 1, ("CreateMultipartUpload", "key"): 1, ("CompleteMultipartUpload", "key"): 1}
    assert server.requests == {**once, ("UploadPart", "key"): 4}
    server.reset()
    client.download_fileobj("bucket", "key", io.BytesIO(), Config=IN_PARTS)
    assert (server.requests, server.bytes_sent) == ({("HeadObject", "key"): 1, ("GetObject", "key"): 4}, 20 * MIB)


def test_an_upload_is_open_until_it_is_completed_or_aborted(server, client):
    client.create_bucket(Bucket="bucket")
    first, parts = upload_of(client, b"part")
    second, _ = upload_of(client, b"part")
    assert server.open_uploads == {first, second}
    complete(client, first, parts)
    assert server.open_uploads == {second}
    client.abort_multipart_upload(Bucket="bucket", Key="key", UploadId=second)
    assert server.open_uploads == set()
    with pytest.raises(ClientError) as caught:
        complete(client, second, parts)
    assert code(caught) == (404, "NoSuchUpload")


def test_parts_are_listed_in_order(server, client):
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, *PARTS)
    with pytest.raises(ClientError) as caught:
        complete(client, upload_id, parts[::-1])
    assert code(caught) == (400, "InvalidPartOrder")
    assert server.open_uploads == {upload_id}


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256"])
def test_a_checksum_of_a_put_is_of_the_full_object(server, client, algorithm):
    client.create_bucket(Bucket="bucket")
    put = client.put_object(Bucket="bucket", Key="key", Body=BODY, ChecksumAlgorithm=algorithm)
    got = client.get_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    assert got["Body"].read() == BODY
    assert got["ChecksumType"] == put["ChecksumType"] == "FULL_OBJECT"


def crc32(body):
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


@pytest.mark.parametrize(
    ("asked", "expected", "kind"),
    [
        ({"ChecksumAlgorithm": "CRC64NVME"}, crc64nvme(b"".join(PARTS)), "FULL_OBJECT"),
        ({"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}, crc32(b"".join(PARTS)), "FULL_OBJECT"),
        (
            {"ChecksumAlgorithm": "CRC32"},
            crc32(b"".join(zlib.crc32(part).to_bytes(4, "big") for part in PARTS)) + "-2",
            "COMPOSITE",
        ),
    ],
    ids=["crc64", "crc32 of the whole", "crc32 of the parts"],
)
def test_an_upload_in_parts_has_the_checksum_that_was_asked_for(client, asked, expected, kind):
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, *PARTS, **asked)
    for answer in (
        complete(client, upload_id, parts),
        client.head_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED"),
    ):
        assert (answer[f"Checksum{asked['ChecksumAlgorithm']}"], answer["ChecksumType"]) == (expected, kind)


@pytest.mark.parametrize(
    ("operation", "digest"),
    [
        ("put_object", {"ChecksumCRC64NVME": crc64nvme(b"other")}),
        ("put_object", {"ChecksumCRC32C": OTHER_CRC}),
        ("put_object", {"ChecksumCRC32": OTHER_CRC}),
        ("put_object", {"ContentMD5": base64.b64encode(bytes(16)).decode()}),
        ("upload_part", {"ChecksumCRC64NVME": crc64nvme(b"other")}),
        ("complete_multipart_upload", {"ChecksumCRC64NVME": crc64nvme(b"other")}),
    ],
)
def test_a_digest_that_differs_from_the_body_is_a_bad_digest(server, client, operation, digest):
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, BODY, ChecksumAlgorithm="CRC64NVME")
    arguments = {
        "put_object": {"Body": BODY},
        "upload_part": {"Body": BODY, "UploadId": upload_id, "PartNumber": 1},
        "complete_multipart_upload": {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}},
    }
    with pytest.raises(ClientError) as caught:
        getattr(client, operation)(Bucket="bucket", Key="key", **arguments[operation], **digest)
    assert code(caught) == (400, "BadDigest")
    assert server.keys("bucket") == []


@pytest.mark.parametrize(("key", "expected"), [("key", (400, "InvalidRequest")), ("other", (404, "NoSuchUpload"))])
def test_a_part_of_another_key_or_checksum_than_its_upload_is_refused(client, key, expected):
    client.create_bucket(Bucket="bucket")
    upload_id, _ = upload_of(client, ChecksumAlgorithm="CRC64NVME")
    with pytest.raises(ClientError) as caught:  # boto3 sends CRC32 unless told
        client.upload_part(Bucket="bucket", Key=key, UploadId=upload_id, PartNumber=1, Body=BODY)
    assert code(caught) == expected


@pytest.mark.parametrize("is_right", [True, False])
def test_a_body_in_chunks_is_checked_by_its_trailer(server, wire, *, is_right):
    """What boto3 sends over TLS: aws-chunked with the checksum in a trailer, inside HTTP's own chunks."""
    server.put("s3://bucket/other", b"")
    wrapped = AwsChunkedWrapper(
        io.BytesIO(BODY),
        checksum_cls=Crc32Checksum,
        checksum_name="x-amz-checksum-crc32" if is_right else "x-amz-checksum-crc32c",
        chunk_size=MIB,
    )
    headers = {
        "Transfer-Encoding": "chunked",
        "Content-Encoding": "aws-chunked",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
        "X-Amz-Decoded-Content-Length": str(len(BODY)),
        "X-Amz-Content-SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    }
    wire.request("PUT", "/bucket/key", wrapped, headers, encode_chunked=True)
    answer = wire.getresponse()
    if is_right:
        assert answer.status == 200
        assert answer.headers["x-amz-checksum-crc32"] == base64.b64encode(zlib.crc32(BODY).to_bytes(4, "big")).decode()
        assert server.body("s3://bucket/key") == BODY
    else:
        assert (answer.status, b"<Code>BadDigest</Code>" in answer.read()) == (400, True)
        assert server.keys("bucket") == ["other"]


def test_a_body_in_chunks_may_come_with_a_length(server, wire):
    """What other clients send, signed chunks included."""
    server.put("s3://bucket/other", b"")
    signed = b"3;chunk-signature=0\r\nabc\r\n2;chunk-signature=1\r\nde\r\n0;chunk-signature=2\r\n\r\n"
    headers = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "x-amz-decoded-content-length": "5"}
    wire.request("PUT", "/bucket/key", signed, headers)
    assert wire.getresponse().status == 200
    assert server.body("s3://bucket/key") == b"abcde"


@pytest.mark.parametrize(
    ("body", "sha256", "expected"),
    [
        (BODY, hashlib.sha256(b"other").hexdigest(), "XAmzContentSHA256Mismatch"),
        *(
            (framed, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "IncompleteBody")
            for framed in (b"5\r\nabc", b"3\r\nabcd\r\n0\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n", b"abc")
        ),
    ],
)
def test_a_body_other_than_its_headers_say_is_refused(server, wire, body, sha256, expected):
    server.put("s3://bucket/other", b"")
    wire.request("PUT", "/bucket/key", body, {"x-amz-content-sha256": sha256, "x-amz-decoded-content-length": "5"})
    answer = wire.getresponse()
    assert (answer.status, f"<Code>{expected}</Code>".encode() in answer.read()) == (400, True)
    assert server.keys("bucket") == ["other"]


def test_a_client_that_waits_for_100_continue_gets_it(server):
    server.put("s3://bucket/other", b"")
    with dial(server) as sock:
        sock.sendall(b"PUT /bucket/key HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hi")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.body("s3://bucket/key") == b"hi"


def test_a_body_that_ends_early_is_not_stored(server):
    server.put("s3://bucket/other", b"")
    with dial(server) as sock:
        sock.sendall(b"PUT /bucket/key HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nhi")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1000) == b""
    assert server.keys("bucket") == ["other"]


def test_a_checksum_is_told_to_those_who_ask(server, wire):
    server.put("s3://bucket/key", BODY, checksum="CRC64NVME")
    asked = {"x-amz-checksum-mode": "ENABLED"}
    for method, headers, expected in (
        ("GET", asked, crc64nvme(BODY)),
        ("HEAD", asked, crc64nvme(BODY)),
        ("GET", {}, None),
        ("HEAD", {}, None),
        ("GET", {**asked, "range": "bytes=0-9"}, None),
    ):
        wire.request(method, "/bucket/key", headers=headers)
        answer = wire.getresponse()
        answer.read()
        assert answer.headers["x-amz-checksum-crc64nvme"] == expected
        assert answer.headers["x-amz-checksum-type"] == ("FULL_OBJECT" if expected else None)


def test_a_kms_object_has_an_etag_that_is_not_the_md5(server, client):
    server.put("s3://bucket/stored", BODY, etag="kms")
    client.put_object(Bucket="bucket", Key="put", Body=BODY, ServerSideEncryption="aws:kms", SSEKMSKeyId="id")
    for key in ["stored", "put"]:
        head = client.head_object(Bucket="bucket", Key=key)
        assert head["ServerSideEncryption"] == "aws:kms"
        assert len(bytes.fromhex(head["ETag"].strip('"'))) == 16
        assert head["ETag"] != f'"{hashlib.md5(BODY).hexdigest()}"'  # noqa: S324
    assert client.head_object(Bucket="bucket", Key="put")["SSEKMSKeyId"] == "id"


@pytest.mark.parametrize(
    ("checksum", "kind"), [("CRC64NVME", "FULL_OBJECT"), ("CRC32C", "COMPOSITE"), ("CRC32", "COMPOSITE")]
)
def test_an_object_may_be_stored_as_if_in_two_parts(server, client, checksum, kind):
    server.put("s3://bucket/key", BODY, etag="multipart", checksum=checksum)
    head = client.head_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-2"')
    assert head["ChecksumType"] == kind
    assert head[f"Checksum{checksum}"].endswith("-2") is (kind == "COMPOSITE")
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_an_archived_object_has_a_head_and_no_body(server, client):
    server.put("s3://bucket/key", BODY, storage_class="GLACIER")
    assert client.head_object(Bucket="bucket", Key="key")["StorageClass"] == "GLACIER"
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key")
    assert code(caught) == (403, "InvalidObjectState")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.copy_object(Bucket="bucket", Key="copy", CopySource="bucket/key"),
        lambda client: client.list_objects_v2(Bucket="bucket", MaxKeys=1),
        lambda client: client.get_object(Bucket="bucket", Key="key", VersionId="1"),
        lambda client: client.list_buckets(),
    ],
    ids=["copy", "other pages", "version", "buckets"],
)
def test_what_the_server_does_not_do_is_not_implemented(server, client, call):
    server.put("s3://bucket/key", BODY)
    with pytest.raises(ClientError) as caught:
        call(client)
    assert code(caught) == (501, "NotImplemented")


# Faults


@pytest.mark.parametrize("fault", STATUSES, ids=lambda fault: fault.code)
def test_a_status_is_answered_with_its_code(server, client, fault):
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", fault)
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key")
    assert code(caught) == (fault.status, fault.code)
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_a_status_of_a_head_is_all_that_boto3_gets(server, client):
    server.put("s3://bucket/key", BODY)
    server.fail("HeadObject", SLOW_DOWN)
    with pytest.raises(ClientError) as caught:
        client.head_object(Bucket="bucket", Key="key")
    assert code(caught) == (503, "503")


@pytest.mark.parametrize(
    ("rules", "asked", "expected"),
    [
        ([("GetObject", SLOW_DOWN, {})], ["GET a"] * 3, [503, 200, 200]),
        ([("GetObject", SLOW_DOWN, {"nth": 2, "times": 2})], ["GET a"] * 4, [200, 503, 503, 200]),
        ([("GetObject", SLOW_DOWN, {"nth": 3, "times": None})], ["GET a"] * 4, [200, 200, 503, 503]),
        ([("GetObject", SLOW_DOWN, {"key": "b"})], ["GET a", "GET b"], [200, 503]),
        ([("*", SLOW_DOWN, {"nth": 2})], ["HEAD a", "GET a"], [200, 503]),
        ([("GetObject", SLOW_DOWN, {}), ("GetObject", INTERNAL_ERROR, {"times": 2})], ["GET a"] * 3, [503, 500, 200]),
    ],
    ids=["first", "second and third", "from the third on", "one key", "any operation", "of two the first declared"],
)
def test_a_fault_breaks_the_requests_that_it_names(server, wire, rules, asked, expected):
    server.put("s3://bucket/a", BODY)
    server.put("s3://bucket/b", BODY)
    for operation, fault, which in rules:
        server.fail(operation, fault, **which)
    seen = []
    for request in asked:
        method, key = request.split()
        wire.request(method, f"/bucket/{key}")
        answer = wire.getresponse()
        answer.read()
        seen.append(answer.status)
    assert seen == expected
    assert [fault.status for fault in server.fired] == [status for status in expected if status != 200]


def test_a_fault_of_an_unknown_operation_is_refused(server):
    with pytest.raises(ValueError, match="no operation 'GetObjekt'"):
        server.fail("GetObjekt", SLOW_DOWN)


def test_no_answer_is_a_read_timeout(server, connect):
    client = connect(read_timeout=1)
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", NoAnswer())
    with pytest.raises(ReadTimeoutError):
        client.get_object(Bucket="bucket", Key="key")
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_a_reset_before_the_answer_is_a_closed_connection(server, client):
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Reset())
    with pytest.raises(ConnectionClosedError, match="Connection was closed") as caught:
        client.get_object(Bucket="bucket", Key="key")
    assert "ConnectionResetError" in repr(caught.value.kwargs["error"])


@pytest.mark.parametrize(("fault", "error"), [(SLOW_DOWN, ClientError), (Reset(), ConnectionClosedError)])
def test_a_put_that_is_broken_takes_no_effect(server, client, fault, error):
    client.create_bucket(Bucket="bucket")
    server.fail("PutObject", fault)
    with pytest.raises(error):
        client.put_object(Bucket="bucket", Key="key", Body=BODY)
    assert server.keys("bucket") == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Reset(after_bytes=100), ResponseStreamingError),
        (Truncate(after_bytes=100), (ResponseStreamingError, IncompleteReadError)),
        (Stall(after_bytes=100), ReadTimeoutError),
    ],
)
def test_a_body_that_breaks_off_breaks_the_read(server, connect, fault, error):
    client = connect(read_timeout=1 if isinstance(fault, Stall) else 20)
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", fault)
    got = client.get_object(Bucket="bucket", Key="key")
    assert got["ContentLength"] == 1024
    if not isinstance(fault, Reset):  # which may overtake the bytes before it
        assert got["Body"].read(100) == BODY[:100]
    with pytest.raises(error):
        got["Body"].read()
    assert server.bytes_sent == 100


def test_a_slow_body_is_complete(server, client):
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Slow(bytes_per_second=2048))
    started_s = time.monotonic()
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
    assert time.monotonic() - started_s >= 0.5  # 1024 bytes at 2048 bytes/s


def test_a_flipped_bit_is_noticed_by_a_checksum(server, client):
    server.put("s3://bucket/key", BODY, checksum="CRC64NVME")
    server.fail("GetObject", FlipBit(position=100))
    with pytest.raises(FlexibleChecksumError):
        client.get_object(Bucket="bucket", Key="key")["Body"].read()


@pytest.mark.parametrize("etag", ["md5", "kms"])
def test_a_flipped_bit_without_a_checksum_is_not_noticed_by_boto3(server, client, etag):
    server.put("s3://bucket/key", BODY, etag=etag)
    good = client.head_object(Bucket="bucket", Key="key")
    server.fail("GetObject", FlipBit(position=100))
    got = client.get_object(Bucket="bucket", Key="key")
    assert got["Body"].read() == BODY[:100] + bytes([BODY[100] ^ 1]) + BODY[101:]
    assert (got["ETag"], got["ContentLength"]) == (good["ETag"], good["ContentLength"])
    assert server.body("s3://bucket/key") == BODY


def test_a_flipped_bit_in_one_range_reaches_the_file(server, client):
    body = BODY * (20 * MIB // len(BODY))
    server.put("s3://bucket/key", body, checksum="CRC64NVME")
    server.fail("GetObject", FlipBit(), nth=3)
    into = io.BytesIO()
    client.download_fileobj("bucket", "key", into, Config=IN_PARTS)
    assert sum(a != b for a, b in zip(into.getvalue()[:: 5 * MIB], body[:: 5 * MIB], strict=True)) == 1


def test_a_short_body_agrees_with_its_length(server, client):
    server.put("s3://bucket/key", BODY)
    good = client.head_object(Bucket="bucket", Key="key")
    server.fail("*", Short(by=24), times=2)
    assert client.head_object(Bucket="bucket", Key="key")["ContentLength"] == 1000
    got = client.get_object(Bucket="bucket", Key="key")
    assert (got["ContentLength"], got["ETag"]) == (1000, good["ETag"])
    assert got["Body"].read() == BODY[:1000]


def test_a_replaced_object_is_what_the_request_gets(server, client):
    server.put("s3://bucket/key", BODY, checksum="CRC64NVME")
    etag = client.head_object(Bucket="bucket", Key="key")["ETag"]
    server.fail("GetObject", Replace(b"new"))
    got = client.get_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"new" == server.body("s3://bucket/key")
    assert got["ETag"] != etag
    assert got["ChecksumCRC64NVME"] == crc64nvme(b"new")


def test_an_object_replaced_between_ranges_fails_the_precondition(server, client):
    server.put("s3://bucket/key", BODY)
    etag = client.head_object(Bucket="bucket", Key="key")["ETag"]
    server.fail("GetObject", Replace(BODY[::-1]), nth=2)
    first = client.get_object(Bucket="bucket", Key="key", IfMatch=etag, Range="bytes=0-9")
    assert first["Body"].read() == BODY[:10]
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key", IfMatch=etag, Range="bytes=10-19")
    assert code(caught) == (412, "PreconditionFailed")


def test_an_object_may_be_replaced_or_vanish_between_requests(server, client):
    server.put("s3://bucket/key", BODY)
    server.fail("HeadObject", ReplaceAfter(b"new"))
    server.fail("HeadObject", ReplaceAfter(None), nth=2)
    assert client.head_object(Bucket="bucket", Key="key")["ContentLength"] == len(BODY)
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"new"
    assert client.head_object(Bucket="bucket", Key="key")["ContentLength"] == len(b"new")
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket="bucket", Key="key")


def test_a_redirect_names_the_region(server, wire):
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Redirect("eu-west-1"))
    wire.request("GET", "/bucket/key")
    answer = wire.getresponse()
    assert (answer.status, answer.headers["x-amz-bucket-region"]) == (301, "eu-west-1")
    assert b"<Code>PermanentRedirect</Code>" in answer.read()


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject"])
def test_a_request_signed_for_the_region_of_the_redirect_is_served(server, client, operation):
    """boto3 signs again by itself; one attempt is enough for it."""
    server.put("s3://bucket/key", BODY)
    server.fail(operation, Redirect("eu-west-1"), times=None)
    call = client.get_object if operation == "GetObject" else client.head_object
    assert call(Bucket="bucket", Key="key")["ContentLength"] == len(BODY)
    assert server.count(operation) == 2
    assert server.fired == [Redirect("eu-west-1")]


def test_an_error_in_a_200_leaves_the_upload_open(server, client):
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, BODY)
    server.fail("CompleteMultipartUpload", ErrorIn200())
    with pytest.raises(ClientError) as caught:
        complete(client, upload_id, parts)
    assert code(caught)[1] == "InternalError"
    assert server.open_uploads == {upload_id}
    assert server.keys("bucket") == []
    complete(client, upload_id, parts)
    assert server.body("s3://bucket/key") == BODY


def test_an_error_in_a_200_has_status_200(server, wire):
    server.fail("CompleteMultipartUpload", ErrorIn200("SlowDown"))
    wire.request("POST", "/bucket/key?uploadId=1")
    answer = wire.getresponse()
    assert (answer.status, b"<Error><Code>SlowDown</Code>" in answer.read()) == (200, True)


def test_a_put_whose_reply_is_lost_took_effect(server, client):
    client.create_bucket(Bucket="bucket")
    server.fail("PutObject", LostReply())
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket="bucket", Key="key", Body=BODY)
    assert server.body("s3://bucket/key") == BODY


def test_an_upload_whose_reply_is_lost_is_complete(server, client):
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, BODY)
    server.fail("CompleteMultipartUpload", LostReply())
    with pytest.raises(ConnectionClosedError):
        complete(client, upload_id, parts)
    assert server.body("s3://bucket/key") == BODY
    assert server.open_uploads == set()


def test_an_expired_key_is_refused_from_the_nth_request_on(server, connect):
    server.put("s3://bucket/key", BODY)
    server.expire("AKIDOLD", nth=2)
    old, new = connect("AKIDOLD"), connect("AKIDNEW")
    old.get_object(Bucket="bucket", Key="key")
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            old.get_object(Bucket="bucket", Key="key")
        assert code(caught) == (400, "ExpiredToken")
    assert new.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
    assert server.access_keys == {"AKIDOLD": 3, "AKIDNEW": 1}


# The server itself


def test_requests_are_counted_by_operation_and_key(server, client):
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="a", Body=BODY)
    client.put_object(Bucket="bucket", Key="b", Body=BODY)
    client.get_object(Bucket="bucket", Key="a")["Body"].read()
    assert server.requests == {
        ("CreateBucket", ""): 1,
        ("PutObject", "a"): 1,
        ("PutObject", "b"): 1,
        ("GetObject", "a"): 1,
    }
    assert (server.count("PutObject"), server.count("PutObject", "a"), server.count("HeadObject")) == (2, 1, 0)
    assert server.bytes_sent == len(BODY)


def test_the_highest_number_of_requests_at_one_time_is_kept(server, client):
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Slow(bytes_per_second=4096), times=4)  # each takes 0.25 s
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: client.get_object(Bucket="bucket", Key="key")["Body"].read(), range(4)))
    assert server.max_in_flight == 4


def test_a_reset_server_keeps_its_objects(server, client):
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", SLOW_DOWN)
    server.expire("AKIDTEST")
    with pytest.raises(ClientError):
        client.get_object(Bucket="bucket", Key="key")
    server.reset()
    assert (server.requests, server.access_keys, server.fired, server.bytes_sent) == ({}, {}, [], 0)
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_a_cleared_server_is_empty(server, client):
    server.put("s3://bucket/key", BODY)
    upload_of(client)
    server.fail("HeadBucket", SLOW_DOWN)
    server.clear()
    assert (server.keys("bucket"), server.open_uploads, server.requests) == ([], set(), {})
    with pytest.raises(ClientError) as caught:
        client.head_bucket(Bucket="bucket")
    assert code(caught) == (404, "404")


def test_closing_does_not_wait_for_those_who_wait_for_ever():
    answers = []
    with FaultServer() as server:
        server.put("s3://bucket/key", bytes(64 * MIB))
        server.fail("GetObject", NoAnswer())
        server.fail("GetObject", Stall(after_bytes=10), nth=2)
        server.fail("GetObject", Slow(bytes_per_second=1), nth=3)
        before = set(threading.enumerate())
        socks = [dial(server) for _ in range(5)]
        for sock in socks[:4]:  # the fourth reads nothing of a body that is larger than its buffers; the fifth is idle
            sock.sendall(b"GET /bucket/key HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = len(answers)
            while server.count("GetObject") == seen:
                time.sleep(0.001)
            answers.append(b"")
        while len(serving := set(threading.enumerate()) - before) < 5:  # the idle one may not be accepted yet
            time.sleep(0.001)
    for thread in serving:
        thread.join(20)
        assert not thread.is_alive()
    for sock in socks:
        sock.close()


def test_a_closed_server_refuses_connections():
    with FaultServer() as server:
        pass
    server.close()  # a second time is no error
    with pytest.raises(ConnectionRefusedError):
        dial(server)


def test_a_client_that_leaves_prints_nothing(server, capfd):
    server.put("s3://bucket/key", bytes(64 * MIB))
    with dial(server) as sock:
        sock.sendall(b"GET /bucket/key HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(10)
    server.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", [FlipBit(1024), Truncate(1024), Stall(1024), Reset(1024), Short(1025)])
def test_a_fault_beyond_the_end_of_the_body_is_told_by_close(fault):
    server = FaultServer()
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", fault)
    connection = http.client.HTTPConnection(server.endpoint_url.removeprefix("http://"), timeout=5)
    connection.request("GET", "/bucket/key")
    with pytest.raises(http.client.HTTPException):
        connection.getresponse().read()
    connection.close()
    with pytest.raises(ExceptionGroup) as caught:
        server.close()
    assert [type(error) for error in caught.value.exceptions] == [IndexError]


@pytest.mark.parametrize("url", ["bucket/key", "s3://bucket", "s3://bucket/", "s3:///key", "https://bucket/key"])
def test_an_object_needs_a_bucket_and_a_key(server, url):
    with pytest.raises(ValueError, match="not s3://bucket/key"):
        server.put(url, BODY)


def test_a_client_may_live_in_another_process(server):
    server.put("s3://bucket/key", b"bytes")
    program = f"import urllib.request as r; print(r.urlopen('{server.endpoint_url}/bucket/key').read())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=200)
    assert run.stdout == b"b'bytes'\n"


def test_a_reset_is_sent_though_a_forked_child_lives(server, client):
    server.put("s3://bucket/key", BODY)
    client.get_object(Bucket="bucket", Key="key")["Body"].read()  # now a connection is open on both sides
    leave = multiprocessing.get_context("fork").Event()
    child = multiprocessing.get_context("fork").Process(target=leave.wait, args=(20,))
    child.start()
    try:
        server.fail("GetObject", Reset())
        with pytest.raises(ConnectionClosedError):
            client.get_object(Bucket="bucket", Key="key")
    finally:
        leave.set()
        child.join()
    assert child.exitcode == 0
