"""A plain S3 is found, and requested, without boto3, and as boto3 would; what is not plain is boto3's."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import OrderedDict

import boto3
import botocore.session
import pytest
from botocore.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.faults import Redirect

import file_dataset
from file_dataset import InvalidDatasetError, Options, RowError, _defaults, _per_process, _plain
from file_dataset._s3.access import CurrentAccess

KEYS = {"aws_access_key_id": "AKID", "aws_secret_access_key": "of the options"}
IN_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "of the environment"}
REGION = {"AWS_DEFAULT_REGION": "eu-central-1"}
PROFILE = "[profile mine]\naws_access_key_id = AKIDMINE\naws_secret_access_key = of the profile\n"
CREDENTIALS = "[mine]\naws_access_key_id = AKIDFILE\naws_secret_access_key = of the file\n[other]\nregion = x-1\n"
HTTP, HTTPS = {"endpoint_url": "http://store.example:9000"}, {"endpoint_url": "https://store.example"}


def cases_of(**kwargs):
    """Environment, config file, credentials file, arguments of session and client, and bucket."""
    usual = {"environment": {}, "config": None, "credentials": None, "session": {}, "client": {}, "bucket": "bucket"}
    return usual | kwargs


PLAIN = {
    "keys of the environment": cases_of(environment=IN_ENVIRONMENT | REGION),
    "a token": cases_of(environment=IN_ENVIRONMENT | REGION | {"AWS_SESSION_TOKEN": "to/k+en=="}),
    "keys of the options": cases_of(session=KEYS | {"region_name": "us-west-2"}),
    "they win over the environment": cases_of(environment=IN_ENVIRONMENT | {"AWS_SESSION_TOKEN": "t"}, session=KEYS),
    "no region, AWS": cases_of(session=KEYS),
    "no region, an endpoint": cases_of(session=KEYS, client=HTTP),
    "us-east-1": cases_of(session=KEYS | {"region_name": "us-east-1"}),
    "a region of the store's own": cases_of(session=KEYS | {"region_name": "garage"}, client=HTTPS),
    "a region of the environment": cases_of(environment=REGION, session=KEYS, client=HTTP),
    "https": cases_of(session=KEYS, client=HTTPS),
    "its own port": cases_of(session=KEYS, client={"endpoint_url": "http://store.example:80"}),
    "another port over TLS": cases_of(session=KEYS, client={"endpoint_url": "https://store.example:8443/"}),
    "an address": cases_of(session=KEYS, client={"endpoint_url": "http://127.0.0.1:9000"}),
    "a name without a dot": cases_of(session=KEYS, client={"endpoint_url": "http://minio:9000"}),
    "an endpoint of the environment": cases_of(environment={"AWS_ENDPOINT_URL": "http://all"}, session=KEYS),
    "one of S3": cases_of(
        environment={"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3.example"}, session=KEYS
    ),
    "the one that is given": cases_of(environment={"AWS_ENDPOINT_URL_S3": "http://s3"}, session=KEYS, client=HTTP),
    "no certificate is looked at": cases_of(session=KEYS, client=HTTPS | {"verify": False}),
    "the usual certificates": cases_of(session=KEYS, client=HTTPS | {"verify": True}),
    "a CA of the options": cases_of(session=KEYS, client=HTTPS | {"verify": "CA"}),
    "a CA of the environment": cases_of(environment={"AWS_CA_BUNDLE": "CA"}, session=KEYS, client=HTTPS),
    "a CA of the profile": cases_of(
        environment={"AWS_PROFILE": "mine"}, config=PROFILE + "ca_bundle = CA\n", client=HTTPS
    ),
    "a profile that is given": cases_of(
        environment=IN_ENVIRONMENT | REGION, config=PROFILE + "region = r-1\n", session={"profile_name": "mine"},
        client=HTTP,
    ),
    "a profile of the environment": cases_of(
        environment={"AWS_PROFILE": "mine"}, config=PROFILE + "region = eu-west-1\nendpoint_url = http://mine\n"
    ),
    "the environment's keys win over its profile's": cases_of(
        environment={"AWS_PROFILE": "mine", **IN_ENVIRONMENT}, config=PROFILE + "region = eu-west-1\n"
    ),
    "an endpoint of the environment wins over the profile's": cases_of(
        environment={"AWS_PROFILE": "mine", "AWS_ENDPOINT_URL": "http://all"},
        config=PROFILE + "endpoint_url = http://mine\n",
    ),
    "a profile of the credentials file": cases_of(environment={"AWS_PROFILE": "mine"}, credentials=CREDENTIALS),
    "the credentials file wins over the config file": cases_of(
        environment={"AWS_PROFILE": "mine"}, config=PROFILE + "region = eu-west-2\n", credentials=CREDENTIALS
    ),
    "a region beside keys of the credentials file": cases_of(
        session={"profile_name": "mine"}, config="[profile mine]\nregion = eu-west-3\noutput = json\n",
        credentials=CREDENTIALS + "aws_session_token = of another\n",
    ),
    "the default profile": cases_of(config=PROFILE.replace("profile mine", "default") + "region = ca-west-1\n"),
    "its region alone": cases_of(environment=IN_ENVIRONMENT, config="[default]\nregion = me-south-1\n"),
    "other profiles may be unusual": cases_of(
        environment=IN_ENVIRONMENT | REGION, config="[profile other]\nsso_session = x\n[sso-session x]\na = b\n"
    ),
    "a region that says the same": cases_of(environment=IN_ENVIRONMENT | REGION | {"AWS_REGION": "eu-central-1"}),
    "what is of other services": cases_of(
        environment=IN_ENVIRONMENT | REGION | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_EXECUTION_ENV": "AWS_ECS_EC2"}
    ),
    "the shortest name": cases_of(session=KEYS, client=HTTP, bucket="a-1"),
    "the longest name": cases_of(session=KEYS, bucket="a" * 63),
}  # fmt: skip

UNUSUAL = {
    "no keys": cases_of(environment=REGION),
    "half of the keys": cases_of(environment={"AWS_ACCESS_KEY_ID": "AKID"}),
    "half of the keys of the options": cases_of(environment=IN_ENVIRONMENT, session={"aws_access_key_id": "AKID"}),
    "a token alone": cases_of(
        environment={"AWS_SESSION_TOKEN": "t"}, config=PROFILE.replace("profile mine", "default")
    ),
    "keys that end": cases_of(environment=IN_ENVIRONMENT | {"AWS_CREDENTIAL_EXPIRATION": "2099-01-01T00:00:00Z"}),
    "another name of the token": cases_of(environment=IN_ENVIRONMENT | {"AWS_SECURITY_TOKEN": "t"}),
    "a key with a line break": cases_of(environment=IN_ENVIRONMENT | {"AWS_SECRET_ACCESS_KEY": "x\n"}),
    "keys of the client": cases_of(client=KEYS),
    "keys beside a profile": cases_of(config=PROFILE, session=KEYS | {"profile_name": "mine"}),
    "keys in two files": cases_of(
        environment={"AWS_PROFILE": "mine"}, config=PROFILE, credentials="[mine]\naws_access_key_id = AKID\n"
    ),
    "an unknown profile": cases_of(environment=IN_ENVIRONMENT | {"AWS_PROFILE": "mine"}),
    "a role": cases_of(environment={"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}),
    "a role of the profile": cases_of(
        config=PROFILE + "role_arn = arn:aws:iam::123456789012:role/x\nsource_profile = mine\n",
        session={"profile_name": "mine"},
    ),
    "a process of the profile": cases_of(config=PROFILE + "credential_process = x\n", session={"profile_name": "mine"}),
    "S3's settings of the profile": cases_of(
        config=PROFILE + "s3 =\n  addressing_style = virtual\n", session={"profile_name": "mine"}, client=HTTP
    ),
    "services of the profile": cases_of(
        config=PROFILE + "services = x\n[services x]\ns3 =\n  endpoint_url = http://x\n",
        session={"profile_name": "mine"},
    ),
    "a file that cannot be read": cases_of(environment=IN_ENVIRONMENT, config="no INI\n"),
    "an empty endpoint": cases_of(environment={"AWS_ENDPOINT_URL": ""}, session=KEYS),
    "a Config": cases_of(session=KEYS, client=HTTP | {"config": Config(s3={"addressing_style": "virtual"})}),
    "use_ssl": cases_of(session=KEYS, client={"use_ssl": False}),
    "a region of the client": cases_of(session=KEYS, client=HTTP | {"region_name": "x-1"}),
    "another region": cases_of(environment=IN_ENVIRONMENT | REGION | {"AWS_REGION": "us-west-2"}),
    "China": cases_of(session=KEYS | {"region_name": "cn-north-1"}),
    "a region of no S3": cases_of(session=KEYS | {"region_name": "x-1"}),
    "no region": cases_of(session=KEYS | {"region_name": "a region"}, client=HTTP),
    "FIPS by region": cases_of(session=KEYS | {"region_name": "fips-us-west-2"}, client=HTTP),
    "AWS's own endpoint": cases_of(session=KEYS, client={"endpoint_url": "https://s3.us-west-2.amazonaws.com"}),
    "a path in the endpoint": cases_of(session=KEYS, client={"endpoint_url": "http://store.example/s3"}),
    "a password in the endpoint": cases_of(session=KEYS, client={"endpoint_url": "http://me:secret@store.example"}),
    "a bucket with a dot": cases_of(session=KEYS, client=HTTP, bucket="my.bucket"),
    "an old bucket": cases_of(session=KEYS, client=HTTP, bucket="My_Bucket"),
    "a directory bucket": cases_of(session=KEYS, client=HTTP, bucket="zone--usw2-az1--x-s3"),
    "an alias of an access point": cases_of(session=KEYS, bucket="name-abcdefgh-s3alias"),
    "an access point": cases_of(session=KEYS, bucket="arn:aws:s3:us-west-2:123456789012:accesspoint/name"),
    **{
        f"{name}={value}": cases_of(environment=IN_ENVIRONMENT | REGION | {name: value})
        for name, value in {
            "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_MAX_ATTEMPTS": "2",
            "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional", "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
            "AWS_DATA_PATH": "/x", "AWS_DEFAULT_PROFILE": "default", "AWS_WHAT_COMES_YET": "1",
            "BOTOCORE_TCP_KEEPALIVE": "true", "HTTP_PROXY": "http://proxy", "https_proxy": "http://proxy",
        }.items()
    },
}  # fmt: skip


def access_of(case, ca, tmp_path, patch):
    """Set up the case; what takes its options, with no access made yet."""
    patch.setenv("HOME", str(tmp_path))
    patch.setattr(boto3, "DEFAULT_SESSION", None)
    patch.setattr(_per_process, "_recent", OrderedDict())
    for name, kind in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        patch.setenv(name, str(tmp_path / kind))
        (tmp_path / kind).unlink(missing_ok=True)
        if case[kind] is not None:
            (tmp_path / kind).write_text(case[kind].replace("= CA\n", f"= {ca}\n"))
    for name, value in case["environment"].items():
        patch.setenv(name, ca if value == "CA" else value)
    client = {name: ca if value == "CA" else value for name, value in case["client"].items()}
    patch.setattr(_plain, "may_be", lambda: True)
    return CurrentAccess(Options(case["session"], client), None)


def looks(access, bucket):
    """All that a request, and what is made of its answer, depends on."""
    route = access.router.route(bucket)
    endpoint, tls = route.endpoint, route.endpoint.tls
    signer = access.router.signer(route)
    headers, read_headers = ({**of, "user-agent": ""} for of in (route.headers, route.read_headers))
    return {
        "at": (endpoint.host, endpoint.port, endpoint.keepalive, route.path),
        "patience": (endpoint.connect_timeout_s, endpoint.read_timeout_s, access.attempts),
        "tls": tls and (tls.verify_mode, tls.check_hostname, tls.minimum_version, tls.get_ca_certs()),
        "headers": (headers, read_headers, route.no_payload, route.signs_payload, route.scope),
        "signature": vars(signer) if hasattr(signer, "__dict__") else [getattr(signer, n) for n in signer.__slots__],
        "digests": (access.asks_for_digests, access.algorithm({}), access.algorithm({"ChecksumSHA256": "x"})),
        "uploads": (access.router.upload_headers(bucket, {}), access.router.is_changed),
        "keys": access.keys(),
        "endpoint": access.endpoint_url,
    }


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_what_is_plain_is_requested_as_boto3_would(case, authority, tmp_path, monkeypatch):
    current = access_of(case, str(authority.path), tmp_path, monkeypatch)
    plain = current.get(case["bucket"])
    assert plain.is_plain
    connected = current.connected(plain)
    assert not connected.is_plain
    assert current.get(case["bucket"]) is connected
    assert looks(plain, case["bucket"]) == looks(connected, case["bucket"])


@pytest.mark.parametrize("case", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_boto3s(case, authority, tmp_path, monkeypatch):
    current = access_of(case, str(authority.path), tmp_path, monkeypatch)
    access = current._plain()  # noqa: SLF001  # without what boto3 says of it
    assert access is None or not access.router.knows(case["bucket"])


def some(values):
    """None of them, or one."""
    return st.sampled_from([None, *values])


REGIONS = ["us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1", "aws-global", "garage", "x-1", "us-west-22", ""]
URLS = [
    "http://store", "https://store.example", "http://store.example:80/", "http://store.example:9000/s3", "https://STORE",
    "https://s3.amazonaws.com", "http://[::1]:9000", "http://store_1:9", "http://-store", "http://a..b", "",
]  # fmt: skip
ANYTHING = st.fixed_dictionaries({
    "environment": st.fixed_dictionaries(
        {},
        optional={
            "AWS_ACCESS_KEY_ID": st.sampled_from(["AKIDENV", ""]),
            "AWS_SECRET_ACCESS_KEY": st.sampled_from(["of the environment", ""]),
            "AWS_SESSION_TOKEN": st.sampled_from(["t", ""]),
            "AWS_DEFAULT_REGION": st.sampled_from(REGIONS),
            "AWS_REGION": st.sampled_from(REGIONS),
            "AWS_PROFILE": st.sampled_from(["mine", "other", "default", ""]),
            "AWS_ENDPOINT_URL": st.sampled_from(URLS),
            "AWS_ENDPOINT_URL_S3": st.sampled_from(URLS),
            "AWS_CA_BUNDLE": st.sampled_from(["CA", ""]),
        },
    ),
    "config": some([
        PROFILE, PROFILE + "region = eu-west-1\n", PROFILE + "endpoint_url = http://mine\n", "[profile mine]\n",
        PROFILE.replace("profile mine", "default"), "[default]\nregion = eu-west-2\n[mine]\nregion = x\n",
        PROFILE + "region =\n", PROFILE + "endpoint_url =\n  a = b\n", "[profile 'mine']\nregion = x-1\n",
    ]),
    "credentials": some([CREDENTIALS, CREDENTIALS + "[default]\nregion = eu-west-3\n", "[mine]\n", "[default]\n"]),
    "session": st.one_of(
        st.sampled_from([{}, KEYS, KEYS | {"aws_session_token": "t"}]),
        st.fixed_dictionaries({
            "profile_name": st.sampled_from(["mine", "other", "default"]),
        }),
    ).flatmap(lambda of: some(REGIONS).map(lambda region: of if region is None else of | {"region_name": region})),
    "client": some(URLS).map(lambda url: {"endpoint_url": url} if url else {}),
    "bucket": st.sampled_from(["bucket", "my.bucket", "192.168.1.1", "a-1", "xn--a", "-a1", "Bucket", "a" * 64]),
})  # fmt: skip


@settings(max_examples=120, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=ANYTHING)
def test_whatever_is_set_is_unusual_or_the_same(case, authority, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        current = access_of(case, str(authority.path), tmp_path_factory.getbasetemp(), patch)
        plain = current._plain()  # noqa: SLF001  # what is not plain needs no client to be made
        if plain is not None and plain.router.knows(case["bucket"]):
            assert looks(plain, case["bucket"]) == looks(current.connected(plain), case["bucket"])


def test_every_region_is_unusual_or_requested_as_boto3_would(monkeypatch):
    monkeypatch.setattr(_plain, "may_be", lambda: True)
    session = botocore.session.get_session()
    partitions = [session.get_available_regions("s3", name) for name in session.get_available_partitions()]
    found = []
    for region in itertools.chain(*partitions, ["us-east-9", "eu-isoe-west-1", "s3-external-1"]):
        current = CurrentAccess(Options({**KEYS, "region_name": region}), None)
        plain = current._plain()  # noqa: SLF001
        if plain is not None:
            assert looks(plain, "bucket") == looks(current.connected(plain), "bucket")
            found.append(region)
    assert len(found) > 25
    assert not [region for region in found if region.startswith(("cn-", "us-gov", "us-iso"))]


def test_a_folder_of_models_is_boto3s(tmp_path, monkeypatch):
    current = access_of(PLAIN["keys of the options"], "", tmp_path, monkeypatch)
    (tmp_path / ".aws" / "models").mkdir(parents=True)
    assert not current.get("bucket").is_plain


@pytest.mark.parametrize("verify", ["/nowhere/ca.pem", __file__], ids=["not there", "no CA"])
def test_a_ca_that_cannot_be_is_refused_in_the_same_words(verify, tmp_path, monkeypatch):
    said = []
    for may_be in (True, False):
        case = cases_of(session=KEYS, client=HTTPS | {"verify": verify})
        current = access_of(case, "", tmp_path, monkeypatch)
        monkeypatch.setattr(_plain, "may_be", lambda may_be=may_be: may_be)
        with pytest.raises(InvalidDatasetError) as refused:
            current.get("bucket")
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_the_engine_boto3_is_never_plain(tmp_path, monkeypatch):
    monkeypatch.setattr(_plain, "may_be", lambda: True)
    assert not CurrentAccess(Options(KEYS, HTTP, engine="boto3"), None).get("bucket").is_plain


# --- a new process

READ = """
import os, sys
import file_dataset
url, kind = sys.argv[1:]
keys = {"aws_access_key_id": "AKID", "aws_secret_access_key": "x"}
options = None
if kind == "options":
    options = file_dataset.Options(keys, {"endpoint_url": url})
