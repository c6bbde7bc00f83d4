"""Progress bars on a terminal; elsewhere (a log file, a pipe) a line every ten seconds."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Self, TextIO, TypeVar

REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0
BAR_WIDTH = 24

Item = TypeVar("Item")


class ProgressBar:
    """One line that says how far something is and how long it will take.

    Parameters
    ----------
    title : str
        What is being done; may be set anew for another stage.
    stream : text file, optional
        Where to write; standard error by default, so that results on standard output stay clean.
    clock : callable, optional
        Seconds that only grow.

    Examples
    --------
    >>> with ProgressBar("Training") as bar:
    ...     bar.update(0.5, "loss 0.31")
    """

    def __init__(self, title: str, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self.title = title
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._clock = clock
        self._start = self._written_at = clock()
        self._fraction, self._note, self._seconds_left = 0.0, "", None
        self._drawn = ""
        if self._on_terminal:
            self._draw()

    def update(self, fraction: float, note: str = "", seconds_left: float | None = None) -> None:
        """Say that ``fraction`` (0..1) is done; the time left is extrapolated where it isn't given.

        A fraction that falls begins a new stage, whose time counts from now.
        """
        if fraction < self._fraction:
            self._start = self._clock()
        self._fraction, self._note, self._seconds_left = min(max(fraction, 0.0), 1.0), note, seconds_left
        if self._clock() - self._written_at >= (REDRAW_SECONDS if self._on_terminal else LINE_SECONDS):
            self._draw()

    def write(self, text: str) -> None:
        """A line of text above the bar."""
        self._erase()
        print(text, file=self._stream)
        if self._on_terminal:
            self._draw()

    def close(self) -> None:
        """Leave the bar as it stands and end its line; a bar that never got to draw stays away."""
        if self._on_terminal:
            self._draw()
            print(file=self._stream)
            self._drawn = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _draw(self) -> None:
        self._written_at = self._clock()
        line = "  ".join(part for part in (*self._parts(), self._note) if part)
        if not self._on_terminal:
            print(line, file=self._stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        self._erase()
        self._drawn = line if len(line) <= width else f"{line[: width - 1]}…"
        self._stream.write(self._drawn)
        self._stream.flush()

    def _parts(self) -> Iterator[str]:
        yield self.title
        if self._on_terminal:
            done = round(self._fraction * BAR_WIDTH)
            yield f"[{'#' * done}{'.' * (BAR_WIDTH - done)}]"
        yield f"{100 * self._fraction:3.0f} %"
        elapsed = self._written_at - self._start
        left = self._seconds_left
        if left is None and self._fraction > 0.02:
            left = elapsed * (1 - self._fraction) / self._fraction
        if self._fraction == 1 or left is None:
            yield duration(elapsed)
        else:
            yield f"{duration(elapsed)}, {duration(left)} left"

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write("\r" + " " * len(self._drawn) + "\r")
            self._drawn = ""


def track(items: Iterable[Item], title: str, *, total: int | None = None) -> Iterator[Item]:
    """The items one by one, with a progress bar beside them."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with ProgressBar(title) as bar:
        for done, item in enumerate(items):
            bar.update(done / total if total else 0.0, f"{done} of {total}" if total else f"{done}")
            yield item
        bar.update(1.0)


def duration(seconds: float) -> str:
    """A span of time for people.

    Examples
    --------
    >>> duration(59.6), duration(754), duration(7500)
    ('1:00', '12:34', '2:05:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(n_bytes: float | None) -> str:
    """A number of bytes for people; a question mark where nobody knows.

    Examples
    --------
    >>> size(8 * 2**30), size(64e6), size(None)
    ('8.0 GB', '61 MB', '?')
    """
    if n_bytes is None:
        return "?"
    return f"{n_bytes / 2**30:.1f} GB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MB"
