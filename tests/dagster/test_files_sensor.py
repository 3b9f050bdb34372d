"""Which files a sensor requests: each once, whatever is created, overwritten, deleted, and whenever a tick dies."""

import os
import traceback
import uuid

import dagster as dg
import pytest
from dagster._core.execution.build_resources import wrap_resources_for_execution
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from servers.faults import Status

import file_dataset
from file_dataset_dagster import FileDatasetResource, ManifestIOManager, build_files_sensor, files_asset


class Ticks:
    """A sensor as Dagster's daemon runs it: the cursor is kept only of a tick that ends, run keys are looked up."""

    def __init__(self, resource, instance, scans, assets=None, **arguments):
        self.resource, self.instance, self.scans = resource, instance, scans
        self.sensor = build_files_sensor(scans, **arguments)
        resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
        self.defs = dg.Definitions(assets or [scans], sensors=[self.sensor], resources=resources)
        self.cursor = None
        self.run_keys = []
        self.logged, self.errors = [], []

    def evaluate(self):
        # as the server of a code location makes it; that of `build_sensor_context` knows no dynamic partitions
        with dg.SensorEvaluationContext(
            self.instance.get_ref(),
            cursor=self.cursor,
            definitions=self.defs,
            sensor_name=self.sensor.name,
            resources=wrap_resources_for_execution({"file_dataset": self.resource}),
        ) as context:
            context.log.info = lambda message, *args: self.logged.append(message % args)
            context.log.error = lambda message, *args: self.errors.append(message % args)
            return self.sensor.evaluate_tick(context)

    def __call__(self):
        """One tick: the tags of its requests, by partition (None where there are none); or why there is none."""
        result = self.evaluate()
        for request in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        # the daemon keeps a cursor, and an empty one is none
        self.cursor = result.cursor or self.cursor
        requests = [request for request in result.run_requests or () if request.run_key not in self.run_keys]
        assert len(requests) == len(result.run_requests or ())
        self.run_keys += [request.run_key for request in requests]
        if not requests:
            return result.skip_message
        ours = "file_dataset/"
        return {
            request.partition_key: {
                name.removeprefix(ours): int(value) for name, value in request.tags.items() if name.startswith(ours)
            }
            for request in requests
        }


@pytest.fixture
def instance(tmp_path):
    """One with a home: of an ephemeral one `evaluate_tick` finds no dynamic partitions."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as lasting:
        yield lasting


@pytest.fixture
def put(s3, bucket):
    """Store an object, and return nothing."""
    return lambda key, body=b"scan": s3.put_object(Bucket=bucket, Key=key, Body=body)


@pytest.fixture
def delete(s3, bucket):
    return lambda key: s3.delete_object(Bucket=bucket, Key=key)


@pytest.fixture
def ticks(resource, instance, bucket):
    return Ticks(resource, instance, files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"}))


@pytest.fixture
def by_site(resource, instance, bucket):
    def make(**arguments):
        patterns = {"scan.txt": f"s3://{bucket}/raw/{{site}}/{{id}}.txt"}
        of_asset = {name: arguments.pop(name) for name in ("partitions_def",) if name in arguments}
        return Ticks(resource, instance, files_asset("scans", patterns, partition_by="site", **of_asset), **arguments)

    return make


def test_new_files_are_requested_once(ticks, put):
    put("raw/1.txt")
    put("raw/2.txt")
    assert ticks() == {None: {"new": 2}}
    assert ticks() == "nothing has changed: 2 files"
    put("raw/3.txt")
    assert ticks() == {None: {"new": 1}}
    assert ticks() == "nothing has changed: 3 files"


def test_an_empty_bucket_requests_nothing(ticks, put, bucket):
    assert f"no file matches {{'scan.txt': 's3://{bucket}/raw/{{id}}.txt'}}" in ticks()
    put("raw/1.txt")
    assert ticks() == {None: {"new": 1}}


def test_an_overwritten_file_is_seen_and_equal_bytes_are_none(ticks, put):
    """All of it within a second, which is as fine as S3's times are."""
    put("raw/1.txt", b"A")
    assert ticks() == {None: {"new": 1}}
    put("raw/1.txt", b"B")
    assert ticks() == {None: {"overwritten": 1}}
    put("raw/1.txt", b"B")
    assert ticks() == "nothing has changed: 1 files"


