"""A lock is held by one process at a time, and by none that is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from SemiSupSegLib.locks import FileLock

HOLD = "import sys; from SemiSupSegLib.locks import *; l = {make}; print(l.acquire('their note'), flush=True); input()"


@pytest.fixture
def elsewhere():
    """Takes a lock in another process."""
    processes = []

    def take(make):
        command = [sys.executable, "-c", HOLD.format(make=make)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield take
    for process in processes:
        process.kill()
        process.communicate()


def test_another_process_has_to_wait_until_the_holder_dies(tmp_path, elsewhere):
    lock = FileLock(tmp_path / "ü" / ".lock")
    process, taken = elsewhere(f"FileLock({str(lock.path)!r})")
    assert taken == "True"
    assert not lock.acquire()
    assert lock.holder() == "their note"
    process.kill()
    assert lock.acquire(seconds=5)
    assert elsewhere(f"FileLock({str(lock.path)!r})")[1] == "False"
    lock.release()
    assert elsewhere(f"FileLock({str(lock.path)!r})")[1] == "True"


def test_two_holders_in_one_process_exclude_each_other(tmp_path):
    first, second = FileLock(tmp_path / "a"), FileLock(tmp_path / "a")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()


def test_a_deleted_lock_file_doesnt_let_two_in(tmp_path):
    first, second, third = (FileLock(tmp_path / "a") for _ in range(3))
    assert first.acquire()
    first.path.unlink()
    assert second.acquire(), "the old file is gone, the new one is the lock"
    assert not third.acquire()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork of POSIX")
def test_a_forked_child_doesnt_keep_the_lock(tmp_path):
    lock = FileLock(tmp_path / "a")
    assert lock.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1" if lock.is_held else b"0")
        time.sleep(30)
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"0"
        lock.release()
        assert FileLock(tmp_path / "a").acquire()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
