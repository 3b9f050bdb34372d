"""What the wire does not know is left to boto3, and a debug line says why; nothing is sent to find that out."""

# who sends a request only the store knows
# ruff: noqa: SLF001

from __future__ import annotations

import logging

import pytest
from botocore.config import Config
from conftest import options_for

from file_dataset._s3 import S3Store

UNUSUAL = {
    "a directory bucket": ("https://s3.example", Config(), "zone--usw2-az1--x-s3", "sessions of their own"),
    "its access point": ("https://s3.example", Config(), "point--usw2-az1--xa-s3", "sessions of their own"),
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
    virtual = Config(s3={"addressing_style": "virtual"})
    store = S3Store(options_for(endpoint, config=virtual.merge(config) if endpoint is None else config))
    assert store._route(store._access(), bucket) is None
    (line,) = [record.getMessage() for record in caplog.records if "left to boto3" in record.getMessage()]
    assert line.startswith(f"bucket {bucket} is left to boto3: ")
    assert why in line
