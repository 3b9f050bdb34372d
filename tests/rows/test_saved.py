"""A saved result comes back as it was, or `load` says which file is at fault and what to do."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import zoneinfo
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faults import Status

from file_dataset import InvalidDatasetError, Pipeline, PipelineResult, RowError, RunStoppedError, _saved, _secrets
from file_dataset.parquet import from_parquet, notes_of, to_parquet

FRAMES = sorted(_saved.FRAMES)
PLACE = "s3://bucket/results/x/"


def two_files(input_dir, output_dir):
    """Fail for "bad"; the second file is there for "both" alone."""
    text = (input_dir / "a.txt").read_text()
    if text == "bad":
        raise ValueError("this text is bad")
    return {"one.txt": input_dir / "a.txt", "two.txt": input_dir / "a.txt" if text == "both" else None}


@pytest.fixture
def run(tmp_path):
    """Run rows of these texts, without S3."""

    def result(texts, *, ids=None, fn=two_files, on_failure="drop", **carried):
        paths = [tmp_path / "in" / f"{number}.txt" for number in range(len(texts))]
        paths[0].parent.mkdir(exist_ok=True)
        for path, text in zip(paths, texts, strict=True):
            if text is not None:
                path.write_text(text)
        frame = pd.DataFrame({"id": range(len(texts)) if ids is None else ids, "a.txt": paths, **carried})
        into_path = tmp_path / "out"
        return Pipeline(
            fn, into_path=into_path, outputs=["one.txt", "two.txt"], on_failure=on_failure, progress=False
        ).run(frame)

    return result


@pytest.fixture
def result(run):
    return run(["both", "one", "bad", None])


@pytest.fixture(params=["S3", "local"])
def place(request, tmp_path):
    """Where results go, and how it is reached."""
    if request.param == "local":
        return tmp_path / "results" / "x", None
    bucket = request.getfixturevalue("bucket")
    return bucket.url("results/x/"), request.getfixturevalue("options")


def assert_same(loaded, result):
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(result, name), check_exact=True)
    assert repr(loaded) == repr(result)


def refused(at):
    with pytest.raises(InvalidDatasetError) as raised:
        PipelineResult.load(at)
    return str(raised.value)


IDS = {
    "integers": pd.Series([7, 8, 9, 10]),
    "small integers": pd.Series([7, 8, 9, 10], dtype="uint8"),
    "text": pd.Series(["a", "b", "c", "d"]),
    "text as objects": pd.Series(["a", "b", "c", "d"], dtype=object),
    "nullable integers": pd.Series([7, 8, 9, 10], dtype="Int64"),
    "categories": pd.Series(["a", "b", "c", "d"], dtype="category"),
}
CARRIED = {
    "site": pd.Series(["Ulm", None, "Bonn", "Ulm"], dtype="category"),
    "age": pd.Series([61, None, 47, 3], dtype="Int64"),
    "smokes": pd.Series([True, None, False, None], dtype="boolean"),
    "taken": pd.Series(pd.to_datetime(["2020", None, "2021", "2022"])).dt.tz_localize("Europe/Berlin"),
    "stored": pd.Series(pd.to_datetime(["2020", None, "2021", "2022"], utc=True)).astype("datetime64[s, UTC]"),
    "exposure": pd.Series(pd.to_timedelta([1, 2, 3, None], unit="s")),
    "weight": pd.Series([0.5, float("nan"), 2.0, 1.0], dtype="float32"),
    "note": pd.Series(["a", None, pd.NA, float("nan")], dtype=object),
    "tags": pd.Series([["a"], None, [], ["b", "c"]], dtype=object),
}


@pytest.mark.parametrize("on_failure", ["drop", "record"])
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_every_value_and_dtype_comes_back(run, place, ids, on_failure):
    at, options = place
    result = run(["both", "one", "bad", None], ids=ids, on_failure=on_failure, **CARRIED)
    assert len(result.failures) == 2
    result.save(at, options=options)
    assert_same(PipelineResult.load(at, options=options), result)


CELLS = st.one_of(
    *(
        st.lists(st.one_of(st.none(), kind), min_size=1, max_size=3)
        for kind in (
            st.text(max_size=3),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(),
            st.booleans(),
            st.dates(),
            st.datetimes(timezones=st.sampled_from([None, zoneinfo.ZoneInfo("Europe/Berlin")])),
            st.tuples(st.integers()),
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(CELLS, st.sampled_from(["object", "inferred", "category"]))
def test_a_carried_column_comes_back_or_is_refused_by_name(tmp_path_factory, cells, kind):
    try:
        column = pd.Series(cells, dtype=None if kind == "inferred" else kind)
    except Exception:  # noqa: BLE001  # pandas has no such column
        return
    manifest = pd.DataFrame({"one.txt": "s3://b/x", "id": range(len(cells)), "carried": column})
    recorded = manifest.assign(error_stage=None, error_file=None, error_url=None).assign(
        error_type=None, error_code=None, error_message=None
    )
    result = PipelineResult.from_recorded(recorded)
    at = tmp_path_factory.mktemp("saved") / "x"
    try:
        result.save(at)
    except InvalidDatasetError as exc:
        assert "['carried']" in str(exc)  # noqa: PT017  # it may be storable, too
        assert not at.exists()
        return
    assert_same(PipelineResult.load(at), result)


def test_a_result_without_rows_comes_back(run, tmp_path):
    result = run(["bad", "bad"])
    assert len(result.manifest) == 0
    result.save(tmp_path / "x")
    assert_same(PipelineResult.load(tmp_path / "x"), result)


def test_counts_and_the_hint_come_back(result, tmp_path):
    more = dataclasses.replace(result, files_without_digest=3, hint="is the endpoint the right one?")
    more.save(tmp_path / "x")
    loaded = PipelineResult.load(tmp_path / "x")
    assert (loaded.files_without_digest, loaded.hint, loaded.input_rows) == (3, more.hint, 4)
    assert loaded.prefetch is None


def test_rows_that_a_stopped_run_has_not_processed_are_counted_when_it_is_loaded(run, tmp_path):
    with pytest.raises(RunStoppedError) as stopped:
        run(["both", "bad", "one", "one"], on_failure="raise")
    stopped.value.result.save(tmp_path / "x")
    loaded = PipelineResult.load(tmp_path / "x")
    assert loaded.input_rows == 4
    assert "2 not processed" in repr(loaded)


def test_a_save_costs_a_put_a_frame_and_a_load_a_get_a_frame(result, faults, fault_options):
    faults.put("s3://bucket/other", b"")
    result.save(PLACE, options=fault_options)
    puts = list(faults.requests.items())
    assert sorted(puts) == [(("PutObject", f"results/x/{name}.parquet"), 1) for name in FRAMES]
    assert puts[-1][0] == ("PutObject", "results/x/manifest.parquet")
    PipelineResult.load(PLACE, options=fault_options)
    assert sorted(faults.requests.items() - puts) == [
        (("GetObject", f"results/x/{name}.parquet"), 1) for name in FRAMES
    ]


@pytest.mark.parametrize("at", ["s3://{}", "s3://{}/", "s3://{}/a/b"], ids=["bucket", "its root", "no slash"])
def test_a_place_is_a_prefix_with_or_without_a_slash(result, bucket, options, at):
    result.save(at.format(bucket.name), options=options)
    assert_same(PipelineResult.load(at.format(bucket.name) + "/", options=options), result)


def test_what_is_saved_is_parquet_that_others_read(result, tmp_path):
    result.save(tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [f"{name}.parquet" for name in FRAMES]
    assert pd.read_parquet(tmp_path / "x/manifest.parquet")["id"].tolist() == [0, 1]
    assert pq.read_table(tmp_path / "x/failures.parquet").num_rows == 2


# --- over what is there ---


def test_a_result_replaces_the_one_that_is_there(run, place):
    at, options = place
    run(["one"]).save(at, options=options)
    later = run(["both", "bad"])
    later.save(at, options=options)
    assert_same(PipelineResult.load(at, options=options), later)


@pytest.mark.parametrize("blocked", FRAMES)
def test_local_files_are_replaced_all_together_or_not_at_all(run, result, tmp_path, blocked):
    """A directory has the name of one of the files, which no file can replace."""
    at = tmp_path / "x"
    run(["one"]).save(at)
    (at / f"{blocked}.parquet").unlink()
    (at / f"{blocked}.parquet").mkdir()
    before = {path: path.read_bytes() for path in at.iterdir() if path.is_file()}
    with pytest.raises(RowError, match=rf"could not be saved at {at}: .*{blocked}\.parquet is a directory"):
        result.save(at)
    assert {path: path.read_bytes() for path in at.iterdir() if path.is_file()} == before
    assert len(list(at.iterdir())) == len(FRAMES)


@pytest.mark.parametrize("refused", FRAMES)
def test_a_result_that_is_overwritten_by_half_is_refused(run, result, faults, fault_options, refused):
    faults.put("s3://bucket/other", b"")
    result.save(PLACE, options=fault_options)
    faults.fail("PutObject", Status(403, "AccessDenied"), key=f"results/x/{refused}.parquet")
    with pytest.raises(RowError, match=r"could not be saved at s3://bucket/results/x: .*AccessDenied") as raised:
        run(["one"]).save(PLACE, options=fault_options)
    assert raised.value.failures[0].url == f"s3://bucket/results/x/{refused}.parquet"
    with pytest.raises(InvalidDatasetError, match=r"overwritten by half: .* of two saves.*: save the result again"):
        PipelineResult.load(PLACE, options=fault_options)


def test_a_manifest_in_s3_stays_when_a_file_beside_it_could_not_be_stored(run, result, faults, fault_options):
    faults.put("s3://bucket/other", b"")
    result.save(PLACE, options=fault_options)
    before = faults.body(f"{PLACE}manifest.parquet")
    faults.fail("PutObject", Status(403, "AccessDenied"), key="results/x/files.parquet")
    with pytest.raises(RowError):
        run(["one"]).save(PLACE, options=fault_options)
    assert faults.body(f"{PLACE}manifest.parquet") == before


# --- what is refused ---


def test_a_carried_value_that_parquet_would_change_is_refused_before_anything_is_stored(run, tmp_path):
    result = run(["one", "both"], spacing=[(1.0, 1.0), (0.5, 0.5)])
    with pytest.raises(InvalidDatasetError, match=r"manifest is not saved: .*columns \['spacing'\]"):
        result.save(tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("act", [PipelineResult.save, lambda _, *args, **more: PipelineResult.load(*args, **more)])
@pytest.mark.parametrize("at", [5, None, "gs://bucket/x", "", "s3:/bucket"])
def test_what_is_no_place_is_refused(result, act, at):
    with pytest.raises(InvalidDatasetError):
        act(result, at)


def test_where_nothing_is_saved_the_place_is_named(tmp_path, result):
    result.save(tmp_path / "x")
    for at in (tmp_path / "none", tmp_path / "x/manifest.parquet"):
        with pytest.raises(
            InvalidDatasetError,
            match=f"^no result is saved at {at}, and no checkpoint: there is no {at}/manifest.parquet",
        ):
            PipelineResult.load(at)


def test_where_nothing_is_saved_in_s3_the_endpoint_is_named(bucket, options, endpoint):
    for at in (bucket.url("none/"), "s3://there-is-no-such-bucket/x"):
        said = re.escape(f"manifest.parquet ({endpoint} was asked). Give the place that PipelineResult.save was given")
        with pytest.raises(InvalidDatasetError, match=said):
            PipelineResult.load(at, options=options)


def test_a_store_that_refuses_to_show_it_is_another_error(result, faults, fault_options):
    faults.put("s3://bucket/other", b"")
    result.save(PLACE, options=fault_options)
    faults.fail("GetObject", Status(403, "AccessDenied"), key="results/x/files.parquet")
    with pytest.raises(RowError, match=r"saved result could not be read: .*AccessDenied"):
        PipelineResult.load(PLACE, options=fault_options)


@pytest.fixture
def at(result, tmp_path):
    """Where a result is saved on disk."""
    result.save(tmp_path / "x")
    return tmp_path / "x"


@pytest.mark.parametrize("name", FRAMES)
def test_a_missing_file_is_named(at, name):
    (at / f"{name}.parquet").unlink()
    assert refused(at) == (f"the result at {at} is not whole: there is no {at}/{name}.parquet; save the result again")


@pytest.mark.parametrize("name", FRAMES)
def test_a_damaged_file_is_named(at, name):
    path = at / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert refused(at) == f"{path} is damaged (its bytes are not those that were stored); save the result again"


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("content", [b"", pickle.dumps("x"), b"PAR1"], ids=["empty", "a pickle", "cut off"])
def test_what_is_no_parquet_is_named(at, name, content):
    (at / f"{name}.parquet").write_bytes(content)
    assert refused(at).startswith(f"{at}/{name}.parquet is no Parquet file")


def test_a_directory_in_the_place_of_a_file_is_named(at):
    (at / "files.parquet").unlink()
    (at / "files.parquet").mkdir()
    assert f"{at}/files.parquet is a directory, and no file of a saved result: give the place" in refused(at)


def test_a_parquet_file_of_others_is_named(at):
    pq.write_table(pa.table({"id": [1]}), at / "manifest.parquet")
    assert "manifest.parquet was not written by file_dataset" in refused(at)


def test_a_frame_that_is_no_saved_result_is_named(tmp_path):
    """A manifest that another part of the library has stored, say."""
    (tmp_path / "manifest.parquet").write_bytes(to_parquet(pd.DataFrame({"id": [1]}), {"stamp": "x"}))
    assert "is not the manifest of a saved result" in refused(tmp_path)


def test_files_that_were_exchanged_are_named(at):
    (at / "files.parquet").write_bytes((at / "failures.parquet").read_bytes())
    assert f"{at}/files.parquet is not the files of a saved result" in refused(at)


def rewritten(path, **notes):
    content = path.read_bytes()
    path.write_bytes(to_parquet(from_parquet(content, "here"), notes_of(content, "here") | notes))


def test_a_result_of_a_later_version_is_refused_with_the_remedy(at):
    rewritten(at / "manifest.parquet", saved_version=2)
    assert "saved as version 2, this file_dataset reads 1: upgrade file-dataset" in refused(at)


def test_a_file_of_a_later_format_is_refused_with_the_remedy(at):
    table = pq.read_table(at / "files.parquet")
    metadata = table.schema.metadata | {b"file_dataset.format_version": b"9"}
    pq.write_table(table.replace_schema_metadata(metadata), at / "files.parquet")
    assert "files.parquet has format version 9" in refused(at)


# --- what a loaded result can do ---


def test_the_input_of_a_loaded_result_is_not_known_and_can_be_given(at, result):
    loaded = PipelineResult.load(at)
    assert loaded.input is None
    for frame in ("failed_rows", "unprocessed_rows"):
        with pytest.raises(InvalidDatasetError, match=r"input is not known: .*dataclasses\.replace\(result, input="):
            getattr(loaded, frame)
    whole = dataclasses.replace(loaded, input=result.input)
    pd.testing.assert_frame_equal(whole.failed_rows, result.failed_rows)


def test_a_later_run_is_merged_into_a_loaded_result(run, at, result):
    merged = PipelineResult.load(at).merge(run(["both", "one", "one"]))  # the third row is good now
    assert merged.manifest["id"].tolist() == [0, 1, 2]
    assert merged.summary() == "1 of 4 rows dropped (25.0%): 1 at download"
    merged.save(at)
    assert_same(PipelineResult.load(at), merged)


def test_no_secret_is_saved(run, tmp_path, monkeypatch):
    monkeypatch.setattr(_secrets, "_known", OrderedDict())
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY"
    _secrets.remember([secret])

    def say(input_dir, output_dir):
        raise ValueError(f"the key is {secret}")

    result = dataclasses.replace(run(["one", "one"], fn=say), hint=f"is {secret} the right key?")
    result.save(tmp_path / "x")
    loaded = PipelineResult.load(tmp_path / "x")
    assert loaded.failures["error_message"].tolist() == ["the key is ***"] * 2
    assert loaded.hint == "is *** the right key?"
    saved = [notes_of(path.read_bytes(), path.name) for path in (tmp_path / "x").iterdir()]
    assert secret not in json.dumps(saved)


def test_a_relative_place_is_in_the_working_directory(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result.save("today")
    assert Path("today/manifest.parquet").is_file()
    assert_same(PipelineResult.load(Path("today")), result)
