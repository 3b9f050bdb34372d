"""Temp dirs are gone when they should be, and only by the process that made them."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

import pytest

from file_dataset import InvalidDatasetError, TempDir, _residue


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the system keeps temporary files, for one test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


NOBODY = 65534
LOOKS = _residue._next_look  # noqa: SLF001  # when each place is looked at again


@pytest.fixture
def open_place():
    """A place that everybody may enter, unlike those that pytest makes."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        yield Path(place)


# --- what it is


def test_it_is_an_empty_directory_where_the_system_keeps_such(place):
    with TempDir() as path:
        assert path.parent == place
        assert list(path.iterdir()) == []


def test_it_can_be_somewhere_else(tmp_path):
    with TempDir(tmp_path) as path:
        assert path.parent == tmp_path


def test_it_is_absolute_below_a_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    with TempDir("sub") as path:
        assert path.parent == tmp_path / "sub"


def test_two_are_two(place):
    with TempDir() as one, TempDir() as other:
        assert one != other


def test_only_its_owner_may_look_inside(place):
    with TempDir() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_with_yields_a_path(place):
    with TempDir() as path:
        assert isinstance(path, Path)


def test_it_is_a_path_to_the_standard_library(place):
    directory = TempDir()
    with directory as path:
        assert (os.fspath(directory), Path(directory)) == (str(path), path)


def test_its_repr_shows_where_it_is(place):
    directory = TempDir()
    with directory as path:
        assert repr(directory) == f"TempDir('{path}')"


def test_its_parent_is_where_the_system_keeps_temporary_files(place):
    assert TempDir.parent() == str(place)


NOWHERE = {"missing": "gone", "a file": "file", "below a file": "file/sub"}


