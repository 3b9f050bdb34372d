"""build_manifest_checks: files that went, shrank or changed since are told, whenever one likes."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster_runs import copy_scan
from servers.faults import Replace, Reset, Status

from file_dataset_dagster import FileDatasetResource, ManifestIOManager, build_manifest_checks, pipeline_asset

COPIED = dg.AssetKey("copied")


@pytest.fixture
def checks(instance, local):
    """Run the checks of the asset `copied` alone, without the asset."""

    def evaluate(resource=local, partitions_def=None, io_manager=None, **arguments):
        defs = dg.Definitions(
            assets=[dg.AssetSpec(COPIED, partitions_def=partitions_def)],
            asset_checks=build_manifest_checks(COPIED, **{"content_unchanged": True} | arguments),
            resources={"file_dataset": resource, "io_manager": io_manager or ManifestIOManager(resource=resource)},
            jobs=[dg.define_asset_job("checks", selection=dg.AssetSelection.checks_for_assets(COPIED))],
        )
        result = defs.resolve_job_def("checks").execute_in_process(instance=instance, raise_on_error=False)
        return {check.check_name: check for check in result.get_asset_check_evaluations()}

    return evaluate


@pytest.mark.parametrize("where", ["s3", "local"])
def test_files_as_they_were_stored_pass(chain, checks, scans, request, where):
    resource = request.getfixturevalue("resource" if where == "s3" else "local")
    chain(scans(["a", "b"]), resource)
    found = checks(resource)
    assert {name: (check.passed, check.description) for name, check in found.items()} == {
        "files_exist": (True, "0 of 2 files are wrong"),
        "content_unchanged": (True, "0 of 2 files are wrong"),
    }


def test_a_file_that_went_is_reported(chain, checks, scans, resource, s3, bucket):
    chain(scans(["a", "b"]), resource)
    s3.delete_object(Bucket=bucket, Key="base/files/copied/b/copy.txt")
    check = checks(resource)["files_exist"]
    assert (check.passed, check.severity.value) == (False, "ERROR")
    assert check.description == "1 of 2 files are not as they were stored (1 missing)"
    (row,) = check.metadata["wrong"].records
    assert row.data["location"] == f"s3://{bucket}/base/files/copied/b/copy.txt"
    assert [row.data[name] for name in ("id", "file", "kind", "finding")] == ["b", "copy.txt", "missing", "S3 says 404"]


@pytest.mark.parametrize("shows", [True, False])
def test_a_wrong_file_is_named_only_where_its_asset_shows_ids(run, scans, resource, s3, bucket, instance, shows):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["patient-7", "b"])

    copied = pipeline_asset(copy_scan, name="copied", input=raw_scans, show_ids=shows)
    assert run([raw_scans, copied], resource).success
    s3.delete_object(Bucket=bucket, Key="base/files/copied/patient-7/copy.txt")
    checks = build_manifest_checks(copied)
    result = run([raw_scans, copied, *checks], resource, selection=dg.AssetSelection.checks(*checks))
    (check,) = result.get_asset_check_evaluations()
    assert check.description == "1 of 2 files are not as they were stored (1 missing)"
    assert ("patient-7" in "".join(map(repr, instance.all_logs(result.run_id)))) is shows


def test_content_of_the_same_size_that_changed_is_reported(chain, checks, scans, resource, s3, bucket):
    chain(scans(["a", "b"]), resource)
    s3.put_object(Bucket=bucket, Key="base/files/copied/b/copy.txt", Body=b"SCAN B")
    found = checks(resource)
    assert found["files_exist"].passed
    (row,) = found["content_unchanged"].metadata["wrong"].records
    assert row.data["kind"] == "changed"
    assert row.data["finding"].endswith("was stored")


def test_a_local_file_that_shrank_or_went_is_reported(chain, checks, scans, stored):
    chain(scans(["a", "b", "c"]))
    shrunk, gone, _ = map(Path, stored("files")["location"])
    shrunk.write_text("x")
    gone.unlink()
    wrong = [row.data for row in checks()["files_exist"].metadata["wrong"].records]
    assert [row["kind"] for row in wrong] == ["changed", "missing"]
    assert wrong[0]["finding"] == "1 bytes, 6 were stored"
    assert wrong[1]["finding"].startswith("No such file or directory")


@pytest.fixture
def store(faults, s3_endpoint):
    """A resource of a store that breaks on request, with its one bucket."""
    faults.put("s3://bucket/there", b"")
    return FileDatasetResource(endpoint_url=faults.endpoint_url, base_path="s3://bucket/base")


BROKEN = {
    "denied": (Status(403, "AccessDenied"), "S3 says 403"),
    "throttled": (Status(503, "SlowDown"), "S3 says 503"),
    "no answer": (Reset(), "ConnectionResetError"),
}


@pytest.mark.parametrize(("fault", "said"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["files_exist", "content_unchanged"])
def test_a_file_that_cannot_be_looked_at_is_not_called_wrong(chain, checks, scans, store, faults, fault, said, name):
    chain(scans(["a", "b", "c"]), store)
    faults.fail("HeadObject", fault, key="base/files/copied/b/copy.txt", times=None)
    check = checks(store)[name]
    assert (check.passed, check.severity.value) == (False, "WARN")
    assert check.description.startswith("0 of 3 files are wrong; 1 could not be checked, the first: ")
    (row,) = check.metadata["not_readable"].records
    assert (row.data["id"], row.data["kind"]) == ("b", "not readable")
    assert said in row.data["finding"]
    assert "wrong" not in check.metadata


def test_missing_changed_and_unreadable_files_are_each_named(chain, checks, scans, store, faults):
    chain(scans(["a", "b", "c", "d"]), store)
    faults.fail("HeadObject", Status(403, "AccessDenied"), key="base/files/copied/b/copy.txt", times=None)
    faults.fail("HeadObject", Replace(None), key="base/files/copied/c/copy.txt")
    faults.put("s3://bucket/base/files/copied/d/copy.txt", b"longer than it was")
    check = checks(store)["files_exist"]
    assert (check.passed, check.severity.value) == (False, "ERROR")
    assert check.description.startswith(
        "2 of 4 files are not as they were stored (1 missing, 1 changed); 1 could not be checked, the first: S3 says"
    )
    assert [row.data["kind"] for row in check.metadata["wrong"].records] == ["missing", "changed"]
    assert [check.metadata[name].value for name in ("files", "files_wrong", "files_not_readable")] == [4, 2, 1]


def test_one_head_per_file(chain, checks, scans, store, faults):
    chain(scans(["a", "b", "c"]), store)
    before = faults.count("HeadObject")
    checks(store, content_unchanged=False)
    assert faults.count("HeadObject") - before == 3


def test_without_credentials_nothing_is_called_wrong(run, local, checks, scans, store, copy, monkeypatch):
    """The manifest lies on disk, its files in a store."""

    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["a"])

    on_disk = ManifestIOManager(resource=local)
    copied = pipeline_asset(copy, name="copied", input=raw_scans)
    assert run([raw_scans, copied], store, resources={"io_manager": on_disk}).success
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = FileDatasetResource(endpoint_url=store.endpoint_url, base_path=store.base_path, max_concurrency=7)
    check = checks(nobody, io_manager=on_disk)["files_exist"]
    assert (check.passed, check.severity.value) == (False, "WARN")
    assert "redentials" in check.description


def test_every_materialized_partition_is_looked_at(run, local, scans, checks, tmp_path, copy):
    days = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])

    @dg.asset(partitions_def=days)
    def raw_scans(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return scans([context.partition_key])

    copied = pipeline_asset(copy, name="copied", input=raw_scans, partitions_def=days)
    for day in ("mon", "wed"):
        run([raw_scans, copied], local, partition_key=day)
    (tmp_path / "base" / "files" / "copied" / "wed" / "wed" / "copy.txt").unlink()
    check = checks(partitions_def=days)["files_exist"]
    assert (check.metadata["partitions"].value, check.description) == (
        2,
        "1 of 2 files are not as they were stored (1 missing)",
    )
    assert check.metadata["wrong"].records[0].data["partition"] == "wed"


def test_only_the_checks_asked_for_are_built():
    assert [check.check_key.name for check in build_manifest_checks("a")] == ["files_exist"]
    assert [c.check_key.name for c in build_manifest_checks("a", files_exist=False, content_unchanged=True)] == [
        "content_unchanged"
    ]


def test_they_run_with_the_asset_too(run, local, scans, copy):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["a"])

    copied = pipeline_asset(copy, name="copied", input=raw_scans)
    result = run([raw_scans, copied, *build_manifest_checks(copied)], local)
    assert {check.check_name for check in result.get_asset_check_evaluations()} == {"no_dropped_rows", "files_exist"}


def test_a_resource_of_another_type_is_reported(run, local, scans, copy):
    @dg.asset
    def raw_scans() -> pd.DataFrame:
        return scans(["a"])

    copied = pipeline_asset(copy, name="copied", input=raw_scans)
    result = run(
        [raw_scans, copied, *build_manifest_checks(copied, resource_key="other")], local, resources={"other": object()}
    )
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert "needs a FileDatasetResource there" in event.step_failure_data.error.cause.message
