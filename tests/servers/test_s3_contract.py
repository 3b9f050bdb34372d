"""What S3 does where nothing breaks, asked of the server that breaks on request and of moto's: they answer alike."""

from __future__ import annotations

import hashlib
import io

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from servers.calls import MIB, code, complete, upload_of

BODY = bytes(range(256)) * 4
ETAG = f'"{hashlib.md5(BODY).hexdigest()}"'  # noqa: S324
PARTS = bytes(5 * MIB), b"end"  # the smallest that S3 takes, but for the last
KEYS = ["plain", "a b+c%25/ü//?x#y", "/lead", "//", "trail/", "a&b=c", "%2F", "..", "日本/✓", "a<b>'\"", "a\\b"]


@pytest.fixture(scope="module", params=["fault_server", "moto"])
def endpoint(request):
    found = request.getfixturevalue(request.param)
    return getattr(found, "endpoint_url", found)


def whole(bucket, key="key"):
    return bucket.client.head_object(Bucket=bucket.name, Key=key, ChecksumMode="ENABLED")


def test_an_object_put_is_the_object_got(bucket):
    put = bucket.client.put_object(
        Bucket=bucket.name, Key="key", Body=BODY, ContentType="text/x", Metadata={"name": "value"}
    )
    got = bucket.client.get_object(Bucket=bucket.name, Key="key")
    assert got["Body"].read() == BODY
    assert (got["ContentType"], got["Metadata"], got["ContentLength"]) == ("text/x", {"name": "value"}, len(BODY))
    assert got["ETag"] == put["ETag"] == ETAG


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_opaque(bucket, key):
    bucket.put(key, BODY)
    assert bucket.get(key) == BODY
    assert bucket.keys() == [key]


def test_an_empty_object_is_an_object(bucket):
    bucket.put("key", b"")
    assert bucket.get("key") == b""
    assert whole(bucket)["ContentLength"] == 0


def test_a_bucket_that_was_created_has_a_region(bucket):
    assert bucket.client.head_bucket(Bucket=bucket.name)["BucketRegion"] == "us-east-1"


def test_a_listing_has_the_keys_of_its_prefix_in_order(bucket):
    for key in ["b/2", "b/10", "a", "b", "c"]:
        bucket.put(key, BODY)
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="b/")
    assert [(found["Key"], found["Size"]) for found in listed["Contents"]] == [("b/10", 1024), ("b/2", 1024)]
    assert (listed["KeyCount"], listed["IsTruncated"]) == (2, False)


def test_a_listing_comes_in_pages_of_a_thousand_keys(bucket):
    keys = [f"{number:04}" for number in range(1001)]
    for key in keys:
        bucket.put(key, b"")
    first = bucket.client.list_objects_v2(Bucket=bucket.name)
    assert (first["KeyCount"], first["IsTruncated"]) == (1000, True)
    second = bucket.client.list_objects_v2(Bucket=bucket.name, ContinuationToken=first["NextContinuationToken"])
    assert (second["KeyCount"], second["IsTruncated"], second.get("NextContinuationToken")) == (1, False, None)
    assert [found["Key"] for page in (first, second) for found in page["Contents"]] == keys


def test_a_deleted_object_is_gone(bucket):
    bucket.put("key", BODY)
    for _ in range(2):  # a second time is no error
        bucket.client.delete_object(Bucket=bucket.name, Key="key")
    assert bucket.keys() == []


@pytest.mark.parametrize(
    ("span", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=1000-", 1000, 1024), ("bytes=-24", 1000, 1024),
     ("bytes=1000-9999", 1000, 1024), ("bytes=-9999", 0, 1024)],
)  # fmt: skip
def test_a_range_is_that_part_of_the_body(bucket, span, start, stop):
    bucket.put("key", BODY)
    got = bucket.client.get_object(Bucket=bucket.name, Key="key", Range=span, IfMatch=ETAG)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"] == f"bytes {start}-{stop - 1}/1024"
    assert got["Body"].read() == BODY[start:stop]


