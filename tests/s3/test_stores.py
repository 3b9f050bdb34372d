"""What every store must do, once for local disk and once for S3."""

from __future__ import annotations

import os
import threading

import pytest
from helpers import options_for
from servers import rclone as rclone_server

from file_dataset import Options, _retry
from file_dataset._errors import FileChangedError, code_of
from file_dataset._http.exchange import INLINE_BYTES
from file_dataset._local_file import LocalFile
from file_dataset._pool import Pool
from file_dataset._s3.multipart import part_bytes
from file_dataset._s3.store import S3Store
from file_dataset._sink import ObjectInfo, Sink
from file_dataset._store import FLAT, Listed, LocalStore, Page, Span
from file_dataset._urls import ObjectUrl

NEVER = threading.Event()
ODD_NAMES = ["a b+c.bin", "100%25.bin", "ünï.bin", "what?.bin", "a#b.bin", "a&b=c.bin", "a:b.bin", "~tilde.bin"]


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    """Both engines; local disk asks for none."""
    return request.param


@pytest.fixture
def split(monkeypatch):
    """Large objects are met by making "large" small: above 256 KiB a body comes in parts side by side."""
    monkeypatch.setattr("file_dataset._s3.ranges._LEAST_BYTES", 128 << 10)
    monkeypatch.setattr("file_dataset._s3.ranges._MOST_BYTES", 128 << 10)


