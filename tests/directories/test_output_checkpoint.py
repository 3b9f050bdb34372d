"""Directories of finished rows: a checkpoint, a later run, Ray's tasks and the next Pipeline have them as they were."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from file_dataset import InvalidDatasetError, Pipeline, PipelineResult, _frame
from file_dataset._checkpoint import frames, parts
from file_dataset._ray import outcomes
from file_dataset._tally import Stored, StoredRows

OUT = "s3://bucket/out"


@pytest.fixture
def frame(faults):
    for number in range(4):
        faults.put(f"s3://bucket/in/{number}", str(number).encode())
    return pd.DataFrame({"id": range(4), "a.txt": [f"s3://bucket/in/{number}" for number in range(4)], "site": "x"})


class Mixed:
    """Returns a directory, a file and nothing, by turns; row 2 a file where the others have a directory."""

    def __init__(self, fails=()):
        self.fails, self.called = set(fails), []

    def __call__(self, input_dir, output_dir, row):
        self.called.append(row["id"])
        if row["id"] in self.fails:
            raise ValueError("not now")
        (output_dir / "series").mkdir()
        for name in ("0001", "0002"):
            (output_dir / "series" / name).write_text(f"{row['id']} {name}")
        if row["id"] == 2:
            return {"series": input_dir / "a.txt", "mask.txt": input_dir / "a.txt"}
        if row["id"] == 3:
            return {"series/0001": input_dir / "a.txt", "mask.txt": None}
        return {"mask.txt": input_dir / "a.txt", "series": output_dir / "series"}


@pytest.mark.parametrize("is_local", [False, True], ids=["S3", "disk"])
def test_a_checkpoint_among_the_outputs_of_a_row_is_refused_before_anything_is_requested(
    faults, fault_options, frame, tmp_path, is_local
):
    into_path = f"{tmp_path}/out" if is_local else OUT
    pipeline = Pipeline(Mixed(), into_path=into_path, options=fault_options, progress=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    there = f"{tmp_path}/link" if is_local else OUT
    before = sum(faults.requests.values())
    with pytest.raises(InvalidDatasetError, match=r"lies among the outputs of row '1', below .*/out/1/"):
        pipeline.run(frame, checkpoint=f"{there}/1/series/")
    assert sum(faults.requests.values()) == before
    for apart in (f"{there}/9/series", f"{there}/1-1/series", f"{there}/runs"):
        assert len(pipeline.run(frame, checkpoint=apart).manifest) == 4


@pytest.mark.parametrize("into_path", [OUT, "local"])
def test_a_run_that_goes_on_gives_the_result_of_one_that_was_not_interrupted(fault_options, frame, tmp_path, into_path):
    into_path = tmp_path / "out" if into_path == "local" else into_path

    def pipeline(fn):
        return Pipeline(fn, into_path=into_path, options=fault_options, progress=False)

    whole = pipeline(Mixed()).run(frame)
    pipeline(Mixed(fails=[1])).run(frame, checkpoint=tmp_path / "checkpoint")
    last = Mixed()
    goes_on = pipeline(last).run(frame, checkpoint=tmp_path / "checkpoint")
    assert last.called == [1]
    pd.testing.assert_frame_equal(goes_on.manifest, whole.manifest)
    pd.testing.assert_frame_equal(goes_on.files, whole.files)
    known = PipelineResult.load(tmp_path / "checkpoint")
    by_id = {"by": "id", "ignore_index": True, "kind": "stable"}
    columns = whole.manifest.columns.drop("site")
    pd.testing.assert_frame_equal(known.manifest[columns].sort_values(**by_id), whole.manifest[columns])
    pd.testing.assert_frame_equal(known.files.sort_values(**by_id), whole.files)


def test_the_columns_of_a_manifest_are_in_the_order_of_its_rows_whichever_was_done_first(
    fault_options, frame, tmp_path
):
    def pipeline():
        return Pipeline(Mixed(), into_path=OUT, options=fault_options, progress=False)

    pipeline().run(frame[frame["id"] == 2], checkpoint=tmp_path)
    pipeline().run(frame[frame["id"] == 0], checkpoint=tmp_path)
    rows = frame[frame["id"].isin([0, 2])]
    assert list(pipeline().run(rows, checkpoint=tmp_path).manifest) == ["mask.txt", "series", "id", "site"]


def test_the_next_pipeline_reads_what_a_checkpoint_knows(fault_options, frame, tmp_path):
    first = Pipeline(Mixed(), into_path=OUT, options=fault_options, progress=False)
    first.run(frame.iloc[:2], checkpoint=tmp_path)
    manifest = first.run(frame.iloc[:2], checkpoint=tmp_path).manifest

    def joined(input_dir, output_dir):
        text = "; ".join(path.read_text() for path in sorted((input_dir / "series").iterdir()))
        (output_dir / "all.txt").write_text(text)
        return {"all.txt": output_dir / "all.txt"}

    result = Pipeline(joined, into_path=tmp_path / "out", options=fault_options, progress=False).run(manifest)
    texts = [open(at).read() for at in result.manifest["all.txt"]]  # noqa: PTH123, SIM115  # three short files
    assert texts == ["0 0001; 0 0002", "1 0001; 1 0002"]


# made up rows

NAMES = st.sampled_from(["a", "a/b", "series", "series/1", "series-1", "x.zarr"])
BELOW = st.lists(st.sampled_from(["0001", "sub/1", "b", "1", "sub/x.zarr/0"]), min_size=1, unique=True)
KINDS = st.one_of(st.none(), st.just("file"), BELOW)


@st.composite
def row_of(draw, position):
    """Draw what a row stored; no output lies below another."""
    outputs, files = {}, []
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        if any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in outputs):
            continue
        kind, at = draw(KINDS), f"{OUT}/{position}/{name}"
        outputs[name] = None if kind is None else at if kind == "file" else f"{at}/"
        stored = [] if kind is None else [name] if kind == "file" else [f"{name}/{below}" for below in sorted(kind)]
        sizes = [draw(st.integers(0, 9)) for _ in stored]
        files += [
            _frame.StoredFile(position, file, f"{OUT}/{position}/{file}", size, "e", None)
            for file, size in zip(stored, sizes, strict=True)
        ]
    return Stored(outputs, tuple(files), 0)


ROWS = st.integers(1, 4).flatmap(lambda count: st.tuples(*(row_of(position) for position in range(count))))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_what_rows_stored_comes_back_as_it_was_from_records_parts_and_outcomes(rows):
    total = len(rows)
    of_frame = _frame.Rows(pd.DataFrame({"id": range(total)}), list(range(total)), {}, (), {}, None, total)
    stored = StoredRows(total)
    for position, row in enumerate(rows):
        stored.put(position, row)
    assert [stored[position] for position in range(total)] == list(rows)
    manifest = _frame.manifest(of_frame, stored.columns([], range(total)), keep=range(total))
    files = _frame.files_frame(of_frame, *stored.files())
    assert files["file"].tolist() == [file.file for row in rows for file in row.files]

    lines = [
        dict.fromkeys(parts.COLUMNS.names)
        | {"id": str(position), "into_path": OUT, "fingerprint": bytes(16), "state": parts.STORED, "generation": 1}
        | {"finished_at": position, "without_digest": 0, "inputs": [], "failures": []}
        | {"outputs": parts.outputs_of(row.outputs, row.files)}
        for position, row in enumerate(rows)
    ]
    content = parts.encode(pa.Table.from_pylist(lines, parts.COLUMNS))
    known = parts.known_of([parts.opened(content, "part")])
    found, _ = frames.frames_at(known, range(total), of_frame, range(total))
    pd.testing.assert_frame_equal(found["manifest"], manifest)
    pd.testing.assert_frame_equal(found["files"], files)

    records = pa.Table.from_pylist(
        [
            {"id": str(position), "failures": [], "inputs": [], "without_digest": 0}
            | {"outputs": [{"file": name, "location": at} for name, at in row.outputs.items()]}
            | {"files": [{name: getattr(file, name) for name in _frame.FILES_COLUMNS[1:]} for file in row.files]}
            for position, row in enumerate(rows)
        ],
        outcomes.OUTCOMES,
    ).to_pylist()
    assert [outcomes.outcome_of(record, at, at) for at, record in enumerate(records)] == list(rows)
