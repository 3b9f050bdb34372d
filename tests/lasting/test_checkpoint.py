"""A run with a checkpoint does only what no earlier run has done, and returns the whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import forward, until

import file_dataset
from file_dataset import InvalidDatasetError, RunStoppedError
from file_dataset import _journal as journals
from file_dataset._checkpoint import parts


def texts(*numbers):
    return [f"row {number}" for number in numbers]


def same(left, right):
    pd.testing.assert_frame_equal(left.manifest, right.manifest)
    pd.testing.assert_frame_equal(left.files.drop(columns="etag"), right.files.drop(columns="etag"))
    pd.testing.assert_frame_equal(left.inputs, right.inputs)
    pd.testing.assert_frame_equal(left.failures, right.failures)


def test_a_second_run_calls_fn_for_no_row_and_returns_the_same(six, calls, make, tmp_path):
    first = make(calls).run(six, checkpoint=tmp_path / "runs")
    assert calls.taken() == texts(*range(1, 7))
    second = make(calls).run(six, checkpoint=tmp_path / "runs")
    assert calls.taken() == []
    same(first, second)
    assert len(second.manifest) == len(second.files) == len(second.inputs) == 6
    assert second.input is six


def test_rows_that_failed_and_rows_that_came_run(six, calls, make, tmp_path):
    calls.failing = {"row 2"}
    make(calls).run(six.head(4), checkpoint=tmp_path / "runs")
    calls.failing = set()
    calls.taken()
    result = make(calls).run(six, checkpoint=tmp_path / "runs")
    assert calls.taken() == texts(2, 5, 6)
    assert result.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert result.failures.empty


def test_rows_that_left_the_frame_are_not_in_the_result(six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    result = make(calls).run(six[six["id"] > 4], checkpoint=tmp_path / "runs")
    assert result.manifest["id"].tolist() == result.files["id"].tolist() == result.inputs["id"].tolist() == [5, 6]


def test_the_result_is_in_the_order_of_todays_frame_with_todays_carried_columns(six, calls, make, tmp_path):
    make(calls).run(six.iloc[[0, 2, 4]], checkpoint=tmp_path / "runs")
    today = six.iloc[::-1].assign(label=list("uvwxyz"), age=range(6))
    result = make(calls).run(today, checkpoint=tmp_path / "runs")
    assert result.manifest["id"].tolist() == [6, 5, 4, 3, 2, 1]
    assert result.manifest["label"].tolist() == list("uvwxyz")
    assert result.manifest["age"].tolist() == list(range(6))
    assert result.files["id"].tolist() == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("change", ["location", "into_path", "code_version"])
def test_a_row_of_other_settings_or_inputs_runs(change, six, calls, make, tmp_path, sources):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    calls.taken()
    kwargs, run = {}, {}
    if change == "location":
        (sources / "other.txt").write_text("row 3")
        six.loc[2, "a.txt"] = str(sources / "other.txt")
    elif change == "into_path":
        kwargs["into_path"] = tmp_path / "elsewhere"
    else:
        run["code_version"] = "2"
    plan = make(calls, **kwargs).plan(six, checkpoint=tmp_path / "runs", **run)
    result = make(calls, **kwargs).run(six, checkpoint=tmp_path / "runs", **run)
    assert calls.taken() == (texts(3) if change == "location" else texts(*range(1, 7)))
    assert plan.rows["why"][2].startswith("a.txt was " if change == "location" else f"{change} was ")
    assert len(result.manifest) == 6


def test_carried_values_count_only_where_fn_takes_them(six, make, tmp_path):
    taken = []

    def with_row(input_dir, output_dir, row):
        taken.append(row["id"])
        return {"a.txt": input_dir / "a.txt"}

    def without(input_dir, output_dir):
        taken.append("without")
        return {"a.txt": input_dir / "a.txt"}

    changed = six.assign(label=["z", *six["label"][1:]])
    for fn, place, expected in ((with_row, "a", [1]), (without, "b", [])):
        make(fn).run(six, checkpoint=tmp_path / place)
        taken.clear()
        make(fn).run(changed, checkpoint=tmp_path / place)
        assert taken == expected


def test_a_row_that_was_begun_anew_counts_no_more_as_it_was(six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs", code_version="1")
    calls.failing = {"row 3"}
    with pytest.raises(RunStoppedError):
        make(calls, on_failure="raise").run(six, checkpoint=tmp_path / "runs", code_version="2")
    calls.failing = set()
    calls.taken()
    # the outputs of rows 1 and 2 are those of code 2; the others may be half replaced
    make(calls).run(six, checkpoint=tmp_path / "runs", code_version="1")
    assert calls.taken() == texts(*range(1, 7))


def test_what_stops_a_run_loses_no_row_that_was_done(six, calls, make, tmp_path):
    calls.failing = {"row 4"}
    with pytest.raises(RunStoppedError) as caught:
        make(calls, on_failure="raise", prefetch=0).run(six, checkpoint=tmp_path / "runs")
    assert caught.value.result.manifest["id"].tolist() == [1, 2, 3]
    assert any(f"checkpoint {tmp_path / 'runs'}: the same call" in note for note in caught.value.__notes__)
    calls.failing = set()
    calls.taken()
    result = make(calls).run(six, checkpoint=tmp_path / "runs")
    assert calls.taken() == texts(4, 5, 6)
    assert len(result.manifest) == 6


def test_a_stopped_run_carries_the_rows_of_earlier_runs_too(six, calls, make, tmp_path):
    make(calls).run(six.head(3), checkpoint=tmp_path / "runs")
    calls.failing = {"row 5"}
    with pytest.raises(RunStoppedError) as caught:
        make(calls, on_failure="raise", prefetch=0).run(six, checkpoint=tmp_path / "runs")
    result = caught.value.result
    assert result.manifest["id"].tolist() == [1, 2, 3, 4]
    assert result.unprocessed_rows["id"].tolist() == [6]


def test_max_failed_fraction_is_of_the_whole_input(six, calls, make, tmp_path):
    make(calls).run(six.head(4), checkpoint=tmp_path / "runs")
    calls.failing = {"row 5"}  # 1 of 2 rows that run, 1 of 6 in all
    result = make(calls, max_failed_fraction=0.2).run(six, checkpoint=tmp_path / "runs")
    assert result.summary() == "1 of 6 rows dropped (16.7%): 1 at fn"


def test_recorded_failures_of_an_earlier_pipeline_are_passed_on(six, calls, make, tmp_path):
    calls.failing = {"row 2"}
    recorded = make(calls, on_failure="record").run(six).manifest
    calls.taken()
    second = make(into_path=tmp_path / "second", on_failure="record")
    for _ in range(2):
        result = second.run(recorded, checkpoint=tmp_path / "runs")
        assert result.manifest["error_stage"].notna().tolist() == [False, True, False, False, False, False]
        assert result.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]


def test_ids_come_back_with_their_dtype_and_text_counts(six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    calls.taken()
    result = make(calls).run(six.astype({"id": str}), checkpoint=tmp_path / "runs")
    assert calls.taken() == []
    assert result.manifest["id"].tolist() == ["1", "2", "3", "4", "5", "6"]


def test_a_list_and_the_array_that_parquet_makes_of_it_are_one_value(six, make, tmp_path):
    def with_row(input_dir, output_dir, row):
        assert len(row["box"]) == 2
        return {"a.txt": input_dir / "a.txt"}

    text = "one"  # one object, which is two when it comes from a file
    six = six.assign(tags=[[text, text]] * 6, box=[[1, 2]] * 6, boxes=[[[0.5], [1.5, 2.5]]] * 6, none=[[]] * 6)
    six.to_parquet(tmp_path / "six.parquet")
    read = pd.read_parquet(tmp_path / "six.parquet")
    assert type(read["box"][0]) is type(read["tags"][0]) is np.ndarray
    make(with_row).run(six, checkpoint=tmp_path / "runs")
    assert make(with_row).plan(read, checkpoint=tmp_path / "runs").counts["same"] == 6
    read["box"] = [np.array([1, 3]), *read["box"][1:]]
    assert make(with_row).plan(read, checkpoint=tmp_path / "runs").counts["changed"] == 1


def test_progress_counts_the_rows_that_were_done(six, calls, make, tmp_path):
    make(calls).run(six.head(4), checkpoint=tmp_path / "runs")
    seen = []
    pipeline = file_dataset.Pipeline(calls, into_path=tmp_path / "out", progress=seen.append)
    pipeline.run(six, checkpoint=tmp_path / "runs")
    assert [(now.done, now.total) for now in seen] == [(5, 6), (6, 6)]


def test_an_output_that_fn_did_not_make_stays_null(six, make, tmp_path):
    def sometimes(input_dir, output_dir):
        text = (input_dir / "a.txt").read_text()
        return {"a.txt": input_dir / "a.txt", "b.txt": input_dir / "a.txt" if text == "row 2" else None}

    first = make(sometimes).run(six, checkpoint=tmp_path / "runs")
    second = make(sometimes).run(six, checkpoint=tmp_path / "runs")
    same(first, second)
    assert second.manifest["b.txt"].notna().tolist() == [False, True, False, False, False, False]


def test_rows_are_written_down_while_the_run_goes_on(six, make, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_ROWS", 2)
    seen = []

    def looks(input_dir, output_dir):
        if (input_dir / "a.txt").read_text() == "row 6":
            until(lambda: known(tmp_path / "runs") >= 4)
            seen.append(known(tmp_path / "runs"))
        return {"a.txt": input_dir / "a.txt"}

    make(looks, prefetch=0).run(six, checkpoint=tmp_path / "runs")
    assert seen[0] in (4, 5)


def known(place):
    if not any(place.glob("part-*")):
        return 0
    return len(file_dataset.PipelineResult.load(place).manifest)


def test_rows_are_written_down_after_some_seconds_though_few(six, make, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_S", 0.05)
    seen = []

    def looks(input_dir, output_dir):
        if (input_dir / "a.txt").read_text() == "row 2":
            until(lambda: known(tmp_path / "runs") == 1)
            seen.append(known(tmp_path / "runs"))
        return {"a.txt": input_dir / "a.txt"}

    make(looks, prefetch=0).run(six, checkpoint=tmp_path / "runs")
    assert seen == [1]


def test_many_parts_are_joined_and_no_row_is_lost(six, calls, make, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_ROWS", 1)
    monkeypatch.setattr(journals, "_MOST_PARTS", 3)
    monkeypatch.setattr(journals, "_LARGEST", 1)
    make(calls).run(six, checkpoint=tmp_path / "runs")
    assert len(list((tmp_path / "runs").iterdir())) <= 4
    calls.taken()
    assert len(make(calls).run(six, checkpoint=tmp_path / "runs").manifest) == 6
    assert calls.taken() == []


def test_a_part_that_is_there_twice_counts_once(six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    (part,) = (tmp_path / "runs").iterdir()
    (tmp_path / "runs" / "part-again.parquet").write_bytes(part.read_bytes())
    calls.taken()
    result = make(calls).run(six, checkpoint=tmp_path / "runs")
    assert calls.taken() == []
    assert result.manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("damage", ["torn", "foreign", "newer", "flipped", "text", "empty"])
def test_a_part_that_is_no_part_is_refused_by_name(damage, six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    (part,) = (tmp_path / "runs").iterdir()
    content = part.read_bytes()
    if damage == "torn":
        part.write_bytes(content[:-20])
    elif damage == "foreign":
        six.to_parquet(part)
    elif damage == "newer":
        pq.write_table(pq.read_table(part).replace_schema_metadata({"file_dataset.checkpoint": "9"}), part)
    elif damage == "flipped":
        part.write_bytes(content[:60] + bytes([content[60] ^ 255]) + content[61:])
    else:
        part.write_bytes(b"text" if damage == "text" else b"")
    calls.taken()
    with pytest.raises(InvalidDatasetError, match=part.name):
        make(calls).run(six, checkpoint=tmp_path / "runs")
    assert calls.taken() == []


def test_a_checkpoint_that_cannot_be_written_stops_the_run_before_the_first_row(six, calls, make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidDatasetError, match="is a file"):
        make(calls).run(six, checkpoint=tmp_path / "file")
    with pytest.raises(RunStoppedError, match="cannot be read") as caught:
        make(calls).run(six, checkpoint=tmp_path / "file" / "below")
    assert calls.taken() == []
    assert len(caught.value.result.unprocessed_rows) == 6


def test_a_checkpoint_that_can_no_longer_be_written_stops_the_run_and_names_the_rows(six, make, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_ROWS", 1)
    called = []

    def breaks(input_dir, output_dir):
        called.append((input_dir / "a.txt").read_text())
        if called[-1] == "row 2":
            until(lambda: known(tmp_path / "runs") == 1)
            (tmp_path / "runs").rename(tmp_path / "gone")
            (tmp_path / "runs").write_text("a file lies there")
        return {"a.txt": input_dir / "a.txt"}

    with pytest.raises(RunStoppedError, match=r"cannot be written.*\[2") as caught:
        make(breaks, prefetch=0).run(six, checkpoint=tmp_path / "runs")
    assert 2 in caught.value.result.manifest["id"].tolist()
    (tmp_path / "runs").unlink()
    (tmp_path / "gone").rename(tmp_path / "runs")
    assert known(tmp_path / "runs") == 1


def test_code_version_and_check_inputs_are_for_checkpoints(six, make):
    with pytest.raises(InvalidDatasetError, match="checkpoint="):
        make().run(six, code_version="2")
    with pytest.raises(InvalidDatasetError, match="checkpoint="):
        make().run(six, check_inputs=True)
    with pytest.raises(InvalidDatasetError, match="give a text"):
        make().run(six, checkpoint="runs", code_version=2)


def test_local_inputs_that_were_changed_run_when_they_are_looked_at(six, calls, make, tmp_path, sources):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    calls.taken()
    stamp = (sources / "3.txt").stat().st_mtime_ns
    (sources / "3.txt").write_text("ROW 3")  # as long as before
    os.utime(sources / "3.txt", ns=(stamp, stamp + 1_000_000_000))
    (sources / "5.txt").write_text("row 5, longer")
    make(calls).run(six, checkpoint=tmp_path / "runs")
    assert calls.taken() == []
    plan = make(calls).plan(six, checkpoint=tmp_path / "runs", check_inputs=True)
    assert plan.counts == {"new": 0, "failed": 0, "changed": 2, "same": 4}
    make(calls).run(six, checkpoint=tmp_path / "runs", check_inputs=True)
    assert calls.taken() == ["ROW 3", "row 5, longer"]


def test_workers_and_prefetch_make_no_difference(six, make, tmp_path):
    first = make(forward).run(six.head(3), checkpoint=tmp_path / "runs")
    result = make(forward, workers=2, prefetch=1).run(six, checkpoint=tmp_path / "runs")
    plain = make(forward).run(six)
    same(result, plain)
    assert len(first.manifest) == 3


def test_the_plan_says_what_a_run_would_do_and_does_nothing(six, calls, make, tmp_path):
    calls.failing = {"row 2"}
    make(calls).run(six.head(3), checkpoint=tmp_path / "runs")
    calls.taken()
    parts = sorted(path.read_bytes() for path in (tmp_path / "runs").iterdir())
    plan = make(calls).plan(six, checkpoint=tmp_path / "runs")
    assert plan.rows["state"].tolist() == ["same", "failed", "same", "new", "new", "new"]
    assert plan.rows["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert plan.rows["why"].notna().tolist() == [False, True, False, True, True, True]
    assert plan.summary() == "4 of 6 rows to run: 3 new, 1 failed; 2 are done"
    assert "failed at fn: ValueError" in repr(plan)
    assert "failed at fn: ValueError" in plan._repr_html_()
    assert calls.taken() == []
    assert sorted(path.read_bytes() for path in (tmp_path / "runs").iterdir()) == parts


def test_a_plan_without_a_checkpoint_has_all_rows_new(six, make):
    assert make().plan(six).summary() == "6 of 6 rows to run: 6 new"


def test_a_frame_without_rows_is_fine(six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    assert make(calls).run(six.head(0), checkpoint=tmp_path / "runs").manifest.empty
    assert make(calls).run(six.head(0), checkpoint=tmp_path / "nothing").manifest.empty
    assert make(calls).plan(six.head(0)).summary() == "0 of 0 rows to run"


def test_two_runs_at_once_each_return_the_whole(six, make, tmp_path):
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(make(forward).run, six, checkpoint=tmp_path / "runs") for _ in range(2)]
        for run in runs:
            assert run.result().manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert make().plan(six, checkpoint=tmp_path / "runs").counts["same"] == 6


def test_what_a_part_names_as_an_output_cannot_lead_elsewhere(six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    (part,) = (tmp_path / "runs").iterdir()
    lines = parts.known_of([parts.opened(part.read_bytes(), "part")]).whole().to_pylist()
    lines[0]["outputs"][0]["file"] = "../../elsewhere.txt"
    part.write_bytes(parts.encode(pa.Table.from_pylist(lines, parts.COLUMNS)))
    with pytest.raises(InvalidDatasetError, match=part.name):
        make(calls).run(six, checkpoint=tmp_path / "runs")


def test_relative_paths_are_one_place(six, calls, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(calls).run(six, checkpoint="runs")
    calls.taken()
    make(calls).run(six, checkpoint=Path(tmp_path, "runs"))
    assert calls.taken() == []


def test_a_checkpoint_that_is_removed_leaves_all_rows_to_run(six, calls, make, tmp_path):
    make(calls).run(six, checkpoint=tmp_path / "runs")
    (tmp_path / "runs" / "notes.txt").write_text("of a colleague")
    file_dataset.remove_checkpoint(tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["notes.txt"]
    assert make(calls).plan(six, checkpoint=tmp_path / "runs").counts["new"] == 6
    file_dataset.remove_checkpoint(tmp_path / "never")
    assert not (tmp_path / "never").exists()