@pytest.mark.parametrize("name", NOWHERE.values(), ids=NOWHERE)
def test_a_place_that_is_none_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidDatasetError) as refused:
        TempDir(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert "give a directory that exists and can be written" in str(refused.value)


def test_without_any_place_the_remedy_is_told(monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "no usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(InvalidDatasetError, match=r"no temp dir in the usual places: .*; set TMPDIR to a"):
        TempDir()


def test_a_full_disk_stays_the_error_that_it_is(place, monkeypatch):
    def full(_, **__):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="no space left") as refused:
        TempDir()
    assert refused.value.errno == errno.ENOSPC


# --- when it goes


def filled(directory):
    (directory.path / "sub").mkdir()
    (directory.path / "sub/a.txt").write_text("a")
    return directory


def test_ctrl_c_while_it_is_made_leaves_nothing(place, monkeypatch):
    mkdir = Path.mkdir

    def interrupted(self, **kwargs):
        mkdir(self, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        TempDir()
    assert list(place.iterdir()) == []  # not only when its traceback goes
    del caught


def test_ctrl_c_while_it_is_removed_leaves_it_to_the_next_cleanup(place, monkeypatch):
    directory = filled(TempDir())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("file_dataset._residue.remove_tree", lambda *_: signal.raise_signal(signal.SIGINT))
        directory.cleanup()
    assert directory.path.exists()
    directory.cleanup()
    assert list(place.iterdir()) == []


def test_it_is_gone_after_with(place):
    with filled(TempDir()) as path:
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_gone_after_an_error(place, error):
    with pytest.raises(error), filled(TempDir()):
        raise error
    assert list(place.iterdir()) == []


def test_it_is_gone_after_cleanup(place):
    directory = filled(TempDir())
    directory.cleanup()
    assert not directory.path.exists()


def test_cleanup_can_be_called_twice(place):
    directory = filled(TempDir())
    directory.cleanup()
    directory.cleanup()


def test_cleanup_within_with_is_enough(place):
    directory = filled(TempDir())
    with directory:
        directory.cleanup()
    assert list(place.iterdir()) == []


def test_a_second_cleanup_does_not_remove_what_came_after(place):
    directory = filled(TempDir())
    directory.cleanup()
    directory.path.mkdir()
    directory.cleanup()
    assert directory.path.exists()


def test_it_is_gone_with_its_last_reference_and_warns(place):
    kept = [filled(TempDir())]
    path = kept[0].path
    with (
        pytest.warns(UserWarning, match="is removed"),  # `path` was taken
        pytest.warns(ResourceWarning, match=f"{path} was never closed: use `with` or call cleanup"),
    ):
        kept.clear()
    assert not path.exists()


def test_one_whose_path_was_taken_warns_where_users_see_it(place):
    with pytest.warns(UserWarning, match=r"Write `with reader\(\.\.\.\)\.into_temp_dir\(\) as directory:`") as caught:
        folder = Path(TempDir())
    assert not folder.exists()
    assert {warning.filename for warning in caught} >= {__file__}  # the line that lost it
    assert str(folder) in str(caught[0].message)


SHOWN = {
    "Path(TempDir())": True,
    "TempDir().path": True,
    "TempDir()": False,
    "TempDir().cleanup()": False,
    "kept = TempDir(); Path(kept)": False,  # gone with the process
}


@pytest.mark.parametrize(("line", "is_shown"), SHOWN.items(), ids=SHOWN)
def test_python_shows_the_warning_by_default(tmp_path, line, is_shown):
    script = f"from pathlib import Path; from file_dataset import TempDir; {line}"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True, timeout=200)
    assert (b"UserWarning" in done.stderr) == is_shown
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_where_warnings_are_errors_too(place, monkeypatch):
    unraised = []
    monkeypatch.setattr("sys.unraisablehook", lambda error: unraised.append(error.exc_type))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        os.fspath(TempDir())
    assert unraised == [UserWarning]
    assert list(place.iterdir()) == []


def test_one_that_was_removed_says_so_when_it_is_used_again(place):
    directory = filled(TempDir())
    with directory:
        pass
    for use in (os.fspath, Path, TempDir.__enter__):
        with pytest.raises(FileNotFoundError, match="this temp dir was removed, by `with` or cleanup"):
            use(directory)


def test_one_that_was_closed_does_not_warn(place):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with filled(TempDir()):
            pass
        gc.collect()


def test_it_is_gone_when_somebody_else_removed_its_files(place):
    with filled(TempDir()) as path:
        (path / "sub/a.txt").unlink()
        (path / "sub").rmdir()
        path.rmdir()
    assert list(place.iterdir()) == []


LOCKS = {
    "read-only directory": ("sub", 0o500),
    "directory without search": ("sub", 0o400),
    "unreadable directory": ("sub", 0o300),
    "closed directory": ("sub", 0o000),
    "read-only file": ("sub/a.txt", 0o400),
    "read-only itself": (".", 0o500),
    "unreadable itself": (".", 0o300),
    "closed itself": (".", 0o000),
}


@pytest.mark.parametrize(("name", "mode"), LOCKS.values(), ids=LOCKS)
def test_what_became_read_only_is_removed(open_place, name, mode):
    script = f"""
        import os
        from file_dataset import TempDir
        if os.geteuid() == 0:
            os.seteuid({NOBODY})  # nothing is read-only to root
        directory = TempDir()
        (directory.path / "sub/deep").mkdir(parents=True)
        (directory.path / "sub/a.txt").touch()
        (directory.path / "{name}").chmod({mode})
        directory.cleanup()
    """
    output_of(script, open_place)
    assert list(open_place.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that are not the user's own")
def test_what_belongs_to_somebody_else_is_left(open_place):
    """A container that fn ran as root leaves such files."""
    script = f"""
        import os
        from file_dataset import TempDir
        os.seteuid({NOBODY})
        directory = TempDir()
        os.seteuid(0)
        (directory.path / "sub").mkdir()
        (directory.path / "sub/a.txt").touch()
        os.seteuid({NOBODY})
        directory.cleanup()
        print(directory.path.exists())
    """
    assert output_of(script, open_place) == ["True"]


def test_what_a_link_points_to_stays(place, tmp_path_factory):
    kept = tmp_path_factory.mktemp("kept")
    (kept / "a.txt").touch()
    with TempDir() as path:
        (path / "link").symlink_to(kept)
    assert (kept / "a.txt").exists()


def test_the_mode_of_what_a_link_points_to_stays(open_place):
    script = f"""
        import os
        from pathlib import Path
        from file_dataset import TempDir
        if os.geteuid() == 0:
            os.seteuid({NOBODY})  # nothing is read-only to root
        kept = Path(TempDir.parent(), "kept")
        kept.mkdir(mode=0o700)
        directory = TempDir()
        (directory.path / "link").symlink_to(kept)
        (directory.path / "sub").mkdir()
        (directory.path / "sub/a.txt").touch()
        kept.chmod(0o500)
        (directory.path / "sub").chmod(0o500)
        directory.cleanup()
        print(oct(kept.stat().st_mode), directory.path.exists())
    """
    assert output_of(script, open_place) == ["0o40500", "False"]


OUTSIDE = {
    "the row's directory": "os.rename(path, f'{path}.old'); os.symlink(kept, path)",
    "a directory in it": "os.rename(path / 'sub', path / 'old'); os.symlink(kept, path / 'sub')",
    "a file in its place": "os.rename(path, f'{path}.old'); path.write_text('a')",
}


@pytest.mark.parametrize("replace", OUTSIDE.values(), ids=OUTSIDE)
def test_what_lies_behind_a_link_in_its_place_stays_as_it_is(place, tmp_path_factory, replace):
    kept = tmp_path_factory.mktemp("kept")
    (kept / "sub").mkdir()
    (kept / "sub/a.txt").write_text("a")
    for at in (kept / "sub", kept):
        at.chmod(0o555)
    directory = filled(TempDir())
    exec(replace, {"os": os, "path": directory.path, "kept": kept})  # noqa: S102  # one of the three above
    directory.cleanup()
    assert not os.path.lexists(directory.path)
    assert [stat.S_IMODE(at.stat().st_mode) for at in (kept, kept / "sub")] == [0o555, 0o555]
    assert (kept / "sub/a.txt").read_text() == "a"


def test_a_tree_deeper_than_paths_and_descriptors_go_is_removed(place):
    directory = TempDir()
    home = Path.cwd()
    try:
        os.chdir(directory.path)
        for _ in range(500):  # 500 x 11 bytes: paths end at 4,096
            Path("a" * 10).mkdir()
            os.chdir("a" * 10)
            Path("file").touch()
    finally:
        os.chdir(home)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 30, limits[1]))
        directory.cleanup()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("later", ["TempDir().cleanup()", "pass"], ids=["with the next one", "at the end"])
