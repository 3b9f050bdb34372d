"""Set-up of all tests of the HTTP loop."""

from __future__ import annotations

import pytest

from file_dataset._s3 import requests


@pytest.fixture(autouse=True)
def retries_come_at_once(retries_come_at_once):
    """For every test here, asked for or not."""


@pytest.fixture
def split(monkeypatch):
    """Bodies above 512 KiB come in parts of at least 256 KiB."""
    monkeypatch.setattr(requests, "_SPLIT_BYTES", 512 << 10)
