"""`options=None`: boto3's default session as it is at the call, made once, its credentials fetched once."""

from __future__ import annotations

import concurrent.futures
import json
import pickle
import stat
import threading
from collections import OrderedDict

import boto3
import pandas as pd
import pytest
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from helpers import options_for
from servers.faults import Status

import file_dataset
from file_dataset import InvalidDatasetError, Options, RowError, RunStoppedError, _per_process, _plain

ROW = {"a.txt": "s3://bucket/a.txt"}


@pytest.fixture(autouse=True, params=["boto3 is loaded", "boto3 is not loaded"])
def _as_if_boto3_were_loaded_or_not(request, monkeypatch):
    """Where it is not loaded there is no default session."""
    if request.param == "boto3 is not loaded":
        monkeypatch.setattr(_plain, "may_be", lambda: boto3.DEFAULT_SESSION is None)


@pytest.fixture
def store(own_faults, monkeypatch):
    """A store that the environment names, and a process that knows of no session yet."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(_per_process, "_recent", OrderedDict())
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", own_faults.endpoint_url)
    own_faults.put("s3://bucket/a.txt", b"hello")
    return own_faults


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A credential_process whose every run gives other keys; how often it ran."""
    script = tmp_path / "keys.sh"
    keys = {
        "Version": 1,
        "AccessKeyId": "AK$n",
        "SecretAccessKey": "SK",
        "SessionToken": "T$n",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    script.write_text(f"""#!/bin/sh
echo x >> {tmp_path}/runs
n=$(wc -l < {tmp_path}/runs)
cat <<END
{json.dumps(keys)}
END
""")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {script}\n[profile other]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    runs = tmp_path / "runs"
    return lambda: len(runs.read_text().splitlines()) if runs.exists() else 0


def use(number):
    file_dataset.reader(ROW).into_blob_table()
    file_dataset.write_files({"a.txt": __file__}, into_path="s3://bucket/o", id=number)


def copied(input_dir, output_dir):
    (output_dir / "o.txt").write_bytes((input_dir / "a.txt").read_bytes())
    return {"o.txt": output_dir / "o.txt"}


def test_ten_calls_in_a_row_fetch_credentials_once_over_one_connection(store, process):
    for number in range(10):
        use(number)
    assert (process(), store.accepted) == (1, 1)


def test_ten_calls_at_once_fetch_credentials_once(store, process):
    barrier = threading.Barrier(10)

    def call(number):
        barrier.wait()
        use(number)

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        list(pool.map(call, range(10)))
    assert process() == 1
    assert store.accepted <= 10


def test_a_pipeline_its_pickle_and_a_default_share_them(store, process):
    pipeline = file_dataset.Pipeline(copied, write_options={"into_path": "s3://bucket/o"}, progress=False)
    frame = pd.DataFrame({"id": range(6), "a.txt": ["s3://bucket/a.txt"] * 6})
    assert len(pipeline(frame)) == 6
    assert pickle.loads(pickle.dumps(pipeline))._settings.options.session_kwargs["aws_access_key_id"] == "AK1"  # noqa: SLF001
    assert Options.default().session_kwargs["aws_access_key_id"] == "AK1"
    assert process() == 1


@pytest.mark.parametrize("profile", [None, "other"])
def test_a_default_session_that_was_set_up_keeps_its_own(store, process, profile):
    boto3.setup_default_session(profile_name=profile)
    for number in range(3):
        use(number)
    assert (process(), store.accepted) == (1, 1)


def test_a_change_of_the_environment_is_seen_at_the_next_call(store, monkeypatch):
    for key in ("AKID1", "AKID2", "AKID1"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        file_dataset.reader(ROW).into_blob_table()
    assert dict(store.access_keys) == {"AKID1": 2, "AKID2": 1}


def test_a_credentials_file_that_is_replaced_is_seen_at_the_next_call(store, monkeypatch, tmp_path):
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    for key in ("AKID1", "AKID2"):
        path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")
        file_dataset.reader(ROW).into_blob_table()
    assert dict(store.access_keys) == {"AKID1": 1, "AKID2": 1}


def test_another_default_session_is_seen_at_the_next_call(store):
    for key in ("AKID1", "AKID2"):
        boto3.setup_default_session(aws_access_key_id=key, aws_secret_access_key="secret")
        file_dataset.reader(ROW).into_blob_table()
    assert dict(store.access_keys) == {"AKID1": 1, "AKID2": 1}


def test_sessions_of_credentials_that_rotate_are_let_go(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for number in range(20):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKID{number}")
        file_dataset.reader(ROW).into_blob_table()
    assert len(_per_process._recent) <= 6  # three sessions and their stores, at 7 MiB each  # noqa: SLF001


def test_local_work_asks_for_no_credentials(store, process, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    file_dataset.write_files({"a.txt": tmp_path / "a.txt"}, into_path=tmp_path / "out", id=1)
    file_dataset.reader({"a.txt": tmp_path / "a.txt"}).into_blob_table()
    assert process() == 0


# --- settings


@pytest.mark.parametrize("where", ["environment", "profile"])
@pytest.mark.parametrize("make", [lambda: None, Options, Options.default], ids=["None", "Options", "default"])
def test_max_attempts_of_environment_and_profile_are_heeded(store, monkeypatch, tmp_path, where, make):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "config").write_text("[default]\nmax_attempts = 2\n")
    if where == "profile":
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    else:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store.fail("GetObject", Status(500, "InternalError"), times=None)
    with pytest.raises(RowError, match="after 2 attempts"):
        file_dataset.reader(ROW, options=make()).into_blob_table()
    assert store.count("GetObject") == 2


def test_a_config_wins_over_max_attempts_of_the_environment(store, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    config = Config(retries={"total_max_attempts": 3})
    store.fail("GetObject", Status(500, "InternalError"), times=None)
    with pytest.raises(RowError, match="after 3 attempts"):
        file_dataset.reader(ROW, options=options_for(store.endpoint_url, config=config)).into_blob_table()


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize("name", ["read_timeout", "connect_timeout"])
def test_a_timeout_of_none_is_no_timeout(store, name, engine):
    options = options_for(store.endpoint_url, config=Config(**{name: None}), engine=engine)
    assert file_dataset.reader(ROW, options=options).into_blob_table().to_pydict() == {"a.txt": [b"hello"]}


def test_the_default_freezes_every_s3_setting_of_a_profile(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("""[profile mine]
region = eu-north-1
aws_access_key_id = AKID
aws_secret_access_key = secret
ca_bundle = /etc/my-ca.pem
max_attempts = 7
retry_mode = standard
request_checksum_calculation = when_required
response_checksum_validation = when_required
use_fips_endpoint = true
tcp_keepalive = true
s3 =
  addressing_style = virtual
  payload_signing_enabled = false
  us_east_1_regional_endpoint = regional
  max_concurrent_requests = 20
""")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    client = Options.default(
        {"profile_name": "mine"}, {"config": Config(s3={"addressing_style": "path"})}
    ).s3_client_kwargs
    assert client["verify"] == "/etc/my-ca.pem"
    config = client["config"]
    assert config.s3 == {
        "addressing_style": "path", "payload_signing_enabled": False, "us_east_1_regional_endpoint": "regional",
    }  # fmt: skip
    assert config.retries == {"total_max_attempts": 7, "mode": "standard"}
    assert (config.request_checksum_calculation, config.response_checksum_validation) == ("when_required",) * 2
    assert config.use_fips_endpoint is True
    # older botocores read no tcp_keepalive from a profile
    assert config.tcp_keepalive is (True if "tcp_keepalive" in BOTOCORE_DEFAUT_SESSION_VARIABLES else None)


def test_the_default_client_config_of_a_session_is_frozen_too(monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    boto3.setup_default_session(region_name="eu-north-1")
    boto3.DEFAULT_SESSION._session.set_default_client_config(Config(read_timeout=7))  # noqa: SLF001
    assert Options.default().s3_client_kwargs["config"].read_timeout == 7


# --- what cannot work is refused before the first row

KEYS = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret-key", "region_name": "us-east-1"}
HTTPS = {"endpoint_url": "https://127.0.0.1:9"}


def missing_by_argument(monkeypatch, path):
    return Options(KEYS, {**HTTPS, "verify": str(path)}), f"verify= of the Options names {path}: No such file"


def missing_by_variable(monkeypatch, path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    return Options(KEYS, HTTPS), f"AWS_CA_BUNDLE names {path}: No such file"


def missing_by_profile(monkeypatch, path):
    config, profile = path.parent / "config", path.parent.name  # of this test alone: equal options have one store
    config.write_text(f"[profile {profile}]\naws_access_key_id = A\naws_secret_access_key = b\nca_bundle = {path}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    return Options(
        {"profile_name": profile, "region_name": "x"}, HTTPS
    ), f"ca_bundle of the profile names {path}: No such"


def no_certificate(monkeypatch, path):
    path.write_text("nothing in PEM")
    return Options(KEYS, {**HTTPS, "verify": str(path)}), f"names {path}, which holds no certificate"


def missing_client_certificate(monkeypatch, path):
    return Options(KEYS, {**HTTPS, "config": Config(client_cert=str(path))}), f"client_cert of the Config names {path}"


def unknown_signature(monkeypatch, path):
    return Options(KEYS, {**HTTPS, "config": Config(signature_version="s3v9")}), "signature_version 's3v9'"


def no_endpoint(monkeypatch, path):
    return Options(KEYS, {"endpoint_url": "https://host with spaces:9"}), "make no S3 client"


BROKEN = [
    missing_by_argument, missing_by_variable, missing_by_profile, no_certificate, missing_client_certificate,
    unknown_signature, no_endpoint,
]  # fmt: skip


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_work_is_refused_by_name(monkeypatch, tmp_path, broken, engine):
    options, said = broken(monkeypatch, tmp_path / "ca.pem")
    options = Options(options.session_kwargs, options.s3_client_kwargs, engine=engine)
    with pytest.raises(InvalidDatasetError) as refused:
        file_dataset.reader(ROW, options=options).into_blob_table()
    assert said in str(refused.value)


def test_a_target_that_cannot_work_is_refused_before_fn_runs(tmp_path):
    ran = []
    (tmp_path / "a.txt").write_text("x")
    pipeline = file_dataset.Pipeline(
        lambda input_dir, output_dir: ran.append(1),
        write_options={"into_path": "s3://bucket/o"},
        options=Options(KEYS, {**HTTPS, "verify": "/nowhere/ca.pem"}),
        progress=False,
    )
    with pytest.raises(InvalidDatasetError, match=r"/nowhere/ca\.pem") as refused:
        pipeline(pd.DataFrame({"id": [1], "a.txt": [tmp_path / "a.txt"]}))
    assert not ran
    assert len(refused.value.result.unprocessed_rows) == 1


def test_a_ca_that_is_not_there_does_not_matter_over_http(store, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    options = options_for(store.endpoint_url)
    assert file_dataset.reader(ROW, options=options).into_size_table().num_rows == 1


@pytest.mark.parametrize("make", [Options, Options.default])
def test_a_misspelled_profile_is_named_with_those_that_exist(monkeypatch, tmp_path, make):
    (tmp_path / "config").write_text("[profile minio]\nregion = x\n[profile r2]\nregion = x\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(
        (RowError, PermissionError), match=r"\(mini0\).*the profiles of this machine are \['minio', 'r2'\]"
    ):
        file_dataset.reader(ROW, options=make({"profile_name": "mini0"})).into_blob_table()


def test_a_run_stops_at_a_misspelled_profile(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mini0")
    frame = pd.DataFrame({"id": range(50), "a.txt": ["s3://bucket/a.txt"] * 50})
    pipeline = file_dataset.Pipeline(copied, write_options={"into_path": "s3://bucket/o"}, progress=False)
    with pytest.raises(RunStoppedError, match="mini0"):
        pipeline(frame)
