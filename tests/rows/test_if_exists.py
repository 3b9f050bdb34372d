"""`if_exists`: outputs that are there already are replaced, stay and cost the row, or spare it."""

from __future__ import annotations

import errno
import os
import pickle
import threading

import pandas as pd
import pytest
from helpers import Upper, failure_of, forward, until, upper
from servers.faults import ACCESS_DENIED, INTERNAL_ERROR, LostReply, Meanwhile, Status

from file_dataset import InvalidDatasetError, Pipeline, RunStoppedError
from file_dataset._s3.store import S3Store

OUT = "s3://bucket/out"


@pytest.fixture
def two(faults):
    """Two good rows."""
    for number in (1, 2):
        faults.put(f"s3://bucket/in/{number}", f"row {number}".encode())
    return pd.DataFrame({"id": [1, 2], "a.txt": ["s3://bucket/in/1", "s3://bucket/in/2"]})


@pytest.fixture
def run(fault_options, two):
    """Run the two rows."""

    def of(if_exists, fn=upper, *, into_path=OUT, frame=two, **kwargs):
        write = {"into_path": into_path, "if_exists": if_exists}
        return Pipeline(fn, write_options=write, options=fault_options, progress=False, **kwargs).run(frame)

    return of


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def never(input_dir, output_dir):
    raise AssertionError("fn was called")


# "error"


def test_an_output_that_is_there_costs_the_row_before_its_download(faults, run):
    faults.put(f"{OUT}/2/upper.txt", b"before")
    result = run("error")
    assert result.manifest["id"].tolist() == [1]
    failed = failure_of(result)
    assert (failed.id, failed.error_stage, failed.error_type) == (2, "upload", "FileExistsError")
    assert (failed.error_code, failed.error_file) == ("PreconditionFailed", "upper.txt")
    assert failed.error_url == f"{OUT}/2/upper.txt"
    assert "give another into_path, remove it, or choose if_exists='skip' or 'overwrite'" in failed.error_message
    assert faults.body(f"{OUT}/2/upper.txt") == b"before"
    assert (faults.count("GetObject", "in/2"), faults.count("PutObject")) == (0, 1)


def test_error_costs_one_head_for_each_declared_output(faults, run):
    assert len(run("error").manifest) == 2
    assert faults.requests == {
        ("HeadObject", "out/1/upper.txt"): 1,
        ("HeadObject", "out/2/upper.txt"): 1,
        ("GetObject", "in/1"): 1,
        ("GetObject", "in/2"): 1,
        ("PutObject", "out/1/upper.txt"): 1,
        ("PutObject", "out/2/upper.txt"): 1,
    }


def test_outputs_that_are_not_declared_are_not_looked_for_and_stay_all_the_same(faults, run):
    faults.put(f"{OUT}/2/a.txt", b"before")
    result = run("error", forward)
    assert result.failures[["id", "error_type"]].to_numpy().tolist() == [[2, "FileExistsError"]]
    assert faults.body(f"{OUT}/2/a.txt") == b"before"
    assert faults.count("HeadObject") == 0


def test_what_comes_after_the_look_stays(faults, run):
    def late(input_dir, output_dir):
        faults.put(f"{OUT}/1/a.txt", b"theirs")
        return forward(input_dir, output_dir)

    result = run("error", late, outputs=["a.txt"])
    assert result.failures[["id", "error_type"]].to_numpy().tolist() == [[1, "FileExistsError"]]
    assert faults.body(f"{OUT}/1/a.txt") == b"theirs"


def test_a_row_whose_answer_was_lost_is_stored(faults, run):
    faults.fail("PutObject", LostReply(), key="out/1/upper.txt")
    result = run("error")
    assert result.manifest["id"].tolist() == [1, 2]
    assert result.files["etag"].notna().all()


def test_overwrite_replaces_and_asks_nothing(faults, run):
    faults.put(f"{OUT}/2/upper.txt", b"before")
    assert len(run("overwrite").manifest) == 2
    assert faults.body(f"{OUT}/2/upper.txt") == b"ROW 2"
    assert faults.count("HeadObject") == 0


def two_outputs(input_dir, output_dir):
    return {"a.txt": input_dir / "a.txt", "b.txt": input_dir / "a.txt"}


