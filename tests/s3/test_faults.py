"""Everything a store can do wrong, on files and on blobs: the right bytes, or an error that says what happened."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import impatient_options, options_for
from servers.faults import (
    ACCESS_DENIED,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    INVALID_ACCESS_KEY_ID,
    INVALID_OBJECT_STATE,
    NO_SUCH_KEY,
    REQUEST_TIME_TOO_SKEWED,
    SERVICE_UNAVAILABLE,
    SIGNATURE_DOES_NOT_MATCH,
    SLOW_DOWN,
    SURVIVED,
    TOO_MANY_REQUESTS,
    ErrorIn200,
    FlipBit,
    LostReply,
    NoAnswer,
    Redirect,
    Replace,
    ReplaceAfter,
    Reset,
    Short,
    Slow,
    Stall,
    Status,
    Truncate,
)

import file_dataset
from file_dataset import RowError

BODY = bytes(range(256)) * (3 << 12)  # 3 MiB: more than one chunk of a copy
URL = "s3://bucket/a.bin"


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    """Both engines: what the shell promises holds whatever moves the bytes."""
    return request.param


def into_file(options):
    with file_dataset.reader(row={"a.bin": URL}, options=options).into_temp_dir() as temp:
        assert [path.name for path in temp.iterdir()] == ["a.bin"]
        return (temp / "a.bin").read_bytes()


def into_memory(options):
    table = file_dataset.reader(row={"a.bin": URL}, options=options).into_blob_table()
    return table["a.bin"][0].as_buffer().to_pybytes()


@pytest.fixture(params=[into_file, into_memory], ids=["file", "blob"])
def read(request):
    return request.param


BREAKS = {
    "500": INTERNAL_ERROR,
    "503": SERVICE_UNAVAILABLE,
    "SlowDown": SLOW_DOWN,
    "429": TOO_MANY_REQUESTS,
    "no answer": NoAnswer(),
    "reset": Reset(),
    "reset in the body": Reset(after_bytes=2 << 20),
    "truncated": Truncate(after_bytes=2 << 20),
    "stall": Stall(after_bytes=2 << 20),
}
DAMAGES = {
    "flipped bit": FlipBit(position=2 << 20),
    "body shorter than the object": Short(by=1000),
}


@pytest.mark.parametrize("fault", [*BREAKS.values(), *DAMAGES.values()], ids=[*BREAKS, *DAMAGES])
def test_a_fault_that_happens_once_costs_nothing(read, faults, fault_options, fault):
    faults.put(URL, BODY, checksum="CRC64NVME")
    faults.fail("GetObject", fault)
    assert read(fault_options) == BODY
    assert len(faults.fired) == 1


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
def test_a_fault_for_ever_is_told_after_the_attempts(read, faults, fresh_options, fault):
    """Over connections that others have left, a reset costs a request that no attempt counts."""
    if hasattr(fault, "after_bytes"):  # what is left for the last attempt is shorter than the object
        fault = type(fault)(after_bytes=1000)
    faults.put(URL, BODY)
    faults.fail("GetObject", fault, times=None)
    with pytest.raises(RowError) as caught:
        read(fresh_options)
    (failure,) = caught.value.failures
    assert (failure.stage, failure.file, failure.url) == ("download", "a.bin", URL)
    assert "after 3 attempts" in failure.message
    assert faults.count("GetObject") == 3  # Config(retries={"total_max_attempts": 3})
    if isinstance(fault, Status):
        assert failure.code == fault.code


@pytest.mark.parametrize("proof", ["CRC64NVME", "CRC32C", "CRC32", "MD5"])
@pytest.mark.parametrize("fault", DAMAGES.values(), ids=DAMAGES)
def test_damaged_bytes_are_never_handed_over(read, faults, fault_options, fault, proof):
    if proof == "MD5":
        faults.put(URL, BODY)
    else:
        faults.put(URL, BODY, checksum=proof, etag="kms")
    faults.fail("GetObject", fault, times=None)
    with pytest.raises(RowError, match=r"ChecksumMismatchError.*after 3 attempts"):
        read(fault_options)


def test_where_the_store_offers_no_digest_the_length_is_all_there_is(read, faults, fault_options):
    """The README says so: with a multipart ETag and no checksum nothing could tell these bytes from the right ones."""
    faults.put(URL, BODY, etag="multipart")
    faults.fail("GetObject", FlipBit(position=5))
    assert read(fault_options) != BODY


def test_a_composite_checksum_is_not_taken_for_the_whole_objects(read, faults, fault_options):
    faults.put(URL, BODY, etag="multipart", checksum="CRC32")
    assert read(fault_options) == BODY


def test_an_etag_of_kms_is_not_taken_for_an_md5(read, faults, fault_options):
    faults.put(URL, BODY, etag="kms")
    assert read(fault_options) == BODY


def test_digests_can_be_turned_off_and_length_cannot(read, faults, fault_options):
    options = dataclasses.replace(fault_options, check_digests=False)
    faults.put(URL, BODY)
    faults.fail("GetObject", FlipBit(position=5))
    assert read(options) != BODY
    faults.fail("GetObject", Truncate(after_bytes=5), times=None)
    with pytest.raises(RowError, match="after 3 attempts"):
        read(options)


def test_a_body_that_breaks_off_is_continued_and_not_read_again(read, faults, fault_options):
    faults.put(URL, BODY)
    faults.fail("GetObject", Truncate(after_bytes=2 << 20))
    assert read(fault_options) == BODY
    assert faults.bytes_sent <= len(BODY) + (1 << 20)  # the rest of the chunk that broke is all that comes twice


def test_two_versions_are_never_blended(read, faults, fault_options):
    other = BODY[::-1]
    faults.put(URL, BODY)
    faults.fail("GetObject", Truncate(after_bytes=2 << 20))
    faults.fail("GetObject", Replace(other), nth=2)
    assert read(fault_options) == other
    assert faults.count("GetObject") == 3  # broken off, refused by If-Match, the new version from its first byte


def test_an_object_replaced_after_its_read_began_is_the_old_one_whole(read, faults, fault_options):
    faults.put(URL, BODY)
    faults.fail("GetObject", ReplaceAfter(b"new"))
    assert read(fault_options) == BODY


def test_a_slow_body_arrives(read, faults, fault_options):
    faults.put(URL, BODY)
    faults.fail("GetObject", Slow(bytes_per_second=2 << 20))
    assert read(fault_options) == BODY


def test_a_redirect_to_another_region_is_followed(read, faults, fault_options):
    faults.put(URL, BODY)
    faults.fail("GetObject", Redirect("eu-central-1"), times=None)
    assert read(fault_options) == BODY


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (ACCESS_DENIED, "permissions"),
        (NO_SUCH_KEY, "NoSuchKey"),
        (INVALID_OBJECT_STATE, "archived: restore"),
        (Status(400, "InvalidRequest"), "InvalidRequest"),
        (REQUEST_TIME_TOO_SKEWED, "clock"),
        (INVALID_ACCESS_KEY_ID, "endpoint_url"),
        (SIGNATURE_DOES_NOT_MATCH, "secret key"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_a_refusal_is_told_after_one_attempt(read, faults, fault_options, fault, remedy):
    faults.put(URL, BODY)
    faults.fail("GetObject", fault, times=None)
    with pytest.raises(RowError, match=remedy) as caught:
        read(fault_options)
    assert caught.value.failures[0].code == fault.code
    assert faults.count("GetObject") == 1


def test_a_download_costs_one_get_and_no_head(read, faults, fault_options):
    faults.put(URL, BODY)
    read(fault_options)
    assert sum(faults.requests.values()) == faults.count("GetObject") == 1


def test_a_size_costs_one_head(faults, fault_options):
    faults.put(URL, BODY)
    table = file_dataset.reader(row={"a.bin": URL}, options=fault_options).into_size_table()
    assert table["a.bin"].to_pylist() == [len(BODY)]
    assert sum(faults.requests.values()) == faults.count("HeadObject") == 1


def test_a_read_lists_every_file_that_failed(faults, fault_options):
    faults.put("s3://bucket/there", b"x")
    row = {"a.bin": "s3://bucket/none-1", "b.bin": "s3://bucket/there", "c.bin": "s3://bucket/none-2"}
    with pytest.raises(RowError) as caught:
        file_dataset.reader(row=row, options=fault_options).into_temp_dir()
    assert [failure.file for failure in caught.value.failures] == ["a.bin", "c.bin"]


def test_max_concurrency_bounds_the_requests_in_flight(faults, engine):
    for number in range(40):
        faults.put(f"s3://bucket/{number}", b"x" * 100)
    faults.fail("GetObject", Slow(bytes_per_second=1000), times=None)
    row = {f"{number}.bin": f"s3://bucket/{number}" for number in range(40)}
    options = impatient_options(faults.endpoint_url, max_concurrency=8, engine=engine)
    file_dataset.reader(row=row, options=options).into_blob_table()
    assert 1 < faults.max_in_flight <= 8


# uploads


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(BODY)
    return path


@pytest.fixture
def in_parts(monkeypatch):
    """Large enough files are met by making "large" small: S3 takes parts of 5 MiB and more."""
    monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
    monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 5 << 20)


def write(source, options):
    return file_dataset.write_files({"a.bin": source}, into_path="s3://bucket/out", id="1", options=options)


STORED = "s3://bucket/out/1/a.bin"


@pytest.mark.parametrize("fault", SURVIVED.values(), ids=SURVIVED)
def test_an_upload_survives_a_fault(faults, fault_options, source, fault):
    faults.put("s3://bucket/other", b"")
    faults.fail("PutObject", fault)
    assert write(source, fault_options) == {"a.bin": STORED}
    assert faults.body(STORED) == BODY
    assert faults.keys("bucket") == ["other", "out/1/a.bin"]


@pytest.mark.parametrize("fault", SURVIVED.values(), ids=SURVIVED)
def test_an_upload_that_fails_for_ever_is_told(faults, fresh_options, source, fault):
    faults.put("s3://bucket/other", b"")
    faults.fail("PutObject", fault, times=None)
    with pytest.raises(RowError) as caught:
        write(source, fresh_options)
    (failure,) = caught.value.failures
    assert (failure.stage, failure.file, failure.url, failure.id) == ("upload", "a.bin", STORED, "1")
    # one more when the first went over a connection that another test had left: its end is no attempt
    assert 3 <= faults.count("PutObject") <= 4


@pytest.mark.usefixtures("in_parts")
class TestInParts:
    BODY = os.urandom(12 << 20)

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(self.BODY)
        return path

    @pytest.mark.parametrize(
        ("operation", "fault"),
        [
            ("CreateMultipartUpload", SLOW_DOWN),
            ("UploadPart", SLOW_DOWN),
            ("UploadPart", Reset()),
            ("UploadPart", LostReply()),
            ("CompleteMultipartUpload", INTERNAL_ERROR),
            ("CompleteMultipartUpload", ErrorIn200()),
            ("CompleteMultipartUpload", LostReply()),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_one_fault_costs_nothing(self, faults, fault_options, source, operation, fault):
        faults.put("s3://bucket/other", b"")
        faults.fail(operation, fault)
        assert write(source, fault_options) == {"a.bin": STORED}
        assert faults.body(STORED) == self.BODY
        assert not faults.open_uploads

    @pytest.mark.parametrize("fault", [SLOW_DOWN, ACCESS_DENIED, ErrorIn200()], ids=["503", "403", "200 with an error"])
    @pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload"])
    def test_a_failed_upload_is_aborted_and_what_was_there_stays(self, faults, fault_options, source, operation, fault):
        faults.put(STORED, b"earlier")
        faults.fail(operation, fault, times=None)
        with pytest.raises(RowError):
            write(source, fault_options)
        assert not faults.open_uploads
        assert faults.count("AbortMultipartUpload") == 1
        assert faults.body(STORED) == b"earlier"

    def test_attempts_are_counted_per_request(self, faults, fault_options, source):
        faults.put("s3://bucket/other", b"")
        faults.fail("UploadPart", SLOW_DOWN, times=2)
        faults.fail("CompleteMultipartUpload", SLOW_DOWN, times=2)
        write(source, fault_options)
        assert faults.count("UploadPart") == 3 + 2
        assert faults.count("CompleteMultipartUpload") == 1 + 2

    def test_an_abort_that_fails_is_logged_with_its_upload(self, faults, fault_options, source, caplog):
        faults.put("s3://bucket/other", b"")
        faults.fail("UploadPart", ACCESS_DENIED, times=None)
        faults.fail("AbortMultipartUpload", ACCESS_DENIED, times=None)
        with pytest.raises(RowError):
            write(source, fault_options)
        (upload_id,) = faults.open_uploads
        assert upload_id in caplog.text

    def test_the_object_carries_a_checksum_of_the_whole(self, faults, fault_options, source):
        faults.put("s3://bucket/other", b"")
        write(source, fault_options)
        head = fault_options.s3_client.head_object(Bucket="bucket", Key="out/1/a.bin", ChecksumMode="ENABLED")
        assert head["ChecksumType"] == "FULL_OBJECT"
        assert head["ChecksumCRC64NVME"]


# credentials


def test_expired_credentials_give_way_to_the_processs_own_and_say_so_once(
    faults, fresh_options, monkeypatch, caplog, read
):
    faults.put(URL, BODY)
    faults.expire("AKIDTEST")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "worker")
    assert read(fresh_options) == BODY
    assert read(fresh_options) == BODY
    assert faults.access_keys["AKIDTEST"] == 1  # it stays with the new ones
    (record,) = [record for record in caplog.records if "expired" in record.message]
    assert "frozen into the Options" in record.message
    assert "this process's own (env)" in record.message


def test_expired_credentials_without_others_say_what_to_do(faults, fresh_options, read):
    faults.put(URL, BODY)
    faults.expire("AKIDTEST")
    with pytest.raises(RowError, match="this process has none of its own") as caught:
        read(fresh_options)
    assert caught.value.failures[0].code == "ExpiredToken"


def test_sizes_see_expired_credentials_too(faults, fresh_options, monkeypatch):
    """A HEAD's answer has no body that could say ExpiredToken."""
    faults.put(URL, BODY)
    faults.expire("AKIDTEST")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "worker")
    table = file_dataset.reader(row={"a.bin": URL}, options=fresh_options).into_size_table()
    assert table["a.bin"].to_pylist() == [len(BODY)]


