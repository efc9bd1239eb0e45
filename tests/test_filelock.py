"""A lock between processes: held by one, dead with it, and no hindrance where there is none."""

import errno
import os
import subprocess
import sys
import time

import pytest

from numbanorm.cpu.compiling import filelock

pytestmark = pytest.mark.skipif(filelock.fcntl is None, reason="no locks of files")

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def hold(tmp_path):
    """Let another process hold a lock until it is told to end."""
    started = []

    def start():
        path = tmp_path / "kernel.lock"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", HOLDER, path], **pipes)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return path, process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def test_a_lock_that_nobody_has(tmp_path):
    path = tmp_path / "kernel.lock"
    with filelock.locked(path) as waited:
        assert not waited
        assert path.exists()
    assert not path.exists()


def test_another_process_has_the_lock(hold, monkeypatch):
    path, process = hold()
    monkeypatch.setattr(filelock, "sleep", lambda _: process.stdin.close())
    with filelock.locked(path) as waited:
        assert waited
        assert process.wait(5) == 0
    assert not path.exists()


def test_a_lock_dies_with_its_process(hold):
    path, process = hold()
    process.kill()
    with filelock.locked(path):
        assert process.wait(5) != 0


def test_a_process_that_holds_a_lock_and_is_stopped(hold, monkeypatch):
    """Others compile by themselves, after a while, and leave it its lock."""
    monkeypatch.setattr(filelock, "PATIENCE", 0.3)
    path, process = hold()
    begin = time.monotonic()
    with filelock.locked(path) as waited:
        assert waited
        assert process.poll() is None
        assert 0.3 <= time.monotonic() - begin < 5
    assert path.exists()


def test_a_child_does_not_keep_a_lock(tmp_path):
    """Forked while it was held, as by a program that embeds Python."""
    path = tmp_path / "kernel.lock"
    with filelock.locked(path):
        child = os.fork()
        if child == 0:
            time.sleep(1000)
    try:
        path.touch()
        with filelock.locked(path) as waited:
            assert not waited
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks(number, tmp_path, monkeypatch):
    """Each process compiles, without waiting."""

    def lockf(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr(filelock.fcntl, "lockf", lockf)
    begin = time.monotonic()
    with filelock.locked(tmp_path / "kernel.lock") as waited:
        assert not waited
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("obstacle", [os.mkdir, os.mkfifo, lambda path: os.symlink("elsewhere", path)])
def test_something_else_in_the_place_of_a_lock(obstacle, tmp_path):
    path = tmp_path / "kernel.lock"
    obstacle(path)
    with filelock.locked(path) as waited:
        assert not waited
    assert not (tmp_path / "elsewhere").exists()


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(filelock, "fcntl", None)
    with filelock.locked(tmp_path / "kernel.lock") as waited:
        assert not waited
    assert list(tmp_path.iterdir()) == []


def test_an_error_within_gives_the_lock_back(tmp_path):
    path = tmp_path / "kernel.lock"
    with pytest.raises(ZeroDivisionError), filelock.locked(path):
        1 / 0  # noqa: B018
    assert not path.exists()
