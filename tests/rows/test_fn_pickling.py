"""fn in another process: by name where it can be imported, by value where it cannot."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NotRequired, TypedDict

import pandas as pd
import pytest

from file_dataset import _pickling
from file_dataset._function import ready

TRAVELLERS = {
    "typed dict": "resample",
    "typed dict class": "Segmenter().segment",
    "lambda": "lambda input_dir, output_dir: resample(input_dir, output_dir)",
    "closure": "counted(1)",
    "partial": "functools.partial(resample)",
    "class": "Segmenter",
    "instance": "Segmenter()",
    "decorated": "timed(resample)",
}

MAIN = """
    import functools, pickle, sys
    from pathlib import Path
    from typing import Required, TypedDict

    from file_dataset import Pipeline, _pickling

    ResampledOutput = TypedDict(
        'ResampledOutput',
        {
            "output.mha": Path,
        }
    )

    class Segmented(TypedDict, total=False):
        image: Required[Path]
        mask: Path

    def resample(input_dir: Path, output_dir: Path) -> ResampledOutput:
        return ResampledOutput({"output.mha": output_dir / "output.mha"})

    class Segmenter:
        def __call__(self, input_dir: Path, output_dir: Path) -> ResampledOutput:
            return resample(input_dir, output_dir)

        def segment(self, input_dir: Path, output_dir: Path) -> Segmented:
            return Segmented(image=output_dir / "output.mha")

    def timed(fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            return fn(*args, **kwargs)
        return wrapper

    def counted(start):
        def counting(input_dir, output_dir) -> ResampledOutput:
            return {"output.mha": output_dir / f"{start}.mha"}
        return counting

    for name, expression in eval(sys.argv[1]).items():
        fn = eval(expression)
        Path(name).write_bytes(_pickling.dumps(fn))
        Path(f"{name}.pipeline").write_bytes(pickle.dumps(Pipeline(fn, write_options={"into_path": "/out"})))
"""


def send(place, *, annotations_stay_text):
    """Run a script that pickles functions of its own and Pipelines of them; return where they are."""
    future = "from __future__ import annotations\n" if annotations_stay_text else ""
    (place / "script.py").write_text(future + textwrap.dedent(MAIN))
    subprocess.run([sys.executable, "script.py", repr(TRAVELLERS)], cwd=place, check=True, timeout=200)
    return place


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    return send(tmp_path_factory.mktemp("script"), annotations_stay_text=False)


@pytest.fixture(scope="module")
def sent_as_text(tmp_path_factory):
    return send(tmp_path_factory.mktemp("script"), annotations_stay_text=True)


@pytest.mark.parametrize("script", ["sent", "sent_as_text"])
@pytest.mark.parametrize("name", TRAVELLERS)
def test_a_function_of_main_can_be_called_in_another_process(request, script, name):
    fn = pickle.loads((request.getfixturevalue(script) / name).read_bytes())
    (path,) = ready(fn)(Path("/in"), Path("/out")).values()
    assert path.parent == Path("/out")


PROMISED_NAMES = {
    "typed dict": ["output.mha"], "typed dict class": ["image", "mask"], "closure": ["output.mha"],
    "class": ["output.mha"], "decorated": ["output.mha"],
}  # fmt: skip


def promised(path):
    """Return the columns that a Pipeline of another process gives the manifest of no rows."""
    manifest = pickle.loads(path.read_bytes())(pd.DataFrame({"id": []}))
    return manifest.columns.drop("id").tolist()


@pytest.mark.parametrize(("name", "names"), PROMISED_NAMES.items(), ids=PROMISED_NAMES)
def test_a_function_of_main_keeps_its_promise_in_another_process(sent, name, names):
    assert promised(sent / f"{name}.pipeline") == names


@pytest.mark.parametrize("name", ["typed dict class", "closure"])
def test_annotations_that_stay_text_keep_their_promise_in_another_process(sent_as_text, name):
    assert promised(sent_as_text / f"{name}.pipeline") == PROMISED_NAMES[name]


def test_a_function_that_can_be_imported_is_sent_by_name():
    fn = pickle.loads(_pickling.dumps(textwrap.dedent))
    assert fn is textwrap.dedent


def test_a_typed_dict_that_can_be_imported_is_sent_by_name():
    from file_dataset import WriteOptions

    assert pickle.loads(_pickling.dumps(WriteOptions)) is WriteOptions


def test_a_typed_dict_made_in_a_function_is_sent_whole():
    Local = TypedDict("Local", {"a.txt": Path, "b.txt": NotRequired[Path]})
    again = pickle.loads(_pickling.dumps(Local))
    assert (again.__required_keys__, again.__optional_keys__) == ({"a.txt"}, {"b.txt"})
