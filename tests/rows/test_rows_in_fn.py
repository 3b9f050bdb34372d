"""What fn may be, what it is called with, and what its result costs or brings."""

from __future__ import annotations

import functools
import gc
import logging
import os
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from helpers import forward, impatient_options, until, upper
from servers.paced import number_of

import file_dataset
from file_dataset import InvalidDatasetError, RunStoppedError


def test_an_output_named_as_a_carried_column_costs_its_row(faults, frame, pipeline):
    result = pipeline(lambda i, o: {"v1.5": i / "a.txt"}).run(frame.iloc[:1])
    assert result.failures["error_stage"].tolist() == ["fn"]
    assert "name of another column" in result.failures["error_message"][0]
    assert faults.count("PutObject") == 0


def test_fn_is_called_by_keyword_when_its_parameters_have_our_names(frame, pipeline):
    def swapped(*, output_dir, input_dir):
        return {"a.txt": input_dir / "a.txt"}

    assert len(pipeline(swapped)(frame)) == 4


@pytest.mark.parametrize(
    "fn",
    [
        functools.partial(lambda scale, i, o: {"x.txt": i / "a.txt"}, 2),
        lambda source, target: {"x.txt": source / "a.txt"},
        functools.wraps(upper)(lambda *args, **kwargs: {"upper.txt": kwargs["input_dir"] / "a.txt"}),
    ],
    ids=["partial", "lambda", "decorated"],
)
def test_every_kind_of_function_works(frame, pipeline, fn):
    assert len(pickle.loads(pickle.dumps(pipeline(fn)))(frame)) == 4


class Model:
    made = 0

    def __init__(self):
        type(self).made += 1

    def __call__(self, input_dir, output_dir):
        return {"a.txt": input_dir / "a.txt"}


def test_a_class_is_made_once_per_process(frame, pipeline):
    one = pipeline(Model)
    assert len(one(frame)) == len(one(frame)) == 4
    assert Model.made == 1


def test_a_class_that_cannot_be_made_stops_the_run(faults, frame, pipeline):
    class Broken:
        def __init__(self):
            raise RuntimeError("no weights")

        def __call__(self, input_dir, output_dir):
            return {}

    with pytest.raises(RunStoppedError, match="no weights") as caught:
        pipeline(Broken).run(frame)
    assert len(caught.value.result.unprocessed_rows) == len(frame)
    assert not faults.requests


def test_the_constructor_of_a_class_may_use_the_library_in_threads(faults, frame, pipeline, fault_options):
    class Loaded:
        def __init__(self):
            with ThreadPoolExecutor(2) as pool:
                fresh = impatient_options(faults.endpoint_url, max_concurrency=7)
                read = file_dataset.reader({"w.bin": "s3://bucket/in/1"}, options=fresh).into_blob_table
                self.weights = list(pool.map(lambda _: read().num_rows, range(2)))

        def __call__(self, input_dir, output_dir):
            return {"a.txt": input_dir / "a.txt"}

    assert len(pipeline(Loaded)(frame)) == 4


def test_a_contract_makes_missing_and_extra_outputs_failures(frame, pipeline):
    def other(input_dir, output_dir):
        return {"b.txt": input_dir / "a.txt"}

    failures = pipeline(other, outputs=["a.txt"]).run(frame.iloc[:1]).failures
    assert sorted(failures["error_message"]) == [
        "output 'a.txt' was promised and is missing",
        "output 'b.txt' was not promised",
    ]


def test_promised_outputs_with_the_names_of_carried_columns_are_refused(faults, frame, pipeline):
    with pytest.raises(InvalidDatasetError, match=r"v1\.5"):
        pipeline(forward, outputs=["v1.5"]).run(frame)
    assert not faults.requests


def test_what_fn_itself_reads_and_writes_fails_at_fn(faults, frame, pipeline, fault_options):
    def curious(input_dir, output_dir):
        file_dataset.reader({"x.txt": "s3://bucket/none"}, options=fault_options).into_blob_table()

    failures = pipeline(curious).run(frame.iloc[:1]).failures
    assert failures[["id", "error_stage", "error_type"]].to_numpy().tolist() == [[1, "fn", "RowError"]]


def test_an_exception_that_cannot_tell_itself_costs_its_row(frame, pipeline):
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("mute")

    def fail(input_dir, output_dir):
        raise MuteError

    assert pipeline(fail).run(frame.iloc[:1]).failures["error_message"].tolist() == ["MuteError"]


def test_a_removed_working_directory_stops_nothing(frame, pipeline, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert len(pipeline(forward)(frame)) == 4


def test_what_fn_had_in_memory_when_it_raised_is_let_go(paced, on, six, monkeypatch):
    class Volume:
        """Gigabytes, say."""

    monkeypatch.setattr(logging.getLogger("file_dataset._run"), "disabled", True)  # pytest keeps what is logged
    refs, alive = [], []

    def fail(input_dir, output_dir):
        alive.append(sum(ref() is not None for ref in refs))
        volume = Volume()
        refs.append(weakref.ref(volume))
        raise ValueError("no")

    gc.disable()  # at once, and not when the collector comes by
    try:
        on(fail)(six)
    finally:
        gc.enable()
    assert alive == [0, 0, 0, 0, 0, 0]


def test_a_relative_temp_dir_stays_where_it_was_when_fn_goes_elsewhere(paced, on, six, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def wander(input_dir, output_dir):
        os.chdir(elsewhere)
        until(lambda: paced.count("GetObject", f"in/{min(number_of(input_dir) + 2, 6)}"))
        return forward(input_dir, output_dir)

    assert len(on(wander, temp_dir="work")(six)) == 6


def told(input_dir, output_dir, row):
    (output_dir / "row.txt").write_text(repr([(name, value, type(value).__name__) for name, value in row.items()]))
    return {"row.txt": output_dir / "row.txt"}


@pytest.mark.parametrize("workers", [0, 1])
def test_fn_is_told_its_id_and_its_carried_columns(faults, pipeline, workers):
    faults.put("s3://bucket/in/1", b"one")
    frame = pd.DataFrame(
        {
            "a.txt": ["s3://bucket/in/1", "s3://bucket/in/1"], "id": [7, 8], "label": ["ill", None],
            "count": pd.Series([3, 4], dtype="int64"), "v1.5": [0.5, float("nan")],
            "when": pd.to_datetime(["2024-01-02", None]),
        }
    )  # fmt: skip
    pipeline(told, workers=workers)(frame)
    rows = [faults.body(f"s3://bucket/out/{number}/row.txt").decode() for number in (7, 8)]
    nothing = (None, "NoneType")
    when = ("when", pd.Timestamp("2024-01-02"), "Timestamp")
    assert rows[0] == repr(
        [("id", 7, "int"), ("label", "ill", "str"), ("count", 3, "int"), ("v1.5", 0.5, "float"), when]
    )
    assert rows[1] == repr(
        [("id", 8, "int"), ("label", *nothing), ("count", 4, "int"), ("v1.5", *nothing), ("when", *nothing)]
    )
