"""Calls of boto3 that the tests of an S3 have in common."""

from __future__ import annotations

import base64

from awscrt import checksums as awscrt_checksums

MIB = 1 << 20


def code(caught):
    """Status and code of a ClientError."""
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def crc64nvme(body):
    return base64.b64encode(awscrt_checksums.crc64nvme(body).to_bytes(8, "big")).decode()


def upload_of(client, *parts, bucket="bucket", key="key", **create):
    """Id and parts of an upload that is ready to be completed."""
    of = {"Bucket": bucket, "Key": key}
    of["UploadId"] = client.create_multipart_upload(**of, **create)["UploadId"]
    algorithm = {name: create[name] for name in create if name == "ChecksumAlgorithm"}
    etags = [
        client.upload_part(PartNumber=number, Body=part, **of, **algorithm)["ETag"]
        for number, part in enumerate(parts, 1)
    ]
    return of["UploadId"], [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]


def complete(client, upload_id, parts, *, bucket="bucket", key="key", **checksum):
    return client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}, **checksum
    )
