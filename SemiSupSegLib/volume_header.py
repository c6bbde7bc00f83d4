"""What ITK reads from an image file's header: geometry and fields, and whether the file keeps what it promises."""

from __future__ import annotations

import ctypes
import gzip
import math
import os
import stat
import sys
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import ErrorCode, VolumeError
from .files import explained
from .geometry import Geometry, bad_geometry
from .image_header import check_header
from .itk_errors import itk_errors

EXTENSIONS = (
    ".seg.nrrd", ".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".hdr", ".gipl.gz", ".gipl", ".mgz", ".vtk",
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".dcm",
)  # fmt: skip
"""Extensions of image files, compound ones first."""

# Deflate can't shrink anything more than this (zlib's own documentation says 1032).
_BEST_COMPRESSION = 1040

# A thousand kilometres: whatever the unit was, no scan is as large or as far away.
_LARGEST_MM = 1e9


def extension_of(path: Path | str) -> str:
    """Extension of an image file as it is written, ``.seg.nrrd`` and ``.nii.gz`` whole; empty for other files."""
    name = Path(path).name
    for extension in EXTENSIONS:
        if name.lower().endswith(extension) and len(name) > len(extension):
            return name[-len(extension) :]
    return ""


def read_header(path: Path) -> sitk.ImageFileReader:
    """Header of a file that promises no more than the machine, and the file itself, can hold."""
    with explained("read", path):  # a path may be too long, or lead through a folder that is closed
        kind = stat.S_IFMT(path.stat().st_mode) if path.exists() else None
    if kind == stat.S_IFDIR:
        raise VolumeError(
            f"'{path}' is a folder, not an image file.",
            "Give one file; a DICOM series has to be saved as one .nrrd file first.",
            code=ErrorCode.UNREADABLE_FILE,
        )
    if kind is None:
        raise VolumeError(
            f"'{path}' doesn't exist.", "Check the path, or where the file was moved.", code=ErrorCode.MISSING_FILE
        )
    if kind != stat.S_IFREG:
        raise VolumeError(
            f"'{path}' is a pipe or a device, not an image file.", "Give a file.", code=ErrorCode.UNREADABLE_FILE
        )
    voxels = check_header(path)
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    with itk_errors(path):
        header.ReadImageInformation()
    _check_promise(path, header, voxels)
    return header


def _bytes_promised(header: sitk.ImageFileReader) -> int:
    return math.prod(header.GetSize()) * header.GetNumberOfComponents() * _bytes_of(header.GetPixelID())


def _check_promise(path: Path, header: sitk.ImageFileReader, voxels: Path) -> None:
    """Refuse a header that promises more voxels than their file can contain or the memory can hold."""
    n_bytes = _bytes_promised(header)
    if extension_of(path).lower() in (".nii", ".nii.gz", ".nrrd", ".nhdr", ".seg.nrrd", ".mha", ".mhd"):
        with explained("read the voxels in", voxels):
            size = voxels.stat().st_size
        is_plain = extension_of(path).lower() == ".nii"
        most = size - _voxel_offset(header) if is_plain else size * _BEST_COMPRESSION
        if n_bytes > most:
            raise VolumeError(
                f"'{path}' is damaged: its header promises {_amount(n_bytes)} of voxels, but the file has only "
                f"{_amount(size)}.",
                "Copy or export the file again.",
                code=ErrorCode.UNREADABLE_FILE,
            )
    memory = _physical_memory()
    if memory is not None and n_bytes > memory:
        raise VolumeError(
            f"'{path}' needs {_amount(n_bytes)} of memory, and this computer has {_amount(memory)}.",
            "Crop or downsample the volume first.",
            code=ErrorCode.OUT_OF_MEMORY,
        )


def check_gzip_end(path: Path, header: sitk.ImageFileReader) -> None:
    """Refuse a ``.nii.gz`` that ends too early: ITK reads it without a word and fills up with whatever there is."""
    if not path.name.lower().endswith(".nii.gz"):
        return
    wanted = _voxel_offset(header) + _bytes_promised(header)
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return
        stream.seek(-4, os.SEEK_END)
        # A gzip file ends with the size of its content. Files of several members end with that of the last one.
        if int.from_bytes(stream.read(4), "little") == wanted % 2**32:
            return
    n_bytes = 0
    try:
        with gzip.open(path) as content:
            while n_bytes < wanted and (block := content.read(1 << 22)):
                n_bytes += len(block)
    except (EOFError, OSError, zlib.error):
        pass
    if n_bytes < wanted:
        raise VolumeError(
            f"'{path}' is damaged: it ends after {_amount(n_bytes)} of {_amount(wanted)}.",
            "Copy or export the file again.",
            code=ErrorCode.UNREADABLE_FILE,
        )


