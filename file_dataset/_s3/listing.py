"""Which objects begin with a prefix: listed page after page, 1,000 keys a request, by both engines.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html. A page is parsed on the thread that asks for the
next one: of 1,000 keys it takes a few ms, for which the loop would stand still.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_plus
from xml.parsers import expat

from file_dataset._errors import store_error
from file_dataset._s3 import etags, responses
from file_dataset._s3.errors import error_of
from file_dataset._s3.operation import Operation
from file_dataset._s3.requests import Request
from file_dataset._store import ALL, Listed, Page
from file_dataset._urls import ObjectUrl

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from file_dataset._http.exchange import Answer
    from file_dataset._s3.access import Access
    from file_dataset._s3.by_boto3 import Boto3
    from file_dataset._s3.operation import Operations, Rescue
    from file_dataset._s3.requests import Sender
    from file_dataset._s3.route import Route
    from file_dataset._s3.sigv4 import Signer
    from file_dataset._store import Listing, Span

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHILD = 2  # how deep a child of the root lies


class List(Request["Answer"]):
    """A page of a listing, as XML."""

    __slots__ = ("_span", "_token")

    # 1,000 keys of 1,024 bytes, three times as long when they are escaped, and some 400 bytes of markup for each
    answer_bytes = 8 << 20

    def __init__(  # noqa: PLR0913  # what a request is made of
        self,
        route: Route,
        prefix: ObjectUrl,
        signer: Signer | None,
        cancelled: threading.Event,
        *,
        span: Span,
        token: str | None,
        future: Future[Answer],
    ) -> None:
        """Take what the keys begin with, which of them, and the token of the page before; None: there is none."""
        super().__init__(route, prefix, signer, cancelled, future=future)
        self.path = route.bucket_path
        self._span, self._token = span, token

    @property
    def checksums(self) -> str | None:
        """None: it asks for no checksum."""
        return None

    def request(self) -> bytes:
        """Return the head of a GET of the bucket."""
        fields = {"encoding-type": "url", "list-type": "2", "prefix": self.at.key}
        if self._token is not None:
            fields["continuation-token"] = self._token
        if self._span.is_flat:
            fields["delimiter"] = "/"
        if self._span.after:
            fields["start-after"] = self._span.after
        query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(fields.items()))
        return self.head("GET", self.route.headers, query=query)

    def result(self, answer: Answer) -> Answer:
        """Return the whole of it."""
        return answer


class Pages:
    """Listings of one store."""

    def __init__(self, operations: Operations, boto3: Boto3, sender: Sender) -> None:
        """Take what runs a request."""
        self._operations, self._boto3, self._sender = operations, boto3, sender

    def listing(self, prefix: ObjectUrl, cancelled: threading.Event) -> Listing:
        """Return all objects whose key begins with the prefix's; blocks."""
        found: list[Listed] = []
        seen: set[str] = set()
        token: str | None = None
        while not cancelled.is_set():
            page = self.page(prefix, ALL, token, cancelled)
            found += page.found
            if (token := page.token) is None:
                return found
            if token in seen:
                message = f"the store's list of {prefix} has no end: after {len(found)} keys it begins a page again"
                raise store_error(OSError, message)
            seen.add(token)
        raise InterruptedError("cancelled")

    def page(self, prefix: ObjectUrl, span: Span, token: str | None, cancelled: threading.Event) -> Page:
        """Return the page of a token, None: the first; blocks."""
        if cancelled.is_set():
            raise InterruptedError("cancelled")

        def by_http(access: Access, route: Route, future: Future[Page], rescue: Rescue) -> None:
            del rescue  # `retried` tries again
            answer: Future[Answer] = Future()
            signer = access.router.signer(route)
            self._sender.send(List(route, prefix, signer, cancelled, span=span, token=token, future=answer))
            found = answer.result()
            future.set_result(page_of(prefix.bucket, found.headers, found.body))

        def by_boto3(access: Access) -> Page:
            more = {} if token is None else {"ContinuationToken": token}
            more |= {"Delimiter": "/"} if span.is_flat else {}
            more |= {"StartAfter": span.after} if span.after else {}
            answer = self._boto3.call(access, "list_objects_v2", Bucket=prefix.bucket, Prefix=prefix.key, **more)
            return page_of_fields(prefix.bucket, answer)

        return self._operations.retried(Operation(prefix, cancelled, by_http, by_boto3))


