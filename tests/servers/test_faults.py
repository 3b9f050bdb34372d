"""The fault server does what it says, seen by a boto3 client that makes one attempt."""

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
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from awscrt import checksums as awscrt_checksums
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
from servers.faults import (
    ACCESS_DENIED,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    INVALID_ACCESS_KEY_ID,
    INVALID_OBJECT_STATE,
    NO_SUCH_KEY,
    REQUEST_TIME_TOO_SKEWED,
    SERVICE_UNAVAILABLE,
    SIGNATURE_DOES_NOT_MATCH,
    SLOW_DOWN,
    TOO_MANY_REQUESTS,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers.faults import Checksum

    Call = Callable[[Any], object]
    Connect = Callable[..., Any]

BODY = bytes(range(256)) * 4
KEYS = ["plain", "a b+c%25/ü//?x#y", "/lead", "//", "trail/", "a&b=c", "%2F", "..", "日本/✓", "a<b>'\"", "a\\b"]
STATUSES = [
    INTERNAL_ERROR,
    SERVICE_UNAVAILABLE,
    SLOW_DOWN,
    TOO_MANY_REQUESTS,
    ACCESS_DENIED,
    INVALID_ACCESS_KEY_ID,
    SIGNATURE_DOES_NOT_MATCH,
    EXPIRED_TOKEN,
    REQUEST_TIME_TOO_SKEWED,
    INVALID_OBJECT_STATE,
    NO_SUCH_KEY,
]
MIB = 1 << 20
# parts of 5 MiB, the smallest that S3 takes: 20 MiB are 4 parts, and 4 ranges
IN_PARTS = TransferConfig(
    multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4, preferred_transfer_client="classic"
)


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    return boto3.Session()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def connect(server: FaultServer, session: boto3.Session) -> Iterator[Connect]:
    """Make a client of one attempt that waits `read_timeout` seconds for each byte."""
    clients: list[Any] = []

    def connect(access_key: str = "AKIDTEST", read_timeout: int = 20) -> Any:
        client: Any = session.client(
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
def client(connect: Connect) -> Any:
    return connect()


@pytest.fixture
def wire(server: FaultServer) -> Iterator[http.client.HTTPConnection]:
    """One connection, for what boto3 hides."""
    connection = http.client.HTTPConnection(server.endpoint_url.removeprefix("http://"), timeout=5)
    yield connection
    connection.close()


def code(caught: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    answer: Any = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def crc64nvme(body: bytes) -> str:
    return base64.b64encode(awscrt_checksums.crc64nvme(body).to_bytes(8, "big")).decode()


def upload_of(client: Any, *parts: bytes, key: str = "key", **create: Any) -> tuple[str, list[dict[str, Any]]]:
    """Id and parts of an upload that is ready to be completed."""
    upload_id = client.create_multipart_upload(Bucket="bucket", Key=key, **create)["UploadId"]
    of = {"Bucket": "bucket", "Key": key, "UploadId": upload_id}
    if "ChecksumAlgorithm" in create:
        of["ChecksumAlgorithm"] = create["ChecksumAlgorithm"]
    uploaded = []
    for number, part in enumerate(parts, 1):
        uploaded.append({"PartNumber": number, "ETag": client.upload_part(PartNumber=number, Body=part, **of)["ETag"]})
    return upload_id, uploaded


def complete(client: Any, upload_id: str, parts: list[dict[str, Any]], key: str = "key") -> Any:
    return client.complete_multipart_upload(
        Bucket="bucket", Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
    )


# Operations


def test_an_object_put_is_the_object_got(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    put = client.put_object(Bucket="bucket", Key="key", Body=BODY, ContentType="text/x", Metadata={"name": "value"})
    got = client.get_object(Bucket="bucket", Key="key")
    assert got["Body"].read() == BODY == server.body("s3://bucket/key")
    assert (got["ContentType"], got["Metadata"], got["ContentLength"]) == ("text/x", {"name": "value"}, len(BODY))
    assert got["ETag"] == put["ETag"] == f'"{hashlib.md5(BODY).hexdigest()}"'  # noqa: S324


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_opaque(server: FaultServer, client: Any, key: str) -> None:
    server.put(f"s3://bucket/{key}", BODY)
    assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == BODY
    client.put_object(Bucket="bucket", Key=key, Body=b"new")
    assert server.body(f"s3://bucket/{key}") == b"new"
    assert server.keys("bucket") == [key]
    assert client.list_objects_v2(Bucket="bucket")["Contents"][0]["Key"] == key
    assert server.count("GetObject", key) == 1


def test_an_empty_object_is_an_object(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", b"")
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b""
    assert client.head_object(Bucket="bucket", Key="key")["ContentLength"] == 0


def test_a_bucket_exists_once_it_is_created(client: Any) -> None:
    with pytest.raises(ClientError) as caught:
        client.head_bucket(Bucket="bucket")
    assert code(caught) == (404, "404")
    client.create_bucket(Bucket="bucket")
    assert client.head_bucket(Bucket="bucket")["BucketRegion"] == "us-east-1"


def test_a_listing_has_the_keys_of_its_prefix_in_order(server: FaultServer, client: Any) -> None:
    for key in ["b/2", "b/10", "a", "b", "c"]:
        server.put(f"s3://bucket/{key}", BODY)
    listed = client.list_objects_v2(Bucket="bucket", Prefix="b/")
    assert [(found["Key"], found["Size"]) for found in listed["Contents"]] == [("b/10", 1024), ("b/2", 1024)]
    assert listed["KeyCount"] == 2
    assert listed["IsTruncated"] is False


def test_a_deleted_object_is_gone(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    client.delete_object(Bucket="bucket", Key="key")
    client.delete_object(Bucket="bucket", Key="key")  # a second time is no error, as in S3
    assert server.keys("bucket") == []
    with pytest.raises(KeyError):
        server.body("s3://bucket/key")


def test_a_missing_object_is_no_such_key(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="missing")
    assert code(caught) == (404, "NoSuchKey")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_object(Bucket="bucket", Key="key"),
        lambda client: client.put_object(Bucket="bucket", Key="key", Body=BODY),
        lambda client: client.list_objects_v2(Bucket="bucket"),
        lambda client: client.create_multipart_upload(Bucket="bucket", Key="key"),
    ],
    ids=["get", "put", "list", "create upload"],
)
def test_a_missing_bucket_is_no_such_bucket(client: Any, call: Call) -> None:
    with pytest.raises(ClientError) as caught:
        call(client)
    assert code(caught) == (404, "NoSuchBucket")


def test_an_error_of_a_head_has_no_body(server: FaultServer, wire: http.client.HTTPConnection) -> None:
    server.put("s3://bucket/key", BODY)
    for _ in range(2):  # a body would be in the way of the second answer on the connection
        wire.request("HEAD", "/bucket/missing")
        answer = wire.getresponse()
        assert (answer.status, answer.read()) == (404, b"")
    assert server.bytes_sent == 0


@pytest.mark.parametrize(
    ("span", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=1000-", 1000, 1024), ("bytes=-24", 1000, 1024),
     ("bytes=1000-9999", 1000, 1024), ("bytes=-9999", 0, 1024)],
)  # fmt: skip
def test_a_range_is_that_part_of_the_body(server: FaultServer, client: Any, span: str, start: int, stop: int) -> None:
    server.put("s3://bucket/key", BODY)
    got = client.get_object(Bucket="bucket", Key="key", Range=span)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"] == f"bytes {start}-{stop - 1}/1024"
    assert got["Body"].read() == BODY[start:stop]


@pytest.mark.parametrize(("body", "span"), [(BODY, "bytes=1024-"), (BODY, "bytes=-0"), (b"", "bytes=0-9")])
def test_a_range_beyond_the_end_is_invalid(server: FaultServer, client: Any, body: bytes, span: str) -> None:
    server.put("s3://bucket/key", body)
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key", Range=span)
    assert code(caught) == (416, "InvalidRange")


def test_a_range_with_the_right_etag_is_served(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    etag = client.head_object(Bucket="bucket", Key="key")["ETag"]
    got = client.get_object(Bucket="bucket", Key="key", Range="bytes=1-2", IfMatch=etag)
    assert got["Body"].read() == BODY[1:3]


def test_a_range_with_another_etag_is_refused(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key", Range="bytes=1-2", IfMatch='"other"')
    assert code(caught) == (412, "PreconditionFailed")


def test_an_unchanged_object_is_not_modified(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    etag = client.head_object(Bucket="bucket", Key="key")["ETag"]
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key", IfNoneMatch=etag)
    assert code(caught) == (304, "304")
    assert client.get_object(Bucket="bucket", Key="key", IfNoneMatch='"other"')["Body"].read() == BODY


def test_a_put_of_a_new_object_does_not_replace_one(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="bucket", Key="key", Body=b"new", IfNoneMatch="*")
    assert code(caught) == (412, "PreconditionFailed")
    assert server.body("s3://bucket/key") == BODY
    client.put_object(Bucket="bucket", Key="new", Body=b"new", IfNoneMatch="*")
    assert server.body("s3://bucket/new") == b"new"


def test_a_file_of_20_mib_is_uploaded_in_parts(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    body = BODY * (20 * MIB // len(BODY))
    client.upload_fileobj(io.BytesIO(body), "bucket", "key", Config=IN_PARTS)
    assert server.body("s3://bucket/key") == body
    assert client.head_object(Bucket="bucket", Key="key")["ETag"].endswith('-4"')
    assert {name: server.count(name) for name, _ in server.requests} == {
        "CreateBucket": 1,
        "CreateMultipartUpload": 1,
        "UploadPart": 4,
        "CompleteMultipartUpload": 1,
        "HeadObject": 1,
    }
    assert server.open_uploads == set()


def test_a_file_of_20_mib_is_downloaded_in_ranges(server: FaultServer, client: Any) -> None:
    body = BODY * (20 * MIB // len(BODY))
    server.put("s3://bucket/key", body)
    into = io.BytesIO()
    client.download_fileobj("bucket", "key", into, Config=IN_PARTS)
    assert into.getvalue() == body
    assert (server.count("HeadObject"), server.count("GetObject"), server.bytes_sent) == (1, 4, 20 * MIB)


def test_an_upload_is_open_until_it_is_completed(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, bytes(5 * MIB), b"end")
    assert server.open_uploads == {upload_id}
    assert server.keys("bucket") == []
    complete(client, upload_id, parts)
    assert server.open_uploads == set()
    assert server.body("s3://bucket/key") == bytes(5 * MIB) + b"end"
    md5s = b"".join(hashlib.md5(part).digest() for part in (bytes(5 * MIB), b"end"))  # noqa: S324
    etag = client.head_object(Bucket="bucket", Key="key")["ETag"]
    assert etag == f'"{hashlib.md5(md5s).hexdigest()}-2"'  # noqa: S324


def test_an_aborted_upload_is_no_such_upload(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, b"part")
    client.abort_multipart_upload(Bucket="bucket", Key="key", UploadId=upload_id)
    assert server.open_uploads == set()
    with pytest.raises(ClientError) as caught:
        complete(client, upload_id, parts)
    assert code(caught) == (404, "NoSuchUpload")


def test_an_upload_belongs_to_its_key(client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, _ = upload_of(client)
    with pytest.raises(ClientError) as caught:
        client.upload_part(Bucket="bucket", Key="other", UploadId=upload_id, PartNumber=1, Body=BODY)
    assert code(caught) == (404, "NoSuchUpload")


@pytest.mark.parametrize(
    ("sizes", "listed", "expected"),
    [
        ([1, 1], [(1, None), (2, None)], "EntityTooSmall"),
        ([1], [(1, '"other"')], "InvalidPart"),
        ([1], [(2, None)], "InvalidPart"),
        ([1, 1], [(2, None), (1, None)], "InvalidPartOrder"),
        ([1], [], "MalformedXML"),
    ],
    ids=["small part", "wrong etag", "missing part", "wrong order", "no part"],
)
def test_a_list_of_parts_that_s3_refuses_leaves_the_upload_open(
    server: FaultServer, client: Any, sizes: list[int], listed: list[tuple[int, str | None]], expected: str
) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, *(bytes(size) for size in sizes))
    with pytest.raises(ClientError) as caught:
        complete(client, upload_id, [{"PartNumber": n, "ETag": etag or parts[0]["ETag"]} for n, etag in listed])
    assert code(caught) == (400, expected)
    assert server.open_uploads == {upload_id}


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256"])
def test_a_checksum_that_a_put_brings_is_kept(server: FaultServer, client: Any, algorithm: str) -> None:
    client.create_bucket(Bucket="bucket")
    put = client.put_object(Bucket="bucket", Key="key", Body=BODY, ChecksumAlgorithm=algorithm)
    got = client.get_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    assert got["Body"].read() == BODY
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert got["ChecksumType"] == put["ChecksumType"] == "FULL_OBJECT"
    assert server.body("s3://bucket/key") == BODY


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32"])
def test_a_checksum_that_differs_from_the_body_is_a_bad_digest(
    server: FaultServer, client: Any, algorithm: str
) -> None:
    client.create_bucket(Bucket="bucket")
    wrong = base64.b64encode(bytes(8 if algorithm == "CRC64NVME" else 4)).decode()
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="bucket", Key="key", Body=BODY, **{f"Checksum{algorithm}": wrong})
    assert code(caught) == (400, "BadDigest")
    assert server.keys("bucket") == []


def test_a_part_with_a_wrong_checksum_is_a_bad_digest(client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, _ = upload_of(client)
    with pytest.raises(ClientError) as caught:
        client.upload_part(
            Bucket="bucket", Key="key", UploadId=upload_id, PartNumber=1, Body=BODY, ChecksumCRC32="AAAAAA=="
        )
    assert code(caught) == (400, "BadDigest")


def test_a_part_with_another_checksum_than_its_upload_is_refused(client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, _ = upload_of(client, ChecksumAlgorithm="CRC64NVME")
    with pytest.raises(ClientError) as caught:  # boto3 sends CRC32 unless told
        client.upload_part(Bucket="bucket", Key="key", UploadId=upload_id, PartNumber=1, Body=BODY)
    assert code(caught) == (400, "InvalidRequest")


def test_an_md5_that_differs_from_the_body_is_a_bad_digest(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    wrong = base64.b64encode(bytes(16)).decode()
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="bucket", Key="key", Body=BODY, ContentMD5=wrong)
    assert code(caught) == (400, "BadDigest")
    assert server.keys("bucket") == []


def test_a_body_that_differs_from_its_signed_digest_is_refused(
    server: FaultServer, wire: http.client.HTTPConnection
) -> None:
    server.put("s3://bucket/other", b"")
    wire.request("PUT", "/bucket/key", BODY, {"x-amz-content-sha256": hashlib.sha256(b"other").hexdigest()})
    answer = wire.getresponse()
    assert answer.status == 400
    assert b"<Code>XAmzContentSHA256Mismatch</Code>" in answer.read()
    assert server.keys("bucket") == ["other"]


@pytest.mark.parametrize("is_right", [True, False])
def test_a_body_in_chunks_is_checked_by_its_trailer(
    server: FaultServer, wire: http.client.HTTPConnection, *, is_right: bool
) -> None:
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


def test_a_body_in_chunks_may_come_with_a_length(server: FaultServer, wire: http.client.HTTPConnection) -> None:
    """What other clients send, signed chunks included."""
    server.put("s3://bucket/other", b"")
    signed = b"3;chunk-signature=0\r\nabc\r\n2;chunk-signature=1\r\nde\r\n0;chunk-signature=2\r\n\r\n"
    headers = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "x-amz-decoded-content-length": "5"}
    wire.request("PUT", "/bucket/key", signed, headers)
    assert wire.getresponse().status == 200
    assert server.body("s3://bucket/key") == b"abcde"


@pytest.mark.parametrize("framed", [b"5\r\nabc", b"3\r\nabcd\r\n0\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n", b"abc"])
def test_a_body_in_broken_chunks_is_incomplete(
    server: FaultServer, wire: http.client.HTTPConnection, framed: bytes
) -> None:
    server.put("s3://bucket/other", b"")
    headers = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": "5"}
    wire.request("PUT", "/bucket/key", framed, headers)
    answer = wire.getresponse()
    assert (answer.status, b"<Code>IncompleteBody</Code>" in answer.read()) == (400, True)
    assert server.keys("bucket") == ["other"]


def test_a_client_that_waits_for_100_continue_gets_it(server: FaultServer) -> None:
    server.put("s3://bucket/other", b"")
    port = int(server.endpoint_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"PUT /bucket/key HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hi")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.body("s3://bucket/key") == b"hi"


def test_a_body_that_ends_early_is_not_stored(server: FaultServer) -> None:
    server.put("s3://bucket/other", b"")
    port = int(server.endpoint_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"PUT /bucket/key HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nhi")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1000) == b""
    assert server.keys("bucket") == ["other"]


def test_an_upload_in_parts_has_the_crc64_of_the_whole_object(client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, bytes(5 * MIB), b"end", ChecksumAlgorithm="CRC64NVME")
    completed = complete(client, upload_id, parts)
    head = client.head_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    assert completed["ChecksumCRC64NVME"] == head["ChecksumCRC64NVME"] == crc64nvme(bytes(5 * MIB) + b"end")
    assert completed["ChecksumType"] == head["ChecksumType"] == "FULL_OBJECT"


def test_an_upload_in_parts_has_a_composite_crc32(client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, bytes(5 * MIB), b"end", ChecksumAlgorithm="CRC32")
    complete(client, upload_id, parts)
    head = client.head_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    crcs = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in (bytes(5 * MIB), b"end"))
    expected = base64.b64encode(zlib.crc32(crcs).to_bytes(4, "big")).decode()
    assert (head["ChecksumCRC32"], head["ChecksumType"]) == (f"{expected}-2", "COMPOSITE")


def test_an_upload_in_parts_has_a_crc32_of_the_whole_object_on_request(client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    asked = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
    upload_id, parts = upload_of(client, bytes(5 * MIB), b"end", **asked)
    complete(client, upload_id, parts)
    head = client.head_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    expected = base64.b64encode(zlib.crc32(bytes(5 * MIB) + b"end").to_bytes(4, "big")).decode()
    assert (head["ChecksumCRC32"], head["ChecksumType"]) == (expected, "FULL_OBJECT")


def test_an_upload_whose_whole_checksum_differs_is_a_bad_digest(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, BODY, ChecksumAlgorithm="CRC64NVME")
    with pytest.raises(ClientError) as caught:
        client.complete_multipart_upload(
            Bucket="bucket",
            Key="key",
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            ChecksumCRC64NVME=crc64nvme(b"other"),
        )
    assert code(caught) == (400, "BadDigest")
    assert server.keys("bucket") == []


def test_a_checksum_is_told_to_those_who_ask(server: FaultServer, wire: http.client.HTTPConnection) -> None:
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


def test_a_kms_object_has_an_etag_that_is_not_the_md5(server: FaultServer, client: Any) -> None:
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
def test_an_object_may_be_stored_as_if_in_two_parts(
    server: FaultServer, client: Any, checksum: Checksum, kind: str
) -> None:
    server.put("s3://bucket/key", BODY, etag="multipart", checksum=checksum)
    head = client.head_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-2"')
    assert head["ChecksumType"] == kind
    assert head[f"Checksum{checksum}"].endswith("-2") is (kind == "COMPOSITE")
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_an_archived_object_has_a_head_and_no_body(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY, storage_class="GLACIER")
    assert client.head_object(Bucket="bucket", Key="key")["StorageClass"] == "GLACIER"
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key")
    assert code(caught) == (403, "InvalidObjectState")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.copy_object(Bucket="bucket", Key="copy", CopySource="bucket/key"),
        lambda client: client.list_objects_v2(Bucket="bucket", Delimiter="/"),
        lambda client: client.list_objects_v2(Bucket="bucket", MaxKeys=1),
        lambda client: client.get_object(Bucket="bucket", Key="key", VersionId="1"),
        lambda client: client.list_buckets(),
    ],
    ids=["copy", "delimiter", "pages", "version", "buckets"],
)
def test_what_the_server_does_not_do_is_not_implemented(server: FaultServer, client: Any, call: Call) -> None:
    server.put("s3://bucket/key", BODY)
    with pytest.raises(ClientError) as caught:
        call(client)
    assert code(caught) == (501, "NotImplemented")


# Faults


@pytest.mark.parametrize("fault", STATUSES, ids=lambda fault: fault.code)
def test_a_status_is_answered_with_its_code(server: FaultServer, client: Any, fault: Status) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", fault)
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key")
    assert code(caught) == (fault.status, fault.code)
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_a_status_of_a_head_is_all_that_boto3_gets(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("HeadObject", SLOW_DOWN)
    with pytest.raises(ClientError) as caught:
        client.head_object(Bucket="bucket", Key="key")
    assert code(caught) == (503, "503")


def test_a_put_that_is_refused_takes_no_effect(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    server.fail("PutObject", SLOW_DOWN)
    with pytest.raises(ClientError):
        client.put_object(Bucket="bucket", Key="key", Body=BODY)
    assert server.keys("bucket") == []


@pytest.mark.parametrize(
    ("nth", "times", "expected"),
    [(1, 1, [503, 200, 200, 200]), (2, 2, [200, 503, 503, 200]), (3, None, [200, 200, 503, 503])],
)
def test_a_fault_breaks_the_nth_request_and_as_many_as_told(
    server: FaultServer, wire: http.client.HTTPConnection, nth: int, times: int | None, expected: list[int]
) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", SLOW_DOWN, nth=nth, times=times)
    seen = []
    for _ in expected:
        wire.request("GET", "/bucket/key")
        answer = wire.getresponse()
        answer.read()
        seen.append(answer.status)
    assert seen == expected
    assert server.fired == [SLOW_DOWN] * expected.count(503)


def test_a_fault_of_one_key_leaves_the_others_alone(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/a", BODY)
    server.put("s3://bucket/b", BODY)
    server.fail("GetObject", SLOW_DOWN, key="b")
    client.get_object(Bucket="bucket", Key="a")
    with pytest.raises(ClientError):
        client.get_object(Bucket="bucket", Key="b")


def test_a_fault_of_any_operation_counts_them_all(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("*", SLOW_DOWN, nth=2)
    client.head_object(Bucket="bucket", Key="key")
    with pytest.raises(ClientError):
        client.get_object(Bucket="bucket", Key="key")


def test_of_two_faults_the_first_declared_is_the_answer(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", SLOW_DOWN)
    server.fail("GetObject", INTERNAL_ERROR, times=2)
    codes = []
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            client.get_object(Bucket="bucket", Key="key")
        codes.append(code(caught)[1])
    assert codes == ["SlowDown", "InternalError"]


def test_a_fault_of_an_unknown_operation_is_refused(server: FaultServer) -> None:
    with pytest.raises(ValueError, match="no operation 'GetObjekt'"):
        server.fail("GetObjekt", SLOW_DOWN)


def test_no_answer_is_a_read_timeout(server: FaultServer, connect: Connect) -> None:
    client = connect(read_timeout=1)
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", NoAnswer())
    with pytest.raises(ReadTimeoutError):
        client.get_object(Bucket="bucket", Key="key")
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_a_reset_before_the_answer_is_a_closed_connection(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Reset())
    with pytest.raises(ConnectionClosedError, match="Connection was closed") as caught:
        client.get_object(Bucket="bucket", Key="key")
    assert "ConnectionResetError" in repr(caught.value.kwargs["error"])


def test_a_reset_of_a_put_takes_no_effect(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    server.fail("PutObject", Reset())
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket="bucket", Key="key", Body=BODY)
    assert server.keys("bucket") == []


def test_a_reset_in_the_body_breaks_the_read(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Reset(after_bytes=100))
    got = client.get_object(Bucket="bucket", Key="key")
    assert got["ContentLength"] == 1024
    with pytest.raises(ResponseStreamingError, match="ConnectionResetError"):
        got["Body"].read()
    assert server.bytes_sent == 100


def test_a_truncated_body_ends_after_its_bytes(server: FaultServer, wire: http.client.HTTPConnection) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Truncate(after_bytes=100))
    wire.request("GET", "/bucket/key")
    answer = wire.getresponse()
    assert answer.headers["content-length"] == "1024"
    with pytest.raises(http.client.IncompleteRead) as caught:
        answer.read()
    assert caught.value.partial == BODY[:100]


def test_a_truncated_body_breaks_the_read(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Truncate(after_bytes=100))
    with pytest.raises((ResponseStreamingError, IncompleteReadError)):
        client.get_object(Bucket="bucket", Key="key")["Body"].read()


def test_a_stalled_body_is_a_read_timeout(server: FaultServer, connect: Connect) -> None:
    client = connect(read_timeout=1)
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Stall(after_bytes=100))
    got = client.get_object(Bucket="bucket", Key="key")
    assert got["Body"].read(100) == BODY[:100]
    with pytest.raises(ReadTimeoutError):
        got["Body"].read()


def test_a_slow_body_is_complete(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Slow(bytes_per_second=2048))
    started_s = time.monotonic()
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY
    assert time.monotonic() - started_s >= 0.5  # 1024 bytes at 2048 bytes/s


def test_a_flipped_bit_is_noticed_by_a_checksum(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY, checksum="CRC64NVME")
    server.fail("GetObject", FlipBit(position=100))
    with pytest.raises(FlexibleChecksumError):
        client.get_object(Bucket="bucket", Key="key")["Body"].read()


@pytest.mark.parametrize("etag", ["md5", "kms"])
def test_a_flipped_bit_without_a_checksum_is_not_noticed_by_boto3(server: FaultServer, client: Any, etag: Any) -> None:
    server.put("s3://bucket/key", BODY, etag=etag)
    good = client.head_object(Bucket="bucket", Key="key")
    server.fail("GetObject", FlipBit(position=100))
    got = client.get_object(Bucket="bucket", Key="key")
    assert got["Body"].read() == BODY[:100] + bytes([BODY[100] ^ 1]) + BODY[101:]
    assert (got["ETag"], got["ContentLength"]) == (good["ETag"], good["ContentLength"])
    assert server.body("s3://bucket/key") == BODY


def test_a_flipped_bit_in_one_range_reaches_the_file(server: FaultServer, client: Any) -> None:
    body = BODY * (20 * MIB // len(BODY))
    server.put("s3://bucket/key", body, checksum="CRC64NVME")
    server.fail("GetObject", FlipBit(), nth=3)
    into = io.BytesIO()
    client.download_fileobj("bucket", "key", into, Config=IN_PARTS)
    assert sum(a != b for a, b in zip(into.getvalue()[:: 5 * MIB], body[:: 5 * MIB], strict=True)) == 1


def test_a_short_body_agrees_with_its_length(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    good = client.head_object(Bucket="bucket", Key="key")
    server.fail("*", Short(by=24), times=2)
    assert client.head_object(Bucket="bucket", Key="key")["ContentLength"] == 1000
    got = client.get_object(Bucket="bucket", Key="key")
    assert (got["ContentLength"], got["ETag"]) == (1000, good["ETag"])
    assert got["Body"].read() == BODY[:1000]


def test_a_replaced_object_is_what_the_request_gets(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY, checksum="CRC64NVME")
    etag = client.head_object(Bucket="bucket", Key="key")["ETag"]
    server.fail("GetObject", Replace(b"new"))
    got = client.get_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"new" == server.body("s3://bucket/key")
    assert got["ETag"] != etag
    assert got["ChecksumCRC64NVME"] == crc64nvme(b"new")


def test_an_object_replaced_between_ranges_fails_the_precondition(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    etag = client.head_object(Bucket="bucket", Key="key")["ETag"]
    server.fail("GetObject", Replace(BODY[::-1]), nth=2)
    first = client.get_object(Bucket="bucket", Key="key", IfMatch=etag, Range="bytes=0-9")
    assert first["Body"].read() == BODY[:10]
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="key", IfMatch=etag, Range="bytes=10-19")
    assert code(caught) == (412, "PreconditionFailed")


def test_an_object_replaced_after_the_request_is_got_whole_before(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("HeadObject", ReplaceAfter(b"new"))
    assert client.head_object(Bucket="bucket", Key="key")["ContentLength"] == len(BODY)
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"new"


def test_an_object_may_vanish_between_requests(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("HeadObject", ReplaceAfter(None))
    client.head_object(Bucket="bucket", Key="key")
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket="bucket", Key="key")


def test_a_redirect_names_the_region(server: FaultServer, wire: http.client.HTTPConnection) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Redirect("eu-west-1"))
    wire.request("GET", "/bucket/key")
    answer = wire.getresponse()
    assert (answer.status, answer.headers["x-amz-bucket-region"]) == (301, "eu-west-1")
    assert b"<Code>PermanentRedirect</Code>" in answer.read()


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject"])
def test_a_request_signed_for_the_region_of_the_redirect_is_served(
    server: FaultServer, client: Any, operation: str
) -> None:
    """boto3 signs again by itself; one attempt is enough for it."""
    server.put("s3://bucket/key", BODY)
    server.fail(operation, Redirect("eu-west-1"), times=None)
    call = client.get_object if operation == "GetObject" else client.head_object
    assert call(Bucket="bucket", Key="key")["ContentLength"] == len(BODY)
    assert server.count(operation) == 2
    assert server.fired == [Redirect("eu-west-1")]


def test_an_error_in_a_200_leaves_the_upload_open(server: FaultServer, client: Any) -> None:
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


def test_an_error_in_a_200_has_status_200(server: FaultServer, wire: http.client.HTTPConnection) -> None:
    server.fail("CompleteMultipartUpload", ErrorIn200("SlowDown"))
    wire.request("POST", "/bucket/key?uploadId=1")
    answer = wire.getresponse()
    assert (answer.status, b"<Error><Code>SlowDown</Code>" in answer.read()) == (200, True)


def test_a_put_whose_reply_is_lost_took_effect(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    server.fail("PutObject", LostReply())
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket="bucket", Key="key", Body=BODY)
    assert server.body("s3://bucket/key") == BODY


def test_an_upload_whose_reply_is_lost_is_complete(server: FaultServer, client: Any) -> None:
    client.create_bucket(Bucket="bucket")
    upload_id, parts = upload_of(client, BODY)
    server.fail("CompleteMultipartUpload", LostReply())
    with pytest.raises(ConnectionClosedError):
        complete(client, upload_id, parts)
    assert server.body("s3://bucket/key") == BODY
    assert server.open_uploads == set()


def test_an_expired_key_is_refused_from_the_nth_request_on(server: FaultServer, connect: Connect) -> None:
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


def test_requests_are_counted_by_operation_and_key(server: FaultServer, client: Any) -> None:
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


def test_the_highest_number_of_requests_at_one_time_is_kept(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", Slow(bytes_per_second=4096), times=4)  # each takes 0.25 s
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: client.get_object(Bucket="bucket", Key="key")["Body"].read(), range(4)))
    assert server.max_in_flight == 4


def test_a_reset_server_keeps_its_objects(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    server.fail("GetObject", SLOW_DOWN)
    server.expire("AKIDTEST")
    with pytest.raises(ClientError):
        client.get_object(Bucket="bucket", Key="key")
    server.reset()
    assert (server.requests, server.access_keys, server.fired, server.bytes_sent) == ({}, {}, [], 0)
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == BODY


def test_a_cleared_server_is_empty(server: FaultServer, client: Any) -> None:
    server.put("s3://bucket/key", BODY)
    upload_of(client)
    server.fail("HeadBucket", SLOW_DOWN)
    server.clear()
    assert (server.keys("bucket"), server.open_uploads, server.requests) == ([], set(), {})
    with pytest.raises(ClientError) as caught:
        client.head_bucket(Bucket="bucket")
    assert code(caught) == (404, "404")


def test_closing_does_not_wait_for_those_who_wait_for_ever() -> None:
    answers: list[bytes] = []
    with FaultServer() as server:
        server.put("s3://bucket/key", bytes(64 * MIB))
        server.fail("GetObject", NoAnswer())
        server.fail("GetObject", Stall(after_bytes=10), nth=2)
        server.fail("GetObject", Slow(bytes_per_second=1), nth=3)
        port = int(server.endpoint_url.rpartition(":")[2])
        before = set(threading.enumerate())
        socks = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(5)]
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


def test_a_closed_server_refuses_connections() -> None:
    with FaultServer() as server:
        port = int(server.endpoint_url.rpartition(":")[2])
    server.close()  # a second time is no error
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_client_that_leaves_prints_nothing(server: FaultServer, capfd: pytest.CaptureFixture[str]) -> None:
    server.put("s3://bucket/key", bytes(64 * MIB))
    port = int(server.endpoint_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"GET /bucket/key HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(10)
    server.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", [FlipBit(1024), Truncate(1024), Stall(1024), Reset(1024), Short(1025)])
def test_a_fault_beyond_the_end_of_the_body_is_told_by_close(fault: Any) -> None:
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
def test_an_object_needs_a_bucket_and_a_key(server: FaultServer, url: str) -> None:
    with pytest.raises(ValueError, match="not s3://bucket/key"):
        server.put(url, BODY)


def test_a_client_may_live_in_another_process(server: FaultServer) -> None:
    server.put("s3://bucket/key", b"bytes")
    program = f"import urllib.request as r; print(r.urlopen('{server.endpoint_url}/bucket/key').read())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=200)
    assert run.stdout == b"b'bytes'\n"


def test_a_reset_is_sent_though_a_forked_child_lives(server: FaultServer, client: Any) -> None:
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