elif kind == "environment":
    os.environ.update({name.upper(): value for name, value in keys.items()}, AWS_ENDPOINT_URL=url)
else:
    with open(os.environ["AWS_CONFIG_FILE"], "w") as file:
        print("[profile mine]", *map(" = ".join, keys.items()), f"endpoint_url = {url}", sep="\\n", file=file)
    os.environ["AWS_PROFILE"] = "mine"
row = {"id": "1", "a.txt": "s3://bucket/a.txt"}
def read():
    with file_dataset.reader(row, options=options).into_temp_dir() as path:
        return (path / "a.txt").read_text()
print(read())
HEAVY = ("boto3", "botocore.session", "botocore.client", "urllib3", "awscrt", "pandas", "pyarrow", "numpy")
print([name for name in HEAVY if name in sys.modules])
"""


def ran(script, *arguments):
    """Return the lines that a script prints in a process of its own."""
    program = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    made = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.splitlines()


@pytest.mark.parametrize("kind", ["options", "environment", "profile"])
def test_a_new_process_reads_a_row_without_boto3_pandas_and_pyarrow(kind, faults, tmp_path, monkeypatch):
    faults.put("s3://bucket/a.txt", b"hello")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert ran(READ, faults.endpoint_url, kind) == ["hello", "[]"]


LIST = """
import sys
from file_dataset import Options
from file_dataset._s3.store import S3Store
from file_dataset._urls import ObjectUrl
store = S3Store(Options({"aws_access_key_id": "AKID", "aws_secret_access_key": "x"}, {"endpoint_url": sys.argv[1]}))
for each in store.list(ObjectUrl("bucket", "a")).result():
    store.remove(each.at).result()
