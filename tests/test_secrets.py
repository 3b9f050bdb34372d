"""No secret leaves: credentials that cannot be sent are refused unseen, and every text is masked by value."""

from __future__ import annotations

import json
import logging
import os
import pickle
import stat
import traceback
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pandas as pd
import pytest
from servers.faults import Status
from servers.scripted import Scripted, always, answer

import file_dataset
from file_dataset import InvalidDatasetError, Options, RowError, RunStoppedError, _per_process, _secrets
from file_dataset._errors import Failure, store_error

TOKEN = "FwoGZXIvYXdzTOPSECRET/+="
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY"
ROW = {"a.bin": "s3://bucket/a.bin"}
FRAME = pd.DataFrame({"id": ["1"], "a.bin": ["s3://bucket/a.bin"]})


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(_secrets, "_known", OrderedDict())
    monkeypatch.setattr(_per_process, "_recent", OrderedDict())


@pytest.fixture
def store(faults, monkeypatch):
    """A store that the environment names."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", faults.endpoint_url)
    faults.put("s3://bucket/a.bin", b"hello")
    return faults


def every_text(error):
    """What can be seen of an error: its traceback, and what each exception behind it holds."""
    texts = traceback.format_exception(error)
    todo, seen = [error], []
    while todo:
        found = todo.pop()
        if found is None or found in seen:
            continue
        seen.append(found)
        texts += [str(found), repr(found), repr(vars(found))]
        todo += [found.__cause__, found.__context__]
    return "\n".join(texts)


# --- credentials that cannot be sent


def in_environment(monkeypatch, tmp_path, token):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)


def of_a_process(monkeypatch, tmp_path, token):
    keys = {"Version": 1, "AccessKeyId": "AKIDTEST", "SecretAccessKey": SECRET, "SessionToken": token}
    answer = tmp_path / "keys.json"
    answer.write_text(json.dumps(keys))
    script = tmp_path / "keys.sh"
    script.write_text(f"#!/bin/sh\ncat {answer}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))


def of_the_default_session(monkeypatch, tmp_path, token):
    boto3.setup_default_session(aws_access_key_id="AKIDTEST", aws_secret_access_key=SECRET, aws_session_token=token)


SOURCES = {
    "environment": (in_environment, "AWS_SESSION_TOKEN of the environment holds a line break"),
    "credential_process": (of_a_process, "aws_session_token from credential_process holds a line break"),
    "default session": (of_the_default_session, "aws_session_token from the Options or session holds a line break"),
}
USES = {
    "reader": lambda options: file_dataset.reader(ROW, options=options).into_blob_table(),
    "sizes": lambda options: file_dataset.reader(ROW, options=options).into_size_table(),
    "write_files": lambda options: file_dataset.write_files(
        {"a.bin": __file__}, into_path="s3://bucket/o", id=1, options=options
    ),
    "Pipeline": lambda options: file_dataset.Pipeline(
        lambda input_dir, output_dir: {}, write_options={"into_path": "s3://bucket/o"}, options=options, progress=False
    )(FRAME),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(("resolve", "said"), SOURCES.values(), ids=SOURCES)
def test_a_token_with_a_line_break_is_refused_before_a_request_and_not_shown(
    store, monkeypatch, tmp_path, caplog, resolve, said, use
):
    resolve(monkeypatch, tmp_path, TOKEN + "\n")
    with pytest.raises((RowError, RunStoppedError), match=said) as refused:
        use(None)
    assert "TOPSECRET" not in every_text(refused.value) + caplog.text
    assert "strip it" in str(refused.value)
    assert store.count("GetObject") + store.count("PutObject") + store.count("HeadObject") == 0


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_each_processs_own_chain_is_checked_too(store, monkeypatch, tmp_path, caplog, engine):
    in_environment(monkeypatch, tmp_path, TOKEN + "\r\n")
    with pytest.raises(RunStoppedError) as stopped:
        USES["Pipeline"](Options(engine=engine))
    assert "TOPSECRET" not in every_text(stopped.value) + caplog.text
    assert "TOPSECRET" not in stopped.value.result.failures.to_csv()
    assert stopped.value.result.failures["error_code"].tolist() == ["NoCredentials"]


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_a_token_that_a_refresh_brings_is_checked_too(store, monkeypatch, tmp_path, caplog, engine):
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()  # botocore refreshes 10 minutes before
    for number in range(4):
        token = TOKEN if number < 2 else f"{TOKEN}-{number}\n"
        keys = {"Version": 1, "AccessKeyId": "AKIDTEST", "SecretAccessKey": SECRET, "SessionToken": token}
        (tmp_path / f"{number}.json").write_text(json.dumps(keys | {"Expiration": soon}))
    script = tmp_path / "keys.sh"
    script.write_text(f"#!/bin/sh\ncd {tmp_path}\nn=$(ls used* 2>/dev/null | wc -l)\ntouch used$n\ncat $n.json\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(RowError, match="aws_session_token from credential_process holds a line break") as refused:
        USES["reader"](Options(engine=engine))
    assert "TOPSECRET" not in every_text(refused.value) + caplog.text


def test_a_default_with_such_a_token_is_refused(monkeypatch, tmp_path):
    in_environment(monkeypatch, tmp_path, TOKEN + "\n")
    with pytest.raises(PermissionError, match="AWS_SESSION_TOKEN of the environment") as refused:
        Options.default()
    assert "TOPSECRET" not in every_text(refused.value)


def test_a_token_that_no_header_can_carry_is_refused():
    with pytest.raises(InvalidDatasetError, match="aws_session_token holds characters beyond ASCII"):
        Options({"aws_session_token": "пароль-пароль"})


def test_a_secret_key_may_hold_any_letter():
    """It is not sent; MinIO takes it."""
    assert Options({"aws_access_key_id": "AKID", "aws_secret_access_key": "пароль-пароль"})


# --- masked by value


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize("status", [403, 500])
def test_a_store_that_says_what_it_was_sent_shows_no_secret(store, monkeypatch, tmp_path, caplog, engine, status):
    in_environment(monkeypatch, tmp_path, TOKEN)
    store.fail("GetObject", Status(status, "Refused", f"no {TOKEN} and no {SECRET} here"), times=None)
    with pytest.raises(RowError, match=r"no \*\*\* and no \*\*\* here") as failed:
        USES["reader"](Options(engine=engine))
    shown = every_text(failed.value) + caplog.text
    assert TOKEN not in shown
    assert SECRET not in shown


@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_an_upload_that_is_refused_so_shows_no_secret(store, monkeypatch, tmp_path, engine):
    in_environment(monkeypatch, tmp_path, TOKEN)
    store.fail("PutObject", Status(403, "Refused", f"no {TOKEN}"), times=None)
    with pytest.raises(RowError) as failed:
        USES["write_files"](Options(engine=engine))
    assert TOKEN not in every_text(failed.value)


def test_what_fn_says_is_masked_in_frame_and_log(store, monkeypatch, tmp_path, caplog):
    in_environment(monkeypatch, tmp_path, TOKEN)

    def fn(input_dir, output_dir):
        raise ValueError(f"cannot log in with {os.environ['AWS_SESSION_TOKEN']}")

    result = file_dataset.Pipeline(fn, write_options={"into_path": str(tmp_path)}, progress=False).run(FRAME)
    assert result.failures["error_message"].tolist() == ["cannot log in with ***"]
    handler = logging.Formatter()
    lines = [handler.format(record) for record in caplog.records]
    assert any("in fn" in line for line in lines)  # the traceback is there
    assert TOKEN not in "\n".join(lines)


FORMS = {
    "as it is": TOKEN,
    "as bytes": repr(TOKEN.encode()),
    "in a URL": "FwoGZXIvYXdzTOPSECRET%2F%2B%3D",
    "in JSON": json.dumps(TOKEN),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_a_secret_is_masked(form):
    Options({"aws_access_key_id": "AKID", "aws_secret_access_key": SECRET, "aws_session_token": TOKEN})
    assert "TOPSECRET" not in _secrets.masked(f"it is {form}, sent")


MADE = {
    "failure": lambda text: Failure("1", "fn", None, None, "ValueError", None, text).message,
    "store error": lambda text: str(store_error(OSError, text)),
    "row error": lambda text: str(RowError([Failure("1", "fn", None, None, "ValueError", None, "x")], text)),
    "stopped run": lambda text: str(pickle.loads(pickle.dumps(RunStoppedError(text)))),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_whatever_is_said_of_a_row_is_masked(made):
    Options({"aws_access_key_id": "AKID", "aws_secret_access_key": SECRET})
    assert SECRET not in made(f"it was {SECRET}")


def test_a_toy_secret_masks_no_letter():
    """Values under eight characters are no secrets, and letters of names."""
    Options({"aws_access_key_id": "a", "aws_secret_access_key": "b"})
    assert _secrets.masked("s3://bucket/b is not there") == "s3://bucket/b is not there"


def test_a_toy_secret_leaves_the_url_in_a_message(faults):
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    with pytest.raises(RowError, match=r"s3://bucket/nope") as failed:
        file_dataset.reader(
            {"a.bin": "s3://bucket/nope"}, options=Options(keys, {"endpoint_url": faults.endpoint_url})
        ).into_blob_table()
    assert "***" not in str(failed.value)


def test_the_password_of_an_endpoint_is_masked_apart_from_its_url():
    Options(None, {"endpoint_url": "https://me:pa%2Fss-word@store.example"})
    assert _secrets.masked("wrong password pa/ss-word, or pa%2Fss-word") == "wrong password ***, or ***"


def test_what_is_remembered_is_bounded():
    _secrets.remember(f"secret-{number:06}" for number in range(5000))
    assert _secrets.masked("secret-000001 secret-004999") == "secret-000001 ***"
    assert len(_secrets._known) <= 200  # noqa: SLF001


def test_a_secret_is_masked_in_threads_of_a_forked_child():
    """A lock that another thread held at the fork is a new one in the child."""
    _secrets.remember([SECRET])
    reader, writer = os.pipe()
    with _secrets._lock:  # noqa: SLF001
        child = os.fork()
        if child == 0:
            os.write(writer, _secrets.masked(SECRET).encode())
            os._exit(0)
    os.close(writer)
    with Path(f"/dev/fd/{reader}").open("rb") as pipe:
        assert pipe.read() == b"***"
    os.waitpid(child, 0)
    os.close(reader)


@pytest.mark.parametrize("verb", ["read", "write", "run"])
@pytest.mark.parametrize("engine", [None, "auto", "boto3"], ids=["no options", "auto", "boto3"])
def test_a_role_that_is_refused_is_an_error_of_ours_without_its_token(monkeypatch, tmp_path, verb, engine):
    """On EKS, say. It was botocore's ClientError, and stopped a run without its result."""
    token = "web-identity-token-of-this-test"
    refusal = f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no: {token}</Message></Error></ErrorResponse>"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "token"
    path.write_text(token + "\n")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with Scripted(always(answer(refusal.encode(), "403 Forbidden"))) as server:
        variables = {
            "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(path), "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x",
            "AWS_ENDPOINT_URL": server.url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
        }  # fmt: skip
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        options = engine and file_dataset.Options(engine=engine)
        frame = pd.DataFrame({"id": ["1"], "a.bin": ["s3://bucket/a"]})
        into = {"into_path": "s3://bucket/out"}
        verbs = {
            "read": lambda: file_dataset.reader({"a.bin": "s3://bucket/a"}, options=options).into_blob_table(),
            "write": lambda: file_dataset.write_files({"a": path}, id="1", options=options, **into),
            "run": lambda: file_dataset.Pipeline(
                lambda i, o: {}, write_options=into, options=options, progress=False
            ).run(frame),
        }
        with pytest.raises(file_dataset.FileDatasetError, match=r"AccessDenied.*AssumeRoleWithWebIdentity") as caught:
            verbs[verb]()
    assert token not in "".join(traceback.format_exception(caught.value))
