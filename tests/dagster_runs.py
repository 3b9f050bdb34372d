"""What tests of Dagster runs share: a fn, the tags of a run over a range of partitions, and why a step failed."""

import dagster as dg

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
