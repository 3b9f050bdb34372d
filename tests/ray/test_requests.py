"""What a Dataset of blobs costs in requests: the numbers of `docs/ray.md`, counted on a server."""

from __future__ import annotations

import functools
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import file_dataset
from file_dataset._ray import blobs

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]

PAGE = (Path(__file__).parents[2] / "docs/ray.md").read_text()
# the lines of its table, `code` | GETs | what is held
COSTS = {code: int(gets) for code, gets in re.findall(r"^\| `(.*)` \| (\d+) \| [a-z ]*\|$", PAGE, re.MULTILINE)}


@pytest.fixture
def frame(faults):
    for number in range(40):
        faults.put(f"s3://bucket/{number}", bytes(100))
    urls = [f"s3://bucket/{number}" for number in range(40)]
    labels = ["healthy", "healthy", "ill", "healthy"] * 10
    return pd.DataFrame({"id": range(40), "image.mha": urls, "label": labels})


@pytest.fixture
def reading(fault_options):
    """`blob_reader` with less to write: ten tasks of such a frame."""
    return functools.partial(file_dataset.ray.blob_reader, batch_size=4, options=fault_options, carry=True)


def one_epoch(dataset):
    return sum(len(batch["label"]) for batch in dataset.iter_batches(batch_size=5))


def one_epoch_of_all(shares):
    with ThreadPoolExecutor() as trainers:
        return sum(trainers.map(one_epoch, shares))


def test_the_page_has_a_table():
    assert len(COSTS) == 15


@pytest.mark.parametrize("code", COSTS)
def test_what_the_page_says_of_gets_is_what_a_server_counts(faults, frame, reading, local_ray, code):
    names = {
        "blobs": reading(frame),
        "frame": frame,
        "reading": reading,
        "rows": local_ray.data.from_pandas(frame),
        "one_epoch": one_epoch,
        "one_epoch_of_all": one_epoch_of_all,
    }
    assert faults.count("GetObject") == 0
    exec(code, names)  # noqa: S102  # of our own page
    assert faults.count("GetObject") == COSTS[code]


def test_what_is_filtered_out_of_a_dataset_is_never_requested(faults, frame, reading, local_ray):
    """Of an issue: 2,000 GETs for 209 rows."""
    blobs = reading(local_ray.data.from_pandas(frame).filter(lambda row: row["label"] == "ill"))
    assert faults.count("HeadObject") == 4  # of a batch
    assert sorted(row["id"] for row in blobs.take_all()) == list(range(2, 40, 4))
    wanted = {f"{number}" for number in range(2, 40, 4)}
    assert {key for (operation, key), count in faults.requests.items() if operation == "GetObject"} == wanted
    assert faults.count("GetObject") == 10


class TestColumns:
    """Which columns of a Dataset come to the process that calls `blob_reader`."""

    def coming(self, dataset, *, file_columns=None, carry=False):
        return list(blobs._in_pandas(dataset, file_columns, carry=carry))  # noqa: SLF001  # what it looks at

    def test_blobs_arrays_and_numbers_stay_where_they_are(self, frame, local_ray):
        rows = frame.assign(weight=1.5, thumbnail=b"png", vector=list(np.zeros((40, 8))), **{"mask.mha": None})
        rows["image.mha.version_id"] = 7  # refused later, and not dropped here
        kept = ["id", "image.mha", "label", "mask.mha", "image.mha.version_id"]
        in_pandas = local_ray.data.from_pandas([rows[:20], rows[20:]])
        assert self.coming(in_pandas) == kept
        in_arrow = local_ray.data.from_arrow(pa.Table.from_pandas(rows, preserve_index=False))
        assert self.coming(in_arrow) == kept
        assert self.coming(in_arrow, file_columns=["image.mha"]) == ["id", "image.mha", "image.mha.version_id"]
        assert self.coming(in_arrow, carry=True) == list(rows)

    def test_a_column_of_which_a_block_has_only_nulls_comes(self, frame, reading, local_ray):
        """Nulls alone are numbers to pandas, and of no type to Arrow."""
        nulls = frame[:20].assign(**{"mask.mha": np.nan})
        both = [nulls, frame[20:].assign(**{"mask.mha": "s3://bucket/0"})]
        for dataset in (
            local_ray.data.from_pandas(both),
            local_ray.data.from_arrow(list(map(pa.Table.from_pandas, both))),
        ):
            masks = {row["id"]: row["mask.mha"] for row in reading(dataset, carry=False).take_all()}
            assert masks == dict.fromkeys(range(20)) | dict.fromkeys(range(20, 40), bytes(100))

    def test_a_dataset_without_files_is_refused(self, frame, reading, local_ray):
        with pytest.raises(file_dataset.InvalidDatasetError, match="no file column among"):
            reading(local_ray.data.from_pandas(frame[["id"]].assign(weight=1.5)), carry=False)
        with pytest.raises(file_dataset.InvalidDatasetError, match=r"\['none.mha'\] are not among"):
            reading(local_ray.data.from_pandas(frame), carry=False, file_columns=["none.mha"])
