"""fn's return value: what it promises, and the check of what it returned."""

from __future__ import annotations

import functools
import os
import socket
import sys
import textwrap
import types
from pathlib import Path
from typing import NotRequired, Required, TypedDict

import pytest

from file_dataset import InvalidDatasetError, RowError
from file_dataset._outputs import Contract, RowDirs, checked_outputs, contract_of

# `.mha` is no identifier: the README's own way to write it
Resampled = TypedDict("Resampled", {"output.mha": Path, "mask.mha": Path})
Optional = TypedDict("Optional", {"a.txt": Path, "b.txt": Path}, total=False)


class Named(TypedDict):
    image: Path
    mask: NotRequired[Path]


class Inherited(Named, total=False):
    log: Path
    table: Required[Path]


def forward(input_dir, output_dir):
    return {"input": input_dir, "output": output_dir}


class Unannotated:
    def __call__(self, input_dir, output_dir):
        return forward(input_dir, output_dir)


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


# --- what fn promises


def resample(input_dir, output_dir) -> Resampled:
    return {"output.mha": output_dir / "output.mha", "mask.mha": output_dir / "mask.mha"}


def optional(input_dir, output_dir) -> Optional:
    return {}


def named(input_dir, output_dir) -> Named:
    return {}


def inherited(input_dir, output_dir) -> Inherited:
    return {}


class Resampler:
    def __call__(self, input_dir, output_dir) -> Resampled:
        return {}

    def resample(self, input_dir, output_dir) -> Resampled:
        return {}


RESAMPLED = Contract(("output.mha", "mask.mha"), frozenset({"output.mha", "mask.mha"}))
PROMISES = {
    "functional": (resample, RESAMPLED),
    "total=False": (optional, Contract(("a.txt", "b.txt"), frozenset())),
    "partial": (functools.partial(functools.partial(resample)), RESAMPLED),
    "decorated": (decorated(resample), RESAMPLED),
    "partial of a decorated": (functools.partial(decorated(resample)), RESAMPLED),
    "class": (Resampler, RESAMPLED),
    "instance": (Resampler(), RESAMPLED),
    "bound method": (Resampler().resample, RESAMPLED),
}


@pytest.mark.parametrize(("fn", "contract"), PROMISES.values(), ids=PROMISES)
def test_a_typed_dict_is_a_promise(fn, contract):
    assert contract_of(fn, None) == contract


def test_an_inherited_typed_dict_promises_the_names_of_both():
    assert contract_of(inherited, None).names == ("image", "mask", "log", "table")


@pytest.fixture
def module(monkeypatch):
    """A function that runs source as a module of its own, which this one's `from __future__` does not reach."""

    def run(source, *, annotations_stay_text):
        made = types.ModuleType("users_module")
        monkeypatch.setitem(sys.modules, "users_module", made)
        future = "from __future__ import annotations\n" if annotations_stay_text else ""
        code = compile(future + textwrap.dedent(source), "users_module.py", "exec", dont_inherit=True)
        exec(code, made.__dict__)  # noqa: S102  # the source is in this file
        return made

    return run


TYPED = """
    from pathlib import Path
    from typing import NotRequired, Required, TypedDict

    class Named(TypedDict):
        image: Path
        mask: NotRequired[Path]

    class Loose(TypedDict, total=False):
        image: Required[Path]
        mask: Path

    Functional = TypedDict("Functional", {"image": Path, "mask": NotRequired[Path]})

    def named(input_dir: Path, output_dir: Path) -> Named: ...
    def loose(input_dir: Path, output_dir: Path) -> Loose: ...
    def functional(input_dir: Path, output_dir: Path) -> Functional: ...
    def quoted(input_dir: "Path", output_dir: "Path") -> "Functional": ...
"""


@pytest.mark.parametrize("annotations_stay_text", [False, True], ids=["evaluated", "text"])
@pytest.mark.parametrize("name", ["named", "loose", "functional", "quoted"])
def test_a_name_that_is_not_required_may_be_missing(module, name, annotations_stay_text):
    fn = getattr(module(TYPED, annotations_stay_text=annotations_stay_text), name)
    assert contract_of(fn, None) == Contract(("image", "mask"), frozenset({"image"}))


UNRESOLVABLE = """
    from typing import TYPE_CHECKING, TypedDict

    if TYPE_CHECKING:
        from pathlib import Path
        from somewhere import Elsewhere

    Output = TypedDict("Output", {"out.txt": object})

    def unknown_output(input_dir, output_dir) -> Elsewhere: ...
    def unknown_input(input_dir: Path, output_dir: Path) -> Output: ...
    def broken(input_dir, output_dir) -> 1 / 0: ...
"""


