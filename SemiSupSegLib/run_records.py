"""What travels in the files of a run folder: the request, the state, the status."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from .errors import ErrorCode, RunError
from .processes import ProcessIdentity

SCHEMA = 1
"""Version of run.json, status.json and manifest.json."""

HEARTBEAT_SECONDS = 2.0
"""How often a living worker renews status.json."""

NOBODY = ProcessIdentity(0, "", "")
"""Stands in a status for "no process yet"."""


class State(StrEnum):
    """How a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen unless somebody resumes the run."""
        return self in (State.CANCELLED, State.FINISHED, State.FAILED, State.LOST)


@dataclass(frozen=True)
class RunRequest:
    """What a run is asked to do.

    Paths are made absolute, since the worker runs somewhere else.

    Parameters
    ----------
    task : str
        "train" or "predict".
    cohort : str, optional
        The cohort's file.
    settings : dict
        Settings of the task as plain JSON.
    images : tuple of str
        For a prediction: images that belong to no cohort.
    model : str, optional
        A model (or run) to predict with or to start from.
    attached : bool
        Whether the run ends with its owner; else it goes on when the owner closes.
    label : str
        What a person calls the run.
    exclusive : bool
        Whether the run waits until no other exclusive run uses its device.
    """

    task: str
    cohort: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    model: str | None = None
    attached: bool = True
    label: str = ""
    exclusive: bool = True

    def __post_init__(self):
        for name in ("cohort", "model"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else os.path.abspath(value))
        object.__setattr__(self, "images", tuple(os.path.abspath(each) for each in self.images))

    def to_json(self) -> dict[str, Any]:
        """The request as it stands in ``run.json``."""
        return {"schema": SCHEMA, **asdict(self), "images": list(self.images)}

    @classmethod
    def from_json(cls, body: Any) -> RunRequest:
        """The request read back; raises `RunError` where the text isn't one."""
        what = "The request of the run (run.json)"
        if not isinstance(body, Mapping):
            raise unreadable(f"{what} isn't a JSON object.")
        if body.get("schema") != SCHEMA:
            raise unreadable(f"{what} has the version {body.get('schema')!r}, this software reads version {SCHEMA}.")
        kinds = {
            "task": str, "cohort": str | None, "settings": dict, "images": list, "model": str | None,
            "attached": bool, "label": str, "exclusive": bool,
        }  # fmt: skip
        given = {each.name: body[each.name] for each in fields(cls) if each.name in body}
        for name, value in given.items():
            if not isinstance(value, kinds[name]) or (name == "images" and not all(isinstance(v, str) for v in value)):
                raise unreadable(f"{what} has an impossible '{name}'.")
        if not given.get("task"):
            raise unreadable(f"{what} names no task.")
        return cls(**{**given, "images": tuple(given.get("images", ()))})


@dataclass(frozen=True)
class Status:
    """What status.json says.

    Parameters
    ----------
    state : State
        How the run stood when it was written.
    process : ProcessIdentity
        The worker.
    iteration : int
        Finished iterations.
    heartbeat : float
        When it was written, in seconds since the epoch.
    reason : str
        Why the run is over, for people; empty while it runs and when it finished.
    group : int
        Process group that belongs to this run alone, so that it may be killed whole; 0 if there is none.
    """

    state: State
    process: ProcessIdentity = NOBODY
    iteration: int = 0
    heartbeat: float = 0.0
    reason: str = ""
    group: int = 0

    def to_json(self) -> dict[str, Any]:
        """The status as it stands in ``status.json``."""
        return {
            "schema": SCHEMA,
            "state": str(self.state),
            "pid": self.process.pid,
            "process_start": self.process.start,
            "machine": self.process.machine,
            "iteration": self.iteration,
            "heartbeat": self.heartbeat,
            "reason": self.reason,
            "group": self.group,
        }

    @classmethod
    def from_json(cls, body: Any) -> Status:
        """The status read back; raises `ValueError`, `KeyError` or `TypeError` where the text isn't one."""
        process = ProcessIdentity(int(body["pid"]), str(body["process_start"]), str(body["machine"]))
        return cls(
            state=State(body["state"]),
            process=process,
            iteration=int(body["iteration"]),
            heartbeat=float(body["heartbeat"]),
            reason=str(body.get("reason", "")),
            group=int(body.get("group", 0)),
        )


def unreadable(message: str) -> RunError:
    """The error that a file of the run folder isn't what it should be."""
    return RunError(message, "Start a new run.", code=ErrorCode.UNREADABLE_FILE)
