"""A real HTTP S3 server on loopback, in memory, that breaks on request. It knows nothing of the code under test.

    with FaultServer() as server:
        server.put("s3://bucket/a.bin", b"bytes", checksum="CRC64NVME")
        server.fail("GetObject", SLOW_DOWN, key="a.bin", times=2)
        ...  # a client at server.endpoint_url
        assert server.count("GetObject", "a.bin") == 3

Path-style addressing only; keys are opaque. It reads access key and region from a signature and never checks it. What
it does not do (versions, copies, tags, listings in pages or with a delimiter) is answered 501 NotImplemented.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import os
import re
import socket
import socketserver
import struct
import sys
import threading
import time
import uuid
import weakref
import zlib
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from awscrt import checksums as awscrt_checksums

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence
    from io import BufferedIOBase
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Status:
    """An error answer with S3's XML (a HEAD has no body), `after_s` seconds later; the request takes no effect."""

    status: int
    code: str
    message: str = "asked for by the test"
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The request is read and never answered; the connection stays open until the client leaves."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP reset before any answer, or once `after_bytes` of the body are sent: the client sees at most these."""

    after_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """The headers promise the whole body, which ends after `after_bytes`; the connection is closed cleanly."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """The body stops after `after_bytes`; the connection stays open until the client leaves."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Slow:
    """The whole body, at `bytes_per_second`."""

    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class FlipBit:
    """The lowest bit of the body's byte at `position` is flipped on the wire; the headers are the good object's."""

    position: int = 0


