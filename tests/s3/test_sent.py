"""What is sent: both engines ask alike, with the same digests and `extra_args`."""

# ruff: noqa: SLF001  # who sends a request only the store knows

from __future__ import annotations

import contextlib
import datetime as dt
import re

import pytest
from botocore import UNSIGNED
from botocore.config import Config
from helpers import impatient_options, options_for
from one_object import LARGE, SMALL, URL, get, put, trusting
from servers.scripted import Scripted, answer

import file_dataset
from file_dataset import InvalidDatasetError, RowError, _digest
from file_dataset._s3 import requests
from file_dataset._s3.store import S3Store
from file_dataset._urls import ObjectUrl

OWN = {  # of one engine: its own tries, its own way to name a digest, or a list that depends on what was imported
    "accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "connection", "content-type",
    "content-encoding", "expect", "user-agent", "x-amz-checksum-crc64nvme", "x-amz-content-sha256", "x-amz-date",
    "x-amz-decoded-content-length", "x-amz-sdk-checksum-algorithm", "x-amz-trailer", "content-length",
    "transfer-encoding",
}  # fmt: skip
STYLES = {
    "path": ("{url}", {"s3": {"addressing_style": "path"}}),
    "virtual": ("{url}", {"s3": {"addressing_style": "virtual"}}),
    "path with a prefix": ("{url}/below/this", {"s3": {"addressing_style": "path"}}),
    "virtual with a prefix": ("{url}/below/this", {"s3": {"addressing_style": "virtual"}}),
    "unsigned": ("{url}", {"signature_version": UNSIGNED}),
    "unsigned payload": ("{url}", {"s3": {"addressing_style": "path", "payload_signing_enabled": False}}),
    "no checksums": (
        "{url}",
        {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"},
    ),
    "user agent": ("{url}", {"user_agent_extra": "our-team/1.0"}),
}
KEYS_WITH_TOKEN = {
    "aws_access_key_id": "AKID", "aws_secret_access_key": "secret", "aws_session_token": "to+ken/=",
    "region_name": "eu-central-1",
}  # fmt: skip


def parsed(head):
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, headers


def in_order(line):
    """The first line of a request, with the names of its query in order."""
    method, target, version = line.split(" ")
    path, _, query = target.partition("?")
    return method, path, sorted(query.split("&")), version


def sent_by(engine, url, config, verb, source, **pinned):
    """The one request that an engine sends, to a server of the name `store.example`: first line and headers."""
    body = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>" if verb == "list" else b""

    def script(peer):
        peer.request()
        peer.send(answer(body, etag='"x"', x_amz_version_id=pinned.get("version_id", "v")))

    with Scripted(script) as server:
        endpoint = url.format(url=f"http://store.example:{server.port}")
        one = Config(retries={"total_max_attempts": 1}, read_timeout=5)
        options = file_dataset.Options(
            KEYS_WITH_TOKEN, {"endpoint_url": endpoint, "config": one.merge(Config(**config))}, engine=engine
        )
        store = S3Store(options)
        at = ObjectUrl("bucket", "a b+c/ünï~$&'.bin", **pinned)
        if verb == "get":
            get(store, at)
        elif verb in {"info", "list", "remove"}:
            getattr(store, verb)(at).result(10)
        else:
            put(store, source, SMALL, at)
        is_ours = store._operations.route(store._current.get(), at.bucket) is not None
        assert is_ours == (engine == "auto")  # or one engine would be compared with itself
        (head,) = server.heads
        return parsed(head.replace(str(server.port), "PORT"))


@pytest.mark.parametrize("verb", ["get", "info", "put", "list", "remove"])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_both_engines_ask_alike(resolved, source, style, verb):
    resolved("127.0.0.1")
    url, config = style
    (line, ours), (boto_line, theirs) = (sent_by(engine, url, config, verb, source) for engine in ("auto", "boto3"))
    assert in_order(line) == in_order(boto_line)
    assert {name: ours[name] for name in ours.keys() - OWN} == {name: theirs[name] for name in theirs.keys() - OWN}
    for headers in (ours, theirs):
        headers["scope"] = re.sub(r"/\d{8}/", "/", headers.get("authorization", "").partition(",")[0])
        headers["agent"] = re.findall("Boto3/|our-team", headers["user-agent"])
    assert (ours["scope"], ours["agent"]) == (theirs["scope"], theirs["agent"])


@pytest.mark.parametrize("verb", ["get", "info"])
@pytest.mark.parametrize("pinned", [{"version_id": "a+/=&%2F b~.-_"}, {"version_id": "null"}, {"etag": "x"}], ids=str)
def test_both_engines_ask_alike_for_what_is_pinned(resolved, source, pinned, verb):
    resolved("127.0.0.1")
    (line, ours), (boto_line, theirs) = (
        sent_by(engine, *STYLES["path"], verb, source, **pinned) for engine in ("auto", "boto3")
    )
    assert in_order(line) == in_order(boto_line)
    assert {name: ours[name] for name in ours.keys() - OWN} == {name: theirs[name] for name in theirs.keys() - OWN}
    assert ours.get("if-match") == ('"x"' if "etag" in pinned and verb == "get" else None)


def test_a_bucket_in_the_name_of_the_host_is_not_in_the_path(resolved, source):
    """The opposite of the one above: that its styles differ."""
    resolved("127.0.0.1")
    line, headers = sent_by("auto", *STYLES["virtual"], "get", source)
    assert (line.split()[1].startswith("/a%20b"), headers["host"]) == (True, "bucket.store.example:PORT")
    line, headers = sent_by("auto", *STYLES["path with a prefix"], "get", source)
    assert (line.split()[1].startswith("/below/this/bucket/a%20b"), headers["host"]) == (True, "store.example:PORT")


def test_a_session_token_is_sent_and_signed(resolved, source):
    resolved("127.0.0.1")
    _, headers = sent_by("auto", *STYLES["path"], "get", source)
    assert headers["x-amz-security-token"] == "to+ken/="
    assert "x-amz-security-token" in headers["authorization"]


def test_an_unsigned_request_has_no_trace_of_credentials(resolved, source):
    resolved("127.0.0.1")
    _, headers = sent_by("auto", *STYLES["unsigned"], "get", source)
    assert not {"authorization", "x-amz-security-token", "x-amz-date"} & headers.keys()


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
class TestDigestsOfUploads:
    def sent(self, faults, source, body, **config):
        faults.put("s3://bucket/other", b"")
        put(S3Store(options_for(faults.endpoint_url, config=Config(**config))), source, body)
        assert faults.body(URL) == body  # the server compares every digest that it gets
        return faults.headers[-1]

    def test_the_payload_is_signed_on_plain_http(self, faults, source, body):
        assert re.fullmatch("[0-9a-f]{64}", self.sent(faults, source, body)["x-amz-content-sha256"])

    def test_the_payload_is_not_signed_when_the_config_says_so(self, faults, source, body):
        s3 = {"addressing_style": "path", "payload_signing_enabled": False}
        assert self.sent(faults, source, body, s3=s3)["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"

    def test_the_payload_is_not_signed_over_tls(self, tls_faults, authority, source, body):
        put(S3Store(trusting(tls_faults.endpoint_url, str(authority.path))), source, body)
        assert tls_faults.headers[-1]["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"

    def test_the_payload_is_signed_over_tls_when_the_config_says_so(self, tls_faults, authority, source, body):
        options = trusting(tls_faults.endpoint_url, str(authority.path))
        signed = Config(s3={"addressing_style": "path", "payload_signing_enabled": True})
        kwargs = {**options.s3_client_kwargs, "config": signed}
        put(S3Store(file_dataset.Options(options.session_kwargs, kwargs)), source, body)
        assert re.fullmatch("[0-9a-f]{64}", tls_faults.headers[-1]["x-amz-content-sha256"])

    def test_a_crc64nvme_goes_along(self, faults, source, body):
        hasher = _digest.hasher("CRC64NVME")
        hasher.update(memoryview(body))
        assert self.sent(faults, source, body)["x-amz-checksum-crc64nvme"] == hasher.digest().value

    def test_no_checksum_goes_along_when_none_is_required(self, faults, source, body):
        sent = self.sent(faults, source, body, request_checksum_calculation="when_required")
        assert not [name for name in sent if "checksum" in name]

    def test_a_body_that_is_damaged_on_its_way_is_refused(self, faults, source, body, monkeypatch):
        """That the digest is one of the file, and not of what happens to be sent."""
        faults.put("s3://bucket/other", b"")
        hashed = requests.Put._hash
        monkeypatch.setattr(requests.Put, "_hash", lambda self, chunks: hashed(self, [*chunks, b"!"]))
        with pytest.raises(OSError, match=r"Sha256|SHA256|BadDigest|did not match|Mismatch"):
            put(S3Store(impatient_options(faults.endpoint_url)), source, body)


EXTRA_ARGS = {
    "ContentType": {"ContentType": "image/png; charset=x"},
    "Metadata": {"Metadata": {"a": "b  c", "Odd-Name": "=?;,\"'%20+&", "empty": ""}},
    "CacheControl": {"CacheControl": "max-age=60, public"},
    "ContentDisposition": {"ContentDisposition": 'attachment; filename="a b.png"'},
    "ContentEncoding": {"ContentEncoding": "gzip"},
    "ContentLanguage": {"ContentLanguage": "de, en"},
    "Expires": {"Expires": dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)},
    "StorageClass": {"StorageClass": "STANDARD_IA"},
    "ServerSideEncryption": {"ServerSideEncryption": "AES256"},
    "KMS": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn:aws:kms:us-east-1:1:key/k"},
    "Tagging": {"Tagging": "a=b%20c&d=%C3%BC"},
    "ACL": {"ACL": "public-read"},
    "ChecksumAlgorithm": {"ChecksumAlgorithm": "SHA256"},
    "several": {"ContentType": "a/b", "Metadata": {"x": "y"}, "Tagging": "t=u", "StorageClass": "GLACIER_IR"},
}


@pytest.mark.parametrize("extra_args", EXTRA_ARGS.values(), ids=EXTRA_ARGS)
def test_extra_args_reach_the_object_identically_by_both_engines(moto, extra_args, source):
    client = options_for(moto).s3_client
    bucket = "extra-args"
    client.create_bucket(Bucket=bucket)
    found = []
    for engine in ("auto", "boto3"):
        at = ObjectUrl(bucket, engine)
        put(S3Store(options_for(moto, engine=engine)), source, b"body", at, **extra_args)
        head = client.head_object(Bucket=bucket, Key=engine)
        tags = client.get_object_tagging(Bucket=bucket, Key=engine)["TagSet"]
        acl = client.get_object_acl(Bucket=bucket, Key=engine)["Grants"]
        told = {name: value for name, value in head.items() if name not in ("ResponseMetadata", "LastModified")}
        found.append((told, tags, acl))
    assert found[0] == found[1]


def test_extra_args_reach_a_large_object_too(moto, source):
    client = options_for(moto).s3_client
    client.create_bucket(Bucket="extra-args")
    put(S3Store(options_for(moto)), source, LARGE, ObjectUrl("extra-args", "large"), ContentType="image/png")
    assert client.head_object(Bucket="extra-args", Key="large")["ContentType"] == "image/png"


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


UNSENDABLE = {
    "a value beyond ASCII": {"Metadata": {"who": "Jürgen"}},
    "a line break": {"ContentType": "text/plain\r\nx-amz-acl: public-read"},
    "a request in a header": {"CacheControl": "x\r\n\r\nDELETE /bucket/other HTTP/1.1\r\n\r\n"},
    "a snowman": {"ContentDisposition": "attachment; filename=\N{SNOWMAN}.png"},
    "a date that is none": {"Expires": object()},
}


@pytest.mark.parametrize("extra_args", UNSENDABLE.values(), ids=UNSENDABLE)
def test_extra_args_that_no_header_can_hold_cost_the_row_and_nothing_else(faults, source, extra_args, engine):
    faults.put("s3://bucket/other", b"")
    source.write_bytes(b"body")
    options = impatient_options(faults.endpoint_url, engine=engine)
    with contextlib.suppress(RowError, InvalidDatasetError):  # or it is sent escaped, as botocore knows how
        file_dataset.write_files(
            {"a.bin": source}, into_path="s3://bucket/out", id="1", options=options, extra_args=extra_args
        )
    assert not [headers for headers in faults.headers if "x-amz-acl" in headers]
    assert not faults.count("DeleteObject")
