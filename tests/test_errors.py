"""The exceptions and the record of a failure: what they say, what they carry, what survives a pickle."""

from __future__ import annotations

import errno
import pickle

import pandas as pd
import pytest

from file_dataset import (
    FileDatasetError,
    InvalidDatasetError,
    MissingExtraError,
    PipelineResult,
    RowError,
    RunStoppedError,
)
from file_dataset._errors import (
    CREDENTIAL_CODES,
    EXPIRED_CODES,
    ChecksumMismatchError,
    Failure,
    IncompleteBodyError,
    code_of,
    is_disk_full,
    is_fatal,
    is_transient,
    store_error,
)
from file_dataset._silence import awaited

MISSING = Failure("1", "download", "a.mha", "s3://b/a.mha", "FileNotFoundError", "NoSuchKey", "no such key")
RAISED = Failure(7, "fn", None, None, "ValueError", None, "cannot read")


def copied(error):
    return pickle.loads(pickle.dumps(error))


# --- the family

FAMILY = {
    "InvalidDatasetError": (InvalidDatasetError, ValueError),
    "RowError": (RowError, FileDatasetError),
    "RunStoppedError": (RunStoppedError, FileDatasetError),
    "MissingExtraError": (MissingExtraError, ImportError),
    "IncompleteBodyError": (IncompleteBodyError, ConnectionError),
    "ChecksumMismatchError": (ChecksumMismatchError, ConnectionError),
}


@pytest.mark.parametrize(("kind", "built_in"), FAMILY.values(), ids=FAMILY)
def test_an_error_can_be_caught_by_its_built_in_kind(kind, built_in):
    assert issubclass(kind, built_in)


@pytest.mark.parametrize("kind", [InvalidDatasetError, RowError, RunStoppedError, MissingExtraError])
def test_an_error_of_the_library_is_a_file_dataset_error(kind):
    assert issubclass(kind, FileDatasetError)


# --- pickling

PLAIN = {
    "FileDatasetError": FileDatasetError("what, where"),
    "InvalidDatasetError": InvalidDatasetError("what, where"),
    "MissingExtraError": MissingExtraError("Ray is not installed: pip install 'file-dataset[ray]'", name="ray"),
    "RowError": RowError([MISSING]),
    "RunStoppedError": RunStoppedError("what, where"),
    "IncompleteBodyError": IncompleteBodyError(None, "3 of 5 bytes arrived"),
    "ChecksumMismatchError": ChecksumMismatchError(None, "not the digest"),
    "OSError": store_error(FileNotFoundError, "no such key", code="NoSuchKey"),
}


@pytest.mark.parametrize("error", PLAIN.values(), ids=PLAIN)
def test_an_error_keeps_kind_and_message_in_a_pickle(error):
    again = copied(error)
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)


def test_a_row_error_keeps_its_failures_in_a_pickle():
    assert copied(RowError([MISSING, RAISED])).failures == (MISSING, RAISED)


def test_a_row_error_keeps_the_message_it_was_given_in_a_pickle():
    assert str(copied(RowError([MISSING], "3 of 12 rows dropped"))) == "3 of 12 rows dropped"


def test_a_stopped_run_keeps_its_result_in_a_pickle():
    nothing = pd.DataFrame({"id": [7], "error_stage": ["fn"], "error_message": ["bad"]})
    result = PipelineResult(nothing, nothing.iloc[:0], nothing, nothing.iloc[:0])
    again = copied(RunStoppedError("the disk is full", result))
    assert again.result.failures["id"].tolist() == [7]


def test_a_stopped_run_without_a_result_has_none():
    assert copied(RunStoppedError("the disk is full")).result is None


def test_a_missing_extra_keeps_the_module_it_misses_in_a_pickle():
    assert copied(PLAIN["MissingExtraError"]).name == "ray"


CODED = [FileNotFoundError, PermissionError, TimeoutError, ConnectionError, IsADirectoryError, OSError]


