"""Routes of a plain S3: how botocore would request plain buckets, without asking it. `_plain` says what is plain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from file_dataset import _sessions
from file_dataset._http.exchange import Endpoint
from file_dataset._s3.route import Route, UnknownError, host_of
from file_dataset._s3.sigv4 import EMPTY_SHA256, Signer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from file_dataset._plain import Plain

# Names that are a label of a host (https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html).
# Suffixes that begin with two hyphens, and -s3alias, are of buckets and access points with endpoints of their own.
_BUCKET = re.compile(r"(?!.*--|.*-s3alias$)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_USER_AGENT = "file_dataset"


class PlainRouter:
    """Routes of one plain S3. Safe between threads."""

    is_changed = False

    def __init__(self, plain: Plain, *, asks_for_digests: bool) -> None:
        """Make what all buckets share.

        Args:
            plain: where it is, and who signs.
            asks_for_digests: of each GET and HEAD.

        Raises:
            InvalidDatasetError: the CA file is not there, or holds no certificate.
        """
        self._plain, self._asks_for_digests = plain, asks_for_digests
        self.keys = plain.keys[0], plain.keys[2]
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html; us-east-1 has the oldest name
        is_first = plain.region == "us-east-1"
        self.endpoint_url = plain.endpoint_url or f"https://s3.{'' if is_first else plain.region + '.'}amazonaws.com"
        is_https = self.endpoint_url.startswith("https:")
        self._tls = _sessions.tls_context(*plain.verify) if is_https else None
        self._signer = Signer(*plain.keys, region=plain.region, service="s3")
        self._routes: dict[str, Route] = {}
        # connections are kept by endpoint: all buckets share one, but for AWS, where each is a host
        self._shared = None if plain.endpoint_url is None else self._endpoint(host_of(urlsplit(plain.endpoint_url)))

    @staticmethod
    def knows(bucket: str) -> bool:
        """Return whether the bucket is plain; others are botocore's."""
        return _BUCKET.fullmatch(bucket) is not None

    def route(self, bucket: str) -> Route:
        """Return how requests for a bucket that it knows are made."""
        if bucket not in self._routes:
            self._routes.setdefault(bucket, self._route(bucket))
        return self._routes[bucket]

    def upload_headers(self, bucket: str, extra_args: Mapping[str, object]) -> Mapping[str, str]:
        """Return the headers that boto3's `ExtraArgs` stand for: those of none.

        Raises:
            UnknownError: there are some.
        """
        if extra_args:
            raise UnknownError(f"extra_args for {bucket}")
        return {}

    def signer(self, route: Route) -> Signer:
        """Return who signs for a route of this router."""
        del route
        return self._signer

    def _route(self, bucket: str) -> Route:
        host, path = host_of(urlsplit(self.endpoint_url)), f"/{bucket}/"
        if self._shared is None:
            host, path = f"{bucket}.{host}", "/"
        headers = {"user-agent": _USER_AGENT, "host": host}
        return Route(
            self._shared or self._endpoint(host),
            path,
            headers,
            {**headers, "x-amz-checksum-mode": "ENABLED"} if self._asks_for_digests else headers,
            (self._plain.region, "s3"),
            signs_payload=self._tls is None,
            no_payload=EMPTY_SHA256,
        )

    def _endpoint(self, host: str) -> Endpoint:
        name, _, port = host.partition(":")
        return Endpoint(name, int(port or (80 if self._tls is None else 443)), self._tls)
