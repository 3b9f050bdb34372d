"""What the error that stops a run on Ray says of the endpoint: the driver has asked nothing itself."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import forward

import file_dataset

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(180)]


@pytest.mark.parametrize("is_dataset", [False, True], ids=["frame", "dataset"])
@pytest.mark.parametrize(
    ("bucket", "limit"), [("in", {"max_failures": 1}), ("no-such", {"on_failure": "raise"})], ids=["keys", "bucket"]
)
def test_a_run_that_finds_nothing_asks_whether_the_endpoint_is_right(
    faults, fault_options, tmp_path, local_ray, is_dataset, bucket, limit
):
    faults.put("s3://in/other", b"x")
    frame = pd.DataFrame({"id": [f"r{n}" for n in range(6)], "a.txt": [f"s3://{bucket}/{n}" for n in range(6)]})
    pipeline = file_dataset.Pipeline(
        forward, write_options={"into_path": tmp_path}, progress=False, options=fault_options, **limit
    )
    data = local_ray.data.from_pandas(frame) if is_dataset else frame
    with pytest.raises(file_dataset.RunStoppedError) as stopped:
        file_dataset.ray.run_pipeline(pipeline, data, batch_size=2)
    assert str(stopped.value).endswith(f"The endpoint that was asked was {faults.endpoint_url}: is it the right one?")
