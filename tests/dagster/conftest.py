"""A real S3 endpoint on loopback, a resource that reaches it, and runs on a Dagster instance of their own."""

import tomllib
from pathlib import Path

import boto3
import dagster as dg
import pandas as pd
import pytest
from dagster_runs import copy_scan

from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

SECRET = "Zs3cr3tZ"


@pytest.fixture(scope="session")
def s3_endpoint(moto):
    return moto


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch, tmp_path):
    """Credentials that only the loopback endpoint accepts, and no configuration of this machine's."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="session")
def entry_points(tmp_path_factory):
    """A directory with the entry points of pyproject.toml, as an installer puts them beside a package."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    place = tmp_path_factory.mktemp("entry_points")
    metadata = place / "entry_points_of_file_dataset-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: entry-points-of-file-dataset\nVersion: 0\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return place


@pytest.fixture
def s3(s3_endpoint):
    return boto3.client("s3", endpoint_url=s3_endpoint)


@pytest.fixture
def bucket(s3, request):
    """A fresh bucket of a name of its own."""
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def keys(s3, bucket):
    """Return every key of the bucket."""
    return lambda: [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.fixture
def resource(s3_endpoint, bucket):
    return FileDatasetResource(endpoint_url=s3_endpoint, base_path=f"s3://{bucket}/base")


@pytest.fixture
def local(tmp_path):
    """A resource whose manifests and outputs lie on disk: no request, so most tests use it."""
    return FileDatasetResource(base_path=str(tmp_path / "base"))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def run(instance):
    """Materialize assets with a resource; returns the result, a failed run too."""

    def materialize(assets, resource, **arguments):
        resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
        return dg.materialize(
            assets,
            resources=resources | arguments.pop("resources", {}),
            instance=instance,
            raise_on_error=False,
            **arguments,
        )

    return materialize


@pytest.fixture
def scans(tmp_path):
    """A frame of text files on disk; `broken` ids hold the word bad, `missing` ids name no file."""

    def frame(ids, *, broken=(), missing=()):
        paths = []
        for row_id in ids:
            path = Path(tmp_path, "input", str(row_id), "scan.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            if row_id in missing:
                path.unlink(missing_ok=True)
            else:
                path.write_text("bad" if row_id in broken else f"scan {row_id}")
            paths.append(str(path))
        return pd.DataFrame({"id": list(ids), "scan.txt": pd.Series(paths, dtype="object")})

    return frame


@pytest.fixture
def copy():
    """A function of a pipeline: copy.txt of scan.txt; a scan that says bad raises."""
    return copy_scan


@pytest.fixture
def chain(run, local):
    """Run raw_scans -> copied on a frame, on one instance; `told` is what the asset told of it."""

    def materialize(frame, resource=local, *, config=None, **arguments):
        @dg.asset
        def raw_scans() -> pd.DataFrame:
            return frame

        arguments = {"name": "copied", "input": raw_scans} | arguments
        extra = {} if config is None else {"run_config": {"ops": {"copied": {"config": config}}}}
        return run([raw_scans, pipeline_asset(copy_scan, **arguments)], resource, **extra)

    return materialize


@pytest.fixture
def stored(local):
    """Return a frame of the asset `copied`."""

    def frame(of="manifest", resource=local, partition=None):
        manifests = ManifestIOManager(resource=resource)
        return manifests.load(manifests.uri(dg.AssetKey("copied"), partition, of=of))

    return frame
