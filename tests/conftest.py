"""Endpoints for the tests: a real S3 server on loopback, one that breaks on request, and nobody's credentials."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import socket
import tempfile
import threading
import uuid
from pathlib import Path

import coverage
import pytest
from botocore.loaders import JSONFileLoader, Loader
from helpers import impatient_options, options_for
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from servers.authority import Authority
from servers.faults import FaultServer, NoAnswer, Stall


def free_coverage():
    """Give a forked child a lock of its own for what coverage gathers: a thread that it has not can hold the other."""
    collector = getattr(coverage.Coverage.current(), "_collector", None)
    if collector is not None and collector.data_lock is not None:
        collector.data_lock = threading.Lock()


# a busy machine is slow, and no test is wrong for it
hypothesis_settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("busy")

# before the library is imported, so that in a child this comes first
os.register_at_fork(after_in_child=free_coverage)

from file_dataset import _retry  # noqa: E402
from file_dataset._http.loop import loops  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def nobodys_machine(tmp_path_factory):
    """No test reads the credentials, the configuration or the home of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "DAGSTER_", "RAY_")) and not name.startswith("RAY_TMPDIR"):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", str(home / "config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials"))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        # a shell has jobs in its background ignore Ctrl-C, and what they start inherits that
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


@pytest.fixture(scope="session", autouse=True)
def models_are_read_once():
    """For every session botocore looks for its models and reads that of S3: 100 ms of the 125 that a client takes."""
    read, listed = JSONFileLoader.load_file, Loader.list_available_services
    read_once = functools.cache(lambda path: read(JSONFileLoader(), path))
    lists = {}

    def listed_once(self, type_name):
        key = type_name, *self.search_paths
        if key not in lists:
            lists[key] = listed(self, type_name)
        return lists[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: read_once(path))
        patch.setattr(Loader, "list_available_services", listed_once)
        yield


@pytest.fixture(scope="session")
def endpoint(request):
    """URL of a real S3 endpoint: `$FILE_DATASET_TEST_ENDPOINT` (MinIO, Ceph, AWS), else moto's server."""
    return os.environ.get("FILE_DATASET_TEST_ENDPOINT") or request.getfixturevalue("moto")


@pytest.fixture(scope="session")
def moto(nobodys_machine):
    """URL of moto's server, which takes any credentials."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def local_ray(nobodys_machine):
    """A Ray on this machine, of two CPUs and a GPU that it is told of.

    Tests that use it are of one `xdist_group("ray")`, so that there is one.
    """
    import ray

    # a Unix socket's path is short (108 bytes, unix(7)), and pytest's are long
    with tempfile.TemporaryDirectory(prefix="ray") as short, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        patch.setenv("RAY_TMPDIR", short)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for tasks that load a function of a test module
        ray.init(
            num_cpus=2,
            num_gpus=1,
            include_dashboard=False,
            object_store_memory=256 << 20,
            log_to_driver=False,
            _temp_dir=short,
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def engine():
    """The engine of the options below; the tests of stores and faults run on every one."""
    return "auto"


@pytest.fixture
def options(endpoint, engine):
    return options_for(endpoint, engine=engine)


@pytest.fixture
def default_options(endpoint, monkeypatch):
    """The environment of a user whose default session reaches the endpoint."""
    access, _, secret = os.environ.get("FILE_DATASET_TEST_KEYS", "AKIDTEST:secrettest").partition(":")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)


_widths = itertools.count(100)


class Bucket:
    """A bucket of its own for one test."""

    def __init__(self, client):
        self.name = f"test-{uuid.uuid4().hex[:16]}"
        self.client = client
        client.create_bucket(Bucket=self.name)

    def url(self, key):
        return f"s3://{self.name}/{key}"

    def put(self, key, body, **kwargs):
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **kwargs)
        return self.url(key)

    def get(self, key):
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def keys(self):
        answer = self.client.list_objects_v2(Bucket=self.name)
        return sorted(item["Key"] for item in answer.get("Contents", []))


@pytest.fixture
def bucket(options):
    return Bucket(options.s3_client)


@pytest.fixture
def retries_come_at_once(monkeypatch):
    monkeypatch.setattr(_retry, "BACKOFF_S", 0.001)


@pytest.fixture(scope="session")
def fault_server(nobodys_machine):
    with FaultServer() as server:
        yield server


@pytest.fixture
def faults(fault_server, retries_come_at_once):
    """An endpoint that breaks on request, with nothing in it; retries come at once."""
    fault_server.clear()
    yield fault_server
    fault_server.reset()


@pytest.fixture
def own_faults(retries_come_at_once):
    """The same, for one test alone: for what leaves requests behind."""
    with FaultServer() as server:
        yield server


@pytest.fixture
def patience_s(request):
    """Seconds that a client waits: one where the test's fault is silence, else far more than a busy machine takes."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    is_silent = any(isinstance(value, (NoAnswer, Stall)) for value in parameters.values())
    return 1 if is_silent else 20


@pytest.fixture
def fault_options(faults, engine, patience_s):
    """Options for the breaking endpoint; equal ones share a client."""
    return impatient_options(faults.endpoint_url, patience_s=patience_s, engine=engine)


@pytest.fixture
def fresh_options(faults, engine, patience_s):
    """Options that no other test has used: their client has seen nothing."""
    width = next(_widths)
    return impatient_options(faults.endpoint_url, patience_s=patience_s, max_concurrency=width, engine=engine)


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def tls_faults(authority):
    with FaultServer(tls=authority.server("127.0.0.1")) as server:
        server.put("s3://bucket/other", b"")
        yield server


@pytest.fixture
def resolved(monkeypatch):
    """Have every name resolve to addresses of the test's: what the machine's own names resolve to is not ours."""

    def resolve(*addresses):
        asked = []

        def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002  # socket's name
            asked.append(host)
            families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
            return [
                (of, socket.SOCK_STREAM, 6, "", (address, port, 0, 0) if ":" in address else (address, port))
                for of, address in zip(families, addresses, strict=True)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    known = loops()[0].names._known  # noqa: SLF001
    known.clear()
    yield resolve
    known.clear()


@pytest.fixture
def source(tmp_path):
    """Where a file to upload lies; `put` writes it."""
    return tmp_path / "source.bin"