def test_a_row_that_fails_takes_back_what_it_stored_and_can_run_again(faults, run):
    faults.put(f"{OUT}/1/b.txt", b"before")
    failed = failure_of(run("error", two_outputs))
    assert (failed.id, failed.error_file) == (1, "b.txt")
    assert failed.error_message.endswith("choose if_exists='skip' or 'overwrite'")
    assert faults.keys("bucket") == ["in/1", "in/2", "out/1/b.txt", "out/2/a.txt", "out/2/b.txt"]
    assert faults.body(f"{OUT}/1/b.txt") == b"before"
    assert faults.count("DeleteObject") == 1
    faults.store.replace("bucket", "out/1/b.txt", None)
    again = run("error", two_outputs)
    assert again.manifest["id"].tolist() == [1]


def test_a_row_that_fails_otherwise_takes_back_what_it_stored_too(faults, run):
    faults.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/b.txt")
    assert failure_of(run("error", two_outputs)).error_code == "InvalidRequest"
    assert "out/1/a.txt" not in faults.keys("bucket")


def test_an_output_that_changed_while_it_was_stored_is_taken_back(faults, run):
    """What is stored of it may be of two states."""
    written = []

    def writes_on(input_dir, output_dir):
        written.append(output_dir / "b.txt")
        written[-1].write_bytes(b"begun")
        return {"a.txt": input_dir / "a.txt", "b.txt": written[-1]}

    faults.fail("PutObject", Meanwhile(lambda: written[0].write_bytes(b"and gone on")), key="out/1/b.txt")
    failed = failure_of(run("error", writes_on, prefetch=0))
    assert (failed.error_type, failed.error_file) == ("FileChangedError", "b.txt")
    assert "was stored before that" not in failed.error_message
    assert faults.keys("bucket") == ["in/1", "in/2", "out/2/a.txt", "out/2/b.txt"]


def test_what_could_not_be_taken_back_is_named(faults, run):
    faults.put(f"{OUT}/1/b.txt", b"before")
    faults.fail("DeleteObject", ACCESS_DENIED, times=None)
    failed = failure_of(run("error", two_outputs))
    assert "remove it before the row runs again, for that failed: s3://bucket/out/1/a.txt: " in failed.error_message
    assert (failed.error_type, failed.error_code) == ("FileExistsError", "PreconditionFailed")
    assert "out/1/a.txt" in faults.keys("bucket")


def test_a_row_that_replaces_takes_nothing_back(faults, run):
    faults.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/b.txt")
    assert "stored before that" in failure_of(run("overwrite", two_outputs)).error_message
    assert faults.count("DeleteObject") == 0


def test_other_rows_go_on_while_one_takes_back_what_it_stored(paced, six, on):
    paced.put(f"{OUT}/1/b.txt", b"before")
    gate = paced.hold("DeleteObject")
    threading.Thread(target=lambda: (until(lambda: paced.count("PutObject", "out/6/b.txt")), gate.set())).start()
    result = on(two_outputs, prefetch=1, write={"if_exists": "error"}).run(six)
    assert result.failures["id"].tolist() == [1]
    assert result.manifest["id"].tolist() == [2, 3, 4, 5, 6]
    assert not paced.overdue


def test_a_row_that_is_given_up_takes_back_what_it_stored(paced, six, on, monkeypatch):
    """Row 1 fails and stops the run while row 2 has stored one of its two outputs."""
    begun, upload = {}, S3Store.upload

    def seen(self, source, target, **kwargs):
        return begun.setdefault(target.key, upload(self, source, target, **kwargs))

    monkeypatch.setattr(S3Store, "upload", seen)
    paced.fail("PutObject", Status(400, "InvalidRequest"), key="out/1/a.txt", times=None)
    gate = paced.hold("PutObject", "out/1/a.txt")
    paced.hold("PutObject", "out/2/b.txt")
    is_stored = lambda: (found := begun.get("out/2/a.txt")) is not None and found.done()  # noqa: E731
    threading.Thread(target=lambda: (until(is_stored), gate.set())).start()
    with pytest.raises(RunStoppedError) as caught:
        on(two_outputs, write={"if_exists": "error"}, on_failure="raise", prefetch=1).run(six)
    assert paced.count("DeleteObject", "out/2/a.txt") == 1
    assert "out/2/a.txt" not in paced.keys("bucket")
    assert 2 in caught.value.result.unprocessed_rows["id"].tolist()


