"""What a run hands back: counts, the rows to run again, and two runs made one."""

from __future__ import annotations

import dataclasses
import pickle

import pandas as pd
import pyarrow as pa
import pytest

from file_dataset import InvalidDatasetError, PipelineResult, RowError
from file_dataset import _frame as frames
from file_dataset._errors import Failure

FRAMES = ["input", "manifest", "failures", "files"]


def frame_of(*ids, dtype=None):
    return pd.DataFrame(
        {
            "image.mha": pd.Series([f"s3://bucket/{row_id}.mha" for row_id in ids], dtype="string"),
            "id": pd.Series(ids, dtype=dtype),
            "label": pd.Series(range(len(ids)), dtype="int64"),
        }
    )


def failure(row_id, stage="fn", message="bad"):
    return Failure(row_id, stage, None, None, "ValueError", None, message)


def result_of(frame, failed=(), *, done=None, output="out.mha", into="s3://out", record=False):
    """Make the result of a run in which the ids of `failed` failed, for the reasons given if it is a mapping.

    Where `done` is given the run stopped after so many rows.
    """
    rows = frames.rows_of_frame(frame, None, needs_id=True)
    reasons = failed if isinstance(failed, dict) else {row_id: [failure(row_id)] for row_id in failed}
    positions = range(len(rows))[:done]
    bad = {position: reasons[rows.ids[position]] for position in positions if rows.ids[position] in reasons}
    keep = [position for position in positions if record or position not in bad]
    good = [position for position in keep if position not in bad]
    urls = [f"{into}/{rows.ids[position]}/{output}" for position in good]
    manifest = frames.manifest(rows, {output: list(map(dict(zip(good, urls, strict=True)).get, keep))}, keep=keep)
    if record:
        manifest = frames.with_failures(manifest, errors([bad.get(position, [None])[0] for position in keep]))
    failures = [(position, one) for position, found in bad.items() for one in found]
    count = len(good)
    files = {"file": [output] * count, "location": urls, "size_bytes": [5] * count}
    files |= {"etag": [f'"{into}"'] * count, "checksum": [None] * count}
    return PipelineResult(
        frame,
        manifest,
        frames.failures_frame(rows, [position for position, _ in failures], errors([one for _, one in failures])),
        frames.files_frame(rows, good, files),
    )


def errors(failures):
    return {
        name: [getattr(one, name.removeprefix("error_"), None) for one in failures] for name in frames.ERROR_COLUMNS
    }


def ids_of(frame):
    return frame["id"].tolist()


def without_input(result):
    return dataclasses.replace(result, input=None)


# --- counts and the line about them

RUNS = {
    "nothing dropped": (result_of(frame_of(1, 2, 3)), "0 of 3 rows dropped"),
    "no rows": (result_of(frame_of()), "0 of 0 rows dropped"),
    "one of three": (result_of(frame_of(1, 2, 3), [2]), "1 of 3 rows dropped (33.3%): 1 at fn"),
    "all": (result_of(frame_of("a", "b"), ["a", "b"]), "2 of 2 rows dropped (100.0%): 2 at fn"),
    "stages in their order": (
        result_of(
            frame_of(1, 2, 3, 4),
            {1: [failure(1, "upload")], 2: [failure(2, "fn")], 3: [failure(3, "download")], 4: [failure(4, "fn")]},
        ),
        "4 of 4 rows dropped (100.0%): 1 at download, 2 at fn, 1 at upload",
    ),
    "several failures of one row": (
        result_of(frame_of(1, 2), {1: [failure(1, "download"), failure(1, "download"), failure(1, "upload")]}),
        "1 of 2 rows dropped (50.0%): 1 at download",
    ),
    "recorded": (result_of(frame_of(1, 2), [2], record=True), "1 of 2 rows dropped (50.0%): 1 at fn"),
    "input not known": (without_input(result_of(frame_of(1, 2), [2])), "1 of 2 rows dropped (50.0%): 1 at fn"),
    "recorded, input not known": (
        without_input(result_of(frame_of(1, 2), [2], record=True)),
        "1 of 2 rows dropped (50.0%): 1 at fn",
    ),
}


@pytest.mark.parametrize(("result", "line"), RUNS.values(), ids=RUNS)
def test_the_summary_is_one_line(result, line):
    assert result.summary() == line