@pytest.mark.parametrize("name", ["unknown_output", "broken"])
def test_an_annotation_that_cannot_be_evaluated_promises_nothing(module, name):
    fn = getattr(module(UNRESOLVABLE, annotations_stay_text=True), name)
    assert contract_of(fn, None) is None


def test_a_promise_is_seen_when_only_the_parameters_cannot_be_evaluated(module):
    fn = module(UNRESOLVABLE, annotations_stay_text=True).unknown_input
    assert contract_of(fn, None) == Contract(("out.txt",), frozenset({"out.txt"}))


def to_a_dict(input_dir, output_dir) -> dict[str, Path]:
    return {}


def to_nothing(input_dir, output_dir) -> None:
    return None


NO_PROMISE = {
    "no annotation": forward, "dict": to_a_dict, "None": to_nothing, "lambda": lambda _in, _out: {}, "built-in": print,
    "class without annotation": Unannotated, "partial": functools.partial(forward),
}  # fmt: skip


@pytest.mark.parametrize("fn", NO_PROMISE.values(), ids=NO_PROMISE)
def test_another_annotation_or_none_promises_nothing(fn):
    assert contract_of(fn, None) is None


def test_outputs_promise_their_names_in_order():
    contract = contract_of(forward, ["b.txt", "a.txt"])
    assert contract == Contract(("b.txt", "a.txt"), frozenset({"a.txt", "b.txt"}))


def test_outputs_win_over_the_annotation():
    assert contract_of(resample, ["a.txt"]).names == ("a.txt",)


Unsafe = TypedDict("Unsafe", {"../out.txt": Path})


class Empty(TypedDict):
    pass


class Reserved(TypedDict):
    id: Path
    error_stage: Path


def to_empty(input_dir, output_dir) -> Empty:
    return {}


def to_unsafe(input_dir, output_dir) -> Unsafe:
    return {}


def to_reserved(input_dir, output_dir) -> Reserved:
    return {}


BAD_PROMISES = {
    "one text": (forward, "out.txt", "outputs='out.txt' is one text: give a list, ['out.txt']"),
    "no output": (forward, [], "fn promises no output: name at least one"),
    "no output in the annotation": (to_empty, None, "fn promises no output: name at least one"),
    "unsafe": (forward, ["../out.txt"], "file name '../out.txt' has the segment '..'"),
    "unsafe in the annotation": (to_unsafe, None, "file name '../out.txt' has the segment '..'"),
    "no text": (forward, [5], "file name 5 is a int"),
    "twice": (forward, ["a", "a"], "file names ['a'] appear more than once"),
    "twice but for case": (forward, ["a", "A"], "differ from others by case or accents alone"),
    "below another": (forward, ["a", "a/b"], "are also directories"),
    "reserved": (forward, ["id", "a", "error_file"], "outputs ['id', 'error_file'] have the names of columns"),
    "reserved in the annotation": (to_reserved, None, "outputs ['id', 'error_stage'] have the names of columns"),
}


@pytest.mark.parametrize(("fn", "outputs", "said"), BAD_PROMISES.values(), ids=BAD_PROMISES)
def test_a_promise_that_no_row_could_keep_is_refused(fn, outputs, said):
    with pytest.raises(InvalidDatasetError) as refused:
        contract_of(fn, outputs)
    assert said in str(refused.value)


# --- what fn returned


@pytest.fixture
def out(tmp_path, monkeypatch):
    """An output_dir in which fn left a few things; the working directory has others."""
    path = tmp_path / "output"
    path.mkdir()
    (tmp_path / "input").mkdir()
    (path / "a.txt").write_text("a")
    (path / "b.txt").write_text("b")
    (path / "directory").mkdir()
    (path / "dangling").symlink_to(path / "gone")
    (path / "link").symlink_to(path / "a.txt")
    (tmp_path / "a.txt").write_text("last week's")
    monkeypatch.chdir(tmp_path)
    return path


def checked(result, contract=None, carried=()):
    """Check a result of the row whose directories are below the working directory; return paths."""
    own = os.path.realpath(".")
    dirs = RowDirs(f"{own}/input", f"{own}/output")
    found = checked_outputs(result, row_id=7, contract=contract, carried=carried, dirs=dirs)
    return {name: source and Path(source.path) for name, source in found.items()}


def faults(result, contract=None, carried=()):
    with pytest.raises(RowError) as failed:
        checked(result, contract, carried)
    return failed.value.failures


def test_existing_files_are_a_result(out):
    assert checked({"x.txt": out / "a.txt", "sub/y.txt": out / "b.txt"}) == {
        "x.txt": out / "a.txt",
        "sub/y.txt": out / "b.txt",
    }


def test_a_path_may_be_text(out):
    assert checked({"x.txt": str(out / "a.txt")}) == {"x.txt": out / "a.txt"}