# "skip"


def test_a_row_whose_outputs_are_there_is_listed_and_not_run(faults, run):
    first = run("skip")
    faults.reset()
    again = run("skip", never, outputs=["upper.txt"])
    pd.testing.assert_frame_equal(again.manifest, first.manifest)
    pd.testing.assert_frame_equal(again.files, first.files)
    assert faults.requests == {("HeadObject", "out/1/upper.txt"): 1, ("HeadObject", "out/2/upper.txt"): 1}
    assert again.files["checksum"].str.startswith("CRC64NVME:").all()


def test_a_row_that_is_skipped_has_read_nothing(run):
    run("skip")
    again = run("skip", never, outputs=["upper.txt"])
    assert len(again.inputs) == again.files_without_digest == 0


def test_a_row_of_which_one_output_is_missing_runs_and_replaces_the_others(faults, run):
    faults.put(f"{OUT}/1/a.txt", b"before")
    faults.put(f"{OUT}/1/b.txt", b"before")
    faults.put(f"{OUT}/2/a.txt", b"before")
    result = run("skip", two_outputs, outputs=["a.txt", "b.txt"])
    assert result.manifest["id"].tolist() == [1, 2]
    assert faults.body(f"{OUT}/1/a.txt") == b"before"
    assert faults.body(f"{OUT}/2/a.txt") == b"row 2"
    assert faults.count("HeadObject") == 4


def test_an_output_that_fn_may_leave_out_counts_as_declared(faults, run):
    faults.put(f"{OUT}/1/a.txt", b"before")
    result = run("skip", forward_or_none, outputs=["a.txt", "b.txt"])
    assert faults.body(f"{OUT}/1/a.txt") == b"row 1"
    assert len(result.manifest) == 2


def forward_or_none(input_dir, output_dir):
    return {"a.txt": input_dir / "a.txt", "b.txt": None}


def test_skip_needs_declared_outputs():
    with pytest.raises(InvalidDatasetError, match=r"annotate fn with a TypedDict or give outputs=\[...\]"):
        Pipeline(forward, write_options={"into_path": OUT, "if_exists": "skip"})


@pytest.mark.parametrize("value", ["replace", None, True, ["skip"]])
def test_another_word_is_refused_with_the_three_that_are_known(value):
    with pytest.raises(InvalidDatasetError, match=r"if_exists=.*: give 'overwrite', 'error' or 'skip'"):
        Pipeline(upper, write_options={"into_path": OUT, "if_exists": value})


def test_a_pickled_pipeline_knows_what_it_skips(faults, fault_options, two):
    """What an annotation names does not come along with a function of a script or notebook."""
    text = "def fn(input_dir, output_dir) -> 'Upper': raise AssertionError"
    exec(text, main := {"__name__": "__main__", "Upper": Upper})  # noqa: S102
    for number in (1, 2):
        faults.put(f"{OUT}/{number}/upper.txt", b"before")
    write = {"into_path": OUT, "if_exists": "skip"}
    pickled = pickle.dumps(Pipeline(main["fn"], write_options=write, options=fault_options, progress=False))
    assert pickle.loads(pickled).run(two).manifest["id"].tolist() == [1, 2]


# HEADs that fail


@pytest.mark.parametrize("if_exists", ["error", "skip"])
def test_a_target_that_cannot_be_looked_at_costs_the_row(faults, run, if_exists):
    faults.fail("HeadObject", INTERNAL_ERROR, key="out/1/upper.txt", times=None)
    result = run(if_exists)
    failed = failure_of(result)
    assert (failed.id, failed.error_stage, failed.error_file) == (1, "upload", "upper.txt")
    assert "after 3 attempts" in failed.error_message
    assert (faults.count("HeadObject", "out/1/upper.txt"), faults.count("GetObject", "in/1")) == (3, 0)


def test_a_look_that_fails_once_is_tried_again(faults, run):
    faults.fail("HeadObject", INTERNAL_ERROR)
    assert len(run("error").manifest) == 2


