"""`reader(...)`: rows and frames into temp dirs, blob tables and size tables."""

from __future__ import annotations

import inspect
import pickle
import pydoc
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from botocore.config import Config
from helpers import forward, options_for
from servers.faults import ACCESS_DENIED, SLOW_DOWN

import file_dataset
from file_dataset import InvalidDatasetError, RowError


@pytest.fixture
def frame(bucket):
    return pd.DataFrame(
        {
            "a.txt": [bucket.put("in/1", b"one"), bucket.put("in/2", b"two"), bucket.put("in/3", b"three")],
            "label": ["x", "y", "z"],
            "id": [3, 1, 2],
            "sub/b.txt": [bucket.put("in/b", b"bb"), None, None],
        }
    )


def test_a_row_lies_at_its_file_names(bucket, options):
    row = {"a.txt": bucket.put("a", b"hi"), "sub/b.txt": bucket.put("b", b"there")}
    with file_dataset.reader(row, options=options).into_temp_dir() as temp:
        assert isinstance(temp, Path)
        assert (temp / "a.txt").read_bytes() == b"hi"
        assert (temp / "sub/b.txt").read_bytes() == b"there"
    assert not temp.exists()


def test_a_frame_lies_at_id_and_file_name(frame, options):
    with file_dataset.reader(frame, options=options).into_temp_dir() as temp:
        found = {str(path.relative_to(temp)): path.read_bytes() for path in temp.rglob("*") if path.is_file()}
    assert found == {"3/a.txt": b"one", "3/sub/b.txt": b"bb", "1/a.txt": b"two", "2/a.txt": b"three"}


def test_a_row_without_any_file_still_has_its_directory(bucket, options):
    frame = pd.DataFrame({"id": ["x", "y"], "a.txt": [None, bucket.put("a", b"hi")]})
    with file_dataset.reader(frame, options=options).into_temp_dir() as temp:
        assert list((temp / "x").iterdir()) == []


