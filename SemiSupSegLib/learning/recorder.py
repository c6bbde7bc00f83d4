"""Writes down what happens in a run, and passes it on to whoever listens; never fails and never waits for anybody."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SemiSupSegError
from ..events import RateLimit, encode_event
from ..files import explained
from ..runs import RunFolder, Status

Send = Callable[[bytes, int | None, int | None], None]
"""Takes a line, and where events.jsonl holds it (`None` if it doesn't)."""

_LANDMARKS = frozenset({"checkpoint", "state", "finished"})
"""Events up to which the files survive a power cut."""


class Recorder:
    """Events, metrics, status and log of one run; may be used from several threads.

    A run folder that takes nothing more (a full disk) is complained about once, to the listener; the next checkpoint
    fails loudly by itself.

    Parameters
    ----------
    folder : RunFolder
        The run.
    send : callable
        The listener.
    """

    def __init__(self, folder: RunFolder, send: Send):
        self._folder = folder
        self._send = send
        self._metrics, self._progress = RateLimit(), RateLimit()
        self._has_complained = False
        self._mutex = threading.RLock()

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        """Takes an event: all of them to the files and on, but progress, and metrics passed on, thinned."""
        line = encode_event(event, fields)
        with self._mutex:
            if event == "metric":
                self._append_metrics(fields)
                self._append(line)
                kind = tuple(sorted(fields.get("values", ())))
                self._send_recorded(self._metrics.offer(kind, line))
            elif event == "progress":
                for each in self._progress.offer("progress", line):  # an overtaken one is of no use
                    self._append_and_send(each)
            else:
                self._append_and_send(line)
                if event in _LANDMARKS:
                    with contextlib.suppress(SemiSupSegError):
                        self._folder.flush()

    def pass_on_due(self) -> None:
        """Passes on what was held back and is due; to be called a few times a second."""
        with self._mutex:
            self._send_recorded(self._metrics.due())
            for line in self._progress.due():
                self._append_and_send(line)

    def pass_on_held(self) -> None:
        """Passes on everything that was held back: before the end."""
        with self._mutex:
            self._send_recorded(self._metrics.flush())
            for line in self._progress.flush():
                self._append_and_send(line)

    def write_status(self, status: Status, *, durable: bool) -> None:
        """Replaces status.json."""
        try:
            self._folder.write_status(status, durable=durable)
        except SemiSupSegError as error:
            self._complain(error)

    def log(self, text: str) -> None:
        """Appends to log.txt."""
        with contextlib.suppress(OSError), open(self._folder.log_file, "ab") as file:
            file.write(text.rstrip().encode("utf-8", "replace") + b"\n")

    def _append_and_send(self, line: bytes) -> None:
        end = self._append(line)
        self._send(line, None if end is None else end - len(line), end)

    def _send_recorded(self, lines: list[bytes]) -> None:
        """Sends lines that are in the file since earlier: a listener that is behind doesn't need them."""
        if lines:
            try:
                end = self._folder.events_file.stat().st_size
            except OSError:
                end = 0
            for line in lines:
                self._send(line, end, end)

    def _append(self, line: bytes) -> int | None:
        try:
            return self._folder.append_event(line)
        except SemiSupSegError as error:
            self._complain(error)
            return None

    def _append_metrics(self, fields: Mapping[str, Any]) -> None:
        try:
            with explained("write", self._folder.metrics_file):
                self._folder.append_metrics(fields.get("iteration", 0), fields.get("values", {}))
        except SemiSupSegError as error:
            self._complain(error)

    def _complain(self, error: SemiSupSegError) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._send(encode_event("warning", {"message": error.message, "remedy": error.remedy}), None, None)
