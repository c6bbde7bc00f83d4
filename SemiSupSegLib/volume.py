"""Volumes with their full geometry: read, written and brought from one grid onto another by physical coordinates."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import itertools
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import ErrorCode, SemiSupSegError, VolumeError
from .files import explained, replace_atomically, temporary_beside
from .labels import IGNORE
from .nrrd_file import write_nrrd

# Voxel centres that lie on a face between two voxels, give or take rounding, belong to the upper one.
_ON_FACE = 1e-6

# Deflate can't shrink anything more than this (zlib's own documentation says 1032).
_BEST_COMPRESSION = 1040


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume are in the patient.

    Parameters
    ----------
    size : tuple of int
        Number of voxels along i, j, k.
    spacing : tuple of float
        Millimetres between voxel centres along i, j, k; positive.
    origin : tuple of float
        Physical coordinates (LPS, mm) of the centre of voxel (0, 0, 0).
    direction : tuple of float
        3x3 matrix, row by row; column *a* is the direction of axis *a*. Any invertible matrix, sheared ones included.

    Examples
    --------
    >>> Geometry(size=(64, 64, 32), spacing=(1.0, 1.0, 2.0)).with_spacing((2.0, 2.0, 2.0)).size
    (32, 32, 32)
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self):
        for name, kind, length in (
            ("size", int, 3),
            ("spacing", float, 3),
            ("origin", float, 3),
            ("direction", float, 9),
        ):
            given = getattr(self, name)
            try:
                values = tuple(kind(value) for value in given)
            except (TypeError, ValueError, OverflowError) as error:
                raise _bad_geometry(f"The {name} of a volume is {given}, which isn't {length} numbers.") from error
            if len(values) != length or not all(math.isfinite(value) for value in values):
                raise _bad_geometry(f"The {name} of a volume is {values}, which isn't {length} finite numbers.")
            object.__setattr__(self, name, values)
        if min(self.size) < 1:
            raise _bad_geometry(f"A volume has the size {self.size}: it holds no voxels.")
        if min(self.spacing) <= 0:
            raise _bad_geometry(f"A volume has the spacing {self.spacing} mm, which isn't positive.")
        if abs(np.linalg.det(np.reshape(self.direction, (3, 3)))) < 1e-6:
            raise _bad_geometry(f"The axes of a volume, {self.direction}, lie in one plane.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (k, j, i) of the array that holds the voxels."""
        return self.size[::-1]

    @cached_property
    def index_to_physical(self) -> np.ndarray:
        """4x4 matrix from voxel indices (i, j, k, 1) to physical coordinates (LPS, mm)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        matrix[:3, 3] = self.origin
        matrix.flags.writeable = False
        return matrix

    @cached_property
    def physical_to_index(self) -> np.ndarray:
        """4x4 matrix from physical coordinates (LPS, mm) to continuous voxel indices (i, j, k, 1)."""
        matrix = np.linalg.inv(self.index_to_physical)
        matrix.flags.writeable = False
        return matrix

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.index_to_physical[:3, :3])))

    def index_map(self, other: Geometry) -> np.ndarray:
        """4x4 matrix from continuous indices (i, j, k, 1) of this grid to those of `other`."""
        return other.physical_to_index @ self.index_to_physical

    def same_grid(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Whether both have the same voxels: no corner is more than `tolerance` voxels away from the other's."""
        if self.size != other.size:
            return False
        corners = _corners(self.size)
        return bool(np.abs(_mapped(self.index_map(other), corners) - corners).max() <= tolerance)

    def overlaps(self, other: Geometry) -> bool:
        """Whether the voxels of both share any space (bounding boxes in the index space of either are compared)."""
        for first, second in ((self, other), (other, self)):
            corners = _mapped(second.index_map(first), _corners(second.size, half_voxel=0.5))
            if (corners.max(0) <= -0.5).any() or (corners.min(0) >= np.subtract(first.size, 0.5)).any():
                return False
        return True

    def with_spacing(self, spacing: Sequence[float] | float) -> Geometry:
        """The grid that covers the same space with another spacing (i, j, k) in mm.

        The outer corner of the first voxel stays; sizes are rounded up, so that nothing is cut off.
        """
        wanted = np.broadcast_to(np.asarray(spacing, dtype=float), 3)
        old = np.asarray(self.spacing)
        if not (np.isfinite(wanted).all() and (wanted > 0).all()):
            raise _bad_geometry(f"The spacing {spacing} mm isn't three positive numbers.")
        size = np.maximum(np.ceil(np.asarray(self.size) * old / wanted - 1e-6), 1)
        first_centre = _mapped(self.index_to_physical, (0.5 * wanted / old - 0.5)[None])[0]
        same = tuple(wanted) == self.spacing
        return replace(self, size=size, spacing=wanted, origin=self.origin if same else first_centre)

    def cropped(self, start: Sequence[int], size: Sequence[int]) -> Geometry:
        """The grid of a box of voxels: `start` and `size` along i, j, k. The box may reach beyond the volume."""
        return replace(self, size=size, origin=_mapped(self.index_to_physical, np.asarray([start], dtype=float))[0])

    def to_json(self) -> dict[str, Any]:
        """The geometry as it stands in a JSON file; numbers come back bit for bit."""
        return {name: list(getattr(self, name)) for name in ("size", "spacing", "origin", "direction")}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Geometry:
        """The geometry read back; raises `VolumeError` where the text isn't one."""
        try:
            return cls(**{name: body[name] for name in ("size", "spacing", "origin", "direction")})
        except (KeyError, TypeError) as error:
            raise _bad_geometry("A geometry lacks its size, spacing, origin or direction.") from error


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they are.

    Parameters
    ----------
    array : numpy.ndarray, shape (k, j, i)
    geometry : Geometry
    """

    array: np.ndarray
    geometry: Geometry

    def __post_init__(self):
        if self.array.shape != self.geometry.shape:
            raise _bad_geometry(
                f"An array of shape {self.array.shape} (k, j, i) doesn't fit a grid of {self.geometry.size} (i, j, k)."
            )


# ---------------------------------------------------------------------------------------------------------------------
# Files


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
    return {key: _utf8(header.GetMetaData(key)) for key in header.GetMetaDataKeys()}


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
    return array, geometry, {key: _utf8(header.GetMetaData(key)) for key in header.GetMetaDataKeys()}


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


# ---------------------------------------------------------------------------------------------------------------------
# From one grid onto another


def resample_image(volume: Volume, geometry: Geometry) -> Volume:
    """Bring an image onto another grid, by physical coordinates.

    Linear interpolation. Along axes that become coarser the image is smoothed first, so that the profile of a target
    voxel has the width of a target voxel (Gaussian, full width at half maximum; Cardoso et al. 2015). Beyond the edge
    the image goes on with its outermost values.

    Parameters
    ----------
    volume : Volume
    geometry : Geometry
        The grid wanted.

    Returns
    -------
    Volume
        float32. On the same grid the values are unchanged.

    References
    ----------
    Cardoso et al., "Scale factor point spread function matching: beyond aliasing in image resampling", MICCAI 2015.
    """
    array = np.asarray(volume.array, dtype=np.float32)
    if volume.geometry.same_grid(geometry):
        return Volume(array, geometry)
    steps = np.abs(geometry.index_map(volume.geometry)[:3, :3]).max(axis=1)
    half_width = 2 * math.sqrt(2 * math.log(2))
    sigmas = [math.sqrt(step * step - 1) / half_width if step > 1 + 1e-3 else 0.0 for step in steps]
    if any(sigmas):
        array = ndimage.gaussian_filter(array, sigmas[::-1], mode="nearest", truncate=3.0)
    return Volume(_interpolated(array, volume.geometry, geometry), geometry)


def resample_probabilities(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Bring a network's probabilities onto another grid: linear, channel by channel.

    Parameters
    ----------
    array : numpy.ndarray of float32, shape (C, k, j, i)
    source : Geometry
        The grid of `array`.
    target : Geometry
        The grid wanted. Beyond the edge of `source` its outermost values go on: there is no border of zeros.

    Returns
    -------
    numpy.ndarray of float32, shape (C, k, j, i)
        Sums over the channels are kept. On the same grid: `array` itself.
    """
    if array.ndim != 4 or array.shape[1:] != source.shape:
        raise _bad_geometry(f"Probabilities of shape {array.shape} don't fit a grid of shape {source.shape}.")
    array = np.asarray(array, dtype=np.float32)
    if source.same_grid(target):
        return array
    result = np.empty((len(array), *target.shape), dtype=np.float32)
    for channel, values in enumerate(array):
        result[channel] = _interpolated(values, source, target)
    return result