@dataclass(frozen=True, slots=True)
class Short:
    """The body lacks its last `by` bytes and Content-Length agrees (HEAD's too); nothing else in the headers does."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class Replace:
    """The object becomes `body` (None: it is deleted) before the request is answered."""

    body: bytes | None


@dataclass(frozen=True, slots=True)
class ReplaceAfter:
    """The object becomes `body` (None: it is deleted) after the request; its answer is still about the old object."""

    body: bytes | None


@dataclass(frozen=True, slots=True)
class Redirect:
    """301 PermanentRedirect to `region`; a request signed for that region is served."""

    region: str


@dataclass(frozen=True, slots=True)
class ErrorIn200:
    """Status 200 with an `<Error>` body, as CompleteMultipartUpload may answer; the request takes no effect."""

    code: str = "InternalError"


@dataclass(frozen=True, slots=True)
class Bare200:
    """Status 200 with neither ETag nor body; the request takes no effect."""


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """`work` is called while the request is under way: before its body is read, or once all of it is stored."""

    work: Callable[[], object]
    is_early: bool = False


@dataclass(frozen=True, slots=True)
class LostReply:
    """The request takes effect, then the connection is reset before any answer."""


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """A `Range` is overlooked: 200 with the whole body, as a server that knows no ranges answers."""


@dataclass(frozen=True, slots=True)
class Busy:
    """503 SlowDown while more than `at_most` requests are in flight; the others are served after `seconds`."""

    at_most: int
    seconds: float = 0.0


BodyFault: TypeAlias = Truncate | Stall | Slow | FlipBit | Short
Fault: TypeAlias = (
    Status
    | NoAnswer
    | Reset
    | BodyFault
    | Replace
    | ReplaceAfter
    | Redirect
    | ErrorIn200
    | Bare200
    | Meanwhile
    | LostReply
    | IgnoreRange
    | Busy
)

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
INTERNAL_ERROR = Status(500, "InternalError")
SERVICE_UNAVAILABLE = Status(503, "ServiceUnavailable")
SLOW_DOWN = Status(503, "SlowDown")
TOO_MANY_REQUESTS = Status(429, "TooManyRequests")
ACCESS_DENIED = Status(403, "AccessDenied")
INVALID_ACCESS_KEY_ID = Status(403, "InvalidAccessKeyId")
SIGNATURE_DOES_NOT_MATCH = Status(403, "SignatureDoesNotMatch")
EXPIRED_TOKEN = Status(400, "ExpiredToken")
REQUEST_TIME_TOO_SKEWED = Status(403, "RequestTimeTooSkewed")
INVALID_OBJECT_STATE = Status(403, "InvalidObjectState")
NO_SUCH_KEY = Status(404, "NoSuchKey")

Checksum: TypeAlias = Literal["CRC64NVME", "CRC32C", "CRC32"]

_DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "CRC64NVME": lambda body: awscrt_checksums.crc64nvme(body).to_bytes(8, "big"),
    "CRC32C": lambda body: awscrt_checksums.crc32c(body).to_bytes(4, "big"),
    "CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "SHA256": lambda body: hashlib.sha256(body).digest(),
    "SHA1": lambda body: hashlib.sha1(body, usedforsecurity=False).digest(),
}
_KEPT_HEADERS = re.compile(
    r"content-(type|disposition|language)|cache-control|expires|x-amz-meta-.*|x-amz-storage-class"
    r"|x-amz-server-side-encryption(-aws-kms-key-id|-bucket-key-enabled|-customer-algorithm|-customer-key-md5)?"
)
# all parts but the last are at least 5 MiB (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)
_MIN_PART_BYTES = 5 << 20
_PIECE_BYTES = 256 << 10  # one write to the socket; a guess

# by method, "is it about an object?" and the names in the query
_OPERATIONS: dict[tuple[str, bool, frozenset[str]], str] = {
    ("PUT", False, frozenset()): "CreateBucket",
    ("HEAD", False, frozenset()): "HeadBucket",
    ("GET", False, frozenset({"list-type"})): "ListObjectsV2",
    ("PUT", True, frozenset()): "PutObject",
    ("GET", True, frozenset()): "GetObject",
    ("HEAD", True, frozenset()): "HeadObject",
    ("DELETE", True, frozenset()): "DeleteObject",
    ("POST", True, frozenset({"uploads"})): "CreateMultipartUpload",
    ("PUT", True, frozenset({"partNumber", "uploadId"})): "UploadPart",
    ("POST", True, frozenset({"uploadId"})): "CompleteMultipartUpload",
    ("DELETE", True, frozenset({"uploadId"})): "AbortMultipartUpload",
}
_QUERY_OF_ANY_OPERATION = re.compile(r"x-id|x-amz-.*|prefix|encoding-type|fetch-owner", re.IGNORECASE)


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@dataclass(frozen=True, slots=True)
class _Object:
    """One version of an object: `etag` without quotes, `checksums` by algorithm, base64 as S3 sends them."""

    body: bytes
    etag: str
    headers: Mapping[str, str]
    checksums: Mapping[str, str]
    checksum_type: str
    modified_s: float = field(default_factory=time.time)

    @classmethod
    def single(cls, body: bytes, headers: Mapping[str, str], algorithms: Sequence[str] = ()) -> Self:
        """Make the object of one PUT."""
        checksums = {name: _base64(_DIGESTS[name](body)) for name in algorithms}
        return cls(body, _opaque_etag(headers) or _md5(body).hex(), headers, checksums, "FULL_OBJECT")

    @classmethod
    def multipart(
        cls, parts: Sequence[bytes], headers: Mapping[str, str], algorithm: str | None, checksum_type: str | None = None
    ) -> Self:
        """Make the object of a multipart upload; without `checksum_type` S3's default for the algorithm."""
        body = b"".join(parts)
        etag = _opaque_etag(headers) or _md5(b"".join(map(_md5, parts))).hex()
        checksum_type = checksum_type or ("FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE")
        checksums = {}
        if algorithm is not None and checksum_type == "FULL_OBJECT":
            checksums[algorithm] = _base64(_DIGESTS[algorithm](body))
        elif algorithm is not None:
            digest = _DIGESTS[algorithm]
            checksums[algorithm] = f"{_base64(digest(b''.join(map(digest, parts))))}-{len(parts)}"
        return cls(body, f"{etag}-{len(parts)}", headers, checksums, checksum_type)

    def checksum_headers(self) -> dict[str, str]:
        headers = {f"x-amz-checksum-{name.lower()}": value for name, value in self.checksums.items()}
        return {**headers, "x-amz-checksum-type": self.checksum_type} if headers else {}

    def encryption_headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.startswith("x-amz-server-side-encryption")}


def _opaque_etag(headers: Mapping[str, str]) -> str | None:
    """32 hex digits that are no MD5, for what S3 encrypts with a key of KMS or of the customer; None for the rest."""
    of_kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    of_customer = any("-customer-" in name for name in headers)
    return uuid.uuid4().hex if of_kms or of_customer else None


