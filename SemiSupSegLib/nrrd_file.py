"""Writing NRRD: the one format that keeps shear, names, colors and terminology, and every bit of a geometry.

SimpleITK reads NRRD well and writes it nearly so: its spacing and direction of an oblique volume come back one unit in
the last place off, three times out of four, and it offers no choice of compression effort. So reading is left to
SimpleITK (see `volume.read_volume`) and writing is done here.
"""

from __future__ import annotations

import gzip
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .geometry import Geometry

TYPES = {
    "int8": "signed char", "uint8": "unsigned char", "int16": "short", "uint16": "unsigned short",
    "int32": "int", "uint32": "unsigned int", "int64": "long long int", "uint64": "unsigned long long int",
    "float32": "float", "float64": "double",
}  # fmt: skip
"""NRRD's name of each type of numpy's."""

# Level 1 is four times faster than zlib's default 6 on an image and loses 5 % of its size to it.
_GZIP_LEVEL = 1


def write_nrrd(
    path: Path,
    array: np.ndarray,
    geometry: Geometry,
    fields: Mapping[str, str] | None = None,
    compress: bool = True,
) -> None:
    """Write an array as an NRRD file (attached header, LPS).

    Parameters
    ----------
    path : Path
        The file to write; overwritten without a safety net (callers write a temporary file and replace).
    array : numpy.ndarray, shape (k, j, i)
        Any integer or floating-point type; booleans become ``uint8``, half floats ``float32``.
    geometry : Geometry
        The grid of `array`.
    fields : mapping of str to str, optional
        Key/value pairs for the header, for example ``Segment0_Name``.
    compress : bool
        Gzip the voxels. The bytes of the file depend on the content alone.

    Notes
    -----
    SimpleITK reads spacing and direction back bit for bit when they came from an NRRD file, and to the last place or
    so otherwise.
    """
    if array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    directions = np.reshape(geometry.direction, (3, 3))
    vectors = [_space_direction(geometry.spacing[axis], directions[:, axis]) for axis in range(3)]
    lines = [
        "NRRD0004",
        f"type: {TYPES[array.dtype.newbyteorder('=').name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(size) for size in geometry.size),
        "space directions: " + " ".join(_vector_text(vector) for vector in vectors),
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if compress else 'raw'}",
        "space origin: " + _vector_text(geometry.origin),
        *(f"{key}:={_escaped(value)}" for key, value in (fields or {}).items()),
    ]
    with Path(path).open("wb") as stream:
        stream.write(("\n".join(lines) + "\n\n").encode("utf-8"))
        if compress:
            # No name and no time in the gzip header: equal content gives equal files.
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0) as voxels:
                voxels.write(array.data)
        else:
            stream.write(array.data)


def _space_direction(spacing: float, direction: np.ndarray) -> tuple[float, ...]:
    """The vector whose length and direction a reader computes to be exactly these, or the nearest there is."""
    vector = [spacing * float(component) for component in direction]
    wanted = (spacing, *(float(component) for component in direction))
    neighbours = [(x, math.nextafter(x, -math.inf), math.nextafter(x, math.inf)) if x else (x,) for x in vector]
    for candidate in itertools.product(*neighbours):
        if _as_read(candidate) == wanted:
            return candidate
    return tuple(vector)


def _as_read(vector: tuple[float, ...]) -> tuple[float, ...]:
    """Spacing and direction as Teem computes them (nrrdSpacingCalculate), operation by operation."""
    spacing = math.sqrt((vector[0] * vector[0] + vector[1] * vector[1]) + vector[2] * vector[2])
    scale = 1.0 / spacing
    return (spacing, *(scale * component for component in vector))


def _vector_text(vector) -> str:
    return "(" + ",".join(f"{component:.17g}" for component in vector) + ")"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n")
