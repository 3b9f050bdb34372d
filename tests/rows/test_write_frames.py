"""`write_files(frame)`: a frame of local files becomes its manifest, or nothing is dropped."""

from __future__ import annotations

import threading

import pandas as pd
import pytest
from helpers import forward, impatient_options, until
from servers.faults import ACCESS_DENIED, Status
from servers.paced import PacedServer

from file_dataset import InvalidDatasetError, Pipeline, RowError, reader, write_files


@pytest.fixture
def frame(tmp_path):
    """Three rows, one of which has one file only."""
    for name in ("1.a", "2.a", "3.a", "1.b", "3.b"):
        (tmp_path / name).write_text(name)
    return pd.DataFrame(
        {
            "label": pd.array([7, None, 9], "Int64"),
            "a.txt": [tmp_path / "1.a", str(tmp_path / "2.a"), tmp_path / "3.a"],
            "id": [3, 1, 2],
            "sub/b.txt": [tmp_path / "1.b", None, tmp_path / "3.b"],
        },
        index=[10, 20, 30],
    )


def nothing_requested(faults):
    return dict(faults.requests) == {}


def test_a_frame_becomes_its_manifest(bucket, options, frame):
    manifest = write_files(frame, into_path=bucket.url("out/"), options=options)
    url = bucket.url("out")
    expected = pd.DataFrame(
        {
            "a.txt": pd.array([f"{url}/3/a.txt", f"{url}/1/a.txt", f"{url}/2/a.txt"], "string"),
            "sub/b.txt": pd.array([f"{url}/3/sub/b.txt", None, f"{url}/2/sub/b.txt"], "string"),
            "id": [3, 1, 2],
            "label": pd.array([7, None, 9], "Int64"),
        }
    )
    pd.testing.assert_frame_equal(manifest, expected)
    assert bucket.keys() == ["out/1/a.txt", "out/2/a.txt", "out/2/sub/b.txt", "out/3/a.txt", "out/3/sub/b.txt"]
    assert bucket.get("out/3/a.txt") == b"1.a"


def test_the_manifest_feeds_a_pipeline(bucket, options, frame):
    manifest = write_files(frame[["id", "a.txt"]], into_path=bucket.url("raw"), options=options)
    result = Pipeline(forward, into_path=bucket.url("out"), options=options, progress=False).run(manifest)
    assert result.manifest["id"].tolist() == [3, 1, 2]


def test_a_local_manifest_has_absolute_paths(tmp_path, frame, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = write_files(frame, into_path="out")
    assert manifest["a.txt"].tolist() == [str(tmp_path / "out" / str(number) / "a.txt") for number in (3, 1, 2)]
    assert (tmp_path / "out/3/sub/b.txt").read_text() == "1.b"


def test_the_frame_stays_as_it_is(tmp_path, frame):
    before = frame.copy()
    write_files(frame, into_path=tmp_path / "out")
    pd.testing.assert_frame_equal(frame, before)


def test_a_frame_without_rows_is_its_manifest(tmp_path, frame):
    manifest = write_files(frame.iloc[:0], into_path=tmp_path / "out")
    assert manifest.columns.tolist() == ["a.txt", "sub/b.txt", "id", "label"]
    assert manifest.dtypes["label"] == "Int64"


def test_columns_are_named_where_they_do_not_show_it(tmp_path, frame):
    frame = frame.rename(columns={"a.txt": "scan"}).astype({"scan": str}).drop(columns="sub/b.txt")
    with pytest.raises(InvalidDatasetError, match=r"file_columns=\[\.\.\.\]"):
        write_files(frame, into_path=tmp_path / "out")
    assert write_files(frame, into_path=tmp_path / "out", file_columns=["scan"])["id"].tolist() == [3, 1, 2]


def test_missing_sources_are_all_named_before_the_first_byte(faults, fault_options, frame, tmp_path):
    (tmp_path / "empty").mkdir()
    frame["a.txt"] = [tmp_path / "none", tmp_path / "empty", "s3://bucket/x"]
    with pytest.raises(InvalidDatasetError, match=r"3 failures:(.|\n)*Nothing was written") as caught:
        write_files(frame, into_path="s3://bucket/out", options=fault_options)
    failures = caught.value.__cause__.failures
    assert [(failure.id, failure.file, failure.url) for failure in failures] == [
        (3, "a.txt", str(tmp_path / "none")),
        (1, "a.txt", str(tmp_path / "empty")),
        (2, "a.txt", "s3://bucket/x"),
    ]
    assert [text in str(caught.value) for text in ("is no file", "holds no file", "into_temp_dir")] == [True] * 3
    assert nothing_requested(faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="id"), "no column 'id'"),
        (lambda frame: frame.assign(id=[1, 1, 2]), "duplicate ids"),
        (lambda frame: frame.assign(id=["..", "1", "2"]), r"segment '\.\.'"),
        (lambda frame: frame.assign(**{name: ["x", None, None] for name in RECORDED}), "recorded failure"),
        (lambda frame: frame.to_dict("list")["a.txt"], "a mapping of file name to local path, or a frame"),
    ],
    ids=["no id", "duplicate", "unsafe", "recorded", "a list"],
)
def test_what_is_refused_is_refused_before_the_first_request(faults, fault_options, frame, change, message):
    with pytest.raises(InvalidDatasetError, match=message):
        write_files(change(frame), into_path="s3://bucket/out", options=fault_options)
    assert nothing_requested(faults)


