"""From what fn returned, or `write_files` was given, to the stored bytes: all of a file as it was, or a failure."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from helpers import impatient_options
from servers.faults import Bare200, ErrorIn200, Meanwhile
from servers.scripted import Scripted, always, answer

from file_dataset import InvalidDatasetError, Options, Pipeline, RowError, write_files
from file_dataset._errors import code_of
from file_dataset._http.exchange import INLINE_BYTES
from file_dataset._s3 import responses
from file_dataset._sink import Sink

STORED = "s3://bucket/out/1/a.bin"
EARLIER = b"what was there before"
SMALL = b"small" * 1000
LARGE = os.urandom(24 << 20)  # more than the buffers of two sockets hold: it is not all sent before the server reads


@pytest.fixture(params=["auto", "boto3"])
def engine(request):
    """Both engines: what is promised holds whatever moves the bytes."""
    return request.param


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(SMALL)
    return path


@pytest.fixture
def in_parts(monkeypatch):
    """Files above 6 MiB go up in parts of 5 MiB, the least that S3 takes."""
    monkeypatch.setattr("file_dataset._s3.multipart._PART_BYTES", 5 << 20)
    monkeypatch.setattr("file_dataset._s3.multipart._MULTIPART_BYTES", 6 << 20)


def write(source, options, into_path="s3://bucket/out"):
    return write_files({"a.bin": source}, into_path=into_path, id="1", options=options)


# a file that changes while it is stored


def grows(path):
    with path.open("ab") as file:
        file.write(b"more")


def shrinks(path):
    os.truncate(path, 10)


def is_rewritten(path):
    """Another body of the same length, under the same times but for the one that nobody can set."""
    times = path.stat()
    body = path.read_bytes()
    with path.open("r+b") as file:
        file.write(body[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def is_replaced(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.rename(path)


def becomes_a_link(path):
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


def becomes_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def is_removed(path):
    path.unlink()


CHANGES = [grows, shrinks, is_rewritten, is_replaced, becomes_a_link, becomes_a_pipe, is_removed]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changes_while_it_is_stored_is_a_failure(faults, fault_options, source, change):
    faults.put(STORED, EARLIER)
    faults.fail("PutObject", Meanwhile(lambda: change(source)))
    with pytest.raises(RowError) as caught:
        write(source, fault_options)
    (failure,) = caught.value.failures
    assert (failure.stage, failure.file, failure.url, failure.type) == ("upload", "a.bin", STORED, "FileChangedError")
    assert f"{source} changed while it was copied" in failure.message
    assert f"{STORED} was stored before that was seen" in failure.message


@pytest.mark.parametrize("change", [grows, shrinks, is_rewritten], ids=lambda change: change.__name__)
def test_a_body_whose_file_changes_under_way_breaks_off_and_nothing_is_replaced(faults, fault_options, source, change):
    source.write_bytes(LARGE)
    faults.put(STORED, EARLIER)
    faults.fail("PutObject", Meanwhile(lambda: change(source), is_early=True))
    with pytest.raises(RowError, match="changed while it was copied") as caught:
        write(source, fault_options)
    assert "was stored" not in str(caught.value)
    assert faults.body(STORED) == EARLIER
    assert faults.count("PutObject") == 1


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_upload_in_parts_of_a_file_that_changes_is_aborted(faults, fault_options, source, change):
    """The last part is stored when it changes: no part will be read again."""
    source.write_bytes(LARGE[: 11 << 20])
    faults.put(STORED, EARLIER)
    faults.fail("UploadPart", Meanwhile(lambda: change(source)), nth=3)
    with pytest.raises(RowError, match="changed while it was copied"):
        write(source, fault_options)
    assert faults.body(STORED) == EARLIER
    assert faults.count("CompleteMultipartUpload") == 0
    assert not faults.open_uploads


@pytest.mark.usefixtures("in_parts")
def test_no_part_is_read_from_a_file_that_has_changed(faults, fault_options, source):
    source.write_bytes(LARGE[: 11 << 20])
    faults.put("s3://bucket/there", b"")
    faults.fail("CreateMultipartUpload", Meanwhile(lambda: is_replaced(source)))
    with pytest.raises(RowError, match="another file, or a link, took its place"):
        write(source, fault_options)
    assert faults.keys("bucket") == ["there"]
    assert not faults.open_uploads


@pytest.mark.parametrize("size", [1000, 3 << 20], ids=["small", "large"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changes_while_it_is_copied_replaces_no_local_file(tmp_path, source, monkeypatch, change, size):
    source.write_bytes(LARGE[:size])
    target = tmp_path / "out/1/a.bin"
    target.parent.mkdir(parents=True)
    target.write_bytes(EARLIER)
    pwrite = os.pwrite
    changes = [change]

    def meanwhile(*args):
        if changes:
            changes.pop()(source)
        return pwrite(*args)

    monkeypatch.setattr("file_dataset._sink.os.pwrite", meanwhile)
    with pytest.raises(RowError, match="changed while it was copied") as caught:
        write(source, None, tmp_path / "out")
    assert caught.value.failures[0].url == str(target)
    assert target.read_bytes() == EARLIER
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changes_after_its_copy_replaces_no_local_file(tmp_path, source, monkeypatch, change):
    """It is written on: a file of the same call may take long."""
    target = tmp_path / "out/1/a.bin"
    target.parent.mkdir(parents=True)
    target.write_bytes(EARLIER)
    finish = Sink.finish

    def meanwhile(sink):
        info = finish(sink)
        change(source)
        return info

    monkeypatch.setattr(Sink, "finish", meanwhile)
    with pytest.raises(RowError, match="changed while it was copied"):
        write(source, None, tmp_path / "out")
    assert target.read_bytes() == EARLIER
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_the_other_files_of_a_call_are_named_as_stored(faults, fault_options, source):
    other = source.with_name("b.bin")
    other.write_bytes(b"b")
    faults.put("s3://bucket/there", b"")
    faults.fail("PutObject", Meanwhile(lambda: grows(source)), key="out/1/a.bin")
    with pytest.raises(RowError, match=r"listed nowhere: s3://bucket/out/1/b\.bin") as caught:
        write_files({"a.bin": source, "b.bin": other}, into_path="s3://bucket/out", id="1", options=fault_options)
    assert [failure.file for failure in caught.value.failures] == ["a.bin"]


def test_a_file_that_is_read_by_others_is_stored(faults, fault_options, source):
    """The opposite: looking at it changes nothing."""
    faults.put("s3://bucket/there", b"")
    faults.fail("PutObject", Meanwhile(source.read_bytes))
    assert write(source, fault_options) == {"a.bin": STORED}


def test_a_link_is_followed_once(faults, fault_options, source):
    link = source.with_name("link")
    link.symlink_to(source)

    def turned():
        link.unlink()
        link.symlink_to("/dev/null")

    faults.put("s3://bucket/there", b"")
    faults.fail("PutObject", Meanwhile(turned))
    assert write(link, fault_options) == {"a.bin": STORED}
    assert faults.body(STORED) == SMALL


# what is no file to store


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # the path of a socket is short (108 bytes, unix(7))


def a_device(path):
    path.symlink_to("/dev/zero")


def a_file_of_the_kernels(path):
    path.symlink_to("/proc/self/status")


@pytest.mark.parametrize("make", [a_pipe, a_socket, a_device, a_file_of_the_kernels], ids=lambda make: make.__name__)
def test_only_regular_files_are_stored(faults, fault_options, tmp_path, monkeypatch, make):
    if make is a_file_of_the_kernels and sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "odd")
    with pytest.raises(InvalidDatasetError, match="is no regular file"):
        write(tmp_path / "odd", fault_options)
    assert not faults.requests


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="no such file of sysfs")
@pytest.mark.parametrize("into", ["s3", "local"])
def test_a_file_with_fewer_bytes_than_it_says_is_a_failure(faults, fault_options, tmp_path, into):
    faults.put("s3://bucket/there", b"")
    into_path = "s3://bucket/out" if into == "s3" else tmp_path
    with pytest.raises(RowError, match="fewer bytes"):
        write("/sys/kernel/mm/transparent_hugepage/enabled", fault_options, into_path)


@pytest.mark.parametrize("as_path", [str, Path], ids=["text", "path"])
def test_an_s3_url_is_no_source(faults, fault_options, as_path):
    with pytest.raises(InvalidDatasetError, match=r"is an S3 URL.*download it first") as caught:
        write(as_path("s3://bucket/key"), fault_options)
    assert ("s3://bucket/key" in str(caught.value)) == (as_path is str)
    assert not faults.requests


# the rows of a Pipeline

MODES = {"alone": {"prefetch": 0}, "overlap": {"prefetch": 2}, "workers": {"workers": 2}}


@pytest.fixture
def frame(faults):
    for number in range(4):
        faults.put(f"s3://bucket/in/{number}", b"%d" % number)
    return pd.DataFrame({"id": range(4), "a.bin": [f"s3://bucket/in/{number}" for number in range(4)]})


@pytest.fixture(params=MODES.values(), ids=MODES)
def run(request, faults, frame, fault_options):
    """Run fn over four rows, the second and fourth of which do what it does to odd ones."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import this file

    def run(fn, into_path="s3://bucket/out", **kwargs):
        write = {"into_path": into_path}
        arguments = {"options": fault_options, "progress": False, **request.param, **kwargs}
        return Pipeline(fn, write_options=write, **arguments).run(frame)

    return run


