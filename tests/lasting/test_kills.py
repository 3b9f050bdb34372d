"""A run can be killed at any moment: what was written down is not done again, and the whole comes out as ever."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

import pytest
from helpers import until
from mortal import BAD, MISSING, PREFETCH, called, is_alive, processes, same
from servers.faults import Meanwhile


class Killer:
    """Kills runs of a scene at moments that a seed chooses, and looks at what each leaves."""

    def __init__(self, faults, chance, requests):
        self.faults, self.chance, self.requests = faults, chance, requests

    def kill_one(self, scene):
        """Run the scene in a process that is killed; return whether it was, and not at its end already."""
        before, lines = scene.written(), len(scene.lines())
        self.faults.reset()
        child = []
        delay_s = self.chance.choice([0, 0, self.chance.uniform(0, 0.02)])
        is_early = self.chance.random() < 0.5

        def kill():
            assert until(lambda: child)
            time.sleep(delay_s)
            child[0].kill()
            child[0].wait()

        operation = self.chance.choice(sorted(self.requests))
        share = 1 - len(before) / scene.rows
        nth = self.chance.randint(1, 1 + int(self.requests[operation] * share))
        self.faults.fail(operation, Meanwhile(kill, is_early=is_early), nth=nth)
        child.append(scene.start())
        code = child[0].wait()
        assert code in (0, -signal.SIGKILL)
        new = scene.lines()[lines:]
        assert until(lambda: not self.faults.in_flight)
        assert until(lambda: not any(map(is_alive, processes(new))))
        self.faults.reset()
        self.look(scene, before, new, is_killed=code != 0)
        return code != 0

    def look(self, scene, before, lines, *, is_killed):
        """See that what was done is not done again, and that what is lost is what was in flight and the last part."""
        after, rows = scene.written(), called(lines)
        assert before <= after
        assert not before & set(rows)
        assert max(Counter(rows).values(), default=0) <= 1
        assert after <= before | set(rows)
        lost = set(rows) - after - set(BAD)
        in_flight = max(1, scene.workers) + PREFETCH + 1
        assert len(lost) <= (in_flight + 2 * scene.rows_per_part + beside_writes(lines) if is_killed else 0)


def beside_writes(lines):
    """Return for how many rows fn was called while the last two parts were written: these wait for the next one."""
    begins = [at for at, line in enumerate(lines) if line == "begins"][-2:]
    ends = [lines.index("ends", at) if "ends" in lines[at:] else len(lines) for at in begins]
    return sum(len(called(lines[start:end])) for start, end in zip(begins, ends, strict=True))


def kill_often(scenes, faults, workers, seed, count):
    """Kill runs so many times, up to four times in a row, and have the last of each row go on to its end."""
    chance = random.Random(seed)  # noqa: S311  # dice, not keys
    undisturbed = scenes(workers=workers)
    expected = undisturbed.run()
    requests = {"*": sum(faults.requests.values())}
    for (operation, _), number in faults.requests.items():
        requests[operation] = requests.get(operation, 0) + number
    kills = 0
    while kills < count:
        scene = scenes(workers=workers)
        killer = Killer(faults, chance, requests)
        for _ in range(min(chance.randint(1, 4), count - kills)):
            kills += killer.kill_one(scene)
        before, lines, plan = scene.written(), len(scene.lines()), scene.plan()
        result = scene.run()
        same(result, expected)
        rows = called(scene.lines()[lines:])
        assert sorted(rows) == sorted(set(range(scene.rows)) - before - {MISSING})
        assert set(plan.rows["id"][plan.rows["state"] != "same"]) == {*rows, MISSING}
        for row, text in scene.texts().items():
            if row not in BAD:
                assert faults.body(f"s3://bucket/out/{row}/out.txt") == text.upper().encode()
        assert scene.plan().counts == {"new": 0, "failed": 5, "changed": 0, "same": 55}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_thrice_loses_no_row_that_was_written_down(workers, scenes, faults, temporary):
    kill_often(scenes, faults, workers, seed=workers, count=3)
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_fifty_times_loses_no_row_that_was_written_down(workers, seed, scenes, faults, temporary):
    """Five times, in each of ten tests."""
    kill_often(scenes, faults, workers, seed=seed, count=5)
    assert list(temporary.iterdir()) == []