@pytest.mark.parametrize("if_exists", ["error", "skip"])
def test_a_store_that_answers_403_for_what_is_not_there_is_explained(faults, run, if_exists):
    faults.fail("HeadObject", ACCESS_DENIED, key="out/2/upper.txt", times=None)
    failed = failure_of(run(if_exists))
    assert (failed.id, failed.error_stage, failed.error_code) == (2, "upload", "AccessDenied")
    assert "s3:ListBucket" in failed.error_message


def test_a_store_that_lets_no_output_be_looked_at_stops_the_run(faults, run):
    faults.fail("HeadObject", ACCESS_DENIED, times=None)
    with pytest.raises(RunStoppedError, match=r"refused every output of the first row.*s3:ListBucket"):
        run("error")
    assert faults.count("GetObject") == 0


def test_a_target_that_takes_nothing_stops_the_run_at_the_first_row_that_is_not_skipped(faults, run):
    faults.put(f"{OUT}/1/upper.txt", b"before")
    faults.fail("PutObject", ACCESS_DENIED, times=None)
    with pytest.raises(RunStoppedError, match="refused every output of the first row") as caught:
        run("skip")
    assert caught.value.result.manifest["id"].tolist() == [1]


# where outputs and inputs are on disk


@pytest.fixture
def local(tmp_path, fault_options):
    (tmp_path / "a.txt").write_text("text")
    frame = pd.DataFrame({"id": [1], "a.txt": [str(tmp_path / "a.txt")]})

    def run(if_exists, fn, **kwargs):
        write = {"into_path": tmp_path / "out", "if_exists": if_exists}
        return Pipeline(fn, write_options=write, progress=False, **kwargs).run(frame)

    run.out = tmp_path / "out" / "1"
    return run


def test_a_local_file_that_is_not_there_is_stored(local):
    assert len(local("error", two_outputs).manifest) == 1
    assert names(local.out) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("outputs", [None, ["a.txt", "b.txt"]], ids=["not declared", "declared"])
def test_a_local_file_that_is_there_stays_and_nothing_of_its_row_is_stored(local, outputs):
    local.out.mkdir(parents=True)
    (local.out / "b.txt").write_text("before")
    failed = failure_of(local("error", two_outputs, outputs=outputs))
    assert (failed.error_stage, failed.error_type, failed.error_code) == ("upload", "FileExistsError", None)
    assert failed.error_file == "b.txt"
    assert names(local.out) == ["b.txt"]
    assert (local.out / "b.txt").read_text() == "before"


def test_declared_local_outputs_are_looked_for_before_fn(local):
    local.out.mkdir(parents=True)
    (local.out / "a.txt").write_text("before")
    assert failure_of(local("error", never, outputs=["a.txt"])).error_type == "FileExistsError"


def comes_late(local, monkeypatch, name):
    """Another process names a file while the row's last one is named."""
    link = os.link

    def linked(path, target):
        if target.endswith(name):
            (local.out / name).write_text("theirs")
        link(path, target)

    monkeypatch.setattr(os, "link", linked)


def test_a_local_file_that_comes_late_stays_and_the_row_takes_back_what_it_named(local, monkeypatch):
    comes_late(local, monkeypatch, "b.txt")
    assert failure_of(local("error", two_outputs)).error_type == "FileExistsError"
    assert names(local.out) == ["b.txt"]
    assert (local.out / "b.txt").read_text() == "theirs"


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_links_works_too(local, monkeypatch, code):
    def refuse(path, target):
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "link", refuse)
    assert len(local("error", two_outputs).manifest) == 1
    assert names(local.out) == ["a.txt", "b.txt"]


def test_a_file_system_without_links_leaves_a_file_that_comes_late(local, monkeypatch):
    def refuse(path, target):
        if target.endswith("b.txt"):
            (local.out / "b.txt").write_text("theirs")
        raise OSError(errno.EPERM, "no links", path)

    monkeypatch.setattr(os, "link", refuse)
    assert failure_of(local("error", two_outputs)).error_type == "FileExistsError"
    assert names(local.out) == ["b.txt"]
    assert (local.out / "b.txt").read_text() == "theirs"


def test_a_local_row_whose_outputs_are_there_is_skipped(local):
    local("skip", two_outputs, outputs=["a.txt", "b.txt"])
    again = local("skip", never, outputs=["a.txt", "b.txt"])
    assert again.manifest["b.txt"].tolist() == [str(local.out / "b.txt")]
    assert again.files["size_bytes"].tolist() == [4, 4]


