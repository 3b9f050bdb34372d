"""`Pipeline`: rows in, rows out; one bad row costs one row, and is told."""

from __future__ import annotations

import errno
import functools
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import pandas as pd
import pytest
from conftest import impatient_options
from fault_server import ACCESS_DENIED, INVALID_ACCESS_KEY_ID, SLOW_DOWN, Slow

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline, PipelineResult, RunStoppedError

Upper = TypedDict("Upper", {"upper.txt": Path})


def upper(input_dir: Path, output_dir: Path) -> Upper:
    text = (input_dir / "a.txt").read_text()
    if text == "bad":
        raise ValueError("this text is bad")
    (output_dir / "upper.txt").write_text(text.upper())
    return {"upper.txt": output_dir / "upper.txt"}


def forward(input_dir, output_dir):
    return {"a.txt": input_dir / "a.txt"}


@pytest.fixture
def frame(faults):
    """Three good rows, one whose fn fails and one whose object is missing."""
    for key, body in {"1": b"one", "2": b"bad", "3": b"three", "5": b"five"}.items():
        faults.put(f"s3://bucket/in/{key}", body)
    return pd.DataFrame(
        {
            "id": [1, 2, 3, 4, 5],
            "a.txt": [f"s3://bucket/in/{number}" for number in range(1, 6)],
            "patient.sex": ["F", "M", None, "F", "M"],
            "v1.5": [0.1, 0.2, 0.3, 0.4, 0.5],
        }
    )


@pytest.fixture
def pipeline(fault_options):
    def make(fn=upper, *, into_path="s3://bucket/out/", **kwargs):
        write_options = {"into_path": into_path, **kwargs.pop("write", {})}
        return Pipeline(fn, write_options=write_options, options=fault_options, progress=False, **kwargs)

    return make


def test_the_manifest_lists_what_is_stored(faults, frame, pipeline):
    manifest = pipeline()(frame)
    assert manifest.columns.tolist() == ["upper.txt", "id", "patient.sex", "v1.5"]
    assert manifest["id"].tolist() == [1, 3, 5]
    assert manifest["upper.txt"].tolist() == [f"s3://bucket/out/{n}/upper.txt" for n in (1, 3, 5)]
    assert manifest["v1.5"].tolist() == [0.1, 0.3, 0.5]
    assert manifest.dtypes[["id", "patient.sex", "v1.5"]].equals(frame.dtypes[["id", "patient.sex", "v1.5"]])
    assert faults.body("s3://bucket/out/5/upper.txt") == b"FIVE"


def test_a_failed_row_is_dropped_and_reported(frame, pipeline):
    failures = pipeline().run(frame).failures
    assert failures.columns.tolist() == [
        "id", "error_stage", "error_file", "error_url", "error_type", "error_code", "error_message",
    ]  # fmt: skip
    known = failures.drop(columns="error_message").astype(object).where(failures.notna(), None)
    assert known.to_numpy().tolist() == [
        [2, "fn", None, None, "ValueError", None],
        [4, "download", "a.txt", "s3://bucket/in/4", "FileNotFoundError", "NoSuchKey"],
    ]
    assert failures["error_message"][0] == "this text is bad"


def test_every_row_is_in_the_manifest_or_in_the_failures(frame, pipeline):
    result = pipeline().run(frame)
    assert len(result.manifest) + result.failures["id"].nunique() == len(frame)


def test_the_files_tell_size_etag_and_checksum(faults, frame, pipeline, fault_options):
    files = pipeline().run(frame).files
    assert files.columns.tolist() == ["id", "file", "location", "size_bytes", "etag", "checksum"]
    assert files["size_bytes"].tolist() == [3, 5, 4]
    head = fault_options.s3_client.head_object(Bucket="bucket", Key="out/5/upper.txt", ChecksumMode="ENABLED")
    assert files["etag"][2] == head["ETag"].strip('"')
    assert files["checksum"][2] == f"CRC64NVME:{head['ChecksumCRC64NVME']}"


def test_downloads_that_no_digest_proves_are_counted(faults, frame, pipeline):
    faults.put("s3://bucket/in/1", b"one", etag="multipart")
    assert pipeline().run(frame).files_without_digest == 1


def test_a_manifest_feeds_the_next_pipeline(frame, pipeline):
    def shout(input_dir, output_dir):
        (output_dir / "shout.txt").write_text((input_dir / "upper.txt").read_text() + "!")
        return {"shout.txt": output_dir / "shout.txt"}

    second = pipeline(shout, into_path="s3://bucket/second")(pipeline()(frame))
    assert second["shout.txt"].tolist() == [f"s3://bucket/second/{n}/shout.txt" for n in (1, 3, 5)]
    assert second.columns.tolist() == ["shout.txt", "id", "patient.sex", "v1.5"]


