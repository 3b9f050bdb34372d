"""How a run ends that something stops: what is in flight is given up; after Ctrl-C uploads may end first.

fn may have worked for an hour on a row whose upload needs one second more: an interruption leaves `UPLOADS_S` to the
rows that are uploading. Another one ends that time. An error that stops a run leaves none.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from file_dataset._flight import Flight
    from file_dataset._interrupts import Interrupts
    from file_dataset._tally import Tally

logger = logging.getLogger(__name__)

# How long uploads may take after an interruption, and how long transfers that are given up may: they hear of it within
# 0.1 s, and an upload in parts has 5 s to abort what it began (`_transfer`).
UPLOADS_S, GRACE_S = 30.0, 6.0
_LOOK_S = 0.1  # how late another interrupt is noticed meanwhile; a guess


def leave(
    flights: Sequence[Flight],
    interrupts: Interrupts,
    tally: Tally,
    *,
    is_interrupted: bool,
    leave_fn: Callable[[], object],
) -> None:
    """Give up rows in flight, and put those into the tally that are stored; their files are still there.

    Args:
        flights: the rows.
        interrupts: they are held.
        tally: takes each row when it is stored.
        is_interrupted: whether rows that are uploading may go on for a while.
        leave_fn: ends what fn runs in.
    """
    uploading = [flight for flight in flights if is_interrupted and flight.is_uploading]
    for flight in flights:
        if flight not in uploading:
            flight.cancelled.set()
    leave_fn()
    if uploading and not interrupts.is_urgent:
        _let_finish(uploading, interrupts, tally)
    if uploading:
        interrupts.heed()  # time to abort what they began: only one interrupt more takes that too
    for flight in uploading:
        flight.cancelled.set()
    _wait([begun for flight in flights for begun in flight.give_up()], interrupts)
    _put(flights, tally)
    _wait([begun for flight in flights for begun in flight.take_back()], interrupts)


def _let_finish(uploading: Sequence[Flight], interrupts: Interrupts, tally: Tally) -> None:
    logger.warning(
        "interrupted; rows that are still uploading: %d; waiting for them for %.0f s at most, another Ctrl-C gives "
        "them up",
        len(uploading),
        UPLOADS_S,
    )
    end = time.monotonic() + UPLOADS_S
    left = list(uploading)
    while left and not interrupts.is_urgent and time.monotonic() < end:
        time.sleep(_LOOK_S)
        # each at once: the process may be killed before the last of them ends
        ended = [flight for flight in left if not flight.is_uploading]
        left = [flight for flight in left if flight not in ended]
        _put(ended, tally)


def _put(flights: Iterable[Flight], tally: Tally) -> None:
    for flight in flights:
        if (stored := flight.stored_meanwhile()) is not None:
            tally.put(flight.position, stored)


def _wait(begun: Sequence[Future[Any]], interrupts: Interrupts) -> None:
    """Wait for transfers to give up; another interrupt means that there is no time for that."""
    end = time.monotonic() + GRACE_S
    while begun and not interrupts.is_urgent and (left_s := end - time.monotonic()) > 0:
        begun = list(wait(begun, timeout=min(left_s, _LOOK_S)).not_done)
