"""How a command ends: its exit code, and one plain sentence on stderr where something is wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

import file_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

# 128 + the signal, as a shell reports it
GOOD, USAGE, DROPPED, STOPPED, INTERRUPTED, TERMINATED, PIPE_CLOSED = 0, 2, 3, 4, 130, 143, 141

# what the library's messages say of its arguments, and how a command has it
_OPTIONS = {
    "pass allow_empty=True": "give --allow-empty",
    "file_columns=[...]": "--file-column NAME",
    "outputs=[...]": "--output-file NAME",
    "; None: as long as it takes": "",
    "download it first, by reader(row={...}).into_temp_dir()": "download it first, by file-dataset get",
    "; for a public bucket give Options(s3_client_kwargs={'config': Config(signature_version=botocore.UNSIGNED)})": "",
    "the same call goes on": "the same command goes on",
    "{'image.mha': 's3://bucket/raw/{id}/image.mha'}": "--file image.mha='s3://bucket/raw/{id}/image.mha'",
}
_PATTERN = re.compile(r"\bpatterns\['([^']+)'\]")
_ARGUMENT = re.compile(
    r"\b(check_inputs|code_version|file_columns|fn_timeout_s|if_exists|into_path|max_failed_fraction|max_failures|"
    r"temp_dir|(?:checkpoint|id|prefetch|workers)(?==['\d-]))(?:(=)(?=\S)|=?)"
)
_NAMES = {"file_columns": "file-column", "fn_timeout_s": "fn-timeout", "into_path": "into"}


# S3's, and that of no credentials at all: no row can do better, and a run stops
CREDENTIAL_CODES = frozenset(
    [
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoCredentials",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    ]
)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise Terminated


class Command(click.Command):
    """A command that ends with a sentence and an exit code, and never with a traceback for what its user did."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # as click has it
        """Run it."""
        signal.signal(signal.SIGTERM, _terminate)
        with _ending():
            return super().invoke(ctx)


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Turn what stops a command into its end.

    Raises:
        Exit: with the code.
    """
    try:
        yield
        sys.stdout.flush()
    except file_dataset.InvalidDatasetError as exc:
        leave(USAGE, str(exc), exc)
    except file_dataset.MissingExtraError as exc:
        leave(USAGE, str(exc), exc)
    except file_dataset.FileDatasetError as exc:
        leave(STOPPED, str(exc), exc)
    except BrokenPipeError:
        # what reads our stdout has gone, `head` say: Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(PIPE_CLOSED) from None
    except OSError as exc:
        leave(STOPPED, str(exc), exc)
    except Terminated as exc:
        leave(TERMINATED, "terminated", exc)
    except KeyboardInterrupt as exc:
        leave(INTERRUPTED, "interrupted", exc)


def leave(code: int, message: str, error: BaseException) -> NoReturn:
    """End the command with a code and a sentence, and what notes of the error say of a checkpoint.

    Raises:
        Exit: with the code.
    """
    message = _as_options(message)
    say(f"Error: {message}" if code in {USAGE, STOPPED} else message)
    for note in getattr(error, "__notes__", ()):
        if ".result" not in note:  # that is for programs
            say(_as_options(note))
    raise click.exceptions.Exit(code) from None


def leave_after(error: file_dataset.RowError) -> NoReturn:
    """End a command whose rows have failed: some of them, or all for what stops a run, too.

    Raises:
        Exit: with the code.
    """
    is_full = getattr(error.__cause__, "errno", None) in {errno.ENOSPC, errno.EDQUOT}
    if is_full or any(failure.code in CREDENTIAL_CODES for failure in error.failures):
        leave(STOPPED, str(error), error)
    leave(DROPPED, f"Error: {error}", error)


def _as_options(message: str) -> str:
    """Return a message of the library with the options of a command in place of arguments."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    message = _PATTERN.sub(r"--file \1", message)
    return _ARGUMENT.sub(
        lambda found: f"--{_NAMES.get(found[1]) or found[1].replace('_', '-')}{' ' if found[2] else ''}", message
    )


@contextlib.contextmanager
def stdout_for_the_command() -> Iterator[TextIO]:
    """Yield stdout for what the command writes; what fn prints meanwhile, or a tool that it starts, goes to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as own:
        os.dup2(2, 1)
        try:
            yield own
        finally:
            sys.stdout.flush()
            os.dup2(own.fileno(), 1)


def say(text: str) -> None:
    """Write a line for a person: to stderr, as stdout may be a frame."""
    click.echo(text, err=True)
