"""Listings and removals over the wire: how many requests they cost, and every wrong answer that a store can give."""

from __future__ import annotations

import threading

import pytest
from helpers import impatient_options
from servers.faults import (
    ACCESS_DENIED,
    EXPIRED_TOKEN,
    SLOW_DOWN,
    SURVIVED,
    ErrorIn200,
    Meanwhile,
    Redirect,
    Reset,
    Short,
    Stall,
    Status,
    Truncate,
)
from servers.scripted import Scripted, answer

from file_dataset._errors import code_of
from file_dataset._s3.store import S3Store
from file_dataset._store import FLAT, Page, Span
from file_dataset._urls import ObjectUrl

ALL = ObjectUrl("bucket", "all/")
AT, URL = ObjectUrl("bucket", "all/0000"), "s3://bucket/all/0000"
BREAKS = SURVIVED | {"200 with an error": ErrorIn200()}
BROKEN_PAGES = {
    "reset in the body": Reset(after_bytes=100),
    "truncated": Truncate(after_bytes=100),
    "stall": Stall(after_bytes=100),
    "XML that ends too early": Short(by=10),
}
CONTENTS = "<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;x&quot;</ETag></Contents>"


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


@pytest.fixture
def store(fault_options):
    return S3Store(fault_options)


def fill(faults, count):
    """Put so many objects below `all/`, and one beside them."""
    faults.put("s3://bucket/beside", b"")
    keys = [f"all/{number:04}" for number in range(count)]
    for key in keys:
        faults.put(f"s3://bucket/{key}", b"bytes")
    return keys


def keys_of(listing):
    return [each.at.key for each in listing]


def page(
    contents="", more="<IsTruncated>false</IsTruncated>", *, space=' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
):
    return f'<?xml version="1.0"?>\n<ListBucketResult{space}>{contents}{more}</ListBucketResult>'.encode()


def listed(engine, *bodies, prefix=ALL):
    """List a store that answers with these pages, one after the other; its heads are returned too."""

    def script(peer):
        for body in bodies:
            peer.request()
            peer.send(answer(body, content_type="application/xml"))

    with Scripted(script) as server:
        listing = S3Store(impatient_options(server.url, engine=engine)).list(prefix).result(30)
        return listing, server.heads


# what it costs


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2300, 3)], ids=str)
def test_a_listing_costs_one_request_per_thousand_keys(faults, store, count, requests):
    keys = fill(faults, count)
    assert keys_of(store.list(ALL).result()) == keys
    assert sum(faults.requests.values()) == faults.count("ListObjectsV2") == requests


def test_a_removal_costs_one_request(faults, store):
    fill(faults, 1)
    store.remove(AT).result()
    assert faults.keys("bucket") == ["beside"]
    assert sum(faults.requests.values()) == faults.count("DeleteObject") == 1


# faults that pass


@pytest.mark.parametrize("fault", [*BREAKS.values(), *BROKEN_PAGES.values()], ids=[*BREAKS, *BROKEN_PAGES])
def test_a_fault_at_a_page_costs_that_page_once_more(faults, store, fault):
    keys = fill(faults, 1500)
    faults.fail("ListObjectsV2", fault, nth=2)
    assert keys_of(store.list(ALL).result()) == keys
    assert faults.count("ListObjectsV2") == 3


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
def test_a_fault_at_a_removal_is_tried_again(faults, store, fault):
    fill(faults, 1)
    faults.fail("DeleteObject", fault)
    store.remove(AT).result()
    assert faults.keys("bucket") == ["beside"]
    assert faults.count("DeleteObject") == 2


@pytest.mark.parametrize("operation", ["ListObjectsV2", "DeleteObject"])
def test_a_redirect_to_another_region_is_followed(faults, store, operation):
    keys = fill(faults, 2)
    faults.fail(operation, Redirect("eu-central-1"), times=None)
    if operation == "ListObjectsV2":
        assert keys_of(store.list(ALL).result()) == keys
    else:
        store.remove(AT).result()
        assert faults.keys("bucket") == ["all/0001", "beside"]


@pytest.mark.parametrize("operation", ["ListObjectsV2", "DeleteObject"])
def test_expired_credentials_give_way_to_the_processs_own(faults, fresh_options, monkeypatch, operation):
    keys = fill(faults, 1500)
    faults.expire("AKIDTEST", nth=2 if operation == "ListObjectsV2" else 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "worker")
    store = S3Store(fresh_options)
    if operation == "ListObjectsV2":
        assert keys_of(store.list(ALL).result()) == keys
    else:
        store.remove(AT).result()
        assert URL.removeprefix("s3://bucket/") not in faults.keys("bucket")
    assert faults.access_keys["AKIDWORKER"] == 1


