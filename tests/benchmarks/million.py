"""What a million rows cost: CPU and memory a row, of every step that holds or looks at all rows. `make bench-million`.

Each step is measured in two processes of its own, over a tenth of the rows and over all of them: a step is linear when
a row costs the same in both. Memory is the peak above what the process held before the step, the caller's frame
included. One step, while working on it:
`.venv/bin/python tests/benchmarks/million.py --only 'outcomes*' --rows 200000`.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import gc
import json
import logging
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

import file_dataset
from file_dataset import _frame
from file_dataset._book import Book
from file_dataset._errors import Failure, RowError
from file_dataset._interrupts import Interrupts
from file_dataset._settings import Wish
from file_dataset._tally import Failed, Stored, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROWS = 1_000_000
_TENTHS = 10
_INTO = "s3://bucket/outputs"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `setup` takes a number of rows and a directory, and returns what is measured."""

    name: str
    setup: Callable[[int, Path], Callable[[], object]]
    share: float = 1.0  # of the million: less where a row is a file that is copied


def frame_of(count: int, cell: Callable[[int], object] | None = None, row_id: str = "case-%07d") -> pd.DataFrame:
    """Return a frame of rows as they come: text ids, URLs, a number that is carried along."""
    cells = [f"s3://bucket/scans/{row_id % number}.mha" if cell is None else cell(number) for number in range(count)]
    ids = [row_id % number for number in range(count)]
    return pd.DataFrame({"id": ids, "scan.mha": pd.Series(cells, dtype=object), "label": range(count)})


def same(path: Path) -> Callable[[int], object]:
    """Return what has every row read one small file."""
    file = path / "scan.mha"
    file.write_bytes(b"x" * 100)
    return lambda _: str(file)


def forward(input_dir: Path, output_dir: Path) -> dict[str, Path]:
    """Return the input."""
    return {"copy.mha": input_dir / "scan.mha"}


def pipeline(into: object, **arguments: Any) -> file_dataset.Pipeline:
    """Return a Pipeline that copies and is silent."""
    return file_dataset.Pipeline(forward, into_path=str(into), progress=False, **arguments)


def tally_of(count: int, *, failed: Callable[[int], bool] = lambda _: False, **arguments: Any) -> tuple[Tally, Any]:
    """Return the tally of a run on S3 that nothing has been put in, and what puts every outcome."""
    prepared = pipeline(_INTO, **arguments)._prepare(frame_of(count))  # noqa: SLF001  # what a run does first
    tally = Tally(prepared.settings, prepared.contract, count, (prepared.source, prepared.target))

    cells = prepared.rows.cells["scan.mha"]

    def fill() -> None:
        for position in range(count):
            row_id = prepared.rows.id_at(position)
            if failed(position):
                tally.put(position, Failed(RowError([missing(row_id)])))
                continue
            tally.put(position, stored(row_id, cells, position, count))

    return tally, lambda: (fill(), tally.result(prepared.rows))[1]


def stored(row_id: Any, cells: list[Any], position: int, count: int) -> Stored:
    """Return the outcome of a row that is stored."""
    location = f"{_INTO}/{row_id}/copy.mha"
    etag, checksum = f"{position:032x}", f"CRC64NVME:{position:012x}"
    file = _frame.StoredFile(position, "copy.mha", location, 100, etag, checksum)
    # texts of its own: the answers that they come from are others
    etag, checksum = f"{position + count:032x}", f"CRC64NVME:{position + count:012x}"
    read = _frame.InputFile(position, "scan.mha", cells[position], 100, etag, None, checksum)
    return Stored({"copy.mha": location}, (file,), 0, (read,))


def missing(row_id: Any) -> Failure:
    """Return a failure as S3's answers make it."""
    url = f"s3://bucket/scans/{row_id}.mha"
    return Failure(row_id, "download", "scan.mha", url, "FileNotFoundError", "NoSuchKey", f"{url} does not exist")


def is_odd(position: int) -> bool:
    """Return whether this row fails where half of them do."""
    return bool(position % 2)


def half(count: int) -> file_dataset.PipelineResult:
    """Return a result of which every second row failed."""
    result: file_dataset.PipelineResult = tally_of(count, failed=is_odd)[1]()
    return result