def test_what_could_not_be_removed_for_want_of_descriptors_goes_later(tmp_path, later):
    script = f"""
        import os
        from file_dataset import TempDir
        directory = TempDir()
        path = directory.path
        (path / "sub").mkdir()
        (path / "sub/a.txt").touch()
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            directory.cleanup()
            print(path.exists())
        for fd in held:
            os.close(fd)
        {later}
        print(path.exists())
    """
    assert output_of(script, tmp_path)[0] == "True"
    assert output_of(script, tmp_path)[1] == str(later == "pass")
    assert list(tmp_path.iterdir()) == []


def test_without_descriptors_there_are_temp_dirs_all_the_same(tmp_path):
    """Without a lock, which nobody may take for a dead one's."""
    script = """
        import os
        from file_dataset import TempDir, _residue
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            directory = TempDir(os.environ["TMPDIR"])
        for fd in held:
            os.close(fd)
        _residue._next_look.clear()
        with TempDir():
            print(directory.path.exists(), len(os.listdir(directory.path.parent)))
    """
    assert output_of(script, tmp_path) == ["True", "2"]
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_leave_descriptors_to_others(tmp_path):
    script = """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        from file_dataset import TempDir
        kept = [TempDir() for _ in range(200)]
        print(len(os.listdir("/proc/self/fd")) < 40, len({directory.path for directory in kept}))
    """
    assert output_of(script, tmp_path) == ["True", "200"]
    assert list(tmp_path.iterdir()) == []


# --- what a killed process leaves


