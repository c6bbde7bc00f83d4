"""Volumes in files, with their full geometry; what `geometry` and `resampling` do with them is offered here, too."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import math
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import ErrorCode, SemiSupSegError, VolumeError
from .files import explained, replace_atomically, temporary_beside
from .geometry import Geometry, Volume, bad_geometry, from_simpleitk, to_simpleitk
from .image_header import check_header
from .nrrd_file import write_nrrd
from .resampling import resample_image, resample_labels, resample_probabilities

__all__ = [
    "EXTENSIONS",
    "Geometry",
    "Volume",
    "check_image",
    "extension_of",
    "from_simpleitk",
    "read_components",
    "read_fields",
    "read_geometry",
    "read_volume",
    "resample_image",
    "resample_labels",
    "resample_probabilities",
    "to_simpleitk",
    "write_then_replace",
    "write_volume",
]

# Deflate can't shrink anything more than this (zlib's own documentation says 1032).
_BEST_COMPRESSION = 1040

# A thousand kilometres: whatever the unit was, no scan is as large or as far away.
_LARGEST_MM = 1e9


def read_volume(path: Path | str) -> Volume:
    """Read a scalar volume: NRRD, MHA, NIfTI and whatever else SimpleITK reads.

    A 2D image becomes a volume of one slice.

    Raises
    ------
    VolumeError
        ``MISSING_FILE``, ``UNREADABLE_FILE`` (damaged, truncated, no image at all), ``BAD_IMAGE`` (4D, color, complex),
        ``BAD_GEOMETRY`` (sheared NIfTI, impossible spacing) or ``OUT_OF_MEMORY``.
    """
    path = Path(path)
    array, geometry, _ = read_components(path)
    if array.shape[0] != 1:
        raise _several_values(path, array.shape[0])
    return Volume(array[0], geometry)


def read_geometry(path: Path | str) -> Geometry:
    """Geometry of a scalar volume, from the file's header alone. Raises what `read_volume` raises."""
    path = Path(path)
    header = _read_header(path)
    geometry = _geometry_of(header, path)
    if header.GetNumberOfComponents() != 1:
        raise _several_values(path, header.GetNumberOfComponents())
    return geometry


def read_fields(path: Path | str) -> dict[str, str]:
    """The key/value pairs of a file's header (NRRD fields, NIfTI header entries)."""
    header = _read_header(Path(path))
    return _fields_of(header)


def read_components(path: Path | str) -> tuple[np.ndarray, Geometry, dict[str, str]]:
    """Read a volume of any number of values a voxel, as multi-layer segmentations are.

    Returns
    -------
    array : numpy.ndarray, shape (n, k, j, i)
        *n* values a voxel; 1 for scalar volumes.
    geometry : Geometry
    fields : dict of str to str
        The header's key/value pairs.
    """
    path = Path(path)
    header = _read_header(path)
    geometry = _geometry_of(header, path)
    _check_gzip_end(path, header)
    with _itk_errors(path):
        image = sitk.ReadImage(str(path))
    components = image.GetNumberOfComponentsPerPixel()
    array = sitk.GetArrayFromImage(image)
    if np.iscomplexobj(array):
        raise VolumeError(
            f"'{path}' holds complex numbers.", "Save the magnitude (or the phase) as a volume of its own."
        )
    array = array.reshape((*geometry.shape, components))
    array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array, geometry, _fields_of(header)


def write_volume(path: Path | str, volume: Volume, compress: bool = True) -> None:
    """Write a volume; the file appears complete or not at all.

    Parameters
    ----------
    path : Path or str
        The extension decides on the format. Prefer ``.nrrd``: it alone keeps every geometry exactly.
    volume : Volume
    compress : bool

    Raises
    ------
    VolumeError
        ``NOT_WRITABLE`` (formats of two files, such as ``.mhd``, included) or ``DISK_FULL``; ``BAD_GEOMETRY`` for a
        sheared volume in a format that can't hold it.
    """
    path = Path(path)
    if path.name.lower().endswith(".nrrd"):
        write_then_replace(
            path, lambda temporary: write_nrrd(temporary, volume.array, volume.geometry, compress=compress)
        )
        return
    if path.suffix.lower() in (".mhd", ".nhdr", ".hdr", ".img"):
        raise VolumeError(
            f"'{path}' would be two files, header and voxels, which can't be replaced at once.",
            "Save it as .nrrd, .mha or .nii.gz.",
            code=ErrorCode.NOT_WRITABLE,
        )
    if path.name.lower().endswith((".nii", ".nii.gz")) and _shear(np.reshape(volume.geometry.direction, (3, 3))) > 1e-5:
        raise VolumeError(
            f"A sheared volume can't be kept in a NIfTI file ('{path}').",
            "Save it as .nrrd.",
            code=ErrorCode.BAD_GEOMETRY,
        )
    image = to_simpleitk(volume)
    write_then_replace(path, lambda temporary: sitk.WriteImage(image, str(temporary), compress))


