"""A device goes from run to run in the order in which they came, past those that died."""

from __future__ import annotations

import subprocess
import sys

import pytest

from SemiSupSegLib.device_queue import DeviceQueue

_TAKE = "import sys; from SemiSupSegLib.device_queue import *; q = {make}; print(q.try_acquire(), flush=True); input()"


@pytest.fixture
def elsewhere():
    """Queues in another process, which then waits to be killed."""
    processes = []

    def take(make):
        command = [sys.executable, "-c", _TAKE.format(make=make)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield take
    for process in processes:
        process.kill()
        process.communicate()


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
    holder, got = elsewhere(make)
    waiter, waits = elsewhere(make)
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