def test_no_credentials_at_all_say_what_is_missing(faults, monkeypatch, read):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faults.endpoint_url)
    with pytest.raises(RowError, match="AWS_ACCESS_KEY_ID") as caught:
        read(None)
    assert caught.value.failures[0].code == "NoCredentials"
    assert not faults.requests


def test_throttling_lowers_the_rate_and_is_no_failure(faults, engine):
    for number in range(8):
        faults.put(f"s3://bucket/{number}", b"x")
    adaptive = options_for(faults.endpoint_url, engine=engine)
    faults.fail("GetObject", SLOW_DOWN, times=3)
    row = {f"{number}.bin": f"s3://bucket/{number}" for number in range(8)}
    assert file_dataset.reader(row=row, options=adaptive).into_blob_table().num_rows == 1


def test_ctrl_c_during_a_download_returns_soon_and_leaves_nothing(own_faults, tmp_path, engine):
    faults = own_faults
    faults.put(URL, BODY)
    faults.fail("GetObject", Slow(bytes_per_second=100_000), times=None)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt():
        while not faults.count("GetObject"):
            time.sleep(0.01)
        time.sleep(0.2)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        options = impatient_options(faults.endpoint_url, engine=engine)
        file_dataset.reader(row={"a.bin": URL}, options=options).into_temp_dir(dir=tmp_path)
    assert faults.bytes_sent < len(BODY)  # which would take half a minute
    assert list(tmp_path.iterdir()) == []


