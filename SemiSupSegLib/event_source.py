"""Where a worker's lines come from: its pipe, its events.jsonl, or the one and then the other, without a gap."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .streams import FileLines, PipeLines


class EventSource:
    """Lines of a worker, in their order.

    Parameters
    ----------
    file : Path
        The run's events.jsonl.
    """

    def __init__(self, file: Path):
        self.path = file
        self._pipe: PipeLines | None = None
        self._file: FileLines | None = None
        self._known_up_to = b""

    def read_pipe(self, pipe: BinaryIO) -> None:
        """Take lines from the worker's standard output."""
        self._pipe = PipeLines(pipe)

    def read_file(self, begin: int) -> None:
        """Take lines from the file, from an offset in bytes on."""
        self._file = FileLines(self.path, begin)

    def read_between(self, begin: int, end: int) -> None:
        """Take what the pipe skipped from the file, then go on with the pipe."""
        self._file = FileLines(self.path, begin, end)

    def leave_pipe(self, begin: int, last: bytes) -> None:
        """Go on in the file behind the line that contains `last`, looked for from an offset on."""
        self.close()
        self._pipe = None
        self.read_file(begin)
        self._known_up_to = last

    @property
    def has_begun(self) -> bool:
        """Whether there is something to read."""
        return self._pipe is not None or self._file is not None

    @property
    def has_pipe(self) -> bool:
        """Whether the worker is read through its pipe, if only after the file."""
        return self._pipe is not None

    @property
    def is_in_file(self) -> bool:
        """Whether the next line comes from the file."""
        return self._file is not None

    @property
    def at_end(self) -> bool:
        """Whether no line can come through a pipe any more."""
        return self._pipe is None or self._pipe.at_end

    @property
    def offset(self) -> int:
        """Where the file was read up to; all of it where it isn't read."""
        return self._file.offset if self._file is not None else size_of(self.path)

    def lines(self, deadline: float) -> Iterator[bytes]:
        """Lines up to a deadline of `time.perf_counter`; where the pipe skips some, the missing ones in their place."""
        while time.perf_counter() < deadline:
            source = self._file if self._file is not None else self._pipe
            line = source.next_line(deadline) if source is not None else None
            if line is not None and self._known_up_to:
                self._known_up_to = b"" if self._known_up_to in line else self._known_up_to
            elif line is not None:
                yield line
            elif time.perf_counter() >= deadline:
                return  # there may be more
            elif self._file is not None and self._pipe is not None:
                self._file = None  # caught up
            else:
                self._known_up_to = b""
                return

    def close(self) -> None:
        """Let go of the pipe."""
        if self._pipe is not None:
            self._pipe.close()


def size_of(path: Path) -> int:
    """Bytes in a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
