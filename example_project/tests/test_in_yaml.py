"""The YAML twin is the same asset graph as the Python one."""

import sys
from typing import Any

import dagster as dg
import pytest

from example_project import definitions, definitions_in_yaml


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the demo keeps its files; nothing is read or written there.

    The definitions read it when they are imported, which a test before this one may have done.
    """
    monkeypatch.setenv("FILE_DATASET_DEMO_S3", "s3://demo/prefix")
    for name in [name for name in sys.modules if name.startswith(("example_project.defs", "example_project.in_yaml"))]:
        monkeypatch.delitem(sys.modules, name)


def graph(defs: dg.Definitions) -> dict[str, dict[str, Any]]:
    """All that an asset is, by its key."""
    nodes = defs.resolve_asset_graph().asset_nodes
    return {
        node.key.to_user_string(): {
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "checks": sorted(check.name for check in node.check_keys),
            "partitions": node.partitions_def,
            "backfill_policy": node.backfill_policy,
            "kinds": node.kinds,
            "group": node.group_name,
            "description": node.description,
            "code_version": node.code_version,
            "manifest": node.metadata.get("dagster/uri"),
            "listing": node.metadata.get("file_dataset/listing"),
            "resources": sorted(node.assets_def.required_resource_keys),
        }
        for node in nodes
    }


def test_the_graph_in_yaml_is_that_in_python() -> None:
    in_python, in_yaml = graph(definitions.defs()), graph(definitions_in_yaml.defs())
    assert in_yaml == in_python
    # all of it: the graphs are not alike because both are empty
    assert set(in_yaml) == {
        *("listed_scans", "raw_scans", "resampled", "measured", "report"),
        *("arrivals", "pictures", "measured_on_ray", "listed_series", "volumes"),
    }
    assert in_yaml["listed_series"]["listing"].value["patterns"] == {"series": "s3://demo/prefix/raw/{id}/series/"}
    assert in_yaml["measured"]["checks"] == ["content_unchanged", "files_exist", "no_dropped_rows"]
    assert in_yaml["pictures"]["partitions"].get_partition_keys()[-1] == "2026-01-10"


def test_jobs_schedules_sensors_and_resources_in_yaml_are_those_in_python() -> None:
    in_python, in_yaml = definitions.defs(), definitions_in_yaml.defs()
    for found in (in_python, in_yaml):
        assert {job.name for job in found.jobs} == {"cohort", "daily", "on_ray", "series"}
        assert found.resolve_schedule_def("nightly").cron_schedule == "0 2 * * *"
        selected = [target.resolvable_to_job.selection for target in found.resolve_sensor_def("new_series").targets]
        assert selected == [dg.AssetSelection.groups("series")]
    for key, of_python in in_python.resources.items():
        assert in_yaml.resources[key].model_dump() == of_python.model_dump()
