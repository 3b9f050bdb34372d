"""Assets whose outputs are directories: data versions, manifests, checks, pictures, and the asset that reads them."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from file_dataset_dagster import ManifestIOManager, build_manifest_checks, pipeline_asset

SERIES, COUNTED = dg.AssetKey("series"), dg.AssetKey("counted")
PNG = b"\x89PNG\r\n\x1a\n"


def slices(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    at = output_dir / "series.dcm"
    (at / "more").mkdir(parents=True)
    text = (input_dir / "scan.txt").read_text()
    for name in ("0001", "0002", "more/0003"):
        (at / name).write_text(f"{text} {name}")
    return {"series.dcm": at}


def counted(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    found = [path for path in (input_dir / "series.dcm").rglob("*") if path.is_file()]
    (output_dir / "count.txt").write_text(str(len(found)))
    return {"count.txt": output_dir / "count.txt"}


@pytest.fixture
def materialize(run):
    """Run raw -> series -> counted, with the checks of `series`."""

    def of(frame, resource, **arguments):
        @dg.asset
        def raw() -> pd.DataFrame:
            return frame

        series = pipeline_asset(slices, name="series", input=raw, **arguments)
        counts = pipeline_asset(counted, name="counted", input=series)
        checks = build_manifest_checks(series, content_unchanged=True)
        result = run([raw, series, counts, *checks], resource)
        assert result.success
        return result

    return of


def version(instance, key=SERIES):
    return instance.get_latest_materialization_event(key).asset_materialization.tags["dagster/data_version"]


@pytest.mark.parametrize("where", ["s3", "local"])
def test_a_directory_is_an_output_that_checks_know_and_the_next_asset_reads(materialize, scans, request, where):
    resource = request.getfixturevalue("resource" if where == "s3" else "local")
    result = materialize(scans(["a", "b"]), resource)
    manifests = ManifestIOManager(resource=resource)
    manifest = manifests.load(manifests.uri(SERIES, None))
    assert manifest["series.dcm"].str.endswith(("/a/series.dcm/", "/b/series.dcm/")).all()
    files = manifests.load(manifests.uri(SERIES, None, of="files"))
    assert files["file"].tolist() == ["series.dcm/0001", "series.dcm/0002", "series.dcm/more/0003"] * 2
    inputs = manifests.load(manifests.uri(COUNTED, None, of="inputs"))
    assert inputs["location"].tolist() == files["location"].tolist()
    evaluations = {each.check_name: each for each in result.get_asset_check_evaluations() if each.asset_key == SERIES}
    assert {name: each.passed for name, each in evaluations.items()} == {
        "no_dropped_rows": True, "files_exist": True, "content_unchanged": True,
    }  # fmt: skip
    assert evaluations["files_exist"].metadata["files"].value == 6


def test_the_same_content_is_the_same_version_and_one_slice_makes_another(materialize, scans, instance, resource):
    materialize(scans(["a", "b"]), resource)
    first, last = version(instance), version(instance, COUNTED)
    materialize(scans(["a", "b"]), resource)
    assert version(instance) == first
    frame = scans(["a", "b"])
    Path(frame["scan.txt"][0]).write_text("other")
    materialize(frame, resource)
    assert version(instance) != first
    assert version(instance, COUNTED) == last  # it counts the same slices


def test_an_object_of_a_directory_that_went_or_changed_is_named(materialize, scans, instance, resource, s3, bucket):
    materialize(scans(["a"]), resource)
    (at,) = [key for key in keys_of(s3, bucket) if key.endswith("/series.dcm/0001")]
    s3.delete_object(Bucket=bucket, Key=at)
    s3.put_object(Bucket=bucket, Key=at.replace("0001", "0002"), Body=b"scan a 000X")
    defs = dg.Definitions(
        assets=[dg.AssetSpec(SERIES)],
        asset_checks=build_manifest_checks(SERIES, content_unchanged=True),
        resources={"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)},
        jobs=[dg.define_asset_job("checks", selection=dg.AssetSelection.checks_for_assets(SERIES))],
    )
    result = defs.resolve_job_def("checks").execute_in_process(instance=instance, raise_on_error=False)
    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert checks["files_exist"].description == "1 of 3 files are not as they were stored (1 missing)"
    wrong = [row.data for row in checks["content_unchanged"].metadata["wrong"].records]
    assert [(row["file"], row["kind"]) for row in wrong] == [
        ("series.dcm/0001", "missing"), ("series.dcm/0002", "changed"),
    ]  # fmt: skip


def test_a_picture_is_made_of_a_directory(materialize, scans, instance, resource):
    def preview(output_dir):
        return PNG + str(len(list((output_dir / "series.dcm").iterdir()))).encode()

    materialize(scans(["a"]), resource, preview=preview)
    metadata = instance.get_latest_materialization_event(SERIES).asset_materialization.metadata
    assert "data:image/png;base64,iVBORw0KGgoz" in metadata["preview"].value  # the last letters are those of "3"


def keys_of(s3, bucket):
    return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
