"""Processes that die: the worker, its owner, the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from SemiSupSegLib.processes import start_of
from SemiSupSegLib.runner import Runner
from SemiSupSegLib.runs import RunFolder, State

from .laboratory import FAKE_WORKER, PATIENCE_SECONDS, Laboratory, Result, family, orphans_of, poll_until, send_signal

_OWNER = (
    "import sys; from SemiSupSegLib.runner import Runner; from SemiSupSegLib.runs import RunFolder;"
    "r = Runner(RunFolder.open(sys.argv[1]), python=sys.argv[3:], bootstrap=sys.argv[2]); r.start(); r.wait(300)"
)


def worker_killed(lab: Laboratory) -> Result:
    """SIGKILL of the worker at a random moment, from its first millisecond on."""
    result = Result("worker killed (SIGKILL)")
    for _ in lab.tries(50, 3):
        folder = lab.run_folder()
        runner = lab.start(folder)
        moment = time.monotonic() + lab.random.uniform(0, 0.8)
        poll_until(runner, lambda until=moment, its=runner: time.monotonic() > until or its.state is not None)
        numbers = family(folder)
        killed = time.monotonic()
        # behind a launcher that hasn't said which its worker is, the launcher is all that there is to kill
        send_signal(runner.worker.pid if runner.worker else runner._process.pid, signal.SIGKILL)
        state = runner.wait(PATIENCE_SECONDS)
        notice = time.monotonic() - killed
        problem = "" if state is not None and (state is State.FINISHED or runner.error) else "not noticed"
        orphans = orphans_of(folder, numbers)
        result.count(problem or lab.resume(folder), notice=notice, orphans=orphans)
    return result


def owner_killed(lab: Laboratory) -> Result:
    """SIGKILL of the owner at a random moment: an attached worker sees it, saves and ends, its children too."""
    result = Result("owner killed (SIGKILL), attached")
    for _ in lab.tries(20, 2):
        folder = lab.run_folder(steps=400)
        owner = _start_owner(folder, lab.python())
        _wait_for_children(folder)
        lab.sleep(0.8)
        numbers = family(folder)
        owner.kill()
        owner.wait()
        killed = time.monotonic()
        while any(map(start_of, numbers)) and time.monotonic() - killed < 30:
            time.sleep(0.005)
        notice = time.monotonic() - killed
        orphans = orphans_of(folder, numbers)
        problem = "" if folder.assess().is_over else f"is {folder.assess()}"
        result.count(problem or lab.resume(folder), notice=notice, orphans=orphans)
    return result


def owner_killed_with_hanging_worker(lab: Laboratory) -> Result:
    """The owner dies while the worker is stuck in a step: it's ended after its grace."""
    result = Result("owner killed, worker hangs in a step")
    for _ in lab.tries(2, 0):
        folder = lab.run_folder(fault="hang", at=20)
        owner = _start_owner(folder, lab.python())
        _wait_for_children(folder)
        time.sleep(0.5)
        numbers = family(folder)
        owner.kill()
        owner.wait()
        killed = time.monotonic()
        while any(map(start_of, numbers)) and time.monotonic() - killed < 60:
            time.sleep(0.05)
        notice = time.monotonic() - killed
        result.count(lab.resume(folder), notice=notice, orphans=orphans_of(folder, numbers))
    result.note = "grace of 20 s for a checkpoint"
    return result


def detached_owner_killed(lab: Laboratory) -> Result:
    """SIGKILL of the owner of a detached run: it goes on, and another owner reads on without a gap."""
    result = Result("owner killed, detached; re-attached")
    for _ in lab.tries(20, 2):
        folder = lab.run_folder(attached=False)
        owner = _start_owner(folder, lab.python())
        _wait_for_children(folder)
        lab.sleep(0.2)
        owner.kill()
        owner.wait()
        numbers = family(folder)
        seen, reading = [], Runner.attach(folder)
        began = time.monotonic()
        while reading.state is None and time.monotonic() - began < PATIENCE_SECONDS:
            seen += [event["iteration"] for event in reading.poll() if event.name == "metric"]
            if lab.random.random() < 0.1:  # the new owner is restarted, too
                reading = Runner.attach(folder, offset=reading.offset)
            time.sleep(0.01)
        steps = folder.request().settings["steps"]
        problem = "" if seen == list(range(1, steps + 1)) else f"read {len(seen)} of {steps} metrics"
        problem = problem or ("" if reading.state is State.FINISHED else f"ended {reading.state}: {reading.error}")
        result.count(problem, orphans=orphans_of(folder, numbers))
    return result