def killed(script, place):
    """Start a script, kill it when it prints a line; return what it left."""
    environment = {**os.environ, "TMPDIR": str(place)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.kill()
    return sorted(place.iterdir())


HANGING = """
    import time
    from file_dataset import TempDir
    directories = [TempDir() for _ in range(3)]
    for directory in directories:
        (directory.path / "sub").mkdir()
        (directory.path / "sub/a.txt").touch()
    print("here", flush=True)
    time.sleep(200)
"""


def test_what_a_killed_process_left_goes_with_the_next_temp_dir(place):
    assert len(killed(HANGING, place)) == 3
    with TempDir() as path:
        assert list(place.iterdir()) == [path]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_killed_run_left_goes_with_the_next_run(tmp_path, workers):
    temp = tmp_path / "temp"
    temp.mkdir()
    (tmp_path / "in.bin").write_bytes(b"x")
    script = f"""
        import sys, time
        import pandas as pd
        import file_dataset

        def fn(input_dir, output_dir):
            (output_dir / "o.txt").write_text("o")
            if sys.argv[1:] != ["whole"]:
                print("here", flush=True)
                time.sleep(200)
            return {{"o.txt": output_dir / "o.txt"}}

        frame = pd.DataFrame({{"id": list("abcdef"), "a.bin": [{str(tmp_path / "in.bin")!r}] * 6}})
        pipeline = file_dataset.Pipeline(
            fn, write_options={{"into_path": {str(tmp_path / "out")!r}}}, workers={workers}, progress=False
        )
        print(len(pipeline.run(frame).manifest))
    """
    assert killed(script, temp)
    environment = {**os.environ, "TMPDIR": str(temp)}
    command = [sys.executable, "-c", textwrap.dedent(script), "whole"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.split() == ["6"]
    assert list(temp.iterdir()) == []


def test_what_a_living_process_has_stays(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(HANGING)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        with TempDir(tmp_path):
            pass
        assert len(list(tmp_path.glob("*/sub/a.txt"))) == 3
        process.kill()


def test_what_another_thread_of_this_process_has_stays(place):
    with TempDir() as path:
        LOOKS.clear()
        with TempDir():
            assert path.exists()


def test_a_forked_child_that_lives_on_does_not_keep_what_its_killed_parent_left(place):
    script = """
        import os, time
        from file_dataset import TempDir
        directory = TempDir()
        if os.fork() == 0:
            print(os.getpid(), flush=True)  # by then it has given up its parent's locks
        time.sleep(200)
    """
    environment = {**os.environ, "TMPDIR": str(place)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with TempDir() as path:
                assert list(place.iterdir()) == [path]
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_removal_that_ctrl_c_ends_in_a_finalizer_is_tried_again(place, monkeypatch):
    swallowed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: swallowed.append(unraisable.exc_type))
    remove_tree = _residue.remove_tree

    def interrupted(path, lock):
        monkeypatch.setattr(_residue, "remove_tree", remove_tree)
        raise KeyboardInterrupt

    directory = TempDir(place)
    monkeypatch.setattr(_residue, "remove_tree", interrupted)
    with pytest.warns(ResourceWarning, match="never closed"):
        del directory
    assert swallowed == [KeyboardInterrupt]
    with TempDir(place) as path:
        assert list(place.iterdir()) == [path]


def test_what_a_forked_child_has_stays_when_its_parent_is_killed(place):
    script = """
        import os, time
        from file_dataset import TempDir
        directory = TempDir()
        if os.fork() == 0:
            directory = TempDir()
            print(os.getpid(), directory.path, flush=True)
        time.sleep(200)
    """
    environment = {**os.environ, "TMPDIR": str(place)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        child, path = process.stdout.readline().split()
        process.kill()
        process.wait()
        try:
            with TempDir() as mine:
                assert sorted(place.iterdir()) == sorted([mine, Path(path)])
        finally:
            os.kill(int(child), signal.SIGKILL)


def of_a_machine(boot, host):
    return f"file_dataset-{boot}{host}-0123456789ab"


BOOT, HOST = _residue.BOOT, _residue.HOST
NAMES = {
    "this machine": (of_a_machine(BOOT, HOST), False),
    "an earlier boot": (of_a_machine("0" * 6, HOST), False),
    "another container": (of_a_machine(BOOT, "0" * 6), False),
    "another machine": (of_a_machine("0" * 6, "0" * 6), True),
    "without a lock": ("file_dataset-0123456789ab", True),
    "the user's": ("file_dataset-results", True),
    "longer": (of_a_machine(BOOT, HOST) + ".old", True),
}


@pytest.mark.parametrize(("name", "stays"), NAMES.values(), ids=NAMES)
def test_the_name_says_whose_it_is(place, name, stays):
    (place / name).mkdir()
    (place / name / "a.txt").touch()
    with TempDir():
        pass
    assert (place / name / "a.txt").exists() == stays


def test_a_link_or_file_of_such_a_name_stays(place, tmp_path_factory):
    kept = tmp_path_factory.mktemp("kept")
    (kept / "a.txt").touch()
    (place / of_a_machine(BOOT, HOST)).symlink_to(kept)
    (place / of_a_machine(BOOT, "1" * 6)).touch()
    os.mkfifo(place / of_a_machine(BOOT, "2" * 6))
    with TempDir():
        pass
    assert len(list(place.iterdir())) == 3
    assert (kept / "a.txt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that are not the user's own")
def test_what_is_another_users_stays(place):
    other = place / of_a_machine(BOOT, HOST)
    other.mkdir()
    os.chown(other, NOBODY, NOBODY)
    with TempDir():
        pass
    assert other.exists()


def test_a_place_is_looked_at_again_when_a_second_has_gone(place):
    with TempDir():
        left = place / of_a_machine(BOOT, HOST)
        left.mkdir()
        TempDir().cleanup()
        assert left.exists()  # a row of a run costs no look
        LOOKS[str(place)] -= 1.0
        TempDir().cleanup()
        assert not left.exists()


def test_one_that_is_taken_for_a_dead_ones_while_it_is_made_gets_another_name(place, monkeypatch):
    """Between mkdir and the lock another process may look."""
    hold, seen = _residue.hold, []

    def late(path):
        seen.append(path)
        if len(seen) == 1:
            LOOKS.clear()
            _residue.remove_residue(str(path.parent))
        return hold(path)

    monkeypatch.setattr("file_dataset._residue.hold", late)
    with TempDir() as path:
        assert path == seen[1]
        assert path.exists()
        assert seen[0] != seen[1]


def test_one_that_another_process_removed_while_it_was_locked_gets_another_name(place, monkeypatch):
    """Between open and the lock another process may have had the lock, and be done."""
    flock, removed = fcntl.flock, []

    def late(fd, operation):
        if not removed:
            removed.extend(place.iterdir())
            removed[0].rmdir()
        flock(fd, operation)

    monkeypatch.setattr("fcntl.flock", late)
    with TempDir() as path:
        assert list(place.iterdir()) == [path]
        assert path != removed[0]


def test_where_no_locks_are_a_temp_dir_has_none_and_is_left_alone(place, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with TempDir() as path:
        assert list(place.iterdir()) == [path]
        monkeypatch.undo()
        LOOKS.clear()
        with TempDir(place):
            assert path.exists()


# --- whose it is


def output_of(script, place):
    """Run a script whose temp dirs lie in `place`; return its lines."""
    environment = {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        env=environment, capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    return done.stdout.split()


def test_a_forked_child_that_exits_leaves_the_directory_of_its_parent(tmp_path):
    script = """
        import os, sys
        from file_dataset import TempDir
        directory = TempDir()
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        print(directory.path.exists())
        directory.cleanup()
    """
    assert output_of(script, tmp_path) == ["True"]


@pytest.mark.parametrize("leave", ["sys.exit(0)", "raise ValueError", "os.kill(os.getpid(), 2)"])
def test_a_child_forked_within_with_that_exits_leaves_the_directory_of_its_parent(tmp_path, leave):
    script = f"""
        import os, sys
        from file_dataset import TempDir
        with TempDir() as path:
            child = os.fork()
            if child == 0:
                sys.stderr = open(os.devnull, "w")
                {leave}
            os.waitpid(child, 0)
            print(path.exists())
    """
    assert output_of(script, tmp_path) == ["True"]


def test_a_forked_child_that_drops_it_leaves_the_directory_of_its_parent(tmp_path):
    script = """
        import os
        from file_dataset import TempDir
        directory = TempDir()
        path = directory.path
        child = os.fork()
        if child == 0:
            del directory
            os._exit(0)
        os.waitpid(child, 0)
        print(path.exists())
        directory.cleanup()
    """
    assert output_of(script, tmp_path) == ["True"]


def test_a_forked_child_removes_a_directory_of_its_own(tmp_path):
    script = """
        import os, sys
        from file_dataset import TempDir
        child = os.fork()
        if child == 0:
            with TempDir() as path:
                (path / "a.txt").touch()
            sys.exit(0)
        os.waitpid(child, 0)
    """
    output_of(script, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_left_at_the_end_of_the_process_is_removed(tmp_path):
    output_of("from file_dataset import TempDir; kept = TempDir()", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_interrupted_removes_it(tmp_path):
    script = """
        import os, signal
        from file_dataset import TempDir
        try:
            with TempDir() as path:
                (path / "a.txt").touch()
                os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert output_of(script, tmp_path) == ["interrupted"]
    assert list(tmp_path.iterdir()) == []


def test_a_copy_from_a_pickle_does_not_remove_it(place):
    directory = TempDir()
    with directory as path:
        pickle.loads(pickle.dumps(directory)).cleanup()
        assert path.exists()
