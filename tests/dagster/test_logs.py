"""What the library logs in a run of an asset: once in the log of that run; and no other line is touched."""

import logging
import threading
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from helpers import forward

import file_dataset
from file_dataset_dagster import ManifestIOManager, pipeline_asset


@pytest.fixture
def heard():
    """Every line that reaches the root logger's handlers, as those of a program around Dagster."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def run_fn(run, local, scans):
    """Materialize an asset of fn over two rows, of which `lost` names no file; more rows in `ids`."""

    def materialize(fn, *, run=run, ids=("kept", "lost"), **arguments):
        @dg.asset
        def raw_scans() -> pd.DataFrame:
            return scans(list(ids), missing=["lost"])

        return run([raw_scans, pipeline_asset(fn, name="copied", input=raw_scans, **arguments)], local)

    return materialize


def in_thread(work, name="of-another-user"):
    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()


def logged(instance, result):
    """Lines of the step in Dagster's log that are no events: (level, text)."""
    entries = [entry for entry in instance.all_logs(result.run_id) if entry.dagster_event is None]
    return [(logging.getLevelName(entry.level), entry.user_message) for entry in entries if entry.step_key == "copied"]


@pytest.mark.parametrize("show_ids", [True, False])
def test_another_run_in_the_process_keeps_its_log_lines(run_fn, heard, scans, tmp_path, show_ids):
    def beside(input_dir, output_dir):
        """Meanwhile another user of the process runs a Pipeline of theirs, which drops a row."""
        pipeline = file_dataset.Pipeline(forward, write_options={"into_path": tmp_path / "theirs"}, progress=False)
        in_thread(lambda: pipeline.run(scans(["their-row", "good"], missing=["their-row"])))
        return forward(input_dir, output_dir)

    assert run_fn(beside, show_ids=show_ids).success
    assert [line for line in heard if "row 'their-row' failed at download" in line]
    assert bool([line for line in heard if "row 'lost' failed at download" in line]) is show_ids


def test_a_line_of_another_thread_is_not_in_the_log_of_the_run(run_fn, instance):
    def beside(input_dir, output_dir):
        in_thread(lambda: logging.getLogger("file_dataset._run").warning("row 'theirs' failed"))
        return forward(input_dir, output_dir)

    assert "theirs" not in str(logged(instance, run_fn(beside)))


def test_the_process_keeps_levels_and_handlers(run_fn):
    loggers = [logging.getLogger(name) for name in ("file_dataset", "file_dataset._run", "file_dataset._http.loop")]
    seen = []

    def look(input_dir, output_dir):
        seen.append([(logger.level, list(logger.handlers), logger.propagate, logger.disabled) for logger in loggers])
        return forward(input_dir, output_dir)

    run_fn(look, show_ids=False)
    assert seen[0] == [(logger.level, list(logger.handlers), logger.propagate, logger.disabled) for logger in loggers]
    assert [logger.level for logger in loggers] == [logging.NOTSET] * 3


def test_a_module_that_is_loaded_late_is_heard_too(run_fn):
    """Modules of a folder are loaded when they are first used: a file of Ray's, or of worker processes."""
    root = Path(file_dataset.__file__).parent
    names = [".".join(["file_dataset", *path.relative_to(root).with_suffix("").parts]) for path in root.rglob("*.py")]
    run_fn(forward)
    modules = [name for name in names if not name.endswith("__init__")]
    assert [name for name in modules if not logging.getLogger(name).filters] == []


def fails(input_dir, output_dir):
    message = "a bad " + "scan"
    raise ValueError(message)


def test_a_dropped_row_is_a_warning_in_the_log_of_the_run_with_its_traceback(run_fn, instance):
    lines = logged(instance, run_fn(fails, ids=["bad"]))
    warned = [text for level, text in lines if level == "WARNING" and "row 'bad' failed at fn" in text]
    assert len(warned) == 1
    assert "raise ValueError(message)" in warned[0]


def test_a_dropped_row_is_printed_once_where_the_process_has_no_handler(run_fn, monkeypatch, capsys):
    """Python prints a warning that no handler takes, and so it stood once more below Dagster's line."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    run_fn(forward)
    assert capsys.readouterr().err.count("row 'lost' failed at download") == 1


def test_show_ids_false_leaves_dropped_rows_to_the_check(run_fn, instance):
    assert "failed at download" not in str(logged(instance, run_fn(forward, show_ids=False)))
    assert "row 'lost' failed at download" in str(logged(instance, run_fn(forward)))


SILENCE = "no answer from http://127.0.0.1:9 for 10 s: GET s3://b/lost"


def silent(input_dir, output_dir):
    """Meanwhile the loop of the transfers tells of a store that does not answer."""
    in_thread(lambda: logging.getLogger("file_dataset._http.loop").warning(SILENCE), name="file_dataset-http-0")
    return forward(input_dir, output_dir)


def test_a_warning_of_the_transfers_is_in_the_log_of_the_run(run_fn, instance):
    assert logged(instance, run_fn(silent)).count(("WARNING", SILENCE)) == 1


def test_a_warning_of_the_transfers_keeps_its_text_out_where_ids_are_hidden(run_fn, instance, heard):
    lines = logged(instance, run_fn(silent, show_ids=False))
    assert [text for level, text in lines if level == "WARNING" and text.startswith("file_dataset._http.loop logged a")]
    assert "b/lost" not in str(lines)
    assert SILENCE not in heard


@pytest.mark.parametrize("name", ["root", "file_dataset", "file_dataset._run"])
def test_a_line_is_there_once_where_dagster_captures_the_loggers_itself(run_fn, local, name):
    overrides = {"python_logs": {"managed_python_loggers": [name]}}
    with dg.DagsterInstance.local_temp(overrides=overrides) as instance:

        def run(assets, resource):
            resources = {"file_dataset": resource, "io_manager": ManifestIOManager(resource=resource)}
            return dg.materialize(assets, resources=resources, instance=instance)

        lines = logged(instance, run_fn(forward, run=run))
    assert len([text for _, text in lines if "row 'lost' failed at download" in text]) == 1
