"""How requests for a bucket are made: botocore is asked once, so that every addressing style comes out as boto3 has it.

botocore makes a request for a key of no meaning and is kept from sending it; what it would have sent is the route:
scheme, host, path, region and headers. What the wire does not know (proxies, client certificates, accelerated and
directory buckets, signatures other than SigV4) has no route, and is boto3's.
"""

from __future__ import annotations

import io
import logging
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from file_dataset import _options
from file_dataset._sigv4 import Signer, quoted_path
from file_dataset._wire import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._options import Options

logger = logging.getLogger(__name__)

_PROBE_KEY = "probe"
_FRESH_S = 5.0  # credentials are asked for again after this; a guess that makes no request late
# what each request has of its own, and what botocore says of its own tries and digests
_OWN_HEADERS = frozenset({
    "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "connection", "content-length", "content-md5", "date",
    "expect", "host", "transfer-encoding", "x-amz-content-sha256", "x-amz-date", "x-amz-decoded-content-length",
    "x-amz-sdk-checksum-algorithm", "x-amz-security-token", "x-amz-trailer", "x-amzn-trace-id",
})  # fmt: skip
# headers that change what is asked in ways of their own
_STRANGE_HEADERS = ("x-amz-server-side-encryption-customer", "x-amz-request-payer", "x-amz-expected-bucket-owner")


@dataclass(frozen=True, slots=True)
class Route:
    """How requests for one bucket are made."""

    endpoint: Endpoint
    path: str  # before the key, escaped
    headers: Mapping[str, str]  # of each request, `host` among them, names in lower case
    read_headers: Mapping[str, str]  # the same and what a GET and a HEAD ask for
    scope: tuple[str, str] | None  # region and service to sign for; None: unsigned
    signs_payload: bool

    def path_of(self, key: str) -> str:
        """Return the path of an object, escaped."""
        return self.path + quoted_path(key)


class UnknownError(Exception):
    """The wire does not know how to do this; boto3 does."""


