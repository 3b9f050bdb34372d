"""Large objects come in parts over several connections; a part that breaks costs that part."""

from __future__ import annotations

import contextlib
import os
import re

import pytest
from one_object import BODY, URL, get, in_parts, into_file, store_at
from servers.faults import INTERNAL_ERROR, FlipBit, IgnoreRange, Replace, Short, Truncate
from servers.scripted import Scripted, always, answer

from file_dataset import _digest
from file_dataset._errors import code_of


@pytest.fixture(params=["memory", "file"])
def read(request, tmp_path):
    return get if request.param == "memory" else lambda store: into_file(store, tmp_path)


def ranges(faults):
    return [headers.get("range") for headers in faults.headers if headers[""] == "GetObject"]


@pytest.mark.usefixtures("split")
class TestInParts:
    PARTS = 12  # 3 MiB in parts of 256 KiB

    def store(self, faults, **kwargs):
        return store_at(faults.endpoint_url, max_concurrency=16, **kwargs)

    @pytest.mark.parametrize("checksum", ["CRC64NVME", "CRC32C", "CRC32", None])
    def test_a_large_object_comes_over_several_connections(self, faults, read, checksum):
        faults.put(URL, BODY, checksum=checksum, etag="kms")
        assert read(self.store(faults)) == BODY
        is_joined = checksum is None or _digest.can_join(checksum)
        # the first is cut no more when some of its bytes came before the last cut
        assert faults.count("GetObject") in ((self.PARTS - 1, self.PARTS) if is_joined else (1,))
        assert all(headers["if-match"] for headers in faults.headers if "range" in headers)

    def test_a_body_that_only_its_md5_proves_comes_in_one(self, faults, read):
        """The MD5 of the whole cannot be made of those of the parts."""
        faults.put(URL, BODY)
        assert read(self.store(faults)) == BODY
        assert faults.count("GetObject") == 1

    def test_a_body_at_the_limit_comes_in_one(self, faults, read):
        faults.put(URL, BODY[: (512 << 10) - 1], checksum="CRC64NVME")
        assert len(read(self.store(faults))) == (512 << 10) - 1
        assert faults.count("GetObject") == 1

    @in_parts
    def test_a_narrow_lane_has_no_more_parts_on_their_way_than_places(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME")
        assert read(store_at(faults.endpoint_url, max_concurrency=2)) == BODY
        assert 2 <= faults.count("GetObject") <= self.PARTS
        assert faults.max_in_flight <= 2

    @pytest.mark.parametrize("checksum", ["CRC64NVME", "CRC32C", "CRC32"])
    @pytest.mark.parametrize("nth", [1, 2, 7, 11])
    def test_a_flipped_bit_in_any_part_is_found_and_costs_nothing(self, faults, read, checksum, nth):
        faults.put(URL, BODY, checksum=checksum, etag="kms")
        if not _digest.can_join(checksum):
            nth = 1
        faults.fail("GetObject", FlipBit(position=200_000), nth=nth)
        assert read(self.store(faults)) == BODY
        assert len(faults.fired) == 1

    @pytest.mark.parametrize("nth", [1, 11])
    @in_parts
    def test_a_bit_that_always_flips_is_told(self, faults, read, nth):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", FlipBit(position=200_000), nth=nth, times=None)
        with pytest.raises(ConnectionError, match=r"digest.*after 3 attempts"):
            read(self.store(faults))

    @pytest.mark.parametrize("nth", [2, 5])
    @pytest.mark.parametrize("checksum", ["CRC64NVME", None])
    @in_parts
    def test_an_object_that_is_replaced_between_its_parts_is_read_again_whole(self, faults, read, nth, checksum):
        other = BODY[::-1]
        faults.put(URL, BODY, checksum=checksum, etag="kms")
        faults.fail("GetObject", Replace(other), nth=nth)
        assert read(self.store(faults)) == other

    @in_parts
    def test_a_part_that_breaks_off_is_continued_and_only_it(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", Truncate(after_bytes=100_000), nth=4)
        assert read(self.store(faults)) == BODY
        broken = re.fullmatch(r"bytes=(\d+)-(\d+)", ranges(faults)[3]).groups()
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", ranges(faults)[-1]).groups()
        assert (int(first), last) == (int(broken[0]) + 100_000, broken[1])

    @in_parts
    def test_a_first_part_that_breaks_off_is_continued_and_only_it(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", Truncate(after_bytes=100_000))
        assert read(self.store(faults)) == BODY
        # its end was cut off, unless its first bytes came before that
        assert ranges(faults)[-1] in {"bytes=100000-262143", "bytes=100000-524287"}

    @in_parts
    def test_parts_that_fail_for_ever_are_told_after_the_attempts(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", INTERNAL_ERROR, nth=2, times=None)
        with pytest.raises(ConnectionError, match="after 3 attempts") as caught:
            read(self.store(faults))
        assert code_of(caught.value) == "InternalError"

    @pytest.mark.parametrize("size", [600_000, len(BODY)], ids=["parts of 300 kB", "3 MiB"])
    def test_a_server_that_knows_no_ranges_gives_the_whole(self, faults, read, size):
        faults.put(URL, BODY[:size], checksum="CRC64NVME", etag="kms")
        faults.fail("GetObject", IgnoreRange(), times=None)
        assert read(self.store(faults)) == BODY[:size]

    def test_a_range_under_the_status_200_is_a_range(self, read, tmp_path):
        """Servers made with gofakes3 (rclone's, say) answer so."""
        body = os.urandom(4 << 20)

        def script(peer):
            while True:
                head = peer.head()
                span = re.search(r"range: bytes=(\d+)-(\d+)", head)
                first, last = map(int, span.groups()) if span else (0, len(body) - 1)
                headers = {"content_range": f"bytes {first}-{last}/{len(body)}"} if span else {}
                peer.send(answer(body[first : last + 1], etag='"x"', **headers))

        with Scripted(script) as server:
            assert read(store_at(server.url)) == body
            assert len(server.heads) > 2

    @pytest.mark.parametrize("span", ["bytes 0-9/600000", "bytes 300000-599999/600001", "nonsense"])
    def test_another_range_than_asked_for_is_never_put_in_its_place(self, read, span):
        body = os.urandom(600_000)

        def script(peer):
            while True:
                if "range:" in peer.head():
                    peer.send(answer(body[:300_000], "206 Partial Content", etag='"x"', content_range=span))
                else:
                    peer.send(answer(body, etag='"x"'))

        with Scripted(script) as server, contextlib.suppress(ConnectionError):
            assert read(store_at(server.url)) == body

    def test_a_part_that_is_shorter_than_announced_is_gone_on_with(self, faults, read):
        """No digest would tell, and the length of the parts must add up."""
        faults.put(URL, BODY, etag="multipart")
        faults.fail("GetObject", Short(by=1000), nth=3)
        assert read(self.store(faults)) == BODY

    def test_a_body_that_no_etag_pins_comes_in_one(self, read):
        """Nothing would tell the parts of two versions from each other."""
        body = os.urandom(600_000)
        with Scripted(always(answer(body))) as server:
            assert read(store_at(server.url)) == body
            assert len(server.heads) == 1

    def test_a_large_object_in_a_narrow_lane_does_not_wait_for_itself(self, faults, read):
        faults.put(URL, BODY, checksum="CRC64NVME")
        assert read(store_at(faults.endpoint_url, max_concurrency=1)) == BODY


@pytest.mark.parametrize("body", [BODY[:100_000], BODY[:200_000]], ids=["100 kB", "200 kB"])
def test_the_rest_of_a_small_body_that_is_shorter_than_announced_is_not_made_up(faults, read, body):
    """Without a digest nothing else would tell the bytes that never came from those that did."""
    faults.put(URL, body, etag="multipart")
    faults.fail("GetObject", Truncate(after_bytes=50_000))
    faults.fail("GetObject", Short(by=1000), nth=2)
    assert read(store_at(faults.endpoint_url)) == body
