"""A run in the process of the command line, without a worker of its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from .. import torchrun
from ..events import Event, decode_line
from ..runs import RunFolder
from .session import Session


class LocalSession(Session):
    """A session without an owner, in the process of the command line: events go to a function, Ctrl-C cancels.

    Parameters
    ----------
    folder : RunFolder
        The run.
    on_event : callable, optional
        Takes every event that a line would carry (metrics and progress thinned); may be called in a thread.
    is_leader : bool
        As in `Session`.
    """

    def __init__(
        self, folder: RunFolder, on_event: Callable[[Event], None] | None = None, *, is_leader: bool | None = None
    ):
        super().__init__(folder, is_leader=torchrun.is_leader() if is_leader is None else is_leader)
        self._on_event = on_event

    def _send(self, line: bytes, begin: int | None, end: int | None) -> None:
        event = decode_line(line)
        if event is not None and self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:  # a progress bar that fails is no reason to lose a training
                self._on_event = None
                self.log(traceback.format_exc())
