"""Data versions come from content: the same content leaves downstream fresh, other content does not."""

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

import file_dataset
from file_dataset_dagster import ManifestIOManager, pipeline_asset
from file_dataset_dagster._data_versions import version_of_frames, version_of_result

COPIED = dg.AssetKey("copied")


def version(instance, key=COPIED):
    return instance.get_latest_materialization_event(key).asset_materialization.tags["dagster/data_version"]


def result(files, manifest=None, outputs=("o.txt",)):
    """A result whose files are (id, file, location, etag, checksum)."""
    names = ["id", "file", "location", "etag", "checksum"]
    rows = pd.DataFrame(files, columns=names, dtype=object).assign(size_bytes=1)
    if manifest is None:
        manifest = pd.DataFrame({"id": rows["id"].unique()})
    for number, name in enumerate(outputs):
        manifest.insert(number, name, "s3://somewhere")
    return file_dataset.PipelineResult(None, manifest, pd.DataFrame({"id": []}), rows)


FIRST = ("1", "o.txt", "s3://a/1/o.txt", "etag-1", "CRC64NVME:1")
SECOND = ("2", "o.txt", "s3://a/2/o.txt", "etag-2", "CRC64NVME:2")


@pytest.mark.parametrize(
    "other",
    [
        [SECOND, FIRST],
        [(*FIRST[:2], "s3://copied/1/o.txt", "another etag", FIRST[4]), SECOND],
    ],
    ids=["another order", "a copied bucket"],
)
def test_the_same_content_is_the_same_version(other):
    assert version_of_result(result(other)) == version_of_result(result([FIRST, SECOND]))


@pytest.mark.parametrize(
    "other",
    [
        [FIRST],
        [FIRST, (*SECOND[:4], "CRC64NVME:3")],
        [FIRST, ("3", *SECOND[1:])],
        [FIRST, ("2", "p.txt", *SECOND[2:])],
    ],
    ids=["a row less", "other content", "another id", "another file"],
)
def test_other_content_is_another_version(other):
    assert version_of_result(result(other)) != version_of_result(result([FIRST, SECOND]))


def test_the_etag_counts_where_there_is_no_checksum():
    one, other = ([(*FIRST[:3], etag, None)] for etag in ("x", "y"))
    assert version_of_result(result(one)) != version_of_result(result(other))


def test_a_local_file_counts_by_its_bytes(tmp_path):
    versions = []
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
        versions.append(version_of_result(result([("1", "o.txt", str(tmp_path / name), None, None)])))
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    "labels",
    [pd.Series([7, None], dtype="Int64"), pd.Series([7, None], dtype=object), pd.Series(["x", None])],
    ids=["Int64", "object", "text"],
)
def test_carried_values_count_and_their_dtype_does_not(labels):
    def of(values):
        return version_of_result(result([FIRST, SECOND], pd.DataFrame({"id": ["1", "2"], "label": values})))

    assert of(labels) == of(labels.astype(object))
    assert of(labels) != of(pd.Series([8, None], dtype=object))


def test_a_frame_is_its_values_in_any_order():
    frame = pd.DataFrame({"id": [1, 2], "a.mha": ["s3://a", "s3://b"]})
    assert version_of_frames({"": frame}) == version_of_frames({"": frame[::-1]})
    assert version_of_frames({"": frame}) != version_of_frames({"": frame.assign(id=[1, 3])})
    assert version_of_frames({"x": frame}) != version_of_frames({"y": frame})


def status(instance, assets, resource, key):
    """What Dagster's UI says of an asset."""
    resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
    graph = dg.Definitions(assets=assets, resources=resources).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return resolver.get_status(dg.AssetKey(key)).value


@pytest.mark.parametrize("where", ["s3", "local"])
def test_downstream_is_fresh_after_the_same_content_and_stale_after_new(run, scans, instance, request, where, tmp_path):
    resource = request.getfixturevalue("resource" if where == "s3" else "local")

    @dg.asset(code_version="1")
    def raw_scans() -> pd.DataFrame:
        return scans(["a", "b"])

    def copy(input_dir, output_dir):
        return {"copy.txt": input_dir / "scan.txt"}

    copied = pipeline_asset(copy, name="copied", input=raw_scans, code_version="1")

    @dg.asset(code_version="1")
    def report(copied: pd.DataFrame) -> None: ...

    assets = [raw_scans, copied, report]
    run(assets, resource)
    first = version(instance)
    run(assets, resource, selection=["raw_scans", "copied"])
    assert version(instance) == first
    assert status(instance, assets, resource, "report") == "FRESH"
    # the frame is the same, and what lies behind it is not
    (tmp_path / "input" / "a" / "scan.txt").write_text("other content")

    @dg.asset(name="raw_scans", code_version="1")
    def unchanged() -> pd.DataFrame:
        return pd.DataFrame({"id": ["a", "b"], "scan.txt": [f"{tmp_path}/input/{name}/scan.txt" for name in "ab"]})

    run([unchanged, copied], resource)
    assert version(instance) != first
    assert status(instance, assets, resource, "report") == "STALE"


def test_a_root_frame_has_the_version_of_its_values(run, local, instance):
    rows = [pd.DataFrame({"id": [1]}), pd.DataFrame({"id": [1]}), pd.DataFrame({"id": [2]})]
    frames = iter(rows)

    @dg.asset
    def table() -> pd.DataFrame:
        return next(frames)

    versions = []
    for _ in rows:
        run([table], local)
        versions.append(version(instance, table.key))
    assert versions[0] == versions[1] != versions[2]


def test_an_asset_that_states_its_own_version_keeps_it(run, local, instance):
    @dg.asset
    def table() -> dg.MaterializeResult[pd.DataFrame]:
        return dg.MaterializeResult(value=pd.DataFrame({"id": [1]}), data_version=dg.DataVersion("mine"))

    run([table], local)
    assert version(instance, table.key) == "mine"


def test_an_io_manager_is_called_directly_in_a_test(local):
    manifests = ManifestIOManager(resource=local)
    manifests.handle_output(dg.build_output_context(asset_key=dg.AssetKey("table")), pd.DataFrame({"id": [1]}))
    assert manifests.load(manifests.uri(dg.AssetKey("table")))["id"].tolist() == [1]