def test_failed_rows_can_be_run_again_and_joined(faults, frame, pipeline):
    first = pipeline().run(frame)
    faults.put("s3://bucket/in/4", b"four")
    second = pipeline().run(first.failed_rows)
    assert second.manifest["id"].tolist() == [4]
    merged = first.merge(second)
    assert merged.manifest["id"].tolist() == [1, 3, 4, 5]
    assert merged.failures["id"].tolist() == [2]
    assert merged.files["id"].tolist() == [1, 3, 4, 5]


def test_the_callers_frame_is_not_changed(frame, pipeline):
    before = frame.copy(deep=True)
    pipeline().run(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_a_row_costs_its_gets_and_puts_and_nothing_else(faults, frame, pipeline):
    pipeline().run(frame.iloc[[0, 2]])
    assert sum(faults.requests.values()) == 4
    assert (faults.count("GetObject"), faults.count("PutObject")) == (2, 2)


def test_an_input_can_be_forwarded_as_an_output(faults, frame, pipeline):
    manifest = pipeline(forward)(frame)
    assert manifest["a.txt"].tolist() == [f"s3://bucket/out/{n}/a.txt" for n in (1, 2, 3, 5)]
    assert faults.body("s3://bucket/out/3/a.txt") == b"three"


def test_an_output_of_none_is_null_and_stores_nothing(faults, frame, pipeline):
    def sometimes(input_dir, output_dir):
        text = (input_dir / "a.txt").read_text()
        return {"a.txt": input_dir / "a.txt", "extra.txt": input_dir / "a.txt" if text == "one" else None}

    manifest = pipeline(sometimes)(frame)
    assert manifest["extra.txt"].isna().tolist() == [False, True, True, True]
    assert [key for key in faults.keys("bucket") if key.endswith("extra.txt")] == ["out/1/extra.txt"]


def test_null_cells_are_files_that_are_not_there(faults, frame, pipeline):
    seen = []

    def look(input_dir, output_dir):
        seen.append(sorted(path.name for path in input_dir.iterdir()))
        return {"a.txt": input_dir / "a.txt"}

    pipeline(look)(frame.iloc[[0, 2]].assign(**{"mask.txt": [None, "s3://bucket/in/1"]}))
    assert seen == [["a.txt"], ["a.txt", "mask.txt"]]


def test_a_row_without_any_file_is_a_failure(frame, pipeline):
    result = pipeline().run(frame.iloc[[0, 2]].assign(**{"a.txt": ["s3://bucket/in/1", None]}))
    assert result.failures[["id", "error_stage"]].to_numpy().tolist() == [[3, "download"]]


@pytest.mark.parametrize("cell", ["ftp://x/y", "s3:/x", "s3://bucket", "s3://bucket/dir/", 5, b"s3://bucket/in/1"])
def test_a_cell_that_is_no_location_costs_its_row(frame, pipeline, cell):
    broken = frame.astype({"a.txt": object})
    broken.loc[2, "a.txt"] = cell
    result = pipeline().run(broken)
    assert result.manifest["id"].tolist() == [1, 5]
    (failure,) = result.failures[result.failures["id"] == 3].itertuples()
    assert (failure.error_stage, failure.error_file) == ("download", "a.txt")
    assert str(cell) in failure.error_url


@pytest.mark.parametrize(
    "ids",
    [
        pd.Series([10, 20], dtype="int64"), pd.Series([10, 20], dtype="uint8"), pd.Series([10, 20], dtype="Int64"),
        pd.Series(["x", "y"], dtype=object), pd.Series(["x", "y"], dtype="string"), pd.Series(["x", "y"]),
        pd.Series([1, "y"], dtype=object), pd.Series(["x", "y"], dtype="string[pyarrow]"),
    ],
    ids=lambda ids: str(ids.dtype),
)  # fmt: skip
def test_ids_come_back_as_they_went_in(frame, pipeline, ids):
    given = frame.iloc[[0, 3]].reset_index(drop=True).assign(id=ids)
    result = pipeline().run(given)
    assert result.manifest["id"].dtype == result.failures["id"].dtype == result.files["id"].dtype == ids.dtype
    assert result.manifest["id"].tolist() == ids.tolist()[:1]


def test_bad_ids_are_refused_before_the_first_request(faults, frame, pipeline):
    with pytest.raises(InvalidDatasetError, match="duplicate ids"):
        pipeline().run(frame.assign(id=[1, "1", 2, 3, 4]))
    assert not faults.requests


# fn


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda i, o: None, "None"),
        (lambda i, o: [], "list"),
        (lambda i, o: {}, "empty mapping"),
        (lambda i, o: {"x.txt": o / "none"}, "is no file"),
        (lambda i, o: {"x.txt": o}, "is a directory"),
        (lambda i, o: ((o / "l").symlink_to("nowhere"), {"x.txt": o / "l"})[1], "a link to nothing"),
        (lambda i, o: {1: i / "a.txt"}, "a file name is text"),
        (lambda i, o: {"../x": i / "a.txt"}, r"'\.\.'"),
        (lambda i, o: {"/x": i / "a.txt"}, "absolute"),
        (lambda i, o: {"id": i / "a.txt"}, "name of another column"),
        (lambda i, o: {"error_stage": i / "a.txt"}, "name of another column"),
        (lambda i, o: {"v1.5": i / "a.txt"}, "name of another column"),
        (lambda i, o: {"x.txt": 5}, "is no path"),
    ],
    ids=[
        "None", "list", "empty", "missing", "directory", "dangling link", "int key", "..", "absolute", "id",
        "error_stage", "carried", "number",
    ],
)  # fmt: skip
def test_a_wrong_result_of_fn_costs_its_row(faults, frame, pipeline, value, message):
    result = pipeline(value).run(frame.iloc[:1])
    assert len(result.manifest) == 0
    assert result.failures["error_stage"].tolist() == ["fn"]
    assert pd.Series(result.failures["error_message"]).str.contains(message).all()
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


