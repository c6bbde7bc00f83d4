"""A lock of the operating system on a file: it ends with the process that holds it, so it never gets stuck."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
import weakref
from pathlib import Path

from .files import explained

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_WINDOWS_LOCKED_BYTE = 2**30
"""Windows lets nobody read a locked byte: lock one behind the content."""

_NO_LOCKS_HERE = {getattr(errno, name, None) for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")}
"""Some network file systems have no locks: there, training unguarded is better than no training."""

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
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
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