def test_expired_token_is_a_refusal_not_a_retry(faults, fault_options, read):
    faults.put(URL, BODY)
    faults.fail("GetObject", EXPIRED_TOKEN, times=None)
    with pytest.raises(RowError):
        read(fault_options)
    assert faults.count("GetObject") == 1


def test_two_versions_are_never_blended_where_no_digest_would_tell(read, faults, fault_options):
    """If-Match alone keeps them apart."""
    other = BODY[::-1]
    faults.put(URL, BODY, etag="multipart")
    faults.fail("GetObject", Truncate(after_bytes=2 << 20))
    faults.fail("GetObject", Replace(other), nth=2)
    assert read(fault_options) == other


def test_a_completion_that_finds_no_upload_is_not_taken_for_done_when_another_object_lies_there(
    faults, fault_options, tmp_path, in_parts
):
    source = tmp_path / "a.bin"
    source.write_bytes(b"x" * (6 << 20))
    faults.put(STORED, b"y" * (6 << 20))
    faults.fail("CompleteMultipartUpload", Status(404, "NoSuchUpload"), times=None)
    with pytest.raises(RowError, match="NoSuchUpload"):
        write(source, fault_options)
    assert faults.body(STORED) == b"y" * (6 << 20)


def test_an_abort_is_tried_again(faults, fault_options, tmp_path, in_parts):
    source = tmp_path / "a.bin"
    source.write_bytes(b"x" * (6 << 20))
    faults.put("s3://bucket/other", b"")
    faults.fail("UploadPart", ACCESS_DENIED, times=None)
    faults.fail("AbortMultipartUpload", SLOW_DOWN)
    with pytest.raises(RowError):
        write(source, fault_options)
    assert not faults.open_uploads


