"""The worker's end of the line: events go out through stdout and never block it, commands come in through stdin."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable

from ..events import MAXIMUM_LINE_BYTES, encode_event

_QUEUED_LINES = 256
"""Lines that wait for a slow owner before the rest is left to events.jsonl."""

_UNRECORDED_LINES = 4 * _QUEUED_LINES
"""Lines that wait if they are in no file (the disk is full)."""


class LineWriter:
    """Sends lines from a small queue in a thread, so that an owner that doesn't read never holds up the worker.

    When the queue is full, the lines that follow are left out; they stand in events.jsonl. As soon as the owner reads
    again, one ``skipped`` event tells it which bytes of the file it missed, in their place among the others.

    Parameters
    ----------
    descriptor : int
        The pipe.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._skipped: tuple[int, int] | None = None
        self._changed = threading.Condition()
        self._closing = self._broken = False
        self._thread = threading.Thread(target=self._write, name="line out", daemon=True)
        self._thread.start()

    def send(self, line: bytes, begin: int | None = None, end: int | None = None) -> None:
        """Queues a line; `begin` and `end` are where events.jsonl holds it, `None` if it doesn't."""
        with self._changed:
            if self._broken or self._closing:
                return
            recorded = begin is not None and end is not None
            if recorded and (self._skipped or len(self._lines) >= _QUEUED_LINES):
                self._skipped = (self._skipped[0] if self._skipped else begin, end)
            elif len(self._lines) < _UNRECORDED_LINES:
                self._lines.append(line)
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Sends what is queued, for at most so long, then closes."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _write(self) -> None:
        while True:
            with self._changed:
                while not (self._lines or self._skipped or self._closing):
                    self._changed.wait()
                if self._lines:
                    line = self._lines.popleft()
                elif self._skipped:
                    begin, end = self._skipped
                    line, self._skipped = encode_event("skipped", {"begin": begin, "end": end}), None
                else:
                    return
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:  # nobody is there to read
                with self._changed:
                    self._broken = True
                    self._lines.clear()
                    self._skipped = None
                return


class LineReader:
    """Reads lines in a thread and hands each to a function, and says when the owner is gone.

    Parameters
    ----------
    descriptor : int
        The pipe.
    on_line : callable
        Takes a line without its newline; called in the thread.
    on_end : callable
        Called in the thread at the end of file.
    """

    def __init__(self, descriptor: int, on_line: Callable[[bytes], None], on_end: Callable[[], None]):
        self._descriptor = descriptor
        self._on_line = on_line
        self._on_end = on_end
        threading.Thread(target=self._read, name="line in", daemon=True).start()

    def _read(self) -> None:
        pending = b""
        while chunk := self._chunk():
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    self._on_line(line)
            if len(pending) > MAXIMUM_LINE_BYTES:
                self._on_line(pending)  # to be answered as malformed; its end will be too
                pending = b""
        self._on_end()

    def _chunk(self) -> bytes:
        try:
            return os.read(self._descriptor, 65536)
        except OSError:
            return b""


def take_over_streams(attached: bool) -> tuple[int, int | None]:
    """Keeps stdout and stdin for the line alone.

    From now on whatever prints, in Python, in C or in a child, prints into the log (stderr); nobody else reads stdin,
    and no child inherits either.

    Parameters
    ----------
    attached : bool
        Whether stdin is the owner's line.

    Returns
    -------
    output, input : int, int or None
        The descriptors of the line.
    """
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        received = os.dup(0) if attached else None
    except OSError:  # started without any stdin
        received = None
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return output, received
