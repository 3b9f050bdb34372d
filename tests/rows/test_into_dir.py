"""`reader(...).into_dir(path)`: files stay, and what is whole there is not read again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from helpers import forward, impatient_options, until
from servers.faults import Reset, Status
from servers.paced import PacedServer

from file_dataset import InvalidDatasetError, Pipeline, RowError, reader


@pytest.fixture
def frame(faults):
    """Three rows on the fault server, one of them with two files."""
    for number in (1, 2, 3):
        faults.put(f"s3://bucket/in/{number}", f"row {number}".encode())
    faults.put("s3://bucket/in/b", b"bb")
    return pd.DataFrame(
        {
            "a.txt": [f"s3://bucket/in/{number}" for number in (1, 2, 3)],
            "label": ["x", "y", "z"],
            "id": [3, 1, 2],
            "sub/b.txt": ["s3://bucket/in/b", None, None],
        },
        index=[10, 20, 30],
    )


def below(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


WHOLE = {"3/a.txt": b"row 1", "1/a.txt": b"row 2", "2/a.txt": b"row 3", "3/sub/b.txt": b"bb"}


def test_a_frame_lies_at_id_and_file_name_and_comes_back_with_paths(frame, fault_options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = reader(frame, options=fault_options).into_dir("scans")
    assert below(tmp_path) == {f"scans/{name}": body for name, body in WHOLE.items()}
    expected = frame.assign(
        **{
            "a.txt": pd.Series([f"{tmp_path}/scans/{number}/a.txt" for number in (3, 1, 2)], frame.index, "string"),
            "sub/b.txt": pd.Series([f"{tmp_path}/scans/3/sub/b.txt", None, None], frame.index, "string"),
        }
    )
    pd.testing.assert_frame_equal(local, expected)


def test_a_row_comes_back_as_a_dict_of_paths(bucket, options, tmp_path):
    row = {"a.txt": bucket.put("a", b"hi"), "sub/b.txt": bucket.put("b", b"there"), "c.txt": None}
    local = reader(row, options=options).into_dir(tmp_path / "out")
    assert local == {"a.txt": tmp_path / "out/a.txt", "sub/b.txt": tmp_path / "out/sub/b.txt", "c.txt": None}
    assert below(tmp_path / "out") == {"a.txt": b"hi", "sub/b.txt": b"there"}


def test_the_frame_that_comes_back_feeds_a_pipeline(bucket, options, tmp_path):
    frame = pd.DataFrame({"id": ["x"], "a.txt": [bucket.put("a", b"hi")]})
    local = reader(frame, options=options).into_dir(tmp_path / "in")
    manifest = Pipeline(forward, into_path=bucket.url("out"), options=options, progress=False)(local)
    assert manifest["a.txt"].tolist() == [bucket.url("out/x/a.txt")]


def test_a_row_without_any_file_has_its_directory(tmp_path, bucket, options):
    frame = pd.DataFrame({"id": ["x", "y"], "a.txt": [None, bucket.put("a", b"hi")]})
    reader(frame, options=options).into_dir(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x", "y"]


def test_one_get_a_file_and_no_head_where_nothing_is_there(frame, faults, fault_options, tmp_path):
    reader(frame, options=fault_options).into_dir(tmp_path)
    assert (faults.count("GetObject"), sum(faults.requests.values())) == (4, 4)


def test_what_is_whole_is_looked_at_and_not_read(frame, faults, fault_options, tmp_path):
    reader(frame, options=fault_options).into_dir(tmp_path)
    inodes = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    faults.requests.clear()
    reader(frame, options=fault_options).into_dir(tmp_path)
    assert (faults.count("HeadObject"), sum(faults.requests.values())) == (4, 4)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == inodes


# how an object is stored, and whether that shows if a file is whole
KINDS = {
    "an MD5": ({}, True),
    "a checksum": ({"checksum": "CRC64NVME", "etag": "multipart"}, True),
    "a checksum beside an ETag of KMS": ({"checksum": "CRC32C", "etag": "kms"}, True),
    "a composite checksum": ({"checksum": "CRC32", "etag": "multipart"}, False),
    "an ETag of parts alone": ({"etag": "multipart"}, False),
    "an ETag of KMS alone": ({"etag": "kms"}, False),
}


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@pytest.mark.parametrize(("stored", "is_shown"), KINDS.values(), ids=KINDS)
def test_a_file_is_read_again_unless_size_and_digest_agree(faults, fault_options, tmp_path, stored, is_shown):
    bodies = {"same": b"row 1", "other bytes": b"row x", "longer": b"row 1 and more", "empty": b""}
    row = {}
    for name, body in bodies.items():
        faults.put(f"s3://bucket/{name}", b"" if name == "empty" else b"row 1", **stored)
        (tmp_path / name).write_bytes(body)
        row[name] = f"s3://bucket/{name}"
    faults.put("s3://bucket/new", b"row 1", **stored)
    reader({**row, "new": "s3://bucket/new"}, options=fault_options).into_dir(tmp_path)
    assert below(tmp_path) == dict.fromkeys([*bodies, "new"], b"row 1") | {"empty": b""}
    gets = {name: faults.count("GetObject", name) for name in [*bodies, "new"]}
    again = 0 if is_shown else 1
    assert gets == {"same": again, "other bytes": 1, "longer": 1, "empty": again, "new": 1}
    assert {name: faults.count("HeadObject", name) for name in gets} == dict.fromkeys(bodies, 1) | {"new": 0}


def test_other_files_are_left(frame, fault_options, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3/notes.txt").write_text("mine")
    (tmp_path / "other").write_text("mine too")
    reader(frame, options=fault_options).into_dir(tmp_path)
    assert below(tmp_path) == WHOLE | {"3/notes.txt": b"mine", "other": b"mine too"}


def test_a_file_that_differs_is_replaced_when_the_new_one_is_whole(frame, faults, fault_options, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3/a.txt").write_bytes(b"earlier")
    faults.fail("GetObject", Reset(after_bytes=1), key="in/1", times=None)
    with pytest.raises(RowError):
        reader(frame, options=fault_options).into_dir(tmp_path)
    assert below(tmp_path) == WHOLE | {"3/a.txt": b"earlier"}
    faults.reset()
    reader(frame, options=fault_options).into_dir(tmp_path)
    assert below(tmp_path) == WHOLE


def test_every_file_that_failed_is_named_and_the_others_are_there(frame, faults, fault_options, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3/a.txt").write_bytes(b"earlier")
    frame.loc[10, "a.txt"] = "s3://bucket/missing"  # where a file is there
    frame.loc[20, "a.txt"] = "s3://bucket/gone"
    with pytest.raises(RowError) as caught:
        reader(frame, options=fault_options).into_dir(tmp_path)
    assert [(failure.id, failure.stage, failure.file, failure.url) for failure in caught.value.failures] == [
        (3, "download", "a.txt", "s3://bucket/missing"),
        (1, "download", "a.txt", "s3://bucket/gone"),
    ]
    assert below(tmp_path) == {"3/a.txt": b"earlier", "2/a.txt": b"row 3", "3/sub/b.txt": b"bb"}


def test_refused_credentials_end_it_before_anything_is_read(frame, faults, fault_options, tmp_path):
    reader(frame, options=fault_options).into_dir(tmp_path)
    (tmp_path / "3/a.txt").unlink()
    faults.fail("*", Status(403, "InvalidAccessKeyId"), times=None)
    faults.requests.clear()
    with pytest.raises(RowError):
        reader(frame, options=fault_options).into_dir(tmp_path)
    assert faults.count("GetObject", "in/1") <= 1  # boto3 asks for the reason that a HEAD has not


def test_local_files_are_copied_and_one_that_lies_there_is_left(tmp_path):
    (tmp_path / "a.txt").write_text("hi")
    frame = pd.DataFrame({"id": [1], "a.txt": [tmp_path / "a.txt"]})
    local = reader(frame).into_dir(tmp_path / "out")
    inode = (tmp_path / "out/1/a.txt").stat().st_ino
    assert reader(local).into_dir(tmp_path / "out")["a.txt"].tolist() == [str(tmp_path / "out/1/a.txt")]
    assert (tmp_path / "out/1/a.txt").stat().st_ino == inode
    assert (tmp_path / "a.txt").read_text() == "hi"


def test_a_file_that_another_row_needs_is_not_replaced(tmp_path):
    for name in "xy":
        (tmp_path / name).write_text(name)
    local = reader(pd.DataFrame({"id": ["1", "2"], "a": [tmp_path / "x", tmp_path / "y"]})).into_dir(tmp_path / "out")
    with pytest.raises(InvalidDatasetError, match="would be replaced before they are read"):
        reader(local.assign(id=["2", "1"]), file_columns=["a"]).into_dir(tmp_path / "out")
    assert below(tmp_path / "out") == {"1/a": b"x", "2/a": b"y"}


@pytest.mark.parametrize("path", ["s3://bucket/out", "~/out", "", 5, None])
def test_other_places_are_refused(frame, faults, fault_options, path):
    with pytest.raises(InvalidDatasetError):
        reader(frame, options=fault_options).into_dir(path)
    assert not faults.requests


def test_what_lies_in_the_way_is_refused_before_the_first_request(frame, faults, fault_options, tmp_path):
    (tmp_path / "1").write_text("a file where a directory is to be")
    with pytest.raises(InvalidDatasetError, match="cannot be made"):
        reader(frame, options=fault_options).into_dir(tmp_path)
    (tmp_path / "1").unlink()
    (tmp_path / "1/a.txt").mkdir(parents=True)
    with pytest.raises(InvalidDatasetError, match="is a directory, which no file can replace"):
        reader(frame, options=fault_options).into_dir(tmp_path)
    assert not faults.requests


def test_ids_have_to_be_there_and_to_differ_on_every_disk(frame, fault_options, tmp_path):
    with pytest.raises(InvalidDatasetError, match="no column 'id'"):
        reader(frame.drop(columns="id"), options=fault_options).into_dir(tmp_path)
    with pytest.raises(InvalidDatasetError, match="case or accents"):
        reader(frame.assign(id=["a", "A", "b"]), options=fault_options).into_dir(tmp_path)


SCRIPT = """
import sys
import pandas as pd
sys.path.insert(0, {tests!r})
from helpers import impatient_options
from file_dataset import reader
frame = pd.DataFrame({{"id": [1, 2, 3], "a.txt": [f"s3://bucket/in/{{number}}" for number in (1, 2, 3)]}})
reader(frame, options=impatient_options({url!r}, patience_s=90)).into_dir({path!r})
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_an_interrupted_call_leaves_whole_files_and_the_next_goes_on(tmp_path, how):
    place = tmp_path / "out"
    with PacedServer() as server:
        for number in (1, 2, 3):
            server.put(f"s3://bucket/in/{number}", f"row {number}".encode())
        gate = server.hold("GetObject", "in/3")
        script = SCRIPT.format(tests=str(Path(__file__).parents[1]), url=server.endpoint_url, path=str(place))
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        whole = {"1/a.txt": b"row 1", "2/a.txt": b"row 2"}
        assert until(lambda: server.count("GetObject", "in/3") == 1 and whole.items() <= below(place).items())
        process.send_signal(how)
        process.wait(30)
        gate.set()
        named = {name: body for name, body in below(place).items() if not name.startswith("file_dataset-")}
        assert named == whole
        frame = pd.DataFrame({"id": [1, 2, 3], "a.txt": [f"s3://bucket/in/{number}" for number in (1, 2, 3)]})
        reader(frame, options=impatient_options(server.endpoint_url)).into_dir(place)
        assert below(place) == whole | {"3/a.txt": b"row 3"}
        assert [server.count("GetObject", f"in/{number}") for number in (1, 2, 3)] == [1, 1, 2]
        assert sorted(path.name for path in place.iterdir()) == ["1", "2", "3"]


def test_another_thread_sees_no_file_before_it_is_whole(tmp_path):
    with PacedServer() as server:
        server.put("s3://bucket/in/1", b"row 1")
        gate = server.hold("GetObject")
        (tmp_path / "a.txt").write_bytes(b"earlier")
        options = impatient_options(server.endpoint_url, patience_s=90)
        reading = threading.Thread(
            target=reader({"a.txt": "s3://bucket/in/1"}, options=options).into_dir, args=[tmp_path]
        )
        reading.start()
        assert until(lambda: server.count("GetObject") == 1)
        assert (tmp_path / "a.txt").read_bytes() == b"earlier"
        gate.set()
        reading.join()
        assert (tmp_path / "a.txt").read_bytes() == b"row 1"