@pytest.mark.parametrize("kind", [*CODED, IncompleteBodyError, ChecksumMismatchError])
def test_an_os_error_keeps_the_code_of_the_store_in_a_pickle(kind):
    assert copied(store_error(kind, "what, where", code="SlowDown")).code == "SlowDown"


# --- errors of a store


@pytest.mark.parametrize("kind", [*CODED, IncompleteBodyError, ChecksumMismatchError])
def test_an_error_of_a_store_has_the_kind_that_was_asked_for(kind):
    # OSError(errno, ...) may pick a subclass of its own by the errno
    assert type(store_error(kind, "what, where")) is kind


ERRNOS = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES, TimeoutError: errno.ETIMEDOUT}


@pytest.mark.parametrize(("kind", "number"), ERRNOS.items(), ids=[kind.__name__ for kind in ERRNOS])
def test_an_error_of_a_store_has_the_errno_of_a_local_one(kind, number):
    assert store_error(kind, "what, where").errno == number


def test_the_message_of_a_store_is_the_strerror():
    assert store_error(PermissionError, "Access Denied", code="AccessDenied").strerror == "Access Denied"


CODES = {
    "store's": (store_error(PermissionError, "no", code="AccessDenied"), "AccessDenied"),
    "none": (store_error(PermissionError, "no"), None),
    "local": (FileNotFoundError(errno.ENOENT, "no"), None),
    "exit code": (SystemExit(3), None),
    "no text": (type("HttpError", (OSError,), {"code": 404})(), None),
}


@pytest.mark.parametrize(("error", "code"), CODES.values(), ids=CODES)
def test_only_the_code_of_a_store_is_a_code(error, code):
    assert code_of(error) == code


# --- what to do about them

TRANSIENT = {
    "reset": ConnectionResetError(), "broken pipe": BrokenPipeError(), "timeout": TimeoutError(),
    "incomplete": IncompleteBodyError(None, "x"), "mismatch": ChecksumMismatchError(None, "x"),
    "store's": store_error(ConnectionError, "x", code="SlowDown"),
}  # fmt: skip


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
def test_what_another_attempt_may_help_is_transient(error):
    assert is_transient(error)


LASTING = {
    "missing": FileNotFoundError(), "denied": PermissionError(), "full": OSError(errno.ENOSPC, "full"),
    "bad request": store_error(OSError, "x", code="InvalidRequest"), "refused by us": InvalidDatasetError("x"),
    "a bug": TypeError("x"), "interrupted": KeyboardInterrupt(),
}  # fmt: skip


@pytest.mark.parametrize("error", LASTING.values(), ids=LASTING)
def test_a_refusal_or_a_bug_is_not_transient(error):
    assert not is_transient(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["no space", "over the quota"])
def test_a_full_disk_is_known_by_its_errno(number):
    assert is_disk_full(OSError(number, "x"))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), OSError("x"), ValueError("x")], ids=["EIO", "bare", "bug"])
def test_other_errors_are_no_full_disk(error):
    assert not is_disk_full(error)


@pytest.mark.parametrize("code", sorted(CREDENTIAL_CODES))
def test_refused_credentials_are_fatal(code):
    assert is_fatal(store_error(PermissionError, "x", code=code))


def test_a_full_disk_is_fatal():
    assert is_fatal(OSError(errno.ENOSPC, "x"))


BEARABLE = {
    "missing": store_error(FileNotFoundError, "x", code="NoSuchKey"),
    "denied": store_error(PermissionError, "x", code="AccessDenied"),
    "slow": store_error(ConnectionError, "x", code="SlowDown"),
    "local": PermissionError(errno.EACCES, "x"),
    "a bug": ValueError("x"),
}


@pytest.mark.parametrize("error", BEARABLE.values(), ids=BEARABLE)
def test_what_concerns_one_row_is_not_fatal(error):
    assert not is_fatal(error)


def test_an_expired_token_is_among_the_refused_credentials():
    assert EXPIRED_CODES < CREDENTIAL_CODES