def test_system_exit_in_fn_costs_its_row(frame, pipeline):
    def leave(input_dir, output_dir):
        sys.exit(3)

    assert pipeline(leave).run(frame).failures["error_type"].tolist().count("SystemExit") == 4


def test_the_working_directory_is_restored_after_each_row(frame, pipeline):
    before = Path.cwd()

    def wander(input_dir, output_dir):
        os.chdir(output_dir)
        Path("x.txt").write_text("hi")
        return {"x.txt": Path("x.txt").absolute()}

    assert len(pipeline(wander)(frame)) == 4
    assert Path.cwd() == before


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


# all or nothing


def test_nothing_is_uploaded_when_one_output_is_missing(faults, frame, pipeline):
    def half(input_dir, output_dir):
        return {"a.txt": input_dir / "a.txt", "b.txt": output_dir / "none"}

    assert len(pipeline(half)(frame)) == 0
    assert faults.count("PutObject") == 0


def test_a_row_whose_second_upload_fails_is_not_listed(faults, frame, pipeline):
    def two(input_dir, output_dir):
        return {"a.txt": input_dir / "a.txt", "b.txt": input_dir / "a.txt"}

    faults.fail("PutObject", ACCESS_DENIED, key="out/3/b.txt", times=None)
    result = pipeline(two).run(frame)
    assert result.manifest["id"].tolist() == [1, 2, 5]
    assert 3 not in result.files["id"].tolist()
    (failure,) = result.failures[result.failures["id"] == 3].itertuples()
    assert (failure.error_stage, failure.error_file, failure.error_code) == ("upload", "b.txt", "AccessDenied")
    assert failure.error_url == "s3://bucket/out/3/b.txt"


def test_an_output_on_top_of_an_input_is_refused(faults, frame, pipeline):
    on_top = frame.assign(**{"a.txt": [f"s3://bucket/out/{n}/upper.txt" for n in range(1, 6)]})
    with pytest.raises(InvalidDatasetError, match="would replace inputs"):
        pipeline().run(on_top)
    assert not faults.requests


def test_an_output_that_nobody_promised_on_top_of_an_input_costs_its_row(faults, frame, pipeline):
    faults.put("s3://bucket/out/1/a.txt", b"precious")
    on_top = frame.assign(**{"a.txt": ["s3://bucket/out/1/a.txt", *frame["a.txt"][1:]]})
    result = pipeline(forward).run(on_top)
    assert result.failures["id"].tolist() == [1, 4]
    assert faults.body("s3://bucket/out/1/a.txt") == b"precious"


def test_local_outputs_on_top_of_local_inputs_are_refused_through_links_too(tmp_path):
    (tmp_path / "real/1").mkdir(parents=True)
    (tmp_path / "real/1/a.txt").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    frame = pd.DataFrame({"id": [1], "a.txt": [tmp_path / "real/1/a.txt"]})
    result = Pipeline(forward, write_options={"into_path": tmp_path / "link"}, progress=False).run(frame)
    assert result.failures["error_stage"].tolist() == ["upload"]


