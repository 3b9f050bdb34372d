"""What is left to boto3, and how our own requests for a bucket are made: botocore is asked once per bucket.

botocore makes a request for a key of no meaning and is kept from sending it; what it would have sent is the route:
scheme, host, path, region and headers, so that addressing styles and endpoints are boto3's. What our own HTTP does not
know (proxies, client certificates, accelerated and directory buckets, services beside S3, signatures other than SigV4)
has no route, and is boto3's. So is everything while a handler in this process may answer botocore's requests (moto's
mock_aws, a Stubber): nothing leaves a mock.
"""

from __future__ import annotations

import functools
import io
import logging
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from botocore.compat import HTTPHeaders
from botocore.exceptions import BotoCoreError
from botocore.handlers import BUILTIN_HANDLERS
from botocore.utils import get_environ_proxies

from file_dataset import _sessions
from file_dataset._http.exchange import Endpoint
from file_dataset._s3.route import Route, UnknownError, host_of
from file_dataset._s3.sigv4 import EMPTY_SHA256, Signer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from file_dataset._options import Options

logger = logging.getLogger(__name__)

_PROBE_KEY, _OTHER_KEY = "probe", "probe-2"
_FRESH_S = 5.0  # credentials are asked for again after this; a guess that makes no request late
# what each request has of its own, and what botocore sends of its own tries and digests
_OWN_HEADERS = frozenset({
    "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "connection", "content-length", "content-md5", "date",
    "expect", "host", "transfer-encoding", "x-amz-content-sha256", "x-amz-date", "x-amz-decoded-content-length",
    "x-amz-sdk-checksum-algorithm", "x-amz-security-token", "x-amz-trailer", "x-amzn-trace-id",
})  # fmt: skip
# directory buckets and their access points
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/directory-buckets-overview.html)
_DIRECTORY = re.compile(r"--xa?-s3(?=[:/]|$)")
# where a handler may answer a request, or change what it asks for; the rest may change its URL and headers
_ANSWERING = ("provide-client-params", "before-parameter-build", "before-call", "before-send")
_CHANGING = ("before-endpoint-resolution", "choose-signer", "request-created", "before-sign")
_OPERATIONS = ("GetObject", "HeadObject", "PutObject", "UploadPart", "ListObjectsV2", "DeleteObject")
_OURS = ("botocore.", "boto3.", "s3transfer.", "file_dataset.")
# headers that change what is asked in ways of their own
_STRANGE_HEADERS = ("x-amz-server-side-encryption-customer", "x-amz-request-payer", "x-amz-expected-bucket-owner")


