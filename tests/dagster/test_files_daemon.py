"""A sensor of files under Dagster's own daemon, which is killed between ticks and in them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from file_dataset_dagster import FileDatasetResource, ManifestIOManager

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOCATION = Path(__file__).with_name("files_location.py")


class Home:
    """An instance that lasts, and the files that its sensor looks at."""

    def __init__(self, place):
        self.place, self.groups = place, []
        (place / "home").mkdir()
        (place / "home" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        # made before a daemon does: two processes that make one at once break it
        self.instance = dg.DagsterInstance.from_config(str(place / "home"))
        self.manifests = ManifestIOManager(resource=FileDatasetResource(base_path=str(place / "base")))

    def put(self, site, name, text):
        path = self.place / "raw" / site / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self.place / "part"
        part.write_text(text)
        part.rename(path)

    @contextlib.contextmanager
    def daemon(self):
        """Run Dagster's daemon; then kill it, and nothing else: a run that it has launched goes on."""
        environment = {
            **os.environ, "DAGSTER_HOME": str(self.place / "home"), "DATASET_TEST_DIR": str(self.place)
        }  # fmt: skip
        command = [sys.executable, "-m", "dagster._daemon", "run", "-f", str(LOCATION)]
        with (self.place / "printed").open("ab") as printed:
            process = subprocess.Popen(command, env=environment, stdout=printed, stderr=printed, start_new_session=True)
            self.groups.append(process.pid)
            try:
                yield
            finally:
                process.kill()
                process.wait()

    def end(self):
        """End what the daemons started: servers of the code location, and runs."""
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.instance.dispose()

    def runs(self):
        return self.instance.get_runs()

    def wait_for(self, count, *, patience_s=400):
        """Wait until that many runs have ended."""
        deadline = time.monotonic() + patience_s
        while sum(run.is_finished for run in self.runs()) < count:
            assert time.monotonic() < deadline, [run.status for run in self.runs()]
            time.sleep(1)

    def copies(self, site):
        frame = self.manifests.load(self.manifests.uri(dg.AssetKey("copied"), site))
        return {row.id: Path(row[1]).read_text() for row in frame[["id", "copy.txt"]].itertuples(index=False)}


@pytest.fixture
def home(tmp_path):
    one = Home(tmp_path)
    yield one
    one.end()


def test_each_file_has_one_run_whenever_the_daemon_is_killed(home):
    home.put("north", "1", "scan 1")
    home.put("south", "1", "scan 1")
    with home.daemon():
        home.wait_for(2)
    home.put("north", "2", "scan 2")
    home.put("west", "1", "scan 1")
    with home.daemon():
        listings = home.place / "base/manifests/scans/sensor=new_scans"
        before = set(listings.iterdir())
        deadline = time.monotonic() + 200
        while not set(listings.iterdir()) - before:  # ended right after the listing was stored, with or without runs
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with home.daemon():
        home.wait_for(4)
        home.put("south", "1", "another scan")
        home.wait_for(5)
        time.sleep(5)  # some ticks more, that find nothing
    runs = home.runs()
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 5
    assert sorted(run.tags["dagster/partition"] for run in runs) == ["north", "north", "south", "south", "west"]
    assert home.copies("north") == {"1": "scan 1", "2": "scan 2"}
    assert home.copies("south") == {"1": "another scan"}
    assert home.copies("west") == {"1": "scan 1"}
