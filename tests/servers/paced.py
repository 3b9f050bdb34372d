"""A fault server whose answers wait until the test lets them go."""

from __future__ import annotations

import threading
from pathlib import Path

from servers.faults import FaultServer


class PacedServer(FaultServer):
    """Keeps requests waiting until the test opens their gate.

    Attributes:
        order: the operation and key of every request.
        overdue: those that were let go after a minute, because nobody had opened their gate.
    """

    def __init__(self):
        self.gates = {}
        self.order = []
        self.overdue = []
        super().__init__()

    def arrived(self, request):
        fault = super().arrived(request)
        self.order.append((request.operation, request.key))
        gate = self.gates.get((request.operation, request.key)) or self.gates.get((request.operation, None))
        if gate is not None and not gate.wait(60):
            self.overdue.append((request.operation, request.key))
        return fault

    def hold(self, operation, key=None):
        """Close a gate for the requests of a key, or of all."""
        gate = self.gates[operation, key] = threading.Event()
        return gate


def number_of(input_dir):
    """The number in the input of one of the six rows."""
    return int((Path(input_dir) / "a.txt").read_text().removeprefix("row "))