class Odd:
    """fn: odd rows return what `give(input_dir, output_dir, shared)` does; even ones a relative path."""

    def __init__(self, give, shared):
        self.give, self.shared = give, shared

    def __call__(self, input_dir, output_dir):
        number = int((input_dir / "a.bin").read_text())
        if number % 2:
            return {"a.bin": self.give(input_dir, output_dir, self.shared)}
        (output_dir / "good.bin").write_text(f"good {number}")
        return {"a.bin": "good.bin"}


def gives_a_shared_path(_, __, shared):
    (shared / "result.bin").write_text("of any row")
    return shared / "result.bin"


def gives_a_link(_, output_dir, shared):
    (shared / "result.bin").write_text("of any row")
    (output_dir / "link").symlink_to(shared / "result.bin")
    return "link"


def gives_a_hard_link(_, output_dir, shared):
    (shared / "result.bin").write_text("of any row")
    os.link(shared / "result.bin", output_dir / "hard")
    return str(output_dir / "hard")


def gives_a_path_of_the_row_beside(input_dir, _, __):
    beside = input_dir.parent.with_name("beside")
    beside.mkdir(exist_ok=True)
    (beside / "a.bin").write_text("of the row beside")
    return input_dir / ".." / ".." / "beside/a.bin"


def gives_a_moved_directory(_, output_dir, shared):
    shutil.rmtree(output_dir)
    output_dir.symlink_to(shared)
    (output_dir / "a.bin").write_text("elsewhere")
    return output_dir / "a.bin"


