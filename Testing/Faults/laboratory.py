"""What every experiment of the laboratory needs: workers, time, orphans, and the verdict."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from SemiSupSegLib.processes import start_of
from SemiSupSegLib.runner import Runner
from SemiSupSegLib.runs import RunFolder, RunRequest, State

from .fake_training import expected_weights

HERE = Path(__file__).parent
FAKE_WORKER = HERE / "start_fake_worker.py"
PYTHON = (sys.executable,)
BEHIND_LAUNCHER = (sys.executable, str(HERE / "launcher.py"))

SETTINGS = {"steps": 100, "step_seconds": 0.003, "checkpoint_every": 7, "checkpoint_bytes": 65536, "child": True}
"""A run of about half a second that nearly always is about to write a checkpoint."""

PATIENCE_SECONDS = 40.0
"""A run that has come to no end by then hangs."""


@dataclass
class Result:
    """One line of the laboratory's table."""

    fault: str
    tried: int = 0
    survived: int = 0
    orphans: int = 0
    longest_notice: float = 0.0
    note: str = ""
    failures: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Tries that lost work, hung or left no sentence."""
        return self.tried - self.survived

    def count(self, problem: str = "", *, notice: float = 0.0, orphans: int = 0) -> None:
        """Adds a try, survived if there is no problem."""
        self.tried += 1
        self.survived += not problem
        self.orphans += orphans
        self.longest_notice = max(self.longest_notice, notice)
        if problem:
            self.failures.append(problem)


class Laboratory:
    """A place for experiments.

    Parameters
    ----------
    folder : Path
        Where the runs are.
    quick : bool
        A few tries of each fault, for CI.
    seed : int
        Of everything random, so that a finding can be repeated.
    """

    def __init__(self, folder: Path, *, quick: bool = False, seed: int = 0):
        self.folder = folder
        self.quick = quick
        self.random = random.Random(seed)
        self._count = 0
        os.environ["SEMISUPSEG_LOCKS"] = str(folder / "locks")

    def tries(self, full: int, quick: int = 2) -> range:
        """How often to try a fault."""
        return range(quick if self.quick else full)

    def python(self) -> tuple[str, ...]:
        """An interpreter, every other time behind a launcher."""
        return BEHIND_LAUNCHER if self._count % 2 else PYTHON

    def run_folder(self, *, parent: Path | None = None, attached: bool = True, **settings) -> RunFolder:
        """A new run of the fake training."""
        self._count += 1
        path = (parent or self.folder) / f"Lauf {self._count} µ"
        return RunFolder.create(path, RunRequest("train", settings={**SETTINGS, **settings}, attached=attached))

    def start(self, folder: RunFolder, python: tuple[str, ...] | None = None, bootstrap: Path = FAKE_WORKER) -> Runner:
        """A running worker."""
        runner = Runner(folder, python=self.python() if python is None else python, bootstrap=bootstrap)
        runner.start()
        return runner

    def sleep(self, longest: float) -> None:
        """Waits for a random time."""
        time.sleep(self.random.uniform(0, longest))

    def resume(self, folder: RunFolder) -> str:
        """Finishes a run without faults; returns what is wrong if its weights aren't those of an unbroken one."""
        settings = folder.request().settings
        healthy = {**settings, "fault": "", "child": False, "step_seconds": 0, "checkpoint_every": 50}
        folder.update_request(settings=healthy, attached=True)
        runner = self.start(folder, PYTHON)
        if runner.wait(PATIENCE_SECONDS) is not State.FINISHED:
            runner.kill()
            return f"can't be resumed: {runner.state}, {runner.error}"
        if (folder.model / "weights.bin").read_bytes() != expected_weights(settings["steps"]):
            return "resumed with other weights"
        return ""


def poll_until(runner: Runner, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Polls a runner until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        runner.poll()
        time.sleep(0.005)
    return True


def send_signal(pid: int, number: int) -> bool:
    """Sends a signal; whether there was still somebody to send it to."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def family(folder: RunFolder) -> list[int]:
    """The numbers of the worker of a run and of its children, as far as they have said so."""
    status = folder.read_status()
    numbers = [status.process.pid] if status is not None and status.process.pid else []
    with contextlib.suppress(OSError, ValueError):
        numbers += [int(each) for each in (folder.path / "children.txt").read_text().split()]
    return numbers


def orphans_of(folder: RunFolder, numbers: list[int], seconds: float = 2.0) -> int:
    """How many processes of a dead run live on after a while; also those that never said so, by their arguments."""
    deadline = time.monotonic() + seconds
    while left := {each for each in numbers if start_of(each)} | _mentioning(str(folder.path)):
        if time.monotonic() > deadline:
            return len(left)
        time.sleep(0.01)
    return 0


def _mentioning(text: str) -> set[int]:
    found = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and int(name) != os.getpid():
            try:
                arguments = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in arguments and start_of(int(name)):
                found.add(int(name))
    return found