def test_local_files_make_the_round_without_credentials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one")
    frame = pd.DataFrame({"id": ["x"], "a.txt": ["./a.txt"]})
    manifest = Pipeline(upper, write_options={"into_path": "out"}, progress=False)(frame)
    assert manifest["upper.txt"].tolist() == [str(tmp_path / "out/x/upper.txt")]
    assert (tmp_path / "out/x/upper.txt").read_text() == "ONE"


def test_two_stores_are_reached_by_their_own_options(own_faults, frame, pipeline):
    own_faults.put("s3://target/other", b"")
    elsewhere = impatient_options(own_faults.endpoint_url)
    manifest = pipeline(into_path="s3://target/out", write={"options": elsewhere})(frame)
    assert manifest["upper.txt"][0] == "s3://target/out/1/upper.txt"
    assert own_faults.body("s3://target/out/1/upper.txt") == b"ONE"


# on_failure


def test_recorded_failures_stay_in_the_manifest(frame, pipeline):
    manifest = pipeline(on_failure="record")(frame)
    assert manifest["id"].tolist() == [1, 2, 3, 4, 5]
    assert manifest["error_stage"].isna().tolist() == [True, False, True, False, True]
    assert manifest["upper.txt"].isna().tolist() == [False, True, False, True, False]
    assert {str(manifest[name].dtype) for name in manifest if name.startswith("error_")} == {"string"}


def test_recorded_failures_are_passed_on_and_fn_is_not_called(frame, pipeline):
    called = []

    def count(input_dir, output_dir):
        called.append(input_dir)
        return {"last.txt": input_dir / "upper.txt"}

    recorded = pipeline(on_failure="record")(frame)
    again = pipeline(count, into_path="s3://bucket/last", on_failure="record")(recorded)
    assert len(called) == 3
    assert again["error_stage"].dropna().tolist() == ["fn", "download"]
    result = pipeline(count, into_path="s3://bucket/last").run(recorded)
    assert result.manifest["id"].tolist() == [1, 3, 5]
    assert result.failures["id"].tolist() == [2, 4]


def test_a_recorded_manifest_gives_its_result_back(frame, pipeline):
    dropped, recorded = pipeline().run(frame), pipeline(on_failure="record")(frame)
    result = PipelineResult.from_recorded(recorded, input=frame)
    pd.testing.assert_frame_equal(result.manifest, dropped.manifest)
    pd.testing.assert_frame_equal(result.failures, dropped.failures)
    pd.testing.assert_frame_equal(result.failed_rows, dropped.failed_rows)


def test_raise_stops_at_the_first_failure_and_carries_the_result(frame, pipeline):
    with pytest.raises(RunStoppedError, match="this text is bad") as caught:
        pipeline(on_failure="raise").run(frame)
    result = caught.value.result
    assert result.manifest["id"].tolist() == [1]
    assert result.failures["id"].tolist() == [2]
    assert result.unprocessed_rows["id"].tolist() == [3, 4, 5]


def test_raise_if_dropped_counts(frame, pipeline):
    result = pipeline().run(frame)
    result.raise_if_dropped(0.4)
    with pytest.raises(file_dataset.RowError, match=r"2 of 5 rows dropped \(40.0%; allowed 30.0%\)"):
        result.raise_if_dropped(0.3)


# empty


@pytest.mark.parametrize("on_failure", ["drop", "raise", "record"])
def test_an_empty_frame_gives_an_empty_typed_manifest(frame, pipeline, on_failure):
    # without rows nothing tells that patient.sex holds no files
    manifest = pipeline(on_failure=on_failure, file_columns=["a.txt"])(frame.iloc[:0])
    assert manifest.columns.tolist()[:4] == ["upper.txt", "id", "patient.sex", "v1.5"]
    assert len(manifest) == 0
    assert str(manifest["upper.txt"].dtype) == "string"


def test_an_all_failed_batch_keeps_its_columns_and_says_why(frame, pipeline, caplog):
    manifest = pipeline()(frame.iloc[[1, 3]])
    assert manifest.dtypes.to_dict() == {
        "upper.txt": pd.StringDtype(), "id": frame["id"].dtype,
        "patient.sex": frame["patient.sex"].dtype, "v1.5": frame["v1.5"].dtype,
    }  # fmt: skip
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "all 2 rows failed" in record.message
    assert "this text is bad" in record.message


