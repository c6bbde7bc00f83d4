"""Arrays that are made from files and kept from run to run, so that a cohort that was used before is ready at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..cache_cleaning import mark_as_used
from ..cohort import Cohort
from ..errors import SemiSupSegError
from ..files import explained, free_disk_bytes, replace_atomically, temporary_beside
from ..volume import extension_of

_DISK_RESERVE_BYTES = 1024**3
"""Stays free: what saves a few seconds must not be what fills a disk."""

_HEADERS = (".mhd", ".nhdr", ".hdr", ".img")
"""Formats of two files: one of them says nothing of a change of the other."""


class ArrayCache:
    """Arrays made from files; of each file and kind the last one is kept.

    A file counts as unchanged while its path, size, times of change and place on the disk are the same. So it isn't
    read to be recognised, and a copy of a cohort begins with an empty cache. Of formats of two files nothing is kept.

    Parameters
    ----------
    folder : pathlib.Path or None
        Where they lie as ``.npy``; None to keep nothing. A folder that can't be written costs time, no result.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def get(
        self,
        source: Path,
        kind: str,
        about: Any,
        make: Callable[[], np.ndarray],
        *,
        shape: tuple[int, ...],
        dtype: type[np.generic],
    ) -> np.ndarray:
        """An array made from a file, from the cache where it was made before.

        Parameters
        ----------
        source : pathlib.Path
            The file.
        kind : str
            What the array is; a word for a file name.
        about : JSON value
            Everything else that it depends on.
        make : callable
            Makes it, where it isn't there; errors are passed on.
        shape, dtype
            Of the array: what is found to be another is made again.
        """
        is_whole = extension_of(source).lower() not in _HEADERS
        identity = file_identity(source) if self.folder is not None and is_whole else None
        if identity is None:
            return make()
        group = f"{kind}-{_digest(os.path.abspath(source))}"
        path = self.folder / f"{group}-{_digest([identity, about])}.npy"
        array = _load(path)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = make()
            with contextlib.suppress(SemiSupSegError, OSError):
                self._keep(path, array, group)
        else:
            mark_as_used(path)
        return array

    def _keep(self, path: Path, array: np.ndarray, group: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if free_disk_bytes(self.folder) < _DISK_RESERVE_BYTES + array.nbytes:
            return
        outdated = set(self.folder.glob(f"{group}-*.npy")) - {path}
        temporary = temporary_beside(path)
        try:
            with explained("write", path), open(temporary, "wb") as file:
                np.save(file, array, allow_pickle=False)
            replace_atomically(temporary, path, durable=False)
        finally:
            temporary.unlink(missing_ok=True)
        for each in outdated:
            each.unlink(missing_ok=True)


def cache_folder(cohort: Cohort, run_folder: Path) -> Path:
    """Folder where arrays and superpixels are kept from run to run: beside the cohort where that can be written."""
    if cohort.path is not None:
        folder = Path(cohort.path).parent / ".semisupseg-cache"
        try:
            folder.mkdir(exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
        except OSError:
            pass
    folder = run_folder / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_identity(path: Path) -> list[int] | None:
    """Numbers that change when a file is changed, without reading it; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    # The inode, because a file that takes the place of another within a tick of the clock has the other's times.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _load(path: Path) -> np.ndarray | None:
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception:  # missing or damaged: numpy parses a header as Python, and raises whatever that raises
        return None


def _digest(what: Any) -> str:
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=12).hexdigest()
