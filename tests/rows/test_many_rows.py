"""A run of many rows keeps columns: what it holds and does grows with the rows, and by little per row."""

from __future__ import annotations

import gc
import tracemalloc

import pandas as pd
import pytest
from helpers import forward, python_calls

from file_dataset import Pipeline, reader
from file_dataset import _frame as frames
from file_dataset._columns import Records
from file_dataset._errors import Failure, RowError
from file_dataset._tally import Failed, Stored, Tally

INTO = "s3://bucket/outputs"
MANY = 20_000


def prepared(count, **arguments):
    frame = pd.DataFrame({"id": range(count), "image.mha": [f"s3://bucket/{number}.mha" for number in range(count)]})
    return Pipeline(forward, into_path=INTO, progress=False, **arguments)._prepare(frame)  # noqa: SLF001


def tally_of(ready, total=None):
    return Tally(ready.settings, ready.contract, total or len(ready.rows), (ready.source, ready.target))


def file_of(position, name="copy.mha"):
    location = f"{INTO}/{position}/{name}"
    return frames.StoredFile(position, name, location, 5, f'"{position:032x}"', f"CRC64NVME:{position:012x}")


def stored(position, *names, null=(), without_digest=0, inputs=()):
    files = tuple(file_of(position, name) for name in names)
    outputs = {file.file: file.location for file in files} | dict.fromkeys(null)
    return Stored(outputs, files, without_digest, inputs)


def read(position, cell, version_id=None):
    etag, checksum = f"{position:032x}", f"CRC64NVME:{position:012x}"
    return frames.InputFile(position, "image.mha", cell, 5, etag, version_id, checksum)


def failed(position):
    url = f"s3://bucket/{position}.mha"
    error = Failure(position, "download", "image.mha", url, "FileNotFoundError", "NoSuchKey", f"{url} is missing")
    return Failed(RowError([error]))


def peak_per_row(make, **arguments):
    """The most bytes that Python holds at once for a row of a tally, with its result."""
    ready = prepared(MANY, **arguments)
    prepared(20).rows.row(0)
    tracemalloc.start()
    try:
        tally = tally_of(ready)
        for position in range(MANY):
            tally.put(position, make(position))
        tally.result(ready.rows)
        return tracemalloc.get_traced_memory()[1] / MANY
    finally:
        tracemalloc.stop()


def test_a_stored_row_takes_few_bytes_until_the_result_is_made():
    """URL, ETag and checksum have some 100 bytes; an object per row and file took 764, per text 420."""
    assert peak_per_row(lambda position: stored(position, "copy.mha")) < 350


def test_the_inputs_of_a_row_take_few_bytes_until_the_result_is_made():
    """ETag and checksum have 54 bytes; the location is the cell's own."""
    cell = "s3://bucket/image.mha"
    without = peak_per_row(lambda position: stored(position, "copy.mha"))
    assert peak_per_row(lambda position: stored(position, "copy.mha", inputs=(read(position, cell),))) < without + 150


@pytest.mark.parametrize("on_failure", ["drop", "record"])
def test_a_failed_row_takes_few_bytes_until_the_result_is_made(on_failure):
    """URL and message have some 160 bytes; an object per failure took 580, recorded 640."""
    assert peak_per_row(failed, on_failure=on_failure) < 500


ROWS = {"null": None, "no location": "gs://bucket/a.mha"}


