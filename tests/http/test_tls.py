"""TLS: objects go both ways, and what cannot be trusted is an error that names the remedy."""

from __future__ import annotations

import os
import threading
import time

import pytest
from one_object import AT, BODY, LARGE, SMALL, URL, get, in_parts, into_file, put, store_at, trusting
from servers.authority import Authority
from servers.scripted import Scripted, always, answer, answering

from file_dataset._http.loop import loops
from file_dataset._s3 import ranges
from file_dataset._s3.store import S3Store
from file_dataset._sink import Part, Sink


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"))


TRUSTS = {
    "verify=path": lambda patch, path: str(path),
    "AWS_CA_BUNDLE": lambda patch, path: patch.setenv("AWS_CA_BUNDLE", str(path)),
    "verify=False": lambda patch, path: False,
}


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    return request.param


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("trust", TRUSTS.values(), ids=TRUSTS)
def test_objects_go_both_ways_over_tls(tls_faults, authority, monkeypatch, source, trust, engine):
    store = S3Store(trusting(tls_faults.endpoint_url, trust(monkeypatch, authority.path), engine=engine))
    for body in (b"", SMALL, LARGE, BODY):
        put(store, source, body)
        assert get(store) == body


@in_parts
def test_a_large_object_comes_over_tls_in_parts(tls_faults, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "_MOST_BYTES", 512 << 10)
    body = os.urandom(9 << 20)
    tls_faults.put(URL, body, checksum="CRC64NVME")
    sink = Sink(tmp_path / "a.bin", threading.Event())
    S3Store(trusting(tls_faults.endpoint_url, str(authority.path))).download(AT, sink).result(30)
    sink.commit()
    assert (tmp_path / "a.bin").read_bytes() == body
    assert tls_faults.count("GetObject") > 2


def test_a_small_object_over_tls_is_written_at_once(authority, tmp_path, monkeypatch):
    """Its head and the first of it fill one record, the rest another."""
    body, writes = os.urandom(16 << 10), []
    write = Part.write
    monkeypatch.setattr(Part, "write", lambda part, chunk: writes.append(len(chunk)) or write(part, chunk))
    with Scripted(always(answer(body, etag='"1"')), tls=authority.server("127.0.0.1")) as server:
        store = S3Store(trusting(server.url, str(authority.path)))

        def comes_whole():  # unless the second record is late, now and then
            writes.clear()
            assert into_file(store, tmp_path) == body
            return writes == [len(body)]

        assert any(comes_whole() for _ in range(50))


def test_a_connection_over_tls_is_used_again(tls_faults, authority):
    tls_faults.put(URL, BODY)
    store = S3Store(trusting(tls_faults.endpoint_url, str(authority.path)))
    count = len(loops())  # each has a connection of its own; large bodies go round them
    for _ in range(count + 2):
        assert get(store) == BODY
    assert tls_faults.accepted <= count


@pytest.mark.parametrize("verify", ["another CA", None], ids=["another CA", "the usual CAs"])
def test_a_certificate_that_is_not_trusted_is_told_with_the_remedy_after_one_attempt(
    tls_faults, other_authority, verify, engine
):
    tls_faults.put(URL, BODY)
    trusted = str(other_authority.path) if verify else None
    with pytest.raises(OSError, match=r"certificate verify failed.*verify") as caught:
        get(S3Store(trusting(tls_faults.endpoint_url, trusted, engine=engine)))
    assert "attempts" not in str(caught.value)
    assert tls_faults.accepted == 1


WRONG_CERTIFICATES = {
    "another host": ("another.example", -1, 1, "another host's: check endpoint_url"),
    "another address": ("127.0.0.2", -1, 1, "another host's: check endpoint_url"),
    "expired": ("127.0.0.1", -2, -1, "expired: renew it"),
    "not valid yet": ("127.0.0.1", 1, 2, "not valid yet: check this machine's clock"),
}


@pytest.mark.parametrize("wrong", WRONG_CERTIFICATES.values(), ids=WRONG_CERTIFICATES)
def test_a_certificate_that_no_ca_helps_is_refused_with_what_does(authority, engine, wrong):
    name, first, last, remedy = wrong
    with Scripted(always(answer(b"body")), tls=authority.server(name, days=(first, last))) as server:
        with pytest.raises(OSError, match=remedy) as caught:
            get(S3Store(trusting(server.url, str(authority.path), engine=engine)))
        assert "verify'" not in str(caught.value)
        assert "attempts" not in str(caught.value)
        assert server.accepted == 1
        assert not server.heads


def test_a_handshake_that_breaks_off_is_tried_again(authority, engine):
    context = authority.server("127.0.0.1")

    def served(peer):
        with context.wrap_socket(peer.sock, server_side=True) as peer.sock:
            always(answer(b"body"))(peer)

    with Scripted(lambda peer: peer.sock.recv(10), served) as server:
        url = server.url.replace("http:", "https:")
        assert get(S3Store(trusting(url, str(authority.path), engine=engine))) == b"body"


def test_a_server_that_speaks_no_tls_is_told(engine):
    said = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with Scripted(lambda peer: peer.send(said)) as server:
        with pytest.raises(OSError, match=r"(?i)ssl.*http://"):
            get(store_at(server.url.replace("http:", "https:"), engine=engine))
        assert server.accepted == 1  # another attempt cannot help


def test_a_server_that_speaks_tls_to_a_client_that_does_not_is_told():
    alert = b"\x15\x03\x01\x00\x02\x02\x46"  # TLS 1.0: fatal, protocol_version
    with Scripted(answering(alert)) as server:
        with pytest.raises(OSError, match="https://"):
            get(store_at(server.url))
        assert server.accepted == 1


@pytest.mark.parametrize("end", ["closes", "resets"])
def test_a_body_that_breaks_off_over_tls_is_continued(authority, end):
    def broken(peer):
        peer.request()
        peer.send(answer(b"body", etag='"x"')[:-2])
        if end == "resets":
            time.sleep(0.05)
            peer.reset()

    rest = answer(b"dy", "206 Partial Content", etag='"x"', content_range="bytes 2-3/4")
    with Scripted(broken, always(rest), tls=authority.server("127.0.0.1")) as server:
        assert get(S3Store(trusting(server.url, str(authority.path)))) == b"body"
        assert "range: bytes=2-3" in server.heads[1].lower()
