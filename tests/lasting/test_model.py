"""Any sequence of runs on one checkpoint does what a model of a few lines does: which rows run, and what comes out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_dataset import Pipeline, PipelineResult, RunStoppedError
from file_dataset import _journal as journals

ROWS, VARIANTS = 6, "ab"


@dataclass(frozen=True)
class Step:
    """One run: the rows and which input each has, which of them fail, and the settings."""

    rows: list[tuple[int, str]]
    failing: frozenset[int]
    stops_at_failure: bool
    code_version: str | None
    into: str
    knobs: dict[str, int]


steps = st.builds(
    Step,
    rows=st.lists(st.tuples(st.integers(1, ROWS), st.sampled_from(VARIANTS)), unique_by=lambda row: row[0]),
    failing=st.frozensets(st.integers(1, ROWS), max_size=2),
    stops_at_failure=st.booleans(),
    code_version=st.sampled_from([None, None, "2"]),
    into=st.sampled_from(["x", "x", "y"]),
    knobs=st.fixed_dictionaries(
        {"_ROWS": st.integers(1, 7), "_MOST_PARTS": st.integers(1, 4), "_LARGEST": st.integers(0, 2)}
    ),
)


@dataclass
class Model:
    """What a checkpoint has of every row, and what lies on the disk."""

    known: dict[int, tuple[str, object]] = field(default_factory=dict)
    disk: dict[tuple[str, int], str] = field(default_factory=dict)

    def state(self, row, fingerprint):
        """Return what the plan says of a row."""
        state, before = self.known.get(row, ("new", None))
        if state == "stored":
            return "same" if before == fingerprint else "changed"
        return "changed" if state == "begun" else state

    def run(self, step):
        """Return states of the rows, which of them fn is called for, and which are done in the end."""
        prints = {row: (variant, step.code_version, step.into) for row, variant in step.rows}
        states = [self.state(*pair) for pair in prints.items()]
        to_run = [row for row, state in zip(prints, states, strict=True) if state != "same"]
        done = set(prints) - set(to_run)
        for row in to_run:
            if self.known.get(row, ("new", None))[0] == "stored":
                self.known[row] = "begun", prints[row]
        for count, row in enumerate(to_run, 1):
            if row in step.failing:
                self.known[row] = "failed", prints[row]
                if step.stops_at_failure:
                    return states, to_run[:count], done
            else:
                self.known[row] = "stored", prints[row]
                self.disk[step.into, row] = f"{row}{prints[row][0]} {step.code_version}"
                done.add(row)
        return states, to_run, done


def play(sequence):
    with tempfile.TemporaryDirectory() as directory:
        here, model = Path(directory), Model()
        for row in range(1, ROWS + 1):
            for variant in VARIANTS:
                (here / f"{row}{variant}.txt").write_text(f"{row}{variant}")
        for number, step in enumerate(sequence):
            check(here, model, step, label=f"run {number}")


@settings(max_examples=15)
@given(st.lists(steps, min_size=2, max_size=5))
def test_a_sequence_of_runs_does_what_the_model_does(sequence):
    play(sequence)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(steps, min_size=2, max_size=6))
def test_long_sequences_of_runs_do_what_the_model_does(sequence):
    play(sequence)


def check(here, model, step, label):
    calls = []

    def fn(input_dir, output_dir):
        text = (input_dir / "a.txt").read_text()
        calls.append(int(text[0]))
        if calls[-1] in step.failing:
            raise ValueError("as the test wants")
        (output_dir / "out.txt").write_text(f"{text} {step.code_version}")
        return {"out.txt": "out.txt"}

    columns = {"id": [row for row, _ in step.rows], "label": label}
    frame = pd.DataFrame({**columns, "a.txt": [str(here / f"{row}{variant}.txt") for row, variant in step.rows]})
    on_failure = "raise" if step.stops_at_failure else "drop"
    pipeline = Pipeline(fn, into_path=here / step.into, prefetch=0, progress=False, on_failure=on_failure)
    how = {"checkpoint": here / "runs", "code_version": step.code_version}
    plan = pipeline.plan(frame, **how)
    states, to_run, done = model.run(step)
    assert plan.rows["state"].tolist() == states
    with mock.patch.multiple(journals, **step.knobs):
        try:
            result = pipeline.run(frame, **how)
        except RunStoppedError as exc:
            result = exc.result
    assert calls == to_run
    assert result.manifest["id"].tolist() == [row for row, _ in step.rows if row in done]
    assert set(result.manifest.get("label", [])) <= {label}
    assert result.files["id"].tolist() == result.inputs["id"][result.inputs["id"].isin(done)].tolist()
    for row, at in zip(result.manifest["id"], result.manifest.get("out.txt", []), strict=True):
        assert at == str(here / step.into / str(row) / "out.txt")
        assert Path(at).read_text() == model.disk[step.into, row]
    if model.known:
        loaded = PipelineResult.load(here / "runs")
        assert set(loaded.manifest["id"]) == {row for row, (state, _) in model.known.items() if state == "stored"}
        assert set(loaded.failures["id"]) == {row for row, (state, _) in model.known.items() if state == "failed"}
