"""Where servers are: addresses, and names that are looked up on a pool thread and kept for a while."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from file_dataset._errors import mark_unanswered, store_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from file_dataset._http.exchange import Endpoint
    from file_dataset._pool import Pool

_NAMES_S = 30.0  # a name is looked up again after this: S3 moves its addresses

Address: TypeAlias = "tuple[int, Any]"  # family, and what `connect` takes


class Names:
    """The names of one loop's servers. All methods are called on the loop's thread."""

    def __init__(self, pool: Pool, call: Callable[[Callable[[], object]], object]) -> None:
        """Take the pool that looks up, and what has the loop thread do something."""
        self._pool, self._call = pool, call
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._waiting: dict[tuple[str, int], list[Callable[[list[Address], OSError | None], object]]] = {}

    def addresses(self, endpoint: Endpoint) -> list[Address] | None:
        """Return where a server is, the address to try first in front; None: not known yet."""
        at = endpoint.host, endpoint.port
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                socket.inet_pton(family, endpoint.host)
                return [(family, at)]
        until, found = self._known.get(at, (0.0, []))
        if time.monotonic() > until:
            return None
        found.append(found.pop(0))  # S3 answers with several: each connection tries another first
        return list(found)

    def look_up(self, endpoint: Endpoint, then: Callable[[list[Address], OSError | None], object]) -> None:
        """Look a name up once for all that wait for it, and call `then` with its addresses or the error."""
        at = endpoint.host, endpoint.port
        self._waiting.setdefault(at, []).append(then)
        if len(self._waiting[at]) > 1:
            return

        def work() -> None:
            error: OSError | None = None
            try:
                infos = socket.getaddrinfo(*at, type=socket.SOCK_STREAM)
                self._known[at] = time.monotonic() + _NAMES_S, [(info[0], info[4]) for info in infos]
            except (OSError, UnicodeError) as exc:
                error = store_error(ConnectionError, f"the name {at[0]!r} could not be looked up: {exc}")
                mark_unanswered(error)
            self._call(lambda: self._looked_up(at, error))

        try:
            self._pool.submit(work)
        except OSError as exc:
            self._looked_up(at, exc)

    def _looked_up(self, at: tuple[str, int], error: OSError | None) -> None:
        for then in self._waiting.pop(at):
            then([] if error is not None else list(self._known[at][1]), error)