def test_the_summary_tells_what_was_allowed():
    line = result_of(frame_of(*range(12)), [1, 2, 3]).summary(allowed_fraction=0.5)
    assert line == "3 of 12 rows dropped (25.0%; allowed 50.0%): 3 at fn"


@pytest.mark.parametrize("record", [False, True], ids=["drop", "record"])
def test_rows_in_and_rows_dropped_are_counted(record):
    result = result_of(frame_of(1, 2, 3), {2: [failure(2), failure(2)]}, record=record)
    assert (result.input_rows, result.dropped_rows) == (3, 1)


def test_the_repr_tells_counts_causes_and_the_first_failures():
    missing = Failure(3, "download", "a.txt", "s3://bucket/3", "FileNotFoundError", "NoSuchKey", "not there")
    result = result_of(frame_of(1, 2, 3, 4), {2: [failure(2, message="cannot\nread")], 3: [missing, missing]})
    assert repr(result).splitlines() == [
        "PipelineResult(2 of 4 rows dropped (50.0%): 1 at download, 1 at fn, 2 files stored)",
        "  1 at download: FileNotFoundError (NoSuchKey)",
        "  1 at fn: ValueError",
        "first failures:",
        "  row 2: fn: ValueError: cannot read",
        "  row 3: download a.txt (s3://bucket/3): FileNotFoundError (NoSuchKey): not there",
    ]


def test_the_repr_of_a_good_run_names_no_cause():
    assert repr(result_of(frame_of(1, 2))) == "PipelineResult(0 of 2 rows dropped, 2 files stored)"


@pytest.mark.parametrize("record", [False, True], ids=["drop", "record"])
def test_the_repr_of_a_stopped_run_tells_what_is_left(record):
    result = result_of(frame_of(1, 2, 3, 4, 5), [2], done=3, record=record)
    assert "1 of 5 rows dropped (20.0%): 1 at fn, 2 not processed, 2 files stored" in repr(result)


def many_failures():
    """Ten thousand failed rows, each with a cause and a long message of its own."""
    ids = range(10_000)
    return result_of(
        frame_of(*ids),
        {row: [Failure(row, "fn", None, None, f"Error{row}", None, "<" * 1900)] for row in ids},
    )


def test_however_many_rows_fail_what_is_shown_is_bounded():
    result = many_failures()
    assert len(repr(result)) < 3000
    assert len(result._repr_html_()) < 15_000  # each < is &lt; there
    assert "... and 9995 more" in repr(result)
    assert "9992 more of 9992 other causes" in repr(result)


def test_a_notebook_shows_the_same_as_a_table():
    shown = result_of(frame_of(1, 2), {2: [failure(2, message="cannot read")]})._repr_html_()
    for text in ["1 of 2 rows dropped (50.0%)", "1 at fn: ValueError", "<td>2</td>", "<td>cannot read</td>"]:
        assert text in shown


def test_a_notebook_runs_nothing_of_what_came_from_outside():
    evil = "<script>alert(1)"
    failed = Failure(evil, "fn", evil, evil, evil, evil, evil)
    shown = result_of(frame_of(evil, "b"), {evil: [failed]})._repr_html_()
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;alert(1)") >= 5


def test_a_good_run_is_one_line_in_a_notebook():
    assert result_of(frame_of(1))._repr_html_() == (
        "<div><p><b>PipelineResult</b>: 0 of 1 rows dropped, 1 files stored</p></div>"
    )


def test_stages_of_a_recorded_frame_that_nobody_knows_are_shown_too():
    recorded = result_of(frame_of(1, 2), {2: [failure(2)]}, record=True).manifest
    recorded["error_stage"] = recorded["error_stage"].replace("fn", "elsewhere")
    assert "1 at elsewhere: ValueError" in repr(PipelineResult.from_recorded(recorded))


# --- too many dropped


def test_a_run_that_dropped_nothing_does_not_raise():
    result_of(frame_of(1, 2)).raise_if_dropped()


def test_a_run_of_no_rows_does_not_raise():
    result_of(frame_of()).raise_if_dropped()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 5, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(InvalidDatasetError, match=r"is not between 0 and 1: write 5 % as 0\.05"):
        result_of(frame_of(1, 2)).raise_if_dropped(fraction)


def test_one_dropped_row_raises():
    with pytest.raises(RowError):
        result_of(frame_of(1, 2), [1]).raise_if_dropped()