def test_run_keys_do_not_repeat_when_content_goes_back(ticks, put):
    for body in (b"A", b"B", b"A", b"B", b"A"):
        put("raw/1.txt", body)
        assert ticks() != "nothing has changed: 1 files"
    assert len(set(ticks.run_keys)) == 5


def test_run_keys_do_not_repeat_after_the_cursor_was_reset(ticks, put):
    put("raw/1.txt")
    assert ticks() == {None: {"new": 1}}
    ticks.cursor = None
    assert ticks() == {None: {"new": 1}}


def test_a_deletion_is_said_by_the_skip_or_by_a_tag(ticks, put, delete, bucket):
    for name in "1234":
        put(f"raw/{name}.txt")
    ticks()
    delete("raw/1.txt")
    said = f"0 files new, 0 overwritten, 1 deleted (s3://{bucket}/raw/1.txt) of 3 -> no run request"
    assert ticks() == said
    assert ticks() == "nothing has changed: 3 files"
    delete("raw/2.txt")
    put("raw/3.txt", b"another")
    put("raw/5.txt")
    assert ticks() == {None: {"new": 1, "overwritten": 1, "deleted": 1}}
    put("raw/1.txt")
    assert ticks() == {None: {"new": 1}}


def test_names_are_in_no_message_where_ids_are_not_to_be_shown(resource, instance, bucket, put, delete, capfd):
    pattern = {"scan.txt": f"s3://{bucket}/raw/{{id}}/*.txt"}
    ticks = Ticks(resource, instance, files_asset("scans", pattern, show_ids=False))
    for name in ("patient-7", "patient-8"):
        put(f"raw/{name}/1.txt")
    ticks()
    delete("raw/patient-7/1.txt")
    assert ticks() == "0 files new, 0 overwritten, 1 deleted of 1 -> no run request"
    put("raw/patient-\t9/1.txt")  # not a safe name
    assert ticks() == "nothing has changed: 1 files; 1 files left out, see the tick's log"
    (error,) = ticks.errors
    assert "call file_dataset.list_files with these patterns to see them" in error
    assert "patient" not in error
    put("raw/patient-8/2.txt")  # two files of one row
    assert ticks() == {None: {"new": 1}}
    resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
    with pytest.raises(dg.Failure, match="show_ids=False") as caught:
        dg.materialize([ticks.scans], resources=resources)
    printed = capfd.readouterr()
    assert "1 files are left out" in printed.err
    assert "patient" not in "".join(traceback.format_exception(caught.value)) + printed.err + printed.out


def test_a_tick_that_dies_before_its_cursor_is_kept_delivers_again(ticks, put):
    put("raw/1.txt")
    died = ticks.evaluate()
    assert ticks() == {None: {"new": 1}}
    put("raw/2.txt")
    died = ticks.evaluate()
    again = ticks.evaluate()
    # the daemon launches no second run for a key
    assert [one.run_key for one in died.run_requests] == [one.run_key for one in again.run_requests]
    put("raw/3.txt")
    assert ticks() == {None: {"new": 2}}
    assert ticks() == "nothing has changed: 3 files"


def test_a_tick_whose_listing_cannot_be_stored_keeps_its_files(ticks, put, s3_endpoint):
    put("raw/1.txt")
    good = ticks.resource
    ticks.resource = FileDatasetResource(endpoint_url=s3_endpoint, base_path="s3://no-such-bucket-anywhere/base")
    with pytest.raises(file_dataset.RowError, match="NoSuchBucket"):
        ticks()
    ticks.resource = good
    assert ticks() == {None: {"new": 1}}


def test_the_cursor_is_the_digest_of_a_listing_that_lies_beside_the_manifest(ticks, put, keys, bucket):
    put("raw/1.txt")
    ticks()
    listings = [key for key in keys() if "sensor=" in key]
    assert listings == [f"base/manifests/scans/sensor=scans_files/{ticks.cursor}.parquet"]
    manifests = ManifestIOManager(resource=ticks.resource)
    frame = manifests.load(f"s3://{bucket}/{listings[0]}")
    assert frame["location"].tolist() == [f"s3://{bucket}/raw/1.txt"]