class Router:
    """Routes of one client. Safe between threads."""

    def __init__(
        self,
        options: Options,
        session: Any,  # noqa: ANN401  # boto3 has no types
        client: Any,  # noqa: ANN401
        own: str | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            options: how S3 is reached.
            session: what has the credentials.
            client: what makes requests.
            own: the identity of the options; handlers that the user has registered on their `s3_client` count.
        """
        self._options, self._session, self._client, self._own = options, session, client, own
        self._routes: dict[str, Route | None] = {}
        self._uploads: dict[tuple[str, str], Mapping[str, str] | None] = {}
        self._endpoints: dict[tuple[str, str, int], Endpoint] = {}
        self._signers: dict[tuple[str, str], tuple[float, tuple[str, str, str | None], Signer]] = {}
        self._lock = threading.RLock()
        self._probing: int | None = None
        self._probed: list[Any] = []
        self._built_in = len(BUILTIN_HANDLERS)
        self._seen: tuple[Any, ...] = ()  # what `_foreign` was found in
        self._is_answered = False
        self._answering: tuple[Any, ...] = ()
        self._changing: tuple[Any, ...] | None = ()  # None: not the same for each operation
        client.meta.events.register_first("before-send.s3", self._keep)
        if own is not None:
            for event in (*_ANSWERING, *_CHANGING):
                client.meta.events.register(f"{event}.s3", self._emit_to_own)

    def route(self, bucket: str) -> Route | None:
        """Return how requests for the bucket are made; None: by boto3.

        Raises:
            botocore's own errors: there are no credentials, say.
        """
        if self._is_answered:
            return None
        try:
            return self._routes[bucket]
        except KeyError:
            pass
        with self._lock:
            if not self._seen:
                self.look()
                if self._is_answered:
                    return None
            if bucket not in self._routes:
                self._routes[bucket] = self._known(f"bucket {bucket}", lambda: self._route(bucket))
            return self._routes[bucket]

    def look(self) -> None:
        """See whether a handler in this process may answer requests; while one may, they are made by boto3.

        Once per call of the user's: for each object it would cost 3 us of some 70.
        """
        own = None if self._own is None else _sessions.client_of(self._own)
        events = self._client.meta.events._emitter  # noqa: SLF001  # botocore has no name for what is registered
        theirs = None if own is None else own.meta.events._emitter  # noqa: SLF001
        # a registration replaces the cache
        seen = self._seen
        with self._lock:
            if (
                not seen
                or seen[0] is not events._lookup_cache  # noqa: SLF001
                or seen[1] is not (theirs and theirs._lookup_cache)  # noqa: SLF001
                or self._built_in != len(BUILTIN_HANDLERS)
            ):
                self._look(events, theirs)
            # moto's handler stays for ever, and is switched on and off
            is_mocked = any(getattr(handler, "enabled", True) for handler in self._answering)
            self._is_answered = is_mocked or _is_replaced()

    def _look(self, events: Any, theirs: Any) -> None:  # noqa: ANN401  # botocore has no types
        for name, handler, *_ in BUILTIN_HANDLERS[self._built_in :]:
            # moto was imported after this client was made
            self._client.meta.events.register(name, handler)
        self._built_in = len(BUILTIN_HANDLERS)

        def foreign(event: str, operation: str) -> Iterator[Any]:
            for emitter in (events, theirs):
                for handler in [] if emitter is None else emitter._handlers.prefix_search(f"{event}.s3.{operation}"):  # noqa: SLF001
                    if _is_foreign(handler):
                        yield handler

        self._answering = tuple(
            handler for event in _ANSWERING for operation in _OPERATIONS for handler in foreign(event, operation)
        )
        each = [tuple(handler for event in _CHANGING for handler in foreign(event, name)) for name in _OPERATIONS]
        self._changing = each[0] if all(found == each[0] for found in each) else None
        self._routes.clear()
        self._uploads.clear()
        self._seen = events._lookup_cache, theirs and theirs._lookup_cache  # noqa: SLF001

    def _emit_to_own(self, event_name: str, **kwargs: Any) -> Any:  # noqa: ANN401  # boto3 has no types
        """Have the handlers that the user registered on the `s3_client` of these options see our requests too."""
        own = _sessions.client_of(self._own or "")
        if own is None:
            return None
        for handler in own.meta.events._emitter._handlers.prefix_search(event_name):  # noqa: SLF001
            if _is_foreign(handler):
                answer = handler(event_name=event_name, **kwargs)
                if answer is not None:
                    return answer
        return None

    @property
    def is_changed(self) -> bool:
        """Whether handlers of the user's may change what botocore sends."""
        return self._changing is None or bool(self._changing)

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
        if not extra_args and not self._changing:
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
        frozen = _sessions.frozen_keys(self._options.s3_client_kwargs or {}, self._session)
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

    def _probe_bucket(self, bucket: str) -> Any:  # noqa: ANN401  # boto3 has no types
        """Return the request for an object in the bucket."""
        config = self._client.meta.config
        if _DIRECTORY.search(bucket):
            raise UnknownError("directory buckets have sessions of their own")
        if (config.s3 or {}).get("use_accelerate_endpoint"):
            raise UnknownError("accelerated endpoints")
        if config.client_cert:
            raise UnknownError("client certificates")
        request = self._probe("get_object", Bucket=bucket, Key=_PROBE_KEY)
        if self._changing is None:
            raise UnknownError("handlers for some operations only")
        if self._changing:
            other = self._probe("get_object", Bucket=bucket, Key=_OTHER_KEY)
            if _constant(request.headers) != _constant(other.headers):
                raise UnknownError("handlers that give each request other headers")
        return request

    def _route(self, bucket: str) -> Route:
        config = self._client.meta.config
        request = self._probe_bucket(bucket)
        proxies = get_environ_proxies(request.url) if config.proxies is None else config.proxies
        if proxies.get(urlsplit(request.url).scheme):
            raise UnknownError("proxies")
        headers = _text(request.headers)
        url = urlsplit(request.url)
        if url.query or not url.path.endswith("/" + _PROBE_KEY) or url.scheme not in ("http", "https"):
            raise UnknownError(f"a URL such as {url.path}")
        scope = _scope(headers.get("authorization"))
        if scope is not None and scope[1] != "s3":
            raise UnknownError(f"the service {scope[1]}")
        shared = {name: value for name, value in headers.items() if name not in _OWN_HEADERS}
        if strange := [name for name in shared if name.startswith(_STRANGE_HEADERS)]:
            raise UnknownError(f"headers {strange}")
        signs = (config.s3 or {}).get("payload_signing_enabled")
        shared["host"] = host_of(url)
        return Route(
            self._endpoint(
                url.scheme, url.hostname or "", (443 if url.scheme == "https" else 80) if url.port is None else url.port
            ),
            url.path[: -len(_PROBE_KEY)],
            {name: value for name, value in shared.items() if name != "x-amz-checksum-mode"},
            shared,
            scope,
            url.scheme == "http" if signs is None else bool(signs),
            headers.get("x-amz-content-sha256", EMPTY_SHA256),
        )

    def _upload_headers(self, bucket: str, extra_args: Mapping[str, Any]) -> Mapping[str, str]:
        # a checksum that is given keeps botocore from making one of its own
        try:
            request = self._probe(
                "put_object", Bucket=bucket, Key=_PROBE_KEY, Body=b"", ChecksumCRC32="AAAAAA==", **extra_args
            )
        except (BotoCoreError, ValueError, TypeError) as exc:  # boto3 raises it for the file that is to be stored
            raise UnknownError(f"arguments that it refuses: {type(exc).__name__}") from None
        headers = _text(request.headers)
        if urlsplit(request.url).query:
            raise UnknownError("parameters in the URL")
        shared = {
            name: value
            for name, value in headers.items()
            if name not in _OWN_HEADERS and name != "user-agent" and not name.startswith("x-amz-checksum-")
        }
        if strange := [name for name in shared if name.startswith(_STRANGE_HEADERS)]:
            raise UnknownError(f"headers {strange}")
        return shared

    def _probe(self, operation: str, **kwargs: Any) -> Any:  # noqa: ANN401  # boto3 has no types
        with self._lock:
            self._probing = threading.get_ident()
            try:
                getattr(self._client, operation)(**kwargs)
            finally:
                self._probing = None
                probed, self._probed = self._probed, []
            if not probed:
                raise UnknownError("a request that is answered before it is made")
            return probed[-1]

    def _keep(self, request: Any, event_name: str, **_: object) -> AWSResponse | None:  # noqa: ANN401  # boto3 has no types
        if self._probing != threading.get_ident():
            return None
        if not event_name.endswith(("GetObject", "PutObject")):  # a session's, say
            raise UnknownError(f"{event_name.rpartition('.')[2]} before it")
        self._probed.append(request)
        empty = urllib3.HTTPResponse(io.BytesIO(), preload_content=False)
        return AWSResponse(request.url, 200, HTTPHeaders.from_pairs([("Content-Length", "0")]), empty)

    def _endpoint(self, scheme: str, host: str, port: int) -> Endpoint:
        at = scheme, host, port
        if at not in self._endpoints:
            config = self._client.meta.config
            tls = None
            if scheme == "https":
                tls = _sessions.tls_context(*_sessions.verify(self._options.s3_client_kwargs or {}, self._session))
            self._endpoints[at] = Endpoint(
                host,
                port,
                tls,
                _seconds(config.connect_timeout),
                _seconds(config.read_timeout),
                _sessions.keeps_alive(self._session, config),
            )
        return self._endpoints[at]


_make_api_call: Any = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001  # tests replace it


def _is_replaced() -> bool:
    """Return whether a mock stands where botocore makes requests; a wrapper that only watches keeps the name."""
    call: Any = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001
    return call is not _make_api_call and (call.__module__ != "botocore.client" or hasattr(call, "mock"))


def _is_foreign(handler: Any) -> bool:  # noqa: ANN401  # whatever is called
    """Return whether a handler is the user's, or a Stubber's, rather than botocore's, boto3's or this library's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    module = f"{getattr(handler, '__module__', None) or type(handler).__module__}."
    return not module.startswith(_OURS) or module == "botocore.stub."


def _seconds(timeout: float | None) -> float:
    return math.inf if timeout is None else float(timeout)  # None is botocore's "no timeout"


def _constant(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in _text(headers).items() if name not in _OWN_HEADERS}


def _text(headers: Mapping[str, Any]) -> dict[str, str]:
    found = {
        name.lower(): value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for name, value in headers.items()
    }
    # a line break would begin a header of its own; beyond ASCII there is more than one way to send it
    texts = [(name, text) for name, value in found.items() for text in (name, value)]
    if odd := [name for name, text in texts if not (text.isascii() and text.isprintable())]:
        raise UnknownError(f"headers {odd}")
    return found


def _scope(authorization: str | None) -> tuple[str, str] | None:
    if authorization is None:
        return None
    if not authorization.startswith("AWS4-HMAC-SHA256 Credential="):
        raise UnknownError("a signature other than SigV4")
    _, _, rest = authorization.partition("Credential=")
    _, region, service, _ = rest.partition(",")[0].rsplit("/", 3)
    return region, service
