"""The commands, each a few lines over the library's public names."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

import file_dataset
from file_dataset.cli import _endings, _frames
from file_dataset.cli._endings import say

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

_PACKAGE = str(Path(file_dataset.__file__).parent)
_STORE_OPTIONS = (
    click.option("--profile", metavar="NAME", help="Profile of ~/.aws to take credentials and settings from."),
    click.option("--endpoint-url", metavar="URL", help="S3 server other than AWS, such as https://minio.example:9000."),
    click.option("--region", metavar="NAME", help="Region of the buckets, such as eu-central-1."),
)
_EPILOG = """\b
Examples:
  file-dataset list --file image.mha='s3://my-bucket/raw/{id}/image.mha' -o scans.csv
  file-dataset plan my_module:resample scans.csv --into s3://my-bucket/resampled/
  file-dataset run my_module:resample scans.csv --into s3://my-bucket/resampled/ \\
      --checkpoint s3://my-bucket/runs/resampled/ -o manifest.parquet

\b
A frame is a CSV, Parquet or JSON lines file (.csv, .parquet, .jsonl), or - for stdin and stdout
(CSV): a row per case, with its id, a column per file with an s3:// URL or a path, and others.

\b
Exit codes: 0 all good; 2 the command is wrong, or the frame is refused; 3 some rows were dropped,
or files are missing or changed; 4 stopped; 130 after Ctrl-C; 143 after SIGTERM.

\b
Completion of commands, options and files, in ~/.bashrc, ~/.zshrc (after compinit), or config.fish:
  eval "$(_FILE_DATASET_COMPLETE=bash_source file-dataset)"
  eval "$(_FILE_DATASET_COMPLETE=zsh_source file-dataset)"
  _FILE_DATASET_COMPLETE=fish_source file-dataset | source
