"""A small S3 in memory, without faults and without a socket: requests, the store that answers them, and its objects.

Path-style addressing only; keys are opaque. It reads access key and region from a signature and never checks it. What
it does not do (versions, copies, tags) is answered 501 NotImplemented.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
import uuid
import zlib
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, quote_plus, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from awscrt import checksums as awscrt_checksums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from io import BufferedIOBase

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
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
_PAGE_KEYS = 1000

# by method, "is it about an object?" and the names in the query
OPERATIONS: dict[tuple[str, bool, frozenset[str]], str] = {
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
_QUERY_OF_ANY_OPERATION = re.compile(
    r"x-id|x-amz-.*|prefix|encoding-type|continuation-token|fetch-owner|delimiter|start-after", re.IGNORECASE
)


def _as_in_url(key: str) -> str:
    """As S3 escapes a key in a listing: a space is a plus sign."""
    return quote_plus(key, safe="/")


def _rolled_up(keys: Iterable[bytes], prefix: bytes, delimiter: bytes, after: bytes) -> set[bytes]:
    """Return keys after one, those that go on behind a delimiter cut off behind it."""
    found = set()
    for key in keys:
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        rolled = key if end < 0 else key[: end + len(delimiter)]
        # as S3 has it: what was on an earlier page does not come again by the rest of its keys
        if key > after and (end < 0 or not after.startswith(rolled)):
            found.add(rolled)
    return found


def _token_of(key: bytes) -> str:
    return f"{base64.b64encode(key).decode()}+/="  # its end must be escaped in a URL


def _key_of(token: str | None) -> bytes:
    """The last key of the page before; nothing for the first page."""
    if token is None:
        return b""
    if not token.endswith("+/="):
        raise S3Error(400, "InvalidArgument", "The continuation token provided is incorrect")
    return base64.b64decode(token.removesuffix("+/="))


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@dataclass(frozen=True, slots=True)
class StoredObject:
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
    parts: dict[int, StoredObject] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
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
        operation = OPERATIONS.get((method, bool(key), names), "Unsupported") if bucket else "Unsupported"
        signed = re.search(r"Credential=([^/]+)/[^/]+/([^/]+)/", headers.get("authorization", ""))
        presigned = re.match(r"([^/]+)/[^/]+/([^/]+)/", query.get("X-Amz-Credential", ""))
        access_key, region = match.groups() if (match := signed or presigned) else ("", "")
        return cls(operation, unquote(bucket), unquote(key), query, headers, access_key, region)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""


class S3Error(Exception):
    """Ends an operation with an error of S3's; `elements` join Code and Message in the XML."""

    def __init__(
        self, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None, **elements: str
    ) -> None:
        super().__init__(code)
        self.status = status
        self.headers = headers or {}
        self.elements = {"Code": code, "Message": message or code, **elements}

    def reply(self, request: Request) -> Reply:
        if self.status == 304:
            return Reply(304, self.headers)
        elements = {**self.elements, "Resource": f"/{request.bucket}/{request.key}"}
        return _xml(self.status, "Error", elements, headers=self.headers)


def _xml(
    status: int, root: str, elements: Mapping[str, str], inner: str = "", headers: Mapping[str, str] | None = None
) -> Reply:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in elements.items()) + inner
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{inner}</{root}>'
    return Reply(status, {"content-type": "application/xml", **(headers or {})}, text.encode())