OUTSIDE = [
    gives_a_shared_path, gives_a_link, gives_a_hard_link, gives_a_path_of_the_row_beside, gives_a_moved_directory,
]  # fmt: skip


@pytest.mark.parametrize("give", OUTSIDE, ids=lambda give: give.__name__)
def test_outputs_outside_of_the_rows_directories_cost_their_rows(run, faults, tmp_path, give):
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "work").mkdir()
    result = run(Odd(give, shared), temp_dir=tmp_path / "work")
    assert result.manifest["id"].tolist() == [0, 2]
    assert result.failures["error_stage"].tolist() == ["fn", "fn"]
    assert all("this row" in message and "shutil.copy(" in message for message in result.failures["error_message"])
    assert [faults.body(url) for url in result.manifest["a.bin"]] == [b"good 0", b"good 2"]
    assert faults.keys("bucket")[4:] == ["out/0/a.bin", "out/2/a.bin"]


def gives_the_input(input_dir, _, __):
    return input_dir / "a.bin"


def gives_a_link_to_the_input(input_dir, output_dir, _):
    (output_dir / "link").symlink_to(input_dir / "a.bin")
    return output_dir / "link"


def gives_a_hard_link_to_the_input(input_dir, output_dir, _):
    os.link(input_dir / "a.bin", output_dir / "hard")
    return output_dir / "hard"


def gives_another_spelling(input_dir, _, __):
    return Path(os.path.realpath(input_dir)) / "a.bin"


INSIDE = [gives_the_input, gives_a_link_to_the_input, gives_a_hard_link_to_the_input, gives_another_spelling]


@pytest.mark.parametrize("give", INSIDE, ids=lambda give: give.__name__)
def test_inputs_are_forwarded_also_where_temp_dir_is_a_link(run, faults, tmp_path, give):
    (tmp_path / "real").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "real")
    result = run(Odd(give, tmp_path), temp_dir=tmp_path / "work")
    assert [faults.body(url) for url in result.manifest["a.bin"]] == [b"good 0", b"1", b"good 2", b"3"]


def gives_a_log(_, output_dir, __):
    (output_dir / "log").write_bytes(b"a line\n")
    return output_dir / "log"


def test_an_output_that_is_still_written_costs_its_row(run, faults, tmp_path):
    (tmp_path / "work").mkdir()

    def log_on():
        for log in tmp_path.glob("work/*/output/log"):
            grows(log)

    for number in (1, 3):
        faults.fail("PutObject", Meanwhile(log_on), key=f"out/{number}/a.bin")
    result = run(Odd(gives_a_log, tmp_path), temp_dir=tmp_path / "work")
    assert result.manifest["id"].tolist() == [0, 2]
    assert result.failures["error_type"].tolist() == ["FileChangedError"] * 2
    assert result.files["id"].tolist() == [0, 2]


