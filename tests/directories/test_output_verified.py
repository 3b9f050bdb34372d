"""`verify` of results with directories: a LIST proves many files, a HEAD each those that it does not."""

from __future__ import annotations

import pandas as pd
import pytest
from servers.faults import ACCESS_DENIED

from file_dataset import Pipeline, verify

OUT = "s3://bucket/out"


@pytest.fixture
def files(faults, fault_options):
    """What two rows stored: 20 files in a directory each, and three in another."""
    for number in (1, 10):
        faults.put(f"s3://bucket/in/{number}", b"row")

    def fn(input_dir, output_dir):
        for name, count in (("series", 20), ("few", 3)):
            (output_dir / name / "sub").mkdir(parents=True)
            for number in range(count):
                (output_dir / name / "sub" / f"{number:04}").write_text(f"{number}")
        return {name: output_dir / name for name in ("series", "few")}

    frame = pd.DataFrame({"id": [1, 10], "a.txt": ["s3://bucket/in/1", "s3://bucket/in/10"]})
    result = Pipeline(fn, into_path=OUT, options=fault_options, progress=False).run(frame)
    faults.requests.clear()
    return result.files


@pytest.mark.parametrize("content", [True, False])
def test_directories_of_many_files_are_listed(faults, fault_options, files, content):
    assert verify(files, content=content, options=fault_options).empty
    assert (faults.count("ListObjectsV2"), faults.count("HeadObject")) == (2, 6)


def test_what_went_or_changed_is_named_after_a_head(faults, fault_options, files):
    faults.put(f"{OUT}/1/series/sub/0003", b"x")
    faults.store.replace("bucket", "out/10/series/sub/0004", None)
    faults.put(f"{OUT}/10/series/more", b"not stored by us")
    found = verify(files, options=fault_options)
    assert found[["id", "file", "kind"]].to_numpy().tolist() == [
        [1, "series/sub/0003", "changed"],
        [10, "series/sub/0004", "missing"],
    ]
    assert (faults.count("ListObjectsV2"), faults.count("HeadObject")) == (2, 8)


def test_where_the_store_may_not_be_listed_each_file_has_a_head(faults, fault_options, files):
    faults.fail("ListObjectsV2", ACCESS_DENIED, times=None)
    assert verify(files, options=fault_options).empty
    assert faults.count("HeadObject") == len(files)
