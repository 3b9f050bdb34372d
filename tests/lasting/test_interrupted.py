"""What ends a run before its end, short of a kill: Ctrl-C, SIGTERM, a checkpoint that takes no more."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess

import pytest
from helpers import until
from mortal import BAD, called

from file_dataset import PipelineResult, RunStoppedError
from file_dataset._checkpoint.place import Place

UNTIL_THE_END = {"rows_per_part": 1000, "seconds_per_part": 1000}


@pytest.mark.parametrize(
    ("signals", "workers"),
    [([signal.SIGTERM], 0), ([signal.SIGINT], 0), ([signal.SIGINT] * 2, 0), ([signal.SIGINT] * 2, 2)],
    ids=["SIGTERM", "once", "twice", "twice, in workers"],
)
def test_an_interrupted_run_writes_its_part_and_the_next_goes_on_from_it(signals, workers, local_scene, tmp_path):
    """The second of two comes while the part is written, which takes longer than it takes to notice."""
    scene = local_scene(workers=workers, takes_s=0.05, save=str(tmp_path / "save"), write_takes_s=0.5, **UNTIL_THE_END)
    child = scene.start()
    assert until(lambda: len(called(scene.lines())) >= 12)
    for nth, number in enumerate(signals, 1):
        # the first part was a test of the place
        assert until(lambda nth=nth: scene.lines().count("begins") >= nth)
        child.send_signal(number)
    assert child.wait() == 0
    assert scene.lines().count("interrupted") == 1
    done = set(PipelineResult.load(tmp_path / "save").manifest["id"])
    assert len(done) >= 5
    assert scene.written() == done
    lines = len(scene.lines())
    result = scene.run()
    assert not done & set(called(scene.lines()[lines:]))
    assert result.manifest["id"].tolist() == sorted(set(scene.texts()) - set(BAD))


@pytest.fixture
def small_disk(tmp_path):
    """A directory of 64 KiB; `remount` changes its options."""
    place = tmp_path / "small"
    place.mkdir()

    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)  # noqa: S607

    try:
        mount("size=64k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount")
    yield place, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", str(place)], check=True)  # noqa: S607


def named(error):
    """Return the rows that the last line of an error names as not written down."""
    ids = re.findall(r"run again next time: \[([0-9, ]*)\]", "".join([str(error), *error.__notes__]))[-1]
    return {int(text) for text in ids.split(",")}


def test_a_full_disk_stops_the_run_and_what_was_written_stays(small_disk, local_scene):
    place, remount = small_disk
    scene = local_scene(checkpoint=str(place / "runs"), rows_per_part=1, most_parts=1000)
    with pytest.raises(RunStoppedError, match=r"No space left on device.*make room") as caught:
        scene.run()
    before = scene.written()
    done = set(caught.value.result.manifest["id"])
    assert before
    assert before < done
    assert done - before == named(caught.value) - set(BAD)
    remount("size=10m")
    lines = len(scene.lines())
    assert scene.run().manifest["id"].tolist() == sorted(set(scene.texts()) - set(BAD))
    assert not before & set(called(scene.lines()[lines:]))


def test_ctrl_c_while_the_disk_is_full_names_the_rows_too(small_disk, six, make):
    place, _ = small_disk

    def fills_the_disk(input_dir, output_dir):
        text = (input_dir / "a.txt").read_text()
        if text == "row 4":
            with contextlib.suppress(OSError):
                (place / "other").write_bytes(bytes(64 << 10))
            signal.raise_signal(signal.SIGINT)
        return {"a.txt": input_dir / "a.txt"}

    with pytest.raises(KeyboardInterrupt) as caught:
        make(fills_the_disk, prefetch=0).run(six, checkpoint=place / "runs")
    assert caught.value.result.manifest["id"].tolist() == [1, 2, 3]
    assert named(caught.value) == {1, 2, 3}


def test_a_read_only_checkpoint_is_read_and_no_row_begins(small_disk, local_scene):
    place, remount = small_disk
    remount("size=10m")
    scene = local_scene(checkpoint=str(place / "runs"))
    scene.run()
    remount("ro")
    lines = len(scene.lines())
    with pytest.raises(RunStoppedError, match=r"cannot be written, so no row has begun: .*Read-only") as caught:
        scene.run()
    assert len(scene.lines()) == lines
    assert len(caught.value.result.unprocessed_rows) == 5
    assert scene.plan().counts["same"] == 55


def test_rows_that_end_while_a_part_is_written_go_into_the_next_one(local_scene, monkeypatch):
    scene = local_scene(rows=20, rows_per_part=1)
    write, writes = Place.write, []

    def slow(self, content):
        writes.append(content)
        assert len(writes) != 2 or until(lambda: len(called(scene.lines())) == 20)
        return write(self, content)

    monkeypatch.setattr(Place, "write", slow)
    scene.run()
    assert len(writes) < 10  # the test of the place, one row, the rows that ended meanwhile, those that were in flight