print([name for name in ("boto3", "botocore.client", "urllib3") if name in sys.modules])
"""


def test_a_new_process_lists_and_removes_without_boto3(faults):
    faults.put("s3://bucket/a.txt", b"hello")
    faults.put("s3://bucket/b.txt", b"hello")
    assert ran(LIST, faults.endpoint_url) == ["[]"]
    assert faults.keys("bucket") == ["b.txt"]


WRITE = """
import sys
import file_dataset
keys = {"aws_access_key_id": "AKID", "aws_secret_access_key": "x"}
options = file_dataset.Options(keys, {"endpoint_url": sys.argv[1]})
def write(key, **kwargs):
    file_dataset.write_files({"o.txt": sys.argv[2]}, into_path=f"s3://bucket/{key}", id=1, options=options, **kwargs)
    print("botocore.client" in sys.modules)
write("plain")
write("typed", extra_args={"ContentType": "text/markdown"})
write("again")
"""


def test_uploads_load_boto3_for_extra_args_alone(faults, source):
    source.write_bytes(b"hello")
    faults.put("s3://bucket/other", b"")
    assert ran(WRITE, faults.endpoint_url, str(source)) == ["False", "True", "True"]
    types = [headers.get("content-type") for headers in faults.headers if headers[""] == "PutObject"]
    assert types[1] == "text/markdown"
    assert types[0] == types[2] != types[1]
    assert [faults.body(f"s3://bucket/{key}/1/o.txt") for key in ("plain", "again")] == [b"hello"] * 2


HANDLERS = (
    READ
    + """