@pytest.mark.parametrize("path", ["a.txt", Path("a.txt"), "./directory/../a.txt"], ids=["text", "path", "dots"])
def test_a_relative_path_is_relative_to_output_dir(out, path):
    """A file of that name in the working directory is somebody's of last week."""
    assert checked({"x.txt": path}) == {"x.txt": out / "a.txt"}


def test_a_relative_path_to_no_file_says_what_it_is_relative_to(out):
    (fault,) = faults({"x.txt": "gone.txt"})
    assert fault.message == ("output 'x.txt': gone.txt is no file in output_dir, which relative paths are relative to")


def test_a_link_to_a_file_is_that_file(out):
    assert checked({"x.txt": out / "link"}) == {"x.txt": out / "a.txt"}


def test_a_file_of_input_dir_is_an_output(out):
    path = out.parent / "input/in.txt"
    path.write_text("in")
    (out / "forwarded").symlink_to(path)
    os.link(path, out / "linked")
    assert checked(
        {"x.txt": path, "y.txt": out / "forwarded", "z.txt": out / "linked", "w.txt": "../input/in.txt"}
    ) == {
        "x.txt": path,
        "y.txt": path,
        "z.txt": out / "linked",
        "w.txt": path,
    }


def outside(out):
    path = out.parent / "result.nii.gz"
    path.write_text("of any row")
    return path


def linked_outside(out):
    (out / "x.nii.gz").symlink_to(outside(out))
    return out / "x.nii.gz"


def below_a_linked_directory(out):
    (out / "sub").symlink_to(outside(out).parent)
    return out / "sub/result.nii.gz"


def hard_linked_outside(out):
    os.link(outside(out), out / "x.nii.gz")
    return out / "x.nii.gz"


def output_dir_replaced_by_a_link(out):
    away = out.rename(out.parent / "elsewhere")
    out.symlink_to(away)
    return out / "a.txt"


def climbed_out(out):
    return out / ".." / outside(out).name


def of_a_name_that_begins_alike(out):
    (out.parent / "output2").mkdir()
    (out.parent / "output2/a.txt").write_text("of row 2")
    return out.parent / "output2/a.txt"


OUTSIDE = [
    outside, linked_outside, below_a_linked_directory, hard_linked_outside, output_dir_replaced_by_a_link, climbed_out,
    of_a_name_that_begins_alike,
]  # fmt: skip


@pytest.mark.parametrize("place", OUTSIDE, ids=lambda place: place.__name__)
def test_a_file_outside_of_the_rows_directories_is_a_failure(out, place):
    path = place(out)
    (fault,) = faults({"x.nii.gz": path})
    assert (fault.file, fault.type) == ("x.nii.gz", "ValueError")
    assert fault.message.startswith(f"output 'x.nii.gz': {path} ")
    assert "another row's fn may be writing there" in fault.message
    assert "output_dir / 'x.nii.gz'" in fault.message


def pipe(out):
    os.mkfifo(out / "special")


def unix_socket(out):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("output/special")  # the path of a socket is short (108 bytes, unix(7))


@pytest.mark.parametrize("make", [pipe, unix_socket], ids=["pipe", "socket"])
def test_what_is_no_regular_file_is_a_failure(out, make):
    make(out)
    (fault,) = faults({"x.txt": out / "special"})
    assert "special is no regular file" in fault.message


def test_an_s3_url_is_no_output(out):
    (fault,) = faults({"x.txt": "s3://bucket/x.txt"})
    said = "'s3://bucket/x.txt' is an S3 URL, and what is stored is a local file"
    assert fault.message.startswith(f"output 'x.txt': {said}: download it first")


def test_none_says_that_there_is_no_such_file(out):
    assert checked({"x.txt": out / "a.txt", "y.txt": None}) == {"x.txt": out / "a.txt", "y.txt": None}


def test_one_file_can_be_two_outputs(out):
    assert checked({"x.txt": out / "a.txt", "y.txt": out / "a.txt"}).keys() == {"x.txt", "y.txt"}


def test_any_mapping_is_a_result(out):
    assert checked(types.MappingProxyType({"x.txt": out / "a.txt"})) == {"x.txt": out / "a.txt"}


PROMISED = Contract(("a.txt", "b.txt"), frozenset({"a.txt"}))


def test_what_was_promised_is_a_result(out):
    assert checked({"a.txt": out / "a.txt", "b.txt": None}, PROMISED) == {"a.txt": out / "a.txt", "b.txt": None}


def test_what_is_not_required_may_be_missing(out):
    assert checked({"a.txt": out / "a.txt"}, PROMISED) == {"a.txt": out / "a.txt"}


