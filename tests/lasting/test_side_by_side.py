"""Runs on one checkpoint at the same time: some are killed or stand still, and each returns the whole."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import pytest
from helpers import until
from mortal import BAD, called, is_stopped, same

from file_dataset import PipelineResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


def is_whole(result, scene):
    return result.manifest["id"].tolist() == sorted(set(scene.texts()) - set(BAD))


def beside(scene, tmp_path, *halts_at):
    """Return scenes that are one, each with a log and a result of its own."""
    return [
        dataclasses.replace(scene, log=str(tmp_path / f"log-of-{n}"), save=str(tmp_path / f"save-of-{n}"), halts_at=at)
        for n, at in enumerate(halts_at)
    ]


def test_two_runs_that_are_both_killed_go_on_side_by_side(scenes, tmp_path):
    expected = scenes().run()
    scene = scenes()
    both = beside(scene, tmp_path, 3, 5)
    for child in [one.start() for one in both]:
        assert until(lambda child=child: is_stopped(child.pid))
        child.kill()
        assert child.wait() == -signal.SIGKILL
    before, lines = scene.written(), [len(one.lines()) for one in both]
    assert before
    for child in [dataclasses.replace(one, halts_at=0).start() for one in both]:
        assert child.wait() == 0
    for one, count in zip(both, lines, strict=True):
        same(PipelineResult.load(one.save), expected)
        assert not before & set(called(one.lines()[count:]))
    assert scene.plan().counts["same"] == 55


def test_a_run_that_stood_still_while_another_joined_its_parts_goes_on(scenes, faults, tmp_path):
    expected = scenes().run()
    stale, fresh = beside(scenes(), tmp_path, 4, 0)
    child = stale.start()
    assert until(lambda: is_stopped(child.pid))
    parts = parts_of(stale, faults)
    same(fresh.run(), expected)
    assert parts - parts_of(stale, faults)
    child.send_signal(signal.SIGCONT)
    assert child.wait() == 0
    same(PipelineResult.load(stale.save), expected)
    assert stale.plan().counts["same"] == 55


def parts_of(scene, faults):
    prefix = scene.checkpoint.removeprefix("s3://bucket/")
    return {key for key in faults.keys("bucket") if key.startswith(prefix)}


@pytest.mark.parametrize("then", ["goes on", "is killed"])
def test_a_run_that_is_stopped_in_the_middle_of_a_part_harms_no_other(then, local_scene, tmp_path):
    scene = local_scene()
    stopped, fresh = beside(scene, tmp_path, 3, 0)
    child = stopped.start()
    assert until(lambda: is_stopped(child.pid))
    before = scene.written()
    assert before
    torn = [path for path in Path(scene.checkpoint).rglob("*.parquet") if path.parent != Path(scene.checkpoint)]
    assert len(torn) == 1
    result = fresh.run()
    assert is_whole(result, scene)
    assert not before & set(called(fresh.lines()))
    assert torn[0].exists()
    if then == "goes on":
        child.send_signal(signal.SIGCONT)
        assert child.wait() == 0
        same(PipelineResult.load(stopped.save), result)
    else:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert fresh.start().wait() == 0
    assert scene.plan().counts["same"] == 55
    assert all(path.name.startswith("part-") for path in Path(scene.checkpoint).iterdir())