def resample_labels(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Bring class indices onto another grid without losing thin strokes.

    Nearest-neighbour resampling asks for every target voxel "which source voxel is at your centre?" and so loses nearly
    all of a thin scribble. Here every annotated source voxel votes for the target voxel that contains its centre:

    - the class with most votes wins, however many voxels around it aren't annotated;
    - where the best classes have equally many votes, the target voxel is not annotated;
    - a target voxel that contains the centre of no source voxel, because its grid is finer, takes the class of the
      source voxel that contains *its* centre.

    Parameters
    ----------
    labels : numpy.ndarray of uint8, shape (k, j, i)
        Class indices; 255 (`IGNORE`) is "not annotated".
    source, target : Geometry
        Grid of `labels` and the grid wanted; any orientation.

    Returns
    -------
    numpy.ndarray of uint8, shape (k, j, i)
        255 where nothing was annotated, contradictory, or outside `source`.
    """
    labels = np.asarray(labels)
    if labels.shape != source.shape or labels.dtype != np.uint8:
        raise _bad_geometry(
            f"Labels of shape {labels.shape}, {labels.dtype}, don't fit a uint8 grid of {source.shape}."
        )
    if source.same_grid(target):
        return labels.copy()
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORE])
    if not len(present):
        return np.full(target.shape, IGNORE, dtype=np.uint8)
    pairs = _axis_pairs(source, target)
    if pairs is not None:
        return _splat_aligned(labels, present, pairs, target)
    return _splat_oblique(labels, present, source, target)


def _interpolated(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Linear interpolation of float32 (k, j, i), clamped at the edges."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(target.size)
    resampler.SetOutputSpacing(target.spacing)
    resampler.SetOutputOrigin(target.origin)
    resampler.SetOutputDirection(target.direction)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.UseNearestNeighborExtrapolatorOn()
    return sitk.GetArrayFromImage(resampler.Execute(to_simpleitk(Volume(array, source))))


@dataclass(frozen=True)
class _AxisPairs:
    """Which voxels along one target axis meet which along the source axis that runs along it, sorted by target."""

    source_axis: int  # of the array (k, j, i)
    sources: np.ndarray
    targets: np.ndarray


def _axis_pairs(source: Geometry, target: Geometry) -> list[_AxisPairs] | None:
    """The pairs of each target axis in array order (k, j, i); None where the axes of the grids aren't parallel."""
    forward = source.index_map(target)
    matrix = forward[:3, :3]
    source_axes = np.abs(matrix).argmax(axis=1)
    # Parallel: whatever else an axis contributes stays below a thousandth of a voxel over the whole grid.
    rest = np.abs(matrix) * source.size
    rest[np.arange(3), source_axes] = 0
    if len(set(source_axes)) < 3 or rest.sum(axis=1).max() > 1e-3:
        return None
    pairs = []
    for axis in (2, 1, 0):
        along = int(source_axes[axis])
        scale, offset = matrix[axis, along], forward[axis, 3]
        sources = np.arange(source.size[along])
        targets = np.floor(sources * scale + offset + 0.5 + _ON_FACE).astype(np.int64)
        # Where the target is finer, its voxels between the hit ones ask back.
        missed = np.setdiff1d(np.arange(target.size[axis]), targets)
        asked = np.floor((missed - offset) / scale + 0.5 + _ON_FACE).astype(np.int64)
        sources, targets = np.concatenate([sources, asked]), np.concatenate([targets, missed])
        inside = (targets >= 0) & (targets < target.size[axis]) & (sources >= 0) & (sources < source.size[along])
        sources, targets = sources[inside], targets[inside]
        order = np.argsort(targets, kind="stable")
        pairs.append(_AxisPairs(2 - along, sources[order], targets[order]))
    return pairs


def _splat_aligned(labels: np.ndarray, present: np.ndarray, pairs: list[_AxisPairs], target: Geometry) -> np.ndarray:
    """`resample_labels` for parallel axes: slab by slab of target slices, so that memory stays small."""
    slices, rows, columns = pairs
    labels = labels.transpose([each.source_axis for each in pairs])
    result = np.full(target.shape, IGNORE, dtype=np.uint8)
    if all((np.diff(each.targets) > 0).all() for each in pairs):
        # No target voxel gets two votes: nothing becomes coarser.
        chosen = labels[slices.sources][:, rows.sources][:, :, columns.sources]
        result[np.ix_(slices.targets, rows.targets, columns.targets)] = chosen
        return result
    codes = _codes(present)
    plane = target.shape[1] * target.shape[2]
    in_plane = rows.targets[:, None] * target.shape[2] + columns.targets[None, :]
    # At most some 2**23 counters (64 MB) and votes at a time.
    votes_a_slice = max(1, in_plane.size * len(slices.sources) // target.shape[0])
    thickness = max(1, 2**23 // max(plane * (len(present) + 1), votes_a_slice))
    for start in range(0, target.shape[0], thickness):
        stop = min(start + thickness, target.shape[0])
        chosen = slice(*np.searchsorted(slices.targets, (start, stop)))
        votes = labels[slices.sources[chosen]]
        n_annotated = np.count_nonzero(votes != IGNORE)
        if not n_annotated:
            continue
        votes = votes[:, rows.sources][:, :, columns.sources]
        in_slab = (slices.targets[chosen] - start) * plane
        if n_annotated < 0.1 * votes.size:
            k, j, i = np.nonzero(votes != IGNORE)
            voxels, votes = in_slab[k] + in_plane[j, i], votes[k, j, i]
        else:
            voxels = in_slab[:, None, None] + in_plane
        winners = _winners(voxels.ravel(), codes[votes.ravel()], (stop - start) * plane, present)
        result[start:stop] = winners.reshape(stop - start, *target.shape[1:])
    return result


def _splat_oblique(labels: np.ndarray, present: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """`resample_labels` for grids at any angle to each other."""
    codes = _codes(present)
    n_voxels = math.prod(target.shape)
    hit = np.zeros(n_voxels, dtype=bool)
    tallies = []
    for k in range(source.shape[0]):
        inside, voxels = _containing(_slice_indices(source, k), source.index_map(target), target)
        hit[voxels] = True
        classes = labels[k].ravel()[inside]
        annotated = classes != IGNORE
        tallies.append(np.unique(voxels[annotated] * 256 + codes[classes[annotated]], return_counts=True))
    keys, votes = (np.concatenate(column) for column in zip(*tallies, strict=True))
    result = np.full(n_voxels, IGNORE, dtype=np.uint8)
    voted, positions = np.unique(keys // 256, return_inverse=True)
    result[voted] = _winners(positions, keys % 256, len(voted), present, votes)
    hit = hit.reshape(target.shape)
    result = result.reshape(target.shape)
    for k in range(target.shape[0]):
        missed = np.flatnonzero(~hit[k])
        if len(missed):
            inside, voxels = _containing(_slice_indices(target, k)[missed], target.index_map(source), source)
            result[k].flat[missed[inside]] = labels.ravel()[voxels]
    return result


def _codes(present: np.ndarray) -> np.ndarray:
    """Table from class index to its position in `present`; what isn't annotated goes behind."""
    codes = np.full(256, len(present), dtype=np.int64)
    codes[present] = np.arange(len(present))
    return codes


def _winners(
    voxels: np.ndarray, codes: np.ndarray, n_voxels: int, present: np.ndarray, votes: np.ndarray | None = None
) -> np.ndarray:
    """Class with most votes for each of `n_voxels` voxels; 255 without votes and where two are equal."""
    n_codes = len(present) + 1
    counts = np.bincount(codes * n_voxels + voxels, weights=votes, minlength=n_codes * n_voxels)
    counts = counts.reshape(n_codes, n_voxels)[:-1]
    most = counts.max(axis=0)
    clear = (most > 0) & ((counts == most).sum(axis=0, dtype=np.uint8) == 1)
    return np.where(clear, present[counts.argmax(axis=0)], IGNORE).astype(np.uint8)


def _containing(indices: np.ndarray, index_map: np.ndarray, grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Flat voxel of `grid` that contains each point: (which points are inside, their voxels)."""
    found = np.floor(_mapped(index_map, indices) + 0.5 + _ON_FACE).astype(np.int64)
    inside = np.flatnonzero(((found >= 0) & (found < grid.size)).all(axis=1))
    i, j, k = found[inside].T
    return inside, (k * grid.size[1] + j) * grid.size[0] + i


def _slice_indices(grid: Geometry, k: int) -> np.ndarray:
    """Indices (n, 3) in order i, j, k of all voxels of slice `k`, as the array holds them."""
    j, i = np.indices(grid.shape[1:]).reshape(2, -1)
    return np.stack([i, j, np.full_like(i, k)], axis=1).astype(float)


def _mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, 3) through a 4x4 matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _corners(size: Sequence[int], half_voxel: float = 0.0) -> np.ndarray:
    """Indices (8, 3) of the corner voxels, or of the grid's outer corners with `half_voxel=0.5`."""
    return np.array(list(itertools.product(*((-half_voxel, n - 1 + half_voxel) for n in size))))


# ---------------------------------------------------------------------------------------------------------------------
# SimpleITK


def to_simpleitk(volume: Volume) -> sitk.Image:
    """The volume as a SimpleITK image."""
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction)
    return image


def from_simpleitk(image: sitk.Image) -> Volume:
    """A SimpleITK image (3D, scalar) as a volume; the voxels are copied."""
    geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Volume(sitk.GetArrayFromImage(image), geometry)


def _read_header(path: Path) -> sitk.ImageFileReader:
    """Header of a file that promises no more than the machine, and the file itself, can hold."""
    if path.is_dir():
        raise VolumeError(
            f"'{path}' is a folder, not an image file.",
            "Give one file; a DICOM series has to be saved as one .nrrd file first.",
            code=ErrorCode.UNREADABLE_FILE,
        )
    if not path.exists():
        raise VolumeError(
            f"'{path}' doesn't exist.", "Check the path, or where the file was moved.", code=ErrorCode.MISSING_FILE
        )
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    with _itk_errors(path):
        header.ReadImageInformation()
        n_bytes = _bytes_promised(header)
    _check_promise(path, n_bytes)
    return header


def _bytes_promised(header: sitk.ImageFileReader) -> int:
    return math.prod(header.GetSize()) * header.GetNumberOfComponents() * _bytes_of(header.GetPixelID())


def _check_promise(path: Path, n_bytes: int) -> None:
    """Refuse a header that promises more voxels than the file can contain or the memory can hold."""
    extension = extension_of(path).lower()
    has_own_voxels = extension in (".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha")
    most = path.stat().st_size * (1 if extension == ".nii" else _BEST_COMPRESSION)
    if has_own_voxels and n_bytes > most and not _is_detached(path, extension):
        raise VolumeError(
            f"'{path}' is damaged: its header promises {_amount(n_bytes)} of voxels, but the file has only "
            f"{_amount(path.stat().st_size)}.",
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
    wanted = int(float(header.GetMetaData("vox_offset") or 352)) + _bytes_promised(header)
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


def _is_detached(path: Path, extension: str) -> bool:
    """Whether an NRRD header points to its voxels in another file."""
    if not extension.endswith(".nrrd"):
        return False
    with path.open("rb") as stream:
        header = stream.read(1 << 20).split(b"\n\n", 1)[0].lower()
    return b"\ndata file:" in header or b"\ndatafile:" in header


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
        return Geometry((*size[:3], 1)[:3], (*spacing[:3], 1.0)[:3], (*origin[:3], 0.0)[:3], tuple(direction.ravel()))
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


def _bad_geometry(message: str) -> VolumeError:
    return VolumeError(message, "Check the header of the file, or export it again.", code=ErrorCode.BAD_GEOMETRY)


def _bytes_of(pixel_id: int) -> int:
    name = sitk.GetPixelIDValueAsString(pixel_id).lower()
    bits = next((bits for bits in (64, 32, 16) if f"{bits}-bit" in name), 8)
    return bits // 8 * (2 if "complex" in name else 1)


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