@pytest.mark.parametrize("engine", ["boto3"])
def test_a_file_that_changes_before_it_is_signed_is_a_failure_that_says_so(faults, fresh_options, source):
    """With awscrt installed botocore signs by it: it raised an AwsCrtError, no OSError, and the run stopped."""
    fresh_options.s3_client.meta.events.register("before-sign.s3.PutObject", lambda **_: grows(source))
    with pytest.raises(RowError, match="became longer") as caught:
        write(source, fresh_options)
    assert [failure.type for failure in caught.value.failures] == ["FileChangedError"]
    assert "out/1/a.bin" not in faults.keys("bucket")


# sendfile


REFUSALS = [errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EACCES, errno.ESPIPE]


@pytest.mark.parametrize("engine", ["auto"])
@pytest.mark.parametrize("code", REFUSALS, ids=lambda code: errno.errorcode[code])
def test_where_sendfile_is_refused_the_file_is_read_and_sent(faults, fault_options, source, monkeypatch, code):
    refused = []

    def sendfile(*_):
        refused.append(code)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "sendfile", sendfile)
    source.write_bytes(LARGE)
    faults.put("s3://bucket/there", b"")
    write(source, fault_options)
    assert faults.body(STORED) == LARGE
    assert refused == [code]  # once for a body


@pytest.mark.parametrize("engine", ["auto"])
def test_sendfile_that_is_refused_in_the_middle_goes_on_there(faults, fault_options, source, monkeypatch):
    sendfile = os.sendfile

    def sends_a_little(out, file, position, count):
        if position >= 1 << 20:
            raise OSError(errno.EIO, "now no more")
        return sendfile(out, file, position, min(count, 1 << 18))

    monkeypatch.setattr(os, "sendfile", sends_a_little)
    source.write_bytes(LARGE)
    faults.put("s3://bucket/there", b"")
    write(source, fault_options)
    assert faults.body(STORED) == LARGE


@pytest.mark.parametrize("engine", ["auto"])
@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("size", [INLINE_BYTES + 1, 11 << 20], ids=["one piece", "parts"])
def test_a_platform_without_sendfile_stores_files(faults, fault_options, source, monkeypatch, size):
    monkeypatch.delattr(os, "sendfile")
    source.write_bytes(LARGE[:size])
    faults.put("s3://bucket/there", b"")
    write(source, fault_options)
    assert faults.body(STORED) == LARGE[:size]


# an answer of 200 that says that nothing was stored


@pytest.mark.parametrize("size", [1000, INLINE_BYTES + 1], ids=["small", "large"])
def test_200_with_an_error_is_tried_again(faults, fault_options, source, size):
    source.write_bytes(LARGE[:size])
    faults.put("s3://bucket/there", b"")
    faults.fail("PutObject", ErrorIn200(), times=2)
    assert write(source, fault_options) == {"a.bin": STORED}
    assert faults.count("PutObject") == 3
    assert faults.body(STORED) == LARGE[:size]


@pytest.mark.parametrize("code", ["InternalError", "SlowDown", "AccessDenied"])
def test_200_with_an_error_for_ever_is_a_failure(faults, fault_options, source, code):
    faults.put(STORED, EARLIER)
    faults.fail("PutObject", ErrorIn200(code), times=None)
    with pytest.raises(RowError, match="after 3 attempts") as caught:
        write(source, fault_options)
    assert caught.value.failures[0].code == code
    assert faults.body(STORED) == EARLIER


NO_STORES_ANSWER = {
    "a page of a proxy": b"<html><body>Log in</body></html>",
    "an error in a namespace": b"<Error xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Code>AccessDenied</Code></Error>",
}


@pytest.mark.parametrize("body", NO_STORES_ANSWER.values(), ids=NO_STORES_ANSWER)
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.usefixtures("retries_come_at_once")
def test_200_with_a_body_and_no_etag_stored_nothing(engine, source, body, framing):
    sent = answer(body)
    if framing == "chunks":
        sent = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with Scripted(always(sent)) as server, pytest.raises(RowError, match="after 3 attempts"):
        write(source, impatient_options(server.url, engine=engine))


def test_an_error_in_a_namespace_is_one_beside_an_etag_too():
    with pytest.raises(ConnectionError):
        responses.check_stored({"etag": '"x"'}, NO_STORES_ANSWER["an error in a namespace"])


