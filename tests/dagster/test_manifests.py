"""ManifestIOManager: frames come back as they went in, from where they should lie, whole or not at all."""

import unicodedata

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster_runs import causes_of
from servers.faults import Status

import file_dataset
from file_dataset.parquet import from_parquet, notes_of, to_parquet
from file_dataset_dagster import FileDatasetResource, ManifestIOManager
from file_dataset_dagster._paths import segment

NOTHING = pd.Series([None, None], dtype=object)
COLUMNS = {
    "object strings": pd.Series(["a", "b"], dtype=object),
    "object strings with None": pd.Series(["a", None], dtype=object),
    "object integers": pd.Series([1, 2], dtype=object),
    "object lists": pd.Series([[1, 2], None], dtype=object),
    "object bytes": pd.Series([b"a", None], dtype=object),
    "nothing but None": NOTHING,
    "default strings": pd.Series(["a", "b"]),
    "string": pd.Series(["a", None], dtype="string"),
    "string[python]": pd.Series(["a", None], dtype="string[python]"),
    "string[pyarrow]": pd.Series(["a", None], dtype="string[pyarrow]"),
    "Arrow string": pd.Series(["a", None], dtype=pd.ArrowDtype(pa.string())),
    "Arrow large string": pd.Series(["a", None], dtype=pd.ArrowDtype(pa.large_string())),
    "Arrow int64": pd.Series([1, None], dtype=pd.ArrowDtype(pa.int64())),
    "Arrow list": pd.Series([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
    "Arrow dictionary": pd.Series(["a", "b"], dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))),
    "Arrow decimal": pd.Series([None, None], dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
    "int64": pd.Series([1, 2]),
    "uint8": pd.Series([1, 2], dtype="uint8"),
    "Int64": pd.Series([2**62 + 1, None], dtype="Int64"),
    "float64": pd.Series([1.5, None]),
    "bool": pd.Series([True, False]),
    "boolean": pd.Series([True, None], dtype="boolean"),
    "category of strings": pd.Series(["a", None], dtype=pd.CategoricalDtype(["unused", "a"], ordered=True)),
    "category of integers": pd.Series([2, 1], dtype=pd.CategoricalDtype([2, 1, 9])),
    "datetime64[s]": pd.Series([pd.Timestamp("2024"), None]).astype("datetime64[s]"),
    "datetime64[ns, UTC]": pd.Series([pd.Timestamp("2024", tz="UTC"), None]).astype("datetime64[ns, UTC]"),
    "timedelta": pd.Series([pd.Timedelta(1), None]),
}


def key(*parts):
    return dg.AssetKey(list(parts))


def round_trip(frame):
    return from_parquet(to_parquet(frame), "somewhere")


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("rows", [2, 0], ids=["two rows", "no row"])
def test_a_column_comes_back_with_its_dtype(column, rows):
    frame = pd.DataFrame({"id": ["1", "2"], "value": column, "after": [1, 2]}).head(rows)
    pd.testing.assert_frame_equal(round_trip(frame), frame)


def test_an_index_comes_back():
    frame = pd.DataFrame({"id": ["1", "2"]}, index=pd.Index(["x", "y"], name="case", dtype=object))
    assert round_trip(frame).index.tolist() == ["x", "y"]


def test_a_manifest_is_parquet_that_pandas_reads(tmp_path):
    path = tmp_path / "manifest.parquet"
    path.write_bytes(to_parquet(pd.DataFrame({"id": [1], "value": COLUMNS["Arrow list"].head(1)})))
    assert pd.read_parquet(path)["id"].tolist() == [1]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pd.DataFrame({"mixed": [1, "x"]}), "mixed"),
        (pd.DataFrame([[1, 2]], columns=["twice", "twice"]), "twice"),
    ],
    ids=["two types", "two columns of one name"],
)
def test_a_frame_that_parquet_cannot_hold_names_the_column(frame, said):
    with pytest.raises(file_dataset.InvalidDatasetError, match=said):
        to_parquet(frame)


