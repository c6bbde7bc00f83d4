"""A lock is held by one process at a time, and by none that is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from SemiSupSegLib.locks import DeviceQueue, FileLock

HOLD = "import sys; from SemiSupSegLib.locks import *; l = {make}; print(l.{take}, flush=True); input()"


@pytest.fixture
def elsewhere():
    """Takes a lock in another process."""
    processes = []

    def take(make, how="acquire('their note')"):
        command = [sys.executable, "-c", HOLD.format(make=make, take=how)]
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


def test_runs_get_the_device_in_the_order_in_which_they_came(tmp_path):
    queues = [DeviceQueue("cuda:0", str(index), tmp_path) for index in range(4)]
    assert [each.try_acquire() for each in queues] == [True, False, False, False]
    assert queues[3].waiting_before() == 2
    assert queues[3].holder() == "0"
    queues[2].release()  # gives up waiting
    queues[0].release()
    assert not queues[3].try_acquire()
    assert queues[1].try_acquire()
    queues[1].release()
    assert queues[3].try_acquire()
    queues[3].release()
    assert not list(tmp_path.rglob("*.ticket"))


def test_another_device_is_free(tmp_path):
    first, second = DeviceQueue("cuda:0", folder=tmp_path), DeviceQueue("cuda:1", folder=tmp_path)
    assert first.try_acquire()
    assert second.try_acquire()


def test_dead_holders_and_dead_waiters_are_passed_over(tmp_path, elsewhere):
    make = f"DeviceQueue('cpu', 'theirs', {str(tmp_path)!r})"
    holder, got = elsewhere(make, "try_acquire()")
    waiter, waits = elsewhere(make, "try_acquire()")
    assert (got, waits) == ("True", "False")
    ours = DeviceQueue("cpu", "ours", tmp_path)
    assert not ours.try_acquire()
    waiter.kill()
    holder.kill()
    waiter.wait()
    holder.wait()
    assert ours.acquire(poll_seconds=0.01)
    assert ours.holder() == "ours"


def test_waiting_can_be_given_up(tmp_path):
    first, second = DeviceQueue("cpu", "", tmp_path), DeviceQueue("cpu", "", tmp_path)
    assert first.try_acquire()
    assert not second.acquire(give_up=lambda: True)
    assert not second.is_held
    assert len(list(tmp_path.rglob("*.ticket"))) == 0