def test_of_old_listings_one_stays(ticks, put, keys):
    """The last but one: a tick that dies leaves the cursor at it."""
    cursors = []
    for number in range(5):
        put(f"raw/{number}.txt")
        ticks()
        cursors.append(ticks.cursor)
    found = {key.rpartition("/")[2].removesuffix(".parquet") for key in keys() if "sensor=" in key}
    assert found == set(cursors[-2:])


def test_a_look_with_another_cursor_harms_nothing(ticks, put):
    """As Dagster's UI does it: a tick is evaluated with any cursor, and nothing of it is kept."""
    for number in range(3):
        put(f"raw/{number}.txt")
        ticks()
    kept, ticks.cursor = ticks.cursor, None
    assert len(ticks.evaluate().run_requests) == 1
    ticks.cursor = kept
    assert ticks() == "nothing has changed: 3 files"
    put("raw/3.txt")
    assert ticks() == {None: {"new": 1}}


def test_a_listing_that_is_gone_is_an_error_and_no_new_beginning(ticks, put, delete, keys):
    put("raw/1.txt")
    ticks()
    for key in keys():
        if "sensor=" in key:
            delete(key)
    with pytest.raises(file_dataset.FileDatasetError, match=r"is not at .*\n*reset the cursor"):
        ticks()


