"""Options: plain data that pickles, hides its secrets, and is one client per process."""

from __future__ import annotations

import concurrent.futures
import copy
import json
import multiprocessing
import os
import pickle
import signal
import threading
import traceback

import boto3
import cloudpickle
import pytest
from botocore import UNSIGNED
from botocore.config import Config

import file_dataset
from file_dataset import InvalidDatasetError, Options, _per_process, _sessions
from file_dataset._options import has_credentials, without_credentials
from file_dataset._secrets import without_userinfo

SECRET = "Zs3cr3tZ"
KEYS = {"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}


@pytest.fixture(autouse=True)
def _no_default_session(monkeypatch):
    """No default session is left from another test, or for one."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture
def environment(monkeypatch):
    """Credentials in the environment, as most processes have them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A profile "minio" with credentials, region and an endpoint for S3."""
    config = tmp_path / "config"
    config.write_text(f"""
[profile minio]
aws_access_key_id = AKIDPROFILE
aws_secret_access_key = {SECRET}
region = eu-north-1
services = minio-services

[services minio-services]
s3 =
  endpoint_url = http://127.0.0.1:9
""")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    return "minio"


# --- pickles

OPTIONS = {
    "empty": Options(),
    "keys": Options(KEYS),
    "endpoint": Options(KEYS, {"endpoint_url": "http://127.0.0.1:9", "verify": "/ca.pem"}),
    "config": Options(KEYS, {"config": Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2})}),
    "unsigned": Options(KEYS, {"config": Config(signature_version=UNSIGNED)}),
    "all": Options(KEYS, {"use_ssl": False}, max_concurrency=3, check_digests=False, engine="boto3", local_paths=False),
}
WAYS = {
    "pickle": lambda options: pickle.loads(pickle.dumps(options)),
    "cloudpickle": lambda options: pickle.loads(cloudpickle.dumps(options)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_come_back_equal(options, again):
    assert again(options) == options


@pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", ["keys", "config", "unsigned"])
def test_options_come_back_equal_after_use(name, again):
    options = OPTIONS[name]
    assert options.session.region_name == "us-east-1"
    assert options.s3_client.meta.service_model.service_name == "s3"
    assert again(options) == options


@pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)
def test_unsigned_is_the_unsigned_of_botocore_again(again):
    # botocore compares it by identity
    assert again(OPTIONS["unsigned"]).s3_client_kwargs["config"].signature_version is UNSIGNED


def test_what_was_given_comes_back():
    options = WAYS["pickle"](OPTIONS["all"])
    assert (options.session_kwargs, options.s3_client_kwargs) == (KEYS, {"use_ssl": False})
    assert (options.max_concurrency, options.check_digests, options.engine) == (3, False, "boto3")
    assert options.local_paths is False


def test_a_config_that_comes_back_sets_what_it_set():
    config = WAYS["pickle"](OPTIONS["config"]).s3_client.meta.config
    assert (config.s3["addressing_style"], config.retries["total_max_attempts"]) == ("path", 3)


def test_a_pickle_of_frozen_options_holds_their_secrets():
    """The docstring says so; it is how workers without credentials get some."""
    assert SECRET.encode() in pickle.dumps(Options(KEYS))


# --- equality


def test_options_that_say_the_same_are_equal():
    assert Options({"region_name": "x", "profile_name": "p"}) == Options({"profile_name": "p", "region_name": "x"})


def test_equal_options_have_one_hash():
    assert len({Options(KEYS), Options(dict(KEYS)), Options()}) == 2


DIFFERENT = {
    "region": Options({**KEYS, "region_name": "eu-west-1"}),
    "secret": Options({**KEYS, "aws_secret_access_key": "another"}),
    "endpoint": Options(KEYS, {"endpoint_url": "http://127.0.0.1:9"}),
    "config": Options(KEYS, {"config": Config(read_timeout=1)}),
    "concurrency": Options(KEYS, max_concurrency=1),
    "digests": Options(KEYS, check_digests=False),
    "engine": Options(KEYS, engine="boto3"),
    "local paths": Options(KEYS, local_paths=False),
    "other type": "options",
}


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT)
def test_options_that_say_something_else_are_not_equal(other):
    assert Options(KEYS) != other


def test_options_are_equal_whether_their_config_is_the_same_object_or_not():
    one, other = (Options(KEYS, {"config": Config(read_timeout=1)}) for _ in range(2))
    assert one == other


def test_the_order_of_a_config_makes_no_difference():
    one = Options(KEYS, {"config": Config(read_timeout=1, connect_timeout=2)})
    assert one == Options(KEYS, {"config": Config(connect_timeout=2, read_timeout=1)})


def test_options_do_not_change_with_the_mapping_they_were_made_from():
    given = dict(KEYS)
    options = Options(given)
    given["region_name"] = "eu-west-1"
    assert options.session_kwargs == KEYS


# --- no secret is shown

SHOWS = {"repr": repr, "str": str, "format": lambda it: f"{it}", "container": lambda it: str([it])}
HOLDERS = {
    "secret key": Options({"aws_secret_access_key": SECRET}),
    "access key": Options({"aws_access_key_id": SECRET}),
    "token": Options({"aws_session_token": SECRET}),
    "client's secret key": Options(None, {"aws_secret_access_key": SECRET}),
    "client's token": Options(None, {"aws_session_token": SECRET}),
    "kwarg of tomorrow": Options({"some_new_kind_of_key": SECRET}),
    "client's kwarg of tomorrow": Options(None, {"some_new_kind_of_key": {"deep": SECRET}}),
    "proxies": Options(None, {"config": Config(proxies={"https": f"http://user:{SECRET}@proxy:3128"})}),
    "proxies_config": Options(None, {"config": Config(proxies_config={"proxy_client_cert": SECRET})}),
    "client certificate": Options(None, {"config": Config(client_cert=(SECRET, SECRET))}),
    "user agent": Options(None, {"config": Config(user_agent_extra=SECRET)}),
    "endpoint": Options(None, {"endpoint_url": f"http://user:{SECRET}@127.0.0.1:9"}),
    "endpoint's user": Options(None, {"endpoint_url": f"http://{SECRET}@127.0.0.1:9"}),
}


@pytest.mark.parametrize("show", SHOWS.values(), ids=SHOWS)
@pytest.mark.parametrize("options", HOLDERS.values(), ids=HOLDERS)
def test_no_secret_is_shown(options, show):
    assert SECRET not in show(options)


@pytest.mark.parametrize("options", HOLDERS.values(), ids=HOLDERS)
def test_that_something_is_set_is_shown(options):
    assert "***" in repr(options)


AWKWARD = {"an @": f"p@{SECRET}", "a quote": f"it's{SECRET}", "a slash": f"a/{SECRET}", "a space": f"a {SECRET}"}


@pytest.mark.parametrize("password", AWKWARD.values(), ids=AWKWARD)
def test_no_secret_is_shown_of_a_password_that_should_have_been_quoted(password):
    assert SECRET not in repr(Options(None, {"endpoint_url": f"http://user:{password}@127.0.0.1:9"}))


def test_the_user_of_a_url_is_masked_in_a_message():
    text = 'no answer from "http://user:pw@host/bucket/key"'
    assert without_userinfo(text) == 'no answer from "http://***@host/bucket/key"'


NO_USERS = {
    "no @": 'no answer from "http://host/bucket/key"',
    "@ before the URL": "ask me@x.org about http://host/bucket",
    "not a URL": "ask me@x.org",
}


@pytest.mark.parametrize("text", NO_USERS.values(), ids=NO_USERS)
def test_a_message_without_the_user_of_a_url_stays_as_it_is(text):
    assert without_userinfo(text) == text


AFTER_HOSTS = {
    "in the key": ('no answer from "http://host/b/me@x.org/k"', 'no answer from "http://host/b/me@x.org/k"'),
    "after the URL": ("http://host/b is down; ask me@x.org", "http://host/b is down; ask me@x.org"),
    "in a second URL": ("http://a:b@proxy for http://c:d@host", "http://***@proxy for http://***@host"),
}


@pytest.mark.parametrize(("text", "masked"), AFTER_HOSTS.values(), ids=AFTER_HOSTS)
def test_an_at_sign_after_the_host_masks_nothing(text, masked):
    assert without_userinfo(text) == masked


SHOWN = {
    "region": (Options({"region_name": "eu-west-1"}), "'region_name': 'eu-west-1'"),
    "profile": (Options({"profile_name": "minio"}), "'profile_name': 'minio'"),
    "endpoint": (Options(None, {"endpoint_url": "http://127.0.0.1:9"}), "'endpoint_url': 'http://127.0.0.1:9'"),
    "CA": (Options(None, {"verify": "/ca.pem"}), "'verify': '/ca.pem'"),
    "addressing": (Options(None, {"config": Config(s3={"addressing_style": "path"})}), "'addressing_style': 'path'"),
    "unsigned": (OPTIONS["unsigned"], "'signature_version': 'unsigned'"),
    "concurrency": (Options(max_concurrency=3), "max_concurrency=3"),
    "local paths": (Options(local_paths=False), "local_paths=False"),
    "name of a masked one": (Options(KEYS), "'aws_secret_access_key': '***'"),
}


@pytest.mark.parametrize(("options", "text"), SHOWN.values(), ids=SHOWN)
def test_what_is_no_secret_is_shown(options, text):
    assert text in repr(options)


BAD_WITH_SECRETS = {
    "a text for a mapping": lambda: Options(SECRET),
    "a list for a mapping": lambda: Options(None, [SECRET]),
    "concurrency": lambda: Options(KEYS, max_concurrency=0),
    "engine": lambda: Options(KEYS, engine="quick"),
    "botocore session": lambda: Options({**KEYS, "botocore_session": SECRET}),
    "unknown argument of a session": lambda: Options({**KEYS, "nonsense": SECRET}).session,
    "unknown argument of a client": lambda: Options(KEYS, {"nonsense": SECRET}).s3_client,
}


@pytest.mark.parametrize("make", BAD_WITH_SECRETS.values(), ids=BAD_WITH_SECRETS)
def test_no_secret_is_in_an_error(make):
    with pytest.raises((InvalidDatasetError, TypeError)) as refused:
        make()
    assert SECRET not in "".join(traceback.format_exception_only(refused.value))


# --- refused arguments

REFUSED = {
    "session as text": ({"session_kwargs": "eu-west-1"}, "session_kwargs is a str: give a mapping"),
    "client as list": ({"s3_client_kwargs": []}, "s3_client_kwargs is a list: give a mapping"),
    "botocore session": ({"session_kwargs": {"botocore_session": None}}, "botocore_session cannot be pickled"),
    "no concurrency": ({"max_concurrency": 0}, "max_concurrency=0: give a whole number of at least 1"),
    "float concurrency": ({"max_concurrency": 2.0}, r"max_concurrency=2.0: give a whole number"),
    "bool concurrency": ({"max_concurrency": True}, "max_concurrency=True: give a whole number"),
    "text concurrency": ({"max_concurrency": "8"}, "max_concurrency='8': give a whole number"),
    "engine": ({"engine": "crt"}, "engine='crt': give 'auto' or 'boto3'"),
    "local paths": ({"local_paths": None}, "local_paths=None: give True or False"),
}


@pytest.mark.parametrize(("kwargs", "said"), REFUSED.values(), ids=REFUSED)
def test_an_argument_that_makes_no_sense_is_refused(kwargs, said):
    with pytest.raises(InvalidDatasetError, match=said):
        Options(**kwargs)


@pytest.mark.parametrize(("kwargs", "said"), REFUSED.values(), ids=REFUSED)
def test_the_default_refuses_what_options_refuse(kwargs, said):
    with pytest.raises(InvalidDatasetError, match=said):
        Options.default(**kwargs)


def test_the_choices_are_given_by_name_only():
    with pytest.raises(TypeError):
        Options(None, None, 8)


ODD_CONFIGS = {"a dict": {"retries": {"mode": "standard"}}, "a text": "standard"}


@pytest.mark.parametrize("config", ODD_CONFIGS.values(), ids=ODD_CONFIGS)
def test_a_config_that_is_no_config_is_refused(config):
    with pytest.raises(InvalidDatasetError, match="Config"):
        Options(None, {"config": config})


def test_a_config_of_none_is_no_config():
    assert SECRET not in repr(Options(KEYS, {"config": None}))


# --- retries


def retries_of(config):
    return Options(KEYS, {"config": config} if config else None).s3_client.meta.config.retries


# botocore itself makes total_max_attempts of max_attempts, which does not count the first
RETRIES = {
    "none": (None, {"mode": "adaptive"}),
    "another setting": (Config(read_timeout=1), {"mode": "adaptive"}),
    "max_attempts": (Config(retries={"max_attempts": 2}), {"mode": "adaptive", "total_max_attempts": 3}),
    "total_max_attempts": (Config(retries={"total_max_attempts": 2}), {"mode": "adaptive", "total_max_attempts": 2}),
    "mode": (Config(retries={"mode": "standard"}), {"mode": "standard"}),
}


@pytest.mark.parametrize(("config", "retries"), RETRIES.values(), ids=RETRIES)
def test_retries_are_adaptive_unless_the_config_says_otherwise(config, retries):
    found = retries_of(config)
    assert {name: found[name] for name in retries} == retries


def test_the_config_of_the_user_is_kept_beside_the_retries():
    config = Config(read_timeout=7, s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    made = Options(KEYS, {"config": config}).s3_client.meta.config
    assert (made.read_timeout, made.s3["addressing_style"]) == (7, "path")


def test_the_config_of_the_user_is_not_changed():
    config = Config(retries={"max_attempts": 2})
    assert Options(KEYS, {"config": config}).s3_client
    assert config.retries == {"max_attempts": 2}


def test_a_client_has_a_connection_for_every_request_in_flight():
    assert Options(KEYS, max_concurrency=37).s3_client.meta.config.max_pool_connections == 37


def test_the_default_merges_a_config_too(environment):
    client = Options.default(None, {"config": Config(retries={"max_attempts": 2})}).s3_client
    assert client.meta.config.retries == {"mode": "adaptive", "total_max_attempts": 3}


ATTEMPTS = {
    "no config": (None, 5),
    "no retries": (Config(read_timeout=1), 5),
    "mode only": (Config(retries={"mode": "standard"}), 5),
    "total_max_attempts": (Config(retries={"total_max_attempts": 3}), 3),
    "max_attempts": (Config(retries={"max_attempts": 3}), 4),
    "no retry": (Config(retries={"max_attempts": 0}), 1),
    "one attempt": (Config(retries={"total_max_attempts": 1}), 1),
    "both": (Config(retries={"max_attempts": 9, "total_max_attempts": 2}), 2),
}


@pytest.mark.parametrize(("config", "count"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_attempts_are_those_of_the_config_or_five(config, count):
    options = Options(None, {"config": config} if config else None)
    assert _sessions.attempts(options.s3_client_kwargs, options.session) == count


# --- credentials in the options

WITH_KEYS = {"session": Options(KEYS), "client": Options(None, {"aws_access_key_id": "A"})}


@pytest.mark.parametrize("options", WITH_KEYS.values(), ids=WITH_KEYS)
def test_options_know_that_they_hold_credentials(options):
    assert has_credentials(options)


@pytest.mark.parametrize("options", WITH_KEYS.values(), ids=WITH_KEYS)
def test_options_can_leave_their_credentials_behind(options):
    assert not has_credentials(without_credentials(options))


def test_all_but_the_credentials_stays():
    options = Options(KEYS, {"use_ssl": False, "aws_session_token": SECRET}, max_concurrency=3, engine="boto3")
    expected = Options({"region_name": "us-east-1"}, {"use_ssl": False}, max_concurrency=3, engine="boto3")
    assert without_credentials(options) == expected


def test_options_of_a_profile_hold_no_credentials(profile):
    assert not has_credentials(Options({"profile_name": profile}))


# --- the default


def test_the_default_freezes_credentials_and_region_of_the_environment(environment):
    assert Options.default().session_kwargs == {
        "region_name": "eu-west-1",
        "aws_access_key_id": "AKIDENV",
        "aws_secret_access_key": SECRET,
        "aws_session_token": "token",
    }


def test_the_default_without_a_token_holds_none(environment, monkeypatch):
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    assert "aws_session_token" not in Options.default().session_kwargs


def test_the_default_reads_the_environment_afresh_at_each_call(environment, monkeypatch):
    before = Options.default()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNEW")
    after = Options.default()
    keys = [options.session_kwargs["aws_access_key_id"] for options in (before, after)]
    assert keys == ["AKIDENV", "AKIDNEW"]


def test_the_default_reads_the_environment_afresh_beside_a_session_that_boto3_keeps(environment, monkeypatch):
    boto3.client("s3")
    Options.default()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNEW")
    assert Options.default().session_kwargs["aws_access_key_id"] == "AKIDNEW"


def test_the_default_without_credentials_holds_none(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert Options.default().session_kwargs == {"region_name": "eu-west-1"}


def test_the_default_of_nothing_is_nothing():
    assert (Options.default().session_kwargs, Options.default().s3_client_kwargs) == ({}, {})


def test_the_default_does_not_make_a_default_session(environment):
    Options.default()
    assert boto3.DEFAULT_SESSION is None


ENDPOINTS = {
    "for S3": ({"AWS_ENDPOINT_URL_S3": "http://s3"}, "http://s3"),
    "for all": ({"AWS_ENDPOINT_URL": "http://all"}, "http://all"),
    "both": ({"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}, "http://s3"),
    "ignored": ({"AWS_ENDPOINT_URL_S3": "http://s3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
    "not ignored": ({"AWS_ENDPOINT_URL_S3": "http://s3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"}, "http://s3"),
    "none": ({}, None),
}


@pytest.mark.parametrize(("variables", "endpoint_url"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_the_default_freezes_the_endpoint_of_the_environment(environment, monkeypatch, variables, endpoint_url):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Options.default().s3_client_kwargs.get("endpoint_url") == endpoint_url


def test_the_default_freezes_a_profile_of_the_environment(profile, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", profile)
    options = Options.default()
    assert options.session_kwargs == {
        "region_name": "eu-north-1",
        "aws_access_key_id": "AKIDPROFILE",
        "aws_secret_access_key": SECRET,
    }
    assert options.s3_client_kwargs == {"endpoint_url": "http://127.0.0.1:9"}


def test_the_default_freezes_a_profile_that_was_given_and_needs_it_no_more(profile):
    options = Options.default({"profile_name": profile})
    assert options.session_kwargs == {
        "region_name": "eu-north-1",
        "aws_access_key_id": "AKIDPROFILE",
        "aws_secret_access_key": SECRET,
    }
    assert options.s3_client_kwargs == {"endpoint_url": "http://127.0.0.1:9"}


def test_an_unknown_profile_is_an_error_with_the_remedy():
    with pytest.raises(
        PermissionError, match=r"nobody.*the profiles of this machine are none.*or give Options"
    ) as refused:
        Options.default({"profile_name": "nobody"})
    assert refused.value.code == "NoCredentials"


def test_what_is_given_is_merged_over_the_default(environment):
    options = Options.default({"region_name": "us-west-2"}, {"verify": False})
    assert (options.session_kwargs["region_name"], options.s3_client_kwargs["verify"]) == ("us-west-2", False)
    assert options.session_kwargs["aws_access_key_id"] == "AKIDENV"


def test_an_endpoint_that_is_given_wins_over_the_environment(environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://environment")
    assert Options.default(None, {"endpoint_url": "http://given"}).s3_client_kwargs == {"endpoint_url": "http://given"}


def test_credentials_that_are_given_win_over_the_environment_whole(environment):
    given = {"aws_access_key_id": "AKIDGIVEN", "aws_secret_access_key": "given"}
    # the environment's token belongs to the environment's keys
    assert Options.default(given).session_kwargs == {**given, "region_name": "eu-west-1"}


def test_the_default_takes_what_options_take(environment):
    options = Options.default(max_concurrency=3, check_digests=False, engine="boto3")
    assert (options.max_concurrency, options.check_digests, options.engine) == (3, False, "boto3")


def test_a_config_that_ignores_configured_endpoints_is_heeded(environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://environment")
    options = Options.default(None, {"config": Config(ignore_configured_endpoint_urls=True)})
    assert options.s3_client.meta.endpoint_url != "http://environment"


def test_the_default_freezes_the_keys_of_a_default_session_that_was_set_up(environment):
    boto3.setup_default_session(aws_access_key_id="AKIDSETUP", aws_secret_access_key="set up", region_name="eu-west-3")
    assert Options.default().session_kwargs == {
        "region_name": "eu-west-3",
        "aws_access_key_id": "AKIDSETUP",
        "aws_secret_access_key": "set up",
    }


def test_the_default_freezes_the_profile_of_a_default_session_that_was_set_up(profile):
    boto3.setup_default_session(profile_name=profile)
    assert Options.default().session_kwargs == {
        "region_name": "eu-north-1",
        "aws_access_key_id": "AKIDPROFILE",
        "aws_secret_access_key": SECRET,
    }


def test_the_default_freezes_the_endpoint_of_a_default_session_that_was_set_up(profile):
    boto3.setup_default_session(profile_name=profile)
    assert Options.default().s3_client_kwargs == {"endpoint_url": "http://127.0.0.1:9"}


def test_the_default_freezes_the_region_of_a_default_session_that_was_set_up(environment):
    boto3.setup_default_session(region_name="eu-west-3")
    assert Options.default().session_kwargs["region_name"] == "eu-west-3"


def test_what_is_given_is_merged_over_a_default_session_that_was_set_up():
    boto3.setup_default_session(aws_access_key_id="AKIDSETUP", aws_secret_access_key="set up")
    options = Options.default({"region_name": "us-west-2"})
    assert options.session_kwargs.get("aws_access_key_id") == "AKIDSETUP"


def test_the_default_reaches_the_store_that_the_environment_names(default_options, bucket):
    bucket.put("a.txt", b"hello")
    answer = Options.default().s3_client.get_object(Bucket=bucket.name, Key="a.txt")
    assert answer["Body"].read() == b"hello"


# --- one client per process


def test_a_client_is_made_once():
    options = Options(KEYS)
    assert options.s3_client is options.s3_client


def test_equal_options_share_session_and_client():
    one, other = Options(KEYS), WAYS["pickle"](Options(KEYS))
    assert one.session is other.session
    assert one.s3_client is other.s3_client


def test_different_options_share_no_client():
    assert Options(KEYS).s3_client is not Options(KEYS, max_concurrency=1).s3_client


def test_what_was_not_used_lately_is_let_go():
    """Credentials that rotate make options without end."""
    first = Options(KEYS, max_concurrency=999)
    session = first.session
    for count in range(100, 130):
        assert Options(KEYS, max_concurrency=count).session
    assert first.session is not session


def test_what_is_used_all_the_time_is_kept():
    first = Options(KEYS, max_concurrency=999)
    session = first.session
    for count in range(100, 130):
        assert Options(KEYS, max_concurrency=count).session
        assert first.session is session


def test_16_threads_get_one_client():
    options = Options({**KEYS, "region_name": "eu-west-2"})  # used by no other test
    barrier = threading.Barrier(16)

    def client(_):
        barrier.wait()
        return options.s3_client

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert len(set(map(id, pool.map(client, range(16))))) == 1


def in_a_fork(tell):
    """Return what `tell` returns in a forked child, as JSON through a pipe; a child that hangs tells nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)
            os.write(writer, json.dumps(tell()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123  # a descriptor has no path
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told)


def test_a_forked_child_makes_a_client_of_its_own():
    options = Options(KEYS)
    parents = options.s3_client
    told = in_a_fork(lambda: {"pid": os.getpid(), "is parent's": options.s3_client is parents})
    assert told["pid"] != os.getpid()
    assert told["is parent's"] is False


def test_a_forked_child_makes_a_session_of_its_own():
    options = Options(KEYS)
    parents = options.session
    assert in_a_fork(lambda: options.session is parents) is False


def test_a_fork_leaves_the_parent_its_client():
    options = Options(KEYS)
    parents = options.s3_client
    in_a_fork(lambda: bool(options.s3_client))
    assert options.s3_client is parents


def test_a_child_forked_while_another_thread_makes_something_can_make_a_client():
    """A lock that is held at the fork has nobody in the child to release it."""
    started, leave = threading.Event(), threading.Event()

    def make():
        started.set()
        return leave.wait(60)

    maker = threading.Thread(target=_per_process.shared, args=("something slow", make))
    maker.start()
    started.wait()
    try:
        assert in_a_fork(lambda: bool(Options(KEYS).s3_client)) is True
    finally:
        leave.set()
        maker.join()


def read(options):
    return options.s3_client.get_object(Bucket="bucket", Key="a.txt")["Body"].read().decode()


def test_the_client_of_a_forked_child_reaches_the_store(faults, fault_options):
    faults.put("s3://bucket/a.txt", b"hello")
    assert [read(fault_options), in_a_fork(lambda: read(fault_options))] == ["hello", "hello"]


def test_options_reach_the_store_from_a_spawned_process(faults, fault_options):
    faults.put("s3://bucket/a.txt", b"hello")
    assert read(fault_options) == "hello"
    reader = file_dataset.reader({"a.txt": "s3://bucket/a.txt"}, options=fault_options)
    # the bound method of a class of the package, so that the child need not find this file
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        table = pool.apply(reader.into_blob_table)
    assert table.to_pydict() == {"a.txt": [b"hello"]}
