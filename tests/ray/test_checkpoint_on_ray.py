"""A run on Ray with a checkpoint: tasks get only what no earlier run has done, here or there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pandas as pd
import pyarrow as pa
import pytest
from helpers import forward, until

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline, RunStoppedError
from file_dataset import _journal as journals

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]

RUNS = "s3://bucket/runs/x/"
on_ray = file_dataset.ray.run_pipeline


@pytest.fixture
def frame(faults):
    for number in range(1, 7):
        faults.put(f"s3://bucket/in/{number}", f"row {number}".encode())
    urls = [f"s3://bucket/in/{number}" for number in range(1, 7)]
    return pd.DataFrame({"id": range(1, 7), "a.txt": urls, "label": list("abcdef")})


@pytest.fixture
def here(frame, tmp_path):
    """The same rows on local disk: a run that is stopped leaves tasks behind that read."""
    for number in range(1, 7):
        (tmp_path / f"{number}.txt").write_text(f"row {number}")
    return frame.assign(**{"a.txt": [str(tmp_path / f"{number}.txt") for number in range(1, 7)]})


class Ran:
    """Which rows fn was called for since the last time, in whichever process; and those that it fails for."""

    def __init__(self, place):
        self.place = place
        self.failing = []

    @property
    def fn(self):
        place, failing = self.place, [f"row {number}" for number in self.failing]

        def records(input_dir, output_dir):
            text = (input_dir / "a.txt").read_text()
            (place / text).touch()
            if text in failing:
                raise ValueError("this text is bad")
            (output_dir / "out.txt").write_text(text.upper())
            return {"out.txt": output_dir / "out.txt"}

        return records

    def taken(self):
        there = sorted(self.place.iterdir())
        for one in there:
            one.unlink()
        return [int(one.name.removeprefix("row ")) for one in there]


@pytest.fixture
def ran(tmp_path):
    (tmp_path / "ran").mkdir()
    return Ran(tmp_path / "ran")


@pytest.fixture
def make(fault_options):
    def pipeline(fn=forward, **kwargs):
        return Pipeline(fn, **{"into_path": "s3://bucket/out/", "options": fault_options, "progress": False} | kwargs)

    return pipeline


def reads(faults):
    """GETs of inputs."""
    return sum(faults.count("GetObject", f"in/{number}") for number in range(1, 7))


def same(left, right):
    for name in ("manifest", "files", "inputs", "failures"):
        pd.testing.assert_frame_equal(getattr(left, name), getattr(right, name))


class TestFrames:
    @pytest.mark.parametrize("actors", [False, True], ids=["tasks", "actors"])
    def test_rows_that_are_done_go_to_no_task_and_cost_no_request(self, faults, frame, make, ran, actors):
        how = {"batch_size": 2, "actors": actors, "concurrency": 1 if actors else None}
        first = on_ray(make(ran.fn), frame.head(4), checkpoint=RUNS, **how)
        assert ran.taken() == [1, 2, 3, 4]
        faults.reset()
        second = on_ray(make(ran.fn), frame, checkpoint=RUNS, **how)
        assert ran.taken() == [5, 6]
        assert (reads(faults), faults.count("HeadObject")) == (2, 0)
        assert second.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]
        assert second.manifest["out.txt"].tolist()[:4] == first.manifest["out.txt"].tolist()
        assert second.input is frame

    def test_a_run_of_which_all_is_done_returns_what_the_first_did(self, faults, frame, make, ran):
        first = on_ray(make(ran.fn), frame, checkpoint=RUNS)
        faults.reset()
        second = on_ray(make(ran.fn), frame, checkpoint=RUNS)
        same(first, second)
        assert (reads(faults), faults.count("PutObject")) == (0, 0)
        assert (faults.count("ListObjectsV2"), faults.count("GetObject")) == (1, 1)

    def test_a_local_run_a_run_on_ray_and_a_local_run_go_on_with_one_checkpoint(self, frame, make, ran):
        make(ran.fn).run(frame.head(2), checkpoint=RUNS)
        assert ran.taken() == [1, 2]
        on_ray(make(ran.fn), frame.head(4), checkpoint=RUNS, batch_size=1)
        assert ran.taken() == [3, 4]
        result = make(ran.fn).run(frame, checkpoint=RUNS)
        assert ran.taken() == [5, 6]
        plain = make(ran.fn).run(frame)
        same(result, plain)
        ran.taken()
        same(on_ray(make(ran.fn, workers=2), frame, checkpoint=RUNS, batch_size=5, workers=0), plain)
        assert ran.taken() == []

    def test_carried_values_that_fn_takes_are_the_same_there(self, frame, make, ran):
        place = ran.place

        def with_row(input_dir, output_dir, row):
            (place / f"row {row['id']}").touch()
            return {"out.txt": input_dir / "a.txt"}

        make(with_row).run(frame.head(3), checkpoint=RUNS)
        assert ran.taken() == [1, 2, 3]
        on_ray(make(with_row), frame.assign(label=["z", *"bcdef"]), checkpoint=RUNS)
        assert ran.taken() == [1, 4, 5, 6]

    def test_relative_places_are_the_same_there(self, make, ran, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "1.txt").write_text("row 1")
        frame = pd.DataFrame({"id": [1], "a.txt": ["1.txt"]})
        make(ran.fn, into_path="out").run(frame, checkpoint="runs")
        assert ran.taken() == [1]
        result = on_ray(make(ran.fn, into_path="out"), frame, checkpoint="runs")
        assert ran.taken() == []
        assert result.manifest["out.txt"].tolist() == [str(tmp_path / "out/1/out.txt")]

    def test_rows_that_failed_run_again(self, frame, make, ran):
        ran.failing = [2, 5]
        first = on_ray(make(ran.fn), frame, checkpoint=RUNS, batch_size=2)
        assert first.failures["id"].tolist() == [2, 5]
        ran.failing = [5]
        ran.taken()
        result = on_ray(make(ran.fn), frame, checkpoint=RUNS, batch_size=2)
        assert ran.taken() == [2, 5]
        assert result.manifest["id"].tolist() == [1, 2, 3, 4, 6]
        assert result.failures["id"].tolist() == [5]

    def test_a_run_that_is_stopped_carries_the_whole_and_loses_no_row(self, here, make, ran, tmp_path):
        out = tmp_path / "out"
        on_ray(make(ran.fn, into_path=out), here.head(2), checkpoint=RUNS)
        ran.failing = [5]
        with pytest.raises(RunStoppedError) as stopped:
            on_ray(make(ran.fn, into_path=out, on_failure="raise"), here, checkpoint=RUNS, batch_size=1, concurrency=1)
        assert {1, 2} < set(stopped.value.result.manifest["id"])
        assert stopped.value.result.failures["id"].tolist() == [5]
        done = stopped.value.result.manifest["id"].tolist()
        assert stopped.value.result.unprocessed_rows["id"].tolist() == [n for n in range(1, 7) if n not in {5, *done}]
        ran.failing = []
        ran.taken()
        result = on_ray(make(ran.fn, into_path=out), here, checkpoint=RUNS)
        assert ran.taken() == [number for number in range(1, 7) if number not in done]
        assert result.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]

    def test_ctrl_c_loses_no_row_that_came_back(self, here, make, ran, tmp_path):
        out = tmp_path / "out"

        def interrupt(now):
            if now.done >= 3:
                raise KeyboardInterrupt

        on_ray(make(ran.fn, into_path=out), here.head(1), checkpoint=RUNS)
        with pytest.raises(KeyboardInterrupt) as caught:
            on_ray(make(ran.fn, into_path=out, progress=interrupt), here, checkpoint=RUNS, batch_size=1, concurrency=1)
        done = caught.value.result.manifest["id"].tolist()
        assert len(done) == 3
        ran.taken()
        on_ray(make(ran.fn, into_path=out), here, checkpoint=RUNS)
        assert ran.taken() == [number for number in range(1, 7) if number not in done]

    def test_max_failed_fraction_and_progress_are_of_the_whole_input(self, frame, make, ran):
        on_ray(make(ran.fn), frame.head(4), checkpoint=RUNS)
        ran.failing = [5]  # 1 of 2 rows that run, 1 of 6 in all
        seen = []
        pipeline = make(ran.fn, max_failed_fraction=0.2, progress=seen.append)
        result = on_ray(pipeline, frame, checkpoint=RUNS, batch_size=1)
        assert result.summary() == "1 of 6 rows dropped (16.7%): 1 at fn"
        assert [(now.done, now.total) for now in seen] == [(5, 6), (6, 6)]
        with pytest.raises(RunStoppedError, match="1 of 6 rows failed"):
            on_ray(make(ran.fn, max_failed_fraction=0.1), frame, checkpoint=RUNS, batch_size=1)

    def test_recorded_failures_are_kept_and_passed_on(self, frame, make, ran):
        ran.failing = [2]
        first = on_ray(make(ran.fn, on_failure="record"), frame, checkpoint=RUNS)
        again = on_ray(make(ran.fn, on_failure="record"), frame, checkpoint=RUNS)
        same(first, again)
        next_one = make(lambda input_dir, output_dir: {"b.txt": input_dir / "out.txt"}, into_path="s3://bucket/next/")
        for _ in range(2):
            result = on_ray(next_one, again.manifest, checkpoint="s3://bucket/runs/next")
            assert result.manifest["id"].tolist() == [1, 3, 4, 5, 6]
            assert result.failures["error_message"].str.contains("this text is bad").tolist() == [True]

    def test_an_input_that_was_overwritten_runs_when_inputs_are_looked_at(self, faults, frame, make, ran):
        on_ray(make(ran.fn), frame, checkpoint=RUNS)
        faults.put("s3://bucket/in/3", b"row 30")
        ran.taken()
        on_ray(make(ran.fn), frame, checkpoint=RUNS)
        assert ran.taken() == []
        faults.reset()
        on_ray(make(ran.fn), frame, checkpoint=RUNS, check_inputs=True)
        assert ran.taken() == [30]
        assert (faults.count("HeadObject"), reads(faults)) == (6, 1)

    def test_another_code_version_runs_all(self, frame, make, ran):
        on_ray(make(ran.fn), frame, checkpoint=RUNS)
        ran.taken()
        on_ray(make(ran.fn), frame, checkpoint=RUNS, code_version="2")
        assert ran.taken() == [1, 2, 3, 4, 5, 6]

    def test_a_checkpoint_that_can_no_longer_be_written_stops_the_run(self, here, make, tmp_path, monkeypatch):
        out = tmp_path / "out"
        monkeypatch.setattr(journals, "_ROWS", 1)
        runs, gone, journal, put = tmp_path / "runs", tmp_path / "gone", [], journals.Journal.put

        def seen(self, *args):
            journal.append(self)
            put(self, *args)

        def waits(now):
            if now.done >= 3:  # what is not written then never will be
                until(lambda: journal[0]._error)  # noqa: SLF001

        monkeypatch.setattr(journals.Journal, "put", seen)

        def breaks(input_dir, output_dir):
            if (input_dir / "a.txt").read_text() == "row 3":
                runs.rename(gone)
                runs.write_text("a file lies there")
            return {"a.txt": input_dir / "a.txt"}

        with pytest.raises(RunStoppedError, match=r"cannot be written") as stopped:
            on_ray(make(breaks, into_path=out, progress=waits), here, checkpoint=runs, batch_size=1, concurrency=1)
        assert stopped.value.result.manifest["id"].tolist() == [1, 2, 3]

    def test_a_checkpoint_that_cannot_be_read_stops_the_run_before_the_first_row(self, faults, frame, make, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunStoppedError, match="cannot be read") as stopped:
            on_ray(make(), frame, checkpoint=tmp_path / "file" / "below")
        assert stopped.value.result.unprocessed_rows["id"].tolist() == [1, 2, 3, 4, 5, 6]
        assert reads(faults) == 0

    def test_arguments_without_a_meaning_are_refused(self, frame, make):
        with pytest.raises(InvalidDatasetError, match="checkpoint="):
            on_ray(make(), frame, code_version="2")
        with pytest.raises(InvalidDatasetError, match="give a text"):
            on_ray(make(), frame, checkpoint=RUNS, code_version=2)


@pytest.fixture(params=["pandas", "arrow"])
def dataset_of(request, local_ray):
    """Make a Dataset of a frame, so many rows a block."""

    def dataset(frame, rows=2):
        parts = [frame[at : at + rows] for at in range(0, len(frame), rows)]
        if request.param == "pandas":
            return local_ray.data.from_pandas(parts)
        schema = pa.Schema.from_pandas(frame, preserve_index=False)
        tables = [pa.Table.from_pandas(part, schema, preserve_index=False) for part in parts]
        # as of a file that pandas has not written
        return local_ray.data.from_arrow([table.replace_schema_metadata(None) for table in tables])

    return dataset


class TestDatasets:
    @pytest.mark.parametrize("actors", [False, True], ids=["tasks", "actors"])
    def test_rows_that_are_done_go_to_no_task_and_cost_no_request(self, faults, frame, make, ran, dataset_of, actors):
        how = {"batch_size": 2, "actors": actors, "concurrency": 1 if actors else None}
        on_ray(make(ran.fn), dataset_of(frame.iloc[[0, 2, 3]]), checkpoint=RUNS, **how)
        assert ran.taken() == [1, 3, 4]
        faults.reset()
        today = frame.assign(label=list("uvwxyz"), weight=[1, None, 3, 4, 5, 6]).astype({"weight": "Int64"})
        result = on_ray(make(ran.fn), dataset_of(today), checkpoint=RUNS, **how)  # the second block is done
        assert ran.taken() == [2, 5, 6]
        assert (reads(faults), faults.count("HeadObject")) == (3, 0)
        assert result.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]
        assert result.manifest["label"].tolist() == list("uvwxyz")
        assert result.manifest["weight"].isna().tolist() == [False, True, False, False, False, False]
        assert result.files["id"].tolist() == result.inputs["id"].tolist() == [1, 2, 3, 4, 5, 6]
        assert result.input is None

    def test_a_run_of_which_all_is_done_returns_what_the_first_did(self, faults, frame, make, ran, dataset_of):
        first = on_ray(make(ran.fn), dataset_of(frame), checkpoint=RUNS)
        faults.reset()
        second = on_ray(make(ran.fn), dataset_of(frame, 6), checkpoint=RUNS)
        same(first, second)
        assert (reads(faults), faults.count("PutObject")) == (0, 0)
        plain = on_ray(make(ran.fn), dataset_of(frame))
        assert plain.manifest.dtypes.tolist() == second.manifest.dtypes.tolist()
        same(plain, second)

    def test_runs_here_and_there_go_on_with_one_checkpoint_also_where_fn_takes_the_row(
        self, frame, make, ran, dataset_of, tmp_path
    ):
        place = ran.place

        def with_row(input_dir, output_dir, row):
            (place / f"row {row['id']}").touch()
            return {"out.txt": input_dir / "a.txt"}

        def pipeline():
            return make(with_row, into_path=tmp_path / "out")

        days = pd.date_range("2026-01-01", periods=6)
        frame = frame.assign(age=pd.array([1, 2, None, 4, None, 6], dtype="Int64"), day=days, share=0.5, good=True)
        frame = frame.assign(box=[[1, 2]] * 6, tags=[["some", "text"]] * 6)
        pipeline().run(frame.head(2), checkpoint=tmp_path / "runs")
        on_ray(pipeline(), frame.head(3), checkpoint=tmp_path / "runs")
        assert ran.taken() == [1, 2, 3]
        on_ray(pipeline(), dataset_of(frame, 1), checkpoint=tmp_path / "runs")
        assert ran.taken() == [4, 5, 6]
        on_ray(pipeline(), dataset_of(frame, 4), checkpoint=tmp_path / "runs")
        pipeline().run(frame, checkpoint=tmp_path / "runs")
        assert ran.taken() == []
        on_ray(pipeline(), dataset_of(frame.assign(good=[False] + [True] * 5)), checkpoint=tmp_path / "runs")
        assert ran.taken() == [1]

    def test_a_column_of_urls_that_a_block_has_none_of_is_no_carried_one(self, frame, make, ran, dataset_of):
        place, url = ran.place, "s3://bucket/in/1"

        def with_row(input_dir, output_dir, row):
            (place / f"row {row['id']}").touch()
            assert "mask" not in row
            return {"out.txt": input_dir / "a.txt"}

        frame = frame.assign(mask=[url, url, None, None, None, None])
        result = on_ray(make(with_row), dataset_of(frame), checkpoint=RUNS)
        assert ran.taken() == [1, 2, 3, 4, 5, 6]
        assert "mask" not in result.manifest
        assert "mask" not in on_ray(make(with_row), dataset_of(frame), checkpoint=RUNS).manifest
        make(with_row).run(frame, checkpoint=RUNS)
        assert ran.taken() == []

    def test_rows_that_failed_and_overwritten_inputs_run_again(self, faults, frame, make, ran, dataset_of):
        ran.failing = [2]
        first = on_ray(make(ran.fn), dataset_of(frame), checkpoint=RUNS)
        assert first.failures["id"].tolist() == [2]
        ran.failing = []
        faults.put("s3://bucket/in/5", b"row 50")
        ran.taken()
        result = on_ray(make(ran.fn), dataset_of(frame), checkpoint=RUNS)
        assert ran.taken() == [2]
        assert result.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]
        faults.reset()
        on_ray(make(ran.fn), dataset_of(frame), checkpoint=RUNS, check_inputs=True)
        assert ran.taken() == [50]
        assert faults.count("HeadObject") == 6

    def test_a_run_that_is_stopped_carries_the_whole_and_loses_no_row(self, here, make, ran, dataset_of, tmp_path):
        out = tmp_path / "out"
        on_ray(make(ran.fn, into_path=out), dataset_of(here.head(2)), checkpoint=RUNS)
        ran.failing = [5]
        with pytest.raises(RunStoppedError) as stopped:
            on_ray(make(ran.fn, into_path=out, on_failure="raise"), dataset_of(here), checkpoint=RUNS, batch_size=1)
        result = stopped.value.result
        assert {1, 2} <= set(result.manifest["id"])
        assert (result.failures["id"].tolist(), result.input) == ([5], None)
        done = result.manifest["id"].tolist()
        ran.failing = []
        ran.taken()
        result = on_ray(make(ran.fn, into_path=out), dataset_of(here), checkpoint=RUNS)
        assert ran.taken() == [number for number in range(1, 7) if number not in done]
        assert result.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]

    def test_recorded_failures_are_kept_and_passed_on(self, frame, make, ran, dataset_of):
        ran.failing = [2]
        recorded = on_ray(make(ran.fn, on_failure="record"), dataset_of(frame), checkpoint=RUNS).manifest
        assert recorded["error_stage"].tolist()[1] == "fn"
        next_one = make(lambda input_dir, output_dir: {"b.txt": input_dir / "out.txt"}, into_path="s3://bucket/next/")
        for _ in range(2):
            result = on_ray(next_one, dataset_of(recorded), checkpoint="s3://bucket/runs/next")
            assert result.manifest["id"].tolist() == [1, 3, 4, 5, 6]
            assert result.failures["error_message"].str.contains("this text is bad").tolist() == [True]

    def test_what_is_left_of_a_large_block_goes_to_several_tasks(self, frame, make, ran, dataset_of):
        on_ray(make(ran.fn), dataset_of(frame.iloc[[1, 4]]), checkpoint=RUNS)
        seen = []
        on_ray(make(ran.fn, progress=seen.append), dataset_of(frame, 6), checkpoint=RUNS, batch_size=1)
        assert [(now.done, now.total) for now in seen] == [(3, 6), (4, 6), (5, 6), (6, 6)]

    def test_an_empty_one_is_fine(self, frame, make, dataset_of):
        empty = dataset_of(frame).filter(lambda row: False)
        assert on_ray(make(), empty, checkpoint=RUNS).manifest.empty

    def test_a_checkpoint_that_cannot_be_read_stops_the_run_before_the_first_row(
        self, faults, frame, make, dataset_of, tmp_path
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunStoppedError, match="cannot be read") as stopped:
            on_ray(make(), dataset_of(frame), checkpoint=tmp_path / "file" / "below")
        assert stopped.value.result.manifest.empty
        assert stopped.value.result.input is None
        assert reads(faults) == 0


def test_ray_is_not_started_where_all_rows_are_done(tmp_path):
    code = """
    import pathlib, sys
    import pandas as pd, ray, file_dataset

    here = pathlib.Path(sys.argv[1])
    (here / "a.txt").write_text("a")
    frame = pd.DataFrame({"id": [1, 2], "a.txt": str(here / "a.txt")})
    pipeline = file_dataset.Pipeline(lambda i, o: {"a.txt": i / "a.txt"}, into_path=here / "out", progress=False)
    pipeline.run(frame, checkpoint=here / "runs")
    result = file_dataset.ray.run_pipeline(pipeline, frame, checkpoint=here / "runs")
    print(len(result.manifest), ray.is_initialized())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "False"], done.stderr[-3000:]
