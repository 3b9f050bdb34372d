"""AWS Signature Version 4 for S3: the one header that proves who asks, made in microseconds.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. The tests compare every signature with
botocore's own signer, which takes ten times as long: here the signing key of the day is kept, and nothing is parsed.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"


def quoted_path(key: str) -> str:
    """Return a key as S3 wants it in a path: UTF-8, every octet escaped but unreserved ones and `/`."""
    return quote(key, safe="/~")


class Signer:
    """Signs requests with one set of credentials, for one region. Safe between threads."""

    def __init__(self, access_key: str, secret_key: str, token: str | None, *, region: str, service: str) -> None:
        """Take frozen credentials."""
        self._access_key, self._secret_key, self._token = access_key, secret_key, token
        self._region, self._service = region, service
        self._now: tuple[int, str, str, bytes] = (-1, "", "", b"")
        self._cached: _Signable | None = None

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Signer({self._service}, {self._region})"

    def head(  # noqa: PLR0913  # the parts of a request
        self, method: str, path: str, query: str, headers: Mapping[str, str], payload: str, *, now: float | None = None
    ) -> str:
        """Return the head of the request: its first line, the headers with date, payload hash, token and signature.

        Args:
            method: `GET`, say.
            path: the path as it is sent, escaped.
            query: the query as it is sent, escaped, its names in order; empty: none.
            headers: names in lower case, `host` among them; all of them are signed. Not changed while this is used:
                their part of the signature is kept for as long as the second lasts.
            payload: the hex SHA-256 of the body, or `UNSIGNED_PAYLOAD`.
            now: seconds since the epoch; None: now.
        """
        second = int(time.time() if now is None else now)
        cached = self._cached
        if cached is None or cached.second != second or cached.headers is not headers or cached.payload is not payload:
            cached = self._cached = self._signable(second, headers, payload)
        canonical = f"{method}\n{path}\n{query}\n{cached.canonical}"
        to_sign = f"{cached.to_sign}{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(cached.key, to_sign.encode(), "sha256").hex()
        target = f"{path}?{query}" if query else path
        return f"{method} {target} HTTP/1.1\r\n{cached.lines}{signature}\r\n\r\n"

    def _signable(self, second: int, headers: Mapping[str, str], payload: str) -> _Signable:
        stamp, scope, key = self._of(second)
        every = {**headers, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        if self._token:
            every["x-amz-security-token"] = self._token
        names = sorted(every)
        # runs of white space count as one, and none around a value
        canonical = "".join([f"{name}:{' '.join(every[name].split())}\n" for name in names])
        signed_names = ";".join(names)
        lines = "".join([f"{name}: {value}\r\n" for name, value in every.items()])
        return _Signable(
            second,
            headers,
            payload,
            f"{canonical}\n{signed_names}\n{payload}",
            f"{_ALGORITHM}\n{stamp}\n{scope}\n",
            f"{lines}authorization: {_ALGORITHM} Credential={self._access_key}/{scope}, "
            f"SignedHeaders={signed_names}, Signature=",
            key,
        )

    def _of(self, second: int) -> tuple[str, str, bytes]:
        """Return what all requests of one second have in common: the time, and the day's scope and key."""
        known, stamp, scope, key = self._now
        if known != second:
            day, stamp = stamp[:8], time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            if day != stamp[:8]:
                scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
                key = f"AWS4{self._secret_key}".encode()
                for part in scope.split("/"):
                    key = hmac.digest(key, part.encode(), "sha256")
            self._now = second, stamp, scope, key
        return stamp, scope, key


@dataclass(frozen=True, slots=True, repr=False)
class _Signable:
    """What requests of one second with the same headers have in common."""

    second: int
    headers: Mapping[str, str]
    payload: str
    canonical: str
    to_sign: str
    lines: str
    key: bytes
