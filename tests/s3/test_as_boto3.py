"""What leaves the wire is what boto3 sends for the same profile, environment, `Config` and endpoint."""

# a case is read across
# ruff: noqa: E501

from __future__ import annotations

import hmac
import pickle
import socket
import threading
from collections import OrderedDict
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config

import file_dataset
from file_dataset import Options, _per_process, _plain
from file_dataset._s3.requests import Request

KEY = "a b/ü+%25.txt"
BODY = b"hello"
SECRETS = {"AKID": "secret-of-env", "AKIDPROFILE": "secret-of-profile"}
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKID",
    "AWS_SECRET_ACCESS_KEY": SECRETS["AKID"],
    "AWS_DEFAULT_REGION": "eu-central-1",
}
# each request's own, and what HTTP libraries add; the checksum of uploads is CRC64NVME here, CRC32 there
PASSING = {
    "accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "connection", "expect", "user-agent",
    "x-amz-date", "x-amz-sdk-checksum-algorithm",
}  # fmt: skip


class Recorder(ThreadingHTTPServer):
    """Answers everything with five bytes and keeps what was asked."""

    daemon_threads = True

    def __init__(self, context=None):
        super().__init__(("127.0.0.1", 0), Handler)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers, body))
        self.send_response(200)
        self.send_header("Content-Length", "0" if self.command == "PUT" else str(len(BODY)))
        self.send_header("ETag", '"x"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(BODY)

    do_PUT = do_HEAD = do_GET  # noqa: N815  # http.server's names

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def servers(authority):
    """By scheme; every name in the world leads to them."""
    context = authority.server("store.example")
    made = {"http": Recorder(), "https": Recorder(context)}
    yield made
    for server in made.values():
        server.shutdown()
        server.server_close()


@pytest.fixture
def asked(servers, monkeypatch):
    real = socket.getaddrinfo

    def here(host, port, *args, **kwargs):
        scheme = "https" if str(port) in {"443", "8443"} else "http"
        return real("127.0.0.1", servers[scheme].server_port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(_per_process, "_recent", OrderedDict())

    def taken():
        found = [request for server in servers.values() for request in server.asked]
        for server in servers.values():
            server.asked.clear()
        return found

    taken()
    return taken


def essence(request):
    """What of a request must be the same; and the proof that its signature is good."""
    method, target, headers, body = request
    kept = {name: value for name, value in headers.items() if name not in PASSING}
    if method == "HEAD":  # boto3 asks for no checksum there
        kept.pop("x-amz-checksum-mode", None)
    checksums = {name for name in kept if name.startswith("x-amz-checksum-crc")}
    kept = {name: value for name, value in kept.items() if name not in checksums}
    kept["has a checksum"] = bool(checksums)
    kept["signed for"] = signed_for(method, target, headers)
    return method, target, kept, body


def signed_for(method, target, headers):
    """Return whose key signed it, for which region and service; None: it is not signed."""
    if "authorization" not in headers:
        return None
    fields = dict(part.strip().split("=", 1) for part in headers["authorization"].partition(" ")[2].split(","))
    access, day, region, service, _ = fields["Credential"].split("/")
    names = fields["SignedHeaders"].split(";")
    path, _, query = target.partition("?")
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{';'.join(names)}\n{headers['x-amz-content-sha256']}"
    key = f"AWS4{SECRETS[access]}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    scope = f"{day}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    assert hmac.digest(key, text.encode(), "sha256").hex() == fields["Signature"]
    assert "host" in names
    return access, region, service


def by_boto3(client, tmp_path):
    client.get_object(Bucket="bucket", Key=KEY)["Body"].read()
    client.head_object(Bucket="bucket", Key=KEY)
    client.put_object(Bucket="bucket", Key=f"o/1/{KEY}", Body=BODY)


def by_us(options, tmp_path):
    row = {"a.txt": f"s3://bucket/{KEY}"}
    file_dataset.reader(row, options=options).into_blob_table()
    file_dataset.reader(row, options=options).into_size_table()
    source = tmp_path / "source"
    source.write_bytes(BODY)
    file_dataset.write_files({KEY: source}, into_path="s3://bucket/o", id=1, options=options)


BARE = """[profile minio]
aws_access_key_id = AKIDPROFILE
aws_secret_access_key = secret-of-profile
"""
MINIO = (
    BARE
    + """region = eu-west-9
endpoint_url = http://store.example:9000
"""
)
# environment, profile, session and client arguments
CASES = {
    "an endpoint": ({"AWS_ENDPOINT_URL": "http://store.example:9000"}, "", {}, {}),
    "an endpoint of S3": ({"AWS_ENDPOINT_URL_S3": "http://store.example"}, "", {}, {}),
    "its own port, http": ({"AWS_ENDPOINT_URL": "http://store.example:80"}, "", {}, {}),
    "its own port, https": ({"AWS_ENDPOINT_URL": "https://store.example:443"}, "", {}, {}),
    "a host in upper case": ({"AWS_ENDPOINT_URL": "http://STORE.example:9000"}, "", {}, {}),
    "another port, https": ({"AWS_ENDPOINT_URL": "https://store.example:8443"}, "", {}, {}),
    "a path in the endpoint": ({"AWS_ENDPOINT_URL": "http://store.example:9000/s3/v1"}, "", {}, {}),
    "a token": ({"AWS_ENDPOINT_URL": "http://store.example", "AWS_SESSION_TOKEN": "to/k+en=="}, "", {}, {}),
    "checksums by environment": (
        {"AWS_ENDPOINT_URL": "http://store.example", "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
         "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}, "", {}, {},
    ),
    "AWS itself": ({}, "", {}, {"use_ssl": False}),
    "us-east-1": ({"AWS_DEFAULT_REGION": "us-east-1"}, "", {}, {"use_ssl": False}),
    "us-east-1, regional": (
        {"AWS_DEFAULT_REGION": "us-east-1", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional"}, "", {}, {"use_ssl": False},
    ),
    "dualstack by environment": ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "", {}, {"use_ssl": False}),
    "FIPS by environment": ({"AWS_DEFAULT_REGION": "us-west-2", "AWS_USE_FIPS_ENDPOINT": "true"}, "", {}, {"use_ssl": False}),
    "a region that is given": ({}, "", {"region_name": "ap-south-1"}, {"use_ssl": False}),
    "unsigned": ({"AWS_ENDPOINT_URL": "http://store.example"}, "", {}, {"config": Config(signature_version=UNSIGNED)}),
    "path style by Config": ({}, "", {}, {"use_ssl": False, "config": Config(s3={"addressing_style": "path"})}),
    "unsigned payload": (
        {"AWS_ENDPOINT_URL": "http://store.example"}, "", {}, {"config": Config(s3={"payload_signing_enabled": False})},
    ),
    "configured endpoints are ignored": (
        {"AWS_ENDPOINT_URL": "http://elsewhere.example"}, "", {},
        {"use_ssl": False, "config": Config(ignore_configured_endpoint_urls=True)},
    ),
    "a profile": ({}, MINIO, {"profile_name": "minio"}, {}),
    "a profile's addressing": ({}, MINIO + "s3 =\n  addressing_style = virtual\n", {"profile_name": "minio"}, {}),
    "a profile's payload": ({}, MINIO + "s3 =\n  payload_signing_enabled = false\n", {"profile_name": "minio"}, {}),
    "a profile's checksums": ({}, MINIO + "request_checksum_calculation = when_required\n", {"profile_name": "minio"}, {}),
    "a profile's dualstack": (
        {}, BARE + "region = eu-west-1\nuse_dualstack_endpoint = true\n", {"profile_name": "minio"},
        {"use_ssl": False},
    ),
    "a profile and a Config": (
        {}, MINIO + "s3 =\n  addressing_style = virtual\n  payload_signing_enabled = false\n", {"profile_name": "minio"},
        {"config": Config(s3={"addressing_style": "path"})},
    ),
    "a profile's services": (
        {}, BARE + "region = r\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = http://mine.example\n",
        {"profile_name": "minio"}, {},
    ),
    "AWS_PROFILE": ({"AWS_PROFILE": "minio"}, MINIO + "s3 =\n  addressing_style = virtual\n", {}, {}),
}  # fmt: skip
WAYS = {
    "options=None": lambda session, client: None,
    "Options": Options,
    "default, elsewhere": Options.default,
}


@pytest.mark.parametrize("is_loaded", [True, False], ids=["boto3 is loaded", "boto3 is not loaded"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_what_leaves_the_wire_is_what_boto3_sends(  # what pytest hands over
    case, way, is_loaded, asked, authority, monkeypatch, tmp_path
):
    environment, profile, session, client = CASES[case]
    if way == "options=None" and client:
        pytest.skip("None takes no arguments")
    (tmp_path / "config").write_text(profile)
    names = {**ENVIRONMENT, "AWS_CA_BUNDLE": str(authority.path), "AWS_CONFIG_FILE": str(tmp_path / "config")}
    if "AWS_PROFILE" in environment:  # its keys, where the environment has none
        names = {name: value for name, value in names.items() if "KEY" not in name}
    for name, value in (names | environment).items():
        monkeypatch.setenv(name, value)
    if way == "options=None" and session:
        boto3.setup_default_session(**session)
    by_boto3(boto3.Session(**session).client("s3", **client), tmp_path)
    expected = [essence(request) for request in asked()]
    options = WAYS[way](session, client)
    if way == "default, elsewhere":  # a worker without any of it
        payload = pickle.dumps(options)
        for name in names | environment:
            monkeypatch.delenv(name)
        options = pickle.loads(payload)
    on_wire = []
    head = Request.head
    monkeypatch.setattr(Request, "head", lambda *args, **kwargs: on_wire.append(1) or head(*args, **kwargs))
    monkeypatch.setattr(_plain, "may_be", lambda: not is_loaded and boto3.DEFAULT_SESSION is None)
    by_us(options, tmp_path)
    found = [essence(request) for request in asked()]
    assert len(on_wire) == 3
    for ours, theirs in zip(sorted(found, key=str), sorted(expected, key=str), strict=True):
        if "trailer" in str(theirs[2].get("x-amz-content-sha256", "")).lower():
            # boto3 sends the checksum of an upload over TLS behind the body, the wire before it
            assert (ours[0], ours[1], ours[2]["host"]) == (theirs[0], theirs[1], theirs[2]["host"])
            assert ours[2]["signed for"] == theirs[2]["signed for"]
        else:
            assert ours == theirs