class StoreContract:
    """Subclasses give `store` and `place(name)`: where an object of that name would lie.

    What a server is known not to support is in its `lacks`, by name.
    """

    # "checksums": tells the CRC64NVME of what it stores; "signatures": refuses a wrong one
    lacks = frozenset()

    def need(self, *features):
        """Skip a test of what this server is known not to support."""
        if missing := self.lacks.intersection(features):
            pytest.skip(f"this server is known not to support {sorted(missing)}")

    def upload(self, store, tmp_path, at, body):
        source = tmp_path / "source.bin"
        source.write_bytes(body)
        return store.upload(LocalFile.at(source), at, extra_args={}, cancelled=NEVER).result()

    def download(self, store, at, target):
        sink = Sink(target, threading.Event())
        try:
            info = store.download(at, sink).result()
            sink.commit()
        finally:
            sink.discard()
        return info

    @pytest.mark.parametrize("body", [b"", b"a", b"bytes" * 300_000], ids=["empty", "one byte", "more than a chunk"])
    def test_what_is_uploaded_comes_back(self, store, place, tmp_path, body):
        info = self.upload(store, tmp_path, place("a.bin"), body)
        assert info.size_bytes == len(body)
        assert store.info(place("a.bin")).result().size_bytes == len(body)
        assert self.download(store, place("a.bin"), tmp_path / "back.bin").size_bytes == len(body)
        assert (tmp_path / "back.bin").read_bytes() == body

    def test_an_upload_tells_the_same_checksum_for_the_same_bytes(self, store, place, tmp_path):
        self.need("checksums")
        # the published check value of CRC64NVME, ae8b14860a799888, in base64
        expected = "CRC64NVME:rosUhgp5mIg="
        for name in ("a.bin", "b.bin"):
            assert str(self.upload(store, tmp_path, place(name), b"123456789").digest) == expected

    def test_info_is_what_the_download_says_without_a_byte(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"123456789")
        info = store.info(place("a.bin")).result()
        assert (info.size_bytes, info.etag) == (9, self.download(store, place("a.bin"), tmp_path / "back.bin").etag)

    def test_bytes_arrive_in_memory(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"in memory")
        sink = Sink(None, threading.Event())
        store.download(place("a.bin"), sink).result()
        assert sink.data == b"in memory"

    @pytest.mark.usefixtures("split")
    @pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
    def test_a_large_object_comes_back(self, store, place, tmp_path, in_memory):
        body = os.urandom(3_000_001)  # 3 MB: some ten parts on the wire, and not of equal length
        self.upload(store, tmp_path, place("large.bin"), body)
        sink = Sink(None if in_memory else tmp_path / "back.bin", threading.Event())
        assert store.download(place("large.bin"), sink).result().size_bytes == len(body)
        sink.commit()
        assert (bytes(sink.data) if in_memory else (tmp_path / "back.bin").read_bytes()) == body

    @pytest.mark.parametrize("more", [0, 1, 1 << 20], ids=["as much", "a byte more", "a megabyte more"])
    def test_an_upload_around_what_is_sent_in_one_piece_comes_back(self, store, place, tmp_path, more):
        body = os.urandom(INLINE_BYTES + more)
        self.upload(store, tmp_path, place("a.bin"), body)
        self.download(store, place("a.bin"), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == body

    def test_an_upload_replaces_what_was_there(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"old and longer")
        self.upload(store, tmp_path, place("a.bin"), b"new")
        self.download(store, place("a.bin"), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == b"new"

    @pytest.mark.parametrize("verb", ["info", "download"])
    def test_a_missing_object_is_file_not_found(self, store, place, tmp_path, verb):
        with pytest.raises(FileNotFoundError):
            if verb == "info":
                store.info(place("none.bin")).result()
            else:
                self.download(store, place("none.bin"), tmp_path / "back.bin")
        assert not list(tmp_path.glob("*.part"))
        assert not (tmp_path / "back.bin").exists()

    def test_a_failed_download_leaves_the_earlier_file(self, store, place, tmp_path):
        (tmp_path / "back.bin").write_bytes(b"earlier")
        with pytest.raises(FileNotFoundError):
            self.download(store, place("none.bin"), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == b"earlier"

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_kept(self, store, place, tmp_path, name):
        self.upload(store, tmp_path, place(name), name.encode())
        self.download(store, place(name), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == name.encode()

    def listed(self, store, place, prefix):
        """The places that a listing has, in its order."""
        return [each.at for each in store.list(place(prefix)).result()]

    @pytest.mark.parametrize("count", [0, 1, 30])
    def test_a_listing_has_each_object_once_however_deep(self, store, place, tmp_path, count):
        names = [f"all/{number % 3}/{number:02}.bin" for number in range(count)]
        for name in names:
            self.upload(store, tmp_path, place(name), b"bytes")
        assert self.listed(store, place, "all/") == [place(name) for name in sorted(names)]

    def test_a_listing_says_what_info_says(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("all/a.bin"), b"123456789")
        (listed,) = store.list(place("all/")).result()
        info = store.info(place("all/a.bin")).result()
        assert (listed.size_bytes, listed.etag) == (info.size_bytes, info.etag)

    def test_a_listing_has_nothing_of_a_neighbour(self, store, place, tmp_path):
        for name in ("a-1/x", "a-10/x", "a-1.bin", "a/x"):
            self.upload(store, tmp_path, place(name), b"bytes")
        assert self.listed(store, place, "a-1/") == [place("a-1/x")]

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_kept_in_a_listing(self, store, place, tmp_path, name):
        self.upload(store, tmp_path, place(f"all/{name}"), b"bytes")
        assert self.listed(store, place, "all/") == [place(f"all/{name}")]

    def test_a_flat_page_has_what_lies_in_a_directory_and_names_those_below(self, store, place, tmp_path):
        for name in ("all/a.bin", "all/.b/x", "all/.b/y", "all/c/d/x", "all/e-1.bin", "beside/x"):
            self.upload(store, tmp_path, place(name), b"bytes")
        page = store.page(place("all/"), FLAT).result()
        assert [each.at for each in page.found] == [place("all/a.bin"), place("all/e-1.bin")]
        assert page.below == [self.directory(place("all/.b/")), self.directory(place("all/c/"))]
        assert page.token is None

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_kept_in_a_page(self, store, place, tmp_path, name):
        self.upload(store, tmp_path, place(f"all/{name}/{name}"), b"bytes")
        assert store.page(place("all/"), FLAT).result() == Page([], [self.directory(place(f"all/{name}/"))])

    def directory(self, at):
        """What a page has of a directory."""
        return at.key if isinstance(at, ObjectUrl) else str(at)

    def test_what_is_removed_is_gone_and_the_rest_stays(self, store, place, tmp_path):
        for name in ("all/a.bin", "all/b.bin"):
            self.upload(store, tmp_path, place(name), b"bytes")
        assert store.remove(place("all/a.bin")).result() is None
        assert self.listed(store, place, "all/") == [place("all/b.bin")]
        with pytest.raises(FileNotFoundError):
            store.info(place("all/a.bin")).result()

    def test_removing_what_is_not_there_is_no_error(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"bytes")
        for _ in range(2):
            assert store.remove(place("a.bin")).result() is None

    @pytest.mark.parametrize("verb", ["list", "page", "remove"])
    def test_what_was_cancelled_before_it_began_does_nothing(self, store, place, tmp_path, verb):
        self.upload(store, tmp_path, place("all/a.bin"), b"bytes")
        cancelled = threading.Event()
        cancelled.set()
        with pytest.raises(InterruptedError):
            getattr(store, verb)(place("all/a.bin"), cancelled=cancelled).result()
        assert store.info(place("all/a.bin")).result().size_bytes == len(b"bytes")

    def test_a_cancelled_download_stops(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"bytes")
        cancelled = threading.Event()
        cancelled.set()
        sink = Sink(tmp_path / "back.bin", cancelled)
        with pytest.raises(InterruptedError):
            store.download(place("a.bin"), sink).result()
        sink.discard()
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


class Meddled(Sink):
    """A sink in whose file, or memory, the first byte comes after something was done to the source."""

    def __init__(self, *meddlings):
        super().__init__(None, NEVER)
        self.meddlings = list(meddlings)

    def begin(self, info):
        if self.meddlings:
            self.meddlings.pop(0)()
        return super().begin(info)


class TestLocalStore(StoreContract):
    def upload(self, store, tmp_path, at, body):
        """Local disk needs no upload: what is written there is a download into a local target."""
        source = tmp_path / "source.bin"
        source.write_bytes(body)
        at.parent.mkdir(parents=True, exist_ok=True)
        return self.download(store, source, at)

    @pytest.fixture
    def store(self):
        return LocalStore()

    @pytest.fixture
    def place(self, tmp_path):
        return lambda name: tmp_path / "store" / name

    def test_info_reads_nothing_and_so_knows_no_checksum(self, store, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"123456789")
        os.utime(path, (0, 0))
        assert store.info(path).result() == ObjectInfo(9, modified_ns=0)
        assert path.stat().st_atime == 0

    def test_a_directory_is_refused_by_name(self, store, tmp_path):
        with pytest.raises(IsADirectoryError, match="DICOM"):
            store.info(tmp_path).result()

    def test_a_listing_says_when_a_file_was_modified_and_no_etag(self, store, tmp_path):
        (tmp_path / "a.bin").write_bytes(b"123456789")
        os.utime(tmp_path / "a.bin", ns=(0, 1_700_000_000_123_456_789))
        assert store.list(tmp_path).result() == [Listed(tmp_path / "a.bin", 9, None, 1_700_000_000_123_456_789)]

    def test_a_listing_is_in_the_order_of_the_same_keys_in_s3(self, store, tmp_path):
        for name in ("a/x", "a-1", "a.b", "ü", "z"):  # "-" and "." are before "/"
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        names = [each.at.relative_to(tmp_path).as_posix() for each in store.list(tmp_path).result()]
        assert names == ["a-1", "a.b", "a/x", "z", "ü"]

    def test_a_listing_follows_links_to_files_and_none_to_directories(self, store, tmp_path):
        (tmp_path / "all" / "below").mkdir(parents=True)
        (tmp_path / "all" / "below" / "a.bin").write_bytes(b"bytes")
        (tmp_path / "all" / "file").symlink_to("below/a.bin")
        (tmp_path / "all" / "directory").symlink_to("below")
        (tmp_path / "all" / "nothing").symlink_to("none.bin")
        (tmp_path / "all" / "itself").symlink_to("itself")
        os.mkfifo(tmp_path / "all" / "pipe")
        found = {each.at.relative_to(tmp_path).as_posix(): each.size_bytes for each in store.list(tmp_path).result()}
        assert found == {"all/below/a.bin": 5, "all/file": 5}

    def test_a_page_names_directories_behind_links_and_nothing_that_is_no_file(self, store, tmp_path):
        (tmp_path / "below").mkdir()
        (tmp_path / "directory").symlink_to("below")
        (tmp_path / "nothing").symlink_to("none.bin")
        (tmp_path / "itself").symlink_to("itself")
        os.mkfifo(tmp_path / "pipe")
        assert store.page(tmp_path).result() == Page([], [f"{tmp_path}/below", f"{tmp_path}/directory"])
        assert store.page(tmp_path / "none").result() == Page([], [])

    def test_a_listing_of_a_directory_that_cannot_be_read_is_an_error(self, store, tmp_path):
        (tmp_path / "a.bin").touch()
        with pytest.raises(NotADirectoryError):
            store.list(tmp_path / "a.bin").result()

    def test_a_pipe_is_refused_and_not_waited_for(self, store, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="no regular file"):
            self.download(store, tmp_path / "pipe", tmp_path / "back.bin")

    def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_is_then(self, store, tmp_path):
        """A part of a checkpoint, a saved result or a manifest, which another process writes anew."""
        path, other = tmp_path / "a.bin", tmp_path / "b.bin"
        path.write_bytes(b"old")
        other.write_bytes(b"newer")
        sink = Meddled(lambda: other.replace(path))
        assert store.download(path, sink).result().size_bytes == 5
        assert bytes(sink.data) == b"newer"

    def test_a_file_that_is_removed_while_it_is_read_is_not_found(self, store, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"old")
        with pytest.raises(FileNotFoundError):
            store.download(path, Meddled(path.unlink)).result()

    def test_a_file_that_is_written_to_while_it_is_read_is_no_whole(self, store, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"old")

        def grow():
            with path.open("ab") as file:
                file.write(b"er")

        with pytest.raises(FileChangedError, match="became longer"):
            store.download(path, Meddled(grow)).result()

    def test_a_file_that_is_replaced_again_and_again_is_given_up(self, store, tmp_path):
        path, others = tmp_path / "a.bin", [tmp_path / f"{number}.bin" for number in range(20)]
        for each in (path, *others):
            each.write_bytes(b"body")
        with pytest.raises(FileChangedError, match="another file"):
            store.download(path, Meddled(*(lambda each=each: each.replace(path) for each in others))).result()

    def test_a_copy_has_the_permissions_of_a_new_file(self, store, place, tmp_path):
        self.upload(store, tmp_path, place("a.bin"), b"bytes")
        (tmp_path / "new").touch()
        assert place("a.bin").stat().st_mode == (tmp_path / "new").stat().st_mode


class S3Contract(StoreContract):
    """What an S3 server must do as well."""

    @pytest.mark.parametrize("parts", [1, 3])
    def test_info_is_what_the_upload_was_answered(self, store, place, tmp_path, monkeypatch, parts):
        """ETag and checksum, in the same spelling: `result.files` is compared with them."""
        if parts == 3:
            self.need("etags of parts")
        monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
        monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 6 << 20)
        stored = self.upload(store, tmp_path, place("a.bin"), bytes(1000 if parts == 1 else 12 << 20))
        info = store.info(place("a.bin")).result()
        assert (info.size_bytes, info.etag) == (stored.size_bytes, stored.etag)
        assert stored.digest in (info.digest, None)  # moto and rclone keep a CRC that the upload's answer lacks
        assert ("-3" in stored.etag) == (parts == 3)
        if "checksums" not in self.lacks:
            assert info.digest.algorithm == "CRC64NVME"

    @pytest.mark.usefixtures("split")
    def test_a_large_file_goes_up_in_parts_and_comes_back(self, store, place, tmp_path, monkeypatch):
        # S3 takes parts of 5 MiB and more
        monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
        monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 6 << 20)
        body = bytes(range(256)) * (12 << 12)  # 12 MiB: two whole parts and a rest
        info = self.upload(store, tmp_path, place("large.bin"), body)
        assert info.etag is not None
        assert info.etag.endswith("-3")
        self.download(store, place("large.bin"), tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == body

    def test_a_body_that_broke_off_is_continued(self, store, place, tmp_path):
        body = os.urandom(100_000)
        self.upload(store, tmp_path, place("a.bin"), body)
        sink = self._broken_off(store, place, body)
        store.download(place("a.bin"), sink).result()
        assert bytes(sink.data) == body

    @pytest.mark.parametrize("parts", [1, 3])
    def test_an_upload_that_replaces_nothing_leaves_what_is_there(self, store, place, tmp_path, monkeypatch, parts):
        self.need("conditions", *(["conditions of parts"] if parts > 1 else []))
        monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
        monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 6 << 20)
        at, source = place("a.bin"), tmp_path / "new.bin"
        source.write_bytes(bytes(1000 if parts == 1 else 12 << 20))
        new = {"extra_args": {}, "cancelled": NEVER, "only_new": True}
        assert store.upload(LocalFile.at(source), at, **new).result().size_bytes == source.stat().st_size
        self.upload(store, tmp_path, at, b"before")
        with pytest.raises(FileExistsError):
            store.upload(LocalFile.at(source), at, **new).result()
        assert store.info(at).result().size_bytes == len(b"before")

    def test_an_object_that_was_replaced_is_not_continued(self, store, place, tmp_path, monkeypatch):
        self.need("conditions")
        monkeypatch.setattr(_retry, "BACKOFF_S", 0.001)
        body = os.urandom(100_000)
        self.upload(store, tmp_path, place("a.bin"), body)
        sink = self._broken_off(store, place, body)
        self.upload(store, tmp_path, place("a.bin"), body[::-1])
        store.download(place("a.bin"), sink).result()
        assert bytes(sink.data) == body[::-1]

    def _broken_off(self, store, place, body):
        """A sink as an attempt leaves it that got half of the body, without a digest that would tell a wrong rest."""
        whole, sink = Sink(None, threading.Event()), Sink(None, threading.Event())
        info = store.download(place("a.bin"), whole).result()
        sink.begin(ObjectInfo(info.size_bytes, info.etag)).write(body[:50_000])
        return sink

    def test_extra_args_reach_the_object(self, store, place, s3_client, tmp_path):
        self.need("metadata")
        source = tmp_path / "a.png"
        source.write_bytes(b"png")
        extra = {"ContentType": "image/png", "Metadata": {"made-by": "test"}}
        store.upload(LocalFile.at(source), place("a.png"), extra_args=extra, cancelled=NEVER).result()
        head = s3_client.head_object(Bucket=place("a.png").bucket, Key=place("a.png").key)
        assert (head["ContentType"], head["Metadata"]) == ("image/png", {"made-by": "test"})

    def test_a_listing_of_more_than_a_page_has_each_object_once(self, store, place, tmp_path):
        """A page has 1,000. Of one listing and of its pages, flat and by directories: objects take moto 4 s."""
        source = tmp_path / "source.bin"
        source.write_bytes(b"bytes")
        file = LocalFile.at(source)
        places = [place(f"all/{number:04}/x") for number in range(1001)]
        for stored in [store.upload(file, at, extra_args={}, cancelled=NEVER) for at in places]:
            stored.result()
        assert self.listed(store, place, "all/") == places
        for span in (Span(), FLAT):
            first = store.page(place("all/"), span).result()
            last = store.page(place("all/"), span, token=first.token).result()
            assert last.token is None
            found = [f"{at.key}" for at in (each.at for page in (first, last) for each in page.found)]
            assert (found or [f"{each}x" for each in first.below + last.below]) == [at.key for at in places]

    def test_a_page_begins_after_a_key(self, store, place, tmp_path):
        self.need("keys of directories")
        for name in ("all/a", "all/b/", "all/b/x", "all/c"):
            self.upload(store, tmp_path, place(name), b"")
        page = store.page(place("all/"), Span(after=place("all/b/").key)).result()
        assert [each.at for each in page.found] == [place("all/b/x"), place("all/c")]

    def test_a_listing_says_when_an_object_was_modified(self, store, place, s3_client, tmp_path):
        self.upload(store, tmp_path, place("all/a.bin"), b"bytes")
        (listed,) = store.list(place("all/")).result()
        head = s3_client.head_object(Bucket=listed.at.bucket, Key=listed.at.key)
        assert listed.modified // 1_000_000_000 == int(head["LastModified"].timestamp())  # a HEAD has whole seconds

    def test_a_prefix_need_not_end_with_a_slash(self, store, place, tmp_path):
        for name in ("a-1/x", "a-10/x", "a-1.bin", "a/x"):
            self.upload(store, tmp_path, place(name), b"bytes")
        assert self.listed(store, place, "a-1") == [place(name) for name in ("a-1.bin", "a-1/x", "a-10/x")]

    @pytest.mark.parametrize("verb", ["list", "remove"])
    def test_a_missing_bucket_is_file_not_found(self, store, verb):
        with pytest.raises(FileNotFoundError, match="check the bucket's name") as caught:
            getattr(store, verb)(ObjectUrl("no-such-bucket-of-this-test", "a.bin")).result()
        assert code_of(caught.value) == "NoSuchBucket"

    def test_a_wrong_secret_is_refused_and_named(self, options, place):
        self.need("signatures")
        keys = {**options.session_kwargs, "aws_secret_access_key": "wrong"}
        store = S3Store(Options(keys, options.s3_client_kwargs, engine=options.engine))
        with pytest.raises(PermissionError, match="check the secret key"):
            store.download(place("a.bin"), Sink(None, threading.Event())).result()


class TestS3Store(S3Contract):
    # moto takes any credentials; of another endpoint nothing is known: Ceph 16.2, say, gives no checksums, and
    # completes an upload in parts over what is there ("conditions of parts")
    lacks = frozenset({"signatures"}) | (
        {"checksums", "conditions of parts"} if "FILE_DATASET_TEST_ENDPOINT" in os.environ else frozenset()
    )

    @pytest.fixture
    def store(self, options):
        return S3Store(options)

    @pytest.fixture
    def place(self, bucket):
        return lambda name: ObjectUrl(bucket.name, f"below/{name}")

    @pytest.mark.parametrize(
        "key",
        [
            "//double", "a//b", "dots/./x", "+", "a/b ", "%2F", " ", "a\\b", "<a>&'\"", "tab\t", "\x01\x7f",
            "日本/✓",
        ],
    )  # fmt: skip
    def test_keys_are_opaque(self, store, bucket, tmp_path, key):
        at = ObjectUrl(bucket.name, key)
        self.upload(store, tmp_path, at, b"bytes")
        assert bucket.keys() == [key]
        assert store.info(at).result().size_bytes == len(b"bytes")
        assert self.listed(store, lambda prefix: ObjectUrl(bucket.name, prefix), "") == [at]
        store.remove(at).result()
        assert bucket.keys() == []

    @pytest.fixture
    def s3_client(self, bucket):
        return bucket.client


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    with rclone_server.running(tmp_path_factory.mktemp("rclone")) as url:
        yield url


class TestAStoreThatChecksSignatures(S3Contract):
    """A second server: rclone's, which refuses a request whose signature is wrong, and gives no checksums."""

    # "conditions": If-Match is not looked at; "metadata": neither Content-Type nor metadata are kept; "etags of parts":
    # a HEAD answers another ETag than the upload in parts had; "keys of directories": none ends in a slash
    lacks = frozenset({"checksums", "conditions", "metadata", "etags of parts", "keys of directories"})

    @pytest.fixture
    def options(self, rclone, engine):
        return Options(rclone_server.KEYS, options_for(rclone).s3_client_kwargs, engine=engine)

    @pytest.fixture
    def s3_client(self, options):
        return options.s3_client

    @pytest.fixture
    def store(self, options):
        return S3Store(options)

    @pytest.fixture
    def place(self, tmp_path):
        return lambda name: ObjectUrl("bucket", f"{tmp_path.name}/{name}")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 8 << 20), (80_000 << 20, 8 << 20), ((80_000 << 20) + 1, 9 << 20), (5 << 40, 525 << 20)],
    ids=["small", "10,000 parts of 8 MiB", "one byte more", "5 TiB"],
)
def test_parts_grow_so_that_ten_thousand_hold_the_file(size, expected):
    assert part_bytes(size) == expected
    assert -(-size // expected) <= 10_000
    assert expected % (1 << 20) == 0


def test_attempts_stop_at_the_first_error_that_no_attempt_can_help():
    calls = []

    def refused():
        calls.append(1)
        raise PermissionError(13, "no")

    with pytest.raises(PermissionError):
        _retry.attempt(refused, attempts=5, cancelled=NEVER)
    assert len(calls) == 1


def test_the_last_attempt_says_how_many_there_were(monkeypatch):
    monkeypatch.setattr(_retry, "BACKOFF_S", 0.001)

    def broken():
        raise ConnectionError(104, "reset")

    with pytest.raises(ConnectionError, match="after 3 attempts"):
        _retry.attempt(broken, attempts=3, cancelled=NEVER)


@pytest.mark.parametrize(
    ("promised", "arrived", "error"),
    [(5, b"1234", "IncompleteBodyError"), (3, b"1234", "ChecksumMismatchError"), (4, b"1234", None)],
    ids=["short", "long", "whole"],
)
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_a_sink_compares_the_length_without_any_digest(tmp_path, promised, arrived, error, in_memory):
    sink = Sink(None if in_memory else tmp_path / "a.bin", threading.Event())
    sink.begin(ObjectInfo(promised)).write(arrived)
    if error is None:
        assert sink.finish().size_bytes == promised
    else:
        with pytest.raises(ConnectionError) as caught:
            sink.finish()
        assert type(caught.value).__name__ == error
    sink.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_pool_runs_at_most_its_width_and_ends_with_its_last_reference():
    pool = Pool(2, "test-pool")
    running, most, lock, two = [], [], threading.Lock(), threading.Barrier(2)

    def work(number):
        with lock:
            running.append(number)
            most.append(len(running))
        two.wait(30)
        with lock:
            running.remove(number)
        return number

    futures = [pool.submit(work, number) for number in range(20)]
    assert [future.result() for future in futures] == list(range(20))
    assert max(most) == 2
    names = [thread for thread in threading.enumerate() if thread.name.startswith("test-pool")]
    assert len(names) == 2
    del pool, futures
    for thread in names:
        thread.join(5)
        assert not thread.is_alive()


def test_a_pool_hands_over_what_was_raised():
    with pytest.raises(ZeroDivisionError):
        Pool(1, "test-pool").submit(lambda: 1 / 0).result()
