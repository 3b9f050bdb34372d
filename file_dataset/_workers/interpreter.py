"""Whether this Python can have worker processes: not where it is frozen, replaced or patched."""

from __future__ import annotations

import os
import sys
from typing import Any

from file_dataset._errors import InvalidDatasetError
from file_dataset._workers.messages import STARTED


def check_interpreter() -> None:
    """Refuse worker processes where `sys.executable` would run this program again and again, or a wait would hang.

    Raises:
        InvalidDatasetError: this program is frozen, or runs in place of a worker, or eventlet has patched `os`.
    """
    if getattr(sys, "frozen", False):
        raise InvalidDatasetError(
            "workers and fn_timeout_s need a Python interpreter, and this program is frozen (sys.frozen: PyInstaller, "
            "cx_Freeze, ...): use workers=0 and no fn_timeout_s, which run fn in this process"
        )
    if STARTED in os.environ:
        raise InvalidDatasetError(
            f"a worker process ran this program instead of fn: {sys.executable} (sys.executable) is no plain Python "
            "interpreter: use workers=0 and no fn_timeout_s, which run fn in the process itself"
        )
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("os"):  # its `os.read` waits where ours must not
        raise InvalidDatasetError(
            "workers and fn_timeout_s do not work under eventlet.monkey_patch(): use workers=0 and no fn_timeout_s, or "
            "run the Pipeline in a process without it (gevent works)"
        )
