"""What fn raised in a worker process, as the exception that the caller gets, and the traceback of the process."""

from __future__ import annotations

import contextlib
import pickle
from typing import cast


class RemoteTraceback(Exception):  # noqa: N818  # shown as the cause of what fn raised, never raised
    """The traceback of the worker process, as text."""

    def __str__(self) -> str:
        """Return it so that it stands out below the name of this class."""
        return f'\n"""\n{self.args[0]}"""'


class _StandInError(RuntimeError):
    """What fn raised, by name and message, where the exception itself cannot travel or must not stop the caller."""

    def __reduce__(self) -> tuple[object, ...]:
        kind = type(self)
        return _stand_in, (kind.__module__, kind.__qualname__, *self.args)


def _stand_in(module: str, name: str, message: str) -> _StandInError:
    kind = type(name.rpartition(".")[2], (_StandInError,), {"__module__": module, "__qualname__": name})
    return cast("_StandInError", kind(message))


def raised(payload: bytes | None, module: str, name: str, text: str, trace: str) -> BaseException:
    """Return what fn raised, or a stand-in where that cannot travel or is no `Exception`.

    Args:
        payload: the exception, pickled; None where it could not be.
        module: of its class.
        name: of its class.
        text: its message.
        trace: the traceback of the worker process, which becomes its `__cause__`.
    """
    error: object = None
    if payload is not None:
        with contextlib.suppress(Exception):  # the user's own __reduce__ or __init__
            error = pickle.loads(payload)  # noqa: S301  # made by our child
    if not isinstance(error, Exception):  # a KeyboardInterrupt would stop the caller, not cost the row
        error = _stand_in(module, name, text)
    object.__setattr__(error, "__cause__", RemoteTraceback(trace))  # also where the user's class is frozen
    return error
