"""Volumes in files, with their full geometry; what `geometry` and `resampling` do with them is offered here, too."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import ErrorCode, SemiSupSegError, VolumeError
from .files import explained, replace_atomically, temporary_beside
from .geometry import Geometry, Volume, from_simpleitk, to_simpleitk
from .itk_errors import itk_errors, quiet_itk, reason_of
from .nrrd_file import write_nrrd
from .resampling import resample_image, resample_labels, resample_probabilities
from .volume_header import EXTENSIONS, check_gzip_end, extension_of, fields_of, geometry_of, read_header, shear_of

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
    header = read_header(path)
    geometry = geometry_of(header, path)
    if header.GetNumberOfComponents() != 1:
        raise _several_values(path, header.GetNumberOfComponents())
    return geometry


def read_fields(path: Path | str) -> dict[str, str]:
    """The key/value pairs of a file's header (NRRD fields, NIfTI header entries)."""
    header = read_header(Path(path))
    return fields_of(header)


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
    header = read_header(path)
    geometry = geometry_of(header, path)
    check_gzip_end(path, header)
    with itk_errors(path):
        image = sitk.ReadImage(str(path))
    components = image.GetNumberOfComponentsPerPixel()
    array = sitk.GetArrayFromImage(image)
    if np.iscomplexobj(array):
        raise VolumeError(
            f"'{path}' holds complex numbers.", "Save the magnitude (or the phase) as a volume of its own."
        )
    array = array.reshape((*geometry.shape, components))
    array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array, geometry, fields_of(header)


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
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    if is_nifti and shear_of(np.reshape(volume.geometry.direction, (3, 3))) > 1e-5:
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
        with explained("write", path), quiet_itk():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
        replace_atomically(temporary, path)
    except RuntimeError as error:
        raise SemiSupSegError(
            f"Can't write '{path}': {reason_of(error)}.",
            "Save it as .nrrd, in a folder that you may write to.",
            code=ErrorCode.NOT_WRITABLE,
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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


def _several_values(path: Path, n_values: int) -> VolumeError:
    return VolumeError(
        f"'{path}' holds {n_values} values a voxel (a color or vector image); a scan has one.",
        "Save one channel as a grayscale volume.",
    )
