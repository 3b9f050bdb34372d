"""The seed's function and what a user writes around it, for `mypy --strict` in `make lint`."""

from pathlib import Path
from typing import TypedDict, assert_type

import boto3
import pandas as pd
from mypy_boto3_s3 import S3Client

import file_dataset

ResampledOutput = TypedDict("ResampledOutput", {"output.mha": Path})


def resample_local_image_file(input_dir: Path, output_dir: Path) -> ResampledOutput:
    """Work on local files."""
    output_file = output_dir / "output.mha"
    output_file.write_bytes((input_dir / "image.mha").read_bytes())
    return {"output.mha": output_file}


def use(frame: pd.DataFrame) -> pd.DataFrame:
    """Use every public door as the README does."""
    pipeline = file_dataset.Pipeline(
        fn=resample_local_image_file,
        write_options={
            "into_path": "s3://my-bucket/resampled/",
            "extra_args": {"ContentType": "image/mha"},
            "if_exists": "error",
        },
        options=file_dataset.Options.default(),
        on_failure="record",
        progress=lambda now: print(now.done, now.total),  # noqa: T201
    )
    if frame.empty:
        pipeline = file_dataset.Pipeline(resample_local_image_file, into_path=Path("out"), max_failed_fraction=0.1)
    with file_dataset.reader({"image.mha": "s3://my-bucket/image.mha"}).into_temp_dir() as temp:
        stored = file_dataset.write_files({"image.mha": temp / "image.mha"}, into_path="out", id=1)
        assert stored["image.mha"]
    try:
        result = pipeline.run(frame)
    except file_dataset.RunStoppedError as exc:
        return exc.result.manifest if exc.result is not None else frame
    failed: pd.DataFrame = result.failed_rows
    return result.merge(pipeline.run(failed)).manifest


def keep(result: file_dataset.PipelineResult) -> pd.DataFrame:
    """Save a result and a frame, and read them again."""
    result.save("s3://my-bucket/results/today/", options=file_dataset.Options.default())
    content = Path("manifest.parquet").read_bytes()
    assert file_dataset.parquet.notes_of(content, "manifest.parquet")
    frame = file_dataset.parquet.from_parquet(content, "manifest.parquet", ["id"])
    Path("frame.parquet").write_bytes(file_dataset.parquet.to_parquet(frame, {"run": 7}))
    return file_dataset.PipelineResult.load(Path("today")).manifest


def move(frame: pd.DataFrame) -> pd.DataFrame:
    """Store the files of a frame; a row has an id, and a frame has its own."""
    assert_type(file_dataset.write_files({"a.txt": "a.txt"}, into_path="out", id=1), dict[str, str | Path | None])
    file_dataset.write_files({"a.txt": "a.txt"}, into_path="out")  # type: ignore[call-overload]  # no id
    file_dataset.write_files(frame, into_path="out", id=1)  # type: ignore[call-overload]  # one id
    for temp in file_dataset.reader(frame).iter_temp_dirs():
        assert_type(temp, file_dataset.TempDir)
    local: pd.DataFrame = file_dataset.reader(frame).into_dir("scans")
    return file_dataset.write_files(local, into_path="out", file_columns=["scan"])


def find(masks: Path) -> pd.DataFrame:
    """Make a frame of what is in a bucket and on disk."""
    patterns: dict[str, str | Path] = {"image.mha": "s3://my-bucket/raw/{site}/{id}/image.mha"}
    patterns["mask.mha"] = masks / "{id}*.mha"
    frame = file_dataset.list_files(patterns, id="{site}-{id}", details=True, options=file_dataset.Options.default())
    return file_dataset.list_files({"image.mha": "s3://my-bucket/{id}.mha"}, allow_empty=True) if frame.empty else frame


def use_ray(pipeline: file_dataset.Pipeline, frame: pd.DataFrame) -> int:
    """Use what is for Ray as the README does."""
    result = file_dataset.ray.run_pipeline(pipeline, frame, batch_size=4, num_gpus=1, concurrency=(1, 2), actors=True)
    dataset = file_dataset.ray.blob_reader(frame, batch_size=4, options=file_dataset.Options.default(), carry=True)
    return result.dropped_rows + len(dataset.columns() or [])


def use_boto3(options: file_dataset.Options) -> int:
    """Use boto3's session and client of the options; boto3-stubs[s3] types them."""
    assert_type(options.session, boto3.Session)
    assert_type(options.s3_client, S3Client)
    return options.s3_client.head_object(Bucket="my-bucket", Key="image.mha")["ContentLength"]
