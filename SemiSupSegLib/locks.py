"""Locks of the operating system on files: they end with the process that holds them, so none ever gets stuck."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path

from .files import explained

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_WINDOWS_LOCKED_BYTE = 2**30
"""Windows lets nobody read a locked byte: lock one behind the content."""

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """A lock on a file, held by one process at a time until it releases it or dies.

    A child made by fork doesn't inherit it. The file stays after the release, since deleting it would let two
    processes hold "the same" lock.

    Parameters
    ----------
    path : path
        The lock's file; created if absent, also its folder.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._descriptor = -1

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor >= 0

    def acquire(self, note: str = "", *, seconds: float = 0.0) -> bool:
        """Takes the lock if nobody holds it.

        Parameters
        ----------
        note : str
            What to tell others about the holder; see `holder`.
        seconds : float
            How long to try.

        Returns
        -------
        bool
            Whether the lock is held now.
        """
        deadline = time.monotonic() + seconds
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        with contextlib.suppress(OSError):  # the note is a courtesy; the disk may be full
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, json.dumps({"pid": os.getpid(), "note": note}).encode())
        return True

    def release(self) -> None:
        """Gives the lock back; nothing happens if it isn't held."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)  # which ends the lock
            self._descriptor = -1
            _held.discard(self)

    def holder(self) -> str:
        """The note of whoever holds (or last held) the lock; empty if there is none."""
        try:
            body = json.loads(self.path.read_bytes()[:4096])
            return str(body["note"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def _try(self) -> bool:
        if self.is_held:
            return True
        with explained("lock", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            try:
                if _lock(descriptor) and _is_file(descriptor, self.path):
                    self._descriptor = descriptor
                    _held.add(self)
            finally:
                if not self.is_held:
                    os.close(descriptor)
        return self.is_held

    def _abandon(self) -> None:
        """In a forked child: close the copy, which leaves the parent's lock as it is."""
        self.release()


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


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _WINDOWS_LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the opened file; somebody may have deleted it in between."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _abandon_all() -> None:
    for lock in list(_held):
        lock._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
