"""What an image file's header says, looked at before ITK does.

ITK's readers trust headers: some lies make them crash, hang, read other files than those given, or take 1 for what
isn't a number. Such files are refused here, with a sentence.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from .errors import ErrorCode, VolumeError
from .files import explained

_LONGEST_LINE = 1 << 20
_MOST_LINES = 100_000
_LONGEST_NRRD_FIELD = 512  # of four vectors it has 300 bytes; beyond a thousand, Teem's error messages overflow
_METAIMAGE_DIMENSIONS = range(2, 11)  # what MetaIO's arrays have room for
_METAIMAGE_NUMBERS = {
    "offset", "position", "origin", "elementspacing", "elementsize", "transformmatrix", "rotation", "orientation",
    "centerofrotation", "dimsize",
}  # fmt: skip
_NIFTI_BYTES = 348


def check_header(path: Path) -> Path:
    """Refuse an image file by its header: NRRD, MetaImage and NIfTI-1; others pass.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    Path
        The file that holds the voxels: `path`, or one in the same folder (or below) that the header names.

    Raises
    ------
    VolumeError
        ``UNREADABLE_FILE`` if the header is damaged, or leads to voxels elsewhere or in several files; ``BAD_GEOMETRY``
        if it gives anything but numbers for the grid.
    """
    with explained("read", path), path.open("rb") as stream:
        begin = stream.read(4)
        stream.seek(0)
        if begin == b"NRRD":
            return _check_nrrd(stream, path)
        if path.suffix.lower() in (".mha", ".mhd"):
            return _check_metaimage(stream, path)
        _check_nifti(_unpacked(stream, begin), path)
    return path


def _check_nrrd(stream: BinaryIO, path: Path) -> Path:
    voxels = path
    for line in _lines(stream, path):
        name, _, value = line.partition(b":")
        if value.startswith(b"=") or line.startswith((b"#", b"NRRD")):
            continue
        name = name.strip().lower()
        is_free_text = name in (b"content", b"sample units")
        if len(line) > _LONGEST_NRRD_FIELD and not is_free_text:
            raise _damaged(path, "a line of its header is too long")
        if name in (b"data file", b"datafile"):
            voxels = _beside(path, value)
    return voxels


def _check_metaimage(stream: BinaryIO, path: Path) -> Path:
    for line in _lines(stream, path):
        parts = re.split(rb"[=:]", line, maxsplit=1)
        name, value = parts[0].strip().lower().decode("latin-1"), parts[-1].strip()
        if name == "ndims" and not _is_dimension(value):
            raise _damaged(path, "it doesn't say how many dimensions it has")
        if name in _METAIMAGE_NUMBERS and not _are_finite(value):
            raise _no_numbers(path, parts[0].strip().decode("latin-1"))
        if name == "elementdatafile":
            return path if value.lower() == b"local" else _beside(path, value)
    return path


def _check_nifti(header: bytes, path: Path) -> None:
    """The grid of a NIfTI-1 header; ITK's reader takes 1 for a spacing of NaN, and never comes back from infinity."""
    order = next((order for order in "<>" if struct.unpack_from(f"{order}i", header.ljust(4, b"\0"))[0] == 348), None)
    if len(header) < _NIFTI_BYTES:
        return
    if order is None:
        if header[344:347] in (b"n+1", b"ni1"):  # ITK reads it all the same, and whatever numbers it has
            raise _damaged(path, "it doesn't begin as a NIfTI file does")
        return
    spacing = struct.unpack_from(f"{order}3f", header, 80)
    qform_code, sform_code, *numbers = struct.unpack_from(f"{order}2h18f", header, 252)
    offset = struct.unpack_from(f"{order}f", header, 108)
    for name, values in (
        ("spacing", spacing),
        ("place of the voxels", offset),
        ("qform", numbers[:6] if qform_code > 0 else ()),
        ("sform", numbers[6:] if sform_code > 0 else ()),
    ):
        if not all(math.isfinite(value) for value in values):
            raise _no_numbers(path, name)


def _unpacked(stream: BinaryIO, begin: bytes) -> bytes:
    """The first bytes of a file, unzipped; whatever came out where it is damaged."""
    if not begin.startswith(b"\x1f\x8b"):
        return stream.read(_NIFTI_BYTES)
    try:
        return gzip.GzipFile(fileobj=stream).read(_NIFTI_BYTES)
    except (EOFError, OSError, zlib.error):
        return b""


def _lines(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of a text header, up to an empty one or the end of the file."""
    for _ in range(_MOST_LINES):
        line = stream.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise _damaged(path, "its header has no end")
        if not line.strip(b"\r\n"):
            return
        yield line.rstrip(b"\r\n")
    raise _damaged(path, "its header has no end")


def _beside(path: Path, value: bytes) -> Path:
    """The file of voxels that a header names, where it is one, and doesn't lie outside the header's own folder."""
    name = os.fsdecode(value.strip())
    if name.upper().startswith("LIST") or "%" in name:
        raise VolumeError(
            f"The voxels of '{path}' are spread over several files.",
            "Load it in Slicer and save it as one .nrrd file.",
            code=ErrorCode.UNREADABLE_FILE,
        )
    folder = Path(os.path.abspath(path.parent))
    file = Path(os.path.normpath(folder / name.replace("\\", "/").replace("\0", "/..")))
    foreign_drive = PureWindowsPath(name).drive and os.name != "nt"
    if foreign_drive or not file.is_relative_to(folder) or (file.exists() and not file.is_file()):
        raise VolumeError(
            f"The header of '{path}' names voxels elsewhere ({name[:100]!r}), which aren't read.",
            "Put header and voxels into one folder, or save it as one .nrrd file.",
            code=ErrorCode.UNREADABLE_FILE,
        )
    return file


def _is_dimension(value: bytes) -> bool:
    return bool(re.fullmatch(rb"\d{1,2}", value)) and int(value) in _METAIMAGE_DIMENSIONS


def _are_finite(value: bytes) -> bool:
    try:
        return all(math.isfinite(float(word)) for word in value.split())
    except ValueError:
        return False


def _damaged(path: Path, why: str) -> VolumeError:
    return VolumeError(f"'{path}' is damaged: {why}.", "Copy or export the file again.", code=ErrorCode.UNREADABLE_FILE)


def _no_numbers(path: Path, what: str) -> VolumeError:
    return VolumeError(
        f"The geometry in the header of '{path}' is impossible: its {what} isn't made of numbers.",
        "Load it in Slicer, correct its spacing and orientation and save it as .nrrd.",
        code=ErrorCode.BAD_GEOMETRY,
    )