def write_then_replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path` (same extension), then put it in its place at once.

    Raises
    ------
    SemiSupSegError
        ``NOT_WRITABLE`` or ``DISK_FULL``, naming the file. What stood at `path` before is still there then.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    # SimpleITK chooses the format by the extension.
    temporary = temporary.with_name(temporary.name + (extension_of(path) or path.suffix))
    try:
        with explained("write", path), _quiet_itk():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
        replace_atomically(temporary, path)
    except RuntimeError as error:
        raise SemiSupSegError(
            f"Can't write '{path}': {_reason(error)}.",
            "Save it as .nrrd, in a folder that you may write to.",
            code=ErrorCode.NOT_WRITABLE,
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


EXTENSIONS = (
    ".seg.nrrd", ".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".hdr", ".gipl.gz", ".gipl", ".mgz", ".vtk",
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".dcm",
)  # fmt: skip
"""Extensions of image files, compound ones first."""


def extension_of(path: Path | str) -> str:
    """Extension of an image file as it is written, ``.seg.nrrd`` and ``.nii.gz`` whole; empty for other files."""
    name = Path(path).name
    for extension in EXTENSIONS:
        if name.lower().endswith(extension) and len(name) > len(extension):
            return name[-len(extension) :]
    return ""


def check_image(volume: Volume, name: str) -> None:
    """Raise `VolumeError` (``BAD_IMAGE``) if nothing can be learned from an image.

    Parameters
    ----------
    volume : Volume
    name : str
        What the message calls it: the case, or the file.
    """
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        broken = int(np.count_nonzero(~np.isfinite(volume.array)))
        raise VolumeError(
            f"The image of '{name}' has {broken} voxels that aren't numbers (NaN or infinite).",
            "Replace them, for example by the lowest value of the image, and save it again.",
        )
    if lowest == highest:
        raise VolumeError(
            f"The image of '{name}' is constant: every voxel is {lowest:g}.",
            "Export the scan again, or take the case out of the cohort.",
        )


def _read_header(path: Path) -> sitk.ImageFileReader:
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
    with _itk_errors(path):
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


def _check_gzip_end(path: Path, header: sitk.ImageFileReader) -> None:
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


def _geometry_of(header: sitk.ImageFileReader, path: Path) -> Geometry:
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
    return _shear(np.array(rows, dtype=float))


def _shear(matrix: np.ndarray) -> float:
    """Largest cosine between two columns."""
    lengths = np.linalg.norm(matrix, axis=0)
    if not lengths.all():
        return 0.0
    cosines = (matrix / lengths).T @ (matrix / lengths)
    return float(np.abs(cosines - np.diag(np.diag(cosines))).max())


@contextlib.contextmanager
def _quiet_itk() -> Iterator[None]:
    """Keep ITK's C++ warnings off stderr, for as long as it takes only: inside Slicer the switch is everybody's."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextlib.contextmanager
def _itk_errors(path: Path) -> Iterator[None]:
    """Turn what ITK throws into one sentence about `path`."""
    try:
        with _quiet_itk():
            yield
    except MemoryError as error:
        raise VolumeError(
            f"There isn't enough memory to read '{path}'.",
            "Close other programs, or crop the volume.",
            code=ErrorCode.OUT_OF_MEMORY,
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        if "rthonormal" in str(error) or "spacing" in str(error).lower():
            raise VolumeError(
                f"The geometry in the header of '{path}' is impossible: {_reason(error)}.",
                "Load it in Slicer, correct its spacing and orientation and save it as .nrrd.",
                code=ErrorCode.BAD_GEOMETRY,
            ) from error
        raise VolumeError(
            f"'{path}' can't be read as an image: {_reason(error)}.",
            "Check that it is complete and an image; NRRD, MHA and NIfTI are read.",
            code=ErrorCode.UNREADABLE_FILE,
        ) from error


def _reason(error: BaseException) -> str:
    """The telling line of an exception, without ITK's source positions, function names and addresses."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # The innermost cause is last, but for MetaIO's "Reason", which is a stale errno.
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
    text = lines[-1] if lines else type(error).__name__
    text = re.sub(r"^(\[nrrd\] \w+:|(sitk::|itk::|ITK )ERROR:( \w+\(0x[0-9a-f]+\):)?)\s*", "", text)
    if text.startswith("Unable to determine ImageIO reader"):
        return "its format is unknown, or its first bytes are damaged"
    return text.rstrip(". :!")[:200]


def _several_values(path: Path, n_values: int) -> VolumeError:
    return VolumeError(
        f"'{path}' holds {n_values} values a voxel (a color or vector image); a scan has one.",
        "Save one channel as a grayscale volume.",
    )


def _bytes_of(pixel_id: int) -> int:
    name = sitk.GetPixelIDValueAsString(pixel_id).lower()
    bits = next((bits for bits in (64, 32, 16) if f"{bits}-bit" in name), 8)
    return bits // 8 * (2 if "complex" in name else 1)


def _fields_of(header: sitk.ImageFileReader) -> dict[str, str]:
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