def test_many_uploads_in_parts_share_a_narrow_pool(faults, tmp_path, in_parts, engine):
    source = tmp_path / "a.bin"
    source.write_bytes(os.urandom(11 << 20))
    faults.put("s3://bucket/other", b"")
    files = {f"{number}.bin": source for number in range(4)}
    options = impatient_options(faults.endpoint_url, max_concurrency=2, engine=engine)
    file_dataset.write_files(files, into_path="s3://bucket/out", id="1", options=options)
    assert faults.max_in_flight <= 2
    assert all(faults.body(f"s3://bucket/out/1/{name}") == source.read_bytes() for name in files)


@pytest.mark.parametrize("size", [3000, 12 << 20], ids=["one request", "in parts"])
def test_credentials_that_expire_during_an_upload_are_renewed(
    faults, fresh_options, monkeypatch, tmp_path, in_parts, size
):
    source = tmp_path / "a.bin"
    source.write_bytes(os.urandom(size))
    faults.put("s3://bucket/other", b"")
    faults.expire("AKIDTEST", nth=1 if size < 5 << 20 else 2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "worker")
    write(source, fresh_options)
    assert faults.body(STORED) == source.read_bytes()
    sent = {"PutObject": 2} if size < 5 << 20 else {"PutObject": 0, "CompleteMultipartUpload": 1}
    assert {name: faults.count(name) for name in sent} == sent  # renewed, and not tried again for another reason
    assert faults.count("UploadPart") <= 6


