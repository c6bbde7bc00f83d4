"""A training run in this process whose owner says something when a number of steps is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from SemiSupSegLib.events import Command, Event
from SemiSupSegLib.learning.local_session import LocalSession
from SemiSupSegLib.runs import RunFolder, State

Script = Mapping[int | str, Callable[[LocalSession], None]]
"""What happens before the step after so many; under "paused", in a pause."""


class ScriptedSession(LocalSession):
    """A session whose owner does something when a number of steps is done, before the next one."""

    def __init__(self, folder: RunFolder, script: Script):
        self.events: list[Event] = []
        super().__init__(folder, self.events.append)
        self.script = dict(script)

    def commands(self) -> list[Command]:
        action = self.script.pop(self._iteration, None)
        if action is not None:
            action(self)
        return super().commands()

    def set_state(self, state: State) -> None:
        super().set_state(state)
        if state is State.PAUSED and "paused" in self.script:
            self.script.pop("paused")(self)

    def fields_of(self, name: str) -> list[Mapping]:
        return [event.fields for event in self.events if event.name == name]

    @property
    def error(self) -> Mapping:
        return self.fields_of("error")[-1]


def sending(name: str, **fields: str) -> Callable[[LocalSession], None]:
    """Sends a command."""
    return lambda session: session._take(Command(name, name, fields))
