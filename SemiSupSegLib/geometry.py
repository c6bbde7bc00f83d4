"""Where voxels are: the grid of a volume, with every direction that there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import ErrorCode, VolumeError


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
                raise bad_geometry(f"The {name} of a volume is {given}, which isn't {length} numbers.") from error
            if len(values) != length or not all(math.isfinite(value) for value in values):
                raise bad_geometry(f"The {name} of a volume is {values}, which isn't {length} finite numbers.")
            object.__setattr__(self, name, values)
        if min(self.size) < 1:
            raise bad_geometry(f"A volume has the size {self.size}: it holds no voxels.")
        if min(self.spacing) <= 0:
            raise bad_geometry(f"A volume has the spacing {self.spacing} mm, which isn't positive.")
        if abs(np.linalg.det(np.reshape(self.direction, (3, 3)))) < 1e-6:
            raise bad_geometry(f"The axes of a volume, {self.direction}, lie in one plane.")

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
        return bool(np.abs(mapped(self.index_map(other), corners) - corners).max() <= tolerance)

    def overlaps(self, other: Geometry) -> bool:
        """Whether the voxels of both share any space (bounding boxes in the index space of either are compared)."""
        for first, second in ((self, other), (other, self)):
            corners = mapped(second.index_map(first), _corners(second.size, half_voxel=0.5))
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
            raise bad_geometry(f"The spacing {spacing} mm isn't three positive numbers.")
        size = np.maximum(np.ceil(np.asarray(self.size) * old / wanted - 1e-6), 1)
        first_centre = mapped(self.index_to_physical, (0.5 * wanted / old - 0.5)[None])[0]
        same = tuple(wanted) == self.spacing
        return replace(self, size=size, spacing=wanted, origin=self.origin if same else first_centre)

    def cropped(self, start: Sequence[int], size: Sequence[int]) -> Geometry:
        """The grid of a box of voxels: `start` and `size` along i, j, k. The box may reach beyond the volume."""
        return replace(self, size=size, origin=mapped(self.index_to_physical, np.asarray([start], dtype=float))[0])

    def to_json(self) -> dict[str, Any]:
        """The geometry as it stands in a JSON file; numbers come back bit for bit."""
        return {name: list(getattr(self, name)) for name in ("size", "spacing", "origin", "direction")}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Geometry:
        """The geometry read back; raises `VolumeError` where the text isn't one."""
        try:
            return cls(**{name: body[name] for name in ("size", "spacing", "origin", "direction")})
        except (KeyError, TypeError) as error:
            raise bad_geometry("A geometry lacks its size, spacing, origin or direction.") from error


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
            raise bad_geometry(
                f"An array of shape {self.array.shape} (k, j, i) doesn't fit a grid of {self.geometry.size} (i, j, k)."
            )


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


def mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, 3) through a 4x4 matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _corners(size: Sequence[int], half_voxel: float = 0.0) -> np.ndarray:
    """Indices (8, 3) of the corner voxels, or of the grid's outer corners with `half_voxel=0.5`."""
    return np.array(list(itertools.product(*((-half_voxel, n - 1 + half_voxel) for n in size))))


def bad_geometry(message: str) -> VolumeError:
    return VolumeError(message, "Check the header of the file, or export it again.", code=ErrorCode.BAD_GEOMETRY)
