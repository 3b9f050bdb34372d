"""The files of a bucket as an asset: its value, its data version, its partitions, and what is downstream of it."""

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import ONE_RUN, failure_of, range_tags
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import file_dataset
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, files_asset, pipeline_asset
from file_dataset_dagster._listings import Listing


@pytest.fixture
def put(s3, bucket):
    """Store an object, and return nothing."""
    return lambda key, body=b"scan": s3.put_object(Bucket=bucket, Key=key, Body=body)


def version_of(instance, asset, partition=None):
    """The data version of the last event of an asset, or of one of its partitions."""
    event = instance.get_latest_data_version_record(dg.AssetKey(asset), partition_key=partition)
    return event.asset_event.tags["dagster/data_version"]


def test_the_value_is_the_frame_of_list_files_without_times(run, resource, put, bucket, s3_endpoint):
    put("raw/north/1.txt")
    put("raw/south/2.txt", b"longer")
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{site}}/{{id}}.txt"})
    value = run([scans], resource).asset_value("scans")
    listed = file_dataset.list_files(
        {"scan.txt": f"s3://{bucket}/raw/{{site}}/{{id}}.txt"}, details=True, options=resource.get_options()
    )
    pd.testing.assert_frame_equal(value, listed.drop(columns="scan.txt.last_modified"))
    manifests = ManifestIOManager(resource=resource)
    pd.testing.assert_frame_equal(manifests.load(manifests.uri(scans.key)), value)