def test_every_failure_is_told():
    failed = {1: [failure(1, "download"), failure(1, "download")], 3: [failure(3)]}
    with pytest.raises(RowError) as raised:
        result_of(frame_of(1, 2, 3), failed).raise_if_dropped()
    assert list(raised.value.failures) == [*failed[1], *failed[3]]


def test_the_message_has_the_summary_and_the_first_cause():
    with pytest.raises(RowError) as raised:
        result_of(frame_of("a", "b", "c"), ["b", "c"]).raise_if_dropped(0.5)
    assert str(raised.value).splitlines() == [
        "2 of 3 rows dropped (66.7%; allowed 50.0%): 2 at fn",
        "the first: row 'b': fn: ValueError: bad",
    ]


def test_up_to_the_allowed_fraction_nothing_is_raised():
    result_of(frame_of(1, 2, 3, 4), [1]).raise_if_dropped(0.25)


def test_above_the_allowed_fraction_it_is_raised():
    with pytest.raises(RowError):
        result_of(frame_of(1, 2, 3, 4), [1, 2]).raise_if_dropped(0.25)


def test_everything_may_be_allowed_to_fail():
    result_of(frame_of(1, 2), [1, 2]).raise_if_dropped(1.0)


def test_exactly_the_allowed_fraction_is_allowed_for_every_fraction():
    result_of(frame_of(*range(100)), range(29)).raise_if_dropped(0.29)


# --- rows to run again


def test_failed_rows_are_the_rows_as_they_were_given():
    frame = frame_of(1, 2, 3, 4).set_axis([9, 8, 7, 6])
    pd.testing.assert_frame_equal(result_of(frame, [2, 4]).failed_rows, frame.iloc[[1, 3]])


def test_a_row_with_several_failures_is_one_failed_row():
    assert ids_of(result_of(frame_of(1, 2), {2: [failure(2), failure(2)]}).failed_rows) == [2]


def test_without_a_failure_there_are_no_failed_rows():
    frame = frame_of("a", "b")
    pd.testing.assert_frame_equal(result_of(frame).failed_rows, frame.iloc[:0])


def test_failed_rows_of_a_recorded_run_can_be_run_again():
    again = frames.rows_of_frame(result_of(frame_of(1, 2), [2], record=True).failed_rows, None, needs_id=True)
    assert (again.ids, again.failed) == ([2], {})


def test_rows_that_a_stopped_run_did_not_come_to_are_unprocessed():
    frame = frame_of(1, 2, 3, 4)
    pd.testing.assert_frame_equal(result_of(frame, [2], done=2).unprocessed_rows, frame.iloc[2:])


def test_after_a_whole_run_nothing_is_unprocessed():
    assert ids_of(result_of(frame_of(1, 2), [2]).unprocessed_rows) == []


@pytest.mark.parametrize("rows", ["failed_rows", "unprocessed_rows"])
def test_without_the_input_its_rows_are_not_known(rows):
    with pytest.raises(InvalidDatasetError, match=r"give it as PipelineResult.from_recorded\(frame, input=...\)"):
        getattr(without_input(result_of(frame_of(1), [1])), rows)


# --- two runs made one

DTYPES = {
    "int64": ([3, 1, 2], "int64"), "uint8": ([3, 1, 2], "uint8"), "Int64": ([3, 1, 2], "Int64"),
    "inferred text": (["c", "a", "b"], None), "object": (["c", 1, "b"], object), "string": (["c", "a", "b"], "string"),
    "Arrow text": (["c", "a", "b"], pd.ArrowDtype(pa.string())), "Arrow": ([3, 1, 2], pd.ArrowDtype(pa.int64())),
}  # fmt: skip


def test_a_row_that_succeeds_later_is_listed_in_its_place():
    first = result_of(frame_of(1, 2, 3), [2])
    assert ids_of(first.merge(result_of(first.failed_rows)).manifest) == [1, 2, 3]


def test_a_row_that_succeeds_later_is_no_failure_any_more():
    first = result_of(frame_of(1, 2, 3), [2, 3])
    assert ids_of(first.merge(result_of(first.failed_rows, [3])).failures) == [3]


def test_a_row_that_fails_later_loses_its_old_row():
    merged = result_of(frame_of(1, 2, 3)).merge(result_of(frame_of(2), [2]))
    assert (ids_of(merged.manifest), ids_of(merged.failures), ids_of(merged.files)) == ([1, 3], [2], [1, 3])


