"""One run at a time on a device; the others wait in the order in which they came, and the dead don't count."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from .locks import FileLock


class DeviceQueue:
    """Runs that want a device, one after the other in the order in which they came.

    A waiting run is a ticket: a locked file. A ticket whose lock is free belongs to a process that died, and is
    thrown away.

    Parameters
    ----------
    device : str
        Name of the device, such as "cuda:0" or "cpu".
    note : str
        What the others are told about this run.
    folder : path, optional
        Where the locks are; the user's folder of this machine if not given (`SEMISUPSEG_LOCKS` overrides it).

    Examples
    --------
    >>> queue = DeviceQueue("doctest", "a run")
    >>> queue.try_acquire()
    True
    >>> queue.release()
    """

    def __init__(self, device: str, note: str = "", folder: str | os.PathLike | None = None):
        self.device = device
        self._note = note
        self._folder = Path(folder or default_lock_folder()) / re.sub(r"\W+", "-", device)
        self._lock = FileLock(self._folder / "device.lock")
        self._ticket: FileLock | None = None

    @property
    def is_held(self) -> bool:
        """Whether the device is this run's now."""
        return self._lock.is_held

    def try_acquire(self) -> bool:
        """Takes the device if it's free and it's this run's turn; else keeps its place in the queue."""
        if self.is_held:
            return True
        if self._ticket is None:
            self._ticket = self._draw_ticket()
        if self.waiting_before() == 0 and self._lock.acquire(self._note):
            self._drop_ticket()
            return True
        return False

    def acquire(self, give_up: Callable[[], bool] = lambda: False, *, poll_seconds: float = 0.2) -> bool:
        """Waits for the device until it's this run's, or until `give_up` says so."""
        while not self.try_acquire():
            if give_up():
                self.release()
                return False
            time.sleep(poll_seconds)
        return True

    def release(self) -> None:
        """Gives the device, or the place in the queue, to the next."""
        self._lock.release()
        self._drop_ticket()

    def holder(self) -> str:
        """What is known about the run that has the device."""
        return self._lock.holder()

    def waiting_before(self) -> int:
        """How many living runs drew their ticket earlier."""
        own = self._ticket.path.name if self._ticket else "~"
        count = 0
        for name in sorted(os.listdir(self._folder)):
            if not name.endswith(".ticket") or name >= own:
                continue
            other = FileLock(self._folder / name)
            if other.acquire():  # its process died
                with contextlib.suppress(OSError):
                    other.path.unlink()
                other.release()
            else:
                count += 1
        return count

    def _draw_ticket(self) -> FileLock:
        while True:
            ticket = FileLock(self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.ticket")
            if ticket.acquire(self._note, seconds=1.0):
                return ticket

    def _drop_ticket(self) -> None:
        if self._ticket is not None:
            with contextlib.suppress(OSError):
                self._ticket.path.unlink()
            self._ticket.release()
            self._ticket = None


def default_lock_folder() -> Path:
    """Where the locks of this machine's devices are: a folder of this user, not shared between machines."""
    chosen = os.environ.get("SEMISUPSEG_LOCKS")
    if chosen:
        return Path(chosen)
    user = re.sub(r"\W+", "-", os.environ.get("USER") or os.environ.get("USERNAME") or "user")
    return Path(tempfile.gettempdir()) / f"SemiSupSeg-{user}"