RECORDED = ("error_stage", "error_file", "error_url", "error_type", "error_code", "error_message")


def test_a_row_has_an_id_and_a_frame_has_its_own(tmp_path, frame):
    with pytest.raises(InvalidDatasetError, match="in the column 'id'"):
        write_files(frame, into_path=tmp_path / "out", id=1)
    with pytest.raises(InvalidDatasetError, match="id None is null"):
        write_files({"a.txt": tmp_path / "1.a"}, into_path=tmp_path / "out")
    with pytest.raises(InvalidDatasetError, match="file_columns are of a frame"):
        write_files({"a.txt": tmp_path / "1.a"}, into_path=tmp_path / "out", id=1, file_columns=["a.txt"])


def test_a_key_that_is_too_long_is_refused_before_the_first_request(faults, fault_options, frame):
    long = frame.astype({"id": str}).assign(id=["1", "2", "x" * 200])
    with pytest.raises(InvalidDatasetError, match="1024 bytes"):
        write_files(long, into_path="s3://bucket/" + "y" * 900, options=fault_options)
    assert nothing_requested(faults)


def test_one_put_a_file(faults, fault_options, frame):
    faults.put("s3://bucket/other", b"")
    write_files(frame, into_path="s3://bucket/out", options=fault_options)
    assert sorted(faults.requests.items()) == [
        (("PutObject", f"out/{name}"), 1) for name in ("1/a.txt", "2/a.txt", "2/sub/b.txt", "3/a.txt", "3/sub/b.txt")
    ]


def test_extra_args_are_boto3s(bucket, options, frame):
    write_files(frame, into_path=bucket.url("out"), options=options, extra_args={"ContentType": "text/x-test"})
    assert bucket.client.head_object(Bucket=bucket.name, Key="out/1/a.txt")["ContentType"] == "text/x-test"


def test_every_file_that_failed_is_named_and_what_is_stored_is_said(faults, fault_options, frame):
    faults.put("s3://bucket/other", b"")
    faults.fail("PutObject", ACCESS_DENIED, key="out/3/a.txt")
    faults.fail("PutObject", ACCESS_DENIED, key="out/1/a.txt")
    with pytest.raises(RowError) as caught:
        write_files(frame, into_path="s3://bucket/out", options=fault_options)
    failures = caught.value.failures
    assert [(failure.id, failure.file, failure.code) for failure in failures] == [
        (3, "a.txt", "AccessDenied"),
        (1, "a.txt", "AccessDenied"),
    ]
    assert "stored before that, and listed nowhere: s3://bucket/out/3/sub/b.txt" in failures[0].message
    assert str(caught.value).endswith("1 of 3 rows are stored, below s3://bucket/out.")
    assert {"out/2/a.txt", "out/2/sub/b.txt", "out/3/sub/b.txt"} <= set(faults.keys("bucket"))