def test_a_row_that_fails_again_has_the_later_failure_only():
    first = result_of(frame_of(1, 2), {2: [failure(2, message="once"), failure(2, message="more")]})
    merged = first.merge(result_of(first.failed_rows, {2: [failure(2, message="again")]}))
    assert merged.failures["error_message"].tolist() == ["again"]


def test_a_row_that_is_run_again_has_the_later_outputs():
    merged = result_of(frame_of(1, 2)).merge(result_of(frame_of(2), into="s3://new"))
    assert merged.manifest["out.mha"].tolist() == ["s3://out/1/out.mha", "s3://new/2/out.mha"]


def test_the_files_of_a_row_that_is_run_again_are_the_later_ones():
    merged = result_of(frame_of(1, 2)).merge(result_of(frame_of(2), into="s3://new"))
    assert merged.files["location"].tolist() == ["s3://out/1/out.mha", "s3://new/2/out.mha"]
    assert merged.files["etag"].tolist() == ['"s3://out"', '"s3://new"']


def test_rows_that_the_later_run_did_not_come_to_are_kept():
    first = result_of(frame_of(1, 2, 3), [3])
    later = result_of(frame_of(2), into="s3://new")
    merged = first.merge(later)
    pd.testing.assert_frame_equal(merged.manifest.iloc[:1], first.manifest.iloc[:1])
    pd.testing.assert_frame_equal(merged.failures, first.failures)


@pytest.mark.parametrize(("ids", "dtype"), DTYPES.values(), ids=DTYPES)
def test_a_merged_manifest_is_that_of_one_good_run(ids, dtype):
    frame = frame_of(*ids, dtype=dtype)
    first = result_of(frame, [ids[0], ids[2]])
    merged = first.merge(result_of(first.failed_rows))
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(merged, name), getattr(result_of(frame), name))


@pytest.mark.parametrize(("ids", "dtype"), DTYPES.values(), ids=DTYPES)
def test_merged_failures_are_those_of_one_run(ids, dtype):
    frame = frame_of(*ids, dtype=dtype)
    first = result_of(frame, [ids[0], ids[2]])
    merged = first.merge(result_of(frame.iloc[1:], [ids[1]]))
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(merged, name), getattr(result_of(frame, ids[:2]), name))


@pytest.mark.parametrize(("ids", "dtype"), DTYPES.values(), ids=DTYPES)
def test_when_every_row_fails_later_the_dtypes_stay(ids, dtype):
    frame = frame_of(*ids, dtype=dtype)
    merged = result_of(frame).merge(result_of(frame, ids))
    expected = result_of(frame, ids)
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(merged, name), getattr(expected, name))


def test_a_categorical_column_stays_categorical():
    frame = frame_of(1, 2, 3).assign(split=pd.Categorical(["train", "test", "train"]))
    first = result_of(frame, [2])
    merged = first.merge(result_of(first.failed_rows))
    pd.testing.assert_series_equal(merged.manifest["split"], frame["split"])


def test_recorded_runs_merge_into_a_recorded_run():
    frame = frame_of(1, 2, 3)
    first = result_of(frame, [2, 3], record=True)
    merged = first.merge(result_of(first.failed_rows, [3], record=True))
    pd.testing.assert_frame_equal(merged.manifest, result_of(frame, [3], record=True).manifest)


def test_a_recorded_row_that_fails_later_keeps_its_place():
    merged = result_of(frame_of(1, 2), record=True).merge(result_of(frame_of(1), [1], record=True))
    assert ids_of(merged.manifest) == [1, 2]
    assert merged.manifest["error_message"].isna().tolist() == [False, True]


def test_rows_that_are_new_come_last():
    merged = result_of(frame_of(1, 2)).merge(result_of(frame_of(3, 2)))
    assert (ids_of(merged.input), ids_of(merged.manifest)) == ([1, 2, 3], [1, 2, 3])


def hinted(result, hint="The endpoint that was asked was http://a: is it the right one?"):
    return dataclasses.replace(result, hint=hint)


