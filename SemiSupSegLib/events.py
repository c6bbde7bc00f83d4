"""The line between a worker and its owner, version 1: one JSON object a line, events one way, commands the other."""

from __future__ import annotations

import json
import math
import time as clock
import uuid
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

PROTOCOL_VERSION = 1

MAXIMUM_LINE_BYTES = 64 * 1024
"""A longer line is log, not an event; an event that would be longer loses its longest fields.

One line can't be interrupted: the worst of this length took up to 3 ms to decode, of four times this length 20 ms."""

EVENTS_A_SECOND = 10
"""Metric events, and progress events, that the line carries at most in a second; the files hold them all."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a worker.

    Every field that the protocol names for this event is there and of the right type: what the line left out has
    a neutral value (empty text, 0, `None` for unknown numbers).

    Examples
    --------
    >>> event = decode_line(encode_event("metric", {"iteration": 20, "values": {"loss": 0.5}}))
    >>> event.name, event["iteration"], event["values"]["loss"]
    ('metric', 20, 0.5)
    """

    name: str
    time: float
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]


@dataclass(frozen=True)
class Command:
    """Something that an owner asks of a worker; `problem` says what is wrong with a malformed one."""

    name: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    def __post_init__(self):
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]


def encode_event(name: str, fields: Mapping[str, Any], *, time: float | None = None) -> bytes:
    """One line of the protocol; never fails, whatever the fields hold.

    Parameters
    ----------
    name : str
        Name of the event.
    fields : mapping
        Its fields. Paths become text, numpy scalars numbers, NaN and infinity null.
    time : float, optional
        Seconds since the epoch; now if not given.

    Returns
    -------
    bytes
        ASCII with a newline at the end, at most `MAXIMUM_LINE_BYTES` long.
    """
    head = {"v": PROTOCOL_VERSION, "event": name, "time": clock.time() if time is None else time}
    line = _dump({**fields, **head})
    if len(line) > MAXIMUM_LINE_BYTES:
        short = {key: value for key, value in fields.items() if len(_dump({"": value})) < 4096}
        line = _dump({**short, **head})
    return line if len(line) <= MAXIMUM_LINE_BYTES else _dump(head)


def decode_line(line: bytes) -> Event | None:
    """The event on a line of a worker's output, or `None` where the line is log.

    Never raises: text that isn't JSON, another version, unknown events, fields of the wrong type, numbers that aren't
    finite or don't fit, and lines longer than `MAXIMUM_LINE_BYTES` are all log.
    """
    body = _load(line)
    if body is None or not isinstance(body.get("event"), str):
        return None
    name = body.pop("event")
    checks = _EVENTS.get(name)
    time = _number(body.pop("time", 0.0))
    if checks is None or time is None:
        return None
    for key, (check, absent) in checks.items():
        value = body.get(key)
        if value is None:
            body[key] = absent() if callable(absent) else absent
        else:
            body[key] = check(value)
            if body[key] is None:
                return None
    return Event(name, time, body)


def encode_command(command: Command) -> bytes:
    """One line for a worker's stdin, or the content of a file in ``commands/``."""
    return _dump({**command.fields, "v": PROTOCOL_VERSION, "command": command.name, "id": command.id})


def decode_command(line: bytes, commands: Mapping[str, tuple[str, ...]] | None = None) -> Command:
    """The command on a line; a malformed or unknown one comes back with its `problem`, to be answered.

    Parameters
    ----------
    line : bytes
    commands : mapping, optional
        What may be asked for, and the texts that each needs; a worker's `COMMANDS` if not given.
    """
    commands = COMMANDS if commands is None else commands
    body = _load(line)
    if body is None:
        return Command("", "", problem="The command isn't a JSON object of protocol version 1.")
    name, identifier = body.pop("command", None), body.pop("id", "")
    if not isinstance(identifier, str) or len(identifier) > 200:
        identifier = ""
    if not isinstance(name, str) or name not in commands:
        known = ", ".join(commands)
        return Command(str(name)[:80], identifier, problem=f"The command is unknown; there are {known}.")
    for key in commands[name]:
        if not isinstance(body.get(key), str) or not body[key]:
            return Command(name, identifier, problem=f"The command needs '{key}', a text.")
    return Command(name, identifier, body)


