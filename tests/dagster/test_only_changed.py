"""`only_changed` runs what is new, what failed and what has other files than were read, and says how many of each."""

from pathlib import Path

import pandas as pd
import pytest
from dagster_runs import check_of, failure_of, metadata_of

import file_dataset
from file_dataset_dagster import FileDatasetResource
from file_dataset_dagster._dropped_rows import Comparison
from file_dataset_dagster._partial_runs import PartialRun

ONLY_CHANGED = {"only_changed": True}


@pytest.fixture
def ran(chain, scans):
    """Rows a to d, run once, of which d failed; then b is another text, a has left, and e has come."""
    frame = scans("abcd", missing=["d"])
    chain(frame)
    path = Path(frame["scan.txt"][1])
    path.write_text("another scan b")
    came = pd.DataFrame({"id": ["e"], "scan.txt": [str(path)]})
    return pd.concat([frame.tail(3), came], ignore_index=True)


def test_the_check_says_what_was_found(chain, ran, stored):
    Path(ran["scan.txt"][2]).write_text("scan d")
    result = chain(ran, config=ONLY_CHANGED)
    check = check_of(result)
    assert check.description == "0 of 4 rows dropped; 1 new, 1 failed before, 1 changed, 1 gone, 1 unchanged"
    found = {name: check.metadata[f"{name}_rows"].value for name in ("new", "failed", "changed", "gone", "unchanged")}
    assert found == {"new": 1, "failed": 1, "changed": 1, "gone": 1, "unchanged": 1}
    assert metadata_of(result)["rows_run"] == 3
    assert stored()["id"].tolist() == list("bcde")
    assert {Path(at).read_text() for at in stored()["copy.txt"]} == {"another scan b", "scan c", "scan d"}
    again = chain(ran, config=ONLY_CHANGED)
    assert check_of(again).description == "0 of 4 rows dropped; 0 new, 0 changed, 0 gone, 4 unchanged"
    assert metadata_of(again)["rows_run"] == 0


def test_only_missing_does_not_look(chain, ran):
    assert metadata_of(chain(ran, config={"only_missing": True}))["rows_run"] == 2


def test_a_limit_runs_so_many_and_leaves_the_others_for_later(chain, scans, stored):
    frame = scans("abcd")
    chain(frame)
    for row in (0, 2):
        Path(frame["scan.txt"][row]).write_text("another scan")
    assert metadata_of(chain(frame, config={**ONLY_CHANGED, "limit": 1}))["rows_run"] == 1
    result = chain(frame, config=ONLY_CHANGED)
    assert check_of(result).description.endswith("0 new, 1 changed, 0 gone, 3 unchanged")
    assert metadata_of(result)["rows_run"] == 1


def test_without_a_manifest_all_rows_are_new(chain, scans):
    result = chain(scans("abcd"), config=ONLY_CHANGED)
    assert check_of(result).description == "0 of 4 rows dropped; 4 new, 0 changed, 0 gone, 0 unchanged"


def test_rows_of_which_it_is_not_known_what_was_read_run(chain, scans, local, stored):
    """Manifests of before this have no `.inputs.parquet`, and a part of the rows does not make one that is whole."""
    frame = scans("abcd", missing=["d"])
    chain(frame)
    (inputs,) = Path(local.base_path).rglob("*.inputs.parquet")
    inputs.unlink()
    Path(frame["scan.txt"][3]).write_text("scan d")
    chain(frame, config={"only_missing": True})
    assert not inputs.exists()
    assert check_of(chain(frame, config=ONLY_CHANGED)).description.endswith("0 new, 4 changed, 0 gone, 0 unchanged")
    assert stored("inputs")["id"].tolist() == list("abcd")


def test_after_a_run_that_did_not_store_its_manifest_too(chain, scans, stored):
    frame = scans("abcd")
    chain(frame)
    for row in (0, 1):
        Path(frame["scan.txt"][row]).write_text("another scan")
    Path(frame["scan.txt"][2]).unlink()
    assert not chain(frame, max_dropped_fraction=0.0).success
    Path(frame["scan.txt"][2]).write_text("scan c")
    Path(frame["scan.txt"][1]).write_text("yet another scan")
    result = chain(frame, config=ONLY_CHANGED)
    assert check_of(result).description.endswith("0 new, 1 failed before, 1 changed, 0 gone, 2 unchanged")
    assert metadata_of(result)["rows_run"] == 2
    assert Path(stored()["copy.txt"][1]).read_text() == "yet another scan"


@pytest.mark.parametrize("has_etags", [False, True])
def test_it_costs_one_head_a_file_and_none_where_the_input_has_etags(chain, faults, has_etags):
    store = FileDatasetResource(endpoint_url=faults.endpoint_url, base_path="s3://bucket/base")
    for row in "abc":
        faults.put(f"s3://bucket/in/{row}", row.encode())
    frame = pd.DataFrame({"id": list("abc"), "scan.txt": [f"s3://bucket/in/{row}" for row in "abc"]})

    def listed():
        client = store.get_options().s3_client
        etags = [client.head_object(Bucket="bucket", Key=f"in/{row}")["ETag"].strip('"') for row in "abc"]
        return frame.assign(**{"scan.txt.etag": etags}) if has_etags else frame

    chain(listed(), store)
    faults.put("s3://bucket/in/b", b"B")
    now = listed()
    faults.reset()
    result = chain(now, store, config=ONLY_CHANGED)
    assert check_of(result).description.endswith("0 new, 1 changed, 0 gone, 2 unchanged")
    assert faults.count("HeadObject") == (0 if has_etags else 3)
    assert sum(faults.count("GetObject", f"in/{row}") for row in "abc") == 1


def test_ids_beside_it_are_refused():
    with pytest.raises(file_dataset.InvalidDatasetError, match="give ids alone"):
        PartialRun(only_changed=True, ids=["a"]).check()


def test_an_input_that_cannot_be_looked_at_runs_and_fails(chain, scans):
    frame = scans("ab")
    chain(frame)
    Path(frame["scan.txt"][0]).unlink()
    result = chain(frame, config=ONLY_CHANGED, max_dropped_fraction=0.0)
    assert "1 of 2 rows dropped" in failure_of(result).description


def test_thousands_are_readable():
    assert str(Comparison(12, 0, 3, 1, 9984)) == "12 new, 3 changed, 1 gone, 9,984 unchanged"