ODD = [
    "a", "A", "a/b", ".", "..", "a|b", "%2F", "/", "", "%", "é", "e\u0301", "a.failures", "x.parquet", " ", "a=b",
    "日本",
]  # fmt: skip


def test_odd_keys_have_segments_of_their_own():
    segments = [segment(text) for text in ODD]
    assert len(set(segments)) == len(ODD)
    assert not {"", ".", ".."} & set(segments)
    assert not [text for text in segments if "/" in text or "." in text]


@pytest.mark.parametrize("text", ["scan", "2024-01-01", "left_lung"])
def test_a_plain_key_is_its_own_segment(text):
    assert segment(text) == text


def test_no_frame_of_one_key_lies_where_a_frame_of_another_does(local):
    io_manager = ManifestIOManager(resource=local)
    places = [
        io_manager.uri(asset_key, partition, of=of)
        for asset_key in (*map(key, ODD), key("a", "b"), key("manifest.parquet"))
        for partition in (None, *ODD)
        for of in ("manifest", "failures", "files", "rejected")
    ]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("where", ["s3", "local"])
@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_an_odd_partition_is_stored_and_loaded(where, text, request):
    io_manager = ManifestIOManager(resource=request.getfixturevalue("resource" if where == "s3" else "local"))
    frame = pd.DataFrame({"id": [text or "empty"]}, dtype=object)
    at = io_manager.uri(key("asset", text), text)
    io_manager.store(frame, at)
    pd.testing.assert_frame_equal(io_manager.load(at), frame)


SCRIPTS = {
    "Latin": "é",
    "Chinese": "数",
    "Arabic": "ع",
    "Hindi with signs": "नी",
    "Japanese, decomposed": "か\u3099",
    "Korean, decomposed": "\u1100\u1161",
    "emoji": "😀",
    "percent": "%",
    "slash": "/",
}


@pytest.mark.parametrize("characters", [26, 27, 60, 255])
@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_keys_of_any_script_have_room_in_s3_and_share_no_segment(characters, text):
    keys = [(text * characters)[:characters], (text * characters)[: characters - 1] + "x"]
    normal = [unicodedata.normalize(form, key) for key in keys for form in ("NFC", "NFD")]
    segments = {key: segment(key) for key in [*keys, *normal]}
    assert len({unicodedata.normalize("NFC", found) for found in segments.values()}) == len(segments)
    assert all(len(segments[key].encode()) <= 765 for key in keys)
    assert not any("/" in found or "." in found for found in segments.values())


def test_a_segment_that_fits_keeps_its_place():
    """Manifests of earlier versions stay where they are."""
    assert segment("数" * 25) == "%E6%95%B0" * 25
    assert segment("数" * 60) == "数" * 60


@pytest.mark.parametrize("text", ["数", "😀", "नी"], ids=["Chinese", "emoji", "Hindi"])
def test_a_partition_key_of_255_characters_is_stored_and_loaded_in_s3(run, resource, text):
    long = (text * 255)[:255]
    partitions_def, seen = dg.StaticPartitionsDefinition([long, long[:-1]]), []
    frame = frame_asset(pd.DataFrame({"id": [1]}), partitions_def=partitions_def)
    assert run([frame, reader_asset(seen, partitions_def=partitions_def)], resource, partition_key=long).success
    assert len(seen) == 1


def test_a_partition_key_whose_utf8_fits_a_file_name_is_stored_on_disk(run, local):
    long, seen = "数" * 60, []
    partitions_def = dg.StaticPartitionsDefinition([long])
    assets = [frame_asset(pd.DataFrame({"id": [1]}), partitions_def=partitions_def)]
    assert run([*assets, reader_asset(seen, partitions_def=partitions_def)], local, partition_key=long).success
    assert len(seen) == 1