def test_a_sensor_that_has_a_name_goes_on_after_its_asset_was_renamed(resource, instance, bucket, put, keys, s3):
    pattern = {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"}
    old = Ticks(resource, instance, files_asset("scans", pattern), name="new_scans")
    put("raw/1.txt")
    old()
    renamed = Ticks(resource, instance, files_asset("images", pattern), name="new_scans")
    renamed.cursor = old.cursor
    with pytest.raises(file_dataset.FileDatasetError, match="where the asset was renamed, from below its old name"):
        renamed()
    for key in (key for key in keys() if key.startswith("base/manifests/scans/")):
        to = key.replace("/scans/", "/images/")
        s3.copy_object(Bucket=bucket, Key=to, CopySource={"Bucket": bucket, "Key": key})
    assert renamed() == "nothing has changed: 1 files"
    put("raw/2.txt")
    assert renamed() == {None: {"new": 1}}


def test_a_cursor_of_another_sensor_is_refused(ticks):
    ticks.cursor = "2026-01-01T00:00:00"
    with pytest.raises(file_dataset.InvalidDatasetError, match="no digest of a listing: reset it"):
        ticks()


@pytest.fixture
def counted(faults, instance):
    """A sensor of a server that counts requests."""
    for name in ("bucket", "base"):
        faults.store.buckets[name] = {}
    resource = FileDatasetResource(endpoint_url=faults.endpoint_url, base_path="s3://base/dagster")
    return Ticks(resource, instance, files_asset("scans", {"scan.txt": "s3://bucket/raw/{id}.txt"}))


def test_a_tick_costs_a_listing_and_three_requests_where_something_has_changed(counted, faults):
    costs = []
    for body in (b"A", b"B", b"C", b"C"):
        faults.store.replace("bucket", "raw/1.txt", body)
        faults.requests.clear()
        counted()
        costs.append(sorted(operation for operation, _ in faults.requests.elements()))
    listing, get = "ListObjectsV2", "GetObject"
    # once the second listing is stored and named by the cursor, no tick reads the first one again
    assert costs == [
        [listing, "PutObject"],
        [get, listing, "PutObject"],
        ["DeleteObject", get, listing, "PutObject"],
        [get, listing],
    ]


def test_a_listing_that_may_not_be_removed_stays(counted, faults):
    faults.fail("DeleteObject", Status(403, "AccessDenied"), times=None)
    for number in range(4):
        faults.store.replace("bucket", f"raw/{number}.txt", b"scan")
        assert counted() == {None: {"new": 1}}
    assert len(faults.keys("base")) == 4


def test_the_first_tick_says_what_it_will_do(by_site, put):
    for site in "abc":
        put(f"raw/{site}/1.txt")
        put(f"raw/{site}/2.txt")
    ticks = by_site()
    ticks()
    assert ticks.logged == [
        "first listing: 6 files in 6 rows -> 3 run requests, one a partition of 'site'",
        "3 new partitions of 'site'",
    ]


def test_a_partition_with_new_files_has_a_request_and_is_added(by_site, put, delete, instance):
    ticks = by_site()
    put("raw/north/1.txt")
    put("raw/south/1.txt")
    assert ticks() == {"north": {"new": 1}, "south": {"new": 1}}
    assert sorted(instance.get_dynamic_partitions("site")) == ["north", "south"]
    put("raw/south/1.txt", b"another")
    put("raw/west/1.txt")
    delete("raw/north/1.txt")
    assert ticks() == {
        "south": {"overwritten": 1, "deleted_in_other_partitions": 1},
        "west": {"new": 1, "deleted_in_other_partitions": 1},
    }
    assert ticks() == "nothing has changed: 2 files"


def test_more_partitions_than_a_tick_may_request_follow(by_site, put):
    ticks = by_site(max_run_requests=2)
    for site in "abcde":
        put(f"raw/{site}/1.txt")
    assert ticks() == {"a": {"new": 1}, "b": {"new": 1}}
    assert "; 3 partitions wait for a later tick" in ticks.logged[0]
    assert ticks() == {"c": {"new": 1}, "d": {"new": 1}}
    assert ticks() == {"e": {"new": 1}}
    assert ticks() == "nothing has changed: 5 files"


def test_a_value_that_is_no_partition_yet_waits_until_it_is(by_site, put, instance):
    """Of partitions that this sensor cannot add: days to come, say."""
    put("raw/a/1.txt")
    put("raw/b/1.txt")
    ticks = by_site(partitions_def=dg.StaticPartitionsDefinition(["a"]))
    assert ticks() == {"a": {"new": 1}}
    assert ticks() == "nothing has changed: 2 files; files wait whose 'site' is no partition yet: 'b'"
    later = by_site(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
    later.cursor = ticks.cursor
    assert later() == {"b": {"new": 1}}


def test_a_file_that_goes_with_every_row_is_new_in_every_partition(resource, instance, bucket, put):
    patterns = {"scan.txt": f"s3://{bucket}/raw/{{site}}/{{id}}.txt", "atlas.txt": f"s3://{bucket}/atlas.txt"}
    ticks = Ticks(resource, instance, files_asset("scans", patterns, partition_by="site"))
    put("atlas.txt")
    put("raw/a/1.txt")
    put("raw/b/1.txt")
    assert ticks() == {"a": {"new": 2}, "b": {"new": 2}}
    put("atlas.txt", b"another")
    assert ticks() == {"a": {"overwritten": 1}, "b": {"overwritten": 1}}


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("raw/a/1\n2.txt", r"{id} would be '1\n2'"),
        ("raw/b\tc/1.txt", r"{site} would be 'b\tc'"),
        ("raw/../1.txt", "{site} would be '..'"),
    ],
    ids=["a line's end in an id", "a control character in a partition", "a step up"],
)
def test_a_name_that_is_not_safe_stops_no_other(faults, instance, key, named):
    for name in ("bucket", "base"):
        faults.store.buckets[name] = {}
    resource = FileDatasetResource(endpoint_url=faults.endpoint_url, base_path="s3://base/dagster")
    scans = files_asset("scans", {"scan.txt": "s3://bucket/raw/{site}/{id}.txt"}, partition_by="site")
    ticks = Ticks(resource, instance, scans)
    faults.store.replace("bucket", "raw/a/1.txt", b"scan")
    faults.store.replace("bucket", key, b"scan")
    assert ticks() == {"a": {"new": 1}}
    assert ticks() == "nothing has changed: 1 files; 1 files left out, see the tick's log"
    faults.store.replace("bucket", "raw/a/3.txt", b"scan")
    assert ticks() == {"a": {"new": 1}}
    assert len(ticks.errors) == 3
    assert repr(f"s3://bucket/{key}") in ticks.errors[-1]
    assert named in ticks.errors[-1]
    assert "rename the object" in ticks.errors[-1]


def test_names_that_are_odd_are_delivered(by_site, put):
    """Long ones together with a long id, too; and what Dagster writes between the ends of a range."""
    sites = [" a ", "[a]", "a,b", "a...b", "b", "x" * 250, "ä\\b"]
    for site in sites:
        put(f"raw/{site}/{'y' * 250}.txt")
    ticks = by_site()
    assert ticks() == {site: {"new": 1} for site in sites}
    assert not ticks.errors
    resources = {"file_dataset": ticks.resource, "io_manager": ManifestIOManager(resource=ticks.resource)}
    for site in ("x" * 250, "a...b"):
        result = dg.materialize([ticks.scans], resources=resources, instance=ticks.instance, partition_key=site)
        assert result.asset_value("scans")["site"].tolist() == [site]


