"""`Options(local_paths=False)`: for frames that strangers write."""

from __future__ import annotations

import pickle

import pandas as pd
import pytest
from helpers import options_for

import file_dataset
from file_dataset import InvalidDatasetError, Options, Pipeline, RowError


@pytest.fixture
def strict(faults):
    faults.put("s3://bucket/a.txt", b"hello")
    return options_for(faults.endpoint_url, local_paths=False)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("of this machine")
    return path


READS = {
    "temp dir": lambda reader: reader.into_temp_dir(),
    "blobs": lambda reader: reader.into_blob_table(),
    "sizes": lambda reader: reader.into_size_table(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("as_text", [True, False], ids=["text", "Path"])
def test_a_reader_refuses_a_local_location(strict, secret, read, as_text):
    row = {"a.txt": "s3://bucket/a.txt", "b.txt": str(secret) if as_text else secret}
    with pytest.raises(
        (RowError, InvalidDatasetError), match=r"secret.txt' is a local path, which .*local_paths=False"
    ):
        read(file_dataset.reader(row, options=strict))


def copied(input_dir, output_dir):
    (output_dir / "out.txt").write_bytes((input_dir / "a.txt").read_bytes())
    return {"out.txt": output_dir / "out.txt"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_local_cell_costs_its_row(strict, secret, faults, workers):
    frame = pd.DataFrame({"id": ["1", "2", "3"], "a.txt": ["s3://bucket/a.txt", str(secret), "secret.txt"]})
    pipeline = Pipeline(
        copied, write_options={"into_path": "s3://bucket/out"}, options=strict, workers=workers, progress=False
    )
    result = pipeline.run(frame)
    assert result.manifest["id"].tolist() == ["1"]
    assert result.failures["id"].tolist() == ["2", "3"]
    assert result.failures["error_message"].str.contains("local_paths=False").all()
    assert faults.body("s3://bucket/out/1/out.txt") == b"hello"


def test_a_local_into_path_is_refused_at_once(strict, tmp_path):
    with pytest.raises(InvalidDatasetError, match=r"into_path=.* is a local path, which .*local_paths=False"):
        Pipeline(copied, write_options={"into_path": str(tmp_path / "out")}, options=strict)


def test_the_options_of_the_target_decide_on_its_path(strict, tmp_path):
    local = {"into_path": str(tmp_path / "out"), "options": Options()}
    assert Pipeline(copied, write_options=local, options=strict)
    with pytest.raises(InvalidDatasetError, match="local_paths=False"):
        Pipeline(copied, write_options={**local, "options": strict})


def test_write_files_takes_local_sources_and_no_local_into_path(strict, secret, tmp_path, faults):
    written = file_dataset.write_files({"s.txt": secret}, into_path="s3://bucket/out", id=1, options=strict)
    assert written == {"s.txt": "s3://bucket/out/1/s.txt"}
    with pytest.raises(InvalidDatasetError, match="local_paths=False"):
        file_dataset.write_files({"s.txt": secret}, into_path=tmp_path / "out", id=1, options=strict)
    assert not (tmp_path / "out").exists()


def test_a_pickle_refuses_local_paths_too(strict, secret):
    again = pickle.loads(pickle.dumps(strict))
    with pytest.raises((RowError, InvalidDatasetError), match="local_paths=False"):
        file_dataset.reader({"b.txt": secret}, options=again).into_blob_table()


def test_local_paths_are_taken_unless_refused(secret):
    assert file_dataset.reader({"b.txt": secret}, options=Options()).into_size_table().num_rows == 1


def test_it_is_given_by_name_to_the_default_too():
    assert Options.default(local_paths=False).local_paths is False
