"""Temp dirs are gone when they should be, and only by the process that made them."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

import pytest

from file_dataset import InvalidDatasetError, TempDir


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the system keeps temporary files, for one test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


NOBODY = 65534


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
        patch.setattr("shutil.rmtree", lambda *_, **__: signal.raise_signal(signal.SIGINT))
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
    with pytest.warns(ResourceWarning, match=f"{path} was never closed: use `with` or call cleanup"):
        kept.clear()
    assert not path.exists()


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
