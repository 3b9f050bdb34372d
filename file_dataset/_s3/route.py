"""How our own requests for one bucket are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from file_dataset._s3.sigv4 import quoted_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

    from file_dataset._http.exchange import Endpoint


@dataclass(frozen=True, slots=True)
class Route:
    """How requests for one bucket are made."""

    endpoint: Endpoint
    path: str  # before the key, escaped
    headers: Mapping[str, str]  # of each request, `host` among them, names in lower case
    read_headers: Mapping[str, str]  # the same and what a GET and a HEAD ask for
    scope: tuple[str, str] | None  # region and service to sign for; None: unsigned
    signs_payload: bool
    no_payload: str  # what a request without a body declares of it

    def path_of(self, key: str) -> str:
        """Return the path of an object, escaped."""
        return self.path + quoted_path(key)

    @property
    def bucket_path(self) -> str:
        """Return the path of the bucket itself, as botocore sends it."""
        return self.path.removesuffix("/") or "/"


class UnknownError(Exception):
    """Our own HTTP does not know how to do this; boto3 does."""


def host_of(url: SplitResult) -> str:
    """Return the header `host`: a scheme's own port is neither sent nor signed, as botocore has it."""
    usual = {"http": ":80", "https": ":443"}[url.scheme]
    return url.netloc.rpartition("@")[2].removesuffix(usual).lower()