class Store:
    """Buckets, objects and open uploads in memory; a method for each operation, by boto3's name for it."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.lock = threading.RLock()
        self.buckets: dict[str, dict[str, StoredObject]] = {}
        self.uploads: dict[str, _Upload] = {}

    def answer(self, request: Request) -> Reply:
        operate = getattr(self, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", request.operation).lower())
        try:
            reply: Reply = operate(request)
        except S3Error as error:
            return error.reply(request)
        return reply

    def replace(self, bucket: str, key: str, body: bytes | None) -> None:
        """Store a new version with the headers and checksum algorithms of the old one; None deletes it."""
        with self.lock:
            objects = self.buckets.setdefault(bucket, {})
            old = objects.pop(key, StoredObject.single(b"", {}))
            if body is not None:
                objects[key] = StoredObject.single(body, old.headers, list(old.checksums))

    def unsupported(self, _: Request) -> Reply:
        raise S3Error(501, "NotImplemented", "this server does not do it")

    def create_bucket(self, request: Request) -> Reply:
        with self.lock:
            self.buckets.setdefault(request.bucket, {})
        return Reply(200, {"location": f"/{request.bucket}"})

    def head_bucket(self, request: Request) -> Reply:
        self._objects(request)
        return Reply(200, {"x-amz-bucket-region": self.region})

    def list_objects_v2(self, request: Request) -> Reply:
        prefix = request.query.get("prefix", "")
        written = _as_in_url if request.query.get("encoding-type") == "url" else str
        delimiter = request.query.get("delimiter", "").encode()
        after = _key_of(request.query.get("continuation-token")) or request.query.get("start-after", "").encode()
        with self.lock:
            objects = {key.encode(): at for key, at in self._objects(request).items() if key.startswith(prefix)}
        # a key, or what keys have in common up to the next delimiter: each counts as one
        keys = sorted(_rolled_up(objects, prefix.encode(), delimiter, after))
        contents = ""
        for key in keys[:_PAGE_KEYS]:
            if delimiter and key.endswith(delimiter) and key != prefix.encode():
                contents += f"<CommonPrefixes><Prefix>{escape(written(key.decode()))}</Prefix></CommonPrefixes>"
                continue
            at = objects[key]
            modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at.modified_s))
            contents += (
                f"<Contents><Key>{escape(written(key.decode()))}</Key><LastModified>{modified}</LastModified>"
                f"<ETag>&quot;{at.etag}&quot;</ETag><Size>{len(at.body)}</Size>"
                f"<StorageClass>{at.headers.get('x-amz-storage-class', 'STANDARD')}</StorageClass></Contents>"
            )
        is_truncated = len(keys) > _PAGE_KEYS
        elements = {"Name": request.bucket, "Prefix": written(prefix), "IsTruncated": str(is_truncated).lower()}
        elements["KeyCount"] = str(min(len(keys), _PAGE_KEYS))
        if is_truncated:
            elements["NextContinuationToken"] = _token_of(keys[_PAGE_KEYS - 1])
        if "encoding-type" in request.query:
            elements["EncodingType"] = request.query["encoding-type"]
        return _xml(200, "ListBucketResult", elements, contents)

    def put_object(self, request: Request) -> Reply:
        if "x-amz-copy-source" in request.headers:
            return self.unsupported(request)
        made = StoredObject.single(request.body, _kept_headers(request), _verified_algorithms(request))
        self._keep(request, made)
        return Reply(200, {"etag": f'"{made.etag}"', **made.encryption_headers(), **made.checksum_headers()})

    def get_object(self, request: Request) -> Reply:
        with self.lock:
            found = self._objects(request).get(request.key)
        if found is None:
            raise S3Error(404, "NoSuchKey", Key=request.key)
        storage_class = found.headers.get("x-amz-storage-class", "")
        if request.operation == "GetObject" and storage_class in {"GLACIER", "DEEP_ARCHIVE"}:
            raise S3Error(403, "InvalidObjectState", StorageClass=storage_class)
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
            return Reply(206, headers, memoryview(found.body)[start:stop])
        if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            headers |= found.checksum_headers()
        return Reply(200, headers, found.body)

    head_object = get_object  # the handler leaves the body out

    def delete_object(self, request: Request) -> Reply:
        with self.lock:
            self._objects(request).pop(request.key, None)
        return Reply(204)

    def create_multipart_upload(self, request: Request) -> Reply:
        self._objects(request)
        algorithm = request.headers.get("x-amz-checksum-algorithm")
        if algorithm is not None and algorithm not in _DIGESTS:
            raise S3Error(400, "InvalidRequest", f"unknown checksum algorithm {algorithm}")
        checksum_type = request.headers.get("x-amz-checksum-type")
        upload_id = uuid.uuid4().hex
        upload = _Upload(request.bucket, request.key, _kept_headers(request), algorithm, checksum_type)
        with self.lock:
            self.uploads[upload_id] = upload
        elements = {"Bucket": request.bucket, "Key": request.key, "UploadId": upload_id}
        headers = {"x-amz-checksum-algorithm": algorithm} if algorithm else {}
        return _xml(200, "InitiateMultipartUploadResult", elements, headers=headers)

    def upload_part(self, request: Request) -> Reply:
        upload = self._upload(request)
        algorithms = _verified_algorithms(request)
        if upload.algorithm is not None and algorithms not in ([], [upload.algorithm]):
            raise S3Error(400, "InvalidRequest", f"the upload's checksums are {upload.algorithm}, not {algorithms}")
        part = StoredObject.single(request.body, upload.headers, algorithms)
        with self.lock:
            self._upload(request).parts[int(request.query["partNumber"])] = part
        checksums = {name: value for name, value in part.checksum_headers().items() if name != "x-amz-checksum-type"}
        return Reply(200, {"etag": f'"{part.etag}"', **part.encryption_headers(), **checksums})

    def complete_multipart_upload(self, request: Request) -> Reply:
        # a second call is answered NoSuchUpload: the harder of the two answers a client may get
        with self.lock:
            upload = self._upload(request)
            bodies = _listed_parts(request.body, upload.parts)
            made = StoredObject.multipart(bodies, upload.headers, upload.algorithm, upload.checksum_type)
            for name, value in made.checksums.items():
                if request.headers.get(f"x-amz-checksum-{name.lower()}", value) != value:
                    raise S3Error(400, "BadDigest", f"the {name} of the object differs")
            self._keep(request, made)
            del self.uploads[request.query["uploadId"]]
        elements = {"Bucket": request.bucket, "Key": request.key, "ETag": f'"{made.etag}"'}
        for name, value in made.checksums.items():
            elements |= {f"Checksum{name}": value, "ChecksumType": made.checksum_type}
        headers = {**made.encryption_headers(), **made.checksum_headers()}
        return _xml(200, "CompleteMultipartUploadResult", elements, headers=headers)

    def abort_multipart_upload(self, request: Request) -> Reply:
        with self.lock:
            self._upload(request)
            del self.uploads[request.query["uploadId"]]
        return Reply(204)

    def _keep(self, request: Request, made: StoredObject) -> None:
        with self.lock:
            objects = self._objects(request)
            _check_conditions(request, objects.get(request.key))
            objects[request.key] = made

    def _objects(self, request: Request) -> dict[str, StoredObject]:
        if request.bucket not in self.buckets:
            raise S3Error(404, "NoSuchBucket", BucketName=request.bucket)
        return self.buckets[request.bucket]

    def _upload(self, request: Request) -> _Upload:
        upload = self.uploads.get(request.query["uploadId"])
        if upload is None or (upload.bucket, upload.key) != (request.bucket, request.key):
            raise S3Error(404, "NoSuchUpload", UploadId=request.query["uploadId"])
        return upload


def _kept_headers(request: Request) -> dict[str, str]:
    """Pick what the object keeps of the headers that it is stored with."""
    kept = {name: value for name, value in request.headers.items() if _KEPT_HEADERS.fullmatch(name)}
    encoding = request.headers.get("content-encoding", "").replace("aws-chunked", "").strip(", ")
    return {**kept, "content-encoding": encoding} if encoding else kept


def _verified_algorithms(request: Request) -> list[str]:
    """Algorithms of the checksums that came with the body; 400 when one of them, or another digest, differs."""
    sent = {name: value for name in _DIGESTS if (value := request.headers.get(f"x-amz-checksum-{name.lower()}"))}
    for name, value in sent.items():
        if _base64(_DIGESTS[name](request.body)) != value:
            raise S3Error(400, "BadDigest", f"the {name} you specified did not match the calculated checksum")
    content_md5 = request.headers.get("content-md5")
    if content_md5 is not None and content_md5 != _base64(_md5(request.body)):
        raise S3Error(400, "BadDigest", "the Content-MD5 you specified did not match what we received")
    sha256 = request.headers.get("x-amz-content-sha256", "")
    if re.fullmatch("[0-9a-f]{64}", sha256) and hashlib.sha256(request.body).hexdigest() != sha256:
        raise S3Error(400, "XAmzContentSHA256Mismatch")
    return list(sent)


def _check_conditions(request: Request, found: StoredObject | None) -> None:
    """If-Match and If-None-Match; `found` is what is stored under the key."""
    etag = f'"{found.etag}"' if found is not None else None
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is not None and (etag is None or match not in {"*", etag, etag.strip('"')}):
        raise S3Error(412, "PreconditionFailed", Condition="If-Match")
    if none_match is not None and etag is not None and none_match in {"*", etag, etag.strip('"')}:
        if request.operation in {"GetObject", "HeadObject"}:
            raise S3Error(304, "NotModified", headers={"etag": etag})
        raise S3Error(412, "PreconditionFailed", Condition="If-None-Match")


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
        raise S3Error(416, "InvalidRange", headers={"content-range": f"bytes */{size}"}, ActualObjectSize=str(size))
    return start, stop


def _listed_parts(xml: bytes, parts: Mapping[int, StoredObject]) -> list[bytes]:
    """Bodies of the parts that a CompleteMultipartUpload names, each checked as S3 does."""
    try:
        listed = ET.fromstring(xml).findall("{*}Part")  # noqa: S314  (it is from the test's own client)
    except ET.ParseError as exc:
        raise S3Error(400, "MalformedXML") from exc
    numbers = [int(part.findtext("{*}PartNumber", "0")) for part in listed]
    if not numbers:
        raise S3Error(400, "MalformedXML", "no part is listed")
    if numbers != sorted(set(numbers)):
        raise S3Error(400, "InvalidPartOrder")
    for number, element in zip(numbers, listed, strict=True):
        part = parts.get(number)
        if part is None or element.findtext("{*}ETag", "").strip('"') != part.etag:
            raise S3Error(400, "InvalidPart", PartNumber=str(number))
        if any(element.findtext(f"{{*}}Checksum{name}", value) != value for name, value in part.checksums.items()):
            raise S3Error(400, "InvalidPart", PartNumber=str(number))
        if number != numbers[-1] and len(part.body) < _MIN_PART_BYTES:
            raise S3Error(400, "EntityTooSmall", PartNumber=str(number))
    return [parts[number].body for number in numbers]


def read_chunks(stream: BufferedIOBase) -> tuple[bytes, dict[str, str]]:
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