def test_a_partition_key_that_fits_no_file_name_is_refused_by_its_name(run, local, tmp_path):
    long = "数" * 255
    frame = frame_asset(pd.DataFrame({"id": [1]}), partitions_def=dg.StaticPartitionsDefinition([long]))
    told = causes_of(run([frame], local, partition_key=long))
    assert f"partition '{long}' of asset frame is too long: its file name has 783 bytes, and 255 are allowed" in told
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("bucket", ["b", "arn:aws:s3:eu-west-1:123456789012:accesspoint/ap"], ids=["bucket", "ARN"])
def test_a_key_longer_than_s3_has_is_refused_by_the_partition(bucket):
    room = 1024 - len("manifests/frame/partition=x.parquet")
    manifests = ManifestIOManager(resource=FileDatasetResource(base_path=f"s3://{bucket}/{'p' * (room - 1)}"))
    assert manifests.uri(key("frame"), "x").endswith("=x.parquet")
    with pytest.raises(
        file_dataset.InvalidDatasetError, match="partition 'xy' of asset frame is too long: its key in S3"
    ):
        manifests.uri(key("frame"), "xy")


def frame_asset(frame, **arguments):
    @dg.asset(name="frame", **arguments)
    def asset():
        return frame

    return asset


def reader_asset(seen, **arguments):
    @dg.asset(name="reader", **arguments)
    def asset(frame: pd.DataFrame) -> None:
        seen.append(frame)

    return asset


def test_any_asset_that_returns_a_frame_is_stored_and_loaded(run, resource, keys):
    frame, seen = pd.DataFrame({"id": [1, 2], "a.txt": ["s3://x/1", None]}), []
    assert run([frame_asset(frame), reader_asset(seen)], resource).success
    pd.testing.assert_frame_equal(seen[0], frame)
    assert keys() == ["base/manifests/frame/manifest.parquet"]


def test_a_local_base_path_holds_manifests_too(run, local, tmp_path):
    frame, seen = pd.DataFrame({"id": [1, 2]}), []
    assert run([frame_asset(frame, key_prefix=None), reader_asset(seen)], local).success
    pd.testing.assert_frame_equal(seen[0], frame)
    assert [path.name for path in tmp_path.joinpath("base").rglob("*") if path.is_file()] == ["manifest.parquet"]


def test_the_base_path_of_the_io_manager_wins(local):
    io_manager = ManifestIOManager(resource=local, base_path="s3://other/place/")
    assert io_manager.uri(key("a", "b")) == "s3://other/place/manifests/a/b/manifest.parquet"


@pytest.mark.parametrize("base_path", [None, "s3://", "gs://bucket", "file:///tmp/x", "~/manifests"])
def test_a_base_path_that_is_none_is_refused(base_path):
    with pytest.raises(file_dataset.InvalidDatasetError, match="base_path"):
        ManifestIOManager(resource=FileDatasetResource(base_path=base_path)).uri(key("a"))


def materialization(result, asset="frame"):
    (event,) = result.asset_materializations_for_node(asset)
    return event.metadata


def test_rows_schema_and_place_are_told(run, local):
    metadata = materialization(run([frame_asset(pd.DataFrame({"id": [1, 2], "v": [0.5, 1]}))], local))
    assert metadata["dagster/row_count"].value == 2
    assert [(c.name, c.type) for c in metadata["dagster/column_schema"].value.columns] == [
        ("id", "int64"),
        ("v", "float64"),
    ]
    assert metadata["dagster/uri"].value == f"{local.base_path}/manifests/frame/manifest.parquet"


DAYS = dg.StaticPartitionsDefinition(["mon", "tue"])


def test_each_partition_has_a_manifest_of_its_own(run, resource, keys):
    seen = []
    assets = [frame_asset(pd.DataFrame({"id": [1]}), partitions_def=DAYS), reader_asset(seen, partitions_def=DAYS)]
    for day in DAYS.get_partition_keys():
        result = run(assets, resource, partition_key=day)
        assert materialization(result)["dagster/partition_row_count"].value == 1
    assert keys() == [f"base/manifests/frame/partition={day}.parquet" for day in ("mon", "tue")]
    assert len(seen) == 2


