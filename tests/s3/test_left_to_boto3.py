"""What is left to boto3, with one debug line that says why, and what is not."""

from __future__ import annotations

import logging
import os

import pytest
from botocore.config import Config
from one_object import AT, SMALL, URL, get, one_attempt, put, store_at
from servers.scripted import Scripted, always, answer

from file_dataset._http.loop import Loop


def lines_about_boto3(caplog):
    return [record.getMessage() for record in caplog.records if "left to boto3" in record.getMessage()]


@pytest.mark.parametrize("how", ["environment", "Config"])
def test_proxies_are_left_to_boto3_with_one_line_that_says_why(monkeypatch, caplog, how):
    caplog.set_level(logging.DEBUG, "file_dataset")
    with Scripted(always(answer(b"body"))) as proxy:
        config = None
        monkeypatch.delenv("NO_PROXY")
        if how == "environment":
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
        else:
            config = Config(proxies={"http": proxy.url})
        store = one_attempt("http://store.invalid", config)
        assert [get(store) for _ in range(3)] == [b"body"] * 3
        assert proxy.heads[0].startswith("GET http://store.invalid/bucket/a.bin ")
    assert lines_about_boto3(caplog) == ["bucket bucket is left to boto3: proxies"]


def test_a_host_without_proxy_is_not_left_to_boto3(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "file_dataset")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # NO_PROXY has 127.0.0.1
    with Scripted(always(answer(b"body"))) as server:
        assert get(one_attempt(server.url)) == b"body"
    assert not lines_about_boto3(caplog)


NO_PROXIES = {
    "NO_PROXY alone": {"NO_PROXY": "elsewhere.example"},
    "a proxy for another scheme": {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""},
}


@pytest.mark.parametrize("environment", NO_PROXIES.values(), ids=NO_PROXIES)
def test_what_is_no_proxy_for_this_endpoint_leaves_nothing_to_boto3(monkeypatch, caplog, environment):
    caplog.set_level(logging.DEBUG, "file_dataset")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Scripted(always(answer(b"body"))) as server:
        assert get(one_attempt(server.url)) == b"body"
    assert not lines_about_boto3(caplog)


def test_a_config_without_proxies_wins_over_the_environment(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "file_dataset")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Scripted(always(answer(b"body"))) as server:
        assert get(one_attempt(server.url, Config(proxies={}))) == b"body"
    assert not lines_about_boto3(caplog)


def test_the_engine_boto3_sends_nothing_over_the_wire(faults, source, monkeypatch):
    used = []
    for name in ("submit", "call"):
        monkeypatch.setattr(Loop, name, lambda *_, name=name: used.append(name))
    monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
    monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 5 << 20)
    faults.put("s3://bucket/other", b"")
    store = store_at(faults.endpoint_url, engine="boto3")
    for body in (SMALL, os.urandom(6 << 20)):
        put(store, source, body)
        assert store.info(AT).result(10).size_bytes == len(body)
        assert get(store) == body
    assert not used


def test_the_wire_moves_what_it_can(faults, source, monkeypatch, caplog):
    """The opposite of the one above: or both could pass with boto3 alone."""
    caplog.set_level(logging.DEBUG, "file_dataset")
    sent = []
    original = Loop.submit
    monkeypatch.setattr(Loop, "submit", lambda self, lane, each: (sent.append(type(each)), original(self, lane, each)))
    faults.put("s3://bucket/other", b"")
    store = store_at(faults.endpoint_url)
    put(store, source)
    store.info(AT).result(10)
    get(store)
    assert [kind.__name__ for kind in sent] == ["Put", "Head", "Get"]
    assert not lines_about_boto3(caplog)


CUSTOMERS = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}


@pytest.mark.parametrize("extra_args", [CUSTOMERS, {"RequestPayer": "requester"}], ids=["SSE-C", "RequestPayer"])
def test_strange_extra_args_are_left_to_boto3(faults, source, extra_args, caplog):
    caplog.set_level(logging.DEBUG, "file_dataset")
    faults.put("s3://bucket/other", b"")
    put(store_at(faults.endpoint_url), source, SMALL, **extra_args)
    assert faults.body(URL) == SMALL
    assert lines_about_boto3(caplog)
