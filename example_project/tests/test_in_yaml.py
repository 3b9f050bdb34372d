"""The YAML twin is the same asset graph as the Python one."""

from typing import Any

import dagster as dg
import pytest

from example_project import definitions, definitions_in_yaml


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the demo keeps its files; nothing is read or written there."""
    monkeypatch.setenv("FILE_DATASET_DEMO_S3", "s3://demo/prefix")


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
            "resources": sorted(node.assets_def.required_resource_keys),
        }
        for node in nodes
    }


def test_the_graph_in_yaml_is_that_in_python() -> None:
    in_python, in_yaml = graph(definitions.defs()), graph(definitions_in_yaml.defs())
    assert in_yaml == in_python
    # all of it: the graphs are not alike because both are empty
    assert set(in_yaml) == {"raw_scans", "resampled", "measured", "report", "arrivals", "pictures", "measured_on_ray"}
    assert in_yaml["measured"]["checks"] == ["content_unchanged", "files_exist", "no_dropped_rows"]
    assert in_yaml["pictures"]["partitions"].get_partition_keys()[-1] == "2026-01-10"


def test_jobs_schedules_and_resources_in_yaml_are_those_in_python() -> None:
    in_python, in_yaml = definitions.defs(), definitions_in_yaml.defs()
    for found in (in_python, in_yaml):
        assert {job.name for job in found.jobs} == {"cohort", "daily", "on_ray"}
        assert found.resolve_schedule_def("nightly").cron_schedule == "0 2 * * *"
    for key, of_python in in_python.resources.items():
        assert in_yaml.resources[key].model_dump() == of_python.model_dump()
