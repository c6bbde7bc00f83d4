"""Lines of a pipe and of a growing file, taken one by one without ever waiting, in bounded memory."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

from .events import MAXIMUM_LINE_BYTES

_CHUNK_BYTES = 65536


class LineBuffer:
    """Cuts bytes into lines; of a line that is longer than `longest` bytes only the begin is kept."""

    def __init__(self, longest: int = MAXIMUM_LINE_BYTES):
        self._longest = longest
        self._lines: deque[bytes] = deque()
        self._begin = bytearray()
        self._is_dropping = False

    def feed(self, chunk: bytes) -> None:
        """Adds bytes."""
        end, *others = chunk.split(b"\n")
        if not self._is_dropping:
            self._begin += end
        if others:
            if not self._is_dropping:
                self._lines.append(bytes(self._begin))
            self._lines.extend(others[:-1])
            self._begin, self._is_dropping = bytearray(others[-1]), False
        if len(self._begin) > self._longest:
            self._lines.append(bytes(self._begin))
            self._begin, self._is_dropping = bytearray(), True

    def finish(self) -> None:
        """The end of the stream is the end of its last line."""
        if self._begin:
            self._lines.append(bytes(self._begin))
            self._begin = bytearray()

    def next_line(self) -> bytes | None:
        """The next whole line without its newline, `None` if there is none yet."""
        return self._lines.popleft() if self._lines else None


class PipeLines:
    """Lines of a pipe.

    What isn't taken isn't read either, so a worker that writes without end fills the pipe, not our memory.

    Parameters
    ----------
    pipe : file
        The reading end, unbuffered.
    longest : int
        Of a line of more bytes only the begin comes.
    """

    def __init__(self, pipe: BinaryIO, longest: int = MAXIMUM_LINE_BYTES):
        self._pipe = pipe
        self._buffer = LineBuffer(longest)
        self.at_end = False
        """Whether the other end is closed and everything was taken."""
        self._is_closed = False
        if sys.platform != "win32":
            os.set_blocking(pipe.fileno(), False)

    def next_line(self, deadline: float = math.inf) -> bytes | None:
        """The next line, `None` if none is there now, or none is whole yet at a time of `time.perf_counter`."""
        line = self._buffer.next_line()
        while line is None and not self._is_closed:
            if time.perf_counter() >= deadline:  # of a line without end there is always more
                return None
            chunk = self._read()
            if chunk is None:
                return None
            if chunk:
                self._buffer.feed(chunk)
            else:
                self._buffer.finish()
                self._is_closed = True
            line = self._buffer.next_line()
        self.at_end = self._is_closed and line is None
        return line

    def close(self) -> None:
        """Closes the pipe."""
        self._pipe.close()
        self._is_closed = self.at_end = True

    def _read(self) -> bytes | None:
        """What is there, `None` if nothing is, empty at the end."""
        try:
            if sys.platform == "win32":
                waiting = _bytes_in_windows_pipe(self._pipe.fileno())
                return os.read(self._pipe.fileno(), min(waiting, _CHUNK_BYTES)) if waiting else None
            return os.read(self._pipe.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return None
        except (OSError, ValueError):
            return b""


class FileLines:
    """Lines of a file that another process appends to.

    Parameters
    ----------
    path : Path
        The file; it may not exist yet.
    begin : int
        Where to begin, in bytes.
    end : int, optional
        Where to stop; without it, whatever is appended comes too.
    """

    def __init__(self, path: Path, begin: int = 0, end: int | None = None):
        self._path = path
        self._end = end
        self._position = begin
        self._buffer = LineBuffer()
        self.offset = begin
        """Up to where lines were taken, in bytes."""

    def next_line(self, deadline: float = math.inf) -> bytes | None:
        """The next whole line, `None` if none is there now, or none is whole yet at a time of `time.perf_counter`."""
        line = self._buffer.next_line()
        while line is None:
            if time.perf_counter() >= deadline:
                return None
            chunk = self._read()
            if not chunk:
                return None
            self._buffer.feed(chunk)
            line = self._buffer.next_line()
        self.offset += len(line) + 1
        return line

    def _read(self) -> bytes:
        size = _CHUNK_BYTES if self._end is None else min(_CHUNK_BYTES, self._end - self._position)
        if size <= 0:
            return b""
        try:
            with open(self._path, "rb", buffering=0) as file:
                file.seek(self._position)
                chunk = file.read(size)
        except OSError:
            return b""
        self._position += len(chunk)
        return chunk


def _bytes_in_windows_pipe(descriptor: int) -> int:
    """How many bytes can be read without waiting; raises `OSError` where the other end is closed."""
    import ctypes
    import msvcrt

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    waiting = ctypes.c_uint32()
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
    if not kernel.PeekNamedPipe(handle, None, 0, None, ctypes.byref(waiting), None):
        raise ctypes.WinError(ctypes.get_last_error())
    return waiting.value
