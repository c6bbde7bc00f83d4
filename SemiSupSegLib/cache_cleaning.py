"""A cache stays small: what no training has used for long goes, and so does what a killed one left half written."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from .files import TEMPORARY_PREFIX

KEPT_DAYS = 30.0
"""An array that no training has used for so long is of a scan that was removed, or of settings that were given up."""

MOST_BYTES = 50 * 1024**3
"""Beyond it, what was used longest ago goes first."""

_SAFE_SECONDS = 24 * 3600.0
"""What was written or used since then is left alone: a training on any machine may be at it."""


def clean_cache(folder: Path, kept_days: float = KEPT_DAYS, most_bytes: int = MOST_BYTES) -> None:
    """Delete arrays and temporary files of a cache that nobody needs; never fails.

    When an array was used is its file's time (see `mark_as_used`). Another process that wants an array meanwhile makes
    it anew, and one that has read it doesn't need the file.

    Parameters
    ----------
    folder : pathlib.Path
        With ``.npy`` files; other names are left alone, and so are folders in it.
    kept_days : float
        Since the last use.
    most_bytes : int
        Of all arrays that stay, but for those that were used within a day.
    """
    now, left = time.time(), 0
    for entry in _newest_first(folder):
        age = now - entry.stat().st_mtime
        is_temporary = entry.name.startswith(TEMPORARY_PREFIX)
        left += 0 if is_temporary else entry.stat().st_size
        if age > _SAFE_SECONDS and (is_temporary or age > kept_days * 24 * 3600 or left > most_bytes):
            with contextlib.suppress(OSError):  # another process was faster, or reads it on Windows
                os.unlink(entry.path)


def mark_as_used(path: Path) -> None:
    """Let a file of a cache count as used now; where that may not be written down, nothing happens."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _newest_first(folder: Path) -> list[os.DirEntry]:
    """The cache's own files; their times are known then, whatever becomes of them."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            is_own = entry.name.endswith(".npy") or entry.name.startswith(TEMPORARY_PREFIX)
            with contextlib.suppress(OSError):
                if is_own and entry.is_file(follow_symlinks=False):
                    found.append((-entry.stat().st_mtime, entry.name, entry))
    return [entry for *_, entry in sorted(found, key=lambda each: each[:2])]
