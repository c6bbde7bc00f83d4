"""Small jobs in a process of their own that answer with one JSON object: probing, checking, measuring, installing.

What takes longer than a glance must not run in Slicer's process, nor in one of its threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..doctor import ENGINE_PACKAGES, HALL_PACKAGES
from ..errors import ErrorCode, SemiSupSegError
from ..processes import end_tree
from ..streams import PipeLines
from .compute import Compute

_BOOTSTRAP = Path(__file__).resolve().parents[1] / "start_task.py"

_LONGEST_ANSWER_BYTES = 64 * 1024**2
"""The scores or findings of a cohort of ten thousand cases; longer lines are cut."""


class ConsoleTask:
    """A program that is polled, never waited for.

    Parameters
    ----------
    arguments : sequence of str
        The program and its arguments.
    environment : mapping, optional
        Its environment; this process's if not given.

    Attributes
    ----------
    lines : deque of str
        The last lines that it printed.
    answer : dict or None
        The last JSON object that it printed on a line.
    exit_code : int or None
        None while it runs.

    Raises
    ------
    SemiSupSegError
        If the program can't be started.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None):
        self.lines: deque[str] = deque(maxlen=400)
        self.answer: dict[str, Any] | None = None
        self.exit_code: int | None = None
        self.was_cancelled = False
        own_group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            own_group = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            self._process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env={**(os.environ if environment is None else environment), "PYTHONUTF8": "1"},
                **own_group,
            )
        except OSError as error:
            raise SemiSupSegError(
                f"'{arguments[0]}' can't be started: {error.strerror or error}.",
                "Choose another compute Python, or Slicer's own.",
                code=ErrorCode.PACKAGES_MISSING,
            ) from error
        self._pipe = PipeLines(self._process.stdout, _LONGEST_ANSWER_BYTES)

    @property
    def is_running(self) -> bool:
        """Whether it runs, as far as the last `poll` knows."""
        return self.exit_code is None

    @property
    def error(self) -> SemiSupSegError | None:
        """What it said that went wrong."""
        body = (self.answer or {}).get("error")
        return None if body is None else SemiSupSegError(body["message"], body["remedy"], code=ErrorCode(body["code"]))

    def poll(self, budget_ms: float = 10.0) -> list[str]:
        """Lines that came since the last call; never blocks."""
        if not self.is_running:
            return []
        has_ended = self._process.poll() is not None
        deadline = time.perf_counter() + budget_ms / 1000
        new: list[str] = []
        while time.perf_counter() < deadline:
            line = self._pipe.next_line(deadline)
            if line is None:
                has_ended &= time.perf_counter() < deadline
                break
            new.append(line.decode("utf-8", "replace").rstrip())
            self._take(new[-1])
        else:
            has_ended = False  # there may be more lines: the next poll reads them
        if has_ended:
            self.exit_code = self._process.returncode
            self._pipe.close()
        return new

    def cancel(self) -> None:
        """End it with everything that it started."""
        if self.is_running:
            self.was_cancelled = True
            group = 0 if sys.platform == "win32" else self._process.pid
            with contextlib.suppress(OSError):
                end_tree(self._process.pid, group, kill=True)

    def wait(self, seconds: float = 300.0) -> int | None:
        """Poll until it is over, for scripts and tests; its exit code, None after the time."""
        deadline = time.monotonic() + seconds
        while self.is_running and time.monotonic() < deadline:
            if not self.poll():
                time.sleep(0.02)
        return self.exit_code

    def _take(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                self.answer = json.loads(line)


def probe_task(compute: Compute, folder: Path | str) -> ConsoleTask:
    """Look what the interpreter that computes has: answers with `doctor.Report.to_json`."""
    return _python_task(compute, "probe", folder)


def lint_task(cohort: Path) -> ConsoleTask:
    """Check a cohort's files: answers with ``findings``, and with ``fraction`` and ``text`` on the way."""
    return _python_task(Compute(), "check", cohort)


def evaluate_task(compute: Compute, predictions: Path, cohort: Path) -> ConsoleTask:
    """Measure predictions against the cohort's dense labels: answers with what ``evaluate`` writes."""
    return _python_task(compute, "measure", predictions, cohort)


def _python_task(compute: Compute, name: str, *arguments: Path | str) -> ConsoleTask:
    return ConsoleTask([*_task(compute.interpreter, name), *map(str, arguments)], compute.environment)


def _task(python: str, name: str) -> list[str]:
    return [python, "-u", str(_BOOTSTRAP), name]


# -- installing -------------------------------------------------------------------------------------------------------

_PINNED = ("numpy", "scipy", "SimpleITK", "torch")

_PIP_SAYS = (
    (
        ("No space left on device", "not enough space on the disk"),
        ErrorCode.DISK_FULL,
        "The disk became full while packages were installed.",
        "Free some gigabytes, then install again.",
    ),
    (
        ("externally-managed-environment",),
        ErrorCode.NOT_WRITABLE,
        "This Python belongs to the operating system, which lets nobody install packages into it.",
        "Choose the Python of a virtual environment or of conda as compute Python.",
    ),
    (
        ("Permission denied", "Access is denied", "Read-only file system"),
        ErrorCode.NOT_WRITABLE,
        "The folder of this Python can't be written to.",
        "Choose a compute Python of your own, or ask somebody who may write there.",
    ),
    (
        ("No module named pip",),
        ErrorCode.PACKAGES_MISSING,
        "This Python has no pip, which installs packages.",
        "Choose another compute Python, or add pip to this one: python -m ensurepip.",
    ),
    (
        ("NewConnectionError", "NameResolutionError", "TimeoutError", "ProxyError", "SSLError", "name resolution"),
        ErrorCode.PACKAGES_MISSING,
        "The packages couldn't be downloaded: pip can't reach its package index.",
        "Check the connection and the proxy, then install again; or choose a compute Python that has the packages.",
    ),
)
"""What pip prints, in which a reason is recognised; the first that is found counts."""


def install_steps(
    compute: Compute, lacking: Sequence[str], constraints: Path, torch_arguments: Sequence[str] | None
) -> list[list[str]]:
    """The programs to run, one after the other, so that training's packages are there.

    Packages that are there stay as they are: pip must replace neither Slicer's numpy nor the torch that fits the
    graphics processor.

    Parameters
    ----------
    compute : Compute
    lacking : sequence of str
        Names of `doctor.HALL_PACKAGES` and `doctor.ENGINE_PACKAGES` that are missing or too old.
    constraints : Path
        A file that may be written.
    torch_arguments : sequence of str, optional
        Arguments of ``python -m`` that install torch, as the PyTorch extension gives them; pip's own choice if None.
    """
    python = compute.interpreter
    minimum = {each.distribution: each.minimum for each in (*HALL_PACKAGES, *ENGINE_PACKAGES)}
    steps: list[list[str]] = []
    if "torch" in lacking:
        below = "<2.13" if sys.platform == "win32" else ""  # 2.13's wheel holds paths that are too long for Windows
        if torch_arguments and torch_arguments[0] == "light_the_torch":
            steps.append([python, "-m", "pip", "install", "light-the-torch>=0.5"])
        arguments = torch_arguments or ["pip", "install", f"torch>={minimum['torch']}{',' if below else ''}{below}"]
        steps.append([python, "-m", *arguments])
    others = [f"{name}>={minimum[name]}" for name in lacking if name in minimum and name != "torch"]
    if others:
        pinned = [name for name in _PINNED if name == "torch" or name not in lacking]
        steps.append([*_task(python, "pin"), str(constraints), *pinned])
        steps.append([python, "-m", "pip", "install", "-c", str(constraints), *others])
    return steps


def installation_error(lines: Iterable[str]) -> SemiSupSegError:
    """Why an installation failed, in a sentence made of what pip said.

    Parameters
    ----------
    lines : iterable of str
        What it printed.
    """
    text = "\n".join(lines)
    for said, code, message, remedy in _PIP_SAYS:
        if any(each in text for each in said):
            return SemiSupSegError(message, remedy, code=code)
    reasons = [line.partition("ERROR:")[2].strip() for line in text.splitlines() if line.startswith("ERROR:")]
    reason = f": {reasons[-1].rstrip('.')}." if reasons else "."
    return SemiSupSegError(f"The installation failed{reason}", "The details say more.", code=ErrorCode.PACKAGES_MISSING)