def power_cut(lab: Laboratory) -> Result:
    """A copy of the run folder at a random moment, less what wasn't flushed yet, is resumed."""
    result = Result("power cut (copy of the run folder)")
    tries = len(lab.tries(60, 4))
    while result.tried < tries:
        folder = lab.run_folder(steps=300)
        runner = lab.start(folder)
        poll_until(runner, lambda its=runner: its.worker is not None or its.state is not None)
        while runner.state is None and result.tried < tries:
            moment = time.monotonic() + lab.random.uniform(0.02, 0.3)
            poll_until(runner, lambda until=moment, its=runner: time.monotonic() > until or its.state is not None)
            if runner.state is not None:
                break
            if not send_signal(runner.worker.pid, signal.SIGSTOP):
                continue  # it has just finished
            try:
                copy = RunFolder(folder.path.with_name(f"{folder.path.name} copy {result.tried}"))
                shutil.copytree(folder.path, copy.path)
            finally:
                send_signal(runner.worker.pid, signal.SIGCONT)
            _lose_unflushed(lab, copy)
            result.count(lab.resume(copy))
        if runner.state not in (None, State.FINISHED):
            result.count(f"an undisturbed run ended {runner.state}: {runner.error}")
        runner.kill()
        runner.wait(10)
    return result


def machine_sleeps(lab: Laboratory) -> Result:
    """The whole worker stops for a while and goes on (SIGSTOP, SIGCONT), as on a closed laptop."""
    result = Result("machine sleeps (SIGSTOP, SIGCONT)")
    for _ in lab.tries(5, 1):
        folder = lab.run_folder()
        runner = lab.start(folder)
        poll_until(runner, lambda its=runner: its.worker is not None)
        lab.sleep(0.2)
        send_signal(runner.worker.pid, signal.SIGSTOP)
        rest = time.monotonic() + 3.0
        poll_until(runner, lambda until=rest: time.monotonic() > until)
        problem = "" if folder.assess() is State.RUNNING else f"a sleeping worker is {folder.assess()}"
        send_signal(runner.worker.pid, signal.SIGCONT)
        state = runner.wait(PATIENCE_SECONDS)
        result.count(problem or ("" if state is State.FINISHED else f"{state}: {runner.error}"))
    return result


def cancelled(lab: Laboratory) -> Result:
    """Cancel at a random moment, from the first millisecond on; the notice is the time until everything is over."""
    result = Result("cancelled")
    for _ in lab.tries(30, 3):
        folder = lab.run_folder(steps=400)
        runner = lab.start(folder)
        moment = time.monotonic() + lab.random.uniform(0, 0.8)
        poll_until(runner, lambda until=moment, its=runner: time.monotonic() > until or its.state is not None)
        asked = time.monotonic()
        runner.cancel()
        state = runner.wait(PATIENCE_SECONDS)
        notice = time.monotonic() - asked
        problem = "" if state is State.CANCELLED and runner.exit_code == 3 else f"{state}, exit code {runner.exit_code}"
        orphans = orphans_of(folder, family(folder))
        result.count(problem or lab.resume(folder), notice=notice, orphans=orphans)
    return result


def _start_owner(folder: RunFolder, python: tuple[str, ...]) -> subprocess.Popen:
    command = [sys.executable, "-c", _OWNER, str(folder.path), str(FAKE_WORKER), *python]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def _wait_for_children(folder: RunFolder) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (folder.path / "children.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def _lose_unflushed(lab: Laboratory, copy: RunFolder) -> None:
    """Cuts what a disk may lose in a power cut: files that are appended to, and those that weren't flushed."""
    for path in (copy.events_file, copy.metrics_file, copy.log_file, *copy.path.rglob(".tmp-*/*")):
        if path.is_file() and lab.random.random() < 0.7:
            os.truncate(path, lab.random.randint(0, path.stat().st_size))
    if lab.random.random() < 0.3:  # a heartbeat isn't flushed: a disk may keep the name without the content
        os.truncate(copy.status_file, 0)