def page_of(bucket: str, headers: Mapping[str, str], body: bytes) -> Page:
    """Return the page that an answer of status 200 holds.

    Raises:
        ConnectionError: it is an error's, or no page.
        OSError: it holds a key that is no text, or says that there is more and not how to ask for it.
    """
    try:
        said = _said(body.strip())
    except expat.ExpatError as exc:
        raise _no_page(str(exc)) from None
    if said.name == "Error":
        raise error_of(HTTPStatus.INTERNAL_SERVER_ERROR, headers, body)  # a status that means "try again"
    if said.name != "ListBucketResult":
        raise _no_page(f"a {said.name[:60]}")
    key_of = _unescaped if said.fields.get("EncodingType") == "url" else str
    found = [
        _listed(
            bucket, key_of(each.get("Key", "")), each.get("Size"), each.get("ETag"), _when(each.get("LastModified"))
        )
        for each in said.below["Contents"]
    ]
    below = [_below(key_of(each.get("Prefix", ""))) for each in said.below["CommonPrefixes"]]
    is_truncated = {"true": True, "false": False}.get(said.fields.get("IsTruncated", ""))
    return _page(found, below, is_truncated, said.fields.get("NextContinuationToken"))


@dataclass(slots=True)
class _Said:
    """The texts in the XML of a page, by the names of their elements, whatever their namespace.

    Attributes:
        name: of the root.
        fields: texts of what is right below it; of two of one name the first.
        below: the same of `Contents` and of `CommonPrefixes`, one after the other.
    """

    name: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    below: dict[str, list[dict[str, str]]] = field(default_factory=lambda: {"Contents": [], "CommonPrefixes": []})


def _said(body: bytes) -> _Said:
    """Return what a page says. Functions that share variables, for an attribute costs more: 12 calls a key.

    No tree is made: that of 1,000 keys has 6,000 elements, for which the garbage collector took as long as the parser.

    Raises:
        ExpatError: it is no XML.
    """
    said = _Said()
    texts: list[str] = []
    names: dict[str, str] = {}  # without the namespace
    now, depth = said.fields, 0

    def start(tag: str, _attributes: object) -> None:
        nonlocal now, depth
        depth += 1
        texts.clear()
        if depth > _CHILD:
            return
        name = names[tag] = tag.rpartition("}")[2]
        if depth == 1:
            said.name = name
        elif (of_name := said.below.get(name)) is not None:
            now = {}
            of_name.append(now)

    def end(tag: str) -> None:
        nonlocal now, depth
        if depth == (_CHILD if now is said.fields else _CHILD + 1):
            name = names.get(tag) or names.setdefault(tag, tag.rpartition("}")[2])
            now.setdefault(name, "".join(texts))
        elif depth == _CHILD:
            now = said.fields
        texts.clear()
        depth -= 1

    # as botocore: of an encoding that expat does not know a declaration would raise a LookupError or a ValueError
    parser = expat.ParserCreate("utf-8", "}")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, texts.append
    parser.Parse(body, True)  # noqa: FBT003  # it is the end
    return said


def page_of_fields(bucket: str, answer: Mapping[str, Any]) -> Page:
    """Return the page of an answer that boto3 has read, which unescapes keys.

    Raises:
        OSError: as `page_of`.
    """
    found = [
        _listed(bucket, each.get("Key"), each.get("Size"), each.get("ETag"), each.get("LastModified"))
        for each in answer.get("Contents", ())
    ]
    below = [_below(each.get("Prefix")) for each in answer.get("CommonPrefixes", ())]
    is_sent = "HTTPHeaders" in answer.get("ResponseMetadata", {})  # what a Stubber answers may lack this
    is_truncated = answer.get("IsTruncated", None if is_sent else False)
    return _page(found, below, is_truncated, answer.get("NextContinuationToken"))


def _page(
    found: Listing,
    below: list[str],
    is_truncated: bool | None,  # noqa: FBT001  # a field of S3's
    token: str | None,
) -> Page:
    if is_truncated is None:
        raise _no_page("no IsTruncated")
    if is_truncated and not token:
        message = "the store says that there are more keys, and not how to ask for them: it may not know ListObjectsV2"
        raise store_error(OSError, message)
    return Page(found, below, token if is_truncated else None)


def _below(prefix: object) -> str:
    if not (prefix and isinstance(prefix, str)):
        raise _no_page("a common prefix without text")
    return prefix


def _listed(bucket: str, key: object, size: object, etag: str | None, modified: datetime | None) -> Listed:
    if not (key and isinstance(key, str)) or size is None:  # boto3 makes a list of two
        raise _no_page("an object without Key or Size")
    # integers, where datetime's own `timestamp` is a float that loses what is below a microsecond
    at_ns = None if modified is None else (modified - _EPOCH) // timedelta(microseconds=1) * 1000
    return Listed(ObjectUrl(bucket, key), responses.bytes_of(str(size), "Size"), etags.plain_etag(etag), at_ns)


def _unescaped(key: str) -> str:
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_plus(key, errors="strict")  # S3 writes a space as a plus sign
    except UnicodeDecodeError:
        raise store_error(OSError, f"the store lists a key that is not UTF-8: {key[:200]}") from None


def _when(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _no_page(reason: str) -> OSError:
    return store_error(ConnectionError, f"the store answered ListObjectsV2 with 200 and no list of keys: {reason}")
