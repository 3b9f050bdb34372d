"""How many rows a Ray task takes by default, what finding that out costs, and what a task holds."""

from __future__ import annotations

import sys

import pandas as pd
import pyarrow as pa
import pytest
from helpers import forward

import file_dataset
from file_dataset._ray import batching, blobs, compat
from file_dataset._ray.options import BatchOptions

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(180)]


@pytest.mark.parametrize(
    ("count", "slots", "most", "rows"),
    [
        (1_000, (2, 2), 1024, 125),
        (100_000, (2, 2), 256, 256),
        (24, (2, 2), 256, 8),
        (20, (2, 2), 256, 7),
        (12, (2, 2), 3, 3),
        (4, (2, 2), 256, 2),
        (8, (8, 8), 256, 1),
        (9, (8, 8), 256, 2),
        (8, (1_000, 1_000), 256, 1),
        (1_000, (1, 25), 256, 10),
        (1_000, (1, sys.maxsize), 256, 8),
        (0, (2, 2), 256, 1),
    ],
    ids=[
        "four tasks a slot",
        "256 rows at most",
        "8 rows at least",
        "tasks alike",
        "large rows",
        "a task for each slot",
        "one row each",
        "two for some",
        "more slots than rows",
        "a cluster that grows",
        "a cluster without a bound",
        "no rows",
    ],
)
def test_rows_by_slots(count, slots, most, rows):
    assert batching.rows_per_task(count, slots, most) == rows


@pytest.mark.usefixtures("local_ray")
class TestSlots:
    """On a Ray of two CPUs and one GPU."""

    @pytest.mark.parametrize(
        ("concurrency", "takes", "slots"),
        [
            (None, {}, (2, 2)),
            (None, {"num_cpus": 0.2}, (10, 10)),
            (None, {"num_cpus": 0}, (2, 2)),
            (None, {"num_cpus": 0, "num_gpus": 0.25}, (4, 4)),
            (None, {"num_gpus": 1}, (1, 1)),
            (None, {"num_cpus": 4}, (1, sys.maxsize)),
            (None, {"resources": {"disk": 1}}, (1, sys.maxsize)),
            (7, {}, (7, 7)),
            ((1, 3), {"num_gpus": 1}, (3, 3)),
        ],
        ids=str,
    )
    def test_they_are_what_fits_unless_they_are_given(self, concurrency, takes, slots):
        assert compat.slots(concurrency, takes) == slots

    def test_an_autoscaler_that_says_how_far_it_goes_counts(self, grown):
        grown({"CPU": 8}, 5)
        assert compat.slots(None, {"num_cpus": 2}) == (1, 20)

    @pytest.fixture
    def grown(self, local_ray):
        """Say what an autoscaler says: so many nodes, each with these resources."""
        if not hasattr(local_ray._private.state.state, "get_max_resources_from_cluster_config"):  # noqa: SLF001
            pytest.skip("this Ray does not say how far its autoscaler goes")
        from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

        client = local_ray._raylet.GcsClient(local_ray.get_runtime_context().gcs_address)  # noqa: SLF001

        def tell(resources, count):
            group = NodeGroupConfig(name="workers", resources=resources, max_count=count)
            client.report_cluster_config(ClusterConfig(node_group_configs=[group]).SerializeToString())

        yield tell
        client.report_cluster_config(ClusterConfig().SerializeToString())


@pytest.fixture
def tasks(monkeypatch, local_ray):
    """The read tasks of a `blob_reader`, which is not consumed."""
    sources = []
    monkeypatch.setattr(compat, "read", lambda source, *_, **__: sources.append(source))

    def of(frame, *args, **kwargs):
        file_dataset.ray.blob_reader(frame, *args, **kwargs)
        return sources.pop().get_read_tasks(1)

    return of


def rows_of(tasks):
    return [task.metadata.num_rows for task in tasks]


def frame_of(faults, sizes, *, columns=1):
    """A frame of rows of such sizes in bytes, None for null; rows of a size share an object."""
    urls = {}
    for size in set(sizes) - {None}:
        urls[size] = f"s3://b/{size}"
        faults.put(urls[size], bytes(size))
    cells = [urls.get(size) for size in sizes]
    return pd.DataFrame({"id": range(len(sizes))} | {f"{n}.bin": cells for n in range(columns)})