# faults that last


@pytest.mark.parametrize("verb", ["list", "remove"])
@pytest.mark.parametrize("fault", [SLOW_DOWN, Reset(), ErrorIn200()], ids=["503", "reset", "200 with an error"])
def test_a_fault_for_ever_is_an_error_after_the_attempts(faults, fresh_options, verb, fault):
    fill(faults, 1)
    faults.fail("*", fault, times=None)
    with pytest.raises(ConnectionError, match="after 3 attempts"):
        getattr(S3Store(fresh_options), verb)(AT).result()
    assert sum(faults.requests.values()) == 3
    assert faults.keys("bucket") == ["all/0000", "beside"]


@pytest.mark.parametrize("verb", ["list", "remove"])
@pytest.mark.parametrize("fault", [ACCESS_DENIED, EXPIRED_TOKEN], ids=lambda fault: fault.code)
def test_a_refusal_is_an_error_after_one_attempt(faults, store, verb, fault):
    fill(faults, 1)
    faults.fail("*", fault, times=None)
    with pytest.raises(PermissionError) as caught:
        getattr(store, verb)(AT).result()
    assert code_of(caught.value) == fault.code
    assert sum(faults.requests.values()) == 1


def test_a_listing_that_is_cancelled_asks_for_no_more_pages(faults, store):
    fill(faults, 2300)
    cancelled = threading.Event()
    faults.fail("ListObjectsV2", Meanwhile(cancelled.set))
    with pytest.raises(InterruptedError):
        store.list(ALL, cancelled=cancelled).result()
    assert faults.count("ListObjectsV2") == 1


def test_a_key_that_another_store_says_is_missing_is_removed(faults, store):
    """S3 answers 204 also where nothing was; 404 NoSuchKey is as good."""
    faults.fail("DeleteObject", Status(404, "NoSuchKey"))
    store.remove(AT).result()
    assert faults.count("DeleteObject") == 1


def test_a_404_that_is_of_no_key_is_an_error(faults, store):
    faults.fail("DeleteObject", Status(404, "NoSuchSomethingElse"))
    with pytest.raises(FileNotFoundError):
        store.remove(AT).result()


@pytest.mark.parametrize("body", [b"<html></html>", b"Welcome to our network"], ids=["XML", "no XML"])
def test_a_page_of_a_proxy_is_no_removal(engine, body):
    def script(peer):
        for _ in range(3):
            peer.request()
            peer.send(answer(body))

    with Scripted(script) as server, pytest.raises(ConnectionError, match="after 3 attempts"):
        S3Store(impatient_options(server.url, engine=engine)).remove(AT).result(30)


# what a page may hold


@pytest.mark.parametrize(
    "key", ["line\r\n", " lead and trail ", "a+b%2B", "\x00\x1f", "\N{PILE OF POO}", "a//b/", "..", "&amp;"]
)
def test_keys_of_a_listing_are_opaque(faults, store, key):
    faults.put(f"s3://bucket/all/{key}", b"")
    assert keys_of(store.list(ALL).result()) == [f"all/{key}"]
    assert keys_of(store.list(ObjectUrl("bucket", f"all/{key}")).result()) == [f"all/{key}"]


def test_keys_that_a_store_has_not_escaped_are_taken_as_they_are(engine):
    """What does not say `EncodingType` has not looked at what it was asked for."""
    listing, _ = listed(engine, page(CONTENTS.format(key="all/a+b%20c")))
    assert keys_of(listing) == ["all/a+b%20c"]


def test_escaped_keys_are_unescaped_once(engine):
    contents = "<EncodingType>url</EncodingType>" + CONTENTS.format(key="all/a+b%2520c%2B")
    listing, _ = listed(engine, page(contents))
    assert keys_of(listing) == ["all/a b%20c+"]


@pytest.mark.parametrize("space", ["", ' xmlns="http://doc.s3.amazonaws.com/2006-03-01"'], ids=["none", "an older one"])
def test_other_name_spaces_are_read_too(engine, space):
    listing, _ = listed(engine, page(CONTENTS.format(key="all/a"), space=space))
    assert keys_of(listing) == ["all/a"]