def test_local_files_are_copied_not_moved(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("hi")
    with file_dataset.reader(row={"a.txt": source}).into_temp_dir() as temp:
        (temp / "a.txt").write_text("changed")
    assert source.read_text() == "hi"


def test_the_temp_dir_is_made_where_it_is_wanted(tmp_path, bucket, options):
    with file_dataset.reader({"a.txt": bucket.put("a", b"hi")}, options=options).into_temp_dir(dir=tmp_path) as temp:
        assert temp.parent == tmp_path


def test_a_home_is_not_expanded_and_makes_no_directory_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("hi")
    (tmp_path / "~").mkdir()
    frame = pd.DataFrame({"id": ["1"], "a.txt": ["a.txt"]})
    doors = [
        lambda: file_dataset.reader({"a.txt": "~/a.txt"}).into_blob_table(),
        lambda: file_dataset.reader({"a.txt": "a.txt"}).into_temp_dir(dir="~"),
        lambda: file_dataset.write_files({"a.txt": "a.txt"}, into_path="~/out", id="1"),
        lambda: file_dataset.write_files({"a.txt": "~/a.txt"}, into_path="out", id="1"),
        lambda: file_dataset.Pipeline(lambda **_: {}, write_options={"into_path": "~/out"}),
        lambda: file_dataset.Pipeline(lambda **_: {}, write_options={"into_path": "out"}, temp_dir="~").run(frame),
        lambda: file_dataset.TempDir("~"),
    ]
    for door in doors:
        with pytest.raises(InvalidDatasetError, match=r"~ is not expanded; give Path\('~.*'\)\.expanduser\(\)"):
            door()
    assert list((tmp_path / "~").iterdir()) == []


def test_a_reader_is_itself_alone_and_can_be_a_key(tmp_path):
    row = {"a.txt": tmp_path / "a.txt"}
    one, other = file_dataset.reader(row), file_dataset.reader(row)
    assert {one: 1, other: 2}[one] == 1
    assert one != other


def test_a_reader_is_made_by_reader_alone(tmp_path):
    assert not inspect.signature(file_dataset.Reader).parameters
    pickle.dumps(file_dataset.reader({"a.txt": tmp_path / "a.txt"}))  # which must leave no trace in the class
    assert not re.search("_rows|_options", pydoc.render_doc(file_dataset.Reader, renderer=pydoc.plaintext))
    with pytest.raises(TypeError, match=r"call file_dataset\.reader\(\.\.\.\)"):
        file_dataset.Reader()
    made = file_dataset.reader({"a.txt": tmp_path / "a.txt"})
    assert type(made) is file_dataset.Reader
    assert repr(made) == repr(pickle.loads(pickle.dumps(made))) == "Reader(1 rows, files ['a.txt'])"


def test_a_failed_read_leaves_no_temp_dir(tmp_path, bucket, options):
    with pytest.raises(RowError):
        file_dataset.reader({"a.txt": bucket.url("none")}, options=options).into_temp_dir(dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_into_a_temp_dir_needs_ids(frame, options):
    with pytest.raises(InvalidDatasetError, match="no column 'id'"):
        file_dataset.reader(frame.drop(columns="id"), options=options).into_temp_dir()


def test_a_frame_is_checked_once_so_that_its_ids_are_those_that_it_had(frame, options):
    reader = file_dataset.reader(frame, options=options)
    frame["id"] = ""
    with reader.into_temp_dir() as temp:
        assert {path.name for path in temp.iterdir()} == {"1", "2", "3"}


def test_ids_that_share_a_directory_on_some_disks_are_refused(frame, options):
    folded = frame.assign(id=["A", "a", "b"])
    with pytest.raises(InvalidDatasetError, match="case or accents"):
        file_dataset.reader(folded, options=options).into_temp_dir()
    assert file_dataset.reader(folded, options=options).into_blob_table().num_rows == 3


def test_blobs_come_as_binary_with_the_ids_in_the_frames_order(frame, options):
    table = file_dataset.reader(frame, options=options).into_blob_table()
    assert table.schema == pa.schema({"a.txt": pa.binary(), "id": pa.int64(), "sub/b.txt": pa.binary()})
    assert table.to_pydict() == {
        "a.txt": [b"one", b"two", b"three"], "id": [3, 1, 2], "sub/b.txt": [b"bb", None, None],
    }  # fmt: skip


def test_a_frame_without_ids_is_read_too(frame, options):
    table = file_dataset.reader(frame.drop(columns="id"), options=options).into_blob_table()
    assert table.column_names == ["a.txt", "sub/b.txt"]


def test_large_blobs_are_one_chunk_each_and_small_ones_are_joined(bucket, options):
    bodies = [b"a", b"", b"x" * (1 << 20), b"b", b"y" * (2 << 20)]
    frame = pd.DataFrame({"a.bin": [bucket.put(f"{number}", body) for number, body in enumerate(bodies)]})
    table = file_dataset.reader(frame, options=options).into_blob_table()
    assert table["a.bin"].to_pylist() == bodies
    assert [len(chunk) for chunk in table["a.bin"].chunks] == [2, 1, 1, 1]
    table.validate(full=True)


def test_large_asks_for_large_binary(frame, options):
    table = file_dataset.reader(frame, options=options).into_blob_table(large=True)
    assert table.schema.field("a.txt").type == pa.large_binary()
    table.validate(full=True)


def test_a_blob_that_binary_cannot_hold_is_an_error_that_says_so(monkeypatch, frame, options):
    monkeypatch.setattr("file_dataset._file_tables._BINARY_BYTES", 4)  # for 2 GiB - 1
    with pytest.raises(InvalidDatasetError, match="large=True"):
        file_dataset.reader(frame, options=options).into_blob_table()
    assert file_dataset.reader(frame, options=options).into_blob_table(large=True).num_rows == 3


def test_sizes_are_int64_bytes(frame, options):
    table = file_dataset.reader(frame, options=options).into_size_table()
    assert table.schema == pa.schema({"a.txt": pa.int64(), "id": pa.int64(), "sub/b.txt": pa.int64()})
    assert table.to_pydict() == {"a.txt": [3, 3, 5], "id": [3, 1, 2], "sub/b.txt": [2, None, None]}


def test_sizes_of_the_first_rows_ask_for_these_alone(faults, fault_options):
    for number in range(5):
        faults.put(f"s3://bucket/{number}", b"x" * number)
    frame = pd.DataFrame({"a.bin": [f"s3://bucket/{number}" for number in range(5)]})
    table = file_dataset.reader(frame, options=fault_options).into_size_table(limit=2)
    assert table["a.bin"].to_pylist() == [0, 1]
    assert faults.count("HeadObject") == 2


@pytest.mark.parametrize("limit", [-1, 1.5, True, "3"])
def test_a_limit_that_is_no_count_is_refused(frame, options, limit):
    with pytest.raises(InvalidDatasetError, match="limit="):
        file_dataset.reader(frame, options=options).into_size_table(limit=limit)


def test_empty_frames_give_empty_tables(options):
    frame = pd.DataFrame({"id": pd.Series(dtype="int64"), "a.txt": pd.Series(dtype=object)})
    reader = file_dataset.reader(frame, options=options)
    assert reader.into_blob_table().schema == pa.schema({"id": pa.int64(), "a.txt": pa.binary()})
    assert reader.into_size_table().schema == pa.schema({"id": pa.int64(), "a.txt": pa.int64()})
    with reader.into_temp_dir() as temp:
        assert list(temp.iterdir()) == []


def test_bad_cells_are_all_told_before_the_first_request(faults, fault_options):
    frame = pd.DataFrame({"id": [1, 2, 3], "a.txt": ["s3://bucket/a", "ftp://x/y", 5]})
    with pytest.raises(InvalidDatasetError) as caught:
        file_dataset.reader(frame, options=fault_options).into_blob_table()
    assert "row 2" in str(caught.value)
    assert "row 3" in str(caught.value)
    assert not faults.requests


@pytest.mark.parametrize(
    "arguments",
    [{}, {"data": {"a.txt": "/x"}, "row": {"a.txt": "/x"}}, {"row": {"a.txt": "/x"}, "dataframe": pd.DataFrame()}],
    ids=["none", "two", "row and frame"],
)
def test_exactly_one_row_or_frame_is_read(arguments):
    with pytest.raises(InvalidDatasetError, match="one row or one frame"):
        file_dataset.reader(**arguments)


def test_a_series_is_a_row(bucket, options):
    series = pd.Series({"id": 1, "a.txt": bucket.put("a", b"hi")})
    with file_dataset.reader(row=series, options=options).into_temp_dir() as temp:
        assert (temp / "a.txt").read_bytes() == b"hi"


def test_blobs_refuse_a_local_directory_by_name(tmp_path):
    with pytest.raises(RowError, match="DICOM"):
        file_dataset.reader({"scan.dcm": tmp_path}).into_blob_table()


def test_local_files_need_no_credentials(tmp_path):
    (tmp_path / "a.txt").write_text("hi")
    table = file_dataset.reader({"a.txt": str(tmp_path / "a.txt")}).into_blob_table()
    assert table["a.txt"].to_pylist() == [b"hi"]


def test_relative_paths_are_those_of_the_call(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("hi")
    monkeypatch.chdir(tmp_path)
    reader = file_dataset.reader({"a.txt": "a.txt"}, file_columns=["a.txt"])
    monkeypatch.chdir("/")
    assert reader.into_size_table()["a.txt"].to_pylist() == [2]


class TestInfoTable:
    """A line per file, whatever became of it. Both engines."""

    COLUMNS = ("file", "location", "size_bytes", "etag", "checksum", "error_type", "error_code", "error_message")

    @pytest.fixture(params=["auto", "boto3"])
    def engine(self, request):
        return request.param

    def test_a_line_says_size_etag_and_checksum(self, faults, fault_options):
        faults.put("s3://bucket/a", b"123456789", checksum="CRC64NVME")
        frame = pd.DataFrame({"label": ["x"], "a.bin": ["s3://bucket/a"], "id": [7]})
        table = file_dataset.reader(frame, options=fault_options).into_info_table()
        texts = dict.fromkeys(self.COLUMNS, pa.string())
        assert table.schema == pa.schema({"id": pa.int64(), **texts, "size_bytes": pa.int64()})
        assert table.to_pylist() == [
            {
                "id": 7,
                "file": "a.bin",
                "location": "s3://bucket/a",
                "size_bytes": 9,
                "etag": "25f9e794323b453885f5181f1b624d0b",  # MD5 of the body
                "checksum": "CRC64NVME:rosUhgp5mIg=",  # the published check value
                "error_type": None,
                "error_code": None,
                "error_message": None,
            }
        ]

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("CRC32C", "CRC32C:4waSgw=="), ("CRC32", "CRC32:y/Q5Jg=="), (None, None)],
        ids=["CRC32C", "CRC32", "an MD5 in the ETag alone"],
    )
    def test_checksums_are_spelled_as_in_result_files(self, faults, fault_options, kind, expected):
        faults.put("s3://bucket/a", b"123456789", checksum=kind)
        table = file_dataset.reader({"a.bin": "s3://bucket/a"}, options=fault_options).into_info_table()
        assert table["checksum"].to_pylist() == [expected]

    def test_a_checksum_of_parts_is_none_of_the_object(self, faults, fault_options):
        faults.put("s3://bucket/a", b"123456789", checksum="CRC32", etag="multipart")
        table = file_dataset.reader({"a.bin": "s3://bucket/a"}, options=fault_options).into_info_table()
        assert table["checksum"].to_pylist() == [None]
        assert table["etag"].to_pylist()[0].endswith("-2")

    def test_what_is_wrong_with_one_file_is_a_line(self, faults, fault_options, tmp_path):
        faults.put("s3://bucket/there", b"123")
        faults.put("s3://bucket/secret", b"1")
        faults.fail("HeadObject", ACCESS_DENIED, key="secret", times=None)
        frame = pd.DataFrame(
            {
                "id": ["a", "b", "c"],
                "a.bin": ["s3://bucket/none", "s3://bucket/there", "ftp://x/y"],
                "b.bin": ["s3://bucket/secret", None, tmp_path],
            }
        )
        table = file_dataset.reader(frame, options=fault_options).into_info_table()
        lines = table.select(["id", "file", "size_bytes", "error_type", "error_code"]).to_pylist()
        assert [tuple(line.values()) for line in lines] == [
            ("a", "a.bin", None, "FileNotFoundError", "404"),
            ("a", "b.bin", None, "PermissionError", "403"),
            ("b", "a.bin", 3, None, None),
            ("c", "a.bin", None, "InvalidDatasetError", None),
            ("c", "b.bin", None, "FileNotFoundError", None),  # a directory without any file
        ]
        assert table["location"].to_pylist()[3:] == ["ftp://x/y", str(tmp_path)]
        assert faults.count("HeadObject") == sum(faults.requests.values()) == 3

    @pytest.mark.parametrize(
        "settings",
        [{"config": Config(response_checksum_validation="when_required")}, {"check_digests": False}],
        ids=["when_required", "check_digests"],
    )
    def test_no_checksum_is_asked_for_where_the_options_say_so(self, faults, engine, settings):
        faults.put("s3://bucket/a", b"123456789", checksum="CRC64NVME")
        options = options_for(faults.endpoint_url, engine=engine, **settings)
        table = file_dataset.reader({"a.bin": "s3://bucket/a"}, options=options).into_info_table()
        assert (table["size_bytes"].to_pylist(), table["checksum"].to_pylist()) == ([9], [None])

    def test_throttling_is_waited_for(self, faults, fault_options):
        faults.put("s3://bucket/a", b"123")
        faults.fail("HeadObject", SLOW_DOWN, times=2)
        table = file_dataset.reader({"a.bin": "s3://bucket/a"}, options=fault_options).into_info_table()
        assert table["size_bytes"].to_pylist() == [3]

    def test_throttling_without_end_is_a_line_that_says_so(self, faults, fault_options):
        faults.put("s3://bucket/a", b"123")
        faults.fail("HeadObject", SLOW_DOWN, times=None)
        (line,) = file_dataset.reader({"a.bin": "s3://bucket/a"}, options=fault_options).into_info_table().to_pylist()
        assert (line["error_type"], line["error_code"]) == ("ConnectionError", "503")
        assert "after 3 attempts" in line["error_message"]

    def test_no_credentials_concern_every_file_and_are_an_error(self, faults, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faults.endpoint_url)
        with pytest.raises(RowError, match="AWS_ACCESS_KEY_ID"):
            file_dataset.reader({"a.bin": "s3://bucket/a"}).into_info_table()

    @pytest.mark.parametrize("row_id", ["x", 5, None])
    def test_a_row_has_the_id_that_it_was_given(self, tmp_path, row_id):
        (tmp_path / "a.txt").write_text("hi")
        row = {"id": row_id, "a.txt": tmp_path / "a.txt", "b.txt": tmp_path / "none", "c.txt": None}
        table = file_dataset.reader(row, file_columns=["a.txt", "b.txt", "c.txt"]).into_info_table()
        assert table["size_bytes"].to_pylist() == [2, None]
        assert table["file"].to_pylist() == ["a.txt", "b.txt"]
        assert ("id" in table.column_names) == (row_id is not None)
        if row_id is not None:
            assert table["id"].to_pylist() == [row_id, row_id]

    def test_a_name_that_is_no_unicode_is_shown_escaped(self, tmp_path):
        path = tmp_path / "caf\udce9"
        table = file_dataset.reader({"a.txt": path}).into_info_table()
        assert table["location"].to_pylist() == [f"{tmp_path}/caf\\udce9"]

    def test_no_rows_are_no_lines(self):
        table = file_dataset.reader(pd.DataFrame(columns=["id", "a.txt"])).into_info_table()
        assert table.num_rows == 0
        assert table.column_names == ["id", *self.COLUMNS]


TEXT_IDS = {
    "object": lambda ids: pd.Series(ids, dtype=object),
    "default": lambda ids: pd.Series(ids, dtype="str"),
    "nullable": lambda ids: pd.Series(ids, dtype="string"),
    "large": lambda ids: pd.Series(ids, dtype=pd.ArrowDtype(pa.large_string())),
    "dictionary": lambda ids: pd.Series(ids, dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))),
    "categories": lambda ids: pd.Series(ids, dtype=pd.CategoricalDtype(["1", "2"])),
}