def test_a_multi_partition_has_one_manifest(run, local):
    both = dg.MultiPartitionsDefinition({"site": dg.StaticPartitionsDefinition(["a"]), "day": DAYS})
    partition = dg.MultiPartitionKey({"site": "a", "day": "mon"})
    result = run([frame_asset(pd.DataFrame({"id": [1]}), partitions_def=both)], local, partition_key=partition)
    assert materialization(result)["dagster/uri"].value.endswith("/partition=mon%7Ca.parquet")


@pytest.mark.parametrize("where", ["s3", "local"])
def test_a_missing_manifest_is_told_with_the_remedy(run, where, request):
    resource = request.getfixturevalue("resource" if where == "s3" else "local")
    result = run([dg.AssetSpec("frame", partitions_def=DAYS), reader_asset([], partitions_def=DAYS)],
                 resource, partition_key="tue", selection=["reader"])  # fmt: skip
    told = causes_of(result)
    assert "no manifest of asset frame, partition 'tue', at " in told
    assert f"{resource.base_path}/manifests/frame/partition=tue.parquet: materialize it first" in told


def test_a_store_that_refuses_is_told_with_its_code(run, s3_endpoint):
    result = run(
        [frame_asset(pd.DataFrame({"id": [1]}))],
        FileDatasetResource(endpoint_url=s3_endpoint, base_path="s3://no-bucket"),
    )
    told = causes_of(result)
    assert "the manifest at s3://no-bucket/manifests/frame/manifest.parquet could not be stored: " in told
    assert "NoSuchBucket" in told
    assert f"{s3_endpoint} was asked" in told


def test_a_missing_manifest_names_the_endpoint_that_was_asked(run, resource, s3_endpoint):
    """A wrong endpoint says nothing but NoSuchKey."""
    result = run([dg.AssetSpec("frame"), reader_asset([])], resource, selection=["reader"])
    assert f"materialize it first, or correct base_path; {s3_endpoint} was asked" in causes_of(result)
    at = ManifestIOManager(resource=resource).uri(key("frame"))
    with pytest.raises(file_dataset.RowError) as raised:
        ManifestIOManager(resource=resource).load(at)
    assert str(raised.value).startswith(f"the manifest at {at} could not be read: FileNotFoundError (NoSuchKey): ")
    assert str(raised.value).endswith(f"; {s3_endpoint} was asked")


def test_a_bucket_that_is_not_there_is_no_missing_manifest(run, s3_endpoint):
    nowhere = FileDatasetResource(endpoint_url=s3_endpoint, base_path="s3://no-bucket")
    told = causes_of(run([dg.AssetSpec("frame"), reader_asset([])], nowhere, selection=["reader"]))
    assert "the manifest at s3://no-bucket/manifests/frame/manifest.parquet could not be read: " in told
    assert "(NoSuchBucket)" in told
    assert f"{s3_endpoint} was asked" in told


def test_a_manifest_that_may_not_be_read_is_named_with_the_code(faults):
    faults.put("s3://bucket/m.parquet", b"")
    faults.fail("GetObject", Status(403, "AccessDenied"), key="m.parquet", times=None)
    manifests = ManifestIOManager(resource=FileDatasetResource(endpoint_url=faults.endpoint_url))
    said = r"^the manifest at s3://bucket/m.parquet could not be read: PermissionError \(AccessDenied\): "
    with pytest.raises(file_dataset.RowError, match=said) as raised:
        manifests.load("s3://bucket/m.parquet")
    assert "was asked" not in str(raised.value)


def test_a_directory_is_no_manifest(tmp_path, local):
    tmp_path.joinpath("m.parquet").mkdir()
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"/m\.parquet is a directory, and no manifest"):
        ManifestIOManager(resource=local).load(str(tmp_path / "m.parquet"))


