"""Uploads in parts, of files too large for one PUT: created, sent side by side, completed; aborted when one fails."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from file_dataset._errors import code_of
from file_dataset._retry import attempt
from file_dataset._s3 import etags, extra_args, responses
from file_dataset._s3.only_new import CONDITION, CONFLICT_CODE, OnlyNew
from file_dataset._s3.operation import Operation, not_by_http
from file_dataset._s3.requests import Body, Put
from file_dataset._s3.route import UnknownError
from file_dataset._sink import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from file_dataset._local_file import LocalFile
    from file_dataset._pool import Pool
    from file_dataset._s3.access import Access
    from file_dataset._s3.by_boto3 import Boto3
    from file_dataset._s3.operation import Operations, Rescue
    from file_dataset._s3.requests import Sender
    from file_dataset._s3.route import Route
    from file_dataset._urls import ObjectUrl

logger = logging.getLogger(__name__)
T = TypeVar("T")

# S3 parts are 5 MiB to 5 GiB, at most 10,000 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
_MAX_PARTS = 10_000
# One connection brings some 85 MB/s, and ranges of 8 to 16 MiB are recommended
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html).
_PART_BYTES = 8 << 20
_MULTIPART_BYTES = 4 * _PART_BYTES  # a guess: below it, three requests more bring little


def needs_parts(size_bytes: int) -> bool:
    """Return whether a file of this size is uploaded in parts."""
    return size_bytes > _MULTIPART_BYTES


def part_bytes(size_bytes: int) -> int:
    """Return the size of the parts of an upload: whole MiB, large enough that S3's 10,000 parts hold the file."""
    least = -(-size_bytes // _MAX_PARTS)
    return max(_PART_BYTES, -(-least // (1 << 20)) << 20)


@dataclass(frozen=True, slots=True, eq=False)
class _Upload:
    """An upload that S3 has begun."""

    source: LocalFile
    target: ObjectUrl
    extra: Mapping[str, Any]
    cancelled: threading.Event
    names: Mapping[str, str]  # Bucket, Key and UploadId, under which boto3 knows it

    @property
    def size(self) -> int:
        return self.source.size_bytes


@dataclass(slots=True, eq=False)
class _Parts:
    """The parts of one upload: those that wait, how many are on their way, and what became of them."""

    work: Callable[[int], dict[str, Any]]
    todo: deque[int]
    running: int = 0
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: BaseException | None = None


class Multipart:
    """Uploads in parts of one store, on its pool; a thread that is free takes a part of the one with fewest."""

    def __init__(self, operations: Operations, boto3: Boto3, sender: Sender, pool: Pool, width: int) -> None:
        """Take what runs a request; `width`: the most parts of a file at a time."""
        self._operations, self._boto3, self._sender, self._pool, self._width = operations, boto3, sender, pool, width
        self._changed = threading.Condition()
        self._open: list[_Parts] = []

    def upload(
        self, source: LocalFile, target: ObjectUrl, extra: Mapping[str, Any], cancelled: threading.Event
    ) -> ObjectInfo:
        """Store a file, whole or not at all; blocks."""
        extra = extra_args.for_parts(extra)
        return attempt(
            lambda: self._upload(source, target, extra, cancelled),
            attempts=self._operations.attempts,
            cancelled=cancelled,
            is_worth=_is_conflict,
        )

    def _upload(
        self, source: LocalFile, target: ObjectUrl, extra: Mapping[str, Any], cancelled: threading.Event
    ) -> ObjectInfo:
        at = {"Bucket": target.bucket, "Key": target.key}

        def create(access: Access) -> str:
            kwargs = extra_args.with_checksum(access.client, extra)
            known = {name: value for name, value in kwargs.items() if name not in CONDITION}  # of the completion
            answer = self._boto3.call(access, "create_multipart_upload", **at, **known)
            if not (upload_id := answer.get("UploadId")):
                raise responses.no_success("CreateMultipartUpload", "UploadId")
            return str(upload_id)

        upload_id = self._by_boto3(target, cancelled, create)
        upload = _Upload(source, target, extra, cancelled, at | {"UploadId": upload_id})
        count = -(-source.size_bytes // part_bytes(source.size_bytes))
        try:
            parts = self._side_by_side(lambda number: self._put_part(upload, number), range(1, count + 1))
            source.check()  # what it replaces is there still
            return self._completed(upload, parts)
        except BaseException:
            self._abort(upload)
            raise

    def _by_boto3(self, target: ObjectUrl, cancelled: threading.Event, request: Callable[[Access], T]) -> T:
        return self._operations.retried(Operation(target, cancelled, not_by_http, request))

    def _put_part(self, upload: _Upload, number: int) -> dict[str, Any]:
        step = part_bytes(upload.size)
        first = (number - 1) * step
        length = min(step, upload.size - first)
        source, target, extra, cancelled = upload.source, upload.target, upload.extra, upload.cancelled

        def by_http(access: Access, route: Route, future: Future[dict[str, Any]], rescue: Rescue) -> None:
            known = extra_args.known_to(access.client, "UploadPart", extra)
            if known or access.router.is_changed:
                raise UnknownError(f"parts with {sorted(known)}, or handlers")
            query = f"partNumber={number}&uploadId={quote(upload.names['UploadId'], safe='-_.~')}"
            algorithm = access.algorithm(extra)
            body = Body(source, first, length, {}, query=query, algorithm=algorithm)
            signer = access.router.signer(route)
            self._sender.put(
                Put(route, target, signer, cancelled, body, _part_of_headers, future=future, rescue=rescue)
            )

        def by_boto3(access: Access) -> dict[str, Any]:
            kwargs = extra_args.with_checksum(access.client, extra)
            known = extra_args.known_to(access.client, "UploadPart", kwargs)
            part = {**upload.names, "PartNumber": number, **known}
            answer = self._boto3.send(access, "upload_part", source, first, length, cancelled, **part)
            return _part(answer.get("ETag"), {name: answer[name] for name in answer if name.startswith("Checksum")})

        return {"PartNumber": number} | self._operations.retried(Operation(target, cancelled, by_http, by_boto3))

    def _completed(self, upload: _Upload, parts: Sequence[dict[str, Any]]) -> ObjectInfo:
        def complete(access: Access) -> ObjectInfo:
            return self._complete(access, upload, parts)

        def find(access: Access) -> ObjectInfo | None:
            answer = self._joined(access, upload, parts)
            return None if answer is None else _info(upload, answer)

        is_new = upload.extra.items() >= CONDITION.items()
        settle = OnlyNew(find, is_one_request=False).settle if is_new else None
        return self._operations.retried(Operation(upload.target, upload.cancelled, not_by_http, complete, settle))

    def _complete(self, access: Access, upload: _Upload, parts: Sequence[dict[str, Any]]) -> ObjectInfo:
        known = extra_args.known_to(access.client, "CompleteMultipartUpload", upload.extra)
        try:
            answer = self._boto3.call(
                access, "complete_multipart_upload", **upload.names, **known, MultipartUpload={"Parts": parts}
            )
        except FileNotFoundError as exc:
            # the reply to an earlier attempt may have been lost: the upload is gone because it was completed
            if code_of(exc) != "NoSuchUpload" or (answer := self._joined(access, upload, parts)) is None:
                raise
        else:
            # some versions of Ceph answer a completion without the ETag; so does what is no S3
            if not answer.get("ETag") and (answer := self._joined(access, upload, parts)) is None:
                raise responses.no_success("CompleteMultipartUpload", "ETag")
        return _info(upload, answer)

    def _joined(self, access: Access, upload: _Upload, parts: Sequence[dict[str, Any]]) -> Mapping[str, Any] | None:
        """Return what a HEAD has of the object that these parts are; None: another one is there, or none."""
        target = upload.target
        try:
            answer: Mapping[str, Any] = self._boto3.call(access, "head_object", Bucket=target.bucket, Key=target.key)
        except FileNotFoundError:
            return None
        is_same = (etags.plain_etag(answer.get("ETag")) or "").lower() == etags.etag_of_parts(parts)
        return answer if is_same and answer["ContentLength"] == upload.size else None

    def _abort(self, upload: _Upload) -> None:
        def abort(access: Access) -> object:
            known = extra_args.known_to(access.client, "AbortMultipartUpload", upload.extra)
            return self._boto3.call(access, "abort_multipart_upload", **upload.names, **known)

        try:
            self._by_boto3(upload.target, threading.Event(), abort)
        except OSError as exc:
            upload_id = upload.names["UploadId"]
            logger.warning(
                "upload %s of %s was not aborted and keeps its parts: %s", upload_id, upload.target, exc.strerror
            )

    def _side_by_side(self, work: Callable[[int], dict[str, Any]], numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return `work` of every number. This pool thread works too, so a full pool is slow and never stuck."""
        parts = _Parts(work, deque(numbers))
        with self._changed:
            self._open.append(parts)
        try:
            for _ in range(min(self._width, len(numbers)) - 1):
                self._pool.submit(self._help)
            while self._do_one(parts):
                pass
            with self._changed:
                self._changed.wait_for(lambda: not parts.running)
        finally:
            with self._changed:
                self._open.remove(parts)
        if parts.error is not None:
            raise parts.error
        return [parts.results[number] for number in numbers]

    def _help(self) -> None:
        """Send a part of the upload that has fewest on their way; then queue up again: other uploads may begin."""
        with self._changed:
            parts = min((each for each in self._open if each.todo), key=_running, default=None)
        if parts is not None:
            self._do_one(parts)
            self._pool.submit(self._help)

    def _do_one(self, parts: _Parts) -> bool:
        """Do the next part; return whether there was one."""
        with self._changed:
            if not parts.todo:
                return False
            number = parts.todo.popleft()
            parts.running += 1
        error: BaseException | None = None
        try:
            parts.results[number] = parts.work(number)
        except BaseException as exc:  # noqa: BLE001  # the thread that uploads raises it
            error = exc
        with self._changed:
            parts.running -= 1
            if error is not None:
                parts.error = parts.error or error
                parts.todo.clear()
            self._changed.notify_all()
        return True


def _info(upload: _Upload, answer: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(upload.size, etags.plain_etag(answer.get("ETag")), etags.crc_of_fields(answer))


def _is_conflict(error: OSError) -> bool:
    return code_of(error) == CONFLICT_CODE


def _running(parts: _Parts) -> int:
    return parts.running


def _part_of_headers(headers: Mapping[str, str], body: Body) -> dict[str, Any]:
    del body
    return _part(headers.get("etag"), etags.checksum_fields(headers))


def _part(etag: str | None, checksums: Mapping[str, str]) -> dict[str, Any]:
    if not etag:
        raise responses.no_success("UploadPart", "ETag")
    return {"ETag": etag, **checksums}