NOTHING_THERE = hinted(result_of(frame_of(1, 2), [1, 2]))
HINTED = {
    "the rest fails alike": (NOTHING_THERE, hinted(result_of(frame_of(3, 4), [3, 4])), True),
    "what ran again fails alike": (NOTHING_THERE, NOTHING_THERE, True),
    "nothing ran": (NOTHING_THERE, result_of(frame_of()), True),
    "only the later one has it": (result_of(frame_of(1, 2)), NOTHING_THERE, True),
    "a row succeeded": (NOTHING_THERE, result_of(frame_of(1)), False),
    "a row had succeeded": (result_of(frame_of(3)), NOTHING_THERE, False),
    "a row fails otherwise": (NOTHING_THERE, result_of(frame_of(3), [3]), False),
    "another endpoint": (NOTHING_THERE, hinted(result_of(frame_of(3, 4), [3, 4]), "another"), False),
    "neither has it": (result_of(frame_of(1), [1]), result_of(frame_of(2), [2]), False),
}


@pytest.mark.parametrize(("first", "later", "holds"), HINTED.values(), ids=HINTED)
@pytest.mark.parametrize("record", [False, True], ids=["dropped", "recorded"])
def test_a_merged_result_keeps_the_hint_while_it_holds(first, later, holds, record):
    def recorded(result):
        return hinted(result_of(result.input, ids_of(result.failures), record=record), result.hint)

    merged = recorded(first).merge(recorded(later))
    assert merged.hint == (hinted(first).hint if holds else None)
    assert ("is it the right one?" in merged.summary()) == holds


def test_a_stopped_run_and_the_rest_make_a_whole_one():
    frame = frame_of(1, 2, 3, 4)
    first = result_of(frame, [2], done=2)
    merged = first.merge(result_of(first.unprocessed_rows, [4]))
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(merged, name), getattr(result_of(frame, [2, 4]), name))


def test_a_run_that_failed_whole_takes_the_columns_of_the_later_one():
    frame = frame_of(1, 2)
    nothing = result_of(frame, [1, 2])
    first = dataclasses.replace(nothing, manifest=nothing.manifest.drop(columns="out.mha"))
    merged = first.merge(result_of(frame))
    pd.testing.assert_frame_equal(merged.manifest, result_of(frame).manifest)


def test_a_later_run_of_no_rows_changes_nothing():
    first = result_of(frame_of(1, 2, 3), [2])
    merged = first.merge(result_of(first.input.iloc[:0]))
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(merged, name), getattr(first, name))


def test_two_runs_of_no_rows_make_one():
    merged = result_of(frame_of()).merge(result_of(frame_of()))
    assert list(merged.manifest.columns) == ["out.mha", "id", "label"]


def test_downloads_without_a_digest_add_up():
    one, other = (dataclasses.replace(result_of(frame_of(1)), files_without_digest=count) for count in (2, 3))
    assert one.merge(other).files_without_digest == 5


def test_both_results_stay_as_they_were():
    frame = frame_of(1, 2, 3)
    first, later = result_of(frame, [2]), result_of(frame.iloc[1:], [3])
    first.merge(later)
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(first, name), getattr(result_of(frame, [2]), name))
        pd.testing.assert_frame_equal(getattr(later, name), getattr(result_of(frame.iloc[1:], [3]), name))


def test_an_output_that_only_the_later_run_has_stands_before_the_id():
    merged = result_of(frame_of(1, 2)).merge(result_of(frame_of(2), output="new.mha"))
    assert list(merged.manifest.columns) == ["out.mha", "new.mha", "id", "label"]


def test_an_output_that_a_failed_run_promised_is_null():
    merged = result_of(frame_of(1, 2)).merge(result_of(frame_of(2), [2], output="new.mha"))
    assert merged.manifest["new.mha"].isna().tolist() == [True]


def test_an_output_that_a_failed_run_promised_stands_before_the_id():
    merged = result_of(frame_of(1, 2)).merge(result_of(frame_of(2), [2], output="new.mha"))
    assert list(merged.manifest.columns) == ["out.mha", "new.mha", "id", "label"]


def test_the_input_stays_when_the_later_run_has_no_new_rows():
    first = result_of(frame_of(1, 2), [2])
    merged = first.merge(result_of(first.failed_rows.drop(columns="label")))
    pd.testing.assert_frame_equal(merged.input, first.input)


def test_without_the_input_rows_keep_the_order_of_the_manifest():
    first, later = (without_input(result_of(frame_of(*ids))) for ids in ([1, 2, 3], [2]))
    assert ids_of(first.merge(later).manifest) == [1, 2, 3]


