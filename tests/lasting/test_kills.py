"""A run can be killed at any moment: what was written down is not done again, and the whole comes out as ever."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter

import pytest
from helpers import until
from mortal import BAD, BATCH, MISSING, PREFETCH, called, is_alive, processes, processes_below, same
from servers.faults import Meanwhile

from file_dataset import PipelineResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


class Killer:
    """Kills runs of a scene at moments that a seed chooses, and looks at what each leaves."""

    def __init__(self, faults, chance, requests):
        self.faults, self.chance, self.requests = faults, chance, requests

    def kill_one(self, scene):
        """Run the scene in a process that is killed; return whether it was, and not at its end already."""
        before, lines = scene.written(), len(scene.lines())
        self.faults.reset()
        child, below = [], []
        delay_s = self.chance.choice([0, 0, self.chance.uniform(0, 0.02)])
        is_early = self.chance.random() < 0.5

        def kill():
            assert until(lambda: child)
            time.sleep(delay_s)
            below.extend(processes_below(child[0].pid))
            child[0].kill()
            child[0].wait()

        operation = self.chance.choice(sorted(self.requests))
        share = 1 - len(before) / scene.rows
        nth = self.chance.randint(1, 1 + int(self.requests[operation] * share))
        self.faults.fail(operation, Meanwhile(kill, is_early=is_early), nth=nth)
        child.append(scene.start())
        code = child[0].wait()
        assert code in (0, -signal.SIGKILL)
        ran = processes(scene.lines()[lines:]) if scene.on_ray else below
        assert until(lambda: not any(map(is_alive, ran)))  # they see that their parent is gone
        for pid in filter(is_alive, below):  # Ray's own agents may stay
            os.kill(pid, signal.SIGKILL)
        assert until(lambda: not self.faults.in_flight)
        self.faults.reset()
        self.look(scene, before, scene.lines()[lines:], is_killed=code != 0)
        return code != 0

    def look(self, scene, before, lines, *, is_killed):
        """See that what was done is not done again, and that what is lost is what was in flight and the last part."""
        after, rows = scene.written(), called(lines)
        assert before <= after
        assert not before & set(rows)
        assert max(Counter(rows).values(), default=0) <= 1
        assert after <= before | set(rows)
        lost = set(rows) - after - set(BAD)
        in_flight = 2 * BATCH + 3 * BATCH if scene.on_ray else max(1, scene.workers) + PREFETCH + 1
        assert len(lost) <= (in_flight + 2 * scene.rows_per_part + beside_writes(lines) if is_killed else 0)


def beside_writes(lines):
    """Return for how many rows fn was called while the last two parts were written: these wait for the next one."""
    begins = [at for at, line in enumerate(lines) if line == "begins"][-2:]
    ends = [lines.index("ends", at) if "ends" in lines[at:] else len(lines) for at in begins]
    return sum(len(called(lines[start:end])) for start, end in zip(begins, ends, strict=True))


def kill_often(scenes, faults, seed, count, **kwargs):
    """Kill runs so many times, up to four times in a row, and have the last of each row go on to its end."""
    chance = random.Random(seed)  # noqa: S311  # dice, not keys
    expected = scenes().run()
    requests = {"*": sum(faults.requests.values())}
    for (operation, _), number in faults.requests.items():
        requests[operation] = requests.get(operation, 0) + number
    kills = 0
    while kills < count:
        scene = scenes(**kwargs)
        killer = Killer(faults, chance, requests)
        for _ in range(min(chance.randint(1, 4), count - kills)):
            kills += killer.kill_one(scene)
        before, lines, plan = scene.written(), len(scene.lines()), scene.plan()
        assert scene.start().wait() == 0
        same(PipelineResult.load(scene.save), expected)
        rows = called(scene.lines()[lines:])
        assert sorted(rows) == sorted(set(range(scene.rows)) - before - {MISSING})
        assert set(plan.rows["id"][plan.rows["state"] != "same"]) == {*rows, MISSING}
        for row, text in scene.texts().items():
            if row not in BAD:
                assert faults.body(f"s3://bucket/out/{row}/out.txt") == text.upper().encode()
        assert scene.plan().counts == {"new": 0, "failed": 5, "changed": 0, "same": 55}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_thrice_loses_no_row_that_was_written_down(workers, scenes, faults, temporary):
    kill_often(scenes, faults, seed=workers, count=3, workers=workers)
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_fifty_times_loses_no_row_that_was_written_down(workers, seed, scenes, faults, temporary):
    """Five times, in each of ten tests."""
    kill_often(scenes, faults, seed=seed, count=5, workers=workers)
    assert list(temporary.iterdir()) == []


@pytest.fixture
def short_paths(monkeypatch):
    """Where Ray keeps sockets, whose paths are short; made before other temporary files go elsewhere."""
    with tempfile.TemporaryDirectory(prefix="ray") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        yield


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(13))
def test_a_driver_of_ray_that_is_killed_loses_no_row_that_was_written_down(short_paths, seed, scenes, faults):
    kill_often(scenes, faults, seed=seed, count=4, on_ray=True)
