"""NRRD files read slab by slab, so that a program with a window can show other things in between."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import ErrorCode, VolumeError
from .files import explained
from .nrrd_file import TYPES

SLAB_BYTES = 2 * 1024**2
"""About what is read at once: a few milliseconds, also where it is compressed."""

_LONGEST_HEADER = 1 << 20
_BEST_COMPRESSION = 1040  # deflate can't shrink anything more than this


class Slabs:
    """The voxels of a file that `nrrd_file.write_nrrd` wrote.

    Attributes
    ----------
    array : numpy.ndarray, shape (k, j, i)
        Filled while one iterates.

    Examples
    --------
    ::

        slabs = Slabs.of(path)
        for slab in slabs:
            slabs.array[slab].max()  # the slices that have just been read
    """

    def __init__(self, path: Path, offset: int, array: np.ndarray, is_compressed: bool):
        self.array = array
        self._path = path
        self._offset = offset
        self._is_compressed = is_compressed

    @classmethod
    def of(cls, path: Path | str) -> Slabs | None:
        """The slabs of a file; None if it is of another kind, or not what its header says: then `read_volume` tells."""
        path = Path(path)
        with explained("read", path), path.open("rb") as stream:
            head = stream.read(_LONGEST_HEADER)
            size = stream.seek(0, 2)
        lines, end, _ = head.partition(b"\n\n")
        fields = dict(line.split(b": ", 1) for line in lines.split(b"\n")[1:] if b": " in line and b":=" not in line)
        try:
            name = {text: name for name, text in TYPES.items()}[fields[b"type"].decode()]
            shape = tuple(int(each) for each in fields[b"sizes"].split())[::-1]
            is_plain = head.startswith(b"NRRD0004\n") and end and fields[b"endian"] == b"little"
            is_compressed = {b"raw": False, b"gzip": True}[fields[b"encoding"]]
        except (KeyError, ValueError, UnicodeDecodeError):
            return None
        dtype = np.dtype(name).newbyteorder("<")
        held = size - len(lines) - len(end)
        needed = dtype.itemsize * int(np.prod(shape, dtype=object))
        is_whole = needed <= held * _BEST_COMPRESSION if is_compressed else needed == held
        if not is_plain or len(shape) != 3 or min(shape) < 1 or not is_whole or b"data file" in fields:
            return None
        return cls(path, len(lines) + len(end), np.empty(shape, dtype), is_compressed)

    def __iter__(self) -> Iterator[slice]:
        thickness = max(1, SLAB_BYTES // self.array[0].nbytes)
        with explained("read", self._path), self._path.open("rb") as stream:
            stream.seek(self._offset)
            voxels = gzip.GzipFile(fileobj=stream) if self._is_compressed else stream
            for start in range(0, len(self.array), thickness):
                slab = slice(start, min(start + thickness, len(self.array)))
                self._fill(voxels, memoryview(self.array[slab]).cast("B"), is_last=slab.stop == len(self.array))
                yield slab

    def _fill(self, voxels: BinaryIO, target: memoryview, is_last: bool) -> None:
        try:
            while target:
                read = voxels.readinto(target)
                if not read:
                    raise EOFError
                target = target[read:]
            if is_last and voxels.read(1):  # the checksum is compared at the end of what is compressed
                raise EOFError
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise VolumeError(
                f"'{self._path}' is damaged or cut off.", "Make it again.", code=ErrorCode.UNREADABLE_FILE
            ) from error