class RateLimit:
    """Lets a few events a second pass and keeps, of those held back, the newest of each kind.

    So the last value of every curve reaches the owner, and a rare one (a validation Dice) isn't crowded out by
    a frequent one (a loss).

    Parameters
    ----------
    per_second : float
        Events that pass at most in a second.
    now : callable
        The clock, in seconds; replaced in tests.
    """

    def __init__(self, per_second: float = EVENTS_A_SECOND, now: Callable[[], float] = clock.monotonic):
        self._interval = 1.0 / per_second
        self._now = now
        self._next = -math.inf
        self._held: dict[Hashable, bytes] = {}

    def offer(self, kind: Hashable, line: bytes) -> list[bytes]:
        """Takes a line and returns what may be sent now: one line, the longest held, or none."""
        self._held[kind] = line
        return self.due()

    def due(self) -> list[bytes]:
        """The held line that may be sent now because its time has come, if there is one."""
        now = self._now()
        if not self._held or now < self._next:
            return []
        self._next = now + self._interval
        return [self._held.pop(next(iter(self._held)))]

    def flush(self) -> list[bytes]:
        """Everything that is held back, whatever the time."""
        lines = list(self._held.values())
        self._held.clear()
        return lines


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    # half a surrogate pair passes JSON, but neither a terminal nor Qt
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= 1e300 else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _object(value: Any) -> dict | None:
    return value if isinstance(value, dict) else None


def _texts(value: Any) -> dict[str, str] | None:
    return value if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()) else None


def _numbers(value: Any) -> dict[str, float] | None:
    """Numbers by name; null stands for NaN, which JSON can't say."""
    if not isinstance(value, dict):
        return None
    numbers = {name: math.nan if each is None else _number(each) for name, each in value.items()}
    return None if None in numbers.values() else numbers


_EVENTS: dict[str, dict[str, tuple[Callable[[Any], Any], Any]]] = {
    "started": {
        "pid": (_count, 0),
        "process_start": (_text, ""),
        "task": (_text, ""),
        "device": (_text, ""),
        "versions": (_texts, dict),
    },
    "state": {"state": (_text, ""), "iteration": (_count, 0)},
    "plan": {"plan": (_object, dict)},
    "progress": {
        "stage": (_text, ""),
        "fraction": (_share, None),
        "iteration": (_count, 0),
        "iterations": (_count, 0),
        "seconds_left": (_number, None),
    },
    "metric": {"iteration": (_count, 0), "values": (_numbers, dict)},
    "preview": {"case": (_text, ""), "files": (_texts, dict)},
    "checkpoint": {"iteration": (_count, 0), "path": (_text, "")},
    "warning": {"message": (_text, ""), "remedy": (_text, "")},
    "answer": {"command": (_text, ""), "id": (_text, ""), "ok": (_flag, False), "message": (_text, "")},
    "error": {"code": (_text, ""), "message": (_text, ""), "remedy": (_text, "")},
    "finished": {
        "outcome": (_text, ""),
        "iteration": (_count, 0),
        "seconds": (_number, None),
        "manifest": (_text, ""),
    },
    # Not for people: the line was full, so bytes begin to end of events.jsonl weren't sent (see `LineWriter`).
    "skipped": {"begin": (_count, 0), "end": (_count, 0)},
}
"""For every event its fields: what a value must be, and what stands for an absent one."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "pause": (),
    "resume": (),
    "cancel": (),
    "checkpoint": (),
    "preview": ("case",),
    "update_annotations": ("case",),
    "detach": (),
}
"""Commands and the texts that each needs."""


def _load(line: bytes) -> dict[str, Any] | None:
    if len(line) > MAXIMUM_LINE_BYTES or line.lstrip()[:1] != b"{":
        return None
    try:
        body = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    version = body.pop("v", None)
    return body if version == PROTOCOL_VERSION and not isinstance(version, bool) else None


def _refuse(name: str) -> float:
    raise ValueError(name)


def _dump(body: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(body, allow_nan=False, default=_plain)
    except (ValueError, TypeError, RecursionError):
        text = json.dumps(_cleaned(body, depth=0), allow_nan=False)
    return text.encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    """What stands in JSON for an object that isn't of JSON's own types."""
    item = getattr(value, "item", None)  # numpy's and torch's scalars
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    return list(value) if isinstance(value, set | frozenset) else str(value)


def _cleaned(value: Any, depth: int) -> Any:
    if depth > 20:
        return None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _cleaned(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(each, depth + 1) for each in value]
    return _cleaned(_plain(value), depth + 1)