def test_a_condition_that_holds_is_no_obstacle(bucket):
    bucket.client.put_object(Bucket=bucket.name, Key="key", Body=BODY, IfNoneMatch="*")
    assert bucket.client.get_object(Bucket=bucket.name, Key="key", IfNoneMatch='"other"')["Body"].read() == BODY


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        ("get_object", {"Key": "missing"}, (404, "NoSuchKey")),
        ("head_object", {"Key": "missing"}, (404, "404")),
        ("get_object", {"Bucket": "missing", "Key": "key"}, (404, "NoSuchBucket")),
        ("put_object", {"Bucket": "missing", "Key": "key", "Body": BODY}, (404, "NoSuchBucket")),
        ("list_objects_v2", {"Bucket": "missing"}, (404, "NoSuchBucket")),
        ("create_multipart_upload", {"Bucket": "missing", "Key": "key"}, (404, "NoSuchBucket")),
        ("head_bucket", {"Bucket": "missing"}, (404, "404")),
        ("get_object", {"Key": "key", "Range": "bytes=1024-"}, (416, "InvalidRange")),
        ("get_object", {"Key": "key", "Range": "bytes=-0"}, (416, "InvalidRange")),
        ("get_object", {"Key": "empty", "Range": "bytes=0-9"}, (416, "InvalidRange")),
        ("get_object", {"Key": "key", "IfMatch": '"other"', "Range": "bytes=1-2"}, (412, "PreconditionFailed")),
        ("get_object", {"Key": "key", "IfNoneMatch": ETAG}, (304, "304")),
        ("put_object", {"Key": "key", "Body": b"new", "IfNoneMatch": "*"}, (412, "PreconditionFailed")),
    ],
    ids=str,
)
def test_a_request_that_s3_refuses_changes_nothing(bucket, operation, arguments, expected):
    bucket.put("key", BODY)
    bucket.put("empty", b"")
    with pytest.raises(ClientError) as caught:
        getattr(bucket.client, operation)(**{"Bucket": bucket.name, **arguments})
    assert code(caught) == expected
    assert (bucket.get("key"), bucket.keys()) == (BODY, ["empty", "key"])


def test_a_large_file_goes_up_in_parts_and_comes_down_in_ranges(bucket):
    body = BODY * (20 * MIB // len(BODY))
    in_parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    bucket.client.upload_fileobj(io.BytesIO(body), bucket.name, "key", Config=in_parts)
    assert whole(bucket)["ETag"].endswith('-4"')
    into = io.BytesIO()
    bucket.client.download_fileobj(bucket.name, "key", into, Config=in_parts)
    assert into.getvalue() == body


def test_an_upload_is_an_object_once_it_is_completed(bucket):
    upload_id, parts = upload_of(bucket.client, *PARTS, bucket=bucket.name)
    assert bucket.keys() == []
    complete(bucket.client, upload_id, parts, bucket=bucket.name)
    assert bucket.get("key") == b"".join(PARTS)
    md5s = b"".join(hashlib.md5(part).digest() for part in PARTS)  # noqa: S324
    assert whole(bucket)["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-2"'  # noqa: S324


@pytest.mark.parametrize(
    ("sizes", "listed", "expected"),
    [
        ([1, 1], [(1, None), (2, None)], "EntityTooSmall"),
        ([1], [(1, '"other"')], "InvalidPart"),
        ([1], [(2, None)], "InvalidPart"),
        ([1], [], "MalformedXML"),
    ],
    ids=["small part", "wrong etag", "missing part", "no part"],
)
def test_a_list_of_parts_that_s3_refuses_leaves_the_upload_open(bucket, sizes, listed, expected):
    upload_id, parts = upload_of(bucket.client, *(bytes(size) for size in sizes), bucket=bucket.name)
    with pytest.raises(ClientError) as caught:
        named = [{"PartNumber": number, "ETag": etag or parts[0]["ETag"]} for number, etag in listed]
        complete(bucket.client, upload_id, named, bucket=bucket.name)
    assert code(caught) == (400, expected)
    bucket.client.abort_multipart_upload(Bucket=bucket.name, Key="key", UploadId=upload_id)


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256"])
def test_a_checksum_that_a_put_brings_is_kept(bucket, algorithm):
    put = bucket.client.put_object(Bucket=bucket.name, Key="key", Body=BODY, ChecksumAlgorithm=algorithm)
    got = bucket.client.get_object(Bucket=bucket.name, Key="key", ChecksumMode="ENABLED")
    assert got["Body"].read() == BODY
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
