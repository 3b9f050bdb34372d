"""Signatures, beside botocore's own signer."""

from __future__ import annotations

import datetime as dt
import string

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from file_dataset._s3 import sigv4
from file_dataset._s3.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, Signer, quoted_path

HOST = "bucket.s3.eu-central-1.amazonaws.com"
ODD_KEYS = [
    "a b", "a+b", "100%25", "ünï/\N{SNOWMAN}", "a//b", "what?", "a#b", "/lead", "a&b=c", "~tilde", "a:b@c", "*!'()",
    ".", "..", "a/../b", "\N{PILE OF POO}", "tab\t", "semi;colon,comma",
]  # fmt: skip


def botocore_signed(method, path, query, headers, payload, when, token):
    """The `Authorization` that botocore makes for the same request at the same second."""
    url = f"https://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method=method, url=url, headers=dict(headers))
    request.headers["x-amz-content-sha256"] = payload
    request.headers["x-amz-date"] = when
    request.context["timestamp"] = when
    if token:
        request.headers["x-amz-security-token"] = token
    signer = auth.S3SigV4Auth(Credentials("AKIDEXAMPLE", "secret/with+signs", token), "s3", "eu-central-1")
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    signer._inject_signature_to_request(  # noqa: SLF001
        request, signer.signature(to_sign, request)
    )
    return request.headers["Authorization"]


def sent(head):
    """The headers of a request."""
    lines = head.removesuffix("\r\n\r\n").split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def assert_same(method, key, query, headers, payload, seconds, token):
    signer = Signer("AKIDEXAMPLE", "secret/with+signs", token, region="eu-central-1", service="s3")
    path = "/" + quoted_path(key)
    ours = sent(signer.head(method, path, query, {"host": HOST, **headers}, payload, now=seconds))
    when = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    expected = botocore_signed(method, path, query, {"host": HOST, **headers}, payload, when, token)
    assert ours["authorization"] == expected


header_values = st.text(string.ascii_letters + string.digits + " \t=:/+,;\"'", min_size=1).map(str.strip).filter(bool)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=60),
    part=st.one_of(st.none(), st.integers(1, 10_000)),
    headers=st.dictionaries(st.sampled_from(["range", "if-match", "x-amz-meta-a", "content-type"]), header_values),
    payload=st.sampled_from([UNSIGNED_PAYLOAD, EMPTY_SHA256]),
    seconds=st.integers(0, 4_000_000_000),
    token=st.one_of(st.none(), st.text(string.ascii_letters + "+/=", min_size=1)),
)
def test_a_signature_is_botocores(method, key, part, headers, payload, seconds, token):
    query = "" if part is None else f"partNumber={part}&uploadId=abc~D-E_f.1"
    assert_same(method, key, query, headers, payload, seconds, token)


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_signed_as_botocore_signs_them(key):
    assert_same("GET", key, "", {}, UNSIGNED_PAYLOAD, 1_700_000_000, None)


def test_what_is_kept_of_a_request_is_kept_for_the_same_headers_only():
    signer = Signer("AKIDEXAMPLE", "secret/with+signs", None, region="eu-central-1", service="s3")
    for headers in ({"host": HOST}, {"host": HOST, "range": "bytes=0-1"}, {"host": HOST}):
        for payload in (UNSIGNED_PAYLOAD, EMPTY_SHA256):
            ours = sent(signer.head("GET", "/a", "", headers, payload, now=1_700_000_000))
            expected = botocore_signed("GET", "/a", "", headers, payload, ours["x-amz-date"], None)
            assert ours["authorization"] == expected


def test_the_key_of_the_day_is_not_kept_beyond_it():
    signer = Signer("AKIDEXAMPLE", "secret/with+signs", None, region="eu-central-1", service="s3")
    headers = {"host": HOST}
    midnight = 1_700_006_400  # 2023-11-15T00:00:00Z
    for seconds in (midnight - 1, midnight, midnight - 1):
        ours = sent(signer.head("GET", "/a", "", headers, UNSIGNED_PAYLOAD, now=seconds))
        when = ours["x-amz-date"]
        expected = botocore_signed("GET", "/a", "", {"host": HOST}, UNSIGNED_PAYLOAD, when, None)
        assert ours["authorization"] == expected


def test_a_signer_shows_no_secret():
    signer = Signer("AKIDEXAMPLE", "secret", "token", region="r", service="s3")
    assert "secret" not in repr(signer)
    assert "token" not in repr(signer)


def test_the_hash_of_nothing_is_botocores():
    assert auth.EMPTY_SHA256_HASH == sigv4.EMPTY_SHA256