import io, urllib3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
def answer(request, **_):
    raw = urllib3.HTTPResponse(io.BytesIO(b"mocked"), preload_content=False)
    return AWSResponse(request.url, 200, HTTPHeaders.from_pairs([("Content-Length", "6"), ("ETag", '"x"')]), raw)
def api_call(self, name, kwargs):
    return {"Body": io.BytesIO(b"patched"), "ContentLength": 7, "ETag": '"x"'}
from unittest import mock
with mock.patch("botocore.client.BaseClient._make_api_call", api_call):
    print(read())
print(read())
options.s3_client.meta.events.register("before-send.s3", answer)
print(read())
"""
)


@pytest.mark.parametrize("has_source", [False, True], ids=["Options()", "None"])
@pytest.mark.parametrize("way", ["switch", "look"])
def test_a_client_goes_on_with_what_the_first_request_had(has_source, way, faults, tmp_path, monkeypatch):
    environment = IN_ENVIRONMENT | {"AWS_ENDPOINT_URL": faults.endpoint_url}
    access_of(cases_of(environment=environment), "", tmp_path, monkeypatch)
    faults.put("s3://bucket/a.txt", b"hello")
    current = CurrentAccess(Options(), _defaults.source({}) if has_source else None)
    plain = current.get("bucket")
    # what fn sets for its own use
    for name, text in {"AWS_ACCESS_KEY_ID": "AKIDFN", "AWS_PROFILE": "of-fn", "AWS_ENDPOINT_URL": "http://fn"}.items():
        monkeypatch.setenv(name, text)
    if way == "look":
        monkeypatch.setattr(_plain, "may_be", lambda: False)
        current.look()
    access = current.get("bucket") if way == "look" else current.connected(plain)
    assert not access.is_plain
    assert looks(access, "bucket") == looks(plain, "bucket")
    assert access.client.get_object(Bucket="bucket", Key="a.txt")["Body"].read() == b"hello"


def test_a_mock_that_comes_after_a_plain_read_answers(faults):
    faults.put("s3://bucket/a.txt", b"hello")
    assert ran(HANDLERS, faults.endpoint_url, "options") == ["hello", "[]", "patched", "hello", "mocked"]


MISSING = (
    READ
    + """
