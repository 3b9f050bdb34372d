"""Each command in a process of its own: what it writes, what it says, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from file_dataset import _errors
from file_dataset.cli import _endings

HEAVY = ["ray", "dagster", "boto3", "botocore", "pandas", "pyarrow", "tqdm", "importlib.metadata"]


def test_200_scans_with_three_bad_ones(shell, read_lines):
    frame = shell.put_scans(200, bad=[7])
    frame.loc[150, "scan.txt"] = shell.bucket.url("raw/gone/scan.txt")
    frame.loc[160, "scan.txt"] = "s3:/typo/scan.txt"
    into, saved = shell.bucket.url("half/"), shell.bucket.url("results/today/")
    writes = ["-o", "manifest.csv", "--failures", "failures.jsonl", "--save", saved]

    planned = shell.run("plan", "shrink:halve", shell.write(frame), "--into", into)
    assert planned.returncode == 3
    assert planned.stdout.decode().splitlines()[0] == "200 of 200 rows to run: 200 new"
    assert "missing files: 2\n  row '150': " in planned.stdout.decode()
    assert not [key for key in shell.bucket.keys() if key.startswith("half/")]  # noqa: SIM118  # no mapping

    done = shell.run("run", "shrink:halve", "scans.csv", "--into", into, "--json", *writes)
    assert done.returncode == 3, done.stderr.decode()
    *rows, summary = read_lines(done)
    assert [row["id"] for row in rows] == frame["id"].tolist()
    assert {row["id"]: row["error_code"] or row["error_type"] for row in rows if row["state"] == "dropped"} == {
        "007": "ValueError",
        "150": "NoSuchKey",
        "160": "InvalidDatasetError",
    }
    assert (summary["rows"], summary["stored"], summary["dropped"]) == (200, 197, 3)
    assert len(shell.read("manifest.csv")) == 197
    failures = [json.loads(line) for line in (shell.directory / "failures.jsonl").read_text().splitlines()]
    assert [failure["id"] for failure in failures] == ["007", "150", "160"]
    assert shell.bucket.get("half/199/half.txt") == b"scan"

    assert shell.run("verify", saved).returncode == 0
    shell.bucket.put("half/001/half.txt", b"another")
    shell.bucket.client.delete_object(Bucket=shell.bucket.name, Key="half/002/half.txt")
    verified = shell.run("verify", saved, "--json")
    assert verified.returncode == 3
    *files, summary = read_lines(verified)
    assert [(file["id"], file["kind"]) for file in files] == [("001", "changed"), ("002", "missing")]
    assert (summary["files"], summary["missing"], summary["changed"]) == (197, 1, 1)


def test_a_row_without_any_file_is_planned_as_one_that_run_drops(shell, read_lines):
    frame = shell.put_scans(2)
    frame.loc[1, "scan.txt"] = None
    args = ["shrink:halve", shell.write(frame), "--into", "half"]
    planned = shell.run("plan", *args, "--json")
    assert (planned.returncode, shell.run("run", *args).returncode) == (3, 3)
    summary = read_lines(planned)[-1]
    assert (summary["missing_files"], summary["rows_without_files"]) == (0, 1)


def test_commands_join_into_a_pipe_and_ids_stay_text(shell):
    shell.put_scans(3)
    listed = shell.run("list", "--file", f"scan.txt={shell.bucket.url('raw/{id}/scan.txt')}")
    assert listed.returncode == 0, listed.stderr
    assert listed.stderr == b"3 rows listed\n"
    done = shell.run("run", "shrink:halve", "-", "--into", shell.bucket.url("half/"), "-o", "-", stdin=listed.stdout)
    assert done.returncode == 0, done.stderr
    into = shell.bucket.url("half")
    assert done.stdout.decode().splitlines() == [
        "half.txt,id",
        *(f"{into}/{number}/half.txt,{number}" for number in ("000", "001", "002")),
    ]
    assert b"0 of 3 rows dropped" in done.stderr


def test_get_and_put_move_the_files_of_a_frame(shell):
    name = shell.write(shell.put_scans(2).assign(site="07"))
    got = shell.run("get", name, "scans", "-o", "local.csv")
    assert (got.returncode, got.stderr) == (0, b"2 of 2 rows done, 0 dropped\n2 rows are in scans\n")
    assert (shell.directory / "scans/001/scan.txt").read_text() == "scan 1"
    put = shell.run("put", "local.csv", "--into", shell.bucket.url("copy/"), "-o", "manifest.csv")
    said = f"2 of 2 rows done, 0 dropped\n2 rows are stored below {shell.bucket.url('copy/')}\n"
    assert (put.returncode, put.stderr.decode()) == (0, said)
    assert shell.bucket.get("copy/001/scan.txt") == b"scan 1"
    assert shell.read("manifest.csv")["site"].tolist() == ["07", "07"]


def test_list_get_and_put_have_lines_for_machines(shell, read_lines):
    shell.put_scans(2)
    args = ["list", "--file", f"scan.txt={shell.bucket.url('raw/{id}/scan.txt')}", "--json"]
    listed = shell.run(*args, "-o", "scans.csv")
    assert shell.run(*args).stdout == listed.stdout  # and no frame among the lines
    assert (listed.returncode, listed.stderr) == (0, b"")
    url = shell.bucket.url("raw/001/scan.txt")
    assert read_lines(listed)[1:] == [{"scan.txt": url, "id": "001"}, {"summary": "2 rows listed", "rows": 2}]
    assert shell.read("scans.csv")["id"].tolist() == ["000", "001"]
    counts = {"rows": 2, "stored": 2, "failed": 0, "not_processed": 0}
    both = [{"id": "000", "state": "stored"}, {"id": "001", "state": "stored"}]
    got = shell.run("get", "scans.csv", "scans", "-o", "local.csv", "--json")
    assert (got.returncode, got.stderr) == (0, b"")
    assert read_lines(got) == [*both, {"summary": "2 rows are in scans", **counts}]
    put = shell.run("put", "local.csv", "--into", "copy", "--json")
    assert (put.returncode, put.stderr) == (0, b"")
    assert read_lines(put) == [*both, {"summary": "2 rows are stored below copy", **counts}]


def test_the_line_of_a_row_that_get_cannot_read_says_why(shell, read_lines):
    frame = shell.put_scans(2)
    frame.loc[1, "scan.txt"] = shell.bucket.url("gone")
    got = shell.run("get", shell.write(frame), "scans", "--json")
    assert got.returncode == 3
    good, bad, summary = read_lines(got)
    assert good == {"id": "000", "state": "stored"}
    assert (bad["id"], bad["state"], bad["error_file"], bad["error_code"]) == ("001", "failed", "scan.txt", "NoSuchKey")
    assert (summary["stored"], summary["failed"], summary["summary"]) == (1, 1, "1 of 2 rows are in scans")
    assert "gone" in summary["error"]


def test_get_brings_what_is_there_and_names_what_is_not(shell):
    frame = shell.put_scans(2)
    frame.loc[0, "scan.txt"] = shell.bucket.url("gone")
    alone = shell.run("get", "-", "one", stdin=frame[1:].to_csv(index=False).encode())
    assert alone.stderr == b"1 row is in one\n"
    got = shell.run("get", shell.write(frame), "scans")
    assert got.returncode == 3
    assert b"row '000' failed at download scan.txt" in got.stderr
    assert b"Traceback" not in got.stderr
    assert (shell.directory / "scans/001/scan.txt").exists()


def test_without_credentials_get_is_stopped_as_a_run_is(shell):
    args = ["get", shell.write(shell.put_scans(1)), "scans"]
    got = shell.run(*args, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert got.returncode == 4
    assert got.stderr.startswith(b"Error: row '000' failed at download")
    assert b"Options(" not in got.stderr
    assert _endings.CREDENTIAL_CODES == _errors.CREDENTIAL_CODES


def test_too_many_failures_stop_the_run_and_are_written(shell, read_lines):
    frame = shell.put_scans(6, bad=range(6))
    limits = ["--max-failures", "2", "--failures", "failures.csv", "-o", "manifest.csv"]
    done = shell.run("run", "shrink:halve", shell.write(frame), "--into", "half", "--json", *limits)
    assert done.returncode == 4
    *rows, summary = read_lines(done)
    assert [(row["id"], row["state"]) for row in rows] == [(f"00{n}", "dropped") for n in range(3)]
    assert (summary["dropped"], summary["not_processed"]) == (3, 3)
    assert len(shell.read("failures.csv")) == 3
    assert not (shell.directory / "manifest.csv").exists()
    assert b"Error: " in done.stderr
    assert b"with --checkpoint the same command goes on" in done.stderr


def test_a_result_that_cannot_be_saved_takes_no_manifest_away(shell, read_lines):
    args = ["run", "shrink:halve", shell.write(shell.put_scans(2, bad=[1])), "--into", "half"]
    writes = ["-o", "manifest.csv", "--failures", "failures.csv", "--save", "s3://no-such-bucket-of-mine/results/"]
    done = shell.run(*args, *writes, "--json")
    assert done.returncode == 4
    summary = read_lines(done)[-1]
    assert (summary["stored"], summary["dropped"]) == (1, 1)
    assert "could not be saved at s3://no-such-bucket-of-mine/results" in summary["error"]
    assert (len(shell.read("manifest.csv")), len(shell.read("failures.csv"))) == (1, 1)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_fn_prints_is_not_among_the_lines_for_machines(shell, read_lines, workers):
    args = [shell.write(shell.put_scans(2)), "--into", "half", "--workers", workers]
    done = shell.run("run", "shrink:chatty", *args, "--json")
    assert done.returncode == 0, done.stderr
    assert [line.get("id") for line in read_lines(done)] == ["000", "001", None]
    assert done.stderr.count(b"from Python") == done.stderr.count(b"from a tool") == 2
    piped = shell.run("run", "shrink:chatty", *args, "-o", "-")
    assert piped.stdout.decode().splitlines()[0] == "half.txt,id"


@pytest.mark.parametrize("workers", ["0", "1"])
def test_under_a_failure_are_the_lines_of_fn_alone(shell, workers):
    args = [shell.write(shell.put_scans(1, bad=[0])), "--into", "half", "--workers", workers]
    failed, where, line, *_ = shell.run("run", "shrink:halve", *args).stderr.decode().splitlines()
    assert failed == "row '000' failed at fn: ValueError: this scan is bad"
    assert where.startswith(f'  File "{shell.directory}/shrink.py", line ')
    assert line.strip() == 'raise ValueError("this scan is bad")'


def test_the_store_is_that_of_the_options(shell, endpoint, tmp_path):
    """With no endpoint and no keys in the environment: the option and the profile have them."""
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = AKIDTEST\naws_secret_access_key = secrettest\n")
    shell.put_scans(1)
    access = {"AWS_ENDPOINT_URL_S3": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    env = {**access, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    pattern = f"scan.txt={shell.bucket.url('raw/{id}/scan.txt')}"
    store = ["--profile", "lab", "--endpoint-url", endpoint, "--region", "us-east-1"]
    done = shell.run("list", "--file", pattern, *store, **env)
    assert done.returncode == 0, done.stderr
    unknown = shell.run("list", "--file", pattern, "--profile", "nosuch", **env)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith(b"Error: --profile nosuch: ")


def test_what_reads_the_output_may_leave_early(shell):
    (shell.directory / "raw").mkdir()
    (shell.directory / "raw/1.txt").touch()
    command = " ".join([*shell.argv, "list", "--file", "scan.txt='raw/{id}.txt'"])
    done = subprocess.run(
        ["bash", "-c", f"(sleep 0.3; {command}) | true; echo ${{PIPESTATUS[0]}}"],  # noqa: S607  # that of the PATH
        cwd=shell.directory, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [b"141"]
    assert b"Traceback" not in done.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from file_dataset.cli import main\n"
        "sys.argv = ['file-dataset', 'run', '--help']\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Example:" in done.stdout


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell, shell_name):
    """As the functions that `_FILE_DATASET_COMPLETE=<shell>_source` prints ask for it."""
    script = shell.directory / "file-dataset"
    script.write_text(f"#!{sys.executable}\nfrom file_dataset.cli import main\nmain()\n")
    script.chmod(0o755)
    shell.argv = [str(script)]
    env = {"_FILE_DATASET_COMPLETE": f"{shell_name}_complete", "COMP_WORDS": "file-dataset ver", "COMP_CWORD": "1"}
    if shell_name == "fish":
        env["COMP_CWORD"] = "ver"
    assert b"verify" in shell.run(**env).stdout
    source = shell.run(_FILE_DATASET_COMPLETE=f"{shell_name}_source").stdout
    assert b"_FILE_DATASET_COMPLETE=" in source


def test_bash_completes_an_option(shell):
    """The script that --help names, in a real bash."""
    script = shell.directory / "file-dataset"
    script.write_text(f"#!{sys.executable}\nfrom file_dataset.cli import main\nmain()\n")
    script.chmod(0o755)
    commands = (
        f"PATH={shell.directory}:$PATH; "
        'eval "$(_FILE_DATASET_COMPLETE=bash_source file-dataset)"; '
        "COMP_WORDS=(file-dataset run --check); COMP_CWORD=2; _file_dataset_completion file-dataset; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, check=True)  # noqa: S607
    assert done.stdout.split() == ["--checkpoint", "--check-inputs"]
