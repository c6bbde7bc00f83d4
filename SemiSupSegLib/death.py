"""Why a worker is dead, in a sentence: from its last words, its exit code and the state of the machine."""

from __future__ import annotations

import signal
from pathlib import Path

from .errors import ErrorCode, RunError, SemiSupSegError
from .events import Event, decode_line
from .processes import out_of_memory_kills
from .runs import State, Status

CANCELLED_CODE, OWNER_DIED_CODE = 3, 4

_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")


def explain_death(
    exit_code: int | None,
    status: Status | None,
    *,
    iteration: int,
    error_event: Event | None,
    was_started: bool,
    was_cancelled: bool,
    memory_kills_before: int | None,
    log_tail: str,
    checkpoint: Path | None,
) -> SemiSupSegError:
    """The most probable reason why a run didn't finish.

    A launcher hides the signal that killed the worker behind it (it reports plain 1), so the exit code alone says
    little: what the worker said last counts first, then what the system tells.

    Parameters
    ----------
    exit_code : int or None
        Of the started process, negative for a signal; `None` if unknown.
    status : Status or None
        The last status.json.
    iteration : int
        The last that it told of.
    error_event : Event or None
        The worker's own ``error`` event.
    was_started : bool
        Whether the worker ever said ``started``.
    was_cancelled : bool
        Whether the owner cancelled it.
    memory_kills_before : int or None
        `out_of_memory_kills` at the start.
    log_tail : str
        The last lines that this worker logged.
    checkpoint : Path or None
        The last checkpoint.
    """
    if error_event is not None:
        return SemiSupSegError(error_event["message"], error_event["remedy"], code=_code(error_event["code"]))
    iteration = max(iteration, status.iteration if status is not None else 0)
    where = f" at iteration {iteration}" if iteration else ""
    remedy = "Resume it from its last checkpoint." if checkpoint is not None else "Start it again."
    if was_cancelled or exit_code == CANCELLED_CODE:
        return SemiSupSegError(f"The run was cancelled{where}.", remedy, code=ErrorCode.CANCELLED)
    if status is not None and status.state is State.CANCELLED:
        return SemiSupSegError(status.reason or f"The run was stopped{where}.", remedy, code=ErrorCode.CANCELLED)
    if exit_code == OWNER_DIED_CODE:
        reason = f"The run stopped{where} because the program that started it was closed."
        return SemiSupSegError(reason, remedy, code=ErrorCode.CANCELLED)
    kills = out_of_memory_kills()
    if kills is not None and memory_kills_before is not None and kills > memory_kills_before:
        return SemiSupSegError(
            f"The system ended the run{where} because the computer's memory was full.",
            f"Close other programs, or choose a smaller patch or batch. {remedy}",
            code=ErrorCode.OUT_OF_MEMORY,
        )
    if not was_started:
        return _never_started(exit_code, log_tail)
    crash = _crash_signal(exit_code) or _crash_in(log_tail)
    if crash:
        return RunError(
            f"The worker crashed{where} ({crash}).",
            f"{remedy} If it happens again, send us the report ('Copy report').",
        )
    if status is not None and status.state is State.FAILED:
        return RunError(status.reason or f"The run failed{where}.", "Read the log, then resume it.")
    if exit_code == 0:
        return RunError(f"The worker left{where} without having finished.", f"Read the log. {remedy}")
    return RunError(f"The worker was ended from outside{where}, or the computer went down.", remedy)


def _never_started(exit_code: int | None, log_tail: str) -> SemiSupSegError:
    for line in reversed(log_tail.splitlines()):  # what a detached worker without a folder can only log
        event = decode_line(line.encode())
        if event is not None and event.name == "error":
            return SemiSupSegError(event["message"], event["remedy"], code=_code(event["code"]))
    last = next((line.strip() for line in reversed(log_tail.splitlines()) if line.strip()), "it said nothing")
    if "ModuleNotFoundError" in log_tail or "ImportError" in log_tail:
        return SemiSupSegError(
            f"The worker couldn't start: {last[:300]}", "Install the packages again.", code=ErrorCode.PACKAGES_MISSING
        )
    return RunError(
        f"The worker couldn't start (exit code {exit_code}): {last[:300]}",
        "Check the Python that was chosen to compute with, or read the log.",
    )


def _crash_signal(exit_code: int | None) -> str:
    try:
        name = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else ""
    except ValueError:
        return ""
    return name if name in _CRASHES else ""


def _crash_in(log_tail: str) -> str:
    """What faulthandler wrote about a crash, which a launcher doesn't pass on."""
    for line in reversed(log_tail.splitlines()):
        if line.startswith(("Fatal Python error: ", "Windows fatal exception: ")):
            return line.partition(": ")[2][:100]
    return ""


def _code(text: str) -> ErrorCode:
    try:
        return ErrorCode(text)
    except ValueError:
        return ErrorCode.INTERNAL
