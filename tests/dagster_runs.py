"""What tests of Dagster runs share: a fn, the tags of a run over a range of partitions, and why a step failed."""

import dagster as dg

from file_dataset_dagster._checks_by_partition import HAS_PARTITIONS

ONE_RUN = dg.BackfillPolicy.single_run()


def copy_scan(input_dir, output_dir):
    """Fn: copy.txt of scan.txt; a scan that says bad raises."""
    text = (input_dir / "scan.txt").read_text()
    if text == "bad":
        message = "a bad scan"
        raise ValueError(message)
    (output_dir / "copy.txt").write_text(text)
    return {"copy.txt": output_dir / "copy.txt"}


def range_tags(keys):
    """Tags of one run over all partitions from the first of these keys to the last."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}


def check_of(result):
    """The one evaluation of a check."""
    (check,) = result.get_asset_check_evaluations()
    return check


def checks_of_range(result, instance, name="copied"):
    """The checks of each partition of a run over a range, and what was said of all of them.

    That is a check of its own before Dagster 1.13, where an asset's check has a result for each partition; since then
    it is a line of the run's log.
    """
    checks = [check for check in result.get_asset_check_evaluations() if check.asset_key == dg.AssetKey(name)]
    if not HAS_PARTITIONS:
        return checks[:-1], checks[-1].description
    lines = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.step_key == name]
    return checks, next(line for line in reversed(lines) if "rows dropped, in " in line)


def metadata_of(result):
    """The metadata of what the step `copied` has materialized, by name."""
    (event,) = result.asset_materializations_for_node("copied")
    return {name: value.value for name, value in event.metadata.items()}


def failure_of(result):
    """The dg.Failure that the one failed step raised, as its event has it."""
    return _failed_step(result).user_failure_data


def causes_of(result):
    """The messages of the error of the one failed step and of all its causes."""
    error, messages = _failed_step(result).error, []
    while error is not None:
        messages.append(error.message)
        error = error.cause
    return "\n".join(messages)


def _failed_step(result):
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    return event.step_failure_data