@dataclass(frozen=True, slots=True)
class _Upload:
    bucket: str
    key: str
    headers: Mapping[str, str]
    algorithm: str | None
    checksum_type: str | None
    parts: dict[int, _Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request; names of headers are in lower case, trailers are among them."""

    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    access_key: str
    region: str
    body: bytes = b""

    @classmethod
    def parse(cls, method: str, target: str, headers: Mapping[str, str]) -> Self:
        path, _, raw_query = target.partition("?")
        bucket, _, key = path[1:].partition("/")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        names = frozenset(name for name in query if not _QUERY_OF_ANY_OPERATION.fullmatch(name))
        operation = _OPERATIONS.get((method, bool(key), names), "Unsupported") if bucket else "Unsupported"
        signed = re.search(r"Credential=([^/]+)/[^/]+/([^/]+)/", headers.get("authorization", ""))
        presigned = re.match(r"([^/]+)/[^/]+/([^/]+)/", query.get("X-Amz-Credential", ""))
        access_key, region = match.groups() if (match := signed or presigned) else ("", "")
        return cls(operation, unquote(bucket), unquote(key), query, headers, access_key, region)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""


class _S3Error(Exception):
    """Ends an operation with an error of S3's; `elements` join Code and Message in the XML."""

    def __init__(
        self, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None, **elements: str
    ) -> None:
        super().__init__(code)
        self.status = status
        self.headers = headers or {}
        self.elements = {"Code": code, "Message": message or code, **elements}

    def reply(self, request: _Request) -> _Reply:
        if self.status == 304:
            return _Reply(304, self.headers)
        elements = {**self.elements, "Resource": f"/{request.bucket}/{request.key}"}
        return _xml(self.status, "Error", elements, headers=self.headers)


def _xml(
    status: int, root: str, elements: Mapping[str, str], inner: str = "", headers: Mapping[str, str] | None = None
) -> _Reply:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in elements.items()) + inner
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{inner}</{root}>'
    return _Reply(status, {"content-type": "application/xml", **(headers or {})}, text.encode())


