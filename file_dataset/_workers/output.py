"""What a worker process prints to stdout and stderr, logs and warns of, passed on to those of this process."""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import pickle
import sys
import warnings
from typing import IO, cast

from file_dataset._workers.messages import found

_TAIL_CHARS = 1500  # a guess: the last lines
_PIPE_BYTES = 1 << 16  # what a pipe holds on Linux (pipe(7)): one read empties it


class Output:
    """What a process, and what it has started, writes to stdout or stderr, passed on to this process's line by line."""

    def __init__(self, file: IO[bytes] | None, name: str) -> None:
        """Read from the pipe, write to the stream of `sys` of that name."""
        self.file = cast("IO[bytes]", file)
        self.fd = self.file.fileno()
        self.is_held = False
        self.tail = ""
        self._name = name
        self._pending = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        os.set_blocking(self.fd, False)

    def read(self) -> bool:
        """Pass on what is there; return whether more can come."""
        try:
            data = os.read(self.fd, _PIPE_BYTES)
        except BlockingIOError:
            return True
        text = self._decoder.decode(data)
        self.tail = (self.tail + text)[-_TAIL_CHARS:]
        self._pending += text
        if not self.is_held:
            end = max(self._pending.rfind("\n"), self._pending.rfind("\r")) + 1
            self._print(len(self._pending) if len(self._pending) > _PIPE_BYTES else end)
        return bool(data)

    def flush(self) -> None:
        """Pass on the line that has not ended too."""
        if not self.is_held:
            self._print(len(self._pending))

    def _print(self, end: int) -> None:
        text, self._pending = self._pending[:end], self._pending[end:]
        stream = getattr(sys, self._name)
        if not text or stream is None:
            return
        with contextlib.suppress(Exception):  # closed, or what the user has put there: no row is lost for what it says
            try:
                stream.write(text)
            except UnicodeEncodeError:
                stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
            stream.flush()


def log(payload: bytes) -> None:
    """Hand a log record to the logger of its name."""
    record = logging.makeLogRecord(pickle.loads(payload))  # noqa: S301  # made by our child
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)


_registries: dict[str, dict[str | tuple[str, type[Warning], int], int]] = {}  # what "once" and "default" have shown


def warn(text: str, kinds: list[tuple[str, str]], filename: str, line: int, module: str | None) -> None:
    """Warn of it here, in the first of its categories that is loaded."""
    category: type[Warning] = UserWarning
    for names in kinds:
        with contextlib.suppress(LookupError):  # not loaded here: then what it derives from
            category = found(*names)
            break
    registry = _registries.setdefault(filename, {})
    warnings.warn_explicit(text, category, filename, line, module, registry)
