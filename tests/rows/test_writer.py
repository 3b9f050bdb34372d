"""`write_files(...)`: local files under an id, in S3 or on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from file_dataset import InvalidDatasetError, RowError, write_files


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.txt"
    path.write_bytes(b"bytes")
    return path


@pytest.mark.parametrize("slash", ["", "/"], ids=["no slash", "trailing slash"])
def test_files_lie_below_the_id(bucket, options, source, slash):
    stored = write_files(
        {"a.txt": source, "sub/b.txt": source}, into_path=bucket.url("out") + slash, id=7, options=options
    )
    assert stored == {"a.txt": bucket.url("out/7/a.txt"), "sub/b.txt": bucket.url("out/7/sub/b.txt")}
    assert bucket.keys() == ["out/7/a.txt", "out/7/sub/b.txt"]


def test_the_root_of_a_bucket_is_a_place(bucket, options, source):
    assert write_files({"a.txt": source}, into_path=bucket.url(""), id="x", options=options) == {
        "a.txt": bucket.url("x/a.txt")
    }


def test_a_local_into_path_copies_and_returns_the_path_as_given(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = write_files({"a.txt": source}, into_path="./out/", id="1")
    assert stored == {"a.txt": Path("./out/1/a.txt")}
    assert (tmp_path / "out/1/a.txt").read_bytes() == b"bytes"
    assert source.exists()


def test_none_stays_none_and_writes_nothing(bucket, options, source):
    stored = write_files({"a.txt": source, "b.txt": None}, into_path=bucket.url("out"), id="1", options=options)
    assert stored == {"a.txt": bucket.url("out/1/a.txt"), "b.txt": None}
    assert bucket.keys() == ["out/1/a.txt"]


@pytest.mark.parametrize(
    ("name", "row_id", "message"),
    [
        ("../x.txt", "1", "segment '..'"), ("/x.txt", "1", "absolute"), ("a//b", "1", "empty"), ("", "1", "empty"),
        ("x.txt", "../1", "slash"), ("x.txt", "", "empty"), ("x.txt", True, "bool"), ("x.txt", 1.0, "float"),
        ("x.txt", None, "null"), ("x.txt", "..", "segment '..'"), ("x.txt", "a\nb", "control"),
    ],
)  # fmt: skip
def test_unsafe_names_and_ids_are_refused_before_the_first_request(
    faults, fault_options, source, name, row_id, message
):
    with pytest.raises(InvalidDatasetError, match=message):
        write_files({name: source}, into_path="s3://bucket/out", id=row_id, options=fault_options)
    assert not faults.requests


@pytest.mark.parametrize("kind", ["missing", "empty directory", "number"])
def test_every_source_is_checked_before_the_first_byte(faults, fault_options, source, tmp_path, kind):
    (tmp_path / "empty").mkdir()
    bad = {"missing": tmp_path / "none", "empty directory": tmp_path / "empty", "number": 5}[kind]
    with pytest.raises(InvalidDatasetError, match=r"b\.txt"):
        write_files({"a.txt": source, "b.txt": bad}, into_path="s3://bucket/out", id="1", options=fault_options)
    assert not faults.requests


@pytest.mark.parametrize("into_path", ["gs://bucket/out", "s3:/bucket", "", "file:///tmp/x", 5, None])
def test_other_places_are_refused(source, into_path):
    with pytest.raises(InvalidDatasetError):
        write_files({"a.txt": source}, into_path=into_path, id="1")


def test_a_key_longer_than_s3_allows_is_refused(source, fault_options):
    with pytest.raises(InvalidDatasetError, match="1024 bytes"):
        write_files({"a.txt": source}, into_path="s3://bucket/" + "x" * 1020, id="1", options=fault_options)


def test_a_name_longer_than_a_file_systems_is_stored_in_s3_and_refused_on_disk(bucket, options, source, tmp_path):
    name = "數" * 200  # 600 bytes
    assert write_files({name: source}, into_path=bucket.url("out"), id="1", options=options)
    assert bucket.keys() == [f"out/1/{name}"]
    with pytest.raises(InvalidDatasetError, match="over the 255 of a file system"):
        write_files({name: source}, into_path=tmp_path / "out", id="1")
    assert not (tmp_path / "out").exists()


def test_extra_args_are_boto3s(bucket, options, source):
    extra = {"ContentType": "text/x-test"}
    write_files({"a.txt": source}, into_path=bucket.url("out"), id="1", options=options, extra_args=extra)
    assert bucket.client.head_object(Bucket=bucket.name, Key="out/1/a.txt")["ContentType"] == "text/x-test"


def test_unknown_extra_args_are_refused_before_the_first_request(faults, fault_options, source):
    with pytest.raises(InvalidDatasetError, match="Contenttype"):
        write_files(
            {"a.txt": source},
            into_path="s3://bucket/out",
            id="1",
            options=fault_options,
            extra_args={"Contenttype": "x"},
        )
    assert not faults.requests


def test_a_local_file_is_replaced_whole_or_not_at_all(tmp_path, source, monkeypatch):
    (tmp_path / "out/1").mkdir(parents=True)
    (tmp_path / "out/1/a.txt").write_bytes(b"earlier")
    monkeypatch.setattr("file_dataset._sink.Sink.finish", _no_space)
    with pytest.raises(RowError):
        write_files({"a.txt": source}, into_path=tmp_path / "out", id="1")
    assert [path.name for path in (tmp_path / "out/1").iterdir()] == ["a.txt"]
    assert (tmp_path / "out/1/a.txt").read_bytes() == b"earlier"


def _no_space(self):
    raise OSError(28, "no space left on device")


def test_a_place_that_cannot_be_written_says_so(tmp_path, source):
    (tmp_path / "out").write_text("a file where a directory should be")
    with pytest.raises(RowError, match=r"a\.txt"):
        write_files({"a.txt": source}, into_path=tmp_path / "out", id="1")


def test_uploads_cost_one_put_each(faults, fault_options, source):
    faults.put("s3://bucket/other", b"")
    write_files({"a.txt": source, "b.txt": source}, into_path="s3://bucket/out", id="1", options=fault_options)
    assert dict(faults.requests) == {("PutObject", "out/1/a.txt"): 1, ("PutObject", "out/1/b.txt"): 1}