class TestBlobReader:
    @pytest.mark.parametrize(
        ("sizes", "rows"),
        [
            ([16 << 20] * 6, [2, 2, 2]),
            ([5] * 40, [8] * 5),
            ([5] * 4_000, [500] * 8),
            ([5] * 20_000, [1000] * 20),
            ([33 << 20] * 3, [1, 1, 1]),
            ([0] * 40, [8] * 5),
            ([16 << 20, None] * 8, [4] * 4),
            ([5, 5, 5], [2, 1]),
        ],
        ids=["large", "few", "many", "1,024 at most", "over 32 MiB", "empty files", "nulls", "a task for each slot"],
    )
    def test_tasks_of_32_mib_and_four_per_slot(self, faults, fault_options, tasks, sizes, rows):
        assert rows_of(tasks(frame_of(faults, sizes), options=fault_options)) == rows

    def test_a_number_is_that_number(self, faults, fault_options, tasks):
        assert rows_of(tasks(frame_of(faults, [16 << 20] * 9), 4, fault_options)) == [4, 4, 1]
        assert rows_of(tasks(frame_of(faults, [5] * 100), 100, fault_options)) == [100]

    def test_concurrency_and_cpus_are_slots(self, faults, fault_options, tasks):
        frame = frame_of(faults, [5] * 320)
        assert rows_of(tasks(frame, options=fault_options, concurrency=4)) == [20] * 16
        assert rows_of(tasks(frame, options=fault_options, num_cpus=0.25)) == [10] * 32

    @pytest.mark.parametrize(
        ("batch_size", "columns", "heads"),
        [(4, 1, 4), (None, 1, 16), (100, 1, 16), (None, 8, 64), (4, 8, 32), (None, 100, 100)],
    )
    @pytest.mark.parametrize("on_failure", ["raise", "drop"])
    def test_it_costs_a_head_per_file_of_16_rows_or_64_files(
        self, faults, fault_options, tasks, batch_size, columns, heads, on_failure
    ):
        tasks(frame_of(faults, [5] * 40, columns=columns), batch_size, fault_options, on_failure=on_failure)
        assert (faults.count("HeadObject"), faults.count("GetObject")) == (heads, 0)

    def test_no_rows_cost_nothing(self, faults, fault_options, tasks):
        assert rows_of(tasks(frame_of(faults, [5]).iloc[:0], options=fault_options)) == [0]
        assert faults.count("HeadObject") == 0

    @pytest.mark.parametrize("large", [slice(30, 60), slice(0, 30)], ids=["at the end", "at the beginning"])
    def test_rows_from_all_over_the_frame_are_looked_at(self, faults, fault_options, tasks, large):
        """The first rows alone would say 5 bytes, and a task would be of 8 rows and 128 MiB."""
        sizes = [5] * 60
        sizes[large] = [16 << 20] * 30
        assert max(rows_of(tasks(frame_of(faults, sizes), options=fault_options))) == 4

    def test_bad_rows_leave_the_mean_alone(self, faults, fault_options, tasks):
        frame = frame_of(faults, [16 << 20] * 6)
        frame.loc[[0, 2], "0.bin"] = ["s3://b/missing", "gs://b/other"]
        (first, *_) = tasks(frame, options=fault_options, on_failure="record")
        assert (first.metadata.num_rows, first.metadata.size_bytes) == (2, 32 << 20)

    def test_a_task_whose_rows_are_larger_than_the_sample_reads_fewer_at_a_time(
        self, faults, fault_options, tasks, monkeypatch
    ):
        """A task holds 16 rows, or what it is to hold at once by the mean of those that it has read."""
        held_bytes, large_bytes = 1 << 20, 100_000
        monkeypatch.setattr(blobs, "_HELD_BYTES", held_bytes)
        sizes = [large_bytes] * 121
        sizes[::8] = [5] * 16  # those that are looked at
        (task,) = tasks(frame_of(faults, sizes), 121, fault_options)
        pieces = [(table.num_rows, table.nbytes) for table in task()]
        assert sum(rows for rows, _ in pieces) == 121
        assert pieces[0][0] == 16
        assert max(size for _, size in pieces[1:]) <= held_bytes + large_bytes

    def test_a_task_of_small_rows_reads_more_of_them_each_time(self, faults, fault_options, tasks):
        """Not all after the first 16: those to come may be large."""
        (task,) = tasks(frame_of(faults, [5] * 100), 100, fault_options)
        assert [table.num_rows for table in task()] == [16, 64, 20]

    def test_a_dataset_is_read_as_its_frame_is(self, faults, fault_options, tasks, local_ray):
        frame = frame_of(faults, [5, None] * 20)
        dataset = local_ray.data.from_pandas([frame[:7], frame[7:]])
        in_order = [table for task in tasks(dataset, options=fault_options) for table in task()]
        assert [table.num_rows for table in in_order] == [8] * 5
        table = pa.concat_tables(in_order)
        assert table.to_pydict() == {"id": list(range(40)), "0.bin": [bytes(5), None] * 20}
        assert faults.count("HeadObject") == 8  # of 16 rows every other has no file

    def test_the_blocks_are_the_tasks(self, faults, fault_options, local_ray):
        dataset = file_dataset.ray.blob_reader(frame_of(faults, [5] * 40), options=fault_options).materialize()
        assert (dataset.num_blocks(), dataset.count()) == (5, 40)