def test_the_metadata_is_counts_bytes_seconds_and_the_place(run, resource, put, bucket):
    put("raw/1.txt", b"12345")
    put("raw/2.txt", b"123")
    result = run([files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"})], resource)
    (event,) = result.asset_materializations_for_node("scans")
    found = {name: value.value for name, value in event.metadata.items()}
    assert (found["files"], found["bytes"], found["dagster/row_count"]) == (2, 8, 2)
    assert found["listing_seconds"] > 0
    assert found["dagster/uri"] == f"s3://{bucket}/base/manifests/scans/manifest.parquet"


def test_a_listing_that_finds_nothing_new_leaves_what_is_downstream_fresh(run, resource, put, bucket, instance, copy):
    """Equal bytes uploaded again too; other bytes under the same key do not."""
    put("raw/1.txt")
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"})
    copied = pipeline_asset(copy, name="copied", input=scans)
    assert run([scans, copied], resource).success
    before, downstream = version_of(instance, "scans"), version_of(instance, "copied")
    put("raw/1.txt")
    assert run([scans], resource).success
    assert version_of(instance, "scans") == before
    put("raw/1.txt", b"another scan")
    assert run([scans, copied], resource).success
    assert version_of(instance, "scans") != before
    assert version_of(instance, "copied") != downstream


def test_only_changed_runs_the_rows_whose_files_are_others(run, resource, put, bucket, copy):
    put("raw/1.txt")
    put("raw/2.txt")
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"})
    copied = pipeline_asset(copy, name="copied", input=scans)
    assert run([scans, copied], resource).success
    put("raw/2.txt", b"another scan")
    put("raw/3.txt")
    result = run([scans, copied], resource, run_config={"ops": {"copied": {"config": {"only_changed": True}}}})
    (event,) = result.asset_materializations_for_node("copied")
    assert event.metadata["rows_run"].value == 2
    assert result.asset_value("copied")["id"].tolist() == ["1", "2", "3"]


def test_no_file_is_an_error_unless_that_may_be(run, resource, bucket, s3):
    patterns = {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"}
    failed = run([files_asset("scans", patterns)], resource)
    assert "allow_empty=True" in failure_of(failed).description
    assert run([files_asset("scans", patterns, allow_empty=True)], resource).asset_value("scans").empty


def test_a_store_that_refuses_fails_the_step_and_may_be_retried(run, bucket, s3_endpoint):
    resource = FileDatasetResource(endpoint_url=s3_endpoint, base_path=f"s3://{bucket}/base")
    scans = files_asset("scans", {"scan.txt": "s3://no-such-bucket-anywhere/raw/{id}.txt"})
    failed = run([scans], resource)
    (event,) = failed.filter_events(lambda event: event.is_step_failure)
    assert "NoSuchBucket" in event.step_failure_data.error_display_string
    assert event.step_failure_data.user_failure_data is None  # a dg.Failure could forbid retries


def test_without_a_manifest_io_manager_the_value_is_handed_on(resource, put, bucket, instance):
    put("raw/1.txt")
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"})
    result = dg.materialize(
        [scans], resources={"file_dataset": resource, "io_manager": dg.InMemoryIOManager()}, instance=instance
    )
    assert result.output_for_node("scans")["id"].tolist() == ["1"]
    (event,) = result.asset_materializations_for_node("scans")
    assert event.metadata["dagster/row_count"].value == 1
    assert "dagster/uri" not in event.metadata


SITES = "raw/{site}/{id}.txt"


@pytest.fixture
def sites(tmp_path):
    """Two sites with files on disk, whose ids repeat; the patterns of them."""
    for site, names in {"north": ("1", "2"), "south": ("1",)}.items():
        for name in names:
            path = tmp_path / "raw" / site / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"scan {name} of {site}")
    return {"scan.txt": tmp_path / SITES}


def test_a_partition_has_the_rows_of_its_value(run, local, instance, sites, copy):
    scans = files_asset("scans", sites, partition_by="site")
    copied = pipeline_asset(copy, name="copied", input=scans, partitions_def=scans.partitions_def)
    instance.add_dynamic_partitions("site", ["north", "south"])
    for site, ids in {"north": ["1", "2"], "south": ["1"]}.items():
        result = run([scans, copied], local, partition_key=site)
        assert result.asset_value("scans")["id"].tolist() == ids
        assert result.asset_value("scans")["site"].unique().tolist() == [site]
        assert result.asset_value("copied")["id"].tolist() == ids


def test_a_run_over_many_partitions_stores_what_runs_over_each_do(run, local, instance, sites):
    """One listing; every partition has its own manifest, metadata and data version."""
    scans = files_asset("scans", sites, partition_by="site", backfill_policy=ONE_RUN)
    instance.add_dynamic_partitions("site", ["north", "south"])
    manifests = ManifestIOManager(resource=local)
    alone = {}
    for site in ("north", "south"):
        assert run([scans], local, partition_key=site).success
        alone[site] = manifests.load(manifests.uri(scans.key, site)), version_of(instance, "scans", site)
    result = run([scans], local, tags=range_tags(["north", "south"]))
    assert result.success
    for site, (frame, version) in alone.items():
        pd.testing.assert_frame_equal(manifests.load(manifests.uri(scans.key, site)), frame)
        assert version_of(instance, "scans", site) == version
        last = [event for event in result.asset_materializations_for_node("scans") if event.partition == site][-1]
        assert last.metadata["files"].value == len(frame)
        assert last.metadata["dagster/uri"].value == manifests.uri(scans.key, site)
    assert alone["north"][1] != alone["south"][1]


def test_a_partition_without_a_file_is_an_error_unless_that_may_be(run, local, instance, sites):
    instance.add_dynamic_partitions("site", ["west"])
    failed = run([files_asset("scans", sites, partition_by="site")], local, partition_key="west")
    assert "partition 'west'" in failure_of(failed).description
    allowed = files_asset("scans", sites, partition_by="site", allow_empty=True)
    assert run([allowed], local, partition_key="west").asset_value("scans").empty


def test_a_partition_costs_the_listing_of_its_own_prefix(faults, instance):
    faults.store.buckets["base"] = {}
    faults.store.buckets["bucket"] = {}
    faults.store.replace("bucket", "raw/north/1.txt", b"scan")
    for number in range(1001):
        faults.store.replace("bucket", f"raw/south/{number}.txt", b"")
    resource = FileDatasetResource(endpoint_url=faults.endpoint_url, base_path="s3://base/dagster")
    instance.add_dynamic_partitions("site", ["north"])
    scans = files_asset("scans", {"scan.txt": f"s3://bucket/{SITES}"}, partition_by="site")
    resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
    result = dg.materialize([scans], resources=resources, instance=instance, partition_key="north")
    assert result.asset_value("scans")["id"].tolist() == ["1"]
    assert sum(operation == "ListObjectsV2" for operation, _ in faults.requests.elements()) == 1


@pytest.mark.parametrize("partition_by", [None, "site"])
def test_a_name_that_is_not_safe_costs_its_file_and_is_named(resource, put, bucket, instance, capfd, partition_by):
    """Wherever it lies beside: a run over a partition says those of its own."""
    put("raw/north/1.txt")
    put("raw/north/2\t.txt")
    put("raw/north/bad\\name.txt")
    put("raw/south/1\t.txt")
    instance.add_dynamic_partitions("site", ["north", "south"])
    asset_args = {"partition_by": "site", "backfill_policy": ONE_RUN} if partition_by else {}
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/{SITES}"}, allow_empty=True, **asset_args)
    resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
    tags = range_tags(["north", "south"]) if partition_by else {}
    result = dg.materialize([scans], resources=resources, instance=instance, tags=tags)
    found = {
        event.partition: (event.metadata["dagster/row_count" if event.partition is None else "files"].value,
        event.metadata["files_left_out"].value)
        for event in result.asset_materializations_for_node("scans")
    }  # fmt: skip
    assert found == ({"north": (1, 2), "south": (0, 1)} if partition_by else {None: (1, 3)})
    error = capfd.readouterr().err
    assert "3 files are left out: their names are not safe" in error
    assert repr(f"s3://{bucket}/raw/north/2\t.txt") in error
    assert "holds a backslash: it names one directory; rename the object, or make ids of other fields by id=" in error


def test_only_files_whose_names_are_not_safe_are_no_file(run, resource, put, bucket):
    put("raw/1\t.txt")
    failed = run([files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"})], resource)
    assert "no file matches" in failure_of(failed).description


texts = st.text("ab*{}.-", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})


@hypothesis_settings(max_examples=60)
@given(
    files=st.sets(st.tuples(texts, texts, texts), min_size=1, max_size=6),
    asked=texts,
    pattern=st.sampled_from(
        [
            "{site}/{id}/{x}.t",
            "{site}-{id}/{x}",
            "**/{site}/**/{id}.t",
            "a{site}/{id}*/{x}",
            "{site}*/{id}/{x}",
            "{x}/{id}/{site}.t",
        ]
    ),
    id_=st.sampled_from([None, "{id}-{x}", "{site}.{id}", "{site}"]),
)
def test_a_partition_is_what_all_of_the_listing_has_of_it(tmp_path_factory, files, asked, pattern, id_):
    """Whether a narrower pattern is listed or not."""
    home = tmp_path_factory.mktemp("files")
    for one, two, three in files:
        path = home / one / two / f"{three}.t"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    root = str(home).replace("{", "{{")
    listing = Listing({"scan.txt": f"{root}/{pattern}"}, id_, ("etag",), "site", True, "file_dataset")  # noqa: FBT003
    try:
        whole = listing.found(None)
    except file_dataset.InvalidDatasetError:
        return  # a template without such a field
    found = whole.by("site")
    for site in {asked, *found, *(text for file in files for text in file)}:
        alone = listing.by_partition(None, [site])[site]
        try:
            of_it = listing.frame(found.get(site, whole.none()), site)
        except file_dataset.InvalidDatasetError:  # two rows of one id, two files of one row
            with pytest.raises(file_dataset.InvalidDatasetError):
                listing.frame(alone, site)
        else:
            pd.testing.assert_frame_equal(listing.frame(alone, site), of_it)


@pytest.mark.parametrize("key", ["", ".", "..", "north/../south", "*", "{site}"])
def test_a_partition_key_that_no_field_can_have_lists_nothing(sites, key):
    texts = {name: str(text) for name, text in sites.items()}
    listing = Listing(texts, None, (), "site", True, "file_dataset")  # noqa: FBT003
    assert listing.frame(listing.by_partition(None, [key])[key], key).empty


def test_an_observed_asset_stores_its_manifest_and_its_version(resource, put, bucket, instance):
    put("raw/1.txt")
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"}, observe=True)

    @dg.asset(io_manager_key="io_manager")
    def ids(scans: pd.DataFrame) -> pd.DataFrame:
        return scans[["id"]]

    resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
    observe = dg.define_asset_job("observe", selection=[scans])
    defs = dg.Definitions([scans, ids], resources=resources, jobs=[observe])
    assert defs.resolve_job_def("observe").execute_in_process(instance=instance).success
    assert instance.get_latest_materialization_event(scans.key) is None
    first = version_of(instance, "scans")
    result = dg.materialize([scans, ids], selection=[ids], resources=resources, instance=instance)
    assert result.asset_value("ids")["id"].tolist() == ["1"]
    defs.resolve_job_def("observe").execute_in_process(instance=instance)
    assert version_of(instance, "scans") == first
    put("raw/2.txt")
    defs.resolve_job_def("observe").execute_in_process(instance=instance)
    assert version_of(instance, "scans") != first


def test_a_partition_of_an_observed_asset_has_a_version_of_its_own(local, instance, sites):
    scans = files_asset("scans", sites, partition_by="site", observe=True)
    instance.add_dynamic_partitions("site", ["north", "south"])
    resources = {"file_dataset": local, "io_manager": ManifestIOManager(resource=local)}
    defs = dg.Definitions([scans], resources=resources, jobs=[dg.define_asset_job("observe", selection=[scans])])
    for site in ("north", "south"):
        observed = defs.resolve_job_def("observe").execute_in_process(instance=instance, partition_key=site)
        assert observed.success
    manifests = ManifestIOManager(resource=local)
    assert manifests.load(manifests.uri(scans.key, "south"))["id"].tolist() == ["1"]
    assert version_of(instance, "scans", "north") != version_of(instance, "scans", "south")


GOOD = {"scan.txt": "s3://bucket/raw/{site}/{id}.txt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": None, "patterns": GOOD}, "the asset's name comes first"),
        ({"name": "a", "patterns": None}, "give a mapping of file name to pattern"),
        ({"name": "a", "patterns": {"scan.txt": 3}}, "a pattern is a text"),
        ({"name": "a", "patterns": GOOD, "partition_by": "day"}, "write {day} where partitions differ"),
        ({"name": "a", "patterns": GOOD, "partitions_def": dg.StaticPartitionsDefinition(["x"])}, "needs partition_by"),
        ({"name": "a", "patterns": GOOD, "details": "etag"}, "give True, False, or some of"),
        ({"name": "a", "patterns": GOOD, "ins": {}}, "files_asset takes no ins"),
        ({"name": "a", "patterns": GOOD, "resource_key": ""}, "give the key of a resource"),
        ({"name": "a", "patterns": GOOD, "key": "b"}, "not both"),
        ({"name": "a", "patterns": GOOD, "observe": True, "retry_policy": dg.RetryPolicy()}, "takes no retry_policy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_is_refused_at_import(arguments, message):
    with pytest.raises(file_dataset.InvalidDatasetError, match=message.replace("{", r"\{")):
        files_asset(**arguments)


def test_arguments_of_dg_asset_are_passed_on():
    scans = files_asset(
        key=["raw", "scans"], patterns=GOOD, group_name="input", owners=["a@b.org"], tags={"a": "b"}, metadata={"c": 1}
    )
    (spec,) = scans.specs
    assert (spec.key, spec.group_name, spec.owners) == (dg.AssetKey(["raw", "scans"]), "input", ["a@b.org"])
    assert spec.metadata["c"] == 1
    assert spec.kinds == {"s3"}