"""


def main() -> None:
    """Run a command and leave with its exit code."""
    if "_FILE_DATASET_COMPLETE" in os.environ:  # Tab was pressed
        from file_dataset.cli import _completion

        _completion.prepare()
    try:
        code = _group.main(prog_name="file-dataset", standalone_mode=False)
    except click.Abort:
        sys.exit(_endings.INTERRUPTED)
    except click.ClickException as exc:
        where = getattr(exc, "ctx", None)
        more = f" See {where.command_path} --help" if where is not None else ""
        say(f"Error: {exc.format_message()}{more}")
        sys.exit(_endings.USAGE)
    sys.exit(code)


def _show_version(ctx: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001  # as click calls
    if value and not ctx.resilient_parsing:
        click.echo(f"file-dataset {file_dataset.__version__}")
        ctx.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
    invoke_without_command=True,
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show it.")
@click.pass_context
def _group(ctx: click.Context) -> None:
    """Run functions on the files of a frame: s3:// URLs in, local files for fn, s3:// URLs out.

    Each command has a --help of its own, with what it costs.
    """
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())
        ctx.exit(_endings.USAGE)


def _command(*decorators: Callable[[Any], Any]) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a command, with the options of a store after its own; a function's name and docstring are the command's."""

    def made(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(profile: str | None, endpoint_url: str | None, region: str | None, **given: Any) -> None:  # noqa: ANN401
            _log_to_stderr()
            code = function(options=_options(profile, endpoint_url, region), **given)
            click.get_current_context().exit(code or _endings.GOOD)

        for decorate in reversed((*decorators, *_STORE_OPTIONS)):
            run = decorate(run)
        name = function.__name__.removesuffix("_command").lstrip("_")
        return _group.command(name, cls=_endings.Command)(run)

    return made


def _options(profile: str | None, endpoint_url: str | None, region: str | None) -> file_dataset.Options | None:
    session = {"profile_name": profile, "region_name": region}
    given = {name: value for name, value in session.items() if value}
    client = {"endpoint_url": endpoint_url} if endpoint_url else {}
    try:
        return file_dataset.Options.default(given, client) if given or client else None
    except PermissionError as exc:  # no such profile, or one whose credentials cannot be had
        raise file_dataset.InvalidDatasetError(f"--profile {profile}: {exc}") from exc


class _Log(logging.StreamHandler[Any]):
    """Log lines on stderr, above the bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(self.format(record), file=sys.stderr)
        else:
            super().emit(record)


class _Lines(logging.Formatter):
    """Under a failure are the lines of fn: not those of the library that called it, and not its message again."""

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802  # as logging has it
        """Return the traceback as text."""
        cause = ei[1].__cause__
        if type(cause).__name__ == "RemoteTraceback":  # of a worker process: its lines are text
            text = str(cause).strip('"\n')
            head, *lines = text.splitlines()
            return text if head in lines else "\n".join(itertools.takewhile(lambda line: line.startswith(" "), lines))
        found = traceback.TracebackException(*ei)
        own = [frame for frame in found.stack if not frame.filename.startswith(_PACKAGE)]
        found.stack = traceback.StackSummary.from_list(own)
        is_alone = own and found.__cause__ is None and (found.__context__ is None or found.__suppress_context__)
        return "".join(found.stack.format() if is_alone else found.format()).rstrip()


def _log_to_stderr() -> None:
    logger, log = logging.getLogger("file_dataset"), _Log(sys.stderr)
    log.setFormatter(_Lines())
    logger.setLevel(logging.INFO)
    logger.handlers = [log]


def _frame_argument() -> Callable[[Any], Any]:
    return click.argument("frame", type=click.Path(exists=True, dir_okay=False, allow_dash=True))


def _output_option(text: str, **more: Any) -> Callable[[Any], Any]:  # noqa: ANN401  # as click takes them
    return click.option("-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), help=text, **more)


_JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout, for machines.")
_FILE_COLUMNS = click.option(
    "--file-column", "file_columns", multiple=True, metavar="NAME",
    help="Column that names files; once for each. Without it names and values decide.",
)  # fmt: skip
_INTO = click.option(
    "--into", "into_path", required=True, metavar="PLACE",
    help="Where files go: an s3:// prefix or a directory. They lie at PLACE/<id>/<file name>.",
)  # fmt: skip


def _check_outputs(*paths: str | None, as_json: bool) -> None:
    """Refuse what no frame can be written to; the paths are those of `-o` and, where there is a second, `--failures`.

    Raises:
        InvalidDatasetError: naming the path.
    """
    given = [path for path in paths if path is not None]
    if as_json and "-" in given:
        option = "-o" if paths[0] == "-" else "--failures"
        raise file_dataset.InvalidDatasetError(f"--json and {option} - both write to stdout: give a file to {option}")
    if len({path if path == "-" else os.path.realpath(path) for path in given}) < len(given):
        raise file_dataset.InvalidDatasetError(f"{given[0]} is given twice: give -o and --failures files of their own")
    for path in given:
        _frames.check_name(path)


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _summarize(summary: str, *, as_json: bool, **counts: object) -> None:
    """Say how a command ended: for a person on stderr, or as the last of the lines for machines."""
    if as_json:
        click.echo(_frames.json_line({"summary": summary, **counts}))
    else:
        say(summary)


def _patterns(_ctx: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return file name -> pattern.

    Raises:
        BadParameter: a value is no `name=pattern`, or a name comes twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, pattern = value.partition("=")
        if not (name and equals and pattern):
            raise click.BadParameter(f"{value!r}: give NAME=PATTERN, such as image.mha='s3://my-bucket/{{id}}.mha'.")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice: give each file one pattern.")
        found[name] = pattern
    return found


@_command(
    click.option(
        "--file", "patterns", multiple=True, required=True, metavar="NAME=PATTERN", callback=_patterns,
        help="A file of each row, and where it lies; once for each file.",
    ),
    click.option("--id", metavar="TEXT", help="What ids are made of, such as '{site}-{patient}'; without it, {id}."),
    click.option("--details", is_flag=True, help="Add the columns <file>.size_bytes, .etag and .last_modified."),
    click.option("--allow-empty", is_flag=True, help="A pattern that matches nothing is no error."),
    _output_option("Where the frame goes; without it and --json stdout (CSV)."),
    _JSON,
)  # fmt: skip
def list_command(
    *,
    patterns: dict[str, str],
    output: str | None,
    as_json: bool,
    options: file_dataset.Options | None,
    **choices: Any,  # noqa: ANN401  # those of list_files
) -> None:
    """Make a frame of the files in a bucket or directory.

    In a pattern {name} stands for a segment of the path or a part of one, * for anything within a segment, ** for none
    or more segments. Rows are joined by the fields that patterns share. A file that is not there is an empty cell.

    Costs a LIST for every 1,000 keys below the text before the first { or *.

    \b
    Example:
      file-dataset list --file image.mha='s3://my-bucket/raw/{site}/{id}.mha' \\
          --file mask.mha='s3://my-bucket/masks/{id}*.mha' -o scans.parquet
    """  # noqa: D301  # click's mark
    _check_outputs(output, as_json=as_json)
    frame = file_dataset.list_files(patterns, options=options, **choices)
    if output is not None or not as_json:
        _frames.write_frame(frame, output or "-")
    for record in _frames.records(frame) if as_json else ():
        click.echo(_frames.json_line(record))
    _summarize(f"{_rows(len(frame))} listed", as_json=as_json, rows=len(frame))


_PIPELINE_OPTIONS = (
    click.argument("fn", metavar="MODULE:FN"),
    _frame_argument(),
    _INTO,
    click.option("--checkpoint", metavar="PLACE", help="Where finished rows are noted: the same command goes on."),
    click.option("--code-version", metavar="TEXT", help="Another one than before: all rows run again."),
    click.option("--check-inputs", is_flag=True, help="Rows whose files changed run again. A HEAD for each file."),
    click.option("--workers", type=int, default=0, metavar="N", help="Processes that fn runs in; 0: in this one."),
    click.option("--fn-timeout", "fn_timeout_s", type=float, metavar="SECONDS", help="What takes longer is a failure."),
    click.option("--prefetch", type=int, metavar="N", help="Rows that download ahead of fn; without it, as needed."),
    click.option("--max-failures", type=int, metavar="N", help="More failed rows stop the run."),
    click.option("--max-failed-fraction", type=float, metavar="F", help="So does a larger share: 0.05 are 5 %."),
    click.option("--output-file", "outputs", multiple=True, metavar="NAME", help="A file that fn returns, one each."),
    click.option("--if-exists", type=click.Choice(["overwrite", "error", "skip"]), default="overwrite",
                 show_default=True, help="What becomes of outputs that are there already."),
    click.option("--temp-dir", type=click.Path(file_okay=False), help="Where rows' files lie while fn works on them."),
    _FILE_COLUMNS,
    _JSON,
)  # fmt: skip


def _pipeline(  # noqa: PLR0913  # each is a choice of the user's
    fn: str,
    *,
    into_path: str,
    if_exists: Any,  # noqa: ANN401  # one of three words
    options: file_dataset.Options | None,
    outputs: tuple[str, ...],
    file_columns: tuple[str, ...],
    **choices: Any,  # noqa: ANN401  # those of Pipeline
) -> file_dataset.Pipeline:
    from file_dataset.cli._functions import load_fn

    return file_dataset.Pipeline(
        load_fn(fn),
        write_options={"into_path": into_path, "if_exists": if_exists},
        options=options,
        outputs=outputs or None,
        file_columns=file_columns or None,
        **choices,
    )


@_command(*_PIPELINE_OPTIONS)
def plan_command(
    *,
    frame: str,
    as_json: bool,
    checkpoint: str | None,
    code_version: str | None,
    check_inputs: bool,
    **choices: Any,  # noqa: ANN401  # those of Pipeline
) -> int:
    """Show what run would do: rows, bytes, requests, missing files.

    Takes the options of run, and moves nothing.

    Costs a HEAD for each file of the rows that would run, and what reading the checkpoint costs: a LIST, and a GET for
    each of its parts. Exit code 3 says that rows would be dropped: a file is missing, or there is none.

    \b
    Example:
      file-dataset plan my_module:resample scans.csv --into s3://my-bucket/resampled/
    """  # noqa: D301  # click's mark
    table = _frames.read_frame(frame)
    with _endings.stdout_for_the_command():  # the module may print when it is imported
        plan = _pipeline(**choices).plan(
            table, checkpoint=checkpoint, code_version=code_version, check_inputs=check_inputs, sizes=True
        )
    if as_json:
        for row in _frames.records(plan.rows):
            click.echo(_frames.json_line(row))
        click.echo(_frames.json_line(_forecast(plan)))
    else:
        click.echo(plan.report())
    return _endings.DROPPED if len(plan.missing_files) or plan.rows_without_files else _endings.GOOD


def _forecast(plan: file_dataset.Plan) -> dict[str, Any]:
    """Return what a plan says of all rows, as an object."""
    largest = plan.largest_row and {"id": plan.largest_row[0], "bytes": plan.largest_row[1]}
    return {
        "summary": plan.summary(), "rows": plan.counts, "input_bytes": plan.input_bytes, "largest_row": largest,
        "requests": plan.requests, "peak_disk_bytes": plan.peak_disk_bytes, "missing_files": len(plan.missing_files),
        "rows_without_files": plan.rows_without_files,
    }  # fmt: skip


@_command(
    *_PIPELINE_OPTIONS,
    _output_option("Where the manifest goes: the rows that are stored."),
    click.option(
        "--failures", type=click.Path(dir_okay=False), help="Where the failures go, also of a run that stops."
    ),
    click.option("--save", metavar="PLACE", help="Where the whole result goes, for verify and PipelineResult.load."),
)
def run_command(  # noqa: PLR0913  # each is a choice of the user's
    *,
    frame: str,
    as_json: bool,
    checkpoint: str | None,
    code_version: str | None,
    check_inputs: bool,
    output: str | None,
    failures: str | None,
    save: str | None,
    options: file_dataset.Options | None,
    **choices: Any,  # noqa: ANN401  # those of Pipeline
) -> int:
    """Run fn on the files of every row; store what it returns.

    MODULE:FN names a function of a module, which may lie in the current directory: fn(input_dir, output_dir) returns
    {file name: path}. A row that fails is dropped and reported; the others go on.

    Costs a GET for each input and a PUT for each output (more for files over 16 MiB down, 32 MiB up), and for a
    checkpoint a PUT for every 500 rows or 5 seconds. After Ctrl-C or SIGTERM no row begins, uploads end within 30 s,
    and the checkpoint has what is done: the same command goes on. A second Ctrl-C gives the uploads up.

    \b
    Example:
      file-dataset run my_module:resample scans.csv --into s3://my-bucket/resampled/ \\
          --checkpoint s3://my-bucket/runs/resampled/ --workers 4 -o manifest.parquet --failures failures.csv
    """  # noqa: D301  # click's mark
    _check_outputs(output, failures, as_json=as_json)
    table = _frames.read_frame(frame)
    _frames.check_storable(table, output, None if save is None else "result.parquet")
    try:
        with _endings.stdout_for_the_command() as own:
            progress = functools.partial(_print_row, own) if as_json else None
            pipeline = _pipeline(options=options, progress=progress, **choices)
            result = pipeline.run(table, checkpoint=checkpoint, code_version=code_version, check_inputs=check_inputs)
    except (file_dataset.RunStoppedError, KeyboardInterrupt) as exc:
        if (so_far := getattr(exc, "result", None)) is not None:
            _write(so_far, None, failures)
            _report(so_far, as_json=as_json, error=str(exc) or "interrupted")
            if checkpoint is None:
                say("Nothing of it is written down: with --checkpoint the same command goes on where it ended.")
        raise
    _write(result, output, failures)
    try:
        if save is not None:  # last: where it cannot be, the manifest is there
            result.save(save, options=options)
    except file_dataset.FileDatasetError as exc:
        _report(result, as_json=as_json, error=str(exc))
        raise
    _report(result, as_json=as_json)
    return _endings.DROPPED if result.dropped_rows else _endings.GOOD


def _print_row(own: TextIO, now: file_dataset.Progress, failed: str = "dropped") -> None:
    """Write a line for the row that ended; `failed` is the word for one that did."""
    first = now.failures[0] if now.failures else None
    names = ("stage", "file", "url", "type", "code", "message")
    why = {} if first is None else {f"error_{name}": getattr(first, name) for name in names}
    record = {"id": now.id, "state": "stored" if first is None else failed, **why}
    print(_frames.json_line(record), file=own, flush=True)


def _write(result: file_dataset.PipelineResult, output: str | None, failures: str | None) -> None:
    """Write the frames of a result."""
    if output is not None:
        _frames.write_frame(result.manifest, output)
    if failures is not None:
        _frames.write_frame(result.failures, failures)


def _report(result: file_dataset.PipelineResult, *, as_json: bool, error: str | None = None) -> None:
    """Write the summary of a result."""
    rest = result.input_rows - len(result.manifest) - result.dropped_rows
    summary = f"{result.summary()}{f'; {rest:,} not processed' if rest else ''}"
    counts = {"rows": result.input_rows, "stored": len(result.manifest), "dropped": result.dropped_rows}
    why = {} if error is None else {"error": error}
    _summarize(summary, as_json=as_json, **counts, not_processed=rest, **why)


def _move(move: Callable[..., pd.DataFrame], rows: int, output: str | None, where: str, *, as_json: bool) -> None:
    """Move the files of a frame, whose rows are `where` then; write the frame that comes back, and the summary."""
    verb = "is" if rows == 1 else "are"
    last = file_dataset.Progress(0, rows, 0)

    def note(now: file_dataset.Progress) -> None:
        nonlocal last
        last = now
        _print_row(sys.stdout, now, "failed")

    try:
        moved = move(progress=note if as_json else None)
    except (file_dataset.RowError, KeyboardInterrupt) as exc:
        if as_json:
            stored, rest = last.done - last.dropped, rows - last.done
            counts = {"rows": rows, "stored": stored, "failed": last.dropped, "not_processed": rest}
            summary = f"{stored:,} of {_rows(rows)} {verb} {where}"
            _summarize(summary, as_json=True, **counts, error=str(exc) or "interrupted")
        if isinstance(exc, file_dataset.RowError):
            _endings.leave_after(exc)
        raise
    if output is not None:
        _frames.write_frame(moved, output)
    _summarize(f"{_rows(rows)} {verb} {where}", as_json=as_json, rows=rows, stored=rows, failed=0, not_processed=0)


def _reader(frame: pd.DataFrame, options: file_dataset.Options | None, columns: tuple[str, ...]) -> file_dataset.Reader:
    return file_dataset.reader(frame, file_columns=columns or None, options=options)


@_command(
    _frame_argument(),
    click.argument("directory", type=click.Path(file_okay=False)),
    _FILE_COLUMNS,
    _output_option("Where a frame of the local paths goes."),
    _JSON,
)
def get_command(  # noqa: PLR0913  # each is a choice of the user's
    *,
    frame: str,
    directory: str,
    output: str | None,
    as_json: bool,
    options: file_dataset.Options | None,
    file_columns: tuple[str, ...],
) -> None:
    """Download the files of a frame into a directory.

    They lie at DIRECTORY/<id>/<file name>. A file that is there and whole is not read again: the same command goes on
    after an interruption.

    Costs a GET for each file that is not there, and a HEAD for each that is.

    \b
    Example:
      file-dataset get scans.csv scans/ -o local.csv
    """  # noqa: D301  # click's mark
    _check_outputs(output, as_json=as_json)
    table = _frames.read_frame(frame)
    read = functools.partial(_reader(table, options, file_columns).into_dir, directory)
    _move(read, len(table), output, f"in {directory}", as_json=as_json)


@_command(_frame_argument(), _INTO, _FILE_COLUMNS, _output_option("Where the manifest goes."), _JSON)
def put_command(  # noqa: PLR0913  # each is a choice of the user's
    *,
    frame: str,
    into_path: str,
    output: str | None,
    as_json: bool,
    options: file_dataset.Options | None,
    file_columns: tuple[str, ...],
) -> None:
    """Upload the local files of a frame.

    They lie at PLACE/<id>/<file name>. A file that is missing is an error before the first byte moves.

    Costs a PUT for each file (over 32 MiB: one for each part, and two requests more).

    \b
    Example:
      file-dataset put local.csv --into s3://my-bucket/raw/ -o manifest.parquet
    """  # noqa: D301  # click's mark
    _check_outputs(output, as_json=as_json)
    table = _frames.read_frame(frame)
    _frames.check_storable(table, output)
    columns = file_columns or None

    def store(progress: Any) -> pd.DataFrame:  # noqa: ANN401  # as write_files has it
        return file_dataset.write_files(
            table, into_path=into_path, file_columns=columns, options=options, progress=progress
        )

    _move(store, len(table), output, f"stored below {into_path}", as_json=as_json)


@_command(click.argument("place"), _JSON)
def verify_command(*, place: str, as_json: bool, options: file_dataset.Options | None) -> int:
    """Check that what a run stored is there and unchanged.

    PLACE is what --save or --checkpoint was given. A file is unchanged when it has the checksum, else the ETag, else
    the size that it was stored with.

    Costs a HEAD for each file, and what reading the result costs. Exit code 3: files are missing or changed; 4: some
    cannot be looked at.

    \b
    Example:
      file-dataset verify s3://my-bucket/results/today/
    """  # noqa: D301  # click's mark
    files = file_dataset.PipelineResult.load(place, options=options).files
    wrong = file_dataset.verify(files, options=options)
    counts = {kind: int((wrong["kind"] == kind).sum()) for kind in ("missing", "changed", "not readable")}
    found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    summary = (
        f"{len(files) - len(wrong):,} of {len(files):,} files are as they were stored{f'; {found}' if found else ''}"
    )
    for record in _frames.records(wrong):
        shown = f"{record['kind']}: row {record['id']!r}: {record['location']}: {record['finding']}"
        click.echo(_frames.json_line(record) if as_json else shown)
    counts_of = {name.replace(" ", "_"): count for name, count in counts.items()}
    click.echo(_frames.json_line({"summary": summary, "files": len(files), **counts_of}) if as_json else summary)
    if counts["missing"] or counts["changed"]:
        return _endings.DROPPED
    return _endings.STOPPED if counts["not readable"] else _endings.GOOD
