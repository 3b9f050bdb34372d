"""What is refused, in one sentence and with exit code 2, before anything moves."""

from __future__ import annotations

import logging
import sys

import pytest

import file_dataset
from file_dataset.cli import main

FILES = {
    "scans.csv": "id,scan.txt\n007,raw/007.txt\n",
    "twice.csv": "id,scan.txt\n1,raw/1.txt\n1,raw/2.txt\n",
    "none.csv": "",
    "urls.csv": "id,scan.txt\n1,s3://my-bucket/1.txt\n",
    "scans.txt": "id\n1\n",
    "damaged.parquet": "PAR1 and no more",
    "odd.jsonl": '{"id": "1"}\n[1]\n',
    "mixed.jsonl": '{"id": "1", "scan.txt": "raw/1.txt", "n": 1}\n{"id": "2", "scan.txt": "raw/2.txt", "n": "one"}\n',
    "half.jsonl": '{"id": ',
    "good.py": (
        "def fn(input_dir, output_dir): ...\nnumber = 7\n\n\n"
        "class Resampler:\n    @staticmethod\n    def fn(input_dir, output_dir): ...\n"
        "    @classmethod\n    def of(cls, input_dir, output_dir): ...\n"
    ),
    "raises.py": "import os\nos.environ['NO_SUCH_VARIABLE']\n",
    "needs.py": "import no_such_package\n",
    "wrong.py": "def fn(:\n",
}
RUN = ["--into", "out"]
REFUSED = {
    "a command that there is not": (["jump"], "No such command 'jump'"),
    "an option that there is not": (["run", "--wrong"], "No such option"),
    "no frame": (["run", "good:fn"], "Missing argument 'FRAME'. See file-dataset run --help"),
    "no target": (["run", "good:fn", "scans.csv"], "Missing option '--into'"),
    "a frame that is not there": (["run", "good:fn", "gone.csv", *RUN], "'gone.csv' does not exist"),
    "another suffix": (["run", "good:fn", "scans.txt", *RUN], "scans.txt: give a name that ends in .csv"),
    "a damaged frame": (["run", "good:fn", "damaged.parquet", *RUN], "damaged.parquet is no Parquet file"),
    "an empty frame": (["run", "good:fn", "none.csv", *RUN], "none.csv is empty"),
    "a line that is no object": (["run", "good:fn", "odd.jsonl", *RUN], "odd.jsonl, line 2: give an object"),
    "a line that is no JSON": (["run", "good:fn", "half.jsonl", *RUN], "half.jsonl, line 1 is no JSON"),
    "ids that come twice": (["run", "good:fn", "twice.csv", *RUN], "duplicate"),
    "a module that there is not": (["run", "gone:fn", "scans.csv", *RUN], "there is no module 'gone'"),
    "a package that there is not": (["run", "gone.sub:fn", "scans.csv", *RUN], "there is no module 'gone.sub'"),
    "a function that there is not": (["run", "good:gone", "scans.csv", *RUN], "its functions are fn"),
    "what is no function": (["run", "good:number", "scans.csv", *RUN], "fn is a int: give a function"),
    "a module without a function": (["run", "good", "scans.csv", *RUN], "package.module:fn"),
    "a path": (["run", "./good.py:fn", "scans.csv", *RUN], "give the module's name, good:fn"),
    "a module that raises": (["run", "raises:fn", "scans.csv", *RUN], "raises.py, line 2)"),
    "a module that needs another": (["run", "needs:fn", "scans.csv", *RUN], "No module named 'no_such_package'"),
    "a module with a typo": (["run", "wrong:fn", "scans.csv", *RUN], "SyntaxError"),
    "5 for 5 %": (["run", "good:fn", "scans.csv", *RUN, "--max-failed-fraction", "5"], "write 5 % as 0.05"),
    "a number that is none": (["run", "good:fn", "scans.csv", *RUN, "--workers", "many"], "'many' is not a valid"),
    "an output in no directory": (["run", "good:fn", "scans.csv", *RUN, "-o", "gone/m.csv"], "no directory 'gone'"),
    "an output in a bucket": (["run", "good:fn", "scans.csv", *RUN, "-o", "s3://b/m.csv"], "frames are local files"),
    "an output of another suffix": (["run", "good:fn", "scans.csv", *RUN, "-o", "m.xlsx"], "m.xlsx: give a name"),
    "values of a manifest in Parquet": (["run", "good:fn", "mixed.jsonl", *RUN, "-o", "m.parquet"], "columns ['n']"),
    "values of a saved result": (["run", "good:fn", "mixed.jsonl", *RUN, "--save", "r"], "columns ['n']"),
    "stdout twice": (["run", "good:fn", "scans.csv", *RUN, "-o", "-", "--json"], "both write to stdout"),
    "stdout twice for a list": (["list", "--file", "a.txt=raw/{id}.txt", "-o", "-", "--json"], "both write to stdout"),
    "stdout twice for get": (["get", "scans.csv", "here", "-o", "-", "--json"], "both write to stdout"),
    "stdout twice for put": (["put", "scans.csv", "--into", "out", "-o", "-", "--json"], "both write to stdout"),
    "a pattern without a name": (["list", "--file", "raw/{id}.txt"], "give NAME=PATTERN"),
    "a file twice": (["list", "--file", "a.txt=a/{id}", "--file", "a.txt=b/{id}"], "'a.txt' is given twice"),
    "a pattern that matches nothing": (["list", "--file", "a.txt=a/{id}.txt"], "--allow-empty"),
    "an output where no file can be made": (["run", "good:fn", "scans.csv", *RUN, "-o", "/proc/m.csv"], "/proc/m.csv"),
    "failures where no file can be made": (["run", "good:fn", "scans.csv", *RUN, "--failures", "/proc/m.csv"], "/proc"),
    "a list where no file can be made": (["list", "--file", "a.txt=raw/{id}", "-o", "/proc/m.csv"], "/proc/m.csv"),
    "a name that is too long": (
        ["get", "scans.csv", "here", "-o", f"{'x' * 255}.csv"],
        ".csv cannot be written: File name",
    ),
    "one file for two frames": (
        ["run", "good:fn", "scans.csv", *RUN, "-o", "m.csv", "--failures", "./m.csv"],
        "m.csv is given twice: give -o and --failures files of their own",
    ),
    "stdout for two frames": (["run", "good:fn", "scans.csv", *RUN, "-o", "-", "--failures", "-"], "- is given twice"),
    "stdout for failures and lines": (
        ["run", "good:fn", "scans.csv", *RUN, "--failures", "-", "--json"],
        "both write to stdout",
    ),
    "a class without such a function": (
        ["run", "good:Resampler.gone", "scans.csv", *RUN],
        "its functions are fn, of (",
    ),
    "a module of very many functions": (["run", "shutil:gone", "scans.csv", *RUN], " more ("),
    "a pattern that is half": (["list", "--file", "a.txt=a/{id"], "Error: --file a.txt='a/{id': the brace"),
    "a pattern without a field": (["list", "--file", "a.txt=a"], "as in --file image.mha='s3://bucket/raw/{id}/image"),
    "an id of no field": (["list", "--file", "a.txt=a/{id}", "--id", "{site}"], "Error: --id '{site}': give fields of"),
    "ids that no field has": (["list", "--file", "a.txt=raw/{site}"], "say what ids are made of, --id '{site}'"),
    "skip without names": (["run", "good:fn", "scans.csv", *RUN, "--if-exists", "skip"], "or give --output-file NAME"),
    "a version without a checkpoint": (
        ["run", "good:fn", "scans.csv", *RUN, "--code-version", "2"],
        "give --checkpoint 's3://bucket/runs/x/'",
    ),
    "no time for fn": (["run", "good:fn", "scans.csv", *RUN, "--fn-timeout", "0"], "Error: --fn-timeout 0.0: give"),
    "fewer workers than none": (["run", "good:fn", "scans.csv", *RUN, "--workers", "-1"], "Error: --workers -1: give"),
    "a column that is not there": (
        ["run", "good:fn", "scans.csv", *RUN, "--file-column", "b.txt"],
        "Error: --file-column [",
    ),
    "a URL to upload": (["put", "urls.csv", "--into", "out"], "download it first, by file-dataset get\n"),
    "a result that is not there": (["verify", "gone"], "gone"),
    "a file to upload that is not there": (["put", "scans.csv", "--into", "out"], "raw/007.txt"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    logger = logging.getLogger("file_dataset")  # a command of this process sets it up
    before = logger.level, logger.handlers
    yield tmp_path
    logger.setLevel(before[0])
    logger.handlers = before[1]
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def leave(monkeypatch, *args):
    """Run a command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["file-dataset", *args])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


@pytest.mark.parametrize("case", REFUSED)
def test_a_command_that_is_wrong_ends_with_a_sentence(here, monkeypatch, capsys, case):
    args, words = REFUSED[case]
    before = sorted(here.iterdir())
    assert leave(monkeypatch, *args) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("Error: ")
    assert words in stderr
    assert "Traceback" not in stderr
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


def test_without_a_command_there_is_help(monkeypatch, capsys):
    assert leave(monkeypatch) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("Usage: ")
    assert "Commands:\n  get " in stderr


def test_version_is_that_of_the_distribution(monkeypatch, capsys):
    assert leave(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"file-dataset {file_dataset.__version__}\n"


@pytest.mark.parametrize("command", ["list", "plan", "run", "get", "put", "verify"])
def test_every_command_teaches(monkeypatch, capsys, command):
    assert leave(monkeypatch, command, "--help") == 0
    said = capsys.readouterr().out
    for words in (f"Example:\n    file-dataset {command} ", "Costs ", "--profile", "--endpoint-url", "--region"):
        assert words in said


@pytest.mark.parametrize(
    ("words", "completes"),
    [
        (["run", "shrink", ":", "halve", "sc"], "file,sc"),
        (["run", "shrink", ":", "ha"], ""),
        (["run", "shrink", ":"], ""),
        (["get", "scans.csv", "sc"], "dir,sc"),
        (["run", "shrink", ":", "halve", "scans.csv", "--into", "s3", ":", "//b/half/", "--works"], ""),
        (["run", "shrink", ":", "halve", "scans.csv", "--into", "s3", ":", "//b/half/", "--work"], "plain,--workers"),
        (["run", "shrink", ":", "halve", "scans.csv", "--if-exists", "=", "sk"], "plain,skip"),
    ],
)
def test_bash_completes_after_a_colon(monkeypatch, capsys, words, completes):
    """A shell named bash breaks words at colons and equal signs, and hands them on a line each."""
    monkeypatch.setenv("_FILE_DATASET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "\n".join(["file-dataset", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert leave(monkeypatch) == 0
    assert capsys.readouterr().out.strip() == completes