row["a.txt"] = "s3://bucket/missing"
try:
    read()
except file_dataset.RowError as exc:
    print(exc.failures[0].code)
print("botocore.client" in sys.modules)
"""
)


def test_an_error_of_the_store_is_read_without_a_client(faults):
    faults.put("s3://bucket/a.txt", b"hello")
    assert ran(MISSING, faults.endpoint_url, "environment")[2:] == ["NoSuchKey", "False"]


def test_a_bucket_that_is_elsewhere_is_found_by_boto3(faults, tmp_path, monkeypatch):
    access_of(cases_of(), "", tmp_path, monkeypatch)
    faults.put("s3://bucket/a.txt", b"hello")
    faults.fail("GetObject", Redirect("eu-west-9"), times=None)
    options, redirects = Options(KEYS, {"endpoint_url": faults.endpoint_url}), []
    for _ in range(3):
        table = file_dataset.reader({"a.txt": "s3://bucket/a.txt"}, options=options).into_blob_table()
        assert table["a.txt"].to_pylist() == [b"hello"]
        redirects.append(len(faults.fired))
    assert redirects == [2, 2, 2]  # ours and boto3's first; what comes after goes where boto3 was sent


def test_keys_that_expired_are_read_afresh(faults, tmp_path, monkeypatch):
    case = cases_of(
        environment={"AWS_PROFILE": "mine", "AWS_ENDPOINT_URL": faults.endpoint_url}, credentials=CREDENTIALS
    )
    access_of(case, "", tmp_path, monkeypatch)
    faults.put("s3://bucket/a.txt", b"hello")
    faults.expire("AKIDFILE")
    options = Options()
    reader = file_dataset.reader({"a.txt": "s3://bucket/a.txt"}, options=options)
    with pytest.raises(RowError, match="this process's own are the same"):
        reader.into_blob_table()
    (tmp_path / "credentials").write_text(CREDENTIALS.replace("AKIDFILE", "AKIDNEW"))
    assert reader.into_blob_table()["a.txt"].to_pylist() == [b"hello"]
