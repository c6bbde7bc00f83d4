"""A run in this very process, followed on the terminal; Ctrl+C stops it with a checkpoint."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from ..errors import ErrorCode, RunError, SemiSupSegError
from ..events import Event, encode_event
from ..progress import ProgressBar
from ..runs import RunFolder

CANCELLED = 3


def follow(folder: RunFolder, title: str, *, as_json: bool = False) -> None:
    """Do what a run folder asks for, here and now.

    Parameters
    ----------
    folder : RunFolder
        The run.
    title : str
        What stands before the progress bar.
    as_json : bool, optional
        Print the run's events to standard output, a JSON object a line, instead of a progress bar to standard error.

    Raises
    ------
    SemiSupSegError
        If the run failed, with what it said; with code ``cancelled`` if it was cancelled.
    """
    from ..learning.worker import run_locally

    follower = _EventPrinter() if as_json else _ProgressFollower(title)
    try:
        exit_code = run_locally(folder, follower)
    finally:
        follower.close()
    if exit_code == CANCELLED:
        kept = "What was trained is kept; go on with --resume." if folder.last_checkpoint else ""
        raise SemiSupSegError("Cancelled.", kept, code=ErrorCode.CANCELLED)
    if exit_code != 0:
        raise follower.error or RunError("The run ended without a word.", f"Look into '{folder.log_file}'.")


def check_device(wanted: str) -> None:
    """Refuse a device that isn't there before anything is written; raises what `devices.choose_device` raises."""
    if wanted == "auto":
        return
    try:
        from ..learning.devices import choose_device
    except ImportError:
        return  # the run says which package is missing
    choose_device(wanted)


class _EventPrinter:
    """Hands the events on, for programs."""

    error: SemiSupSegError | None = None

    def __call__(self, event: Event) -> None:
        self.error = _error_in(event) or self.error
        sys.stdout.write(encode_event(event.name, event.fields, time=event.time).decode("ascii"))
        sys.stdout.flush()

    def close(self) -> None:
        pass


class _ProgressFollower:
    """Shows progress and the last numbers in a bar, and says what else matters above it."""

    def __init__(self, title: str):
        self.error: SemiSupSegError | None = None
        self._bar = ProgressBar(title)
        self._numbers = ""

    def __call__(self, event: Event) -> None:
        self.error = _error_in(event) or self.error
        if event.name == "progress":
            self._show_progress(event)
        elif event.name == "metric":
            self._numbers = _numbers_text(event["values"]) or self._numbers
        elif event.name == "warning":
            self._bar.write(f"Warning: {event['message']} {event['remedy']}".rstrip())

    def _show_progress(self, event: Event) -> None:
        if event["fraction"] is None:
            self._bar.write(event["stage"])
            return
        self._bar.title = event["stage"] or self._bar.title
        steps = f"{event['iteration']}/{event['iterations']}" if event["iteration"] else ""
        note = "  ".join(part for part in (steps, self._numbers) if part)
        self._bar.update(event["fraction"], note, event["seconds_left"])

    def close(self) -> None:
        self._bar.close()


def _error_in(event: Event) -> SemiSupSegError | None:
    if event.name != "error":
        return None
    known = event["code"] in set(ErrorCode)
    return SemiSupSegError(event["message"], event["remedy"], code=ErrorCode(event["code"]) if known else None)


def _numbers_text(values: Mapping[str, float]) -> str:
    """The one or two numbers that say most: the loss, and how good validation is."""
    chosen = [name for name in values if name == "loss" or "dice" in name.lower()][:2]
    return "  ".join(f"{name} {values[name]:.3f}" for name in chosen if math.isfinite(values[name]))
