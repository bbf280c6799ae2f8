"""Files and folders are there whole or not at all."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from codegemma_keras import files


def fail_within(context, act=lambda temporary: None):
    """Enter, write, and stop as a full disk would."""
    with context as temporary:
        act(temporary)
        raise OSError("full")


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    files.put(path, b"old")
    with pytest.raises(OSError, match="full"):
        fail_within(files.new_file(path), lambda new: new.write_bytes(b"ne"))
    assert path.read_bytes() == b"old"
    with files.new_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["a.txt"]


def test_libraries_that_look_at_the_suffix_keep_it(tmp_path):
    with files.new_file(tmp_path / "rows.npz") as temporary:
        np.savez(temporary, a=np.arange(3))
    assert os.listdir(tmp_path) == ["rows.npz"]


def test_a_folder_is_there_when_all_of_it_is(tmp_path):
    path = tmp_path / "preset"
    with pytest.raises(OSError, match="full"):
        fail_within(files.new_folder(path), lambda new: (new / "a").write_bytes(b""))
    assert os.listdir(tmp_path) == []
    with files.new_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_bytes(b"1")
        assert not path.exists()
    assert (path / "deep" / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["preset"]


def test_what_is_not_ours_is_never_replaced(tmp_path):
    path = tmp_path / "preset"
    path.mkdir()
    with files.new_folder(path) as temporary:  # an empty folder may go
        (temporary / "a").write_bytes(b"1")
    with pytest.raises(FileExistsError, match="not overwritten"):
        fail_within(files.new_folder(path))
    with files.new_folder(path, lambda old: (old / "a").exists()) as temporary:
        (temporary / "b").write_bytes(b"2")
    assert os.listdir(path) == ["b"]
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        fail_within(files.new_folder(tmp_path / "file", lambda old: True))


def test_what_appears_while_we_write_is_not_lost_either(tmp_path):
    def write():
        with files.new_folder(tmp_path / "late"):
            files.put(tmp_path / "late" / "mine", b"")

    with pytest.raises(FileExistsError):
        write()
    assert os.listdir(tmp_path / "late") == ["mine"]


def test_a_kill_leaves_the_old_file_and_a_name_that_says_what_it_is(tmp_path):
    program = (
        "import os, signal, sys; from codegemma_keras import files\n"
        "with files.new_file(sys.argv[1]) as new:\n"
        "    new.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "a.json"
    files.put(path, b"old")
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    [left] = [p for p in tmp_path.iterdir() if p != path]
    assert files.is_temporary(left)
    assert not files.is_temporary(path)
    assert files.is_temporary("step-00000003.tmp-17")


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    files.put("~/a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
