"""Digests: the published check values, and that chunks make no difference."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_dataset._digest import ALGORITHMS, Digest, hasher

patient = settings(deadline=None)  # a busy machine is no failure

# "check" is the CRC of these nine bytes (https://reveng.sourceforge.io/crc-catalogue/all.htm)
CHECKED = b"123456789"
CHECKS = {"CRC64NVME": "ae8b14860a799888", "CRC32C": "e3069283", "CRC32": "cbf43926"}
EVERY = [*CHECKS, "MD5"]


def digest_of(algorithm, *chunks):
    it = hasher(algorithm)
    for chunk in chunks:
        it.update(memoryview(chunk))
    return it.digest()


@pytest.mark.parametrize(("algorithm", "check"), CHECKS.items(), ids=CHECKS)
def test_a_crc_is_the_published_one_as_s3_writes_it(algorithm, check):
    value = base64.b64encode(bytes.fromhex(check)).decode()
    assert digest_of(algorithm, CHECKED) == Digest(algorithm, value)


def test_an_md5_is_hex_as_in_an_etag():
    assert digest_of("MD5", CHECKED) == Digest("MD5", "25f9e794323b453885f5181f1b624d0b")


@pytest.mark.parametrize("algorithm", CHECKS)
def test_the_crc_of_nothing_is_zero(algorithm):
    assert not any(base64.b64decode(digest_of(algorithm).value))


def test_the_md5_of_nothing_is_the_md5_of_nothing():
    assert digest_of("MD5").value == hashlib.md5(b"", usedforsecurity=False).hexdigest()


@patient
@pytest.mark.parametrize("algorithm", EVERY)
@given(chunks=st.lists(st.binary(max_size=100)))
def test_chunks_make_no_difference(algorithm, chunks):
    assert digest_of(algorithm, *chunks) == digest_of(algorithm, b"".join(chunks))


@pytest.mark.parametrize("algorithm", EVERY)
def test_a_digest_can_be_asked_for_along_the_way(algorithm):
    it = hasher(algorithm)
    it.update(memoryview(b"12345"))
    assert it.digest() == digest_of(algorithm, b"12345")
    it.update(memoryview(b"6789"))
    assert it.digest() == digest_of(algorithm, CHECKED)


@pytest.mark.parametrize("algorithm", EVERY)
def test_hashers_share_nothing(algorithm):
    one, other = hasher(algorithm), hasher(algorithm)
    one.update(memoryview(b"x"))
    assert other.digest() == digest_of(algorithm)


@patient
@pytest.mark.parametrize("algorithm", EVERY)
@given(body=st.binary(min_size=1, max_size=200), data=st.data())
def test_one_flipped_bit_is_another_digest(algorithm, body, data):
    position = data.draw(st.integers(0, len(body) * 8 - 1))
    flipped = bytearray(body)
    flipped[position // 8] ^= 1 << position % 8
    assert digest_of(algorithm, body) != digest_of(algorithm, bytes(flipped))


def test_a_digest_is_written_with_its_algorithm():
    assert str(digest_of("CRC32", CHECKED)) == "CRC32:y/Q5Jg=="


def test_the_algorithms_are_those_that_can_be_computed():
    assert [digest_of(algorithm).algorithm for algorithm in ALGORITHMS] == list(CHECKS)