# --- failures


def test_a_failure_is_what_the_error_was():
    error = store_error(FileNotFoundError, "no such key", code="NoSuchKey")
    assert Failure.of("1", "download", error, file="a.mha", url="s3://b/a.mha") == MISSING


def test_a_failure_of_fn_has_neither_file_nor_url_nor_code():
    assert Failure.of(7, "fn", ValueError("cannot read")) == RAISED


def test_a_failure_tells_the_message_and_the_file_of_an_os_error_without_its_errno():
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/a.mha")
    assert Failure.of("1", "fn", error).message == "No such file or directory: /data/a.mha"


def test_a_failure_of_an_error_without_a_message_tells_its_kind():
    assert Failure.of("1", "fn", AssertionError()).message == "AssertionError"


def test_a_failure_of_an_os_error_made_of_text_tells_the_text():
    assert Failure.of("1", "fn", OSError("cannot decode")).message == "cannot decode"


def test_a_failure_tells_the_kind_by_the_name_of_its_class():
    assert Failure.of("1", "upload", IncompleteBodyError(None, "3 of 5")).type == "IncompleteBodyError"


def test_the_location_of_a_failure_is_text():
    assert Failure.of("1", "fn", ValueError("x"), url=12).url == "12"


def test_a_failure_survives_a_pickle():
    assert copied(MISSING) == MISSING


LINES = {
    "all": (MISSING, "download a.mha (s3://b/a.mha): FileNotFoundError (NoSuchKey): no such key"),
    "fn": (RAISED, "fn: ValueError: cannot read"),
    "file only": (Failure("1", "fn", "out.mha", None, "KeyError", None, "x"), "fn out.mha: KeyError: x"),
    "url only": (Failure("1", "upload", None, "s3://b/k", "OSError", "E", "x"), "upload (s3://b/k): OSError (E): x"),
}


@pytest.mark.parametrize(("failure", "line"), LINES.values(), ids=LINES)
def test_a_failure_is_one_line(failure, line):
    assert str(failure) == line


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a\nERROR b", "a\\nERROR b"),
        ("\r\x1b[2J", "\\r\\x1b[2J"),
        ("a\x85b\u2028c\x7f", "a\\x85b\\u2028c\\x7f"),
        ("a\\n \u00a0\u00fc", "a\\n \u00a0\u00fc"),
    ],
    ids=["line break", "terminal", "other line ends", "plain"],
)
def test_a_key_writes_no_line_of_its_own_into_a_log(key, shown):
    failure = Failure("1", "download", key, f"s3://b/{key}", "OSError", None, "x")
    assert str(failure) == f"download {shown} (s3://b/{shown}): OSError: x"
    assert str(RowError([failure])) == f"row '1' failed at {failure}"
    assert failure.url == f"s3://b/{key}"
    assert awaited([f"s3://b/{key}"]) == f"s3://b/{shown}"


# --- messages


def test_a_row_error_tells_row_stage_file_url_kind_and_code():
    assert str(RowError([MISSING])) == (
        "row '1' failed at download a.mha (s3://b/a.mha): FileNotFoundError (NoSuchKey): no such key"
    )


def test_a_row_error_without_an_id_tells_the_rest():
    nameless = Failure(None, "download", "a.mha", None, "OSError", None, "x")
    assert str(RowError([nameless])) == "failed at download a.mha: OSError: x"


def test_a_row_error_tells_every_failure():
    lines = str(RowError([MISSING, RAISED])).splitlines()
    assert lines == ["2 failures:", f"  row '1' failed at {MISSING}", f"  row 7 failed at {RAISED}"]


def test_a_row_error_of_20_failures_tells_them_all():
    assert "more" not in str(RowError([MISSING] * 20))


def test_a_row_error_of_21_failures_counts_the_last():
    lines = str(RowError([MISSING] * 21)).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("21 failures:", 22, "  ... and 1 more")
