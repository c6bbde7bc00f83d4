"""A run of the worker as the desk sees it: how far it is, what came, and the words that are said to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import SemiSupSegError
from ..events import Event
from ..runner import Runner
from ..runs import RunFolder, State

OnEvent = Callable[[Event], None]


class Job:
    """A training or a prediction that was started here, or attached to.

    Whoever owns it calls `poll` every 50 to 100 ms, from a timer, or `wait` in a script. Nothing blocks but `wait`.

    Parameters
    ----------
    runner : Runner
        Started or attached.
    on_event : callable, optional
        Takes every event, in the thread that polls.

    Attributes
    ----------
    progress : Event or None
        The last ``progress`` event: stage, fraction, seconds left.
    metrics : dict of str to float
        The last value of each curve.
    warnings : list of str
        What the worker warned of.
    """

    def __init__(self, runner: Runner, on_event: OnEvent | None = None):
        self.runner = runner
        self.on_event = on_event
        self.progress: Event | None = None
        self.metrics: dict[str, float] = {}
        self.warnings: list[str] = []
        self._state = State.RUNNING
        self._answers: dict[str, Event] = {}
        self._request = runner.folder.request()

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return self.runner.folder

    @property
    def path(self) -> Path:
        """Path of the run's folder."""
        return self.folder.path

    @property
    def task(self) -> str:
        """``train`` or ``predict``."""
        return self._request.task

    @property
    def is_of_cohort(self) -> bool:
        """Whether its results are the cohort's, which keeps them; those of volumes outside are of this scene only."""
        return self._request.cohort is not None

    @property
    def state(self) -> State:
        """How it stands: queued, running, paused, or how it ended."""
        return self.runner.state or self._state

    @property
    def is_running(self) -> bool:
        """Whether there is a worker, paused ones included, as far as the last `poll` knows."""
        return self.runner.is_running

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to end; until it does, it saves a checkpoint."""
        return self.runner.was_cancelled

    @property
    def is_attached(self) -> bool:
        """Whether it ends when it is let go of; a detached one goes on alone."""
        return self.runner.is_attached

    @property
    def error(self) -> SemiSupSegError | None:
        """Why it didn't finish."""
        return self.runner.error

    def poll(self, budget_ms: float = 20.0) -> list[Event]:
        """What happened since the last call; see `Runner.poll`."""
        events = self.runner.poll(budget_ms)
        for event in events:
            self._note(event)
            if self.on_event is not None:
                self.on_event(event)
        return events

    def check(self) -> None:
        """Raise what it ended with, if it is over and didn't finish."""
        if self.error is not None:
            raise self.error

    def cancel(self) -> None:
        """Ask it to save a checkpoint and end; see `Runner.cancel`. It ends some polls later."""
        self.runner.cancel()

    def kill(self) -> None:
        """End it at once; what it did since its last checkpoint is lost."""
        self.runner.kill()

    def pause(self) -> str:
        """Ask a training to leave the device to others until `resume`; the command's id, see `answer`."""
        return self.runner.send("pause")

    def resume(self) -> str:
        """Ask a paused training to go on."""
        return self.runner.send("resume")

    def request_preview(self, case_id: str) -> str:
        """Ask a training for a prediction of a case as the network is now; comes as a ``preview`` event."""
        return self.runner.send("preview", case=case_id)

    def update_annotations(self, case_id: str) -> str:
        """Tell a training that the annotation of a case has changed on disk."""
        return self.runner.send("update_annotations", case=case_id)

    def detach(self) -> None:
        """Let it go on when Slicer closes."""
        self.runner.detach()

    def answer(self, command_id: str) -> Event | None:
        """The worker's answer to a command, once it came: ``ok`` and ``message``."""
        return self._answers.get(command_id)

    def report(self, **options: Any) -> str:
        """What to send to somebody who helps; see `Runner.report`."""
        return self.runner.report(**options)

    def _note(self, event: Event) -> None:
        if event.name == "progress":
            self.progress = event
        elif event.name == "metric":
            self.metrics |= event["values"]
        elif event.name == "state":
            self._state = State(event["state"]) if event["state"] in set(State) else self._state
        elif event.name == "warning":
            self.warnings.append(f"{event['message']} {event['remedy']}".strip())
        elif event.name == "answer":
            self._answers[event["id"]] = event