def test_a_chain_is_read_afresh_each_time_its_credentials_expire(faults, fresh_options, monkeypatch, caplog):
    faults.put(URL, BODY)
    for number, expired in enumerate(["AKIDTEST", "AKID-0", "AKID-1"]):
        faults.expire(expired)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKID-{number}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "worker")
        assert into_memory(fresh_options) == BODY
    assert len([record for record in caplog.records if "expired" in record.message]) == 1


def test_many_requests_see_credentials_expire_and_one_renews_them(faults, fresh_options, monkeypatch, caplog):
    row = {f"{number}.bin": f"s3://bucket/{number}" for number in range(40)}
    for url in row.values():
        faults.put(url, b"x")
    faults.expire("AKIDTEST", after_s=0.1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "worker")
    assert file_dataset.reader(row=row, options=fresh_options).into_blob_table().num_rows == 1
    assert faults.access_keys["AKIDTEST"] > 1  # or the test has not met what it is about
    assert len([record for record in caplog.records if "expired" in record.message]) == 1


@pytest.mark.parametrize(
    "fault", [Status(400, "BadDigest"), Status(400, "IncompleteBody")], ids=lambda fault: fault.code
)
def test_an_upload_that_was_damaged_on_its_way_is_sent_again(faults, fault_options, source, fault):
    faults.put("s3://bucket/other", b"")
    faults.fail("PutObject", fault)
    write(source, fault_options)
    assert faults.body(STORED) == BODY


def test_a_program_ends_soon_after_ctrl_c(own_faults, tmp_path, engine):
    """A stalled server must not hold it for the read timeout, a minute by default."""
    own_faults.put(URL, BODY)
    own_faults.fail("GetObject", Stall(after_bytes=1000), times=None)
    script = tmp_path / "script.py"
    script.write_text(
        "import file_dataset\n"
        "keys = {'aws_access_key_id': 'a', 'aws_secret_access_key': 'b', 'region_name': 'us-east-1'}\n"
        f"options = file_dataset.Options(keys, {{'endpoint_url': {own_faults.endpoint_url!r}}}, engine={engine!r})\n"
        f"file_dataset.reader({{'a.bin': {URL!r}}}, options=options).into_temp_dir(dir={str(tmp_path)!r})\n"
    )
    restore = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen([sys.executable, "-c", restore + script.read_text()], stderr=subprocess.PIPE) as program:
        while not own_faults.bytes_sent:
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        program.wait(timeout=30)  # not the minute of the read timeout
        assert b"KeyboardInterrupt" in program.stderr.read()
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_no_secret_of_the_options_is_in_a_message(faults, monkeypatch):
    """What botocore says of a request can hold its headers and its endpoint."""
    from file_dataset import _secrets

    secret = "Zs3cr3t/+Z"
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": secret, "aws_session_token": f"token-{secret}"}
    assert file_dataset.Options(keys, {"endpoint_url": f"http://user:{secret}@127.0.0.1:1"})
    said = f"Invalid header value b'token-{secret}' for http://user:{secret}@127.0.0.1:1/ with {secret}"
    assert secret not in _secrets.masked(said)


@pytest.mark.parametrize("name", ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"])
def test_credentials_with_a_line_break_are_refused_and_not_shown(name):
    """A token read from a file and not stripped would be quoted by the HTTP client."""
    with pytest.raises(file_dataset.InvalidDatasetError, match="strip it") as caught:
        file_dataset.Options({name: "s3cr3t\n"})
    assert "s3cr3t" not in str(caught.value)