def test_refused_credentials_end_it_soon(faults, frame, tmp_path):
    faults.put("s3://bucket/other", b"")
    faults.fail("PutObject", Status(403, "InvalidAccessKeyId"), times=None)
    count = 100
    many = pd.DataFrame({"id": range(count), "a.txt": [tmp_path / "1.a"] * count})
    options = impatient_options(faults.endpoint_url, max_concurrency=1)  # 4 files ahead
    with pytest.raises(RowError, match="0 of 100 rows are stored") as caught:
        write_files(many, into_path="s3://bucket/out", options=options)
    assert caught.value.failures[0].code == "InvalidAccessKeyId"
    assert len(caught.value.failures) <= 5


def test_local_targets_of_a_row_are_all_replaced_or_none(tmp_path, frame):
    out = tmp_path / "out"
    write_files(frame, into_path=out)
    (out / "3/a.txt").write_text("earlier")
    (out / "3/sub/b.txt").unlink()
    (out / "3/sub/b.txt").mkdir()  # nothing can replace it
    (out / "1/a.txt").write_text("earlier")
    with pytest.raises(RowError, match="2 of 3 rows are stored") as caught:
        write_files(frame, into_path=out)
    assert [(failure.id, failure.file) for failure in caught.value.failures] == [(3, "sub/b.txt")]
    assert (out / "3/a.txt").read_text() == "earlier"
    assert (out / "1/a.txt").read_text() == "2.a"


def test_a_file_that_another_row_needs_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    first = pd.DataFrame({"id": ["1", "2"], "a.txt": [tmp_path / "x", tmp_path / "y"]})
    (tmp_path / "x").write_text("x")
    (tmp_path / "y").write_text("y")
    stored = write_files(first, into_path=out)
    with pytest.raises(InvalidDatasetError, match="would be replaced before they are read"):
        write_files(stored.assign(id=["2", "1"]), into_path=out)
    assert (out / "1/a.txt").read_text() == "x"
    assert write_files(stored, into_path=out)["a.txt"].tolist() == stored["a.txt"].tolist()  # each onto itself


def test_many_rows_are_on_their_way_at_once(tmp_path):
    (tmp_path / "a").write_text("a")
    frame = pd.DataFrame({"id": range(8), "a.txt": [tmp_path / "a"] * 8})
    with PacedServer() as server:
        server.put("s3://bucket/other", b"")
        gate = server.hold("PutObject")
        options = impatient_options(server.endpoint_url, patience_s=90)
        writing = threading.Thread(
            target=write_files, args=(frame,), kwargs={"into_path": "s3://bucket/out", "options": options}
        )
        writing.start()
        assert until(lambda: server.count("PutObject") == 8)
        gate.set()
        writing.join()
        assert len(server.keys("bucket")) == 9


def test_what_is_stored_reads_as_it_was(bucket, options, frame):
    manifest = write_files(frame, into_path=bucket.url("out"), options=options)
    table = reader(manifest, options=options).into_blob_table()
    assert table["a.txt"].to_pylist() == [b"1.a", b"2.a", b"3.a"]
    assert table["sub/b.txt"].to_pylist() == [b"1.b", None, b"3.b"]


def test_a_call_that_is_interrupted_leaves_no_part_of_a_file(tmp_path, frame, monkeypatch):
    """As Ctrl-C does while the first row is waited for."""
    monkeypatch.setattr("file_dataset._storing.Storing.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_files(frame, into_path=tmp_path / "out")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_an_interrupted_upload_begins_nothing_more(frame, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    many = pd.DataFrame({"id": range(50), "a.txt": [tmp_path / "a"] * 50})
    monkeypatch.setattr("file_dataset._storing.Storing.wait", interrupt)
    monkeypatch.setattr("file_dataset._storing._GRACE_S", 0)
    with PacedServer() as server:
        server.put("s3://bucket/other", b"")
        gate = server.hold("PutObject")
        options = impatient_options(server.endpoint_url, patience_s=90, max_concurrency=2)  # 8 files ahead
        with pytest.raises(KeyboardInterrupt):
            write_files(many, into_path="s3://bucket/out", options=options)
        gate.set()
        assert server.count("PutObject") <= 2


def interrupt(self):
    raise KeyboardInterrupt