# how a run goes


def test_rows_are_looked_for_while_fn_works(paced, six, on):
    """The next rows' downloads begin while fn has the first: the calling thread is not needed for them."""
    seen = []

    def slow(input_dir, output_dir):
        seen.append(until(lambda: paced.count("GetObject") >= 3))
        return forward(input_dir, output_dir)

    pipeline = on(slow, outputs=["a.txt"], prefetch=2, write={"if_exists": "error"})
    assert len(pipeline.run(six.iloc[:3]).manifest) == 3
    assert seen[0]


@pytest.mark.parametrize("kwargs", [{}, {"prefetch": 0}, {"workers": 2}], ids=["here", "one by one", "workers"])
@pytest.mark.parametrize("if_exists", ["error", "skip"])
def test_it_goes_with_every_way_to_run(faults, run, if_exists, kwargs):
    faults.put(f"{OUT}/1/a.txt", b"before")
    result = run(if_exists, forward, outputs=["a.txt"], **kwargs)
    assert result.manifest["id"].tolist() == ([2] if if_exists == "error" else [1, 2])
    assert faults.body(f"{OUT}/1/a.txt") == b"before"
    assert faults.body(f"{OUT}/2/a.txt") == b"row 2"


def test_more_rows_are_looked_for_at_once_while_all_are_skipped(paced, on):
    """At first three rows are ahead; a run that only skips would take a round trip for each three."""
    frame = pd.DataFrame({"id": range(40), "a.txt": "s3://bucket/in/1"})
    for number in range(40):
        paced.put(f"{OUT}/{number}/a.txt", b"")
    last = [paced.hold("HeadObject", f"out/{number}/a.txt") for number in range(30, 40)]
    pipeline = on(forward, outputs=["a.txt"], write={"if_exists": "skip"})
    opened = threading.Thread(
        target=lambda: (until(lambda: paced.in_flight == 10), [gate.set() for gate in last]), daemon=True
    )
    opened.start()
    assert len(pipeline.run(frame).manifest) == 40
    assert not paced.overdue
    assert paced.max_in_flight >= 10


def test_a_failure_is_recorded(faults, run):
    faults.put(f"{OUT}/1/upper.txt", b"before")
    manifest = run("error", on_failure="record").manifest
    assert manifest["error_type"].fillna("").tolist() == ["FileExistsError", ""]


def test_raise_stops_at_the_first_output_that_is_there(faults, run):
    faults.put(f"{OUT}/1/upper.txt", b"before")
    with pytest.raises(RunStoppedError, match="it exists already"):
        run("error", on_failure="raise")


def test_an_interrupted_look_leaves_nothing(paced, six, on, tmp_path):
    """Rows that are looked for have no directory, and begin none when the run has stopped."""
    gate = paced.hold("HeadObject", "out/2/a.txt")

    def interrupted(input_dir, output_dir):
        until(lambda: paced.count("HeadObject", "out/2/a.txt"))
        raise KeyboardInterrupt

    pipeline = on(interrupted, outputs=["a.txt"], prefetch=1, temp_dir=tmp_path, write={"if_exists": "skip"})
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline.run(six)
    gate.set()
    assert until(lambda: paced.in_flight == 0)
    assert not names(tmp_path)
    assert paced.count("GetObject", "in/2") == 0
    assert len(caught.value.result.unprocessed_rows) == 6


def test_inputs_of_another_store_are_read_there(faults, fault_options, bucket, options):
    """HEADs go where outputs go."""
    frame = pd.DataFrame({"id": [1], "a.txt": [bucket.put("a.txt", b"text")]})
    faults.put(f"{OUT}/1/upper.txt", b"before")
    write = {"into_path": OUT, "options": fault_options, "if_exists": "error"}
    failed = failure_of(Pipeline(upper, write_options=write, options=options, progress=False).run(frame))
    assert failed.error_type == "FileExistsError"


def test_a_key_that_is_too_long_costs_the_row(run, two):
    failed = failure_of(run("error", into_path=f"{OUT}/{'x' * 1010}", frame=two.iloc[:1]))
    assert (failed.error_stage, failed.error_type) == ("upload", "InvalidDatasetError")