def of_result(use: Callable[[file_dataset.PipelineResult], object]) -> Callable[[int, Path], Callable[[], object]]:
    """Return the setup of what is done with a result."""

    def setup(count: int, _: Path) -> Callable[[], object]:
        result = half(count)
        return lambda: use(result)

    return setup


def raised(result: file_dataset.PipelineResult) -> object:
    """Return the error that has every failure."""
    try:
        result.raise_if_dropped()
    except file_dataset.RowError as error:
        return error
    raise AssertionError


def of_frame(into: str, **columns: Any) -> Callable[[int, Path], Callable[[], object]]:
    """Return the setup of checking a frame, as a run does before its first request."""

    def setup(count: int, scratch: Path) -> Callable[[], object]:
        frame = frame_of(count, **columns)
        target = pipeline(scratch / "out" if into == "local" else into)
        return lambda: target._prepare(frame)  # noqa: SLF001  # what a run does first

    return setup


def of_run(cell: object, **arguments: Any) -> Callable[[int, Path], Callable[[], object]]:
    """Return the setup of a run in which every row has this cell."""

    def setup(count: int, scratch: Path) -> Callable[[], object]:
        frame = frame_of(count, lambda _: cell)
        target = pipeline(scratch / "out", **arguments)
        return lambda: target.run(frame)

    return setup


