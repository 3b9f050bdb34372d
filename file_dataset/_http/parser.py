"""What a server sends, read by httptools' C parser: heads of answers, and bodies that are chunked or have no length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools

from file_dataset._errors import store_error

if TYPE_CHECKING:
    from file_dataset._http.buffers import Buffers
    from file_dataset._http.exchange import Endpoint

_HEAD_BYTES = 64 << 10  # of an answer; S3's are about 500 bytes
_INFORMATIONAL = 100  # answers of status 1xx before the one that counts; a guess far above any
_ALERT = b"\x15\x03"  # how a TLS record begins that names an error


class ResponseParser:
    """One answer's head, and its body where that is chunked or ends with the connection."""

    __slots__ = ("_parser", "body", "headers", "is_complete", "keeps_alive", "status")

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.is_complete = self.keeps_alive = False
        self.status = 0
        self._parser: Any = httptools.HttpResponseParser(self)

    def forget(self) -> None:
        """Let go of the parser, which refers back to this: the two would wait for the garbage collector."""
        self._parser = None

    def feed(self, data: bytes | memoryview) -> None:
        """Parse what comes next.

        Raises:
            ConnectionError: it is no HTTP.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise store_error(ConnectionError, f"the answer is no HTTP: {exc}") from None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; httptools calls it, as those below."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Read what the parser knows of the head."""
        self.status = self._parser.get_status_code()
        self.keeps_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, without what frames it."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """Take note that the body is whole."""
        self.is_complete = True


class HeadReader:
    """The heads of one connection's answers, however they are cut; interim (1xx) answers are skipped."""

    __slots__ = ("_begun", "_interim")

    def __init__(self) -> None:
        """Start with nothing read."""
        self._begun, self._interim = b"", 0

    def read(self, endpoint: Endpoint, buffers: Buffers, count: int) -> tuple[ResponseParser, memoryview] | None:
        """Return the next head and what follows it, of bytes in the scratch memory; None while it is not whole.

        Raises:
            OSError: what the server sent is no answer.
        """
        if self._begun:
            begun = self._begun + bytes(buffers.view[:count])
            found = self._parsed(endpoint, begun, begun)
        else:
            found = self._parsed(endpoint, buffers.view[:count], buffers.scratch)
        while found is not None and 100 <= found[0].status < 200:  # noqa: PLR2004  # the answer comes after it
            self._interim += 1
            if self._interim > _INFORMATIONAL:
                message = f"the server sent more than {_INFORMATIONAL} interim (1xx) answers and no final one"
                raise store_error(ConnectionError, message)
            rest = bytes(found[1])
            found = self._parsed(endpoint, rest, rest)
        if found is not None:
            self._begun, self._interim = b"", 0
        return found

    def _parsed(
        self, endpoint: Endpoint, data: bytes | memoryview, raw: bytes | bytearray
    ) -> tuple[ResponseParser, memoryview] | None:
        """Return the first head in the data, parsed, and what follows it; `raw` begins with the data."""
        end = raw.find(b"\r\n\r\n", 0, len(data))
        if end < 0:
            if raw.startswith(_ALERT, 0, len(data)):
                raise store_error(OSError, f"{endpoint} speaks TLS on this port: write https:// in endpoint_url")
            if len(data) > _HEAD_BYTES:
                raise store_error(ConnectionError, "the answer begins with no HTTP headers")
            self._begun = bytes(data)
            return None
        parser = ResponseParser()
        parser.feed(data[: end + 4])
        return parser, memoryview(data)[end + 4 :]