@pytest.mark.parametrize("cell", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("on_failure", ["drop", "record"])
def test_twice_the_rows_are_twice_the_work(tmp_path, cell, on_failure):
    run = Pipeline(forward, into_path=tmp_path, progress=False, prefetch=0, on_failure=on_failure).run

    def work(count):
        return python_calls(lambda: run(pd.DataFrame({"id": range(count), "a.mha": [cell] * count})))

    work(10)
    assert work(1000) < 2.1 * work(500)


@pytest.mark.parametrize("show", [repr, lambda result: result._repr_html_()], ids=["repr", "notebook"])
def test_a_result_shows_many_failures_without_a_call_for_each(show):
    def work(count):
        ready = prepared(count)
        tally = tally_of(ready)
        for position in range(count):
            tally.put(position, failed(position))
        result = tally.result(ready.rows)
        return python_calls(lambda: show(result))

    work(10)
    assert work(4000) < work(2000) + 100


def test_links_above_many_inputs_are_followed_once(tmp_path):
    """Of each path and its directory every part was looked at: 97 calls a row at this depth."""
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    frame = pd.DataFrame({"id": range(500), "a.mha": [f"{deep}/{number}.mha" for number in range(500)]})
    pipeline = Pipeline(forward, into_path=tmp_path / "out", progress=False)
    pipeline._prepare(frame)  # noqa: SLF001
    per_row = python_calls(lambda: pipeline._prepare(frame)) / 500  # noqa: SLF001
    assert per_row < 40, per_row


def test_of_many_missing_files_one_error_is_kept(tmp_path):
    """Each holds the frames of its traceback: 5 KB a file."""
    frame = pd.DataFrame({"id": range(500), "a.mha": str(tmp_path / "none.mha")})
    with pytest.raises(RowError) as caught:
        reader(frame).into_size_table()
    gc.collect()  # an error and its Future refer to each other
    kept = [one for one in gc.get_objects() if type(one) is FileNotFoundError]
    assert len(caught.value.failures) == 500
    assert len(kept) < 50  # of other tests


# --- what was put comes back

PUT = {
    "one output": stored(1, "copy.mha"),
    "two outputs": stored(1, "a.mha", "sub/b.mha", without_digest=2),
    "a null among them": stored(1, "a.mha", null=["b.mha"]),
    "nulls alone": stored(1, null=["a.mha", "b.mha"]),
    "none": stored(1),
    "a name whose bytes are no UTF-8": stored(1, "caf\udce9.mha"),
}


@pytest.mark.parametrize("row", PUT.values(), ids=PUT)
def test_a_stored_row_comes_back_as_it_was_put(row):
    tally = tally_of(prepared(3))
    for position, outcome in ((2, stored(2, "copy.mha")), (1, row), (0, stored(0, "other.mha"))):
        tally.put(position, outcome)
    assert (list(tally.stored), tally.stored[1]) == ([0, 1, 2], row)


def test_a_failed_row_comes_back_as_it_was_put():
    tally = tally_of(prepared(2))
    several = Failed(RowError([*failed(1).error.failures, Failure(1, "upload", "b", None, "OSError", None, "no")]))
    tally.put(1, several)
    tally.put(0, failed(0))
    assert (list(tally.failed), tally.failed[1]) == ([0, 1], several.error.failures)


def test_the_inputs_of_a_row_come_back_as_they_were_put():
    tally = tally_of(prepared(3))
    several = read(1, "s3://bucket/a", "null"), read(1, "/scans/b"), read(1, "s3://bucket/\u00e9", "v" * 32)
    for position, inputs in ((2, (read(2, "c"),)), (1, several), (0, ())):
        tally.put(position, stored(position, "copy.mha", inputs=inputs))
    assert (list(tally.inputs), tally.inputs[1]) == ([1, 2], several)


def test_inputs_are_listed_in_input_order():
    ready = prepared(3)
    tally = tally_of(ready)
    for position in (2, 0, 1):
        tally.put(position, stored(position, inputs=(read(position, "a", f"v{position}"), read(position, "b"))))
    inputs = tally.result(ready.rows).inputs
    assert inputs["id"].tolist() == [0, 0, 1, 1, 2, 2]
    assert inputs["location"].tolist() == ["a", "b"] * 3
    assert inputs["version_id"].fillna("").tolist() == ["v0", "", "v1", "", "v2", ""]


def test_a_location_is_the_cells_own_text():
    rows = prepared(1).rows
    assert rows.text_at(0, "image.mha", rows.location(0, "image.mha")) is rows.cells["image.mha"][0]


@pytest.mark.parametrize("value", ["a long text", None])
def test_a_row_that_was_interrupted_is_put_again_whole(value):
    def interrupted():
        yield value, 1
        raise KeyboardInterrupt

    records = Records(2, ["text", "number"], numbers=["number"])
    records.put(1, [("before", 0)])
    with pytest.raises(KeyboardInterrupt):
        records.put(0, interrupted())
    records.put(0, [("again", 2)])
    assert (records.of(0), records.of(1)) == ([("again", 2)], [("before", 0)])


def test_a_row_that_was_not_put_is_in_neither():
    tally = tally_of(prepared(2))
    tally.put(0, stored(0, "copy.mha"))
    assert (1 in tally.stored, 1 in tally.failed, tally.stored.get(1), tally.failed.get(1)) == (
        False,
        False,
        None,
        None,
    )


def test_the_first_outcome_of_a_row_counts():
    """A row that was stored while the run was stopped is put by both."""
    ready = prepared(1)
    tally = tally_of(ready)
    tally.put(0, stored(0, "copy.mha", without_digest=1))
    tally.put(0, stored(0, "copy.mha", without_digest=1))
    result = tally.result(ready.rows)
    assert (len(tally.stored), len(result.manifest), len(result.files), result.files_without_digest) == (1, 1, 1, 1)


def test_rows_that_end_in_any_order_are_listed_in_input_order():
    ready = prepared(4)
    tally = tally_of(ready)
    for position in (2, 0):
        tally.put(position, stored(position, f"{position}.mha", null=["none.mha"]))
    for position in (3, 1):
        tally.put(position, failed(position))
    result = tally.result(ready.rows)
    assert list(result.manifest) == ["0.mha", "none.mha", "2.mha", "id"]
    assert result.manifest["id"].tolist() == result.files["id"].tolist() == [0, 2]
    assert result.files["file"].tolist() == ["0.mha", "2.mha"]
    assert result.failures["id"].tolist() == [1, 3]


def test_a_row_without_outputs_is_in_the_manifest_all_the_same():
    ready = prepared(2)
    tally = tally_of(ready)
    tally.put(0, stored(0))
    tally.put(1, stored(1, "copy.mha"))
    manifest = tally.result(ready.rows).manifest
    assert manifest["id"].tolist() == [0, 1]
    assert manifest["copy.mha"].isna().tolist() == [True, False]


def test_a_recorded_manifest_has_the_first_failure_of_each_row():
    ready = prepared(3, on_failure="record")
    tally = tally_of(ready)
    tally.put(2, failed(2))
    tally.put(1, stored(1))
    tally.put(0, failed(0))
    manifest = tally.result(ready.rows).manifest
    assert manifest["error_url"].fillna("").tolist() == ["s3://bucket/0.mha", "", "s3://bucket/2.mha"]