def test_promised_names_come_first_and_in_the_order_of_the_promise(out):
    assert list(checked({"b.txt": out / "b.txt", "a.txt": out / "a.txt"}, PROMISED)) == ["a.txt", "b.txt"]


WRONG = {
    "None": (None, "fn returned None: return a mapping of file name to path"),
    "list": ([Path("a.txt")], "fn returned a list: return a mapping"),
    "path": (Path("a.txt"), "fn returned a PosixPath: return a mapping"),
    "text": ("a.txt", "fn returned a str: return a mapping"),
    "empty": ({}, "fn returned an empty mapping: return a mapping"),
    "generator": ((x for x in ()), "fn returned a generator: return a mapping"),
}


@pytest.mark.parametrize(("result", "said"), WRONG.values(), ids=WRONG)
def test_a_result_that_is_no_mapping_is_a_failure(result, said):
    (fault,) = faults(result)
    assert (fault.id, fault.stage, fault.file, fault.type) == (7, "fn", None, "TypeError")
    assert fault.message.startswith(said)


BAD_FILES = {
    "missing": ("x.txt", "gone.txt", "FileNotFoundError", "gone.txt is no file"),
    "empty directory": ("x.txt", "directory", "ValueError", "the directory holds no file"),
    "dangling link": ("x.txt", "dangling", "FileNotFoundError", "dangling is no file: it is a link to nothing"),
    "a name too long": ("x.txt", "x" * 300, "OSError", "too long"),
    "null byte": ("x.txt", "a\0b", "FileNotFoundError", "is no file"),
    "name leaves": ("../x", "a.txt", "ValueError", "has the segment '..'"),
    "name absolute": ("/x", "a.txt", "ValueError", "is absolute"),
    "name empty": ("", "a.txt", "ValueError", "is empty"),
    "id": ("id", "a.txt", "ValueError", "output 'id' has the name of another column"),
    "error_stage": ("error_stage", "a.txt", "ValueError", "output 'error_stage' has the name of another column"),
    "carried": ("label", "a.txt", "ValueError", "output 'label' has the name of another column"),
}


@pytest.mark.parametrize(("name", "file", "kind", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_an_output_that_cannot_be_stored_is_a_failure(out, name, file, kind, said):
    (fault,) = faults({name: out / file}, carried=("label",))
    assert (fault.id, fault.stage, fault.file, fault.type) == (7, "fn", name, kind)
    assert said in fault.message


NO_PATHS = {"int": (5, "a int"), "bytes": (b"a.txt", "a bytes"), "bool": (True, "a bool"), "list": ([], "a list")}


@pytest.mark.parametrize(("path", "said"), NO_PATHS.values(), ids=NO_PATHS)
def test_an_output_that_is_no_path_is_a_failure(path, said):
    (fault,) = faults({"x.txt": path})
    assert (fault.file, fault.type) == ("x.txt", "TypeError")
    assert fault.message.startswith(f"output 'x.txt': {said} is no path: give that of a file")


def test_a_name_that_is_no_text_is_a_failure(out):
    (fault,) = faults({5: out / "a.txt"})
    assert (fault.file, fault.type) == ("5", "ValueError")
    assert "file name 5 is a int" in fault.message


NAMES_TOGETHER = {
    "case": (["x.txt", "X.txt"], "differ from others by case or accents alone"),
    "file and directory": (["x", "x/y"], "are also directories"),
}


@pytest.mark.parametrize(("names", "said"), NAMES_TOGETHER.values(), ids=NAMES_TOGETHER)
def test_outputs_that_cannot_lie_side_by_side_are_a_failure(out, names, said):
    (fault,) = faults(dict.fromkeys(names, out / "a.txt"))
    assert said in fault.message


def test_a_promised_output_that_is_missing_is_a_failure(out):
    (fault,) = faults({"b.txt": out / "b.txt"}, PROMISED)
    assert (fault.file, fault.type) == ("a.txt", "KeyError")
    assert fault.message == "output 'a.txt' was promised and is missing"


def test_an_output_that_was_not_promised_is_a_failure(out):
    (fault,) = faults({"a.txt": out / "a.txt", "c.txt": out / "b.txt"}, PROMISED)
    assert (fault.file, fault.type) == ("c.txt", "KeyError")
    assert fault.message == "output 'c.txt' was not promised"


def test_two_faults_are_both_told(out):
    told = faults({"x.txt": out / "gone.txt", "id": out / "a.txt"})
    assert {fault.file for fault in told} == {"x.txt", "id"}


def test_a_bad_file_and_a_broken_promise_are_both_told(out):
    told = faults({"b.txt": out / "gone.txt"}, PROMISED)
    assert {(fault.file, fault.type) for fault in told} == {("b.txt", "FileNotFoundError"), ("a.txt", "KeyError")}