@pytest.mark.parametrize("ids", TEXT_IDS.values(), ids=TEXT_IDS)
@pytest.mark.parametrize("verb", ["into_blob_table", "into_size_table", "into_info_table"])
def test_ids_of_text_are_strings_with_and_without_rows(tmp_path, ids, verb):
    (tmp_path / "a.txt").write_text("hi")
    frames = [pd.DataFrame({"id": ids(rows), "a.txt": [tmp_path / "a.txt"] * len(rows)}) for rows in ([], ["1", "2"])]
    tables = [getattr(file_dataset.reader(frame, file_columns=["a.txt"]), verb)() for frame in frames]
    assert {table.schema.field("id").type for table in tables} == {pa.string()}
    assert pa.concat_tables(tables)["id"].to_pylist() == ["1", "2"]


@pytest.mark.parametrize("empty", [pd.DataFrame(columns=["id", "a.txt"]), pd.DataFrame({"id": [], "a.txt": []})])
def test_ids_of_a_frame_that_never_had_rows_are_strings(empty):
    assert file_dataset.reader(empty, file_columns=["a.txt"]).into_blob_table().schema.field("id").type == pa.string()


def test_integer_ids_keep_their_width_with_and_without_rows(tmp_path):
    for rows in ([], [1]):
        frame = pd.DataFrame({"id": pd.Series(rows, dtype="int16"), "a.txt": [tmp_path / "none"] * len(rows)})
        table = file_dataset.reader(frame, file_columns=["a.txt"]).into_info_table()
        assert table.schema.field("id").type == pa.int16()


