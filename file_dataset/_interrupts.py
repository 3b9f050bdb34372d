"""Ctrl-C, however often: a run is interrupted by the first, and what follows cannot take its result away."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from file_dataset._result import attach

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Self

    from file_dataset._result import PipelineResult

# SIGTERM raises like Ctrl-C where a program has it so, as Dagster does
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """A context in which signals raise as ever, until `is_held` is set; from then on they wait for its end.

    The program's own handlers are called, so an interrupt is whatever it makes of one. The flag is an attribute and not
    a method: Python looks for signals where functions begin, and never within an assignment. In other threads than the
    main one, to which Python brings no signal, this does nothing.
    """

    def __init__(self) -> None:
        """Change no handler yet."""
        self.is_held = False
        self.result: PipelineResult | None = None  # of a run that has ended, for a signal that came too late to stop it
        self._waiting: list[int] = []
        self._heeded = 0
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    @property
    def may_come(self) -> bool:
        """Whether another signal would be noticed."""
        return bool(self._handlers)

    @property
    def is_urgent(self) -> bool:
        """Whether a signal came while they were held, and was not heeded yet: its sender waits for the end."""
        return len(self._waiting) > self._heeded

    def heed(self) -> None:
        """Take note that what was asked for by the signals so far is being done."""
        self._heeded = len(self._waiting)

    def __enter__(self) -> Self:
        """Put a handler of ours before the program's own."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                # not where the system ignores the signal or ends the process, nor a handler of C
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back to the program, and let it hear of those that were held.

        Raises:
            BaseException: what its handler raises, with the result, unless the run was stopped by the like of it.
        """
        self.is_held = True
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._came:  # fn may have put another one there
                signal.signal(number, handler)
        for number in self._waiting:
            try:
                self._handlers[number](number, None)
            except BaseException as late:
                if type(late) is not type(error):
                    attach(late, getattr(error, "result", self.result))
                    raise

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.is_held:
            self._waiting.append(number)
        else:
            self._handlers[number](number, frame)
