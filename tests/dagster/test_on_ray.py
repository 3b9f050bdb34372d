"""runner="ray": what is returned, stored and reported is what a local run gives."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

import dagster as dg
import pandas as pd
import pytest

from file_dataset_dagster import ManifestIOManager, pipeline_asset

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(180)]


@pytest.fixture
def both(run, resource, scans, copy, local_ray):
    """The same asset run here and on Ray, over rows of which some fail."""

    def results(**arguments):
        @dg.asset
        def raw_scans() -> pd.DataFrame:
            frame = scans(["a", "b", "c", "d", "e"], missing=["b"], broken=["d"])
            return frame.assign(label=pd.Series(list("vwxyz"), dtype="category"))

        assets = [
            pipeline_asset(copy, name="here", input=raw_scans, **arguments),
            pipeline_asset(copy, name="there", input=raw_scans, runner="ray", batch_size=2, **arguments),
        ]
        result = run([raw_scans, *assets], resource)
        manifests = ManifestIOManager(resource=resource)

        def stored(name, of="manifest"):
            return manifests.load(manifests.uri(dg.AssetKey(name), of=of))

        return result, stored

    return results


def named(frame):
    """The same, but for the place that outputs lie in and what servers say differently from time to time."""
    return frame.replace("/files/there/", "/files/here/", regex=True)


def test_manifest_check_and_metadata_are_those_of_a_local_run(both, monkeypatch, instance):
    monkeypatch.setattr("file_dataset_dagster._partition_run._PROGRESS_S", 0)
    result, stored = both()
    for of in ("manifest", "failures", "files"):
        pd.testing.assert_frame_equal(named(stored("there", of)), stored("here", of))
    assert stored("there")["id"].tolist() == ["a", "c", "e"]

    checks = {check.asset_key.path[0]: check for check in result.get_asset_check_evaluations()}
    here, there = checks["here"], checks["there"]
    assert there.description == here.description == "2 of 5 rows dropped (40.0%): 1 at download, 1 at fn"
    assert there.metadata["dropped"] == here.metadata["dropped"]

    shown = []
    of_one = {"seconds", "into_path", "dagster/uri"}
    of_stages = {"download_s", "fn_s", "upload_s"}
    for name in ("here", "there"):
        (event,) = result.asset_materializations_for_node(name)
        metadata = {key: value.value for key, value in event.metadata.items()}
        assert all(metadata[of_stage] > 0 for of_stage in of_stages)
        shown.append({key: metadata[key] for key in metadata if key not in of_one | of_stages})
    assert shown[0] == shown[1]

    logged = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.step_key == "there"]
    assert any(" of 5 rows done" in message for message in logged)


def test_the_drop_policy_is_that_of_a_local_run(both):
    result, _ = both(max_dropped_fraction=0.1)
    failed = {event.step_key for event in result.filter_events(lambda event: event.is_step_failure)}
    assert failed == {"here", "there"}


def test_a_run_on_ray_goes_on_where_one_here_ended_and_the_other_way_round(run, resource, scans, local_ray, tmp_path):
    calls = str(tmp_path / "calls")

    def copy(input_dir, output_dir):
        with open(calls, "a") as file:  # noqa: PTH123
            file.write((input_dir / "scan.txt").read_text()[-1])
        return {"scan.txt": input_dir / "scan.txt"}

    def go(rows, missing, runner, config):
        @dg.asset
        def raw_scans() -> pd.DataFrame:
            return scans(rows, missing=missing)

        copied = pipeline_asset(copy, name="copied", input=raw_scans, runner=runner, max_dropped_fraction=0.0)
        result = run([raw_scans, copied], resource, run_config={"ops": {"copied": {"config": config}}})
        with open(calls) as file:  # noqa: PTH123
            called = sorted(file.read())
        (tmp_path / "calls").write_text("")
        return result, "".join(called)

    for runners in (("local", "ray"), ("ray", "local")):
        first, called = go("abc", "c", runners[0], {})
        assert (first.success, called) == (False, "ab")
        second, called = go("abc", "", runners[1], {"only_missing": True})
        assert (second.success, called) == (True, "c")


# --- Rays that a resource of dagster-ray connects; each in a process of its own ---

SCRIPT = """
import sys
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_ray import LocalRay, RayResource

from file_dataset_dagster import FileDatasetResource, ManifestIOManager, pipeline_asset

here, port = Path(sys.argv[1]), int(sys.argv[2])


class Client(RayResource):
    '''As KubeRay's resources: a cluster that is there, over ray://.'''

    host = property(lambda self: "127.0.0.1")
    name = property(lambda self: "client")
    created = property(lambda self: True)
    ready = property(lambda self: True)


@dg.asset
def raw_scans() -> pd.DataFrame:
    rows = []
    for number in range(6):
        path = here / f"{number}.txt"
        path.write_text(str(number))
        rows.append({"id": number, "scan.txt": str(path)})
    return pd.DataFrame(rows)


def copy(input_dir, output_dir):
    (output_dir / "copy.txt").write_text((input_dir / "scan.txt").read_text())
    return {"copy.txt": output_dir / "copy.txt"}


RESOURCES = {
    "local": lambda: {"ray": LocalRay(ray_init_options={"num_cpus": 2, "include_dashboard": False})},
    "client": lambda: {"ray": Client(redis_port=port)},
    "plain": dict,
}
kind = sys.argv[3]
key = {} if kind == "plain" else {"ray_resource_key": "ray"}
store = FileDatasetResource(base_path=str(here / "base"))
result = dg.materialize(
    [raw_scans, pipeline_asset(copy, name="copied", input=raw_scans, runner="ray", batch_size=2, **key)],
    resources={"file_dataset": store, "io_manager": ManifestIOManager(resource=store), **RESOURCES[kind]()},
)
assert result.success
manifest = ManifestIOManager(resource=store).load(str(here / "base/manifests/copied/manifest.parquet"))
assert [Path(at).read_text() for at in manifest["copy.txt"]] == [str(n) for n in range(6)], manifest
import ray
assert not ray.is_initialized(), "what the run connected it has disconnected"
print("whole")
"""


@pytest.fixture
def environment():
    with tempfile.TemporaryDirectory(prefix="ray") as short:
        yield {
            **os.environ,
            "RAY_TMPDIR": short,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        }


@pytest.fixture
def head(environment, tmp_path):
    """The port of Ray Client of a cluster of this machine."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={ports[0]}"]
    command += [f"--ray-client-server-port={ports[1]}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--temp-dir={environment['RAY_TMPDIR']}"]
    with (tmp_path / "head.log").open("w") as log:
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            limit = time.monotonic() + 120
            while "Ray runtime started" not in (tmp_path / "head.log").read_text():
                assert node.poll() is None, (tmp_path / "head.log").read_text()
                assert time.monotonic() < limit
                time.sleep(0.2)
            yield ports[1]
        finally:
            node.terminate()
            try:
                node.wait(60)
            finally:
                if node.poll() is None:
                    os.killpg(node.pid, signal.SIGKILL)
                    node.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["plain", "local", "client"])
def test_any_ray_resource_will_do(tmp_path, environment, kind, request):
    port = request.getfixturevalue("head") if kind == "client" else 0
    pytest.importorskip("dagster_ray")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), str(port), kind],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("whole\n")