class _Store:
    """Buckets, objects and open uploads in memory; a method for each operation, by boto3's name for it."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.lock = threading.RLock()
        self.buckets: dict[str, dict[str, _Object]] = {}
        self.uploads: dict[str, _Upload] = {}

    def answer(self, request: _Request) -> _Reply:
        operate = getattr(self, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", request.operation).lower())
        try:
            reply: _Reply = operate(request)
        except _S3Error as error:
            return error.reply(request)
        return reply

    def replace(self, bucket: str, key: str, body: bytes | None) -> None:
        """Store a new version with the headers and checksum algorithms of the old one; None deletes it."""
        with self.lock:
            objects = self.buckets.setdefault(bucket, {})
            old = objects.pop(key, _Object.single(b"", {}))
            if body is not None:
                objects[key] = _Object.single(body, old.headers, list(old.checksums))

    def unsupported(self, _: _Request) -> _Reply:
        raise _S3Error(501, "NotImplemented", "the fault server does not do this")

    def create_bucket(self, request: _Request) -> _Reply:
        with self.lock:
            self.buckets.setdefault(request.bucket, {})
        return _Reply(200, {"location": f"/{request.bucket}"})

    def head_bucket(self, request: _Request) -> _Reply:
        self._objects(request)
        return _Reply(200, {"x-amz-bucket-region": self.region})

    def list_objects_v2(self, request: _Request) -> _Reply:
        prefix = request.query.get("prefix", "")
        written = quote if request.query.get("encoding-type") == "url" else str
        with self.lock:
            objects = {key: at for key, at in self._objects(request).items() if key.startswith(prefix)}
        contents = ""
        for key, at in sorted(objects.items(), key=lambda item: item[0].encode()):
            modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at.modified_s))
            contents += (
                f"<Contents><Key>{escape(written(key))}</Key><LastModified>{modified}</LastModified>"
                f"<ETag>&quot;{at.etag}&quot;</ETag><Size>{len(at.body)}</Size>"
                f"<StorageClass>{at.headers.get('x-amz-storage-class', 'STANDARD')}</StorageClass></Contents>"
            )
        elements = {"Name": request.bucket, "Prefix": written(prefix), "IsTruncated": "false"}
        elements["KeyCount"] = str(len(objects))
        if "encoding-type" in request.query:
            elements["EncodingType"] = request.query["encoding-type"]
        return _xml(200, "ListBucketResult", elements, contents)

    def put_object(self, request: _Request) -> _Reply:
        if "x-amz-copy-source" in request.headers:
            return self.unsupported(request)
        made = _Object.single(request.body, _kept_headers(request), _verified_algorithms(request))
        self._keep(request, made)
        return _Reply(200, {"etag": f'"{made.etag}"', **made.encryption_headers(), **made.checksum_headers()})

    def get_object(self, request: _Request) -> _Reply:
        with self.lock:
            found = self._objects(request).get(request.key)
        if found is None:
            raise _S3Error(404, "NoSuchKey", Key=request.key)
        storage_class = found.headers.get("x-amz-storage-class", "")
        if request.operation == "GetObject" and storage_class in {"GLACIER", "DEEP_ARCHIVE"}:
            raise _S3Error(403, "InvalidObjectState", StorageClass=storage_class)
        _check_conditions(request, found)
        headers = {
            "content-type": "binary/octet-stream",
            **found.headers,
            "etag": f'"{found.etag}"',
            "last-modified": formatdate(found.modified_s, usegmt=True),
            "accept-ranges": "bytes",
        }
        size = len(found.body)
        if (span := _span(request.headers.get("range", ""), size)) is not None:
            start, stop = span
            headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
            return _Reply(206, headers, memoryview(found.body)[start:stop])
        if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            headers |= found.checksum_headers()
        return _Reply(200, headers, found.body)

    head_object = get_object  # the handler leaves the body out

    def delete_object(self, request: _Request) -> _Reply:
        with self.lock:
            self._objects(request).pop(request.key, None)
        return _Reply(204)

    def create_multipart_upload(self, request: _Request) -> _Reply:
        self._objects(request)
        algorithm = request.headers.get("x-amz-checksum-algorithm")
        if algorithm is not None and algorithm not in _DIGESTS:
            raise _S3Error(400, "InvalidRequest", f"unknown checksum algorithm {algorithm}")
        checksum_type = request.headers.get("x-amz-checksum-type")
        upload_id = uuid.uuid4().hex
        upload = _Upload(request.bucket, request.key, _kept_headers(request), algorithm, checksum_type)
        with self.lock:
            self.uploads[upload_id] = upload
        elements = {"Bucket": request.bucket, "Key": request.key, "UploadId": upload_id}
        headers = {"x-amz-checksum-algorithm": algorithm} if algorithm else {}
        return _xml(200, "InitiateMultipartUploadResult", elements, headers=headers)

    def upload_part(self, request: _Request) -> _Reply:
        upload = self._upload(request)
        algorithms = _verified_algorithms(request)
        if upload.algorithm is not None and algorithms not in ([], [upload.algorithm]):
            raise _S3Error(400, "InvalidRequest", f"the upload's checksums are {upload.algorithm}, not {algorithms}")
        part = _Object.single(request.body, upload.headers, algorithms)
        with self.lock:
            self._upload(request).parts[int(request.query["partNumber"])] = part
        checksums = {name: value for name, value in part.checksum_headers().items() if name != "x-amz-checksum-type"}
        return _Reply(200, {"etag": f'"{part.etag}"', **part.encryption_headers(), **checksums})

    def complete_multipart_upload(self, request: _Request) -> _Reply:
        # a second call is answered NoSuchUpload: the harder of the two answers a client may get
        with self.lock:
            upload = self._upload(request)
            bodies = _listed_parts(request.body, upload.parts)
            made = _Object.multipart(bodies, upload.headers, upload.algorithm, upload.checksum_type)
            for name, value in made.checksums.items():
                if request.headers.get(f"x-amz-checksum-{name.lower()}", value) != value:
                    raise _S3Error(400, "BadDigest", f"the {name} of the object differs")
            self._keep(request, made)
            del self.uploads[request.query["uploadId"]]
        elements = {"Bucket": request.bucket, "Key": request.key, "ETag": f'"{made.etag}"'}
        for name, value in made.checksums.items():
            elements |= {f"Checksum{name}": value, "ChecksumType": made.checksum_type}
        headers = {**made.encryption_headers(), **made.checksum_headers()}
        return _xml(200, "CompleteMultipartUploadResult", elements, headers=headers)

    def abort_multipart_upload(self, request: _Request) -> _Reply:
        with self.lock:
            self._upload(request)
            del self.uploads[request.query["uploadId"]]
        return _Reply(204)

    def _keep(self, request: _Request, made: _Object) -> None:
        with self.lock:
            objects = self._objects(request)
            _check_conditions(request, objects.get(request.key))
            objects[request.key] = made

    def _objects(self, request: _Request) -> dict[str, _Object]:
        if request.bucket not in self.buckets:
            raise _S3Error(404, "NoSuchBucket", BucketName=request.bucket)
        return self.buckets[request.bucket]

    def _upload(self, request: _Request) -> _Upload:
        upload = self.uploads.get(request.query["uploadId"])
        if upload is None or (upload.bucket, upload.key) != (request.bucket, request.key):
            raise _S3Error(404, "NoSuchUpload", UploadId=request.query["uploadId"])
        return upload


def _kept_headers(request: _Request) -> dict[str, str]:
    """Pick what the object keeps of the headers that it is stored with."""
    kept = {name: value for name, value in request.headers.items() if _KEPT_HEADERS.fullmatch(name)}
    encoding = request.headers.get("content-encoding", "").replace("aws-chunked", "").strip(", ")
    return {**kept, "content-encoding": encoding} if encoding else kept


def _verified_algorithms(request: _Request) -> list[str]:
    """Algorithms of the checksums that came with the body; 400 when one of them, or another digest, differs."""
    sent = {name: value for name in _DIGESTS if (value := request.headers.get(f"x-amz-checksum-{name.lower()}"))}
    for name, value in sent.items():
        if _base64(_DIGESTS[name](request.body)) != value:
            raise _S3Error(400, "BadDigest", f"the {name} you specified did not match the calculated checksum")
    content_md5 = request.headers.get("content-md5")
    if content_md5 is not None and content_md5 != _base64(_md5(request.body)):
        raise _S3Error(400, "BadDigest", "the Content-MD5 you specified did not match what we received")
    sha256 = request.headers.get("x-amz-content-sha256", "")
    if re.fullmatch("[0-9a-f]{64}", sha256) and hashlib.sha256(request.body).hexdigest() != sha256:
        raise _S3Error(400, "XAmzContentSHA256Mismatch")
    return list(sent)


def _check_conditions(request: _Request, found: _Object | None) -> None:
    """If-Match and If-None-Match; `found` is what is stored under the key."""
    etag = f'"{found.etag}"' if found is not None else None
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is not None and (etag is None or match not in {"*", etag, etag.strip('"')}):
        raise _S3Error(412, "PreconditionFailed", Condition="If-Match")
    if none_match is not None and etag is not None and none_match in {"*", etag, etag.strip('"')}:
        if request.operation in {"GetObject", "HeadObject"}:
            raise _S3Error(304, "NotModified", headers={"etag": etag})
        raise _S3Error(412, "PreconditionFailed", Condition="If-None-Match")


def _span(range_header: str, size: int) -> tuple[int, int] | None:
    """Start and stop of a single range; None for none, and for what S3 ignores (several ranges, other units)."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", range_header)
    first, last = match.groups() if match else ("", "")
    if first:
        if last and int(last) < int(first):
            return None
        start, stop = int(first), min(int(last) + 1, size) if last else size
    elif last:
        start, stop = max(size - int(last), 0), size
    else:
        return None
    if start >= stop:
        raise _S3Error(416, "InvalidRange", headers={"content-range": f"bytes */{size}"}, ActualObjectSize=str(size))
    return start, stop