# what stops a run


@pytest.mark.parametrize("fault", [INVALID_ACCESS_KEY_ID], ids=lambda fault: fault.code)
def test_refused_credentials_stop_the_run(faults, frame, pipeline, fault):
    faults.fail("GetObject", fault, nth=2, times=None)
    with pytest.raises(RunStoppedError, match="no later row can do better") as caught:
        pipeline().run(frame)
    assert caught.value.result.manifest["id"].tolist() == [1]
    assert caught.value.result.unprocessed_rows["id"].tolist() == [3, 4, 5]


def test_credentials_that_expire_without_others_stop_the_run(faults, frame, fresh_options):
    faults.expire("AKIDTEST", nth=3)  # row 1 takes a GET and a PUT
    pipeline = Pipeline(forward, write_options={"into_path": "s3://bucket/out"}, options=fresh_options, progress=False)
    with pytest.raises(RunStoppedError, match="renew them") as caught:
        pipeline.run(frame)
    assert caught.value.result.manifest["id"].tolist() == [1]


@pytest.mark.parametrize(
    "into_path", ["s3://no-such-bucket/out", "s3://bucket/out"], ids=["NoSuchBucket", "AccessDenied"]
)
def test_a_target_that_takes_nothing_of_the_first_row_stops_the_run(faults, frame, pipeline, into_path):
    faults.fail("PutObject", ACCESS_DENIED, key="out/1/upper.txt", times=None)
    with pytest.raises(RunStoppedError, match="the target takes nothing"):
        pipeline(into_path=into_path).run(frame)
    assert faults.count("PutObject") == 1


def test_a_refused_upload_of_a_later_row_costs_that_row(faults, frame, pipeline):
    faults.fail("PutObject", ACCESS_DENIED, key="out/3/upper.txt", times=None)
    assert pipeline()(frame)["id"].tolist() == [1, 5]


def test_a_full_disk_stops_the_run_and_says_how_much_is_needed(frame, pipeline):
    def fill(input_dir, output_dir):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunStoppedError, match=r"\(3 bytes here\).* \d+ bytes are free; temp_dir="):
        pipeline(fill).run(frame)


def test_a_transient_fault_costs_no_row(faults, frame, pipeline):
    faults.fail("GetObject", SLOW_DOWN, nth=1)
    faults.fail("PutObject", SLOW_DOWN, nth=2)
    assert pipeline()(frame)["id"].tolist() == [1, 3, 5]


