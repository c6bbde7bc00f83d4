"""The worker's main: opens a run folder, does what it asks for, and says how it ended, whatever happens.

Started as ``python -u -m SemiSupSegLib.learning.worker RUN`` or, from any working directory and without an installed
package, ``python -u <path>/SemiSupSegLib/start_worker.py RUN``. Exit codes: see "The line" in ARCHITECTURE.md.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.metadata
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping

from .. import __version__, torchrun
from ..errors import ErrorCode, SemiSupSegError
from ..events import Event, encode_event
from ..files import explain_os_error
from ..processes import kill_descendants, own_group
from ..runs import RunFolder, State
from .line import take_over_streams
from .local_session import LocalSession
from .memory import is_out_of_memory
from .session import Outcome, Session

Task = Callable[[Session], Outcome]

TASKS: Mapping[str, str | Task] = {
    "train": "SemiSupSegLib.learning.training:train",
    "predict": "SemiSupSegLib.learning.prediction_run:predict_run",
}
"""What a request can ask for; imported only when it does, since torch takes seconds to import."""

_PACKAGES = ("torch", "monai", "safetensors", "scikit-image", "numpy", "scipy", "SimpleITK")


def main(argv: list[str], tasks: Mapping[str, str | Task] = TASKS) -> int:
    """Runs the run of a folder in this process, speaking the line on stdin and stdout.

    Parameters
    ----------
    argv : list of str
        The path of the run folder.
    tasks : mapping
        By name, a function or where to find it ("module:function").

    Returns
    -------
    int
        The exit code.
    """
    if len(argv) != 1:
        print("usage: worker RUN_FOLDER", file=sys.stderr)
        return 2
    faulthandler.enable()
    is_leader = torchrun.is_leader()
    try:
        folder = RunFolder.open(argv[0])
        request = folder.request()
        lock = folder.lock(request.label) if is_leader else contextlib.nullcontext()
    except SemiSupSegError as error:  # also: another worker is at it, whose files aren't ours to touch
        print(error, file=sys.stderr)
        os.write(1, encode_event("error", error.to_json()))
        return 1
    with lock:
        output, received = take_over_streams(request.attached)
        speaks = is_leader and request.attached  # a detached worker is read from its folder
        with Session(folder, output=output if speaks else None, input=received, is_leader=is_leader) as session:
            return run(session, tasks)


def run_locally(
    folder: RunFolder, on_event: Callable[[Event], None] | None = None, tasks: Mapping[str, str | Task] = TASKS
) -> int:
    """Runs the run of a folder in this process without an owner, for the command line.

    Parameters
    ----------
    folder : RunFolder
        The run.
    on_event : callable, optional
        Takes the events, for progress on a terminal.
    tasks : mapping
        As in `main`.

    Returns
    -------
    int
        The exit code. An error has been sent as an event.

    Raises
    ------
    SemiSupSegError
        ``run-busy`` if another process works in the folder.
    """
    is_leader = torchrun.is_leader()
    with folder.lock() if is_leader else contextlib.nullcontext():
        if is_leader:
            folder.take_commands()  # what was meant for a worker that is dead now
        with LocalSession(folder, on_event) as session:
            return run(session, tasks)


def run(session: Session, tasks: Mapping[str, str | Task]) -> int:
    """Does the task of a session and concludes it in every case; returns the exit code."""
    try:
        session.begin(versions())
        with session.nothing_to_lose():
            task = _find(session.request.task, tasks)
        outcome = task(session)
    except KeyboardInterrupt:
        session.conclude(State.CANCELLED)
        return 3
    except BaseException as error:
        problem = as_error(error)
        if problem.code is ErrorCode.CANCELLED:
            session.conclude(State.CANCELLED)
            return 3
        session.log(traceback.format_exc())
        session.conclude(State.FAILED, error=problem)
        return 1
    if session.stop is not None:
        session.conclude(State.CANCELLED, outcome)
        return session.stop.exit_code
    return 0 if session.conclude(State.FINISHED, outcome) is State.FINISHED else 1


def as_error(error: BaseException) -> SemiSupSegError:
    """The error for people that an exception stands for."""
    if isinstance(error, SemiSupSegError):
        return error
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0] or "a package"
        return SemiSupSegError(
            f"'{name}' is missing or can't be loaded ({_first_line(error)}).",
            "Install the packages for training (in Slicer: 'Install packages'), then try again.",
            code=ErrorCode.PACKAGES_MISSING,
        )
    if is_out_of_memory(error):
        return SemiSupSegError(
            f"The memory is full ({_first_line(error)}).",
            "Close other programs, or choose a smaller patch or batch; then resume.",
            code=ErrorCode.OUT_OF_MEMORY,
        )
    if isinstance(error, OSError):
        return explain_os_error(error, "use")
    return SemiSupSegError(
        f"Something unexpected happened: {type(error).__name__}: {_first_line(error)}",
        "Resume the run; if it happens again, send us the report ('Copy report').",
    )


def versions() -> dict[str, str]:
    """Versions of what matters to a result, without importing any of it."""
    found = {"SemiSupSeg": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def leave(code: int) -> None:
    """Ends this process and whatever it started, without waiting for anybody's threads or exit handlers."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    kill_descendants(os.getpid(), own_group())
    os._exit(code)


def _find(name: str, tasks: Mapping[str, str | Task]) -> Task:
    if name not in tasks:
        raise SemiSupSegError(
            f"There is no task '{name}'.", f"The tasks are {', '.join(tasks)}.", code=ErrorCode.BAD_SETTING
        )
    task = tasks[name]
    if callable(task):
        return task
    module, _, function = task.partition(":")
    return getattr(importlib.import_module(module), function)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