def _listed_parts(xml: bytes, parts: Mapping[int, _Object]) -> list[bytes]:
    """Bodies of the parts that a CompleteMultipartUpload names, each checked as S3 does."""
    try:
        listed = ET.fromstring(xml).findall("{*}Part")  # noqa: S314  (it is from the test's own client)
    except ET.ParseError as exc:
        raise _S3Error(400, "MalformedXML") from exc
    numbers = [int(part.findtext("{*}PartNumber", "0")) for part in listed]
    if not numbers:
        raise _S3Error(400, "MalformedXML", "no part is listed")
    if numbers != sorted(set(numbers)):
        raise _S3Error(400, "InvalidPartOrder")
    for number, element in zip(numbers, listed, strict=True):
        part = parts.get(number)
        if part is None or element.findtext("{*}ETag", "").strip('"') != part.etag:
            raise _S3Error(400, "InvalidPart", PartNumber=str(number))
        if any(element.findtext(f"{{*}}Checksum{name}", value) != value for name, value in part.checksums.items()):
            raise _S3Error(400, "InvalidPart", PartNumber=str(number))
        if number != numbers[-1] and len(part.body) < _MIN_PART_BYTES:
            raise _S3Error(400, "EntityTooSmall", PartNumber=str(number))
    return [parts[number].body for number in numbers]


def _read_chunks(stream: BufferedIOBase) -> tuple[bytes, dict[str, str]]:
    """Body and trailers of chunks, which HTTP's `Transfer-Encoding: chunked` and S3's `aws-chunked` frame alike.

    Raises:
        EOFError: the stream ends too early.
        ValueError: it is framed otherwise.
    """

    def line() -> bytes:
        read = stream.readline(1 << 16)
        if not read.endswith(b"\n"):
            raise EOFError
        return read.strip()

    chunks, trailers = [], {}
    while size := int(line().partition(b";")[0], 16):
        chunks.append(stream.read(size))
        if line():
            raise ValueError("a chunk is longer than its size")
    while trailer := line():
        name, _, value = trailer.decode().partition(":")
        trailers[name.strip().lower()] = value.strip()
    return b"".join(chunks), trailers


