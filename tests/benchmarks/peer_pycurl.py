"""The floor: libcurl's multi interface in one thread, and nothing of what a library owes its users.

No signature, digest, retry, `If-Match` or look at what arrives; requests in flight and ranges are fixed numbers that
suit these stores. Nobody should ship it; it shows what HTTP itself costs from Python.
"""

from __future__ import annotations

import collections
import contextlib
import io
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contender import Contender, Place, keys, table
from endpoint import BUCKET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa
    from endpoint import Workload

_IN_FLIGHT = 256
_RANGE_BYTES = 16 << 20


class Pycurl(Contender):
    """A loop over CurlMulti."""

    name = "pycurl multi (floor)"
    does = "CurlMulti, 256 in flight (C), ranges and parts of 16 MiB; unsigned, unchecked, tried once: the floor"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        import pycurl

        self._curl = pycurl
        self._multi = pycurl.CurlMulti()
        self._in_flight = place.in_flight or _IN_FLIGHT
        self._multi.setopt(pycurl.M_MAXCONNECTS, self._in_flight)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._epoll = select.epoll()
        self._watched: set[int] = set()
        self._timer_s = 0.0
        self._handles: list[Any] = []

    def _watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        if what == self._curl.POLL_REMOVE:
            self._watched.discard(fd)
            with contextlib.suppress(OSError):  # closed already
                self._epoll.unregister(fd)
            return
        events = (select.EPOLLIN if what & self._curl.POLL_IN else 0) | (
            select.EPOLLOUT if what & self._curl.POLL_OUT else 0
        )
        (self._epoll.modify if fd in self._watched else self._epoll.register)(fd, events)
        self._watched.add(fd)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_s = milliseconds / 1e3 if milliseconds >= 0 else 1.0

    def _handle(self) -> Any:
        if self._handles:
            return self._handles.pop()
        handle, pycurl = self._curl.Curl(), self._curl
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.HTTPHEADER, ["Expect:"])
        handle.setopt(pycurl.FAILONERROR, 1)
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.BUFFERSIZE, 256 << 10)
        handle.setopt(pycurl.UPLOAD_BUFFERSIZE, 256 << 10)
        if self.place.listener.ca:
            handle.setopt(pycurl.CAINFO, self.place.listener.ca)
        return handle

    def _run(self, requests: Iterable[tuple[str, Callable[[Any], Callable[[Any], object]]]]) -> None:
        """Make requests: (what stands behind the bucket, what sets a handle up and returns what to do at its end)."""
        waiting = collections.deque(requests)
        ends: dict[Any, Callable[[Any], object]] = {}
        while waiting or ends:
            while waiting and len(ends) < self._in_flight:
                at, set_up = waiting.popleft()
                handle = self._handle()
                handle.setopt(self._curl.URL, f"{self.place.listener.url}/{BUCKET}/{at}")
                ends[handle] = set_up(handle)
                self._multi.add_handle(handle)
            happened = self._epoll.poll(self._timer_s)
            if not happened:
                self._timer_s = 1.0
                self._multi.socket_action(self._curl.SOCKET_TIMEOUT, 0)
            for fd, events in happened:
                can_read = self._curl.CSELECT_IN if events & ~select.EPOLLOUT else 0
                can_write = self._curl.CSELECT_OUT if events & select.EPOLLOUT else 0
                self._multi.socket_action(fd, can_read | can_write)
            _, done, failed = self._multi.info_read(self._in_flight)
            if failed:
                raise RuntimeError(f"{len(failed)} requests failed, {failed[0][2]} first")
            for handle in done:
                self._multi.remove_handle(handle)
                ends.pop(handle)(handle)
                self._handles.append(handle)

    def _get(self, handle: Any, write: Callable[[bytes], object], part: tuple[int, int] | None = None) -> None:
        handle.setopt(self._curl.HTTPGET, 1)
        handle.setopt(self._curl.WRITEFUNCTION, write)
        if part is None:
            handle.unsetopt(self._curl.RANGE)
        else:
            handle.setopt(self._curl.RANGE, f"{part[0]}-{part[1] - 1}")

    def download(self, workload: Workload, into: Path) -> object:
        def whole(key: str) -> Any:
            def set_up(handle: Any) -> Any:
                file = (into / Path(key).name).open("wb", buffering=0)
                self._get(handle, file.write)
                return lambda _: file.close()

            return key, set_up

        def ranges(key: str) -> Any:
            file = os.open(into / Path(key).name, os.O_WRONLY | os.O_CREAT)
            parts = list(_parts(workload.size_bytes))
            left = [len(parts)]
            for part in parts:

                def set_up(handle: Any, part: tuple[int, int] = part) -> Any:
                    at = [part[0]]

                    def write(data: bytes) -> None:
                        at[0] += os.pwrite(file, data, at[0])

                    def end(_: Any) -> None:
                        left[0] -= 1
                        if not left[0]:
                            os.close(file)

                    self._get(handle, write, part)
                    return end

                yield key, set_up

        if workload.size_bytes <= _RANGE_BYTES:
            self._run(map(whole, keys(workload)))
        else:
            self._run(request for key in keys(workload) for request in ranges(key))
        return None

    def _put(self, at: str, path: Path, part: tuple[int, int]) -> Any:
        def set_up(handle: Any) -> Any:
            file = path.open("rb", buffering=0)
            file.seek(part[0])
            handle.setopt(self._curl.UPLOAD, 1)
            handle.setopt(self._curl.READFUNCTION, file.read)
            handle.setopt(self._curl.INFILESIZE_LARGE, part[1] - part[0])
            handle.setopt(self._curl.WRITEFUNCTION, len)
            return lambda _: file.close()

        return at, set_up

    def _post(self, at: str) -> Any:
        def set_up(handle: Any) -> Any:
            handle.setopt(self._curl.UPLOAD, 0)
            handle.setopt(self._curl.POST, 1)
            handle.setopt(self._curl.POSTFIELDS, "")
            handle.setopt(self._curl.WRITEFUNCTION, len)
            return lambda _: None

        return at, set_up

    def upload(self, workload: Workload, source: Path, prefix: str) -> None:
        whole = (0, workload.size_bytes)
        if workload.size_bytes <= _RANGE_BYTES:
            self._run(self._put(f"{prefix}/{name}", source / name, whole) for name in workload.files)
            return
        self._run(self._post(f"{prefix}/{name}?uploads") for name in workload.files)
        self._run(
            self._put(f"{prefix}/{name}?partNumber={number}&uploadId=1", source / name, part)
            for name in workload.files
            for number, part in enumerate(_parts(workload.size_bytes), 1)
        )
        self._run(self._post(f"{prefix}/{name}?uploadId=1") for name in workload.files)

    def blobs(self, workload: Workload) -> pa.Table:
        found: dict[str, bytes] = {}

        def request(key: str) -> Any:
            def set_up(handle: Any) -> Any:
                body = io.BytesIO()
                self._get(handle, body.write)
                return lambda _: found.update({key: body.getvalue()})

            return key, set_up

        self._run(map(request, keys(workload)))
        return table(workload, [found[key] for key in keys(workload)])

    def sizes(self, workload: Workload) -> pa.Table:
        found: dict[str, int] = {}

        def request(key: str) -> Any:
            def set_up(handle: Any) -> Any:
                handle.setopt(self._curl.NOBODY, 1)
                return lambda done: found.update({key: int(done.getinfo(self._curl.CONTENT_LENGTH_DOWNLOAD))})

            return key, set_up

        self._run(map(request, keys(workload)))
        return table(workload, [found[key] for key in keys(workload)])


def _parts(size: int) -> Iterable[tuple[int, int]]:
    for start in range(0, size, _RANGE_BYTES):
        yield start, min(start + _RANGE_BYTES, size)
