"""Workers that cannot start, and how fn gets there.

The functions are nested, so that they travel by value: these tests need not be importable in a worker.
"""

# what fn does here is print, start `sleep` and go elsewhere; whether a pool is idle only the pool knows

from __future__ import annotations

import importlib.util
import os
import sys
import textwrap

import pytest
from one_worker import SOON_S, run, script

from file_dataset import _pickling
from file_dataset._workers import process
from file_dataset._workers.process import WorkerStartError


def test_fn_of_a_module_that_a_worker_cannot_import_says_which(call, monkeypatch, tmp_path):
    (tmp_path / "only_for_the_parent.py").write_text("import sys\nsys.needed\ndef fn(input_dir, output_dir): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "needed", True, raising=False)
    import only_for_the_parent

    why = "fn could not be loaded in a worker process: AttributeError: module 'sys' has no attribute 'needed'"
    with pytest.raises(WorkerStartError, match=why) as raised:
        call(only_for_the_parent.fn)
    assert "AttributeError" in str(raised.value.__cause__)


def test_an_interpreter_that_is_not_there_is_a_start_error(call, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerStartError, match="no worker process can start: /nowhere/python: FileNotFoundError"):
        call(lambda _in, _out: None)


def test_an_interpreter_that_does_not_know_itself_is_a_start_error(call, monkeypatch):
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(WorkerStartError, match=r"does not know its sys\.executable"):
        call(lambda _in, _out: None)


def test_an_interpreter_that_ends_at_once_says_why_and_once(call, monkeypatch, tmp_path, capsys):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'no license for python' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(WorkerStartError, match=r"(?s)ended with exit code 3.*stderr ended with: no license for python"):
        call(lambda _in, _out: None)
    assert capsys.readouterr().err == ""


def test_an_interpreter_that_says_nothing_is_a_start_error(call, monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(process, "_HELLO_S", 0.5)
    with pytest.raises(WorkerStartError, match=r"no worker process can start: .*/python did not in 0\.5 s"):
        call(lambda _in, _out: None)


def test_without_descriptors_no_worker_starts_and_with_them_one_does(tmp_path):
    text = """
        import os, resource
        from pathlib import Path
        from file_dataset._workers.pool import Workers
        from file_dataset._workers.process import WorkerStartError

        def called():
            with Workers(lambda i, o: "ran", count=1, by_keyword=False, takes_row=False) as workers:
                try:
                    return workers.submit(Path(), Path(), None).result(60)
                except WorkerStartError as exc:
                    assert "Too many open files" in str(exc), exc
                    return "no worker"

        assert called() == "ran"  # everything is loaded
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare, before = 0, len(os.listdir("/dev/fd"))  # one of them lists
        while True:  # whatever it is that finds none left
            resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + spare, most))
            said = called()
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            assert len(os.listdir("/dev/fd")) == before, spare
            if said == "ran":
                break
            spare += 1
        print(spare > 4, called())
        """
    assert run(script(tmp_path, text)).stdout == "True ran\n"


def test_the_pool_starts_when_it_can_again(start, tmp_path, monkeypatch):
    workers = start(lambda _in, _out: "ran")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(WorkerStartError):
            workers.submit(tmp_path, tmp_path, None).result(SOON_S)
    assert workers.submit(tmp_path, tmp_path, None).result(SOON_S) == "ran"


def test_a_class_is_made_once_per_process(start, tmp_path):
    class Model:
        def __init__(self):
            with (tmp_path / "made").open("a") as log:
                log.write(f"{os.getpid()}\n")

        def __call__(self, _in, _out):
            return str(os.getpid())

    workers = start(Model, count=2)
    futures = [workers.submit(tmp_path, tmp_path, None) for _ in range(40)]
    pids = {future.result(SOON_S) for future in futures}
    workers.close()
    made = (tmp_path / "made").read_text().split()
    assert len(made) == len(set(made)) <= 2
    assert pids <= set(made)


def test_a_class_that_cannot_be_made_says_why(call):
    class Model:
        def __init__(self):
            raise ValueError("no weights")

        def __call__(self, _in, _out):
            return None

    with pytest.raises(
        WorkerStartError, match=r"the instance of .*Model could not be made .*: ValueError: no weights"
    ) as e:
        call(Model)
    assert 'raise ValueError("no weights")' in str(e.value.__cause__)


def test_a_class_whose_making_kills_the_process_is_a_start_error(call):
    class Model:
        def __init__(self):
            os._exit(7)

        def __call__(self, _in, _out):
            return None

    with pytest.raises(WorkerStartError, match="its process ended with exit code 7"):
        call(Model)


_MAIN = """
    import sys
    from pathlib import Path
    from typing import TypedDict
    from file_dataset._workers.pool import Workers

    print("top level")
    here = Path(sys.argv[1])
    factor = 3
    Outputs = TypedDict("Outputs", {"output.mha": Path})

    class MyError(Exception):
        pass

    def helper(value):
        return value * factor

    def fn(input_dir, output_dir, row) -> Outputs:
        if row["fails"]:
            raise MyError("mine")
        Outputs({"output.mha": output_dir})
        return {"output.mha": output_dir / str(helper(row["id"]))}

    with Workers(fn, count=2, by_keyword=True, takes_row=True) as workers:
        futures = [workers.submit(here, here, {"id": number, "fails": False}) for number in range(3)]
        print([Path(future.result()["output.mha"]).name for future in futures])
        try:
            workers.submit(here, here, {"id": 0, "fails": True}).result()
        except MyError as exc:
            print("caught", exc)
    with Workers(lambda i, o: factor, count=1, by_keyword=False, takes_row=False) as workers:
        print(workers.submit(here, here, None).result())
"""


@pytest.mark.parametrize("kind", ["script", "notebook"])
def test_main_travels_by_value_and_is_not_run_again(tmp_path, kind):
    command = script(tmp_path, _MAIN)
    if kind == "notebook":  # a cell: there is no file of its name
        cell = "import sys; exec(compile(open(sys.argv[2]).read(), '<cell>', 'exec'), sys.modules['__main__'].__dict__)"
        command = [sys.executable, "-c", cell, str(tmp_path), command[1]]
    else:
        command.append(str(tmp_path))
    assert run(command).stdout.splitlines() == ["top level", "['0', '3', '6']", "caught mine", "3"]


def test_a_pipeline_with_workers_runs_in_a_script_without_a_main_guard(tmp_path):
    text = """
        import ctypes, os
        from pathlib import Path
        import pandas as pd
        import file_dataset

        print("top level", flush=True)
        here = Path(__file__).parent
        for name in "abc":
            (here / name).write_text(name)

        def fn(input_dir, output_dir, row):
            if row["age"] == 2:
                ctypes.string_at(0)
            text = (input_dir / "in.txt").read_text()
            (output_dir / "out.txt").write_text(f"{text} {row['age']}")
            return {"out.txt": output_dir / "out.txt"}

        frame = pd.DataFrame({"id": list("abc"), "in.txt": [str(here / name) for name in "abc"], "age": [1, 2, 3]})
        run = file_dataset.Pipeline(fn, write_options={"into_path": here / "out"}, workers=2, progress=False).run
        result = run(frame)
        print([Path(at).read_text() for at in result.manifest["out.txt"]])
        print(result.failures[["id", "error_stage", "error_type"]].to_numpy().tolist())
        """
    assert run(script(tmp_path, text)).stdout.splitlines() == [
        "top level",
        "['a 1', 'c 3']",
        "[['b', 'fn', 'WorkerDiedError']]",
    ]


_SPAWNED = """
    import enum, multiprocessing, sys, typing
    from pathlib import Path
    from file_dataset._workers.pool import Workers

    T = typing.TypeVar("T")

    class Outputs(typing.TypedDict):
        out: int

    class Kind(enum.Enum):
        A = 1

    class MyError(Exception):
        pass

    class Base(typing.Generic[T]):
        pass

    class Fn(Base[int]):
        def __call__(self, input_dir, output_dir, row) -> Outputs:
            if row["kind"] is Kind.A:
                raise MyError(f"of {helper(1)}")
            return {"out": helper(row["value"])}

    def helper(value):
        return value + 1

    def job():
        here = Path()
        with Workers(Fn, count=1, by_keyword=True, takes_row=True) as workers:
            print(__name__, workers.submit(here, here, {"kind": None, "value": 2}).result(60))
            try:
                workers.submit(here, here, {"kind": Kind.A}).result(60)
            except MyError as exc:
                print("caught", exc, flush=True)

    if __name__ == "__main__":
        child = multiprocessing.get_context(sys.argv[1]).Process(target=job)
        child.start()
        child.join(100)
        sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["script", "module"])
def test_main_travels_by_value_from_children_of_multiprocessing(tmp_path, how, kind):
    command = script(tmp_path, _SPAWNED)
    if kind == "module":
        command = [sys.executable, "-m", "script"]
    name = "__main__" if how == "fork" else "__mp_main__"
    assert run([*command, how], cwd=tmp_path).stdout.splitlines() == [f"{name} {{'out': 3}}", "caught of 2"]


def test_fn_of_a_module_that_was_loaded_from_a_path_travels_by_value(call, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("import loaded_by_path\n\ndef double(value): return 2 * value\n")
    text = "def fn(input_dir, output_dir): return beside.double(4), beside.__name__, beside.loaded_by_path is beside\n"
    (tmp_path / "job.py").write_text(text)
    for name, file in [("loaded_by_path", "elsewhere.py"), ("loaded_job", "job.py")]:
        spec = importlib.util.spec_from_file_location(name, tmp_path / file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    module.beside = sys.modules["loaded_by_path"]
    assert call(module.fn) == (8, "loaded_by_path", True)


def test_fn_that_a_worker_can_import_travels_by_name():
    assert len(_pickling.dumps_with_files(textwrap.dedent)) < 100