def test_white_space_before_an_error_hides_nothing_of_it():
    body = b"  \r\n<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"
    with pytest.raises(ConnectionError) as caught:
        responses.check_stored({}, body)
    assert code_of(caught.value) == "SlowDown"


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.parametrize("fault", [ErrorIn200("SlowDown"), Bare200()], ids=["error", "bare"])
class TestInParts:
    def test_200_that_stored_nothing_is_tried_again(self, faults, fault_options, source, operation, fault):
        source.write_bytes(LARGE[: 11 << 20])
        faults.put("s3://bucket/there", b"")
        faults.fail(operation, fault)
        assert write(source, fault_options) == {"a.bin": STORED}
        assert faults.body(STORED) == LARGE[: 11 << 20]
        assert not faults.open_uploads

    def test_200_that_stored_nothing_for_ever_is_a_failure(self, faults, fault_options, source, operation, fault):
        source.write_bytes(LARGE[: 11 << 20])
        faults.put(STORED, EARLIER)
        faults.fail(operation, fault, times=None)
        with pytest.raises(RowError, match="after 3 attempts") as caught:
            write(source, fault_options)
        assert (caught.value.failures[0].code == "SlowDown") == isinstance(fault, ErrorIn200)
        assert faults.body(STORED) == EARLIER
        assert not faults.open_uploads


# what becomes a header

BAD_ARGS = {
    "a value of metadata": {"Metadata": {"a": "x\r\nx-amz-acl: public-read"}},
    "a name of metadata": {"Metadata": {"a: x\r\nx-amz-acl": "public-read"}},
    "a name with a space": {"Metadata": {"a b": "x"}},
    "an empty name": {"Metadata": {"": "x"}},
    "a name beyond ASCII": {"Metadata": {"größe": "x"}},
    "a value beyond ASCII": {"Metadata": {"a": "größe"}},
    "a number": {"Metadata": {"a": 5}},
    "no mapping": {"Metadata": "a"},
    "a line feed": {"ContentType": "text/plain\nx-amz-acl: public-read"},
    "a null": {"ContentDisposition": "a\0b"},
    "a carriage return": {"Tagging": "a=b\r"},
    "no content type": {"ContentType": None},
    "a number for a text": {"ContentType": 5},
    "tags as a mapping": {"Tagging": {"a": "b"}},
}


@pytest.mark.parametrize("extra_args", BAD_ARGS.values(), ids=BAD_ARGS)
class TestExtraArgs:
    def test_what_no_header_may_hold_is_refused_before_the_first_request(
        self, faults, fault_options, source, extra_args
    ):
        with pytest.raises(InvalidDatasetError, match=next(iter(extra_args))):
            write_files(
                {"a.bin": source}, into_path="s3://bucket/out", id="1", options=fault_options, extra_args=extra_args
            )
        assert not faults.requests

    def test_so_it_is_before_fn_is_called(self, faults, frame, fault_options, extra_args):
        called = threading.Event()
        into = {"into_path": "s3://bucket/out", "extra_args": extra_args}
        with pytest.raises(InvalidDatasetError, match=next(iter(extra_args))):
            Pipeline(lambda i, o: called.set(), write_options=into, options=fault_options, progress=False).run(frame)
        assert not called.is_set()
        assert not faults.requests


@pytest.mark.parametrize("extra_args", [None, {"ContentType": "text/plain"}], ids=["plain", "extra_args"])
def test_a_misspelled_profile_is_the_failure_of_the_file(monkeypatch, source, extra_args):
    """It was a bare PermissionError where no options were given."""
    monkeypatch.setenv("AWS_PROFILE", "misspelled")
    with pytest.raises(RowError, match=r"\(misspelled\) could not be found.*correct the name") as caught:
        write_files({"a.bin": source}, into_path="s3://bucket/out", id="1", extra_args=extra_args)
    assert caught.value.failures[0].url == STORED


@pytest.mark.parametrize("place", ["session_kwargs", "s3_client_kwargs", "environment"])
@pytest.mark.parametrize("region", ["", "us-east-1\n"], ids=["empty", "a line break"])
def test_a_region_that_nothing_can_be_signed_for_is_refused_before_fn(monkeypatch, frame, engine, region, place):
    """Botocore takes both; then a bare RuntimeError, or five attempts a row that show the signature."""
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK"}
    client = {"endpoint_url": "http://127.0.0.1:9"}
    named = {"region_name": region}
    if place == "environment":
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        named = {}
    in_client = place == "s3_client_kwargs"
    options = Options(keys | ({} if in_client else named), client | (named if in_client else {}), engine=engine)
    called = threading.Event()
    into = {"into_path": "s3://bucket/out"}
    with pytest.raises(InvalidDatasetError, match="is no region"):
        Pipeline(lambda i, o: called.set(), write_options=into, options=options, progress=False).run(frame)
    assert not called.is_set()