@pytest.mark.usefixtures("local_ray")
class TestRunPipeline:
    @pytest.fixture
    def run(self, tmp_path, local_ray):
        """Run so many rows, and say how many had been done whenever a task was."""
        (tmp_path / "a.txt").write_text("a")

        def run(count, *, blocks=None, **kwargs):
            reports = []
            frame = pd.DataFrame({"id": range(count), "a.txt": [str(tmp_path / "a.txt")] * count})
            pipeline = file_dataset.Pipeline(forward, into_path=tmp_path / "out", progress=reports.append)
            data = frame
            if blocks is not None:
                rows = max(1, count // blocks)
                parts = [frame[at : at + rows] for at in range(0, count, rows)]
                data = local_ray.data.from_pandas(parts)
            result = file_dataset.ray.run_pipeline(pipeline, data, workers=0, **kwargs)
            assert len(result.manifest) == count
            return sorted(now.done for now in reports)

        return run

    @pytest.mark.parametrize("blocks", [None, 1, 24], ids=["frame", "one block", "small blocks"])
    @pytest.mark.parametrize(
        ("count", "arguments", "done"),
        [
            (96, {}, [12, 24, 36, 48, 60, 72, 84, 96]),
            (24, {}, [8, 16, 24]),
            (4, {}, [2, 4]),
            (4, {"concurrency": 1}, [4]),
            (4, {"num_cpus": 0.5}, [1, 2, 3, 4]),
            (4, {"batch_size": 4}, [4]),
        ],
        ids=["four tasks a slot", "8 rows", "a task for each slot", "one slot", "half a CPU", "a number"],
    )
    def test_tasks_by_slots(self, run, count, arguments, done, blocks):
        assert run(count, blocks=blocks, **arguments) == done

    def test_a_dataset_of_one_block_goes_to_every_actor(self, run):
        """Ray gives a block to one actor, and actors may hold every CPU: none is left for a task that cuts blocks."""
        assert run(6, blocks=1, actors=True, concurrency=2) == [3, 6]

    def test_a_row_has_as_much_time_in_a_task_of_any_size(self, run, local_ray, monkeypatch):
        """Ray ends an execution in which no task ends for so long: 12 rows need 1.5 times what 8 do."""
        if not hasattr(local_ray.data.DataContext.get_current(), "execution_no_progress_timeout_s"):
            pytest.skip("this Ray waits for ever")
        patience = []
        settings = compat.settings

        def spy(dataset, **kwargs):
            with settings(dataset, **kwargs):
                patience.append(compat.patience_s(dataset))
            return settings(dataset, **kwargs)

        monkeypatch.setattr(local_ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", 600)
        monkeypatch.setattr(compat, "settings", spy)
        run(96)
        run(96, batch_size=12)
        run(24)
        assert patience == [900, 600, 600]
        assert local_ray.data.DataContext.get_current().execution_no_progress_timeout_s == 600

    def test_a_row_of_a_given_batch_has_what_ray_gives_the_batch(self):
        options = BatchOptions(None, None, {}, uses_actors=False, concurrency=None, workers=None)
        assert options.patience_s(1800, 256) == 1800 * 32
        assert options.patience_s(None, 256) is None
