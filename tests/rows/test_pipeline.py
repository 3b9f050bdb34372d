"""`Pipeline`: rows in, rows out; one bad row costs one row, and is told."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import gc
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import pandas as pd
import pytest
from helpers import forward, impatient_options, until
from servers.faults import ACCESS_DENIED, INVALID_ACCESS_KEY_ID, SLOW_DOWN, FaultServer, Slow, Status

import file_dataset
from file_dataset import InvalidDatasetError, Pipeline, PipelineResult, RunStoppedError, _run
from file_dataset._pool import Pool
from file_dataset._run import allowed_failures

HERE = str(Path(file_dataset.__file__).parent)
Upper = TypedDict("Upper", {"upper.txt": Path})


def upper(input_dir: Path, output_dir: Path) -> Upper:
    text = (input_dir / "a.txt").read_text()
    if text == "bad":
        raise ValueError("this text is bad")
    (output_dir / "upper.txt").write_text(text.upper())
    return {"upper.txt": output_dir / "upper.txt"}


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
    faults.fail("GetObject", fault, key="in/2", times=None)
    with pytest.raises(RunStoppedError, match="every later row would fail in the same way") as caught:
        pipeline().run(frame)
    assert caught.value.result.manifest["id"].tolist() == [1]
    assert caught.value.result.unprocessed_rows["id"].tolist() == [3, 4, 5]


def test_credentials_that_expire_without_others_stop_the_run(faults, frame, fresh_options):
    faults.expire("AKIDTEST", nth=3)  # row 1 takes a GET and a PUT
    write = {"into_path": "s3://bucket/out"}
    pipeline = Pipeline(forward, write_options=write, options=fresh_options, progress=False, prefetch=0)
    with pytest.raises(RunStoppedError, match="renew them") as caught:
        pipeline.run(frame)
    assert caught.value.result.manifest["id"].tolist() == [1]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    "into_path", ["s3://no-such-bucket/out", "s3://bucket/out"], ids=["NoSuchBucket", "AccessDenied"]
)
def test_a_target_that_takes_nothing_of_the_first_row_stops_the_run(faults, frame, pipeline, into_path, prefetch):
    faults.fail("PutObject", ACCESS_DENIED, key="out/1/upper.txt", times=None)
    with pytest.raises(RunStoppedError, match="the target store refused every output") as caught:
        pipeline(into_path=into_path, prefetch=prefetch).run(frame)
    assert caught.value.result.failures["id"].tolist() == [1]
    if not prefetch:
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


@pytest.mark.parametrize("prefetch", [0, 2])
def test_ctrl_c_leaves_no_temp_dir_and_carries_the_result(frame, pipeline, tmp_path, prefetch):
    def interrupted(input_dir, output_dir):
        if (input_dir / "a.txt").read_text() == "three":
            signal.raise_signal(signal.SIGINT)
        return {"a.txt": input_dir / "a.txt"}

    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline(interrupted, temp_dir=tmp_path, prefetch=prefetch).run(frame)
    result = caught.value.result
    stored = result.manifest["id"].tolist()
    # what was still uploading is given up, and comes again
    assert stored == [1, 2] if prefetch == 0 else stored in ([], [1], [2], [1, 2])
    assert result.unprocessed_rows["id"].tolist() == [number for number in range(1, 6) if number not in stored]
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

    pipeline(look, temp_dir=tmp_path, prefetch=0).run(frame)
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
        ({"write_options": None}, "where do outputs go\\?"),
        ({"into_path": "s3://bucket/out"}, "give one of them"),
        ({"write_options": None, "into_path": "gs://b/x"}, "gs://"),
        ({"write_options": None, "into_path": 7}, "into_path"),
        ({"on_failure": "ignore"}, "on_failure="),
        ({"outputs": "a.txt"}, "give a list"),
        ({"outputs": ["id"]}, "rename them"),
        ({"outputs": []}, "at least one"),
        ({"options": {"region": "x"}}, "file_dataset.Options"),
        ({"prefetch": -1}, "prefetch=-1: give a number of rows"),
        ({"prefetch": 1.5}, "number of rows"),
        ({"prefetch": True}, "number of rows"),
        ({"workers": -1}, "workers=-1: give a number of processes"),
        ({"workers": "2"}, "number of processes"),
        ({"fn_timeout_s": 0}, "more than 0"),
        ({"fn_timeout_s": True}, "more than 0"),
        ({"fn_timeout_s": float("inf")}, "None: as long as it takes"),
        ({"fn_timeout_s": float("nan")}, "more than 0"),
        ({"fn_timeout_s": "5"}, "more than 0"),
        ({"worker_env": {"A": "b"}}, "give workers=1"),
        ({"worker_env": {"A": 1}, "workers": 1}, r"worker_env \['A'\]: names and values are text"),
        ({"worker_env": ["A=b"], "workers": 1}, "give a mapping"),
        ({"worker_env": {"A=": "b"}, "workers": 1}, r"worker_env \['A='\]: no system has such a variable"),
        ({"worker_env": {"A": "b\0"}, "workers": 1}, r"worker_env \['A'\]: no system has such a variable"),
        ({"worker_env": {"": "b"}, "workers": 1}, r"worker_env \[''\]: no system has such a variable"),
        ({"max_failures": -1}, "max_failures=-1"),
        ({"max_failures": True}, "give a number of rows"),
        ({"max_failures": 0.25}, "give max_failed_fraction=0.25"),
        ({"max_failures": 1.0}, "give max_failed_fraction=1.0"),
        ({"max_failures": 1.5}, "give max_failed_fraction=0.1"),
        ({"max_failures": float("nan")}, "give a number of rows"),
        ({"max_failures": "5%"}, "give a number of rows"),
        ({"max_failures": 1, "on_failure": "raise"}, "leave max_failures out"),
        ({"max_failed_fraction": 5}, "write 5 % as 0.05"),
        ({"max_failed_fraction": -0.1}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": True}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": float("nan")}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": "0.1"}, "from 0.0 to 1.0"),
        ({"max_failed_fraction": 10}, "for a number of rows give max_failures=10"),
        ({"max_failed_fraction": 0.1, "on_failure": "raise"}, "leave max_failed_fraction out"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(arguments, message):
    given = {"fn": upper, "write_options": {"into_path": "s3://bucket/out"}, **arguments}
    with pytest.raises(InvalidDatasetError, match=message):
        Pipeline(given.pop("fn"), **given)


def test_into_path_is_short_for_write_options(frame, fault_options):
    where = "s3://bucket/short"
    one = Pipeline(upper, into_path=where, options=fault_options)
    assert settings_of(one) == settings_of(Pipeline(upper, write_options={"into_path": where}, options=fault_options))
    manifest = pickle.loads(pickle.dumps(one))(frame)
    assert manifest["id"].tolist() == [1, 3, 5]
    assert manifest["upper.txt"][0] == f"{where}/1/upper.txt"


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
    with pytest.raises(RunStoppedError, match="every later row would fail in the same way"):
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


# overlap: downloads ahead of fn, uploads behind it


class PacedServer(FaultServer):
    """Keeps requests waiting until the test opens their gate.

    Attributes:
        order: the operation and key of every request.
        overdue: those that were let go after a minute, because nobody had opened their gate.
    """

    def __init__(self):
        self.gates = {}
        self.order = []
        self.overdue = []
        super().__init__()

    def arrived(self, request):
        fault = super().arrived(request)
        self.order.append((request.operation, request.key))
        gate = self.gates.get((request.operation, request.key)) or self.gates.get((request.operation, None))
        if gate is not None and not gate.wait(60):
            self.overdue.append((request.operation, request.key))
        return fault

    def hold(self, operation, key=None):
        """Close a gate for the requests of a key, or of all."""
        gate = self.gates[operation, key] = threading.Event()
        return gate


@pytest.fixture
def paced():
    """A server that waits, with six good rows."""
    with PacedServer() as server:
        for number in range(1, 7):
            server.put(f"s3://bucket/in/{number}", f"row {number}".encode())
        yield server
        for gate in server.gates.values():
            gate.set()


@pytest.fixture
def six():
    return pd.DataFrame({"id": range(1, 7), "a.txt": [f"s3://bucket/in/{number}" for number in range(1, 7)]})


@pytest.fixture
def on(paced):
    def make(fn=forward, **kwargs):
        options = impatient_options(paced.endpoint_url, patience_s=90)  # more than any gate holds
        write = {"into_path": "s3://bucket/out"}
        return Pipeline(fn, write_options=write, options=options, **{"progress": False, **kwargs})

    return make


def number_of(input_dir):
    return int((Path(input_dir) / "a.txt").read_text().removeprefix("row "))


@pytest.mark.parametrize(
    ("prefetch", "workers", "window"), [(0, 0, 1), (1, 0, 3), (2, 0, 4), (5, 0, 7), (0, 1, 2), (1, 2, 4)]
)
def test_at_most_the_window_has_files_on_disk(paced, on, tmp_path, prefetch, workers, window):
    frame = pd.DataFrame({"id": range(12), "a.txt": "s3://bucket/in/1"})
    gate = paced.hold("PutObject")
    seen, is_over = [0], threading.Event()

    def watch():
        while not is_over.is_set():
            seen.append(len(os.listdir(tmp_path)))  # noqa: PTH208  # one call
            time.sleep(0.001)

    def let_go():
        until(lambda: paced.count("PutObject") and max(seen) >= window)  # uploads that do not end fill it
        time.sleep(0.2)  # for one more, which there must not be
        gate.set()

    threads = [threading.Thread(target=watch), threading.Thread(target=let_go)]
    for thread in threads:
        thread.start()
    try:
        manifest = on(temp_dir=tmp_path, prefetch=prefetch, workers=workers)(frame)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert len(manifest) == len(frame)
    assert max(seen) == window  # not more, and not less
    assert list(tmp_path.iterdir()) == []


def test_while_fn_works_the_next_rows_download_and_finished_ones_upload(paced, on, six):
    paced.hold("PutObject", "out/1/a.txt")
    seen = {}

    def look(input_dir, output_dir):
        if number_of(input_dir) == 2:
            seen["next two"] = until(lambda: paced.count("GetObject", "in/3") and paced.count("GetObject", "in/4"))
            seen["the one before"] = until(lambda: paced.count("PutObject", "out/1/a.txt"))
            time.sleep(0.2)
            seen["more"] = paced.count("GetObject", "in/5")
            paced.gates["PutObject", "out/1/a.txt"].set()
        return forward(input_dir, output_dir)

    assert len(on(look)(six)) == 6
    assert seen == {"next two": True, "the one before": True, "more": 0}


def test_no_more_than_the_next_rows_download_while_fn_works(paced, on, six):
    """There would be room on disk for one more, which is kept for an upload."""
    seen = []

    def look(input_dir, output_dir):
        if number_of(input_dir) == 1:
            until(lambda: paced.count("GetObject", "in/3"))
            time.sleep(0.2)
            seen.append(paced.count("GetObject", "in/4"))
        return forward(input_dir, output_dir)

    assert len(on(look)(six)) == 6
    assert seen == [0]


def test_a_row_that_is_stored_makes_room_while_fn_still_works(paced, on, six):
    gates = [paced.hold("PutObject", f"out/{number}/a.txt") for number in (1, 2)]
    seen = {}

    def look(input_dir, output_dir):
        if number_of(input_dir) == 3:  # 1 and 2 are uploading, 4 is ahead: that is the window of prefetch=2
            until(lambda: paced.count("GetObject", "in/4"))
            time.sleep(0.2)
            seen["before"] = paced.count("GetObject", "in/5")
            gates[0].set()
            seen["after"] = until(lambda: paced.count("GetObject", "in/5"))
            gates[1].set()
        return forward(input_dir, output_dir)

    assert len(on(look)(six)) == 6
    assert seen == {"before": 0, "after": True}


def test_without_overlap_one_thing_is_done_after_the_other(paced, on, six):
    names = set()
    before = set(threading.enumerate())  # a run that another test interrupted may have left some

    def look(input_dir, output_dir):
        names.update(thread.name for thread in set(threading.enumerate()) - before)
        return forward(input_dir, output_dir)

    on(look, prefetch=0)(six)
    rows = range(1, 7)
    assert paced.order == [one for n in rows for one in (("GetObject", f"in/{n}"), ("PutObject", f"out/{n}/a.txt"))]
    assert not [name for name in names if name.startswith("file_dataset-run")]


def test_fn_is_called_in_the_calling_thread_and_in_input_order(paced, on, six):
    paced.fail("GetObject", SLOW_DOWN, key="in/1", times=2)  # the others are there before it
    called = []

    def look(input_dir, output_dir):
        called.append((number_of(input_dir), threading.get_ident()))
        return forward(input_dir, output_dir)

    on(look)(six)
    assert called == [(number, threading.get_ident()) for number in range(1, 7)]


def test_whatever_comes_first_is_told_in_input_order(paced, on, six, caplog):
    """Row 1 fails last, by far."""
    paced.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt", times=None)
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/2", times=None)
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/5", times=None)
    gate = paced.hold("PutObject", "out/1/a.txt")
    told = []

    def look(input_dir, output_dir):
        if number_of(input_dir) == 6:
            assert told == []  # a row that is not done holds the others back
            gate.set()
        return forward(input_dir, output_dir)

    def progress(now):
        assert threading.current_thread() is threading.main_thread()
        told.append((now.done, now.dropped))

    result = on(look, progress=progress).run(six)
    assert result.failures["id"].tolist() == [1, 2, 5]
    assert result.manifest["id"].tolist() == result.files["id"].tolist() == [3, 4, 6]
    assert told == [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3)]
    logged = [record.message.split(" failed")[0] for record in caplog.records if record.levelno == logging.WARNING]
    assert logged == ["row 1", "row 2", "row 5"]


@pytest.mark.parametrize("workers", [0, 2])
def test_raise_stops_at_the_first_failure_in_input_order(paced, on, six, workers):
    """Row 3 has failed long before row 1 does, and row 4 is not begun: the rows before a failure are finished."""
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/3", times=None)
    paced.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt", times=None)
    gate = paced.hold("PutObject", "out/1/a.txt")
    threading.Thread(target=lambda: (until(lambda: paced.count("PutObject", "out/2/a.txt")), gate.set())).start()
    with pytest.raises(RunStoppedError, match=r"stopped at the first failure.*row 1") as caught:
        on(forward, on_failure="raise", workers=workers).run(six)
    result = caught.value.result
    assert result.failures["id"].tolist() == [1]
    # a later row that was stored all the same is listed
    assert {*result.manifest["id"], *result.unprocessed_rows["id"]} == {2, 3, 4, 5, 6}
    if not workers:  # they may have taken row 4 before the failure of row 3 was known
        assert not paced.count("PutObject", "out/4/a.txt")


def test_fn_begins_no_row_after_one_whose_failure_is_known(paced, on, six, tmp_path, monkeypatch):
    gate = paced.hold("PutObject", "out/1/a.txt")
    paced.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt", times=None)
    submit, uploads, called = Pool.submit, [], []

    def submitted(self, work, *args):
        future = submit(self, work, *args)
        if work.__name__ == "_store":
            uploads.append(future)
        return future

    monkeypatch.setattr(Pool, "submit", submitted)

    def look(input_dir, output_dir):
        called.append(number_of(input_dir))
        if called[-1] == 2:  # the failure comes while fn works
            gate.set()
            assert until(uploads[0].done)
        return forward(input_dir, output_dir)

    with pytest.raises(RunStoppedError):
        on(look, on_failure="raise", temp_dir=tmp_path).run(six)
    assert called == [1, 2]


def test_nothing_begins_after_a_row_whose_failure_is_known_while_an_earlier_row_is_not_done(paced, on, six):
    paced.fail("GetObject", Status(404, "NoSuchKey"), key="in/2", times=None)
    gate = paced.hold("PutObject", "out/1/a.txt")
    called = []

    def look(input_dir, output_dir):
        called.append(number_of(input_dir))
        until(lambda: paced.count("GetObject", "in/3"))
        return forward(input_dir, output_dir)

    # the half second is for what must not begin
    threading.Thread(
        target=lambda: (until(lambda: paced.count("PutObject", "out/1/a.txt")), time.sleep(0.5), gate.set())
    ).start()
    with pytest.raises(RunStoppedError) as caught:
        on(look, on_failure="raise").run(six)
    assert caught.value.result.manifest["id"].tolist() == called == [1]
    assert paced.count("GetObject", "in/5") == 0


def test_a_first_upload_that_is_refused_holds_the_others_back_and_lets_them_go(paced, on, six):
    """Row 2 is refused before row 1 is stored, which tells that the target takes something."""
    gate = paced.hold("PutObject", "out/1/a.txt")
    paced.fail("PutObject", ACCESS_DENIED, key="out/2/a.txt", times=None)
    threading.Thread(
        target=lambda: (until(lambda: paced.count("PutObject", "out/2/a.txt")), time.sleep(0.3), gate.set())
    ).start()
    assert on()(six)["id"].tolist() == [1, 3, 4, 5, 6]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_no_thread_outlives_its_run(paced, on, six, is_stopped):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("file_dataset-run")]

    if is_stopped:
        paced.fail("GetObject", INVALID_ACCESS_KEY_ID, key="in/3", times=None)
        with pytest.raises(RunStoppedError) as caught:  # its traceback refers to the run
            on().run(six)
        assert until(lambda: not threads())
        assert caught.value.result is not None
    else:
        seen = []
        on(lambda i, o: (seen.extend(threads()), forward(i, o))[1])(six)
        assert seen
        assert until(lambda: not threads())


@pytest.mark.parametrize("held", [("GetObject", "in/3"), ("PutObject", "out/1/a.txt")], ids=["download", "upload"])
def test_ctrl_c_stops_what_is_under_way_at_once(paced, on, six, tmp_path, held, monkeypatch):
    monkeypatch.setattr(_run, "_GRACE_S", 600)  # what does not hear is waited for until its gate lets it go
    paced.hold(*held)
    main = threading.main_thread().ident

    def interrupted(input_dir, output_dir):
        if number_of(input_dir) == 2:
            until(lambda: paced.count(*held))
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(1000)
        return forward(input_dir, output_dir)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted, temp_dir=tmp_path).run(six)
    assert not paced.overdue
    result = caught.value.result
    assert list(tmp_path.iterdir()) == []
    listed = result.manifest["id"].tolist()
    assert result.unprocessed_rows["id"].tolist() == [number for number in range(1, 7) if number not in listed]
    assert 2 not in listed
    assert len(result.failures) == 0
    if held[0] == "PutObject":
        assert listed == []


class Interrupted:
    """Ctrl-C at the n-th moment at which Python looks for signals in code of ours: functions begin, calls of C end."""

    def __init__(self, number=None):
        self.number, self.seen = number, 0

    def __call__(self, frame, event, _):
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(HERE):
            self.seen += 1
            if self.seen == self.number:
                signal.raise_signal(signal.SIGINT)

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a generator that is closed
@pytest.mark.parametrize("prefetch", [0, 2])
def test_ctrl_c_at_any_moment_leaves_nothing_and_lists_what_is_there(tmp_path, prefetch):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(str(number))
    frame = pd.DataFrame({"id": range(4), "a.txt": [str(tmp_path / f"{number}.txt") for number in range(4)]})
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    pipeline = Pipeline(
        forward, write_options={"into_path": out}, temp_dir=work, prefetch=prefetch, progress=False, on_failure="record"
    )
    with Interrupted() as moments:
        pipeline.run(frame)
    interrupted = 0
    for number in range(1, moments.seen, 1 + moments.seen // 150):
        shutil.rmtree(out)
        out.mkdir()
        with contextlib.suppress(KeyboardInterrupt):
            try:
                with Interrupted(number):
                    pipeline.run(frame)
            except KeyboardInterrupt as exc:
                interrupted += 1
                result = getattr(exc, "result", None)  # None: nothing had begun
                assert result is not None or not list(out.iterdir())
                if result is not None:
                    assert len(result.manifest) + len(result.unprocessed_rows) == 4
                    assert all(Path(at).exists() for at in result.files["location"])
                # a download that did not hear of it removes what it has made
                assert until(lambda: not list(work.iterdir())), f"moment {number} of {moments.seen}"
                raise
    assert interrupted > 50


def test_a_row_that_was_stored_when_ctrl_c_came_is_listed(paced, on, six):
    places = []

    def interrupted(input_dir, output_dir):
        places.append(input_dir)
        if number_of(input_dir) == 2:
            until(lambda: not places[0].exists())  # row 1 is gone from here once it is there
            signal.raise_signal(signal.SIGINT)
        return forward(input_dir, output_dir)

    with pytest.raises(KeyboardInterrupt) as caught:
        on(interrupted).run(six)
    assert caught.value.result.manifest["id"].tolist() == caught.value.result.files["id"].tolist() == [1]


def test_a_run_that_is_stopped_gives_up_the_downloads_of_later_rows(paced, on, six, tmp_path, monkeypatch):
    monkeypatch.setattr(_run, "_GRACE_S", 600)
    paced.hold("GetObject", "in/2")
    paced.hold("GetObject", "in/3")

    def fail(input_dir, output_dir):
        until(lambda: paced.count("GetObject", "in/3"))
        raise ValueError("no")

    with pytest.raises(RunStoppedError) as caught:
        on(fail, on_failure="raise", temp_dir=tmp_path).run(six)
    assert not paced.overdue
    assert caught.value.result.unprocessed_rows["id"].tolist() == [2, 3, 4, 5, 6]
    assert list(tmp_path.iterdir()) == []


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


def test_a_recorded_failure_is_no_failure_of_this_run(frame, pipeline):
    recorded = pipeline(on_failure="record")(frame)
    run = pipeline(lambda i, o: {"b.txt": i / "upper.txt"}, into_path="s3://bucket/b", max_failures=0).run
    assert run(recorded).failures["id"].tolist() == [2, 4]


# max_failures, max_failed_fraction


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        ({"max_failures": 1}, "max_failures=1"),
        ({"max_failed_fraction": 0.2}, "max_failed_fraction=0.2"),
        ({"max_failed_fraction": 0.39}, "max_failed_fraction=0.39"),
        ({"max_failures": 1, "max_failed_fraction": 0.4}, "max_failures=1"),
        ({"max_failures": 2, "max_failed_fraction": 0.2}, "max_failed_fraction=0.2"),
    ],
    ids=str,
)
def test_more_failures_than_allowed_stop_the_run(frame, pipeline, limits, exceeded, prefetch):
    with pytest.raises(RunStoppedError) as caught:
        pipeline(prefetch=prefetch, **limits).run(frame)
    text = str(caught.value)
    assert f"2 of 5 rows failed, {exceeded} allows 1: " in text
    assert "1 at download: FileNotFoundError (NoSuchKey), 1 at fn: ValueError" in text
    result = caught.value.result
    assert (result.failures["id"].tolist(), result.manifest["id"].tolist()) == ([2, 4], [1, 3])
    assert result.unprocessed_rows["id"].tolist() == [5]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_failures": 2},
        {"max_failures": 7},
        {"max_failed_fraction": 0.4},
        {"max_failed_fraction": 1},
        {"max_failures": 2, "max_failed_fraction": 0.4},
    ],
    ids=str,
)
def test_as_many_failures_as_allowed_do_not(frame, pipeline, limits):
    assert len(pipeline(**limits)(frame)) == 3


def settings_of(pipeline):
    return pipeline._settings  # noqa: SLF001  # what it was told is shown nowhere else


def test_a_share_allows_what_raise_if_dropped_allows():
    """0.29 * 100 is 28.999999999999996, and 0.07 * 100 is 7.000000000000001."""
    base = settings_of(Pipeline(forward, write_options={"into_path": "out"}))
    for total in (1, 3, 10, 97, 100, 1000):
        for count in range(total + 1):
            settings = dataclasses.replace(base, max_failed_fraction=count / total)
            assert allowed_failures(settings, total) == count
    for hundredth in range(101):
        settings = dataclasses.replace(base, max_failed_fraction=hundredth / 100)
        assert allowed_failures(settings, 100) == hundredth


# the row


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


# workers


def process_of(input_dir, output_dir):
    (output_dir / "pid.txt").write_text(f"{os.getpid()} {os.environ.get('FOR_WORKERS', '')}")
    return {"pid.txt": output_dir / "pid.txt"}


@pytest.mark.parametrize(
    "arguments", [{"workers": 1}, {"fn_timeout_s": 60}, {"workers": 2, "prefetch": 0}], ids="+".join
)
def test_fn_runs_in_other_processes(paced, on, six, arguments):
    on(process_of, worker_env={"FOR_WORKERS": "set"}, **arguments)(six)
    said = [paced.body(f"s3://bucket/out/{number}/pid.txt").decode().split() for number in range(1, 7)]
    pids = {pid for pid, _ in said}
    assert str(os.getpid()) not in pids
    assert 1 <= len(pids) <= arguments.get("workers", 1)  # a process stays for the next row
    assert {env for _, env in said} == {"set"}


def test_as_many_rows_as_workers_are_in_fn_at_once(on, six, tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()

    def meet(input_dir, output_dir):
        import os
        import time

        (meeting / str(os.getpid())).touch()
        end = time.monotonic() + 20
        while len(list(meeting.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(list(meeting.iterdir())) == 2
        return {"a.txt": input_dir / "a.txt"}

    assert len(on(meet, workers=2)(six)) == 6


def test_workers_take_whichever_row_is_here(paced, on, six):
    """A stalled download holds back its own row only."""
    gate = paced.hold("GetObject", "in/1")
    threading.Thread(target=lambda: (until(lambda: paced.count("PutObject", "out/3/a.txt")), gate.set())).start()
    manifest = on(workers=1)(six)
    assert manifest["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert paced.order.index(("PutObject", "out/3/a.txt")) < paced.order.index(("PutObject", "out/1/a.txt"))


def test_a_class_that_cannot_be_made_in_a_worker_stops_the_run(on, six, tmp_path):
    class Broken:
        def __init__(self):
            raise RuntimeError("no weights")

        def __call__(self, input_dir, output_dir):
            return {}

    with pytest.raises(RunStoppedError, match="no weights") as caught:
        on(Broken, workers=2, temp_dir=tmp_path).run(six)
    assert len(caught.value.result.unprocessed_rows) == 6
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_no_worker_can_be_sent_is_refused_before_the_first_request(paced, on, six):
    lock = threading.Lock()

    def locked(input_dir, output_dir):
        with lock:
            return {"a.txt": input_dir / "a.txt"}

    with pytest.raises(InvalidDatasetError, match=r"cannot be pickled for worker processes: TypeError: .*lock"):
        on(locked, workers=1).run(six)
    assert not paced.requests


def test_the_traceback_of_a_worker_is_logged_once_with_the_rows_id(frame, pipeline, caplog):
    pipeline(workers=1).run(frame)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.WARNING
    assert "row 2 failed at fn" in record.message
    assert caplog.text.count('raise ValueError("this text is bad")') == 1


def test_ctrl_c_kills_what_works(on, six, tmp_path):
    (tmp_path / "work").mkdir()
    pid = tmp_path / "pid"

    def hang(input_dir, output_dir):
        import os
        import time

        pid.with_suffix(".part").write_text(str(os.getpid()))
        pid.with_suffix(".part").rename(pid)
        time.sleep(1000)

    threading.Thread(
        target=lambda: until(pid.exists) and signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    ).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        on(hang, workers=1, temp_dir=tmp_path / "work").run(six)
    assert len(caught.value.result.unprocessed_rows) == 6
    assert list((tmp_path / "work").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_pickle_carries_every_setting():
    given = {
        "on_failure": "record", "max_failures": 9, "max_failed_fraction": 0.25, "prefetch": 5, "workers": 3,
        "fn_timeout_s": 1.5, "worker_env": {"A": "b"}, "file_columns": ["a.txt"], "outputs": ["b.txt"], "temp_dir": "t",
        "progress": False,
    }  # fmt: skip
    options = file_dataset.Options()
    one = Pipeline(forward, write_options={"into_path": "out"}, options=options, **given)
    settings = settings_of(pickle.loads(pickle.dumps(one)))
    assert {name: getattr(settings, name) for name in given} == given
    assert {field.name for field in dataclasses.fields(settings)} == {*given, "fn", "write_options", "options"}


def test_no_repr_shows_the_environment_of_workers():
    one = Pipeline(forward, write_options={"into_path": "out"}, workers=1, worker_env={"TOKEN": "secrettest"})
    assert "secrettest" not in repr(one) + repr(settings_of(one))
    with pytest.raises(InvalidDatasetError) as refused:
        Pipeline(forward, write_options={"into_path": "out"}, workers=1, worker_env={"TOKEN": b"secrettest"})
    assert "secrettest" not in str(refused.value)
