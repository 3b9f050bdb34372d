"""The memory that bodies pass through on one loop: scratch for small ones, a few large buffers for those to disk."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Sizes are guesses that measured well: larger ones gained nothing.
SCRATCH_BYTES = 256 << 10
# 16 MiB for all large bodies that go to disk, of all loops. Each hop to the pool is a fight for the GIL: with a quarter
# of it a time, 1 GiB took 1.1 x the wall and CPU; with twice as much, or half as many, 300 x 1 MiB did.
BUFFER_BYTES = 2 << 20
BUFFERS = 8


class Buffers:
    """One loop's scratch, its buffers, and who waits for one."""

    def __init__(self, most: int, call: Callable[[Callable[[], object]], object]) -> None:
        """Make the scratch and no buffer yet.

        Args:
            most: how many buffers there may be.
            call: has the loop thread do something short; from any thread.
        """
        self.scratch = bytearray(SCRATCH_BYTES)
        self.view = memoryview(self.scratch)
        self._free: list[bytearray] = []
        self._unmade = most
        self._waiting: deque[Callable[[], object]] = deque()
        self._call = call

    def take(self) -> bytearray | None:
        """Return a buffer; None: all are on their way to disk."""
        if self._free:
            return self._free.pop()
        if self._unmade:
            self._unmade -= 1
            return bytearray(BUFFER_BYTES)
        return None

    def give_back(self, buffer: bytearray) -> None:
        """Take a buffer back, and let a connection go on that waited for one; from any thread."""
        self._free.append(buffer)
        if self._waiting:
            self._call(self._go_on)

    def wait(self, go_on: Callable[[], object]) -> None:
        """Call `go_on` when there is a buffer; on the loop's thread, like it."""
        self._waiting.append(go_on)
        if self._free:  # one came back before this could be seen
            self._call(self._go_on)

    def _go_on(self) -> None:
        while self._waiting and self._free:
            self._waiting.popleft()()
