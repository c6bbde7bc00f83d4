"""What a worker says beside its events, as its owner keeps it: the last lines in memory, and a bounded log.txt."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path

_LOG_LINES = 200
_STRAY_LOG_BYTES = 10 * 1024**2
_WRITTEN_AT_ONCE = 65536


class WorkerLog:
    """The owner's side of a run's log.

    Parameters
    ----------
    file : Path
        The run's log.txt.
    """

    def __init__(self, file: Path):
        self._file = file
        self._begin = 0
        self._lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._stray = bytearray()
        self._stray_bytes = 0

    def start(self) -> None:
        """Remember where what is said from now on begins."""
        with contextlib.suppress(OSError):
            self._begin = self._file.stat().st_size

    def keep(self, line: bytes, *, write: bool) -> None:
        """Keep a line that isn't an event; written to the file, too, where the worker doesn't do that itself."""
        text = line[:2000].decode("utf-8", "replace")
        self._lines.append(text)
        if write and self._stray_bytes < _STRAY_LOG_BYTES:
            self._stray_bytes += len(text) + 1
            self._stray += text.encode() + b"\n"
            if len(self._stray) >= _WRITTEN_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Write kept lines, many at once: opening the file takes longer than reading a line."""
        if self._stray:
            with contextlib.suppress(OSError), open(self._file, "ab", buffering=0) as file:
                file.write(self._stray)
            self._stray.clear()

    def tail(self, *, since_start: bool = False) -> str:
        """The last lines, of all parts of the run or of what was said since `start`."""
        try:
            with open(self._file, "rb") as file:
                file.seek(max(self._begin if since_start else 0, os.fstat(file.fileno()).st_size - 65536))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            text = "\n".join(self._lines)
        return "\n".join(text.splitlines()[-_LOG_LINES:])
