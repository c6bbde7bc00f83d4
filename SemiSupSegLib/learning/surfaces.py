"""Distances between the surfaces of two masks.

Arrays are ``(k, j, i)`` (or ``(j, i)``), spacing is ``(i, j, k)`` (or ``(i, j)``) in millimetres.
The border of a mask is what a 6-connected (in 2D 4-connected) erosion takes away; the edge of the
volume is outside. Distances run between the centers of border voxels, as in medpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..errors import ErrorCode, VolumeError

Box = tuple[slice, ...]


@dataclass(frozen=True)
class SurfaceDistances:
    """The three distance measures of one pair of masks, in millimetres or voxels.

    Attributes
    ----------
    hd95 : float
        95th percentile of both directed distance sets put together.
    asd : float
        Mean distance from the prediction's border to the truth's.
    assd : float
        Mean of both directed distance sets put together.
    """

    hd95: float
    asd: float
    assd: float

    @classmethod
    def between(
        cls,
        prediction: NDArray,
        truth: NDArray,
        spacing: Sequence[float] | None = None,
        *,
        volume_shape: tuple[int, ...] | None = None,
    ) -> SurfaceDistances:
        """All three at once, for the price of one.

        Parameters
        ----------
        prediction, truth : numpy.ndarray
            Masks ``(k, j, i)`` of one shape.
        spacing : sequence of float, optional
            ``(i, j, k)`` in millimetres; without, distances are in voxels.
        volume_shape : tuple of int, optional
            Shape of the volume that the masks were cut out of; theirs by default. Its diagonal is
            the distance of an empty prediction.

        Returns
        -------
        SurfaceDistances
            0 if both masks are empty, the diagonal if only the prediction is, NaN if only the truth is.

        Raises
        ------
        VolumeError
            If shapes or spacing don't fit.
        """
        prediction, truth = as_masks(prediction, truth)
        sampling = _sampling(spacing, truth.ndim)
        if not truth.any():
            return cls.unknown() if prediction.any() else cls(0.0, 0.0, 0.0)
        if not prediction.any():
            diagonal = float(np.linalg.norm(np.asarray(volume_shape or truth.shape) * sampling))
            return cls(diagonal, diagonal, diagonal)
        there, back = _border_distances(prediction, truth, sampling)
        both = np.concatenate((there, back))
        return cls(hd95=float(np.percentile(both, 95)), asd=float(there.mean()), assd=float(both.mean()))

    @classmethod
    def unknown(cls) -> SurfaceDistances:
        """NaN for all."""
        return cls(np.nan, np.nan, np.nan)


def surface_distances(
    prediction: NDArray, truth: NDArray, spacing: Sequence[float] | None = None
) -> tuple[NDArray, NDArray]:
    """Distance of every border voxel to the nearest one of the other mask.

    Parameters
    ----------
    prediction, truth : numpy.ndarray
        Masks ``(k, j, i)`` of one shape, neither empty.
    spacing : sequence of float, optional
        ``(i, j, k)`` in millimetres; without, distances are in voxels.

    Returns
    -------
    from_prediction, from_truth : numpy.ndarray
        Distances of the prediction's border voxels to the truth's border, and the reverse, each in
        array order.

    Raises
    ------
    VolumeError
        If shapes or spacing don't fit, or a mask is empty.
    """
    prediction, truth = as_masks(prediction, truth)
    sampling = _sampling(spacing, truth.ndim)
    if not (prediction.any() and truth.any()):
        raise VolumeError(
            "An empty mask has no surface.", "Leave out cases where the prediction or the truth is empty."
        )
    return _border_distances(prediction, truth, sampling)


def as_masks(prediction: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
    """Both as bool arrays, refused with a `VolumeError` if their shapes differ."""
    prediction, truth = (np.asarray(mask).astype(bool, copy=False) for mask in (prediction, truth))
    check_same_shape(prediction, truth)
    return prediction, truth


def check_same_shape(prediction: NDArray, truth: NDArray) -> None:
    """Raise a `VolumeError` if two arrays don't lie on one grid."""
    if prediction.shape != truth.shape or not prediction.ndim:
        raise VolumeError(
            f"The prediction has shape {prediction.shape}, the truth {truth.shape}.",
            "Resample both to one grid first.",
            code=ErrorCode.BAD_GEOMETRY,
        )


def _border_distances(prediction: NDArray, truth: NDArray, sampling: NDArray) -> tuple[NDArray, NDArray]:
    """Both directed sets of border distances.

    A border has so few voxels that a k-d tree of them finds the nearest ones sooner than a distance
    transform fills the box, three times for an organ of 70x60x80 voxels. Only where large borders
    are far apart it is slower.
    """
    box = _bounding_box(prediction | truth)
    points = [np.argwhere(_border(mask[box])) * sampling for mask in (prediction, truth)]
    trees = [cKDTree(each, balanced_tree=False, compact_nodes=False) for each in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]


def _border(mask: NDArray) -> NDArray:
    """What a 6-connected erosion takes away; beyond the array is background."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        kept[1:] &= along[:-1]
        kept[:-1] &= along[1:]
        kept[0] = kept[-1] = False
    return mask ^ inner


def _bounding_box(mask: NDArray) -> Box:
    """The smallest box that holds a mask that isn't empty."""
    box: Box = ()
    for axis in range(mask.ndim):
        others = tuple(each for each in range(mask.ndim) if each != axis)
        used = np.flatnonzero(mask.any(axis=others))
        box += (slice(int(used[0]), int(used[-1]) + 1),)
    return box


def _sampling(spacing: Sequence[float] | None, n_axes: int) -> NDArray:
    """Spacing in array order ``(k, j, i)``, 1 without."""
    if spacing is None:
        return np.ones(n_axes)
    sampling = np.asarray(spacing, dtype=np.float64)[::-1]
    if sampling.shape != (n_axes,) or not np.all(np.isfinite(sampling) & (sampling > 0)):
        raise VolumeError(
            f"The spacing is {tuple(spacing)}.",
            f"It must be {n_axes} positive numbers, in the order i, j, k.",
            code=ErrorCode.BAD_GEOMETRY,
        )
    return sampling