def test_a_foreign_parquet_file_is_refused(tmp_path, local):
    pq.write_table(pa.table({"id": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(file_dataset.InvalidDatasetError, match="was not written by file_dataset"):
        ManifestIOManager(resource=local).load(str(tmp_path / "foreign.parquet"))


def test_a_damaged_manifest_is_named_from_where_it_lies(local, tmp_path):
    manifests = ManifestIOManager(resource=local)
    at = tmp_path / "manifest.parquet"
    manifests.store(pd.DataFrame({"id": range(50)}), str(at.parent / "x" / at.name))
    content = bytearray((at.parent / "x" / at.name).read_bytes())
    content[100] ^= 1
    at.write_bytes(content)
    with pytest.raises(file_dataset.InvalidDatasetError, match=f"^{at} is damaged .*materialize the asset again"):
        manifests.load(str(at))


def test_a_file_that_is_no_parquet_is_refused(tmp_path, local):
    tmp_path.joinpath("x.parquet").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(file_dataset.InvalidDatasetError, match="is no Parquet file"):
        ManifestIOManager(resource=local).load(str(tmp_path / "x.parquet"))


def test_a_manifest_of_a_later_version_is_refused_with_the_remedy():
    table = pq.read_table(pa.BufferReader(to_parquet(pd.DataFrame({"id": [1]}))))
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"file_dataset.format_version": b"9"}), sink)
    with pytest.raises(file_dataset.InvalidDatasetError, match=r"format version 9.*upgrade file-dataset"):
        from_parquet(sink.getvalue(), "somewhere")


def test_a_manifest_of_an_earlier_version_is_read(monkeypatch):
    """As this version wrote it, read by the next one; and as one without notes of dtypes might have."""
    frame = pd.DataFrame({"id": [1, 2], "label": pd.Series(["a", None], dtype="string")})
    written = to_parquet(frame)
    bare = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": [1, 2]}).replace_schema_metadata({b"file_dataset.format_version": b"1"}), bare)
    monkeypatch.setattr("file_dataset.parquet._VERSION", 9)
    pd.testing.assert_frame_equal(from_parquet(written, "somewhere"), frame)
    assert from_parquet(bare.getvalue(), "somewhere")["id"].tolist() == [1, 2]
    assert notes_of(bare.getvalue(), "somewhere") == {}


def test_some_columns_come_with_their_dtypes_in_the_order_asked_for():
    frame = pd.DataFrame({name: column for name, column in COLUMNS.items()})  # noqa: C416 (a copy, by column)
    names = list(COLUMNS)[::-1][:9]
    pd.testing.assert_frame_equal(from_parquet(to_parquet(frame), "somewhere", names), frame[names])


@pytest.mark.parametrize("value", [[1], {"id": [1]}, None], ids=["list", "dict", "None"])
def test_a_value_that_is_no_frame_is_refused_with_the_remedy(run, local, value):
    told = causes_of(run([frame_asset(value)], local))
    assert f"asset frame returned a {type(value).__name__}" in told
    assert "io_manager_key" in told


def test_a_frame_that_cannot_be_stored_leaves_the_old_manifest(run, local):
    run([frame_asset(pd.DataFrame({"id": [1]}))], local)
    run([frame_asset(pd.DataFrame({"id": [1, "x"]}))], local)
    io_manager = ManifestIOManager(resource=local)
    assert io_manager.load(io_manager.uri(key("frame")))["id"].tolist() == [1]


def test_a_write_that_fails_leaves_the_old_manifest_and_no_other_file(tmp_path, local, monkeypatch):
    """The last step of a local write is a rename; here it fails."""
    io_manager = ManifestIOManager(resource=local)
    at = io_manager.uri(key("frame"))
    io_manager.store(pd.DataFrame({"id": [1]}), at)

    def fail(*_):
        raise PermissionError(13, "no rename today")

    later = pd.DataFrame({"id": [2]})
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(file_dataset.RowError, match="no rename today"):
        io_manager.store(later, at)
    monkeypatch.undo()
    assert io_manager.load(at)["id"].tolist() == [1]
    assert [path.name for path in tmp_path.joinpath("base").rglob("*") if path.is_file()] == ["manifest.parquet"]