def test_a_file_that_goes_with_no_partition_yet_stops_no_other(resource, instance, bucket, put):
    """A mask that comes before its scan."""
    patterns = {"scan.txt": f"s3://{bucket}/raw/{{site}}/{{id}}.txt", "mask.txt": f"s3://{bucket}/masks/{{id}}.txt"}
    ticks = Ticks(resource, instance, files_asset("scans", patterns, partition_by="site"))
    put("raw/a/1.txt")
    put("masks/2.txt")
    assert ticks() == {"a": {"new": 1}}
    put("raw/b/2.txt")
    assert ticks() == {"b": {"new": 2}}


def test_two_files_of_one_row_are_new_once_each_and_stop_no_other_partition(resource, instance, bucket, put, delete):
    patterns = {
        "scan.txt": f"s3://{bucket}/raw/{{site}}/{{id}}/*.txt",
        "mask.txt": f"s3://{bucket}/masks/{{id}}/*.txt",
    }
    ticks = Ticks(resource, instance, files_asset("scans", patterns, partition_by="site"))
    put("raw/a/1/x.txt")
    put("raw/b/2/x.txt")
    assert ticks() == {"a": {"new": 1}, "b": {"new": 1}}
    put("raw/a/1/a.txt")
    assert ticks() == {"a": {"new": 1}}
    put("masks/2/x.txt")
    put("masks/2/y.txt")
    assert ticks() == {"b": {"new": 2}}
    delete("raw/a/1/x.txt")
    assert "1 deleted" in ticks()


def test_a_directory_is_no_other_when_one_of_another_time_comes(local, instance, tmp_path):
    """Times of whole seconds, as an archive has them, beside one of nanoseconds."""

    def series(name, ns):
        path = tmp_path / "raw" / name / "0001.dcm"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, ns=(ns, ns))

    ticks = Ticks(local, instance, files_asset("scans", {"series": f"{tmp_path}/raw/{{id}}/"}))
    series("1", 1_700_000_000_000_000_000)
    assert ticks() == {None: {"new": 1}}
    series("2", 1_700_000_000_123_456_789)
    assert ticks() == {None: {"new": 1}}


KEYS = st.sampled_from([("a", "1"), ("a", "2"), ("b", "1")])
SCHEDULES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.sampled_from(["x", "y"])),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("tick")),
        st.tuples(st.just("dies")),
    ),
    min_size=6,
    max_size=14,
)


@pytest.mark.parametrize("partition_by", [None, "site"])
@hypothesis_settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=SCHEDULES)
def test_each_file_that_is_there_at_a_tick_is_requested_once(
    resource, instance, bucket, put, delete, partition_by, schedule
):
    """Whatever is created, overwritten and deleted between ticks, some of which die after they stored their listing.

    What a tick must request is what is there, less what was there, with that content, at the last tick that ended.
    """
    root = uuid.uuid4().hex
    patterns = {"scan.txt": f"s3://{bucket}/{root}/{{site}}/{{id}}.txt"}
    scans = files_asset(root, patterns, id="{site}-{id}", partition_by=partition_by)
    ticks = Ticks(resource, instance, scans)
    there, delivered = {}, {}
    for action, *arguments in [*schedule, ("tick",), ("tick",)]:
        if action == "put":
            (site, name), body = arguments
            put(f"{root}/{site}/{name}.txt", body)
            there[site, name] = body
        elif action == "delete":
            ((site, name),) = arguments
            delete(f"{root}/{site}/{name}.txt")
            there.pop((site, name), None)
        elif action == "dies":
            ticks.evaluate()
        else:
            wanted = {}
            for (site, name), body in there.items():
                if delivered.get((site, name)) != body:
                    of = wanted.setdefault(site if partition_by else None, {"new": 0, "overwritten": 0})
                    of["overwritten" if (site, name) in delivered else "new"] += 1
            said = ticks()
            gone = len(set(delivered) - set(there))
            if wanted:
                counted = {
                    key: {kind: tags.get(kind, 0) for kind in ("new", "overwritten")} for key, tags in said.items()
                }
                assert counted == wanted
                first = next(iter(said.values()))
                elsewhere = first.get("deleted_in_other_partitions", 0)
                assert sum(tags.get("deleted", 0) for tags in said.values()) + elsewhere == gone
            else:
                assert isinstance(said, str)
                quiet = said.startswith(("nothing has changed", "no file matches"))
                assert quiet == (not gone)
                assert quiet or f", {gone} deleted" in said
            delivered = dict(there)
    assert len(set(ticks.run_keys)) == len(ticks.run_keys)


