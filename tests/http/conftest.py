"""Set-up of all tests of the HTTP loop."""

from __future__ import annotations

import pytest

from file_dataset._s3 import ranges


@pytest.fixture(autouse=True)
def retries_come_at_once(retries_come_at_once):
    """For every test here, asked for or not."""


@pytest.fixture
def split(monkeypatch):
    """Bodies from 512 KiB on come in parts of 256 KiB."""
    monkeypatch.setattr(ranges, "_LEAST_BYTES", 256 << 10)
    monkeypatch.setattr(ranges, "_MOST_BYTES", 256 << 10)