def test_ctrl_c_leaves_no_temp_dir_and_carries_the_result(frame, pipeline, tmp_path):
    def interrupted(input_dir, output_dir):
        if (input_dir / "a.txt").read_text() == "three":
            signal.raise_signal(signal.SIGINT)
        return {"a.txt": input_dir / "a.txt"}

    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline(interrupted, temp_dir=tmp_path).run(frame)
    assert caught.value.result.manifest["id"].tolist() == [1, 2]
    assert caught.value.result.unprocessed_rows["id"].tolist() == [3, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_an_upload_lists_no_half_row(own_faults, tmp_path):
    own_faults.put("s3://bucket/in/1", b"x" * 3_000_000)
    own_faults.fail("PutObject", Slow(bytes_per_second=10), times=None)
    frame = pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/in/1"]})
    main = threading.main_thread().ident

    def interrupt():
        while not own_faults.count("PutObject"):
            pass
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    pipeline = Pipeline(
        forward,
        write_options={"into_path": "s3://bucket/out"},
        options=impatient_options(own_faults.endpoint_url),
        temp_dir=tmp_path,
        progress=False,
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        for _ in range(1000):  # the interrupt may come after a fast upload: the next run meets it
            pipeline.run(frame)
    assert len(caught.value.result.manifest) == 0
    assert list(tmp_path.iterdir()) == []


def test_rows_leave_nothing_on_disk(frame, pipeline, tmp_path):
    seen = []

    def look(input_dir, output_dir):
        seen.append(len(list(tmp_path.iterdir())))
        (output_dir / "locked").mkdir()
        (output_dir / "locked/x").write_text("x")
        (output_dir / "locked").chmod(0o500)
        return {"a.txt": input_dir / "a.txt"}

    pipeline(look, temp_dir=tmp_path).run(frame)
    assert seen == [1, 1, 1, 1]  # one row's directory at a time
    assert list(tmp_path.iterdir()) == []


def test_a_missing_temp_dir_is_a_clear_stop(frame, pipeline, tmp_path):
    with pytest.raises(InvalidDatasetError, match="exists and can be written") as caught:
        pipeline(temp_dir=tmp_path / "none").run(frame)
    assert len(caught.value.result.unprocessed_rows) == len(frame)


# arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": 5}, "give a function"),
        ({"fn": lambda a: {}}, "cannot be called"),
        ({"fn": lambda a, b, c: {}}, "cannot be called"),
        ({"write_options": {}}, "into_path"),
        ({"write_options": {"into_path": "s3://b/x", "if_exists": 1}}, "if_exists"),
        ({"write_options": {"into_path": "gs://b/x"}}, "gs://"),
        ({"on_failure": "ignore"}, "on_failure="),
        ({"outputs": "a.txt"}, "give a list"),
        ({"outputs": ["id"]}, "rename them"),
        ({"outputs": []}, "at least one"),
        ({"options": {"region": "x"}}, "file_dataset.Options"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(arguments, message):
    given = {"fn": upper, "write_options": {"into_path": "s3://bucket/out"}, **arguments}
    with pytest.raises(InvalidDatasetError, match=message):
        Pipeline(given.pop("fn"), **given)


# pickling, threads, processes


def test_a_pipeline_pickles_before_and_after_use(frame, pipeline):
    one = pipeline()
    before = pickle.loads(pickle.dumps(one))
    expected = one(frame)
    after = pickle.loads(pickle.dumps(one))
    pd.testing.assert_frame_equal(before(frame), expected)
    pd.testing.assert_frame_equal(after(frame), expected)


@pytest.mark.usefixtures("default_options")
def test_default_options_are_resolved_when_a_pipeline_is_pickled_and_not_before(monkeypatch, bucket):
    one = Pipeline(forward, write_options={"into_path": bucket.url("out")}, progress=False)
    payload = pickle.dumps(one)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)  # a worker that has no access of its own
    frame = pd.DataFrame({"id": [1], "a.txt": [bucket.put("in", b"hi")]})
    assert pickle.loads(payload)(frame)["a.txt"].tolist() == [bucket.url("out/1/a.txt")]


def test_sixteen_threads_share_a_pipeline(frame, pipeline):
    one = pipeline(forward)
    results = []
    threads = [threading.Thread(target=lambda: results.append(one(frame))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 16
    assert all(result.equals(results[0]) for result in results)


def test_a_forked_child_runs_a_pipeline_after_its_parent_did(faults, frame, pipeline):
    one = pipeline(forward)
    one(frame)
    child = os.fork()
    if child == 0:
        try:
            faults.let_go()
            os._exit(0 if len(one(frame)) == 4 else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(one(frame)) == 4


def test_a_script_can_pickle_a_function_of_its_main_with_the_seeds_typed_dict(faults, tmp_path):
    faults.put("s3://bucket/in/1", b"hello")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import pickle, subprocess, sys
        from pathlib import Path
        from typing import TypedDict
        import pandas as pd
        import file_dataset

        ResampledOutput = TypedDict("ResampledOutput", {{"output.mha": Path}})

        def resample(input_dir: Path, output_dir: Path) -> ResampledOutput:
            (output_dir / "output.mha").write_bytes((input_dir / "image.mha").read_bytes())
            return ResampledOutput({{"output.mha": output_dir / "output.mha"}})

        options = file_dataset.Options(
            {{"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}},
            {{"endpoint_url": {faults.endpoint_url!r}}},
        )
        pipeline = file_dataset.Pipeline(
            fn=resample, write_options={{"into_path": "s3://bucket/out"}}, options=options, progress=False
        )
        frame = pd.DataFrame({{"id": ["1"], "image.mha": ["s3://bucket/in/1"]}})
        Path(sys.argv[1]).write_bytes(pickle.dumps((pipeline, frame)))
        """)
    )
    payload = tmp_path / "payload"
    subprocess.run([sys.executable, script, payload], check=True)
    other = "import pickle, sys; p, f = pickle.load(open(sys.argv[1], 'rb')); print(p(f)['output.mha'][0])"
    done = subprocess.run([sys.executable, "-c", other, payload], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "s3://bucket/out/1/output.mha"
    assert faults.body("s3://bucket/out/1/output.mha") == b"hello"


# progress and logs


def test_progress_is_told_row_by_row(frame, fault_options):
    seen = []
    Pipeline(upper, write_options={"into_path": "s3://bucket/out"}, options=fault_options, progress=seen.append).run(
        frame
    )
    assert [str(now) for now in seen][-1] == "5 of 5 rows done, 2 dropped"
    assert len(seen) == 5


def test_fns_traceback_is_logged_once_with_the_rows_id(frame, pipeline, caplog):
    pipeline().run(frame)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.WARNING
    assert "row 2 failed at fn" in record.message
    assert "this text is bad" in caplog.text
    assert 'raise ValueError("this text is bad")' in caplog.text


def test_no_secret_is_in_a_log_or_an_error(faults, frame, fresh_options, caplog):
    caplog.set_level(logging.DEBUG, logger="file_dataset")
    faults.expire("AKIDTEST", nth=2)
    pipeline = Pipeline(upper, write_options={"into_path": "s3://bucket/out"}, options=fresh_options, progress=False)
    with pytest.raises(RunStoppedError) as caught:
        pipeline.run(frame)
    result = caught.value.result
    shown = [caplog.text, str(caught.value), repr(caught.value), repr(pipeline), repr(fresh_options), repr(result)]
    shown += [result.failures.to_string(), result.manifest.to_string()]
    assert not [text for text in shown if "secrettest" in text]


# what a review found


def test_an_input_behind_a_linked_directory_is_not_overwritten(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1").symlink_to(tmp_path / "data")
    frame = pd.DataFrame({"id": [1], "a.txt": [tmp_path / "data/a.txt"]})

    def change(input_dir, output_dir):
        (output_dir / "a.txt").write_text("changed")
        return {"a.txt": output_dir / "a.txt"}

    result = Pipeline(change, write_options={"into_path": tmp_path / "out"}, progress=False).run(frame)
    assert result.failures["error_stage"].tolist() == ["upload"]
    assert (tmp_path / "data/a.txt").read_text() == "precious"


def test_the_same_url_in_another_store_is_another_object(own_faults, faults, pipeline):
    faults.put("s3://bucket/out/1/a.txt", b"here")
    own_faults.put("s3://bucket/other", b"")
    frame = pd.DataFrame({"id": [1], "a.txt": ["s3://bucket/out/1/a.txt"]})
    elsewhere = impatient_options(own_faults.endpoint_url)
    manifest = pipeline(forward, write={"options": elsewhere})(frame)
    assert manifest["a.txt"].tolist() == ["s3://bucket/out/1/a.txt"]
    assert own_faults.body("s3://bucket/out/1/a.txt") == b"here"


@pytest.mark.parametrize("names", [["a.txt", "b.txt"], ["b.txt", "a.txt"]], ids=["good first", "bad first"])
def test_local_outputs_of_a_row_are_replaced_all_or_none(tmp_path, names):
    (tmp_path / "out/1").mkdir(parents=True)
    (tmp_path / "out/1/a.txt").write_text("earlier")
    (tmp_path / "out/1/b.txt").mkdir()  # no file can take this name
    (tmp_path / "in.txt").write_text("new")
    frame = pd.DataFrame({"id": [1], "in.txt": [tmp_path / "in.txt"]})

    def two(input_dir, output_dir):
        return dict.fromkeys(names, input_dir / "in.txt")

    result = Pipeline(two, write_options={"into_path": tmp_path / "out"}, progress=False).run(frame)
    assert result.failures["error_file"].tolist() == ["b.txt"]
    assert (tmp_path / "out/1/a.txt").read_text() == "earlier"
    assert sorted(path.name for path in (tmp_path / "out/1").iterdir()) == ["a.txt", "b.txt"]


def test_a_failed_row_names_the_objects_that_it_replaced(faults, frame, pipeline):
    def two(input_dir, output_dir):
        return {"a.txt": input_dir / "a.txt", "b.txt": input_dir / "a.txt"}

    faults.fail("PutObject", ACCESS_DENIED, key="out/3/b.txt", times=None)
    failures = pipeline(two).run(frame).failures
    assert "s3://bucket/out/3/a.txt" in failures[failures["id"] == 3]["error_message"].iloc[0]


def test_a_first_row_of_which_one_output_is_refused_costs_that_row(faults, frame, pipeline):
    def two(input_dir, output_dir):
        return {"a.txt": input_dir / "a.txt", "b.txt": input_dir / "a.txt"}

    faults.fail("PutObject", ACCESS_DENIED, key="out/1/b.txt", times=None)
    assert pipeline(two)(frame)["id"].tolist() == [2, 3, 5]


def test_only_the_first_row_that_uploads_can_tell_that_the_target_takes_nothing(faults, frame, pipeline):
    faults.fail("PutObject", SLOW_DOWN, key="out/1/upper.txt", times=None)
    faults.fail("PutObject", ACCESS_DENIED, key="out/3/upper.txt", times=None)
    assert pipeline()(frame)["id"].tolist() == [5]


def test_refused_credentials_stop_the_run_beside_another_failure_of_the_row(faults, frame, pipeline):
    faults.fail("GetObject", INVALID_ACCESS_KEY_ID, key="in/1", times=None)
    both = frame.assign(**{"0.txt": "s3://bucket/none"})[["id", "0.txt", "a.txt"]]
    with pytest.raises(RunStoppedError, match="no later row can do better"):
        pipeline().run(both)


def test_extra_args_reach_the_outputs(frame, pipeline, fault_options):
    pipeline(write={"extra_args": {"ContentType": "text/x-test"}})(frame)
    head = fault_options.s3_client.head_object(Bucket="bucket", Key="out/1/upper.txt")
    assert head["ContentType"] == "text/x-test"


def test_unknown_extra_args_are_refused_before_the_first_request(faults, frame, pipeline):
    with pytest.raises(InvalidDatasetError, match="Contenttype"):
        pipeline(write={"extra_args": {"Contenttype": "x"}}).run(frame)
    assert not faults.requests


def test_local_inputs_are_not_counted_as_without_digest(faults, frame, pipeline, tmp_path):
    (tmp_path / "b.txt").write_text("x")
    faults.put("s3://bucket/in/1", b"one", etag="multipart")
    assert pipeline().run(frame.assign(**{"b.txt": tmp_path / "b.txt"})).files_without_digest == 1


def test_an_output_whose_key_is_too_long_costs_its_row(frame, pipeline):
    def long_names(input_dir, output_dir):
        is_one = (input_dir / "a.txt").read_text() == "one"
        return {"/".join(["x" * 250] * 5) if is_one else "a.txt": input_dir / "a.txt"}

    result = pipeline(long_names).run(frame)
    assert result.failures[["id", "error_stage"]].to_numpy().tolist() == [[1, "upload"], [4, "download"]]


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


@pytest.mark.parametrize("cell", ["x\0y", "/data/\ud800"], ids=["NUL", "surrogate"])
def test_a_cell_that_no_disk_can_take_costs_its_row(tmp_path, cell):
    (tmp_path / "a.txt").write_text("hi")
    frame = pd.DataFrame({"id": [1, 2], "a.txt": pd.Series([str(tmp_path / "a.txt"), cell], dtype=object)})
    result = Pipeline(forward, write_options={"into_path": tmp_path / "out"}, progress=False).run(frame)
    assert result.manifest["id"].tolist() == [1]
    assert result.failures["id"].tolist() == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"file_columns": "a.txt"}, "give a list"), ({"file_columns": 5}, "give a list"),
        ({"outputs": 5}, "give a list"),
        ({"temp_dir": 5}, "path of a directory"), ({"progress": "bar"}, "a function that takes a Progress"),
        ({"write_options": {"into_path": "out", "extra_args": "image/png"}}, "give a mapping"),
    ],
)  # fmt: skip
def test_wrong_types_are_refused_at_construction(arguments, message):
    with pytest.raises(InvalidDatasetError, match=message):
        Pipeline(forward, **{"write_options": {"into_path": "out"}, **arguments})


def test_a_recorded_run_joins_one_that_dropped(frame, pipeline):
    dropped = pipeline().run(frame)
    merged = dropped.merge(pipeline(on_failure="record").run(dropped.failed_rows))
    pd.testing.assert_frame_equal(merged.manifest, dropped.manifest)
    pd.testing.assert_frame_equal(merged.failures, dropped.failures)


@pytest.mark.parametrize(
    ("session", "client", "message"),
    [
        ({"aws_secret_key": "x"}, {}, "session_kwargs.*aws_secret_key"),
        ({}, {"endpoint": "http://x"}, "s3_client_kwargs.*endpoint"),
        ({"region_name": "us east 1"}, {}, "make no S3 client"),
    ],
    ids=["session", "client", "region"],
)
def test_options_that_make_no_client_stop_the_run(frame, session, client, message):
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    options = file_dataset.Options({**keys, **session}, client)
    with pytest.raises(InvalidDatasetError, match=message) as caught:
        Pipeline(forward, write_options={"into_path": "s3://bucket/out"}, options=options, progress=False).run(frame)
    assert len(caught.value.result.unprocessed_rows) == len(frame)


def test_an_endpoint_without_its_scheme_is_refused_at_construction():
    with pytest.raises(InvalidDatasetError, match="give it whole"):
        file_dataset.Options(None, {"endpoint_url": "localhost:9000"})