def _up_to(body: memoryview, count: int) -> memoryview:
    """Cut to the first `count` bytes, fewer than all: a fault that changes nothing is a mistake of the test."""
    if not 0 <= count < len(body):
        raise IndexError(f"a fault at byte {count} of a body of {len(body)} bytes")
    return body[:count]


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, asks the store, and does to the answer what the fault says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = _Request.parse(self.command, self.path, headers)
        fault = self.server.owner.arrived(request)
        self.is_in_flight = True
        try:
            self.answer(request, fault)
        except EOFError:  # the client left in the middle of its body: nothing takes effect
            self.close_connection = True
        finally:
            self.leave()

    def leave(self) -> None:
        """Count the request as answered: before its last byte is sent, for the client may ask again at once."""
        if self.is_in_flight:
            self.is_in_flight = False
            self.server.owner.left()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815  (the names that http.server looks for)

    def answer(self, request: _Request, fault: Fault | None) -> None:  # noqa: C901, PLR0912  # one case a fault
        if isinstance(fault, Meanwhile) and fault.is_early:
            fault.work()
        request, misread = self.read_body(request)
        store = self.server.owner.store
        match fault:
            case NoAnswer():
                return self.wait_until_the_client_leaves()
            case Reset(after_bytes=None):
                return self.reset()
            case Status(status, code, message, after_s):
                self.server.closing.wait(after_s)
                reply = _S3Error(status, code, message).reply(request)
            case ErrorIn200(code):
                reply = _S3Error(200, code).reply(request)
            case Bare200():
                reply = _Reply(200)
            case Redirect(region):
                headers = {"x-amz-bucket-region": region}
                endpoint = self.headers.get("host", "")
                error = _S3Error(301, "PermanentRedirect", "it is elsewhere", headers, Endpoint=endpoint)
                reply = error.reply(request)
            case IgnoreRange():
                headers = {name: value for name, value in request.headers.items() if name != "range"}
                reply = store.answer(dataclasses.replace(request, headers=headers))
            case Busy(at_most, seconds):
                is_busy = self.server.owner.in_flight > at_most
                self.server.closing.wait(seconds)
                slow_down = _S3Error(SLOW_DOWN.status, SLOW_DOWN.code)
                reply = slow_down.reply(request) if is_busy else store.answer(request)
            case _:
                if isinstance(fault, Replace):
                    store.replace(request.bucket, request.key, fault.body)
                reply = misread.reply(request) if misread else store.answer(request)
                if isinstance(fault, ReplaceAfter):
                    store.replace(request.bucket, request.key, fault.body)
                if isinstance(fault, Meanwhile) and not fault.is_early:
                    fault.work()
        return self.reset() if isinstance(fault, LostReply) else self.send(reply, fault)

    def read_body(self, request: _Request) -> tuple[_Request, _S3Error | None]:
        """Read the body; the error is what S3 answers to a body that is framed otherwise than it wants.

        Raises:
            EOFError: the client left before the end of the body.
        """
        trailers: dict[str, str] = {}
        misread = None
        is_streaming = request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
        if "chunked" in request.headers.get("transfer-encoding", ""):
            body, _ = _read_chunks(self.rfile)
            if not is_streaming:
                misread = _S3Error(501, "NotImplemented", "S3 does not implement Transfer-Encoding")
        else:
            length = int(request.headers.get("content-length", "0"))
            body = self.rfile.read(length)
            if len(body) < length:
                raise EOFError
            if self.command == "PUT" and "content-length" not in request.headers:
                misread = _S3Error(411, "MissingContentLength")
        if is_streaming:
            try:
                body, trailers = _read_chunks(io.BytesIO(body))
            except (EOFError, ValueError):
                misread = _S3Error(400, "IncompleteBody", "not framed as aws-chunked")
            if request.headers.get("x-amz-decoded-content-length") != str(len(body)):
                misread = _S3Error(400, "IncompleteBody", "x-amz-decoded-content-length differs")
        return dataclasses.replace(request, body=body, headers={**request.headers, **trailers}), misread

    def send(self, reply: _Reply, fault: Fault | None) -> None:  # noqa: C901  # one case a fault
        body = memoryview(reply.body)
        if isinstance(fault, Short):
            body = _up_to(body, len(body) - fault.by)
        self.send_response_only(reply.status)
        request_id = uuid.uuid4().hex[:16].upper()
        headers = {"date": formatdate(usegmt=True), "x-amz-request-id": request_id, **reply.headers}
        if reply.status not in {204, 304}:
            headers["content-length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command == "HEAD":
            body = body[:0]
        if not body:
            self.leave()
        self.end_headers()
        match fault:
            case FlipBit(position):
                flipped = bytearray(body)
                flipped[position] ^= 1
                self.write(memoryview(flipped))
            case Slow(bytes_per_second):
                self.write(body, bytes_per_second)
            case Reset(after_bytes=int(count)):
                self.write(_up_to(body, count), is_all=False)
                self.reset()
            case Truncate(count):
                self.write(_up_to(body, count), is_all=False)
                self.close_connection = True
            case Stall(count):
                self.write(_up_to(body, count), is_all=False)
                self.wait_until_the_client_leaves()
            case _:
                self.write(body)

    def write(self, body: memoryview, bytes_per_second: int | None = None, *, is_all: bool = True) -> None:
        piece_bytes = max(bytes_per_second // 20, 1) if bytes_per_second else _PIECE_BYTES
        for start in range(0, len(body), piece_bytes):
            piece = body[start : start + piece_bytes]
            if bytes_per_second:
                self.server.closing.wait(len(piece) / bytes_per_second)
            self.server.owner.sending(len(piece))
            if is_all and start + len(piece) == len(body):
                self.leave()
            self.wfile.write(piece)

    def wait_until_the_client_leaves(self) -> None:
        self.connection.recv(1)  # _Listener.stop() shuts the connection down, which ends this too
        self.close_connection = True

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # the socket closes with its last file
        self.connection.close()
        self.close_connection = True


class _Listener(ThreadingHTTPServer):
    """The listening socket, its connections and a thread for each."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, owner: FaultServer) -> None:
        self.owner = owner
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self.errors: list[Exception] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        # stop() waits for this thread as long as its poll interval
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="fault-server", daemon=True)
        self.thread.start()

    def server_bind(self) -> None:
        # HTTPServer's own also asks the resolver for a name, which may take seconds
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self.owner.accepted += 1
        if self.owner.tls is not None:
            # shakes hands when its own thread first reads
            connection = self.owner.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):  # an OSError: the client left
            self.errors.append(error)

    def stop(self) -> None:
        """Stop listening and end every connection, also those that wait for ever."""
        self.closing.set()
        self.shutdown()
        self.thread.join()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline_s = time.monotonic() + 1
        while self.connections and time.monotonic() < deadline_s:
            time.sleep(0.002)


@dataclass(slots=True)
class _Rule:
    """A fault for requests of one operation ("*": any) and key (None: any), from `first` to `last` (None: no end)."""

    operation: str
    key: str | None
    fault: Fault
    first: int
    last: int | None
    seen: int = 0

    def applies_to(self, request: _Request) -> bool:
        """Count the request if it is one of the rule's; whether the fault is its answer."""
        if self.operation not in {request.operation, "*"} or self.key not in {request.key, None}:
            return False
        self.seen += 1
        if isinstance(self.fault, Redirect) and request.region == self.fault.region:
            return False
        return self.first <= self.seen and (self.last is None or self.seen <= self.last)


class FaultServer:
    """The server, listening from its making until `close()`, and what a test says to it.

    Clients may live in any process; a process forked from the server's own can be a client, but not use this object.

    Attributes:
        endpoint_url: where a client finds it.
        requests: how many requests of each (operation, key), broken ones too; the key is "" for operations on a bucket.
        access_keys: how many requests each access key id signed; "" for none.
        fired: the faults that were an answer, in order.
        bytes_sent: bytes of bodies sent.
        in_flight: the number of requests at this time, each from its headers to the last byte of its answer.
        max_in_flight: the highest number of these at one time.
        accepted: how many connections were made.
        headers: the headers of each request, in order, names in lower case; each with its operation as `""`.
    """

    def __init__(self, region: str = "us-east-1", *, tls: ssl.SSLContext | None = None) -> None:
        self.store = _Store(region)
        self.tls = tls
        self._lock = threading.Lock()
        self.in_flight = 0
        self._is_closed = False
        self.reset()
        self._listener = _Listener(self)
        self.endpoint_url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.server_address[1]}"
        _running.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, within about a second whatever the connections wait for.

        Raises:
            ExceptionGroup: a handler crashed: a bug here, or a fault beyond the end of the body that it was to break.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._listener.stop()
        if self._listener.errors:
            message = "handlers of the fault server crashed"
            raise ExceptionGroup(message, self._listener.errors)

    def reset(self) -> None:
        """Forget the faults and start every counter again; objects and open uploads stay."""
        with self._lock:
            self._rules: list[_Rule] = []
            self._requests_until_expiry: dict[str, int] = {}
            self._expired = EXPIRED_TOKEN
            self.requests: Counter[tuple[str, str]] = Counter()
            self.access_keys: Counter[str] = Counter()
            self.fired: list[Fault] = []
            self.bytes_sent = 0
            self.max_in_flight = self.in_flight
            self.accepted = 0
            self.headers: list[Mapping[str, str]] = []

    def clear(self) -> None:
        """Forget everything: objects, buckets and open uploads too."""
        with self.store.lock:
            self.store.buckets.clear()
            self.store.uploads.clear()
        self.reset()

    def fail(
        self, operation: str, fault: Fault, *, key: str | None = None, nth: int = 1, times: int | None = 1
    ) -> None:
        """Break the n-th to (n + times - 1)-th matching request from now on; `times=None` breaks all from the n-th.

        `operation` is S3's name, such as "GetObject", or "*" for any; `key=None` is any key. Of several faults for one
        request the first declared is its answer, and each has counted it.
        """
        if operation not in {*_OPERATIONS.values(), "*"}:
            raise ValueError(f"no operation {operation!r}; there are {sorted(_OPERATIONS.values())} and '*'")
        with self._lock:
            self._rules.append(_Rule(operation, key, fault, nth, None if times is None else nth + times - 1))

    def expire(self, access_key_id: str, *, nth: int = 1, after_s: float = 0.0) -> None:
        """Answer ExpiredToken to the n-th request signed with this id from now on, and to all after it.

        Each such answer takes `after_s` seconds, so that a client can have many requests in flight that meet it.
        """
        with self._lock:
            self._expired = dataclasses.replace(EXPIRED_TOKEN, after_s=after_s)
            self._requests_until_expiry[access_key_id] = nth

    def count(self, operation: str, key: str | None = None) -> int:
        """How many requests there were of this operation, for one key or for all."""
        with self._lock:
            return sum(n for (name, of), n in self.requests.items() if name == operation and key in {of, None})

    def put(
        self,
        url: str,
        body: bytes,
        *,
        etag: Literal["md5", "multipart", "kms"] = "md5",
        checksum: Checksum | None = None,
        storage_class: str = "STANDARD",
    ) -> None:
        """Store an object without a request, and its bucket if there is none; nothing in `s3://bucket/key` is decoded.

        The ETag is that of a PUT, of an upload of two parts, or of a PUT encrypted by KMS (32 hex digits, not the MD5).
        For an upload of parts CRC64NVME is that of the whole body, the others are composite, as in S3. GetObject of the
        classes GLACIER and DEEP_ARCHIVE is answered InvalidObjectState.
        """
        bucket, key = _bucket_and_key(url)
        headers = {"x-amz-server-side-encryption": "aws:kms"} if etag == "kms" else {}
        if storage_class != "STANDARD":
            headers["x-amz-storage-class"] = storage_class
        half = (len(body) + 1) // 2
        if etag == "multipart":
            made = _Object.multipart([body[:half], body[half:]], headers, checksum)
        else:
            made = _Object.single(bytes(body), headers, [checksum] if checksum else [])
        with self.store.lock:
            self.store.buckets.setdefault(bucket, {})[key] = made

    def body(self, url: str) -> bytes:
        """Get what is stored; KeyError when nothing is."""
        bucket, key = _bucket_and_key(url)
        with self.store.lock:
            return self.store.buckets[bucket][key].body

    def keys(self, bucket: str) -> list[str]:
        """Keys in the bucket, sorted; none when there is no such bucket."""
        with self.store.lock:
            return sorted(self.store.buckets.get(bucket, {}))

    @property
    def open_uploads(self) -> set[str]:
        """Ids of the multipart uploads neither completed nor aborted."""
        with self.store.lock:
            return set(self.store.uploads)

    def arrived(self, request: _Request) -> Fault | None:
        """For the handler: count a request, and get the fault that is its answer."""
        with self._lock:
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            self.requests[request.operation, request.key] += 1
            self.access_keys[request.access_key] += 1
            self.headers.append({**request.headers, "": request.operation})
            faults = [rule.fault for rule in self._rules if rule.applies_to(request)]
            if request.access_key in self._requests_until_expiry:
                self._requests_until_expiry[request.access_key] -= 1
                if self._requests_until_expiry[request.access_key] <= 0:
                    faults = [self._expired]
            self.fired += faults[:1]
            return faults[0] if faults else None

    def left(self) -> None:
        """For the handler: the request is answered, or given up."""
        with self._lock:
            self.in_flight -= 1

    def sending(self, size_bytes: int) -> None:
        """For the handler: count bytes of a body."""
        with self._lock:
            self.bytes_sent += size_bytes

    def let_go(self) -> None:
        """For a forked child: close what it inherited; while it holds a connection, the parent's reset is not sent."""
        self._is_closed = True
        for inherited in [self._listener.socket, *self._listener.connections]:
            with contextlib.suppress(OSError):
                os.close(inherited.detach())


def _bucket_and_key(url: str) -> tuple[str, str]:
    match = re.fullmatch(r"s3://([^/]+)/(.+)", url, re.DOTALL)
    if match is None:
        raise ValueError(f"not s3://bucket/key: {url!r}")
    return match[1], match[2]


_running: weakref.WeakSet[FaultServer] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for server in list(_running):
        server.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)