def _voxel_offset(header: sitk.ImageFileReader) -> int:
    """Where the voxels of a NIfTI file begin."""
    return int(float(header.GetMetaData("vox_offset"))) if header.HasMetaDataKey("vox_offset") else 0


def geometry_of(header: sitk.ImageFileReader, path: Path) -> Geometry:
    """The grid that a header describes; raises `VolumeError` where that is none of a scan."""
    size, spacing, origin = list(header.GetSize()), list(header.GetSpacing()), list(header.GetOrigin())
    dimension = len(size)
    if dimension < 2 or any(extra != 1 for extra in size[3:]):
        raise VolumeError(
            f"'{path}' has {dimension} dimensions ({' x '.join(map(str, size))}); a scan has three.",
            "Save one time point or one channel as a volume of its own.",
        )
    direction = np.eye(3)
    n = min(dimension, 3)
    direction[:n, :n] = np.reshape(header.GetDirection(), (dimension, dimension))[:n, :n]
    if _nifti_shear(header) > 1e-3:
        raise VolumeError(
            f"The axes of the NIfTI file '{path}' aren't at right angles, which programs read differently.",
            "Convert it to NRRD with the program that made it, or resample it to a straight grid.",
            code=ErrorCode.BAD_GEOMETRY,
        )
    try:
        geometry = Geometry(
            (*size[:3], 1)[:3], (*spacing[:3], 1.0)[:3], (*origin[:3], 0.0)[:3], tuple(direction.ravel())
        )
        if not np.allclose(np.linalg.norm(direction, axis=0), 1, atol=1e-3):
            raise bad_geometry(f"The axes of a volume, {geometry.direction}, aren't of length 1.")
        if np.multiply(geometry.size, geometry.spacing).max() > _LARGEST_MM or np.abs(origin).max() > _LARGEST_MM:
            raise bad_geometry(f"A volume of {geometry.size} voxels of {geometry.spacing} mm at {geometry.origin}.")
        return geometry
    except VolumeError as error:
        raise VolumeError(f"'{path}': {error.message}", error.remedy, code=error.code) from error


def _nifti_shear(header: sitk.ImageFileReader) -> float:
    """How far the axes of a NIfTI file are from right angles (cosine); ITK silently straightens them."""
    if not header.HasMetaDataKey("srow_x") or float(header.GetMetaData("sform_code") or 0) <= 0:
        return 0.0
    rows = [header.GetMetaData(f"srow_{axis}").split()[:3] for axis in "xyz"]
    return shear_of(np.array(rows, dtype=float))


def shear_of(matrix: np.ndarray) -> float:
    """Largest cosine between two columns."""
    lengths = np.linalg.norm(matrix, axis=0)
    if not lengths.all():
        return 0.0
    cosines = (matrix / lengths).T @ (matrix / lengths)
    return float(np.abs(cosines - np.diag(np.diag(cosines))).max())


def _bytes_of(pixel_id: int) -> int:
    name = sitk.GetPixelIDValueAsString(pixel_id).lower()
    bits = next((bits for bits in (64, 32, 16) if f"{bits}-bit" in name), 8)
    return bits // 8 * (2 if "complex" in name else 1)


def fields_of(header: sitk.ImageFileReader) -> dict[str, str]:
    """Key/value pairs; keys that aren't UTF-8, which SimpleITK gives but doesn't take back, are left out."""
    keys = [key for key in header.GetMetaDataKeys() if key.isprintable()]
    return {key: _utf8(header.GetMetaData(key)) for key in keys}


def _utf8(text: str) -> str:
    """Header text as ITK hands it on; bytes that aren't UTF-8 must not stop a file from being read."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _amount(n_bytes: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB"


def _physical_memory() -> int | None:
    """Bytes of memory this machine has; None where nobody says."""
    if sys.platform == "win32":

        class MemoryStatus(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
                (name, ctypes.c_ulonglong)
                for name in ("total", "free", "page_total", "page_free", "virtual_total", "virtual_free", "extended")
            ]

        status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
        return status.total if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
