"""The secrets that this process has seen, and how every text of the library is masked: by value, whatever their source.

Secret keys, session tokens, and the passwords in endpoints and proxies are remembered where they are resolved. Errors,
failures and log lines pass through here when they are made.
"""

from __future__ import annotations

import html
import logging
import os
import re
import threading
import traceback
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
# Shorter values are toys ("SK", "test"): to mask them would mask letters of bucket names and words of messages. AWS's
# secret keys have 40 characters, and MinIO takes none under 8.
LEAST_CHARS = 8
_CAPACITY = 200  # values: those of some hundred rotations; a guess
_LOGGERS = ("file_dataset", "file_dataset_dagster")

_known: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # value -> the forms in which it may stand in a text
_lock = threading.Lock()


def remember(values: Iterable[object]) -> None:
    """Have every later text masked where it holds one of the values; others than long enough texts are ignored."""
    found = [line.strip() for value in values if isinstance(value, str) for line in value.splitlines()]
    with _lock:
        for value in found:
            if len(value) < LEAST_CHARS:
                continue
            if value not in _known:
                _known[value] = _forms(value)
            _known.move_to_end(value)
            while len(_known) > _CAPACITY:
                _known.popitem(last=False)
    if found:
        _mask_logs()


def remember_url(url: object) -> None:
    """Remember user and password of a URL, together and apart, as written and unquoted."""
    if isinstance(url, str) and (userinfo := url.partition("://")[2].rpartition("@")[0]):
        secret = userinfo.partition(":")[2] or userinfo
        remember([userinfo, secret, unquote(secret)])


def masked(text: str) -> str:
    """Return the text with every remembered value masked, as it is, quoted, escaped or as Python shows it."""
    if _known:
        with _lock:
            every = list(_known.values())
        for forms in every:
            for form in forms:
                if form in text:
                    text = text.replace(form, MASK)
    return text


def without_userinfo(text: str) -> str:
    """Return text with `user:password@` of any URL in it masked."""
    return re.sub(r"(?<=://)[^\s/'\"]+@", f"{MASK}@", text)


def scrub(error: BaseException) -> None:
    """Mask the text of an exception, its causes and its contexts, in place: a traceback shows them all."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        todo += [found.__cause__, found.__context__]
        changed = _scrubbed(found.args)
        if changed != found.args:
            found.args = changed
        # the answer in botocore's ClientError, the arguments of its other errors, an OSError's text
        for name, value in [*vars(found).items(), ("strerror", getattr(found, "strerror", None))]:
            if isinstance(value, BaseException):
                todo.append(value)
            elif (clean := _scrubbed(value)) != value:
                setattr(found, name, clean)


def _scrubbed(value: Any) -> Any:  # noqa: ANN401  # whatever an exception holds
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        return value if (clean := masked(text)) == text else clean.encode("latin-1")
    if isinstance(value, dict):
        return {name: _scrubbed(inner) for name, inner in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_scrubbed, value))
    return value


def _forms(value: str) -> tuple[str, ...]:
    shown = repr(value)[1:-1]
    forms = {value, shown, shown.replace("\\", "\\\\"), quote(value), quote(value, safe=""), quote_plus(value)}
    forms |= {html.escape(value), value.replace('"', '\\"')}
    return tuple(sorted(forms, key=len, reverse=True))


class _Masking(logging.Filter):
    """Masks the text of a line of this library's logs, and the traceback with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # a broken line is logging's to report
            return True
        if (clean := masked(text)) != text:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            shown = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if (clean := masked(shown)) != shown:
                record.exc_info, record.exc_text = None, clean
        return True


_masking = _Masking()


def _mask_logs() -> None:
    # a logger's filters do not see what its children log, so each has it; made at import, or with the next secret
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LOGGERS:
            found = logging.root.manager.loggerDict[name]
            if isinstance(found, logging.Logger) and _masking not in found.filters:
                found.addFilter(_masking)


def _forget_lock() -> None:
    # another thread of the parent may have held it
    global _lock  # noqa: PLW0603  # there is nothing to hold it but the module
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_lock)