def local_files(count: int, scratch: Path) -> Callable[[], object]:
    """Run over local files: what is checked of progress is its first and its last tenth."""
    frame = frame_of(count, same(scratch))
    seen: list[tuple[int, float]] = []
    target = file_dataset.Pipeline(
        forward,
        into_path=str(scratch / "out"),
        progress=lambda now: (
            seen.append((now.done, time.process_time())) if now.done % (count // _TENTHS) == 0 else None
        ),
    )

    def run() -> dict[str, float]:
        seen.append((0, time.process_time()))
        target.run(frame)
        tenths = [after - before for (_, before), (_, after) in pairwise(seen)]
        return {"last tenth / first": tenths[-1] / tenths[0]}

    return run


def reading(use: Callable[[file_dataset.Reader], object], cell: object = None) -> Callable[[int, Path], Any]:
    """Return the setup of a verb of `reader` over local files."""

    def setup(count: int, scratch: Path) -> Callable[[], object]:
        reader = file_dataset.reader(frame_of(count, (lambda _: cell) if cell else same(scratch)))
        return lambda: use(reader)

    return setup


def refused(reader: file_dataset.Reader) -> object:
    """Return the error that names every file."""
    try:
        reader.into_size_table()
    except (file_dataset.InvalidDatasetError, file_dataset.RowError) as error:
        return error
    raise AssertionError


def of_checkpoint(
    use: Callable[[file_dataset.Pipeline, pd.DataFrame, Path], object],
) -> Callable[[int, Path], Callable[[], object]]:
    """Return the setup of what is done with a checkpoint in which every row is done."""

    def setup(count: int, scratch: Path) -> Callable[[], object]:
        place = scratch / f"runs-{count}"
        frame, target = frame_of(count), pipeline(_INTO, outputs=["copy.mha"])
        written(target, frame, place)
        return lambda: use(target, frame, place)

    return setup


def written(target: file_dataset.Pipeline, frame: pd.DataFrame, place: Path) -> None:
    """Write all rows down as a run does, parts of 500 that are joined."""
    book = Book(target._prepare(frame), Wish(place, None, check_inputs=False))  # noqa: SLF001
    cells = book.part.rows.cells["scan.mha"]
    with book.writing(Interrupts()):
        for position, row_id in enumerate(book.part.rows.ids or ()):
            book.journal.put(position, stored(row_id, cells, position, len(frame)))


def recorded(count: int, scratch: Path) -> Callable[[], object]:
    """Run a manifest in which every row failed in an earlier Pipeline."""
    manifest = tally_of(count, failed=lambda _: True, on_failure="record")[1]().manifest
    target = file_dataset.Pipeline(
        forward, into_path=str(scratch / "out"), progress=False, on_failure="record", file_columns=["scan.mha"]
    )
    frame = manifest.assign(**{"scan.mha": "s3://bucket/scan.mha"})
    return lambda: target.run(frame)


def writing(count: int, scratch: Path) -> Callable[[], object]:
    """Write all rows down: what is counted is the parts that are left."""
    frame, place = frame_of(count), scratch / f"runs-{count}"

    def write() -> dict[str, float]:
        written(pipeline(_INTO, outputs=["copy.mha"]), frame, place)
        return {"parts": len(list(place.iterdir()))}

    return write


STEPS = (
    Step("check, into S3", of_frame(_INTO)),
    Step("check, into a directory", of_frame("local")),
    Step("check, into a directory, accents in ids", of_frame("local", row_id="Fallé-%07d")),
    Step("check, paths into a directory", of_frame("local", cell=lambda number: f"/data/scans/{number}.mha")),
    Step("outcomes, all stored", lambda count, _: tally_of(count)[1]),
    Step("outcomes, half failed", lambda count, _: tally_of(count, failed=is_odd)[1]),
    Step("outcomes, all failed, recorded", lambda count, _: tally_of(count, failed=bool, on_failure="record")[1]),
    Step("run, no row can be read", of_run("gs://bucket/scan.mha")),
    Step("run, all null", of_run(None)),
    Step("run, all failed before", recorded),
    Step("run, local files", local_files, 0.1),
    Step("result, repr", of_result(repr)),
    Step("result, in a notebook", of_result(lambda result: result._repr_html_())),
    Step("result, failed_rows", of_result(lambda result: result.failed_rows)),
    Step("result, unprocessed_rows", of_result(lambda result: result.unprocessed_rows)),
    Step("result, merge", of_result(lambda result: result.merge(result))),
    Step("result, raise_if_dropped", of_result(raised)),
    Step("result, pickled", of_result(pickle.dumps)),
    Step("checkpoint, written", writing),
    Step("checkpoint, loaded", of_checkpoint(lambda _, __, place: file_dataset.PipelineResult.load(place))),
    Step("checkpoint, planned", of_checkpoint(lambda target, frame, place: target.plan(frame, checkpoint=place))),
    Step("checkpoint, all done", of_checkpoint(lambda target, frame, place: target.run(frame, checkpoint=place))),
    Step("sizes", reading(lambda reader: reader.into_size_table()), 0.1),
    Step("infos", reading(lambda reader: reader.into_info_table()), 0.1),
    Step("sizes, no file is there", reading(refused, "/none/scan.mha"), 0.1),
    Step("sizes, no row can be read", reading(refused, "gs://bucket/scan.mha")),
)


def trim() -> None:
    """Hand freed memory back to the system, so that what a step takes is seen."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)  # glibc's


def memory() -> tuple[int, int]:
    """Return what the process holds and the most that it held since the last call, in bytes. Linux alone."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)
    return now, peak


def measured(step: Step, count: int) -> dict[str, float]:
    """Return what one step costs in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        warm = Path(scratch, "warm")
        warm.mkdir()
        step.setup(20, warm)()  # what is imported, opened and found out once
        work = step.setup(count, Path(scratch))
        trim()
        before, _ = memory()
        started = time.process_time()
        found = work()
        cpu_s = time.process_time() - started
        _, peak = memory()
    more = found if isinstance(found, dict) else {}
    return {"cpu_us": cpu_s / count * 1e6, "bytes": (peak - before) / count, **more}


def lines(steps: list[Step], rows: int) -> Iterator[str]:
    """Yield the table, a line per step as soon as it is measured."""
    yield "| step | rows | CPU a row | of that in a tenth of the rows | memory a row | in a tenth of the rows | |"
    yield "|---|---|---|---|---|---|---|"
    for step in steps:
        count = int(rows * step.share)
        few, many = (_elsewhere(step, number) for number in (count // _TENTHS, count))
        more = ", ".join(f"{name} {value:.2f}" for name, value in many.items() if name not in {"cpu_us", "bytes"})
        yield (
            f"| {step.name} | {count:,} | {many['cpu_us']:.1f} us | {few['cpu_us']:.1f} us | {many['bytes']:.0f} B | "
            f"{few['bytes']:.0f} B | {more} |"
        )


def _elsewhere(step: Step, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--only", step.name, "--rows", str(count), "--here"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="STEP", default="*", help="a step such as 'result, *'")
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    chosen = [step for step in STEPS if fnmatch.fnmatch(step.name, given.only)]
    if given.here:
        logging.getLogger("file_dataset").setLevel(logging.CRITICAL)
        print(json.dumps(measured(chosen[0], given.rows)))
        return
    for line in lines(chosen, given.rows):
        print(line, flush=True)


if __name__ == "__main__":
    main()
