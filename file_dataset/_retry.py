"""Retries and backoff: how often a request is attempted, and how long it waits before each next attempt.

This is the only place that retries.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from file_dataset._effort import Cancelled
from file_dataset._errors import SLOW_DOWN_CODES, code_of, is_transient

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

T = TypeVar("T")

# Full jitter, as botocore's standard mode: a random share of BACKOFF_S, doubled per attempt, at most 20 s
# (https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html). 0.5 s is a guess.
BACKOFF_S = 0.5
# Where the store had too many requests, fewer a second go out from then on (`_http/rate.py`; not of those that boto3
# sends): one that was refused need not wait long at first, while the files behind it wait for their turn. After two
# attempts the store may be down, for which the usual time is right.
_REFUSED_SHARE, _REFUSED_ATTEMPTS = 0.2, 2
_BACKOFF_MAX_S = 20.0


def attempt(
    request: Callable[[], T],
    *,
    attempts: int,
    cancelled: threading.Event,
    is_worth: Callable[[OSError], bool] = is_transient,
) -> T:
    """Return what the request returns, after at most `attempts` attempts.

    Args:
        request: makes one attempt.
        attempts: the most of them.
        cancelled: ends the wait for the next one; knows who counts attempts.
        is_worth: whether another attempt may help after this error.

    Raises:
        OSError: the last attempt's error, or the first that another attempt cannot help.
        InterruptedError: cancelled while waiting for the next attempt.
    """
    effort = cancelled.effort if isinstance(cancelled, Cancelled) else None
    for number in range(1, attempts + 1):
        try:
            return request()
        except OSError as exc:
            if cancelled.is_set() or not is_worth(exc):
                raise
            is_refused = code_of(exc) in SLOW_DOWN_CODES
            if is_refused and effort is not None:
                effort.add("throttles")
            is_early = number <= _REFUSED_ATTEMPTS and is_refused
            backoff_s = BACKOFF_S * (_REFUSED_SHARE if is_early else 1)
            if number == attempts:
                exc.strerror = f"{exc.strerror or exc} (after {number} attempts)"
                raise
        # not for cryptography: jitter keeps clients from coming back all at once
        delay = random.random() * min(_BACKOFF_MAX_S, backoff_s * 2**number)  # noqa: S311
        if cancelled.wait(delay):
            break
        if effort is not None:
            effort.add("retries")
    raise InterruptedError("cancelled")