def test_runs_have_the_config_and_the_tags_that_were_given(resource, instance, bucket, put):
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"})
    config = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    ticks = Ticks(resource, instance, scans, run_config=config, tags={"team": "a"}, name="watch")
    put("raw/1.txt")
    (request,) = ticks.evaluate().run_requests
    assert request.run_config == config
    assert request.tags["team"] == "a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"partition_by": "day"}, "is no field of the patterns"),
        ({"partition_by": "site"}, r"what is to run has none: write files_asset\(..., partition_by='site'\), or give"),
        ({"max_run_requests": 0}, "give a number of 1 or more"),
        ({"job": "a", "target": "b"}, "not both"),
    ],
    ids=["partition_by", "no partitions", "max_run_requests", "job and target"],
)
def test_what_cannot_be_meant_is_refused_at_import(arguments, message):
    scans = files_asset("scans", {"scan.txt": "s3://bucket/raw/{site}/{id}.txt"})
    with pytest.raises(file_dataset.InvalidDatasetError, match=message):
        build_files_sensor(scans, **arguments)


@pytest.mark.parametrize("kind", ["a job", "assets downstream", "an observed asset"])
def test_whatever_runs_can_be_the_target(resource, instance, bucket, put, kind):
    scans = files_asset("scans", {"scan.txt": f"s3://{bucket}/raw/{{id}}.txt"}, observe=kind == "an observed asset")

    @dg.asset(deps=[scans])
    def after() -> None: ...

    job = dg.define_asset_job("job", selection=[scans, after])
    given = {"a job": {"job": job}, "assets downstream": {"target": [scans, after]}, "an observed asset": {}}[kind]
    ticks = Ticks(resource, instance, scans, assets=[scans, after], **given)
    put("raw/1.txt")
    (request,) = ticks.evaluate().run_requests
    resolved = ticks.defs.resolve_job_def(request.job_name or ticks.sensor.job_name)
    result = resolved.execute_in_process(instance=instance, run_config=request.run_config, tags=request.tags)
    assert result.success
    assert instance.get_latest_data_version_record(scans.key) is not None
    assert (instance.get_latest_materialization_event(after.key) is not None) == (kind != "an observed asset")


def test_an_asset_of_another_kind_is_refused():
    @dg.asset
    def other():
        return 1

    with pytest.raises(file_dataset.InvalidDatasetError, match="give what files_asset returned"):
        build_files_sensor(other)


def test_other_partitions_than_the_assets_are_refused():
    scans = files_asset("scans", {"scan.txt": "s3://bucket/raw/{site}/{id}.txt"}, partition_by="site")
    with pytest.raises(file_dataset.InvalidDatasetError, match="partitions by 'site': leave it out"):
        build_files_sensor(scans, partition_by="id")


def test_a_resource_without_a_base_path_is_an_error_that_says_so(ticks, put, s3_endpoint):
    put("raw/1.txt")
    ticks.resource = FileDatasetResource(endpoint_url=s3_endpoint)
    with pytest.raises(file_dataset.InvalidDatasetError, match="base_path"):
        ticks()


@pytest.mark.parametrize("kind", ["an asset", "a list of them", "a job", "a selection"])
def test_an_asset_without_partitions_is_the_source_of_one_with_them(kind):
    scans = files_asset("scans", {"scan.txt": "s3://bucket/raw/{site}/{id}.txt"})

    @dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="site"))
    def report() -> None: ...

    target = {
        "an asset": report,
        "a list of them": [report],
        "a job": dg.define_asset_job("job", selection=[report]),
        "a selection": dg.AssetSelection.assets(report),
    }[kind]
    dg.Definitions([scans, report], sensors=[build_files_sensor(scans, target, partition_by="site")])
