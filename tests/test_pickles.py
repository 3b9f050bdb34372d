"""A pickle that 0.1 made loads in every 0.1.x: those in tests/data are never made again.

For the next minor version, once: `python tests/test_pickles.py` writes tests/data/pickles-<minor version>.json.
A module named below that must move leaves the name there that its pickles ask for.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import pickletools
import sys
import threading
from pathlib import Path

import pytest
from helpers import forward

import file_dataset
from file_dataset._errors import Failure

MINOR = ".".join(file_dataset.__version__.split(".")[:2])
FILE = Path(__file__).parent / "data" / f"pickles-{MINOR}.json"
# what a pickle asks for by name: module and attribute
PROMISED = {
    ("file_dataset._errors", "Failure"),
    ("file_dataset._errors", "InvalidDatasetError"),
    ("file_dataset._errors", "RowError"),
    ("file_dataset._outputs", "Contract"),
    ("file_dataset._options", "_from_plain"),
    ("file_dataset._pipeline", "_from_pickle"),
    ("file_dataset._progress", "Progress"),
    ("file_dataset._result", "RunStoppedError"),
    ("file_dataset._tempdir", "_copy"),
}
OPTIONS = file_dataset.Options(
    {"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": "secrettest", "region_name": "us-east-1"},
    {"endpoint_url": "http://127.0.0.1:9"},
    max_concurrency=7,
    check_digests=False,
)
FAILURE = Failure("1", "download", "a.txt", "s3://bucket/a", "FileNotFoundError", "NoSuchKey", "not there")


def values():
    """Return what is pickled; fn by reference, because by value it is bound to a minor version of Python."""
    return {
        "Options": OPTIONS,
        "Pipeline": file_dataset.Pipeline(
            forward,
            into_path="s3://bucket/out/",
            options=OPTIONS,
            outputs=["a.txt"],
            max_failures=3,
            max_failed_fraction=0.25,
            progress=False,
        ),
        "Progress": file_dataset.Progress(5, 12, 1),
        "InvalidDatasetError": file_dataset.InvalidDatasetError("no such column"),
        "RowError": file_dataset.RowError([FAILURE]),
        "RunStoppedError": file_dataset.RunStoppedError("the disk is full"),
    }


def make():
    with file_dataset.TempDir() as directory:
        made = {**values(), "TempDir": pickle.loads(pickle.dumps(file_dataset.TempDir(directory)))}
        return {name: base64.b64encode(pickle.dumps(value, 4)).decode() for name, value in made.items()}


def stored():
    return {name: base64.b64decode(text) for name, text in json.loads(FILE.read_text()).items()}


class Names(pickle.Unpickler):
    """Notes what a pickle asks for by name."""

    def __init__(self, file):
        super().__init__(file)
        self.asked = set()

    def find_class(self, module, name):
        self.asked.add((module, name))
        return super().find_class(module, name)


def asked_for(pickled):
    """Return what a pickle asks for of this library, also in the payload of a Pipeline."""
    names = Names(io.BytesIO(pickled))
    names.load()
    inner = [part for _, part, _ in pickletools.genops(pickled) if isinstance(part, bytes) and part[:1] == b"\x80"]
    own = {(module, name) for module, name in names.asked if module.startswith("file_dataset")}
    return own.union(*map(asked_for, inner))


@pytest.mark.parametrize("name", stored() if FILE.exists() else ())
def test_what_an_earlier_release_of_this_minor_version_pickled_loads(name):
    loaded = pickle.loads(stored()[name])
    assert type(loaded).__name__ == name
    if name == "Pipeline":
        then, now = loaded._settings, values()[name]._settings  # noqa: SLF001  # what it was given is shown nowhere else
        assert then == now
    elif name in ("Options", "Progress"):
        assert loaded == values()[name]
    elif name != "TempDir":  # its directory was removed
        assert str(loaded) == str(values()[name])


def test_there_are_pickles_of_this_minor_version():
    assert set(stored()) == {*values(), "TempDir"}


def test_pickles_ask_for_the_promised_names_only():
    assert set().union(*map(asked_for, stored().values())) == PROMISED
    now = {name: pickle.dumps(value, 4) for name, value in values().items()}
    assert set().union(*map(asked_for, now.values())) <= PROMISED


def not_to_pickle(value):
    """Return a Pipeline whose fn, or whose progress, holds a value."""
    return {
        "fn": file_dataset.Pipeline(lambda input_dir, output_dir: value, into_path="out", options=OPTIONS),
        "progress": file_dataset.Pipeline(forward, into_path="out", options=OPTIONS, progress=lambda _: value),
    }


@pytest.mark.parametrize("name", ["fn", "progress"])
def test_a_pipeline_that_cannot_be_pickled_names_the_argument_and_the_remedy(name):
    said = rf"{name} cannot be pickled for other processes.* TypeError: .*lock.*made inside fn"
    with pytest.raises(file_dataset.InvalidDatasetError, match=said):
        pickle.dumps(not_to_pickle(threading.Lock())[name])
    assert pickle.loads(pickle.dumps(not_to_pickle(1)[name]))


if __name__ == "__main__":
    if FILE.exists():
        sys.exit(f"{FILE} is there: pickles that were released are not made again")
    FILE.write_text(json.dumps(make(), indent=1) + "\n")