def test_a_temp_dir_goes_into_a_path(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InvalidDatasetError, match="dir=5: give the path"):
        file_dataset.reader({"a.txt": tmp_path / "a.txt"}).into_temp_dir(dir=5)


VERBS = {
    "into_temp_dir": lambda reader, _: reader.into_temp_dir(),
    "into_dir": lambda reader, path: reader.into_dir(path),
    "iter_temp_dirs": lambda reader, _: reader.iter_temp_dirs(),
    "iter_blob_tables": lambda reader, _: reader.iter_blob_tables(batch_size=1),
    "into_blob_table": lambda reader, _: reader.into_blob_table(),
    "into_size_table": lambda reader, _: reader.into_size_table(),
}


@pytest.mark.parametrize("read", VERBS.values(), ids=VERBS)
def test_rows_with_a_recorded_failure_are_refused(faults, fault_options, tmp_path, read):
    """Their cells are null: they came as rows that have no such file."""
    faults.put("s3://bucket/in", b"whole")
    inputs = pd.DataFrame({"id": [1, 2], "a.txt": ["s3://bucket/in", "s3://bucket/missing"]})
    pipeline = file_dataset.Pipeline(forward, into_path=tmp_path / "out", on_failure="record", options=fault_options)
    recorded = pipeline(inputs)
    with pytest.raises(
        InvalidDatasetError, match=r"rows \[2\] .* recorded failure and no files to read: leave them out"
    ):
        read(file_dataset.reader(recorded, options=fault_options), tmp_path / "here")
    read(file_dataset.reader(recorded[recorded["error_stage"].isna()], options=fault_options), tmp_path / "here")