def test_a_page_of_the_longest_keys_is_read(faults, store):
    """1,000 keys of 1,024 bytes, three times as long when they are escaped: 3 MB."""
    keys = [f"all/{number:04}" + "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 508 for number in range(1000)]
    for key in keys:
        faults.put(f"s3://bucket/{key}", b"")
    assert keys_of(store.list(ALL).result()) == keys
    assert faults.bytes_sent > 3_000_000


def test_what_a_listing_does_not_say_is_none(engine):
    contents = "<Contents><Key>all/a</Key><Size>5</Size></Contents>"
    ((found,), _) = listed(engine, page(contents))
    assert (found.size_bytes, found.etag, found.modified) == (5, None, None)


def test_times_are_ns_since_1970(engine):
    contents = "<Contents><Key>a</Key><Size>5</Size><LastModified>2026-01-02T03:04:05.678Z</LastModified></Contents>"
    ((found,), _) = listed(engine, page(contents))
    assert found.modified == 1_767_323_045_678_000_000


NO_PAGES = {
    "a page of a proxy": b"<html><body>Welcome to our network</body></html>",
    "no XML": b"hello",
    "nothing": b"",
    "an error": b"<Error><Code>InternalError</Code><Message>try again</Message></Error>",
    "another list": b"<ListAllMyBucketsResult></ListAllMyBucketsResult>",
    "no IsTruncated": page(more=""),
    "no size": page("<Contents><Key>all/a</Key></Contents>"),
}


@pytest.mark.parametrize("body", NO_PAGES.values(), ids=NO_PAGES)
@pytest.mark.usefixtures("retries_come_at_once")
def test_a_200_that_is_no_page_is_an_error_after_the_attempts(engine, body):
    with pytest.raises(ConnectionError, match="after 3 attempts"):
        listed(engine, body, body, body)


@pytest.mark.parametrize("more", ["", "<NextMarker>all/a</NextMarker>"], ids=["nothing", "the marker of version 1"])
def test_a_page_that_says_there_is_more_and_not_how_is_an_error(engine, more):
    with pytest.raises(OSError, match="may not know ListObjectsV2"):
        listed(engine, page(CONTENTS.format(key="all/a"), f"<IsTruncated>true</IsTruncated>{more}"))


def test_pages_that_do_not_advance_are_an_error(engine):
    body = page(
        CONTENTS.format(key="all/a"),
        "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>",
    )
    with pytest.raises(OSError, match="has no end"):
        listed(engine, *[body] * 5)


def test_both_engines_ask_for_the_same_pages():
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>a+/= b&amp;c</NextContinuationToken>"
    first, last = page(CONTENTS.format(key="all/a"), more), page()
    asked = {}
    for engine in ("auto", "boto3"):
        _, heads = listed(engine, first, last, prefix=ObjectUrl("bucket", "a b+c/ü~&="))
        lines = [head.split("\r\n")[0].removeprefix("GET ").removesuffix(" HTTP/1.1") for head in heads]
        asked[engine] = [(line.partition("?")[0], sorted(line.partition("?")[2].split("&"))) for line in lines]
    assert asked["auto"] == asked["boto3"]
    assert len(asked["auto"]) == 2


def test_both_engines_ask_for_the_same_flat_pages():
    asked = {}
    for engine in ("auto", "boto3"):

        def script(peer):
            peer.request()
            peer.send(
                answer(
                    page("<CommonPrefixes><Prefix>a+%C3%BC/</Prefix></CommonPrefixes><EncodingType>url</EncodingType>"),
                    content_type="application/xml",
                )
            )

        with Scripted(script) as server:
            store = S3Store(impatient_options(server.url, engine=engine))
            found = store.page(ObjectUrl("bucket", "a b+"), Span("a b+c/ü~&=", is_flat=True)).result(30)
            (head,) = server.heads
        assert found == Page([], ["a ü/"])
        asked[engine] = sorted(head.split("\r\n")[0].removesuffix(" HTTP/1.1").partition("?")[2].split("&"))
    assert asked["auto"] == asked["boto3"]


def test_a_common_prefix_without_text_is_no_page(engine):
    body = page("<CommonPrefixes></CommonPrefixes>")
    with pytest.raises(ConnectionError, match="after 3 attempts"):
        listed(engine, body, body, body)


def test_a_fault_at_a_page_of_many_costs_one_request_more(faults, store):
    fill(faults, 3)
    faults.fail("ListObjectsV2", SLOW_DOWN)
    assert store.page(ObjectUrl("bucket", ""), FLAT).result().below == ["all/"]
    assert faults.count("ListObjectsV2") == 2


def test_a_listing_without_faults_needs_no_boto3(faults, monkeypatch):
    """Nor does it fall back to it unseen: both engines could pass with boto3 alone."""
    fill(faults, 1500)
    monkeypatch.setattr("file_dataset._s3.by_boto3.Boto3.call", None)
    store = S3Store(impatient_options(faults.endpoint_url))
    assert len(store.list(ALL).result()) == 1500
    store.remove(AT).result()
    assert len(store.list(ALL).result()) == 1499
    assert store.page(ObjectUrl("bucket", ""), FLAT).result().below == ["all/"]