def test_rows_that_are_new_come_last_without_the_later_input():
    merged = result_of(frame_of(1, 2)).merge(without_input(result_of(frame_of(3))))
    assert ids_of(merged.manifest) == [1, 2, 3]


# --- recorded manifests


def recorded(failed, frame=None):
    return result_of(frame_of(1, 2, 3) if frame is None else frame, failed, record=True)


@pytest.mark.parametrize("failed", [[], [2], [1, 2, 3]], ids=["none", "one", "all"])
def test_a_recorded_manifest_stands_for_the_run_that_would_have_dropped(failed):
    frame = frame_of(1, 2, 3)
    read = PipelineResult.from_recorded(recorded(failed).manifest, input=frame)
    expected = result_of(frame, failed)
    pd.testing.assert_frame_equal(read.manifest, expected.manifest)
    pd.testing.assert_frame_equal(read.failures, expected.failures)


def test_a_recorded_manifest_tells_its_failed_rows_when_the_input_is_given():
    frame = frame_of(1, 2, 3)
    read = PipelineResult.from_recorded(recorded([2]).manifest, input=frame)
    pd.testing.assert_frame_equal(read.failed_rows, frame.iloc[1:2])


def test_a_recorded_manifest_counts_its_rows_without_the_input():
    read = PipelineResult.from_recorded(recorded([2]).manifest)
    assert (read.input_rows, read.dropped_rows, read.summary()) == (3, 1, "1 of 3 rows dropped (33.3%): 1 at fn")


def test_a_recorded_manifest_knows_no_files():
    assert PipelineResult.from_recorded(recorded([2]).manifest).files_without_digest == 0
    files = PipelineResult.from_recorded(recorded([2]).manifest).files
    pd.testing.assert_frame_equal(files, result_of(frame_of(1), [1]).files)


MAPPERS = {"numpy": None, "Arrow": pd.ArrowDtype}


@pytest.mark.parametrize("mapper", MAPPERS.values(), ids=MAPPERS)
@pytest.mark.parametrize("failed", [[], [2], [1, 2, 3]], ids=["none", "one", "all"])
def test_a_recorded_manifest_can_come_from_arrow(failed, mapper):
    table = pa.Table.from_pandas(recorded(failed).manifest)
    read = PipelineResult.from_recorded(table.to_pandas(types_mapper=mapper))
    assert (ids_of(read.failures), len(read.manifest)) == (failed, 3 - len(failed))
    assert read.failures["error_message"].tolist() == ["bad"] * len(failed)


def test_a_recorded_manifest_of_no_rows_is_a_run_of_no_rows():
    read = PipelineResult.from_recorded(recorded([]).manifest.iloc[:0])
    assert read.summary() == "0 of 0 rows dropped"


def test_failure_columns_of_nothing_but_nulls_need_not_be_text():
    frame = frame_of(1, 2).assign(**dict.fromkeys(frames.ERROR_COLUMNS))
    assert PipelineResult.from_recorded(frame).dropped_rows == 0


def test_the_recorded_manifest_stays_as_it_was():
    frame = recorded([2]).manifest
    PipelineResult.from_recorded(frame)
    pd.testing.assert_frame_equal(frame, recorded([2]).manifest)


def test_a_manifest_without_failure_columns_is_not_recorded():
    with pytest.raises(InvalidDatasetError) as refused:
        PipelineResult.from_recorded(result_of(frame_of(1)).manifest.assign(error_stage=None))
    assert "columns ['error_file', 'error_url'" in str(refused.value)
    assert "run with on_failure='record'" in str(refused.value)


def test_a_manifest_without_ids_is_not_recorded():
    with pytest.raises(InvalidDatasetError, match=r"columns \['id'\] are missing"):
        PipelineResult.from_recorded(recorded([2]).manifest.drop(columns="id"))


# --- pickling

PICKLED = {
    "good": result_of(frame_of(1, 2)),
    "failed": result_of(frame_of("a", "b"), ["a", "b"]),
    "recorded": result_of(frame_of(1, 2), [2], record=True),
    "no rows": result_of(frame_of()),
}


@pytest.mark.parametrize("result", PICKLED.values(), ids=PICKLED)
def test_a_result_survives_a_pickle(result):
    again = pickle.loads(pickle.dumps(dataclasses.replace(result, files_without_digest=3)))
    assert again.files_without_digest == 3
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(result, name))