class Router:
    """Routes of one client. Safe between threads."""

    def __init__(self, options: Options, session: Any, client: Any) -> None:  # noqa: ANN401  # boto3 has no types
        """Ask nothing yet."""
        self._options, self._session, self._client = options, session, client
        self._routes: dict[str, Route | None] = {}
        self._uploads: dict[tuple[str, str], Mapping[str, str] | None] = {}
        self._endpoints: dict[tuple[str, str, int], Endpoint] = {}
        self._signers: dict[tuple[str, str], tuple[float, tuple[str, str, str | None], Signer]] = {}
        self._lock = threading.RLock()
        self._probing: int | None = None
        self._probed: list[Any] = []
        client.meta.events.register_first("before-send.s3", self._keep)

    def route(self, bucket: str) -> Route | None:
        """Return how requests for the bucket are made; None: by boto3.

        Raises:
            botocore's own errors: there are no credentials, say.
        """
        try:
            return self._routes[bucket]
        except KeyError:
            pass
        with self._lock:
            if bucket not in self._routes:
                self._routes[bucket] = self._known(f"bucket {bucket}", lambda: self._route(bucket))
            return self._routes[bucket]

    def find_again(self, bucket: str) -> None:
        """Ask botocore once more for a bucket that is elsewhere; one that it moves nowhere is left to boto3."""
        with self._lock:
            old = self._routes.pop(bucket, None)
            new = self.route(bucket)
            if (
                old is not None
                and new is not None
                and (old.endpoint, old.path, old.scope) == (new.endpoint, new.path, new.scope)
            ):
                self._routes[bucket] = None

    def upload_headers(self, bucket: str, extra_args: Mapping[str, Any]) -> Mapping[str, str] | None:
        """Return the headers that boto3's `ExtraArgs` stand for; None: boto3 does the upload."""
        if not extra_args:
            return {}
        key = bucket, repr(sorted(extra_args.items()))
        with self._lock:
            if key not in self._uploads:
                self._uploads[key] = self._known("an upload", lambda: self._upload_headers(bucket, extra_args))
            return self._uploads[key]

    def signer(self, route: Route) -> Signer | None:
        """Return who signs for a route with credentials of now; None: requests are not signed. May ask for new ones."""
        if route.scope is None:
            return None
        until, keys, signer = self._signers.get(route.scope, (0.0, None, None))
        if signer is not None and time.monotonic() < until:
            return signer
        frozen = _options.frozen_keys(self._options, self._session)
        if signer is None or frozen != keys:
            region, service = route.scope
            signer = Signer(*frozen, region=region, service=service)
        self._signers[route.scope] = time.monotonic() + _FRESH_S, frozen, signer
        return signer

    def _known(self, what: str, find: Any) -> Any:  # noqa: ANN401  # a route, or headers
        try:
            return find()
        except UnknownError as exc:
            logger.debug("%s is left to boto3: %s", what, exc)
            return None

    def _route(self, bucket: str) -> Route:
        config = self._client.meta.config
        if bucket.endswith("--x-s3"):
            raise UnknownError("directory buckets have sessions of their own")
        if (config.s3 or {}).get("use_accelerate_endpoint"):
            raise UnknownError("accelerated endpoints")
        if config.client_cert:
            raise UnknownError("client certificates")
        request = self._probe("get_object", Bucket=bucket, Key=_PROBE_KEY)
        proxies = get_environ_proxies(request.url) if config.proxies is None else config.proxies
        if proxies.get(urlsplit(request.url).scheme):
            raise UnknownError("proxies")
        headers = _text(request.headers)
        url = urlsplit(request.url)
        if url.query or not url.path.endswith("/" + _PROBE_KEY) or url.scheme not in ("http", "https"):
            raise UnknownError(f"a URL such as {url.path}")
        scope = _scope(headers.get("authorization"))
        kept = {name: value for name, value in headers.items() if name not in _OWN_HEADERS}
        if strange := [name for name in kept if name.startswith(_STRANGE_HEADERS)]:
            raise UnknownError(f"headers {strange}")
        signs = (config.s3 or {}).get("payload_signing_enabled")
        kept["host"] = url.netloc.rpartition("@")[2]
        return Route(
            self._endpoint(url.scheme, url.hostname or "", url.port or (443 if url.scheme == "https" else 80)),
            url.path[: -len(_PROBE_KEY)],
            {name: value for name, value in kept.items() if name != "x-amz-checksum-mode"},
            kept,
            scope,
            url.scheme == "http" if signs is None else bool(signs),
        )

    def _upload_headers(self, bucket: str, extra_args: Mapping[str, Any]) -> Mapping[str, str]:
        # a checksum that is given keeps botocore from making one of its own
        try:
            request = self._probe(
                "put_object", Bucket=bucket, Key=_PROBE_KEY, Body=b"", ChecksumCRC32="AAAAAA==", **extra_args
            )
        except (BotoCoreError, ValueError, TypeError) as exc:  # boto3 says it for the file that is to be stored
            raise UnknownError(f"arguments that it refuses: {type(exc).__name__}") from None
        headers = _text(request.headers)
        if urlsplit(request.url).query:
            raise UnknownError("parameters in the URL")
        kept = {
            name: value
            for name, value in headers.items()
            if name not in _OWN_HEADERS and name != "user-agent" and not name.startswith("x-amz-checksum-")
        }
        if strange := [name for name in kept if name.startswith(_STRANGE_HEADERS)]:
            raise UnknownError(f"headers {strange}")
        return kept

    def _probe(self, operation: str, **kwargs: Any) -> Any:  # noqa: ANN401  # boto3 has no types
        with self._lock:
            self._probing = threading.get_ident()
            try:
                getattr(self._client, operation)(**kwargs)
            finally:
                self._probing = None
            request = self._probed.pop()
            self._probed.clear()
            return request

    def _keep(self, request: Any, **_: object) -> AWSResponse | None:  # noqa: ANN401  # boto3 has no types
        if self._probing != threading.get_ident():
            return None
        self._probed.append(request)
        empty = urllib3.HTTPResponse(io.BytesIO(), preload_content=False)
        return AWSResponse(request.url, 200, HTTPHeaders.from_pairs([("Content-Length", "0")]), empty)

    def _endpoint(self, scheme: str, host: str, port: int) -> Endpoint:
        at = scheme, host, port
        if at not in self._endpoints:
            config = self._client.meta.config
            tls = self._tls() if scheme == "https" else None
            self._endpoints[at] = Endpoint(
                host, port, tls, float(config.connect_timeout), float(config.read_timeout), bool(config.tcp_keepalive)
            )
        return self._endpoints[at]

    def _tls(self) -> ssl.SSLContext:
        verify = _options.verify(self._options, self._session)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            try:
                context.load_verify_locations(get_cert_path(verify))  # type: ignore[arg-type]  # a path too
            except OSError as exc:
                raise UnknownError(f"the CA in {verify}: {exc}") from None
        return context


def _text(headers: Mapping[str, Any]) -> dict[str, str]:
    found = {
        name.lower(): value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for name, value in headers.items()
    }
    # a line break would begin a header of its own; beyond ASCII there is more than one way to send it
    if odd := [name for name, value in found.items() if not (value.isascii() and value.isprintable())]:
        raise UnknownError(f"the values of {odd}")
    return found


def _scope(authorization: str | None) -> tuple[str, str] | None:
    if authorization is None:
        return None
    if not authorization.startswith("AWS4-HMAC-SHA256 Credential="):
        raise UnknownError("a signature other than SigV4")
    _, _, rest = authorization.partition("Credential=")
    _, region, service, _ = rest.partition(",")[0].rsplit("/", 3)
    return region, service
